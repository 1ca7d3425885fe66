"""The images of plots."""

from bus.envelope import Stored
from bus.projector import Column, Projection, Rows, Table, View
from domain.graph_image import (
    GraphImageAttached,
    GraphImageDescribed,
    GraphImageDetached,
    GraphImageEvent,
    GraphImageExtracted,
    GraphImageRegistered,
    GraphImageRejected,
)

images = Table(
    "images",
    key=("graph_image_id",),
    columns=(
        Column("graph_image_id", "text", "SHA-256 of its bytes, which lie in the blob store."),
        Column("file_name", "text", "What the file was called."),
        Column("media_type", "text", "image/png, image/jpeg, ..., application/pdf."),
        Column("size_bytes", "bigint", "Its size, bytes."),
        Column("width", "integer", "Pixels; 0 for a PDF."),
        Column("height", "integer", "Pixels; 0 for a PDF."),
        Column("pages", "integer", "Of a PDF; else 1."),
        Column("description", "text", "What people wrote about it."),
        Column(
            "chart",
            "text",
            "What it shows: output, transfer, body_diode, diode, capacitance, other; NULL if nobody said.",
        ),
        Column("tj_c", "double precision", "Junction temperature of its curves, °C."),
        Column("vds_v", "double precision", "VDS at which its curves were measured, V."),
        Column("vgs_v", "double precision", "VGS at which its curves were measured, V."),
        Column("products", "text[]", "The products whose curves it shows."),
        Column("extractions", "integer", "How many extractions of it were completed."),
        Column("latest_extraction", "uuid", "The newest completed one."),
        Column("confidence", "double precision", "Of the newest completed one, 0 to 1."),
        Column("rejected", "text", "Why it cannot be used; NULL if it can."),
        Column("registered_at", "timestamptz", "When it was registered."),
        Column("updated_at", "timestamptz", "When something about it was last changed."),
    ),
)

projection = Projection(
    "images",
    version=1,
    tables=[images],
    views=[
        View("images", "One row an image.", "select * from {schema}.images", {c.name: c.doc for c in images.columns})
    ],
)


@projection.on(
    GraphImageRegistered,
    GraphImageDescribed,
    GraphImageAttached,
    GraphImageDetached,
    GraphImageExtracted,
    GraphImageRejected,
)
def changed(event: GraphImageEvent, stored: Stored, rows: Rows) -> None:
    if isinstance(event, GraphImageRegistered):
        rows.put(
            images,
            event.model_dump()
            | {"products": [], "extractions": 0, "registered_at": stored.time, "updated_at": stored.time},
        )
        return
    row = rows.get(images, event.graph_image_id)
    if row is None:
        return
    row["updated_at"] = stored.time
    match event:
        case GraphImageDescribed():
            row |= event.model_dump(exclude={"graph_image_id"})
        case GraphImageAttached(product_id=product_id):
            row["products"] = [*(one for one in row["products"] if one != product_id), product_id]
        case GraphImageDetached(product_id=product_id):
            row["products"] = [one for one in row["products"] if one != product_id]
        case GraphImageExtracted():
            row["extractions"] += 1
            row |= {"latest_extraction": event.extraction_id, "confidence": event.confidence}
        case GraphImageRejected(reason=reason):
            row["rejected"] = reason
