from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import pytest
from pydantic import ValidationError

from domain import job as j
from domain.errors import AlreadyExists, NotFound, WrongState
from domain.events import COMMANDS, Event
from tests.unit.domain.given import given

JOB, OTHER = UUID(int=1), UUID(int=2)
AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SUBMIT = j.SubmitJob(
    job_id=JOB,
    queue_id="lab",
    job_kind="scan",
    spec={"plan": {"axis": "x", "points": [1, 2.5]}},
    claims=("stage", "meter"),
    max_attempts=2,
    backoff_s=10,
    title="grid",
)
SUBMITTED = j.JobSubmitted(
    job_id=JOB,
    queue_id="lab",
    job_kind="scan",
    spec={"plan": {"axis": "x", "points": [1, 2.5]}},
    claims=("stage", "meter"),
    max_attempts=2,
    backoff_s=10,
    title="grid",
)


def started(attempt: int, worker: str = "ann") -> j.JobStarted:
    return j.JobStarted(job_id=JOB, attempt=attempt, worker=worker, dispatch=attempt)


def start(worker: str = "ann", dispatch: int | None = None) -> j.StartJob:
    return j.StartJob(job_id=JOB, worker=worker, dispatch=dispatch)


def fail(attempt: int, kind: Literal["transient", "permanent"] = "transient", jitter: float = 1.0) -> j.FailJob:
    return j.FailJob(job_id=JOB, attempt=attempt, error="no answer", kind=kind, at=AT, jitter=jitter)


def failed(attempt: int, kind: Any = "transient", wait_s: float | None = None, error: str = "no answer") -> j.JobFailed:
    return j.JobFailed(
        job_id=JOB,
        attempt=attempt,
        error=error,
        kind=kind,
        final=wait_s is None,
        retry_at=None if wait_s is None else AT + timedelta(seconds=wait_s),
        dispatch=attempt,
    )


CANCEL = j.CancelJob(job_id=JOB, reason="wrong sample")
CANCELLED = j.JobCancelled(job_id=JOB, reason="wrong sample", was_running=False, attempt=0)
RETRY = j.RetryJob(job_id=JOB)
RETRIED = j.JobRetried(job_id=JOB)
SUCCEED = j.SucceedJob(job_id=JOB, attempt=1, result={"points": 9})
SUCCEEDED = j.JobSucceeded(job_id=JOB, attempt=1, result={"points": 9}, dispatch=1)
RELEASED = j.JobReleased(job_id=JOB, attempt=1, reason="killed", dispatch=1)
REPLACE = j.ReplaceJob(job_id=JOB, new_job_id=OTHER)
REPLACED = j.JobReplaced(job_id=JOB, new_job_id=OTHER)


def test_a_submitted_job_waits() -> None:
    job = given(j, j.Job()).when(SUBMIT).then(SUBMITTED)
    assert (job.state, job.attempt, job.last_attempt) == ("waiting", 0, 2)


def test_a_job_submitted_twice_is_one_job() -> None:
    given(j, j.Job(), SUBMITTED, started(1)).when(SUBMIT).then()
    other = SUBMIT.model_copy(update={"title": "line"})
    given(j, j.Job(), SUBMITTED).when(other).then_refused(AlreadyExists, match="choose a new id")


@pytest.mark.parametrize("command", [start(), SUCCEED, fail(1), CANCEL, RETRY, REPLACE])
def test_a_job_never_submitted_is_not_found(command: Any) -> None:
    given(j, j.Job()).when(command).then_refused(NotFound, match="submit it first")


def test_a_start_takes_the_next_attempt() -> None:
    given(j, j.Job(), SUBMITTED).when(start(dispatch=1)).then(started(1))
    given(j, j.Job(), SUBMITTED, started(1), RELEASED).when(start(dispatch=2)).then(started(2))


def test_a_start_repeated_by_the_same_worker_is_no_event() -> None:
    given(j, j.Job(), SUBMITTED, started(1)).when(start(dispatch=1)).then()


def test_a_start_is_refused_while_another_worker_runs_the_job() -> None:
    given(j, j.Job(), SUBMITTED, started(1)).when(start("bob", 1)).then_refused(
        WrongState, match="attempt 1 .* run by worker ann; release it"
    )


