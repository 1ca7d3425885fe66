"""What a process of the worker's pool does: an image becomes curves, curves become a model, a scan leaves its artifacts.

Blobs are written here, before their digests are said: what an event names is always there. Nothing else is written; what
counts is for the worker, which knows whether the attempt still does.
"""

import asyncio
import importlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.processes.pool import Task
from bus.connection import Credentials, connect
from bus.envelope import Stored
from bus.errors import Unavailable
from bus.store import EventStore
from bus.streams import evt
from domain.errors import NotFound, Refused
from domain.extraction import CARRIED_CURVES, CARRIED_POINTS, OTHER_CHARTS, Result
from domain.ports import Blobs, Extractor, NotPossible, PictureRefused, Report, SpiceFitter
from domain.readings import ReadingsOpened, ReadingsRecorded
from domain.spice_model import ChartOf, FitResult, by_quantity, measured
from labledger.blobs import open_blobs
from labledger.picture_file import look_at

CURVES, SPICE = "labledger.curves:CurvesExtractor", "labledger.curves:NgspiceFitter"


def made(path: str, **options: Any) -> Any:
    """What `module:factory` makes. The module is imported only here, in the process that needs it."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)(**options)


def tasks(
    blobs: Mapping[str, Any],
    extractor: str = CURVES,
    fitter: str = SPICE,
    llm: dict[str, str] | None = None,
    nats: Mapping[str, Any] | None = None,
) -> dict[str, Task]:
    """The tasks of a process, by the kind of job. The libraries behind them are loaded by the first that needs them.

    `blobs` says where they are kept, as `labledger.blobs.spec_of` has it. `llm`: url, model and key of the endpoint that an extractor may ask. `nats`: `urls` of the servers where the events of
    scans are read, and how to sign in there (`user`, `password`, `inbox_prefix`).
    """
    kept = open_blobs(blobs)
    ready: dict[str, Any] = {}

    def ported(path: str, **options: Any) -> Any:
        if path not in ready:
            ready[path] = made(path, **options)
        return ready[path]

    return {
        "extraction": lambda spec, report: extract(
            spec, report, ported(extractor, **({"llm": llm} if llm else {})), kept
        ),
        "spice_fit": lambda spec, report: fit(spec, report, ported(fitter), kept),
        "artifacts": lambda spec, report: {
            "artifacts": asyncio.run(artifacts(spec, report, kept, Path(blobs["dir"]), nats or {}))
        },
    }


def extract(spec: Mapping[str, Any], report: Report, extractor: Extractor, blobs: Blobs) -> dict[str, Any]:
    """The result of an extraction, as `domain.extraction.Result` has it. Raises `PictureRefused`, `NotPossible`."""
    image_id = str(spec["graph_image_id"])
    data = _bytes(blobs, image_id)
    found = look_at(data)  # whoever registered it may have said anything
    if found.media_type != spec["media_type"]:
        raise PictureRefused(f"it was said to be {spec['media_type']} and is {found.media_type}; register it as that")
    report(1.0, "reading the image")
    done = extractor.extract(data, str(spec["method"]), spec["parameters"], report)
    report(95.0, "storing what was found")
    curves = [
        {
            "name": one.name,
            "confidence": round(float(one.confidence), 4),
            "points": len(one.x),
            "x": [_short(value) for value in _thinned(one.x)],
            "y": [_short(value) for value in _thinned(one.y)],
            "axis": one.axis,
            "mark": None if one.mark is None else {"x_px": one.mark[0], "y_px": one.mark[1]},
        }
        for one in done.curves
    ]
    notes = [str(note)[:500] for note in done.notes]
    if len(curves) > CARRIED_CURVES:
        notes.append(f"{len(curves)} curves were found; the first {CARRIED_CURVES} are listed, `data` has all")
    if len(done.others) > OTHER_CHARTS:
        notes.append(
            f"the file has {len(done.others) + 1} charts; ask for those after the {OTHER_CHARTS + 1}th by page"
        )
    result: dict[str, Any] = {
        "csv": blobs.put(done.csv),
        "data": blobs.put(json.dumps(done.prediction, allow_nan=False).encode()),
        "overlay": blobs.put(done.overlay) if done.overlay is not None else None,
        "calibration": done.calibration,
        "confidence": round(float(done.confidence), 4),
        "accepted": bool(done.accepted),
        "axes_confidence": {name: round(float(value), 4) for name, value in done.axes_confidence.items()},
        "curves": curves[:CARRIED_CURVES],
        "timings_s": {name: round(float(value), 4) for name, value in done.timings_s.items()},
        "notes": notes,
        "at": None if done.at is None else {"page": done.at[0], "chart": done.at[1]},
        "others": [{"page": page, "chart": chart} for page, chart in done.others[:OTHER_CHARTS]],
    }
    return Result.model_validate(result).model_dump(mode="json")


def _bytes(blobs: Blobs, sha256: str) -> bytes:
    try:
        return blobs.get(sha256)
    except ValueError as error:  # damaged: the same bytes would be refused again, and are not what was registered
        raise PictureRefused(str(error)) from None
    except NotFound as error:
        # Another machine may have stored it a moment ago: worth another try.
        raise RuntimeError(
            f"{error}: do all machines share one store of blobs (LABLEDGER_BLOBS_STORE, LABLEDGER_BLOBS_DIR)?"
        ) from None


def _thinned(values: Sequence[float]) -> list[float]:
    """At most `CARRIED_POINTS` of them, evenly taken, with the first and the last."""
    count = len(values)
    if count <= CARRIED_POINTS:
        return [float(value) for value in values]
    step = (count - 1) / (CARRIED_POINTS - 1)
    return [float(values[round(index * step)]) for index in range(CARRIED_POINTS)]


def _short(value: float) -> float:
    """Seven digits: more than any image holds."""
    return float(f"{value:.7g}")


def fit(spec: Mapping[str, Any], report: Report, fitter: SpiceFitter, blobs: Blobs) -> dict[str, Any]:
    """The result of a fit, as `domain.spice_model.FitResult` has it. Raises `NotPossible`."""
    charts: list[ChartOf] = []
    for chart in spec["charts"]:
        found: dict[str, Any] = json.loads(_bytes(blobs, str(chart["data"])))
        charts += charts_of(chart, found)
    data, notes = measured(str(spec["name"]), str(spec["device_type"]), charts)
    report(1.0, "reading the curves")
    images = {f"image {n}": str(chart["graph_image_id"]) for n, chart in enumerate(spec["charts"], start=1)}
    try:
        done = fitter.fit(data, list(spec["forms"]), bool(spec["simulate"]), images, report)
    except Refused as error:
        raise NotPossible("; ".join([str(error), *notes])) from None
    report(95.0, "storing the model")
    result = dict(done.result)
    result["findings"] = [*result.get("findings", ()), *notes]
    result["validity"] = {name: span.model_dump() for name, span in by_quantity(data).items()}
    result |= {
        "library": blobs.put(done.library),
        "report": blobs.put(done.report),
        "plot": blobs.put(done.plot) if done.plot is not None else None,
        "suggested": blobs.put(done.suggested) if done.suggested is not None else None,
    }
    return FitResult.model_validate(result).model_dump(mode="json")


def charts_of(chart: Mapping[str, Any], found: Mapping[str, Any]) -> list[ChartOf]:
    """An extracted chart from its `data` blob and what is known of its image; a second y axis makes it two."""
    axes: Mapping[str, Any] = found.get("axes") or {}

    def said(name: str, what: str) -> str:
        axis: Mapping[str, Any] = axes.get(name) or {}
        return str(axis.get(what) or "")

    def on(side: str, shows: str | None) -> ChartOf:
        curves = [one for one in found.get("curves", ()) if one.get("axis", "y") == side]
        return ChartOf(
            chart=shows,
            x_unit=said("x", "unit"),
            y_unit=said(side, "unit"),
            x_title=said("x", "title"),
            source=str(chart.get("file_name") or ""),
            curves=tuple((one.get("name"), one["x"], one["y"]) for one in curves),
            tj_c=chart.get("tj_c"),
            vds_v=chart.get("vds_v"),
            vgs_v=chart.get("vgs_v"),
        )

    first = on("y", chart.get("chart"))
    if axes.get("y2") is None:
        return [first]
    # What was said of the chart holds for its second axis too if that has the same quantity.
    same = said("y2", "unit")[-1:] == said("y", "unit")[-1:]
    return [first, on("y2", chart.get("chart") if same or not chart.get("chart") else "other")]


async def artifacts(
    spec: Mapping[str, Any], report: Report, blobs: Blobs, folder: Path, nats: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The files of a scan as it was completed at an event. Its events are read here, so that they pass through no other process.

    Raises `NotPossible` where the libraries are not installed.
    """
    try:
        from adapters.artifacts.make import artifacts_of
    except ImportError as error:
        raise NotPossible(
            f"artifacts need pyarrow and matplotlib ({error}): pip install 'labledger[artifacts]'"
        ) from None
    credentials = Credentials(nats.get("user"), nats.get("password"), nats.get("inbox_prefix", "_INBOX"))
    bus = await connect(list(nats["urls"]), "labledger-artifacts", credentials)
    store, scan_id, upto = EventStore(bus), str(spec["scan_id"]), int(spec["sequence"])

    async def frames() -> AsyncIterator[ReadingsOpened | ReadingsRecorded]:
        async for stored in _read(store, evt("readings", scan_id), upto):
            if isinstance(event := stored.event, ReadingsOpened | ReadingsRecorded):
                yield event

    try:
        history = [stored async for stored in _read(store, evt("scan", scan_id), upto)]
        return await artifacts_of(history, frames, folder, blobs, report)
    finally:
        await bus.close()


async def _read(store: EventStore, subject: str, upto: int) -> AsyncIterator[Stored]:
    """The events of a subject up to a sequence, also if NATS is away in between."""
    position = 0
    while True:
        try:
            async for stored in store.tail(subject, position):
                if stored.seq > upto:
                    return
                position = stored.seq
                yield stored
            return
        except Unavailable:
            await asyncio.sleep(0.5)
