"""From ink to curves: each stroke that no curve has explained yet is followed both ways, the clearest first.

Ink may be shared: where curves merge, each of them goes along the common part.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from adapters.curves.dashes import dashes_joined, filled_markers
from adapters.curves.follow import Field, Pen, Trail, both_ways, centred, explained, field_of
from adapters.curves.grid import run_through
from adapters.curves.ink import Layer
from adapters.curves.kit import connected, gaussian_along, nearest, nearest_of, pairs, skeleton_of
from adapters.curves.pointers import without_pointers
from adapters.curves.shapes import Box, Floats, Ints, Mask, Path

MOST_TRIES = 32
"""Strokes followed in one layer before the rest is left: ink that is no plot has thousands. Counted, not timed, so that a busy
machine gives the same result."""
MOST_PIECES = 2000
"""Strokes between crossings in one picture. Layers with more are noise, a photo, a page of text: they are not followed."""
MOST_GUESSES = 12_000_000
"""Guesses of the pen in one picture, several times as many as the fullest plot of curves asks for."""
MOST_CURVES = 60
"""Curves of one picture. Nobody could tell more of them apart."""


@dataclass
class Work:
    """What following the ink of one picture may still cost."""

    guesses: int = MOST_GUESSES
    pieces: int = MOST_PIECES
    cut: bool = False
    """True when something was left because there was more ink than curves explain."""


class Cluttered(ValueError):
    """There are more pieces of ink than curves leave."""


@dataclass
class Edge:
    points: Floats
    """N x 2 (x, y), from node `a` to node `b`."""
    a: int
    b: int
    length: float = 0.0

    def __post_init__(self) -> None:
        self.length = arc(self.points)

    def leaving(self, node: int) -> Floats:
        return self.points if node == self.a else self.points[::-1]

    def other(self, node: int) -> int:
        return self.b if node == self.a else self.a


@dataclass
class Graph:
    edges: list[Edge] = field(default_factory=list[Edge])
    at: dict[int, list[int]] = field(default_factory=dict[int, list[int]])

    def add(self, edge: Edge) -> None:
        k = len(self.edges)
        self.edges.append(edge)
        self.at.setdefault(edge.a, []).append(k)
        if edge.b != edge.a:
            self.at.setdefault(edge.b, []).append(k)

    def drop(self, k: int) -> None:
        edge = self.edges[k]
        for node in {edge.a, edge.b}:
            self.at[node].remove(k)


def arc(points: Floats) -> float:
    return float(np.hypot(*np.diff(points, axis=0).T).sum()) if len(points) > 1 else 0.0


def skeleton_graph(mask: Mask, thick: float, work: Work) -> Graph:
    """Strokes between ends and crossings of the skeleton. Raises Cluttered, before much is done, where there are too many."""
    skeleton = skeleton_of(mask)
    s = skeleton.astype(np.uint8)
    near = cv2.filter2D(s, cv2.CV_16S, np.ones((3, 3), np.int16), borderType=cv2.BORDER_CONSTANT)
    neighbours = np.where(skeleton, near.astype(np.int64) - 1, 0)
    crossing = skeleton & (neighbours >= 3)
    count, knots, _, centres = connected(crossing)
    chains = skeleton & ~crossing
    number, labels, _, _ = connected(chains)
    if number > work.pieces:
        raise Cluttered
    work.pieces -= number
    graph = Graph()
    nodes = count
    ys, xs = np.nonzero(chains)
    which = labels[ys, xs]
    order = np.argsort(which, kind="stable")
    bounds = np.searchsorted(which[order], np.arange(1, number + 1))
    for i in range(1, number):
        index = order[bounds[i - 1] : bounds[i]]
        points = ordered(np.c_[xs[index], ys[index]].astype(np.int64))
        ends: list[int] = []
        for p, q in ((points[0], points[-1]), (points[-1], points[0])):
            x, y = int(p[0]), int(p[1])
            window = knots[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            touching = sorted(set(window[window > 0].tolist()))
            if len(points) == 1 and len(touching) > 1:
                ends = [int(touching[0]), int(touching[1])]
                break
            if touching and (len(points) > 1 or not ends):
                # A short loop must not return to the same knot through its first pixel.
                free = [t for t in touching if t not in ends] or touching
                ends.append(int(free[0]))
            else:
                ends.append(nodes)
                nodes += 1
            del q
        body = points.astype(np.float64)
        parts = [body]
        if ends[0] < count:
            parts.insert(0, np.asarray(centres[ends[0]], np.float64)[None])
        if ends[1] < count:
            parts.append(np.asarray(centres[ends[1]], np.float64)[None])
        graph.add(Edge(np.concatenate(parts), ends[0], ends[1]))
    prune(graph, 0.9 * thick + 2)
    return graph


def ordered(points: Ints) -> Ints:
    """Pixels of a chain in walking order."""
    if len(points) < 3:
        return points
    left = {(int(x), int(y)) for x, y in points}

    def around(p: tuple[int, int]) -> list[tuple[int, int]]:
        x, y = p
        return [
            q
            for q in (
                (x + 1, y),
                (x - 1, y),
                (x, y + 1),
                (x, y - 1),
                (x + 1, y + 1),
                (x - 1, y - 1),
                (x + 1, y - 1),
                (x - 1, y + 1),
            )
            if q in left
        ]

    start = next((p for p in left if len(around(p)) <= 1), next(iter(left)))
    out = [start]
    left.discard(start)
    while True:
        step = around(out[-1])
        if not step:
            break
        out.append(step[0])
        left.discard(step[0])
    return np.array(out, np.int64)


def prune(graph: Graph, least: float) -> None:
    """Spurs that thinning leaves at the sides of thick strokes."""
    for _ in range(2):
        for k, edge in enumerate(graph.edges):
            if k not in graph.at.get(edge.a, []):
                continue
            free = [n for n in (edge.a, edge.b) if len(graph.at[n]) == 1]
            if len(free) == 1 and edge.length < least and len(graph.at[edge.other(free[0])]) >= 3:
                graph.drop(k)


def alive(graph: Graph, k: int) -> bool:
    return k in graph.at.get(graph.edges[k].a, [])


def seen_through(layer_hidden: Mask, a: Floats, b: Floats) -> float:
    """The part of the straight way from a to b that is hidden under grid, text or other curves."""
    n = max(2, int(np.hypot(*(b - a))))
    xs = np.clip(np.round(np.linspace(float(a[0]), float(b[0]), n)).astype(int), 0, layer_hidden.shape[1] - 1)
    ys = np.clip(np.round(np.linspace(float(a[1]), float(b[1]), n)).astype(int), 0, layer_hidden.shape[0] - 1)
    return float(layer_hidden[ys, xs].mean())


def hermite(p: Floats, q: Floats, leave: Floats, back: Floats) -> Floats:
    """A smooth way from p, leaving along `leave`, to q, whose own stroke ends along `back`."""
    gap = float(np.hypot(*(q - p)))
    n = max(3, int(gap / 2) + 1)
    t = np.linspace(0, 1, n)[:, None]
    u = (q - p) / max(gap, 1e-9)
    m0 = (leave if leave.any() else u) * gap
    m1 = (-back if back.any() else u) * gap
    return (2 * t**3 - 3 * t**2 + 1) * p + (t**3 - 2 * t**2 + t) * m0 + (-2 * t**3 + 3 * t**2) * q + (t**3 - t**2) * m1


def thin(points: Floats, step: float) -> Floats:
    if len(points) < 3:
        return points
    s = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    n = max(2, int(s[-1] / step) + 1)
    at: Floats = np.linspace(0.0, float(s[-1]), n)
    return np.c_[np.interp(at, s, points[:, 0]), np.interp(at, s, points[:, 1])]


def last_part(points: Floats, length: float) -> Floats:
    steps = np.hypot(*np.diff(points, axis=0).T) if len(points) > 1 else np.zeros(0)
    back = np.r_[0, np.cumsum(steps[::-1])]
    return points[len(points) - int(np.searchsorted(back, length, side="right")) :]


def smooth(points: Floats, sigma: float) -> Floats:
    """Even steps along the way, the staircase of pixels rounded off; the ends stay."""
    even = thin(points, 1.0)
    if len(even) < 8:
        return even
    out = gaussian_along(even, min(sigma, len(even) / 8))
    out[0], out[-1] = even[0], even[-1]
    return out


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


def plumb(points: Floats, flat: float) -> bool:
    """True for an upright line: no quantity has all values at one place. Its ends may lean on other ink."""
    low, high = np.percentile(points[:, 0], (5, 95))
    return float(high - low) <= 2 * flat and float(np.ptp(points[:, 1])) > float(np.ptp(points[:, 0]))


def curls(points: Floats) -> bool:
    """True for a way that winds about in one spot, as letters do: it is much longer than the place that it takes up."""
    span = np.ptp(points, axis=0)
    return len(points) > 3 and arc(points) > 1.8 * float(span.sum())


def fine(depths: Floats, thick: float) -> bool:
    """True for strokes of a much finer pen than that of the curves: pointers, rests of the grid. `depths` are distances to the
    border of the ink at their middle."""
    return thick > 3 and len(depths) > 0 and 2 * float(np.median(depths)) - 1 < 0.55 * thick


def hugs_frame(points: Floats, layer: Layer) -> bool:
    """True for what is left of the frame itself: a level line just inside its upper or lower side, all along."""
    h = layer.mask.shape[0]
    rim = layer.rim + layer.thick + 3
    low, high = np.percentile(points[:, 1], (4, 96))
    return layer.rim > 0 and float(high - low) <= 4 and (float(high) < rim or float(low) > h - 1 - rim)


def along_frame(points: Floats, layer: Layer) -> Floats:
    """A curve that runs flat into the upper or lower side goes on along it: its rest lies under the frame."""
    h, w = layer.mask.shape
    # The rim beside the frame was cleared, so a curve that goes on under the frame ends exactly there.
    rim = max(2.0, 0.006 * max(h, w)) + 0.6 * layer.thick + 2
    for side in (0, 1):
        if side:
            points = points[::-1]
        end, body = points[0], points[:: max(1, len(points) // 60)][:8]
        if len(body) < 4:
            continue
        edge = h - 1.0 if end[1] > h - 1 - rim else 0.0 if end[1] < rim else None
        d = points[0] - points[min(len(points) - 1, max(12, int(0.03 * w)))]
        if edge is not None and abs(d[0]) > 3 and abs(d[1]) < 0.2 * abs(d[0]):
            target = 0.0 if d[0] < 0 else w - 1.0
            if abs(target - end[0]) > 2 and edge > 0 and rides(layer, end[0], target):
                points = np.concatenate([[[target, edge]], [[end[0] + 0.3 * (target - end[0]), edge]], points])
        if side:
            points = points[::-1]
    return points


def rides(layer: Layer, start: float, stop: float) -> bool:
    """True when the lower side of the frame is thicker between two columns than a bare side is."""
    h = layer.weak.shape[0]
    runs = run_through(layer.weak[max(0, h - 40) :], min(h, 40) - 1)
    bare = run_through(np.ascontiguousarray(layer.weak[:40][::-1]), min(h, 40) - 1)
    lo, hi = sorted((round(start), round(stop)))
    part = runs[lo : hi + 1]
    usual = min(float(np.percentile(runs, 20)), float(np.median(bare)))
    return len(part) > 0 and float(np.median(part)) >= usual + 1


def straight(points: Floats) -> float:
    """Largest distance from the chord, in pixels."""
    d = points[-1] - points[0]
    n = float(np.hypot(*d))
    if n < 1:
        return 0.0
    r = points - points[0]
    return float(np.abs(r[:, 0] * d[1] - r[:, 1] * d[0]).max() / n)


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


def bearing(points: Floats) -> tuple[float, float, float, float]:
    """Place, direction and curvature in the middle of a stroke."""
    n = len(points)
    middle = n // 2
    part = points[max(0, middle - 22) : middle + 23]
    at = points[middle]
    if len(part) < 5:
        d = points[-1] - points[0]
        return float(at[0]), float(at[1]), math.atan2(float(d[1]), float(d[0])), 0.0
    s = np.r_[0, np.cumsum(np.hypot(*np.diff(part, axis=0).T))]
    s -= float(s[min(middle, 22)])
    fx, fy = (np.asarray(np.polyfit(s, part[:, k], 2), np.float64) for k in (0, 1))
    vx, vy, ax, ay = float(fx[1]), float(fy[1]), 2 * float(fx[0]), 2 * float(fy[0])
    bend = (vx * ay - vy * ax) / max((vx * vx + vy * vy) ** 1.5, 1e-6)
    return float(fx[2]), float(fy[2]), math.atan2(vy, vx), float(np.clip(bend, -0.05, 0.05))


def without_borrowed_tails(field: Field, trail: Trail) -> Trail:
    """A trail that turns into another curve at an angle ends there; one that merges with it goes on."""
    # Directions are taken outside of the place where the two strokes (or an arrow's head) are one blob.
    blur = 2 + round(field.thick / 3)
    for _ in range(2):
        points = trail.points[::-1]
        at = np.rint(points).astype(np.int64)
        own = (field.worth[at[:, 1], at[:, 0]] >= 1) & trail.inked[::-1]
        # Beside the other curve's middle some points seem to be our own; the trail's own part is where most are.
        steady = np.convolve(own, np.ones(9), "valid") >= 7 if len(own) >= 9 else np.zeros(0, np.bool_)
        first = int(np.argmax(steady)) if steady.any() else 0
        if first > 3 and len(points) - first > 6:
            tail, body = points[: max(3, first - blur)][-11:], points[first + blur :][:11]
            if len(tail) > 2 and len(body) > 2:
                u, v = tail[-1] - tail[0], body[-1] - body[0]
                turn = math.acos(float(np.clip(u @ v / max(np.hypot(*u) * np.hypot(*v), 1e-9), -1, 1)))
                if turn > 0.45:
                    keep = slice(max(0, first - 1), None)
                    trail = Trail(points[keep][::-1], trail.inked[::-1][keep][::-1], trail.doubt)
        trail = Trail(trail.points[::-1], trail.inked[::-1], trail.doubt)
    return trail


def dots(mask: Mask, thick: float) -> list[tuple[float, float, float]]:
    """Dots of dotted lines: place and the direction to the nearest other one. Lonely dots are none."""
    _, _, stats, centres = connected(mask)
    extent = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    small = np.nonzero((extent >= 0.5 * thick) & (extent <= 2.6 * thick + 1))[0]
    small = small[small > 0]
    if not 6 <= len(small) <= MOST_PIECES:
        return []
    at = centres[small]
    gaps = np.hypot(at[:, 0, None] - at[None, :, 0], at[:, 1, None] - at[None, :, 1])
    np.fill_diagonal(gaps, np.inf)
    out: list[tuple[float, float, float]] = []
    for i in range(len(small)):
        near = np.argsort(gaps[i])[:2]
        u, v = at[near[0]] - at[i], at[near[1]] - at[i]
        # In a row: one neighbour on each side.
        if gaps[i, near[1]] < 8 * thick and float(u @ v) < -0.7 * float(np.hypot(*u) * np.hypot(*v)):
            out.append((float(at[i, 0]), float(at[i, 1]), math.atan2(float(u[1]), float(u[0]))))
    return out


def to_border(points: Floats, layer: Layer) -> Floats:
    """Ends that stop at the cleared rim beside the frame go straight on to the frame."""
    h, w = layer.mask.shape
    near = layer.rim + 4.0
    for _ in range(2):
        end, inner = points[-1], points[max(0, len(points) - 9)]
        d = end - inner
        steps = [
            t
            for t in (
                (w - 1 - end[0]) / d[0] if d[0] > 0.3 and w - 1 - end[0] < near else math.inf,
                -end[0] / d[0] if d[0] < -0.3 and end[0] < near else math.inf,
                (h - 1 - end[1]) / d[1] if d[1] > 0.3 and h - 1 - end[1] < near else math.inf,
                -end[1] / d[1] if d[1] < -0.3 and end[1] < near else math.inf,
            )
            if 0 < t
        ]
        if steps and min(steps) * float(np.hypot(*d)) < 4 * near:
            points = np.concatenate([points, (end + min(steps) * d)[None]])
        points = points[::-1]
    return points


def swapped(paths: list[Path]) -> list[Path]:
    """Where two paths share a stretch, the rest of each goes to the one that it continues more smoothly."""
    out = [p.points for p in paths]
    done: set[tuple[int, int, int, int]] = set()
    # How often each path was changed; two that were compared as they are need not be compared again.
    changes = [0] * len(out)
    compared: dict[tuple[int, int], tuple[int, int]] = {}
    for _ in range(24):
        changed = False
        for i in range(len(out)):
            for j in range(i + 1, len(out)):
                if paths[i].colour != paths[j].colour or compared.get((i, j)) == (changes[i], changes[j]):
                    continue
                compared[i, j] = changes[i], changes[j]
                better = uncrossed(out[i], out[j], max(paths[i].width, paths[j].width), done, (i, j))
                if better is not None:
                    out[i], out[j] = better
                    changes[i], changes[j] = changes[i] + 1, changes[j] + 1
                    changed = True
        if not changed:
            break
    return [replace(p, points=q) for p, q in zip(paths, told_apart(out, paths), strict=True)]


def uncrossed(
    one: Floats, other: Floats, thick: float, done: set[tuple[int, int, int, int]], pair: tuple[int, int]
) -> tuple[Floats, Floats] | None:
    """The two with their ends exchanged behind a shared stretch where that is clearly smoother, else None."""
    reach = 0.9 * thick + 1.0
    distance, spatial = nearest_of(one, other)
    near = np.nonzero(distance < reach)[0]
    if len(near) == 0:
        return None
    look = max(45.0, 7 * thick)
    for run in np.split(near, np.nonzero(np.diff(near) > 2 * thick + 6)[0] + 1):
        a0, a1 = int(run[0]), int(run[-1])
        b0, b1 = int(spatial[a0]), int(spatial[a1])
        second = other
        if b0 > b1 or (b0 == b1 and crosses_backwards(one, other, a0, b0)):
            second = other[::-1]
            b0, b1 = len(other) - 1 - b0, len(other) - 1 - b1
        key = (*pair, round(float(one[a0, 0]) / 8), round(float(one[a0, 1]) / 8))
        if key in done:
            continue
        common = arc(one[a0 : a1 + 1])
        window = look + 0.7 * common
        a_in, a_out = last_part(one[: a0 + 1], window), last_part(one[a1:][::-1], window)[::-1]
        b_in, b_out = last_part(second[: b0 + 1], window), last_part(second[b1:][::-1], window)[::-1]
        if min(arc(q) for q in (a_in, a_out, b_in, b_out)) < 0.35 * look:
            continue
        done.add(key)
        kept = unevenness(a_in, a_out, common) + unevenness(b_in, b_out, common)
        crossed = unevenness(a_in, b_out, common) + unevenness(b_in, a_out, common)
        if crossed < 0.75 * kept - 0.08:
            # Exchanged where they are nearest, so that no corner is left.
            a = a0 + int(np.argmin(distance[a0 : a1 + 1]))
            b = int(spatial[a]) if second is other else len(other) - 1 - int(spatial[a])
            return np.concatenate([one[:a], second[b:]]), np.concatenate([second[:b], one[a:]])
    return None


def crosses_backwards(one: Floats, other: Floats, a: int, b: int) -> bool:
    u = one[min(len(one) - 1, a + 8)] - one[max(0, a - 8)]
    v = other[min(len(other) - 1, b + 8)] - other[max(0, b - 8)]
    return bool(u @ v < 0)


def unevenness(before: Floats, after: Floats, common: float) -> float:
    """How badly one smooth curve fits what was before and what is after a shared stretch: the residual in pixels."""
    a, b = before[:: max(1, len(before) // 20)], after[:: max(1, len(after) // 20)]
    points = np.concatenate([a, b])
    s = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    t = 2 * s / max(float(s[-1]), 1e-9) - 1
    basis = np.vander(t, 4)
    solution, *_ = np.linalg.lstsq(basis, points, rcond=None)
    return float(np.sqrt(((points - basis @ solution) ** 2).sum(axis=1).mean()))


Spans = dict[int, tuple[int, int]]
"""Where some ways share a stretch: of each of them, by its number, the first and last index of that stretch."""


def told_apart(ways: Sequence[Floats], paths: Sequence[Path]) -> list[Floats]:
    """Where three ways and more meet in one place, what lies behind it goes to those that it continues most smoothly, all of them
    together: taken by twos, each two may lack the rest of both."""
    out = list(ways)
    thick = max((p.width for p in paths), default=1.0)
    done: set[tuple[int, ...]] = set()
    for _ in range(8):
        shared = [
            spans
            for j in range(len(out))
            for i in range(j)
            if paths[i].colour == paths[j].colour
            for spans in shared_by(out, i, j, 0.9 * thick + 1.0, 2 * thick + 6)
        ]
        for spans in meetings(shared):
            first = min(spans)
            x, y = (round(float(v) / 8) for v in out[first][spans[first][0]])
            key = (*sorted(spans), x, y)
            if key not in done:
                done.add(key)
                better = rearranged(out, spans, thick)
                if better:
                    out = [better.get(i, way) for i, way in enumerate(out)]
                    break
        else:
            break
    return out


def shared_by(ways: Sequence[Floats], i: int, j: int, reach: float, gap: float) -> list[Spans]:
    """The stretches that two ways share."""
    distance, which = nearest_of(ways[i], ways[j])
    near = np.nonzero(distance < reach)[0]
    if len(near) == 0:
        return []
    runs = np.split(near, np.nonzero(np.diff(near) > gap)[0] + 1)
    return [{i: (int(r[0]), int(r[-1])), j: (int(which[r].min()), int(which[r].max()))} for r in runs]


def meetings(shared: Sequence[Spans]) -> list[Spans]:
    """Shared stretches that overlap put together: places where three ways and more meet."""
    groups: list[Spans] = []
    for spans in shared:
        group = dict(spans)
        apart: list[Spans] = []
        for other in groups:
            if any(i in group and a <= group[i][1] and b >= group[i][0] for i, (a, b) in other.items()):
                group = {
                    i: (
                        min(q[i][0] for q in (group, other) if i in q),
                        max(q[i][1] for q in (group, other) if i in q),
                    )
                    for i in {*group, *other}
                }
            else:
                apart.append(other)
        groups = [*apart, group]
    return [g for g in groups if len(g) > 2]


def rearranged(ways: Sequence[Floats], spans: Spans, thick: float) -> dict[int, Floats]:
    """The ways with their rests exchanged behind a shared stretch where that is clearly smoother; else none.

    Only where they lie beside each other is looked at, from their mean: how they bend all together is much and says nothing about
    who is who.
    """
    look = max(45.0, 7 * thick)
    one = min(spans)
    a, b = spans[one]
    ahead = ways[one][min(len(ways[one]) - 1, b + 8)] - ways[one][max(0, a - 8)]
    ahead = ahead / max(float(np.hypot(*ahead)), 1e-9)
    aside = np.array([-ahead[1], ahead[0]])
    window = look + 0.7 * max(arc(ways[i][a : b + 1]) for i, (a, b) in spans.items())
    turned: dict[int, tuple[Floats, int, int]] = {}
    before: dict[int, Floats] = {}
    behind: dict[int, Floats] = {}
    for i, (a, b) in spans.items():
        way = ways[i]
        if float((way[min(len(way) - 1, b + 8)] - way[max(0, a - 8)]) @ ahead) < 0:
            way, a, b = way[::-1], len(way) - 1 - b, len(way) - 1 - a
        parts = last_part(way[: a + 1], window)[::-1], last_part(way[b:][::-1], window)[::-1]
        if min(arc(q) for q in parts) >= 0.35 * look:
            turned[i] = way, a, b
            before[i], behind[i] = parts
    # One that ends there leaves a rest without a beginning: then nothing is known.
    if len(turned) < len(spans):
        return {}
    members = sorted(turned)
    past, past_aside = beside_each_other([before[i] for i in members], ahead, aside)
    next_, next_aside = beside_each_other([behind[i] for i in members], ahead, aside)
    if len(past) < 8 or len(next_) < 8:
        return {}
    at = np.r_[past, next_]
    basis = np.vander(2 * (at - at.min()) / max(float(np.ptp(at)), 1e-9) - 1, 4)
    rest = np.eye(len(at)) - basis @ np.linalg.pinv(basis)
    cost = np.array([[float(((rest @ np.r_[p, q]) ** 2).mean()) for q in next_aside] for p in past_aside])
    best = pairs(cost)
    kept = math.sqrt(float(np.trace(cost)) / len(members))
    crossed = math.sqrt(sum(float(cost[r, c]) for r, c in best) / len(members))
    if crossed >= 0.85 * kept - 0.02:
        return {}
    out: dict[int, Floats] = {}
    for r, c in best:
        if r != c:
            (first, a0, a1), (second, b0, b1) = turned[members[r]], turned[members[c]]
            # Exchanged where they are nearest, so that no corner is left.
            distance, which = nearest_of(first[a0 : a1 + 1], second[b0 : b1 + 1])
            k = int(np.argmin(distance))
            out[members[r]] = np.concatenate([first[: a0 + k], second[b0 + int(which[k]) :]])
    return out


def beside_each_other(parts: Sequence[Floats], ahead: Floats, aside: Floats) -> tuple[Floats, Floats]:
    """Places along `ahead` that all parts reach, and how far each lies from their mean there."""
    along = [
        np.maximum.accumulate(s * (q @ ahead)) * s
        for q in parts
        for s in (1.0 if q[-1] @ ahead > q[0] @ ahead else -1.0,)
    ]
    low, high = max(float(v.min()) for v in along), min(float(v.max()) for v in along)
    if high - low < 8:
        return np.zeros(0), np.zeros((len(parts), 0))
    at = np.linspace(low, high, 24)
    sides: list[Floats] = []
    for v, q in zip(along, parts, strict=True):
        order = np.argsort(v, kind="stable")
        sides.append(np.interp(at, v[order], (q @ aside)[order]))
    beside = np.array(sides)
    return at, beside - beside.mean(axis=0)


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


def along_lines(paths: list[Path], layer: Layer) -> list[Path]:
    """Curves that end lying on a grid line go on along it to where the others end: had one left the line, it would show."""
    h, w = layer.mask.shape
    origin = np.array(layer.origin, np.float64)
    right = sorted((float(max(p.points[0, 0], p.points[-1, 0])) - origin[0] for p in paths), reverse=True)
    if len(right) < 3 or right[1] < right[0] - 0.03 * w:
        return paths
    goal = right[1]
    out: list[Path] = []
    for path in paths:
        points = path.points if path.points[-1, 0] >= path.points[0, 0] else path.points[::-1]
        tip = points[-1] - origin
        back = points[-1] - points[max(0, len(points) - 1 - max(20, round(0.05 * w)))]
        lies = back[0] > 8 and abs(back[1]) < 0.06 * back[0] + 1.0
        rest = goal - tip[0]
        if lies and 0.02 * w < rest < 0.6 * w:
            x0, x1, y = round(tip[0]) + 1, round(goal), round(tip[1])
            band = slice(max(0, y - round(layer.thick) - 1), min(h, y + round(layer.thick) + 2))
            line = (layer.hidden & layer.weak & ~layer.text)[band, x0:x1]
            rows = line.mean(axis=1)
            if len(rows) and float(rows.max()) > 0.9:
                level = float(np.mean(np.nonzero(rows > 0.8 * rows.max())[0])) + band.start
                tail = np.array([[x1 - 0.8 * rest, level], [goal, level]]) + origin
                whole = arc(points) + rest
                path = replace(
                    path,
                    points=np.concatenate([points, tail]),
                    gaps=(path.gaps * arc(points) + rest) / whole,
                )
        out.append(path)
    return out


def leaves(points: Floats, layer: Layer) -> bool:
    """True when an end lies at the plot's border."""
    h, w = layer.mask.shape
    return at_border(points[0], w, h) or at_border(points[-1], w, h)


