"""Replay of the event stream into Postgres, against a bare pull + COPY loop over the same stream.

The bare loop knows its one event type and its one table; batches of 500 and of 2000, the better one counts. Reading
does not sync, so the server's mode does not matter; it is `always`, as everywhere.
"""

from bench.frame import Bench
from bench.load import EVENTS, History, bare_replay, fill

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
