"""labledger extractions, extract: from pictures of plots to data."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bus.roles import Role
from labledger.cli.arguments import Batch, Image, Method, Priority, Queue, Wait
from labledger.cli.common import Code, Session, Stop, command, duration, read_text, resolve, write_file

if TYPE_CHECKING:
    from labledger.client import Lab


ExtractionId = Annotated[
    str, typer.Argument(metavar="EXTRACTION", help="Its id, its first or last letters, or `last`.")
]
Reason = Annotated[str, typer.Option("--reason", help="For the history.")]
CalibrationFile = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        metavar="FILE",
        help="The axes (JSON), as `extractions show --calibration` or `extract` gave them; `-` is standard input.",
    ),
]
CurveCount = Annotated[
    int | None, typer.Option("--curves", min=1, help="How many curves there are: the clearest are kept.")
]
Colours = Annotated[list[str] | None, typer.Option("--colour", help="Colour of a curve, #rrggbb; once for each.")]


def register(app: typer.Typer) -> None:
    _extractions(app)
    _extract(app)


_ROW = {
    "extraction_id": "extraction",
    "title": "title",
    "state": "state",
    "share": "done",
    "confidence": "confidence",
} | {"accepted": "accepted", "curves": "curves", "took": "took", "error": "error"}


def _shown(one: Mapping[str, Any]) -> dict[str, Any]:
    over = one["state"] == "completed"
    took = one.get("duration_s")
    expected = f"about {duration(one['estimated_s'])}" if one["state"] in ("waiting", "running") else ""
    return dict(one) | {
        "share": "" if over else f"{one['percent']:.0f} %",
        "took": f"{took:.2f} s" if took is not None else expected,
        "error": "" if over else one.get("error", ""),
    }


def _extractions(app: typer.Typer) -> None:
    group = typer.Typer(help="Extractions: images become curves.", no_args_is_help=True)
    app.add_typer(group, name="extractions")

    @command(group, "request", example="labledger extractions request 3fa85f64 --priority high")
    def _request(
        session: Session,
        image_id: Image,
        method: Annotated[str | None, typer.Option("--method", help="standard, legacy or llm.")] = None,
        calibration: CalibrationFile = None,
        curves: CurveCount = None,
        colours: Colours = None,
        page: Annotated[int | None, typer.Option("--page", min=1, help="Of a PDF. [default: all]")] = None,
        chart: Annotated[
            int | None, typer.Option("--chart", min=1, help="On that page, in reading order. [default: all]")
        ] = None,
        priority: Priority = "normal",
        queue: Queue = None,
        batch: Batch = None,
        wait: Wait = False,
    ) -> None:
        """Read the curves of an image. Of a PDF each chart gets an extraction of its own."""
        parameters = _parameters(calibration, curves=curves, colours=colours, page=page, chart=chart)
        fields = {"method": method, "priority": priority, "queue_id": queue, "batch_id": batch}

        async def request(lab: "Lab") -> None:
            image = await resolve(lab, "graph_image", image_id)
            id_ = await lab.extractions.request(image, parameters=parameters or None, **fields)
            await _requested(session, lab, str(id_), wait=wait)

        session.run(request)

    @command(group, "correct", example="labledger extractions correct last --calibration axes.json --wait")
    def _correct(
        session: Session,
        extraction_id: ExtractionId,
        calibration: CalibrationFile = None,
        curves: CurveCount = None,
        colours: Colours = None,
        on_second: Annotated[
            list[int] | None,
            typer.Option("--on-y2", min=1, help="Number of a curve that belongs to the second y axis; once for each."),
        ] = None,
        method: Annotated[str | None, typer.Option("--method", help="standard or legacy.")] = None,
        priority: Priority = "normal",
        queue: Queue = None,
        wait: Wait = False,
    ) -> None:
        """Read an image again with what you put right. The earlier extraction stays; the new one refers to it.

        `extractions show --calibration` prints the axes that were found, to be edited. What is not given is as it was found, or
        asked for, the first time.
        """
        given = _parameters(calibration, curves=curves, colours=colours)
        fields = {"method": method, "priority": priority, "queue_id": queue}

        async def correct(lab: "Lab") -> None:
            earlier = await lab.extractions.get(await resolve(lab, "extraction", extraction_id))
            id_ = await lab.extractions.correct(earlier, given, on_second or (), **fields)
            await _requested(session, lab, str(id_), wait=wait)

        session.run(correct)

    @command(group, "list", example="labledger extractions list --state failed")
    def _list(
        session: Session,
        state: Annotated[
            str | None, typer.Option("--state", help="waiting, running, retrying, completed, failed or cancelled.")
        ] = None,
        batch: Batch = None,
        limit: Annotated[int, typer.Option("--limit", "-n", min=1)] = 20,
    ) -> None:
        """Extractions, the newest first."""
        found = session.run(lambda lab: lab.extractions.list(limit, state, batch))
        rows = found if session.json else [_shown(one) for one in found]
        session.table(rows, _ROW, empty="no extractions")

    @command(group, "show", example="labledger extractions show last")
    def _show(
        session: Session,
        extraction_id: ExtractionId,
        calibration: Annotated[
            bool, typer.Option("--calibration", help="Only the axes that were found, as JSON to be corrected.")
        ] = False,
        points: Annotated[bool, typer.Option("--points", help="The points of the curves, too.")] = False,
        out: Annotated[
            Path | None, typer.Option("--out", metavar="DIR", help="Write its CSV, JSON and overlay there.")
        ] = None,
        wait: Wait = False,
    ) -> None:
        """An extraction: where it stands, and what it found."""

        async def show(lab: "Lab") -> dict[str, Any]:
            id_ = await resolve(lab, "extraction", extraction_id)
            return await lab.extractions.wait(id_) if wait else await lab.extractions.get(id_)

        found = session.run(show)
        result: dict[str, Any] = found.get("result") or {}
        if calibration:
            if not result.get("calibration"):
                raise Stop(f"the extraction is {found['state']} and has no calibration", Code.REFUSED)
            axes = {name: axis for name, axis in result["calibration"].items() if axis is not None}
            print(json.dumps(axes, indent=None if session.json else 2, ensure_ascii=False))
            return
        if out is not None:
            _write(session, result, out, found)
        if session.json:
            if not points:
                _without_points(result)
            session.emit(found)
        else:
            _print_one(session, found, result, points=points)
        if wait and found["state"] != "completed":
            raise typer.Exit(int(Code.REFUSED))

    @command(group, "cancel", example="labledger extractions cancel last --reason 'wrong image'")
    def _cancel(session: Session, extraction_id: ExtractionId, reason: Reason = "") -> None:
        """Call an extraction off, also while it runs."""

        async def cancel(lab: "Lab") -> None:
            id_ = await resolve(lab, "extraction", extraction_id)
            session.outcome(await lab.extractions.cancel(id_, reason), f"extraction {id_} is cancelled")

        session.run(cancel)

    @command(group, "retry", example="labledger extractions retry last")
    def _retry(session: Session, extraction_id: ExtractionId) -> None:
        """Let a failed or cancelled extraction run again."""

        async def retry(lab: "Lab") -> None:
            id_ = await resolve(lab, "extraction", extraction_id)
            session.outcome(await lab.extractions.retry(id_), f"extraction {id_} waits again")

        session.run(retry)

    @command(group, "batch", example="labledger extractions batch 0199a1b2-...-c3d4 --cancel")
    def _batch(
        session: Session,
        batch_id: Annotated[str, typer.Argument(metavar="BATCH", help="Its id, or its first or last letters.")],
        cancel: Annotated[bool, typer.Option("--cancel", help="Cancel all of it that has not ended.")] = False,
        reason: Reason = "",
    ) -> None:
        """How far a batch is, or its end."""

        async def batch(lab: "Lab") -> None:
            id_ = await resolve(lab, "batch", batch_id)
            if cancel:
                session.outcome(await lab.batches.cancel(id_, reason), f"batch {id_} is cancelled")
                return
            found = await lab.batches.get(id_)
            session.record(found, title=f"batch {id_} is {found['state']}")

        session.run(batch)

    @command(group, "statistics", example="labledger extractions statistics")
    def _statistics(session: Session) -> None:
        """Throughput, success and durations of each queue, from the read models."""

        async def statistics(lab: "Lab") -> list[dict[str, Any]]:
            await lab.wait_for(await lab.last_sequence(), ["statistics"])
            return await lab.query("select * from labledger.queue_statistics order by queue_id, kind")

        columns = {"queue_id": "queue", "kind": "kind", "jobs": "jobs", "waiting": "waiting", "running": "running"}
        columns |= {"succeeded": "succeeded", "failed": "failed", "success_rate": "success", "per_hour": "per hour"}
        columns |= {"duration_p50_s": "p50 s", "duration_p95_s": "p95 s", "duration_p99_s": "p99 s"}
        session.table(session.run(statistics), columns, empty="no jobs yet")


def _without_points(result: Mapping[str, Any]) -> None:
    for curve in result.get("curves", ()):
        for name in ("x", "y"):
            curve.pop(name, None)


def _parameters(calibration: str | None, **more: Any) -> dict[str, Any]:
    """What an extraction is given: a file's calibration, and what the options say beside it."""
    from labledger.calibration_file import parameters_in

    told = {name: value for name, value in more.items() if value}
    return (parameters_in(read_text(calibration)) if calibration else {}) | told


