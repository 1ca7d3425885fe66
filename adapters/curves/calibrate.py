"""Both axes of a picture: frames are tried until one has labels that make sense on both sides."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from adapters.curves.axes import axis_of
from adapters.curves.frame import find_frames, strokes
from adapters.curves.picture import Picture
from adapters.curves.shapes import Axis, Floats, Frame, Grey, Line
from adapters.curves.sides import ink_colour, second_of
from adapters.curves.ticks import Label, columns_of_y, numbers, rows_of_x
from adapters.curves.words import Reader

Side = Literal["bottom", "top", "left", "right"]
DOUBTFUL = 0.5
"""An axis less sure than this may stand on the other side of the plot."""


@dataclass(frozen=True)
class Calibration:
    """A frame with its axes; an axis that could not be read is None."""

    frame: Frame
    x: Axis | None
    y: Axis | None
    x_labels: tuple[Label, ...] = ()
    y_labels: tuple[Label, ...] = ()

    @property
    def merit(self) -> float:
        return (
            sum((a.confidence + 0.08 * min(len(a.ticks), 6)) for a in (self.x, self.y) if a) + 0.08 * self.frame.score
        )


def marks(ink: Grey, level: float, frame: Frame, *, upright: bool) -> Floats:
    """Places of tick marks and grid lines along an axis: columns' x when `upright`, rows' y otherwise."""
    b = frame.box
    lines: Sequence[Line] = frame.columns if upright else frame.rows
    places = [line.at for line in lines]
    span = max(5, round(0.012 * max(b.width, b.height)))
    edges = (b.y1, b.y0) if upright else (b.x0, b.x1)
    for edge in edges[:1]:
        for direction in (-1, 1):
            a, z = sorted((edge + 2.5 * direction, edge + (2.5 + span) * direction))
            lo, hi = max(0, round(a)), round(z) + 1
            if upright:
                band = ink[lo:hi, max(0, round(b.x0)) : round(b.x1) + 1]
                profile = (band > level).mean(axis=0) if band.size else np.zeros(0)
                start = max(0, round(b.x0))
            else:
                band = ink[max(0, round(b.y0)) : round(b.y1) + 1, lo:hi]
                profile = (band > level).mean(axis=1) if band.size else np.zeros(0)
                start = max(0, round(b.y0))
            full = np.nonzero(np.r_[0, (profile > 0.75).astype(int), 0])[0]
            if len(full) == 0:
                continue
            runs = np.split(full, np.nonzero(np.diff(full) > 1)[0] + 1)
            places += [start + float(r.mean()) - 1 for r in runs if len(r) < 0.02 * max(b.width, b.height) + 3]
    if not places:
        return np.zeros(0)
    ordered = np.sort(np.array(places))
    pieces = np.split(ordered, np.nonzero(np.diff(ordered) > 2.0)[0] + 1)
    return np.array([float(np.median(q)) for q in pieces])


def calibrate(picture: Picture, read: Reader) -> Calibration | None:
    """The best calibrated frame, or None when there is nothing like a plot."""
    best: Calibration | None = None
    level = picture.text_level
    for frame in find_frames(picture.ink, picture.noise):
        found = calibrate_frame(picture, frame, level, read)
        if best is None or found.merit > best.merit + 0.02:
            best = found
        if best.x and best.y and min(best.x.confidence, best.y.confidence) > 0.8:
            break
    return best


def calibrate_frame(picture: Picture, frame: Frame, level: float, read: Reader) -> Calibration:
    x, x_labels = read_axis(picture, frame, level, read, "bottom")
    if x is None or x.confidence < DOUBTFUL:
        x, x_labels = surer((x, x_labels), read_axis(picture, frame, level, read, "top"))
    y, y_labels = read_axis(picture, frame, level, read, "left")
    if y is None or y.confidence < DOUBTFUL:
        y, y_labels = surer((y, y_labels), read_axis(picture, frame, level, read, "right"))
    return Calibration(frame, x, y, tuple(x_labels), tuple(y_labels))


Reading = tuple[Axis | None, Sequence[Label]]


def surer(one: Reading, other: Reading) -> Reading:
    """Of an axis on the usual side and one on the other the one that is surer."""
    a, b = one[0], other[0]
    return other if b is not None and (a is None or b.confidence > a.confidence + 0.1) else one


def read_axis(picture: Picture, frame: Frame, level: float, read: Reader, side: Side) -> Reading:
    """The axis on one side of the frame: of the ways in which its labels may be parted the one that explains most of them."""
    b = frame.box
    weak = max(14.0, 0.2 * level, 4 * picture.noise)
    upright = side in ("bottom", "top")
    readings = rows_of_x if upright else columns_of_y
    places_of_strokes = marks(picture.ink, max(weak, 0.5 * level), frame, upright=upright)
    p0, p1 = (b.x0, b.x1) if upright else (b.y1, b.y0)
    best: Axis | None = None
    best_labels: Sequence[Label] = ()
    most = -1.0
    for labels in readings(picture.rgb, picture.ink, level, frame, read, side):
        places = np.array([q.box.cx if upright else q.box.cy for q in labels])
        axis = axis_of(labels, places, places_of_strokes, p0, p1, upwards=not upright)
        explained = len(axis.ticks) / len(labels) if axis else 0.0
        merit = axis.confidence * (0.5 + 0.5 * explained) if axis else 0.0
        if merit > most + 0.02:
            best, best_labels, most = axis, labels, merit
        if axis is not None and explained > 0.99 and axis.confidence > 0.9:
            break
    return best, best_labels


def second_axis(picture: Picture, found: Calibration, read: Reader) -> Axis | None:
    """A y axis of its own at the right side; None where there is none, or it repeats the first."""
    if found.y is None or not found.y_labels:
        return None
    b = found.frame.box
    # The first axis' labels may stand at the right themselves.
    if found.y_labels[0].box.cx > b.cx:
        return None
    level = picture.text_level
    axis, labels = read_axis(picture, found.frame, level, read, "right")
    axis = second_of(axis, found.y) if numbers(labels) >= 3 else None
    if axis is None or stands_apart(picture.ink, level, found.frame, axis):
        return None
    return coloured(picture, axis)


def stands_apart(ink: Grey, level: float, frame: Frame, axis: Axis) -> bool:
    """Whether something with an upright side of its own stands between a frame and labels at its right, such as a colour bar: then
    they are the labels of that."""
    b = frame.box
    left = min(t.box.x0 for t in axis.ticks)
    between = ink[max(0, round(b.y0)) : round(b.y1) + 1, round(b.x1) + 5 : max(0, round(left) - 1)]
    return between.size > 0 and float((between > level).mean(axis=0).max()) > 0.5


def coloured(picture: Picture, axis: Axis) -> Axis:
    """With the colour of its labels."""
    return replace(axis, colour=ink_colour(picture.rgb, [t.box for t in axis.ticks]))


__all__ = ["Calibration", "calibrate", "calibrate_frame", "coloured", "marks", "second_axis", "strokes"]
