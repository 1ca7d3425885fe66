"""A Python client of the lab: everything that the command line does.

    async with Lab.connect(data_dir="lab") as lab:
        scan = await lab.scans.submit(plan, sample="W12-3")
        async for progress in lab.scans.watch(scan):
            print(progress.points, "of", progress.total_points)
        readings = await lab.readings(scan)

In a notebook, the same without `await`:

    lab = Lab.sync(data_dir="lab")
    scan = lab.scans.submit(plan, wait=True)
    lab.readings(scan)["meter.voltage"]

It signs in as an outside service does (role `publisher`): it sends commands, reads events by direct get and hears them live
on `live.evt.>`. It makes no consumers and can write no event. Where the address of Postgres is known (connection.json, or
`postgres_url=`), lists come from the read models; else from the events themselves.
"""

import asyncio
import getpass
import inspect
import json
import os
import platform
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar, cast
from urllib.parse import unquote, urlsplit, urlunsplit
from uuid import UUID

import numpy as np
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription
from pydantic import BaseModel, ConfigDict, TypeAdapter

from bus import connection as wire
from bus.commands import Sender
from bus.connection import Bus, Credentials
from bus.envelope import Stored
from bus.errors import BusError, Unavailable
from bus.ids import uuid7
from bus.outcomes import Outcome
from bus.roles import Role
from bus.store import EventStore
from bus.streams import EVT, evt, live
from domain.aggregate import aggregates
from domain.events import COMMANDS, Command
from domain.plan import Plan, Template
from domain.readings import ReadingsClosed, ReadingsOpened, ReadingsRecorded
from domain.scan import Scan, ScanAborted, ScanFailed
from labledger.settings import Settings, load

T = TypeVar("T")

#: A silent line is looked at again after so long: what was missed while NATS was away shows then.
LOOK_AGAIN_S = 2.0
#: A server that is up answers at once.
CONNECT_S = 5.0


# ------------------------------------------------------------------------------------------------------------------- errors


class LabError(Exception):
    """Something that was asked for did not happen. The text says what to do."""


class CommandError(LabError):
    """A command had another outcome than "accepted"; it is in `outcome`."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason or outcome.outcome)
        self.outcome = outcome


class CommandRefused(CommandError):
    """The domain's no."""


class CommandInvalid(CommandError):
    """The command is not what its schema says; `outcome.problems` tells where."""


class CommandParked(CommandError):
    """Nobody could handle it. It is kept under `outcome.parked_id` and can be retried."""


class NotFound(LabError):
    """What was asked about does not exist."""


class NotReachable(LabError):
    """NATS or Postgres does not answer, or the lab is not running."""


class NoOutcomeYet(LabError):
    """Waited long enough. The command is safe in the stream: sending it again under the same id finds its outcome."""

    def __init__(self, text: str, command_id: str = "") -> None:
        super().__init__(text)
        self.command_id = command_id


class NotDone(LabError):
    """A scan that was waited for did not complete; `progress` says how it ended."""

    def __init__(self, progress: "Progress") -> None:
        ended = f": {progress.reason}" if progress.reason else ""
        super().__init__(f"scan {progress.scan_id} {progress.in_words}{ended}")
        self.progress = progress


_ERRORS: dict[str, type[CommandError]] = {
    "refused": CommandRefused,
    "invalid": CommandInvalid,
    "parked": CommandParked,
}


# ------------------------------------------------------------------------------------------------------------------ answers


class Progress(BaseModel):
    """Where a scan stands, as of the event `event` at `sequence`.

    `points` are durable; `rate_s` is points per second, lately; `remaining_s` is None where nothing can be said.
    """

    model_config = ConfigDict(frozen=True)

    scan_id: UUID
    status: str = "queued"
    points: int = 0
    total_points: int = 0
    attempt: int = 1
    station_id: str | None = None
    queue_id: str = "main"
    priority: str = "normal"
    sample_id: str | None = None
    title: str = ""
    instruments: tuple[str, ...] = ()
    wish: str | None = None
    interrupted: bool = False
    held: bool = False
    reason: str = ""
    requested_at: datetime | None = None
    ended_at: datetime | None = None
    rate_s: float | None = None
    remaining_s: float | None = None
    event: str = ""
    sequence: int = 0
    time: datetime | None = None

    @property
    def over(self) -> bool:
        return self.status in ("completed", "aborted", "failed")

    @property
    def in_words(self) -> str:
        if self.held:
            return "is held for a person"
        if self.interrupted:
            return "is interrupted"
        if self.wish and not self.over:
            return f"is {self.status}, {self.wish} was asked for"
        return f"has {self.status}" if self.status in ("completed", "failed") else f"is {self.status}"


