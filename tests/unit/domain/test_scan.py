import math
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from domain import scan
from domain.errors import AlreadyExists, NotFound, Refused, WrongState
from domain.events import COMMANDS, Command, Event
from domain.plan import Plan
from domain.scan import (
    AbortScan,
    CompleteScan,
    ContinueScan,
    FailScan,
    FrameLimits,
    HoldScan,
    InterruptScan,
    NoteAborted,
    NotePaused,
    NoteResumed,
    PauseScan,
    RequestScan,
    RestartScan,
    ResumeScan,
    Scan,
    ScanAborted,
    ScanAbortRequested,
    ScanCompleted,
    ScanContinued,
    ScanFailed,
    ScanHeld,
    ScanInterrupted,
    ScanPaused,
    ScanPauseRequested,
    ScanRequested,
    ScanRestarted,
    ScanResumed,
    ScanResumeRequested,
    ScanStarted,
    StartScan,
)
from tests.unit.domain.given import Given
from tests.unit.domain.given import given as given_

ID = UUID("01932b5c-7f3e-7000-8000-000000000001")
PLAN = Plan.model_validate(
    {
        "nodes": [
            {
                "kind": "move",
                "instrument": "stage",
                "channel": "x",
                "positions": {"kind": "linear", "start": 0, "stop": 1, "num": 10},
                "children": [{"kind": "measure", "instrument": "dmm", "channels": ["voltage"]}],
            }
        ]
    }
)
HERE: dict[str, Any] = {"station_id": "s1", "instance": "run-1"}
THERE: dict[str, Any] = {"station_id": "s2", "instance": "run-2"}

REQUESTED = ScanRequested(scan_id=ID, plan=PLAN, total_points=10, instruments=("dmm", "stage"))
STARTED = ScanStarted(scan_id=ID, attempt=1, total_points=10, **HERE)
PAUSE_REQUESTED = ScanPauseRequested(scan_id=ID, attempt=1, station_id="s1")
PAUSED = ScanPaused(scan_id=ID, attempt=1, point=4)
RESUME_REQUESTED = ScanResumeRequested(scan_id=ID, attempt=1, station_id="s1")
RESUMED = ScanResumed(scan_id=ID, attempt=1)
ABORT_REQUESTED = ScanAbortRequested(scan_id=ID, attempt=1, station_id="s1", reason="smoke")
ABORTED = ScanAborted(scan_id=ID, attempt=1, point=4, reason="smoke")
COMPLETED = ScanCompleted(scan_id=ID, attempt=1, points=10)
FAILED = ScanFailed(scan_id=ID, attempt=1, point=4, error="gone", reason="no stage")
INTERRUPTED = ScanInterrupted(scan_id=ID, attempt=1, on_crash="resume", reason="no beat", **HERE)
HELD = ScanHeld(scan_id=ID, attempt=1, reason="")
CONTINUED = ScanContinued(scan_id=ID, attempt=2, from_point=5, **THERE)

PAUSE, RESUME, ABORT, RESTART = (
    PauseScan(scan_id=ID),
    ResumeScan(scan_id=ID),
    AbortScan(scan_id=ID, reason="smoke"),
    RestartScan(scan_id=ID),
)
START, START_THERE = StartScan(scan_id=ID, **HERE), StartScan(scan_id=ID, **THERE)
NOTE_PAUSED, NOTE_RESUMED = NotePaused(scan_id=ID, point=4), NoteResumed(scan_id=ID)
NOTE_ABORTED = NoteAborted(scan_id=ID, point=4)
COMPLETE = CompleteScan(scan_id=ID, points=10)
FAIL = FailScan(scan_id=ID, point=4, error="gone", reason="no stage")
INTERRUPT = InterruptScan(scan_id=ID, reason="no beat")
CONTINUE = ContinueScan(scan_id=ID, from_point=5, **THERE)
HOLD = HoldScan(scan_id=ID)


def given(*events: Event) -> Given:
    return given_(scan, Scan(), *events)


def on_crash(policy: Any) -> ScanRequested:
    return REQUESTED.model_copy(update={"on_crash": policy})


RUNNING = (REQUESTED, STARTED)
PAUSED_SCAN = (*RUNNING, PAUSE_REQUESTED, PAUSED)
CRASHED = (*RUNNING, INTERRUPTED)


# ----------------------------------------------------------------------------------------------------------- the plain life


