"""An S3 bucket as we use it: one request at a time, with its outcome in the words of the port.

aiobotocore signs, sends and parses. What it leaves open is done here:

* A request whose body does not move is given up after `idle_s`; aiohttp has no time-out for sending.
* botocore's own retries are off. Whether a request may be repeated, its caller says (`Patience`), who knows what it was for.
* Bodies are read from disk in threads and sent as they are read, so memory does not grow with the part. The payload stays unsigned
  and carries a checksum of ours, made in a thread: botocore would hash it on the event loop.
* The client is made in a thread, since botocore reads megabytes of JSON for it.
* A *probe* finds out what the store does with a wrong checksum and with `If-None-Match`. Stores that look alike differ in both.
"""

import asyncio
import base64
import hashlib
import importlib
import logging
import random
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from adapters.web.client import Body, Bucket, FilePart, Tally, kind_of, one_line, retry_after_s
from domain.ports import PASSING, DeliveryFailed, FailureKind

log = logging.getLogger("labledger.s3")
T = TypeVar("T")

#: Limits of S3: a part, how many of them, a key.
MIB = 1 << 20
LEAST_PART, LARGEST_PART, MOST_PARTS, KEY_BYTES = 5 * MIB, 5 << 30, 10_000, 1024
#: A request without a streamed body, answer included. Completing a large upload takes minutes; a silence is noticed before.
WHOLE_S = 900.0
#: Longer waits than this, asked for by the store, are left to the durable timers of the delivery.
LONGEST_WAIT_S = 30.0

Algorithm = Literal["sha256", "crc64nvme", "md5"]


