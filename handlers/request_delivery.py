"""Orders about deliveries: each begins, is retried and is called off together with its job, in one decision.

The job has the delivery's id, and waits in the target's own queue unless told otherwise: one target that is down keeps nothing
else waiting. A verification is a job of its own.
"""

from typing import Any

from bus.commands import handles
from bus.envelope import Meta
from bus.ledger import Ledger, Outcome, Transaction
from domain.artifact import Artifact
from domain.delivery import CancelDelivery, Delivery, PlaceDelivery, RequestDelivery, RetryDelivery, VerifyDelivery
from domain.errors import NotFound
from domain.job import CancelJob, Job, RetryJob, SubmitJob
from domain.queue import CreateQueue
from domain.target import Target, unknown
from handlers.enqueue import enqueue, requeue

DELIVERY, VERIFICATION = "delivery", "verification"

#: How often an attempt may start. Those that die with their worker count here, and are nobody's fault; what fails by itself is
#: parked long before (the target's retry policy).
ATTEMPTS = 1000


def queue_of(target_id: str) -> str:
    """Where deliveries to a target wait unless told otherwise."""
    return f"to-{target_id}"[:64]


async def _target(tx: Transaction, target_id: str) -> CreateQueue:
    """The queue that is made with the first delivery to a target. Raises `NotFound` for one that no worker knows."""
    target: Target = await tx.state("target", target_id, fresh=True)
    if target.opened is None:
        raise unknown(target_id)
    return CreateQueue(queue_id=queue_of(target_id), order="priority", max_concurrent=target.opened.concurrency)


async def place_delivery(tx: Transaction, request: RequestDelivery) -> None:
    """Decide that something is to be delivered, within a transaction."""
    queue = await _target(tx, request.target_id)
    size, media_type, file_name = 0, "", ""
    if request.artifact is not None:
        artifact: Artifact = await tx.state("artifact", request.artifact, fresh=True)
        if not artifact.size:
            raise NotFound(
                f"there is no artifact {request.artifact}; store the file and register it (artifact.register)"
            )
        size, media_type, file_name = artifact.size, artifact.media_type, artifact.file_name
    title = request.title or f"{file_name or request.key or 'delivery'} to {request.target_id}"[:200]
    place = PlaceDelivery(
        delivery_id=request.delivery_id,
        request=request.model_copy(update={"title": title}),
        queue_id=request.queue_id or queue.queue_id,
        size=size,
        media_type=media_type,
        file_name=file_name,
    )
    await tx.decide("delivery", str(request.delivery_id), place)
    spec: dict[str, Any] = {"delivery_id": str(request.delivery_id), "target_id": request.target_id}
    job = SubmitJob(
        job_id=request.delivery_id,
        queue_id=place.queue_id,
        job_kind=DELIVERY,
        spec=spec,
        priority=request.priority,
        claims=request.claims,
        max_attempts=ATTEMPTS,
        title=title,
    )
    await enqueue(tx, job, queue)


@handles(RequestDelivery)
async def request_delivery(command: RequestDelivery, ledger: Ledger, meta: Meta) -> Outcome:
    async def request(tx: Transaction) -> None:
        await place_delivery(tx, command)

    return await ledger.transact(request, meta, lock=("queue", command.queue_id or queue_of(command.target_id)))


@handles(RetryDelivery)
async def retry_delivery(command: RetryDelivery, ledger: Ledger, meta: Meta) -> Outcome:
    async def retry(tx: Transaction) -> None:
        await try_again(tx, command, "retried")

    return await ledger.transact(retry, meta, lock=("job", str(command.delivery_id)))


async def try_again(tx: Transaction, command: RetryDelivery, reason: str) -> None:
    """Decide that a parked or cancelled delivery is tried again, within a transaction."""
    job_id = str(command.delivery_id)
    if await tx.decide("delivery", job_id, command):
        await tx.decide("job", job_id, RetryJob(job_id=command.delivery_id))
        await requeue(tx, command.delivery_id, reason)


@handles(CancelDelivery)
async def cancel_delivery(command: CancelDelivery, ledger: Ledger, meta: Meta) -> Outcome:
    async def cancel(tx: Transaction) -> None:
        await call_off(tx, command)

    return await ledger.transact(cancel, meta, lock=("job", str(command.delivery_id)))


async def call_off(tx: Transaction, command: CancelDelivery) -> None:
    """Decide that a delivery is off, within a transaction. A parked one has no job that runs any more; it is only said to be off."""
    job_id = str(command.delivery_id)
    if await tx.decide("delivery", job_id, command):
        job: Job = await tx.state("job", job_id)
        if job.state in ("waiting", "retrying", "running"):
            await tx.decide("job", job_id, CancelJob(job_id=command.delivery_id, reason=command.reason))


@handles(VerifyDelivery)
async def verify_delivery(command: VerifyDelivery, ledger: Ledger, meta: Meta) -> Outcome:
    """Ask the target again, before the deliveries that wait for it."""

    async def verify(tx: Transaction) -> None:
        await tx.decide("delivery", str(command.delivery_id), command)
        delivery: Delivery = await tx.state("delivery", str(command.delivery_id))
        assert delivery.requested is not None
        target_id = delivery.requested.target_id
        queue = await _target(tx, target_id)
        spec: dict[str, Any] = {"delivery_id": str(command.delivery_id), "target_id": target_id}
        job = SubmitJob(
            job_id=command.verification_id,
            queue_id=queue.queue_id,
            job_kind=VERIFICATION,
            spec=spec,
            priority="high",
            max_attempts=3,
            title=f"verify {delivery.requested.title}"[:200],
        )
        await enqueue(tx, job, queue)

    return await ledger.transact(verify, meta, lock=("delivery", str(command.delivery_id)))
