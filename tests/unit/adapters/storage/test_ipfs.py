"""Pinata and a Kubo node, against doubles with their faults."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from adapters.storage.cid import PROFILES, digest_file, directory, parse
from adapters.storage.ipfs import Target
from tests.doubles.kubo import Kubo
from tests.doubles.pinata import JWT, Pinata
from tests.doubles.shipping import Dock, make

SIZE = 1_200_000  # the profiles that we know differ from each other only above 1 MiB


@pytest.fixture
async def pinata() -> AsyncIterator[Pinata]:
    async with Pinata() as double:
        yield double


@pytest.fixture
async def kubo() -> AsyncIterator[Kubo]:
    async with Kubo() as double:
        yield double


@pytest.fixture
def plot(tmp_path: Path) -> Path:
    path = tmp_path / "plot.png"
    path.write_bytes(bytes(range(251)) * (SIZE // 251 + 1))
    return path


def cid_of(path: Path, profile: str) -> str:
    return digest_file(path, [profile]).roots[profile].cid


def pinata_target(double: Pinata, jwt: str = JWT, **settings: Any) -> Target:
    top = {"http": settings.pop("http", {})} | ({"profile": settings.pop("profile")} if "profile" in settings else {})
    options = {"upload_url": f"{double.url}/v3", "api_url": double.url, "pending_s": 5} | settings
    return make("storage.ipfs", {"pinata": options} | top, {"PINATA_JWT": jwt})


def kubo_target(double: Kubo, environ: dict[str, str] | None = None, **settings: Any) -> Target:
    return make("storage.ipfs", {"kubo": {"url": f"{double.url}/api/v0"}} | settings, environ)


# -- Pinata, small files -----------------------------------------------------------------------------------------------


async def test_a_file_is_kept_under_the_cid_that_was_computed_before(pinata: Pinata, plot: Path) -> None:
    target = pinata_target(pinata, group="g-1", keyvalues={"wafer": "A7"})
    dock = Dock(plot, key="run 7/plot")
    arrived = await dock.attempt(target)
    cid = cid_of(plot, "v1-256k-174")
    assert arrived.outcome == "stored" and arrived.location == f"ipfs://{cid}"
    assert arrived.proof["profile"] == "v1-256k-174" and arrived.proof["cid"] == cid
    assert arrived.proof["sha256"] == dock.shipment.sha256 and arrived.proof["id"] == pinata.files[0]["id"]
    file = pinata.files[0]
    assert file["name"] == "run 7/plot" and file["group_id"] == "g-1" and file["network"] == "public"
    assert file["keyvalues"]["wafer"] == "A7" and file["keyvalues"]["sha256"] == dock.shipment.sha256
    assert arrived.bytes_sent > plot.stat().st_size and arrived.requests == 2
    assert dock.reports[-1][0] == 100
    assert json.dumps(arrived.proof) and JWT not in json.dumps(arrived.proof)
    await target.close()


async def test_what_is_there_already_is_not_sent_again(pinata: Pinata, plot: Path) -> None:
    target = pinata_target(pinata)
    first = await Dock(plot).attempt(target)
    again = await Dock(plot, key="another name").attempt(target)
    assert again.outcome == "existed" and again.proof["id"] == first.proof["id"]
    assert pinata.count("POST") == 1 and again.bytes_sent == 0
    await target.close()


async def test_a_duplicate_that_only_pinata_notices_is_a_success(pinata: Pinata, plot: Path) -> None:
    """It cuts in another way than we think, so that our question finds nothing."""
    pinata.profile = "unixfs-v1-2025"
    target = pinata_target(pinata)
    first = await Dock(plot).attempt(target)
    again = await Dock(plot, key="another name").attempt(target)
    assert (first.outcome, again.outcome) == ("stored", "existed")
    assert len(pinata.files) == 1 and again.proof["id"] == first.proof["id"]
    await target.close()


async def test_a_lost_answer_leads_to_no_second_upload(pinata: Pinata, plot: Path) -> None:
    pinata.fail("drop_after", method="POST")
    target, dock = pinata_target(pinata), Dock(plot)
    assert (await dock.failing(target)).kind == "unreachable"
    arrived = await dock.attempt(target)
    assert arrived.outcome == "existed" and len(pinata.files) == 1 and pinata.count("POST") == 1
    await target.close()


async def test_a_lost_answer_about_a_file_with_an_unforeseen_cid(pinata: Pinata, plot: Path) -> None:
    """It is found by its label, not by the name that we thought it would have."""
    pinata.profile = "unixfs-v1-2025"
    pinata.fail("drop_after", method="POST")
    target, dock = pinata_target(pinata), Dock(plot)
    await dock.failing(target)
    arrived = await dock.attempt(target)
    assert arrived.outcome == "existed" and pinata.count("POST") == 1
    assert arrived.proof["profile"] == "unixfs-v1-2025"
    await target.close()


async def test_another_profile_that_explains_the_cid_is_named_beside_the_expected_one(
    pinata: Pinata, plot: Path
) -> None:
    pinata.profile = "unixfs-v1-2025"
    target = pinata_target(pinata)
    arrived = await Dock(plot).attempt(target)
    assert arrived.proof["cid"] == cid_of(plot, "unixfs-v1-2025") and arrived.proof["profile"] == "unixfs-v1-2025"
    assert arrived.proof["expected"] == {"profile": "v1-256k-174", "cid": cid_of(plot, "v1-256k-174")}
    await target.close()


async def test_a_cid_that_nothing_explains_is_a_mismatch_with_both_named(pinata: Pinata, plot: Path) -> None:
    pinata.wrong_cid = True
    target = pinata_target(pinata)
    error = await Dock(plot).failing(target)
    assert error.kind == "mismatch"
    assert cid_of(plot, "v1-256k-174") in str(error) and pinata.files[0]["cid"] in str(error)
    await target.close()


async def test_a_directory_around_the_file_is_seen_through(pinata: Pinata, plot: Path) -> None:
    root = digest_file(plot, ["v1-256k-174"]).roots["v1-256k-174"]
    wrapped = directory({"plot.png": root.node}, PROFILES["v1-256k-174"])[0]
    pinata._named = lambda data, version: wrapped  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
    target = pinata_target(pinata)
    arrived = await Dock(plot).attempt(target)
    assert arrived.location == f"ipfs://{wrapped}" and arrived.proof["wrapped"] == "plot.png"
    assert all(check.ok for check in await target.verify(arrived.proof, arrived.proof["sha256"], SIZE))
    await target.close()


async def test_a_pending_cid_is_waited_for(pinata: Pinata, plot: Path) -> None:
    pinata.pending = 2
    target = pinata_target(pinata)
    arrived = await Dock(plot).attempt(target)
    assert arrived.proof["cid"] == cid_of(plot, "v1-256k-174")
    await target.close()


async def test_a_cid_that_stays_pending_is_waited_for_by_later_attempts(pinata: Pinata, plot: Path) -> None:
    pinata.pending = 1_000_000
    target, dock = pinata_target(pinata, pending_s=0.2), Dock(plot)
    for _ in range(2):
        error = await dock.failing(target)
        assert error.kind == "waiting" and pinata.files[0]["id"] in str(error)
    pinata.pending = 0
    arrived = await dock.attempt(target)
    assert arrived.proof["cid"] == cid_of(plot, "v1-256k-174")
    assert pinata.count("POST") == 1 and len(pinata.files) == 1
    await target.close()


async def test_blocks_as_cut_here_leave_no_choice_of_cid(pinata: Pinata, plot: Path) -> None:
    pinata.profile = "unixfs-v0-2015"
    target = pinata_target(pinata, car=True, profile="unixfs-v1-2025")
    arrived = await Dock(plot).attempt(target)
    assert arrived.proof["cid"] == cid_of(plot, "unixfs-v1-2025") and "expected" not in arrived.proof
    assert pinata.files[0]["mime_type"] == "application/vnd.ipld.car"
    await target.close()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"kind": "status", "status": 429}, "throttled"),
        ({"kind": "status", "status": 500}, "server_error"),
        ({"kind": "status", "status": 502}, "server_error"),
        ({"kind": "status", "status": 413}, "refused"),
        ({"kind": "status", "status": 200, "body": "<html>log in</html>"}, "server_error"),
        ({"kind": "status", "status": 200, "body": '{"data": {"id": "x"}}'}, "server_error"),
        ({"kind": "drop"}, "unreachable"),
        ({"kind": "reset", "after_bytes": 1000}, "unreachable"),
    ],
)
async def test_faults_fail_the_attempt_and_the_next_succeeds(
    pinata: Pinata, plot: Path, fault: dict[str, Any], kind: str
) -> None:
    pinata.fail(**fault, method="POST")
    target, dock = pinata_target(pinata), Dock(plot)
    assert (await dock.failing(target)).kind == kind
    assert (await dock.attempt(target)).outcome == "stored"
    assert len(pinata.files) == 1
    await target.close()


async def test_a_rate_limit_with_its_wait_is_told(pinata: Pinata, plot: Path) -> None:
    pinata.fail("status", status=429, retry_after=7)
    target = pinata_target(pinata)
    error = await Dock(plot).failing(target)
    assert error.kind == "throttled" and error.retry_after_s == 7
    await target.close()


async def test_the_free_plan_is_kept_unless_another_is_set(pinata: Pinata, plot: Path) -> None:
    """A file that is there already is one question: the seventh within a moment has to wait."""
    target = pinata_target(pinata, http=None)
    await Dock(plot).attempt(target)
    for _ in range(4):
        await Dock(plot).attempt(target)
    pace: Any = target._service._web.bucket  # type: ignore[attr-defined]
    assert 0 <= pace._tokens < 1.5 and pinata.count() == 6
    await target.close()


async def test_a_wrong_token_fails_before_anything_is_sent(pinata: Pinata, plot: Path) -> None:
    target = pinata_target(pinata, jwt="a-wrong-token")
    error = await Dock(plot).failing(target)
    assert error.kind == "unauthorized" and "a-wrong-token" not in str(error)
    assert pinata.count("POST") == 0
    await target.close()


async def test_a_file_that_is_not_what_was_taken_is_changed(pinata: Pinata, plot: Path) -> None:
    dock = Dock(plot)
    plot.write_bytes(b"something else")
    target = pinata_target(pinata)
    assert (await dock.failing(target)).kind == "changed"
    plot.unlink()
    assert (await dock.failing(target)).kind == "missing"
    assert pinata.requests == []
    await target.close()


# -- Pinata, large files -----------------------------------------------------------------------------------------------


def by_parts(pinata: Pinata, **settings: Any) -> Target:
    return pinata_target(pinata, large_bytes=100_000, part_bytes=250_000, **settings)


async def test_large_files_go_in_parts(pinata: Pinata, plot: Path) -> None:
    target, dock = by_parts(pinata, group="g-1"), Dock(plot)
    arrived = await dock.attempt(target)
    assert arrived.outcome == "stored" and arrived.proof["cid"] == cid_of(plot, "v1-256k-174")
    assert pinata.bytes[arrived.proof["cid"]] == plot.read_bytes()
    assert pinata.count("PATCH") == 5 and pinata.files[0]["group_id"] == "g-1"
    assert pinata.files[0]["id"] == arrived.proof["id"]
    assert [round(percent) for percent, _ in dock.reports][-1] == 100
    await target.close()


async def test_an_upload_that_broke_goes_on_where_it_stands(pinata: Pinata, plot: Path) -> None:
    pinata.fail("reset", method="PATCH", after_bytes=100_000)
    target, dock = by_parts(pinata), Dock(plot)
    arrived = await dock.attempt(target)
    assert pinata.bytes[arrived.proof["cid"]] == plot.read_bytes()
    offsets = [int(one.headers["Upload-Offset"]) for one in pinata.requests if one.method == "PATCH"]
    assert offsets[:2] == [0, 100_000] and pinata.count("HEAD") == 1
    assert arrived.bytes_sent < 1.5 * plot.stat().st_size
    await target.close()


async def test_another_attempt_goes_on_with_the_same_upload(pinata: Pinata, plot: Path) -> None:
    pinata.fail("drop", method="PATCH", times=1)
    target, dock = by_parts(pinata), Dock(plot)
    assert (await dock.failing(target)).kind == "unreachable"
    await target.close()
    target = by_parts(pinata)  # another process
    pinata.uploads[next(iter(pinata.uploads))].data += plot.read_bytes()[:300_000]
    arrived = await dock.attempt(target)
    assert pinata.bytes[arrived.proof["cid"]] == plot.read_bytes()
    posts = [one for one in pinata.requests if one.method == "POST"]
    assert len(posts) == 1 and arrived.bytes_sent == plot.stat().st_size - 300_000
    await target.close()


async def test_a_lost_answer_to_the_last_part_leads_to_no_second_upload(pinata: Pinata, plot: Path) -> None:
    target, dock = by_parts(pinata), Dock(plot)
    pinata.fail("drop_after", method="PATCH", times=5)
    arrived = await dock.attempt(target)
    assert arrived.proof["cid"] == cid_of(plot, "v1-256k-174") and len(pinata.files) == 1
    assert pinata.count("PATCH") == 5 and pinata.count("POST") == 1
    await target.close()


async def test_an_upload_that_is_complete_and_becomes_no_file_is_sent_anew(pinata: Pinata, plot: Path) -> None:
    """As when their server dies between the last byte and what it does with the file."""
    pinata.fail("reset", method="PATCH", after_bytes=10_000_000)  # all of it is kept, and nothing is made of it
    target = pinata_target(pinata, large_bytes=1000, part_bytes=10_000_000, pending_s=0.1)
    dock = Dock(plot)
    error = await dock.failing(target)
    assert error.kind == "server_error" and "sent anew" in str(error)
    assert (await dock.attempt(target)).outcome == "stored"
    assert len(pinata.files) == 1 and pinata.count("POST") == 2
    await target.close()


async def test_an_upload_that_is_forgotten_begins_anew(pinata: Pinata, plot: Path) -> None:
    pinata.fail("drop", method="PATCH")
    target, dock = by_parts(pinata), Dock(plot)
    await dock.failing(target)
    pinata.uploads.clear()
    arrived = await dock.attempt(target)
    assert arrived.outcome == "stored" and pinata.count("POST") == 2 and len(pinata.files) == 1
    await target.close()


async def test_an_offset_that_differs_is_asked_for(pinata: Pinata, plot: Path) -> None:
    """409: somebody else's part came first."""
    target, dock = by_parts(pinata), Dock(plot)
    pinata.fail("drop", method="PATCH")
    await dock.failing(target)
    upload = pinata.uploads[next(iter(pinata.uploads))]
    pinata.fail("slow", method="PATCH", seconds=0.3)
    attempt = asyncio.create_task(dock.attempt(target))
    while pinata.count("PATCH") < 2:
        await asyncio.sleep(0.01)
    upload.data += plot.read_bytes()[:250_000]
    arrived = await attempt
    assert pinata.bytes[arrived.proof["cid"]] == plot.read_bytes()
    await target.close()


