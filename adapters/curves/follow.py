"""One curve followed through the ink from a point on it, as a pen would go: with momentum.

Many guesses (place, direction, curvature) go on side by side, in steps of a few pixels. Ink is worth points, bare paper and
sudden turns cost some. So crossings, dashes, gaps under text and merging curves are one and the same question: which smooth way
has the ink? A guess that was better over the last stretch decides, not the one that finds the longest way: a curve ends where it
ends.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from adapters.curves.shapes import Floats, Ints, Mask

BENDS = np.array([0.0, 0.002, -0.002, 0.006, -0.006, 0.016, -0.016, 0.045, -0.045, 0.1, -0.1])
"""Changes of curvature tried at each step, in radians a pixel."""
BEND_COSTS = np.minimum(8000.0 * BENDS**2, 4.0 + 20.0 * np.abs(BENDS)) * (BENDS != 0)
KINKS = np.array([0.5, -0.5, 1.0, -1.0, 1.5, -1.5])
"""Sharp corners, tried where there is no ink ahead, in radians."""
MOST = 24
MOST_BLIND = 70
"""Guesses kept at each step of those on ink, of those off it, and of those where nothing at all has been seen for long."""


@dataclass(frozen=True)
class Field:
    """Where ink is and what it is worth. All arrays have the plot's size."""

    ridge: Floats
    """1 on the middle of a stroke, falling to 0 at its border."""
    hidden: Mask
    """Where a curve may run unseen."""
    worth: Floats
    """What ink is worth: less where another curve has explained it already."""
    thick: float
    rim: int
    """Pixels at the border that were cleared of the frame."""


def field_of(mask: Mask, hidden: Mask, thick: float, rim: int) -> Field:
    distance = np.asarray(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3), np.float64)
    return Field(np.clip(distance / max(1.0, 0.45 * thick), 0, 1), hidden, np.ones(mask.shape), thick, rim)


@dataclass(frozen=True)
class Pen:
    """How to follow: `gap` is what a pixel of bare paper costs, `reach` how much of it is crossed at once."""

    gap: float
    reach: float
    lag: float
    """Ways that parted longer ago than this many pixels are decided."""
    step: float = 3.0


@dataclass(frozen=True)
class Trail:
    points: Floats
    inked: Mask
    """For each point, whether there was ink."""
    doubt: float
    """How near the second best way came where ways parted, 0-1."""


