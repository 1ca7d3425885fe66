"""Cloudflare Workers KV by its REST API.

Beside the common faults: `refused_keys` (in bulk), `stale_s` (reads are so old), `no_success` (so many answers say `success: false`
with status 200), `budget` requests in five minutes, `write_every_s` of one key, `gzip`. Errors of the edge are HTML, as in life.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from aiohttp import web

from tests.doubles.server import Double, main

TOKEN, ACCOUNT, NAMESPACE = "cf-token", "acc-1", "ns-1"
PREFIX = "/client/v4/accounts/{account}/storage/kv/namespaces/{namespace}"


@dataclass
class Version:
    value: bytes | None
    metadata: Any
    at: float
    expires: float | None = None


@dataclass
class Key:
    versions: list[Version] = field(default_factory=list)
    written: float = float("-inf")


class Cloudflare(Double):
    def __init__(self, state: Path | None = None) -> None:
        super().__init__(state)
        self.tokens = [TOKEN]
        self.readers: list[str] = []
        self.keys: dict[str, Key] = {}
        self.refused_keys: list[str] = []
        self.stale_s = 0.0
        self.no_success = 0
        self.budget = 1200
        self.window_s = 300.0
        self.write_every_s = 1.0
        self.used: list[float] = []
        self.blocked_until = 0.0
        #: What was written to each key, in order.
        self.history: dict[str, list[Any]] = {}

    def contents(self) -> Any:
        return self.history

    def newest(self, key: str) -> Version | None:
        versions = self.keys[key].versions if key in self.keys else []
        return versions[-1] if versions and versions[-1].value is not None else None

    def routes(self, app: web.Application) -> None:
        app.router.add_route("*", PREFIX + "/{rest:.*}", self.handle)

    # -- the envelope --------------------------------------------------------------------------------------------------

    @staticmethod
    def envelope(result: Any, **more: Any) -> web.Response:
        return web.json_response({"result": result, "success": True, "errors": [], "messages": []} | more)

    @staticmethod
    def error(status: int, code: int, message: str, **headers: str) -> web.Response:
        told = {"result": None, "success": False, "errors": [{"code": code, "message": message}], "messages": []}
        return web.json_response(told, status=status, headers=headers)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in (*self.tokens, *self.readers):
            return self.error(401 if not token else 403, 10000, "Authentication error")
        if refusal := self._spend():
            return refusal
        if request.match_info["account"] != ACCOUNT:
            return self.error(
                404, 7003, f"Could not route to {request.path}, perhaps your object identifier is invalid?"
            )
        if request.match_info["namespace"] != NAMESPACE:
            return self.error(404, 10013, "get: 'namespace not found'")
        if request.method != "GET" and token in self.readers:
            return self.error(403, 10000, "Authentication error")
        # As it came: aiohttp would have decoded %2F already.
        rest = request.raw_path.split("?")[0].split(f"/{NAMESPACE}/", 1)[1]
        answer = await self._do(request, rest)
        used = len(self.used)
        answer.headers["Ratelimit"] = f'"default";r={max(0, self.budget - used)};t={int(self.window_s)}'
        answer.headers["Ratelimit-Policy"] = f'"burst";q={self.budget};w={int(self.window_s)}'
        if self.no_success > 0 and isinstance(answer, web.Response) and answer.content_type == "application/json":
            self.no_success -= 1
            return web.json_response({"result": None, "success": False, "errors": [], "messages": ["try later"]})
        return answer

    def _spend(self) -> web.Response | None:
        """One of the requests of the account; over the budget all is blocked."""
        now = time.monotonic()
        self.used = [at for at in self.used if at > now - self.window_s]
        if now < self.blocked_until or len(self.used) >= self.budget:
            self.blocked_until = max(self.blocked_until, now + self.window_s)
            wait = str(int(self.blocked_until - now) or 1)
            return web.Response(status=429, text="<html>Too many requests</html>", headers={"retry-after": wait})
        self.used.append(now)
        return None

    async def _do(self, request: web.Request, rest: str) -> web.Response:
        query = {name: values[0] for name, values in parse_qs(request.query_string).items()}
        first, _, key = rest.partition("/")
        if "/" in key or ":" in key or "!" in key:
            return self.error(404, 7003, f"Could not route to /{rest}")  # not percent-encoded
        key = unquote(key)
        match request.method, first:
            case "PUT", "values":
                return await self.put(request, key, query)
            case "GET", "values":
                version = self._seen(key)
                if version is None or version.value is None:
                    return self.error(404, 10009, "get: 'key not found'")
                headers = {"expiration": str(int(version.expires))} if version.expires else {}
                return web.Response(body=version.value, content_type="application/octet-stream", headers=headers)
            case "GET", "metadata":
                version = self._seen(key)
                if version is None or version.value is None:
                    return self.error(404, 10009, "get: 'key not found'")
                return self.envelope(version.metadata)
            case "DELETE", "values":
                if key in self.keys:
                    self.keys[key].versions.append(Version(None, None, time.monotonic()))
                return self.envelope(None)
            case "GET", "keys":
                return self.listed(query)
            case "PUT", "bulk":
                return await self.bulk(request)
            case _:
                return self.error(405, 10001, "method not allowed")

    def _seen(self, key: str) -> Version | None:
        """What a reader is told: as it was `stale_s` ago."""
        versions = self.keys[key].versions if key in self.keys else []
        old = [version for version in versions if version.at <= time.monotonic() - self.stale_s]
        version = old[-1] if old else None
        return None if version is not None and version.expires and version.expires < time.time() else version

    # -- writing -------------------------------------------------------------------------------------------------------

    async def put(self, request: web.Request, key: str, query: dict[str, str]) -> web.Response:
        body = await self.body(request)
        content_type = request.headers.get("Content-Type", "")
        metadata: Any = None
        if content_type.startswith("multipart/form-data"):
            fields = _fields(body, content_type.partition("boundary=")[2].encode())
            body = fields["value"]
            try:
                metadata = json.loads(fields.get("metadata", b"null"))
            except ValueError:
                return self.error(400, 10001, "metadata must be valid JSON")
        return self._write(key, body, metadata, query) or self.envelope(None)

    async def bulk(self, request: web.Request) -> web.Response:
        body = await self.body(request)
        if len(body) > 100_000_000:
            return self.error(413, 10001, "the body is too large")
        entries = json.loads(body)
        if len(entries) > 10_000:
            return self.error(400, 10001, "at most 10000 pairs")
        failed: list[str] = []
        for entry in entries:
            life = {name: str(entry[name]) for name in ("expiration", "expiration_ttl") if name in entry}
            refused = entry["key"] in self.refused_keys
            if refused or self._write(entry["key"], entry["value"].encode(), entry.get("metadata"), life):
                failed.append(entry["key"])
        return self.envelope({"successful_key_count": len(entries) - len(failed), "unsuccessful_keys": failed})

    def _write(self, key: str, value: bytes, metadata: Any, life: dict[str, str]) -> web.Response | None:
        if not 1 <= len(key.encode()) <= 512 or key in (".", ".."):
            return self.error(414, 10030, "UTF-8 encoded length of the key exceeds 512 bytes")
        if len(value) > 25 << 20:
            return self.error(413, 10046, "value is larger than 25 MiB")
        if metadata is not None and len(json.dumps(metadata)) > 1024:
            return self.error(413, 10047, "metadata is larger than 1024 bytes")
        if int(life.get("expiration_ttl", 60)) < 60:
            return self.error(400, 10001, "Invalid expiration_ttl of 59. Expiration TTL must be at least 60.")
        now = time.monotonic()
        at = self.keys.setdefault(key, Key())
        if now - at.written < self.write_every_s:
            return web.Response(
                status=429, text="<html>Too many writes to one key</html>", headers={"retry-after": "1"}
            )
        at.written = now
        expires = time.time() + int(life["expiration_ttl"]) if "expiration_ttl" in life else None
        at.versions.append(Version(value, metadata, now, expires))
        self.history.setdefault(key, []).append({"value": value.decode("utf-8", "replace"), "metadata": metadata})
        return None

    # -- listing -------------------------------------------------------------------------------------------------------

    def listed(self, query: dict[str, str]) -> web.Response:
        limit = int(query.get("limit", 1000))
        if not 10 <= limit <= 1000:
            return self.error(400, 10001, "limit must be between 10 and 1000")
        names = sorted((name for name in self.keys if name.startswith(query.get("prefix", ""))), key=str.encode)
        start = int(query.get("cursor") or 0)
        page = names[start : start + limit]
        # Removed keys leave pages that are empty and go on.
        result = [{"name": name, "metadata": self.newest(name).metadata} for name in page if self.newest(name)]  # type: ignore[union-attr]
        cursor = str(start + limit) if start + limit < len(names) else ""
        return self.envelope(result, result_info={"count": len(result), "cursor": cursor})


def _fields(body: bytes, boundary: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, value = part[2:-2].partition(b"\r\n\r\n")
        found[head.decode().split('name="')[1].split('"')[0]] = value
    return found


DOUBLE = Cloudflare

if __name__ == "__main__":
    main("cloudflare")
