"""Readings in frames (at most 100 points or 50 ms), against QCoDeS' dataset writer with its defaults.

QCoDeS writes every 5 s into SQLite; ours makes each frame durable. Server with `sync_interval: always`.
"""

from bench.frame import Bench
from bench.ours import grid, points_per_s
from domain.scan import FrameLimits

name = "readings in frames"
unit = "points/s"
floor, aim = 10.0, None
reference_name = "QCoDeS dataset writer"
higher_is_better = True


async def reference(bench: Bench) -> float:
    folder = bench.new_folder("qcodes")
    return (await bench.peer("qcodes_grid", ("qcodes",), bench.size(100, 40), folder))["value"]


async def ours(bench: Bench) -> float:
    return await points_per_s(bench, grid(bench.size(200, 60)), FrameLimits())
