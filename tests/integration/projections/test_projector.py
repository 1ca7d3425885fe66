"""Read models: nothing twice, nothing lost, the same rows whenever they are made."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from bus import postgres, projector
from bus.postgres import Connection
from bus.projector import Projector, as_of, compare, live_generation, rebuild, wait_for
from bus.subscription import last_sequence, read_all
from labledger.embedded.postgres import Postgres
from projections import named, projections
from tests.integration.bus.place import Place
from tests.integration.projections.life import Life


@asynccontextmanager
async def projecting(place: Place, url: str, **options: Any) -> AsyncIterator[Projector]:
    running = Projector(await place.bus("projections"), url, projections(), **options)
    task = asyncio.create_task(running.run())
    try:
        yield running
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def lived(place: Place, seed: int = 1, orders: int = 60) -> Life:
    life = Life(await place.ledger("commands"), seed)
    await life.begin()
    await life.go_on(orders)
    return life


async def caught_up(place: Place, url: str) -> int:
    sequence = await last_sequence(await place.bus("projections"))
    async with asyncio.timeout(20):
        while True:
            try:
                await wait_for(url, sequence)
                async with await postgres.connect(url, "test") as connection:
                    found = await connection.execute("select count(*) as n from labledger.checkpoints")
                    row = await found.fetchone()
                    if row and row["n"] == len(projections()):
                        return sequence
            except psycopg.errors.UndefinedTable:
                pass
            await asyncio.sleep(0.05)


async def rows_of(connection: Connection, view: str) -> list[Any]:
    query: Any = f"select v::text as row from labledger.{view} v order by 1"
    return await (await connection.execute(query)).fetchall()


async def all_rows(url: str) -> dict[str, list[Any]]:
    async with await postgres.connect(url, "test") as connection:
        return {view.name: await rows_of(connection, view.name) for p in projections() for view in p.views}


async def equal_to_a_rebuild(place: Place, url: str) -> None:
    bus = await place.bus("projections")
    async with await postgres.connect(url, "test") as connection:
        for projection in projections():
            _, differences = await compare(bus, connection, projection)
            for difference in differences:
                assert difference.equal, difference


async def test_the_live_rows_equal_a_rebuild(place: Place, postgres_url: str) -> None:
    async with projecting(place, postgres_url):
        life = await lived(place)
        await life.go_on(40)
        await life.end()
        await caught_up(place, postgres_url)
        found = await all_rows(postgres_url)
        assert len(found["readings"]) >= 50
        assert found["reading_arrays"], "arrays by reference are in the history"
        await equal_to_a_rebuild(place, postgres_url)


async def test_a_difference_is_found_and_shown(place: Place, postgres_url: str) -> None:
    async with projecting(place, postgres_url):
        await lived(place)
        await caught_up(place, postgres_url)
        bus = await place.bus("projections")
        async with await postgres.connect(postgres_url, "test") as connection:
            live = await live_generation(connection, "samples")
            assert live is not None
            forge: Any = (
                f"update p_samples_v{live['generation']}.samples set material = 'gold'"
                " where sample_id = (select min(sample_id) from labledger.samples)"
            )
            await connection.execute(forge)
            _, (difference,) = await compare(bus, connection, named("samples"))
    assert (difference.only_live, difference.only_rebuilt) == (1, 1)
    assert {example["side"] for example in difference.examples} == {"live", "rebuilt"}


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_it_does_not_matter_where_batches_end(place: Place, postgres_url: str, seed: int) -> None:
    await lived(place, seed)
    bus = await place.bus("projections")
    history = [stored async for batch in read_all(bus) for stored in batch]
    chance = random.Random(seed)
    async with await postgres.connect(postgres_url, "test") as connection:
        for projection in projections():
            ours = [stored for stored in history if stored.kind in projection.kinds]
            rows: list[Any] = []
            for way in ("one by one", "all at once", "at random"):
                schema = f"try_{projection.name}_{len(rows)}"
                await projector.create_tables(connection, projection, schema)
                left = list(ours)
                while left:
                    count = {"one by one": 1, "all at once": len(left)}.get(way) or chance.randrange(1, 9)
                    async with connection.transaction():
                        await projection.apply(connection, schema, left[:count])
                    left = left[count:]
                shown = {}
                for table in projection.tables:
                    query: Any = f"select t::text as row from {schema}.{table.name} t order by 1"
                    shown[table.name] = await (await connection.execute(query)).fetchall()
                rows.append(shown)
            assert rows[0] == rows[1] == rows[2], projection.name


async def test_two_projectors_write_nothing_twice(place: Place, postgres_url: str) -> None:
    async with projecting(place, postgres_url, batch_events=7), projecting(place, postgres_url, batch_events=3):
        await lived(place)
        await caught_up(place, postgres_url)
        await equal_to_a_rebuild(place, postgres_url)


async def test_the_second_projector_takes_over_when_the_first_goes(place: Place, postgres_url: str) -> None:
    async with projecting(place, postgres_url):
        async with projecting(place, postgres_url):
            life = await lived(place, orders=20)
            await caught_up(place, postgres_url)
        await life.go_on(20)
        await caught_up(place, postgres_url)
        await equal_to_a_rebuild(place, postgres_url)


async def test_a_writer_whose_checkpoint_was_moved_writes_nothing(place: Place, postgres_url: str) -> None:
    await lived(place, orders=20)
    bus = await place.bus("projections")
    projection = named("samples")
    batches = [batch async for batch in read_all(bus, subjects=projection.subjects)]
    async with (
        await postgres.connect(postgres_url, "one") as one,
        await postgres.connect(postgres_url, "two") as two,
    ):
        await projector.prepare(one)
        first = await projector.new_generation(one, projection, live=True)
        second = projector._Writer(two, projection, first.generation, 0)
        await first.write(batches[0])
        before = await rows_of(one, "samples")
        with pytest.raises(projector.AnotherWriter):
            await second.write(batches[0])
        assert await rows_of(one, "samples") == before


@pytest.mark.faults
async def test_postgres_is_killed_in_the_middle(place: Place, make_postgres: Callable[..., Postgres]) -> None:
    server = make_postgres()
    await lived(place, orders=150)
    async with projecting(place, server.url, batch_events=5):
        await asyncio.sleep(0.4)
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.start)
        await caught_up(place, server.url)
        await equal_to_a_rebuild(place, server.url)


@pytest.mark.faults
async def test_nats_is_killed_in_the_middle(place: Place, postgres_url: str) -> None:
    await lived(place, orders=100)
    async with projecting(place, postgres_url, batch_events=5):
        await asyncio.sleep(0.2)
        await place.restart()
        await caught_up(place, postgres_url)
        await equal_to_a_rebuild(place, postgres_url)


async def test_an_event_that_cannot_be_digested_stops_its_projection_and_no_other(
    place: Place, postgres_url: str
) -> None:
    async with projecting(place, postgres_url):
        life = await lived(place, orders=10)
        await caught_up(place, postgres_url)
        commands = await place.bus("commands")
        headers = {"ce-type": "sample.from_the_future.v1", "ce-time": "2026-11-20T12:00:00Z", "ce-id": "x"}
        await commands.publish("evt.sample.unknown", b"{}", headers)
        # One that shares its pull loop with another, too.
        await commands.publish("evt.scan.unknown", b"{}", headers | {"ce-type": "scan.from_the_future.v1"})
        await life.go_on(20)
        sequence = await last_sequence(commands)
        await wait_for(postgres_url, sequence, [p.name for p in projections() if p.name not in ("samples", "scans")])
        async with await postgres.connect(postgres_url, "test") as connection, asyncio.timeout(10):
            while True:
                found = await connection.execute("select * from labledger.projections where name = 'samples'")
                row = await found.fetchone()
                assert row is not None
                if row["state"] == "stopped":
                    break
                await asyncio.sleep(0.05)
    assert "sample.from_the_future.v1" in row["reason"]
    assert row["sequence"] < sequence, "nothing behind it was applied"


async def test_a_reader_never_goes_back_in_time_while_views_switch(place: Place, postgres_url: str) -> None:
    async with projecting(place, postgres_url):
        life = await lived(place, orders=30)
        await caught_up(place, postgres_url)
        bus = await place.bus("projections")
        seen: list[int] = []
        done = asyncio.Event()

        async def read() -> None:
            async with await postgres.connect(postgres_url, "reader") as connection:
                while not done.is_set():
                    row = await (await connection.execute("select count(*) as n from labledger.queue_log")).fetchone()
                    assert row is not None
                    seen.append(row["n"])
                    await asyncio.sleep(0.002)

        reader = asyncio.create_task(read())
        async with await postgres.connect(postgres_url, "rebuild") as connection:
            for _ in range(3):
                order = asyncio.create_task(life.go_on(10))
                await rebuild(bus, connection, named("queues"))
                await order
        await caught_up(place, postgres_url)
        done.set()
        await reader
        assert seen == sorted(seen)
        await equal_to_a_rebuild(place, postgres_url)


async def test_a_rebuild_that_was_cut_off_goes_on(place: Place, postgres_url: str) -> None:
    await lived(place, orders=60)
    bus = await place.bus("projections")
    projection = named("queues")
    async with await postgres.connect(postgres_url, "test") as connection:
        await projector.prepare(connection)
        live = await projector.new_generation(connection, projection, live=True)
        await projector._fill(bus, live, await last_sequence(bus))
        before = await rows_of(connection, "queue_log")
        half = await projector.new_generation(connection, projection, live=False)
        await projector._fill(bus, half, 40)
        generation, _ = await rebuild(bus, connection, projection)
        assert generation == half.generation
        assert await rows_of(connection, "queue_log") == before
        left = await connection.execute("select nspname from pg_namespace where nspname like 'p\\_queues%'")
        assert [row["nspname"] for row in await left.fetchall()] == [f"p_queues_v{generation}"]


async def test_another_version_of_the_code_is_built_beside_the_live_one(
    place: Place, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with projecting(place, postgres_url):
        await lived(place, orders=20)
        await caught_up(place, postgres_url)
    monkeypatch.setattr(named("samples"), "version", 2)
    async with projecting(place, postgres_url):
        async with asyncio.timeout(10):
            async with await postgres.connect(postgres_url, "test") as connection:
                while (await live_generation(connection, "samples") or {}).get("version") != 2:
                    await asyncio.sleep(0.05)
        await equal_to_a_rebuild(place, postgres_url)


async def test_a_view_as_of_a_sequence_is_what_was_seen_then(place: Place, postgres_url: str) -> None:
    bus = await place.bus("projections")
    async with projecting(place, postgres_url):
        life = await lived(place, orders=30)
        then = await caught_up(place, postgres_url)
        async with await postgres.connect(postgres_url, "test") as connection:
            seen = {
                name: await (await connection.execute(f"select * from labledger.{name} order by 1, 2")).fetchall()
                for name in ("samples", "jobs", "scans")
            }
            await life.go_on(30)
            await caught_up(place, postgres_url)
            for name, rows in seen.items():
                again = await as_of(bus, connection, named(name), name, then)
                assert sorted(map(str, again)) == sorted(map(str, rows))
            left = await connection.execute("select count(*) as n from pg_namespace where nspname like 'scratch%'")
            assert (await left.fetchone() or {})["n"] == 0


async def test_what_was_written_can_be_read_after_wait_for(place: Place, postgres_url: str) -> None:
    async with projecting(place, postgres_url):
        life = await lived(place, orders=5)
        await caught_up(place, postgres_url)
        async with await postgres.connect(postgres_url, "test") as connection:
            for _ in range(10):
                await life._job()
                await wait_for(postgres_url, await last_sequence(await place.bus("projections")))
                row = await (await connection.execute("select count(*) as n from labledger.jobs")).fetchone()
                state = (await (await place.ledger("commands")).load("queue", "main")).state
                assert row is not None
                assert row["n"] >= len(state.waiting) + len(state.running)


async def test_waiting_for_what_never_comes_ends(place: Place, postgres_url: str) -> None:
    async with projecting(place, postgres_url):
        await lived(place, orders=3)
        sequence = await caught_up(place, postgres_url)
        with pytest.raises(TimeoutError):
            await wait_for(postgres_url, sequence + 1000, timeout_s=0.5)


async def test_readers_read_the_views_and_nothing_else(
    place: Place, postgres_url: str, postgres_readonly_url: str
) -> None:
    async with projecting(place, postgres_url):
        await lived(place, orders=20)
        await caught_up(place, postgres_url)
        async with await postgres.connect(postgres_readonly_url, "reader") as connection:
            for projection in projections():
                for view in projection.views:
                    query: Any = f"select * from labledger.{view.name} limit 1"
                    await connection.execute(query)
            for forbidden in (
                "select * from p_samples_v1.samples",
                "select * from labledger_meta.generations",
                "create table labledger.mine (x int)",
                "drop view labledger.samples",
                "update labledger.samples set material = 'gold'",
            ):
                with pytest.raises(psycopg.Error):
                    await connection.execute(forbidden)  # type: ignore[arg-type]


async def test_numbers_texts_and_holes_are_what_was_measured(place: Place, postgres_url: str) -> None:
    async with projecting(place, postgres_url):
        await lived(place, orders=40)
        await caught_up(place, postgres_url)
        bus = await place.bus("projections")
        async with await postgres.connect(postgres_url, "test") as connection:
            found = await connection.execute("select scan_id::text as id from labledger.readings limit 1")
            scan_id = (await found.fetchone() or {})["id"]
            expected: dict[int, Any] = {}
            async for batch in read_all(bus, subjects=[f"evt.readings.{scan_id}"]):
                for stored in batch:
                    if stored.type.startswith("readings.recorded"):
                        event: Any = stored.event
                        for n in range(len(event.time)):
                            expected[event.first_point + n] = [column[n] for column in event.values]
            found = await connection.execute(
                "select point, values, texts from labledger.readings where scan_id = %s order by point", [scan_id]
            )
            rows = await found.fetchall()
            assert [row["point"] for row in rows] == sorted(expected)
            for row in rows:
                x, voltage, range_ = expected[row["point"]]
                assert row["values"][0] == x
                assert row["values"][1] == voltage or (voltage is None and row["values"][1] != row["values"][1])
                assert row["texts"] == {"meter.range": range_}
            named_ones = await connection.execute(
                "select distinct name, unit from labledger.reading_values where scan_id = %s order by 1", [scan_id]
            )
            assert [(r["name"], r["unit"]) for r in await named_ones.fetchall()] == [
                ("meter.voltage", "V"),
                ("stage.x", "mm"),
            ]


def test_every_column_is_documented() -> None:
    for projection in projections():
        for table in projection.tables:
            assert all(column.doc for column in table.columns)
        assert all(view.doc and view.columns for view in projection.views)
