"""Stations on simulated instruments: from a requested scan to its end, whatever people, instruments and crashes do."""

import asyncio
import json
import time
from typing import Any

import numpy as np
import pytest

from adapters.instruments.faults import FaultControl
from bus.errors import Fenced
from bus.ids import uuid7
from bus.store import Change
from domain.errors import LeaseLost, WrongState
from handlers import execution as executions
from handlers import station as stations
from handlers.scan_orders import job_of
from tests.integration.bus.place import until
from tests.integration.handlers.lab import BEAT_S, TTL_S, Lab, Station, config, line, measure, move

SLOW = 0.02


def count(faults: FaultControl) -> int:
    return faults.reached["write"]


async def bench(lab: Lab, **more: Any) -> Station:
    return await lab.station("bench", t=config("trivial", lab.world, faults=True), **more)


async def test_a_whole_scan_is_in_the_history(lab: Lab) -> None:
    await bench(lab)
    scan_id = await lab.request(line(250))
    await lab.reaches(scan_id, "completed")
    assert await lab.history("scan", scan_id) == ["requested", "started", "completed"]
    assert await lab.points(scan_id) == [(1, n) for n in range(250)]
    frames = await lab.frames(scan_id)
    assert frames[0]["names"] == ["t.position", "t.a"] and frames[0]["units"] == ["mm", "V"]
    assert [value for frame in frames for value in frame["values"][1]] == [float(n) for n in range(250)]
    assert (await lab.history("readings", scan_id))[0] == "opened"
    assert (await lab.history("readings", scan_id))[-1] == "closed"
    assert await lab.job(scan_id) == "succeeded"
    await until(lambda: _idle(lab))
    await lab.chains_are_right()


async def _idle(lab: Lab) -> bool:
    return (await lab.reader.refresh("queue", "main")).state.state == "idle"


async def test_a_grid_of_several_instruments_is_measured_where_it_says(lab: Lab) -> None:
    await lab.station(
        "bench",
        stage=config("stage", lab.world, speed_mm_s=1e5),
        piezo=config("piezo", lab.world, time_constant_s=0.0),
        dmm=config("multimeter", lab.world),
    )
    inner = move("piezo", "z", 0, 10, 3, measure("dmm", "voltage"), measure("stage", "x"), snake=True)
    scan_id = await lab.request({"nodes": [move("stage", "x", 1, 3, 3, inner)]})
    await lab.reaches(scan_id, "completed")
    (names,) = {tuple(frame["names"]) for frame in await lab.frames(scan_id)}
    assert names == ("stage.x", "piezo.z", "dmm.voltage", "stage.x.read")
    rows = [row for frame in await lab.frames(scan_id) for row in zip(*frame["values"], strict=True)]
    assert [row[:2] for row in rows] == [(1, 0), (1, 5), (1, 10), (2, 10), (2, 5), (2, 0), (3, 0), (3, 5), (3, 10)]
    assert [row[3] for row in rows] == [row[0] for row in rows]


async def test_a_scan_pauses_at_the_next_point_and_goes_on_there(lab: Lab) -> None:
    await bench(lab)
    scan_id = await lab.request(line(60, settle_s=SLOW), frame={"points": 1})
    await lab.measured(scan_id, 5)
    assert (await lab.order("scan.pause", scan_id=scan_id)).outcome == "accepted"
    await lab.reaches(scan_id, "paused")
    paused = await lab.points(scan_id)
    assert 5 <= len(paused) < 60
    await asyncio.sleep(5 * SLOW)
    assert await lab.points(scan_id) == paused
    await lab.order("scan.resume", scan_id=scan_id)
    await lab.reaches(scan_id, "completed")
    assert await lab.points(scan_id) == [(1, n) for n in range(60)]
    closed = [
        json.loads(e.data)["reason"] for e in await lab.reader.store.history("readings", scan_id) if "closed" in e.type
    ]
    assert closed == ["paused", "completed"]
    await lab.chains_are_right()


