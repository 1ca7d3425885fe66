"""One picture in, one extraction out: the steps in their order, with the time that each took."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, Protocol, cast

import cv2
import numpy as np

from adapters.curves.calibrate import Calibration, calibrate, calibrate_frame, coloured, second_axis
from adapters.curves.check import chance, features
from adapters.curves.frame import corners, drawn, find_frames
from adapters.curves.grid import bridged
from adapters.curves.ink import Layer
from adapters.curves.lane import beyond_cover, sole_curve, without_hems, without_pointer_paths
from adapters.curves.layers import layers_of
from adapters.curves.legacy import scan
from adapters.curves.llm import Adviser, advised, ask
from adapters.curves.names import legend_area, legend_of, named, sample_area
from adapters.curves.picture import Picture, decode, prepare
from adapters.curves.shapes import Axis, Box, Floats, Frame, Path, Rgb, Scale, Tick, Word
from adapters.curves.sides import UNKNOWN, UNKNOWN_CHANCE, Side, not_names, on_the_first, sides_of
from adapters.curves.trace import trace
from adapters.curves.ways import evenly
from adapters.curves.words import Reader, equations_joined, read_boxes, remembering, titles_joined, written
from adapters.curves.words import engine as own_engine
from adapters.curves.work import Work
from domain.errors import Refused

Method = Literal["standard", "legacy", "llm"]


ACCEPTED = 0.9
"""Results at least so sure are taken as they are; the rest goes to a person."""

CUT = "there is far more ink than curves leave, and not all of it was followed: curves may be missing or made up"
CUT_CHANCE = 0.05
"""The confidence is at most so high where the tracer stopped early."""


def short(values: Floats) -> list[float]:
    return [float(f"{v:.7g}") for v in values]


class TextEngine(Protocol):
    def read(self, crops: Sequence[Rgb]) -> list[tuple[str, float]]: ...
    def find(self, rgb: Rgb, side: int = 640) -> list[Box]: ...


@dataclass(frozen=True)
class GivenAxis:
    """Two points of known value on one axis, in pixels of the source picture."""

    scale: Scale
    values: tuple[float, float]
    pixels: tuple[tuple[float, float], tuple[float, float]]
    title: str = ""
    """Quantity and unit, where the caller knows better than the picture's letters."""
    through: tuple[tuple[float, float], ...] = ()
    """Of a second y axis: a pixel of each curve that is read on it. Empty: the colour of its labels tells."""


@dataclass(frozen=True)
class Given:
    """A calibration by the caller."""

    x: GivenAxis
    y: GivenAxis
    y2: GivenAxis | None = None
    """A second y axis, where there is one."""
    count: int | None = None
    """Keep only so many curves, the clearest."""
    colours: tuple[tuple[int, int, int], ...] = ()
    """Keep only curves of these colours."""

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Given":
        """What `Extraction.calibration` gave, perhaps corrected. Raises Refused in words where it cannot be used."""
        try:
            given = Given.from_truth(data.get("axes", data))
            colours = tuple((int(r), int(g), int(b)) for r, g, b in data.get("colours", ()))
            count = data.get("count")
            given = replace(given, count=None if count is None else int(count), colours=colours)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise Refused(
                f"the calibration cannot be used ({type(error).__name__}: {error}); give x and y, each with scale and two calibration points of value and px"
            ) from None
        for letter, a, along in (("x", given.x, 0), ("y", given.y, 1), ("y2", given.y2, 1)):
            if a is None:
                continue
            if a.scale not in ("linear", "log"):
                raise Refused(f"the {letter} axis has scale {a.scale!r}; it must be linear or log")
            if a.values[0] == a.values[1] or abs(a.pixels[0][along] - a.pixels[1][along]) < 2:
                raise Refused(f"the two points of the {letter} axis are the same; give two that lie apart")
            if a.scale == "log" and min(a.values) <= 0:
                raise Refused(f"the {letter} axis is logarithmic, so its values must be above zero")
        return given

    @staticmethod
    def from_truth(axes: Mapping[str, Any]) -> "Given":
        def one(a: Mapping[str, Any]) -> GivenAxis:
            first, second = a["calibration"][:2]
            return GivenAxis(
                a["scale"],
                (float(first["value"]), float(second["value"])),
                ((float(first["px"][0]), float(first["px"][1])), (float(second["px"][0]), float(second["px"][1]))),
                str(a.get("title") or ""),
                tuple((float(x), float(y)) for x, y in a.get("through", ())),
            )

        return Given(one(axes["x"]), one(axes["y"]), one(axes["y2"]) if axes.get("y2") else None)

    @property
    def titles(self) -> dict[str, str]:
        """What the caller calls the axes."""
        axes = {"x": self.x, "y": self.y, "y2": self.y2}
        return {letter: axis.title for letter, axis in axes.items() if axis is not None and axis.title}


