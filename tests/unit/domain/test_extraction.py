from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from domain import extraction as module
from domain.errors import AlreadyExists, NotFound, Refused, WrongState
from domain.extraction import (
    CARRIED_POINTS,
    AxisCalibration,
    Calibration,
    CancelExtraction,
    CompleteExtraction,
    Extraction,
    ExtractionCancelled,
    ExtractionCompleted,
    ExtractionFailed,
    ExtractionRequested,
    ExtractionStarted,
    FailExtraction,
    FoundCurve,
    Parameters,
    PlaceExtraction,
    RequestExtraction,
    Result,
    StartExtraction,
    estimated_s,
)
from tests.unit.domain.given import given

ID, IMAGE = UUID(int=7), "ab" * 32


def axis(scale: Any = "linear", low: float = 1.0, high: float = 10.0) -> AxisCalibration:
    points = [{"value": low, "x_px": 50, "y_px": 400}, {"value": high, "x_px": 600, "y_px": 30}]
    return AxisCalibration.model_validate({"scale": scale, "points": points, "unit": "V"})


CALIBRATION = Calibration(x=axis(), y=axis("log"))
REQUEST = RequestExtraction(extraction_id=ID, graph_image_id=IMAGE, priority="high")
PLACE = PlaceExtraction(extraction_id=ID, request=REQUEST, estimated_s=0.7)
REQUESTED = ExtractionRequested(**REQUEST.model_dump(), estimated_s=0.7)
CURVE = FoundCurve(name="Vgs = 4 V", confidence=0.9, points=2, x=(0.0, 1.0), y=(0.0, 2.0))
RESULT = Result(csv="aa" * 32, data="bb" * 32, calibration=CALIBRATION, confidence=0.93, accepted=True, curves=(CURVE,))


def started(attempt: int = 1) -> ExtractionStarted:
    return ExtractionStarted(extraction_id=ID, attempt=attempt, worker="w")


def start(attempt: int = 1) -> StartExtraction:
    return StartExtraction(extraction_id=ID, attempt=attempt, worker="w")


def complete(attempt: int = 1) -> CompleteExtraction:
    return CompleteExtraction(extraction_id=ID, attempt=attempt, duration_s=0.5, result=RESULT)


COMPLETED = ExtractionCompleted(extraction_id=ID, attempt=1, duration_s=0.5, result=RESULT)
FAILED = ExtractionFailed(extraction_id=ID, attempt=1, error="no axes", kind="not_possible")
CANCELLED = ExtractionCancelled(extraction_id=ID, reason="wrong image")
FAIL = FailExtraction(extraction_id=ID, attempt=1, error="no axes", kind="not_possible")
CANCEL = CancelExtraction(extraction_id=ID, reason="wrong image")


def test_an_extraction_is_requested_once() -> None:
    given(module, Extraction()).when(PLACE).then(REQUESTED)
    given(module, Extraction(), REQUESTED).when(PLACE).then()
    other = PLACE.model_copy(update={"request": REQUEST.model_copy(update={"method": "legacy"})})
    given(module, Extraction(), REQUESTED).when(other).then_refused(AlreadyExists, match="choose a new id")


def test_it_runs_and_is_completed() -> None:
    given(module, Extraction(), REQUESTED).when(start()).then(started())
    state = given(module, Extraction(), REQUESTED, started()).when(complete()).then(COMPLETED)
    assert (state.state, state.confidence, state.accepted, state.curves) == ("completed", 0.93, True, 1)
    given(module, Extraction(), REQUESTED, started(), COMPLETED).when(complete()).then()


def test_the_state_holds_no_points() -> None:
    """Thousands of extractions are kept in memory by a process that decides."""
    state = given(module, Extraction(), REQUESTED, started(), COMPLETED).state
    assert state.data == RESULT.data and not hasattr(state, "result")


def test_a_late_word_about_an_earlier_attempt_is_refused() -> None:
    second = given(module, Extraction(), REQUESTED, started(1), started(2))
    second.when(complete(1)).then_refused(WrongState, match="at attempt 2; stop working on attempt 1")
    second.when(complete(2)).events()


def test_what_was_cancelled_cannot_be_completed() -> None:
    cancelled = given(module, Extraction(), REQUESTED, started(), CANCELLED)
    cancelled.when(complete()).then_refused(WrongState, match="cancelled")


