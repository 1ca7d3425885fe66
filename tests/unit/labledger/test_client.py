"""The client without a server: what counts of the readings, where a scan stands, and hearing without a gap."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import numpy as np
import pytest
from nats.aio.msg import Msg

from bus.connection import Bus
from bus.envelope import Head, Meta, Stored, seal
from domain.errors import OutOfLimits
from domain.events import Event, encode
from domain.plan import Plan, Template
from domain.readings import ArrayRef, ReadingsOpened, ReadingsRecorded
from domain.scan import ScanCompleted, ScanInterrupted, ScanRequested, ScanStarted
from labledger.client import Lab, NotReachable, as_plan, split_url
from labledger.client.hearing import Ear
from labledger.client.kinds import Scans
from labledger.client.progress import Fold
from labledger.client.readings import collect

SCAN = UUID(int=1)
PLAN: dict[str, Any] = {
    "nodes": [
        {
            "kind": "move",
            "instrument": "stage",
            "channel": "x",
            "positions": {"kind": "linear", "start": 0, "stop": 1, "num": 10},
            "children": [{"kind": "measure", "instrument": "meter", "channels": ["voltage"]}],
        }
    ]
}


def frame(
    first: int, values: list[Any], attempt: int = 1, branch: int = 0, name: str = "meter.voltage", **more: Any
) -> ReadingsRecorded:
    return ReadingsRecorded(
        scan_id=SCAN,
        attempt=attempt,
        branch=branch,
        first_point=first,
        names=(name,),
        units=("V",),
        time=[1000.0 + first + i for i in range(len(values))],
        values=[values],
        **more,
    )


def test_a_column_has_one_value_for_each_point_and_none_where_there_was_none() -> None:
    readings = collect(SCAN, [frame(0, [0.5, None]), frame(2, [1.5])], None)
    assert readings.points == 3
    np.testing.assert_array_equal(readings["meter.voltage"], [0.5, np.nan, 1.5])
    np.testing.assert_array_equal(readings["point"], [0, 1, 2])
    assert readings.units == {"meter.voltage": "V"}


def test_of_a_point_that_was_measured_again_the_last_attempt_counts() -> None:
    first = [frame(0, [1.0, 1.0]), frame(2, [1.0, 1.0])]
    restarted = [frame(0, [2.0, 2.0, 2.0], attempt=2)]
    readings = collect(SCAN, first + restarted, None)
    assert readings["meter.voltage"].tolist() == [2.0, 2.0, 2.0]
    assert readings["attempt"].tolist() == [2, 2, 2]

    continued = collect(SCAN, [*first, frame(3, [3.0, 3.0], attempt=2)], None)
    assert continued["meter.voltage"].tolist() == [1.0, 1.0, 1.0, 3.0, 3.0]
    assert continued["attempt"].tolist() == [1, 1, 1, 2, 2]


def test_a_branch_has_no_values_at_the_points_of_another() -> None:
    readings = collect(SCAN, [frame(0, [1.0]), frame(1, ["open"], branch=1, name="shutter.state")], None)
    np.testing.assert_array_equal(readings["meter.voltage"], [1.0, np.nan])
    assert readings["shutter.state"].tolist() == [None, "open"]
    assert readings["branch"].tolist() == [0, 1]


def test_arrays_are_loaded_from_blobs_and_cut_where_another_attempt_goes_on() -> None:
    one, two = np.arange(6.0).reshape(3, 2), np.full((1, 2), 9.0)
    blobs = {"a" * 64: one.tobytes(), "b" * 64: two.tobytes()}

    def ref(sha256: str, shape: tuple[int, ...]) -> dict[str, Any]:
        return {"arrays": {"spectrometer.spectrum": ArrayRef(sha256=sha256, dtype="<f8", shape=shape)}}

    frames = [frame(0, [1.0, 1.0, 1.0], **ref("a" * 64, (3, 2))), frame(2, [2.0], attempt=2, **ref("b" * 64, (1, 2)))]
    readings = collect(SCAN, frames, blobs.__getitem__)
    assert readings["spectrometer.spectrum"].tolist() == [[0.0, 1.0], [2.0, 3.0], [9.0, 9.0]]
    with pytest.raises(NotReachable, match="blob folder"):
        collect(SCAN, frames, None)["spectrometer.spectrum"]


def test_a_scan_without_readings_has_empty_columns() -> None:
    readings = collect(SCAN, [], None)
    assert readings.points == 0
    assert list(readings.rows()) == []


def stored(seq: int, event: Event, subject: str = f"evt.scan.{SCAN}", version: int = 1, at_s: float = 1000.0) -> Stored:
    now = datetime.fromtimestamp(at_s, UTC)
    headers, _ = seal(subject, event.TYPE, encode(event), Head(0, version - 1, ""), Meta.new("me"), f"m:{seq}", now)
    return Stored(seq, subject, headers, encode(event), now)


def requested() -> ScanRequested:
    return ScanRequested(
        scan_id=SCAN, plan=Plan.model_validate(PLAN), total_points=10, instruments=("meter", "stage"), title="a line"
    )


def test_progress_tells_points_rate_and_time_remaining_and_says_that_it_was_interrupted() -> None:
    fold = Fold(SCAN)
    fold.take(stored(1, requested()))
    assert (fold.progress.status, fold.progress.total_points, fold.progress.title) == ("queued", 10, "a line")
    fold.take(
        stored(2, ScanStarted(scan_id=SCAN, attempt=1, station_id="bench", instance="i", total_points=10), version=2)
    )
    fold.take(stored(3, ReadingsOpened(scan_id=SCAN, attempt=1, from_point=0, total_points=10, branches=())))
    moved = fold.take(stored(4, frame(0, [1.0, 1.0, 1.0, 1.0, 1.0])))
    assert (moved.points, moved.rate_s) == (5, pytest.approx(5 / 4))
    assert moved.remaining_s == pytest.approx(5 / (5 / 4))
    dead = ScanInterrupted(scan_id=SCAN, attempt=1, station_id="bench", instance="i", on_crash="resume", reason="dead")
    interrupted = fold.take(stored(5, dead, version=3))
    assert (interrupted.status, interrupted.interrupted, interrupted.reason) == ("running", True, "dead")
    assert interrupted.remaining_s is None and not interrupted.over


def test_progress_of_a_completed_scan_is_over() -> None:
    fold = Fold(SCAN)
    fold.take(stored(1, requested()))
    fold.take(
        stored(2, ScanStarted(scan_id=SCAN, attempt=1, station_id="bench", instance="i", total_points=10), version=2)
    )
    done = fold.take(stored(3, ScanCompleted(scan_id=SCAN, attempt=1, points=10), version=3))
    assert done.over and done.status == "completed" and done.ended_at is not None


def test_a_plan_comes_as_json_as_a_mapping_or_as_a_template_with_values() -> None:
    plan = Plan.model_validate(PLAN)
    assert as_plan(plan) == as_plan(PLAN) == as_plan(json.dumps(PLAN)) == plan
    nodes = json.loads(json.dumps(PLAN["nodes"]))
    nodes[0]["positions"]["num"] = {"$param": "num"}
    template = {"name": "line", "parameters": {"num": {"type": "int", "default": 10}}, "plan": {"nodes": nodes}}
    assert as_plan(template) == as_plan(Template.model_validate(template), {"num": 10}) == plan
    with pytest.raises(OutOfLimits, match="must be a whole number"):
        as_plan(template, {"num": "many"})


def test_an_address_is_told_apart_from_user_and_password() -> None:
    assert split_url("nats://ann:se%40cret@lab.example:4222") == ("nats://lab.example:4222", "ann", "se@cret")
    assert split_url("lab.example:4222") == ("nats://lab.example:4222", None, None)


def test_a_password_is_never_shown() -> None:
    lab = Lab.connect(url="nats://ann:secret@lab.example:4222")
    assert "secret" not in repr(lab) + repr(vars(lab)["_urls"])


# ------------------------------------------------------------------------------------------------------------------ hearing


@dataclass
class Nc:
    """As much of a NATS connection as an ear needs."""

    heard: Callable[[Msg], Awaitable[None]] | None = None
    subject: str = ""
    ended: bool = False

    async def subscribe(self, subject: str, cb: Callable[[Msg], Awaitable[None]], **_: Any) -> "Nc":
        self.subject, self.heard = subject, cb
        return self

    async def flush(self) -> None: ...

    async def unsubscribe(self) -> None:
        self.ended = True

    async def say(self, seq: int, before: int = 0, subject: str = f"evt.scan.{SCAN}") -> None:
        headers = {
            "Nats-Sequence": str(seq),
            "Nats-Subject": subject,
            "Nats-Last-Sequence": str(before),
            "Nats-Time-Stamp": "2026-05-04T13:00:00.000000Z",
        }
        assert self.heard is not None
        await self.heard(cast("Msg", _Message(headers)))


@dataclass
class _Message:
    headers: dict[str, str]
    data: bytes = b"{}"


@dataclass
class FakeBus:
    nc: Nc = field(default_factory=Nc)


async def test_an_event_that_was_read_already_is_not_heard_again() -> None:
    bus = FakeBus()
    async with Ear(cast("Bus", bus), f"evt.scan.{SCAN}") as ear:
        assert bus.nc.subject == f"live.evt.scan.{SCAN}"
        await bus.nc.say(7, before=5)
        await bus.nc.say(9, before=7)
        ear.caught_up(7)
        heard = await ear.next(1)
        assert heard is not None and heard.seq == 9
    assert bus.nc.ended


async def test_of_one_aggregate_a_lost_message_is_noticed_by_the_sequence_before() -> None:
    bus = FakeBus()
    async with Ear(cast("Bus", bus), f"evt.scan.{SCAN}") as ear:
        ear.caught_up(7)
        await bus.nc.say(12, before=9)  # 9 was lost on its way
        assert await ear.next(1) is None
        assert ear.reach == 12  # who reads behind 7 must come to 12


async def test_of_many_aggregates_a_lost_message_is_noticed_by_counting_all() -> None:
    bus = FakeBus()
    async with Ear(cast("Bus", bus), "evt.scan.*") as ear:
        assert bus.nc.subject == "live.evt.>"
        ear.caught_up(7)
        await bus.nc.say(8, subject="evt.queue.main")
        await bus.nc.say(9)
        heard = await ear.next(1)
        assert heard is not None and heard.seq == 9
        await bus.nc.say(11, subject="evt.queue.main")
        assert await ear.next(1) is None


async def test_silence_is_a_reason_to_look_again() -> None:
    async with Ear(cast("Bus", FakeBus()), "evt.>") as ear:
        began = asyncio.get_running_loop().time()
        assert await ear.next(0.05) is None
        assert asyncio.get_running_loop().time() - began < 60  # and not for ever


async def test_a_scan_says_its_template_and_the_targets_of_that_unless_it_has_its_own() -> None:
    sent: list[dict[str, Any]] = []

    class Heard:
        async def send(self, name: str, body: dict[str, Any], **_: Any) -> None:
            sent.append(body)

    scans = Scans(Heard())  # pyright: ignore[reportArgumentType]
    template = {"name": "grid", "parameters": {}, "plan": PLAN, "deliver": ["archive"]}
    await scans.submit(template)
    await scans.submit(json.dumps(template), deliver=[])
    await scans.submit(template, deliver=["mine"])
    await scans.submit(PLAN)
    assert [(body.get("template"), body.get("deliver")) for body in sent] == [
        ("grid", ["archive"]),
        ("grid", []),
        ("grid", ["mine"]),
        (None, None),
    ]
