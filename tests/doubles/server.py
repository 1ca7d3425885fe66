"""What the doubles of outside systems have in common: a real HTTP server on loopback, with switches for its faults.

    async with Pinata() as pinata:                        # in the test's own loop
        pinata.fail("drop_after", method="POST")          # stores, and says nothing: once
        ...
    with outside("pinata", tmp_path) as pinata:           # a process of its own, that outlives the workers a test kills
        pinata.fail("status", status=429, retry_after=2, times=3)
        pinata.seen()

Each fault holds for the next `times` requests that fit `method` and `path` (a regular expression, found anywhere in it):

    status      answers with `status` (and `retry_after`, `body`) and does nothing
    drop        reads the request, does nothing, and breaks the connection
    drop_after  does it, and breaks the connection instead of answering
    reset       breaks the connection after `after_bytes` of the body; what came until then is kept where the system does so
    slow        waits `seconds`, or until all is healed, then does it
    slow_after  does it, then waits `seconds` before it answers
    stall       takes nothing of the body after `after_bytes`, for `seconds`
"""

import argparse
import asyncio
import contextlib
import importlib
import json
import re
import subprocess
import sys
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from aiohttp import web

KINDS = ("status", "drop", "drop_after", "reset", "slow", "slow_after", "stall")


@dataclass
class Fault:
    kind: str
    times: int = 1
    method: str = ""
    path: str = ""
    status: int = 500
    retry_after: float | str | None = None
    body: str = "<html><head><title>Internal error</title></head><body>something broke</body></html>"
    headers: dict[str, str] = field(default_factory=dict)
    after_bytes: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        assert self.kind in KINDS, f"there is no fault {self.kind!r}"

    def fits(self, request: web.Request) -> bool:
        same_method = not self.method or request.method == self.method
        return self.times > 0 and same_method and re.search(self.path, request.path_qs) is not None


FAULT = web.RequestKey("fault", Fault)


class Broken(Exception):
    """The connection is broken off in the midst of a body."""


@dataclass
class Seen:
    """A request that came. `status` is 0 when it was not answered."""

    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    fault: str = ""


class Double(ABC):
    """An outside system. A subclass adds its routes to `app` in `routes`, and reads bodies with `body` or `pieces`.

    `switches` are attributes that may be set from outside the process too.
    """

    def __init__(self, state: Path | None = None) -> None:
        self.state = state
        self.faults: list[Fault] = []
        self.requests: list[Seen] = []
        self._healed = asyncio.Event()
        self.url = ""
        self._runner: web.AppRunner | None = None

    # -- what a subclass has ------------------------------------------------------------------------------------------

    @abstractmethod
    def routes(self, app: web.Application) -> None: ...

    def contents(self) -> Any:
        """What is stored, in JSON, for tests that look from another process."""
        return None

    # -- faults -------------------------------------------------------------------------------------------------------

    def fail(self, kind: str, **settings: Any) -> None:
        """From now on; see above."""
        self.faults.append(Fault(kind, **settings))

    def heal(self) -> None:
        self.faults.clear()
        self._healed.set()
        self._healed = asyncio.Event()

    def count(self, method: str = "", path: str = "") -> int:
        """How many such requests came."""
        return sum(1 for one in self.requests if (not method or one.method == method) and re.search(path, one.path))

    async def pieces(self, request: web.Request, size: int = 1 << 16) -> AsyncIterator[bytes]:
        """The body as it comes; a fault may end it with `Broken`, before which all that came was handed out."""
        fault = request.get(FAULT)
        left = fault.after_bytes if fault is not None and fault.kind in ("reset", "stall") else None
        while piece := await request.content.read(size if left is None else max(1, min(size, left))):
            if left is not None:
                if left <= 0:
                    assert fault is not None
                    if fault.kind == "stall":
                        await asyncio.sleep(fault.seconds)
                    raise Broken
                left -= len(piece)
            yield piece
        if left is not None:
            raise Broken  # the body was shorter than that

    async def body(self, request: web.Request) -> bytes:
        return b"".join([piece async for piece in self.pieces(request)])

    @web.middleware
    async def _faulty(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.path.startswith("/_double/"):
            return await handler(request)
        seen = Seen(request.method, request.path_qs, dict(request.headers))
        self.requests.append(seen)
        fault = next((one for one in self.faults if one.fits(request)), None)
        if fault is not None:
            fault.times -= 1
            seen.fault = fault.kind
            request[FAULT] = fault
        try:
            answer = await self._answer(request, handler, fault)
        except Broken:
            answer = None
        except web.HTTPException as error:
            seen.status = error.status
            raise
        if answer is None:
            if request.transport is not None:
                request.transport.abort()
            raise asyncio.CancelledError  # nothing is answered
        seen.status = answer.status
        return answer

    async def _answer(self, request: web.Request, handler: Any, fault: Fault | None) -> web.StreamResponse | None:
        match fault.kind if fault else "":
            case "status":
                assert fault is not None
                await self._swallow(request)
                headers = dict(fault.headers)
                if fault.retry_after is not None:
                    headers["Retry-After"] = str(fault.retry_after)
                kind = "text/html" if fault.body.startswith("<") else "application/json"
                return web.Response(status=fault.status, text=fault.body, content_type=kind, headers=headers)
            case "drop":
                await self._swallow(request)
                return None
            case "drop_after":
                await handler(request)
                return None
            case "slow":
                assert fault is not None
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._healed.wait(), fault.seconds)
            case "slow_after":
                assert fault is not None
                answer = await handler(request)
                await asyncio.sleep(fault.seconds)
                return answer
            case "reset" | "stall" if not request.body_exists:
                return None
            case _:
                pass
        return await handler(request)

    @staticmethod
    async def _swallow(request: web.Request) -> None:
        while await request.content.read(1 << 16):
            pass

    # -- its life -----------------------------------------------------------------------------------------------------

    async def start(self, port: int = 0) -> str:
        app = web.Application(middlewares=[self._faulty], client_max_size=1 << 40)
        app.router.add_post("/_double/faults", self._set_faults)
        app.router.add_post("/_double/switches", self._set_switches)
        app.router.add_get("/_double/seen", self._tell_seen)
        app.router.add_get("/_double/contents", self._tell_contents)
        self.routes(app)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        host, bound = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{bound}"
        return self.url

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # -- from another process -----------------------------------------------------------------------------------------

    async def _set_faults(self, request: web.Request) -> web.Response:
        self.faults = [Fault(**one) for one in await request.json()]
        return web.Response()

    async def _set_switches(self, request: web.Request) -> web.Response:
        for name, value in (await request.json()).items():
            assert hasattr(self, name), name
            setattr(self, name, value)
        return web.Response()

    async def _tell_seen(self, request: web.Request) -> web.Response:
        return web.json_response([asdict(one) for one in self.requests])

    async def _tell_contents(self, request: web.Request) -> web.Response:
        return web.json_response(self.contents())


