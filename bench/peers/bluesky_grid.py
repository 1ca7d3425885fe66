"""Points per second of Bluesky's RunEngine on a grid: two soft axes, one detector of 4 channels, zero delay.

No subscriber writes the data: this is the engine alone, its best case. The one callback looks at the `stop` document
only, to see that every point was made. The devices do no more than the protocols ask (ophyd's own are slower).

    bluesky_grid.py SIDE      prints {"value": points/s, ...} for a grid of SIDE x SIDE
"""

import json
import sys
import time
from typing import Any

import bluesky
from bluesky import RunEngine
from bluesky.plans import grid_scan

CHANNELS = 4


class Done:
    """A status that was done before anybody asked."""

    done = True
    success = True

    def add_callback(self, callback: Any) -> None:
        callback(self)

    def exception(self, timeout: float | None = 0.0) -> None:
        return None


class Readable:
    parent = None

    def __init__(self, name: str) -> None:
        self.name = name

    def read_configuration(self) -> dict[str, Any]:
        return {}

    def describe_configuration(self) -> dict[str, Any]:
        return {}


class Axis(Readable):
    at = 0.0

    def set(self, value: float) -> Done:
        self.at = value
        return Done()

    def read(self) -> dict[str, Any]:
        return {self.name: {"value": self.at, "timestamp": time.time()}}

    def describe(self) -> dict[str, Any]:
        return {self.name: {"source": "soft", "dtype": "number", "shape": []}}

    @property
    def hints(self) -> dict[str, Any]:
        return {"fields": [self.name]}

    @property
    def position(self) -> float:
        return self.at


class Meter(Readable):
    def trigger(self) -> Done:
        return Done()

    def read(self) -> dict[str, Any]:
        now = time.time()
        return {f"ch{k}": {"value": k * 0.123, "timestamp": now} for k in range(CHANNELS)}

    def describe(self) -> dict[str, Any]:
        return {f"ch{k}": {"source": "soft", "dtype": "number", "shape": []} for k in range(CHANNELS)}


def main(side: int) -> None:
    engine = RunEngine({})
    ends: list[dict[str, Any]] = []
    engine.subscribe(lambda _name, document: ends.append(document), "stop")
    x, y, meter = Axis("x"), Axis("y"), Meter("meter")
    started = time.perf_counter()
    engine(grid_scan([meter], y, 0.0, 1.0, side, x, 0.0, 1.0, side, False))
    took_s = time.perf_counter() - started
    if [(e["exit_status"], e["num_events"]) for e in ends] != [("success", {"primary": side * side})]:
        raise SystemExit(f"the run did not make its {side * side} points: {ends}")
    print(json.dumps({"value": side * side / took_s, "version": bluesky.__version__, "points": side * side}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
