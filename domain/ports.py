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
