"""Readings, each acknowledged before the next point, against Bluesky's RunEngine without any subscriber.

Bluesky keeps nothing here and ours makes each point durable, so the ratio is against its best case. The design states
it as an aim only; the floor of these readings is in `readings_acked`.
"""

from bench.frame import Bench
from bench.ours import grid, points_per_s
from domain.scan import FrameLimits

name = "readings, each acknowledged, grid of 4 channels"
unit = "points/s"
floor, aim = None, 8.0
reference_name = "Bluesky RunEngine, no subscriber"
higher_is_better = True


async def reference(bench: Bench) -> float:
    return (await bench.peer("bluesky_grid", ("bluesky",), bench.size(100, 30)))["value"]


async def ours(bench: Bench) -> float:
    return await points_per_s(bench, grid(bench.size(60, 30)), FrameLimits(points=1))
