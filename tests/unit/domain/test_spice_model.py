from typing import Any
from uuid import UUID

import pytest

from domain import spice_model as module
from domain.errors import AlreadyExists, NotFound, OutOfLimits, WrongState
from domain.spice_curves import measured_from
from domain.spice_model import (
    CancelFit,
    ChartOf,
    CompleteFit,
    FailFit,
    FitCancelled,
    FitFailed,
    FitRequested,
    FitResult,
    FitStarted,
    Fitted,
    FittedParameter,
    PlaceFit,
    RequestFit,
    SpiceModel,
    StartFit,
    by_quantity,
    factor,
    measured,
    shown_by,
    value_in,
    value_in_celsius,
)
from tests.unit.domain.given import given

FIT, AGAIN, SOURCE = UUID(int=1), UUID(int=2), UUID(int=50)
RESULT = FitResult(
    form="vendor",
    parameters=(FittedParameter(name="vt", value=1.4, unit="V"),),
    library="aa" * 32,
    grade="good",
    simulated=True,
    check="simulated by ngspice-39",
    nrmse=0.004,
    mare=0.02,
)


def place(fit_id: UUID = FIT, sources: tuple[UUID, ...] = (SOURCE,), **more: Any) -> PlaceFit:
    request = RequestFit(spice_model_id="GS66506T", fit_id=fit_id, **more)
    return PlaceFit(spice_model_id="GS66506T", request=request, extraction_ids=sources)


def requested(fit_id: UUID = FIT, version: int = 1) -> FitRequested:
    return FitRequested(
        spice_model_id="GS66506T",
        fit_id=fit_id,
        version=version,
        extraction_ids=(SOURCE,),
        queue_id="extractions",
        priority="normal",
    )


def started(attempt: int = 1) -> FitStarted:
    return FitStarted(spice_model_id="GS66506T", fit_id=FIT, attempt=attempt, worker="w")


def complete(attempt: int = 1) -> CompleteFit:
    return CompleteFit(spice_model_id="GS66506T", fit_id=FIT, attempt=attempt, duration_s=3.0, result=RESULT)


FITTED = Fitted(spice_model_id="GS66506T", fit_id=FIT, version=1, attempt=1, duration_s=3.0, result=RESULT)
FAILED = FitFailed(spice_model_id="GS66506T", fit_id=FIT, attempt=1, error="no curve")
CANCELLED = FitCancelled(spice_model_id="GS66506T", fit_id=FIT, reason="later")
START = StartFit(spice_model_id="GS66506T", fit_id=FIT, attempt=1, worker="w")
FAIL = FailFit(spice_model_id="GS66506T", fit_id=FIT, attempt=1, error="no curve")
CANCEL = CancelFit(spice_model_id="GS66506T", fit_id=FIT, reason="later")


def test_each_fit_is_a_version_of_its_own() -> None:
    given(module, SpiceModel()).when(place()).then(requested())
    given(module, SpiceModel(), requested()).when(place()).then()
    given(module, SpiceModel(), requested(), started(), FITTED).when(place(AGAIN)).then(requested(AGAIN, 2))


def test_a_number_is_never_used_again() -> None:
    given(module, SpiceModel(), requested(), CANCELLED).when(place(AGAIN)).then(requested(AGAIN, 2))


def test_the_same_fit_with_other_contents_is_refused() -> None:
    other = place(forms=("level3",))
    given(module, SpiceModel(), requested()).when(other).then_refused(AlreadyExists, match="choose a new id")


def test_a_fit_of_nothing_is_refused() -> None:
    given(module, SpiceModel()).when(place(sources=())).then_refused(OutOfLimits, match="at least 0.5")


def test_a_fit_runs_and_its_version_is_there() -> None:
    given(module, SpiceModel(), requested()).when(START).then(started())
    state = given(module, SpiceModel(), requested(), started()).when(complete()).then(FITTED)
    assert state.latest.number == 1 and state.latest.grade == "good"
    given(module, SpiceModel(), requested(), started(), FITTED).when(complete()).then()


def test_the_newest_fitted_version_is_the_latest() -> None:
    state = given(module, SpiceModel(), requested(), started(), FITTED, requested(AGAIN, 2)).state
    assert state.latest is not None and state.latest.number == 1
    assert given(module, SpiceModel(), requested()).state.latest is None


def test_a_late_word_about_an_earlier_attempt_is_refused() -> None:
    given(module, SpiceModel(), requested(), started(1), started(2)).when(complete(1)).then_refused(WrongState)


def test_a_fit_ends_once() -> None:
    given(module, SpiceModel(), requested(), started()).when(FAIL).then(FAILED)
    given(module, SpiceModel(), requested()).when(CANCEL).then(CANCELLED)
    given(module, SpiceModel(), requested(), started(), FITTED).when(CANCEL).then()
    given(module, SpiceModel(), requested(), started(), FITTED).when(FAIL).then()
    given(module, SpiceModel(), requested(), started(), FITTED).when(START).then_refused(WrongState, match="a new one")


@pytest.mark.parametrize("command", [START, complete(), FAIL, CANCEL])
def test_a_fit_that_was_never_requested_is_not_found(command: Any) -> None:
    given(module, SpiceModel()).when(command).then_refused(NotFound)


# -- from charts to curves ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Vgs = 4 V", 4.0),
        ("V_GS=-2.5V", -2.5),
        ("VGS = 3,5 V", 3.5),
        ("VGS −4 V", -4.0),
        ("10 V", 10.0),
        ("VGS: 500 mV", 0.5),
        ("Ciss", None),
        ("Tj = 25 °C", None),
        (None, None),
    ],
)
def test_the_gate_voltage_stands_in_the_name_of_a_curve(name: str | None, value: float | None) -> None:
    assert value_in(name, "vgs") == value


