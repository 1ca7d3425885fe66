"""A small HTTP client for targets: streams bodies, waits as long as there is progress, and fails in the words of the port.

There is no time-out for the whole of a request, since a file may take hours: an attempt is given up when nothing has moved for
`idle_s`, in either direction. (aiohttp has no such limit for sending; here one clock serves both.) Nothing is retried here: whether
that is safe is for the adapter to say, and when to try again for the core. Redirects are not followed, for a credential must not go
where it was not meant to.

    web = Web("maskhub", "https://hub.example/api", credentials={"Authorization": f"Bearer {token}"}, secrets=[token])
    with tally() as made:
        reply = await web.request("POST", "/files", body=multipart({"name": "a"}, file=FilePart(path, "a.png", "image/png")))
        reply.json(), made.requests, made.bytes_sent
"""

import asyncio
import json
import re
import secrets as random_names
import time
from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from pydantic import BaseModel, ConfigDict, Field
from yarl import URL

from domain.ports import DeliveryFailed, FailureKind

#: What is read from a file at once, and what is handed to the socket at once. The second bounds how slow a line may be: less
#: than one piece in `idle_s` counts as no progress.
READ, PIECE = 1 << 20, 1 << 16
#: Most that is kept of an answer, unless the caller says otherwise.
LARGEST_REPLY = 16 << 20
#: Most of an error's body that a person is shown.
SHOWN = 300


class HttpOptions(BaseModel):
    """How a target is spoken to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    connect_s: float = Field(default=10.0, gt=0, description="Give a connection up after so many seconds.")
    idle_s: float = Field(
        default=30.0, gt=0, description="Give a request up when nothing has moved for so many seconds."
    )
    answer_s: float = Field(
        default=120.0, gt=0, description="Wait so many seconds for the answer once everything is sent."
    )
    connections: int = Field(default=8, ge=1, description="Most connections at once.")
    requests_per_s: float | None = Field(default=None, gt=0, description="Most requests per second, on average.")
    burst: int = Field(default=10, ge=1, description="So many requests may follow each other at once, after a pause.")


class NoAnswer(DeliveryFailed):
    """No answer came. `maybe_done` is False when nothing of the request can have arrived."""

    def __init__(self, kind: FailureKind, text: str, *, maybe_done: bool) -> None:
        super().__init__(kind, text)
        self.maybe_done = maybe_done


class BadStatus(DeliveryFailed):
    """The answer has a status that was not asked for."""

    def __init__(self, kind: FailureKind, text: str, reply: "Reply", *, retry_after_s: float | None = None) -> None:
        super().__init__(kind, text, retry_after_s=retry_after_s)
        self.reply = reply

    @property
    def status(self) -> int:
        return self.reply.status


@dataclass(frozen=True)
class Reply:
    """An answer, read to its end. Header names are looked up without regard to their case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str

    def json(self) -> Any:
        """The body as JSON. Raises `DeliveryFailed`: a proxy or a log-in page answers for the target."""
        try:
            return json.loads(self.body)
        except ValueError:
            text = f"{self.url} answered {self.status} with what is no JSON: {one_line(self.body)}"
            raise DeliveryFailed("server_error", text) from None

    def fields(self) -> dict[str, Any]:
        """The body as a JSON object."""
        found = self.json()
        if not isinstance(found, dict):
            text = f"{self.url} answered {self.status} with what is no JSON object: {one_line(self.body)}"
            raise DeliveryFailed("server_error", text)
        return found  # pyright: ignore[reportUnknownVariableType]


@dataclass
class Tally:
    """What went out: requests that may have reached the outside, and bytes of their bodies."""

    requests: int = 0
    bytes_sent: int = 0


_tally: ContextVar[Tally | None] = ContextVar("tally", default=None)


@contextmanager
def tally() -> Generator[Tally, None, None]:
    """Counts the requests that are made inside, also by tasks that are begun inside."""
    made = Tally()
    token = _tally.set(made)
    try:
        yield made
    finally:
        _tally.reset(token)


# ----------------------------------------------------------------------------------------------------------------- bodies


class Part(Protocol):
    """Bytes of known number. `pieces` is run in a thread, piece by piece, and may be asked for again."""

    @property
    def name(self) -> str: ...
    @property
    def media_type(self) -> str: ...
    @property
    def size(self) -> int: ...
    def pieces(self) -> Iterator[bytes]: ...


