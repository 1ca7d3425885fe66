import json
import math
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st
from pydantic import ValidationError

from domain import readings
from domain.errors import NotFound, OutOfLimits, Refused, WrongState
from domain.events import Event, decode, encode
from domain.plan import Plan
from domain.ports import Channel
from domain.readings import (
    ArrayRef,
    BranchColumns,
    CloseReadings,
    ColumnInfo,
    InstrumentAtStart,
    OpenReadings,
    Readings,
    ReadingsClosed,
    ReadingsOpened,
    ReadingsRecorded,
    RecordReadings,
    branch_columns,
    frame_body,
)
from tests.unit.domain.given import Given
from tests.unit.domain.given import given as given_

ID = UUID("01932b5c-7f3e-7000-8000-000000000001")
X = ColumnInfo(name="stage.x", unit="mm", instrument="stage", channel="x", role="position")
V = ColumnInfo(name="dmm.voltage", unit="V", instrument="dmm", channel="voltage", role="reading")
SPECTRUM = ColumnInfo(
    name="spec.counts", instrument="spec", channel="counts", role="reading", type="array", shape=(512,)
)
BRANCHES = (BranchColumns(columns=(X, V)), BranchColumns(columns=(X, SPECTRUM)))
SETTINGS = {"dmm": InstrumentAtStart(identity="ACME DMM 1", settings={"range_v": 10.0})}


def opened(attempt: int = 1, from_point: int = 0) -> ReadingsOpened:
    return ReadingsOpened(
        scan_id=ID, attempt=attempt, from_point=from_point, total_points=10, branches=BRANCHES, settings=SETTINGS
    )


def open_(attempt: int = 1, from_point: int = 0, total_points: int = 10) -> OpenReadings:
    return OpenReadings(
        scan_id=ID,
        attempt=attempt,
        from_point=from_point,
        total_points=total_points,
        branches=BRANCHES,
        settings=SETTINGS,
    )


def fields(first_point: int, rows: int, **more: Any) -> dict[str, Any]:
    return {
        "scan_id": ID,
        "attempt": 1,
        "branch": 0,
        "first_point": first_point,
        "names": ("stage.x", "dmm.voltage"),
        "units": ("mm", "V"),
        "time": [1.7e9 + k for k in range(rows)],
        "values": [[0.1 * k for k in range(rows)], [1.5] * rows],
    } | more


def frame(first_point: int, rows: int, **more: Any) -> ReadingsRecorded:
    return ReadingsRecorded(**fields(first_point, rows, **more))


def record(first_point: int, rows: int, **more: Any) -> RecordReadings:
    return RecordReadings(scan_id=ID, frame=frame(first_point, rows, **more))


def closed(next_point: int, reason: Any, attempt: int = 1) -> ReadingsClosed:
    return ReadingsClosed(scan_id=ID, attempt=attempt, next_point=next_point, reason=reason)


def given(*events: Event) -> Given:
    return given_(readings, Readings(), *events)


def spectra(rows: int) -> ArrayRef:
    return ArrayRef(sha256="ab" * 32, dtype="<f8", shape=(rows, 512))


# ------------------------------------------------------------------------------------------------------------------ frames


def test_points_are_recorded_one_frame_after_the_other() -> None:
    given().when(open_()).then(opened())
    given(opened()).when(record(0, 4)).then(frame(0, 4))
    assert given(opened(), frame(0, 4)).when(record(4, 6)).then(frame(4, 6)).next_point == 10
    given(opened(), frame(0, 10)).when(CloseReadings(scan_id=ID, attempt=1, reason="completed")).then(
        closed(10, "completed")
    )


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (record(3, 1), "point 3 of scan .* was recorded already: the next point is 4"),
        (record(0, 4), "point 0 of scan .* was recorded already"),
        (record(5, 1), "point 5 of scan .* would leave a gap: the next point is 4"),
        (record(4, 7), "has 10 points: this frame goes to 11"),
        (record(4, 1, branch=2), "has branches 0 to 1, no branch 2"),
        (record(4, 1, names=("dmm.voltage", "stage.x")), "has the columns stage.x, dmm.voltage in this order"),
        (record(4, 1, branch=1, names=("stage.x",), units=("mm",), values=[[0.0]]), "the array columns spec.counts"),
        (record(4, 1, arrays={"spec.counts": spectra(1)}), "has the array columns none"),
        (RecordReadings(scan_id=UUID(int=1), frame=frame(4, 1)), "this frame is of scan"),
    ],
)
def test_a_frame_that_is_not_the_next_one_is_refused(command: RecordReadings, words: str) -> None:
    given(opened(), frame(0, 4)).when(command).then_refused(Refused, match=words)


