"""Pictures drawn here, with known data: plain OpenCV strokes and letters, so that no other program is needed."""

from collections.abc import Callable

import cv2  # of the extra `curves`, which the extra `test` brings along
import numpy as np
import pytest

Drawing = Callable[..., bytes]


def draw(
    curves: list[tuple[Callable[[np.ndarray], np.ndarray], tuple[int, int, int]]],
    *,
    x: tuple[float, float, float] = (0, 10, 2),
    y: tuple[float, float, float] = (0, 100, 20),
    grid: bool = True,
    labels: bool = True,
    size: tuple[int, int] = (720, 560),
) -> bytes:
    """A PNG of functions over linear axes (low, high, step)."""
    wide, high = size
    image = np.full((high, wide, 3), 255, np.uint8)
    x0, y0, x1, y1 = 90, 30, wide - 40, high - 70

    def px(v: float) -> float:
        return x0 + (v - x[0]) / (x[1] - x[0]) * (x1 - x0)

    def py(v: float) -> float:
        return y1 - (v - y[0]) / (y[1] - y[0]) * (y1 - y0)

    for value in np.arange(x[0], x[1] + x[2] / 2, x[2]):
        at = round(px(value))
        if grid:
            cv2.line(image, (at, y0), (at, y1), (160, 160, 160), 1)
        if labels:
            text = f"{value:g}"
            (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)
            cv2.putText(
                image, text, (at - w // 2, y1 + 14 + h), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA
            )
    for value in np.arange(y[0], y[1] + y[2] / 2, y[2]):
        at = round(py(value))
        if grid:
            cv2.line(image, (x0, at), (x1, at), (160, 160, 160), 1)
        if labels:
            text = f"{value:g}"
            (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)
            cv2.putText(
                image, text, (x0 - 12 - w, at + h // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA
            )
    cv2.rectangle(image, (x0, y0), (x1, y1), (0, 0, 0), 2)
    at = np.linspace(x[0] + 0.05 * (x[1] - x[0]), x[1] - 0.05 * (x[1] - x[0]), 300)
    for function, colour in curves:
        points = np.array([(px(a), py(b)) for a, b in zip(at, function(at), strict=True)])
        cv2.polylines(
            image,
            [np.round(points * 16).astype(np.int32).reshape(-1, 1, 2)],
            False,
            colour[::-1],
            3,
            cv2.LINE_AA,
            shift=4,
        )
    good, png = cv2.imencode(".png", image)
    assert good
    return png.tobytes()


@pytest.fixture
def drawing() -> Drawing:
    return draw
