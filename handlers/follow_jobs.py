"""What the end of a job, or of its attempt, means for its queue and its scan."""

from uuid import UUID

from bus.ledger import Transaction
from bus.reactions import Consumer, Reaction
from bus.timers import set_timer
from domain.job import Job, JobCancelled, JobFailed, JobReleased, JobReplaced, JobSubmitted, JobSucceeded, WakeJob
from domain.queue import FinishJob, RequeueJob
from domain.scan import AbortScan, Scan
from handlers.scan_orders import job_of

consumer = Consumer("follow-jobs")


async def _submitted(job_id: UUID, at: Reaction) -> JobSubmitted | None:
    job: Job = (await at.ledger.refresh("job", str(job_id))).state
    return job.submitted


@consumer.on(JobSucceeded, JobFailed, JobCancelled)
async def leave_the_queue(event: JobSucceeded | JobFailed | JobCancelled, at: Reaction) -> None:
    # Twice is harmless: a job that has left the queue leaves no trace to finish, and `dispatch` names the run.
    if isinstance(event, JobFailed) and not event.final:
        return
    submitted = await _submitted(event.job_id, at)
    if submitted is None:
        return
    outcome = {JobSucceeded: "succeeded", JobFailed: "failed", JobCancelled: "cancelled"}[type(event)]
    command = FinishJob.model_validate(
        {"queue_id": submitted.queue_id, "job_id": event.job_id, "outcome": outcome, "dispatch": event.dispatch}
    )
    await at.ledger.handle("queue", submitted.queue_id, command, at.meta)


@consumer.on(JobFailed, JobReleased)
async def wait_for_the_next_try(event: JobFailed | JobReleased, at: Reaction) -> None:
    # Twice is harmless: the dispatch that ended is named, and setting a timer again moves it to the same time.
    if isinstance(event, JobFailed) and event.final:
        return
    submitted = await _submitted(event.job_id, at)
    if submitted is None:
        return
    retry_at = event.retry_at if isinstance(event, JobFailed) else None
    command = RequeueJob(
        queue_id=submitted.queue_id,
        job_id=event.job_id,
        job_kind=submitted.job_kind,
        priority=submitted.priority,
        claims=submitted.claims,
        title=submitted.title,
        reason=event.error if isinstance(event, JobFailed) else event.reason,
        retry_at=retry_at,
        dispatch=event.dispatch,
    )
    await at.ledger.handle("queue", submitted.queue_id, command, at.meta)
    if retry_at is not None:
        timer = f"job-{event.job_id}-{event.attempt}"
        await set_timer(at.ledger.store.bus, timer, retry_at, WakeJob(job_id=event.job_id))


@consumer.on(JobCancelled, JobReplaced)
async def abort_its_scan(event: JobCancelled | JobReplaced, at: Reaction) -> None:
    # Twice is harmless: a scan that is over, or being aborted, is left alone.
    submitted = await _submitted(event.job_id, at)
    if submitted is None or submitted.job_kind != "scan":
        return
    scan_id = UUID(str(submitted.spec["scan_id"]))
    reason = event.reason if isinstance(event, JobCancelled) else f"replaced by job {event.new_job_id}"

    async def abort(tx: Transaction) -> None:
        scan: Scan = await tx.state("scan", str(scan_id), fresh=True)
        # Restarted since, it runs under another job.
        if not scan.over and job_of(scan_id, scan.queued_attempt) == event.job_id:
            await tx.decide("scan", str(scan_id), AbortScan(scan_id=scan_id, reason=reason))

    await at.ledger.transact(abort, at.meta, lock=("scan", str(scan_id)))
