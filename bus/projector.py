"""The projector: read models in Postgres, made of nothing but the events, and made anew at any time.

Each projection reads its kinds of events in order; those that read the same kinds share a pull loop. A batch is one
transaction for each: rows, and the checkpoint by compare-and-set, so an event is never applied twice and two writers can
never both win. What fails stops that projection, with the reason where everybody sees it, and no other.

A projection's tables live in a schema of their own, `p_<name>_v<generation>`; people read the views in schema
`labledger`. A rebuild fills the next generation beside the live one and switches the views in one transaction.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import orjson
import psycopg
from psycopg import sql

from bus import postgres
from bus.connection import Bus
from bus.envelope import Stored
from bus.errors import BusError, Unavailable
from bus.postgres import Connection
from bus.subscription import Subscription, last_sequence, read_all
from domain.events import EVENTS, Event

log = logging.getLogger("labledger.projector")

E = TypeVar("E", bound=Event)

VIEWS = "labledger"
META = "labledger_meta"
READER = "labledger_reader"
NOTIFY = "labledger_projections"

#: How often the checkpoint follows events that are none of a projection's business.
FOLLOW_S = 0.2

#: How long the switch to a rebuilt generation waits for readers, and after which time it tries again.
SWITCH_WAITS_MS = 500
SWITCH_AGAIN_S = 1.0


@dataclass(frozen=True)
class Column:
    """A column: its Postgres type, and what it holds, with its unit."""

    name: str
    type: str
    doc: str


@dataclass(frozen=True)
class Table:
    """A table of a projection. `key` is the primary key; a table whose rows are read back and changed has a key of one
    column. `indexes` are lists of columns."""

    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    indexes: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class View:
    """A view in schema `labledger`: what people read. `{schema}` stands for the projection's schema."""

    name: str
    doc: str
    query: str
    columns: Mapping[str, str]


Row = dict[str, Any]
#: What an event does: (event, stored, rows). It must depend on nothing else, so that a replay gives the same rows.
Handler = Callable[[Any, Stored, "Rows"], None]
#: Writes a batch by its own means (large tables).
Bulk = Callable[[Connection, str, Sequence[Stored]], Awaitable[None]]


