"""A file that is kept on IPFS, and then pointed to by the key under which others look for the newest of its kind.

    requested --> pinned (its CID is proven) --> pointed (the key says where) [--> cleaned (the local file is gone)] --> completed
        |  ^          |                             |
        |  '--------- stalled (a step was parked) <-'
        '--> cancelled

Each step begins only when the one before it is proven in the history: the pointer is asked for after the receipt of the file, and the
local file is removed after both receipts. Both steps are deliveries of their own (`domain.delivery`), under ids that follow from the
publication's, so that asking twice asks for the same one. A step that was parked stalls the publication there; retried, it goes on
there. What is pinned stays pinned, whatever becomes of the rest.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, assert_never
from uuid import UUID, uuid5

from pydantic import Field, JsonValue, StringConstraints

from domain.aggregate import Aggregate
from domain.delivery import Key
from domain.errors import AlreadyExists, NotFound, OutOfLimits, WrongState
from domain.events import Command, Event, Id
from domain.job import Priority, Title
from domain.pointer import TEMPLATE, checked_key, key_of
from domain.sample import Sha256

Step = Literal["pin", "point", "clean_up"]
State = Literal["none", "requested", "pinned", "pointed", "completed", "cancelled"]
Words = Annotated[str, StringConstraints(max_length=2000)]
#: A file on the machine that reacts (the role `commands`).
LocalPath = Annotated[str, StringConstraints(pattern=r"^(/[^\x00-\x1f]{1,4000}|[A-Za-z]:[\\/][^\x00-\x1f]{1,4000}|)$")]

#: Characters of JSON that the metadata may have: all of it becomes part of a pointer.
LARGEST = 100_000
_SPACE = UUID("7a0f6c1e-4f57-5d1c-8a58-3f1f0c2f9a61")


def pin_of(publication_id: UUID) -> UUID:
    """The delivery that keeps the file on IPFS."""
    return uuid5(_SPACE, f"pin {publication_id}")


def pointer_of(publication_id: UUID) -> UUID:
    """The delivery that moves the key."""
    return uuid5(_SPACE, f"point {publication_id}")


class PublicationRequested(Event, name="publication.requested"):
    """Its file goes to `ipfs_target` first. `order`: which of two publications under one key is the newer; None: the one that was
    requested later."""

    publication_id: UUID
    artifact: Sha256
    ipfs_target: Id
    kv_target: Id
    key: Key
    metadata: dict[str, JsonValue]
    order: int | None
    clean_up: LocalPath
    priority: Priority
    title: Title


class PublicationPinned(Event, name="publication.pinned"):
    """The file is kept under this CID, which was computed before it was sent; the delivery has the receipt."""

    publication_id: UUID
    delivery_id: UUID
    cid: str
    location: str


class PublicationPointed(Event, name="publication.pointed"):
    """The key says where the newest is: this file, or a newer one (`superseded`)."""

    publication_id: UUID
    delivery_id: UUID
    superseded: bool


class PublicationCleaned(Event, name="publication.cleaned"):
    """The local file is gone: removed now, or before (`removed` is False)."""

    publication_id: UUID
    path: LocalPath
    removed: bool


class PublicationCompleted(Event, name="publication.completed"):
    """All that was asked for is done."""

    publication_id: UUID


class PublicationStalled(Event, name="publication.stalled"):
    """A step was given up; what came before it stays. It goes on there when it is retried."""

    publication_id: UUID
    step: Step
    reason: Words


class PublicationRetried(Event, name="publication.retried"):
    """The step that was given up is tried again."""

    publication_id: UUID
    step: Step


class PublicationCancelled(Event, name="publication.cancelled"):
    """No further step is made."""

    publication_id: UUID
    reason: Words


PublicationEvent = (
    PublicationRequested
    | PublicationPinned
    | PublicationPointed
    | PublicationCleaned
    | PublicationCompleted
    | PublicationStalled
    | PublicationRetried
    | PublicationCancelled
)


class RequestPublication(Command, name="publication.request"):
    """Keep an artifact on IPFS, then let a key point to it. The id is yours: the same again is the same publication.

    The key is `key`, or what `template` makes of the words in `metadata`; without either, the template of the target, which is
    {sensor_type}:{interval}:latest unless its settings say otherwise. `metadata` goes into the pointer as it is. `order` says which of two publications under one key is the newer (a number that grows, such as the time of
    what is shown); without it the one that was requested later. `clean_up`: a local file with the same bytes that is removed at the
    end, where the settings allow that (clean_up.folders).
    """

    publication_id: UUID
    artifact: Sha256
    ipfs_target: Id
    kv_target: Id
    key: Key = ""
    template: Annotated[str, StringConstraints(max_length=500)] = ""
    metadata: dict[str, JsonValue] = {}
    order: int | None = Field(default=None, ge=0, lt=2**53)
    clean_up: LocalPath = ""
    priority: Priority = "normal"
    title: Title = ""


class RetryPublication(Command, name="publication.retry"):
    """Go on with a publication that stalled, or was cancelled, where it stands."""

    publication_id: UUID


class CancelPublication(Command, name="publication.cancel"):
    """Make no further step. What is pinned stays pinned."""

    publication_id: UUID
    reason: Words = ""


class NotePinned(Command):
    publication_id: UUID
    delivery_id: UUID
    cid: str
    location: str


class NotePointed(Command):
    publication_id: UUID
    delivery_id: UUID
    superseded: bool


class NoteCleaned(Command):
    publication_id: UUID
    removed: bool


class StallPublication(Command):
    """`step` names the one that was given up: it says nothing about a publication that has come further since."""

    publication_id: UUID
    step: Step
    reason: Words


PublicationCommand = (
    RequestPublication
    | RetryPublication
    | CancelPublication
    | NotePinned
    | NotePointed
    | NoteCleaned
    | StallPublication
)


@dataclass(frozen=True)
class Publication:
    """`step` is what is to be done next, None at the end; `stalled` says why it is not."""

    requested: PublicationRequested | None = None
    state: State = "none"
    step: Step | None = None
    stalled: str | None = None
    cid: str = ""
    location: str = ""
    superseded: bool = False


def decide(publication: Publication, command: PublicationCommand) -> list[PublicationEvent]:
    """Raises `NotFound`, `AlreadyExists` for an id that is taken, `WrongState`, `Refused` for a key that cannot be."""
    if isinstance(command, RequestPublication):
        return _request(publication, command)
    id_, state = command.publication_id, publication.state
    name = f"publication {id_}"
    if publication.requested is None:
        raise NotFound(f"there is no {name}; `labledger publications list` shows those that there are")
    match command:
        case NotePinned():
            # Also of one that stalled, or was cancelled while it was under way: it is pinned all the same.
            return [PublicationPinned.model_validate(command.model_dump())] if not publication.cid else []
        case NotePointed():
            if publication.step != "point":
                return []
            pointed = PublicationPointed.model_validate(command.model_dump())
            return [pointed] if publication.requested.clean_up else [pointed, PublicationCompleted(publication_id=id_)]
        case NoteCleaned(removed=removed):
            if publication.step != "clean_up":
                return []
            path = publication.requested.clean_up
            cleaned = PublicationCleaned(publication_id=id_, path=path, removed=removed)
            return [cleaned, PublicationCompleted(publication_id=id_)]
        case StallPublication(step=step, reason=reason):
            if publication.step != step or publication.stalled is not None or state == "cancelled":
                return []
            return [PublicationStalled(publication_id=id_, step=step, reason=reason)]
        case RetryPublication():
            if publication.step is None:
                raise WrongState(f"{name} is completed; request a new one")
            if publication.stalled is None and state != "cancelled":
                raise WrongState(f"{name} is on its way: it is {state}, and next it will {publication.step}")
            return [PublicationRetried(publication_id=id_, step=publication.step)]
        case CancelPublication(reason=reason):
            if state == "cancelled":
                return []
            if publication.step is None:
                raise WrongState(f"{name} is completed already; what is published cannot be called off")
            return [PublicationCancelled(publication_id=id_, reason=reason)]
    assert_never(command)


def _request(publication: Publication, command: RequestPublication) -> list[PublicationEvent]:
    if len(command.model_dump_json(include={"metadata"})) > LARGEST:
        raise OutOfLimits(f"the metadata has more than {LARGEST:,} characters of JSON; a pointer is small")
    key = checked_key(command.key) if command.key else key_of(command.template or TEMPLATE, command.metadata)
    requested = PublicationRequested(
        **command.model_dump(exclude={"key", "template", "title"}),
        key=key,
        title=command.title or f"publish {key}"[:200],
    )
    if publication.requested is None:
        return [requested]
    if publication.requested == requested:
        return []
    raise AlreadyExists(f"publication {command.publication_id} exists already and is another; choose a new id")


def evolve(publication: Publication, event: PublicationEvent) -> Publication:
    match event:
        case PublicationRequested():
            return Publication(requested=event, state="requested", step="pin")
        case PublicationPinned(cid=cid, location=location):
            pinned = replace(publication, step="point", stalled=None, cid=cid, location=location)
            return pinned if publication.state == "cancelled" else replace(pinned, state="pinned")
        case PublicationPointed(superseded=superseded):
            pointed = replace(publication, step="clean_up", stalled=None, superseded=superseded)
            return pointed if publication.state == "cancelled" else replace(pointed, state="pointed")
        case PublicationCleaned():
            return replace(publication, step=None, stalled=None)
        case PublicationCompleted():
            return replace(publication, state="completed", step=None, stalled=None)
        case PublicationStalled(reason=reason):
            return replace(publication, stalled=reason)
        case PublicationRetried(step=step):
            states: dict[Step, State] = {"pin": "requested", "point": "pinned", "clean_up": "pointed"}
            return replace(publication, state=states[step], stalled=None)
        case PublicationCancelled():
            return replace(publication, state="cancelled", stalled=None)
    assert_never(event)


aggregate = Aggregate(kind="publication", initial=Publication(), decide=decide, evolve=evolve)
