"""What the inner layers ask of the outer ones. Handlers take these; `labledger` hands them the adapters."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, TypeVar, runtime_checkable
from uuid import UUID

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
    """Bytes too large for an event, kept under their SHA-256. Blocking: call it from a thread."""

    def put(self, data: bytes) -> str:
        """Keep the bytes, durably, and answer their SHA-256 in hex. Safe to repeat: the same bytes are kept once."""
        ...

    def get(self, sha256: str) -> bytes:
        """The bytes, verified. Raises `NotFound`, or `ValueError` when what is kept is not what it was."""
        ...

    def put_file(self, source: BinaryIO) -> tuple[str, int]:
        """Keep what is read from `source` to its end, as `put` does, in constant memory; answers SHA-256 and size."""
        ...

    def local(self, sha256: str) -> AbstractContextManager[Path]:
        """A local file with the bytes, verified while it is fetched or first read, to be read only while the context is
        open. In constant memory. Raises as `get` does, and `OSError` where there is no room for a copy."""
        ...


class PictureRefused(Exception):
    """The bytes are no picture that may be decoded (no image, damaged, a decompression bomb, encrypted). For good."""


class NotPossible(Exception):
    """It cannot be done, and trying again would not help: a method without its key, curves that nothing can be fitted to."""


#: Says how far it is (0..100) and what is being done.
Report = Callable[[float, str], None]


@dataclass(frozen=True)
class ExtractedCurve:
    """One curve. `axis`: `y`, or `y2` where it is read on a second y axis; `mark`: a pixel of the source image on it alone."""

    name: str | None
    x: Sequence[float]
    y: Sequence[float]
    confidence: float
    axis: str = "y"
    mark: tuple[float, float] | None = None


@dataclass(frozen=True)
class Extracted:
    """What an extractor found in one chart, in plain data. Pixels are of the source image.

    `calibration` is as `domain.extraction.Calibration` has it; `overlay` is a PNG. `accepted`: sure enough by the extractor's own
    calibrated judgement to be used without being looked at. `at`: page and chart in a PDF; `others`: those beside it, if none was
    asked for.
    """

    curves: Sequence[ExtractedCurve]
    csv: bytes
    overlay: bytes | None
    calibration: Mapping[str, Any] | None
    confidence: float
    accepted: bool
    axes_confidence: Mapping[str, float]
    prediction: Mapping[str, Any]
    timings_s: Mapping[str, float]
    notes: Sequence[str] = ()
    at: tuple[int, int] | None = None
    others: Sequence[tuple[int, int]] = ()


class Extractor(Protocol):
    """Reads the curves of an image. Runs in a process of its own, one image at a time."""

    def extract(self, data: bytes, method: str, parameters: Mapping[str, Any], report: Report) -> Extracted:
        """`parameters` as `domain.extraction.Parameters` has them. Raises `PictureRefused`, `NotPossible`."""
        ...


@dataclass(frozen=True)
class FittedModel:
    """A model for a circuit simulator in plain data; `result` lacks only the digests of the files.

    `suggested`: of a suspect set, the library of the set with the one change that makes sense of it.
    """

    library: bytes
    report: bytes
    plot: bytes | None
    result: Mapping[str, Any]
    suggested: bytes | None = None


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
        """`measured` as `domain.spice_curves.measured_from` reads it; `images` are the SHA-256 of its sources by name.

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


# --------------------------------------------------------------------------------------------------------------- delivery

#: Why a delivery did not succeed. Those in `PASSING` may pass by themselves and are tried again; the others need a person.
FailureKind = Literal[
    "unreachable",  # no connection, or it broke before we knew the outcome and the target says that nothing arrived
    "timed_out",  # no answer in time
    "throttled",  # asked to come later (429, 503 SlowDown)
    "server_error",  # the target failed (5xx)
    "full",  # no room there (quota, 507), or none here for a copy on its way
    "waiting",  # what it builds on is not there yet (a run, an earlier write of the same key)
    "unauthorized",  # credentials are missing, wrong, or may not do this
    "refused",  # the target says no to this file or key, for good
    "missing",  # the bytes are not in our store
    "changed",  # the bytes are there, and are not what they were
    "conflict",  # something else lies at the target under this name
    "mismatch",  # what the target says it has is not what was sent (hash, CID, size)
    "unknown",  # it may have arrived, and there is no way to find out: sending again could make it two
    "misconfigured",  # the settings of the target, or what was asked of it, cannot be right
    "internal",  # a defect of ours
]
PASSING: frozenset[FailureKind] = frozenset(
    {"unreachable", "timed_out", "throttled", "server_error", "full", "waiting", "internal"}
)


