"""The S3 target on real servers: stored once and whole, looked for before it is sent, proven afterwards."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.storage.s3 import Target
from adapters.storage.s3_upload import part_size
from domain.ports import DeliveryFailed
from tests.doubles.s3_servers import RcloneS3, SeaweedFS
from tests.integration.adapters.s3_desk import MIB, Eye, Told, again, shipment, target, write

Make = Callable[..., Target]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[Target] = []

    def one(options: dict[str, Any], **more: Any) -> Target:
        made.append(target({"part_mib": 5, "patience_s": 20} | options | more))
        return made[-1]

    yield one
    for it in made:
        await it.close()


@pytest.fixture(params=["seaweedfs", "rclone_s3"])
def server(request: pytest.FixtureRequest) -> SeaweedFS | RcloneS3:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("size", [0, 17, 5 * MIB, 5 * MIB + 1, 23 * MIB + 5])
async def test_a_file_arrives_once_and_is_proven(
    make: Make, server: SeaweedFS | RcloneS3, tmp_path: Path, size: int
) -> None:
    it, told = make(server.options(), prefix=f"once-{size}/"), Told()
    first = shipment(write(tmp_path / "a b.parquet", size), told)
    arrived = await it.deliver(first)
    key = f"once-{size}/{first.sha256}/a b.parquet"
    assert (arrived.outcome, arrived.location) == ("stored", f"s3://lab/{key}")
    eye = Eye(server.options())
    assert eye.keys(f"once-{size}/") == [key] and eye.sha256(key) == first.sha256
    assert bool(told.kept) == (size > 5 * MIB)
    if told.kept:
        assert set(told.kept[0]) == {"bucket", "key", "upload_id", "part_size", "size", "sha256", "checksum"}
    assert all(check.ok for check in await it.verify(arrived.proof, first.sha256, size))

    once_more = await it.deliver(first)  # the answer was lost, say
    assert once_more.outcome == "stored" and once_more.bytes_sent == 0
    other = await it.deliver(shipment(first.path or tmp_path))  # another delivery of the same file
    assert other.outcome == "existed" and other.bytes_sent == 0 and other.proof["delivery_id"] is None
    assert eye.keys(f"once-{size}/") == [key] and not eye.uploads(f"once-{size}/")


async def test_the_store_is_known_by_what_it_does(make: Make, seaweedfs: SeaweedFS, rclone_s3: RcloneS3) -> None:
    for server, checksum, conditional in ((seaweedfs, "sha256", True), (rclone_s3, "md5", False)):
        it = make(server.options(), prefix="probe/")
        checks = {check.name: check for check in await it.test()}
        assert all(check.ok for check in checks.values()), checks
        assert list(checks)[:6] == ["endpoint", "credentials", "bucket", "write", "read", "delete"]
        assert it.describe()["store"] == {"checksum": checksum, "compares": True, "conditional": conditional}
        assert not Eye(server.options()).keys("probe/")


async def test_crc64nvme_is_sent_for_each_part_and_for_the_whole(
    make: Make, seaweedfs: SeaweedFS, tmp_path: Path
) -> None:
    it = make(seaweedfs.options(), prefix="crc/", checksum="crc64nvme")
    for name, size in (("small", 1000), ("large", 12 * MIB)):
        parcel = shipment(write(tmp_path / name, size))
        arrived = await it.deliver(parcel)
        assert arrived.proof["checksum"]["algorithm"] == "crc64nvme"
        assert all(check.ok for check in await it.verify(arrived.proof, parcel.sha256, size))


async def test_other_content_under_the_name_is_a_conflict_and_stays(
    make: Make, server: SeaweedFS | RcloneS3, tmp_path: Path
) -> None:
    eye, it = Eye(server.options()), make(server.options(), key="conflict/{file_name}")
    parcel = shipment(write(tmp_path / "one", 1000))
    eye.put("conflict/one", b"x" * 1000)  # of the same length, and without our metadata
    with pytest.raises(DeliveryFailed, match="other content") as failed:
        await it.deliver(parcel)
    assert failed.value.kind == "conflict"
    assert eye.client.get_object(Bucket="lab", Key="conflict/one")["Body"].read() == b"x" * 1000
    assert parcel.path is not None
    eye.put("conflict/two", parcel.path.read_bytes())  # the same bytes, by another program
    assert (await it.deliver(replace(parcel, file_name="two"))).outcome == "existed"


async def test_two_at_once_make_one_object(make: Make, seaweedfs: SeaweedFS, tmp_path: Path) -> None:
    it = make(seaweedfs.options(), prefix="race/")
    path = write(tmp_path / "raced", 11 * MIB)
    outcomes = await asyncio.gather(*(it.deliver(shipment(path)) for _ in range(4)))
    assert sorted(one.outcome for one in outcomes) == ["existed"] * 3 + ["stored"]
    assert not Eye(seaweedfs.options()).uploads("race/")


async def test_an_attempt_that_was_cancelled_is_gone_on_with(make: Make, seaweedfs: SeaweedFS, tmp_path: Path) -> None:
    it, told = make(seaweedfs.options(), prefix="cancelled/", concurrency=1), Told()
    first = shipment(write(tmp_path / "long", 30 * MIB), told)
    attempt = asyncio.create_task(it.deliver(first))
    while not any(text.startswith("part 2") for _, text in told.reports):
        await asyncio.sleep(0.01)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    eye = Eye(seaweedfs.options())
    assert len(eye.uploads("cancelled/")) == 1
    arrived = await make(seaweedfs.options(), prefix="cancelled/").deliver(replace(first, **again(first, told)))
    assert arrived.outcome == "stored" and arrived.bytes_sent <= 20 * MIB
    assert eye.sha256(eye.keys("cancelled/")[0]) == first.sha256 and not eye.uploads("cancelled/")
    assert len(told.kept) == 1


async def test_an_upload_that_the_store_forgot_begins_anew(make: Make, seaweedfs: SeaweedFS, tmp_path: Path) -> None:
    it, told = make(seaweedfs.options(), prefix="forgot/"), Told()
    first = shipment(write(tmp_path / "f", 12 * MIB), told)
    gone = {"bucket": "lab", "key": it.key_of(first), "upload_id": "0" * 32, "part_size": 5 * MIB}
    gone |= {"size": first.size, "sha256": first.sha256, "checksum": "sha256"}
    assert (await it.deliver(replace(first, checkpoint=gone))).outcome == "stored"
    assert len(told.kept) == 1 and told.kept[0]["upload_id"] != "0" * 32


async def test_the_janitor_removes_old_uploads_of_ours_alone(make: Make, seaweedfs: SeaweedFS) -> None:
    eye = Eye(seaweedfs.options())
    for key in ("ours/old", "theirs/old"):
        eye.client.create_multipart_upload(Bucket="lab", Key=key)
    await asyncio.sleep(1.1)
    old = make(seaweedfs.options(), prefix="ours/", stale_days=1 / 86_400)
    assert [(one.key, one.removed) for one in await old.tidy(dry_run=True)] == [("ours/old", False)]
    assert not await make(seaweedfs.options(), prefix="ours/").tidy()  # it is not a week old
    assert [(one.key, one.removed) for one in await old.tidy()] == [("ours/old", True)]
    assert not eye.uploads("ours/") and len(eye.uploads("theirs/")) == 1
    with pytest.raises(ValueError, match="prefix"):
        await make(seaweedfs.options()).tidy()


async def test_a_file_that_changed_or_vanished_is_not_completed(
    make: Make, seaweedfs: SeaweedFS, tmp_path: Path
) -> None:
    it, eye = make(seaweedfs.options(), prefix="changed/"), Eye(seaweedfs.options())
    for size in (1000, 12 * MIB):
        path = write(tmp_path / "f", size)
        parcel = shipment(path)
        write(path, size, seed=2)
        with pytest.raises(DeliveryFailed, match="not what it was") as failed:
            await it.deliver(parcel)
        assert failed.value.kind == "changed"
        path.write_bytes(b"short")
        with pytest.raises(DeliveryFailed) as failed:
            await it.deliver(parcel)
        assert failed.value.kind == "changed"
        path.unlink()
        with pytest.raises(DeliveryFailed) as failed:
            await it.deliver(parcel)
        assert failed.value.kind == "missing"
    assert not eye.keys("changed/") and not eye.uploads("changed/")


async def test_a_verification_finds_what_was_altered_or_lost(
    make: Make, server: SeaweedFS | RcloneS3, tmp_path: Path
) -> None:
    it, eye = make(server.options(), prefix="verify/"), Eye(server.options())
    parcel = shipment(write(tmp_path / "v", 7 * MIB))
    arrived = await it.deliver(parcel)
    key = arrived.proof["key"]
    meta = {"sha256": str(parcel.sha256), "delivery-id": str(parcel.delivery_id)}
    eye.put(key, b"y" * (7 * MIB), Metadata=meta)  # somebody who takes trouble
    found = {check.name: check.ok for check in await it.verify(arrived.proof, parcel.sha256, parcel.size)}
    assert found["there"] and found["size"] and not all(found.values())
    eye.client.delete_object(Bucket="lab", Key=key)
    assert [check.ok for check in await it.verify(arrived.proof, parcel.sha256, parcel.size)] == [False]


async def test_what_is_wrong_with_a_target_is_said_where_it_is_wrong(
    make: Make, seaweedfs: SeaweedFS, tmp_path: Path
) -> None:
    good = seaweedfs.options()
    cases = [
        ({"endpoint_url": "http://127.0.0.1:1"}, "endpoint", "unreachable"),
        ({"access_key_id": "nobody"}, "credentials", "unauthorized"),
        ({"secret_access_key": "wrong-secret"}, "credentials", "unauthorized"),
        ({"bucket": "no-such-bucket"}, "bucket", "misconfigured"),
    ]
    parcel = shipment(write(tmp_path / "p", 10))
    for wrong, step, kind in cases:
        it = make(good | wrong | {"patience_s": 0})
        checks = await it.test()
        assert [check.name for check in checks if not check.ok] == [step], checks
        with pytest.raises(DeliveryFailed) as failed:
            await it.deliver(parcel)
        assert failed.value.kind == kind, failed.value
        assert "wrong-secret" not in f"{checks} {failed.value} {it.describe()} {it._store.keys}"  # pyright: ignore[reportPrivateUsage]


async def test_credentials_come_from_the_options_or_the_environment(seaweedfs: SeaweedFS) -> None:
    options = seaweedfs.options()
    access, secret = options.pop("access_key_id"), options.pop("secret_access_key")
    bare = target(options)
    assert bare.missing() == ["access_key_id (or AWS_ACCESS_KEY_ID)", "secret_access_key (or AWS_SECRET_ACCESS_KEY)"]
    assert [check.ok for check in await bare.test()] == [False]
    given = target(options, {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret})
    assert not given.missing() and all(check.ok for check in await given.test())
    await given.close()


def test_keys_are_made_from_a_template(tmp_path: Path) -> None:
    base = {"bucket": "lab", "key": "{scan_id}/{file_name}", "prefix": "p/"}
    parcel = shipment(write(tmp_path / "x.png", 1), options={"scan_id": "s1"})
    assert target(base).key_of(parcel) == "p/s1/x.png"
    assert target(base).key_of(replace(parcel, key="named/by hand")) == "p/named/by hand"
    with pytest.raises(DeliveryFailed, match=r"needs \{scan_id\}") as failed:
        target(base).key_of(replace(parcel, options={}))
    assert failed.value.kind == "misconfigured"
    for bad in ("../up", "a//b", "a/./b", "k" * 1025):
        with pytest.raises(DeliveryFailed, match="cannot be a key"):
            target(base).key_of(replace(parcel, key=bad))
    with pytest.raises(ValueError, match="no plain name"):
        target(base | {"key": "{scan_id.__class__}"})


def test_parts_are_as_large_as_they_must_be() -> None:
    assert part_size(1) == part_size(100 << 30) == 16 * MIB
    for size, most in ((10 << 40, 9_500), (48 << 40, 10_000)):
        assert part_size(size) % MIB == 0 and -(-size // part_size(size)) <= most
    with pytest.raises(DeliveryFailed, match="more than S3 takes"):
        part_size(60 << 40)
