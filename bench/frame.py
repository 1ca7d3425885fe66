"""The frame of a bench run: finds the rows, measures reference and ours in turn, and gives the verdicts.

A row is a module in `bench/rows` with

    name, unit, reference_name      what the table says
    floor, aim                      what ours must and should reach: as a ratio to the reference, or, with
                                    `absolute = True`, as a value in `unit`; None where the design names none
    higher_is_better                False for times and memory
    reference(bench) -> number      one repetition; async or plain (a plain one runs in a thread)
    ours(bench) -> number           the same under the same conditions

and optionally `absolute`; `syncs` (server modes to measure: the first is judged, the others are shown); `repeat`
(repetitions at least, 3). A row without a reference has only absolute numbers.
"""

import asyncio
import gc
import importlib
import inspect
import json
import os
import pkgutil
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

from bench.servers import NatsServer, Postgres, Sync

T = TypeVar("T")
Verdict = Literal["aim met", "floor met", "below aim", "below floor", "told", "not wired", "missing", "failed"]
#: Verdicts that make the run exit non-zero.
BAD: frozenset[Verdict] = frozenset({"below floor", "not wired", "missing", "failed"})
PEERS = Path(__file__).parent / "peers"


class PeerMissing(Exception):
    """The system to compare with is not installed; the text says how to install it."""


@dataclass
class Row:
    """A row's module, read once and checked."""

    key: str
    name: str
    unit: str
    floor: float | None
    aim: float | None
    reference_name: str
    higher_is_better: bool
    absolute: bool
    syncs: tuple[Sync, ...]
    repeat: int
    reference: Callable[["Bench"], Any] | None
    ours: Callable[["Bench"], Any] | None

    @classmethod
    def of(cls, module: ModuleType) -> "Row":
        """Raises AttributeError, with the file's name, when the module is not a row."""
        row = cls(
            key=module.__name__.rpartition(".")[2],
            name=module.name,
            unit=module.unit,
            floor=module.floor,
            aim=module.aim,
            reference_name=module.reference_name,
            higher_is_better=module.higher_is_better,
            absolute=getattr(module, "absolute", False),
            syncs=getattr(module, "syncs", ("always",)),
            repeat=getattr(module, "repeat", 3),
            reference=getattr(module, "reference", None),
            ours=getattr(module, "ours", None),
        )
        if row.reference is None and not row.absolute:
            raise AttributeError(f"{module.__name__} is a ratio and has no `reference`")
        return row


def rows() -> list[Row]:
    """Every row in `bench/rows`, in the order of their file names."""
    import bench.rows

    found = sorted(module.name for module in pkgutil.iter_modules(bench.rows.__path__))
    return [Row.of(importlib.import_module(f"bench.rows.{name}")) for name in found]


@dataclass
class Bench:
    """What a row is given: servers, sizes, peers. Servers live as long as the row; Postgres as long as the run."""

    folder: Path
    quick: bool = False
    peers_python: str | None = None
    sync: Sync = "always"
    notes: dict[str, Any] = field(default_factory=dict[str, Any])
    _postgres: Postgres | None = None
    _kept: dict[str, Any] = field(default_factory=dict[str, Any])
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def size(self, full: int, quick: int) -> int:
        """How many: of a complete run, or of a quick one."""
        return quick if self.quick else full

    def note(self, key: str, value: Any) -> None:
        """Something worth telling beside the number; it goes to results.json, and the last one of a key wins."""
        self.notes[key] = value

    def new_folder(self, prefix: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=self.folder))

    async def once(self, key: str, make: Callable[[], Awaitable[T]], close: Callable[[T], Any] | None = None) -> T:
        """The thing of that name, made at its first use in this row; closed (async or not) at the row's end."""
        if key not in self._kept:
            made = self._kept[key] = await make()

            async def end() -> None:
                done = close(made) if close else None
                if inspect.isawaitable(done):
                    await done

            self._stack.push_async_callback(end)
        return self._kept[key]

    async def nats(self) -> NatsServer:
        """This row's nats-server, syncing as the row asks: one for reference and ours."""

        async def start() -> NatsServer:
            return await asyncio.to_thread(NatsServer, self.new_folder("nats") / "server", self.sync)

        return await self.once("nats", start, NatsServer.close)

    async def postgres(self) -> Postgres:
        if self._postgres is None:
            self._postgres = await asyncio.to_thread(Postgres, self.new_folder("pg") / "server")
        return self._postgres

    async def peer(self, script: str, packages: tuple[str, ...], *args: object, stdin: str = "") -> dict[str, Any]:
        """Run `bench/peers/<script>.py` in a child and give the JSON line that it printed.

        Raises PeerMissing when no interpreter has the packages, RuntimeError when the script fails.
        """
        python = self._python_with(packages)
        # No `-m` and no cwd on the path: a peer must find the real packages, and nothing of ours.
        command = [python, "-P", str(PEERS / f"{script}.py"), *map(str, args)]
        env = {**os.environ, "PYTHONWARNINGS": "ignore", "MPLBACKEND": "agg"}
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            cwd=self.folder,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 300)
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            raise RuntimeError(f"{script} failed: {err.decode()[-1500:]}")
        result: dict[str, Any] = json.loads(out.decode().strip().splitlines()[-1])
        self.note("peer", {key: value for key, value in result.items() if key != "value"})
        return result

    def _python_with(self, packages: tuple[str, ...]) -> str:
        code = "import importlib.util as u, sys; sys.exit(any(u.find_spec(p) is None for p in sys.argv[1:]))"
        for python in filter(None, (self.peers_python, sys.executable)):
            if subprocess.run([python, "-P", "-c", code, *packages], capture_output=True, check=False).returncode == 0:
                return python
        raise PeerMissing(
            f"{', '.join(packages)} not installed: pip install 'labledger[bench]', here or in a venv of its own "
            "given with --peers-python"
        )

    async def end_row(self) -> None:
        await self._stack.aclose()
        self._stack, self._kept, self.notes = AsyncExitStack(), {}, {}

    def close(self) -> None:
        if self._postgres is not None:
            self._postgres.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def judge(value: float, floor: float | None, aim: float | None, higher_is_better: bool) -> Verdict:
    """The best that the value meets; `below aim` where the design names no floor; `told` where it asks for nothing."""

    def met(bound: float) -> bool:
        return value >= bound if higher_is_better else value <= bound

    if aim is not None and met(aim):
        return "aim met"
    if floor is not None:
        return "floor met" if met(floor) else "below floor"
    return "told" if aim is None else "below aim"