@dataclass(frozen=True)
class Options:
    method: Method = "standard"
    calibration: Given | None = None
    adviser: Adviser | None = None
    """Where the vision model of the method `llm` is."""
    page: int | None = None
    """Of a PDF, counted from 1. None: all pages."""
    chart: int | None = None
    """Of that page, in reading order, counted from 1. None: all charts."""


@dataclass(frozen=True)
class Curve:
    """Values in the axes' units; pixels in the source picture, N x 2."""

    name: str | None
    x: Floats
    y: Floats
    pixels: Floats
    confidence: float
    colour: tuple[int, int, int]
    axis: Side = "y"
    mark: tuple[float, float] = (0.0, 0.0)
    """A pixel of the source picture on it and as far from the others as may be, by which it can be pointed at."""


@dataclass(frozen=True)
class Part:
    """Where in a document a chart is: page and chart, both counted from 1."""

    page: int
    chart: int

    def __str__(self) -> str:
        return f"page {self.page} chart {self.chart}"


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
    part: Part | None = None
    second: Axis | None = None
    """A y axis at the right, where there is one."""
    exact: bool = False
    """True when the curves are the strokes of a PDF and not measured in pixels."""
    titles: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the caller calls the axes, by x, y, y2."""

    def calibration(self) -> dict[str, Any] | None:
        """The axes as two points each in source pixels, to be corrected by hand and given back."""
        if self.x is None or self.y is None:
            return None
        places = [(self.x.p0, self.y.p0), (self.x.p1, self.y.p0), (self.x.p0, self.y.p1)]
        if self.second is not None:
            places += [(self.x.p1, self.second.p0), (self.x.p1, self.second.p1)]
        corners: list[list[float]] = self.picture.to_source(np.array(places)).round(2).tolist()

        def points(a: Axis, first: list[float], second: list[float]) -> dict[str, Any]:
            return {"scale": a.scale, "calibration": [{"value": a.v0, "px": first}, {"value": a.v1, "px": second}]}

        axes = {"x": points(self.x, corners[0], corners[1]), "y": points(self.y, corners[0], corners[2])}
        if self.second is not None:
            through = [list(curve.mark) for curve in self.curves if curve.axis == "y2"]
            axes["y2"] = points(self.second, corners[3], corners[4]) | {"through": through}
        return axes

    def prediction(self) -> dict[str, Any]:
        def axis(a: Axis | None) -> dict[str, Any] | None:
            return None if a is None else {"scale": a.scale, "min": min(a.v0, a.v1), "max": max(a.v0, a.v1)}

        second = {} if self.second is None else {"y2": axis(self.second)}
        where = {"page": self.part.page, "chart": self.part.chart} if self.part else {}
        return where | {
            "axes": {"x": axis(self.x), "y": axis(self.y)} | second,
            "curves": [
                {
                    "name": c.name,
                    "x": short(c.x),
                    "y": short(c.y),
                    "confidence": round(c.confidence, 4),
                    "colour": list(c.colour),
                }
                | ({} if self.second is None else {"axis": c.axis, "mark": list(c.mark)})
                for c in self.curves
            ],
            "seconds": round(sum(self.timings_s.values()), 4),
            "confidence": round(self.confidence, 4),
            "accepted": self.confidence >= ACCEPTED,
            "axis_confidence": {
                "x": round(self.x.confidence, 4) if self.x else 0.0,
                "y": round(self.y.confidence, 4) if self.y else 0.0,
            }
            | ({} if self.second is None else {"y2": round(self.second.confidence, 4)}),
            "calibration": self.calibration(),
            "exact": self.exact,
            "timings_s": {k: round(v, 4) for k, v in self.timings_s.items()},
            "notes": list(self.notes),
        }


def given_calibration(picture: Picture, given: Given) -> Calibration:
    """The caller's calibration in the working picture."""
    points = picture.to_work(np.array([*given.x.pixels, *given.y.pixels]))
    xa, xb, ya, yb = points
    box = Box(min(xa[0], xb[0]), min(ya[1], yb[1]), max(xa[0], xb[0]), max(ya[1], yb[1]))
    # A corner that was clicked is some pixels off its stroke.
    frame = drawn(Frame(box), picture.ink, max(14.0, 0.2 * picture.text_level))

    def one(g: GivenAxis, p0: float, p1: float) -> Axis:
        return Axis(g.scale, p0, p1, g.values[0], g.values[1])

    return Calibration(frame, one(given.x, xa[0], xb[0]), one(given.y, ya[1], yb[1]))


