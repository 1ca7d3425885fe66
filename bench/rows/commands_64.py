"""Commands per second on 64 aggregates at once, against the Postgres recorder of `eventsourcing`.

The reference is `Application.save` of one event, the better of one thread and eight, in a process of its own on the
run's Postgres with its defaults (a commit is synced); so ours is judged with `sync_interval: always`, which promises
the same, and told with the server's default. The notes have what the server itself can do here for 64 writers, event
by event (`raw_64_tasks`) and in atomic batches of 64 (`raw_batches_of_64`): where the first is below the floor, only
committing commands as a group can meet it.
"""

import asyncio
import json
import time

from bench.frame import Bench
from bench.load import publish_at_once, publish_in_batches
from bench.ours import describe, ledger_of, register

name = "commands, 64 aggregates at once"
unit = "commands/s"
floor, aim = 10.0, 15.0
reference_name = "eventsourcing Postgres recorder"
higher_is_better = True
syncs = ("always", "default")


async def ceilings(bench: Bench) -> None:
    async def measure() -> dict[str, int]:
        nc = await (await bench.nats()).connect()
        count = bench.size(3200, 640)
        found = {
            "raw_64_tasks": round(await publish_at_once(nc, count)),
            "raw_batches_of_64": round(await publish_in_batches(nc, count)),
        }
        await nc.close()
        return found

    for key, rate in (await bench.once("ceilings", measure)).items():
        bench.note(key, rate)


async def reference(bench: Bench) -> float:
    await ceilings(bench)
    postgres = await bench.postgres()
    needs = ("eventsourcing", "psycopg", "psycopg_pool")
    count = bench.size(800, 200)
    found = await bench.peer("eventsourcing_postgres", needs, count, 8, stdin=json.dumps(postgres.parts()))
    return found["value"]


async def ours(bench: Bench) -> float:
    ledger = await ledger_of(bench)
    samples = await asyncio.gather(*(register(ledger) for _ in range(64)))
    each = bench.size(150, 40)
    began = time.perf_counter()
    await asyncio.gather(*(describe(ledger, sample, each) for sample in samples))
    return 64 * each / (time.perf_counter() - began)
