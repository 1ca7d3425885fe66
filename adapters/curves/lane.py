"""One colour, one curve: the cheapest way through a layer from its first column to its last.

Where a colour belongs to a single curve there is nothing to decide at crossings, so no graph of strokes is needed. The way pays
little on the colour's own ink, more where text or another curve may cover it, and most on paper; it may go right, up and down. So dashes,
dots, markers and covered pieces cost a little and are passed. It is believed only when it explains nearly all of the ink.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np

from adapters.curves.ends import to_border
from adapters.curves.ink import Layer
from adapters.curves.kit import connected, nearest, seen_along
from adapters.curves.no_curves import hugs_frame, ruled
from adapters.curves.shapes import Box, Floats, Grey, Ints, Mask, Path, Rgb
from adapters.curves.ways import arc, at_points, hermite, longest_run, plumb, smooth, straight

MOST_DASHES = 600
"""Pieces of one colour. A curve of more dots than that has none of them apart; what has more is no curve."""
INK, HIDDEN, NEAR, PAPER = 0.03, 0.35, 0.15, 1.0
"""What one pixel of the way costs on own ink, under a cover, on paper beside own ink, and far from it."""
MISSED = 4.0
"""What it costs to pass a column beside the ink that it has."""


@dataclass(frozen=True)
class Way:
    """A way through a layer in its own pixels, and what it leaves unexplained."""

    points: Floats
    gaps: float
    """The part of its length without own ink under it, 0-1."""
    longest_gap: float
    """Pixels of its longest run on open paper."""
    left: float
    """Extent in pixels of the ink that is not explained, all pieces together."""
    largest_left: float
    dashed: bool


def filled(mask: Mask, side: float) -> Mask:
    """Holes of at most `side` pixels each way filled: open markers."""
    count, labels, stats, _ = connected(~mask)
    small = (stats[:, cv2.CC_STAT_WIDTH] <= side) & (stats[:, cv2.CC_STAT_HEIGHT] <= side)
    small[0] = False
    return mask | small[labels] if count > 1 and small.any() else mask


def costs_of(ink: Mask, hidden: Mask, thick: float, size: float) -> Grey:
    """Price of each pixel. Paper near own ink is cheap, so that gaps between dashes do not drive the way off."""
    away = np.asarray(cv2.distanceTransform((~ink).astype(np.uint8), cv2.DIST_L2, 3), np.float32)
    price = NEAR + (PAPER - NEAR) * np.minimum(away / (0.035 * size), 1)
    price[hidden] = np.minimum(price[hidden], HIDDEN)
    # In the middle of a stroke and of a marker it is cheaper than at the rim.
    deep = np.asarray(cv2.distanceTransform(ink.astype(np.uint8), cv2.DIST_L2, 3), np.float32)
    own = INK + 0.07 * (1 - np.minimum(deep / (0.5 * thick + 0.5), 1))
    return np.where(ink, own, price).astype(np.float32)


def cheapest(price: Grey, ink: Mask, edge: int) -> Ints:
    """The cheapest way from the ink of the first `edge` columns to that of the last, as (x, y) rows.

    A column that has ink must be passed on its ink or pay for it; else a way would cut off dashed peaks. One column after the other: straight on from the left, then up and down within the column, whose price is a running sum, so that
    the best start within the column is a running minimum.
    """
    h, w = price.shape
    sums = np.cumsum(price, axis=0, dtype=np.float64)
    came = np.empty((w, h))
    best = np.empty((w, h))
    first, last = seen_along(ink[:, :edge], 1), seen_along(ink[:, -edge:], 1)
    missed = np.where(seen_along(ink, 0)[None] & ~ink, MISSED, 0.0)
    total = np.where(first, price[:, 0].astype(np.float64), np.inf)
    for x in range(w):
        if x:
            total = best[x - 1] + price[:, x] + missed[:, x]
        came[x] = total
        s = sums[:, x]
        down = np.minimum.accumulate(total - s) + s
        up = np.minimum.accumulate((total + s)[::-1])[::-1] - s
        best[x] = np.minimum(down, up)
    y = int(np.argmin(np.where(last, best[w - 1], np.inf)))
    way: list[tuple[int, int]] = []
    for x in range(w - 1, -1, -1):
        s = sums[:, x]
        start = int(np.argmin(came[x] + np.abs(s - s[y])))
        step = 1 if start > y else -1
        way += [(x, row) for row in range(y, start, step)]
        way.append((x, start))
        y = start
    return np.array(way[::-1], np.int64)


def centred(points: Floats, ink: Mask, thick: float) -> tuple[Floats, Mask]:
    """Points moved to the middle of the ink across the way; and which of them had ink."""
    n = len(points)
    k = max(2, round(2 * thick))
    ahead = points[np.minimum(np.arange(n) + k, n - 1)] - points[np.maximum(np.arange(n) - k, 0)]
    length = np.maximum(np.hypot(ahead[:, 0], ahead[:, 1]), 1e-9)[:, None]
    normal = np.c_[-ahead[:, 1], ahead[:, 0]] / length
    reach = max(2, round(1.2 * thick))
    offsets = np.arange(-reach, reach + 0.01, 0.5)
    at = points[:, None, :] + offsets[None, :, None] * normal[:, None, :]
    seen = at_points(ink, np.asarray(at, np.float64))
    middle = len(offsets) // 2
    # Only the run of ink that the point itself stands on counts.
    right = np.cumprod(seen[:, middle:], axis=1)
    left = np.cumprod(seen[:, middle::-1], axis=1)
    run = np.c_[left[:, :0:-1], right].astype(np.float64)
    weight = run.sum(axis=1)
    on = weight > 0
    shift = np.where(on, (run * offsets).sum(axis=1) / np.maximum(weight, 1), 0.0)
    return points + shift[:, None] * normal, on


def over_gaps(points: Floats, on: Mask, thick: float) -> Floats:
    """The staircase of the way over paper and covers replaced by smooth pieces from ink to ink."""
    sure = on.copy()
    trim = round(thick)
    # Where ink ends the way already leans towards where it goes on; those last pixels say nothing about direction.
    for a, b in runs_of(~on):
        if a > 3 * trim and b < len(on) - 3 * trim and float(np.hypot(*(points[b] - points[a]))) > 4 * thick:
            sure[a - trim : a] = False
            sure[b + 1 : b + 1 + trim] = False
    where = np.nonzero(sure)[0]
    if len(where) < 2:
        return points
    out: list[Floats] = [points[where[0]][None]]
    for i, j in pairwise(where):
        gap = float(np.hypot(*(points[j] - points[i])))
        if j > i + 1 and gap > 4 * thick:
            k = max(8, round(4 * thick))
            before, after = points[where[(where <= i) & (where > i - k)]], points[where[(where >= j) & (where < j + k)]]
            u, v = before[-1] - before[0], after[-1] - after[0]
            nu, nv = float(np.hypot(*u)), float(np.hypot(*v))
            leave = u / nu if nu > 3 else np.zeros(2)
            enter = v / nv if nv > 3 else np.zeros(2)
            out.append(hermite(points[i], points[j], leave, -enter)[1:])
        else:
            out.append(points[j][None])
    return np.concatenate(out)


def runs_of(flags: Mask) -> list[tuple[int, int]]:
    """(first, last) of each run of true values."""
    edges = np.diff(np.r_[0, flags.astype(np.int8), 0])
    return [(int(a), int(b) - 1) for a, b in zip(np.nonzero(edges == 1)[0], np.nonzero(edges == -1)[0], strict=True)]


def upright_ends(points: Floats, ink: Mask, thick: float, size: float) -> Floats:
    """A stroke that begins or ends plumb: the way starts at its cheapest pixel, the rest of the stroke is added."""
    h, w = ink.shape
    for side in (0, 1):
        points = points[::-1] if side else points
        x, y = round(float(points[0][0])), round(float(points[0][1]))
        band = seen_along(ink[:, max(0, x - 1) : min(w, x + round(thick) + 1)], 1)
        if 0 <= y < h and band[y]:
            up = int(np.cumprod(band[y::-1]).sum()) - 1
            down = int(np.cumprod(band[y:]).sum()) - 1
            inner = points[min(len(points) - 1, round(3 * thick))] - points[0]
            far = -up if (up >= down and inner[1] >= 0) or (inner[1] > 2 * thick) else down
            if abs(far) > max(4 * thick, 0.03 * size):
                rows = np.arange(y + far, y, 1 if far < 0 else -1, dtype=np.float64)
                points = np.concatenate([np.c_[np.full(len(rows), float(x)), rows], points])
        points = points[::-1] if side else points
    return points


def unexplained_by(points: Floats, mask: Mask, hidden: Mask, thick: float, size: float) -> tuple[float, float]:
    """Extent of the ink beside the way: all of it, and the largest piece. Markers and error bars on the way are explained,
    and pieces that hem other curves, where two colours mix to a third."""
    line = np.zeros(mask.shape, np.uint8)
    pixels = np.round(points).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(line, [pixels], False, 1, max(3, round(2.2 * thick + 3)))
    rest = mask & (line == 0)
    count, labels, stats, _ = connected(rest)
    touch = np.asarray(cv2.dilate(line, np.ones((5, 5), np.uint8)), np.bool_)
    touching = np.zeros(count, np.bool_)
    touching[np.unique(labels[touch & rest])] = True
    total, largest = 0.0, 0.0
    k = 2 * round(thick) + 1
    hem = np.asarray(cv2.dilate(hidden.astype(np.uint8), np.ones((k, k), np.uint8)), np.bool_)
    hemming = np.bincount(labels[hem & rest], minlength=count)
    for i in range(1, count):
        bw, bh = float(stats[i, cv2.CC_STAT_WIDTH]), float(stats[i, cv2.CC_STAT_HEIGHT])
        extent = max(bw, bh)
        if touching[i] and extent < max(5 * thick, 0.016 * size):
            continue
        if touching[i] and bw < max(5 * thick, 0.02 * size) and bh < 0.15 * size and bar_at(stats[i], points, thick):
            continue
        if extent < 0.04 * size and hemming[i] > 0.75 * stats[i, cv2.CC_STAT_AREA]:
            continue
        total += extent
        largest = max(largest, extent)
    return total, largest


def bar_at(box: Ints, points: Floats, thick: float) -> bool:
    """True for an error bar: a plumb stroke whose foot stands on a level piece of the way, with its middle over it."""
    cx = float(box[cv2.CC_STAT_LEFT]) + (float(box[cv2.CC_STAT_WIDTH]) - 1) / 2
    near = points[np.abs(points[:, 0] - cx) < 2 * thick + 2]
    if len(near) < 2 or float(np.ptp(near[:, 1])) > 1.5 * float(np.ptp(near[:, 0])) + 2 * thick:
        return False
    y, top = float(near[:, 1].mean()), float(box[cv2.CC_STAT_TOP])
    bottom = top + float(box[cv2.CC_STAT_HEIGHT])
    return min(abs(top - y), abs(bottom - y)) < 4 * thick + 4


def way_through(mask: Mask, hidden: Mask, thick: float, size: float) -> Way | None:
    """The way along x through a layer's ink with what speaks for and against it; None where there is hardly any ink."""
    columns = np.nonzero(seen_along(mask, 0))[0]
    if len(columns) < 0.03 * size:
        return None
    x0, x1 = int(columns[0]), int(columns[-1]) + 1
    ink = filled(mask, max(4 * thick, 0.02 * size))[:, x0:x1]
    # Half the resolution is enough for thick strokes, and four times as fast.
    shrink = 2 if thick >= 3.2 else 1
    small, cover = ink, hidden[:, x0:x1]
    if shrink == 2:
        small, cover = halved(ink), halved(cover)
    price = costs_of(small, cover, thick / shrink, size / shrink)
    edge = max(1, round(thick / shrink / 2))
    way = cheapest(price, small, edge)
    points = way.astype(np.float64) * shrink + (shrink - 1) / 2
    points = upright_ends(points, ink, thick, size)
    even = smooth(points, max(1.5, 0.7 * thick))
    even, on = centred(even, ink, thick)
    covered = at_points(hidden[:, x0:x1], even)
    step = arc(even) / max(1, len(even) - 1)
    open_runs = [(b - a + 1) * step for a, b in runs_of(~on & ~covered)]
    breaks = sum(1 for length in open_runs if length > 1.2 * thick + 1)
    whole = smooth(over_gaps(even, on, thick), max(1.5, 0.6 * thick)) + np.array([x0, 0.0])
    left, largest = unexplained_by(whole, mask, hidden, thick, size)
    return Way(
        whole,
        float(1 - on.mean()),
        max(open_runs, default=0.0),
        left,
        largest,
        breaks >= 4 and sum(open_runs) > 0.12 * arc(even),
    )


