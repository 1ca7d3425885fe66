"""Readings in frames (at most 100 points or 50 ms), against QCoDeS' dataset writer with its defaults.

QCoDeS writes every 5 s into SQLite; ours makes each frame durable. Server with `sync_interval: always`.
"""

from bench.frame import Bench

name = "readings in frames"
unit = "points/s"
floor, aim = 10.0, None
reference_name = "QCoDeS dataset writer"
higher_is_better = True


async def reference(bench: Bench) -> float:
    folder = bench.new_folder("qcodes")
    return (await bench.peer("qcodes_grid", ("qcodes",), bench.size(100, 40), folder))["value"]
