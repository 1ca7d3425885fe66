"""The SPICE model of one product, version by version.

    version n:  fit requested --> started --> fitted
                        |            |------> fit failed
                        '------------'------> fit cancelled

A model has the id of its product; each fit of it is a new version with a number of its own, which is never used again. The
work is a job of the ordinary queue under the id of the fit. Which extractions go in is settled when the fit is requested, so
that a version says for ever what it was made from.

A version is `good` or not by the figure of its *simulated* netlist; without a simulator it is `unchecked`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, assert_never
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints

from domain.aggregate import Aggregate
from domain.errors import AlreadyExists, NotFound, OutOfLimits, WrongState
from domain.events import Command, Event, Id
from domain.extraction import QUEUE
from domain.job import Priority
from domain.sample import Sha256

Grade = Literal["good", "acceptable", "poor", "unchecked", "suspect"]
State = Literal["requested", "running", "fitted", "failed", "cancelled"]
FormName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
Words = Annotated[str, StringConstraints(max_length=2000)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class FittedParameter(_Part):
    """A parameter of the model as it stands in the netlist."""

    name: str
    value: FiniteFloat
    unit: str = ""


class Span(_Part):
    """From the smallest to the largest value that the curves had. `unit` is theirs."""

    value_from: FiniteFloat
    value_to: FiniteFloat
    unit: str = ""


class FitResult(_Part):
    """`library` is the .lib, `report` (JSON: curves, candidates) and `plot` (PNG) come with it; all blobs by their SHA-256.

    `nrmse`: rms error of the currents as a share of the largest; `mare`: mean relative error where the current is above 5 % of
    its maximum; `capacitance_decades`: rms error in decades for each capacitance. All of the simulated netlist if `simulated`,
    else of the formula. `check` says which simulator, or why none. `validity`: the range of the curves, by quantity.
    `suggested`: of a suspect set, the .lib of the set with the change that its findings name.
    """

    form: str
    parameters: tuple[FittedParameter, ...]
    library: Sha256
    report: Sha256 | None = None
    plot: Sha256 | None = None
    grade: Grade
    simulated: bool
    check: str
    nrmse: FiniteFloat | None = None
    mare: FiniteFloat | None = None
    capacitance_decades: dict[str, FiniteFloat] = {}
    findings: tuple[str, ...] = ()
    validity: dict[str, Span] = {}
    suggested: Sha256 | None = None


class FitRequested(Event, name="spice_model.fit_requested"):
    """The next version is to be fitted, as the job `fit_id`. `forms`: only these; all that suit if none is given."""

    spice_model_id: Id
    fit_id: UUID
    version: int
    extraction_ids: tuple[UUID, ...]
    forms: tuple[FormName, ...] = ()
    simulate: bool = True
    queue_id: Id
    priority: Priority
    batch_id: UUID | None = None


class FitStarted(Event, name="spice_model.fit_started"):
    """A worker has begun an attempt."""

    spice_model_id: Id
    fit_id: UUID
    attempt: int
    worker: str


class Fitted(Event, name="spice_model.fitted"):
    """The version is there. `duration_s` is that of the attempt which did it."""

    spice_model_id: Id
    fit_id: UUID
    version: int
    attempt: int
    duration_s: float
    result: FitResult


class FitFailed(Event, name="spice_model.fit_failed"):
    """No further attempt comes by itself."""

    spice_model_id: Id
    fit_id: UUID
    attempt: int
    error: str


class FitCancelled(Event, name="spice_model.fit_cancelled"):
    """It was called off before it ended."""

    spice_model_id: Id
    fit_id: UUID
    reason: str


SpiceModelEvent = FitRequested | FitStarted | Fitted | FitFailed | FitCancelled


class RequestFit(Command, name="spice_model.fit"):
    """Fit a model to a product's curves; a model that is there gets a new version. `spice_model_id` is the product's id.

    Without `extraction_ids` the newest completed extraction of each chart of the product goes in, if its confidence is at
    least `min_confidence`.
    """

    spice_model_id: Id
    fit_id: UUID
    extraction_ids: tuple[UUID, ...] = Field(default=(), max_length=200)
    min_confidence: float = Field(default=0.5, ge=0, le=1)
    forms: tuple[FormName, ...] = Field(default=(), max_length=50)
    simulate: bool = True
    queue_id: Id = QUEUE
    priority: Priority = "normal"
    batch_id: UUID | None = None


class PlaceFit(Command):
    """`RequestFit` with the extractions that go in."""

    spice_model_id: Id
    request: RequestFit
    extraction_ids: tuple[UUID, ...]


class StartFit(Command):
    spice_model_id: Id
    fit_id: UUID
    attempt: int
    worker: str


class CompleteFit(Command):
    spice_model_id: Id
    fit_id: UUID
    attempt: int
    duration_s: float
    result: FitResult


class FailFit(Command):
    spice_model_id: Id
    fit_id: UUID
    attempt: int
    error: Words


class CancelFit(Command):
    """Its job was cancelled."""

    spice_model_id: Id
    fit_id: UUID
    reason: str = ""


SpiceModelCommand = PlaceFit | StartFit | CompleteFit | FailFit | CancelFit


@dataclass(frozen=True)
class Version:
    requested: FitRequested
    state: State = "requested"
    attempt: int = 0
    worker: str = ""
    reason: str = ""
    library: str | None = None
    grade: Grade | None = None

    @property
    def number(self) -> int:
        return self.requested.version


@dataclass(frozen=True)
class SpiceModel:
    """Its versions by the id of the fit, in the order of their numbers."""

    versions: dict[str, Version] = field(default_factory=dict[str, Version])

    @property
    def latest(self) -> Version | None:
        """The newest version that was fitted."""
        return next((v for v in reversed(self.versions.values()) if v.state == "fitted"), None)


def decide(model: SpiceModel, command: SpiceModelCommand) -> list[SpiceModelEvent]:
    """Raises `NotFound`, `AlreadyExists` (the fit's id is taken), `OutOfLimits` (nothing to fit), `WrongState`."""
    if isinstance(command, PlaceFit):
        return _place(model, command)
    id_, fit_id = command.spice_model_id, command.fit_id
    version = model.versions.get(str(fit_id))
    if version is None:
        raise NotFound(f"there is no fit {fit_id} of model {id_}; request it first")
    ended = version.state in ("fitted", "failed", "cancelled")
    match command:
        case StartFit():
            if version.state == "fitted":
                raise WrongState(f"fit {fit_id} is done; request a new one")
            if version.state == "running" and version.attempt == command.attempt:
                return []
            return [FitStarted(spice_model_id=id_, fit_id=fit_id, attempt=command.attempt, worker=command.worker)]
        case CompleteFit():
            if version.state == "fitted" and version.attempt == command.attempt:
                return []
            if version.state != "running" or version.attempt != command.attempt:
                raise WrongState(
                    f"fit {fit_id} is {version.state} at attempt {version.attempt}; "
                    f"stop working on attempt {command.attempt}"
                )
            return [
                Fitted(
                    spice_model_id=id_,
                    fit_id=fit_id,
                    version=version.number,
                    attempt=command.attempt,
                    duration_s=command.duration_s,
                    result=command.result,
                )
            ]
        case FailFit():
            if ended:
                return []
            return [FitFailed(spice_model_id=id_, fit_id=fit_id, attempt=command.attempt, error=command.error)]
        case CancelFit():
            return [] if ended else [FitCancelled(spice_model_id=id_, fit_id=fit_id, reason=command.reason)]
    assert_never(command)


def _place(model: SpiceModel, command: PlaceFit) -> list[SpiceModelEvent]:
    request = command.request
    known = model.versions.get(str(request.fit_id))
    if not command.extraction_ids and known is None:
        raise OutOfLimits(
            f"product {command.spice_model_id} has no completed extraction with a confidence of at least "
            f"{request.min_confidence:g}; add images of its curves, or give the extractions to use"
        )
    event = FitRequested(
        spice_model_id=command.spice_model_id,
        fit_id=request.fit_id,
        version=len(model.versions) + 1 if known is None else known.number,
        extraction_ids=command.extraction_ids,
        forms=request.forms,
        simulate=request.simulate,
        queue_id=request.queue_id,
        priority=request.priority,
        batch_id=request.batch_id,
    )
    if known is None:
        return [event]
    if known.requested.forms == event.forms and request.extraction_ids in ((), known.requested.extraction_ids):
        return []
    raise AlreadyExists(f"fit {request.fit_id} exists already with other contents; choose a new id")


def evolve(model: SpiceModel, event: SpiceModelEvent) -> SpiceModel:
    if isinstance(event, FitRequested):
        return SpiceModel({**model.versions, str(event.fit_id): Version(event)})
    version = model.versions.get(str(event.fit_id))
    if version is None:
        return model
    match event:
        case FitStarted():
            version = replace(version, state="running", attempt=event.attempt, worker=event.worker, reason="")
        case Fitted(result=result):
            version = replace(version, state="fitted", worker="", library=result.library, grade=result.grade)
        case FitFailed():
            version = replace(version, state="failed", worker="", reason=event.error)
        case FitCancelled():
            version = replace(version, state="cancelled", worker="", reason=event.reason)
        case _:
            assert_never(event)
    return SpiceModel({**model.versions, str(event.fit_id): version})


aggregate = Aggregate(kind="spice_model", initial=SpiceModel(), decide=decide, evolve=evolve)


# -- from charts to the curves of a device ------------------------------------------------------------------------------------

_PREFIXES = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "": 1.0}
_NUMBER = r"([-+−]?\d+(?:[.,]\d+)?)"
_CAPACITANCES = ("c_iss", "c_oss", "c_rss")
_SAY_UNIT = " (extractions correct, with `unit` in the calibration)"
_FITTED = ("output", "transfer", "body_diode", "diode", "capacitance")


