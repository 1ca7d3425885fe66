"""A lab's life in events: made by the real deciders from a seed, and stored on a real stream."""

import random
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from bus.envelope import Meta
from bus.ledger import Ledger
from bus.store import Fence
from bus.streams import evt
from domain.equipment import CalibrateEquipment, NoteStoppedAnswering, RegisterEquipment
from domain.errors import Refused
from domain.events import Command
from domain.job import FailJob, NoteProgress, StartJob, SubmitJob, SucceedJob
from domain.lease import AcquireLease, ReleaseLease
from domain.parked import Park, ResolveParked, RetryParked
from domain.plan import Plan
from domain.queue import AddJob, ConfigureQueue, CreateQueue, FinishJob, MoveJob, PauseQueue, RemoveJob, ResumeQueue
from domain.readings import (
    ArrayRef,
    BranchColumns,
    CloseReadings,
    ColumnInfo,
    OpenReadings,
    ReadingsRecorded,
    RecordReadings,
)
from domain.sample import ArchiveSample, RegisterSample, TagSample, UpdateSample
from domain.scan import AbortScan, CompleteScan, PauseScan, RequestScan, StartScan
from domain.station import LoseStation, NoteStuck, StartStation

PLAN = {
    "nodes": [
        {
            "kind": "move",
            "instrument": "stage",
            "channel": "x",
            "positions": {"kind": "linear", "start": 0, "stop": 1, "num": 50},
            "children": [{"kind": "measure", "instrument": "meter", "channels": ["voltage", "range", "trace"]}],
        }
    ]
}


def _column(name: str, **more: Any) -> ColumnInfo:
    instrument, channel = name.split(".")
    return ColumnInfo(name=name, instrument=instrument, channel=channel, **{"role": "reading", **more})


COLUMNS = (
    BranchColumns(
        columns=(
            _column("stage.x", unit="mm", role="position"),
            _column("meter.voltage", unit="V"),
            _column("meter.range", type="str"),
            _column("meter.trace", unit="V", type="array", shape=(3,)),
        )
    ),
)


