"""What a frame holds is what a reader sees, whatever is missing in it and however the batches fall."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from bus import postgres, projector
from bus.envelope import Head, Meta, Stored, seal
from bus.postgres import Connection
from domain.events import Event, encode
from domain.readings import BranchColumns, ColumnInfo, ReadingsOpened, ReadingsRecorded
from projections import named

SCAN = UUID(int=7)
NAMES = ("dmm.range", "dmm.voltage")


def opened() -> ReadingsOpened:
    columns = (
        ColumnInfo(name="dmm.range", instrument="dmm", channel="range", role="reading", type="str"),
        ColumnInfo(name="dmm.voltage", unit="V", instrument="dmm", channel="voltage", role="reading"),
    )
    branches = (BranchColumns(columns=columns),)
    return ReadingsOpened(scan_id=SCAN, attempt=1, from_point=0, total_points=100, branches=branches)


def frame(first: int, ranges: list[Any], voltages: list[Any]) -> ReadingsRecorded:
    return ReadingsRecorded(
        scan_id=SCAN,
        attempt=1,
        branch=0,
        first_point=first,
        names=NAMES,
        units=("", "V"),
        time=[1.79e9 + first + n for n in range(len(voltages))],
        values=[ranges, voltages],
    )


def history(*events: Event) -> list[Stored]:
    found: list[Stored] = []
    for n, event in enumerate(events):
        body = encode(event)
        headers, _ = seal(f"evt.readings.{SCAN}", event.TYPE, body, Head(n, n, ""), Meta("c"), f"c:{n}")
        found.append(Stored(n + 1, f"evt.readings.{SCAN}", headers, body, datetime.now(UTC)))
    return found


async def written(connection: Connection, batches: Sequence[Sequence[Stored]]) -> None:
    await projector.prepare(connection)
    writer = await projector.new_generation(connection, named("readings"), live=True)
    for batch in batches:
        await writer.write(batch)


async def voltages(connection: Connection) -> dict[int, float]:
    found = await connection.execute("select point, value from labledger.reading_values where name = 'dmm.voltage'")
    return {row["point"]: row["value"] for row in await found.fetchall()}


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_text_that_is_missing_in_a_whole_frame_moves_no_number(postgres_url: str, at_once: bool) -> None:
    events = history(opened(), frame(0, ["low", "high"], [1.5, 2.5]), frame(2, [None, None], [3.5, None]))
    async with await postgres.connect(postgres_url, "test") as connection:
        await written(connection, [events] if at_once else [[event] for event in events])
        found = await voltages(connection)
        assert [found[0], found[1], found[2]] == [1.5, 2.5, 3.5]
        assert math.isnan(found[3])


async def test_a_text_among_numbers_costs_no_other_number(postgres_url: str) -> None:
    """Some instruments answer an overload in words."""
    async with await postgres.connect(postgres_url, "test") as connection:
        await written(connection, [history(opened(), frame(0, ["low"] * 3, [1.5, "OVLD", 3.5]))])
        found = await voltages(connection)
        assert (found[0], found[2]) == (1.5, 3.5)
        assert math.isnan(found[1])
        row = await (await connection.execute("select texts from labledger.readings where point = 1")).fetchone()
        assert row == {"texts": {"dmm.range": "low", "dmm.voltage": "OVLD"}}


async def test_the_character_nul_in_a_text_stops_nothing(postgres_url: str) -> None:
    async with await postgres.connect(postgres_url, "test") as connection:
        await written(connection, [history(opened(), frame(0, ["a\x00b"], [1.0]))])
        row = await (await connection.execute("select texts from labledger.readings")).fetchone()
        assert row == {"texts": {"dmm.range": "a\ufffdb"}}


async def test_frames_of_many_sizes_keep_their_points(postgres_url: str) -> None:
    columns = (ColumnInfo(name="dmm.voltage", unit="V", instrument="dmm", channel="voltage", role="reading"),)
    events: list[Event] = [opened().model_copy(update={"branches": (BranchColumns(columns=columns),)})]
    first = 0
    for size in (1, 7, 1, 30, 2, 1):
        values = [[float(10 * (first + n)) for n in range(size)]]
        whole = frame(first, [None] * size, [None] * size)
        events.append(whole.model_copy(update={"names": ("dmm.voltage",), "units": ("V",), "values": values}))
        first += size
    async with await postgres.connect(postgres_url, "test") as connection:
        await written(connection, [history(*events)])
        found = await connection.execute(
            'select point, "values"[1] as v, extract(epoch from measured_at)::float8 as t from labledger.readings order by 1'
        )
        rows = [(row["point"], row["v"], row["t"]) for row in await found.fetchall()]
    assert rows == [(n, 10.0 * n, 1.79e9 + n) for n in range(first)]
