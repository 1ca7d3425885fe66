"""Reactions: what is done when an event arrives. One `Consumer` a file in `handlers/`.

    consumer = Consumer("deliver-scan")

    @consumer.on(ScanCompleted)
    async def deliver_scan(event: ScanCompleted, at: Reaction) -> None: ...

A consumer is durable, shared by any number of processes, and gets each event at least once; a handler says in a line why
twice is harmless. What fails is tried again (`bus.retry`), then parked, and with it the later events of that aggregate,
so that they are never handled out of order.
"""

import asyncio
import json
import logging
import traceback
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from faststream.nats import NatsBroker
from nats.aio.msg import Msg

from bus import broker as brokers
from bus import retry
from bus.envelope import Meta, Stored
from bus.ledger import Ledger
from bus.parking import PARKED_ID, SEQUENCE, Parking
from bus.streams import CMD, EVT
from bus.subscription import stored_from_delivery
from domain.errors import Refused
from domain.events import EVENTS, Event, decode

log = logging.getLogger("labledger.reactions")

E = TypeVar("E", bound=Event)


@dataclass(frozen=True)
class Reaction:
    """What a handler works with: the stored event, the ledger, what its own events follow from, and the ports."""

    stored: Stored
    ledger: Ledger
    meta: Meta
    ports: Mapping[str, Any]


Handler = Callable[[Any, Reaction], Awaitable[None]]


