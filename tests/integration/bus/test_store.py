"""The event store on a real server: all or nothing, once, in a chain, and never by a stale lease."""

import asyncio
import json
from typing import Any

import pytest
from nats.aio.msg import Msg

from bus import streams
from bus.connection import Ack
from bus.envelope import Head, Stored
from bus.errors import Conflict, Fenced, Rejected, Unavailable
from bus.store import Change, EventStore, Fence, Written
from bus.streams import evt
from domain.events import encode
from domain.parked import ParkedAdded
from tests.integration.bus.place import LostAnswers, Place, after, everything, meta, noted, until

FRAME = "parked.retried.v1"


def chain_is_right(stored: list[Stored]) -> bool:
    heads: dict[str, Head] = {}
    for event in stored:
        wrong = event.wrong(heads.get(event.subject, Head()))
        assert wrong is None, f"{event.subject} at {event.seq}: {wrong}"
        heads[event.subject] = event.head
    return True


def numbers(stored: list[Stored]) -> list[int]:
    return [json.loads(event.data)["park_seq"] for event in stored]


async def test_an_append_answers_where_each_event_stands(place: Place) -> None:
    store = await place.store()
    first = await store.append([after([], noted(1))], meta("a"))
    more = await store.append([after(first, noted(2), noted(3))], meta("b"))
    assert [(w.seq, w.version, w.type) for w in first + more] == [(1, 1, FRAME), (2, 2, FRAME), (3, 3, FRAME)]
    stored = await store.history("parked", "p")
    assert [Written.of(event) for event in stored] == first + more
    assert [event.message_id for event in stored] == ["a:0", "b:0", "b:1"]
    assert [event.actor for event in stored] == ["tester"] * 3


async def test_who_did_not_see_the_last_event_is_refused(place: Place) -> None:
    store = await place.store()
    first = await store.append([after([], noted(1))], meta("a"))
    await store.append([after(first, noted(2))], meta("b"))
    with pytest.raises(Conflict):
        await store.append([after(first, noted(3))], meta("c"))
    with pytest.raises(Conflict):
        await store.append([after([], noted(3), noted(4))], meta("d"))
    assert numbers(await store.history("parked", "p")) == [1, 2]


async def test_of_a_batch_over_several_aggregates_all_or_nothing_is_stored(place: Place) -> None:
    store = await place.store()
    one = await store.append([after([], noted(1, "one"), id_="one")], meta("a"))
    with pytest.raises(Conflict):
        changes = [after([], noted(2, "two"), id_="two"), after([], noted(3, "one"), id_="one")]
        await store.append(changes, meta("b"))
    assert await store.history("parked", "two") == []
    changes = [after([], noted(2, "two"), id_="two"), after(one, noted(3, "one"), id_="one")]
    written = await store.append(changes, meta("b"))
    assert [w.subject for w in written] == ["evt.parked.two", "evt.parked.one"]
    assert chain_is_right(await everything(store.bus))


@pytest.mark.parametrize("events", [1, 3])
async def test_after_a_lost_answer_the_events_are_there_once(place: Place, events: int) -> None:
    store = await place.store()
    before = await store.append([after([], noted(0))], meta("a"))
    lost = LostAnswers(store.bus)
    lost.left = 1
    written = await store.append([after(before, *(noted(n) for n in range(events)))], meta("b"))
    assert lost.lost == 1
    stored = await store.history("parked", "p")
    assert [Written.of(event) for event in stored] == before + written
    assert len(stored) == 1 + events and chain_is_right(stored)


async def test_after_a_lost_answer_a_fenced_frame_is_there_once(place: Place) -> None:
    store = await place.store("station")
    (lease,) = await store.append([after([], noted(1, "lease"), id_="lease")], meta("l"))
    fence = Fence(lease.subject, lease.seq)
    lost = LostAnswers(store.bus)
    lost.left = 2
    change = Change("parked", "p", (), Head(), fenced=True)
    head = await store.append_frame(change, FRAME, encode(noted(7)), meta("f"), fence, "scan:1:0")
    assert lost.lost == 1  # then it was looked for, and found
    stored = await store.history("parked", "p")
    assert [event.head for event in stored] == [head] and chain_is_right(stored)


