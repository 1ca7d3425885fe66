"""The scans: state, progress, rate and time remaining.

Rate and time remaining come from the times in the events, not from a clock here: a rebuild gives the same rows.
"""

from datetime import UTC, datetime
from typing import Any

from bus.envelope import Stored
from bus.projector import Column, Projection, Row, Rows, Table, View
from domain.events import Event
from domain.readings import ReadingsClosed, ReadingsOpened, ReadingsRecorded
from domain.scan import (
    ScanAborted,
    ScanAbortRequested,
    ScanCompleted,
    ScanContinued,
    ScanFailed,
    ScanHeld,
    ScanInterrupted,
    ScanPaused,
    ScanPauseRequested,
    ScanRequested,
    ScanRestarted,
    ScanResumed,
    ScanResumeRequested,
    ScanStarted,
)

scans = Table(
    "scans",
    key=("scan_id",),
    columns=(
        Column("scan_id", "uuid", "Its id; also the id of its first job."),
        Column("title", "text", "What people call it."),
        Column("state", "text", "queued, running, paused, completed, aborted or failed."),
        Column("wish", "text", "What was asked for and is not done yet: pause, resume or abort."),
        Column("interrupted", "boolean", "Its station is gone; it waits to be continued."),
        Column("held", "boolean", "It waits for a person after an interruption."),
        Column("sample_id", "text", "The sample that is measured."),
        Column("queue_id", "text", "Its queue."),
        Column("priority", "text", "low, normal, high or urgent."),
        Column("plan", "jsonb", "What it does."),
        Column("instruments", "text[]", "All instruments that it uses."),
        Column("station_id", "text", "The station that runs it."),
        Column("attempt", "integer", "Rises with each continuation after a crash and each restart."),
        Column("interruptions", "integer", "How often a crash interrupted it."),
        Column("points_total", "bigint", "How many points its plan has."),
        Column("points_done", "bigint", "How many of them are durable in this round."),
        Column("segment_point", "bigint", "Where the readings were opened last,"),
        Column("segment_at", "timestamptz", "and when."),
        Column("measured_at", "timestamptz", "When the newest point was measured."),
        Column("reason", "text", "Why it failed, was aborted, interrupted or held."),
        Column("error", "text", "The kind of failure."),
        Column("on_crash", "text", "resume, restart or hold."),
        Column("metadata", "jsonb", "What people added."),
        Column("requested_by", "text", "Who asked for it."),
        Column("requested_at", "timestamptz", "When it was asked for."),
        Column("started_at", "timestamptz", "When its first attempt started."),
        Column("ended_at", "timestamptz", "When it ended; NULL while it has not."),
        Column("updated_at", "timestamptz", "When something about it last changed."),
    ),
    indexes=(("state",), ("sample_id",), ("queue_id",)),
)

_RATE = (
    "case when measured_at > segment_at then"
    " (points_done - segment_point) / extract(epoch from measured_at - segment_at) end"
)

projection = Projection(
    "scans",
    version=1,
    tables=[scans],
    views=[
        View(
            "scans",
            "One row a scan, with its progress.",
            "select s.*, case when points_total > 0 then 100.0::double precision * points_done / points_total end as percent,"
            " rate as points_per_s,"
            " case when state = 'running' and rate > 0 then (points_total - points_done) / rate end as remaining_s"
            f" from (select *, ({_RATE})::double precision as rate from {{schema}}.scans) s",
            {c.name: c.doc for c in scans.columns}
            | {
                "rate": "As points_per_s.",
                "percent": "Progress, 0 to 100.",
                "points_per_s": "Points per second since the readings were opened last.",
                "remaining_s": "Seconds until it is done at that rate; NULL when it does not run.",
            },
        )
    ],
)


@projection.on(ScanRequested)
def requested(event: ScanRequested, stored: Stored, rows: Rows) -> None:
    rows.put(
        scans,
        {
            "scan_id": event.scan_id,
            "title": event.title,
            "state": "queued",
            "interrupted": False,
            "held": False,
            "sample_id": event.sample_id,
            "queue_id": event.queue_id,
            "priority": event.priority,
            "plan": event.plan.model_dump(mode="json"),
            "instruments": list(event.instruments),
            "attempt": 1,
            "interruptions": 0,
            "points_total": event.total_points,
            "points_done": 0,
            "reason": "",
            "on_crash": event.on_crash,
            "metadata": dict(event.metadata),
            "requested_by": stored.actor,
            "requested_at": stored.time,
            "updated_at": stored.time,
        },
    )


_ENDS: dict[type[Event], str] = {ScanCompleted: "completed", ScanAborted: "aborted", ScanFailed: "failed"}
_WISHES: dict[type[Event], str] = {
    ScanPauseRequested: "pause",
    ScanResumeRequested: "resume",
    ScanAbortRequested: "abort",
}


@projection.on(
    ScanStarted, ScanContinued, ScanPaused, ScanResumed, ScanInterrupted, ScanHeld, ScanRestarted, *_WISHES, *_ENDS
)
def changed(event: Any, stored: Stored, rows: Rows) -> None:
    row = rows.get(scans, event.scan_id)
    if row is None:
        return
    row["updated_at"] = stored.time
    match event:
        case ScanStarted() | ScanContinued():
            row |= {
                "state": "running",
                "station_id": event.station_id,
                "attempt": event.attempt,
                "wish": None,
                "interrupted": False,
                "held": False,
                "started_at": row["started_at"] or stored.time,
            }
        case ScanPaused():
            row |= {"state": "paused", "wish": None if row["wish"] == "pause" else row["wish"]}
        case ScanResumed():
            row |= {"state": "running", "wish": None if row["wish"] == "resume" else row["wish"]}
        case ScanInterrupted(reason=reason):
            row |= {"interrupted": True, "interruptions": row["interruptions"] + 1, "reason": reason}
        case ScanHeld(reason=reason):
            row |= {"state": "paused", "held": True, "wish": None, "reason": reason}
        case ScanRestarted(attempt=attempt):
            row |= _fresh() | {"state": "queued", "attempt": attempt, "points_done": 0, "reason": "", "error": None}
        case _ if type(event) in _WISHES:
            row |= {"wish": _WISHES[type(event)], "held": False}
        case _:
            reason = getattr(event, "reason", "")
            row |= _fresh() | {"state": _ENDS[type(event)], "reason": reason, "ended_at": stored.time}
            row["error"] = getattr(event, "error", None)


def _fresh() -> Row:
    """No station, no wish, no interruption."""
    return {"station_id": None, "wish": None, "interrupted": False, "held": False, "ended_at": None}


@projection.on(ReadingsOpened)
def opened(event: ReadingsOpened, stored: Stored, rows: Rows) -> None:
    row = rows.get(scans, event.scan_id)
    if row is not None:
        row |= {
            "points_done": event.from_point,
            "segment_point": event.from_point,
            "segment_at": stored.time,
            "measured_at": None,
            "updated_at": stored.time,
        }


@projection.on_data(ReadingsRecorded, last=True)
def recorded(frame: Row, stored: Stored, rows: Rows) -> None:
    row = rows.get(scans, frame["scan_id"])
    if row is not None:
        row |= {
            "points_done": frame["first_point"] + len(frame["time"]),
            "measured_at": datetime.fromtimestamp(frame["time"][-1], UTC),
            "updated_at": stored.time,
        }


@projection.on(ReadingsClosed)
def closed(event: ReadingsClosed, stored: Stored, rows: Rows) -> None:
    row = rows.get(scans, event.scan_id)
    if row is not None:
        row |= {"points_done": event.next_point, "updated_at": stored.time}
