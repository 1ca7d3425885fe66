"""An ordered line of jobs. It decides itself what runs next, in the same decision as the change that allows it.

| state    | means                                                                  | left by                         |
|----------|------------------------------------------------------------------------|---------------------------------|
| idle     | nothing runs; automatic: starts when a job waits, unless stopped by a person | job, start, run_job, pause |
| running  | automatic: dispatches whatever may run; manual: something runs         | last end, pause, stop, abort    |
| paused   | dispatches nothing; running jobs finish, or are paused by a reaction   | resume, stop, abort             |
| stopping | dispatches nothing; running jobs finish, or are aborted by a reaction  | last running job's end: idle    |

Rules of dispatch, all of them:

1. Only an automatic queue that is running dispatches by itself, and only while fewer than `max_concurrent` jobs run
   (a parallel queue is one with more than 1). Lowering the limit ends no running job.
2. The line is the order of arrival, changed by hand (`queue.move`). Order fifo takes it as it is; order priority takes
   urgent, then high, normal, low, and within one priority the line. A job that was running and comes back (released,
   to be tried again, restarted) goes to the front of the line, any other to its end.
3. A job is dispatched only if its claims are disjoint from those of the running jobs, **and from those of every job
   before it in the order that is still waiting**. So a blocked job holds up nobody who needs other instruments, and
   nobody behind it in the order ever takes an instrument that it waits for: it waits only for jobs that ran already
   or were before it. (In order priority, jobs of higher priority that keep arriving are before it: that is what
   priority means.)
4. A job that waits for its time after a failure (`retry_at`) is passed over and reserves nothing, until `RequeueJob`
   without a time lifts that.
5. An automatic queue goes idle when no job is left, a manual one when none runs. `queue.run_job` (manual) asks only for
   rule 1's limit and free instruments: a person may pass over those who wait. What a person does to make a stopped
   queue go on counts as starting it: start, run_job, and resume after a pause.

The state holds open jobs only, so it stays small for ever; it cannot know a job that has left. `revision` counts the
edits (settings, and what is put into, moved in or taken out of the line), not starts, pauses, dispatches or ends.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, assert_never
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from domain.aggregate import Aggregate
from domain.errors import AlreadyExists, NotFound, OutOfLimits, Refused, WrongState
from domain.events import Command, Event, Id
from domain.job import JobKind, Priority, Title

Mode = Literal["automatic", "manual"]
Order = Literal["fifo", "priority"]
Outcome = Literal["succeeded", "failed", "cancelled"]

#: The order in which priorities are served.
PRIORITIES: tuple[Priority, ...] = ("urgent", "high", "normal", "low")


class JobRef(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    job_id: UUID
    job_kind: JobKind


class Before(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    before: UUID


class After(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    after: UUID


class QueueCreated(Event, name="queue.created"):
    queue_id: Id
    mode: Mode
    order: Order
    max_concurrent: int
    title: Title = ""


class QueueConfigured(Event, name="queue.configured"):
    """All settings as they are from now on."""

    queue_id: Id
    revision: int
    mode: Mode
    order: Order
    max_concurrent: int
    title: Title = ""


class QueueStarted(Event, name="queue.started"):
    queue_id: Id
    by_itself: bool


class QueuePaused(Event, name="queue.paused"):
    """`running_jobs`: what becomes of `running`, the jobs that run now. "pause" is done by a reaction."""

    queue_id: Id
    running_jobs: Literal["finish", "pause"]
    running: tuple[JobRef, ...]


class QueueResumed(Event, name="queue.resumed"):
    """`resume_jobs`: the jobs in `running` had been paused with the queue and are to be resumed by a reaction."""

    queue_id: Id
    resume_jobs: bool
    running: tuple[JobRef, ...]


class QueueStopping(Event, name="queue.stopping"):
    """`running_jobs`: what becomes of `running`. `resume_jobs`: they had been paused and must be resumed to finish."""

    queue_id: Id
    running_jobs: Literal["finish", "abort"]
    resume_jobs: bool
    running: tuple[JobRef, ...]


class QueueStopped(Event, name="queue.stopped"):
    """Idle, and stays so until a person starts it."""

    queue_id: Id


class QueueBecameIdle(Event, name="queue.became_idle"):
    """The last job has ended."""

    queue_id: Id


class JobAdded(Event, name="queue.job_added"):
    """At the end of the line."""

    queue_id: Id
    revision: int
    job_id: UUID
    job_kind: JobKind
    priority: Priority
    claims: tuple[Id, ...]
    title: Title = ""


class JobMoved(Event, name="queue.job_moved"):
    """`position` is its place in the line of waiting jobs, counted from 1."""

    queue_id: Id
    revision: int
    job_id: UUID
    position: int


class JobPrioritised(Event, name="queue.job_prioritised"):
    queue_id: Id
    revision: int
    job_id: UUID
    priority: Priority


class JobRemoved(Event, name="queue.job_removed"):
    queue_id: Id
    revision: int
    job_id: UUID


class QueueCleared(Event, name="queue.cleared"):
    """All waiting jobs were removed at once."""

    queue_id: Id
    revision: int
    job_ids: tuple[UUID, ...]


class JobReplacedInQueue(Event, name="queue.job_replaced"):
    """`new_job_id` waits in the place of `job_id`, which has left the queue."""

    queue_id: Id
    revision: int
    job_id: UUID
    new_job_id: UUID
    job_kind: JobKind
    priority: Priority
    claims: tuple[Id, ...]
    title: Title = ""


class JobRequeued(Event, name="queue.job_requeued"):
    """It waits (again) at `position`, counted from 1, and if `retry_at` is set, for that time to come as well."""

    queue_id: Id
    revision: int
    job_id: UUID
    job_kind: JobKind
    priority: Priority
    claims: tuple[Id, ...]
    title: Title = ""
    position: int
    reason: str
    retry_at: AwareDatetime | None = None


class JobDispatched(Event, name="queue.job_dispatched"):
    """To be handed to a worker now. `dispatch` counts the queue's dispatches from 1 and is never used twice."""

    queue_id: Id
    job_id: UUID
    job_kind: JobKind
    dispatch: int
    claims: tuple[Id, ...]