def test_nothing_is_recorded_while_closed_or_in_another_attempt() -> None:
    given().when(record(0, 1)).then_refused(NotFound, match="never opened")
    given(opened(), closed(0, "paused")).when(record(0, 1)).then_refused(WrongState, match="closed; open them first")
    given(opened(2)).when(record(0, 1)).then_refused(WrongState, match="attempt 1 of scan .*: it is in attempt 2")


def test_a_frame_of_another_branch_holds_its_arrays_as_one_blob() -> None:
    more: dict[str, Any] = {"branch": 1, "names": ("stage.x",), "units": ("mm",), "values": [[0.0, 0.1]]}
    command = record(0, 2, **more, arrays={"spec.counts": spectra(2)})
    assert given(opened()).when(command).then(command.frame).next_point == 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"values": [[0.0], [1.5, 1.5]]}, "column stage.x has 1 values for 2 points"),
        ({"values": [[0.0, 0.1]]}, "2 names, 2 units and 1 columns do not match"),
        ({"units": ("mm",)}, "2 names, 1 units and 2 columns do not match"),
        ({"names": ("stage.x", "stage.x")}, "a name stands for two columns"),
        ({"arrays": {"stage.x": spectra(2)}}, "a name stands for two columns"),
        ({"arrays": {"spec.counts": spectra(3)}}, "array column spec.counts has 3 arrays for 2 points"),
        ({"time": [], "values": [[], []]}, "at least one point"),
        ({"time": [1.0, math.nan]}, "a time is not finite"),
        ({"values": [[1j, 0], [1, 2]]}, "not complex"),
        ({"values": [[[1.0], 0], [1, 2]]}, "not list"),
        ({"values": ["ab", [1, 2]]}, "a column is a list of values"),
        ({"values": None}, "the values are a list of columns"),
    ],
)
def test_a_frame_whose_shapes_do_not_match_is_invalid_and_cannot_be_encoded(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        frame(0, 2, **more)
    with pytest.raises(ValueError, match=words):
        frame_body(**fields(0, 2, **more))


def test_what_is_no_finite_number_is_recorded_as_none() -> None:
    values = [[math.nan, 1.0, math.inf, -math.inf], [1e308, 1e308, 1e308, 1e308]]
    made = frame(0, 4, values=values)
    assert made.values == [[None, 1.0, None, None], [1e308] * 4]
    assert decode(ReadingsRecorded.TYPE, encode(made)) == made
    assert json.loads(encode(made))["values"][0] == [None, 1.0, None, None]


def test_texts_truth_values_and_numpy_are_values_too() -> None:
    values = [np.array([0.5, math.nan]), [np.float32(1.5), np.int64(2)]]
    assert frame(0, 2, values=values).values == [[0.5, None], [1.5, 2]]
    assert frame(0, 2, values=[["red", None], [True, 3]]).values == [["red", None], [True, 3]]
    more = frame(0, 2, values=[("a", "b"), (1, 2)])
    assert decode(ReadingsRecorded.TYPE, encode(more)) == more


COLUMN = st.one_of(
    st.lists(st.floats(), min_size=3, max_size=3),
    st.lists(st.floats(width=32).map(np.float32), min_size=3, max_size=3),
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.none(), min_size=3, max_size=3),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=3, max_size=3),
    st.lists(st.floats(), min_size=3, max_size=3).map(np.array),
)


@given_any(st.lists(COLUMN, max_size=4), st.lists(st.floats(0, 4e9), min_size=3, max_size=3), st.booleans())
def test_the_fast_encoder_makes_the_bytes_of_the_same_event(values: Any, time: list[float], arrays: bool) -> None:
    names = tuple(f"c{index}.é" for index in range(len(values)))
    more: dict[str, Any] = {"names": names, "units": ("Ω",) * len(names), "time": time, "values": values}
    if arrays:
        more["arrays"] = {"spec.counts": spectra(3)}
    made, body = frame(7, 3, **more), frame_body(**fields(7, 3, **more))
    assert decode(ReadingsRecorded.TYPE, body) == decode(ReadingsRecorded.TYPE, encode(made)) == made
    assert json.loads(body) == json.loads(encode(made))


# --------------------------------------------------------------------------------------------------------- opening, closing


def test_after_a_pause_the_same_attempt_goes_on_where_it_was() -> None:
    so_far = (opened(), frame(0, 4), closed(4, "paused"))
    given(opened(), frame(0, 4)).when(CloseReadings(scan_id=ID, attempt=1, reason="paused")).then(closed(4, "paused"))
    given(*so_far).when(open_(from_point=4)).then(opened(from_point=4))
    given(*so_far).when(open_(from_point=0)).then_refused(Refused, match="goes on at point 4, not at 0")


