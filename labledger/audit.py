"""Proving that history was not altered.

Each event holds its own hash and that of the event before it in its aggregate (`bus.envelope`); every sequence of the
stream must be there. On top of that runs one hash over the whole stream: `root(n) = SHA-256(root(n-1) | n | hash of event n)`.
A *seal* is that root at a sequence, kept where the lab's administrator cannot reach it: who rewrites history, hashes and
all, is found by the first seal that was taken before.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from bus.connection import Bus
from bus.envelope import Head, Stored
from bus.store import EventStore


class Seal(BaseModel):
    """What the auditor keeps, outside of the lab's reach."""

    model_config = ConfigDict(frozen=True)

    stream: Literal["EVT"] = "EVT"
    sequence: int = Field(ge=0)
    root: str = Field(pattern=r"^[0-9a-f]{64}$")
    sealed_at: datetime
    events: int = Field(ge=0)


class Finding(BaseModel):
    """The first thing that is wrong. `sequence` is the event that was altered, or after which something is missing."""

    model_config = ConfigDict(frozen=True)

    sequence: int
    subject: str
    what: str


class Report(BaseModel):
    """The result of a verification up to `sequence`. `finding` is None when nothing is wrong."""

    model_config = ConfigDict(frozen=True)

    events: int
    aggregates: int
    sequence: int
    root: str
    finding: Finding | None = None
    seals: int = 0

    @property
    def ok(self) -> bool:
        return self.finding is None


class Verifier:
    """Takes events in stream order and says what is wrong with the first that is. Memory: one head for each aggregate."""

    def __init__(self, seals: list[Seal] | None = None) -> None:
        self._heads: dict[str, Head] = {}
        self._seals = sorted(seals or [], key=lambda seal: seal.sequence)
        self._checked = 0
        self.events = 0
        self.sequence = 0
        self.root = hashlib.sha256(b"labledger").hexdigest()

    def take(self, stored: Stored) -> Finding | None:
        if stored.seq != self.sequence + 1:
            missing = (
                f"{self.sequence + 1}"
                if stored.seq == self.sequence + 2
                else f"{self.sequence + 1} to {stored.seq - 1}"
            )
            return Finding(
                sequence=self.sequence + 1, subject="", what=f"missing: the stream has no event at {missing}"
            )
        previous = self._heads.get(stored.subject, Head())
        try:
            wrong = stored.wrong(previous)
        except (ValueError, KeyError) as error:
            wrong = f"its envelope is damaged: {error}"
        if wrong is not None:
            # A wrong link with a right content: it is the event before that is not what it was.
            by_link = stored.previous_hash != previous.hash and stored.version == previous.version + 1
            if by_link and "content" not in wrong and previous.seq:
                wrong = f"altered: event {stored.seq} was written after another event than the one that stands here"
                return Finding(sequence=previous.seq, subject=stored.subject, what=wrong)
            return Finding(sequence=stored.seq, subject=stored.subject, what=f"altered: {wrong}")
        self._heads[stored.subject] = stored.head
        self.events += 1
        self.sequence = stored.seq
        self.root = hashlib.sha256(f"{self.root}|{stored.seq}|{stored.hash}".encode()).hexdigest()
        while self._checked < len(self._seals) and self._seals[self._checked].sequence <= self.sequence:
            seal = self._seals[self._checked]
            self._checked += 1
            if seal.sequence == self.sequence and seal.root != self.root:
                what = f"history up to here is not what was sealed on {seal.sealed_at:%Y-%m-%d %H:%M} UTC"
                return Finding(sequence=seal.sequence, subject=stored.subject, what=what)
        return None

    def report(self, finding: Finding | None) -> Report:
        if finding is None and self._checked < len(self._seals):
            seal = self._seals[self._checked]
            what = f"missing: the stream ends at {self.sequence}, but was sealed at {seal.sequence}"
            finding = Finding(sequence=self.sequence + 1, subject="", what=what)
        return Report(
            events=self.events,
            aggregates=len(self._heads),
            sequence=self.sequence,
            root=self.root,
            finding=finding,
            seals=self._checked,
        )


async def verify(bus: Bus, seals: list[Seal] | None = None, progress: Callable[[int], None] | None = None) -> Report:
    """Read all of EVT and verify every event, link and seal. Stops at the first that is wrong. Any role may ask."""
    verifier = Verifier(seals)
    async for batch in EventStore(bus).everything():
        for stored in batch:
            finding = verifier.take(stored)
            if finding is not None:
                return verifier.report(finding)
        if progress is not None:
            progress(verifier.sequence)
    return verifier.report(None)


def seal(report: Report) -> Seal:
    """The seal of a history that was just verified. Raises `ValueError` for one that is wrong."""
    if not report.ok:
        raise ValueError("a history that does not verify cannot be sealed")
    return Seal(sequence=report.sequence, root=report.root, sealed_at=datetime.now(UTC), events=report.events)
