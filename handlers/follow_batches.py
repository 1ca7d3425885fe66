"""Cancel the jobs of a batch that was cancelled."""

from contextlib import suppress

from bus.reactions import Consumer, Reaction
from domain.batch import BatchCancelled
from domain.errors import Refused
from domain.job import CancelJob

consumer = Consumer("follow-batches")


@consumer.on(BatchCancelled)
async def cancel_its_jobs(event: BatchCancelled, at: Reaction) -> None:
    # Twice is harmless: a cancelled job stays so. One that has ended says so by refusing, which keeps no other from it.
    reason = event.reason or "its batch was cancelled"
    for job_id in event.job_ids:
        with suppress(Refused):
            cancel = CancelJob(job_id=job_id, reason=reason)
            await at.ledger.handle("job", str(job_id), cancel, at.meta.step(str(job_id)))