class JobFinished(Event, name="queue.job_finished"):
    """It has ended and left the queue. `dispatch` is None if it ended while it waited."""

    queue_id: Id
    job_id: UUID
    job_kind: JobKind
    outcome: Outcome
    dispatch: int | None = None


QueueEvent = (
    QueueCreated
    | QueueConfigured
    | QueueStarted
    | QueuePaused
    | QueueResumed
    | QueueStopping
    | QueueStopped
    | QueueBecameIdle
    | JobAdded
    | JobMoved
    | JobPrioritised
    | JobRemoved
    | QueueCleared
    | JobReplacedInQueue
    | JobRequeued
    | JobDispatched
    | JobFinished
)


class CreateQueue(Command, name="queue.create"):
    queue_id: Id
    mode: Mode = "automatic"
    order: Order = "fifo"
    max_concurrent: int = Field(default=1, ge=1, le=1000)
    title: Title = ""


class ConfigureQueue(Command, name="queue.configure"):
    """What is not given stays as it is."""

    queue_id: Id
    mode: Mode | None = None
    order: Order | None = None
    max_concurrent: int | None = Field(default=None, ge=1, le=1000)
    title: Title | None = None
    expected_revision: int | None = None


class StartQueue(Command, name="queue.start"):
    queue_id: Id


class PauseQueue(Command, name="queue.pause"):
    """Dispatch nothing more. The running jobs finish, or are paused too."""

    queue_id: Id
    running_jobs: Literal["finish", "pause"] = "finish"


class ResumeQueue(Command, name="queue.resume"):
    queue_id: Id


class StopQueue(Command, name="queue.stop"):
    """Let the running jobs finish, dispatch nothing more, then stay idle until started."""

    queue_id: Id


class AbortQueue(Command, name="queue.abort"):
    """As stop, but the running jobs are asked to abort."""

    queue_id: Id


class MoveJob(Command, name="queue.move"):
    """`to`: a place in the line counted from 1, "first", "last", `{"before": job_id}` or `{"after": job_id}`."""

    queue_id: Id
    job_id: UUID
    to: int | Literal["first", "last"] | Before | After
    expected_revision: int | None = None


