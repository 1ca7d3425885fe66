"""A whole lab for the rows that need one: `labledger up` as it is, with its roles as processes of their own."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from bench.frame import Bench
from bus.ids import uuid7
from domain.readings import ReadingsRecorded
from labledger.client import Lab
from labledger.settings import FILE_NAME, load
from labledger.supervisor import Supervisor

SETTINGS = """
[stations.bench.instruments.t]
driver = "simulated_trivial"

[stations.bench.instruments.slow]
driver = "simulated_multimeter"
options = { delay_s = %s }
"""


@dataclass
class RealLab:
    supervisor: Supervisor
    lab: Lab
    folder: Path


@asynccontextmanager
async def real_lab(bench: Bench, delay_s: float = 0.005) -> AsyncGenerator[RealLab]:
    folder = bench.new_folder("lab")
    (folder / FILE_NAME).write_text(SETTINGS % delay_s)
    environ = {**os.environ, "LABLEDGER_CONFIG": str(folder / FILE_NAME), "LABLEDGER_DATA_DIR": str(folder / "data")}
    settings = load(environ)
    async with Supervisor(settings, environ) as supervisor:
        await supervisor.ready()
        async with Lab.connect(settings=settings, actor="bench", timeout_s=30) as lab:
            yield RealLab(supervisor, lab, folder)


async def kept_lab(bench: Bench, delay_s: float = 0.005) -> RealLab:
    """One lab for all repetitions of a row."""

    async def make() -> tuple[Any, RealLab]:
        context = real_lab(bench, delay_s)
        return context, await context.__aenter__()

    _, lab = await bench.once("lab", make, lambda made: made[0].__aexit__(None, None, None))
    return lab


def slow_plan(points: int) -> dict[str, Any]:
    """One reading a point, of an instrument that takes its time."""
    return {
        "nodes": [
            {
                "kind": "move",
                "instrument": "t",
                "channel": "position",
                "positions": {"kind": "linear", "start": 0, "stop": 1, "num": points},
                "children": [{"kind": "measure", "instrument": "slow", "channels": ["voltage"]}],
            }
        ]
    }


@dataclass
class Heard:
    """When the newest time stamp of each frame reached us, and what it was (unix seconds)."""

    measured: list[float]
    heard: list[float]

    def latencies_ms(self) -> list[float]:
        return [1e3 * (at - taken) for taken, at in zip(self.measured, self.heard, strict=True)]


@asynccontextmanager
async def listening(lab: Lab, scan_id: str) -> AsyncGenerator[Heard]:
    """Hear a scan's frames live, as a dashboard does."""
    found = Heard([], [])

    async def on_message(msg: Any) -> None:
        if (msg.headers or {}).get("ce-type") == ReadingsRecorded.TYPE:
            found.heard.append(time.time())
            found.measured.append(orjson.loads(msg.data)["time"][-1])

    subscription = await lab.bus.subscribe(f"live.evt.readings.{scan_id}", on_message)
    await asyncio.sleep(0.05)
    try:
        yield found
    finally:
        await subscription.unsubscribe()


async def run_scan(lab: Lab, points: int, **options: Any) -> str:
    """Submit a slow scan; answers its id at once."""
    scan_id = options.pop("scan_id", None) or uuid7()
    await lab.scans.submit(slow_plan(points), scan_id=scan_id, **options)
    return scan_id


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]