async def test_a_large_car_is_resumed_in_the_midst_of_a_block(pinata: Pinata, plot: Path) -> None:
    pinata.fail("reset", method="PATCH", after_bytes=77_777)
    target, dock = by_parts(pinata, car=True), Dock(plot)
    arrived = await dock.attempt(target)
    assert arrived.proof["cid"] == cid_of(plot, "v1-256k-174")
    assert pinata.bytes[arrived.proof["cid"]].count(plot.read_bytes()[:262_144]) == 1
    await target.close()


async def test_a_pending_cid_of_a_large_file(pinata: Pinata, plot: Path) -> None:
    pinata.pending = 3
    target = by_parts(pinata)
    arrived = await Dock(plot).attempt(target)
    assert arrived.proof["cid"] == cid_of(plot, "v1-256k-174")
    await target.close()


async def test_the_token_is_not_sent_where_an_upload_is_led_astray(pinata: Pinata, plot: Path) -> None:
    async with Pinata() as elsewhere:
        target, dock = by_parts(pinata), Dock(plot)
        pinata.fail("status", method="POST", status=201, headers={"Location": f"{elsewhere.url}/v3/files/x/y"})
        assert (await dock.failing(target)).kind == "unauthorized"
        assert all("Authorization" not in one.headers for one in elsewhere.requests)
        await target.close()


