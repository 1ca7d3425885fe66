"""Anything a queue dispatches to a worker: a scan, an extraction, a delivery, an import, a conversion, a backup.

    waiting --> running --> succeeded
       ^          |  |
       |          |  +--> retrying (transient failure, attempts left) --> running
       |          +-----> waiting  (released: the worker died, attempts left) --> running
       |          +-----> failed   (permanent, or no attempt left)
       +-- retried ------ failed, cancelled
    waiting, retrying, running --> cancelled (by a person, or because another job took its place)

Attempts are numbered from 1 and never reused. Each start uses one up, also one that ends because the worker died: a job
that kills its workers ends as failed instead of going round for ever. `job.retry` grants `max_attempts` more.

A worker proves with the attempt's number that it speaks of the attempt that runs now; a late word about an earlier one
is refused (success, failure, progress) or means nothing (release). `dispatch` is the number of the queue's dispatch
that an attempt runs under: a work message that comes late cannot start a second attempt under a dispatch already used.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Annotated, Literal, assert_never
from uuid import UUID

from pydantic import AwareDatetime, Field, JsonValue, StringConstraints

from domain.aggregate import Aggregate
from domain.errors import AlreadyExists, NotFound, WrongState
from domain.events import Command, Event, Id

Priority = Literal["low", "normal", "high", "urgent"]
#: What kind of worker does it: one lower-case token, as in `cmd.work.<job kind>`.
JobKind = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Title = Annotated[str, StringConstraints(max_length=200)]
JobState = Literal["none", "waiting", "running", "retrying", "succeeded", "failed", "cancelled"]

#: No retry waits longer than this, however many went before.
BACKOFF_CAP_S = 900.0


class JobSubmitted(Event, name="job.submitted"):
    """`spec` is for the worker alone. `claims` are the instruments that the job needs for itself."""

    job_id: UUID
    queue_id: Id
    job_kind: JobKind
    spec: dict[str, JsonValue]
    priority: Priority = "normal"
    claims: tuple[Id, ...] = ()
    max_attempts: int
    backoff_s: float
    title: Title = ""
    batch_id: UUID | None = None


class JobStarted(Event, name="job.started"):
    job_id: UUID
    attempt: int
    worker: str
    dispatch: int | None = None


class JobProgressed(Event, name="job.progressed"):
    job_id: UUID
    attempt: int
    percent: float
    note: str = ""


class JobSucceeded(Event, name="job.succeeded"):
    job_id: UUID
    attempt: int
    result: dict[str, JsonValue]
    dispatch: int | None = None


class JobFailed(Event, name="job.failed"):
    """`final` says that no further attempt comes by itself; else `retry_at` says when the next is due."""

    job_id: UUID
    attempt: int
    error: str
    kind: Literal["transient", "permanent", "worker_died"]
    final: bool
    retry_at: AwareDatetime | None = None
    dispatch: int | None = None


class JobReleased(Event, name="job.released"):
    """The worker died or gave the job back. It waits again."""

    job_id: UUID
    attempt: int
    reason: str
    dispatch: int | None = None


class JobRetried(Event, name="job.retried"):
    """A person let it run again after it had failed or was cancelled."""

    job_id: UUID


class JobCancelled(Event, name="job.cancelled"):
    """`was_running`: the worker of `attempt` is to be told. `dispatch` is set only then."""

    job_id: UUID
    reason: str
    was_running: bool
    attempt: int
    dispatch: int | None = None


class JobReplaced(Event, name="job.replaced"):
    """Another job took its place in the queue. It will not run."""

    job_id: UUID
    new_job_id: UUID


JobEvent = (
    JobSubmitted
    | JobStarted
    | JobProgressed
    | JobSucceeded
    | JobFailed
    | JobReleased
    | JobRetried
    | JobCancelled
    | JobReplaced
)


class RetryJob(Command, name="job.retry"):
    """Run a failed or cancelled job again, with `max_attempts` fresh attempts."""

    job_id: UUID


class CancelJob(Command, name="job.cancel"):
    """Take a job out before it ends. A running one is asked to stop by a reaction."""

    job_id: UUID
    reason: str = ""


class WakeJob(Command, name="job.wake"):
    """Let a job that waits for its next try after a failure run now. Its timer sends this when the time has come."""

    job_id: UUID


class SubmitJob(Command):
    job_id: UUID
    queue_id: Id
    job_kind: JobKind
    spec: dict[str, JsonValue]
    priority: Priority = "normal"
    claims: tuple[Id, ...] = ()
    max_attempts: int = Field(default=3, ge=1, le=10_000)
    backoff_s: float = Field(default=2.0, ge=0, le=BACKOFF_CAP_S)
    title: Title = ""
    batch_id: UUID | None = None


class StartJob(Command):
    """`worker` names one run of a worker process (not just the machine), so that a repeat can be told from a rival."""

    job_id: UUID
    worker: str
    dispatch: int | None = None


class NoteProgress(Command):
    job_id: UUID
    attempt: int
    percent: float = Field(ge=0, le=100)
    note: str = ""


class SucceedJob(Command):
    job_id: UUID
    attempt: int
    result: dict[str, JsonValue] = {}


class FailJob(Command):
    """`at` is when it failed; `jitter` a random number in 0..1 that spreads the retries of many jobs.

    `wait_s`, where the worker knows better than the job's own backoff (it was asked to come later): how long to wait."""

    job_id: UUID
    attempt: int
    error: str
    kind: Literal["transient", "permanent"]
    at: AwareDatetime
    jitter: float = Field(default=1.0, ge=0, le=1)
    wait_s: float | None = Field(default=None, ge=0, le=86400 * 7)


