"""The factory that the library finds by `PERSISTENCE_MODULE=bus.persistence`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import unquote

from eventsourcing.domain import TAggregateID
from eventsourcing.persistence import (
    AggregateRecorder,
    InfrastructureFactory,
    InfrastructureFactoryError,
    Mapper,
    ProcessRecorder,
    Transcoder,
)
from eventsourcing.utils import Environment, EnvType, resolve_topic, strtobool

from bus.connection import Credentials
from bus.persistence.link import Address, Link
from bus.persistence.mapper import LedgerMapper
from bus.persistence.recorders import (
    JetStreamAggregateRecorder,
    JetStreamApplicationRecorder,
    JetStreamProcessRecorder,
    JetStreamSnapshotRecorder,
    JetStreamTrackingRecorder,
    Scope,
)
from bus.persistence.store import TRACKING

T = TypeVar("T")

KIND = re.compile(r"[a-z][a-z0-9_]{0,31}")


class JetStreamFactory(InfrastructureFactory[JetStreamTrackingRecorder]):
    """Recorders on the streams of labledger. Settings, each also with the application's name in front (`SHOP_NATS_URL`):

    NATS_URL                   where NATS is (several: with commas); with NATS_USER, NATS_PASSWORD, NATS_INBOX_PREFIX to sign in
    LABLEDGER_CONNECTION_FILE  the connection.json of `labledger up`, in place of these; NATS_USER picks a user of it
                               (default `commands`, who may write events)
    NATS_TIMEOUT_S             how long a call may take when NATS does not answer (default 20)
    EVENT_KIND                 the second token of the events' subjects (default: the application's name in lower case)
    EVENT_ACTOR                who is said to have ordered what is written (default: nobody)
    ORIGINATOR_ID_TYPE         `uuid` (default: ids that look like UUIDs are UUIDs), or `text`
    NATS_POLL_S                read subscriptions by direct get at this interval, for users who may not create consumers
    MAKE_STREAMS               `y`: create the streams where they are missing; needs a user who may
    """

    NATS_URL = "NATS_URL"
    NATS_USER = "NATS_USER"
    NATS_PASSWORD = "NATS_PASSWORD"  # noqa: S105 - the name of a setting
    NATS_INBOX_PREFIX = "NATS_INBOX_PREFIX"
    NATS_TIMEOUT_S = "NATS_TIMEOUT_S"
    NATS_POLL_S = "NATS_POLL_S"
    LABLEDGER_CONNECTION_FILE = "LABLEDGER_CONNECTION_FILE"
    EVENT_KIND = "EVENT_KIND"
    EVENT_ACTOR = "EVENT_ACTOR"
    ORIGINATOR_ID_TYPE = "ORIGINATOR_ID_TYPE"
    MAKE_STREAMS = "MAKE_STREAMS"

    def __init__(self, env: Environment | EnvType | None) -> None:
        """Reads the settings; connects at the first call of a recorder. Raises `InfrastructureFactoryError`."""
        super().__init__(env)
        self.scope = Scope(
            kind=self._kind(),
            text_ids=self._one_of(self.ORIGINATOR_ID_TYPE, "uuid", "text") == "text",
            actor=self.env.get(self.EVENT_ACTOR, ""),
            poll_s=self._seconds(self.NATS_POLL_S, "0"),
        )
        self.link = Link(self._address())

    def _kind(self) -> str:
        kind = self.env.get(self.EVENT_KIND) or self.env.name.lower() or "application"
        if not KIND.fullmatch(kind):
            raise InfrastructureFactoryError(
                f"{kind!r} cannot be a kind of events: set {self.EVENT_KIND} to 1 to 32 of a-z, 0-9 and `_`"
            )
        if kind == TRACKING:
            raise InfrastructureFactoryError(
                f"the kind {TRACKING!r} holds the positions of process applications: set {self.EVENT_KIND} to another"
            )
        return kind

    def _one_of(self, name: str, *choices: str) -> str:
        value = self.env.get(name, choices[0]).lower()
        if value not in choices:
            raise InfrastructureFactoryError(f"{name} is {value!r}, must be {' or '.join(choices)}")
        return value

    def _seconds(self, name: str, default: str) -> float:
        text = self.env.get(name, default)
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value < 86_400:
            raise InfrastructureFactoryError(f"{name} is {text!r}, must be a number of seconds")
        return value

    def _address(self) -> Address:
        url = self.env.get(self.NATS_URL, "")
        user = self.env.get(self.NATS_USER)
        file = self.env.get(self.LABLEDGER_CONNECTION_FILE, "")
        if url:
            # What stands in front of an @ is taken out: addresses get into errors and logs, passwords do not.
            urls, told = _split(url)
            credentials = Credentials(
                user or told.user,
                self.env.get(self.NATS_PASSWORD) or told.password,
                self.env.get(self.NATS_INBOX_PREFIX) or "_INBOX",
            )
        elif file:
            urls, credentials = _from_file(Path(file), user or "commands")
        else:
            raise InfrastructureFactoryError(
                f"no address of NATS: set {self.NATS_URL}, or {self.LABLEDGER_CONNECTION_FILE} to the connection.json "
                "that `labledger up` writes"
            )
        return Address(
            urls=urls,
            credentials=credentials,
            name=f"eventsourcing-{self.scope.kind}",
            timeout_s=self._seconds(self.NATS_TIMEOUT_S, "20"),
            make_streams=strtobool(self.env.get(self.MAKE_STREAMS, "n")),
        )

    def mapper(
        self,
        transcoder: Transcoder | None = None,
        mapper_class: type[Mapper[TAggregateID]] | None = None,
    ) -> Mapper[TAggregateID]:
        """The mapper that was asked for, else one that knows labledger's own events as well."""
        if mapper_class is None and not self.env.get(self.MAPPER_TOPIC):
            mapper_class = LedgerMapper[TAggregateID]
        return super().mapper(transcoder, mapper_class)

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        """For events; for "snapshots" one on SNAP."""
        if purpose == "snapshots":
            return JetStreamSnapshotRecorder(self.link, self.scope)
        if purpose != "events":
            raise InfrastructureFactoryError(f"no recorder for {purpose!r}: there are `events` and `snapshots`")
        return JetStreamAggregateRecorder(self.link, self.scope)

    def application_recorder(self) -> JetStreamApplicationRecorder:
        return self._made(self.APPLICATION_RECORDER_TOPIC, JetStreamApplicationRecorder)(self.link, self.scope)

    def tracking_recorder(
        self, tracking_recorder_class: type[JetStreamTrackingRecorder] | None = None
    ) -> JetStreamTrackingRecorder:
        """Raises `InfrastructureFactoryError` for a class that is not built on ours, such as a view in tables."""
        if tracking_recorder_class is None:
            tracking_recorder_class = self._made(self.TRACKING_RECORDER_TOPIC, JetStreamTrackingRecorder)
        return _subclass(tracking_recorder_class, JetStreamTrackingRecorder)(self.link, self.scope)

    def process_recorder(self) -> ProcessRecorder:
        return self._made(self.PROCESS_RECORDER_TOPIC, JetStreamProcessRecorder)(self.link, self.scope)

    def _made(self, setting: str, default: type[T]) -> type[T]:
        topic = self.env.get(setting)
        return _subclass(resolve_topic(topic), default) if topic else default

    def close(self) -> None:
        """End the connection and its thread. Subscriptions end, calls under way raise `InterfaceError`."""
        self.link.close()


