"""A reader keeps only so much in memory, and still gets everything, in order, transactions whole."""

import asyncio
from typing import Any

import pytest

from bus import subscription
from bus.subscription import Subscription
from tests.integration.bus.place import Place, after, meta, noted

PLENTY = 3_000


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "PULL", 5)
    monkeypatch.setattr(subscription, "BUFFER_BYTES", 400)
    monkeypatch.setattr(subscription, "BATCH_BYTES", 200)


async def test_a_reader_that_is_slow_does_not_hoard(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "PULL", 20)
    store = await place.store()
    stored: list[Any] = []
    for n in range(150):
        stored += await store.append([after(stored[-1:], noted(n))], meta(f"c{n}"))
    body = len((await store.history("parked", "p"))[0].data)
    seen: list[int] = []
    async with Subscription(await place.bus("projections")) as events, asyncio.timeout(30):
        while len(seen) < 150:
            batch = await events.next_batch(most=PLENTY)
            assert sum(len(one.data) for one in batch) < 200 + 2 * body
            seen += [one.seq for one in batch]
            await asyncio.sleep(0.02)  # whatever was asked for has come by now
            assert events._bytes <= 400 + 40 * (body + 2), "the buffer, and two pulls that were on their way"
    assert seen == list(range(1, 151))


async def test_a_transaction_larger_than_the_buffer_comes_whole(place: Place) -> None:
    store = await place.store()
    first = await store.append([after([], noted(0))], meta("a"))
    whole = await store.append([after(first, *(noted(n) for n in range(1, 61)))], meta("b"))
    last = await store.append([after(whole[-1:], noted(61))], meta("c"))
    sizes: list[int] = []
    seen: list[int] = []
    async with Subscription(await place.bus("projections"), subjects=["evt.parked.>"]) as events, asyncio.timeout(4):
        while len(seen) < 62:
            batch = await events.next_batch(most=10)
            sizes.append(len(batch))
            seen += [one.seq for one in batch]
    assert seen == [one.seq for one in (*first, *whole, *last)]
    assert any(size >= 60 for size in sizes), sizes


async def test_a_buffer_that_was_emptied_at_once_fills_again_at_once(place: Place) -> None:
    store = await place.store()
    stored: list[Any] = []
    for n in range(60):
        stored += await store.append([after(stored[-1:], noted(n))], meta(f"c{n}"))
    seen = 0
    # Far less than the silence after which a reader would begin anew.
    async with Subscription(await place.bus("projections")) as events, asyncio.timeout(2):
        while seen < 60:
            seen += len(await events.next_batch(most=PLENTY))