class SetPriority(Command, name="queue.set_priority"):
    queue_id: Id
    job_id: UUID
    priority: Priority
    expected_revision: int | None = None


class RemoveJob(Command, name="queue.remove"):
    queue_id: Id
    job_id: UUID
    expected_revision: int | None = None


class ReplaceJobInQueue(Command, name="queue.replace"):
    """Put another job in the place of a waiting one; it keeps the priority unless one is given."""

    queue_id: Id
    job_id: UUID
    new_job_id: UUID
    job_kind: JobKind
    priority: Priority | None = None
    claims: tuple[Id, ...] = ()
    title: Title = ""
    expected_revision: int | None = None


class RunJob(Command, name="queue.run_job"):
    """Manual mode: dispatch this job now."""

    queue_id: Id
    job_id: UUID


class ClearQueue(Command, name="queue.clear"):
    """Remove all waiting jobs. Running ones go on."""

    queue_id: Id
    expected_revision: int | None = None


class AddJob(Command):
    queue_id: Id
    job_id: UUID
    job_kind: JobKind
    priority: Priority = "normal"
    claims: tuple[Id, ...] = ()
    title: Title = ""


class FinishJob(Command):
    """The job has ended. `dispatch`, when given, is the one that it ran under: a late word about an earlier run is
    ignored. A job that waits is taken out only by the outcome "cancelled" without a dispatch."""

    queue_id: Id
    job_id: UUID
    outcome: Outcome
    dispatch: int | None = None


class RequeueJob(Command):
    """Let the job wait again: released, to be retried, or restarted. Carries the whole entry, as the queue may have let
    go of it.

    With `retry_at` it waits for its time; the timer sends the same with neither `retry_at` nor `dispatch`. `dispatch`,
    when given, is the one that it ran under: a late word about an earlier run is ignored.
    """

    queue_id: Id
    job_id: UUID
    job_kind: JobKind
    priority: Priority = "normal"
    claims: tuple[Id, ...] = ()
    title: Title = ""
    reason: str
    retry_at: AwareDatetime | None = None
    dispatch: int | None = None


Edit = ConfigureQueue | MoveJob | SetPriority | RemoveJob | ReplaceJobInQueue | ClearQueue
QueueCommand = (
    CreateQueue
    | Edit
    | StartQueue
    | PauseQueue
    | ResumeQueue
    | StopQueue
    | AbortQueue
    | RunJob
    | AddJob
    | FinishJob
    | RequeueJob
)


@dataclass(frozen=True)
class Entry:
    """An open job. `dispatch` is set while it runs."""

    job_id: UUID
    job_kind: str
    priority: Priority
    claims: tuple[str, ...]
    title: str = ""
    retry_at: AwareDatetime | None = None
    dispatch: int | None = None


@dataclass(frozen=True)
class Queue:
    """`waiting` is the line, `running` the dispatched jobs in the order of their dispatch."""

    state: Literal["none", "idle", "running", "paused", "stopping"] = "none"
    mode: Mode = "automatic"
    order: Order = "fifo"
    max_concurrent: int = 1
    title: str = ""
    waiting: tuple[Entry, ...] = ()
    running: tuple[Entry, ...] = ()
    #: A person stopped it: while idle, it does not start by itself.
    stopped: bool = False
    #: Paused or stopping: what was asked of the running jobs.
    running_jobs: Literal["finish", "pause", "abort"] = "finish"
    #: Number of edits, of dispatches and of jobs that ended, since the queue was created.
    revision: int = 0
    dispatches: int = 0
    finished: int = 0


def in_order(queue: Queue) -> Iterator[Entry]:
    """The waiting jobs in the order in which they are served (rule 2)."""
    if queue.order == "fifo":
        yield from queue.waiting
        return
    for priority in PRIORITIES:
        for entry in queue.waiting:
            if entry.priority == priority:
                yield entry


