"""One reading of the curves of one image.

    requested --> running --> completed
        ^            |------> failed      (no attempt is left, or none would help)
        |            '------> cancelled   (by a person, also while it waits)
        '--- failed, cancelled: started again when its job is retried (`job.retry`)

The work is a job of the ordinary queue, under the extraction's id: what waits, how often it is tried and who may do it now is
said there (`domain.job`). What is said here is what was asked for and what came of it. How an extraction begins and ends is
written in one batch with the job's own events, so the two never disagree.

A calibration that a person corrected makes a new extraction, which names the one that it `corrects`.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, assert_never
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue, StringConstraints, model_validator

from domain.aggregate import Aggregate
from domain.errors import AlreadyExists, NotFound, OutOfLimits, Refused, WrongState
from domain.events import Command, Event, Id
from domain.job import Priority, Title
from domain.sample import Sha256

Method = Literal["standard", "legacy", "llm"]
State = Literal["none", "requested", "running", "completed", "failed", "cancelled"]
ErrorKind = Literal["rejected", "not_possible", "crashed", "took_too_long", "worker_died", "other"]
Words = Annotated[str, StringConstraints(max_length=2000)]
Colour = Annotated[str, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$")]

#: Where extractions wait unless told otherwise. It is made with the first one.
QUEUE = "extractions"
#: Most points of a curve that an event carries; the blob `data` has all of them.
CARRIED_POINTS = 500
CARRIED_CURVES = 40
#: Most charts of one file that are read by themselves beside the first.
OTHER_CHARTS = 100


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class Pixel(_Part):
    """A place in the image; (0, 0) is the centre of the upper left pixel."""

    x_px: FiniteFloat
    y_px: FiniteFloat


class CalibrationPoint(_Part):
    """A value of the axis, and the pixel of the image at which it lies ((0, 0) is the centre of the upper left one)."""

    value: FiniteFloat
    x_px: FiniteFloat
    y_px: FiniteFloat


class AxisCalibration(_Part):
    """At least two points of an axis. `unit` and `title` as the image has them."""

    scale: Literal["linear", "log"]
    points: tuple[CalibrationPoint, ...] = Field(min_length=2, max_length=100)
    unit: str = Field(default="", max_length=50)
    title: str = Field(default="", max_length=300)

    @model_validator(mode="after")
    def _two_different(self) -> "AxisCalibration":
        if len({point.value for point in self.points}) < 2:
            raise ValueError("give two points with different values")
        if len({(point.x_px, point.y_px) for point in self.points}) < 2:
            raise ValueError("give two points at different pixels")
        if self.scale == "log" and any(point.value <= 0 for point in self.points):
            raise ValueError("a logarithmic axis has no value of 0 or below")
        return self


class SecondAxisCalibration(AxisCalibration):
    """A y axis at the right. `through`: a pixel of each curve that is read on it; without any the colour of its labels tells."""

    through: tuple[Pixel, ...] = Field(default=(), max_length=CARRIED_CURVES)


class Calibration(_Part):
    """The axes. What an extraction found comes in the same form as what a person gives, so that it can be corrected."""

    x: AxisCalibration
    y: AxisCalibration
    y2: SecondAxisCalibration | None = None


def part_of(page: int | None, chart: int | None) -> str:
    """The words for a chart of a file; empty for the only one of a picture."""
    return " ".join(filter(None, (f"page {page}" if page else "", f"chart {chart}" if chart else "")))


class ChartAt(_Part):
    """A chart of a PDF, page and chart on it counted from 1."""

    page: int = Field(ge=1)
    chart: int = Field(ge=1)


class Parameters(_Part):
    """What is given to the extractor beside the image. `page`, `chart` from 1; `options` as the method has them."""

    calibration: Calibration | None = None
    colours: tuple[Colour, ...] = Field(default=(), max_length=CARRIED_CURVES)
    curves: int | None = Field(default=None, ge=1, le=CARRIED_CURVES)
    page: int | None = Field(default=None, ge=1)
    chart: int | None = Field(default=None, ge=1)
    options: dict[str, JsonValue] = {}

    @property
    def part(self) -> str:
        """Which chart of the file: extractions of the same part take each other's place."""
        return part_of(self.page, self.chart)


class ExtractOnUpload(_Part):
    """The extraction that follows the registration of an image."""

    extraction_id: UUID
    method: Method = "standard"
    parameters: Parameters = Parameters()
    queue_id: Id = QUEUE
    priority: Priority = "normal"
    batch_id: UUID | None = None


