"""kill -9 of workers while images are extracted. Every image gets its one result, whoever dies when."""

import asyncio
import importlib.util
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, LiteralString
from uuid import uuid4

import numpy as np
import psutil
import psycopg
import pytest

from adapters.storage.local import LocalBlobs
from bus.ids import uuid7
from labledger.picture_file import look_at
from tests.curves import picture
from tests.faults.lab import Lab, Process
from tests.faults.proof import (
    chains_are_whole,
    nothing_is_stored_twice,
    outcomes_are_true,
    what_was_heard_is_there,
)

#: Without the real extractor's libraries its tests say so.
REAL = all(importlib.util.find_spec(name) for name in ("cv2", "rapidocr", "onnxruntime", "pypdfium2"))
if REAL:
    from tests.plots import BLACK, draw, draw_pdf


class Workers:
    """Workers of a lab, as processes of their own with pools of their own."""

    def __init__(self, lab: Lab, processes: int = 2, real: bool = False) -> None:
        self.lab = lab
        self.blobs = LocalBlobs(lab.settings.blob_dir)
        self._env = {
            "LABLEDGER_DATA_DIR": str(lab.folder),
            "LABLEDGER_EXTRACT_PROCESSES": str(processes),
        }
        self._program = "labledger.cli:main" if real else "tests.faults.extract_role:main"

    async def start(self, *names: str) -> None:
        for name in names:
            process = Process(name, ("extract",), self._env, self.lab.folder / f"{name}.log", self._program)
            self.lab.processes[name] = process
            process.keeper = asyncio.create_task(self.lab._keep(process))
        for name in names:
            process = self.lab.processes[name]
            await self.lab.until(lambda process=process: "ready, worker" in process.said(), f"{name} is ready")

    def pool_pids(self, name: str) -> list[int]:
        return [child.pid for child in psutil.Process(self.lab.processes[name].pid).children(recursive=True)]

    async def upload(self, data: bytes, **extract: Any) -> str:
        """Register an image and ask for its extraction at once; answers the extraction's id."""
        extraction_id = uuid7()
        found = look_at(data)
        self.blobs.put(data)
        body = {
            "graph_image_id": found.sha256,
            "media_type": found.media_type,
            "size_bytes": found.size_bytes,
            "width": found.width,
            "height": found.height,
            "extract": {"extraction_id": extraction_id} | extract,
        }
        await self.lab.send("graph_image.register", body)
        return extraction_id


async def all_are_there_once(workers: Workers, ids: list[str], timeout_s: float = 120) -> list[Any]:
    """Each has one completed extraction and one succeeded job; the history is whole, and every blob is there."""
    lab = workers.lab
    outcomes = {sent.id: await lab.outcome(sent) for sent in lab.sent.values()}
    assert {outcome.outcome for outcome in outcomes.values()} == {"accepted"}

    async def done() -> bool:
        events = await lab.events()
        completed = {body(it)["extraction_id"] for it in events if it.type.startswith("extraction.completed.")}
        finished = {body(it)["job_id"] for it in events if it.type.startswith("queue.job_finished.")}
        return set(ids) <= completed & finished

    await lab.until(done, f"{len(ids)} results", timeout_s)
    heard = dict(lab.heard)  # what comes later is not in the history that is read now
    events = await lab.events()
    completed = Counter(body(it)["extraction_id"] for it in events if it.type.startswith("extraction.completed."))
    succeeded = Counter(body(it)["job_id"] for it in events if it.type.startswith("job.succeeded."))
    finished = Counter(body(it)["job_id"] for it in events if it.type.startswith("queue.job_finished."))
    once = dict.fromkeys(ids, 1)
    assert completed == once and succeeded == once
    assert {id_: finished[id_] for id_ in ids} == once
    for stored in events:
        if stored.type.startswith("extraction.completed."):
            result = body(stored)["result"]
            for name in ("csv", "data", "overlay"):
                assert workers.blobs.get(result[name])
    chains_are_whole(events)
    nothing_is_stored_twice(events)
    what_was_heard_is_there(events, heard)
    outcomes_are_true(events, outcomes)
    attempts_are_told(events)
    return events