class DeliveryFailed(Exception):
    """An attempt did not bring the shipment there. The text is for people: what is wrong, and what to do.

    `retry_after_s`: not before so long, as the target asked. It never holds a secret.
    """

    def __init__(self, kind: FailureKind, text: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.kind: FailureKind = kind
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class RetryPolicy:
    """What of `PASSING` is tried again: `max_retries` attempts in all, the n-th failure waits `multiplier` * 2 ** (n - 1) s, at
    least `min_wait_s`, at most `max_wait_s`, and up to a quarter more so that many do not come back at once."""

    max_retries: int = 8
    multiplier: float = 2.0
    min_wait_s: float = 1.0
    max_wait_s: float = 900.0

    def wait_s(self, failures: int, jitter: float) -> float:
        """Seconds to wait after the n-th failure; `jitter` in 0..1."""
        wait_s = min(self.max_wait_s, max(self.min_wait_s, self.multiplier * 2.0 ** min(failures - 1, 60)))
        return wait_s * (1 + 0.25 * jitter)


@dataclass(frozen=True)
class Shipment:
    """What one attempt is to bring to a target.

    `path` is a local file with the artifact's bytes, to be read only; None for what has none (a pointer, the end of a run).
    `key` is the name asked for at the target; "" leaves it to the target's own template. `options` are the target's own and
    are the same in every attempt. `checkpoint` is what an earlier attempt kept last (an upload's id, its parts), or None.
    """

    delivery_id: UUID
    attempt: int
    key: str
    path: Path | None
    sha256: str | None
    size: int
    media_type: str
    file_name: str
    options: Mapping[str, Any]
    checkpoint: Mapping[str, Any] | None
    #: Says how far it is, 0..100, and what is being done. Cheap; may be called often, from the event loop.
    report: Report
    #: Keeps a small JSON object in the ledger, durable when it returns. Call it before the step that it lets another resume.
    keep: Callable[[Mapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class Arrived:
    """What the outside answered: the target's part of the receipt, in plain JSON, enough to verify without our database.

    `outcome`: stored by us; `existed`, the same bytes were there already; `superseded`, a newer one stands there, nothing
    was sent. `location` names the place for a person (a URL, ipfs://CID, bucket/key); `proof` is what the target said and
    what `Target.verify` needs (ids, ETag, checksum, CID and its profile, ...).
    """

    outcome: Literal["stored", "existed", "superseded"]
    location: str
    proof: Mapping[str, Any]
    bytes_sent: int = 0
    #: Requests that reached the outside in this attempt.
    requests: int = 0


@dataclass(frozen=True)
class Check:
    """One step of `labledger targets test`, or of a verification: what was looked at, and if it failed what to do."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class TargetContext:
    """What an adapter of a target is handed besides its options. `nats` opens a connection to the lab (`bus.connection.Bus`),
    which is the adapter's to close; `environ` holds the customary variables of the outside systems (PINATA_JWT, ...)."""

    environ: Mapping[str, str]
    nats: Callable[[], Awaitable[Any]]


@runtime_checkable
class HasRetryNumbers(Protocol):
    """A target whose system has a configuration of its own with retry numbers in it."""

    @property
    def retry(self) -> Mapping[str, float]:
        """By the names of `RetryPolicy`, as far as they are set there. What our settings say goes before them."""
        ...


class Target(Protocol):
    """An outside system that takes deliveries. One instance serves a process; its methods may run many times at once.

    A module in `adapters` that has a class `Target` is an adapter; the settings name it by its file ([targets.archive]
    adapter = "storage.s3") and give its `Options`, a pydantic model with secrets as `SecretStr`. It is made by
    `Target(name, options, context)`, which does no I/O.
    """

    #: What kind of system it is ("s3", "ipfs", "kv", "maskhub").
    kind: str

    def missing(self) -> Sequence[str]:
        """The credentials that are not set, by the names under which a person sets them. While there are any, nothing is
        sent: what is asked for is kept for later (local only)."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Where it is and how it is used, for people, without secrets (endpoint, bucket, profile, ...). No I/O."""
        ...

    async def deliver(self, shipment: Shipment) -> Arrived:
        """Bring it there, once: safe to call again after any end of an earlier attempt, also a kill at any moment.

        Raises `DeliveryFailed`; anything else counts as `internal`. Cancelling it leaves a state that can be resumed."""
        ...

    async def verify(self, proof: Mapping[str, Any], sha256: str | None, size: int) -> Sequence[Check]:
        """Ask the target again and compare with the receipt's proof. Changes nothing there. Raises `DeliveryFailed` when it
        cannot be asked."""
        ...

    async def test(self) -> Sequence[Check]:
        """A round trip with a small file under a name of its own, removed afterwards where that is possible. Never raises:
        each missing or wrong credential is a failed check that says what to do."""
        ...

    async def close(self) -> None: ...


class Remover(Protocol):
    """Removes local files that have been published. Blocking: call it from a thread."""

    def remove(self, path: str, sha256: str) -> bool:
        """True when it was removed, False when it was gone. Raises `Refused` where it may not, or when its bytes are others."""
        ...
