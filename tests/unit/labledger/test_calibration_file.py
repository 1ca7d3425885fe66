"""What people send back: in the form of events, in that of `extract`, alone or within a whole result."""

import json
from typing import Any

import pytest

from domain.errors import OutOfLimits
from labledger.calibration_file import parameters_in

X = {
    "scale": "linear",
    "points": [{"value": 0.0, "x_px": 10.0, "y_px": 90.0}, {"value": 5.0, "x_px": 80.0, "y_px": 90.0}],
}
Y = {
    "scale": "log",
    "points": [{"value": 1.0, "x_px": 10.0, "y_px": 90.0}, {"value": 100.0, "x_px": 10.0, "y_px": 9.0}],
}
EVENTS: dict[str, Any] = {"x": X, "y": Y}


def pairs(axis: dict[str, Any]) -> dict[str, Any]:
    """An axis as `labledger extract` writes it."""
    points = [{"value": one["value"], "px": [one["x_px"], one["y_px"]]} for one in axis["points"]]
    return {"scale": axis["scale"], "calibration": points}


FILES = {"x": pairs(X), "y": pairs(Y)}


@pytest.mark.parametrize(
    "told",
    [
        EVENTS,
        EVENTS | {"y2": None},
        FILES,
        {"calibration": EVENTS, "curves": [{"name": "a"}]},
        {"calibration": FILES, "curves": [], "axes": {}},
        {"state": "completed", "result": {"calibration": EVENTS, "at": None, "curves": []}},
    ],
)
def test_any_form_of_a_calibration_will_do(told: dict[str, Any]) -> None:
    assert parameters_in(json.dumps(told)) == {"calibration": EVENTS}


def test_the_second_y_axis_comes_with_the_pixels_of_its_curves() -> None:
    one = parameters_in(json.dumps({"x": X, "y": Y, "y2": pairs(X) | {"through": [[3, 4]]}}))
    other = parameters_in(json.dumps({"x": X, "y": Y, "y2": X | {"through": [{"x_px": 3, "y_px": 4}]}}))
    assert one == other
    assert one["calibration"]["y2"]["through"] == [{"x_px": 3.0, "y_px": 4.0}]


def test_a_result_of_a_document_says_of_which_chart_it_is() -> None:
    local = {"page": 3, "chart": 2, "calibration": FILES}
    queued = {"result": {"at": {"page": 3, "chart": 2}, "calibration": EVENTS}}
    for told in (local, queued):
        assert parameters_in(json.dumps(told)) == {"calibration": EVENTS, "page": 3, "chart": 2}


def test_number_and_colours_of_the_curves_go_along() -> None:
    told = parameters_in(json.dumps(FILES | {"count": 2, "colours": [[255, 0, 16], "#00ff00"]}))
    assert told["curves"] == 2 and told["colours"] == ["#ff0010", "#00ff00"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x: linear", "no JSON"),
        ("[1, 2]", "no x and y"),
        ('{"x": {}}', "no x and y"),
        (json.dumps({"x": X, "y": 3}), "y:"),
        (json.dumps({"x": X, "y": Y | {"scale": "cubic"}}), "y.scale"),
        (json.dumps({"x": X, "y": {"scale": "log", "calibration": [{"value": 1}, 7]}}), "y.points"),
        (json.dumps({"x": X, "y": Y, "colours": [[300, 0, 0]]}), "colours"),
        (json.dumps({"x": X, "y": Y, "count": "many"}), "curves"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(OutOfLimits, match=words):
        parameters_in(text)
