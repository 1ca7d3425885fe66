"""Says what it got: for the tests of the HTTP client and of the doubles' own faults."""

import hashlib
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.doubles.server import Double


class Echo(Double):
    """Says what it got."""

    def __init__(self, state: Path | None = None) -> None:
        super().__init__(state)
        self.kept: list[bytes] = []

    def routes(self, app: web.Application) -> None:
        app.router.add_route("*", "/echo/{rest:.*}", self.echo)
        app.router.add_post("/form", self.form)
        app.router.add_get("/away", self.away)
        app.router.add_get("/large", self.large)

    async def echo(self, request: web.Request) -> web.Response:
        came = bytearray()
        self.kept.append(b"")
        async for piece in self.pieces(request):
            came += piece
            self.kept[-1] = bytes(came)
        told = {"sha256": hashlib.sha256(came).hexdigest(), "size": len(came), "path": request.raw_path}
        return web.json_response(told | {"authorization": request.headers.get("Authorization")})

    async def form(self, request: web.Request) -> web.Response:
        post = await request.post()
        file = post["file"]
        assert isinstance(file, web.FileField)
        data = file.file.read()
        told = {"name": post["name"], "file_name": file.filename, "type": file.content_type, "size": len(data)}
        return web.json_response(told | {"sha256": hashlib.sha256(data).hexdigest()})

    async def away(self, request: web.Request) -> web.Response:
        raise web.HTTPFound("http://elsewhere.example/login?next=secret")

    async def large(self, request: web.Request) -> web.Response:
        return web.Response(body=bytes(3 << 20))

    def contents(self) -> Any:
        return [body.hex() for body in self.kept]


DOUBLE = Echo