def halved(mask: Mask) -> Mask:
    """Half the size; a pixel is set where any of its four was."""
    h, w = mask.shape
    padded = np.pad(mask, ((0, h % 2), (0, w % 2)))
    return padded[::2, ::2] | padded[1::2, ::2] | padded[::2, 1::2] | padded[1::2, 1::2]


def explains(way: Way, size: float) -> bool:
    """True when the ink of a layer can be this one curve."""
    length = arc(way.points)
    # A plumb line is a ruled one: no quantity has all values at one place.
    return (
        length > 0.08 * size
        and not plumb(way.points, 3)
        and way.left < 0.05 * length + 0.01 * size
        and way.largest_left < 0.04 * size
        and way.longest_gap < 0.07 * size
        and way.gaps < 0.75
    )


def sole_curve(layer: Layer, size: float) -> Path | None:
    """The layer's one curve; None when its ink must be several."""
    if layer.mask.sum() < 0.04 * size or connected(layer.mask)[0] > MOST_DASHES:
        return None
    best: Way | None = None
    for upright in (False, True):
        mask, hidden = layer.mask, layer.hidden
        if upright:
            mask, hidden = np.ascontiguousarray(mask.T), np.ascontiguousarray(hidden.T)
        way = way_through(mask, hidden, layer.thick, size)
        if way is None:
            continue
        if upright:
            way = Way(way.points[:, ::-1], way.gaps, way.longest_gap, way.left, way.largest_left, way.dashed)
        if explains(way, size):
            best = way
            break
    if best is None or hugs_frame(best.points, layer):
        return None
    points = to_border(best.points, layer)
    return Path(
        points + np.array(layer.origin, np.float64),
        layer.colour,
        layer.thick,
        best.gaps,
        dashed=best.dashed,
        details={"fresh": arc(points), "chromatic": layer.chromatic, "sole": True, "left": best.left / arc(points)},
    )


