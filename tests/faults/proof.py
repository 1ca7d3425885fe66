"""What must hold after any fault. Each function takes the whole history and raises with the first thing that does not."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bus.envelope import Head, Stored
from bus.outcomes import Outcome
from tests.faults.lab import Lab, ScanSent


def name(stored: Stored) -> str:
    return stored.type.rpartition(".v")[0]


def body(stored: Stored) -> dict[str, Any]:
    return json.loads(stored.data)


def chains_are_whole(events: Iterable[Stored]) -> None:
    """Every aggregate's events follow one another, and none was altered."""
    heads: dict[str, Head] = {}
    for stored in events:
        wrong = stored.wrong(heads.get(stored.subject, Head()))
        assert wrong is None, f"{stored.subject} at {stored.seq}: {wrong}"
        heads[stored.subject] = stored.head


def nothing_is_stored_twice(events: Iterable[Stored]) -> None:
    for key in ("message_id", "event_id"):
        doubled = [it for it, count in Counter(getattr(stored, key) for stored in events).items() if count > 1]
        assert not doubled, f"stored twice, by {key}: {doubled[:5]}"


def what_was_heard_is_there(events: Iterable[Stored], heard: Mapping[int, tuple[str, str, bytes]]) -> None:
    """An event that anybody ever heard of is in the stream, at its place and with its content."""
    there = {stored.seq: (stored.subject, stored.hash, stored.data) for stored in events}
    for seq, it in heard.items():
        assert there.get(seq) == it, f"heard at {seq}: {it[0]}; there now: {there.get(seq)}"


def outcomes_are_true(events: Iterable[Stored], outcomes: Mapping[str, Outcome]) -> None:
    """What an accepted command is said to have led to is there once, and nothing else follows from its decision."""
    by_command: dict[str, list[Stored]] = defaultdict(list)
    for stored in events:
        # The decision's own events are `<command id>:<index>`; those of its reactions have other keys.
        by_command[stored.message_id.rpartition(":")[0]].append(stored)
    for command_id, outcome in outcomes.items():
        found = [(stored.type, stored.subject, stored.seq) for stored in by_command[command_id]]
        said = [(event.type, event.subject, event.sequence) for event in outcome.events]
        if outcome.outcome in ("accepted", "refused", "invalid"):
            assert found == said, f"{outcome.command} {command_id}: said {said}, found {found}"


def nobody_writes_after_its_end(events: Iterable[Stored]) -> None:
    """After a run of a station was declared lost (or said good-bye) it has written nothing more."""
    ended: dict[str, int] = {}
    for stored in events:
        assert stored.causation not in ended, (
            f"run {stored.causation} ended at {ended[stored.causation]} and wrote {stored.type} at {stored.seq}"
        )
        if name(stored) in ("station.lost", "station.stopped"):
            ended[body(stored)["instance"]] = stored.seq


def every_run_but_the_last_is_said_to_have_ended(events: Iterable[Stored]) -> None:
    """A run of the station follows only on the end of the one before, which is an event."""
    up = ""
    for stored in events:
        if name(stored) == "station.started":
            assert not up, f"run {up} has no end in the history"
            up = body(stored)["instance"]
        elif name(stored) in ("station.lost", "station.stopped"):
            assert body(stored)["instance"] == up
            up = ""


def points_of(events: Iterable[Stored], scan_id: str) -> list[Stored]:
    return [stored for stored in events if stored.subject == f"evt.readings.{scan_id}"]


