"""A station that was stopped and replaced wakes up: it writes nothing, moves nothing, says why, and goes."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.device import Device
from tests.faults.lab import Lab
from tests.faults.proof import all_holds, body, name


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    one = Device(tmp_path)
    yield one
    one.close()


async def test_a_station_that_wakes_up_after_it_was_replaced_writes_nothing_and_moves_nothing(
    make_lab: Callable[..., Lab], device: Device
) -> None:
    async with make_lab(instruments={"axis": device.config}) as lab:
        await lab.start("commands", "station")
        await lab.queue()
        scan = await lab.scan(300, frame=10, channels=("a",))
        await lab.recorded(scan, 40)

        # It is stopped in the middle of a call: the answer comes when it is not there to hear it.
        stale = lab.processes["station"]
        stale.wanted = False
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()

        def stop_it() -> None:
            stale.signal(signal.SIGSTOP)
            loop.call_soon_threadsafe(stopped.set)

        device.before_answer = stop_it
        async with asyncio.timeout(30):
            await stopped.wait()

        await lab.start("station-2")
        await lab.at("scan.continued", lambda: None)
        durable = len([line for line in device.lines if line.moves])
        await lab.until(lambda: len([line for line in device.lines if line.moves]) > durable + 10, "the next run moves")

        woken = time.monotonic()
        stale.signal(signal.SIGCONT)
        await lab.until(lambda: len(stale.exits) == 1, "the stale station has gone", 30)
        await lab.completed(scan)

        pids = {line.pid for line in device.lines}
        assert pids == {stale.pid, lab.processes["station-2"].pid}
        moved = [line for line in device.lines if line.pid == stale.pid and line.at > woken and line.moves]
        assert not moved
        assert stale.exits == [1]
        # Either may notice first: the beat, or the run whose call took as long as the process was away.
        reasons = "the lease of axis has passed on", "this run of the scan was given up while a call hung"
        assert any(reason in stale.said() for reason in reasons), stale.said()
        assert "Traceback" not in stale.said(), stale.said()
        events = await all_holds(lab)
        assert [name(it) for it in events if it.subject == "evt.station.bench"] == [
            "station.started",
            "station.lost",
            "station.started",
        ]
        # Nor has it blamed the instrument for its own absence.
        assert not [body(it) for it in events if name(it) == "equipment.stopped_answering"]


async def test_a_second_station_of_the_same_name_does_not_come_up_while_the_first_lives(
    make_lab: Callable[..., Lab],
) -> None:
    async with make_lab() as lab:
        await lab.start("commands", "station")
        await lab.queue()
        scan = await lab.scan(400)
        await lab.recorded(scan, 1)
        await lab.start("station-2")
        second = lab.processes["station-2"]
        await lab.until(lambda: second.exits, "the second has given up")
        second.wanted = False
        assert second.exits[0] == 1 and "station bench is up already" in second.said()
        assert "Traceback" not in second.said()
        await lab.completed(scan)
        events = await all_holds(lab)
        assert len([it for it in events if it.subject == "evt.station.bench"]) == 1
