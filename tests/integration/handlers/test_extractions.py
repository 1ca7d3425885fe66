"""From a registered image to its curves, and from curves to a model, through the queue and a worker with real processes."""

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from bus.envelope import Meta
from bus.ids import uuid7
from domain.extraction import Extraction
from domain.graph_image import GraphImage
from domain.job import Job, ReleaseJob
from domain.product import Product
from domain.spice_model import SpiceModel
from labledger.picture_file import look_at
from tests.curves import picture
from tests.integration.bus.place import everything, until
from tests.integration.handlers.lab import Lab
from tests.integration.handlers.worker import RunningWorker


class Curves:
    """What people do with images, and what is to be seen of it."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.workers: list[RunningWorker] = []

    async def worker(self, slots: int = 1, **settings: Any) -> RunningWorker:
        worker = await RunningWorker(self.lab, self.folder, slots, **settings).start()
        self.workers.append(worker)
        return worker

    def body(self, data: bytes) -> dict[str, Any]:
        self.lab.blobs.put(data)
        it = look_at(data)
        size = {"size_bytes": it.size_bytes, "width": it.width, "height": it.height}
        return {"graph_image_id": it.sha256, "media_type": it.media_type} | size

    async def image(self, data: bytes, **more: Any) -> str:
        body = self.body(data) | more
        done = await self.lab.order("graph_image.register", **body)
        assert done.outcome == "accepted", done.reason
        return body["graph_image_id"]

    async def uploaded(self, data: bytes, **more: Any) -> str:
        """An image whose extraction follows at once; answers the extraction's id."""
        extraction_id = uuid7()
        await self.image(data, extract={"extraction_id": extraction_id} | more)
        return extraction_id

    async def state(self, kind: str, id_: str) -> Any:
        return (await self.lab.reader.refresh(kind, id_)).state

    async def reaches(self, extraction_id: str, *states: str, timeout_s: float = 30) -> Extraction:
        async def there() -> Any:
            found: Extraction = await self.state("extraction", extraction_id)
            return found if found.state in states else None

        return await until(there, timeout_s, f"extraction {' or '.join(states)}")

    async def job_reaches(self, job_id: str, *states: str, timeout_s: float = 30) -> Job:
        async def there() -> Any:
            found: Job = await self.state("job", job_id)
            return found if found.state in states else None

        return await until(there, timeout_s, f"job {' or '.join(states)}")

    async def running(self, extraction_id: str) -> None:
        """It runs, and says how far it is: so its process is at work."""

        async def progressed() -> bool:
            return "progressed" in await self.lab.history("job", extraction_id)

        await until(progressed, 30, "progress")

    async def queue_is_empty(self, queue_id: str = "extractions") -> None:
        async def empty() -> bool:
            queue = await self.state("queue", queue_id)
            return not queue.waiting and not queue.running

        await until(empty, 15, "an empty queue")


@pytest_asyncio.fixture
async def curves(lab: Lab, tmp_path: Path) -> AsyncIterator[Curves]:
    curves = Curves(lab, tmp_path)
    yield curves
    for worker in curves.workers:
        await worker.stop()


async def test_an_uploaded_image_becomes_curves(curves: Curves) -> None:
    await curves.worker()
    data = picture(7)
    extraction_id = await curves.uploaded(data)
    done = await curves.reaches(extraction_id, "completed")
    assert done.confidence == 0.95 and done.accepted and done.curves == 1 and done.data is not None
    stored = json.loads(curves.lab.blobs.get(done.data))
    assert stored["curves"][0]["x"] == [float(x) for x in range(80)]
    assert await curves.lab.history("extraction", extraction_id) == ["requested", "started", "completed"]
    assert (await curves.lab.history("job", extraction_id))[-1] == "succeeded"
    image: GraphImage = await curves.state("graph_image", look_at(data).sha256)
    assert [str(it) for it in image.extractions.values()] == [extraction_id]
    await curves.queue_is_empty()
    await curves.lab.chains_are_right()


