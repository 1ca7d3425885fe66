"""From a point measured to its committed row, 99th percentile. Judged by itself: 500 ms must be, 100 ms should be.

The reference is the least there is: a raw publish into a stream, 200 points a second, one open pull, and a COPY with
its commit for whatever has come.
"""

from bench.frame import Bench
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
