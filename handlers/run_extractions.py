"""The work of the extract role: images become curves, curves become models, in processes of a pool.

Blobs are stored first, by the process that made them, then [extraction.completed, graph_image.extracted, job.succeeded] in one
batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from bus.ledger import Ledger, Transaction
from bus.work import Work
from domain.extraction import (
    CompleteExtraction,
    ErrorKind,
    Extraction,
    FailExtraction,
    Result,
    StartExtraction,
    part_of,
)
from domain.graph_image import GraphImage, NoteExtracted, RejectGraphImage
from domain.ports import NotPossible, PictureRefused, Pool, ProcessDied, TookTooLong
from domain.product import Product
from domain.spice_model import CompleteFit, FailFit, FitResult, SpiceModel, StartFit
from handlers.request_extraction import EXTRACTION, SPICE_FIT
from handlers.worker import Attempt, Trade, Verdict, failures

#: What fails so often by itself is given up; the attempts that died with their worker do not count.
FAILURES = 3


@dataclass(frozen=True)
class Pooled(ABC):
    """What is done by a process of the pool, which may take `limit_s` for it."""

    pool: Pool
    limit_s: float

    @property
    def slots(self) -> int:
        return self.pool.slots

    async def do(self, attempt: Attempt) -> Mapping[str, Any]:
        spec = await self.spec(attempt.ledger, attempt.work)
        return await self.pool.run(attempt.work.job_kind, spec, attempt.report, self.limit_s)

    @abstractmethod
    async def spec(self, ledger: Ledger, work: Work) -> dict[str, Any]:
        """What the process is told."""

    async def judge(self, ledger: Ledger, work: Work, error: BaseException) -> Verdict:
        kind = error_kind(error)
        hopeless = kind in ("rejected", "not_possible")
        return Verdict(kind, final=hopeless or await failures(ledger, work.job_id) + 1 >= FAILURES)


class Extractions(Pooled):
    """Images become curves."""

    async def spec(self, ledger: Ledger, work: Work) -> dict[str, Any]:
        extraction: Extraction = (await ledger.refresh("extraction", str(work.job_id))).state
        assert extraction.requested is not None
        image_id = extraction.requested.graph_image_id
        image: GraphImage = (await ledger.refresh("graph_image", image_id)).state
        return {
            "graph_image_id": image_id,
            "media_type": image.media_type,
            "method": extraction.requested.method,
            "parameters": extraction.requested.parameters.model_dump(mode="json"),
        }

    async def start(self, tx: Transaction, work: Work, attempt: int, worker: str) -> None:
        order = StartExtraction(extraction_id=work.job_id, attempt=attempt, worker=worker)
        await tx.decide("extraction", str(work.job_id), order)

    async def succeed(
        self, tx: Transaction, work: Work, attempt: int, duration_s: float, result: Mapping[str, Any]
    ) -> dict[str, Any]:
        found = Result.model_validate(result)
        done = CompleteExtraction(extraction_id=work.job_id, attempt=attempt, duration_s=duration_s, result=found)
        await tx.decide("extraction", str(work.job_id), done)
        extraction: Extraction = await tx.state("extraction", str(work.job_id))
        assert extraction.requested is not None
        note = NoteExtracted(
            graph_image_id=extraction.requested.graph_image_id,
            extraction_id=work.job_id,
            part=part_of(found.at.page, found.at.chart) if found.at else extraction.requested.parameters.part,
            confidence=found.confidence,
        )
        await tx.decide("graph_image", extraction.requested.graph_image_id, note)
        return {"csv": found.csv, "curves": len(found.curves), "confidence": found.confidence}

    async def fail(self, tx: Transaction, work: Work, attempt: int, error: str, verdict: Verdict) -> None:
        if not verdict.final:
            return
        kind = cast("ErrorKind", verdict.kind)
        failed = FailExtraction(extraction_id=work.job_id, attempt=attempt, error=error, kind=kind)
        await tx.decide("extraction", str(work.job_id), failed)
        if kind == "rejected":
            extraction: Extraction = await tx.state("extraction", str(work.job_id))
            assert extraction.requested is not None
            image_id = extraction.requested.graph_image_id
            await tx.decide("graph_image", image_id, RejectGraphImage(graph_image_id=image_id, reason=error))


class Fits(Pooled):
    """Curves of a product become its model."""

    @staticmethod
    def _ids(work: Work) -> tuple[str, UUID]:
        return str(work.spec["spice_model_id"]), work.job_id

    async def spec(self, ledger: Ledger, work: Work) -> dict[str, Any]:
        model_id, fit_id = self._ids(work)
        product: Product = (await ledger.refresh("product", model_id)).state
        model: SpiceModel = (await ledger.refresh("spice_model", model_id)).state
        version = model.versions[str(fit_id)]
        charts: list[dict[str, Any]] = []
        for extraction_id in version.requested.extraction_ids:
            extraction: Extraction = (await ledger.refresh("extraction", str(extraction_id))).state
            assert extraction.requested is not None and extraction.data is not None
            image_id = extraction.requested.graph_image_id
            image: GraphImage = (await ledger.refresh("graph_image", image_id)).state
            charts.append(
                {
                    "extraction_id": str(extraction_id),
                    "graph_image_id": image_id,
                    "data": extraction.data,
                    "chart": image.chart,
                    "tj_c": image.tj_c,
                    "vds_v": image.vds_v,
                    "vgs_v": image.vgs_v,
                    "file_name": image.file_name,
                }
            )
        return {
            "name": product.part_number,
            "manufacturer": product.manufacturer,
            "device_type": product.device_type,
            "version": version.number,
            "forms": list(version.requested.forms),
            "simulate": version.requested.simulate,
            "charts": charts,
        }

    async def start(self, tx: Transaction, work: Work, attempt: int, worker: str) -> None:
        model_id, fit_id = self._ids(work)
        order = StartFit(spice_model_id=model_id, fit_id=fit_id, attempt=attempt, worker=worker)
        await tx.decide("spice_model", model_id, order)

    async def succeed(
        self, tx: Transaction, work: Work, attempt: int, duration_s: float, result: Mapping[str, Any]
    ) -> dict[str, Any]:
        model_id, fit_id = self._ids(work)
        found = FitResult.model_validate(result)
        done = CompleteFit(spice_model_id=model_id, fit_id=fit_id, attempt=attempt, duration_s=duration_s, result=found)
        await tx.decide("spice_model", model_id, done)
        return {"library": found.library, "form": found.form, "grade": found.grade, "nrmse": found.nrmse}

    async def fail(self, tx: Transaction, work: Work, attempt: int, error: str, verdict: Verdict) -> None:
        if not verdict.final:
            return
        model_id, fit_id = self._ids(work)
        failed = FailFit(spice_model_id=model_id, fit_id=fit_id, attempt=attempt, error=error)
        await tx.decide("spice_model", model_id, failed)


def error_kind(error: BaseException) -> ErrorKind:
    kinds: list[tuple[type[BaseException], ErrorKind]] = [
        (PictureRefused, "rejected"),
        (NotPossible, "not_possible"),
        (ProcessDied, "crashed"),
        (TookTooLong, "took_too_long"),
    ]
    for cls, kind in kinds:
        if isinstance(error, cls):
            return kind
    return "other"


def trades(pool: Pool, limits_s: Mapping[str, float]) -> dict[str, Trade]:
    """The trades of the extract role, by the kind of job; `limits_s` says how long a job of each may take."""
    return {
        EXTRACTION: Extractions(pool, limits_s[EXTRACTION]),
        SPICE_FIT: Fits(pool, limits_s[SPICE_FIT]),
    }
