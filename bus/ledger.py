"""Deciding on the ledger: load, `decide`, append; on a conflict load again and decide again, at most five times.

    outcome = await ledger.handle("scan", scan_id, PauseScan(scan_id=...), meta)

    async def submit(tx: Transaction) -> None:            # several aggregates, one atomic batch
        await tx.decide("scan", scan_id, request)
        await tx.decide("queue", queue_id, add_job)
    outcome = await ledger.transact(submit, meta)

The same command again is safe however it comes: the aggregate remembers the keys of its last 64 commands, and answers a
repeat with what it wrote then.
"""

import asyncio
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, cast
from weakref import WeakValueDictionary

from pydantic import TypeAdapter

from bus.envelope import Head, Meta
from bus.errors import BusError, Conflict
from bus.store import Change, EventStore, Fence, Written
from bus.streams import evt
from domain.aggregate import Aggregate, aggregates
from domain.errors import Refused
from domain.events import Command, Event

log = logging.getLogger("labledger.bus")

ATTEMPTS = 5
REMEMBERED = 64
SNAPSHOT_EVERY = 200
CACHED = 10_000


#: Where a history ends that has not begun.
NONE = Head()


@dataclass(frozen=True)
class Loaded:
    """An aggregate as of `head`. `recent`: what the last commands wrote, by message key."""

    state: Any
    head: Head = NONE
    recent: dict[str, tuple[Written, ...]] = field(default_factory=dict[str, "tuple[Written, ...]"])
    snapshot_version: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a command led to: the events stored, in order; none if all was so already. `repeated`: it had been handled
    before, and these are the events of that time."""

    events: tuple[Written, ...] = ()
    repeated: bool = False

    @property
    def sequence(self) -> int:
        """The last sequence written: a projection that has reached it shows the outcome. 0 when nothing was written."""
        return max((written.seq for written in self.events), default=0)


class _Repeated(Exception):
    def __init__(self, written: tuple[Written, ...]) -> None:
        self.written = written


@cache
def _adapter(state_type: type) -> TypeAdapter[Any]:
    return TypeAdapter(state_type)


class Transaction:
    """One decision over one or several aggregates. Nothing is stored before it ends."""

    def __init__(self, ledger: "Ledger", meta: Meta) -> None:
        self._ledger = ledger
        self._meta = meta
        self._loaded: dict[tuple[str, str], Loaded] = {}
        self._states: dict[tuple[str, str], Any] = {}
        self._events: dict[tuple[str, str], list[Event]] = {}
        self._fenced: set[tuple[str, str]] = set()

    async def state(self, kind: str, id_: str, *, fresh: bool = False) -> Any:
        """The aggregate's state, with what this transaction has decided so far.

        It may be behind what others appended: what is decided on it is checked at the append, but what is only looked
        at is not. `fresh` asks the stream's leader.
        """
        key = (kind, id_)
        if key not in self._loaded:
            loaded = await (self._ledger.refresh(kind, id_) if fresh else self._ledger.load(kind, id_))
            self._loaded[key] = loaded
            self._states[key] = loaded.state
            if self._meta.message_key in loaded.recent:
                raise _Repeated(loaded.recent[self._meta.message_key])
        return self._states[key]

    async def decide(self, kind: str, id_: str, command: Command, *, fenced: bool = False) -> Sequence[Event]:
        """Decide on one aggregate; the events are stored when the transaction ends."""
        state = await self.state(kind, id_)
        events = aggregates()[kind].decide(state, command)
        self.record(kind, id_, events, fenced=fenced)
        return events

    def record(self, kind: str, id_: str, events: Sequence[Event], *, fenced: bool = False) -> None:
        key = (kind, id_)
        aggregate = aggregates()[kind]
        self._states[key] = aggregate.fold(self._states[key], events)
        self._events.setdefault(key, []).extend(events)
        if fenced:
            self._fenced.add(key)

    def changes(self) -> list[Change]:
        return [
            Change(kind, id_, events, self._loaded[kind, id_].head, (kind, id_) in self._fenced)
            for (kind, id_), events in self._events.items()
            if events
        ]

    @property
    def seen(self) -> list[tuple[str, str]]:
        """The aggregates that it has looked at."""
        return list(self._loaded)

    def settled(self, written: Sequence[Written]) -> None:
        """Bring the ledger's cache up to what was just stored."""
        by_subject: dict[str, list[Written]] = {}
        for one in written:
            by_subject.setdefault(one.subject, []).append(one)
        for (kind, id_), loaded in self._loaded.items():
            ours = by_subject.get(evt(kind, id_))
            if ours:
                remember(loaded.recent, self._meta.message_key, tuple(written))
                after = Loaded(self._states[kind, id_], ours[-1].head, loaded.recent, loaded.snapshot_version)
                self._ledger.keep(kind, id_, after)


def remember(recent: dict[str, tuple[Written, ...]], key: str, written: tuple[Written, ...]) -> None:
    """Note what a command wrote, and forget the oldest. In place: every command does it."""
    recent[key] = written
    while len(recent) > REMEMBERED:
        del recent[next(iter(recent))]


