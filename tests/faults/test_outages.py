"""NATS or Postgres away for a while: all goes on afterwards by itself. 8 s; 30 s with --slow."""

import asyncio
import os
import signal
from collections.abc import Callable

from tests.faults.lab import Lab, side_by_side
from tests.faults.proof import all_holds, name


async def scanning(lab: Lab) -> None:
    await lab.queue()
    for instrument in ("axis", "other", "axis"):
        await lab.scan(900, instrument=instrument, frame=30)
    await lab.recorded(lab.scans[0], 60)


async def goes_on(lab: Lab) -> None:
    await lab.scan(50, instrument="other")
    await lab.completed()
    events = await all_holds(lab)
    assert {process.name: process.exits for process in lab.processes.values() if process.exits} == {}
    # Nobody was taken for dead: it was the server that was away.
    assert not [it for it in events if name(it) in ("station.lost", "scan.interrupted")]


async def nats_is_away(lab: Lab, outage_s: float) -> None:
    async with lab:
        await lab.start("commands", "station")
        await scanning(lab)
        down = asyncio.create_task(lab.kill("nats", down_s=outage_s))
        await asyncio.sleep(outage_s / 2)
        # A command that is sent meanwhile is taken as soon as somebody is there to take it.
        sending = asyncio.create_task(lab.scan(50))
        await down
        await sending
        await goes_on(lab)


async def postgres_is_away(lab: Lab, outage_s: float) -> None:
    async with lab:
        await lab.start("commands", "station", "projections")
        await scanning(lab)
        await lab.kill("postgres", down_s=outage_s)
        await goes_on(lab)


async def nats_hangs(lab: Lab, outage_s: float) -> None:
    """The server does not die, it stands still: no connection breaks, nobody is answered."""
    async with lab:
        await lab.start("commands", "station")
        await scanning(lab)
        assert lab.servers.nats is not None
        os.kill(lab.servers.nats.pid, signal.SIGSTOP)
        await asyncio.sleep(outage_s)
        os.kill(lab.servers.nats.pid, signal.SIGCONT)
        await goes_on(lab)


async def test_nats_or_postgres_goes_away_and_comes_back(make_lab: Callable[..., Lab], outage_s: float) -> None:
    await side_by_side(
        nats_is_away(make_lab(), outage_s),
        nats_hangs(make_lab(), outage_s),
        postgres_is_away(make_lab(postgres=True), outage_s),
    )
