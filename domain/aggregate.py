"""What makes a module of `domain` an aggregate: one kind, its first state, `decide` and `evolve`.

    aggregate = Aggregate(kind="upload", initial=Upload(), decide=decide, evolve=evolve)

`decide(state, command) -> events` refuses by raising `Refused`; `evolve(state, event) -> state` never refuses.
Both are pure: ids and times come in with the command.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

from domain.events import Event

S = TypeVar("S")


@dataclass(frozen=True)
class Aggregate(Generic[S]):
    """`initial` is the state before the first event; states are frozen dataclasses or pydantic models of plain data,
    so that a snapshot of them is JSON. `schema` is raised when the state's shape changes: older snapshots are ignored."""

    kind: str
    initial: S
    decide: Callable[[S, Any], Sequence[Event]]
    evolve: Callable[[S, Any], S]
    schema: int = 1

    def fold(self, state: S, events: Iterable[Event]) -> S:
        for event in events:
            state = self.evolve(state, event)
        return state


@cache
def aggregates() -> dict[str, Aggregate[Any]]:
    """Every aggregate in `domain`, by kind. The folder is the list."""
    import domain

    found: dict[str, Aggregate[Any]] = {}
    for module in pkgutil.iter_modules(domain.__path__, "domain."):
        aggregate = getattr(importlib.import_module(module.name), "aggregate", None)
        if isinstance(aggregate, Aggregate):
            found[aggregate.kind] = aggregate
    return found
