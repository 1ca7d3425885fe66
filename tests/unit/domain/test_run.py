from typing import Any
from uuid import UUID

import pytest

from domain import run as module
from domain.errors import AlreadyExists, NotFound, OutOfLimits, Refused, WrongState
from domain.run import (
    MAX_PARTS,
    AddMeasurement,
    AnalysisRequested,
    AttachmentAdded,
    AttachToRun,
    FinishRun,
    MeasurementAdded,
    MeasurementData,
    NotePart,
    PartCancelled,
    PartDelivered,
    PartParked,
    PartRetried,
    RetryFailed,
    RetryRequested,
    Run,
    RunFinished,
    RunMetadata,
    RunStarted,
    StartRun,
    Statistics,
    analysis_of,
    delivery_key,
    opening_of,
)
from tests.unit.domain.given import Given, given

R = "edwa-7"
OPENING, ANALYSIS = opening_of(R), analysis_of(R)
FIRST, SECOND, REPORT = UUID(int=1), UUID(int=2), UUID(int=9)
ABOUT = RunMetadata(mask_id=42, run_name="EDWA run 7", lot_name="L1", wafer_name="W3", station="bench")
START = StartRun(run_id=R, metadata=ABOUT)
STARTED = RunStarted(run_id=R, target="maskhub", mode="real_time", metadata=ABOUT, delivery_id=OPENING)
BATCH = STARTED.model_copy(update={"mode": "batch"})
OPENED = PartDelivered(run_id=R, delivery_id=OPENING, part="opening", remote_id="17")
FINISH, ANALYSE = FinishRun(run_id=R), FinishRun(run_id=R, analyse=True)


def add(number: int = 1, *, data: dict[str, Any] | None = None, **more: Any) -> AddMeasurement:
    told = {"device_name": f"ring_{number}", "measurement_type": "spectrum", "die_x": number, "die_y": -1}
    known: dict[str, Any] = {"sha256": f"{number:064x}", "size_bytes": 100 + number, "file_name": f"{number}.parquet"}
    order = {"run_id": R, "measurement_id": UUID(int=number), "data": told | (data or {})}
    return AddMeasurement.model_validate(order | known | more)


def added(number: int = 1, *earlier: Any) -> MeasurementAdded:
    (event,) = given(module, Run(), STARTED, *earlier).when(add(number)).events()
    assert isinstance(event, MeasurementAdded)
    return event


def attach(id_: UUID = REPORT, file_name: str = "report.pdf", **more: Any) -> AttachToRun:
    return AttachToRun(
        run_id=R, attachment_id=id_, sha256=more.pop("sha256", "d" * 64), file_name=file_name, size_bytes=5, **more
    )


def delivered(id_: UUID, part: module.PartKind = "measurement") -> PartDelivered:
    return PartDelivered(run_id=R, delivery_id=id_, part=part)


def parked(id_: UUID, part: module.PartKind = "measurement") -> PartParked:
    return PartParked(run_id=R, delivery_id=id_, part=part, reason="401")


def note(id_: UUID, state: module.PartState) -> NotePart:
    return NotePart(run_id=R, delivery_id=id_, state=state, reason="401" if state == "parked" else "")


def stats(total: int, successful: int = 0, failed: int = 0, pending: int = 0) -> Statistics:
    return Statistics(total=total, successful=successful, failed=failed, pending=pending)


def one_and_two(*events: Any) -> Given:
    first = added(1)
    return given(module, Run(), STARTED, OPENED, first, added(2, first), *events)


def test_a_run_is_started_once_under_its_id() -> None:
    given(module, Run()).when(START).then(STARTED)
    given(module, Run(), STARTED).when(START).then()
    other = StartRun(run_id=R, metadata=ABOUT.model_copy(update={"mask_id": 43}))
    given(module, Run(), STARTED).when(other).then_refused(AlreadyExists, match="choose a new id")


@pytest.mark.parametrize("command", [add(), attach(), FINISH, RetryFailed(run_id=R)], ids=lambda it: it.NAME)
def test_nothing_is_done_with_a_run_that_was_not_started(command: Any) -> None:
    given(module, Run()).when(command).then_refused(NotFound, match="labledger runs start")