def body(stored: Any) -> dict[str, Any]:
    return json.loads(stored.data)


def attempts_are_told(events: list[Any]) -> None:
    """Attempts are numbered 1, 2, 3, ...; each but the last was released or failed before the next began."""
    jobs: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for stored in events:
        if stored.subject.startswith("evt.job."):
            jobs.setdefault(stored.subject, []).append((stored.type.rpartition(".v")[0], body(stored)))
    for subject, history in jobs.items():
        running, attempt = False, 0
        for name, told in history:
            if name == "job.started":
                assert not running and told["attempt"] == attempt + 1, f"{subject}: {name} {told}"
                running, attempt = True, told["attempt"]
            elif name in ("job.released", "job.failed", "job.succeeded"):
                assert running and told["attempt"] == attempt, f"{subject}: {name} {told}"
                running = False


@pytest.mark.skipif(not REAL, reason="the libraries of the extractor (labledger[curves]) are not installed")
async def test_200_images_read_by_the_real_extractor_and_a_worker_killed_five_times_make_200_results_and_none_twice(
    make_lab: Callable[..., Lab], chance: random.Random
) -> None:
    async with make_lab() as lab:
        workers = Workers(lab, processes=1, real=True)
        await lab.start("commands")
        # All wait before anybody works, so that each kill meets one at work.
        tops = {await workers.upload(data): top for data, top in plots(200)}
        await workers.start("extract-1", "extract-2")

        done: set[str] = set()

        def listener(_: str, type_: str, told: dict[str, Any]) -> None:
            if type_ == "extraction.completed":
                done.add(told["extraction_id"])

        with lab.listening(listener):
            for enough in (10, 45, 80, 115, 150):
                await lab.until(lambda enough=enough: len(done) >= enough, f"{enough} results", 240)
                victim = chance.choice(("extract-1", "extract-2"))
                lab.say(f"kill {victim}")
                await lab.kill(victim)
        lab.say("enough")
        events = await all_are_there_once(workers, list(tops), timeout_s=240)
        released = [body(it) for it in events if it.type.startswith("job.released.")]
        lab.say(f"{len(released)} attempts were released")
        assert all("was not heard of" in it["reason"] for it in released)
        # Somebody was killed at work, or this has shown nothing.
        assert released
        for stored in events:
            if stored.type.startswith("extraction.completed."):
                told = body(stored)
                # Each has the curve of its own image.
                assert is_saturating(told["result"], tops[told["extraction_id"]])


def plots(count: int) -> Iterator[tuple[bytes, float]]:
    """Distinct plots of a curve that rises towards a value, with that value: most on the page of a PDF, which takes the extractor
    a tenth of the time, and every fortieth as a picture."""
    for number in range(count):
        top = 40.0 + 50.0 * number / count

        def rising(x: Any, top: float = top) -> Any:
            return top * (1 - np.exp(-x / 3))

        yield (draw([(rising, BLACK)], size=(480, 375), letters=0.45) if number % 40 == 0 else draw_pdf(rising)), top


def is_saturating(result: dict[str, Any], top: float) -> bool:
    """The curve that was drawn, within 2 % of the axis: exact values are tested elsewhere."""
    found = [(np.array(curve["x"]), np.array(curve["y"])) for curve in result["curves"]]
    return len(found) == 1 and all(np.abs(y - top * (1 - np.exp(-x / 3))).max() < 2.0 for x, y in found)


