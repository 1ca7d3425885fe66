"""The end of a job's attempt: out of the queue, or back into it when its time has come."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from bus.ids import uuid7
from bus.ledger import Transaction
from domain.job import FailJob, ReleaseJob, StartJob, SubmitJob, SucceedJob
from domain.queue import AddJob
from tests.integration.bus.place import meta, until
from tests.integration.handlers.lab import Lab
from tests.integration.handlers.test_scan_orders import idle


async def submitted(lab: Lab, backoff_s: float = 1.0) -> UUID:
    ledger = await lab.place.ledger("commands")
    job_id = UUID(uuid7())

    async def submit(tx: Transaction) -> None:
        job = SubmitJob(job_id=job_id, queue_id="main", job_kind="delivery", spec={}, backoff_s=backoff_s)
        await tx.decide("job", str(job_id), job)
        await tx.decide("queue", "main", AddJob(queue_id="main", job_id=job_id, job_kind="delivery"))

    await ledger.transact(submit, meta(f"submit-{job_id}"))
    return job_id


async def dispatches(lab: Lab, job_id: UUID) -> int:
    stored = await lab.reader.store.history("queue", "main")
    return sum(1 for e in stored if e.type == "queue.job_dispatched.v1" and str(job_id).encode() in e.data)


async def act(lab: Lab, job_id: UUID, command: object, key: str) -> None:
    ledger = await lab.place.ledger("station")
    await ledger.handle("job", str(job_id), command, meta(f"{key}-{job_id}"))  # type: ignore[arg-type]


async def test_a_transient_failure_comes_back_by_its_timer_and_success_leaves_the_queue(lab: Lab) -> None:
    job_id = await submitted(lab)
    await act(lab, job_id, StartJob(job_id=job_id, worker="w", dispatch=1), "s1")
    failed_at = datetime.now(UTC)
    await act(lab, job_id, FailJob(job_id=job_id, attempt=1, error="e", kind="transient", at=failed_at), "f1")

    async def again() -> bool:
        return await dispatches(lab, job_id) == 2

    await until(again)
    assert datetime.now(UTC) >= failed_at + timedelta(seconds=1)
    assert not await idle(lab)
    await act(lab, job_id, StartJob(job_id=job_id, worker="w", dispatch=2), "s2")
    await act(lab, job_id, SucceedJob(job_id=job_id, attempt=2), "ok")
    await until(lambda: idle(lab))
    assert await lab.job(job_id) == "succeeded"


async def test_a_released_job_is_dispatched_again_and_a_failed_one_is_not(lab: Lab) -> None:
    job_id = await submitted(lab)
    await act(lab, job_id, StartJob(job_id=job_id, worker="w", dispatch=1), "s1")
    await act(lab, job_id, ReleaseJob(job_id=job_id, attempt=1, reason="died"), "r1")

    async def again() -> bool:
        return await dispatches(lab, job_id) == 2

    await until(again)
    await act(lab, job_id, StartJob(job_id=job_id, worker="w", dispatch=2), "s2")
    now = datetime.now(UTC)
    await act(lab, job_id, FailJob(job_id=job_id, attempt=2, error="e", kind="permanent", at=now), "f2")
    await until(lambda: idle(lab))
    assert await lab.job(job_id) == "failed" and await dispatches(lab, job_id) == 2
