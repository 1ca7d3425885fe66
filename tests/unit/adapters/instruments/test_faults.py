"""The fault layer does what it is told, and the same again with the same seed."""

import json
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from typing import Any

import pytest
from pydantic import ValidationError

from adapters.instruments.faults import LOOK_S, FaultControl, FaultsConfig, Faulty
from adapters.instruments.line import Abandoned, Line
from adapters.instruments.simulated_trivial import Driver as Trivial
from domain.errors import Gone, NoAnswer


def faulty(**config: Any) -> Faulty:
    line = Line()
    control = FaultControl(FaultsConfig.model_validate({"timeout_s": 0.0, **config}))
    return Faulty(Trivial("", {}, line), control, line)


def outcomes(it: Faulty, calls: int) -> str:
    """A letter for each read: . fine, T no answer, G gone."""
    letters = ""
    for _ in range(calls):
        try:
            it.read(("a",))
            letters += "."
        except NoAnswer:
            letters += "T"
        except Gone:
            letters += "G"
    return letters


def test_a_timeout_does_not_reach_the_device_and_a_lost_answer_does() -> None:
    it = faulty()
    it.control.next("timeout")
    with pytest.raises(NoAnswer):
        it.write("position", 1.0)
    assert it.driver.read(("position",))["position"] == 0.0
    it.control.next("lost_answer")
    with pytest.raises(NoAnswer):
        it.write("position", 1.0)
    assert it.driver.read(("position",))["position"] == 1.0
    assert it.control.calls["write"] == 2 and it.control.reached["write"] == 1


def test_the_same_seed_gives_the_same_faults() -> None:
    probability = {"timeout": 0.3}
    first = outcomes(faulty(seed=4, probability=probability), 60)
    assert first == outcomes(faulty(seed=4, probability=probability), 60)
    assert first != outcomes(faulty(seed=5, probability=probability), 60)
    assert 5 < first.count("T") < 35


def test_a_schedule_names_the_call() -> None:
    it = faulty(schedule=[{"fault": "timeout", "call": 2, "on": "read"}, {"fault": "timeout", "call": 5}])
    it.identify()
    assert outcomes(it, 5) == ".T.T."  # the fifth call of all is the fourth read


def test_a_stale_answer_is_the_one_before() -> None:
    it = faulty()
    it.write("position", 1.0)
    old = it.read(("a",))
    it.write("position", 2.0)
    it.control.next("stale", on="read")
    assert it.read(("a",)) == old
    assert it.read(("a",))["a"] == 2.0


def test_a_garbled_answer_is_no_number() -> None:
    it = faulty()
    it.control.next("garbled", on="read")
    assert "#" in it.read(("a",))["a"]


def test_an_unplugged_device_is_gone_until_it_is_plugged() -> None:
    it = faulty()
    it.control.unplug()
    assert outcomes(it, 2) == "GG"
    with pytest.raises(Gone):
        it.open()
    it.control.plug()
    assert outcomes(it, 1) == "."
    it.control.next("unplug", for_s=0.05)
    assert outcomes(it, 2) == "GG"
    sleep(0.06)
    assert outcomes(it, 1) == "."


def test_latency_is_waited_for() -> None:
    it = faulty(latency_s=0.03)
    start = monotonic()
    it.read(("a",))
    assert monotonic() - start >= 0.03


def test_a_hang_ends_by_itself_after_its_time_and_the_call_is_done() -> None:
    it = faulty()
    it.control.next("hang", for_s=0.06)
    start = monotonic()
    it.write("position", 1.0)
    assert monotonic() - start >= 0.06
    assert it.control.reached["write"] == 1


def test_a_hang_is_released() -> None:
    it = faulty()
    it.control.next("hang")
    thread = Thread(target=it.write, args=("position", 3.0), daemon=True)
    thread.start()
    sleep(0.05)
    assert thread.is_alive() and it.control.reached["write"] == 0
    it.control.release()
    thread.join(2.0)
    assert not thread.is_alive() and it.driver.read(("a",))["a"] == 3.0


def test_a_hang_that_was_abandoned_does_not_reach_the_device() -> None:
    line = Line()
    control = FaultControl(FaultsConfig())
    it = Faulty(Trivial("", {}, line), control, line)
    control.next("hang")
    ended: list[BaseException] = []

    def call() -> None:
        try:
            it.write("position", 3.0)
        except BaseException as error:
            ended.append(error)

    thread = Thread(target=call, daemon=True)
    thread.start()
    sleep(0.03)
    line.abandoned = True
    thread.join(2.0)
    assert isinstance(ended[0], Abandoned) and control.reached["write"] == 0


def test_a_file_unplugs_and_plugs_from_outside(tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    it = faulty(control=str(file))
    assert outcomes(it, 1) == "."
    file.write_text(json.dumps({"unplugged": True}))
    sleep(2 * LOOK_S)
    assert outcomes(it, 2) == "GG"
    file.unlink()
    sleep(2 * LOOK_S)
    assert outcomes(it, 1) == "."


def test_a_file_hangs_calls_until_it_says_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    file.write_text(json.dumps({"hang": True}))
    it = faulty(control=str(file))
    thread = Thread(target=it.read, args=(("a",),), daemon=True)
    thread.start()
    sleep(0.08)
    assert thread.is_alive()
    file.write_text(json.dumps({"hang": False}))
    thread.join(2.0)
    assert not thread.is_alive()


def test_the_next_faults_of_a_file_are_taken_up_once_for_each_id(tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    order = {"id": 1, "next": ["timeout", {"fault": "lost_answer", "on": "read"}]}
    file.write_text(json.dumps(order))
    it = faulty(control=str(file))
    assert outcomes(it, 4) == "TT.."
    file.write_text(json.dumps({**order, "latency_s": 0.0}))
    sleep(2 * LOOK_S)
    assert outcomes(it, 2) == ".."
    file.write_text(json.dumps({**order, "id": 22}))
    sleep(2 * LOOK_S)
    assert outcomes(it, 3) == "TT."


def test_a_file_that_is_half_written_changes_nothing_yet(tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    file.write_text('{"unplugged": tr')
    it = faulty(control=str(file))
    assert outcomes(it, 1) == "."
    file.write_text('{"unplugged": true}')
    sleep(2 * LOOK_S)
    assert outcomes(it, 1) == "G"


def test_a_fault_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError):
        FaultsConfig.model_validate({"probability": {"explode": 0.1}})
