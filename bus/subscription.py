"""Reading EVT in order: own pull loop on an ephemeral consumer, no acks.

The consumer lives in the server's memory and is thrown away freely: whatever goes wrong (server restart, a hole in the
delivery, silence), the subscription makes a new one behind the last event that it handed out. So nothing is skipped and
nothing comes twice. nats-py's `fetch` spends 25 us a message; a callback on a private inbox takes 5 (reference: a5).
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError

from bus.connection import Bus
from bus.envelope import BATCH_COMMIT, BATCH_ID, Stored
from bus.errors import BusError, Unavailable
from bus.ids import uuid7
from bus.streams import EVT

log = logging.getLogger("labledger.bus")

PULL = 1000
#: How much is kept in memory, whatever the size of the events: nothing more is asked for above the first (two pulls of
#: 8 MB may be on their way), and a batch ends at the second.
BUFFER_BYTES = 16_000_000
BATCH_BYTES = 8_000_000
HEARTBEAT_S = 2.0
EXPIRES_S = 20.0


def ack_tokens(reply: str) -> tuple[int, int, int, int]:
    """(stream sequence, consumer sequence, time stamp in ns, pending) of a delivery, from its ack subject.

    `$JS.ACK` has 9 tokens in the old form and 11 or more in the new one, which adds domain and account at the front
    and may add more at the end: never count from the right (ADR-15).
    """
    tokens = reply.split(".")
    i = 5 if len(tokens) == 9 else 7
    return int(tokens[i]), int(tokens[i + 1]), int(tokens[i + 2]), int(tokens[i + 3])


def stored_from_delivery(msg: Msg) -> tuple[Stored, int]:
    """The stored event that a consumer delivered, and its consumer sequence."""
    seq, consumer_seq, ns, pending = ack_tokens(msg.reply)
    at = datetime.fromtimestamp(ns / 1e9, UTC)
    return Stored(seq, msg.subject, msg.headers or {}, msg.data, at, pending), consumer_seq


class Subscription:
    """Events after `after`, in stream order, in batches as they come.

        async with Subscription(bus, after=checkpoint, subjects=["evt.scan.>"]) as events:
            async for batch in events.batches(most=500, wait_s=0.05):
                ...

    A batch ends only where an atomic batch of the stream ends, so a checkpoint at its end never splits a transaction.
    """

    def __init__(self, bus: Bus, after: int = 0, subjects: Sequence[str] = ("evt.>",), stream: str = EVT) -> None:
        self._bus = bus
        self._subjects = list(subjects)
        self._stream = stream
        #: The last sequence handed out (or that the subscription began behind).
        self.position = after
        self._received = after
        self._buffer: list[Stored] = []
        self._bytes = 0
        self._wake = asyncio.Event()
        self._consumer = ""
        self._consumer_seq = 0
        self._sub: NatsSubscription | None = None
        #: How many messages the server may still send for the pulls that it has.
        self._asked = 0
        self._heard = 0.0
        self._broken = False
        #: The id of an atomic batch of which nothing more will come.
        self._ended = ""
        self._sees_all = "evt.>" in self._subjects

    async def __aenter__(self) -> "Subscription":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self._bus.on_cut.discard(self._on_cut)
        await self._drop()

    def _on_cut(self) -> None:
        self._broken = True  # what was delivered meanwhile is gone
        self._wake.set()

    async def _drop(self) -> None:
        sub, self._sub = self._sub, None
        name, self._consumer = self._consumer, ""
        if sub is not None:
            try:
                await sub.unsubscribe()
                if self._bus.nc.is_connected:
                    await self._bus.api(f"CONSUMER.DELETE.{self._stream}.{name}", timeout_s=1)
            except Exception as error:  # it dies by itself after its inactive threshold
                log.debug("consumer %s left to expire: %s", name, error)

    async def _open(self) -> None:
        """A new consumer behind the last event received. Tries until the server answers."""
        await self._drop()
        self._bus.on_cut.add(self._on_cut)
        delay = 0.05
        while True:
            if self._bus.closing:
                raise Unavailable("the connection was closed")
            name = f"r{uuid7().replace('-', '')}"
            config = {
                "name": name,
                "ack_policy": "none",
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": self._received + 1,
                "filter_subjects": self._subjects,
                "mem_storage": True,
                "num_replicas": 1,
                "inactive_threshold": 60_000_000_000,
                "max_waiting": 16,
            }
            try:
                answer = await self._bus.api(
                    f"CONSUMER.CREATE.{self._stream}.{name}", {"stream_name": self._stream, "config": config}
                )
                error = answer.get("error")
                if error and error.get("code") not in (503, 500) and error.get("err_code") not in (10059, 10008):
                    raise BusError(f"cannot read {self._stream}: {error.get('description')}")
                if not error:
                    break
            except Unavailable as error:
                log.debug("waiting for NATS to read %s: %s", self._stream, error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 1.0)
        self._consumer, self._consumer_seq, self._broken, self._asked = name, 0, False, 0

        async def on_message(msg: Msg) -> None:
            if self._consumer == name:  # a late one of an earlier consumer counts from elsewhere
                await self._on_message(msg)

        self._sub = await self._bus.subscribe(self._bus.nc.new_inbox(), on_message)
        self._heard = asyncio.get_running_loop().time()
        await self._pull()

    async def _pull(self, taken: int = 0, taken_bytes: int = 0) -> None:
        """Keep one to two pulls' worth of messages asked for while there is room in the buffer, now that so much is about
        to be taken from it. Never raises."""
        while self._sub is not None and self._asked <= PULL:
            full = len(self._buffer) - taken >= 4 * PULL or self._bytes - taken_bytes >= BUFFER_BYTES
            if full and self._complete() > taken:
                return  # but the first part of a large atomic batch waits for the rest, however much that is
            self._asked += PULL
            request = {
                "batch": PULL,
                "max_bytes": 8_000_000,
                "expires": int(EXPIRES_S * 1e9),
                "idle_heartbeat": int(HEARTBEAT_S * 1e9),
            }
            try:
                await self._bus.nc.publish(
                    f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}",
                    json.dumps(request).encode(),
                    reply=self._sub.subject,
                )
            except NatsError as error:
                log.debug("cannot pull from %s: %s", self._stream, error)
                self._broken = True
                self._wake.set()
                return

    async def _on_message(self, msg: Msg) -> None:
        self._heard = asyncio.get_running_loop().time()
        if self._sub is None or msg.subject.startswith("_") or not msg.reply.startswith("$JS.ACK"):
            await self._on_status(msg)
            return
        stored, consumer_seq = stored_from_delivery(msg)
        if consumer_seq != self._consumer_seq + 1:
            if not self._broken:
                log.warning("a hole in the delivery of %s behind %d: reading again", self._stream, self._received)
            self._broken = True  # dropped by the client, or a consumer made anew: reopen behind the last good one
            self._wake.set()
            return
        if self._broken:
            return
        self._consumer_seq = consumer_seq
        self._received = stored.seq
        self._buffer.append(stored)
        self._bytes += len(stored.data)
        self._asked -= 1
        self._wake.set()
        if self._asked == PULL:
            await self._pull()

    async def _on_status(self, msg: Msg) -> None:
        headers = msg.headers or {}
        status = headers.get("Status")
        if status == "100" or self._sub is None:
            return
        left = headers.get("Nats-Pending-Messages", "")
        if left.isdigit() and status in ("404", "408", "409"):  # a pull ended before it was filled
            self._asked -= int(left)
            await self._pull()
            return
        log.debug("reader of %s: %s", self._stream, headers)
        self._broken = True
        self._wake.set()

    def _complete(self) -> int:
        """How many buffered events may be handed out without splitting an atomic batch of the stream."""
        buffer = self._buffer
        end = len(buffer)
        if not end:
            return 0
        last = buffer[-1]
        batch_id = last.headers.get(BATCH_ID)
        if batch_id is None or BATCH_COMMIT in last.headers or batch_id == self._ended:
            return end
        while end and buffer[end - 1].headers.get(BATCH_ID) == batch_id:
            end -= 1
        return end

    async def _look_for_the_end(self) -> bool:
        """Whether the atomic batch of the last buffered event holds nothing more for this reader.

        Its commit may be of a kind that the reader does not read. That nothing is pending proves nothing: the server
        delivers the first events of a batch while it stores the rest (seen with 2.15.1).
        """
        last = self._buffer[-1]
        batch_id = last.headers[BATCH_ID]
        seq = last.seq
        while True:
            seq += 1
            request = json.dumps({"seq": seq}).encode()
            headers = (await self._bus.request(f"$JS.API.DIRECT.GET.{self._stream}", request)).headers or {}
            if "Status" in headers:
                return False  # not stored yet
            if headers.get(BATCH_ID) == batch_id:
                if any(_matches(subject, headers["Nats-Subject"]) for subject in self._subjects):
                    return False  # it is on its way
                if BATCH_COMMIT not in headers:
                    continue
            self._ended = batch_id
            return True

    async def next_batch(self, most: int = 500, wait_s: float = 0.0, idle_s: float | None = None) -> list[Stored]:
        """The next events, at most about `most` (a transaction is never split), at least one.

        Waits up to `wait_s` for the batch to fill after the first event. Returns [] when nothing came for `idle_s`.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        first_at: float | None = None
        while True:
            if self._sub is None or self._broken:
                await self._open()
            ready = self._complete()
            undecided = ready < len(self._buffer) and self._buffer[-1].pending == 0 and not self._sees_all
            if undecided:
                with suppress(Unavailable):
                    if await self._look_for_the_end():
                        continue
            if ready and first_at is None:
                first_at = loop.time()
            if ready >= most or (ready and (self._bytes >= BATCH_BYTES or loop.time() - (first_at or 0) >= wait_s)):
                return await self._take(min(ready, most))
            if not ready:
                await self._pull()
            now = loop.time()
            if now - self._heard > 2.5 * HEARTBEAT_S:
                log.debug("no sign of life from %s: reading again", self._stream)
                self._broken = True
                continue
            timeout = 2.5 * HEARTBEAT_S - (now - self._heard) + 0.01
            if undecided:
                timeout = 0.005
            if ready and first_at is not None:
                timeout = min(timeout, max(0.0, first_at + wait_s - now))
            if idle_s is not None and not ready:
                if now - began >= idle_s:
                    return []
                timeout = min(timeout, began + idle_s - now)
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _take(self, count: int) -> list[Stored]:
        buffer = self._buffer
        size = 0
        for n in range(count):
            size += len(buffer[n].data)
            if size >= BATCH_BYTES:
                count = n + 1
                break
        # Not in the middle of an atomic batch.
        while count < len(buffer):
            batch_id = buffer[count - 1].headers.get(BATCH_ID)
            if batch_id is None or buffer[count].headers.get(BATCH_ID) != batch_id:
                break
            size += len(buffer[count].data)
            count += 1
        if not self._broken:
            await self._pull(count, size)  # before anything is taken: who is cancelled here has lost nothing
        batch = buffer[:count]
        del buffer[:count]
        self._bytes -= size
        self.position = batch[-1].seq
        return batch

    async def nothing_before(self, end: int) -> int:
        """A sequence up to which this reader has been handed out everything: its position, or further, at most to `end`, if the
        events after it are none of its subjects. The stream reached to `end` before this is asked."""
        if self._buffer or self._sub is None or self._broken:
            return self.position
        info = await self._bus.api(f"CONSUMER.INFO.{self._stream}.{self._consumer}")
        if "error" in info or info["num_pending"] or self._buffer:
            return self.position
        # All that the server has sent was received; asked when `end` was there, so nothing up to there is missing.
        if info["delivered"]["consumer_seq"] != self._consumer_seq:
            return self.position
        return max(self.position, end)

    async def batches(self, most: int = 500, wait_s: float = 0.0) -> AsyncIterator[list[Stored]]:
        """For ever: batches as they come."""
        while True:
            yield await self.next_batch(most, wait_s)