def follow(field: Field, x: float, y: float, heading: float, bend: float, pen: Pen) -> Trail:
    """The way on from a point, in the direction `heading` (radians, y downwards) with curvature `bend`."""
    h, w = field.ridge.shape
    theta = heading + np.array([0.0, 0.0, 0.0, 0.06, -0.06])
    kappa = bend * np.array([1.0, 0.5, 0.0, 1.0, 1.0])
    n = len(theta)
    px, py, score, bare = np.full(n, x), np.full(n, y), np.zeros(n), np.zeros(n)
    # Which way along x each guess has gone: 0 until it has gone either way clearly.
    way = np.zeros(n)
    history: list[tuple[Floats, Floats, Ints, Mask, Floats]] = [
        (px, py, np.arange(n, dtype=np.int64), np.ones(n, np.bool_), score)
    ]
    lag = max(4, round(pen.lag / pen.step))
    # Beside the frame nothing is seen, and a way along it would join what has nothing to do with each other.
    rim = float(field.rim)
    doubt = 0.0
    peak_step, peak, peak_at = 0, 0.0, 0
    covered = 0.0
    for step in range(1, int(3.2 * (h + w) / pen.step)):
        parent = np.repeat(np.arange(len(px), dtype=np.int64), len(BENDS))
        k = 0.99 * kappa[parent] + np.tile(BENDS, len(px))
        t = theta[parent] + pen.step * k
        cost = np.tile(BEND_COSTS, len(px)) + 4.0 * np.abs(k)
        corner = np.zeros(len(parent), np.bool_)
        # A corner is turned where the stroke ends, not a step later.
        ax = np.clip(np.rint(px + 1.6 * pen.step * np.cos(theta)), 0, w - 1).astype(np.int64)
        ay = np.clip(np.rint(py + 1.6 * pen.step * np.sin(theta)), 0, h - 1).astype(np.int64)
        blind = np.nonzero((field.ridge[ay, ax] < 0.2) & (bare <= pen.step + 0.1))[0]
        if len(blind):
            more = np.repeat(blind, len(KINKS))
            parent = np.r_[parent, more]
            k = np.r_[k, np.zeros(len(more))]
            t = np.r_[t, theta[more] + np.tile(KINKS, len(blind))]
            cost = np.r_[cost, np.tile(8.0 + 8.0 * np.abs(KINKS), len(blind))]
            corner = np.r_[corner, np.ones(len(more), np.bool_)]
        cosine = np.cos(t)
        course = way[parent]
        # Curves of plots are functions: what comes back along x has turned into another curve.
        cost = cost + np.where(cosine * course < -0.4, 1.3 * pen.step, 0.0)
        course = np.where((course == 0) & (np.abs(cosine) > 0.5), np.sign(cosine), course)
        dx, dy = pen.step * cosine, pen.step * np.sin(t)
        nx, ny = px[parent] + dx, py[parent] + dy
        keep = (nx > rim) & (ny > rim) & (nx < w - 1 - rim) & (ny < h - 1 - rim) & (np.abs(k) < 0.25)
        if not keep.any():
            break
        parent, k, t, cost = parent[keep], k[keep], t[keep], cost[keep]
        nx, ny, dx, dy = nx[keep], ny[keep], dx[keep], dy[keep]
        corner, course = corner[keep], course[keep]
        ix, iy = np.rint(nx).astype(np.int64), np.rint(ny).astype(np.int64)
        hx, hy = np.rint(nx - 0.5 * dx).astype(np.int64), np.rint(ny - 0.5 * dy).astype(np.int64)
        hx, hy = np.clip(hx, 0, w - 1), np.clip(hy, 0, h - 1)
        ridge = 0.5 * (field.ridge[iy, ix] + field.ridge[hy, hx])
        ink = ridge > 0.2
        veiled = field.hidden[iy, ix]
        gain = np.where(ink, ridge * field.worth[iy, ix], np.where(veiled, -0.06, -pen.gap)) * pen.step
        paper = np.where(ink, 0.0, bare[parent] + np.where(veiled, 0.12, 1.0) * pen.step)
        # Only ink can tell of a turn; a corner must show two steps of it.
        fx = np.clip(np.rint(nx + dx), 0, w - 1).astype(np.int64)
        fy = np.clip(np.rint(ny + dy), 0, h - 1).astype(np.int64)
        total = score[parent] + gain - cost
        total[~ink & (np.abs(k - 0.99 * kappa[parent]) > 0.007)] = -math.inf
        total[corner & ~(ink & (field.ridge[fy, fx] > 0.2))] = -math.inf
        alive = (paper <= pen.reach) & (total > max(float(total.max()), -1e9) - 40.0)
        if not alive.any():
            break
        parent, k, t, nx, ny = parent[alive], k[alive], t[alive], nx[alive], ny[alive]
        ink, paper, total, course = ink[alive], paper[alive], total[alive], course[alive]
        # Of guesses that are nearly the same only the best goes on.
        order = np.argsort(-total, kind="stable")
        # Over a long gap small differences of direction matter: nothing else tells the guesses apart.
        fine = 2.0 if covered > 5 * pen.step else 1.0
        cell = (
            (np.rint(nx[order] / 2).astype(np.int64) * 4096 + np.rint(ny[order] / 2).astype(np.int64)) * 256
            + np.rint(np.mod(t[order], 2 * math.pi) * 10 * fine).astype(np.int64)
        ) * 256 + np.clip(np.rint(k[order] * 110 * fine).astype(np.int64) + 128, 0, 255)
        _, first = np.unique(cell, return_index=True)
        unique = order[np.sort(first)]
        # Each kind has its own places: a corner costs much at first, and many cheap ways lead off the ink just there.
        seen, lost = unique[ink[unique]], unique[~ink[unique]]
        best = np.concatenate([seen[:MOST], lost[: MOST_BLIND if covered > 5 * pen.step else MOST]])
        best = best[np.argsort(-total[best], kind="stable")]
        px, py, theta, kappa, score, bare = nx[best], ny[best], t[best], k[best], total[best], paper[best]
        way = course[best]
        history.append((px, py, parent[best], ink[best], score))
        covered = 0.0 if bool(ink[best[0]]) else covered + pen.step
        if float(score[0]) > peak:
            peak_step, peak, peak_at = step, float(score[0]), 0
        # Ways that parted long ago are decided now; while nothing is seen, none is.
        if step > lag and covered == 0.0 and len(px) > 1:
            origin = np.arange(len(px), dtype=np.int64)
            for back in range(lag):
                origin = history[-1 - back][2][origin]
            same = origin == origin[0]
            if not same.all():
                doubt = max(doubt, 1.0 / (1.0 + 0.5 * float(score[0] - score[~same].max())))
                px, py, theta, kappa = px[same], py[same], theta[same], kappa[same]
                score, bare, way = score[same], bare[same], way[same]
                last = history[-1]
                history[-1] = (px, py, last[2][same], last[3][same], score)
    # The way ends where its score was highest: what came after was bare paper.
    points: list[tuple[float, float]] = []
    inked: list[bool] = []
    at = peak_at
    for i in range(peak_step, -1, -1):
        xs, ys, parents, inks, _ = history[i]
        points.append((float(xs[at]), float(ys[at])))
        inked.append(bool(inks[at]))
        at = int(parents[at])
    return Trail(np.array(points[::-1], np.float64), np.array(inked[::-1], np.bool_), doubt)