def plain(layer: Layer, size: float) -> Layer:
    """The layer with its open markers filled and, where all is black, its dashes joined. The pieces of a colour are often not dashes
    but what other colours have left of it."""
    mask = filled_markers(layer.mask, layer.thick, size)
    return replace(layer, mask=mask if layer.chromatic else dashes_joined(mask, layer.thick, size, layer.rim))


def pointed(layer: Layer, ink: Mask, size: float, texts: Sequence[Box], work: Work) -> Layer:
    """The layer without its pointers."""
    if layer.chromatic or not texts or layer.mask.sum() < 0.04 * size:
        return layer
    try:
        graph = skeleton_graph(layer.mask, layer.thick, replace(work))
    except Cluttered:
        return layer
    ends = [
        edge.leaving(n)
        for k, edge in enumerate(graph.edges)
        if alive(graph, k)
        for n in {edge.a, edge.b}
        if len(graph.at[n]) == 1
    ]
    return without_pointers(layer, ends, texts, ink, size)


def trace_layer(layer: Layer, size: float, work: Work) -> list[Path]:
    """Curves of one layer, in picture pixels. `size` is the plot's diagonal; what it costs is taken from `work`.

    Each stroke of the skeleton that no curve has explained yet is followed both ways, the longest single strokes first.
    """
    if layer.mask.sum() < 0.04 * size:
        return []
    thick = layer.thick
    drawn, layer = layer.mask, plain(layer, size)
    closed = layer.mask & ~drawn
    try:
        graph = skeleton_graph(layer.mask, thick, work)
    except Cluttered:
        work.cut = True
        return []
    ground = field_of(layer.mask, layer.hidden, thick, layer.rim)
    width = np.asarray(cv2.distanceTransform(layer.mask.astype(np.uint8), cv2.DIST_L2, 3), np.float64)
    strokes = [e for k, e in enumerate(graph.edges) if alive(graph, k) and e.length >= 2]
    free = {n for n, ks in graph.at.items() if len(ks) == 1}

    def inside(points: Floats) -> tuple[Ints, Ints]:
        at = np.rint(points).astype(np.int64)
        return np.clip(at[:, 1], 0, layer.mask.shape[0] - 1), np.clip(at[:, 0], 0, layer.mask.shape[1] - 1)

    wide = [float(np.median(width[inside(e.points)])) > 0.85 * thick + 0.7 for e in strokes]
    flat = [
        e.length > 0.12 * size and ruled(e.points, thick, size, layer.chromatic, layer.mask.shape[1]) for e in strokes
    ]
    # Borders of boxes and strips of several curves in one come last: what is clear is taken first.
    order = sorted(range(len(strokes)), key=lambda i: (flat[i], wide[i], -strokes[i].length))
    paths: list[Path] = []
    tries = 0
    step, lag = float(np.clip(0.75 * thick, 2.2, 4.0)), max(54.0, 9 * thick)

    def add(trail: Trail, *, dashed: bool) -> None:
        """Take a trail for a curve if enough of its ink is its own; mark its ink as explained either way."""
        work.guesses -= trail.looked
        trail = without_borrowed_tails(ground, trail)
        points = trail.points
        own = ground.worth[inside(points)] >= 1
        steps = np.r_[np.hypot(*np.diff(points, axis=0).T), 0.0] if len(points) > 1 else np.zeros(len(points))
        # Of a dotted line the gaps between its dots are its own as well.
        fresh = float(steps[own & (trail.inked | dashed)].sum())
        explained(ground, points, 0.2)
        if float(np.hypot(*np.ptp(points, axis=0))) < 0.05 * size or fresh < 0.04 * size:
            return
        if fresh < 0.25 * size and fine(width[inside(points)][own], thick):
            return
        points = smooth(centred(points, layer.mask, thick), max(1.5, 0.6 * thick))
        if ruled(points, thick, size, layer.chromatic, layer.mask.shape[1]) or hugs_frame(points, layer):
            return
        points = along_frame(to_border(points, layer), layer)
        paths.append(
            Path(
                points + np.array(layer.origin, np.float64),
                layer.colour,
                thick,
                float((~trail.inked).mean()),
                1 - fresh / max(float(steps[trail.inked | dashed].sum()), 1),
                trail.doubt,
                dashed=dashed,
                details={"fresh": fresh, "chromatic": layer.chromatic, "leaves": leaves(points, layer)},
            )
        )

    for i in order:
        stroke = strokes[i]
        if tries > MOST_TRIES or work.guesses <= 0:
            break
        if float((ground.worth[inside(stroke.points)] < 1).mean()) > 0.4:
            continue
        dash = stroke.a in free and stroke.b in free and stroke.length < 0.09 * size
        dash = dash or float(closed[inside(stroke.points)].mean()) > 0.12
        if stroke.length < (1.5 * thick if dash else max(2.5 * thick, 0.012 * size)):
            continue
        if leader(graph, stroke, layer, layer.text, size):
            explained(ground, stroke.points, 0.2)
            continue
        tries += 1
        pen = Pen(0.35 if dash else 0.9, max(0.035 * size, (7 if dash else 4) * thick), lag, step)
        add(both_ways(ground, *bearing(stroke.points), pen, work.guesses), dashed=dash)
        explained(ground, stroke.points, 0.2)
    # Dots have no direction of their own; a row of them has.
    for x, y, way in dots(layer.mask, thick):
        if tries > MOST_TRIES or work.guesses <= 0:
            break
        if ground.worth[round(y), round(x)] < 1:
            continue
        tries += 1
        pen = Pen(0.1, max(0.03 * size, 8 * thick), lag, step)
        add(both_ways(ground, x, y, way, 0.0, pen, work.guesses), dashed=True)
        explained(ground, np.array([[x, y], [x + 1, y]]), 0.2)
    work.cut |= work.guesses <= 0
    return swapped(paths)


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