def _matches(pattern: str, subject: str) -> bool:
    """As NATS matches subjects: `*` for one token, `>` for the rest."""
    wanted, tokens = pattern.split("."), subject.split(".")
    for n, part in enumerate(wanted):
        if part == ">":
            return len(tokens) > n
        if n >= len(tokens) or part not in ("*", tokens[n]):
            return False
    return len(wanted) == len(tokens)


async def last_sequence(bus: Bus, stream: str = EVT) -> int:
    """The newest sequence of the stream (0 when it is empty)."""
    info = await bus.api(f"STREAM.INFO.{stream}")
    if "error" in info:
        raise Unavailable(f"{stream}: {info['error'].get('description')}")
    return int(info["state"]["last_seq"])


async def read_all(
    bus: Bus, after: int = 0, upto: int | None = None, subjects: Sequence[str] = ("evt.>",), stream: str = EVT
) -> AsyncIterator[list[Stored]]:
    """What is stored now (after `after`, up to and with `upto`), in batches, and then the end."""
    end = await last_sequence(bus, stream) if upto is None else min(upto, await last_sequence(bus, stream))
    if end <= after:
        return
    async with Subscription(bus, after, subjects, stream) as events:
        while events.position < end:
            batch = await events.next_batch(most=2000, idle_s=0.05)
            if not batch:
                if await events.nothing_before(end) >= end:
                    return
                continue
            inside = [stored for stored in batch if stored.seq <= end]
            if inside:
                yield inside
            if len(inside) < len(batch) or batch[-1].pending == 0:
                return
