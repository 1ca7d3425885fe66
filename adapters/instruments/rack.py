"""The instruments of one station: one thread for each connection, and only that thread talks on it.

Two ways to run a program:

* **Direct**, when all its instruments share one connection: it runs on the thread of the connection and calls the
  instruments themselves. Nothing limits the length of its calls but the drivers; the station watches `busy_s` and calls
  `abandon`. Another program on the connection waits until it has ended.
* **By proxy**, when it needs several connections: it runs on a thread of its own and hands each call to the owning
  thread, 10 us where both threads share a core and up to 80 us where a sleeping core must be woken. A call that takes longer than `call_timeout_s` raises `NoAnswer`; waiting for the connection while
  others use it does not count. Two such programs on one connection take turns call by call.

An abandoned connection is replaced: programs that had not begun move to the fresh one, calls that waited raise
`Abandoned`, and the future of the program whose call hung gets `NoAnswer`. What the thread that was left behind still does
is discarded, and its next call to a driver raises `Abandoned` before it reaches the device. A proxy keeps to its own
generation: after `abandon`, start another program.

The first `run` with an instrument opens it, and whoever answers first under its name is the one that must answer from
then on, until `forget`.
"""

import importlib
import logging
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from queue import Empty, SimpleQueue
from threading import Lock, RLock, Thread
from time import monotonic
from typing import Any, Protocol, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters import instruments as folder
from adapters.instruments.careful import Careful, OnTrouble
from adapters.instruments.faults import FaultControl, FaultsConfig, Faulty
from adapters.instruments.line import Abandoned, Line
from domain.errors import NoAnswer, NotFound
from domain.ports import Channel, Instrument, Value

log = logging.getLogger(__name__)
T = TypeVar("T")


class InstrumentConfig(BaseModel):
    """One instrument of a station, as the settings tell it."""

    model_config = ConfigDict(extra="forbid")
    driver: str
    """The module in `adapters.instruments`."""
    address: str = ""
    """The driver's: a VISA address, or any name of a simulated device. The default is the instrument's name."""
    connection: str | None = None
    """Instruments with the same connection share one thread (a bus, a gateway). The default is the address."""
    options: dict[str, Any] = {}
    """The driver's own."""
    call_timeout_s: float = Field(default=3.0, gt=0)
    """A call by proxy that takes longer raises `NoAnswer`. Longer than the driver's own time-out."""
    open_timeout_s: float = Field(default=10.0, gt=0)
    """The same for opening."""
    faults: FaultsConfig | None = None


class UnknownDriver(NotFound):
    """No module of that name in adapters/instruments has a class `Driver`."""


class DriverClass(Protocol):
    """What a driver module calls `Driver`. Making one does no I/O; wrong options raise."""

    def __call__(self, address: str, options: Mapping[str, Any], line: Line) -> Instrument: ...


def drivers() -> dict[str, DriverClass]:
    """Every driver by its module's name. The folder is the list."""
    found: dict[str, DriverClass] = {}
    for module in pkgutil.iter_modules(folder.__path__):
        driver = getattr(importlib.import_module(f"{folder.__name__}.{module.name}"), "Driver", None)
        if driver is not None:
            found[module.name] = driver
    return found


def _driver(name: str) -> DriverClass:
    if not name.isidentifier() or name not in {module.name for module in pkgutil.iter_modules(folder.__path__)}:
        raise UnknownDriver(f"there is no driver {name!r}; there are {', '.join(drivers())}")
    driver = getattr(importlib.import_module(f"{folder.__name__}.{name}"), "Driver", None)
    if driver is None:
        raise UnknownDriver(f"{name!r} is no driver; there are {', '.join(drivers())}")
    return cast(DriverClass, driver)


