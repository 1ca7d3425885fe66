"""Pointers in NATS' key-value store and in Cloudflare's: forward only, once, whatever fails."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import nats
import pytest
import pytest_asyncio

from adapters.storage.cloudflare import BULK_FROM, Cloudflare, Writer
from adapters.storage.kv import Target
from adapters.storage.pointers import Entry
from bus.connection import Bus
from bus.keyvalue import Bucket
from bus.streams import NEWEST, POINTERS
from domain.ports import DeliveryFailed
from labledger.embedded.nats_server import NatsServer
from tests.doubles.cloudflare import ACCOUNT, NAMESPACE, TOKEN
from tests.doubles.cloudflare import Cloudflare as Double
from tests.doubles.shipping import Dock, make
from tests.integration.bus.place import Place, make_place

KEY = "temperature:daily:latest"
ENVIRON = {"CLOUDFLARE_API_TOKEN": TOKEN, "CLOUDFLARE_ACCOUNT_ID": ACCOUNT, "KV_NAMESPACE_ID": NAMESPACE}


def pointing(order: int, **metadata: Any) -> dict[str, Any]:
    """What a shipment of a pointer says, as in the seed."""
    words = {"filename": f"plot-{order}.png", "sensor_type": "temperature", "interval": "daily", "data_points": order}
    value = {"ipfs_url": f"ipfs://bafy{order}", "updated_at": str(1_764_000_000 + order), "metadata": words | metadata}
    return {"value": value, "metadata": {"interval": "daily"}, "order": order}


@pytest_asyncio.fixture
async def place(make_nats: Callable[..., NatsServer]) -> AsyncIterator[Place]:
    place = await make_place(make_nats(sync_interval="2m"))
    yield place
    await place.close()


@pytest_asyncio.fixture
async def bus(place: Place) -> Bus:
    return place.opened[0]


@pytest_asyncio.fixture
async def cloudflare() -> AsyncIterator[Double]:
    async with Double() as double:
        yield double


@pytest_asyncio.fixture
async def to_nats(place: Place) -> AsyncIterator[Target]:
    target = make("storage.kv", {"nats": {}}, nats=lambda: place.bus("deliver"))
    yield target
    await target.close()


@pytest_asyncio.fixture
async def to_cloudflare(place: Place, cloudflare: Double) -> AsyncIterator[Target]:
    target = cloudflare_target(place, cloudflare)
    yield target
    await target.close()


def cloudflare_target(place: Place, double: Double, environ: Mapping[str, str] = ENVIRON, **settings: Any) -> Target:
    options = {"cloudflare": {"url": f"{double.url}/client/v4"} | settings}
    return make("storage.kv", options, environ, lambda: place.bus("deliver"))


def last(double: Double, key: str = KEY) -> dict[str, Any]:
    return json.loads(double.history[key][-1]["value"])


# -- both --------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["nats", "cloudflare"])
def target(request: pytest.FixtureRequest, to_nats: Target, to_cloudflare: Target, cloudflare: Double) -> Target:
    cloudflare.write_every_s = 0
    return to_nats if request.param == "nats" else to_cloudflare


async def test_a_pointer_is_set_under_the_key_of_its_words(target: Target) -> None:
    arrived = await Dock(None, options=pointing(417)).attempt(target)
    assert arrived.outcome == "stored" and arrived.location.endswith(f"/{KEY}")
    assert arrived.proof["key"] == KEY and arrived.proof["order"] == 417
    assert [check.ok for check in await target.verify(arrived.proof, None, 0)] == [True, True]


async def test_a_key_that_is_given_is_used(target: Target) -> None:
    arrived = await Dock(None, key="humidity:hourly:latest", options=pointing(1)).attempt(target)
    assert arrived.proof["key"] == "humidity:hourly:latest"


async def test_the_same_again_changes_nothing(target: Target) -> None:
    dock = Dock(None, options=pointing(5))
    assert (await dock.attempt(target)).outcome == "stored"
    assert (await dock.attempt(target)).outcome == "existed"


async def test_an_older_one_that_comes_late_changes_nothing(target: Target) -> None:
    await Dock(None, options=pointing(7)).attempt(target)
    dock = Dock(None, options=pointing(5))
    arrived = await dock.attempt(target)
    assert arrived.outcome == "superseded" and arrived.proof["standing"] == 7
    checks = await target.verify(arrived.proof, None, 0)
    assert [check.ok for check in checks] == [True] and "moved on" in checks[0].detail


async def test_another_with_the_same_order_changes_nothing(target: Target) -> None:
    await Dock(None, options=pointing(7)).attempt(target)
    assert (await Dock(None, options=pointing(7, data_points=0)).attempt(target)).outcome == "superseded"


async def test_whatever_the_order_of_completion_the_newest_is_what_stands(target: Target) -> None:
    orders = list(range(1, 21))
    random.Random(1).shuffle(orders)
    arrived = await asyncio.gather(*(Dock(None, options=pointing(order)).attempt(target) for order in orders))
    outcomes = {one.proof["order"]: one.outcome for one in arrived}
    assert outcomes[20] == "stored" and set(outcomes.values()) <= {"stored", "superseded"}
    checks = await target.verify(next(one for one in arrived if one.proof["order"] == 20).proof, None, 0)
    assert all(check.ok for check in checks) and len(checks) == 2


async def test_what_stands_there_is_compared_with_the_receipt(target: Target) -> None:
    proof = dict((await Dock(None, options=pointing(5)).attempt(target)).proof)
    assert [check.ok for check in await target.verify(proof | {"value_sha256": "0" * 64}, None, 0)] == [True, False]
    assert [check.ok for check in await target.verify(proof | {"order": 6}, None, 0)] == [False]
    assert [check.ok for check in await target.verify(proof | {"key": "other"}, None, 0)] == [False]


@pytest.mark.parametrize(
    ("key", "options", "kind", "words"),
    [
        ("", {"value": {}, "order": -1}, "misconfigured", "order"),
        ("", {"value": 5, "order": 1}, "misconfigured", "value"),
        ("", {"value": {}, "order": 1, "more": 1}, "misconfigured", "more"),
        ("", {"value": {"metadata": {"interval": "daily"}}, "order": 1}, "refused", "needs 'sensor_type'"),
        ("", pointing(1, sensor_type="a:b"), "refused", "no colon"),
        ("x" * 513, pointing(1), "refused", "513 bytes"),
        ("..", pointing(1), "refused", "no key"),
        ("a", pointing(1, text="x" * 1_000_000), "refused", "bytes"),
    ],
)
async def test_what_cannot_be_a_pointer_is_refused_before_anything_is_sent(
    target: Target, cloudflare: Double, key: str, options: dict[str, Any], kind: str, words: str
) -> None:
    error = await Dock(None, key=key, options=options).failing(target)
    assert error.kind == kind and words in str(error)
    assert cloudflare.requests == []


async def test_a_file_is_not_for_a_store_of_pointers(target: Target, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    assert (await Dock(tmp_path / "a", options=pointing(1)).failing(target)).kind == "misconfigured"


async def test_a_target_is_tested_by_a_round_trip(target: Target, cloudflare: Double) -> None:
    checks = await target.test()
    assert checks and all(check.ok for check in checks), checks
    assert all(cloudflare.newest(key) is None for key in cloudflare.keys)


# -- NATS --------------------------------------------------------------------------------------------------------------


async def test_any_client_of_nats_reads_the_pointer(to_nats: Target, place: Place) -> None:
    await Dock(None, options=pointing(417)).attempt(to_nats)
    connection = await nats.connect(**place.server.options("provisioner"))
    try:
        store = await connection.jetstream().key_value(POINTERS)
        entry = await store.get("temperature.daily.latest")
        assert entry.value is not None
        value = json.loads(entry.value)
    finally:
        await connection.close()
    assert value == pointing(417)["value"] | {"order": 417}
    assert value["updated_at"] == "1764000417"  # a text, as in the seed


@pytest.mark.parametrize("user", ["publisher", "dashboard", "auditor"])
async def test_outsiders_read_pointers_and_cannot_write_them(to_nats: Target, place: Place, user: str) -> None:
    await Dock(None, options=pointing(1)).attempt(to_nats)
    outsider = await place.bus(user)
    msg = await outsider.request(f"$JS.API.DIRECT.GET.KV_{POINTERS}.$KV.{POINTERS}.temperature.daily.latest")
    assert json.loads(msg.data)["order"] == 1
    await outsider.nc.publish(f"$KV.{POINTERS}.temperature.daily.latest", b'{"order": 99}')
    await outsider.nc.flush()
    assert (await Bucket(place.opened[0], POINTERS).get(KEY)).revision == 1


async def test_a_lost_acknowledgement_leads_to_no_second_revision(place: Place, bus: Bus) -> None:
    async def nats() -> Bus:
        return bus

    to_nats = make("storage.kv", {"nats": {}}, nats=nats)
    lose, inner = [True], bus.publish

    async def losing(*args: Any, **settings: Any) -> Any:
        ack = await inner(*args, **settings)
        if lose.pop():
            from bus.errors import Unavailable

            lose.append(False)
            raise Unavailable("NATS did not answer in time")
        return ack

    bus.publish = losing  # pyright: ignore[reportAttributeAccessIssue]
    dock = Dock(None, options=pointing(3))
    assert (await dock.failing(to_nats)).kind == "unreachable"
    assert (await dock.attempt(to_nats)).outcome == "existed"
    assert (await Bucket(bus, POINTERS).get(KEY)).revision == 1


@pytest.mark.parametrize(
    ("user", "kind", "words"),
    [
        ("provisioner", "misconfigured", "no key-value bucket 'elsewhere'"),
        ("deliver", "unauthorized", "may not publish to $JS.API.STREAM.MSG.GET.KV_elsewhere"),
    ],
)
async def test_a_bucket_that_is_not_there_or_not_ours_is_said(place: Place, user: str, kind: str, words: str) -> None:
    target = make("storage.kv", {"nats": {"bucket": "elsewhere"}}, nats=lambda: place.bus(user))
    error = await Dock(None, options=pointing(1)).failing(target)
    assert error.kind == kind and words in str(error)
    await target.close()


# -- Cloudflare --------------------------------------------------------------------------------------------------------


async def test_value_and_metadata_hold_the_order(to_cloudflare: Target, cloudflare: Double) -> None:
    await Dock(None, options=pointing(417)).attempt(to_cloudflare)
    assert last(cloudflare) == pointing(417)["value"] | {"order": 417}
    assert cloudflare.history[KEY][-1]["metadata"] == {"interval": "daily", "order": 417}
    put = next(one for one in cloudflare.requests if one.method == "PUT")
    assert put.path.endswith("/values/temperature%3Adaily%3Alatest")


@pytest.mark.parametrize("key", ["a/b", "50%", "a!b", "grün:täglich", "a b", "a+b?c#d"])
async def test_odd_keys_arrive_as_they_are(to_cloudflare: Target, cloudflare: Double, key: str) -> None:
    await Dock(None, key=key, options=pointing(1)).attempt(to_cloudflare)
    assert list(cloudflare.history) == [key]


async def test_the_time_to_live_is_said_with_each_write(place: Place, cloudflare: Double) -> None:
    cloudflare.write_every_s = 0
    target = cloudflare_target(place, cloudflare, ttl_s=3600)
    for order in (1, 2):
        await Dock(None, options=pointing(order)).attempt(target)
    assert all(version.expires for version in cloudflare.keys[KEY].versions)
    await target.close()


async def test_reads_that_are_old_do_not_move_the_pointer_back(to_cloudflare: Target, cloudflare: Double) -> None:
    """A minute after 7 was written Cloudflare may still tell of nothing, also to the worker that comes with 5."""
    cloudflare.stale_s, cloudflare.write_every_s = 60, 0
    await Dock(None, options=pointing(7)).attempt(to_cloudflare)
    arrived = await Dock(None, options=pointing(5)).attempt(to_cloudflare)
    assert arrived.outcome == "superseded" and last(cloudflare)["order"] == 7
    assert len(cloudflare.history[KEY]) == 1


async def test_a_worker_that_was_thought_dead_does_not_have_the_last_word(place: Place, cloudflare: Double) -> None:
    """It passed every check with 5 and then slept, while another brought 7. What it covers it puts back."""
    cloudflare.write_every_s = 0
    cloudflare.fail("slow", method="PUT", seconds=0.5)
    late, other = cloudflare_target(place, cloudflare), cloudflare_target(place, cloudflare)
    sleeper = asyncio.create_task(Dock(None, options=pointing(5)).attempt(late))
    while cloudflare.count("PUT") < 1:
        await asyncio.sleep(0.01)
    assert (await Dock(None, options=pointing(7)).attempt(other)).outcome == "stored"
    assert (await sleeper).outcome == "superseded"
    assert [json.loads(one["value"])["order"] for one in cloudflare.history[KEY]] == [7, 5, 7]
    await late.close()
    await other.close()


async def test_a_namespace_whose_notes_were_lost_is_read_first(
    to_cloudflare: Target, cloudflare: Double, bus: Bus
) -> None:
    await Dock(None, options=pointing(7)).attempt(to_cloudflare)
    note = f"{ACCOUNT}/{NAMESPACE}/{KEY}"
    bucket = Bucket(bus, NEWEST)
    assert await bucket.delete(note, (await bucket.get(note)).revision)
    assert (await Dock(None, options=pointing(5)).attempt(to_cloudflare)).outcome == "superseded"
    assert len(cloudflare.history[KEY]) == 1


@pytest.mark.parametrize("fault", ["drop", "drop_after", "reset"])
async def test_lost_answers_write_once_more_or_not_at_all(
    to_cloudflare: Target, cloudflare: Double, fault: str
) -> None:
    cloudflare.fail(fault, method="PUT", after_bytes=10)
    dock = Dock(None, options=pointing(5))
    assert (await dock.failing(to_cloudflare)).kind == "unreachable"
    assert (await dock.attempt(to_cloudflare)).outcome == ("existed" if fault == "drop_after" else "stored")
    assert len(cloudflare.history[KEY]) == 1 and last(cloudflare)["order"] == 5


@pytest.mark.parametrize(
    ("status", "kind"), [(500, "server_error"), (502, "server_error"), (403, "unauthorized"), (413, "refused")]
)
async def test_errors_of_the_edge_are_html(to_cloudflare: Target, cloudflare: Double, status: int, kind: str) -> None:
    cloudflare.fail("status", method="PUT", status=status)
    dock = Dock(None, options=pointing(5))
    error = await dock.failing(to_cloudflare)
    assert error.kind == kind and "Internal error" in str(error)
    assert (await dock.attempt(to_cloudflare)).outcome == "stored"


async def test_no_success_with_status_200_is_none(to_cloudflare: Target, cloudflare: Double) -> None:
    cloudflare.fail("status", method="PUT", status=200, body='{"success": false, "errors": [], "result": null}')
    error = await Dock(None, options=pointing(5)).failing(to_cloudflare)
    assert error.kind == "server_error" and "no success" in str(error)


async def test_another_process_on_the_same_key_is_waited_for(to_cloudflare: Target, cloudflare: Double) -> None:
    """429 for one write a second of one key."""
    cloudflare.write_every_s = 0.5
    cloudflare._write(KEY, b"{}", None, {})  # pyright: ignore[reportPrivateUsage]
    arrived = await Dock(None, options=pointing(5)).attempt(to_cloudflare)
    assert arrived.outcome == "stored" and last(cloudflare)["order"] == 5
    assert [one.status for one in cloudflare.requests if one.method == "PUT"][-1] == 200


async def test_a_budget_that_is_used_up_is_told_with_its_wait(place: Place, cloudflare: Double) -> None:
    cloudflare.budget = 3
    target = cloudflare_target(place, cloudflare)
    await Dock(None, key="a", options=pointing(1)).attempt(target)  # two requests
    error = await Dock(None, key="b", options=pointing(1)).failing(target)
    assert error.kind == "throttled" and (error.retry_after_s or 0) > 250
    sent = len(cloudflare.requests)
    assert sent == 3, "its own headers said that nothing was left: the request that would have blocked us was not made"
    await target.close()


async def test_being_blocked_is_told_with_its_wait(to_cloudflare: Target, cloudflare: Double) -> None:
    cloudflare.fail("status", status=429, retry_after=240)
    error = await Dock(None, options=pointing(1)).failing(to_cloudflare)
    assert error.kind == "throttled" and error.retry_after_s == 240


async def test_many_keys_go_together(to_cloudflare: Target, cloudflare: Double) -> None:
    docks = [Dock(None, key=f"sensor:{n}:latest", options=pointing(n)) for n in range(60)]
    arrived = await asyncio.gather(*(dock.attempt(to_cloudflare) for dock in docks))
    assert all(one.outcome == "stored" for one in arrived)
    assert len(cloudflare.history) == 60 and cloudflare.count("PUT", "/bulk$") >= 1
    assert cloudflare.count("PUT") < 20
    assert cloudflare.history["sensor:7:latest"] == [
        {
            "value": json.dumps(pointing(7)["value"] | {"order": 7}, ensure_ascii=False),
            "metadata": {"interval": "daily", "order": 7},
        }
    ]


async def test_keys_that_a_bulk_write_refuses_fail_alone(to_cloudflare: Target, cloudflare: Double) -> None:
    cloudflare.refused_keys = ["sensor:3:latest"]
    store: Any = to_cloudflare._store  # pyright: ignore[reportPrivateUsage]
    entries = {f"sensor:{n}:latest": Entry(b"{}", {"order": n}, n) for n in range(BULK_FROM + 1)}
    writing = (store._writer.write(key, entry) for key, entry in entries.items())
    results = await asyncio.gather(*writing, return_exceptions=True)
    failed = [one for one in results if isinstance(one, Exception)]
    assert len(failed) == 1 and isinstance(failed[0], DeliveryFailed) and "sensor:3:latest" in str(failed[0])
    assert len(cloudflare.history) == BULK_FROM


async def test_what_waits_on_one_key_is_written_once_as_the_newest(place: Place, cloudflare: Double) -> None:
    target = cloudflare_target(place, cloudflare)
    await Dock(None, options=pointing(1)).attempt(target)
    docks = [Dock(None, options=pointing(order)) for order in (2, 3, 4, 5, 6)]
    arrived = await asyncio.gather(*(dock.attempt(target) for dock in docks))
    assert [json.loads(one["value"])["order"] for one in cloudflare.history[KEY]] == [1, 6]
    assert [one.outcome for one in arrived] == ["superseded"] * 4 + ["stored"]
    assert all(one.status == 200 for one in cloudflare.requests if one.method == "PUT"), "and none of it was a 429"
    await target.close()


@pytest.mark.parametrize(
    ("environ", "kind", "words"),
    [
        ({"CLOUDFLARE_API_TOKEN": "wrong-token"}, "unauthorized", "Authentication error (10000)"),
        ({"CLOUDFLARE_ACCOUNT_ID": "nobody"}, "misconfigured", "CLOUDFLARE_ACCOUNT_ID"),
        ({"KV_NAMESPACE_ID": "nothing"}, "misconfigured", "namespace not found"),
    ],
)
async def test_a_missing_key_and_a_missing_namespace_are_told_apart(
    place: Place, cloudflare: Double, environ: dict[str, str], kind: str, words: str
) -> None:
    target = cloudflare_target(place, cloudflare, {**ENVIRON, **environ})
    error = await Dock(None, options=pointing(1)).failing(target)
    assert error.kind == kind and words in str(error) and "wrong-token" not in str(error)
    checks = await target.test()
    assert [check.ok for check in checks] == [False] and words in checks[0].detail
    await target.close()


async def test_a_token_that_may_only_read_is_said(place: Place, cloudflare: Double) -> None:
    cloudflare.readers.append("reader")
    target = cloudflare_target(place, cloudflare, {**ENVIRON, "CLOUDFLARE_API_TOKEN": "reader"})
    checks = await target.test()
    assert [check.ok for check in checks] == [True, False] and "Workers KV Storage: Edit" in checks[1].detail
    await target.close()


def test_missing_credentials_are_named_as_they_are_set() -> None:
    target = make("storage.kv", {"cloudflare": {"account": "a"}}, {"CLOUDFLARE_API_TOKEN": "t"})
    assert target.missing() == ["KV_NAMESPACE_ID"]
    assert make("storage.kv", {}).missing() == []


def test_no_secret_is_shown() -> None:
    options = {"cloudflare": {"token": "hidden-secret"}}
    target = make("storage.kv", options)
    assert "hidden-secret" not in f"{target.describe()} {target.missing()} {Target.Options.model_validate(options)!r}"


async def test_a_cancelled_write_leaves_the_others_alone() -> None:
    wrote: list[int] = []

    async def one(key: str, entry: Entry) -> None:
        await asyncio.sleep(0.1)
        wrote.append(entry.order)

    async def many(entries: Mapping[str, Entry]) -> list[str]:
        raise AssertionError

    writer = Writer(one, many)
    first, second = (asyncio.create_task(writer.write("k", Entry(b"", {}, order))) for order in (1, 2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).order == 2 and wrote == [2]
    await writer.close()


def test_the_store_that_is_named_is_used() -> None:
    store = make("storage.kv", {"cloudflare": {}})._store
    assert isinstance(store, Cloudflare)
