"""Laws that order curves of one kind, between axes for which they hold."""

import numpy as np
import pytest

from adapters.curves.physics import Order, order_of
from adapters.curves.shapes import Path


def way(*points: tuple[float, float]) -> Path:
    """A path through points given as (x, height)."""
    corners = np.array(points)
    at = np.linspace(0, len(points) - 1, 400)
    x, y = (np.interp(at, np.arange(len(points)), corners[:, k]) for k in (0, 1))
    return Path(np.c_[x, 400 - y])


LOW, MIDDLE, HIGH = (way((50, 0), (500, h)) for h in (80, 200, 350))


def ranked(names: list[str], paths: list[Path], x: str, y: str) -> list[str] | None:
    """The names of the paths, one after the other, as physics gives them."""
    order = order_of(names, paths, x, y)
    if order is None:
        return None
    by_value = [n for _, n in sorted(zip(order.values, names, strict=True))]
    rank = np.argsort(np.argsort(order.places))
    return [by_value[k] for k in rank]


@pytest.mark.parametrize(
    ("names", "x", "y"),
    [
        (["VGS = 4 V", "VGS = 6 V", "VGS = 10 V"], "VDS (V)", "ID (A)"),
        (["4 V", "6 V", "10 V"], "VDS, Drain-to-Source Voltage (V)", "Drain Current (A)"),
        (["Crss", "Coss", "Ciss"], "VDS (V)", "C (pF)"),
    ],
)
def test_what_lies_higher_at_the_right_has_the_greater_value(names: list[str], x: str, y: str) -> None:
    assert ranked(names, [LOW, MIDDLE, HIGH], x, y) == names
    assert ranked(names, [HIGH, LOW, MIDDLE], x, y) == [names[2], names[0], names[1]]


@pytest.mark.parametrize(
    ("x", "y"),
    [("ID (A)", "RDS(on) (mΩ)"), ("ID (A)", "Drain-to-Source On-Resistance, ID = 4 A (A)"), ("T (°C)", "Gain (dB)")],
)
def test_gate_voltages_order_nothing_but_currents(x: str, y: str) -> None:
    assert order_of(["VGS = 4 V", "VGS = 6 V"], [LOW, HIGH], x, y) is None


def test_volts_are_gate_voltages_on_an_axis_of_drain_voltage_only() -> None:
    assert order_of(["4 V", "6 V"], [LOW, HIGH], "Frequency (Hz)", "Supply Current (A)") is None
    assert order_of(["4 V", "6 V"], [LOW, HIGH], "VGS, Gate-to-Source Voltage (V)", "ID (A)") is None


def test_hot_silicon_conducts_earlier_though_it_conducts_less_at_high_currents() -> None:
    hot, cold = way((100, 0), (250, 120), (500, 250)), way((180, 0), (250, 120), (400, 390))
    for x, y in (("VGS (V)", "ID (A)"), ("Forward Voltage (V)", "IF (A)"), ("VSD, Source-Drain Voltage (V)", "[A]")):
        assert ranked(["TJ = 25 °C", "TJ = 150 °C"], [hot, cold], x, y) == ["TJ = 150 °C", "TJ = 25 °C"]
        assert ranked(["-40 °C", "25 °C"], [cold, hot], x, y) == ["-40 °C", "25 °C"]
    assert order_of(["25 °C", "150 °C"], [hot, cold], "VDS (V)", "ID (A)") is None
    assert order_of(["25 °C", "150 °C"], [hot, cold], "VGS (V)", "gfs (S)") is None


def test_curves_that_do_not_part_at_their_foot_have_no_order_there() -> None:
    one, other = way((100, 0), (200, 120), (500, 250)), way((100, 0), (200, 120), (400, 390))
    assert order_of(["25 °C", "150 °C"], [one, other], "VGS (V)", "ID (A)") is None


def test_longer_pulses_heat_more_where_pulses_are_short() -> None:
    single, long = way((50, 20), (500, 390)), way((50, 200), (400, 330), (500, 390))
    assert ranked(["single pulse", "D = 0.5"], [single, long], "tp (s)", "ZthJC (K/W)") == ["single pulse", "D = 0.5"]
    assert ranked(["D = 0.02", "D = 0.1"], [long, single], "tp (s)", "") == ["D = 0.1", "D = 0.02"]


def test_a_higher_drain_voltage_takes_more_charge() -> None:
    ways = [way((50, 0), (120, 150), (end, 152), (end + 100, 380)) for end in (250, 320)]
    assert ranked(["VDS = 20 V", "VDS = 80 V"], ways, "QG (nC)", "VGS (V)") == ["VDS = 20 V", "VDS = 80 V"]
    assert order_of(["VDS = 20 V", "VDS = 80 V"], ways, "Time (s)", "VGS (V)") is None


def test_names_of_several_kinds_or_twice_the_same_have_no_order() -> None:
    assert order_of(["VGS = 4 V", "TJ = 25 °C"], [LOW, HIGH], "VDS (V)", "ID (A)") is None
    assert order_of(["VGS = 4 V", "VGS = 4 V"], [LOW, HIGH], "VDS (V)", "ID (A)") is None
    assert order_of(["run 1", "run 2"], [LOW, HIGH], "VDS (V)", "ID (A)") is None
    assert isinstance(order_of(["VGS = 4 V", "VGS = 5 V"], [LOW, HIGH], "VDS (V)", "ID (A)"), Order)
