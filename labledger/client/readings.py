"""The readings of a scan as numpy columns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np

from domain.readings import ReadingsRecorded
from labledger.client.errors import NotReachable


class Readings(Mapping[str, Any]):
    """The readings of a scan by columns: numpy arrays of one value for each point, in the order of the points.

    Beside the columns of the plan: `point`, `time` (unix seconds), `attempt`, `branch`. A branch's column is NaN (or None)
    at the points of other branches. Array columns have the shape (points, *shape); they are loaded when asked for, which
    needs the lab's blob folder.
    """

    def __init__(
        self,
        scan_id: UUID,
        columns: Mapping[str, np.ndarray[Any, Any]],
        units: Mapping[str, str],
        arrays: "Mapping[str, Sequence[ArrayPart]] | None" = None,
        blobs: Callable[[str], bytes] | None = None,
    ) -> None:
        self.scan_id = scan_id
        self.units = dict(units)
        self.arrays = dict(arrays or {})
        self._columns = dict(columns)
        self._blobs = blobs

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        if name not in self.arrays:
            return self._columns[name]
        if self._blobs is None:
            raise NotReachable(f"{name} is an array, and the lab's blob folder is not known here: give data_dir=")
        found = [part.load(self._blobs) for part in self.arrays[name]]
        return np.concatenate(found)

    def __iter__(self) -> Iterator[str]:
        yield from self._columns
        yield from self.arrays

    def __len__(self) -> int:
        return len(self._columns) + len(self.arrays)

    @property
    def points(self) -> int:
        return len(self._columns["point"])

    def rows(self) -> Iterator[dict[str, Any]]:
        """Point by point, without the arrays."""
        lists = {name: column.tolist() for name, column in self._columns.items()}
        for values in zip(*lists.values(), strict=True):
            yield dict(zip(lists, values, strict=True))

    def __repr__(self) -> str:
        return f"<Readings of scan {self.scan_id}: {self.points} points, {', '.join(self)}>"


@dataclass(frozen=True)
class ArrayPart:
    """The arrays of one frame: a blob of raw bytes in C order, and which of its points count."""

    first_point: int
    sha256: str
    dtype: str
    shape: tuple[int, ...]
    upto: int

    def load(self, blobs: Callable[[str], bytes]) -> np.ndarray[Any, Any]:
        whole = np.frombuffer(blobs(self.sha256), np.dtype(self.dtype)).reshape(self.shape)
        return whole[: self.upto - self.first_point]


def collect(scan_id: UUID, frames: Sequence[ReadingsRecorded], blobs: Callable[[str], bytes] | None) -> Readings:
    """The readings that count: of each point those of its last attempt."""
    kept: list[tuple[ReadingsRecorded, int]] = []
    for frame in frames:
        # A scan that was restarted measures again what earlier attempts had measured: theirs gives way from there on.
        while kept and kept[-1][0].first_point >= frame.first_point:
            kept.pop()
        if kept and kept[-1][1] > frame.first_point:
            kept[-1] = (kept[-1][0], frame.first_point)
        kept.append((frame, frame.next_point))
    names: dict[str, str] = {}
    for frame, _ in kept:
        names |= dict(zip(frame.names, frame.units, strict=True))
    total = sum(upto - frame.first_point for frame, upto in kept)
    point = np.empty(total, np.int64)
    time = np.empty(total, np.float64)
    attempt = np.empty(total, np.int32)
    branch = np.empty(total, np.int32)
    values: dict[str, list[Any]] = {name: [] for name in names}
    arrays: dict[str, list[ArrayPart]] = {}
    at = 0
    for frame, upto in kept:
        rows = upto - frame.first_point
        here = slice(at, at + rows)
        point[here] = np.arange(frame.first_point, upto)
        time[here] = frame.time[:rows]
        attempt[here] = frame.attempt
        branch[here] = frame.branch
        found = dict(zip(frame.names, frame.values, strict=True))
        for name, column in values.items():
            column.extend(found[name][:rows] if name in found else [None] * rows)
        for name, ref in frame.arrays.items():
            arrays.setdefault(name, []).append(ArrayPart(frame.first_point, ref.sha256, ref.dtype, ref.shape, upto))
        at += rows
    columns: dict[str, np.ndarray[Any, Any]] = {"point": point, "time": time, "attempt": attempt, "branch": branch}
    columns |= {name: _column(column) for name, column in values.items()}
    return Readings(scan_id, columns, names, arrays, blobs)


def _column(values: list[Any]) -> np.ndarray[Any, Any]:
    kinds = set(map(type, values))
    if kinds <= {float, int, type(None)}:
        return np.array([np.nan if value is None else value for value in values], np.float64)
    if kinds == {bool}:
        return np.array(values, np.bool_)
    return np.array(values, object)