def next_jobs(queue: Queue) -> list[Entry]:
    """The jobs that may be dispatched now, in order, were the queue automatic and running (rules 1 to 4)."""
    free = queue.max_concurrent - len(queue.running)
    if free <= 0 or not queue.waiting:
        return []
    chosen: list[Entry] = []
    taken = {name for entry in queue.running for name in entry.claims}
    for entry in in_order(queue):
        if entry.retry_at is not None:
            continue
        if taken.isdisjoint(entry.claims):
            chosen.append(entry)
            if len(chosen) == free:
                break
        # Blocked or chosen, its instruments are not for those behind it.
        taken.update(entry.claims)
    return chosen


def decide(queue: Queue, command: QueueCommand) -> list[QueueEvent]:
    """What was asked for, and what follows from it by the rules above.

    Raises `NotFound` (queue or job), `AlreadyExists` (queue, or a job in the line), `OutOfLimits` (no such place)
    and `WrongState`. What is so already yields no event.
    """
    events = list(_asked(queue, command))
    if events:
        for event in events:
            queue = evolve(queue, event)
        events.extend(_follows(queue, command.queue_id))
    return events


def _follows(queue: Queue, queue_id: str) -> Iterator[QueueEvent]:
    """Starting by itself, dispatching, going idle."""
    automatic = queue.mode == "automatic"
    if queue.state == "idle" and automatic and not queue.stopped and queue.waiting:
        yield (started := QueueStarted(queue_id=queue_id, by_itself=True))
        queue = evolve(queue, started)
    if queue.state == "running":
        chosen = next_jobs(queue) if automatic else []
        for index, entry in enumerate(chosen, start=1):
            yield _dispatched(queue_id, entry, queue.dispatches + index)
        if not chosen and not queue.running and not (automatic and queue.waiting):
            yield QueueBecameIdle(queue_id=queue_id)
    elif queue.state == "stopping" and not queue.running:
        yield QueueStopped(queue_id=queue_id)


def _dispatched(queue_id: str, entry: Entry, dispatch: int) -> JobDispatched:
    return JobDispatched(
        queue_id=queue_id, job_id=entry.job_id, job_kind=entry.job_kind, dispatch=dispatch, claims=entry.claims
    )


def _asked(queue: Queue, command: QueueCommand) -> list[QueueEvent]:
    queue_id = command.queue_id
    if isinstance(command, CreateQueue):
        return _create(queue, command)
    if queue.state == "none":
        raise NotFound(f"there is no queue {queue_id}; create it first (queue.create)")
    match command:
        case ConfigureQueue() | MoveJob() | SetPriority() | RemoveJob() | ReplaceJobInQueue() | ClearQueue():
            return _edit(queue, command)
        case StartQueue():
            if queue.mode == "manual":
                raise WrongState(
                    f"queue {queue_id} is manual: run one job (queue.run_job), or make it automatic (queue.configure)"
                )
            if queue.state == "running":
                return []
            if queue.state == "paused":
                raise WrongState(f"queue {queue_id} is paused; resume it instead")
            if queue.state == "stopping":
                raise WrongState(f"queue {queue_id} is stopping; start it when its running jobs have ended")
            return [QueueStarted(queue_id=queue_id, by_itself=False)]
        case PauseQueue():
            return _pause(queue, command)
        case ResumeQueue():
            if queue.state == "running":
                return []
            if queue.state != "paused":
                raise WrongState(f"queue {queue_id} is {queue.state}, not paused; start it when it is idle")
            resume_jobs = queue.running_jobs == "pause"
            return [QueueResumed(queue_id=queue_id, resume_jobs=resume_jobs, running=_refs(queue))]
        case StopQueue() | AbortQueue():
            return _stop(queue, queue_id, "abort" if isinstance(command, AbortQueue) else "finish")
        case RunJob():
            return _run(queue, command)
        case AddJob():
            if _find(queue.waiting, command.job_id) is not None or _find(queue.running, command.job_id) is not None:
                return []
            return [
                JobAdded(
                    queue_id=queue_id,
                    revision=queue.revision + 1,
                    job_id=command.job_id,
                    job_kind=command.job_kind,
                    priority=command.priority,
                    claims=command.claims,
                    title=command.title,
                )
            ]
        case FinishJob():
            return _finish(queue, command)
        case RequeueJob():
            return _requeue(queue, command)
    assert_never(command)


