"""From ink to curves: each stroke that no curve has explained yet is followed both ways, the clearest first.

Ink may be shared: where curves merge, each of them goes along the common part.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np

from adapters.curves.bundles import side_by_side
from adapters.curves.check import chance, features
from adapters.curves.dashes import dashes_joined, filled_markers
from adapters.curves.ends import along_frame, along_lines, along_others, leaves, to_border, without_borrowed_tails
from adapters.curves.exchange import led_through, swapped
from adapters.curves.follow import Pen, Trail, both_ways, centred, explained, field_of
from adapters.curves.ink import Layer
from adapters.curves.join import joined, over_the_top
from adapters.curves.kit import connected
from adapters.curves.mirror import agreement, mirrored, mirrored_boxes, mirrored_points
from adapters.curves.no_curves import distinct, fine, hugs_frame, leader, ruled, with_own_ink
from adapters.curves.pointers import without_pointers
from adapters.curves.shapes import Box, Floats, Mask, Path
from adapters.curves.skeleton import Cluttered, alive, skeleton_graph
from adapters.curves.ways import at_points, smooth
from adapters.curves.work import MOST_GUESSES, MOST_PIECES, Work

MOST_TRIES = 32
"""Strokes followed in one layer before the rest is left: ink that is no plot has thousands. Counted, not timed, so that a busy
machine gives the same result."""
A_LITTLE = 100_000
"""Guesses that a second reading may cost beyond twice the first one's."""
MOST_CURVES = 60
"""Curves of one picture. Nobody could tell more of them apart."""


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

    wide = [float(np.median(at_points(width, e.points))) > 0.85 * thick + 0.7 for e in strokes]
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
        own = at_points(ground.fresh, points)
        steps = np.r_[np.hypot(*np.diff(points, axis=0).T), 0.0] if len(points) > 1 else np.zeros(len(points))
        # Of a dotted line the gaps between its dots are its own as well, but not a long way that nobody sees.
        drawn = trail.inked
        if dashed:
            reach = np.ones((1, 2 * round(0.03 * size / step) + 1), np.uint8)
            drawn = np.asarray(cv2.dilate(drawn.astype(np.uint8)[None], reach), np.bool_)[0]
        fresh = float(steps[own & drawn].sum())
        explained(ground, points, 0.2)
        if float(np.hypot(*np.ptp(points, axis=0))) < 0.05 * size or fresh < 0.04 * size:
            return
        if fresh < 0.25 * size and fine(at_points(width, points)[own], thick):
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
                1 - fresh / max(float(steps[drawn].sum()), 1),
                trail.doubt,
                dashed=dashed,
                details={"fresh": fresh, "chromatic": layer.chromatic, "leaves": leaves(points, layer)},
            )
        )

    for i in order:
        stroke = strokes[i]
        if tries > MOST_TRIES or work.guesses <= 0:
            break
        if float((~at_points(ground.fresh, stroke.points)).mean()) > 0.4:
            continue
        dash = stroke.a in free and stroke.b in free and stroke.length < 0.09 * size
        dash = dash or float(at_points(closed, stroke.points).mean()) > 0.12
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
        if not ground.fresh[round(y), round(x)]:
            continue
        tries += 1
        pen = Pen(0.1, max(0.03 * size, 8 * thick), lag, step)
        add(both_ways(ground, x, y, way, 0.0, pen, work.guesses), dashed=True)
        explained(ground, np.array([[x, y], [x + 1, y]]), 0.2)
    work.cut |= work.guesses <= 0
    return side_by_side(swapped(led_through(paths, layer), layer.tone), ground.strip, layer)


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
        if sole is not None and (layer.chromatic or sole.gaps <= 0.1):
            out.append(sole)
        else:
            out += read_twice(layer, size, texts, work)
    return distinct([p for p in out if float(np.hypot(*np.ptp(p.points, axis=0))) > 0.1 * size], size, texts)


def read_twice(layer: Layer, size: float, texts: Sequence[Box], work: Work) -> list[Path]:
    """Curves of one layer, each with how far the layer looks the same in a mirror, 0-1 (`mirror` in its details). Of two readings
    that differ it is the likelier one.

    Ink that has cost much is not read again: then nothing speaks for what was found.
    """
    before = work.guesses
    paths = curves_of(layer, size, texts, work)
    spent = before - work.guesses
    alike = 0.0
    if not work.cut and spent < MOST_GUESSES / 4:
        once_more = replace(work, guesses=2 * spent + A_LITTLE)
        turned = curves_of(mirrored(layer), size, mirrored_boxes(texts, layer), once_more)
        again = [replace(p, points=mirrored_points(p.points, layer)) for p in turned]
        alike = agreement(paths, again, size)
        if alike < 1 and likely(again, layer) > likely(paths, layer):
            paths = again
    return [replace(p, details=p.details | {"mirror": alike}) for p in paths]


def likely(paths: Sequence[Path], layer: Layer) -> float:
    """How likely it is that these are the layer's curves, as far as its ink tells."""
    # Under a text nothing is seen: that speaks against no curve that goes on there, and for none that stops.
    seen = replace(layer, mask=layer.mask | layer.text)
    return chance(features(None, None, paths, [seen]) | {"axes": 0.0})


def curves_of(layer: Layer, size: float, texts: Sequence[Box], work: Work) -> list[Path]:
    """Curves of one layer: what was traced, with what the curves tell about each other."""
    found = trace_layer(layer, size, work)
    if len(found) > 1:
        found = joined(with_own_ink(distinct(found, size, texts), layer, size), layer, size)
        found = along_lines(over_the_top(found, layer), layer)
        found = along_others(found, layer, size)
    return found
