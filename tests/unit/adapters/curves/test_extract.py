"""From a drawn picture to numbers and back."""

import json
from collections.abc import Sequence

import numpy as np
import pytest

from adapters.curves.extract import Extraction, Given, Options, extract
from adapters.curves.frame import corners
from adapters.curves.overlay import overlay
from adapters.curves.shapes import Box, Frame, Rgb, Word
from adapters.curves.table import csv_text
from adapters.curves.words import read_boxes, titles_joined
from domain.errors import Refused
from labledger.curves import unit_in

from .conftest import Drawing

BLACK, RED, BLUE = (0, 0, 0), (210, 20, 20), (20, 20, 210)


def worst(result: Extraction, function: object, low: float, high: float) -> float:
    """Smallest of the curves' 95th percentile distances from a function, as a part of the y range."""
    assert callable(function)
    errors = [float(np.percentile(np.abs(c.y - function(c.x)), 95)) / (high - low) for c in result.curves]  # type: ignore[operator]
    return min(errors)


def test_one_black_curve_over_a_grid_is_found_within_one_percent(drawing: Drawing) -> None:
    result = extract(drawing([(lambda x: x**2, BLACK)]))
    assert len(result.curves) == 1
    assert result.x is not None and result.x.scale == "linear"
    assert (result.x.v0, result.x.v1) == pytest.approx((0, 10), abs=0.1)
    assert worst(result, lambda x: x**2, 0, 100) < 0.01


def test_two_black_curves_that_cross_go_straight_on(drawing: Drawing) -> None:
    rising, falling = (lambda x: 10 + 8 * x), (lambda x: 90 - 7 * x)
    result = extract(drawing([(rising, BLACK), (falling, BLACK)]))
    assert len(result.curves) == 2
    assert worst(result, rising, 0, 100) < 0.01
    assert worst(result, falling, 0, 100) < 0.01


def test_curves_of_different_colours_are_told_apart(drawing: Drawing) -> None:
    upper, lower = (lambda x: 60 + 30 * np.sin(x)), (lambda x: 20 + 2 * x)
    result = extract(drawing([(upper, RED), (lower, BLUE)]))
    assert len(result.curves) == 2
    assert worst(result, upper, 0, 100) < 0.012
    assert worst(result, lower, 0, 100) < 0.01
    assert {int(np.argmax(c.colour)) for c in result.curves} == {0, 2}


def test_without_labels_nothing_is_claimed(drawing: Drawing) -> None:
    result = extract(drawing([(lambda x: x**2, BLACK)], labels=False))
    assert result.curves == ()
    assert result.confidence < 0.1
    assert any("calibration" in note for note in result.notes)


def test_a_calibration_can_be_corrected_and_sent_back(drawing: Drawing) -> None:
    picture = drawing([(lambda x: x**2, BLACK)])
    editable = extract(picture).calibration()
    assert editable is not None
    editable["y"]["calibration"][1]["value"] *= 10
    again = extract(picture, Options(calibration=Given.from_json(json.loads(json.dumps(editable)))))
    assert again.y is not None and again.y.v1 == pytest.approx(1000, rel=0.01)
    assert worst(again, lambda x: 10 * x**2, 0, 1000) < 0.01


@pytest.mark.parametrize(
    ("title", "unit"),
    [
        ("ID, Drain-to-Source Current (A)", "A"),
        ("C [pF]", "pF"),
        ("VDS / V", "V"),
        ("VIN - Input Voltage - V", "V"),
        ("Ground Current – μA", "μA"),
        ("VR, REVERSE VOLTAGE (VOLTS)", "V"),
        ("FORWARD CURRENT (AMPERES)", "A"),
        ("Gain (dB)", ""),
        ("V", ""),
        ("Ciss - AVERAGE", ""),
    ],
)
def test_the_unit_is_told_from_the_title(title: str, unit: str) -> None:
    assert unit_in(title) == unit


def test_the_pieces_of_an_upright_title_are_read_as_one() -> None:
    """Where letters lie, as the detector gives them: a title in two pieces, labels of ticks, two lines of a legend."""
    frame = Frame(Box(100, 50, 600, 450))
    pieces = [Box(41, 332, 76, 376), Box(43, 362, 76, 418)]
    ticks = [Box(80, 100 + 60 * k, 95, 120 + 60 * k) for k in range(5)]
    legend = [Box(620, 104, 700, 133), Box(620, 135, 700, 164)]
    inside = [Box(200, 200, 220, 230), Box(200, 225, 220, 255)]
    joined = titles_joined([*pieces, *ticks, *legend, *inside], frame)
    assert Box(41, 332, 76, 418) in joined
    assert len(joined) == 1 + len(ticks) + len(legend) + len(inside)


