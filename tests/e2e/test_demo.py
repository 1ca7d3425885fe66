"""`labledger demo`, as a newcomer types it, but with fewer points."""

import re
import time
from pathlib import Path

import psutil

from tests.e2e.cli import labledger


def test_the_demo_runs_to_its_end_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    began = time.monotonic()
    # A grid of 40 x 40 takes 4 s here; the real one of 100 x 100 takes the same way.
    words = ("demo", "--data", str(folder), "--side", "40", "--outside", "tests.doubles.demo")
    done = labledger(*words, timeout_s=240)
    assert done.code == 0, done
    assert time.monotonic() - began < 200
    out = done.out
    assert re.search(r"kill -9 \d+", out)
    assert "station bench was killed (signal 9)" in out
    assert "scan.continued by the new process as attempt 2" in out
    assert "the first new points are durable" in out
    assert out.count("1,600") == 3  # in the plan, rows, different points
    assert re.search(r"grid 40 x 40, snake\s+completed\s+1,600\s+1,600\s+1,600\s+1 x\s+0\s+0", out)
    # One scan, to a target of each kind, each with a receipt that its target confirms.
    assert re.findall(r"^  (\w+) .* stored .* the same", out, flags=re.MULTILINE) == [
        "archive", "archive", "archive", "ipfs", "maskhub", "maskhub", "newest",
    ]  # fmt: skip
    assert re.search(r"ipfs://\w{59}", out) and "nats/pointers/W12-3:latest" in out
    assert re.search(r"hash chain\s+[\d,]+ events of \d+ aggregates verified", out)
    assert re.search(r"read models made anew .* all equal", out)
    assert "all is well" in out and "nothing is left running" in out
    assert (folder / "labledger.toml").exists()
    assert [p for p in psutil.process_iter() if str(folder) in " ".join(_words(p))] == []


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
