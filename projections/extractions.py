"""The extractions with their progress, the curves that they found as arrays, and batches.

How far an extraction is, its job says, which has the same id: both kinds of events are read here.
"""

from typing import Any, cast

from bus.envelope import Stored
from bus.projector import Column, Projection, Rows, Table, View
from domain.batch import BatchCancelled, BatchEvent, BatchJobAdded, BatchOpened
from domain.events import Event
from domain.extraction import (
    ExtractionCancelled,
    ExtractionCompleted,
    ExtractionFailed,
    ExtractionRequested,
    ExtractionStarted,
)
from domain.job import (
    JobCancelled,
    JobFailed,
    JobProgressed,
    JobReleased,
    JobReplaced,
    JobRetried,
    JobStarted,
    JobSubmitted,
    JobSucceeded,
)

extractions = Table(
    "extractions",
    key=("extraction_id",),
    columns=(
        Column("extraction_id", "uuid", "Its id, and that of its job."),
        Column("graph_image_id", "text", "SHA-256 of the image."),
        Column("title", "text", "What people call it."),
        Column("method", "text", "standard, legacy or llm."),
        Column("parameters", "jsonb", "What was given beside the image."),
        Column("corrects", "uuid", "The extraction whose calibration it puts right."),
        Column("queue_id", "text", "Its queue."),
        Column("priority", "text", "low, normal, high or urgent, as requested."),
        Column("batch_id", "uuid", "The batch it belongs to."),
        Column("state", "text", "waiting, running, retrying, completed, failed or cancelled."),
        Column("attempt", "integer", "The newest attempt, from 1; 0 before the first."),
        Column("worker", "text", "Who runs it, or ran it last."),
        Column("percent", "double precision", "How far it is, 0 to 100."),
        Column("note", "text", "What is being done."),
        Column("error", "text", "Why it failed, was released or was cancelled, last time."),
        Column("error_kind", "text", "rejected, not_possible, crashed, took_too_long, worker_died or other."),
        Column("estimated_s", "double precision", "How long it was thought to take, s."),
        Column("duration_s", "double precision", "How long the attempt that completed it took, s."),
        Column("confidence", "double precision", "How sure the result is, 0 to 1."),
        Column("accepted", "boolean", "The result may be used without being looked at."),
        Column("axes_confidence", "jsonb", "How sure each axis is, 0 to 1."),
        Column("curve_names", "text[]", "The names of the curves, in the order of the result."),
        Column("csv", "text", "SHA-256 of the CSV."),
        Column("data", "text", "SHA-256 of the JSON with all points."),
        Column("overlay", "text", "SHA-256 of the picture of the curves on the image."),
        Column("calibration", "jsonb", "The axes as found; corrected, it can be given to a new extraction."),
        Column("notes", "text[]", "What the extractor had to say."),
        Column("requested_at", "timestamptz", "When it was requested."),
        Column("started_at", "timestamptz", "When its newest attempt started."),
        Column("ended_at", "timestamptz", "When it ended; NULL while it has not."),
        Column("updated_at", "timestamptz", "When something about it last changed."),
    ),
    indexes=(("graph_image_id",), ("state",), ("batch_id",), ("requested_at",)),
)

results = Table(
    "curves",
    key=("extraction_id", "curve"),
    columns=(
        Column("extraction_id", "uuid", "The extraction that found it."),
        Column("curve", "integer", "Its number in the result, from 1."),
        Column("graph_image_id", "text", "SHA-256 of the image."),
        Column("name", "text", "Its name in the image; NULL where the image gives none."),
        Column("confidence", "double precision", "How sure it is, 0 to 1."),
        Column("points", "integer", "How many points the JSON `data` has of it."),
        Column("x", "double precision[]", "At most 500 of them, in units of the x axis."),
        Column("y", "double precision[]", "The same points, in units of the y axis."),
        Column("x_unit", "text", "Unit of the x axis."),
        Column("y_unit", "text", "Unit of its y axis: of the second one, if it is read there."),
    ),
)

