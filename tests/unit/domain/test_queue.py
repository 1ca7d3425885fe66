from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import TypeAdapter, ValidationError

from domain import queue as q
from domain.errors import AlreadyExists, NotFound, OutOfLimits, Refused, WrongState
from domain.events import COMMANDS, Event
from tests.unit.domain.given import given

A, B, C, D = (UUID(int=number) for number in (1, 2, 3, 4))
SOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
CREATE = q.CreateQueue(queue_id="lab")


def add(job_id: UUID, *claims: str, priority: q.Priority = "normal", title: str = "") -> q.AddJob:
    return q.AddJob(queue_id="lab", job_id=job_id, job_kind="scan", priority=priority, claims=claims, title=title)


def finish(job_id: UUID, outcome: q.Outcome = "succeeded", dispatch: int | None = None) -> q.FinishJob:
    return q.FinishJob(queue_id="lab", job_id=job_id, outcome=outcome, dispatch=dispatch)


def requeue(job_id: UUID, **fields: Any) -> q.RequeueJob:
    return q.RequeueJob(queue_id="lab", job_id=job_id, job_kind="scan", reason="released", **fields)


def cmd(cls: type[Any], **fields: Any) -> Any:
    return cls(queue_id="lab", **fields)


PAUSE, RESUME, START = cmd(q.PauseQueue), cmd(q.ResumeQueue), cmd(q.StartQueue)
STOP, ABORT = cmd(q.StopQueue), cmd(q.AbortQueue)
PARALLEL = q.CreateQueue(queue_id="lab", max_concurrent=2)
MANUAL = q.CreateQueue(queue_id="lab", mode="manual", max_concurrent=2)


def history(*commands: q.QueueCommand) -> list[Event]:
    """The events that these commands lead to."""
    events: list[Event] = []
    for command in commands:
        events += given(q, q.Queue(), *events).when(command).events()
    return events


def after(*commands: q.QueueCommand) -> q.Queue:
    return q.aggregate.fold(q.Queue(), history(*commands))


def names(events: list[Event]) -> list[str]:
    return [event.NAME.removeprefix("queue.") for event in events]


def last(*commands: q.QueueCommand) -> list[str]:
    """What happens at the last of these commands."""
    before = len(history(*commands[:-1]))
    return names(history(*commands)[before:])


def dispatched(*commands: q.QueueCommand) -> list[UUID]:
    return [event.job_id for event in history(*commands) if isinstance(event, q.JobDispatched)]


def line(*commands: q.QueueCommand) -> list[UUID]:
    return [entry.job_id for entry in after(*commands).waiting]


def refused(kind: type[Refused], match: str, *commands: q.QueueCommand) -> None:
    given(q, q.Queue(), *history(*commands[:-1])).when(commands[-1]).then_refused(kind, match=match)


def test_a_job_added_to_an_idle_automatic_queue_is_dispatched_at_once() -> None:
    given(q, q.Queue(), *history(CREATE)).when(add(A, "stage")).then(
        q.JobAdded(
            queue_id="lab", revision=1, job_id=A, job_kind="scan", priority="normal", claims=("stage",), title=""
        ),
        q.QueueStarted(queue_id="lab", by_itself=True),
        q.JobDispatched(queue_id="lab", job_id=A, job_kind="scan", dispatch=1, claims=("stage",)),
    )


def test_the_end_of_a_job_dispatches_the_next_in_the_same_decision() -> None:
    given(q, q.Queue(), *history(CREATE, add(A), add(B))).when(finish(A)).then(
        q.JobFinished(queue_id="lab", job_id=A, job_kind="scan", outcome="succeeded", dispatch=1),
        q.JobDispatched(queue_id="lab", job_id=B, job_kind="scan", dispatch=2, claims=()),
    )


def test_the_end_of_the_last_job_makes_the_queue_idle_and_leaves_its_state_small() -> None:
    assert last(CREATE, add(A), finish(A)) == ["job_finished", "became_idle"]
    queue = after(CREATE, add(A), finish(A))
    assert (queue.state, queue.waiting, queue.running, queue.finished, queue.dispatches) == ("idle", (), (), 1, 1)


