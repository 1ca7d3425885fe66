"""One connection to NATS: reconnects for ever, publishes with acknowledgement, asks.

nats-py is used below its JetStream layer here, because that layer makes a new future, a token and a `wait_for` for each
request (25 us a message, reference: nats.py #541). All wire code of ours is in this module, `streams` and `subscription`.
"""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import AuthorizationError, ConnectionClosedError, MaxPayloadError
from nats.errors import Error as NatsError

from bus.errors import Forbidden, Rejected, Unavailable

log = logging.getLogger("labledger.bus")

#: JetStream's own error codes (`err_code`) that we act upon.
WRONG_LAST_SEQUENCE = 10071
WRONG_LAST_SEQUENCE_IN_FLIGHT = 10164
DUPLICATE_IN_BATCH = 10201
#: Troubles of the server that pass by themselves: no leader (10008), not enough resources (10023), a batch that fell to a
#: change of leader, our own first try still in process (10158, 10184), ...
PASSING = frozenset((10008, 10023, 10077, 10158, 10167, 10176, 10184, 10199, 10205))

_SUBJECT = re.compile(r"[A-Za-z0-9_$.-]+")

#: How the server complains, in the small letters that nats-py makes of it.
_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"')


class _Client(Client):
    """nats-py's client, reading headers in one pass: its own looks at every character of every name, 100 us for the
    fifteen headers of an event, most of the time of a replay. What is out of the ordinary is left to it."""

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        try:
            lines = raw.decode().split("\r\n")
            pairs = [line.partition(":") for line in lines if line]
        except UnicodeDecodeError:
            return Client._parse_header_lines(raw)  # pyright: ignore[reportPrivateUsage]
        found = {name: value.strip() for name, colon, value in pairs if colon}
        if not "".join(found).replace("-", "").isalnum():
            return Client._parse_header_lines(raw)  # pyright: ignore[reportPrivateUsage]
        return found


@dataclass(frozen=True)
class Credentials:
    """How a role signs in. `inbox_prefix` keeps one role from reading another's replies."""

    user: str | None = None
    password: str | None = None
    inbox_prefix: str = "_INBOX"