def factor(unit: str) -> float:
    """What a value in this unit is multiplied by to be in V, A, F: `mA` is 1e-3. 1 for what is not known."""
    found = re.fullmatch(r"\(?\[?([fpnuµμmkM]?)(?:A|V|F)\]?\)?", unit.strip())
    return _PREFIXES[found[1]] if found else 1.0


def value_in(name: str | None, quantity: str) -> float | None:
    """The value of a quantity in a curve's name: 4.0 of `VGS` in `Vgs = 4 V`, and of a bare `4 V` too. None without one."""
    if name is None:
        return None
    plain = re.sub(r"[\s_()]", "", name)
    found = re.search(rf"{quantity}[=:]?{_NUMBER}(m?)V?", plain, re.IGNORECASE) or re.fullmatch(
        rf"{_NUMBER}(m?)V", plain
    )
    if found is None:
        return None
    return float(found[1].replace(",", ".").replace("−", "-")) * (1e-3 if found[2] else 1.0)


@dataclass(frozen=True)
class ChartOf:
    """An extracted chart: what it shows, at which values, its axes, and its curves as (name, x, y). `source` is for words."""

    chart: str | None
    x_unit: str
    y_unit: str
    curves: tuple[tuple[str | None, Sequence[float], Sequence[float]], ...]
    tj_c: float | None = None
    vds_v: float | None = None
    vgs_v: float | None = None
    x_title: str = ""
    source: str = ""


