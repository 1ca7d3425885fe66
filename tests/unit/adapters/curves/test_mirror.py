"""What is read otherwise in a mirror is doubted."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from adapters.curves import trace as tracing
from adapters.curves.check import chance, features
from adapters.curves.ink import Layer
from adapters.curves.mirror import SAME, agreement, mirrored, mirrored_boxes, mirrored_points
from adapters.curves.shapes import Axis, Box, Path
from adapters.curves.trace import trace
from adapters.curves.work import MOST_GUESSES, Work

HIGH, WIDE, THICK = 300, 420, 4
ORIGIN = (50, 30)
SIZE = math.hypot(HIGH, WIDE)
X = np.linspace(10, 400, 200)


def layer(*curves: np.ndarray) -> Layer:
    mask = np.zeros((HIGH, WIDE), np.uint8)
    for points in curves:
        cv2.polylines(mask, [np.round(points).astype(np.int32).reshape(-1, 1, 2)], False, 1, THICK)
    none = np.zeros(mask.shape, bool)
    return Layer(mask.astype(bool), none, mask.astype(bool), none, (0, 0, 0), False, ORIGIN, THICK)


def wave(at: float, high: float = 30.0) -> np.ndarray:
    return np.c_[X, at + high * np.sin(X / 60)]


def test_a_mirror_turns_the_ink_and_its_points_alike() -> None:
    one = layer(wave(100))
    points = wave(100) + np.array(ORIGIN)
    at = np.round(mirrored_points(points, one) - np.array(ORIGIN)).astype(int)
    there = mirrored(one)
    assert there.mask[at[:, 1], at[:, 0]].all()
    assert not np.array_equal(there.mask, one.mask)
    assert np.allclose(mirrored_points(mirrored_points(points, one), one), points)
    box = Box(60, 40, 90, 50)
    (turned,) = mirrored_boxes([box], one)
    assert (turned.width, turned.y0) == (box.width, box.y0)
    assert mirrored_boxes([turned], one) == [box]


@pytest.mark.parametrize(
    ("again", "alike"),
    [
        ([wave(100), wave(200)], 1.0),
        ([wave(200)[::-1], wave(100) + 0.5 * SAME * SIZE], 1.0),
        ([wave(100)], 2 / 3),
        ([wave(100), wave(100)], 0.5),
        ([wave(100), wave(240)], 0.5),
        ([wave(100), wave(200)[:100]], 0.5),
        ([], 0.0),
    ],
)
def test_two_readings_agree_as_far_as_they_have_the_same_curves(again: list[np.ndarray], alike: float) -> None:
    found = [Path(wave(100)), Path(wave(200))]
    assert agreement(found, [Path(points) for points in again], SIZE) == pytest.approx(alike)


def test_nothing_read_twice_agrees() -> None:
    assert agreement([], [], SIZE) == 1.0


def test_clear_curves_are_the_same_in_a_mirror() -> None:
    paths = trace([layer(wave(100), wave(200), np.c_[X, 40 + 0.6 * X])], SIZE)
    assert [p.details["mirror"] for p in paths] == [1.0] * 3


def test_a_reading_that_depends_on_its_direction_is_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tracing.trace_layer

    def leftmost_only(part: Layer, size: float, work: Work) -> list[Path]:
        return sorted(plain(part, size, work), key=lambda p: float(p.points[:, 0].min()))[:1]

    monkeypatch.setattr(tracing, "trace_layer", leftmost_only)
    (path,) = trace([layer(wave(100)[:120], wave(200)[80:])], SIZE)
    assert path.details["mirror"] == 0.0
    axis = Axis("linear", 50, 470, 0, 1)
    seen = features(axis, axis, [path], [layer(wave(100))])
    assert seen["mirror"] == 1.0
    assert chance(seen) < chance(seen | {"mirror": 0.0})


@pytest.mark.parametrize("lost", [0, 1])
def test_of_two_readings_that_which_explains_the_ink_is_taken(lost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the two, the first or the one in the mirror, gives half of the curve only."""
    plain = tracing.trace_layer
    calls: list[Layer] = []

    def losing(part: Layer, size: float, work: Work) -> list[Path]:
        calls.append(part)
        found = plain(part, size, work)
        return [replace(p, points=p.points[: len(p.points) // 2]) for p in found] if len(calls) == lost + 1 else found

    monkeypatch.setattr(tracing, "trace_layer", losing)
    (path,) = trace([layer(wave(100))], SIZE)
    assert len(calls) == 2
    assert path.details["mirror"] == 0.0
    assert np.ptp(path.points[:, 0]) == pytest.approx(np.ptp(X), abs=20)
    assert path.points[:, 0].min() == pytest.approx(X[0] + ORIGIN[0], abs=20)


def test_what_has_cost_much_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tracing.trace_layer
    calls: list[int] = []

    def dear(part: Layer, size: float, work: Work) -> list[Path]:
        calls.append(work.guesses)
        work.guesses -= MOST_GUESSES // 3
        return plain(part, size, work)

    monkeypatch.setattr(tracing, "trace_layer", dear)
    (path,) = trace([layer(wave(100))], SIZE)
    assert len(calls) == 1
    assert path.details["mirror"] == 0.0
