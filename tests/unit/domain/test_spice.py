import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import OutOfLimits
from domain.spice import Cap, Capacitances, Model, diode_current, thermal_v
from domain.spice_checks import check_measured
from domain.spice_curves import measured_from, measured_json
from domain.spice_forms import FORMS, Facts, Form, softplus
from domain.spice_grade import Errors, Limits, grade, limits_for
from domain.spice_netlist import netlist, spice_name

VALUES = {
    "level1": [3, 5, 0.01, 0.02, 0.004],
    "level3": [3, 8, 0.05, 6, 0.01, 0.02, 0.004],
    "vdmos": [3, 5, 0.01, 0.05, 0.2, 0.7, 0.02, 0.004],
    "ekv": [3, 0.6, 6, 0.05, 0.01, 0.02, 0.004],
    "angelov": [40, 7, 0.3, 0.01, 0.002, 0.1, 0.05, 0.01],
    "vendor": [1.2, 3, 0.6, 0.5, -0.03, 0.02, 0.01],
    "power_tanh": [3, 0.5, 3, 1.4, 0.05, 1, 0.5, 0.01],
    "knee": [3, 0.5, 1, 1.2, 0.03, 0.8, 0.5, 0.9, 1.4, 0.005],
    "quasi": [3, 0.5, 1, 1.2, 0.8, 0.5, 0.9, 1.4, 0.03, 8, 1.5, 1.7, 0.005],
}
every_form = pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)


def model_of(form: Form, **more: Any) -> Model:
    return Model(form, np.array(VALUES[form.name], float), **more)


def curves(*gates: float, slope: float = 1.0) -> list[dict[str, Any]]:
    v = np.linspace(0, 10, 21)
    return [{"vgs": g, "vds": v.tolist(), "id": (slope * (g - 2) * np.tanh(v / g)).tolist()} for g in gates]


@every_form
def test_current_rises_with_gate_and_drain_and_is_zero_at_zero(form: Form) -> None:
    gates, drains = np.linspace(0, 15, 31)[:, None], np.linspace(0, 12, 49)[None, :]
    i = model_of(form).current(gates, drains)
    top = i.max()
    assert np.all(np.diff(i, axis=0) >= -1e-9 * top)
    assert np.all(np.diff(i, axis=1) >= -1e-9 * top)
    assert np.allclose(i[:, 0], 0, atol=1e-9 * top)
    assert top > 10


@every_form
def test_current_and_slope_are_continuous_where_the_drain_becomes_the_source(form: Form) -> None:
    model = model_of(form, beta=0.7, kappa=1.6)
    step = 1e-5
    gate = np.array([9.0])
    up, down = (float(model.current(gate, np.array([v]))[0]) / v for v in (step, -step))
    assert up == pytest.approx(down, rel=1e-3)


@every_form
def test_every_parameter_of_a_form_stands_in_its_netlist_with_its_unit(form: Form) -> None:
    text = netlist(model_of(form), "D1")
    for parameter in form.parameters:
        assert any(line.split()[1:2] == [parameter.name] and parameter.unit in line for line in text.splitlines())
    assert "{" not in text.split(".subckt")[1]


@every_form
def test_starting_values_lie_near_the_bounds_that_the_form_states(form: Form) -> None:
    facts = Facts(7, 15, 100, 12, 16, 4)
    start = np.array(form.start(facts, lambda a, b: (a + b) / 2))
    assert len(start) == len(form.parameters)
    assert np.all((start >= form.low) & (start <= form.high))


def test_a_softplus_neither_overflows_nor_clips() -> None:
    x = np.array([-1e6, -40.0, 0.0, 40.0, 1e6])
    assert np.allclose(softplus(x), [0, math.exp(-40), math.log(2), 40, 1e6], rtol=1e-12, atol=0)


@given(st.floats(1e-24, 1e-6), st.floats(0.8, 8), st.floats(1e-4, 1), st.floats(0, 8))
def test_the_current_of_a_diode_solves_its_equation(i_s: float, n: float, rs: float, v: float) -> None:
    i = float(diode_current(np.array([i_s, n, rs]), np.array([v]), 25.0)[0])
    junction = n * thermal_v(25.0) * math.log1p(i / i_s)
    assert junction + i * rs == pytest.approx(v, rel=1e-6, abs=1e-9)


def test_a_capacitance_is_smooth_falls_with_its_steps_and_is_constant_below_0_v() -> None:
    cap = Cap(1e-12, ((1e-9, 5, 0.6),), ((5e-10, 30, 2.0),))
    v = np.linspace(0, 400, 4001)
    c = cap.c(v)
    assert np.all(np.diff(c) < 0)
    assert np.all(np.abs(np.diff(np.log(c))) < 0.03)
    assert cap.c(np.array([-5.0])) == pytest.approx(cap.c(np.array([0.0])))


def test_coss_and_ciss_of_a_model_are_never_below_crss() -> None:
    caps = Capacitances(Cap(1e-12, ((1e-9, 5, 0.6),)), Cap(1e-11), 1e-9)
    c = caps.curves(np.geomspace(0.1, 1000, 50))
    assert np.all(c["c_oss"] > c["c_rss"])
    assert np.all(c["c_iss"] > c["c_rss"])


def test_two_curves_with_exchanged_labels_are_named() -> None:
    rows = curves(4, 6, 8, 10)
    rows[1]["vgs"], rows[2]["vgs"] = 8, 6
    (finding,) = check_measured(measured_from({"output": rows}))
    assert finding.suspect
    assert finding.vgs == (6, 8)
    assert "swapped" in finding.text


