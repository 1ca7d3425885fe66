"""From a point measured to a live subscriber, 99th percentile. Judged by itself: 100 ms must be, 20 ms should be.

The reference is the wire alone: a raw publish into a stream, 200 points a second, to a core subscriber on another
connection of the same process.
"""

from bench.frame import Bench
from bench.lab import kept_lab, listening, quantile, run_scan
from bench.load import live_latencies
from bus.ids import uuid7

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


async def ours(bench: Bench) -> float:
    """A scan of a whole lab, one reading a frame; from the time stamp of the reading to a dashboard's ear."""
    lab = (await kept_lab(bench)).lab
    scan_id = uuid7()
    async with listening(lab, scan_id) as heard:
        await run_scan(lab, bench.size(600, 200), scan_id=scan_id, frame={"points": 1})
        await lab.scans.wait(scan_id, timeout_s=60)
    found = heard.latencies_ms()
    bench.note("ours_p50_ms", round(quantile(found, 0.5), 3))
    return quantile(found, 0.99)
