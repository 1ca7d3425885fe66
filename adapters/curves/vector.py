"""Charts of a PDF's page from its strokes and its text: exact where the page has them.

    rules (straight strokes along the page) > frames > axes (`lettering`: tick labels from text, settled on tick marks) > curves
    (`pens`)

Pixels are those of the page at `pdf.DPI`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from adapters.curves.axes import axis_of
from adapters.curves.lettering import Text, factor_of, labels_of, letter_size, texts_of, words_of
from adapters.curves.pdf import Sheet, Stroke
from adapters.curves.pens import TOUCH, aligned, as_line, curves_in, near_white, pieces_in, same
from adapters.curves.shapes import Axis, Box, Floats, Frame, Line, Path, Word
from adapters.curves.sides import second_of, usual_colour
from adapters.curves.ticks import Label

SMALLEST = 90.0
"""A plot's sides are at least so long: 11 mm."""


@dataclass(frozen=True)
class Chart:
    """A plot of a page. `unexplained`: the part of the length drawn inside the frame that we do not know as anything."""

    frame: Frame
    x: Axis | None
    y: Axis | None
    second: Axis | None = None
    paths: tuple[Path, ...] = ()
    words: tuple[Word, ...] = ()
    unexplained: float = 0.0
    doubt: float = 0.0
    strokes: int = 0
    """How many pen strokes lie inside the frame beside grid and ticks: with none, the curves are no strokes."""


def rules(strokes: Iterable[Stroke]) -> tuple[list[Line], list[Line]]:
    """Straight horizontal and vertical strokes, joined where they continue each other."""
    rows: list[tuple[float, float, float, float]] = []
    columns: list[tuple[float, float, float, float]] = []
    for s in strokes:
        if near_white(s.colour):
            continue
        if s.filled or len(s.points) > 400 or not aligned(s.points):
            continue
        for (xa, ya), (xb, yb) in zip(s.points[:-1], s.points[1:], strict=True):
            if abs(xb - xa) > abs(yb - ya):
                rows.append(((ya + yb) / 2, min(xa, xb), max(xa, xb), s.width))
            elif abs(yb - ya) > 0:
                columns.append(((xa + xb) / 2, min(ya, yb), max(ya, yb), s.width))
    return _joined(rows), _joined(columns)


def _joined(lines: Sequence[tuple[float, float, float, float]]) -> list[Line]:
    out: list[Line] = []
    groups: list[list[tuple[float, float, float, float]]] = []
    for line in sorted(lines):
        if groups and line[0] - groups[-1][0][0] < 0.8:
            groups[-1].append(line)
        else:
            groups.append([line])
    for group in groups:
        at = float(np.median([q[0] for q in group]))
        run: list[float] | None = None
        for _, start, end, thick in sorted(group, key=lambda q: q[1]):
            # Dashes of a grid line are joined, too.
            if run is not None and start - run[1] < max(2.0, min(10.0, 1.5 * (end - start))):
                run[1], run[2] = max(run[1], end), max(run[2], thick)
            else:
                if run is not None:
                    out.append(Line(at, run[0], run[1], run[2]))
                run = [start, end, thick]
        if run is not None:
            out.append(Line(at, run[0], run[1], run[2]))
    return out


def frames_of(rows: Sequence[Line], columns: Sequence[Line]) -> list[Frame]:
    """Rectangles made of rules that touch each other: at least a left and a bottom side. The largest first."""
    long_rows = [r for r in rows if r.length >= SMALLEST]
    long_columns = [c for c in columns if c.length >= SMALLEST]
    group = list(range(len(long_rows) + len(long_columns)))

    def root(i: int) -> int:
        while group[i] != i:
            group[i] = group[group[i]]
            i = group[i]
        return i

    for i, r in enumerate(long_rows):
        for j, c in enumerate(long_columns, start=len(long_rows)):
            if r.start - TOUCH <= c.at <= r.end + TOUCH and c.start - TOUCH <= r.at <= c.end + TOUCH:
                group[root(i)] = root(j)
    members: dict[int, tuple[list[Line], list[Line]]] = {}
    for i, r in enumerate(long_rows):
        members.setdefault(root(i), ([], []))[0].append(r)
    for j, c in enumerate(long_columns, start=len(long_rows)):
        members.setdefault(root(j), ([], []))[1].append(c)
    out: list[Frame] = []
    for own_rows, own_columns in members.values():
        if own_rows and own_columns:
            out += _boxes(own_rows, own_columns)
    return sorted(out, key=lambda f: -f.box.width * f.box.height)


