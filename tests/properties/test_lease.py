"""Whatever stations and watchdogs say, in any order: an instrument has at most one holder, and the history shows it."""

from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from domain import lease as module
from domain.errors import Refused
from domain.lease import AcquireLease, ExpireLease, Lease, LeaseAcquired, ReleaseLease
from tests.unit.domain.given import snapshot_survives, storage_survives

NAME = "stage"
INSTANCES = st.integers(1, 4).map(lambda number: UUID(int=number))


def acquire(instance: UUID, predecessor_dead: bool) -> AcquireLease:
    # Instances 1 and 2 are runs of one station, 3 and 4 of another.
    station = "left" if instance.int < 3 else "right"
    return AcquireLease(
        instrument=NAME,
        station_id=station,
        instance=instance,
        host="bench",
        pid=instance.int,
        ttl_s=3,
        predecessor_dead=predecessor_dead,
    )


COMMANDS = st.lists(
    st.builds(acquire, INSTANCES, st.booleans())
    | st.builds(ReleaseLease, instrument=st.just(NAME), instance=INSTANCES, reason=st.just("done"))
    | st.builds(ExpireLease, instrument=st.just(NAME), instance=INSTANCES, reason=st.just("silent")),
    max_size=40,
)


@given(COMMANDS)
@settings(max_examples=200, deadline=None)
def test_an_instrument_has_at_most_one_holder_ever(commands: list[module.LeaseCommand]) -> None:
    lease, holder = Lease(), None
    for command in commands:
        before = holder
        try:
            events = module.decide(lease, command)
        except Refused as refused:
            assert holder is not None and holder != command.instance
            assert str(holder) in str(refused) and "free again" in str(refused)
            continue
        for event in events:
            storage_survives(event)
            if isinstance(event, LeaseAcquired):
                assert holder is None, "acquired while held"
                holder = event.instance
            else:
                assert holder == event.instance, "ended in the name of one who does not hold it"
                if not isinstance(command, AcquireLease):
                    assert event.instance == command.instance, "ended by a word about another"
                holder = None
            lease = module.evolve(lease, event)
            snapshot_survives(lease)
        assert (lease.holder.instance if lease.holder else None) == holder
        if isinstance(command, AcquireLease):
            assert holder == command.instance
            if before is not None and holder is not None and before != holder:
                assert command.predecessor_dead and (before.int < 3) == (holder.int < 3)
        else:
            assert holder != command.instance
            assert holder in (None, before)
        assert module.decide(lease, command) == [], "the same word twice changes nothing"