def test_a_temperature_stands_in_the_name_of_a_curve() -> None:
    assert value_in_celsius("Tj = 150 °C") == 150.0
    assert value_in_celsius("-40ºC") == -40.0
    assert value_in_celsius("4 V") is None


@pytest.mark.parametrize(("unit", "times"), [("A", 1.0), ("mA", 1e-3), ("[nF]", 1e-9), ("pF", 1e-12), ("bananas", 1.0)])
def test_units_become_volts_amperes_and_farads(unit: str, times: float) -> None:
    assert factor(unit) == times


def chart(shows: str | None, *curves: tuple[str | None, list[float], list[float]], **more: Any) -> ChartOf:
    return ChartOf(chart=shows, x_unit="V", y_unit=more.pop("y_unit", "A"), curves=curves, **more)


UP = [0.0, 1.0, 2.0, 3.0]


def test_what_a_chart_shows_is_told_by_its_names_and_units() -> None:
    assert shown_by(chart(None, ("VGS = 4 V", UP, UP), ("VGS = 5 V", UP, UP))) == "output"
    assert shown_by(chart(None, ("Ciss", UP, UP), y_unit="pF")) == "capacitance"
    assert shown_by(chart(None, (None, UP, UP))) == "other"
    assert shown_by(chart("transfer", ("VGS = 4 V", UP, UP))) == "transfer"


@pytest.mark.parametrize(
    ("x_title", "y_unit", "shows"),
    [
        ("VGS (V)", "A", "transfer"),
        ("V_GS, Gate-to-Source Voltage [V]", "mA", "transfer"),
        ("VSD, Source-to-Drain Voltage (V)", "A", "body_diode"),
        ("Gate Source Voltage (V)", "nC", "other"),
        ("VDS (V)", "pF", "capacitance"),
        ("VDS (V)", "A", "other"),
    ],
)
def test_what_a_chart_shows_is_told_by_the_title_of_its_axis(x_title: str, y_unit: str, shows: str) -> None:
    assert shown_by(chart(None, (None, UP, UP), x_title=x_title, y_unit=y_unit)) == shows


def test_a_chart_that_nobody_understands_is_left_out_once_and_by_name() -> None:
    unknown = chart(None, (None, UP, UP), (None, UP, UP), source="sheet.png")
    data, notes = measured("x", "", [unknown])
    assert set(data) == {"name", "type", "tj"}
    assert notes == ["sheet.png is left out: nothing tells what it shows (images describe --chart)"]


def test_charts_of_a_device_become_its_measured_curves() -> None:
    charts = [
        chart("output", ("VGS = 4 V", UP, UP), ("VGS = 6 V", UP, [0.0, 2.0, 4.0, 6.0]), y_unit="mA"),
        chart("transfer", ("25 °C", UP, UP), ("150 °C", UP, UP), vds_v=20.0),
        chart("body_diode", ("VGS = 0 V", [-0.0, -1.0, -2.0], [-0.0, -3.0, -9.0])),
        chart("capacitance", ("Ciss", UP, [9.0] * 4), ("C_oss", UP, [5.0] * 4), ("Crss", UP, [1.0] * 4), y_unit="pF"),
        chart("other", ("efficiency", UP, UP)),
    ]
    data, notes = measured("GS66506T", "GaN-HEMT", charts)
    read = measured_from(data)
    assert [(c.kind, c.at) for c in read.curves] == [
        ("output", 4.0),
        ("output", 6.0),
        ("transfer", 20.0),
        ("diode", 0.0),
    ]
    assert read.of("output")[1].top == pytest.approx(6e-3)
    assert read.of("diode")[0].y.tolist() == [0.0, 3.0, 9.0]
    assert set(read.capacitances) == {"c_iss", "c_oss", "c_rss"} and read.capacitances["c_iss"].c[0] == 9e-12
    assert len(notes) == 2 and "150 °C" in notes[0] and "something else" in notes[1]
    spans = by_quantity(data)
    assert (spans["vgs"].value_from, spans["vgs"].value_to) == (0.0, 6.0)
    assert spans["capacitance_v"].value_to == 3.0


def test_a_unit_that_was_not_read_is_assumed_aloud_or_not_at_all() -> None:
    current = chart("output", ("VGS = 4 V", UP, UP), y_unit="", source="output.png")
    capacitance = chart("capacitance", ("Ciss", UP, UP), y_unit="", source="c.png")
    data, notes = measured("x", "", [current, capacitance])
    assert data["output"][0]["id"] == UP and "capacitance" not in data
    assert "y axis of output.png was not read and is taken to be A" in notes[0]
    assert notes[1].startswith("c.png is left out: the unit of its capacitances was not read")


def test_charts_at_another_temperature_are_left_out() -> None:
    charts = [
        chart("output", ("VGS = 4 V", UP, UP), tj_c=25.0),
        chart("output", ("VGS = 4 V", UP, UP), tj_c=150.0),
    ]
    data, notes = measured("x", "", charts)
    assert data["tj"] == 25.0 and len(data["output"]) == 1 and "150 °C" in notes[0]


def test_a_curve_that_says_another_temperature_is_left_out() -> None:
    data, notes = measured("x", "", [chart("output", ("VGS = 4 V, 25 °C", UP, UP), ("VGS = 4 V, 150 °C", UP, UP))])
    assert [row["vgs"] for row in data["output"]] == [4.0] and "150 °C" in notes[0]


def test_a_curve_whose_voltage_nobody_knows_is_left_out_with_a_note() -> None:
    data, notes = measured("x", "", [chart("output", (None, UP, UP)), chart("transfer", (None, UP, UP))])
    assert "output" not in data and "transfer" not in data
    assert len(notes) == 2