def _boxes(rows: Sequence[Line], columns: Sequence[Line]) -> list[Frame]:
    x0, x1 = min(c.at for c in columns), max(c.at for c in columns)
    y0, y1 = min(r.at for r in rows), max(r.at for r in rows)
    # With two sides only, the others are where these end.
    if x1 - x0 < SMALLEST:
        x1 = max(r.end for r in rows)
    if y1 - y0 < SMALLEST:
        y0 = min(c.start for c in columns)
    boxes = [Box(x0, y0, x1, y1)]
    # Charts that share rules with a table around them: each left side with a bottom of its own.
    for c in columns:
        for r in rows:
            if abs(r.start - c.at) < TOUCH and abs(c.end - r.at) < TOUCH:
                boxes.append(Box(c.at, c.start, r.end, r.at))
    out: list[Frame] = []
    for b in boxes:
        if b.width < SMALLEST or b.height < SMALLEST:
            continue
        if any(same(b, f.box) for f in out):
            continue
        out.append(
            Frame(
                b,
                tuple(r for r in rows if b.y0 - 1 <= r.at <= b.y1 + 1 and r.start < b.x1 and r.end > b.x0),
                tuple(c for c in columns if b.x0 - 1 <= c.at <= b.x1 + 1 and c.start < b.y1 and c.end > b.y0),
            )
        )
    return out[:40]


@dataclass(frozen=True)
class Sides:
    """Axes found around a frame."""

    x: Axis | None
    y: Axis | None
    second: Axis | None


def axes_around(
    frame: Frame,
    labels: Sequence[tuple[Label, Text]],
    rows: Sequence[Line],
    columns: Sequence[Line],
    others: Sequence[Box] = (),
    texts: Sequence[Text] = (),
) -> Sides:
    """The x axis below (else above), the y axis at the left (else at the right), and a second y axis at the right.

    `others`: frames beside this one, whose labels are not its own.
    """
    b = frame.box
    beside = [o for o in others if o.y0 < b.y1 and o.y1 > b.y0]
    stacked = [o for o in others if o.x0 < b.x1 and o.x1 > b.x0]
    labels = [
        (q, t)
        for q, t in labels
        if not any(q.box.x0 > b.x1 and q.box.x1 < o.x0 + 1 and o.x0 - q.box.x1 < q.box.x0 - b.x1 for o in beside)
        and not any(q.box.x1 < b.x0 and q.box.x0 > o.x1 - 1 and q.box.x0 - o.x1 < b.x0 - q.box.x1 for o in beside)
        and not any(q.box.y1 < b.y0 and q.box.y0 > o.y1 - 1 and q.box.y0 - o.y1 < b.y0 - q.box.y1 for o in stacked)
        and not any(_beside(q.box, o, 0) for o in others)
    ]
    x_marks = marks(columns, b.y0, b.y1, b.x0, b.x1)
    y_marks = marks(rows, b.x0, b.x1, b.y0, b.y1)
    x = y = second = None
    for below in (True, False):
        x = _best(_rows_beside(b, labels, below), x_marks, b.x0, b.x1, upright=False)
        if x is not None:
            break
    left = _best(_columns_beside(b, labels, left=True), y_marks, b.y1, b.y0, upright=True)
    right = _best(_columns_beside(b, labels, left=False), y_marks, b.y1, b.y0, upright=True)
    y, second = left or right, None if left is None else second_of(right, left)
    factors = [(found, t) for t in texts if (found := factor_of(t)) is not None]

    def scaled(axis: Axis | None, at_x: float, at_y: float) -> Axis | None:
        near = [f for f, t in factors if t.box.away(np.array([at_x, at_y])) < 3.2 * t.size]
        return axis if axis is None or not near else times(axis, near[0])

    return Sides(scaled(x, b.x1, b.y1 + 2 * letter_size(texts)), scaled(y, b.x0, b.y0), scaled(second, b.x1, b.y0))