async def test_a_pause_that_is_taken_back_at_once_does_no_harm(lab: Lab) -> None:
    await bench(lab)
    scan_id = await lab.request(line(150, settle_s=0.01))
    await lab.measured(scan_id, 1)
    for _ in range(8):
        await lab.order("scan.pause", scan_id=scan_id)
        await lab.order("scan.resume", scan_id=scan_id)
    await lab.reaches(scan_id, "completed")
    assert await lab.points(scan_id) == [(1, n) for n in range(150)]
    assert "interrupted" not in await lab.history("scan", scan_id)


async def test_a_pause_that_is_taken_back_after_it_was_noticed_is_noted_and_resumed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = executions.Execution._close
    resumed: list[str] = []

    async def too_late(self: Any, scan: Any, columns: Any, result: Any) -> None:
        if result.ended == "stopped" and not resumed:
            resumed.append((await lab.order("scan.resume", scan_id=str(scan.scan_id))).outcome)
            self._control.stop = None  # as its listener does when it hears of it
        await close(self, scan, columns, result)

    monkeypatch.setattr(executions.Execution, "_close", too_late)
    await bench(lab)
    scan_id = await lab.request(line(40, settle_s=SLOW), frame={"points": 1})
    await lab.measured(scan_id, 3)
    await lab.order("scan.pause", scan_id=scan_id)
    await lab.reaches(scan_id, "completed")
    assert resumed == ["accepted"] and await lab.points(scan_id) == [(1, n) for n in range(40)]
    history = await lab.history("scan", scan_id)
    assert history[-3:] == ["paused", "resumed", "completed"] and "interrupted" not in history


async def test_an_aborted_scan_leaves_its_instruments_safe(lab: Lab) -> None:
    station = await lab.station("bench", t=config("trivial", lab.world), spec=config("spectrometer", lab.world))
    nodes = [move("t", "position", 0, 1, 200, measure("spec", "total", settle_s=SLOW))]
    scan_id = await lab.request({"nodes": nodes}, frame={"points": 1})
    await lab.measured(scan_id, 2)
    spectrometer: Any = station.rack._of("spec").instruments["spec"].driver
    spectrometer.settings["shutter"] = "open"
    await lab.order("scan.abort", scan_id=scan_id, reason="enough")
    await lab.reaches(scan_id, "aborted")
    assert spectrometer.settings["shutter"] == "closed"
    assert await lab.job(scan_id) == "cancelled"
    points = await lab.points(scan_id)
    assert points == [(1, n) for n in range(len(points))] and len(points) < 200
    assert (await lab.history("scan", scan_id))[-2:] == ["abort_requested", "aborted"]
    await until(lambda: _idle(lab))


async def test_a_paused_and_a_queued_scan_can_be_aborted(lab: Lab) -> None:
    await bench(lab)
    first = await lab.request(line(100, settle_s=SLOW), frame={"points": 1})
    second = await lab.request(line(5))
    await lab.measured(first, 2)
    await lab.order("scan.pause", scan_id=first)
    await lab.reaches(first, "paused")
    await lab.order("scan.abort", scan_id=second)
    assert (await lab.scan(second)).status == "aborted" and await lab.job(second) == "cancelled"
    await lab.order("scan.abort", scan_id=first)
    await lab.reaches(first, "aborted")
    third = await lab.request(line(5))
    await lab.reaches(third, "completed")


async def test_an_aborted_scan_is_restarted_from_its_first_point(lab: Lab) -> None:
    await bench(lab)
    scan_id = await lab.request(line(40, settle_s=SLOW), frame={"points": 1})
    await lab.measured(scan_id, 3)
    await lab.order("scan.abort", scan_id=scan_id)
    aborted = await lab.reaches(scan_id, "aborted")
    assert (await lab.order("scan.restart", scan_id=scan_id)).outcome == "accepted"
    await lab.reaches(scan_id, "completed")
    points = await lab.points(scan_id)
    assert [n for attempt, n in points if attempt == 2] == list(range(40))
    assert await lab.job(job_of(aborted.scan_id or uuid_of(scan_id), 2)) == "succeeded"


def uuid_of(text: str) -> Any:
    from uuid import UUID

    return UUID(text)


