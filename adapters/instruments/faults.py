"""Everything that can go wrong between a computer and an instrument, on purpose.

The layer wraps any driver, below the careful layer and above the device. What it does in a call is told by
probability, by schedule ("at the third write lose the answer"), by a test through its `FaultControl`, or from another
process through a small JSON file:

    {"unplugged": true}                                       gone until the file says otherwise
    {"hang": true}                                            each call hangs until the file says otherwise
    {"latency_s": 0.2}                                        added to the configured latency
    {"id": "7", "next": ["timeout", {"fault": "hang", "on": "write", "for_s": 2.0}]}
                                                              faults of the next calls, taken up once for each new id

Write the file beside its place and rename it. A file that is missing means no faults; one that is half written
is looked at again at the next call.
"""

import json
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Annotated, Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters.instruments.line import Line
from domain.errors import Gone, NoAnswer
from domain.ports import Channel, Instrument, Value

T = TypeVar("T")

Kind = Literal["timeout", "lost_answer", "stale", "garbled", "hang", "unplug"]
Method = Literal["open", "identify", "read", "write", "settled", "stop", "safe", "snapshot"]

#: how often the control file is looked at, at most
LOOK_S = 0.02


class Fault(BaseModel):
    """One fault of one call."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    fault: Kind
    on: Method | None = None
    """Only a call of this method; any call when absent."""
    call: int | None = Field(default=None, ge=1)
    """At the n-th call (of `on`, or of all) since the start; the next one when absent."""
    for_s: float | None = Field(default=None, ge=0)
    """How long a hang or an unplugging lasts; until released or plugged when absent."""


Probability = Annotated[float, Field(ge=0, le=1)]


class FaultsConfig(BaseModel):
    """The `faults` of an instrument. All faults are drawn from `seed`, so a run can be repeated."""

    model_config = ConfigDict(extra="forbid")
    seed: int = 1
    latency_s: float = Field(default=0.0, ge=0)
    jitter_s: float = Field(default=0.0, ge=0)
    """Latency added evenly between 0 and this."""
    timeout_s: float = Field(default=0.05, ge=0)
    """How long the caller waits before it is told that no answer came."""
    probability: dict[Kind, Probability] = {}
    """By kind of fault, for each call of a method in `on`."""
    on: tuple[Method, ...] = ("read", "write")
    for_s: float | None = Field(default=None, ge=0)
    """How long hangs and unpluggings drawn by probability last."""
    schedule: list[Fault] = []
    control: Path | None = None
    """The JSON file that is re-read."""


class _Order(BaseModel):
    """What a control file says."""

    model_config = ConfigDict(extra="forbid")
    unplugged: bool = False
    hang: bool = False
    latency_s: float = Field(default=0.0, ge=0)
    id: str | int | None = None
    next: list[Fault | Kind] = []


class FaultControl:
    """The hand on the faults of one instrument. It outlives the driver objects, as the device does. Thread-safe."""

    def __init__(self, config: FaultsConfig) -> None:
        self.config = config
        #: calls that came to the layer, and those that got through to the device, by method
        self.calls: Counter[str] = Counter()
        self.reached: Counter[str] = Counter()
        self.random = random.Random(config.seed)
        self._next: deque[Fault] = deque()
        self._schedule = list(config.schedule)
        self._unplugged = False
        self._plugged_at = 0.0
        self._released = Event()
        self._order = _Order()
        self._taken_id: str | int | None = None
        self._looked_at = 0.0
        self._stamp: tuple[int, int, int] | None = None

    def unplug(self) -> None:
        self._unplugged = True

    def plug(self) -> None:
        self._unplugged = False
        self._plugged_at = 0.0

    def next(self, fault: Kind, on: Method | None = None, for_s: float | None = None) -> None:
        """The next call (of `on`) meets this fault. Called again, faults queue up."""
        self._next.append(Fault(fault=fault, on=on, for_s=for_s))

    def at(self, call: int, fault: Kind, on: Method | None = None, for_s: float | None = None) -> None:
        """The n-th call (of `on`, else of all) counted from the start meets this fault."""
        self._schedule.append(Fault(fault=fault, on=on, call=call, for_s=for_s))

    def release(self) -> None:
        """Ends the hang that is on, if any."""
        self._released.set()

    def unplugged(self) -> bool:
        self._look()
        return self._unplugged or self._order.unplugged or time.monotonic() < self._plugged_at

    def latency_s(self) -> float:
        config = self.config
        jitter_s = self.random.random() * config.jitter_s if config.jitter_s else 0.0
        return config.latency_s + jitter_s + self._order.latency_s

    def draw(self, method: Method) -> Fault | None:
        """The fault of this call, if it meets one."""
        self._look()
        self.calls[method] += 1
        total = self.calls.total()
        for fault in self._schedule:
            if fault.call == (total if fault.on is None else self.calls[method]) and fault.on in (None, method):
                self._schedule.remove(fault)
                return fault
        for fault in self._next:
            if fault.on in (None, method):
                self._next.remove(fault)
                return fault
        if self._order.hang:
            return Fault(fault="hang")
        if method in self.config.on:
            for kind, probability in self.config.probability.items():
                if self.random.random() < probability:
                    return Fault(fault=kind, for_s=self.config.for_s)
        return None

    def hang(self, fault: Fault, line: Line) -> None:
        """Blocks until the fault ends or the line is abandoned."""
        self._released.clear()
        by_file = self._order.hang
        end = time.monotonic() + fault.for_s if fault.for_s is not None else None
        while not self._released.wait(LOOK_S) and not line.abandoned:
            self._look()
            if by_file and not self._order.hang:
                break
            if end is not None and time.monotonic() >= end:
                break

    def unplug_for(self, for_s: float | None) -> None:
        if for_s is None:
            self._unplugged = True
        else:
            self._plugged_at = time.monotonic() + for_s

    def _look(self) -> None:
        path = self.config.control
        now = time.monotonic()
        if path is None or now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        try:
            found = path.stat()
        except FileNotFoundError:
            self._order, self._stamp = _Order(), None
            return
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp == self._stamp:
            return
        try:
            order = _Order.model_validate(json.loads(path.read_text()))
        except (OSError, json.JSONDecodeError):
            return  # being written just now; the old order stands
        except ValidationError as error:
            raise ValueError(f"{path}: {error}") from error
        self._order, self._stamp = order, stamp
        if order.id is None or order.id != self._taken_id:
            self._taken_id = order.id
            self._next.extend(Fault(fault=fault) if isinstance(fault, str) else fault for fault in order.next)


class Faulty:
    """An `Instrument` around another, with the faults that its control draws."""

    def __init__(self, driver: Instrument, control: FaultControl, line: Line) -> None:
        self.driver = driver
        self.control = control
        self._line = line
        self._answers: dict[str, Any] = {}
        # Only what the driver can do: the careful layer asks whether there is a read-back.
        readback: Callable[[str], Value] | None = getattr(driver, "readback", None)
        if readback is not None:
            self.readback: Callable[[str], Value] = lambda name: self._call("read", lambda: readback(name))

    def describe(self) -> Mapping[str, Channel]:
        return self.driver.describe()

    def open(self) -> None:
        self._call("open", self.driver.open)

    def identify(self) -> str:
        return self._call("identify", self.driver.identify)

    def read(self, names: Sequence[str]) -> dict[str, Value]:
        return self._call("read", lambda: self.driver.read(names))

    def write(self, name: str, value: Value) -> Value:
        return self._call("write", lambda: self.driver.write(name, value))

    def settled(self, name: str) -> bool:
        return self._call("settled", lambda: self.driver.settled(name))

    def stop(self) -> None:
        self._call("stop", self.driver.stop)

    def safe(self) -> None:
        self._call("safe", self.driver.safe)

    def snapshot(self, names: Sequence[str]) -> dict[str, Value]:
        return self._call("snapshot", lambda: self.driver.snapshot(names))

    def close(self) -> None:
        self.driver.close()

    def _call(self, method: Method, call: Callable[[], T]) -> T:
        control = self.control
        fault = control.draw(method)
        if latency_s := control.latency_s():
            time.sleep(latency_s)
        if fault is not None and fault.fault == "unplug":
            control.unplug_for(fault.for_s)
        if fault is not None and fault.fault == "hang":
            control.hang(fault, self._line)
        if control.unplugged():
            raise Gone("unplugged (fault layer)")
        if fault is not None and fault.fault == "timeout":
            time.sleep(control.config.timeout_s)
            raise NoAnswer(f"no answer to {method} in {control.config.timeout_s:g} s (fault layer)")
        self._line.check()
        control.reached[method] += 1
        answer = call()
        before = self._answers.get(method, answer)
        self._answers[method] = answer
        match fault.fault if fault else None:
            case "lost_answer":
                time.sleep(control.config.timeout_s)
                raise NoAnswer(f"the answer to {method} was lost (fault layer)")
            case "stale":
                return before
            case "garbled":
                return self._garble(answer)
            case _:
                return answer

    def _garble(self, answer: Any) -> Any:
        """What noise on a line does: characters turn into others, and the tail of an array is missing."""
        if isinstance(answer, dict):
            values = cast(dict[str, Any], answer)
            return {name: value if name == "time" else self._garble(value) for name, value in values.items()}
        if isinstance(answer, np.ndarray):
            return cast(NDArray[Any], answer).ravel()[:-1]
        text = list(str(answer)) or [""]
        text[self.control.random.randrange(len(text))] = "#"
        return "".join(text)