class Life:
    """Orders at random, refused or not, like a busy lab."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self._ledger = ledger
        self._random = random.Random(seed)
        self._n = 0
        self.fence: Fence | None = None
        self.scans: list[UUID] = []

    def _uuid(self) -> UUID:
        return UUID(int=self._random.getrandbits(128), version=4)

    async def order(self, kind: str, id_: Any, command: Command, *, fenced: bool = False) -> bool:
        self._n += 1
        meta = Meta(causation=f"life-{self._random.getrandbits(60)}", actor=self._random.choice(["ann", "bob"]))

        async def work(tx: Any) -> None:
            await tx.decide(kind, str(id_), command, fenced=fenced)

        try:
            await self._ledger.transact(work, meta, fence=self.fence if fenced else None)
        except Refused:
            return False
        return True

    async def begin(self) -> None:
        instance = self._uuid()
        start = StartStation(
            station_id="bench", instance=instance, host="h", pid=7, version="1", instruments={"stage": "sim"}
        )
        await self.order("station", "bench", start)
        for name in ("stage", "meter"):
            lease = AcquireLease(instrument=name, station_id="bench", instance=instance, host="h", pid=7, ttl_s=3)
            await self.order("lease", name, lease)
            register = RegisterEquipment(equipment_id=name, kind="both", driver="simulated")
            await self.order("equipment", name, register)
        self.fence = Fence(evt("lease", "stage"), (await self._ledger.load("lease", "stage")).head.seq)
        self.instance = instance
        await self.order("queue", "main", CreateQueue(queue_id="main", max_concurrent=2, order="priority"))

    async def go_on(self, orders: int) -> None:
        for _ in range(orders):
            await self._random.choice(
                [self._sample, self._job, self._queue, self._scan, self._parked, self._equipment]
            )()

    async def _sample(self) -> None:
        name = f"S{self._random.randrange(5)}"
        tags = tuple({f"t{self._random.randrange(4)}" for _ in range(2)})
        await self.order(
            "sample",
            name,
            self._random.choice(
                [
                    RegisterSample(sample_id=name, material="Si\x00!", tags=tags),  # NUL: hostile, and legal in JSON
                    UpdateSample(sample_id=name, description=f"seen {self._n} times"),
                    TagSample(sample_id=name, tags=tags),
                    ArchiveSample(sample_id=name),
                ]
            ),
        )

    async def _job(self) -> None:
        id_ = self._uuid()
        priority: Any = self._random.choice(["low", "normal", "urgent"])
        submit = SubmitJob(job_id=id_, queue_id="main", job_kind="extraction", spec={"n": self._n}, priority=priority)
        await self.order("job", id_, submit)
        await self.order("queue", "main", AddJob(queue_id="main", job_id=id_, job_kind="extraction", priority=priority))
        if self._random.random() < 0.6:
            await self.order("job", id_, StartJob(job_id=id_, worker="w"))
            await self.order("job", id_, NoteProgress(job_id=id_, attempt=1, percent=50, note="half"))
            if self._random.random() < 0.5:
                await self.order("job", id_, SucceedJob(job_id=id_, attempt=1, result={"ok": True}))
                await self.order("queue", "main", FinishJob(queue_id="main", job_id=id_, outcome="succeeded"))
            else:
                fail = FailJob(job_id=id_, attempt=1, error="no", kind="transient", at=datetime.now(UTC), jitter=0.5)
                await self.order("job", id_, fail)

    async def _queue(self) -> None:
        waiting = (await self._ledger.load("queue", "main")).state.waiting
        some = self._random.choice(waiting).job_id if waiting else self._uuid()
        await self.order(
            "queue",
            "main",
            self._random.choice(
                [
                    MoveJob(queue_id="main", job_id=some, to="first"),
                    MoveJob(queue_id="main", job_id=some, to="last"),
                    RemoveJob(queue_id="main", job_id=some),
                    PauseQueue(queue_id="main"),
                    ResumeQueue(queue_id="main"),
                    ConfigureQueue(queue_id="main", max_concurrent=self._random.randrange(1, 4)),
                ]
            ),
        )

    async def _scan(self) -> None:
        id_ = self._uuid()
        self.scans.append(id_)
        await self.order("scan", id_, RequestScan(scan_id=id_, plan=Plan.model_validate(PLAN), title=f"scan {self._n}"))
        if self._random.random() < 0.2:
            await self.order("scan", id_, AbortScan(scan_id=id_, reason="changed my mind"))
            return
        await self.order("scan", id_, StartScan(scan_id=id_, station_id="bench", instance=str(self.instance)))
        opening = OpenReadings(scan_id=id_, attempt=1, from_point=0, total_points=50, branches=COLUMNS)
        await self.order("readings", id_, opening, fenced=True)
        k = 0
        while k < 50:
            count = min(50 - k, self._random.randrange(1, 20))
            values = [
                [0.02 * n for n in range(k, k + count)],
                [self._random.choice([None, self._random.random()]) for _ in range(count)],
                [self._random.choice(["low", "high"]) for _ in range(count)],
            ]
            frame = ReadingsRecorded(
                scan_id=id_,
                attempt=1,
                branch=0,
                first_point=k,
                names=COLUMNS[0].in_frame,
                units=("mm", "V", ""),
                time=[1.79e9 + n for n in range(k, k + count)],
                values=values,
                arrays={"meter.trace": ArrayRef(sha256="ab" * 32, dtype="<f8", shape=(count, 3))},
            )
            await self.order("readings", id_, RecordReadings(scan_id=id_, frame=frame), fenced=True)
            k += count
            if self._random.random() < 0.1:
                await self.order("scan", id_, PauseScan(scan_id=id_))
        await self.order("readings", id_, CloseReadings(scan_id=id_, attempt=1, reason="completed"), fenced=True)
        await self.order("scan", id_, CompleteScan(scan_id=id_, points=50))

    async def _parked(self) -> None:
        name = f"p{self._random.randrange(4)}"
        park = Park(parked_id=name, what="event", subject="evt.scan.1", consumer="c", reason="r", park_seq=self._n)
        command = self._random.choice([park, RetryParked(parked_id=name), ResolveParked(parked_id=name)])
        await self.order("parked", name, command)

    async def _equipment(self) -> None:
        calibrate = CalibrateEquipment(equipment_id="meter", done_at=datetime.now(UTC), by="ann", values={"gain": 1.0})
        silent = NoteStoppedAnswering(equipment_id="stage", reason="unplugged")
        stuck = NoteStuck(station_id="bench", instance=self.instance, instrument="stage", call_s=4.0)
        kind, id_, command = self._random.choice(
            [("equipment", "meter", calibrate), ("equipment", "stage", silent), ("station", "bench", stuck)]
        )
        await self.order(kind, id_, command)

    async def end(self) -> None:
        for name in ("stage", "meter"):
            await self.order("lease", name, ReleaseLease(instrument=name, instance=self.instance, reason="done"))
        await self.order("station", "bench", LoseStation(station_id="bench", instance=self.instance, reason="silent"))