class _Fold:
    """A scan's progress from its own events and those of its readings."""

    def __init__(self, scan_id: UUID) -> None:
        self.scan = Scan()
        self.progress = Progress(scan_id=scan_id)
        #: (time, points) of a while ago, for the rate.
        self._marks: list[tuple[float, int]] = []

    def take(self, stored: Stored) -> Progress:
        known: dict[str, Any] = {"event": stored.type, "sequence": stored.seq, "time": stored.time}
        match stored.event:
            case ReadingsOpened(attempt=attempt, from_point=point):
                self._marks = [(stored.time.timestamp(), point)]
                known |= {"points": point, "attempt": attempt}
            case ReadingsRecorded() as frame:
                known |= {"points": frame.next_point, "attempt": frame.attempt} | self._rate(frame)
            case ReadingsClosed(next_point=point):
                known |= {"points": point, "remaining_s": None}
            case event:
                self.scan = aggregates()["scan"].evolve(self.scan, event)
                known |= self._of_scan(event, stored)
        self.progress = self.progress.model_copy(update=known)
        return self.progress

    def _rate(self, frame: ReadingsRecorded) -> dict[str, Any]:
        now = frame.time[-1]
        self._marks.append((now, frame.next_point))
        while len(self._marks) > 2 and now - self._marks[1][0] > 5.0:
            self._marks.pop(0)
        began, first = self._marks[0]
        if now <= began or frame.next_point <= first:
            return {}
        rate = (frame.next_point - first) / (now - began)
        return {"rate_s": rate, "remaining_s": (self.progress.total_points - frame.next_point) / rate}

    def _of_scan(self, event: Any, stored: Stored) -> dict[str, Any]:
        scan = self.scan
        known: dict[str, Any] = {
            "status": scan.status or "queued",
            "total_points": scan.total_points,
            "attempt": scan.attempt,
            "station_id": scan.station_id,
            "queue_id": scan.queue_id,
            "priority": scan.priority,
            "sample_id": scan.sample_id,
            "title": scan.title,
            "instruments": scan.instruments,
            "wish": scan.wish,
            "interrupted": scan.interrupted,
            "held": scan.held,
            "ended_at": stored.time if scan.over else None,
        }
        if stored.version == 1:
            known["requested_at"] = stored.time
        if scan.over or not scan.live:
            known["remaining_s"] = None
        if scan.status == "queued":
            known |= {"points": 0, "rate_s": None}
        reason = getattr(event, "reason", "")
        if isinstance(event, ScanFailed):
            reason = f"{event.error}: {event.reason}"
        if isinstance(event, ScanAborted | ScanFailed) and event.point is not None:
            known["points"] = event.point
        known["reason"] = reason
        return known


class Readings(Mapping[str, Any]):
    """The readings of a scan by columns: numpy arrays of one value for each point, in the order of the points.

    Beside the columns of the plan: `point`, `time` (unix seconds), `attempt`, `branch`. A branch's column is NaN (or None)
    at the points of other branches. Array columns have the shape (points, *shape); they are loaded when asked for, which
    needs the lab's blob folder.
    """

    def __init__(
        self,
        scan_id: UUID,
        columns: Mapping[str, np.ndarray[Any, Any]],
        units: Mapping[str, str],
        arrays: "Mapping[str, Sequence[ArrayPart]] | None" = None,
        blobs: Callable[[str], bytes] | None = None,
    ) -> None:
        self.scan_id = scan_id
        self.units = dict(units)
        self.arrays = dict(arrays or {})
        self._columns = dict(columns)
        self._blobs = blobs

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        if name not in self.arrays:
            return self._columns[name]
        if self._blobs is None:
            raise NotReachable(f"{name} is an array, and the lab's blob folder is not known here: give data_dir=")
        found = [part.load(self._blobs) for part in self.arrays[name]]
        return np.concatenate(found)

    def __iter__(self) -> Iterator[str]:
        yield from self._columns
        yield from self.arrays

    def __len__(self) -> int:
        return len(self._columns) + len(self.arrays)

    @property
    def points(self) -> int:
        return len(self._columns["point"])

    def rows(self) -> Iterator[dict[str, Any]]:
        """Point by point, without the arrays."""
        lists = {name: column.tolist() for name, column in self._columns.items()}
        for values in zip(*lists.values(), strict=True):
            yield dict(zip(lists, values, strict=True))

    def __repr__(self) -> str:
        return f"<Readings of scan {self.scan_id}: {self.points} points, {', '.join(self)}>"


@dataclass(frozen=True)
class ArrayPart:
    """The arrays of one frame: a blob of raw bytes in C order, and which of its points count."""

    first_point: int
    sha256: str
    dtype: str
    shape: tuple[int, ...]
    upto: int

    def load(self, blobs: Callable[[str], bytes]) -> np.ndarray[Any, Any]:
        whole = np.frombuffer(blobs(self.sha256), np.dtype(self.dtype)).reshape(self.shape)
        return whole[: self.upto - self.first_point]


def collect(scan_id: UUID, frames: Sequence[ReadingsRecorded], blobs: Callable[[str], bytes] | None) -> Readings:
    """The readings that count: of each point those of its last attempt."""
    kept: list[tuple[ReadingsRecorded, int]] = []
    for frame in frames:
        # A scan that was restarted measures again what earlier attempts had measured: theirs gives way from there on.
        while kept and kept[-1][0].first_point >= frame.first_point:
            kept.pop()
        if kept and kept[-1][1] > frame.first_point:
            kept[-1] = (kept[-1][0], frame.first_point)
        kept.append((frame, frame.next_point))
    names: dict[str, str] = {}
    for frame, _ in kept:
        names |= dict(zip(frame.names, frame.units, strict=True))
    total = sum(upto - frame.first_point for frame, upto in kept)
    point = np.empty(total, np.int64)
    time = np.empty(total, np.float64)
    attempt = np.empty(total, np.int32)
    branch = np.empty(total, np.int32)
    values: dict[str, list[Any]] = {name: [] for name in names}
    arrays: dict[str, list[ArrayPart]] = {}
    at = 0
    for frame, upto in kept:
        rows = upto - frame.first_point
        here = slice(at, at + rows)
        point[here] = np.arange(frame.first_point, upto)
        time[here] = frame.time[:rows]
        attempt[here] = frame.attempt
        branch[here] = frame.branch
        found = dict(zip(frame.names, frame.values, strict=True))
        for name, column in values.items():
            column.extend(found[name][:rows] if name in found else [None] * rows)
        for name, ref in frame.arrays.items():
            arrays.setdefault(name, []).append(ArrayPart(frame.first_point, ref.sha256, ref.dtype, ref.shape, upto))
        at += rows
    columns: dict[str, np.ndarray[Any, Any]] = {"point": point, "time": time, "attempt": attempt, "branch": branch}
    columns |= {name: _column(column) for name, column in values.items()}
    return Readings(scan_id, columns, names, arrays, blobs)


