"""An outside system that takes deliveries, as its workers say that they know it.

    opened (by a worker that has it in its settings) --> opened again, when something about it is different
                                                     --> tested ...

What lies in settings is only known where they are read; this makes it part of the history: a delivery to a target that no worker
ever knew is refused, and one whose credentials are missing is kept for later.
"""

from dataclasses import dataclass, replace
from typing import Annotated, assert_never

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from domain.aggregate import Aggregate
from domain.errors import NotFound
from domain.events import Command, Event, Id

Name = Annotated[str, StringConstraints(max_length=200)]


class Checked(BaseModel):
    """One thing that was looked at. `detail` says what was found and, if it is not well, what to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    ok: bool
    detail: Annotated[str, StringConstraints(max_length=2000)] = ""


class TargetOpened(Event, name="target.opened"):
    """A worker serves it. `missing` names the credentials that are not set: while there are any, nothing is sent to it.

    `concurrency`: how many deliveries to it may be under way at once, over all workers."""

    target_id: Id
    adapter: Name
    system: Name
    description: dict[str, JsonValue]
    missing: tuple[Name, ...] = ()
    concurrency: int


class TargetTested(Event, name="target.tested"):
    """Somebody sent a small file there and back, or tried to."""

    target_id: Id
    ok: bool
    checks: tuple[Checked, ...]
    tested_at: AwareDatetime


class OpenTarget(Command):
    target_id: Id
    adapter: Name
    system: Name
    description: dict[str, JsonValue]
    missing: tuple[Name, ...] = ()
    concurrency: int = Field(default=4, ge=1, le=256)


class NoteTest(Command, name="target.note_test"):
    """Keep what `labledger targets test` found."""

    target_id: Id
    checks: tuple[Checked, ...] = Field(min_length=1, max_length=50)
    tested_at: AwareDatetime


TargetEvent = TargetOpened | TargetTested
TargetCommand = OpenTarget | NoteTest


@dataclass(frozen=True)
class Target:
    opened: TargetOpened | None = None
    tested: TargetTested | None = None

    @property
    def local_only(self) -> bool:
        """Known, but nothing can be sent: what is asked for waits."""
        return self.opened is not None and bool(self.opened.missing)


def decide(target: Target, command: TargetCommand) -> list[TargetEvent]:
    """Raises `NotFound`."""
    match command:
        case OpenTarget():
            opened = TargetOpened.model_validate(command.model_dump())
            return [] if opened == target.opened else [opened]
        case NoteTest():
            if target.opened is None:
                raise unknown(command.target_id)
            tested = TargetTested(
                target_id=command.target_id,
                ok=all(check.ok for check in command.checks),
                checks=command.checks,
                tested_at=command.tested_at,
            )
            return [] if tested == target.tested else [tested]
    assert_never(command)


def unknown(target_id: str) -> NotFound:
    return NotFound(
        f"no worker knows a target {target_id!r}: add [targets.{target_id}] to the settings and start `labledger run deliver`; "
        f"`labledger targets list` shows those that are known"
    )


def evolve(target: Target, event: TargetEvent) -> Target:
    match event:
        case TargetOpened():
            return replace(target, opened=event)
        case TargetTested():
            return replace(target, tested=event)
    assert_never(event)


aggregate = Aggregate(kind="target", initial=Target(), decide=decide, evolve=evolve)
