"""labledger product, images, extractions, spice, extract: from pictures of plots to data, and from data to models."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bus.roles import Role
from labledger.cli.common import Code, Session, Stop, command, duration, read_text, resolve

if TYPE_CHECKING:
    from labledger.client import Lab

Part = Annotated[str, typer.Argument(metavar="PRODUCT", help="Its part number.")]
Image = Annotated[
    str,
    typer.Argument(
        metavar="IMAGE", help="The image's id (SHA-256), its first or last letters, or the name of its file."
    ),
]
ExtractionId = Annotated[
    str, typer.Argument(metavar="EXTRACTION", help="Its id, its first or last letters, or `last`.")
]
Method = Annotated[str, typer.Option("--method", help="standard, legacy or llm.")]
Priority = Annotated[str, typer.Option("--priority", help="low, normal, high or urgent.")]
Queue = Annotated[str | None, typer.Option("--queue", help="Its queue. [default: extractions]")]
Batch = Annotated[str | None, typer.Option("--batch", help="Id of the batch (a UUID).")]
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
Wait = Annotated[bool, typer.Option("--wait", help="Return when it is over; exit code 1 unless it succeeded.")]


def register(app: typer.Typer) -> None:
    _products(app)
    _images(app)
    _extractions(app)
    _spice(app)
    _extract(app)


def _products(app: typer.Typer) -> None:
    group = typer.Typer(help="Products: the devices whose curves are read and modelled.", no_args_is_help=True)
    app.add_typer(group, name="product")

    @command(group, "add", example="labledger product add C3M0016120K --type SiC-MOSFET --manufacturer Wolfspeed")
    def _add(
        session: Session,
        part_number: Part,
        device_type: Annotated[
            str,
            typer.Option(
                "--type",
                help="GaN-HEMT, SiC-MOSFET, Si-MOSFET, SiC-JFET, IGBT, BJT, diode, Schottky-diode, SiC-diode, other.",
            ),
        ],
        manufacturer: Annotated[str, typer.Option("--manufacturer", help="Who makes it.")],
        package: Annotated[str | None, typer.Option("--package", help="Such as TO-247-4.")] = None,
        description: Annotated[str | None, typer.Option("--description")] = None,
    ) -> None:
        """Enter a product. A part number can be entered once, however it is written."""

        async def add(lab: "Lab") -> None:
            fields = {"package": package, "description": description}
            product_id = await lab.products.add(part_number, device_type, manufacturer, **fields)
            session.emit({"product_id": product_id})
            session.print(f"product {product_id} is registered")

        session.run(add)

    @command(group, "list", example="labledger product list")
    def _list(session: Session) -> None:
        """All products."""
        found = session.run(lambda lab: lab.products.list())
        rows = [one | {"shown": len(one["images"])} for one in found]
        columns = {"product_id": "product", "part_number": "part number", "manufacturer": "manufacturer"}
        columns |= {"device_type": "type", "package": "package", "shown": "images", "archived": "archived"}
        session.table(rows, columns, empty="no products")

    @command(group, "show", example="labledger product show C3M0016120K")
    def _show(session: Session, part_number: Part) -> None:
        """A product's entry, its images and its models."""

        async def show(lab: "Lab") -> dict[str, Any]:
            from labledger.client import NotFound

            found = await lab.products.get(part_number)
            try:
                found["models"] = [_model_row(one) for one in await lab.spice_models.get(part_number)]
            except NotFound:
                found["models"] = []
            return found

        found = session.run(show)
        if session.json:
            session.emit(found)
            return
        models = found.pop("models")
        session.record(found, title=f"product {found['product_id']}")
        if models:
            session.table(models, _MODEL_COLUMNS, title="models")