LABELS = [Word(str(k), Box(100 + 60 * k, 460, 112 + 60 * k, 476), 0.9 + 0.01 * k) for k in range(4)]


@pytest.mark.parametrize(
    ("box", "text"),
    [
        (Box(95, 455, 117, 481), "0"),
        (Box(95, 455, 297, 481), "0 1 2 3"),
        (Box(155, 455, 237, 481), "1 2"),
        (Box(40, 455, 117, 481), None),
        (Box(95, 455, 117, 520), None),
        (Box(95, 500, 297, 520), None),
    ],
)
def test_labels_of_an_axis_are_not_read_twice(box: Box, text: str | None) -> None:
    """A box with one of them or a row of them and nothing else; not where a title stands in the same box."""
    asked: list[int] = []

    def read(crops: Sequence[Rgb]) -> list[tuple[str, float]]:
        asked.append(len(crops))
        return [("read", 0.8)] * len(crops)

    (word,) = read_boxes(np.zeros((600, 600, 3), np.uint8), [box], read, LABELS)
    assert word.box == box
    assert (word.text, sum(asked)) == ((text, 0) if text else ("read", 1))


def test_a_given_frame_settles_on_its_strokes(drawing: Drawing) -> None:
    """Corners that were clicked some pixels beside the frame; the values stay with the pixels that were clicked."""
    picture = drawing([(lambda x: x**2, BLACK)])
    first = extract(picture)
    assert first.frame is not None
    box = first.frame.box
    (x0, y0), (x1, y1) = first.picture.to_source(np.array([[box.x0, box.y0], [box.x1, box.y1]])).tolist()
    corner = {"value": 0, "px": [x0 + 2, y1 - 2]}
    clicked = {
        "x": {"scale": "linear", "calibration": [corner, {"value": 1, "px": [x1 + 1, y1 - 2]}]},
        "y": {"scale": "linear", "calibration": [corner, {"value": 1, "px": [x0 + 2, y0 - 2]}]},
    }
    result = extract(picture, Options(calibration=Given.from_json(clicked)))
    assert result.frame is not None
    assert corners(result.frame) == pytest.approx(corners(first.frame), abs=0.5)
    assert result.x is not None
    assert result.picture.to_source(np.array([[result.x.p0, 0], [result.x.p1, 0]]))[:, 0] == pytest.approx(
        [x0 + 2, x1 + 1]
    )


def test_a_calibration_with_twice_the_same_point_is_refused() -> None:
    point = {"value": 1, "px": [5, 5]}
    axis = {"scale": "linear", "calibration": [point, point]}
    with pytest.raises(Refused, match="the same"):
        Given.from_json({"x": axis, "y": axis})


def test_a_log_axis_through_zero_is_refused() -> None:
    x = {"scale": "linear", "calibration": [{"value": 0, "px": [0, 9]}, {"value": 1, "px": [90, 9]}]}
    y = {"scale": "log", "calibration": [{"value": 0, "px": [0, 90]}, {"value": 1, "px": [0, 9]}]}
    with pytest.raises(Refused, match="above zero"):
        Given.from_json({"x": x, "y": y})


def test_legacy_reads_a_single_curve_and_is_never_sure(drawing: Drawing) -> None:
    result = extract(drawing([(lambda x: x**2, RED)]), Options(method="legacy"))
    assert worst(result, lambda x: x**2, 0, 100) < 0.02
    assert result.confidence < 0.5


def test_csv_and_overlay_show_each_curve(drawing: Drawing) -> None:
    result = extract(drawing([(lambda x: x**2, RED), (lambda x: 90 - x, BLUE)]))
    rows = [line for line in csv_text(result).splitlines() if not line.startswith("#")]
    assert rows[0].startswith("curve,")
    assert len(rows) == 1 + sum(len(c.x) for c in result.curves)
    picture = overlay(result)
    assert picture.shape[1] >= result.picture.source.shape[1]
    assert (picture[:, :, 0].astype(int) - picture[:, :, 2] > 100).any(), "no pen of ours is to be seen"


def test_the_same_picture_gives_the_same_result(drawing: Drawing) -> None:
    picture = drawing([(lambda x: x**2, BLACK), (lambda x: 90 - 7 * x, BLACK)])
    first, second = extract(picture).prediction(), extract(picture).prediction()
    for one in (first, second):
        one.pop("seconds")
        one.pop("timings_s")
    assert first == second
