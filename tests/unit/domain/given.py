"""given / when / then, for every aggregate.

    given(scan, Scan(), REQUESTED, STARTED).when(PAUSE).then(PAUSE_REQUESTED)
    given(scan, Scan(), REQUESTED).when(PAUSE).then_refused(WrongState, match="queued")

The first argument is the aggregate's module (or its `Aggregate`). `.then()` without events says that nothing happens. On the
way it also holds every event to being stored and read back unchanged, and every state to surviving a snapshot.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, cast

from pydantic import TypeAdapter

from domain.errors import Refused
from domain.events import Event, decode, encode


class Decider(Protocol):
    """What a module of `domain` and an `Aggregate` have in common."""

    @property
    def decide(self) -> Callable[[Any, Any], Sequence[Event]]: ...
    @property
    def evolve(self) -> Callable[[Any, Any], Any]: ...


@cache
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def snapshot_survives(state: Any) -> None:
    """The state comes back from JSON as it was."""
    adapter = _adapter(cast("type[Any]", type(state)))
    assert adapter.validate_json(adapter.dump_json(state)) == state


def storage_survives(event: Event) -> None:
    """The event comes back from its stored body as it was."""
    assert decode(event.TYPE, encode(event)) == event


@dataclass(frozen=True)
class When:
    module: Decider
    state: Any
    command: Any

    def events(self) -> list[Event]:
        """What the command leads to, for tests that look closer than `then`."""
        events = list(self.module.decide(self.state, self.command))
        self.after(events)
        return events

    def after(self, events: Sequence[Event]) -> Any:
        """The state after these events."""
        state = self.state
        for event in events:
            storage_survives(event)
            state = self.module.evolve(state, event)
            snapshot_survives(state)
        return state

    def then(self, *expected: Event) -> Any:
        """Exactly these events happen, none if none is given. Answers the state after them."""
        events = self.events()
        assert events == list(expected)
        return self.after(events)

    def then_refused(self, kind: type[Refused] = Refused, *, match: str = "") -> Refused:
        """Refused, by exactly this kind or one below it, with words in which the pattern `match` is found."""
        try:
            events = list(self.module.decide(self.state, self.command))
        except Refused as refused:
            assert isinstance(refused, kind), f"refused as {type(refused).__name__}, not {kind.__name__}: {refused}"
            assert re.search(match, str(refused)), f"{match!r} is not in the words {str(refused)!r}"
            return refused
        raise AssertionError(f"not refused: {events}")


@dataclass(frozen=True)
class Given:
    module: Decider
    state: Any

    def when(self, command: Any) -> When:
        return When(self.module, self.state, command)


def given(module: Decider, initial: Any, *events: Event) -> Given:
    """The aggregate after these events, starting from `initial`."""
    return Given(module, When(module, initial, None).after(events))
