"""The same ink read once more in a mirror: a curve that comes out otherwise was a guess.

Where curves cross at a shallow angle or run in one strip, small things decide which way a pen takes: where the skeleton of the ink has its
knots, which of two equal strokes comes first. A mirror changes just these, and nothing that the picture says.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from adapters.curves.ink import Layer
from adapters.curves.kit import nearest_of, pairs
from adapters.curves.shapes import Box, Floats, Mask, Path
from adapters.curves.ways import evenly

SAME = 0.012
"""How far two readings of one curve may lie apart, as a part of the plot's diagonal."""


def mirrored(layer: Layer) -> Layer:
    """The layer with left and right exchanged."""

    def turned(mask: Mask) -> Mask:
        return np.ascontiguousarray(mask[:, ::-1])

    return replace(
        layer,
        mask=turned(layer.mask),
        hidden=turned(layer.hidden),
        weak=turned(layer.weak),
        text=turned(layer.text),
        strength=None if layer.strength is None else np.ascontiguousarray(layer.strength[:, ::-1]),
    )


def axis_of(layer: Layer) -> float:
    """Twice the x of the plot's middle, in pixels of the picture."""
    return 2.0 * layer.origin[0] + layer.mask.shape[1] - 1


def mirrored_boxes(boxes: Sequence[Box], layer: Layer) -> list[Box]:
    both = axis_of(layer)
    return [Box(both - b.x1, b.y0, both - b.x0, b.y1) for b in boxes]


def mirrored_points(points: Floats, layer: Layer) -> Floats:
    """Pixels in the picture for pixels in its mirror, and the other way round."""
    return np.column_stack([axis_of(layer) - points[:, 0], points[:, 1]])


def agreement(paths: Sequence[Path], again: Sequence[Path], size: float) -> float:
    """How far two readings of a layer agree, 0-1: the part of all their curves that the other one has as well."""
    if not paths and not again:
        return 1.0
    if not paths or not again:
        return 0.0
    one, other = [evenly(p.points, 120) for p in paths], [evenly(p.points, 120) for p in again]
    apart = np.array([[distance(a, b) for b in other] for a in one])
    met = sum(apart[i, j] < SAME * size for i, j in pairs(apart))
    return 2 * met / (len(one) + len(other))


def distance(one: Floats, other: Floats) -> float:
    """How far apart two curves lie in pixels, but for the worst twentieth of each."""
    return max(float(np.percentile(nearest_of(a, b)[0], 95)) for a, b in ((one, other), (other, one)))
