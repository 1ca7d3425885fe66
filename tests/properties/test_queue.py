"""Whatever is asked of a queue, in any order: its promises hold after every single event."""

from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain import queue as q
from domain.errors import Refused
from domain.events import Event
from tests.unit.domain.given import snapshot_survives, storage_survives

Q = "lab"
INSTRUMENTS = ("stage", "laser", "meter", "camera")
SOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
CLAIMS = st.lists(st.sampled_from(INSTRUMENTS), max_size=3, unique=True).map(tuple)
RANK = {priority: rank for rank, priority in enumerate(q.PRIORITIES)}


def job(number: int) -> UUID:
    return UUID(int=number)


def ahead(state: q.Queue, job_id: UUID) -> list[q.Entry]:
    """Who is served before this waiting job, worked out without the module under test."""
    line = list(state.waiting)
    if state.order == "priority":
        line.sort(key=lambda entry: RANK[entry.priority])
    return line[: [entry.job_id for entry in line].index(job_id)]


class QueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.state = q.Queue()
        self.count = 0
        #: Where each job is, kept by the events alone: waiting, running, finished, removed, replaced.
        self.place: dict[UUID, str] = {}
        self.edits = 0
        #: A person stopped the queue, and nobody has started it since; jobs that wait for their time.
        self.stopped = False
        self.held: set[UUID] = set()

    def do(self, command: q.QueueCommand) -> list[Event]:
        before = self.state
        try:
            events = q.decide(self.state, command)
        except Refused as refused:
            assert str(refused)
            return []
        for event in events:
            self.check(event, command)
            storage_survives(event)
            self.state = q.evolve(self.state, event)
            snapshot_survives(self.state)
            self.note(event)
        if not events:
            assert self.state == before
        return list(events)

    def check(self, event: Event, command: q.QueueCommand) -> None:
        """What must be true at the moment of a dispatch."""
        state = self.state
        if isinstance(event, q.QueueStarted) and event.by_itself:
            assert state.mode == "automatic" and not self.stopped, "it started though a person had stopped it"
        if isinstance(event, q.JobRequeued):
            open_before = {entry.job_id: number for number, entry in enumerate(state.waiting, start=1)}
            at_end = len(state.waiting) + 1
            runs = any(entry.job_id == event.job_id for entry in state.running)
            assert event.position == (1 if runs else open_before.get(event.job_id, at_end))
        if not isinstance(event, q.JobDispatched):
            return
        assert state.state == "running"
        assert len(state.running) < state.max_concurrent
        assert event.dispatch == state.dispatches + 1
        for other in state.running:
            assert set(other.claims).isdisjoint(event.claims)
        if isinstance(command, q.RunJob):
            assert state.mode == "manual" and event.job_id == command.job_id
            return
        assert state.mode == "automatic"
        assert event.job_id not in self.held, "it runs before its time has come"
        for earlier in ahead(state, event.job_id):
            if earlier.retry_at is None:
                # Nobody is overtaken by one who takes what he waits for; that is why nobody starves.
                assert set(earlier.claims).isdisjoint(event.claims)
                # And he was overtaken because he is blocked, not forgotten.
                assert self.blocked(earlier)

    def blocked(self, entry: q.Entry) -> bool:
        rivals = [*self.state.running, *(e for e in ahead(self.state, entry.job_id) if e.retry_at is None)]
        return any(set(rival.claims) & set(entry.claims) for rival in rivals)

    def note(self, event: Event) -> None:
        match event:
            case q.JobAdded(job_id=job_id):
                assert self.place.get(job_id) not in ("waiting", "running")
                self.place[job_id] = "waiting"
                self.held.discard(job_id)
            case q.JobRequeued(job_id=job_id, retry_at=retry_at):
                self.place[job_id] = "waiting"
                self.held.discard(job_id)
                if retry_at is not None:
                    self.held.add(job_id)
            case q.QueueStopped():
                self.stopped = True
            case q.QueueStarted() | q.QueueResumed():
                self.stopped = False
            case q.JobReplacedInQueue(job_id=job_id, new_job_id=new_job_id):
                assert self.place[job_id] == "waiting"
                self.place[job_id] = "replaced"
                self.place[new_job_id] = "waiting"
            case q.JobRemoved(job_id=job_id):
                assert self.place[job_id] == "waiting"
                self.place[job_id] = "removed"
            case q.QueueCleared(job_ids=job_ids):
                for job_id in job_ids:
                    assert self.place[job_id] == "waiting"
                    self.place[job_id] = "removed"
            case q.JobDispatched(job_id=job_id):
                assert self.place[job_id] == "waiting"
                self.place[job_id] = "running"
                self.held.discard(job_id)
            case q.JobFinished(job_id=job_id):
                assert self.place[job_id] in ("waiting", "running")
                self.place[job_id] = "finished"
            case _:
                pass
        if hasattr(event, "revision"):
            self.edits += 1

    def some(self, data: st.DataObject) -> UUID:
        """A job, mostly one that is open."""
        open_jobs = [entry.job_id for entry in (*self.state.waiting, *self.state.running)]
        if open_jobs and data.draw(st.integers(0, 9)):
            return data.draw(st.sampled_from(open_jobs))
        return job(data.draw(st.integers(1, self.count + 1)))

    def running(self, data: st.DataObject) -> q.Entry:
        return data.draw(st.sampled_from(self.state.running))

    @initialize(
        mode=st.sampled_from(("automatic", "automatic", "manual")),
        order=st.sampled_from(("fifo", "priority")),
        max_concurrent=st.integers(1, 3),
    )
    def create(self, mode: q.Mode, order: q.Order, max_concurrent: int) -> None:
        self.do(q.CreateQueue(queue_id=Q, mode=mode, order=order, max_concurrent=max_concurrent))

    @rule(priority=st.sampled_from(q.PRIORITIES), claims=CLAIMS)
    def add(self, priority: q.Priority, claims: tuple[str, ...]) -> None:
        self.count += 1
        events = self.do(
            q.AddJob(queue_id=Q, job_id=job(self.count), job_kind="scan", priority=priority, claims=claims)
        )
        assert isinstance(events[0], q.JobAdded)

    @rule(data=st.data())
    def add_again(self, data: st.DataObject) -> None:
        job_id = self.some(data)
        known = self.place.get(job_id) in ("waiting", "running")
        events = self.do(q.AddJob(queue_id=Q, job_id=job_id, job_kind="scan"))
        assert bool(events) != known
        self.count = max(self.count, job_id.int)

    @precondition(lambda self: self.state.running)
    @rule(data=st.data(), outcome=st.sampled_from(("succeeded", "failed", "cancelled")), exact=st.booleans())
    def finish(self, data: st.DataObject, outcome: q.Outcome, exact: bool) -> None:
        entry = self.running(data)
        command = q.FinishJob(
            queue_id=Q, job_id=entry.job_id, outcome=outcome, dispatch=entry.dispatch if exact else None
        )
        assert self.do(command)
        if exact:
            assert self.do(command) == []

    @rule(data=st.data(), dispatch=st.none() | st.integers(1, 30))
    def finish_any(self, data: st.DataObject, dispatch: int | None) -> None:
        job_id = self.some(data)
        waits = self.place.get(job_id) == "waiting"
        events = self.do(q.FinishJob(queue_id=Q, job_id=job_id, outcome="cancelled", dispatch=dispatch))
        if waits:
            assert bool(events) == (dispatch is None), "a late word about an earlier run took out a job that waits"

    @rule(data=st.data(), retry_at=st.none() | st.just(SOON), exact=st.booleans(), claims=CLAIMS)
    def requeue(self, data: st.DataObject, retry_at: datetime | None, exact: bool, claims: tuple[str, ...]) -> None:
        job_id = self.some(data)
        entry = next((entry for entry in self.state.running if entry.job_id == job_id), None)
        command = q.RequeueJob(
            queue_id=Q,
            job_id=job_id,
            job_kind="scan",
            claims=claims,
            reason="again",
            retry_at=retry_at,
            dispatch=entry.dispatch if exact and entry else None,
        )
        self.do(command)
        self.count = max(self.count, job_id.int)
        if command.dispatch is not None:
            assert self.do(command) == []

    @rule(data=st.data())
    def run_job(self, data: st.DataObject) -> None:
        self.do(q.RunJob(queue_id=Q, job_id=self.some(data)))

    @rule(
        data=st.data(),
        to=st.sampled_from(("first", "last", "before", "after")) | st.integers(0, 6),
        stale=st.integers(0, 5),
    )
    def move(self, data: st.DataObject, to: str | int, stale: int) -> None:
        if data.draw(st.integers(0, 4)) and len(self.state.waiting) > 1:
            job_id, other = data.draw(st.permutations([entry.job_id for entry in self.state.waiting]))[:2]
        else:
            job_id, other = self.some(data), self.some(data)
        where = {"before": q.Before(before=other), "after": q.After(after=other)}.get(str(to), to)
        expected = self.state.revision - 1 if stale == 0 else self.state.revision
        command = q.MoveJob(queue_id=Q, job_id=job_id, to=where, expected_revision=expected)
        rest = [entry for entry in self.state.waiting if entry.job_id != job_id]
        events = self.do(command)
        if stale == 0:
            assert events == []
        if events:
            (moved, *_) = events
            assert isinstance(moved, q.JobMoved)
            line = [entry.job_id for entry in rest]
            line.insert(moved.position - 1, job_id)
            if to == "before":
                assert (job_id, other) in pairwise(line)
            elif to == "after":
                assert (other, job_id) in pairwise(line)
            elif to == "first":
                assert line[0] == job_id
            elif to == "last":
                assert line[-1] == job_id
            else:
                assert line[int(to) - 1] == job_id

    @rule(data=st.data(), priority=st.sampled_from(q.PRIORITIES))
    def prioritise(self, data: st.DataObject, priority: q.Priority) -> None:
        self.do(q.SetPriority(queue_id=Q, job_id=self.some(data), priority=priority))

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self.do(q.RemoveJob(queue_id=Q, job_id=self.some(data)))

    @rule(data=st.data(), claims=CLAIMS)
    def replace(self, data: st.DataObject, claims: tuple[str, ...]) -> None:
        job_id = self.some(data)
        self.count += 1
        self.do(
            q.ReplaceJobInQueue(queue_id=Q, job_id=job_id, new_job_id=job(self.count), job_kind="scan", claims=claims)
        )

    @rule(
        mode=st.none() | st.sampled_from(("automatic", "manual")),
        order=st.none() | st.sampled_from(("fifo", "priority")),
        max_concurrent=st.none() | st.integers(1, 4),
    )
    def configure(self, mode: q.Mode | None, order: q.Order | None, max_concurrent: int | None) -> None:
        self.do(q.ConfigureQueue(queue_id=Q, mode=mode, order=order, max_concurrent=max_concurrent))

    @rule(
        command=st.sampled_from((q.StartQueue, q.ResumeQueue, q.StartQueue, q.ResumeQueue, q.StopQueue, q.AbortQueue))
    )
    def person(self, command: type[q.StartQueue]) -> None:
        self.do(command(queue_id=Q))

    @rule(running_jobs=st.sampled_from(("finish", "pause")))
    def pause(self, running_jobs: str) -> None:
        self.do(q.PauseQueue.model_validate({"queue_id": Q, "running_jobs": running_jobs}))

    @precondition(lambda self: len(self.state.waiting) > 3)
    @rule()
    def clear(self) -> None:
        self.do(q.ClearQueue(queue_id=Q))

    @invariant()
    def no_job_is_lost_or_doubled(self) -> None:
        waiting = Counter(entry.job_id for entry in self.state.waiting)
        running = Counter(entry.job_id for entry in self.state.running)
        assert all(count == 1 for count in (waiting + running).values())
        assert set(waiting) == {job_id for job_id, place in self.place.items() if place == "waiting"}
        assert set(running) == {job_id for job_id, place in self.place.items() if place == "running"}

    @invariant()
    def jobs_that_run_together_share_no_instrument(self) -> None:
        claimed = Counter(name for entry in self.state.running for name in entry.claims)
        assert all(count == 1 for count in claimed.values())

    @invariant()
    def the_state_fits_what_runs(self) -> None:
        if self.state.state in ("idle", "none"):
            assert not self.state.running
        if self.state.state == "stopping":
            assert self.state.running
        if self.state.state == "running":
            assert self.state.running or self.state.waiting
        if self.state.state == "idle" and self.state.waiting:
            assert self.state.stopped or self.state.mode == "manual"

    @invariant()
    def nothing_that_could_run_is_left_waiting(self) -> None:
        state = self.state
        if (state.state, state.mode) != ("running", "automatic") or len(state.running) >= state.max_concurrent:
            return
        for entry in state.waiting:
            assert entry.retry_at is not None or self.blocked(entry)

    @invariant()
    def every_edit_is_counted(self) -> None:
        assert self.state.revision == self.edits


