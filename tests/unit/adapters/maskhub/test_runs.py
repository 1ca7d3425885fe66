"""The MaskHub adapter against the double: the whole workflow, and every way in which an answer can be lost.

The faults of the public client that ours must not repeat, and where they are tested:

    failed uploads are forgotten at a restart     tests/integration/handlers/test_runs.py: what is parked is tried again
    and are saved without file, lot, wafer, die   tests/unit/domain/test_run.py: a measurement says all that is sent with it
    /dev/null is uploaded where there is no data  test_nothing_empty_is_sent; the same in the domain and on the command line
    pending never goes down, retries count twice  tests/unit/domain/test_run.py, tests/properties/test_run.py
    one after the other; 30 s for any file        a hundred at once; a steady line may take its time; batches through the bus
    the shipped integration cannot work online    test_the_whole_workflow, and tests/e2e/test_runs_cli.py
    a lost answer makes a second measurement      test_a_lost_answer_makes_no_second_one, tests/faults/test_maskhub_kills.py
    retry numbers of the file do nothing          test_config.py, and what_failed_is_tried_again in tests/e2e/test_runs_cli.py
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from adapters.maskhub.runs import Target
from domain.ports import PASSING, DeliveryFailed
from domain.run import delivery_key
from tests.doubles.maskhub import TOKEN, MaskHub
from tests.doubles.shipping import Dock, make

RAW = b"PAR1" + bytes(range(256)) * 400 + b"PAR1"
RUN = {
    "step": "run",
    "mask_id": 42,
    "run_name": "EDWA / run 7",
    "station": "bench",
    "test_software_name": "edwa",
    "test_software_version": "1.0.0",
    "config": {"laser": {"nm": 1550.5}},
    "expected_material_counts": [["Si", 3]],
    "guid": str(UUID(int=5)),
}
ANALYSIS = {"step": "analysis", "run_name": "EDWA / run 7", "station": "bench"}


def measurement(number: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "step": "measurement",
        "key": f"{number:064x}",
        "mask_id": 42,
        "run_name": "EDWA / run 7",
        "lot_name": "L1",
        "wafer_name": "W3",
        "die_x": number,
        "die_y": -2,
        "device_name": f"ring_{number}",
        "measurement_type": "spectrum",
        "test_station_name": "bench",
        "test_meta": {"loss_db": 3.5},
        "extra_meta": {"operator": "äö"},
        "nas_path": "//nas/x",
        "file_name": f"ring_{number}.parquet",
        "media_type": "application/vnd.apache.parquet",
    } | more


@pytest.fixture
async def hub() -> AsyncIterator[MaskHub]:
    async with MaskHub() as double:
        yield double


def target_of(environ: Mapping[str, str], **options: Any) -> Target:
    http = {"connect_s": 0.5, "idle_s": 0.5, "answer_s": 0.5}
    return make("maskhub.runs", {"http": http, "settle_s": 0} | options, environ)


@pytest.fixture
async def target(hub: MaskHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Target]:
    monkeypatch.chdir(tmp_path)
    one = target_of({"HOME": str(tmp_path), **hub.environ})
    yield one
    await one.close()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(RAW)
    return path


@pytest.fixture
async def opened(hub: MaskHub, target: Target) -> Target:
    await target.deliver(Dock(None, options=RUN).next())
    hub.requests.clear()
    return target


# ------------------------------------------------------------------------------------------------------------ the workflow


async def test_the_whole_workflow(hub: MaskHub, target: Target, raw: Path) -> None:
    run = await target.deliver(Dock(None, options=RUN).next())
    assert run.outcome == "stored"
    assert run.proof == {
        "step": "run",
        "remote_id": 101,
        "run_name": "EDWA / run 7",
        "project_id": 7,
        "teststation_id": 1,
    }
    (made,) = hub.runs
    assert made["project_id"] == 7 and made["expected_measurement_count"] == 0
    assert json.loads(made["config"]) == {"laser": {"nm": 1550.5}}, "a text of JSON, not an object"
    assert json.loads(made["expected_material_counts"]) == [["Si", 3]]
    assert made["test_software_guid"] == str(UUID(int=5))
    assert "calibration" not in made and "station" not in made and "mask_id" not in made
    assert hub.stations == [{"id": 1, "name": "bench"}]

    dock = Dock(raw, options=measurement())
    stored = await target.deliver(dock.next())
    assert stored.outcome == "stored" and stored.proof["remote_id"] == 1001
    assert stored.requests == 2 and stored.bytes_sent > len(RAW)
    (kept,) = hub.measurements
    assert kept["sha256"] == hashlib.sha256(RAW).hexdigest()
    assert (kept["die_x"], kept["die_y"], kept["type"], kept["mask_id"]) == ("1", "-2", "spectrum", "42")
    assert (kept["file_name"], kept["media_type"]) == ("ring_1.parquet", "application/vnd.apache.parquet")
    assert json.loads(kept["test_meta"]) == {"loss_db": 3.5}
    assert json.loads(kept["meta"]) == {
        "operator": "äö",
        "path": "//nas/x",
        "x_delivery_key": f"{1:064x}",
        "sha256": hashlib.sha256(RAW).hexdigest(),
    }
    assert dock.reports[-1] == (100.0, "sending ring_1.parquet")

    report = {"step": "attachment", "run_id": "101", "file_name": "report.pdf", "media_type": "application/pdf"}
    await target.deliver(Dock(raw, options=report).next())
    (attached,) = hub.attachments
    assert (attached["target_model_name"], attached["target_model_id"]) == ("run", "101")
    assert (attached["name"], attached["file_name"]) == ("report.pdf", "report.pdf")

    await target.deliver(Dock(None, options=ANALYSIS).next())
    assert hub.analyses == ["EDWA / run 7"], "by its name, which is more than a word of a path"
    assert [(one["status"], one["teststation_id"]) for one in hub.heartbeats] == [("running", 1), ("idle", 1)]


async def test_a_run_of_this_name_is_gone_on_with(hub: MaskHub, opened: Target) -> None:
    again = await opened.deliver(Dock(None, options=RUN).next())
    assert (again.outcome, again.proof["remote_id"]) == ("existed", 101)
    assert len(hub.runs) == 1 and len(hub.stations) == 1


async def test_a_409_that_does_not_say_which_run_is_a_conflict(hub: MaskHub, target: Target) -> None:
    hub.fail("status", method="POST", path="/runs/", status=409, body='{"message": "exists"}')
    with pytest.raises(DeliveryFailed, match="id of run") as caught:
        await target.deliver(Dock(None, options=RUN).next())
    assert caught.value.kind == "conflict"


async def test_a_project_that_is_given_needs_no_mask(hub: MaskHub, target: Target) -> None:
    await target.deliver(Dock(None, options=RUN | {"project_id": 7, "mask_id": 999}).next())
    assert hub.count("GET", "/masks/") == 0


async def test_an_unknown_mask_is_refused_in_words(target: Target) -> None:
    with pytest.raises(DeliveryFailed, match="no mask 999") as caught:
        await target.deliver(Dock(None, options=RUN | {"mask_id": 999}).next())
    assert caught.value.kind == "refused"


async def test_a_station_is_used_if_there_is_one_and_two_of_a_name_are_an_error(hub: MaskHub, target: Target) -> None:
    hub.stations.append({"id": 31, "name": "bench"})
    run = await target.deliver(Dock(None, options=RUN).next())
    assert run.proof["teststation_id"] == 31 and len(hub.stations) == 1
    hub.stations.append({"id": 32, "name": "bench"})
    with pytest.raises(DeliveryFailed, match="2 test stations called 'bench'") as caught:
        await target.deliver(Dock(None, options=RUN).next())
    assert caught.value.kind == "conflict"


async def test_runs_that_open_at_once_make_their_station_once(hub: MaskHub, target: Target) -> None:
    hub.fail("slow", method="POST", path="/teststations/", seconds=0.1)
    await asyncio.gather(*(target.deliver(Dock(None, options=RUN | {"run_name": f"run {n}"}).next()) for n in range(4)))
    assert len(hub.stations) == 1 and len(hub.runs) == 4


async def test_a_lost_heartbeat_fails_nothing(hub: MaskHub, target: Target) -> None:
    hub.fail("status", path="/heartbeats/", status=500, times=9)
    await target.deliver(Dock(None, options=RUN).next())
    assert len(hub.runs) == 1 and not hub.heartbeats


async def test_heartbeats_can_be_left_out(hub: MaskHub, tmp_path: Path) -> None:
    target = target_of({"HOME": str(tmp_path), **hub.environ}, heartbeats=False)
    await target.deliver(Dock(None, options=RUN).next())
    await target.close()
    assert hub.count(path="/heartbeats/") == 0


# --------------------------------------------------------------------------------------------- nothing empty, nothing twice


async def test_nothing_empty_is_sent(hub: MaskHub, opened: Target, tmp_path: Path) -> None:
    """The public client hands over /dev/null for a measurement without a table."""
    empty = tmp_path / "empty"
    empty.touch()
    for path in (None, empty):
        with pytest.raises(DeliveryFailed, match="nothing empty is sent") as caught:
            await opened.deliver(Dock(path, options=measurement()).next())
        assert caught.value.kind == "missing"
    assert not hub.requests


async def test_a_shipment_that_is_no_part_of_a_run_is_refused_in_words(opened: Target, raw: Path) -> None:
    for options in ({}, {"step": "other"}, measurement(die_x="left")):
        with pytest.raises(DeliveryFailed, match="labledger runs") as caught:
            await opened.deliver(Dock(raw, options=options).next())
        assert caught.value.kind == "misconfigured"


def steps(raw: Path) -> dict[str, tuple[Dock, str, Callable[[MaskHub], int]]]:
    """Each step that is not idempotent by itself, the path that it posts to, and how often MaskHub has it."""
    report = {"step": "attachment", "run_id": "101", "file_name": "report.pdf", "media_type": "application/pdf"}
    return {
        "measurement": (Dock(raw, options=measurement()), "/v3/measurements", lambda hub: len(hub.measurements)),
        "attachment": (Dock(raw, options=report), "/attachments/", lambda hub: len(hub.attachments)),
        "analysis": (Dock(None, options=ANALYSIS), "/trigger_die_analysis", lambda hub: len(hub.analyses)),
    }


STEPS = pytest.mark.parametrize("step", ["measurement", "attachment", "analysis"])
LOST = pytest.mark.parametrize(
    "fault",
    [
        {"kind": "drop_after"},
        {"kind": "slow_after", "seconds": 1.5},
    ],
    ids=lambda it: it["kind"],
)


@STEPS
@LOST
async def test_a_lost_answer_makes_no_second_one(
    step: str, fault: dict[str, Any], hub: MaskHub, opened: Target, raw: Path
) -> None:
    """The public client stores a second measurement; and it gives up at a time-out, though nothing is known then."""
    dock, path, count = steps(raw)[step]
    hub.fail(**fault, method="POST", path=path)
    with pytest.raises(DeliveryFailed) as caught:
        await opened.deliver(dock.next())
    assert caught.value.kind in PASSING and caught.value.kind in ("unreachable", "timed_out")
    assert dock.kept[-1] == {"may_have_arrived": True} and count(hub) == 1
    again = await opened.deliver(dock.next())
    assert again.outcome == "existed" and count(hub) == 1


async def test_what_is_not_found_may_still_be_on_its_way(
    hub: MaskHub, opened: Target, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy gives up after a minute, and what is behind it goes on: a look at once would find nothing, and make a second one."""
    clock = [1000.0]
    monkeypatch.setattr("adapters.maskhub.runs.time.time", lambda: clock[0])
    patient, late = target_of(hub.environ, settle_s=30), Dock(raw, options=measurement())
    hub.fail("status", method="POST", path="/v3/measurements", status=504)
    assert (await late.failing(patient)).kind == "timed_out"
    for _ in range(2):
        told = await late.failing(patient)
        assert (told.kind, told.retry_after_s) == ("waiting", 30)
    await opened.deliver(Dock(raw, options=measurement()).next())  # here it is at last
    assert (await late.attempt(patient)).outcome == "existed" and len(hub.measurements) == 1

    lost = Dock(raw, options=measurement(2))
    hub.fail("status", method="POST", path="/v3/measurements", status=504)
    assert (await lost.failing(patient)).kind == "timed_out"
    assert (await lost.failing(patient)).kind == "waiting"
    clock[0] += 29
    assert (await lost.failing(patient)).retry_after_s == 1
    clock[0] += 1
    assert (await lost.attempt(patient)).outcome == "stored"
    assert lost.kept[-1] == {"may_have_arrived": True}
    assert set(hub.per_key().values()) == {1} and len(hub.measurements) == 2
    await patient.close()


