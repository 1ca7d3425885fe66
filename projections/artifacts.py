"""The files that the lab made or was given: what each is, and which scan it is of."""

from bus.envelope import Stored
from bus.projector import Column, Projection, Rows, Table, View
from domain.artifact import ArtifactRegistered

artifacts = Table(
    "artifacts",
    # The same bytes may be registered for several reasons: a row for each.
    key=("sequence",),
    columns=(
        Column("sequence", "bigint", "The event that registered it."),
        Column("artifact_id", "text", "SHA-256 of its bytes, which lie in the blob store."),
        Column("scan_id", "uuid", "The scan it is of; NULL for other files."),
        Column("role", "text", "raw_data, plot or summary of a scan; file for anything else."),
        Column("file_name", "text", "What the file is called."),
        Column("media_type", "text", "Such as image/png."),
        Column("size_bytes", "bigint", "Its size, bytes."),
        Column("registered_at", "timestamptz", "When it was registered."),
    ),
    indexes=(("artifact_id",), ("scan_id",)),
)

projection = Projection(
    "artifacts",
    version=1,
    tables=[artifacts],
    views=[
        View(
            "artifacts",
            "One row a file and reason for which it was registered.",
            "select * from {schema}.artifacts",
            {c.name: c.doc for c in artifacts.columns},
        )
    ],
)


@projection.on(ArtifactRegistered)
def registered(event: ArtifactRegistered, stored: Stored, rows: Rows) -> None:
    row = event.model_dump(exclude={"size"}) | {"size_bytes": event.size}
    rows.put(artifacts, row | {"sequence": stored.seq, "registered_at": stored.time})
