"""One execution of a plan on a sample.

    queued -> running <-> paused
                 |           |
                 '-----------'--> completed | aborted | failed --(restart)--> queued

People order, the station does. Pause, resume and abort of a scan that a station holds are *requested* by the command and *noted*
by the station between two points; `wish` is what was asked last and not noted yet. Where no station holds the scan they take
effect at once.

A crash of its station leaves a scan running (or paused) but `interrupted`, until a station continues it as a new attempt, or
it is held for a person: `on_crash` says which. An interrupted scan whose pause was asked for is held, one whose abort was
asked for is aborted.

`attempt` starts at 1 and rises whenever a scan is continued after a crash or restarted. `point`, wherever it stands, is the first
point that is not measured yet. How far a running scan is, its readings know (`domain.readings`).

The commands at the end have no name: they are given by stations and the watchdog within the system and never come over the wire.
Repeating one that is already noted yields no event.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal, TypeAlias, assert_never
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, StringConstraints

from domain.aggregate import Aggregate
from domain.errors import AlreadyExists, NotFound, Refused, WrongState
from domain.events import Command, Event, Id
from domain.plan import Plan, instruments, points

Status: TypeAlias = Literal["queued", "running", "paused", "completed", "aborted", "failed"]
Wish: TypeAlias = Literal["pause", "resume", "abort"]
Priority: TypeAlias = Literal["low", "normal", "high", "urgent"]
OnCrash: TypeAlias = Literal["resume", "restart", "hold"]
#: Why a scan failed: the four kinds of instrument failures, a limit, a lost lease, or a defect of ours.
ErrorKind: TypeAlias = Literal[
    "refused", "no_answer", "wrong_answer", "gone", "out_of_limits", "lease_lost", "internal", "other"
]

Reason = Annotated[str, StringConstraints(max_length=2_000)]
Title = Annotated[str, StringConstraints(max_length=200)]
PointNumber = Annotated[int, Field(ge=0)]
Attempt = Annotated[int, Field(ge=1)]
MetaKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MetaValue = (
    StrictBool
    | Annotated[StrictInt, Field(ge=-(2**53), le=2**53)]
    | Annotated[StrictFloat, Field(allow_inf_nan=False)]
    | Annotated[StrictStr, StringConstraints(max_length=1_000)]
)
#: Ids of targets, by which the settings name them.
Targets = Annotated[tuple[Id, ...], Field(max_length=20)]
Metadata = Annotated[dict[MetaKey, MetaValue], Field(max_length=64)]


class FrameLimits(BaseModel):
    """A frame of readings is sent at `points` points or after `ms` milliseconds, whichever is first. With `points` 1 every reading
    is acknowledged before the next point."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    points: Annotated[int, Field(ge=1, le=1000)] = 100
    ms: Annotated[int, Field(ge=1, le=1000)] = 50


# ------------------------------------------------------------------------------------------------------------------- events


class ScanRequested(Event, name="scan.requested"):
    """`instruments` are all that the plan uses; `total_points` is how many points it has; `deliver` as in `scan.request`."""

    scan_id: UUID
    plan: Plan
    total_points: PointNumber
    instruments: tuple[Id, ...]
    sample_id: Id | None = None
    queue_id: Id = "main"
    priority: Priority = "normal"
    on_crash: OnCrash = "resume"
    frame: FrameLimits = FrameLimits()
    title: Title = ""
    metadata: Metadata = {}
    template: Id | None = None
    deliver: Targets | None = None


class ScanStarted(Event, name="scan.started"):
    scan_id: UUID
    attempt: Attempt
    station_id: Id
    instance: str
    total_points: PointNumber


class ScanPauseRequested(Event, name="scan.pause_requested"):
    """The station is to pause after the point under way."""

    scan_id: UUID
    attempt: Attempt
    station_id: Id


class ScanPaused(Event, name="scan.paused"):
    scan_id: UUID
    attempt: Attempt
    point: PointNumber


