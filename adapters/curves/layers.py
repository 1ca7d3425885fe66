"""The curve ink of a plot, a layer for each colour: without grid, frame and text."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from adapters.curves.grid import comb, grid_bands, peaks_of, showing, without_grid
from adapters.curves.ink import (
    Layer,
    Painted,
    bleeding,
    boxes_around,
    contrast,
    framed,
    gathered,
    lab_to_rgb,
    lettered,
    palette,
    plot_area,
    side_rests,
    stroke_width,
    text_mask,
    without_boxes,
    without_letters,
    without_mixed,
    without_residue,
    without_rims,
    without_specks,
    without_text,
)
from adapters.curves.kit import strongest, weakest
from adapters.curves.shapes import Axis, Box, Floats, Frame, Mask, Rgb


@dataclass(frozen=True)
class Scene:
    """What all layers of a plot share. Arrays have the plot's size."""

    strength: Floats
    """How dark the picture is, 0-1; 1 is the darkness of its blackest ink, but for a few pixels."""
    ink: Mask
    grey: Mask
    """Where the ink, or paper, has no colour."""
    painted: Mask
    """Ink of all colours but black."""
    text: Mask
    texts: Sequence[Box]
    samples: Mask
    covered: Mask
    origin: tuple[int, int]
    rim: int