@dataclass(frozen=True, slots=True)
class Ack:
    """What the server answered to a publish: a sequence, or an error code with words."""

    seq: int = 0
    duplicate: bool = False
    err_code: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What waits for a reply, and the subjects that were sent to for it."""

    answer: "asyncio.Future[Msg]"
    subjects: tuple[str, ...]

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Bus:
    """A connection with one reply subscription for all its acknowledgements."""

    def __init__(self, nc: Client, name: str, user: str | None = None) -> None:
        self.nc = nc
        self.name = name
        self.user = user
        self.closing = False
        self._prefix = ""
        self._token = 0
        #: Called when the connection was lost.
        self.on_cut: set[Callable[[], None]] = set()
        self._waiting: dict[str, _Asked] = {}
        #: Set where we may not hear our replies: nothing that is asked would ever be answered.
        self._deaf: Forbidden | None = None

    async def start(self) -> None:
        inbox = self.nc.new_inbox()
        self._prefix = inbox + "."
        await self.subscribe(inbox + ".*", self._on_reply)

    async def _on_reply(self, msg: Msg) -> None:
        asked = self._waiting.pop(msg.subject, None)
        if asked is not None and not asked.answer.done():
            asked.answer.set_result(msg)

    async def request(
        self,
        subject: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
        *,
        sent_before: Sequence[str] = (),
    ) -> Msg:
        """Publish and wait for the one reply, which is also for what was `sent_before` to those subjects.

        Raises `Unavailable` when none comes in time, `Rejected` when too large, `Forbidden` when this user may not ask that.
        """
        if self._deaf is not None:
            raise self._deaf
        self._token += 1
        reply = f"{self._prefix}{self._token}"
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Msg] = loop.create_future()
        self._waiting[reply] = _Asked(future, (subject, *sent_before))
        timer = loop.call_later(timeout_s, self._give_up, reply)
        try:
            await self._publish(subject, body, reply, headers)
            msg = await future
        except MaxPayloadError as error:
            raise Rejected(self._too_large(subject, len(body))) from error
        except NatsError as error:
            raise Unavailable(f"NATS did not take a message for {subject}: {error!r}") from error
        finally:
            timer.cancel()
            self._waiting.pop(reply, None)
        if not msg.data and msg.headers and msg.headers.get("Status") == "503":
            raise Unavailable(f"nobody listens on {subject}: the stream does not exist (yet), or has no leader")
        return msg

    async def publish_batch(
        self, messages: Sequence[tuple[str, Mapping[str, str], bytes]], batch_id: str, timeout_s: float = 10.0
    ) -> Ack:
        """Publish messages (subject, headers, body) as one atomic batch: all are stored, or none. Up to 1000."""
        last = len(messages)
        wire: list[bytes] = []
        for n, (subject, headers, body) in enumerate(messages[:-1], 1):
            wire.append(
                self._hpub(subject, "", f"Nats-Batch-Id: {batch_id}\r\nNats-Batch-Sequence: {n}\r\n", headers, body)
            )
        subject, headers, body = messages[-1]
        marks = {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(last), "Nats-Batch-Commit": "1"}
        try:
            if not self.nc.is_connected:
                raise ConnectionClosedError
            await self._send(b"".join(wire))
        except NatsError as error:
            raise Unavailable(f"NATS did not take a batch: {error!r}") from error
        before = list(dict.fromkeys(subject for subject, _, _ in messages[:-1]))
        return await self.publish(subject, body, {**headers, **marks}, timeout_s, sent_before=before)

    async def _publish(self, subject: str, body: bytes, reply: str, headers: Mapping[str, str] | None) -> None:
        """nats-py's `publish`, with the header block encoded in one go: 2 us in place of 16 for an event's fifteen headers.

        Whatever is not the plain case (no headers, not connected, an odd subject) is left to nats-py.
        """
        nc = self.nc
        if not headers or not nc.is_connected or nc.is_draining_pubs or not _SUBJECT.fullmatch(subject):
            await nc.publish(subject, body, reply=reply, headers=dict(headers) if headers else None)
            return
        await self._send(self._hpub(subject, reply, "", headers, body))

    def _hpub(self, subject: str, reply: str, marks: str, headers: Mapping[str, str], body: bytes) -> bytes:
        """One message as it goes over the wire. `marks` are header lines made by us."""
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
            raise ValueError(f"a header of a message for {subject} has a line break in it")
        block = f"NATS/1.0\r\n{marks}{lines}\r\n".encode()
        size = len(block) + len(body)
        if size > self.nc.max_payload:
            raise Rejected(self._too_large(subject, size))
        return b"%b%b%b\r\n" % (f"HPUB {subject} {reply} {len(block)} {size}\r\n".encode(), block, body)

    async def _send(self, wire: bytes) -> None:
        nc = self.nc
        await nc._send_command(wire)  # pyright: ignore[reportPrivateUsage]
        if nc._flush_queue is not None and nc._flush_queue.empty():  # pyright: ignore[reportPrivateUsage]
            await nc._flush_pending()  # pyright: ignore[reportPrivateUsage]

    def _too_large(self, subject: str, size: int) -> str:
        # Sent all the same, it would cost us the connection: the server closes it.
        return f"a message for {subject} has {size} bytes; NATS takes {self.nc.max_payload}"

    def _give_up(self, reply: str) -> None:
        asked = self._waiting.pop(reply, None)
        if asked is not None:
            asked.fail(Unavailable("NATS did not answer in time"))

    async def publish(
        self,
        subject: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
        *,
        sent_before: Sequence[str] = (),
    ) -> Ack:
        """Publish into a stream and wait until it is stored (or refused: see `Ack.err_code`).

        Raises `Unavailable` when no answer comes, and for a refusal that passes by itself (a cluster looks for a leader);
        `Forbidden` and `Rejected` as `request` does.
        """
        ack = parse_ack((await self.request(subject, body, headers, timeout_s, sent_before=sent_before)).data)
        if ack.err_code in PASSING or (ack.err_code and "timeout" in ack.error.lower()):
            raise Unavailable(f"{ack.error} ({ack.err_code})")
        return ack

    async def send(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Publish without waiting for an answer."""
        try:
            await self._publish(subject, body, "", headers)
        except MaxPayloadError as error:
            raise Rejected(self._too_large(subject, len(body))) from error
        except NatsError as error:
            raise Unavailable(f"NATS did not take a message for {subject}: {error!r}") from error

    async def subscribe(
        self, subject: str, callback: Callable[[Msg], Awaitable[None]], *, pending: int = 1_000_000
    ) -> Subscription:
        """Listen to a subject of core NATS. More than `pending` unhandled messages (or 1 GB) are dropped."""
        untyped: Any = self.nc  # nats-py leaves a part of this type open
        return await untyped.subscribe(subject, cb=callback, pending_msgs_limit=pending, pending_bytes_limit=1 << 30)

    async def api(self, verb: str, body: Mapping[str, Any] | None = None, timeout_s: float = 5.0) -> dict[str, Any]:
        """A request to the JetStream API; the answer as it came, errors included under "error"."""
        msg = await self.request(f"$JS.API.{verb}", json.dumps(body).encode() if body else b"", timeout_s=timeout_s)
        return json.loads(msg.data)

    def cut_off(self) -> None:
        """What was asked over a connection that is lost gets no answer any more: nobody needs to wait out his time."""
        self._fail_all(Unavailable("the connection to NATS was lost"))
        for tell in list(self.on_cut):
            tell()

    def back(self) -> None:
        """Connected again. What we may has perhaps changed meanwhile; if not, the server complains again."""
        self._deaf = None

    def complained(self, words: str) -> None:
        """The server said something that is no answer. Where it forbids what somebody waits for, that is the answer."""
        found = _VIOLATION.search(words)
        if found is None:
            return
        verb, forbidden = found.groups()
        who = f"the NATS user {self.user!r}" if self.user else "who signs in to NATS without a name"
        cure = "sign in as one who may, or grant it in the configuration of the server"
        if verb == "subscription":
            if forbidden == f"{self._prefix}*".lower():
                self._deaf = Forbidden(f"{who} may not hear replies on {self._prefix}*: {cure}")
                self._fail_all(self._deaf)
            return
        for reply, asked in list(self._waiting.items()):
            for subject in asked.subjects:
                if subject.lower() == forbidden:
                    asked.fail(Forbidden(f"{who} may not publish to {subject}: {cure}"))
                    self._waiting.pop(reply, None)

    async def close(self) -> None:
        self.closing = True
        self._fail_all(Unavailable("the connection was closed"))
        await self.nc.close()

    def _fail_all(self, error: Exception) -> None:
        for asked in self._waiting.values():
            asked.fail(error)
        self._waiting.clear()


