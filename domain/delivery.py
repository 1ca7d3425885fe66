"""One thing on its way to one target: an artifact, a pointer, a step of a run; ending in a receipt, or parked for a person.

    requested --> attempting --> delivered  (with its receipt) --> verified ...
                    |     ^
                    |     '-- failed (it is tried again)
                    |-------> parked        --(retried)--> requested
                    '-------> cancelled     --(retried)--> requested

The work is a job of the ordinary queue, under the delivery's id: what waits, how often it is tried and who may do it now is said
there (`domain.job`). How a delivery begins, is tried and ends is written in one batch with the job's own events, so the two
never disagree. Each attempt is said before it reaches the outside world, and `checkpointed` keeps what lets the next one resume.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, assert_never
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from domain.aggregate import Aggregate
from domain.artifact import FileName, MediaType
from domain.errors import AlreadyExists, NotFound, WrongState
from domain.events import Command, Event, Id
from domain.job import Priority, Title
from domain.ports import FailureKind
from domain.sample import Sha256
from domain.target import Checked

State = Literal["none", "requested", "attempting", "failed", "delivered", "parked", "cancelled"]
Words = Annotated[str, StringConstraints(max_length=2000)]
#: The name asked for at the target; what it may look like is the target's business.
Key = Annotated[str, StringConstraints(max_length=1024)]
Options = Annotated[dict[str, JsonValue], Field(max_length=100)]

#: Who says that it is not there any more: what the worker of an attempt could not say itself.
FailedBecause = FailureKind | Literal["worker_died", "replaced"]


class Receipt(BaseModel):
    """What the outside system answered, kept as proof: enough to ask it again, also without our database.

    `sha256` and `size` are of what was sent (None and 0 for a delivery without a file). `target` is the target's own description
    (endpoint, bucket, ...), `proof` what it said. `requests` and `bytes_sent` are those of the attempt that succeeded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    delivery_id: UUID
    target_id: Id
    adapter: str
    system: str
    target: dict[str, JsonValue]
    sha256: Sha256 | None
    size: int
    media_type: str
    file_name: str
    key: Key
    outcome: Literal["stored", "existed", "superseded"]
    location: str
    proof: dict[str, JsonValue]
    attempts: int
    requests: int
    bytes_sent: int
    at: AwareDatetime


class DeliveryRequested(Event, name="delivery.requested"):
    """It waits in its queue as the job of the same id. `artifact` is None for what has no file.

    `scan_id`, `run_id` and `publication_id` name what it belongs to."""

    delivery_id: UUID
    target_id: Id
    artifact: Sha256 | None
    size: int
    media_type: str
    file_name: str
    key: Key
    options: Options
    queue_id: Id
    priority: Priority
    claims: tuple[Id, ...] = ()
    title: Title = ""
    scan_id: UUID | None = None
    run_id: Id | None = None
    publication_id: UUID | None = None


class DeliveryAttempted(Event, name="delivery.attempted"):
    """A worker is about to reach out."""

    delivery_id: UUID
    attempt: int
    worker: str


class DeliveryCheckpointed(Event, name="delivery.checkpointed"):
    """What the next attempt needs to go on where this one ends (an upload's id, its parts)."""

    delivery_id: UUID
    attempt: int
    checkpoint: dict[str, JsonValue]


class DeliveryFailed(Event, name="delivery.failed"):
    """An attempt failed; the next is due at `retry_at`."""

    delivery_id: UUID
    attempt: int
    kind: FailedBecause
    error: Words
    retry_at: AwareDatetime | None


class DeliveryDelivered(Event, name="delivery.delivered"):
    """It is there. `duration_s` is that of the attempt that brought it."""

    delivery_id: UUID
    attempt: int
    duration_s: float
    receipt: Receipt


class DeliveryParked(Event, name="delivery.parked"):
    """No further attempt comes by itself: a person mends what is wrong and retries, or cancels."""

    delivery_id: UUID
    attempt: int
    kind: FailedBecause
    error: Words


class DeliveryRetried(Event, name="delivery.retried"):
    """A person lets it be tried again."""

    delivery_id: UUID


class DeliveryCancelled(Event, name="delivery.cancelled"):
    """It was called off before it was delivered."""

    delivery_id: UUID
    reason: Words