QueueMachine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    # To explain a failure would take minutes; the shrunken steps say enough.
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)
test_a_queue_keeps_its_promises_whatever_is_asked_of_it = QueueMachine.TestCase


JOBS = st.lists(st.tuples(st.sampled_from(q.PRIORITIES), CLAIMS), min_size=1, max_size=12)


def drained(order: q.Order, jobs: list[tuple[q.Priority, tuple[str, ...]]], max_concurrent: int) -> list[int]:
    """The numbers of the jobs in the order of their dispatch, all added while the queue was paused."""
    commands: list[q.QueueCommand] = [
        q.CreateQueue(queue_id=Q, order=order, max_concurrent=max_concurrent),
        q.PauseQueue(queue_id=Q),
    ]
    for number, (priority, claims) in enumerate(jobs, start=1):
        commands.append(q.AddJob(queue_id=Q, job_id=job(number), job_kind="scan", priority=priority, claims=claims))
    commands.append(q.ResumeQueue(queue_id=Q))
    state, dispatched = q.Queue(), list[int]()
    while commands:
        for event in q.decide(state, commands.pop(0)):
            state = q.evolve(state, event)
            if isinstance(event, q.JobDispatched):
                dispatched.append(event.job_id.int)
        if not commands and state.running:
            commands.append(q.FinishJob(queue_id=Q, job_id=state.running[0].job_id, outcome="succeeded"))
    assert state.state == "idle" and not state.waiting and state.finished == len(jobs)
    return dispatched


