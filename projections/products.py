"""The products, and the images that show their curves."""

from bus.envelope import Stored
from bus.projector import Column, Projection, Rows, Table, View
from domain.product import (
    ProductArchived,
    ProductEvent,
    ProductImageAdded,
    ProductImageRemoved,
    ProductRegistered,
    ProductUpdated,
)

products = Table(
    "products",
    key=("product_id",),
    columns=(
        Column("product_id", "text", "Its part number in the form that all ways of writing it share."),
        Column("part_number", "text", "Its part number as the data sheet has it."),
        Column("manufacturer", "text", "Who makes it."),
        Column("device_type", "text", "GaN-HEMT, SiC-MOSFET, Si-MOSFET, diode, ..."),
        Column("package", "text", "Its package."),
        Column("description", "text", "What people wrote about it."),
        Column("images", "text[]", "SHA-256 of the images that show its curves, in the order in which they came."),
        Column("archived", "boolean", "It is kept, but changed no more."),
        Column("registered_at", "timestamptz", "When it was registered."),
        Column("updated_at", "timestamptz", "When something about it was last changed."),
    ),
    indexes=(("manufacturer",), ("device_type",)),
)

projection = Projection(
    "products",
    version=1,
    tables=[products],
    views=[
        View(
            "products",
            "One row a product.",
            "select * from {schema}.products",
            {c.name: c.doc for c in products.columns},
        )
    ],
)


@projection.on(ProductRegistered, ProductUpdated, ProductImageAdded, ProductImageRemoved, ProductArchived)
def changed(event: ProductEvent, stored: Stored, rows: Rows) -> None:
    if isinstance(event, ProductRegistered):
        rows.put(
            products,
            event.model_dump()
            | {"images": [], "archived": False, "registered_at": stored.time, "updated_at": stored.time},
        )
        return
    row = rows.get(products, event.product_id)
    if row is None:
        return
    row["updated_at"] = stored.time
    match event:
        case ProductUpdated():
            row |= event.model_dump(exclude={"product_id"})
        case ProductImageAdded(graph_image_id=image):
            row["images"] = [*(one for one in row["images"] if one != image), image]
        case ProductImageRemoved(graph_image_id=image):
            row["images"] = [one for one in row["images"] if one != image]
        case ProductArchived():
            row["archived"] = True
