"""Pointers (leader lines) taken out of a layer's ink before its curves are followed.

A pointer goes straight from a text to a curve and ends there, with an arrow head or without; it may cross other curves on its
way. While it is ink like any other, curves are led onto it, and it is traced as a curve of its own. What tells it: one end lies at a
text, it is straight from there to its other end, and at that end it neither goes on nor merges but meets a stroke across its way.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from adapters.curves.ink import Layer
from adapters.curves.kit import connected
from adapters.curves.shapes import Box, Floats, Mask

AT_TEXT = 0.035
"""How far from its text a pointer may begin, as a part of the plot's diagonal."""
LONGEST_FINE, LONGEST = 0.5, 0.36
"""How long it may be, where a head or a finer pen tells it from a curve, and where nothing does but that it is straight."""
SHORTEST = 0.02
"""How long it is at least: dashes beside a text are none."""
SHORT = 0.02
"""How far before its curve it may end, as a part of the diagonal."""
ACROSS = math.radians(28)
"""At smaller angles to what it ends at, it may be a curve that merges."""


@dataclass(frozen=True)
class Ray:
    """A straight stroke of ink followed from its free end; all arrays have one entry for each pixel of its length."""

    start: Floats
    way: Floats
    """Its direction, of length 1."""
    low: Floats
    high: Floats
    """Where its ink begins and ends across the way, in pixels from the middle; equal where there is none."""
    pen: float
    """Its own thickness."""

    @property
    def width(self) -> Floats:
        return self.high - self.low

    @property
    def narrow(self) -> Mask:
        """Where it is as thin as its pen."""
        return (self.width > 0) & (self.width <= 1.35 * self.pen + 1)

    @property
    def normal(self) -> Floats:
        return np.array([-self.way[1], self.way[0]])

    @property
    def bow(self) -> float:
        """How far its middle strays from the line, but for the grain of pixels."""
        middle = ((self.low + self.high) / 2)[self.narrow]
        k = min(15, len(middle))
        return float(np.abs(np.convolve(middle, np.full(k, 1 / k), "valid")).max())

    def at(self, along: float) -> Floats:
        return self.start + along * self.way


def without_pointers(layer: Layer, ends: Sequence[Floats], texts: Sequence[Box], ink: Mask, size: float) -> Layer:
    """The layer without the ink of pointers. `ends` are its strokes at their free ends, the end first; `ink` is that of all
    layers, `size` the plot's diagonal."""
    if layer.chromatic or not texts:
        return layer
    origin = np.array(layer.origin, np.float64)
    h, w = layer.mask.shape
    boxes = [Box(b.x0 - origin[0], b.y0 - origin[1], b.x1 - origin[0], b.y1 - origin[1]) for b in texts]
    # A curve that begins at the frame is near a number of the axis.
    boxes = [b for b in boxes if 0 < b.cx < w and 0 < b.cy < h]
    mask, hidden = layer.mask.copy(), layer.hidden.copy()
    for stroke in ends:
        ray = ray_from(stroke, layer, boxes, size)
        if ray is None:
            continue
        head = head_of(ray)
        if head is not None:
            # What the ink does beyond the tip is the curve's affair.
            whole = replace(ray, low=ray.low[: head[1] + 1], high=ray.high[: head[1] + 1])
            if is_pointer(whole, True, layer, ink, size):
                erase(whole, head, mask, hidden)
                continue
        # What looked like a head may be a curve that it crosses.
        if is_pointer(ray, False, layer, ink, size):
            erase(ray, None, mask, hidden)
    return layer if bool((mask == layer.mask).all()) else replace(layer, mask=mask, hidden=hidden)


def ray_from(stroke: Floats, layer: Layer, boxes: Sequence[Box], size: float) -> Ray | None:
    """The straight ink that begins at a stroke's free end beside a text and leads away from that text; None when it does not."""
    thick = layer.thick
    least = max(8.0, 1.3 * thick)
    tip = stroke[0]
    h, w = layer.mask.shape
    rim = max(6.0, 0.015 * max(h, w))
    # What comes out of the frame is no pointer.
    if min(tip[0], tip[1], w - 1 - tip[0], h - 1 - tip[1]) < rim or len(stroke) < least:
        return None
    near = [b for b in boxes if b.away(tip) < AT_TEXT * size]
    if not near:
        return None
    # The last pixels of a skeleton lean into the corners of a stroke's end.
    skip = round(0.6 * thick)
    part = stroke[skip : skip + max(40, round(2.5 * least))]
    if len(part) < 6:
        return None
    way = direction(part)
    start = part[0]
    if not any(meets(b.grown(0.5 * b.height), start, -way, 2 * AT_TEXT * size) for b in near):
        return None
    # A few pixels between a letter and a crossing tell its direction badly: of some directions, that which has most of a thin stroke.
    tries = [
        fitted(layer, start, turned(way, angle), LONGEST_FINE * size, max(least, SHORTEST * size))
        # A longer stroke tells it well.
        for angle in ((0.0,) if len(part) > 30 else (0.0, 0.07, -0.07, 0.14, -0.14))
    ]
    rays = [ray for ray in tries if ray is not None]
    return max(rays, key=lambda ray: int(ray.narrow.sum()), default=None)