class FoundCurve(_Part):
    """One curve in the units of the axes. At most `CARRIED_POINTS` of its `points` are here.

    `axis`: the y axis on which it is read; `mark`: a pixel on it and on no other, by which it can be pointed at.
    """

    name: str | None = Field(default=None, max_length=300)
    confidence: FiniteFloat = Field(ge=0, le=1)
    points: int
    x: tuple[FiniteFloat, ...]
    y: tuple[FiniteFloat, ...]
    axis: Literal["y", "y2"] = "y"
    mark: Pixel | None = None

    @model_validator(mode="after")
    def _as_many(self) -> "FoundCurve":
        if len(self.x) != len(self.y):
            raise ValueError("a curve has as many x as y")
        if len(self.x) > CARRIED_POINTS:
            raise ValueError(f"at most {CARRIED_POINTS} points of a curve are carried; thin it out")
        return self


class Result(_Part):
    """What an extraction found. `csv`, `data` (JSON with every point) and `overlay` (PNG) are blobs by their SHA-256.

    `confidence` is that of the whole; `accepted` says that it is high enough to be used without being looked at. `at`: which
    chart of a PDF it is; `others`: the charts beside it, where none was asked for. Each of them gets an extraction of its own.
    """

    csv: Sha256
    data: Sha256
    overlay: Sha256 | None = None
    calibration: Calibration | None = None
    confidence: FiniteFloat = Field(ge=0, le=1)
    accepted: bool = False
    axes_confidence: dict[str, FiniteFloat] = {}
    curves: tuple[FoundCurve, ...] = Field(default=(), max_length=CARRIED_CURVES)
    timings_s: dict[str, float] = {}
    notes: tuple[str, ...] = ()
    at: ChartAt | None = None
    others: tuple[ChartAt, ...] = Field(default=(), max_length=OTHER_CHARTS)


class ExtractionRequested(Event, name="extraction.requested"):
    """It waits in the queue as the job of the same id. `corrects`: the extraction whose calibration was put right."""

    extraction_id: UUID
    graph_image_id: Sha256
    method: Method
    parameters: Parameters
    queue_id: Id
    priority: Priority
    batch_id: UUID | None = None
    corrects: UUID | None = None
    estimated_s: float
    title: Title = ""


class ExtractionStarted(Event, name="extraction.started"):
    """A worker has begun an attempt."""

    extraction_id: UUID
    attempt: int
    worker: str


class ExtractionCompleted(Event, name="extraction.completed"):
    """The curves are read. `duration_s` is that of the attempt which did it."""

    extraction_id: UUID
    attempt: int
    duration_s: float
    result: Result


class ExtractionFailed(Event, name="extraction.failed"):
    """No further attempt comes by itself."""

    extraction_id: UUID
    attempt: int
    error: str
    kind: ErrorKind


class ExtractionCancelled(Event, name="extraction.cancelled"):
    """It was called off before it ended."""

    extraction_id: UUID
    reason: str


ExtractionEvent = ExtractionRequested | ExtractionStarted | ExtractionCompleted | ExtractionFailed | ExtractionCancelled


class RequestExtraction(Command, name="extraction.request"):
    """Read the curves of an image. With `calibration` in `parameters` nothing is guessed about the axes.

    `corrects` names an earlier extraction of the same image whose calibration is put right; what is not given is taken over.
    """

    extraction_id: UUID
    graph_image_id: Sha256
    method: Method = "standard"
    parameters: Parameters = Parameters()
    queue_id: Id = QUEUE
    priority: Priority = "normal"
    batch_id: UUID | None = None
    corrects: UUID | None = None
    title: Title = ""


class PlaceExtraction(Command):
    """`RequestExtraction`, checked against its image, with what it will take."""

    extraction_id: UUID
    request: RequestExtraction
    estimated_s: float


class StartExtraction(Command):
    extraction_id: UUID
    attempt: int
    worker: str


class CompleteExtraction(Command):
    extraction_id: UUID
    attempt: int
    duration_s: float
    result: Result


class FailExtraction(Command):
    extraction_id: UUID
    attempt: int
    error: Words
    kind: ErrorKind


class CancelExtraction(Command):
    """Its job was cancelled."""

    extraction_id: UUID
    reason: str = ""


ExtractionCommand = PlaceExtraction | StartExtraction | CompleteExtraction | FailExtraction | CancelExtraction


