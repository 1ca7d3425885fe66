"""A lab in one process for the tests of the handlers: commands and reactions, stations on simulated instruments."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.instruments.rack import InstrumentConfig, Rack
from adapters.storage.local import LocalBlobs
from bus import broker as brokers
from bus.commands import Sender
from bus.connection import Bus, connect
from bus.envelope import Head, Stored
from bus.ids import uuid7
from bus.ledger import Ledger
from bus.outcomes import Outcome
from bus.store import EventStore
from domain.scan import Scan
from handlers.dispatch_jobs import ASSIGN, assign_scan
from handlers.station import StationRunner, StationSettings
from handlers.watch_stations import Watchdog
from labledger.wiring import consumers
from tests.integration.bus.place import Handlers, Place, everything, until

TTL_S, BEAT_S = 1.5, 0.3


def config(driver: str, world: str, *, faults: bool = False, **options: Any) -> InstrumentConfig:
    given: dict[str, Any] = {"driver": f"simulated_{driver}"}
    if driver != "trivial":
        given["options"] = {"world": world, **options}
    if faults:
        given["faults"] = {}
    given |= {"call_timeout_s": 1.0}
    return InstrumentConfig.model_validate(given)


def move(instrument: str, channel: str, start: float, stop: float, num: int, *children: Any, **more: Any) -> Any:
    positions = {"kind": "linear", "start": start, "stop": stop, "num": num}
    node = {"kind": "move", "instrument": instrument, "channel": channel, "positions": positions}
    return node | {"children": list(children)} | more


def measure(instrument: str, *channels: str, **more: Any) -> Any:
    return {"kind": "measure", "instrument": instrument, "channels": list(channels)} | more


def line(num: int = 10, instrument: str = "t", settle_s: float = 0.0) -> Any:
    """A line of points on the trivial instrument: position k, reading a = k."""
    return {"nodes": [move(instrument, "position", 0, num - 1, num, measure(instrument, "a", settle_s=settle_s))]}


class Station:
    """One run of a station's process."""

    def __init__(self, lab: "Lab", name: str, configs: Mapping[str, InstrumentConfig]) -> None:
        self.lab = lab
        self.name = name
        self.rack = Rack(configs)
        self.configs = configs
        self.dead = False

    async def start(self) -> "Station":
        place = self.lab.place
        credentials = place.credentials("station")
        self.bus: Bus = await connect(place.server.url, f"station-{self.name}", credentials)
        drivers = {name: (config.driver, config.address) for name, config in self.configs.items()}
        self.runner = StationRunner(
            self.bus,
            Ledger(EventStore(self.bus)),
            self.rack,
            self.lab.blobs,
            StationSettings(station_id=self.name, version="1", drivers=drivers, ttl_s=TTL_S, beat_s=BEAT_S),
            connect=lambda: connect(place.server.url, "recorder", credentials),
            loop_factory=asyncio.new_event_loop,
        )
        await self.runner.start()
        self.beats = asyncio.create_task(self.runner.run())
        durable = f"station-{self.name}"
        await self.bus.api(f"CONSUMER.DELETE.CMD.{durable}")
        self.broker = brokers.make_broker(place.server.url, f"station-{self.name}", credentials)
        brokers.subscribe(
            self.broker,
            self.runner.on_work,
            stream="CMD",
            subject=f"cmd.work.scan.{self.name}",
            durable=durable,
            inbox_prefix=credentials.inbox_prefix,
            batch=1,
            max_ack_pending=256,
        )
        await brokers.start(self.broker)
        return self

    @property
    def executions(self) -> list[Any]:
        return list(self.runner._running.values())

    async def kill(self) -> None:
        """As a crash: nothing is said, nothing is closed in good order; its threads measure no more."""
        self.dead = True
        for execution in self.executions:
            if execution._recorder is not None:
                execution._recorder.abandoned = True
            execution._control.stop, execution._control.urgent = "shutdown", True
        self.beats.cancel()
        for task in self.runner._tasks:
            task.cancel()
        self.runner.holding.lose("killed")
        await asyncio.sleep(0.05)
        await self.broker.stop()
        await self.bus.close()

    async def close(self) -> None:
        if not self.dead:
            self.dead = True
            self.beats.cancel()
            await self.broker.stop()
            await self.runner.stop()
            await self.bus.close()
        await asyncio.to_thread(self.rack.close)


