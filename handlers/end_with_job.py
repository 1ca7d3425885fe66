"""What the end of a job means for the extraction, fit or delivery that it was for, where no worker said so itself."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from bus.ledger import Transaction
from bus.reactions import Consumer, Reaction
from domain.delivery import CancelDelivery, FailAttempt
from domain.events import Command
from domain.extraction import CancelExtraction, FailExtraction
from domain.job import Job, JobCancelled, JobFailed, JobReplaced
from domain.spice_model import CancelFit, FailFit
from handlers.request_delivery import DELIVERY
from handlers.request_extraction import EXTRACTION, SPICE_FIT

#: The name is where its position is kept; it dates from when there were extractions only.
consumer = Consumer("follow-extractions")

Ended = JobCancelled | JobReplaced | JobFailed
Ending = tuple[str, str, Command]


def _extraction(event: Ended, spec: Mapping[str, Any], reason: str) -> Ending:
    extraction_id = UUID(str(spec["extraction_id"]))
    if isinstance(event, JobFailed):
        kind = "worker_died" if event.kind == "worker_died" else "other"
        failed = FailExtraction(extraction_id=extraction_id, attempt=event.attempt, error=reason, kind=kind)
        return "extraction", str(extraction_id), failed
    return "extraction", str(extraction_id), CancelExtraction(extraction_id=extraction_id, reason=reason)


def _fit(event: Ended, spec: Mapping[str, Any], reason: str) -> Ending:
    model_id, fit_id = str(spec["spice_model_id"]), UUID(str(spec["fit_id"]))
    if isinstance(event, JobFailed):
        failed = FailFit(spice_model_id=model_id, fit_id=fit_id, attempt=event.attempt, error=reason)
        return "spice_model", model_id, failed
    return "spice_model", model_id, CancelFit(spice_model_id=model_id, fit_id=fit_id, reason=reason)


def _delivery(event: Ended, spec: Mapping[str, Any], reason: str) -> Ending:
    delivery_id = UUID(str(spec["delivery_id"]))
    if isinstance(event, JobFailed):
        kind = "worker_died" if event.kind == "worker_died" else "internal"
        failed = FailAttempt(delivery_id=delivery_id, attempt=event.attempt, kind=kind, error=reason)
        return "delivery", str(delivery_id), failed
    return "delivery", str(delivery_id), CancelDelivery(delivery_id=delivery_id, reason=reason)


ENDINGS: Mapping[str, Callable[[Ended, Mapping[str, Any], str], Ending]] = {
    EXTRACTION: _extraction,
    SPICE_FIT: _fit,
    DELIVERY: _delivery,
}


@consumer.on(JobCancelled, JobReplaced, JobFailed)
async def end_with_its_job(event: Ended, at: Reaction) -> None:
    # Twice is harmless: what has ended stays so, and a job that was retried since is not what it was.
    if isinstance(event, JobFailed) and not event.final:
        return
    job: Job = (await at.ledger.refresh("job", str(event.job_id))).state
    if job.submitted is None or job.submitted.job_kind not in ENDINGS:
        return
    ending, spec = ENDINGS[job.submitted.job_kind], job.submitted.spec

    async def end(tx: Transaction) -> None:
        now: Job = await tx.state("job", str(event.job_id), fresh=True)
        if now.state not in ("cancelled", "failed") or now.attempt != job.attempt:
            return
        kind, id_, command = ending(event, spec, now.reason[:2000])
        await tx.decide(kind, id_, command)

    await at.ledger.transact(end, at.meta, lock=("job", str(event.job_id)))