class Consumer:
    """A durable consumer of EVT. `name` is stored for ever: it is where the consumer's position is kept."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._handlers: dict[str, list[Handler]] = {}

    def on(self, *events: type[E]) -> Callable[[Callable[[E, Reaction], Awaitable[None]]], Any]:
        """Mark a handler of these events."""

        def mark(function: Callable[[E, Reaction], Awaitable[None]]) -> Any:
            for event in events:
                self._handlers.setdefault(event.NAME, []).append(function)
            return function

        return mark

    @property
    def kinds(self) -> list[str]:
        """The aggregate kinds whose events it reads."""
        return sorted({name.split(".")[0] for name in self._handlers})

    def handlers(self, name: str) -> list[Handler]:
        return self._handlers.get(name, [])


class StillBlocked(Exception):
    """A parked event that is to be tried again, while an earlier one of its aggregate is still parked."""


class Reactor:
    """Runs consumers on a broker."""

    def __init__(self, ledger: Ledger, parking: Parking, ports: Mapping[str, Any]) -> None:
        self._ledger = ledger
        self._parking = parking
        self._ports = ports
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        #: Events that were sent back, by consumer and aggregate: those that failed, and those that wait behind them. No
        #: later one may pass them, until a time (of the loop) at which somebody else must have taken them over.
        self._out: dict[tuple[str, str], dict[int, float]] = {}
        #: How often a message was sent back through no fault of its own: those deliveries count for nothing.
        self._innocent: OrderedDict[tuple[str, int], int] = OrderedDict()

    def attach(self, broker: NatsBroker, consumer: Consumer, inbox_prefix: str) -> None:
        """Subscribe a consumer: to its kinds of events, and to its parked events that are to be tried again."""
        for kind in consumer.kinds:
            brokers.subscribe(
                broker,
                lambda msg, consumer=consumer: self.on_message(consumer, msg),
                stream=EVT,
                subject=f"evt.{kind}.>",
                durable=f"{consumer.name}-{kind}",
                inbox_prefix=inbox_prefix,
            )
        brokers.subscribe(
            broker,
            lambda msg, consumer=consumer: self.on_retry(consumer, msg),
            stream=CMD,
            subject=f"cmd.work.retry.{consumer.name}",
            durable=f"retry-{consumer.name}",
            inbox_prefix=inbox_prefix,
            batch=1,
        )

    async def on_message(self, consumer: Consumer, msg: Msg) -> float | None:
        stored, _ = stored_from_delivery(msg)
        name = stored.type.rpartition(".v")[0]
        if name in EVENTS and not consumer.handlers(name):
            return None
        key = (consumer.name, stored.subject)
        lock = self._locks.setdefault(key, asyncio.Lock())  # kept only while somebody holds or awaits it
        async with lock:
            now = asyncio.get_running_loop().time()
            out = {seq: until for seq, until in self._out.get(key, {}).items() if now < until and seq != stored.seq}
            if any(seq < stored.seq for seq in out):
                self._excuse(consumer, stored)
                again = 0.5
            else:
                again = await self._try(consumer, stored, retry.deliveries(msg))
            if again is not None:
                out[stored.seq] = asyncio.get_running_loop().time() + again + brokers.ACK_WAIT_S
            else:
                self._innocent.pop((consumer.name, stored.seq), None)
            if out:
                self._out[key] = out
            else:
                self._out.pop(key, None)
        return again

    def _excuse(self, consumer: Consumer, stored: Stored) -> None:
        key = (consumer.name, stored.seq)
        self._innocent[key] = self._innocent.get(key, 0) + 1
        self._innocent.move_to_end(key)
        while len(self._innocent) > 10_000:
            self._innocent.popitem(last=False)

    async def _try(self, consumer: Consumer, stored: Stored, delivery: int) -> float | None:
        try:
            blocked = await self._parking.waits_behind(consumer.name, stored.kind, stored.id, stored.seq)
            if blocked is not None:
                await self._park(consumer, stored, f"an earlier event of {stored.subject} is parked as {blocked}", "")
                return None
            await self._handle(consumer, stored)
            return None
        except Exception as error:
            if retry.mends_itself(error):
                self._excuse(consumer, stored)
                return retry.delay_s(delivery)
            log.exception("%s could not handle %s at %d", consumer.name, stored.type, stored.seq)
            if delivery - self._innocent.get((consumer.name, stored.seq), 0) < retry.TRIES:
                return retry.delay_s(delivery)
            try:
                await self._park(consumer, stored, f"{type(error).__name__}: {error}", traceback.format_exc())
            except Exception as trouble:
                log.warning("%s: cannot park %d yet: %s", consumer.name, stored.seq, trouble)
                return retry.delay_s(delivery)
            return None

    async def _handle(self, consumer: Consumer, stored: Stored) -> None:
        event = stored.event
        meta = stored.follows()
        for handler in consumer.handlers(event.NAME):
            at = Reaction(stored, self._ledger, meta.step(f"{consumer.name}.{handler.__name__}"), self._ports)
            try:
                await handler(event, at)
            except Refused as refusal:
                # The domain's no is an answer: what was to be done is not possible (any more).
                log.info("%s: %s at %d: %s", consumer.name, stored.type, stored.seq, refusal)

    async def _park(self, consumer: Consumer, stored: Stored, reason: str, detail: str) -> None:
        meta = stored.follows().step(f"{consumer.name}.park")
        await self._parking.park(
            "event",
            consumer.name,
            stored.subject,
            str(stored.seq),
            {**stored.headers, SEQUENCE: str(stored.seq)},
            stored.data,
            reason,
            detail,
            meta,
        )

    async def on_retry(self, consumer: Consumer, msg: Msg) -> float | None:
        """Try a parked event again, as it was. It fails: it is parked again, with the new reason."""
        try:
            park_seq = int(json.loads(msg.data)["park_seq"])
        except (ValueError, KeyError, TypeError):
            log.error("%s: a retry order that is none: %.200r", consumer.name, msg.data)
            return None
        try:
            subject, headers, body = await self._parking.message(park_seq)
            seq = int(headers[SEQUENCE])
            stored = Stored(seq, subject, headers, body, retry.stored_at(msg))
            try:
                decode(stored.type, body)
                blocked = await self._parking.waits_behind(consumer.name, stored.kind, stored.id, seq)
                if blocked is not None:
                    raise StillBlocked(
                        f"an earlier event of {subject} is parked as {blocked}: retry or drop that first"
                    )
                await self._handle(consumer, stored)
            except Exception as error:
                if retry.mends_itself(error):
                    raise
                meta = stored.follows().step(f"{consumer.name}.park-again-{retry.stored_at(msg).timestamp():.6f}")
                await self._parking.park(
                    "event",
                    consumer.name,
                    subject,
                    str(seq),
                    headers,
                    body,
                    f"again: {type(error).__name__}: {error}",
                    traceback.format_exc(),
                    meta,
                )
                return None
            await self._parking.resolve(headers[PARKED_ID], stored.follows())
            return None
        except Exception as error:
            log.warning("%s: retry of what is parked at %d: %s", consumer.name, park_seq, error)
            return retry.delay_s(retry.deliveries(msg))