# -- Kubo --------------------------------------------------------------------------------------------------------------


async def test_a_node_keeps_a_file_whatever_its_own_settings_are(kubo: Kubo, plot: Path) -> None:
    target = kubo_target(kubo)
    arrived = await Dock(plot, key="plots/a b.png").attempt(target)
    assert arrived.outcome == "stored" and arrived.proof["profile"] == "unixfs-v1-2025"
    assert kubo.pins == [cid_of(plot, "unixfs-v1-2025")]
    assert arrived.proof["dag_size"] > plot.stat().st_size
    await target.close()


@pytest.mark.parametrize("profile", PROFILES)
async def test_each_profile_is_what_the_node_is_told(kubo: Kubo, plot: Path, profile: str) -> None:
    target = kubo_target(kubo, profile=profile)
    arrived = await Dock(plot).attempt(target)
    assert arrived.proof["cid"] == cid_of(plot, profile) and "expected" not in arrived.proof
    await target.close()


async def test_a_node_that_has_it_is_sent_nothing(kubo: Kubo, plot: Path) -> None:
    target = kubo_target(kubo)
    await Dock(plot).attempt(target)
    again = await Dock(plot, key="x").attempt(target)
    assert again.outcome == "existed" and kubo.adds == 1
    await target.close()


async def test_an_answer_that_is_cut_is_no_success_though_its_status_is_200(kubo: Kubo, plot: Path) -> None:
    """An error after the first byte is in a trailer that no client shows."""
    kubo.cut_answers = 1
    target, dock = kubo_target(kubo), Dock(plot)
    error = await dock.failing(target)
    assert error.kind == "server_error" and "broke its answer off" in str(error)
    assert (await dock.attempt(target)).outcome == "stored"
    assert kubo.pins == [cid_of(plot, "unixfs-v1-2025")]
    await target.close()


