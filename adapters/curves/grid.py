"""The grid taken out of a layer, and the curves put back where they cross it or lie on it.

A pixel of a grid line belongs to a curve when a straight stroke through it is longer than the grid alone can make one in that
direction. What runs along a line shows as more ink than the line has by itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from adapters.curves.kit import compiled, peaks
from adapters.curves.shapes import Axis, Floats, Ints, Mask

LONGEST = 52
"""Pixels of the longest stroke that is asked for: curves bend, so longer ones would lose them."""
ANGLES = tuple(float(a) for a in np.arange(9.0, 82.0, 4.5))


@dataclass(frozen=True)
class Band:
    """A grid line: first and last row (or column) and how much of it is inked."""

    first: int
    last: int
    cover: float
    core: tuple[int, int] | None = None
    """The rows that are inked nearly all the way: of a line with a curve on it, the line's own rows."""
    dark: float = 0.0

    @property
    def at(self) -> float:
        return (self.first + self.last) / 2

    @property
    def thick(self) -> int:
        return self.last - self.first + 1


def comb(axis: Axis | None, bands: Sequence[Band], offset: float, length: int) -> Floats:
    """Places where grid lines are expected: the ticks and, where strokes show them, their subdivisions."""
    if axis is None:
        return np.zeros(0)
    if axis.scale == "log":
        lo, hi = sorted((axis.v0, axis.v1))
        decades = range(math.floor(math.log10(lo)) - 1, math.ceil(math.log10(hi)) + 1)
        values = np.array([m * 10.0**d for d in decades for m in range(1, 10)])
        values = values[(values >= lo * 0.999) & (values <= hi * 1.001)]
        places = axis.pixels(values) - offset
        whole = np.abs(np.log10(values) - np.round(np.log10(values))) < 1e-6
        seen = np.array([b.at for b in bands])
        # Where only the decades are drawn, a flat curve at 2 or 5 of one is no grid line.
        minor = places[~whole]
        used = (
            np.abs(minor[:, None] - seen[None]).min(axis=1) < max(2.5, 0.004 * length)
            if len(seen) and len(minor)
            else np.ones(len(minor), np.bool_)
        )
        return places if used.mean() > 0.3 or whole.sum() < 2 else places[whole]
    values = np.sort(np.array([t.value for t in axis.ticks]))
    if len(values) < 2:
        return np.zeros(0)
    step = float(np.min(np.diff(values)))
    if step <= 0:
        return np.zeros(0)
    lo, hi = sorted((axis.v0, axis.v1))
    best, best_score = np.zeros(0), -1e9
    seen = np.array([b.at for b in bands])
    for k in (1, 2, 4, 5, 10):
        d = step / k
        n0, n1 = math.ceil((lo - values[0]) / d - 1e-6), math.floor((hi - values[0]) / d + 1e-6)
        if n1 - n0 > 150 or n1 - n0 < 1:
            continue
        places = axis.pixels(np.asarray(values[0] + d * np.arange(n0, n1 + 1), np.float64)) - offset
        if len(seen) == 0:
            return places
        hit = np.abs(seen[:, None] - places[None]).min(axis=1) < max(2.5, 0.004 * length)
        used = np.abs(places[:, None] - seen[None]).min(axis=1) < max(2.5, 0.004 * length)
        score = float(hit.sum()) - 0.5 * float((~used).sum())
        if k == 1 or score > best_score + 0.5:
            best, best_score = places, score
    return best


def peaks_of(strength: Floats, inked: Mask, free: Mask) -> list[Band]:
    """Rows that stand out as straight strokes; half their height gives their thickness."""
    w = strength.shape[1]
    seen = np.maximum(free.sum(axis=1), 0.15 * w)
    profile = np.r_[0.0, (strength * free).sum(axis=1) / seen, 0.0]
    cover = (inked & free).sum(axis=1) / seen
    out: list[Band] = []
    for peak, lo, hi in peaks(profile, max(0.05, 0.2 * float(profile.max())), 0.6):
        first, last = round(lo - 1 + 0.3), round(hi - 1 - 0.3)
        first, last = max(0, min(first, peak - 1)), min(len(cover) - 1, max(last, peak - 1))
        # A flat curve beside the line is not as long as the line itself.
        near = cover[first : last + 1]
        whole = np.nonzero(near > max(0.78, 0.96 * float(near.max())))[0]
        core = (first + int(whole[0]), first + int(whole[-1])) if len(whole) else None
        row = strength[max(0, peak - 1)]
        dark = float(row[row > 0].mean()) if (row > 0).any() else 0.0
        out.append(Band(first, last, float(cover[max(0, peak - 2) : peak + 1].max()), core, dark))
    return out


