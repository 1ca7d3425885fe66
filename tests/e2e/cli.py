"""The command line as others use it: a program of its own, JSON on its output, an exit code.

Starting a program costs half a second, so what is not about starting it runs through the same entry in this process.
"""

import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from labledger.cli import app

ROOT = Path(__file__).resolve().parents[2]


def environ(**extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LABLEDGER_")}
    return kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "160"} | extra


def labledger(*words: str, stdin: str | None = None, cwd: Path | None = None, timeout_s: float = 60) -> "Answer":
    done = subprocess.run(
        [sys.executable, "-m", "labledger", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=cwd or Path("/"),
        env=environ(),
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def in_process(*words: str, stdin: str | None = None) -> "Answer":
    """The same by calling what the program calls."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    before, level, variables = sys.stdin, logging.getLogger("labledger.bus").level, dict(os.environ)
    sys.stdin = io.StringIO(stdin or "")
    os.environ.clear()
    os.environ.update(environ())
    try:
        with contextlib.chdir("/"), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            app()(list(words), prog_name="labledger")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdin = before
        os.environ.clear()
        os.environ.update(variables)
        logging.getLogger("labledger.bus").setLevel(level)
    return Answer(code, out.getvalue(), err.getvalue())


class Answer:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    def __repr__(self) -> str:
        return f"exit code {self.code}\n{self.out}\n{self.err}"


class RunningLab:
    """`labledger up` on a folder."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder = folder
        self.log = folder.parent / f"{folder.name}.out"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "labledger", "up", "--data", str(folder), "--json", *words],
                stdout=out,
                stderr=out,
                env=environ(),
                cwd="/",
                start_new_session=True,
            )
        deadline = time.monotonic() + 90
        while not any(line.get("up") for line in self.said):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    @property
    def said(self) -> list[dict[str, Any]]:
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [json.loads(line) for line in lines]

    @property
    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / "up.json").read_text())

    def pid(self, name: str) -> int:
        return next(it["pid"] for it in self.state["processes"] if it["name"] == name)

    def all_pids(self) -> set[int]:
        """Ours and those of everything below us, guards and workers of the servers included."""
        me = psutil.Process(self.process.pid)
        return {me.pid, *(child.pid for child in me.children(recursive=True))}

    def program(self, *words: str, **options: Any) -> Answer:
        """By a program of its own."""
        return labledger(*words, "--data", str(self.folder), **options)

    def cli(self, *words: str, stdin: str | None = None) -> Answer:
        return in_process(*words, "--data", str(self.folder), stdin=stdin)

    def json(self, *words: str, stdin: str | None = None) -> Any:
        answer = self.cli(*words, "--json", stdin=stdin)
        assert answer.code == 0, answer
        return answer.json

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def alive(pids: set[int]) -> set[int]:
    found: set[int] = set()
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.add(pid)
        except psutil.NoSuchProcess:
            continue
    return found


def gone(pids: set[int], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while alive(pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
