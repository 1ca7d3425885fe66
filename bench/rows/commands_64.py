"""Commands per second on 64 aggregates at once, against the Postgres recorder of `eventsourcing`.

The reference is `Application.save` of one event, the better of one thread and eight, in a process of its own on the
run's Postgres with its defaults (a commit is synced); so ours is judged with `sync_interval: always`, which promises
the same, and told with the server's default.
"""

import json

from bench.frame import Bench

name = "commands, 64 aggregates at once"
unit = "commands/s"
floor, aim = 10.0, 15.0
reference_name = "eventsourcing Postgres recorder"
higher_is_better = True
syncs = ("always", "default")


async def reference(bench: Bench) -> float:
    postgres = await bench.postgres()
    needs = ("eventsourcing", "psycopg", "psycopg_pool")
    count = bench.size(800, 200)
    found = await bench.peer("eventsourcing_postgres", needs, count, 8, stdin=json.dumps(postgres.parts()))
    return found["value"]
