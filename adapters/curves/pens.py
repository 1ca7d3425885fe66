"""Strokes inside a frame become curves: without grid, ticks, legend and leader lines, chained end to end, named.

What is drawn but not understood is counted (`unexplained`), and costs confidence.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from adapters.curves.kit import untyped
from adapters.curves.lettering import Text, letter_size, words_of
from adapters.curves.names import by_place, may_name, tidy
from adapters.curves.pdf import Stroke
from adapters.curves.shapes import Box, Floats, Frame, Path, Word
from adapters.curves.sides import chromatic

ALIGNED = 0.35
TOUCH = 3.0
MOST_CONTINUED = 60
"""Of more curves none is looked for that goes on in another: each would be held against each, and it is no chart of some curves."""


def near_white(colour: tuple[int, int, int]) -> bool:
    return min(colour) > 246


def aligned(points: Floats) -> bool:
    """All of its steps go along the page's sides."""
    steps = np.abs(np.diff(points, axis=0))
    return bool((steps.min(axis=1) < ALIGNED).all())


def as_line(s: Stroke) -> Stroke:
    """Some programs draw a straight line as a thin area with four corners: its middle line, else the same."""
    if not s.filled or not 4 <= len(s.points) <= 6:
        return s
    corners = without_doubles(s.points)
    corners = corners[:-1] if float(np.hypot(*(corners[-1] - corners[0]))) < 1e-6 else corners
    if len(corners) != 4:
        return s
    sides = np.hypot(*(np.roll(corners, -1, axis=0) - corners).T)
    first = 0 if sides[0] + sides[2] < sides[1] + sides[3] else 1
    thick, long = float(max(sides[first], sides[first + 2 - 4])), float(min(sides[1 - first], sides[3 - first]))
    if thick > 9 or long < 3 * thick:
        return s
    middle = [(corners[k] + corners[(k + 1) % 4]) / 2 for k in (first, first + 2)]
    return Stroke(np.array(middle), s.colour, thick)


def same(one: Box, other: Box) -> bool:
    return max(abs(one.x0 - other.x0), abs(one.y0 - other.y0), abs(one.x1 - other.x1), abs(one.y1 - other.y1)) < 4


@dataclass(frozen=True)
class Style:
    """What tells the pen of one curve from that of another."""

    colour: tuple[int, int, int]
    width: float
    dashes: tuple[float, ...]


@dataclass
class Piece:
    points: Floats
    style: Style
    closed: bool = False
    doubt: float = 0.0
    gaps: float = 0.0
    used: bool = False
    tags: set[str] = field(default_factory=set[str])

    @property
    def length(self) -> float:
        return float(np.hypot(*np.diff(self.points, axis=0).T).sum())

    @property
    def box(self) -> Box:
        (x0, y0), (x1, y1) = self.points.min(axis=0), self.points.max(axis=0)
        return Box(float(x0), float(y0), float(x1), float(y1))

    @property
    def straight(self) -> bool:
        a, z = self.points[0], self.points[-1]
        d = z - a
        n = float(np.hypot(*d))
        if n < 1e-6:
            return False
        away = np.abs((self.points - a) @ np.array([-d[1], d[0]])) / n
        return float(away.max()) < 0.6


def style_of(s: Stroke) -> Style:
    return Style(s.colour, round(s.width, 1), tuple(round(v, 1) for v in s.dashes))


def clipped(points: Floats, b: Box) -> list[Floats]:
    """The parts of a line inside a box, cut at its sides."""
    inside = (points[:, 0] >= b.x0) & (points[:, 0] <= b.x1) & (points[:, 1] >= b.y0) & (points[:, 1] <= b.y1)
    if inside.all():
        return [points]
    out: list[Floats] = []
    run: list[Floats] = []
    for a, z in itertools.pairwise(points):
        cut = _cut(a, z, b)
        if cut is None:
            if len(run) > 1:
                out.append(np.array(run))
            run = []
            continue
        p, q = cut
        if not run or float(np.abs(run[-1] - p).max()) > 1e-9:
            if len(run) > 1:
                out.append(np.array(run))
            run = [p]
        run.append(q)
    if len(run) > 1:
        out.append(np.array(run))
    return out


