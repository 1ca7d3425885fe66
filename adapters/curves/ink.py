"""Which ink belongs to curves: colours told apart, text, boxes, rims and specks taken out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from adapters.curves.kit import connected, seen_along, strongest, weakest
from adapters.curves.shapes import Box, Floats, Frame, Mask, Rgb
from adapters.curves.ways import at_points


@dataclass(frozen=True)
class Layer:
    """Ink of one colour inside the plot. All arrays have the plot's size; its corner is at `origin` in the picture."""

    mask: Mask
    hidden: Mask
    """Where a curve of this layer may run unseen: under grid lines, text and other curves."""
    weak: Mask
    """All ink, the grid's too."""
    text: Mask
    colour: tuple[int, int, int]
    chromatic: bool
    origin: tuple[int, int]
    thick: float
    rim: int = 0
    """Pixels at the plot's border that were cleared of the frame."""
    strength: Floats | None = None
    """How dark the picture is, 0-1."""

    def tone(self, points: Floats) -> float:
        """How dark its ink is on average along points of the picture, where no text is; 0 where that is not known."""
        at = points - np.array(self.origin, np.float64)
        at = at[~at_points(self.text, at)]
        return float(at_points(self.strength, at).mean()) if self.strength is not None and len(at) else 0.0


def plot_area(frame: Frame) -> tuple[int, int, int, int]:
    b = frame.box
    return max(0, round(b.x0)), max(0, round(b.y0)), round(b.x1) + 1, round(b.y1) + 1


def contrast(rgb: Rgb, reach: int) -> Floats:
    """Paper minus pixel for each channel, H x W x 3."""
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (reach, reach))
    paper = cv2.blur(cv2.morphologyEx(rgb, cv2.MORPH_CLOSE, kernel), (reach, reach))
    return np.asarray(cv2.subtract(paper, rgb), np.float64)


def bleeding(v: Floats) -> float:
    """How far colour runs out of strokes onto the paper, 0 in a clean picture: JPEG keeps colour at half the resolution or less."""
    strength = strongest(v)
    chroma = strength - weakest(v)
    core = (strength > 60) & (chroma > 60)
    if core.sum() < 50:
        return 0.0
    near = np.asarray(cv2.dilate(core.astype(np.uint8), np.ones((15, 15), np.uint8)), np.bool_)
    inked = np.asarray(cv2.dilate((strength > 40).astype(np.uint8), np.ones((3, 3), np.uint8)), np.bool_)
    out = near & ~inked
    return float(chroma[out].mean() / chroma[core].mean()) if out.any() else 0.0


def gathered(values: Floats, strength: Floats, sigma: float) -> Floats:
    """Colour that ran out of its strokes brought back: its sum around a pixel over the sum of ink there.

    `values` are differences from the paper, so that a mixture with paper only makes them shorter; the sums keep their direction.
    """
    peak = np.asarray(cv2.dilate(strength.astype(np.float32), np.ones((9, 9), np.uint8)), np.float64)
    part = strength / np.maximum(peak, 20.0)
    total = np.asarray(cv2.GaussianBlur(values.astype(np.float32), (0, 0), sigma), np.float64)
    weight = np.asarray(cv2.GaussianBlur(part.astype(np.float32), (0, 0), sigma), np.float64)
    return total / np.maximum(weight, 0.08)[..., None]


def palette(lab: Floats, strong: Mask, least: int) -> list[Floats]:
    """The colours of coloured strokes as Lab triples, by their cores (the darkest pixels across a stroke)."""
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    local = np.asarray(cv2.dilate(chroma.astype(np.float32), np.ones((3, 3), np.uint8)), np.float64)
    core = strong & (chroma > 0.9 * local)
    points = lab[core]
    found: list[Floats] = []
    weights = np.array([0.6, 1.0, 1.0])
    while len(points) >= least and len(found) < 12:
        # One number a cell, in the cells' own order.
        cells = (np.round(points * weights / 7).astype(np.int64) + 64) @ np.array([128 * 128, 128, 1])
        _, inverse, counts = np.unique(cells, return_inverse=True, return_counts=True)
        centre = np.median(points[inverse.ravel() == int(np.argmax(counts))], axis=0)
        for _ in range(3):
            near = np.sqrt((((points - centre) * weights) ** 2).sum(axis=1)) < 13
            if near.sum() < 3:
                break
            centre = np.median(points[near], axis=0)
        near = np.sqrt((((points - centre) * weights) ** 2).sum(axis=1)) < 20
        # A washed-out rim of a stroke that was found points the same way but is paler.
        pale = any(
            abs(hue_gap(centre, other)) < 0.22
            and np.hypot(*centre[1:]) < 0.75 * np.hypot(*other[1:])
            and centre[0] > other[0]
            for other in found
        )
        if near.sum() >= least and not pale:
            found.append(centre)
        elif near.sum() < least:
            break
        points = points[~near]
    return found


