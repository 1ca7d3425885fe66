"""A Kubo node by its RPC.

Beside the common faults: `imports` (what the node's settings make of options that are not given), `cut_answers` (so many answers
to `add` end before their last line, as after an error that only the trailer names), `unpinned` (adds and does not pin), `full`,
`authorization` (the header that it asks for).
"""

import json
from pathlib import Path
from typing import Any

from aiohttp import web

from adapters.storage.cid import Cutter, Profile
from tests.doubles.server import Double, main


def failed(message: str, code: int = 0, status: int = 500) -> web.Response:
    return web.json_response({"Message": message, "Code": code, "Type": "error"}, status=status)


class Kubo(Double):
    def __init__(self, state: Path | None = None) -> None:
        super().__init__(state)
        self.blocks: dict[str, bytes] = {}
        self.pins: list[str] = []
        self.imports = {"cid-version": "0", "raw-leaves": "", "chunker": "size-262144", "max-file-links": "174"}
        self.cut_answers = 0
        self.unpinned = 0
        self.full = False
        self.wrong_cid = False
        self.authorization = ""
        self.adds = 0

    def contents(self) -> Any:
        return {"pins": self.pins, "adds": self.adds}

    def routes(self, app: web.Application) -> None:
        app.router.add_route("*", "/api/v0/{command:.*}", self.command)

    async def command(self, request: web.Request) -> web.StreamResponse:
        if request.method != "POST":
            raise web.HTTPMethodNotAllowed(request.method, ["POST"], text="405 - Method Not Allowed")
        if "Mozilla" in request.headers.get("User-Agent", "") or "Origin" in request.headers:
            raise web.HTTPForbidden(text="403 - Forbidden")
        if self.authorization and request.headers.get("Authorization") != self.authorization:
            raise web.HTTPForbidden(text="Kubo RPC Access Denied: Please provide a valid authorization token")
        match request.match_info["command"]:
            case "version":
                return web.json_response({"Version": "0.43.0", "Commit": "", "Repo": "18"})
            case "add":
                return await self.add(request)
            case "pin/ls":
                cid = request.query["arg"]
                if cid not in self.pins:
                    return failed(f"path '{cid}' is not pinned")
                return web.json_response({"Keys": {cid: {"Type": "recursive", "Name": ""}}})
            case "pin/rm":
                cid = request.query["arg"]
                if cid not in self.pins:
                    return failed("not pinned or pinned indirectly")
                self.pins.remove(cid)
                return web.json_response({"Pins": [cid]})
            case "cat":
                cid = request.query["arg"]
                if cid not in self.blocks:
                    return failed(f"block was not found locally (offline): ipld: could not find {cid}")
                return web.Response(body=self.blocks[cid], content_type="text/plain")
            case _:
                raise web.HTTPNotFound(text="404 page not found")

    async def add(self, request: web.Request) -> web.StreamResponse:
        boundary = request.headers["Content-Type"].partition("boundary=")[2].encode()
        body = await self.body(request)
        head, _, rest = body.partition(b"\r\n\r\n")
        name = head.decode().split('filename="')[1].split('"')[0]
        data = rest[: rest.rindex(b"\r\n--" + boundary)]
        if self.full:
            return failed("write /data/ipfs/blocks/put-123: no space left on device")
        options = {**self.imports, **request.query}
        version = int(options["cid-version"])
        raw = options["raw-leaves"] == "true" if options["raw-leaves"] else version == 1
        chunk = int(options["chunker"].removeprefix("size-"))
        cutter = Cutter(Profile("", version, raw, chunk, int(options["max-file-links"])))
        cutter.update(b"another" + data if self.wrong_cid else data)
        root = cutter.finish()
        self.adds += 1
        self.blocks[root.cid] = data
        answer = web.StreamResponse(headers={"Content-Type": "application/json", "Trailer": "X-Stream-Error"})
        await answer.prepare(request)
        if self.cut_answers > 0:
            self.cut_answers -= 1
            await answer.write(b'{"Name":"' + name.encode())
            return answer
        if self.unpinned > 0:
            self.unpinned -= 1
        elif options.get("pin", "true") == "true" and root.cid not in self.pins:
            self.pins.append(root.cid)
        line = {"Name": name, "Hash": root.cid, "Size": str(root.node.tsize)}
        await answer.write(json.dumps(line).encode() + b"\n")
        return answer


DOUBLE = Kubo

if __name__ == "__main__":
    main("kubo")