async def _requested(session: Session, lab: "Lab", extraction_id: str, *, wait: bool) -> None:
    if wait:
        await _see_the_end(session, lab, extraction_id)
        return
    session.emit({"extraction_id": extraction_id})
    session.print(extraction_id)


async def _see_the_end(session: Session, lab: "Lab", extraction_id: str) -> None:
    found = await lab.extractions.wait(extraction_id)
    result: dict[str, Any] = found.get("result") or {}
    if found["state"] != "completed":
        raise Stop(f"extraction {extraction_id} {found['state']}: {found['error']}", Code.REFUSED, extraction=found)
    if session.json:
        _without_points(result)
        session.emit(found)
    else:
        _print_one(session, found, result, points=False)


def _print_one(session: Session, found: Mapping[str, Any], result: Mapping[str, Any], *, points: bool) -> None:
    from domain.extraction import part_of

    told = {key: value for key, value in found.items() if key not in ("result", "parameters")}
    if result:
        told.pop("note", None)  # what it was doing last
        told |= {"chart": part_of(**result["at"])} if result.get("at") else {}
    session.record(told, title=f"extraction {found['extraction_id']} is {found['state']}")
    if not result:
        return
    found_axes: dict[str, dict[str, Any] | None] = result["calibration"] or {}
    axes = {name: axis for name, axis in found_axes.items() if axis is not None}
    session.table(
        [_axis_row(name, axis, result["axes_confidence"].get(name)) for name, axis in axes.items()],
        {"name": "axis", "title": "title", "unit": "unit", "scale": "scale", "from": "from", "to": "to"}
        | {"confidence": "confidence"},
        empty="no axes",
    )
    sure = "accepted" if result["accepted"] else "to be looked at"
    session.print(f"confidence {result['confidence']:.2f} ({sure}), {len(result['curves'])} curves")
    rows: list[dict[str, Any]] = []
    for number, curve in enumerate(result["curves"], start=1):
        rows.append(curve | {"number": number, "from": _span(curve["x"]), "to": _span(curve["y"])})
    columns = {"number": "", "name": "curve", "confidence": "confidence", "points": "points", "from": "x", "to": "y"}
    session.table(rows, columns | ({"axis": "on"} if "y2" in axes else {}), empty="no curves")
    if points:
        for curve in result["curves"]:
            session.print(f"[bold]{curve['name'] or 'unnamed'}[/bold]")
            for x, y in zip(curve["x"], curve["y"], strict=True):
                session.print(f"  {x:.7g}\t{y:.7g}")
    for note in result["notes"]:
        session.print(f"note: {note}")
    if not result["accepted"]:
        session.print("[dim]to put it right: labledger extractions correct --help[/dim]")


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.4g} .. {max(values):.4g}" if values else ""