def without_pointer_paths(paths: Sequence[Path], texts: Sequence[Box], size: float) -> list[Path]:
    """Straight black paths from text to a curve go, long ones too, when they end on that curve: pointers that `pointers` left, which
    must be surer, for it takes ink away before anything is followed."""
    out: list[Path] = []
    for path in paths:
        others = [p.points for p in paths if p is not path]
        length = arc(path.points)
        if path.details.get("chromatic") or not others or length > 0.45 * size or len(path.points) < 8:
            out.append(path)
            continue
        body = path.points[int(0.12 * len(path.points)) : max(3, int(0.88 * len(path.points)))]
        ends = path.points[[0, -1]]
        touching = np.isfinite(nearest(ends, np.concatenate(others), 2 * path.width + 0.008 * size))
        told = np.array([any(box.away(end) < 0.04 * size for box in texts) for end in ends])
        if straight(body) < max(2.0, 0.012 * length) and bool((touching & told[::-1]).any()):
            continue
        out.append(path)
    return out


def without_hems(paths: Sequence[Path], layers: Sequence[Layer], size: float) -> list[Path]:
    """Black ways that run mostly along coloured ink (its washed-out rims), are ruled apart from that, or are level lines go."""
    coloured = [q for q in layers if q.chromatic and any(p.colour == q.colour for p in paths)]
    if not coloured:
        return list(paths)
    thick = max(q.thick for q in coloured)
    k = 2 * round(thick + 2) + 1
    ink = np.logical_or.reduce([q.mask for q in coloured]).astype(np.uint8)
    near = np.asarray(cv2.dilate(ink, np.ones((k, k), np.uint8)), np.bool_)
    origin = np.array(coloured[0].origin, np.float64)
    wide = near.shape[1]
    out: list[Path] = []
    for path in paths:
        if path.details.get("chromatic"):
            out.append(path)
            continue
        own = ~at_points(near, path.points - origin)
        free = longest_run(path.points, own)
        level = float(np.ptp(path.points[:, 1])) <= max(5.0, path.width)
        if (
            level
            or float(own.mean()) < 0.4
            or (float(own.mean()) < 0.95 and ruled(free, path.width, size, False, wide))
        ):
            continue
        out.append(path)
    return out


