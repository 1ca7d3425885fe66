"""Something given up after its retries: a command or an event that could not be handled.

    added -> retried -> resolved (handled at last, or dropped by a person)
                   \\-> added again (it failed again)

The message itself lies in the stream PARK at `park_seq`, unchanged, so that it can be tried again after a repair.
"""

from dataclasses import dataclass, replace
from typing import Literal, assert_never

from domain.aggregate import Aggregate
from domain.errors import NotFound, WrongState
from domain.events import Command, Event, Id


class ParkedAdded(Event, name="parked.added"):
    """`subject` is where the message came from, `consumer` who could not handle it, `reason` why in a line."""

    parked_id: Id
    what: Literal["command", "event"]
    subject: str
    consumer: str
    reason: str
    park_seq: int
    detail: str = ""


class ParkedRetried(Event, name="parked.retried"):
    parked_id: Id
    park_seq: int


class ParkedResolved(Event, name="parked.resolved"):
    parked_id: Id
    how: Literal["handled", "dropped"]


ParkedEvent = ParkedAdded | ParkedRetried | ParkedResolved


class RetryParked(Command, name="parked.retry"):
    """Try a parked command or event again."""

    parked_id: Id


class DropParked(Command, name="parked.drop"):
    """Give a parked command or event up for good. Its record stays in the history."""

    parked_id: Id


class Park(Command):
    """Internal: a consumer gives a message up."""

    parked_id: Id
    what: Literal["command", "event"]
    subject: str
    consumer: str
    reason: str
    park_seq: int
    detail: str = ""


class ResolveParked(Command):
    """Internal: the message was handled after all."""

    parked_id: Id


@dataclass(frozen=True)
class Parked:
    state: Literal["unknown", "parked", "retrying", "handled", "dropped"] = "unknown"
    park_seq: int = 0


def decide(parked: Parked, command: RetryParked | DropParked | Park | ResolveParked) -> list[ParkedEvent]:
    match command:
        case Park():
            if parked.state == "parked":
                return []
            return [ParkedAdded(**command.model_dump())]
        case RetryParked(parked_id=parked_id):
            if parked.state == "unknown":
                raise NotFound(f"nothing is parked under {parked_id}: see `labledger parked list`")
            if parked.state == "retrying":
                return []
            if parked.state != "parked":
                raise WrongState(f"{parked_id} is {parked.state} already: there is nothing left to try again")
            return [ParkedRetried(parked_id=parked_id, park_seq=parked.park_seq)]
        case DropParked(parked_id=parked_id):
            if parked.state == "unknown":
                raise NotFound(f"nothing is parked under {parked_id}: see `labledger parked list`")
            if parked.state in ("handled", "dropped"):
                raise WrongState(f"{parked_id} is {parked.state} already")
            return [ParkedResolved(parked_id=parked_id, how="dropped")]
        case ResolveParked(parked_id=parked_id):
            if parked.state in ("unknown", "handled", "dropped"):
                return []
            return [ParkedResolved(parked_id=parked_id, how="handled")]
    assert_never(command)


def evolve(parked: Parked, event: ParkedEvent) -> Parked:
    match event:
        case ParkedAdded(park_seq=park_seq):
            return Parked(state="parked", park_seq=park_seq)
        case ParkedRetried():
            return replace(parked, state="retrying")
        case ParkedResolved(how=how):
            return replace(parked, state=how)
    assert_never(event)


aggregate = Aggregate(kind="parked", initial=Parked(), decide=decide, evolve=evolve)
