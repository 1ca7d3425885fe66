"""The event store on JetStream: append with expectation, atomic batches, load by snapshot and tail.

An append states where each aggregate's history must end (`Nats-Expected-Last-Subject-Sequence` on its literal subject),
so two writers cannot both win. A write that rides on a lease (`fence`) is refused by the server once the lease moved on.

Repeating an append is safe: `Nats-Msg-Id` is `<command id>:<index>`, and no refusal is believed before the history has
been searched for our own events, because after a lost answer the first try may have been stored (reference: a2).
"""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nats.aio.msg import Msg

from bus import connection
from bus.connection import Ack, Bus
from bus.envelope import Head, Meta, Stored, seal
from bus.errors import BusError, Conflict, Fenced, Rejected, Unavailable
from bus.ids import uuid7
from bus.streams import EVT, SNAP, evt
from domain.aggregate import Aggregate
from domain.events import Event, encode

log = logging.getLogger("labledger.bus")

EXPECT = "Nats-Expected-Last-Subject-Sequence"
EXPECT_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
CONFLICTS = (connection.WRONG_LAST_SEQUENCE, connection.WRONG_LAST_SEQUENCE_IN_FLIGHT)

#: Message sizes: the server's limit is 1 MB with headers.
MAX_EVENT_BYTES = 900_000


#: More single events than this at once are stored in groups of at most `GROUP`.
ALONE = 6
GROUP = 250
#: While one group is being synced, the next is prepared.
GROUPS_AT_ONCE = 2

#: So many events are read one by one from the leader before the rest comes in batches.
SINGLY = 8
#: What one atomic batch can hold (the server's limit).
MAX_BATCH = 1000

#: Subject, headers, body.
Message = tuple[str, dict[str, str], bytes]


@dataclass(frozen=True)
class Fence:
    """A lease that a write rides on: refused unless `seq` is still the last sequence of `subject`."""

    subject: str
    seq: int


@dataclass(frozen=True)
class Change:
    """Events to follow `head` in the history of one aggregate. `fenced`: its only writer is the holder of the lease,
    so that its own expectation may give way to the lease's (a message can carry just one)."""

    kind: str
    id: str
    events: Sequence[Event]
    head: Head
    fenced: bool = False

    @property
    def subject(self) -> str:
        return evt(self.kind, self.id)


@dataclass(frozen=True, slots=True)
class Written:
    """One event as it was stored."""

    subject: str
    type: str
    seq: int
    version: int
    hash: str

    @property
    def head(self) -> Head:
        return Head(self.seq, self.version, self.hash)

    @staticmethod
    def of(stored: Stored) -> "Written":
        return Written(stored.subject, stored.type, stored.seq, stored.version, stored.hash)


def direct(msg: Msg) -> Stored:
    """The stored event of a direct get."""
    headers = msg.headers or {}
    at = datetime.fromisoformat(headers["Nats-Time-Stamp"].replace("Z", "+00:00"))
    return Stored(int(headers["Nats-Sequence"]), headers["Nats-Subject"], headers, msg.data, at)


