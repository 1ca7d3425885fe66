"""Our side of the rows: the real ledger, engine and recorder on the row's server."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.instruments.rack import InstrumentConfig, Rack
from adapters.storage.local import LocalBlobs
from bench.frame import Bench
from bus import streams
from bus.connection import Bus, connect
from bus.envelope import Head, Meta
from bus.ids import uuid7
from bus.ledger import Ledger
from bus.store import Change, EventStore, Fence
from bus.streams import evt
from domain.lease import LeaseAcquired
from domain.plan import LinearPositions, Measure, Move, Plan, instruments, points
from domain.ports import Rack as RackPort
from domain.readings import BranchColumns, ReadingsOpened, branch_columns
from domain.sample import RegisterSample, UpdateSample
from domain.scan import FrameLimits
from handlers.engine import Control, Engine, Result
from handlers.recorder import Recorder


async def bus_of(bench: Bench) -> Bus:
    """A connection of ours to the row's server, with our streams."""
    server = await bench.nats()

    async def make() -> Bus:
        bus = await connect(server.url, "bench")
        await streams.provision(bus)
        return bus

    return await bench.once("bus", make, lambda bus: bus.close())


async def ledger_of(bench: Bench) -> Ledger:
    bus = await bus_of(bench)

    async def make() -> Ledger:
        return Ledger(EventStore(bus))

    return await bench.once("ledger", make)


async def describe(ledger: Ledger, sample_id: str, count: int) -> None:
    """`count` commands on one aggregate, each with one event."""
    for n in range(count):
        command = UpdateSample(sample_id=sample_id, description=f"as seen on day {n}")
        await ledger.handle("sample", sample_id, command, Meta.new("bench"))


async def register(ledger: Ledger) -> str:
    sample_id = uuid7()
    command = RegisterSample(sample_id=sample_id, material="Si")
    await ledger.handle("sample", sample_id, command, Meta.new("bench"))
    return sample_id


def grid(side: int) -> Plan:
    """A side x side grid of trivial instruments on one connection, four channels a point."""
    axis = LinearPositions(start=0, stop=1, num=side)
    measure = Measure(instrument="t", channels=("a", "b", "c", "position"))
    inner = Move(instrument="t", channel="position", positions=axis, children=(measure,))
    return Plan(nodes=(Move(instrument="s", channel="position", positions=axis, children=(inner,)),))


def line(count: int) -> Plan:
    """One axis, one instrument, three channels a point."""
    measure = Measure(instrument="t", channels=("a", "b", "c"))
    axis = LinearPositions(start=0, stop=1, num=count)
    return Plan(nodes=(Move(instrument="t", channel="position", positions=axis, children=(measure,)),))


TRIVIAL = {name: InstrumentConfig(driver="simulated_trivial", connection="bench") for name in ("s", "t")}


@dataclass
class Timed:
    result: Result
    took_s: float


async def scan(
    bench: Bench, plan: Plan, limits: FrameLimits, rack: RackPort | None = None, scan_id: str | None = None
) -> Timed:
    """Measure a plan on the row's server: the engine and the recorder as a station runs them, timed from the first
    point to the last acknowledgement."""
    bus = await bus_of(bench)
    server = await bench.nats()
    store = EventStore(bus)
    rack = rack or await bench.once("rack", _rack, lambda rack: rack.close())
    id_ = UUID(scan_id or uuid7())
    lease = f"bench-{uuid7()}"
    acquired = LeaseAcquired(
        instrument=lease, station_id="bench", instance=UUID(uuid7()), host="bench", pid=1, ttl_s=3.0
    )
    token = (await store.append([Change("lease", lease, [acquired], Head())], Meta.new("bench")))[0]
    names = sorted(instruments(plan))
    columns: tuple[BranchColumns, ...] = branch_columns(plan, {name: rack.describe(name) for name in names})
    opened = ReadingsOpened(scan_id=id_, attempt=1, from_point=0, total_points=points(plan), branches=columns)
    head = (await store.append([Change("readings", str(id_), [opened], Head())], Meta.new("bench")))[0].head
    engine = Engine(plan, columns, limits, Control(), lambda: None)
    folder = Path(bench.new_folder("blobs"))
    loop_factory = type(asyncio.get_running_loop())

    def program(chosen: Any) -> Timed:
        recorder = Recorder(
            lambda: connect(server.url, "recorder"),
            loop_factory if loop_factory.__module__.startswith("uvloop") else asyncio.new_event_loop,
            LocalBlobs(folder),
            id_,
            1,
            columns,
            head,
            Fence(evt("lease", lease), token.seq),
            Meta.new("bench"),
        )
        try:
            began = time.perf_counter()
            result = engine.run(chosen, 0, recorder)
            return Timed(result, time.perf_counter() - began)
        finally:
            recorder.close()

    timed = await asyncio.wrap_future(rack.run(names, program))
    if timed.result.ended != "completed" or timed.result.next_point != points(plan):
        raise RuntimeError(f"the scan ended so: {timed.result}")
    return timed


async def _rack() -> Rack:
    return Rack(TRIVIAL)


async def points_per_s(bench: Bench, plan: Plan, limits: FrameLimits) -> float:
    return points(plan) / (await scan(bench, plan, limits)).took_s