def _column(values: list[Any]) -> np.ndarray[Any, Any]:
    kinds = set(map(type, values))
    if kinds <= {float, int, type(None)}:
        return np.array([np.nan if value is None else value for value in values], np.float64)
    if kinds == {bool}:
        return np.array(values, np.bool_)
    return np.array(values, object)


# ---------------------------------------------------------------------------------------------------------------------- lab


def split_url(url: str) -> tuple[str, str | None, str | None]:
    """The address without user and password, and these two."""
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    user, password = parts.username, parts.password
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return bare, unquote(user) if user else None, unquote(password) if password else None


def me() -> str:
    """Who orders, unless told: the user of this machine."""
    try:
        return f"{getpass.getuser()}@{platform.node() or 'localhost'}"
    except (OSError, KeyError):
        return platform.node() or "somebody"


class Lab:
    """A connection to a lab. Make it with `Lab.connect` and use it with `async with`, or `Lab.sync` in a notebook."""

    def __init__(
        self,
        urls: Sequence[str],
        credentials: Credentials,
        *,
        postgres_url: str | None = None,
        blob_dir: Path | None = None,
        actor: str | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        self._urls = list(urls)
        self._credentials = credentials
        self.postgres_url = postgres_url
        self.blob_dir = blob_dir
        self.actor = me() if actor is None else actor
        self.timeout_s = timeout_s
        self._bus: Bus | None = None
        self._store: EventStore | None = None
        self._sender: Sender | None = None
        self.scans = Scans(self)
        self.queues = Queues(self)
        self.jobs = Jobs(self)
        self.samples = Samples(self)
        self.equipment = Equipment(self)
        self.stations = Stations(self)
        self.parked = ParkedThings(self)

    @classmethod
    def connect(
        cls,
        data_dir: str | Path | None = None,
        *,
        url: str | None = None,
        user: str | None = None,
        password: str | None = None,
        postgres_url: str | None = None,
        settings: Settings | None = None,
        actor: str | None = None,
        timeout_s: float = 10.0,
    ) -> "Lab":
        """A lab by its folder (where `labledger up` runs), by the address of its NATS server, or as the settings say.

        `user` is a login of NATS: a role of connection.json (`publisher` unless told), or whom the server at `url` knows.
        `actor` is who orders, as the history will say. `timeout_s`: how long to wait for a connection and for outcomes.
        """
        if url is not None:
            bare, named, secret = split_url(url)
            user, password = user or named, password or secret
            credentials = Credentials(user, password, f"_INBOX_{user}" if user else "_INBOX")
            return cls([bare], credentials, postgres_url=postgres_url, actor=actor, timeout_s=timeout_s)
        if settings is None:
            environ = dict(os.environ)
            if data_dir is not None:
                environ["LABLEDGER_DATA_DIR"] = str(Path(data_dir).absolute())
            settings = load(environ)
        to = settings.connection(user or Role.PUBLISHER)
        return cls(
            to.nats_urls,
            to.credentials,
            postgres_url=postgres_url or to.postgres_readonly_url,
            blob_dir=settings.blob_dir,
            actor=actor,
            timeout_s=timeout_s,
        )

    @classmethod
    def sync(cls, data_dir: str | Path | None = None, **options: Any) -> "SyncLab":
        """The same for code without `await`: connected at once, to be closed with `close()` or `with`."""
        return SyncLab(cls.connect(data_dir, **options))

    async def open(self) -> None:
        """Connect. Raises `NotReachable`."""
        if self._bus is not None:
            return
        try:
            self._bus = await wire.connect(
                self._urls, "labledger-client", self._credentials, first_try_s=min(self.timeout_s, CONNECT_S)
            )
        except (Unavailable, OSError) as error:
            cause = error.__cause__
            why = f" ({cause})" if cause is not None and str(cause).strip() else ""
            raise NotReachable(
                f"no NATS server lets us in at {', '.join(self._urls)}{why}: is the lab running (`labledger up`)?"
            ) from error
        self._store = EventStore(self._bus)
        self._sender = Sender(self._bus, self.actor)

    async def close(self) -> None:
        bus, self._bus = self._bus, None
        if bus is not None:
            await bus.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def bus(self) -> Bus:
        if self._bus is None:
            raise LabError("not connected: use `async with Lab.connect(...)`")
        return self._bus

    @property
    def store(self) -> EventStore:
        _ = self.bus
        assert self._store is not None
        return self._store

    # -- commands ---------------------------------------------------------------------------------------------------

    async def send(
        self,
        command: str | Command,
        body: Mapping[str, Any] | str | bytes | None = None,
        *,
        command_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Outcome:
        """Send a command and wait for its outcome.

        `command` is one of ours, or a name (`scan.pause`) with its `body`. With the same `command_id` again the outcome is
        the same, however late. Raises `CommandRefused`, `CommandInvalid`, `CommandParked`, `NoOutcomeYet`, `NotReachable`.
        """
        if isinstance(command, Command):
            name, data = command.NAME, command.model_dump_json().encode()
        else:
            name = command
            data = body if isinstance(body, bytes) else (body or "{}").encode() if isinstance(body, str) else b""
            data = data or json.dumps(body or {}, default=str).encode()
        command_id = command_id or uuid7()
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        _ = self.bus
        assert self._sender is not None
        try:
            outcome = await self._sender.send(name, data, command_id, timeout_s=timeout_s)
        except TimeoutError:
            raise NoOutcomeYet(
                f"no outcome of {name} within {timeout_s:g} s. The command is kept and will be handled: is `labledger run "
                f"commands` running? Send it again under the id {command_id} to hear its outcome",
                command_id,
            ) from None
        except Unavailable as error:
            raise NotReachable(str(error)) from error
        except BusError as error:
            problem = Outcome(outcome="invalid", command_id=command_id, command=name, reason=str(error))
            raise CommandInvalid(problem) from error
        if outcome.outcome != "accepted":
            raise _ERRORS[outcome.outcome](outcome)
        return outcome

    # -- events -----------------------------------------------------------------------------------------------------

    async def history(self, kind: str, id_: str | UUID, after: int = 0) -> list[Stored]:
        """All events of one aggregate, oldest first. Raises `NotFound` for a kind that does not exist."""
        _known_kind(kind)
        return await self._reading(self._all(evt(kind, str(id_)), after))

    async def _all(self, subject: str, after: int = 0) -> list[Stored]:
        return [stored async for stored in self.store.tail(subject, after)]

    async def _reading(self, asked: Awaitable[T]) -> T:
        try:
            return await asked
        except Unavailable as error:
            raise NotReachable(str(error)) from error

    async def last(self, kind: str, id_: str | UUID) -> Stored | None:
        """The newest event of an aggregate."""
        msg = await self._reading(
            self.bus.request(f"$JS.API.DIRECT.GET.{EVT}", json.dumps({"last_by_subj": evt(kind, str(id_))}).encode())
        )
        return None if (msg.headers or {}).get("Status") else _live(msg)[0]

    async def state(self, kind: str, id_: str | UUID, upto: int | None = None) -> Any:
        """The state of an aggregate now, or as of a sequence. Raises `NotFound` when it has no event."""
        found = [stored for stored in await self.history(kind, id_) if upto is None or stored.seq <= upto]
        if not found:
            raise NotFound(f"there is no {kind} {id_}" + ("" if upto is None else f" at sequence {upto}"))
        aggregate = aggregates()[kind]
        return aggregate.fold(aggregate.initial, (stored.event for stored in found))

    async def last_sequence(self) -> int:
        """The newest sequence of the event stream."""
        request = json.dumps({"last_by_subj": "evt.>"}).encode()
        msg = await self._reading(self.bus.request(f"$JS.API.DIRECT.GET.{EVT}", request))
        return 0 if (msg.headers or {}).get("Status") else _live(msg)[0].seq

    async def ids(self, kind: str) -> list[str]:
        """The ids of all aggregates of a kind, sorted; so scans and jobs by age."""
        _known_kind(kind)
        return sorted({stored.id for stored in await self._reading(self._newest(f"evt.{kind}.*"))})

    async def _newest(self, subject: str) -> list[Stored]:
        """The newest event of each aggregate. The server answers for 1024 at most; beyond that all events are read."""
        inbox = self.bus.nc.new_inbox()
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        found: list[Stored] = []

        async def on_message(msg: Msg) -> None:
            status = (msg.headers or {}).get("Status")
            if status is None:
                found.append(_live(msg)[0])
            elif not done.done():
                done.set_result(status in ("204", "404"))

        sub = await self.bus.nc.subscribe(inbox, cb=on_message)
        try:
            asked = json.dumps({"multi_last": [subject], "batch": 1024}).encode()
            await self.bus.nc.publish(f"$JS.API.DIRECT.GET.{EVT}", asked, reply=inbox)
            async with asyncio.timeout(5):
                complete = await done
        except (TimeoutError, wire.NatsError) as error:
            raise Unavailable(f"cannot read {subject}: no answer") from error
        finally:
            try:
                await sub.unsubscribe()
            except wire.NatsError:
                pass  # the connection is closed, and with it the subscription
        if complete:
            return found
        newest: dict[str, Stored] = {}
        async for batch in self.store.everything(0, subject):
            newest |= {stored.subject: stored for stored in batch}
        return list(newest.values())

    async def sequence_at(self, when: datetime) -> int:
        """The sequence of the last event that was stored up to that time (0: none)."""
        low, high = 0, await self.last_sequence()
        while low < high:
            middle = (low + high + 1) // 2
            stored = await self._reading(self.store.get(middle))
            if stored is None or stored.stored_at <= when:
                low = middle
            else:
                high = middle - 1
        return low

    async def events(
        self, subject: str = "evt.>", after: int = 0, *, follow: bool = True, idle_s: float | None = None
    ) -> AsyncIterator[Stored]:
        """Events behind the sequence `after`, in stream order; with `follow` also those to come, without a gap.

        `subject` is `evt.>`, `evt.<kind>.*` or `evt.<kind>.<id>`. With `idle_s` it ends when nothing came for so long.
        """
        position = after
        async with _Ear(self.bus, subject) as ear:
            while True:
                async for stored in self._patient_tail(subject, position):
                    position = stored.seq
                    yield stored
                if position < ear.reach:  # another replica answered, which does not have it yet
                    await asyncio.sleep(0.02)
                    continue
                ear.caught_up(position)
                if not follow:
                    return
                began = asyncio.get_running_loop().time()
                while True:
                    stored = await ear.next(LOOK_AGAIN_S if idle_s is None else min(LOOK_AGAIN_S, idle_s))
                    if stored is None:
                        break  # silence, or something was missed: read behind the last one that we know
                    position = stored.seq
                    yield stored
                    began = asyncio.get_running_loop().time()
                if idle_s is not None and asyncio.get_running_loop().time() - began >= idle_s:
                    return

    async def _patient_tail(self, subject: str, after: int) -> AsyncIterator[Stored]:
        """Reads on where it stood after NATS was away."""
        position = after
        while True:
            try:
                async for stored in self.store.tail(subject, position):
                    position = stored.seq
                    yield stored
                return
            except Unavailable:
                await asyncio.sleep(0.5)

    # -- read models --------------------------------------------------------------------------------------------------

    async def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Rows of the read models (views of schema `labledger`), as the read-only user. Raises `NotReachable`."""
        if self.postgres_url is None:
            raise NotReachable("no address of Postgres is known: give postgres_url=, or the lab's data_dir=")
        return await asyncio.to_thread(_query, self.postgres_url, sql, list(parameters))

    async def wait_for(self, sequence: int, timeout_s: float | None = None) -> None:
        """Return once every read model shows the event at `sequence` (read your writes). Raises `NoOutcomeYet`."""
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            behind = await self.query(
                "select projection, sequence from labledger.checkpoints where sequence < %s", [sequence]
            )
            if not behind:
                return
            if asyncio.get_running_loop().time() > deadline:
                names = ", ".join(f"{row['projection']} at {row['sequence']}" for row in behind)
                raise NoOutcomeYet(
                    f"the read models did not reach sequence {sequence} within {timeout_s:g} s ({names}): is `labledger "
                    f"run projections` running?"
                )
            await asyncio.sleep(0.02)

    async def readings(self, scan_id: str | UUID) -> Readings:
        """All readings of a scan that count, by columns. Raises `NotFound` for a scan that does not exist."""
        stored = await self.history("readings", scan_id)
        if not stored and await self.last("scan", scan_id) is None:
            raise NotFound(f"there is no scan {scan_id}: `labledger scan list` shows all")
        frames = [event for event in (one.event for one in stored) if isinstance(event, ReadingsRecorded)]
        return collect(UUID(str(scan_id)), frames, self._blobs())

    def _blobs(self) -> Callable[[str], bytes] | None:
        if self.blob_dir is None or not self.blob_dir.is_dir():
            return None
        from adapters.storage.local import LocalBlobs

        return LocalBlobs(self.blob_dir).get


def _query(url: str, sql: str, parameters: list[Any]) -> list[dict[str, Any]]:
    import psycopg
    from psycopg.rows import dict_row

    try:
        with psycopg.connect(url, connect_timeout=5, row_factory=dict_row) as database:
            return database.execute(cast("Any", sql), parameters).fetchall()
    except psycopg.errors.UndefinedTable as error:
        raise NotReachable(f"{str(error).splitlines()[0]}: is `labledger run projections` running?") from error
    except psycopg.OperationalError as error:
        raise NotReachable(f"Postgres: {str(error).strip().splitlines()[0]}") from error


def _known_kind(kind: str) -> None:
    if kind not in aggregates():
        raise NotFound(f"there is no kind {kind!r}; there are {', '.join(sorted(aggregates()))}")


def _live(msg: Msg) -> tuple[Stored, int]:
    """The stored event of a direct get or a republished message, and the sequence before it on its subject."""
    headers = msg.headers or {}
    at = datetime.fromisoformat(headers["Nats-Time-Stamp"].replace("Z", "+00:00")).astimezone(UTC)
    stored = Stored(int(headers["Nats-Sequence"]), headers["Nats-Subject"], headers, msg.data, at)
    return stored, int(headers.get("Nats-Last-Sequence", "0"))


class _Ear:
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

        self._sub = await self._bus.nc.subscribe(
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
            stored, before = _live(msg)
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


# ---------------------------------------------------------------------------------------------------------------- the kinds


class _Kind:
    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    async def _send(self, name: str, timeout_s: float | None = None, /, **body: Any) -> Outcome:
        """A command with the fields that were given."""
        given = {key: value for key, value in body.items() if value is not None}
        return await self._lab.send(name, given, timeout_s=timeout_s)


def as_plan(plan: Any, values: Mapping[str, Any] | None = None) -> Plan:
    """A plan from what people have: a `Plan`, its JSON as a mapping or a text, or a template with values.

    Raises pydantic's `ValidationError` and `Refused` with what is wrong.
    """
    if isinstance(plan, str | bytes):
        plan = json.loads(plan)
    if isinstance(plan, Plan):
        return plan
    if isinstance(plan, Template) or (isinstance(plan, Mapping) and "parameters" in plan):
        return Template.model_validate(plan).fill(values or {})
    if isinstance(plan, Mapping) and "plan" in plan:
        plan = cast("Mapping[str, Any]", plan)["plan"]
    return Plan.model_validate(plan)


class Scans(_Kind):
    """What can be done with scans."""

    async def submit(
        self,
        plan: Any,
        *,
        sample: str | None = None,
        queue: str | None = None,
        priority: str | None = None,
        title: str | None = None,
        on_crash: str | None = None,
        frame: Mapping[str, int] | None = None,
        metadata: Mapping[str, Any] | None = None,
        values: Mapping[str, Any] | None = None,
        scan_id: str | UUID | None = None,
        wait: bool = False,
        timeout_s: float | None = None,
    ) -> UUID:
        """Request a scan; answers its id. `wait`: return when it has completed (raises `NotDone` if it ends otherwise).

        `plan` is a `Plan`, its JSON, or a template with `values`. The same `scan_id` again is refused, not run twice.
        """
        id_ = UUID(str(scan_id or uuid7()))
        body = as_plan(plan, values).model_dump(mode="json")
        await self._send(
            "scan.request",
            timeout_s,
            scan_id=str(id_),
            plan=body,
            sample_id=sample,
            queue_id=queue,
            priority=priority,
            title=title,
            on_crash=on_crash,
            frame=frame,
            metadata=metadata,
        )
        if wait:
            await self.wait(id_)
        return id_

    async def pause(self, scan_id: str | UUID) -> Outcome:
        """Stop after the point under way. The outcome says that it was asked for; `watch` shows when it is done."""
        return await self._send("scan.pause", scan_id=str(scan_id))

    async def resume(self, scan_id: str | UUID) -> Outcome:
        return await self._send("scan.resume", scan_id=str(scan_id))

    async def abort(self, scan_id: str | UUID, reason: str = "") -> Outcome:
        """Stop after the point under way, and leave every instrument in its safe state."""
        return await self._send("scan.abort", scan_id=str(scan_id), reason=reason)

    async def restart(self, scan_id: str | UUID) -> Outcome:
        """Queue a scan that is over once more, from its first point."""
        return await self._send("scan.restart", scan_id=str(scan_id))

    async def get(self, scan_id: str | UUID) -> Progress:
        """Where a scan stands, from its events. Raises `NotFound`."""
        fold = _Fold(UUID(str(scan_id)))
        await self._begin(fold)
        return fold.progress

    async def _begin(self, fold: _Fold) -> tuple[int, int]:
        """Take what has happened; answers the last sequences of the scan and of its readings."""
        scan_id = fold.progress.scan_id
        history = await self._lab.history("scan", scan_id)
        if not history:
            raise NotFound(f"there is no scan {scan_id}: `labledger scan list` shows all")
        readings = await self._lab.last("readings", scan_id)
        for stored in sorted([*history, *([readings] if readings else [])], key=lambda stored: stored.seq):
            fold.take(stored)
        return history[-1].seq, readings.seq if readings else 0

    async def list(self, limit: int = 50, status: str | None = None) -> "list[Progress]":
        """The newest scans first."""
        found: list[Progress] = []
        for scan_id in reversed(await self._lab.ids("scan")):
            progress = await self.get(scan_id)
            if status is None or progress.status == status:
                found.append(progress)
            if len(found) == limit:
                break
        return found

    async def watch(self, scan_id: str | UUID) -> AsyncIterator[Progress]:
        """Progress at each event of the scan and of its readings, beginning with where it stands; ends when it is over.

        No event is missed: what is stored is read, then what comes is heard, and a hole in that is read again.
        """
        fold = _Fold(UUID(str(scan_id)))
        after = await self._begin(fold)
        yield fold.progress
        if fold.progress.over:
            return
        queue: asyncio.Queue[Stored | BaseException] = asyncio.Queue()

        async def hear(kind: str, position: int) -> None:
            try:
                async for stored in self._lab.events(evt(kind, str(scan_id)), position):
                    queue.put_nowait(stored)
            except Exception as error:
                queue.put_nowait(error)

        tasks = [asyncio.create_task(hear(*it)) for it in zip(("scan", "readings"), after, strict=True)]
        try:
            while not fold.progress.over:
                stored = await queue.get()
                if isinstance(stored, BaseException):
                    raise stored
                yield fold.take(stored)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def wait(self, scan_id: str | UUID, timeout_s: float | None = None) -> Progress:
        """Return when the scan has completed. Raises `NotDone` if it ended otherwise, `TimeoutError` after `timeout_s`."""
        async with asyncio.timeout(timeout_s):
            progress = None
            async for progress in self.watch(scan_id):  # noqa: B007
                pass
        assert progress is not None
        if progress.status != "completed":
            raise NotDone(progress)
        return progress

    async def readings(self, scan_id: str | UUID) -> Readings:
        return await self._lab.readings(scan_id)


class Queues(_Kind):
    """What can be done with queues."""

    async def create(
        self,
        queue_id: str,
        *,
        mode: str | None = None,
        order: str | None = None,
        max_concurrent: int | None = None,
        title: str | None = None,
    ) -> Outcome:
        return await self._send(
            "queue.create", queue_id=queue_id, mode=mode, order=order, max_concurrent=max_concurrent, title=title
        )

    async def configure(
        self,
        queue_id: str,
        *,
        mode: str | None = None,
        order: str | None = None,
        max_concurrent: int | None = None,
        title: str | None = None,
        expected_revision: int | None = None,
    ) -> Outcome:
        return await self._send(
            "queue.configure",
            queue_id=queue_id,
            mode=mode,
            order=order,
            max_concurrent=max_concurrent,
            title=title,
            expected_revision=expected_revision,
        )

    async def start(self, queue_id: str = "main") -> Outcome:
        return await self._send("queue.start", queue_id=queue_id)

    async def pause(self, queue_id: str = "main", running_jobs: str = "finish") -> Outcome:
        """Dispatch nothing more. Running jobs `finish`, or `pause` too."""
        return await self._send("queue.pause", queue_id=queue_id, running_jobs=running_jobs)

    async def resume(self, queue_id: str = "main") -> Outcome:
        return await self._send("queue.resume", queue_id=queue_id)

    async def stop(self, queue_id: str = "main") -> Outcome:
        return await self._send("queue.stop", queue_id=queue_id)

    async def abort(self, queue_id: str = "main") -> Outcome:
        return await self._send("queue.abort", queue_id=queue_id)

    async def clear(self, queue_id: str = "main", expected_revision: int | None = None) -> Outcome:
        return await self._send("queue.clear", queue_id=queue_id, expected_revision=expected_revision)

    async def move(
        self,
        queue_id: str,
        job_id: str | UUID,
        to: int | str | Mapping[str, Any],
        expected_revision: int | None = None,
    ) -> Outcome:
        """`to`: a place counted from 1, "first", "last", {"before": job_id} or {"after": job_id}."""
        return await self._send(
            "queue.move", queue_id=queue_id, job_id=str(job_id), to=to, expected_revision=expected_revision
        )

    async def remove(self, queue_id: str, job_id: str | UUID, expected_revision: int | None = None) -> Outcome:
        return await self._send(
            "queue.remove", queue_id=queue_id, job_id=str(job_id), expected_revision=expected_revision
        )

    async def replace(
        self,
        queue_id: str,
        job_id: str | UUID,
        new_job_id: str | UUID,
        *,
        job_kind: str = "scan",
        priority: str | None = None,
        claims: Sequence[str] = (),
        title: str = "",
        expected_revision: int | None = None,
    ) -> Outcome:
        """Put another job in the place of a waiting one."""
        return await self._send(
            "queue.replace",
            queue_id=queue_id,
            job_id=str(job_id),
            new_job_id=str(new_job_id),
            job_kind=job_kind,
            priority=priority,
            claims=list(claims),
            title=title,
            expected_revision=expected_revision,
        )

    async def set_priority(
        self, queue_id: str, job_id: str | UUID, priority: str, expected_revision: int | None = None
    ) -> Outcome:
        return await self._send(
            "queue.set_priority",
            queue_id=queue_id,
            job_id=str(job_id),
            priority=priority,
            expected_revision=expected_revision,
        )

    async def run_job(self, queue_id: str, job_id: str | UUID) -> Outcome:
        """Manual mode: dispatch this job now."""
        return await self._send("queue.run_job", queue_id=queue_id, job_id=str(job_id))

    async def get(self, queue_id: str = "main") -> dict[str, Any]:
        """The queue as it stands: its settings, `running` and `waiting` jobs in the order in which they are served."""
        from domain.queue import Queue, in_order

        queue: Queue = await self._lab.state("queue", queue_id)
        plain = TypeAdapter(Queue).dump_python(replace(queue, waiting=tuple(in_order(queue))), mode="json")
        return {"queue_id": queue_id} | plain

    async def list(self) -> "list[dict[str, Any]]":
        return [await self.get(queue_id) for queue_id in await self._lab.ids("queue")]

    async def log(self, queue_id: str = "main", limit: int = 50) -> "list[Stored]":
        """The last things that happened to the queue, oldest first."""
        return (await self._lab.history("queue", queue_id))[-limit:]


class Jobs(_Kind):
    async def get(self, job_id: str | UUID) -> dict[str, Any]:
        """The job as it stands. Raises `NotFound`."""
        state = await self._lab.state("job", job_id)
        return {"job_id": str(job_id)} | TypeAdapter(type(state)).dump_python(state, mode="json")

    async def retry(self, job_id: str | UUID) -> Outcome:
        return await self._send("job.retry", job_id=str(job_id))

    async def cancel(self, job_id: str | UUID, reason: str = "") -> Outcome:
        return await self._send("job.cancel", job_id=str(job_id), reason=reason)


class _Books(_Kind):
    """Things of a kind that are kept in the lab's books."""

    KIND = ""

    async def get(self, id_: str) -> dict[str, Any]:
        """The entry as it stands. Raises `NotFound`."""
        state = await self._lab.state(self.KIND, id_)
        return {f"{self.KIND}_id": id_} | TypeAdapter(type(state)).dump_python(state, mode="json")

    async def list(self) -> list[dict[str, Any]]:
        return [await self.get(id_) for id_ in await self._lab.ids(self.KIND)]


class Samples(_Books):
    KIND = "sample"

    async def register(
        self,
        sample_id: str,
        material: str,
        *,
        tags: Sequence[str] = (),
        image: str | None = None,
        description: str | None = None,
        parent: str | None = None,
    ) -> Outcome:
        return await self._send(
            "sample.register",
            sample_id=sample_id,
            material=material,
            tags=list(tags),
            image=image,
            description=description,
            parent=parent,
        )

    async def update(self, sample_id: str, **fields: Any) -> Outcome:
        """`material`, `image`, `description`, `parent`; what is not given stays, None takes away."""
        return await self._lab.send("sample.update", {"sample_id": sample_id} | fields)

    async def tag(self, sample_id: str, *tags: str) -> Outcome:
        return await self._send("sample.tag", sample_id=sample_id, tags=list(tags))

    async def untag(self, sample_id: str, *tags: str) -> Outcome:
        return await self._send("sample.untag", sample_id=sample_id, tags=list(tags))

    async def archive(self, sample_id: str, reason: str = "") -> Outcome:
        return await self._send("sample.archive", sample_id=sample_id, reason=reason)


class Equipment(_Books):
    KIND = "equipment"

    async def register(self, equipment_id: str, kind: str, driver: str, **fields: Any) -> Outcome:
        return await self._send("equipment.register", equipment_id=equipment_id, kind=kind, driver=driver, **fields)

    async def update(self, equipment_id: str, **fields: Any) -> Outcome:
        return await self._send("equipment.update", equipment_id=equipment_id, **fields)

    async def set_status(self, equipment_id: str, status: str, reason: str = "") -> Outcome:
        return await self._send("equipment.set_status", equipment_id=equipment_id, status=status, reason=reason)

    async def calibrate(
        self,
        equipment_id: str,
        *,
        by: str | None = None,
        done_at: datetime | None = None,
        due_at: datetime | None = None,
        certificate: str = "",
        values: Mapping[str, Any] | None = None,
    ) -> Outcome:
        return await self._send(
            "equipment.calibrate",
            equipment_id=equipment_id,
            by=by or self._lab.actor,
            done_at=done_at or datetime.now(UTC),
            due_at=due_at,
            certificate=certificate,
            values=dict(values or {}),
        )

    async def maintain(
        self, equipment_id: str, note: str, *, by: str | None = None, done_at: datetime | None = None
    ) -> Outcome:
        return await self._send(
            "equipment.maintain",
            equipment_id=equipment_id,
            note=note,
            by=by or self._lab.actor,
            done_at=done_at or datetime.now(UTC),
        )


class Stations(_Books):
    KIND = "station"


class ParkedThings(_Kind):
    """What was given up after its retries."""

    async def list(self, all_: bool = False) -> "list[dict[str, Any]]":
        """What waits for a person, oldest first; with `all_` also what was handled or dropped since."""
        found = [await self.get(id_) for id_ in await self._lab.ids("parked")]
        found = [one for one in found if all_ or one["state"] in ("parked", "retrying")]
        return sorted(found, key=lambda one: one["parked_at"])

    async def get(self, parked_id: str) -> dict[str, Any]:
        from domain.parked import Parked, ParkedAdded

        history = await self._lab.history("parked", parked_id)
        if not history:
            raise NotFound(f"nothing is parked under {parked_id}: see `labledger parked list`")
        aggregate = aggregates()["parked"]
        state: Parked = aggregate.fold(aggregate.initial, (stored.event for stored in history))
        added = [stored for stored in history if isinstance(stored.event, ParkedAdded)]
        last = cast("ParkedAdded", added[-1].event)
        return last.model_dump(mode="json") | {
            "state": state.state,
            "times": len(added),
            "parked_at": added[-1].time.isoformat(),
        }

    async def retry(self, parked_id: str) -> Outcome:
        return await self._send("parked.retry", parked_id=parked_id)

    async def drop(self, parked_id: str) -> Outcome:
        return await self._send("parked.drop", parked_id=parked_id)


# --------------------------------------------------------------------------------------------------------------- notebooks


class SyncLab:
    """A `Lab` for code without `await`. It runs on a loop and a thread of its own; `close()` ends them.

    Every coroutine of `Lab` and of its kinds is a plain method here, every async iterator a plain one.
    """

    def __init__(self, lab: Lab) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="labledger-client", daemon=True)
        self._thread.start()
        self._lab = lab
        try:
            self._run(lab.open())
        except BaseException:
            self._end()
            raise

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def close(self) -> None:
        if not self._loop.is_closed():
            self._run(self._lab.close())
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return _plain(getattr(self._lab, name), self._run)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name for name in dir(self._lab) if not name.startswith("_"))]


