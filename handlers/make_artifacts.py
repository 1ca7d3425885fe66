"""A completed scan leaves its artifacts: raw data, plot and summary, made by a job of the ordinary queue.

The three are registered in one batch with the job's end. They follow from the events alone, so a job that is done again, by
whomever, makes the same bytes.
"""

import uuid
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from bus.ledger import Ledger, Transaction
from bus.reactions import Consumer, Reaction
from bus.work import Work
from domain.artifact import RegisterArtifact
from domain.job import SubmitJob
from domain.queue import CreateQueue
from domain.scan import Scan, ScanCompleted
from handlers.enqueue import enqueue
from handlers.request_extraction import ATTEMPTS, BACKOFF_S
from handlers.run_extractions import Pooled
from handlers.worker import Verdict

consumer = Consumer("make-artifacts")

ARTIFACTS = "artifacts"
#: Made with the first completed scan. So many at once, over all workers.
NEW_QUEUE = CreateQueue(queue_id=ARTIFACTS, order="priority", max_concurrent=4)


def job_of(scan_id: UUID, attempt: int) -> UUID:
    """The job that makes the artifacts of a scan that was completed in this attempt."""
    return uuid.uuid5(scan_id, f"artifacts {attempt}")


@consumer.on(ScanCompleted)
async def make_artifacts(event: ScanCompleted, at: Reaction) -> None:
    # Twice is harmless: the job's id follows from scan and attempt, and a job is submitted once.
    scan: Scan = (await at.ledger.refresh("scan", str(event.scan_id))).state
    spec: dict[str, Any] = {"scan_id": str(event.scan_id), "sequence": at.stored.seq}
    job = SubmitJob(
        job_id=job_of(event.scan_id, event.attempt),
        queue_id=ARTIFACTS,
        job_kind=ARTIFACTS,
        spec=spec,
        priority=scan.priority,
        max_attempts=ATTEMPTS,
        backoff_s=BACKOFF_S,
        title=f"artifacts of {scan.title or event.scan_id}"[:200],
    )

    async def submit(tx: Transaction) -> None:
        await enqueue(tx, job, NEW_QUEUE)

    await at.ledger.transact(submit, at.meta, lock=("queue", ARTIFACTS))


class Artifacts(Pooled):
    """The trade that makes them."""

    async def spec(self, ledger: Ledger, work: Work) -> dict[str, Any]:
        return dict(work.spec)

    async def start(self, tx: Transaction, work: Work, attempt: int, worker: str) -> None:
        """The job says it."""

    async def succeed(
        self, tx: Transaction, work: Work, attempt: int, duration_s: float, result: Mapping[str, Any]
    ) -> dict[str, Any]:
        scan_id = UUID(str(work.spec["scan_id"]))
        made = [RegisterArtifact(**one, scan_id=scan_id) for one in result["artifacts"]]
        for artifact in made:
            await tx.decide("artifact", artifact.artifact_id, artifact)
        return {artifact.role: artifact.artifact_id for artifact in made}

    async def fail(self, tx: Transaction, work: Work, attempt: int, error: str, verdict: Verdict) -> None:
        """The job says it."""
