"""Where the plot is: long straight strokes, and the rectangle that best explains where they start and end."""

import itertools

import cv2
import numpy as np

from adapters.curves.kit import connected
from adapters.curves.shapes import Box, Floats, Frame, Grey, Line, Mask


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
    count, labels, stats, _ = connected(opened > 0)
    found: list[Line] = []
    for i in range(1, count):
        x, y, w, h, area = (int(v) for v in stats[i])
        if w < length:
            continue
        part = labels[y : y + h, x : x + w] == i
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
            x0, x1, at, thick = x, x + w - 1, y + (h - 1) / 2, area / w
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


def side_cover(dark: Mask, at: float, start: float, end: float) -> float:
    """How much of a row of `dark` is inked between two columns, two pixels to either side allowed."""
    row, a, b = round(at), max(0, round(start)), round(end)
    if b - a < 4 or not -2 <= row < dark.shape[0] + 2:
        return 0.0
    band = dark[max(0, row - 2) : row + 3, a : b + 1]
    return float(band.any(axis=0).mean()) if band.size else 0.0


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


def boxes(dark: Mask, rows: list[Line], columns: list[Line], most: int) -> list[Frame]:
    high, wide = dark.shape
    near = max(3.0, 0.006 * max(high, wide))
    # Grid lines vote for the sides where they start and end; a vertical stroke votes for its own place.
    lefts = [(r.start, r.length) for r in rows] + [(c.at, c.length) for c in columns]
    rights = [(r.end, r.length) for r in rows] + [(c.at, c.length) for c in columns]
    tops = [(c.start, c.length) for c in columns] + [(r.at, r.length) for r in rows]
    bottoms = [(c.end, c.length) for c in columns] + [(r.at, r.length) for r in rows]
    left, right = clusters(lefts, near, 7), clusters(rights, near, 7)
    upper, lower = clusters(tops, near, 7), clusters(bottoms, near, 7)
    # The outermost strokes belong to the choice even where few strokes vote for them.
    for line in sorted(columns, key=lambda c: -c.length * c.cover)[:4]:
        left.append(line.at)
        right.append(line.at)
    for line in sorted(rows, key=lambda r: -r.length * r.cover)[:4]:
        upper.append(line.at)
        lower.append(line.at)
    starts, ends = np.array([r.start for r in rows]), np.array([r.end for r in rows])
    ats = np.array([r.at for r in rows])
    cstarts, cends = np.array([c.start for c in columns]), np.array([c.end for c in columns])
    cats = np.array([c.at for c in columns])
    lengths, clengths = ends - starts, cends - cstarts
    turned = np.ascontiguousarray(dark.T)
    found: list[Frame] = []
    covers: dict[tuple[str, float, float, float], float] = {}

    def cover(kind: str, at: float, start: float, end: float) -> float:
        key = (kind, round(at), round(start), round(end))
        if key not in covers:
            covers[key] = side_cover(dark if kind == "row" else turned, at, start, end)
        return covers[key]

    for x0, x1 in itertools.product(sorted(set(left)), sorted(set(right))):
        if x1 - x0 < 0.22 * wide:
            continue
        for y0, y1 in itertools.product(sorted(set(upper)), sorted(set(lower))):
            if y1 - y0 < 0.22 * high:
                continue
            bottom, at_left = cover("row", y1, x0, x1), cover("column", x0, y0, y1)
            if bottom < 0.55 or at_left < 0.55:
                continue
            at_top, at_right = cover("row", y0, x0, x1), cover("column", x1, y0, y1)
            inside = (
                (ats > y0 - near)
                & (ats < y1 + near)
                & (np.minimum(ends, x1) - np.maximum(starts, x0) > 0.3 * np.minimum(lengths, x1 - x0))
            )
            cinside = (
                (cats > x0 - near)
                & (cats < x1 + near)
                & (np.minimum(cends, y1) - np.maximum(cstarts, y0) > 0.3 * np.minimum(clengths, y1 - y0))
            )
            # Strokes that run on beyond the box say that the box is only a part of the plot.
            out = 0.0
            fit = 0.0
            if inside.any():
                beyond = np.maximum(x0 - starts[inside], 0) + np.maximum(ends[inside] - x1, 0)
                out += float(
                    (np.clip(beyond / (x1 - x0) - 0.03, 0, 0.5) * lengths[inside]).sum() / lengths[inside].sum()
                )
                fit += (
                    float(
                        ((np.abs(starts[inside] - x0) < near).astype(float) + (np.abs(ends[inside] - x1) < near)).mean()
                    )
                    / 2
                )
            if cinside.any():
                beyond = np.maximum(y0 - cstarts[cinside], 0) + np.maximum(cends[cinside] - y1, 0)
                out += float(
                    (np.clip(beyond / (y1 - y0) - 0.03, 0, 0.5) * clengths[cinside]).sum() / clengths[cinside].sum()
                )
                fit += (
                    float(
                        (
                            (np.abs(cstarts[cinside] - y0) < near).astype(float) + (np.abs(cends[cinside] - y1) < near)
                        ).mean()
                    )
                    / 2
                )
            area = (x1 - x0) * (y1 - y0) / (wide * high)
            score = 1.5 * (bottom + at_left) + 0.8 * (at_top + at_right) + fit - 6 * out + 1.2 * area
            box = Box(x0, y0, x1, y1)
            found.append(Frame(box, sides=(at_left, at_top, at_right, bottom), score=score))
    found.sort(key=lambda f: -f.score)
    kept: list[Frame] = []
    for frame in found:
        if all(max(abs(a - b) for a, b in zip(corners(frame), corners(k), strict=True)) > 2 * near for k in kept):
            kept.append(frame)
        if len(kept) >= most:
            break
    return [settled(f, rows, columns, near) for f in kept]


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
