"""The recorder: frames in their chain, each on the lease, blobs before the event that names them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import pytest_asyncio

from adapters.storage.local import LocalBlobs
from bus.connection import connect
from bus.envelope import Head
from bus.store import Fence, Written
from domain.errors import LeaseLost
from domain.readings import BranchColumns
from handlers.recorder import Recorder
from tests.integration.bus.place import Place, after, meta, noted, until

SCAN = UUID(int=5)
COLUMNS = BranchColumns.model_validate(
    {
        "columns": [
            {"name": "s.x", "unit": "mm", "instrument": "s", "channel": "x", "role": "position", "type": "float"},
            {
                "name": "s.img",
                "unit": "",
                "instrument": "s",
                "channel": "img",
                "role": "reading",
                "type": "array",
                "shape": [2],
            },
        ]
    }
)


class Desk:
    def __init__(self, place: Place, blobs: LocalBlobs, lease: Written) -> None:
        self.place, self.blobs, self.lease = place, blobs, lease

    def recorder(self) -> Recorder:
        credentials = self.place.credentials("station")
        url = self.place.server.url
        fence = Fence(self.lease.subject, self.lease.seq)

        async def open_() -> Any:
            return await connect(url, "recorder", credentials)

        return Recorder(open_, asyncio.new_event_loop, self.blobs, SCAN, 1, [COLUMNS], Head(), fence, meta("scan-5-1"))


def record(recorder: Recorder, first: int, count: int = 2, wait: bool = False) -> None:
    xs = [float(first + n) for n in range(count)]
    recorder.record(0, first, xs, [xs], {"s.img": [np.full(2, x) for x in xs]}, wait=wait)


@pytest_asyncio.fixture
async def desk(place: Place, tmp_path: Path) -> AsyncIterator[Desk]:
    store = await place.store("station")
    (lease,) = await store.append([after([], noted(1, "lease"), id_="lease")], meta("l"))
    yield Desk(place, LocalBlobs(tmp_path), lease)


async def test_frames_stand_in_their_chain_and_their_blobs_are_there(desk: Desk) -> None:
    def scan() -> Head:
        recorder = desk.recorder()
        for first in range(0, 20, 2):
            record(recorder, first)
        recorder.drain()
        recorder.close()
        return recorder.head

    head = await asyncio.to_thread(scan)
    stored = await (await desk.place.store()).history("readings", str(SCAN))
    assert [json.loads(event.data)["first_point"] for event in stored] == list(range(0, 20, 2))
    previous = Head()
    for event in stored:
        assert event.wrong(previous) is None
        previous = event.head
    assert previous == head
    ref = json.loads(stored[3].data)["arrays"]["s.img"]
    array = np.frombuffer(desk.blobs.get(ref["sha256"]), ref["dtype"]).reshape(ref["shape"])
    assert array.tolist() == [[6.0, 6.0], [7.0, 7.0]]


async def test_a_recorder_without_its_lease_says_so_and_stores_nothing(desk: Desk) -> None:
    store = await desk.place.store()
    await store.append([after([desk.lease], noted(2, "lease"), id_="lease")], meta("l2"))

    def scan() -> None:
        recorder = desk.recorder()
        try:
            with pytest.raises(LeaseLost):
                record(recorder, 0, wait=True)
            with pytest.raises(LeaseLost):
                record(recorder, 0)
                recorder.drain()
        finally:
            recorder.close()

    await asyncio.to_thread(scan)
    assert await store.history("readings", str(SCAN)) == []


async def test_a_recorder_that_was_given_up_writes_nothing_more(desk: Desk) -> None:
    def scan() -> None:
        recorder = desk.recorder()
        record(recorder, 0, wait=True)
        recorder.abandoned = True
        with pytest.raises(LeaseLost, match="given up"):
            record(recorder, 2)
        recorder.close()

    await asyncio.to_thread(scan)
    assert len(await (await desk.place.store()).history("readings", str(SCAN))) == 1


async def test_frames_go_on_after_a_kill_of_the_server_once_each(desk: Desk) -> None:
    done = 0

    def scan() -> None:
        nonlocal done
        recorder = desk.recorder()
        for first in range(0, 400, 2):
            record(recorder, first)
            done = first
        recorder.drain()
        recorder.close()

    scanning = asyncio.create_task(asyncio.to_thread(scan))
    await until(lambda: done > 50)
    await desk.place.restart()
    await asyncio.wait_for(scanning, 20)
    stored = await (await desk.place.store()).history("readings", str(SCAN))
    assert [json.loads(event.data)["first_point"] for event in stored] == list(range(0, 400, 2))
    previous = Head()
    for event in stored:
        assert event.wrong(previous) is None
        previous = event.head
