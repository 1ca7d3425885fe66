"""From a file to the key that points to it: through the queue, a worker, IPFS and a key-value store, with their faults."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest_asyncio

from adapters.storage.clean_up import Folders
from bus import broker as brokers
from bus import streams
from bus.connection import Bus, connect
from bus.envelope import Meta
from bus.ids import uuid7
from bus.keyvalue import Bucket
from bus.ledger import Ledger
from bus.reactions import Reaction
from bus.store import EventStore
from bus.streams import POINTERS
from domain.delivery import Delivery
from domain.ports import RetryPolicy
from domain.publication import Publication, pin_of, pointer_of
from domain.target import OpenTarget
from handlers.follow_publications import consumer
from handlers.run_deliveries import trades
from handlers.worker import Worker
from tests.doubles.kubo import Kubo
from tests.doubles.shipping import make
from tests.integration.bus.place import until
from tests.integration.handlers.lab import Lab

KEY = "temperature:daily:latest"
WORDS = {"sensor_type": "temperature", "interval": "daily", "data_points": 12}
RETRY = RetryPolicy(max_retries=2, multiplier=0.05, min_wait_s=0.05, max_wait_s=0.2)


class Desk:
    """A lab with a node of IPFS, its own key-value store, and a worker for both."""

    def __init__(self, lab: Lab, folder: Path, kubo: Kubo) -> None:
        self.lab, self.folder, self.kubo = lab, folder / "plots", kubo
        self.folder.mkdir()
        self.stops: list[Any] = []

    async def start(self) -> None:
        place = self.lab.place
        self.lab.handlers.reactor._ports = {"remover": Folders([self.folder])}  # pyright: ignore[reportPrivateUsage]
        credentials = place.credentials("deliver")
        self.bus: Bus = await connect(place.server.url, "deliver", credentials)
        broker = brokers.make_broker(place.server.url, "deliver-work", credentials)
        ledger = Ledger(EventStore(self.bus))

        targets = {
            "node": make("storage.ipfs", {"kubo": {"url": f"{self.kubo.url}/api/v0"}}),
            "pointers": make("storage.kv", {"nats": {}}, nats=lambda: place.bus("deliver")),
        }
        for name, target in targets.items():
            order = OpenTarget(
                target_id=name, adapter="storage.x", system=target.kind, description=target.describe(), concurrency=2
            )
            await ledger.handle("target", name, order, Meta.new("test", "test"))
            worker = Worker(self.bus, ledger, trades(name, "storage.x", target, RETRY, 2, self.lab.blobs))
            for kind in worker.trades:
                brokers.subscribe(
                    broker,
                    worker.on_work,
                    stream="CMD",
                    subject=f"cmd.work.{kind}.{name}",
                    durable=f"work-{kind}-{name}",
                    inbox_prefix=credentials.inbox_prefix,
                    batch=1,
                )
            self.stops += [worker.stop, target.close]
        await brokers.start(broker)
        self.stops = [broker.stop, *self.stops, self.bus.close]

    async def close(self) -> None:
        for stop in self.stops:
            await stop()

    async def publish(self, data: bytes, **more: Any) -> UUID:
        sha256 = self.lab.blobs.put(data)
        await self.lab.order("artifact.register", artifact_id=sha256, size=len(data), file_name="plot.png")
        publication_id = uuid7()
        body = {"artifact": sha256, "ipfs_target": "node", "kv_target": "pointers", "metadata": WORDS} | more
        done = await self.lab.order("publication.request", publication_id=publication_id, **body)
        assert done.outcome == "accepted", done.reason
        return UUID(publication_id)

    async def refused(self, **more: Any) -> str:
        sha256 = self.lab.blobs.put(b"refused")
        await self.lab.order("artifact.register", artifact_id=sha256, size=7, file_name="plot.png")
        body = {"artifact": sha256, "ipfs_target": "node", "kv_target": "pointers", "metadata": WORDS} | more
        done = await self.lab.order("publication.request", publication_id=uuid7(), **body)
        assert done.outcome == "refused", done
        return done.reason or ""

    async def state(self, publication_id: UUID) -> Publication:
        return (await self.lab.reader.refresh("publication", str(publication_id))).state

    async def reaches(self, publication_id: UUID, state: str) -> Publication:
        async def there() -> Any:
            found = await self.state(publication_id)
            return found if found.state == state and found.stalled is None else None

        return await until(there, 30, f"publication {state}")

    async def stalls(self, publication_id: UUID) -> Publication:
        async def there() -> Any:
            found = await self.state(publication_id)
            return found if found.stalled is not None else None

        return await until(there, 30, "publication stalled")

    async def pointer(self, key: str = KEY) -> Any:
        entry = await Bucket(self.lab.place.opened[0], POINTERS).get(key)
        return json.loads(entry.value) if entry.value else None

    async def history(self, kind: str, id_: UUID) -> list[str]:
        return await self.lab.history(kind, str(id_))


@pytest_asyncio.fixture
async def desk(lab: Lab, tmp_path: Path) -> AsyncIterator[Desk]:
    async with Kubo() as kubo:
        desk = Desk(lab, tmp_path, kubo)
        await desk.start()
        yield desk
        await desk.close()


async def test_a_file_is_kept_and_pointed_to(desk: Desk) -> None:
    publication_id = await desk.publish(b"a plot")
    done = await desk.reaches(publication_id, "completed")
    assert await desk.history("publication", publication_id) == ["requested", "pinned", "pointed", "completed"]
    pointer = await desk.pointer()
    assert pointer["ipfs_url"] == f"ipfs://{done.cid}" and desk.kubo.pins == [done.cid]
    assert pointer["updated_at"].isdigit() and pointer["metadata"] == {"filename": "plot.png"} | WORDS
    history = await desk.lab.reader.store.history("publication", str(publication_id))
    assert pointer["order"] == history[0].seq
    delivery: Delivery = (await desk.lab.reader.refresh("delivery", str(pin_of(publication_id)))).state
    assert delivery.receipt is not None and delivery.receipt.proof["cid"] == done.cid
    await desk.lab.chains_are_right()


async def test_the_pointer_is_asked_for_only_after_the_receipt(desk: Desk) -> None:
    desk.kubo.fail("slow", path="/add", seconds=0.5)
    publication_id = await desk.publish(b"a plot")
    await desk.reaches(publication_id, "completed")
    receipt = await desk.lab.reader.store.history("delivery", str(pin_of(publication_id)))
    asked = await desk.lab.reader.store.history("delivery", str(pointer_of(publication_id)))
    delivered = next(one.seq for one in receipt if one.type.startswith("delivery.delivered"))
    assert asked[0].seq > delivered


async def test_the_later_request_is_the_newer_whichever_is_done_first(desk: Desk) -> None:
    desk.kubo.fail("slow", path="/add", seconds=60)
    early = await desk.publish(b"early")
    await until(lambda: desk.kubo.count(path="/add"), what="the upload")
    late = await desk.publish(b"late")
    done = await desk.reaches(late, "completed")
    assert (await desk.state(early)).state == "requested"
    desk.kubo.heal()
    superseded = await desk.reaches(early, "completed")
    assert superseded.superseded and not done.superseded
    assert (await desk.pointer())["ipfs_url"] == f"ipfs://{done.cid}"


async def test_an_order_that_was_given_counts(desk: Desk) -> None:
    first = await desk.publish(b"of tuesday", order=20)
    await desk.reaches(first, "completed")
    second = await desk.publish(b"of monday, measured again", order=10)
    assert (await desk.reaches(second, "completed")).superseded
    assert (await desk.pointer())["order"] == 20


async def test_the_local_file_goes_after_both_receipts(desk: Desk) -> None:
    path = desk.folder / "plot.png"
    path.write_bytes(b"a plot")
    desk.kubo.fail("status", path="/add", times=100)
    publication_id = await desk.publish(b"a plot", clean_up=str(path))
    await desk.stalls(publication_id)
    assert path.exists()
    desk.kubo.heal()
    await desk.lab.order("publication.retry", publication_id=str(publication_id))
    await desk.reaches(publication_id, "completed")
    assert not path.exists()
    assert (await desk.history("publication", publication_id))[-3:] == ["pointed", "cleaned", "completed"]


async def test_a_file_that_may_not_be_removed_stalls_the_last_step_only(desk: Desk, tmp_path: Path) -> None:
    path = desk.folder / "plot.png"
    path.write_bytes(b"another plot since")
    publication_id = await desk.publish(b"a plot", clean_up=str(path))
    stalled = await desk.stalls(publication_id)
    assert stalled.step == "clean_up" and "other contents" in (stalled.stalled or "")
    assert (await desk.pointer())["ipfs_url"] == stalled.location
    path.write_bytes(b"a plot")
    await desk.lab.order("publication.retry", publication_id=str(publication_id))
    await desk.reaches(publication_id, "completed")
    assert not path.exists()


async def test_a_parked_step_stalls_it_and_is_gone_on_with(desk: Desk) -> None:
    desk.kubo.wrong_cid = True
    publication_id = await desk.publish(b"a plot")
    stalled = await desk.stalls(publication_id)
    assert stalled.step == "pin" and "so it does not have these bytes" in (stalled.stalled or "")
    assert await desk.pointer() is None
    desk.kubo.wrong_cid = False
    for _ in range(2):  # twice is one retry: the second is refused, as it is on its way
        await desk.lab.order("publication.retry", publication_id=str(publication_id))
    await desk.reaches(publication_id, "completed")
    history = await desk.history("publication", publication_id)
    assert history == ["requested", "stalled", "retried", "pinned", "pointed", "completed"]


async def test_a_delivery_that_a_person_retries_takes_its_publication_along(desk: Desk) -> None:
    desk.kubo.wrong_cid = True
    publication_id = await desk.publish(b"a plot")
    await desk.stalls(publication_id)
    desk.kubo.wrong_cid = False
    await desk.lab.order("delivery.retry", delivery_id=str(pin_of(publication_id)))
    await desk.reaches(publication_id, "completed")


async def test_a_pointer_that_cannot_be_moved_stalls_the_second_step(desk: Desk) -> None:
    provisioner = desk.lab.place.opened[0]
    await provisioner.api(f"STREAM.DELETE.KV_{POINTERS}")
    publication_id = await desk.publish(b"a plot")
    stalled = await desk.stalls(publication_id)
    assert stalled.step == "point" and "no key-value bucket" in (stalled.stalled or "") and stalled.cid
    await streams.provision(provisioner)
    await desk.lab.order("publication.retry", publication_id=str(publication_id))
    await desk.reaches(publication_id, "completed")
    assert desk.kubo.adds == 1, "what was pinned was not pinned again"


async def test_cancelled_means_no_further_step(desk: Desk) -> None:
    desk.kubo.fail("status", path="/add", status=500, times=100)
    publication_id = await desk.publish(b"a plot")
    await until(lambda: desk.kubo.count(path="/add"), what="the upload")
    await desk.lab.order("publication.cancel", publication_id=str(publication_id), reason="wrong plot")
    await desk.reaches(publication_id, "cancelled")
    delivery: Delivery = (await desk.lab.reader.refresh("delivery", str(pin_of(publication_id)))).state
    assert delivery.state == "cancelled"
    desk.kubo.heal()
    await asyncio.sleep(0.5)
    assert await desk.pointer() is None and (await desk.state(publication_id)).state == "cancelled"
    await desk.lab.order("publication.retry", publication_id=str(publication_id))
    await desk.reaches(publication_id, "completed")


async def test_what_cannot_be_published_is_refused_at_once(desk: Desk) -> None:
    assert "no worker knows a target 'nowhere'" in await desk.refused(ipfs_target="nowhere")
    assert "no worker knows a target 'nowhere'" in await desk.refused(kv_target="nowhere")
    assert "choose one of the kind ipfs" in await desk.refused(ipfs_target="pointers")
    assert "choose one of the kind kv" in await desk.refused(kv_target="node")
    assert "needs 'sensor_type'" in await desk.refused(metadata={})
    assert "there is no artifact" in await desk.refused(artifact="ab" * 32)


async def test_every_reaction_may_come_twice(desk: Desk) -> None:
    """As after a crash between what was done and its acknowledgement: all events once more, and nothing changes."""
    path = desk.folder / "plot.png"
    path.write_bytes(b"a plot")
    publication_id = await desk.publish(b"a plot", clean_up=str(path))
    await desk.reaches(publication_id, "completed")
    handlers: Any = desk.lab.handlers
    before = len(await handlers.ledger.store.history("publication", str(publication_id)))
    stored = [
        one
        for kind, id_ in (("publication", publication_id), ("delivery", pin_of(publication_id)))
        for one in await handlers.ledger.store.history(kind, str(id_))
    ]
    for one in stored:
        for handler in consumer.handlers(one.type.rpartition(".v")[0]):
            ports = {"remover": Folders([desk.folder])}
            await handler(one.event, Reaction(one, handlers.ledger, Meta.new("again", "test"), ports))
    assert len(await handlers.ledger.store.history("publication", str(publication_id))) == before
    assert desk.kubo.adds == 1
