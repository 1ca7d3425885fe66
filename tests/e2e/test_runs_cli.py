"""Runs for MaskHub from the command line and from Python, in a lab that runs, to a MaskHub that is a process of its own."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from adapters.storage.local import LocalBlobs
from labledger.client import CommandRefused, Lab
from tests.doubles.maskhub import TOKEN
from tests.doubles.server import Outside, outside
from tests.e2e.cli import RunningLab

_number = iter(range(100_000))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    with outside("maskhub", tmp_path_factory.mktemp("hub")) as double:
        yield double


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "maskhub_config.json"


@pytest.fixture(scope="module")
def hub_lab(hub: Outside, config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    """A lab with one target, whose credentials it does not have yet."""
    folder = tmp_path_factory.mktemp("runs") / "lab"
    folder.mkdir()
    toml = f'[targets.maskhub]\nadapter = "maskhub.runs"\noptions = {{ config_file = "{config_file}" }}\n'
    (folder / "labledger.toml").write_text(toml)
    running = RunningLab(folder)
    yield running
    running.stop()


def connect(hub_lab: RunningLab, hub: Outside, config_file: Path) -> None:
    """Give it the credentials, and start what delivers again; once is enough."""
    if config_file.exists():
        return
    credentials = {"api_url": f"{hub.url}/api", "api_v3_url": f"{hub.url}/api/v3", "api_token": TOKEN}
    numbers = {"timeout": 20, "max_retries": 3, "retry_multiplier": 0.01, "retry_min_wait": 0.01}
    config_file.write_text(json.dumps({"credentials": credentials, "settings": numbers}))
    os.kill(hub_lab.pid("deliver"), signal.SIGKILL)


def raw(folder: Path) -> Path:
    path = folder / f"raw-{next(_number)}.parquet"
    path.write_bytes(f"PAR1 {path} PAR1".encode())
    return path


def until(true: Any, within_s: float = 40) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def test_without_credentials_all_is_kept_and_goes_when_they_are_there(
    hub_lab: RunningLab, hub: Outside, config_file: Path, tmp_path: Path
) -> None:
    until(lambda: hub_lab.json("targets", "list"))
    start = ("runs", "start", "local first", "--mask", "42", "--lot", "L1", "--wafer", "W3", "--station", "bench")
    assert hub_lab.json(*start) == {"run_id": "local-first"}
    assert hub_lab.json(*start) == {"run_id": "local-first"}
    for number in range(3):
        words = (
            "--device",
            f"ring_{number}",
            "--type",
            "spectrum",
            "--die",
            str(number),
            "-2",
            "--meta",
            "loss_db=3.5",
        )
        hub_lab.json("runs", "add", "local-first", str(raw(tmp_path)), *words)
    empty = tmp_path / "empty.parquet"
    empty.touch()
    refused = hub_lab.cli("runs", "add", "local-first", str(empty), "--device", "d", "--type", "t", "--die", "0", "0")
    assert refused.code == 1 and "nothing empty is sent" in refused.err
    report = tmp_path / "report.pdf"
    report.write_bytes(b"%PDF")
    hub_lab.json("runs", "attach", "local-first", str(report))
    told = hub_lab.json("runs", "statistics", "local-first")
    assert (told["total"], told["pending"], told["failed"], told["service_available"]) == (3, 3, 0, False)
    assert not hub.seen()

    connect(hub_lab, hub, config_file)
    summary = hub_lab.json("runs", "finish", "local-first", "--analyse", "--wait", "--timeout", "60")
    assert summary["upload_stats"] == {"total": 3, "successful": 3, "failed": 0, "pending": 0}
    assert summary["analysis_triggered"] and summary["failed_uploads"] == 0 and summary["measurement_count"] == 3
    stored = hub.contents()
    assert [one["name"] for one in stored["runs"]] == ["local first"] and stored["analyses"] == ["local first"]
    assert list(stored["per_key"].values()) == [1, 1, 1] and len(stored["attachments"]) == 1
    assert {(one["die_x"], one["die_y"], one["lot_name"]) for one in stored["measurements"]} == {
        (str(number), "-2", "L1") for number in range(3)
    }
    assert json.loads(stored["measurements"][0]["test_meta"]) == {"loss_db": 3.5}
    shown = hub_lab.json("runs", "show", "local-first")
    assert {one["state"] for one in shown["parts"]} == {"delivered"} and len(shown["parts"]) == 6
    one = next(part for part in shown["parts"] if part["part"] == "measurement")
    assert hub_lab.json("deliveries", "verify", one["delivery_id"])
    receipt = tmp_path / "receipt.json"
    hub_lab.json("deliveries", "show", one["delivery_id"], "--receipt", str(receipt))
    told = json.loads(receipt.read_text())
    assert (
        told["outcome"] == "stored" and told["proof"]["key"] in stored["per_key"] and TOKEN not in receipt.read_text()
    )
    (listed,) = [one for one in hub_lab.json("runs", "list") if one["run_id"] == "local-first"]
    assert (listed["successful"], listed["attachments"], listed["analysed"]) == (3, 1, True)
    assert hub_lab.json("runs", "statistics", "local-first")["service_available"]


def test_what_failed_is_tried_again(hub_lab: RunningLab, hub: Outside, config_file: Path, tmp_path: Path) -> None:
    connect(hub_lab, hub, config_file)
    hub_lab.json("runs", "start", "again", "--mask", "42", "--lot", "L", "--wafer", "W", "--station", "bench")
    until(lambda: hub_lab.json("runs", "show", "again")["opened"])
    hub.fail("status", method="POST", path="/v3/measurements", status=503, times=3)  # as often as the file says
    hub_lab.json("runs", "add", "again", str(raw(tmp_path)), "--device", "d", "--type", "t", "--die", "0", "0")
    until(lambda: hub_lab.json("runs", "statistics", "again")["failed"] == 1)
    failed = hub_lab.cli("runs", "finish", "again", "--wait", "--json")
    assert failed.code == 5 and failed.json["failed_uploads"] == 1
    (parked,) = [one for one in hub_lab.json("runs", "show", "again")["parts"] if one["state"] == "parked"]
    assert "503" in parked["reason"] and parked["device_name"] == "d"
    assert hub_lab.json("runs", "retry-failed", "again") == {"retried": 1}
    summary = hub_lab.json("runs", "finish", "again", "--wait")
    assert summary["upload_stats"] == {"total": 1, "successful": 1, "failed": 0, "pending": 0}
    assert hub_lab.json("runs", "retry-failed", "again") == {"retried": 0}
    people = hub_lab.cli("runs", "show", "again")
    assert people.code == 0 and "1 successful" in people.out


def test_from_python_by_the_verbs_that_people_know(
    hub_lab: RunningLab, hub: Outside, config_file: Path, tmp_path: Path
) -> None:
    connect(hub_lab, hub, config_file)
    with Lab.sync(hub_lab.folder) as lab:
        about = {"lot_name": "L", "wafer_name": "W", "station": "bench", "operator": "Ada"}
        run_id = lab.runs.start_run(42, "by hand", batch=True, **about)
        table = {"wavelength_nm": [1550.0, 1551.0], "power_mw": [0.5, 0.25]}
        where = {"device_name": "ring/1", "measurement_type": "spectrum", "die_x": 1, "die_y": 2}
        lab.runs.add_measurement(run_id, table, **where, test_meta={"note": "first"})
        lab.runs.add_measurement(run_id, raw(tmp_path), **where)
        lab.runs.add_measurement(run_id, b"PAR1", **where, file_name="bytes.parquet")
        with pytest.raises(CommandRefused, match="ring/1 has no data: nothing empty is sent"):
            lab.runs.add_measurement(run_id, None, **where)
        lab.runs.attach(run_id, b"hello", name="note.txt")
        told: list[tuple[int, int]] = []
        summary = lab.runs.finish_run(run_id, analyse=True, wait_s=60, progress=lambda *now: told.append(now))
        assert summary["upload_stats"]["successful"] == 3 and summary["analysis_triggered"]
        assert told[-1] == (3, 3) and told == sorted(told)
        assert lab.runs.statistics(run_id)["total"] == 3
        assert lab.runs.retry_failed(run_id) == 0
    stored = [one for one in hub.contents()["measurements"] if one["run_name"] == "by hand"]
    assert sorted(one["file_name"] for one in stored)[0] == "bytes.parquet"
    assert {one["device_name"] for one in stored} == {"ring/1"} and len(stored) == 3
    (made,) = [one["sha256"] for one in stored if one["file_name"] == "ring_1.parquet"]
    with LocalBlobs(hub_lab.folder / "blobs").local(made) as path:
        assert pq.read_table(path).to_pydict() == table