def _axis_row(name: str, axis: Mapping[str, Any], confidence: float | None) -> dict[str, Any]:
    values = [point["value"] for point in axis["points"]]
    low, high = min(values), max(values)
    if axis["scale"] == "linear":
        # What a measured axis is off from zero is no news.
        low, high = (float(f"{value:.3g}") if abs(value) > 1e-5 * (high - low) else 0.0 for value in (low, high))
    return dict(axis) | {"name": name, "from": low, "to": high, "confidence": confidence}


def _write(session: Session, result: Mapping[str, Any], out: Path, found: Mapping[str, Any]) -> None:
    """The blobs of a result as files."""
    from domain.extraction import part_of
    from labledger.blobs import blobs_of

    if not result:
        raise Stop(f"the extraction is {found['state']}: there is nothing to write yet", Code.REFUSED)
    blobs = blobs_of(session.settings, Role.PUBLISHER)
    out.mkdir(parents=True, exist_ok=True)
    part = found["parameters"]
    place = result.get("at") or part
    at = f"-p{place['page'] or 1}-{place['chart'] or 1}" if place["page"] or place["chart"] else ""
    # The title of a chart of a PDF is that of the file with the chart behind it.
    file_name = str(found.get("title") or "").removesuffix(part_of(part["page"], part["chart"])).strip()
    stem = (Path(file_name).stem or str(found["extraction_id"])) + at
    for name, ending in (("csv", ".csv"), ("data", ".json"), ("overlay", ".overlay.png")):
        if result.get(name):
            write_file(session, out / f"{stem}{ending}", blobs.get(result[name]))


def _extract(app: typer.Typer) -> None:
    @command(app, "extract", example="labledger extract plot.png scan.jpg --out curves")
    def _run(
        session: Session,
        images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures or PDFs.")],
        out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the results go.")],
        method: Method = "standard",
        calibration: Annotated[
            Path | None, typer.Option("--calibration", metavar="FILE", help="The axes, by two points each (JSON).")
        ] = None,
        page: Annotated[int | None, typer.Option("--page", min=1, help="Of a PDF. [default: all]")] = None,
        chart: Annotated[
            int | None, typer.Option("--chart", min=1, help="On that page, in reading order. [default: all]")
        ] = None,
    ) -> None:
        """Read curves without any server: for each image <stem>.json, <stem>.csv and <stem>.overlay.png.

        Each chart of a PDF has its own: <stem>-p<page>-<chart>.json and so on. Exit code 1 when any image failed.
        """
        if method not in ("standard", "legacy", "llm"):
            raise Stop(f"{method!r} is no method: there are standard, legacy, llm", Code.INVALID)
        try:
            from labledger.extract import extract_files

            failed = extract_files(images, out, method=method, calibration=calibration, page=page, chart=chart)
        except ImportError as error:
            raise Stop(f"{error}: install labledger[curves]", Code.REFUSED) from None
        session.emit({"images": len(images), "failed": failed, "out": str(out)})
        if failed:
            raise typer.Exit(int(Code.REFUSED))