def fitted(layer: Layer, start: Floats, way: Floats, longest: float, least: float) -> Ray | None:
    """A ray whose line is drawn again and again through the middle of all that is thin on it."""
    length = min(longest, 64.0)
    for _ in range(6):
        low, high, stop = section(layer, start, way, length)
        if stop < least:
            return None
        pen = float(np.median((high - low)[: max(4, round(least))]))
        ray = Ray(start, way, low[:stop], high[:stop], pen)
        along = np.nonzero(ray.narrow)[0].astype(np.float64)
        if len(along) < 6:
            return None
        slope, shift = (float(v) for v in np.polyfit(along, ((ray.low + ray.high) / 2)[ray.narrow], 1))
        start = start + shift * ray.normal
        way = way + slope * ray.normal
        way = way / float(np.hypot(*way))
        # Most strokes beside a text are short: one looks farther only where there is more.
        if stop > 0.7 * length:
            length = min(longest, 2 * length)
    low, high, stop = section(layer, start, way, length)
    inked = (high - low)[:stop]
    inked = inked[inked > 0]
    if len(inked) < least:
        return None
    usual = float(np.median(inked[: round(3 * least)]))
    # What it crosses makes it wide in places.
    return Ray(start, way, low[:stop], high[:stop], float(np.median(inked[inked < 2 * usual])))


def turned(way: Floats, angle: float) -> Floats:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([c * way[0] - s * way[1], s * way[0] + c * way[1]])


def section(layer: Layer, start: Floats, way: Floats, longest: float) -> tuple[Floats, Floats, int]:
    """The run of ink across a straight way at each pixel of it, and how far the ink goes on without a gap."""
    h, w = layer.mask.shape
    reach = max(12.0, 5 * layer.thick)
    along = np.arange(0.0, longest)
    offsets = np.arange(-reach, reach + 0.25, 0.5)
    normal = np.array([-way[1], way[0]])
    at = start + along[:, None, None] * way + offsets[None, :, None] * normal
    xs, ys = np.rint(at[..., 0]).astype(np.int64), np.rint(at[..., 1]).astype(np.int64)
    inside = (xs >= 0) & (ys >= 0) & (xs < w) & (ys < h)
    xs, ys = np.clip(xs, 0, w - 1), np.clip(ys, 0, h - 1)
    ink = layer.mask[ys, xs] & inside
    middle = len(offsets) // 2
    covered = layer.hidden[ys[:, middle], xs[:, middle]] & inside[:, middle]
    # A drawn line is not quite straight in pixels: the run that counts is the one nearest to the middle.
    slack = max(2, round(0.5 * layer.thick))
    near = slice(middle - slack, middle + slack + 1)
    far = np.where(ink[:, near], np.abs(np.arange(-slack, slack + 1)), 99)
    here = middle - slack + far.argmin(axis=1)
    found = far.min(axis=1) < 99
    places = np.broadcast_to(np.arange(len(offsets)), ink.shape)
    before = np.maximum.accumulate(np.where(ink, -1, places), axis=1)
    after = np.minimum.accumulate(np.where(ink, len(offsets), places)[:, ::-1], axis=1)[:, ::-1]
    rows = np.arange(len(along))
    low = np.where(found, offsets[np.minimum(before[rows, here] + 1, len(offsets) - 1)] - 0.25, 0.0)
    high = np.where(found, offsets[np.maximum(after[rows, here] - 1, 0)] + 0.25, 0.0)
    usual = float((high - low)[:4][found[:4]].min(initial=2 * reach))
    stop = 0
    for i in np.nonzero(found)[0].tolist():
        gap = i - stop
        # Grid lines cut strokes, and where it crosses a curve the ink may be torn.
        torn = gap > 0 and (covered[stop:i].any() or (stop > 0 and high[stop - 1] - low[stop - 1] > 1.5 * usual))
        if gap > (layer.thick + 6 if torn else 2):
            break
        stop = i + 1
    return low, high, stop


