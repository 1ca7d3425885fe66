"""Where the plot is: long straight strokes, and the rectangle that best explains where they start and end."""

import itertools
from collections.abc import Iterator

import cv2
import numpy as np

from adapters.curves.kit import connected, seen_along
from adapters.curves.shapes import Box, Floats, Frame, Grey, Line, Mask


def pieces(mask: Mask) -> Iterator[tuple[int, int, Mask]]:
    """Connected pieces, each with the column and row where it begins. Looked for in the rows that have any: they are few."""
    full = np.flatnonzero(np.diff(np.r_[False, mask.any(axis=1), False]))
    for top, bottom in zip(full[::2].tolist(), full[1::2].tolist(), strict=True):
        count, labels, stats, _ = connected(mask[top:bottom])
        for i in range(1, count):
            x, y, w, h, _ = (int(v) for v in stats[i])
            yield x, top + y, labels[y : y + h, x : x + w] == i


def strokes(ink: Grey, level: float, length: int, *, upright: bool) -> list[Line]:
    """Horizontal strokes (vertical ones when `upright`) of at least `length` pixels, pieces on one row joined."""
    image = ink.T if upright else ink
    dark = np.ascontiguousarray(image > level).astype(np.uint8)
    # One pixel of slack across the stroke lets a line that is a little tilted survive.
    slack = np.asarray(cv2.dilate(dark, np.ones((3, 1), np.uint8)), np.uint8)
    opened = np.asarray(cv2.morphologyEx(slack, cv2.MORPH_OPEN, np.ones((1, length), np.uint8)), np.uint8) & dark
    opened = np.asarray(
        cv2.morphologyEx(opened, cv2.MORPH_CLOSE, np.ones((1, max(3, length // 6)), np.uint8)), np.uint8
    )
    found: list[Line] = []
    for x, y, part in pieces(opened > 0):
        h, w = part.shape
        if w < length:
            continue
        if h > 3:
            # A curve's flat piece may hang on a grid line: the line is the row with the most ink.
            rows = part.sum(axis=1)
            peak = int(np.argmax(rows))
            full = np.nonzero(rows > 0.5 * rows[peak])[0]
            lo, hi = int(full[0]), int(full[-1])
            if hi - lo + 1 > max(12, 0.02 * image.shape[0]):
                continue
            columns = np.nonzero(part[lo : hi + 1].any(axis=0))[0]
            x0, x1 = x + int(columns[0]), x + int(columns[-1])
            at, thick = y + (lo + hi) / 2, float(hi - lo + 1)
            cover = float(part[lo : hi + 1].any(axis=0).sum()) / (x1 - x0 + 1)
        else:
            x0, x1, at, thick = x, x + w - 1, y + (h - 1) / 2, float(part.sum()) / w
            cover = float(part.any(axis=0).sum()) / w
        if x1 - x0 >= length:
            found.append(Line(at, x0, x1, thick, cover))
    return joined(found)


def joined(lines: list[Line]) -> list[Line]:
    """Pieces of one row become one line; its cover says how much of it is there."""
    out: list[Line] = []
    for line in sorted(lines, key=lambda one: one.at):
        last = out[-1] if out else None
        if last and abs(line.at - last.at) <= max(1.5, 0.5 * max(line.thick, last.thick)):
            start, end = min(last.start, line.start), max(last.end, line.end)
            here = min(last.length * last.cover + line.length * line.cover, end - start)
            weight = last.length / (last.length + line.length)
            at = last.at * weight + line.at * (1 - weight)
            out[-1] = Line(
                at,
                start,
                end,
                max(last.thick, line.thick) if weight in (0, 1) else last.thick * weight + line.thick * (1 - weight),
                here / max(end - start, 1),
            )
        else:
            out.append(line)
    return out


def clusters(values: list[tuple[float, float]], within: float, most: int) -> list[float]:
    """Centres of weighted values that lie close together, the heaviest first."""
    left = sorted(values)
    groups: list[list[tuple[float, float]]] = []
    for value in left:
        if groups and value[0] - groups[-1][-1][0] <= within:
            groups[-1].append(value)
        else:
            groups.append([value])
    scored = [(sum(w for _, w in g), sum(v * w for v, w in g) / sum(w for _, w in g)) for g in groups]
    return [at for _, at in sorted(scored, reverse=True)[:most]]


def side_covers(dark: Mask, ats: Floats, starts: Floats, ends: Floats) -> Floats:
    """How much of each row of `dark` is inked between each pair of columns, two pixels to either side allowed: rows x pairs."""
    high, wide = dark.shape
    first, last = np.maximum(np.rint(starts), 0).astype(np.int64), np.rint(ends).astype(np.int64)
    until = np.minimum(last + 1, wide)
    rows, which = np.unique(np.rint(ats).astype(np.int64), return_inverse=True)
    out = np.zeros((len(rows), len(starts)))
    for i, row in enumerate(rows):
        if -2 <= row < high + 2:
            inked = np.r_[0, np.cumsum(seen_along(dark[max(0, row - 2) : row + 3], 0))]
            out[i] = (inked[until] - inked[np.minimum(first, wide)]) / np.maximum(until - first, 1)
    out[:, last - first < 4] = 0.0
    return out[which]


def between(lines: list[Line], lows: Floats, highs: Floats, near: float) -> Mask:
    """Which strokes lie between which pairs of places across them: pairs x strokes."""
    at = np.array([q.at for q in lines])
    return (at > lows[:, None] - near) & (at < highs[:, None] + near)


def ending(lines: list[Line], starts: Floats, ends: Floats, near: float) -> tuple[Mask, Floats, Floats]:
    """For pairs of places along strokes, pairs x strokes: which strokes run for a good part between the two, how far each runs on beyond
    them (0-0.5), and how many of its ends lie at them (0-2)."""
    start, end = np.array([q.start for q in lines]), np.array([q.end for q in lines])
    a, b = starts[:, None], ends[:, None]
    along = np.minimum(end, b) - np.maximum(start, a) > 0.3 * np.minimum(end - start, b - a)
    beyond = np.maximum(a - start, 0) + np.maximum(end - b, 0)
    fit = (np.abs(start - a) < near).astype(np.float64) + (np.abs(end - b) < near)
    return along, np.clip(beyond / (b - a) - 0.03, 0, 0.5), fit


def judged(lines: list[Line], inside: Mask, along: Mask, beyond: Floats, fit: Floats) -> tuple[Floats, Floats]:
    """How far strokes inside a box run on beyond it (by their length), and how well they fit its two sides: across x along."""
    length = np.array([q.end - q.start for q in lines])
    across, ways = inside.astype(np.float64), along.astype(np.float64)
    total = across @ (ways * length).T
    count = np.maximum(across @ ways.T, 1)
    return across @ (ways * beyond * length).T / np.maximum(total, 1e-9), across @ (ways * fit).T / count / 2


def find_frames(ink: Grey, noise: float, most: int = 3) -> list[Frame]:
    """Plot areas, the best first. Empty when nothing looks like a pair of axes."""
    high, wide = ink.shape
    top = float(np.percentile(ink, 99.7))
    if top < 25:
        return []
    found: list[Frame] = []
    for part in (0.16, 0.35):
        level = max(14.0, part * top, 4 * noise)
        length = int(0.16 * min(high, wide))
        rows = strokes(ink, level, length, upright=False)
        columns = strokes(ink, level, length, upright=True)
        if rows and columns:
            found += boxes(ink > level, rows, columns, most)
    unique: list[Frame] = []
    for frame in sorted(found, key=lambda f: -f.score):
        near = max(high, wide) * 0.012
        if all(max(abs(a - b) for a, b in zip(corners(frame), corners(other), strict=True)) > near for other in unique):
            unique.append(frame)
    return unique[:most]


def corners(frame: Frame) -> tuple[float, float, float, float]:
    return frame.box.x0, frame.box.y0, frame.box.x1, frame.box.y1


def pairs_of(lows: list[float], highs: list[float], least: float) -> tuple[Floats, Floats]:
    """All pairs of a lower and a higher place that are at least so far apart."""
    found = [(a, b) for a, b in itertools.product(sorted(set(lows)), sorted(set(highs))) if b - a >= least]
    return np.array([a for a, _ in found]), np.array([b for _, b in found])


def choices(lines: list[Line], crossing: list[Line]) -> list[Line]:
    """The four longest strokes, and the outermost two of those that are at least half as long as the longest, unless the strokes that
    cross them run on for more than a tick mark's length: then the plot goes on, and its side is not drawn."""
    longest = sorted(lines, key=lambda q: -q.length * q.cover)
    long = sorted((q for q in lines if 2 * q.length >= longest[0].length), key=lambda q: q.at)
    start, end = float(np.median([q.start for q in crossing])), float(np.median([q.end for q in crossing]))
    tick = 0.02 * (long[-1].at - long[0].at)
    outer = [q for q, beyond in ((long[0], long[0].at - start), (long[-1], end - long[-1].at)) if beyond < tick]
    return [*longest[:4], *(q for q in outer if q not in longest[:4])]


def boxes(dark: Mask, rows: list[Line], columns: list[Line], most: int) -> list[Frame]:
    high, wide = dark.shape
    near = near_of(high, wide)
    # Grid lines vote for the sides where they start and end; a vertical stroke votes for its own place.
    lefts = [(r.start, r.length) for r in rows] + [(c.at, c.length) for c in columns]
    rights = [(r.end, r.length) for r in rows] + [(c.at, c.length) for c in columns]
    tops = [(c.start, c.length) for c in columns] + [(r.at, r.length) for r in rows]
    bottoms = [(c.end, c.length) for c in columns] + [(r.at, r.length) for r in rows]
    left, right = clusters(lefts, near, 7), clusters(rights, near, 7)
    upper, lower = clusters(tops, near, 7), clusters(bottoms, near, 7)
    # Tick marks that stick out vote for places beside the axis; so the longest and the outermost strokes are choices of their own.
    for line in choices(columns, rows):
        left.append(line.at)
        right.append(line.at)
    for line in choices(rows, columns):
        upper.append(line.at)
        lower.append(line.at)
    # All boxes at once: each pair of sides (left, right) with each pair (top, bottom).
    x0, x1 = pairs_of(left, right, 0.22 * wide)
    y0, y1 = pairs_of(upper, lower, 0.22 * high)
    turned = np.ascontiguousarray(dark.T)
    bottom, at_top = side_covers(dark, y1, x0, x1).T, side_covers(dark, y0, x0, x1).T
    at_left, at_right = side_covers(turned, x0, y0, y1), side_covers(turned, x1, y0, y1)
    out, fit = judged(rows, between(rows, y0, y1, near), *ending(rows, x0, x1, near))
    # Strokes that run on beyond the box say that the box is only a part of the plot.
    more, other = judged(columns, between(columns, x0, x1, near), *ending(columns, y0, y1, near))
    area = (x1 - x0)[:, None] * (y1 - y0)[None] / (wide * high)
    scores = 1.5 * (bottom + at_left) + 0.8 * (at_top + at_right) + fit.T + other - 6 * (out.T + more) + 1.2 * area
    found = [
        Frame(
            Box(float(x0[i]), float(y0[j]), float(x1[i]), float(y1[j])),
            sides=(float(at_left[i, j]), float(at_top[i, j]), float(at_right[i, j]), float(bottom[i, j])),
            score=float(scores[i, j]),
        )
        for i, j in np.argwhere((bottom >= 0.55) & (at_left >= 0.55))
    ]
    found.sort(key=lambda f: -f.score)
    kept: list[Frame] = []
    for frame in found:
        if all(max(abs(a - b) for a, b in zip(corners(frame), corners(k), strict=True)) > 2 * near for k in kept):
            kept.append(frame)
        if len(kept) >= most:
            break
    return [settled(f, rows, columns, near) for f in kept]


def near_of(high: int, wide: int) -> float:
    """How far apart, in pixels, what belongs together may lie in a picture of this size."""
    return max(3.0, 0.006 * max(high, wide))


def drawn(frame: Frame, ink: Grey, level: float) -> Frame:
    """A frame that was given, settled on the strokes of the picture."""
    high, wide = ink.shape
    length = int(0.16 * min(high, wide))
    rows, columns = (strokes(ink, level, length, upright=upright) for upright in (False, True))
    return settled(frame, rows, columns, near_of(high, wide))


def settled(frame: Frame, rows: list[Line], columns: list[Line], near: float) -> Frame:
    """Sides drawn to the strokes that they mean, and the strokes inside listed."""

    def snap(value: float, lines: list[Line], start: float, end: float) -> float:
        close = [
            q
            for q in lines
            if abs(q.at - value) <= near * 1.5 and min(q.end, end) - max(q.start, start) > 0.4 * (end - start)
        ]
        return min(close, key=lambda q: abs(q.at - value)).at if close else value

    b = frame.box
    box = Box(
        snap(b.x0, columns, b.y0, b.y1),
        snap(b.y0, rows, b.x0, b.x1),
        snap(b.x1, columns, b.y0, b.y1),
        snap(b.y1, rows, b.x0, b.x1),
    )

    def inner(lines: list[Line], lo: float, hi: float, start: float, end: float) -> tuple[Line, ...]:
        return tuple(
            q
            for q in lines
            if lo - near <= q.at <= hi + near and min(q.end, end) - max(q.start, start) > 0.4 * q.length
        )

    return Frame(
        box,
        inner(rows, box.y0, box.y1, box.x0, box.x1),
        inner(columns, box.x0, box.x1, box.y0, box.y1),
        frame.sides,
        frame.score,
    )


def regular(values: Floats) -> bool:
    """True when sorted values are evenly spaced within a fifth of their step."""
    steps = np.diff(np.sort(values))
    return len(steps) >= 2 and bool(steps.max() - steps.min() < 0.2 * steps.mean())
