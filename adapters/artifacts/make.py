"""From the events of a completed scan to its three files."""

import json
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from adapters.artifacts.plot import Plot
from adapters.artifacts.raw_data import RawData
from adapters.artifacts.rows import Chunks, Retyped, Types
from adapters.artifacts.summary import Summary
from bus.envelope import Stored
from domain.plan import Plan
from domain.ports import Blobs, NotPossible, Report
from domain.readings import BranchColumns, ReadingsOpened, ReadingsRecorded
from domain.scan import (
    Scan,
    ScanCompleted,
    ScanContinued,
    ScanEvent,
    ScanInterrupted,
    ScanPaused,
    ScanRequested,
    ScanRestarted,
    ScanStarted,
    aggregate,
)

Frames = AsyncIterator[ReadingsOpened | ReadingsRecorded]


class Incomplete(Exception):
    """The history ends before the scan was completed: this replica of the stream is behind."""


def about(history: Sequence[Stored]) -> dict[str, Any]:
    """What is known of a scan whose last event says that it was completed: what was ordered, and how it went."""
    last = history[-1]
    if not isinstance(last.event, ScanCompleted):
        raise Incomplete(f"the last event known of {last.subject} is {last.type}")
    scan: Scan = aggregate.fold(aggregate.initial, (stored.event for stored in history))
    assert scan.plan is not None
    told = {
        "scan_id": str(scan.scan_id),
        "title": scan.title,
        "sample_id": scan.sample_id,
        "queue_id": scan.queue_id,
        "metadata": dict(scan.metadata),
        "instruments": list(scan.instruments),
        "points": last.event.points,
        "attempt": last.event.attempt,
        "requested_by": history[0].actor,
        **_course(history),
        "plan": scan.plan.model_dump(mode="json"),
    }
    proof = {"stream": "EVT", "subject": last.subject, "sequence": last.seq, "version": last.version}
    return told | {"ledger": proof | {"hash": last.head.hash}}


def _course(history: Sequence[Stored]) -> dict[str, Any]:
    """When it began and ended, in which attempts, and what came between. Of a scan that was restarted the last round counts."""
    attempts: list[dict[str, Any]] = []
    interruptions: list[dict[str, Any]] = []
    pauses = 0
    for stored in history:
        event: ScanEvent = stored.event  # pyright: ignore[reportAssignmentType]
        at = _text(stored.time)
        match event:
            case ScanRequested() | ScanRestarted():
                attempts, interruptions, pauses = [], [], 0
            case ScanStarted():
                attempts.append({"attempt": event.attempt, "from_point": 0, "station": event.station_id, "at": at})
            case ScanContinued():
                told = {"attempt": event.attempt, "from_point": event.from_point}
                attempts.append(told | {"station": event.station_id, "at": at})
            case ScanInterrupted():
                interruptions.append({"attempt": event.attempt, "at": at, "reason": event.reason})
            case ScanPaused():
                pauses += 1
            case _:
                pass
    ended = history[-1].time
    began = datetime.fromisoformat(attempts[0]["at"]) if attempts else ended
    return {
        "started_at": _text(began),
        "completed_at": _text(ended),
        "duration_s": round((ended - began).total_seconds(), 6),
        "attempts": attempts,
        "interruptions": interruptions,
        "pauses": pauses,
    }


def _text(time: datetime) -> str:
    return time.isoformat()


