"""Which text names which curve: the legend by its samples, else labels that stand at a curve."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np

from adapters.curves.kit import pairs, seen_along, strongest, weakest
from adapters.curves.patterns import by_pattern
from adapters.curves.physics import Order, order_of
from adapters.curves.shapes import Box, Floats, Frame, Ints, Mask, Path, Rgb, Word
from adapters.curves.titles import title_beside
from adapters.curves.words import Reader, crop, written

SPOILT = {
    "℃": "°C",
    "℉": "°F",
    "Ω": "Ω",
    "：": ":",
    "（": "(",
    "）": ")",
    "，": ",",
    "＝": "=",
    "−": "-",
    "–": "-",
    "—": "-",
}


RAGS = " |[]_,;-~\"'。="
"""What is left of frames, samples and strokes beside a name."""


def tidy(text: str) -> str:
    for wrong, right in SPOILT.items():
        text = text.replace(wrong, right)
    whole = re.sub(r"°°+", "°", text).rstrip(RAGS + ".")
    text = whole.lstrip(RAGS).lstrip("°")
    if text[:1].isdigit() and whole.endswith("-" + text):
        text = "-" + text
    text = re.sub(r"(?<=\d)\s*[oO0](?=C$)", " °", text) if re.search(r"\d[oO]C$", text) else text
    return re.sub(r"\s*=\s*", " = ", text)


def may_name(text: str) -> bool:
    """A name has a letter or a number with a unit; a lonely number is a tick, a long line is a remark."""
    return 1 < len(text) <= 32 and any(c.isalpha() for c in text) and any(c.isalnum() for c in text)


@dataclass(frozen=True)
class Sample:
    """The piece of line, with or without a marker, that stands beside an entry of a legend."""

    box: Box
    colour: Floats
    """Mean of its strongest pixels, RGB."""
    after: bool = False
    """True when it stands right of its text, as gnuplot has it."""


@dataclass(frozen=True)
class Entry:
    word: Word
    sample: Sample


Legend = list[Entry]


FAR = 1e3
"""What it costs to give a curve the name of a label that is not near it."""
ALIKE = 48
"""So far apart two pixels of one line may be, of 255 in each channel."""


def pieces_of(columns: Ints, gap: float) -> list[tuple[int, int]]:
    """(first, last) of runs of columns that are no more than `gap` apart."""
    if len(columns) == 0:
        return []
    runs = np.split(columns, np.nonzero(np.diff(columns) > gap)[0] + 1)
    return [(int(r[0]), int(r[-1])) for r in runs]


def is_sample(body: Mask, height: float) -> bool:
    """True for a level line in the middle of the rows with at most one marker on it; letters stand all along."""
    rows = np.nonzero(body.sum(axis=1) > 0.3 * body.shape[1])[0]
    middle = (body.shape[0] - 1) / 2
    if len(rows) == 0:
        return False
    nearest_row = rows[np.abs(rows - middle).argmin()]
    if abs(float(nearest_row) - middle) > 0.22 * height:
        return False
    core = rows[np.abs(rows - nearest_row) < 0.2 * height]
    # Beside its marker a line is thin; letters are hardly anywhere.
    if float(thin_columns(body, height).sum()) < 0.35 * float(body.any(axis=0).sum()):
        return False
    line = np.zeros(body.shape[0], np.bool_)
    line[max(0, int(core[0]) - 1) : int(core[-1]) + 2] = True
    rest = np.nonzero(body[~line].any(axis=0))[0]
    return len(rest) == 0 or float(np.ptp(rest)) < 1.1 * height


def thin_columns(body: Mask, height: float) -> Mask:
    """Columns whose ink is one thin stroke in the middle of the rows, as that of a level line."""
    high = np.arange(body.shape[0], dtype=np.float64)[:, None]
    top, bottom = np.where(body, high, 1e6).min(axis=0), np.where(body, high, -1e6).max(axis=0)
    middle = (body.shape[0] - 1) / 2
    thin = (bottom - top < max(3.0, 0.3 * height)) & (np.abs((top + bottom) / 2 - middle) < 0.25 * height)
    return np.asarray(body.any(axis=0) & thin, np.bool_)


def line_before_space(inked: Mask, height: float, text: int) -> tuple[int, int, int] | None:
    """The same where the text's box begins in a space of paper, at the column `text`: then the line ends at that space.

    Dashes far apart are part of the line, letters of the text none, however thin their strokes are.
    """
    bare = ~seen_along(inked, 0)
    if not 0 < text < len(bare) or not bare[text]:
        return None
    before, behind = np.nonzero(~bare[:text])[0], np.nonzero(~bare[text:])[0]
    if len(before) == 0 or len(behind) == 0:
        return None
    last, begins = int(before[-1]), text + int(behind[0])
    thin = thin_columns(inked, height)
    first, end = pieces_of(np.nonzero(~bare[: last + 1])[0], 0.75 * height)[-1]
    line = np.nonzero(thin[first : end + 1])[0]
    tall = np.nonzero(~thin[first : end + 1] & ~bare[first : end + 1])[0]
    if begins - last < 0.25 * height or begins - last > 1.6 * height or len(line) == 0:
        return None
    if int(line[-1]) - int(line[0]) + 1 < 1.2 * height or (len(tall) and float(np.ptp(tall)) > 1.1 * height):
        return None
    return first + int(line[0]), first + int(line[-1]), begins


def line_before_text(inked: Mask, height: float) -> tuple[int, int, int] | None:
    """(first, last) column of a level line, dashed or with a marker, and where the text behind it begins; close ones too."""
    thin = thin_columns(inked, height)
    tall = inked.any(axis=0) & ~thin
    for first, last in pieces_of(np.nonzero(thin)[0], 0.75 * height):
        blocked = np.nonzero(tall[first : last + 1])[0]
        # Of what stands between two pieces of line only one marker may be part of it.
        if len(blocked) and float(np.ptp(blocked)) > 1.1 * height:
            last = first + int(blocked[0]) - 1
            last = int(np.nonzero(thin[: last + 1])[0][-1])
        behind = np.nonzero(tall[last + 1 :])[0]
        if last - first + 1 >= 1.2 * height and len(behind) and 1 < behind[0] < 0.9 * height:
            return first, last, last + 1 + int(behind[0])
    return None


def colour_along(part: Floats, inked: Mask, paper: Floats) -> Floats:
    """The colour of a level line: that which most of its columns have in their strongest pixel. A curve that runs through a sample
    has fewer of them."""
    quarter = len(part) // 4
    rows = slice(quarter, len(part) - quarter) if inked[quarter : len(part) - quarter].any() else slice(None)
    strength = np.where(inked, np.abs(part - paper).max(axis=2), 0.0)[rows]
    best, there = strength.argmax(axis=0), strength.max(axis=0) > 0
    columns, strength = part[rows][best, np.arange(part.shape[1])][there], strength.max(axis=0)[there]
    alike = np.hypot(*(columns[:, None, :2] - columns[None, :, :2]).transpose(2, 0, 1)) < ALIKE
    alike &= np.abs(columns[:, None, 2] - columns[None, :, 2]) < ALIKE
    most = alike[alike.sum(axis=1).argmax()]
    return np.asarray(np.median(columns[most & (strength >= np.percentile(strength[most], 60))], axis=0), np.float64)


def sample_beside(rgb: Rgb, box: Box, *, after: bool = False) -> tuple[Sample, float] | None:
    """The piece of line left of a legend's entry (right of it: `after`), and where the text begins (ends); or None.

    The detector's box often begins within the sample, so that pieces inside the box are looked at too.
    """
    if after:
        wide = rgb.shape[1] - 1
        found = sample_beside(rgb[:, ::-1], Box(wide - box.x1, box.y0, wide - box.x0, box.y1))
        if found is None:
            return None
        q = found[0].box
        return Sample(Box(wide - q.x1, q.y0, wide - q.x0, q.y1), found[0].colour, True), wide - found[1]
    height = box.height
    y0, y1 = round(box.cy - 0.45 * height), round(box.cy + 0.45 * height)
    x0, x1 = max(0, round(box.x0 - 5.8 * height)), min(rgb.shape[1] - 1, round(box.x0 + 0.6 * box.width + height))
    if x1 - x0 < 6 or y0 < 0 or y1 >= rgb.shape[0] or height < 6:
        return None
    part = rgb[y0 : y1 + 1, x0 : x1 + 1].astype(np.float64)
    paper = np.percentile(part.reshape(-1, 3), 80, axis=0)
    away = np.abs(part - paper).max(axis=2)
    inked = away > max(30.0, 0.3 * float(away.max()))
    # The border of the legend and the frame of the plot cross all rows; the sample lies right of them.
    borders = np.nonzero(inked.mean(axis=0) > 0.97)[0]
    borders = borders[borders < box.x0 - x0 - 0.9 * height]
    start = int(borders[-1]) + 1 if len(borders) else 0
    lines = (
        line_before_space(inked[:, start:], height, round(box.x0) - x0 - start),
        line_before_text(inked[:, start:], height),
    )
    for line in lines:
        if line is not None and line[1] - line[0] < 5.4 * height and line[2] + start > box.x0 - x0 - 0.4 * height:
            left, end, text = (start + k for k in line)
            where = Box(x0 + float(left), box.y0, x0 + float(end), box.y1)
            colour = colour_along(part[:, left : end + 1], inked[:, left : end + 1], paper)
            return Sample(where, colour), x0 + float(text)
    pieces = pieces_of(np.nonzero(inked[:, start:].any(axis=0))[0] + start, max(2.0, 0.12 * height))
    for last in range(len(pieces) - 1):
        end = pieces[last][1]
        space = pieces[last + 1][0] - end
        if end < box.x0 - x0 - 1.7 * height:
            continue
        if end > box.x0 - x0 + 0.4 * box.width or space < 0.25 * height:
            continue
        first = last
        while first > 0 and pieces[first][0] - pieces[first - 1][1] < 0.75 * height:
            first -= 1
        for k in range(first, last + 1):
            left = pieces[k][0]
            if 0.9 * height <= end - left + 1 <= 5.4 * height and is_sample(inked[:, left : end + 1], height):
                colour = colour_along(part[:, left : end + 1], inked[:, left : end + 1], paper)
                where = Box(x0 + float(left), box.y0, x0 + float(end), box.y1)
                return Sample(where, colour), x0 + float(pieces[last + 1][0])
    # Whatever black grid runs through both.
    hued = np.asarray(strongest(part) - weakest(part) > 60, np.bool_)
    if (line := coloured_line(hued, height, box.x0 - x0)) is not None:
        left, end = line
        colour = colour_along(part[:, left : end + 1], hued[:, left : end + 1], paper)
        return Sample(Box(float(x0 + left), box.y0, float(x0 + end), box.y1), colour), box.x0
    return None


def coloured_line(hued: Mask, height: float, text: float) -> tuple[int, int] | None:
    """(first, last) column of a level line before the column `text` where black text begins; `hued` is the coloured ink."""
    pieces = [q for q in pieces_of(np.nonzero(seen_along(hued, 0))[0], 0.75 * height) if q[1] < text + 0.3 * height]
    if not pieces:
        return None
    left, end = pieces[-1]
    behind = hued[:, end + 1 :]
    # What goes on out of sight at the left is a curve, and a text of the curve's own colour is a label at it.
    if left == 0 or end < text - 1.7 * height or (behind.size and float(seen_along(behind, 0).mean()) > 0.2):
        return None
    thin = float(thin_columns(hued[:, left : end + 1], height).mean())
    return (left, end) if 0.9 * height <= end - left + 1 <= 5.4 * height and thin > 0.35 else None


def legend_of(rgb: Rgb, words: Sequence[Word], frame: Frame, read: Reader) -> Legend:
    """Entries of a legend: at least two, one under the other, each with a sample at the same side."""
    b = frame.box
    texts = [
        w
        for w in words
        if not w.upright
        and len(tidy(w.text)) >= 2
        # A number right of the plot is a tick's, and the grid line that leads to it no sample.
        and (w.box.cx < b.x1 or may_name(tidy(w.text)))
        and b.x0 < w.box.cx
        and b.y0 - 0.2 * b.height < w.box.cy < b.y1 + 0.02 * b.height
    ]
    best: Legend = []
    for after in (False, True):
        found = [entry for w in texts if (entry := entry_of(rgb, w, after=after)) is not None]
        for one in found:
            column = near_together([q for q in found if same_column(q, one)], one)
            if len(column) >= 2 and len(column) > len(best):
                best = column
    if not best:
        return []
    best = reread(rgb, best, words, read)
    # Each entry that joins may have another one below.
    while len(more := completed(rgb, best, texts)) > len(best):
        best = more
    return sorted(best, key=lambda q: q.word.box.cy)


def entry_of(rgb: Rgb, word: Word, *, after: bool) -> Entry | None:
    """A word with the sample beside it; its box cut where the sample ends."""
    found = sample_beside(rgb, word.box, after=after)
    if found is None:
        return None
    sample, edge = found
    b = word.box
    cut = Box(b.x0, b.y0, min(b.x1, edge + 2), b.y1) if after else Box(max(b.x0, edge - 2), b.y0, b.x1, b.y1)
    # A box that has but a little paper in front is read well as it is, and letters may hang over where the text seems to begin.
    if b.width - cut.width < 0.4 * b.height and not sample.box.grown(1).overlap(b):
        cut = b
    return Entry(replace(word, box=cut), sample) if cut.width > 0.4 * b.height else None


def reread(rgb: Rgb, legend: Legend, words: Sequence[Word], read: Reader) -> Legend:
    """Texts whose box was cut are read again, without the sample in front."""
    whole = {(w.box.x0, w.box.x1, w.box.y0, w.box.y1) for w in words}
    cut = [i for i, e in enumerate(legend) if (q := e.word.box) and (q.x0, q.x1, q.y0, q.y1) not in whole]
    out = list(legend)
    for i, (text, score) in zip(cut, read([crop(rgb, legend[i].word.box, 1) for i in cut]), strict=True):
        if text.strip():
            out[i] = replace(out[i], word=replace(out[i].word, text=text.strip(), score=score))
    return out


def same_column(one: Entry, other: Entry) -> bool:
    """True when two entries can stand in one legend: texts and samples aligned."""
    height = max(one.word.box.height, other.word.box.height)
    a, c = one.sample.box, other.sample.box
    samples = min(abs(a.x0 - c.x0), abs(a.x1 - c.x1)) < 0.6 * height and abs(a.cx - c.cx) < 1.3 * height
    if one.sample.after:
        return samples and abs(one.word.box.x1 - other.word.box.x1) < 1.2 * height
    return samples and abs(one.word.box.x0 - other.word.box.x0) < 1.2 * height


def near_together(column: Legend, one: Entry) -> Legend:
    """Of entries in a column those that follow each other without a wide space, from `one` up and down."""
    order = sorted(column, key=lambda q: q.word.box.cy)
    height = one.word.box.height
    apart = [k + 1 for k, (a, c) in enumerate(pairwise(order)) if c.word.box.cy - a.word.box.cy > 3.2 * height]
    for first, last in pairwise([0, *apart, len(order)]):
        if any(q is one for q in order[first:last]):
            return order[first:last]
    return []


def completed(rgb: Rgb, legend: Legend, texts: Sequence[Word]) -> Legend:
    """Texts between and next to the entries found join them: their samples are looked for where the others' are."""
    after = legend[0].sample.after
    height = float(np.median([e.word.box.height for e in legend]))
    left = min(e.sample.box.x0 for e in legend) - 0.3 * height
    right = max(e.sample.box.x1 for e in legend) + 0.3 * height
    edge = float(np.median([e.word.box.x1 if after else e.word.box.x0 for e in legend]))
    centres = sorted(e.word.box.cy for e in legend)
    pitch = min((b - a for a, b in pairwise(centres)), default=2 * height)
    out = list(legend)
    for word in texts:
        if any(e.word.box.overlap(word.box) > 0.5 for e in legend):
            continue
        at = word.box.x1 if after else word.box.x0
        if abs(at - edge) > 1.2 * height or min(abs(word.box.cy - c) for c in centres) > 1.6 * max(pitch, height):
            continue
        if abs(word.box.height - height) > 0.4 * height:
            continue
        box = Box(left, word.box.y0, right, word.box.y1)
        pixels = rgb[max(0, round(box.y0)) : round(box.y1) + 1, max(0, round(left)) : round(right) + 1].astype(float)
        if pixels.size == 0:
            continue
        flat = pixels.reshape(-1, 3)
        strength = np.abs(flat - np.percentile(flat, 80, axis=0)).max(axis=1)
        if float(strength.max()) < 30 or float((strength > 0.5 * strength.max()).mean()) < 0.03:
            continue
        colour = np.median(flat[strength > 0.6 * strength.max()], axis=0)
        out.append(Entry(word, Sample(box, np.asarray(colour, np.float64), after)))
    return out


