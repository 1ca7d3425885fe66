"""What lowers the chance of being right, whatever else was found."""

import numpy as np
import pytest

from adapters.curves.check import chance, features, skims
from adapters.curves.shapes import Axis, Floats
from tests.layers import HIGH, NOTHING, THICK, WIDE, X, drawn, layer_of, path_of

FLAT = np.c_[X, HIGH - 5 - 0.004 * np.maximum(X - 300, 0) ** 2][X > 280]
"""Comes flat to the lower side of the frame, far from its corners."""


@pytest.mark.parametrize(
    ("way", "flat"),
    [
        (FLAT, True),
        (FLAT[::-1], True),
        (np.c_[X, HIGH - 5 - 0.004 * np.maximum(X - 300, 0) ** 2], False),
        (np.c_[X, np.linspace(40, HIGH - 5, len(X))][X < 500], False),
        (np.c_[np.linspace(280, 330, 300), np.linspace(HIGH - 5, 20, 300)], False),
    ],
    ids=["end", "begin", "led on to the corner", "in the middle", "steep"],
)
def test_an_end_that_lies_flat_at_the_frame_is_seen(way: Floats, flat: bool) -> None:
    assert skims(path_of(way), [layer_of(NOTHING)]) == flat


def test_a_result_with_a_curve_that_may_go_on_under_the_frame_is_not_accepted() -> None:
    axes = Axis("linear", 0, WIDE, 0, 1), Axis("linear", HIGH, 0, 0, 1)
    layer = layer_of(drawn((FLAT, THICK)))
    seen = features(*axes, [path_of(FLAT)], [layer])
    assert seen["skims"] == 1
    assert chance(seen) < 0.9 < chance(seen | {"skims": 0.0})