async def test_a_frame_whose_answer_was_lost_is_there_once_even_after_the_window_of_message_ids(place: Place) -> None:
    provisioner = place.opened[0]
    await provisioner.api("STREAM.DELETE.EVT")
    config = streams.wanted("EVT") | {"duplicate_window": 100_000_000}
    assert "error" not in await provisioner.api("STREAM.CREATE.EVT", config)
    store = await place.store("station")
    (lease,) = await store.append([after([], noted(1, "lease"), id_="lease")], meta("l"))
    publish, tries = store.bus.publish, 0

    async def away_for_long(*args: object, **kwargs: object) -> Ack:
        nonlocal tries
        tries += 1
        ack = await publish(*args, **kwargs)  # type: ignore[arg-type]
        if tries == 1:
            await asyncio.sleep(0.4)
            raise Unavailable("lost (test)")
        return ack

    store.bus.publish = away_for_long  # type: ignore[method-assign]
    change = Change("parked", "p", (), Head(), fenced=True)
    fence = Fence(lease.subject, lease.seq)
    head = await store.append_frame(change, FRAME, encode(noted(7)), meta("f"), fence, "scan:1:0")
    assert [event.head for event in await store.history("parked", "p")] == [head]


async def test_the_message_id_of_another_event_is_refused_loudly(place: Place) -> None:
    store = await place.store(patience_s=3)
    await store.append([after([], noted(1, "one"), id_="one")], meta("same"))
    with pytest.raises(Rejected, match="same:0"):
        await store.append([after([], noted(2, "two"), id_="two")], meta("same"))
    with pytest.raises(Rejected, match="same:0"):
        await store.append([after([], noted(2, "two"), noted(3, "two"), id_="two")], meta("same"))
    assert await store.history("parked", "two") == []


async def test_an_append_of_long_ago_is_recognised_although_the_history_went_on(place: Place) -> None:
    store = await place.store()
    first = await store.append([after([], noted(1))], meta("a"))
    pair = await store.append([after(first, noted(2), noted(3))], meta("b"))
    last = await store.append([after(pair, noted(4))], meta("c"))
    assert await store.append([after(last, noted(1))], meta("a")) == first
    assert await store.append([after(last, noted(2), noted(3))], meta("b")) == pair
    assert numbers(await store.history("parked", "p")) == [1, 2, 3, 4]


async def test_an_append_goes_on_through_a_kill_of_the_server(place: Place) -> None:
    store = await place.store(patience_s=20)
    written: list[Written] = []

    async def write() -> None:
        for n in range(60):
            events = [noted(n)] if n % 3 else [noted(n), noted(1000 + n)]
            written.extend(await store.append([after(written, *events)], meta(f"m{n}")))
            await asyncio.sleep(0.005)

    writing = asyncio.create_task(write())
    await asyncio.sleep(0.2)
    assert written and not writing.done()
    await place.restart()
    await asyncio.wait_for(writing, 25)
    stored = await store.history("parked", "p")
    assert [Written.of(event) for event in stored] == written
    assert len(stored) == 80 and chain_is_right(stored)


async def test_when_nats_stays_away_it_is_said_and_the_repeat_stores_once(place: Place) -> None:
    store = await place.store(patience_s=0.5)
    first = await store.append([after([], noted(1))], meta("a"))
    await asyncio.to_thread(place.server.kill)
    await until(lambda: not store.bus.nc.is_connected)
    request = store.bus.request

    async def soon(subject: str, body: bytes = b"", headers: Any = None, timeout_s: float = 0, **more: Any) -> Msg:
        return await request(subject, body, headers, 0.3, **more)

    store.bus.request = soon  # type: ignore[method-assign,assignment]
    with pytest.raises(Unavailable, match=r"not stored within 0\.5 s"):
        await store.append([after(first, noted(2))], meta("b"))
    with pytest.raises(Unavailable):
        await store.append([after(first, noted(2), noted(3))], meta("c"))
    await asyncio.to_thread(place.server.start)
    await until(lambda: store.bus.nc.is_connected)
    store.bus.request = request  # type: ignore[method-assign]
    store.patience_s = 10
    second = await store.append([after(first, noted(2))], meta("b"))
    stored = await store.history("parked", "p")
    assert [Written.of(event) for event in stored] == first + second and chain_is_right(stored)


async def test_what_is_too_large_is_rejected_in_words_and_the_connection_lives(place: Place) -> None:
    store = await place.store()
    large = ParkedAdded(
        parked_id="p", what="event", subject="s", consumer="c", reason="r", park_seq=1, detail="x" * 950_000
    )
    with pytest.raises(Rejected, match="put large values in a blob"):
        await store.append([after([], large)], meta("a"))
    with pytest.raises(Rejected, match="NATS takes 1048576"):
        change = Change("parked", "p", (), Head(), fenced=True)
        await store.append_frame(change, FRAME, b"x" * 1_048_500, meta("f"), Fence("evt.lease.x", 0), "f:1:0")
    with pytest.raises(Rejected, match="1001 events at once"):
        await store.append([after([], *(noted(n) for n in range(1001)))], meta("b"))
    assert store.bus.nc.stats["reconnects"] == 0
    assert len(await store.append([after([], *(noted(n) for n in range(1000)))], meta("c"))) == 1000


