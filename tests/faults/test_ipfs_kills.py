"""A process that brings files to Pinata is killed (SIGKILL) before, during and after the outside call: each file is there once, under
the CID that was computed before it was sent, with one receipt. (A node: test_deliveries.py.)"""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from adapters.storage.cid import digest_file
from tests.doubles.pinata import JWT
from tests.doubles.server import Outside, outside
from tests.faults.shipper import Shipper, make_files

pytestmark = pytest.mark.faults


@pytest.fixture
def pinata(tmp_path: Path) -> Iterator[Outside]:
    with outside("pinata", tmp_path / "pinata") as double:
        yield double


def to_pinata(double: Outside, folder: Path, **settings: Any) -> Shipper:
    options = {"pinata": {"upload_url": f"{double.url}/v3", "api_url": double.url} | settings, "http": {}}
    return Shipper(folder, "storage.ipfs", options, {"PINATA_JWT": JWT})


def cid_of(path: Path, profile: str) -> str:
    return digest_file(path, [profile]).roots[profile].cid


def posts(double: Outside) -> int:
    return sum(1 for one in double.seen() if one.method == "POST")


@pytest.mark.parametrize(
    ("moment", "fault"),
    [
        ("before", {"kind": "slow", "method": "GET", "seconds": 60}),
        ("during", {"kind": "stall", "method": "POST", "after_bytes": 100_000, "seconds": 60}),
        ("after", {"kind": "slow_after", "method": "POST", "seconds": 60}),
    ],
)
def test_killed_at_a_chosen_moment(pinata: Outside, tmp_path: Path, moment: str, fault: dict[str, Any]) -> None:
    (path,) = make_files(tmp_path / "files", 1, 2_000_000)
    shipper = to_pinata(pinata, tmp_path / "ship")
    shipper.order(0, path)
    pinata.fail(**fault)
    if moment == "after":
        shipper.kill_when(lambda: len(pinata.contents()) == 1)
    else:
        shipper.kill_when(lambda: any(one.method == fault["method"] for one in pinata.seen()))
    pinata.heal()
    (receipt,) = shipper.finish()
    (file,) = pinata.contents()
    assert receipt["proof"]["cid"] == file["cid"] == cid_of(path, "v1-256k-174")
    assert receipt["proof"]["id"] == file["id"]
    assert receipt["outcome"] == ("existed" if moment == "after" else "stored")
    assert posts(pinata) == (2 if moment == "during" else 1)


def test_an_upload_in_parts_is_killed_half_way_and_goes_on_there(pinata: Outside, tmp_path: Path) -> None:
    (path,) = make_files(tmp_path / "files", 1, 2_000_000)
    shipper = to_pinata(pinata, tmp_path / "ship", large_bytes=1000, part_bytes=500_000)
    shipper.order(0, path)
    pinata.fail("slow", method="PATCH", path="/v3/files", seconds=0.3, times=100)

    def parts() -> list[int]:
        return [int(one.headers["Upload-Offset"]) for one in pinata.seen() if one.method == "PATCH" and one.status]

    shipper.kill_when(lambda: len(parts()) == 2)
    (receipt,) = shipper.finish()
    (file,) = pinata.contents()
    assert receipt["proof"]["cid"] == file["cid"] == cid_of(path, "v1-256k-174")
    assert posts(pinata) == 1, "the upload that was begun was gone on with"
    sent_first = [int(one.headers["Upload-Offset"]) for one in pinata.seen() if one.method == "PATCH"]
    assert sent_first.count(0) == 1 and sorted(set(parts())) == [0, 500_000, 1_000_000, 1_500_000]


def test_a_hundred_files_through_a_storm_of_kills_and_lost_answers(
    pinata: Outside, tmp_path: Path, chance: Random
) -> None:
    paths = make_files(tmp_path / "files", 100, 300_000)
    shipper = to_pinata(pinata, tmp_path / "ship", large_bytes=300_050, part_bytes=100_000, pending_s=0.2)
    for n, path in enumerate(paths):
        shipper.order(n, path)
    pinata.fail("drop_after", method="POST", times=10)
    pinata.fail("drop_after", method="PATCH", times=10)
    pinata.fail("reset", method="PATCH", times=5, after_bytes=50_000)
    pinata.fail("slow_after", times=10_000, seconds=0.02)  # so that kills find something in flight
    receipts = shipper.storm(kills=6, chance=chance)
    files = pinata.contents()
    assert len(receipts) == len(files) == 100 and shipper.kills == 6
    assert {file["cid"] for file in files} == {cid_of(path, "v1-256k-174") for path in paths}
    assert {receipt["proof"]["id"] for receipt in receipts} == {file["id"] for file in files}