class ScanResumeRequested(Event, name="scan.resume_requested"):
    """The station is to go on; without a station, some station is to continue the scan as a new attempt."""

    scan_id: UUID
    attempt: Attempt
    station_id: Id | None


class ScanResumed(Event, name="scan.resumed"):
    scan_id: UUID
    attempt: Attempt


class ScanAbortRequested(Event, name="scan.abort_requested"):
    """The station is to stop after the point under way and leave its instruments in their safe states."""

    scan_id: UUID
    attempt: Attempt
    station_id: Id
    reason: Reason


class ScanAborted(Event, name="scan.aborted"):
    """`point` is None where no station was there to say it; the readings know."""

    scan_id: UUID
    attempt: Attempt
    point: PointNumber | None
    reason: Reason


class ScanCompleted(Event, name="scan.completed"):
    scan_id: UUID
    attempt: Attempt
    points: PointNumber


class ScanFailed(Event, name="scan.failed"):
    scan_id: UUID
    attempt: Attempt
    point: PointNumber | None
    error: ErrorKind
    reason: Reason


class ScanInterrupted(Event, name="scan.interrupted"):
    """The station is gone. The scan goes on as `on_crash` says."""

    scan_id: UUID
    attempt: Attempt
    station_id: Id
    instance: str
    on_crash: OnCrash
    reason: Reason


class ScanContinued(Event, name="scan.continued"):
    """A station goes on with an interrupted scan, from the first point that is not durable (0 if on_crash is restart)."""

    scan_id: UUID
    attempt: Attempt
    from_point: PointNumber
    station_id: Id
    instance: str


class ScanHeld(Event, name="scan.held"):
    """An interrupted scan waits for a person, who resumes or aborts it."""

    scan_id: UUID
    attempt: Attempt
    reason: Reason


class ScanRestarted(Event, name="scan.restarted"):
    """Queued again, from point 0, with what its queue needs to know."""

    scan_id: UUID
    attempt: Attempt
    total_points: PointNumber
    instruments: tuple[Id, ...]
    queue_id: Id
    priority: Priority
    title: Title = ""


ScanEvent: TypeAlias = (
    ScanRequested
    | ScanStarted
    | ScanPauseRequested
    | ScanPaused
    | ScanResumeRequested
    | ScanResumed
    | ScanAbortRequested
    | ScanAborted
    | ScanCompleted
    | ScanFailed
    | ScanInterrupted
    | ScanContinued
    | ScanHeld
    | ScanRestarted
)

# ----------------------------------------------------------------------------------------------------------------- commands


class RequestScan(Command, name="scan.request"):
    """Measure a plan. `replaces`: a job that waits in the queue, whose place the scan takes.

    `template`: the name of the template that the plan was made from. `deliver`: the targets that its artifacts go to, in place
    of those that the lab's rules name; an empty list is nowhere.
    """

    scan_id: UUID
    plan: Plan
    sample_id: Id | None = None
    queue_id: Id = "main"
    priority: Priority = "normal"
    on_crash: OnCrash = "resume"
    frame: FrameLimits = FrameLimits()
    title: Title = ""
    metadata: Metadata = {}
    template: Id | None = None
    deliver: Targets | None = None
    replaces: UUID | None = None


class PauseScan(Command, name="scan.pause"):
    scan_id: UUID


class ResumeScan(Command, name="scan.resume"):
    scan_id: UUID


class AbortScan(Command, name="scan.abort"):
    scan_id: UUID
    reason: Reason = ""


class RestartScan(Command, name="scan.restart"):
    scan_id: UUID


class _Internal(Command):
    """Not on the wire. `attempt`, where given, is the attempt that the sender speaks of; any other than the scan's is refused."""

    KIND: ClassVar[str] = "scan"

    scan_id: UUID
    attempt: Attempt | None = None


class StartScan(_Internal):
    """`instance` is the run of the station's process."""

    station_id: Id
    instance: str


class NotePaused(_Internal):
    point: PointNumber


class NoteResumed(_Internal):
    pass


class CompleteScan(_Internal):
    points: PointNumber