def grid_bands(found: Sequence[Band], expected: Floats, length: int) -> list[Band]:
    """Which straight strokes are grid lines: those at expected places, and those that run over the whole plot with others."""
    if not found:
        return []
    tolerance = max(2.5, 0.005 * length)
    full = [b for b in found if b.cover > 0.7]
    # Where the axis expects them there are lines of the grid; others may be flat curves, and thicker.
    there = [b.thick for b in full if len(expected) and float(np.abs(expected - b.at).min()) <= tolerance]
    thin = float(np.median(there if len(there) > 2 else [b.thick for b in full or found]))
    many = sum(1 for b in found if b.cover > 0.8) >= 4
    out: list[Band] = []
    # A stroke much darker than the other lines is no grid line, wherever it lies - unless others are like it, such as those
    # of whole decades.
    usual = float(np.median([b.dark for b in found if b.cover > 0.6] or [1.0])) if many else 1.0
    darks = np.array([b.dark for b in found if b.cover > 0.5])
    for band in found:
        alike = int((darks > 0.8 * band.dark).sum()) - (band.cover > 0.5)
        if band.dark > 1.7 * usual and band.cover < 0.995 and alike < 2:
            continue
        at_comb = len(expected) > 0 and float(np.abs(expected - band.at).min()) <= tolerance + 0.3 * band.thick
        if (
            band.core
            and many
            and at_comb
            and band.thick > 1.7 * thin + 1
            and band.core[1] - band.core[0] + 1 <= 3 * thin + 2
        ):
            out.append(Band(band.core[0], band.core[1], band.cover, band.core))
        elif at_comb and band.cover > (0.3 if many else 0.45):
            out.append(band if band.thick <= 1.7 * thin + 1 else centred(band, expected, thin))
        elif band.cover > 0.85 and many and band.thick <= 1.6 * thin + 1 and band.dark < 1.4 * usual:
            if not lonely(band, found, expected, length):
                out.append(band)
    return out


def lonely(band: Band, found: Sequence[Band], expected: Floats, length: int) -> bool:
    """True for a straight stroke that no even grid explains: the lines lie where the axis expects them, and no other stroke lies in
    another cell as this one does in its own. That is a flat curve; finer lines would be there in each cell. (On log axes a
    line at 15 or 150 may stand alone.)"""
    tolerance = max(2.5, 0.005 * length)
    places = np.sort(expected[(expected > tolerance) & (expected < length - 1 - tolerance)])
    seen = np.array([b.at for b in found if b.cover > 0.5])

    def at_frame(other: Band) -> bool:
        return min(other.at, length - 1 - other.at) < 0.02 * length

    if at_frame(band) or len(places) < 3 or len(seen) == 0 or float(np.ptp(np.diff(places))) > 2 * tolerance:
        return False
    if float((np.abs(places[:, None] - seen[None]).min(axis=1) < tolerance).mean()) < 0.75:
        return False
    bounds = np.r_[-0.5, places, length - 0.5]

    def within(at: float) -> tuple[int, float, float]:
        cell = int(np.searchsorted(bounds, at))
        return cell, at - float(bounds[cell - 1]), float(bounds[min(cell, len(bounds) - 1)]) - at

    cell, before, after = within(band.at)
    for other in found:
        if float(np.abs(expected - other.at).min()) < tolerance or other.cover < 0.5 or at_frame(other):
            continue
        there, low, high = within(other.at)
        if (
            there != cell
            and min(abs(low - before), abs(high - after), abs(low - after), abs(high - before)) < tolerance
        ):
            return False
    return True


