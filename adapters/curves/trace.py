"""From ink to curves: a graph of strokes, walked from each long stroke both ways, straight on at every crossing.

Strokes may be shared: where curves merge, each of them walks the common part. What no walk has covered starts the next.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from adapters.curves.ink import Layer, run_through
from adapters.curves.kit import connected, gaussian_along, nearest, skeleton_of
from adapters.curves.shapes import Box, Floats, Ints, Mask, Path

MOST_WORK = 4000
"""Ways compared in one layer before the rest of its strokes is left: about one second."""


@dataclass
class Edge:
    points: Floats
    """N x 2 (x, y), from node `a` to node `b`."""
    a: int
    b: int
    gap: bool = False
    length: float = 0.0
    used: int = 0

    def __post_init__(self) -> None:
        self.length = arc(self.points)

    def leaving(self, node: int) -> Floats:
        return self.points if node == self.a else self.points[::-1]

    def other(self, node: int) -> int:
        return self.b if node == self.a else self.a


@dataclass
class Graph:
    work: int = 0
    """Ways that were compared so far."""
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


def skeleton_graph(mask: Mask, thick: float) -> Graph:
    """Strokes between ends and crossings of the skeleton."""
    skeleton = skeleton_of(mask)
    s = skeleton.astype(np.uint8)
    near = cv2.filter2D(s, cv2.CV_16S, np.ones((3, 3), np.int16), borderType=cv2.BORDER_CONSTANT)
    neighbours = np.where(skeleton, near.astype(np.int64) - 1, 0)
    crossing = skeleton & (neighbours >= 3)
    count, knots, _, centres = connected(crossing)
    chains = skeleton & ~crossing
    number, labels, _, _ = connected(chains)
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


def tail(graph: Graph, node: int, length: float) -> Floats:
    """The last `length` pixels of the stroke that ends freely at `node`, the end point last."""
    parts: list[Floats] = []
    total, at, last = 0.0, node, -1
    while total < length:
        ways = [k for k in graph.at[at] if k != last and not graph.edges[k].gap]
        if len(ways) != 1:
            break
        last = ways[0]
        edge = graph.edges[last]
        points = edge.leaving(at)
        parts.append(points)
        total += edge.length
        at = edge.other(at)
        if at == node:
            break
    points = np.concatenate(parts) if parts else np.zeros((1, 2))
    s = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))] if len(points) > 1 else np.zeros(1)
    return points[s <= length + 1][::-1]


def heading(points: Floats) -> Floats:
    """Unit direction at the end of a tail; zero where it is a dot."""
    if len(points) < 3:
        return np.zeros(2)
    d = points[-1] - points.mean(axis=0)
    spread = points - points.mean(axis=0)
    _, values, vt = np.linalg.svd(spread, full_matrices=False)
    if values[0] < 1.2:
        return np.zeros(2)
    axis = np.asarray(vt[0], np.float64)
    return axis if float(axis @ d) > 0 else -axis


def seen_through(layer_hidden: Mask, a: Floats, b: Floats) -> float:
    """The part of the straight way from a to b that is hidden under grid, text or other curves."""
    n = max(2, int(np.hypot(*(b - a))))
    xs = np.clip(np.round(np.linspace(float(a[0]), float(b[0]), n)).astype(int), 0, layer_hidden.shape[1] - 1)
    ys = np.clip(np.round(np.linspace(float(a[1]), float(b[1]), n)).astype(int), 0, layer_hidden.shape[0] - 1)
    return float(layer_hidden[ys, xs].mean())


def bridge(graph: Graph, hidden: Mask, thick: float, size: float, chromatic: bool) -> None:
    """Join free ends over gaps: near ones, and farther ones where something covers the way."""
    ends = [n for n, ks in graph.at.items() if len(ks) == 1]
    if len(ends) < 2:
        return
    tails = [tail(graph, n, max(22.0, 5 * thick)) for n in ends]
    place = np.array([t[-1] for t in tails])
    way = np.array([heading(t) for t in tails])
    lengths = np.array([arc(t) for t in tails])
    open_reach, covered_reach = max(0.03 * size, 4 * thick), 0.3 * size
    reach = np.where(lengths < 0.5 * thick, open_reach, covered_reach)
    options: list[tuple[float, int, int]] = []
    grown = np.asarray(cv2.dilate(hidden.astype(np.uint8), np.ones((3, 3), np.uint8)), np.bool_)
    for i in range(len(ends)):
        d = place - place[i]
        far = np.hypot(d[:, 0], d[:, 1])
        for j in np.nonzero((far < reach[i]) & (np.arange(len(ends)) > i))[0]:
            j = int(j)
            if graph.at[ends[i]][0] == graph.at[ends[j]][0]:
                continue
            gap = float(far[j])
            if gap < 1e-6:
                continue
            u = d[j] / gap
            turn_i = math.acos(float(np.clip(u @ way[i], -1, 1))) if way[i].any() else 0.3
            turn_j = math.acos(float(np.clip(-u @ way[j], -1, 1))) if way[j].any() else 0.3
            covered = seen_through(grown, place[i], place[j])
            wide = 1.2 if gap < 3 * thick + 4 or (chromatic and covered > 0.6 and gap < 0.08 * size) else 0.75
            if max(turn_i, turn_j) > wide:
                continue
            open_part = gap * (1 - covered)
            if open_part > open_reach:
                continue
            cost = gap + 2.0 * open_part + (gap + 8) * 2.2 * (turn_i**2 + turn_j**2) + 6 * gap * abs(turn_i - turn_j)
            options.append((cost, i, j))
    taken: set[int] = set()
    # The two ends of a dot must be left in opposite directions.
    partner = {n: i for i, n in enumerate(ends)}
    left: dict[int, Floats] = {}

    def opposite(i: int) -> int | None:
        edge = graph.edges[graph.at[ends[i]][0]]
        return partner.get(edge.other(ends[i])) if edge.length < 1.2 * thick + 2 else None

    for _, i, j in sorted(options):
        if i in taken or j in taken:
            continue
        u = (place[j] - place[i]) / max(float(np.hypot(*(place[j] - place[i]))), 1e-9)
        oi, oj = opposite(i), opposite(j)
        if oi is not None and oi in left and float(u @ left[oi]) > -0.6:
            continue
        if oj is not None and oj in left and float(-u @ left[oj]) > -0.6:
            continue
        left[i], left[j] = u, -u
        taken |= {i, j}
        points = hermite(place[i], place[j], way[i], way[j])
        graph.add(Edge(points, ends[i], ends[j], gap=True))


def hermite(p: Floats, q: Floats, leave: Floats, back: Floats) -> Floats:
    """A smooth way from p, leaving along `leave`, to q, whose own stroke ends along `back`."""
    gap = float(np.hypot(*(q - p)))
    n = max(3, int(gap / 2) + 1)
    t = np.linspace(0, 1, n)[:, None]
    u = (q - p) / max(gap, 1e-9)
    m0 = (leave if leave.any() else u) * gap
    m1 = (-back if back.any() else u) * gap
    return (2 * t**3 - 3 * t**2 + 1) * p + (t**3 - 2 * t**2 + t) * m0 + (-2 * t**3 + 3 * t**2) * q + (t**3 - t**2) * m1


def smoothness(history: Floats, ahead: Floats, blur: float, common: float = 0.0) -> float:
    """How badly one smooth curve fits what was walked and what lies ahead: the residual in pixels.

    The last `common` pixels of the history are shared with another curve and say little about ours.
    """
    a, b = history[:: max(1, len(history) // 16)], ahead[:: max(1, len(ahead) // 16)]
    points = np.concatenate([a, b])
    s = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    if s[-1] < 4 or len(points) < 5:
        return 0.0
    t = 2 * s / s[-1] - 1
    # The pixels of the crossing itself are drawn aside by the other stroke.
    middle = s[len(a) - 1]
    weight = np.where((s > middle - common - blur) & (s < middle + blur), 0.15, 1.0)
    basis = np.vander(t, 4)
    w = weight[:, None]
    weighted = basis * w
    solution = np.linalg.solve(weighted.T @ weighted + 1e-9 * np.eye(4), weighted.T @ (points * w))
    rest = (points - basis @ solution) * w
    return float(np.sqrt((rest**2).sum(axis=1).mean()))


def thin(points: Floats, step: float) -> Floats:
    if len(points) < 3:
        return points
    s = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    n = max(2, int(s[-1] / step) + 1)
    at: Floats = np.linspace(0.0, float(s[-1]), n)
    return np.c_[np.interp(at, s, points[:, 0]), np.interp(at, s, points[:, 1])]


def ahead_of(graph: Graph, k: int, node: int, length: float, banned: set[int], most: int = 8) -> list[Floats]:
    """Ways of about `length` pixels that begin with edge k at `node`."""
    out: list[Floats] = []
    stack: list[tuple[int, int, list[Floats], float, frozenset[int]]] = [(k, node, [], 0.0, frozenset())]
    while stack and len(out) < most:
        edge_k, at, parts, total, seen = stack.pop()
        edge = graph.edges[edge_k]
        parts = [*parts, edge.leaving(at)]
        total += edge.length
        end = edge.other(at)
        seen = seen | {edge_k}
        further = [q for q in graph.at[end] if q not in seen and q not in banned]
        if total >= length or not further:
            points = np.concatenate(parts)
            s = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
            out.append(points[: int(np.searchsorted(s, length)) + 1])
            continue
        stack += [(q, end, parts, total, seen) for q in further]
    return out


@dataclass
class Walk:
    edges: list[int]
    points: Floats
    doubt: float


def last_part(points: Floats, length: float) -> Floats:
    steps = np.hypot(*np.diff(points, axis=0).T) if len(points) > 1 else np.zeros(0)
    back = np.r_[0, np.cumsum(steps[::-1])]
    return points[len(points) - int(np.searchsorted(back, length, side="right")) :]


def walk(
    graph: Graph, seed: int, start: int, look: float, blur: float, width: float, longest: float
) -> tuple[list[int], list[Floats], float]:
    """Go on from the seed edge away from node `start`; edges and their points in order, without the seed's."""
    edge = graph.edges[seed]
    at = edge.other(start)
    history = edge.leaving(start)
    edges: list[int] = []
    parts: list[Floats] = []
    visited = {seed}
    doubt = 0.0
    common = 0.0
    for _ in range(400):
        ways = [k for k in graph.at[at] if k not in visited]
        if not ways:
            break
        reach = look + 0.7 * common
        recent = last_part(history, reach + common)
        scored: list[tuple[float, float, int]] = []
        if len(ways) == 1:
            sharp = turn_between(recent, graph.edges[ways[0]].leaving(at)[: int(look)], blur)
            scored.append((0.0, sharp, ways[0]))
        for k in ways if len(ways) > 1 else ():
            best = math.inf
            sharp = math.pi
            for way in ahead_of(graph, k, at, reach, visited):
                graph.work += 1
                cost = smoothness(recent, way, blur, common)
                # A way that soon ends says little; it must not win over one that goes on.
                short = 1 - min(1.0, arc(way) / reach)
                cost += 0.06 * look * short
                turn = turn_between(recent, way, blur)
                cost += 3.0 * max(0.0, turn - 0.5) * width
                if cost < best:
                    best, sharp = cost, turn
            bonus = 0.25 if graph.edges[k].used == 0 and not graph.edges[k].gap else 0.0
            scored.append((best - bonus, sharp, k))
        scored.sort()
        cost, sharp, k = scored[0]
        if len(ways) > 1 and len(scored) > 1:
            doubt = max(doubt, 1.0 / (1.0 + max(0.0, scored[1][0] - cost)))
        if sharp > 0.85 and len(graph.at[at]) > 2:
            break
        if sharp > 2.2:
            break
        visited.add(k)
        edges.append(k)
        points = graph.edges[k].leaving(at)
        parts.append(points)
        history = np.concatenate([history[-900:], points])
        # A stroke between two crossings may be two curves in one; who goes where shows only before and after it.
        common = common + graph.edges[k].length if len(ways) > 1 or common else 0.0
        if common > longest or (len(ways) == 1 and len(graph.at[at]) < 2):
            common = 0.0
        at = graph.edges[k].other(at)
    return edges, parts, doubt