@pytest.mark.parametrize("ending", [FAILED, CANCELLED])
def test_what_failed_or_was_cancelled_can_be_started_again(ending: Any) -> None:
    given(module, Extraction(), REQUESTED, started(), ending).when(start(2)).then(started(2))


def test_what_is_completed_stays_so() -> None:
    completed = given(module, Extraction(), REQUESTED, started(), COMPLETED)
    completed.when(start(2)).then_refused(WrongState, match="request a new one")
    completed.when(FAIL).then()
    completed.when(CANCEL).then()


def test_it_ends_once() -> None:
    given(module, Extraction(), REQUESTED).when(CANCEL).then(CANCELLED)
    given(module, Extraction(), REQUESTED, started()).when(FAIL).then(FAILED)
    given(module, Extraction(), REQUESTED, started(), FAILED).when(CANCEL).then()
    given(module, Extraction(), REQUESTED, CANCELLED).when(FAIL).then()


@pytest.mark.parametrize("command", [start(), complete(), FAIL, CANCEL])
def test_what_was_never_requested_is_not_found(command: Any) -> None:
    given(module, Extraction()).when(command).then_refused(NotFound, match="request it first")


def test_a_model_that_is_asked_for_the_axes_is_given_none() -> None:
    parameters = Parameters(calibration=CALIBRATION)
    request = REQUEST.model_copy(update={"method": "llm", "parameters": parameters})
    place = PLACE.model_copy(update={"request": request})
    given(module, Extraction()).when(place).then_refused(Refused, match="choose the method standard")


def test_an_extraction_cannot_correct_itself() -> None:
    place = PLACE.model_copy(update={"request": REQUEST.model_copy(update={"corrects": ID})})
    given(module, Extraction()).when(place).then_refused(Refused, match="cannot correct itself")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"points": [{"value": 1, "x_px": 0, "y_px": 0}]}, "at least 2"),
        ({"points": [{"value": 1, "x_px": 0, "y_px": 0}, {"value": 1, "x_px": 9, "y_px": 0}]}, "different values"),
        ({"points": [{"value": 1, "x_px": 0, "y_px": 0}, {"value": 2, "x_px": 0, "y_px": 0}]}, "different pixels"),
        ({"scale": "log", "points": [{"value": 0, "x_px": 0, "y_px": 0}, {"value": 2, "x_px": 9, "y_px": 0}]}, "0 or"),
        ({"points": [{"value": "nan", "x_px": 0, "y_px": 0}, {"value": 2, "x_px": 9, "y_px": 0}]}, "finite"),
    ],
)
def test_an_axis_that_cannot_be_is_not_valid(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        AxisCalibration.model_validate({"scale": "linear"} | change)


def test_a_curve_carries_a_bounded_number_of_points() -> None:
    many = tuple(float(n) for n in range(CARRIED_POINTS + 1))
    with pytest.raises(ValidationError, match="thin it out"):
        FoundCurve(confidence=1.0, points=len(many), x=many, y=many)
    with pytest.raises(ValidationError, match="as many x as y"):
        FoundCurve(confidence=1.0, points=2, x=(1.0, 2.0), y=(1.0,))


def test_the_largest_result_fits_into_an_event() -> None:
    from bus.store import MAX_EVENT_BYTES
    from domain.events import encode

    # What the worker keeps of a number: seven digits.
    ugly = tuple(float(f"{-1.2345678e-7 * (n + 1):.7g}") for n in range(CARRIED_POINTS))
    curve = FoundCurve(name="n" * 300, confidence=0.123, points=10**6, x=ugly, y=ugly)
    result = RESULT.model_copy(update={"curves": (curve,) * module.CARRIED_CURVES})
    event = COMPLETED.model_copy(update={"result": result})
    assert len(encode(event)) < MAX_EVENT_BYTES


def test_parts_of_a_file_are_told_apart() -> None:
    assert Parameters().part == ""
    assert Parameters(page=3).part == "page 3"
    assert Parameters(page=3, chart=2).part == "page 3 chart 2"


def test_a_larger_image_takes_longer_and_a_given_calibration_less() -> None:
    small, large = estimated_s("standard", 500_000, False), estimated_s("standard", 5_000_000, False)
    assert 0 < estimated_s("standard", 500_000, True) < small < large
    assert estimated_s("legacy", 500_000, False) < small < estimated_s("llm", 500_000, False)
    assert estimated_s("standard", 0, False) > 0  # a PDF
