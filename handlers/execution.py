"""One scan on a station: each segment between two pauses is opened, measured and closed, each in one atomic batch.

Opening rides on the lease, and so does all that is written of the readings: a run whose lease has passed on writes nothing.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from nats.aio.msg import Msg

from bus.errors import BusError, Fenced, Unavailable
from bus.ids import uuid7
from bus.ledger import Loaded, Transaction
from bus.streams import evt, live
from bus.work import Work
from domain.errors import (
    Gone,
    InstrumentError,
    InstrumentRefused,
    LeaseLost,
    NoAnswer,
    OutOfLimits,
    Refused,
    WrongAnswer,
)
from domain.events import Command
from domain.job import CancelJob, FailJob, Job, StartJob, SucceedJob
from domain.plan import check_limits
from domain.ports import Instrument
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
from handlers.engine import Control, Engine, Result
from handlers.recorder import Recorder

if TYPE_CHECKING:
    from handlers.station import StationRunner

log = logging.getLogger("labledger.station")


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


class Execution:
    """One scan on this station, from the first point to the last, with the pauses between."""

    def __init__(self, station: "StationRunner", scan_id: UUID, work: Work) -> None:
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