def is_pointer(ray: Ray, head: bool, layer: Layer, ink: Mask, size: float) -> bool:
    """Whether a ray from a text ends at a curve as a pointer does."""
    length = len(ray.width)
    if ray.pen > 1.4 * layer.thick + 1:
        return False
    fine = ray.pen < 0.7 * layer.thick
    if length > (LONGEST_FINE if head or fine else LONGEST) * size:
        return False
    level = min(abs(float(ray.way[0])), abs(float(ray.way[1]))) < 0.1
    if level and not head and not fine:
        return False
    if float(ray.narrow.mean()) < 0.4 or ray.bow > max(1.3, 0.3 * layer.thick) or goes_on(ray, layer):
        return False
    if not head and goes_on_behind(ray, layer, size):
        return False
    return ends_across(ray, ink, layer.thick, SHORT * size)


def head_of(ray: Ray) -> tuple[int, int] | None:
    """Where its arrow head begins and ends: from one place on it is much wider, to both sides alike, then draws in to a tip."""
    width, pen = ray.width, ray.pen
    lopsided = np.abs(ray.low + ray.high) / 2 > 0.22 * width + 0.8
    for begin in range(4, len(width) - 4):
        # It begins behind a thin piece, or where something crosses.
        behind = width[begin - 1] <= 1.5 * pen + 0.5 or width[begin - 1] > 9 * pen or lopsided[begin - 1]
        if width[begin] <= 1.5 * pen + 0.5 or not behind:
            continue
        peak, least, end = begin, float(width[begin]), begin
        for i in range(begin, min(len(width), begin + max(30, round(14 * pen)))):
            if width[i] > 9 * pen or (lopsided[i] and width[i] > 1.5 * pen + 0.5):
                break
            # Behind its widest place it only draws in; a step out again is the curve.
            if width[i] > max(least, 1.5) + 1.5 and i > peak + 3 and least < 0.7 * width[peak]:
                break
            if width[i] >= width[peak]:
                peak, least = i, float(width[i])
            least, end = min(least, float(width[i])), i
        blunt = peak - begin < 0.6 * (end - begin)
        # A curve across the way ends at once.
        slow = end > peak and float(-np.diff(width[peak : end + 1]).min()) < 0.4 * width[peak]
        if width[peak] > 2 * pen + 1 and least < 0.55 * width[peak] and blunt and slow and end - begin > 1.2 * pen + 2:
            return begin, end
    return None


def ends_across(ray: Ray, ink: Mask, thick: float, short: float) -> bool:
    """True when the far end lies on a stroke that runs on to both sides of it, or `short` pixels ahead of one at most."""
    forward = math.atan2(float(ray.way[1]), float(ray.way[0]))
    n = len(ray.width)
    for back in np.arange(-short, 2.3 * thick, 0.5 * thick + 1):
        for radius in (1.5 * thick + 4, 2.5 * thick + 6):
            turns = [math.remainder(a - forward, 2 * math.pi) for a in arcs(ink, ray.at(n - 1 - float(back)), radius)]
            sides = [t for t in turns if ACROSS < abs(t) < math.pi - ACROSS]
            if any(a > 0 > b and abs(a - b - math.pi) < math.radians(45) for a in sides for b in sides):
                return True
    return False


def goes_on(ray: Ray, layer: Layer) -> bool:
    """True for a curve that only bends out of the straight: the ink at the ray's end leads on ahead."""
    end = ray.at(len(ray.width) - 1)
    radius = 2 * layer.thick + 5
    x0, y0 = max(0, round(float(end[0]) - radius) - 2), max(0, round(float(end[1]) - radius) - 2)
    side = round(2 * radius) + 5
    part = layer.mask[y0 : y0 + side, x0 : x0 + side]
    _, labels, _, _ = connected(part)
    tip = ray.at(len(ray.width) - 1) + (ray.low[-1] + ray.high[-1]) / 2 * ray.normal
    x, y = round(float(tip[0])) - x0, round(float(tip[1])) - y0
    if not (0 <= y < part.shape[0] and 0 <= x < part.shape[1]) or labels[y, x] == 0:
        return False
    own = np.asarray(labels == labels[y, x], np.bool_)
    forward = math.atan2(float(ray.way[1]), float(ray.way[0]))
    turns = [math.remainder(a - forward, 2 * math.pi) for a in arcs(own, end - (x0, y0), radius)]
    return any(abs(t) < math.radians(36) for t in turns)