async def test_restarting_at_once_is_not_undone_by_what_the_abort_still_brings_about(lab: Lab) -> None:
    await bench(lab)
    scan_id = await lab.request(line(40, settle_s=SLOW), frame={"points": 1})
    for n in range(6):
        await lab.measured(scan_id, len(await lab.points(scan_id)) + 1)
        await lab.order("scan.abort", scan_id=scan_id)
        await lab.reaches(scan_id, "aborted")
        assert (await lab.order("scan.restart", scan_id=scan_id)).outcome == "accepted"
        scan = await lab.reaches(scan_id, "running", "completed")
        assert scan.attempt == n + 2
    await lab.reaches(scan_id, "completed")
    await until(lambda: _idle(lab))


async def test_a_queue_that_is_aborted_ends_also_what_was_dispatched_and_not_begun(lab: Lab) -> None:
    station = await bench(lab)
    await station.kill()
    scan_id = await lab.request(line(5))
    assert (await lab.order("queue.abort", queue_id="main")).outcome == "accepted"
    await lab.reaches(scan_id, "aborted")
    await until(lambda: _idle(lab))
    assert await lab.job(scan_id) == "cancelled"


async def test_scans_on_disjoint_instruments_run_side_by_side_and_on_shared_ones_in_turn(lab: Lab) -> None:
    await lab.station("bench", **{name: config("trivial", lab.world) for name in ("a", "b")})
    one = await lab.request(line(40, "a", SLOW))
    two = await lab.request(line(40, "b", SLOW))
    three = await lab.request(line(10, "a"))
    for scan_id in (one, two, three):
        await lab.reaches(scan_id, "completed")

    async def span(scan_id: str) -> tuple[int, int]:
        stored = await lab.reader.store.history("scan", scan_id)
        return stored[1].seq, stored[-1].seq

    first, second, third = [await span(scan_id) for scan_id in (one, two, three)]
    assert first[0] < second[1] and second[0] < first[1]
    assert third[0] > first[1]


async def test_two_stations_each_run_what_they_hold(lab: Lab) -> None:
    await lab.station("left", a=config("trivial", lab.world))
    await lab.station("right", b=config("trivial", lab.world))
    scans = [await lab.request(line(20, name)) for name in ("a", "b")]
    for scan_id in scans:
        await lab.reaches(scan_id, "completed")
    started = [(await lab.reader.store.history("scan", scan_id))[1] for scan_id in scans]
    assert [json.loads(event.data)["station_id"] for event in started] == ["left", "right"]


# --- frames --------------------------------------------------------------------------------------------------------------


async def sizes(lab: Lab, plan: Any, **frame: int) -> list[int]:
    scan_id = await lab.request(plan, frame=frame)
    await lab.reaches(scan_id, "completed")
    return [len(it["time"]) for it in await lab.frames(scan_id)]


async def test_frames_go_by_count_by_time_and_one_by_one(lab: Lab) -> None:
    await bench(lab)
    assert await sizes(lab, line(25), points=10, ms=1000) == [10, 10, 5]
    assert await sizes(lab, line(7), points=1, ms=1000) == [1] * 7
    by_time = await sizes(lab, line(20, settle_s=0.02), points=1000, ms=100)
    assert sum(by_time) == 20 and 4 <= len(by_time) <= 12


async def test_arrays_are_kept_as_blobs_and_named_in_the_frame(lab: Lab) -> None:
    await lab.station("bench", t=config("trivial", lab.world), spec=config("spectrometer", lab.world, pixels=32))
    nodes = [move("t", "position", 0, 3, 4, measure("spec", "spectrum", "exposure"))]
    scan_id = await lab.request({"nodes": nodes}, frame={"points": 3, "ms": 1000})
    await lab.reaches(scan_id, "completed")
    frames = await lab.frames(scan_id)
    assert [frame["arrays"]["spec.spectrum"]["shape"] for frame in frames] == [[3, 32], [1, 32]]
    assert frames[0]["names"] == ["t.position", "spec.exposure"]
    ref = frames[0]["arrays"]["spec.spectrum"]
    spectra = np.frombuffer(lab.blobs.get(ref["sha256"]), dtype=ref["dtype"]).reshape(ref["shape"])
    assert spectra.shape == (3, 32) and 0 < float(spectra.mean()) < 65535