async def test_what_was_added_and_not_pinned_is_no_success(kubo: Kubo, plot: Path) -> None:
    kubo.unpinned = 1
    target, dock = kubo_target(kubo), Dock(plot)
    error = await dock.failing(target)
    assert error.kind == "server_error" and "has not pinned" in str(error)
    assert (await dock.attempt(target)).outcome == "stored"
    await target.close()


@pytest.mark.parametrize("fault", ["drop", "drop_after", "reset"])
async def test_breaks_of_a_node_leave_one_pin(kubo: Kubo, plot: Path, fault: str) -> None:
    kubo.fail(fault, path="/add", after_bytes=1000)
    target, dock = kubo_target(kubo), Dock(plot)
    assert (await dock.failing(target)).kind == "unreachable"
    await dock.attempt(target)
    assert kubo.pins == [cid_of(plot, "unixfs-v1-2025")]
    await target.close()


async def test_a_node_without_room_says_so(kubo: Kubo, plot: Path) -> None:
    kubo.full = True
    target = kubo_target(kubo)
    error = await Dock(plot).failing(target)
    assert error.kind == "full" and "no space left" in str(error)
    await target.close()


async def test_a_node_that_ignores_what_it_is_told_is_understood_or_refused(kubo: Kubo, plot: Path) -> None:
    target = kubo_target(kubo)
    kubo.wrong_cid = True
    error = await Dock(plot).failing(target)
    assert error.kind == "mismatch" and cid_of(plot, "unixfs-v1-2025") in str(error) and kubo.pins[0] in str(error)
    await target.close()