def turn_between(history: Floats, ahead: Floats, blur: float) -> float:
    """Angle between where we came from and where the way leads, measured beyond the crossing's blur."""
    a, b = history[::2], ahead[::2]
    skip = int(blur / 2)
    a = a[: len(a) - skip] if len(a) > skip + 4 else a
    b = b[skip:] if len(b) > skip + 4 else b
    a, b = a[-10:], b[:10]
    if len(a) < 2 or len(b) < 2:
        return 0.0
    u, v = a[-1] - a[0], b[-1] - b[0]
    n = float(np.hypot(*u) * np.hypot(*v))
    return math.acos(float(np.clip((u @ v) / n, -1, 1))) if n > 0 else 0.0


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
    if np.ptp(x) <= 2 * flat:
        return True
    if np.ptp(y) <= 2 * flat:
        return not chromatic and float(np.ptp(x)) < 0.9 * wide
    n = len(points)
    k = max(6, int(0.04 * size))
    if n < 2 * k:
        return False
    level = np.abs(y[k:] - y[:-k]) <= 0.75
    plumb = np.abs(x[k:] - x[:-k]) <= 0.75
    # The corners themselves are neither; each costs about one window.
    return bool(plumb.mean() > 0.05 and (level | plumb).sum() + 1.2 * k * 2 > len(level))


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


