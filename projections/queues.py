"""The queues, their jobs, and the log of both."""

from typing import Any

from bus.envelope import Stored
from bus.projector import Column, Projection, Row, Rows, Table, View
from domain import job as jobs_domain
from domain import queue as queues_domain
from domain.events import EVENTS, Event
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
from domain.queue import (
    JobAdded,
    JobDispatched,
    JobFinished,
    JobMoved,
    JobPrioritised,
    JobRemoved,
    JobReplacedInQueue,
    JobRequeued,
    QueueBecameIdle,
    QueueCleared,
    QueueConfigured,
    QueueCreated,
    QueuePaused,
    QueueResumed,
    QueueStarted,
    QueueStopped,
    QueueStopping,
)

queues = Table(
    "queues",
    key=("queue_id",),
    columns=(
        Column("queue_id", "text", "Its name."),
        Column("title", "text", "What people call it."),
        Column("state", "text", "idle, running, paused or stopping."),
        Column("mode", "text", "automatic or manual."),
        Column("job_order", "text", "fifo or priority."),
        Column("max_concurrent", "integer", "How many of its jobs may run at once."),
        Column("line", "uuid[]", "The waiting jobs, in the order of the line."),
        Column("running", "uuid[]", "The jobs that run."),
        Column("finished", "bigint", "How many jobs have ended since it was created."),
        Column("revision", "bigint", "How often it was edited: what `expected_revision` compares with."),
        Column("updated_at", "timestamptz", "When something about it last changed."),
    ),
)

jobs = Table(
    "jobs",
    key=("job_id",),
    columns=(
        Column("job_id", "uuid", "Its id."),
        Column("queue_id", "text", "The queue it was submitted to."),
        Column("kind", "text", "What kind of worker does it: scan, extraction, ..."),
        Column("title", "text", "What people call it."),
        Column("state", "text", "waiting, running, retrying, succeeded, failed or cancelled."),
        Column("priority", "text", "low, normal, high or urgent."),
        Column("claims", "text[]", "The instruments that it needs for itself."),
        Column("spec", "jsonb", "What its worker is told."),
        Column("attempt", "integer", "The newest attempt, from 1; 0 before the first."),
        Column("max_attempts", "integer", "How many attempts it was given."),
        Column("worker", "text", "Who runs it now."),
        Column("percent", "double precision", "How far it says it is, 0 to 100."),
        Column("note", "text", "What it says about that."),
        Column("reason", "text", "Why it failed, was released or was cancelled, last time."),
        Column("result", "jsonb", "What it led to."),
        Column("retry_at", "timestamptz", "When it is tried again; NULL when it does not wait for that."),
        Column("batch_id", "uuid", "The batch it belongs to."),
        Column("submitted_at", "timestamptz", "When it was submitted."),
        Column("started_at", "timestamptz", "When its newest attempt started."),
        Column("ended_at", "timestamptz", "When it ended; NULL while it has not."),
        Column("updated_at", "timestamptz", "When something about it last changed."),
    ),
    indexes=(("queue_id", "state"), ("batch_id",)),
)

queue_log = Table(
    "queue_log",
    key=("sequence",),
    columns=(
        Column("sequence", "bigint", "The event's sequence."),
        Column("at", "timestamptz", "When it happened."),
        Column("queue_id", "text", "The queue it is about."),
        Column("job_id", "uuid", "The job it is about; NULL when it is about the queue alone."),
        Column("event", "text", "What happened."),
        Column("actor", "text", "Who ordered it."),
        Column("details", "jsonb", "The event's other fields."),
    ),
    indexes=(("queue_id", "sequence"), ("job_id", "sequence")),
)


def _named(event: Event) -> list[tuple[str, Any]]:
    """Rows that an event changes under other names than its own."""
    found: list[tuple[str, Any]] = []
    if isinstance(event, JobReplacedInQueue | JobReplaced):
        found.append(("job_id", event.new_job_id))
    if isinstance(event, QueueCleared):
        found += [("job_id", job_id) for job_id in event.job_ids]
    return found


_LOG = {c.name: c.doc for c in queue_log.columns}

projection = Projection(
    "queues",
    version=1,
    tables=[queues, jobs, queue_log],
    views=[
        View(
            "queues",
            "One row a queue.",
            "select *, cardinality(line) as waiting from {schema}.queues",
            {c.name: c.doc for c in queues.columns} | {"waiting": "How many jobs wait."},
        ),
        View(
            "jobs",
            "One row a job, with its place in the line.",
            "select j.*, array_position(q.line, j.job_id) as position from {schema}.jobs j"
            " left join {schema}.queues q using (queue_id)",
            {c.name: c.doc for c in jobs.columns}
            | {"position": "Its place in the line from 1; NULL when not waiting."},
        ),
        View("queue_log", "One row for each event of a queue or a job.", "select * from {schema}.queue_log", _LOG),
    ],
    also=_named,
)

_EVERY = [
    event
    for name, event in EVENTS.items()
    if name.split(".")[0] in (queues_domain.aggregate.kind, jobs_domain.aggregate.kind)
]


@projection.on(*_EVERY)
def logged(event: Event, stored: Stored, rows: Rows) -> None:
    data = event.model_dump(mode="json")
    job_id = data.pop("job_id", None)
    queue_id = data.pop("queue_id", None)
    if queue_id is None and job_id is not None:
        row = rows.get(jobs, job_id)
        queue_id = row["queue_id"] if row else None
    rows.append(
        queue_log,
        {
            "sequence": stored.seq,
            "at": stored.time,
            "queue_id": queue_id,
            "job_id": job_id,
            "event": event.NAME,
            "actor": stored.actor,
            "details": data,
        },
    )


