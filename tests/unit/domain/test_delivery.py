"""Deliveries, their targets and their artifacts: what may follow what."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from domain import artifact, delivery, target
from domain.delivery import Delivery, Receipt
from domain.errors import AlreadyExists, NotFound, WrongState
from domain.ports import RetryPolicy
from domain.target import Checked
from tests.unit.domain.given import given

ID, SHA, AT = UUID(int=7), "ab" * 32, datetime(2026, 11, 25, tzinfo=UTC)
REQUEST = delivery.RequestDelivery(delivery_id=ID, target_id="archive", artifact=SHA, key="runs/a.parquet")
FILE: dict[str, Any] = {"size": 5, "media_type": "text/csv", "file_name": "a.csv"}
PLACE = delivery.PlaceDelivery(delivery_id=ID, request=REQUEST, queue_id="to-archive", **FILE)
REQUESTED = delivery.DeliveryRequested(
    delivery_id=ID,
    target_id="archive",
    artifact=SHA,
    key="runs/a.parquet",
    options={},
    queue_id="to-archive",
    priority="normal",
    **FILE,
)
RECEIPT = Receipt(
    delivery_id=ID,
    target_id="archive",
    adapter="storage.s3",
    system="s3",
    target={"bucket": "lab"},
    sha256=SHA,
    key="runs/a.parquet",
    outcome="stored",
    location="s3://lab/runs/a.parquet",
    proof={"etag": "x"},
    attempts=1,
    requests=2,
    bytes_sent=5,
    at=AT,
    **FILE,
)


def start(attempt: int) -> delivery.StartAttempt:
    return delivery.StartAttempt(delivery_id=ID, attempt=attempt, worker="w")


def attempted(attempt: int) -> delivery.DeliveryAttempted:
    return delivery.DeliveryAttempted(delivery_id=ID, attempt=attempt, worker="w")


def kept(attempt: int) -> delivery.DeliveryCheckpointed:
    return delivery.DeliveryCheckpointed(delivery_id=ID, attempt=attempt, checkpoint={"upload": "u1"})


def parked(attempt: int) -> delivery.DeliveryParked:
    return delivery.DeliveryParked(delivery_id=ID, attempt=attempt, kind="unauthorized", error="wrong key")


COMPLETE = delivery.CompleteDelivery(delivery_id=ID, attempt=1, duration_s=0.5, receipt=RECEIPT)
DELIVERED = delivery.DeliveryDelivered(delivery_id=ID, attempt=1, duration_s=0.5, receipt=RECEIPT)
CANCEL = delivery.CancelDelivery(delivery_id=ID, reason="wrong file")
RETRY = delivery.RetryDelivery(delivery_id=ID)


def test_the_same_request_is_the_same_delivery_and_another_needs_an_id_of_its_own() -> None:
    given(delivery, Delivery()).when(PLACE).then(REQUESTED)
    given(delivery, Delivery(), REQUESTED).when(PLACE).then()
    other = PLACE.model_copy(update={"queue_id": "other"})
    given(delivery, Delivery(), REQUESTED).when(other).then_refused(AlreadyExists, match="choose a new id")


def test_an_attempt_is_said_before_it_reaches_out_and_only_once() -> None:
    given(delivery, Delivery(), REQUESTED).when(start(1)).then(attempted(1))
    given(delivery, Delivery(), REQUESTED, attempted(1)).when(start(1)).then_refused(WrongState, match="attempt 1")
    # Its worker died: nobody said how it ended, and the next one begins.
    given(delivery, Delivery(), REQUESTED, attempted(1)).when(start(2)).then(attempted(2))


def test_a_checkpoint_outlives_its_attempt_and_goes_with_the_delivery() -> None:
    keep = delivery.KeepCheckpoint(delivery_id=ID, attempt=1, checkpoint={"upload": "u1"})
    given(delivery, Delivery(), REQUESTED, attempted(1)).when(keep).then(kept(1))
    given(delivery, Delivery(), REQUESTED, attempted(1), kept(1)).when(keep).then()
    late = given(delivery, Delivery(), REQUESTED, attempted(1), kept(1), attempted(2))
    late.when(keep).then_refused(WrongState, match="stop working on attempt 1")
    state = delivery.aggregate.fold(Delivery(), [REQUESTED, attempted(1), kept(1), attempted(2)])
    assert state.checkpoint == {"upload": "u1"}
    assert delivery.evolve(state, DELIVERED).checkpoint is None


def test_a_failure_waits_for_its_time_or_is_parked() -> None:
    at = AT + timedelta(seconds=5)
    fail = delivery.FailAttempt(delivery_id=ID, attempt=1, kind="throttled", error="later", retry_at=at)
    failed = delivery.DeliveryFailed(delivery_id=ID, attempt=1, kind="throttled", error="later", retry_at=at)
    given(delivery, Delivery(), REQUESTED, attempted(1)).when(fail).then(failed)
    final = delivery.FailAttempt(delivery_id=ID, attempt=1, kind="unauthorized", error="wrong key")
    given(delivery, Delivery(), REQUESTED, attempted(1)).when(final).then(parked(1))
    given(delivery, Delivery(), REQUESTED, attempted(1), failed).when(start(2)).then(attempted(2))


def test_what_is_parked_is_retried_or_called_off_by_a_person() -> None:
    retried = delivery.DeliveryRetried(delivery_id=ID)
    cancelled = delivery.DeliveryCancelled(delivery_id=ID, reason="wrong file")
    given(delivery, Delivery(), REQUESTED, attempted(1), parked(1)).when(RETRY).then(retried)
    given(delivery, Delivery(), REQUESTED, attempted(1), parked(1)).when(CANCEL).then(cancelled)
    given(delivery, Delivery(), REQUESTED, cancelled).when(RETRY).then(retried)
    given(delivery, Delivery(), REQUESTED, cancelled).when(CANCEL).then()
    given(delivery, Delivery(), REQUESTED, cancelled).when(start(1)).then_refused(WrongState, match="cancelled")
    given(delivery, Delivery(), REQUESTED).when(RETRY).then_refused(WrongState, match="only a parked or cancelled")
    given(delivery, Delivery(), REQUESTED, attempted(1), DELIVERED).when(CANCEL).then_refused(WrongState, match="there")


def test_there_is_one_receipt_and_a_late_attempt_writes_none() -> None:
    given(delivery, Delivery(), REQUESTED, attempted(1)).when(COMPLETE).then(DELIVERED)
    given(delivery, Delivery(), REQUESTED, attempted(1), attempted(2)).when(COMPLETE).then_refused(WrongState)
    given(delivery, Delivery(), REQUESTED, attempted(1), DELIVERED).when(COMPLETE).then_refused(WrongState)
    given(delivery, Delivery(), REQUESTED, attempted(1), DELIVERED).when(start(2)).then_refused(WrongState)


def test_only_what_is_delivered_is_verified_and_each_verification_is_noted_once() -> None:
    verify = delivery.VerifyDelivery(delivery_id=ID, verification_id=UUID(int=8))
    given(delivery, Delivery(), REQUESTED).when(verify).then_refused(WrongState, match="only what is delivered")
    checks = (Checked(name="size", ok=True), Checked(name="sha256", ok=False, detail="other bytes"))
    note = delivery.NoteVerification(delivery_id=ID, verification_id=UUID(int=8), checks=checks, verified_at=AT)
    verified = delivery.DeliveryVerified(
        delivery_id=ID, verification_id=UUID(int=8), ok=False, checks=checks, verified_at=AT
    )
    there = given(delivery, Delivery(), REQUESTED, attempted(1), DELIVERED)
    there.when(verify).then()
    there.when(note).then(verified)
    given(delivery, Delivery(), REQUESTED, attempted(1), DELIVERED, verified).when(note).then()


@pytest.mark.parametrize("command", [start(1), CANCEL, RETRY, COMPLETE])
def test_a_delivery_that_never_was_is_not_found(command: Any) -> None:
    given(delivery, Delivery()).when(command).then_refused(NotFound, match="deliveries list")


def test_an_artifact_is_registered_once_for_each_reason_and_keeps_its_size() -> None:
    register = artifact.RegisterArtifact(
        artifact_id=SHA, size=5, file_name="a.csv", role="summary", scan_id=UUID(int=1)
    )
    registered = artifact.ArtifactRegistered.model_validate(register.model_dump())
    given(artifact, artifact.Artifact()).when(register).then(registered)
    given(artifact, artifact.Artifact(), registered).when(register).then()
    again = register.model_copy(update={"scan_id": UUID(int=2)})
    given(artifact, artifact.Artifact(), registered).when(again).then(
        artifact.ArtifactRegistered.model_validate(again.model_dump())
    )
    larger = register.model_copy(update={"size": 6})
    given(artifact, artifact.Artifact(), registered).when(larger).then_refused(WrongState, match="same bytes")


@pytest.mark.parametrize("name", ["", "a/b", "..\\x", "a\nb", "x" * 201])
def test_a_file_name_is_no_path(name: str) -> None:
    with pytest.raises(ValueError, match="file_name"):
        artifact.RegisterArtifact(artifact_id=SHA, size=1, file_name=name)


def test_a_target_is_opened_again_only_when_it_is_different() -> None:
    opening: dict[str, Any] = {"target_id": "archive", "adapter": "storage.s3", "system": "s3", "description": {"a": 1}}
    opened = target.TargetOpened(**opening, concurrency=4)
    given(target, target.Target()).when(target.OpenTarget(**opening)).then(opened)
    given(target, target.Target(), opened).when(target.OpenTarget(**opening)).then()
    without = target.OpenTarget(**opening, missing=("AWS_SECRET_ACCESS_KEY",))
    given(target, target.Target(), opened).when(without).then(
        target.TargetOpened(**opening, concurrency=4, missing=("AWS_SECRET_ACCESS_KEY",))
    )
    note = target.NoteTest(target_id="archive", checks=(Checked(name="write", ok=False),), tested_at=AT)
    given(target, target.Target()).when(note).then_refused(NotFound, match="labledger run deliver")
    tested = target.TargetTested(target_id="archive", ok=False, checks=note.checks, tested_at=AT)
    given(target, target.Target(), opened).when(note).then(tested)
    given(target, target.Target(), opened, tested).when(note).then()


def test_the_wait_doubles_between_its_bounds() -> None:
    # The numbers of the MaskHub client: five attempts, multiplier 2, floor 15 s.
    policy = RetryPolicy(max_retries=5, multiplier=2, min_wait_s=15)
    assert [policy.wait_s(n, 0) for n in (1, 2, 3, 4)] == [15, 15, 15, 16]
    assert RetryPolicy(max_wait_s=60).wait_s(50, 1) == 75
