"""A scan as a picture: lines over one axis, images over two, spectra as an image of all of them.

Kept in memory is what the picture can show, whatever the size of the scan: lines as least and greatest of each of `BINS`
stretches, so that no spike is lost; images as means of cells. A scan over three axes and more is an image too: one row for each
pass of the innermost axis.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, cast

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from adapters.artifacts.rows import Rows, fits
from domain.plan import Branch, ListPositions, LogPositions, Move, Plan, branches, places
from domain.readings import BranchColumns, ColumnInfo

drawing: Any = matplotlib
Floats = np.ndarray[Any, np.dtype[np.float64]]

#: What a line, and each side of an image, is made of at most.
BINS = 2_000
SIDE = 600
#: More readings than these have no room in one picture.
PANELS = 6
#: So few spectra are drawn as lines.
OVERLAID = 6
BLUE = "#1f5fa8"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.formatter.limits": (-4, 5),
    "axes.formatter.useoffset": False,
    "text.usetex": False,
}


def named(name: str, unit: str) -> str:
    return plain(f"{name} ({unit})" if unit else name)


def plain(text: str) -> str:
    """What people wrote is no formula."""
    return text.replace("$", r"\$")


# ----------------------------------------------------------------------------------------------------------------- the axes


@dataclass(frozen=True)
class _Scale:
    """One side of a panel: what stands where. `edges` are the borders of its bins, in the unit of the label, rising or falling."""

    label: str
    edges: Floats
    log: bool = False
    ticks: tuple[list[float], list[str]] | None = None

    @property
    def centres(self) -> Floats:
        return np.sqrt(self.edges[1:] * self.edges[:-1]) if self.log else (self.edges[1:] + self.edges[:-1]) / 2


def _count(move: Move) -> int:
    return len(move.positions.values) if isinstance(move.positions, ListPositions) else move.positions.num


def _numbered(label: str, size: int, bins: int, ticks: tuple[list[float], list[str]] | None = None) -> _Scale:
    per = math.ceil(size / bins)
    return _Scale(label, np.minimum(np.arange(bins + 1) * per, size) - 0.5, ticks=ticks)


def _scale(move: Move, unit: str, bins: int) -> _Scale:
    """Of an axis of the plan, its positions in `bins` bins."""
    label = named(f"{move.instrument}.{move.channel}", unit)
    size, at = _count(move), move.positions.at
    if isinstance(move.positions, ListPositions):
        values = move.positions.values
        if not isinstance(values[0], float):
            shown = range(0, size, math.ceil(size / 20))
            return _numbered(label, size, bins, ([float(n) for n in shown], [plain(str(values[n])) for n in shown]))
        steps = np.diff(np.array(values, np.float64))
        if not (np.all(steps > 0) or np.all(steps < 0)):
            return _numbered(f"{label}, position no.", size, bins)
    log = isinstance(move.positions, LogPositions) and cast("float", at(0)) > 0 and size > 1
    to: Callable[[float], float] = math.log if log else float
    per = math.ceil(size / bins)

    def border(index: int) -> float:
        """Half-way between two positions; beyond the ends as far as on their other side."""
        if size == 1:
            return to(cast("float", at(0))) + index - 0.5
        inner = min(max(index, 1), size - 1)
        low, high = to(cast("float", at(inner - 1))), to(cast("float", at(inner)))
        return (low + high) / 2 + (index - inner) * (high - low)

    edges = np.array([border(min(n * per, size)) for n in range(bins + 1)])
    if len(edges) > 1 and np.any(np.diff(edges) == 0):  # a zero step: `start` and `stop` are the same
        return _numbered(f"{label}, position no.", size, bins)
    return _Scale(label, np.exp(edges) if log else edges, log)


def _bins(size: int, most: int) -> int:
    return math.ceil(size / math.ceil(size / most))


# --------------------------------------------------------------------------------------------------------------- the panels


class _Line:
    """A reading over a position, or over time."""

    wide = True

    def __init__(self, column: ColumnInfo, x: ColumnInfo | None, total: int, log: bool) -> None:
        self._column, self._x, self._total, self._log = column, x, total, log
        #: Up to twice as many points as bins are drawn as they are.
        self._per = 1 if total <= 2 * BINS else math.ceil(total / BINS)
        bins = math.ceil(total / self._per)
        self._at = np.full(bins, np.nan)
        self._low, self._high = np.full(bins, np.inf), np.full(bins, -np.inf)
        self._first_s: float | None = None

    def add(self, rows: Rows, ordinal: "np.ndarray[Any, np.dtype[np.int64]]", _: "Sequence[Any]") -> None:
        if self._first_s is None:
            self._first_s = float(rows.time[0])
        x = rows.numbers(self._x.name) if self._x is not None else rows.time - self._first_s
        y = rows.numbers(self._column.name)
        bins, known = ordinal // self._per, np.isfinite(y)
        self._at[bins[::-1]] = x[::-1]  # of each stretch the place where it begins
        np.minimum.at(self._low, bins[known], y[known])
        np.maximum.at(self._high, bins[known], y[known])

    def draw(self, axes: Any) -> None:
        there = self._low <= self._high
        x, low, high = self._at, np.where(there, self._low, np.nan), np.where(there, self._high, np.nan)
        if self._per == 1:
            few = len(x) <= 60
            axes.plot(x, low, "-", color=BLUE, lw=1.1, marker="o" if few else "", ms=3.5)
        else:
            axes.plot(np.repeat(x, 2), np.column_stack([low, high]).ravel(), "-", color=BLUE, lw=0.8)
        if self._log:
            axes.set_xscale("log")
        axes.margins(x=0.02)
        axes.set_ylabel(named(self._column.name, self._column.unit))
        axes.set_xlabel("time (s)" if self._x is None else named(self._x.name, self._x.unit))
        if not there.any():
            _nothing(axes)


class _Image:
    """A reading over two axes, or over the innermost one and all passes of it."""

    wide = False

    def __init__(self, column: ColumnInfo, x: _Scale, y: _Scale, sizes: tuple[int, int], outer: Sequence[int]) -> None:
        self._column, self._x, self._y, self._outer = column, x, y, outer
        self._shape = (len(y.edges) - 1, len(x.edges) - 1)
        self._per = (math.ceil(sizes[0] / self._shape[0]), math.ceil(sizes[1] / self._shape[1]))
        self._sum, self._hits = np.zeros(self._shape), np.zeros(self._shape, np.int64)

    def add(self, rows: Rows, _: Any, indices: "Sequence[np.ndarray[Any, np.dtype[np.int64]]]") -> None:
        values = rows.numbers(self._column.name)
        line = np.zeros_like(indices[0])
        for size, index in zip(self._outer, indices[:-1], strict=True):
            line = line * size + index
        known = np.isfinite(values)
        cell = (line[known] // self._per[0], indices[-1][known] // self._per[1])
        np.add.at(self._sum, cell, values[known])
        np.add.at(self._hits, cell, 1)

    def draw(self, axes: Any) -> None:
        _mesh(axes, self._x, self._y, _mean(self._sum, self._hits), named(self._column.name, self._column.unit))


class _Spectra:
    """Arrays of one dimension over the points at which they were taken: as an image, or a few as lines."""

    wide = False

    def __init__(self, column: ColumnInfo, x: ColumnInfo | None, y: _Scale, total: int) -> None:
        self._column, self._x, self._y, self._total = column, x, y, total
        self._elements = column.shape[0]
        self._lines = len(y.edges) - 1
        self._shown = _bins(self._elements, SIDE)
        self._sum = np.zeros((self._lines, self._shown))
        self._hits = np.zeros((self._lines, self._shown), np.int64)
        self._axis: Floats | None = None

    def add(self, rows: Rows, ordinal: "np.ndarray[Any, np.dtype[np.int64]]", _: Any) -> None:
        values = _elements(rows.arrays[self._column.name], self._elements)
        if self._x is not None and self._axis is None:
            self._axis = _elements(rows.arrays[self._x.name][:1], self._elements)[0]
        sums, hits = _folded(values, self._shown)
        line = ordinal // math.ceil(self._total / self._lines)
        np.add.at(self._sum, line, sums)
        np.add.at(self._hits, line, hits)

    def draw(self, axes: Any) -> None:
        x = self._over()
        found, label = _mean(self._sum, self._hits), named(self._column.name, self._column.unit)
        if self._lines > OVERLAID:
            _mesh(axes, x, self._y, found, label)
            return
        for n, line in enumerate(found):
            share = n / max(1, self._lines - 1)
            colour = drawing.colormaps["viridis"](0.85 * share) if self._lines > 1 else BLUE
            tick = self._y.ticks[1][n] if self._y.ticks else f"{self._y.centres[n]:.6g}"
            axes.plot(x.centres, line, "-", lw=1, color=colour, label=tick)
        axes.margins(x=0)
        axes.set_xlabel(x.label)
        axes.set_ylabel(label)
        if self._lines > 1:
            axes.legend(title=self._y.label, fontsize=7, title_fontsize=7)

    def _over(self) -> _Scale:
        """Its wavelengths (or whatever), if the instrument says them along; else its elements are counted."""
        if self._x is not None and self._axis is not None:
            steps = np.diff(self._axis)
            if len(steps) and (np.all(steps > 0) or np.all(steps < 0)):
                inner = (self._axis[1:] + self._axis[:-1]) / 2
                edges = np.concatenate(
                    [[self._axis[0] - steps[0] / 2], inner, [self._axis[-1] + steps[-1] / 2]], dtype=np.float64
                )
                per = math.ceil(self._elements / self._shown)
                at = np.minimum(np.arange(self._shown + 1) * per, self._elements)
                return _Scale(named(self._x.name, self._x.unit), edges[at])
        return _numbered("element", self._elements, self._shown)


class _Pictures:
    """Arrays of two dimensions: their mean."""

    wide = False

    def __init__(self, column: ColumnInfo) -> None:
        self._column = column
        self._height, self._width = column.shape
        self._sum = np.zeros((_bins(self._height, SIDE), _bins(self._width, SIDE)))
        self._hits = np.zeros_like(self._sum, np.int64)
        self._count = 0

    def add(self, rows: Rows, _: Any, __: Any) -> None:
        values = rows.arrays[self._column.name].astype(np.float64)
        if values.shape[1:] != (self._height, self._width):
            return
        self._count += len(values)
        sums, hits = _folded(values, self._sum.shape[1])
        for n in range(self._height):
            line = n // math.ceil(self._height / len(self._sum))
            self._sum[line] += sums[:, n].sum(axis=0)
            self._hits[line] += hits[:, n].sum(axis=0)

    def draw(self, axes: Any) -> None:
        x, y = (
            _numbered(label, size, bins)
            for label, size, bins in zip(
                ("column", "row"), (self._width, self._height), self._sum.shape[::-1], strict=True
            )
        )
        label = named(self._column.name, self._column.unit)
        _mesh(axes, x, y, _mean(self._sum, self._hits), f"mean of {self._count} {label}" if self._count > 1 else label)
        axes.invert_yaxis()


def _elements(values: "np.ndarray[Any, Any]", elements: int) -> Floats:
    """Rows of that many numbers, whatever came."""
    found = values.reshape(len(values), -1)[:, :elements].astype(np.float64)
    return np.pad(found, ((0, 0), (0, elements - found.shape[1])), constant_values=np.nan)


def _folded(values: "np.ndarray[Any, Any]", bins: int) -> "tuple[Floats, np.ndarray[Any, np.dtype[np.int64]]]":
    """Sums, and how many they are of, of the last axis in bins."""
    known = np.isfinite(values)
    starts = np.arange(bins) * math.ceil(values.shape[-1] / bins)
    return (
        np.add.reduceat(np.where(known, values, 0.0), starts, axis=-1),
        np.add.reduceat(known.astype(np.int64), starts, axis=-1),
    )


def _mean(sums: Floats, hits: "np.ndarray[Any, np.dtype[np.int64]]") -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums / hits


def _mesh(axes: Any, x: _Scale, y: _Scale, values: Floats, label: str) -> None:
    axes.grid(visible=False)
    mesh = axes.pcolormesh(x.edges, y.edges, np.ma.masked_invalid(values), cmap="viridis", rasterized=True)
    for scale, side in ((x, "x"), (y, "y")):
        if scale.log:
            getattr(axes, f"set_{side}scale")("log")
        if scale.ticks:
            getattr(axes, f"set_{side}ticks")(*scale.ticks)
    axes.set_xlabel(x.label)
    axes.set_ylabel(y.label)
    axes.figure.colorbar(mesh, ax=axes, label=label, pad=0.02)
    if not np.isfinite(values).any():
        _nothing(axes)


def _nothing(axes: Any) -> None:
    axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", va="center", color="#888888")


_Panel = _Line | _Image | _Spectra | _Pictures

# ---------------------------------------------------------------------------------------------------------------- the plot


class Plot:
    """The picture, as the rows come."""

    def __init__(self, plan: Plan, columns: Sequence[BranchColumns], types: Mapping[str, str]) -> None:
        self._plan = plan
        self._panels: dict[int, list[_Panel]] = {}
        #: The axes with more than one position, by branch; the next row of each.
        self._axes: dict[int, list[int]] = {}
        self._ordinal = [0] * len(columns)
        self._left_out = 0
        for index, (branch, known) in enumerate(zip(branches(plan), columns, strict=True)):
            moving = self._axes[index] = [n for n, move in enumerate(branch.moves) if _count(move) > 1]
            panels = [
                panel
                for column in known.columns
                if column.role == "reading" and (panel := _panel(column, known, branch, moving, types)) is not None
            ]
            room = PANELS - sum(len(there) for there in self._panels.values())
            self._panels[index] = panels[:room]
            self._left_out += max(0, len(panels) - room)

    def add(self, chunk: Sequence[Rows]) -> None:
        for rows in chunk:
            first = self._ordinal[rows.branch]
            self._ordinal[rows.branch] += len(rows.points)
            if not self._panels[rows.branch]:
                continue
            ordinal = np.arange(first, first + len(rows.points), dtype=np.int64)
            indices = places(self._plan, rows.branch, rows.points)
            moving = [indices[n] for n in self._axes[rows.branch]]
            for panel in self._panels[rows.branch]:
                panel.add(rows, ordinal, moving)

    def save(self, file: IO[bytes], title: str, facts: str) -> None:
        """Draws without a display and keeps no state: no pyplot, and nobody's matplotlibrc."""
        panels = [panel for there in self._panels.values() for panel in there]
        with drawing.rc_context():
            drawing.rcdefaults()
            drawing.rcParams.update(STYLE)
            figure: Any = Figure(layout="constrained")
            FigureCanvasAgg(figure)
            across = 1 if len(panels) < 2 or all(panel.wide for panel in panels) else 2
            down = math.ceil(len(panels) / across) or 1
            each = 4.6 if len(panels) < 2 else 2.2 if across == 1 else 3.6
            figure.set_size_inches(8.0 if across == 1 else 11.0, each * down + 0.8)
            # Lines of one branch are over the same positions, also where some have no values at the ends.
            shared = "col" if across == 1 and sum(map(bool, self._panels.values())) == 1 else "none"
            grid: Any = figure.subplots(down, across, squeeze=False, sharex=shared)
            for n, axes in enumerate(grid.flat):
                if n < len(panels):
                    panels[n].draw(axes)
                else:
                    axes.set_visible(False)
            if across == 1:
                for axes in grid[:-1, 0]:
                    if axes.get_xlabel() == grid[-1, 0].get_xlabel():
                        axes.set_xlabel("")
            if not panels:
                grid[0, 0].set_axis_off()
                _nothing(grid[0, 0])
            more = f" · {self._left_out} more readings are not shown" if self._left_out else ""
            figure.suptitle(plain(title), x=0.01, ha="left", fontsize=12, fontweight="bold")
            figure.supxlabel(plain(facts + more), x=0.01, ha="left", fontsize=7, color="#666666")
            # Without the name and version of the program, which would make other bytes of the same picture.
            figure.savefig(file, format="png", dpi=120, metadata={"Software": None})


