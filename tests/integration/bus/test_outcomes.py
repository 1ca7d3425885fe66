"""Outcomes are kept by the command's id."""

import pytest

from bus import outcomes
from bus.errors import BusError
from bus.ledger import Outcome as Decided
from bus.outcomes import Outcome, Problem
from bus.store import Written
from tests.integration.bus.place import Place


async def test_an_outcome_is_found_again_as_it_was(place: Place) -> None:
    bus = await place.bus("commands")
    written = Written("evt.queue.q", "queue.created.v1", 7, 1, "x")
    accepted = Outcome.accepted("id-1", "queue.create", Decided((written,)))
    invalid = Outcome(outcome="invalid", command_id="id-2", reason="Ω", problems=(Problem(where="a.b", what="bad"),))
    for outcome in (accepted, invalid):
        await outcomes.keep(bus, outcome)
    await place.restart()
    reader = await place.bus("publisher")
    assert await outcomes.recall(reader, "id-1") == accepted and accepted.sequence == 7
    assert await outcomes.recall(reader, "id-2") == invalid
    assert await outcomes.recall(reader, "id-3") is None


async def test_the_last_outcome_under_an_id_counts(place: Place) -> None:
    bus = await place.bus("commands")
    await outcomes.keep(bus, Outcome(outcome="parked", command_id="id-1", parked_id="p"))
    await outcomes.keep(bus, Outcome(outcome="accepted", command_id="id-1"))
    found = await outcomes.recall(bus, "id-1")
    assert found and found.outcome == "accepted"
    assert (await place.opened[0].api("STREAM.INFO.OUT"))["state"]["messages"] == 1


async def test_an_outcome_that_cannot_be_kept_is_an_error(place: Place) -> None:
    await place.opened[0].api("STREAM.DELETE.OUT")
    with pytest.raises(BusError):
        await outcomes.keep(await place.bus("commands"), Outcome(outcome="accepted", command_id="id-1"))
