"""A worker of the extract role for the tests of the handlers, in this process; its pool has processes of its own."""

import asyncio
from pathlib import Path
from typing import Any

from adapters.processes.pool import ProcessPool
from bus import broker as brokers
from bus.connection import Bus, connect
from bus.ledger import Ledger
from bus.store import EventStore
from handlers.make_artifacts import ARTIFACTS, Artifacts
from handlers.run_extractions import trades
from handlers.worker import Worker, WorkerSettings
from tests.integration.bus.place import Place
from tests.integration.handlers.lab import Lab

ACK_WAIT_S = 1.5


class RunningWorker:
    """One run of a worker's process."""

    def __init__(self, lab: Lab, folder: Path, slots: int, **settings: Any) -> None:
        self.lab = lab
        fast = {"extractor": "tests.curves:FastExtractor", "fitter": "tests.curves:FastFitter"}
        ports: dict[str, Any] = fast | settings.pop("ports", {})
        signed = lab.place.credentials("extract")
        nats = {"urls": [lab.place.server.url], "user": signed.user, "password": signed.password}
        told = {
            "blobs": {"store": "local", "dir": str(folder / "blobs")},
            "nats": nats | {"inbox_prefix": signed.inbox_prefix},
        }
        self.pool = ProcessPool(slots, "labledger.pooled:tasks", told | ports)
        limits = {"extraction": 20.0, "spice_fit": 20.0, "artifacts": 60.0}
        self.limits_s = limits | settings.pop("limit_s", {})
        self.settings = WorkerSettings(**{"grace_s": 0.5, "ack_wait_s": ACK_WAIT_S} | settings)

    async def start(self) -> "RunningWorker":
        place: Place = self.lab.place
        credentials = place.credentials("extract")
        self.bus: Bus = await connect(place.server.url, "worker", credentials)
        all_trades = trades(self.pool, self.limits_s) | {ARTIFACTS: Artifacts(self.pool, self.limits_s[ARTIFACTS])}
        self.worker = Worker(self.bus, Ledger(EventStore(self.bus)), all_trades, self.settings)
        self.broker = brokers.make_broker(place.server.url, "worker-work", credentials)
        for kind in self.worker.trades:
            brokers.subscribe(
                self.broker,
                self.worker.on_work,
                stream="CMD",
                subject=f"cmd.work.{kind}.any",
                durable=f"work-{kind}",
                inbox_prefix=credentials.inbox_prefix,
                batch=1,
                ack_wait_s=ACK_WAIT_S,
            )
        await brokers.start(self.broker)
        return self

    async def stop(self) -> None:
        await self.worker.stop()
        await self.broker.stop()
        await self.bus.close()
        await asyncio.to_thread(self.pool.close)

    async def vanish(self) -> None:
        """As a machine that loses its power: nothing is said, nothing acknowledged, nothing kept alive."""

        async def nothing(*_: Any) -> None: ...

        worker: Any = self.worker
        worker._release = worker._give_back = nothing
        for task in worker._at_hand.values():
            task.cancel()
        worker.stopping = True
        worker._freed.set()
        await self.broker.stop()
        await self.bus.close()
        await asyncio.to_thread(self.pool.close)
