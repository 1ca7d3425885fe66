"""Curves of one colour get the names of a legend by its samples' dashes and markers, drawn here; where all samples look alike none does."""

import cv2
import numpy as np
import pytest

from adapters.curves.patterns import by_pattern
from adapters.curves.shapes import Box, Floats, Path, Rgb

HIGH, WIDE = 400, 600


def paper() -> Rgb:
    return np.full((HIGH, WIDE, 3), 255, np.uint8)


def stroke(image: Rgb, points: Floats, on: float, off: float) -> None:
    """A line of which `on` pixels are drawn and `off` are not, in turn."""
    along = np.r_[0.0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    for start in np.arange(0.0, float(along[-1]), on + off):
        at = np.linspace(start, min(start + on, float(along[-1])), 12)
        piece = np.column_stack([np.interp(at, along, points[:, k]) for k in (0, 1)])
        cv2.polylines(image, [np.round(piece * 8).astype(np.int32)], False, (0, 0, 0), 3, cv2.LINE_AA, 3)


def line(x0: float, y0: float, x1: float, y1: float) -> Floats:
    return np.linspace((x0, y0), (x1, y1), 300)


def marker(image: Rgb, x: int, y: int, kind: str) -> None:
    if kind == "square":
        cv2.rectangle(image, (x - 6, y - 6), (x + 6, y + 6), (0, 0, 0), -1)
    elif kind == "ring":
        cv2.circle(image, (x, y), 7, (255, 255, 255), -1)
        cv2.circle(image, (x, y), 7, (0, 0, 0), 2, cv2.LINE_AA)


SOLID, DASHED, DOTTED = (1000.0, 0.0), (16.0, 10.0), (3.0, 9.0)
CURVES = [line(40, 120, 560, 40), line(40, 220, 560, 180), line(40, 330, 560, 260)]


def plot(looks: list[tuple[tuple[float, float], str]], samples: list[int]) -> tuple[Rgb, list[Box]]:
    """Curves in the given looks, and a legend that has them in the order of `samples`."""
    image = paper()
    for points, (dash, kind) in zip(CURVES, looks, strict=True):
        stroke(image, points, *dash)
        for x, y in points[20::45]:
            marker(image, round(float(x)), round(float(y)), kind)
    boxes: list[Box] = []
    for row, k in enumerate(samples):
        y = 310 + 26 * row
        stroke(image, line(460, y, 518, y), *looks[k][0])
        marker(image, 489, y, looks[k][1])
        boxes.append(Box(460, y - 10, 518, y + 10))
    return image, boxes


def paths() -> list[Path]:
    return [Path(points, width=3) for points in CURVES]


@pytest.mark.parametrize(
    "looks",
    [
        [(SOLID, ""), (DASHED, ""), (DOTTED, "")],
        [(SOLID, "square"), (SOLID, ""), (SOLID, "ring")],
        [(SOLID, "ring"), (DASHED, "ring"), (DASHED, "square")],
    ],
)
def test_each_curve_gets_the_sample_that_looks_like_it(looks: list[tuple[tuple[float, float], str]]) -> None:
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        image, boxes = plot(looks, order)
        assert by_pattern(image, boxes, paths(), []) == {curve: order.index(curve) for curve in range(3)}


def test_samples_that_look_alike_give_no_names() -> None:
    image, boxes = plot([(SOLID, ""), (SOLID, ""), (DASHED, "")], [0, 1, 2])
    assert by_pattern(image, boxes, paths(), []) == {}


def test_dashes_close_beside_another_curve_are_seen() -> None:
    image = paper()
    # A curve's width of paper between them, all along.
    ways = [line(40, 120, 560, 60), line(40, 128, 560, 68)]
    for points, dash in zip(ways, (DASHED, SOLID), strict=True):
        stroke(image, points, *dash)
    boxes: list[Box] = []
    for row, dash in enumerate((SOLID, DASHED)):
        stroke(image, line(460, 310 + 26 * row, 518, 310 + 26 * row), *dash)
        boxes.append(Box(460, 300 + 26 * row, 518, 320 + 26 * row))
    assert by_pattern(image, boxes, [Path(points, width=3) for points in ways], []) == {0: 1, 1: 0}
