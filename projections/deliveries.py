"""The deliveries with their receipts, the targets, and figures of each target."""

from typing import Any

from bus.envelope import Stored
from bus.projector import Column, Projection, Rows, Table, View
from domain.delivery import (
    DeliveryAttempted,
    DeliveryCancelled,
    DeliveryCheckpointed,
    DeliveryDelivered,
    DeliveryEvent,
    DeliveryFailed,
    DeliveryParked,
    DeliveryRequested,
    DeliveryRetried,
    DeliveryVerified,
)
from domain.events import Event
from domain.job import JobProgressed, JobReleased
from domain.target import TargetOpened, TargetTested

deliveries = Table(
    "deliveries",
    key=("delivery_id",),
    columns=(
        Column("delivery_id", "uuid", "Its id, and that of its job."),
        Column("target_id", "text", "The target."),
        Column("artifact", "text", "SHA-256 of what is delivered; NULL for what has no file."),
        Column("size", "bigint", "Bytes of the file."),
        Column("media_type", "text", "Media type of the file."),
        Column("file_name", "text", "Name of the file."),
        Column("key", "text", "The name asked for at the target; empty: by the target's template."),
        Column("title", "text", "What people call it."),
        Column("queue_id", "text", "Its queue."),
        Column("priority", "text", "low, normal, high or urgent, as requested."),
        Column("scan_id", "uuid", "The scan that it belongs to."),
        Column("run_id", "text", "The run that it belongs to."),
        Column("publication_id", "uuid", "The publication that it belongs to."),
        Column("state", "text", "requested, attempting, failed (to be tried again), delivered, parked or cancelled."),
        Column("attempt", "integer", "The newest attempt, from 1; 0 before the first."),
        Column(
            "failures", "integer", "How often an attempt failed by itself; waiting for something else is no failure."
        ),
        Column("worker", "text", "Who attempts it, or attempted it last."),
        Column("percent", "double precision", "How far it is, 0 to 100."),
        Column("note", "text", "What is being done."),
        Column("error_kind", "text", "What kind of failure it was, last time (docs/delivery.md)."),
        Column("error", "text", "Why it failed, was parked or cancelled, last time."),
        Column("retry_at", "timestamptz", "When it is tried again."),
        Column("outcome", "text", "stored, existed or superseded, once it is delivered."),
        Column("location", "text", "Where it lies, for a person."),
        Column("receipt", "jsonb", "What the target answered, in whole."),
        Column("duration_s", "double precision", "How long the attempt that delivered it took, s."),
        Column("bytes_sent", "bigint", "Bytes that it sent."),
        Column("verified", "boolean", "What the last verification found; NULL where there was none."),
        Column("verified_at", "timestamptz", "When the target was last asked again."),
        Column("requested_at", "timestamptz", "When it was asked for."),
        Column("ended_at", "timestamptz", "When it was delivered, parked or cancelled."),
        Column("updated_at", "timestamptz", "When something about it last changed."),
    ),
    indexes=(("target_id", "state"), ("artifact",), ("scan_id",), ("run_id",), ("requested_at",)),
)

targets = Table(
    "targets",
    key=("target_id",),
    columns=(
        Column("target_id", "text", "Its name in the settings."),
        Column("adapter", "text", "The adapter that speaks to it."),
        Column("system", "text", "s3, ipfs, kv, maskhub, ..."),
        Column("description", "jsonb", "Where it is and how it is used."),
        Column("missing", "text[]", "Credentials that are not set: while there are any, what is asked for waits."),
        Column("concurrency", "integer", "Deliveries under way at once."),
        Column("test_ok", "boolean", "What the last test found; NULL where there was none."),
        Column("tested_at", "timestamptz", "When it was last tested."),
        Column("opened_at", "timestamptz", "When a worker last said something new of it."),
    ),
)

_STATISTICS = """
select t.target_id, t.system,
    count(d.*) as deliveries,
    count(*) filter (where d.state in ('requested', 'attempting', 'failed')) as waiting,
    count(*) filter (where d.state = 'delivered') as delivered,
    count(*) filter (where d.state = 'parked') as parked,
    count(*) filter (where d.state = 'cancelled') as cancelled,
    coalesce(sum(d.failures), 0)::bigint as failures,
    (select jsonb_object_agg(error_kind, n) from (
        select error_kind, count(*) as n from {schema}.deliveries k
        where k.target_id = t.target_id and k.error_kind is not null group by error_kind) kinds) as failure_kinds,
    coalesce(sum(d.bytes_sent), 0)::bigint as bytes_sent,
    (sum(d.bytes_sent) filter (where d.duration_s > 0))
        / nullif(sum(d.duration_s) filter (where d.bytes_sent > 0), 0) / 1e6 as mb_per_s,
    min(d.requested_at) filter (where d.state in ('requested', 'attempting', 'failed')) as oldest_waiting_at,
    max(d.ended_at) filter (where d.state = 'delivered') as last_delivered_at
from {schema}.targets t left join {schema}.deliveries d using (target_id)
group by t.target_id, t.system
"""


