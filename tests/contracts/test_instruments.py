"""What every driver in adapters/instruments keeps to. A new file there runs through this at once.

A driver that needs hardware sets `EXAMPLE = None` in its module: then only what needs no device is asked of it. Others give
the configuration of a simulation there, or work without options.
"""

import importlib
import math
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from time import monotonic, sleep, time
from typing import Any, TypeVar

import numpy as np
import pytest

from adapters.instruments.careful import Careful
from adapters.instruments.faults import FaultsConfig
from adapters.instruments.rack import InstrumentConfig, Rack, drivers
from adapters.instruments.simulation import forget_world
from domain.errors import Gone, InstrumentRefused, LeaseLost, NoAnswer
from domain.ports import Channel, Instrument

T = TypeVar("T")

DRIVERS = sorted(drivers())


def example(driver: str) -> dict[str, Any] | None:
    return getattr(importlib.import_module(f"adapters.instruments.{driver}"), "EXAMPLE", {})


def config(driver: str, **more: Any) -> InstrumentConfig:
    return InstrumentConfig.model_validate({"driver": driver, **(example(driver) or {}), **more})


RUNNABLE = [driver for driver in DRIVERS if example(driver) is not None]


@pytest.fixture(autouse=True)
def _power_off() -> Iterator[None]:
    forget_world("lab")
    yield
    forget_world("lab")


@pytest.fixture
def make() -> Iterator[Callable[..., Rack]]:
    racks: list[Rack] = []

    def one(driver: str, **more: Any) -> Rack:
        racks.append(Rack({"it": config(driver, **more)}))
        return racks[-1]

    yield one
    for rack in racks:
        for control in rack._controls.values():  # pyright: ignore[reportPrivateUsage]
            control.release()
        rack.close()


def on(rack: Rack, program: Callable[[Instrument], T]) -> T:
    future: Future[T] = rack.run(["it"], lambda instruments: program(instruments["it"]))
    return future.result(timeout=20)


def writable(channels: Mapping[str, Channel]) -> dict[str, Channel]:
    return {name: channel for name, channel in channels.items() if channel.kind != "r"}


def values_for(channel: Channel) -> list[Any]:
    """Two values that the channel takes."""
    if channel.choices:
        words = [channel.choices[0], channel.choices[-1]]
        return words if channel.type == "str" else [float(word) for word in words]
    match channel.type:
        case "bool":
            return [True, False]
        case "str":
            return ["a", "b"]
        case "int":
            low, _ = channel.limits or (0, 10)
            return [int(low) + 1, int(low) + 2]
        case "array":
            return [np.zeros(channel.shape), np.ones(channel.shape)]
        case "float":
            low, high = channel.limits or (0.0, 1.0)
            # Near the lower end: a long time constant would be waited for.
            return [low + (high - low) * 0.001, low + (high - low) * 0.002]


def settle(it: Instrument, name: str) -> None:
    deadline = monotonic() + 15.0
    while not it.settled(name):
        assert monotonic() < deadline, f"{name} does not settle"
        sleep(0.005)


def quick(it: Instrument) -> None:
    """Whatever has a speed, at its highest."""
    for name in ("speed", "ramp"):
        if name in it.describe():
            limits = it.describe()[name].limits
            assert limits
            it.write(name, limits[1])