batches = Table(
    "batches",
    key=("batch_id",),
    columns=(
        Column("batch_id", "uuid", "Its id."),
        Column("title", "text", "What people call it."),
        Column("cancelled", "boolean", "It was cancelled as a whole."),
        Column("opened_at", "timestamptz", "When its first job was added."),
    ),
)

batch_jobs = Table(
    "batch_jobs",
    key=("job_id",),
    columns=(
        Column("job_id", "uuid", "The job."),
        Column("batch_id", "uuid", "Its batch."),
        Column("state", "text", "waiting, running, retrying, succeeded, failed or cancelled."),
        Column("ended_at", "timestamptz", "When it ended."),
    ),
    indexes=(("batch_id",),),
)

_BATCHES = """
select b.batch_id, b.title, b.opened_at, b.cancelled,
    count(j.job_id) as jobs,
    count(*) filter (where j.state in ('waiting', 'retrying')) as waiting,
    count(*) filter (where j.state = 'running') as running,
    count(*) filter (where j.state = 'succeeded') as succeeded,
    count(*) filter (where j.state = 'failed') as failed,
    count(*) filter (where j.state = 'cancelled') as cancelled_jobs,
    case when b.cancelled then 'cancelled'
        when count(*) filter (where j.state in ('waiting', 'retrying', 'running')) > 0 then 'open'
        when count(*) filter (where j.state in ('failed', 'cancelled')) > 0 then 'done with failures'
        else 'done' end as state,
    max(j.ended_at) as last_ended_at
from {schema}.batches b left join {schema}.batch_jobs j using (batch_id)
group by b.batch_id, b.title, b.opened_at, b.cancelled
"""


def _job_is_extraction(event: Event) -> list[tuple[str, Any]]:
    """The job of an extraction has its id; a job of a batch is a row of its own."""
    found: list[tuple[str, Any]] = []
    job_id = getattr(event, "job_id", None)
    if job_id is not None:
        found += [("extraction_id", job_id), ("job_id", job_id)]
    return found


projection = Projection(
    "extractions",
    version=1,
    tables=[extractions, results, batches, batch_jobs],
    views=[
        View(
            "extractions",
            "One row an extraction, with its progress and what came of it.",
            "select * from {schema}.extractions",
            {c.name: c.doc for c in extractions.columns},
        ),
        View(
            "curves",
            "One row for each curve of a completed extraction, its points as arrays.",
            "select * from {schema}.curves",
            {c.name: c.doc for c in results.columns},
        ),
        View(
            "batches",
            "One row a batch: how far its jobs are.",
            _BATCHES,
            {
                "batch_id": "Its id.",
                "title": "What people call it.",
                "opened_at": "When its first job was added.",
                "cancelled": "It was cancelled as a whole.",
                "jobs": "How many jobs it has.",
                "waiting": "How many of them wait, also for another try.",
                "running": "How many run.",
                "succeeded": "How many succeeded.",
                "failed": "How many failed for good.",
                "cancelled_jobs": "How many were cancelled.",
                "state": "open, done, done with failures, or cancelled.",
                "last_ended_at": "When the last of those that have ended did.",
            },
        ),
    ],
    also=_job_is_extraction,
)


@projection.on(ExtractionRequested)
def requested(event: ExtractionRequested, stored: Stored, rows: Rows) -> None:
    rows.put(
        extractions,
        event.model_dump(mode="json")
        | {
            "state": "waiting",
            "attempt": 0,
            "worker": "",
            "percent": 0.0,
            "note": "",
            "error": "",
            "requested_at": stored.time,
            "updated_at": stored.time,
        },
    )


