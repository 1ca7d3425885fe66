"""Jobs that were ordered together: one status, one cancel.

opened (by its first job) --> jobs added ... --> cancelled (its jobs are cancelled by a reaction, and no other is added)

How far it is follows from its jobs; it has no end of its own, so that jobs can be added for as long as it is not cancelled.
"""

from dataclasses import dataclass, replace
from typing import Annotated, assert_never
from uuid import UUID

from pydantic import Field

from domain.aggregate import Aggregate
from domain.errors import NotFound, OutOfLimits, WrongState
from domain.events import Command, Event
from domain.job import Title

MAX_JOBS = 5000


class BatchOpened(Event, name="batch.opened"):
    """There is a batch; its first job follows."""

    batch_id: UUID
    title: Title = ""


class BatchJobAdded(Event, name="batch.job_added"):
    """The job belongs to the batch."""

    batch_id: UUID
    job_id: UUID


class BatchCancelled(Event, name="batch.cancelled"):
    """Its jobs are to be cancelled by a reaction: those in `job_ids` that have not ended."""

    batch_id: UUID
    reason: str
    job_ids: tuple[UUID, ...]


BatchEvent = BatchOpened | BatchJobAdded | BatchCancelled


class CancelBatch(Command, name="batch.cancel"):
    """Cancel every job of a batch that has not ended, and add none any more."""

    batch_id: UUID
    reason: Annotated[str, Field(max_length=2000)] = ""


class AddToBatch(Command):
    batch_id: UUID
    job_id: UUID
    title: Title = ""


BatchCommand = CancelBatch | AddToBatch


@dataclass(frozen=True)
class Batch:
    opened: bool = False
    cancelled: bool = False
    title: str = ""
    jobs: tuple[UUID, ...] = ()


def decide(batch: Batch, command: BatchCommand) -> list[BatchEvent]:
    """Raises `NotFound`, `WrongState` (cancelled), `OutOfLimits` (full)."""
    batch_id = command.batch_id
    match command:
        case AddToBatch(job_id=job_id):
            if job_id in batch.jobs:
                return []
            if batch.cancelled:
                raise WrongState(f"batch {batch_id} was cancelled; order under a new batch id")
            if len(batch.jobs) >= MAX_JOBS:
                raise OutOfLimits(f"batch {batch_id} has {MAX_JOBS} jobs already; order under a new batch id")
            added = BatchJobAdded(batch_id=batch_id, job_id=job_id)
            return [added] if batch.opened else [BatchOpened(batch_id=batch_id, title=command.title), added]
        case CancelBatch(reason=reason):
            if not batch.opened:
                raise NotFound(f"there is no batch {batch_id}")
            if batch.cancelled:
                return []
            return [BatchCancelled(batch_id=batch_id, reason=reason, job_ids=batch.jobs)]
    assert_never(command)


def evolve(batch: Batch, event: BatchEvent) -> Batch:
    match event:
        case BatchOpened(title=title):
            return Batch(opened=True, title=title)
        case BatchJobAdded(job_id=job_id):
            return replace(batch, jobs=(*batch.jobs, job_id))
        case BatchCancelled():
            return replace(batch, cancelled=True)
    assert_never(event)


aggregate = Aggregate(kind="batch", initial=Batch(), decide=decide, evolve=evolve)