@pytest.mark.parametrize("driver", DRIVERS)
def test_describing_does_no_input_or_output(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("I/O")

    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr("adapters.instruments.scpi._manager", forbidden)
    rack = Rack({"it": config(driver)})
    assert rack.describe("it")
    assert rack.identity("it") is None
    rack.close()


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_channel_is_described_for_a_reader(driver: str) -> None:
    rack = Rack({"it": config(driver)})
    for name, channel in rack.describe("it").items():
        assert name.isidentifier() and name != "time"
        assert channel.doc, f"{name} has no doc"
        assert channel.source, f"{name} does not say where it comes from"
        assert channel.unit or channel.type not in ("float", "array"), f"{name} has no unit"
        assert bool(channel.shape) == (channel.type == "array")
        assert channel.limits is None or channel.limits[0] < channel.limits[1]
    rack.close()


@pytest.mark.parametrize("driver", RUNNABLE)
def test_every_channel_reads_as_described(driver: str, make: Callable[..., Rack]) -> None:
    def program(it: Instrument) -> None:
        names = tuple(name for name, channel in it.describe().items() if channel.kind != "w")
        before = time()
        answer = it.read(names)
        assert before <= answer["time"] <= time()
        assert set(answer) == {*names, "time"}
        for name in names:
            channel, value = it.describe()[name], answer[name]
            if channel.type == "array":
                assert value.shape == channel.shape and value.dtype.kind in "fiu"
            else:
                assert isinstance(value, {"float": float, "int": int, "bool": bool, "str": str}[channel.type])

    on(make(driver), program)


@pytest.mark.parametrize("driver", RUNNABLE)
def test_a_write_answers_what_was_accepted_and_reads_back_once_settled(driver: str, make: Callable[..., Rack]) -> None:
    def program(it: Instrument) -> None:
        for name, channel in writable(it.describe()).items():
            for value in values_for(channel):
                quick(it)
                accepted = it.write(name, value)
                assert type(accepted) is type(value)
                if channel.type == "float":
                    assert accepted == pytest.approx(value, rel=0.01)
                else:
                    assert np.array_equal(accepted, value)
                settle(it, name)
                if channel.kind == "rw":
                    found = it.read([name])[name]
                    assert found == (pytest.approx(accepted, rel=1e-5) if channel.type == "float" else accepted)

    on(make(driver), program)


@pytest.mark.parametrize("driver", RUNNABLE)
def test_what_is_not_allowed_is_refused_and_nothing_moves(driver: str, make: Callable[..., Rack]) -> None:
    rack = make(driver, faults={})

    def program(it: Instrument) -> None:
        for name, channel in it.describe().items():
            bad: list[Any] = [None, object()]
            if channel.kind == "r":
                bad += [0.0, 1, "a", True]
            elif channel.type in ("float", "int"):
                bad += ["a", True, math.nan]
                bad += [channel.limits[0] - 1.0, channel.limits[1] * 2 + 1.0] if channel.limits else []
            elif channel.choices:
                bad += ["no such choice"]
            for value in bad:
                with pytest.raises(InstrumentRefused):
                    it.write(name, value)
        with pytest.raises(InstrumentRefused):
            it.write("no_such_channel", 1.0)
        with pytest.raises(InstrumentRefused):
            it.read(["no_such_channel"])

    on(rack, program)
    assert rack.faults("it").calls["write"] == 0


@pytest.mark.parametrize("driver", RUNNABLE)
@pytest.mark.parametrize("fault", ["timeout", "lost_answer", "garbled", "stale", "unplug"])
def test_safe_works_after_any_failure(driver: str, fault: Any, make: Callable[..., Rack]) -> None:
    rack = make(driver, faults={"timeout_s": 0.0})
    on(rack, lambda it: it.identify())
    control = rack.faults("it")
    control.next(fault, for_s=0.02)
    try:
        on(rack, lambda it: it.snapshot([]))
    except (NoAnswer, Gone):
        pass
    sleep(0.02)
    control.next(fault, on="safe", for_s=0.0)
    before = control.reached["safe"]
    on(rack, lambda it: it.safe())
    assert control.reached["safe"] > before


@pytest.mark.parametrize("driver", RUNNABLE)
def test_it_opens_again_after_closing_and_is_the_same(driver: str, make: Callable[..., Rack]) -> None:
    def program(it: Instrument) -> None:
        first = it.identify()
        assert first and it.identify() == first
        it.close()
        it.open()
        assert it.identify() == first

    rack = make(driver)
    on(rack, program)
    identity = rack.identity("it")
    rack.close()
    again = make(driver)
    on(again, lambda it: it.identify())
    assert again.identity("it") == identity


@pytest.mark.parametrize("driver", RUNNABLE)
def test_a_snapshot_has_what_was_asked_for_and_all_settings_by_default(driver: str, make: Callable[..., Rack]) -> None:
    def program(it: Instrument) -> None:
        settings = [name for name, channel in it.describe().items() if channel.kind == "rw"]
        assert set(settings) <= set(it.snapshot([]))
        assert list(it.snapshot(settings[:1])) == settings[:1]

    on(make(driver), program)


@pytest.mark.parametrize("driver", RUNNABLE)
def test_stop_leaves_everything_settled(driver: str, make: Callable[..., Rack]) -> None:
    def program(it: Instrument) -> None:
        for name, channel in writable(it.describe()).items():
            it.write(name, values_for(channel)[0])
        it.stop()
        for name in it.describe():
            settle(it, name)

    on(make(driver), program)


@pytest.mark.parametrize("driver", RUNNABLE)
def test_without_the_lease_nothing_is_written(driver: str, make: Callable[..., Rack]) -> None:
    rack = make(driver, faults={})
    on(rack, lambda it: it.identify())

    def lost() -> None:
        raise LeaseLost("the lease of it ran out")

    rack.guard = lost
    for name, channel in writable(rack.describe("it")).items():
        value = values_for(channel)[0]
        with pytest.raises(LeaseLost):
            on(rack, lambda it, name=name, value=value: it.write(name, value))
    for order in (lambda it: it.safe(), lambda it: it.stop()):
        with pytest.raises(LeaseLost):
            on(rack, order)
    reached = rack.faults("it").reached
    assert reached["write"] == reached["safe"] == reached["stop"] == 0


@pytest.mark.parametrize("driver", RUNNABLE)
def test_a_write_whose_answer_was_lost_is_not_done_twice(driver: str, make: Callable[..., Rack]) -> None:
    rack = make(driver, faults={"timeout_s": 0.0})
    control = rack.faults("it")

    def program(it: Instrument) -> None:
        quick(it)
        for name, channel in writable(it.describe()).items():
            it.write(name, values_for(channel)[0])
            settle(it, name)
            before = control.reached["write"]
            control.next("lost_answer", on="write")
            if channel.kind == "rw":
                value = values_for(channel)[1]
                accepted = it.write(name, value)
                assert accepted == (pytest.approx(value, rel=0.01) if channel.type == "float" else value)
            else:
                with pytest.raises(NoAnswer):
                    it.write(name, values_for(channel)[1])
            assert control.reached["write"] == before + 1

    on(rack, program)


@pytest.mark.parametrize("driver", RUNNABLE)
def test_a_write_that_never_arrived_is_done_once(driver: str, make: Callable[..., Rack]) -> None:
    rack = make(driver, faults={"timeout_s": 0.0})
    control = rack.faults("it")

    def program(it: Instrument) -> None:
        quick(it)
        for name, channel in writable(it.describe()).items():
            if channel.kind != "rw":
                continue
            it.write(name, values_for(channel)[0])
            settle(it, name)
            before = control.reached["write"]
            control.next("timeout", on="write")
            it.write(name, values_for(channel)[1])
            assert control.reached["write"] == before + 1

    on(rack, program)


@pytest.mark.parametrize("driver", RUNNABLE)
def test_a_hang_is_abandoned_and_a_fresh_connection_works(driver: str, make: Callable[..., Rack]) -> None:
    rack = make(driver, faults={})
    identity = on(rack, lambda it: it.identify())
    control = rack.faults("it")
    control.next("hang", on="identify")
    ended: list[BaseException] = []

    def program(instruments: Mapping[str, Instrument]) -> None:
        try:
            instruments["it"].identify()
        except BaseException as error:
            ended.append(error)
            raise

    hung = rack.run(["it"], program)
    deadline = monotonic() + 5.0
    while rack.busy_s("it") < 0.05:
        assert monotonic() < deadline
        sleep(0.005)
    reached = control.reached["identify"]
    rack.abandon("it")
    with pytest.raises(NoAnswer):
        hung.result(timeout=5)
    assert rack.busy_s("it") == 0.0
    assert on(rack, lambda it: it.identify()) == identity
    deadline = monotonic() + 5.0
    while not ended:
        assert monotonic() < deadline, "the thread that was left behind never came back"
        sleep(0.005)
    assert isinstance(ended[0], Gone)
    # Opening and asking again; nothing of the call that hung.
    assert control.reached["identify"] == reached + 2


def test_the_contract_suite_sees_the_careful_layer() -> None:
    rack = Rack({"it": config("simulated_trivial", faults=FaultsConfig().model_dump())})
    assert isinstance(rack.run(["it"], lambda instruments: instruments["it"]).result(5), Careful)
    rack.close()
