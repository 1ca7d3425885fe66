"""`labledger up`: a whole lab by one command, and nothing of it left when it ends, however it ends."""

import os
import signal
import stat
import time
from pathlib import Path

from tests.e2e.cli import RunningLab, alive, gone, labledger


def test_a_lab_comes_up_heals_itself_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    lab = RunningLab(tmp_path / "lab", "--simulate")
    try:
        names = {it["name"] for it in lab.state["processes"]}
        assert names == {"nats-server", "postgres", "commands", "projections", "station sim", "extract 1"}
        assert stat.S_IMODE((lab.folder / "connection.json").stat().st_mode) == 0o600
        assert [it["queue_id"] for it in lab.json("queue", "list")] == ["main"]

        second = lab.cli("up")
        assert second.code == 1
        assert "is in use" in second.err and str(lab.process.pid) in second.err

        first = lab.pid("station sim")
        os.kill(first, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while lab.pid("station sim") == first or lab.json("station", "show", "sim")["pid"] == first:
            assert time.monotonic() < deadline, lab.said
            time.sleep(0.1)
        assert any("killed (signal 9)" in line.get("notice", "") for line in lab.said)

        everything = lab.all_pids()
        assert lab.stop() == 0
        assert alive(everything) == set()
        assert not (lab.folder / "up.json").exists()
    finally:
        lab.stop()


def test_kill_9_of_the_supervisor_leaves_no_process_behind_and_the_lab_starts_again(tmp_path: Path) -> None:
    lab = RunningLab(tmp_path / "lab", "--simulate")
    lab.json("sample", "register", "W1", "--material", "GaAs")
    everything = lab.all_pids()
    assert len(everything) > 8
    lab.process.kill()
    lab.process.wait()
    assert gone(everything, within_s=20), alive(everything)

    again = RunningLab(tmp_path / "lab", "--simulate")
    try:
        assert again.json("sample", "show", "W1")["material"] == "GaAs"
    finally:
        assert again.stop() == 0


def test_a_detached_lab_is_ended_by_down(tmp_path: Path) -> None:
    folder = str(tmp_path / "lab")
    up = labledger("up", "--data", folder, "--detach", "--json", timeout_s=120)
    assert up.code == 0, up
    try:
        assert labledger("up", "--data", folder, "--detach").code == 1
        stations = labledger("station", "list", "--data", folder, "--json")
        assert stations.json == []
    finally:
        down = labledger("down", "--data", folder, "--json")
    assert down.json == {"ended": True, "pid": up.json["pid"]}
    assert labledger("down", "--data", folder).code == 1


def test_settings_that_are_wrong_are_said_with_the_place_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "labledger.toml").write_text("[lease]\nttl = 5\n")
    answer = labledger("up", "--config", str(tmp_path / "labledger.toml"), "--data", str(tmp_path / "lab"))
    assert answer.code == 2
    assert "lease.ttl" in answer.err and "lease.ttl_s" in answer.err


def test_a_station_without_instruments_says_what_to_add(tmp_path: Path) -> None:
    (tmp_path / "labledger.toml").write_text("[stations.bench.instruments]\n")
    answer = labledger("run", "station", "bench", "--config", str(tmp_path / "labledger.toml"))
    assert answer.code == 2
    assert "[stations.bench.instruments.NAME]" in answer.err
