"""Plans: the tree of moves and measurements of a scan, as data.

    {"nodes": [{"kind": "move", "instrument": "stage", "channel": "x", "positions": {"kind": "linear", "start": 0, "stop": 1, "num": 3},
                "children": [{"kind": "measure", "instrument": "dmm", "channels": ["voltage"]}]}]}

A `Move` takes a channel through its positions, the first and the last included, and runs its children in sequence at each of
them. Each maximal group of consecutive sibling `Measure`s makes one point; the group is called a *branch*. A scan's points are
numbered from 0 over the whole plan, so that where a scan stands is one number: `points(plan)` counts them, `point(plan, k)` says
which channels stand where at point k, and `walk(plan, k)` goes on from there. Nothing is ever laid out in memory.

**Snake.** An axis with `snake` runs backwards on every odd pass. Its passes are numbered from 0 over the whole plan, each time
that it is entered being one: a move at the top level has one pass; a move inside another has one for each position of its
parent, so `pass = parent's pass * parent's number of positions + how many positions the parent had before this one`. Siblings do
not count for each other. So each line of a grid begins where the line before it ended, also where the grid is itself
inside a third axis with an odd number of lines.

**Columns.** Positions first, from the outermost move to the innermost, then readings in the order of the plan, each named
`<instrument>.<channel>`. A reading of a channel that is also moved on the way there is named `<instrument>.<channel>.read`, and
the second, third, ... reading of one channel in one branch gets `.read2`, `.read3`, ....
"""

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeAlias, TypeVar, cast

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StrictFloat,
    StrictStr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from domain.errors import OutOfLimits, Refused
from domain.events import Id
from domain.ports import Channel

MAX_POINTS = 10**12
MAX_DEPTH = 16
MAX_NODES = 1_000
#: Written-out positions, and measured channels, of one plan: a plan is stored in one event, which must stay below 1 MB.
MAX_LISTED = 10_000
MAX_CHANNELS = 4_096
MAX_SETTLE_S = 86_400.0
#: Far beyond any instrument; keeps the arithmetic between two positions finite.
MAX_POSITION = 1e100
#: How many positions `walk` keeps at hand; those of longer axes are computed as they come.
TABULATED = 100_000
#: How many things that are wrong one message lists.
MAX_LINES = 10

#: Channels may have dots in their names (`ch1.voltage`), instruments may not.
ChannelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")]
Position: TypeAlias = float | str | bool
#: Numbers of points, or indices: many at once.
Points: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
T = TypeVar("T")


