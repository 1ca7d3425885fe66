"""What an order to a queue means for its jobs: those taken out are cancelled, those that run are paused, resumed, aborted."""

from contextlib import suppress
from uuid import UUID

from bus.reactions import Consumer, Reaction
from domain.errors import Refused
from domain.events import Command
from domain.job import CancelJob, Job, ReplaceJob
from domain.queue import JobRef, JobRemoved, JobReplacedInQueue, QueueCleared, QueuePaused, QueueResumed, QueueStopping
from domain.scan import AbortScan, PauseScan, ResumeScan
from handlers.scan_orders import abort_scan

consumer = Consumer("follow-queues")


async def _tell(at: Reaction, kind: str, id_: UUID, command: Command) -> None:
    """Order, and take a no for an answer: the job or scan may have ended meanwhile, which is as good."""
    try:
        await at.ledger.handle(kind, str(id_), command, at.meta.step(f"{kind}.{id_}"))
    except Refused:
        return


async def _scan_id(at: Reaction, ref: JobRef) -> UUID | None:
    if ref.job_kind != "scan":
        return None
    job: Job = (await at.ledger.refresh("job", str(ref.job_id))).state
    return UUID(str(job.submitted.spec["scan_id"])) if job.submitted else None


@consumer.on(JobRemoved, QueueCleared)
async def cancel_what_was_taken_out(event: JobRemoved | QueueCleared, at: Reaction) -> None:
    # Twice is harmless: a cancelled job stays cancelled.
    ids = (event.job_id,) if isinstance(event, JobRemoved) else event.job_ids
    for job_id in ids:
        await _tell(at, "job", job_id, CancelJob(job_id=job_id, reason="taken out of its queue"))


@consumer.on(JobReplacedInQueue)
async def note_the_replacement(event: JobReplacedInQueue, at: Reaction) -> None:
    # Twice is harmless: the same replacement is noted once.
    await _tell(at, "job", event.job_id, ReplaceJob(job_id=event.job_id, new_job_id=event.new_job_id))


@consumer.on(QueuePaused)
async def pause_what_runs(event: QueuePaused, at: Reaction) -> None:
    # Twice is harmless: pausing a paused scan is refused, and that is an answer.
    if event.running_jobs != "pause":
        return
    for ref in event.running:
        scan_id = await _scan_id(at, ref)
        if scan_id is not None:
            await _tell(at, "scan", scan_id, PauseScan(scan_id=scan_id))


@consumer.on(QueueResumed)
async def resume_what_was_paused(event: QueueResumed, at: Reaction) -> None:
    # Twice is harmless: resuming a running scan is refused, and that is an answer.
    if event.resume_jobs:
        await _resume(event.running, at)


@consumer.on(QueueStopping)
async def stop_what_runs(event: QueueStopping, at: Reaction) -> None:
    # Twice is harmless: what is being aborted is not aborted again.
    if event.running_jobs == "abort":
        for ref in event.running:
            scan_id = await _scan_id(at, ref)
            if scan_id is not None:
                # Not started yet it ends at once, and its job must end with it.
                with suppress(Refused):
                    order = AbortScan(scan_id=scan_id, reason="its queue was aborted")
                    await abort_scan(order, at.ledger, at.meta.step(f"scan.{scan_id}"))
            else:
                cancel = CancelJob(job_id=ref.job_id, reason="its queue was aborted")
                await _tell(at, "job", ref.job_id, cancel)
    elif event.resume_jobs:
        await _resume(event.running, at)


async def _resume(running: tuple[JobRef, ...], at: Reaction) -> None:
    for ref in running:
        scan_id = await _scan_id(at, ref)
        if scan_id is not None:
            await _tell(at, "scan", scan_id, ResumeScan(scan_id=scan_id))
