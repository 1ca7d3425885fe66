"""What the blob stores behind a network have in common: a blocking port over async libraries, and files on their way.

Each store has an event loop in a thread of its own, made at the first use. What is put is written to a spool file first, because its
name is the hash of all of it; what is lent out is a spool file too, removed when its user is done. Spool files of a process that was
killed are removed by a later one.
"""

import asyncio
import atexit
import hashlib
import io
import secrets
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from adapters.storage.local import CHUNK, checked
from domain.errors import NotFound

T = TypeVar("T")

#: A spool file that nobody has written to for so long belongs to nobody.
STALE_S = 7 * 86_400.0


class LoopThread:
    """An event loop in a thread, for callers that block."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True).start()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # an interrupted caller leaves nothing behind that goes on
            raise

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the last work, and end the thread. Harmless when it was never begun."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        with suppress(Exception):
            asyncio.run_coroutine_threadsafe(last(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)


class RemoteBlobs(ABC):
    """The port `domain.ports.Blobs` over the three things that a store must do."""

    def __init__(self, spool: Path, where: str) -> None:
        self._spool, self._where = spool, where
        self._thread = LoopThread(f"blobs {where}")
        at_exit = weakref.WeakMethod(self.close)
        atexit.register(lambda: close() if (close := at_exit()) else None)

    @abstractmethod
    async def _has(self, sha256: str, size: int) -> bool:
        """Whether the blob is there, with that size."""

    @abstractmethod
    async def _store(self, path: Path, sha256: str, size: int) -> None:
        """Make it durable and then visible. Safe to repeat, and to be done by two at once."""

    @abstractmethod
    async def _read(self, sha256: str, into: Callable[[bytes], Any]) -> None:
        """All of it, in order. Raises `NotFound`."""

    async def _close(self) -> None:
        return None

    # -- the port ------------------------------------------------------------------------------------------------------

    def put(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        if not self._thread.run(self._has(sha256, len(data))):
            self.put_file(io.BytesIO(data))
        return sha256

    def put_file(self, source: BinaryIO) -> tuple[str, int]:
        digest, size = hashlib.sha256(), 0
        with self._spooled() as (path, file):
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                size += file.write(chunk)
            file.flush()
            sha256 = digest.hexdigest()
            if not self._thread.run(self._has(sha256, size)):
                self._thread.run(self._store(path, sha256, size))
        return sha256, size

    def get(self, sha256: str) -> bytes:
        data = bytearray()
        self._fetch(sha256, data.extend)
        return bytes(data)

    @contextmanager
    def local(self, sha256: str) -> Generator[Path]:
        with self._spooled() as (path, file):
            self._fetch(sha256, file.write)
            file.close()
            yield path

    def close(self) -> None:
        self._thread.close(self._close)

    # -- help ----------------------------------------------------------------------------------------------------------

    def _fetch(self, sha256: str, into: Callable[[bytes], Any]) -> None:
        digest = hashlib.sha256()

        def take(piece: bytes) -> None:
            digest.update(piece)
            into(piece)

        self._thread.run(self._read(checked(sha256), take))
        if digest.hexdigest() != sha256:
            raise self._damaged(sha256)

    def _damaged(self, sha256: str) -> ValueError:
        return ValueError(f"blob {sha256} in {self._where} is damaged: its content has another hash")

    def _not_found(self, sha256: str) -> NotFound:
        return NotFound(f"there is no blob {sha256} in {self._where}")

    @contextmanager
    def _spooled(self) -> Generator[tuple[Path, BinaryIO]]:
        self._spool.mkdir(parents=True, exist_ok=True)
        for old in self._spool.iterdir():
            with suppress(OSError):  # another process may be at it as well
                if time.time() - old.stat().st_mtime > STALE_S:
                    old.unlink()
        path = self._spool / secrets.token_hex(8)
        try:
            with path.open("xb") as file:
                yield path, file
        finally:
            path.unlink(missing_ok=True)
