"""Small helpers for Postgres: connections that notice a dead server, and rows as they go over the wire."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.rows import dict_row

Connection = psycopg.AsyncConnection[dict[str, Any]]

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC).timestamp()

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + b"\0" * 8
COPY_TRAILER = b"\xff\xff"


async def connect(url: str, name: str) -> Connection:
    """A connection in autocommit mode, whose rows are dicts. A server that is gone is noticed within seconds."""
    return await psycopg.AsyncConnection[dict[str, Any]].connect(
        url,
        autocommit=True,
        row_factory=dict_row,
        application_name=name,
        connect_timeout=5,
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
        options="-c TimeZone=UTC",
    )


def microseconds(unix_s: Any) -> NDArray[np.int64]:
    """Unix seconds as Postgres' binary timestamps: microseconds since 2000."""
    return np.round((np.asarray(unix_s, float) - _EPOCH) * 1e6).astype(np.int64)


def packed(fields: list[tuple[str, str, Any]], count: int) -> bytes:
    """Rows of fixed width in binary COPY format. `fields`: (name, numpy type, values); a value's bytes are sent as they
    are, so numbers must be big-endian (`>i8`). A type "null" sends NULL."""
    spec: list[tuple[str, Any]] = [("fields", ">i2")]
    for name, kind, _ in fields:
        spec.append((f"{name}_size", ">i4"))
        if kind != "null":
            spec.append((name, kind))
    rows = np.zeros(count, dtype=np.dtype(spec))
    rows["fields"] = len(fields)
    for name, kind, values in fields:
        if kind == "null":
            rows[f"{name}_size"] = -1
        else:
            rows[f"{name}_size"] = np.dtype(kind).itemsize
            rows[name] = values
    return rows.tobytes()


def float_arrays(values: NDArray[np.float64]) -> NDArray[Any]:
    """Rows of floats (n x m) as binary `float8[]` values."""
    count, width = values.shape
    kind = np.dtype([("dims", ">i4"), ("nulls", ">i4"), ("oid", ">i4"), ("width", ">i4"), ("first", ">i4")])
    element = np.dtype([("size", ">i4"), ("value", ">f8")])
    rows = np.zeros(count, dtype=np.dtype([("head", kind), ("values", element, (width,))]))
    rows["head"]["dims"], rows["head"]["oid"], rows["head"]["width"], rows["head"]["first"] = 1, 701, width, 1
    rows["values"]["size"] = 8
    rows["values"]["value"] = values
    return rows.view(np.dtype(f"V{rows.dtype.itemsize}"))
