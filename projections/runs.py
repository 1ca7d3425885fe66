"""The runs, what belongs to them, and how much of it has arrived: counted from the parts, so that it cannot drift."""

from typing import Any

from bus.envelope import Stored
from bus.projector import Column, Projection, Rows, Table, View
from domain.events import Event
from domain.run import (
    AnalysisRequested,
    AttachmentAdded,
    MeasurementAdded,
    PartCancelled,
    PartDelivered,
    PartParked,
    PartRetried,
    RetryRequested,
    RunFinished,
    RunStarted,
)

runs = Table(
    "runs",
    key=("run_id",),
    columns=(
        Column("run_id", "text", "Its id."),
        Column("run_name", "text", "What the target calls it."),
        Column("target_id", "text", "Where its parts are delivered."),
        Column("mode", "text", "real_time (as they are added) or batch (when it is finished)."),
        Column("mask_id", "bigint", "The mask that is measured."),
        Column("lot_name", "text", "The lot, unless a measurement says otherwise."),
        Column("wafer_name", "text", "The wafer, unless a measurement says otherwise."),
        Column("station", "text", "The test station, unless a measurement says otherwise."),
        Column("operator", "text", "Who measures."),
        Column("metadata", "jsonb", "All that was said about it."),
        Column("remote_id", "text", "The id that the target gave it; NULL before it is open there."),
        Column("finished", "boolean", "No measurement is added any more."),
        Column("analysis_asked", "boolean", "The analysis was asked for."),
        Column("started_at", "timestamptz", "When it was started."),
        Column("finished_at", "timestamptz", "When it was finished."),
        Column("updated_at", "timestamptz", "When something about it last changed."),
    ),
    indexes=(("run_name",), ("started_at",)),
)

parts = Table(
    "run_parts",
    key=("delivery_id",),
    columns=(
        Column("delivery_id", "uuid", "The delivery of it, under the id of the part."),
        Column("run_id", "text", "The run it belongs to."),
        Column("part", "text", "opening, measurement, attachment or analysis."),
        Column("state", "text", "pending, delivered, parked or cancelled."),
        Column("remote_id", "text", "The id that the target gave it."),
        Column("reason", "text", "Why it was parked or cancelled, last time."),
        Column("sequence", "bigint", "The number of the measurement in its run."),
        Column("key", "text", "What tells the measurement from every other, also at the target."),
        Column("device_name", "text", "The device that was measured."),
        Column("measurement_type", "text", "The kind of measurement."),
        Column("die_x", "bigint", "The die, in x."),
        Column("die_y", "bigint", "The die, in y."),
        Column("lot_name", "text", "The lot."),
        Column("wafer_name", "text", "The wafer."),
        Column("test_station_name", "text", "The test station."),
        Column("test_meta", "jsonb", "What the target shows of the measurement."),
        Column("sha256", "text", "The file."),
        Column("size_bytes", "bigint", "Its size, in bytes."),
        Column("file_name", "text", "Its name."),
        Column("added_at", "timestamptz", "When it was added."),
        Column("ended_at", "timestamptz", "When it was delivered, parked or cancelled; NULL while it is pending."),
    ),
    indexes=(("run_id",), ("sha256",), ("device_name",)),
)

_COUNTED = {
    "measurements": ("How many measurements it has.", "part = 'measurement'"),
    "successful": ("How many of them have been delivered.", "part = 'measurement' and p.state = 'delivered'"),
    "failed": ("How many are parked or cancelled.", "part = 'measurement' and p.state in ('parked', 'cancelled')"),
    "pending": ("How many are on their way, or wait.", "part = 'measurement' and p.state = 'pending'"),
    "attachments": ("How many attachments it has.", "part = 'attachment'"),
}
_RUNS = f"""
select r.*,
    {", ".join(f"count(*) filter (where {what}) as {name}" for name, (_, what) in _COUNTED.items())},
    coalesce(sum(p.size_bytes) filter (where p.state = 'delivered'), 0)::bigint as delivered_bytes,
    count(*) filter (where p.state = 'parked') as parked,
    coalesce(bool_or(part = 'analysis' and p.state = 'delivered'), false) as analysed,
    coalesce(bool_or(part = 'opening' and p.state = 'delivered'), false) as opened
from {{schema}}.runs r left join {{schema}}.run_parts p using (run_id)
group by r.run_id
"""


def _named(event: Event) -> list[tuple[str, Any]]:
    """A retry names its parts in a list."""
    return [("delivery_id", id_) for id_ in event.delivery_ids] if isinstance(event, RetryRequested) else []