def given_second(picture: Picture, given: Given, calibration: Calibration, read: Reader) -> Axis | None:
    """The caller's second y axis in the working picture, with the colour of its labels where they are found."""
    if given.y2 is None:
        return None
    pixels = picture.to_work(np.array([*given.y2.pixels, *given.y2.through]))
    (_, p0), (_, p1) = pixels[:2]
    found = second_axis(picture, calibration, read)
    through = tuple((float(x), float(y)) for x, y in pixels[2:])
    axis = Axis(given.y2.scale, float(p0), float(p1), *given.y2.values, through=through)
    return axis if found is None else replace(axis, colour=found.colour)


def with_ticks(axis: Axis, found: Axis | None) -> Axis:
    """A given axis keeps its values; the labels that were read serve to know the grid."""
    if found is None or found.scale != axis.scale:
        return axis
    return Axis(axis.scale, axis.p0, axis.p1, axis.v0, axis.v1, found.ticks, 0.0, 1.0)


@lru_cache(maxsize=1)
def ready() -> None:
    """Have the machine code of the steps, made or loaded, before the first picture: as the models of the text are."""
    line = np.zeros((80, 80), np.uint8)
    cv2.line(line, (4, 4), (76, 76), 1, 3)
    ink, none = line > 0, np.zeros(line.shape, np.bool_)
    bridged(ink, ink, [(0.0, 3)])
    trace([Layer(ink, none, ink, none, (0, 0, 0), False, (0, 0), 3.0)], 113.0)


def extract(data: bytes | Rgb, options: Options | None = None, engine: TextEngine | None = None) -> Extraction:
    """Axes and curves of a picture of one plot; for PDFs see `document.read`. Raises NotReadable for what is no picture."""
    options = options or Options()
    text: TextEngine = engine or own_engine()
    ready()
    read = remembering(text.read)
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
    found = calibrate(picture, read) if options.calibration is None else None
    if options.calibration is not None:
        calibration = given_calibration(picture, options.calibration)
        labels = calibrate_frame(picture, calibration.frame, picture.text_level, read)
        assert calibration.x and calibration.y
        calibration = Calibration(
            calibration.frame,
            with_ticks(calibration.x, labels.x),
            with_ticks(calibration.y, labels.y),
            labels.x_labels,
            labels.y_labels,
        )
    elif found is None:
        if options.method == "llm":
            ask(options.adviser, rgb)
        return Extraction(None, None, (), 0.0, times, picture, None, notes=("no pair of axes was found",))
    else:
        calibration = found
    lap("axes")
    missing = tuple(
        f"the {letter} axis could not be read; give a calibration"
        for letter, a in (("x", calibration.x), ("y", calibration.y))
        if a is None
    )
    if missing and options.method != "llm":
        # Without both axes there are no values, so nothing is traced.
        return Extraction(calibration.x, calibration.y, (), 0.0, times, picture, calibration.frame, notes=missing)
    advice: dict[str, Any] = {}
    if options.method == "llm":
        advice = ask(options.adviser, rgb)
        calibration = advised(advice, calibration)
        lap("adviser")
    frame = calibration.frame
    boxes = titles_joined(text.find(picture.rgb), frame)
    labels = [Word(t.text, t.box, t.score) for a in (calibration.x, calibration.y) if a for t in a.ticks]
    words = equations_joined(read_boxes(picture.rgb, boxes, read, labels))
    lap("text")
    x, y = calibration.x, calibration.y
    texts = [w.box for w in written(words, frame)]
    size = float(np.hypot(frame.box.width, frame.box.height))
    work = Work()
    legend = legend_of(picture.rgb, words, frame, read)
    if options.method == "legacy":
        paths, layers = scan(picture.rgb, frame, x, y, texts, picture.noise), []
        lap("trace")
    else:
        layers = layers_of(picture.rgb, frame, x, y, texts, picture.noise, sample_area(legend), legend_area(legend))
        lap("ink")
        paths = without_pointer_paths(
            without_hems(trace(layers, size, texts, sole_curve, work), layers, size), texts, size
        )
        left, _, right, _ = corners(frame)
        paths = beyond_cover(paths, size, left, right, picture.rgb)
        lap("trace")
    paths = named(picture.rgb, chosen(paths, options.calibration), words, frame, legend)
    paths = names_by_advice(paths, advice.get("names"), picture)
    lap("names")
    seen = features(x, y, paths, layers)
    confidence = (
        chance(seen)
        if options.method != "legacy"
        else 0.3 * min(x.confidence if x else 0.0, y.confidence if y else 0.0)
    )
    if x is None or y is None or not paths:
        confidence = min(confidence, 0.05)
    notes: list[str] = [
        f"the {letter} axis could not be read; give a calibration" for letter, a in (("x", x), ("y", y)) if a is None
    ]
    if work.cut:
        notes.append(CUT)
        confidence = min(confidence, CUT_CHANCE)
    if not paths:
        notes.append("no curve was found inside the plot")
    if options.calibration is None:
        second = not_names(second_axis(picture, calibration, read), paths, frame.box)
    else:
        second = given_second(picture, options.calibration, calibration, read)
    sides: list[Side] | None = on_the_first(paths)
    if second is not None and y is not None:
        y = coloured(picture, y)
        sides = sides_of(paths, y, second)
        if sides is None:
            notes.append(UNKNOWN)
            confidence = min(confidence, UNKNOWN_CHANCE)
    curves = curves_on(paths, x, y, second, sides, confidence, picture) if x and y else []
    lap("check")
    return Extraction(
        x,
        y,
        tuple(curves),
        confidence,
        times,
        picture,
        frame,
        tuple(paths),
        tuple(words),
        tuple(notes),
        seen,
        tuple(layers),
        second=second,
    )