@STEPS
@LOST
async def test_where_it_cannot_be_found_out_nothing_is_sent_again(
    step: str, fault: dict[str, Any], hub: MaskHub, opened: Target, raw: Path
) -> None:
    hub.lookups = False
    dock, path, count = steps(raw)[step]
    hub.fail(**fault, method="POST", path=path)
    with pytest.raises(DeliveryFailed):
        await opened.deliver(dock.next())
    for _ in range(2):  # also when a person only says "retry"
        with pytest.raises(DeliveryFailed, match="may have arrived") as caught:
            await opened.deliver(dock.next())
        assert caught.value.kind == "unknown" and caught.value.kind not in PASSING
    assert count(hub) == 1 and hub.count("POST", path) == 1


@STEPS
@pytest.mark.parametrize("status", [500, 502, 504])
async def test_a_gateway_that_lost_the_answer_may_hide_that_it_is_there(
    step: str, status: int, hub: MaskHub, opened: Target, raw: Path
) -> None:
    dock, path, count = steps(raw)[step]
    hub.lookups = False
    hub.fail("status", method="POST", path=path, status=status)
    with pytest.raises(DeliveryFailed) as caught:
        await opened.deliver(dock.next())
    assert caught.value.kind in PASSING
    with pytest.raises(DeliveryFailed, match="may have arrived"):
        await opened.deliver(dock.next())
    hub.lookups = True
    await opened.deliver(dock.next())
    assert count(hub) == 1


