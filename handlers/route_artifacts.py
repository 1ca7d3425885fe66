"""Artifacts of scans go to their targets by themselves: by the rules of the settings (`[[deliver]]`), or as the scan says.

What has no scan goes where somebody sends it.
"""

import uuid
from uuid import UUID

from bus.ledger import Ledger
from bus.reactions import Consumer, Reaction
from domain.artifact import ArtifactRegistered
from domain.delivery import RequestDelivery
from domain.errors import AlreadyExists, Refused
from domain.publication import RequestPublication
from domain.routing import Rule, must_take_files, routes, words
from domain.scan import Scan
from domain.target import Target, unknown
from handlers.request_delivery import request_delivery
from handlers.request_publication import request_publication

consumer = Consumer("route-artifacts")

#: The port that holds the lab's rules.
RULES = "deliver"


class NotRouted(Exception):
    """A rule cannot be followed: a target that no worker knows (yet), or that takes no files. What was to go there is parked, and
    can be retried once that is mended."""


def delivery_of(scan_id: UUID, artifact_id: str, target_id: str) -> UUID:
    """The delivery of an artifact of a scan to a target."""
    return uuid.uuid5(scan_id, f"{artifact_id} to {target_id}")


@consumer.on(ArtifactRegistered)
async def route_artifact(event: ArtifactRegistered, at: Reaction) -> None:
    # Twice is harmless: ids follow from scan, artifact and target, and the same again is the same delivery.
    if event.scan_id is None:
        return
    scan: Scan = (await at.ledger.refresh("scan", str(event.scan_id))).state
    rules: tuple[Rule, ...] = at.ports.get(RULES, ())
    wrong: list[str] = []
    for rule in routes(scan, event.role, rules):
        for target_id in rule.targets:
            try:
                await _send(event, scan, rule, target_id, at)
            except AlreadyExists:
                pass  # two rules name it, or it was asked for before the scan had another name
            except Refused as error:
                wrong.append(str(error))  # the others are not kept from theirs
    if wrong:
        raise NotRouted("; ".join(wrong))


async def _send(event: ArtifactRegistered, scan: Scan, rule: Rule, target_id: str, at: Reaction) -> None:
    assert event.scan_id is not None
    told = words(scan, event.role)
    if rule.pointer is not None:
        publication = RequestPublication(
            publication_id=delivery_of(event.scan_id, event.artifact_id, f"{target_id} and {rule.pointer}"),
            artifact=event.artifact_id,
            ipfs_target=target_id,
            kv_target=rule.pointer,
            template=rule.key,
            metadata=told,
            order=at.stored.seq,
            priority=scan.priority,
        )
        await request_publication(publication, at.ledger, at.meta.step(f"{target_id} and {rule.pointer}"))
        return
    await _must_take_files(at.ledger, target_id)
    order = RequestDelivery(
        delivery_id=delivery_of(event.scan_id, event.artifact_id, target_id),
        target_id=target_id,
        artifact=event.artifact_id,
        options=told,
        priority=scan.priority,
        scan_id=event.scan_id,
    )
    await request_delivery(order, at.ledger, at.meta.step(target_id))


async def _must_take_files(ledger: Ledger, target_id: str) -> None:
    target: Target = (await ledger.refresh("target", target_id)).state
    if target.opened is None:
        raise unknown(target_id)
    must_take_files(target_id, target.opened)