def shown_by(chart: ChartOf) -> str:
    """What a chart shows if nobody said so: told by its axes and the names of its curves. `other` when they do not tell."""
    if chart.chart is not None:
        return chart.chart
    unit, along = chart.y_unit.strip("()[] "), re.sub(r"[\W_]", "", chart.x_title.lower())
    if unit.endswith("F"):
        return "capacitance"
    if unit.endswith("A") and any(word in along for word in ("vsd", "sourcetodrain", "sourcedrain", "bodydiode")):
        return "body_diode"
    if any(word in along for word in ("vgs", "gatetosource", "gatesource")):
        # Against the gate's voltage there are others too, such as the charge.
        return "transfer" if unit.endswith("A") else "other"
    names = [name for name, _, _ in chart.curves]
    if names and all(value_in(name, "vgs") is not None for name in names):
        return "output"
    return "other"


def measured(name: str, device_type: str, charts: Sequence[ChartOf]) -> tuple[dict[str, Any], list[str]]:
    """The measured curves of a device as `domain.spice_curves.measured_from` reads them, and notes about what was left out.

    Curves of several junction temperatures do not make one model: those at the temperature nearest to 25 °C are taken.
    """
    notes: list[str] = []
    given = [chart.tj_c for chart in charts if chart.tj_c is not None]
    tj_c = min(given, key=lambda t: abs(t - 25.0), default=25.0)
    out: dict[str, Any] = {"name": name, "type": device_type, "tj": tj_c}
    for chart in charts:
        if chart.tj_c is not None and chart.tj_c != tj_c:
            notes.append(f"a chart at {chart.tj_c:g} °C is left out: the model is for {tj_c:g} °C")
            continue
        shows, fx, fy = shown_by(chart), factor(chart.x_unit), factor(chart.y_unit)
        where = f" of {chart.source}" if chart.source else ""
        if shows not in _FITTED:
            why = "it shows something else" if chart.chart else "nothing tells what it shows (images describe --chart)"
            notes.append(f"{chart.source or 'a chart'} is left out: {why}")
            continue
        if shows == "capacitance" and not chart.y_unit:
            # pF or nF: a guess would be off by a thousand.
            notes.append(
                f"{chart.source or 'a chart'} is left out: the unit of its capacitances was not read{_SAY_UNIT}"
            )
            continue
        for axis, unit, usual in (("x", chart.x_unit, "V"), ("y", chart.y_unit, "A")):
            if not unit:
                notes.append(f"the unit of the {axis} axis{where} was not read and is taken to be {usual}{_SAY_UNIT}")
        for label, xs, ys in chart.curves:
            x, y = [fx * value for value in xs], [fy * value for value in ys]
            tj = value_in_celsius(label)
            if tj is not None and tj != tj_c:
                notes.append(f"the curve {label!r}{where} is left out: the model is for {tj_c:g} °C")
                continue
            match shows:
                case "output":
                    vgs = value_in(label, "vgs")
                    vgs = chart.vgs_v if vgs is None else vgs
                    if vgs is None:
                        notes.append(f"an output curve{where} is left out: its name {label!r} gives no VGS")
                    else:
                        out.setdefault("output", []).append({"vgs": vgs, "vds": x, "id": y})
                case "transfer":
                    if chart.vds_v is None and value_in(label, "vds") is None:
                        named = f", its name {label!r} does not give it" if label else ""
                        notes.append(
                            f"a transfer curve{where} is left out: its VDS is not known{named} (images describe --vds)"
                        )
                    else:
                        vds = value_in(label, "vds")
                        row = {"vds": chart.vds_v if vds is None else vds, "vgs": x, "id": y}
                        out.setdefault("transfer", []).append(row)
                case "body_diode" | "diode":
                    row = {"v": [abs(value) for value in x], "i": [abs(value) for value in y]}
                    vgs = value_in(label, "vgs")
                    out.setdefault("diode", []).append(row | ({"vgs": vgs} if vgs is not None else {}))
                case "capacitance":
                    key = _capacitance(label)
                    if key is None:
                        notes.append(f"a capacitance{where} is left out: {label!r} is none of Ciss, Coss, Crss")
                    else:
                        out.setdefault("capacitance", {})[key] = {"v": x, "c": y}
                case _:
                    pass  # left out above
    return out, list(dict.fromkeys(notes))