async def test_each_further_chart_of_a_document_gets_an_extraction_of_its_own(curves: Curves) -> None:
    await curves.worker()
    data = picture(9, "charts 3")
    batch_id = str(uuid4())
    first = await curves.uploaded(data, batch_id=batch_id, priority="high")
    image_id = look_at(data).sha256

    async def all_there() -> Any:
        image: GraphImage = await curves.state("graph_image", image_id)
        return image.extractions if len(image.extractions) == 3 else None

    found = await until(all_there, 30, "three extractions")
    assert set(found) == {"page 1 chart 1", "page 1 chart 2", "page 1 chart 3"}
    assert str(found["page 1 chart 1"]) == first
    second: Extraction = await curves.state("extraction", str(found["page 1 chart 2"]))
    assert second.requested is not None and second.requested.priority == "high"
    assert str(second.requested.batch_id) == batch_id
    await curves.queue_is_empty()
    jobs = await curves.lab.reader.store.history("batch", batch_id)
    assert sum(one.type.startswith("batch.job_added") for one in jobs) == 3


async def test_the_end_of_an_extraction_its_image_and_its_job_is_one_batch(curves: Curves) -> None:
    await curves.worker()
    extraction_id = await curves.uploaded(picture(1))
    await curves.reaches(extraction_id, "completed")
    completed = (await curves.lab.reader.store.history("extraction", extraction_id))[-1]
    succeeded = (await curves.lab.reader.store.history("job", extraction_id))[-1]
    assert completed.headers["Nats-Batch-Id"] == succeeded.headers["Nats-Batch-Id"]
    result = json.loads(completed.data)["result"]
    assert json.loads(succeeded.data)["result"]["csv"] == result["csv"]
    for name in ("csv", "data", "overlay"):
        assert curves.lab.blobs.get(result[name])


async def test_an_image_waits_until_somebody_asks_for_its_extraction(curves: Curves) -> None:
    await curves.worker()
    image_id = await curves.image(picture(2))
    extraction_id = uuid7()
    asked = await curves.lab.order("extraction.request", extraction_id=extraction_id, graph_image_id=image_id)
    assert asked.outcome == "accepted"
    assert (await curves.reaches(extraction_id, "completed")).requested is not None
    again = await curves.lab.order("extraction.request", extraction_id=extraction_id, graph_image_id=image_id)
    assert again.outcome == "accepted" and not again.events
    await curves.queue_is_empty()


async def test_an_image_that_nobody_registered_cannot_be_extracted(curves: Curves) -> None:
    refused = await curves.lab.order("extraction.request", extraction_id=uuid7(), graph_image_id="ab" * 32)
    assert refused.outcome == "refused" and "register it first" in refused.reason


async def test_urgent_ones_go_first_and_the_line_can_be_changed_by_hand(curves: Curves) -> None:
    made = await curves.lab.order("queue.create", queue_id="extractions", order="priority", max_concurrent=1)
    assert made.outcome == "accepted"
    first = await curves.uploaded(picture(1, "sleep 1"))
    low = await curves.uploaded(picture(2), priority="low")
    normal = await curves.uploaded(picture(3))
    moved = await curves.uploaded(picture(4))
    urgent = await curves.uploaded(picture(5), priority="urgent")
    order = await curves.lab.order("queue.move", queue_id="extractions", job_id=moved, to="first")
    assert order.outcome == "accepted"
    await curves.worker()
    for one in (first, low, normal, moved, urgent):
        await curves.reaches(one, "completed")
    queue = await curves.lab.reader.store.history("queue", "extractions")
    dispatched = [json.loads(it.data)["job_id"] for it in queue if it.type.startswith("queue.job_dispatched")]
    assert dispatched == [first, urgent, moved, normal, low]


