"""What the inner layers ask of the outer ones. Handlers take these; `labledger` hands them the adapters."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

#: A channel's value: a number, a text, a truth value, or a numpy array.
Value = Any
T = TypeVar("T")


@dataclass(frozen=True)
class Channel:
    """One thing that an instrument can be told or asked. `limits` and `choices` bound what may be written."""

    kind: Literal["r", "w", "rw"]
    type: Literal["float", "int", "bool", "str", "array"] = "float"
    shape: tuple[int, ...] = ()
    unit: str = ""
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] | None = None
    doc: str = ""
    source: str = ""


class Instrument(Protocol):
    """The instrument protocol. Synchronous, and called only by the thread that owns the connection.

    Failures are the four kinds of `domain.errors.InstrumentError`. A read may be retried; a write only after a
    read-back has shown that it was not done.
    """

    def describe(self) -> Mapping[str, Channel]:
        """All channels, without I/O."""
        ...

    def open(self) -> None: ...

    def identify(self) -> str:
        """Who answers (maker, model, serial number). Cheap: it doubles as a ping."""
        ...

    def read(self, names: Sequence[str]) -> dict[str, Value]:
        """The values of these channels, and under "time" when they were taken (unix seconds)."""
        ...

    def write(self, name: str, value: Value) -> Value:
        """Set a channel; answers the value that the device accepted."""
        ...

    def settled(self, name: str) -> bool:
        """True once the last write to `name` has taken effect (the stage stands, the temperature holds)."""
        ...

    def stop(self) -> None:
        """Stop moving now, where it is."""
        ...

    def safe(self) -> None:
        """Go to the declared safe state (output off, beam shut). Must work after any failure."""
        ...

    def close(self) -> None: ...

    def snapshot(self, names: Sequence[str]) -> dict[str, Value]:
        """The settings to be kept with a scan."""
        ...


class Rack(Protocol):
    """The instruments of one station. Each connection has one thread, and only that thread talks on it."""

    #: Called before each write to a device; raises `LeaseLost` when this process may no longer move anything.
    guard: Callable[[], None]

    def names(self) -> list[str]: ...

    def describe(self, name: str) -> Mapping[str, Channel]: ...

    def run(self, names: Sequence[str], program: Callable[[Mapping[str, Instrument]], T]) -> "Future[T]":
        """Run a program with these instruments. It runs on the thread of the connection if they all share one,
        else on a thread of its own that hands each call to the thread of the connection."""
        ...

    def busy_s(self, name: str) -> float:
        """How long the call that is now running on the instrument's connection has taken; 0 when idle."""
        ...

    def overdue_s(self, name: str) -> float:
        """`busy_s` if the running call has taken longer than it may, else 0: the connection hangs."""
        ...

    def abandon(self, name: str) -> None:
        """Give up a hung connection: its thread is left behind, and the next `run` opens a fresh one."""
        ...

    def close(self) -> None: ...


class Blobs(Protocol):
    """Bytes too large for an event, kept under their SHA-256."""

    def put(self, data: bytes) -> str:
        """Keep the bytes, durably, and answer their SHA-256 in hex. Safe to repeat: the same bytes are kept once."""
        ...

    def get(self, sha256: str) -> bytes:
        """The bytes, verified. Raises `NotFound`, or `ValueError` when what is kept is not what it was."""
        ...


class PictureRefused(Exception):
    """The bytes are no picture that may be decoded (no image, damaged, a decompression bomb, encrypted). For good."""


class NotPossible(Exception):
    """It cannot be done, and trying again would not help: a method without its key, curves that nothing can be fitted to."""


#: Says how far it is (0..100) and what is being done.
Report = Callable[[float, str], None]


@dataclass(frozen=True)
class Extracted:
    """What an extractor found in one chart, in plain data. `curves`: name, x, y, confidence. Pixels are of the source image.

    `calibration` is as `domain.extraction.Calibration` has it; `overlay` is a PNG. `accepted`: sure enough by the extractor's own
    calibrated judgement to be used without being looked at.
    """

    curves: Sequence[tuple[str | None, Sequence[float], Sequence[float], float]]
    csv: bytes
    overlay: bytes | None
    calibration: Mapping[str, Any] | None
    confidence: float
    accepted: bool
    axes_confidence: Mapping[str, float]
    prediction: Mapping[str, Any]
    timings_s: Mapping[str, float]
    notes: Sequence[str] = ()


class Extractor(Protocol):
    """Reads the curves of an image. Runs in a process of its own, one image at a time."""

    def extract(self, data: bytes, method: str, parameters: Mapping[str, Any], report: Report) -> Extracted:
        """`parameters` as `domain.extraction.Parameters` has them. Raises `PictureRefused`, `NotPossible`."""
        ...


@dataclass(frozen=True)
class FittedModel:
    """A model for a circuit simulator in plain data; `result` lacks only the digests of the three files."""

    library: bytes
    report: bytes
    plot: bytes | None
    result: Mapping[str, Any]


class SpiceFitter(Protocol):
    """Fits a model to the curves of a device. Runs in a process of its own."""

    def fit(
        self,
        measured: Mapping[str, Any],
        forms: Sequence[str],
        simulate: bool,
        images: Mapping[str, str],
        report: Report,
    ) -> FittedModel:
        """`measured` as `domain.spice.measured_from` reads it; `images` are the SHA-256 of its sources by name.

        No `forms`: all that suit. Raises `NotPossible`, or the domain's no when nothing can be fitted to."""
        ...


class Pool(Protocol):
    """Processes that do one task each at a time. What happens to one of them is no harm to the others, or to us."""

    @property
    def slots(self) -> int:
        """How many tasks it does at once."""
        ...

    async def run(self, task: str, spec: Mapping[str, Any], report: Report, limit_s: float) -> dict[str, Any]:
        """Do a task and answer its result. Cancelling it ends the process that does it.

        Raises `PictureRefused`, `NotPossible`, `ProcessDied`, `TookTooLong`, and `TaskFailed` for what else the task raised.
        """
        ...


class ProcessDied(Exception):
    """The process that did the task ended before it was done (a crash, or the system ended it for its memory)."""


class TookTooLong(Exception):
    """The task was ended because it took longer than it may."""


class TaskFailed(Exception):
    """The task raised what nobody had foreseen; the text is that."""
