"""The thing measured: its material, tags and picture.

registered --> updated, tagged, untagged ... --> archived (kept for ever, changed no more)
"""

from dataclasses import dataclass, replace
from typing import Annotated, assert_never

from pydantic import Field, StringConstraints

from domain.aggregate import Aggregate
from domain.errors import AlreadyExists, NotFound, Refused, WrongState
from domain.events import Command, Event, Id

#: The SHA-256 of a blob, 64 lower-case hex digits.
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=64, strip_whitespace=True)]
Text = Annotated[str, StringConstraints(max_length=10_000)]
Material = Annotated[str, StringConstraints(max_length=200)]


class SampleRegistered(Event, name="sample.registered"):
    """`image` is the digest of a blob. `parent` is the sample that this one was cut or made from."""

    sample_id: Id
    material: Material
    tags: tuple[Tag, ...] = ()
    image: Sha256 | None = None
    description: Text = ""
    parent: Id | None = None


class SampleUpdated(Event, name="sample.updated"):
    """Everything but the tags, as it is from now on."""

    sample_id: Id
    material: Material
    image: Sha256 | None
    description: Text
    parent: Id | None


class SampleTagged(Event, name="sample.tagged"):
    """Only the tags that are new."""

    sample_id: Id
    tags: tuple[Tag, ...]


class SampleUntagged(Event, name="sample.untagged"):
    """Only the tags that were there."""

    sample_id: Id
    tags: tuple[Tag, ...]


class SampleArchived(Event, name="sample.archived"):
    sample_id: Id
    reason: str


SampleEvent = SampleRegistered | SampleUpdated | SampleTagged | SampleUntagged | SampleArchived


class RegisterSample(Command, name="sample.register"):
    sample_id: Id
    material: Material
    tags: tuple[Tag, ...] = ()
    image: Sha256 | None = None
    description: Text = ""
    parent: Id | None = None


class UpdateSample(Command, name="sample.update"):
    """Fields that are not given stay as they are. An `image` or `parent` given as null is taken away."""

    sample_id: Id
    material: Material = ""
    image: Sha256 | None = None
    description: Text = ""
    parent: Id | None = None


class TagSample(Command, name="sample.tag"):
    sample_id: Id
    tags: tuple[Tag, ...] = Field(min_length=1)


class UntagSample(Command, name="sample.untag"):
    sample_id: Id
    tags: tuple[Tag, ...] = Field(min_length=1)


class ArchiveSample(Command, name="sample.archive"):
    sample_id: Id
    reason: str = ""


SampleCommand = RegisterSample | UpdateSample | TagSample | UntagSample | ArchiveSample


@dataclass(frozen=True)
class Sample:
    registered: bool = False
    archived: bool = False
    material: str = ""
    #: In the order in which they came, none twice.
    tags: tuple[str, ...] = ()
    image: str | None = None
    description: str = ""
    parent: str | None = None


def decide(sample: Sample, command: SampleCommand) -> list[SampleEvent]:
    """Raises `AlreadyExists`, `NotFound`, `WrongState` (archived), `Refused` (its own parent)."""
    if isinstance(command, RegisterSample):
        return _register(sample, command)
    sample_id = command.sample_id
    if not sample.registered:
        raise NotFound(f"there is no sample {sample_id}; register it first")
    if isinstance(command, ArchiveSample):
        return [] if sample.archived else [SampleArchived(sample_id=sample_id, reason=command.reason)]
    if sample.archived:
        raise WrongState(
            f"sample {sample_id} is archived and changes no more; register a new one with it as its parent"
        )
    match command:
        case UpdateSample():
            given = command.model_fields_set
            _not_its_own(sample_id, command.parent)
            event = SampleUpdated(
                sample_id=sample_id,
                material=command.material if "material" in given else sample.material,
                image=command.image if "image" in given else sample.image,
                description=command.description if "description" in given else sample.description,
                parent=command.parent if "parent" in given else sample.parent,
            )
            return [] if evolve(sample, event) == sample else [event]
        case TagSample():
            new = tuple(tag for tag in dict.fromkeys(command.tags) if tag not in sample.tags)
            return [SampleTagged(sample_id=sample_id, tags=new)] if new else []
        case UntagSample():
            gone = tuple(tag for tag in dict.fromkeys(command.tags) if tag in sample.tags)
            return [SampleUntagged(sample_id=sample_id, tags=gone)] if gone else []
    assert_never(command)


def _register(sample: Sample, command: RegisterSample) -> list[SampleEvent]:
    _not_its_own(command.sample_id, command.parent)
    event = SampleRegistered(
        sample_id=command.sample_id,
        material=command.material,
        tags=tuple(dict.fromkeys(command.tags)),
        image=command.image,
        description=command.description,
        parent=command.parent,
    )
    if not sample.registered:
        return [event]
    if evolve(Sample(), event) == sample:
        return []
    raise AlreadyExists(f"sample {command.sample_id} is registered already; update it, or choose another id")


def _not_its_own(sample_id: str, parent: str | None) -> None:
    if parent == sample_id:
        raise Refused(f"sample {sample_id} cannot be its own parent; name the sample that it was made from")


def evolve(sample: Sample, event: SampleEvent) -> Sample:
    match event:
        case SampleRegistered():
            return Sample(
                registered=True,
                material=event.material,
                tags=event.tags,
                image=event.image,
                description=event.description,
                parent=event.parent,
            )
        case SampleUpdated():
            return replace(
                sample,
                material=event.material,
                image=event.image,
                description=event.description,
                parent=event.parent,
            )
        case SampleTagged():
            return replace(sample, tags=sample.tags + event.tags)
        case SampleUntagged():
            return replace(sample, tags=tuple(tag for tag in sample.tags if tag not in event.tags))
        case SampleArchived():
            return replace(sample, archived=True)
    assert_never(event)


aggregate = Aggregate(kind="sample", initial=Sample(), decide=decide, evolve=evolve)
