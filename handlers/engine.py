"""The scan engine: walks a plan on instruments and records every point. Synchronous, on the thread of the connection.

Between two points it looks at `Control`; before each write the instruments look at the lease. It knows nothing of people,
queues or history: it is given the first point, and says where it stopped and why.

Speed matters here: with instruments that take no time, a point costs a few microseconds.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal, Protocol

from domain.errors import LeaseLost, NoAnswer
from domain.plan import Plan, branches, walk
from domain.ports import Instrument, Value
from domain.readings import BranchColumns
from domain.scan import FrameLimits

log = logging.getLogger("labledger.station")

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
        self,
        branch: int,
        first_point: int,
        times: list[float],
        columns: list[list[Any]],
        arrays: dict[str, list[Any]],
        *,
        wait: bool,
    ) -> None:
        """Store a frame; with `wait`, until it is durable."""
        ...

    def drain(self) -> None:
        """Wait until all that was recorded is durable."""
        ...

    def idle(self) -> None:
        """Called now and then while nothing is recorded."""
        ...


@dataclass(frozen=True)
class Result:
    """Where a segment of a scan ended. `next_point` is the first point that was not recorded."""

    ended: Ended
    next_point: int
    error: Exception | None = None


def _getter(keys: Sequence[Any]) -> Callable[[Mapping[Any, Value]], tuple[Value, ...]]:
    """The values of these keys as a tuple, in one call to C where there are several."""
    if len(keys) > 1:
        return itemgetter(*keys)
    if keys:
        (key,) = keys
        return lambda values: (values[key],)
    return lambda _: ()


class _Branch:
    """One branch, prepared: a row is its positions, then the answers of its measures, in the order of the columns."""

    def __init__(self, columns: BranchColumns, measures: Sequence[Any], instruments: Mapping[str, Instrument]) -> None:
        self.positions = _getter([(c.instrument, c.channel) for c in columns.columns if c.role == "position"])
        #: (read, channels, settle_s, values of an answer) for each measure.
        self.reads = [
            (instruments[m.instrument].read, tuple(m.channels), m.settle_s, _getter(m.channels)) for m in measures
        ]
        self._arrays = [(n, column.name) for n, column in enumerate(columns.columns) if column.type == "array"]
        self._plain = [n for n, column in enumerate(columns.columns) if column.type != "array"]
        #: Points that fit into a frame.
        self.room = max(1, FRAME_VALUES // max(1, len(columns.columns)))

    def columns(self, rows: list[tuple[Value, ...]]) -> tuple[list[list[Any]], dict[str, list[Any]]]:
        """The rows as columns: those that go into the frame, and the arrays by name."""
        columns = [list(column) for column in zip(*rows, strict=True)]
        return [columns[n] for n in self._plain], {name: columns[n] for n, name in self._arrays}


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
        calls = {name: (instrument.write, instrument.settled) for name, instrument in instruments.items()}
        monotonic = time.monotonic
        times: list[float] = []
        rows: list[tuple[Value, ...]] = []
        current: _Branch | None = None
        branch = 0
        room = most
        opened_at = idle_at = last = monotonic()
        usual_s = 0.0

        def flush() -> None:
            nonlocal recorded, times, rows
            if current is not None and times:
                columns, arrays = current.columns(rows)
                writer.record(branch, recorded, times, columns, arrays, wait=most == 1)
                recorded += len(times)
                times, rows = [], []

        def finish() -> None:
            flush()
            writer.drain()

        try:
            for k, next_branch, moves in walk(self._plan, start):
                if control.stop is not None:
                    finish()
                    return Result("stopped", recorded)
                if current is None or next_branch != branch:
                    flush()
                    branch, current = next_branch, prepared[next_branch]
                    room = min(most, current.room)
                while True:
                    try:
                        for instrument, channel, value, settle_s in moves:
                            write, settled = calls[instrument]
                            position[instrument, channel] = write(channel, value)
                            if not settled(channel):
                                self._settle(instrument, channel, settled, writer)
                            if settle_s:
                                self._sleep(settle_s, writer)
                        if control.urgent:
                            finish()
                            return Result("stopped", recorded)
                        row = current.positions(position)
                        at: float | None = None
                        for read, names, settle_s, values in current.reads:
                            if settle_s:
                                self._sleep(settle_s, writer)
                                if control.urgent:  # what is read before its time is no reading
                                    finish()
                                    return Result("stopped", recorded)
                            answer = read(names)
                            row += values(answer)
                            if at is None:
                                at = answer["time"]
                        break
                    except LeaseLost:
                        # Not confirmed in time, or gone for good: nothing moves until that is known.
                        finish()
                        self._wait_until_trusted()
                assert at is not None
                rows.append(row)
                times.append(at)
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
            finish()
            return Result("completed", recorded)
        except LeaseLost as error:
            return Result("lease_lost", recorded, error)
        except Exception as error:  # of an instrument, or a defect of ours: the scan fails, the station goes on
            return self._failed(error, finish, lambda: recorded)

    def _failed(self, error: Exception, finish: Callable[[], None], recorded: Callable[[], int]) -> Result:
        try:
            finish()
        except LeaseLost as lost:
            return Result("lease_lost", recorded(), lost)
        except Exception:  # mostly the same again: what was measured last cannot be recorded
            log.exception("the last readings before a failure are lost")
        return Result("failed", recorded(), error)

    def _settle(self, instrument: str, channel: str, settled: Callable[[str], bool], writer: FrameWriter) -> None:
        """Wait until a move has taken effect: asked ever more seldom. Returns early for an abort."""
        began = looked = time.monotonic()
        pause_s = 0.0005
        while not settled(channel):
            if self._control.urgent:
                return
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.05)
            now = time.monotonic()
            if now - looked > IDLE_S:
                writer.idle()
                looked = now
            if now - began > SETTLE_LIMIT_S:
                raise NoAnswer(f"{instrument}.{channel} did not settle within {SETTLE_LIMIT_S:.0f} s")

    def _sleep(self, seconds: float, writer: FrameWriter) -> None:
        """Sleep, but wake for an abort."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._control.urgent:
            if left > IDLE_S:
                writer.idle()
            time.sleep(min(left, 0.1))