def times(axis: Axis, factor: float) -> Axis:
    ticks = tuple(replace(t, value=t.value * factor) for t in axis.ticks)
    return replace(axis, v0=axis.v0 * factor, v1=axis.v1 * factor, ticks=ticks)


def marks(lines: Sequence[Line], side0: float, side1: float, low: float, high: float) -> Floats:
    """Places along an axis where a grid line or a tick mark crosses or touches one of the frame's sides."""
    places = [
        q.at
        for q in lines
        if low - 1.5 <= q.at <= high + 1.5
        and (
            any(q.start - TOUCH <= side <= q.end + TOUCH for side in (side0, side1))
            or min(q.end, side1) - max(q.start, side0) > 0.7 * (side1 - side0)
        )
    ]
    return np.unique(np.round(np.array(places, np.float64), 3))


def _rows_beside(b: Box, labels: Sequence[tuple[Label, Text]], below: bool) -> list[list[tuple[Label, Text]]]:
    """Lines of numbers under (or over) a frame, the nearest first."""
    near = [
        (q, t)
        for q, t in labels
        if b.x0 - 0.08 * b.width - t.size < q.box.cx < b.x1 + 0.08 * b.width + t.size
        and (-0.3 * t.size < q.box.cy - b.y1 < 4 * t.size if below else -0.3 * t.size < b.y0 - q.box.cy < 4 * t.size)
    ]
    out: list[list[tuple[Label, Text]]] = []
    for q, t in sorted(near, key=lambda one: abs(one[0].box.y1 - b.y1 if below else b.y0 - one[0].box.y1)):
        # A raised exponent makes its label's box higher; the letters' base line is what a row has in common.
        row = next((r for r in out if abs(r[0][0].box.y1 - q.box.y1) < 0.5 * t.size), None)
        if row is None:
            out.append([(q, t)])
        else:
            row.append((q, t))
    return out


def _columns_beside(b: Box, labels: Sequence[tuple[Label, Text]], *, left: bool) -> list[list[tuple[Label, Text]]]:
    """The column of numbers next to a frame: in each line the number nearest to it."""
    rows: list[tuple[float, float, Label, Text]] = []
    for q, t in labels:
        gap = b.x0 - q.box.x1 if left else q.box.x0 - b.x1
        if b.y0 - 1.2 * t.size < q.box.cy < b.y1 + 1.2 * t.size and -0.4 * t.size < gap < 4.5 * t.size:
            rows.append((q.box.cy, gap, q, t))
    out: list[tuple[Label, Text]] = []
    for cy, gap, q, t in rows:
        if not any(abs(cy - other[0]) < 0.4 * t.size and other[1] < gap for other in rows):
            out.append((q, t))
    return [out] if out else []


def _best(
    groups: Sequence[Sequence[tuple[Label, Text]]], places: Floats, p0: float, p1: float, *, upright: bool
) -> Axis | None:
    best: Axis | None = None
    for group in groups[:3]:
        labels = [q for q, _ in group]
        if len(labels) < 2:
            continue
        at = np.array([q.box.cy if upright else q.box.cx for q in labels])
        axis = axis_of(labels, at, places, p0, p1, upwards=upright, exact=True)
        if axis is not None:
            used = {tick.box for tick in axis.ticks}
            axis = replace(axis, colour=usual_colour([t.colour for q, t in group if q.box in used]))
        if axis is not None and (best is None or axis.confidence > best.confidence + 0.1):
            best = axis
    return best