@STEPS
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 413},
        {"kind": "status", "status": 429},
        {"kind": "status", "status": 503},
    ],
    ids=lambda it: str(it["status"]),
)
async def test_what_was_surely_not_taken_is_sent_again_also_without_lookups(
    step: str, fault: dict[str, Any], hub: MaskHub, opened: Target, raw: Path
) -> None:
    dock, path, count = steps(raw)[step]
    hub.lookups = False
    hub.fail(**fault, method="POST", path=path)
    with pytest.raises(DeliveryFailed) as caught:
        await opened.deliver(dock.next())
    assert caught.value.kind in PASSING
    assert dock.kept[-1] == {"may_have_arrived": False}
    assert (await opened.deliver(dock.next())).outcome == "stored"
    assert count(hub) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
async def test_a_final_no_is_not_tried_again(status: int, hub: MaskHub, opened: Target, raw: Path) -> None:
    hub.fail("status", method="POST", path="/v3/measurements", status=status, body='{"message": "no, because"}')
    with pytest.raises(DeliveryFailed, match="no, because") as caught:
        await opened.deliver(Dock(raw, options=measurement()).next())
    assert caught.value.kind not in PASSING


async def test_a_connection_that_breaks_in_the_file(hub: MaskHub, opened: Target, raw: Path) -> None:
    dock = Dock(raw, options=measurement())
    hub.fail("reset", method="POST", path="/v3/measurements", after_bytes=50_000)
    with pytest.raises(DeliveryFailed) as caught:
        await opened.deliver(dock.next())
    assert caught.value.kind == "unreachable" and not hub.measurements
    assert (await opened.deliver(dock.next())).outcome == "stored"
    assert len(hub.measurements) == 1


