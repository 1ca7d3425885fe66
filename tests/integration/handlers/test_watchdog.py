"""The watchdog: silence is noticed, deafness of its own is not mistaken for it."""

import asyncio

from bus.ledger import Ledger
from bus.store import EventStore
from handlers.watch_stations import Watchdog
from tests.integration.bus.place import Place, until
from tests.integration.handlers.test_leases import held


async def watch(place: Place, ttl_s: float) -> "asyncio.Task[None]":
    bus = await place.bus("commands")
    return asyncio.create_task(Watchdog(bus, Ledger(EventStore(bus)), ttl_s).run())


async def types(place: Place) -> list[str]:
    store = await place.store("projections")
    return [stored.type.split(".")[1] for stored in await store.history("station", "bench")]


async def test_a_silent_station_is_lost_and_a_beating_one_is_not(place: Place) -> None:
    holding = await held(place, ttl_s=1.0)
    watching = await watch(place, 1.0)
    beating = asyncio.create_task(holding.run(0.2))
    await asyncio.sleep(1.8)
    assert await types(place) == ["started"]
    beating.cancel()
    await until(lambda: _lost(place), 4)
    watching.cancel()


async def _lost(place: Place) -> bool:
    return (await types(place))[-1] == "lost"


async def test_two_watchdogs_say_it_once(place: Place) -> None:
    watching = [await watch(place, 0.6) for _ in range(2)]
    await held(place, ttl_s=0.6)
    await until(lambda: _lost(place), 5)
    await asyncio.sleep(0.7)
    assert await types(place) == ["started", "lost"]
    for task in watching:
        task.cancel()


async def test_an_outage_of_nats_costs_no_station_its_leases(place: Place) -> None:
    holding = await held(place, ttl_s=1.5)
    watching = await watch(place, 1.5)
    beating = asyncio.create_task(holding.run(0.3))
    await until(lambda: holding.trusted)
    await asyncio.to_thread(place.server.kill)
    await asyncio.sleep(2.5)
    await asyncio.to_thread(place.server.start)
    await asyncio.wait_for(holding.wait_until_trusted(), 10)
    await asyncio.sleep(1.8)
    assert await types(place) == ["started"] and holding.lost is None
    beating.cancel()
    watching.cancel()


async def test_a_watchdog_that_cannot_read_ends_loudly(place: Place) -> None:
    from bus.envelope import Head
    from bus.store import Change
    from domain.errors import UnknownEvent
    from domain.events import EVENTS
    from domain.station import StationLost
    from tests.integration.bus.place import meta

    store = await place.store("station")
    lost = StationLost(station_id="bench", instance="0" * 32, reason="r")  # type: ignore[arg-type]
    await store.append([Change("station", "bench", [lost], Head())], meta("a"))
    known = EVENTS.pop("station.lost")
    try:
        watching = await watch(place, 1.0)
        done, _ = await asyncio.wait([watching], timeout=5)
        assert done and isinstance(watching.exception(), UnknownEvent)
    finally:
        EVENTS["station.lost"] = known
