"""Parking: what was given up after its retries, kept with all that is needed to try again.

The message lies in the stream PARK as it was, under `park.<consumer>.<kind>.<rest>`; that it is parked, tried again and
resolved are events (`domain.parked`). Both steps are safe to repeat: the id is made from consumer and message.
"""

import json
import uuid
from collections.abc import Mapping
from typing import Literal

from bus.envelope import Meta
from bus.errors import BusError, Unavailable
from bus.ledger import Ledger
from bus.store import Written
from bus.streams import PARK
from domain.parked import Park, ResolveParked

_SPACE = uuid.UUID("6f9c2f0e-52a4-4f0e-9f43-6f1a6f0c7a11")

#: Names of the headers that say why; the message's own headers stay beside them.
REASON, ORIGIN, PARKED_ID = "Labledger-Reason", "Labledger-Origin", "Labledger-Parked"


def parked_id(consumer: str, message: str) -> str:
    """The id under which this message of this consumer is parked: always the same."""
    return str(uuid.uuid5(_SPACE, f"{consumer}/{message}"))


class Parking:
    """Parks messages, and finds them again."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.bus = ledger.store.bus

    async def park(
        self,
        what: Literal["command", "event"],
        consumer: str,
        subject: str,
        message: str,
        headers: Mapping[str, str],
        body: bytes,
        reason: str,
        detail: str,
        meta: Meta,
    ) -> tuple[str, tuple[Written, ...]]:
        """Park a message; answers the id it is parked under, and the events. `message` identifies it for the consumer."""
        id_ = parked_id(consumer, message)
        tokens = subject.split(".", 1)[1] if what == "event" else subject.split(".", 1)[-1]
        kept = {name: value for name, value in headers.items() if not name.startswith("Nats-")}
        kept |= {REASON: " ".join(reason.split())[:500], ORIGIN: subject, PARKED_ID: id_}
        # Repeating stores a second copy at worst after the dedup window; the event points at the one that counts.
        ack = await self.bus.publish(
            f"park.{consumer}.{tokens}", body, kept | {"Nats-Msg-Id": f"{id_}:{meta.message_key}"}
        )
        if ack.err_code:
            raise BusError(f"cannot park a message of {subject}: {ack.error}")
        command = Park(
            parked_id=id_,
            what=what,
            subject=subject,
            consumer=consumer,
            reason=reason[:1000],
            park_seq=ack.seq,
            detail=detail[-4000:],
        )
        outcome = await self.ledger.handle("parked", id_, command, meta.step(f"park-{ack.seq}"))
        return id_, outcome.events

    async def resolve(self, id_: str, meta: Meta) -> None:
        """Note that a parked message was handled after all. Nothing happens if it was resolved already."""
        await self.ledger.handle("parked", id_, ResolveParked(parked_id=id_), meta.step("resolve"))

    async def message(self, park_seq: int) -> tuple[str, dict[str, str], bytes]:
        """The parked message: the subject it came from, its headers, its body."""
        msg = await self.bus.request(f"$JS.API.DIRECT.GET.{PARK}", json.dumps({"seq": park_seq}).encode())
        headers = dict(msg.headers or {})
        if "Status" in headers:
            raise Unavailable(f"no parked message at {park_seq}")
        return headers[ORIGIN], headers, msg.data

    async def waits_behind(self, consumer: str, kind: str, id_: str) -> str | None:
        """The parked id of an event of this aggregate that the consumer gave up and nobody resolved, or None."""
        request = json.dumps({"last_by_subj": f"park.{consumer}.{kind}.{id_}"}).encode()
        msg = await self.bus.request(f"$JS.API.DIRECT.GET.{PARK}", request)
        headers = msg.headers or {}
        if "Status" in headers:
            return None
        loaded = await self.ledger.refresh("parked", headers[PARKED_ID])
        return headers[PARKED_ID] if loaded.state.state in ("parked", "retrying") else None