def _images(app: typer.Typer) -> None:
    group = typer.Typer(help="Images of plots.", no_args_is_help=True)
    app.add_typer(group, name="images")

    @command(group, "add", example="labledger images add output.png transfer.png --product C3M0016120K")
    def _add(
        session: Session,
        files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pictures or PDFs.")],
        product: Annotated[str | None, typer.Option("--product", help="The product whose curves they show.")] = None,
        description: Annotated[str | None, typer.Option("--description")] = None,
        chart: Annotated[
            str | None, typer.Option("--chart", help="output, transfer, body_diode, diode, capacitance or other.")
        ] = None,
        tj_c: Annotated[float | None, typer.Option("--tj", help="Junction temperature of the curves, °C.")] = None,
        vds_v: Annotated[float | None, typer.Option("--vds", help="VDS at which they were measured, V.")] = None,
        vgs_v: Annotated[float | None, typer.Option("--vgs", help="VGS at which they were measured, V.")] = None,
        extract: Annotated[
            bool | None,
            typer.Option(
                "--extract/--no-extract", help="Read the curves at once. [default: setting extract.on_upload]"
            ),
        ] = None,
        method: Method = "standard",
        priority: Priority = "normal",
        queue: Queue = None,
        batch: Batch = None,
    ) -> None:
        """Store images and, unless told not to, queue an extraction of each; several files are one batch.

        What is no picture, or too large to be unpacked safely, is refused; the others are taken.
        """
        import uuid

        at_once = session.settings.extract.on_upload if extract is None else extract
        batch_id = batch or (str(uuid.uuid4()) if at_once and len(files) > 1 else None)
        order = {"method": method, "priority": priority, "queue_id": queue, "batch_id": batch_id}
        facts = {"description": description, "chart": chart, "tj_c": tj_c, "vds_v": vds_v, "vgs_v": vgs_v}

        async def add(lab: "Lab") -> list[dict[str, Any]]:
            from domain.ports import PictureRefused
            from labledger.client import CommandError

            rows: list[dict[str, Any]] = []
            for file in files:
                row: dict[str, Any] = {"file": str(file)}
                try:
                    image, extraction = await lab.images.add(
                        file, product=product, extract=order if at_once else None, **facts
                    )
                    row |= {"graph_image_id": image, "extraction_id": str(extraction) if extraction else None}
                except (PictureRefused, CommandError, OSError) as error:
                    row["error"] = str(error)
                rows.append(row)
            return rows

        rows = session.run(add)
        bad = [row for row in rows if "error" in row]
        session.emit({"batch_id": batch_id, "images": rows})
        for row in rows:
            if "error" in row:
                print(f"{row['file']}: {row['error']}", file=sys.stderr)
            else:
                extraction = f"  extraction {row['extraction_id']}" if row["extraction_id"] else ""
                session.print(f"{row['file']}: image {row['graph_image_id'][:12]}{extraction}")
        if batch_id and not bad:
            session.print(f"[dim]batch {batch_id}: labledger extractions batch {batch_id}[/dim]")
        if bad:
            raise typer.Exit(int(Code.REFUSED))

    @command(group, "list", example="labledger images list")
    def _list(session: Session) -> None:
        """All images."""
        found = session.run(lambda lab: lab.images.list())
        rows = [
            one
            | {"short": one["graph_image_id"][:12], "size": f"{one['width']} x {one['height']}" if one["width"] else ""}
            for one in found
        ]
        columns = {"short": "image", "file_name": "file", "media_type": "type", "size": "pixels", "chart": "chart"}
        session.table(rows, columns | {"products": "products", "rejected": "rejected"}, empty="no images")

    @command(group, "show", example="labledger images show 3fa85f64")
    def _show(session: Session, image_id: Image) -> None:
        """An image, with the newest completed extraction of each of its charts."""

        async def show(lab: "Lab") -> dict[str, Any]:
            return await lab.images.get(await resolve(lab, "graph_image", image_id))

        session.record(session.run(show), title="image")

    @command(group, "attach", example="labledger images attach 3fa85f64 C3M0016120K")
    def _attach(session: Session, image_id: Image, part_number: Part) -> None:
        """Say that an image shows curves of a product."""

        async def attach(lab: "Lab") -> None:
            image = await resolve(lab, "graph_image", image_id)
            session.outcome(await lab.images.attach(image, part_number), f"image {image[:12]} shows {part_number}")

        session.run(attach)

    @command(group, "describe", example="labledger images describe 3fa85f64 --chart transfer --vds 20 --tj 25")
    def _describe(
        session: Session,
        image_id: Image,
        chart: Annotated[str | None, typer.Option("--chart", help="What it shows.")] = None,
        tj_c: Annotated[float | None, typer.Option("--tj", help="°C.")] = None,
        vds_v: Annotated[float | None, typer.Option("--vds", help="V.")] = None,
        vgs_v: Annotated[float | None, typer.Option("--vgs", help="V.")] = None,
        description: Annotated[str | None, typer.Option("--description")] = None,
    ) -> None:
        """Say what an image shows; what is not given stays."""
        fields = {"chart": chart, "tj_c": tj_c, "vds_v": vds_v, "vgs_v": vgs_v, "description": description}

        async def describe(lab: "Lab") -> None:
            image = await resolve(lab, "graph_image", image_id)
            session.outcome(await lab.images.describe(image, **fields), f"image {image[:12]} is described")

        session.run(describe)


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


