"""Our event store, for events that are bytes already: what is behind the recorders, in the loop thread.

Encoded events go through the same `EventStore.append` as our own: same envelope, same chain, same care after a lost answer.
"""

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import unquote

from eventsourcing.persistence import IntegrityError, NotSupportedError

from bus.connection import WRONG_LAST_SEQUENCE, WRONG_LAST_SEQUENCE_IN_FLIGHT, Bus
from bus.envelope import Head, Meta, Stored, quoted, seal
from bus.errors import Conflict, Rejected, Unavailable
from bus.ids import uuid7
from bus.store import EXPECT, MAX_BATCH, MAX_EVENT_BYTES, Change, EventStore, Fence, Message, Written, direct
from bus.streams import EVT, SNAP, evt

SOURCE = "eventsourcing/"
FIRST_0 = "?first=0"
TRACKING = "tracking"
#: The type of a tracking event: its topic in the library.
TRACKING_TYPE = "eventsourcing.persistence:Tracking"

REMEMBERED = 50_000
BATCHES_AT_ONCE = 16
SNAP_VERSION, SNAP_SEQUENCE = "labledger-version", "labledger-sequence"

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Record:
    """One event to store: `version` as the library counts it."""

    kind: str
    id: str
    version: int
    type: str
    body: bytes

    @property
    def subject(self) -> str:
        return evt(self.kind, self.id)


@dataclass(frozen=True)
class Position:
    """How far an application has processed the events of another one."""

    kind: str
    upstream: str
    notification_id: int

    @property
    def id(self) -> str:
        return tracking_id(self.kind, self.upstream)


@dataclass(frozen=True)
class RecordChange(Change):
    """Records that follow `head`, each with its place among all records of the insert."""

    records: Sequence[tuple[int, Record]] = ()
    first: int = 1


@dataclass(frozen=True)
class Known:
    """The end of an aggregate's history, as last seen. `first` is the version of its first event: 1, or 0."""

    head: Head
    first: int = 1

    @property
    def version(self) -> int:
        return self.head.version + self.first - 1


@dataclass(frozen=True)
class Snapshot:
    version: int
    type: str
    body: bytes


def tracking_id(kind: str, upstream: str) -> str:
    """The aggregate that holds the positions of an application of this kind in `upstream`."""
    if upstream.isascii() and upstream.replace("_", "").isalnum() and len(upstream) <= 31:
        return f"{kind}-{upstream}"
    return f"{kind}--{hashlib.sha256(upstream.encode()).hexdigest()[:24]}"


def foreign(stored: Stored) -> bool:
    """Whether an application of the library wrote this event (and not labledger)."""
    return stored.source.startswith(SOURCE)


def first_version(stored: Stored) -> int:
    return 0 if foreign(stored) and stored.source.endswith(FIRST_0) else 1


def version_of(stored: Stored) -> int:
    """The event's `originator_version`."""
    return stored.version + first_version(stored) - 1


def type_of(stored: Stored) -> str:
    return unquote(stored.type)


def content_type(body: bytes) -> str:
    """Whether a body is JSON. What a compressor or a cipher of the mapper made is not."""
    try:
        json.loads(body)
    except ValueError:
        return "application/octet-stream"
    return "application/json"


def _put(cache: OrderedDict[K, V], key: K, value: V) -> None:
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > REMEMBERED:
        cache.popitem(last=False)


