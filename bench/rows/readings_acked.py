"""Readings of trivial instruments, each acknowledged before the next point, against raw `js.publish` of 200 bytes.

Server modes as in `command_durable`: judged with `sync_interval: always`, told with the default.
"""

from bench.rows.command_durable import reference

__all__ = ["reference"]

name = "readings, each acknowledged"
unit = "points/s"
floor, aim = 0.6, 0.85
reference_name = "raw js.publish, 200 B"
higher_is_better = True
syncs = ("always", "default")
