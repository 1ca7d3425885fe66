"""A station: holds instruments by leases, runs the scans that are handed to it, and survives.

    start: prove the predecessor dead (or wait until its leases fall), take the leases, say so; then work
    work:  a scan is started, resumed or continued in one atomic batch with the opening of its readings, which rides on
           the lease; measured by the engine; and ended in one atomic batch with the end of its job
    stop:  running scans are interrupted between two points, to be continued by the next run

Whatever a crash leaves behind, the history tells: the work message is still in the stream, the scan says how far it came,
and the next run of the station goes on there. A run whose lease has passed on writes nothing and moves nothing any more.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

from nats.aio.msg import Msg

from bus.broker import ACK_WAIT_S
from bus.connection import Bus
from bus.envelope import Meta
from bus.errors import BusError, Conflict, Fenced, Unavailable
from bus.ids import uuid7
from bus.ledger import Ledger, Transaction
from bus.streams import evt
from bus.work import Work
from domain.equipment import Equipment, NoteAnswersAgain, NoteStoppedAnswering, RegisterEquipment, SeeIdentity
from domain.errors import InstrumentError, LeaseLost, Refused, WrongState
from domain.events import Command
from domain.job import CancelJob, Job
from domain.lease import AcquireLease, LeaseExpired, ReleaseLease
from domain.ports import Blobs, Rack
from domain.scan import Scan
from domain.station import NoteStuck, NoteUnstuck, StartStation, Station, StopStation
from handlers.execution import Execution
from handlers.leases import Holding, expire_station, last_beat, proven_dead, this_host
from handlers.recorder import Connect

log = logging.getLogger("labledger.station")


#: An instrument that stopped answering is asked again after so many seconds, doubling up to the second.
ASK_AGAIN_S, ASK_AGAIN_AT_MOST_S = 1.0, 60.0


@dataclass(frozen=True)
class StationSettings:
    """`drivers` names the driver and address of each instrument, for the books."""

    station_id: str
    version: str
    drivers: Mapping[str, tuple[str, str]]
    ttl_s: float = 3.0
    beat_s: float = 1.0


class StationRunner:
    """One run of a station's process."""

    def __init__(
        self,
        bus: Bus,
        ledger: Ledger,
        rack: Rack,
        blobs: Blobs,
        settings: StationSettings,
        connect: Connect,
        loop_factory: Callable[[], asyncio.AbstractEventLoop],
    ) -> None:
        self.bus = bus
        self.ledger = ledger
        self.rack = rack
        self.blobs = blobs
        self.settings = settings
        self.connect = connect
        self.loop_factory = loop_factory
        self.instance = UUID(uuid7())
        self.holding = Holding(bus, ledger, settings.station_id, self.instance, settings.ttl_s)
        self.busy: set[str] = set()
        #: Instruments that are said not to answer, by this run or the books.
        self._silent: set[str] = set()
        self._free = asyncio.Condition()
        self._running: dict[UUID, Execution] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: The jobs that they see through, by id and dispatch.
        self._at_hand: set[tuple[UUID, int]] = set()
        self.stopping = False
        rack.guard = self.holding.guard

    # -- start and stop --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take the leases of all instruments. Raises `WrongState` when another live run holds one of them."""
        settings, ledger = self.settings, self.ledger
        station_id = settings.station_id
        drivers = {name: f"{driver} {address}".strip() for name, (driver, address) in settings.drivers.items()}
        dead = await self._see_to_predecessor()
        host, pid = this_host(), os.getpid()

        async def take(tx: Transaction) -> None:
            start = StartStation(
                station_id=station_id,
                instance=self.instance,
                host=host,
                pid=pid,
                version=settings.version,
                instruments=drivers,
                predecessor_dead=dead,
            )
            await tx.decide("station", station_id, start)
            for name in sorted(settings.drivers):
                acquire = AcquireLease(
                    instrument=name,
                    station_id=station_id,
                    instance=self.instance,
                    host=host,
                    pid=pid,
                    ttl_s=settings.ttl_s,
                    predecessor_dead=dead,
                )
                await tx.decide("lease", name, acquire)

        outcome = await ledger.transact(take, self.meta("start"))
        for name in settings.drivers:
            self.holding.tokens[name] = max(w.seq for w in outcome.events if w.subject == evt("lease", name))
        if await self._silent_before({w.seq for w in outcome.events}):
            # It may not know yet that its lease was taken: its trust ends `ttl_s` after that at the latest.
            until = time.monotonic() + settings.ttl_s
            while time.monotonic() < until:
                await self.holding.beat()  # or the watchdog would take us for lost
                await asyncio.sleep(min(settings.beat_s, settings.ttl_s / 3))
        await self.holding.beat()
        await self._register()
        log.info("station %s holds %s", station_id, ", ".join(sorted(settings.drivers)))

    async def _silent_before(self, ours: set[int]) -> bool:
        """True if a holder of one of our instruments was declared silent just before we took it, by whomever, and not
        proven dead by us: also one before a run that died while it waited. By the server's time stamps, with a margin."""
        for name, token in self.holding.tokens.items():
            history = [stored async for stored in self.ledger.store.tail(evt("lease", name))]
            at = next(stored.stored_at for stored in history if stored.seq == token)
            for stored in history:
                event = stored.event
                recent = (at - stored.stored_at).total_seconds() < self.settings.ttl_s + 1
                if isinstance(event, LeaseExpired) and recent and not event.proven_dead and stored.seq not in ours:
                    return True
        return False

    async def _see_to_predecessor(self) -> bool:
        """True when the earlier run of this station is proven dead. Waits for a silent one's leases to fall."""
        station_id = self.settings.station_id
        heard = ""
        silent_since = time.monotonic()
        while True:
            station: Station = (await self.ledger.refresh("station", station_id)).state
            if station.state != "up" or station.instance is None:
                return False
            if proven_dead(station.host, station.pid):
                return True
            # Not provably dead: it must fall silent for its time to live, by our clock.
            beats = await self.bus.api("STREAM.MSG.GET.BEAT", {"last_by_subj": f"beat.{station_id}"})
            seen = str(beats.get("message", {}).get("seq", ""))
            if seen != heard:
                if heard:
                    raise WrongState(
                        f"station {station_id} is up already (process {station.pid} on {station.host}): "
                        "stop it first, or give this one another name"
                    )
                heard, silent_since = seen, time.monotonic()
            elif time.monotonic() - silent_since > self.settings.ttl_s + 0.5:
                beat = await last_beat(self.bus, station_id)
                scans = beat.scans if beat and beat.instance == station.instance else ()
                await expire_station(
                    self.ledger, station_id, station.instance, "silent; its next run is here", scans, self.meta("lost")
                )
            await asyncio.sleep(0.25)

    async def _register(self) -> None:
        """Enter instruments that the lab's books do not know yet."""
        for name, (driver, address) in self.settings.drivers.items():
            kinds = {channel.kind for channel in self.rack.describe(name).values()}
            movable = bool(kinds & {"w", "rw"})
            readable = bool(kinds & {"r"})
            command = RegisterEquipment(
                equipment_id=name,
                kind="both" if movable and readable else "movement" if movable else "measurement",
                driver=driver,
                address=address,
            )
            try:
                await self.ledger.handle("equipment", name, command, self.meta(f"register-{name}"))
            except Refused:
                pass  # it is in the books, perhaps with more than we know
            equipment: Equipment = (await self.ledger.refresh("equipment", name)).state
            if equipment.silent is not None:
                self._silent.add(name)

    async def run(self) -> None:
        """Beat and watch until the lease is lost. Raises `LeaseLost` then."""
        tasks = [asyncio.create_task(self._watch_calls()), asyncio.create_task(self._ask_the_silent())]
        try:
            await self.holding.run(self.settings.beat_s)
            raise LeaseLost(self.holding.lost or "the leases are gone")
        finally:
            for task in tasks:
                task.cancel()

    async def stop(self) -> None:
        """Interrupt what runs, give the leases back, and say so."""
        self.stopping = True
        # Until the last scan is interrupted we must be heard, and trusted.
        beating = asyncio.create_task(self.holding.run(self.settings.beat_s))
        try:
            await self._stop_scans()
        finally:
            beating.cancel()
        if self.holding.lost is not None:
            return
        station_id, instance = self.settings.station_id, self.instance

        async def give_back(tx: Transaction) -> None:
            for name in sorted(self.holding.tokens):
                release = ReleaseLease(instrument=name, instance=instance, reason="the station stops")
                await tx.decide("lease", name, release)
            await tx.decide("station", station_id, StopStation(station_id=station_id, instance=instance))

        self.holding.lose("the station stops")
        await self.ledger.transact(give_back, self.meta("stop"))

    async def _stop_scans(self) -> None:
        for execution in self._running.values():
            execution.stop("shutdown")
        async with self._free:
            self._free.notify_all()  # those that wait for instruments
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10)

    def meta(self, step: str) -> Meta:
        """What the station does of itself."""
        causation = str(self.instance)
        source = f"labledger/station/{self.settings.station_id}"
        return Meta(causation=causation, actor=f"station {self.settings.station_id}", source=source).step(step)

    # -- work ------------------------------------------------------------------------------------------------------

    async def on_work(self, msg: Msg) -> float | None:
        """Take a scan on. The message stays in the stream until the scan is over: a crash brings it back."""
        try:
            work = Work.model_validate_json(msg.data)
            UUID(str(work.spec["scan_id"]))
        except (ValueError, KeyError) as error:
            log.error("station %s: work that is none: %s", self.settings.station_id, error)
            return None
        if self.stopping or self.holding.lost is not None:
            return 1.0
        key = (work.job_id, work.dispatch)
        if key in self._at_hand:
            return -1.0  # it came again while NATS was away; whoever has it answers for it
        self._at_hand.add(key)
        task = asyncio.create_task(self._work(work, msg))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._at_hand.discard(key))
        return -1.0

    async def _work(self, work: Work, msg: Msg) -> None:
        alive = asyncio.create_task(_keep_alive(msg))
        try:
            scan_id = UUID(str(work.spec["scan_id"]))
            while True:
                try:
                    done = await self._see_through(scan_id, work)
                    break
                except Fenced as error:
                    self.holding.lose(str(error))
                    return
                except (Unavailable, Conflict) as error:
                    log.warning("scan %s: %s; trying again", scan_id, error)
                    await asyncio.sleep(0.5)
            await (msg.ack() if done else msg.nak(delay=0.1))
        except LeaseLost as error:
            self.holding.lose(str(error))
        except Exception:
            log.exception("work of job %s", work.job_id)
            with suppress(Exception):  # else it comes again by itself
                await msg.nak(delay=5)
        finally:
            alive.cancel()

    async def _see_through(self, scan_id: UUID, work: Work) -> bool:
        """Bring a scan to its end. True when it is over; False when the station stops before."""
        job: Job = (await self.ledger.refresh("job", str(work.job_id))).state
        worker = f"station {self.settings.station_id}"
        ours = job.state in ("waiting", "retrying") and (job.dispatch is None or work.dispatch > job.dispatch)
        if not ours and not (job.state == "running" and job.worker == worker and job.dispatch == work.dispatch):
            return True  # a late copy: this dispatch was done
        scan: Scan = (await self.ledger.refresh("scan", str(scan_id))).state
        if scan.status is None or scan.over:
            # It ended without us; its place in the queue must not stay taken.
            await self._note("job", str(work.job_id), CancelJob(job_id=work.job_id, reason="its scan is over"))
            return True
        async with self._instruments(scan.instruments):
            execution = self._running[scan_id] = Execution(self, scan_id, work)
            self.holding.scans.add(scan_id)
            try:
                # Who finds us silent reads from our last beat which scans were interrupted.
                await self.holding.beat()
                return await execution.run()
            finally:
                self.holding.scans.discard(scan_id)
                del self._running[scan_id]

    @asynccontextmanager
    async def _instruments(self, names: tuple[str, ...]) -> AsyncGenerator[None]:
        """Wait until no other scan of this station uses any of them."""
        async with self._free:
            await self._free.wait_for(lambda: self.busy.isdisjoint(names) or self.stopping)
            self.busy.update(names)
        try:
            yield
        finally:
            async with self._free:
                self.busy.difference_update(names)
                self._free.notify_all()

    # -- instruments that hang --------------------------------------------------------------------------------------

    async def _watch_calls(self) -> None:
        """Notice calls that do not come back, say so, and give the connection up."""
        while True:
            await asyncio.sleep(0.25)
            for name in self.rack.names():
                busy_s = self.rack.busy_s(name)
                if busy_s > 0.5:
                    self.holding.busy_s[name] = round(busy_s, 2)
                else:
                    self.holding.busy_s.pop(name, None)
                overdue_s = self.rack.overdue_s(name)
                if overdue_s:
                    try:
                        await self._hangs(name, overdue_s)
                    except BusError as error:
                        log.warning("cannot say yet that %s hangs: %s", name, error)

    async def _hangs(self, name: str, busy_s: float) -> None:
        log.error("%s has not come back for %.1f s: its connection is given up", name, busy_s)
        for execution in self._running.values():
            execution.hangs(name)
        self.rack.abandon(name)
        stuck = NoteStuck(
            station_id=self.settings.station_id, instance=self.instance, instrument=name, call_s=round(busy_s, 3)
        )
        await self._note("station", self.settings.station_id, stuck)
        if name not in self._silent:
            await self.note_silent(name, f"a call did not come back within {busy_s:.1f} s")

    async def _ask_the_silent(self) -> None:
        """Ask an instrument that stopped answering, ever more seldom, until it answers: no scan may use it before.

        Each question to one that hangs may cost a thread, which is left behind; hence the growing waits.
        """
        waits: dict[str, float] = {}
        due: dict[str, float] = {}
        while True:
            await asyncio.sleep(0.5)
            now = time.monotonic()
            for name in self._silent:
                due.setdefault(name, now + waits.setdefault(name, ASK_AGAIN_S))
            names = [name for name in sorted(self._silent - self.busy) if due[name] <= now]
            await asyncio.gather(*(self._ask(name) for name in names))
            for name in names:
                due.pop(name)
                waits[name] = min(2 * waits[name], ASK_AGAIN_AT_MOST_S)
            for name in waits.keys() - self._silent:
                waits.pop(name)
                due.pop(name, None)

    async def _ask(self, name: str) -> None:
        try:
            identity = await asyncio.wrap_future(self.rack.run((name,), lambda found: found[name].identify()))
            await self.note_answers(name, identity)
        except (InstrumentError, LeaseLost, BusError) as error:
            log.info("%s does not answer yet: %s", name, error)
        except Exception:
            log.exception("asking %s", name)

    async def note_silent(self, name: str, reason: str) -> None:
        await self._note("equipment", name, NoteStoppedAnswering(equipment_id=name, reason=reason))
        self._silent.add(name)

    async def note_answers(self, name: str, identity: str) -> None:
        """Who answered. Only what is new becomes an event."""
        unstuck = NoteUnstuck(station_id=self.settings.station_id, instance=self.instance, instrument=name)
        await self._note("station", self.settings.station_id, unstuck)
        await self._note("equipment", name, NoteAnswersAgain(equipment_id=name))
        await self._note("equipment", name, SeeIdentity(equipment_id=name, identity=identity))
        self._silent.discard(name)

    async def _note(self, kind: str, id_: str, command: Command) -> None:
        try:
            await self.ledger.handle(kind, id_, command, self.meta(uuid7()))
        except Refused as refusal:
            log.info("%s %s: %s", kind, id_, refusal)


async def _keep_alive(msg: Msg) -> None:
    """Tell the stream, while a scan runs, that its work is being done."""
    while True:
        await asyncio.sleep(ACK_WAIT_S / 3)
        try:
            await msg.in_progress()
        except Exception as error:
            log.debug("work message: %s", error)