def unfolded(trail: Trail, thick: float) -> Trail:
    """A trail up to the place where it turns back on itself."""
    points = trail.points
    n = len(points)
    if n < 8:
        return trail
    apart = max(3, round(4 * thick / 3))
    d = np.gradient(points, axis=0)
    d = d / np.maximum(np.hypot(d[:, 0], d[:, 1]), 1e-9)[:, None]
    run = 0
    for i in range(apart, n):
        before = points[: i - apart + 1]
        near = np.hypot(*(before - points[i]).T) < 0.7 * thick + 0.5
        near &= d[: i - apart + 1] @ d[i] < -0.8
        # The flanks of a narrow peak part soon; who comes back stays on the same ink.
        run = run + 1 if near.any() else 0
        if run >= 9:
            turn = (int(np.nonzero(near)[0][-1]) + i) // 2
            return Trail(points[: turn + 1], trail.inked[: turn + 1], trail.doubt)
    return trail


def both_ways(field: Field, x: float, y: float, heading: float, bend: float, pen: Pen) -> Trail:
    """A curve through a point, from its one end to its other."""
    ahead = unfolded(follow(field, x, y, heading, bend, pen), field.thick)
    # Seen from the other side a bend to the left is one to the right.
    behind = unfolded(follow(field, x, y, heading + math.pi, -bend, pen), field.thick)
    return Trail(
        np.concatenate([behind.points[:0:-1], ahead.points]),
        np.concatenate([behind.inked[:0:-1], ahead.inked]),
        max(ahead.doubt, behind.doubt),
    )


def explained(field: Field, trail: Floats, share: float) -> None:
    """Lower the worth of ink along a trail: the next curve may share it, but gains little by it."""
    line = np.zeros(field.worth.shape, np.uint8)
    pixels = np.round(trail).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(line, [pixels], False, 1, max(3, round(1.3 * field.thick)))
    field.worth[line > 0] = np.minimum(field.worth[line > 0], share)


def centred(points: Floats, mask: Mask, thick: float) -> Floats:
    """Points drawn to the middle of the ink across the way, where ink is near."""
    if len(points) < 5:
        return points
    soft = np.asarray(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), max(0.8, 0.3 * thick)), np.float32)
    out = points.copy()
    reach = 0.8 * thick + 1
    offsets = np.linspace(-reach, reach, 13)
    for _ in range(2):
        d = np.gradient(out, axis=0)
        n = np.c_[-d[:, 1], d[:, 0]] / np.maximum(np.hypot(d[:, 0], d[:, 1]), 1e-9)[:, None]
        xs = (out[:, 0, None] + n[:, 0, None] * offsets).astype(np.float32)
        ys = (out[:, 1, None] + n[:, 1, None] * offsets).astype(np.float32)
        seen = np.asarray(cv2.remap(soft, xs, ys, cv2.INTER_LINEAR), np.float64)
        weight = seen * np.exp(-0.5 * (offsets / (0.6 * reach)) ** 2)
        total = weight.sum(axis=1)
        shift = np.where(total > 0.4, (weight * offsets).sum(axis=1) / np.maximum(total, 1e-9), 0.0)
        out = out + n * np.clip(shift, -1.5, 1.5)[:, None]
    return out
