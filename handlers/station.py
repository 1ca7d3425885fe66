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
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from nats.aio.msg import Msg

from bus.broker import ACK_WAIT_S
from bus.connection import Bus
from bus.envelope import Meta
from bus.errors import BusError, Conflict, Fenced, Unavailable
from bus.ids import uuid7
from bus.ledger import Ledger, Loaded, Transaction
from bus.streams import evt, live
from bus.work import Work
from domain.equipment import Equipment, NoteAnswersAgain, NoteStoppedAnswering, RegisterEquipment, SeeIdentity
from domain.errors import (
    Gone,
    InstrumentError,
    InstrumentRefused,
    LeaseLost,
    NoAnswer,
    OutOfLimits,
    Refused,
    WrongAnswer,
    WrongState,
)
from domain.events import Command
from domain.job import CancelJob, FailJob, Job, StartJob, SucceedJob
from domain.lease import AcquireLease, LeaseExpired, ReleaseLease
from domain.plan import check_limits
from domain.ports import Blobs, Instrument, Rack
from domain.readings import (
    BranchColumns,
    CloseReadings,
    CloseReason,
    InstrumentAtStart,
    OpenReadings,
    Readings,
    ReadingsClosed,
    ReadingsOpened,
    ReadingsRecorded,
    branch_columns,
)
from domain.scan import (
    CompleteScan,
    ContinueScan,
    ErrorKind,
    FailScan,
    InterruptScan,
    NoteAborted,
    NotePaused,
    NoteResumed,
    Scan,
    StartScan,
)
from domain.station import NoteStuck, NoteUnstuck, StartStation, Station, StopStation
from handlers.engine import Control, Engine, Result
from handlers.leases import Holding, expire_station, last_beat, proven_dead, this_host
from handlers.recorder import Connect, Recorder

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


def error_kind(error: Exception) -> ErrorKind:
    kinds: list[tuple[type[Exception], ErrorKind]] = [
        (InstrumentRefused, "refused"),
        (NoAnswer, "no_answer"),
        (WrongAnswer, "wrong_answer"),
        (Gone, "gone"),
        (OutOfLimits, "out_of_limits"),
        (Refused, "out_of_limits"),
        (LeaseLost, "lease_lost"),
        (InstrumentError, "other"),
    ]
    for cls, kind in kinds:
        if isinstance(error, cls):
            return kind
    return "internal"


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
        self._running: dict[UUID, _Execution] = {}
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
            execution = self._running[scan_id] = _Execution(self, scan_id, work)
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


