"""The fit on devices that were never made, with the faults that digitised curves have."""

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy", reason="SciPy is not installed: nothing is fitted here")

from adapters.spice.fit import FitCancelled, fit, fit_cap
from adapters.spice.fit import Watch as Watch
from adapters.spice.ngspice import ngspice_path
from domain.errors import OutOfLimits
from domain.spice_curves import CV, measured_from
from labledger import spice as without_server
from tests.unit.adapters.spice.synthetic import device, drain_current

needs_ngspice = pytest.mark.skipif(
    ngspice_path() is None, reason="ngspice is not installed: models are NOT simulated here"
)
#: The two that are the best on most devices; the others cost time and change nothing in these tests.
FEW = ("knee", "quasi")


def channel(**options: Any) -> dict[str, Any]:
    """The device without its diode and capacitances, which take half of the time of a fit, for what is about its curves alone."""
    return {key: value for key, value in device(**options).items() if key not in ("diode", "capacitance")}


def truth_error(model: Any, gates: tuple[float, ...] = (6, 8, 10, 12, 14)) -> float:
    """rms error against the clean curves at gate voltages that were not measured, as a share of the largest current."""
    v = np.linspace(0, 12, 50)
    away = [model.current(np.array([g]), v) - drain_current(g, v) for g in gates]
    return float(np.sqrt(np.mean(np.square(away)))) / float(drain_current(15, np.array([12.0]))[0])


@needs_ngspice
def test_a_whole_device_is_fitted_simulated_and_good() -> None:
    done = fit(measured_from(device()))
    assert done.grade == "good", done.findings
    assert done.best.simulated is not None
    assert done.best.judged.nrmse is not None
    assert done.best.judged.nrmse < 0.005
    assert max(done.best.judged.capacitance_decades.values()) < 0.03
    assert done.converges
    assert {c.model.form_name for c in done.candidates} >= {
        "level1",
        "level3",
        "vdmos",
        "ekv",
        "angelov",
        "vendor",
        "knee",
    }
    assert truth_error(done.best.model) < 0.01


@pytest.mark.parametrize("noise", [0.01, 0.02])
def test_noise_does_not_move_the_model_from_the_truth(noise: float) -> None:
    done = fit(measured_from(channel(noise=noise)), forms=FEW, simulator=False)
    assert truth_error(done.best.model) < 0.012


def test_slips_of_the_digitiser_do_not_pull_and_are_named() -> None:
    done = fit(measured_from(channel(noise=0.005, slips=6)), forms=FEW, simulator=False)
    assert truth_error(done.best.model) < 0.012
    assert 4 <= len(done.outliers) <= 8


def test_few_points_are_enough() -> None:
    done = fit(measured_from(channel(gates=(7, 11, 15), points=8) | {"transfer": []}), simulator=False)
    assert truth_error(done.best.model, (8, 10, 12, 14)) < 0.03


@pytest.mark.parametrize("missing", ["output", "transfer", "diode", "capacitance"])
def test_a_set_that_is_missing_leaves_the_rest(missing: str) -> None:
    data = {k: v for k, v in device().items() if k != missing}
    done = fit(measured_from(data), forms=("knee",), simulator=False)
    assert done.best.formula.nrmse is not None
    assert done.best.formula.nrmse < 0.02


def test_without_the_simulator_nothing_is_called_good() -> None:
    done = fit(measured_from(device()), forms=("knee",), simulator=False)
    assert done.grade == "unchecked"
    assert done.check.startswith("skipped")


def test_without_ngspice_the_fit_works_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.spice.fit.ngspice_path", lambda: None)
    result = without_server.fit(device(), forms=("knee",), draw=False)
    assert result.grade == "unchecked"
    assert "ngspice is not installed" in result.report["check"]
    assert "NOT CHECKED" in result.library


@pytest.mark.parametrize(("a", "b"), [(11, 13), (7, 9)])
def test_exchanged_labels_are_suspect_and_named_and_fit_once_put_right(a: float, b: float) -> None:
    data = channel()
    for row in data["output"]:
        row["vgs"] = {a: b, b: a}.get(row["vgs"], row["vgs"])
    done = fit(measured_from(data), forms=FEW, simulator=False)
    assert done.grade == "suspect"
    assert done.findings[0].code == "swapped"
    assert done.findings[0].vgs == (a, b)
    assert done.suggestion is not None
    assert (done.suggestion.best.formula.nrmse or 1) < 0.01


