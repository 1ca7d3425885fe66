"""Reading EVT in order: nothing skipped, nothing twice, no transaction split, whatever happens to server and consumer."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from bus import subscription
from bus.connection import Bus
from bus.envelope import BATCH_COMMIT, BATCH_ID, Head, Stored
from bus.errors import Unavailable
from bus.store import Change, EventStore, Written
from bus.subscription import PULL, Subscription, ack_tokens, last_sequence, read_all
from domain.events import Event
from domain.queue import QueueStarted
from tests.integration.bus.place import Place, after, everything, meta, noted, until


async def write(store: EventStore, *sizes: int, id_: str = "p", key: str = "") -> None:
    """One append after the other, each of so many events."""
    written: list[Written] = []
    known = await store.last(f"evt.parked.{id_}")
    for n, size in enumerate(sizes):
        change = after(written or [one for one in [known] if one], *(noted(n, id_) for _ in range(size)), id_=id_)
        written = await store.append([change], meta(f"{id_}{key}-{n}"))


def whole(batch: list[Stored]) -> bool:
    """It ends where an atomic batch of the stream ends."""
    headers = batch[-1].headers
    return BATCH_ID not in headers or BATCH_COMMIT in headers


class Reader:
    """Reads for ever on a task."""

    def __init__(self, bus: Bus, **options: Any) -> None:
        self.subscription = Subscription(bus, **options)
        self.batches: list[list[Stored]] = []
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self.subscription as events:
            async for batch in events.batches(most=500):
                self.batches.append(batch)

    @property
    def sequences(self) -> list[int]:
        return [stored.seq for batch in self.batches for stored in batch]

    async def reaches(self, seq: int) -> None:
        await until(lambda: self.sequences and self.sequences[-1] >= seq, what=f"sequence {seq}")

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_events_come_in_order_and_no_batch_splits_a_transaction_at_the_border_of_pulls(place: Place) -> None:
    store = await place.store()
    # Batches that lie across 1000, 2000, 3000 and 4000.
    await write(store, *[7] * 143, *[333] * 10)
    reader = Reader(await place.bus("projections"))
    await reader.reaches(4331)
    assert reader.sequences == list(range(1, 4332)) and 4331 > 4 * PULL
    assert all(whole(batch) for batch in reader.batches)
    await write(store, *[3] * 40, id_="q")
    await reader.reaches(4451)
    assert reader.sequences == list(range(1, 4452))
    assert all(whole(batch) for batch in reader.batches)
    await reader.stop()


async def test_a_transaction_that_the_reader_sees_only_in_part_is_handed_out_too(place: Place) -> None:
    store = await place.store()
    one, two = after([], noted(1, "one"), id_="one"), after([], noted(1, "two"), id_="two")
    await store.append([one, two], meta("a"))
    async with Subscription(store.bus, subjects=["evt.parked.one"]) as events:
        batch = await events.next_batch(idle_s=2)
        assert [stored.id for stored in batch] == ["one"]


async def test_no_transaction_is_split_for_who_reads_some_kinds_while_it_is_written(place: Place) -> None:
    store = await place.store()
    readers = [Reader(await place.bus("projections"), subjects=["evt.parked.>"]) for _ in range(3)]
    readers += [Reader(await place.bus("projections"), subjects=["evt.parked.p", "evt.parked.r"])]
    expected = 0
    for n in range(120):
        queue = Change("queue", f"q{n}", [QueueStarted(queue_id=f"q{n}", by_itself=True)] * 3, Head())
        known = [one for one in [await store.last("evt.parked.p")] if one]
        await store.append([after(known, *[noted(n)] * 4), queue], meta(f"m{n}"))
        expected += 4
    for reader in readers:
        await until(lambda reader=reader: len(reader.sequences) >= expected)
        assert reader.sequences == sorted(set(reader.sequences))
        for batch in reader.batches:
            last = [stored for stored in batch if stored.headers[BATCH_ID] == batch[-1].headers[BATCH_ID]]
            assert len(last) == 4, "a transaction was split"
        await reader.stop()


@pytest.mark.parametrize("subject", ["evt.>", "evt.parked.>"])
async def test_that_nothing_is_pending_does_not_end_a_transaction(
    place: Place, monkeypatch: pytest.MonkeyPatch, subject: str
) -> None:
    """The server delivers the first events of a batch, with nothing pending, while it stores the rest."""
    deliver, read = Subscription._on_message, subscription.stored_from_delivery

    async def one_by_one(self: Subscription, msg: Any) -> None:
        await deliver(self, msg)
        await asyncio.sleep(0.02)

    def nothing_pending(msg: Any) -> tuple[Stored, int]:
        stored, seq = read(msg)
        return replace(stored, pending=0), seq

    monkeypatch.setattr(Subscription, "_on_message", one_by_one)
    monkeypatch.setattr(subscription, "stored_from_delivery", nothing_pending)
    store = await place.store()
    reader = Reader(await place.bus("projections"), subjects=[subject])
    queue = Change("queue", "q", [QueueStarted(queue_id="q", by_itself=True)], Head())
    await store.append([after([], *[noted(1)] * 5), queue], meta("m"))
    await reader.reaches(5)
    assert [stored.seq for stored in reader.batches[0]] == (
        [1, 2, 3, 4, 5, 6] if subject == "evt.>" else [1, 2, 3, 4, 5]
    )
    await reader.stop()


async def test_a_reader_goes_on_through_kills_of_the_server(place: Place) -> None:
    store = await place.store(patience_s=20)
    reader = Reader(await place.bus("projections"))
    await write(store, *[1] * 50, *[4] * 20)
    await reader.reaches(20)
    for n in range(2):
        await place.restart()
        await write(store, *[1] * 20, *[5] * 5, id_=f"after{n}")
    await reader.reaches(220)
    assert reader.sequences == list(range(1, 221))
    await reader.stop()


async def test_a_reader_whose_consumer_is_deleted_makes_a_new_one(place: Place) -> None:
    store = await place.store()
    reader = Reader(await place.bus("projections"))
    await write(store, *[1] * 20)
    await reader.reaches(20)
    names = (await place.opened[0].api("CONSUMER.NAMES.EVT"))["consumers"]
    assert len(names) == 1
    await place.opened[0].api(f"CONSUMER.DELETE.EVT.{names[0]}")
    await write(store, *[1] * 20, id_="q")
    await reader.reaches(40)
    assert reader.sequences == list(range(1, 41))
    assert (await place.opened[0].api("CONSUMER.NAMES.EVT"))["consumers"] != names
    await reader.stop()


async def test_what_a_slow_reader_drops_is_read_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await place.store()
    await write(store, *[50] * 30)
    dropped: list[int] = []
    deliver = Subscription._on_message

    async def drops_some(self: Subscription, msg: Any) -> None:
        if msg.reply.startswith("$JS.ACK"):
            seq = ack_tokens(msg.reply)[0]
            if seq in (1, 700, 701) and seq not in dropped:
                dropped.append(seq)
                return
        await deliver(self, msg)

    monkeypatch.setattr(Subscription, "_on_message", drops_some)
    reader = Reader(await place.bus("projections"))
    await reader.reaches(1500)
    assert dropped == [1, 700, 701] and reader.sequences == list(range(1, 1501))
    await reader.stop()


async def test_silence_of_the_server_reopens_the_reader(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "HEARTBEAT_S", 0.2)
    store = await place.store()
    bus = await place.bus("projections")
    reader = Reader(bus)
    await write(store, 1)
    await reader.reaches(1)
    sub = reader.subscription._sub
    assert sub is not None
    await sub.unsubscribe()  # from here on it hears nothing
    await write(store, 1, id_="q")
    await reader.reaches(2)
    assert reader.sequences == [1, 2]
    await reader.stop()


async def test_a_failed_pull_and_a_cancelled_wait_lose_no_event(place: Place) -> None:
    store = await place.store()
    await write(store, *[1] * 30)
    bus = await place.bus("projections")
    seen: list[int] = []
    async with Subscription(bus) as events:
        for n in range(200):
            if len(seen) == 30:
                break
            try:
                async with asyncio.timeout(0.0001 * n):
                    seen += [stored.seq for stored in await events.next_batch(most=3)]
            except TimeoutError:
                continue
    assert seen == list(range(1, 31))


async def test_a_reader_keeps_few_pulls_open_however_long_it_reads(place: Place) -> None:
    store = await place.store()
    bus = await place.bus("projections")
    reader = Reader(bus)
    most = 0
    for n in range(8):
        await write(store, 900, id_=f"a{n}")
        await reader.reaches((n + 1) * 900)
        (name,) = (await bus.api("CONSUMER.NAMES.EVT"))["consumers"]
        most = max(most, (await bus.api(f"CONSUMER.INFO.EVT.{name}"))["num_waiting"])
    assert 1 <= most <= 3
    assert 0 < reader.subscription._asked <= 2 * PULL
    await reader.stop()


async def test_read_all_comes_to_an_end(place: Place) -> None:
    store = await place.store()
    bus = await place.bus("projections")
    assert await everything(bus) == [] and await last_sequence(bus) == 0
    await write(store, *[700] * 4)
    assert [stored.seq for stored in await everything(bus)] == list(range(1, 2801))
    part = [stored.seq async for batch in read_all(bus, after=10, upto=2001) for stored in batch]
    assert part == list(range(11, 2002))


async def test_read_all_ends_although_writing_goes_on_and_nothing_at_the_end_matches(place: Place) -> None:
    store = await place.store()
    await write(store, *[1] * 20)
    await write(store, 5, id_="q")
    bus = await place.bus("projections")

    async def go_on() -> None:
        for n in range(10_000):
            await write(store, 1, id_="r", key=str(n))

    writing = asyncio.create_task(go_on())
    found = [stored.seq async for batch in read_all(bus) for stored in batch]
    assert found[:25] == list(range(1, 26))
    writing.cancel()
    assert len(await everything(bus, "evt.parked.p")) == 20
    assert await everything(bus, "evt.scan.>") == []


async def test_only_the_kinds_asked_for_come(place: Place) -> None:
    store = await place.store()
    await write(store, 2, id_="one")
    await write(store, 2, id_="two")
    found = await everything(store.bus, "evt.parked.two")
    assert [(stored.id, stored.kind) for stored in found] == [("two", "parked")] * 2
    event: Event = found[0].event
    assert event == noted(0, "two") and found[0].actor == "tester"


async def test_an_idle_reader_says_so_and_knows_that_it_has_caught_up(place: Place) -> None:
    store = await place.store()
    await write(store, 3)
    async with Subscription(store.bus, after=1) as events:
        assert [stored.seq for stored in await events.next_batch(idle_s=2)] == [2, 3]
        assert await events.nothing_before(3) == 3 and events.position == 3
        began = asyncio.get_running_loop().time()
        assert await events.next_batch(idle_s=0.2) == []
        assert 0.15 < asyncio.get_running_loop().time() - began


async def test_a_reader_of_a_closed_connection_ends(place: Place) -> None:
    bus = await place.bus("projections")
    reader = Reader(bus)
    await asyncio.sleep(0.1)
    await bus.close()
    reader.subscription._broken = True
    reader.subscription._wake.set()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(reader.task, 3)


def test_an_ack_subject_is_read_in_its_old_and_in_its_new_form() -> None:
    assert ack_tokens("$JS.ACK.EVT.c.1.20.3.99.4") == (20, 3, 99, 4)
    assert ack_tokens("$JS.ACK.hub.ACC.EVT.c.1.20.3.99.4") == (20, 3, 99, 4)
    assert ack_tokens("$JS.ACK.hub.ACC.EVT.c.1.20.3.99.4.token") == (20, 3, 99, 4)
