"""Threads, turns, proxies, and what happens to a connection that hangs."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import wait
from threading import Event, Thread, current_thread
from time import monotonic, sleep
from typing import Any

import pytest

from adapters.instruments.line import Abandoned
from adapters.instruments.rack import InstrumentConfig, Rack, UnknownDriver, drivers
from adapters.instruments.simulation import forget_world
from domain.errors import Gone, InstrumentRefused, LeaseLost, NoAnswer, NotFound
from domain.ports import Instrument

Instruments = Mapping[str, Instrument]


def trivial(**more: Any) -> InstrumentConfig:
    return InstrumentConfig.model_validate({"driver": "simulated_trivial", **more})


@pytest.fixture
def make() -> Iterator[Callable[..., Rack]]:
    racks: list[Rack] = []

    def one(**configs: InstrumentConfig) -> Rack:
        racks.append(Rack(configs))
        return racks[-1]

    yield one
    for rack in racks:
        for control in rack._controls.values():  # pyright: ignore[reportPrivateUsage]
            control.release()
        rack.close()
    forget_world("lab")


def until(condition: Callable[[], Any]) -> None:
    deadline = monotonic() + 5.0
    while not condition():
        assert monotonic() < deadline
        sleep(0.002)


def ping(instruments: Instruments) -> str:
    return " ".join(instrument.identify() for instrument in instruments.values())


def test_an_unknown_driver_is_answered_with_those_that_exist() -> None:
    with pytest.raises(UnknownDriver, match="simulated_stage"):
        Rack({"it": InstrumentConfig(driver="warp_drive")})
    with pytest.raises(UnknownDriver, match="simulated_stage"):
        Rack({"it": InstrumentConfig(driver="careful")})
    with pytest.raises(UnknownDriver):
        Rack({"it": InstrumentConfig(driver="../rack")})


def test_the_folder_is_the_list_of_drivers() -> None:
    assert {"scpi", "simulated_stage", "simulated_trivial"} <= set(drivers())
    assert not {"rack", "careful", "faults", "simulation", "line"} & set(drivers())


def test_a_wrong_option_is_found_when_the_rack_is_made() -> None:
    with pytest.raises(ValueError, match=r"instruments\.it.*\n?.*colour"):
        Rack({"it": InstrumentConfig(driver="simulated_stage", options={"colour": "red"})})


def test_an_unknown_instrument_is_not_found(make: Callable[..., Rack]) -> None:
    rack = make(a=trivial())
    with pytest.raises(NotFound, match="no instrument b"):
        rack.run(["a", "b"], ping)
    with pytest.raises(NotFound):
        rack.describe("b")


def test_a_program_with_one_connection_runs_on_its_thread(make: Callable[..., Rack]) -> None:
    rack = make(a=trivial(connection="bus"), b=trivial(connection="bus"))
    assert rack.run(["a", "b"], lambda _: current_thread().name).result(5) == "line bus"
    assert rack.run(["a"], lambda _: current_thread().name).result(5) == "line bus"


def test_a_program_with_two_connections_has_its_own_thread_and_each_call_the_right_one(
    make: Callable[..., Rack], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, str] = {}
    driver = drivers()["simulated_trivial"]

    def identify(self: Any) -> str:
        seen[self._address] = current_thread().name
        return "me"

    monkeypatch.setattr(driver, "identify", identify)
    rack = make(a=trivial(), b=trivial())

    def program(instruments: Instruments) -> str:
        ping(instruments)
        return current_thread().name

    assert rack.run(["a", "b"], program).result(5) == "program a b"
    assert seen == {"a": "line a", "b": "line b"}


def test_by_proxy_everything_works_as_directly(make: Callable[..., Rack]) -> None:
    def program(instruments: Instruments) -> list[Any]:
        it = instruments["a"]
        done: list[Any] = [it.write("position", 2.0), it.read(["a", "c"]), it.settled("position"), it.snapshot(["b"])]
        done[1].pop("time")
        it.stop()
        it.safe()
        with pytest.raises(InstrumentRefused):
            it.write("a", 1.0)
        return [*done, it.describe()["a"].unit, it.identify()]

    rack = make(a=trivial(), b=trivial())
    by_proxy = rack.run(["a", "b"], program).result(5)
    assert by_proxy == rack.run(["a"], program).result(5)
    assert by_proxy[:4] == [2.0, {"a": 2.0, "c": 4.0}, True, {"b": 4.0}]


def test_what_a_program_raises_is_in_its_future(make: Callable[..., Rack]) -> None:
    rack = make(a=trivial(), b=trivial())
    for names in (["a"], ["a", "b"]):
        with pytest.raises(ZeroDivisionError):
            rack.run(names, lambda _: 1 / 0).result(5)
    assert rack.run(["a"], ping).result(5)


def test_programs_on_disjoint_connections_run_at_the_same_time(make: Callable[..., Rack]) -> None:
    rack = make(a=trivial(), b=trivial())
    met = {"a": Event(), "b": Event()}

    def meets(me: str, other: str) -> bool:
        met[me].set()
        return met[other].wait(5)

    first = rack.run(["a"], lambda _: meets("a", "b"))
    second = rack.run(["b"], lambda _: meets("b", "a"))
    assert first.result(6) and second.result(6)


def test_a_second_program_on_a_connection_waits_for_the_first(make: Callable[..., Rack]) -> None:
    rack = make(a=trivial())
    go = Event()
    order: list[int] = []

    def first(_: Instruments) -> None:
        assert go.wait(5)
        order.append(1)

    futures = [rack.run(["a"], first), rack.run(["a"], lambda _: order.append(2))]
    sleep(0.03)
    assert order == []
    go.set()
    wait(futures, 5)
    assert order == [1, 2]


def test_programs_by_proxy_take_turns_call_by_call(make: Callable[..., Rack]) -> None:
    rack = make(a=trivial(), b=trivial(), c=trivial())
    met = {"one": Event(), "two": Event()}

    def meets(me: str, other: str) -> Callable[[Instruments], bool]:
        def program(instruments: Instruments) -> bool:
            ping(instruments)
            met[me].set()
            both = met[other].wait(5)
            ping(instruments)
            return both

        return program

    one, two = rack.run(["a", "b"], meets("one", "two")), rack.run(["b", "c"], meets("two", "one"))
    assert one.result(6) and two.result(6)


def test_a_call_by_proxy_that_takes_too_long_is_no_answer(make: Callable[..., Rack]) -> None:
    rack = make(a=trivial(call_timeout_s=0.1, faults={}), b=trivial())

    def program(instruments: Instruments) -> float:
        rack.faults("a").next("hang")
        start = monotonic()
        with pytest.raises(NoAnswer, match=r"0\.1 s"):
            instruments["a"].write("position", 9.0)
        waited = monotonic() - start
        with pytest.raises(NoAnswer, match="the call before"):
            instruments["a"].write("position", 8.0)
        return waited

    assert 0.1 <= rack.run(["a", "b"], program).result(5) < 1.0
    rack.faults("a").release()
    until(lambda: rack.faults("a").reached["write"] == 1)
    position = rack.run(["a"], lambda instruments: instruments["a"].read(["position"])["position"]).result(5)
    assert position == 9.0  # the second write was withdrawn before it began


def test_waiting_for_a_busy_connection_is_no_missing_answer(make: Callable[..., Rack]) -> None:
    rack = make(a=trivial(call_timeout_s=0.05), b=trivial())
    go = Event()
    rack.run(["a"], lambda _: go.wait(5))
    other = rack.run(["a", "b"], ping)
    sleep(0.2)
    assert not other.done()
    go.set()
    assert other.result(5)


def test_retries_of_a_call_by_proxy_each_have_their_time(make: Callable[..., Rack]) -> None:
    faults = {"timeout_s": 0.08, "schedule": [{"fault": "timeout", "on": "read", "call": n} for n in (1, 2)]}
    rack = make(a=trivial(call_timeout_s=0.12, faults=faults), b=trivial())
    troubles: list[tuple[str, int]] = []
    rack.on_trouble = lambda name, _error, attempt: troubles.append((name, attempt))
    assert rack.run(["a", "b"], lambda instruments: instruments["a"].read(["a"])["a"]).result(5) == 0.0
    assert troubles == [("a", 1), ("a", 2)]


def test_busy_tells_how_long_the_call_takes_that_is_running(make: Callable[..., Rack]) -> None:
    rack = make(a=trivial(faults={}))
    go = Event()
    future = rack.run(["a"], lambda instruments: (go.wait(5), instruments["a"].read(["a"])))
    sleep(0.05)
    assert rack.busy_s("a") == 0.0  # the program runs, but no call
    rack.faults("a").next("hang")
    go.set()
    until(lambda: rack.busy_s("a") > 0.05)
    rack.faults("a").release()
    future.result(5)
    assert rack.busy_s("a") == 0.0


def test_a_call_is_overdue_once_it_takes_longer_than_it_may(make: Callable[..., Rack]) -> None:
    rack = make(a=trivial(faults={}, call_timeout_s=0.15, open_timeout_s=0.6))
    control = rack.faults("a")
    control.next("hang", on="open", for_s=0.3)
    control.next("hang", on="read")
    future = rack.run(["a"], lambda instruments: instruments["a"].read(["a"]))
    while not control.calls["read"]:  # opening takes longer than a call may, and is not overdue
        assert rack.overdue_s("a") == 0.0
        sleep(0.01)
    assert rack.overdue_s("a") == 0.0
    until(lambda: rack.overdue_s("a"))
    assert 0.15 < rack.overdue_s("a") < 1.0
    control.release()
    future.result(5)
    assert rack.overdue_s("a") == 0.0


def test_an_abandoned_program_cannot_reach_the_device_again(make: Callable[..., Rack]) -> None:
    rack = make(a=trivial(faults={}))
    control = rack.faults("a")
    control.next("hang", on="read")
    ended: list[BaseException] = []

    def program(instruments: Instruments) -> None:
        it = instruments["a"]
        try:
            it.read(["a"])
        except Gone as error:
            ended.append(error)
        try:
            it.write("position", 5.0)
        except Gone as error:
            ended.append(error)

    hung = rack.run(["a"], program)
    until(lambda: rack.busy_s("a") > 0.01)
    rack.abandon("a")
    with pytest.raises(NoAnswer):
        hung.result(5)
    until(lambda: len(ended) == 2)
    assert all(isinstance(error, Abandoned) for error in ended)
    assert control.reached["write"] == 0 and control.reached["read"] == 0


def test_programs_that_had_not_begun_move_to_the_fresh_connection(make: Callable[..., Rack]) -> None:
    rack = make(a=trivial(faults={}))
    rack.faults("a").next("hang", on="read")
    hung = rack.run(["a"], lambda instruments: instruments["a"].read(["a"]))
    waiting = rack.run(["a"], ping)
    until(lambda: rack.busy_s("a") > 0.01)
    rack.abandon("a")
    assert "trivial" in waiting.result(5)
    with pytest.raises(NoAnswer):
        hung.result(5)


def test_a_program_by_proxy_whose_connection_is_abandoned_ends(make: Callable[..., Rack]) -> None:
    rack = make(a=trivial(faults={}, call_timeout_s=60), b=trivial())
    rack.faults("a").next("hang", on="read")
    errors: list[Exception] = []

    def program(instruments: Instruments) -> None:
        for _ in range(2):
            try:
                instruments["a"].read(["a"])
            except (NoAnswer, Gone) as error:
                errors.append(error)

    future = rack.run(["a", "b"], program)
    until(lambda: rack.busy_s("a") > 0.01)
    rack.abandon("a")
    future.result(5)
    assert [type(error) for error in errors] == [NoAnswer, Abandoned]


def test_another_device_at_the_same_address_is_not_used(
    make: Callable[..., Rack], monkeypatch: pytest.MonkeyPatch
) -> None:
    rack = make(a=trivial())
    rack.run(["a"], ping).result(5)
    rack.abandon("a")
    monkeypatch.setattr(drivers()["simulated_trivial"], "identify", lambda _self: "an impostor")
    with pytest.raises(Gone, match="impostor"):
        rack.run(["a"], ping).result(5)
    rack.forget("a")
    assert rack.run(["a"], ping).result(5) == "an impostor"
    assert rack.identity("a") == "an impostor"


def test_the_guard_is_asked_on_every_write_and_may_be_replaced(make: Callable[..., Rack]) -> None:
    rack = make(a=trivial(), b=trivial())

    def lost() -> None:
        raise LeaseLost("ran out")

    def program(instruments: Instruments) -> float:
        instruments["a"].write("position", 1.0)
        rack.guard = lost
        with pytest.raises(LeaseLost):
            instruments["a"].write("position", 2.0)
        return instruments["a"].read(["position"])["position"]

    for names in (["a"], ["a", "b"]):
        rack.guard = lambda: None
        assert rack.run(names, program).result(5) == 1.0


def test_a_device_that_cannot_be_opened_fails_the_program_before_it_begins(make: Callable[..., Rack]) -> None:
    rack = make(a=trivial(faults={}), b=trivial())
    rack.faults("a").unplug()
    begun: list[int] = []
    for names in (["a"], ["a", "b"]):
        with pytest.raises(Gone):
            rack.run(names, lambda _: begun.append(1)).result(5)
    assert begun == []
    rack.faults("a").plug()
    assert rack.run(["a", "b"], ping).result(5)


def test_opening_has_a_time_of_its_own(make: Callable[..., Rack]) -> None:
    rack = make(a=trivial(faults={}, call_timeout_s=0.05, open_timeout_s=0.5), b=trivial())
    rack.faults("a").next("hang", on="open", for_s=0.2)
    assert rack.run(["a", "b"], ping).result(5)
    rack.abandon("a")
    rack.faults("a").next("hang", on="open", for_s=1.5)
    with pytest.raises(NoAnswer, match=r"open of a has not come back after 0\.5 s"):
        rack.run(["a", "b"], ping).result(5)


def test_a_closed_rack_runs_nothing(make: Callable[..., Rack]) -> None:
    rack = make(a=trivial())
    rack.run(["a"], ping).result(5)
    rack.close()
    with pytest.raises(RuntimeError):
        rack.run(["a"], ping)


def test_closing_does_not_wait_for_ever_for_a_hang(make: Callable[..., Rack]) -> None:
    rack = make(a=trivial(faults={}, open_timeout_s=0.1))
    rack.run(["a"], ping).result(5)
    rack.faults("a").next("hang")
    hung = rack.run(["a"], lambda instruments: instruments["a"].read(["a"]))
    until(lambda: rack.busy_s("a") > 0)
    closing = Thread(target=rack.close, daemon=True)
    closing.start()
    closing.join(30)
    assert not closing.is_alive()
    with pytest.raises(NoAnswer):
        hung.result(5)
