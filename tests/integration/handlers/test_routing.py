"""Artifacts of scans go to their targets by themselves; what cannot go is parked, and said."""

from typing import Any
from uuid import UUID

from bus.ids import uuid7
from domain.delivery import Delivery
from domain.equipment import RegisterEquipment
from domain.publication import Publication
from domain.routing import Rule
from domain.target import OpenTarget
from handlers.route_artifacts import RULES, delivery_of
from tests.integration.bus.place import everything, meta, until
from tests.integration.handlers.lab import Lab, line


async def known(lab: Lab, **systems: str) -> None:
    """Targets as their workers say of them, and the instrument of `line`."""
    ledger = await lab.place.ledger("station")
    equipment = RegisterEquipment(equipment_id="t", kind="both", driver="d", address="")
    await ledger.handle("equipment", "t", equipment, meta("register"))
    for target_id, system in systems.items():
        order = OpenTarget(target_id=target_id, adapter="storage.x", system=system, description={})
        await ledger.handle("target", target_id, order, meta(f"open-{target_id}"))


async def registered(lab: Lab, scan_id: str, role: str) -> str:
    data = f"{role} of {scan_id}".encode()
    sha256 = lab.blobs.put(data)
    told = {"artifact_id": sha256, "size": len(data), "file_name": role, "role": role, "scan_id": scan_id}
    assert (await lab.order("artifact.register", **told)).outcome == "accepted"
    return sha256


async def delivery(lab: Lab, scan_id: str, sha256: str, target: str) -> Delivery:
    async def there() -> Delivery | None:
        id_ = str(delivery_of(UUID(scan_id), sha256, target))
        found: Delivery = (await lab.reader.refresh("delivery", id_)).state
        return found if found.requested else None

    return await until(there, 20, f"a delivery to {target}")


async def requested(lab: Lab) -> list[str]:
    stored = await everything(lab.reader.store.bus, "evt.delivery.>")
    return [one.event.model_dump()["target_id"] for one in stored if one.type.startswith("delivery.requested.")]


async def test_artifacts_go_by_rule_or_as_the_scan_says(lab: Lab) -> None:
    await known(lab, archive="s3", ipfs="ipfs", newest="kv", other="s3")
    lab.handlers.ports[RULES] = (
        Rule(artifacts=("raw_data",), targets=("archive",)),
        Rule(artifacts=("plot",), targets=("ipfs",), pointer="newest", key="{sample_id}:latest"),
        Rule(targets=("other",), queue="elsewhere"),
    )
    await lab.order("sample.register", sample_id="W12", material="Si")
    scan_id = await lab.request(line(5), sample_id="W12", metadata={"interval": "hour"})
    raw_data, plot = await registered(lab, scan_id, "raw_data"), await registered(lab, scan_id, "plot")
    sent = await delivery(lab, scan_id, raw_data, "archive")
    assert sent.requested is not None and str(sent.requested.scan_id) == scan_id
    assert sent.requested.options["scan_id"] == scan_id and sent.requested.options["interval"] == "hour"

    async def published() -> Publication | None:
        id_ = str(delivery_of(UUID(scan_id), plot, "ipfs and newest"))
        found: Publication = (await lab.reader.refresh("publication", id_)).state
        return found if found.requested else None

    publication: Any = await until(published, 20, "a publication")
    assert publication.requested.key == "W12:latest" and publication.requested.kv_target == "newest"

    chosen = await lab.request(line(5), deliver=["other"])
    await delivery(lab, chosen, await registered(lab, chosen, "summary"), "other")
    nowhere = await lab.request(line(5), deliver=[])
    await registered(lab, nowhere, "raw_data")
    last = await lab.request(line(5))
    await delivery(lab, last, await registered(lab, last, "raw_data"), "archive")
    # Registered again, as by a worker that did it twice: nothing more is asked for.
    await registered(lab, scan_id, "raw_data")
    assert sorted(await requested(lab)) == ["archive", "archive", "ipfs", "other"]


async def test_a_scan_cannot_ask_for_a_target_that_is_not_there_or_takes_no_files(lab: Lab) -> None:
    await known(lab, newest="kv")
    unknown = await lab.order("scan.request", scan_id=uuid7(), plan=line(5), deliver=["archive"])
    assert unknown.outcome == "refused" and "no worker knows a target 'archive'" in unknown.reason
    pointers = await lab.order("scan.request", scan_id=uuid7(), plan=line(5), deliver=["newest"])
    assert pointers.outcome == "refused" and "takes pointers" in pointers.reason


async def test_a_rule_that_cannot_be_followed_is_parked_and_keeps_no_other_target_waiting(lab: Lab) -> None:
    await known(lab, archive="s3")
    lab.handlers.ports[RULES] = (Rule(targets=("late",)), Rule(targets=("archive",)))
    scan_id = await lab.request(line(5))
    sha256 = await registered(lab, scan_id, "plot")
    await delivery(lab, scan_id, sha256, "archive")

    async def parked() -> list[Any]:
        return await everything(lab.reader.store.bus, "evt.parked.>")

    (entry,) = await until(parked, 60, "a note of what is parked")
    told = entry.event.model_dump()
    assert "no worker knows a target 'late'" in told["reason"]
    await known(lab, late="s3")
    assert (await lab.order("parked.retry", parked_id=told["parked_id"])).outcome == "accepted"
    await delivery(lab, scan_id, sha256, "late")
