"""How sure we are: what the steps found out about themselves, turned into a chance of being right.

Two steps. Each curve gets its own chance; the picture's comes from its weakest curve, all of them together, and the ink that none
of them explains. Both are plain sums of a few features, so that a result can be explained. The weights are fitted
by `python -m bench.curves.confidence` on drawn plots of several seeds; after a change to the tracer, fit them again.
"""

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from adapters.curves.ink import Layer
from adapters.curves.shapes import Axis, Mask, Path

CURVE_WEIGHTS: dict[str, float] = {
    "bias": 2.7,
    "axes": 2.9,
    "left": -4.0,
    "gaps": -1.5,
    "doubt": -0.6,
    "ends": -1.2,
    "unsupported": -2.4,
    "shared": -1.5,
    "black": -0.5,
    "crowd": -0.4,
}
IMAGE_WEIGHTS: dict[str, float] = {
    "bias": 0.0,
    "weakest": 0.5,
    "all": 1.0,
    "unexplained": -4.0,
    "crowd": -0.2,
}


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
    at = np.round(path.points - np.array(layer.origin)).astype(int)
    xs, ys = np.clip(at[:, 0], 0, near.shape[1] - 1), np.clip(at[:, 1], 0, near.shape[0] - 1)
    return float(1 - near[ys, xs].mean())


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


def curve_features(
    x: Axis | None, y: Axis | None, path: Path, paths: Sequence[Path], layers: Sequence[Layer]
) -> dict[str, float]:
    """What speaks for and against one curve; each between -1 and about 4."""
    same = [p for p in paths if p.colour == path.colour]
    own = [q for q in layers if q.colour == path.colour]
    return {
        "axes": min(x.confidence if x else 0.0, y.confidence if y else 0.0) - 1,
        "left": min(0.6, unexplained(same, own)) if own else 0.6,
        "gaps": path.gaps,
        "doubt": path.doubt,
        "ends": loose_ends(path, layers),
        "unsupported": unsupported(path, layers),
        "shared": path.shared,
        "black": 0.0 if path.details.get("chromatic") else 1.0,
        "crowd": math.log2(len(same)),
    }


def image_logits(chances: Sequence[float]) -> dict[str, float]:
    """The curves' chances as features of the picture: the weakest one, all of them together, how many they are."""
    safe = [min(max(c, 1e-6), 1 - 1e-6) for c in chances]
    return {
        "weakest": min(math.log(c / (1 - c)) for c in safe),
        "all": sum(math.log(c) for c in safe),
        "crowd": math.log2(len(safe)),
    }


def chance(values: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The logistic function of the weighted sum."""
    total = weights["bias"] + sum(w * values[k] for k, w in weights.items() if k != "bias")
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, total))))


def judged(
    x: Axis | None, y: Axis | None, paths: Sequence[Path], layers: Sequence[Layer]
) -> tuple[float, list[float], dict[str, float], list[dict[str, float]]]:
    """The picture's chance, each curve's chance, and the features behind both."""
    if not paths or not layers:
        return 0.0, [0.0] * len(paths), {}, [{} for _ in paths]
    each = [curve_features(x, y, p, paths, layers) for p in paths]
    chances = [chance(f, CURVE_WEIGHTS) for f in each]
    whole = image_logits(chances) | {"unexplained": min(0.6, unexplained(paths, layers))}
    return chance(whole, IMAGE_WEIGHTS), chances, whole, each
