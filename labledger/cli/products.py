"""labledger product: the devices whose curves are read and modelled."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from labledger.cli.arguments import Part
from labledger.cli.common import Session, command
from labledger.cli.spice import MODEL_COLUMNS, model_row

if TYPE_CHECKING:
    from labledger.client import Lab


def register(app: typer.Typer) -> None:
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
                found["models"] = [model_row(one) for one in await lab.spice_models.get(part_number)]
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
            session.table(models, MODEL_COLUMNS, title="models")