def test_a_requested_scan_is_queued_and_says_how_many_points_and_which_instruments_it_has() -> None:
    state = given().when(RequestScan(scan_id=ID, plan=PLAN)).then(REQUESTED)
    assert (state.status, state.total_points, state.instruments, state.attempt) == ("queued", 10, ("dmm", "stage"), 1)


def test_what_was_asked_for_is_all_in_the_event() -> None:
    more: dict[str, Any] = {
        "sample_id": "wafer-7",
        "queue_id": "night",
        "priority": "urgent",
        "on_crash": "hold",
        "frame": FrameLimits(points=1),
        "title": "IV",
        "metadata": {"operator": "Ada", "bias_v": 1.5, "run": 3, "dry": True},
    }
    state = given().when(RequestScan(scan_id=ID, plan=PLAN, **more)).then(REQUESTED.model_copy(update=more))
    assert {name: getattr(state, name) for name in more} == more


def test_a_scan_runs_and_completes() -> None:
    given(REQUESTED).when(START).then(STARTED)
    assert given(*RUNNING).when(COMPLETE).then(COMPLETED).status == "completed"


def test_a_scan_with_points_missing_cannot_complete() -> None:
    given(*RUNNING).when(CompleteScan(scan_id=ID, points=9)).then_refused(Refused, match="9 of 10 points")


def test_a_running_scan_is_paused_and_resumed_by_the_station_when_people_ask() -> None:
    given(*RUNNING).when(PAUSE).then(PAUSE_REQUESTED)
    state = given(*RUNNING, PAUSE_REQUESTED).when(NOTE_PAUSED).then(PAUSED)
    assert (state.status, state.wish) == ("paused", None)
    given(*PAUSED_SCAN).when(RESUME).then(RESUME_REQUESTED)
    state = given(*PAUSED_SCAN, RESUME_REQUESTED).when(NOTE_RESUMED).then(RESUMED)
    assert (state.status, state.wish, state.attempt) == ("running", None, 1)


@pytest.mark.parametrize("so_far", [RUNNING, PAUSED_SCAN, (*RUNNING, PAUSE_REQUESTED)])
def test_a_scan_on_a_station_is_aborted_by_the_station(so_far: tuple[Event, ...]) -> None:
    given(*so_far).when(ABORT).then(ABORT_REQUESTED)
    state = given(*so_far, ABORT_REQUESTED).when(NOTE_ABORTED).then(ABORTED)
    assert (state.status, state.station_id, state.wish) == ("aborted", None, None)


@pytest.mark.parametrize(
    ("so_far", "point"),
    [
        ((REQUESTED,), 0),
        (CRASHED, None),
        ((*CRASHED, HELD), None),
        ((*PAUSED_SCAN, INTERRUPTED), None),
    ],
)
def test_a_scan_without_a_station_is_aborted_at_once(so_far: tuple[Event, ...], point: int | None) -> None:
    given(*so_far).when(ABORT).then(ScanAborted(scan_id=ID, attempt=1, point=point, reason="smoke"))


@pytest.mark.parametrize("so_far", [(REQUESTED,), RUNNING, PAUSED_SCAN, CRASHED])
def test_a_scan_can_fail_until_it_is_over(so_far: tuple[Event, ...]) -> None:
    assert given(*so_far).when(FAIL).then(FAILED).status == "failed"


@pytest.mark.parametrize("end", [COMPLETED, ABORTED, FAILED])
def test_a_scan_that_is_over_can_be_restarted_from_the_first_point(end: Event) -> None:
    restarted = ScanRestarted(
        scan_id=ID, attempt=2, total_points=10, instruments=("dmm", "stage"), queue_id="main", priority="normal"
    )
    state = given(*RUNNING, end).when(RESTART).then(restarted)
    assert (state.status, state.attempt, state.station_id) == ("queued", 2, None)
    again = ScanStarted(scan_id=ID, attempt=2, total_points=10, **THERE)
    given(*RUNNING, end, restarted).when(StartScan(scan_id=ID, attempt=2, **THERE)).then(again)


def test_a_scan_remembers_with_which_attempt_it_was_queued_while_a_crash_raises_the_attempt() -> None:
    restarted = ScanRestarted(
        scan_id=ID, attempt=2, total_points=10, instruments=("dmm", "stage"), queue_id="main", priority="normal"
    )
    state = given(*RUNNING, FAILED, restarted).state
    assert (state.attempt, state.queued_attempt) == (2, 2)
    started = ScanStarted(scan_id=ID, attempt=2, total_points=10, **HERE)
    interrupted = INTERRUPTED.model_copy(update={"attempt": 2})
    so_far = (*RUNNING, FAILED, restarted, started, interrupted)
    state = given(*so_far).when(CONTINUE).then(CONTINUED.model_copy(update={"attempt": 3}))
    assert (state.attempt, state.queued_attempt) == (3, 2)


