"""Readings of trivial instruments, each acknowledged before the next point, against raw `js.publish` of 200 bytes.

Server modes as in `command_durable`: judged with `sync_interval: always`, told with the default.
"""

from bench.frame import Bench
from bench.ours import line, points_per_s
from bench.rows.command_durable import reference
from domain.scan import FrameLimits

__all__ = ["ours", "reference"]

name = "readings, each acknowledged"
unit = "points/s"
floor, aim = 0.6, 0.85
reference_name = "raw js.publish, 200 B"
higher_is_better = True
syncs = ("always", "default")


async def ours(bench: Bench) -> float:
    count = bench.size(1500 if bench.sync == "always" else 6000, 300)
    return await points_per_s(bench, line(count), FrameLimits(points=1))
