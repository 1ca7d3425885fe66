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

from adapters.curves.beam import walk
from adapters.curves.kit import compiled, connected
from adapters.curves.shapes import Floats, Mask

UNBOUND = 10**12
STRIP_WORTH = 0.2
STRIP_LENGTH = 0.08
"""Of the plot's diagonal."""


@dataclass(frozen=True)
class Field:
    """Where ink is and what it is worth. All arrays have the plot's size."""

    ridge: Floats
    """1 on the middle of a stroke, falling to 0 at its border."""
    hidden: Mask
    """Where a curve may run unseen."""
    worth: Floats
    """What ink is worth: less where another curve has explained it already."""
    fresh: Mask
    """False where another curve has explained the ink."""
    strip: Mask
    """Ink that is several strokes side by side. What is left of it says nothing about where the next curve runs."""
    thick: float
    rim: int
    """Pixels at the border that were cleared of the frame."""


def field_of(mask: Mask, hidden: Mask, thick: float, rim: int) -> Field:
    distance = np.asarray(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3), np.float64)
    strip = strips(mask, distance, 0.9 * thick + 1)
    worth = np.where(strip, STRIP_WORTH, 1.0)
    return Field(
        np.clip(distance / max(1.0, 0.45 * thick), 0, 1),
        hidden,
        worth,
        np.ones(mask.shape, np.bool_),
        strip,
        thick,
        rim,
    )


def strips(mask: Mask, distance: Floats, broad: float) -> Mask:
    """Ink that is broader than one stroke for long. `distance` is that to the border of the ink."""
    out = np.zeros_like(mask)
    if (distance > broad).any():
        thin = np.asarray(cv2.distanceTransform((distance <= broad).astype(np.uint8), cv2.DIST_L2, 3))
        count, labels, stats, _ = connected(mask & (thin < broad))
        long = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) > STRIP_LENGTH * math.hypot(
            *mask.shape
        )
        long[0] = False
        if count > 1:
            out = long[labels]
    return out


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
    looked: int = 0
    """Guesses that were looked at: what it cost, the same on any machine."""


def follow(field: Field, x: float, y: float, heading: float, bend: float, pen: Pen, budget: int = UNBOUND) -> Trail:
    """The way on from a point, in the direction `heading` (radians, y downwards) with curvature `bend`; as far as `budget` guesses lead."""
    lag = max(4, round(pen.lag / pen.step))
    points, inked, doubt, looked = walk(
        field.ridge,
        field.hidden,
        field.worth,
        field.strip,
        float(field.rim),
        (float(x), float(y), float(heading), float(bend)),
        (float(pen.gap), float(pen.reach), float(pen.step), lag),
        budget,
    )
    return Trail(points, inked, doubt, looked)


def unfolded(trail: Trail, thick: float) -> Trail:
    """A trail up to the place where it turns back on itself."""
    points = trail.points
    n = len(points)
    if n < 8:
        return trail
    apart = max(3, round(4 * thick / 3))
    d = np.gradient(points, axis=0)
    d = d / np.maximum(np.hypot(d[:, 0], d[:, 1]), 1e-9)[:, None]
    turn = turning(points, d, 0.7 * thick + 0.5, apart)
    return trail if turn < 0 else Trail(points[: turn + 1], trail.inked[: turn + 1], trail.doubt, trail.looked)


@compiled
def turning(points: Floats, d: Floats, near: float, apart: int) -> int:
    """Where a way whose unit directions are `d` turns to come back on its own ink; -1 where it does not."""
    run = 0
    for i in range(apart, len(points)):
        back = -1
        for k in range(i - apart + 1):
            away = math.hypot(points[k, 0] - points[i, 0], points[k, 1] - points[i, 1])
            if away < near and d[k, 0] * d[i, 0] + d[k, 1] * d[i, 1] < -0.8:
                back = k
        # The flanks of a narrow peak part soon; who comes back stays on the same ink.
        run = run + 1 if back >= 0 else 0
        if run >= 9:
            return (back + i) // 2
    return -1


def unreversed(trail: Trail, thick: float) -> Trail:
    """A trail up to the place where it turns sharply and goes back along x: there it has changed over to another curve.

    A peak turns as sharply but goes on along x; a loop goes back but turns slowly.
    """
    points = trail.points
    look = max(18, round(3 * thick))
    n = len(points)
    if n < 2 * look + 2:
        return trail
    before = points[look:-look] - points[: -2 * look]
    after = points[2 * look :] - points[look:-look]
    lengths = np.hypot(before[:, 0], before[:, 1]) * np.hypot(after[:, 0], after[:, 1])
    cosine = (before * after).sum(axis=1) / np.maximum(lengths, 1e-9)
    least, most = np.sort(np.abs(np.c_[before[:, 0], after[:, 0]]), axis=1).T
    back = (before[:, 0] * after[:, 0] < 0) & (least > 0.8) & (most > 3)
    for k in np.nonzero(back & (cosine < -0.5))[0]:
        way = (points[look + k :, 0] - points[look + k, 0]) * math.copysign(1.0, float(before[k, 0]))
        # In a bundle of strokes a way may shake; it has turned only where it does not come on again.
        if -float(way.min()) > max(10.0, 4 * float(way.max())):
            near = slice(k, k + look + 1)
            turn = look + int(k) + int(np.argmin(cosine[near]))
            return Trail(points[: turn + 1], trail.inked[: turn + 1], trail.doubt, trail.looked)
    return trail


def both_ways(field: Field, x: float, y: float, heading: float, bend: float, pen: Pen, budget: int = UNBOUND) -> Trail:
    """A curve through a point, from its one end to its other."""
    ahead = unreversed(unfolded(follow(field, x, y, heading, bend, pen, budget), field.thick), field.thick)
    # Seen from the other side a bend to the left is one to the right.
    back = follow(field, x, y, heading + math.pi, -bend, pen, budget - ahead.looked)
    behind = unreversed(unfolded(back, field.thick), field.thick)
    return Trail(
        np.concatenate([behind.points[:0:-1], ahead.points]),
        np.concatenate([behind.inked[:0:-1], ahead.inked]),
        max(ahead.doubt, behind.doubt),
        ahead.looked + behind.looked,
    )


def explained(field: Field, trail: Floats, share: float) -> None:
    """Lower the worth of ink along a trail: the next curve may share it, but gains little by it."""
    line = np.zeros(field.worth.shape, np.uint8)
    pixels = np.round(trail).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(line, [pixels], False, 1, max(3, round(1.3 * field.thick)))
    on = line > 0
    field.fresh[on] = False
    on &= ~field.strip
    field.worth[on] = np.minimum(field.worth[on], share)


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