def _subclass(found: object, base: type[T]) -> type[T]:
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InfrastructureFactoryError(
            f"{found!r} is not a {base.__name__}: what it records must be stored in one transaction with the events, and "
            "the streams cannot do that for tables. Keep such a view with a database's persistence module"
        )
    return found


def _split(text: str) -> tuple[tuple[str, ...], Credentials]:
    """Addresses without the login, and the login if there is one in them."""
    urls: list[str] = []
    credentials = Credentials()
    for url in text.split(","):
        scheme, found, rest = url.strip().rpartition("://")
        login, at, host = rest.rpartition("@")
        urls.append(f"{scheme}{found}{host}")
        if at and not credentials.user:
            user, _, password = login.partition(":")
            credentials = Credentials(unquote(user), unquote(password))
    return tuple(urls), credentials


def _from_file(path: Path, user: str) -> tuple[tuple[str, ...], Credentials]:
    """Address and login from a connection.json."""
    try:
        nats: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))["nats"]
        url, users = str(nats["url"]), cast("Mapping[str, Mapping[str, str]]", nats["users"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InfrastructureFactoryError(f"cannot read how to connect from {path}: {error!r}") from error
    if user not in users:
        raise InfrastructureFactoryError(f"{path} has no user {user!r}; it has {', '.join(sorted(users))}")
    it = users[user]
    return (url,), Credentials(it["user"], it["password"], it["inbox_prefix"])