class Place(BaseModel):
    """Where a bucket is and how it is spoken to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bucket: str = Field(min_length=3, max_length=255, description="The bucket. It must exist.")
    endpoint_url: str | None = Field(
        default=None, pattern=r"^https?://", description="Address of an S3-compatible store. Empty: AWS."
    )
    region: str | None = Field(default=None, description="Empty: AWS_REGION, AWS_DEFAULT_REGION, else us-east-1.")
    addressing_style: Literal["auto", "path", "virtual"] = Field(
        default="auto", description="Bucket in the path or in the host name."
    )
    access_key_id: SecretStr | None = Field(default=None, description="Empty: AWS_ACCESS_KEY_ID.")
    secret_access_key: SecretStr | None = Field(default=None, description="Empty: AWS_SECRET_ACCESS_KEY.")
    session_token: SecretStr | None = Field(default=None, description="Empty: AWS_SESSION_TOKEN.")
    checksum: Literal["probe", "sha256", "crc64nvme", "md5"] = Field(
        default="probe",
        description="What each part is checked by. `probe` asks the store: sha256 where it refuses a wrong one, else md5, "
        "and what was stored is read back. `crc64nvme` (AWS) needs labledger[crc64].",
    )
    part_mib: int = Field(default=16, ge=5, le=5120, description="Size of a part, for files of up to 9,500 parts.")
    concurrency: int = Field(default=4, ge=1, le=64, description="Parts of one file that are on their way at once.")
    connect_s: float = Field(default=5.0, gt=0, description="Give a connection up after so many seconds.")
    idle_s: float = Field(
        default=30.0, gt=0, description="Give a request up when nothing has moved for so many seconds."
    )
    patience_s: float = Field(
        default=60.0, ge=0, description="Try again within an attempt as long as something succeeded this recently."
    )
    requests_per_s: float | None = Field(default=None, gt=0, description="Most requests per second, on average.")
    put_parameters: dict[str, str] = Field(
        default_factory=dict[str, str],
        description="More parameters of each upload, by their names in the API: StorageClass, ServerSideEncryption, ...",
    )


#: The customary variable of each credential.
VARIABLES = {"access_key_id": "AWS_ACCESS_KEY_ID", "secret_access_key": "AWS_SECRET_ACCESS_KEY"}


@dataclass(frozen=True)
class Keys:
    access: str
    secret: str
    token: str | None

    def __repr__(self) -> str:
        return "Keys(...)"


def keys_of(place: Place, environ: Mapping[str, str]) -> tuple[Keys | None, list[str]]:
    """The credentials, and the names of those that are missing. Options go before variables, each pair as a whole."""
    if place.access_key_id or place.secret_access_key:
        given = {name: _plain(getattr(place, name)) for name in VARIABLES}
        token = _plain(place.session_token) or None
    else:
        given = {name: environ.get(variable, "") for name, variable in VARIABLES.items()}
        token = environ.get("AWS_SESSION_TOKEN") or None
    missing = [f"{name} (or {VARIABLES[name]})" for name, value in given.items() if not value]
    return (None if missing else Keys(given["access_key_id"], given["secret_access_key"], token)), missing


def _plain(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""


# ------------------------------------------------------------------------------------------------------------------ errors


class S3Error(DeliveryFailed):
    """What the store said, or that it said nothing. `code` is S3's own (`NoSuchKey`), "" without an answer.

    `maybe_done`: the request may have had its effect.
    """

    def __init__(
        self,
        kind: FailureKind,
        text: str,
        *,
        code: str = "",
        status: int = 0,
        maybe_done: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(kind, text, retry_after_s=retry_after_s)
        self.code, self.status, self.maybe_done = code, status, maybe_done


#: The store got other bytes than we sent: the line altered them, and another try will do.
ALTERED = frozenset(
    {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "IncompleteBody"}
)
#: What we relied on has changed meanwhile: look again and go on from there.
OVERTAKEN = frozenset(
    {"PreconditionFailed", "ConditionalRequestConflict", "OperationAborted"}
    | {"NoSuchUpload", "InvalidPart", "InvalidPartOrder"}
)
_KINDS: dict[str, FailureKind] = {
    **dict.fromkeys(("SlowDown", "Throttling", "ThrottlingException", "TooManyRequests"), "throttled"),
    **dict.fromkeys(("RequestLimitExceeded", "ServiceUnavailable"), "throttled"),
    **dict.fromkeys(("RequestTimeout",), "timed_out"),
    **dict.fromkeys(("InternalError", "InternalServerError"), "server_error"),
    **dict.fromkeys(("QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "InsufficientCapacity"), "full"),
    **dict.fromkeys(("NoSuchBucket", "PermanentRedirect", "AuthorizationHeaderMalformed"), "misconfigured"),
    **dict.fromkeys(("IllegalLocationConstraintException", "InvalidBucketName"), "misconfigured"),
    **dict.fromkeys(("NotImplemented", "MethodNotAllowed", "InvalidStorageClass"), "misconfigured"),
}
_ADVICE = {
    "InvalidAccessKeyId": "the store does not know this access key: check access_key_id (AWS_ACCESS_KEY_ID)",
    "SignatureDoesNotMatch": "the secret does not belong to the access key: check secret_access_key (AWS_SECRET_ACCESS_KEY)",
    "AccessDenied": "the access key may not do this: give it read, write, delete and multipart rights on the bucket",
    "ExpiredToken": "the session token has expired: get new credentials",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "NoSuchBucket": "the bucket does not exist: make it, or correct `bucket`",
    "PermanentRedirect": "the bucket is in another region: correct `region`",
    "AuthorizationHeaderMalformed": "the bucket is in another region: correct `region`",
}


def failure(error: BaseException, operation: str, where: str) -> DeliveryFailed:
    """What an error of aiobotocore, botocore or aiohttp means. The text has no secret: neither do their texts, nor URLs of ours."""
    if isinstance(error, DeliveryFailed):
        return error
    answer: Any = getattr(error, "response", None)
    if isinstance(answer, Mapping) and "Error" in answer:
        return _refusal(answer, operation, where)  # pyright: ignore[reportUnknownArgumentType]
    name, said = type(error).__name__, one_line(str(error).encode())
    if isinstance(error, FileNotFoundError):
        return DeliveryFailed("missing", f"{error.filename} is not there any more")
    if name in ("ConnectTimeoutError",):
        return S3Error("timed_out", f"no connection to {where} in time")
    if name in ("EndpointConnectionError", "ProxyConnectionError"):
        # botocore says so for connections that broke later, too.
        connecting = isinstance(error.__context__, aiohttp.ClientConnectorError)
        return S3Error("unreachable", f"no connection to {where}: {said}", maybe_done=not connecting)
    if name == "SSLError":
        return DeliveryFailed("misconfigured", f"the certificate of {where} is not trusted: {said}")
    if isinstance(error, TimeoutError) or name == "ReadTimeoutError":
        return S3Error("timed_out", f"{where}: nothing moved for too long in {operation}", maybe_done=True)
    if name in ("ParamValidationError", "ProfileNotFound", "UnknownServiceError", "InvalidEndpointDiscoveryConfig"):
        return DeliveryFailed("misconfigured", f"{operation} cannot be asked: {said}")
    if name == "ResponseParserError":
        return S3Error("server_error", f"{where} answered {operation} with what is not S3: {said}", maybe_done=True)
    if isinstance(error, aiohttp.ClientError | ConnectionError) or type(error).__module__.startswith("botocore"):
        return S3Error(
            "unreachable", f"the connection to {where} broke in {operation}: {said or name}", maybe_done=True
        )
    return DeliveryFailed("internal", f"{operation}: {name}: {said}")


def _refusal(answer: Mapping[str, Any], operation: str, where: str) -> S3Error:
    about: Mapping[str, Any] = answer.get("ResponseMetadata") or {}
    status = int(about.get("HTTPStatusCode") or 0)
    code = str(answer["Error"].get("Code") or status)
    told: Mapping[str, Any] = about.get("HTTPHeaders") or {}
    headers = {name.title(): str(value) for name, value in told.items()}
    wait = retry_after_s(headers)
    kind: FailureKind = _KINDS.get(code) or kind_of(status, wait)
    if code in ALTERED:
        kind = "unreachable"
    elif code in OVERTAKEN:
        kind = "waiting"
    elif status == 404 and kind == "misconfigured" and code not in _KINDS:
        kind = "missing"
    elif status == 200:  # an error in the body of an answer that had begun well
        kind = _KINDS.get(code, "server_error")
    said = _ADVICE.get(code) or one_line(str(answer["Error"].get("Message") or "").encode())
    text = f"{where} answered {operation} with {status} {code}" + (f": {said}" if said else "")
    maybe = status >= 500 or status in (200, 408)
    return S3Error(kind, text, code=code, status=status, maybe_done=maybe, retry_after_s=wait)


# ------------------------------------------------------------------------------------------------------------------ digests


class Digest:
    """A running checksum of one of our algorithms."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._hash: Any = None
        self._crc, self._update = 0, None
        if algorithm == "crc64nvme":
            self._update = _crc64nvme()
        elif algorithm == "md5":
            self._hash = hashlib.md5(usedforsecurity=False)
        else:
            self._hash = hashlib.sha256()

    def update(self, data: bytes | memoryview) -> None:
        if self._update is not None:
            self._crc = self._update(data, self._crc)
        else:
            self._hash.update(data)

    def digest(self) -> bytes:
        return self._crc.to_bytes(8, "big") if self._update is not None else self._hash.digest()


