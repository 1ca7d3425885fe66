"""How the queues do: throughput, success, durations. One row a job, from the times of its events; the rest is views.

Times are those of the events, so that a replay gives the same rows; only views that speak of the last hour look at the clock.
"""

from typing import Any

from bus.envelope import Stored
from bus.projector import Column, Projection, Rows, Table, View
from domain.job import (
    JobCancelled,
    JobFailed,
    JobReleased,
    JobReplaced,
    JobRetried,
    JobStarted,
    JobSubmitted,
    JobSucceeded,
)

runs = Table(
    "runs",
    key=("job_id",),
    columns=(
        Column("job_id", "uuid", "The job."),
        Column("queue_id", "text", "Its queue."),
        Column("kind", "text", "scan, extraction, spice_fit, ..."),
        Column("state", "text", "waiting, running, retrying, succeeded, failed or cancelled."),
        Column("attempts", "integer", "How often it was started."),
        Column("failures", "integer", "How many attempts failed."),
        Column("released", "integer", "How many attempts were lost with their worker."),
        Column("submitted_at", "timestamptz", "When it was submitted."),
        Column("first_started_at", "timestamptz", "When its first attempt started."),
        Column("started_at", "timestamptz", "When its newest attempt started."),
        Column("ended_at", "timestamptz", "When it ended; NULL while it has not."),
    ),
    indexes=(("queue_id", "kind"), ("ended_at",)),
)

_FIGURES = """
    count(*) as jobs,
    count(*) filter (where state in ('waiting', 'retrying')) as waiting,
    count(*) filter (where state = 'running') as running,
    count(*) filter (where state = 'succeeded') as succeeded,
    count(*) filter (where state = 'failed') as failed,
    count(*) filter (where state = 'cancelled') as cancelled,
    round(count(*) filter (where state = 'succeeded')::numeric
        / nullif(count(*) filter (where state in ('succeeded', 'failed')), 0), 4)::double precision as success_rate,
    coalesce(sum(failures), 0) as failed_attempts,
    coalesce(sum(released), 0) as lost_attempts,
    count(*) filter (where state = 'succeeded' and ended_at > now() - interval '1 hour') as succeeded_last_hour,
    percentile_cont(0.5) within group (order by extract(epoch from first_started_at - submitted_at))
        as wait_p50_s,
    percentile_cont(0.95) within group (order by extract(epoch from first_started_at - submitted_at))
        as wait_p95_s,
    percentile_cont(0.5) within group (order by case when state = 'succeeded' then extract(epoch from ended_at - started_at) end)
        as duration_p50_s,
    percentile_cont(0.95) within group (order by case when state = 'succeeded' then extract(epoch from ended_at - started_at) end)
        as duration_p95_s,
    percentile_cont(0.99) within group (order by case when state = 'succeeded' then extract(epoch from ended_at - started_at) end)
        as duration_p99_s,
    (3600 * count(*) filter (where state = 'succeeded') / nullif(extract(epoch from
        max(ended_at) filter (where state = 'succeeded') - min(started_at) filter (where state = 'succeeded')), 0)
        )::double precision as per_hour
"""

_COLUMNS = {
    "jobs": "How many jobs there ever were.",
    "waiting": "How many wait, also for another try.",
    "running": "How many run.",
    "succeeded": "How many succeeded.",
    "failed": "How many failed for good.",
    "cancelled": "How many were cancelled.",
    "success_rate": "Share of those that succeeded among those that succeeded or failed.",
    "failed_attempts": "Attempts that failed, also of jobs that succeeded later.",
    "lost_attempts": "Attempts that were lost with their worker.",
    "succeeded_last_hour": "How many succeeded in the last hour.",
    "wait_p50_s": "Median time from submission to the first start, s.",
    "wait_p95_s": "95 % waited no longer, s.",
    "duration_p50_s": "Median time of the successful attempt, s.",
    "duration_p95_s": "95 % took no longer, s.",
    "duration_p99_s": "99 % took no longer, s.",
    "per_hour": "Jobs an hour, from the first start to the last end of those that succeeded.",
}

projection = Projection(
    "statistics",
    version=1,
    tables=[runs],
    views=[
        View(
            "statistics",
            "One row for each kind of job over all queues, and one of all kinds together (kind is NULL).",
            f"select kind, {_FIGURES} from {{schema}}.runs group by grouping sets ((kind), ())",
            {"kind": "scan, extraction, spice_fit, ...; NULL for all together."} | _COLUMNS,
        ),
        View(
            "queue_statistics",
            "One row for each queue and kind of job.",
            f"select queue_id, kind, {_FIGURES} from {{schema}}.runs group by queue_id, kind",
            {"queue_id": "The queue.", "kind": "scan, extraction, spice_fit, ..."} | _COLUMNS,
        ),
        View(
            "throughput",
            "One row for each hour and kind of job in which any ended.",
            "select date_trunc('hour', ended_at) as hour, kind,"
            " count(*) filter (where state = 'succeeded') as succeeded,"
            " count(*) filter (where state = 'failed') as failed,"
            " avg(extract(epoch from ended_at - started_at)) filter (where state = 'succeeded')::double precision"
            " as duration_mean_s"
            " from {schema}.runs where ended_at is not null group by 1, 2",
            {
                "hour": "The hour, by its beginning.",
                "kind": "scan, extraction, spice_fit, ...",
                "succeeded": "How many succeeded in it.",
                "failed": "How many failed in it.",
                "duration_mean_s": "Mean time of the successful attempts, s.",
            },
        ),
    ],
)


@projection.on(JobSubmitted)
def submitted(event: JobSubmitted, stored: Stored, rows: Rows) -> None:
    rows.put(
        runs,
        {
            "job_id": event.job_id,
            "queue_id": event.queue_id,
            "kind": event.job_kind,
            "state": "waiting",
            "attempts": 0,
            "failures": 0,
            "released": 0,
            "submitted_at": stored.time,
        },
    )


@projection.on(JobStarted, JobSucceeded, JobFailed, JobReleased, JobRetried, JobCancelled, JobReplaced)
def changed(event: Any, stored: Stored, rows: Rows) -> None:
    row = rows.get(runs, event.job_id)
    if row is None:
        return
    at = stored.time
    match event:
        case JobStarted():
            row |= {"state": "running", "attempts": row["attempts"] + 1, "started_at": at, "ended_at": None}
            row["first_started_at"] = row["first_started_at"] or at
        case JobSucceeded():
            row |= {"state": "succeeded", "ended_at": at}
        case JobFailed(final=final):
            died = event.kind == "worker_died"
            row["released" if died else "failures"] += 1
            row |= {"state": "failed", "ended_at": at} if final else {"state": "retrying"}
        case JobReleased():
            row |= {"state": "waiting", "released": row["released"] + 1}
        case JobRetried():
            row |= {"state": "waiting", "ended_at": None}
        case JobCancelled() | JobReplaced():
            row |= {"state": "cancelled", "ended_at": at}
        case _:
            raise TypeError(f"{event} is no change of a job")
