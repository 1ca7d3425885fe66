"""What can be done with products, images of their curves, extractions and models."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from bus.ids import uuid7
from bus.outcomes import Outcome
from bus.streams import evt
from domain.batch import Batch
from domain.extraction import Extraction
from domain.job import Job
from domain.product import product_id_of
from domain.spice_model import SpiceModel
from labledger.client.errors import LabError, NotFound
from labledger.client.kinds import Kind, plain

log = logging.getLogger("labledger.client")

OVER = ("completed", "failed", "cancelled")


class Products(Kind):
    async def add(self, part_number: str, device_type: str, manufacturer: str, **fields: Any) -> str:
        """Register a product; answers its id, which follows from its part number. `package`, `description`."""
        product_id = product_id_of(part_number)
        told = {"product_id": product_id, "part_number": part_number, "device_type": device_type}
        await self._send("product.register", **told, manufacturer=manufacturer, **fields)
        return product_id

    async def update(self, part_number: str, **fields: Any) -> Outcome:
        return await self._send("product.update", product_id=product_id_of(part_number), **fields)

    async def get(self, part_number: str) -> dict[str, Any]:
        """The product as it stands, by its id or its part number. Raises `NotFound`."""
        product_id = product_id_of(part_number)
        return {"product_id": product_id} | plain(await self._lab.state("product", product_id))

    async def list(self) -> "list[dict[str, Any]]":
        return [await self.get(id_) for id_ in await self._lab.ids("product")]


class Images(Kind):
    async def add(
        self,
        file: str | Path | bytes,
        *,
        product: str | None = None,
        extract: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> tuple[str, UUID | None]:
        """Look at a file's header, store its bytes, and register it; answers its id and that of its extraction, if any.

        `extract` has what `extraction.request` takes (`method`, `parameters`, `queue_id`, `priority`, `batch_id`); None waits.
        `more`: `description`, `chart`, `tj_c`, `vds_v`, `vgs_v`. Raises `PictureRefused` for what is no picture, or too large.
        """
        from labledger.picture_file import look_at

        blobs = self._lab.blobs
        data = file if isinstance(file, bytes) else await asyncio.to_thread(Path(file).read_bytes)
        found = look_at(data)
        await asyncio.to_thread(blobs.put, data)
        extraction_id = UUID(uuid7()) if extract is not None else None
        order = None if extract is None else {"extraction_id": str(extraction_id)} | given(extract)
        await self._send(
            "graph_image.register",
            graph_image_id=found.sha256,
            media_type=found.media_type,
            size_bytes=found.size_bytes,
            width=found.width,
            height=found.height,
            pages=found.pages,
            file_name="" if isinstance(file, bytes) else Path(file).name[:300],
            product_id=None if product is None else product_id_of(product),
            extract=order,
            **more,
        )
        return found.sha256, extraction_id

    async def describe(self, image_id: str, **fields: Any) -> Outcome:
        return await self._send("graph_image.describe", graph_image_id=image_id, **fields)

    async def attach(self, image_id: str, product: str) -> Outcome:
        return await self._send("graph_image.attach", graph_image_id=image_id, product_id=product_id_of(product))

    async def detach(self, image_id: str, product: str) -> Outcome:
        return await self._send("graph_image.detach", graph_image_id=image_id, product_id=product_id_of(product))

    async def get(self, image_id: str) -> dict[str, Any]:
        """The image as it stands. Raises `NotFound`."""
        return {"graph_image_id": image_id} | plain(await self._lab.state("graph_image", image_id))

    async def list(self) -> "list[dict[str, Any]]":
        return [await self.get(id_) for id_ in await self._lab.ids("graph_image")]


class Extractions(Kind):
    async def request(
        self, image_id: str, *, extraction_id: str | UUID | None = None, corrects: str | UUID | None = None, **more: Any
    ) -> UUID:
        """Read the curves of an image; answers the extraction's id. `more`: `method`, `parameters`, `queue_id`, `priority`,
        `batch_id`, `title`. With `corrects` and a calibration in `parameters` an earlier one is put right."""
        id_ = UUID(str(extraction_id or uuid7()))
        before = None if corrects is None else str(corrects)
        await self._send(
            "extraction.request", extraction_id=str(id_), graph_image_id=image_id, corrects=before, **given(more)
        )
        return id_

    async def correct(
        self, earlier: Mapping[str, Any], parameters: Mapping[str, Any], on_second: Sequence[int] = (), **more: Any
    ) -> UUID:
        """Read an image anew with what is put right in an `earlier` extraction, as `get` answers it; answers the new one's id.

        `on_second`: numbers, from 1, of its curves that belong to the second y axis. Without a calibration in `parameters` the one
        that was found is taken. Raises `NotFound` where there was none.
        """
        result: Mapping[str, Any] = earlier.get("result") or {}
        id_ = earlier["extraction_id"]
        calibration = parameters.get("calibration") or result.get("calibration")
        if calibration is None:
            raise NotFound(f"extraction {id_} is {earlier['state']} and has found no axes; give a calibration")
        if on_second:
            calibration = _on_second(calibration, result.get("curves", ()), on_second)
        told = dict(parameters) | {"calibration": calibration}
        return await self.request(earlier["graph_image_id"], corrects=id_, parameters=told, **more)

    async def cancel(self, extraction_id: str | UUID, reason: str = "") -> Outcome:
        """Also one that runs: its process is ended."""
        return await self._lab.jobs.cancel(extraction_id, reason)

    async def retry(self, extraction_id: str | UUID) -> Outcome:
        """Let a failed or cancelled one run again."""
        return await self._lab.jobs.retry(extraction_id)

    async def get(self, extraction_id: str | UUID) -> dict[str, Any]:
        """The extraction as it stands, from its events: with its job's progress, and its result if completed."""
        # The job first: it succeeds in the write that completes the extraction, so what is read after it knows the result.
        try:
            job: Job = await self._lab.state("job", extraction_id)
            state: Extraction = await self._lab.state("extraction", extraction_id)
        except NotFound:
            message = f"there is no extraction {extraction_id}: `labledger extractions list` shows them"
            raise NotFound(message) from None
        history = await self._lab.history("extraction", extraction_id)
        assert state.requested is not None
        told: dict[str, Any] = state.requested.model_dump(mode="json") | {
            "state": self._state(state, job),
            "attempt": job.attempt,
            "worker": job.worker,
            "percent": job.percent,
            "note": job.note,
            "error": job.reason,
            "requested_at": history[0].time,
        }
        last = history[-1]
        if state.state == "completed":
            told |= {"duration_s": getattr(last.event, "duration_s", None), "ended_at": last.time}
            told["result"] = last.event.model_dump(mode="json")["result"]
        return told

    @staticmethod
    def _state(state: Extraction, job: Job) -> str:
        if state.state == "completed" or job.state == "succeeded":
            return "completed"
        return str(job.state)

    async def list(self, limit: int = 50, state: str | None = None, batch: str | None = None) -> "list[dict[str, Any]]":
        """The newest first: from the read model where there is one, else from the events."""
        lab = self._lab
        if lab.postgres_url is not None:
            try:
                await lab.wait_for(await lab.last_sequence(), ["extractions"], timeout_s=5.0)
                return await lab.query(
                    "select extraction_id, graph_image_id, title, method, state, percent, attempt, confidence, accepted,"
                    " cardinality(curve_names) as curves, estimated_s, duration_s, error, batch_id, requested_at"
                    " from labledger.extractions where (%s::text is null or state = %s)"
                    " and (%s::uuid is null or batch_id = %s::uuid) order by requested_at desc, extraction_id desc limit %s",
                    [state, state, batch, batch, limit],
                )
            except LabError as error:
                log.info("extractions are listed from the events: %s", error)
        found: list[dict[str, Any]] = []
        for id_ in (await lab.ids("extraction"))[::-1]:
            one = await self.get(id_)
            result: dict[str, Any] = one.pop("result", {})
            one |= {"confidence": result.get("confidence"), "accepted": result.get("accepted")}
            one["curves"] = len(result["curves"]) if result else None
            if state in (None, one["state"]) and batch in (None, one["batch_id"]):
                found.append(one)
            if len(found) == limit:
                break
        return found

    async def watch(self, extraction_id: str | UUID) -> AsyncIterator[dict[str, Any]]:
        """How it stands, and again at each event of its job; ends when it is over."""
        position = await self._lab.last_sequence()
        found = await self.get(extraction_id)
        yield found
        if found["state"] in OVER:
            return
        async for _ in self._lab.events(evt("job", str(extraction_id)), position):
            found = await self.get(extraction_id)
            yield found
            if found["state"] in OVER:
                return

    async def wait(self, extraction_id: str | UUID, timeout_s: float | None = None) -> dict[str, Any]:
        """How it ended. Raises `TimeoutError`."""
        found: dict[str, Any] = {}
        async with asyncio.timeout(timeout_s):
            async for found in self.watch(extraction_id):  # noqa: B007
                pass
        return found


