"""The examples run against a real lab: `labledger up` with simulated instruments, as anybody would start it.

They know nothing of our package, so they prove docs/contracts.md: where to connect, how to order, how to read, how to verify.
"""

import ast
import asyncio
import dataclasses
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from labledger.docs import ConnectionFile

ROOT = Path(__file__).resolve().parents[2]
PYTHON, NODE = ROOT / "examples" / "foreign_service.py", ROOT / "examples" / "foreign_service.mjs"


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


foreign = _load(PYTHON)


async def _station_is_ready(connection: Path) -> bool:
    """True once the books know the instruments: the station enters them when it holds their leases."""
    nc, _ = await foreign.connect(connection)
    try:
        return bool([event async for event in foreign.history(nc, "evt.equipment.meter")])
    finally:
        await nc.close()


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A lab that is up, by the connection.json that it wrote."""
    folder = tmp_path_factory.mktemp("examples")
    environ = {key: value for key, value in os.environ.items() if not key.startswith("LABLEDGER_")}
    environ["PYTHONPATH"] = str(ROOT)
    log = folder / "up.log"
    with log.open("w") as out:
        up = subprocess.Popen(
            [sys.executable, "-m", "labledger", "up", "--data", str(folder / "lab"), "--simulate"],
            cwd=folder,
            env=environ,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    path = folder / "lab" / "connection.json"
    try:
        deadline = time.monotonic() + 90
        while True:
            assert up.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"the lab did not come up:\n{log.read_text()}"
            try:
                if path.exists() and asyncio.run(_station_is_ready(path)):
                    break
            except Exception as error:  # the server is just starting
                log.open("a").write(f"(not yet: {error!r})\n")
            time.sleep(0.3)
        yield path
    finally:
        up.send_signal(signal.SIGTERM)
        try:
            up.wait(30)
        except subprocess.TimeoutExpired:
            up.kill()
            up.wait(10)


def _expect(lines: list[str], scan_id: str) -> None:
    assert f"scan {scan_id}: accepted" in lines
    assert "the same order again: the same outcome: true" in [line.lower() for line in lines]
    types = [line.split()[1] for line in lines if line.endswith(".v1") and line.split()[0].isdigit()]
    assert types == ["scan.requested.v1", "scan.started.v1", "scan.completed.v1"]
    assert "readings: 21" in lines
    (chain,) = (line for line in lines if line.startswith("chain verified"))
    assert chain.startswith("chain verified: 3 events of the scan, ")


def test_the_connection_file_is_as_promised_and_private(connection: Path) -> None:
    told = ConnectionFile.model_validate_json(connection.read_text())
    assert told.nats is not None
    assert {"publisher", "dashboard", "auditor"} <= set(told.nats.users)
    assert stat.S_IMODE(connection.stat().st_mode) == 0o600


def test_a_foreign_service_in_python_orders_follows_and_verifies_a_scan(connection: Path) -> None:
    scan_id = str(uuid.uuid4())
    done = subprocess.run(
        [sys.executable, str(PYTHON), str(connection), scan_id], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _expect(done.stdout.splitlines(), scan_id)


def test_a_foreign_service_in_javascript_does_the_same(
    connection: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With the package `nats` of the npm registry; skipped where there is no Node or no registry."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("no Node.js here")
    folder = tmp_path_factory.mktemp("node")
    shutil.copy(NODE, folder)
    install = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), "nats@2"]
    try:
        installed = subprocess.run(install, capture_output=True, text=True, timeout=120, cwd=folder, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("the npm registry does not answer")
    if installed.returncode:
        pytest.skip(f"the package nats cannot be installed: {installed.stderr[-300:]}")
    scan_id = str(uuid.uuid4())
    done = subprocess.run(
        [node, str(folder / NODE.name), str(connection), scan_id],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _expect(done.stdout.splitlines(), scan_id)


def test_an_event_that_was_altered_does_not_verify(connection: Path) -> None:
    async def read() -> list[Any]:
        nc, _ = await foreign.connect(connection)
        events = [event async for event in foreign.history(nc, "evt.queue.example")]
        if not events:
            await foreign.order(nc, "queue.create", {"queue_id": "example"}, str(uuid.uuid4()), "test")
        for number in range(2):
            configure = {"queue_id": "example", "title": f"{number} {uuid.uuid4()}"}
            outcome = await foreign.order(nc, "queue.configure", configure, str(uuid.uuid4()), "test")
            assert outcome["outcome"] == "accepted", outcome
        events = [event async for event in foreign.history(nc, "evt.queue.example")]
        await nc.close()
        return events

    events = asyncio.run(read())
    assert len(events) >= 3
    foreign.verify(events)
    middle = events[1]
    body = dataclasses.replace(middle, body=middle.body.replace(b"example", b"eXample"))
    actor = dataclasses.replace(middle, headers={**middle.headers, "ce-actor": "somebody else"})
    for altered in ([events[0], body, *events[2:]], [events[0], actor, *events[2:]]):
        with pytest.raises(ValueError, match=f"event {middle.sequence} is not what was written"):
            foreign.verify(altered)
    with pytest.raises(ValueError, match="does not follow"):
        foreign.verify([events[0], *events[2:]])


def test_an_outsider_cannot_write_an_event(connection: Path) -> None:
    async def try_it() -> bool:
        nc, _ = await foreign.connect(connection)
        try:
            await nc.request("evt.scan.forged", b"{}", timeout=1)
        except Exception:
            return [event async for event in foreign.history(nc, "evt.scan.forged")] == []
        finally:
            await nc.close()
        return False

    assert asyncio.run(try_it())


def test_the_example_needs_nothing_of_ours() -> None:
    tree = ast.parse(PYTHON.read_text())
    roots = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert roots - set(sys.stdlib_module_names) == {"nats"}
