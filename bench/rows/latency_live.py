"""From a point measured to a live subscriber, 99th percentile. Judged by itself: 100 ms must be, 20 ms should be.

The reference is the wire alone: a raw publish into a stream, 200 points a second, to a core subscriber on another
connection of the same process.
"""

from bench.frame import Bench
from bench.load import live_latencies

name = "point measured -> live subscriber, p99"
unit = "ms"
floor, aim = 100.0, 20.0
absolute = True
reference_name = "raw publish -> core subscriber"
higher_is_better = False

INTERVAL_S = 0.005


async def reference(bench: Bench) -> float:
    server = await bench.nats()
    nc = await bench.once("reference", server.connect, lambda nc: nc.close())
    watcher = await bench.once("watcher", server.connect, lambda nc: nc.close())
    found = await live_latencies(nc, watcher, bench.size(600, 200), INTERVAL_S)
    bench.note("reference_p50_ms", round(found.quantile(0.5), 3))
    return found.quantile(0.99)
