"""Reactions: each event at least once, in order for each aggregate; what fails is tried again, then parked with what follows."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest

from bus import broker, retry
from bus.commands import Sender
from bus.envelope import Head
from bus.errors import Unavailable
from bus.ids import uuid7
from bus.reactions import Consumer, Reaction
from bus.store import Change
from domain.events import EVENTS, Event
from domain.queue import QueueCreated, QueuePaused, QueueStarted
from tests.integration.bus.place import Handlers, Place, everything, meta, until

Start = Callable[..., Awaitable[Handlers]]


class Watcher:
    """A consumer that notes what it handles, and fails as told."""

    def __init__(self) -> None:
        self.consumer = Consumer("watch")
        self.seen: list[int] = []
        self.tries: list[tuple[int, float]] = []
        self.fail: Callable[[int], Exception | None] = lambda _: None

        @self.consumer.on(QueueCreated, QueuePaused)
        async def watch(event: Event, at: Reaction) -> None:
            self.tries.append((at.stored.seq, time.monotonic()))
            error = self.fail(at.stored.seq)
            if error is not None:
                raise error
            self.seen.append(at.stored.seq)


def paused(queue_id: str) -> Event:
    return QueuePaused(queue_id=queue_id, running_jobs="finish", running=())


async def write(place: Place, queue_id: str, *events: Event) -> list[int]:
    store = await place.store()
    last = await store.last(f"evt.queue.{queue_id}")
    change = Change("queue", queue_id, events, last.head if last else Head())
    return [written.seq for written in await store.append([change], meta(uuid7()))]


async def parked(place: Place) -> list[Any]:
    found = await everything(place.opened[0], "evt.parked.>")
    return [json.loads(stored.data) | {"type": stored.type.split(".")[1]} for stored in found]


async def test_each_event_of_its_kinds_is_handled_in_order_and_others_are_not(place: Place, handlers: Start) -> None:
    watcher = Watcher()
    await handlers(watcher.consumer)
    wanted: list[int] = []
    for n in range(30):
        one = await write(place, f"q{n % 3}", paused(f"q{n % 3}"), QueueStarted(queue_id="q", by_itself=True))
        wanted.append(one[0])
    await until(lambda: len(watcher.seen) == 30)
    for n in range(3):
        assert [seq for seq in watcher.seen if seq in wanted[n::3]] == wanted[n::3]
    assert sorted(watcher.seen) == wanted


async def test_what_happened_while_nobody_listened_is_handled_later_and_not_twice(
    place: Place, handlers: Start
) -> None:
    watcher = Watcher()
    running = await handlers(watcher.consumer)
    first = await write(place, "q", paused("q"))
    await until(lambda: watcher.seen == first)
    await asyncio.sleep(0.1)
    await running.stop()
    more = await write(place, "q", paused("q"), paused("q"))
    await handlers(watcher.consumer)
    await until(lambda: len(watcher.seen) >= 3)
    await asyncio.sleep(0.3)
    assert watcher.seen == first + more


async def test_a_failing_handler_is_tried_again_ever_later_and_the_next_events_wait(
    place: Place, handlers: Start
) -> None:
    watcher = Watcher()
    left = 4

    def fail(_: int) -> Exception | None:
        nonlocal left
        left -= 1
        return ZeroDivisionError("a defect") if left >= 0 else None

    watcher.fail = fail
    await handlers(watcher.consumer)
    one, *more = await write(place, "q", *[paused("q")] * 12)
    await until(lambda: len(watcher.seen) == 12)
    assert watcher.seen == [one, *more]
    times = [at for seq, at in watcher.tries if seq == one]
    gaps = [b - a for a, b in pairwise(times)]
    assert len(gaps) == 4 and gaps[3] > gaps[0]
    assert await parked(place) == []


async def test_waiting_behind_another_event_does_not_use_up_the_tries(place: Place, handlers: Start) -> None:
    watcher = Watcher()
    away_until = time.monotonic() + 2.0
    failures = {"left": 3}
    first = 1

    def fail(seq: int) -> Exception | None:
        if seq == first and time.monotonic() < away_until:
            return Unavailable("away (test)")
        if seq != first and failures["left"]:
            failures["left"] -= 1
            return ZeroDivisionError("a defect")
        return None

    watcher.fail = fail
    first = ((await everything(place.opened[0]) or [None])[-1] and 0) or 1
    await handlers(watcher.consumer)
    one, two = await write(place, "q", paused("q"), paused("q"))
    assert one == first
    await until(lambda: watcher.seen == [one, two])
    assert await parked(place) == []


async def test_poison_is_parked_with_all_that_follows_of_its_aggregate_and_comes_back_in_order(
    place: Place, handlers: Start
) -> None:
    watcher = Watcher()
    watcher.fail = lambda seq: ZeroDivisionError("a defect") if seq == 1 else None
    await handlers(watcher.consumer)
    one, two, three = await write(place, "q", paused("q"), paused("q"), paused("q"))
    (other,) = await write(place, "r", paused("r"))
    await until(lambda: _count(place, 3))
    await until(lambda: watcher.seen == [other])
    assert len([t for t in watcher.tries if t[0] == one]) == retry.TRIES
    added = await parked(place)
    assert [it["type"] for it in added] == ["added"] * 3
    assert "a defect" in added[0]["reason"] and "ZeroDivisionError" in added[0]["detail"]
    assert added[0]["parked_id"] in added[1]["reason"] and added[0]["parked_id"] in added[2]["reason"]
    ids = [it["parked_id"] for it in added]
    assert len(set(ids)) == 3

    ada = Sender(await place.bus("publisher"))

    async def again(parked_id: str) -> None:
        outcome = await ada.send("parked.retry", json.dumps({"parked_id": parked_id}).encode(), uuid7())
        assert outcome.outcome == "accepted", outcome.reason

    # Not before the first: it stays parked.
    watcher.fail = lambda _: None
    await again(ids[1])
    await until(lambda: _last(place, ids[1], "added", 3))
    assert watcher.seen == [other]
    await again(ids[0])
    await until(lambda: _last(place, ids[0], "resolved"))
    # The later two are still parked: what comes now waits behind them.
    (four,) = await write(place, "q", paused("q"))
    await until(lambda: _count(place, 4))
    for parked_id in ids[1:]:
        await again(parked_id)
        await until(lambda parked_id=parked_id: _last(place, parked_id, "resolved"))
    (last,) = [it["parked_id"] for it in await parked(place) if it["type"] == "added" and it["parked_id"] not in ids]
    await again(last)
    await until(lambda: _last(place, last, "resolved"))
    assert watcher.seen == [other, one, two, three, four]
    (five,) = await write(place, "q", paused("q"))
    await until(lambda: watcher.seen[-1] == five)


async def _count(place: Place, ids: int) -> bool:
    return len({it["parked_id"] for it in await parked(place)}) == ids


async def _last(place: Place, parked_id: str, type_: str, least: int = 1) -> bool:
    found = [it for it in await parked(place) if it["parked_id"] == parked_id]
    return len(found) >= least and found[-1]["type"] == type_


async def test_an_event_that_was_dropped_blocks_nobody(place: Place, handlers: Start) -> None:
    watcher = Watcher()
    watcher.fail = lambda seq: ZeroDivisionError("a defect") if seq == 1 else None
    await handlers(watcher.consumer)
    await write(place, "q", paused("q"))
    await until(lambda: _count(place, 1))
    (added,) = await parked(place)
    ada = Sender(await place.bus("publisher"))
    await ada.send("parked.drop", json.dumps({"parked_id": added["parked_id"]}).encode(), uuid7())
    (two,) = await write(place, "q", paused("q"))
    await until(lambda: watcher.seen == [two])


async def test_an_event_type_that_is_not_known_is_parked_loudly_and_handled_after_the_update(
    place: Place, handlers: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Watcher()
    (one,) = await write(place, "q", paused("q"))
    known = EVENTS["queue.paused"]
    monkeypatch.delitem(EVENTS, "queue.paused")
    await handlers(watcher.consumer)
    await until(lambda: _count(place, 1))
    (added,) = await parked(place)
    assert "queue.paused.v1" in added["reason"] and watcher.seen == []
    monkeypatch.setitem(EVENTS, "queue.paused", known)
    ada = Sender(await place.bus("publisher"))
    await ada.send("parked.retry", json.dumps({"parked_id": added["parked_id"]}).encode(), uuid7())
    await until(lambda: watcher.seen == [one])


async def test_trouble_that_time_mends_is_never_parked(place: Place, handlers: Start) -> None:
    watcher = Watcher()
    tries = 0

    def fail(_: int) -> Exception | None:
        nonlocal tries
        tries += 1
        return Unavailable("away (test)") if tries <= 2 * retry.TRIES else None

    watcher.fail = fail
    await handlers(watcher.consumer)
    one = await write(place, "q", paused("q"))
    await until(lambda: watcher.seen == one)
    assert tries > 2 * retry.TRIES and await parked(place) == []


async def test_an_event_that_another_process_took_over_holds_up_nothing_here(
    place: Place, handlers: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "ACK_WAIT_S", 0.2)
    watcher = Watcher()
    running = await handlers(watcher.consumer)
    # As if event 1 had failed here, and been handled elsewhere.
    running.reactor._out["watch", "evt.queue.q"] = {1: asyncio.get_running_loop().time() + 0.4}
    found = await write(place, "q", paused("q"), paused("q"))
    await until(lambda: sorted(watcher.seen) == found, 5)


async def test_consumers_are_made_with_our_policies_and_streams_are_left_alone(place: Place, handlers: Start) -> None:
    before = (await place.opened[0].api("STREAM.INFO.EVT"))["config"]
    await handlers(Watcher().consumer)
    for stream, name in (("EVT", "watch-queue"), ("CMD", "commands"), ("CMD", "retry-watch"), ("TIM", "timers")):
        config = (await place.opened[0].api(f"CONSUMER.INFO.{stream}.{name}"))["config"]
        assert config["ack_policy"] == "explicit" and config.get("max_deliver", -1) == -1
        assert config["ack_wait"] == broker.ACK_WAIT_S * 1e9 and config["durable_name"] == name
    assert (await place.opened[0].api("STREAM.INFO.EVT"))["config"] == before


async def test_a_retry_order_that_is_none_is_thrown_away(place: Place, handlers: Start) -> None:
    watcher = Watcher()
    await handlers(watcher.consumer)
    bus = await place.bus("commands")
    for body in (b"", b"[]", b'{"park_seq": "x"}'):
        assert not (await bus.publish("cmd.work.retry.watch", body, {"x": "y"})).err_code

    async def empty() -> bool:
        return (await place.opened[0].api("STREAM.INFO.CMD"))["state"]["messages"] == 0

    await until(empty)
