"""The readings of one scan: what was measured, point by point, on `evt.readings.<scan_id>`.

    opened -> recorded, recorded, ... -> closed -> opened again (resumed, continued or restarted) -> ...

Points are recorded in their order without a gap, so that `next_point` says all: it is the first point that is not durable.
`opened` says what the columns are and how every instrument stood; a *frame* (`recorded`) holds consecutive points of one
branch of the plan, by columns. A new attempt goes on at `next_point`, or begins again at 0; what earlier attempts recorded
stays. An attempt whose station died is closed, as interrupted, by the attempt after it.

A value is a number, a text, a truth value, or None where there is none: NaN and the infinities are recorded as None, since
JSON has none of them. Array columns are not in the frame: one blob holds the arrays of all its points, stacked.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, assert_never, cast
from uuid import UUID

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)
from pydantic_core import to_json

from domain.aggregate import Aggregate
from domain.errors import NotFound, OutOfLimits, Refused, WrongState
from domain.events import Command, Event, Id
from domain.plan import Plan, branches
from domain.ports import Channel

PointNumber = Annotated[int, Field(ge=0)]
Attempt = Annotated[int, Field(ge=1)]
CloseReason: TypeAlias = Literal["paused", "completed", "aborted", "failed", "interrupted"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class ColumnInfo(_Part):
    """`shape` is the shape of one value: () but for arrays."""

    name: str
    unit: str = ""
    instrument: Id
    channel: str
    role: Literal["position", "reading"]
    type: Literal["float", "int", "bool", "str", "array"] = "float"
    shape: tuple[int, ...] = ()


class BranchColumns(_Part):
    """The columns of one branch of the plan, in the order of `domain.plan.branches`."""

    columns: tuple[ColumnInfo, ...]

    @cached_property
    def in_frame(self) -> tuple[str, ...]:
        """The names of the columns whose values are in the frames, in order."""
        return tuple(column.name for column in self.columns if column.type != "array")

    @cached_property
    def arrays(self) -> dict[str, tuple[int, ...]]:
        """The array columns and the shape of one value of each."""
        return {column.name: column.shape for column in self.columns if column.type == "array"}


def branch_columns(plan: Plan, describe: Mapping[str, Mapping[str, Channel]]) -> tuple[BranchColumns, ...]:
    """The columns of the plan's branches, with units and types as the instruments describe them.

    Raises OutOfLimits for a channel that is not there; `domain.plan.check_limits` says it better.
    """
    found: list[BranchColumns] = []
    for branch in branches(plan):
        columns: list[ColumnInfo] = []
        for name, instrument, channel_name, role in branch.columns:
            channel = describe.get(instrument, {}).get(channel_name)
            if channel is None:
                raise OutOfLimits(f"there is no channel {instrument}.{channel_name} here")
            columns.append(
                ColumnInfo(
                    name=name,
                    unit=channel.unit,
                    instrument=instrument,
                    channel=channel_name,
                    role=role,
                    type=channel.type,
                    shape=channel.shape,
                )
            )
        found.append(BranchColumns(columns=tuple(columns)))
    return tuple(found)


def _plain(value: Any) -> Any:
    """Any setting as JSON: numpy becomes lists and numbers, what is not finite None, and what is unknown its text."""
    if isinstance(value, np.ndarray | np.generic):
        value = cast("Any", value).tolist()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in cast("Iterable[Any]", value)]
    return str(value)


class InstrumentAtStart(_Part):
    """Who answered, and its settings, when the readings were opened."""

    identity: str
    settings: Annotated[dict[str, JsonValue], BeforeValidator(_plain)] = {}


class ArrayRef(_Part):
    """The arrays of all points of a frame as one blob: raw bytes in C order, `shape[0]` is the number of points."""

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    dtype: Annotated[str, StringConstraints(min_length=1, max_length=32)]
    shape: Annotated[tuple[PointNumber, ...], Field(min_length=1, max_length=32)]


_PLAIN = {float, int, bool, str, type(None)}


def _plain_column(column: Any) -> list[Any]:
    """The column as JSON can hold it. Made for speed: a column of finite floats costs a pass or two in C."""
    values = _as_list(column)
    types = set(map(type, values))
    if not types <= _PLAIN:
        values = [cast("Any", value).item() if isinstance(value, np.generic) else value for value in values]
        types = set(map(type, values))
        if not types <= _PLAIN:
            strange = ", ".join(sorted(kind.__name__ for kind in types - _PLAIN))
            raise ValueError(f"a value is a number, a text, true, false or None, not {strange}")
    # The sum is finite only if all are; that it may also overflow costs no more than a second look.
    if float in types and not (types == {float} and math.isfinite(sum(values))):
        return [None if type(value) is float and not math.isfinite(value) else value for value in values]
    return values


def _as_list(column: Any) -> list[Any]:
    """A list as it is, anything like it as a list."""
    if isinstance(column, list):
        return cast("list[Any]", column)
    if isinstance(column, np.ndarray):
        return cast("list[Any]", cast("Any", column).tolist())
    if isinstance(column, Sequence) and not isinstance(column, str | bytes):
        return list(cast("Sequence[Any]", column))
    raise ValueError("a column is a list of values")


def _plain_columns(columns: Any) -> list[list[Any]]:
    if not isinstance(columns, Iterable):
        raise ValueError("the values are a list of columns")
    return [_plain_column(column) for column in cast("Iterable[Any]", columns)]


def _finite(time: list[float]) -> list[float]:
    if not math.isfinite(sum(time)):
        raise ValueError("a time is not finite")
    return time


def _check_shape(
    names: Sequence[str],
    units: Sequence[str],
    rows: int,
    values: Sequence[Sequence[Any]],
    arrays: Mapping[str, ArrayRef],
) -> None:
    if rows == 0:
        raise ValueError("a frame has at least one point")
    if not len(names) == len(units) == len(values):
        raise ValueError(f"{len(names)} names, {len(units)} units and {len(values)} columns do not match")
    if len({*names, *arrays}) != len(names) + len(arrays):
        raise ValueError("a name stands for two columns")
    for name, column in zip(names, values, strict=True):
        if len(column) != rows:
            raise ValueError(f"column {name} has {len(column)} values for {rows} points")
    for name, array in arrays.items():
        if array.shape[0] != rows:
            raise ValueError(f"array column {name} has {array.shape[0]} arrays for {rows} points")


# ------------------------------------------------------------------------------------------------------------------- events


class ReadingsOpened(Event, name="readings.opened"):
    """From here on the points from `from_point` on are recorded, in these columns. `settings` is by instrument."""

    scan_id: UUID
    attempt: Attempt
    from_point: PointNumber
    total_points: PointNumber
    branches: tuple[BranchColumns, ...]
    settings: dict[Id, InstrumentAtStart] = {}


class ReadingsRecorded(Event, name="readings.recorded"):
    """A frame: the consecutive points from `first_point` on, all of one branch. `time` is in unix seconds, one for each
    point; `values` has one list for each name; `arrays` one reference for each array column.

    Holds lists, for speed: treat them as frozen like the rest.
    """

    scan_id: UUID
    attempt: Attempt
    branch: PointNumber
    first_point: PointNumber
    names: tuple[str, ...]
    units: tuple[str, ...]
    time: Annotated[list[float], AfterValidator(_finite)]
    values: Annotated[list[list[Any]], BeforeValidator(_plain_columns)]
    arrays: dict[str, ArrayRef] = {}

    @model_validator(mode="after")
    def _shapes_match(self) -> Self:
        _check_shape(self.names, self.units, len(self.time), self.values, self.arrays)
        return self

    @property
    def next_point(self) -> int:
        return self.first_point + len(self.time)


class ReadingsClosed(Event, name="readings.closed"):
    """No more points in this attempt, or until it is opened again. `next_point` is the first one not recorded."""

    scan_id: UUID
    attempt: Attempt
    next_point: PointNumber
    reason: CloseReason


ReadingsEvent: TypeAlias = ReadingsOpened | ReadingsRecorded | ReadingsClosed


def frame_body(
    *,
    scan_id: UUID,
    attempt: int,
    branch: int,
    first_point: int,
    names: Sequence[str],
    units: Sequence[str],
    time: Sequence[float],
    values: Sequence[Sequence[Any]],
    arrays: Mapping[str, ArrayRef] | None = None,
) -> bytes:
    """The body of a `ReadingsRecorded` without making one: for the recorder, which writes thousands a second.

    Decodes to the event that the same arguments would make. Raises ValueError where they make none.
    """
    columns = _plain_columns(values)
    times: list[float] = _as_list(time)
    _finite(times)
    _check_shape(names, units, len(times), columns, arrays or {})
    return to_json(
        {
            "scan_id": scan_id,
            "attempt": attempt,
            "branch": branch,
            "first_point": first_point,
            "names": names,
            "units": units,
            "time": times,
            "values": columns,
            "arrays": arrays or {},
        },
    )


# ---------------------------------------------------------------------------------------------------------------- commands


class _Internal(Command):
    """Given by the station that holds the scan; not on the wire."""

    KIND: ClassVar[str] = "readings"

    scan_id: UUID

    @property
    def aggregate_id(self) -> str:
        return str(self.scan_id)


class OpenReadings(_Internal):
    attempt: Attempt
    from_point: PointNumber
    total_points: PointNumber
    branches: Annotated[tuple[BranchColumns, ...], Field(min_length=1)]
    settings: dict[Id, InstrumentAtStart] = {}


class RecordReadings(_Internal):
    frame: ReadingsRecorded


class CloseReadings(_Internal):
    attempt: Attempt
    reason: CloseReason


ReadingsCommand: TypeAlias = OpenReadings | RecordReadings | CloseReadings

# ------------------------------------------------------------------------------------------------------------------- state


@dataclass(frozen=True)
class Readings:
    """`attempt` is 0 until they are first opened. `next_point` is the first point that is not durable."""

    scan_id: UUID | None = None
    attempt: int = 0
    from_point: int = 0
    next_point: int = 0
    total_points: int = 0
    open: bool = False
    branches: tuple[BranchColumns, ...] = ()


def decide(readings: Readings, command: ReadingsCommand) -> list[ReadingsEvent]:
    """Raises NotFound, WrongState, or Refused for a frame that does not fit."""
    match command:
        case OpenReadings():
            return _open(readings, command)
        case RecordReadings():
            frame = command.frame
            if frame.scan_id != command.scan_id:
                raise Refused(f"this frame is of scan {frame.scan_id}, not of {command.scan_id}")
            check_frame(
                readings,
                scan_id=frame.scan_id,
                attempt=frame.attempt,
                branch=frame.branch,
                first_point=frame.first_point,
                rows=len(frame.time),
                names=frame.names,
                arrays=frame.arrays,
            )
            return [frame]
        case CloseReadings():
            return _close(readings, command)
    assert_never(command)


def _open(readings: Readings, command: OpenReadings) -> list[ReadingsEvent]:
    scan_id, attempt, start = command.scan_id, command.attempt, command.from_point
    known = readings.attempt > 0
    if known and command.total_points != readings.total_points:
        raise Refused(f"scan {scan_id} has {readings.total_points} points, not {command.total_points}")
    if attempt < readings.attempt:
        raise WrongState(f"attempt {attempt} of scan {scan_id} is over: attempt {readings.attempt} is recorded now")
    if attempt == readings.attempt:
        if readings.open and start == readings.from_point == readings.next_point:
            return []
        if readings.open:
            raise WrongState(f"the readings of scan {scan_id} are open already, at point {readings.next_point}")
        if start != readings.next_point:
            raise Refused(f"attempt {attempt} of scan {scan_id} goes on at point {readings.next_point}, not at {start}")
    elif start not in (0, readings.next_point):
        raise Refused(
            f"a new attempt of scan {scan_id} goes on at point {readings.next_point} or begins again at 0, not at {start}"
        )
    found: list[ReadingsEvent] = []
    if readings.open:
        found.append(
            ReadingsClosed(
                scan_id=scan_id, attempt=readings.attempt, next_point=readings.next_point, reason="interrupted"
            )
        )
    found.append(
        ReadingsOpened(
            scan_id=scan_id,
            attempt=attempt,
            from_point=start,
            total_points=command.total_points,
            branches=command.branches,
            settings=command.settings,
        )
    )
    return found


def check_frame(
    readings: Readings,
    *,
    scan_id: UUID,
    attempt: int,
    branch: int,
    first_point: int,
    rows: int,
    names: Sequence[str],
    arrays: Mapping[str, ArrayRef],
) -> None:
    """Refuse a frame that is not the next one: gaps, repeats, other columns, readings that are closed. Cheap, so that whoever
    encodes with `frame_body` can ask before each frame."""
    _is_open(readings, scan_id, attempt, "record")
    if first_point != readings.next_point:
        which = "was recorded already" if first_point < readings.next_point else "would leave a gap"
        raise Refused(f"point {first_point} of scan {scan_id} {which}: the next point is {readings.next_point}")
    if first_point + rows > readings.total_points:
        raise Refused(f"scan {scan_id} has {readings.total_points} points: this frame goes to {first_point + rows}")
    if branch >= len(readings.branches):
        raise Refused(f"scan {scan_id} has branches 0 to {len(readings.branches) - 1}, no branch {branch}")
    expected = readings.branches[branch]
    if tuple(names) != expected.in_frame:
        raise Refused(f"branch {branch} of scan {scan_id} has the columns {', '.join(expected.in_frame)} in this order")
    if arrays.keys() != expected.arrays.keys():
        raise Refused(f"branch {branch} of scan {scan_id} has the array columns {', '.join(expected.arrays) or 'none'}")


def _is_open(readings: Readings, scan_id: UUID, attempt: int, verb: str) -> None:
    if readings.attempt == 0:
        raise NotFound(f"the readings of scan {scan_id} were never opened")
    if attempt != readings.attempt:
        raise WrongState(f"cannot {verb} in attempt {attempt} of scan {scan_id}: it is in attempt {readings.attempt}")
    if not readings.open:
        raise WrongState(f"cannot {verb}: the readings of scan {scan_id} are closed; open them first")


def _close(readings: Readings, command: CloseReadings) -> list[ReadingsEvent]:
    if not readings.open and 0 < readings.attempt == command.attempt:
        return []
    _is_open(readings, command.scan_id, command.attempt, "close")
    if command.reason == "completed" and readings.next_point != readings.total_points:
        raise Refused(
            f"scan {command.scan_id} is not complete: {readings.next_point} of {readings.total_points} points are recorded"
        )
    return [
        ReadingsClosed(
            scan_id=command.scan_id,
            attempt=readings.attempt,
            next_point=readings.next_point,
            reason=command.reason,
        )
    ]


def evolve(readings: Readings, event: ReadingsEvent) -> Readings:
    match event:
        case ReadingsOpened():
            return Readings(
                scan_id=event.scan_id,
                attempt=event.attempt,
                from_point=event.from_point,
                next_point=event.from_point,
                total_points=event.total_points,
                open=True,
                branches=event.branches,
            )
        case ReadingsRecorded():
            return replace(readings, next_point=event.next_point)
        case ReadingsClosed():
            return replace(readings, open=False)
    assert_never(event)


aggregate = Aggregate(kind="readings", initial=Readings(), decide=decide, evolve=evolve)