class Projection:
    """One read model. `version` is raised when the tables or what events do to them change: it is then built anew."""

    def __init__(
        self,
        name: str,
        version: int,
        tables: Sequence[Table],
        views: Sequence[View],
        *,
        kinds: Sequence[str] = (),
        bulk: Bulk | None = None,
        bulk_events: Sequence[type[Event]] = (),
        also: Callable[[Event], Iterable[tuple[str, Any]]] | None = None,
    ) -> None:
        """`kinds`: more kinds of events than the handlers name. `bulk_events`: those that `bulk` alone takes, which are not
        decoded for handlers. `also`: (key column, value) of rows that an event
        changes without naming them in a field of that name."""
        self.name = name
        self.version = version
        self.tables = list(tables)
        self.views = list(views)
        self.bulk = bulk
        self._bulk_events = {event.NAME for event in bulk_events}
        self.also = also
        self._kinds = set(kinds)
        self._handlers: dict[str, list[Handler]] = {}
        self._raw: dict[str, list[Handler]] = {}
        self._last: set[str] = set()

    def on(self, *events: type[E]) -> Callable[[Callable[[E, Stored, "Rows"], None]], Any]:
        """Mark what these events do."""

        def mark(function: Callable[[E, Stored, "Rows"], None]) -> Any:
            for event in events:
                self._handlers.setdefault(event.NAME, []).append(cast("Handler", function))
            return function

        return mark

    def on_data(
        self, event: type[Event], *, last: bool = False
    ) -> Callable[[Callable[[Row, Stored, "Rows"], None]], Any]:
        """As `on`, with the body as plain data: for events that come by the thousand. With `last`, of several in a row
        of one aggregate perhaps only the last is seen: what it does must make up for those before it."""

        def mark(function: Callable[[Row, Stored, "Rows"], None]) -> Any:
            self._raw.setdefault(event.NAME, []).append(cast("Handler", function))
            if last:
                self._last.add(event.TYPE)
            return function

        return mark

    @property
    def kinds(self) -> list[str]:
        named = {name.split(".")[0] for name in (*self._handlers, *self._raw, *self._bulk_events)}
        return sorted(self._kinds | named)

    @property
    def subjects(self) -> list[str]:
        return [f"evt.{kind}.>" for kind in self.kinds]

    async def apply(self, connection: Connection, schema: str, batch: Sequence[Stored]) -> None:
        """Write what a batch of events does, within the caller's transaction."""
        if self.bulk is not None:
            await self.bulk(connection, schema, batch)
        if not self._handlers and not self._raw:
            return
        decoded: list[tuple[Any, Stored, list[Handler]]] = []
        if self._last:
            batch = self._thinned(batch)
        for stored in batch:
            name, _, version = stored.type.rpartition(".v")
            newest = name in EVENTS and version == str(EVENTS[name].VERSION)
            if newest and name in self._bulk_events:
                continue
            raw = self._raw.get(name)
            if raw is not None and newest:
                decoded.append((orjson.loads(stored.data), stored, raw))
                continue
            event = stored.event  # an unknown type raises: nobody skips it
            if raw is not None:  # of an older version, so upcast first
                decoded.append((event.model_dump(mode="json"), stored, raw))
                continue
            handlers = self._handlers.get(name)
            if handlers:
                decoded.append((event, stored, handlers))
        rows = Rows(self, schema)
        await rows.fetch(connection, [event for event, _, _ in decoded])
        for event, stored, handlers in decoded:
            for handler in handlers:
                handler(event, stored, rows)
        await rows.write(connection)

    def _thinned(self, batch: Sequence[Stored]) -> Sequence[Stored]:
        """Without the events that a later one of the same aggregate makes up for."""
        kept: list[Stored] = []
        followed: dict[str, str] = {}
        for stored in reversed(batch):
            if stored.type not in self._last or followed.get(stored.subject) != stored.type:
                kept.append(stored)
            followed[stored.subject] = stored.type
        return kept[::-1]


