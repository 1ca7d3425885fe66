"""Orders about scans and their jobs that touch several aggregates: one decision, stored as one atomic batch.

A scan, its job and its place in the queue begin together and never disagree. The job of a scan's first round has the
scan's id; each restart is a job of its own, whose id follows from scan and attempt.
"""

import uuid
from typing import Any
from uuid import UUID

from bus.commands import handles
from bus.envelope import Meta
from bus.ledger import Ledger, Outcome, Transaction
from domain import equipment
from domain.delivery import RetryDelivery
from domain.errors import NotFound, WrongState
from domain.job import CancelJob, Job, ReplaceJob, RetryJob, SubmitJob, WakeJob
from domain.plan import instruments
from domain.queue import AddJob, FinishJob, ReplaceJobInQueue
from domain.routing import must_take_files
from domain.scan import AbortScan, RequestScan, RestartScan, Scan, ScanAborted, ScanRestarted
from domain.target import Target, unknown
from handlers.enqueue import requeue
from handlers.request_delivery import DELIVERY, retry_delivery

#: A scan is continued after a crash within the same attempt of its job; a job that failed is restarted by a person.
SCAN_ATTEMPTS = 1


def job_of(scan_id: UUID, attempt: int, first_attempt: int = 1) -> UUID:
    """The id of the job that runs a scan from its n-th attempt on."""
    return scan_id if attempt == first_attempt else uuid.uuid5(scan_id, f"attempt {attempt}")


async def check_instruments(tx: Transaction, names: frozenset[str]) -> None:
    """Refuse what no station could run: instruments that nobody knows, or that are out of use."""
    for name in sorted(names):
        state = await tx.state("equipment", name, fresh=True)
        if state.status is None:
            raise NotFound(
                f"no instrument {name!r} is registered: start the station that has it, or correct the name in the plan"
            )
        reason = equipment.usable(state)
        if reason is not None:
            raise WrongState(f"instrument {name} cannot be used: {reason}")


@handles(RequestScan)
async def request_scan(command: RequestScan, ledger: Ledger, meta: Meta) -> Outcome:
    scan_id = str(command.scan_id)

    async def submit(tx: Transaction) -> None:
        await tx.decide("scan", scan_id, command)
        await check_instruments(tx, instruments(command.plan))
        if command.sample_id is not None and not (await tx.state("sample", command.sample_id, fresh=True)).registered:
            raise NotFound(f"there is no sample {command.sample_id}: register it first")
        for target_id in command.deliver or ():
            target: Target = await tx.state("target", target_id, fresh=True)
            if target.opened is None:
                raise unknown(target_id)
            must_take_files(target_id, target.opened)
        await enqueue(tx, command, command.scan_id)

    return await ledger.transact(submit, meta, lock=("queue", command.queue_id))


async def enqueue(tx: Transaction, order: RequestScan | ScanRestarted, job_id: UUID) -> None:
    """Submit the job of a scan and put it into its queue: at the end, or in the place of another that waits."""
    scan: Scan = await tx.state("scan", str(order.scan_id))
    entry: dict[str, Any] = {
        "queue_id": order.queue_id,
        "job_kind": "scan",
        "priority": order.priority,
        "claims": scan.instruments,
        "title": order.title,
    }
    spec: dict[str, Any] = {"scan_id": str(order.scan_id)}
    await tx.decide("job", str(job_id), SubmitJob(job_id=job_id, spec=spec, max_attempts=SCAN_ATTEMPTS, **entry))
    if isinstance(order, RequestScan) and order.replaces is not None:
        replace = ReplaceJobInQueue(job_id=order.replaces, new_job_id=job_id, **entry)
        await tx.decide("queue", order.queue_id, replace)
        await tx.decide("job", str(order.replaces), ReplaceJob(job_id=order.replaces, new_job_id=job_id))
    else:
        await tx.decide("queue", order.queue_id, AddJob(job_id=job_id, **entry))