def _cut(a: Floats, z: Floats, b: Box) -> tuple[Floats, Floats] | None:
    """The part of one step inside a box (Liang and Barsky)."""
    d = z - a
    low, high = 0.0, 1.0
    for p, q in ((-d[0], a[0] - b.x0), (d[0], b.x1 - a[0]), (-d[1], a[1] - b.y0), (d[1], b.y1 - a[1])):
        if p == 0:
            if q < 0:
                return None
        elif p < 0:
            low = max(low, q / p)
        else:
            high = min(high, q / p)
    if low > high:
        return None
    return a + low * d, a + high * d


def pieces_in(frame: Frame, strokes: Sequence[Stroke], y_marks: Floats) -> list[Piece]:
    """What was drawn inside the frame, without the frame itself, its grid and its ticks, and without small areas."""
    b = frame.box
    grown = b.grown(0.75)
    flat: list[Piece] = []
    curved: list[Piece] = []
    areas: list[Piece] = []
    ruled: list[Piece] = []
    for s in strokes:
        q = s.box
        if q.x1 < b.x0 - 1 or q.x0 > b.x1 + 1 or q.y1 < b.y0 - 1 or q.y0 > b.y1 + 1 or near_white(s.colour):
            continue
        if s.filled:
            if max(q.width, q.height) < 0.9 * max(b.width, b.height):
                areas.append(Piece(s.points, style_of(s), True, tags={"area"}))
            continue
        straight = aligned(s.points)
        for part in clipped(s.points, grown):
            one = Piece(part, style_of(s), s.closed and len(part) == len(s.points))
            if not straight:
                curved.append(one)
                continue
            kind = _ruled(one.box, b, y_marks)
            if kind == "grid":
                ruled.append(one)
            elif kind == "":
                flat.append(one)
    # A grid is drawn with one pen or two; a coloured line that lies on it and whose pen draws no other of its lines is a flat curve.
    times = Counter(p.style for p in ruled)
    lone = [p for p in ruled if times[p.style] == 1 and chromatic(p.style.colour) and p.box.height < ALIGNED]
    lone = lone if len(ruled) >= len(lone) + 2 else []
    grid_styles = {p.style for p in ruled if not any(p is q for q in lone)}
    flat += lone
    # An elbow with the grid's pen is a pointer, where another pen draws the curves.
    pointers = [p for p in curved if p.style in grid_styles and len(p.points) <= 3]
    if any(p.style not in grid_styles and len(p.points) > 3 for p in curved):
        curved = [p for p in curved if not any(p is q for q in pointers)]
    pens = {p.style for p in curved}
    kept: list[Piece] = []
    for one in flat:
        long = one.box.width > 0.3 * b.width and one.box.height < ALIGNED
        alone = one.style not in pens and one.style not in grid_styles and long and not one.closed
        if (one.style in pens and not one.closed) or alone:
            kept.append(one)
    return curved + kept + areas


def _ruled(q: Box, b: Box, y_marks: Floats) -> str:
    """`grid` for a line over the whole plot, `side` for the frame itself, `tick` for a short mark at it; else nothing."""
    if q.height < ALIGNED:
        if min(abs(q.cy - b.y0), abs(q.cy - b.y1)) < 1.5:
            return "side"
        at_mark = bool(len(y_marks)) and float(np.abs(y_marks - q.cy).min()) < 1.0
        if q.width > 0.93 * b.width and at_mark:
            return "grid"
        if q.width < 0.05 * b.width and min(abs(q.x0 - b.x0), abs(q.x1 - b.x1)) < TOUCH:
            return "tick"
    elif q.width < ALIGNED:
        if min(abs(q.cx - b.x0), abs(q.cx - b.x1)) < 1.5:
            return "side"
        if q.height > 0.93 * b.height:
            return "grid"
        if q.height < 0.05 * b.height and min(abs(q.y0 - b.y0), abs(q.y1 - b.y1)) < TOUCH:
            return "tick"
    elif same(q, b):
        return "side"
    return ""


