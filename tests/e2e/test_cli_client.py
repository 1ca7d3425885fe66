"""The Python client on a running lab: what the command line does, from a program."""

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from adapters.storage.local import LocalBlobs
from labledger.client import CommandRefused, Lab, NotAllowed, NotDone
from tests.e2e.cli import RunningLab, in_process

PLAN: dict[str, Any] = {
    "nodes": [
        {
            "kind": "move",
            "instrument": "stage",
            "channel": "x",
            "positions": {"kind": "linear", "start": 0, "stop": 1, "num": 250},
            "settle_s": 0.002,
            "children": [{"kind": "measure", "instrument": "meter", "channels": ["voltage"]}],
        }
    ]
}


async def test_watch_misses_no_frame_and_tells_none_twice(lab: RunningLab) -> None:
    async with Lab.connect(lab.folder, actor="ann") as client:
        scan_id = await client.scans.submit(PLAN, frame={"points": 5, "ms": 1000})
        seen = [progress async for progress in client.scans.watch(scan_id)]
        history = [*await client.history("scan", scan_id), *await client.history("readings", scan_id)]
    told = [progress.sequence for progress in seen]
    stored = sorted(event.seq for event in history)
    assert told == sorted(set(told))
    begun, ended = told[0], told[-1]
    assert told == [seq for seq in stored if begun <= seq <= ended]
    assert seen[-1].status == "completed" and seen[-1].points == 250


async def test_the_way_of_an_outside_service_by_address_and_user_alone(lab: RunningLab) -> None:
    told = json.loads((lab.folder / "connection.json").read_text())["nats"]
    user = told["users"]["publisher"]
    async with Lab.connect(url=told["url"], user=user["user"], password=user["password"], actor="robot") as client:
        scan_id = await client.scans.submit(PLAN, wait=True)
        readings = await client.readings(scan_id)
        first = (await client.history("scan", scan_id))[0]
    np.testing.assert_array_equal(readings["point"], np.arange(250))
    np.testing.assert_allclose(readings["stage.x"], np.linspace(0, 1, 250))
    assert first.actor == "robot"


async def test_who_may_not_send_commands_is_told_at_once(lab: RunningLab) -> None:
    told = json.loads((lab.folder / "connection.json").read_text())["nats"]
    user = told["users"]["dashboard"]
    login = {"url": told["url"], "user": user["user"], "password": user["password"]}
    async with Lab.connect(**login, timeout_s=600) as client, asyncio.timeout(60):
        with pytest.raises(NotAllowed, match=r"'dashboard' may not publish to cmd\.scan\.pause"):
            await client.scans.pause("A")


async def test_a_refusal_carries_its_outcome_and_its_reason(lab: RunningLab) -> None:
    async with Lab.connect(lab.folder) as client:
        scan_id = await client.scans.submit(PLAN, wait=True)
        with pytest.raises(CommandRefused, match="it can be restarted") as refused:
            await client.scans.pause(scan_id)
        assert refused.value.outcome.outcome == "refused"
        with pytest.raises(CommandRefused, match="exists already"):
            await client.scans.submit(PLAN, scan_id=scan_id)


async def test_waiting_for_a_scan_that_is_aborted_says_how_it_ended(lab: RunningLab) -> None:
    async with Lab.connect(lab.folder) as client:
        scan_id = await client.scans.submit(PLAN)
        waiting = asyncio.create_task(client.scans.wait(scan_id, timeout_s=30))
        await asyncio.sleep(0.2)
        await client.scans.abort(scan_id, "enough")
        with pytest.raises(NotDone, match="enough"):
            await waiting


async def test_what_was_written_can_be_read_from_the_read_models_after_waiting_for_it(lab: RunningLab) -> None:
    async with Lab.connect(lab.folder) as client:
        for number in range(10):
            outcome = await client.samples.register(f"own-write-{number}", "Au")
            await client.wait_for(outcome.sequence, ["samples"])
            rows = await client.query(
                "select material from labledger.samples where sample_id = %s", [f"own-write-{number}"]
            )
            assert rows == [{"material": "Au"}]


async def test_events_go_on_after_the_connection_was_lost(lab: RunningLab) -> None:
    async with Lab.connect(lab.folder) as client, Lab.connect(lab.folder) as other:
        start = await client.last_sequence()
        seen: list[str] = []

        async def listen() -> None:
            async for stored in client.events("evt.sample.*", start):
                seen.append(stored.id)

        listening = asyncio.create_task(listen())
        await other.samples.register("before-the-cut", "Au")
        # The transport goes away under the client, as with a cable pulled; what is said meanwhile is read afterwards.
        transport = client.bus.nc._transport  # pyright: ignore[reportPrivateUsage]
        assert transport is not None
        transport.close()
        await other.samples.register("during-the-cut", "Au")
        async with asyncio.timeout(20):
            while len(seen) < 2:
                await asyncio.sleep(0.05)
        await other.samples.register("after-the-cut", "Au")
        async with asyncio.timeout(20):
            while len(seen) < 3:
                await asyncio.sleep(0.05)
        listening.cancel()
    assert seen == ["before-the-cut", "during-the-cut", "after-the-cut"]


def test_a_notebook_needs_no_await(lab: RunningLab) -> None:
    with Lab.sync(lab.folder) as client:
        scan_id = client.scans.submit(PLAN)
        statuses = {progress.status for progress in client.scans.watch(scan_id)}
        assert "completed" in statuses
        readings = client.readings(scan_id)
        assert readings.points == 250 and readings.units["meter.voltage"] == "V"
        assert client.queues.get("main")["mode"] == "automatic"


def test_the_artifacts_of_a_scan_are_listed_and_written_as_files(lab: RunningLab, tmp_path: Path) -> None:
    async def measure() -> UUID:
        async with Lab.connect(lab.folder) as client, asyncio.timeout(90):
            scan_id = await client.scans.submit(PLAN, wait=True, title="for its artifacts")
            while len(await client.artifacts.list(scan=scan_id)) < 3:
                await asyncio.sleep(0.2)
            return scan_id

    scan_id = asyncio.run(measure())
    got = in_process("artifacts", "get", "--scan", str(scan_id), "-o", str(tmp_path), "--data", str(lab.folder))
    assert got.code == 0, got
    files = sorted(path.suffix for path in tmp_path.iterdir())
    assert files == [".json", ".parquet", ".png"]
    summary = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert summary["points"] == 250 and summary["title"] == "for its artifacts"

    # A file that somebody brings is an artifact too; the same again is the same one.
    note = tmp_path / "note.txt"
    note.write_text("the stage was cold")
    words = ("artifacts", "add", str(note), "--scan", str(scan_id), "--data", str(lab.folder), "--json")
    first, again = in_process(*words), in_process(*words)
    assert first.code == 0 and first.json == again.json
    listed = in_process(
        "artifacts", "list", "--scan", str(scan_id), "--role", "file", "--data", str(lab.folder), "--json"
    )
    assert [row["artifact_id"] for row in listed.json] == [first.json["artifact_id"]]
    out = tmp_path / "copy.txt"
    assert (
        in_process("artifacts", "get", first.json["artifact_id"], "-o", str(out), "--data", str(lab.folder)).code == 0
    )
    assert out.read_text() == "the stage was cold"

    LocalBlobs(lab.folder / "blobs").path(first.json["artifact_id"]).write_text("the stage was warm")
    damaged = in_process("artifacts", "get", first.json["artifact_id"], "-o", str(out), "--data", str(lab.folder))
    assert damaged.code == 4 and "damaged" in damaged.err
    assert out.read_text() == "the stage was cold"
