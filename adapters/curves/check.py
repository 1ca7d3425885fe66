"""How sure we are: what the steps found out about themselves, turned into a chance of being right.

A plain weighted sum, so that a result can be explained. The weights are fitted by `python -m bench.curves.confidence` on drawn
plots of several seeds and looks and on pictures of data sheets; after a change to the tracer, fit them again.
"""

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from adapters.curves.ink import Layer
from adapters.curves.shapes import Axis, Mask, Path
from adapters.curves.ways import at_points

WEIGHTS: dict[str, float] = {
    "bias": 3.102,
    "axes": 0.0,
    "unexplained": -5.553,
    "gaps": -0.243,
    "doubt": -0.108,
    "crowd": -0.786,
    "ends": -0.787,
    "black": 0.0,
    "unsupported": -2.941,
    "shared": -1.354,
    "mirror": -2.373,
}

DOUBTFUL_AXES = 0.25
"""Axes surer than 1 less this cost nothing. Pictures whose axes are wrong are too rare to fit what they should cost."""

SKIMMING = 0.15
"""What an end that lies flat at the frame costs: not fitted, for the same reason."""


def drawn(paths: Sequence[Path], layer: Layer, grow: float) -> Mask:
    """Where the paths of a layer put ink."""
    out = np.zeros(layer.mask.shape, np.uint8)
    for p in paths:
        pixels = np.round(p.points - np.array(layer.origin)).astype(np.int32).reshape(-1, 1, 2)
        cv2.polylines(out, [pixels], False, 1, max(1, round(p.width + grow)))
    return out.astype(np.bool_)


def unexplained(paths: Sequence[Path], layers: Sequence[Layer]) -> float:
    """The part of the curve ink that no path explains."""
    total, rest = 0.0, 0.0
    for layer in layers:
        ink = layer.mask & ~layer.text
        covered = drawn(paths, layer, 3 + layer.thick)
        total += float(ink.sum()) / layer.thick
        rest += float((ink & ~covered).sum()) / layer.thick
    return rest / total if total > 0 else 1.0


def unsupported(path: Path, layers: Sequence[Layer]) -> float:
    """The part of a path that has no ink under it."""
    layer = next((q for q in layers if q.colour == path.colour), layers[0])
    near = np.asarray(cv2.dilate(layer.mask.astype(np.uint8), np.ones((5, 5), np.uint8)), np.bool_)
    return float(1 - at_points(near, path.points - np.array(layer.origin)).mean())


def loose_ends(path: Path, layers: Sequence[Layer]) -> float:
    """How many of a path's two ends stop where other ink goes on nearby: 0, 0.5 or 1."""
    layer = next((q for q in layers if q.colour == path.colour), layers[0])
    loose = 0
    for tip, inner in (
        (path.points[0], path.points[min(len(path.points) - 1, 12)]),
        (path.points[-1], path.points[max(0, len(path.points) - 13)]),
    ):
        d = tip - inner
        n = float(np.hypot(*d))
        if n < 1:
            continue
        spot = tip + d / n * (8 + 2 * layer.thick) - np.array(layer.origin)
        x, y, r = round(float(spot[0])), round(float(spot[1])), round(5 + layer.thick)
        window = layer.mask[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1]
        loose += bool(window.size and window.mean() > 0.08)
    return loose / 2


def skims(path: Path, layers: Sequence[Layer]) -> bool:
    """True for a path that comes flat to the upper or lower side of the frame and ends there: it may go on under that side."""
    layer = next((q for q in layers if q.colour == path.colour), layers[0])
    h, w = layer.mask.shape
    near = layer.rim + layer.thick + 4
    points = path.points - np.array(layer.origin, np.float64)
    for way in (points, points[::-1]):
        (x, y), d = way[0], way[0] - way[min(len(way) - 1, max(12, int(0.03 * w)))]
        beside = min(float(y), h - 1 - float(y)) < near and near < float(x) < w - 1 - near
        if beside and abs(float(d[1])) < 0.35 * abs(float(d[0])):
            return True
    return False


def features(x: Axis | None, y: Axis | None, paths: Sequence[Path], layers: Sequence[Layer]) -> dict[str, float]:
    axes = min(x.confidence if x else 0.0, y.confidence if y else 0.0)
    if not paths or not layers:
        return {
            "axes": axes - 1,
            "unexplained": 1.0,
            "gaps": 1.0,
            "doubt": 1.0,
            "crowd": 1.0,
            "ends": 1.0,
            "black": 1.0,
            "unsupported": 1.0,
            "shared": 1.0,
            "mirror": 1.0,
            "skims": 0.0,
        }
    black = sum(1 for p in paths if not p.details.get("chromatic")) - 1
    return {
        "axes": axes - 1,
        "unexplained": min(0.6, unexplained(paths, layers)),
        "gaps": max(p.gaps for p in paths),
        "doubt": max(p.doubt for p in paths),
        "crowd": math.log2(len(paths)),
        "ends": max(loose_ends(p, layers) for p in paths),
        "black": float(max(0, black)),
        "unsupported": max(unsupported(p, layers) for p in paths),
        "shared": max(p.shared for p in paths),
        "mirror": max(1.0 - p.details.get("mirror", 1.0) for p in paths),
        "skims": float(any(skims(p, layers) for p in paths)),
    }


def chance(values: Mapping[str, float], weights: Mapping[str, float] = WEIGHTS) -> float:
    """The logistic function of the weighted sum; less where an axis is in doubt or a curve may go on unseen, whatever the others look like."""
    total = weights["bias"] + sum(w * values[k] for k, w in weights.items() if k != "bias")
    curves = 1 / (1 + math.exp(-max(-30.0, min(30.0, total))))
    return curves * min(1.0, 1.0 + DOUBTFUL_AXES + values["axes"]) * (1 - SKIMMING * values["skims"])
