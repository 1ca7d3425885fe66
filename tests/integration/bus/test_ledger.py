"""Deciding on the ledger: conflicts decided again, repeats answered with what was, snapshots only when they are right."""

import asyncio
import json
from typing import Any

import pytest

from bus.errors import Conflict
from bus.ledger import REMEMBERED, SNAPSHOT_EVERY, Ledger, Transaction
from bus.store import EventStore
from domain.aggregate import aggregates
from domain.errors import AlreadyExists, NotFound, Refused
from domain.queue import ClearQueue, CreateQueue, PauseQueue, ResumeQueue, StartQueue
from tests.integration.bus.place import Place, add_job, everything, meta, until


async def manual_queue(ledger: Ledger, id_: str = "q") -> None:
    await ledger.handle("queue", id_, CreateQueue(queue_id=id_, mode="manual"), meta(f"create-{id_}"))


async def test_what_is_decided_is_stored_and_known_at_once(place: Place) -> None:
    ledger = await place.ledger()
    outcome = await ledger.handle("queue", "q", CreateQueue(queue_id="q", mode="manual"), meta("a"))
    assert [written.type for written in outcome.events] == ["queue.created.v1"]
    assert outcome.sequence == 1 and not outcome.repeated
    await ledger.handle("queue", "q", add_job("q", 1), meta("b"))
    assert len((await ledger.load("queue", "q")).state.waiting) == 1
    assert (await ledger.load("queue", "q")) == (await (await place.ledger()).load("queue", "q"))


async def test_a_refusal_stores_nothing(place: Place) -> None:
    ledger = await place.ledger()
    with pytest.raises(NotFound):
        await ledger.handle("queue", "q", StartQueue(queue_id="q"), meta("a"))
    assert await everything(ledger.store.bus) == []


async def test_a_no_counts_only_on_what_is_true_now(place: Place) -> None:
    here, there = await place.ledger(), await place.ledger("station")
    with pytest.raises(NotFound):
        await here.handle("queue", "q", PauseQueue(queue_id="q"), meta("a"))
    await there.handle("queue", "q", CreateQueue(queue_id="q"), meta("b"))
    outcome = await here.handle("queue", "q", add_job("q"), meta("c"))
    assert len(outcome.events) >= 1
    await there.handle("queue", "q", PauseQueue(queue_id="q"), meta("d"))
    outcome = await here.handle("queue", "q", ResumeQueue(queue_id="q"), meta("e"))
    assert outcome.events[0].type == "queue.resumed.v1"


async def test_two_ledgers_on_one_aggregate_lose_nothing(place: Place) -> None:
    one, two = await place.ledger(), await place.ledger("station")
    await manual_queue(one)

    async def add(ledger: Ledger, name: str, n: int) -> None:
        command = add_job("q")
        while True:
            try:
                await ledger.handle("queue", "q", command, meta(f"{name}-{n}"))
                return
            except Conflict:
                await asyncio.sleep(0.01)  # as the consumer of commands does: again later

    async with asyncio.timeout(30):
        adds = [add(ledger, name, n) for n in range(64) for ledger, name in ((one, "one"), (two, "two"))]
        await asyncio.gather(*adds)
    history = await one.store.history("queue", "q")
    assert len(history) == 1 + 128
    causes = [stored.causation for stored in history[1:]]
    assert len(set(causes)) == 128
    states = [(await ledger.refresh("queue", "q")).state for ledger in (one, two)]
    assert states[0] == states[1] and len(states[0].waiting) == 128
    revisions = [json.loads(stored.data)["revision"] for stored in history[1:]]
    assert revisions == sorted(set(revisions))


async def test_after_five_lost_races_the_conflict_is_told(place: Place) -> None:
    one, two = await place.ledger(), await place.ledger("station")
    await manual_queue(one)
    rounds = 0

    async def too_slow(tx: Transaction) -> None:
        nonlocal rounds
        rounds += 1
        await tx.decide("queue", "q", add_job("q", 1))
        await two.handle("queue", "q", add_job("q"), meta(f"rival-{rounds}"))

    with pytest.raises(Conflict):
        await one.transact(too_slow, meta("a"))
    assert rounds == 5
    assert (await one.handle("queue", "q", add_job("q", 1), meta("a"))).events


async def test_64_commands_at_once_on_one_ledger_take_turns(place: Place) -> None:
    ledger = await place.ledger()
    await manual_queue(ledger)
    appends = 0
    append = ledger.store.append

    async def counted(*args: Any) -> Any:
        nonlocal appends
        appends += 1
        return await append(*args)

    ledger.store.append = counted  # type: ignore[method-assign]
    await asyncio.gather(*(ledger.handle("queue", "q", add_job("q"), meta(f"m{n}")) for n in range(64)))
    assert appends == 64 and len((await ledger.load("queue", "q")).state.waiting) == 64
    assert not ledger._turns, "what nobody waits for is let go"


async def test_several_aggregates_change_together_or_not_at_all(place: Place) -> None:
    ledger = await place.ledger()
    await manual_queue(ledger, "a")

    async def both(tx: Transaction) -> None:
        await tx.decide("queue", "a", add_job("a", 1))
        await tx.decide("queue", "b", CreateQueue(queue_id="b", mode="manual"))
        await tx.decide("queue", "b", add_job("b", 2))

    outcome = await ledger.transact(both, meta("x"))
    assert [written.subject for written in outcome.events] == ["evt.queue.a", "evt.queue.b", "evt.queue.b"]
    assert [written.seq for written in outcome.events] == [2, 3, 4]

    async def half(tx: Transaction) -> None:
        await tx.decide("queue", "a", add_job("a", 3))
        await tx.decide("queue", "b", CreateQueue(queue_id="b"))

    with pytest.raises(AlreadyExists):
        await ledger.transact(half, meta("y"))
    assert len(await everything(ledger.store.bus)) == 4


