"""The work of the deliver role: bring shipments to one target, and ask it again what it has.

    take:   [delivery.attempted, job.started] in one batch, before anything reaches the outside
    do:     `Target.deliver`, with the artifact as a local file; what it keeps on the way is `delivery.checkpointed`
    end:    [delivery.delivered with its receipt, job.succeeded], or [delivery.failed or parked, job.failed]

A worker that dies leaves an attempt without an end. The next attempt gets the last checkpoint, and the target's adapter finds out
what arrived: that is what makes work that is done at least once arrive once.
"""

import asyncio
import errno
import random
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from bus.ledger import Ledger, Transaction
from bus.work import Work
from domain.delivery import (
    CompleteDelivery,
    Delivery,
    DeliveryRequested,
    FailAttempt,
    FailedBecause,
    KeepCheckpoint,
    NoteVerification,
    Receipt,
    StartAttempt,
)
from domain.errors import NotFound
from domain.ports import PASSING, Arrived, Blobs, Check, DeliveryFailed, FailureKind, RetryPolicy, Shipment, Target
from domain.target import Checked
from handlers.request_delivery import DELIVERY, VERIFICATION
from handlers.worker import Attempt, Trade, Verdict, failures


@dataclass(frozen=True)
class Served:
    """A target as its worker has it."""

    target_id: str
    adapter: str
    target: Target
    retry: RetryPolicy
    concurrency: int
    blobs: Blobs

    @property
    def slots(self) -> int:
        return self.concurrency

    async def judge(self, ledger: Ledger, work: Work, error: BaseException) -> Verdict:
        delivery: Delivery = (await ledger.refresh("delivery", str(work.spec["delivery_id"]))).state
        failed = error if isinstance(error, DeliveryFailed) else None
        kind: FailureKind = failed.kind if failed else "internal"
        # What is waited for is no failure of anybody's: it may take as long as it takes.
        count = 1 if kind == "waiting" else await self.failed(ledger, work, delivery) + 1
        if kind not in PASSING or (count >= self.retry.max_retries and kind != "waiting"):
            return Verdict(kind, final=True)
        wait_s = self.retry.wait_s(count, random.random())
        return Verdict(kind, final=False, wait_s=max(wait_s, failed.retry_after_s or 0.0) if failed else wait_s)

    async def failed(self, ledger: Ledger, work: Work, delivery: Delivery) -> int:
        """How often it has failed so far, since a person last let it run."""
        return delivery.failures


@dataclass(frozen=True)
class Deliveries(Served):
    """Shipments to the target."""

    async def start(self, tx: Transaction, work: Work, attempt: int, worker: str) -> None:
        order = StartAttempt(delivery_id=work.job_id, attempt=attempt, worker=worker)
        await tx.decide("delivery", str(work.job_id), order)

    async def do(self, attempt: Attempt) -> Mapping[str, Any]:
        delivery: Delivery = (await attempt.ledger.refresh("delivery", str(attempt.work.job_id))).state
        assert delivery.requested is not None
        requested, lent = delivery.requested, _lend(self.blobs, delivery.requested.artifact)
        path = await asyncio.to_thread(lent.__enter__)
        try:
            arrived = await self.target.deliver(self._shipment(attempt, delivery, requested, path))
        finally:
            await asyncio.shield(asyncio.to_thread(lent.__exit__, None, None, None))
        return self._receipt(requested, arrived, attempt.number).model_dump(mode="json")

    def _shipment(
        self, attempt: Attempt, delivery: Delivery, requested: DeliveryRequested, path: Path | None
    ) -> Shipment:
        async def keep(checkpoint: Mapping[str, Any]) -> None:
            async def decide(tx: Transaction) -> None:
                order = KeepCheckpoint(
                    delivery_id=requested.delivery_id, attempt=attempt.number, checkpoint=dict(checkpoint)
                )
                await tx.decide("delivery", str(requested.delivery_id), order)

            await attempt.keep(decide)

        return Shipment(
            delivery_id=requested.delivery_id,
            attempt=attempt.number,
            key=requested.key,
            path=path,
            sha256=requested.artifact,
            size=requested.size,
            media_type=requested.media_type,
            file_name=requested.file_name,
            options=requested.options,
            checkpoint=delivery.checkpoint,
            report=attempt.report,
            keep=keep,
        )

    def _receipt(self, requested: DeliveryRequested, arrived: Arrived, attempts: int) -> Receipt:
        return Receipt(
            delivery_id=requested.delivery_id,
            target_id=self.target_id,
            adapter=self.adapter,
            system=self.target.kind,
            target=dict(self.target.describe()),
            sha256=requested.artifact,
            size=requested.size,
            media_type=requested.media_type,
            file_name=requested.file_name,
            key=requested.key,
            outcome=arrived.outcome,
            location=arrived.location,
            proof=dict(arrived.proof),
            attempts=attempts,
            requests=arrived.requests,
            bytes_sent=arrived.bytes_sent,
            at=datetime.now(UTC),
        )

    async def succeed(
        self, tx: Transaction, work: Work, attempt: int, duration_s: float, result: Mapping[str, Any]
    ) -> dict[str, Any]:
        receipt = Receipt.model_validate(result)
        done = CompleteDelivery(delivery_id=work.job_id, attempt=attempt, duration_s=duration_s, receipt=receipt)
        await tx.decide("delivery", str(work.job_id), done)
        return {"outcome": receipt.outcome, "location": receipt.location}

    async def fail(self, tx: Transaction, work: Work, attempt: int, error: str, verdict: Verdict) -> None:
        order = FailAttempt(
            delivery_id=work.job_id,
            attempt=attempt,
            kind=cast("FailedBecause", verdict.kind),
            error=error,
            retry_at=verdict.retry_at,
        )
        await tx.decide("delivery", str(work.job_id), order)