def sample_area(legend: Legend) -> list[Box]:
    """Where a legend has its samples: their column from the first entry to the last, and each sample's own box."""
    if not legend:
        return []
    boxes = [e.sample.box.grown(2) for e in legend]
    return [
        *boxes,
        Box(min(q.x0 for q in boxes), min(q.y0 for q in boxes), max(q.x1 for q in boxes), max(q.y1 for q in boxes)),
    ]


def legend_area(legend: Legend) -> list[Box]:
    """The whole of a legend with its margin, under which curves may run."""
    if not legend:
        return []
    boxes = [box for e in legend for box in (e.word.box, e.sample.box)]
    whole = Box(min(q.x0 for q in boxes), min(q.y0 for q in boxes), max(q.x1 for q in boxes), max(q.y1 for q in boxes))
    return [whole.grown(0.6 * float(np.median([e.word.box.height for e in legend])))]


def colour_gap(one: Floats, other: Floats) -> float:
    pixels = np.array([[one, other]], np.float32) / 255
    lab = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB), np.float64)[0]
    return float(np.hypot(*((lab[0] - lab[1]) * np.array([0.5, 1.0, 1.0]))[1:]) + 0.3 * abs(lab[0][0] - lab[1][0]))


def in_legend(path: Path, legend: Legend) -> bool:
    """True for a sample of the legend that was traced as a curve."""
    for entry in legend:
        one, other = entry.sample.box, entry.word.box
        area = Box(min(one.x0, other.x0) - 4, one.y0, max(one.x1, other.x1), other.y1)
        inside = (
            (path.points[:, 0] > area.x0 - 2)
            & (path.points[:, 0] < area.x1 + 2)
            & (path.points[:, 1] > area.y0 - 2)
            & (path.points[:, 1] < area.y1 + 2)
        )
        if float(inside.mean()) > 0.8:
            return True
    return False


