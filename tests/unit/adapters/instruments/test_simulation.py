"""The simulated instruments are plausible, and come out the same again."""

from collections.abc import Iterator
from statistics import mean, pstdev
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest

from adapters.instruments.rack import drivers
from adapters.instruments.simulation import forget_world, noise, noise_array
from domain.errors import Gone

POINTS = [(0.0, 0.0), (2.0, 3.0), (-0.5, 7.25), (6.5, 6.0)]


@pytest.fixture(autouse=True)
def _power_off() -> Iterator[None]:
    forget_world("lab")
    yield
    forget_world("lab")


def instrument(driver: str, **options: Any) -> Any:
    it = drivers()[f"simulated_{driver}"](driver, options)  # type: ignore[call-arg]
    it.open()
    return it


def move(stage: Any, x: float, y: float) -> None:
    stage.write("x", x)
    stage.write("y", y)
    while not (stage.settled("x") and stage.settled("y")):
        sleep(0.0005)


def mapped(points: list[tuple[float, float]], **options: Any) -> list[float]:
    """A map with everything switched on anew."""
    forget_world("lab")
    stage, meter = instrument("stage", speed_mm_s=1e5), instrument("multimeter", **options)
    voltages: list[float] = []
    for x, y in points:
        move(stage, x, y)
        voltages.append(meter.read(("voltage",))["voltage"])
    return voltages


def test_noise_is_normal_and_depends_on_all_that_it_is_given() -> None:
    draws = [noise(1, "a", (float(n),)) for n in range(4000)]
    assert abs(mean(draws)) < 0.06 and abs(pstdev(draws) - 1.0) < 0.05
    assert len({noise(1, "a", (0.5,)), noise(2, "a", (0.5,)), noise(1, "b", (0.5,)), noise(1, "a", (0.6,))}) == 4
    assert noise(1, "a", (0.0,)) == noise(1, "a", (-0.0,))
    assert noise(7, "voltage", (1.0, 2.0)) == pytest.approx(0.8607274738196288, rel=1e-12)
    assert np.array_equal(noise_array(1, "a", (0.5,), 5), noise_array(1, "a", (0.5,), 5))


def test_a_map_comes_out_the_same_again_also_from_the_middle() -> None:
    whole = mapped(POINTS)
    assert whole == mapped(POINTS)
    assert whole[2:] == mapped(POINTS[2:])
    assert whole != mapped(POINTS, seed=2)


def test_noise_by_count_goes_on_where_the_number_of_the_reading_says() -> None:
    meter = instrument("multimeter", noise_by="count")
    series = [meter.read(("voltage",))["voltage"] for _ in range(5)]
    assert len(set(series)) == 5
    meter.write("reads", 3)
    assert [meter.read(("voltage",))["voltage"] for _ in range(2)] == series[3:]


def test_a_map_shows_the_spots() -> None:
    voltages = mapped([(2.0, 3.0), (30.0, 30.0), (6.5, 6.0)], noise_v=0.0)
    assert voltages[0] == pytest.approx(1.01, abs=0.01)
    assert voltages[1] == pytest.approx(0.01, abs=1e-6)
    assert voltages[2] == pytest.approx(0.71, abs=0.02)


def test_longer_integration_is_quieter() -> None:
    meter = instrument("multimeter", noise_by="count")
    noises: list[float] = []
    for integration in (0.1, 10.0):
        meter.write("integration", integration)
        noises.append(pstdev(meter.read(("voltage",))["voltage"] for _ in range(300)))
    assert noises[0] / noises[1] == pytest.approx(10.0, rel=0.3)


def test_a_stage_takes_its_time_and_stands_exactly_where_it_was_sent() -> None:
    stage = instrument("stage", speed_mm_s=100.0)
    start = monotonic()
    assert stage.write("x", 5.0) == 5.0
    assert not stage.settled("x") and 0.0 <= stage.read(("x",))["x"] < 5.0
    assert stage.readback("x") == 5.0
    while not stage.settled("x"):
        sleep(0.001)
    assert monotonic() - start >= 0.05
    assert stage.read(("x",))["x"] == 5.0