async def test_two_workers_share_the_work_and_nothing_is_done_twice(curves: Curves, tmp_path: Path) -> None:
    counted = tmp_path / "counted"
    await curves.worker(slots=2)
    await curves.worker(slots=2)
    ids = [await curves.uploaded(picture(n, f"count {counted}")) for n in range(30)]
    for one in ids:
        await curves.reaches(one, "completed")
    assert len(counted.read_text().splitlines()) == 30
    workers = {(await curves.lab.reader.store.history("job", one))[1].actor for one in ids}
    assert len(workers) == 2


async def test_a_cancelled_one_stops_at_once_and_its_slot_is_free(curves: Curves) -> None:
    worker = await curves.worker()
    hanging = await curves.uploaded(picture(1, "hang"))
    waiting = await curves.uploaded(picture(2))
    await curves.running(hanging)
    (pid,) = worker.pool.pids
    assert (await curves.lab.order("job.cancel", job_id=hanging, reason="wrong image")).outcome == "accepted"
    cancelled = await curves.reaches(hanging, "cancelled")
    assert cancelled.reason == "wrong image"
    await curves.reaches(waiting, "completed")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    await curves.queue_is_empty()


async def test_a_waiting_one_is_cancelled_without_ever_running(curves: Curves) -> None:
    extraction_id = await curves.uploaded(picture(1))
    await curves.lab.order("job.cancel", job_id=extraction_id)
    await curves.reaches(extraction_id, "cancelled")
    await curves.queue_is_empty()
    await curves.worker()
    other = await curves.uploaded(picture(2))
    await curves.reaches(other, "completed")
    assert await curves.lab.history("extraction", extraction_id) == ["requested", "cancelled"]


async def test_a_cancelled_one_can_be_run_after_all(curves: Curves) -> None:
    extraction_id = await curves.uploaded(picture(1))
    await curves.lab.order("job.cancel", job_id=extraction_id)
    await curves.reaches(extraction_id, "cancelled")
    await curves.queue_is_empty()
    assert (await curves.lab.order("job.retry", job_id=extraction_id)).outcome == "accepted"
    await curves.worker()
    await curves.reaches(extraction_id, "completed")
    assert await curves.lab.history("extraction", extraction_id) == ["requested", "cancelled", "started", "completed"]


async def test_a_process_that_crashes_costs_its_attempt_and_not_the_worker(curves: Curves, tmp_path: Path) -> None:
    worker = await curves.worker(slots=2)
    beside = await curves.uploaded(picture(2, "sleep 1"))
    crashing = await curves.uploaded(picture(1, f"crash once {tmp_path / 'crashed'}"))
    await curves.reaches(beside, "completed")
    await curves.reaches(crashing, "completed")
    history = await curves.lab.history("job", crashing)
    assert [one for one in history if one != "progressed"] == ["submitted", "started", "failed", "started", "succeeded"]
    failed = next(it for it in await curves.lab.reader.store.history("job", crashing) if "failed" in it.type)
    told = json.loads(failed.data)
    assert "signal 9" in told["error"] and told["kind"] == "transient" and told["retry_at"]
    assert not worker.worker.stopping


