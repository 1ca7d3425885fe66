"""The recorder: makes a running scan's frames durable, one after the other, each riding on the station's lease.

One frame at most is on its way while the next is measured: its acknowledgement is waited for before the next is sent,
and before a segment ends. A scan that asks for each reading by itself waits for each.

It lives on the thread of the scan with an event loop and a NATS connection of its own: handing each frame to the
station's loop and back would cost more than the frame. The loop runs only while a frame is on its way.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import numpy as np

from bus.connection import Bus
from bus.envelope import Head, Meta
from bus.errors import Fenced
from bus.store import Change, EventStore, Fence
from domain.errors import LeaseLost
from domain.ports import Blobs
from domain.readings import ArrayRef, BranchColumns, ReadingsRecorded, frame_body

#: How a recorder comes to its connection: called on the scan's thread, within its loop.
Connect = Callable[[], Any]


class Recorder:
    """A `FrameWriter` on the event store. Made and used on one thread; `close` it there."""

    def __init__(
        self,
        connect: Connect,
        loop_factory: Callable[[], asyncio.AbstractEventLoop],
        blobs: Blobs,
        scan_id: UUID,
        attempt: int,
        columns: Sequence[BranchColumns],
        head: Head,
        fence: Fence,
        meta: Meta,
    ) -> None:
        self._blobs = blobs
        self._scan_id = scan_id
        self._attempt = attempt
        self._names = [list(branch.in_frame) for branch in columns]
        self._units = [[c.unit for c in branch.columns if c.type != "array"] for branch in columns]
        self._fence = fence
        self._meta = meta
        #: Set (by the station) when this thread was left behind in a call that hung: what it measures is void.
        self.abandoned = False
        #: A frame is being written just now.
        self.busy = False
        #: Where the history of the readings ends: what the next event follows.
        self.head = head
        self._loop = loop_factory()
        try:
            self._bus: Bus = self._loop.run_until_complete(connect())
        except BaseException:
            self._loop.close()
            raise
        # A scan waits for NATS as long as it takes: its points are in memory, and nothing moves meanwhile.
        self._store = EventStore(self._bus, patience_s=float("inf"))
        self._id = str(scan_id)
        self._on_its_way: asyncio.Task[Head] | None = None

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
        """Store a frame; with `wait`, until it is durable. Safe to repeat: its message id names scan, attempt and point.

        Raises `LeaseLost`, also for the frame before."""
        self.busy = True  # before the look at `abandoned`: who sets that waits until we are done
        try:
            self._record(branch, first_point, times, columns, arrays, wait=wait)
        finally:
            self.busy = False

    def _record(
        self,
        branch: int,
        first_point: int,
        times: list[float],
        columns: list[list[Any]],
        arrays: dict[str, list[Any]],
        *,
        wait: bool,
    ) -> None:
        if self.abandoned:
            raise LeaseLost("this run of the scan was given up while a call hung")
        refs = {name: self._keep(values) for name, values in arrays.items()}
        body = frame_body(
            scan_id=self._scan_id,
            attempt=self._attempt,
            branch=branch,
            first_point=first_point,
            names=self._names[branch],
            units=self._units[branch],
            time=times,
            values=columns,
            arrays=refs,
        )
        self._loop.run_until_complete(self._send(body, f"{self._scan_id}:{self._attempt}:{first_point}", wait))

    async def _send(self, body: bytes, message_id: str, wait: bool) -> None:
        await self._landed()
        change = Change("readings", self._id, (), self.head, fenced=True)
        append = self._store.append_frame(change, ReadingsRecorded.TYPE, body, self._meta, self._fence, message_id)
        self._on_its_way = self._loop.create_task(append)
        if wait:
            await self._landed()
            return
        # A few turns of the loop write it to the socket; the server works while the next points are measured.
        for _ in range(4):
            await asyncio.sleep(0)

    async def _landed(self) -> None:
        task, self._on_its_way = self._on_its_way, None
        if task is not None:
            try:
                self.head = await task
            except Fenced as error:
                raise LeaseLost(str(error)) from error

    def drain(self) -> None:
        """Wait until all that was recorded is durable. Raises `LeaseLost`."""
        self._loop.run_until_complete(self._landed())

    def _keep(self, values: list[Any]) -> ArrayRef:
        # The blob is durable before the event that names it.
        stacked = np.ascontiguousarray(np.stack(values))
        sha256 = self._blobs.put(stacked.tobytes())
        return ArrayRef(sha256=sha256, dtype=stacked.dtype.str, shape=stacked.shape)

    def idle(self) -> None:
        """Let the connection answer its pings while the scan has nothing to record."""
        self._loop.run_until_complete(asyncio.sleep(0.001))

    def close(self) -> None:
        try:
            if self._on_its_way is not None:
                self._on_its_way.cancel()  # not drained: the run was given up, and nothing of it may go out from now on
            self._loop.run_until_complete(self._bus.close())
        finally:
            self._loop.close()