def charts_of(sheet: Sheet) -> list[Chart]:
    """All plots of a page whose axes can be told from its text; in reading order."""
    strokes = [as_line(s) for s in sheet.strokes]
    rows, columns = rules(strokes)
    frames = frames_of(rows, columns)
    if not frames or not sheet.letters:
        return []
    texts = texts_of(sheet.letters)
    labels = labels_of(texts)
    taken: list[Chart] = []
    for frame in frames:
        if any(frame.box.overlap(c.frame.box) > 0.2 for c in taken):
            continue
        if sum(1 for q, t in labels if _beside(q.box, frame.box, 5 * t.size)) < 4:
            continue
        others = [f.box for f in frames if f.box.overlap(frame.box) < 0.2]
        sides = axes_around(frame, labels, rows, columns, others, texts)
        if sides.x is None or sides.y is None or min(sides.x.confidence, sides.y.confidence) < 0.45:
            continue
        taken.append(chart_in(frame, sides, strokes, texts, rows))
    return in_reading_order(taken, lambda c: c.frame.box)


def _beside(q: Box, b: Box, reach: float) -> bool:
    return b.x0 - reach < q.cx < b.x1 + reach and b.y0 - reach < q.cy < b.y1 + reach


def chart_in(
    frame: Frame,
    sides: Sides,
    strokes: Sequence[Stroke],
    texts: Sequence[Text],
    rows: Sequence[Line],
) -> Chart:
    """The curves inside a frame whose axes are known."""
    b = frame.box
    pieces = pieces_in(frame, strokes, marks(rows, b.x0, b.x1, b.y0, b.y1))
    near = [t for t in texts if _beside(t.box, b, 8 * t.size)]
    inside = [
        t for t in near if _beside(t.box, b, 1.5 * t.size) or (t.box.x0 < b.x1 + 0.35 * b.width and t.box.x0 > b.x1)
    ]
    ticks = {
        id(t)
        for t in near
        if any(_overlaps(t.box, tick.box) for a in (sides.x, sides.y, sides.second) if a for tick in a.ticks)
    }
    paths, unexplained, doubt, count = curves_in(frame, pieces, [t for t in inside if id(t) not in ticks])
    return Chart(frame, sides.x, sides.y, sides.second, tuple(paths), tuple(words_of(near)), unexplained, doubt, count)


def _overlaps(one: Box, other: Box) -> bool:
    return one.grown(0.5).overlap(other.grown(0.5)) > 0.5


def curves_with(sheet: Sheet, frame: Frame, sides: Sides) -> Chart:
    """The curves of a page inside a frame whose axes are known from elsewhere."""
    strokes = [as_line(s) for s in sheet.strokes]
    rows, _ = rules(strokes)
    return chart_in(frame, sides, strokes, texts_of(sheet.letters), rows)


def shy_frames(sheet: Sheet) -> list[Frame]:
    """Frames with a curve drawn inside, whatever their labels say: where text was drawn as strokes, or means other letters."""
    strokes = [as_line(s) for s in sheet.strokes]
    rows, columns = rules(strokes)
    out: list[Frame] = []
    for frame in frames_of(rows, columns):
        b = frame.box
        if any(b.overlap(o.box) > 0.2 for o in out) or b.width > 0.97 * sheet.width:
            continue
        for s in strokes:
            q = s.box
            inside = q.x0 > b.x0 - 2 and q.x1 < b.x1 + 2 and q.y0 > b.y0 - 2 and q.y1 < b.y1 + 2
            if inside and not s.filled and not s.closed and q.width > 0.25 * b.width and len(s.points) > 8:
                if not aligned(s.points) and not near_white(s.colour):
                    out.append(frame)
                    break
    return out[:12]


T = TypeVar("T")


def in_reading_order(things: Sequence[T], box_of: Callable[[T], Box]) -> list[T]:
    """Rows from the top, in a row from the left."""
    out: list[T] = []
    rest: list[T] = sorted(things, key=lambda c: box_of(c).y0)
    while rest:
        first = box_of(rest[0])
        row = [c for c in rest if box_of(c).y0 < first.y0 + 0.5 * first.height]
        out += sorted(row, key=lambda c: box_of(c).x0)
        rest = [c for c in rest if not any(c is r for r in row)]
    return out