def test_a_job_added_twice_is_in_the_queue_once() -> None:
    given(q, q.Queue(), *history(CREATE, add(A), add(B))).when(add(A)).then()
    given(q, q.Queue(), *history(CREATE, add(A), add(B))).when(add(B)).then()


def test_a_queue_that_was_never_created_is_not_found() -> None:
    refused(NotFound, "no queue lab", add(A))
    refused(NotFound, "create it", START)


def test_creating_a_queue_again_is_harmless_with_the_same_settings_only() -> None:
    given(q, q.Queue(), *history(CREATE)).when(CREATE).then()
    refused(AlreadyExists, "configure it instead", CREATE, PARALLEL)


def test_a_parallel_queue_runs_jobs_together_up_to_its_limit() -> None:
    assert dispatched(PARALLEL, add(A), add(B), add(C)) == [A, B]
    assert dispatched(PARALLEL, add(A), add(B), add(C), finish(B)) == [A, B, C]


def test_jobs_that_share_an_instrument_never_run_together() -> None:
    assert dispatched(PARALLEL, add(A, "stage"), add(B, "stage", "meter")) == [A]
    assert dispatched(PARALLEL, add(A, "stage"), add(B, "stage", "meter"), finish(A)) == [A, B]


def test_a_blocked_job_does_not_hold_up_one_that_needs_other_instruments() -> None:
    assert dispatched(PARALLEL, add(A, "stage"), add(B, "stage"), add(C, "laser")) == [A, C]


def test_nobody_takes_the_instrument_that_a_blocked_job_before_him_waits_for() -> None:
    together = (PARALLEL, add(A, "stage"), add(B, "stage", "laser"), add(C, "laser"))
    assert dispatched(*together) == [A]
    assert dispatched(*together, finish(A)) == [A, B]


def test_a_priority_queue_serves_urgent_then_high_normal_low() -> None:
    create = q.CreateQueue(queue_id="lab", order="priority")
    jobs = [
        add(A, priority="low"),
        add(B, priority="normal"),
        add(C, priority="urgent"),
        add(D, priority="high"),
    ]
    ends = [finish(C), finish(D), finish(B), finish(A)]
    assert dispatched(create, PAUSE, *jobs, RESUME, *ends) == [C, D, B, A]


def test_a_fifo_queue_does_not_look_at_priority() -> None:
    assert dispatched(CREATE, PAUSE, add(A, priority="low"), add(B, priority="urgent"), RESUME) == [A]


def test_within_a_priority_the_order_made_by_hand_counts() -> None:
    create = q.CreateQueue(queue_id="lab", order="priority")
    to_front = cmd(q.MoveJob, job_id=C, to="first")
    assert dispatched(create, PAUSE, add(A, priority="high"), add(B), add(C), to_front, RESUME, finish(A)) == [A, C]


def test_a_new_priority_counts_from_the_next_dispatch_on() -> None:
    create = q.CreateQueue(queue_id="lab", order="priority")
    raised = cmd(q.SetPriority, job_id=C, priority="urgent")
    assert dispatched(create, add(A), add(B), add(C), raised, finish(A)) == [A, C]
    given(q, q.Queue(), *history(create, add(A), add(B), add(C), raised)).when(raised).then()
    refused(WrongState, "running and cannot be given", create, add(A), cmd(q.SetPriority, job_id=A, priority="low"))


def test_a_paused_queue_dispatches_nothing_and_takes_new_jobs() -> None:
    assert last(CREATE, add(A), add(B), PAUSE) == ["paused"]
    assert last(CREATE, add(A), add(B), PAUSE, finish(A)) == ["job_finished"]
    assert last(CREATE, PAUSE, add(A)) == ["job_added"]
    assert last(CREATE, PAUSE, add(A), RESUME) == ["resumed", "job_dispatched"]
    assert last(CREATE, PAUSE, RESUME) == ["resumed", "became_idle"]


