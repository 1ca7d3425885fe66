"""One process that holds a set of instruments and runs scans on them. Each run of it is an *instance*.

    (none, stopped, lost) --> up --> stopped  (it went by itself)
                                 --> lost     (its beats stopped: the watchdog's word)

While up, an instrument whose call does not come back is noted as stuck until it does. Word about an instance that is
not the current one, or is gone already, changes nothing: watchdog and station may both speak, in any order and twice.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, assert_never
from uuid import UUID

from pydantic import Field

from domain.aggregate import Aggregate
from domain.errors import NotFound, WrongState
from domain.events import Command, Event, Id


class StationStarted(Event, name="station.started"):
    """`instruments`: the driver or address of each, by name."""

    station_id: Id
    instance: UUID
    host: str
    pid: int
    version: str
    instruments: dict[str, str]


class StationStopped(Event, name="station.stopped"):
    station_id: Id
    instance: UUID
    reason: str = ""


class StationLost(Event, name="station.lost"):
    """It died or cannot be heard. Its leases fall with it."""

    station_id: Id
    instance: UUID
    reason: str


class StationStuck(Event, name="station.stuck"):
    """A call to the instrument has been running for `call_s` seconds."""

    station_id: Id
    instance: UUID
    instrument: Id
    call_s: float


class StationUnstuck(Event, name="station.unstuck"):
    """The call came back, or was given up."""

    station_id: Id
    instance: UUID
    instrument: Id


StationEvent = StationStarted | StationStopped | StationLost | StationStuck | StationUnstuck


class StartStation(Command):
    """`predecessor_dead`: the sender has proven that the instance said to be up is dead."""

    station_id: Id
    instance: UUID
    host: str
    pid: int
    version: str
    instruments: dict[Id, str]
    predecessor_dead: bool = False


class StopStation(Command):
    station_id: Id
    instance: UUID
    reason: str = ""


class LoseStation(Command):
    station_id: Id
    instance: UUID
    reason: str


class NoteStuck(Command):
    station_id: Id
    instance: UUID
    instrument: Id
    call_s: float = Field(ge=0)


class NoteUnstuck(Command):
    station_id: Id
    instance: UUID
    instrument: Id


StationCommand = StartStation | StopStation | LoseStation | NoteStuck | NoteUnstuck


@dataclass(frozen=True)
class Station:
    """`instance`, `host`, `pid` are those of the current or, when it is not up, of the last run."""

    state: Literal["none", "up", "stopped", "lost"] = "none"
    instance: UUID | None = None
    host: str = ""
    pid: int = 0
    version: str = ""
    instruments: dict[str, str] = field(default_factory=dict[str, str])
    #: Instruments whose call hangs.
    stuck: frozenset[str] = frozenset()


def decide(station: Station, command: StationCommand) -> list[StationEvent]:
    """Raises `WrongState` when another instance is up, `NotFound` for an instrument that the station does not have."""
    current = station.state == "up" and station.instance == command.instance
    match command:
        case StartStation():
            return _start(station, command)
        case StopStation():
            if not current:
                return []
            return [StationStopped(station_id=command.station_id, instance=command.instance, reason=command.reason)]
        case LoseStation():
            if not current:
                return []
            return [StationLost(station_id=command.station_id, instance=command.instance, reason=command.reason)]
        case NoteStuck():
            if not current or command.instrument in station.stuck:
                return []
            if command.instrument not in station.instruments:
                raise NotFound(
                    f"station {command.station_id} has no instrument {command.instrument}; "
                    f"it has {', '.join(sorted(station.instruments)) or 'none'}"
                )
            return [
                StationStuck(
                    station_id=command.station_id,
                    instance=command.instance,
                    instrument=command.instrument,
                    call_s=command.call_s,
                )
            ]
        case NoteUnstuck():
            if not current or command.instrument not in station.stuck:
                return []
            return [
                StationUnstuck(station_id=command.station_id, instance=command.instance, instrument=command.instrument)
            ]
    assert_never(command)


def _start(station: Station, command: StartStation) -> list[StationEvent]:
    started = StationStarted(
        station_id=command.station_id,
        instance=command.instance,
        host=command.host,
        pid=command.pid,
        version=command.version,
        instruments=dict(command.instruments),
    )
    if station.state != "up" or station.instance is None:
        return [started]
    if station.instance == command.instance:
        return []
    if not command.predecessor_dead:
        raise WrongState(
            f"station {command.station_id} is up already (process {station.pid} on {station.host}, "
            f"instance {station.instance}); stop it first, or give this one another name"
        )
    reason = f"process {station.pid} on {station.host} is dead; the next run took over"
    return [StationLost(station_id=command.station_id, instance=station.instance, reason=reason), started]


def evolve(station: Station, event: StationEvent) -> Station:
    match event:
        case StationStarted():
            return Station("up", event.instance, event.host, event.pid, event.version, dict(event.instruments))
        case StationStopped():
            return replace(station, state="stopped", stuck=frozenset[str]())
        case StationLost():
            return replace(station, state="lost", stuck=frozenset[str]())
        case StationStuck():
            return replace(station, stuck=station.stuck | {event.instrument})
        case StationUnstuck():
            return replace(station, stuck=station.stuck - {event.instrument})
    assert_never(event)


aggregate = Aggregate(kind="station", initial=Station(), decide=decide, evolve=evolve)
