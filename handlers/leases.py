"""Beats, leases and deadlines: how a station knows that it may still move its instruments, and how others know it is gone.

A station publishes a beat each second. A beat counts only when it was acknowledged *and afterwards* each of its leases
was found unchanged; then the station may write to its devices until `ttl_s * 2/3` after it *sent* that beat. Who has not
heard a station for `ttl_s` may expire its leases. Only a station that was proven dead, or gave the lease back, is followed
at once; else the next holder waits `ttl_s` by its own clock after the lease expired. So no two processes ever move one
instrument, whatever is slow, stopped or cut off, and no two clocks are ever compared: only their rates matter.

The leases of a station fall together, in one atomic batch: a write that is fenced by one of them is fenced by all.
"""

import asyncio
import json
import logging
import os
import platform
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from uuid import UUID

import psutil
from pydantic import BaseModel, ConfigDict

from bus.connection import Bus
from bus.envelope import Meta
from bus.errors import BusError, Unavailable
from bus.ledger import Ledger, Transaction
from bus.store import Fence
from bus.streams import evt
from domain.errors import LeaseLost
from domain.lease import ExpireLease, Lease
from domain.scan import InterruptScan, ScanAborted
from domain.station import LoseStation, Station
from handlers.scan_orders import cancel_job_of

log = logging.getLogger("labledger.leases")

#: The share of its time to live for which a holder trusts a confirmed lease.
TRUST = 2 / 3


class Beat(BaseModel):
    """A station's sign of life, on `beat.<station>`: which run of it, what it runs, which calls take long (seconds)."""

    model_config = ConfigDict(frozen=True)

    station_id: str
    instance: UUID
    scans: tuple[UUID, ...] = ()
    busy_s: dict[str, float] = {}


def this_host() -> str:
    """What names the place where a process id means something: host, boot, and the process namespace of a container."""
    boot = ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        boot += "." + str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]")
    except OSError:
        boot = f"{int(psutil.boot_time())}"
    return f"{platform.node() or 'localhost'}/{boot}"


def proven_dead(host: str, pid: int) -> bool:
    """True only if the process is surely gone: it ran here, and no such process lives (a zombie does not)."""
    if host != this_host():
        return False
    if pid == os.getpid():
        return False
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