@dataclass(frozen=True)
class FilePart:
    """Bytes of a file: all, or `length` from `offset` on."""

    path: Path
    name: str = ""
    media_type: str = "application/octet-stream"
    offset: int = 0
    length: int | None = None

    @property
    def size(self) -> int:
        return self.path.stat().st_size - self.offset if self.length is None else self.length

    def pieces(self) -> Iterator[bytes]:
        left = self.size
        with self.path.open("rb") as file:
            file.seek(self.offset)
            while left and (data := file.read(min(READ, left))):
                left -= len(data)
                yield data


@dataclass(frozen=True)
class MadePart:
    """Bytes that are made while they are sent."""

    name: str
    media_type: str
    size: int
    make: Callable[[], Iterator[bytes]]

    def pieces(self) -> Iterator[bytes]:
        return self.make()


class Body(Payload):
    """Bytes and parts, one after the other, in constant memory. Can be sent again: each time it begins anew.

    A part that turns out shorter than it was is `changed`, and what was sent of it is broken off.
    """

    #: Called with the bytes sent so far and all of them.
    progress: Callable[[int, int], None] | None = None
    #: Called after each piece that the socket took.
    moved: Callable[[int], None] | None = None

    def __init__(self, parts: Sequence[bytes | Part], media_type: str) -> None:
        super().__init__(parts, content_type=media_type)
        self._parts = parts
        self._size = sum(len(part) if isinstance(part, bytes) else part.size for part in parts)
        self.failed: DeliveryFailed | None = None
        self.sent = 0

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a body is streamed")

    async def write(self, writer: AbstractStreamWriter) -> None:
        self.sent = 0
        for part in self._parts:
            if isinstance(part, bytes):
                await self._pieces(writer, part)
            else:
                await self._part(writer, part)

    async def _pieces(self, writer: AbstractStreamWriter, data: bytes) -> None:
        view = memoryview(data)
        for at in range(0, len(view), PIECE):
            piece = view[at : at + PIECE]
            await writer.write(bytes(piece))
            self.sent += len(piece)
            if self.moved is not None:
                self.moved(len(piece))
            if self.progress is not None:
                self.progress(self.sent, self._size or 0)

    async def _part(self, writer: AbstractStreamWriter, part: Part) -> None:
        try:
            left, pieces = part.size, part.pieces()
            while data := await asyncio.to_thread(next, pieces, b""):
                left -= len(data)
                await self._pieces(writer, data)
            if left:
                raise DeliveryFailed("changed", f"{part.name or 'the file'} became shorter while it was sent")
        except DeliveryFailed as error:
            self.failed = error
            raise
        except FileNotFoundError as error:
            self.failed = DeliveryFailed("missing", f"{part.name or 'the file'} vanished while it was sent")
            raise self.failed from error


def multipart(fields: Mapping[str, str], file: Part | None = None, file_field: str = "file") -> Body:
    """A form (RFC 7578) with these fields and then the file, of known length."""
    boundary = f"labledger-{random_names.token_hex(16)}"
    parts: list[bytes | Part] = [
        _part_head(boundary, name) + value.encode() + b"\r\n" for name, value in fields.items()
    ]
    if file is not None:
        parts += [_part_head(boundary, file_field, file.name or "file", file.media_type), file, b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())
    return Body(parts, f"multipart/form-data; boundary={boundary}")


def _part_head(boundary: str, name: str, file_name: str = "", media_type: str = "") -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"'
    if media_type:
        head += f'; filename="{_quoted(file_name)}"\r\nContent-Type: {media_type}'
    return (head + "\r\n\r\n").encode()