def test_pausing_says_what_becomes_of_the_running_jobs_and_resuming_takes_it_back() -> None:
    scan = q.JobRef(job_id=A, job_kind="scan")
    pause_too = cmd(q.PauseQueue, running_jobs="pause")
    given(q, q.Queue(), *history(CREATE, add(A))).when(pause_too).then(
        q.QueuePaused(queue_id="lab", running_jobs="pause", running=(scan,))
    )
    given(q, q.Queue(), *history(CREATE, add(A), pause_too)).when(RESUME).then(
        q.QueueResumed(queue_id="lab", resume_jobs=True, running=(scan,))
    )
    given(q, q.Queue(), *history(CREATE, add(A), PAUSE)).when(RESUME).then(
        q.QueueResumed(queue_id="lab", resume_jobs=False, running=(scan,))
    )


def test_a_paused_queue_may_pause_its_running_jobs_later_but_not_unpause_them_by_pausing() -> None:
    pause_too = cmd(q.PauseQueue, running_jobs="pause")
    assert last(CREATE, add(A), PAUSE, pause_too) == ["paused"]
    assert last(CREATE, add(A), PAUSE, PAUSE) == []
    refused(WrongState, "resume it, then pause", CREATE, add(A), pause_too, PAUSE)


def test_a_stopped_queue_lets_its_jobs_finish_and_does_not_start_by_itself() -> None:
    stopping = (CREATE, add(A), add(B), STOP)
    assert last(*stopping) == ["stopping"]
    assert last(*stopping, add(C)) == ["job_added"]
    assert last(*stopping, finish(A)) == ["job_finished", "stopped"]
    assert last(*stopping, finish(A), add(C)) == ["job_added"]
    assert last(*stopping, finish(A), START) == ["started", "job_dispatched"]
    assert last(*stopping, STOP) == []


def test_stopping_a_queue_in_which_nothing_runs_takes_effect_at_once() -> None:
    assert last(CREATE, STOP) == ["stopped"]
    assert last(CREATE, STOP, STOP) == []
    assert last(CREATE, STOP, add(A)) == ["job_added"]
    assert last(CREATE, PAUSE, STOP) == ["stopping", "stopped"]


def test_starting_an_empty_queue_that_was_stopped_lets_the_next_job_start_it() -> None:
    assert last(CREATE, STOP, START) == ["started", "became_idle"]
    assert last(CREATE, STOP, START, add(A)) == ["job_added", "started", "job_dispatched"]


def test_aborting_names_the_jobs_that_are_to_be_aborted() -> None:
    running = (q.JobRef(job_id=A, job_kind="scan"),)
    given(q, q.Queue(), *history(CREATE, add(A), add(B))).when(ABORT).then(
        q.QueueStopping(queue_id="lab", running_jobs="abort", resume_jobs=False, running=running)
    )
    assert last(CREATE, add(A), STOP, ABORT) == ["stopping"]
    assert last(CREATE, add(A), ABORT, STOP) == []
    assert last(CREATE, add(A), ABORT, finish(A, "cancelled")) == ["job_finished", "stopped"]


def test_stopping_a_queue_whose_jobs_are_paused_says_that_they_must_be_resumed() -> None:
    paused = history(CREATE, add(A), cmd(q.PauseQueue, running_jobs="pause"))
    (stopping,) = given(q, q.Queue(), *paused).when(STOP).events()
    assert isinstance(stopping, q.QueueStopping) and stopping.resume_jobs
    (aborting,) = given(q, q.Queue(), *paused).when(ABORT).events()
    assert isinstance(aborting, q.QueueStopping) and not aborting.resume_jobs


def test_what_does_not_fit_the_state_is_refused_with_what_to_do_instead() -> None:
    refused(WrongState, "resume it instead", CREATE, PAUSE, START)
    refused(WrongState, "when its running jobs have ended", CREATE, add(A), STOP, START)
    refused(WrongState, "not paused; start it", CREATE, RESUME)
    refused(WrongState, "stopping and dispatches nothing", CREATE, add(A), STOP, PAUSE)
    refused(WrongState, "run one job", MANUAL, START)
    assert last(CREATE, add(A), START) == []
    assert last(CREATE, add(A), RESUME) == []


