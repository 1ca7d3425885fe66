"""Pointers go before curves are followed, whatever their pen; curves that begin at a label stay."""

import cv2
import numpy as np
import pytest

from adapters.curves.shapes import Box, Floats, Path
from adapters.curves.trace import pointed, trace
from adapters.curves.work import Work
from tests.layers import HIGH, SIZE, THICK, WIDE, X, covering, drawn, layer_of, line

LABEL = Box(60, 300, 130, 320)
UPPER, LOWER = np.c_[X, 60 + 0.25 * X], np.c_[X, 200 + 0.25 * X]


def arrow(start: tuple[float, float], tip: tuple[float, float], long: float = 30, half: float = 9) -> Floats:
    """The outline of a head whose tip is at the end of a stroke."""
    a, b = np.array(start), np.array(tip)
    way = (b - a) / np.hypot(*(b - a))
    side = np.array([-way[1], way[0]])
    return np.array([b, b - long * way + half * side, b - long * way - half * side, b])


def farthest(path: Path, curve: Floats) -> float:
    """The largest distance between a path and a curve, both ways but for the last pixels, where paths are led to the frame."""
    inner = path.points[(path.points[:, 0] > 14) & (path.points[:, 0] < WIDE - 14)]
    away = np.hypot(*(inner[:, None] - curve[None]).transpose(2, 0, 1))
    return max(float(away.min(axis=1).max()), float(away.min(axis=0)[8:-8].max()))


def test_a_pointer_of_the_curves_own_pen_that_crosses_one_and_ends_on_another() -> None:
    pointer = line((134, 296), (250, 124))
    layer = layer_of(drawn((UPPER, THICK), (LOWER, THICK), (pointer, THICK)), text=covering(LABEL))
    left = pointed(layer, layer.mask, SIZE, (LABEL,), Work())
    curves = drawn((UPPER, THICK + 4), (LOWER, THICK + 4))
    assert (left.mask & ~curves).sum() < 30
    found = trace([layer], SIZE, (LABEL,))
    assert len(found) == 2
    for curve in (UPPER, LOWER):
        assert min(farthest(path, curve) for path in found) < 7


@pytest.mark.parametrize("short", [0.0, 7.0])
def test_a_level_pointer_with_a_head_that_touches_its_curve_or_nearly_does(short: float) -> None:
    steep = np.c_[np.linspace(300, 340, 400), np.linspace(430, 20, 400)]
    label = Box(60, 190, 130, 212)
    tip = (321 - THICK / 2 - short, 201)
    mask = drawn((steep, THICK), (line((134, 201), tip), 3)).astype(np.uint8)
    cv2.fillPoly(mask, [np.round(arrow((134, 201), tip)).astype(np.int32)], 1)
    layer = layer_of(mask.astype(bool), text=covering(label))
    left = pointed(layer, layer.mask, SIZE, (label,), Work()).mask
    # Neither shaft nor head is left, and the curve is whole.
    assert left[180:225, :305].sum() < 12
    assert left[60:400].any(axis=1).all()


def test_a_curve_that_is_straight_at_its_label_and_bends_beside_another_stays() -> None:
    x = np.linspace(60, 560, 500)
    bending = np.c_[x, 300 + 0.0012 * (x - 400) ** 2 * (x < 400) - 0.12 * np.maximum(x - 400, 0)]
    other = np.c_[x, bending[:, 1] + 16]
    label = Box(566, 270, 596, 290)
    layer = layer_of(drawn((bending, THICK), (other, THICK)), text=covering(label))
    assert pointed(layer, layer.mask, SIZE, (label,), Work()) is layer


def test_a_straight_curve_that_a_label_interrupts_stays_where_another_crosses_it() -> None:
    straight, crossing = line((20, 330), (560, 120)), line((470, 20), (400, 440))
    label = Box(170, 240, 240, 280)
    layer = layer_of(drawn((straight, THICK), (crossing, THICK)), text=covering(label))
    assert pointed(layer, layer.mask, SIZE, (label,), Work()) is layer


def test_a_stroke_that_leaves_the_plot_at_its_label_points_at_nothing() -> None:
    limit = line((WIDE - 1, 300), (420, HIGH / 2))
    label = Box(530, 300, 590, 320)
    layer = layer_of(drawn((UPPER, THICK), (limit, THICK)), text=covering(label))
    assert pointed(layer, layer.mask, SIZE, (label,), Work()) is layer
