"""What is dead or stuck is noticed within five seconds, and said as an event."""

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any

from tests.faults.lab import Lab, ScanSent, side_by_side
from tests.faults.proof import all_holds, body, name

WITHIN_S = 5.0


class Clock:
    """When each type of event was heard, in seconds since it was started."""

    def __init__(self) -> None:
        self.at: dict[str, list[float]] = {}
        self.began = 0.0

    def start(self) -> None:
        self.began = time.monotonic()

    def __call__(self, subject: str, type_: str, it: dict[str, Any]) -> None:
        if self.began:
            self.at.setdefault(type_, []).append(time.monotonic() - self.began)


async def lost(lab: Lab, end_it: Callable[[], None], scan: ScanSent | None = None, *, at: str = "") -> None:
    clock = Clock()
    with lab.listening(clock):
        if at:

            def act() -> None:
                clock.start()
                end_it()

            waiting = asyncio.create_task(lab.at(at, act))
            await asyncio.sleep(0)
            await lab.scan(1000, frame=20)
            await waiting
        else:
            clock.start()
            end_it()
        wanted = ("station.lost", "lease.expired", "scan.interrupted")
        await lab.until(lambda: all(type_ in clock.at for type_ in wanted), f"{wanted} heard", 20)
    assert all(clock.at[type_][0] < WITHIN_S for type_ in wanted), clock.at
    # All leases fall together, in the same batch.
    assert len(clock.at["lease.expired"]) == len(lab.instruments)


async def a_dead_station(lab: Lab) -> None:
    async with lab:
        await lab.start("commands", "station")
        await lab.queue()
        scan = await lab.scan(800, frame=20)
        await lab.recorded(scan, 100)
        station = lab.processes["station"]
        station.wanted = False
        await lost(lab, lambda: station.signal(signal.SIGKILL), scan)
        await lab.start("station")
        await lab.completed()
        await all_holds(lab)


async def one_that_dies_as_soon_as_a_scan_has_started(lab: Lab) -> None:
    async with lab:
        await lab.start("commands", "station")
        await lab.queue()
        station = lab.processes["station"]
        station.wanted = False
        await lost(lab, lambda: station.signal(signal.SIGKILL), at="scan.started")
        await lab.start("station")
        await lab.completed()
        await all_holds(lab)


async def one_that_is_stopped_as_a_whole(lab: Lab) -> None:
    async with lab:
        await lab.start("commands", "station")
        await lab.queue()
        scan = await lab.scan(800, frame=20)
        await lab.recorded(scan, 100)
        station = lab.processes["station"]
        await lost(lab, lambda: station.signal(signal.SIGSTOP), scan)
        # It finds out by itself, goes, and its next run continues the scan.
        station.signal(signal.SIGCONT)
        await lab.completed()
        assert len(station.exits) == 1 and "has passed on" in station.said()
        await all_holds(lab)


async def test_a_station_that_is_dead_or_stopped_is_noticed_with_its_scan(make_lab: Callable[..., Lab]) -> None:
    await side_by_side(
        a_dead_station(make_lab()),
        one_that_dies_as_soon_as_a_scan_has_started(make_lab()),
        one_that_is_stopped_as_a_whole(make_lab()),
    )


async def test_an_instrument_that_hangs_is_noticed_and_holds_up_nobody_else(make_lab: Callable[..., Lab]) -> None:
    async with make_lab() as lab:
        await lab.start("commands", "station")
        await lab.queue()
        hangs = await lab.scan(1000, instrument="axis", frame=20)
        other = await lab.scan(1000, instrument="other", frame=20)
        await lab.recorded(hangs, 100)
        await lab.recorded(other, 1)
        clock = Clock()
        with lab.listening(clock):
            clock.start()
            lab.fault("axis", hang=True)
            await lab.until(lambda: "equipment.stopped_answering" in clock.at, "it is said", 20)
        assert clock.at["station.stuck"][0] < WITHIN_S and clock.at["equipment.stopped_answering"][0] < WITHIN_S
        lab.fault("axis")
        await lab.ends(hangs, "failed")
        await lab.completed(other)
        assert lab.processes["station"].exits == []
        # Once it answers, which is found out without anybody's help, it is used again.
        await lab.at_or_before("equipment.answers_again")
        again = await lab.scan(50, instrument="axis")
        await lab.completed(again)
        events = await all_holds(lab, completed=[other, again])
        failed = [body(it) for it in events if name(it) == "scan.failed"]
        assert [it["error"] for it in failed] == ["no_answer"] and failed[0]["point"] >= 100
        assert [name(it) for it in events if it.subject == "evt.station.bench"] == [
            "station.started",
            "station.stuck",
            "station.unstuck",
        ]
