"""A delivery from its order to its receipt, through the queue and a worker, to a target that is a shelf in memory."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest_asyncio

from bus import broker as brokers
from bus.connection import Bus, connect
from bus.ids import uuid7
from bus.ledger import Ledger
from bus.store import EventStore
from domain.delivery import Delivery
from domain.ports import Arrived, Check, DeliveryFailed, RetryPolicy, Shipment
from domain.queue import Queue
from labledger.targets import OpenedTarget
from labledger.wiring import serve_target
from tests.integration.bus.place import until
from tests.integration.handlers.lab import Lab

QUICK = RetryPolicy(max_retries=3, multiplier=0.1, min_wait_s=0.1)


class Shelf:
    """A target: what lies on it outlives the workers that bring it."""

    kind = "shelf"

    def __init__(self) -> None:
        self.things: dict[str, bytes] = {}
        self.shipments: list[Shipment] = []
        self.absent: tuple[str, ...] = ()
        self.fail: Callable[[Shipment], Exception | None] = lambda _: None
        self.hold: asyncio.Event | None = None
        self.at_once = self.most_at_once = 0

    def missing(self) -> Sequence[str]:
        return self.absent

    def describe(self) -> Mapping[str, Any]:
        return {"room": "17"}

    async def deliver(self, shipment: Shipment) -> Arrived:
        self.shipments.append(shipment)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await shipment.keep({"place": len(self.things)})
            if self.hold is not None:
                await self.hold.wait()
            error = self.fail(shipment)
            if error is not None:
                raise error
            key = shipment.key or shipment.file_name
            data = shipment.path.read_bytes() if shipment.path else json.dumps(shipment.options).encode()
            before = self.things.get(key)
            self.things[key] = data
        finally:
            self.at_once -= 1
        return Arrived("existed" if before == data else "stored", f"shelf:{key}", {"key": key}, len(data), 1)

    async def verify(self, proof: Mapping[str, Any], sha256: str | None, size: int) -> Sequence[Check]:
        there = self.things.get(proof["key"])
        return [Check("size", there is not None and len(there) == size, f"{proof['key']}: {there!r}")]

    async def test(self) -> Sequence[Check]:
        return [Check("there", True, "")]

    async def close(self) -> None: ...


class Depot:
    """Workers of targets, and what people order and see."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.running: list[tuple[Any, Any, Bus]] = []

    async def serve(self, name: str, shelf: Shelf, retry: RetryPolicy = QUICK, concurrency: int = 4) -> Any:
        """One run of a worker's process for one target, in this one."""
        place = self.lab.place
        credentials = place.credentials("deliver")
        bus = await connect(place.server.url, "deliver", credentials)
        broker = brokers.make_broker(place.server.url, "deliver-work", credentials)
        opened = OpenedTarget(name, "tests.shelf", shelf, concurrency, retry)
        ledger = Ledger(EventStore(bus))
        worker = await serve_target(opened, broker, bus, ledger, self.lab.blobs, credentials.inbox_prefix)
        await brokers.start(broker)
        self.running.append((worker, broker, bus))
        return worker

    async def stop(self) -> None:
        while self.running:
            worker, broker, bus = self.running.pop()
            if worker is not None:
                worker.settings = worker.settings.__class__(grace_s=0.1)
                await worker.stop()
            await broker.stop()
            await bus.close()

    async def artifact(self, data: bytes, name: str = "a.txt") -> str:
        sha256 = self.lab.blobs.put(data)
        done = await self.lab.order("artifact.register", artifact_id=sha256, size=len(data), file_name=name)
        assert done.outcome == "accepted", done.reason
        return sha256

    async def request(self, target: str, artifact: str | None = None, **more: Any) -> str:
        id_ = uuid7()
        done = await self.lab.order("delivery.request", delivery_id=id_, target_id=target, artifact=artifact, **more)
        assert done.outcome == "accepted", done.reason
        return id_

    async def state(self, id_: str) -> Delivery:
        return (await self.lab.reader.refresh("delivery", id_)).state

    async def reaches(self, id_: str, *states: str) -> Delivery:
        async def there() -> Delivery | None:
            now = await self.state(id_)
            return now if now.state in states else None

        return await until(there, 30, f"delivery {' or '.join(states)}")

    async def history(self, id_: str) -> list[str]:
        return await self.lab.history("delivery", id_)

    async def queue_is_empty(self, queue_id: str) -> None:
        async def empty() -> bool:
            queue: Queue = (await self.lab.reader.refresh("queue", queue_id)).state
            return not queue.waiting and not queue.running

        await until(empty, 15, "an empty queue")


