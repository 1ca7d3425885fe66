"""Two y axes: curves go to the axis whose labels have their colour; without such evidence that is said, and is not sure."""

import io
import json
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from adapters.curves.document import read
from adapters.curves.extract import Extraction, Given, Options
from adapters.curves.table import csv_text

mpl.use("pdf")
import matplotlib.pyplot as plt

X = np.linspace(0.5, 9.5, 150)
Saved = Callable[[Any], bytes]


def as_pdf(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="pdf")
    plt.close(figure)
    return out.getvalue()


def as_png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=130)
    plt.close(figure)
    return out.getvalue()


def two_axes(*, coloured: bool) -> Any:
    figure, left = plt.subplots(figsize=(6, 4.5))
    right = left.twinx()
    left.plot(X, 10 * X, color="tab:blue" if coloured else "k", linewidth=1.6)
    right.plot(X, 9 - 0.5 * X, color="tab:red" if coloured else "k", linewidth=1.6)
    left.set_ylim(0, 100)
    right.set_ylim(0, 12)
    if coloured:
        left.tick_params(axis="y", colors="tab:blue")
        right.tick_params(axis="y", colors="tab:red")
    return figure


def errors(done: Extraction) -> dict[str, float]:
    out: dict[str, float] = {}
    for curve in done.curves:
        true, span = (10 * curve.x, 100) if curve.axis == "y" else (9 - 0.5 * curve.x, 12)
        out[curve.axis] = float(np.percentile(np.abs(curve.y - true), 95)) / span
    return out


@pytest.mark.parametrize(("saved", "limit"), [(as_pdf, 0.001), (as_png, 0.01)])
def test_each_curve_is_read_on_the_axis_of_its_colour(saved: Saved, limit: float) -> None:
    (done,) = read(saved(two_axes(coloured=True)))
    assert done.second is not None
    found = errors(done)
    assert set(found) == {"y", "y2"}
    assert max(found.values()) < limit


@pytest.mark.parametrize("saved", [as_pdf, as_png])
def test_without_evidence_it_is_said_and_not_accepted(saved: Saved) -> None:
    (done,) = read(saved(two_axes(coloured=False)))
    assert done.second is not None
    assert {curve.axis for curve in done.curves} == {"y"}
    assert done.confidence < 0.5
    assert any("second y axis" in note for note in done.notes)


def test_the_same_axis_written_at_both_sides_is_one_axis() -> None:
    figure, axes = plt.subplots()
    axes.plot(X, X**2, "k")
    axes.tick_params(axis="y", labelright=True, right=True)
    (done,) = read(as_pdf(figure))
    assert done.second is None and done.confidence >= 0.9


def named_at_their_ends(values: tuple[int, ...]) -> Any:
    """Curves at even distances, each with a number at its end outside of the frame."""
    figure, axes = plt.subplots(figsize=(6.2, 4.6))
    at = np.linspace(0, 10, 100)
    for value in values:
        y = 100 * value / max(values) * (1 - np.exp(-at / 3))
        axes.plot(at, y, "k")
        axes.text(10.15, y[-1], f"{value}", va="center")
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 100)
    return figure


@pytest.mark.parametrize("saved", [as_pdf, as_png])
@pytest.mark.parametrize("values", [(2, 4, 6, 8, 10), (5, 10, 15)])
def test_numbers_at_the_ends_of_curves_are_no_axis(saved: Saved, values: tuple[int, ...]) -> None:
    (done,) = read(saved(named_at_their_ends(values)))
    assert len(done.curves) == len(values)
    assert done.second is None and not any("second y axis" in note for note in done.notes)


def test_the_labels_of_a_colour_bar_are_no_axis() -> None:
    figure, axes = plt.subplots(figsize=(6.2, 4.6))
    dots = axes.scatter(X, X**2, c=X)
    axes.set_ylim(0, 100)
    figure.colorbar(dots)
    (done,) = read(as_png(figure))
    assert done.second is None


def test_files_say_which_axis_a_curve_is_on() -> None:
    (done,) = read(as_pdf(two_axes(coloured=True)))
    prediction = json.loads(json.dumps(done.prediction()))
    assert prediction["axes"]["y2"]["max"] == pytest.approx(12, rel=1e-3)
    assert sorted(curve["axis"] for curve in prediction["curves"]) == ["y", "y2"]
    assert "(on y2)" in csv_text(done) and "# y2:" in csv_text(done)


def sent_back(data: bytes, calibration: object) -> Extraction:
    given = Given.from_json(json.loads(json.dumps(calibration)))
    (done,) = read(data, Options(calibration=given, page=1))
    return done


@pytest.mark.parametrize(("saved", "limit"), [(as_pdf, 0.001), (as_png, 0.01)])
def test_both_axes_that_were_found_can_be_sent_back(saved: Saved, limit: float) -> None:
    data = saved(two_axes(coloured=True))
    (first,) = read(data)
    calibration = first.calibration()
    assert calibration is not None and len(calibration["y2"]["through"]) == 1
    found = errors(sent_back(data, calibration))
    assert set(found) == {"y", "y2"}
    assert max(found.values()) < limit


@pytest.mark.parametrize(("saved", "limit"), [(as_pdf, 0.001), (as_png, 0.01)])
def test_who_says_which_curve_is_on_the_second_axis_is_believed(saved: Saved, limit: float) -> None:
    data = saved(two_axes(coloured=False))
    (first,) = read(data)
    calibration = first.calibration()
    assert calibration is not None and calibration["y2"]["through"] == []
    # On the first axis the falling curve is read as 75 down to 35; the rising one begins at 5.
    falling = next(curve for curve in first.curves if np.polyfit(curve.x, curve.y, 1)[0] < 0)
    calibration["y2"]["through"] = [list(falling.mark)]
    calibration["y2"]["title"] = "loss (dB)"
    again = sent_back(data, calibration)
    found = errors(again)
    assert set(found) == {"y", "y2"} and max(found.values()) < limit
    assert again.notes == () and again.confidence > first.confidence
    assert "# y2: loss (dB); linear; " in csv_text(again)


def test_a_picture_sent_back_without_the_second_axis_has_one() -> None:
    data = as_png(two_axes(coloured=True))
    (first,) = read(data)
    calibration = first.calibration()
    assert calibration is not None
    del calibration["y2"]
    again = sent_back(data, calibration)
    assert again.second is None and {curve.axis for curve in again.curves} == {"y"}