def test_a_work_message_that_comes_late_cannot_start_a_second_attempt() -> None:
    released = given(j, j.Job(), SUBMITTED, started(1), RELEASED)
    released.when(start("bob", 1)).then_refused(WrongState, match="dispatch 1 already")
    retrying = given(j, j.Job(), SUBMITTED, started(1), failed(1, wait_s=10))
    retrying.when(start("ann", 1)).then_refused(WrongState, match="dispatch 1 already")


@pytest.mark.parametrize("end", [(SUCCEEDED,), (failed(1, "permanent"),), (RELEASED, CANCELLED)])
def test_a_job_that_has_ended_cannot_start(end: tuple[Event, ...]) -> None:
    given(j, j.Job(), SUBMITTED, started(1), *end).when(start(dispatch=2)).then_refused(WrongState, match="retry it")


def test_progress_is_noted_once_for_each_change() -> None:
    note = j.NoteProgress(job_id=JOB, attempt=1, percent=50, note="row 3")
    progressed = j.JobProgressed(job_id=JOB, attempt=1, percent=50, note="row 3")
    given(j, j.Job(), SUBMITTED, started(1)).when(note).then(progressed)
    given(j, j.Job(), SUBMITTED, started(1), progressed).when(note).then()
    for percent in (-1, 101):
        with pytest.raises(ValidationError):
            j.NoteProgress(job_id=JOB, attempt=1, percent=percent)


def test_progress_begins_anew_with_each_attempt() -> None:
    progressed = j.JobProgressed(job_id=JOB, attempt=1, percent=50)
    job = given(j, j.Job(), SUBMITTED, started(1), progressed, RELEASED).when(start(dispatch=2)).then(started(2))
    assert job.percent == 0


def test_a_job_succeeds_once() -> None:
    job = given(j, j.Job(), SUBMITTED, started(1)).when(SUCCEED).then(SUCCEEDED)
    assert (job.state, job.percent, job.result) == ("succeeded", 100, {"points": 9})
    given(j, j.Job(), SUBMITTED, started(1), SUCCEEDED).when(SUCCEED).then()


@pytest.mark.parametrize("command", [SUCCEED, fail(1), j.NoteProgress(job_id=JOB, attempt=1, percent=1)])
def test_the_word_of_a_worker_whose_attempt_is_over_is_refused(command: Any) -> None:
    given(j, j.Job(), SUBMITTED, started(1), RELEASED).when(command).then_refused(WrongState, match="stop working")
    given(j, j.Job(), SUBMITTED, started(1), RELEASED, started(2)).when(command).then_refused(
        WrongState, match="at attempt 2 by now"
    )


def test_a_job_that_was_cancelled_under_its_worker_cannot_succeed() -> None:
    cancelled = j.JobCancelled(job_id=JOB, reason="", was_running=True, attempt=1, dispatch=1)
    given(j, j.Job(), SUBMITTED, started(1), cancelled).when(SUCCEED).then_refused(WrongState, match="cancelled")


def test_a_transient_failure_with_attempts_left_says_when_to_try_again() -> None:
    job = given(j, j.Job(), SUBMITTED, started(1)).when(fail(1)).then(failed(1, wait_s=10))
    assert job.state == "retrying"
    given(j, j.Job(), SUBMITTED, started(1)).when(fail(1, jitter=0)).then(failed(1, wait_s=5))
    given(j, j.Job(), SUBMITTED, started(1), failed(1, wait_s=10)).when(fail(1)).then()


def test_a_permanent_failure_is_final_at_the_first_attempt() -> None:
    job = given(j, j.Job(), SUBMITTED, started(1)).when(fail(1, "permanent")).then(failed(1, "permanent"))
    assert (job.state, job.reason) == ("failed", "no answer")


def test_a_transient_failure_of_the_last_attempt_is_final() -> None:
    given(j, j.Job(), SUBMITTED, started(1), RELEASED, started(2)).when(fail(2)).then(failed(2))


def test_the_wait_doubles_with_each_attempt_and_is_capped() -> None:
    assert [j.backoff_s(10, attempt, 1) for attempt in (1, 2, 3, 4)] == [10, 20, 40, 80]
    assert j.backoff_s(10, 50, 1) == j.BACKOFF_CAP_S
    assert j.backoff_s(10, 10_000, 0) == j.BACKOFF_CAP_S / 2


