"""Runs of measurements for MaskHub, by the verbs that its users know. Everything here only publishes commands: what is not
delivered now is delivered later, by whoever runs `labledger run deliver`, also after this program has ended."""

import asyncio
import io
import mimetypes
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from bus.ids import uuid7
from bus.streams import evt
from domain.aggregate import aggregates
from domain.run import (
    PARQUET,
    AttachmentAdded,
    MeasurementAdded,
    PartCancelled,
    PartDelivered,
    PartParked,
    RetryRequested,
    Run,
    Statistics,
)
from domain.target import Target
from labledger.client.curves import given
from labledger.client.errors import LabError, NotFound
from labledger.client.kinds import Kind

#: How far it is: measurements that have arrived, and all.
Progress = Callable[[int, int], None]


class Runs(Kind):
    async def start_run(
        self, mask_id: int, run_name: str, *, run_id: str | None = None, batch: bool = False, **more: Any
    ) -> str:
        """Start a run; answers its id, which follows from its name unless given: starting it again is the same run.

        `batch`: measurements go when it is finished, else as they are added. `more`: `target`, and what is said of the run (`lot_name`,
        `wafer_name`, `station`, `operator`, `project_id`, `config`, `calibration`, ...).
        """
        id_ = run_id or re.sub(r"[^A-Za-z0-9_-]+", "-", run_name)[:64]
        target = more.pop("target", None)
        about = {"mask_id": mask_id, "run_name": run_name, **given(more)}
        mode = "batch" if batch else "real_time"
        await self._send("run.start", run_id=id_, mode=mode, target=target, metadata=about)
        return id_

    async def add_measurement(
        self,
        run_id: str,
        raw_data: Any,
        *,
        device_name: str,
        measurement_type: str,
        die_x: int,
        die_y: int,
        measurement_id: str | UUID | None = None,
        sequence: int | None = None,
        file_name: str | None = None,
        **more: Any,
    ) -> UUID:
        """Add a measurement; answers its id, which is that of its delivery. With the same id again it is the same measurement.

        `raw_data` is a file, the bytes of one, or a table that becomes Parquet: a mapping of columns, or of pandas or pyarrow. `more`:
        `test_meta`, `extra_meta`, `nas_path`, `measured_at`, `lot_name`, `wafer_name`, `test_station_name`.
        """
        id_ = UUID(str(measurement_id or uuid7()))
        kept = await asyncio.to_thread(self._keep, raw_data, file_name or f"{_word(device_name)}.parquet", PARQUET)
        told = {"device_name": device_name, "measurement_type": measurement_type, "die_x": die_x, "die_y": die_y}
        await self._send(
            "run.add_measurement",
            run_id=run_id,
            measurement_id=str(id_),
            data=told | given(more),
            sequence=sequence,
            **kept | ({"file_name": file_name} if file_name else {}),
        )
        return id_

    async def attach(
        self, run_id: str, file: str | Path | bytes, *, name: str | None = None, attachment_id: str | UUID | None = None
    ) -> UUID:
        """Add a file to the run as a whole; answers the id of its delivery."""
        id_ = UUID(str(attachment_id or uuid7()))
        kept = await asyncio.to_thread(self._keep, file, name or "attachment", "application/octet-stream")
        named = {"file_name": name, "media_type": _media_type(name, kept["media_type"])} if name else {}
        await self._send("run.attach", run_id=run_id, attachment_id=str(id_), **kept | named)
        return id_

    async def finish_run(
        self, run_id: str, *, analyse: bool = False, wait_s: float | None = None, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Add nothing more, and have the dies analysed once all has arrived if asked; answers the summary.

        With `wait_s` it waits at most so long until nothing is on its way any more, and tells `progress`.
        """
        await self._send("run.finish", run_id=run_id, analyse=analyse)
        if wait_s is not None:
            await self.drained(run_id, wait_s, progress)
        return await self.summary(run_id)

    async def retry_failed(self, run_id: str) -> int:
        """Try again what is parked; answers how many parts that are."""
        before = await self._lab.last_sequence()
        outcome = await self._send("run.retry_failed", run_id=run_id)
        if not outcome.events:
            return 0
        found = [stored.event for stored in await self._lab.history("run", run_id, before)]
        return sum(len(event.delivery_ids) for event in found if isinstance(event, RetryRequested))

    async def statistics(self, run_id: str) -> dict[str, Any]:
        """Of its measurements: total, successful, failed, pending; and whether its target can be reached with what is set."""
        run = await self._run(run_id)
        assert run.started is not None
        return _counts(run.statistics) | {
            "current_run": run.started.metadata.run_name,
            "queue_size": sum(part.state == "pending" for part in run.parts.values()),
            "failed_uploads_count": sum(part.state == "parked" for part in run.parts.values()),
            "service_available": await self._available(run.started.target),
        }

    async def summary(self, run_id: str) -> dict[str, Any]:
        """What a finished run amounts to, as it stands now."""
        run = await self._run(run_id)
        assert run.started is not None
        counts = _counts(run.statistics)
        return {
            "run_id": run_id,
            "run_name": run.started.metadata.run_name,
            "remote_id": run.remote_id or None,
            "measurement_count": counts["total"],
            "upload_stats": counts,
            "failed_uploads": counts["failed"],
            "attachments": run.states("attachment").total(),
            "analysis_triggered": run.states("analysis")["delivered"] > 0,
        }

    async def get(self, run_id: str) -> dict[str, Any]:
        """The run as it stands, with all of its parts. Raises `NotFound`."""
        run = await self._run(run_id)
        assert run.started is not None
        told = run.started.model_dump(mode="json") | {"finished": run.finished, "opened": run.opened}
        told |= {"remote_id": run.remote_id or None, "statistics": _counts(run.statistics)}
        said: dict[str, dict[str, Any]] = {}
        for stored in await self._lab.history("run", run_id):
            match stored.event:
                case MeasurementAdded() as event:
                    about = event.data.model_dump(include={"device_name", "die_x", "die_y"})
                    said[str(event.measurement_id)] = about | {"file_name": event.file_name, "sequence": event.sequence}
                case AttachmentAdded() as event:
                    said[str(event.attachment_id)] = {"file_name": event.file_name}
                case PartParked() | PartCancelled() as event:
                    said.setdefault(str(event.delivery_id), {})["reason"] = event.reason
                case PartDelivered() as event:
                    said.setdefault(str(event.delivery_id), {}).pop("reason", None)
                case _:
                    pass
        parts = [
            {"delivery_id": id_, "part": part.kind, "state": part.state, **said.get(id_, {})}
            for id_, part in run.parts.items()
        ]
        return told | {"parts": parts}

    async def list(self, limit: int = 50) -> "list[dict[str, Any]]":
        """The newest first, with their statistics, from the read model. Raises `NotReachable` where there is none."""
        await self._lab.wait_for(await self._lab.last_sequence(), ["runs"], timeout_s=5.0)
        return await self._lab.query(
            "select run_id, run_name, target_id, mode, mask_id, lot_name, wafer_name, finished, opened, measurements, successful,"
            " failed, pending, parked, attachments, delivered_bytes, analysis_asked, analysed, remote_id, started_at, finished_at"
            " from labledger.runs order by started_at desc, run_id desc limit %s",
            [limit],
        )

    async def drained(self, run_id: str, timeout_s: float, progress: Progress | None = None) -> bool:
        """Wait until nothing of it is on its way any more; False when that takes longer."""
        run, position = await self._run(run_id), 0
        try:
            async with asyncio.timeout(timeout_s):
                history = await self._lab.history("run", run_id)
                run, position = _fold(history), history[-1].seq
                _tell(run, progress)
                if _drained(run):
                    return True
                async for stored in self._lab.events(evt("run", run_id), position):
                    run = aggregates()["run"].evolve(run, stored.event)
                    _tell(run, progress)
                    if _drained(run):
                        return True
        except TimeoutError:
            pass
        return False

    async def _run(self, run_id: str) -> Run:
        try:
            return await self._lab.state("run", run_id)
        except NotFound:
            raise NotFound(f"there is no run {run_id}: `labledger runs list` shows them") from None

    async def _available(self, target_id: str) -> bool:
        try:
            target: Target = await self._lab.state("target", target_id)
        except NotFound:
            return False
        return target.opened is not None and not target.local_only

    def _keep(self, raw: Any, name: str, media_type: str) -> dict[str, Any]:
        """Store a file, and what is said of it. Nothing at all for nothing: the lab says why that is refused."""
        if raw is None:
            return {}
        if isinstance(raw, str | Path):
            path = Path(raw)
            with path.open("rb") as file:
                sha256, size = self._lab.put_file(file)
            name, media_type = path.name, _media_type(path.name, "application/octet-stream")
        else:
            with io.BytesIO(raw if isinstance(raw, bytes) else parquet(raw)) as file:
                sha256, size = self._lab.put_file(file)
        return {"sha256": sha256, "size_bytes": size, "file_name": name, "media_type": media_type}


def parquet(table: Any) -> bytes:
    """A table as a Parquet file. Raises `LabError` for what is none, or where pyarrow is not installed."""
    try:
        import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]
        import pyarrow.parquet as pq  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        raise LabError("a table becomes Parquet with pyarrow: pip install 'labledger[parquet]'") from None
    tables: Any = pa
    try:
        if isinstance(table, Mapping):
            made = tables.table(dict(cast("Mapping[str, Any]", table)))
        elif isinstance(table, tables.Table):
            made = table
        else:
            made = tables.Table.from_pandas(table)
    except (AttributeError, TypeError, ValueError) as error:
        raise LabError(f"raw data is a file, its bytes, or a table with columns of one length: {error}") from None
    file = io.BytesIO()
    writer: Any = pq
    writer.write_table(made, file)
    return file.getvalue()


def _media_type(name: str | None, otherwise: str) -> str:
    if name and name.endswith(".parquet"):
        return PARQUET
    return mimetypes.guess_type(name or "")[0] or otherwise


def _word(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)[:180] or "raw_data"


def _counts(statistics: Statistics) -> dict[str, int]:
    return statistics.model_dump()


def _fold(history: Any) -> Run:
    aggregate = aggregates()["run"]
    return aggregate.fold(aggregate.initial, (stored.event for stored in history))


def _tell(run: Run, progress: Progress | None) -> None:
    if progress is not None:
        progress(run.statistics.successful, run.statistics.total)


def _drained(run: Run) -> bool:
    """Nothing is on its way, or can be before somebody does something."""
    if run.states("opening")["parked"] or run.states("opening")["cancelled"]:
        return True
    kinds = ["opening", "attachment", *(["measurement"] if run.flowing or not run.opened else [])]
    if any(part.state == "pending" for part in run.parts.values() if part.kind in kinds):
        return False
    return not run.analysable
