"""The retry rules, shown by counting what reached the device."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import time
from typing import Any

import numpy as np
import pytest

from adapters.instruments.careful import Careful
from adapters.instruments.faults import FaultControl, FaultsConfig, Faulty
from adapters.instruments.line import Abandoned, Line
from adapters.instruments.simulated_trivial import Driver as Trivial
from domain.errors import Gone, InstrumentRefused, LeaseLost, NoAnswer, WrongAnswer
from domain.ports import Channel, Value

LEVEL = Channel(kind="rw", unit="V", limits=(-10.0, 10.0), doc="Level.", source="slot")


class Device:
    """A device with a level, which notes every call and does what the test scripts for the next ones."""

    def __init__(self, **channels: Channel) -> None:
        self.channels: Mapping[str, Channel] = channels or {"level": LEVEL}
        self.levels: dict[str, Value] = {}
        self.log: list[str] = []
        self.script: dict[str, list[Any]] = {}
        self.who = "acme,1"
        self.is_settled: bool = True

    def _next(self, method: str) -> Any:
        self.log.append(method)
        planned = self.script.get(method, [])
        return planned.pop(0) if planned else None

    def describe(self) -> Mapping[str, Channel]:
        return self.channels

    def open(self) -> None:
        if error := self._next("open"):
            raise error

    def identify(self) -> str:
        answer = self._next("identify")
        if isinstance(answer, Exception):
            raise answer
        return answer or self.who

    def read(self, names: Sequence[str]) -> dict[str, Value]:
        answer = self._next("read")
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            return answer
        return {**{name: self.levels.get(name, 0.0) for name in names}, "time": time()}

    def write(self, name: str, value: Value) -> Value:
        """A scripted ("done", error) changes the level first; an error alone does not."""
        answer = self._next("write")
        if isinstance(answer, Exception):
            raise answer
        self.levels[name] = value
        if isinstance(answer, tuple):
            raise answer[1]
        return value if answer is None else answer

    def settled(self, name: str) -> bool:
        answer = self._next("settled")
        return self.is_settled if answer is None else answer

    def stop(self) -> None:
        if error := self._next("stop"):
            raise error

    def safe(self) -> None:
        if error := self._next("safe"):
            raise error

    def close(self) -> None:
        self.log.append("close")

    def snapshot(self, names: Sequence[str]) -> dict[str, Value]:
        answer = self._next("snapshot")
        return {name: self.levels.get(name, 0.0) for name in names} if answer is None else answer


class Bench:
    """A careful layer around a device, opened, with its troubles listed."""

    def __init__(self, device: Device | None = None) -> None:
        self.device = device or Device()
        self.troubles: list[tuple[str, str, int]] = []
        self.line = Line("bench")
        self.careful = Careful("it", self.device, self.line, lambda: self.note, open_timeout_s=0.05)
        self.careful.open()
        self.device.log.clear()

    def note(self, instrument: str, error: Exception, attempt: int) -> None:
        self.troubles.append((instrument, type(error).__name__, attempt))

    def count(self, method: str) -> int:
        return self.device.log.count(method)


def test_a_read_without_an_answer_is_read_again_and_reported() -> None:
    bench = Bench()
    bench.device.script["read"] = [NoAnswer("1"), WrongAnswer("2")]
    assert bench.careful.read(("level",))["level"] == 0.0
    assert bench.count("read") == 3
    assert bench.troubles == [("it", "NoAnswer", 1), ("it", "WrongAnswer", 2)]


def test_a_read_is_given_up_after_two_retries() -> None:
    bench = Bench()
    bench.device.script["read"] = [NoAnswer("1"), NoAnswer("2"), NoAnswer("3")]
    with pytest.raises(NoAnswer, match="3"):
        bench.careful.read(("level",))
    assert bench.count("read") == 3


def test_a_read_that_was_refused_is_not_repeated() -> None:
    bench = Bench()
    bench.device.script["read"] = [InstrumentRefused("no")]
    with pytest.raises(InstrumentRefused):
        bench.careful.read(("level",))
    assert bench.count("read") == 1 and bench.troubles == []


def test_before_a_retry_the_line_is_brought_in_step() -> None:
    bench = Bench()
    bench.device.script["read"] = [NoAnswer("late")]
    bench.device.script["identify"] = ["+1.5E0"]  # the late answer
    bench.careful.read(("level",))
    assert bench.device.log == ["read", "identify", "identify", "read"]


def test_an_answer_taken_before_it_was_asked_for_is_stale() -> None:
    bench = Bench()
    bench.device.script["read"] = [{"level": 7.0, "time": time() - 0.001}]
    assert bench.careful.read(("level",))["level"] == 0.0
    assert bench.troubles == [("it", "WrongAnswer", 1)]


@pytest.mark.parametrize(
    "channel, wrong",
    [
        (LEVEL, "+1.2#"),
        (LEVEL, True),
        (LEVEL, None),
        (Channel(kind="r", type="int"), 1.5),
        (Channel(kind="r", type="bool"), "1"),
        (Channel(kind="r", type="str", choices=("a", "b")), "c"),
        (Channel(kind="r", type="array", shape=(3,)), np.zeros(2)),
        (Channel(kind="r", type="array", shape=(2,)), [0.0, 0.0]),
    ],
)
def test_an_answer_of_the_wrong_kind_is_a_wrong_answer(channel: Channel, wrong: Any) -> None:
    bench = Bench(Device(level=channel))
    bench.device.script["read"] = [{"level": wrong, "time": time() + 60} for _ in range(3)]
    with pytest.raises(WrongAnswer):
        bench.careful.read(("level",))
    assert bench.count("read") == 3


def test_an_answer_that_lacks_a_channel_is_a_wrong_answer() -> None:
    bench = Bench(Device(a=LEVEL, b=LEVEL))
    bench.device.script["read"] = [{"a": 1.0, "time": time() + 60}]
    assert set(bench.careful.read(("a", "b"))) == {"a", "b", "time"}
    assert bench.count("read") == 2


def test_a_write_that_was_not_done_is_repeated() -> None:
    bench = Bench()
    bench.device.script["write"] = [NoAnswer("lost on its way")]
    assert bench.careful.write("level", 5.0) == 5.0
    assert bench.device.log == ["write", "identify", "settled", "read", "write"]
    assert bench.troubles == [("it", "NoAnswer", 1)]


@pytest.mark.parametrize("error", [NoAnswer("lost"), WrongAnswer("garbled"), Gone("unplugged")])
def test_a_write_that_was_done_is_not_repeated(error: Exception) -> None:
    bench = Bench()
    bench.device.script["write"] = [("done", error)]
    assert bench.careful.write("level", 5.0) == 5.0
    assert bench.count("write") == 1


def test_a_write_that_cannot_be_read_back_is_never_repeated() -> None:
    bench = Bench(Device(level=replace(LEVEL, kind="w")))
    bench.device.script["write"] = [NoAnswer("lost")]
    with pytest.raises(NoAnswer):
        bench.careful.write("level", 5.0)
    assert bench.count("write") == 1


def test_a_write_whose_read_back_fails_is_not_repeated() -> None:
    bench = Bench()
    bench.device.script["write"] = [NoAnswer("lost")]
    bench.device.script["read"] = [NoAnswer("1"), NoAnswer("2"), NoAnswer("3")]
    with pytest.raises(NoAnswer):
        bench.careful.write("level", 5.0)
    assert bench.count("write") == 1


def test_a_write_that_left_the_device_somewhere_else_is_not_repeated() -> None:
    bench = Bench()
    bench.careful.write("level", 1.0)
    bench.device.script["write"] = [NoAnswer("lost")]
    bench.device.levels["level"] = 3.0
    with pytest.raises(NoAnswer) as raised:
        bench.careful.write("level", 5.0)
    assert bench.count("write") == 2
    assert "neither where it was nor where it was sent" in raised.value.__notes__[0]


def test_after_safe_a_write_that_was_not_done_is_repeated() -> None:
    bench = Bench()
    bench.careful.write("level", 1.0)
    bench.careful.safe()
    bench.device.levels["level"] = 0.0
    bench.device.script["write"] = [NoAnswer("lost")]
    assert bench.careful.write("level", 5.0) == 5.0
    assert bench.count("write") == 3


def test_a_write_to_what_does_not_come_to_rest_is_not_repeated() -> None:
    bench = Bench()
    bench.device.is_settled = False
    bench.device.script["write"] = [NoAnswer("lost")]
    with pytest.raises(NoAnswer):
        bench.careful.write("level", 5.0)
    assert bench.count("write") == 1


def test_a_write_refused_by_the_device_is_not_repeated() -> None:
    bench = Bench()
    bench.device.script["write"] = [InstrumentRefused("-222")]
    with pytest.raises(InstrumentRefused):
        bench.careful.write("level", 5.0)
    assert bench.count("write") == 1


def test_the_lease_is_asked_again_before_a_write_is_repeated() -> None:
    bench = Bench()
    asked: list[int] = []

    def guard() -> None:
        asked.append(1)
        if len(asked) == 2:
            raise LeaseLost("meanwhile")

    bench.line.guard = guard
    bench.device.script["write"] = [NoAnswer("lost")]
    with pytest.raises(LeaseLost):
        bench.careful.write("level", 5.0)
    assert bench.count("write") == 1 and len(asked) == 2


def test_an_accepted_value_that_is_the_answer_to_another_write_is_found_out() -> None:
    bench = Bench()
    bench.device.script["write"] = [1.0]  # said 1.0, took 5.0
    assert bench.careful.write("level", 5.0) == 5.0
    assert bench.count("write") == 1 and bench.troubles == [("it", "WrongAnswer", 1)]


def test_a_value_that_the_device_rounded_is_what_was_accepted() -> None:
    class Rounds(Device):
        def write(self, name: str, value: Value) -> Value:
            return super().write(name, float(round(value)))

    bench = Bench(Rounds())
    assert bench.careful.write("level", 4.6) == 5.0
    assert bench.count("write") == 1 and bench.troubles == []


def test_what_is_gone_is_opened_again_if_it_is_the_same() -> None:
    bench = Bench()
    bench.device.script["read"] = [Gone("unplugged")]
    bench.careful.read(("level",))
    assert bench.device.log == ["read", "close", "open", "identify", "read"]


def test_what_is_silent_to_the_ping_too_is_opened_again() -> None:
    bench = Bench()
    bench.device.script["read"] = [NoAnswer("silent")]
    bench.device.script["identify"] = [NoAnswer("silent")]
    bench.careful.read(("level",))
    assert bench.device.log == ["read", "identify", "close", "open", "identify", "read"]


def test_what_is_gone_is_not_used_when_another_device_answers() -> None:
    bench = Bench()
    bench.device.script["write"] = [Gone("unplugged")]
    bench.device.who = "acme,2"
    with pytest.raises(Gone, match="acme,2"):
        bench.careful.write("level", 5.0)
    assert bench.count("write") == 1 and bench.device.levels == {}
    assert not bench.careful.opened


@pytest.mark.parametrize("order", ["safe", "stop"])
def test_safe_and_stop_are_repeated_until_they_are_through(order: str) -> None:
    bench = Bench()
    bench.device.script[order] = [NoAnswer("1"), Gone("2")]
    getattr(bench.careful, order)()
    assert bench.count(order) == 3


def test_what_the_operating_system_says_is_put_into_our_words() -> None:
    bench = Bench()
    bench.device.script["read"] = [ConnectionResetError("reset"), TimeoutError("slow")]
    bench.careful.read(("level",))
    assert [kind for _, kind, _ in bench.troubles] == ["Gone", "NoAnswer"]


def test_a_mistake_in_a_driver_is_not_retried() -> None:
    bench = Bench()
    bench.device.script["read"] = [ZeroDivisionError()]
    with pytest.raises(ZeroDivisionError):
        bench.careful.read(("level",))
    assert bench.count("read") == 1


def test_a_hook_that_fails_does_not_stop_the_retry() -> None:
    bench = Bench()
    bench.note = lambda *_: 1 / 0  # type: ignore[method-assign]
    bench.device.script["read"] = [NoAnswer("1")]
    bench.careful.read(("level",))
    assert bench.count("read") == 2


@pytest.mark.parametrize("call", ["read", "write", "settled", "identify", "safe", "stop", "snapshot"])
def test_an_abandoned_line_lets_nothing_through(call: str) -> None:
    bench = Bench()
    bench.line.abandoned = True
    arguments: dict[str, tuple[Any, ...]] = {
        "read": (("level",),),
        "write": ("level", 1.0),
        "settled": ("level",),
        "snapshot": (["level"],),
    }
    with pytest.raises(Abandoned):
        getattr(bench.careful, call)(*arguments.get(call, ()))
    assert bench.device.log == []


def test_a_channel_may_be_asked_for_by_a_list_that_changes() -> None:
    bench = Bench(Device(a=LEVEL, b=LEVEL))
    names = ["a"]
    bench.careful.read(names)
    names[0] = "c"
    with pytest.raises(InstrumentRefused):
        bench.careful.read(names)


def test_numbers_of_numpy_are_numbers() -> None:
    bench = Bench(Device(level=LEVEL, steps=Channel(kind="rw", type="int", limits=(0, 9))))
    bench.careful.write("level", np.float32(1.5))
    bench.careful.write("steps", np.int64(3))
    bench.careful.write("steps", 4.0)
    assert bench.device.levels == {"level": 1.5, "steps": 4}
    assert type(bench.device.levels["level"]) is float and type(bench.device.levels["steps"]) is int
    with pytest.raises(InstrumentRefused):
        bench.careful.write("steps", 4.5)


def test_a_stale_answer_of_the_fault_layer_is_found_out() -> None:
    line = Line()
    control = FaultControl(FaultsConfig())
    troubles: list[Exception] = []
    it = Careful("it", Faulty(Trivial("", {}, line), control, line), line, lambda: lambda _i, e, _n: troubles.append(e))
    it.open()
    it.write("position", 1.0)
    it.read(("a",))
    it.write("position", 2.0)
    control.next("stale", on="read")
    assert it.read(("a",))["a"] == 2.0
    assert [type(error) for error in troubles] == [WrongAnswer]