# --------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("so_far", "command", "words"),
    [
        ((REQUESTED,), PAUSE, "cannot pause scan .*: it is queued; it can be started by its queue, or aborted"),
        ((REQUESTED,), RESUME, "is queued"),
        ((REQUESTED,), RESTART, "cannot restart scan .*: it is queued"),
        ((REQUESTED,), COMPLETE, "is queued"),
        ((REQUESTED,), NOTE_PAUSED, "is queued"),
        ((REQUESTED,), CONTINUE, "is queued"),
        ((REQUESTED,), HOLD, "is queued"),
        (RUNNING, RESUME, "is running; it can be paused or aborted"),
        (RUNNING, RESTART, "is running; .*; to restart it, abort it first"),
        (RUNNING, NOTE_PAUSED, "nobody has asked to pause"),
        (RUNNING, NOTE_ABORTED, "nobody has asked to abort"),
        (RUNNING, START_THERE, "is on station s1 already"),
        (RUNNING, CONTINUE, "cannot continue scan .*: it is running"),
        (RUNNING, HOLD, "cannot hold scan .*: it is running"),
        (PAUSED_SCAN, PAUSE, "is paused; it can be resumed or aborted"),
        (PAUSED_SCAN, COMPLETE, "is paused"),
        (PAUSED_SCAN, NOTE_RESUMED, "nobody has asked to resume"),
        ((*RUNNING, ABORT_REQUESTED), PAUSE, "is being aborted"),
        ((*RUNNING, ABORT_REQUESTED), RESUME, "is being aborted"),
        (CRASHED, NOTE_PAUSED, "was interrupted and is about to be continued; it can be paused or aborted"),
        (CRASHED, NOTE_RESUMED, "was interrupted"),
        (CRASHED, COMPLETE, "was interrupted"),
        (CRASHED, START, "was interrupted"),
        ((*CRASHED, HELD), CONTINUE, "is held for a person after a crash; it can be resumed or aborted"),
        ((*CRASHED, HELD), PAUSE, "is held for a person"),
        ((*PAUSED_SCAN, INTERRUPTED), CONTINUE, "is paused, and its station is gone; it can be resumed or aborted"),
        ((*RUNNING, ABORTED), PAUSE, "is aborted; it can be restarted"),
        ((*RUNNING, ABORTED), ABORT, "is aborted; it can be restarted"),
        ((*RUNNING, COMPLETED), RESUME, "is completed; it can be restarted"),
        ((*RUNNING, COMPLETED), FAIL, "is completed"),
        ((*RUNNING, COMPLETED), NOTE_ABORTED, "is completed"),
        ((*RUNNING, FAILED), START, "is failed; it can be restarted"),
    ],
)
def test_what_is_not_possible_now_is_refused_with_what_is(
    so_far: tuple[Event, ...], command: Command, words: str
) -> None:
    given(*so_far).when(command).then_refused(WrongState, match=words)


@pytest.mark.parametrize("command", [PAUSE, RESUME, ABORT, RESTART, START, INTERRUPT, COMPLETE])
def test_a_scan_that_was_never_requested_is_not_found(command: Command) -> None:
    given().when(command).then_refused(NotFound, match="there is no scan .*; request it first")


def test_a_scan_is_requested_once() -> None:
    given(*RUNNING).when(RequestScan(scan_id=ID, plan=PLAN)).then_refused(AlreadyExists, match="is running")


@pytest.mark.parametrize("command", [NotePaused(scan_id=ID, point=11), FailScan(scan_id=ID, point=11, reason="")])
def test_a_point_that_the_plan_does_not_have_is_refused(command: Command) -> None:
    given(*RUNNING, PAUSE_REQUESTED).when(command).then_refused(Refused, match="has 10 points")


@pytest.mark.parametrize("command", [COMPLETE, FAIL, NOTE_PAUSED, NOTE_RESUMED, NOTE_ABORTED, HOLD, START])
def test_a_station_that_speaks_of_an_earlier_attempt_is_refused(command: Command) -> None:
    late = command.model_copy(update={"attempt": 1})
    given(*CRASHED, CONTINUED).when(late).then_refused(WrongState, match="attempt 1 of scan .*: it is in attempt 2")


# --------------------------------------------------------------------------------------------------------- said twice, late


