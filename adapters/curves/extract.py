"""One picture in, one extraction out: the steps in their order, with the time that each took."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from adapters.curves.calibrate import Calibration, calibrate, calibrate_frame, text_level
from adapters.curves.check import chance, features
from adapters.curves.frame import find_frames, settled, strokes
from adapters.curves.ink import layers_of
from adapters.curves.names import named
from adapters.curves.picture import Picture, decode, prepare
from adapters.curves.shapes import Axis, Box, Floats, Frame, Path, Rgb, Scale, Tick, Word
from adapters.curves.trace import trace
from adapters.curves.words import engine as own_engine
from adapters.curves.words import read_boxes

Method = Literal["standard", "legacy", "llm"]


class TextEngine(Protocol):
    def read(self, crops: Sequence[Rgb]) -> list[tuple[str, float]]: ...
    def find(self, rgb: Rgb, side: int = 640) -> list[Box]: ...


@dataclass(frozen=True)
class GivenAxis:
    """Two points of known value on one axis, in pixels of the source picture."""

    scale: Scale
    values: tuple[float, float]
    pixels: tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Given:
    """A calibration by the caller."""

    x: GivenAxis
    y: GivenAxis

    @staticmethod
    def from_truth(axes: Mapping[str, Any]) -> "Given":
        def one(a: Mapping[str, Any]) -> GivenAxis:
            first, second = a["calibration"][:2]
            return GivenAxis(a["scale"], (float(first["value"]), float(second["value"])), ((float(first["px"][0]), float(first["px"][1])), (float(second["px"][0]), float(second["px"][1]))))

        return Given(one(axes["x"]), one(axes["y"]))


@dataclass(frozen=True)
class Options:
    method: Method = "standard"
    calibration: Given | None = None


@dataclass(frozen=True)
class Curve:
    """Values in the axes' units; pixels in the source picture, N x 2."""

    name: str | None
    x: Floats
    y: Floats
    pixels: Floats
    confidence: float
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Extraction:
    x: Axis | None
    y: Axis | None
    curves: tuple[Curve, ...]
    confidence: float
    timings_s: dict[str, float]
    picture: Picture
    frame: Frame | None
    paths: tuple[Path, ...] = ()
    words: tuple[Word, ...] = ()
    notes: tuple[str, ...] = ()
    features: dict[str, float] = field(default_factory=dict[str, float], repr=False)
    layers: tuple[Any, ...] = field(default=(), repr=False)

    def prediction(self) -> dict[str, Any]:
        def axis(a: Axis | None) -> dict[str, Any] | None:
            return None if a is None else {"scale": a.scale, "min": min(a.v0, a.v1), "max": max(a.v0, a.v1)}

        return {
            "axes": {"x": axis(self.x), "y": axis(self.y)},
            "curves": [{"name": c.name, "x": c.x.tolist(), "y": c.y.tolist()} for c in self.curves],
            "seconds": sum(self.timings_s.values()),
            "confidence": self.confidence,
        }


def given_calibration(picture: Picture, given: Given) -> Calibration:
    """The caller's calibration in the working picture."""
    points = picture.to_work(np.array([*given.x.pixels, *given.y.pixels]))
    xa, xb, ya, yb = points
    box = Box(min(xa[0], xb[0]), min(ya[1], yb[1]), max(xa[0], xb[0]), max(ya[1], yb[1]))
    level = max(14.0, 0.2 * text_level(picture.ink, picture.noise))
    length = int(0.16 * min(picture.ink.shape))
    frame = settled(Frame(box), strokes(picture.ink, level, length, upright=False), strokes(picture.ink, level, length, upright=True), 0.0)

    def one(g: GivenAxis, p0: float, p1: float) -> Axis:
        return Axis(g.scale, p0, p1, g.values[0], g.values[1])

    return Calibration(frame, one(given.x, xa[0], xb[0]), one(given.y, ya[1], yb[1]))


def with_ticks(axis: Axis, found: Axis | None) -> Axis:
    """A given axis keeps its values; the labels that were read serve to know the grid."""
    if found is None or found.scale != axis.scale:
        return axis
    return Axis(axis.scale, axis.p0, axis.p1, axis.v0, axis.v1, found.ticks, 0.0, 1.0)


def extract(data: bytes | Rgb, options: Options | None = None, engine: TextEngine | None = None) -> Extraction:
    """Axes and curves of a picture of a plot. Raises NotReadable when the bytes are no picture."""
    options = options or Options()
    text: TextEngine = engine or own_engine()
    times: dict[str, float] = {}
    last = time.perf_counter()

    def lap(step: str) -> None:
        nonlocal last
        now = time.perf_counter()
        times[step] = times.get(step, 0.0) + now - last
        last = now

    rgb = decode(data) if isinstance(data, bytes) else data
    angle = None
    if options.calibration is not None:
        (ax, ay), (bx, by) = options.calibration.x.pixels
        angle = float(np.degrees(np.arctan2(-(by - ay), bx - ax)))
    picture = prepare(rgb, angle)
    lap("load")
    found = calibrate(picture, text.read) if options.calibration is None else None
    if options.calibration is not None:
        calibration = given_calibration(picture, options.calibration)
        seen = calibrate_frame(picture, calibration.frame, text_level(picture.ink, picture.noise), text.read)
        assert calibration.x and calibration.y
        calibration = Calibration(calibration.frame, with_ticks(calibration.x, seen.x), with_ticks(calibration.y, seen.y), seen.x_labels, seen.y_labels)
    elif found is None:
        return Extraction(None, None, (), 0.0, times, picture, None, notes=("no pair of axes was found",))
    else:
        calibration = found
    lap("axes")
    boxes = text.find(picture.rgb)
    words = read_boxes(picture.rgb, boxes, text.read)
    lap("text")
    frame = calibration.frame
    x, y = calibration.x, calibration.y
    texts = [w.box for w in words if w.score > 0.55]
    layers = layers_of(picture.rgb, frame, x, y, texts, picture.noise)
    lap("ink")
    size = float(np.hypot(frame.box.width, frame.box.height))
    paths = trace(layers, size, texts)
    lap("trace")
    paths = named(picture.rgb, paths, words, frame)
    lap("names")
    seen_features = features(x, y, paths, layers)
    confidence = chance(seen_features)
    lap("check")
    curves: list[Curve] = []
    if x and y:
        for p in paths:
            curves.append(Curve(p.name, x.values(p.points[:, 0]), y.values(p.points[:, 1]), picture.to_source(p.points), 1.0, p.colour))
    return Extraction(x, y, tuple(curves), confidence, times, picture, frame, tuple(paths), tuple(words), features=seen_features, layers=tuple(layers))


__all__ = ["Curve", "Extraction", "Given", "GivenAxis", "Options", "Tick", "extract", "find_frames"]