@dataclass(frozen=True)
class Extraction:
    """`data` is the blob with the curves, and `at` the chart of a PDF that was read, once completed."""

    requested: ExtractionRequested | None = None
    state: State = "none"
    attempt: int = 0
    worker: str = ""
    reason: str = ""
    data: str | None = None
    confidence: float | None = None
    accepted: bool = False
    curves: int = 0
    at: ChartAt | None = None


def estimated_s(method: Method, pixels: int, calibrated: bool) -> float:
    """Seconds that an extraction will probably take: a share for the start and one for each pixel; a model on the network
    answers when it likes."""
    by_method: dict[Method, tuple[float, float]] = {"standard": (0.5, 0.6), "legacy": (0.1, 0.15), "llm": (8.0, 0.6)}
    start_s, megapixel_s = by_method[method]
    return round(start_s * (0.6 if calibrated else 1.0) + megapixel_s * (pixels or 2_000_000) / 1e6, 3)


def decide(extraction: Extraction, command: ExtractionCommand) -> list[ExtractionEvent]:
    """Raises `NotFound`, `AlreadyExists` (the id is taken), `WrongState`."""
    if isinstance(command, PlaceExtraction):
        return _place(extraction, command)
    id_, state = command.extraction_id, extraction.state
    if extraction.requested is None:
        raise NotFound(f"there is no extraction {id_}; request it first")
    match command:
        case StartExtraction():
            if state == "completed":
                raise WrongState(f"extraction {id_} is completed; request a new one")
            if state == "running" and extraction.attempt == command.attempt:
                return []
            return [ExtractionStarted(extraction_id=id_, attempt=command.attempt, worker=command.worker)]
        case CompleteExtraction():
            if state == "completed" and extraction.attempt == command.attempt:
                return []
            _must_run(extraction, command.attempt, id_)
            return [
                ExtractionCompleted(
                    extraction_id=id_, attempt=command.attempt, duration_s=command.duration_s, result=command.result
                )
            ]
        case FailExtraction():
            if state in ("failed", "cancelled", "completed"):
                return []
            return [
                ExtractionFailed(extraction_id=id_, attempt=command.attempt, error=command.error, kind=command.kind)
            ]
        case CancelExtraction():
            if state in ("failed", "cancelled", "completed"):
                return []
            return [ExtractionCancelled(extraction_id=id_, reason=command.reason)]
    assert_never(command)


def _place(extraction: Extraction, command: PlaceExtraction) -> list[ExtractionEvent]:
    request = command.request
    if request.method == "llm" and request.parameters.calibration is not None:
        raise Refused("the method llm asks for the calibration; give none, or choose the method standard")
    if request.corrects == command.extraction_id:
        raise Refused("an extraction cannot correct itself; choose a new id")
    if len(request.model_dump_json()) > 200_000:
        raise OutOfLimits("the parameters are larger than 200,000 characters; give fewer")
    event = ExtractionRequested.model_validate(request.model_dump() | {"estimated_s": command.estimated_s})
    if extraction.requested is None:
        return [event]
    if extraction.requested == event:
        return []
    raise AlreadyExists(f"extraction {command.extraction_id} exists already with other contents; choose a new id")


def _must_run(extraction: Extraction, attempt: int, id_: UUID) -> None:
    if extraction.state != "running" or extraction.attempt != attempt:
        raise WrongState(
            f"extraction {id_} is {extraction.state} at attempt {extraction.attempt}; stop working on attempt {attempt}"
        )


def evolve(extraction: Extraction, event: ExtractionEvent) -> Extraction:
    match event:
        case ExtractionRequested():
            return Extraction(requested=event, state="requested")
        case ExtractionStarted():
            return replace(extraction, state="running", attempt=event.attempt, worker=event.worker, reason="")
        case ExtractionCompleted(result=result):
            return replace(
                extraction,
                state="completed",
                worker="",
                data=result.data,
                confidence=result.confidence,
                accepted=result.accepted,
                curves=len(result.curves),
                at=result.at,
            )
        case ExtractionFailed():
            return replace(extraction, state="failed", worker="", reason=event.error)
        case ExtractionCancelled():
            return replace(extraction, state="cancelled", worker="", reason=event.reason)
    assert_never(event)


aggregate = Aggregate(kind="extraction", initial=Extraction(), decide=decide, evolve=evolve, schema=2)