@pytest.mark.parametrize(
    ("so_far", "command"),
    [
        (RUNNING, START),
        ((*RUNNING, PAUSE_REQUESTED), PAUSE),
        (PAUSED_SCAN, NOTE_PAUSED),
        ((*PAUSED_SCAN, RESUME_REQUESTED), RESUME),
        ((*PAUSED_SCAN, RESUME_REQUESTED), NOTE_PAUSED),
        ((*PAUSED_SCAN, RESUME_REQUESTED, RESUMED), NOTE_RESUMED),
        ((*RUNNING, ABORT_REQUESTED), ABORT),
        ((*RUNNING, ABORT_REQUESTED, ABORTED), NOTE_ABORTED),
        ((*RUNNING, COMPLETED), COMPLETE),
        ((*RUNNING, FAILED), FAIL),
        (CRASHED, INTERRUPT),
        ((*CRASHED, CONTINUED), CONTINUE),
        ((*CRASHED, HELD), HOLD),
        ((*PAUSED_SCAN, INTERRUPTED), HOLD),
        ((REQUESTED,), INTERRUPT),
        ((*RUNNING, COMPLETED), INTERRUPT),
    ],
)
def test_what_is_noted_already_is_noted_once(so_far: tuple[Event, ...], command: Command) -> None:
    given(*so_far).when(command).then()


def test_a_late_watchdog_leaves_a_scan_alone_that_goes_on_elsewhere() -> None:
    so_far = (*CRASHED, CONTINUED)
    given(*so_far).when(InterruptScan(scan_id=ID, reason="", instance="run-1")).then()
    given(*so_far).when(InterruptScan(scan_id=ID, reason="", attempt=1)).then()
    again = ScanInterrupted(scan_id=ID, attempt=2, on_crash="resume", reason="", **THERE)
    given(*so_far).when(InterruptScan(scan_id=ID, reason="", instance="run-2", attempt=2)).then(again)


def test_the_last_wish_counts_and_one_that_crossed_the_station_on_its_way_is_not_lost() -> None:
    # Paused and resumed before the station heard of either: it notes that it runs.
    crossed = (*RUNNING, PAUSE_REQUESTED)
    given(*crossed).when(RESUME).then(RESUME_REQUESTED)
    assert given(*crossed, RESUME_REQUESTED).when(NOTE_RESUMED).then(RESUMED).wish is None
    # The station had paused by then: it notes that, and still has the resume before it.
    state = given(*crossed, RESUME_REQUESTED).when(NOTE_PAUSED).then(PAUSED)
    assert (state.status, state.wish) == ("paused", "resume")
    # Paused again before it resumed.
    given(*PAUSED_SCAN, RESUME_REQUESTED).when(PAUSE).then(PAUSE_REQUESTED)
    state = given(*PAUSED_SCAN, RESUME_REQUESTED, PAUSE_REQUESTED).when(NOTE_RESUMED).then(RESUMED)
    assert (state.status, state.wish) == ("running", "pause")
    # Aborted while it paused.
    state = given(*crossed, ABORT_REQUESTED).when(NOTE_PAUSED).then(PAUSED)
    assert (state.status, state.wish) == ("paused", "abort")


@pytest.mark.parametrize("wish", [PAUSE_REQUESTED, ABORT_REQUESTED])
def test_a_wish_during_the_last_point_comes_too_late(wish: Event) -> None:
    assert given(*RUNNING, wish).when(COMPLETE).then(COMPLETED).wish is None


# ----------------------------------------------------------------------------------------------------------------- crashes


def test_a_crashed_scan_says_so_and_goes_on_as_a_new_attempt_at_the_first_point_not_durable() -> None:
    state = given(*RUNNING).when(INTERRUPT).then(INTERRUPTED)
    assert (state.status, state.interrupted, state.attempt) == ("running", True, 1)
    state = given(*CRASHED).when(CONTINUE).then(CONTINUED)
    assert (state.status, state.interrupted, state.attempt, state.station_id) == ("running", False, 2, "s2")


def test_a_scan_that_restarts_after_a_crash_begins_at_the_first_point() -> None:
    crashed = (on_crash("restart"), STARTED, INTERRUPTED.model_copy(update={"on_crash": "restart"}))
    given(*crashed).when(CONTINUE).then(ScanContinued(scan_id=ID, attempt=2, from_point=0, **THERE))


