"""Dashes and dots of one line joined, and open markers filled, so that what follows sees strokes only.

A gap is closed where both of its sides point at each other: dash to dash, or dash to the marker or the other curve that interrupts the
row. Single gaps are left alone: they may be the ends of two curves.
"""

import math
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np

from adapters.curves.kit import connected
from adapters.curves.shapes import Floats, Ints, Labels, Mask

MOST_DASHES = 600
"""Pieces of one layer. A plot with more of them is noise or a photo, and its dashes are left as they are."""
ALIKE = 5
"""Open markers of one size before they are believed: curves close in small areas too, but not of one size."""


@dataclass(frozen=True)
class Dash:
    """A short straight piece of ink, or a dot, which points nowhere."""

    ends: tuple[Floats, Floats]
    along: Floats
    """The unit vector from the first end to the second; zero for a dot."""
    number: int

    def outward(self, end: int) -> Floats:
        return self.along if end else -self.along


def filled_markers(mask: Mask, thick: float, size: float) -> Mask:
    """Paper inside of open markers taken for ink: small, round and as large as others."""
    count, labels, stats, _ = connected(~mask)
    wide, high, area = (
        stats[:, k].astype(np.float64) for k in (cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_AREA)
    )
    largest, least = np.maximum(wide, high), np.minimum(wide, high)
    fits = (largest <= max(5 * thick, 0.025 * size)) & (least >= max(3, 0.8 * thick)) & (largest <= 1.5 * least)
    fits &= area >= 0.42 * wide * high
    fits[0] = False
    few = np.nonzero(fits)[0]
    same = [(np.abs(side[few, None] - side[None, few]) <= 0.1 * side[few, None] + 1) for side in (wide, high)]
    alike = few[(same[0] & same[1]).sum(axis=1) >= ALIKE]
    keep = np.zeros(count, np.bool_)
    keep[alike] = True
    return mask | keep[labels]


def dashes_of(labels: Labels, stats: Ints, thick: float, size: float, rim: int) -> list[Dash]:
    """Which pieces of ink are dashes or dots: no wider than the pen, and short. What stands on the frame (`rim`) is a tick of the axis."""
    found: list[Dash] = []
    extent = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    for i in np.nonzero((extent >= max(2.0, 0.6 * thick)) & (extent <= 0.09 * size))[0]:
        if i == 0:
            continue
        x, y, w, h, area = (int(v) for v in stats[i])
        if x <= rim or y <= rim or x + w >= labels.shape[1] - rim or y + h >= labels.shape[0] - rim:
            continue
        ys, xs = np.nonzero(labels[y : y + h, x : x + w] == i)
        points = np.c_[xs + x, ys + y].astype(np.float64)
        middle = points.mean(axis=0)
        moments, axes = np.linalg.eigh(np.cov((points - middle).T) if area > 2 else np.eye(2))
        # Of a rectangle of sides a and b the moments are a^2 / 12 and b^2 / 12.
        short, long = (math.sqrt(12 * max(float(m), 1 / 12)) for m in moments)
        if short > 1.6 * thick + 1.5:
            continue
        if long < 1.7 * short or long < 1.3 * thick + 1:
            if long <= 2 * thick + 2:
                found.append(Dash((middle, middle), np.zeros(2), int(i)))
            continue
        along = np.asarray(axes[:, 1], np.float64)
        where = (points - middle) @ along
        low, high = float(where.min()), float(where.max())
        ends = tuple(points[np.abs(where - k) <= 1.0].mean(axis=0) for k in (low, high))
        found.append(Dash((ends[0], ends[1]), along, int(i)))
    return found


@dataclass(frozen=True)
class Link:
    """A gap between the ends of two dashes."""

    one: tuple[int, int]
    other: tuple[int, int]
    gap: float


def turn_between(u: Floats, v: Floats) -> float:
    n = float(np.hypot(*u) * np.hypot(*v))
    return math.acos(float(np.clip(float(u @ v) / n, -1, 1))) if n > 0 else 0.0