def test_a_manual_queue_runs_a_job_when_told_and_only_then() -> None:
    run_b = cmd(q.RunJob, job_id=B)
    assert dispatched(MANUAL, add(A), add(B)) == []
    assert last(MANUAL, add(A), add(B), run_b) == ["started", "job_dispatched"]
    assert dispatched(MANUAL, add(A), add(B), run_b) == [B]
    assert last(MANUAL, add(A), add(B), run_b, run_b) == []
    assert last(MANUAL, add(A), add(B), run_b, finish(B)) == ["job_finished", "became_idle"]


def test_running_a_job_by_hand_is_refused_when_it_cannot_be_now() -> None:
    run_a, run_b = cmd(q.RunJob, job_id=A), cmd(q.RunJob, job_id=B)
    refused(WrongState, "make the queue manual", CREATE, add(A), add(B), run_b)
    refused(
        WrongState,
        r'stage is in use by "grid" \(job .*1\)',
        MANUAL,
        add(A, "stage", title="grid"),
        add(B, "stage"),
        run_a,
        run_b,
    )
    one = q.CreateQueue(queue_id="lab", mode="manual")
    refused(WrongState, "1 of at most 1", one, add(A), add(B), run_a, run_b)
    refused(WrongState, "resume it first", MANUAL, add(A), PAUSE, run_a)
    refused(NotFound, "no job", MANUAL, run_a)


def test_a_queue_made_automatic_starts_and_one_made_manual_dispatches_no_more() -> None:
    assert last(MANUAL, add(A), cmd(q.ConfigureQueue, mode="automatic")) == ["configured", "started", "job_dispatched"]
    assert last(CREATE, add(A), add(B), cmd(q.ConfigureQueue, mode="manual"), finish(A)) == [
        "job_finished",
        "became_idle",
    ]


def test_a_higher_limit_dispatches_at_once_and_a_lower_one_ends_nothing() -> None:
    wider, narrower = cmd(q.ConfigureQueue, max_concurrent=3), cmd(q.ConfigureQueue, max_concurrent=1)
    jobs = (add(A), add(B), add(C))
    assert last(CREATE, *jobs, wider) == ["configured", "job_dispatched", "job_dispatched"]
    assert last(CREATE, *jobs, wider, narrower) == ["configured"]
    assert last(CREATE, *jobs, wider, add(D), narrower, finish(A)) == ["job_finished"]
    assert last(CREATE, *jobs, wider, add(D), narrower, finish(A), finish(B), finish(C)) == [
        "job_finished",
        "job_dispatched",
    ]


def test_configuring_changes_only_what_is_given() -> None:
    given(q, q.Queue(), *history(PARALLEL)).when(cmd(q.ConfigureQueue, title="Lab 3")).then(
        q.QueueConfigured(queue_id="lab", revision=1, mode="automatic", order="fifo", max_concurrent=2, title="Lab 3")
    )
    given(q, q.Queue(), *history(PARALLEL)).when(cmd(q.ConfigureQueue, max_concurrent=2)).then()


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("first", [D, B, C]),
        (1, [D, B, C]),
        (2, [B, D, C]),
        ({"before": C}, [B, D, C]),
        ({"after": B}, [B, D, C]),
        ({"before": B}, [D, B, C]),
    ],
)
def test_a_waiting_job_moves_to_its_new_place(to: Any, expected: list[UUID]) -> None:
    move = TypeAdapter(q.MoveJob).validate_python({"queue_id": "lab", "job_id": D, "to": to})
    assert line(CREATE, add(A), add(B), add(C), add(D), move) == expected


@pytest.mark.parametrize(("to", "expected"), [("last", [C, D, B]), (3, [C, D, B]), ({"after": C}, [C, B, D])])
def test_a_waiting_job_moves_back(to: Any, expected: list[UUID]) -> None:
    move = q.MoveJob.model_validate({"queue_id": "lab", "job_id": B, "to": to})
    assert line(CREATE, add(A), add(B), add(C), add(D), move) == expected


