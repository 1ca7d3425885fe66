"""Parking: kept as it was, found again, and not to be talked out of by a header."""

import pytest

from bus.errors import Unavailable
from bus.parking import ORIGIN, REASON, Parking, parked_id
from domain.parked import DropParked, RetryParked
from tests.integration.bus.place import Place, everything, meta


async def parked(
    place: Place, message: str = "7", body: bytes = b"\x00 body", reason: str = "why\n Ω"
) -> tuple[Parking, str]:
    parking = Parking(await place.ledger())
    headers = {"ce-id": message, "Nats-Msg-Id": "x", "Labledger-Sequence": message}
    id_, _ = await parking.park(
        "event", "deliver", "evt.scan.1", message, headers, body, reason, "trace", meta(f"park-{message}")
    )
    return parking, id_


async def test_a_parked_message_is_kept_as_it_was_with_the_reason(place: Place) -> None:
    parking, id_ = await parked(place)
    (added,) = await everything(place.opened[0])
    assert added.id == id_ == parked_id("deliver", "7")
    subject, headers, body = await parking.message(added.event.park_seq)  # type: ignore[attr-defined]
    assert (subject, body, headers["ce-id"]) == ("evt.scan.1", b"\x00 body", "7")
    assert headers[ORIGIN] == "evt.scan.1" and headers[REASON].startswith("why ")
    with pytest.raises(Unavailable):
        await parking.message(99)


async def test_parking_the_same_again_is_harmless(place: Place) -> None:
    await parked(place)
    await parked(place)
    assert len(await everything(place.opened[0])) == 1
    assert (await place.opened[0].api("STREAM.INFO.PARK"))["state"]["messages"] == 1


async def test_only_the_message_itself_is_tried_again_and_only_when_asked_for(place: Place) -> None:
    parking, id_ = await parked(place)
    assert await parking.retrying(id_, "deliver", "7") is None
    await parking.ledger.handle("parked", id_, RetryParked(parked_id=id_), meta("retry"))
    assert await parking.retrying(id_, "deliver", "7") == id_
    assert await parking.retrying(id_, "deliver", "8") is None
    assert await parking.retrying(id_, "commands", "7") is None
    assert await parking.retrying("", "deliver", "7") is None


async def test_what_is_parked_and_resolved_twice_is_resolved_twice(place: Place) -> None:
    parking, id_ = await parked(place)
    await parking.resolve(id_, meta("same"))
    await parking.park("event", "deliver", "evt.scan.1", "7", {"Labledger-Sequence": "7"}, b"", "again", "", meta("p2"))
    await parking.resolve(id_, meta("same"))
    types = [stored.type.split(".")[1] for stored in await everything(place.opened[0])]
    assert types == ["added", "resolved", "added", "resolved"]


async def test_the_first_unresolved_before_an_event_holds_it_up(place: Place) -> None:
    parking, first = await parked(place, "3")
    _, second = await parked(place, "5")
    assert await parking.waits_behind("deliver", "scan", "1", 9) == first
    assert await parking.waits_behind("deliver", "scan", "1", 5) == first
    assert await parking.waits_behind("deliver", "scan", "1", 3) is None
    assert await parking.waits_behind("deliver", "scan", "2", 9) is None
    assert await parking.waits_behind("other", "scan", "1", 9) is None
    await parking.ledger.handle("parked", first, DropParked(parked_id=first), meta("drop"))
    assert await parking.waits_behind("deliver", "scan", "1", 9) == second
    await parking.resolve(second, meta("ok"))
    assert await parking.waits_behind("deliver", "scan", "1", 9) is None
