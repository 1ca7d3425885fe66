"""kill -9 of the worker that delivers, with lost replies. Everything arrives once, and has one receipt."""

import asyncio
import json
import random
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bus.ids import uuid7
from bus.keyvalue import Bucket
from bus.roles import Role
from bus.streams import POINTERS
from labledger import wiring
from tests.doubles.fault_proxy import FaultProxy
from tests.doubles.s3_servers import SeaweedFS
from tests.doubles.server import Outside, outside
from tests.faults.lab import Lab, Process
from tests.faults.proof import chains_are_whole, nothing_is_stored_twice, outcomes_are_true, what_was_heard_is_there
from tests.faults.test_extraction_workers import attempts_are_told, body
from tests.integration.adapters.s3_desk import Eye

COUNT = 100
KILLS = 3
QUICK = {"min_wait_s": 0.1, "multiplier": 0.1, "max_retries": 50}


class Deliverer:
    """The role `deliver` of a lab, as a process that is killed and started again."""

    def __init__(self, lab: Lab, targets: dict[str, Any], environ: dict[str, str] | None = None) -> None:
        from adapters.storage.local import LocalBlobs

        self.lab = lab
        self.blobs = LocalBlobs(lab.settings.blob_dir)
        self.env = {"LABLEDGER_DATA_DIR": str(lab.folder), "LABLEDGER_TARGETS": json.dumps(targets)} | (environ or {})

    def begin(self) -> Process:
        lab = self.lab
        process = Process("deliver", ("deliver",), self.env, lab.folder / "deliver.log")
        lab.processes["deliver"] = process
        process.keeper = asyncio.create_task(lab._keep(process))
        return process

    async def known(self) -> None:
        """Its targets are known to the lab, and nobody serves them yet."""
        process = self.begin()
        await self.lab.until(lambda: "deliver: ready" in process.said(), "deliver is ready")
        await self.lab.end("deliver")

    async def artifact(self, data: bytes, name: str) -> str:
        sha256 = self.blobs.put(data)
        await self.lab.send("artifact.register", {"artifact_id": sha256, "size": len(data), "file_name": name})
        return sha256

    async def request(self, target: str, **more: Any) -> str:
        id_ = uuid7()
        await self.lab.send("delivery.request", {"delivery_id": id_, "target_id": target} | more)
        return id_


async def killed_while_it_delivers(deliverer: Deliverer, ids: list[str], chance: random.Random) -> list[Any]:
    """Start it, and kill it at random moments: as an attempt is said, a little later, as a receipt is written. Then everything
    must have one receipt, and the history be whole."""
    lab = deliverer.lab
    process = deliverer.begin()
    for kill in range(KILLS):
        await _killed_at(lab, process, "delivery.delivered" if kill % 2 else "delivery.attempted", chance)
    outcomes = {sent.id: await lab.outcome(sent) for sent in lab.sent.values()}
    assert {outcome.outcome for outcome in outcomes.values()} == {"accepted"}

    async def done() -> bool:
        events = await lab.events()
        over = {body(it)["job_id"] for it in events if it.type.startswith("queue.job_finished.")}
        return set(ids) <= over

    await lab.until(done, f"{len(ids)} deliveries", 120)
    heard = dict(lab.heard)  # what comes later is not in the history that is read now
    events = await lab.events()
    parked = [body(it) for it in events if it.type.startswith("delivery.parked.")]
    assert not parked
    receipts = Counter(body(it)["delivery_id"] for it in events if it.type.startswith("delivery.delivered."))
    assert receipts == dict.fromkeys(ids, 1)
    chains_are_whole(events)
    nothing_is_stored_twice(events)
    what_was_heard_is_there(events, heard)
    outcomes_are_true(events, outcomes)
    attempts_are_told(events)
    again = sum(1 for it in events if it.type.startswith("job.released."))
    lab.say(f"{again} attempts died with their worker")
    assert again, "nobody was killed at work: this has shown nothing"
    return events


async def _killed_at(lab: Lab, process: Process, event: str, chance: random.Random) -> None:
    """Kill it when the n-th such event from now on is heard, or a moment later."""
    left, wait_s, ended = chance.randrange(1, 12), chance.choice((0.0, chance.uniform(0, 0.02))), len(process.exits)
    # What is heard late is of the run before: the signal must meet a process.
    await lab.until(lambda: process.starts > ended, "it runs")
    loop = asyncio.get_running_loop()

    def reached(_: dict[str, Any]) -> bool:
        nonlocal left
        left -= 1
        return left <= 0

    def kill() -> None:
        loop.call_later(wait_s, process.signal, signal.SIGKILL)

    await lab.at(event, kill, reached)
    await lab.until(lambda: len(process.exits) > ended, "it is dead")


