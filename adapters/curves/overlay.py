"""The extracted curves drawn on the original, to be looked at."""

import cv2
import numpy as np

from adapters.curves.extract import Extraction
from adapters.curves.shapes import Rgb

PENS = (
    (230, 25, 75),
    (0, 130, 200),
    (60, 160, 60),
    (245, 130, 48),
    (145, 30, 180),
    (0, 170, 170),
    (240, 50, 230),
    (128, 100, 0),
)


def overlay(extraction: Extraction) -> Rgb:
    """The source picture, paled, with the frame and each curve in a colour of its own."""
    source = extraction.picture.source
    out = np.asarray(255 - (255 - source.astype(np.float32)) * 0.45, np.uint8).copy()
    zoom = 1
    if max(out.shape) < 800:
        zoom = 2
        out = np.asarray(cv2.resize(out, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC), np.uint8)

    def draw(
        points: np.ndarray[tuple[int, int], np.dtype[np.float64]], colour: tuple[int, int, int], width: int
    ) -> None:
        points = points - np.array(extraction.picture.origin)
        pixels = np.round((points * zoom + (zoom - 1) / 2) * 16).astype(np.int32).reshape(-1, 1, 2)
        cv2.polylines(out, [pixels], False, colour, width, cv2.LINE_AA, shift=4)

    if extraction.frame is not None:
        b = extraction.frame.box
        corners = np.array([(b.x0, b.y0), (b.x1, b.y0), (b.x1, b.y1), (b.x0, b.y1), (b.x0, b.y0)])
        draw(extraction.picture.to_source(corners), (0, 160, 0), 1)
    for i, path in enumerate(extraction.paths):
        points = extraction.picture.to_source(path.points)
        colour = PENS[i % len(PENS)]
        draw(points, colour, 2)
        for end in np.array((points[0], points[-1])) - np.array(extraction.picture.origin):
            cv2.circle(out, (int(end[0] * zoom), int(end[1] * zoom)), 4, colour, 2)
    return out
