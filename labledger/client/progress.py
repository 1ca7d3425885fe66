"""Where a scan stands, from its own events and those of its readings."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from bus.envelope import Stored
from domain.aggregate import aggregates
from domain.readings import ReadingsClosed, ReadingsOpened, ReadingsRecorded
from domain.scan import Scan, ScanAborted, ScanFailed


class Progress(BaseModel):
    """Where a scan stands, as of the event `event` at `sequence`.

    `points` are durable; `rate_s` is points per second, lately; `remaining_s` is None where nothing can be said.
    """

    model_config = ConfigDict(frozen=True)

    scan_id: UUID
    status: str = "queued"
    points: int = 0
    total_points: int = 0
    attempt: int = 1
    station_id: str | None = None
    queue_id: str = "main"
    priority: str = "normal"
    sample_id: str | None = None
    title: str = ""
    instruments: tuple[str, ...] = ()
    wish: str | None = None
    interrupted: bool = False
    held: bool = False
    reason: str = ""
    requested_at: datetime | None = None
    ended_at: datetime | None = None
    rate_s: float | None = None
    remaining_s: float | None = None
    event: str = ""
    sequence: int = 0
    time: datetime | None = None

    @property
    def over(self) -> bool:
        return self.status in ("completed", "aborted", "failed")

    @property
    def in_words(self) -> str:
        if self.held:
            return "is held for a person"
        if self.interrupted:
            return "is interrupted"
        if self.wish and not self.over:
            return f"is {self.status}, {self.wish} was asked for"
        return f"has {self.status}" if self.status in ("completed", "failed") else f"is {self.status}"


class Fold:
    """A scan's progress from its own events and those of its readings."""

    def __init__(self, scan_id: UUID) -> None:
        self.scan = Scan()
        self.progress = Progress(scan_id=scan_id)
        #: (time, points) of a while ago, for the rate.
        self._marks: list[tuple[float, int]] = []

    def take(self, stored: Stored) -> Progress:
        known: dict[str, Any] = {"event": stored.type, "sequence": stored.seq, "time": stored.time}
        match stored.event:
            case ReadingsOpened(attempt=attempt, from_point=point):
                self._marks = [(stored.time.timestamp(), point)]
                known |= {"points": point, "attempt": attempt}
            case ReadingsRecorded() as frame:
                known |= {"points": frame.next_point, "attempt": frame.attempt} | self._rate(frame)
            case ReadingsClosed(next_point=point):
                known |= {"points": point, "remaining_s": None}
            case event:
                self.scan = aggregates()["scan"].evolve(self.scan, event)
                known |= self._of_scan(event, stored)
        self.progress = self.progress.model_copy(update=known)
        return self.progress

    def _rate(self, frame: ReadingsRecorded) -> dict[str, Any]:
        now = frame.time[-1]
        self._marks.append((now, frame.next_point))
        while len(self._marks) > 2 and now - self._marks[1][0] > 5.0:
            self._marks.pop(0)
        began, first = self._marks[0]
        if now <= began or frame.next_point <= first:
            return {}
        rate = (frame.next_point - first) / (now - began)
        return {"rate_s": rate, "remaining_s": (self.progress.total_points - frame.next_point) / rate}

    def _of_scan(self, event: Any, stored: Stored) -> dict[str, Any]:
        scan = self.scan
        known: dict[str, Any] = {
            "status": scan.status or "queued",
            "total_points": scan.total_points,
            "attempt": scan.attempt,
            "station_id": scan.station_id,
            "queue_id": scan.queue_id,
            "priority": scan.priority,
            "sample_id": scan.sample_id,
            "title": scan.title,
            "instruments": scan.instruments,
            "wish": scan.wish,
            "interrupted": scan.interrupted,
            "held": scan.held,
            "ended_at": stored.time if scan.over else None,
        }
        if stored.version == 1:
            known["requested_at"] = stored.time
        if scan.over or not scan.live:
            known["remaining_s"] = None
        if scan.status == "queued":
            known |= {"points": 0, "rate_s": None}
        reason = getattr(event, "reason", "")
        if isinstance(event, ScanFailed):
            reason = f"{event.error}: {event.reason}"
        if isinstance(event, ScanAborted | ScanFailed) and event.point is not None:
            known["points"] = event.point
        known["reason"] = reason
        return known
