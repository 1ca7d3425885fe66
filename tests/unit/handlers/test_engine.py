"""The engine without a bus: what it writes to instruments and hands to its recorder, and where it stops."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from domain.errors import Gone, LeaseLost
from domain.plan import Plan
from domain.ports import Channel, Value
from domain.readings import branch_columns
from domain.scan import FrameLimits
from handlers.engine import FRAME_VALUES, Control, Engine, Result


class Bench:
    """An instrument with an axis `x` and readings `a` (what x is) and `array`. Notes every write."""

    def __init__(self) -> None:
        self.writes: list[float] = []
        self.x = 0.0
        self.before_write: Callable[[float], None] = lambda _: None
        self.before_read: Callable[[int], None] = lambda _: None
        self.reads = 0
        self.settle_s = 0.0
        self._settled_at = 0.0

    def describe(self) -> Mapping[str, Channel]:
        array = Channel(kind="r", type="array", shape=(3,))
        wide = {f"c{n}": Channel(kind="r") for n in range(40)}
        return {"x": Channel(kind="rw", unit="mm"), "a": Channel(kind="r"), "array": array} | wide

    def write(self, name: str, value: Value) -> Value:
        self.before_write(value)
        self.writes.append(value)
        self.x = value
        self._settled_at = time.monotonic() + self.settle_s
        return value

    def settled(self, name: str) -> bool:
        return time.monotonic() >= self._settled_at

    def read(self, names: Sequence[str]) -> dict[str, Value]:
        self.before_read(self.reads)
        self.reads += 1
        values: dict[str, Value] = {"x": self.x, "a": self.x, "array": np.full(3, self.x)}
        return {name: values.get(name, 0.0) for name in names} | {"time": time.time()}


class Frames:
    """A recorder that keeps the frames in a list. `refuse` may raise before one is kept."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, int, list[list[Any]], dict[str, list[Any]], bool]] = []
        self.refuse: Callable[[int], None] = lambda _: None
        self.idles = self.drained = 0

    def record(
        self,
        branch: int,
        first_point: int,
        times: list[float],
        columns: list[list[Any]],
        arrays: dict[str, list[Any]],
        *,
        wait: bool,
    ) -> None:
        self.refuse(first_point)
        assert all(len(column) == len(times) for column in [*columns, *arrays.values()])
        self.frames.append((branch, first_point, [list(c) for c in columns], arrays, wait))

    def drain(self) -> None:
        self.drained += 1

    def idle(self) -> None:
        self.idles += 1

    @property
    def sizes(self) -> list[int]:
        return [len(columns[0]) for _, _, columns, _, _ in self.frames]

    @property
    def points(self) -> list[int]:
        return [first + n for _, first, columns, _, _ in self.frames for n in range(len(columns[0]))]


def line(num: int, *channels: str, settle_s: float = 0.0, axis: str = "x") -> dict[str, Any]:
    measure = {"kind": "measure", "instrument": "b", "channels": list(channels or ("a",)), "settle_s": settle_s}
    positions = {"kind": "linear", "start": 0, "stop": max(num - 1, 1), "num": num}
    return {"kind": "move", "instrument": "b", "channel": axis, "positions": positions, "children": [measure]}


class Run:
    def __init__(self, *nodes: dict[str, Any], points: int = 100, ms: int = 1000) -> None:
        self.plan = Plan.model_validate({"nodes": list(nodes)})
        self.bench = Bench()
        self.frames = Frames()
        self.control = Control()
        self.waited = 0
        self.trust: Callable[[], None] = lambda: None
        columns = branch_columns(self.plan, {"b": self.bench.describe()})
        self.engine = Engine(self.plan, columns, FrameLimits(points=points, ms=ms), self.control, self._wait)

    def _wait(self) -> None:
        self.waited += 1
        self.trust()

    def run(self, start: int = 0) -> Result:
        return self.engine.run({"b": self.bench}, start, self.frames)  # type: ignore[dict-item]


def test_every_point_is_measured_and_recorded_once_in_order() -> None:
    run = Run(line(250), points=100)
    assert run.run() == Result("completed", 250)
    assert run.bench.writes == [float(n) for n in range(250)]
    assert run.frames.points == list(range(250)) and run.frames.sizes == [100, 100, 50]
    assert [v for _, _, columns, _, _ in run.frames.frames for v in columns[1]] == [float(n) for n in range(250)]
    assert run.frames.drained == 1


def test_it_begins_in_the_middle_with_the_whole_path() -> None:
    run = Run(line(10))
    assert run.run(start=7) == Result("completed", 10)
    assert run.bench.writes == [7.0, 8.0, 9.0] and run.frames.points == [7, 8, 9]
    assert Run(line(10)).run(start=10) == Result("completed", 10)