async def test_what_always_crashes_is_given_up_after_three_times(
    curves: Curves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.request_extraction.BACKOFF_S", 0.1)
    await curves.worker()
    extraction_id = await curves.uploaded(picture(1, "crash"))
    failed = await curves.reaches(extraction_id, "failed", timeout_s=40)
    assert failed.attempt == 3 and "signal 11" in failed.reason
    assert (await curves.job_reaches(extraction_id, "failed")).attempt == 3
    await curves.queue_is_empty()


async def test_what_hangs_is_ended(curves: Curves) -> None:
    worker = await curves.worker(limit_s={"extraction": 1.0, "spice_fit": 1.0})
    extraction_id = await curves.uploaded(picture(1, "hang"))
    job = await curves.job_reaches(extraction_id, "retrying")
    assert "longer than 1 s" in job.reason
    assert worker.pool.pids == []


async def test_a_picture_that_is_none_is_rejected_for_good_by_the_worker(curves: Curves) -> None:
    await curves.worker()
    text = b"this is no picture, whatever the command says"
    blob = curves.lab.blobs.put(text)
    body = {"graph_image_id": blob, "media_type": "image/png", "size_bytes": len(text), "width": 500, "height": 400}
    extraction_id = uuid7()
    said = await curves.lab.order("graph_image.register", **body, extract={"extraction_id": extraction_id})
    assert said.outcome == "accepted"
    failed = await curves.reaches(extraction_id, "failed")
    assert failed.attempt == 1 and "no picture" in failed.reason
    image: GraphImage = await curves.state("graph_image", blob)
    assert image.rejected is not None and "no picture" in image.rejected
    again = await curves.lab.order("extraction.request", extraction_id=uuid7(), graph_image_id=blob)
    assert again.outcome == "refused" and "was rejected" in again.reason


async def test_a_bomb_is_refused_before_it_is_unpacked(curves: Curves) -> None:
    body = {"graph_image_id": "cd" * 32, "media_type": "image/png", "size_bytes": 40_000}
    refused = await curves.lab.order("graph_image.register", **body, width=20_000, height=20_000)
    assert refused.outcome == "refused" and "make it smaller" in refused.reason


async def test_what_is_not_possible_is_not_tried_again(curves: Curves) -> None:
    await curves.worker()
    extraction_id = await curves.uploaded(picture(1, "impossible"), method="llm")
    failed = await curves.reaches(extraction_id, "failed")
    assert failed.attempt == 1 and "needs a key" in failed.reason


async def test_what_a_vanished_worker_had_is_done_by_another_once(curves: Curves) -> None:
    first = await curves.worker()
    extraction_id = await curves.uploaded(picture(1, "sleep 3"))
    await curves.running(extraction_id)
    curves.workers.remove(first)
    await first.vanish()
    await curves.worker()
    done = await curves.reaches(extraction_id, "completed")
    assert done.attempt == 2
    history = await curves.lab.history("job", extraction_id)
    steps = [one for one in history if one != "progressed"]
    assert steps == ["submitted", "started", "released", "started", "succeeded"]
    released = next(it for it in await curves.lab.reader.store.history("job", extraction_id) if "released" in it.type)
    assert "was not heard of" in json.loads(released.data)["reason"]


async def test_a_worker_that_was_thought_dead_writes_nothing(curves: Curves) -> None:
    stale = await curves.worker()
    extraction_id = await curves.uploaded(picture(1, "sleep 2"))
    await curves.running(extraction_id)
    # Somebody says that it is dead, as a worker does that gets its message.
    release = ReleaseJob(job_id=UUID(extraction_id), attempt=1, reason="not heard of")
    await stale.worker.ledger.handle("job", extraction_id, release, Meta(causation=uuid7()))
    done = await curves.reaches(extraction_id, "completed")
    assert done.attempt == 2
    history = await curves.lab.history("extraction", extraction_id)
    assert history == ["requested", "started", "started", "completed"]


async def test_a_worker_that_stops_gives_its_job_back(curves: Curves) -> None:
    first = await curves.worker()
    extraction_id = await curves.uploaded(picture(1, "sleep 3"))
    await curves.running(extraction_id)
    curves.workers.remove(first)
    await first.stop()
    job: Job = await curves.state("job", extraction_id)
    assert job.state == "waiting" and "stops" in job.reason
    await curves.worker()
    assert (await curves.reaches(extraction_id, "completed")).attempt == 2


async def test_a_batch_is_cancelled_as_one(curves: Curves) -> None:
    batch_id = str(uuid4())
    await curves.worker()
    ids = [await curves.uploaded(picture(n, "hang" if n < 8 else ""), batch_id=batch_id) for n in range(12)]
    await curves.running(ids[0])
    batch = await curves.state("batch", batch_id)
    assert [str(it) for it in batch.jobs] == ids
    assert (await curves.lab.order("batch.cancel", batch_id=batch_id, reason="enough")).outcome == "accepted"
    for one in ids:
        assert (await curves.reaches(one, "cancelled")).reason == "enough"
    await curves.queue_is_empty()
    image_id = await curves.image(picture(99))
    more = {"extraction_id": uuid7(), "graph_image_id": image_id, "batch_id": batch_id}
    late = await curves.lab.order("extraction.request", **more)
    assert late.outcome == "refused" and "was cancelled" in late.reason


async def test_a_corrected_calibration_makes_a_new_extraction(curves: Curves) -> None:
    await curves.worker()
    data = picture(3)
    first = await curves.uploaded(data, parameters={"curves": 1})
    await curves.reaches(first, "completed")
    completed = json.loads((await curves.lab.reader.store.history("extraction", first))[-1].data)
    calibration = completed["result"]["calibration"]
    calibration["y"]["points"][1]["value"] = 1000.0
    second = uuid7()
    order = {"extraction_id": second, "graph_image_id": look_at(data).sha256, "corrects": first}
    done = await curves.lab.order("extraction.request", **order, parameters={"calibration": calibration})
    assert done.outcome == "accepted", done.reason
    extraction = await curves.reaches(second, "completed")
    assert extraction.requested is not None and str(extraction.requested.corrects) == first
    assert extraction.requested.parameters.curves == 1  # what was not given anew
    told = json.loads((await curves.lab.reader.store.history("extraction", second))[-1].data)
    assert told["result"]["calibration"]["y"]["points"][1]["value"] == 1000.0
    other = await curves.image(picture(4))
    wrong = await curves.lab.order("extraction.request", **order | {"extraction_id": uuid7(), "graph_image_id": other})
    assert wrong.outcome == "refused"


async def test_a_correction_is_of_the_chart_that_was_read(curves: Curves) -> None:
    """Nobody said which chart of the file: the first was read, and only its result says where that is."""
    await curves.worker()
    data = picture(5, "charts 3")
    first = await curves.uploaded(data)
    read = await curves.reaches(first, "completed")
    assert read.requested is not None and read.requested.parameters.chart is None
    second = uuid7()
    order = {"extraction_id": second, "graph_image_id": look_at(data).sha256, "corrects": first}
    done = await curves.lab.order("extraction.request", **order, parameters={"curves": 1})
    assert done.outcome == "accepted", done.reason
    extraction = await curves.reaches(second, "completed")
    assert extraction.requested is not None
    given = extraction.requested.parameters
    assert (given.page, given.chart, given.curves) == (1, 1, 1)


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("cv2", "rapidocr", "onnxruntime")),
    reason="the libraries of the extractor (labledger[curves]) are not installed",
)
async def test_a_vision_model_is_believed_only_where_the_picture_agrees(curves: Curves) -> None:
    from tests.vision import KEY, advice, half_read, vision

    with vision() as double:
        llm = {"url": double.url, "model": "double", "key": KEY}
        ports = {"extractor": "labledger.curves:CurvesExtractor", "llm": llm}
        await curves.worker(ports=ports, limit_s={"extraction": 120.0})
        image_id = await curves.image(half_read())

        async def asked(reply: str) -> Extraction:
            double.reply = reply
            id_ = uuid7()
            order = {"extraction_id": id_, "graph_image_id": image_id, "method": "llm"}
            assert (await curves.lab.order("extraction.request", **order)).outcome == "accepted"
            return await curves.reaches(id_, "completed", "failed", timeout_s=120)

        right = await asked(advice(0, 100))
        assert right.state == "completed" and right.curves == 1
        for wrong in (advice(0, 50), advice(1, 100, "log"), "no plot at all", "{}"):
            answer = await asked(wrong)
            # Asking again would give the same: it is not tried again.
            assert (answer.state, answer.attempt, answer.curves) == ("failed", 1, 0)
            assert "adviser" in answer.reason
    assert {one["model"] for one in double.seen} == {"double"}
    events = [stored.data for stored in await everything(curves.lab.place.opened[0])]
    assert events and not any(KEY.encode() in data for data in events)


