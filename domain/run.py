"""A test run as MaskHub has it: measurements of the devices on a mask's dies, made and delivered together.

started --> measurements and attachments added ... --> finished (no measurement is added any more) --> analysis requested, once

Each part of a run is a delivery to the run's target, under the id of the part: the opening of the run there, every measurement, every
attachment, the analysis. What became of each is noted here (delivered, parked, cancelled, retried), so the statistics are
counted from the parts and cannot drift. When a part may go:

    opening      at once
    measurement  when the run is open there; with mode `batch` not before the run is finished
    attachment   as a measurement, also after the run is finished
    analysis     when every measurement has been delivered, or was cancelled by a person
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, assert_never
from uuid import UUID, uuid5

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from domain.aggregate import Aggregate
from domain.artifact import FileName, MediaType
from domain.errors import AlreadyExists, NotFound, OutOfLimits, Refused, WrongState
from domain.events import Command, Event, Id
from domain.sample import Sha256

Mode = Literal["real_time", "batch"]
PartKind = Literal["opening", "measurement", "attachment", "analysis"]
PartState = Literal["pending", "delivered", "parked", "cancelled"]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
#: A name that may be left to the run: "" is what the run says.
Inherited = Annotated[str, StringConstraints(max_length=200, strip_whitespace=True)]
Text = Annotated[str, StringConstraints(max_length=2000)]
#: Tells one order from another under the same id.
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]

PARQUET = "application/vnd.apache.parquet"
#: A larger one goes on as another run of ours with the same `run_name`: at the target both are one. So many still fit a snapshot.
MAX_PARTS = 3000
#: Characters of JSON that a run's or a measurement's own fields may have together.
LARGEST = 200_000
_NOTHING = hashlib.sha256(b"").hexdigest()
_SPACE = UUID("5b7f2a52-6d1c-5c39-9a25-0c5d0b5a8f11")


def opening_of(run_id: str) -> UUID:
    """The delivery that opens the run at its target."""
    return uuid5(_SPACE, f"opening {run_id}")


def analysis_of(run_id: str) -> UUID:
    """The delivery that starts the analysis."""
    return uuid5(_SPACE, f"analysis {run_id}")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunMetadata(_Part):
    """What the run is about. `lot_name`, `wafer_name`, `station` go for its measurements unless they say otherwise.

    `project_id`: the target finds it by the mask where it is not given. `guid` names the run for the test software.
    """

    mask_id: int
    run_name: Name
    project_id: int | None = None
    lot_name: Inherited = ""
    wafer_name: Inherited = ""
    station: Inherited = ""
    operator: Inherited = ""
    instrument_id: Inherited = ""
    room: Inherited = ""
    run_suffix: Inherited = ""
    test_software_name: Name = "edwa"
    test_software_version: Name = "1.0.0"
    guid: UUID | None = None
    config: dict[str, JsonValue] | None = None
    calibration: dict[str, JsonValue] | None = None
    expected_measurement_count: int = Field(default=0, ge=0)
    expected_material_counts: tuple[tuple[JsonValue, ...], ...] | None = None


class MeasurementData(_Part):
    """One device on one die. `test_meta` is the target's to show; `extra_meta` and `nas_path` say more about the file."""

    device_name: Name
    measurement_type: Name
    die_x: int
    die_y: int
    lot_name: Inherited = ""
    wafer_name: Inherited = ""
    test_station_name: Inherited = ""
    test_meta: dict[str, JsonValue] = {}
    extra_meta: dict[str, JsonValue] = {}
    nas_path: Text = ""
    measured_at: AwareDatetime | None = None
    measurement_status: Inherited = ""


class Statistics(_Part):
    """Of the measurements: `failed` ones are parked or cancelled; what is neither that nor delivered is `pending`."""

    total: int
    successful: int
    failed: int
    pending: int


class RunStarted(Event, name="run.started"):
    """`delivery_id` opens it at `target`, a name of the lab's settings. `mode`: measurements go as they are added, or at the end."""

    run_id: Id
    target: Id
    mode: Mode
    metadata: RunMetadata
    delivery_id: UUID


class MeasurementAdded(Event, name="run.measurement_added"):
    """All that is sent with the raw data, which is the blob `sha256`. `key` tells it from every other, also at the target.

    `data` is complete: what was left to the run is filled in.
    """

    run_id: Id
    measurement_id: UUID
    sequence: int
    key: Sha256
    mask_id: int
    run_name: Name
    data: MeasurementData
    sha256: Sha256
    size_bytes: int
    file_name: FileName
    media_type: MediaType
    order: Digest