async def test_a_node_with_a_login(kubo: Kubo, plot: Path) -> None:
    kubo.authorization = "Bearer node-secret"
    target = kubo_target(kubo, {"KUBO_AUTHORIZATION": "Bearer wrong"})
    error = await Dock(plot).failing(target)
    assert error.kind == "unauthorized" and "wrong" not in str(error)
    checks = await target.test()
    assert not checks[0].ok and "KUBO_AUTHORIZATION" in checks[0].detail
    await target.close()
    target = kubo_target(kubo, {"KUBO_AUTHORIZATION": "Bearer node-secret"})
    assert (await Dock(plot).attempt(target)).outcome == "stored"
    await target.close()


# -- verifying and testing ---------------------------------------------------------------------------------------------


async def test_verifying_compares_what_is_there_with_the_receipt(pinata: Pinata, kubo: Kubo, plot: Path) -> None:
    size = plot.stat().st_size
    for target in (pinata_target(pinata, gateway=pinata.url), kubo_target(kubo)):
        proof = (await Dock(plot).attempt(target)).proof
        checks = await target.verify(proof, proof["sha256"], size)
        assert [check.name for check in checks] == ["kept", "content", "sha256"] and all(check.ok for check in checks)
        store = pinata.bytes if "id" in proof else kubo.blocks
        store[proof["cid"]] = b"\xff" + store[proof["cid"]][1:]
        assert [check.ok for check in await target.verify(proof, proof["sha256"], size)] == [True, False, False]
        del store[proof["cid"]]
        altered = await target.verify(proof, proof["sha256"], size)
        assert [check.ok for check in altered] == [True, False] and "cannot be fetched" in altered[1].detail
        if "id" in proof:
            pinata.files.clear()
        else:
            kubo.pins.clear()
        assert [check.ok for check in await target.verify(proof, proof["sha256"], size)] == [False]
        await target.close()


