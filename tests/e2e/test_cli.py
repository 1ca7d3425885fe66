"""Every group of commands on a running lab, by a program of its own; what it answers, and with which exit code."""

import csv
import json
import resource
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from labledger.cli import app
from tests.e2e.cli import RunningLab, labledger

LINE = ("scan", "submit", "--template", "line")


def slow_scan(lab: RunningLab, *words: str, num: int = 2000) -> str:
    """A scan that takes some seconds: 5 ms at each point."""
    values = ("--set", f"num={num}", "--set", "settle_s=0.005", "--frame-points", "10")
    return lab.json(*LINE, *values, *words)["scan_id"]


def until_status(lab: RunningLab, scan_id: str, *wanted: str) -> dict[str, object]:
    deadline = time.monotonic() + 30
    while (found := lab.json("scan", "show", scan_id))["status"] not in wanted:
        assert time.monotonic() < deadline, found
    return found


def test_help_answers_at_once() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = labledger("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert answer.code == 0
    # 0.2 s, 0.4 s on a busy machine. Of the processor: how long it takes says also what else runs.
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 1.0
    for group in ("scan", "queue", "job", "sample", "equipment", "station", "audit", "parked"):
        assert group in answer.out


def test_every_command_has_an_example_that_is_one() -> None:
    """Each is parsed by the command line itself: names and options that do not exist would be refused."""
    found = dict(commands(get_command(app())))
    assert len(found) > 55
    for words, command in found.items():
        example = (command.help or "").partition("Example:")[2].strip()
        assert example.startswith("labledger "), words
        typed = shlex.split(example)[1:]
        assert tuple(typed[: len(words)]) == words, example
        command.make_context("labledger", typed[len(words) :])


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def test_a_plan_from_standard_input_is_measured_and_its_readings_can_be_read(lab: RunningLab, tmp_path: Path) -> None:
    sample = "W12-3"
    lab.json("sample", "register", sample, "--material", "GaAs", "--tag", "batch-7")
    plan = {
        "nodes": [
            {
                "kind": "move",
                "instrument": "stage",
                "channel": "x",
                "positions": {"kind": "list", "values": [0.0, 0.5, 2.0]},
                "children": [{"kind": "measure", "instrument": "meter", "channels": ["voltage", "current"]}],
            }
        ]
    }
    words = ("scan", "submit", "-", "--sample", sample, "--title", "three points", "--wait", "--json")
    answer = lab.program(*words, stdin=json.dumps(plan))
    assert answer.code == 0, answer
    done = answer.json
    assert (done["status"], done["points"], done["sample_id"]) == ("completed", 3, sample)
    scan_id = done["scan_id"]

    readings = lab.json("scan", "readings", scan_id)
    assert [row["stage.x"] for row in readings["rows"]] == [0.0, 0.5, 2.0]
    assert readings["units"] == {"stage.x": "mm", "meter.voltage": "V", "meter.current": "A"}

    out = tmp_path / "scan.csv"
    lab.json("export", scan_id, "-o", str(out))
    lines = [line for line in out.read_text().splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    assert [float(row["stage.x (mm)"]) for row in rows] == [0.0, 0.5, 2.0]

    parquet = pytest.importorskip("pyarrow.parquet")
    lab.json("export", scan_id, "-o", str(tmp_path / "scan.parquet"))
    table = parquet.read_table(tmp_path / "scan.parquet")
    assert table.column("meter.voltage").to_pylist() == [row["meter.voltage"] for row in readings["rows"]]
    assert table.schema.field("meter.voltage").metadata == {b"unit": b"V"}

    assert lab.json("scan", "list", "-n", "1")[0]["scan_id"] == scan_id
    types = [event["type"] for event in lab.json("history", "scan", scan_id)]
    assert types == ["scan.requested.v1", "scan.started.v1", "scan.completed.v1"]


def test_an_array_channel_is_exported_as_lists(lab: RunningLab, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    done = lab.json("scan", "submit", "--template", "spectra", "--set", "num=4", "--wait")
    lab.json("export", done["scan_id"], "--format", "parquet", "-o", str(tmp_path / "spectra"))
    table = parquet.read_table(tmp_path / "spectra")
    assert [len(one) for one in table.column("spectrometer.spectrum").to_pylist()] == [256] * 4


def test_a_scan_is_paused_resumed_and_aborted_and_started_anew(lab: RunningLab) -> None:
    scan_id = slow_scan(lab)
    until_status(lab, scan_id, "running")
    assert lab.json("scan", "pause", scan_id)["outcome"] == "accepted"
    paused = until_status(lab, scan_id, "paused")
    assert 0 <= int(str(paused["points"])) < 2000
    lab.json("scan", "resume", scan_id)
    until_status(lab, scan_id, "running")
    lab.json("scan", "abort", scan_id, "--reason", "wrong sample")
    aborted = until_status(lab, scan_id, "aborted")
    assert aborted["reason"] == "wrong sample"

    refused = lab.cli("scan", "pause", scan_id)
    assert refused.code == 1
    assert "it is aborted; it can be restarted" in refused.err
    assert lab.cli("scan", "watch", scan_id).code == 1
    lab.json("scan", "restart", scan_id)
    until_status(lab, scan_id, "running")
    lab.json("scan", "abort", scan_id)
    until_status(lab, scan_id, "aborted")


def test_watch_tells_every_frame_once_and_ends_with_the_scan(lab: RunningLab) -> None:
    scan_id = slow_scan(lab, num=200)
    answer = lab.program("scan", "watch", scan_id, "--json")
    assert answer.code == 0, answer
    lines = answer.lines
    assert lines[-1]["status"] == "completed"
    sequences = [line["sequence"] for line in lines]
    assert len(set(sequences)) == len(sequences)
    frames = [event["sequence"] for event in lab.json("history", "readings", scan_id) if "recorded" in event["type"]]
    assert set(frames) - set(sequences[1:]) <= set(range(sequences[0] + 1))


def test_a_queue_is_ordered_by_hand(lab: RunningLab) -> None:
    lab.json("queue", "create", "night", "--order", "fifo")
    lab.json("queue", "pause", "night")
    scans = [lab.json(*LINE, "--set", "num=5", "--queue", "night")["scan_id"] for _ in range(3)]
    lab.json("queue", "move", "night", scans[2], "first")
    lab.json("queue", "set-priority", "night", scans[0], "urgent")
    lab.json("queue", "remove", "night", scans[1])
    shown = lab.json("queue", "show", "night")
    assert [job["job_id"] for job in shown["waiting"]] == [scans[2], scans[0]]
    lab.json("queue", "configure", "night", "--order", "priority")
    assert [job["job_id"] for job in lab.json("queue", "show", "night")["waiting"]] == [scans[0], scans[2]]
    late = lab.cli("queue", "clear", "night", "--expected-revision", "1")
    assert late.code == 1 and "was changed since you saw it" in late.err
    lab.json("queue", "resume", "night")
    for scan_id in (scans[0], scans[2]):
        until_status(lab, scan_id, "completed")
    types = [event["type"] for event in lab.json("queue", "log", "night")]
    assert {"queue.job_moved.v1", "queue.job_removed.v1", "queue.job_prioritised.v1"} <= set(types)
    assert lab.json("job", "show", scans[1])["state"] == "cancelled"


def test_the_books_of_samples_and_equipment(lab: RunningLab) -> None:
    lab.json("sample", "register", "S1", "--material", "Si")
    lab.json("sample", "tag", "S1", "cleaned", "batch-8")
    lab.json("sample", "untag", "S1", "cleaned")
    assert lab.json("sample", "show", "S1")["tags"] == ["batch-8"]
    assert [one["sample_id"] for one in lab.json("sample", "list", "--tag", "batch-8")] == ["S1"]
    lab.json("equipment", "calibrate", "lockin", "--certificate", "K-1", "--due", "2099-01-01")
    lab.json("equipment", "maintain", "lockin", "new fan")
    lab.json("equipment", "set-status", "lockin", "maintenance", "--reason", "in the workshop")
    shown = lab.json("equipment", "show", "lockin")
    assert (shown["status"], shown["calibration"]["certificate"]) == ("maintenance", "K-1")
    refused = lab.cli(*LINE, "--set", "meter=lockin", "--set", 'read=["r"]')
    assert refused.code == 1 and "in maintenance: in the workshop" in refused.err
    lab.json("equipment", "set-status", "lockin", "available")


def test_exit_codes_say_what_kind_of_no_it_was(lab: RunningLab, tmp_path: Path) -> None:
    assert lab.program("scan", "pause", "last-but-one").code == 1
    invalid = lab.program("send", "scan.pause", '{"scan": 1}', "--json")
    assert invalid.code == 2
    assert [problem["where"] for problem in invalid.json["outcome"]["problems"]] == ["scan_id", "scan"]
    assert lab.cli("scan", "submit").code == 2
    assert lab.cli("scan", "frobnicate").code == 2
    bad_plan = lab.program("scan", "submit", "-", stdin='{"nodes": []}')
    assert bad_plan.code == 2 and "give at least one node" in bad_plan.err
    nowhere = labledger("scan", "list", "--data", str(tmp_path / "no-lab"))
    assert nowhere.code == 3 and "labledger up" in nowhere.err
    assert labledger("scan", "list", "--url", "nats://127.0.0.1:9").code == 3
    seal = tmp_path / "wrong.seal.json"
    lab.json("audit", "seal", "-o", str(seal))
    told = json.loads(seal.read_text())
    seal.write_text(json.dumps(told | {"root": "0" * 64}))
    altered = lab.program("audit", "verify", "--seal", str(seal))
    assert altered.code == 4 and f"event {told['sequence']}" in altered.err


def test_an_unknown_command_is_parked_listed_and_dropped(lab: RunningLab) -> None:
    answer = lab.cli("send", "nonsense.do", "{}", "--json")
    assert answer.code == 5
    parked_id = answer.json["outcome"]["parked_id"]
    assert parked_id in [one["parked_id"] for one in lab.json("parked", "list")]
    lab.json("parked", "drop", parked_id)
    assert parked_id not in [one["parked_id"] for one in lab.json("parked", "list")]
    assert lab.json("parked", "show", parked_id)["state"] == "dropped"


def test_the_same_command_id_has_the_same_outcome(lab: RunningLab) -> None:
    words = ("send", "sample.register", '{"sample_id": "twice", "material": "Au"}', "--id", "my-own-id-1")
    assert lab.json(*words) == lab.json(*words)


def test_a_seal_verifies_later_and_history_is_whole(lab: RunningLab, tmp_path: Path) -> None:
    lab.json("audit", "seal", "-o", str(tmp_path / "seal.json"))
    lab.json("sample", "register", "after-the-seal", "--material", "Au")
    report = lab.json("audit", "verify", "--seal", str(tmp_path / "seal.json"))
    assert report["ok"] and report["seals"] == 1


def test_events_can_be_told_since_a_sequence(lab: RunningLab) -> None:
    outcome = lab.json("sample", "register", "told", "--material", "Au")
    answer = lab.cli("events", "--since", str(outcome["sequence"] - 1), "--kind", "sample", "--json")
    first = answer.lines[0]
    assert (first["sequence"], first["type"], first["data"]["sample_id"]) == (
        outcome["sequence"],
        "sample.registered.v1",
        "told",
    )
    assert first["actor"]


def test_one_thing_can_be_seen_as_of_a_sequence(lab: RunningLab) -> None:
    before = lab.json("sample", "register", "past", "--material", "Au")["sequence"]
    lab.json("sample", "tag", "past", "later")
    assert lab.json("as-of", "sample/past", "--seq", str(before))["tags"] == []
    assert lab.json("sample", "show", "past")["tags"] == ["later"]


def test_settings_and_the_state_of_the_machine_can_be_asked_for(lab: RunningLab) -> None:
    settings = {one["name"]: one for one in lab.json("config")}
    assert settings["data_dir"]["source"] == "LABLEDGER_DATA_DIR"
    doctor = lab.cli("doctor", "--role", "commands", "--json")
    assert doctor.code == 0, doctor
    assert {"NATS", "streams", "Postgres"} <= {check["name"] for check in doctor.json}


def test_a_table_can_be_seen_as_of_a_sequence_or_a_time(lab: RunningLab) -> None:
    before = lab.json("sample", "register", "then", "--material", "Au")["sequence"]
    after = lab.json("sample", "tag", "then", "now")["sequence"]
    then = {row["sample_id"]: row for row in lab.json("as-of", "samples", "--seq", str(before))}
    now = {row["sample_id"]: row for row in lab.json("as-of", "samples", "--seq", str(after))}
    assert (then["then"]["tags"], now["then"]["tags"]) == ([], ["now"])
    assert lab.json("as-of", "samples", "--time", "2020-01-01") == []
    assert lab.cli("as-of", "samples").code == 2
    unknown = lab.cli("as-of", "sandwiches", "--seq", "1")
    assert unknown.code == 2 and "samples" in unknown.err


def test_a_read_model_built_anew_equals_the_live_one_and_takes_its_place(lab: RunningLab) -> None:
    compared = lab.json("rebuild", "all", "--compare")
    assert all(table["equal"] for table in compared)
    assert {table["name"] for table in compared} >= {"scans", "readings", "queues", "samples"}
    first = lab.json("rebuild", "samples")[0]["generation"]
    assert lab.json("rebuild", "samples")[0]["generation"] == first + 1
    assert lab.json("rebuild", "samples", "--compare")[0]["equal"]