def named(rgb: Rgb, paths: Sequence[Path], words: Sequence[Word], frame: Frame, legend: Legend) -> list[Path]:
    """Paths with the names that the picture gives; samples of the legend left out."""
    paths = [p for p in paths if not in_legend(p, legend)]
    if not paths:
        return []
    titles = title_beside(words, frame, "x"), title_beside(words, frame, "y")
    if legend:
        cost = np.array([[colour_gap(colour_on(rgb, p), entry.sample.colour) for entry in legend] for p in paths])
        spread = max(colour_gap(a.sample.colour, c.sample.colour) for a in legend for c in legend)
        names = (
            {r: tidy(legend[c].word.text) for r, c in pairs(cost) if cost[r, c] < 30}
            if spread > 14
            else names_by_pattern(rgb, paths, written(words, frame), legend)
            or in_order([tidy(e.word.text) for e in legend], paths, titles)
        )
        if names:
            return [replace(p, name=names.get(i)) for i, p in enumerate(paths)]
        # Whose samples tell nothing names nothing; labels at the curves still may.
        words = [w for w in words if not any(w.box.overlap(e.word.box) > 0.5 for e in legend)]
    return by_place(paths, words, frame, titles)


def names_by_pattern(rgb: Rgb, paths: Sequence[Path], words: Sequence[Word], legend: Legend) -> dict[int, str]:
    """Names of a legend whose samples have one colour, given by their dashes and markers."""
    covers = [w.box for w in words] + legend_area(legend)
    found = by_pattern(rgb, [e.sample.box for e in legend], paths, covers)
    return {r: tidy(legend[c].word.text) for r, c in found.items()}


