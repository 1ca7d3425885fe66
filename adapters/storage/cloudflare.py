"""Pointers in Cloudflare Workers KV, by its REST API.

It knows no order: the last write wins, a read may be a minute old, and so may be the news that there is nothing. So what is newest is
noted in a bucket of our own NATS first, by compare-and-set; then the newest is written, whoever it belongs to; and then it is looked
whether a newer one was noted meanwhile. Whatever the order in which deliveries of a key end, also of workers that were thought
dead, the last to end leaves the newest there.

One write per second and key is all it takes: what waits on one key is written once, as the newest. Many keys that wait go together.
"""

import asyncio
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from adapters.storage.pointers import Entry, Shelf, Written, order_in
from adapters.web.client import BadStatus, HttpOptions, Reply, Web, multipart
from bus.connection import Bus
from bus.streams import NEWEST
from domain.ports import Check, DeliveryFailed, FailureKind

TOKEN, ACCOUNT, NAMESPACE = "CLOUDFLARE_API_TOKEN", "CLOUDFLARE_ACCOUNT_ID", "KV_NAMESPACE_ID"
#: What its codes mean to us, where the status says less.
_KINDS: Mapping[int, FailureKind] = {
    10000: "unauthorized",
    10001: "refused",
    10013: "misconfigured",  # no such namespace
    7003: "misconfigured",  # no such account
}
NO_KEY = 10009
#: Of one key.
WRITE_EVERY_S = 1.0
#: Fewer keys than this are written one by one; more go together.
BULK_FROM, BULK_KEYS, BULK_BYTES = 4, 10_000, 90_000_000
#: Keys that come within this time of each other wait for each other.
GATHER_S = 0.05
#: A wait that it asks for and that is short is waited here, so often.
SHORT_WAIT_S, SHORT_WAITS = 5.0, 5
#: Values go through our own bucket too; a pointer is far smaller.
LARGEST, LARGEST_METADATA = 512 * 1024, 1024
#: 1200 requests in 5 minutes and token, then blocked for 5 minutes: 240 s of 4.6 a second, and 60 at once.
PACE = HttpOptions(requests_per_s=3.8, burst=60)