def links_of(dashes: list[Dash], thick: float) -> list[Link]:
    """Which ends belong together: the nearest that point at each other, each end once."""
    reach = 6 * thick + 2
    ends = np.array([d.ends[k] for d in dashes for k in (0, 1)])
    gaps = np.hypot(ends[:, 0, None] - ends[None, :, 0], ends[:, 1, None] - ends[None, :, 1])
    possible: list[tuple[float, float, int, int]] = []
    near: list[list[int]] = np.argwhere(np.triu(gaps < reach, 1)).tolist()
    for a, b in near:
        one, other = dashes[a // 2], dashes[b // 2]
        if one is other:
            continue
        way = other.ends[b % 2] - one.ends[a % 2]
        turns = turn_between(one.outward(a % 2), way), turn_between(other.outward(b % 2), -way)
        if max(turns) <= 0.5:
            possible.append((float(gaps[a, b]) * (1 + 1.5 * sum(turns)), float(gaps[a, b]), a, b))
    taken: dict[int, Floats] = {}
    out: list[Link] = []
    linked: set[tuple[int, int]] = set()
    for _, gap, a, b in sorted(possible):
        i, j = a // 2, b // 2
        if (min(i, j), max(i, j)) in linked:
            continue
        way = dashes[j].ends[b % 2] - dashes[i].ends[a % 2]
        slots: list[tuple[int, Floats]] = []
        for dash, end, towards in ((i, a, way), (j, b, -way)):
            if float(np.abs(dashes[dash].along).sum()) > 0:
                slot = end if end not in taken else -1
            else:
                # A dot has neighbours on two sides.
                free = [k for k in (2 * dash, 2 * dash + 1) if k not in taken]
                used = [taken[k] for k in (2 * dash, 2 * dash + 1) if k in taken]
                slot = free[0] if free and all(turn_between(towards, -u) < 0.7 for u in used) else -1
            slots.append((slot, towards))
        if min(slot for slot, _ in slots) < 0:
            continue
        for slot, towards in slots:
            taken[slot] = towards
        linked.add((min(i, j), max(i, j)))
        out.append(Link((i, slots[0][0] % 2), (j, slots[1][0] % 2), gap))
    return out


def rows_of(links: list[Link], count: int) -> list[set[int]]:
    """The dashes by rows: those that links lead from one to the next; each of the others is a row of its own."""
    near: dict[int, list[int]] = {i: [] for i in range(count)}
    for link in links:
        near[link.one[0]].append(link.other[0])
        near[link.other[0]].append(link.one[0])
    out: list[set[int]] = []
    while near:
        row, edge = set[int](), [next(iter(near))]
        while edge:
            i = edge.pop()
            row.add(i)
            edge += near.pop(i, [])
        out.append(row)
    return out


def ahead(mask: Mask, labels: Labels, dash: Dash, end: Floats, way: Floats, reach: float) -> Floats | None:
    """Where ink begins in the direction of an end, other than the dash's own; None where none is near."""
    side = np.array([-way[1], way[0]])
    for t in np.arange(1.5, reach, 0.5):
        for aside in (0.0, 1.0, -1.0):
            x, y = (round(float(v)) for v in end + t * way + aside * min(1.5, 0.2 * t) * side)
            if not (0 <= x < mask.shape[1] and 0 <= y < mask.shape[0]):
                return None
            if mask[y, x] and labels[y, x] != dash.number:
                return np.array([float(x), float(y)]) + 0.5 * way
    return None


def dashes_joined(mask: Mask, thick: float, size: float, rim: int = 0) -> Mask:
    """The mask with the gaps of dashed and dotted lines closed."""
    count, labels, stats, _ = connected(mask)
    if not 4 <= count <= MOST_DASHES:
        return mask
    dashes = dashes_of(labels, stats, thick, size, rim)
    if len(dashes) < 3:
        return mask
    links = links_of(dashes, thick)
    members = rows_of(links, len(dashes))
    towards: dict[tuple[int, int], Floats] = {}
    for link in links:
        (i, a), (j, b) = link.one, link.other
        way = dashes[j].ends[b if dashes[j].along.any() else 0] - dashes[i].ends[a if dashes[i].along.any() else 0]
        towards[i, a], towards[j, b] = way, -way
    out = mask.astype(np.uint8)
    wide = max(1, round(thick))

    def draw(p: Floats, q: Floats) -> None:
        (x0, y0), (x1, y1) = (np.round(v).astype(int).tolist() for v in (p, q))
        cv2.line(out, (x0, y0), (x1, y1), 1, wide)

    patterned = max(len(those) for those in members) >= 4
    for those in members:
        own = [link for link in links if link.one[0] in those]
        usual = float(np.median([link.gap for link in own])) if own else 2.5 * thick
        closing: list[tuple[Floats, Floats]] = []
        open_ends = 0
        for i, end in product(sorted(those), (0, 1)):
            if (i, end) in towards:
                continue
            dash = dashes[i]
            way = dash.outward(end)
            if not way.any():
                other = towards.get((i, 1 - end))
                if other is None:
                    open_ends += 1
                    continue
                way = -other / max(float(np.hypot(*other)), 1e-9)
            hit = ahead(mask, labels, dash, dash.ends[end], way, 1.6 * usual + thick + 1)
            if hit is None:
                open_ends += 1
            else:
                closing.append((dash.ends[end], hit))
        # A row of three is a pattern; what is shorter is believed only between other ink, where other rows are patterns.
        alike = [abs(link.gap - usual) <= 0.5 * usual for link in own]
        if (len(those) < 3 and (open_ends or not patterned)) or sum(alike) < 0.8 * len(own):
            continue
        for link in own:
            (i, a), (j, b) = link.one, link.other
            draw(dashes[i].ends[a], dashes[j].ends[b])
        for p, q in closing:
            draw(p, q)
    return np.asarray(out, np.bool_)