class FailScan(_Internal):
    reason: Reason
    point: PointNumber | None = None
    error: ErrorKind = "other"


class NoteAborted(_Internal):
    point: PointNumber | None = None


class InterruptScan(_Internal):
    """The station is gone. With `instance` or `attempt` given, a scan that has gone on elsewhere since is left alone."""

    reason: Reason
    instance: str | None = None


class ContinueScan(_Internal):
    """Goes on with an interrupted scan. `attempt`, where given, is the new one, one above the scan's."""

    station_id: Id
    instance: str
    from_point: PointNumber


class HoldScan(_Internal):
    reason: Reason = ""


ScanCommand: TypeAlias = (
    RequestScan
    | PauseScan
    | ResumeScan
    | AbortScan
    | RestartScan
    | StartScan
    | NotePaused
    | NoteResumed
    | CompleteScan
    | FailScan
    | NoteAborted
    | InterruptScan
    | ContinueScan
    | HoldScan
)

# -------------------------------------------------------------------------------------------------------------------- state


@dataclass(frozen=True)
class Scan:
    """`status` is None until the scan is requested. `interrupted`: it is under way, but its station is gone.
    `held`: it is interrupted, and waits for a person."""

    scan_id: UUID | None = None
    status: Status | None = None
    attempt: int = 1
    #: The attempt with which it was last put into its queue: a job of the queue lives through continued attempts.
    queued_attempt: int = 1
    plan: Plan | None = None
    total_points: int = 0
    instruments: tuple[str, ...] = ()
    sample_id: str | None = None
    queue_id: str = "main"
    priority: Priority = "normal"
    on_crash: OnCrash = "resume"
    frame: FrameLimits = field(default_factory=FrameLimits)
    title: str = ""
    metadata: Mapping[MetaKey, MetaValue] = field(default_factory=dict[str, bool | int | float | str])
    template: str | None = None
    #: Where its artifacts go; None: as the rules of the lab say.
    deliver: tuple[str, ...] | None = None
    station_id: str | None = None
    instance: str | None = None
    wish: Wish | None = None
    #: Why the abort was asked for.
    reason: str = ""
    interrupted: bool = False
    held: bool = False

    @property
    def under_way(self) -> bool:
        return self.status in ("running", "paused")

    @property
    def over(self) -> bool:
        return self.status in ("completed", "aborted", "failed")

    @property
    def live(self) -> bool:
        """A station holds it."""
        return self.under_way and not self.interrupted

    @property
    def to_be_continued(self) -> bool:
        """Interrupted, and nobody needs to be asked before it goes on."""
        return self.interrupted and not self.held and (self.status == "running" or self.wish == "resume")

    @property
    def in_words(self) -> str:
        """Where the scan stands and what can be done, as the end of a sentence."""
        if self.status == "queued":
            return "is queued; it can be started by its queue, or aborted"
        if self.held:
            return "is held for a person after a crash; it can be resumed or aborted"
        if self.interrupted:
            if self.to_be_continued:
                return "was interrupted and is about to be continued; it can be paused or aborted"
            return "is paused, and its station is gone; it can be resumed or aborted"
        if self.wish == "abort":
            return "is being aborted"
        if self.status == "running":
            if self.wish == "pause":
                return "is running and about to pause; it can be resumed or aborted"
            return "is running; it can be paused or aborted"
        if self.status == "paused":
            if self.wish == "resume":
                return "is paused and about to resume; it can be paused again or aborted"
            return "is paused; it can be resumed or aborted"
        return f"is {self.status}; it can be restarted"