projection = Projection(
    "runs",
    version=1,
    tables=[runs, parts],
    views=[
        View(
            "runs",
            "One row a run, with its statistics.",
            _RUNS,
            {c.name: c.doc for c in runs.columns}
            | {name: doc for name, (doc, _) in _COUNTED.items()}
            | {
                "delivered_bytes": "Bytes of all files that have been delivered.",
                "parked": "How many parts of any kind wait for a person.",
                "analysed": "The analysis has been started at the target.",
                "opened": "The target knows the run.",
            },
        ),
        View(
            "run_parts",
            "One row for all that is delivered of a run: its opening, measurements, attachments, its analysis.",
            "select * from {schema}.run_parts",
            {c.name: c.doc for c in parts.columns},
        ),
    ],
    also=_named,
)


@projection.on(RunStarted)
def started(event: RunStarted, stored: Stored, rows: Rows) -> None:
    about = event.metadata.model_dump(mode="json")
    row = {name: about[name] for name in ("run_name", "mask_id", "lot_name", "wafer_name", "station", "operator")}
    row |= {"run_id": event.run_id, "target_id": event.target, "mode": event.mode, "metadata": about}
    row |= {"finished": False, "analysis_asked": False, "started_at": stored.time, "updated_at": stored.time}
    rows.put(runs, row)
    _part(rows, event.run_id, event.delivery_id, "opening", stored)


def _part(rows: Rows, run_id: str, delivery_id: Any, part: str, stored: Stored, **more: Any) -> None:
    row = {"delivery_id": delivery_id, "run_id": run_id, "part": part, "state": "pending", "added_at": stored.time}
    rows.put(parts, row | more)


@projection.on(MeasurementAdded)
def measured(event: MeasurementAdded, stored: Stored, rows: Rows) -> None:
    told = event.data.model_dump(mode="json", include=set(MEASURED))
    told |= {"sequence": event.sequence, "key": event.key}
    _part(rows, event.run_id, event.measurement_id, "measurement", stored, **told, **_file(event))
    _touch(rows, event.run_id, stored)


MEASURED = (
    "device_name",
    "measurement_type",
    "die_x",
    "die_y",
    "lot_name",
    "wafer_name",
    "test_station_name",
    "test_meta",
)


@projection.on(AttachmentAdded)
def attached(event: AttachmentAdded, stored: Stored, rows: Rows) -> None:
    _part(rows, event.run_id, event.attachment_id, "attachment", stored, **_file(event))
    _touch(rows, event.run_id, stored)


def _file(event: MeasurementAdded | AttachmentAdded) -> dict[str, Any]:
    return {"sha256": event.sha256, "size_bytes": event.size_bytes, "file_name": event.file_name}


@projection.on(RunFinished)
def finished(event: RunFinished, stored: Stored, rows: Rows) -> None:
    _touch(rows, event.run_id, stored, finished=True, finished_at=stored.time)


@projection.on(AnalysisRequested)
def analysis_requested(event: AnalysisRequested, stored: Stored, rows: Rows) -> None:
    _part(rows, event.run_id, event.delivery_id, "analysis", stored)
    _touch(rows, event.run_id, stored, analysis_asked=True)


@projection.on(PartDelivered, PartParked, PartCancelled, PartRetried)
def ended(event: PartDelivered | PartParked | PartCancelled | PartRetried, stored: Stored, rows: Rows) -> None:
    row = rows.get(parts, event.delivery_id)
    if row is None:
        return
    row["ended_at"] = stored.time
    match event:
        case PartDelivered():
            row |= {"state": "delivered", "remote_id": event.remote_id or None, "reason": None}
            if event.part == "opening":
                _touch(rows, event.run_id, stored, remote_id=event.remote_id or None)
        case PartParked():
            row |= {"state": "parked", "reason": event.reason}
        case PartCancelled():
            row |= {"state": "cancelled", "reason": event.reason}
        case PartRetried():
            row |= {"state": "pending", "ended_at": None}
    _touch(rows, event.run_id, stored)


@projection.on(RetryRequested)
def retried(event: RetryRequested, stored: Stored, rows: Rows) -> None:
    for delivery_id in event.delivery_ids:
        row = rows.get(parts, delivery_id)
        if row is not None:
            row |= {"state": "pending", "ended_at": None}
    _touch(rows, event.run_id, stored)


def _touch(rows: Rows, run_id: str, stored: Stored, **more: Any) -> None:
    row = rows.get(runs, run_id)
    if row is not None:
        row |= {"updated_at": stored.time, **more}