class Rack:
    """See `domain.ports.Rack`. `guard` and `on_trouble` may be replaced at any time."""

    def __init__(
        self,
        configs: Mapping[str, InstrumentConfig],
        on_trouble: OnTrouble | None = None,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        """Makes every driver, so that a wrong option is found now, and connects to nothing.

        Raises `UnknownDriver`, and `ValueError` with the instrument's name for options that the driver refuses."""
        #: called before each write, stop and safe; raises `LeaseLost`
        self.guard = guard
        #: called with (instrument, error, attempt) before each retry, on the thread of the connection
        self.on_trouble = on_trouble
        self._configs = dict(configs)
        self._identities: dict[str, str] = {}
        self._lock = RLock()
        self._closed = False
        self._controls = {
            name: FaultControl(config.faults) for name, config in configs.items() if config.faults is not None
        }
        self._keys = {name: config.connection or config.address or name for name, config in self._configs.items()}
        self._connections = {key: self._connection(key) for key in dict.fromkeys(self._keys.values())}

    def names(self) -> list[str]:
        return list(self._configs)

    def describe(self, name: str) -> Mapping[str, Channel]:
        return self._of(name).instruments[name].describe()

    def identity(self, name: str) -> str | None:
        """Who answered first; None before the first `run`. No I/O."""
        self._of(name)
        return self._identities.get(name)

    def run(self, names: Sequence[str], program: Callable[[Mapping[str, Instrument]], T]) -> "Future[T]":
        """Runs `program({name: instrument})`, opening the instruments first. See the top of this module.

        The future gets what the program returns or raises, or the error of opening. Raises `NotFound`."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the rack is closed")
            for name in names:
                self._of(name)
            future: Future[T] = Future()
            if len({self._keys[name] for name in names}) == 1:
                self._connections[self._keys[names[0]]].submit(_Direct(self, names, program, future))
                return future
            proxies = {name: Proxy(name, self._of(name), self._configs[name].call_timeout_s) for name in names}
        Thread(
            target=_run_by_proxy, args=(proxies, program, future), name=f"program {' '.join(names)}", daemon=True
        ).start()
        return future

    def busy_s(self, name: str) -> float:
        return self._of(name).line.busy_s()

    def overdue_s(self, name: str) -> float:
        connection = self._of(name)
        busy_s = connection.line.busy_s()
        return busy_s if busy_s > (connection.line.grace_s or connection.longest_s) else 0.0

    def abandon(self, name: str) -> None:
        with self._lock:
            old = self._of(name)
            log.warning("abandoning the connection %s after %.1f s", old.line.key, old.line.busy_s())
            self._connections[old.line.key] = self._connection(old.line.key)
        old.abandon()

    def forget(self, name: str) -> None:
        """The device has been replaced on purpose: whoever answers at the next opening is the right one. The connection
        must be idle: it gets fresh drivers."""
        with self._lock:
            old = self._of(name)
            self._identities.pop(name, None)
            self._connections[old.line.key] = self._connection(old.line.key)
        old.close(self._configs[name].open_timeout_s)

    def faults(self, name: str) -> FaultControl:
        """The hand on an instrument's faults. Raises `NotFound` when it is configured without `faults`."""
        self._of(name)
        if name not in self._controls:
            raise NotFound(f"{name} is configured without faults")
        return self._controls[name]

    def close(self) -> None:
        """Closes all that is open. A connection that does not come back within its longest time-out is left behind."""
        with self._lock:
            self._closed = True
            connections = list(self._connections.values())
        for connection in connections:
            connection.send_close()
        for connection in connections:
            connection.close(max(self._configs[name].open_timeout_s for name in connection.instruments))

    def submit_again(self, job: "_Direct") -> None:
        """A program that had not begun when its connection was abandoned."""
        with self._lock:
            connection = self._connections[self._keys[job.names[0]]]
        connection.submit(job)

    def _of(self, name: str) -> "Connection":
        if name not in self._configs:
            raise NotFound(f"there is no instrument {name}; there are {', '.join(self._configs)}")
        return self._connections[self._keys[name]]

    def _connection(self, key: str) -> "Connection":
        line = Line(key, lambda: self.guard())
        instruments = {name: self._careful(name, line) for name, its in self._keys.items() if its == key}
        return Connection(line, instruments, max(self._configs[name].call_timeout_s for name in instruments))

    def _careful(self, name: str, line: Line) -> Careful:
        config = self._configs[name]
        try:
            driver = _driver(config.driver)(config.address or name, config.options, line)
        except (ValidationError, ValueError) as error:
            raise ValueError(f"instruments.{name}: {error}") from error
        if name in self._controls:
            driver = Faulty(driver, self._controls[name], line)
        return Careful(name, driver, line, lambda: self.on_trouble, self._identities, config.open_timeout_s)


class _Job(Protocol):
    def run(self, instruments: Mapping[str, Careful]) -> None: ...

    def hung(self, line: Line) -> None:
        """It was running when the connection was abandoned."""
        ...

    def left_over(self, line: Line, moves: bool) -> None:
        """It had not begun when the connection was abandoned (then a program moves to the next one) or closed."""
        ...


class Connection:
    """One generation of a connection: its line, its thread (started with the first job), its instruments."""

    def __init__(self, line: Line, instruments: dict[str, Careful], longest_s: float) -> None:
        self.line = line
        self.instruments = instruments
        #: the longest that an ordinary call of any of its instruments may take
        self.longest_s = longest_s
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = Lock()
        self._thread: Thread | None = None
        self._current: _Job | None = None
        self._ended = False
        self._given_up = False

    def submit(self, job: _Job) -> None:
        with self._lock:
            if not self._ended:
                if self._thread is None:
                    self._thread = Thread(target=self._work, name=f"line {self.line.key}", daemon=True)
                    self._thread.start()
                self._queue.put(job)
                return
        job.left_over(self.line, self._given_up)

    def abandon(self) -> None:
        with self._lock:
            self._given_up = self._ended = True
            current = self._current
        # First the outcome, then the mark: the thread that is left behind must not get its own end in before.
        if current is not None:
            current.hung(self.line)
        self.line.abandoned = True
        self._queue.put(None)
        # A call that is blocked in the operating system may end when its handle is taken away; if that
        # hangs too, it hangs on a thread of its own.
        Thread(target=self._cut, name=f"cutting {self.line.key}", daemon=True).start()
        self._sweep()

    def send_close(self) -> None:
        with self._lock:
            self._ended = True
        self._queue.put(None)

    def close(self, timeout_s: float) -> None:
        self.send_close()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                self.abandon()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            with self._lock:
                if self._given_up:
                    break
                self._current = job
            job.run(self.instruments)
            self._current = None
        if job is not None:
            job.left_over(self.line, self._given_up)
        self._sweep()
        if self._given_up:
            return
        for instrument in self.instruments.values():
            if instrument.opened:
                try:
                    instrument.close()
                except Exception:
                    log.exception("closing %s", instrument.name)

    def _sweep(self) -> None:
        while True:
            try:
                job = self._queue.get_nowait()
            except Empty:
                return
            if job is not None:
                job.left_over(self.line, self._given_up)

    def _cut(self) -> None:
        for instrument in self.instruments.values():
            driver: object = instrument.driver
            if isinstance(driver, Faulty):
                driver = driver.driver
            cut: Callable[[], None] | None = getattr(driver, "cut", None)
            if cut is not None:
                try:
                    cut()
                except Exception as error:
                    log.warning("cutting %s: %r", instrument.name, error)


def _settle(future: "Future[T]", program: Callable[[], T]) -> None:
    try:
        result = program()
    except BaseException as error:
        try:
            future.set_exception(error)
        except InvalidStateError:
            # The connection was abandoned meanwhile, and the future says so already.
            log.info("an abandoned program ended with %r", error)
        return
    try:
        future.set_result(result)
    except InvalidStateError:
        log.info("the late result of an abandoned program is discarded")


class _Direct(_Job):
    """A program that runs on the thread of its connection."""

    def __init__(
        self, rack: Rack, names: Sequence[str], program: Callable[[Mapping[str, Instrument]], T], future: "Future[T]"
    ) -> None:
        self.names = names
        self._rack = rack
        self._program: Callable[[Mapping[str, Instrument]], Any] = program
        self._future: Future[Any] = future

    def run(self, instruments: Mapping[str, Careful]) -> None:
        if not self._future.set_running_or_notify_cancel():
            return
        chosen = {name: instruments[name] for name in self.names}

        def program() -> Any:
            for instrument in chosen.values():
                instrument.open()
            return self._program(chosen)

        _settle(self._future, program)

    def hung(self, line: Line) -> None:
        try:
            self._future.set_exception(NoAnswer(f"a call on {line.key} hung; the connection was abandoned"))
        except InvalidStateError:
            pass

    def left_over(self, line: Line, moves: bool) -> None:
        if moves:
            self._rack.submit_again(self)
        elif self._future.set_running_or_notify_cancel():
            self._future.set_exception(Abandoned(f"the connection {line.key} was closed before the program began"))


def _run_by_proxy(
    proxies: "Mapping[str, Proxy]", program: Callable[[Mapping[str, Instrument]], T], future: "Future[T]"
) -> None:
    if not future.set_running_or_notify_cancel():
        return

    def opened() -> T:
        waiting = [proxy.begin_open() for proxy in proxies.values()]
        for proxy, call in zip(proxies.values(), waiting, strict=True):
            proxy.wait(call)
        return program(proxies)

    _settle(future, opened)


class _Call(_Job):
    """One call by proxy."""

    __slots__ = ("_claim", "_error", "_result", "args", "done", "instrument", "method")

    def __init__(self, instrument: str, method: str, args: tuple[Any, ...]) -> None:
        self.instrument = instrument
        self.method = method
        self.args = args
        self.done = Lock()
        self.done.acquire()
        self._claim = Lock()
        self._result: Any = None
        self._error: BaseException | None = None

    def claim(self) -> bool:
        """Whoever gets it decides: the thread that it runs, or the caller that it shall not."""
        return self._claim.acquire(blocking=False)

    def run(self, instruments: Mapping[str, Careful]) -> None:
        if not self.claim():
            return
        try:
            self._result = getattr(instruments[self.instrument], self.method)(*self.args)
        except BaseException as error:
            self._error = error
        self.done.release()

    def hung(self, line: Line) -> None:
        # The caller has its own clock, but need not wait for it. The thread may just now be ending the call.
        self._error = NoAnswer(f"{self.method} of {self.instrument} hung; the connection was abandoned")
        try:
            self.done.release()
        except RuntimeError:
            pass

    def left_over(self, line: Line, moves: bool) -> None:
        if self.claim():
            self._error = Abandoned(f"the connection {line.key} was given up while {self.instrument} waited for it")
            self.done.release()

    def outcome(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result


class Proxy:
    """An `Instrument` that hands each call to the thread of its connection. For one program, on one thread."""

    def __init__(self, name: str, connection: Connection, call_timeout_s: float) -> None:
        self._name = name
        self._connection = connection
        self._timeout_s = call_timeout_s

    def describe(self) -> Mapping[str, Channel]:
        return self._connection.instruments[self._name].describe()

    def begin_open(self) -> _Call:
        return self._begin("open")

    def open(self) -> None:
        self.wait(self._begin("open"))

    def identify(self) -> str:
        return self.wait(self._begin("identify"))

    def read(self, names: Sequence[str]) -> dict[str, Value]:
        return self.wait(self._begin("read", names))

    def write(self, name: str, value: Value) -> Value:
        return self.wait(self._begin("write", name, value))

    def settled(self, name: str) -> bool:
        return self.wait(self._begin("settled", name))

    def stop(self) -> None:
        self.wait(self._begin("stop"))

    def safe(self) -> None:
        self.wait(self._begin("safe"))

    def close(self) -> None:
        self.wait(self._begin("close"))

    def snapshot(self, names: Sequence[str]) -> dict[str, Value]:
        return self.wait(self._begin("snapshot", names))

    def _begin(self, method: str, *args: Any) -> _Call:
        call = _Call(self._name, method, args)
        self._connection.submit(call)
        return call

    def wait(self, call: _Call) -> Any:
        """The outcome of the call. Raises `NoAnswer` when it, or the call before it, takes longer than it may."""
        if call.done.acquire(timeout=self._timeout_s):
            return call.outcome()
        line = self._connection.line
        ours_runs = False
        while True:
            # The clock is that of the driver call that runs now: retries of the careful layer start it anew, and
            # waiting behind another program's calls does not count, unless one of them hangs.
            since = line.since
            limit_s = max(self._timeout_s if ours_runs else self._connection.longest_s, line.grace_s)
            left_s = limit_s - (monotonic() - since) if since else self._timeout_s
            if left_s <= 0:
                if not ours_runs and not call.claim():
                    ours_runs = True
                    continue
                what = (
                    f"{call.method} of {self._name}" if ours_runs else f"the call before {call.method} of {self._name}"
                )
                raise NoAnswer(f"{what} has not come back after {limit_s:g} s")
            if call.done.acquire(timeout=min(left_s + 0.001, self._timeout_s)):
                return call.outcome()
