from uuid import UUID

from domain import batch as module
from domain.batch import MAX_JOBS, AddToBatch, Batch, BatchCancelled, BatchJobAdded, BatchOpened, CancelBatch
from domain.errors import NotFound, OutOfLimits, WrongState
from tests.unit.domain.given import given

ID, FIRST, SECOND = UUID(int=9), UUID(int=1), UUID(int=2)
OPENED = BatchOpened(batch_id=ID, title="data sheets")
CANCEL = CancelBatch(batch_id=ID, reason="enough")


def add(job_id: UUID) -> AddToBatch:
    return AddToBatch(batch_id=ID, job_id=job_id, title="data sheets")


def added(job_id: UUID) -> BatchJobAdded:
    return BatchJobAdded(batch_id=ID, job_id=job_id)


def test_the_first_job_opens_the_batch() -> None:
    given(module, Batch()).when(add(FIRST)).then(OPENED, added(FIRST))
    given(module, Batch(), OPENED, added(FIRST)).when(add(SECOND)).then(added(SECOND))
    given(module, Batch(), OPENED, added(FIRST)).when(add(FIRST)).then()


def test_all_of_it_is_cancelled_at_once_and_nothing_is_added_any_more() -> None:
    cancelled = BatchCancelled(batch_id=ID, reason="enough", job_ids=(FIRST, SECOND))
    given(module, Batch(), OPENED, added(FIRST), added(SECOND)).when(CANCEL).then(cancelled)
    over = given(module, Batch(), OPENED, added(FIRST), added(SECOND), cancelled)
    over.when(CANCEL).then()
    over.when(add(UUID(int=3))).then_refused(WrongState, match="new batch id")
    over.when(add(FIRST)).then()


def test_a_batch_that_never_was_cannot_be_cancelled() -> None:
    given(module, Batch()).when(CANCEL).then_refused(NotFound)


def test_a_full_batch_takes_no_more() -> None:
    full = Batch(opened=True, jobs=tuple(UUID(int=n) for n in range(MAX_JOBS)))
    given(module, full).when(add(UUID(int=MAX_JOBS))).then_refused(OutOfLimits, match="under a new batch id")