def _direction(points: Floats, at_end: bool, reach: float = 6.0) -> Floats:
    """The direction in which a line leaves through one of its ends."""
    p = points if at_end else points[::-1]
    away = np.hypot(*(p - p[-1]).T)
    far = np.nonzero(away > reach)[0]
    d = p[-1] - (p[far[-1]] if len(far) else p[0])
    n = float(np.hypot(*d))
    return np.asarray(d / n, np.float64) if n > 0 else np.zeros(2)


def chained(
    pieces: Sequence[Piece], gap: float, sharpest_deg: float, pen: Callable[[Piece], Hashable] = lambda p: p.style
) -> list[Piece]:
    """Pieces of one pen joined end to end, the straightest and nearest first, each end at most once."""
    ends: list[tuple[int, bool]] = [(i, last) for i in range(len(pieces)) for last in (False, True)]
    at = np.array([pieces[i].points[-1 if last else 0] for i, last in ends])
    out_of = np.array([_direction(pieces[i].points, last) for i, last in ends])
    if len(ends) < 3:
        return list(pieces)
    tree = untyped("scipy.spatial").cKDTree(at)
    offers: list[tuple[float, int, int, float]] = []
    rivals: dict[int, list[float]] = {}
    near: list[tuple[int, int]] = sorted(tree.query_pairs(gap))
    for a, b in near:
        if ends[a][0] == ends[b][0] or pen(pieces[ends[a][0]]) != pen(pieces[ends[b][0]]):
            continue
        step = at[b] - at[a]
        far = float(np.hypot(*step))
        turn = _angle(out_of[a], -out_of[b])
        if far > 1.6:
            turn = max(turn, _angle(out_of[a], step), _angle(-out_of[b], step))
        if turn > sharpest_deg:
            continue
        cost = turn / 10 + far
        offers.append((cost, a, b, far))
        for e in (a, b):
            rivals.setdefault(e, []).append(cost)
    mate: dict[int, int] = {}
    doubt: dict[int, float] = {}
    wide: dict[int, float] = {}
    for cost, a, b, far in sorted(offers):
        if a in mate or b in mate:
            continue
        mate[a], mate[b] = b, a
        others = [c for e in (a, b) for c in rivals[e] if c > cost + 1e-9]
        doubt[a] = doubt[b] = max(0.0, 1 - (min(others) - cost) / 2) if others else 0.0
        wide[a] = wide[b] = far
    return _walked(pieces, ends, mate, doubt, wide)


def _angle(one: Floats, other: Floats) -> float:
    n = float(np.hypot(*one) * np.hypot(*other))
    return 0.0 if n == 0 else math.degrees(math.acos(max(-1.0, min(1.0, float(one @ other) / n))))


def _walked(
    pieces: Sequence[Piece],
    ends: Sequence[tuple[int, bool]],
    mate: dict[int, int],
    doubt: dict[int, float],
    wide: dict[int, float],
) -> list[Piece]:
    seen: set[int] = set()
    out: list[Piece] = []
    starts = [e for e in range(len(ends)) if e not in mate] + list(range(len(ends)))
    for start in starts:
        i, last = ends[start]
        if i in seen:
            continue
        parts: list[Floats] = []
        worst = gaps = 0.0
        # Enter through `start`, leave through the other end.
        here = start
        while True:
            i, last = ends[here]
            if i in seen:
                break
            seen.add(i)
            parts.append(pieces[i].points[::-1] if last else pieces[i].points)
            leave = 2 * i + (0 if last else 1)
            worst, gaps = max(worst, pieces[i].doubt), gaps + pieces[i].gaps
            if leave not in mate:
                break
            worst, gaps = max(worst, doubt[leave]), gaps + wide[leave]
            here = mate[leave]
        closed = len(parts) == 1 and pieces[i].closed
        out.append(Piece(np.concatenate(parts), pieces[i].style, closed, worst, gaps))
    return out


def without_doubles(points: Floats) -> Floats:
    keep = np.r_[True, np.hypot(*np.diff(points, axis=0).T) > 1e-6]
    return points[keep]


