"""What the steps hand to each other. Pixels are of the working picture unless a name says `source`."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Labels = NDArray[np.int32]
Mask = NDArray[np.bool_]
Rgb = NDArray[np.uint8]
Grey = NDArray[np.float32]

Scale = Literal["linear", "log"]


@dataclass(frozen=True)
class Box:
    """A rectangle, its borders included: left, top, right, bottom in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def width(self) -> float:
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        return self.y1 - self.y0

    @property
    def cx(self) -> float:
        return (self.x0 + self.x1) / 2

    @property
    def cy(self) -> float:
        return (self.y0 + self.y1) / 2

    def grown(self, by: float) -> "Box":
        return Box(self.x0 - by, self.y0 - by, self.x1 + by, self.y1 + by)

    def away(self, point: Floats) -> float:
        """Distance of a point to it; 0 inside."""
        x, y = float(point[0]), float(point[1])
        return math.hypot(max(self.x0 - x, 0.0, x - self.x1), max(self.y0 - y, 0.0, y - self.y1))

    def overlap(self, other: "Box") -> float:
        """Shared area over the smaller one's area, 0-1."""
        w = min(self.x1, other.x1) - max(self.x0, other.x0)
        h = min(self.y1, other.y1) - max(self.y0, other.y0)
        least = min(self.width * self.height, other.width * other.height)
        return max(w, 0.0) * max(h, 0.0) / least if least > 0 else 0.0


@dataclass(frozen=True)
class Line:
    """A straight horizontal or vertical stroke: where it is, where it starts and ends, how thick it is."""

    at: float
    start: float
    end: float
    thick: float
    cover: float = 1.0

    @property
    def length(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Frame:
    """The plot area with the strokes that run over it."""

    box: Box
    rows: tuple[Line, ...] = ()
    columns: tuple[Line, ...] = ()
    sides: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    """How much of the left, top, right, bottom side is inked, 0-1."""
    score: float = 0.0


@dataclass(frozen=True)
class Word:
    """Text that was read, with the recogniser's own score."""

    text: str
    box: Box
    score: float
    upright: bool = False
    """True when it was written upwards, as beside a y axis."""


@dataclass(frozen=True)
class Tick:
    """A number beside an axis. `at` is the pixel along the axis."""

    value: float
    at: float
    text: str
    box: Box
    score: float


@dataclass(frozen=True)
class Axis:
    """Pixels to values: u = (pixel - p0) / (p1 - p0), value = v0 + u (v1 - v0), on a log axis in the logarithm."""

    scale: Scale
    p0: float
    p1: float
    v0: float
    v1: float
    ticks: tuple[Tick, ...] = ()
    residual: float = 0.0
    """Root mean square distance of the tick labels from the fit, as a part of the axis."""
    confidence: float = 1.0
    label: str = ""
    unit: str = ""
    colour: tuple[int, int, int] | None = None
    """That of its labels, unless they are black or grey: curves of this colour are its own."""
    through: tuple[tuple[float, float], ...] = ()
    """Of a second y axis: a pixel of each curve that is read on it, where the caller said which those are."""

    def values(self, pixels: Floats) -> Floats:
        u = (np.asarray(pixels, np.float64) - self.p0) / (self.p1 - self.p0)
        if self.scale == "log":
            low, high = math.log10(self.v0), math.log10(self.v1)
            return 10.0 ** np.clip(low + u * (high - low), -300, 300)
        return self.v0 + u * (self.v1 - self.v0)

    def pixels(self, values: Floats) -> Floats:
        if self.scale == "log":
            low, high = math.log10(self.v0), math.log10(self.v1)
            u = (np.log10(np.maximum(values, 1e-300)) - low) / (high - low)
        else:
            u = (np.asarray(values, np.float64) - self.v0) / (self.v1 - self.v0)
        return self.p0 + u * (self.p1 - self.p0)


@dataclass(frozen=True)
class Path:
    """One traced curve: N x 2 pixels (x, y) in drawing order."""

    points: Floats
    colour: tuple[int, int, int] = (0, 0, 0)
    width: float = 1.0
    gaps: float = 0.0
    """The part of its length that was bridged, 0-1."""
    shared: float = 0.0
    """The part of its length that it shares with other curves, 0-1."""
    doubt: float = 0.0
    """How near the second best way was at its junctions, 0-1."""
    dashed: bool = False
    name: str | None = None
    details: dict[str, Any] = field(default_factory=dict[str, Any])
