"""Tick labels: which pieces of ink beside the frame are numbers, and what they say."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adapters.curves.shapes import Box, Frame, Grey, Rgb
from adapters.curves.words import Reader, blobs, crop

SI = {
    "f": 1e-15,
    "p": 1e-12,
    "n": 1e-9,
    "u": 1e-6,
    "µ": 1e-6,
    "μ": 1e-6,
    "m": 1e-3,
    "k": 1e3,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
}


@dataclass(frozen=True)
class Label:
    """One piece of text beside an axis, with what it may mean: (value, weight), the likeliest first."""

    text: str
    meanings: tuple[tuple[float, float], ...]
    box: Box
    score: float


@dataclass(frozen=True)
class Group:
    """Letters that stand together; `raised` are those of an exponent."""

    base: Box
    raised: Box | None

    @property
    def box(self) -> Box:
        b, r = self.base, self.raised
        return b if r is None else Box(min(b.x0, r.x0), min(b.y0, r.y0), max(b.x1, r.x1), max(b.y1, r.y1))


def hull(boxes: Sequence[Box]) -> Box:
    return Box(min(b.x0 for b in boxes), min(b.y0 for b in boxes), max(b.x1 for b in boxes), max(b.y1 for b in boxes))


def letter_height(boxes: Sequence[Box], wide: int) -> float:
    """The usual height of digits among pieces of ink, or 0."""
    heights = np.array(
        [b.height + 1 for b in boxes if 6 <= b.height + 1 <= 0.12 * wide and b.width < 2.2 * (b.height + 1)]
    )
    return float(np.median(heights)) if len(heights) >= 2 else 0.0


def middle(row: Sequence[Box]) -> float:
    return sum(b.cy for b in row) / len(row)


def rows_of(boxes: Sequence[Box], letter: float) -> list[list[Box]]:
    """Pieces of ink sorted into lines of text: full letters make the lines, dots and dashes join the nearest."""
    full = sorted((b for b in boxes if b.height + 1 > 0.6 * letter), key=lambda b: b.cy)
    rows: list[list[Box]] = []
    for b in full:
        for row in rows:
            if abs(b.cy - middle(row)) < 0.55 * letter:
                row.append(b)
                break
        else:
            rows.append([b])
    for b in boxes:
        if b.height + 1 > 0.6 * letter:
            continue
        best = min(rows, key=lambda row: abs(b.cy - middle(row)), default=None)
        if best is not None and abs(b.cy - middle(best)) < 0.8 * letter:
            best.append(b)
    return overlapping_joined(rows)


def overlapping_joined(rows: list[list[Box]]) -> list[list[Box]]:
    """Raised exponents make a row of their own at first; it overlaps the row that they belong to."""
    out: list[list[Box]] = []
    for row in sorted(rows, key=lambda r: min(q.y0 for q in r)):
        top, bottom = min(q.y0 for q in row), max(q.y1 for q in row)
        if out:
            last_top, last_bottom = min(q.y0 for q in out[-1]), max(q.y1 for q in out[-1])
            shared = min(bottom, last_bottom) - max(top, last_top)
            if shared > 0.15 * min(bottom - top, last_bottom - last_top) and max(bottom, last_bottom) - min(
                top, last_top
            ) < 2.6 * max(q.height + 1 for q in row + out[-1]):
                out[-1] += row
                continue
        out.append(list(row))
    return out


def groups_of(row: Sequence[Box], letter: float, gap: float) -> list[Group]:
    """A line of text cut where letters stand further apart than `gap` letters."""
    out: list[list[Box]] = []
    for b in sorted(row, key=lambda q: q.x0):
        reach = max((q.x1 for q in out[-1]), default=-1e9) if out else -1e9
        if out and b.x0 - reach <= gap * letter:
            out[-1].append(b)
        else:
            out.append([b])
    return [split_exponent(g, letter) for g in out]


def split_exponent(letters: Sequence[Box], letter: float) -> Group:
    """Raised small digits after full ones are an exponent; OCR would read 10 with a raised 2 as 102."""
    tall = [b for b in letters if b.height + 1 > 0.6 * letter]
    if len(tall) < 2:
        return Group(hull(letters), None)
    first = min(tall, key=lambda b: b.x0)
    base_line, size = first.y1, first.height + 1
    raised = [b for b in letters if b.x0 > first.x1 and b.y1 < base_line - 0.28 * size and b.y0 < first.y0 + 0.5 * size]
    digits = [b for b in raised if b.height + 1 > 0.4 * size]
    if not digits or not all(b.height + 1 < 0.95 * size for b in digits):
        return Group(hull(letters), None)
    start = min(b.x0 for b in raised)
    base = [b for b in letters if b.x1 < start]
    exponent = [b for b in letters if b.x1 >= start]
    # All that follows must be raised, or it was a dot over an i, a quote, a degree sign.
    if not base or any(b.y1 > base_line - 0.15 * size for b in exponent):
        return Group(hull(letters), None)
    return Group(hull(base), hull(exponent))


NUMBER = re.compile(r"^([+-]?)(\d+(?:\.\d*)?|\.\d+)(?:[eE]([+-]?\d+))?$")


def meanings(text: str, exponent: str | None) -> tuple[tuple[float, float], ...]:
    """What a label may mean as a number, with weights 0-1. Empty when it is no number."""
    if exponent is not None:
        power = clean(exponent).replace(".", "").replace(",", "")
        base = clean(text)
        if not re.fullmatch(r"[+-]?\d{1,2}", power):
            return ()
        many = re.fullmatch(r"(?:(\d+(?:\.\d+)?)[x*·×])?10", base)
        if many:
            return ((float(many[1] or 1) * 10.0 ** int(power), 1.0),)
        if base in ("1O", "IO", "lO", "0", "1", "19", "16", "18"):
            return ((10.0 ** int(power), 0.7),)
        return ()
    raw = clean(text)
    if not raw:
        return ()
    factor, weight = 1.0, 1.0
    raw = raw.rstrip("%°")
    if len(raw) > 1 and raw[-1] in SI and raw[-2].isdigit():
        factor, raw, weight = SI[raw[-1]], raw[:-1], 0.9
    out: list[tuple[float, float]] = []
    if "," in raw:
        if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?", raw):
            out.append((float(raw.replace(",", "")) * factor, weight))
        if raw.count(",") == 1 and "." not in raw:
            value = number(raw.replace(",", "."))
            if value is not None:
                out.append((value * factor, 0.8 * weight))
    elif re.fullmatch(r"[+-]?\d{1,3}(\.\d{3}){2,}", raw):
        out.append((float(raw.replace(".", "")) * factor, weight))
    else:
        value = number(raw)
        if value is not None:
            out.append((value * factor, weight))
            if factor == 1.0 and "." not in raw and raw.lstrip("+-").startswith("0") and len(raw.lstrip("+-")) > 1:
                # A lost decimal point: "05" is 0.5.
                digits = raw.lstrip("+-")
                out.insert(0, (value / 10 ** (len(digits) - 1), 0.6))
        many = re.fullmatch(r"10([+-]\d{1,2})", raw)
        if many:
            out = [(10.0 ** int(many[1]), 0.8)]
        elif re.fullmatch(r"10\d", raw):
            # An exponent that hangs low; only a fit can tell 102 from ten squared.
            out.append((10.0 ** int(raw[2]), 0.35))
    return tuple(out)


LOOKALIKES = str.maketrans(
    {
        "O": "0",
        "o": "0",
        "l": "1",
        "I": "1",
        "|": "1",
        "–": "-",
        "—": "-",
        "−": "-",
        "‐": "-",
        "~": "-",
        "，": ",",
        "。": ".",
        "一": "-",
        "Q": "0",
        "S": "5",
        "Z": "2",
        "B": "8",
        "·": ".",
        "：": ":",
        "'": "",
        "`": "",
        "_": "",
        " ": "",
        "D": "0",
        "〇": "0",
        "É": "E",
        "×": "x",
        "㎡": "",
        "i": "1",
        "!": "1",
        "¹": "1",
        "²": "2",
        "³": "3",
    }
)


def clean(text: str) -> str:
    out = text.translate(LOOKALIKES)
    out = re.sub(r"^[.,:;\"]+(?=\d{2})|[.,:;\"-]+$", "", out)
    return out.replace("--", "-").replace("..", ".")


def number(raw: str) -> float | None:
    if not NUMBER.match(raw):
        return None
    value = float(raw)
    return value if abs(value) < 1e30 else None


def read_groups(rgb: Rgb, groups: Sequence[Group], read: Reader) -> list[Label]:
    crops: list[Rgb] = []
    for g in groups:
        margin = max(2.0, 0.18 * (g.base.height + 1))
        crops.append(crop(rgb, g.base, margin))
        if g.raised is not None:
            crops.append(crop(rgb, g.raised, max(1.5, 0.12 * (g.raised.height + 1))))
    texts = iter(read(crops))
    labels: list[Label] = []
    for g in groups:
        text, score = next(texts)
        exponent: str | None = None
        if g.raised is not None:
            exponent, second = next(texts)
            score = min(score, second)
        found = meanings(text, exponent)
        shown = text if exponent is None else f"{text}^{exponent}"
        labels.append(Label(shown, found, g.box, score))
    return labels


def beside(ink: Grey, level: float, frame: Frame, side: str) -> list[Box]:
    """Pieces of ink on one side of the frame that are no part of it. `side` is bottom, top, left or right."""
    h, w = ink.shape
    b = frame.box
    reach_x, reach_y = 0.1 * b.width + 20, 0.1 * b.height + 20
    deep = 0.3 * max(b.width, b.height)
    area = {
        "bottom": Box(b.x0 - reach_x, b.y1 + 2, b.x1 + reach_x, b.y1 + deep),
        "top": Box(b.x0 - reach_x, b.y0 - deep, b.x1 + reach_x, b.y0 - 2),
        "left": Box(b.x0 - deep, b.y0 - reach_y, b.x0 - 2, b.y1 + reach_y),
        "right": Box(b.x1 + 2, b.y0 - reach_y, b.x1 + deep, b.y1 + reach_y),
    }[side]
    x0, y0 = max(0, int(area.x0)), max(0, int(area.y0))
    x1, y1 = min(w, int(area.x1) + 1), min(h, int(area.y1) + 1)
    if x1 - x0 < 4 or y1 - y0 < 4:
        return []
    out: list[Box] = []
    for box, area_px in blobs(ink[y0:y1, x0:x1], level):
        if area_px < 3:
            continue
        moved = Box(box.x0 + x0, box.y0 + y0, box.x1 + x0, box.y1 + y0)
        touching = {
            "bottom": moved.y0 <= y0,
            "top": moved.y1 >= y1 - 1,
            "left": moved.x1 >= x1 - 1,
            "right": moved.x0 <= x0,
        }[side]
        if touching or moved.height > 0.12 * h or moved.width > 0.3 * w:
            continue
        out.append(moved)
    return out


GAPS_IN_ROWS = (0.42, 0.25, 0.75, 1.1)
"""In heights of a letter: what letters of one label are apart at most. Labels that nearly touch need a narrow one, `1 k` and
`1.E-03` a wide one; which of them is right only the axis can tell."""


def rows_of_x(rgb: Rgb, ink: Grey, level: float, frame: Frame, read: Reader, side: str) -> Iterator[list[Label]]:
    """Ways to read the row of numbers under (or over) the plot, the usual one first."""
    pieces = beside(ink, level, frame, side)
    letter = letter_height(pieces, ink.shape[1])
    if letter == 0:
        return
    b = frame.box
    rows = rows_of(pieces, letter)
    rows.sort(key=lambda row: float(np.median([q.cy for q in row])), reverse=side == "top")
    for row in rows[:3]:
        size = letter_height(row, ink.shape[1]) or letter
        found, known = False, set[tuple[Box, ...]]()
        for gap in GAPS_IN_ROWS:
            groups = [g for g in groups_of(row, size, gap) if b.x0 - 0.1 * b.width <= g.box.cx <= b.x1 + 0.1 * b.width]
            key = tuple(g.box for g in groups)
            if len(groups) > 40 or key in known:
                continue
            known.add(key)
            labels = read_groups(rgb, groups, read)
            if numbers(labels) >= 2:
                found = True
                yield labels
        if found:
            return


def columns_of_y(rgb: Rgb, ink: Grey, level: float, frame: Frame, read: Reader, side: str) -> Iterator[list[Label]]:
    """Ways to read the column of numbers beside the plot: in each row of text the group next to the frame."""
    pieces = beside(ink, level, frame, side)
    letter = letter_height(pieces, ink.shape[1])
    if letter == 0:
        return
    b = frame.box
    known = set[tuple[Box, ...]]()
    # A title that stands close joins the numbers; a narrower gap cuts it off.
    for gap in (1.0, 0.7, 0.42):
        groups: list[Group] = []
        for row in rows_of(pieces, letter):
            parts = [
                g for g in groups_of(row, letter, gap) if b.y0 - 0.1 * b.height <= g.box.cy <= b.y1 + 0.1 * b.height
            ]
            if parts:
                groups.append(
                    max(parts, key=lambda g: g.box.x1) if side == "left" else min(parts, key=lambda g: g.box.x0)
                )
        groups = [g for g in groups if g.box.height < 3 * letter]
        key = tuple(g.box for g in groups)
        if len(groups) > 60 or key in known:
            continue
        known.add(key)
        yield from (c for c in columns_of(read_groups(rgb, groups, read)) if numbers(c) >= 2)


def columns_of(labels: Sequence[Label]) -> list[list[Label]]:
    """Labels parted where a column of paper lies between them: the letters of an upright title stand in a column of their own."""
    columns: list[list[Label]] = []
    reach = 0.0
    for label in sorted(labels, key=lambda q: q.box.x0):
        if not columns or label.box.x0 > reach:
            columns.append([])
        columns[-1].append(label)
        reach = max(reach, label.box.x1)
    return [sorted(c, key=lambda q: q.box.cy) for c in columns]


def numbers(labels: Sequence[Label]) -> int:
    return sum(1 for q in labels if q.meanings)
