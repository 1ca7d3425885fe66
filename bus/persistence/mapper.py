"""Events of labledger as domain events of the library, so that a `Repository` can build any scan as of any version."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from eventsourcing.domain import DomainEventProtocol, TAggregateID
from eventsourcing.persistence import Mapper, Notification, StoredEvent

from bus.envelope import Stored
from domain.aggregate import aggregates
from domain.events import EVENTS, Event


def own_kinds() -> frozenset[str]:
    """The kinds whose events come from labledger's commands alone."""
    kinds = frozenset(aggregates())  # imports all of the domain
    return kinds | {name.partition(".")[0] for name in EVENTS}


@dataclass(frozen=True)
class LedgerStoredEvent(StoredEvent):
    """An event of labledger as a recorder gives it: topic is its type, state its JSON body."""

    stored: Stored = field(repr=False, compare=False)


@dataclass(frozen=True)
class LedgerNotification(Notification):
    """The same with its place in the stream."""

    stored: Stored = field(repr=False, compare=False)


@dataclass(frozen=True)
class LedgerAggregate:
    """An aggregate of labledger as of `version`. `state` is what the domain folds from its events (None for a kind that
    is a record only, such as readings). Read only: what changes it are commands."""

    id: UUID | str
    version: int
    kind: str
    state: Any
    created_on: datetime
    modified_on: datetime

    def collect_events(self) -> Sequence[DomainEventProtocol[Any]]:
        return ()


@dataclass(frozen=True)
class LedgerEvent:
    """An event of labledger with what its envelope tells. `event` is the domain's event, upcast to its newest version."""

    originator_id: UUID | str
    originator_version: int
    stored: Stored = field(repr=False)

    @cached_property
    def event(self) -> Event:
        """Raises `UnknownEvent` for a type that this version of labledger does not know."""
        aggregates()  # the domain's modules name the events
        return self.stored.event

    @property
    def type(self) -> str:
        return self.stored.type

    @property
    def timestamp(self) -> datetime:
        return self.stored.time

    @property
    def actor(self) -> str:
        return self.stored.actor

    def mutate(self, aggregate: LedgerAggregate | None) -> LedgerAggregate:
        kind = self.stored.kind
        domain = aggregates().get(kind)
        if aggregate is None:
            initial = domain.initial if domain else None
            aggregate = LedgerAggregate(self.originator_id, 0, kind, initial, self.timestamp, self.timestamp)
        state = domain.evolve(aggregate.state, self.event) if domain else None
        return replace(aggregate, version=self.originator_version, state=state, modified_on=self.timestamp)


class LedgerMapper(Mapper[TAggregateID]):
    """The library's mapper, that knows labledger's own events as well."""

    def to_domain_event(self, stored_event: StoredEvent) -> DomainEventProtocol[TAggregateID]:
        if isinstance(stored_event, LedgerStoredEvent | LedgerNotification):
            event: Any = LedgerEvent(stored_event.originator_id, stored_event.originator_version, stored_event.stored)
            return event
        return super().to_domain_event(stored_event)