async def test_nobody_there_means_that_nothing_has_arrived(hub: MaskHub, opened: Target, raw: Path) -> None:
    await hub.stop()
    dock = Dock(raw, options=measurement())
    with pytest.raises(DeliveryFailed) as caught:
        await opened.deliver(dock.next())
    assert caught.value.kind == "unreachable" and not dock.kept, "the look-up failed already: nothing was sent"


async def test_a_pause_that_is_asked_for_is_kept(hub: MaskHub, opened: Target, raw: Path) -> None:
    hub.fail("status", method="POST", path="/v3/measurements", status=429, retry_after=40)
    with pytest.raises(DeliveryFailed) as caught:
        await opened.deliver(Dock(raw, options=measurement()).next())
    assert (caught.value.kind, caught.value.retry_after_s) == ("throttled", 40)
    before = len(hub.requests)
    with pytest.raises(DeliveryFailed) as caught:
        await opened.deliver(Dock(raw, options=measurement(2)).next())
    assert caught.value.kind == "throttled" and len(hub.requests) == before


@pytest.mark.parametrize("switch", ["hide_meta", "pages"])
async def test_an_answer_that_tells_too_little_is_no_proof_of_absence(
    switch: str, hub: MaskHub, opened: Target, raw: Path
) -> None:
    """A look-up without our key in it, or only a page of one, would have us send a second one."""
    await opened.deliver(Dock(raw, options=measurement(5, device_name="ring_1", die_x=1)).next())
    dock = Dock(raw, options=measurement())
    hub.fail("drop_after", method="POST", path="/v3/measurements")
    with pytest.raises(DeliveryFailed):
        await opened.deliver(dock.next())
    setattr(hub, switch, True)
    with pytest.raises(DeliveryFailed) as caught:
        await opened.deliver(dock.next())
    assert caught.value.kind == "unknown" and hub.per_key()[f"{1:064x}"] == 1


