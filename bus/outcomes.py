"""The outcome of each command, kept by the command's id, so that the same id is answered the same however late.

One message a command on `out.<command id>`. The dedup window of CMD forgets after an hour and an aggregate remembers
its last 64 commands; this store never forgets (about 200 bytes of server memory and 400 of disk for each command).
"""

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bus.connection import Bus
from bus.errors import BusError
from bus.ledger import Outcome as Decided
from bus.streams import OUT


class EventRef(BaseModel):
    """One event that the command led to, and where it is."""

    model_config = ConfigDict(frozen=True)

    type: str
    subject: str
    sequence: int


class Problem(BaseModel):
    """What is wrong with a command, and where in it (`plan.nodes.0.positions`)."""

    model_config = ConfigDict(frozen=True)

    where: str
    what: str


class Outcome(BaseModel):
    """The answer to a command.

    accepted  the events are stored; wait for a projection to reach `sequence` to read one's own write
    refused   the domain's no; `reason` is worded for the person who asked
    invalid   the command is not what the schema says; `problems` tells what and where
    parked    nobody could handle it; it is kept under `parked_id` and can be retried
    """

    model_config = ConfigDict(frozen=True)

    outcome: Literal["accepted", "refused", "invalid", "parked"]
    command_id: str
    command: str = ""
    events: tuple[EventRef, ...] = ()
    sequence: int = 0
    reason: str = ""
    problems: tuple[Problem, ...] = ()
    parked_id: str | None = None

    @staticmethod
    def accepted(command_id: str, command: str, decided: Decided) -> "Outcome":
        events = tuple(EventRef(type=w.type, subject=w.subject, sequence=w.seq) for w in decided.events)
        return Outcome(
            outcome="accepted", command_id=command_id, command=command, events=events, sequence=decided.sequence
        )


async def recall(bus: Bus, command_id: str) -> Outcome | None:
    """The outcome that a command of this id had, or None."""
    request = json.dumps({"last_by_subj": f"out.{command_id}"}).encode()
    msg = await bus.request(f"$JS.API.DIRECT.GET.{OUT}", request)
    if "Status" in (msg.headers or {}):
        return None
    return Outcome.model_validate_json(msg.data)


async def keep(bus: Bus, outcome: Outcome) -> None:
    """Store an outcome. Safe to repeat: the last one under the id is the one that counts, and it is the same."""
    ack = await bus.publish(f"out.{outcome.command_id}", outcome.model_dump_json().encode())
    if ack.err_code:
        raise BusError(f"cannot keep the outcome of {outcome.command_id}: {ack.error}")
