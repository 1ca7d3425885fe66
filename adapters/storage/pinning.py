"""What the services that keep files on IPFS have in common: the question put to them, and their answer."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from adapters.storage.cid import Profile, Root
from domain.ports import Check, Report


@dataclass(frozen=True)
class Load:
    """A file on its way. `root` is its CID under `profile`, from the bytes as they are here."""

    path: Path
    sha256: str
    profile: Profile
    root: Root
    name: str
    media_type: str
    #: Kept by an earlier attempt, and how to keep something for the next one.
    checkpoint: Mapping[str, Any]
    keep: Callable[[Mapping[str, Any]], Awaitable[None]]
    report: Report
    #: Labels that the service may keep beside it.
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Kept:
    """What a service says that it has. `details` go into the receipt, `existed` when it had it before."""

    cid: str
    details: Mapping[str, Any]
    existed: bool = False


class Service(Protocol):
    """One way to have files kept."""

    #: The profile by which it names files, unless the settings say otherwise.
    profile: str

    def missing(self) -> Sequence[str]: ...

    def describe(self) -> Mapping[str, Any]: ...

    async def find(self, cid: str) -> Kept | None:
        """What it has under that name."""
        ...

    async def again(self, load: Load) -> Kept | None:
        """What an earlier attempt brought there under a name that we did not foresee."""
        ...

    async def add(self, load: Load) -> Kept:
        """Have it kept. Safe to repeat: the same bytes are kept once."""
        ...

    async def fetch(self, cid: str, into: Callable[[bytes], None]) -> bool:
        """The bytes back, piece by piece; False where they cannot be had."""
        ...

    async def remove(self, kept: Kept) -> None: ...

    async def reach(self) -> Sequence[Check]:
        """Does it answer, and are the credentials right? Never raises."""
        ...

    async def close(self) -> None: ...