async def test_an_answer_without_an_id_is_looked_up(hub: MaskHub, opened: Target, raw: Path) -> None:
    dock = Dock(raw, options=measurement())
    hub.fail("status", method="POST", path="/v3/measurements", status=200, body="{}")
    with pytest.raises(DeliveryFailed, match="does not say the id") as caught:
        await opened.deliver(dock.next())
    assert caught.value.kind in PASSING and dock.kept[-1] == {"may_have_arrived": True}


async def test_another_file_under_our_key_is_a_mismatch(
    hub: MaskHub, opened: Target, raw: Path, tmp_path: Path
) -> None:
    await opened.deliver(Dock(raw, options=measurement()).next())
    other = tmp_path / "other"
    other.write_bytes(b"something else")
    with pytest.raises(DeliveryFailed, match="another file") as caught:
        await opened.deliver(Dock(other, options=measurement()).next())
    assert caught.value.kind == "mismatch"


async def test_a_hundred_at_once_with_lost_answers_are_each_there_once(hub: MaskHub, opened: Target, raw: Path) -> None:
    """Parallel, where the public client takes one after the other."""
    for kind in ("drop_after", "drop", "reset", "status"):
        hub.fail(kind, method="POST", path="/v3/measurements", times=12, after_bytes=1000, status=502)
    under_way = asyncio.Semaphore(16)

    async def through(number: int) -> None:
        dock = Dock(raw, options=measurement(number))
        async with under_way:
            for _ in range(60):
                try:
                    await opened.deliver(dock.next())
                    return
                except DeliveryFailed as error:
                    assert error.kind in PASSING, error
        raise AssertionError(f"{number} never arrived")

    await asyncio.gather(*(through(number) for number in range(100)))
    assert hub.per_key() == {f"{number:064x}": 1 for number in range(100)}