def decide(scan: Scan, command: ScanCommand) -> list[ScanEvent]:
    """Raises NotFound, AlreadyExists, WrongState, or Refused for what can never be right."""
    if isinstance(command, RequestScan):
        return _request(scan, command)
    if scan.status is None:
        raise NotFound(f"there is no scan {command.scan_id}; request it first")
    match command:
        case PauseScan():
            return _pause(scan, command.scan_id)
        case ResumeScan():
            return _resume(scan, command.scan_id)
        case AbortScan():
            return _abort(scan, command)
        case RestartScan():
            return _restart(scan, command)
        case StartScan():
            return _start(scan, command)
        case NotePaused():
            return _note_paused(scan, command)
        case NoteResumed():
            return _note_resumed(scan, command)
        case CompleteScan():
            return _complete(scan, command)
        case FailScan():
            return _fail(scan, command)
        case NoteAborted():
            return _note_aborted(scan, command)
        case InterruptScan():
            return _interrupt(scan, command)
        case ContinueScan():
            return _continue(scan, command)
        case HoldScan():
            return _hold(scan, command)
    assert_never(command)


def _cannot(scan: Scan, verb: str) -> WrongState:
    return WrongState(f"cannot {verb} scan {scan.scan_id}: it {scan.in_words}")


def _same_attempt(scan: Scan, command: _Internal, verb: str) -> None:
    """A station that was replaced may speak of an attempt that is over."""
    if command.attempt is not None and command.attempt != scan.attempt:
        raise WrongState(
            f"cannot {verb} attempt {command.attempt} of scan {scan.scan_id}: it is in attempt {scan.attempt} and {scan.in_words}"
        )


def _point_exists(scan: Scan, point: int | None) -> None:
    if point is not None and point > scan.total_points:
        raise Refused(f"scan {scan.scan_id} has {scan.total_points} points, so it cannot be at point {point}")


def _request(scan: Scan, command: RequestScan) -> list[ScanEvent]:
    if scan.status is not None:
        raise AlreadyExists(f"scan {command.scan_id} exists already and {scan.in_words}; choose a new id")
    given = {name: getattr(command, name) for name in RequestScan.model_fields if name in ScanRequested.model_fields}
    used = tuple(sorted(instruments(command.plan)))
    return [ScanRequested(**given, total_points=points(command.plan), instruments=used)]


def _pause(scan: Scan, scan_id: UUID) -> list[ScanEvent]:
    if scan.to_be_continued:
        return [ScanHeld(scan_id=scan_id, attempt=scan.attempt, reason="paused before it was continued")]
    pausable = scan.status == "running" or scan.wish == "resume"
    if not scan.live or not pausable or scan.wish == "abort" or scan.station_id is None:
        raise _cannot(scan, "pause")
    if scan.wish == "pause":
        return []
    return [ScanPauseRequested(scan_id=scan_id, attempt=scan.attempt, station_id=scan.station_id)]


def _resume(scan: Scan, scan_id: UUID) -> list[ScanEvent]:
    resumable = scan.under_way and (scan.status == "paused" or scan.wish in ("pause", "resume"))
    if not resumable or scan.wish == "abort":
        raise _cannot(scan, "resume")
    if scan.wish == "resume":
        return []
    station_id = scan.station_id if scan.live else None
    return [ScanResumeRequested(scan_id=scan_id, attempt=scan.attempt, station_id=station_id)]


def _abort(scan: Scan, command: AbortScan) -> list[ScanEvent]:
    if scan.over:
        raise _cannot(scan, "abort")
    if scan.live and scan.station_id is not None:
        if scan.wish == "abort":
            return []
        return [
            ScanAbortRequested(
                scan_id=command.scan_id, attempt=scan.attempt, station_id=scan.station_id, reason=command.reason
            )
        ]
    point = 0 if scan.status == "queued" else None
    return [ScanAborted(scan_id=command.scan_id, attempt=scan.attempt, point=point, reason=command.reason)]


def _restart(scan: Scan, command: RestartScan) -> list[ScanEvent]:
    if not scan.over:
        hint = "" if scan.status == "queued" or scan.wish == "abort" else "; to restart it, abort it first"
        raise WrongState(f"{_cannot(scan, 'restart')}{hint}")
    return [
        ScanRestarted(
            scan_id=command.scan_id,
            attempt=scan.attempt + 1,
            total_points=scan.total_points,
            instruments=scan.instruments,
            queue_id=scan.queue_id,
            priority=scan.priority,
            title=scan.title,
        )
    ]


