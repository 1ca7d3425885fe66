"""Curves whose strokes run into one strip of ink, drawn here, come out of it as smooth as they went in."""

import cv2
import numpy as np
import pytest

from adapters.curves.bundles import side_by_side
from adapters.curves.follow import strips
from adapters.curves.kit import connected
from adapters.curves.shapes import Floats, Path
from adapters.curves.trace import trace
from tests.layers import HIGH, NOTHING, SIZE, THICK, WIDE, drawn, layer_of, path_of

X = np.linspace(8, WIDE - 9, WIDE)


def fan(count: int) -> list[Floats]:
    """Saturating curves that rise along one line, closer than they are thick, and leave it one after another."""
    curves: list[Floats] = []
    for k in range(count):
        rise, level = HIGH - 40 - 3.5 * k - 0.62 * X, HIGH - 190.0 - 34 * k
        curves.append(np.c_[X, level + 12 * np.logaddexp(0, (rise - level) / 12)])
    return curves


def off(way: Floats, truth: Floats) -> float:
    """Largest distance of the way from the truth, in pixels, but for its ends."""
    way = way[(way[:, 0] > 40) & (way[:, 0] < WIDE - 20)]
    return float(np.hypot(*(way[::3, None] - truth[None]).transpose(2, 0, 1)).min(axis=1).max())


def test_each_curve_of_a_bundle_is_found_and_keeps_its_place() -> None:
    curves = fan(6)
    found = trace([layer_of(drawn(*((c, THICK) for c in curves)))], SIZE)
    assert len(found) == 6
    ends = sorted(found, key=lambda p: -p.points[np.argmax(p.points[:, 0]), 1])
    for path, curve in zip(ends, curves, strict=True):
        assert off(path.points, curve) < 3.5


def test_ways_that_shook_in_a_strip_are_laid_side_by_side() -> None:
    curves = fan(3)
    ink = drawn(*((c, THICK) for c in curves))
    strip = ink & (X[None, :].repeat(HIGH, 0)[:, :WIDE] < 250)
    shaken = [path_of(np.c_[X, c[:, 1] + np.where(X < 240, 9 * np.sin(X / (7 + k)), 0)]) for k, c in enumerate(curves)]
    for path, curve in zip(side_by_side(shaken, strip, layer_of(ink)), curves, strict=True):
        assert off(path.points, curve) < 5


def crossing() -> list[Path]:
    return [path_of(np.c_[X, HIGH / 2 + s * (X - WIDE / 2)]) for s in (0.06, 0.0, -0.06)]


def test_curves_that_cross_in_a_strip_are_left_as_they_are() -> None:
    paths = crossing()
    ink = drawn(*((p.points, THICK) for p in paths))
    strip = ink & (np.abs(np.arange(WIDE) - WIDE / 2) < 80)
    for before, after in zip(paths, side_by_side(paths, strip, layer_of(ink)), strict=True):
        assert np.array_equal(before.points, after.points)


def test_what_is_seen_behind_a_crossing_tells_nothing_about_the_strip_before_it() -> None:
    middle = WIDE / 2
    paths = [path_of(p.points[X < middle + 80]) for p in crossing()]
    # OpenCV draws slanted lines two pixels broader than it is told.
    ink = drawn(*((p.points, THICK - 2) for p in paths))
    strip = ink & (np.arange(WIDE) > middle + 25)
    for before, after in zip(paths, side_by_side(paths, strip, layer_of(ink)), strict=True):
        assert off(after.points, before.points) < 3


@pytest.mark.parametrize(("apart", "one"), [(3.0, True), (12.0, False)])
def test_a_strip_is_broad_ink_that_goes_on_for_long(apart: float, one: bool) -> None:
    ink = drawn(*((np.c_[X, 200 + apart * k + 0 * X], THICK) for k in range(3)))
    distance = np.asarray(cv2.distanceTransform(ink.astype(np.uint8), cv2.DIST_L2, 3), np.float64)
    assert (connected(strips(ink, distance, 0.9 * THICK + 1))[0] > 1) == one
    dot = NOTHING.copy()
    dot[190:206, 290:306] = True
    distance = np.asarray(cv2.distanceTransform(dot.astype(np.uint8), cv2.DIST_L2, 3), np.float64)
    assert not strips(dot, distance, 0.9 * THICK + 1).any()
