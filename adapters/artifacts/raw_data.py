"""The readings of a scan as a Parquet file: a row for each point, positions and readings as they were recorded.

The schema's metadata (key `labledger`) says what was measured and where it is written; each column's its unit, instrument and
channel. Arrays are lists in C order (`shape` in the column's metadata); those too large stay in their blobs, and the column says
which (`sha256`) and which of the arrays in it (`index`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np
import pyarrow.parquet as pq  # pyright: ignore[reportMissingTypeStubs]

from adapters.artifacts.rows import Rows, arrow, arrow_type, fits
from domain.readings import BranchColumns, ColumnInfo

parquet: Any = pq

FIRST = ("point", "time", "attempt", "branch")


class RawData:
    """Writes row groups as they come."""

    def __init__(
        self, file: IO[bytes], branches: Sequence[BranchColumns], about: Mapping[str, Any], types: Mapping[str, str]
    ) -> None:
        self._columns = {column.name: column for branch in branches for column in branch.columns}
        fields = [
            arrow.field("point", arrow.int64(), nullable=False),
            arrow.field("time", arrow.float64(), nullable=False, metadata={"unit": "s", "doc": "unix time"}),
            arrow.field("attempt", arrow.int32(), nullable=False),
            arrow.field("branch", arrow.int32(), nullable=False),
            *(
                arrow.field(name, arrow_type(column, types), metadata=_told(column, types))
                for name, column in self._columns.items()
            ),
        ]
        self.schema = arrow.schema(fields, metadata={"labledger": json.dumps(about, ensure_ascii=False)})
        self._writer = parquet.ParquetWriter(
            file, self.schema, version="2.6", compression="zstd", compression_level=3, data_page_version="1.0"
        )

    def add(self, chunk: Sequence[Rows]) -> None:
        """Write a chunk as a row group, in the order of the points."""
        counts = [len(rows.points) for rows in chunk]
        points = np.concatenate([rows.points for rows in chunk])
        branch = np.repeat(np.array([rows.branch for rows in chunk], np.int32), counts)
        columns = [
            arrow.array(points),
            arrow.array(np.concatenate([rows.time for rows in chunk])),
            arrow.array(np.concatenate([rows.attempt for rows in chunk])),
            arrow.array(branch),
        ]
        for name in self._columns:
            type_ = self.schema.field(name).type
            parts = [
                rows.columns[name] if name in rows.columns else arrow.nulls(count, type_)
                for rows, count in zip(chunk, counts, strict=True)
            ]
            columns.append(arrow.concat_arrays(parts))
        table = arrow.Table.from_arrays(columns, schema=self.schema)
        if len(chunk) > 1:
            table = table.take(np.argsort(points, kind="stable"))
        self._writer.write_table(table, row_group_size=len(points))

    def close(self) -> None:
        self._writer.close()


def _told(column: ColumnInfo, types: Mapping[str, str]) -> dict[str, str]:
    told = {"unit": column.unit, "instrument": column.instrument, "channel": column.channel, "role": column.role}
    if column.type == "array":
        told |= {"shape": json.dumps(column.shape), "kept": "here" if fits(column, types) else "in blobs"}
    elif column.name in types:
        told["recorded"] = f"said to be {column.type}, and is not; each value as JSON"
    return told