def leader(graph: Graph, seed: int, layer: Layer, text: Mask | None, size: float) -> bool:
    """A straight stroke from text to a curve (often with an arrow head) is a pointer, no curve."""
    edge = graph.edges[seed]
    if text is None or layer.chromatic or edge.length > 0.2 * size:
        return False
    trimmed = edge.points[int(0.1 * len(edge.points)) : max(2, int(0.9 * len(edge.points)))]
    if straight(trimmed) > max(1.3, 0.3 * layer.thick):
        return False
    return any(
        len([k for k in graph.at[n] if not graph.edges[k].gap]) == 1 and near_text(p, text, 0.035 * size)
        for n, p in ((edge.a, edge.points[0]), (edge.b, edge.points[-1]))
    )


def near_text(point: Floats, text: Mask, reach: float) -> bool:
    x, y, r = round(float(point[0])), round(float(point[1])), round(reach)
    return bool(text[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1].any())


def trace_layer(layer: Layer, size: float) -> list[Path]:
    """Curves of one layer, in picture pixels. `size` is the plot's diagonal."""
    if layer.mask.sum() < 0.04 * size:
        return []
    graph = skeleton_graph(layer.mask, layer.thick)
    bridge(graph, layer.hidden, layer.thick, size, layer.chromatic)
    look, blur = max(42.0, 6 * layer.thick), 1.5 * layer.thick + 2
    paths: list[Path] = []
    order = sorted(
        (k for k, e in enumerate(graph.edges) if not e.gap and alive(graph, k)), key=lambda k: -graph.edges[k].length
    )
    # A border of a box looks like a flat piece of a curve; taken last, it has little of its own that is not ruled.
    order.sort(
        key=lambda k: (
            graph.edges[k].length > 0.12 * size
            and ruled(graph.edges[k].points, layer.thick, size, layer.chromatic, layer.mask.shape[1])
        )
    )
    for seed in order:
        # Ink that is no plot at all has thousands of strokes; the longest ones came first. Counted, not timed, so that a
        # busy machine gives the same result.
        if graph.work > MOST_WORK:
            break
        edge = graph.edges[seed]
        linked = any(graph.edges[k].gap for n in (edge.a, edge.b) for k in graph.at[n])
        if edge.used or (edge.length < max(2.5 * layer.thick, 0.012 * size) and not linked):
            continue
        if leader(graph, seed, layer, layer.text, size):
            edge.used += 1
            continue
        forward, ahead, doubt_a = walk(graph, seed, edge.a, look, blur, layer.thick, 0.33 * size)
        backward, behind, doubt_b = walk(graph, seed, edge.b, look, blur, layer.thick, 0.33 * size)
        backward = [k for k in backward if k not in forward] if set(backward) & set(forward) else backward
        ks = [*backward, seed, *forward]
        points = np.concatenate([*[p[::-1] for p in behind[::-1]], edge.points, *ahead])
        fresh = sum(graph.edges[k].length for k in ks if not graph.edges[k].used)
        total = sum(graph.edges[k].length for k in ks)
        gaps = sum(graph.edges[k].length for k in ks if graph.edges[k].gap)
        for k in ks:
            graph.edges[k].used += 1
        span = float(np.hypot(*np.ptp(points, axis=0)))
        if span < 0.05 * size or fresh < 0.04 * size:
            continue
        points = smooth(points, max(1.5, 0.6 * layer.thick))
        if ruled(points, layer.thick, size, layer.chromatic, layer.mask.shape[1]):
            continue
        points = along_frame(points, layer)
        paths.append(
            Path(
                points + np.array(layer.origin, np.float64),
                layer.colour,
                layer.thick,
                gaps / max(total, 1),
                1 - fresh / max(total, 1),
                max(doubt_a, doubt_b),
                details={"fresh": fresh, "chromatic": layer.chromatic},
            )
        )
    return paths


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
                        if max(turns) > (0.3 if gap > 0.06 * size else 0.45):
                            continue
                        seen = seen_through(near, p - origin, q - origin)
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
        la, lb, gap = arc(first), arc(second), float(np.hypot(*(second[0] - first[-1])))
        whole = la + lb + gap
        merged = Path(
            np.concatenate([first, second]),
            a.colour,
            max(a.width, b.width),
            (a.gaps * la + b.gaps * lb + gap) / whole,
            (a.shared * la + b.shared * lb) / whole,
            max(a.doubt, b.doubt),
            details={**a.details, "fresh": float(a.details["fresh"]) + float(b.details["fresh"]) + gap},
        )
        out = [p for k, p in enumerate(out) if k not in (i, j)] + [merged]