# --- what goes wrong with instruments ------------------------------------------------------------------------------------


async def test_what_is_out_of_limits_fails_before_anything_moves(lab: Lab) -> None:
    station = await lab.station("bench", stage=config("stage", lab.world, faults=True))
    scan_id = await lab.request({"nodes": [move("stage", "x", 0, 51, 52, measure("stage", "x"))]})
    await lab.reaches(scan_id, "failed")
    (failed,) = [e for e in await lab.reader.store.history("scan", scan_id) if e.type == "scan.failed.v1"]
    data = json.loads(failed.data)
    assert data["error"] == "out_of_limits" and "stage.x" in data["reason"] and "51" in data["reason"]
    assert count(station.rack.faults("stage")) == 0
    assert await lab.points(scan_id) == [] and await lab.job(scan_id) == "failed"


async def test_an_unplugged_instrument_fails_its_scan_in_words_and_the_others_go_on(lab: Lab) -> None:
    station = await bench(lab, u=config("trivial", lab.world))
    other = await lab.request(line(60, "u", SLOW))
    scan_id = await lab.request(line(60, settle_s=SLOW), frame={"points": 1})
    await lab.measured(scan_id, 3)
    station.rack.faults("t").unplug()
    await lab.reaches(scan_id, "failed")
    data = json.loads((await lab.reader.store.history("scan", scan_id))[-1].data)
    assert data["error"] == "gone" and "unplugged" in data["reason"]
    points = await lab.points(scan_id)
    assert points == [(1, n) for n in range(len(points))] and data["point"] == len(points) >= 3
    assert "stopped_answering" in await lab.history("equipment", "t")
    assert "stopped_answering" not in await lab.history("equipment", "u")
    await lab.reaches(other, "completed")
    refused = await lab.order("scan.request", scan_id=uuid7(), plan=line(5))
    assert refused.outcome == "refused" and "does not answer" in refused.reason
    station.rack.faults("t").plug()
    await until(lambda: _answers(lab, "t"))
    again = await lab.request(line(5))
    await lab.reaches(again, "completed")


async def _answers(lab: Lab, name: str) -> bool:
    return (await lab.history("equipment", name))[-1] == "answers_again"


async def test_a_hang_is_noticed_within_five_seconds_and_the_next_scan_works(lab: Lab) -> None:
    station = await bench(lab)
    scan_id = await lab.request(line(200, settle_s=SLOW), frame={"points": 1})
    await lab.measured(scan_id, 3)
    station.rack.faults("t").next("hang")
    began = time.monotonic()

    async def said() -> bool:
        return "stuck" in await lab.history("station", "bench")

    await until(said)
    assert time.monotonic() - began < 5
    await lab.reaches(scan_id, "failed")
    assert "hung" in json.loads((await lab.reader.store.history("scan", scan_id))[-1].data)["reason"]
    assert "stopped_answering" in await lab.history("equipment", "t")
    await until(lambda: _answers(lab, "t"))
    again = await lab.request(line(30))
    await lab.reaches(again, "completed")
    assert await lab.points(again) == [(1, n) for n in range(30)]
    assert (await lab.history("station", "bench"))[-1] == "unstuck"
    await lab.chains_are_right()


async def test_what_an_abandoned_thread_measures_later_is_void(lab: Lab) -> None:
    station = await bench(lab)
    scan_id = await lab.request(line(200, settle_s=SLOW), frame={"points": 1})
    await lab.measured(scan_id, 3)
    station.rack.faults("t").next("hang", for_s=2.0)
    await lab.reaches(scan_id, "failed")
    points = await lab.points(scan_id)
    await asyncio.sleep(1.5)
    assert await lab.points(scan_id) == points
    assert (await lab.history("readings", scan_id))[-1] == "closed"
    await lab.chains_are_right()


async def test_a_defect_in_a_driver_fails_the_scan_and_not_the_station(lab: Lab) -> None:
    station = await bench(lab)
    scan_id = await lab.request(line(100, settle_s=SLOW))
    await lab.measured(scan_id, 1)

    def broken(names: Any) -> Any:
        raise KeyError("a defect of the driver")

    station.rack._of("t").instruments["t"]._read = broken
    await lab.reaches(scan_id, "failed")
    assert json.loads((await lab.reader.store.history("scan", scan_id))[-1].data)["error"] == "internal"
    assert not station.beats.done()