class Rows:
    """The rows that a batch touches: read once, changed in memory, written once."""

    def __init__(self, projection: Projection, schema: str) -> None:
        self._projection = projection
        self._schema = schema
        self._rows: dict[str, dict[Any, Row | None]] = {table.name: {} for table in projection.tables}
        self._changed: dict[str, set[Any]] = {table.name: set() for table in projection.tables}
        self._appended: dict[str, list[Row]] = {}

    def get(self, table: Table, key: Any) -> Row | None:
        """The row of a key, as the events before left it; None when there is none. What is changed in it counts."""
        known = self._rows[table.name]
        key = str(key)
        if key not in known:
            raise KeyError(f"{table.name}: the event does not name {key!r}: see `also` of Projection")
        row = known[key]
        if row is not None:
            self._changed[table.name].add(key)
        return row

    def put(self, table: Table, row: Row) -> Row:
        """A new row, or another one in place of that with its key. Columns that are not given are NULL."""
        whole = {column.name: row.get(column.name) for column in table.columns}
        if len(whole) < len(row.keys() | whole.keys()):
            raise KeyError(f"{table.name} has no columns {sorted(row.keys() - whole.keys())}")
        key = str(row[table.key[0]])
        self._rows[table.name][key] = whole
        self._changed[table.name].add(key)
        return whole

    def append(self, table: Table, row: Row) -> None:
        """A row of a table that is only appended to."""
        self._appended.setdefault(table.name, []).append(row)

    async def fetch(self, connection: Connection, events: Sequence[Any]) -> None:
        for table in self._projection.tables:
            if len(table.key) != 1:
                continue
            column = table.key[0]
            keys: set[str] = set()
            for event in events:
                value = getattr(event, column, None) if isinstance(event, Event) else cast("Row", event).get(column)
                if value is not None:
                    keys.add(str(value))
                if self._projection.also is not None and isinstance(event, Event):
                    keys.update(str(value) for name, value in self._projection.also(event) if name == column)
            if not keys:
                continue
            query = sql.SQL("select * from {} where {}::text = any(%s)").format(
                sql.Identifier(self._schema, table.name), sql.Identifier(column)
            )
            if _type(table, column) != "text":
                query = sql.SQL("select * from {} where {} = any(%s::{}[])").format(
                    sql.Identifier(self._schema, table.name),
                    sql.Identifier(column),
                    sql.SQL(cast("Any", _type(table, column))),
                )
            found = await (await connection.execute(query, [sorted(keys)])).fetchall()
            known: dict[Any, Row | None] = dict.fromkeys(keys)
            known.update({str(row[column]): row for row in found})
            self._rows[table.name] = known

    async def write(self, connection: Connection) -> None:
        for table in self._projection.tables:
            changed = [self._rows[table.name][key] for key in sorted(self._changed[table.name])]
            await self._insert(connection, table, [row for row in changed if row is not None], upsert=True)
            await self._insert(connection, table, self._appended.get(table.name, []), upsert=False)

    async def _insert(self, connection: Connection, table: Table, rows: Sequence[Row], *, upsert: bool) -> None:
        if not rows:
            return
        name = sql.Identifier(self._schema, table.name)
        query = sql.SQL("insert into {} select * from jsonb_populate_recordset(null::{}, %s::jsonb)").format(name, name)
        if upsert:
            others = [column.name for column in table.columns if column.name not in table.key]
            query += sql.SQL(" on conflict ({}) do update set {}").format(
                sql.SQL(", ").join(map(sql.Identifier, table.key)),
                sql.SQL(", ").join(
                    sql.SQL("{} = excluded.{}").format(sql.Identifier(o), sql.Identifier(o)) for o in others
                ),
            )
        # jsonb cannot hold the character NUL; texts that people sent may.
        body = orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY, default=str).replace(b"\\u0000", b"\\ufffd")
        await connection.execute(query, [body.decode()])


def _type(table: Table, column: str) -> str:
    return next(c.type for c in table.columns if c.name == column)


def schema_of(name: str, generation: int) -> str:
    return f"p_{name}_v{generation}"


async def create_tables(connection: Connection, projection: Projection, schema: str) -> None:
    """The projection's schema and empty tables."""
    await connection.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
    for table in projection.tables:
        columns = [sql.SQL("{} {}").format(sql.Identifier(c.name), sql.SQL(cast("Any", c.type))) for c in table.columns]
        if table.key:
            columns.append(sql.SQL("primary key ({})").format(sql.SQL(", ").join(map(sql.Identifier, table.key))))
        name = sql.Identifier(schema, table.name)
        await connection.execute(sql.SQL("create table {} ({})").format(name, sql.SQL(", ").join(columns)))
        for index in table.indexes:
            await connection.execute(
                sql.SQL("create index on {} ({})").format(name, sql.SQL(", ").join(map(sql.Identifier, index)))
            )


async def create_views(connection: Connection, projection: Projection, schema: str) -> None:
    """Point the projection's views at a schema, with their documentation and the readers' rights."""
    for view in projection.views:
        name = sql.Identifier(VIEWS, view.name)
        await connection.execute(sql.SQL("drop view if exists {}").format(name))
        query = view.query.replace("{schema}", schema)
        await connection.execute(sql.SQL("create view {} as {}").format(name, sql.SQL(cast("Any", query))))
        await connection.execute(sql.SQL("comment on view {} is {}").format(name, sql.Literal(view.doc)))
        for column, doc in view.columns.items():
            await connection.execute(
                sql.SQL("comment on column {}.{} is {}").format(name, sql.Identifier(column), sql.Literal(doc))
            )
        await connection.execute(
            sql.SQL(
                "do $$ begin if exists (select from pg_roles where rolname = {}) then "
                "grant select on {} to {}; end if; end $$"
            ).format(sql.Literal(READER), name, sql.Identifier(READER))
        )