class Ledger:
    """Aggregates on an event store, with a cache of the live ones."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self._cache: OrderedDict[tuple[str, str], Loaded] = OrderedDict()
        #: Kept only while somebody holds or awaits them.
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._background: set[asyncio.Task[None]] = set()

    async def handle(self, kind: str, id_: str, command: Command, meta: Meta) -> Outcome:
        """Decide one command on one aggregate. Raises `Refused`, `Conflict`, `Unavailable`."""

        async def one(tx: Transaction) -> None:
            await tx.decide(kind, id_, command)

        return await self.transact(one, meta, lock=(kind, id_))

    async def transact(
        self,
        work: Callable[[Transaction], Awaitable[None]],
        meta: Meta,
        *,
        fence: Fence | None = None,
        lock: tuple[str, str] | None = None,
    ) -> Outcome:
        """Run `work` and store what it decided, all or nothing. `work` runs again after a conflict, so it must have no
        effects of its own. `lock` names the aggregate on which commands of this process should take turns."""
        turn = self._turns.setdefault(lock, asyncio.Lock()) if lock else asyncio.Lock()
        async with turn:
            fresh = False
            attempt = 0
            while True:
                tx = Transaction(self, meta)
                refusal: Refused | None = None
                try:
                    await work(tx)
                except _Repeated as repeated:
                    # The aggregate's history tells its own part of what was decided then.
                    written = await self.store.together(repeated.written[0], meta.message_key)
                    return Outcome(written, repeated=True)
                except Refused as error:
                    refusal = error
                changes = [] if refusal else tx.changes()
                if not changes:
                    if fresh and refusal:
                        raise refusal
                    if fresh:
                        return Outcome()
                    # No append will check what we knew: a no, or a nothing, counts only on what the leader knows.
                    for kind, id_ in tx.seen:
                        await self.refresh(kind, id_)
                    fresh = True
                    continue
                attempt += 1
                try:
                    written = await self.store.append(changes, meta, fence)
                except Conflict:
                    for kind, id_ in tx.seen:
                        await self.refresh(kind, id_)
                    if attempt == ATTEMPTS:
                        raise
                    fresh = True
                    continue
                except BusError:
                    for change in changes:
                        self.forget(change.kind, change.id)
                    raise
                heads = {change.subject: change.head.seq for change in changes}
                if any(one.seq <= heads[one.subject] for one in written):
                    return Outcome(tuple(written), repeated=True)  # done longer ago than the aggregate remembers
                tx.settled(written)
                return Outcome(tuple(written))

    # -- the cache -------------------------------------------------------------------------------------------------

    async def load(self, kind: str, id_: str) -> Loaded:
        """The aggregate as this process last knew it, else from its snapshot and its later events."""
        cached = self._cache.get((kind, id_))
        if cached is not None:
            self._cache.move_to_end((kind, id_))
            return cached
        aggregate = aggregates()[kind]
        loaded = await self._from_snapshot(aggregate, id_)
        loaded = await self._catch_up(aggregate, id_, loaded)
        self.keep(kind, id_, loaded)
        return loaded

    async def refresh(self, kind: str, id_: str) -> Loaded:
        """Read what others appended since, from the stream's leader."""
        aggregate = aggregates()[kind]
        loaded = self._cache.get((kind, id_)) or await self._from_snapshot(aggregate, id_)
        loaded = await self._catch_up(aggregate, id_, loaded, leader=True)
        self.keep(kind, id_, loaded)
        return loaded

    def keep(self, kind: str, id_: str, loaded: Loaded) -> None:
        self._cache[kind, id_] = loaded
        self._cache.move_to_end((kind, id_))
        while len(self._cache) > CACHED:
            self._cache.popitem(last=False)
        if loaded.head.version - loaded.snapshot_version >= SNAPSHOT_EVERY:
            self._cache[kind, id_] = replace(loaded, snapshot_version=loaded.head.version)
            loaded = replace(loaded, recent=dict(loaded.recent))  # as of this head, also when it is written later
            task = asyncio.create_task(self._snapshot(aggregates()[kind], id_, loaded))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    def forget(self, kind: str, id_: str) -> None:
        self._cache.pop((kind, id_), None)

    async def _catch_up(self, aggregate: Aggregate[Any], id_: str, loaded: Loaded, *, leader: bool = False) -> Loaded:
        state, head, recent = loaded.state, loaded.head, dict(loaded.recent)
        async for stored in self.store.tail(evt(aggregate.kind, id_), head.seq, leader=leader):
            state = aggregate.evolve(state, stored.event)
            head = stored.head
            key = stored.message_id.rpartition(":")[0]
            remember(recent, key, (*recent.get(key, ()), Written.of(stored)))
        return replace(loaded, state=state, head=head, recent=recent)

    # -- snapshots -------------------------------------------------------------------------------------------------

    async def _from_snapshot(self, aggregate: Aggregate[Any], id_: str) -> Loaded:
        first = Loaded(aggregate.initial)
        body = await self.store.load_snapshot(aggregate, id_)
        if body is None:
            return first
        try:
            data = json.loads(body)
            state_json = data["state"]
            claimed = data.pop("hash")
            if data["schema"] != aggregate.schema or claimed != _hash(json.dumps(data)):
                return first
            state = _adapter(cast("type[Any]", type(aggregate.initial))).validate_json(state_json)
            recent = {key: tuple(Written(*one) for one in written) for key, written in data["recent"].items()}
            return Loaded(state, Head(**data["head"]), recent, data["head"]["version"])
        except (ValueError, KeyError, TypeError) as error:  # of another shape, or damaged: the events are the truth
            log.info("snapshot of %s %s ignored: %s", aggregate.kind, id_, error)
            return first

    async def _snapshot(self, aggregate: Aggregate[Any], id_: str, loaded: Loaded) -> None:
        state_json = _adapter(cast("type[Any]", type(aggregate.initial))).dump_json(loaded.state).decode()
        head = loaded.head
        body = {
            "schema": aggregate.schema,
            "head": {"seq": head.seq, "version": head.version, "hash": head.hash},
            "recent": {
                key: [(w.subject, w.type, w.seq, w.version, w.hash) for w in written]
                for key, written in loaded.recent.items()
            },
            "state": state_json,
        }
        body["hash"] = _hash(json.dumps(body))
        await self.store.save_snapshot(aggregate, id_, json.dumps(body).encode())


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