def goes_on_behind(ray: Ray, layer: Layer, size: float) -> bool:
    """True for a curve that a label interrupts: behind the text there is ink in line with it."""
    h, w = layer.mask.shape
    along = np.arange(3.0, 0.25 * size)
    slack = np.arange(-round(layer.thick), round(layer.thick) + 1.0)
    at = ray.start - along[:, None, None] * ray.way + slack[None, :, None] * ray.normal
    xs, ys = np.rint(at[..., 0]).astype(np.int64), np.rint(at[..., 1]).astype(np.int64)
    inside = (xs >= 0) & (ys >= 0) & (xs < w) & (ys < h)
    xs, ys = np.clip(xs, 0, w - 1), np.clip(ys, 0, h - 1)
    ink = (layer.mask[ys, xs] & inside).any(axis=1)
    # What is seen for so long beside the line crosses it at a small angle if at all.
    long = max(12, round(5 * layer.thick))
    return len(ink) >= long and bool((np.convolve(ink, np.ones(long), "valid") > 0.9 * long).any())


def arcs(mask: Mask, centre: Floats, radius: float) -> list[float]:
    """Directions in which ink leaves a circle: the middle of each inked arc of it."""
    n = max(32, round(4 * math.pi * radius))
    angles = np.arange(n) * 2 * math.pi / n
    xs = np.rint(centre[0] + radius * np.cos(angles)).astype(np.int64)
    ys = np.rint(centre[1] + radius * np.sin(angles)).astype(np.int64)
    h, w = mask.shape
    inside = (xs >= 0) & (ys >= 0) & (xs < w) & (ys < h)
    ink = mask[np.clip(ys, 0, h - 1), np.clip(xs, 0, w - 1)] & inside
    if ink.all() or not ink.any():
        return []
    begin = int(np.argmin(ink))
    ink, angles = np.roll(ink, -begin), np.roll(angles, -begin)
    where = np.nonzero(ink)[0]
    runs = np.split(where, np.nonzero(np.diff(where) > 1)[0] + 1)
    return [float(angles[run[len(run) // 2]]) for run in runs]


def erase(ray: Ray, head: tuple[int, int] | None, mask: Mask, hidden: Mask) -> None:
    """The ray's own ink taken out of the mask; beside the curves that it crosses, what is taken becomes a cover."""
    h, w = mask.shape
    own = ray.narrow
    if head is not None:
        whole = slice(head[0] - 3, head[1] + 1)
        own[whole] = (ray.width[whole] > 0) & (ray.width[whole] <= ray.width[head[0] : head[1] + 1].max())
    near = np.convolve(~own, np.ones(2 * round(2 * ray.pen) + 1), "same") > 0
    # The ray begins a little behind the stroke's end.
    for i in (*range(-round(ray.pen) - 4, 0), *np.nonzero(own)[0].tolist()):
        k = max(i, 0)
        offsets = np.arange(float(ray.low[k]) - 0.5, float(ray.high[k]) + 0.75, 0.5)
        at = ray.at(float(i)) + offsets[:, None] * ray.normal
        xs, ys = np.rint(at[:, 0]).astype(np.int64), np.rint(at[:, 1]).astype(np.int64)
        inside = (xs >= 0) & (ys >= 0) & (xs < w) & (ys < h)
        xs, ys = xs[inside], ys[inside]
        if near[k]:
            hidden[ys, xs] |= mask[ys, xs]
        mask[ys, xs] = False


def direction(points: Floats) -> Floats:
    """The direction of a straight row of points, from its first to its last."""
    middle = points - points.mean(axis=0)
    _, _, axes = np.linalg.svd(middle, full_matrices=False)
    way = np.asarray(axes[0], np.float64)
    return way if float(way @ (points[-1] - points[0])) > 0 else -way


def meets(box: Box, start: Floats, way: Floats, reach: float) -> bool:
    """True when a straight way from a point comes upon a box within `reach`."""
    low, high = 0.0, reach
    for p, d, a, b in ((start[0], way[0], box.x0, box.x1), (start[1], way[1], box.y0, box.y1)):
        if abs(float(d)) < 1e-9:
            if not a <= float(p) <= b:
                return False
            continue
        near, far = sorted(((a - float(p)) / float(d), (b - float(p)) / float(d)))
        low, high = max(low, near), min(high, far)
    return low <= high
