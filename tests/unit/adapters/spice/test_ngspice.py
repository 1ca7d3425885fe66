"""The netlist against its formula. Skipped, aloud, where there is no ngspice."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from adapters.spice.ngspice import SimulationFailed, ngspice_path, simulate, subcircuits, switches
from domain.spice import DIODE, Cap, Capacitances, Model
from domain.spice_curves import Curve, Measured
from domain.spice_forms import FORMS, Form
from domain.spice_netlist import netlist
from tests.unit.domain.test_spice import VALUES

needs_ngspice = pytest.mark.skipif(
    ngspice_path() is None, reason="ngspice is not installed: netlists are NOT simulated here"
)
CAPS = Capacitances(
    Cap(1e-12, ((1e-9, 5, 0.6),), ((1e-10, 25, 2),), ((1e-11, 200, 50),)),
    Cap(1e-11, ((1e-9, 3, 1.5),)),
    1e-9,
    1e-10,
    5,
)


def a_device(model: Model) -> Measured:
    """What the formula itself gives, as if measured; in reverse too."""
    x = np.linspace(-3, 12, 61)
    curves = [Curve("output", g, x, model.current(np.array([g]), x)) for g in (4.0, 7.0, 15.0)]
    gates = np.linspace(0, 12, 49)
    curves.append(Curve("transfer", 8.0, gates, model.current(gates, np.array([8.0]))))
    v = np.linspace(0, 4, 41)
    curves.append(Curve("diode", 0.0, v, -model.current(np.zeros(1), -v)))
    return Measured("SYNTH", "SiC-MOSFET", 25.0, tuple(curves))


@needs_ngspice
@pytest.mark.parametrize("tj_c", [25.0, 150.0])
@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)
def test_the_simulated_netlist_is_the_formula(form: Form, tj_c: float) -> None:
    diode = np.array([1e-12, 2.0, 0.05])
    assert len(diode) == len(DIODE)
    model = Model(form, np.array(VALUES[form.name], float), 0.7, 1.5, diode, tj_c=tj_c)
    measured = replace(a_device(model), tj_c=tj_c)
    found = simulate(netlist(model, "m"), measured)
    assert found.errors.nrmse is not None
    # Lines are drawn between 400 steps, which costs most of this.
    assert found.errors.nrmse < 3e-4
    assert max(c.worst for c in found.errors.curves) < 3e-3


@needs_ngspice
def test_simulated_capacitances_are_the_those_of_the_formula_also_at_0_v() -> None:
    model = Model(FORMS[0], np.array(VALUES["level1"], float), capacitances=CAPS)
    v = np.concatenate([[0.0], np.geomspace(0.1, 400, 24)])
    from domain.spice_curves import CV

    measured = replace(a_device(model), capacitances={k: CV(v, c) for k, c in CAPS.curves(v).items()})
    decades = simulate(netlist(model, "m"), measured).errors.capacitance_decades
    assert set(decades) == {"c_iss", "c_oss", "c_rss"}
    assert max(decades.values()) < 1e-3


@needs_ngspice
@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)
def test_a_netlist_gets_through_a_turn_on_and_a_turn_off(form: Form) -> None:
    model = Model(form, np.array(VALUES[form.name], float), 0.7, 1.5, np.array([1e-12, 2.0, 0.05]), capacitances=CAPS)
    assert switches(netlist(model, "m"), a_device(model))


@needs_ngspice
@pytest.mark.parametrize(
    "text", ["* nothing\n", ".subckt m d g s\nB1 d s I = nonsense(\n.ends\n", ".subckt m d g s\nR1 d\n.ends\n"]
)
def test_a_library_that_cannot_be_simulated_fails_with_what_the_simulator_said(text: str) -> None:
    model = Model(FORMS[0], np.array(VALUES["level1"], float))
    with pytest.raises(SimulationFailed, match=r"\w+"):
        simulate(text, a_device(model), timeout_s=20)


def test_a_program_that_hangs_is_killed(tmp_path: Path) -> None:
    slow = tmp_path / "ngspice"
    slow.write_text("#!/bin/sh\ncase $1 in --version) echo ngspice-0;; *) sleep 60;; esac\n")
    slow.chmod(0o755)
    model = Model(FORMS[0], np.array(VALUES["level1"], float))
    with pytest.raises(SimulationFailed, match="did not finish"):
        simulate(netlist(model, "m"), a_device(model), program=str(slow), timeout_s=0.5)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asked of the Linux kernel")
def test_the_simulator_does_not_outlive_a_process_that_is_killed(tmp_path: Path) -> None:
    slow, says = tmp_path / "ngspice", tmp_path / "pid"
    slow.write_text(f"#!/bin/sh\necho $$ > {says}\nexec sleep 300\n")
    slow.chmod(0o755)
    # As in a process of the pool: the fit runs while another thread waits.
    script = (
        "import sys, threading, time, pathlib\n"
        "from adapters.spice.ngspice import _run\n"
        "threading.Thread(target=time.sleep, args=(300,), daemon=True).start()\n"
        "_run(sys.argv[1], pathlib.Path(sys.argv[2]), 300)\n"
    )
    root = str(Path(__file__).resolve().parents[4])
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(slow), str(tmp_path)], env=os.environ | {"PYTHONPATH": root}
    )
    simulator = int(until(lambda: says.exists() and says.read_text().strip()))
    parent.kill()
    parent.wait()
    try:
        until(lambda: not lives(simulator))
    finally:
        if lives(simulator):
            psutil.Process(simulator).kill()


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(true: Callable[[], Any], within_s: float = 60) -> Any:
    deadline = time.monotonic() + within_s
    while not (answer := true()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return answer


def test_without_ngspice_simulating_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.spice.ngspice.ngspice_path", lambda: None)
    model = Model(FORMS[0], np.array(VALUES["level1"], float))
    with pytest.raises(FileNotFoundError, match="apt install ngspice"):
        simulate(netlist(model, "m"), a_device(model))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (".subckt a d g s\n.ends\n", {"a": ["d", "g", "s"]}),
        (".SUBCKT b 1\n+ 2 params: x=1\n.ends\n", {"b": ["1", "2"]}),
        (" .subckt c a k is=1\n.ends\n.subckt d a k\n.ends", {"c": ["a", "k"], "d": ["a", "k"]}),
    ],
)
def test_subcircuits_are_read_with_their_pins(text: str, expected: dict[str, Any]) -> None:
    assert subcircuits(text) == expected