class ReleaseJob(Command):
    job_id: UUID
    attempt: int
    reason: str


class ReplaceJob(Command):
    """The queue gave the place of this waiting job to another (`queue.job_replaced`)."""

    job_id: UUID
    new_job_id: UUID


JobCommand = RetryJob | CancelJob | SubmitJob | StartJob | NoteProgress | SucceedJob | FailJob | ReleaseJob | ReplaceJob


@dataclass(frozen=True)
class Job:
    """`attempt` is the newest started one, 0 before the first; `last_attempt` the one after which it gives up."""

    submitted: JobSubmitted | None = None
    state: JobState = "none"
    attempt: int = 0
    last_attempt: int = 0
    worker: str = ""
    #: The highest dispatch that an attempt ran under; None when none did.
    dispatch: int | None = None
    percent: float = 0.0
    note: str = ""
    result: dict[str, JsonValue] | None = None
    #: Why it failed, was released or was cancelled, last time.
    reason: str = ""
    retry_at: AwareDatetime | None = None
    new_job_id: UUID | None = None


def backoff_s(base_s: float, attempt: int, jitter: float) -> float:
    """Seconds to wait after attempt n: doubles from `base_s` up to the cap; jitter 0..1 takes 50..100 % of it."""
    whole_s = min(BACKOFF_CAP_S, base_s * 2.0 ** min(attempt - 1, 60))
    return whole_s * (0.5 + 0.5 * jitter)


def decide(job: Job, command: JobCommand) -> list[JobEvent]:
    """Raises `NotFound` for a job never submitted, `AlreadyExists` for an id that is taken, else `WrongState`."""
    if isinstance(command, SubmitJob):
        submitted = JobSubmitted.model_validate(command.model_dump())
        if job.submitted is None:
            return [submitted]
        if job.submitted == submitted:
            return []
        raise AlreadyExists(f"job {command.job_id} exists already with other contents; choose a new id")
    if job.submitted is None:
        raise NotFound(f"there is no job {command.job_id}; submit it first")
    name = f"job {command.job_id}"
    match command:
        case StartJob():
            return _start(job, command, name)
        case NoteProgress():
            _must_run(job, command.attempt, name)
            if (command.percent, command.note) == (job.percent, job.note):
                return []
            return [
                JobProgressed(
                    job_id=command.job_id, attempt=command.attempt, percent=command.percent, note=command.note
                )
            ]
        case SucceedJob():
            if job.state == "succeeded" and job.attempt == command.attempt:
                return []
            _must_run(job, command.attempt, name)
            return [
                JobSucceeded(
                    job_id=command.job_id, attempt=command.attempt, result=command.result, dispatch=job.dispatch
                )
            ]
        case FailJob():
            return _fail(job, job.submitted, command, name)
        case ReleaseJob():
            return _release(job, command)
        case RetryJob():
            if job.new_job_id is not None:
                raise WrongState(f"{name} was replaced by job {job.new_job_id}; submit it anew under a new id")
            if job.state not in ("failed", "cancelled"):
                raise WrongState(f"{name} is {job.state}; only a failed or cancelled job can be retried")
            return [JobRetried(job_id=command.job_id)]
        case CancelJob():
            if job.state == "cancelled":
                return []
            if job.state in ("succeeded", "failed"):
                raise WrongState(f"{name} has {job.state} already; there is nothing to cancel")
            running = job.state == "running"
            return [
                JobCancelled(
                    job_id=command.job_id,
                    reason=command.reason,
                    was_running=running,
                    attempt=job.attempt,
                    dispatch=job.dispatch if running else None,
                )
            ]
        case ReplaceJob():
            if job.new_job_id == command.new_job_id:
                return []
            if job.state not in ("waiting", "retrying"):
                raise WrongState(f"{name} is {job.state}; only a waiting job can be replaced")
            return [JobReplaced(job_id=command.job_id, new_job_id=command.new_job_id)]
    assert_never(command)