class AttachmentAdded(Event, name="run.attachment_added"):
    """A file that belongs to the run as a whole."""

    run_id: Id
    attachment_id: UUID
    sha256: Sha256
    size_bytes: int
    file_name: FileName
    media_type: MediaType
    order: Digest


class RunFinished(Event, name="run.finished"):
    """No measurement is added any more. The counts are those of this moment."""

    run_id: Id
    measurement_count: int
    attachment_count: int
    statistics: Statistics
    analyse: bool


class AnalysisRequested(Event, name="run.analysis_requested"):
    """It is started once every measurement has arrived, and once only."""

    run_id: Id
    delivery_id: UUID


class RetryRequested(Event, name="run.retry_requested"):
    """A person let what was parked be tried again."""

    run_id: Id
    delivery_ids: tuple[UUID, ...]


class PartDelivered(Event, name="run.part_delivered"):
    """Its receipt is with the delivery. `remote_id` is what the target calls it."""

    run_id: Id
    delivery_id: UUID
    part: PartKind
    remote_id: str = ""


class PartParked(Event, name="run.part_parked"):
    """No further attempt comes by itself."""

    run_id: Id
    delivery_id: UUID
    part: PartKind
    reason: str


class PartCancelled(Event, name="run.part_cancelled"):
    """A person gave this part up. The analysis does not wait for it."""

    run_id: Id
    delivery_id: UUID
    part: PartKind
    reason: str


class PartRetried(Event, name="run.part_retried"):
    """A person let this part be tried again by itself."""

    run_id: Id
    delivery_id: UUID
    part: PartKind


RunEvent = (
    RunStarted
    | MeasurementAdded
    | AttachmentAdded
    | RunFinished
    | AnalysisRequested
    | RetryRequested
    | PartDelivered
    | PartParked
    | PartCancelled
    | PartRetried
)


class StartRun(Command, name="run.start"):
    """Start a run, and open it at its target. A run of this name that the target has already is gone on with."""

    run_id: Id
    target: Id = "maskhub"
    mode: Mode = "real_time"
    metadata: RunMetadata


class AddMeasurement(Command, name="run.add_measurement"):
    """Add a measurement, whose raw data lies in the blob store. Without `sequence` it is the next one."""

    run_id: Id
    measurement_id: UUID
    data: MeasurementData
    sha256: Sha256 | None = None
    size_bytes: int = Field(default=0, ge=0)
    file_name: FileName = "raw_data.parquet"
    media_type: MediaType = PARQUET
    sequence: int | None = Field(default=None, ge=0)


class AttachToRun(Command, name="run.attach"):
    """Add a file (a report, a picture, settings) from the blob store to the run as a whole."""

    run_id: Id
    attachment_id: UUID
    sha256: Sha256
    size_bytes: int = Field(ge=0)
    file_name: FileName
    media_type: MediaType = "application/octet-stream"


class FinishRun(Command, name="run.finish"):
    """Say that no measurement comes any more. `analyse`: have the target analyse the dies once all has arrived.

    A finished run can be finished again to ask for the analysis; it is asked for once.
    """

    run_id: Id
    analyse: bool = False


class RetryFailed(Command, name="run.retry_failed"):
    """Try everything again that is parked."""

    run_id: Id


class NotePart(Command):
    """What became of the delivery of a part."""

    run_id: Id
    delivery_id: UUID
    state: PartState
    remote_id: str = ""
    reason: str = ""


RunCommand = StartRun | AddMeasurement | AttachToRun | FinishRun | RetryFailed | NotePart


@dataclass(frozen=True)
class Part:
    """`order` is the digest of the command that it came by, `name` what begins the measurement's key, or the attachment's file
    name."""

    kind: PartKind
    state: PartState = "pending"
    order: str = ""
    name: str = ""


@dataclass(frozen=True)
class Run:
    """`parts` by the id of their delivery, which is that of the part. `remote_id`: what the target calls the run."""

    started: RunStarted | None = None
    finished: bool = False
    sequence: int = 0
    remote_id: str = ""
    parts: dict[str, Part] = field(default_factory=dict[str, Part])

    @property
    def opened(self) -> bool:
        """The target knows the run."""
        opening = self.parts.get(str(self.started.delivery_id)) if self.started else None
        return opening is not None and opening.state == "delivered"

    @property
    def flowing(self) -> bool:
        """Measurements and attachments may go."""
        return self.opened and (self.finished or (self.started is not None and self.started.mode == "real_time"))

    @property
    def analysable(self) -> bool:
        """The analysis was asked for, has not been started, and has nothing to wait for."""
        asked = [part for part in self.parts.values() if part.kind == "analysis" and part.state == "pending"]
        states = self.states("measurement")
        return bool(asked) and states["delivered"] > 0 and not states["pending"] and not states["parked"]

    def states(self, kind: PartKind) -> Counter[PartState]:
        """How many parts of a kind are in each state."""
        return Counter(part.state for part in self.parts.values() if part.kind == kind)

    @property
    def statistics(self) -> Statistics:
        states = self.states("measurement")
        failed = states["parked"] + states["cancelled"]
        return Statistics(
            total=states.total(), successful=states["delivered"], failed=failed, pending=states["pending"]
        )