def lossy(double: Outside, method: str) -> None:
    """Now and then it does what it was asked, and its answer is lost."""
    double.fail("drop_after", method=method, times=3)


async def test_100_files_are_pinned_once_each(
    make_lab: Callable[..., Lab], chance: random.Random, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        kubo = stack.enter_context(outside("kubo", tmp_path / "kubo"))
        options = {"kubo": {"url": f"{kubo.url}/api/v0"}, "http": {"requests_per_s": 1000, "burst": 1000}}
        async with make_lab() as lab:
            deliverer = Deliverer(lab, {"ipfs": {"adapter": "storage.ipfs", "options": options, "retry": QUICK}})
            await lab.start("commands")
            await deliverer.known()
            lossy(kubo, "POST")
            files = [await deliverer.artifact(f"plot {n}".encode(), f"{n}.png") for n in range(COUNT)]
            ids = [await deliverer.request("ipfs", artifact=sha256) for sha256 in files]
            events = await killed_while_it_delivers(deliverer, ids, chance)
            receipts = [body(it)["receipt"] for it in events if it.type.startswith("delivery.delivered.")]
            pins = await asyncio.to_thread(kubo.contents)
            assert Counter(pins["pins"]) == dict.fromkeys(
                (it["location"].removeprefix("ipfs://") for it in receipts), 1
            )
            assert len(pins["pins"]) == COUNT


async def test_100_pointers_of_ten_keys_end_at_the_newest(make_lab: Callable[..., Lab], chance: random.Random) -> None:
    async with make_lab() as lab:
        deliverer = Deliverer(lab, {"latest": {"adapter": "storage.kv", "retry": QUICK}})
        await lab.start("commands")
        await deliverer.known()
        ids: list[str] = []
        order = list(range(COUNT))
        chance.shuffle(order)  # what was made last may come first
        for n in order:
            key = f"temperature:{n % 10}:latest"
            options = {"value": {"ipfs_url": f"ipfs://{n}"}, "metadata": {}, "order": n}
            ids.append(await deliverer.request("latest", key=key, options=options, claims=[f"kv-{n % 10}"]))
        events = await killed_while_it_delivers(deliverer, ids, chance)
        outcomes = Counter(body(it)["receipt"]["outcome"] for it in events if it.type.startswith("delivery.delivered."))
        assert outcomes["stored"] >= 10 and sum(outcomes.values()) == COUNT
        bus = await wiring.connected(lab.settings.connection(Role.DELIVER), "tests")
        bucket = Bucket(bus, POINTERS)
        for k in range(10):
            entry = await bucket.get(f"temperature:{k}:latest")
            assert entry.value is not None and f"ipfs://{90 + k}" in entry.value.decode()
        await bus.close()


async def test_100_files_are_stored_in_s3_once_each(
    make_lab: Callable[..., Lab], chance: random.Random, seaweedfs: SeaweedFS
) -> None:
    async with FaultProxy(seaweedfs.port) as proxy, make_lab() as lab:
        options = seaweedfs.options(endpoint_url=proxy.url, prefix="kills/", key="{file_name}")
        deliverer = Deliverer(lab, {"archive": {"adapter": "storage.s3", "options": options, "retry": QUICK}})
        await lab.start("commands")
        await deliverer.known()
        proxy.mode = "dupdrop"  # it stores, and the answer is lost
        contents = [f"spectrum {n} ".encode() * 500 for n in range(COUNT)]
        files = [await deliverer.artifact(data, f"{n}.csv") for n, data in enumerate(contents)]
        ids = [await deliverer.request("archive", artifact=sha256) for sha256 in files]
        await killed_while_it_delivers(deliverer, ids, chance)
        eye = Eye(seaweedfs.options())
        there = await asyncio.to_thread(lambda: {key: eye.sha256(key) for key in eye.keys("kills/")})
        assert there == {f"kills/{n}.csv": sha256 for n, sha256 in enumerate(files)}
        assert not eye.uploads("kills/")