def in_order(names: Sequence[str], paths: Sequence[Path], titles: tuple[str, str] = ("", "")) -> dict[int, str]:
    """Names of a legend whose samples all look alike, given by physics where it knows the order; else none.

    Only when there are as many curves as names. `titles` are those of the axes x and y.
    """
    order = order_of(names, paths, *titles) if len(names) == len(paths) else None
    if order is None:
        return {}
    ranked = sorted(range(len(paths)), key=lambda i: order.places[i])
    return dict(zip(ranked, [n for _, n in sorted(zip(order.values, names, strict=True))], strict=True))


def in_line(cost: Floats, order: Order) -> list[tuple[int, int]]:
    """Paths (rows) and names (columns) paired as `pairs` does, but so that values and places rise together; as many as may be."""
    rows = sorted(range(len(order.places)), key=lambda i: order.places[i])
    columns = sorted(range(len(order.values)), key=lambda j: order.values[j])
    # For the first paths and the first names the best there is: pairs that are lacking, what they cost, and which they are.
    before: list[tuple[int, float, list[tuple[int, int]]]] = [(0, 0.0, []) for _ in range(len(columns) + 1)]
    for r in rows:
        now = before[:1]
        for k, c in enumerate(columns):
            best = min(before[k + 1], now[k])
            lacking, total, chosen = before[k]
            if cost[r, c] < FAR:
                best = min(best, (lacking - 1, total + float(cost[r, c]), [*chosen, (r, c)]))
            now.append(best)
        before = now
    return before[-1][2]


