"""The publications: where each stands, and what keeps it."""

from typing import Any

from bus.envelope import Stored
from bus.projector import Column, Projection, Rows, Table, View
from domain.publication import (
    PublicationCancelled,
    PublicationCleaned,
    PublicationCompleted,
    PublicationPinned,
    PublicationPointed,
    PublicationRequested,
    PublicationRetried,
    PublicationStalled,
)

publications = Table(
    "publications",
    key=("publication_id",),
    columns=(
        Column("publication_id", "uuid", "Its id."),
        Column("title", "text", "What it is for people."),
        Column("state", "text", "requested, pinned, pointed, completed or cancelled: what is done."),
        Column("stalled", "boolean", "A step was given up and waits for a person."),
        Column("reason", "text", "Why it stalled, or was cancelled."),
        Column("step", "text", "The step that comes next: pin, point or clean_up; NULL at the end."),
        Column("artifact", "text", "The file, by its SHA-256."),
        Column("ipfs_target", "text", "Where the file is kept."),
        Column("kv_target", "text", "Where the key is."),
        Column("key", "text", "The key that points to it."),
        Column("cid", "text", "Its name on IPFS, once that is proven."),
        Column("location", "text", "What the key points to."),
        Column("superseded", "boolean", "A newer one stood under the key already."),
        Column("metadata", "jsonb", "What the pointer says beside the location."),
        Column("clean_up", "text", "The local file to be removed; NULL for none."),
        Column("pin_delivery_id", "uuid", "The delivery that keeps the file; it has the receipt."),
        Column("pointer_delivery_id", "uuid", "The delivery that moves the key."),
        Column("requested_at", "timestamptz", "When it was asked for."),
        Column("updated_at", "timestamptz", "When something about it last changed."),
        Column("completed_at", "timestamptz", "When all of it was done."),
    ),
    indexes=(("key",), ("artifact",), ("requested_at",)),
)

projection = Projection(
    "publications",
    version=1,
    tables=[publications],
    views=[
        View(
            "publications",
            "One row a publication.",
            "select * from {schema}.publications",
            {c.name: c.doc for c in publications.columns},
        )
    ],
)


@projection.on(PublicationRequested)
def requested(event: PublicationRequested, stored: Stored, rows: Rows) -> None:
    row = event.model_dump(mode="json", include={"title", "artifact", "ipfs_target", "kv_target", "key", "metadata"})
    row |= {"publication_id": event.publication_id, "state": "requested", "stalled": False, "step": "pin"}
    row |= {"clean_up": event.clean_up or None, "requested_at": stored.time, "updated_at": stored.time}
    rows.put(publications, row)


Rest = (
    PublicationPinned
    | PublicationPointed
    | PublicationCleaned
    | PublicationCompleted
    | PublicationStalled
    | PublicationRetried
    | PublicationCancelled
)


@projection.on(
    PublicationPinned,
    PublicationPointed,
    PublicationCleaned,
    PublicationCompleted,
    PublicationStalled,
    PublicationRetried,
    PublicationCancelled,
)
def went_on(event: Rest, stored: Stored, rows: Rows) -> None:
    row = rows.get(publications, event.publication_id)
    if row is not None:
        row |= {"updated_at": stored.time} | _change(event, stored, cancelled=row["state"] == "cancelled")


def _change(event: Rest, stored: Stored, *, cancelled: bool) -> dict[str, Any]:
    going: dict[str, Any] = {"stalled": False, "reason": None}
    match event:
        case PublicationPinned(cid=cid, location=location, delivery_id=delivery_id):
            there = {"cid": cid, "location": location, "pin_delivery_id": delivery_id, "step": "point"}
            # One that was cancelled while it was pinned stays so.
            return there if cancelled else there | going | {"state": "pinned"}
        case PublicationPointed(superseded=superseded, delivery_id=delivery_id):
            there = {"superseded": superseded, "pointer_delivery_id": delivery_id, "step": "clean_up"}
            return there if cancelled else there | going | {"state": "pointed"}
        case PublicationCleaned():
            return going | {"step": None}
        case PublicationCompleted():
            return going | {"state": "completed", "step": None, "completed_at": stored.time}
        case PublicationStalled(reason=reason):
            return {"stalled": True, "reason": reason}
        case PublicationRetried(step=step):
            states = {"pin": "requested", "point": "pinned", "clean_up": "pointed"}
            return going | {"state": states[step]}
        case PublicationCancelled(reason=reason):
            return {"state": "cancelled", "stalled": False, "reason": reason or None}