def centred(band: Band, expected: Floats, thin: float) -> Band:
    """A curve that lies on a grid line makes it thick; only the line's own rows are taken."""
    at = float(expected[int(np.abs(expected - band.at).argmin())])
    first = max(band.first, round(at - (thin - 1) / 2))
    return Band(first, min(band.last, first + max(0, round(thin) - 1)), band.cover, None)


def showing(mask: Mask, bands: Sequence[Band]) -> list[Band]:
    """Grid lines that are dark enough to be in the mask. Where most are not, one that seems to be is a flat curve on it, but
    for a line that is all there and no darker than the others: the level of the mask happens to lie between them."""
    covers = [float(mask[b.first : b.last + 1].mean(axis=1).max()) if b.last >= b.first else 0.0 for b in bands]
    if not covers:
        return []
    few = float(np.median(covers)) < 0.2
    usual = float(np.median([b.dark for b in bands]))
    return [
        b
        for b, cover in zip(bands, covers, strict=True)
        if cover > 0.12
        and (
            not few
            or (cover > 0.85 and b.dark < 1.3 * usual)
            or sum(0.6 * cover < c < cover / 0.6 + 0.01 for c in covers) >= 4
        )
    ]


def run_through(part: Mask, row: int) -> Floats:
    """Length of the vertical run of ink through one row, for each column."""
    row = min(max(row, 0), part.shape[0] - 1)
    up = np.cumprod(part[row::-1], axis=0).sum(axis=0)
    down = np.cumprod(part[row:], axis=0).sum(axis=0)
    return np.asarray(np.maximum(up + down - 1, 0), np.float64)


def bridged(mask: Mask, bare: Mask, strokes: Sequence[tuple[float, int]]) -> Mask:
    """What lies between ink of `bare` on straight strokes of `mask`: angles in degrees (anticlockwise), each with its length in pixels."""
    turned, turned_bare = np.ascontiguousarray(mask.T), np.ascontiguousarray(bare.T)
    flat, steep = np.zeros_like(mask), np.zeros_like(turned)
    # Ink column by column, for flat strokes and, in the turned picture, for steep ones.
    x, y = np.nonzero(turned)
    v, u = np.nonzero(mask)
    for angle_deg, length in strokes:
        upright = abs(angle_deg) > 45
        lean = math.copysign(90 - abs(angle_deg), angle_deg) if upright else angle_deg
        slope = math.tan(math.radians(lean))
        least = max(3, round(length * math.cos(math.radians(lean))))
        if upright:
            bridge(v, u, turned_bare, slope, least, steep)
        else:
            bridge(x, y, bare, slope, least, flat)
    return (flat | steep.T) & mask


