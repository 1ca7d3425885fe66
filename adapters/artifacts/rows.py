"""Frames of readings, gathered into chunks of typed columns."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]

from domain.ports import Blobs
from domain.readings import ArrayRef, BranchColumns, ColumnInfo, ReadingsRecorded

arrow: Any = pa

#: A chunk is full at so many values, or at so many bytes of arrays.
CELLS = 1 << 18
ARRAY_BYTES = 16 << 20
#: An array value with more elements stays in its blob; the column then says which, and which one in it.
FITS = 65_536

TEXT, REFERENCE = "text", "reference"
SCALARS = {"float": arrow.float64(), "int": arrow.int64(), "bool": arrow.bool_(), "str": arrow.string()}
REFERENCES = arrow.struct([("sha256", arrow.string()), ("index", arrow.int32())])

#: What was found out about columns that hold other values than they were said to: name -> TEXT, REFERENCE or a dtype.
Types = dict[str, str]


class Retyped(Exception):
    """A column holds other values than was thought when the file was begun: begin again, and know."""

    def __init__(self, column: str, type_: str) -> None:
        super().__init__(f"{column} is of type {type_}")
        self.column = column
        self.type = type_


@dataclass(frozen=True)
class Rows:
    """Some rows of one branch. `columns` has Arrow arrays for all of the branch; of `arrays` those that were resolved, with the
    shape (rows, *shape of a value)."""

    branch: int
    points: "np.ndarray[Any, np.dtype[np.int64]]"
    time: "np.ndarray[Any, np.dtype[np.float64]]"
    attempt: "np.ndarray[Any, np.dtype[np.int32]]"
    columns: dict[str, Any]
    arrays: "dict[str, np.ndarray[Any, Any]]"

    def numbers(self, name: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """A column of numbers or truth values; NaN where there is none."""
        return self.columns[name].cast(arrow.float64()).to_numpy(zero_copy_only=False)


def fits(column: ColumnInfo, types: Mapping[str, str]) -> bool:
    """Whether the values of an array column are put into the table."""
    return math.prod(column.shape) <= FITS and types.get(column.name) != REFERENCE


def arrow_type(column: ColumnInfo, types: Mapping[str, str]) -> Any:
    """The type of a column in the table."""
    known = types.get(column.name)
    if column.type == "array":
        element = arrow.from_numpy_dtype(np.dtype(known or "float64")) if fits(column, types) else None
        return arrow.list_(element) if element is not None else REFERENCES
    return arrow.string() if known == TEXT else SCALARS[column.type]


@dataclass
class _Gathered:
    points: list[int] = field(default_factory=list[int])
    time: list[float] = field(default_factory=list[float])
    attempt: list[int] = field(default_factory=list[int])
    values: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    arrays: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])


class Chunks:
    """Takes frames, gives full chunks. Rows of a chunk are by branch, each branch's in the order of the points."""

    def __init__(self, branches: Sequence[BranchColumns], blobs: Blobs, types: Mapping[str, str]) -> None:
        self._branches = branches
        self._blobs = blobs
        self._types = types
        self._gathered: dict[int, _Gathered] = {}
        self._cells = self._bytes = 0

    def add(self, frame: ReadingsRecorded) -> Iterator[list[Rows]]:
        """The chunks that are full with this frame. Raises `Retyped`, `NotFound` and `ValueError` for a blob."""
        resolved = {column.name: column for column in self._branches[frame.branch].columns if column.type == "array"}
        row_bytes = sum(
            math.prod(ref.shape[1:]) * np.dtype(ref.dtype).itemsize
            for name, ref in frame.arrays.items()
            if fits(resolved[name], self._types)
        )
        step = max(1, min(len(frame.time), ARRAY_BYTES // row_bytes if row_bytes else len(frame.time)))
        for start in range(0, len(frame.time), step):
            stop = min(start + step, len(frame.time))
            self._take(frame, start, stop, resolved)
            self._cells += (stop - start) * (4 + len(frame.names))
            self._bytes += (stop - start) * row_bytes
            if self._cells >= CELLS or self._bytes >= ARRAY_BYTES:
                yield self.flush()

    def _take(self, frame: ReadingsRecorded, start: int, stop: int, arrays: Mapping[str, ColumnInfo]) -> None:
        into = self._gathered.setdefault(frame.branch, _Gathered())
        into.points.extend(range(frame.first_point + start, frame.first_point + stop))
        into.time.extend(frame.time[start:stop])
        into.attempt.extend([frame.attempt] * (stop - start))
        for name, values in zip(frame.names, frame.values, strict=True):
            into.values.setdefault(name, []).extend(values[start:stop])
        for name, ref in frame.arrays.items():
            if fits(arrays[name], self._types):
                into.arrays.setdefault(name, []).append(self._resolve(name, ref, start, stop))
            else:
                told = [{"sha256": ref.sha256, "index": index} for index in range(start, stop)]
                into.values.setdefault(name, []).extend(told)

    def _resolve(self, name: str, ref: ArrayRef, start: int, stop: int) -> "np.ndarray[Any, Any]":
        dtype = np.dtype(ref.dtype)
        if dtype.kind not in "fiub" or math.prod(ref.shape[1:]) > FITS:
            raise Retyped(name, REFERENCE)
        if dtype != np.dtype(self._types.get(name, "float64")):
            raise Retyped(name, REFERENCE if name in self._types else ref.dtype)
        with self._blobs.local(ref.sha256) as path:
            # Copied out of the file: no more than these rows of it is ever in memory.
            return np.array(np.memmap(path, dtype, "r", shape=ref.shape)[start:stop])

    def flush(self) -> list[Rows]:
        """What is gathered, full or not."""
        found = [self._rows(branch, gathered) for branch, gathered in sorted(self._gathered.items())]
        self._gathered, self._cells, self._bytes = {}, 0, 0
        return found

    def _rows(self, branch: int, gathered: _Gathered) -> Rows:
        columns: dict[str, Any] = {}
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        for column in self._branches[branch].columns:
            name, type_ = column.name, arrow_type(column, self._types)
            if name in gathered.arrays:
                arrays[name] = whole = np.concatenate(gathered.arrays[name])
                offsets = np.arange(len(whole) + 1, dtype=np.int32) * math.prod(whole.shape[1:])
                columns[name] = arrow.ListArray.from_arrays(offsets, arrow.array(whole.ravel()))
            else:
                columns[name] = _typed(name, gathered.values.get(name, [None] * len(gathered.points)), type_, column)
        return Rows(
            branch,
            np.array(gathered.points, np.int64),
            np.array(gathered.time, np.float64),
            np.array(gathered.attempt, np.int32),
            columns,
            arrays,
        )


def _typed(name: str, values: list[Any], type_: Any, column: ColumnInfo) -> Any:
    """The values as Arrow has them. What an instrument said is kept as it was, so a column that holds anything else is text."""
    if type_ == arrow.string() and column.type != "str":
        return arrow.array([None if value is None else json.dumps(value) for value in values], type_)
    try:
        return arrow.array(values, type_)
    except (arrow.ArrowInvalid, arrow.ArrowTypeError, OverflowError):
        raise Retyped(name, TEXT) from None
