"""The readings: one row a point, its numbers as one array, written in binary by the thousand.

What the numbers are, `scan_columns` says; `reading_values` has them one by one with name and unit. Texts stand in
`texts`, arrays by reference in `reading_arrays`. A point that was measured in several attempts has a row for each.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import numpy as np
import orjson
from psycopg import sql

from bus.envelope import Stored
from bus.postgres import COPY_HEADER, COPY_TRAILER, Connection, float_arrays, microseconds, packed
from bus.projector import Column, Projection, Rows, Table, View
from domain.readings import ReadingsOpened, ReadingsRecorded

readings = Table(
    "readings",
    key=("scan_id", "point", "attempt"),
    columns=(
        Column("scan_id", "uuid", "The scan."),
        Column("point", "bigint", "The point's number in the plan, from 0."),
        Column("attempt", "integer", "The attempt that measured it."),
        Column("branch", "integer", "Which columns it has: the branch in scan_columns."),
        Column("measured_at", "timestamptz", "When it was measured."),
        Column("values", "double precision[]", "Its numbers in the order of scan_columns; NaN where there was none."),
        Column("texts", "jsonb", "Its texts by column name; NULL when it has none."),
    ),
)

columns = Table(
    "columns",
    key=("scan_id", "branch", "ordinal"),
    columns=(
        Column("scan_id", "uuid", "The scan."),
        Column("branch", "integer", "The branch of its plan, from 0."),
        Column("ordinal", "integer", "Its place in the branch, from 1."),
        Column("name", "text", "The column's name."),
        Column("unit", "text", "Its unit."),
        Column("role", "text", "position or reading."),
        Column("instrument", "text", "The instrument."),
        Column("channel", "text", "Its channel."),
        Column("type", "text", "float, int, bool, str or array."),
        Column("shape", "integer[]", "The shape of one value; empty but for arrays."),
    ),
)

arrays = Table(
    "arrays",
    key=("scan_id", "attempt", "first_point", "name"),
    columns=(
        Column("scan_id", "uuid", "The scan."),
        Column("attempt", "integer", "The attempt."),
        Column("first_point", "bigint", "The first of the consecutive points whose arrays are stacked in the blob."),
        Column("points", "integer", "How many points."),
        Column("name", "text", "The column."),
        Column("sha256", "text", "The blob: raw bytes in C order."),
        Column("dtype", "text", "numpy's name of the number type."),
        Column("shape", "bigint[]", "The shape of the stack; the first number is `points`."),
    ),
)


@dataclass
class _Run:
    """Frames of one scan, attempt and branch that were recorded in the same columns, one behind the other."""

    columns: list[list[Any]]
    first_points: list[int] = field(default_factory=list[int])
    counts: list[int] = field(default_factory=list[int])
    times: list[float] = field(default_factory=list[float])


def _body(stored: Stored) -> dict[str, Any]:
    """A frame as plain data; one of an older version is upcast."""
    if stored.type == ReadingsRecorded.TYPE:
        return orjson.loads(stored.data)
    return stored.event.model_dump(mode="json")


async def _text_columns(
    connection: Connection, schema: str, batch: Sequence[Stored]
) -> dict[tuple[str, int], set[str]]:
    """Which columns hold texts, by scan and branch. What a frame holds does not tell: a text may be missing in all of it."""
    scans = sorted({stored.id for stored in batch if stored.type.startswith("readings.recorded.")})
    query = sql.SQL("select scan_id::text, branch, name from {} where type = 'str' and scan_id = any(%s::uuid[])")
    found = await connection.execute(query.format(sql.Identifier(schema, "columns")), [scans])
    texts: dict[tuple[str, int], set[str]] = {}
    for row in await found.fetchall():
        texts.setdefault((row["scan_id"], row["branch"]), set()).add(row["name"])
    for stored in batch:  # those opened in this batch are not written yet
        if stored.type.startswith("readings.opened."):
            event = stored.event
            assert isinstance(event, ReadingsOpened)
            for branch, of in enumerate(event.branches):
                texts[str(event.scan_id), branch] = {column.name for column in of.columns if column.type == "str"}
    return texts


async def copy(connection: Connection, schema: str, batch: Sequence[Stored]) -> None:
    """Write the frames of a batch: one binary COPY for each width of row, and the points with texts beside it."""
    runs: dict[tuple[str, int, int, int], _Run] = {}
    worded: list[tuple[Any, ...]] = []
    references: list[dict[str, Any]] = []
    texts = await _text_columns(connection, schema, batch)
    for stored in batch:
        if not stored.type.startswith("readings.recorded."):
            continue
        frame = _body(stored)
        scan_id, attempt, branch = frame["scan_id"], frame["attempt"], frame["branch"]
        names, values, times, first = frame["names"], frame["values"], frame["time"], frame["first_point"]
        references += [_reference(frame, name, ref) for name, ref in frame["arrays"].items()]
        said = texts.get((scan_id, branch), _NONE)
        if said or any(str in set(map(type, column)) for column in values):
            worded += _worded(frame, said)
            continue
        run = runs.get((scan_id, attempt, branch, len(names)))
        if run is None:
            run = runs[scan_id, attempt, branch, len(names)] = _Run([[] for _ in names])
        for column, more in zip(run.columns, values, strict=True):
            column += more
        run.first_points.append(first)
        run.counts.append(len(times))
        run.times += times
    by_width: dict[int, list[bytes]] = {}
    for (scan_id, attempt, branch, width), run in runs.items():
        by_width.setdefault(width, []).append(_packed(UUID(scan_id), attempt, branch, run))
    name = sql.Identifier(schema, "readings")
    for bodies in by_width.values():
        async with (
            connection.cursor() as cursor,
            cursor.copy(sql.SQL("copy {} from stdin (format binary)").format(name)) as out,
        ):
            await out.write(COPY_HEADER)
            for body in bodies:
                await out.write(body)
            await out.write(COPY_TRAILER)
    if worded:
        query = sql.SQL("insert into {} values (%s, %s, %s, %s, to_timestamp(%s), %s, %s)").format(name)
        async with connection.cursor() as cursor:
            await cursor.executemany(query, worded)
    if references:
        query = sql.SQL("insert into {} select * from jsonb_populate_recordset(null::{}, %s::jsonb)")
        name = sql.Identifier(schema, "arrays")
        await connection.execute(query.format(name, name), [orjson.dumps(references).decode()])


_NONE: frozenset[str] = frozenset()


def _packed(scan_id: UUID, attempt: int, branch: int, run: _Run) -> bytes:
    """The rows of a run in binary COPY format."""
    counts = np.array(run.counts)
    total, width = len(run.times), len(run.columns)
    values = np.empty((total, width))
    for n, column in enumerate(run.columns):
        values[:, n] = np.array(column, dtype=np.float64)  # None becomes NaN
    # The number of each row within its frame, and from there its point.
    within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    return packed(
        [
            ("scan_id", "V16", np.void(scan_id.bytes)),
            ("point", ">i8", np.repeat(np.array(run.first_points), counts) + within),
            ("attempt", ">i4", attempt),
            ("branch", ">i4", branch),
            ("measured_at", ">i8", microseconds(run.times)),
            ("values", f"V{20 + 12 * width}", float_arrays(values)),
            ("texts", "null", None),
        ],
        total,
    )


def _worded(frame: dict[str, Any], said: Set[str]) -> list[tuple[Any, ...]]:
    """The rows of a frame with texts. A text that stands in a column of numbers (an overload, say) is kept as a text too,
    and NaN keeps the place of its number."""
    names, columns, first = frame["names"], frame["values"], frame["first_point"]
    key = (frame["attempt"], frame["branch"])
    rows: list[tuple[Any, ...]] = []
    for k, time in enumerate(frame["time"]):
        numbers: list[float] = []
        words: dict[str, Any] = {}
        for name, column in zip(names, columns, strict=True):
            value = column[k]
            if name in said or type(value) is str:
                words[name] = value
            if name not in said:
                numbers.append(float("nan") if value is None or type(value) is str else float(value))
        # jsonb cannot hold the character NUL.
        text = orjson.dumps(words).replace(b"\\u0000", b"\\ufffd").decode() if words else None
        rows.append((frame["scan_id"], first + k, *key, time, numbers, text))
    return rows


def _reference(frame: dict[str, Any], name: str, ref: dict[str, Any]) -> dict[str, Any]:
    return {
        "scan_id": frame["scan_id"],
        "attempt": frame["attempt"],
        "first_point": frame["first_point"],
        "points": len(frame["time"]),
        "name": name,
        "sha256": ref["sha256"],
        "dtype": ref["dtype"],
        "shape": ref["shape"],
    }


_NUMBERED = "select *, row_number() over (partition by scan_id, branch order by ordinal) as n from {schema}.columns where type not in ('str', 'array')"

projection = Projection(
    "readings",
    version=2,
    tables=[readings, columns, arrays],
    views=[
        View(
            "readings",
            "One row for each point and attempt.",
            "select * from {schema}.readings",
            {c.name: c.doc for c in readings.columns},
        ),
        View(
            "scan_columns",
            "What the columns of a scan are. `position` in `values` counts the numbers of the branch.",
            "select c.scan_id, c.branch, c.ordinal, c.name, c.unit, c.role, c.instrument, c.channel, c.type, c.shape,"
            f" n.n as value_index from {{schema}}.columns c left join ({_NUMBERED}) n using (scan_id, branch, ordinal)",
            {c.name: c.doc for c in columns.columns if c.name != "ordinal"}
            | {
                "ordinal": "The column's place in its branch, from 1.",
                "value_index": "Its place in `readings.values`, from 1; NULL for texts and arrays.",
            },
        ),
        View(
            "reading_values",
            "The numbers of the readings one by one, with name and unit. Ask for one scan at a time.",
            "select r.scan_id, r.point, r.attempt, r.measured_at, n.name, n.unit, r.values[n.n] as value"
            f" from {{schema}}.readings r join ({_NUMBERED}) n using (scan_id, branch)",
            {
                "scan_id": "The scan.",
                "point": "The point's number in the plan, from 0.",
                "attempt": "The attempt that measured it.",
                "measured_at": "When it was measured.",
                "name": "The column.",
                "unit": "Its unit.",
                "value": "The number; NaN where there was none.",
            },
        ),
        View(
            "reading_arrays",
            "Where the arrays of a scan lie in the blob store.",
            "select * from {schema}.arrays",
            {c.name: c.doc for c in arrays.columns},
        ),
    ],
    bulk=copy,
    bulk_events=[ReadingsRecorded],
)


@projection.on(ReadingsOpened)
def opened(event: ReadingsOpened, stored: Stored, rows: Rows) -> None:
    if stored.version > 1:
        return  # the columns of a scan are those of its plan: a later opening names the same ones
    for branch, of in enumerate(event.branches):
        for ordinal, column in enumerate(of.columns, 1):
            rows.append(
                columns,
                {"scan_id": event.scan_id, "branch": branch, "ordinal": ordinal}
                | column.model_dump(include={"name", "unit", "role", "instrument", "channel", "type"})
                | {"shape": list(column.shape)},
            )
