"""Pieces of one curve put together."""

import math
from dataclasses import replace

import cv2
import numpy as np

from adapters.curves.ink import Layer
from adapters.curves.shapes import Floats, Path
from adapters.curves.ways import arc, at_border, hermite, seen_through, smooth


def joined(paths: list[Path], layer: Layer, size: float) -> list[Path]:
    """Pieces of one curve put together: dashes that the graph lost among others, ends that point at each other.

    Only where ink (dots, another curve on top) or a cover (text, grid) is seen for a good part of the way.
    """
    out = list(paths)
    near = np.asarray(cv2.dilate((layer.mask | layer.hidden).astype(np.uint8), np.ones((3, 3), np.uint8)), np.bool_)
    h, w = layer.mask.shape
    origin = np.array(layer.origin, np.float64)
    while True:
        best: tuple[float, int, int, bool, bool] | None = None
        for i in range(len(out)):
            for j in range(i + 1, len(out)):
                for flip_i in (False, True):
                    for flip_j in (False, True):
                        a = out[i].points[::-1] if flip_i else out[i].points
                        b = out[j].points[::-1] if flip_j else out[j].points
                        p, q = a[-1], b[0]
                        gap = float(np.hypot(*(q - p)))
                        if gap > 0.2 * size or gap < 0.5 or at_border(p - origin, w, h) or at_border(q - origin, w, h):
                            continue
                        leave = a[-1] - a[max(0, len(a) - 40)]
                        enter = b[min(len(b) - 1, 39)] - b[0]
                        u = (q - p) / gap
                        turns = [
                            math.acos(float(np.clip(u @ v / max(np.hypot(*v), 1e-9), -1, 1))) for v in (leave, enter)
                        ]
                        seen = seen_through(near, p - origin, q - origin)
                        # Under a cover a curve may bend, one way.
                        bends = [float(leave[0] * u[1] - leave[1] * u[0]), float(u[0] * enter[1] - u[1] * enter[0])]
                        arched = seen > 0.9 and bends[0] * bends[1] > 0 and abs(turns[0] - turns[1]) < 0.35
                        if max(turns) > (0.6 if arched else 0.3 if gap > 0.06 * size else 0.45):
                            continue
                        if seen < 0.2 and gap > 0.04 * size:
                            continue
                        cost = gap * (1 + 3 * sum(turns)) * (1.6 - seen)
                        if best is None or cost < best[0]:
                            best = (cost, i, j, flip_i, flip_j)
        if best is None:
            return out
        _, i, j, flip_i, flip_j = best
        a, b = out[i], out[j]
        first = a.points[::-1] if flip_i else a.points
        second = b.points[::-1] if flip_j else b.points
        points = np.concatenate([first, bridge(first, second, a.width), second])
        out = [p for k, p in enumerate(out) if k not in (i, j)] + [united(a, b, points)]


def bridge(first: Floats, second: Floats, thick: float) -> Floats:
    """What lies between the end of one way and the start of another, without both: smooth over a wide gap."""
    p, q = first[-1], second[0]
    if float(np.hypot(*(q - p))) <= 4 * thick:
        return first[:0]
    u, v = p - first[max(0, len(first) - 40)], second[min(len(second) - 1, 39)] - q
    u, v = u / max(float(np.hypot(*u)), 1e-9), v / max(float(np.hypot(*v)), 1e-9)
    return hermite(p, q, u, -v)[1:-1]


def over_the_top(paths: list[Path], layer: Layer) -> list[Path]:
    """Two halves of a curve whose peak lies in the cleared rim at the frame, put together."""
    out = list(paths)
    i = 0
    while i < len(out):
        for j in range(i + 1, len(out)):
            whole = over_rim(out[i], out[j], layer)
            if whole is not None:
                out[i] = whole
                del out[j]
                break
        else:
            i += 1
    return out


def over_rim(one: Path, other: Path, layer: Layer) -> Path | None:
    """One curve of two that end at the same side of the plot, or None.

    The parabola over their ends must reach no farther than the frame: curves that leave the plot are steeper or lie farther apart.
    """
    h = layer.mask.shape[0]
    origin = np.array(layer.origin, np.float64)
    near = layer.rim + 5.0
    look = 2 * max(14, round(4 * layer.thick))
    if min(len(one.points), len(other.points)) < 2 * look:
        return None
    for first in (one.points - origin, one.points[::-1] - origin):
        for second in (other.points - origin, other.points[::-1] - origin):
            ends = (float(first[0, 1]), float(second[0, 1]))
            side = 0.0 if max(ends) < near else h - 1.0 if min(ends) > h - 1 - near else None
            if side is None:
                continue
            # In the rim they were led straight to the frame, which tells nothing.
            before, after = (q[int(np.argmax(np.abs(q[:, 1] - side) > layer.rim + 1)) :] for q in (first, second))
            if min(len(before), len(after)) < look + 1:
                continue
            p, q = before[0], after[0]
            u, v, gap = p - before[look], q - after[look], float(q[0] - p[0])
            if float(u[0]) * gap <= 0 or float(v[0]) * gap >= 0:
                continue
            slope = 0.5 * (abs(float(u[1] / u[0])) + abs(float(v[1] / v[0])))
            if slope > 1 or abs(gap) * slope / 4 > layer.rim + layer.thick + 2:
                continue
            top = np.array([[0.5 * float(p[0] + q[0]), side]])
            return united(one, other, smooth(np.concatenate([before[::-1], top, after]) + origin, 2.0))
    return None


def united(one: Path, other: Path, points: Floats) -> Path:
    """One path of two; `points` has both and what lies between."""
    la, lb = arc(one.points), arc(other.points)
    gap = max(0.0, arc(points) - la - lb)
    whole = la + lb + gap
    return replace(
        one,
        points=points,
        width=max(one.width, other.width),
        gaps=(one.gaps * la + other.gaps * lb + gap) / whole,
        shared=(one.shared * la + other.shared * lb) / whole,
        doubt=max(one.doubt, other.doubt),
        details={**one.details, "fresh": float(one.details["fresh"]) + float(other.details["fresh"]) + gap},
    )
