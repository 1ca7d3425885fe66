"""The recorders of the library, on our streams. Each call hops into the loop thread of its link and back."""

import asyncio
import concurrent.futures
import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    DataError,
    InterfaceError,
    Notification,
    NotSupportedError,
    ProcessRecorder,
    ProgrammingError,
    StoredEvent,
    Subscription,
    Tracking,
    TrackingRecorder,
)

from bus.envelope import Stored
from bus.errors import Unavailable
from bus.persistence.link import Link
from bus.persistence.mapper import LedgerNotification, LedgerStoredEvent, own_kinds
from bus.persistence.store import SOURCE, Position, Record, RecordStore, foreign, type_of, version_of
from bus.streams import evt
from bus.subscription import Subscription as Reader

log = logging.getLogger("labledger.persistence")

ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
UUID_TEXT = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Scope:
    """What the recorders of an application have in common. `poll_s`: subscriptions read by direct get at this interval,
    for users who may not create consumers (dashboards, auditors); 0: they follow the stream."""

    kind: str
    text_ids: bool = False
    actor: str = ""
    poll_s: float = 0.0

    @property
    def source(self) -> str:
        return SOURCE + self.kind

    def token(self, originator_id: UUID | str) -> str:
        text = str(originator_id)
        if not ID.fullmatch(text):
            raise DataError(
                f"the id {text!r} is not 1 to 64 letters, digits, `_` and `-`: it becomes part of a subject"
            )
        return text

    def originator(self, text: str) -> UUID | str:
        return UUID(text) if not self.text_ids and UUID_TEXT.fullmatch(text) else text

    def record(self, event: StoredEvent) -> Record:
        return Record(self.kind, self.token(event.originator_id), event.originator_version, event.topic, event.state)

    def event(self, stored: Stored, originator_id: UUID | str) -> StoredEvent:
        if foreign(stored):
            return StoredEvent(originator_id, version_of(stored), type_of(stored), stored.data)
        return LedgerStoredEvent(originator_id, version_of(stored), type_of(stored), stored.data, stored)

    def notification(self, stored: Stored) -> Notification:
        id_, version, type_ = self.originator(stored.id), version_of(stored), type_of(stored)
        if foreign(stored):
            return Notification(id_, version, type_, stored.data, stored.seq)
        return LedgerNotification(id_, version, type_, stored.data, stored.seq, stored)

    def refuse_own_kind(self) -> None:
        if self.kind in own_kinds():
            raise NotSupportedError(
                f"events of kind {self.kind!r} are written by labledger alone: send a command instead, "
                "or set EVENT_KIND for events of your own"
            )


class JetStreamAggregateRecorder(AggregateRecorder):
    """Events of aggregates, each on its own subject `evt.<kind>.<id>`."""

    def __init__(self, link: Link, scope: Scope) -> None:
        self.link = link
        self.scope = scope

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Store all events or none. Raises `IntegrityError` when a version is taken or leaves a gap, `DataError` for
        what cannot be stored, `OperationalError` when it is not known: then the same call again settles it."""
        self._insert(stored_events, kwargs.get("tracking"))
        return None

    def _insert(self, stored_events: Sequence[StoredEvent], tracking: Tracking | None = None) -> list[int]:
        if tracking is not None and not isinstance(self, TrackingRecorder):
            raise ProgrammingError("tracking positions need a process recorder: make a ProcessApplication")
        if not stored_events and tracking is None:
            return []
        if stored_events:
            self.scope.refuse_own_kind()
        scope = self.scope
        records = [scope.record(event) for event in stored_events]
        position = tracking and Position(scope.kind, tracking.application_name, tracking.notification_id)
        return self.link.call(lambda store: store.insert(records, scope.source, scope.actor, position), repeat=False)

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        subject = evt(self.scope.kind, self.scope.token(originator_id))
        found = self.link.call(lambda store: store.select(subject, gt=gt, lte=lte, desc=desc, limit=limit))
        return [self.scope.event(stored, originator_id) for stored in found]


class JetStreamSnapshotRecorder(AggregateRecorder):
    """Snapshots on SNAP: the two newest of each aggregate. All of them may vanish; they only save reading."""

    def __init__(self, link: Link, scope: Scope) -> None:
        self.link = link
        self.scope = scope

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Raises `IntegrityError` for a version of which a snapshot is kept. One that is too large is left out."""
        if stored_events:
            self.scope.refuse_own_kind()
        for event in stored_events:
            record = self.scope.record(event)
            try:
                self.link.call(lambda store, record=record: store.save_record(record, self.scope.source))
            except DataError as error:
                log.warning("snapshot left out, the events will be read instead: %s", error)
        return None

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        id_ = self.scope.token(originator_id)
        kept, _ = self.link.call(lambda store: store.snapshots(self.scope.kind, id_))
        found = [
            StoredEvent(originator_id, one.version, one.type, one.body)
            for one in (reversed(kept) if desc else kept)
            if (gt is None or one.version > gt) and (lte is None or one.version <= lte)
        ]
        return found[:limit]


