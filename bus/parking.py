"""Parking: what was given up after its retries, kept with all that is needed to try again.

The message lies in the stream PARK as it was, under `park.<consumer>.<kind>.<rest>`; that it is parked, tried again and
resolved are events (`domain.parked`). Both steps are safe to repeat: the id is made from consumer and message.
"""

import json
import uuid
from collections.abc import Mapping
from typing import Literal

from bus.envelope import Meta, quoted
from bus.errors import BusError, Unavailable
from bus.ledger import Ledger
from bus.store import Written
from bus.streams import PARK
from domain.parked import Park, ResolveParked

_SPACE = uuid.UUID("6f9c2f0e-52a4-4f0e-9f43-6f1a6f0c7a11")

#: Names of the headers that say why; the message's own headers stay beside them.
REASON, ORIGIN, PARKED_ID = "Labledger-Reason", "Labledger-Origin", "Labledger-Parked"
#: Where a parked event stands in EVT.
SEQUENCE = "Labledger-Sequence"


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
        tokens = subject.split(".", 1)[1]
        kept = {name: value for name, value in headers.items() if not name.startswith("Nats-")}
        kept |= {REASON: quoted(" ".join(reason.split())[:500]), ORIGIN: subject, PARKED_ID: id_}
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
        loaded = await self.ledger.refresh("parked", id_)
        step = meta.step(f"resolve-{loaded.state.park_seq}")  # it may be parked, and resolved, more than once
        await self.ledger.handle("parked", id_, ResolveParked(parked_id=id_), step)

    async def retrying(self, id_: str, consumer: str, message: str) -> str | None:
        """The id, if it truly is this message's and somebody asked to try it again. Anybody may write the header."""
        if id_ != parked_id(consumer, message):
            return None
        return id_ if (await self.ledger.refresh("parked", id_)).state.state == "retrying" else None

    async def message(self, park_seq: int) -> tuple[str, dict[str, str], bytes]:
        """The parked message: the subject it came from, its headers, its body."""
        msg = await self.bus.request(f"$JS.API.DIRECT.GET.{PARK}", json.dumps({"seq": park_seq}).encode())
        headers = dict(msg.headers or {})
        if "Status" in headers:
            raise Unavailable(f"no parked message at {park_seq}")
        return headers[ORIGIN], headers, msg.data

    async def waits_behind(self, consumer: str, kind: str, id_: str, seq: int) -> str | None:
        """The parked id of an event of this aggregate before `seq` that the consumer gave up and nobody resolved."""
        subject = f"park.{consumer}.{kind}.{id_}"
        found: dict[str, int] = {}
        after = 0
        while True:
            request = json.dumps({"seq": after + 1, "next_by_subj": subject}).encode()
            headers = (await self.bus.request(f"$JS.API.DIRECT.GET.{PARK}", request)).headers or {}
            if "Status" in headers:
                break
            found[headers[PARKED_ID]] = int(headers[SEQUENCE])
            after = int(headers["Nats-Sequence"])
        for parked, at in sorted(found.items(), key=lambda item: item[1]):
            if at < seq and (await self.ledger.refresh("parked", parked)).state.state in ("parked", "retrying"):
                return parked
        return None