def _quoted(name: str) -> str:
    """As browsers do it (WHATWG): a name can neither end its quotes nor its line."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


# ------------------------------------------------------------------------------------------------------------------- pace


class Bucket:
    """Tokens for requests: `per_s` on average, `burst` at once. A target that asks for a pause gets it from all requests."""

    def __init__(
        self,
        per_s: float | None,
        burst: int = 10,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._per_s, self._burst, self._clock, self._sleep = per_s, burst, clock, sleep
        self._tokens, self._at, self._paused_until = float(burst), clock(), 0.0

    def pause(self, seconds: float) -> None:
        """No request before so many seconds from now."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    async def take(self, patience_s: float = 10.0) -> None:
        """Wait for one's turn. Raises `throttled` at once when that would take longer than `patience_s`."""
        now = self._clock()
        wait = max(0.0, self._paused_until - now)
        if self._per_s is not None:
            self._tokens = min(float(self._burst), self._tokens + (now - self._at) * self._per_s)
            self._at = now
            wait = max(wait, (1 - self._tokens) / self._per_s)
        if wait > patience_s:
            raise DeliveryFailed("throttled", f"no request may be made for another {wait:.0f} s", retry_after_s=wait)
        self._tokens -= 1  # taken before the wait, so that whoever comes meanwhile queues up behind
        if wait > 0:
            await self._sleep(wait)


# ----------------------------------------------------------------------------------------------------------------- client


