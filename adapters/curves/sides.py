"""Two y axes: which curve is read on which. Told by the caller, else by the colour of the labels; else nobody knows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from adapters.curves.shapes import Axis, Box, Floats, Path, Rgb

Side = Literal["y", "y2"]
Colour = tuple[int, int, int]
NEAR = 70
"""Labels and curves of one colour are drawn with the same pen, but for the paper that shines through thin letters."""
UNKNOWN = (
    "there is a second y axis at the right, and nothing tells which curves belong to it; all are read on the first: "
    "say which in a corrected calibration"
)
UNKNOWN_CHANCE = 0.4
"""With two axes and no evidence, a result is no better than this."""


def chromatic(colour: Colour | None) -> bool:
    return colour is not None and max(colour) - min(colour) > 50


def usual_colour(colours: Sequence[Colour]) -> Colour | None:
    """The colour that most of them have, where it is one."""
    if not colours:
        return None
    r, g, b = (int(v) for v in np.median(np.array(colours), axis=0))
    return (r, g, b) if chromatic((r, g, b)) else None


def ink_colour(rgb: Rgb, boxes: Sequence[Box]) -> Colour | None:
    """The colour of the letters in some boxes of a picture: that of their strongest pixels."""
    found: list[Colour] = []
    for box in boxes:
        part = rgb[max(0, round(box.y0)) : round(box.y1) + 1, max(0, round(box.x0)) : round(box.x1) + 1]
        if part.size == 0:
            continue
        pixels = part.reshape(-1, 3).astype(np.int64)
        paper = np.median(pixels, axis=0)
        away = np.abs(pixels - paper).max(axis=1)
        strongest = pixels[away >= np.percentile(away, 90)]
        r, g, b = (int(v) for v in np.median(strongest, axis=0))
        found.append((r, g, b))
    return usual_colour(found)


def apart(one: Colour, other: Colour) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def on_the_first(paths: Sequence[Path]) -> list[Side]:
    return ["y" for _ in paths]


def _distance(points: Floats, at: Floats) -> float:
    """Of a pixel from a chain of strokes, which may be long ones."""
    begin, step = points[:-1], np.diff(points, axis=0)
    length = np.maximum((step**2).sum(axis=1), 1e-12)
    share = np.clip(((at - begin) * step).sum(axis=1) / length, 0.0, 1.0)
    return float(np.hypot(*(begin + share[:, None] * step - at).T).min()) if len(step) else float("inf")


def nearest(paths: Sequence[Path], at: tuple[float, float]) -> int:
    """The number of the curve that passes a pixel most closely; -1 without any curve."""
    gaps = [_distance(path.points, np.array(at)) for path in paths]
    return int(np.argmin(gaps)) if gaps else -1


def sides_of(paths: Sequence[Path], first: Axis, second: Axis | None) -> list[Side] | None:
    """The axis of each curve; None where there are two axes and no evidence."""
    if second is None:
        return on_the_first(paths)
    if second.through:
        on_second = {nearest(paths, at) for at in second.through}
        return ["y2" if k in on_second else "y" for k in range(len(paths))]
    if not chromatic(first.colour) and not chromatic(second.colour):
        return None
    out: list[Side] = []
    for path in paths:
        left = apart(path.colour, first.colour) if first.colour is not None else None
        right = apart(path.colour, second.colour) if second.colour is not None else None
        if left is not None and right is not None:
            out.append("y2" if right < left else "y")
        elif right is not None:
            out.append("y2" if right < NEAR else "y")
        else:
            out.append("y" if left is not None and left < NEAR else "y2")
    # If all curves were on one side the colours would mean something else.
    return out if len(set(out)) == 2 or len(paths) == 1 else None


def not_names(second: Axis | None, paths: Sequence[Path], frame: Box) -> Axis | None:
    """A second axis, unless its labels are the names of curves: then each stands where a curve ends at the frame's right side.

    Steps of a gate voltage make curves at even distances, whose names are numbers that any line fits.
    """
    if second is None:
        return None
    ends = [path.points[int(np.argmax(path.points[:, 0]))] for path in paths]
    at_the_side = [float(y) for x, y in ends if x > frame.x1 - 0.06 * frame.width]
    named = 0
    for tick in second.ticks:
        near = [y for y in at_the_side if abs(y - tick.at) < max(3.0, 0.6 * tick.box.height)]
        if near:
            at_the_side.remove(near[0])
            named += 1
    return None if named >= 3 and named >= 0.75 * len(second.ticks) else second


def second_of(axis: Axis | None, first: Axis | None) -> Axis | None:
    """A right hand axis that is sure enough and not the first one written again."""
    if axis is None or first is None or axis.confidence < 0.6 or len(axis.ticks) < 3:
        return None
    span = abs(first.v1 - first.v0)
    same = axis.scale == first.scale and abs(axis.v0 - first.v0) + abs(axis.v1 - first.v1) < 0.02 * span
    return None if same else replace(axis)