class _SyncKind:
    def __init__(self, kind: _Kind, run: Callable[[Any], Any]) -> None:
        self._kind = kind
        self._run = run

    def __getattr__(self, name: str) -> Any:
        return _plain(getattr(self._kind, name), self._run)

    def __dir__(self) -> list[str]:
        return [name for name in dir(self._kind) if not name.startswith("_")]


def _plain(thing: Any, run: Callable[[Any], Any]) -> Any:
    """The same thing without `await`."""
    if isinstance(thing, _Kind):
        return _SyncKind(thing, run)
    if inspect.iscoroutinefunction(thing):
        called: Any = thing
        return lambda *args, **kwargs: run(called(*args, **kwargs))  # pyright: ignore[reportUnknownLambdaType]
    if inspect.isasyncgenfunction(thing):
        made: Any = thing
        return lambda *args, **kwargs: _iterate(made(*args, **kwargs), run)  # pyright: ignore[reportUnknownLambdaType]
    return thing


def _iterate(events: Any, run: Callable[[Any], Any]) -> Iterator[Any]:
    async def following() -> tuple[bool, Any]:
        try:
            return True, await anext(events)
        except StopAsyncIteration:
            return False, None

    async def close() -> None:
        await events.aclose()

    try:
        while True:
            there, value = run(following())
            if not there:
                return
            yield value
    finally:
        run(close())


__all__ = [
    "COMMANDS",
    "CommandError",
    "CommandInvalid",
    "CommandParked",
    "CommandRefused",
    "Lab",
    "LabError",
    "NoOutcomeYet",
    "NotDone",
    "NotFound",
    "NotReachable",
    "Outcome",
    "Progress",
    "Readings",
    "Stored",
    "SyncLab",
    "live",
]