class _Node(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _listed(values: Any) -> Any:
    """One kind of values, whole numbers become floats: 1, 1.0 and true are three things in JSON, two for an instrument."""
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise ValueError("give the positions as a list, as in [0, 0.5, 1]")
    items = cast("Sequence[Any]", values)
    if not items:
        raise ValueError("give at least one position")
    if len(items) > MAX_LISTED:
        raise ValueError(f"{len(items)} positions are too many for a list (at most {MAX_LISTED}): use linear or log")
    found: list[Position] = []
    for index, value in enumerate(items):
        if isinstance(value, bool):
            found.append(value)
        elif isinstance(value, int | float):
            if not -MAX_POSITION <= value <= MAX_POSITION:
                raise ValueError(f"position {index} is {value!r}: a position is a number between +-{MAX_POSITION:g}")
            found.append(float(value))
        elif isinstance(value, str):
            if len(value) > 64:
                raise ValueError(f"position {index} is a text of {len(value)} characters (at most 64)")
            found.append(value)
        else:
            raise ValueError(f"position {index} is {value!r:.40}: a position is a number, a text, true or false")
        if type(found[-1]) is not type(found[0]):
            raise ValueError(f"position {index} is {value!r:.40}: numbers, texts and true/false do not mix in one list")
    return tuple(found)


def _end(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r:.40} is not a number")
    if not -MAX_POSITION <= value <= MAX_POSITION:
        raise ValueError(f"{value!r} is not a position: it must be a number between +-{MAX_POSITION:g}")
    return float(value)


End = Annotated[StrictFloat, BeforeValidator(_end, json_schema_input_type=float)]
Num = Annotated[int, Field(ge=1, le=MAX_POINTS, strict=True, description="How many positions, both ends included.")]


class ListPositions(_Node):
    """These positions, in this order: numbers, texts or truth values."""

    kind: Literal["list"] = "list"
    values: Annotated[
        tuple[StrictBool | StrictFloat | StrictStr, ...],
        BeforeValidator(_listed, json_schema_input_type=list[float] | list[str] | list[bool]),
        Field(json_schema_extra={"minItems": 1, "maxItems": MAX_LISTED}),
    ]

    def __len__(self) -> int:
        return len(self.values)

    def at(self, index: int) -> Position:
        return self.values[index]


class LinearPositions(_Node):
    """`num` positions at equal distances. The first is exactly `start`, the last exactly `stop`."""

    kind: Literal["linear"] = "linear"
    start: End
    stop: End
    num: Num

    @model_validator(mode="after")
    def _one_position_has_one_place(self) -> Self:
        if self.num == 1 and self.start != self.stop:
            raise ValueError(
                f"num is 1, but start {self.start:g} and stop {self.stop:g} differ: give num >= 2, or equal ends"
            )
        return self

    def __len__(self) -> int:
        return self.num

    def at(self, index: int) -> float:
        last = self.num - 1
        if index == 0:
            return self.start
        if index == last:
            return self.stop
        # Weighted ends rather than start + k * step: 0..1 in tenths gives 0.3, not 0.30000000000000004.
        value = (self.start * (last - index) + self.stop * index) / last
        return _between(self.start, value, self.stop)


class LogPositions(_Node):
    """`num` positions with equal ratios. The first is exactly `start`, the last exactly `stop`; both have one sign."""

    kind: Literal["log"] = "log"
    start: End
    stop: End
    num: Num

    @model_validator(mode="after")
    def _ends_have_one_sign(self) -> Self:
        if not (self.start > 0 < self.stop or self.start < 0 > self.stop):
            raise ValueError(
                f"log positions from {self.start:g} to {self.stop:g}: both ends must be above 0, or both below; use linear"
            )
        if self.num == 1 and self.start != self.stop:
            raise ValueError(
                f"num is 1, but start {self.start:g} and stop {self.stop:g} differ: give num >= 2, or equal ends"
            )
        return self

    def __len__(self) -> int:
        return self.num

    def at(self, index: int) -> float:
        last = self.num - 1
        if index == 0:
            return self.start
        if index == last:
            return self.stop
        # Powers of ten: decades come out as 10 and 100, not as 9.999999999999998.
        exponent = (math.log10(abs(self.start)) * (last - index) + math.log10(abs(self.stop)) * index) / last
        return _between(self.start, math.copysign(10.0**exponent, self.start), self.stop)


def _between(start: float, value: float, stop: float) -> float:
    """Rounding must not carry a position past an end: the limits are checked at the ends only."""
    low, high = (start, stop) if start <= stop else (stop, start)
    return min(max(value, low), high)


Positions = Annotated[ListPositions | LinearPositions | LogPositions, Field(discriminator="kind")]
SettleS = Annotated[float, Field(ge=0, le=MAX_SETTLE_S)]


class Measure(_Node):
    """Read these channels of an instrument in one go, `settle_s` after the moves have settled."""

    kind: Literal["measure"] = "measure"
    instrument: Id
    channels: Annotated[tuple[ChannelName, ...], Field(min_length=1, max_length=MAX_CHANNELS)]
    settle_s: SettleS = 0.0


def _not_empty(nodes: T) -> T:
    # Not `min_length`: next to an error within a node, pydantic would also say that the nodes are too few.
    if not nodes:
        raise ValueError("give at least one node, a move or a measure")
    return nodes


SOME = Field(json_schema_extra={"minItems": 1, "maxItems": MAX_NODES})


class Move(_Node):
    """Take a channel through its positions; at each, once it has settled and `settle_s` is over, run the children."""

    kind: Literal["move"] = "move"
    instrument: Id
    channel: ChannelName
    positions: Positions
    snake: Annotated[bool, Field(description="Run backwards on every odd pass.")] = False
    settle_s: SettleS = 0.0
    children: Annotated["tuple[Node, ...]", AfterValidator(_not_empty), SOME]


Node = Annotated[Move | Measure, Field(discriminator="kind")]


class Plan(_Node):
    """What a scan does: its nodes, one after the other."""

    nodes: Annotated[tuple[Node, ...], AfterValidator(_not_empty), SOME]

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        _ = self.layout
        return self

    @cached_property
    def layout(self) -> "Layout":
        """The plan prepared for counting and walking. Raises ValueError with all that is wrong in words."""
        return _lay_out(self)


class MoveTo(NamedTuple):
    """Bring a channel to a value, and wait until it has settled and then `settle_s` seconds more."""

    instrument: str
    channel: str
    value: Position
    settle_s: float


class Point(NamedTuple):
    """Where everything stands at point `k`: the index on each axis (0 is `positions.at(0)`, also on the way back), and all moves."""

    k: int
    branch: int
    indices: tuple[int, ...]
    moves: tuple[MoveTo, ...]


class Step(NamedTuple):
    """The next point of a walk: do `moves` in this order, let them settle, read the measures of the branch."""

    k: int
    branch: int
    moves: tuple[MoveTo, ...]


class Column(NamedTuple):
    name: str
    instrument: str
    channel: str
    role: Literal["position", "reading"]


@dataclass(frozen=True)
class Branch:
    """One kind of row: the moves on the way (without their children's values), what is read, and the columns that this makes.
    `points` counts its rows over the whole plan."""

    index: int
    moves: tuple[Move, ...]
    measures: tuple[Measure, ...]
    columns: tuple[Column, ...]
    points: int
    path: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


class _Group:
    """A branch at its place in the tree: one point each time that it is reached."""

    __slots__ = ("branch",)
    size = 1

    def __init__(self, branch: int) -> None:
        self.branch = branch


class _Axis:
    """A move at its place in the tree. `per` points at each of its `num` positions, `size` in one pass."""

    __slots__ = ("at", "children", "key", "move", "num", "offsets", "per", "size")

    def __init__(self, move: Move, children: "list[_Axis | _Group]") -> None:
        self.move = move
        self.key = (move.instrument, move.channel)
        self.at = move.positions.at
        self.num = len(move.positions) if isinstance(move.positions, ListPositions) else move.positions.num
        self.children = children
        self.offsets, self.per = _offsets(children)
        self.size = self.num * self.per

    def index(self, ordinal: int, pass_: int) -> int:
        """Which position comes as number `ordinal` in that pass."""
        return self.num - 1 - ordinal if self.move.snake and pass_ & 1 else ordinal

    def move_to(self, index: int) -> MoveTo:
        return MoveTo(self.move.instrument, self.move.channel, self.at(index), self.move.settle_s)


def _offsets(children: "Sequence[_Axis | _Group]") -> tuple[list[int], int]:
    """Where the points of each child begin, and how many there are."""
    offsets: list[int] = []
    total = 0
    for child in children:
        offsets.append(total)
        total += child.size
    return offsets, total


@dataclass(frozen=True)
class Layout:
    """A plan prepared for arithmetic."""

    children: "list[_Axis | _Group]"
    offsets: list[int]
    points: int
    branches: tuple[Branch, ...]


def _lay_out(plan: Plan) -> Layout:
    wrong: list[str] = []
    branches: list[Branch] = []
    nodes = listed = channels = 0

    def lay(
        siblings: Sequence[Move | Measure], where: str, path: tuple[Move, ...], times: int
    ) -> "list[_Axis | _Group]":
        nonlocal nodes, listed, channels
        laid: list[_Axis | _Group] = []
        group: list[Measure] = []

        def close(here: str) -> None:
            if group:
                columns = _columns(path, group)
                branches.append(Branch(len(branches), path, tuple(group), columns, times, here))
                laid.append(_Group(len(branches) - 1))
                group.clear()

        for index, node in enumerate(siblings):
            here = f"{where}[{index}]"
            nodes += 1
            if isinstance(node, Measure):
                channels += len(node.channels)
                twice = sorted({name for name in node.channels if node.channels.count(name) > 1})
                if twice:
                    wrong.append(f"{here}: {', '.join(twice)} twice in one measure: to read it twice, use two measures")
                group.append(node)
                continue
            close(f"{where}[{index - len(group)}]")
            if isinstance(node.positions, ListPositions):
                listed += len(node.positions)
                num = len(node.positions)
            else:
                num = node.positions.num
            if len(path) == MAX_DEPTH:
                wrong.append(f"{here}: moves are nested more than {MAX_DEPTH} deep")
                continue
            if any((outer.instrument, outer.channel) == (node.instrument, node.channel) for outer in path):
                wrong.append(f"{here}: {node.instrument}.{node.channel} is moved already by a move around this one")
            laid.append(_Axis(node, lay(node.children, f"{here}.children", (*path, node), times * num)))
        close(f"{where}[{len(siblings) - len(group)}]")
        return laid

    children = lay(plan.nodes, "nodes", (), 1)
    offsets, total = _offsets(children)
    if nodes > MAX_NODES:
        wrong.append(f"the plan has {nodes} nodes (at most {MAX_NODES})")
    if listed > MAX_LISTED:
        wrong.append(f"the plan lists {listed} positions (at most {MAX_LISTED}): use linear or log")
    if channels > MAX_CHANNELS:
        wrong.append(f"the plan measures {channels} channels (at most {MAX_CHANNELS})")
    if total > MAX_POINTS:
        wrong.append(f"the plan has {total} points (at most {MAX_POINTS})")
    if wrong:
        raise ValueError(_lines(wrong))
    return Layout(children, offsets, total, tuple(branches))


def _columns(path: Sequence[Move], measures: Sequence[Measure]) -> tuple[Column, ...]:
    columns = [Column(f"{move.instrument}.{move.channel}", move.instrument, move.channel, "position") for move in path]
    # A channel may itself be called `x.read`, so a name that is taken by any channel here is passed over.
    plain = {column.name for column in columns} | {f"{m.instrument}.{name}" for m in measures for name in m.channels}
    taken = {column.name for column in columns}
    times: dict[str, int] = {}
    for measure in measures:
        for channel in measure.channels:
            base = name = f"{measure.instrument}.{channel}"
            time = times.get(base, 0)
            while time > 0 or name in taken:
                time += 1
                name = f"{base}.read" if time == 1 else f"{base}.read{time}"
                if name not in taken and name not in plain:
                    break
            times[base] = max(time, 1)
            taken.add(name)
            columns.append(Column(name, measure.instrument, channel, "reading"))
    return tuple(columns)


def _lines(wrong: Sequence[str]) -> str:
    more = len(wrong) - MAX_LINES
    return "; ".join(wrong[:MAX_LINES]) + (f"; and {more} more" if more > 0 else "")


def points(plan: Plan) -> int:
    """How many points the scan has."""
    return plan.layout.points


def branches(plan: Plan) -> tuple[Branch, ...]:
    """The kinds of rows, in the order in which they are first reached."""
    return plan.layout.branches


def instruments(plan: Plan) -> frozenset[str]:
    """All instruments that the plan moves or reads: what the scan claims."""
    found: set[str] = set()
    for branch in plan.layout.branches:
        found.update(column.instrument for column in branch.columns)
    return frozenset(found)


def point(plan: Plan, k: int) -> Point:
    """Where everything stands at point k. Raises IndexError outside 0 .. points - 1."""
    layout = plan.layout
    if not 0 <= k < layout.points:
        raise IndexError(f"there is no point {k}: the plan has points 0 to {layout.points - 1}")
    children, offsets, rest = layout.children, layout.offsets, k
    pass_ = 0
    indices: list[int] = []
    moves: list[MoveTo] = []
    while True:
        which = bisect_right(offsets, rest) - 1
        child = children[which]
        rest -= offsets[which]
        if isinstance(child, _Group):
            return Point(k, child.branch, tuple(indices), tuple(moves))
        ordinal, rest = divmod(rest, child.per)
        index = child.index(ordinal, pass_)
        indices.append(index)
        moves.append(child.move_to(index))
        pass_ = pass_ * child.num + ordinal
        children, offsets = child.children, child.offsets


def places(plan: Plan, branch: int, k: Points) -> list[Points]:
    """The index on each axis of a branch, the outermost first, at each of these points of it: `point`, for many at once."""
    path = _path_to(plan.layout.children, plan.layout.offsets, branch)
    assert path is not None, f"the plan has no branch {branch}"
    rest, pass_ = k, np.zeros_like(k)
    found: list[Points] = []
    for axis, offset in path:
        ordinal, rest = np.divmod(rest - offset, axis.per)
        found.append(np.where(pass_ & 1, axis.num - 1 - ordinal, ordinal) if axis.move.snake else ordinal)
        pass_ = pass_ * axis.num + ordinal
    return found


def _path_to(
    children: "Sequence[_Axis | _Group]", offsets: Sequence[int], branch: int
) -> "list[tuple[_Axis, int]] | None":
    """The axes that lead to a branch, each with where its points begin among those of its siblings."""
    for child, offset in zip(children, offsets, strict=True):
        if isinstance(child, _Group):
            if child.branch == branch:
                return []
        elif (below := _path_to(child.children, child.offsets, branch)) is not None:
            return [(child, offset), *below]
    return None


def walk(plan: Plan, start: int = 0) -> Iterator[Step]:
    """The points from `start` on, each with the moves that lead there from the point before.

    A step holds a move of its branch's path if the axis has just stepped to its next position, or if this walk has not left
    the channel at that value already; so the first step holds the whole path, and a snake's turn moves the outer axis only.
    `start` may be `points(plan)`: nothing is left to do. Raises IndexError outside of that.
    """
    layout = plan.layout
    if not 0 <= start <= layout.points:
        raise IndexError(f"cannot start at point {start}: the plan has points 0 to {layout.points - 1}")
    return _Walk().children(layout.children, layout.offsets, 0, 0, start)


class _Walk:
    def __init__(self) -> None:
        #: Where the channels stand that no axis under way is moving.
        self.known: dict[tuple[str, str], Position] = {}
        #: Moves to be done before the next point.
        self.pending: list[MoveTo] = []
        self.tables: dict[_Axis, list[tuple[MoveTo]]] = {}
        self.room = TABULATED

    def children(
        self, children: "Sequence[_Axis | _Group]", offsets: Sequence[int], k: int, pass_: int, start: int
    ) -> Iterator[Step]:
        """The points of one round through the children from the `start`-th on; the round's first point has number `k`."""
        for child, offset in zip(children, offsets, strict=True):
            skip = max(start - offset, 0)
            if skip >= child.size:
                continue
            if isinstance(child, _Group):
                yield Step(k + offset, child.branch, tuple(self.pending))
                self.pending.clear()
            elif len(child.children) == 1 and isinstance(child.children[0], _Group):
                yield from self.line(child, child.children[0].branch, k + offset, pass_, skip)
            else:
                yield from self.axis(child, k + offset, pass_, skip)

    def axis(self, axis: _Axis, k: int, pass_: int, start: int) -> Iterator[Step]:
        first, start = divmod(start, axis.per)
        for ordinal, (move,) in enumerate(self.moves(axis, pass_, first), first):
            if ordinal > first or self.known.get(axis.key) != move.value:
                self.pending.append(move)
            # Nothing below moves this channel: a channel is moved once on a path.
            self.known[axis.key] = move.value
            yield from self.children(
                axis.children, axis.offsets, k + ordinal * axis.per, pass_ * axis.num + ordinal, start
            )
            start = 0

    def line(self, axis: _Axis, branch: int, k: int, pass_: int, start: int) -> Iterator[Step]:
        """An axis with one branch directly in it: the hot loop."""
        moves = self.moves(axis, pass_, start)
        (move,) = next(moves)
        if self.known.get(axis.key) != move.value:
            self.pending.append(move)
        self.known[axis.key] = axis.at(axis.index(axis.num - 1, pass_))
        yield Step(k + start, branch, tuple(self.pending))
        self.pending.clear()
        for number, step in zip(count(k + start + 1), moves, strict=False):
            yield Step(number, branch, step)

    def moves(self, axis: _Axis, pass_: int, start: int) -> Iterator[tuple[MoveTo]]:
        """The moves of one pass from ordinal `start` on."""
        table = self.tables.get(axis)
        if table is None and axis.num <= self.room:
            self.room -= axis.num
            table = self.tables[axis] = [(axis.move_to(index),) for index in range(axis.num)]
        backwards = axis.move.snake and pass_ & 1
        if table is None:
            return ((axis.move_to(axis.index(ordinal, pass_)),) for ordinal in range(start, axis.num))
        return islice(reversed(table) if backwards else iter(table), start, None)


def check_limits(plan: Plan, describe: Mapping[str, Mapping[str, Channel]]) -> None:
    """Refuse a plan that these instruments (name -> channel name -> channel) cannot do. Nothing is moved.

    Raises OutOfLimits with all that is wrong: instruments and channels that do not exist, moving what can only be read, reading
    what can only be written, positions outside the limits or the choices, with instrument, channel, position index and unit.
    """
    wrong: list[str] = []
    seen: set[int] = set()
    for branch in plan.layout.branches:
        for move in branch.moves:
            if id(move) in seen:
                continue
            seen.add(id(move))
            channel = _find(describe, move.instrument, move.channel, wrong)
            if channel is not None:
                name = f"{move.instrument}.{move.channel}"
                if channel.kind == "r":
                    wrong.append(f"{name} can only be read, not moved")
                elif channel.type == "array":
                    wrong.append(f"{name} is an array: it can be measured, but not moved")
                else:
                    wrong.extend(f"{name}: {problem}" for problem in _positions_outside(move.positions, channel))
        for measure in branch.measures:
            for name in measure.channels:
                channel = _find(describe, measure.instrument, name, wrong)
                if channel is not None and channel.kind == "w":
                    wrong.append(f"{measure.instrument}.{name} can only be written, not measured")
    if wrong:
        raise OutOfLimits(_lines(list(dict.fromkeys(wrong))))


def _find(
    describe: Mapping[str, Mapping[str, Channel]], instrument: str, channel: str, wrong: list[str]
) -> Channel | None:
    channels = describe.get(instrument)
    if channels is None:
        wrong.append(f"there is no instrument {instrument!r} here (there are: {_some(describe)})")
        return None
    if channel not in channels:
        wrong.append(f"{instrument} has no channel {channel!r} (it has: {_some(channels)})")
    return channels.get(channel)


def _some(names: Iterable[str]) -> str:
    found = sorted(names)
    return (", ".join(found[:20]) + (", ..." if len(found) > 20 else "")) or "none"


def _positions_outside(positions: ListPositions | LinearPositions | LogPositions, channel: Channel) -> Iterator[str]:
    """What is wrong with the positions, in words. Between the ends of linear and log nothing can be further out."""
    if isinstance(positions, ListPositions):
        for index, value in enumerate(positions.values):
            problem = _outside(value, channel)
            if problem:
                yield f"position {index} is {problem}"
        return
    if channel.type in ("bool", "str") or channel.choices is not None:
        yield f"takes {_takes(channel)}: give its positions as a list"
        return
    for index in (0, positions.num - 1) if positions.num > 1 else (0,):
        problem = _outside(positions.at(index), channel)
        if problem:
            yield f"position {index} is {problem}"
    if channel.type == "int" and positions.start != positions.stop and positions.num > 2:
        steps = positions.num - 1
        if positions.kind == "log" or (positions.stop - positions.start) % steps:
            yield f"takes whole numbers only, and not all of these {positions.num} {positions.kind} positions are"


def _takes(channel: Channel) -> str:
    if channel.choices is not None:
        return f"one of {', '.join(channel.choices)}"
    return {"bool": "true or false", "str": "a text", "int": "a whole number"}.get(channel.type, "a number")


def _outside(value: Position, channel: Channel) -> str | None:
    unit = f" {channel.unit}" if channel.unit else ""
    shown = json.dumps(value) + (unit if type(value) is float else "")
    expected: type = {"bool": bool, "str": str}.get(channel.type, float)
    if type(value) is not expected or (channel.type == "int" and not float(value).is_integer()):
        return f"{shown}, but it takes {_takes(channel)}"
    if channel.choices is not None and not _chosen(value, channel.choices):
        return f"{shown}, not one of its choices {', '.join(channel.choices)}"
    if channel.limits is not None and type(value) is float and not channel.limits[0] <= value <= channel.limits[1]:
        return f"{shown}, outside its limits {channel.limits[0]:g} .. {channel.limits[1]:g}{unit}"
    return None


def _chosen(value: Position, choices: Sequence[str]) -> bool:
    if type(value) is not float:
        return (value if isinstance(value, str) else json.dumps(value)) in choices
    for choice in choices:
        try:
            if float(choice) == value:
                return True
        except ValueError:
            continue
    return False


# ---------------------------------------------------------------------------------------------------------------- templates

MAX_TEMPLATE_DEPTH = 64
PARAM = "$param"

_TYPES: dict[str, str] = {
    "float": "a number",
    "int": "a whole number",
    "str": "a text",
    "bool": "true or false",
    "list": "a list of numbers, texts or truth values",
}


class Parameter(_Node):
    """One thing that a template leaves open. Without a default it must be given. `min` and `max` bound numbers, and each number
    of a list."""

    type: Literal["float", "int", "str", "bool", "list"] = "float"
    default: JsonValue = None
    min: float | None = None
    max: float | None = None
    doc: Annotated[str, StringConstraints(max_length=1_000)] = ""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.type in ("str", "bool") and (self.min is not None or self.max is not None):
            raise ValueError(f"min and max are for numbers, not for {_TYPES[self.type]}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        problem = None if self.default is None else self.problem(self.default)
        if problem:
            raise ValueError(f"the default {problem}")
        return self

    def problem(self, value: Any) -> str | None:
        """What is wrong with the value, as `is 5, above the maximum 3`; None if nothing is."""
        kind, number = "other", None
        if isinstance(value, bool):
            kind = "bool"
        elif isinstance(value, str):
            kind = "str"
        elif isinstance(value, list | tuple):
            kind = "list"
        elif isinstance(value, int | float) and -MAX_POSITION <= value <= MAX_POSITION:
            number = value
            kind = "int" if isinstance(value, int) or value.is_integer() else "float"
        if kind != self.type and (kind, self.type) != ("int", "float"):
            return f"is {value!r:.60}, but must be {_TYPES[self.type]}"
        if number is not None and self.min is not None and number < self.min:
            return f"is {value!r}, below the minimum {self.min:g}"
        if number is not None and self.max is not None and number > self.max:
            return f"is {value!r}, above the maximum {self.max:g}"
        if kind == "list":
            each = Parameter(min=self.min, max=self.max)
            for index, item in enumerate(cast("Sequence[Any]", value)):
                problem = None if isinstance(item, bool | str) else each.problem(item)
                if problem:
                    return f"has at {index} what {problem}"
        return None


class Template(_Node):
    """A named plan with parameters. In `plan`, `{"$param": "width"}` stands for the value of the parameter `width`:

    {"name": "line", "parameters": {"width": {"min": 0, "max": 10, "doc": "mm"}}, "plan": {"nodes": [{"kind": "move", ...,
     "positions": {"kind": "linear", "start": 0, "stop": {"$param": "width"}, "num": 11}, ...}]}}
    """

    name: Id
    parameters: dict[Id, Parameter] = {}
    plan: dict[str, JsonValue]
    deliver: Annotated[
        tuple[Id, ...] | None,
        Field(
            max_length=20, description="Targets of its scans' artifacts, unless the scan says others. None: by rule."
        ),
    ] = None
    doc: Annotated[str, StringConstraints(max_length=10_000)] = ""

    @model_validator(mode="after")
    def _parameters_are_those_of_the_plan(self) -> Self:
        used: set[str] = set()
        _replace(self.plan, "plan", used.add)
        unknown, unused = sorted(used - set(self.parameters)), sorted(set(self.parameters) - used)
        if unknown:
            raise ValueError(f"the plan uses parameters that are not declared: {', '.join(unknown)}")
        if unused:
            raise ValueError(f"the plan does not use the parameters {', '.join(unused)}")
        return self

    def fill(self, values: Mapping[str, Any]) -> Plan:
        """The plan with these values. Raises OutOfLimits with all that is missing, unknown, of a wrong type or out of range,
        or with what is wrong with the plan that they make."""
        wrong = [f"{name!r} is no parameter of {self.name}" for name in values if name not in self.parameters]
        filled: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            value = values.get(name)
            if value is None:
                if parameter.default is None:
                    wrong.append(f"{name} is missing{f' ({parameter.doc})' if parameter.doc else ''}")
                filled[name] = parameter.default
                continue
            problem = parameter.problem(value)
            if problem:
                wrong.append(f"{name} {problem}")
            # 5.0 is a whole number for the person who gives it, and `num` wants an int.
            filled[name] = int(value) if parameter.type == "int" and not problem else value
        if wrong:
            has = f"; its parameters are {', '.join(self.parameters)}" if self.parameters else "; it has no parameters"
            raise OutOfLimits(f"template {self.name}: {_lines(wrong)}{has}")
        try:
            return Plan.model_validate(_replace(self.plan, "plan", filled.__getitem__))
        except ValidationError as error:
            raise Refused(f"template {self.name} with these values is no plan: {explain(error)}") from error


def _replace(node: Any, where: str, value_of: Callable[[str], Any], depth: int = 0) -> Any:
    """The JSON with each placeholder replaced by `value_of(name)`."""
    if depth > MAX_TEMPLATE_DEPTH:
        raise ValueError(f"{where}: nested more than {MAX_TEMPLATE_DEPTH} deep")
    if isinstance(node, dict):
        entries = cast("dict[str, Any]", node)
        if PARAM in entries:
            name = entries[PARAM]
            if len(entries) != 1 or not isinstance(name, str):
                raise ValueError(f'{where}: a placeholder is {{"{PARAM}": "name"}} and nothing else')
            return value_of(name)
        return {key: _replace(value, f"{where}.{key}", value_of, depth + 1) for key, value in entries.items()}
    if isinstance(node, list):
        items = cast("list[Any]", node)
        return [_replace(item, f"{where}[{index}]", value_of, depth + 1) for index, item in enumerate(items)]
    return node


def explain(error: ValidationError) -> str:
    """What pydantic found wrong, in a line for people: `nodes[0].positions.num: Input should be ...; ...`."""
    found: list[str] = []
    for problem in error.errors(include_url=False, include_input=False):
        path = ""
        previous: int | str = ""
        for part in problem["loc"]:
            # The tags of the unions are in the path, behind an index or the name of the field; they are not in the JSON.
            tag = (isinstance(previous, int) and part in ("move", "measure")) or (
                previous == "positions" and part in ("list", "linear", "log")
            )
            if not tag:
                path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
            previous = part
        text = problem["msg"].removeprefix("Value error, ")
        if len(path) > 200:
            path = f"{path[:100]} ... {path[-90:]}"
        found.append(f"{path}: {text}" if path else text)
    return _lines(found)
