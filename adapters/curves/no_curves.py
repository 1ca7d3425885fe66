"""What was traced and is no curve: rulers' lines, rests of the frame, pointers from a text, what only repeats others."""

from collections.abc import Callable, Sequence

import numpy as np

from adapters.curves.ink import Layer
from adapters.curves.kit import nearest
from adapters.curves.shapes import Box, Floats, Mask, Path
from adapters.curves.skeleton import Edge, Graph
from adapters.curves.ways import arc, at_border, at_points, curls, last_part, longest_run, plumb, straight, unevenness


def ruled(points: Floats, thick: float, size: float, chromatic: bool, wide: float) -> bool:
    """True for what a ruler drew: the border of a box, a rest of the grid. Level coloured strokes may be curves."""
    if len(points) < 4:
        return False
    x, y = points[:, 0], points[:, 1]
    flat = max(2.6, 0.4 * thick)
    if plumb(points, flat):
        return True
    if np.ptp(y) <= 2 * flat:
        return not chromatic and float(np.ptp(x)) < 0.9 * wide
    n = len(points)
    k = max(6, int(0.04 * size))
    if n < 2 * k:
        return False
    level = np.abs(y[k:] - y[:-k]) <= 0.75
    upright = np.abs(x[k:] - x[:-k]) <= 0.75
    # The corners themselves are neither; each costs about one window.
    return bool(upright.mean() > 0.05 and (level | upright).sum() + 1.2 * k * 2 > len(level))


def fine(depths: Floats, thick: float) -> bool:
    """True for strokes of a much finer pen than that of the curves: pointers, rests of the grid. `depths` are distances to the
    border of the ink at their middle, 0 where they cross bare paper or run under a text."""
    seen = depths[depths > 0]
    return thick > 3 and len(seen) > 0 and 2 * float(np.median(seen)) - 1 < 0.55 * thick


def hugs_frame(points: Floats, layer: Layer) -> bool:
    """True for what is left of the frame itself: a level line just inside its upper or lower side, all along."""
    h = layer.mask.shape[0]
    rim = layer.rim + layer.thick + 3
    low, high = np.percentile(points[:, 1], (4, 96))
    return layer.rim > 0 and float(high - low) <= 4 and (float(high) < rim or float(low) > h - 1 - rim)


def leader(graph: Graph, edge: Edge, layer: Layer, text: Mask | None, size: float) -> bool:
    """A straight stroke from text to a curve (often with an arrow head) is a pointer, no curve."""
    if text is None or layer.chromatic or edge.length > 0.2 * size:
        return False
    # A pointer points at a curve; what runs out of the plot points at nothing.
    if any(at_border(p, layer.mask.shape[1], layer.mask.shape[0]) for p in (edge.points[0], edge.points[-1])):
        return False
    trimmed = edge.points[int(0.1 * len(edge.points)) : max(2, int(0.9 * len(edge.points)))]
    if straight(trimmed) > max(1.3, 0.3 * layer.thick):
        return False
    return any(
        len(graph.at[n]) == 1 and near_text(p, text, 0.035 * size)
        for n, p in ((edge.a, edge.points[0]), (edge.b, edge.points[-1]))
    )


def near_text(point: Floats, text: Mask, reach: float) -> bool:
    x, y, r = round(float(point[0])), round(float(point[1])), round(reach)
    return bool(text[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1].any())


def pointer(fresh: Floats, path: Path, size: float, texts: Sequence[Box]) -> bool:
    """A short straight stroke with text at one end."""
    length = arc(fresh)
    if length > 0.2 * size or len(fresh) < 4 or bool(path.details.get("chromatic") or path.details.get("leaves")):
        return False
    body = fresh[int(0.12 * len(fresh)) : max(3, int(0.88 * len(fresh)))]
    if straight(body) > max(2.0, 0.03 * length):
        return False
    return any(box.away(end) < 0.035 * size for box in texts for end in (fresh[0], fresh[-1]))


def beside(path: Path, other: Path, reach: float) -> float:
    """The part of a path that runs within `reach` pixels of another one."""
    distance = nearest(path.points[::3], other.points, reach)
    return float(np.isfinite(distance).mean())


def distinct(paths: Sequence[Path], size: float, texts: Sequence[Box] = ()) -> list[Path]:
    """Without those that only repeat others, and without pointers from text to a curve."""
    order = sorted(paths, key=lambda p: -float(p.details.get("fresh", 0.0)))
    kept: list[Path] = []
    for path in order:
        if not kept:
            if not pointer(path.points, path, size, texts):
                kept.append(path)
            continue
        if any(p.colour != path.colour and beside(path, p, max(0.008 * size, 1.2 * p.width)) > 0.85 for p in kept):
            continue
        same = [p for p in kept if p.colour == path.colour]
        fresh = path.points
        if same:
            reach = max(0.0045 * size, 0.6 * path.width)
            distance = nearest(path.points, np.concatenate([p.points for p in same]), reach)
            fresh = longest_run(path.points, np.isinf(distance))
            # A curve that leaves a bundle only for a short way is believed only when that way is long enough.
            if arc(fresh) < 0.045 * size:
                continue
        if (
            (fresh is not path.points and curls(fresh))
            or pointer(fresh, path, size, texts)
            or (
                path.shared > 0.12
                and fresh is not path.points
                and ruled(fresh[len(fresh) // 8 : len(fresh) - len(fresh) // 8], path.width, size, False, 2 * size)
                and cornered(path, fresh, size)
            )
        ):
            continue
        kept.append(path)
    return without_mixtures(kept, size)


def cornered(path: Path, part: Floats, size: float) -> bool:
    """True when the way turns into the part of it at a corner. A curve that leaves others and runs level bends smoothly."""
    first = int(np.argmin(np.hypot(*(path.points - part[0]).T)))
    ways = (path.points[: first + 1], part), (path.points[first + len(part) :][::-1], part[::-1])
    look = max(9 * path.width, 0.06 * size)
    return any(
        unevenness(last_part(rest, look), last_part(own[::-1], look)[::-1]) > 0.08 * path.width
        for rest, own in ways
        if arc(rest) > 3 * path.width
    )


def without_mixtures(paths: Sequence[Path], size: float) -> list[Path]:
    """Where two curves touch, a walk can take half of each: what the others explain altogether goes."""
    return unexplained(paths, size, lambda path, apart: arc(longest_run(path.points, apart)))


def with_own_ink(paths: Sequence[Path], layer: Layer, size: float) -> list[Path]:
    """Without ways of which nothing is seen but what others explain: under a text and along a line of the grid a pen can get from one
    curve into another."""

    def seen(path: Path, apart: Mask) -> float:
        inked = at_points(layer.mask, path.points - np.array(layer.origin, np.float64))
        return float(np.hypot(*np.diff(path.points, axis=0, prepend=path.points[:1]).T)[apart & inked].sum())

    return unexplained(paths, size, seen)


def unexplained(paths: Sequence[Path], size: float, own: Callable[[Path, Mask], float]) -> list[Path]:
    """Without paths that have too little of their own, in pixels, where they are apart from the others. The most doubtful go first."""
    left = list(paths)
    for path in sorted(paths, key=lambda p: (-p.shared, -p.doubt)):
        others = [p.points for p in left if p is not path and p.colour == path.colour]
        if not others:
            continue
        apart = np.isinf(nearest(path.points, np.concatenate(others), max(0.006 * size, 0.7 * path.width)))
        if own(path, apart) < 0.03 * size:
            left = [p for p in left if p is not path]
    return left