Painted = tuple[Mask, tuple[int, int, int], bool]
"""Ink: where it is, its colour, and whether that is one at all (not black or grey)."""


def without_rims(masks: Sequence[Painted]) -> list[Painted]:
    """JPEG and smoothing give strokes rims of other shades: a colour that nearly always lies beside a larger one joins it."""
    order = sorted((m for m in masks if m[2]), key=lambda m: -int(m[0].sum()))
    kept: list[Painted] = []
    for mask, colour, _ in order:
        total = int(mask.sum())
        if total == 0:
            continue
        for k, (other, other_colour, _) in enumerate(kept):
            near = np.asarray(cv2.dilate(other.astype(np.uint8), np.ones((11, 11), np.uint8)), np.bool_)
            # Two curves of different hues may run side by side all the way; a rim has its stroke's hue.
            gap = abs(hue_gap(rgb_to_lab(colour), rgb_to_lab(other_colour)))
            if gap < 0.8 and float((mask & near).sum()) > (0.6 if gap < 0.35 else 0.8) * total:
                kept[k] = (np.asarray(other | mask, np.bool_), other_colour, True)
                break
        else:
            kept.append((mask, colour, True))
    return kept + [m for m in masks if not m[2]]


def rgb_to_lab(colour: tuple[int, int, int]) -> Floats:
    pixel = np.array([[colour]], np.float32) / 255
    return np.asarray(cv2.cvtColor(pixel, cv2.COLOR_RGB2LAB), np.float64)[0, 0]


def hue_gap(one: Floats, other: Floats) -> float:
    d = math.atan2(float(one[2]), float(one[1])) - math.atan2(float(other[2]), float(other[1]))
    return math.remainder(d, 2 * math.pi)


def lab_to_rgb(lab: Floats) -> tuple[int, int, int]:
    pixel = cv2.cvtColor(np.asarray(lab, np.float32).reshape(1, 1, 3), cv2.COLOR_LAB2RGB)[0, 0]
    r, g, b = (int(np.clip(round(float(v) * 255), 0, 255)) for v in pixel)
    return r, g, b


def stroke_width(mask: Mask, cut: Mask | None = None) -> float:
    """The usual thickness of strokes in pixels: a blob's area over its skeleton's length, by the distance transform.

    Beside what was `cut` out of the mask (grid lines) strokes are thinner than the pen was; there nothing is measured, where enough is left.
    """
    if not mask.any():
        return 1.0
    distance = np.asarray(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3), np.float64)
    ridges = (distance >= np.asarray(cv2.dilate(distance.astype(np.float32), np.ones((3, 3), np.uint8)))) & mask
    ridge = distance[ridges]
    if cut is not None and cut.any():
        away = np.asarray(cv2.distanceTransform((~cut).astype(np.uint8), cv2.DIST_L2, 3), np.float64)
        whole = distance[ridges & (away > distance + 0.5)]
        # A little thinner is within what is measured here at all.
        if len(whole) > max(40, 0.1 * len(ridge)) and np.median(whole) > 1.6 * np.median(ridge):
            ridge = whole
    return float(max(1.0, 2 * np.median(ridge) - 1)) if len(ridge) else 1.0


def without_specks(mask: Mask, least: int) -> Mask:
    count, labels, stats, _ = connected(mask)
    keep = np.zeros(count, np.bool_)
    keep[1:] = np.maximum(stats[1:, cv2.CC_STAT_WIDTH], stats[1:, cv2.CC_STAT_HEIGHT]) >= least
    return keep[labels]


def text_mask(shape: tuple[int, int], boxes: Sequence[Box], origin: tuple[int, int], grow: float) -> Mask:
    out = np.zeros(shape, np.bool_)
    for b in boxes:
        x0, y0 = max(0, round(b.x0 - origin[0] - grow)), max(0, round(b.y0 - origin[1] - grow))
        x1, y1 = round(b.x1 - origin[0] + grow) + 1, round(b.y1 - origin[1] + grow) + 1
        if x1 > 0 and y1 > 0:
            out[y0:y1, x0:x1] = True
    return out


