"""Curves of one colour told apart as a reader does it: by the dashes and the markers of the legend's samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from adapters.curves.kit import connected, nearest, pairs, seen_along
from adapters.curves.shapes import Box, Floats, Grey, Mask, Path, Rgb

UNLIKE = 2.0
"""What it costs to call a dashed curve by a solid sample, or one without markers by a sample with one."""
CLEAR = 0.4
"""By so much the best way of giving the names must be better than any other."""


@dataclass(frozen=True)
class Pattern:
    """Lengths in pixels of the ink's runs, the shorter and the longer ones, and of the gaps between them; no gap: solid."""

    short: float
    long: float
    gap: float

    def unlike(self, other: "Pattern") -> float:
        if not self.gap or not other.gap:
            return 0.0 if self.gap == other.gap else UNLIKE
        couples = (self.short, other.short), (self.long, other.long), (self.gap, other.gap)
        return sum(abs(math.log((a + 2) / (b + 2))) for a, b in couples)


SOLID = Pattern(0.0, 0.0, 0.0)


def pattern_of(inked: Mask, known: Mask, least: int) -> Pattern:
    """The pattern of a line from the ink along it. Runs that reach into what is not `known` are not measured; `least` gaps make a pattern."""
    edges = np.nonzero(np.diff(inked.astype(np.int8)))[0] + 1
    starts, stops = np.r_[0, edges], np.r_[edges, len(inked)]
    runs: dict[bool, list[int]] = {True: [], False: []}
    for a, b in zip(starts[1:-1], stops[1:-1], strict=True):
        if known[a - 1 : b + 1].all():
            runs[bool(inked[a])].append(int(b - a))
    # The first run of a sample is whole: a pattern begins with it.
    if inked[0] and len(edges) and known[: int(edges[0]) + 1].all():
        runs[True].append(int(edges[0]))
    gaps = [g for g in runs[False] if g >= 2]
    if len(gaps) < least or sum(gaps) < 0.06 * float(known.sum()) or not runs[True]:
        return SOLID
    return Pattern(float(np.percentile(runs[True], 20)), float(np.percentile(runs[True], 80)), float(np.median(gaps)))


def darkness(rgb: Rgb) -> Grey:
    """How far each pixel is from the paper, 0-255."""
    paper = np.percentile(rgb[::4, ::4].reshape(-1, 3), 80, axis=0)
    return np.asarray(np.abs(rgb.astype(np.float32) - paper.astype(np.float32)).max(axis=2), np.float32)


def filled(dark: Grey, side: float) -> Grey:
    """Open markers filled, so that the paper in them is no gap of a line: closed areas of at most `side` pixels each way."""
    inked = np.asarray(dark > 0.4 * float(np.percentile(dark, 99.5)), np.bool_)
    count, labels, stats, _ = connected(~inked)
    small = (stats[:, cv2.CC_STAT_WIDTH] <= side) & (stats[:, cv2.CC_STAT_HEIGHT] <= side)
    small[0] = False
    return np.where(small[labels], np.float32(dark.max()), dark) if count > 1 else dark


def of_sample(dark: Grey, box: Box) -> Pattern:
    part = dark[round(box.cy) - 2 : round(box.cy) + 3, round(box.x0) : round(box.x1) + 1]
    if part.shape[0] < 5 or part.shape[1] < 6:
        return SOLID
    line = part.max(axis=0)
    inked = np.asarray(line > 0.5 * float(line.max()), np.bool_)
    return pattern_of(inked, np.ones(len(inked), np.bool_), 1)


def of_path(dark: Grey, path: Path, others: Sequence[Path], covers: Sequence[Box]) -> Pattern:
    """The pattern along a curve, where no other one and no text is near."""
    along = np.r_[0.0, np.cumsum(np.hypot(*np.diff(path.points, axis=0).T))]
    at = np.arange(0.0, float(along[-1]))
    if len(at) < 20:
        return SOLID
    points = np.column_stack([np.interp(at, along, path.points[:, k]) for k in (0, 1)])
    ahead = np.gradient(points, axis=0)
    across = np.c_[-ahead[:, 1], ahead[:, 0]] / np.maximum(np.hypot(ahead[:, 0], ahead[:, 1]), 1e-9)[:, None]
    line = np.zeros(len(at), np.float32)
    # The curve may run a pixel beside its ink; along it nothing is smeared, or gaps would shrink.
    for aside in (-1.0, 0.0, 1.0):
        at_pixel = np.asarray(np.rint(points + aside * across), np.int64)
        rows, columns = np.clip(at_pixel[:, 1], 0, dark.shape[0] - 1), np.clip(at_pixel[:, 0], 0, dark.shape[1] - 1)
        line = np.maximum(line, dark[rows, columns])
    xs, ys = points.T
    known = np.ones(len(at), np.bool_)
    for other in others:
        known &= np.isinf(nearest(points, other.points, 0.5 * (path.width + other.width) + 4))
    for q in covers:
        known &= ~((xs > q.x0 - 2) & (xs < q.x1 + 2) & (ys > q.y0 - 2) & (ys < q.y1 + 2))
    return pattern_of(np.asarray(line > 0.5 * float(np.percentile(line, 80)), np.bool_), known, 4)