def every_point_once(events: Sequence[Stored], scan: ScanSent) -> None:
    """Each point of a completed scan exactly once in its final attempt (or before it, where that went on), and right."""
    by_attempt: dict[int, list[int]] = defaultdict(list)
    first_of: dict[int, int] = {}
    for stored in points_of(events, scan.id):
        it = body(stored)
        if name(stored) == "readings.opened":
            attempt = it["attempt"]
            if attempt not in first_of:
                first_of[attempt] = it["from_point"]
                durable = max((k + 1 for ks in by_attempt.values() for k in ks), default=0)
                expected = 0 if scan.on_crash == "restart" else durable
                assert it["from_point"] == expected, f"attempt {attempt} began at {it['from_point']}, not at {expected}"
        elif name(stored) == "readings.recorded":
            first, count = it["first_point"], len(it["time"])
            by_attempt[it["attempt"]] += range(first, first + count)
            columns = dict(zip(it["names"], it["values"], strict=True))
            for i in range(count):
                x = scan.start + (first + i) * (scan.stop - scan.start) / (scan.points - 1)
                got = {key.rpartition(".")[2]: values[i] for key, values in columns.items()}
                assert abs(got["position"] - x) < 1e-9 and got["a"] == got["position"], (scan.id, first + i, got)
    everywhere: Counter[int] = Counter()
    for attempt, points in by_attempt.items():
        twice = [k for k, count in Counter(points).items() if count > 1]
        assert not twice, f"scan {scan.id}, attempt {attempt}: recorded twice {twice[:5]}"
        assert points == sorted(points)
        everywhere.update(points)
    final = max(first_of)
    if scan.on_crash == "restart":
        assert by_attempt[final] == list(range(scan.points)), f"scan {scan.id} is not whole in attempt {final}"
    else:
        assert sorted(everywhere.elements()) == list(range(scan.points)), (
            f"scan {scan.id}: missing {sorted(set(range(scan.points)) - set(everywhere))[:5]}, "
            f"again {[k for k, count in everywhere.items() if count > 1][:5]}"
        )


def history_tells_of_interruptions(events: Iterable[Stored], scan: ScanSent) -> None:
    """Started, then as often interrupted as continued; ended once."""
    state = "queued"
    instance = ""
    for stored in events:
        if stored.subject != f"evt.scan.{scan.id}":
            continue
        it = body(stored)
        match name(stored):
            case "scan.started":
                assert state == "queued"
                state, instance = "running", it["instance"]
            case "scan.interrupted":
                assert state == "running" and it["instance"] == instance
                state = "interrupted"
            case "scan.continued":
                assert state == "interrupted"
                state, instance = "running", it["instance"]
            case "scan.completed":
                assert state == "running"
                state = "over"
            case _:
                assert state != "over"
    # Whoever wrote readings was the run that the scan's history names.
    writers = {stored.causation for stored in points_of(list(events), scan.id)}
    told = {
        body(stored).get("instance")
        for stored in events
        if stored.subject == f"evt.scan.{scan.id}" and name(stored) in ("scan.started", "scan.continued")
    }
    assert writers <= told, f"scan {scan.id} was measured by runs that its history does not name: {writers - told}"


def its_job_ended_once(events: Iterable[Stored], scan: ScanSent, how: str = "succeeded") -> None:
    types = [name(stored) for stored in events if stored.subject == f"evt.job.{scan.id}"]
    assert types.count("job.submitted") == 1 and types.count("job.started") == 1, types
    assert types.count(f"job.{how}") == 1 and types[-1] == f"job.{how}", types
    queue = [
        (name(stored), body(stored).get("job_id"))
        for stored in events
        if stored.subject.startswith("evt.queue.") and body(stored).get("job_id") == scan.id
    ]
    assert [it for it, _ in queue] == ["queue.job_added", "queue.job_dispatched", "queue.job_finished"], queue


async def all_holds(lab: Lab, *, completed: Sequence[ScanSent] | None = None) -> list[Stored]:
    """Every promise about commands, events and points. Answers the whole history."""
    outcomes = {sent.id: await lab.outcome(sent) for sent in lab.sent.values()}
    done = lab.scans if completed is None else completed
    for scan in done:
        assert outcomes[scan.command.id].outcome == "accepted"

        async def left(scan: ScanSent = scan) -> bool:
            queue = await lab.history("queue", "main")
            return any(name(it) == "queue.job_finished" and body(it)["job_id"] == scan.id for it in queue)

        await lab.until(left, f"scan {scan.id} has left its queue")
    await lab.read_models_follow()
    heard = dict(lab.heard)  # what comes later is not in the history that is read now
    events = await lab.events()
    assert [stored.seq for stored in events] == sorted({stored.seq for stored in events})
    chains_are_whole(events)
    nothing_is_stored_twice(events)
    what_was_heard_is_there(events, heard)
    outcomes_are_true(events, outcomes)
    nobody_writes_after_its_end(events)
    every_run_but_the_last_is_said_to_have_ended(events)
    for scan in done:
        every_point_once(events, scan)
        history_tells_of_interruptions(events, scan)
        its_job_ended_once(events, scan)
    await lab.read_models_are_true()
    return events