def test_a_measurement_says_all_that_is_sent_with_it() -> None:
    """Whatever restarts, nothing has to be remembered beside the event (the public client forgot the file, lot, wafer and die)."""
    event = added()
    assert (event.mask_id, event.run_name, event.sequence) == (42, "EDWA run 7", 1)
    assert (event.data.lot_name, event.data.wafer_name, event.data.test_station_name) == ("L1", "W3", "bench")
    assert (event.data.die_x, event.data.die_y, event.data.device_name) == (1, -1, "ring_1")
    assert (event.sha256, event.size_bytes, event.file_name) == (f"{1:064x}", 101, "1.parquet")
    assert event.key == delivery_key(42, "EDWA run 7", event.data, 1, event.sha256)


def test_a_measurement_may_know_better_than_its_run() -> None:
    (event,) = given(module, Run(), STARTED).when(add(data={"wafer_name": "W4", "lot_name": "L9"})).events()
    assert isinstance(event, MeasurementAdded)
    assert (event.data.lot_name, event.data.wafer_name) == ("L9", "W4")


def test_a_measurement_of_an_unknown_wafer_is_refused() -> None:
    bare = STARTED.model_copy(update={"metadata": RunMetadata(mask_id=42, run_name="bare", lot_name="L1")})
    given(module, Run(), bare).when(add()).then_refused(match="wafer_name and test_station_name")


EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("nothing", [{"sha256": None}, {"size_bytes": 0}, {"sha256": EMPTY, "size_bytes": 7}])
def test_a_measurement_without_data_is_refused_in_words(nothing: dict[str, Any]) -> None:
    """The public client sends /dev/null instead."""
    given(module, Run(), STARTED).when(add(**nothing)).then_refused(Refused, match="ring_1 has no data: nothing empty")


def test_an_empty_attachment_is_refused() -> None:
    given(module, Run(), STARTED).when(attach(sha256=EMPTY)).then_refused(match=r"report\.pdf has no data")


def test_the_same_measurement_twice_is_one() -> None:
    first = added()
    given(module, Run(), STARTED, first).when(add()).then()
    same_id = add(sha256="c" * 64)
    given(module, Run(), STARTED, first).when(same_id).then_refused(AlreadyExists, match="choose a new id")
    other_order = add().model_copy(update={"data": add(data={"test_meta": {"a": 1, "b": 2}}).data})
    (event,) = given(module, Run(), STARTED).when(other_order).events()
    mixed = other_order.model_copy(
        update={"data": add(data={"test_meta": {"b": 2, "a": 1}}).data},
    )
    given(module, Run(), STARTED, event).when(mixed).then()


def test_a_device_measured_again_has_the_next_sequence_and_the_same_sequence_twice_is_refused() -> None:
    first = added()
    again = add().model_copy(update={"measurement_id": SECOND})
    (event,) = given(module, Run(), STARTED, first).when(again).events()
    assert isinstance(event, MeasurementAdded)
    assert event.sequence == 2
    assert event.key != first.key
    twin = again.model_copy(update={"sequence": 1})
    given(module, Run(), STARTED, first).when(twin).then_refused(AlreadyExists, match="another sequence")


def test_the_key_follows_from_everything_that_tells_measurements_apart() -> None:
    data = added().data
    base = (42, "run", data, 1, "a" * 64)
    assert delivery_key(*base) == delivery_key(*base)
    changed = [
        (43, "run", data, 1, "a" * 64),
        (42, "ran", data, 1, "a" * 64),
        (42, "run", data, 2, "a" * 64),
        (42, "run", data, 1, "b" * 64),
        *(
            (42, "run", data.model_copy(update={name: value}), 1, "a" * 64)
            for name, value in {
                "lot_name": "x",
                "wafer_name": "x",
                "die_x": 7,
                "die_y": 7,
                "device_name": "x",
                "measurement_type": "x",
            }.items()
        ),
    ]
    assert len({delivery_key(*base), *(delivery_key(*one) for one in changed)}) == len(changed) + 1


