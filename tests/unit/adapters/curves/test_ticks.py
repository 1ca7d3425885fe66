"""What labels mean, and which line they lie on."""

import numpy as np
import pytest

from adapters.curves.axes import axis_of
from adapters.curves.shapes import Box
from adapters.curves.ticks import Label, meanings, split_exponent


@pytest.mark.parametrize(
    ("text", "exponent", "value"),
    [
        ("10", "-3", 1e-3),
        ("10", "2", 100.0),
        ("5", None, 5.0),
        ("1e-06", None, 1e-6),
        ("10,000", None, 10000.0),
        ("2k", None, 2000.0),
        ("−40", None, -40.0),
        ("O.5", None, 0.5),
    ],
)
def test_a_label_means_its_number(text: str, exponent: str | None, value: float) -> None:
    assert meanings(text, exponent)[0][0] == pytest.approx(value)


@pytest.mark.parametrize("text", ["Ciss", "VDS (V)", "", "--", "e5"])
def test_words_are_no_numbers(text: str) -> None:
    assert meanings(text, None) == ()


def test_a_raised_small_digit_is_an_exponent() -> None:
    group = split_exponent([Box(0, 10, 6, 29), Box(9, 10, 20, 29), Box(23, 4, 29, 16)], 20)
    assert group.raised is not None


def test_digits_of_one_height_are_one_number() -> None:
    group = split_exponent([Box(0, 10, 6, 29), Box(9, 10, 20, 29), Box(23, 10, 34, 29)], 20)
    assert group.raised is None


def labels(texts: list[str]) -> list[Label]:
    return [Label(t, meanings(t, None), Box(0, 0, 10, 10), 1.0) for t in texts]


def test_an_axis_through_102_stays_linear() -> None:
    axis = axis_of(
        labels(["98", "100", "102", "104"]), np.array([0.0, 100, 200, 300]), np.zeros(0), 0, 300, upwards=False
    )
    assert axis is not None and axis.scale == "linear"
    assert (axis.v0, axis.v1) == pytest.approx((98, 104))


def test_exponents_that_were_read_as_digits_still_make_a_log_axis() -> None:
    axis = axis_of(
        labels(["100", "101", "102", "103", "104"]),
        np.array([0.0, 100, 200, 300, 400]),
        np.zeros(0),
        0,
        400,
        upwards=False,
    )
    assert axis is not None
    assert axis.scale == "linear" or axis.v1 == pytest.approx(1e4)


def test_two_decades_on_an_even_axis_are_not_taken_for_a_log_axis_with_confidence() -> None:
    axis = axis_of(labels(["1000", "10000"]), np.array([0.0, 300]), np.zeros(0), 0, 300, upwards=False)
    assert axis is None or axis.confidence < 0.5


def test_one_wrong_label_among_five_is_outvoted() -> None:
    axis = axis_of(
        labels(["0", "20", "90", "60", "80"]), np.array([0.0, 100, 200, 300, 400]), np.zeros(0), 0, 400, upwards=False
    )
    assert axis is not None
    assert (axis.v0, axis.v1) == pytest.approx((0, 80))


def test_labels_that_agree_on_nothing_give_no_sure_axis() -> None:
    axis = axis_of(labels(["7", "3", "55", "12"]), np.array([0.0, 100, 200, 300]), np.zeros(0), 0, 300, upwards=False)
    assert axis is None or axis.confidence < 0.5
