"""Readings in frames (at most 100 points or 50 ms), against PyMeasure's bare CSV loop: a Worker, each row flushed.

Flushed is not synced: PyMeasure's rows reach the page cache, our frames the disk. The design states it as an aim only;
the floor of these readings is in `frames_qcodes`.
"""

from bench.frame import Bench
from bench.ours import grid, points_per_s
from domain.scan import FrameLimits

name = "readings in frames, against a bare loop"
unit = "points/s"
floor, aim = None, 0.6
reference_name = "PyMeasure Worker + CSV, row flushed"
higher_is_better = True


async def reference(bench: Bench) -> float:
    folder = bench.new_folder("pymeasure")
    return (await bench.peer("pymeasure_csv", ("pymeasure",), bench.size(100, 40), folder))["value"]


async def ours(bench: Bench) -> float:
    return await points_per_s(bench, grid(bench.size(200, 60)), FrameLimits())