def marker_of(dark: Grey, box: Box) -> Grey | None:
    """The marker in the middle of a sample, cut out; None where it has none."""
    y0, y1 = max(0, round(box.cy - 0.7 * box.height)), round(box.cy + 0.7 * box.height) + 1
    part = dark[y0:y1, round(box.x0) : round(box.x1) + 1]
    if part.shape[1] < 8:
        return None
    inked = part > 0.4 * float(part.max())
    rows = np.arange(inked.shape[0], dtype=np.float64)[:, None]
    high = np.where(inked, rows, -1).max(axis=0) - np.where(inked, rows, 10**6).min(axis=0) + 1.0
    high[~inked.any(axis=0)] = 0
    thin = float(np.median(high[high > 0])) if (high > 0).any() else 0.0
    tall = np.nonzero(high > max(1.7 * thin, thin + 2))[0]
    middle = inked.shape[1] / 2
    if (
        len(tall) < 3
        or abs(float(tall.mean()) - middle) > 0.2 * inked.shape[1]
        or float(np.ptp(tall)) > 1.2 * box.height
    ):
        return None
    body = seen_along(np.asarray(inked[:, tall[0] : tall[-1] + 1], np.bool_), 1)
    top, bottom = int(np.argmax(body)), len(body) - int(np.argmax(body[::-1]))
    return np.ascontiguousarray(part[max(0, top - 1) : bottom + 1, max(0, int(tall[0]) - 1) : int(tall[-1]) + 2])


def seen_on(dark: Grey, marker: Grey, paths: Sequence[Path]) -> Floats:
    """How well a marker is found again on each of the paths, 0-1."""
    h, w = marker.shape
    found = cv2.matchTemplate(dark, marker, cv2.TM_CCOEFF_NORMED)
    fits = np.zeros(dark.shape, np.float32)
    fits[h // 2 : h // 2 + found.shape[0], w // 2 : w // 2 + found.shape[1]] = found
    fits = np.asarray(cv2.dilate(fits, np.ones((5, 5), np.uint8)), np.float32)
    out: list[float] = []
    for path in paths:
        xs = np.clip(np.round(path.points[:, 0]).astype(int), 0, dark.shape[1] - 1)
        ys = np.clip(np.round(path.points[:, 1]).astype(int), 0, dark.shape[0] - 1)
        out.append(float(np.clip(np.percentile(fits[ys, xs], 95), 0, 1)))
    return np.array(out)


def by_pattern(rgb: Rgb, samples: Sequence[Box], paths: Sequence[Path], covers: Sequence[Box]) -> dict[int, int]:
    """Which path has which sample, by their numbers; empty where that is not clear."""
    dark = darkness(rgb)
    full = filled(dark, float(np.median([box.height for box in samples])))
    wanted = [of_sample(full, box) for box in samples]
    own = [of_path(full, p, [q for q in paths if q is not p], covers) for p in paths]
    cost = np.array([[p.unlike(s) for s in wanted] for p in own])
    markers = [marker_of(dark, box) for box in samples]
    fits = [seen_on(dark, m, paths) if m is not None else None for m in markers]
    known = [f for f in fits if f is not None]
    if known:
        best = np.max(known, axis=0)
        for c, f in enumerate(fits):
            # What fits another marker better is another one; what fits none has none.
            cost[:, c] += (
                UNLIKE * np.clip(best - 0.7, 0, 0.3) / 0.3 if f is None else 4 * (best - f) + UNLIKE * (best < 0.6)
            )
    chosen = pairs(cost)
    total = sum(float(cost[r, c]) for r, c in chosen)
    for r, c in chosen:
        barred = cost.copy()
        barred[r, c] = 1e3
        if sum(float(barred[a, b]) for a, b in pairs(barred)) - total < CLEAR:
            return {}
    return {r: c for r, c in chosen if cost[r, c] < UNLIKE}