async def product(curves: Curves, **more: Any) -> str:
    fields = {"product_id": "GS66506T", "part_number": "GS66506T", "manufacturer": "GaN Systems"}
    done = await curves.lab.order("product.register", **fields, device_type="GaN-HEMT", **more)
    assert done.outcome == "accepted", done.reason
    return "GS66506T"


async def test_a_model_is_fitted_to_the_newest_extractions_of_a_product(curves: Curves) -> None:
    await curves.worker()
    product_id = await product(curves)
    extraction_id = uuid7()
    extract = {"extraction_id": extraction_id}
    image_id = await curves.image(picture(1), product_id=product_id, chart="output", extract=extract)
    it: Product = await curves.state("product", product_id)
    assert it.images == (image_id,)
    await curves.reaches(extraction_id, "completed")
    for version in (1, 2):
        fit_id = uuid7()
        done = await curves.lab.order("spice_model.fit", spice_model_id=product_id, fit_id=fit_id)
        assert done.outcome == "accepted", done.reason
        await curves.job_reaches(fit_id, "succeeded")
        model: SpiceModel = await curves.state("spice_model", product_id)
        latest = model.latest
        assert latest is not None and latest.number == version and latest.library is not None
        assert [str(one) for one in latest.requested.extraction_ids] == [extraction_id]
        assert image_id in curves.lab.blobs.get(latest.library).decode()
    fitted = json.loads((await curves.lab.reader.store.history("spice_model", product_id))[-1].data)["result"]
    assert fitted["validity"]["vgs"]["value_to"] == 4.0