def _create(queue: Queue, command: CreateQueue) -> list[QueueEvent]:
    settings = (command.mode, command.order, command.max_concurrent, command.title)
    if queue.state == "none":
        return [QueueCreated.model_validate(command.model_dump())]
    if settings == (queue.mode, queue.order, queue.max_concurrent, queue.title):
        return []
    raise AlreadyExists(f"queue {command.queue_id} exists already with other settings; configure it instead")


def _edit(queue: Queue, command: Edit) -> list[QueueEvent]:
    expected = command.expected_revision
    if expected is not None and expected != queue.revision:
        raise WrongState(
            f"queue {command.queue_id} was changed since you saw it: you saw revision {expected}, "
            f"it is at {queue.revision}; look again, then repeat the change if it still makes sense"
        )
    queue_id, revision = command.queue_id, queue.revision + 1
    match command:
        case ConfigureQueue():
            event = QueueConfigured(
                queue_id=queue_id,
                revision=revision,
                mode=command.mode or queue.mode,
                order=command.order or queue.order,
                max_concurrent=command.max_concurrent or queue.max_concurrent,
                title=queue.title if command.title is None else command.title,
            )
            same = (event.mode, event.order, event.max_concurrent, event.title) == (
                queue.mode,
                queue.order,
                queue.max_concurrent,
                queue.title,
            )
            return [] if same else [event]
        case MoveJob():
            index = _waiting(queue, command.job_id, queue_id, "moved")
            target = _target(queue, command, index)
            if target == index:
                return []
            return [JobMoved(queue_id=queue_id, revision=revision, job_id=command.job_id, position=target + 1)]
        case SetPriority():
            index = _waiting(queue, command.job_id, queue_id, "given another priority")
            if queue.waiting[index].priority == command.priority:
                return []
            return [
                JobPrioritised(queue_id=queue_id, revision=revision, job_id=command.job_id, priority=command.priority)
            ]
        case RemoveJob():
            _waiting(queue, command.job_id, queue_id, "removed")
            return [JobRemoved(queue_id=queue_id, revision=revision, job_id=command.job_id)]
        case ReplaceJobInQueue():
            index = _waiting(queue, command.job_id, queue_id, "replaced")
            new = command.new_job_id
            if _find(queue.waiting, new) is not None or _find(queue.running, new) is not None:
                raise AlreadyExists(f"job {new} is in queue {queue_id} already; choose a new id")
            return [
                JobReplacedInQueue(
                    queue_id=queue_id,
                    revision=revision,
                    job_id=command.job_id,
                    new_job_id=new,
                    job_kind=command.job_kind,
                    priority=command.priority or queue.waiting[index].priority,
                    claims=command.claims,
                    title=command.title,
                )
            ]
        case ClearQueue():
            if not queue.waiting:
                return []
            job_ids = tuple(entry.job_id for entry in queue.waiting)
            return [QueueCleared(queue_id=queue_id, revision=revision, job_ids=job_ids)]
    assert_never(command)


def _target(queue: Queue, command: MoveJob, index: int) -> int:
    """The index of the job after the move, counted without the gap it leaves."""
    last = len(queue.waiting) - 1
    match command.to:
        case "first":
            return 0
        case "last":
            return last
        case Before(before=other) | After(after=other):
            if other == command.job_id:
                raise Refused(f"job {other} cannot be moved before or after itself; name another job")
            other_index = _waiting(queue, other, command.queue_id, "a place to move to")
            # Once the job is taken out, those behind it stand one place further ahead.
            place = other_index - (1 if other_index > index else 0)
            return place if isinstance(command.to, Before) else place + 1
        case int(position):
            if not 1 <= position <= last + 1:
                raise OutOfLimits(f"place {position} does not exist: the line has the places 1 to {last + 1}")
            return position - 1
    assert_never(command.to)


def _pause(queue: Queue, command: PauseQueue) -> list[QueueEvent]:
    if queue.state == "stopping":
        raise WrongState(
            f"queue {command.queue_id} is stopping and dispatches nothing more; pause its scans one by one"
        )
    if queue.state == "paused":
        if queue.running_jobs == command.running_jobs:
            return []
        if queue.running_jobs == "pause":
            raise WrongState(
                f"queue {command.queue_id} has paused its running jobs; resume it, then pause it and let them finish"
            )
    return [QueuePaused(queue_id=command.queue_id, running_jobs=command.running_jobs, running=_refs(queue))]


