"""The adviser proposes, the picture decides. The endpoint is a small double of our own on this machine."""

import json
from collections.abc import Iterator

import numpy as np
import pytest

from adapters.curves.extract import Options, extract
from adapters.curves.llm import Adviser, AdviserOff, AdviserWrong, ask, confirmed
from adapters.curves.shapes import Box
from adapters.curves.ticks import Label, meanings
from tests.vision import KEY, Vision, advice, half_read, vision

from .conftest import Drawing


@pytest.fixture
def double() -> Iterator[Vision]:
    with vision() as it:
        yield it


@pytest.fixture
def adviser(double: Vision) -> Adviser:
    return Adviser(double.url, "double", KEY, timeout_s=5)


LABELS = [Label(t, meanings(t, None), Box(0, 0, 1, 1), 1.0) for t in ("0", "5", "10")]


def test_without_a_key_the_method_is_off_and_says_what_to_set(drawing: Drawing) -> None:
    with pytest.raises(AdviserOff, match="OpenAI-compatible"):
        extract(drawing([(lambda x: x**2, (0, 0, 0))]), Options(method="llm"))


def test_the_key_and_the_model_are_sent(adviser: Adviser, double: Vision) -> None:
    double.reply = 'Here it is: {"names": []}'
    assert ask(adviser, np.full((60, 60, 3), 255, np.uint8)) == {"names": []}
    assert double.seen == [{"path": "/v1/chat/completions", "key": f"Bearer {KEY}", "model": "double"}]


def test_an_answer_without_json_is_refused(adviser: Adviser, double: Vision) -> None:
    double.reply = "I cannot see a plot."
    with pytest.raises(AdviserWrong):
        ask(adviser, np.full((60, 60, 3), 255, np.uint8))


def test_an_axis_that_the_labels_confirm_is_taken() -> None:
    axis = confirmed({"scale": "linear", "min": 0, "max": 10}, LABELS, [0.0, 50.0, 100.0], 0, 100)
    assert (axis.v0, axis.v1) == (0, 10)


def test_an_axis_that_the_labels_contradict_is_refused() -> None:
    with pytest.raises(AdviserWrong, match="agree"):
        confirmed({"scale": "linear", "min": 0, "max": 20}, LABELS, [0.0, 50.0, 100.0], 0, 100)


def test_a_name_goes_to_the_curve_under_its_pixel(adviser: Adviser, double: Vision, drawing: Drawing) -> None:
    picture = drawing([(lambda x: x**2, (0, 0, 0))])
    at = extract(picture).curves[0].pixels[50].tolist()
    double.reply = json.dumps({"names": [{"name": "Ciss", "at": at}]})
    assert extract(picture, Options(method="llm", adviser=adviser)).curves[0].name == "Ciss"


def test_where_labels_are_missing_the_advice_is_taken_if_the_others_confirm_it(
    adviser: Adviser, double: Vision
) -> None:
    alone = extract(half_read())
    assert alone.y is None or alone.y.confidence < 0.8
    double.reply = advice(0, 100)
    advised = extract(half_read(), Options(method="llm", adviser=adviser))
    assert advised.y is not None and (advised.y.v0, advised.y.v1) == (0, 100)
    (curve,) = advised.curves
    assert np.abs(curve.y - curve.x**2).max() < 2


@pytest.mark.parametrize(
    "reply",
    [
        advice(0, 50),
        advice(-100, 100),
        advice(1, 100, "log"),
        advice(100, 100),
        '{"y": {"scale": "linear", "min": "low", "max": "high"}}',
        '{"y": null}',
        "{}",
        '{"y": {"scale": "linear", "min": NaN, "max": 100}}',
    ],
)
def test_wrong_advice_gives_an_error_and_no_values(adviser: Adviser, double: Vision, reply: str) -> None:
    double.reply = reply
    with pytest.raises(AdviserWrong):
        extract(half_read(), Options(method="llm", adviser=adviser))


def test_wrong_advice_cannot_change_axes_that_were_read_well(
    adviser: Adviser, double: Vision, drawing: Drawing
) -> None:
    picture = drawing([(lambda x: x**2, (0, 0, 0))])
    double.reply = advice(0, 7)
    found = extract(picture, Options(method="llm", adviser=adviser))
    assert found.y is not None and found.y.v1 == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize(
    "names",
    [
        [{"name": "Ciss", "at": [5, 5]}],
        [{"name": "Ciss", "at": ["left", 5]}],
        [{"name": "Ciss"}],
        ["Ciss"],
        {"Ciss": [5, 5]},
        7,
    ],
)
def test_a_name_for_no_curve_of_ours_is_dropped(
    adviser: Adviser, double: Vision, drawing: Drawing, names: object
) -> None:
    double.reply = json.dumps({"names": names})
    found = extract(drawing([(lambda x: x**2, (0, 0, 0))]), Options(method="llm", adviser=adviser))
    assert [curve.name for curve in found.curves] == [None]


@pytest.mark.parametrize("status", [401, 429, 500])
def test_an_endpoint_that_refuses_is_said_with_its_status(adviser: Adviser, double: Vision, status: int) -> None:
    double.status = status
    with pytest.raises(AdviserWrong, match=str(status)):
        ask(adviser, np.full((60, 60, 3), 255, np.uint8))


def test_an_endpoint_that_is_not_there_is_said_so() -> None:
    with pytest.raises(AdviserWrong, match="no usable answer"):
        ask(Adviser("http://127.0.0.1:9/v1", "double", KEY, timeout_s=2), np.full((60, 60, 3), 255, np.uint8))


def test_the_key_is_not_in_what_goes_wrong(adviser: Adviser, double: Vision) -> None:
    double.status = 500
    with pytest.raises(AdviserWrong) as error:
        ask(adviser, np.full((60, 60, 3), 255, np.uint8))
    assert KEY not in str(error.value)