def _put(session: Session, path: Path, data: bytes) -> None:
    path.write_bytes(data)
    session.print(f"[dim]written:[/dim] {path}")


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
            _put(session, out / f"{stem}{ending}", blobs.get(result[name]))


_MODEL_COLUMNS = {"version": "version", "state": "state", "form": "form", "grade": "grade", "error_share": "nrmse"} | {
    "check": "check",
    "library": "library",
    "fit_id": "fit",
    "error": "error",
}


def _model_row(one: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = one.get("result") or {}
    row = {key: one.get(key) for key in ("version", "state", "fit_id", "error", "duration_s")}
    figures = {key: result.get(key) for key in ("form", "grade", "check", "library", "nrmse", "mare", "findings")}
    nrmse = result.get("nrmse")
    return row | figures | {"error_share": "" if nrmse is None else f"{100 * nrmse:.2f} %"}


def _spice(app: typer.Typer) -> None:
    group = typer.Typer(help="SPICE models: curves become a library.", no_args_is_help=True)
    app.add_typer(group, name="spice")

    @command(group, "fit", example="labledger spice fit C3M0016120K --wait --out models")
    def _fit(
        session: Session,
        part_number: Part,
        extractions: Annotated[
            list[str] | None,
            typer.Option("--extraction", help="Use this one; once for each. [default: the newest of each chart]"),
        ] = None,
        min_confidence: Annotated[
            float | None,
            typer.Option("--min-confidence", min=0, max=1, help="Leave out what is less sure. [default: 0.5]"),
        ] = None,
        forms: Annotated[list[str] | None, typer.Option("--form", help="Only this form; once for each.")] = None,
        simulate: Annotated[bool, typer.Option("--simulate/--no-simulate", help="Judge it by ngspice.")] = True,
        priority: Priority = "normal",
        wait: Wait = False,
        out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Write the .lib there (waits).")] = None,
    ) -> None:
        """Fit a model to a product's extracted curves; one that is there gets a new version."""

        async def fit(lab: "Lab") -> None:
            chosen = [await resolve(lab, "extraction", one) for one in extractions or []]
            fit_id = await lab.spice_models.fit(
                part_number,
                extraction_ids=chosen or None,
                min_confidence=min_confidence,
                forms=forms,
                simulate=simulate,
                priority=priority,
            )
            if not (wait or out):
                session.emit({"fit_id": str(fit_id)})
                session.print(str(fit_id))
                return
            _say_model(session, await lab.spice_models.wait(part_number, fit_id), out)

        session.run(fit)

    @command(group, "show", example="labledger spice show C3M0016120K")
    def _show(
        session: Session,
        part_number: Part,
        out: Annotated[
            Path | None, typer.Option("--out", metavar="DIR", help="Write the newest version's .lib there.")
        ] = None,
    ) -> None:
        """The versions of a product's model."""
        found = session.run(lambda lab: lab.spice_models.get(part_number))
        fitted = [one for one in found if one["state"] == "fitted"]
        if out is not None:
            if not fitted:
                raise Stop(f"no version of {part_number} is fitted yet", Code.REFUSED)
            _write_model(session, fitted[-1], out)
        session.table(found if session.json else [_model_row(one) for one in found], _MODEL_COLUMNS)

    @command(group, "check", example="labledger spice check C3M0016120K --limit 0.03")
    def _check(
        session: Session,
        part_number: Part,
        version: Annotated[int | None, typer.Option("--version", min=1, help="[default: the newest]")] = None,
        limit: Annotated[float, typer.Option("--limit", min=0, help="Largest nrmse that is good enough.")] = 0.05,
    ) -> None:
        """Simulate a fitted model once more, here, against the curves that it was made from. Exit code 4 when it is worse."""
        from labledger.blobs import blobs_of

        found = session.run(lambda lab: lab.spice_models.get(part_number))
        fitted = [one for one in found if one["state"] == "fitted" and version in (None, one["version"])]
        if not fitted:
            raise Stop(f"no such version of {part_number} is fitted", Code.REFUSED)
        result = fitted[-1]["result"]
        blobs = blobs_of(session.settings, Role.PUBLISHER)
        report = json.loads(blobs.get(result["report"]))
        checked = _simulated(blobs.get(result["library"]).decode(), report, limit)
        session.emit({"version": fitted[-1]["version"]} | checked)
        share = "" if checked.get("nrmse") is None else f"nrmse {100 * checked['nrmse']:.2f} %"
        session.print(f"version {fitted[-1]['version']}: {checked['grade']}  {share}")
        if not checked["ok"]:
            session.print(f"that is worse than the limit of {100 * limit:g} %")
            raise typer.Exit(int(Code.NOT_VERIFIED))


def _simulated(library: str, report: Mapping[str, Any], limit: float) -> dict[str, Any]:
    import tempfile

    from labledger import spice

    with tempfile.TemporaryDirectory(prefix="labledger-spice-") as folder:
        path = Path(folder) / "model.lib"
        path.write_text(library, encoding="utf-8")
        try:
            checked = spice.check(path, report["measured"], limit=limit)
        except ModuleNotFoundError as error:
            raise Stop(f"{error}: install labledger[spice]", Code.REFUSED) from None
        except FileNotFoundError as error:
            raise Stop(f"the check needs ngspice: {error}", Code.REFUSED) from None
    nrmse = checked.report["simulated"]["nrmse"]
    return {"ok": checked.ok, "grade": checked.grade, "nrmse": nrmse, "report": checked.report}


def _say_model(session: Session, version: Mapping[str, Any], out: Path | None) -> None:
    row = _model_row(version)
    if version["state"] != "fitted":
        raise Stop(f"version {version['version']} is {version['state']}: {version['error']}", Code.REFUSED)
    if out is not None:
        _write_model(session, version, out)
    if session.json:
        session.emit(dict(version))
        return
    findings, mare = row.pop("findings") or (), row.pop("mare")
    row |= {"nrmse": row.pop("error_share"), "mare": "" if mare is None else f"{100 * mare:.1f} %"}
    session.record(row, title=f"version {version['version']} is {row['grade']}")
    for finding in findings:
        session.print(f"note: {finding}")


def _write_model(session: Session, version: Mapping[str, Any], out: Path) -> None:
    from labledger.blobs import blobs_of

    blobs = blobs_of(session.settings, Role.PUBLISHER)
    out.mkdir(parents=True, exist_ok=True)
    stem = f"{version['spice_model_id']}.v{version['version']}"
    for name, ending in (
        ("library", ".lib"),
        ("suggested", ".suggested.lib"),
        ("report", ".spice.json"),
        ("plot", ".spice.png"),
    ):
        if version["result"].get(name):
            _put(session, out / f"{stem}{ending}", blobs.get(version["result"][name]))


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