def test_a_finished_run_takes_no_measurement_but_still_a_report() -> None:
    over = RunFinished(run_id=R, measurement_count=0, attachment_count=0, statistics=stats(0), analyse=False)
    it = given(module, Run(), STARTED, over)
    it.when(add()).then_refused(WrongState, match="same run_name")
    (event,) = it.when(attach()).events()
    assert isinstance(event, AttachmentAdded)


def test_attachments_are_told_apart_by_their_names() -> None:
    (first,) = given(module, Run(), STARTED).when(attach()).events()
    it = given(module, Run(), STARTED, first)
    it.when(attach()).then()
    it.when(attach(SECOND)).then_refused(AlreadyExists, match="another name")


def test_finishing_says_how_it_stands() -> None:
    it = one_and_two(delivered(FIRST), parked(SECOND))
    expected = RunFinished(run_id=R, measurement_count=2, attachment_count=0, statistics=stats(2, 1, 1), analyse=False)
    after = it.when(FINISH).then(expected)
    assert after.statistics == stats(2, 1, 1)


def test_the_analysis_is_asked_for_once() -> None:
    finished = RunFinished(
        run_id=R, measurement_count=2, attachment_count=0, statistics=stats(2, 0, 0, 2), analyse=True
    )
    asked = AnalysisRequested(run_id=R, delivery_id=ANALYSIS)
    one_and_two().when(ANALYSE).then(finished, asked)
    one_and_two(finished, asked).when(ANALYSE).then()
    one_and_two(finished, asked).when(FINISH).then()
    plain = finished.model_copy(update={"analyse": False})
    one_and_two(plain).when(FINISH).then()
    one_and_two(plain).when(ANALYSE).then(asked)
    one_and_two(finished, asked, delivered(FIRST), delivered(SECOND), delivered(ANALYSIS, "analysis")).when(
        ANALYSE
    ).then()


def test_a_run_without_measurements_has_nothing_to_analyse() -> None:
    given(module, Run(), STARTED).when(ANALYSE).then_refused(WrongState, match="without analysis")
    given(module, Run(), STARTED).when(FINISH).events()


def test_the_analysis_waits_for_every_measurement() -> None:
    (finished, asked) = one_and_two().when(ANALYSE).events()

    def ready(*events: Any) -> bool:
        return one_and_two(finished, asked, *events).state.analysable

    assert not ready()
    assert not ready(delivered(FIRST))
    assert not ready(delivered(FIRST), parked(SECOND))
    assert ready(delivered(FIRST), delivered(SECOND))
    cancelled = PartCancelled(run_id=R, delivery_id=SECOND, part="measurement", reason="broken chip")
    assert ready(delivered(FIRST), cancelled)
    assert not ready(delivered(FIRST), delivered(SECOND), delivered(ANALYSIS, "analysis"))
    assert not one_and_two(delivered(FIRST), delivered(SECOND)).state.analysable


def test_pending_goes_down_as_measurements_arrive_and_a_retry_counts_nothing_twice() -> None:
    """The public client never counted pending down, and a retry counted again."""
    seen = [
        one_and_two(*events).state.statistics
        for events in (
            (),
            (delivered(FIRST),),
            (delivered(FIRST), parked(SECOND)),
            (delivered(FIRST), parked(SECOND), RetryRequested(run_id=R, delivery_ids=(SECOND,))),
            (
                delivered(FIRST),
                parked(SECOND),
                RetryRequested(run_id=R, delivery_ids=(SECOND,)),
                parked(SECOND),
            ),
            (
                delivered(FIRST),
                parked(SECOND),
                RetryRequested(run_id=R, delivery_ids=(SECOND,)),
                delivered(SECOND),
            ),
        )
    ]
    expected = [stats(2, 0, 0, 2), stats(2, 1, 0, 1), stats(2, 1, 1), stats(2, 1, 0, 1), stats(2, 1, 1), stats(2, 2)]
    assert seen == expected