def test_curves_in_order_are_not_suspected() -> None:
    assert check_measured(measured_from({"output": curves(4, 6, 8, 10)})) == []


def test_curves_that_lie_on_each_other_at_high_gate_voltage_are_not_suspected() -> None:
    rows = curves(4, 6, 8)
    rows.append(rows[-1] | {"vgs": 12, "id": [1.001 * q for q in rows[-1]["id"]]})
    assert check_measured(measured_from({"output": rows})) == []


def test_a_curve_that_stands_twice_is_found() -> None:
    rows = curves(4, 6, 8)
    rows.append(rows[0] | {"vgs": 5})
    assert [f.code for f in check_measured(measured_from({"output": rows}))] == ["duplicate"]


def test_coss_below_crss_is_suspect() -> None:
    v = [0.0, 10, 100, 400]
    caps = {"c_oss": {"v": v, "c": [1e-10] * 4}, "c_rss": {"v": v, "c": [2e-10] * 4}}
    found = check_measured(measured_from({"output": curves(4, 6), "capacitance": caps}))
    assert [f.code for f in found] == ["capacitance"]
    assert found[0].suspect


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"output": "no"},
        {"output": [{"vgs": 4, "vds": [0, 1], "id": [0]}]},
        {"output": [{"vgs": None, "vds": [0, 1, 2], "id": [0, 1, 2]}]},
        {"output": [{"vgs": 4, "vds": ["a", "b", "c"], "id": [0, 1, 2]}]},
        {"output": [{"vgs": 4, "vds": [[0, 1, 2]], "id": [[0, 1, 2]]}]},
        {"output": [7]},
        {"output": curves(4), "tj": "warm"},
        {"output": curves(4), "capacitance": {"f": 0}},
        {"output": [{"vgs": 4, "vds": [0, 1, float("nan")], "id": [0, 1, 2]}]},
    ],
)
def test_what_cannot_be_read_is_refused_in_words(data: dict[str, Any]) -> None:
    with pytest.raises(OutOfLimits, match=r"\w+"):
        measured_from(data)


def test_points_that_are_no_numbers_are_dropped_and_the_rest_is_sorted() -> None:
    row = {"vgs": 4, "vds": [3, float("nan"), 1, 2, 2], "id": [3, 9, 1, 2, 4]}
    (curve,) = measured_from({"output": [row]}).curves
    assert curve.x.tolist() == [1, 2, 3]
    assert curve.y.tolist() == [1, 3, 3]


def test_a_diode_curve_at_another_gate_voltage_is_put_aside_and_said() -> None:
    rows = [{"v": [0, 1, 2], "i": [0, 1, 4], "vgs": -4}]
    measured = measured_from({"output": curves(4, 6), "diode": rows})
    assert not measured.of("diode")
    assert "-4" in measured.notes[0]


def test_measured_curves_survive_their_json() -> None:
    first = measured_from(
        {"name": "Q1", "type": "GaN-HEMT", "output": curves(4, 6), "diode": [{"v": [0, 1, 2], "i": [0, 1, 4]}]}
    )
    again = measured_from(measured_json(first))
    assert [(c.kind, c.at, c.x.tolist(), c.y.tolist()) for c in again.curves] == [
        (c.kind, c.at, c.x.tolist(), c.y.tolist()) for c in first.curves
    ]
    assert (again.name, again.device_type) == ("Q1", "GaN-HEMT")


def test_a_model_is_never_good_without_the_simulated_figure() -> None:
    assert grade(None, Limits(0.01)) == "unchecked"
    assert grade(Errors(None, None), Limits(0.01)) == "unchecked"


@pytest.mark.parametrize(
    ("nrmse", "mare", "decades", "expected"),
    [
        (0.009, 0.049, 0.01, "good"),
        (0.011, 0.02, 0.01, "acceptable"),
        (0.009, 0.06, 0.01, "acceptable"),
        (0.009, 0.02, 0.1, "acceptable"),
        (0.031, 0.02, 0.01, "poor"),
        (0.009, 0.11, 0.01, "poor"),
        (0.009, 0.02, 0.2, "poor"),
    ],
)
def test_grades_follow_the_limits(nrmse: float, mare: float, decades: float, expected: str) -> None:
    assert grade(Errors(nrmse, mare, (), {"c_oss": decades}), limits_for("SiC-MOSFET")) == expected


def test_a_suspect_set_has_no_other_grade_however_well_it_fits() -> None:
    assert grade(Errors(0.001, 0.001), Limits(0.01), suspect=True) == "suspect"


def test_silicon_may_be_twice_as_far_off() -> None:
    limits = {t: limits_for(t).good_nrmse for t in ("Si-MOSFET", "MOSFET", "SiC-MOSFET", "GaN-HEMT", "")}
    assert limits == {"Si-MOSFET": 0.02, "MOSFET": 0.02, "SiC-MOSFET": 0.01, "GaN-HEMT": 0.01, "": 0.01}


def test_a_name_becomes_one_that_a_simulator_takes() -> None:
    assert spice_name("2N7000 / rev.B") == "X_2N7000_rev_B"
    assert spice_name("µ") == "DEVICE"


def test_a_header_cannot_leave_its_comment() -> None:
    text = netlist(model_of(FORMS[0]), "D", ["a\n.end", "µ"])
    assert all(line.startswith("*") for line in text.split(".subckt")[0].splitlines())