@dataclass(frozen=True)
class Entry:
    """A line of a legend: its text and the pen of its sample."""

    word: Word
    style: Style


def legend_in(pieces: Sequence[Piece], texts: Sequence[Text], b: Box) -> list[Entry]:
    """Entries of a legend: a short level stroke with text at its right. The strokes are tagged `legend`."""
    entries: list[Entry] = []
    for t in texts:
        if t.upright or (not may_name(tidy(t.text)) and not t.text.strip()):
            continue
        for p in pieces:
            q = p.box
            level = q.height < 0.25 * t.size and "area" not in p.tags
            if not level or not 0.6 * t.size < q.width < 7 * t.size or q.width > 0.3 * b.width:
                continue
            if abs(q.cy - t.box.cy) < 0.55 * t.size and -0.2 * t.size < t.box.x0 - q.x1 < 2.2 * t.size:
                name = t.text if t.raised is None else f"{t.text}^{t.raised}"
                p.tags.add("legend")
                entries.append(Entry(Word(name, t.box, 1.0), p.style))
    # One stroke beside one text may be a curve's own end; a legend has its entries under or beside each other.
    if len(entries) == 1 and sum(1 for p in pieces if p.style == entries[0].style and "legend" not in p.tags) == 0:
        for p in pieces:
            p.tags.discard("legend")
        return []
    return entries


def curves_in(frame: Frame, pieces: Sequence[Piece], texts: Sequence[Text]) -> tuple[list[Path], float, float, int]:
    """Paths, the part of the drawn length that is not understood, doubt at junctions, and how many strokes there were."""
    b = frame.box
    size = letter_size(texts)
    entries = legend_in(pieces, texts, b)
    lines = [p for p in pieces if "area" not in p.tags and "legend" not in p.tags]
    small = 0.035 * min(b.width, b.height) + 4
    stamps = [p for p in lines if p.closed and max(p.box.width, p.box.height) < 2.2 * small]
    areas = [p for p in pieces if "area" in p.tags and max(p.box.width, p.box.height) < 2.2 * small]
    pens = [p for p in lines if not any(p is s for s in stamps)]
    chains = chained(pens, 0.9, 75)
    chains = dashes_joined(chains, b)
    known = unknown = 0.0
    strokes = [c for c in chains if c.length > 0]
    curves: list[Piece] = []
    for c in strokes:
        kind = _kind(c, b, texts, size, areas)
        if kind == "curve":
            curves.append(c)
        elif kind == "unknown":
            unknown += c.length
        known += c.length
    # Beside curves that cross the plot a short one is a piece of something else: a drawing, a leader line.
    longest = max((_extent(c) for c in curves), default=0.0)
    unknown += sum(c.length for c in curves if _extent(c) < 0.25 * longest)
    curves = [replace(c, points=without_doubles(c.points)) for c in curves if _extent(c) >= 0.25 * longest]
    curves = _singles(curves)
    # A curve may go on with a pen of another width.
    curves = _continued(chained(curves, 1.5, 60, _ink), b)
    marked = _marker_curves(stamps + areas, curves, entries)
    curves += marked
    total = known + 1e-9
    big = [p for p in pieces if "area" in p.tags and max(p.box.width, p.box.height) >= 2.2 * small]
    odd = sum(0.5 * p.length for p in big if not _plain(p, texts))
    paths = _named(curves, entries, texts, frame)
    doubt = max((c.doubt for c in curves), default=0.0)
    return paths, min(1.0, (unknown + odd) / (total + odd)), doubt, len(strokes)


def _plain(p: Piece, texts: Sequence[Text]) -> bool:
    """An area that is a rectangle: paper under text, a legend's box, a shaded plot."""
    return aligned(p.points)


def _extent(c: Piece) -> float:
    return math.hypot(c.box.width, c.box.height)