class _Execution:
    """One scan on this station, from the first point to the last, with the pauses between."""

    def __init__(self, station: StationRunner, scan_id: UUID, work: Work) -> None:
        self._station = station
        self._ledger = station.ledger
        self._id = scan_id
        self._work = work
        self._control = Control()
        self._recorder: Recorder | None = None
        self._names: tuple[str, ...] = ()
        self._refusals = 0
        self._last_refusal: Refused | None = None
        #: Set when something was said about the scan, or the station stops.
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def stop(self, why: str) -> None:
        """Stop before the next point; abort and shutdown do not wait for a move to settle either."""
        self._control.stop = why
        self._control.urgent = why != "pause"
        self._news.set()

    def hangs(self, instrument: str) -> None:
        """A call to the instrument hangs: what its thread measures from here on is void."""
        if instrument in self._names and self._recorder is not None:
            self._recorder.abandoned = True

    async def run(self) -> bool:
        """True when the scan is over, False when the station stops before that."""

        async def on_event(_: Msg) -> None:
            self._news.set()  # only a hint: what was said is read from the ledger

        hint = await self._station.bus.subscribe(live("scan", str(self._id)), on_event)
        try:
            while True:
                await self._station.holding.wait_until_trusted()
                scan: Scan = (await self._ledger.refresh("scan", str(self._id))).state
                if scan.over:
                    return True
                if self._station.stopping:
                    await self._interrupt("the station stops")
                    return False
                if scan.live and scan.instance != str(self._station.instance):
                    # We hold its instruments, so the run that had it is gone.
                    await self._interrupt(f"run {scan.instance} of station {scan.station_id} is gone", scan.instance)
                elif scan.live and scan.wish == "abort":
                    await self._abort(scan)
                elif scan.status == "queued" or scan.to_be_continued or (scan.live and scan.wish == "resume"):
                    await self._segment(scan)
                elif scan.live and scan.status == "running":
                    # Started by us, and the opening or the end of the segment could not be stored: go on from there.
                    await self._interrupt("it could not be recorded that it ran")
                else:
                    await self._wait_for_news()
        finally:
            await hint.unsubscribe()

    async def _wait_for_news(self) -> None:
        """Paused or held: until somebody says something. Looks by itself too, in case a hint was lost."""
        try:
            async with asyncio.timeout(2.0):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()  # before looking: what is said while we look wakes us again

    # -- one segment ------------------------------------------------------------------------------------------------

    async def _segment(self, scan: Scan) -> None:
        """Start, continue or resume; measure; and say how it ended."""
        assert scan.plan is not None
        self._names = scan.instruments
        self._control = Control()
        try:
            described = {name: self._station.rack.describe(name) for name in scan.instruments}
            check_limits(scan.plan, described)
            columns = branch_columns(scan.plan, described)
            at_start = await self._program(scan.instruments, _look)
        except LeaseLost:
            raise
        except Exception as error:  # the domain's no, an instrument's failure, or a defect of ours or of a driver
            await self._fail(error, None)
            return
        for name, seen in at_start.items():
            await self._station.note_answers(name, seen.identity)
        opened = await self._open(scan, columns, at_start)
        if opened is None:
            await self._refused_again()
            return
        self._refusals = 0
        attempt, from_point, loaded = opened
        result = await self._measure(scan, columns, attempt, from_point, loaded)
        await self._close(scan, columns, result)

    async def _refused_again(self) -> None:
        """It cannot begin as things stand: mostly because somebody was faster, who is about to say so."""
        self._refusals += 1
        if self._refusals < 5:
            await self._wait_for_news()
            return
        await self._fail(RuntimeError(f"it could not begin: {self._last_refusal}"), None)

    async def _open(
        self, scan: Scan, columns: tuple[BranchColumns, ...], at_start: dict[str, InstrumentAtStart]
    ) -> tuple[int, int, Loaded] | None:
        """Say that the scan runs (again) and open its readings, in one batch that rides on the lease."""
        scan_id, station = self._id, self._station
        readings = await self._load_readings(scan, columns)

        async def start(tx: Transaction) -> None:
            state: Readings = await tx.state("readings", str(scan_id))
            current: Scan = await tx.state("scan", str(scan_id))
            whose: dict[str, Any] = {
                "scan_id": scan_id,
                "station_id": station.settings.station_id,
                "instance": str(station.instance),
            }
            from_point = state.next_point
            if current.status == "queued":
                await tx.decide("scan", str(scan_id), StartScan(**whose))
                from_point = 0
                worker = f"station {station.settings.station_id}"
                job = StartJob(job_id=self._work.job_id, worker=worker, dispatch=self._work.dispatch)
                await tx.decide("job", str(self._work.job_id), job)
            elif current.interrupted:
                continued = await tx.decide("scan", str(scan_id), ContinueScan(**whose, from_point=from_point))
                from_point = next(getattr(event, "from_point", from_point) for event in continued)
            else:
                await tx.decide("scan", str(scan_id), NoteResumed(scan_id=scan_id))
            current = await tx.state("scan", str(scan_id))
            order = OpenReadings(
                scan_id=scan_id,
                attempt=current.attempt,
                from_point=from_point,
                total_points=scan.total_points,
                branches=columns,
                settings=at_start,
            )
            await tx.decide("readings", str(scan_id), order, fenced=True)

        self._ledger.keep("readings", str(scan_id), readings)
        try:
            await self._store(start)
        except Refused as refusal:
            log.info("scan %s: %s", scan_id, refusal)
            self._last_refusal = refusal
            return None
        loaded = await self._ledger.load("readings", str(scan_id))
        return loaded.state.attempt, loaded.state.from_point, loaded

    async def _measure(
        self, scan: Scan, columns: tuple[BranchColumns, ...], attempt: int, from_point: int, loaded: Loaded
    ) -> Result:
        assert scan.plan is not None
        station, loop = self._station, self._loop
        fence = station.holding.fence(scan.instruments)
        meta = station.meta(f"scan-{self._id}-{attempt}")
        meta = replace(meta, correlation=str(self._id))

        def wait_until_trusted() -> None:
            asyncio.run_coroutine_threadsafe(station.holding.wait_until_trusted(), loop).result()

        engine = Engine(scan.plan, columns, scan.frame, self._control, wait_until_trusted)

        def program(instruments: Mapping[str, Instrument]) -> Result:
            recorder = self._recorder = Recorder(
                station.connect,
                station.loop_factory,
                station.blobs,
                self._id,
                attempt,
                columns,
                loaded.head,
                fence,
                meta,
            )
            try:
                return engine.run(instruments, from_point, recorder)
            finally:
                recorder.close()

        self._news.set()  # look once for what was said before we listened
        listener = asyncio.create_task(self._listen())
        try:
            return await self._program(scan.instruments, program)
        except InstrumentError as error:  # it hung, and its thread was left behind
            while self._recorder is not None and self._recorder.busy:
                await asyncio.sleep(0.01)  # it came back at the last moment; two writers would tear the chain
            return Result("failed", self._control.next_point, error)
        except (LeaseLost, Unavailable):
            raise
        except Exception as error:  # a defect: the scan fails with it, the station goes on
            return Result("failed", self._control.next_point, error)
        finally:
            listener.cancel()
            self._recorder = None

    async def _listen(self) -> None:
        """While the engine measures: turn what people ask for into its control."""
        while True:
            await self._wait_for_news()
            try:
                scan: Scan = (await self._ledger.refresh("scan", str(self._id))).state
            except BusError:
                continue
            if self._station.stopping:
                self.stop("shutdown")
            elif scan.wish == "abort":
                self.stop("abort")
            elif scan.wish == "pause":
                self.stop("pause")
            elif self._control.stop == "pause":
                self._control.stop = None  # taken back before it was noticed

    async def _program(self, names: tuple[str, ...], program: Callable[[Mapping[str, Instrument]], Any]) -> Any:
        future: Future[Any] = self._station.rack.run(names, program)
        return await asyncio.wrap_future(future)

    async def _close(self, scan: Scan, columns: tuple[BranchColumns, ...], result: Result) -> None:
        """Say how the segment ended: with the last point durable, the scan, its job and its readings end in one batch."""
        if result.ended == "lease_lost":
            raise LeaseLost(str(result.error))
        if result.ended == "failed":
            assert result.error is not None
            await self._fail(result.error, columns)
            return
        if result.ended == "completed":

            async def complete(tx: Transaction) -> None:
                await tx.decide("scan", str(self._id), CompleteScan(scan_id=self._id, points=scan.total_points))
                await self._end_job(
                    tx,
                    lambda attempt: SucceedJob(
                        job_id=self._work.job_id,
                        attempt=attempt,
                        result={"scan_id": str(self._id), "points": scan.total_points},
                    ),
                )
                await self._close_readings(tx, "completed")

            await self._end(scan, columns, complete)
            return
        current: Scan = (await self._ledger.refresh("scan", str(self._id))).state
        if current.wish == "abort" and not self._station.stopping:
            await self._abort(current, columns)
            return
        # Also when the pause was taken back after it had been noticed: the readings are closed, then resumed.
        if not self._station.stopping and current.live and current.wish is not None:

            async def pause(tx: Transaction) -> None:
                state: Readings = await tx.state("readings", str(self._id))
                await tx.decide("scan", str(self._id), NotePaused(scan_id=self._id, point=state.next_point))
                await self._close_readings(tx, "paused")

            await self._end(scan, columns, pause)

    async def _abort(self, scan: Scan, columns: tuple[BranchColumns, ...] | None = None) -> None:
        """Bring the instruments into their safe states, then say that the scan was aborted."""
        await self._make_safe(scan.instruments)

        async def abort(tx: Transaction) -> None:
            state: Readings = await tx.state("readings", str(self._id))
            await tx.decide("scan", str(self._id), NoteAborted(scan_id=self._id, point=state.next_point))
            reason = scan.reason or "aborted"
            await self._end_job(tx, lambda _: CancelJob(job_id=self._work.job_id, reason=reason))
            await self._close_readings(tx, "aborted")

        await self._end(scan, columns, abort)

    async def _fail(self, error: Exception, columns: tuple[BranchColumns, ...] | None) -> None:
        if isinstance(error, LeaseLost):
            raise error
        scan: Scan = (await self._ledger.refresh("scan", str(self._id))).state
        kind = error_kind(error)
        if kind == "internal":
            log.error("scan %s failed", self._id, exc_info=error)
        reason = str(error) or type(error).__name__
        await self._make_safe(scan.instruments)
        if kind in ("gone", "no_answer"):
            for name in scan.instruments:
                if len(scan.instruments) == 1 or re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", reason):
                    await self._station.note_silent(name, reason[:1000])

        async def fail(tx: Transaction) -> None:
            state: Readings = await tx.state("readings", str(self._id))
            point = state.next_point if state.attempt else None
            order = FailScan(scan_id=self._id, reason=reason[:2000], point=point, error=kind)
            await tx.decide("scan", str(self._id), order)
            job: Job = await tx.state("job", str(self._work.job_id))
            if job.state in ("waiting", "retrying"):
                worker = f"station {self._station.settings.station_id}"
                start = StartJob(job_id=self._work.job_id, worker=worker, dispatch=self._work.dispatch)
                await tx.decide("job", str(self._work.job_id), start)
            await self._end_job(
                tx,
                lambda attempt: FailJob(
                    job_id=self._work.job_id, attempt=attempt, error=reason[:2000], kind="permanent", at=_now()
                ),
            )
            await self._close_readings(tx, "failed")

        await self._end(scan, columns, fail)

    async def _interrupt(self, reason: str, instance: str | None = None) -> None:
        """Say that the scan stands still, to be continued."""
        scan: Scan = (await self._ledger.refresh("scan", str(self._id))).state

        async def interrupt(tx: Transaction) -> None:
            await tx.decide("scan", str(self._id), InterruptScan(scan_id=self._id, reason=reason, instance=instance))
            after: Scan = await tx.state("scan", str(self._id))
            if after.over:
                await self._end_job(tx, lambda _: CancelJob(job_id=self._work.job_id, reason="aborted"))
            await self._close_readings(tx, "interrupted")

        await self._end(scan, None, interrupt)

    async def _end_job(self, tx: Transaction, order: Callable[[int], Command]) -> None:
        """End the job too, unless somebody cancelled it meanwhile."""
        job: Job = await tx.state("job", str(self._work.job_id))
        if job.state in ("waiting", "retrying", "running"):
            await tx.decide("job", str(self._work.job_id), order(job.attempt))

    async def _close_readings(self, tx: Transaction, reason: CloseReason) -> None:
        state: Readings = await tx.state("readings", str(self._id))
        if state.open:
            order = CloseReadings(scan_id=self._id, attempt=state.attempt, reason=reason)
            await tx.decide("readings", str(self._id), order, fenced=True)

    async def _end(
        self, scan: Scan, columns: tuple[BranchColumns, ...] | None, work: Callable[[Transaction], Awaitable[None]]
    ) -> None:
        readings = await self._load_readings(scan, columns or ())
        self._ledger.keep("readings", str(self._id), readings)
        try:
            await self._store(work, fenced=readings.state.open)
        except Refused as refusal:
            log.info("scan %s: %s", self._id, refusal)

    async def _store(self, work: Callable[[Transaction], Awaitable[None]], *, fenced: bool = True) -> None:
        """One batch, riding on the lease where it touches the readings. Raises `LeaseLost` when that has passed on."""
        meta = self._station.meta(uuid7())
        scan: Scan = (await self._ledger.load("scan", str(self._id))).state
        fence = self._station.holding.fence(scan.instruments) if fenced else None
        try:
            await self._ledger.transact(work, replace(meta, correlation=str(self._id)), fence=fence)
        except Fenced as error:
            raise LeaseLost(str(error)) from error

    async def _load_readings(self, scan: Scan, columns: tuple[BranchColumns, ...]) -> Loaded:
        """How far the readings are, from their last event alone: a scan may have millions."""
        last = await self._ledger.store.last(evt("readings", str(self._id)))
        if last is None:
            return Loaded(Readings())
        match last.event:
            case ReadingsOpened(attempt=attempt, from_point=point):
                is_open = True
            case ReadingsRecorded(attempt=attempt) as frame:
                point, is_open = frame.next_point, True
            case ReadingsClosed(attempt=attempt, next_point=point):
                is_open = False
            case other:
                raise AssertionError(f"{other.TYPE} is no event of readings")
        state = Readings(
            scan_id=self._id,
            attempt=attempt,
            from_point=point,
            next_point=point,
            total_points=scan.total_points,
            open=is_open,
            branches=columns,
        )
        # As if it had come from a snapshot: what is left out of it must not become one.
        return Loaded(state, last.head, {}, last.head.version)

    async def _make_safe(self, names: tuple[str, ...]) -> None:
        """The declared safe state of each instrument. One that fails does not keep the others from theirs."""
        await self._station.holding.wait_until_trusted()
        for name in names:

            def safe(instruments: Mapping[str, Instrument], name: str = name) -> None:
                instruments[name].stop()
                instruments[name].safe()

            try:
                async with asyncio.timeout(15):
                    await self._program((name,), safe)
            except (InstrumentError, TimeoutError) as error:
                log.error("scan %s: %s is not in its safe state: %s", self._id, name, error)
                await self._station.note_silent(name, f"it did not go to its safe state: {error}"[:1000])


def _look(instruments: Mapping[str, Instrument]) -> dict[str, InstrumentAtStart]:
    """Who answers, and how each instrument stands."""
    return {
        name: InstrumentAtStart(identity=instrument.identify(), settings=_scalars(instrument))
        for name, instrument in instruments.items()
    }


def _scalars(instrument: Instrument) -> dict[str, Any]:
    channels = instrument.describe()
    names = [name for name, channel in channels.items() if channel.kind == "rw" and channel.type != "array"]
    return instrument.snapshot(names) if names else {}


def _now() -> datetime:
    return datetime.now(UTC)