def test_a_move_to_where_the_job_stands_is_no_event() -> None:
    for to in ("last", 2, q.After(after=B)):
        assert last(CREATE, add(A), add(B), add(C), cmd(q.MoveJob, job_id=C, to=to)) == []


def test_a_move_that_makes_no_sense_is_refused() -> None:
    jobs = (CREATE, add(A), add(B), add(C))
    refused(OutOfLimits, "places 1 to 2", *jobs, cmd(q.MoveJob, job_id=C, to=3))
    refused(OutOfLimits, "places 1 to 2", *jobs, cmd(q.MoveJob, job_id=C, to=0))
    refused(Refused, "itself", *jobs, cmd(q.MoveJob, job_id=C, to=q.Before(before=C)))
    refused(WrongState, "running and cannot be moved", *jobs, cmd(q.MoveJob, job_id=A, to="last"))
    refused(WrongState, "running", *jobs, cmd(q.MoveJob, job_id=C, to=q.Before(before=A)))
    refused(NotFound, "never added", *jobs, cmd(q.MoveJob, job_id=D, to="last"))
    with pytest.raises(ValidationError):
        cmd(q.MoveJob, job_id=C, to="up")


def test_only_a_waiting_job_can_be_removed() -> None:
    assert line(CREATE, add(A), add(B), add(C), cmd(q.RemoveJob, job_id=B)) == [C]
    refused(WrongState, "running and cannot be removed", CREATE, add(A), cmd(q.RemoveJob, job_id=A))
    refused(NotFound, "has ended, or was never", CREATE, add(A), finish(A), cmd(q.RemoveJob, job_id=A))


def test_removing_the_job_that_held_others_up_dispatches_them() -> None:
    jobs = (PARALLEL, add(A, "stage"), add(B, "stage", "laser"), add(C, "laser"))
    assert last(*jobs, cmd(q.RemoveJob, job_id=B)) == ["job_removed", "job_dispatched"]


def test_a_replaced_job_gives_its_place_and_priority_to_the_new_one() -> None:
    replace = cmd(q.ReplaceJobInQueue, job_id=B, new_job_id=D, job_kind="extraction", claims=("camera",))
    jobs = (CREATE, add(A), add(B, priority="high"), add(C))
    assert line(*jobs, replace) == [D, C]
    entry = after(*jobs, replace).waiting[0]
    assert (entry.priority, entry.job_kind, entry.claims) == ("high", "extraction", ("camera",))
    refused(WrongState, "running", *jobs, cmd(q.ReplaceJobInQueue, job_id=A, new_job_id=D, job_kind="scan"))
    refused(AlreadyExists, "choose a new id", *jobs, cmd(q.ReplaceJobInQueue, job_id=B, new_job_id=A, job_kind="scan"))


def test_clearing_removes_what_waits_and_leaves_what_runs() -> None:
    clear = cmd(q.ClearQueue)
    given(q, q.Queue(), *history(CREATE, add(A), add(B), add(C))).when(clear).then(
        q.QueueCleared(queue_id="lab", revision=4, job_ids=(B, C))
    )
    assert [entry.job_id for entry in after(CREATE, add(A), add(B), add(C), clear).running] == [A]
    assert last(CREATE, add(A), clear) == []


@pytest.mark.parametrize(
    "edit",
    [
        cmd(q.ConfigureQueue, max_concurrent=2, expected_revision=2),
        cmd(q.MoveJob, job_id=C, to="first", expected_revision=2),
        cmd(q.SetPriority, job_id=C, priority="high", expected_revision=2),
        cmd(q.RemoveJob, job_id=C, expected_revision=2),
        cmd(q.ReplaceJobInQueue, job_id=C, new_job_id=D, job_kind="scan", expected_revision=2),
        cmd(q.ClearQueue, expected_revision=2),
    ],
    ids=lambda edit: edit.NAME,
)
def test_an_edit_of_a_queue_that_has_changed_since_is_refused_with_both_numbers(edit: Any) -> None:
    jobs = (CREATE, add(A), add(B), add(C))
    refused(WrongState, "revision 2, it is at 3", *jobs, edit)
    assert last(*jobs, edit.model_copy(update={"expected_revision": 3}))
    assert last(*jobs, edit.model_copy(update={"expected_revision": None}))