async def test_a_file_that_took_the_place_of_ours_is_noticed(pinata: Pinata, plot: Path) -> None:
    target = pinata_target(pinata)
    proof = (await Dock(plot).attempt(target)).proof
    checks = await target.verify({**proof, "id": "another"}, proof["sha256"], SIZE)
    assert [check.ok for check in checks] == [False]
    await target.close()


async def test_a_target_is_tested_by_a_round_trip_that_leaves_nothing(pinata: Pinata, kubo: Kubo) -> None:
    for target in (pinata_target(pinata), kubo_target(kubo)):
        checks = await target.test()
        assert len(checks) == 4 and all(check.ok for check in checks), checks
        await target.close()
    assert pinata.files == [] and kubo.pins == []


async def test_what_is_wrong_with_a_token_is_said(pinata: Pinata) -> None:
    pinata.readers.append("may-only-read")
    for jwt, words in (
        ("", "no token"),
        ("wrong-one", "does not know the token"),
        ("may-only-read", "org:files:write"),
    ):
        target = pinata_target(pinata, jwt=jwt)
        checks = await target.test()
        assert not checks[-1].ok and words in checks[-1].detail
        assert not jwt or jwt not in str(checks)
        assert target.missing() == ([] if jwt else ["PINATA_JWT"])
        await target.close()


async def test_a_server_that_is_not_there_is_said(pinata: Pinata, kubo: Kubo) -> None:
    targets = [pinata_target(pinata), kubo_target(kubo)]
    await pinata.stop()
    await kubo.stop()
    for target in targets:
        checks = await target.test()
        assert [check.ok for check in checks] == [False] and "no connection" in checks[0].detail
        await target.close()


def test_no_secret_is_shown() -> None:
    options = {"pinata": {"jwt": "hidden-secret"}}
    target = make("storage.ipfs", options)
    shown = f"{target.describe()} {target.missing()} {Target.Options.model_validate(options)!r}"
    assert "hidden-secret" not in shown


@pytest.mark.parametrize(
    "options",
    [
        {"pinata": {}, "kubo": {}},
        {"profile": "made-up"},
        {"pinata": {"car": True, "network": "private"}},
        {"pinata": {"keyvalues": {str(n): "x" for n in range(9)}}},
        {"pinata": {"token": "x"}},
    ],
)
def test_settings_that_cannot_be_right_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Target.Options.model_validate(options)


async def test_being_cancelled_while_it_computes_ends_soon(kubo: Kubo, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(8 << 30)
    target = kubo_target(kubo)
    dock = Dock(large)
    attempt = asyncio.create_task(dock.attempt(target))
    await asyncio.sleep(0.1)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert kubo.requests == []
    await target.close()


def test_a_name_that_a_service_gives_is_read(plot: Path) -> None:
    assert parse(cid_of(plot, "unixfs-v0-2015")).version == 0