def layers_of(
    rgb: Rgb,
    frame: Frame,
    x: Axis | None,
    y: Axis | None,
    texts: Sequence[Box],
    noise: float,
    legend: Sequence[Box] = (),
    covers: Sequence[Box] = (),
) -> list[Layer]:
    """Curve ink by colour, the strongest layers first. `legend` are places of samples, whose ink is no curve's; `covers` are
    places where curves may run unseen."""
    x0, y0, x1, y1 = plot_area(frame)
    part = np.ascontiguousarray(rgb[y0:y1, x0:x1])
    h, w = part.shape[:2]
    origin = (x0, y0)
    reach = max(15, 2 * (max(w, h) // 50) + 1)
    v = contrast(part, reach)
    strength = strongest(v)
    text = text_mask((h, w), texts, origin, 1)
    samples = text_mask((h, w), legend, origin, 1)
    inked = strength[strength > max(25, 4 * noise)]
    top = float(np.percentile(inked, 95)) if len(inked) > 50 else 255.0
    weak_level = max(14.0, 0.15 * top, 4 * noise)
    coloured, inks = inks_of(part, v, strength, weak_level, noise, text | samples)
    grey = ~coloured
    dark = strength[grey & (strength > 25)]
    level = 0.42 * top
    if inks:
        level = 0.42 * float(np.percentile(dark, 95)) if len(dark) > 50 else 110.0
    black = (grey & (strength > max(level, weak_level)), (0, 0, 0), False)
    masks = without_rims([*inks, black])
    painted = np.zeros((h, w), np.bool_)
    for mask, _, chromatic in masks:
        if chromatic:
            painted |= mask
    scene = Scene(
        np.clip(strength / top, 0, 1),
        strength > weak_level,
        grey,
        painted,
        text,
        texts,
        samples,
        text_mask((h, w), covers, origin, 0),
        origin,
        max(2, round(0.006 * max(w, h))),
    )
    usual = stroke_width(painted)
    layers: list[Layer] = []
    for ink in masks:
        mask, _, chromatic = ink
        others = np.zeros((h, w), np.bool_)
        for other, _, is_colour in masks:
            if other is not mask and (is_colour or chromatic):
                others |= other
        layers.append(layer_of(scene, ink, others, x, y, usual if inks else None))
    return layers


def inks_of(
    part: Rgb, v: Floats, strength: Floats, weak_level: float, noise: float, written: Mask
) -> tuple[Mask, list[Painted]]:
    """Where a plot has colour, and the ink of each of its colours. `v` and `strength` are the contrast to the paper around."""
    w = part.shape[1]
    lab = np.asarray(cv2.cvtColor(part.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float64)
    bleed = bleeding(v)
    hued = v
    white = np.array([100.0, 0.0, 0.0])
    paper = strength < weak_level
    # A plot that is all black asks for no colours.
    if (bleed > 0.02 or (strength - weakest(v))[~paper].max(initial=0.0) > 34) and paper.any():
        white = np.array([np.median(lab[..., k][paper]) for k in range(3)])
    if bleed > 0.02:
        sigma = min(5.0, 1.5 + 35 * bleed)
        lab = white + gathered(lab - white, strength, sigma)
        hued = gathered(v, strength, sigma)
    depth = strongest(hued)
    chroma = depth - weakest(hued)
    coloured = (chroma > max(34.0, 5 * noise)) & (chroma > 0.3 * depth)
    if bleed > 0.02:
        peak = np.asarray(cv2.dilate(strength.astype(np.float32), np.ones((9, 9), np.uint8)), np.float64)
        coloured &= (strength > 0.35 * peak) & (strength > weak_level)
    colours = palette(lab, coloured & (chroma > 45) & ~written, max(40, int(0.25 * w)))
    if not colours:
        return coloured, []
    # A rim pixel mixes a colour with the paper: it lies on the line between them in Lab.
    away = np.ascontiguousarray((lab[coloured] - white).T)
    least, mixed, best = (np.full(away.shape[1], value) for value in (np.inf, 0.0, -1.0))
    for k, centre in enumerate(colours):
        d = centre - white
        mix = np.clip(d @ away / float(d @ d), 0, 1.25)
        rest = [(away[c] - mix * d[c]) ** 2 for c in range(3)]
        cost = np.sqrt(0.5 * rest[0] + rest[1] + rest[2])
        nearer = cost < least
        least[nearer], mixed[nearer], best[nearer] = cost[nearer], mix[nearer], k
    inks: list[Painted] = []
    for k, centre in enumerate(colours):
        mask = np.zeros(coloured.shape, np.bool_)
        mask[coloured] = (best == k) & (mixed > 0.42) & (least < 30)
        inks.append((mask, lab_to_rgb(centre), True))
    return coloured, inks


def layer_of(
    scene: Scene,
    ink: Painted,
    others: Mask,
    x: Axis | None,
    y: Axis | None,
    usual: float | None,
) -> Layer:
    """One ink without grid, frame and text. `others` is the ink that it may run under, `usual` the width of coloured strokes where
    there are any."""
    mask, colour, chromatic = ink
    h, w = mask.shape
    x0, y0 = scene.origin
    text = scene.text
    seen = mask if chromatic else scene.grey & scene.ink
    strength = scene.strength * seen
    free = ~text
    found_rows = peaks_of(strength, seen, free)
    found_columns = peaks_of(strength.T, seen.T, free.T)
    rows = grid_bands(found_rows, comb(y, [q for q in found_rows if q.cover > 0.5], y0, h), h)
    columns = grid_bands(found_columns, comb(x, [q for q in found_columns if q.cover > 0.5], x0, w), w)
    # A coloured grid has many lines; one or two "lines" of a colour are flat pieces of its curve.
    if chromatic and len(rows) + len(columns) < 4:
        rows, columns = [], []
    solid, solid_c = showing(mask, rows), showing(np.ascontiguousarray(mask.T), columns)
    bare, grid = without_grid(mask, strength, solid, solid_c)
    bare &= ~scene.samples
    cleared = scene.rim if not chromatic or framed(mask, scene.rim) else 0
    if cleared:
        edge = np.ones_like(bare)
        edge[cleared:-cleared, cleared:-cleared] = False
        bare &= ~edge
    bare = (
        without_letters(bare, text_mask((h, w), lettered(mask, scene.ink, scene.texts, scene.origin), scene.origin, 1))
        if chromatic
        else without_text(without_boxes(bare, text, stroke_width(bare)), text, stroke_width(bare & ~text))
        & ~boxes_around(bare, text, stroke_width(bare))
    )
    if not chromatic and usual is not None:
        bare = without_residue(bare, scene.painted, usual)
    thick = stroke_width(bare, grid & ~bare)
    # A line of the grid hides no curve that is much thicker: it only cuts it where they cross, which is no way to run unseen.
    fine = thick > 2 * float(np.median([b.thick for b in (*solid, *solid_c)] or [0])) + 1
    hidden = (
        (np.zeros_like(mask) if fine else grid & mask)
        | text
        | scene.samples
        | scene.covered
        | np.asarray(cv2.dilate(others.astype(np.uint8), np.ones((3, 3), np.uint8)), np.bool_)
    )
    if chromatic:
        bare = without_mixed(bare, scene.painted & ~mask, thick)
    bare = without_specks(bare & ~side_rests(bare, cleared, thick), max(2, round(0.6 * thick)))
    return Layer(bare, hidden, scene.ink, text, colour, chromatic, scene.origin, thick, cleared, scene.strength)