def beyond_cover(paths: Sequence[Path], size: float, left: float, right: float, rgb: Rgb) -> list[Path]:
    """A curve that ends where it joins another in its direction goes on under it: had it stopped or parted, its colour would show.
    One that meets the other at an angle goes on under it as far as its colour shows at the other's rims.

    An end at the plot's `left` or `right` side is a true end. `rgb` is the picture.
    """
    out = list(paths)
    for i, path in enumerate(paths):
        points = path.points
        for side in (0, 1):
            points = points[::-1] if side else points
            if left + 0.015 * size < points[0, 0] < right - 0.015 * size:
                rest = max(
                    (
                        under(points, path, q, size, rgb)
                        for j, q in enumerate(out)
                        if j != i and q.colour != path.colour
                    ),
                    key=arc,
                    default=points[:0],
                )
                if len(rest) > 1:
                    points = np.concatenate([rest[::-1], points])
            points = points[::-1] if side else points
        if len(points) != len(path.points):
            out[i] = replace(
                path, points=points, details={**path.details, "covered": 1 - arc(path.points) / arc(points)}
            )
    return out


def under(points: Floats, path: Path, cover: Path, size: float, rgb: Rgb) -> Floats:
    """The part of `cover` on which a curve goes on that starts (backwards) at its first point; empty when it does not join it."""
    tip = points[0]
    far = np.hypot(*(cover.points - tip).T)
    k = int(np.argmin(far))
    if far[k] > 1.2 * cover.width + 3:
        return points[:0]
    back = points[min(len(points) - 1, max(6, round(0.025 * size)))] - tip
    n = float(np.hypot(*back))
    if n < 3:
        return points[:0]
    for way in (cover.points[k:], cover.points[k::-1]):
        if len(way) < 4 or arc(way) < 0.01 * size:
            continue
        ahead = way[min(len(way) - 1, max(6, round(0.025 * size)))] - way[0]
        m = float(np.hypot(*ahead))
        if m > 3 and float(-(back @ ahead)) / (n * m) > math.cos(0.2):
            return way
        shown = at_rims(way, path, cover, size, rgb)
        part = way[: len(way) if shown.all() else int(np.argmin(shown))]
        if arc(part) > 0.05 * size:
            return part
    return points[:0]