def _stop(queue: Queue, queue_id: str, running_jobs: Literal["finish", "abort"]) -> list[QueueEvent]:
    if queue.state == "idle":
        return [] if queue.stopped else [QueueStopped(queue_id=queue_id)]
    if queue.state == "stopping" and (running_jobs == "finish" or queue.running_jobs == "abort"):
        return []
    resume_jobs = running_jobs == "finish" and queue.state == "paused" and queue.running_jobs == "pause"
    return [QueueStopping(queue_id=queue_id, running_jobs=running_jobs, resume_jobs=resume_jobs, running=_refs(queue))]


def _run(queue: Queue, command: RunJob) -> list[QueueEvent]:
    queue_id = command.queue_id
    if _find(queue.running, command.job_id) is not None:
        return []
    index = _waiting(queue, command.job_id, queue_id, "run")
    if queue.mode == "automatic":
        raise WrongState(f"queue {queue_id} is automatic; move the job to the first place, or make the queue manual")
    if queue.state in ("paused", "stopping"):
        instead = "resume it first" if queue.state == "paused" else "wait until its running jobs have ended"
        raise WrongState(f"queue {queue_id} is {queue.state}; {instead}")
    if len(queue.running) >= queue.max_concurrent:
        raise WrongState(
            f"queue {queue_id} runs {len(queue.running)} of at most {queue.max_concurrent} jobs; wait for one to end"
        )
    entry = queue.waiting[index]
    for other in queue.running:
        if shared := sorted(set(entry.claims) & set(other.claims)):
            raise WrongState(f"{', '.join(shared)} is in use by {_named(other)}; wait for it to end")
    dispatched = _dispatched(queue_id, entry, queue.dispatches + 1)
    if queue.state == "idle":
        return [QueueStarted(queue_id=queue_id, by_itself=False), dispatched]
    return [dispatched]


def _finish(queue: Queue, command: FinishJob) -> list[QueueEvent]:
    index = _find(queue.running, command.job_id)
    if index is not None:
        entry = queue.running[index]
        if command.dispatch not in (None, entry.dispatch):
            return []
    else:
        index = _find(queue.waiting, command.job_id)
        if index is None or command.outcome != "cancelled" or command.dispatch is not None:
            return []
        entry = queue.waiting[index]
    return [
        JobFinished(
            queue_id=command.queue_id,
            job_id=entry.job_id,
            job_kind=entry.job_kind,
            outcome=command.outcome,
            dispatch=entry.dispatch,
        )
    ]


def _requeue(queue: Queue, command: RequeueJob) -> list[QueueEvent]:
    entry = Entry(command.job_id, command.job_kind, command.priority, command.claims, command.title)
    index = _find(queue.running, command.job_id)
    if index is not None:
        entry = queue.running[index]
        if command.dispatch not in (None, entry.dispatch):
            return []
        position = 1
    elif (index := _find(queue.waiting, command.job_id)) is not None:
        # The only thing left to do for one that waits is to tell it that its time has come.
        entry = queue.waiting[index]
        if entry.retry_at is None or command.retry_at is not None or command.dispatch is not None:
            return []
        position = index + 1
    elif command.dispatch is not None:
        return []
    else:
        position = len(queue.waiting) + 1
    return [
        JobRequeued(
            queue_id=command.queue_id,
            revision=queue.revision + 1,
            job_id=entry.job_id,
            job_kind=entry.job_kind,
            priority=entry.priority,
            claims=entry.claims,
            title=entry.title,
            position=position,
            reason=command.reason,
            retry_at=command.retry_at,
        )
    ]


def _find(entries: tuple[Entry, ...], job_id: UUID) -> int | None:
    for index, entry in enumerate(entries):
        if entry.job_id == job_id:
            return index
    return None