def at_border(point: Floats, wide: int, high: int) -> bool:
    rim = max(6.0, 0.015 * max(wide, high))
    return bool(point[0] < rim or point[1] < rim or point[0] > wide - 1 - rim or point[1] > high - 1 - rim)


def trace(
    layers: Sequence[Layer],
    size: float,
    texts: Sequence[Box] = (),
    alone: Callable[[Layer, float], Path | None] | None = None,
    work: Work | None = None,
) -> list[Path]:
    """Curves of all layers. `alone` is asked first whether a layer is one curve: where colours tell curves apart, black is one.

    What it costs is taken from `work`.
    """
    work = work or Work()
    out: list[Path] = []
    coloured = any(layer.chromatic for layer in layers)
    ink = np.logical_or.reduce([layer.mask for layer in layers]) if layers else np.zeros((0, 0), np.bool_)
    for layer in layers:
        if len(out) > MOST_CURVES:
            work.cut = True
            break
        layer = pointed(layer, ink, size, texts, work)
        sole = alone(layer, size) if alone and coloured else None
        if sole is not None and not layer.chromatic and sole.gaps > 0.1:
            sole = None
        found = [sole] if sole else trace_layer(layer, size, work)
        if len(found) > 1:
            found = joined(distinct(found, size, texts), layer, size)
            found = along_lines(over_the_top(found, layer), layer)
        out += [p for p in found if float(np.hypot(*np.ptp(p.points, axis=0))) > 0.1 * size]
    return distinct(out, size, texts)


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
            )
        ):
            continue
        kept.append(path)
    return without_mixtures(kept, size)