def test_a_curve_with_a_wrong_label_is_named() -> None:
    data = channel()
    # Still in order, so that only the misfit can tell: 9 V is read as 5.5 V.
    data["output"] = [r | {"vgs": 5.5} if r["vgs"] == 9 else r for r in data["output"] if r["vgs"] not in (7,)]
    done = fit(measured_from(data), forms=FEW, simulator=False)
    assert done.grade == "suspect"
    assert done.findings[0].vgs == (5.5,)


def test_curves_that_no_device_has_are_suspect() -> None:
    rng = np.random.default_rng(3)
    data = channel()
    for row in data["output"]:
        row["id"] = (100 * rng.random(len(row["vds"]))).tolist()
    assert fit(measured_from(data), forms=FEW, simulator=False).grade == "suspect"


def test_the_same_curves_give_the_same_library() -> None:
    one, two = (
        without_server.fit(device(), forms=("vendor",), simulator=False, draw=False, date=datetime.date(2026, 5, 1))
        for _ in range(2)
    )
    assert one.library == two.library


def test_progress_rises_from_0_to_100_and_a_fit_can_be_cancelled() -> None:
    seen: list[int] = []
    fit(measured_from(device()), forms=("vendor",), simulator=False, progress=lambda percent, _: seen.append(percent))
    assert seen == sorted(set(seen))
    assert (seen[0], seen[-1]) == (0, 100)
    calls = iter(range(10**9))
    with pytest.raises(FitCancelled):
        fit(measured_from(channel()), simulator=False, cancelled=lambda: next(calls) > 200)


def test_what_has_no_channel_curves_is_refused() -> None:
    with pytest.raises(OutOfLimits, match="output or transfer"):
        fit(measured_from({"type": "SiC-MOSFET", "diode": [{"v": [0, 1, 2], "i": [0, 1, 3]}]}))


@needs_ngspice
def test_a_diode_part_has_two_pins_and_is_good() -> None:
    v = np.linspace(0, 2.2, 40)
    i = 12 * (0.08 * np.log1p(np.exp((v - 0.9) / 0.08))) ** 1.1
    result = without_server.fit(
        {"name": "D1", "type": "SiC-diode", "diode": [{"v": v.tolist(), "i": i.tolist()}]}, draw=False
    )
    assert ".subckt D1 a k" in result.library
    assert result.grade == "good"


def test_a_capacitance_with_a_superjunction_step_is_followed() -> None:
    v = np.linspace(0, 400, 60)
    c = 4e-8 / (1 + np.exp((v - 30) / 3)) + 9e-11 + 2e-10 * (1 + v / 30) ** -0.7
    found = fit_cap(CV(v, c), None, Watch())
    assert float(np.sqrt(np.mean((np.log10(found.c(v)) - np.log10(c)) ** 2))) < 0.03


@needs_ngspice
def test_the_command_writes_library_report_and_picture_and_check_agrees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed: no picture is drawn here")
    measured, image = tmp_path / "Q7.json", tmp_path / "curves.png"
    measured.write_text(json.dumps(device()))
    image.write_bytes(b"not really an image")
    words = [
        "fit",
        str(measured),
        "--out",
        str(tmp_path / "out"),
        "--name",
        "Q7",
        "--date",
        "2026-05-01",
        "--image",
        str(image),
    ]
    assert without_server.main([*words, "--form", "knee", "--form", "quasi"]) == 0
    library = (tmp_path / "out" / "Q7.lib").read_text()
    assert f"curves.png sha256:{hashlib.sha256(image.read_bytes()).hexdigest()}" in library
    assert "date: 2026-05-01" in library
    assert "valid within:" in library
    report = json.loads((tmp_path / "out" / "Q7.spice.json").read_text())
    assert report["simulated"]["nrmse"] < 0.01
    assert all(p["low"] <= p["value"] <= p["high"] for p in report["parameters"])
    assert (tmp_path / "out" / "Q7.spice.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    assert without_server.main(["check", str(tmp_path / "out" / "Q7.lib"), str(measured), "--limit", "0.01"]) == 0
    assert json.loads(capsys.readouterr().out)["simulated"]["nrmse"] == pytest.approx(
        report["simulated"]["nrmse"], rel=1e-6
    )
    assert without_server.main(["check", str(tmp_path / "out" / "Q7.lib"), str(measured), "--limit", "1e-6"]) == 1


@pytest.mark.parametrize("text", ["", "[1]", "{}", "\x00\x01", '{"output": 3}'])
def test_wrong_input_is_refused_with_status_2(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.json"
    path.write_text(text)
    assert without_server.main(["fit", str(path), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.strip()