async def test_a_frame_that_cannot_be_stored_fails_the_scan(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from handlers import recorder

    station = await bench(lab)
    monkeypatch.setattr(recorder, "frame_body", lambda **_: b"x" * 1_100_000)
    scan_id = await lab.request(line(10))
    await lab.reaches(scan_id, "failed")
    failed = json.loads((await lab.reader.store.history("scan", scan_id))[-1].data)
    assert failed["error"] == "internal" and "NATS takes" in failed["reason"]
    assert not station.beats.done()


async def test_work_that_is_none_is_thrown_away(lab: Lab) -> None:
    await bench(lab)
    bus = await lab.place.bus("commands")
    for data in (b"{}", b"not json", b'{"job_id": 1}'):
        assert not (await bus.publish("cmd.work.scan.bench", data, {"x": "y"})).err_code
    scan_id = await lab.request(line(5))
    await lab.reaches(scan_id, "completed")
    info = await until(lambda: _nothing_left(lab))
    assert info


async def _nothing_left(lab: Lab) -> bool:
    return (await lab.place.opened[0].api("STREAM.INFO.CMD"))["state"]["messages"] == 0


# --- crashes -------------------------------------------------------------------------------------------------------------


async def crashed_after(lab: Lab, points: int, **fields: Any) -> str:
    station = await bench(lab)
    scan_id = await lab.request(line(40, settle_s=SLOW), frame={"points": 1}, **fields)
    await lab.measured(scan_id, points)
    await station.kill()
    return scan_id


@pytest.mark.parametrize("policy", ["resume", "restart", "hold"])
async def test_after_a_crash_a_scan_goes_on_as_its_policy_says(
    lab: Lab, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stations, "proven_dead", lambda host, pid: True)
    scan_id = await crashed_after(lab, 5, on_crash=policy)
    before = await lab.points(scan_id)
    await bench(lab)
    if policy == "hold":
        held = await lab.reaches(scan_id, "paused")
        assert held.held and await lab.points(scan_id) == before
        await lab.order("scan.resume", scan_id=scan_id)
    scan = await lab.reaches(scan_id, "completed")
    points = await lab.points(scan_id)
    first = 0 if policy == "restart" else len(before)
    assert points == before + [(2, n) for n in range(first, 40)]
    assert scan.attempt == 2 and "interrupted" in await lab.history("scan", scan_id)
    assert await lab.job(scan_id) == "succeeded"
    history = await lab.history("lease", "t")
    assert history == ["acquired", "expired", "acquired"]
    await lab.chains_are_right()


async def test_a_dead_station_is_noticed_within_five_seconds(lab: Lab) -> None:
    scan_id = await crashed_after(lab, 3)
    died = time.monotonic()

    async def lost() -> bool:
        return (await lab.history("station", "bench"))[-1] == "lost"

    await until(lost)
    assert time.monotonic() - died < 5
    assert (await lab.history("scan", scan_id))[-1] == "interrupted"
    assert (await lab.history("lease", "t"))[-1] == "expired"


async def test_a_station_that_was_frozen_and_replaced_writes_and_moves_nothing(lab: Lab) -> None:
    frozen = await bench(lab)
    scan_id = await lab.request(line(400, settle_s=SLOW), frame={"points": 1})
    await lab.measured(scan_id, 3)
    tokens = dict(frozen.runner.holding.tokens)
    fence = frozen.runner.holding.fence(["t"])
    # Frozen: it neither beats nor hears; only its measuring thread lives on.
    frozen.beats.cancel()
    await frozen.broker.stop()
    writes = frozen.rack.faults("t")
    await until(lambda: not frozen.runner.holding.trusted)
    await asyncio.sleep(0.2)
    stood = count(writes)
    fresh = await bench(lab)
    assert fresh.runner.holding.tokens["t"] > tokens["t"]
    assert count(writes) == stood, "it moved the device after its trust had ended"
    with pytest.raises(LeaseLost):
        frozen.runner.holding.guard()
    # Even if its own clock were wrong: the server refuses what it writes.
    store = frozen.runner.ledger.store
    last = await store.last(f"evt.readings.{scan_id}")
    assert last is not None
    change = Change("readings", scan_id, (), last.head, fenced=True)
    with pytest.raises(Fenced):
        await store.append_frame(change, "readings.recorded.v1", b"{}", frozen.runner.meta("x"), fence, uuid7())
    # It wakes up, finds out, and its scan goes on elsewhere.
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(frozen.runner.run(), 5)
    await until(lambda: not frozen.runner._tasks)
    frozen.dead = True
    await frozen.bus.close()

    async def taken_over() -> bool:
        return (await lab.scan(scan_id)).instance == str(fresh.runner.instance)

    await until(taken_over)
    await lab.order("scan.abort", scan_id=scan_id)
    await lab.reaches(scan_id, "aborted")
    points = await lab.points(scan_id)
    assert len({n for _, n in points}) == len(points)
    await lab.chains_are_right()


async def test_a_station_that_is_up_cannot_be_started_again(lab: Lab) -> None:
    await bench(lab)
    second = Station(lab, "bench", {"t": config("trivial", lab.world)})
    with pytest.raises(WrongState, match="is up already"):
        await second.start()
    await second.bus.close()
    await asyncio.to_thread(second.rack.close)


async def test_a_station_that_stops_interrupts_its_scans_and_gives_its_leases_back(lab: Lab) -> None:
    station = await bench(lab)
    scan_id = await lab.request(line(60, settle_s=SLOW), frame={"points": 1})
    waiting = await lab.request(line(5))
    await lab.measured(scan_id, 4)
    began = time.monotonic()
    await station.close()
    assert time.monotonic() - began < 4
    before = await lab.points(scan_id)
    assert (await lab.scan(scan_id)).interrupted
    assert (await lab.history("readings", scan_id))[-1] == "closed"
    assert (await lab.history("lease", "t"))[-1] == "released"
    assert (await lab.history("station", "bench"))[-1] == "stopped"
    await bench(lab)
    # Who gave its leases back is followed at once: nothing had to expire.
    assert await lab.history("lease", "t") == ["acquired", "released", "acquired"]
    await lab.reaches(scan_id, "completed")
    assert await lab.points(scan_id) == before + [(2, n) for n in range(len(before), 60)]
    await lab.reaches(waiting, "completed")


async def test_a_lease_that_is_lost_in_the_middle_stops_the_scan_there(lab: Lab) -> None:
    from domain.lease import ExpireLease

    station = await bench(lab)
    scan_id = await lab.request(line(400, settle_s=SLOW), frame={"points": 1})
    await lab.measured(scan_id, 3)
    ledger = await lab.place.ledger("commands")
    expire = ExpireLease(instrument="t", instance=station.runner.instance, reason="test")
    await ledger.handle("lease", "t", expire, station.runner.meta("expired-by-test"))
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(asyncio.shield(station.beats), 5)
    await until(lambda: not station.runner._tasks)
    moved = count(station.rack.faults("t"))
    points = await lab.points(scan_id)
    expired = (await lab.reader.store.history("lease", "t"))[-1]
    for stored in await lab.reader.store.history("readings", scan_id):
        assert stored.seq < expired.seq, "a frame was stored after the lease was gone"
    await asyncio.sleep(0.3)
    assert await lab.points(scan_id) == points and count(station.rack.faults("t")) == moved
    station.dead = True
    await station.broker.stop()
    await station.bus.close()


async def test_a_scan_goes_on_by_itself_after_nats_was_away(lab: Lab) -> None:
    await bench(lab)
    scan_id = await lab.request(line(80, settle_s=SLOW), frame={"points": 1})
    await lab.measured(scan_id, 5)
    await lab.place.restart()
    await lab.reaches(scan_id, "completed", timeout_s=30)
    points = await lab.points(scan_id)
    assert [n for _, n in points] == list(range(80))
    assert TTL_S > BEAT_S
    await lab.chains_are_right()