def test_a_job_whose_worker_died_waits_again() -> None:
    release = j.ReleaseJob(job_id=JOB, attempt=1, reason="killed")
    job = given(j, j.Job(), SUBMITTED, started(1)).when(release).then(RELEASED)
    assert (job.state, job.worker) == ("waiting", "")
    given(j, j.Job(), SUBMITTED, started(1), RELEASED).when(release).then()
    given(j, j.Job(), SUBMITTED, started(1), RELEASED, started(2)).when(release).then()


def test_a_job_that_kills_its_workers_fails_in_the_end() -> None:
    release = j.ReleaseJob(job_id=JOB, attempt=2, reason="killed")
    given(j, j.Job(), SUBMITTED, started(1), RELEASED, started(2)).when(release).then(
        failed(2, "worker_died", error="killed; no attempt is left")
    )


def test_a_retry_by_a_person_grants_as_many_attempts_again_and_begins_with_a_short_wait() -> None:
    history = (SUBMITTED, started(1), failed(1, wait_s=10), started(2), failed(2))
    job = given(j, j.Job(), *history).when(RETRY).then(RETRIED)
    assert (job.state, job.last_attempt) == ("waiting", 4)
    given(j, j.Job(), *history, RETRIED, started(3)).when(fail(3)).then(failed(3, wait_s=10))
    given(j, j.Job(), *history, RETRIED, started(3), failed(3, wait_s=10), started(4)).when(fail(4)).then(failed(4))


def test_only_a_failed_or_cancelled_job_can_be_retried() -> None:
    given(j, j.Job(), SUBMITTED, CANCELLED).when(RETRY).then(RETRIED)
    given(j, j.Job(), SUBMITTED).when(RETRY).then_refused(WrongState, match="is waiting; only")
    given(j, j.Job(), SUBMITTED, started(1)).when(RETRY).then_refused(WrongState, match="is running; only")
    given(j, j.Job(), SUBMITTED, started(1), SUCCEEDED).when(RETRY).then_refused(WrongState, match="is succeeded")


def test_a_waiting_or_retrying_job_is_cancelled_without_a_worker_to_tell() -> None:
    given(j, j.Job(), SUBMITTED).when(CANCEL).then(CANCELLED)
    given(j, j.Job(), SUBMITTED, started(1), failed(1, wait_s=10)).when(CANCEL).then(
        j.JobCancelled(job_id=JOB, reason="wrong sample", was_running=False, attempt=1)
    )
    given(j, j.Job(), SUBMITTED, CANCELLED).when(CANCEL).then()


def test_cancelling_a_running_job_names_the_attempt_to_be_stopped() -> None:
    given(j, j.Job(), SUBMITTED, started(1)).when(CANCEL).then(
        j.JobCancelled(job_id=JOB, reason="wrong sample", was_running=True, attempt=1, dispatch=1)
    )


def test_a_job_that_has_ended_cannot_be_cancelled() -> None:
    given(j, j.Job(), SUBMITTED, started(1), SUCCEEDED).when(CANCEL).then_refused(WrongState, match="has succeeded")
    given(j, j.Job(), SUBMITTED, started(1), failed(1, "permanent")).when(CANCEL).then_refused(
        WrongState, match="has failed"
    )


def test_a_replaced_job_never_runs() -> None:
    given(j, j.Job(), SUBMITTED).when(REPLACE).then(REPLACED)
    replaced = given(j, j.Job(), SUBMITTED, REPLACED)
    replaced.when(REPLACE).then()
    replaced.when(start()).then_refused(WrongState, match="cancelled")
    replaced.when(RETRY).then_refused(WrongState, match=f"replaced by job {OTHER}")
    given(j, j.Job(), SUBMITTED, started(1)).when(REPLACE).then_refused(WrongState, match="only a waiting job")


def test_only_retry_cancel_and_wake_come_from_outside() -> None:
    assert {name for name in COMMANDS if name.startswith("job.")} == {"job.retry", "job.cancel", "job.wake"}
    assert RETRY.aggregate_id == str(JOB)


@pytest.mark.parametrize("field", [{"max_attempts": 0}, {"backoff_s": -1}, {"job_kind": "Scan!"}, {"claims": ["a b"]}])
def test_a_job_that_makes_no_sense_is_invalid(field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        j.SubmitJob.model_validate(SUBMIT.model_dump() | field)