class CloudflareOptions(BaseModel):
    """A namespace in an account at Cloudflare."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: SecretStr | None = Field(default=None, description=f"An API token; else the variable {TOKEN}.")
    account: str = Field(default="", description=f"The account's id; else the variable {ACCOUNT}.")
    namespace: str = Field(default="", description=f"The namespace's id; else the variable {NAMESPACE}.")
    url: str = Field(default="https://api.cloudflare.com/client/v4", description="Where its API is.")
    path: str = Field(
        default="/accounts/{account}/storage/kv/namespaces/{namespace}",
        description="The path of a namespace below it.",
    )
    ttl_s: int | None = Field(default=None, ge=60, description="A pointer that is not renewed is gone after so long.")


class Cloudflare:
    """One namespace."""

    def __init__(
        self,
        name: str,
        options: CloudflareOptions,
        http: HttpOptions,
        environ: Mapping[str, str],
        nats: Callable[[], Awaitable[Bus]],
    ) -> None:
        token = options.token.get_secret_value() if options.token else environ.get(TOKEN, "")
        self._given = {
            TOKEN: token.strip(),
            ACCOUNT: options.account or environ.get(ACCOUNT, ""),
            NAMESPACE: options.namespace or environ.get(NAMESPACE, ""),
        }
        self._name, self._options = name, options
        self._shelf = Shelf(nats, NEWEST)
        self._base = options.url.rstrip("/") + options.path.format(
            account=quote(self._given[ACCOUNT], safe=""), namespace=quote(self._given[NAMESPACE], safe="")
        )
        self._web = Web(
            name,
            options.url,
            options=http,
            credentials={"Authorization": f"Bearer {self._given[TOKEN]}"},
            secrets=[self._given[TOKEN]],
        )
        self._writer = Writer(self._write_one, self._write_many)

    def missing(self) -> Sequence[str]:
        return [name for name, value in self._given.items() if not value]

    def describe(self) -> Mapping[str, Any]:
        told = {"service": "cloudflare", "address": self._options.url}
        return told | {"account": self._given[ACCOUNT], "namespace": self._given[NAMESPACE]}

    async def close(self) -> None:
        await self._writer.close()
        await self._web.close()
        await self._shelf.close()

    def check(self, key: str, entry: Entry) -> None:
        if len(entry.value) > LARGEST:
            text = f"the value has {len(entry.value):,} bytes, at most {LARGEST:,} are sent: keep the content elsewhere"
            raise DeliveryFailed("refused", text)
        if (size := len(_json(entry.metadata))) > LARGEST_METADATA:
            text = f"the metadata has {size:,} bytes, Cloudflare takes {LARGEST_METADATA:,}: put less beside the value"
            raise DeliveryFailed("refused", text)

    # -- moving forward ------------------------------------------------------------------------------------------------

    async def advance(self, key: str, entry: Entry) -> Written:
        noted = self._noted(key)
        before, _ = await self._shelf.read(noted)
        if before is None or before.order == entry.order:
            # Asked only where our own notes say too little: requests are few (1200 in 5 minutes).
            standing = await self.read(key)
            if standing is not None and standing.order >= entry.order:
                return Written(standing, False, {})  # an earlier attempt wrote it, or a lab whose notes are lost
        newest, _, _ = await self._shelf.advance(noted, entry)
        if newest.order > entry.order:
            return Written(newest, False, {})  # whoever noted it writes it, or wrote it
        while True:
            written = await self._writer.write(key, newest)
            now, _ = await self._shelf.read(noted)
            if now is None or now.order <= written.order:
                return Written(written, written.order == entry.order, {})
            newest = now  # what we wrote may have covered it

    def _noted(self, key: str) -> str:
        return f"{self._given[ACCOUNT]}/{self._given[NAMESPACE]}/{key}"

    async def read(self, key: str) -> Entry | None:
        """Its metadata is not asked for: the order stands in the value too, and requests are few."""
        reply = await self._ask("GET", f"/values/{quote(key, safe='')}", enveloped=False)
        return None if reply is None else Entry(reply.body, {}, order_in(reply.body))

    # -- writing -------------------------------------------------------------------------------------------------------

    def _life(self) -> dict[str, str]:
        # A write replaces the time to live as well, so it is said each time.
        return {} if self._options.ttl_s is None else {"expiration_ttl": str(self._options.ttl_s)}

    async def _write_one(self, key: str, entry: Entry) -> None:
        form = multipart({"value": entry.value.decode(), "metadata": _json(entry.metadata).decode()})
        await self._ask("PUT", f"/values/{quote(key, safe='')}", params=self._life(), body=form)

    async def _write_many(self, entries: Mapping[str, Entry]) -> Sequence[str]:
        """Answers the keys that it did not take."""
        life = {} if self._options.ttl_s is None else {"expiration_ttl": self._options.ttl_s}
        body = [
            {"key": key, "value": entry.value.decode(), "metadata": dict(entry.metadata)} | life
            for key, entry in entries.items()
        ]
        reply = await self._ask("PUT", "/bulk", json_body=body)
        result = _result(reply) if reply is not None else None
        failed = cast("dict[str, Any]", result).get("unsuccessful_keys") if isinstance(result, dict) else None
        return [str(key) for key in cast("list[Any]", failed or [])]

    # -- asking --------------------------------------------------------------------------------------------------------

    async def _ask(self, method: str, path: str, *, enveloped: bool = True, **settings: Any) -> Reply | None:
        """The answer; None when there is no such key. Raises `DeliveryFailed`."""
        try:
            reply = await self._web.request(method, self._base + path, accept=(200,), **settings)
        except BadStatus as error:
            self._heed(error.reply)
            return self._meant(error)
        self._heed(reply)
        if enveloped and reply.fields().get("success") is not True:
            # It happens, with status 200.
            return self._meant(BadStatus("server_error", f"{self._name}: {method} {reply.url} had no success", reply))
        return reply

    def _meant(self, error: BadStatus) -> None:
        """None for "no such key"; raises what anything else means. Key and namespace are both 404; their codes differ."""
        codes, words = _errors(error.reply)
        if error.status == 404 and codes == [NO_KEY]:
            return
        if not codes:
            raise error from None
        meant: list[FailureKind] = [_KINDS[code] for code in codes if code in _KINDS]
        kind = meant[0] if meant else error.kind
        text = f"{self._name}: Cloudflare says: {self._web.clean(words)}"
        if kind == "misconfigured":
            text += f"; see {ACCOUNT} and {NAMESPACE}"
        raise BadStatus(kind, text, error.reply, retry_after_s=error.retry_after_s) from None

    def _heed(self, reply: Reply) -> None:
        """Stop before the account's budget is used up: over it, all is blocked for five minutes."""
        left = re.search(r";\s*r=(\d+)\s*;\s*t=(\d+)", reply.headers.get("Ratelimit", ""))
        if left and int(left[1]) == 0:
            self._web.bucket.pause(float(left[2]))

    # -- testing -------------------------------------------------------------------------------------------------------

    async def test(self) -> Sequence[Check]:
        if missing := self.missing():
            return [Check("credentials", False, f"not set: {', '.join(missing)}")]
        checks, step = list[Check](), "namespace"
        key = f"labledger:test:{secrets.token_hex(8)}"
        try:
            await self._ask("GET", "/keys?limit=10")
            checks.append(Check(step, True, f"the token may read namespace {self._given[NAMESPACE]}"))
            step = "writes"
            await self._write_one(key, Entry(b"{}", {"order": 1}, 1))
            checks.append(Check(step, True, f"a value, as {key}"))
            step = "reads"
            standing = await self.read(key)
            same = standing is not None and standing.value == b"{}"
            text = "the value came back" if same else "the value is not there yet, which may take a minute"
            checks.append(Check(step, same, text))
            step = "removes"
            await self._ask("DELETE", f"/values/{quote(key, safe='')}")
            checks.append(Check(step, True, "the value is gone again"))
        except DeliveryFailed as error:
            hint = ""
            if error.kind == "unauthorized":
                hint = f"; the token needs the right Workers KV Storage: Edit on this account ({TOKEN}, {ACCOUNT})"
            checks.append(Check(step, False, f"{error}{hint}"))
        return checks


