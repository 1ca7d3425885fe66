"""Beats, trust and the fall of leases."""

import asyncio
import os
import subprocess
import sys
import time
from uuid import UUID, uuid4

import pytest

from bus.envelope import Meta
from bus.streams import evt
from domain.errors import LeaseLost
from domain.lease import AcquireLease, ExpireLease
from domain.station import StartStation
from handlers.leases import Beat, Holding, expire_station, last_beat, proven_dead, this_host
from tests.integration.bus.place import Place, everything, meta, until


async def held(place: Place, ttl_s: float = 0.6, names: tuple[str, ...] = ("a", "b")) -> Holding:
    ledger = await place.ledger("station")
    instance = uuid4()
    whose = {"station_id": "bench", "instance": instance, "host": this_host(), "pid": os.getpid()}
    start = StartStation(**whose, version="1", instruments=dict.fromkeys(names, "d"))
    await ledger.handle("station", "bench", start, meta(f"start-{instance}"))
    holding = Holding(ledger.store.bus, ledger, "bench", instance, ttl_s)
    for name in names:
        acquire = AcquireLease(instrument=name, ttl_s=ttl_s, **whose)
        outcome = await ledger.handle("lease", name, acquire, meta(f"{name}-{instance}"))
        holding.tokens[name] = outcome.sequence
    return holding


async def test_trust_lasts_two_thirds_of_the_time_to_live_after_a_beat(place: Place) -> None:
    holding = await held(place, ttl_s=1.5)
    with pytest.raises(LeaseLost):
        holding.guard()
    began = time.monotonic()
    await holding.beat()
    last = asked = beaten = time.monotonic()
    holding.guard()
    while holding.trusted:
        last = asked
        await asyncio.sleep(0.02)
        asked = time.monotonic()
    # The beat was sent in between; and however late we come to look, it was trusted no later than when we saw it so.
    assert last < beaten + 1.0 and time.monotonic() >= began + 1.0
    beat = await last_beat(holding._bus, "bench")
    assert beat and beat.instance == holding.instance


async def test_a_beat_finds_out_that_a_lease_has_passed_on(place: Place) -> None:
    holding = await held(place)
    await holding.beat()
    other = await place.ledger("commands")
    expire = ExpireLease(instrument="b", instance=holding.instance, reason="test")
    await other.handle("lease", "b", expire, meta("x"))
    await holding.beat()
    assert holding.lost and "lease of b has passed on" in holding.lost
    for check in (holding.guard, lambda: asyncio.get_running_loop()):
        if check is holding.guard:
            with pytest.raises(LeaseLost, match="passed on"):
                check()
    with pytest.raises(LeaseLost):
        await holding.wait_until_trusted()
    await holding.beat()
    assert not holding.trusted, "what is lost stays lost"


async def test_without_nats_trust_ends_by_itself_and_comes_back(place: Place) -> None:
    holding = await held(place, ttl_s=1.0)
    beating = asyncio.create_task(holding.run(0.2))
    await until(lambda: holding.trusted)
    await asyncio.to_thread(place.server.kill)
    await until(lambda: not holding.trusted, 3)
    assert holding.lost is None
    await asyncio.to_thread(place.server.start)
    await asyncio.wait_for(holding.wait_until_trusted(), 10)
    beating.cancel()


async def test_all_leases_of_a_station_fall_in_one_batch_and_once(place: Place) -> None:
    holding = await held(place, names=("a", "b", "c"))
    one, two = await place.ledger("commands"), await place.ledger("commands")

    async def lose(ledger: object) -> bool:
        lost = Meta(causation=f"lost-{holding.instance}", actor="watchdog")
        return await expire_station(ledger, "bench", holding.instance, "silent", (), lost)  # type: ignore[arg-type]

    await asyncio.gather(lose(one), lose(two))
    assert await lose(one) is False
    stored = [event for event in await everything(place.opened[0]) if "expired" in event.type or "lost" in event.type]
    assert sorted(event.subject for event in stored) == [*(evt("lease", n) for n in "abc"), evt("station", "bench")]
    assert len({event.headers["Nats-Batch-Id"] for event in stored}) == 1
    wrong = await expire_station(one, "bench", UUID(int=1), "silent", (), meta("y"))
    assert wrong is False


def test_only_a_process_of_this_host_that_is_gone_is_proven_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert not proven_dead(this_host(), process.pid)
        assert not proven_dead("another/host", process.pid)
        process.kill()
        end = time.monotonic() + 5
        while not proven_dead(this_host(), process.pid) and time.monotonic() < end:
            time.sleep(0.01)
        assert proven_dead(this_host(), process.pid), "a zombie moves nothing"
    finally:
        process.kill()
        process.wait()
    assert proven_dead(this_host(), process.pid)
    assert not proven_dead("another/host", process.pid)
    assert not proven_dead(this_host(), os.getpid())


def test_a_beat_is_json_that_others_can_read() -> None:
    beat = Beat(station_id="bench", instance=UUID(int=1), scans=(UUID(int=2),), busy_s={"a": 1.5})
    assert Beat.model_validate_json(beat.model_dump_json()) == beat