def at_rims(way: Floats, path: Path, cover: Path, size: float, rgb: Rgb) -> Mask:
    """Where along a stretch of `cover` the colour of `path` is seen beside it: two strokes never lie quite on each other.

    The ink across the way is what of the two colours and of black (the grid) together make it.
    """
    if len(way) < 8:
        return np.zeros(len(way), np.bool_)
    paper = np.percentile(rgb[::4, ::4].reshape(-1, 3), 80, axis=0)
    # What lies on top is pure in its middle.
    own, other = (paper - np.median(at_points(rgb, p.points), axis=0) for p in (path, cover))
    basis = np.column_stack([own, other, np.full(3, 255.0)])
    # The colour must not be a mixture of the others.
    unit = basis / np.maximum(np.linalg.norm(basis, axis=0), 1e-9)
    if abs(float(np.linalg.det(unit))) < 0.1:
        return np.zeros(len(way), np.bool_)
    ahead = np.gradient(way, axis=0)
    normal = np.c_[-ahead[:, 1], ahead[:, 0]] / np.maximum(np.hypot(ahead[:, 0], ahead[:, 1]), 1e-9)[:, None]
    offsets = np.arange(-round(0.5 * cover.width + 2), round(0.5 * cover.width + 2) + 1.0)
    across = paper - at_points(rgb, way[:, None] + offsets[None, :, None] * normal[:, None])
    seen = (across.sum(axis=1) @ np.linalg.inv(basis).T)[:, 0]
    # For a bit they may lie on each other after all.
    half = round(0.03 * size)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(seen, half, mode="edge"), 2 * half + 1)
    return np.asarray(np.median(around, axis=1) > 0.2, np.bool_)