def parse_ack(data: bytes) -> Ack:
    answer = json.loads(data)
    error = answer.get("error")
    if error:
        return Ack(err_code=int(error.get("err_code", 0)), error=str(error.get("description", "")))
    return Ack(seq=int(answer["seq"]), duplicate=bool(answer.get("duplicate")))


def _without_login(url: str | list[str]) -> str:
    """The addresses as they may be shown: a password in one must not reach an error or a log."""
    return ", ".join(re.sub(r"//[^/@]*@", "//", one) for one in ([url] if isinstance(url, str) else url))


async def connect(
    url: str | list[str], name: str, credentials: Credentials | None = None, *, first_try_s: float = 30.0
) -> Bus:
    """Connect, and keep reconnecting for ever once connected.

    While no server is there, publishes are buffered up to 2 MB and requests time out as `Unavailable`.
    Raises `Unavailable` when no server answers within `first_try_s`, or when it refuses the credentials.
    """
    credentials = credentials or Credentials()

    async def on_error(error: Exception) -> None:
        log.warning("%s: %s", name, str(error) or type(error).__name__)
        bus.complained(str(error))

    async def on_disconnect() -> None:
        if not bus.closing:
            log.warning("%s: connection to NATS lost", name)
            bus.cut_off()

    async def on_reconnect() -> None:
        log.warning("%s: connected to NATS again", name)
        bus.back()

    bus = Bus(_Client(), name, credentials.user)
    deadline = asyncio.get_running_loop().time() + first_try_s
    options: dict[str, Any] = {}
    if credentials.user:
        options = {"user": credentials.user, "password": credentials.password}
    while True:
        bus.nc = _Client()
        try:
            # With reconnecting for ever, nats-py's first connect never gives up by itself.
            async with asyncio.timeout(3.0):
                await bus.nc.connect(
                    url,
                    name=name,
                    error_cb=on_error,
                    disconnected_cb=on_disconnect,
                    reconnected_cb=on_reconnect,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.25,  # type: ignore[arg-type]
                    allow_reconnect=False,
                    connect_timeout=2,
                    ping_interval=10,
                    max_outstanding_pings=2,
                    inbox_prefix=credentials.inbox_prefix,
                    **options,
                )
            break
        except (NatsError, OSError, TimeoutError) as error:
            # A refusal at the first connect comes as a plain `Error` with the server's words.
            refused = isinstance(error, AuthorizationError) or "authorization violation" in str(error).lower()
            if refused or asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"cannot connect to NATS at {_without_login(url)}: {error}") from error
            await asyncio.sleep(0.1)
    # Only from here on: during the first connect nats-py would retry silently for ever.
    bus.nc.options["allow_reconnect"] = True
    await bus.start()
    return bus