@pytest_asyncio.fixture
async def depot(lab: Lab) -> AsyncIterator[Depot]:
    depot = Depot(lab)
    yield depot
    await depot.stop()


async def test_an_artifact_arrives_and_the_receipt_tells_all_of_it(depot: Depot) -> None:
    shelf = Shelf()
    await depot.serve("shelf", shelf)
    artifact = await depot.artifact(b"the bytes")
    id_ = await depot.request("shelf", artifact, key="a/b.txt", options={"colour": "red"})
    done = await depot.reaches(id_, "delivered")
    receipt = done.receipt
    assert receipt is not None and receipt.outcome == "stored" and receipt.location == "shelf:a/b.txt"
    assert (receipt.sha256, receipt.size, receipt.attempts, receipt.bytes_sent) == (artifact, 9, 1, 9)
    assert receipt.target == {"room": "17"} and receipt.proof == {"key": "a/b.txt"}
    assert shelf.things == {"a/b.txt": b"the bytes"}
    assert await depot.history(id_) == ["requested", "attempted", "checkpointed", "delivered"]
    assert (await depot.lab.history("job", id_))[-1] == "succeeded"
    await depot.queue_is_empty("to-shelf")
    await depot.lab.chains_are_right()


async def test_what_passes_is_tried_again_with_the_checkpoint_and_then_parked_and_retried(depot: Depot) -> None:
    shelf, left = Shelf(), 3

    def fail(_: Shipment) -> Exception | None:
        nonlocal left
        left -= 1
        return DeliveryFailed("server_error", "it answers 500") if left >= 0 else None

    shelf.fail = fail
    await depot.serve("shelf", shelf)
    id_ = await depot.request("shelf", await depot.artifact(b"x"))
    parked = await depot.reaches(id_, "parked")
    assert (parked.kind, parked.error, parked.attempt) == ("server_error", "it answers 500", 3)
    assert [one.checkpoint for one in shelf.shipments] == [None, {"place": 0}, {"place": 0}]
    again = await depot.lab.order("delivery.retry", delivery_id=id_)
    assert again.outcome == "accepted", again.reason
    assert (await depot.reaches(id_, "delivered")).receipt is not None
    said = await depot.history(id_)
    assert said.count("failed") == 2 and said.count("parked") == 1 and said.count("delivered") == 1
    assert "retried" in said
    refused = await depot.lab.order("delivery.retry", delivery_id=id_)
    assert refused.outcome == "refused" and "delivered" in (refused.reason or "")


async def test_a_target_that_asks_to_come_later_is_left_alone_until_then(depot: Depot) -> None:
    shelf = Shelf()
    shelf.fail = lambda _: DeliveryFailed("throttled", "too many", retry_after_s=3600)
    await depot.serve("shelf", shelf)
    id_ = await depot.request("shelf", await depot.artifact(b"x"))
    await depot.reaches(id_, "failed")
    stored = (await depot.lab.reader.store.history("delivery", id_))[-1]
    wait_s = (datetime.fromisoformat(json.loads(stored.data)["retry_at"]) - datetime.now(UTC)).total_seconds()
    assert 3500 < wait_s < 3700
    job = (await depot.lab.reader.refresh("job", id_)).state
    assert job.state == "retrying" and job.retry_at is not None


async def test_waiting_for_something_else_uses_nothing_up(depot: Depot) -> None:
    shelf, left = Shelf(), 6

    def fail(_: Shipment) -> Exception | None:
        nonlocal left
        left -= 1
        return None if left == 0 else DeliveryFailed("server_error" if left == 1 else "waiting", "not yet")

    shelf.fail = fail
    await depot.serve("shelf", shelf)
    id_ = await depot.request("shelf", await depot.artifact(b"x"))
    done = await depot.reaches(id_, "delivered", "parked")
    assert (done.state, done.attempt, done.failures) == ("delivered", 6, 1)


