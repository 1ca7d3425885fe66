"""Completed scans made by hand: a history, and frames as a station would have recorded them."""

import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np

from adapters.storage.local import LocalBlobs
from bus.envelope import Head, Meta, Stored, seal
from domain.events import Event
from domain.plan import Plan, branches, point, points
from domain.ports import Channel
from domain.readings import ArrayRef, InstrumentAtStart, ReadingsOpened, ReadingsRecorded, branch_columns
from domain.scan import ScanCompleted, ScanContinued, ScanInterrupted, ScanRequested, ScanStarted

SCAN = UUID("01a1fa7a-0a5e-77bd-8f3b-105ee389222b")
BEGAN = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
#: Answers what a channel reads where the axes stand; `k` is the point.
Reads = Callable[..., Any]

CHANNELS = {
    "stage": {name: Channel(kind="rw", unit="mm", limits=(-100, 100)) for name in "xyz"},
    "oven": {"t": Channel(kind="rw", unit="K"), "gas": Channel(kind="rw", type="str")},
    "dmm": {
        "voltage": Channel(kind="r", unit="V"),
        "current": Channel(kind="r", unit="A"),
        "range": Channel(kind="r", type="int"),
        "locked": Channel(kind="r", type="bool"),
        "mode": Channel(kind="r", type="str"),
    },
    "spectrometer": {
        "spectrum": Channel(kind="r", type="array", shape=(256,), unit="counts"),
        "wavelength": Channel(kind="r", type="array", shape=(256,), unit="nm"),
        "total": Channel(kind="r", unit="counts"),
    },
    "camera": {"image": Channel(kind="r", type="array", shape=(48, 64), unit="counts")},
    "huge": {"trace": Channel(kind="r", type="array", shape=(70_000,), unit="V")},
}


def move(instrument: str, channel: str, positions: Any, *children: Any, snake: bool = False) -> dict[str, Any]:
    told = {"kind": "list", "values": positions} if isinstance(positions, list) else positions
    return {
        "kind": "move",
        "instrument": instrument,
        "channel": channel,
        "positions": told,
        "snake": snake,
        "children": list(children),
    }


def linear(start: float, stop: float, num: int) -> dict[str, Any]:
    return {"kind": "linear", "start": start, "stop": stop, "num": num}


def measure(instrument: str, *channels: str) -> dict[str, Any]:
    return {"kind": "measure", "instrument": instrument, "channels": list(channels)}


@dataclass
class Measured:
    """A completed scan: its history, and `frames()` of it."""

    history: list[Stored]
    events: list[ReadingsOpened | ReadingsRecorded]
    told: dict[str, Any] = field(default_factory=dict[str, Any])

    async def frames(self) -> AsyncIterator[ReadingsOpened | ReadingsRecorded]:
        for event in self.events:
            yield event


def measured(
    nodes: Sequence[Any],
    read: Reads,
    blobs: LocalBlobs,
    *,
    per_frame: int = 100,
    broken_at: int | None = None,
    restarted: bool = False,
    title: str = "grid 100 x 100",
) -> Measured:
    """A scan whose station recorded what `read(branch, k, positions)` answers: a mapping from column to value. With
    `broken_at` its station died at that point, and another went on; with `restarted` that one began again."""
    plan = Plan.model_validate({"nodes": list(nodes)})
    total, columns = points(plan), branch_columns(plan, CHANNELS)
    settings = {"dmm": InstrumentAtStart(identity="simulated", settings={"range": 10})}

    def opened(attempt: int, start: int) -> ReadingsOpened:
        return ReadingsOpened(
            scan_id=SCAN, attempt=attempt, from_point=start, total_points=total, branches=columns, settings=settings
        )

    events: list[ReadingsOpened | ReadingsRecorded] = [opened(1, 0)]
    happened: list[Event] = [
        ScanRequested(
            scan_id=SCAN, plan=plan, total_points=total, instruments=("dmm",), sample_id="W12-3", title=title
        ),
        ScanStarted(scan_id=SCAN, attempt=1, station_id="bench", instance="a", total_points=total),
    ]
    attempt, start = 1, 0
    if broken_at is not None:
        events += recorded(plan, columns, read, blobs, 1, 0, broken_at, per_frame)
        attempt, start = 2, 0 if restarted else broken_at
        events.append(opened(attempt, start))
        lost = {"scan_id": SCAN, "station_id": "bench", "on_crash": "restart" if restarted else "resume"}
        happened.append(ScanInterrupted(attempt=1, instance="a", reason="killed", **lost))
        happened.append(ScanContinued(scan_id=SCAN, attempt=2, from_point=start, station_id="bench", instance="b"))
    events += recorded(plan, columns, read, blobs, attempt, start, total, per_frame)
    happened.append(ScanCompleted(scan_id=SCAN, attempt=attempt, points=total))
    return Measured(stored(happened), events)


def recorded(
    plan: Plan, columns: Any, read: Reads, blobs: LocalBlobs, attempt: int, start: int, stop: int, per_frame: int
) -> list[ReadingsRecorded]:
    found: list[ReadingsRecorded] = []
    rows: list[tuple[int, dict[str, Any]]] = []
    current = -1

    def frame() -> None:
        if not rows:
            return
        known = columns[current]
        arrays: dict[str, ArrayRef] = {}
        for name in known.arrays:
            whole = np.stack([row[name] for _, row in rows])
            arrays[name] = ArrayRef(sha256=blobs.put(whole.tobytes()), dtype=str(whole.dtype), shape=whole.shape)
        units = {column.name: column.unit for column in known.columns}
        found.append(
            ReadingsRecorded(
                scan_id=SCAN,
                attempt=attempt,
                branch=current,
                first_point=rows[0][0],
                names=known.in_frame,
                units=tuple(units[name] for name in known.in_frame),
                time=[BEGAN.timestamp() + 0.01 * k for k, _ in rows],
                values=[[row[name] for _, row in rows] for name in known.in_frame],
                arrays=arrays,
            )
        )
        rows.clear()

    for k in range(start, stop):
        place = point(plan, k)
        if place.branch != current or len(rows) == per_frame:
            frame()
        current = place.branch
        positions = {f"{it.instrument}.{it.channel}": it.value for it in place.moves}
        rows.append((k, positions | read(current, k, positions)))
    frame()
    return found


def stored(events: Sequence[Event]) -> list[Stored]:
    """Events of one scan as they lie in the stream."""
    subject, head, found = f"evt.scan.{SCAN}", Head(), list[Stored]()
    for n, event in enumerate(events):
        body, at = event.model_dump_json().encode(), BEGAN + timedelta(seconds=7.5 * n)
        headers, digest = seal(subject, event.TYPE, body, head, Meta.new("tests"), f"{n}", at)
        head = Head(100 + n, n + 1, digest)
        found.append(Stored(100 + n, subject, headers, body, at))
    return found


def lorentzian(nm: Any, centre: float, width: float = 4.0) -> Any:
    return 1.0 / (1.0 + ((nm - centre) / width) ** 2)


def hill(x: float, y: float, at: tuple[float, float] = (3.0, 6.0), width: float = 2.0) -> float:
    return math.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * width**2))


__all__ = [
    "BEGAN",
    "CHANNELS",
    "SCAN",
    "Measured",
    "branches",
    "hill",
    "linear",
    "lorentzian",
    "measure",
    "measured",
    "move",
]