def _start(scan: Scan, command: StartScan) -> list[ScanEvent]:
    _same_attempt(scan, command, "start")
    if scan.live and (scan.station_id, scan.instance) == (command.station_id, command.instance):
        return []
    if scan.live:
        raise WrongState(f"scan {scan.scan_id} is on station {scan.station_id} already")
    if scan.status != "queued":
        raise _cannot(scan, "start")
    return [
        ScanStarted(
            scan_id=command.scan_id,
            attempt=scan.attempt,
            station_id=command.station_id,
            instance=command.instance,
            total_points=scan.total_points,
        )
    ]


def _note_paused(scan: Scan, command: NotePaused) -> list[ScanEvent]:
    _same_attempt(scan, command, "pause")
    _point_exists(scan, command.point)
    if not scan.live:
        raise _cannot(scan, "pause")
    if scan.status == "paused" and scan.wish != "pause":
        return []
    if scan.wish is None:
        raise WrongState(f"nobody has asked to pause scan {scan.scan_id}: it {scan.in_words}")
    # Also when a later wish is there already: the station had stopped before it heard of it, and will act on it next.
    return [ScanPaused(scan_id=command.scan_id, attempt=scan.attempt, point=command.point)]


def _note_resumed(scan: Scan, command: NoteResumed) -> list[ScanEvent]:
    _same_attempt(scan, command, "resume")
    if not scan.live:
        raise _cannot(scan, "resume")
    if scan.status == "running" and scan.wish != "resume":
        return []
    if scan.wish is None:
        raise WrongState(f"nobody has asked to resume scan {scan.scan_id}: it {scan.in_words}")
    return [ScanResumed(scan_id=command.scan_id, attempt=scan.attempt)]


def _complete(scan: Scan, command: CompleteScan) -> list[ScanEvent]:
    _same_attempt(scan, command, "complete")
    if command.points != scan.total_points:
        raise Refused(
            f"scan {scan.scan_id} cannot be complete: it has {command.points} of {scan.total_points} points measured"
        )
    if scan.status == "completed":
        return []
    if scan.status != "running" or not scan.live:
        raise _cannot(scan, "complete")
    # A pause or an abort that came during the last point comes too late.
    return [ScanCompleted(scan_id=command.scan_id, attempt=scan.attempt, points=command.points)]


def _fail(scan: Scan, command: FailScan) -> list[ScanEvent]:
    """Also before it runs, when its station finds that it cannot be done."""
    _same_attempt(scan, command, "fail")
    _point_exists(scan, command.point)
    if scan.status == "failed":
        return []
    if scan.over:
        raise _cannot(scan, "fail")
    return [
        ScanFailed(
            scan_id=command.scan_id,
            attempt=scan.attempt,
            point=command.point,
            error=command.error,
            reason=command.reason,
        )
    ]


def _note_aborted(scan: Scan, command: NoteAborted) -> list[ScanEvent]:
    _same_attempt(scan, command, "abort")
    _point_exists(scan, command.point)
    if scan.status == "aborted":
        return []
    if not scan.live:
        raise _cannot(scan, "abort")
    if scan.wish != "abort":
        raise WrongState(f"nobody has asked to abort scan {scan.scan_id}: it {scan.in_words}")
    return [ScanAborted(scan_id=command.scan_id, attempt=scan.attempt, point=command.point, reason=scan.reason)]


def _interrupt(scan: Scan, command: InterruptScan) -> list[ScanEvent]:
    elsewhere = (command.attempt is not None and command.attempt != scan.attempt) or (
        command.instance is not None and command.instance != scan.instance
    )
    if elsewhere or not scan.live or scan.station_id is None or scan.instance is None:
        # The watchdog is late: the scan is over, gone on, or known to be interrupted. That is no fault of anybody.
        return []
    found: list[ScanEvent] = [
        ScanInterrupted(
            scan_id=command.scan_id,
            attempt=scan.attempt,
            station_id=scan.station_id,
            instance=scan.instance,
            on_crash=scan.on_crash,
            reason=command.reason,
        )
    ]
    if scan.wish == "abort":
        found.append(ScanAborted(scan_id=command.scan_id, attempt=scan.attempt, point=None, reason=scan.reason))
    elif scan.wish == "pause":
        found.append(ScanHeld(scan_id=command.scan_id, attempt=scan.attempt, reason="it was about to pause"))
    elif scan.on_crash == "hold" and (scan.status == "running" or scan.wish == "resume"):
        found.append(ScanHeld(scan_id=command.scan_id, attempt=scan.attempt, reason="it is to be held after a crash"))
    return found