async def test_a_target_opened_with_another_concurrency_changes_its_queue(depot: Depot) -> None:
    await depot.serve("shelf", Shelf())
    await depot.reaches(await depot.request("shelf", await depot.artifact(b"x")), "delivered")
    await depot.serve("shelf", Shelf(), concurrency=9)

    async def changed() -> bool:
        queue: Queue = (await depot.lab.reader.refresh("queue", "to-shelf")).state
        return queue.max_concurrent == 9

    await until(changed, 20, "nine at once")


async def test_what_a_person_must_mend_is_parked_at_once_with_words(depot: Depot) -> None:
    shelf = Shelf()
    shelf.fail = lambda _: DeliveryFailed("unauthorized", "the key is not known there; set SHELF_KEY")
    await depot.serve("shelf", shelf)
    artifact = await depot.artifact(b"x")
    parked = await depot.reaches(await depot.request("shelf", artifact), "parked")
    assert (parked.kind, parked.attempt) == ("unauthorized", 1) and "SHELF_KEY" in parked.error
    shelf.fail = lambda _: ZeroDivisionError("a defect")
    defect = await depot.reaches(await depot.request("shelf", artifact), "parked")
    assert (defect.kind, defect.attempt, defect.error) == ("internal", 3, "a defect")


async def test_bytes_that_are_gone_or_changed_are_not_sent(depot: Depot) -> None:
    shelf = Shelf()
    await depot.serve("shelf", shelf)
    gone, changed = await depot.artifact(b"gone"), await depot.artifact(b"true")
    depot.lab.blobs.path(gone).unlink()
    depot.lab.blobs.path(changed).write_bytes(b"false")
    first = await depot.reaches(await depot.request("shelf", gone), "parked")
    second = await depot.reaches(await depot.request("shelf", changed), "parked")
    assert (first.kind, second.kind) == ("missing", "changed") and "retry" in first.error and "retry" in second.error
    assert not shelf.shipments


async def test_a_target_without_credentials_keeps_what_is_asked_for_until_they_are_there(depot: Depot) -> None:
    shelf = Shelf()
    shelf.absent = ("SHELF_KEY",)
    await depot.serve("shelf", shelf)
    ids = [await depot.request("shelf", await depot.artifact(f"{n}".encode()), key=f"{n}") for n in range(6)]
    await asyncio.sleep(0.5)
    assert {(await depot.state(id_)).state for id_ in ids} == {"requested"} and not shelf.shipments
    shelf.absent = ()
    await depot.serve("shelf", shelf)
    for id_ in ids:
        assert (await depot.reaches(id_, "delivered")).attempt == 1
    assert len(shelf.things) == 6


async def test_one_target_that_hangs_delays_no_other_and_keeps_to_its_concurrency(depot: Depot) -> None:
    slow, quick = Shelf(), Shelf()
    slow.hold = asyncio.Event()
    await depot.serve("slow", slow, concurrency=2)
    await depot.serve("quick", quick)
    artifact = await depot.artifact(b"x")
    stuck = [await depot.request("slow", artifact, key=f"{n}") for n in range(5)]
    await until(lambda: len(slow.shipments) == 2, 20, "two under way")
    await depot.reaches(await depot.request("quick", artifact), "delivered")
    assert len(slow.shipments) == 2
    slow.hold.set()
    for id_ in stuck:
        await depot.reaches(id_, "delivered")
    assert slow.most_at_once == 2


async def test_deliveries_that_share_a_claim_go_one_by_one_in_their_order(depot: Depot) -> None:
    shelf = Shelf()
    await depot.serve("shelf", shelf)
    shelf.hold = asyncio.Event()
    ids = [
        await depot.request("shelf", key="latest", options={"n": n}, claims=["kv-latest"], title=f"{n}")
        for n in range(5)
    ]
    await until(lambda: len(shelf.shipments) == 1, 20, "the first")
    shelf.hold.set()
    for id_ in ids:
        await depot.reaches(id_, "delivered")
    assert [one.options["n"] for one in shelf.shipments] == [0, 1, 2, 3, 4]
    assert shelf.most_at_once == 1 and json.loads(shelf.things["latest"]) == {"n": 4}


