"""A file that the system made or was given, addressed by its SHA-256: raw data, a plot, a summary, any file.

    registered --> registered again, for another reason (another scan made the same bytes)

The bytes are a blob under the same SHA-256, stored before the event says so. An artifact has no end: what is recorded of a
measurement stays.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, assert_never
from uuid import UUID

from pydantic import Field, StringConstraints

from domain.aggregate import Aggregate
from domain.errors import WrongState
from domain.events import Command, Event
from domain.sample import Sha256

Role = Literal["raw_data", "plot", "summary", "file"]
#: A name without a folder: it becomes part of keys, and of paths on other machines.
FileName = Annotated[str, StringConstraints(pattern=r"^[^/\\\x00-\x1f\x7f]{1,200}$")]
MediaType = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.+-]*/[a-z0-9][a-z0-9.+-]*$", max_length=100)]

#: More reasons than these are not remembered by the state; the history has all.
REASONS = 64


class ArtifactRegistered(Event, name="artifact.registered"):
    """The bytes are kept. `role`: what they are to the scan, if there is one."""

    artifact_id: Sha256
    size: int
    media_type: MediaType
    file_name: FileName
    role: Role
    scan_id: UUID | None = None


class RegisterArtifact(Command, name="artifact.register"):
    """Say that a blob is an artifact. Store the blob first. `size` in bytes; an empty file is refused."""

    artifact_id: Sha256
    size: int = Field(ge=1)
    media_type: MediaType = "application/octet-stream"
    file_name: FileName
    role: Role = "file"
    scan_id: UUID | None = None


ArtifactEvent = ArtifactRegistered
ArtifactCommand = RegisterArtifact


@dataclass(frozen=True)
class Artifact:
    """`size` is 0 before it is registered; media type and name are those of the first time."""

    size: int = 0
    media_type: str = ""
    file_name: str = ""
    reasons: tuple[tuple[str, str, UUID | None], ...] = ()


def decide(artifact: Artifact, command: ArtifactCommand) -> list[ArtifactEvent]:
    """Raises `WrongState` for another size under the same hash."""
    match command:
        case RegisterArtifact():
            if artifact.size and artifact.size != command.size:
                raise WrongState(
                    f"artifact {command.artifact_id} has {artifact.size} bytes, not {command.size}: the same SHA-256 means the "
                    f"same bytes, so one of the two is wrong"
                )
            if (command.role, command.file_name, command.scan_id) in artifact.reasons:
                return []
            return [ArtifactRegistered.model_validate(command.model_dump())]
    assert_never(command)


def evolve(artifact: Artifact, event: ArtifactEvent) -> Artifact:
    match event:
        case ArtifactRegistered():
            reason = (event.role, event.file_name, event.scan_id)
            return Artifact(
                size=event.size,
                media_type=artifact.media_type or event.media_type,
                file_name=artifact.file_name or event.file_name,
                reasons=(*artifact.reasons, reason)[-REASONS:],
            )
    assert_never(event)


aggregate = Aggregate(kind="artifact", initial=Artifact(), decide=decide, evolve=evolve)
