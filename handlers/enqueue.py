"""Put a job into its queue: submitted, queued and in its batch by one decision; and back into it."""

from uuid import UUID

from bus.ledger import Transaction
from domain.batch import AddToBatch
from domain.job import Job, SubmitJob
from domain.queue import AddJob, CreateQueue, Queue, RequeueJob


async def enqueue(tx: Transaction, job: SubmitJob, new_queue: CreateQueue) -> None:
    """Submit a job, and put it into its batch and its queue. `new_queue` is made if that is its queue and there is none yet."""
    if job.batch_id is not None:
        await tx.decide("batch", str(job.batch_id), AddToBatch(batch_id=job.batch_id, job_id=job.job_id))
    submitted = await tx.decide("job", str(job.job_id), job)
    queue: Queue = await tx.state("queue", job.queue_id)
    if queue.state == "none" and job.queue_id == new_queue.queue_id:
        await tx.decide("queue", job.queue_id, new_queue)
    if submitted:  # else it is a repeat, and the job may have left the queue long ago
        add = AddJob(
            queue_id=job.queue_id,
            job_id=job.job_id,
            job_kind=job.job_kind,
            priority=job.priority,
            claims=job.claims,
            title=job.title,
        )
        await tx.decide("queue", job.queue_id, add)


async def requeue(tx: Transaction, job_id: UUID, reason: str) -> None:
    """Put a job that waits for its next attempt back into its queue."""
    job: Job = await tx.state("job", str(job_id))
    assert job.submitted is not None
    order = RequeueJob(
        queue_id=job.submitted.queue_id,
        job_id=job_id,
        job_kind=job.submitted.job_kind,
        priority=job.submitted.priority,
        claims=job.submitted.claims,
        title=job.submitted.title,
        reason=reason,
    )
    await tx.decide("queue", job.submitted.queue_id, order)
