"""Readings as files that others read: CSV and Parquet."""

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from domain.scan import Scan
from labledger.client import LabError, Readings


def about(readings: Readings, scan: Scan) -> dict[str, Any]:
    """What a file says of its scan."""
    return {
        "scan_id": str(readings.scan_id),
        "title": scan.title,
        "sample_id": scan.sample_id,
        "status": scan.status,
        "points": readings.points,
        "total_points": scan.total_points,
        "units": readings.units,
        "metadata": dict(scan.metadata),
        "plan": scan.plan.model_dump(mode="json") if scan.plan else None,
    }


def write(readings: Readings, scan: Scan, path: Path, kind: str) -> None:
    """Write a `csv` or `parquet` file, all of it or nothing. `-` is standard output (csv only).

    Raises `LabError` for Parquet where pyarrow is not installed, `OSError`.
    """
    if str(path) == "-":
        if kind != "csv":
            raise LabError("Parquet is not for standard output: give a file with -o")
        _csv(readings, scan, sys.stdout)
        return
    part = path.with_name(f".{path.name}.part")
    try:
        if kind == "csv":
            with part.open("w", encoding="utf-8", newline="") as file:
                _csv(readings, scan, file)
        else:
            _parquet(readings, scan, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _csv(readings: Readings, scan: Scan, file: IO[str]) -> None:
    """Lines of `# key: value`, then a head, then a row for each point. Arrays are left out: `#` names them."""
    for key, value in about(readings, scan).items():
        file.write(f"# {key}: {json.dumps(value)}\n")
    if readings.arrays:
        file.write(f"# arrays that are not in this file: {json.dumps(list(readings.arrays))}\n")
    names = [name for name in readings if name not in readings.arrays]
    heads = [f"{name} ({unit})" if (unit := readings.units.get(name)) else name for name in names]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(heads)
    for row in readings.rows():
        # An empty field is no value: NaN would be a number to some readers and a text to others.
        writer.writerow("" if value is None or value != value else value for value in row.values())


def _parquet(readings: Readings, scan: Scan, path: Path) -> None:
    try:
        import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]
        import pyarrow.parquet as pq  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise LabError("Parquet needs pyarrow: pip install 'labledger[parquet]', or export as csv") from error
    arrow: Any = pa
    parquet: Any = pq
    columns: dict[str, Any] = {}
    fields: list[Any] = []
    for name in readings:
        values = readings[name]
        if name in readings.arrays:
            column = arrow.array([value.ravel() for value in values])
        elif values.dtype.kind == "f":
            column = arrow.array(values, from_pandas=True)  # NaN stands for no value
        else:
            column = arrow.array(values.tolist())
        columns[name] = column
        unit: Mapping[str, str] = {"unit": readings.units[name]} if name in readings.units else {}
        fields.append(arrow.field(name, column.type, metadata=unit))
    schema = arrow.schema(fields, metadata={"labledger": json.dumps(about(readings, scan))})
    parquet.write_table(arrow.table(list(columns.values()), schema=schema), path, compression="zstd")