@projection.on(ExtractionStarted, ExtractionCompleted, ExtractionFailed, ExtractionCancelled)
def changed(event: Any, stored: Stored, rows: Rows) -> None:
    row = rows.get(extractions, event.extraction_id)
    if row is None:
        return
    row["updated_at"] = at = stored.time
    match event:
        case ExtractionStarted():
            row |= {"state": "running", "attempt": event.attempt, "worker": event.worker, "percent": 0.0, "note": ""}
            row |= {"error": "", "error_kind": None, "started_at": at, "ended_at": None}
        case ExtractionCompleted():
            _completed(event, row, rows)
            row["ended_at"] = at
        case ExtractionFailed():
            row |= {"state": "failed", "error": event.error, "error_kind": event.kind, "ended_at": at}
        case ExtractionCancelled():
            row |= {"state": "cancelled", "error": event.reason, "ended_at": at}
        case _:
            raise TypeError(f"{event} is no change of an extraction")


def _completed(event: ExtractionCompleted, row: dict[str, Any], rows: Rows) -> None:
    result = event.result
    row |= {"state": "completed", "percent": 100.0, "note": "", "error": "", "duration_s": event.duration_s}
    told = result.model_dump(mode="json", exclude={"curves", "timings_s"})
    row |= told | {"notes": list(result.notes)}
    row["curve_names"] = [curve.name or "" for curve in result.curves]
    axes = result.calibration
    for number, curve in enumerate(result.curves, start=1):
        rows.append(
            results,
            {
                "extraction_id": event.extraction_id,
                "curve": number,
                "graph_image_id": row["graph_image_id"],
                "name": curve.name,
                "confidence": curve.confidence,
                "points": curve.points,
                "x": list(curve.x),
                "y": list(curve.y),
                "x_unit": axes.x.unit if axes else "",
                "y_unit": y_axis.unit if (y_axis := getattr(axes, curve.axis, None)) else "",
            },
        )


_STATES: dict[type[Event], str] = {
    JobStarted: "running",
    JobSucceeded: "succeeded",
    JobReleased: "waiting",
    JobRetried: "waiting",
    JobCancelled: "cancelled",
    JobReplaced: "cancelled",
}


@projection.on(
    JobSubmitted,
    JobStarted,
    JobProgressed,
    JobSucceeded,
    JobFailed,
    JobReleased,
    JobRetried,
    JobCancelled,
    JobReplaced,
)
def job_changed(event: Any, stored: Stored, rows: Rows) -> None:
    of_batch = rows.get(batch_jobs, event.job_id)
    if of_batch is not None and not isinstance(event, JobSubmitted | JobProgressed):
        failed = "failed" if getattr(event, "final", False) else "retrying"
        of_batch["state"] = _STATES.get(cast("type[Event]", type(event)), failed)
        over = of_batch["state"] in ("succeeded", "failed", "cancelled")
        of_batch["ended_at"] = stored.time if over else None
    row = rows.get(extractions, event.job_id)
    if row is None:
        return
    match event:
        case JobProgressed():
            row |= {"percent": event.percent, "note": event.note, "updated_at": stored.time}
        case JobFailed(final=False):
            row |= {"state": "retrying", "error": event.error, "updated_at": stored.time}
        case JobReleased():
            row |= {"state": "waiting", "error": event.reason, "updated_at": stored.time}
        case JobRetried():
            row |= {"state": "waiting", "error": "", "error_kind": None, "ended_at": None, "updated_at": stored.time}
        case _:
            pass  # said by the extraction's own events


@projection.on(BatchOpened, BatchJobAdded, BatchCancelled)
def batch_changed(event: BatchEvent, stored: Stored, rows: Rows) -> None:
    match event:
        case BatchOpened():
            rows.put(
                batches,
                {"batch_id": event.batch_id, "title": event.title, "cancelled": False, "opened_at": stored.time},
            )
        case BatchJobAdded():
            rows.put(batch_jobs, {"job_id": event.job_id, "batch_id": event.batch_id, "state": "waiting"})
        case BatchCancelled():
            row = rows.get(batches, event.batch_id)
            if row is not None:
                row["cancelled"] = True