def delivery_key(mask_id: int, run_name: str, data: MeasurementData, sequence: int, sha256: str) -> str:
    """What tells a measurement from every other: sent along, and looked for when it is not known whether it arrived."""
    told = (mask_id, run_name, data.lot_name, data.wafer_name, data.die_x, data.die_y, data.device_name)
    return hashlib.sha256(
        "|".join(str(one) for one in (*told, data.measurement_type, sequence, sha256)).encode()
    ).hexdigest()


def decide(run: Run, command: RunCommand) -> list[RunEvent]:
    """Raises `NotFound`, `AlreadyExists`, `WrongState` (finished), `OutOfLimits` (full, too large), `Refused` (nothing in it)."""
    run_id = command.run_id
    if isinstance(command, StartRun):
        return _start(run, command)
    if run.started is None:
        raise NotFound(f"there is no run {run_id}; start it first (labledger runs start)")
    match command:
        case AddMeasurement():
            return _add(run, run.started, command)
        case AttachToRun():
            return _attach(run, command)
        case FinishRun():
            return _finish(run, command)
        case RetryFailed():
            parked = tuple(UUID(id_) for id_, part in run.parts.items() if part.state == "parked")
            return [RetryRequested(run_id=run_id, delivery_ids=parked)] if parked else []
        case NotePart():
            return _note(run, command)
    assert_never(command)


def _start(run: Run, command: StartRun) -> list[RunEvent]:
    _must_be_small(command.metadata, "a run")
    opening = opening_of(command.run_id)
    event = RunStarted(**dict(command), delivery_id=opening)
    if run.started is None:
        return [event]
    if run.started == event:
        return []
    raise AlreadyExists(f"run {command.run_id} exists already with other contents; choose a new id")


def _add(run: Run, started: RunStarted, command: AddMeasurement) -> list[RunEvent]:
    order = _order(command)
    if _is_repeat(run, command.measurement_id, order):
        return []
    _must_hold_something(command.sha256, command.size_bytes, f"measurement of {command.data.device_name}")
    assert command.sha256 is not None
    if run.finished:
        raise WrongState(
            f"run {command.run_id} is finished; start another id with the same run_name to add measurements to it"
        )
    _must_have_room(run, command.run_id)
    _must_be_small(command.data, "a measurement")
    about = started.metadata
    data = command.data.model_copy(
        update={
            "lot_name": command.data.lot_name or about.lot_name,
            "wafer_name": command.data.wafer_name or about.wafer_name,
            "test_station_name": command.data.test_station_name or about.station,
        }
    )
    lacks = [name for name in ("lot_name", "wafer_name", "test_station_name") if not getattr(data, name)]
    if lacks:
        raise Refused(f"neither the measurement nor its run says {' and '.join(lacks)}; give it with one of them")
    sequence = run.sequence + 1 if command.sequence is None else command.sequence
    key = delivery_key(about.mask_id, about.run_name, data, sequence, command.sha256)
    twin = next((id_ for id_, part in run.parts.items() if part.name == _start_of(key)), None)
    if twin is not None:
        raise AlreadyExists(
            f"the same measurement is there as {twin}; give it another sequence if it was measured once more"
        )
    return [
        MeasurementAdded(
            run_id=command.run_id,
            measurement_id=command.measurement_id,
            sequence=sequence,
            key=key,
            mask_id=about.mask_id,
            run_name=about.run_name,
            data=data,
            sha256=command.sha256,
            size_bytes=command.size_bytes,
            file_name=command.file_name,
            media_type=command.media_type,
            order=order,
        )
    ]


def _attach(run: Run, command: AttachToRun) -> list[RunEvent]:
    order = _order(command)
    if _is_repeat(run, command.attachment_id, order):
        return []
    _must_hold_something(command.sha256, command.size_bytes, f"attachment {command.file_name}")
    _must_have_room(run, command.run_id)
    # The target tells attachments by their names alone: two of one name could not be told apart after a lost answer.
    if any(part.kind == "attachment" and part.name == command.file_name for part in run.parts.values()):
        raise AlreadyExists(f"run {command.run_id} has an attachment {command.file_name} already; give it another name")
    return [AttachmentAdded(**dict(command), order=order)]


