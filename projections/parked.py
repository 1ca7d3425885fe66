"""What was given up after its retries, and what became of it."""

from bus.envelope import Stored
from bus.projector import Column, Projection, Rows, Table, View
from domain.parked import ParkedAdded, ParkedEvent, ParkedResolved, ParkedRetried

parked = Table(
    "parked",
    key=("parked_id",),
    columns=(
        Column("parked_id", "text", "What it is retried or dropped by."),
        Column("what", "text", "command or event."),
        Column("subject", "text", "Where it came from: cmd.<kind>.<verb>, or the aggregate."),
        Column("consumer", "text", "Who could not handle it."),
        Column("reason", "text", "Why, in a line."),
        Column("detail", "text", "More about it, for a developer."),
        Column("state", "text", "parked, retrying, handled or dropped."),
        Column("park_seq", "bigint", "Its sequence in the stream PARK, where it lies unchanged."),
        Column("times", "bigint", "How often it was parked."),
        Column("parked_at", "timestamptz", "When it was parked last."),
        Column("updated_at", "timestamptz", "When something about it last changed."),
    ),
)

projection = Projection(
    "parked",
    version=1,
    tables=[parked],
    views=[
        View(
            "parked",
            "One row for each command or event that was given up, also those that were resolved since.",
            "select * from {schema}.parked",
            {c.name: c.doc for c in parked.columns},
        )
    ],
)


@projection.on(ParkedAdded, ParkedRetried, ParkedResolved)
def changed(event: ParkedEvent, stored: Stored, rows: Rows) -> None:
    row = rows.get(parked, event.parked_id)
    if isinstance(event, ParkedAdded):
        times = row["times"] + 1 if row else 1
        whole = {"state": "parked", "times": times, "parked_at": stored.time, "updated_at": stored.time}
        rows.put(parked, event.model_dump() | whole)
    elif row is not None:
        row["updated_at"] = stored.time
        row["state"] = "retrying" if isinstance(event, ParkedRetried) else event.how