class Lab:
    def __init__(self, place: Place, folder: Path) -> None:
        self.place = place
        self.blobs = LocalBlobs(folder / "blobs")
        self.world = folder.name
        self.stations: list[Station] = []

    async def start(self, max_concurrent: int = 8) -> None:
        self.handlers = Handlers(self.place, tuple(c for c in consumers() if c.name != "retry-parked"))
        await self.handlers.start()
        credentials = self.place.credentials("commands")
        self.broker = brokers.make_broker(self.place.server.url, "assign", credentials)
        brokers.subscribe(
            self.broker,
            lambda msg: assign_scan(msg, self.handlers.ledger),
            stream="CMD",
            subject=f"cmd.work.scan.{ASSIGN}",
            durable="assign-scans",
            inbox_prefix=credentials.inbox_prefix,
        )
        await brokers.start(self.broker)
        bus = await self.place.bus("commands")
        self.watchdog = asyncio.create_task(Watchdog(bus, Ledger(EventStore(bus)), TTL_S).run())
        self.sender = Sender(await self.place.bus("publisher"), "Ada")
        self.reader = await self.place.ledger("projections")
        created = await self.order("queue.create", queue_id="main", max_concurrent=max_concurrent)
        assert created.outcome == "accepted"

    async def station(self, name: str = "bench", **configs: InstrumentConfig) -> Station:
        station = Station(self, name, configs)
        self.stations.append(station)
        return await station.start()

    async def close(self) -> None:
        for station in self.stations:
            await station.close()
        self.watchdog.cancel()
        await self.broker.stop()
        await self.handlers.stop()

    # -- what people do -----------------------------------------------------------------------------------------------

    async def order(self, command: str, **fields: Any) -> Outcome:
        return await self.sender.send(command, json.dumps(fields).encode(), uuid7())

    async def request(self, plan: Any, **fields: Any) -> str:
        scan_id = uuid7()
        outcome = await self.order("scan.request", scan_id=scan_id, plan=plan, **fields)
        assert outcome.outcome == "accepted", outcome.reason
        return scan_id

    # -- what is to be seen -------------------------------------------------------------------------------------------

    async def scan(self, scan_id: str) -> Scan:
        return (await self.reader.refresh("scan", scan_id)).state

    async def reaches(self, scan_id: str, *statuses: str, timeout_s: float = 20) -> Scan:
        async def there() -> Scan | None:
            scan = await self.scan(scan_id)
            return scan if scan.status in statuses else None

        return await until(there, timeout_s, f"scan {' or '.join(statuses)}")

    async def history(self, kind: str, id_: str) -> list[str]:
        """The types of its events, without kind and version."""
        return [stored.type.split(".")[1] for stored in await self.reader.store.history(kind, id_)]

    async def points(self, scan_id: str) -> list[tuple[int, int]]:
        """(attempt, point) of each recorded reading, in the order of the history."""
        found: list[tuple[int, int]] = []
        for stored in await self.reader.store.history("readings", scan_id):
            if stored.type == "readings.recorded.v1":
                data = json.loads(stored.data)
                first = data["first_point"]
                found += [(data["attempt"], first + n) for n in range(len(data["time"]))]
        return found

    async def frames(self, scan_id: str) -> list[Any]:
        stored = await self.reader.store.history("readings", scan_id)
        return [json.loads(one.data) for one in stored if one.type == "readings.recorded.v1"]

    async def measured(self, scan_id: str, count: int) -> None:
        async def enough() -> bool:
            return len(await self.points(scan_id)) >= count

        await until(enough, what=f"{count} points")

    async def chains_are_right(self) -> None:
        heads: dict[str, Head] = {}
        stored: Sequence[Stored] = await everything(self.place.opened[0])
        for event in stored:
            wrong = event.wrong(heads.get(event.subject, Head()))
            assert wrong is None, f"{event.subject} at {event.seq}: {wrong}"
            heads[event.subject] = event.head

    async def job(self, job_id: str | UUID) -> str:
        return (await self.reader.refresh("job", str(job_id))).state.state