def _crc64nvme() -> Callable[[Any, int], int]:
    try:
        return importlib.import_module("awscrt.checksums").crc64nvme
    except ModuleNotFoundError:
        raise DeliveryFailed("misconfigured", "checksum = 'crc64nvme' needs labledger[crc64]") from None


def b64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


#: How each algorithm is named in requests and answers.
PARAMETER: dict[Algorithm, str] = {"sha256": "ChecksumSHA256", "crc64nvme": "ChecksumCRC64NVME", "md5": "ContentMD5"}


# ----------------------------------------------------------------------------------------------------------------- requests


class Stretch(Body):
    """A stretch of a file as the body of a request: aiohttp sends it, each time from its beginning.

    What botocore asks a body for is here too. It must not read it: it would do so on the event loop.
    """

    def __init__(self, file: FilePart) -> None:
        super().__init__([file], "application/octet-stream")

    def __len__(self) -> int:
        return self._size or 0

    def __bool__(self) -> bool:
        return True

    def read(self, _size: int = -1) -> bytes:
        raise TypeError("a body is streamed")

    def tell(self) -> int:
        return 0

    def seek(self, _offset: int, _whence: int = 0) -> int:
        return 0


@dataclass(frozen=True)
class Traits:
    """What a store was found to do: the checksum that it compares, and whether it honours `If-None-Match: *`."""

    checksum: Algorithm
    compares: bool
    conditional: bool

    @property
    def trusted(self) -> bool:
        """A store that compares a checksum over all of the object knows what it has; else it is read back."""
        return self.checksum != "md5"

    def shown(self) -> dict[str, Any]:
        return {"checksum": self.checksum, "compares": self.compares, "conditional": self.conditional}


