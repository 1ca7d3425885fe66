"""The envelope of an event: CloudEvents 1.0 in NATS binary mode, with the hash chain of its aggregate.

Attributes are headers `ce-*`, the body is the data. Beside the standard ones:

    ce-causationid       the command or event that caused this one
    ce-correlationid     the whole business flow
    ce-actor             who ordered it
    ce-aggregateversion  1, 2, 3, ... within the aggregate
    ce-previoushash      `ce-hash` of the aggregate's previous event ("" for the first)
    ce-hash              SHA-256 over subject, the attributes above and below, and the body

Who alters an event must alter every later one of its aggregate; who alters the last one is found by a seal (`audit`).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from urllib.parse import quote, unquote

from bus.ids import uuid7
from domain.events import Event, decode

#: What the hash covers, in this order, besides the subject and the body.
HASHED = (
    "ce-id",
    "ce-type",
    "ce-source",
    "ce-time",
    "ce-subject",
    "ce-causationid",
    "ce-correlationid",
    "ce-actor",
    "ce-aggregateversion",
    "ce-previoushash",
)

MSG_ID = "Nats-Msg-Id"
BATCH_ID = "Nats-Batch-Id"
BATCH_COMMIT = "Nats-Batch-Commit"


@dataclass(frozen=True)
class Meta:
    """Who and what an event comes from. `causation` is the command's (or the causing event's) id.

    `key` makes the message ids of an append: the causation, unless one cause makes several appends (see `step`).
    """

    causation: str
    correlation: str = ""
    actor: str = ""
    source: str = "labledger"
    traceparent: str = ""
    key: str = ""

    @property
    def message_key(self) -> str:
        return self.key or self.causation

    def step(self, name: str) -> "Meta":
        """For one of several appends that the same cause makes. The name must be the same when all is done again."""
        return replace(self, key=f"{self.message_key}.{name}")

    @staticmethod
    def new(actor: str = "", source: str = "labledger") -> "Meta":
        id_ = uuid7()
        return Meta(causation=id_, correlation=id_, actor=actor, source=source)


@dataclass(frozen=True, slots=True)
class Head:
    """Where an aggregate's history ends: stream sequence, version (count of events) and hash of its last event."""

    seq: int = 0
    version: int = 0
    hash: str = ""


def digest(subject: str, headers: Mapping[str, str], body: bytes) -> str:
    """The hash of an event as hex, from its subject, attributes and body."""
    lines = [subject]
    lines += [headers.get(name, "") for name in HASHED]
    sha = hashlib.sha256("\n".join(lines).encode())
    sha.update(b"\n\n")
    sha.update(body)
    return sha.hexdigest()


def quoted(text: str) -> str:
    """A header value: CloudEvents percent-encodes what is not plain printable ASCII."""
    return text if text.isascii() and text.isprintable() and "%" not in text else quote(text, safe=" :/+@,;=")


def seal(
    subject: str, type_: str, body: bytes, head: Head, meta: Meta, message_id: str, now: datetime | None = None
) -> tuple[dict[str, str], str]:
    """The headers of an event that follows `head`, and its hash."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": uuid7(),
        "ce-type": type_,
        "ce-source": meta.source,
        "ce-time": (now or datetime.now(UTC)).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "ce-subject": subject[4:],
        "ce-causationid": quoted(meta.causation),
        "ce-correlationid": quoted(meta.correlation or meta.causation),
        "ce-actor": quoted(meta.actor),
        "ce-aggregateversion": str(head.version + 1),
        "ce-previoushash": head.hash,
    }
    hash_ = digest(subject, headers, body)
    headers["ce-hash"] = hash_
    headers["content-type"] = "application/json"
    headers[MSG_ID] = message_id
    if meta.traceparent:
        headers["traceparent"] = meta.traceparent
    return headers, hash_


@dataclass(frozen=True)
class Stored:
    """One stored message of EVT: its place, its headers and its body. The event itself is decoded when asked for."""

    seq: int
    subject: str
    headers: Mapping[str, str] = field(repr=False)
    data: bytes = field(repr=False)
    #: When the server stored it.
    stored_at: datetime
    #: How many more matched the reader's filter when this was delivered; -1 when not known.
    pending: int = -1

    @property
    def kind(self) -> str:
        return self.subject.split(".", 2)[1]

    @property
    def id(self) -> str:
        return self.subject.split(".", 2)[2]

    @property
    def type(self) -> str:
        return self.headers.get("ce-type", "")

    @cached_property
    def event(self) -> Event:
        """The event, upcast to its newest version. Raises `UnknownEvent`."""
        return decode(self.type, self.data)

    @property
    def event_id(self) -> str:
        return self.headers.get("ce-id", "")

    @cached_property
    def time(self) -> datetime:
        """When it happened, by the clock of who wrote it."""
        return datetime.fromisoformat(self.headers["ce-time"])

    @property
    def version(self) -> int:
        return int(self.headers.get("ce-aggregateversion", "0"))

    @property
    def causation(self) -> str:
        return unquote(self.headers.get("ce-causationid", ""))

    @property
    def correlation(self) -> str:
        return unquote(self.headers.get("ce-correlationid", ""))

    @property
    def actor(self) -> str:
        return unquote(self.headers.get("ce-actor", ""))

    @property
    def source(self) -> str:
        return self.headers.get("ce-source", "")

    @property
    def hash(self) -> str:
        return self.headers.get("ce-hash", "")

    @property
    def previous_hash(self) -> str:
        return self.headers.get("ce-previoushash", "")

    @property
    def head(self) -> Head:
        return Head(self.seq, self.version, self.hash)

    @property
    def message_id(self) -> str:
        return self.headers.get(MSG_ID, "")

    def follows(self) -> Meta:
        """The meta of what this event causes."""
        return Meta(
            causation=self.event_id,
            correlation=self.correlation,
            actor=self.actor,
            source=self.source,
            traceparent=self.headers.get("traceparent", ""),
        )

    def wrong(self, previous: Head | None) -> str | None:
        """Why this event cannot be what was written, or None. `previous` is the head before it (None: not known)."""
        if digest(self.subject, self.headers, self.data) != self.hash:
            return "its content does not match its hash"
        if previous is not None and self.version != previous.version + 1:
            return f"it is number {self.version} of its aggregate, expected {previous.version + 1}"
        if previous is not None and self.previous_hash != previous.hash:
            return "the hash of the event before it is another one than it was written after"
        return None
