"""Blobs in NATS' object store, beside the events: for a lab on several machines that has no other store to share.

The bucket `blobs` is made by `labledger provision`. A blob is visible once all of its chunks are durable (`bus/objects.py`).
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from adapters.storage.remote_blobs import RemoteBlobs
from bus.connection import Bus
from bus.errors import Rejected
from bus.objects import CHUNK, Objects
from bus.streams import BLOBS


class NatsBlobs(RemoteBlobs):
    """`connect` is called at the first use, on this store's own event loop. `inside`: as one of our own processes."""

    def __init__(self, connect: Callable[[], Awaitable[Bus]], spool: Path, *, inside: bool = True) -> None:
        super().__init__(spool, "NATS")
        self._connect, self._inside = connect, inside
        self._bus: Bus | None = None

    async def _objects(self) -> Objects:
        if self._bus is None:
            bus = await self._connect()
            if self._bus is None:
                self._bus = bus
            else:
                await bus.close()  # another task was quicker
        return Objects(self._bus, BLOBS, inside=self._inside)

    async def _has(self, sha256: str, size: int) -> bool:
        info = await (await self._objects()).info(sha256)
        return info is not None and info.size == size

    async def _store(self, path: Path, sha256: str, size: int) -> None:
        with path.open("rb") as file:
            await (await self._objects()).put(sha256, iter(lambda: file.read(CHUNK), b""), sha256)

    async def _read(self, sha256: str, into: Callable[[bytes], Any]) -> None:
        objects = await self._objects()
        info = await objects.info(sha256)
        if info is None or info.size < 0:
            raise self._not_found(sha256)
        try:
            await objects.read(info, into)
        except Rejected:
            raise self._damaged(sha256) from None

    async def _close(self) -> None:
        if self._bus is not None:
            await self._bus.close()