def test_dispatches_and_ends_are_no_edits() -> None:
    assert after(CREATE, add(A), add(B)).revision == 2
    assert after(CREATE, add(A), add(B), finish(A), PAUSE, RESUME).revision == 2


def test_a_released_job_goes_to_the_front_and_runs_again_under_a_new_dispatch() -> None:
    assert last(CREATE, add(A), add(B), requeue(A, dispatch=1)) == ["job_requeued", "job_dispatched"]
    queue = after(CREATE, add(A), add(B), requeue(A, dispatch=1))
    assert [(entry.job_id, entry.dispatch) for entry in queue.running] == [(A, 2)]
    assert [entry.job_id for entry in queue.waiting] == [B]


def test_a_job_in_the_queue_comes_back_with_the_priority_it_was_given_there() -> None:
    create = q.CreateQueue(queue_id="lab", order="priority")
    raised = cmd(q.SetPriority, job_id=B, priority="urgent")
    queue = after(create, add(A), add(B), raised, finish(A), PAUSE, requeue(B))
    assert queue.waiting[0].priority == "urgent"


def test_a_job_that_has_left_the_queue_comes_back_at_the_end() -> None:
    assert line(CREATE, add(A), finish(A, "failed"), add(B), add(C), requeue(A)) == [C, A]
    assert last(CREATE, add(A), finish(A), requeue(A)) == ["job_requeued", "started", "job_dispatched"]


def test_a_job_that_waits_for_its_retry_lets_others_pass_and_holds_no_instrument() -> None:
    jobs = (CREATE, add(A, "stage"), add(B, "stage"))
    assert last(*jobs, requeue(A, retry_at=SOON, dispatch=1)) == ["job_requeued", "job_dispatched"]
    assert dispatched(*jobs, requeue(A, retry_at=SOON, dispatch=1)) == [A, B]
    waiting = (*jobs, requeue(A, retry_at=SOON, dispatch=1), finish(B))
    assert last(*waiting) == ["job_finished"]
    assert after(*waiting).state == "running"
    assert last(*waiting, requeue(A)) == ["job_requeued", "job_dispatched"]


def test_a_late_word_about_an_earlier_run_changes_nothing() -> None:
    again = (CREATE, add(A), add(B), requeue(A, dispatch=1))
    assert last(*again, requeue(A, dispatch=1)) == []
    assert last(*again, finish(A, dispatch=1)) == []
    assert last(*again, finish(A, dispatch=2)) == ["job_finished", "job_dispatched"]
    assert last(*again, finish(A, dispatch=2), requeue(A, dispatch=2)) == []
    waiting = (*again, PAUSE, requeue(A, dispatch=2))
    assert last(*waiting, finish(A, "failed", dispatch=2)) == []
    assert last(*waiting, finish(A, "failed")) == []
    assert last(*waiting, requeue(A, retry_at=SOON)) == []


def test_a_job_that_is_cancelled_while_it_waits_leaves_the_queue() -> None:
    given(q, q.Queue(), *history(CREATE, add(A), add(B))).when(finish(B, "cancelled")).then(
        q.JobFinished(queue_id="lab", job_id=B, job_kind="scan", outcome="cancelled", dispatch=None)
    )


def test_the_end_of_a_job_that_the_queue_does_not_have_means_nothing() -> None:
    assert last(CREATE, finish(A)) == []
    assert last(CREATE, add(A), finish(A), finish(A)) == []


def test_the_commands_from_outside_have_names_and_the_others_have_none() -> None:
    assert {name for name in COMMANDS if name.startswith("queue.")} == {
        f"queue.{verb}"
        for verb in (
            "create configure start pause resume stop abort move set_priority remove replace run_job clear".split()
        )
    }
    assert START.aggregate_id == "lab"