def at_border(point: Floats, wide: int, high: int) -> bool:
    rim = max(6.0, 0.015 * max(wide, high))
    return bool(point[0] < rim or point[1] < rim or point[0] > wide - 1 - rim or point[1] > high - 1 - rim)


def trace(
    layers: Sequence[Layer],
    size: float,
    texts: Sequence[Box] = (),
    alone: Callable[[Layer, float], Path | None] | None = None,
) -> list[Path]:
    """Curves of all layers. `alone` is asked first whether a coloured layer is one curve."""
    out: list[Path] = []
    for layer in layers:
        sole = alone(layer, size) if alone and layer.chromatic else None
        found = [sole] if sole else trace_layer(layer, size)
        if len(found) > 1:
            found = joined(distinct(found, size, texts), layer, size)
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
        if pointer(fresh, path, size, texts) or (
            path.shared > 0.12
            and fresh is not path.points
            and ruled(fresh[len(fresh) // 8 : len(fresh) - len(fresh) // 8], path.width, size, False, 2 * size)
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
    if length > 0.2 * size or len(fresh) < 4 or bool(path.details.get("chromatic")):
        return False
    body = fresh[int(0.12 * len(fresh)) : max(3, int(0.88 * len(fresh)))]
    if straight(body) > max(2.0, 0.03 * length):
        return False
    return any(distance_to(box, end) < 0.035 * size for box in texts for end in (fresh[0], fresh[-1]))


def distance_to(box: Box, point: Floats) -> float:
    dx = max(box.x0 - point[0], 0.0, point[0] - box.x1)
    dy = max(box.y0 - point[1], 0.0, point[1] - box.y1)
    return float(np.hypot(dx, dy))
