"""Replay of the event stream into Postgres, against a bare pull + COPY loop over the same stream.

The bare loop knows its one event type and its one table; batches of 500 and of 2000, the better one counts. Reading
does not sync, so the server's mode does not matter; it is `always`, as everywhere.
"""

import asyncio
import time
from contextlib import suppress

import psycopg

from bench.frame import Bench
from bench.load import EVENTS, History, bare_replay, fill
from bus import postgres as database
from bus.connection import connect
from bus.projector import Projector
from projections import projections

name = "replay of EVT into Postgres"
unit = "events/s"
floor, aim = 0.5, 0.8
reference_name = "bare pull + COPY, best of 500 and 2000"
higher_is_better = True

#: What is replayed, by both sides.
HISTORY: History = EVENTS
BATCHES = (500, 2000)


def count(bench: Bench) -> int:
    """How many events; a multiple of every batch."""
    return bench.size(60_000, 10_000)


async def filled(bench: Bench) -> None:
    """The history is in the row's server, once for all repetitions of both sides.

    It is written with the server's default sync, then the server is restarted with its own mode: otherwise filling
    would take longer than all that is measured.
    """
    server = await bench.nats()

    async def make() -> bool:
        mode = server.sync
        server.restart("default")
        nc = await server.connect()
        await fill(nc, HISTORY, count(bench))
        await nc.close()
        server.restart(mode)
        return True

    await bench.once("history", make)


async def reference(bench: Bench) -> float:
    await filled(bench)
    server, postgres = await bench.nats(), await bench.postgres()
    nc = await bench.once("reference", server.connect, lambda nc: nc.close())
    rates = {batch: await bare_replay(nc, postgres.uri, HISTORY, count(bench), batch) for batch in BATCHES}
    bench.note("by_batch", {str(batch): round(rate) for batch, rate in rates.items()})
    return max(rates.values())


async def ours(bench: Bench) -> float:
    """All projections, until the last has caught up, into an empty database."""
    await filled(bench)
    server, postgres = await bench.nats(), await bench.postgres()
    bus = await bench.once("bus", lambda: connect(server.url, "bench"), lambda bus: bus.close())
    async with await database.connect(postgres.uri, "bench") as connection:
        await connection.execute(
            "drop schema if exists labledger cascade; drop schema if exists labledger_meta cascade"
        )
        for projection in projections():
            await connection.execute(f"drop schema if exists p_{projection.name}_v1 cascade")
    began = time.perf_counter()
    running = asyncio.create_task(Projector(bus, postgres.uri, projections(), batch_events=2000).run())
    try:
        async with await database.connect(postgres.uri, "bench watch") as connection, asyncio.timeout(120):
            while True:
                await asyncio.sleep(0.01)
                with suppress(psycopg.errors.UndefinedTable):
                    found = await connection.execute(
                        "select count(*) as n from labledger.checkpoints where sequence >= %s", [count(bench)]
                    )
                    row = await found.fetchone()
                    if row and row["n"] == len(projections()):
                        break
            took_s = time.perf_counter() - began
            row = await (await connection.execute("select count(*) as n from labledger.readings")).fetchone()
            if row is None or row["n"] != count(bench):
                raise RuntimeError(f"{row} rows of {count(bench)}")
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    return count(bench) / took_s