class Patience:
    """How long one attempt goes on trying: as long as something succeeded within `patience_s`."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s, self._since = patience_s, time.monotonic()

    def progress(self) -> None:
        self._since = time.monotonic()

    async def wait(self, error: DeliveryFailed, tries: int) -> None:
        """Wait before the next try, or raise the error when none would help, or the patience is used up."""
        asked_s = error.retry_after_s or 0.0
        if error.kind not in PASSING or error.kind == "internal" or asked_s > LONGEST_WAIT_S:
            raise error
        if time.monotonic() - self._since > self._patience_s:
            raise error
        await asyncio.sleep(asked_s or min(0.1 * 2**tries, 5.0) * random.uniform(0.5, 1.0))

    async def through(self, request: Callable[[], Awaitable[T]]) -> T:
        """Repeat a request that changes nothing, or the same each time, until it is answered."""
        tries = 0
        while True:
            try:
                found = await request()
            except DeliveryFailed as error:
                if isinstance(error, S3Error) and error.code in OVERTAKEN:
                    raise  # an answer, and the same the next time
                await self.wait(error, tries)
                tries += 1
            else:
                self.progress()
                return found


class Store:
    """One bucket. Connects at the first request; any number of tasks of one event loop may use it."""

    def __init__(self, place: Place, environ: Mapping[str, str]) -> None:
        self.place = place
        self.keys, self.missing = keys_of(place, environ)
        self.region = place.region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        self.where = _host(place.endpoint_url) or f"S3 in {self.region}"
        self.traits: Traits | None = None
        self._client: Any = None
        self._lock, self._probing = asyncio.Lock(), asyncio.Lock()
        self._bucket = Bucket(place.requests_per_s)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.__aexit__(None, None, None)

    async def ask(self, operation: str, tally: Tally, **parameters: Any) -> dict[str, Any]:
        """One request, once. `parameters` as in the API; a `Body` from a file is a `Stretch`. Raises `DeliveryFailed`."""
        client = await self._connected()
        await self._bucket.take()
        loop = asyncio.get_running_loop()
        idle_s = self.place.idle_s
        body = parameters.get("Body")
        streamed = body if isinstance(body, Stretch) else None
        tally.requests += 1
        try:
            async with asyncio.timeout(WHOLE_S if streamed is None else self.place.connect_s + idle_s) as clock:
                if streamed is not None:

                    def moved(count: int) -> None:
                        tally.bytes_sent += count
                        clock.reschedule(loop.time() + idle_s)

                    streamed.moved = moved
                return await getattr(client, operation)(Bucket=self.place.bucket, **parameters)
        except Exception as error:
            if streamed is not None and streamed.failed is not None:
                raise streamed.failed from None
            raise failure(error, operation, self.where) from None

    async def _connected(self) -> Any:
        if self._client is None:
            async with self._lock:
                if self._client is None:
                    self._client = await asyncio.to_thread(self._made)
        return self._client

    def _made(self) -> Any:
        with _MAKING:
            return asyncio.run(self._make())

    async def _make(self) -> Any:
        """The client. It binds to an event loop only with its first request."""
        if self.keys is None:
            raise DeliveryFailed("unauthorized", f"not set: {', '.join(self.missing)}")
        place = self.place
        try:
            session = _session()
            config: Any = importlib.import_module("aiobotocore.config").AioConfig
        except ModuleNotFoundError:
            raise DeliveryFailed("misconfigured", "S3 needs labledger[delivery]") from None
        local = _host(place.endpoint_url).rpartition(":")[0] in ("localhost", "127.0.0.1", "[::1]")
        try:
            client = await session.create_client(
                "s3",
                endpoint_url=place.endpoint_url,
                region_name=self.region,
                aws_access_key_id=self.keys.access,
                aws_secret_access_key=self.keys.secret,
                aws_session_token=self.keys.token,
                config=config(
                    connect_timeout=place.connect_s,
                    read_timeout=max(place.idle_s, 60.0),
                    max_pool_connections=10 * place.concurrency + 10,  # waiting for a connection is no stalled peer
                    retries={"mode": "standard", "total_max_attempts": 1},
                    s3={"addressing_style": place.addressing_style, "payload_signing_enabled": False},
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    proxies={} if local else None,
                    user_agent_extra="labledger",
                ),
            ).__aenter__()
        except Exception as error:
            raise failure(error, "connect", self.where) from None
        # Our bodies are streamed, for which botocore would wait for a `100 Continue` that some stores and proxies never send.
        client.meta.events.register_last("before-call.s3", _without_expect)
        return client

    # -- what a store does -------------------------------------------------------------------------------------------

    async def learn(self, tally: Tally, patience: Patience, prefix: str = "") -> Traits:
        """What the store does, found out once in the life of this process (`probe`)."""
        if self.traits is None:
            async with self._probing:
                if self.traits is None:
                    self.traits = await self.probe(tally, patience, prefix)
        return self.traits

    async def probe(self, tally: Tally, patience: Patience, prefix: str = "") -> Traits:
        """Write small objects under a name of our own, wrongly on purpose, and see what is refused. They are removed again."""
        key = f"{prefix}.labledger-probe-{secrets.token_hex(8)}"
        data = secrets.token_bytes(32)
        right = {"Key": key, "Body": data, "ChecksumSHA256": b64(hashlib.sha256(data).digest())}
        wrong = hashlib.sha256(b"wrong").digest()
        try:
            conditional = True
            try:
                await patience.through(lambda: self.ask("put_object", tally, IfNoneMatch="*", **right))
            except S3Error as error:
                if error.status == 412:
                    pass  # our own first try, whose answer was lost
                elif error.status in (400, 501):
                    conditional = False  # it does not know the header, and says so
                    await patience.through(lambda: self.ask("put_object", tally, **right))
                else:
                    raise
            if conditional:
                conditional = await self._refused(tally, patience, (409, 412), IfNoneMatch="*", **right)
            asked = self.place.checksum
            if asked not in ("probe", "md5"):
                return Traits(asked, True, conditional)  # a person has said so; AWS is known to compare it
            if asked == "probe" and await self._refused(
                tally, patience, (400,), **{**right, "ChecksumSHA256": b64(wrong)}
            ):
                return Traits("sha256", True, conditional)
            md5 = {"Key": key, "Body": data, "ContentMD5": b64(wrong[:16])}
            return Traits("md5", await self._refused(tally, patience, (400,), **md5), conditional)
        finally:
            try:
                await self.ask("delete_object", tally, Key=key)
            except DeliveryFailed as error:
                log.debug("the probe %s stays: %s", key, error)  # 32 bytes; some stores do not let anything be removed

    async def _refused(self, tally: Tally, patience: Patience, how: tuple[int, ...], **request: Any) -> bool:
        """Whether the store says no to this PUT, in one of these ways."""

        async def put() -> bool:
            try:
                await self.ask("put_object", tally, **request)
            except S3Error as error:
                if error.status in how:
                    return True
                raise
            return False

        return await patience.through(put)

    # -- reading -----------------------------------------------------------------------------------------------------

    async def head(self, key: str, tally: Tally, version: str | None = None) -> dict[str, Any] | None:
        """What the store knows of an object, or None. Names of metadata are lower-cased: some stores change them."""
        more = {"VersionId": version} if version else {}
        try:
            found = await self.ask("head_object", tally, Key=key, ChecksumMode="ENABLED", **more)
        except S3Error as error:
            if error.status == 404 and error.code != "NoSuchBucket":
                return None
            raise
        told: Mapping[str, str] = found.get("Metadata") or {}
        found["Metadata"] = {name.lower(): value for name, value in told.items()}
        return found

    async def read(
        self,
        key: str,
        into: Callable[[bytes], Awaitable[None] | None],
        tally: Tally,
        patience: Patience,
        version: str | None = None,
    ) -> int:
        """Read an object to its end, in order; a connection that breaks is taken up where it broke. Answers the size."""
        at, etag, tries, whole = 0, "", 0, 0
        more: dict[str, Any] = {"VersionId": version} if version else {}
        while True:
            try:
                again = {"Range": f"bytes={at}-", "IfMatch": etag} if at else {}
                got = await self.ask("get_object", tally, Key=key, **more, **again)
                etag = str(got.get("ETag") or "")
                # A store that does not know ranges sends all of it again.
                skip = at if at and "ContentRange" not in got else 0
                whole = at - skip + int(got["ContentLength"])
                async with got["Body"] as body:
                    while piece := await body.read(1 << 18):
                        if skip >= len(piece):
                            skip -= len(piece)
                            continue
                        piece, skip = piece[skip:], 0
                        done = into(piece)
                        if done is not None:
                            await done
                        at += len(piece)
                        patience.progress()
                if at < whole:
                    raise S3Error("unreachable", f"{self.where} broke off at byte {at:,} of {whole:,} of {key}")
                return at
            except Exception as error:
                if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
                    if not isinstance(error, aiohttp.ClientError):
                        raise  # of `into`: the disk here is full
                if at and at >= whole:
                    return at
                await patience.wait(failure(error, "get_object", self.where), tries)
                tries += 1


#: botocore's sessions are not made for threads, but one of them keeps what it has read for all clients of this process.
_MAKING = threading.Lock()


@cache
def _session() -> Any:
    return importlib.import_module("aiobotocore.session").get_session()


def _without_expect(params: dict[str, Any], **_: Any) -> None:
    params["headers"].pop("Expect", None)


def _host(url: str | None) -> str:
    return urlsplit(url).netloc.rpartition("@")[2] if url else ""
