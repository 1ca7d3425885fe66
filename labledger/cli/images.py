"""labledger images: pictures of plots."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labledger.cli.arguments import Batch, Image, Method, Part, Priority, Queue
from labledger.cli.common import Code, Session, command, resolve

if TYPE_CHECKING:
    from labledger.client import Lab


def register(app: typer.Typer) -> None:
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
