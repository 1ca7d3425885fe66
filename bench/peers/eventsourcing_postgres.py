"""Saves per second of the `eventsourcing` package with its Postgres recorder: `Application.save` of one event each.

One aggregate in one thread, and 64 aggregates taken in turn by THREADS threads: the recorder locks the events table
for each insert, so threads gain it little; both are told, `value` is the better one.

    eventsourcing_postgres.py COUNT THREADS < {"host": ..., "port": ..., "user": ..., "password": ..., "dbname": ...}
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import psycopg
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

VALUES = {f"ch{k}": k * 0.123 for k in range(8)}
AGGREGATES = 64


class Scan(Aggregate):
    @event("Started")
    def __init__(self, sample: str) -> None:
        self.sample = sample
        self.points = 0

    @event("PointRecorded")
    def record(self, values: dict[str, float]) -> None:
        self.points += 1


def main(count: int, threads: int, server: dict[str, str]) -> None:
    app = Application(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_HOST": server["host"],
            "POSTGRES_PORT": str(server["port"]),
            "POSTGRES_USER": server["user"],
            "POSTGRES_PASSWORD": server["password"],
            "POSTGRES_DBNAME": server["dbname"],
            "POSTGRES_POOL_SIZE": str(threads + 1),
        }
    )
    scans = [Scan("s") for _ in range(AGGREGATES)]
    app.save(*scans)
    before = app.recorder.max_notification_id() or 0

    started = time.perf_counter()
    for _ in range(count):
        scans[0].record(VALUES)
        app.save(scans[0])
    one_thread = count / (time.perf_counter() - started)

    def work(mine: list[Scan], saves: int) -> None:
        for k in range(saves):
            scan = mine[k % len(mine)]
            scan.record(VALUES)
            app.save(scan)

    share = count // threads
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        futures = [pool.submit(work, scans[t::threads], share) for t in range(threads)]
        for future in futures:
            future.result()
        many_threads = share * threads / (time.perf_counter() - started)
    stored = (app.recorder.max_notification_id() or 0) - before
    app.close()
    if stored != count + share * threads:
        raise SystemExit(f"{stored} events were stored of {count + share * threads}")
    result = {
        "value": max(one_thread, many_threads),
        "one_thread": one_thread,
        "threads": many_threads,
        "thread_count": threads,
        "version": version("eventsourcing"),
        "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__})",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), json.load(sys.stdin))