@pytest.mark.parametrize("fresh", [False, True], ids=["in the same process", "in another process"])
async def test_a_repeated_command_answers_the_events_of_the_first_time(place: Place, fresh: bool) -> None:
    ledger = await place.ledger()
    await manual_queue(ledger, "a")

    async def both(tx: Transaction) -> None:
        await tx.decide("queue", "a", add_job("a", 1))
        await tx.decide("queue", "b", CreateQueue(queue_id="b", mode="manual"))

    first = await ledger.transact(both, meta("x"))
    single = await ledger.handle("queue", "a", add_job("a", 2), meta("y"))
    if fresh:
        ledger = await place.ledger("station")
    again = await ledger.transact(both, meta("x"))
    assert again.repeated and again.events == first.events and again.sequence == first.sequence
    again = await ledger.handle("queue", "a", add_job("a", 2), meta("y"))
    assert again.repeated and again.events == single.events
    assert len(await everything(ledger.store.bus)) == 4


async def test_the_last_64_commands_are_remembered_and_older_ones_are_recognised_by_the_stream(place: Place) -> None:
    ledger = await place.ledger()
    await manual_queue(ledger)
    outcomes = [await ledger.handle("queue", "q", add_job("q", n + 1), meta(f"m{n}")) for n in range(REMEMBERED + 2)]
    assert len((await ledger.load("queue", "q")).recent) == REMEMBERED
    assert "m1" not in (await ledger.load("queue", "q")).recent and "m2" in (await ledger.load("queue", "q")).recent
    await ledger.handle("queue", "q", ClearQueue(queue_id="q"), meta("clear"))
    # Decided anew it would add the job again; message m0:0 tells that it was done.
    again = await ledger.handle("queue", "q", add_job("q", 1), meta("m0"))
    assert again.repeated and again.events == outcomes[0].events
    assert (await ledger.load("queue", "q")).state.waiting == ()
    assert (await (await place.ledger()).load("queue", "q")).state.waiting == ()
    await ledger.handle("queue", "q", add_job("q", 99), meta("new"))
    assert len((await ledger.load("queue", "q")).state.waiting) == 1


# --- snapshots -----------------------------------------------------------------------------------------------------------


async def long_queue(place: Place) -> Ledger:
    ledger = await place.ledger()
    await manual_queue(ledger)
    for n in range(SNAPSHOT_EVERY + 20):
        command = add_job("q", n + 1) if n % 5 < 4 else ClearQueue(queue_id="q")
        await ledger.handle("queue", "q", command, meta(f"m{n}"))

    async def snapshot() -> bytes | None:
        return await ledger.store.load_snapshot(aggregates()["queue"], "q")

    await until(snapshot)
    return ledger


class Counting(EventStore):
    """Counts the events that are read to load."""

    read = 0

    async def tail(self, *args: Any, **kwargs: Any) -> Any:
        async for stored in super().tail(*args, **kwargs):
            self.read += 1
            yield stored


async def cold(place: Place) -> tuple[Any, int]:
    store = Counting(await place.bus("station"), patience_s=5)
    loaded = await Ledger(store).load("queue", "q")
    return loaded, store.read


async def test_a_snapshot_saves_reading_and_tells_the_same(place: Place) -> None:
    ledger = await long_queue(place)
    known = await ledger.load("queue", "q")
    loaded, read = await cold(place)
    assert read < 30
    assert (loaded.state, loaded.head, loaded.recent) == (known.state, known.head, known.recent)
    purged = await place.opened[0].api("STREAM.PURGE.SNAP")
    assert purged["success"]
    loaded, read = await cold(place)
    assert read == SNAPSHOT_EVERY + 21
    assert (loaded.state, loaded.head, loaded.recent) == (known.state, known.head, known.recent)


@pytest.mark.parametrize("damage", ["state", "head", "recent", "schema", "not json", "hash", "another shape"])
async def test_a_snapshot_that_is_damaged_or_of_another_schema_is_ignored(place: Place, damage: str) -> None:
    ledger = await long_queue(place)
    known = await ledger.load("queue", "q")
    body = await ledger.store.load_snapshot(aggregates()["queue"], "q")
    assert body is not None
    data = json.loads(body)
    match damage:
        case "state":
            data["state"] = data["state"].replace("manual", "automatic")
        case "head":
            data["head"]["seq"] += 5
        case "recent":
            data["recent"].popitem()
        case "schema":
            data["schema"] += 1
        case "hash":
            data["hash"] = "0" * 64
        case "another shape":
            data = {"schema": 1}
        case _:
            pass
    broken = b"{" if damage == "not json" else json.dumps(data).encode()
    assert broken != body
    await ledger.store.save_snapshot(aggregates()["queue"], "q", broken)
    loaded, read = await cold(place)
    assert read == SNAPSHOT_EVERY + 21
    assert (loaded.state, loaded.head) == (known.state, known.head)


async def test_a_refused_command_leaves_the_memory_of_what_is_known_alone(place: Place) -> None:
    ledger = await place.ledger()
    await manual_queue(ledger)
    before = await ledger.load("queue", "q")
    with pytest.raises(Refused):
        await ledger.handle("queue", "q", StartQueue(queue_id="q"), meta("a"))
    assert await ledger.load("queue", "q") == before
