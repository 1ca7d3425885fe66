"""Time of a scan whose instrument takes 10 ms a reading, against a `for` loop over the same instruments.

The ratio is the overhead: 1.02 is 2 %. The loop itself takes a little more than points x 10 ms, because a sleep
overshoots; the note `expected_s` has the bare product.
"""

from bench.frame import Bench
from bench.instruments import CHANNELS, Axis, Meter, OneThread, trivial_loop_s
from bench.ours import scan
from domain.plan import Plan
from domain.scan import FrameLimits

name = "scan at 10 ms instrument delay"
unit = "s"
floor, aim = 1.05, 1.02
reference_name = "a for loop over the same instruments"
higher_is_better = False

DELAY_S = 0.010


def points(bench: Bench) -> int:
    return bench.size(300, 60)


def reference(bench: Bench) -> float:
    bench.note("expected_s", points(bench) * DELAY_S)
    return trivial_loop_s(points(bench), DELAY_S)


async def ours(bench: Bench) -> float:
    rack = await bench.once("slow rack", _slow_rack)
    plan = Plan.model_validate(
        {
            "nodes": [
                {
                    "kind": "move",
                    "instrument": "axis",
                    "channel": "at",
                    "positions": {"kind": "linear", "start": 0, "stop": 1, "num": points(bench)},
                    "children": [{"kind": "measure", "instrument": "meter", "channels": list(CHANNELS)}],
                }
            ]
        }
    )
    return (await scan(bench, plan, FrameLimits(), rack)).took_s


async def _slow_rack() -> OneThread:
    return OneThread({"axis": Axis(), "meter": Meter(DELAY_S)})