async def test_the_only_worker_is_killed_and_the_next_run_goes_on(make_lab: Callable[..., Lab]) -> None:
    async with make_lab() as lab:
        workers = Workers(lab)
        await lab.start("commands")
        await workers.start("extract")
        ids = [await workers.upload(picture(n, "sleep 1.5")) for n in range(4)]
        await lab.at_or_before("job.progressed")
        pool = workers.pool_pids("extract")
        assert pool
        await lab.kill("extract")
        # The processes of its pool do not outlive it.
        await lab.until(lambda: not any(psutil.pid_exists(pid) and _lives(pid) for pid in pool), "the pool ends", 10)
        await all_are_there_once(workers, ids)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_process_of_the_pool_that_is_killed_costs_one_attempt_of_one_image(
    make_lab: Callable[..., Lab], chance: random.Random
) -> None:
    async with make_lab() as lab:
        workers = Workers(lab)
        await lab.start("commands")
        await workers.start("extract")
        ids = [await workers.upload(picture(n, "sleep 0.6")) for n in range(12)]
        await lab.at_or_before("job.progressed")
        victim = chance.choice([pid for pid in workers.pool_pids("extract") if _serves(pid)])
        psutil.Process(victim).kill()
        events = await all_are_there_once(workers, ids)
        failed = [body(it) for it in events if it.type.startswith("job.failed.")]
        assert len(failed) <= 1 and all("signal 9" in it["error"] and not it["final"] for it in failed)
        assert lab.processes["extract"].starts == 1
        assert not [it for it in events if it.type.startswith("job.released.")]


async def test_read_models_tell_what_happened_and_are_the_same_made_anew(make_lab: Callable[..., Lab]) -> None:
    async with make_lab(postgres=True) as lab:
        workers = Workers(lab)
        await lab.start("commands", "projections")
        await workers.start("extract")
        batch_id = str(uuid4())
        good = [await workers.upload(picture(n, "sleep 0.5"), batch_id=batch_id) for n in range(10)]
        bad = await workers.upload(picture(11, "refuse"), batch_id=batch_id)
        await lab.at_or_before("job.progressed")
        await lab.kill("extract")
        await all_are_there_once(workers, good)
        await lab.at_or_before("extraction.failed")
        await lab.read_models_follow()
        url = lab.settings.connection("projections").postgres_url
        assert url is not None
        with psycopg.connect(url) as connection:

            def rows(query: LiteralString) -> list[Any]:
                return connection.execute(query).fetchall()

            states = dict(rows("select extraction_id::text, state from labledger.extractions"))
            assert states == dict.fromkeys(good, "completed") | {bad: "failed"}
            arrays = rows("select cardinality(x), cardinality(y), name, x_unit from labledger.curves")
            assert arrays == [(80, 80, "Vgs = 4 V", "V")] * len(good)
            took = rows(
                "select duration_s, ended_at > started_at, percent from labledger.extractions where state = 'completed'"
            )
            assert all(seconds > 0.4 and later and percent == 100 for seconds, later, percent in took)
            assert rows("select rejected from labledger.images where rejected is not null") == [
                ("there is no picture in it",)
            ]
            assert rows("select jobs, succeeded, failed, state from labledger.batches") == [
                (11, 10, 1, "done with failures")
            ]
            ((jobs, succeeded, rate, p50_s, lost),) = rows(
                "select jobs, succeeded, success_rate, duration_p50_s, lost_attempts from labledger.queue_statistics"
            )
            assert (jobs, succeeded, rate) == (11, 10, 0.9091) and 0.4 < p50_s < 30 and lost >= 1
        await lab.read_models_are_true()


def _serves(pid: int) -> bool:
    """One that does tasks, and not the tracker that Python puts beside spawned processes."""
    try:
        return any("spawn_main" in word for word in psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return False


async def test_the_server_of_the_streams_is_killed_and_nothing_is_done_twice(
    make_lab: Callable[..., Lab], chance: random.Random
) -> None:
    async with make_lab() as lab:
        workers = Workers(lab)
        await lab.start("commands")
        await workers.start("extract-1", "extract-2")
        ids = [await workers.upload(picture(n, "sleep 0.4")) for n in range(40)]
        await asyncio.sleep(chance.uniform(0.2, 1.5))
        await lab.kill("nats", down_s=chance.uniform(0, 2))
        await all_are_there_once(workers, ids)
