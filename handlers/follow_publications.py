"""Publications go on, one step after the receipt of the one before.

    publication.pinned   --> the pointer is asked for
    publication.pointed  --> the local file is removed, if that was asked for
    publication.retried  --> the step that was given up is done again
    delivery.delivered   --> publication.pinned or publication.pointed
    delivery.parked, delivery.cancelled --> publication.stalled

Every reaction looks at what is, and not at what it was told: twice, late or after a crash half-way it finds the step begun, done, or
to be done, and does what is missing. The deliveries have ids that follow from the publication's, so none is asked for twice.
"""

import asyncio
from typing import Any
from uuid import UUID

from bus.ledger import Ledger, Transaction
from bus.reactions import Consumer, Reaction
from domain.artifact import Artifact
from domain.delivery import (
    Delivery,
    DeliveryCancelled,
    DeliveryDelivered,
    DeliveryParked,
    RequestDelivery,
    RetryDelivery,
)
from domain.errors import Refused
from domain.ports import Remover
from domain.publication import (
    NoteCleaned,
    NotePinned,
    NotePointed,
    Publication,
    PublicationPinned,
    PublicationPointed,
    PublicationRequested,
    PublicationRetried,
    StallPublication,
    Step,
    pin_of,
    pointer_of,
)
from handlers.request_delivery import place_delivery, try_again
from handlers.request_publication import pin

consumer = Consumer("follow-publications")

Goes = PublicationPinned | PublicationPointed | PublicationRetried


@consumer.on(PublicationPinned, PublicationPointed, PublicationRetried)
async def take_the_next_step(event: Goes, at: Reaction) -> None:
    # Twice is harmless: see above.
    publication: Publication = (await at.ledger.refresh("publication", str(event.publication_id))).state
    step = publication.step
    if publication.requested is None or step is None or not _goes(publication):
        return
    try:
        if step == "clean_up":
            await _clean_up(publication.requested, at)
        else:
            request = pin(publication.requested) if step == "pin" else await _pointer(publication, at.ledger)
            await _begin(request, step, at)
    except Refused as refusal:
        # A person has to do something about it: the publication waits for that, and says what.
        await _stall(publication.requested.publication_id, step, str(refusal), at)


def _goes(publication: Publication) -> bool:
    return publication.stalled is None and publication.state != "cancelled"


async def _begin(request: RequestDelivery, step: Step, at: Reaction) -> None:
    """Ask for the delivery, or again for the one that was given up."""
    assert request.publication_id is not None
    publication_id, delivery_id = str(request.publication_id), str(request.delivery_id)

    async def begin(tx: Transaction) -> None:
        publication: Publication = await tx.state("publication", publication_id, fresh=True)
        if publication.step != step or not _goes(publication):
            return
        delivery: Delivery = await tx.state("delivery", delivery_id, fresh=True)
        if delivery.state == "none":
            await place_delivery(tx, request)
        elif delivery.state in ("parked", "cancelled"):
            await try_again(tx, RetryDelivery(delivery_id=request.delivery_id), "its publication was retried")

    await at.ledger.transact(begin, at.meta, lock=("delivery", delivery_id))


async def _pointer(publication: Publication, ledger: Ledger) -> RequestDelivery:
    """What is to stand under the key. It follows from the history alone, so it is the same whenever it is asked for."""
    requested = publication.requested
    assert requested is not None
    history = await ledger.store.history("publication", str(requested.publication_id))
    pinned = next(one for one in history if isinstance(one.event, PublicationPinned))
    artifact: Artifact = (await ledger.load("artifact", requested.artifact)).state
    updated_at = str(int(pinned.time.timestamp()))  # a text, as the readers of the lab's old pointers expect it
    value: dict[str, Any] = {
        "ipfs_url": publication.location,
        "updated_at": updated_at,
        "metadata": {"filename": artifact.file_name} | requested.metadata,
    }
    # Unless something else was said, the later request is the newer: its place in the history of the lab.
    order = requested.order if requested.order is not None else history[0].seq
    return RequestDelivery(
        delivery_id=pointer_of(requested.publication_id),
        target_id=requested.kv_target,
        key=requested.key,
        options={"value": value, "metadata": {"updated_at": updated_at}, "order": order},
        priority=requested.priority,
        title=f"{requested.key} to {requested.kv_target}"[:200],
        publication_id=requested.publication_id,
    )


async def _clean_up(requested: PublicationRequested, at: Reaction) -> None:
    """Both receipts are durable by now. Twice is harmless: a file that is gone is gone."""
    remover: Remover | None = at.ports.get("remover")
    if remover is None:
        raise Refused("no process of the lab may remove files here")
    removed = await asyncio.to_thread(remover.remove, requested.clean_up, requested.artifact)
    note = NoteCleaned(publication_id=requested.publication_id, removed=removed)
    await at.ledger.handle("publication", str(requested.publication_id), note, at.meta)


async def _stall(publication_id: UUID, step: Step, reason: str, at: Reaction) -> None:
    order = StallPublication(publication_id=publication_id, step=step, reason=reason[:2000])
    await at.ledger.handle("publication", str(publication_id), order, at.meta.step("stall"))


@consumer.on(DeliveryDelivered)
async def note_the_receipt(event: DeliveryDelivered, at: Reaction) -> None:
    # Twice is harmless: what is pinned or pointed is so already.
    publication_id = await _publication_of(event.delivery_id, at)
    if publication_id is None:
        return
    receipt = event.receipt
    if event.delivery_id == pin_of(publication_id):
        note = NotePinned(
            publication_id=publication_id,
            delivery_id=event.delivery_id,
            cid=str(receipt.proof["cid"]),
            location=receipt.location,
        )
    else:
        superseded = receipt.outcome == "superseded"
        note = NotePointed(publication_id=publication_id, delivery_id=event.delivery_id, superseded=superseded)
    await at.ledger.handle("publication", str(publication_id), note, at.meta)


@consumer.on(DeliveryParked, DeliveryCancelled)
async def stall_with_its_delivery(event: DeliveryParked | DeliveryCancelled, at: Reaction) -> None:
    # Twice is harmless: a publication that has come further, or stands already, is left alone; and so is one whose delivery
    # was retried since.
    publication_id = await _publication_of(event.delivery_id, at)
    if publication_id is None:
        return
    delivery: Delivery = (await at.ledger.refresh("delivery", str(event.delivery_id))).state
    if delivery.state not in ("parked", "cancelled"):
        return
    step: Step = "pin" if event.delivery_id == pin_of(publication_id) else "point"
    reason = event.error if isinstance(event, DeliveryParked) else f"its delivery was cancelled: {event.reason}"
    await _stall(publication_id, step, reason, at)


async def _publication_of(delivery_id: UUID, at: Reaction) -> UUID | None:
    delivery: Delivery = (await at.ledger.refresh("delivery", str(delivery_id))).state
    publication_id = delivery.requested.publication_id if delivery.requested else None
    # The id could be anybody's: it counts only for the two deliveries that are the publication's own.
    ours = publication_id is not None and delivery_id in (pin_of(publication_id), pointer_of(publication_id))
    return publication_id if ours else None