def _job_is_delivery(event: Event) -> list[tuple[str, Any]]:
    """The job of a delivery has its id."""
    return [("delivery_id", event.job_id)] if isinstance(event, JobProgressed | JobReleased) else []


projection = Projection(
    "deliveries",
    version=1,
    tables=[deliveries, targets],
    views=[
        View(
            "deliveries",
            "One row a delivery.",
            "select * from {schema}.deliveries",
            {c.name: c.doc for c in deliveries.columns},
        ),
        View(
            "targets",
            "One row a target, as its workers know it.",
            "select * from {schema}.targets",
            {c.name: c.doc for c in targets.columns},
        ),
        View(
            "delivery_statistics",
            "One row a target: what became of its deliveries.",
            _STATISTICS,
            {
                "target_id": "The target.",
                "system": "s3, ipfs, kv, maskhub, ...",
                "deliveries": "All that were ever asked for.",
                "waiting": "Those that wait, are under way, or will be tried again.",
                "delivered": "Those with a receipt.",
                "parked": "Those that need a person.",
                "cancelled": "Those that were called off.",
                "failures": "Attempts that failed by themselves.",
                "failure_kinds": "Deliveries by the kind of their last failure, also of those that were delivered later.",
                "bytes_sent": "Bytes sent by the attempts that delivered.",
                "mb_per_s": "How fast those were, MB/s.",
                "oldest_waiting_at": "When the oldest that waits was asked for.",
                "last_delivered_at": "When the last one was delivered.",
            },
        ),
    ],
    also=_job_is_delivery,
)


@projection.on(
    DeliveryRequested,
    DeliveryAttempted,
    DeliveryCheckpointed,
    DeliveryFailed,
    DeliveryDelivered,
    DeliveryParked,
    DeliveryRetried,
    DeliveryCancelled,
    DeliveryVerified,
)
def changed(event: DeliveryEvent, stored: Stored, rows: Rows) -> None:
    if isinstance(event, DeliveryRequested):
        rows.put(deliveries, _asked(event, stored))
        return
    row = rows.get(deliveries, event.delivery_id)
    if row is None:
        return
    row["updated_at"] = stored.time
    match event:
        case DeliveryAttempted():
            row.update(state="attempting", attempt=event.attempt, worker=event.worker, percent=0.0, note="")
            row["retry_at"] = None
        case DeliveryCheckpointed():
            pass
        case DeliveryFailed():
            row.update(state="failed", retry_at=event.retry_at)
            row["failures"] += event.kind != "waiting"
            row.update(error_kind=event.kind, error=event.error)
        case DeliveryParked():
            row.update(state="parked", ended_at=stored.time, failures=row["failures"] + 1)
            row.update(error_kind=event.kind, error=event.error)
        case DeliveryDelivered(receipt=receipt):
            row.update(state="delivered", ended_at=stored.time, percent=100.0, note="", retry_at=None)
            row.update(outcome=receipt.outcome, location=receipt.location, bytes_sent=receipt.bytes_sent)
            row.update(receipt=receipt.model_dump(mode="json"), duration_s=event.duration_s, error=None)
        case DeliveryRetried():
            row.update(state="requested", ended_at=None)
        case DeliveryCancelled():
            row.update(state="cancelled", ended_at=stored.time, error=event.reason, retry_at=None)
        case DeliveryVerified():
            row.update(verified=event.ok, verified_at=event.verified_at)
    rows.put(deliveries, row)


def _asked(event: DeliveryRequested, stored: Stored) -> dict[str, Any]:
    row: dict[str, Any] = {column.name: None for column in deliveries.columns}
    row |= event.model_dump(include=set(row))
    return row | {
        "state": "requested",
        "attempt": 0,
        "failures": 0,
        "percent": 0.0,
        "note": "",
        "requested_at": stored.time,
        "updated_at": stored.time,
    }


@projection.on(JobProgressed, JobReleased)
def told(event: JobProgressed | JobReleased, stored: Stored, rows: Rows) -> None:
    row = rows.get(deliveries, event.job_id)
    if row is None:
        return  # the job of something else
    row["updated_at"] = stored.time
    if isinstance(event, JobProgressed):
        row.update(percent=event.percent, note=event.note)
    else:
        row.update(state="requested", error=event.reason)
    rows.put(deliveries, row)


@projection.on(TargetOpened)
def opened(event: TargetOpened, stored: Stored, rows: Rows) -> None:
    row = rows.get(targets, event.target_id) or {"test_ok": None, "tested_at": None}
    rows.put(targets, {**row, **event.model_dump(), "missing": list(event.missing), "opened_at": stored.time})


@projection.on(TargetTested)
def tested(event: TargetTested, stored: Stored, rows: Rows) -> None:
    row = rows.get(targets, event.target_id)
    if row is not None:
        rows.put(targets, {**row, "test_ok": event.ok, "tested_at": event.tested_at})