class RecordStore(EventStore):
    """Inserts and selects of one process. All of it runs in the loop thread."""

    def __init__(self, bus: Bus, *, patience_s: float) -> None:
        super().__init__(bus, patience_s=patience_s)
        self._known: OrderedDict[str, Known] = OrderedDict()
        #: Where an event stands, by subject and version: a reader after a snapshot need not begin at the first event.
        self._places: OrderedDict[tuple[str, int], int] = OrderedDict()
        #: The last sequence that we wrote, by kind: what is read from a replica must not end before it.
        self._written: dict[str, int] = {}
        #: Inserts of which it is not known whether they were stored, by their content: message key and changes.
        self._in_doubt: OrderedDict[str, tuple[str, list[RecordChange]]] = OrderedDict()
        self._batches = asyncio.Semaphore(BATCHES_AT_ONCE)

    # -- writing ---------------------------------------------------------------------------------------------------

    async def insert(self, records: Sequence[Record], source: str, actor: str, position: Position | None) -> list[int]:
        """Store all records and the position, or nothing. Answers the records' sequences, in order.

        Raises `IntegrityError` when a version is taken or would leave a gap, or the position is not beyond the last one;
        `Unavailable` when it is not known whether they were stored: the same call again settles it.
        """
        if len(records) + (position is not None) > MAX_BATCH:
            raise NotSupportedError(f"{len(records)} events in one insert; the stream stores {MAX_BATCH} at once")
        fingerprint = _fingerprint(records, position)
        doubtful = self._in_doubt.pop(fingerprint, None)
        for attempt in range(5):
            # A message id is for one insert, not for its content: two threads that store the same event (without a time
            # stamp in it, say) are two, and one of them must fail.
            key, changes = doubtful or (uuid7(), await self._changes(records, position))
            doubtful = None
            if not changes:
                return []
            meta = Meta(causation=key, actor=actor, source=source)
            try:
                async with self._batches:
                    written = await self.append(changes, meta)
            except (Unavailable, asyncio.CancelledError):
                _put(self._in_doubt, fingerprint, (key, changes))
                raise
            except Conflict as error:
                for change in changes:
                    self._known.pop(change.subject, None)
                if attempt == 4:
                    raise IntegrityError(str(error)) from error
                continue
            self._settle(changes, written)
            return [one.seq for one in written[: len(records)]]
        raise AssertionError("unreachable")

    def _settle(self, changes: Sequence[RecordChange], written: Sequence[Written]) -> None:
        first = {change.subject: change.first for change in changes}
        for one in written:
            known = Known(one.head, first[one.subject])
            _put(self._known, one.subject, known)
            _put(self._places, (one.subject, known.version), one.seq)
            kind = one.subject.split(".", 2)[1]
            self._written[kind] = max(self._written.get(kind, 0), one.seq)

    async def _changes(self, records: Sequence[Record], position: Position | None) -> list[RecordChange]:
        grouped: dict[str, list[tuple[int, Record]]] = {}
        for place, record in enumerate(records):
            grouped.setdefault(record.subject, []).append((place, record))
        changes: list[RecordChange] = []
        for subject, group in grouped.items():
            known = await self._end_before(subject, group[0][1].version)
            for n, (_, record) in enumerate(group, known.version + 1):
                if record.version != n:
                    why = "is taken" if record.version < n else f"would leave a gap after {n - 1}"
                    raise IntegrityError(f"version {record.version} of {subject} {why}")
            begin = group[0][1]
            changes.append(RecordChange(begin.kind, begin.id, (), known.head, records=group, first=known.first))
        if position is not None:
            last = await self.last(evt(TRACKING, position.id))
            reached = 0 if last is None else int(json.loads(last.data)["notification_id"])
            if last is not None and position.notification_id <= reached:
                raise IntegrityError(f"{position.upstream} was processed up to {reached} already")
            body = {"application_name": position.upstream, "notification_id": position.notification_id}
            record = Record(TRACKING, position.id, 0, TRACKING_TYPE, json.dumps(body).encode())
            head = last.head if last else Head()
            changes.append(RecordChange(TRACKING, position.id, (), head, records=[(len(records), record)]))
        return changes

    async def _end_before(self, subject: str, version: int) -> Known:
        """The end of a history that `version` is to follow."""
        known = self._known.get(subject)
        if known is None or known.version != version - 1:
            last = await self.last(subject)
            known = Known(Head(), version if version == 0 else 1) if last is None else self._note(last)
        return known

    def _messages(self, changes: Sequence[Change], meta: Meta, fence: Fence | None) -> list[Message]:
        messages: list[Message] = []
        heads: dict[str, Head] = {}
        entries: list[tuple[int, Record, RecordChange]] = []
        for change in changes:
            assert isinstance(change, RecordChange)
            entries += [(place, record, change) for place, record in change.records]
        for index, (_, record, change) in enumerate(sorted(entries, key=lambda entry: entry[0])):
            subject, body = change.subject, record.body
            if len(body) > MAX_EVENT_BYTES:
                raise Rejected(
                    f"{record.type} of {subject} has {len(body)} bytes; an event has up to {MAX_EVENT_BYTES}"
                )
            head = heads.get(subject, change.head)
            # The source is under the hash, and so is what it says about the first version.
            own = replace(meta, source=meta.source + FIRST_0) if change.first == 0 else meta
            headers, hash_ = seal(subject, quoted(record.type), body, head, own, f"{meta.message_key}:{index}")
            headers["content-type"] = content_type(body)
            if subject not in heads:
                headers[EXPECT] = str(head.seq)
            heads[subject] = Head(head.seq, head.version + 1, hash_)
            messages.append((subject, headers, body))
        return messages

    # -- reading ---------------------------------------------------------------------------------------------------

    def _note(self, stored: Stored) -> Known:
        """Remember an event that was read, and the end of its history if it is further than what we knew."""
        known = Known(stored.head, first_version(stored))
        _put(self._places, (stored.subject, known.version), stored.seq)
        before = self._known.get(stored.subject)
        if before is None or before.head.seq < stored.seq:
            _put(self._known, stored.subject, known)
            return known
        return before

    async def select(
        self, subject: str, *, gt: int | None, lte: int | None, desc: bool, limit: int | None
    ) -> list[Stored]:
        """Events of one aggregate by version; at least all that this process has written or seen."""
        if limit is not None and limit < 1:
            return []
        if desc and limit == 1 and lte is None:
            last = await self._last_stored(subject)
            return [] if last is None or (gt is not None and version_of(last) <= gt) else [last]
        found: list[Stored] = []
        known = self._known.get(subject)
        seq = 0 if gt is None else self._places.get((subject, gt), 0)
        most = 1000 if desc or limit is None or (gt is not None and not seq) else min(limit, 1000)
        stored: Stored | None = None
        more = True
        while more:
            batch, more = await self._direct_batch(subject, seq + 1, most)
            if not more and known is not None and max(seq, batch[-1].seq if batch else 0) < known.head.seq:
                # A replica that is behind: the rest is on the leader.
                start = batch[-1].seq if batch else seq
                batch += [late async for late in self.tail(subject, start, leader=True)]
            for stored in batch:
                version = version_of(stored)
                if lte is not None and version > lte:
                    more = False
                    break
                if gt is None or version > gt:
                    found.append(stored)
                    if not desc and len(found) == limit:
                        more = False
                        break
            if batch:
                seq = batch[-1].seq
        if found:
            self._note(found[-1])
        if desc:
            found.reverse()
        return found[:limit]

    async def _last_stored(self, subject: str) -> Stored | None:
        """The newest event of an aggregate, from any replica that has all that we know of."""
        stored = await self._direct_last(EVT, subject)
        known = self._known.get(subject)
        if known is not None and (stored is None or stored.seq < known.head.seq):
            stored = await self.last(subject)
        if stored is not None:
            self._note(stored)
        return stored

    async def _direct_last(self, stream: str, subject: str) -> Stored | None:
        request = json.dumps({"last_by_subj": subject}).encode()
        msg = await self.bus.request(f"$JS.API.DIRECT.GET.{stream}", request)
        return None if (msg.headers or {}).get("Status") else direct(msg)

    async def newest(self, kind: str) -> int | None:
        """The sequence of the newest event of a kind, or None."""
        stored = await self._direct_last(EVT, f"evt.{kind}.*")
        if (stored.seq if stored else 0) < self._written.get(kind, 0):
            stored = await self.last(f"evt.{kind}.*")
        return stored.seq if stored else None

    async def log(
        self, kind: str, begin: int, end: int | None, limit: int, wanted: Callable[[Stored], bool] | None
    ) -> list[Stored]:
        """Events of a kind in stream order, with sequences from `begin` to `end`, up to `limit` of those wanted."""
        found: list[Stored] = []
        seq, more = max(begin, 1), limit > 0
        while more and len(found) < limit and (end is None or seq <= end):
            most = 1000 if wanted else min(1000, limit - len(found))
            batch, more = await self._direct_batch(f"evt.{kind}.*", seq, most)
            for stored in batch:
                if end is not None and stored.seq > end:
                    return found
                if wanted is None or wanted(stored):
                    found.append(stored)
                    if len(found) == limit:
                        return found
            if batch:
                seq = batch[-1].seq + 1
        return found

    async def reached(self, kind: str, upstream: str) -> int | None:
        """The last notification id of `upstream` that an application of this kind has processed, or None."""
        last = await self._last_stored(evt(TRACKING, tracking_id(kind, upstream)))
        return None if last is None else int(json.loads(last.data)["notification_id"])

    # -- snapshots -------------------------------------------------------------------------------------------------

    async def snapshots(self, kind: str, id_: str) -> tuple[list[Snapshot], int]:
        """The snapshots that are kept of an aggregate, by version, and the sequence of the newest one on SNAP."""
        kept: dict[int, Snapshot] = {}
        seq = 0
        while True:
            request = json.dumps({"seq": seq + 1, "next_by_subj": f"snap.{kind}.{id_}"}).encode()
            msg = await self.bus.request(f"$JS.API.DIRECT.GET.{SNAP}", request)
            if (msg.headers or {}).get("Status"):
                return [kept[version] for version in sorted(kept)], seq
            stored = direct(msg)
            seq = stored.seq
            version = int(stored.headers.get(SNAP_VERSION, "0"))
            if not foreign(stored):  # one of labledger's own, of another shape
                continue
            kept[version] = Snapshot(version, type_of(stored), stored.data)
            place = int(stored.headers.get(SNAP_SEQUENCE, "0"))
            if place:
                _put(self._places, (evt(kind, id_), version), place)

    async def save_record(self, record: Record, source: str) -> None:
        """Store a snapshot. Raises `IntegrityError` if one of that version is kept already."""
        place = self._places.get((record.subject, record.version), 0)
        for _ in range(5):
            kept, last = await self.snapshots(record.kind, record.id)
            if any(one.version == record.version for one in kept):
                raise IntegrityError(f"a snapshot of version {record.version} of {record.subject} exists")
            headers = {
                "ce-specversion": "1.0",
                "ce-id": uuid7(),
                "ce-type": quoted(record.type),
                "ce-source": source,
                "ce-time": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
                "ce-subject": record.subject[4:],
                "content-type": content_type(record.body),
                SNAP_VERSION: str(record.version),
                SNAP_SEQUENCE: str(place),
                EXPECT: str(last),
            }
            ack = await self.bus.publish(f"snap.{record.kind}.{record.id}", record.body, headers)
            if ack.err_code in (WRONG_LAST_SEQUENCE, WRONG_LAST_SEQUENCE_IN_FLIGHT):
                continue  # another process took one meanwhile
            if ack.err_code:
                raise Rejected(f"the snapshot of {record.subject} was refused: {ack.error} ({ack.err_code})")
            return
        raise IntegrityError(f"snapshots of {record.subject} are taken faster than they can be told apart")


def _fingerprint(records: Sequence[Record], position: Position | None) -> str:
    sha = hashlib.sha256()
    for record in records:
        sha.update(f"{record.subject}\n{record.version}\n{record.type}\n{len(record.body)}\n".encode())
        sha.update(record.body)
    sha.update(repr(position).encode())
    return sha.hexdigest()
