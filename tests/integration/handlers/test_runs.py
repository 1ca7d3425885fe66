"""A run through the real bus, the queue and a worker, to the double of MaskHub."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest_asyncio

from bus import broker as brokers
from bus.connection import Bus, connect
from bus.envelope import Meta
from bus.ids import uuid7
from bus.ledger import Ledger
from bus.store import EventStore
from domain.delivery import Delivery
from domain.ports import RetryPolicy
from domain.run import Run, Statistics, analysis_of, opening_of
from domain.target import OpenTarget
from handlers.run_deliveries import trades
from handlers.worker import Worker, WorkerSettings
from tests.doubles.maskhub import MaskHub
from tests.doubles.shipping import make
from tests.integration.bus.place import everything, until
from tests.integration.handlers.lab import Lab, config, line

TARGET = "maskhub"
ABOUT = {"mask_id": 42, "run_name": "EDWA run 7", "lot_name": "L1", "wafer_name": "W3", "station": "bench"}


class Courier:
    """One run of a process that delivers to MaskHub, in this one."""

    def __init__(self, lab: Lab, environ: Mapping[str, str], max_retries: int) -> None:
        self.lab = lab
        self.target = make("maskhub.runs", {"settle_s": 0.1}, environ)
        retry = RetryPolicy(max_retries=max_retries, multiplier=0.02, min_wait_s=0.02)
        self.trades = trades(TARGET, "maskhub.runs", self.target, retry, 8, lab.blobs)

    async def start(self) -> "Courier":
        place = self.lab.place
        credentials = place.credentials("commands")
        self.bus: Bus = await connect(place.server.url, "courier", credentials)
        self.worker = Worker(self.bus, Ledger(EventStore(self.bus)), self.trades, WorkerSettings(grace_s=0.5))
        self.broker = brokers.make_broker(place.server.url, "courier-work", credentials)
        for kind in self.trades:
            brokers.subscribe(
                self.broker,
                self.worker.on_work,
                stream="CMD",
                subject=f"cmd.work.{kind}.{TARGET}",
                durable=f"work-{kind}-{TARGET}",
                inbox_prefix=credentials.inbox_prefix,
                batch=1,
                max_ack_pending=256,
            )
        await brokers.start(self.broker)
        return self

    async def stop(self) -> None:
        await self.worker.stop()
        await self.broker.stop()
        await self.bus.close()
        await self.target.close()


class Runs:
    """What people do with runs, and what is to be seen of it."""

    def __init__(self, lab: Lab, hub: MaskHub) -> None:
        self.lab, self.hub = lab, hub
        self.run_id = f"run-{uuid4().hex[:8]}"
        self.couriers: list[Courier] = []

    async def open_target(self, system: str = "maskhub", target_id: str = TARGET) -> None:
        ledger = await self.lab.place.ledger("commands")
        order = OpenTarget(target_id=target_id, adapter=system, system=system, description={}, concurrency=8)
        await ledger.handle("target", target_id, order, Meta(causation=uuid7()))

    async def courier(self, max_retries: int = 20) -> Courier:
        courier = await Courier(self.lab, self.hub.environ, max_retries).start()
        self.couriers.append(courier)
        return courier

    async def close(self) -> None:
        for courier in self.couriers:
            await courier.stop()

    async def order(self, verb: str, **fields: Any) -> Any:
        return await self.lab.order(f"run.{verb}", run_id=self.run_id, **fields)

    async def done(self, verb: str, **fields: Any) -> None:
        outcome = await self.order(verb, **fields)
        assert outcome.outcome == "accepted", outcome.reason

    async def start(self, mode: str = "real_time", **more: Any) -> None:
        await self.done("start", mode=mode, metadata=ABOUT | more)

    def measurement(self, number: int) -> dict[str, Any]:
        data = f"PAR1 raw data {number}".encode()
        told = {"device_name": f"ring_{number}", "measurement_type": "spectrum", "die_x": number, "die_y": 0}
        return {
            "measurement_id": str(UUID(int=number)),
            "data": told,
            "sha256": self.lab.blobs.put(data),
            "size_bytes": len(data),
            "file_name": f"ring_{number}.parquet",
        }

    async def add(self, *numbers: int) -> None:
        for number in numbers:
            await self.done("add_measurement", **self.measurement(number))

    async def attach(self, file_name: str = "report.pdf") -> None:
        sha256 = self.lab.blobs.put(b"%PDF")
        await self.done(
            "attach",
            attachment_id=uuid7(),
            sha256=sha256,
            size_bytes=4,
            file_name=file_name,
            media_type="application/pdf",
        )

    async def state(self) -> Run:
        return (await self.lab.reader.refresh("run", self.run_id)).state

    async def delivery(self, id_: UUID) -> Delivery:
        return (await self.lab.reader.refresh("delivery", str(id_))).state

    async def counts(self, total: int, successful: int, failed: int, pending: int, timeout_s: float = 40) -> None:
        wanted = Statistics(total=total, successful=successful, failed=failed, pending=pending)
        seen: list[Statistics] = []

        async def there() -> bool:
            seen.append((await self.state()).statistics)
            return seen[-1] == wanted

        try:
            await until(there, timeout_s)
        except AssertionError:
            raise AssertionError(f"{wanted} is never reached; at last {seen[-1]}") from None

    async def part(self, id_: UUID, state: str) -> None:
        async def there() -> bool:
            part = (await self.state()).parts.get(str(id_))
            return part is not None and part.state == state

        await until(there, 40, f"{id_} {state}")

    async def quiet(self) -> None:
        """Everything that was ordered so far has been done: what comes after it in the stream has."""
        before = len(self.hub.requests)
        while True:
            await asyncio.sleep(0.3)
            if len(self.hub.requests) == before:
                return
            before = len(self.hub.requests)


@pytest_asyncio.fixture
async def runs(lab: Lab) -> AsyncIterator[Runs]:
    async with MaskHub() as hub:
        runs = Runs(lab, hub)
        await runs.open_target()
        yield runs
        await runs.close()


async def test_measurements_go_as_they_are_added_and_the_analysis_when_all_have_arrived(runs: Runs, lab: Lab) -> None:
    await runs.start()
    await runs.add(1, 2)  # before anybody delivers, so before the run is open there
    await runs.courier()
    await runs.counts(2, 2, 0, 0)
    await runs.add(3)
    await runs.attach()
    await runs.counts(3, 3, 0, 0)
    await runs.done("finish", analyse=True)
    await runs.part(analysis_of(runs.run_id), "delivered")
    await runs.done("finish", analyse=True)  # twice is once

    hub = runs.hub
    assert [one["name"] for one in hub.runs] == ["EDWA run 7"] and len(hub.stations) == 1
    assert sorted(hub.per_key().values()) == [1, 1, 1]
    assert {one["device_name"] for one in hub.measurements} == {"ring_1", "ring_2", "ring_3"}
    await until(lambda: len(hub.attachments) == 1, what="the attachment")
    assert hub.attachments[0]["target_model_id"] == str(hub.runs[0]["id"])
    state = await runs.state()
    assert state.remote_id == str(hub.runs[0]["id"])
    receipt = (await runs.delivery(UUID(int=1))).receipt
    assert receipt is not None and receipt.outcome == "stored" and receipt.proof["key"] in hub.per_key()
    await runs.quiet()
    assert hub.analyses == ["EDWA run 7"]
    last = (await lab.history("run", runs.run_id))[-1]
    assert last == "part_delivered"
    await lab.chains_are_right()


async def test_a_batch_goes_when_it_is_finished_and_many_at_once(runs: Runs) -> None:
    await runs.start("batch")
    await runs.courier()
    await runs.part(opening_of(runs.run_id), "delivered")
    await runs.add(*range(1, 61))
    await runs.quiet()
    assert not runs.hub.measurements
    runs.hub.takes_s = 0.1
    await runs.done("finish", analyse=True)
    await runs.counts(60, 60, 0, 0)
    assert sorted(runs.hub.per_key().values()) == [1] * 60
    assert runs.hub.most_at_once > 1
    await runs.part(analysis_of(runs.run_id), "delivered")


async def test_what_is_parked_is_tried_again_and_counted_once(runs: Runs) -> None:
    """Nothing lives in memory: the one who retries is another process than the one that failed."""
    await runs.start()
    courier = await runs.courier()
    runs.hub.fail("status", method="POST", path="/v3/measurements", status=422, body='{"message": "die not known"}')
    await runs.add(1)
    await runs.counts(1, 0, 1, 0)
    delivery = await runs.delivery(UUID(int=1))
    assert delivery.state == "parked" and "die not known" in delivery.error
    await runs.add(2)
    await runs.counts(2, 1, 1, 0)
    await runs.done("finish", analyse=True)
    await runs.quiet()
    assert not runs.hub.analyses, "it waits for what is parked"

    await courier.stop()
    runs.couriers.clear()
    await runs.lab.handlers.stop()
    await runs.lab.handlers.start()
    await runs.done("retry_failed")
    assert (await runs.state()).statistics.pending == 1
    await runs.courier()
    await runs.counts(2, 2, 0, 0)
    await runs.part(analysis_of(runs.run_id), "delivered")
    assert sorted(runs.hub.per_key().values()) == [1, 1]
    meta = json.loads(runs.hub.measurements[-1]["meta"])
    assert runs.hub.measurements[-1]["device_name"] == "ring_1" and meta["sha256"]


async def test_one_that_is_retried_or_called_off_by_itself_is_noted_too(runs: Runs) -> None:
    await runs.start()
    await runs.courier()
    runs.hub.fail("status", method="POST", path="/v3/measurements", status=422, times=2)
    await runs.add(1, 2)
    await runs.counts(2, 0, 2, 0)
    await runs.done("finish", analyse=True)
    done = await runs.lab.order("delivery.retry", delivery_id=str(UUID(int=1)))
    assert done.outcome == "accepted", done.reason
    await runs.counts(2, 1, 1, 0)
    done = await runs.lab.order("delivery.cancel", delivery_id=str(UUID(int=2)), reason="broken chip")
    assert done.outcome == "accepted", done.reason
    await runs.part(UUID(int=2), "cancelled")
    await runs.part(analysis_of(runs.run_id), "delivered")
    assert runs.hub.analyses == ["EDWA run 7"]


async def test_lost_answers_make_no_second_measurement(runs: Runs) -> None:
    await runs.start()
    await runs.courier()
    await runs.part(opening_of(runs.run_id), "delivered")
    for kind in ("drop_after", "drop", "status"):
        runs.hub.fail(kind, method="POST", path="/v3/measurements", times=5, status=502)
    await runs.add(*range(1, 21))
    await runs.counts(20, 20, 0, 0)
    assert sorted(runs.hub.per_key().values()) == [1] * 20
    assert sum(one.fault == "drop_after" for one in runs.hub.requests) == 5


async def test_where_it_cannot_be_found_out_it_is_left_to_a_person(runs: Runs) -> None:
    runs.hub.lookups = False
    await runs.start()
    await runs.courier()
    await runs.part(opening_of(runs.run_id), "delivered")
    runs.hub.fail("drop_after", method="POST", path="/v3/measurements")
    await runs.add(1, 2)
    await runs.counts(2, 1, 1, 0)
    parked = [
        one for one in (await runs.delivery(UUID(int=1)), await runs.delivery(UUID(int=2))) if one.state == "parked"
    ]
    assert [one.kind for one in parked] == ["unknown"]
    assert sorted(runs.hub.per_key().values()) == [1, 1]


async def test_a_token_that_is_mended_lets_everything_go(runs: Runs) -> None:
    runs.hub.token = "another"
    await runs.start()
    await runs.courier()
    await runs.part(opening_of(runs.run_id), "parked")
    await runs.add(1, 2)
    runs.hub.token = "hub-token-1"
    await runs.done("retry_failed")
    await runs.counts(2, 2, 0, 0)


async def test_what_cannot_be_is_refused_in_words(runs: Runs) -> None:
    async def refused(words: str, verb: str, **fields: Any) -> None:
        outcome = await runs.order(verb, **fields)
        assert outcome.outcome == "refused" and words in outcome.reason, outcome

    await refused("no worker knows a target 'elsewhere'", "start", target="elsewhere", metadata=ABOUT)
    await runs.open_target("s3", "archive")
    await refused("target archive is s3", "start", target="archive", metadata=ABOUT)
    await runs.start()
    await refused("nothing empty", "add_measurement", **runs.measurement(1) | {"sha256": None})
    await refused("nothing empty", "add_measurement", **runs.measurement(1) | {"size_bytes": 0})
    await runs.add(1)
    wrong = runs.measurement(1) | {"measurement_id": str(UUID(int=9)), "size_bytes": 1}
    await refused("the same SHA-256 means", "add_measurement", **wrong)
    assert (await runs.state()).statistics.total == 1


async def test_the_same_order_twice_is_one_measurement(runs: Runs) -> None:
    await runs.start()
    await runs.start()
    await runs.add(1, 1)
    await runs.courier()
    await runs.add(1)
    await runs.counts(1, 1, 0, 0)
    await runs.add(1)
    await runs.quiet()
    assert list(runs.hub.per_key().values()) == [1]


async def test_runs_that_open_at_once_make_their_station_once(runs: Runs) -> None:
    """MaskHub would take two of one name, and then nobody could say which is meant; so they take turns, over all workers."""
    await runs.courier()
    await runs.courier()
    runs.hub.fail("slow_after", method="GET", path="/teststations/", seconds=0.5, times=2)
    ids = [f"{runs.run_id}-{number}" for number in range(6)]
    for run_id in ids:
        runs.run_id = run_id
        await runs.start(run_name=run_id)
    for run_id in ids:
        runs.run_id = run_id
        await runs.part(opening_of(run_id), "delivered")
    assert len(runs.hub.stations) == 1 and len(runs.hub.runs) == 6


async def scanned(lab: Lab, data: bytes = b"PAR1 scan", **metadata: Any) -> str:
    """A scan with its raw data, as the worker that makes artifacts leaves it."""
    scan_id = await lab.request(line(3), queue_id="main", title="line", metadata=metadata)
    told = {"artifact_id": lab.blobs.put(data), "size": len(data), "file_name": "scan.parquet", "role": "raw_data"}
    done = await lab.order("artifact.register", **told, media_type="application/vnd.apache.parquet", scan_id=scan_id)
    assert done.outcome == "accepted", done.reason
    return scan_id


async def test_a_scan_that_names_a_run_is_a_measurement_of_it(runs: Runs, lab: Lab) -> None:
    await lab.station(t=config("trivial", lab.world))
    await until(lambda: lab.history("equipment", "t"), what="the instrument is known")
    await runs.start()
    await runs.courier()
    about = {"run_id": runs.run_id, "device_name": "ring_4", "die_x": 4, "die_y": -1, "laser_nm": 1550.5}
    scan_id = await scanned(lab, **about)
    await scanned(lab, b"PAR1 another")  # names no run
    await runs.counts(1, 1, 0, 0)
    (stored,) = runs.hub.measurements
    assert (stored["device_name"], stored["die_x"], stored["die_y"], stored["type"]) == ("ring_4", "4", "-1", "scan")
    assert (stored["lot_name"], stored["file_name"]) == ("L1", "scan.parquet")
    meta = json.loads(stored["test_meta"])
    assert meta["laser_nm"] == 1550.5 and meta["scan_id"] == scan_id and meta["title"] == "line"


async def test_a_scan_that_cannot_be_added_is_parked_and_can_be_retried(runs: Runs, lab: Lab) -> None:
    await lab.station(t=config("trivial", lab.world))
    await until(lambda: lab.history("equipment", "t"), what="the instrument is known")
    await runs.courier()
    await scanned(lab, run_id=runs.run_id, device_name="ring", die_x=1, die_y=1)  # the run is not there yet
    await scanned(lab, b"PAR1 other", run_id=runs.run_id, device_name="ring")  # no die

    async def parked() -> dict[str, str]:
        added = [one for one in await everything(lab.place.opened[0], "evt.parked.>") if one.type == "parked.added.v1"]
        reasons = {one.id: json.loads(one.data)["reason"] for one in added}
        return reasons if len(reasons) == 2 else {}

    reasons = await until(parked, 60, "both are parked")
    assert any("there is no run" in reason for reason in reasons.values())
    assert any("die_x: Field required" in reason for reason in reasons.values())
    await runs.start()
    id_ = next(id_ for id_, reason in reasons.items() if "there is no run" in reason)
    done = await lab.order("parked.retry", parked_id=id_)
    assert done.outcome == "accepted", done.reason
    await runs.counts(1, 1, 0, 0)
