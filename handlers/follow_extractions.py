"""What the end of a job means for the extraction or the fit that it was for, where no worker said so itself."""

from typing import Any
from uuid import UUID

from bus.ledger import Transaction
from bus.reactions import Consumer, Reaction
from domain.extraction import CancelExtraction, FailExtraction
from domain.job import Job, JobCancelled, JobFailed, JobReplaced
from domain.spice_model import CancelFit, FailFit
from handlers.request_extraction import EXTRACTION, SPICE_FIT

consumer = Consumer("follow-extractions")


@consumer.on(JobCancelled, JobReplaced, JobFailed)
async def end_with_its_job(event: JobCancelled | JobReplaced | JobFailed, at: Reaction) -> None:
    # Twice is harmless: what has ended stays so, and a job that was retried since is not what it was.
    if isinstance(event, JobFailed) and not event.final:
        return
    job: Job = (await at.ledger.refresh("job", str(event.job_id))).state
    if job.submitted is None or job.submitted.job_kind not in (EXTRACTION, SPICE_FIT):
        return
    spec = job.submitted.spec

    async def end(tx: Transaction) -> None:
        now: Job = await tx.state("job", str(event.job_id), fresh=True)
        if now.state not in ("cancelled", "failed") or now.attempt != job.attempt:
            return
        kind, id_, command = _ending(event, now, spec)
        await tx.decide(kind, id_, command)

    await at.ledger.transact(end, at.meta, lock=("job", str(event.job_id)))


def _ending(event: JobCancelled | JobReplaced | JobFailed, job: Job, spec: dict[str, Any]) -> tuple[str, str, Any]:
    reason = job.reason[:2000]
    if "extraction_id" in spec:
        extraction_id = UUID(str(spec["extraction_id"]))
        if isinstance(event, JobFailed):
            kind = "worker_died" if event.kind == "worker_died" else "other"
            failed = FailExtraction(extraction_id=extraction_id, attempt=event.attempt, error=reason, kind=kind)
            return "extraction", str(extraction_id), failed
        return "extraction", str(extraction_id), CancelExtraction(extraction_id=extraction_id, reason=reason)
    model_id, fit_id = str(spec["spice_model_id"]), UUID(str(spec["fit_id"]))
    if isinstance(event, JobFailed):
        failed = FailFit(spice_model_id=model_id, fit_id=fit_id, attempt=event.attempt, error=reason)
        return "spice_model", model_id, failed
    return "spice_model", model_id, CancelFit(spice_model_id=model_id, fit_id=fit_id, reason=reason)