@given(JOBS)
@settings(max_examples=60, deadline=None)
def test_a_serial_fifo_queue_runs_jobs_in_the_order_of_arrival(
    jobs: list[tuple[q.Priority, tuple[str, ...]]],
) -> None:
    assert drained("fifo", jobs, 1) == list(range(1, len(jobs) + 1))


@given(JOBS)
@settings(max_examples=60, deadline=None)
def test_a_serial_priority_queue_runs_by_priority_then_arrival(
    jobs: list[tuple[q.Priority, tuple[str, ...]]],
) -> None:
    expected = sorted(range(1, len(jobs) + 1), key=lambda number: (RANK[jobs[number - 1][0]], number))
    assert drained("priority", jobs, 1) == expected


@given(JOBS, st.integers(2, 4), st.sampled_from(("fifo", "priority")))
@settings(max_examples=60, deadline=None)
def test_a_parallel_queue_keeps_the_order_among_jobs_that_share_an_instrument(
    jobs: list[tuple[q.Priority, tuple[str, ...]]], max_concurrent: int, order: q.Order
) -> None:
    dispatched = drained(order, jobs, max_concurrent)
    assert sorted(dispatched) == list(range(1, len(jobs) + 1))
    for instrument in INSTRUMENTS:
        users = [number for number in dispatched if instrument in jobs[number - 1][1]]
        rank = (lambda n: n) if order == "fifo" else (lambda n: (RANK[jobs[n - 1][0]], n))
        assert users == sorted(users, key=rank)


