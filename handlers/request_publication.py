"""Orders about publications. A publication begins together with the delivery that is its first step, in one decision; what follows is
done by `handlers/follow_publications.py`, one step after the receipt of the one before."""

from bus.commands import handles
from bus.envelope import Meta
from bus.ledger import Ledger, Outcome, Transaction
from domain.delivery import CancelDelivery, Delivery, RequestDelivery
from domain.errors import Refused
from domain.publication import (
    CancelPublication,
    Publication,
    PublicationRequested,
    RequestPublication,
    pin_of,
    pointer_of,
)
from domain.target import Target, TargetOpened, unknown
from handlers.request_delivery import call_off, place_delivery, queue_of


def pin(requested: PublicationRequested) -> RequestDelivery:
    """The first step: the file goes to IPFS."""
    return RequestDelivery(
        delivery_id=pin_of(requested.publication_id),
        target_id=requested.ipfs_target,
        artifact=requested.artifact,
        priority=requested.priority,
        title=requested.title,
        publication_id=requested.publication_id,
    )


async def _must_be(tx: Transaction, target_id: str, system: str) -> TargetOpened:
    target: Target = await tx.state("target", target_id, fresh=True)
    if target.opened is None:
        raise unknown(target_id)
    if target.opened.system != system:
        raise Refused(f"{target_id} is a target of the kind {target.opened.system}; choose one of the kind {system}")
    return target.opened


@handles(RequestPublication)
async def request_publication(command: RequestPublication, ledger: Ledger, meta: Meta) -> Outcome:
    async def request(tx: Transaction) -> None:
        await _must_be(tx, command.ipfs_target, "ipfs")
        kv = await _must_be(tx, command.kv_target, "kv")
        template = command.template or str(kv.description.get("key", ""))
        order = command.model_copy(update={"template": template})
        if await tx.decide("publication", str(command.publication_id), order):
            publication: Publication = await tx.state("publication", str(command.publication_id))
            assert publication.requested is not None
            await place_delivery(tx, pin(publication.requested))

    return await ledger.transact(request, meta, lock=("queue", queue_of(command.ipfs_target)))


@handles(CancelPublication)
async def cancel_publication(command: CancelPublication, ledger: Ledger, meta: Meta) -> Outcome:
    """Its step is called off too, unless that is done already."""
    id_ = command.publication_id

    async def cancel(tx: Transaction) -> None:
        publication: Publication = await tx.state("publication", str(id_))
        if await tx.decide("publication", str(id_), command) and publication.step in ("pin", "point"):
            delivery_id = pin_of(id_) if publication.step == "pin" else pointer_of(id_)
            delivery: Delivery = await tx.state("delivery", str(delivery_id), fresh=True)
            if delivery.requested is not None and delivery.state != "delivered":
                await call_off(tx, CancelDelivery(delivery_id=delivery_id, reason=command.reason))

    return await ledger.transact(cancel, meta, lock=("publication", str(id_)))