_STATES: dict[type[Event], str] = {
    QueueStarted: "running",
    QueueResumed: "running",
    QueuePaused: "paused",
    QueueStopping: "stopping",
    QueueStopped: "idle",
    QueueBecameIdle: "idle",
}


@projection.on(QueueCreated, QueueConfigured, *_STATES)
def queue_changed(event: Any, stored: Stored, rows: Rows) -> None:
    if isinstance(event, QueueCreated):
        row = rows.put(
            queues,
            {"queue_id": event.queue_id, "state": "idle", "line": [], "running": [], "finished": 0, "revision": 0},
        )
    else:
        row = rows.get(queues, event.queue_id) or {}
    row["updated_at"] = stored.time
    if isinstance(event, QueueCreated | QueueConfigured):
        row |= {
            "title": event.title,
            "mode": event.mode,
            "job_order": event.order,
            "max_concurrent": event.max_concurrent,
        }
    else:
        row["state"] = _STATES[type(event)]
    if isinstance(event, QueueConfigured):
        row["revision"] = event.revision


def _without(row: Row, job_id: Any) -> None:
    row["line"] = [one for one in row["line"] if str(one) != str(job_id)]


@projection.on(
    JobAdded,
    JobMoved,
    JobRequeued,
    JobRemoved,
    QueueCleared,
    JobReplacedInQueue,
    JobPrioritised,
    JobDispatched,
    JobFinished,
)
def line_changed(event: Any, stored: Stored, rows: Rows) -> None:
    row = rows.get(queues, event.queue_id)
    if row is None:
        return
    row["updated_at"] = stored.time
    row["revision"] = getattr(event, "revision", row["revision"])
    match event:
        case JobAdded(job_id=job_id):
            row["line"] = [*row["line"], str(job_id)]
        case JobMoved(job_id=job_id, position=position) | JobRequeued(job_id=job_id, position=position):
            _without(row, job_id)
            row["running"] = [one for one in row["running"] if str(one) != str(job_id)]
            row["line"].insert(position - 1, str(job_id))
        case JobRemoved(job_id=job_id):
            _without(row, job_id)
        case QueueCleared():
            row["line"] = []
        case JobReplacedInQueue(job_id=job_id, new_job_id=new):
            row["line"] = [str(new) if str(one) == str(job_id) else one for one in row["line"]]
        case JobPrioritised(job_id=job_id, priority=priority):
            job = rows.get(jobs, job_id)
            if job is not None:
                job["priority"] = priority
        case JobDispatched(job_id=job_id):
            _without(row, job_id)
            row["running"] = [*row["running"], str(job_id)]
        case JobFinished(job_id=job_id):
            _without(row, job_id)
            row["running"] = [one for one in row["running"] if str(one) != str(job_id)]
            row["finished"] += 1
        case _:
            raise TypeError(f"{event} is no change of a line")


@projection.on(JobSubmitted)
def submitted(event: JobSubmitted, stored: Stored, rows: Rows) -> None:
    rows.put(
        jobs,
        {
            "job_id": event.job_id,
            "queue_id": event.queue_id,
            "kind": event.job_kind,
            "title": event.title,
            "state": "waiting",
            "priority": event.priority,
            "claims": list(event.claims),
            "spec": event.spec,
            "attempt": 0,
            "max_attempts": event.max_attempts,
            "worker": "",
            "percent": 0.0,
            "note": "",
            "reason": "",
            "batch_id": event.batch_id,
            "submitted_at": stored.time,
            "updated_at": stored.time,
        },
    )


@projection.on(JobStarted, JobProgressed, JobSucceeded, JobFailed, JobReleased, JobRetried, JobCancelled, JobReplaced)
def job_changed(event: Any, stored: Stored, rows: Rows) -> None:
    row = rows.get(jobs, event.job_id)
    if row is None:
        return
    row["updated_at"] = at = stored.time
    match event:
        case JobStarted():
            row |= {
                "state": "running",
                "attempt": event.attempt,
                "worker": event.worker,
                "percent": 0.0,
                "note": "",
                "retry_at": None,
                "started_at": at,
                "ended_at": None,
            }
        case JobProgressed(percent=percent, note=note):
            row |= {"percent": percent, "note": note}
        case JobSucceeded(result=result):
            row |= {
                "state": "succeeded",
                "worker": "",
                "percent": 100.0,
                "result": result,
                "reason": "",
                "ended_at": at,
            }
        case JobFailed(final=final):
            row |= {
                "state": "failed" if final else "retrying",
                "worker": "",
                "reason": event.error,
                "retry_at": event.retry_at,
                "ended_at": at if final else None,
            }
        case JobReleased(reason=reason):
            row |= {"state": "waiting", "worker": "", "reason": reason}
        case JobRetried():
            row |= {"state": "waiting", "reason": "", "retry_at": None, "ended_at": None}
        case JobCancelled(reason=reason):
            row |= {"state": "cancelled", "worker": "", "reason": reason, "retry_at": None, "ended_at": at}
        case JobReplaced(new_job_id=new):
            row |= {"state": "cancelled", "reason": f"replaced by job {new}", "retry_at": None, "ended_at": at}
        case _:
            raise TypeError(f"{event} is no change of a job")
