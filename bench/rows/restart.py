"""From the restart of everything after kill -9 to the first new point of the interrupted scan.

With a million events of history (a hundred thousand in a quick run). Ours only: no system that we know resumes a scan.
"""

import asyncio
import os
import signal
import time
from contextlib import suppress

from bench.frame import Bench
from bench.lab import RealLab, kept_lab, listening, run_scan
from bench.load import EVENTS
from bus.ids import uuid7
from bus.roles import Role
from labledger.client import NotDone
from labledger.wiring import connected

name = "kill -9 -> first new point"
unit = "s"
floor, aim = 5.0, 2.0
absolute = True
reference_name = "none: no peer resumes"
higher_is_better = False


async def ours(bench: Bench) -> float:
    real = await kept_lab(bench)
    await bench.once("history", lambda: fill(bench, real))
    scan_id = uuid7()
    async with listening(real.lab, scan_id) as heard:
        await run_scan(real.lab, 100_000, scan_id=scan_id)
        while len(heard.heard) < 20:
            await asyncio.sleep(0.02)
        os.kill(real.supervisor.roles["station bench"].pid, signal.SIGKILL)
        killed, before = time.time(), len(heard.heard)
        async with asyncio.timeout(60):
            while not any(taken > killed for taken in heard.measured[before:]):
                await asyncio.sleep(0.005)
        took_s = next(at for taken, at in zip(heard.measured, heard.heard, strict=True) if taken > killed) - killed
        await real.lab.scans.abort(scan_id)
        with suppress(NotDone):
            await real.lab.scans.wait(scan_id, timeout_s=30)
    return took_s


async def fill(bench: Bench, real: RealLab) -> None:
    """Put the history into the lab's event stream, as fast as it takes it: readings of scans of long ago."""
    bus = await connected(real.supervisor.settings.connection(Role.COMMANDS), "bench fill")
    count = bench.size(1_000_000, 100_000)
    waiting: set[asyncio.Task[object]] = set()
    for start in range(0, count, 500):
        messages = []
        for i in range(start, start + 500):
            subject, body, headers = EVENTS.message(i)
            messages.append((subject, headers or {}, body))
        waiting.add(asyncio.create_task(bus.publish_batch(messages, uuid7().replace("-", ""), 60)))
        if len(waiting) >= 8:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*waiting)
    await bus.close()
    bench.note("events", await real.lab.last_sequence())