async def test_a_product_without_curves_cannot_be_fitted(curves: Curves) -> None:
    product_id = await product(curves)
    refused = await curves.lab.order("spice_model.fit", spice_model_id=product_id, fit_id=uuid7())
    assert refused.outcome == "refused" and "no completed extraction" in refused.reason


async def test_a_fit_that_is_cancelled_leaves_its_number_unused(curves: Curves) -> None:
    product_id = await product(curves)
    worker = await curves.worker()
    extraction_id = uuid7()
    await curves.image(picture(1), product_id=product_id, chart="output", extract={"extraction_id": extraction_id})
    await curves.reaches(extraction_id, "completed")
    await worker.stop()
    curves.workers.remove(worker)
    fit_id = uuid7()
    await curves.lab.order("spice_model.fit", spice_model_id=product_id, fit_id=fit_id)
    await curves.lab.order("job.cancel", job_id=fit_id, reason="not yet")

    async def cancelled() -> bool:
        model: SpiceModel = await curves.state("spice_model", product_id)
        return model.versions[fit_id].state == "cancelled"

    await until(cancelled, 15, "a cancelled fit")
    again = uuid7()
    await curves.lab.order("spice_model.fit", spice_model_id=product_id, fit_id=again)
    model: SpiceModel = await curves.state("spice_model", product_id)
    assert model.versions[again].number == 2


async def test_processes_of_the_pool_end_with_the_worker(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio, sys\n"
        "from adapters.processes.pool import ProcessPool\n"
        "async def main():\n"
        "    pool = ProcessPool(1, 'labledger.pooled:tasks', {'blobs': {'store': 'local', 'dir': sys.argv[1]}})\n"
        "    task = asyncio.create_task(pool.run('nothing', {}, print, 60))\n"
        "    await asyncio.wait([task])\n"
        "    print(pool.pids[0], flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(main())\n"
    )
    root = str(Path(__file__).resolve().parents[3])
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": root}
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
