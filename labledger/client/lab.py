"""The connection to a lab: commands, events, read models."""

import asyncio
import getpass
import json
import os
import platform
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeVar, cast
from urllib.parse import unquote, urlsplit, urlunsplit
from uuid import UUID

from nats.aio.msg import Msg

from bus import connection as wire
from bus.commands import Sender
from bus.connection import Bus, Credentials
from bus.envelope import Stored
from bus.errors import BusError, Forbidden, Unavailable
from bus.ids import uuid7
from bus.outcomes import Outcome
from bus.roles import Role
from bus.store import EventStore
from bus.streams import EVT, evt
from domain.aggregate import aggregates
from domain.events import Command
from domain.ports import Blobs
from domain.readings import ReadingsRecorded
from labledger.blobs import open_blobs, spec_of
from labledger.client.artifacts import Artifacts
from labledger.client.curves import Batches, Extractions, Images, Products, SpiceModels
from labledger.client.deliveries import Deliveries, Targets
from labledger.client.errors import ERRORS, CommandInvalid, LabError, NoOutcomeYet, NotAllowed, NotFound, NotReachable
from labledger.client.hearing import Ear, heard
from labledger.client.kinds import Equipment, Jobs, ParkedThings, Queues, Samples, Scans, Stations
from labledger.client.publications import Publications
from labledger.client.readings import Readings, collect
from labledger.client.runs import Runs
from labledger.settings import Settings, load

if TYPE_CHECKING:
    from labledger.client.plain import SyncLab

T = TypeVar("T")

#: A silent line is looked at again after so long: what was missed while NATS was away shows then.
LOOK_AGAIN_S = 2.0
#: A server that is up answers at once.
CONNECT_S = 3.0


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
        blobs: Mapping[str, Any] | None = None,
        actor: str | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        self._urls = list(urls)
        self._credentials = credentials
        self.postgres_url = postgres_url
        self._blob_spec = blobs
        self._opened_blobs: Blobs | None = None
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
        self.artifacts = Artifacts(self)
        self.products = Products(self)
        self.images = Images(self)
        self.extractions = Extractions(self)
        self.batches = Batches(self)
        self.spice_models = SpiceModels(self)
        self.deliveries = Deliveries(self)
        self.targets = Targets(self)
        self.publications = Publications(self)
        self.runs = Runs(self)

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
            blobs=spec_of(settings, user or Role.PUBLISHER),
            actor=actor,
            timeout_s=timeout_s,
        )

    @classmethod
    def sync(cls, data_dir: str | Path | None = None, **options: Any) -> "SyncLab":
        """The same for code without `await`: connected at once, to be closed with `close()` or `with`."""
        from labledger.client.plain import SyncLab

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
        the same, however late. Raises `CommandRefused`, `CommandInvalid`, `CommandParked`, `NoOutcomeYet`, `NotReachable`,
        `NotAllowed`.
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
        except Forbidden as error:
            raise NotAllowed(str(error)) from error
        except BusError as error:
            problem = Outcome(outcome="invalid", command_id=command_id, command=name, reason=str(error))
            raise CommandInvalid(problem) from error
        if outcome.outcome != "accepted":
            raise ERRORS[outcome.outcome](outcome)
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
        except Forbidden as error:
            raise NotAllowed(str(error)) from error

    async def last(self, kind: str, id_: str | UUID) -> Stored | None:
        """The newest event of an aggregate."""
        msg = await self._reading(
            self.bus.request(f"$JS.API.DIRECT.GET.{EVT}", json.dumps({"last_by_subj": evt(kind, str(id_))}).encode())
        )
        return None if (msg.headers or {}).get("Status") else heard(msg)[0]

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
        return 0 if (msg.headers or {}).get("Status") else heard(msg)[0].seq

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
                found.append(heard(msg)[0])
            elif not done.done():
                done.set_result(status in ("204", "404"))

        sub = await self.bus.nc.subscribe(inbox, cb=on_message)  # pyright: ignore[reportUnknownMemberType]
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
        async with Ear(self.bus, subject) as ear:
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

    async def wait_for(self, sequence: int, names: Sequence[str] = (), timeout_s: float | None = None) -> None:
        """Return once the read models (all that there are, if none is named) show the event at `sequence`, so that one
        reads one's own writes. Raises `NoOutcomeYet`."""
        if self.postgres_url is None:
            raise NotReachable("no address of Postgres is known: give postgres_url=, or the lab's data_dir=")
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        behind = await asyncio.to_thread(_behind, self.postgres_url, sequence, list(names), timeout_s)
        if behind:
            raise NoOutcomeYet(
                f"the read models did not reach sequence {sequence} within {timeout_s:g} s ({', '.join(behind)}): is "
                f"`labledger run projections` running?"
            )

    async def readings(self, scan_id: str | UUID) -> Readings:
        """All readings of a scan that count, by columns. Raises `NotFound` for a scan that does not exist."""
        stored = await self.history("readings", scan_id)
        if not stored and await self.last("scan", scan_id) is None:
            raise NotFound(f"there is no scan {scan_id}: `labledger scan list` shows all")
        frames = [event for event in (one.event for one in stored) if isinstance(event, ReadingsRecorded)]
        blobs = self.blobs.get if self._knows_blobs else None
        return await asyncio.to_thread(collect, UUID(str(scan_id)), frames, blobs)

    def put_file(self, file: BinaryIO) -> tuple[str, int]:
        """Keep what is read from a file in the lab's store of blobs; answers its SHA-256 and size. Blocks. Raises `LabError`."""
        return self.blobs.put_file(file)

    @property
    def blobs(self) -> Blobs:
        """Where the lab keeps files by their SHA-256. Blocking: call it from a thread. Raises `LabError` when it is not known."""
        if self._blob_spec is None:
            raise LabError("the store of blobs is not known: connect by the lab's folder or its settings")
        if self._opened_blobs is None:
            self._opened_blobs = open_blobs(self._blob_spec)
        return self._opened_blobs

    @property
    def _knows_blobs(self) -> bool:
        """Not for who connected by an address alone, nor on a machine that has not got the lab's folder."""
        spec = self._blob_spec
        return spec is not None and (spec["store"] != "local" or Path(spec["dir"]).is_dir())