def _waiting(queue: Queue, job_id: UUID, queue_id: str, done: str) -> int:
    """The index in the line of the job that is to be `done`."""
    index = _find(queue.waiting, job_id)
    if index is not None:
        return index
    if _find(queue.running, job_id) is not None:
        raise WrongState(f"job {job_id} is running and cannot be {done}; cancel it, or wait for it to end")
    raise NotFound(f"there is no job {job_id} waiting in queue {queue_id}; it has ended, or was never added")


def _named(entry: Entry) -> str:
    return f'"{entry.title}" (job {entry.job_id})' if entry.title else f"job {entry.job_id}"


def _refs(queue: Queue) -> tuple[JobRef, ...]:
    return tuple(JobRef(job_id=entry.job_id, job_kind=entry.job_kind) for entry in queue.running)


def _without(entries: tuple[Entry, ...], job_id: UUID) -> tuple[Entry, ...]:
    return tuple(entry for entry in entries if entry.job_id != job_id)


def _inserted(entries: tuple[Entry, ...], position: int, entry: Entry) -> tuple[Entry, ...]:
    return (*entries[: position - 1], entry, *entries[position - 1 :])


def evolve(queue: Queue, event: QueueEvent) -> Queue:
    match event:
        case QueueCreated():
            return Queue(
                state="idle",
                mode=event.mode,
                order=event.order,
                max_concurrent=event.max_concurrent,
                title=event.title,
            )
        case QueueConfigured():
            return replace(
                queue,
                revision=event.revision,
                mode=event.mode,
                order=event.order,
                max_concurrent=event.max_concurrent,
                title=event.title,
            )
        case QueueStarted() | QueueResumed():
            return replace(queue, state="running", stopped=False, running_jobs="finish")
        case QueuePaused():
            return replace(queue, state="paused", running_jobs=event.running_jobs)
        case QueueStopping():
            return replace(queue, state="stopping", running_jobs=event.running_jobs)
        case QueueStopped():
            return replace(queue, state="idle", stopped=True, running_jobs="finish")
        case QueueBecameIdle():
            return replace(queue, state="idle")
        case JobAdded():
            entry = Entry(event.job_id, event.job_kind, event.priority, event.claims, event.title)
            return replace(queue, revision=event.revision, waiting=(*queue.waiting, entry))
        case JobMoved():
            moved = next((entry for entry in queue.waiting if entry.job_id == event.job_id), None)
            if moved is None:
                return queue
            waiting = _inserted(_without(queue.waiting, event.job_id), event.position, moved)
            return replace(queue, revision=event.revision, waiting=waiting)
        case JobPrioritised():
            waiting = tuple(
                replace(entry, priority=event.priority) if entry.job_id == event.job_id else entry
                for entry in queue.waiting
            )
            return replace(queue, revision=event.revision, waiting=waiting)
        case JobRemoved():
            return replace(queue, revision=event.revision, waiting=_without(queue.waiting, event.job_id))
        case QueueCleared():
            return replace(queue, revision=event.revision, waiting=())
        case JobReplacedInQueue():
            new = Entry(event.new_job_id, event.job_kind, event.priority, event.claims, event.title)
            waiting = tuple(new if entry.job_id == event.job_id else entry for entry in queue.waiting)
            return replace(queue, revision=event.revision, waiting=waiting)
        case JobRequeued():
            entry = Entry(
                event.job_id, event.job_kind, event.priority, event.claims, event.title, retry_at=event.retry_at
            )
            return replace(
                queue,
                revision=event.revision,
                waiting=_inserted(_without(queue.waiting, event.job_id), event.position, entry),
                running=_without(queue.running, event.job_id),
            )
        case JobDispatched():
            running = tuple(
                replace(entry, dispatch=event.dispatch, retry_at=None)
                for entry in queue.waiting
                if entry.job_id == event.job_id
            )
            return replace(
                queue,
                waiting=_without(queue.waiting, event.job_id),
                running=queue.running + running,
                dispatches=event.dispatch,
            )
        case JobFinished():
            return replace(
                queue,
                waiting=_without(queue.waiting, event.job_id),
                running=_without(queue.running, event.job_id),
                finished=queue.finished + 1,
            )
    assert_never(event)


aggregate = Aggregate(kind="queue", initial=Queue(), decide=decide, evolve=evolve)