def without_text(mask: Mask, text: Mask, thick: float) -> Mask:
    """Ink that lies within text goes, but for strokes that come in from outside: boxes of text are larger than the letters, and
    curves run on close to them."""
    inside = mask & text
    outside = mask & ~text
    if not inside.any():
        return outside
    _, labels, stats, _ = connected(inside)
    coming = np.asarray(cv2.dilate(outside.astype(np.uint8), np.ones((3, 3), np.uint8)), np.bool_) & inside
    extent = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    least = max(12, round(5 * thick))
    out = outside.copy()
    for i in np.unique(labels[coming]):
        if i == 0 or extent[i] < least:
            continue
        x, y, w, h, _ = (int(v) for v in stats[i])
        part = slice(y, y + h), slice(x, x + w)
        piece = np.asarray(labels[part] == i, np.bool_)
        # A letter that touches the curve is cut off: it has no stroke so flat and long.
        for own in (piece, flat_strokes(piece, least)) if w > h else (piece,):
            _, runs, _, _ = connected(own)
            for k in np.unique(runs[own & coming[part]]):
                run = np.asarray(runs == k, np.bool_)
                if k and bar(run, thick, least):
                    out[part] |= run
    return out


def flat_strokes(mask: Mask, length: int) -> Mask:
    """What belongs to straight strokes, level or nearly so, of a length."""
    ink = mask.astype(np.uint8)
    found = np.zeros_like(ink)
    for drop in range(-length // 4, length // 4 + 1, 2):
        stroke = np.zeros((abs(drop) + 1, length), np.uint8)
        cv2.line(stroke, (0, max(0, -drop)), (length - 1, max(0, drop)), 1)
        found |= np.asarray(cv2.morphologyEx(ink, cv2.MORPH_OPEN, stroke), np.uint8)
    return np.asarray(found, np.bool_)


def bar(mask: Mask, thick: float, least: float) -> bool:
    """True for one straight stroke of a pen's thickness."""
    ys, xs = np.nonzero(mask)
    points = np.c_[xs, ys].astype(np.float64)
    if max(np.ptp(xs), np.ptp(ys)) + 1 < least:
        return False
    return float(np.sqrt(max(0.0, np.linalg.eigvalsh(np.cov(points.T))[0]))) < 0.45 * thick + 0.4


def boxes_around(mask: Mask, text: Mask, thick: float) -> Mask:
    """Borders of boxes with text in them: a level and an upright stroke that meet in a corner with text inside it."""
    out = np.zeros_like(mask)
    h, w = mask.shape
    # A round corner keeps the strokes apart; a curve that runs into the corner makes one of them longer.
    slack = max(4, round(3 * thick))
    level, upright = runs_of(mask, max(24, w // 20)), runs_of(np.ascontiguousarray(mask.T), max(10, h // 50))
    for y, x0, x1, y0, y1 in level:
        for x, v0, v1, u0, u1 in upright:
            for corner_x, left in ((x0, True), (x1, False)):
                if abs(x - corner_x) > slack or min(abs(v0 - y), abs(v1 - y)) > slack:
                    continue
                above = abs(v1 - y) <= abs(v0 - y)
                inner_x = (x + 1, x1) if left else (x0, x - 1)
                # An upright cut short by the text itself still has the text beside it.
                deep = h // 9
                inner_y = (min(v0, y - deep), y - 1) if above else (y + 1, max(v1, y + deep))
                inside = text[max(0, inner_y[0]) : inner_y[1] + 1, max(0, inner_x[0]) : inner_x[1] + 1]
                if inside.size and inside.mean() > 0.12:
                    outer = (min(x, x0 + slack), x1) if left else (x0, max(x, x1 - slack))
                    out[y0 : y1 + 1, outer[0] : outer[1] + 1] = True
                    out[v0 : v1 + 1, u0 : u1 + 1] = True
    return out


def runs_of(mask: Mask, length: int) -> list[tuple[int, int, int, int, int]]:
    """Thin straight level strokes: (row, first column, last column, first row, last row)."""
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((1, length), np.uint8))
    count, _, stats, _ = connected(np.asarray(opened, np.bool_))
    out: list[tuple[int, int, int, int, int]] = []
    for i in range(1, count):
        x, y, wide, high, _ = (int(v) for v in stats[i])
        if high <= 9:
            out.append((y + high // 2, x, x + wide - 1, y, y + high - 1))
    return out


def without_residue(grey: Mask, coloured: Mask, thick: float) -> Mask:
    """Grey ink that only hems coloured strokes (rims, washed-out pieces of JPEG) goes; what runs on elsewhere stays."""
    if not coloured.any() or not grey.any():
        return grey
    k = 2 * round(0.6 * thick + 1.5) + 1
    near = np.asarray(cv2.dilate(coloured.astype(np.uint8), np.ones((k, k), np.uint8)), np.bool_)
    count, labels, stats, _ = connected(grey)
    inside = np.bincount(labels[near], minlength=count)
    hems = inside > 0.7 * stats[:, cv2.CC_STAT_AREA]
    hems[0] = False
    return grey & ~hems[labels]


def without_mixed(mask: Mask, others: Mask, thick: float) -> Mask:
    """Small pieces that hem other colours go: where two curves overlap or lie close, their colours mix to a third."""
    if not mask.any() or not others.any():
        return mask
    k = 2 * round(0.8 * thick + 2) + 1
    near = np.asarray(cv2.dilate(others.astype(np.uint8), np.ones((k, k), np.uint8)), np.bool_)
    count, labels, stats, _ = connected(mask)
    area = stats[:, cv2.CC_STAT_AREA]
    extent = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    inside = np.bincount(labels[mask & near], minlength=count)
    # Dashes are as large as each other; what the mixing makes is small beside the colour's own strokes.
    small = (extent < 0.05 * float(np.hypot(*mask.shape))) & (area < 0.1 * area[1:].max())
    mixed = small & (inside > 0.85 * area)
    mixed[0] = False
    return mask & ~mixed[labels]


def lettered(mask: Mask, ink: Mask, texts: Sequence[Box], origin: tuple[int, int]) -> list[Box]:
    """Texts that may be written in a colour: much of the `ink` in them is in its `mask`. Else what is seen of it there is a curve's."""

    def share(box: Box) -> float:
        x0, y0 = max(0, round(box.x0) - origin[0]), max(0, round(box.y0) - origin[1])
        part = slice(y0, max(y0, round(box.y1) - origin[1])), slice(x0, max(x0, round(box.x1) - origin[0]))
        return float(mask[part].sum()) / max(1.0, float(ink[part].sum()))

    return [box for box in texts if share(box) > 0.3]


def without_letters(mask: Mask, text: Mask) -> Mask:
    """Pieces of coloured ink that lie within text go; strokes that only pass through it stay."""
    if not (mask & text).any():
        return mask
    count, labels, stats, _ = connected(mask)
    inside = np.bincount(labels[mask & text], minlength=count)
    letters = inside > 0.85 * stats[:, cv2.CC_STAT_AREA]
    letters[0] = False
    return mask & ~letters[labels]


def framed(mask: Mask, rim: int) -> bool:
    """True when a layer has the plot's frame in it, so that its ink beside the border says nothing about curves."""
    sides = (
        seen_along(mask[:rim], 0),
        seen_along(mask[-rim:], 0),
        seen_along(mask[:, :rim], 1),
        seen_along(mask[:, -rim:], 1),
    )
    return sum(float(side.mean()) > 0.9 for side in sides) >= 2


def side_rests(mask: Mask, rim: int, thick: float) -> Mask:
    """What the left and right side of the frame have left beside the cleared rim: upright ink that is thinner than a stroke."""
    out = np.zeros_like(mask)
    most = max(1, round(0.5 * thick))
    for ink, mark in ((mask, out), (mask[:, ::-1], out[:, ::-1])) if rim else ():
        beside = ink[:, rim : rim + most + 1]
        thick_there = np.asarray(beside.all(axis=1), np.bool_)
        mark[:, rim : rim + most] = beside[:, :-1] & ~thick_there[:, None]
    # A slanted stroke is as thin where it comes out of the rim, but only for a few rows. The grid has left gaps in the side.
    together = cv2.morphologyEx(out.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((2 * round(thick) + 3, 1), np.uint8))
    long = cv2.morphologyEx(together, cv2.MORPH_OPEN, np.ones((2 * max(10, round(4 * thick)) + 1, 1), np.uint8))
    return out & np.asarray(long, np.bool_)


def without_boxes(mask: Mask, text: Mask, thick: float) -> Mask:
    """Borders of boxes around text (legends, notes) taken out: paper that is closed in by four straight sides."""
    count, _, stats, _ = connected(~mask)
    h, w = mask.shape
    out = mask.copy()
    grown = round(thick) + 2
    for i in range(1, count):
        x, y, bw, bh, area = (int(v) for v in stats[i])
        if x == 0 or y == 0 or x + bw == w or y + bh == h or min(bw, bh) < 8 or area < 0.4 * bw * bh:
            continue
        if text[y : y + bh, x : x + bw].sum() < 0.12 * bw * bh:
            continue
        sides = (
            seen_along(mask[max(0, y - 2) : y + 1, x : x + bw], 0),
            seen_along(mask[y + bh - 1 : y + bh + 2, x : x + bw], 0),
            seen_along(mask[y : y + bh, max(0, x - 2) : x + 1], 1),
            seen_along(mask[y : y + bh, x + bw - 1 : x + bw + 2], 1),
        )
        # Rounded corners leave the ends of each side open.
        if min(float(side[len(side) // 8 : max(1, 7 * len(side) // 8)].mean()) for side in sides) > 0.93:
            out[max(0, y - grown) : y + bh + grown, max(0, x - grown) : x + bw + grown] = False
    return out