def test_a_scan_that_is_to_be_held_after_a_crash_waits_for_a_person_and_goes_on_when_resumed() -> None:
    interrupted = INTERRUPTED.model_copy(update={"on_crash": "hold"})
    held = ScanHeld(scan_id=ID, attempt=1, reason="it is to be held after a crash")
    state = given(on_crash("hold"), STARTED).when(INTERRUPT).then(interrupted, held)
    assert (state.status, state.held, state.interrupted) == ("paused", True, True)
    so_far = (on_crash("hold"), STARTED, interrupted, held)
    resume_requested = ScanResumeRequested(scan_id=ID, attempt=1, station_id=None)
    given(*so_far).when(RESUME).then(resume_requested)
    state = given(*so_far, resume_requested).when(CONTINUE).then(CONTINUED)
    assert (state.status, state.held, state.wish) == ("running", False, None)


def test_an_interrupted_scan_can_be_held_by_its_station_or_a_person() -> None:
    given(*CRASHED).when(HoldScan(scan_id=ID, reason="another stage answers")).then(
        ScanHeld(scan_id=ID, attempt=1, reason="another stage answers")
    )
    given(*CRASHED).when(PAUSE).then(ScanHeld(scan_id=ID, attempt=1, reason="paused before it was continued"))


def test_a_crash_before_a_pause_was_noted_holds_the_scan_and_before_an_abort_aborts_it() -> None:
    held = ScanHeld(scan_id=ID, attempt=1, reason="it was about to pause")
    given(*RUNNING, PAUSE_REQUESTED).when(INTERRUPT).then(INTERRUPTED, held)
    aborted = ScanAborted(scan_id=ID, attempt=1, point=None, reason="smoke")
    state = given(*RUNNING, ABORT_REQUESTED).when(INTERRUPT).then(INTERRUPTED, aborted)
    assert (state.status, state.interrupted) == ("aborted", False)


def test_a_paused_scan_whose_station_goes_stays_paused_until_a_person_resumes_it() -> None:
    state = given(*PAUSED_SCAN).when(INTERRUPT).then(INTERRUPTED)
    assert (state.status, state.interrupted) == ("paused", True)
    resume_requested = ScanResumeRequested(scan_id=ID, attempt=1, station_id=None)
    so_far = (*PAUSED_SCAN, INTERRUPTED)
    given(*so_far).when(RESUME).then(resume_requested)
    given(*so_far, resume_requested).when(CONTINUE).then(CONTINUED)


def test_a_paused_scan_about_to_resume_when_its_station_goes_is_continued() -> None:
    so_far = (*PAUSED_SCAN, RESUME_REQUESTED, INTERRUPTED)
    given(*so_far).when(CONTINUE).then(CONTINUED)


def test_an_attempt_is_continued_only_with_the_next_number_and_within_the_plan() -> None:
    wrong = CONTINUE.model_copy(update={"attempt": 3})
    given(*CRASHED).when(wrong).then_refused(WrongState, match="next attempt of scan .* is 2, not 3")
    beyond = CONTINUE.model_copy(update={"from_point": 11})
    given(*CRASHED).when(beyond).then_refused(Refused, match="has 10 points")
    all_durable = CONTINUE.model_copy(update={"from_point": 10})
    given(*CRASHED).when(all_durable).then(CONTINUED.model_copy(update={"from_point": 10}))


# -------------------------------------------------------------------------------------------------------------------- wire


def test_only_what_people_may_order_is_on_the_wire() -> None:
    names = {name for name in COMMANDS if name.startswith("scan.")}
    assert names == {"scan.request", "scan.pause", "scan.resume", "scan.abort", "scan.restart"}
    assert {type(command) for command in (START, INTERRUPT, CONTINUE)}.isdisjoint(COMMANDS.values())


def test_commands_know_their_scan() -> None:
    assert {command.aggregate_id for command in (PAUSE, START, NOTE_PAUSED, INTERRUPT)} == {str(ID)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"frame": {"points": 0}},
        {"frame": {"points": 1001}},
        {"frame": {"ms": 0}},
        {"queue_id": "a.b"},
        {"sample_id": ""},
        {"priority": "asap"},
        {"on_crash": "ignore"},
        {"title": "x" * 201},
        {"metadata": {"x": [1]}},
        {"metadata": {"x": math.nan}},
        {"metadata": {"x": "y" * 1001}},
        {"metadata": {"": 1}},
        {"metadata": {str(i): i for i in range(65)}},
        {"total_points": 3},
        {"plan": {"nodes": []}},
    ],
)
def test_a_request_that_makes_no_sense_is_invalid(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RequestScan.model_validate({"scan_id": ID, "plan": PLAN} | wrong)