class Web:
    """One outside system. `bases` are its addresses, the first the one that paths belong to; only these see `credentials`."""

    def __init__(
        self,
        name: str,
        *bases: str,
        options: HttpOptions | None = None,
        headers: Mapping[str, str] | None = None,
        credentials: Mapping[str, str] | None = None,
        secrets: Iterable[str] = (),
    ) -> None:
        self._name = name
        self._bases = [base.rstrip("/") for base in bases]
        self._options = options or HttpOptions()
        self._headers = {"User-Agent": "labledger", **(headers or {})}
        self._credentials = dict(credentials or {})
        self._secrets = [secret for secret in secrets if secret]
        self._origins = {_origin(base) for base in self._bases}
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(self._options.connections)
        self.bucket = Bucket(self._options.requests_per_s, self._options.burst)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:  # needs the running loop, so not in the constructor
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0
                ),  # `_slots` does it, where waiting is not taken for a stalled peer
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._options.connect_s),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            # Else aiohttp sends a PUT or DELETE again by itself when a connection that it reused breaks, also after the first
            # one was done. There is no public switch.
            self._session._retry_connection = False  # pyright: ignore[reportPrivateUsage]
        return self._session

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body | bytes | None = None,
        json_body: Any = None,
        accept: Collection[int] = (200, 201, 202, 204),
        answer_s: float | None = None,
        largest: int = LARGEST_REPLY,
        into: Callable[[bytes], None] | None = None,
    ) -> Reply:
        """Ask, and read the answer to its end (`into`: piece by piece, and none of it is kept).

        `url` is a path below the first address or a whole URL, percent-encoded already; it is sent as it is. Raises
        `BadStatus` for a status that is not in `accept`, `NoAnswer` when none came, and what reading the body's files raises.
        """
        whole = url if "://" in url else self._bases[0] + url
        if params:
            whole += ("&" if "?" in whole else "?") + urlencode(params)
        sent_headers = {**self._headers, **(self._credentials if _origin(whole) in self._origins else {})}
        sent_headers.update(headers or {})
        if json_body is not None:
            body = Body([json.dumps(json_body, ensure_ascii=False).encode()], "application/json")
        elif isinstance(body, bytes):
            body = Body([body], "application/octet-stream")
        await self.bucket.take()
        async with self._slots:
            if (made := _tally.get()) is not None:
                made.requests += 1
            reply = await self._exchange(method, whole, sent_headers, body, answer_s, largest, into, accept)
        if reply.status not in accept:
            raise self._bad(method, reply)
        return reply

    async def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None,
        answer_s: float | None,
        largest: int,
        into: Callable[[bytes], None] | None,
        accept: Collection[int],
    ) -> Reply:
        options, loop, made = self._options, asyncio.get_running_loop(), _tally.get()
        answer_s = answer_s or options.answer_s
        # The clock for "nothing moves". Until the first byte of the body is taken it covers the connection as well.
        first_s = options.connect_s + (options.idle_s if body is not None else answer_s)
        where = _shown(url)
        try:
            async with asyncio.timeout(first_s) as clock:
                if body is not None:
                    size = body.size or 0

                    def moved(count: int) -> None:
                        if made is not None:
                            made.bytes_sent += count
                        clock.reschedule(loop.time() + (answer_s if body.sent >= size else options.idle_s))

                    body.moved = moved
                    if size == 0:
                        clock.reschedule(loop.time() + options.connect_s + answer_s)
                async with self._open().request(
                    method,
                    URL(url, encoded=True),
                    headers=headers,
                    data=body,
                    allow_redirects=False,
                    proxy=_proxy(url),
                ) as answer:
                    kept = bytearray()
                    async for piece in answer.content.iter_chunked(READ):
                        clock.reschedule(loop.time() + options.idle_s)
                        if into is not None and answer.status in accept:
                            into(piece)
                        elif len(kept) + len(piece) <= largest:
                            kept += piece
                        elif answer.status in accept:
                            raise DeliveryFailed("server_error", f"{where} answers with more than {largest:,} bytes")
                        else:
                            break
                    return Reply(answer.status, answer.headers.copy(), bytes(kept), where)
        except aiohttp.ConnectionTimeoutError:
            text = f"{self._name}: no connection to {where} within {options.connect_s:g} s"
            raise NoAnswer("timed_out", text, maybe_done=False) from None
        except TimeoutError:
            text = f"{self._name}: nothing moved for too long at {method} {where}"
            raise NoAnswer("timed_out", text, maybe_done=True) from None
        except aiohttp.ClientConnectorCertificateError as error:
            text = f"the certificate of {where} is not trusted: {self.clean(str(error.certificate_error))}"
            raise DeliveryFailed("misconfigured", text) from None
        except aiohttp.InvalidURL:
            raise DeliveryFailed("misconfigured", f"{where!r} is no URL") from None
        except aiohttp.ClientConnectorError as error:
            text = f"{self._name}: no connection to {where}: {self.clean(str(error.os_error))}"
            raise NoAnswer("unreachable", text, maybe_done=False) from None
        except (aiohttp.ClientError, OSError) as error:
            if body is not None and body.failed is not None:
                raise body.failed from None
            text = f"{self._name}: the connection broke at {method} {where}: {self.clean(str(error)) or type(error).__name__}"
            raise NoAnswer("unreachable", text, maybe_done=True) from None

    def _bad(self, method: str, reply: Reply) -> BadStatus:
        wait = retry_after_s(reply.headers)
        kind = kind_of(reply.status, wait)
        if kind == "throttled" and wait is not None:
            self.bucket.pause(wait)
        said = f"answered {reply.status}"
        if 300 <= reply.status < 400:
            said += (
                f" and points to {_shown(reply.headers.get('Location', 'nowhere'))}; give that address in the settings"
            )
        elif text := self.clean(one_line(reply.body)):
            said += f": {text}"
        return BadStatus(kind, f"{self._name}: {method} {reply.url} {said}", reply, retry_after_s=wait)

    def clean(self, text: str) -> str:
        """Without the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def kind_of(status: int, wait_s: float | None = None) -> FailureKind:
    """What a status that is no success means, where the target has no meaning of its own for it."""
    match status:
        case 401 | 403 | 407:
            return "unauthorized"
        case 408 | 504:
            return "timed_out"
        case 429:
            return "throttled"
        case 503 if wait_s is not None:
            return "throttled"
        case 507:
            return "full"
        case 409 | 412:
            return "conflict"
        case _ if status >= 500:
            return "server_error"
        case _ if 300 <= status < 400 or status in (404, 405):
            return "misconfigured"
        case _:
            return "refused"


def retry_after_s(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Seconds that a `Retry-After` asks for, given as a number or as a date; None without, or when it cannot be read."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now())
    except (ValueError, TypeError):
        return None


def one_line(body: bytes) -> str:
    """What a person may want to see of an error's body: its words, without mark-up, on one line."""
    text = body[:20_000].decode("utf-8", "replace")
    if text.lstrip()[:1] == "<":
        text = re.sub(r"(?is)<(script|style)\b.*?</\1>|<[^>]*>", " ", text)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parsed = URL(url, encoded=True)
    return parsed.scheme, parsed.host, parsed.port


def _shown(url: str) -> str:
    """Without user, password and query, which may hold a secret."""
    try:
        parsed = URL(url, encoded=True)
        return str(parsed.with_user(None).with_query(None)) if parsed.host else url.split("?")[0]
    except ValueError:
        return url.split("?")[0]


def _proxy(url: str) -> str | None:
    """As the environment says (HTTPS_PROXY, NO_PROXY); this machine itself is always spoken to directly."""
    parsed = URL(url, encoded=True)
    host = parsed.host or ""
    if host in ("localhost", "127.0.0.1", "::1") or proxy_bypass(host):
        return None
    return getproxies().get(parsed.scheme)
