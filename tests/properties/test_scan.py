"""Any commands in any order: a scan is always in a state that makes sense, and always survives a snapshot."""

from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from domain import scan
from domain.errors import Refused
from domain.plan import Plan
from domain.scan import (
    AbortScan,
    CompleteScan,
    ContinueScan,
    FailScan,
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
    ScanEvent,
    StartScan,
)
from tests.unit.domain.given import snapshot_survives, storage_survives

ID = UUID("01932b5c-7f3e-7000-8000-000000000001")
PLAN = Plan.model_validate(
    {
        "nodes": [
            {
                "kind": "move",
                "instrument": "stage",
                "channel": "x",
                "positions": {"kind": "list", "values": [0, 1, 2]},
                "children": [{"kind": "measure", "instrument": "dmm", "channels": ["voltage"]}],
            }
        ]
    }
)
POINTS = st.integers(0, 4)
ATTEMPTS = st.none() | st.integers(1, 3)
STATIONS = st.sampled_from([{"station_id": "s1", "instance": "a"}, {"station_id": "s1", "instance": "b"}])


def command(cls: Any, **fields: Any) -> st.SearchStrategy[Any]:
    return st.builds(cls, scan_id=st.just(ID), **fields)


COMMANDS_ = st.one_of(
    command(RequestScan, plan=st.just(PLAN), on_crash=st.sampled_from(["resume", "restart", "hold"])),
    command(PauseScan),
    command(ResumeScan),
    command(AbortScan, reason=st.sampled_from(["", "smoke"])),
    command(RestartScan),
    st.builds(lambda at, attempt: StartScan(scan_id=ID, attempt=attempt, **at), STATIONS, ATTEMPTS),
    command(NotePaused, point=POINTS, attempt=ATTEMPTS),
    command(NoteResumed, attempt=ATTEMPTS),
    command(NoteAborted, point=POINTS, attempt=ATTEMPTS),
    command(CompleteScan, points=POINTS, attempt=ATTEMPTS),
    command(FailScan, point=POINTS, reason=st.just("broken"), error=st.sampled_from(["gone", "internal"])),
    command(InterruptScan, reason=st.just("no beat"), attempt=ATTEMPTS, instance=st.sampled_from([None, "a", "b"])),
    st.builds(
        lambda at, attempt, point: ContinueScan(scan_id=ID, attempt=attempt, from_point=point, **at),
        STATIONS,
        ATTEMPTS,
        POINTS,
    ),
    command(HoldScan, attempt=ATTEMPTS),
)
#: Likely orders first, or random commands would hardly ever get past `queued`.
OPENINGS = st.sampled_from(
    [
        [],
        [RequestScan(scan_id=ID, plan=PLAN)],
        [RequestScan(scan_id=ID, plan=PLAN, on_crash="hold"), StartScan(scan_id=ID, station_id="s1", instance="a")],
        [
            RequestScan(scan_id=ID, plan=PLAN, on_crash="restart"),
            StartScan(scan_id=ID, station_id="s1", instance="a"),
            PauseScan(scan_id=ID),
        ],
        [
            RequestScan(scan_id=ID, plan=PLAN),
            StartScan(scan_id=ID, station_id="s1", instance="a"),
            PauseScan(scan_id=ID),
            NotePaused(scan_id=ID, point=1),
        ],
    ]
)


def makes_sense(state: Scan) -> None:
    assert 1 <= state.queued_attempt <= state.attempt
    assert state.under_way == (state.station_id is not None) == (state.instance is not None)
    assert state.live == (state.under_way and not state.interrupted)
    if state.status is None:
        assert state == Scan()
    if not state.under_way:
        assert (state.wish, state.interrupted, state.held) == (None, False, False)
    if state.held:
        assert (state.status, state.interrupted, state.wish) == ("paused", True, None)
    if state.wish in ("pause", "abort"):
        assert state.live, "only a station can grant it, so without one it must have taken effect"
    if state.interrupted and state.wish is not None:
        assert (state.status, state.wish) == ("paused", "resume")


#: What may follow what, by status; None is before the request.
ALLOWED = {
    None: {"queued"},
    "queued": {"queued", "running", "aborted", "failed"},
    "running": {"running", "paused", "completed", "aborted", "failed"},
    "paused": {"paused", "running", "aborted", "failed"},
    "completed": {"queued"},
    "aborted": {"queued"},
    "failed": {"queued"},
}


@settings(deadline=None, max_examples=300)
@given(OPENINGS, st.lists(COMMANDS_, max_size=25))
def test_no_sequence_of_commands_leads_to_a_state_that_makes_no_sense(opening: list[Any], commands: list[Any]) -> None:
    state = Scan()
    history: list[ScanEvent] = []
    for order in opening + commands:
        try:
            events = scan.decide(state, order)
        except Refused as refused:
            assert str(ID) in str(refused) or "attempt" in str(refused)
            continue
        for event in events:
            storage_survives(event)
            after = scan.evolve(state, event)
            assert after.status in ALLOWED[state.status]
            assert after.attempt >= state.attempt
            snapshot_survives(after)
            state = after
        makes_sense(state)
        history += events
        # Said again, as after a lost answer, it changes nothing more: no event, or a no.
        if events:
            try:
                assert scan.decide(state, order) == []
            except Refused:
                pass
        # Whoever is under way has a way to an end.
        if state.under_way or state.status == "queued":
            ending = scan.decide(state, AbortScan(scan_id=ID))
            assert ending or state.wish == "abort"
    assert scan.aggregate.fold(Scan(), history) == state


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(COMMANDS_, COMMANDS_), max_size=12))
def test_evolve_takes_any_event_in_any_state(pairs: list[tuple[Any, Any]]) -> None:
    """A replay must never stop at history, whatever the rules were when it was written."""
    found: list[ScanEvent] = []
    for status in ("running", "paused", "completed"):
        strange: list[dict[str, Any]] = [{}, {"interrupted": True}, {"wish": "pause"}, {"wish": "abort"}]
        for flags in strange:
            at = Scan(scan_id=ID, status=status, plan=PLAN, total_points=3, station_id="s1", instance="a", **flags)
            for pair in pairs:
                for order in pair:
                    try:
                        found += scan.decide(at, order)
                    except Refused:
                        continue
    state: Any = Scan()
    for event in reversed(found):
        state = scan.evolve(state, event)
        snapshot_survives(state)
