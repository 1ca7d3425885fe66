"""Dashes, dots and open markers, drawn here, become strokes; what only looks like them stays as it is."""

import cv2
import numpy as np
import pytest

from adapters.curves.dashes import dashes_joined, filled_markers
from adapters.curves.ink import Layer
from adapters.curves.kit import connected
from adapters.curves.shapes import Mask
from adapters.curves.trace import trace

HIGH, WIDE, THICK = 300, 420, 4
SIZE = float(np.hypot(HIGH, WIDE))


def strokes(*lines: tuple[float, float, float, float]) -> Mask:
    mask = np.zeros((HIGH, WIDE), np.uint8)
    for x0, y0, x1, y1 in lines:
        cv2.line(mask, (round(x0), round(y0)), (round(x1), round(y1)), 1, THICK)
    return mask.astype(bool)


def along(starts: range, length: float, slope: float, base: float) -> list[tuple[float, float, float, float]]:
    return [(a, base + slope * a, a + length, base + slope * (a + length)) for a in starts]


def pieces(mask: Mask) -> int:
    return connected(mask)[0] - 1


@pytest.mark.parametrize(("length", "pitch"), [(18, 30), (9, 18), (0, 12)])
def test_dashes_and_dots_in_a_row_become_one_stroke(length: int, pitch: int) -> None:
    mask = strokes(*along(range(20, 380, pitch), length, 0.3, 60))
    assert pieces(mask) > 10
    joined = dashes_joined(mask, THICK, SIZE)
    assert pieces(joined) == 1
    # Nothing is drawn but between them.
    room = cv2.dilate(strokes((20, 66, 398, 60 + 0.3 * 398)).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert not (joined & ~room).any()


def test_two_dashed_curves_side_by_side_stay_two() -> None:
    mask = strokes(*along(range(20, 380, 28), 16, 0.3, 60), *along(range(32, 380, 28), 16, 0.3, 74))
    assert pieces(dashes_joined(mask, THICK, SIZE)) == 2


def test_a_row_goes_on_to_the_marker_that_interrupts_it() -> None:
    mask = strokes(*along(range(28, 180, 26), 14, 0, 150), *along(range(222, 380, 26), 14, 0, 150))
    mask[140:161, 188:209] = True
    assert pieces(mask) > 8
    assert pieces(dashes_joined(mask, THICK, SIZE)) == 1


def test_the_ends_of_two_curves_are_not_joined() -> None:
    mask = strokes((20, 150, 200, 150), (214, 150, 400, 150), (20, 50, 60, 50), (20, 250, 60, 250))
    assert np.array_equal(dashes_joined(mask, THICK, SIZE), mask)


def test_ticks_on_the_frame_are_no_dashes() -> None:
    ticks = strokes(*((0, y, 7, y) for y in range(20, 280, 12)))
    ticks[:, :5] = False
    assert np.array_equal(dashes_joined(ticks, THICK, SIZE, rim=5), ticks)
    assert pieces(dashes_joined(np.roll(ticks, 60, axis=1), THICK, SIZE, rim=5)) < pieces(ticks)


def test_open_markers_are_filled_and_single_holes_are_not() -> None:
    mask = strokes((20, 150, 400, 150)).astype(np.uint8)
    for x in range(60, 380, 60):
        mask[139:162, x - 11 : x + 12] = 0
        cv2.rectangle(mask, (x - 9, 141), (x + 9, 159), 1, 3)
    cv2.circle(mask, (200, 60), 9, 1, 3)
    found = filled_markers(mask.astype(bool), THICK, SIZE)
    assert found[150, 60] and found[150, 360]
    alone = np.zeros_like(mask)
    cv2.circle(alone, (200, 60), 9, 1, 3)
    assert not filled_markers(alone.astype(bool), THICK, SIZE)[60, 200]


def test_a_dashed_curve_with_open_markers_is_one_curve_where_it_crosses_a_solid_one() -> None:
    mask = strokes(*along(range(10, 405, 25), 14, 0.35, 80)).astype(np.uint8)
    for x in range(40, 400, 50):
        y = round(80 + 0.35 * x)
        mask[y - 8 : y + 9, x - 8 : x + 9] = 0
        cv2.rectangle(mask, (x - 8, y - 8), (x + 8, y + 8), 1, 3)
    cv2.line(mask, (10, 260), (405, 40), 1, THICK)
    nothing = np.zeros((HIGH, WIDE), np.bool_)
    layer = Layer(mask.astype(bool), nothing, mask.astype(bool), nothing, (0, 0, 0), False, (0, 0), float(THICK))
    found = trace([layer], SIZE)
    assert len(found) == 2
    ends = sorted(tuple(np.round(p.points[np.argsort(p.points[:, 0])][[0, -1], 1] / 10).tolist()) for p in found)
    assert ends[0] == pytest.approx((8, 22), abs=2) and ends[1] == pytest.approx((26, 4), abs=2)