async def call(side: Callable[[Bench], Any], bench: Bench) -> float:
    """One repetition. What earlier ones left to collect is collected first, outside of the measured time."""
    gc.collect()
    if inspect.iscoroutinefunction(side):
        return float(await side(bench))
    return float(await asyncio.to_thread(side, bench))


@dataclass
class Measured:
    reference: list[float] = field(default_factory=list[float])
    ours: list[float] = field(default_factory=list[float])


async def measure(row: Row, bench: Bench, repeat: int, with_ours: bool) -> Measured:
    """A B A B A B: each pair meets the same minute of the machine."""
    got = Measured()
    for _ in range(repeat):
        if row.reference is not None:
            got.reference.append(await call(row.reference, bench))
        if with_ours and row.ours is not None:
            got.ours.append(await call(row.ours, bench))
    return got


def summary(row: Row, got: Measured, judged: bool = True) -> dict[str, Any]:
    """The numbers of a row: medians, their ratio, ranges, verdict. The ratio's range is that of the pairs."""
    middle: dict[str, float | None] = {}
    ranges: dict[str, list[float]] = {}
    for side, values in (("reference", got.reference), ("ours", got.ours)):
        middle[side] = statistics.median(values) if values else None
        if values:
            ranges[side] = [min(values), max(values)]
    ours, reference = middle["ours"], middle["reference"]
    ratio: float | None = None
    if ours is not None and reference:
        ratio = ours / reference
        pairs = [o / r for o, r in zip(got.ours, got.reference, strict=True)]
        ranges["ratio"] = [min(pairs), max(pairs)]
    verdict: Verdict
    decisive = ours if row.absolute else ratio
    if row.ours is None:
        verdict = "not wired"
    elif decisive is None or not judged:
        verdict = "told"
    else:
        verdict = judge(decisive, row.floor, row.aim, row.higher_is_better)
    return {"ours": ours, "reference": reference, "ratio": ratio, "verdict": verdict, "ranges": ranges}


async def run_row(row: Row, bench: Bench, with_ours: bool) -> list[dict[str, Any]]:
    """The results of a row: one, and one for each further server mode. A failure is a result too."""
    results: list[dict[str, Any]] = []
    for sync in row.syncs[:1] if bench.quick else row.syncs:
        judged = sync == row.syncs[0]
        bench.sync = sync
        result: dict[str, Any] = {
            "key": row.key,
            "name": row.name if judged else f"{row.name} (sync {sync})",
            "unit": row.unit,
            "ours": None,
            "reference": None,
            "reference_name": row.reference_name,
            "ratio": None,
            "floor": row.floor if judged else None,
            "aim": row.aim if judged else None,
            "absolute": row.absolute,
            "higher_is_better": row.higher_is_better,
            "ranges": {},
        }
        started = time.monotonic()
        try:
            got = await measure(row, bench, 1 if bench.quick else row.repeat, with_ours)
            result |= summary(row, got, judged)
            if not with_ours:
                result["verdict"] = "told"
        except PeerMissing as missing:
            result |= {"verdict": "missing", "why": str(missing)}
        except Exception as error:  # the other rows go on; this one says why
            result |= {"verdict": "failed", "why": f"{type(error).__name__}: {error}"}
        finally:  # also when the run is interrupted: its servers must not outlive it
            result["notes"] = {**bench.notes, "sync": sync, "took_s": round(time.monotonic() - started, 1)}
            await bench.end_row()
        result["at"] = datetime.now(UTC).isoformat(timespec="seconds")
        results.append(result)
    return results
