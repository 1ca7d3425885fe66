"""The readings: one row a point, its numbers as one array, written in binary by the thousand.

What the numbers are, `scan_columns` says; `reading_values` has them one by one with name and unit. Texts stand in
`texts`, arrays by reference in `reading_arrays`. A point that was measured in several attempts has a row for each.
"""

from collections.abc import Sequence
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


async def copy(connection: Connection, schema: str, batch: Sequence[Stored]) -> None:
    """Write the frames of a batch: one binary COPY for each width of row."""
    numbers: dict[int, list[tuple[Any, ...]]] = {}
    rows: dict[int, list[tuple[Any, ...]]] = {}
    texts: list[tuple[Any, ...]] = []
    for stored in batch:
        if stored.type != ReadingsRecorded.TYPE:
            continue
        frame = orjson.loads(stored.data)
        times, values = frame["time"], frame["values"]
        count, first = len(times), frame["first_point"]
        worded = [n for n, column in enumerate(values) if any(type(value) is str for value in column)]
        plain = [column for n, column in enumerate(values) if n not in worded]
        key = (UUID(frame["scan_id"]).bytes, frame["attempt"], frame["branch"])
        if worded:
            said = [{frame["names"][n]: values[n][k] for n in worded} for k in range(count)]
            texts += [
                (frame["scan_id"], first + k, *key[1:], times[k], [column[k] for column in plain], said[k])
                for k in range(count)
            ]
            continue
        width = len(plain)
        rows.setdefault(width, []).extend((first + k, *key, times[k]) for k in range(count))
        numbers.setdefault(width, []).extend(zip(*plain, strict=True) if plain else [()] * count)
    name = sql.Identifier(schema, "readings")
    for width, found in rows.items():
        points, scans, attempts, branches, times = zip(*found, strict=True)
        values = np.array(numbers[width], dtype=np.float64).reshape(len(found), width)  # None becomes NaN
        body = packed(
            [
                ("scan_id", "V16", np.frombuffer(b"".join(scans), dtype="V16")),
                ("point", ">i8", points),
                ("attempt", ">i4", attempts),
                ("branch", ">i4", branches),
                ("measured_at", ">i8", microseconds(times)),
                ("values", f"V{20 + 12 * width}", float_arrays(values)),
                ("texts", "null", None),
            ],
            len(found),
        )
        async with (
            connection.cursor() as cursor,
            cursor.copy(sql.SQL("copy {} from stdin (format binary)").format(name)) as out,
        ):
            await out.write(COPY_HEADER + body + COPY_TRAILER)
    if texts:
        query = sql.SQL("insert into {} values (%s, %s, %s, %s, to_timestamp(%s), %s, %s)").format(name)
        async with connection.cursor() as cursor:
            await cursor.executemany(
                query,
                [
                    (*row[:5], [float("nan") if v is None else float(v) for v in row[5]], orjson.dumps(row[6]).decode())
                    for row in texts
                ],
            )


_NUMBERED = "select *, row_number() over (partition by scan_id, branch order by ordinal) as n from {schema}.columns where type not in ('str', 'array')"

projection = Projection(
    "readings",
    version=1,
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


@projection.on_data(ReadingsRecorded)
def referred(frame: dict[str, Any], stored: Stored, rows: Rows) -> None:
    for name, ref in frame["arrays"].items():
        rows.append(
            arrays,
            {
                "scan_id": frame["scan_id"],
                "attempt": frame["attempt"],
                "first_point": frame["first_point"],
                "points": len(frame["time"]),
                "name": name,
                "sha256": ref["sha256"],
                "dtype": ref["dtype"],
                "shape": ref["shape"],
            },
        )