@pytest.mark.parametrize("order", ["fifo", "priority"])
def test_a_job_that_needs_two_busy_instruments_gets_its_turn_though_others_keep_coming(order: q.Order) -> None:
    state = q.Queue()

    def do(command: q.QueueCommand) -> None:
        nonlocal state
        for event in q.decide(state, command):
            state = q.evolve(state, event)

    do(q.CreateQueue(queue_id=Q, order=order, max_concurrent=3))
    for number, claims in enumerate([("stage",), ("laser",), ("stage", "laser")], start=1):
        do(q.AddJob(queue_id=Q, job_id=job(number), job_kind="scan", claims=claims))
    for number in range(4, 40, 2):
        do(q.AddJob(queue_id=Q, job_id=job(number), job_kind="scan", claims=("stage",)))
        do(q.AddJob(queue_id=Q, job_id=job(number + 1), job_kind="scan", claims=("laser",)))
    assert {entry.job_id for entry in state.running} == {job(1), job(2)}
    do(q.FinishJob(queue_id=Q, job_id=job(1), outcome="succeeded"))
    assert {entry.job_id for entry in state.running} == {job(2)}
    do(q.FinishJob(queue_id=Q, job_id=job(2), outcome="succeeded"))
    assert {entry.job_id for entry in state.running} == {job(3)}