def test_a_frame_ends_with_its_branch() -> None:
    run = Run(line(3), line(4, "a", "x"), points=100)
    assert run.run().ended == "completed"
    assert [(branch, first) for branch, first, *_ in run.frames.frames] == [(0, 0), (1, 3)]
    assert run.frames.sizes == [3, 4]


def test_one_reading_at_a_time_is_waited_for_and_frames_are_not() -> None:
    single, framed = Run(line(5), points=1), Run(line(5), points=2)
    single.run()
    framed.run()
    assert single.frames.sizes == [1] * 5 and all(frame[4] for frame in single.frames.frames)
    assert framed.frames.sizes == [2, 2, 1] and not any(frame[4] for frame in framed.frames.frames)


def test_a_frame_is_sent_when_its_time_is_up() -> None:
    run = Run(line(20, settle_s=0.01), points=1000, ms=50)
    run.run()
    assert sum(run.frames.sizes) == 20 and 4 <= len(run.frames.sizes) <= 10


def test_a_wide_frame_has_fewer_points() -> None:
    channels = [f"c{n}" for n in range(40)]
    run = Run(line(500, *channels), points=1000)
    run.run()
    assert max(run.frames.sizes) == FRAME_VALUES // 41


def test_arrays_go_apart_from_the_columns() -> None:
    run = Run(line(2, "array", "a"))
    run.run()
    ((_, _, columns, arrays, _),) = run.frames.frames
    assert columns == [[0.0, 1.0], [0.0, 1.0]]
    assert [list(array) for array in arrays["b.array"]] == [[0.0] * 3, [1.0] * 3]


def test_a_stop_takes_effect_before_the_next_point_and_what_was_measured_is_recorded() -> None:
    run = Run(line(100), points=100)

    def pause(n: int) -> None:
        if n == 6:
            run.control.stop = "pause"

    run.bench.before_read = pause
    assert run.run() == Result("stopped", 7)
    assert run.frames.points == list(range(7)) and run.bench.writes[-1] == 6.0
    assert run.frames.drained == 1


@pytest.mark.parametrize("where", ["while the axis settles", "before the reading"])
def test_an_urgent_stop_does_not_wait_and_records_nothing_unsettled(where: str) -> None:
    run = Run(line(5, settle_s=60.0 if where == "before the reading" else 0.0))
    run.bench.settle_s = 60.0 if where == "while the axis settles" else 0.0

    def abort() -> None:
        run.control.stop, run.control.urgent = "abort", True

    threading.Timer(0.15, abort).start()
    began = time.monotonic()
    assert run.run() == Result("stopped", 0)
    assert time.monotonic() - began < 30
    assert run.bench.reads == 0 and run.frames.points == []


def test_a_failure_keeps_what_was_measured_before_it() -> None:
    run = Run(line(100), points=100)

    def fail(n: int) -> None:
        if n == 4:
            raise Gone("unplugged")

    run.bench.before_read = fail
    result = run.run()
    assert (result.ended, result.next_point, str(result.error)) == ("failed", 4, "unplugged")
    assert run.frames.points == [0, 1, 2, 3]


def test_a_lease_that_is_not_confirmed_in_time_makes_it_wait_and_repeat_the_point() -> None:
    run = Run(line(10), points=100)
    refused = [3.0, 7.0]

    def guard(value: float) -> None:
        if value in refused:
            refused.remove(value)
            raise LeaseLost("not confirmed in time")

    run.bench.before_write = guard
    assert run.run() == Result("completed", 10)
    assert run.waited == 2 and run.bench.writes == [float(n) for n in range(10)]
    # Before it waits, what it has is made durable.
    assert run.frames.sizes == [3, 4, 3]


def test_a_lease_that_has_passed_on_ends_it() -> None:
    run = Run(line(10))

    def lost(*_: Any) -> None:
        raise LeaseLost("gone for good")

    def guard(value: float) -> None:
        if value == 5.0:
            lost()

    run.bench.before_write, run.trust = guard, lost
    result = run.run()
    assert (result.ended, result.next_point) == ("lease_lost", 5)
    assert run.frames.points == list(range(5)) and run.bench.writes[-1] == 4.0


def test_a_recorder_that_is_refused_ends_it_as_lease_lost() -> None:
    run = Run(line(10), points=2)

    def refuse(first: int) -> None:
        if first == 4:
            raise LeaseLost("fenced")

    run.frames.refuse = refuse
    assert (run.run().ended, run.frames.points) == ("lease_lost", [0, 1, 2, 3])


def test_a_frame_that_cannot_be_recorded_fails_the_scan_with_the_first_error() -> None:
    run = Run(line(10), points=2)

    def refuse(first: int) -> None:
        if first == 4:
            raise ValueError("no such value")

    run.frames.refuse = refuse
    result = run.run()
    assert (result.ended, result.next_point, str(result.error)) == ("failed", 4, "no such value")
