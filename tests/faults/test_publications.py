"""Publications while the processes that make them are killed (SIGKILL) and answers are lost: each file is on IPFS once, each delivery
has one receipt, and each key points to what was asked for last."""

import asyncio
import contextlib
import json
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from adapters.storage.local import LocalBlobs
from bus.ids import uuid7
from domain.publication import pin_of, pointer_of
from tests.doubles.cloudflare import ACCOUNT, NAMESPACE
from tests.doubles.cloudflare import TOKEN as CLOUDFLARE_TOKEN
from tests.doubles.pinata import JWT
from tests.doubles.server import Outside, outside
from tests.faults.lab import Lab
from tests.faults.proof import chains_are_whole, nothing_is_stored_twice, outcomes_are_true, what_was_heard_is_there
from tests.faults.test_deliveries import QUICK, Deliverer

COUNT, KEYS = 24, 4


def deliverer(lab: Lab, pinata: Outside, cloudflare: Outside) -> Deliverer:
    """The role `deliver`, which knows both targets."""
    pace = {"requests_per_s": 500, "burst": 500}
    to_pinata = {"pinata": {"upload_url": f"{pinata.url}/v3", "api_url": pinata.url}, "http": pace}
    to_cloudflare = {"cloudflare": {"url": f"{cloudflare.url}/client/v4"}, "http": pace}
    targets = {
        "pinata": {"adapter": "storage.ipfs", "options": to_pinata, "retry": QUICK},
        "cloudflare": {"adapter": "storage.kv", "options": to_cloudflare, "retry": QUICK},
    }
    environ = {"PINATA_JWT": JWT, "CLOUDFLARE_API_TOKEN": CLOUDFLARE_TOKEN}
    return Deliverer(lab, targets, environ | {"CLOUDFLARE_ACCOUNT_ID": ACCOUNT, "KV_NAMESPACE_ID": NAMESPACE})


async def publish(lab: Lab, n: int) -> str:
    data = os.urandom(50_000) + str(n).encode()
    artifact = await asyncio.to_thread(LocalBlobs(lab.settings.blob_dir).put, data)
    about = {"artifact_id": artifact, "size": len(data), "file_name": f"{n}.png"}
    assert (await lab.order("artifact.register", about)).outcome == "accepted"
    id_ = uuid7()
    body = {
        "publication_id": id_,
        "artifact": artifact,
        "ipfs_target": "pinata",
        "kv_target": "cloudflare",
        "key": f"sensor-{n % KEYS}:daily:latest",
        "metadata": {"number": n},
    }
    assert (await lab.order("publication.request", body)).outcome == "accepted"
    return id_


async def test_publications_come_through_kills_of_all_that_makes_them(
    make_lab: Callable[..., Lab], chance: random.Random, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        pinata = stack.enter_context(outside("pinata", tmp_path / "pinata"))
        cloudflare = stack.enter_context(outside("cloudflare", tmp_path / "cloudflare"))
        cloudflare.switch(write_every_s=0.1, budget=100_000)
        for double in (pinata, cloudflare):
            double.fail("drop_after", path="files$|values|bulk", times=6)
            double.fail("slow_after", seconds=0.1, times=100_000)
        async with make_lab() as lab:
            await lab.start("commands")
            process = deliverer(lab, pinata, cloudflare).begin()
            await lab.until(lambda: "deliver: ready" in process.said(), "deliver is ready")
            ids = [await publish(lab, n) for n in range(COUNT)]
            for name in ("deliver", "commands", "commands", "deliver", "commands"):
                await asyncio.sleep(chance.uniform(0, 1.0))
                await lab.kill(name)

            async def completed() -> bool:
                done = [one for one in await lab.events() if one.type.startswith("publication.completed.")]
                return len(done) == COUNT

            await lab.until(completed, f"{COUNT} publications", 180)
            events = await lab.events()
            outcomes = {sent.id: await lab.outcome(sent) for sent in lab.sent.values()}
            heard = lab.heard
        files, written = pinata.contents(), cloudflare.contents()

    delivered = Counter(
        json.loads(one.data)["delivery_id"] for one in events if one.type.startswith("delivery.delivered.")
    )
    assert delivered == {str(of(UUID(id_))): 1 for id_ in ids for of in (pin_of, pointer_of)}
    assert len(files) == COUNT == len({file["cid"] for file in files})
    pinned = {
        json.loads(one.data)["publication_id"]: json.loads(one.data)["location"]
        for one in events
        if one.type.startswith("publication.pinned.")
    }
    assert {f"ipfs://{file['cid']}" for file in files} == set(pinned.values())
    for k in range(KEYS):
        history = [json.loads(one["value"]) for one in written[f"sensor-{k}:daily:latest"]]
        assert history[-1]["metadata"]["number"] == COUNT - KEYS + k, "the last that was asked for is what stands"
        assert history[-1]["ipfs_url"] == pinned[ids[COUNT - KEYS + k]]
        orders = [one["order"] for one in history]
        assert orders == sorted(orders), "no pointer went back"
    chains_are_whole(events)
    nothing_is_stored_twice(events)
    what_was_heard_is_there(events, heard)
    outcomes_are_true(events, outcomes)
