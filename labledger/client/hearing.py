"""Hearing events live, on `live.evt.>`, and noticing when one was missed."""

import asyncio
from datetime import UTC, datetime
from typing import Self

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from bus import connection as wire
from bus.connection import Bus
from bus.envelope import Stored


def heard(msg: Msg) -> tuple[Stored, int]:
    """The stored event of a direct get or a republished message, and the sequence before it on its subject."""
    headers = msg.headers or {}
    at = datetime.fromisoformat(headers["Nats-Time-Stamp"].replace("Z", "+00:00")).astimezone(UTC)
    stored = Stored(int(headers["Nats-Sequence"]), headers["Nats-Subject"], headers, msg.data, at)
    return stored, int(headers.get("Nats-Last-Sequence", "0"))


class Ear:
    """Hears the events of a subject once they are stored, and notices when it has missed one.

    Of one aggregate each message names the sequence before it; of many, all events are heard and their sequences counted.
    """

    def __init__(self, bus: Bus, subject: str) -> None:
        self._bus = bus
        self._wildcard = subject.endswith((".*", ">"))
        self._prefix = subject.rstrip("*>")
        self._heard = "live.evt.>" if self._wildcard else f"live.{subject}"
        self._queue: asyncio.Queue[Msg] = asyncio.Queue()
        self._position = 0
        #: The newest event that was heard and not handed out: reading must come as far.
        self.reach = 0
        self._sub: NatsSubscription | None = None

    async def __aenter__(self) -> Self:
        async def on_message(msg: Msg) -> None:
            self._queue.put_nowait(msg)

        self._sub = await self._bus.nc.subscribe(  # pyright: ignore[reportUnknownMemberType]
            self._heard, cb=on_message, pending_msgs_limit=1_000_000, pending_bytes_limit=1 << 28
        )
        await self._bus.nc.flush()  # the server listens for us from here on, so reading up to now leaves no gap
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sub is not None:
            try:
                await self._sub.unsubscribe()
            except wire.NatsError:
                pass  # the connection is closed, and with it the subscription

    def caught_up(self, position: int) -> None:
        """All up to `position` was read elsewhere."""
        self._position = max(self._position, position)

    async def next(self, wait_s: float) -> Stored | None:
        """The next event; None after silence, or when one was missed."""
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    msg = await self._queue.get()
            except TimeoutError:
                return None
            stored, before = heard(msg)
            if stored.seq <= self._position:
                continue
            missed = stored.seq != self._position + 1 if self._wildcard else before > self._position
            ours = stored.subject.startswith(self._prefix)
            self._position = stored.seq
            if missed:
                # What lies between may be of other kinds, or ours: whoever reads behind the last one knows.
                self.reach = stored.seq if ours else self.reach
                return None
            if ours:
                return stored
