"""What a scan came to: least, greatest, mean and standard deviation of each column, over all its points."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adapters.artifacts.rows import Rows
from domain.readings import BranchColumns


@dataclass
class _Running:
    """Sums are exact before they are rounded, so that they are the same on every machine; chunks are put together as Chan,
    Golub and LeVeque do, which loses no digits far from zero."""

    count: int = 0
    missing: int = 0
    low: float = math.inf
    high: float = -math.inf
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: "np.ndarray[Any, Any]") -> None:
        known = values[np.isfinite(values)]
        self.missing += len(values) - len(known)
        if not len(known):
            return
        count = len(known)
        with np.errstate(over="ignore"):
            mean = _sum(known) / count
            squares = _sum((known - mean) ** 2)
        total, apart = self.count + count, mean - self.mean
        self.squares += squares + apart * apart * self.count * count / total
        self.mean += apart * count / total
        self.count = total
        self.low, self.high = min(self.low, float(known.min())), max(self.high, float(known.max()))

    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = {"count": self.count, "missing": self.missing}
        if self.count:
            found |= {"min": self.low, "max": self.high, "mean": self.mean}
            found["std"] = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else None
        return {name: value if value is None or math.isfinite(value) else None for name, value in found.items()}


def _sum(values: "np.ndarray[Any, Any]") -> float:
    try:
        return math.fsum(values.tolist())
    except OverflowError:
        return math.inf


class Summary:
    """Statistics as the rows come."""

    def __init__(self, branches: Sequence[BranchColumns], types: Mapping[str, str]) -> None:
        self._columns = {column.name: column for branch in branches for column in branch.columns}
        self._types = types
        self._running: dict[str, _Running] = {}
        self._counts = dict.fromkeys(self._columns, 0)

    def add(self, chunk: Sequence[Rows]) -> None:
        for rows in chunk:
            for name, column in rows.columns.items():
                self._counts[name] += len(column) - column.null_count
                type_ = self._columns[name].type
                running = self._running.setdefault(name, _Running())
                if name in rows.arrays:
                    running.add(rows.arrays[name].ravel().astype(np.float64))
                elif type_ in ("float", "int", "bool") and name not in self._types:
                    running.add(rows.numbers(name))
                else:
                    running.missing += column.null_count

    def columns(self) -> list[dict[str, Any]]:
        """Each column with what is known of it. Of arrays the numbers are over all elements; texts are only counted."""
        found: list[dict[str, Any]] = []
        for name, column in self._columns.items():
            told = column.model_dump(mode="json")
            if column.type != "array":
                del told["shape"]
            numbers = self._running.get(name, _Running()).told()
            found.append(told | numbers | ({} if numbers["count"] else {"count": self._counts[name]}))
        return found