def curves_on(
    paths: Sequence[Path],
    x: Axis,
    y: Axis,
    second: Axis | None,
    sides: Sequence[Side] | None,
    confidence: float,
    picture: Picture,
) -> list[Curve]:
    """Paths as values of their axes; each curve's share of the confidence."""
    sure = confidence ** (1 / max(1, len(paths)))
    out: list[Curve] = []
    marks: list[list[float]] = picture.to_source(marks_of(paths)).round(1).tolist() if paths else []
    for p, side, (mark_x, mark_y) in zip(paths, sides or on_the_first(paths), marks, strict=True):
        own = second if side == "y2" and second is not None else y
        values = x.values(p.points[:, 0]), own.values(p.points[:, 1])
        out.append(Curve(p.name, *values, picture.to_source(p.points), sure, p.colour, side, (mark_x, mark_y)))
    return out


def marks_of(paths: Sequence[Path]) -> Floats:
    """Of each path the point that lies furthest from the others; of one that is alone, its middle."""
    # A point in a few hundred is enough: they are compared each with each. The strokes of a PDF may have very few.
    few = [evenly(p.points, 120) for p in paths]
    marks: list[Floats] = []
    for k, own in enumerate(few):
        others = [q for j, q in enumerate(few) if j != k]
        if others:
            rest = np.concatenate(others)
            gaps = np.hypot(own[:, None, 0] - rest[None, :, 0], own[:, None, 1] - rest[None, :, 1]).min(axis=1)
            marks.append(own[int(np.argmax(gaps))])
        else:
            marks.append(own[len(own) // 2])
    return np.array(marks)


def names_by_advice(paths: Sequence[Path], advice: object, picture: Picture) -> list[Path]:
    """Names of the adviser for curves that have none, where its pixel lies on a curve of ours."""
    out = list(paths)
    if not isinstance(advice, list):
        return out
    for entry in cast("list[Any]", advice):
        try:
            at = picture.to_work(np.array([[float(entry["at"][0]), float(entry["at"][1])]]))[0]
            name = str(entry["name"])[:64]
        except (KeyError, TypeError, ValueError, IndexError):
            continue
        gaps = [float(np.hypot(*(p.points - at).T).min()) for p in out]
        if gaps and min(gaps) < 12 and out[int(np.argmin(gaps))].name is None:
            k = int(np.argmin(gaps))
            out[k] = replace(out[k], name=name)
    return out


def chosen(paths: Sequence[Path], given: Given | None) -> list[Path]:
    """What the caller said about colours and number, applied."""
    out = list(paths)
    if given and given.colours:
        out = [
            p
            for p in out
            if min(sum((a - b) ** 2 for a, b in zip(p.colour, c, strict=True)) for c in given.colours) < 90**2
        ]
    if given and given.count is not None:
        out = sorted(out, key=lambda p: -float(p.details.get("fresh", 0.0)))[: given.count]
    return out


__all__ = ["Curve", "Extraction", "Given", "GivenAxis", "Options", "Tick", "extract", "find_frames"]