@dataclass(frozen=True)
class Verifications(Served):
    """What was delivered, looked at again."""

    async def start(self, tx: Transaction, work: Work, attempt: int, worker: str) -> None:
        """Nothing about the delivery changes by being looked at."""

    async def do(self, attempt: Attempt) -> Mapping[str, Any]:
        delivery: Delivery = (await attempt.ledger.refresh("delivery", str(attempt.work.spec["delivery_id"]))).state
        assert delivery.receipt is not None
        checks = await self.target.verify(delivery.receipt.proof, delivery.receipt.sha256, delivery.receipt.size)
        return {"checks": [checked(check).model_dump() for check in checks]}

    async def succeed(
        self, tx: Transaction, work: Work, attempt: int, duration_s: float, result: Mapping[str, Any]
    ) -> dict[str, Any]:
        delivery_id = UUID(str(work.spec["delivery_id"]))
        checks = tuple(Checked.model_validate(check) for check in result["checks"])
        note = NoteVerification(
            delivery_id=delivery_id, verification_id=work.job_id, checks=checks, verified_at=datetime.now(UTC)
        )
        await tx.decide("delivery", str(delivery_id), note)
        return {"ok": all(check.ok for check in checks)}

    async def failed(self, ledger: Ledger, work: Work, delivery: Delivery) -> int:
        return await failures(ledger, work.job_id)

    async def fail(self, tx: Transaction, work: Work, attempt: int, error: str, verdict: Verdict) -> None:
        """The job says it."""


@contextmanager
def _lend(blobs: Blobs, artifact: str | None) -> Generator[Path | None]:
    """A local file with the bytes. Raises `DeliveryFailed` when there are none, or others."""
    if artifact is None:
        yield None
        return
    with ExitStack() as lent:
        try:
            path = lent.enter_context(blobs.local(artifact))
        except NotFound as error:
            raise DeliveryFailed("missing", f"{error}; bring the file back into the blob store, then retry") from error
        except ValueError as error:
            raise DeliveryFailed("changed", f"{error}; bring the file back as it was, then retry") from error
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            advice = "make room for a copy of the file" if full else "see that the blob store can be read"
            raise DeliveryFailed("full" if full else "unreachable", f"{error}; {advice}") from error
        yield path


def checked(check: Check) -> Checked:
    """A check in the form in which it is kept."""
    return Checked(name=check.name[:200], ok=check.ok, detail=check.detail[:2000])


def trades(
    target_id: str, adapter: str, target: Target, retry: RetryPolicy, concurrency: int, blobs: Blobs
) -> dict[str, Trade]:
    """The trades of one target's worker, by the kind of job."""
    it = (target_id, adapter, target, retry, concurrency, blobs)
    return {DELIVERY: Deliveries(*it), VERIFICATION: Verifications(*it)}