async def test_one_under_way_is_called_off_and_one_that_is_parked_too(depot: Depot) -> None:
    shelf = Shelf()
    shelf.hold = asyncio.Event()
    await depot.serve("shelf", shelf)
    artifact = await depot.artifact(b"x")
    id_ = await depot.request("shelf", artifact)
    await until(lambda: len(shelf.shipments) == 1, 20, "under way")
    done = await depot.lab.order("delivery.cancel", delivery_id=id_, reason="wrong file")
    assert done.outcome == "accepted", done.reason
    await depot.reaches(id_, "cancelled")
    await until(lambda: shelf.at_once == 0, 20, "it stops")
    assert not shelf.things
    await depot.queue_is_empty("to-shelf")
    shelf.hold.set()
    shelf.fail = lambda _: DeliveryFailed("refused", "no")
    other = await depot.request("shelf", artifact)
    await depot.reaches(other, "parked")
    # By its job, as any job is cancelled: what the delivery says follows.
    assert (await depot.lab.order("delivery.cancel", delivery_id=other)).outcome == "accepted"
    assert (await depot.state(other)).state == "cancelled"
    shelf.fail = lambda _: None
    assert (await depot.lab.order("job.retry", job_id=id_)).outcome == "accepted"
    assert (await depot.reaches(id_, "delivered")).attempt == 2


async def test_the_target_is_asked_again_and_says_what_it_finds(depot: Depot) -> None:
    shelf = Shelf()
    await depot.serve("shelf", shelf)
    id_ = await depot.request("shelf", await depot.artifact(b"four"), key="k")
    await depot.reaches(id_, "delivered")

    async def verified() -> dict[str, Any]:
        count = (await depot.history(id_)).count("verified")
        order = await depot.lab.order("delivery.verify", delivery_id=id_, verification_id=uuid7())
        assert order.outcome == "accepted", order.reason

        async def noted() -> bool:
            return (await depot.history(id_)).count("verified") > count

        await until(noted, 20, "a verification")
        return json.loads((await depot.lab.reader.store.history("delivery", id_))[-1].data)

    assert (await verified())["ok"] is True
    shelf.things["k"] = b"other"
    found = await verified()
    assert found["ok"] is False and "other" in found["checks"][0]["detail"]


async def test_what_cannot_be_asked_for_is_refused_with_what_to_do(depot: Depot) -> None:
    await depot.serve("shelf", Shelf())
    order = depot.lab.order
    nowhere = await order("delivery.request", delivery_id=uuid7(), target_id="nowhere")
    assert nowhere.outcome == "refused" and "labledger run deliver" in (nowhere.reason or "")
    nothing = await order("delivery.request", delivery_id=uuid7(), target_id="shelf", artifact="0" * 64)
    assert nothing.outcome == "refused" and "artifact.register" in (nothing.reason or "")
    id_ = await depot.request("shelf", await depot.artifact(b"x"))
    other = await order("delivery.request", delivery_id=id_, target_id="shelf", key="another")
    assert other.outcome == "refused" and "new id" in (other.reason or "")
    empty = await order("artifact.register", artifact_id="0" * 64, size=0, file_name="a")
    assert empty.outcome == "invalid"


async def test_a_worker_that_vanishes_leaves_its_delivery_to_the_next(depot: Depot, tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.hold = asyncio.Event()
    worker = await depot.serve("shelf", shelf)
    id_ = await depot.request("shelf", await depot.artifact(b"x"))
    await until(lambda: len(shelf.shipments) == 1, 20, "under way")

    async def nothing(*_: Any) -> None: ...

    worker._release = worker._give_back = nothing
    _, broker, bus = depot.running.pop()
    for task in list(worker._at_hand.values()):
        task.cancel()
    await broker.stop()
    await bus.close()
    shelf.hold.set()
    await depot.serve("shelf", shelf)
    done = await depot.reaches(id_, "delivered")
    assert done.attempt == 2 and shelf.shipments[1].checkpoint == {"place": 0}
    assert (await depot.history(id_)).count("delivered") == 1
