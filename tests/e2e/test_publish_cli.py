"""Publications from the command line, in a lab that runs, to a node of IPFS that is a process of its own."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.storage.cid import digest_file
from tests.doubles.server import Outside, outside
from tests.e2e.cli import RunningLab, in_process

PROFILE = "unixfs-v1-2025"
WORDS = ("--set", "sensor_type=temperature", "--set", "interval=daily")


@pytest.fixture(scope="module")
def kubo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    with outside("kubo", tmp_path_factory.mktemp("kubo")) as double:
        yield double


@pytest.fixture(scope="module")
def plots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plots")


@pytest.fixture(scope="module")
def site(kubo: Outside, plots: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    folder = tmp_path_factory.mktemp("site") / "lab"
    folder.mkdir()
    (folder / "labledger.toml").write_text(
        f"""
        [targets.node]
        adapter = "storage.ipfs"
        options.kubo = {{ url = "{kubo.url}/api/v0" }}
        retry = {{ max_retries = 2, min_wait_s = 0.1, multiplier = 0.1 }}

        [targets.latest]
        adapter = "storage.kv"

        [clean_up]
        folders = ["{plots}"]
        """
    )
    running = RunningLab(folder)
    yield running
    running.stop()


def plot(plots: Path, name: str) -> Path:
    path = plots / name
    path.write_bytes(os.urandom(5000))
    return path


def cid_of(path: Path) -> str:
    return digest_file(path, [PROFILE]).roots[PROFILE].cid


def test_a_file_is_published_and_gone(site: RunningLab, kubo: Outside, plots: Path) -> None:
    path = plot(plots, "daily.png")
    cid = cid_of(path)
    told = site.json("publish", str(path), *WORDS, "--clean-up", "--wait")
    assert told["state"] == "completed" and told["cid"] == cid and told["key"] == "temperature:daily:latest"
    assert cid in kubo.contents()["pins"] and not path.exists()
    receipt = site.json("deliveries", "show", told["pointer_delivery_id"])["receipt"]
    assert receipt["outcome"] == "stored" and receipt["proof"]["key"] == told["key"]
    for id_ in (told["pin_delivery_id"], told["pointer_delivery_id"]):
        assert site.json("deliveries", "verify", id_)["ok"]
    (row,) = site.json("publications", "list", "--key", "temperature:daily:latest")
    assert row["state"] == "completed" and row["location"] == f"ipfs://{cid}"
    assert site.json("publications", "show", "last")["publication_id"] == told["publication_id"]


def test_a_step_that_is_given_up_is_listed_and_goes_on(site: RunningLab, kubo: Outside, plots: Path) -> None:
    path = plot(plots, "hourly.png")
    kubo.switch(wrong_cid=True)
    words = ("--set", "sensor_type=temperature", "--set", "interval=hourly")
    answer = site.cli("publish", str(path), *words, "--wait", "--json")
    assert answer.code == 5 and answer.json["state"] == "requested" and cid_of(path) in answer.json["stalled"]
    (row,) = site.json("publications", "list", "--stalled")
    assert row["key"] == "temperature:hourly:latest" and row["step"] == "pin"
    kubo.switch(wrong_cid=False)
    site.json("publications", "retry", row["publication_id"])
    site.json("publish", str(plot(plots, "later.png")), "--key", "other", "--wait")
    assert site.json("publications", "list", "--stalled") == []


def test_what_cannot_be_published_is_said(site: RunningLab, plots: Path) -> None:
    path = plot(plots, "odd.png")
    answer = site.cli("publish", str(path))
    assert answer.code == 1 and "needs 'sensor_type'" in answer.err
    answer = site.cli("publish", str(path), *WORDS, "--to", "latest")
    assert answer.code == 1 and "choose one of the kind ipfs" in answer.err
    answer = site.cli("publish", str(plots / "nothing.png"), *WORDS)
    assert answer.code == 2 and "there is no file" in answer.err


def test_both_targets_are_tested(site: RunningLab) -> None:
    for name in ("node", "latest"):
        told = site.json("targets", "test", name)
        assert told["ok"], told


def test_the_names_of_a_file_need_no_lab(plots: Path) -> None:
    path = plot(plots, "named.png")
    answer = in_process("cid", str(path), "--json")
    assert answer.code == 0 and answer.json[PROFILE] == cid_of(path)
    assert in_process("cid", str(path), "--expect", cid_of(path)).code == 0
    other = plot(plots, "other.png")
    answer = in_process("cid", str(path), "--expect", cid_of(other))
    assert answer.code == 4 and "no name of this file" in answer.err
    assert in_process("cid", str(path), "--expect", "nonsense").code == 2
    assert json.loads(in_process("cid", str(path), "--json").out)["size"] == 5000