def test_a_stage_that_is_stopped_stays_between() -> None:
    stage = instrument("stage", speed_mm_s=100.0)
    stage.write("x", 50.0)
    sleep(0.02)
    stage.stop()
    stopped = stage.read(("x",))["x"]
    assert stage.settled("x") and 0.0 < stopped < 50.0
    sleep(0.01)
    assert stage.read(("x",))["x"] == stopped


def test_a_device_is_found_where_it_was_left() -> None:
    move(instrument("stage", speed_mm_s=1e5), 3.0, 4.0)
    again = instrument("stage", speed_mm_s=1e5)
    assert again.read(("x", "y"))["y"] == 4.0


def test_a_piezo_moves_the_focus_of_the_meter() -> None:
    stage, piezo, meter = (
        instrument("stage", speed_mm_s=1e5),
        instrument("piezo"),
        instrument("multimeter", noise_v=0.0),
    )
    move(stage, 2.0, 3.0)
    piezo.write("z", 0.0)
    sharp = meter.read(("voltage",))["voltage"]
    piezo.write("z", 20.0)
    while not piezo.settled("z"):
        sleep(0.001)
    assert meter.read(("voltage",))["voltage"] - 0.01 == pytest.approx((sharp - 0.01) / 2.0)
    assert piezo.read(("voltage",))["voltage"] == pytest.approx(30.0)
    piezo.safe()
    assert piezo.readback("z") == 0.0


def test_a_temperature_ramps_and_settles_in_its_band() -> None:
    oven = instrument("temperature", ramp_k_min=6000.0, noise_k=0.0)
    oven.write("setpoint", 300.0)
    assert not oven.settled("setpoint")
    start = monotonic()
    while not oven.settled("setpoint"):
        sleep(0.001)
    assert monotonic() - start == pytest.approx(4.95 / 100.0, abs=0.04)
    assert oven.read(("temperature",))["temperature"] == pytest.approx(300.0, abs=0.06)
    oven.safe()
    sleep(0.02)
    assert oven.read(("temperature", "heater"))["temperature"] < 300.0
    assert not oven.settled("setpoint")


def test_a_lock_in_sees_the_low_pass() -> None:
    lockin = instrument("lockin", noise_v=0.0, time_constant_s=1e-5)
    lockin.write("frequency", 1000.0)
    while not lockin.settled("frequency"):
        pass
    at_cutoff = lockin.read(("x", "y", "r", "theta"))
    assert at_cutoff["theta"] == pytest.approx(-45.0)
    lockin.write("frequency", 1.0)
    assert lockin.read(("r",))["r"] == pytest.approx(at_cutoff["r"] * 2**0.5, rel=1e-4)
    assert at_cutoff["r"] == pytest.approx(np.hypot(at_cutoff["x"], at_cutoff["y"]))


def test_a_spectrometer_sees_its_lines_only_with_the_shutter_open() -> None:
    move(instrument("stage", speed_mm_s=1e5), 2.0, 3.0)
    spectrometer = instrument("spectrometer", lines_nm=(560.0,))
    dark = spectrometer.read(("spectrum",))["spectrum"]
    spectrometer.write("shutter", "open")
    light = spectrometer.read(("spectrum", "wavelength"))
    assert dark.max() < 200 < 10000 < light["spectrum"].max() <= 65535
    assert light["wavelength"][light["spectrum"].argmax()] == pytest.approx(560.0, abs=2.0)
    spectrometer.safe()
    assert np.array_equal(spectrometer.read(("spectrum",))["spectrum"], dark)


def test_a_delay_is_taken_by_every_call_and_what_is_closed_does_not_answer() -> None:
    meter = instrument("multimeter", delay_s=0.02)
    for call in (meter.identify, lambda: meter.read(("voltage",)), lambda: meter.write("integration", 1.0), meter.safe):
        start = monotonic()
        call()
        assert monotonic() - start >= 0.02
    meter.close()
    with pytest.raises(Gone):
        meter.identify()