class EventStore:
    """Events of aggregates on the stream EVT. `patience_s`: how long an append keeps trying while NATS is away."""

    def __init__(self, bus: Bus, *, patience_s: float = 20.0) -> None:
        self.bus = bus
        self.patience_s = patience_s
        #: Single events on their way by themselves, and those that wait for the next atomic batch.
        self._alone = 0
        self._group: list[tuple[Message, asyncio.Future[Ack]]] = []
        self._committer: asyncio.Task[None] | None = None

    # -- writing ---------------------------------------------------------------------------------------------------

    async def append(self, changes: Sequence[Change], meta: Meta, fence: Fence | None = None) -> list[Written]:
        """Store all events of all changes, or none. Answers where each was stored, in order.

        Raises `Conflict` (somebody else appended first), `Fenced` (the lease moved on), `Rejected` (never possible),
        `Unavailable` (not known whether stored: NATS stayed away for `patience_s`; the same call again is safe).
        An answer at or before a change's head tells that this very append was stored by an earlier call.
        """
        messages = self._messages(changes, meta, fence)
        if not messages:
            return []
        if len(messages) > MAX_BATCH:
            raise Rejected(f"{len(messages)} events at once; one decision can store {MAX_BATCH}")
        deadline = asyncio.get_running_loop().time() + self.patience_s
        delay = 0.05
        strange = 0
        while True:
            try:
                if len(messages) == 1:
                    ack = await self._publish_one(messages[0])
                else:
                    ack = await self.bus.publish_batch(messages, uuid7().replace("-", ""))
                if not ack.err_code and not ack.duplicate:
                    first = ack.seq - len(messages) + 1
                    return [
                        Written(s, h["ce-type"], first + i, int(h["ce-aggregateversion"]), h["ce-hash"])
                        for i, (s, h, _) in enumerate(messages)
                    ]
            except Unavailable as error:
                ack = Ack(err_code=-1, error=str(error))
            # Lost answer, duplicate, or a conflict: the first try may have been stored. Look before believing it.
            try:
                ours = await self._already_stored(changes, messages)
                if ours is not None:
                    return ours
                if ack.duplicate or ack.err_code == connection.DUPLICATE_IN_BATCH:
                    # Not behind the heads that we know: stored long ago, or somebody else's id.
                    ours = await self._already_stored(changes, messages, whole=True)
                    if ours is not None:
                        return ours
                    strange += 1
                    if ack.duplicate or strange == 5:  # a batch may meet its own first try still on its way
                        raise Rejected(f"the message id {messages[0][1]['Nats-Msg-Id']} was used for another event")
                if ack.err_code in CONFLICTS:
                    await self._explain(changes, fence)
            except Unavailable as error:
                ack = Ack(err_code=-1, error=str(error))
            if ack.err_code not in (-1, *CONFLICTS, connection.DUPLICATE_IN_BATCH):
                raise Rejected(f"the event store refused {messages[0][1]['ce-type']}: {ack.error} ({ack.err_code})")
            if asyncio.get_running_loop().time() + delay > deadline:
                raise Unavailable(f"events were not stored within {self.patience_s:g} s: {ack.error}")
            await asyncio.sleep(delay)
            delay = min(2 * delay, 1.0)

    def _messages(self, changes: Sequence[Change], meta: Meta, fence: Fence | None) -> list[Message]:
        messages: list[Message] = []
        index = 0
        unfenced = fence
        for change in changes:
            head, subject = change.head, change.subject
            for n, event in enumerate(change.events):
                body = encode(event)
                if len(body) > MAX_EVENT_BYTES:
                    raise Rejected(f"{event.TYPE} of {subject} has {len(body)} bytes; put large values in a blob")
                headers, hash_ = seal(subject, event.TYPE, body, head, meta, f"{meta.message_key}:{index}")
                if change.fenced and unfenced is not None and n == 0:
                    headers[EXPECT], headers[EXPECT_SUBJECT] = str(unfenced.seq), unfenced.subject
                    unfenced = None
                elif n == 0:
                    headers[EXPECT] = str(head.seq)
                messages.append((subject, headers, body))
                head = Head(head.seq, head.version + 1, hash_)
                index += 1
        if unfenced is not None and messages:
            raise ValueError("a fenced append needs a change that is `fenced`, to carry the lease's expectation")
        return messages

    async def append_frame(
        self, change: Change, type_: str, body: bytes, meta: Meta, fence: Fence, message_id: str
    ) -> Head:
        """Append one event, already encoded, on the hot path of readings. `change.events` is not looked at.

        Safe to repeat: the message id names scan, attempt and point. Answers the new head.
        """
        subject = change.subject
        headers, hash_ = seal(subject, type_, body, change.head, meta, message_id)
        headers[EXPECT], headers[EXPECT_SUBJECT] = str(fence.seq), fence.subject
        deadline = 0.0
        delay = 0.02
        unsure = False
        while True:
            try:
                if unsure:
                    # The window in which the server knows message ids may be over when NATS comes back.
                    last = await self.last(subject)
                    if last is not None and last.message_id == message_id:
                        return last.head
                ack = await self.bus.publish(subject, body, headers)
            except Unavailable as error:
                ack = Ack(err_code=-1, error=str(error))
                unsure = True
            if not ack.err_code:
                if ack.duplicate:  # stored by the try whose answer was lost: its hash may differ in nothing but ours
                    stored = await self._patient_get(ack.seq)
                    return stored.head
                return Head(ack.seq, change.head.version + 1, hash_)
            if ack.err_code in CONFLICTS and (await self._moved(fence)):
                raise Fenced(_passed_on(fence))
            if ack.err_code > 0 and ack.err_code not in CONFLICTS:
                raise Rejected(f"the event store refused {type_}: {ack.error} ({ack.err_code})")
            now = asyncio.get_running_loop().time()
            deadline = deadline or now + self.patience_s
            if now + delay > deadline:
                raise Unavailable(f"readings were not stored within {self.patience_s:g} s: {ack.error}")
            await asyncio.sleep(delay)
            delay = min(2 * delay, 0.5)

    async def _patient_get(self, seq: int) -> Stored:
        delay = 0.05
        while True:
            try:
                found = await self.get(seq)
                if found is not None:
                    return found
            except Unavailable:
                pass
            await asyncio.sleep(delay)
            delay = min(2 * delay, 1.0)

    async def _publish_one(self, message: Message) -> Ack:
        """Publish one event; when many are on their way at once, together with others in one atomic batch.

        The server syncs a batch once, where it syncs single messages one by one: five times the throughput with
        `sync_interval: always`. A batch costs at least 2 ms, so a few at a time go alone.
        """
        if self._alone < ALONE and not self._group:
            self._alone += 1
            try:
                subject, headers, body = message
                return await self.bus.publish(subject, body, headers)
            finally:
                self._alone -= 1
        future: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
        self._group.append((message, future))
        if self._committer is None:
            self._committer = asyncio.create_task(self._commit_groups())
        return await future

    async def _commit_groups(self) -> None:
        running: set[asyncio.Task[None]] = set()
        try:
            while self._group:
                if len(running) >= GROUPS_AT_ONCE:
                    _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.sleep(0)  # whoever is ready now comes along
                chosen: dict[str, tuple[Message, asyncio.Future[Ack]]] = {}
                later: list[tuple[Message, asyncio.Future[Ack]]] = []
                for one in self._group:
                    # An expectation belongs on the first message of its subject in a batch.
                    subject = one[0][0]
                    (later.append(one) if subject in chosen or len(chosen) >= GROUP else chosen.update({subject: one}))
                self._group = later
                running.add(asyncio.create_task(self._commit_group(list(chosen.values()))))
        finally:
            self._committer = None

    async def _commit_group(self, group: list[tuple[Message, "asyncio.Future[Ack]"]]) -> None:
        ack = Ack(err_code=-1)
        if len(group) > ALONE:
            try:
                ack = await self.bus.publish_batch([message for message, _ in group], uuid7().replace("-", ""))
            except Unavailable as error:
                for _, future in group:
                    if not future.done():
                        future.set_exception(Unavailable(str(error)))
                return
        if not ack.err_code:
            first = ack.seq - len(group) + 1
            for n, (_, future) in enumerate(group):
                if not future.done():
                    future.set_result(Ack(seq=first + n))
            return

        # One of them was refused, and nothing is stored: each for itself.
        async def alone(message: Message, future: "asyncio.Future[Ack]") -> None:
            subject, headers, body = message
            try:
                ack = await self.bus.publish(subject, body, headers)
            except BusError as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(ack)

        await asyncio.gather(*(alone(message, future) for message, future in group))

    async def _already_stored(
        self, changes: Sequence[Change], messages: Sequence[Message], *, whole: bool = False
    ) -> list[Written] | None:
        """Where our messages stand, if an earlier try stored them (all or none: a batch is atomic).

        `whole`: look through all of the history, not only behind the heads that the changes follow.
        """
        wanted = {headers["Nats-Msg-Id"]: n for n, (_, headers, _) in enumerate(messages)}
        found: dict[int, Written] = {}
        for change in changes:
            async for stored in self.tail(change.subject, 0 if whole else change.head.seq, leader=True):
                n = wanted.get(stored.message_id)
                if n is not None and stored.type == messages[n][1]["ce-type"]:
                    found[n] = Written.of(stored)
        return [found[n] for n in range(len(messages))] if len(found) == len(messages) else None

    async def _explain(self, changes: Sequence[Change], fence: Fence | None) -> None:
        """Raise what a refused expectation means; return if nothing has moved (another write was just in flight)."""
        if fence is not None and await self._moved(fence):
            raise Fenced(_passed_on(fence))
        for change in changes:
            last = await self.last(change.subject)
            if (last.seq if last else 0) != change.head.seq:
                raise Conflict(f"{change.subject} moved on from sequence {change.head.seq}")

    async def _moved(self, fence: Fence) -> bool:
        delay = 0.05
        while True:
            try:
                last = await self.last(fence.subject)
                return (last.seq if last else 0) != fence.seq
            except Unavailable:
                await asyncio.sleep(delay)
                delay = min(2 * delay, 1.0)

    # -- reading ---------------------------------------------------------------------------------------------------

    async def get(self, seq: int) -> Stored | None:
        """The event at a sequence of EVT."""
        msg = await self.bus.request(f"$JS.API.DIRECT.GET.{EVT}", json.dumps({"seq": seq}).encode())
        return None if (msg.headers or {}).get("Status") else direct(msg)

    async def last(self, subject: str) -> Stored | None:
        """The newest event of a literal subject, as the stream's leader knows it."""
        return await self._leader_get({"last_by_subj": subject})

    async def _leader_get(self, request: Mapping[str, Any]) -> Stored | None:
        answer = await self.bus.api(f"STREAM.MSG.GET.{EVT}", request)
        error = answer.get("error")
        if error:
            if error.get("err_code") == 10037:  # no message found
                return None
            raise Unavailable(f"cannot read {EVT}: {error.get('description')}")
        return _from_message(answer["message"])

    async def tail(self, subject: str, after: int = 0, *, leader: bool = False) -> AsyncIterator[Stored]:
        """The events of one literal subject after a sequence, oldest first, in batches from any replica. `leader`: to
        the very end as the stream's leader knows it, for what must not be stale on a cluster."""
        seq = after
        single = 0
        while True:
            if leader and single < SINGLY:
                stored = await self._leader_get({"seq": seq + 1, "next_by_subj": subject})
                if stored is None:
                    return
                yield stored
                seq, single = stored.seq, single + 1
                continue
            # A replica may be behind, but what it has is the beginning of what the leader has.
            batch, more = await self._direct_batch(subject, seq + 1)
            for stored in batch:
                yield stored
            if batch:
                seq = batch[-1].seq
            if not more:
                if not leader:
                    return
                single = 0

    async def _direct_batch(self, subject: str, seq: int, most: int = 1000) -> tuple[list[Stored], bool]:
        """Up to `most` events of a subject from `seq` on, and whether there are more (ADR-31)."""
        bus = self.bus
        inbox = bus.nc.new_inbox()
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        batch: list[Stored] = []

        async def on_message(msg: Msg) -> None:
            headers = msg.headers or {}
            status = headers.get("Status")
            if status is None:
                batch.append(direct(msg))
            elif not done.done():
                if status == "204":
                    done.set_result(int(headers.get("Nats-Num-Pending", "0")) > 0)
                elif status == "404":
                    done.set_result(False)
                else:
                    done.set_exception(Unavailable(f"cannot read {subject}: {headers}"))

        def cut() -> None:
            if not done.done():
                done.set_exception(Unavailable(f"cannot read {subject}: the connection to NATS was lost"))

        sub = await bus.subscribe(inbox, on_message)
        bus.on_cut.add(cut)
        try:
            request = {"seq": seq, "next_by_subj": subject, "batch": most}
            await bus.nc.publish(f"$JS.API.DIRECT.GET.{EVT}", json.dumps(request).encode(), reply=inbox)
            async with asyncio.timeout(5):
                more = await done
        except (TimeoutError, connection.NatsError) as error:
            raise Unavailable(f"cannot read {subject}: no answer") from error
        finally:
            bus.on_cut.discard(cut)
            try:
                await sub.unsubscribe()
            except connection.NatsError:
                pass
        return batch, more and bool(batch)

    async def everything(self, after: int = 0, subject: str = "evt.>") -> AsyncIterator[list[Stored]]:
        """All events of a subject or a wildcard after a sequence, in batches, by direct get: without a consumer, so
        outsiders may (32,000 a second, where a `Subscription` reads 200,000)."""
        more = True
        while more:
            batch, more = await self._direct_batch(subject, after + 1)
            if batch:
                after = batch[-1].seq
                yield batch

    async def together(self, part: Written, key: str) -> tuple[Written, ...]:
        """All events of the append that stored `part` under the message key: they stand side by side in the stream."""

        async def walk(seq: int, step: int) -> list[Written]:
            found: list[Written] = []
            while seq and (stored := await self.get(seq)) and stored.message_id.rpartition(":")[0] == key:
                found.append(Written.of(stored))
                seq += step
            return found

        return (*reversed(await walk(part.seq - 1, -1)), *await walk(part.seq, 1))

    async def history(self, kind: str, id_: str) -> list[Stored]:
        """All events of one aggregate, oldest first."""
        return [stored async for stored in self.tail(evt(kind, id_))]

    # -- snapshots -------------------------------------------------------------------------------------------------

    async def load_snapshot(self, aggregate: Aggregate[Any], id_: str) -> bytes | None:
        """The newest snapshot's body, or None. Snapshots may vanish at any time."""
        request = {"last_by_subj": f"snap.{aggregate.kind}.{id_}"}
        msg = await self.bus.request(f"$JS.API.DIRECT.GET.{SNAP}", json.dumps(request).encode())
        return None if (msg.headers or {}).get("Status") else msg.data

    async def save_snapshot(self, aggregate: Aggregate[Any], id_: str, body: bytes) -> None:
        """Store a snapshot. Safe to repeat or to lose: it only saves reading the events again."""
        try:
            await self.bus.publish(f"snap.{aggregate.kind}.{id_}", body)
        except (Unavailable, Rejected) as error:
            log.info("snapshot of %s %s not stored: %s", aggregate.kind, id_, error)


def _passed_on(fence: Fence) -> str:
    return f"the lease of {fence.subject.rpartition('.')[2]} has passed on: it is no longer at sequence {fence.seq}"


def _from_message(message: Mapping[str, Any]) -> Stored:
    """The stored event in an answer of `STREAM.MSG.GET`."""
    headers: dict[str, str] = {}
    for line in base64.b64decode(message.get("hdrs", "")).decode().split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name] = value.strip()
    at = datetime.fromisoformat(message["time"].replace("Z", "+00:00")).astimezone(UTC)
    return Stored(int(message["seq"]), message["subject"], headers, base64.b64decode(message.get("data", "")), at)
