"""Labels to scales: the linear or logarithmic line that most labels lie on, settled on the strokes, with its doubt."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapters.curves.shapes import Axis, Floats, Scale, Tick
from adapters.curves.ticks import Label


@dataclass(frozen=True)
class Fit:
    scale: Scale
    slope: float
    """Pixels for one unit (one decade on a log axis)."""
    offset: float
    members: tuple[tuple[int, float], ...]
    """(index of the label, its value)."""
    weight: float
    error_px: float

    def at(self, value: float) -> float:
        return self.slope * (math.log10(value) if self.scale == "log" else value) + self.offset

    def value(self, pixel: float) -> float:
        u = (pixel - self.offset) / self.slope
        return 10.0 ** max(-300.0, min(300.0, u)) if self.scale == "log" else u


def fits(places: Floats, labels: Sequence[Label], length: float, *, rising: bool | None) -> list[Fit]:
    """All lines through two labels with those that agree, the best first. Places are pixels along the axis."""
    out: list[Fit] = []
    tolerance = max(0.012 * length, 2.5)
    options = [(i, v, w * (0.5 + 0.5 * labels[i].score)) for i in range(len(labels)) for v, w in labels[i].meanings]
    for scale in ("linear", "log"):
        usable = [
            (i, math.log10(v) if scale == "log" else v, v, w) for i, v, w in options if scale == "linear" or v > 0
        ]
        if len(usable) < 2:
            continue
        index = np.array([q[0] for q in usable])
        f = np.array([q[1] for q in usable])
        weight = np.array([q[3] for q in usable])
        at = places[index]
        best: dict[tuple[tuple[int, float], ...], Fit] = {}
        for a, b in itertools.combinations(range(len(usable)), 2):
            if index[a] == index[b] or f[a] == f[b] or abs(at[a] - at[b]) < 0.06 * length:
                continue
            slope = (at[b] - at[a]) / (f[b] - f[a])
            if rising is not None and (slope > 0) != rising:
                continue
            offset = at[a] - slope * f[a]
            away = np.abs(at - slope * f - offset)
            close = np.nonzero(away < tolerance)[0]
            taken: dict[int, int] = {}
            for k in sorted((int(c) for c in close), key=lambda c: away[c]):
                taken.setdefault(int(index[k]), k)
            # Two labels with one value at two places cannot both be right.
            values = [usable[k][2] for k in taken.values()]
            if len(set(values)) < len(values):
                continue
            ks = sorted(taken.values())
            members = tuple((int(index[k]), usable[k][2]) for k in ks)
            if members in best:
                continue
            slope, offset = (float(v) for v in np.polyfit(f[ks], at[ks], 1))
            error = float(np.sqrt(np.mean((at[ks] - slope * f[ks] - offset) ** 2)))
            total = float(weight[ks].sum()) - 0.5 * error / tolerance
            best[members] = Fit("log" if scale == "log" else "linear", slope, offset, members, total, error)
        out += sorted(best.values(), key=lambda q: -q.weight)[:6]
    return sorted(out, key=lambda q: -q.weight)


def comb_says_log(strokes: Floats, decade: float, first: float, length: float) -> float:
    """Evidence of strokes at 2, 3, ... 9 of each decade: -1 against, 0 none, 1 for."""
    if len(strokes) < 4 or abs(decade) < 1:
        return 0.0
    phase = np.mod((strokes - first) / decade, 1.0)
    marks = np.log10(np.arange(1, 11))
    away = np.abs(phase[:, None] - marks[None]).min(axis=1) * abs(decade)
    tolerance = max(2.0, 0.006 * length)
    off_major = np.minimum(phase, 1 - phase) * abs(decade) > tolerance
    if off_major.sum() < 2:
        return 0.0
    hits = float((away[off_major] < tolerance).mean())
    # How often would any place hit a mark by chance?
    chance = min(0.95, 2 * tolerance * 8 / abs(decade))
    return float(np.clip((hits - chance) / max(1 - chance, 0.05), -1, 1))


def step_evidence(fit: Fit) -> float:
    """How usual the values are: steps of one size on a linear axis, decades (or 1-2-5) on a log axis; 0-1."""
    values = np.sort(np.array([v for _, v in fit.members]))
    if len(values) < 3:
        return 0.5
    if fit.scale == "log":
        steps = np.diff(np.log10(values))
        mantissa = np.abs(10.0 ** np.mod(np.log10(values) + 1e-9, 1) - 1) < 0.02
        return 1.0 if mantissa.all() or steps.max() - steps.min() < 0.02 else 0.6
    steps = np.diff(values)
    whole: Floats = np.asarray(steps / steps.min(), np.float64)
    return 1.0 if np.abs(whole - np.round(whole)).max() < 0.05 else 0.5


def differ(one: Fit, other: Fit, length: float) -> bool:
    """True when two lines disagree by more than 2 % of the axis."""
    if one.scale != other.scale:
        return True
    # Both are pixels = slope f + offset over the same f, so their distance is largest at the label places.
    at = [0.0, length]
    there = [other.slope * ((p - one.offset) / one.slope) + other.offset for p in at]
    return max(abs(a - b) for a, b in zip(at, there, strict=True)) > 0.02 * length


def choose(candidates: Sequence[Fit], strokes: Floats, count: int, length: float) -> tuple[Fit, float] | None:
    """The best line and the confidence in it, 0-1. A log axis needs evidence; two labels alone are weak."""
    scored: list[tuple[float, Fit, float]] = []
    for fit in candidates:
        comb = 0.0
        if fit.scale == "log":
            comb = comb_says_log(strokes, fit.slope, fit.offset, length)
        bonus = 0.5 * step_evidence(fit) + (0.8 * comb if fit.scale == "log" else 0.0)
        if fit.scale == "log" and len(fit.members) == 2 and comb < 0.4:
            bonus -= 1.0
        if fit.scale == "log" and len(fit.members) == 2 and comb > 0.6:
            bonus += 0.8
        # Over a short range both fit; an even ladder of numbers at even distances is no log axis.
        if fit.scale == "log" and len(fit.members) > 2:
            ladder = set(fit.members)
            bonus -= 1.0 * any(o.scale == "linear" and ladder <= set(o.members) for o in candidates)
        scored.append((fit.weight + bonus, fit, comb))
    if not scored:
        return None
    scored.sort(key=lambda q: -q[0])
    best, fit, comb = scored[0]
    members = len(fit.members)
    rivals = [s for s, f, _ in scored[1:] if differ(fit, f, length)]
    margin = best - max(rivals, default=0.0)
    agree = members / max(count, members)
    confidence = {0: 0.0, 1: 0.0, 2: 0.45, 3: 0.8, 4: 0.92}.get(members, 0.97)
    confidence *= 0.55 + 0.45 * min(1.0, max(0.0, margin) / 1.0)
    confidence *= 0.6 + 0.4 * agree
    confidence *= 1.0 - min(0.5, 20 * fit.error_px / max(length, 1) / 1.0)
    if fit.scale == "log" and members == 2:
        confidence *= 0.6 + 0.6 * max(0.0, comb)
    return fit, float(min(1.0, confidence))


def shift_of(places: Floats, strokes: Floats, length: float) -> float:
    """How far all labels stand beside their strokes, in one direction: where a page centres them on something else than their
    letters. 0 where they do not, or where another stroke would be as near."""
    nearest = strokes[np.abs(strokes[:, None] - places[None]).argmin(axis=0)]
    away = nearest - places
    shift = float(np.median(away))
    apart = np.diff(strokes)
    together = float(np.abs(away - shift).max()) < max(0.006 * length, 2.0)
    taken = len(set(nearest.tolist())) == len(places)
    return shift if len(places) >= 3 and together and taken and abs(shift) < 0.3 * float(apart.min()) else 0.0


def snapped(fit: Fit, places: Floats, strokes: Floats, length: float) -> Fit:
    """The same line through the strokes (grid lines, tick marks) that its labels belong to."""
    if len(strokes) == 0:
        return fit
    f = np.array([math.log10(v) if fit.scale == "log" else v for _, v in fit.members])
    expected = fit.slope * f + fit.offset
    expected = expected + shift_of(expected, strokes, length)
    nearest = strokes[np.abs(strokes[:, None] - expected[None]).argmin(axis=0)]
    near = np.abs(nearest - expected) < max(0.015 * length, 2.5)
    if near.sum() < 2 or near.sum() < 0.5 * len(f):
        return fit
    f, at = f[near], nearest[near]
    if np.ptp(f) == 0:
        return fit
    slope, offset = (float(v) for v in np.polyfit(f, at, 1))
    error = np.abs(at - slope * f - offset)
    if error.max() > 0.006 * length + 1.0 and len(f) > 2:
        keep = error < 0.006 * length + 1.0
        if keep.sum() < 2 or np.ptp(f[keep]) == 0:
            return fit
        slope, offset = (float(v) for v in np.polyfit(f[keep], at[keep], 1))
    if slope * fit.slope <= 0 or abs(slope / fit.slope - 1) > 0.06:
        return fit
    return Fit(fit.scale, slope, offset, fit.members, fit.weight, fit.error_px)


def on_the_comb(fit: Fit, strokes: Floats, length: float) -> Fit:
    """Of the lines through strokes near the outermost labels the one on whose 1-2-3..9 most strokes lie.

    A label such as 10 with an exponent may be centred on its 10 only, and then a neighbour of its stroke is as near.
    """
    if len(strokes) < 6 or len(fit.members) < 2:
        return fit
    values = sorted(math.log10(v) for _, v in fit.members)
    low, high = values[0], values[-1]

    def apart(slope: float, offset: float) -> float:
        f = (strokes - offset) / slope
        decade = np.floor(f + 1e-9)
        comb = decade[:, None] + np.log10(np.arange(1.0, 11.0))[None, :]
        return float(np.minimum(np.abs(comb - f[:, None]).min(axis=1) * abs(slope), 3.0).mean())

    best, least = fit, apart(fit.slope, fit.offset) - 0.05
    reach = max(0.04 * length, 6.0)
    near = [strokes[np.abs(strokes - (fit.slope * f + fit.offset)) < reach] for f in (low, high)]
    for a in near[0]:
        for b in near[1]:
            slope = float(b - a) / (high - low)
            if slope * fit.slope <= 0:
                continue
            error = apart(slope, float(a) - slope * low)
            if error < least:
                least = error
                best = Fit(fit.scale, slope, float(a) - slope * low, fit.members, fit.weight, fit.error_px)
    return best


def axis_of(
    labels: Sequence[Label],
    places: Floats,
    strokes: Floats,
    p0: float,
    p1: float,
    *,
    upwards: bool,
    exact: bool = False,
) -> Axis | None:
    """The axis whose frame ends are at pixels p0 (its low end: left or bottom) and p1. None when labels do not agree.

    `exact`: strokes and frame are known better than a label near a frame's end could tell (a PDF's).
    """
    length = abs(p1 - p0)
    candidates = fits(places, labels, length, rising=None)
    # Values nearly always rise to the right and upwards; a falling axis must win clearly.
    usual = [c for c in candidates if (c.slope < 0) == upwards]
    unusual = [c for c in candidates if (c.slope < 0) != upwards and len(c.members) >= 4]
    if usual and unusual and unusual[0].weight < usual[0].weight + 1.5:
        unusual = []
    count = sum(1 for q in labels if q.meanings)
    chosen = choose([*usual, *unusual], strokes, count, length)
    if chosen is None:
        return None
    rough, confidence = chosen
    # "08" is 0.08 or 0.8 whose point was lost: which of them, only other labels can tell.
    if sum(not re.match(r"^[+-]?0\d", labels[i].text) for i, _ in rough.members) < 2:
        confidence *= 0.3
    fit = snapped(rough, places, strokes, length)
    if fit.scale == "log":
        fit = on_the_comb(fit, strokes, length)
    v0, v1 = fit.value(p0), fit.value(p1)
    # A frame's end that lies on a label has that label's value.
    ticks = tuple(Tick(v, float(places[i]), labels[i].text, labels[i].box, labels[i].score) for i, v in fit.members)
    q0, q1 = p0, p1
    for tick in () if exact else ticks:
        if abs(fit.at(tick.value) - p0) < 0.008 * length:
            v0 = tick.value
        if abs(fit.at(tick.value) - p1) < 0.008 * length:
            v1 = tick.value
    if v0 == v1 or (fit.scale == "log" and min(v0, v1) <= 0):
        return None
    return Axis(fit.scale, q0, q1, v0, v1, ticks, rough.error_px / length, confidence)