@compiled
def bridge(x: Ints, y: Ints, bare: Mask, slope: float, least: int, out: Mask) -> None:
    """Mark what lies between bare ink on every straight run of ink of this slope that is at least so many columns long.

    `x` and `y` are all pixels of ink, column by column. Only what lies between: at its ends a run would go on along the grid for a
    bit. Bare pixels may be `least` columns apart at most, and half as many from a border, behind which a stroke would go on.
    """
    high, wide = bare.shape
    fall = np.zeros(wide, np.int64)
    for k in range(wide):
        fall[k] = round(slope * k)
    # The picture is sheared so that runs lie level: where the run of each row began, and how far it has come.
    down = -min(0, fall[wide - 1])
    rows = high + abs(fall[wide - 1])
    begin, end = np.zeros(rows, np.int64), np.full(rows, -1, np.int64)
    for k in range(len(x) + rows):
        # After all ink, each row is closed.
        at, row = (x[k], y[k] + fall[x[k]] + down) if k < len(x) else (wide + 1, k - len(x))
        if end[row] == at - 1:
            end[row] = at
            continue
        if end[row] - begin[row] + 1 >= least:
            last = begin[row] - least - 1 if begin[row] > 0 else -(least // 2)
            for i in range(begin[row], end[row] + 1):
                if bare[row - down - fall[i], i] or (i == wide - 1 and i - last <= least // 2):
                    if i - last <= least:
                        for j in range(max(last + 1, begin[row]), i + 1):
                            out[row - down - fall[j], j] = True
                    last = i
        begin[row] = end[row] = at


def painted(shape: tuple[int, int], bands: Sequence[Band]) -> Mask:
    """Rows of grid lines with a pixel of rim on both sides."""
    out = np.zeros(shape, np.bool_)
    for band in bands:
        out[max(0, band.first - 1) : band.last + 2] = True
    return out


def without_grid(mask: Mask, strength: Floats, rows: Sequence[Band], columns: Sequence[Band]) -> tuple[Mask, Mask]:
    """The mask without the grid, but with what crosses it or runs along it; and where the grid was.

    `strength` is the ink of the layer, 0-1, that the mask was cut from.
    """
    h, w = mask.shape
    across, upright = painted((h, w), rows), np.ascontiguousarray(painted((w, h), columns).T)
    grid = across | upright
    bare = mask & ~grid
    if not grid.any():
        return bare, grid
    out = bare.copy()
    high = max((b.thick for b in rows), default=0)
    wide = max((b.thick for b in columns), default=0)
    slanted: list[tuple[float, int]] = []
    for angle in ANGLES:
        s, c = math.sin(math.radians(angle)), math.cos(math.radians(angle))
        # A slanted stroke through the crossing of two lines is as long as both crossings one after the other.
        # The more it leans along a line, the more of a neighbouring curve it could catch at its end.
        need = ((high + 3 + 2 * c) / s if rows else 0.0) + ((wide + 3 + 2 * s) / c if columns else 0.0)
        if need <= LONGEST:
            slanted += [(sign * angle, max(9, math.ceil(need))) for sign in (1, -1)]
    out |= bridged(mask, bare, slanted) & grid
    # Flat strokes over upright lines, and steep ones over level lines: only the other family can cut in there.
    flat = (0.0, 4.0, -4.0, 8.0, -8.0, 13.0, -13.0)
    if columns:
        out |= bridged(mask & ~across, bare, [(angle, wide + 6) for angle in flat]) & upright
    if rows:
        out |= bridged(mask & ~upright, bare, [(math.copysign(90.0 - abs(a), a), high + 6) for a in flat]) & across
    out |= riding(mask, strength, rows, upright)
    out |= np.ascontiguousarray(
        riding(
            np.ascontiguousarray(mask.T), np.ascontiguousarray(strength.T), columns, np.ascontiguousarray(across.T)
        ).T
    )
    return out, grid


def riding(mask: Mask, strength: Floats, bands: Sequence[Band], other: Mask) -> Mask:
    """Where level lines carry more ink than their own, a curve runs along them. `other` are the upright lines."""
    out = np.zeros_like(mask)
    if not bands:
        return out
    h = mask.shape[0]
    sums: list[Floats] = []
    for band in bands:
        lo, hi = max(0, band.first - 1), min(h, band.last + 2)
        total = strength[lo:hi].sum(axis=0)
        # Nothing is learnt where an upright line crosses, nor where a box of text interrupts the line.
        total[other[lo:hi].all(axis=0) | ~mask[band.first : band.last + 1].any(axis=0)] = np.nan
        sums.append(total)
    usual = [float(np.nanpercentile(t, 12)) if np.isfinite(t).any() else 0.0 for t in sums]
    for band, total, base in zip(bands, sums, usual, strict=True):
        known = np.isfinite(total)
        if known.sum() < 8:
            continue
        filled = np.interp(np.arange(len(total)), np.nonzero(known)[0], total[known])
        filled[~mask[band.first : band.last + 1].any(axis=0)] = 0.0
        below = base - total[known]
        below = below[(below > 0) & (below < 0.6 * base)]
        grain = 1.4826 * float(np.median(below)) if len(below) > 8 else 0.0
        more = filled > base + max(0.65, 0.24 * base, 3.0 * grain)
        # Shorter pieces are curves that cross; those the strokes across the line have put back already.
        length = max(28, 6 * band.thick)
        line = np.asarray(cv2.morphologyEx(more.astype(np.uint8)[None], cv2.MORPH_CLOSE, np.ones((1, 5), np.uint8)))
        line = np.asarray(cv2.morphologyEx(line, cv2.MORPH_OPEN, np.ones((1, length), np.uint8)), np.bool_)[0]
        lo, hi = max(0, band.first - 1), min(h, band.last + 2)
        out[lo:hi, line] |= mask[lo:hi, line]
    return out