@dataclass
class _Waiting:
    entry: Entry
    told: list["asyncio.Future[Entry]"] = field(default_factory=list["asyncio.Future[Entry]"])
    waits: int = 0


class Writer:
    """Writes what waits, the newest of each key, each key at most once a second; many keys together."""

    def __init__(
        self,
        one: Callable[[str, Entry], Awaitable[None]],
        many: Callable[[Mapping[str, Entry]], Awaitable[Sequence[str]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._one, self._many, self._clock = one, many, clock
        self._waiting: dict[str, _Waiting] = {}
        self._free_at: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    async def write(self, key: str, entry: Entry) -> Entry:
        """Answers what was written under the key: this, or what was newer. Raises `DeliveryFailed`."""
        told: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        self._wait(key, _Waiting(entry, [told]))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await told

    def _wait(self, key: str, new: _Waiting) -> None:
        there = self._waiting.get(key)
        if there is not None:
            newer = max(there.entry, new.entry, key=lambda entry: entry.order)
            new = _Waiting(newer, there.told + new.told, max(there.waits, new.waits))
        self._waiting[key] = new

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER_S)
            now = self._clock()
            self._free_at = {key: at for key, at in self._free_at.items() if at > now}
            ready = [key for key in self._waiting if key not in self._free_at][:BULK_KEYS]
            if not ready:
                await asyncio.sleep(max(0.0, min(self._free_at[key] for key in self._waiting) - now))
                continue
            batch, size = dict[str, _Waiting](), 0
            for key in ready:
                size += len(self._waiting[key].entry.value) + LARGEST_METADATA
                if batch and size > BULK_BYTES:
                    break
                batch[key] = self._waiting.pop(key)
            try:
                await self._send(batch)
            except BaseException as error:
                for waiting in batch.values():
                    _tell(waiting, error if isinstance(error, Exception) else asyncio.CancelledError())
                if not isinstance(error, Exception):
                    for waiting in self._waiting.values():
                        _tell(waiting, asyncio.CancelledError())
                    self._waiting.clear()
                    raise

    async def _send(self, batch: dict[str, _Waiting]) -> None:
        if len(batch) < BULK_FROM:
            await asyncio.gather(*(self._send_one(key, waiting) for key, waiting in batch.items()))
            return
        for key in batch:
            self._free_at[key] = self._clock() + WRITE_EVERY_S
        failed = set(await self._many({key: waiting.entry for key, waiting in batch.items()}))
        for key, waiting in batch.items():
            self._free_at[key] = self._clock() + WRITE_EVERY_S
            error = DeliveryFailed("server_error", f"Cloudflare did not take {key} among {len(batch)} keys")
            _tell(waiting, error if key in failed else waiting.entry)

    async def _send_one(self, key: str, waiting: _Waiting) -> None:
        try:
            await self._one(key, waiting.entry)
        except DeliveryFailed as error:
            wait = max(error.retry_after_s or 0.0, WRITE_EVERY_S)
            if error.kind == "throttled" and wait <= SHORT_WAIT_S and waiting.waits < SHORT_WAITS:
                # Another process wrote this key just now. Until then a newer one may come.
                waiting.waits += 1
                self._free_at[key] = self._clock() + wait
                self._wait(key, waiting)
            else:
                _tell(waiting, error)
        else:
            self._free_at[key] = self._clock() + WRITE_EVERY_S
            _tell(waiting, waiting.entry)


def _tell(waiting: _Waiting, what: Entry | BaseException) -> None:
    for told in waiting.told:
        if told.done():
            continue  # whoever asked was cancelled
        if isinstance(what, Entry):
            told.set_result(what)
        elif isinstance(what, asyncio.CancelledError):
            told.cancel()
        else:
            told.set_exception(what)


def _json(metadata: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(metadata), ensure_ascii=False, separators=(",", ":")).encode()


def _result(reply: Reply) -> Any:
    return reply.fields().get("result")


def _errors(reply: Reply) -> tuple[list[int], str]:
    """The codes and the words of an envelope; none when it is none (errors of the edge are HTML)."""
    try:
        told = json.loads(reply.body)
        errors = cast("list[dict[str, Any]]", told["errors"])
        return [int(error["code"]) for error in errors], "; ".join(
            f"{error.get('message')} ({error['code']})" for error in errors
        )
    except (ValueError, KeyError, TypeError):
        return [], ""
