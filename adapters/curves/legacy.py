"""The plain way, kept as baseline and fallback: one curve for each colour, the middle of its ink in each column."""

from collections.abc import Sequence

import numpy as np

from adapters.curves.layers import layers_of
from adapters.curves.shapes import Axis, Box, Frame, Path


def scan(
    rgb: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]],
    frame: Frame,
    x: Axis | None,
    y: Axis | None,
    texts: Sequence[Box],
    noise: float,
) -> list[Path]:
    """Column scan of each colour's ink; no crossings, no gaps, no shared strokes."""
    out: list[Path] = []
    for layer in layers_of(rgb, frame, x, y, texts, noise):
        columns = np.nonzero(layer.mask.any(axis=0))[0]
        if len(columns) < 0.1 * layer.mask.shape[1]:
            continue
        rows = np.array([float(np.median(np.nonzero(layer.mask[:, c])[0])) for c in columns])
        points = np.c_[columns.astype(np.float64), rows] + np.array(layer.origin, np.float64)
        out.append(
            Path(
                points, layer.colour, layer.thick, details={"fresh": float(len(columns)), "chromatic": layer.chromatic}
            )
        )
    return out