def _start(job: Job, command: StartJob, name: str) -> list[JobEvent]:
    if job.state == "running":
        if job.worker == command.worker:
            return []
        raise WrongState(
            f"attempt {job.attempt} of {name} is run by worker {job.worker}; release it before another starts"
        )
    if job.state not in ("waiting", "retrying"):
        raise WrongState(f"{name} is {job.state}; retry it to run it again")
    if command.dispatch is not None and job.dispatch is not None and command.dispatch <= job.dispatch:
        raise WrongState(
            f"{name} was started under dispatch {job.dispatch} already; wait for the queue to dispatch it again"
        )
    return [
        JobStarted(job_id=command.job_id, attempt=job.attempt + 1, worker=command.worker, dispatch=command.dispatch)
    ]


def _fail(job: Job, submitted: JobSubmitted, command: FailJob, name: str) -> list[JobEvent]:
    if job.state in ("failed", "retrying") and job.attempt == command.attempt:
        return []
    _must_run(job, command.attempt, name)
    final = command.kind == "permanent" or job.attempt >= job.last_attempt
    # Counted within the attempts granted last: after a retry by a person the delays begin small again.
    turn = submitted.max_attempts - (job.last_attempt - job.attempt)
    wait_s = backoff_s(submitted.backoff_s, turn, command.jitter) if command.wait_s is None else command.wait_s
    return [
        JobFailed(
            job_id=command.job_id,
            attempt=command.attempt,
            error=command.error,
            kind=command.kind,
            final=final,
            retry_at=None if final else command.at + timedelta(seconds=wait_s),
            dispatch=job.dispatch,
        )
    ]


def _release(job: Job, command: ReleaseJob) -> list[JobEvent]:
    if job.state != "running" or job.attempt != command.attempt:
        return []
    if job.attempt < job.last_attempt:
        return [
            JobReleased(job_id=command.job_id, attempt=command.attempt, reason=command.reason, dispatch=job.dispatch)
        ]
    return [
        JobFailed(
            job_id=command.job_id,
            attempt=command.attempt,
            error=f"{command.reason}; no attempt is left",
            kind="worker_died",
            final=True,
            dispatch=job.dispatch,
        )
    ]


def _must_run(job: Job, attempt: int, name: str) -> None:
    if job.state != "running":
        raise WrongState(f"{name} is {job.state}, not running; stop working on attempt {attempt}")
    if job.attempt != attempt:
        raise WrongState(f"{name} is at attempt {job.attempt} by now; stop working on attempt {attempt}")


def evolve(job: Job, event: JobEvent) -> Job:
    match event:
        case JobSubmitted():
            return Job(submitted=event, state="waiting", last_attempt=event.max_attempts)
        case JobStarted():
            return replace(
                job,
                state="running",
                attempt=event.attempt,
                worker=event.worker,
                dispatch=job.dispatch if event.dispatch is None else event.dispatch,
                percent=0.0,
                note="",
                retry_at=None,
            )
        case JobProgressed():
            return replace(job, percent=event.percent, note=event.note)
        case JobSucceeded():
            return replace(job, state="succeeded", worker="", percent=100.0, result=event.result, reason="")
        case JobFailed():
            return replace(
                job,
                state="failed" if event.final else "retrying",
                worker="",
                reason=event.error,
                retry_at=event.retry_at,
            )
        case JobReleased():
            return replace(job, state="waiting", worker="", reason=event.reason)
        case JobRetried():
            granted = 0 if job.submitted is None else job.submitted.max_attempts
            return replace(job, state="waiting", last_attempt=job.attempt + granted, retry_at=None, reason="")
        case JobCancelled():
            return replace(job, state="cancelled", worker="", reason=event.reason, retry_at=None)
        case JobReplaced():
            return replace(
                job,
                state="cancelled",
                reason=f"replaced by job {event.new_job_id}",
                new_job_id=event.new_job_id,
                retry_at=None,
            )
    assert_never(event)


aggregate = Aggregate(kind="job", initial=Job(), decide=decide, evolve=evolve)