def quantity(text: str) -> str:
    """What a label speaks of: the letters before its equals sign, or nothing."""
    return re.sub(r"[^a-z]", "", text.split("=")[0].lower()) if "=" in text else ""


def without_remarks(words: Sequence[Word], count: int) -> list[Word]:
    """Labels of one set of curves speak of one quantity; what speaks of another is a condition that holds for all of them."""
    kinds = [quantity(tidy(w.text)) for w in words]
    common = max(set(kinds), key=kinds.count, default="")
    if kinds.count(common) < 2 or count < 2:
        return list(words)
    return [w for w, kind in zip(words, kinds, strict=True) if kind == common]


def colour_on(rgb: Rgb, path: Path) -> Floats:
    """The colour of a curve: that of its layer or, where the layer is what has no colour, its grey."""
    if path.details.get("chromatic"):
        return np.array(path.colour, np.float64)
    xs = np.clip(np.round(path.points[::4, 0]).astype(int), 0, rgb.shape[1] - 1)
    ys = np.clip(np.round(path.points[::4, 1]).astype(int), 0, rgb.shape[0] - 1)
    return np.asarray(np.median(rgb[ys, xs].astype(np.float64), axis=0), np.float64)


def by_place(
    paths: Sequence[Path], words: Sequence[Word], frame: Frame, titles: tuple[str, str] = ("", "")
) -> list[Path]:
    """Labels at the curves: each name to the curve that runs through or next to it, one name a curve.

    Where several curves are near a label, physics tells which is meant, if it knows the order of such names.
    """
    b = frame.box
    near = [
        w
        for w in words
        if not w.upright
        and w.score > 0.6
        and may_name(tidy(w.text))
        and b.grown(0.02 * b.width).x0 < w.box.cx < b.x1 + 0.15 * b.width
        and b.y0 - 0.03 * b.height < w.box.cy < b.y1
    ]
    near = without_remarks(near, len(paths))
    if not near:
        return list(paths)
    reach = 0.06 * float(np.hypot(b.width, b.height))
    cost = np.full((len(paths), len(near)), FAR)
    for i, path in enumerate(paths):
        for j, word in enumerate(near):
            q = word.box
            dx = np.maximum(np.maximum(q.x0 - path.points[:, 0], path.points[:, 0] - q.x1), 0)
            dy = np.maximum(np.maximum(q.y0 - path.points[:, 1], path.points[:, 1] - q.y1), 0)
            gap = float(np.hypot(dx, dy).min())
            # A label in a gap of its curve has the curve running through its middle.
            middle = float(np.hypot(path.points[:, 0] - q.cx, path.points[:, 1] - q.cy).min()) / max(q.width, 1)
            if gap < reach:
                cost[i, j] = gap + 4 * middle
    chosen = [(r, c) for r, c in pairs(cost) if cost[r, c] < FAR]
    order = order_of([tidy(w.text) for w in near], paths, *titles)
    if order is not None and len(ranked := in_line(cost, order)) == len(chosen):
        chosen = ranked
    names = {r: tidy(near[c].text) for r, c in chosen}
    return [replace(p, name=names.get(i)) for i, p in enumerate(paths)]
