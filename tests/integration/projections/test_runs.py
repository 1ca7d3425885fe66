"""A run's table says what the run's own state says, however the batches fall."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from bus import postgres, projector
from bus.envelope import Head, Meta, Stored, seal
from domain import run as module
from domain.events import Event, encode
from domain.run import (
    AddMeasurement,
    AttachToRun,
    FinishRun,
    NotePart,
    RetryFailed,
    Run,
    RunMetadata,
    StartRun,
    analysis_of,
    opening_of,
)
from projections import named

R = "run-1"
ABOUT = RunMetadata(mask_id=42, run_name="run one", lot_name="L", wafer_name="W", station="S", operator="ann")
A, B, C, REPORT = (UUID(int=n) for n in (1, 2, 3, 9))


def add(id_: UUID) -> AddMeasurement:
    data = {"device_name": f"ring_{id_.int}", "measurement_type": "spectrum", "die_x": id_.int, "die_y": 0}
    return AddMeasurement.model_validate(
        {"run_id": R, "measurement_id": id_, "data": data, "sha256": f"{id_.int:064x}", "size_bytes": 10}
    )


def note(id_: UUID, state: module.PartState, **more: Any) -> NotePart:
    return NotePart(run_id=R, delivery_id=id_, state=state, **more)


COMMANDS: list[module.RunCommand] = [
    StartRun(run_id=R, metadata=ABOUT),
    add(A),
    note(opening_of(R), "delivered", remote_id="17"),
    note(A, "delivered", remote_id="1001"),
    add(B),
    add(C),
    AttachToRun(run_id=R, attachment_id=REPORT, sha256="d" * 64, size_bytes=7, file_name="report.pdf"),
    note(B, "parked", reason="401"),
    note(C, "parked", reason="422"),
    note(C, "cancelled", reason="broken chip"),
    FinishRun(run_id=R, analyse=True),
    RetryFailed(run_id=R),
    note(B, "delivered", remote_id="1002"),
    note(REPORT, "delivered"),
    note(analysis_of(R), "delivered"),
]


def history() -> tuple[Run, list[Stored]]:
    run, found = Run(), list[Stored]()
    for command in COMMANDS:
        for event in module.decide(run, command):
            run = module.evolve(run, event)
            found.append(stored(event, len(found)))
    return run, found


def stored(event: Event, n: int) -> Stored:
    body = encode(event)
    headers, _ = seal(f"evt.run.{R}", event.TYPE, body, Head(n, n, ""), Meta("c"), f"c:{n}")
    return Stored(n + 1, f"evt.run.{R}", headers, body, datetime(2026, 11, 20, 12, 0, n, tzinfo=UTC))


@pytest.mark.parametrize("size", [1, 4, 100])
async def test_the_table_says_what_the_run_says(postgres_url: str, size: int) -> None:
    run, events = history()
    async with await postgres.connect(postgres_url, "runs") as connection:
        await projector.prepare(connection)
        writer = await projector.new_generation(connection, named("runs"), live=True)
        batches: Sequence[Sequence[Stored]] = [events[at : at + size] for at in range(0, len(events), size)]
        for batch in batches:
            await writer.write(batch)
        (row,) = await (await connection.execute("select * from labledger.runs")).fetchall()
        rows = await (await connection.execute("select * from labledger.run_parts")).fetchall()
    counted = run.statistics
    assert (row["measurements"], row["successful"]) == (counted.total, counted.successful) == (3, 2)
    assert (row["failed"], row["pending"], row["parked"]) == (counted.failed, counted.pending, 0) == (1, 0, 0)
    assert (row["run_name"], row["mask_id"], row["operator"], row["remote_id"]) == ("run one", 42, "ann", "17")
    assert (row["finished"], row["analysis_asked"], row["analysed"], row["opened"]) == (True, True, True, True)
    assert row["delivered_bytes"] == 27 and row["attachments"] == 1
    assert {str(one["delivery_id"]): one["state"] for one in rows} == {
        id_: part.state for id_, part in run.parts.items()
    }
    by_id = {one["delivery_id"]: one for one in rows}
    assert by_id[A]["remote_id"] == "1001" and by_id[A]["device_name"] == "ring_1" and by_id[A]["key"]
    assert by_id[C]["reason"] == "broken chip" and by_id[B]["reason"] is None
    assert by_id[REPORT]["file_name"] == "report.pdf" and by_id[REPORT]["lot_name"] is None
    assert all(one["ended_at"] for one in rows)


async def test_in_the_middle_it_says_so_too(postgres_url: str) -> None:
    _, events = history()
    upto = next(n for n, one in enumerate(events) if one.type.startswith("run.retry_requested")) + 1
    async with await postgres.connect(postgres_url, "runs") as connection:
        await projector.prepare(connection)
        writer = await projector.new_generation(connection, named("runs"), live=True)
        await writer.write(events[:upto])
        (row,) = await (await connection.execute("select * from labledger.runs")).fetchall()
    assert (row["successful"], row["failed"], row["pending"], row["analysed"]) == (1, 1, 1, False)
