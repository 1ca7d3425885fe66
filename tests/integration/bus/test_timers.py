"""Timers: a command at a time, once, also when everything was down then."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from bus.timers import cancel_timer, set_timer
from domain.queue import CreateQueue
from tests.integration.bus.place import Handlers, Place, everything, until

Start = Callable[..., Awaitable[Handlers]]


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def created(place: Place) -> list[str]:
    return [json.loads(stored.data)["title"] for stored in await everything(place.opened[0], "evt.queue.>")]


async def test_a_timer_fires_its_command_once_and_not_early(place: Place, handlers: Start) -> None:
    await handlers()
    bus = await place.bus("commands")
    due = soon(0.7)
    await set_timer(bus, "t1", due, CreateQueue(queue_id="q", title="first"), actor="Jürgen")
    await until(lambda: created(place))
    (stored,) = await everything(place.opened[0], "evt.queue.>")
    assert stored.stored_at >= due and stored.stored_at < due + timedelta(seconds=3)
    assert stored.actor == "Jürgen"
    await asyncio.sleep(0.5)
    assert (await place.opened[0].api("STREAM.INFO.CMD"))["state"]["last_seq"] == 1


async def test_a_timer_is_moved_and_taken_back(place: Place, handlers: Start) -> None:
    await handlers()
    bus = await place.bus("commands")
    await set_timer(bus, "moved", soon(0.3), CreateQueue(queue_id="a", title="old"))
    await set_timer(bus, "moved", soon(1.3), CreateQueue(queue_id="a", title="new"))
    await set_timer(bus, "gone", soon(0.5), CreateQueue(queue_id="b", title="never"))
    assert await cancel_timer(bus, "gone") is True
    assert await cancel_timer(bus, "gone") is False
    assert await cancel_timer(bus, "unheard-of") is False
    await until(lambda: created(place))
    await asyncio.sleep(0.5)
    assert await created(place) == ["new"]


async def test_a_timer_that_fell_due_while_all_was_down_fires_afterwards(place: Place, handlers: Start) -> None:
    bus = await place.bus("commands")
    await set_timer(bus, "t1", soon(0.5), CreateQueue(queue_id="q", title="late"))
    await asyncio.to_thread(place.server.kill)
    await asyncio.sleep(1.0)
    await asyncio.to_thread(place.server.start)
    await handlers()
    await until(lambda: created(place))
    assert await created(place) == ["late"]


async def test_a_timer_that_has_fired_can_be_set_anew_and_fires_again(place: Place, handlers: Start) -> None:
    await handlers()
    bus = await place.bus("commands")
    await set_timer(bus, "nightly", soon(0.2), CreateQueue(queue_id="a", title="a"))
    await until(lambda: created(place))
    await set_timer(bus, "nightly", soon(0.2), CreateQueue(queue_id="b", title="b"))
    await until(lambda: _both(place))


async def _both(place: Place) -> bool:
    return await created(place) == ["a", "b"]