async def prepare(connection: Connection) -> None:
    """The schemas and tables that all projections share. Safe to repeat, and at once."""
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock(hashtext('labledger prepare'))")
        await connection.execute(f"""
            create schema if not exists {META};
            create schema if not exists {VIEWS};
            create table if not exists {META}.generations (
                name text, generation int, version int not null, sequence bigint not null, live bool not null,
                state text not null default 'running', reason text not null default '',
                updated_at timestamptz not null default now(), primary key (name, generation));
            create unique index if not exists one_live on {META}.generations (name) where live;
            create or replace view {VIEWS}.checkpoints as
                select name as projection, generation, sequence, updated_at from {META}.generations where live;
            create or replace view {VIEWS}.projections as
                select name, generation, sequence, live, state, reason, updated_at from {META}.generations;
            comment on view {VIEWS}.checkpoints is 'How far each read model has come: it shows every event up to `sequence`.';
            comment on view {VIEWS}.projections is 'The state of each read model: running, stopped (see reason), building.';
            do $$ begin if exists (select from pg_roles where rolname = '{READER}') then
                grant usage on schema {VIEWS} to {READER};
                grant select on {VIEWS}.checkpoints, {VIEWS}.projections to {READER};
            end if; end $$;
        """)


def groups(projections: Sequence[Projection]) -> list[list[Projection]]:
    """Projections that read the same kinds of events share one pull loop: an event is received once for all of them."""
    found: list[list[Projection]] = []
    for projection in projections:
        kin = [group for group in found if any(set(one.kinds) & set(projection.kinds) for one in group)]
        found = [group for group in found if group not in kin]
        found.append([one for group in kin for one in group] + [projection])
    return found


class AnotherWriter(Exception):
    """The checkpoint is not where this writer left it: somebody else writes, or the generation has been replaced."""


class Poison(Exception):
    """An event that the projection cannot digest."""

    def __init__(self, stored: Stored, error: Exception) -> None:
        super().__init__(f"{stored.type} at {stored.seq} ({stored.subject}): {type(error).__name__}: {error}")


@dataclass
class _Writer:
    """Writes batches into one generation."""

    connection: Connection
    projection: Projection
    generation: int
    sequence: int

    @property
    def schema(self) -> str:
        return schema_of(self.projection.name, self.generation)

    async def write(self, batch: Sequence[Stored]) -> None:
        """One transaction: rows and checkpoint. A batch that fails is taken one event at a time, so that the one that
        cannot be digested is known, and all before it stand."""
        try:
            await self._write(batch)
        except (psycopg.OperationalError, psycopg.InterfaceError, AnotherWriter):
            raise
        except Exception as error:
            log.warning("%s: a batch failed (%s), once more, one by one", self.projection.name, error)
            for stored in batch:
                try:
                    await self._write([stored])
                except (psycopg.OperationalError, psycopg.InterfaceError, AnotherWriter):
                    raise
                except Exception as poison:
                    raise Poison(stored, poison) from poison

    async def write_ours(self, batch: Sequence[Stored]) -> None:
        """Write those of a group's events that are this projection's, and are not written yet."""
        kinds = set(self.projection.kinds)
        ours = [stored for stored in batch if stored.seq > self.sequence and stored.kind in kinds]
        if ours:
            await self.write(ours)

    async def _write(self, batch: Sequence[Stored]) -> None:
        async with self.connection.transaction():
            # First the checkpoint: it holds back everybody else, and tells when this generation has been replaced.
            await self._advance(batch[-1].seq)
            await self.projection.apply(self.connection, self.schema, batch)
        self.sequence = batch[-1].seq

    async def follow(self, sequence: int) -> None:
        """Nothing of ours stands up to `sequence`: the checkpoint may say so."""
        async with self.connection.transaction():
            await self._advance(sequence)
        self.sequence = sequence

    async def _advance(self, to: int) -> None:
        done = await self.connection.execute(
            f"update {META}.generations set sequence = %s, updated_at = now(), state = 'running', reason = ''"
            " where name = %s and generation = %s and sequence = %s",
            [to, self.projection.name, self.generation, self.sequence],
        )
        if done.rowcount != 1:
            raise AnotherWriter(f"{self.projection.name}: the checkpoint is not at {self.sequence}")
        await self.connection.execute(f"notify {NOTIFY}")


