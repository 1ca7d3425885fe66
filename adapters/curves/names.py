"""Which text names which curve: the legend by its samples, else labels that stand at a curve."""

import re
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from adapters.curves.kit import pairs
from adapters.curves.shapes import Box, Floats, Frame, Path, Rgb, Word

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


def tidy(text: str) -> str:
    for wrong, right in SPOILT.items():
        text = text.replace(wrong, right)
    text = re.sub(r"°°+", "°", text).strip(" |[]_,;-~\"'。=").lstrip("°")
    text = re.sub(r"(?<=\d)\s*[oO0](?=C$)", " °", text) if re.search(r"\d[oO]C$", text) else text
    return re.sub(r"\s*=\s*", " = ", text)


def may_name(text: str) -> bool:
    """A name has a letter or a number with a unit; a lonely number is a tick, a long line is a remark."""
    return 1 < len(text) <= 32 and any(c.isalpha() for c in text) and any(c.isalnum() for c in text)


def sample_beside(rgb: Rgb, box: Box) -> tuple[Box, Floats] | None:
    """The piece of line left of a legend's entry: its box and mean colour, or None."""
    height = box.height
    y0, y1 = round(box.cy - 0.42 * height), round(box.cy + 0.42 * height)
    x1 = round(box.x0 - 1)
    x0 = max(0, round(box.x0 - 5.5 * height))
    if x1 - x0 < 6 or y0 < 0 or y1 >= rgb.shape[0]:
        return None
    part = rgb[y0 : y1 + 1, x0 : x1 + 1].astype(np.float64)
    paper = np.percentile(part.reshape(-1, 3), 80, axis=0)
    away = np.abs(part - paper).max(axis=2)
    inked = away > max(30.0, 0.35 * float(away.max()))
    columns = np.nonzero(inked.any(axis=0))[0]
    if len(columns) < 0.8 * height:
        return None
    # The sample is the run of columns next to the text, its own dashes and markers included.
    gaps = np.nonzero(np.diff(columns) > 0.7 * height)[0]
    run = columns[gaps[-1] + 1 :] if len(gaps) else columns
    if len(run) < 2 or x1 - x0 - run[-1] > 1.6 * height or not 0.9 * height <= run[-1] - run[0] <= 5.2 * height:
        return None
    rows = np.nonzero(inked[:, run[0] : run[-1] + 1].sum(axis=1) > 0.3 * (run[-1] - run[0]))[0]
    if len(rows) == 0 or len(rows) > 0.5 * height:
        return None
    line = part[rows[0] : rows[-1] + 1, run[0] : run[-1] + 1][inked[rows[0] : rows[-1] + 1, run[0] : run[-1] + 1]]
    strongest = line[np.abs(line - paper).max(axis=1) >= np.percentile(np.abs(line - paper).max(axis=1), 60)]
    return Box(x0 + float(run[0]), box.y0, x0 + float(run[-1]), box.y1), np.asarray(
        np.median(strongest, axis=0), np.float64
    )


def legend_of(rgb: Rgb, words: Sequence[Word], frame: Frame) -> list[tuple[Word, Box, Floats]]:
    """Entries (text, sample's box, sample's colour) of a legend: at least two, one under the other."""
    b = frame.box
    found: list[tuple[Word, Box, Floats]] = []
    for word in words:
        if word.upright or (not may_name(tidy(word.text)) and len(tidy(word.text)) < 2):
            continue
        inside = b.x0 < word.box.cx and b.y0 - 0.2 * b.height < word.box.cy < b.y1
        sample = sample_beside(rgb, word.box) if inside else None
        if sample is not None:
            found.append((word, *sample))
    best: list[tuple[Word, Box, Floats]] = []
    for word, _, _ in found:
        column = [
            q
            for q in found
            if abs(q[1].x0 - next(s for w, s, _ in found if w is word).x0) < 1.2 * word.box.height
            and abs(q[0].box.x0 - word.box.x0) < 1.5 * word.box.height
        ]
        if len(column) > len(best):
            best = column
    return sorted(best, key=lambda q: q[0].box.cy) if len(best) >= 2 else []


def colour_gap(one: Floats, other: Floats) -> float:
    pixels = np.array([[one, other]], np.float32) / 255
    lab = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB), np.float64)[0]
    return float(np.hypot(*((lab[0] - lab[1]) * np.array([0.5, 1.0, 1.0]))[1:]) + 0.3 * abs(lab[0][0] - lab[1][0]))


def in_legend(path: Path, legend: Sequence[tuple[Word, Box, Floats]]) -> bool:
    """True for a sample of the legend that was traced as a curve."""
    for word, sample, _ in legend:
        area = Box(sample.x0 - 4, sample.y0, word.box.x1, word.box.y1)
        inside = (
            (path.points[:, 0] > area.x0 - 2)
            & (path.points[:, 0] < area.x1 + 2)
            & (path.points[:, 1] > area.y0 - 2)
            & (path.points[:, 1] < area.y1 + 2)
        )
        if float(inside.mean()) > 0.8:
            return True
    return False


def named(rgb: Rgb, paths: Sequence[Path], words: Sequence[Word], frame: Frame) -> list[Path]:
    """Paths with the names that the picture gives; samples of the legend left out."""
    legend = legend_of(rgb, words, frame)
    paths = [p for p in paths if not in_legend(p, legend)]
    if not paths:
        return []
    if legend:
        cost = np.array([[colour_gap(colour_on(rgb, p), entry[2]) for entry in legend] for p in paths])
        spread = max(colour_gap(a[2], c[2]) for a in legend for c in legend)
        if spread > 14:
            names = {r: tidy(legend[c][0].text) for r, c in pairs(cost) if cost[r, c] < 30}
            return [replace(p, name=names.get(i)) for i, p in enumerate(paths)]
    return by_place(paths, words, frame)


def colour_on(rgb: Rgb, path: Path) -> Floats:
    xs = np.clip(np.round(path.points[::4, 0]).astype(int), 0, rgb.shape[1] - 1)
    ys = np.clip(np.round(path.points[::4, 1]).astype(int), 0, rgb.shape[0] - 1)
    return np.asarray(np.median(rgb[ys, xs].astype(np.float64), axis=0), np.float64)


def by_place(paths: Sequence[Path], words: Sequence[Word], frame: Frame) -> list[Path]:
    """Labels at the curves: each name to the curve that runs through or next to it, one name a curve."""
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
    if not near:
        return list(paths)
    reach = 0.06 * float(np.hypot(b.width, b.height))
    cost = np.full((len(paths), len(near)), 1e3)
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
    names = {r: tidy(near[c].text) for r, c in pairs(cost) if cost[r, c] < 1e3}
    return [replace(p, name=names.get(i)) for i, p in enumerate(paths)]