async def test_a_steady_line_may_take_its_time(hub: MaskHub, opened: Target, tmp_path: Path) -> None:
    """The public client gives any file 30 s in all. Here only a line on which nothing moves is given up."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(24 << 20)
    read = hub.pieces

    async def slowly(request: Any, size: int = 1 << 16) -> AsyncIterator[bytes]:
        async for piece in read(request, 1 << 19):
            await asyncio.sleep(0.03)
            yield piece

    hub.pieces = slowly  # type: ignore[method-assign]
    patient = target_of(hub.environ, http={"idle_s": 0.7, "answer_s": 30})
    began = asyncio.get_running_loop().time()
    assert (await patient.deliver(Dock(large, options=measurement()).next())).outcome == "stored"
    assert asyncio.get_running_loop().time() - began > 2 * 0.7, "it took no longer than a silence may"
    await patient.close()


async def test_it_can_be_cancelled_anywhere(hub: MaskHub, opened: Target, raw: Path) -> None:
    """As a kill does: at each await of the attempt in turn, until one gets through."""
    dock = Dock(raw, options=measurement())
    for steps_done in range(400):
        task = asyncio.ensure_future(opened.deliver(dock.next()))
        for _ in range(steps_done):
            await asyncio.sleep(0)
            if task.done():
                break
        task.cancel()
        try:
            await task
            break
        except asyncio.CancelledError:
            assert len(hub.measurements) <= 1
    assert len(hub.measurements) == 1


async def test_memory_does_not_grow_with_the_file(hub: MaskHub, opened: Target, tmp_path: Path) -> None:
    import tracemalloc

    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(48 << 20)
    hub.fail("status", method="POST", path="/v3/measurements", status=422)  # it reads the form and keeps nothing of it
    dock = Dock(large, options=measurement())
    shipment = dock.next()
    tracemalloc.start()
    with pytest.raises(DeliveryFailed):
        await opened.deliver(shipment)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


# -------------------------------------------------------------------------------------------------------------- afterwards


async def test_what_is_there_is_verified_by_asking(hub: MaskHub, opened: Target, raw: Path) -> None:
    sha256 = hashlib.sha256(RAW).hexdigest()
    run = await opened.deliver(Dock(None, options=RUN).next())
    stored = await opened.deliver(Dock(raw, options=measurement()).next())
    report = {"step": "attachment", "run_id": "101", "file_name": "report.pdf", "media_type": "application/pdf"}
    attached = await opened.deliver(Dock(raw, options=report).next())
    analysed = await opened.deliver(Dock(None, options=ANALYSIS).next())
    for arrived in (run, stored, attached, analysed):
        proof = json.loads(json.dumps(arrived.proof))
        checks = await opened.verify(proof, sha256, len(RAW))
        assert checks and all(check.ok for check in checks), checks

    meta = json.loads(hub.measurements[0]["meta"])
    hub.measurements[0]["meta"] = json.dumps(meta | {"sha256": "0" * 64})
    checks = await opened.verify(stored.proof, sha256, len(RAW))
    assert [check.name for check in checks if not check.ok] == ["sha256"]
    hub.measurements.clear()
    hub.attachments.clear()
    hub.analyses.clear()
    for arrived in (stored, attached, analysed):
        assert not all(check.ok for check in await opened.verify(arrived.proof, sha256, len(RAW)))
    hub.runs.clear()
    assert [check.ok for check in await opened.verify(run.proof, None, 0)] == [False]


async def test_what_cannot_be_asked_is_not_verified(hub: MaskHub, opened: Target, raw: Path) -> None:
    stored = await opened.deliver(Dock(raw, options=measurement()).next())
    hub.lookups = False
    with pytest.raises(DeliveryFailed, match="does not answer") as caught:
        await opened.verify(stored.proof, stored.proof["sha256"], len(RAW))
    assert caught.value.kind == "unknown"
    with pytest.raises(DeliveryFailed, match="not one of MaskHub"):
        await opened.verify({"etag": "x"}, None, 0)


async def test_the_test_says_what_is_wrong_and_stores_nothing(hub: MaskHub, tmp_path: Path) -> None:
    async def checks(environ: Mapping[str, str]) -> dict[str, tuple[bool, str]]:
        one = target_of({"HOME": str(tmp_path), **environ})
        found = {check.name: (check.ok, check.detail) for check in await one.test()}
        await one.close()
        return found

    well = await checks(hub.environ)
    assert all(ok for ok, _ in well.values()) and list(well) == ["credentials", "base API", "v3 API"]
    assert "cleared up" in well["v3 API"][1]
    hub.lookups = False
    assert "a person must look" in (await checks(hub.environ))["v3 API"][1]

    wrong = await checks(hub.environ | {"MASKHUB_API_TOKEN": "guessed-token"})
    assert not wrong["base API"][0] and "check MASKHUB_API_TOKEN" in wrong["base API"][1]
    assert not wrong["v3 API"][0] and "guessed-token" not in str(wrong)

    partial = await checks({"MASKHUB_API": hub.url})
    assert not partial["credentials"][0]
    assert "MASKHUB_API_V3 and MASKHUB_API_TOKEN is not set" in partial["credentials"][1]

    astray = await checks(hub.environ | {"MASKHUB_API": hub.url + "/nowhere"})
    assert not astray["base API"][0] and "check MASKHUB_API" in astray["base API"][1]
    assert not (hub.stations or hub.runs or hub.measurements)


async def test_a_wrong_token_is_a_matter_for_a_person_and_is_not_shown(hub: MaskHub, tmp_path: Path, raw: Path) -> None:
    one = target_of({"HOME": str(tmp_path), **hub.environ, "MASKHUB_API_TOKEN": "guessed-token"})
    with pytest.raises(DeliveryFailed) as caught:
        await one.deliver(Dock(raw, options=measurement()).next())
    await one.close()
    assert caught.value.kind == "unauthorized" and "guessed-token" not in str(caught.value)


async def test_without_credentials_nothing_is_sent_and_what_is_missing_is_named(tmp_path: Path, raw: Path) -> None:
    one = target_of({"HOME": str(tmp_path)})
    assert list(one.missing()) == ["MASKHUB_API", "MASKHUB_API_V3", "MASKHUB_API_TOKEN"]
    with pytest.raises(DeliveryFailed, match="MASKHUB_API_TOKEN is not set") as caught:
        await one.deliver(Dock(raw, options=measurement()).next())
    assert caught.value.kind == "unauthorized"
    with pytest.raises(DeliveryFailed, match="cannot be asked"):
        await one.verify({"step": "run"}, None, 0)


def test_no_secret_is_shown(hub: MaskHub, tmp_path: Path) -> None:
    one = target_of({"HOME": str(tmp_path)}, api_url="http://a", api_v3_url="http://b", api_token=TOKEN)
    assert not one.missing()
    for shown in (one.describe(), repr(one), repr(vars(one))):
        assert TOKEN not in str(shown)


def test_the_key_in_the_form_is_that_of_the_run() -> None:
    """Both come from one function; the reference names what goes in."""
    from domain.run import MeasurementData

    data = MeasurementData(
        device_name="d", measurement_type="t", die_x=1, die_y=2, lot_name="l", wafer_name="w", test_station_name="s"
    )
    text = "42|run|l|w|1|2|d|t|3|" + "a" * 64
    assert delivery_key(42, "run", data, 3, "a" * 64) == hashlib.sha256(text.encode()).hexdigest()