class JetStreamApplicationRecorder(JetStreamAggregateRecorder, ApplicationRecorder):
    """Events of an application, with their sequences in EVT as notification ids."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """As of the aggregate recorder. Answers the notification ids, in order."""
        return self._insert(stored_events, kwargs.get("tracking"))

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        begin = 1 if start is None else start if inclusive_of_start else start + 1
        wanted = _of_topics(topics)
        found = self.link.call(lambda store: store.log(self.scope.kind, begin, stop, limit, wanted))
        return [self.scope.notification(stored) for stored in found]

    def max_notification_id(self) -> int | None:
        return self.link.call(lambda store: store.newest(self.scope.kind))

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> "JetStreamSubscription":
        return JetStreamSubscription(self, gt=gt, topics=topics)


class JetStreamTrackingRecorder(TrackingRecorder):
    """Positions in upstream applications, as events on `evt.tracking.<kind>-<upstream>`."""

    def __init__(self, link: Link, scope: Scope) -> None:
        self.link = link
        self.scope = scope

    def insert_tracking(self, tracking: Tracking) -> None:
        """Raises `IntegrityError` unless the position is beyond the last one."""
        scope = self.scope
        position = Position(scope.kind, tracking.application_name, tracking.notification_id)
        self.link.call(lambda store: store.insert((), scope.source, scope.actor, position), repeat=False)

    def max_tracking_id(self, application_name: str) -> int | None:
        return self.link.call(lambda store: store.reached(self.scope.kind, application_name))


class JetStreamProcessRecorder(JetStreamTrackingRecorder, JetStreamApplicationRecorder, ProcessRecorder):
    """Both: events and the position that they came from, in one atomic batch."""


def _of_topics(topics: Sequence[str]) -> Callable[[Stored], bool] | None:
    if not topics:
        return None
    chosen = frozenset(topics)
    return lambda stored: type_of(stored) in chosen


class JetStreamSubscription(Subscription[JetStreamApplicationRecorder]):
    """An iterator over the application's events, that waits for new ones. Survives restarts of the server.

    One thread iterates; any thread may `stop()` it. It ends as well when the recorder's connection is closed.
    """

    def __init__(
        self, recorder: JetStreamApplicationRecorder, gt: int | None = None, topics: Sequence[str] = ()
    ) -> None:
        super().__init__(recorder=recorder, gt=gt, topics=topics)
        self._wanted = _of_topics(topics)
        self._ready: deque[Notification] = deque()
        self._lock = threading.Lock()
        self._waiting: concurrent.futures.Future[list[Stored]] | None = None
        self._reader: Reader | None = None
        self._read = gt or 0

    def __next__(self) -> Notification:
        while not self._has_been_stopped:
            if self._ready:
                notification = self._ready.popleft()
                self._last_notification_id = notification.id
                return notification
            batch = self._next_batch()
            wanted, notification = self._wanted, self._recorder.scope.notification
            self._ready.extend(notification(one) for one in batch if wanted is None or wanted(one))
        raise StopIteration

    def _next_batch(self) -> list[Stored]:
        link = self._recorder.link
        read = self._poll if self._recorder.scope.poll_s else self._follow
        try:
            with self._lock:
                if self._has_been_stopped:
                    raise StopIteration
                self._waiting = link.submit(read)
            return link.result(self._waiting)
        except InterfaceError:
            if self._has_been_stopped or link.closed:
                raise StopIteration from None
            raise

    async def _follow(self, store: RecordStore) -> list[Stored]:
        if self._reader is None:
            subject = f"evt.{self._recorder.scope.kind}.*"
            self._reader = Reader(store.bus, self._read, [subject])
        return await self._reader.next_batch()

    async def _poll(self, store: RecordStore) -> list[Stored]:
        scope, delay = self._recorder.scope, 0.05
        while True:
            try:
                batch = await store.log(scope.kind, self._read + 1, None, 500, None)
                if batch:
                    self._read = batch[-1].seq
                    return batch
                delay = 0.05
                await asyncio.sleep(scope.poll_s)
            except Unavailable as error:
                log.debug("waiting for NATS to read %s: %s", scope.kind, error)
                await asyncio.sleep(delay)
                delay = min(2 * delay, 1.0)

    def stop(self) -> None:
        """End the iteration, in whatever thread it is."""
        with self._lock:
            if self._has_been_stopped:
                return
            super().stop()
            waiting = self._waiting
        if waiting is not None:
            waiting.cancel()
            try:
                self._recorder.link.submit(self._close)
            except InterfaceError:
                pass  # closed already, and the reader with it

    async def _close(self, store: RecordStore) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()