def value_in_celsius(name: str | None) -> float | None:
    """The temperature in a curve's name: 150.0 of `Tj = 150 °C`."""
    found = re.search(rf"{_NUMBER}\s*(?:°|º|deg)\s*C", name or "")
    return None if found is None else float(found[1].replace(",", ".").replace("−", "-"))


def _capacitance(label: str | None) -> str | None:
    plain = re.sub(r"[^a-z]", "", (label or "").lower())
    return next((key for key in _CAPACITANCES if key.replace("_", "") in plain), None)


def by_quantity(data: Mapping[str, Any]) -> dict[str, Span]:
    """The ranges of the curves that went in: what a model is good for."""
    spans: dict[str, Span] = {}

    def widen(name: str, values: Sequence[float], unit: str) -> None:
        if values:
            low, high = min(values), max(values)
            old = spans.get(name)
            spans[name] = Span(
                value_from=min(low, old.value_from) if old else low,
                value_to=max(high, old.value_to) if old else high,
                unit=unit,
            )

    for row in data.get("output", ()):
        widen("vgs", [row["vgs"]], "V")
        widen("vds", row["vds"], "V")
        widen("id", row["id"], "A")
    for row in data.get("transfer", ()):
        widen("vgs", row["vgs"], "V")
        widen("vds", [row["vds"]], "V")
        widen("id", row["id"], "A")
    for row in data.get("diode", ()):
        widen("diode_v", row["v"], "V")
        widen("diode_i", row["i"], "A")
    for key in _CAPACITANCES:
        if key in data.get("capacitance", {}):
            widen("capacitance_v", data["capacitance"][key]["v"], "V")
    return spans