class Outside:
    """A double in a process of its own, seen from a test. Its methods block; from a loop use `asyncio.to_thread`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._faults: list[dict[str, Any]] = []

    def fail(self, kind: str, **settings: Any) -> None:
        """Adds a fault to those that still hold as they were given."""
        self._faults.append(asdict(Fault(kind, **settings)))
        self._ask("/_double/faults", self._faults)

    def heal(self) -> None:
        self._faults = []
        self._ask("/_double/faults", [])

    def switch(self, **values: Any) -> None:
        self._ask("/_double/switches", values)

    def seen(self) -> list[Seen]:
        return [Seen(**one) for one in self._ask("/_double/seen")]

    def contents(self) -> Any:
        return self._ask("/_double/contents")

    def _ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never by a proxy
        with opener.open(urllib.request.Request(self.url + path, data), timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None


@contextlib.contextmanager
def outside(name: str, folder: Path, port: int = 0) -> Iterator[Outside]:
    """`tests.doubles.NAME` as a process, until the block ends. Its state and log are in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    at = folder / "url"
    at.unlink(missing_ok=True)
    words = [sys.executable, "-m", "tests.doubles.server", name, "--port", str(port), "--state", str(folder)]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=Path(__file__).parents[2])
    try:
        deadline = time.monotonic() + 60
        while not at.exists():
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        yield Outside(at.read_text())
    finally:
        process.kill()
        process.wait()


def double_class(name: str) -> type[Double]:
    """The double of that module (its class `DOUBLE`)."""
    return importlib.import_module(f"tests.doubles.{name}").DOUBLE


async def serve(double: Double, port: int, folder: Path | None) -> None:
    url = await double.start(port)
    print(url, flush=True)
    if folder is not None:
        part = folder / "url.part"
        part.write_text(url)
        part.replace(folder / "url")  # complete as soon as it is there
    await asyncio.Event().wait()


def main(name: str | None = None) -> None:
    """`python -m tests.doubles.NAME --port N --state DIR`, where NAME ends with `main("NAME")`."""
    parser = argparse.ArgumentParser()
    if name is None:
        parser.add_argument("name")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--state", type=Path)
    given = parser.parse_args()
    double = double_class(name or given.name)(given.state)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(double, given.port, given.state))


if __name__ == "__main__":
    main()