def _kind(c: Piece, b: Box, texts: Sequence[Text], size: float, areas: Sequence[Piece]) -> str:
    """`curve`; `other` for a leader line, an arrow, a letter; `unknown` for what might be a curve."""
    q = c.box
    diagonal = math.hypot(b.width, b.height)
    extent = _extent(c)
    if extent < 0.05 * diagonal:
        return "other" if extent < 1.5 * size else "unknown"
    if c.closed and (aligned(c.points) or _area(c.points) > 0.9 * q.width * q.height):
        return "other"
    if c.straight:
        # No quantity has all values at one x: an upright line over the whole plot is ruled, though not quite upright.
        if q.height > 0.93 * b.height and q.width < 0.01 * q.height:
            return "other"
        tips = (c.points[0], c.points[-1])
        if extent < 0.4 * diagonal:
            near_text = any(t.box.away(tip) < 0.9 * size for tip in tips for t in texts)
            arrow = any(a.box.away(tip) < 3 and a.box.width < 1.5 * size for tip in tips for a in areas)
            if near_text or arrow:
                return "other"
        if extent < 0.12 * diagonal:
            return "unknown"
    return "curve"


def _area(points: Floats) -> float:
    x, y = points[:, 0], points[:, 1]
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def dashes_joined(chains: Sequence[Piece], b: Box) -> list[Piece]:
    """Dashes that were drawn one by one become lines again."""
    out: list[Piece] = []
    by_style: dict[Style, list[Piece]] = {}
    for c in chains:
        by_style.setdefault(c.style, []).append(c)
    limit = 0.08 * max(b.width, b.height)
    for group in by_style.values():
        dashes = [c for c in group if c.length < limit and not c.closed]
        if len(dashes) < 6:
            out += group
            continue
        usual = float(np.median([c.length for c in dashes]))
        reach = min(0.05 * max(b.width, b.height), 2.5 * usual + 6)
        out += [c for c in group if not any(c is d for d in dashes)]
        out += chained(dashes, reach, 35)
    return out


def _ink(c: Piece) -> Hashable:
    return c.style.colour, c.style.dashes


def _continued(curves: Sequence[Piece], b: Box) -> list[Piece]:
    """Curves of which one begins where the other ends, at a peak or drawn over each other for a little, become one."""
    out = list(curves)
    joined = len(out) <= MOST_CONTINUED
    while joined:
        joined = False
        for one, other in itertools.permutations(out, 2):
            whole = _whole(one, other, out, b)
            if whole is not None:
                out = [c for c in out if c is not one and c is not other] + [whole]
                joined = True
                break
    return out


def _whole(one: Piece, other: Piece, curves: Sequence[Piece], b: Box) -> Piece | None:
    """One curve and then the other, where the other goes on."""
    left = one.points if one.points[0, 0] <= one.points[-1, 0] else one.points[::-1]
    right = other.points if other.points[0, 0] <= other.points[-1, 0] else other.points[::-1]
    near = max(1.5, (one.style.width + other.style.width) / 2)
    if _ink(one) != _ink(other) or abs(float(left[:, 0].max() - right[:, 0].min())) > 0.05 * b.width:
        return None
    if (
        _away(left[-1], right) >= near
        or _away(right[0], left) >= near
        or _one_of_more(left[-1], near, one, other, curves)
    ):
        return None
    rest = right[right[:, 0] > left[-1, 0]]
    doubt, gaps = max(one.doubt, other.doubt), one.gaps + other.gaps
    return Piece(np.concatenate([left, rest]), one.style, doubt=doubt, gaps=gaps)


def _away(point: Floats, line: Floats) -> float:
    return float(np.hypot(*(dense(line) - point).T).min())


def _one_of_more(at: Floats, near: float, one: Piece, other: Piece, curves: Sequence[Piece]) -> bool:
    """Whether a third curve of the pen passes there too: then nobody knows which of them goes on."""
    others = (c for c in curves if c is not one and c is not other and _ink(c) == _ink(one))
    return any(_away(at, c.points) < 2 * near for c in others)


def _singles(curves: Sequence[Piece]) -> list[Piece]:
    """What was drawn twice over itself counts once."""
    out: list[Piece] = []
    for c in sorted(curves, key=lambda q: -q.length):
        if not any(_covers(o, c) for o in out):
            out.append(c)
    # In the order in which they were drawn.
    return [c for c in curves if any(c is o for o in out)]


