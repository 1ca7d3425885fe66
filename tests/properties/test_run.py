"""Whatever is ordered of a run and whatever becomes of its deliveries, in any order: nothing is counted twice or forgotten."""

from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from domain import run as module
from domain.errors import Refused
from domain.run import (
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
    analysis_of,
    opening_of,
)
from tests.unit.domain.given import snapshot_survives, storage_survives

R = "r"
IDS = st.integers(1, 6).map(lambda number: UUID(int=number))
ABOUT = RunMetadata(mask_id=1, run_name="r", lot_name="L", wafer_name="W", station="S")
DATA = st.builds(
    MeasurementData,
    device_name=st.sampled_from(("ring", "coupler")),
    measurement_type=st.just("spectrum"),
    die_x=st.integers(-1, 1),
    die_y=st.just(0),
)
SHA = st.sampled_from((None, "a" * 64, "b" * 64))
ADDS = st.builds(
    AddMeasurement,
    run_id=st.just(R),
    measurement_id=IDS,
    data=DATA,
    sha256=SHA,
    size_bytes=st.just(3),
    sequence=st.none() | st.integers(0, 3),
)
ATTACHES = st.builds(
    AttachToRun,
    run_id=st.just(R),
    attachment_id=IDS.map(lambda id_: UUID(int=id_.int + 100)),
    sha256=st.just("c" * 64),
    size_bytes=st.integers(0, 1),
    file_name=st.sampled_from(("a.pdf", "b.pdf")),
)
PARTS = IDS | st.sampled_from((opening_of(R), analysis_of(R), UUID(int=101), UUID(int=102)))
NOTES = st.builds(
    NotePart,
    run_id=st.just(R),
    delivery_id=PARTS,
    state=st.sampled_from(("delivered", "delivered", "parked", "cancelled", "pending")),
)
OTHERS = st.sampled_from((FinishRun(run_id=R), FinishRun(run_id=R, analyse=True), RetryFailed(run_id=R)))
COMMANDS = st.lists(st.one_of(ADDS, ADDS, NOTES, NOTES, ATTACHES, OTHERS), min_size=5, max_size=60)


@given(st.sampled_from(("real_time", "batch")), COMMANDS)
@settings(max_examples=300, deadline=None)
def test_every_part_is_in_one_state_and_the_counts_follow(mode: module.Mode, commands: list[module.RunCommand]) -> None:
    run = Run()
    where: dict[UUID, str] = {}
    measured: set[UUID] = set()
    keys: set[str] = set()
    finished, analyses = 0, 0
    start = StartRun(run_id=R, mode=mode, metadata=ABOUT)
    for command in [start, *commands]:
        try:
            events = module.decide(run, command)
        except Refused as refused:
            assert str(refused)
            assert not isinstance(command, RetryFailed)
            continue
        for event in events:
            match event:
                case RunStarted():
                    where[event.delivery_id] = "pending"
                case MeasurementAdded():
                    assert not finished, "added after the end"
                    assert event.measurement_id not in where
                    assert event.key not in keys, "two measurements could not be told apart"
                    keys.add(event.key)
                    measured.add(event.measurement_id)
                    where[event.measurement_id] = "pending"
                case AttachmentAdded():
                    assert event.size_bytes
                    where[event.attachment_id] = "pending"
                case RunFinished():
                    finished += 1
                    assert event.measurement_count == len(measured)
                case AnalysisRequested():
                    assert finished
                    analyses += 1
                    where[event.delivery_id] = "pending"
                case RetryRequested():
                    assert set(event.delivery_ids) == {id_ for id_, state in where.items() if state == "parked"}
                    where.update(dict.fromkeys(event.delivery_ids, "pending"))
                case PartDelivered():
                    assert where[event.delivery_id] != "delivered"
                    where[event.delivery_id] = "delivered"
                case PartParked():
                    assert where[event.delivery_id] in ("pending", "cancelled")
                    where[event.delivery_id] = "parked"
                case PartCancelled():
                    assert where[event.delivery_id] in ("pending", "parked")
                    where[event.delivery_id] = "cancelled"
                case PartRetried():
                    assert where[event.delivery_id] in ("parked", "cancelled")
                    where[event.delivery_id] = "pending"
            storage_survives(event)
            run = module.evolve(run, event)
            snapshot_survives(run)
        assert {UUID(id_): part.state for id_, part in run.parts.items()} == where
        states = [where[id_] for id_ in measured]
        counted = run.statistics
        assert counted.total == len(measured) == counted.successful + counted.failed + counted.pending
        assert counted.successful == states.count("delivered")
        assert counted.pending == states.count("pending")
        assert run.opened == (where.get(opening_of(R)) == "delivered")
        assert not run.flowing or run.opened
        if run.analysable:
            assert analyses == 1 and "pending" not in states and "parked" not in states
        assert module.decide(run, command) == [], "the same word twice changes nothing"
    assert finished <= 1 and analyses <= 1
