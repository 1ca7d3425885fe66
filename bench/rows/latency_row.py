"""From a point measured to its committed row, 99th percentile. Judged by itself: 500 ms must be, 100 ms should be.

The reference is the least there is: a raw publish into a stream, 200 points a second, one open pull, and a COPY with
its commit for whatever has come.
"""

import asyncio
import time

import psycopg

from bench.frame import Bench
from bench.lab import kept_lab, quantile, run_scan
from bench.load import row_latencies

name = "point measured -> its row, p99"
unit = "ms"
floor, aim = 500.0, 100.0
absolute = True
reference_name = "raw publish -> pull + COPY + commit"
higher_is_better = False

INTERVAL_S = 0.005


async def reference(bench: Bench) -> float:
    server, postgres = await bench.nats(), await bench.postgres()
    nc = await bench.once("reference", server.connect, lambda nc: nc.close())
    reader = await bench.once("reader", server.connect, lambda nc: nc.close())
    found = await row_latencies(nc, reader, postgres.uri, bench.size(600, 200), INTERVAL_S)
    bench.note("reference_p50_ms", round(found.quantile(0.5), 3))
    return found.quantile(0.99)


async def ours(bench: Bench) -> float:
    """A scan of a whole lab; from the time stamp of each point to a reader who looks at the view every 2 ms."""
    real = await kept_lab(bench)
    scan_id = await run_scan(real.lab, bench.size(600, 200))
    seen: list[float] = []
    last = -1
    assert real.lab.postgres_url is not None
    query = "select point, extract(epoch from measured_at)::float8 from labledger.readings where scan_id = %s and point > %s"
    async with await psycopg.AsyncConnection.connect(real.lab.postgres_url, autocommit=True) as reader:
        while len(seen) < bench.size(600, 200):
            rows = await (await reader.execute(query, [scan_id, last])).fetchall()
            now = time.time()
            for point, measured in rows:
                seen.append(1e3 * (now - measured))
                last = max(last, point)
            await asyncio.sleep(0.002)
    bench.note("ours_p50_ms", round(quantile(seen, 0.5), 3))
    return quantile(seen, 0.99)