class Holding:
    """The leases that this process holds, and until when it may act on them."""

    def __init__(self, bus: Bus, ledger: Ledger, station_id: str, instance: UUID, ttl_s: float) -> None:
        self._bus = bus
        self._ledger = ledger
        self.station_id = station_id
        self.instance = instance
        self.ttl_s = ttl_s
        #: The fencing token of each instrument: the sequence of its lease's last event.
        self.tokens: dict[str, int] = {}
        self.lost: str | None = None
        self._until = 0.0
        self._confirmed = asyncio.Event()
        self.scans: set[UUID] = set()
        self.busy_s: dict[str, float] = {}

    def fence(self, instruments: Iterable[str]) -> Fence:
        """The lease that writes about these instruments ride on."""
        name = sorted(instruments)[0]
        return Fence(evt("lease", name), self.tokens[name])

    def guard(self) -> None:
        """Called before each write to a device, on any thread. Raises `LeaseLost`."""
        if time.monotonic() >= self._until:
            raise LeaseLost(self.lost or "the lease was not confirmed in time; waiting for NATS")

    @property
    def trusted(self) -> bool:
        return self.lost is None and time.monotonic() < self._until

    async def wait_until_trusted(self) -> None:
        """Return once the leases are confirmed; raises `LeaseLost` when they are gone."""
        while not self.trusted:
            if self.lost is not None:
                raise LeaseLost(self.lost)
            self._confirmed.clear()
            try:
                async with asyncio.timeout(0.2):
                    await self._confirmed.wait()
            except TimeoutError:
                continue

    def lose(self, reason: str) -> None:
        """From now on nothing is written, to devices or to the history."""
        if self.lost is None:
            log.error("station %s: %s", self.station_id, reason)
            self.lost = reason
        self._until = 0.0
        self._confirmed.set()

    async def beat(self) -> None:
        """Publish one beat and confirm the leases. Raises `Unavailable`."""
        sent = time.monotonic()
        body = Beat(
            station_id=self.station_id,
            instance=self.instance,
            scans=tuple(sorted(self.scans, key=str)),
            busy_s=dict(self.busy_s),
        ).model_dump_json()
        ack = await self._bus.publish(f"beat.{self.station_id}", body.encode(), timeout_s=self.ttl_s / 2)
        if ack.err_code:
            raise Unavailable(f"the beat was not taken: {ack.error}")
        store = self._ledger.store
        found = await asyncio.gather(*(store.last(evt("lease", name)) for name in self.tokens))
        for (name, token), last in zip(list(self.tokens.items()), found, strict=True):
            if last is None or last.seq != token:
                self.lose(f"the lease of {name} has passed on: {last.type if last else 'it is gone'}")
                return
        if self.lost is None:
            self._until = max(self._until, sent + self.ttl_s * TRUST)
            self._confirmed.set()

    async def run(self, beat_s: float) -> None:
        """Beat for ever, until the lease is lost.

        A beat goes out when its time has come, also while earlier ones wait for their confirmation: where the stream of
        the leases has no leader for some seconds, we cannot act, but we can be heard.
        """
        under_way: set[asyncio.Task[None]] = set()
        try:
            while self.lost is None:
                task = asyncio.create_task(self._try_beat())
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                await asyncio.wait([task], timeout=beat_s)
                if task.done() and self.lost is None:
                    await asyncio.sleep(beat_s)
        finally:
            for task in under_way:
                task.cancel()

    async def _try_beat(self) -> None:
        try:
            await self.beat()
        except BusError as error:
            log.warning("station %s: no beat: %s", self.station_id, error)
        except Exception:
            log.exception("station %s: the beat failed", self.station_id)


async def expire_station(
    ledger: Ledger,
    station_id: str,
    instance: UUID,
    reason: str,
    scans: Sequence[UUID],
    meta: Meta,
    *,
    dead: bool = False,
) -> bool:
    """Say that a station is lost, take all its leases, and interrupt its scans, in one batch. False if it was so already.
    `dead`: its process is proven gone, so nobody needs to wait until it has noticed.

    Safe to repeat and to race: whoever comes second finds nothing left to say.
    """

    async def expire(tx: Transaction) -> None:
        station: Station = await tx.state("station", station_id)
        if station.instance != instance:
            return
        await tx.decide("station", station_id, LoseStation(station_id=station_id, instance=instance, reason=reason))
        for name in sorted(station.instruments):
            lease: Lease = await tx.state("lease", name)
            if lease.holder and lease.holder.instance == instance:
                expire_lease = ExpireLease(instrument=name, instance=instance, reason=reason, proven_dead=dead)
                await tx.decide("lease", name, expire_lease)
        for scan_id in scans:
            interrupt = InterruptScan(scan_id=scan_id, reason=reason, instance=str(instance))
            events = await tx.decide("scan", str(scan_id), interrupt)
            if any(isinstance(event, ScanAborted) for event in events):  # it was being aborted
                await cancel_job_of(tx, scan_id, "aborted")

    station: Station = (await ledger.refresh("station", station_id)).state
    for name in station.instruments:
        await ledger.refresh("lease", name)
    for scan_id in scans:
        await ledger.refresh("scan", str(scan_id))
    outcome = await ledger.transact(expire, meta, lock=("station", station_id))
    return bool(outcome.events) and not outcome.repeated


async def last_beat(bus: Bus, station_id: str) -> Beat | None:
    """The station's last sign of life that the server remembers (it forgets when it restarts)."""
    msg = await bus.request("$JS.API.DIRECT.GET.BEAT", json.dumps({"last_by_subj": f"beat.{station_id}"}).encode())
    return None if "Status" in (msg.headers or {}) else Beat.model_validate_json(msg.data)
