"""Publications while the processes that make them are killed (SIGKILL) and answers are lost: each file is on IPFS once, each delivery
has one receipt, and each key points to what was asked for last."""

import asyncio
import contextlib
import json
import os
import random
import sys
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
from tests.faults.lab import Lab, Process
from tests.faults.proof import chains_are_whole, nothing_is_stored_twice, outcomes_are_true, what_was_heard_is_there

COUNT, KEYS = 24, 4
RETRY = {"max_retries": 50, "multiplier": 0.05, "min_wait_s": 0.05, "max_wait_s": 0.5}


def add_worker(lab: Lab, pinata: Outside, cloudflare: Outside) -> None:
    """The role `deliver`, which knows both targets."""
    pace = {"requests_per_s": 500, "burst": 500}
    targets = {
        "pinata": {
            "adapter": "storage.ipfs",
            "options": {"pinata": {"upload_url": f"{pinata.url}/v3", "api_url": pinata.url}},
            "retry": RETRY,
        },
        "cloudflare": {
            "adapter": "storage.kv",
            "options": {"cloudflare": {"url": f"{cloudflare.url}/client/v4"}, "http": pace},
            "retry": RETRY,
        },
    }
    env = {
        "LABLEDGER_DATA_DIR": str(lab.folder),
        "LABLEDGER_TARGETS": json.dumps(targets),
        "PINATA_JWT": JWT,
        "CLOUDFLARE_API_TOKEN": CLOUDFLARE_TOKEN,
        "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
        "KV_NAMESPACE_ID": NAMESPACE,
    }
    lab.processes["deliver"] = Process("deliver", ("deliver",), env, lab.folder / "deliver.log")
    inner = lab._command_line

    def command_line(words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "labledger", "run", "deliver"] if words == ("deliver",) else inner(words)

    lab._command_line = command_line  # type: ignore[method-assign]


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
            add_worker(lab, pinata, cloudflare)
            await lab.start("commands", "deliver")

            async def opened() -> bool:
                return bool(await lab.history("target", "pinata") and await lab.history("target", "cloudflare"))

            await lab.until(opened, "both targets are known")
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
