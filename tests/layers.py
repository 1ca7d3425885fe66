"""Layers of ink drawn here: strokes on the paper of a plot, without a picture around it."""

import cv2
import numpy as np

from adapters.curves.ink import Layer
from adapters.curves.shapes import Box, Floats, Mask, Path

WIDE, HIGH, THICK, RIM = 600, 450, 5, 4
SIZE = float(np.hypot(WIDE, HIGH))
X = np.linspace(10, 590, 400)
NOTHING = np.zeros((HIGH, WIDE), np.bool_)


def drawn(*strokes: tuple[Floats, int]) -> Mask:
    image = np.zeros((HIGH, WIDE), np.uint8)
    for points, thick in strokes:
        cv2.polylines(image, [np.round(points).astype(np.int32).reshape(-1, 1, 2)], False, 1, thick)
    return image.astype(bool)


def layer_of(mask: Mask, *, hidden: Mask = NOTHING, text: Mask = NOTHING, weak: Mask | None = None) -> Layer:
    mask = mask.copy()
    mask[:RIM], mask[-RIM:], mask[:, :RIM], mask[:, -RIM:] = False, False, False, False
    return Layer(
        mask & ~text, hidden | text, mask if weak is None else weak, text, (0, 0, 0), False, (0, 0), float(THICK), RIM
    )


def line(*corners: tuple[float, float]) -> Floats:
    return np.array(corners, np.float64)


def covering(*boxes: Box) -> Mask:
    """Where text lies."""
    out = NOTHING.copy()
    for b in boxes:
        out[round(b.y0) : round(b.y1) + 1, round(b.x0) : round(b.x1) + 1] = True
    return out


def path_of(points: Floats) -> Path:
    return Path(points, width=THICK, details={"fresh": 100.0, "chromatic": False})