@handles(ReplaceJobInQueue)
async def replace_job(command: ReplaceJobInQueue, ledger: Ledger, meta: Meta) -> Outcome:
    """A job of another kind takes the place: one that was submitted and waits for nothing but a queue."""

    async def replace(tx: Transaction) -> None:
        new: Job = await tx.state("job", str(command.new_job_id), fresh=True)
        if new.submitted is None or new.state not in ("waiting", "retrying"):
            raise NotFound(
                f"there is no waiting job {command.new_job_id} to take the place: request a new scan with `replaces`"
            )
        await tx.decide("queue", command.queue_id, command)

    return await ledger.transact(replace, meta, lock=("queue", command.queue_id))


@handles(AbortScan)
async def abort_scan(command: AbortScan, ledger: Ledger, meta: Meta) -> Outcome:
    """A scan that no station holds ends at once, and with it its job and its place in the queue."""

    async def abort(tx: Transaction) -> None:
        events = await tx.decide("scan", str(command.scan_id), command)
        if any(isinstance(event, ScanAborted) for event in events):
            await cancel_job_of(tx, command.scan_id, command.reason or "aborted")

    return await ledger.transact(abort, meta, lock=("scan", str(command.scan_id)))


async def cancel_job_of(tx: Transaction, scan_id: UUID, reason: str) -> None:
    """Take the job of a scan that was aborted out of its queue, unless it has ended already."""
    scan: Scan = await tx.state("scan", str(scan_id))
    job_id = job_of(scan_id, scan.queued_attempt)
    job: Job = await tx.state("job", str(job_id))
    if job.state in ("waiting", "retrying", "running"):
        await tx.decide("job", str(job_id), CancelJob(job_id=job_id, reason=reason))
        finish = FinishJob(queue_id=scan.queue_id, job_id=job_id, outcome="cancelled")
        await tx.decide("queue", scan.queue_id, finish)


@handles(RestartScan)
async def restart_scan(command: RestartScan, ledger: Ledger, meta: Meta) -> Outcome:
    async def restart(tx: Transaction) -> None:
        events = await tx.decide("scan", str(command.scan_id), command)
        for event in events:
            if isinstance(event, ScanRestarted):
                await check_instruments(tx, frozenset(event.instruments))
                job_id = job_of(event.scan_id, event.attempt)
                await enqueue(tx, event, job_id)

    return await ledger.transact(restart, meta, lock=("scan", str(command.scan_id)))


@handles(RetryJob)
async def retry_job(command: RetryJob, ledger: Ledger, meta: Meta) -> Outcome:
    """Run a failed or cancelled job again. A scan's job is retried by restarting the scan, a delivery's with the delivery."""
    job: Job = (await ledger.refresh("job", str(command.job_id))).state
    if job.submitted is not None and job.state in ("failed", "cancelled"):
        spec = job.submitted.spec
        if job.submitted.job_kind == "scan":
            return await restart_scan(RestartScan(scan_id=UUID(str(spec["scan_id"]))), ledger, meta)
        if job.submitted.job_kind == DELIVERY:
            return await retry_delivery(RetryDelivery(delivery_id=UUID(str(spec["delivery_id"]))), ledger, meta)

    async def again(tx: Transaction) -> None:
        if await tx.decide("job", str(command.job_id), command):
            await requeue(tx, command.job_id, "retried")

    return await ledger.transact(again, meta, lock=("job", str(command.job_id)))


@handles(WakeJob)
async def wake_job(command: WakeJob, ledger: Ledger, meta: Meta) -> Outcome:
    async def wake(tx: Transaction) -> None:
        job: Job = await tx.state("job", str(command.job_id))
        if job.submitted is None:
            raise NotFound(f"there is no job {command.job_id}")
        if job.state == "retrying":  # else the timer comes late, and there is nothing left to wake
            await requeue(tx, command.job_id, "its time has come")

    return await ledger.transact(wake, meta, lock=("job", str(command.job_id)))