def _covers(longer: Piece, other: Piece) -> bool:
    if longer.style.colour != other.style.colour and longer.style.width >= other.style.width:
        return False
    spatial = untyped("scipy.spatial")
    far, _ = spatial.cKDTree(dense(longer.points)).query(dense(other.points))
    # Within their pens' width the eye sees one line.
    return bool(np.percentile(far, 97) < max(0.6, (longer.style.width + other.style.width) / 2))


def dense(points: Floats, step: float = 1.0) -> Floats:
    """The same line with a point at each `step` of its length."""
    s = np.r_[0.0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    if s[-1] == 0:
        return points
    at: Floats = np.linspace(0.0, float(s[-1]), max(2, int(s[-1] / step) + 1))
    return np.c_[np.interp(at, s, points[:, 0]), np.interp(at, s, points[:, 1])]


def _marker_curves(stamps: Sequence[Piece], curves: Sequence[Piece], entries: Sequence[Entry]) -> list[Piece]:
    """Markers without a line through them are a curve of their own: at least five alike of one colour."""
    groups: dict[tuple[tuple[int, int, int], int, int], list[Piece]] = {}
    for p in stamps:
        q = p.box
        key = (p.style.colour, round(q.width), round(q.height))
        groups.setdefault(key, []).append(p)
    out: list[Piece] = []
    colours = {c.style.colour for c in curves}
    for (colour, wide, high), group in groups.items():
        centres = np.array([(p.box.cx, p.box.cy) for p in group])
        if len(centres) < 5 or colour in colours or max(wide, high) < 3 or min(wide, high) < 2:
            continue
        if len({e.word.text for e in entries}) == 0 and len(group) < 8:
            continue
        order = np.argsort(centres[:, 0], kind="stable")
        out.append(Piece(centres[order], group[0].style, tags={"markers"}))
    return out


def _named(curves: Sequence[Piece], entries: Sequence[Entry], texts: Sequence[Text], frame: Frame) -> list[Path]:
    paths = [
        Path(
            c.points,
            c.style.colour,
            max(1.0, c.style.width),
            gaps=min(1.0, c.gaps / max(c.length, 1.0)),
            doubt=c.doubt,
            dashed=bool(c.style.dashes),
            details={
                "markers": "markers" in c.tags,
                "chromatic": max(c.style.colour) - min(c.style.colour) > 40,
                "fresh": c.length,
            },
        )
        for c in curves
    ]
    if not entries:
        return [replace(p, name=p.name or None) for p in by_place(paths, words_of(texts), frame)]
    names: list[str | None] = []
    for c in curves:
        fits = [e for e in entries if _pen(e.style, c.style)]
        texts_that_fit = {tidy(e.word.text) for e in fits}
        names.append((texts_that_fit.pop() or None) if len(texts_that_fit) == 1 else None)
    out: list[Path] = []
    for path, name in zip(paths, names, strict=True):
        same = next((i for i, o in enumerate(out) if name and o.name == name), None)
        if same is not None and _one_after_the_other(out[same].points, path.points):
            # One curve with a hole in it: points that were not measured.
            first, second = sorted((out[same].points, path.points), key=lambda p: float(p[:, 0].min()))
            out[same] = replace(out[same], points=np.concatenate([first, second]))
            continue
        out.append(replace(path, name=None if same is not None else name))
    return out


def _pen(one: Style, other: Style) -> bool:
    """The same pen, but for the width, which legends change."""
    if max(abs(a - b) for a, b in zip(one.colour, other.colour, strict=True)) > 6:
        return False
    if bool(one.dashes) != bool(other.dashes) or (one.dashes and len(one.dashes) != len(other.dashes)):
        return False
    return all(abs(a - b) < 0.15 * max(a, b, 1) for a, b in zip(one.dashes, other.dashes, strict=True))


def _one_after_the_other(one: Floats, other: Floats) -> bool:
    return float(one[:, 0].max()) <= float(other[:, 0].min()) or float(other[:, 0].max()) <= float(one[:, 0].min())