class Batches(Kind):
    async def get(self, batch_id: str | UUID) -> dict[str, Any]:
        """How far the jobs of a batch are, from their events. Raises `NotFound`."""
        batch: Batch = await self._lab.state("batch", batch_id)
        counts: dict[str, int] = dict.fromkeys(
            ("waiting", "running", "retrying", "succeeded", "failed", "cancelled"), 0
        )
        for job_id in batch.jobs:
            job: Job = await self._lab.state("job", job_id)
            counts[job.state] += 1
        over = not (counts["waiting"] or counts["running"] or counts["retrying"])
        done = "done with failures" if counts["failed"] or counts["cancelled"] else "done"
        state = "cancelled" if batch.cancelled else done if over else "open"
        return {"batch_id": str(batch_id), "state": state, "jobs": len(batch.jobs), **counts}

    async def cancel(self, batch_id: str | UUID, reason: str = "") -> Outcome:
        """Every job of it that has not ended; no other is added any more."""
        return await self._send("batch.cancel", batch_id=str(batch_id), reason=reason)


class SpiceModels(Kind):
    async def fit(self, product: str, *, fit_id: str | UUID | None = None, **more: Any) -> UUID:
        """Fit a model to a product's curves, or a new version of it; answers the fit's id, which is that of its job.

        `more`: `extraction_ids`, `min_confidence`, `forms`, `simulate`, `queue_id`, `priority`, `batch_id`.
        """
        id_ = UUID(str(fit_id or uuid7()))
        await self._send("spice_model.fit", spice_model_id=product_id_of(product), fit_id=str(id_), **more)
        return id_

    async def get(self, product: str) -> "list[dict[str, Any]]":
        """Its versions, with what the fitted ones are. Raises `NotFound`."""
        product_id = product_id_of(product)
        try:
            model: SpiceModel = await self._lab.state("spice_model", product_id)
        except NotFound:
            raise NotFound(f"there is no model of {product_id}: `labledger spice fit {product_id}` makes one") from None
        results: dict[str, dict[str, Any]] = {}
        for stored in await self._lab.history("spice_model", product_id):
            if stored.type.startswith("spice_model.fitted."):
                event = stored.event.model_dump(mode="json")
                results[event["fit_id"]] = event
        found: list[dict[str, Any]] = []
        for fit_id, version in model.versions.items():
            event = results.get(fit_id, {})
            told = version.requested.model_dump(mode="json") | {"state": version.state, "error": version.reason}
            found.append(told | {"duration_s": event.get("duration_s"), "result": event.get("result")})
        return found

    async def wait(self, product: str, fit_id: str | UUID, timeout_s: float | None = None) -> dict[str, Any]:
        """The version as it is once its job has ended. Raises `TimeoutError`."""
        position = await self._lab.last_sequence()
        async with asyncio.timeout(timeout_s):
            job: Job = await self._lab.state("job", fit_id)
            if job.state not in ("succeeded", "failed", "cancelled"):
                async for stored in self._lab.events(evt("job", str(fit_id)), position):
                    kind = stored.type.split(".")[1]
                    if kind in ("succeeded", "cancelled") or (
                        kind == "failed" and getattr(stored.event, "final", True)
                    ):
                        break
        return next(one for one in await self.get(product) if one["fit_id"] == str(fit_id))


def _on_second(
    calibration: Mapping[str, Any], curves: Sequence[Mapping[str, Any]], numbers: Sequence[int]
) -> dict[str, Any]:
    """A calibration whose second y axis has these curves, and no others."""
    if calibration.get("y2") is None:
        raise NotFound("there is no second y axis; give a calibration that has `y2`")
    if wrong := [number for number in numbers if not 1 <= number <= len(curves)]:
        raise NotFound(f"there is no curve {wrong[0]}: they are numbered from 1 to {len(curves)}")
    through = [curves[number - 1]["mark"] for number in numbers]
    return dict(calibration) | {"y2": calibration["y2"] | {"through": through}}


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Only what was given."""
    return {name: value for name, value in fields.items() if value is not None}


def ids_like(ids: Sequence[str], start: str) -> list[str]:
    """Those that begin or end so; the last of all for `last`."""
    return list(ids[-1:]) if start == "last" else [one for one in ids if one.startswith(start) or one.endswith(start)]