class DeliveryVerified(Event, name="delivery.verified"):
    """The target was asked again, and what it has was compared with the receipt."""

    delivery_id: UUID
    verification_id: UUID
    ok: bool
    checks: tuple[Checked, ...]
    verified_at: AwareDatetime


DeliveryEvent = (
    DeliveryRequested
    | DeliveryAttempted
    | DeliveryCheckpointed
    | DeliveryFailed
    | DeliveryDelivered
    | DeliveryParked
    | DeliveryRetried
    | DeliveryCancelled
    | DeliveryVerified
)


class RequestDelivery(Command, name="delivery.request"):
    """Bring an artifact to a target. The id is yours: the same again is the same delivery.

    `key`: its name there; empty leaves it to the target's template. `options` are the target's own. Deliveries that share one of
    their `claims` are made one after the other, in the order in which they were asked for. Without `queue_id` it waits in the
    target's own queue, `to-<target>`.
    """

    delivery_id: UUID
    target_id: Id
    artifact: Sha256 | None = None
    key: Key = ""
    options: Options = {}
    queue_id: Id | None = None
    priority: Priority = "normal"
    claims: Annotated[tuple[Id, ...], Field(max_length=10)] = ()
    title: Title = ""
    scan_id: UUID | None = None
    run_id: Id | None = None
    publication_id: UUID | None = None


class RetryDelivery(Command, name="delivery.retry"):
    """Try a parked or cancelled delivery again, with as many attempts as at first."""

    delivery_id: UUID


class CancelDelivery(Command, name="delivery.cancel"):
    """Call off a delivery that is not delivered yet. One that is under way is stopped."""

    delivery_id: UUID
    reason: Words = ""


class VerifyDelivery(Command, name="delivery.verify"):
    """Have the target asked again for what was delivered. `verification_id` is yours, and the id of the job that does it."""

    delivery_id: UUID
    verification_id: UUID


class PlaceDelivery(Command):
    """`RequestDelivery`, checked against its target and artifact."""

    delivery_id: UUID
    request: RequestDelivery
    queue_id: Id
    size: int = 0
    media_type: MediaType | Literal[""] = ""
    file_name: FileName | Literal[""] = ""


class StartAttempt(Command):
    delivery_id: UUID
    attempt: int
    worker: str


class KeepCheckpoint(Command):
    delivery_id: UUID
    attempt: int
    checkpoint: dict[str, JsonValue]


class FailAttempt(Command):
    """`retry_at` None: it is parked."""

    delivery_id: UUID
    attempt: int
    kind: FailedBecause
    error: Words
    retry_at: AwareDatetime | None = None


class CompleteDelivery(Command):
    delivery_id: UUID
    attempt: int
    duration_s: float
    receipt: Receipt


class NoteVerification(Command):
    delivery_id: UUID
    verification_id: UUID
    checks: tuple[Checked, ...]
    verified_at: AwareDatetime


DeliveryCommand = (
    RetryDelivery
    | CancelDelivery
    | VerifyDelivery
    | PlaceDelivery
    | StartAttempt
    | KeepCheckpoint
    | FailAttempt
    | CompleteDelivery
    | NoteVerification
)


@dataclass(frozen=True)
class Delivery:
    """`checkpoint` is what the last attempt kept. `receipt` is there once it is delivered, and stays. `failures`: how often it
    failed since a person last let it run; waiting for something else is none."""

    requested: DeliveryRequested | None = None
    state: State = "none"
    attempt: int = 0
    failures: int = 0
    checkpoint: dict[str, JsonValue] | None = None
    kind: str = ""
    error: str = ""
    receipt: Receipt | None = None
    verified: UUID | None = None


