"""Whatever workers, watchdogs and people say about a job, in any order: attempts are counted, bounded and end once."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from domain import job as module
from domain.errors import Refused
from domain.job import (
    BACKOFF_CAP_S,
    CancelJob,
    FailJob,
    Job,
    JobCancelled,
    JobFailed,
    JobProgressed,
    JobReleased,
    JobReplaced,
    JobRetried,
    JobStarted,
    JobSubmitted,
    JobSucceeded,
    NoteProgress,
    ReleaseJob,
    ReplaceJob,
    RetryJob,
    StartJob,
    SubmitJob,
    SucceedJob,
    backoff_s,
)
from tests.unit.domain.given import snapshot_survives, storage_survives

JOB, OTHER = UUID(int=1), UUID(int=2)
AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
IT = st.just(JOB)
ATTEMPTS = st.integers(1, 6)
STARTS = st.builds(StartJob, job_id=IT, worker=st.sampled_from(("ann", "bob")), dispatch=st.none() | st.integers(1, 9))
#: A number that may be stale; 0 stands for the attempt that is the newest when the command is given.
MAYBE_NOW = st.sampled_from((0, 0, 0, 0, 0, 0, 1, 2))
FAILS = st.builds(
    FailJob,
    job_id=IT,
    attempt=MAYBE_NOW,
    error=st.just("no answer"),
    kind=st.sampled_from(("transient", "transient", "transient", "permanent")),
    at=st.just(AT),
    jitter=st.floats(0, 1),
)
RELEASES = st.builds(ReleaseJob, job_id=IT, attempt=MAYBE_NOW, reason=st.just("killed"))
#: How often each comes in twenty. One that was replaced or has ended says no to nearly everything, so that is rare;
#: `one_of` would take each but once, however often it is named.
OFTEN: list[tuple[int, st.SearchStrategy[module.JobCommand]]] = [
    (7, STARTS),
    (4, FAILS),
    (4, RELEASES),
    (2, st.builds(RetryJob, job_id=IT)),
    (1, st.builds(SucceedJob, job_id=IT, attempt=MAYBE_NOW)),
    (1, st.builds(NoteProgress, job_id=IT, attempt=MAYBE_NOW, percent=st.floats(0, 100))),
    (1, st.builds(CancelJob, job_id=IT) | st.builds(ReplaceJob, job_id=IT, new_job_id=st.just(OTHER))),
]
COMMANDS = st.lists(
    st.sampled_from([which for which, (times, _) in enumerate(OFTEN) for _ in range(times)]).flatmap(
        lambda which: OFTEN[which][1]
    ),
    min_size=8,
    max_size=50,
)
SUBMITS = st.builds(
    SubmitJob,
    job_id=IT,
    queue_id=st.just("lab"),
    job_kind=st.just("scan"),
    spec=st.just({"plan": [1, 2.5, None, {"axis": "x"}]}),
    max_attempts=st.integers(1, 4),
    backoff_s=st.floats(0, BACKOFF_CAP_S),
)


@given(SUBMITS, COMMANDS)
@settings(max_examples=200, deadline=None)
def test_attempts_are_numbered_bounded_and_each_ends_once(submit: SubmitJob, commands: list[module.JobCommand]) -> None:
    job, retries, started, granted_from, running, worker, used = Job(), 0, 0, 0, None, "", set[int]()
    for command in [submit, *commands]:
        if getattr(command, "attempt", None) == 0:
            command = command.model_copy(update={"attempt": max(1, job.attempt)})
        rival = isinstance(command, StartJob) and running is not None and command.worker != worker
        try:
            events = module.decide(job, command)
        except Refused:
            continue
        assert not rival, "another worker may not take a running attempt"
        for event in events:
            match event:
                case JobSubmitted():
                    assert command is submit
                case JobRetried():
                    assert running is None
                    retries += 1
                    granted_from = started
                case JobStarted():
                    assert running is None, "started while another attempt runs"
                    assert event.attempt == started + 1
                    assert event.attempt <= submit.max_attempts * (1 + retries)
                    if event.dispatch is not None:
                        assert event.dispatch > max(used, default=0), "one dispatch, one attempt"
                        used.add(event.dispatch)
                    started, running, worker = event.attempt, event.attempt, event.worker
                case JobProgressed():
                    assert event.attempt == running
                case JobSucceeded() | JobFailed() | JobReleased():
                    assert event.attempt == running
                    running = None
                case JobCancelled():
                    assert event.was_running == (running is not None)
                    running = None
                case JobReplaced():
                    assert running is None
            if isinstance(event, JobFailed):
                assert event.final == (event.retry_at is None)
                if event.retry_at is not None:
                    longest_s = submit.backoff_s * 2 ** (started - granted_from - 1)
                    assert event.retry_at <= AT + timedelta(seconds=longest_s + 1e-6)
                    assert event.kind == "transient"
                    assert AT <= event.retry_at <= AT + timedelta(seconds=BACKOFF_CAP_S)
            storage_survives(event)
            job = module.evolve(job, event)
            snapshot_survives(job)
        assert (job.state == "running") == (running is not None)
        if isinstance(command, StartJob | SucceedJob | FailJob | ReleaseJob | CancelJob | ReplaceJob):
            assert module.decide(job, command) == [], "the same word twice changes nothing"


@given(st.integers(1, 10_000), st.floats(0, BACKOFF_CAP_S), st.floats(0, 1))
def test_the_wait_grows_with_each_attempt_up_to_the_cap(attempt: int, base_s: float, jitter: float) -> None:
    wait_s = backoff_s(base_s, attempt, jitter)
    assert 0 <= wait_s <= backoff_s(base_s, attempt + 1, jitter) <= BACKOFF_CAP_S
    assert backoff_s(base_s, attempt, 0) == backoff_s(base_s, attempt, 1) / 2
