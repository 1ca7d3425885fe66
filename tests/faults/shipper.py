"""A process that ships with an adapter, and is killed while it does."""

import json
import os
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.faults.nursery import ROOT, Forked, nursery

PATIENCE_S = 120.0


class Shipper:
    """`tests.doubles.shipping` over a folder of orders, started and killed as often as one likes."""

    def __init__(self, folder: Path, adapter: str, options: Mapping[str, Any], environ: Mapping[str, str], **more: Any):
        self.folder = folder
        self.kills = 0
        folder.mkdir(parents=True, exist_ok=True)
        told = {"adapter": adapter, "options": options, "environ": environ} | more
        (folder / "target.json").write_text(json.dumps(told))
        self._process: Forked | None = None

    def order(self, number: int, path: Path | None, key: str = "", options: Mapping[str, Any] | None = None) -> None:
        told = {"path": str(path) if path is not None else None, "key": key, "options": options or {}}
        (self.folder / f"{number:03}.json").write_text(json.dumps(told))

    def start(self) -> None:
        words, log = [str(self.folder)], self.folder / "log"
        self._process = nursery().start("tests.doubles.shipping:main", words, env=os.environ, cwd=ROOT, log=log)

    def kill(self) -> None:
        """SIGKILL, and its end awaited."""
        assert self._process is not None
        if self._process.poll() is None:
            self.kills += 1
        self._process.kill()
        self._process.wait()

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill_when(self, condition: Callable[[], bool]) -> None:
        self.start()
        wait_for(condition, self.log)
        self.kill()

    def finish(self) -> list[dict[str, Any]]:
        """Let it come to its end; answers the receipts."""
        self.start()
        wait_for(lambda: not self.running(), self.log)
        assert self._process is not None and self._process.returncode == 0, self.log()
        return self.receipts()

    def storm(self, kills: int, chance: random.Random) -> list[dict[str, Any]]:
        """Killed so often, at moments that nobody chose, then let come to its end.

        A moment is a number of attempts begun, not of seconds: however fast the machine, each kill meets work.
        """
        share = len(list(self.folder.glob("*.json"))) // (kills + 2)
        for _ in range(kills):
            wanted = self.begun() + chance.randint(1, share)
            self.kill_when(lambda wanted=wanted: self.begun() >= wanted)
        return self.finish()

    def begun(self) -> int:
        """Attempts so far, of all orders together."""
        return sum(int(path.read_text()) for path in self.folder.glob("*.attempts"))

    def receipts(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*.receipt"))]

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text()[-4000:] if path.exists() else ""

    def close(self) -> None:
        if self.running():
            assert self._process is not None
            self._process.kill()
            self._process.wait()


def wait_for(condition: Callable[[], bool], log: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, log()
        time.sleep(0.005)


def make_files(folder: Path, count: int, size: int) -> list[Path]:
    """Files that differ, in content and in size."""
    folder.mkdir()
    paths = [folder / f"plot-{n:03}.png" for n in range(count)]
    for n, path in enumerate(paths):
        path.write_bytes(os.urandom(size + n))
    return paths