def _continue(scan: Scan, command: ContinueScan) -> list[ScanEvent]:
    holder = scan.live and (scan.station_id, scan.instance) == (command.station_id, command.instance)
    if holder and command.attempt in (None, scan.attempt):
        return []
    _point_exists(scan, command.from_point)
    if not scan.to_be_continued:
        raise _cannot(scan, "continue")
    if command.attempt is not None and command.attempt != scan.attempt + 1:
        raise WrongState(f"the next attempt of scan {scan.scan_id} is {scan.attempt + 1}, not {command.attempt}")
    return [
        ScanContinued(
            scan_id=command.scan_id,
            attempt=scan.attempt + 1,
            from_point=0 if scan.on_crash == "restart" else command.from_point,
            station_id=command.station_id,
            instance=command.instance,
        )
    ]


def _hold(scan: Scan, command: HoldScan) -> list[ScanEvent]:
    _same_attempt(scan, command, "hold")
    if scan.interrupted and not scan.to_be_continued:
        # Held, or paused before its station went: it waits for a person already.
        return []
    if not scan.interrupted:
        raise _cannot(scan, "hold")
    return [ScanHeld(scan_id=command.scan_id, attempt=scan.attempt, reason=command.reason)]


def evolve(scan: Scan, event: ScanEvent) -> Scan:
    match event:
        case ScanRequested():
            return Scan(
                scan_id=event.scan_id,
                status="queued",
                plan=event.plan,
                total_points=event.total_points,
                instruments=event.instruments,
                sample_id=event.sample_id,
                queue_id=event.queue_id,
                priority=event.priority,
                on_crash=event.on_crash,
                frame=event.frame,
                title=event.title,
                metadata=event.metadata,
                template=event.template,
                deliver=event.deliver,
            )
        case ScanStarted() | ScanContinued():
            return replace(
                scan,
                status="running",
                attempt=event.attempt,
                station_id=event.station_id,
                instance=event.instance,
                wish=None,
                interrupted=False,
                held=False,
            )
        case ScanPauseRequested():
            return replace(scan, wish="pause")
        case ScanPaused():
            return replace(scan, status="paused", wish=None if scan.wish == "pause" else scan.wish)
        case ScanResumeRequested():
            return replace(scan, wish="resume", held=False)
        case ScanResumed():
            return replace(scan, status="running", wish=None if scan.wish == "resume" else scan.wish)
        case ScanAbortRequested():
            return replace(scan, wish="abort", reason=event.reason)
        case ScanAborted():
            return _ended(scan, "aborted")
        case ScanCompleted():
            return _ended(scan, "completed")
        case ScanFailed():
            return _ended(scan, "failed")
        case ScanInterrupted():
            # Only the wish to resume outlives the station, and only where there is something to resume.
            keep = scan.wish == "resume" and scan.status == "paused"
            return replace(scan, interrupted=True, wish="resume" if keep else None)
        case ScanHeld():
            return replace(scan, status="paused", interrupted=True, held=True, wish=None)
        case ScanRestarted():
            return replace(_ended(scan, "queued"), attempt=event.attempt, queued_attempt=event.attempt)
    assert_never(event)


def _ended(scan: Scan, status: Status) -> Scan:
    """No station, no wish, no interruption."""
    return replace(
        scan, status=status, station_id=None, instance=None, wish=None, reason="", interrupted=False, held=False
    )


aggregate = Aggregate(kind="scan", initial=Scan(), decide=decide, evolve=evolve)
