"""A process that moves pointers at Cloudflare is killed (SIGKILL) before, during and after the outside call: every delivery has one receipt, and under
each key stands the newest, whatever the order in which they came. (In NATS: test_deliveries.py.)"""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bus import streams
from bus.connection import Credentials, connect
from labledger.embedded.nats_server import NatsServer
from tests.doubles.cloudflare import ACCOUNT, NAMESPACE, TOKEN
from tests.doubles.server import Outside, outside
from tests.faults.shipper import Shipper

ENVIRON = {"CLOUDFLARE_API_TOKEN": TOKEN, "CLOUDFLARE_ACCOUNT_ID": ACCOUNT, "KV_NAMESPACE_ID": NAMESPACE}
KEYS = 10


@pytest.fixture
def cloudflare(tmp_path: Path) -> Iterator[Outside]:
    with outside("cloudflare", tmp_path / "cloudflare") as double:
        double.switch(budget=100_000)
        yield double


@pytest.fixture
def server(make_nats: Callable[..., NatsServer]) -> NatsServer:
    server = make_nats(sync_interval="2m")

    async def provision() -> None:
        bus = await connect(server.url, "test", Credentials(**login(server)))
        await streams.provision(bus)
        await bus.close()

    asyncio.run(provision())
    return server


def login(server: NatsServer) -> dict[str, str]:
    user = server.users["provisioner"]
    return {"user": user.name, "password": user.password, "inbox_prefix": user.inbox_prefix}


def shipper(folder: Path, server: NatsServer, options: dict[str, Any]) -> Shipper:
    more = {"nats": {"url": server.url, **login(server)}, "at_once": 20}
    return Shipper(folder, "storage.kv", options, ENVIRON, **more)


def to_cloudflare(folder: Path, server: NatsServer, double: Outside) -> Shipper:
    pace = {"requests_per_s": 500, "burst": 500}
    return shipper(folder, server, {"cloudflare": {"url": f"{double.url}/client/v4"}, "http": pace})


def pointing(order: int) -> dict[str, Any]:
    return {"value": {"ipfs_url": f"ipfs://bafy{order}", "updated_at": str(order), "metadata": {}}, "order": order}


@pytest.mark.parametrize(
    ("fault", "writes"),
    [
        ({"kind": "slow", "method": "GET", "seconds": 60}, 1),
        ({"kind": "stall", "method": "PUT", "after_bytes": 10, "seconds": 60}, 1),
        ({"kind": "slow_after", "method": "PUT", "seconds": 60}, 1),
    ],
    ids=["before", "during", "after"],
)
def test_killed_at_a_chosen_moment(
    cloudflare: Outside, server: NatsServer, tmp_path: Path, fault: dict[str, Any], writes: int
) -> None:
    ship = to_cloudflare(tmp_path / "ship", server, cloudflare)
    ship.order(0, None, "a:b", pointing(7))
    cloudflare.fail(**fault)
    if fault["kind"] == "slow_after":
        ship.kill_when(lambda: "a:b" in cloudflare.contents())
    else:
        ship.kill_when(lambda: any(one.method == fault["method"] for one in cloudflare.seen()))
    cloudflare.heal()
    (receipt,) = ship.finish()
    assert receipt["outcome"] == ("existed" if fault["kind"] == "slow_after" else "stored")
    assert len(cloudflare.contents()["a:b"]) == writes


def orders_of(chance: Random) -> list[tuple[str, int]]:
    """A hundred pointers in ten keys, in no order."""
    found = [(f"sensor-{n % KEYS}:daily:latest", n) for n in range(100)]
    chance.shuffle(found)
    return found


def test_a_hundred_pointers_through_a_storm_of_kills(
    cloudflare: Outside, server: NatsServer, tmp_path: Path, chance: Random
) -> None:
    ship = to_cloudflare(tmp_path / "ship", server, cloudflare)
    for n, (key, order) in enumerate(orders_of(chance)):
        ship.order(n, None, key, pointing(order))
    cloudflare.switch(write_every_s=0.1)
    cloudflare.fail("drop_after", method="PUT", times=10)
    cloudflare.fail("slow_after", times=10_000, seconds=0.02)
    receipts = ship.storm(kills=5, chance=chance)
    assert len(receipts) == 100 and ship.kills == 5
    written = cloudflare.contents()
    for k in range(KEYS):
        history = [json.loads(one["value"])["order"] for one in written[f"sensor-{k}:daily:latest"]]
        assert history[-1] == 90 + k == max(history)
        assert history == sorted(history), "no pointer went back"
    newest = [one for one in receipts if one["proof"]["order"] >= 90]
    assert len(newest) == KEYS and all(one["outcome"] in ("stored", "existed") for one in newest)
