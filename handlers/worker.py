"""A worker: does the jobs that the queues dispatch, each by its trade, on any number of machines.

    take:   the work message says that a job was dispatched; [job.started and what its trade says] claims it, in one batch, for
            this run of this process. A slot must be free before the next message is asked for
    do:     what the trade does, with the message kept alive and progress reported
    end:    [job.succeeded or job.failed, and what its trade says] in one batch

A worker that dies leaves its message unacknowledged; after `ACK_WAIT_S` another worker gets it, sees that the job is run by
somebody who is not heard of, and releases it with that reason. The queue dispatches it again, as the next attempt. The one that
was thought dead and is not finds its attempt over, and what it made is dropped: results are written once.
"""

import asyncio
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeVar
from uuid import UUID

from nats.aio.msg import Msg

from bus.broker import ACK_WAIT_S
from bus.connection import Bus
from bus.envelope import Meta
from bus.errors import BusError, Conflict, Unavailable
from bus.ids import uuid7
from bus.ledger import Ledger, Transaction
from bus.streams import live
from bus.work import Work
from domain.errors import Refused
from domain.job import FailJob, Job, JobFailed, NoteProgress, ReleaseJob, StartJob, SucceedJob
from domain.ports import Report
from handlers.leases import this_host

log = logging.getLogger("labledger.worker")
T = TypeVar("T")

#: Progress is written at most so often.
TELL_S = 0.5
#: A cancelled job is noticed by its event; should that be missed, after so long.
LOOK_S = 2.0


@dataclass(frozen=True)
class Attempt:
    """One attempt at a job, for the trade that does it. `keep` stores what a trade's transaction decides, as long as it takes;
    it raises `Refused` when the attempt is over."""

    work: Work
    number: int
    ledger: Ledger
    report: Report
    keep: Callable[[Callable[[Transaction], Awaitable[None]]], Awaitable[None]]


@dataclass(frozen=True)
class Verdict:
    """What a failure means. `wait_s`: how long until the next attempt, None: as the job's own backoff has it; `retry_at`: when
    that is, as the job says."""

    kind: str
    final: bool
    wait_s: float | None = None
    retry_at: datetime | None = None


async def failures(ledger: Ledger, job_id: UUID) -> int:
    """How often a job has failed by itself since a person last let it run."""
    count = 0
    for stored in await ledger.store.history("job", str(job_id)):
        if stored.type.startswith("job.retried."):
            count = 0
        elif stored.type.startswith("job.failed."):
            count += 1
    return count