async def test_the_chain_is_right_over_batches_conflicts_and_a_restart(place: Place) -> None:
    a, b = await place.store(), await place.store("station")

    async def write(store: EventStore, name: str) -> int:
        lost = 0
        for n in range(25):
            while True:
                try:
                    history = [await store.last(evt("parked", "p"))]
                    known = [event for event in history if event]
                    await store.append([after(known, noted(n), *([noted(n)] * (n % 3)))], meta(f"{name}{n}.{lost}"))
                    break
                except Conflict:
                    lost += 1
        return lost

    conflicts = sum(await asyncio.gather(write(a, "a"), write(b, "b")))
    await place.restart()
    await until(lambda: a.bus.nc.is_connected)
    conflicts += await write(a, "c")
    stored = await a.history("parked", "p")
    assert conflicts > 0 and len(stored) == 3 * 49
    assert chain_is_right(stored)
    assert [event.version for event in stored] == list(range(1, len(stored) + 1))


async def test_a_stale_lease_refuses_single_events_batches_and_frames(place: Place) -> None:
    store = await place.store("station")
    lease = await store.append([after([], noted(1, "lease"), id_="lease")], meta("l1"))
    fence = Fence(lease[0].subject, lease[0].seq)
    mine = await store.append([after([], noted(1), fenced=True)], meta("a"), fence)
    mine += await store.append([after(mine, noted(2), noted(3), fenced=True)], meta("b"), fence)
    await store.append([after(lease, noted(2, "lease"), id_="lease")], meta("l2"))
    with pytest.raises(Fenced):
        await store.append([after(mine, noted(4), fenced=True)], meta("c"), fence)
    with pytest.raises(Fenced):
        await store.append([after(mine, noted(4), fenced=True), after([], noted(1, "o"), id_="o")], meta("d"), fence)
    with pytest.raises(Fenced):
        change = Change("parked", "p", (), mine[-1].head, fenced=True)
        await store.append_frame(change, FRAME, encode(noted(4)), meta("f"), fence, "scan:1:3")
    assert numbers(await store.history("parked", "p")) == [1, 2, 3]
    assert await store.history("parked", "o") == []


async def test_a_fence_needs_a_change_to_ride_on(place: Place) -> None:
    store = await place.store()
    with pytest.raises(ValueError, match="fenced"):
        await store.append([after([], noted(1))], meta("a"), Fence("evt.lease.x", 0))


@pytest.mark.parametrize("leader", [False, True])
async def test_a_tail_is_whole_also_over_more_than_a_thousand_events(place: Place, leader: bool) -> None:
    store = await place.store()
    written: list[Written] = []
    for n in range(5):
        written += await store.append([after(written, *(noted(n) for _ in range(500)))], meta(f"m{n}"))
        other = await store.history("parked", "other")
        await store.append([after(other, noted(n, "other"), id_="other")], meta(f"o{n}"))
    requests = 0
    api = store.bus.api

    async def counted(*args: object, **kwargs: object) -> object:
        nonlocal requests
        requests += 1
        return await api(*args, **kwargs)  # type: ignore[arg-type]

    store.bus.api = counted  # type: ignore[method-assign,assignment]
    tail = [stored async for stored in store.tail("evt.parked.p", written[9].seq, leader=leader)]
    assert [Written.of(event) for event in tail] == written[10:]
    assert requests < 20


async def test_many_at_once_over_many_aggregates_are_each_stored_once_in_their_chains(place: Place) -> None:
    store = await place.store()

    async def write(id_: str) -> list[Written]:
        written: list[Written] = []
        for n in range(6):
            written += await store.append([after(written, noted(n, id_), id_=id_)], meta(f"{id_}-{n}"))
        return written

    answers = await asyncio.gather(*(write(f"a{n}") for n in range(40)))
    stored = await everything(store.bus)
    assert len(stored) == 240 and chain_is_right(stored)
    by_seq = {event.seq: Written.of(event) for event in stored}
    assert all(by_seq[one.seq] == one for answer in answers for one in answer)


async def test_one_conflict_among_many_at_once_hurts_nobody_else(place: Place) -> None:
    store = await place.store()
    await store.append([after([], noted(0, "a7"), id_="a7")], meta("before"))
    writes = (store.append([after([], noted(1, f"a{n}"), id_=f"a{n}")], meta(f"m{n}")) for n in range(40))
    answers = await asyncio.gather(*writes, return_exceptions=True)
    assert [n for n, answer in enumerate(answers) if isinstance(answer, BaseException)] == [7]
    assert isinstance(answers[7], Conflict)
    assert len(await everything(store.bus)) == 40