def _panel(
    column: ColumnInfo, known: BranchColumns, branch: Branch, moving: Sequence[int], types: Mapping[str, str]
) -> _Panel | None:
    """How a reading is drawn; None for texts, and for arrays that are not at hand."""
    moves = [branch.moves[n] for n in moving]
    units = {one.name: one.unit for one in known.columns}

    def unit(move: Move) -> str:
        return units.get(f"{move.instrument}.{move.channel}", "")

    if column.type == "array":
        if not fits(column, types) or len(column.shape) not in (1, 2) or _is_axis(column, known):
            return None
        if len(column.shape) == 2:
            return _Pictures(column)
        bins = _bins(branch.points, SIDE)
        lines = _scale(moves[0], unit(moves[0]), bins) if len(moves) == 1 else _numbered("point", branch.points, bins)
        axis = next((one for one in known.columns if _is_axis(one, known) and _beside(one, column)), None)
        return _Spectra(column, axis, lines, branch.points)
    if column.type == "str" or column.name in types:
        return None
    if len(moves) < 2:
        x = next(
            (one for one in known.columns if moves and one.name == f"{moves[0].instrument}.{moves[0].channel}"), None
        )
        if x is not None and (x.type == "str" or x.name in types):
            x = None
        log = bool(moves) and isinstance(moves[0].positions, LogPositions) and moves[0].positions.at(0) > 0
        return _Line(column, x, branch.points, log)
    outer = [_count(move) for move in moves[:-1]]
    passes = math.prod(outer)
    across, down = _bins(_count(moves[-1]), SIDE), _bins(passes, SIDE)
    if len(outer) == 1:
        y = _scale(moves[0], unit(moves[0]), down)
    else:
        names = " × ".join(f"{move.instrument}.{move.channel}" for move in moves[:-1])
        y = _numbered(f"pass ({names})", passes, down)
    return _Image(column, _scale(moves[-1], unit(moves[-1]), across), y, (passes, _count(moves[-1])), outer)


def _beside(one: ColumnInfo, other: ColumnInfo) -> bool:
    return one is not other and (one.instrument, one.shape) == (other.instrument, other.shape)


#: What an axis of an array is measured in; the arrays over it are counts, volts, ...
_AXES = ("wavelength", "wavenumber", "frequency", "freq", "energy", "time", "delay", "angle", "x", "axis")


def _is_axis(column: ColumnInfo, known: BranchColumns) -> bool:
    """Whether it is the axis of another array of the same instrument, as its name says."""
    return (
        column.type == "array"
        and column.channel.rpartition(".")[2].lower() in _AXES
        and any(
            one.type == "array" and one.channel.rpartition(".")[2].lower() not in _AXES and _beside(one, column)
            for one in known.columns
        )
    )