def test_what_became_of_a_part_is_noted_once() -> None:
    one_and_two().when(note(FIRST, "delivered")).then(delivered(FIRST))
    one_and_two(delivered(FIRST)).when(note(FIRST, "delivered")).then()
    one_and_two().when(note(FIRST, "parked")).then(parked(FIRST))
    one_and_two(parked(FIRST)).when(note(FIRST, "parked")).then()
    one_and_two(delivered(FIRST)).when(note(FIRST, "parked")).then()
    one_and_two(delivered(FIRST)).when(note(FIRST, "pending")).then()
    one_and_two(parked(FIRST)).when(note(FIRST, "pending")).then(
        PartRetried(run_id=R, delivery_id=FIRST, part="measurement")
    )
    one_and_two(parked(FIRST)).when(note(FIRST, "cancelled")).then(
        PartCancelled(run_id=R, delivery_id=FIRST, part="measurement", reason="")
    )
    one_and_two().when(note(UUID(int=77), "delivered")).then_refused(NotFound)


def test_only_what_is_parked_is_tried_again() -> None:
    retry = RetryFailed(run_id=R)
    one_and_two(delivered(FIRST)).when(retry).then()
    again = RetryRequested(run_id=R, delivery_ids=(SECOND,))
    after = one_and_two(delivered(FIRST), parked(SECOND)).when(retry).then(again)
    assert after.statistics.pending == 1
    one_and_two(delivered(FIRST), parked(SECOND), again).when(retry).then()


def test_the_opening_that_is_parked_is_tried_again_too() -> None:
    blocked = given(module, Run(), STARTED, parked(OPENING, "opening"))
    blocked.when(RetryFailed(run_id=R)).then(RetryRequested(run_id=R, delivery_ids=(OPENING,)))


def test_measurements_go_when_the_run_is_open_and_in_a_batch_when_it_is_finished() -> None:
    over = RunFinished(run_id=R, measurement_count=0, attachment_count=0, statistics=stats(0), analyse=False)
    assert not given(module, Run(), STARTED).state.flowing
    assert given(module, Run(), STARTED, OPENED).state.flowing
    assert given(module, Run(), STARTED, OPENED).state.remote_id == "17"
    assert not given(module, Run(), BATCH, OPENED).state.flowing
    assert given(module, Run(), BATCH, OPENED, over).state.flowing
    assert not given(module, Run(), BATCH, over).state.flowing


def test_a_full_run_goes_on_under_another_id() -> None:
    parts = {str(UUID(int=n)): module.Part("measurement") for n in range(10, 10 + MAX_PARTS)}
    full = Run(started=STARTED, parts=parts)
    given(module, full).when(add()).then_refused(OutOfLimits, match="same run_name")
    given(module, full).when(attach()).then_refused(OutOfLimits)


def test_what_is_too_large_for_an_event_is_refused() -> None:
    given(module, Run(), STARTED).when(add(data={"test_meta": {"a": "x" * 200_000}})).then_refused(OutOfLimits)
    about = ABOUT.model_copy(update={"config": {"a": "x" * 200_000}})
    given(module, Run()).when(StartRun(run_id=R, metadata=about)).then_refused(OutOfLimits, match="attach a file")


def test_a_full_run_fits_a_snapshot() -> None:
    """A message of NATS has at most 1 MiB; a state that does not fit would be read from its first event each time."""
    import json

    from pydantic import TypeAdapter

    part = module.Part("measurement", "delivered", "f" * 32, "f" * 32)
    full = Run(started=STARTED, parts={str(UUID(int=n)): part for n in range(MAX_PARTS)})
    body = json.dumps({"state": TypeAdapter(Run).dump_json(full).decode()})
    assert len(body) < 900_000


def test_file_names_are_names() -> None:
    for wrong in ("../evil", "a/b", "", "a\nb"):
        with pytest.raises(ValueError, match="file_name"):
            add(file_name=wrong)


def test_a_measurement_is_data_of_its_own() -> None:
    assert MeasurementData(device_name="a", measurement_type="b", die_x=0, die_y=0).test_meta == {}