def _finish(run: Run, command: FinishRun) -> list[RunEvent]:
    run_id, analysis = command.run_id, analysis_of(command.run_id)
    statistics = run.statistics
    if command.analyse and not statistics.total:
        raise WrongState(f"run {run_id} has no measurement that could be analysed; finish it without analysis")
    asks = command.analyse and str(analysis) not in run.parts
    asked: list[RunEvent] = [AnalysisRequested(run_id=run_id, delivery_id=analysis)] if asks else []
    if run.finished:
        return asked
    over = RunFinished(
        run_id=run_id,
        measurement_count=statistics.total,
        attachment_count=run.states("attachment").total(),
        statistics=statistics,
        analyse=command.analyse,
    )
    return [over, *asked]


def _note(run: Run, command: NotePart) -> list[RunEvent]:
    part = run.parts.get(str(command.delivery_id))
    if part is None:
        raise NotFound(f"run {command.run_id} has no part {command.delivery_id}")
    # What has arrived has arrived: a late word about an earlier attempt changes nothing.
    if part.state in (command.state, "delivered"):
        return []
    run_id, delivery_id, kind = command.run_id, command.delivery_id, part.kind
    match command.state:
        case "delivered":
            return [PartDelivered(run_id=run_id, delivery_id=delivery_id, part=kind, remote_id=command.remote_id)]
        case "parked":
            return [PartParked(run_id=run_id, delivery_id=delivery_id, part=kind, reason=command.reason)]
        case "cancelled":
            return [PartCancelled(run_id=run_id, delivery_id=delivery_id, part=kind, reason=command.reason)]
        case "pending":
            return [PartRetried(run_id=run_id, delivery_id=delivery_id, part=kind)]
    assert_never(command.state)


def _is_repeat(run: Run, id_: UUID, order: str) -> bool:
    """The same order came before. Raises `AlreadyExists` for another under the same id."""
    part = run.parts.get(str(id_))
    if part is not None and part.order != order:
        raise AlreadyExists(f"part {id_} of the run exists already with other contents; choose a new id")
    return part is not None


def _must_hold_something(sha256: str | None, size_bytes: int, what: str) -> None:
    if sha256 is None or size_bytes == 0 or sha256 == _NOTHING:
        raise Refused(
            f"the {what} has no data: nothing empty is sent; store its file first and give sha256 and size_bytes"
        )


def _must_have_room(run: Run, run_id: str) -> None:
    if len(run.parts) >= MAX_PARTS:
        raise OutOfLimits(f"run {run_id} has {MAX_PARTS} parts already; go on with another id and the same run_name")


def _must_be_small(model: BaseModel, what: str) -> None:
    if len(model.model_dump_json()) > LARGEST:
        raise OutOfLimits(f"the fields of {what} have more than {LARGEST:,} characters; attach a file instead")


def _order(command: Command) -> str:
    return hashlib.sha256(json.dumps(command.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:32]


def _start_of(key: str) -> str:
    return key[:32]


def evolve(run: Run, event: RunEvent) -> Run:
    match event:
        case RunStarted():
            return Run(started=event, parts={str(event.delivery_id): Part("opening")})
        case MeasurementAdded():
            part = Part("measurement", order=event.order, name=_start_of(event.key))
            run = replace(run, sequence=max(run.sequence, event.sequence))
            return _with(run, event.measurement_id, part)
        case AttachmentAdded():
            return _with(run, event.attachment_id, Part("attachment", order=event.order, name=event.file_name))
        case RunFinished():
            return replace(run, finished=True)
        case AnalysisRequested():
            return _with(run, event.delivery_id, Part("analysis"))
        case RetryRequested():
            again = {str(id_): replace(run.parts[str(id_)], state="pending") for id_ in event.delivery_ids}
            return replace(run, parts=run.parts | again)
        case PartDelivered():
            if event.part == "opening":
                run = replace(run, remote_id=event.remote_id)
            return _now(run, event.delivery_id, "delivered")
        case PartParked():
            return _now(run, event.delivery_id, "parked")
        case PartCancelled():
            return _now(run, event.delivery_id, "cancelled")
        case PartRetried():
            return _now(run, event.delivery_id, "pending")
    assert_never(event)


def _with(run: Run, id_: UUID, part: Part) -> Run:
    return replace(run, parts=run.parts | {str(id_): part})


def _now(run: Run, id_: UUID, state: PartState) -> Run:
    return _with(run, id_, replace(run.parts[str(id_)], state=state))


aggregate = Aggregate(kind="run", initial=Run(), decide=decide, evolve=evolve)
