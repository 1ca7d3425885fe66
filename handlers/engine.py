"""The scan engine: walks a plan on instruments and records every point. Synchronous, on the thread of the connection.

Between two points it looks at `Control`; before each write the instruments look at the lease. It knows nothing of people,
queues or history: it is given the first point, and says where it stopped and why.

Speed matters here: with instruments that take no time, a point costs a few microseconds.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from domain.errors import LeaseLost, NoAnswer
from domain.plan import MoveTo, Plan, branches, walk
from domain.ports import Instrument, Value
from domain.readings import BranchColumns
from domain.scan import FrameLimits

#: A channel that has not settled after this time has failed.
SETTLE_LIMIT_S = 3600.0
#: How often the recorder's connection is looked after while nothing is recorded.
IDLE_S = 5.0
#: Frames stay well below 256 KB.
FRAME_VALUES = 8_000

Ended = Literal["completed", "stopped", "failed", "lease_lost"]


class Control:
    """What the station tells a running scan, and what it sees of it. Plain attributes: read at every point."""

    __slots__ = ("next_point", "stop", "urgent")

    def __init__(self) -> None:
        #: Stop before the next point: "pause", "abort" or "shutdown".
        self.stop: str | None = None
        #: Do not wait for a move to settle either.
        self.urgent = False
        self.next_point = 0


class FrameWriter(Protocol):
    """Makes frames durable. Raises `LeaseLost` when the lease has passed on."""

    def record(
        self, branch: int, first_point: int, times: list[float], columns: list[list[Any]], arrays: dict[str, list[Any]]
    ) -> None: ...

    def idle(self) -> None: ...


@dataclass(frozen=True)
class Result:
    """Where a segment of a scan ended. `next_point` is the first point that was not recorded."""

    ended: Ended
    next_point: int
    error: Exception | None = None


class _Branch:
    """One branch, prepared: which positions and readings make up its row."""

    def __init__(self, columns: BranchColumns, measures: Sequence[Any], instruments: Mapping[str, Instrument]) -> None:
        self.positions = [(c.instrument, c.channel) for c in columns.columns if c.role == "position"]
        self.columns: list[list[Any]] = []
        self.arrays: dict[str, list[Any]] = {}
        position_appends: list[Callable[[Any], None]] = []
        reading_appends: list[Callable[[Any], None]] = []
        for column in columns.columns:
            values: list[Any] = []
            if column.type == "array":
                self.arrays[column.name] = values
            else:
                self.columns.append(values)
            (position_appends if column.role == "position" else reading_appends).append(values.append)
        self.where = list(zip(self.positions, position_appends, strict=True))
        #: (read, channels, settle_s, [(channel, append), ...]) for each measure, in order.
        self.reads: list[tuple[Any, tuple[str, ...], float, list[tuple[str, Callable[[Any], None]]]]] = []
        appends = iter(reading_appends)
        for measure in measures:
            pairs = [(channel, next(appends)) for channel in measure.channels]
            read = instruments[measure.instrument].read
            self.reads.append((read, tuple(measure.channels), measure.settle_s, pairs))
        self.width = max(1, len(columns.columns))


class Engine:
    """One segment of one scan: from `start` until the end, a stop or a failure."""

    def __init__(
        self,
        plan: Plan,
        columns: Sequence[BranchColumns],
        limits: FrameLimits,
        control: Control,
        wait_until_trusted: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._columns = columns
        self._limits = limits
        self._control = control
        self._wait_until_trusted = wait_until_trusted

    def run(self, instruments: Mapping[str, Instrument], start: int, writer: FrameWriter) -> Result:
        """Measure from `start` on. What was measured is recorded, also when a later point fails."""
        prepared = [
            _Branch(columns, branch.measures, instruments)
            for columns, branch in zip(self._columns, branches(self._plan), strict=True)
        ]
        control = self._control
        control.next_point = start
        recorded = start
        most = self._limits.points
        within_s = self._limits.ms / 1000
        position: dict[tuple[str, str], Value] = {}
        monotonic = time.monotonic
        times: list[float] = []
        current: _Branch | None = None
        branch = 0
        room = most
        opened_at = idle_at = monotonic()
        usual_s = 0.0
        last = opened_at

        def flush() -> None:
            nonlocal recorded, times
            if current is not None and times:
                writer.record(branch, recorded, times, current.columns, current.arrays)
                recorded += len(times)
                times.clear()
                for column in current.columns:
                    column.clear()
                for column in current.arrays.values():
                    column.clear()

        try:
            for k, next_branch, moves in walk(self._plan, start):
                if control.stop is not None:
                    flush()
                    return Result("stopped", recorded)
                if current is None or next_branch != branch:
                    flush()
                    branch, current = next_branch, prepared[next_branch]
                    room = min(most, max(1, FRAME_VALUES // current.width))
                while True:
                    try:
                        for move in moves:
                            self._move(instruments, move, position, writer)
                        if control.urgent:
                            flush()
                            return Result("stopped", recorded)
                        answers: list[dict[str, Value]] = []
                        for read, names, settle_s, _ in current.reads:
                            if settle_s:
                                self._sleep(settle_s, writer)
                            answers.append(read(names))
                        break
                    except LeaseLost:
                        # Not confirmed in time, or gone for good: nothing moves until that is known.
                        flush()
                        self._wait_until_trusted()
                for key, append in current.where:
                    append(position[key])
                for (_, _, _, pairs), answer in zip(current.reads, answers, strict=True):
                    for name, append in pairs:
                        append(answer[name])
                times.append(answers[0]["time"])
                control.next_point = k + 1
                now = monotonic()
                # How long a point takes lately: a frame is sent before its time is up, not after.
                usual_s += 0.2 * (now - last - usual_s)
                last = now
                count = len(times)
                if count == 1:
                    opened_at = now
                if count >= room or now + usual_s >= opened_at + within_s:
                    flush()
                    idle_at = last = monotonic()
                elif now - idle_at > IDLE_S:
                    writer.idle()
                    idle_at = now
            flush()
            return Result("completed", recorded)
        except LeaseLost as error:
            return Result("lease_lost", recorded, error)
        except Exception as error:  # of an instrument, or a defect of ours: the scan fails, the station goes on
            return self._failed(error, flush, lambda: recorded)

    def _failed(self, error: Exception, flush: Callable[[], None], recorded: Callable[[], int]) -> Result:
        try:
            flush()
        except LeaseLost as lost:
            return Result("lease_lost", recorded(), lost)
        return Result("failed", recorded(), error)

    def _move(
        self,
        instruments: Mapping[str, Instrument],
        move: MoveTo,
        position: dict[tuple[str, str], Value],
        writer: FrameWriter,
    ) -> None:
        instrument = instruments[move.instrument]
        position[move.instrument, move.channel] = instrument.write(move.channel, move.value)
        if not instrument.settled(move.channel):
            # Most moves have settled by now; the others are asked ever more seldom.
            began = looked = time.monotonic()
            pause_s = 0.0005
            while not instrument.settled(move.channel):
                if self._control.urgent:
                    return
                time.sleep(pause_s)
                pause_s = min(pause_s * 1.5, 0.05)
                now = time.monotonic()
                if now - looked > IDLE_S:
                    writer.idle()
                    looked = now
                if now - began > SETTLE_LIMIT_S:
                    raise NoAnswer(f"{move.instrument}.{move.channel} did not settle within {SETTLE_LIMIT_S:.0f} s")
        if move.settle_s:
            self._sleep(move.settle_s, writer)

    def _sleep(self, seconds: float, writer: FrameWriter) -> None:
        """Sleep, but wake for an abort."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._control.urgent:
            if left > IDLE_S:
                writer.idle()
            time.sleep(min(left, 0.1))
