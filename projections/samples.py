"""The samples of the lab."""

from bus.envelope import Stored
from bus.projector import Column, Projection, Rows, Table, View
from domain.sample import SampleArchived, SampleRegistered, SampleTagged, SampleUntagged, SampleUpdated

samples = Table(
    "samples",
    key=("sample_id",),
    columns=(
        Column("sample_id", "text", "Its name."),
        Column("material", "text", "What it is made of."),
        Column("tags", "text[]", "Tags, in the order in which they came."),
        Column("image", "text", "SHA-256 of its picture in the blob store; NULL when it has none."),
        Column("description", "text", "What people wrote about it."),
        Column("parent", "text", "The sample it was cut or made from."),
        Column("archived", "boolean", "It is kept, but changed no more."),
        Column("registered_at", "timestamptz", "When it was registered."),
        Column("updated_at", "timestamptz", "When something about it was last changed."),
    ),
)

projection = Projection(
    "samples",
    version=1,
    tables=[samples],
    views=[
        View("samples", "One row a sample.", "select * from {schema}.samples", {c.name: c.doc for c in samples.columns})
    ],
)


@projection.on(SampleRegistered)
def registered(event: SampleRegistered, stored: Stored, rows: Rows) -> None:
    rows.put(
        samples,
        {
            "sample_id": event.sample_id,
            "material": event.material,
            "tags": list(event.tags),
            "image": event.image,
            "description": event.description,
            "parent": event.parent,
            "archived": False,
            "registered_at": stored.time,
            "updated_at": stored.time,
        },
    )


@projection.on(SampleUpdated, SampleTagged, SampleUntagged, SampleArchived)
def changed(event: SampleUpdated | SampleTagged | SampleUntagged | SampleArchived, stored: Stored, rows: Rows) -> None:
    row = rows.get(samples, event.sample_id)
    if row is None:
        return
    row["updated_at"] = stored.time
    match event:
        case SampleUpdated():
            row |= event.model_dump(exclude={"sample_id"})
        case SampleTagged(tags=tags):
            row["tags"] = [*row["tags"], *(tag for tag in tags if tag not in row["tags"])]
        case SampleUntagged(tags=tags):
            row["tags"] = [tag for tag in row["tags"] if tag not in tags]
        case SampleArchived():
            row["archived"] = True