class _End:
    """How far EVT reaches, asked for by all groups together: each for itself, they ask a lab where nothing happens a hundred times
    a second."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._sequence = 0
        self._asked = -FOLLOW_S

    async def sequence(self) -> int:
        """A sequence that the stream has reached, not older than half of `FOLLOW_S` unless somebody is just asking."""
        now = time.monotonic()
        if now - self._asked >= FOLLOW_S / 2:
            self._asked = now  # whoever comes while we wait makes do with what is known
            self._sequence = await last_sequence(self._bus)
        return self._sequence


class Projector:
    """Runs projections until cancelled. Any number of projectors may run: one writes each projection, the others wait."""

    def __init__(
        self,
        bus: Bus,
        url: str,
        projections: Sequence[Projection],
        *,
        batch_events: int = 500,
        batch_s: float = 0.05,
    ) -> None:
        self._bus = bus
        self._url = url
        self._projections = list(projections)
        self._most = batch_events
        self._within_s = batch_s
        self._end = _End(bus)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for group in groups(self._projections):
                tasks.create_task(self._keep(group))

    async def _keep(self, group: list[Projection]) -> None:
        """One group, over all that happens to its servers, until none of its projections is left."""
        names = ", ".join(projection.name for projection in group)
        delay_s = 0.1
        while group:
            try:
                connection = await postgres.connect(self._url, f"labledger {names}")
                async with connection:
                    await prepare(connection)
                    for projection in group:
                        await self._alone(connection, projection)
                    delay_s = 0.1
                    await self._project(connection, group)
            except AnotherWriter as error:
                log.info("%s; looking again", error)
            except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
                log.warning("projections %s wait for Postgres: %s", names, str(error).splitlines()[0])
            except Unavailable as error:
                if self._bus.closing:
                    return
                log.warning("projections %s wait for NATS: %s", names, error)
            except BusError as error:
                log.error("projections %s: %s", names, error)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, 2.0)

    async def _alone(self, connection: Connection, projection: Projection) -> None:
        """Wait until no other projector writes this projection. The lock ends with the connection that holds it."""
        while True:
            found = await connection.execute(
                "select pg_try_advisory_lock(hashtext('labledger projector'), hashtext(%s)) as mine", [projection.name]
            )
            row = await found.fetchone()
            if row and row["mine"]:
                return
            await asyncio.sleep(0.5)

    async def _writer(self, connection: Connection, projection: Projection) -> _Writer:
        """The writer of the live generation; of an older version of the code, it is built anew first."""
        live = await live_generation(connection, projection.name)
        if live is None:
            return await new_generation(connection, projection, live=True)
        if live["version"] != projection.version:
            log.info("projection %s: version %d beside %d", projection.name, projection.version, live["version"])
            await rebuild(self._bus, connection, projection)
            return await self._writer(connection, projection)
        return _Writer(connection, projection, live["generation"], live["sequence"])

    async def _project(self, connection: Connection, group: list[Projection]) -> None:
        writers = [await self._writer(connection, projection) for projection in group]
        subjects = sorted({subject for projection in group for subject in projection.subjects})
        followed = 0.0
        async with Subscription(self._bus, min(writer.sequence for writer in writers), subjects) as events:
            wait_s = 0.0
            while group:
                batch = await events.next_batch(self._most, wait_s, idle_s=FOLLOW_S)
                for writer in list(writers) if batch else ():
                    try:
                        await writer.write_ours(batch)
                    except Poison as poison:
                        log.error("projection %s stops: %s", writer.projection.name, poison)
                        writers.remove(writer)
                        group.remove(writer.projection)
                        await self._say_stopped(writer.projection, str(poison))
                # Under load batches fill up; alone, an event is written at once.
                wait_s = self._within_s if len(batch) > 10 else 0.0
                if not batch or time.monotonic() - followed > FOLLOW_S:
                    followed = time.monotonic()
                    end = await self._end.sequence()
                    behind = [writer for writer in writers if writer.sequence < end]
                    reached = await events.nothing_before(end) if behind else 0
                    for writer in behind:
                        if reached > writer.sequence:
                            await writer.follow(reached)

    async def _say_stopped(self, projection: Projection, reason: str) -> None:
        with suppress(psycopg.Error):
            async with await postgres.connect(self._url, "labledger") as connection:
                await connection.execute(
                    f"update {META}.generations set state = 'stopped', reason = %s, updated_at = now()"
                    " where name = %s and live",
                    [reason[:2000], projection.name],
                )


async def live_generation(connection: Connection, name: str) -> Row | None:
    """The generation that the views show: name, generation, version, sequence, state, reason."""
    found = await connection.execute(f"select * from {META}.generations where name = %s and live", [name])
    return await found.fetchone()


async def new_generation(connection: Connection, projection: Projection, *, live: bool) -> _Writer:
    """Empty tables of a generation that did not exist, with the views on them if it is the live one."""
    async with connection.transaction():
        found = await connection.execute(
            f"select coalesce(max(generation), 0) + 1 as next from {META}.generations where name = %s",
            [projection.name],
        )
        row = await found.fetchone()
        assert row is not None
        generation = int(row["next"])
        await create_tables(connection, projection, schema_of(projection.name, generation))
        await connection.execute(
            f"insert into {META}.generations (name, generation, version, sequence, live, state)"
            " values (%s, %s, %s, 0, %s, %s)",
            [projection.name, generation, projection.version, live, "running" if live else "building"],
        )
        if live:
            await create_views(connection, projection, schema_of(projection.name, generation))
    return _Writer(connection, projection, generation, 0)


Progress = Callable[[int, int], None]


async def _fill(bus: Bus, writer: _Writer, upto: int, progress: Progress | None = None) -> None:
    """Write all events up to a sequence that is in the stream already."""
    async for batch in read_all(bus, writer.sequence, upto, writer.projection.subjects):
        for start in range(0, len(batch), 2000):
            await writer.write(batch[start : start + 2000])
        if progress is not None:
            progress(writer.sequence, upto)
    if writer.sequence < upto:
        await writer.follow(upto)


async def rebuild(
    bus: Bus, connection: Connection, projection: Projection, progress: Progress | None = None
) -> tuple[int, int]:
    """Fill the next generation beside the live one, switch the views in one transaction, drop the old one.

    Answers the new generation and the sequence it stands at. Readers never see less than before: at the switch the live
    one is held still, and the new one has come at least as far. Cancelled or killed half-way, the next call goes on.
    """
    await connection.execute("select pg_advisory_lock(hashtext('labledger rebuild'), hashtext(%s))", [projection.name])
    try:
        return await _rebuild(bus, connection, projection, progress)
    finally:
        with suppress(psycopg.Error):
            await connection.execute(
                "select pg_advisory_unlock(hashtext('labledger rebuild'), hashtext(%s))", [projection.name]
            )


async def _rebuild(
    bus: Bus, connection: Connection, projection: Projection, progress: Progress | None
) -> tuple[int, int]:
    found = await connection.execute(
        f"select * from {META}.generations where name = %s and not live order by generation", [projection.name]
    )
    writer: _Writer | None = None
    for row in await found.fetchall():
        if row["version"] == projection.version and writer is None:
            writer = _Writer(connection, projection, row["generation"], row["sequence"])
        else:
            await _drop(connection, projection.name, row["generation"])
    writer = writer or await new_generation(connection, projection, live=False)
    while True:
        end = await last_sequence(bus)
        await _fill(bus, writer, end, progress)
        if await last_sequence(bus) - writer.sequence >= 1000:
            continue
        reached = writer.sequence
        try:
            await _switch(bus, connection, projection, writer)
            return writer.generation, writer.sequence
        except psycopg.errors.LockNotAvailable:
            writer.sequence = reached  # what the switch had written is undone with it
            log.info("projection %s: somebody reads it at length; the switch waits", projection.name)
            await asyncio.sleep(SWITCH_AGAIN_S)


async def _switch(bus: Bus, connection: Connection, projection: Projection, writer: _Writer) -> None:
    """Show the new generation in place of the live one, in one transaction.

    Raises `LockNotAvailable` when a reader holds the views for long: whoever comes while we wait would wait behind us, and
    so would the live projection, so we do not insist.
    """
    async with connection.transaction():
        await connection.execute("select set_config('lock_timeout', %s, true)", [str(SWITCH_WAITS_MS)])
        # Held until the switch: the live one cannot advance, so we need only come as far as it stands.
        held = await connection.execute(
            f"select generation, sequence from {META}.generations where name = %s and live for update",
            [projection.name],
        )
        live = await held.fetchone()
        if live is not None and live["sequence"] > writer.sequence:
            await _fill(bus, writer, live["sequence"], None)
        await connection.execute(f"update {META}.generations set live = false where name = %s", [projection.name])
        await connection.execute(
            f"update {META}.generations set live = true, state = 'running' where name = %s and generation = %s",
            [projection.name, writer.generation],
        )
        await create_views(connection, projection, writer.schema)
        if live is not None:
            await _drop(connection, projection.name, live["generation"])


async def _drop(connection: Connection, name: str, generation: int) -> None:
    async with connection.transaction():
        await connection.execute(
            sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(schema_of(name, generation)))
        )
        await connection.execute(
            f"delete from {META}.generations where name = %s and generation = %s", [name, generation]
        )


@dataclass(frozen=True)
class Difference:
    """How a table of the live generation and of one built anew from the events differ at the same sequence."""

    table: str
    rows: int
    only_live: int
    only_rebuilt: int
    examples: list[Row] = field(default_factory=list[Row])

    @property
    def equal(self) -> bool:
        return not self.only_live and not self.only_rebuilt


class _Scratch:
    """A schema for one question, dropped afterwards; what a crash left behind is dropped by the next."""

    def __init__(self, connection: Connection, projection: Projection, purpose: str) -> None:
        self._connection = connection
        self._projection = projection
        self.schema = f"scratch_{purpose}_{uuid.uuid4().hex[:12]}"

    async def __aenter__(self) -> "_Scratch":
        found = await self._connection.execute(
            "select nspname from pg_namespace where nspname like 'scratch\\_%' and not exists"
            " (select from pg_locks where locktype = 'advisory' and objid = (hashtext(nspname)::bigint & 4294967295)::oid)"
        )
        for row in await found.fetchall():
            await self._drop(row["nspname"])
        await self._connection.execute("select pg_advisory_lock(0, hashtext(%s))", [self.schema])
        await create_tables(self._connection, self._projection, self.schema)
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(psycopg.Error):
            await self._drop(self.schema)
            await self._connection.execute("select pg_advisory_unlock(0, hashtext(%s))", [self.schema])

    async def _drop(self, schema: str) -> None:
        await self._connection.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(schema)))

    async def fill(self, bus: Bus, upto: int) -> None:
        async for batch in read_all(bus, 0, upto, self._projection.subjects):
            async with self._connection.transaction():
                await self._projection.apply(self._connection, self.schema, batch)


async def compare(bus: Bus, connection: Connection, projection: Projection) -> tuple[int, list[Difference]]:
    """Build the projection anew beside the live one, up to the same sequence, and compare row by row.

    Answers the sequence and one `Difference` a table. Changes nothing.
    """
    async with _Scratch(connection, projection, "rebuilt") as rebuilt, _Scratch(connection, projection, "live") as copy:
        async with connection.transaction():
            held = await connection.execute(
                f"select generation, sequence from {META}.generations where name = %s and live for update",
                [projection.name],
            )
            live = await held.fetchone()
            if live is None:
                raise LookupError(
                    f"projection {projection.name} was never built: is `labledger run projections` running?"
                )
            for table in projection.tables:
                await connection.execute(
                    sql.SQL("insert into {} select * from {}").format(
                        sql.Identifier(copy.schema, table.name),
                        sql.Identifier(schema_of(projection.name, live["generation"]), table.name),
                    )
                )
        await rebuilt.fill(bus, live["sequence"])
        found: list[Difference] = []
        for table in projection.tables:
            found.append(await _difference(connection, table, copy.schema, rebuilt.schema))
        return int(live["sequence"]), found


async def _difference(connection: Connection, table: Table, live: str, rebuilt: str) -> Difference:
    names = {"live": sql.Identifier(live, table.name), "rebuilt": sql.Identifier(rebuilt, table.name)}

    async def number(query: str) -> int:
        row = await (await connection.execute(sql.SQL(cast("Any", query)).format(**names))).fetchone()
        return int(row["n"]) if row else 0

    rows = await number("select count(*) as n from {live}")
    only_live = await number("select count(*) as n from (select * from {live} except all select * from {rebuilt}) d")
    only_rebuilt = await number("select count(*) as n from (select * from {rebuilt} except all select * from {live}) d")
    examples: list[Row] = []
    if only_live or only_rebuilt:
        query = (
            "(select 'live' as side, d.* from (select * from {live} except all select * from {rebuilt}) d limit 3)"
            " union all "
            "(select 'rebuilt' as side, d.* from (select * from {rebuilt} except all select * from {live}) d limit 3)"
        )
        examples = await (await connection.execute(sql.SQL(query).format(**names))).fetchall()
    return Difference(table.name, rows, only_live, only_rebuilt, examples)


async def as_of(
    bus: Bus, connection: Connection, projection: Projection, view: str, sequence: int, where: str = "true"
) -> list[Row]:
    """The rows of a view as they were when the stream stood at `sequence`. Built in a scratch schema; changes nothing."""
    shown = next((one for one in projection.views if one.name == view), None)
    if shown is None:
        raise LookupError(f"projection {projection.name} has no view {view}")
    async with _Scratch(connection, projection, "asof") as scratch:
        await scratch.fill(bus, sequence)
        query = f"select * from ({shown.query.replace('{schema}', scratch.schema)}) shown where {where}"
        return await (await connection.execute(cast("Any", query))).fetchall()


async def wait_for(url: str, sequence: int, names: Sequence[str] = (), timeout_s: float = 10.0) -> None:
    """Return once the projections (all that there are, if none is named) show the event at `sequence`.

    Also one that was not built yet is waited for, or any if none is named. Raises `TimeoutError`.
    """
    # Those that are there and have come so far must be as many as were asked for: who is not there is not behind either.
    query = (
        f"select count(*) filter (where sequence >= %s) as here, count(*) as known from {META}.generations"
        " where live and (%s::text[] is null or name = any(%s))"
    )
    wanted = sorted(set(names)) or None
    async with asyncio.timeout(timeout_s), await postgres.connect(url, "labledger wait") as connection:
        await connection.execute(f"listen {NOTIFY}")
        while True:
            with suppress(psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):  # nothing was ever built
                row = await (await connection.execute(query, [sequence, wanted, wanted])).fetchone()
                if row and row["here"] >= max(1, len(wanted) if wanted else row["known"]):
                    return
            async for _ in connection.notifies(timeout=0.5, stop_after=1):
                pass
