"""The watchdog: a station whose process is gone, or that is not heard for its time to live, is lost, and everybody is told.

Any number of watchdogs may run: what the first has said, the others find said. A watchdog that was itself cut off from
NATS starts counting anew, because it was the deaf one.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from uuid import UUID

from nats.aio.msg import Msg

from bus.connection import Bus
from bus.envelope import Meta
from bus.errors import BusError
from bus.ledger import Ledger
from bus.subscription import Subscription
from domain.errors import Refused
from domain.station import StationLost, StationStarted, StationStopped
from handlers.leases import Beat, expire_station, last_beat, proven_dead

log = logging.getLogger("labledger.watchdog")

CHECK_S = 0.25


@dataclass
class _Watched:
    instance: UUID
    host: str
    pid: int
    heard: float
    scans: tuple[UUID, ...] = ()
    busy_s: dict[str, float] = field(default_factory=dict[str, float])


class Watchdog:
    """Watches the beats of all stations."""

    def __init__(self, bus: Bus, ledger: Ledger, ttl_s: float) -> None:
        self._bus = bus
        self._ledger = ledger
        #: A beat may be late by as much as the holder itself allows for, and the holder stops at two thirds.
        self.ttl_s = ttl_s
        self._stations: dict[str, _Watched] = {}

    async def run(self) -> None:
        await self._bus.subscribe("beat.*", self._on_beat)
        loops = [asyncio.create_task(self._follow()), asyncio.create_task(self._check())]
        try:
            # Neither ends by itself. A watchdog that has gone blind must not look as if all were well.
            done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in loops:
                task.cancel()

    async def _on_beat(self, msg: Msg) -> None:
        beat = Beat.model_validate_json(msg.data)
        watched = self._stations.get(beat.station_id)
        if watched is not None and watched.instance == beat.instance:
            watched.heard, watched.scans, watched.busy_s = time.monotonic(), beat.scans, beat.busy_s

    async def _follow(self) -> None:
        """Know which stations are up, from their history."""
        async with Subscription(self._bus, 0, ["evt.station.>"]) as events:
            async for batch in events.batches():
                for stored in batch:
                    match stored.event:
                        case StationStarted(station_id=station_id, instance=instance, host=host, pid=pid):
                            self._stations[station_id] = _Watched(instance, host, pid, time.monotonic())
                        case StationStopped(station_id=station_id) | StationLost(station_id=station_id):
                            self._stations.pop(station_id, None)
                        case _:
                            pass

    async def _check(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(CHECK_S)
            now = time.monotonic()
            # This process was stopped or overloaded, or has no server: then it is not the stations that are silent.
            if now - before > CHECK_S + self.ttl_s / 3 or not self._bus.nc.is_connected:
                self._was_deaf()
                continue
            for station_id, watched in list(self._stations.items()):
                silent_s = now - watched.heard
                if proven_dead(watched.host, watched.pid):
                    await self._lose(station_id, watched, f"process {watched.pid} is gone", dead=True)
                elif silent_s > self.ttl_s:
                    await self._lose(station_id, watched, f"no sign of life for {silent_s:.1f} s", dead=False)

    def _was_deaf(self) -> None:
        now = time.monotonic()
        for watched in self._stations.values():
            watched.heard = now

    async def _lose(self, station_id: str, watched: _Watched, reason: str, *, dead: bool) -> None:
        try:
            # A server that hangs, or has no leader for its streams, carries nobody's beats. What is quick to answer
            # us would have brought us a beat.
            asked = time.monotonic()
            beat = await last_beat(self._bus, station_id)
            if time.monotonic() - asked > self.ttl_s / 3 and not dead:
                self._was_deaf()
                return
            scans = watched.scans or (beat.scans if beat and beat.instance == watched.instance else ())
            meta = Meta(causation=f"lost-{watched.instance}", actor="watchdog", source="labledger/watchdog")
            if await expire_station(self._ledger, station_id, watched.instance, reason, scans, meta, dead=dead):
                log.warning("station %s is lost: %s", station_id, reason)
            if self._stations.get(station_id) is watched:
                del self._stations[station_id]
        except (BusError, Refused) as error:
            log.warning("cannot say yet that station %s is lost: %s", station_id, error)
            self._was_deaf()