def _behind(url: str, sequence: int, names: list[str], timeout_s: float) -> list[str]:
    """Which read models have not reached the sequence when the time is over; none: all have."""
    import psycopg

    deadline = time.monotonic() + timeout_s
    try:
        with psycopg.connect(url, connect_timeout=5, autocommit=True) as database:
            while True:
                try:
                    rows = database.execute("select projection, sequence from labledger.checkpoints").fetchall()
                except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
                    rows = []  # the projector has not even begun
                except psycopg.errors.InsufficientPrivilege:
                    rows = []  # or has only just begun, and not yet said who may read
                reached: dict[str, int] = {str(name): int(at) for name, at in rows}
                wanted = names or list(reached)
                behind = [f"{name} is at {reached.get(name, 0)}" for name in wanted if reached.get(name, -1) < sequence]
                if wanted and not behind:
                    return []
                if time.monotonic() > deadline:
                    return behind or ["there is none yet"]
                time.sleep(0.02)
    except psycopg.OperationalError as error:
        raise NotReachable(f"Postgres: {str(error).strip().splitlines()[0]}") from error


def _query(url: str, sql: str, parameters: list[Any]) -> list[dict[str, Any]]:
    import psycopg
    from psycopg.rows import dict_row

    try:
        with psycopg.connect(url, connect_timeout=5) as database:
            cursor = database.cursor(row_factory=dict_row)
            return cursor.execute(cast("Any", sql), parameters).fetchall()
    except psycopg.errors.UndefinedTable as error:
        raise NotReachable(f"{str(error).splitlines()[0]}: is `labledger run projections` running?") from error
    except psycopg.OperationalError as error:
        raise NotReachable(f"Postgres: {str(error).strip().splitlines()[0]}") from error


def _known_kind(kind: str) -> None:
    if kind not in aggregates():
        raise NotFound(f"there is no kind {kind!r}; there are {', '.join(sorted(aggregates()))}")