def without_mixtures(paths: list[Path], size: float) -> list[Path]:
    """Where two curves touch, a walk can take half of each: what the others explain altogether goes, the most doubtful first."""
    left = list(paths)
    for path in sorted(paths, key=lambda p: (-p.shared, -p.doubt)):
        others = [p for p in left if p is not path and p.colour == path.colour]
        if not others:
            continue
        reach = max(0.006 * size, 0.7 * path.width)
        distance = nearest(path.points, np.concatenate([p.points for p in others]), reach)
        if arc(longest_run(path.points, np.isinf(distance))) < 0.03 * size:
            left = [p for p in left if p is not path]
    return left


def longest_run(points: Floats, keep: Mask) -> Floats:
    where = np.nonzero(keep)[0]
    if len(where) == 0:
        return points[:0]
    runs = np.split(where, np.nonzero(np.diff(where) > 3)[0] + 1)
    best = max(runs, key=len)
    return points[best[0] : best[-1] + 1]


def pointer(fresh: Floats, path: Path, size: float, texts: Sequence[Box]) -> bool:
    """A short straight stroke with text at one end."""
    length = arc(fresh)
    if length > 0.2 * size or len(fresh) < 4 or bool(path.details.get("chromatic") or path.details.get("leaves")):
        return False
    body = fresh[int(0.12 * len(fresh)) : max(3, int(0.88 * len(fresh)))]
    if straight(body) > max(2.0, 0.03 * length):
        return False
    return any(box.away(end) < 0.035 * size for box in texts for end in (fresh[0], fresh[-1]))