def test_a_new_attempt_closes_the_one_that_died_and_goes_on_or_begins_again() -> None:
    so_far = (opened(), frame(0, 4))
    given(*so_far).when(open_(2, 4)).then(closed(4, "interrupted"), opened(2, 4))
    state = given(*so_far).when(open_(2, 0)).then(closed(4, "interrupted"), opened(2, 0))
    assert (state.attempt, state.next_point, state.open) == (2, 0, True)
    given(*so_far).when(open_(2, 3)).then_refused(Refused, match="goes on at point 4 or begins again at 0, not at 3")
    given(*so_far, closed(4, "aborted")).when(open_(2, 0)).then(opened(2, 0))


def test_an_attempt_that_is_over_is_not_opened_again() -> None:
    given(opened(2)).when(open_(1)).then_refused(WrongState, match="attempt 1 of scan .* is over")


def test_opening_twice_is_harmless_until_a_point_is_recorded() -> None:
    given(opened()).when(open_()).then()
    given(opened(), frame(0, 4)).when(open_()).then_refused(WrongState, match="open already, at point 4")
    given(opened(), frame(0, 4)).when(open_(from_point=4)).then_refused(WrongState, match="open already, at point 4")


def test_the_first_attempt_begins_at_the_first_point_and_the_plan_keeps_its_length() -> None:
    given().when(open_(from_point=3)).then_refused(Refused, match="goes on at point 0")
    given(opened(), closed(0, "paused")).when(open_(total_points=9)).then_refused(Refused, match="has 10 points, not 9")


def test_readings_with_points_missing_are_not_closed_as_completed() -> None:
    command = CloseReadings(scan_id=ID, attempt=1, reason="completed")
    given(opened(), frame(0, 9)).when(command).then_refused(Refused, match="9 of 10 points")


def test_closing_twice_is_harmless_and_closing_what_is_not_there_is_refused() -> None:
    command = CloseReadings(scan_id=ID, attempt=1, reason="failed")
    given(opened(), closed(0, "failed")).when(command).then()
    given().when(command).then_refused(NotFound)
    given(opened(2)).when(command).then_refused(WrongState, match="it is in attempt 2")


def test_commands_go_to_the_readings_of_their_scan() -> None:
    assert {open_().aggregate_id, record(0, 1).aggregate_id} == {str(ID)}


# ------------------------------------------------------------------------------------------------------- columns, settings


def test_columns_have_the_units_and_types_that_the_instruments_describe() -> None:
    plan = Plan.model_validate(
        {
            "nodes": [
                {
                    "kind": "move",
                    "instrument": "stage",
                    "channel": "x",
                    "positions": {"kind": "list", "values": [0, 1]},
                    "children": [
                        {"kind": "measure", "instrument": "dmm", "channels": ["voltage"]},
                        {
                            "kind": "move",
                            "instrument": "lamp",
                            "channel": "filter",
                            "positions": {"kind": "list", "values": ["red"]},
                            "children": [{"kind": "measure", "instrument": "spec", "channels": ["counts"]}],
                        },
                    ],
                }
            ]
        }
    )
    lab = {
        "stage": {"x": Channel(kind="rw", unit="mm")},
        "dmm": {"voltage": Channel(kind="r", unit="V")},
        "lamp": {"filter": Channel(kind="rw", type="str")},
        "spec": {"counts": Channel(kind="r", type="array", shape=(512,))},
    }
    lamp = ColumnInfo(name="lamp.filter", instrument="lamp", channel="filter", role="position", type="str")
    assert branch_columns(plan, lab) == (BranchColumns(columns=(X, V)), BranchColumns(columns=(X, lamp, SPECTRUM)))
    assert branch_columns(plan, lab)[1].in_frame == ("stage.x", "lamp.filter")
    with pytest.raises(OutOfLimits, match=r"no channel spec\.counts"):
        branch_columns(plan, {name: lab[name] for name in ("stage", "dmm", "lamp")})


def test_any_setting_of_an_instrument_can_be_kept() -> None:
    strange = {
        "range_v": np.float64(10),
        "trace": np.array([1.0, math.nan]),
        "channels": (1, 2),
        "overload": math.inf,
        "mode": {"ac": np.bool_(True)},
        "impedance": 50 + 1j,
        "none": None,
    }
    kept = InstrumentAtStart(identity="x", settings=strange)  # type: ignore[arg-type]
    assert kept.settings == {
        "range_v": 10.0,
        "trace": [1.0, None],
        "channels": [1, 2],
        "overload": None,
        "mode": {"ac": True},
        "impedance": "(50+1j)",
        "none": None,
    }
    event = opened().model_copy(update={"settings": {"x": kept}})
    assert decode(ReadingsOpened.TYPE, encode(event)) == event
