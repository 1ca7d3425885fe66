"""From a completed scan to its three artifacts, through the queue and a worker with a real process."""

import io
import json
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow.parquet as pq
import pytest_asyncio

from bus.envelope import Head, Meta, Stored
from bus.reactions import Reaction
from bus.store import Change
from domain.events import Event
from domain.job import Job
from handlers.make_artifacts import ARTIFACTS, job_of, make_artifacts
from tests.artifacts import SCAN, linear, measured
from tests.artifacts import measure as reads
from tests.artifacts import move as moves
from tests.integration.bus.place import Place, everything, until
from tests.integration.handlers.lab import Lab, config, line, measure, move
from tests.integration.handlers.worker import RunningWorker


class Makers:
    """Workers, and what is to be seen of their artifacts."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.workers: list[RunningWorker] = []

    async def worker(self) -> RunningWorker:
        worker = await RunningWorker(self.lab, self.folder, 1).start()
        self.workers.append(worker)
        return worker

    async def job(self, scan_id: str, *states: str) -> Job:
        scan = await self.lab.scan(scan_id)
        assert scan.scan_id is not None
        job_id = str(job_of(scan.scan_id, scan.attempt))

        async def there() -> Job | None:
            job: Job = (await self.lab.reader.refresh("job", job_id)).state
            return job if job.state in states else None

        return await until(there, 60, f"artifacts {' or '.join(states)}")

    async def registered(self) -> list[dict[str, Any]]:
        found = await everything(self.lab.reader.store.bus, "evt.artifact.>")
        return [json.loads(stored.data) for stored in found]


@pytest_asyncio.fixture
async def makers(lab: Lab, tmp_path: Path) -> AsyncIterator[Makers]:
    makers = Makers(lab, tmp_path)
    yield makers
    for worker in makers.workers:
        await worker.stop()


async def test_a_completed_scan_leaves_its_three_artifacts(makers: Makers) -> None:
    lab = makers.lab
    await lab.station(
        stage=config("stage", lab.world), s=config("spectrometer", lab.world), m=config("multimeter", lab.world)
    )
    await makers.worker()
    plan = {"nodes": [move("stage", "x", 0, 10, 12, measure("m", "voltage"), measure("s", "spectrum", "wavelength"))]}
    scan_id = await lab.request(plan, title="a line of spectra")
    await lab.reaches(scan_id, "completed")
    job = await makers.job(scan_id, "succeeded")
    found = {one["role"]: one for one in await makers.registered()}
    assert set(found) == {"raw_data", "plot", "summary"} and {one["scan_id"] for one in found.values()} == {scan_id}
    assert job.submitted is not None and job.submitted.queue_id == ARTIFACTS
    table: Any = pq.read_table(io.BytesIO(lab.blobs.get(found["raw_data"]["artifact_id"])))
    assert table["point"].to_pylist() == list(range(12))
    assert [len(one) for one in table["s.spectrum"].to_pylist()] == [256] * 12
    readings = [s for s in await lab.reader.store.history("readings", scan_id) if ".recorded." in s.type]
    recorded = [value for stored in readings for value in stored.event.model_dump()["values"][1]]
    assert table["m.voltage"].to_pylist() == recorded
    summary = json.loads(lab.blobs.get(found["summary"]["artifact_id"]))
    assert summary["points"] == 12 and summary["raw_data"]["sha256"] == found["raw_data"]["artifact_id"]
    assert lab.blobs.get(found["plot"]["artifact_id"]).startswith(b"\x89PNG")
    # All of it was said at once: the three follow each other, and then their job's end.
    types = [stored.type.rpartition(".v")[0] for stored in await everything(lab.reader.store.bus)]
    at = types.index("artifact.registered")
    assert types[at : at + 4] == ["artifact.registered"] * 3 + ["job.succeeded"]


async def test_a_worker_that_dies_in_between_leaves_the_same_three_once(makers: Makers) -> None:
    lab = makers.lab
    await lab.station(t=config("trivial", lab.world))
    scan_id = await lab.request(line(300))
    await lab.reaches(scan_id, "completed")
    dying = await makers.worker()
    makers.workers.remove(dying)
    await makers.job(scan_id, "running")
    # Its process is at work, or has not even begun: the attempt ends without a word in any case.
    await dying.vanish()
    await makers.worker()
    job = await makers.job(scan_id, "succeeded")
    assert job.attempt == 2
    found = await makers.registered()
    assert sorted(one["role"] for one in found) == ["plot", "raw_data", "summary"]
    # Made once more from the same events they are the same bytes.
    spec = {"scan_id": scan_id, "sequence": (await lab.reader.store.history("scan", scan_id))[-1].seq}
    again = await makers.workers[0].pool.run(ARTIFACTS, spec, lambda *_: None, 60)
    assert {one["artifact_id"] for one in again["artifacts"]} == {one["artifact_id"] for one in found}


async def test_asked_twice_they_are_made_once_and_a_restarted_scan_leaves_three_more(makers: Makers) -> None:
    lab = makers.lab
    await lab.station(t=config("trivial", lab.world))
    await makers.worker()
    scan_id = await lab.request(line(5))
    await lab.reaches(scan_id, "completed")
    await makers.job(scan_id, "succeeded")
    completed: Stored = (await lab.reader.store.history("scan", scan_id))[-1]
    await make_artifacts(
        completed.event, Reaction(completed, await lab.place.ledger("commands"), Meta.new("again"), {})
    )
    told = await lab.history("job", str(job_of(UUID(scan_id), 1)))
    assert [verb for verb in told if verb != "progressed"] == ["submitted", "started", "succeeded"]
    assert len(await makers.registered()) == 3

    restarted = await lab.order("scan.restart", scan_id=scan_id)
    assert restarted.outcome == "accepted"
    await until(lambda: _attempt(lab, scan_id, 2), 20, "the second round")
    await makers.job(scan_id, "succeeded")
    raw = [one["artifact_id"] for one in await makers.registered() if one["role"] == "raw_data"]
    tables: list[Any] = [pq.read_table(io.BytesIO(lab.blobs.get(sha256))) for sha256 in raw]
    assert [table["attempt"].to_pylist() for table in tables] == [[1] * 5, [2] * 5]


async def _attempt(lab: Lab, scan_id: str, number: int) -> bool:
    scan = await lab.scan(scan_id)
    return scan.status == "completed" and scan.attempt == number


async def test_200_000_points_take_less_than_300_mb(place: Place, lab: Lab, makers: Makers) -> None:
    points = 200_000
    nodes = [
        moves(
            "stage",
            "y",
            linear(0, 10, 400),
            moves("stage", "x", linear(0, 10, 500), reads("dmm", "voltage", "current")),
        )
    ]
    values = np.sin(np.arange(points) / 700)

    def read(_: int, k: int, __: Mapping[str, Any]) -> dict[str, Any]:
        return {"dmm.voltage": float(values[k]), "dmm.current": 1e-6 * k}

    scan = measured(nodes, read, lab.blobs, per_frame=100)
    store = await place.store()
    sequence = 0
    for kind, events in (("readings", scan.events), ("scan", [stored.event for stored in scan.history])):
        head = Head()
        for n in range(0, len(events), 200):
            part: list[Event] = list(events[n : n + 200])
            written = await store.append([Change(kind, str(SCAN), part, head)], Meta.new("tests"))
            head = Head(written[-1].seq, written[-1].version, written[-1].hash)
            sequence = head.seq
    worker = await makers.worker()
    spec = {"scan_id": str(SCAN), "sequence": sequence}
    found = await worker.pool.run(ARTIFACTS, spec, lambda *_: None, 120)
    if sys.platform.startswith("linux"):
        (pid,) = worker.pool.pids
        status = Path(f"/proc/{pid}/status").read_text()
        peak_mb = int(next(row.split()[1] for row in status.splitlines() if row.startswith("VmHWM"))) / 1024
        print(f"peak {peak_mb:.0f} MB")
        assert peak_mb < 300
    raw = next(one for one in found["artifacts"] if one["role"] == "raw_data")
    table: Any = pq.read_table(io.BytesIO(lab.blobs.get(raw["artifact_id"])))
    assert table.num_rows == points and np.array_equal(table["dmm.voltage"].to_numpy(), values)
