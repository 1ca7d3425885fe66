"""The bridge from threads to the event loop: one connection to NATS, living in a thread of its own.

The thread starts with the first call and ends with `close()`, or when nobody holds the link any more. The thread itself
knows the loop and the connection, but not the link, so that a forgotten link can be collected.
"""

import asyncio
import concurrent.futures
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from eventsourcing.persistence import (
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    PersistenceError,
    ProgrammingError,
)

from bus.connection import Bus, Credentials, connect
from bus.errors import BusError, Conflict, Forbidden, Rejected, Unavailable
from bus.persistence.store import RecordStore
from bus.streams import EVT, provision

log = logging.getLogger("labledger.persistence")

T = TypeVar("T")


@dataclass(frozen=True)
class Address:
    """Where NATS is and how to sign in. `make_streams`: create the streams that are missing, as a provisioner may."""

    urls: tuple[str, ...]
    credentials: Credentials = field(default_factory=Credentials, repr=False)
    name: str = "eventsourcing"
    timeout_s: float = 20.0
    make_streams: bool = False

    @property
    def where(self) -> str:
        return ", ".join(self.urls)


class _Refused(Exception):
    """The server is there, but will not serve us: trying again does not help."""


class _Engine:
    """What lives in the thread: the loop, the connection and the store on it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name=f"{address.name}-nats", daemon=True)
        self._bus: Bus | None = None
        self._store: RecordStore | None = None
        self._connecting = asyncio.Lock()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    async def store(self) -> RecordStore:
        """The store, connected. Raises `Unavailable` when no server answers, `_Refused` when it does not want us."""
        async with self._connecting:
            if self._store is None:
                address = self.address
                if self._bus is None:
                    try:
                        self._bus = await connect(
                            list(address.urls), address.name, address.credentials, first_try_s=1.0
                        )
                    except Unavailable as error:
                        # nats-py tells it in words only, when it happens at the first connect.
                        if "authorization violation" in str(error).lower():
                            raise _Refused(f"NATS at {address.where} refused the credentials") from error
                        raise
                if address.make_streams:
                    await provision(self._bus)
                info = await self._bus.api(f"STREAM.INFO.{EVT}")
                if info.get("error", {}).get("code") == 404:
                    raise _Refused(
                        f"NATS at {address.where} has no stream {EVT}: start `labledger up` on it, or set MAKE_STREAMS=y"
                    )
                self._store = RecordStore(self._bus, patience_s=address.timeout_s)
            return self._store

    async def _end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if self._bus is not None:
            try:
                async with asyncio.timeout(2):
                    await self._bus.close()
            except Exception as error:  # it is closed from here on in any case
                log.debug("closing the connection: %r", error)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.loop.shutdown_asyncgens()

    def shut(self) -> None:
        """End the thread. Waits for it, unless called from it (the collector may run anywhere)."""
        if not self.thread.is_alive():
            return

        async def end_and_stop() -> None:
            try:
                await self._end()
            finally:
                self.loop.stop()

        asyncio.run_coroutine_threadsafe(end_and_stop(), self.loop)
        if threading.current_thread() is not self.thread:
            self.thread.join(10)


class Link:
    """A connection to NATS for any number of threads. Connects at the first call."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._engine: _Engine | None = None
        self._finalizer: Any = None
        self.closed = False

    def _running(self) -> _Engine:
        with self._lock:
            if self.closed:
                raise InterfaceError("this connection was closed")
            if self._engine is None:
                self._engine = _Engine(self.address)
                self._engine.thread.start()
                self._finalizer = weakref.finalize(self, self._engine.shut)
            return self._engine

    def submit(self, work: Callable[["RecordStore"], Coroutine[Any, Any, T]]) -> "concurrent.futures.Future[T]":
        """Start work on the store in the loop thread. The future ends with what `result` then explains."""
        engine = self._running()

        async def run() -> T:
            return await work(await engine.store())

        return asyncio.run_coroutine_threadsafe(run(), engine.loop)

    def call(self, work: Callable[["RecordStore"], Awaitable[T]], *, repeat: bool = True) -> T:
        """Do work on the store in the loop thread and wait for it, up to the address's timeout.

        `repeat`: harmless to do again, so troubles that pass are waited out. Raises the library's errors:
        `IntegrityError`, `OperationalError`, `InterfaceError`, `DataError`, `ProgrammingError`.
        """
        engine = self._running()
        if threading.current_thread() is engine.thread:
            raise ProgrammingError("called from the loop thread itself, which would wait for itself for ever")
        future = asyncio.run_coroutine_threadsafe(_bounded(engine, work, repeat), engine.loop)
        try:
            return self.result(future)
        except BaseException:
            future.cancel()  # does nothing to one that is done; ^C ends the work as well
            raise

    def result(self, future: "concurrent.futures.Future[T]") -> T:
        """Wait for a future of `submit`, in the library's errors."""
        try:
            return future.result()
        except PersistenceError:
            raise
        except Conflict as error:
            raise IntegrityError(str(error)) from error
        except Forbidden as error:
            raise InterfaceError(str(error)) from error
        except Rejected as error:
            raise DataError(str(error)) from error
        except _Refused as error:
            raise InterfaceError(str(error)) from error
        except BusError as error:
            raise OperationalError(str(error)) from error
        except concurrent.futures.CancelledError as error:
            raise InterfaceError("the connection was closed") from error

    def close(self) -> None:
        """End the connection and its thread. Whoever still waits gets an `InterfaceError`. Safe to repeat."""
        with self._lock:
            self.closed = True
            engine, self._engine = self._engine, None
        if engine is not None:
            self._finalizer.detach()
            engine.shut()


async def _bounded(engine: _Engine, work: Callable[[RecordStore], Awaitable[T]], repeat: bool) -> T:
    why = ""
    try:
        async with asyncio.timeout(engine.address.timeout_s):
            delay = 0.05
            while True:
                connected = False
                try:
                    store = await engine.store()
                    connected = True
                    return await work(store)
                except Unavailable as error:
                    why = f": {error}"
                    if connected and not repeat:
                        raise
                await asyncio.sleep(delay)
                delay = min(2 * delay, 1.0)
    except TimeoutError as error:
        raise Unavailable(
            f"NATS at {engine.address.where} gave no answer in {engine.address.timeout_s:g} s{why}"
        ) from error