class Trade(Protocol):
    """One kind of job: how it is done, and what its beginning and its ends are for the thing that it is about."""

    @property
    def slots(self) -> int:
        """How many may be done at once by this process."""
        ...

    async def start(self, tx: Transaction, work: Work, attempt: int, worker: str) -> None: ...

    async def do(self, attempt: Attempt) -> Mapping[str, Any]:
        """Raises what `judge` judges. Cancelling it ends it."""
        ...

    async def succeed(
        self, tx: Transaction, work: Work, attempt: int, duration_s: float, result: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Answers what the job says as its result."""
        ...

    async def judge(self, ledger: Ledger, work: Work, error: BaseException) -> Verdict:
        """What it means that an attempt failed so."""
        ...

    async def fail(self, tx: Transaction, work: Work, attempt: int, error: str, verdict: Verdict) -> None: ...


@dataclass(frozen=True)
class WorkerSettings:
    """`grace_s`: how long a stopping worker waits for its jobs."""

    grace_s: float = 5.0
    ack_wait_s: float = ACK_WAIT_S


class Worker:
    """One run of a worker's process."""

    def __init__(
        self, bus: Bus, ledger: Ledger, trades: Mapping[str, Trade], settings: WorkerSettings | None = None
    ) -> None:
        """`trades` by the kind of job. They share the slots: as many as the trade with the fewest has."""
        self.bus = bus
        self.ledger = ledger
        self.trades = trades
        self.slots = min(trade.slots for trade in trades.values())
        self.settings = settings or WorkerSettings()
        self.instance = uuid7()
        #: Who runs an attempt: this run of the process, and no other on the same machine.
        self.name = f"{this_host()}:{os.getpid()}:{self.instance[-8:]}"
        self.stopping = False
        self._at_hand: dict[tuple[UUID, int], asyncio.Task[None]] = {}
        self._freed = asyncio.Event()

    # -- taking and giving back ------------------------------------------------------------------------------------

    async def on_work(self, msg: Msg) -> float | None:
        """Take a job on when a slot is free, and come back when the next is: so no more is asked for than can be done."""
        try:
            work = Work.model_validate_json(msg.data)
        except ValueError as error:
            log.error("work that is none: %s", error)
            return None
        if work.job_kind not in self.trades:
            log.error("job %s is of the kind %s, which is none of ours", work.job_id, work.job_kind)
            return None
        key = (work.job_id, work.dispatch)
        if key in self._at_hand:
            return -1.0  # it came again while NATS was away; whoever has it answers for it
        if not await self._wait_for_room():
            return 1.0
        task = self._at_hand[key] = asyncio.create_task(self._work(work, msg))
        task.add_done_callback(lambda _: self._done(key))
        await self._wait_for_room()
        return -1.0

    async def _wait_for_room(self) -> bool:
        """False when the worker stops instead."""
        while not self.stopping and len(self._at_hand) >= self.slots:
            self._freed.clear()
            await self._freed.wait()
        return not self.stopping

    def _done(self, key: tuple[UUID, int]) -> None:
        del self._at_hand[key]
        self._freed.set()

    async def stop(self) -> None:
        """Take nothing more, let what is nearly done be done, give the rest back."""
        self.stopping = True
        self._freed.set()
        tasks = list(self._at_hand.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self.settings.grace_s)
            for task in late:
                task.cancel()  # it releases its job
            if late:
                await asyncio.wait(late, timeout=10)

    async def _work(self, work: Work, msg: Msg) -> None:
        alive = asyncio.create_task(self._keep_alive(msg))
        try:
            await self._see_through(work)
            await msg.ack()
        except asyncio.CancelledError:
            await self._give_back(msg, 0)
            raise
        except Exception:
            # It comes again, and what the history says is done is not done again.
            log.exception("job %s", work.job_id)
            await self._give_back(msg, 2)
        finally:
            alive.cancel()

    @staticmethod
    async def _give_back(msg: Msg, delay_s: float) -> None:
        try:
            await msg.nak(delay=delay_s)
        except Exception as error:  # NATS is away: then it comes again by itself
            log.debug("work message: %s", error)

    async def _keep_alive(self, msg: Msg) -> None:
        while True:
            await asyncio.sleep(self.settings.ack_wait_s / 3)
            try:
                await msg.in_progress()
            except Exception as error:
                log.debug("work message: %s", error)

    # -- one job ---------------------------------------------------------------------------------------------------

    def _meta(self, work: Work) -> Meta:
        return Meta(
            causation=self.instance,
            correlation=str(work.job_id),
            actor=f"worker {self.name}",
            source="labledger/worker",
        ).step(uuid7())

    async def _store(self, work: Work, decide: Callable[[Transaction], Awaitable[None]]) -> None:
        """As long as it takes: what was done must not be lost because NATS is away. Raises `Refused`."""
        meta = self._meta(work)
        while True:
            try:
                await self.ledger.transact(decide, meta, lock=("job", str(work.job_id)))
                return
            except (Unavailable, Conflict) as error:
                log.warning("job %s: %s; trying again", work.job_id, error)
                await asyncio.sleep(0.5)

    async def _see_through(self, work: Work) -> None:
        """Bring a dispatched job to the end of an attempt, unless that was done already."""
        job: Job = (await self._asked(lambda: self.ledger.refresh("job", str(work.job_id)))).state
        if job.state == "running" and job.dispatch == work.dispatch:
            who = "this worker" if job.worker == self.name else f"worker {job.worker}"
            await self._release(work, job.attempt, f"{who} was not heard of for {self.settings.ack_wait_s:g} s")
            return
        used = job.dispatch is not None and work.dispatch <= job.dispatch
        if job.submitted is None or job.state not in ("waiting", "retrying") or used:
            return  # a late copy, or it was cancelled
        attempt = await self._start(work)
        if attempt is not None:
            await self._attempt(work, attempt)

    async def _asked(self, question: Callable[[], Awaitable[T]]) -> T:
        """The answer of the ledger, as long as it takes."""
        while True:
            try:
                return await question()
            except Unavailable as error:
                log.warning("%s; trying again", error)
                await asyncio.sleep(0.5)

    async def _start(self, work: Work) -> int | None:
        """Claim the job: the number of the attempt, or None when somebody or something was faster."""
        trade, attempt = self.trades[work.job_kind], 0

        async def start(tx: Transaction) -> None:
            nonlocal attempt
            await tx.decide(
                "job", str(work.job_id), StartJob(job_id=work.job_id, worker=self.name, dispatch=work.dispatch)
            )
            job: Job = await tx.state("job", str(work.job_id))
            attempt = job.attempt
            await trade.start(tx, work, attempt, self.name)

        try:
            await self._store(work, start)
        except Refused as refusal:
            log.info("job %s: %s", work.job_id, refusal)
            return None
        return attempt

    async def _attempt(self, work: Work, attempt: int) -> None:
        began = time.monotonic()
        said: list[tuple[float, str]] = []
        loop = asyncio.get_running_loop()

        def report(percent: float, note: str) -> None:
            loop.call_soon_threadsafe(said.append, (percent, note))

        async def keep(decide: Callable[[Transaction], Awaitable[None]]) -> None:
            await self._store(work, decide)

        it = Attempt(work, attempt, self.ledger, report, keep)
        doing = asyncio.create_task(self._do(it))
        over = asyncio.create_task(self._no_longer_ours(work, attempt))
        telling = asyncio.create_task(self._tell(work, attempt, said))
        try:
            await asyncio.wait([doing, over], return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                log.info("job %s: attempt %d was called off", work.job_id, attempt)
                return
            telling.cancel()
            await self._end(work, attempt, time.monotonic() - began, doing)
        except asyncio.CancelledError:
            # We stop. Nobody else may begin before our process has ended, so that it is not done twice at once.
            await _ended(doing)
            await asyncio.shield(self._release(work, attempt, f"worker {self.name} stops"))
            raise
        finally:
            for task in (over, telling):
                task.cancel()
            await _ended(doing)

    async def _do(self, attempt: Attempt) -> Mapping[str, Any]:
        return await self.trades[attempt.work.job_kind].do(attempt)

    async def _no_longer_ours(self, work: Work, attempt: int) -> None:
        """Returns when the attempt was cancelled, or is not ours any more."""
        news = asyncio.Event()

        async def on_event(_: Msg) -> None:
            news.set()  # only a hint: what was said is read from the ledger

        hint = await self.bus.subscribe(live("job", str(work.job_id)), on_event)
        try:
            while True:
                try:
                    job: Job = (await self.ledger.refresh("job", str(work.job_id))).state
                    if job.state != "running" or job.attempt != attempt:
                        return
                    async with asyncio.timeout(LOOK_S):
                        await news.wait()
                    news.clear()
                except TimeoutError:
                    pass
                except BusError as error:
                    log.debug("job %s: %s", work.job_id, error)
                    await asyncio.sleep(LOOK_S)
        finally:
            await hint.unsubscribe()

    async def _tell(self, work: Work, attempt: int, said: list[tuple[float, str]]) -> None:
        """Write the newest progress now and then. Losing one is no loss."""
        while True:
            await asyncio.sleep(TELL_S)
            if not said:
                continue
            percent, note = said[-1]
            said.clear()
            order = NoteProgress(
                job_id=work.job_id, attempt=attempt, percent=min(99.0, max(0.0, percent)), note=note[:200]
            )
            try:
                await self.ledger.handle("job", str(work.job_id), order, self._meta(work))
            except (Refused, BusError) as error:
                log.debug("progress of job %s: %s", work.job_id, error)

    # -- its end ---------------------------------------------------------------------------------------------------

    async def _end(self, work: Work, attempt: int, duration_s: float, doing: "asyncio.Task[Mapping[str, Any]]") -> None:
        trade = self.trades[work.job_kind]
        error = doing.exception()
        try:
            if error is None:
                result = doing.result()

                async def succeed(tx: Transaction) -> None:
                    said = await trade.succeed(tx, work, attempt, round(duration_s, 3), result)
                    order = SucceedJob(job_id=work.job_id, attempt=attempt, result=said)
                    await tx.decide("job", str(work.job_id), order)

                await self._store(work, succeed)
            else:
                await self._fail(work, attempt, error)
        except Refused as refusal:
            # Cancelled or given to another meanwhile: what we made is dropped.
            log.info("job %s, attempt %d: %s", work.job_id, attempt, refusal)

    async def _fail(self, work: Work, attempt: int, error: BaseException) -> None:
        trade = self.trades[work.job_kind]
        verdict = await self._asked(lambda: trade.judge(self.ledger, work, error))
        text = (str(error) or type(error).__name__)[:2000]
        if verdict.kind in ("other", "internal"):
            log.error("job %s failed: %s", work.job_id, text, exc_info=error)
        job_kind: Literal["transient", "permanent"] = "permanent" if verdict.final else "transient"
        at = datetime.now(UTC)
        order = FailJob(
            job_id=work.job_id,
            attempt=attempt,
            error=text,
            kind=job_kind,
            at=at,
            jitter=random.random(),
            wait_s=verdict.wait_s,
        )

        async def fail(tx: Transaction) -> None:
            for event in await tx.decide("job", str(work.job_id), order):
                if isinstance(event, JobFailed):
                    # The job knows when no attempt is left.
                    await trade.fail(
                        tx, work, attempt, text, replace(verdict, final=event.final, retry_at=event.retry_at)
                    )

        await self._store(work, fail)

    async def _release(self, work: Work, attempt: int, reason: str) -> None:
        """Let the job wait again. With its last attempt it fails, and with it what it was for (`follow_extractions`)."""
        log.warning("job %s, attempt %d is released: %s", work.job_id, attempt, reason)
        order = ReleaseJob(job_id=work.job_id, attempt=attempt, reason=reason)

        async def release(tx: Transaction) -> None:
            await tx.decide("job", str(work.job_id), order)

        await self._store(work, release)


async def _ended(task: "asyncio.Task[Any]") -> None:
    """Cancel it and wait until it is over, whatever it says."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # heard, so that nobody warns of it
