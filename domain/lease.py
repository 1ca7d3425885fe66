"""Who may move an instrument: at most one process at a time.

    free --> held --> free (released by the holder, or expired because it is dead or silent)

A holder is a station *instance*, one run of a station's process. The sequence of the lease's last event in the stream
is the fencing token. Time is no part of the rules: the watchdog, which hears the beats, says when a lease has expired.
"""

from dataclasses import dataclass
from typing import assert_never
from uuid import UUID

from pydantic import Field

from domain.aggregate import Aggregate
from domain.errors import WrongState
from domain.events import Command, Event, Id


class LeaseAcquired(Event, name="lease.acquired"):
    """`host` and `pid` let the next instance there prove that this one is dead. `ttl_s`: silence that ends it."""

    instrument: Id
    station_id: Id
    instance: UUID
    host: str
    pid: int
    ttl_s: float


class LeaseReleased(Event, name="lease.released"):
    """Given back by its holder."""

    instrument: Id
    station_id: Id
    instance: UUID
    reason: str


class LeaseExpired(Event, name="lease.expired"):
    """Taken from its holder, which may not touch the instrument again. `proven_dead`: it cannot, its process is gone; else
    it was silent, and the next holder gives it time to notice."""

    instrument: Id
    station_id: Id
    instance: UUID
    reason: str
    proven_dead: bool = False


LeaseEvent = LeaseAcquired | LeaseReleased | LeaseExpired


class AcquireLease(Command):
    """`predecessor_dead`: the sender has proven that the holder, an earlier run of its own station, is dead."""

    instrument: Id
    station_id: Id
    instance: UUID
    host: str
    pid: int
    ttl_s: float = Field(gt=0)
    predecessor_dead: bool = False


class ReleaseLease(Command):
    instrument: Id
    instance: UUID
    reason: str


class ExpireLease(Command):
    """The watchdog's word: `instance` was silent for too long, or is proven dead."""

    instrument: Id
    instance: UUID
    reason: str
    proven_dead: bool = False


LeaseCommand = AcquireLease | ReleaseLease | ExpireLease


@dataclass(frozen=True)
class Holder:
    station_id: str
    instance: UUID
    host: str
    pid: int
    ttl_s: float


@dataclass(frozen=True)
class Lease:
    holder: Holder | None = None


def decide(lease: Lease, command: LeaseCommand) -> list[LeaseEvent]:
    """Raises `WrongState` when another instance holds the instrument."""
    holder = lease.holder
    match command:
        case AcquireLease():
            acquired = LeaseAcquired(
                instrument=command.instrument,
                station_id=command.station_id,
                instance=command.instance,
                host=command.host,
                pid=command.pid,
                ttl_s=command.ttl_s,
            )
            if holder is None:
                return [acquired]
            if holder.instance == command.instance:
                return []
            if holder.station_id == command.station_id and command.predecessor_dead:
                reason = f"process {holder.pid} on {holder.host} is dead; the station's next run took over"
                return [_expired(command.instrument, holder, reason, proven_dead=True), acquired]
            raise WrongState(_held(command.instrument, holder))
        case ReleaseLease():
            if holder is None:
                return []
            if holder.instance != command.instance:
                raise WrongState(_held(command.instrument, holder))
            return [
                LeaseReleased(
                    instrument=command.instrument,
                    station_id=holder.station_id,
                    instance=holder.instance,
                    reason=command.reason,
                )
            ]
        case ExpireLease():
            if holder is None or holder.instance != command.instance:
                return []
            return [_expired(command.instrument, holder, command.reason, proven_dead=command.proven_dead)]
    assert_never(command)


def _expired(instrument: str, holder: Holder, reason: str, *, proven_dead: bool) -> LeaseExpired:
    return LeaseExpired(
        instrument=instrument,
        station_id=holder.station_id,
        instance=holder.instance,
        reason=reason,
        proven_dead=proven_dead,
    )


def _held(instrument: str, holder: Holder) -> str:
    return (
        f"{instrument} is held by station {holder.station_id} (process {holder.pid} on {holder.host}, "
        f"instance {holder.instance}); it is free again when that station stops, "
        f"or {holder.ttl_s:g} s after its last sign of life"
    )


def evolve(lease: Lease, event: LeaseEvent) -> Lease:
    match event:
        case LeaseAcquired():
            return Lease(Holder(event.station_id, event.instance, event.host, event.pid, event.ttl_s))
        case LeaseReleased() | LeaseExpired():
            return Lease()
    assert_never(event)


aggregate = Aggregate(kind="lease", initial=Lease(), decide=decide, evolve=evolve)