class _Making:
    """The three files of one walk over the frames."""

    def __init__(self, told: dict[str, Any], opened: ReadingsOpened, folder: Path, blobs: Blobs, types: Types) -> None:
        self.branches: Sequence[BranchColumns] = opened.branches
        self._told = told
        self._blobs = blobs
        self._chunks = Chunks(self.branches, blobs, types)
        # Without a name: nothing is left of it however we end.
        self._file = tempfile.TemporaryFile(dir=folder)
        self._raw_data = RawData(self._file, self.branches, told, types)
        self._summary = Summary(self.branches, types)
        self._plot = Plot(Plan.model_validate(told["plan"]), self.branches, types)
        self._instruments = {name: known.model_dump(mode="json") for name, known in sorted(opened.settings.items())}
        self.points = 0

    def add(self, frame: ReadingsRecorded) -> None:
        if frame.first_point != self.points:
            raise Incomplete(f"a frame begins at point {frame.first_point}, and {self.points} were to come before it")
        for chunk in self._chunks.add(frame):
            self._write(chunk)
        self.points = frame.next_point

    def _write(self, chunk: Any) -> None:
        for part in (self._raw_data, self._summary, self._plot):
            part.add(chunk)

    def finish(self) -> list[dict[str, Any]]:
        """The files as blobs: what each is called, and its digest and size."""
        if chunk := self._chunks.flush():
            self._write(chunk)
        told, name = self._told, f"scan-{self._told['scan_id']}-{self._told['attempt']}"
        self._raw_data.close()
        self._file.seek(0)
        raw_data = self._blobs.put_file(self._file)
        picture = BytesIO()
        self._plot.save(picture, told["title"] or f"scan {told['scan_id']}", _facts(told))
        picture.seek(0)
        measured: dict[str, Any] = {"columns": self._summary.columns(), "settings": self._instruments}
        summary = told | measured | {"raw_data": {"sha256": raw_data[0], "size": raw_data[1]}}
        text = json.dumps(summary, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        found = [
            ("raw_data", f"{name}.parquet", "application/vnd.apache.parquet", raw_data),
            ("plot", f"{name}.png", "image/png", self._blobs.put_file(picture)),
            ("summary", f"{name}.json", "application/json", self._blobs.put_file(BytesIO(text.encode()))),
        ]
        return [
            {"role": role, "file_name": file_name, "media_type": media_type, "artifact_id": sha256, "size": size}
            for role, file_name, media_type, (sha256, size) in found
        ]

    def close(self) -> None:
        self._raw_data.close()
        self._file.close()


def _facts(told: dict[str, Any]) -> str:
    """The line below the picture."""
    sample = f"sample {told['sample_id']} · " if told["sample_id"] else ""
    again = f" · interrupted {len(told['interruptions'])} ×" if told["interruptions"] else ""
    at = told["completed_at"][:16].replace("T", " ")
    return (
        f"{sample}{told['points']:,} points in {told['duration_s']:,.1f} s{again} · completed {at} UTC · "
        f"scan {told['scan_id']}, event {told['ledger']['sequence']}"
    )


async def artifacts_of(
    history: Sequence[Stored], frames: Callable[[], Frames], folder: Path, blobs: Blobs, report: Report
) -> list[dict[str, Any]]:
    """The artifacts of the scan with this history, up to its completion, as `domain.artifact.RegisterArtifact` has them.

    `frames` reads its readings from the first on; they are read again when a column turns out to be of another type than its
    instrument had said. The large file lies in `folder` until it is a blob. Raises `NotPossible` and `Incomplete`.
    """
    told, types = about(history), Types()
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            return await _walk(told, frames(), folder, blobs, report, types)
        except Retyped as found:
            types[found.column] = found.type


async def _walk(
    told: dict[str, Any], frames: Frames, folder: Path, blobs: Blobs, report: Report, types: Types
) -> list[dict[str, Any]]:
    making: _Making | None = None
    try:
        async for event in frames:
            if isinstance(event, ReadingsOpened):
                if making is None or event.from_point == 0:
                    # A new round measures every point again: what the earlier one had measured gives way.
                    if making is not None:
                        making.close()
                    making = _Making(told, event, folder, blobs, types)
                elif event.branches != making.branches:
                    raise NotPossible(
                        f"attempt {event.attempt} went on with other columns than before: an instrument says another unit, type "
                        f"or shape now; export the scan instead (labledger export)"
                    )
            elif making is not None:
                making.add(event)
                report(95.0 * making.points / max(1, told["points"]), f"{making.points} of {told['points']} points")
        if making is None or making.points != told["points"]:
            raise Incomplete(f"{making.points if making else 0} of {told['points']} points are known here")
        return making.finish()
    finally:
        if making is not None:
            making.close()