def decide(delivery: Delivery, command: DeliveryCommand) -> list[DeliveryEvent]:
    """Raises `NotFound`, `AlreadyExists` for an id that is taken, else `WrongState`."""
    if isinstance(command, PlaceDelivery):
        return _place(delivery, command)
    delivery_id = command.delivery_id
    name = f"delivery {delivery_id}"
    if delivery.requested is None:
        raise NotFound(f"there is no {name}; `labledger deliveries list` shows those that there are")
    match command:
        case StartAttempt(attempt=attempt, worker=worker):
            if delivery.state in ("delivered", "cancelled"):
                raise WrongState(f"{name} is {delivery.state}; there is nothing to attempt")
            if attempt <= delivery.attempt:
                raise WrongState(f"{name} is at attempt {delivery.attempt} already")
            return [DeliveryAttempted(delivery_id=delivery_id, attempt=attempt, worker=worker)]
        case KeepCheckpoint(attempt=attempt, checkpoint=checkpoint):
            _must_attempt(delivery, attempt, name)
            if checkpoint == delivery.checkpoint:
                return []
            return [DeliveryCheckpointed(delivery_id=delivery_id, attempt=attempt, checkpoint=checkpoint)]
        case FailAttempt(attempt=attempt):
            _must_attempt(delivery, attempt, name)
            if command.retry_at is None:
                return [
                    DeliveryParked(delivery_id=delivery_id, attempt=attempt, kind=command.kind, error=command.error)
                ]
            return [DeliveryFailed.model_validate(command.model_dump())]
        case CompleteDelivery(attempt=attempt):
            _must_attempt(delivery, attempt, name)
            return [DeliveryDelivered.model_validate(command.model_dump())]
        case RetryDelivery():
            if delivery.state not in ("parked", "cancelled"):
                raise WrongState(f"{name} is {delivery.state}; only a parked or cancelled delivery can be retried")
            return [DeliveryRetried(delivery_id=delivery_id)]
        case CancelDelivery(reason=reason):
            if delivery.state == "cancelled":
                return []
            if delivery.state == "delivered":
                raise WrongState(f"{name} is delivered already; what is there cannot be called off")
            return [DeliveryCancelled(delivery_id=delivery_id, reason=reason)]
        case VerifyDelivery():
            if delivery.receipt is None:
                raise WrongState(f"{name} is {delivery.state}; only what is delivered can be verified")
            return []
        case NoteVerification(verification_id=verification_id, checks=checks):
            if delivery.verified == verification_id:
                return []
            ok = all(check.ok for check in checks)
            return [
                DeliveryVerified(
                    delivery_id=delivery_id,
                    verification_id=verification_id,
                    ok=ok,
                    checks=checks,
                    verified_at=command.verified_at,
                )
            ]
    assert_never(command)


def _place(delivery: Delivery, command: PlaceDelivery) -> list[DeliveryEvent]:
    request = command.request
    requested = DeliveryRequested(
        delivery_id=command.delivery_id,
        target_id=request.target_id,
        artifact=request.artifact,
        size=command.size,
        media_type=command.media_type,
        file_name=command.file_name,
        key=request.key,
        options=request.options,
        queue_id=command.queue_id,
        priority=request.priority,
        claims=request.claims,
        title=request.title,
        scan_id=request.scan_id,
        run_id=request.run_id,
        publication_id=request.publication_id,
    )
    if delivery.requested is None:
        return [requested]
    if delivery.requested == requested:
        return []
    raise AlreadyExists(f"delivery {command.delivery_id} exists already and is another; choose a new id")


def _must_attempt(delivery: Delivery, attempt: int, name: str) -> None:
    if delivery.state != "attempting" or delivery.attempt != attempt:
        raise WrongState(f"{name} is {delivery.state} at attempt {delivery.attempt}; stop working on attempt {attempt}")


def evolve(delivery: Delivery, event: DeliveryEvent) -> Delivery:
    match event:
        case DeliveryRequested():
            return Delivery(requested=event, state="requested")
        case DeliveryAttempted(attempt=attempt):
            return replace(delivery, state="attempting", attempt=attempt)
        case DeliveryCheckpointed(checkpoint=checkpoint):
            return replace(delivery, checkpoint=checkpoint)
        case DeliveryFailed(kind=kind, error=error):
            failures = delivery.failures + (kind != "waiting")
            return replace(delivery, state="failed", kind=kind, error=error, failures=failures)
        case DeliveryDelivered(receipt=receipt):
            return replace(delivery, state="delivered", receipt=receipt, checkpoint=None, kind="", error="")
        case DeliveryParked(kind=kind, error=error):
            return replace(delivery, state="parked", kind=kind, error=error)
        case DeliveryRetried():
            return replace(delivery, state="requested", failures=0)
        case DeliveryCancelled(reason=reason):
            return replace(delivery, state="cancelled", error=reason)
        case DeliveryVerified(verification_id=verification_id):
            return replace(delivery, verified=verification_id)
    assert_never(event)


aggregate = Aggregate(kind="delivery", initial=Delivery(), decide=decide, evolve=evolve)
