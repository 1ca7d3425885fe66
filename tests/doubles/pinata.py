"""Pinata, both of its hosts in one: `URL/v3` for uploads, `URL` for all else.

Beside the common faults: `profile` (how it cuts), `wrong_cid`, `pending` (so many answers say that the CID is not known yet),
`largest_form`, `private_allowed`. A `reset` in the midst of a PATCH keeps what came until then.
"""

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

from aiohttp import web

from adapters.storage.cid import PROFILES, Cutter, text
from tests.doubles.server import Double, main

JWT = "the-right-token"


@dataclass
class Upload:
    length: int
    metadata: dict[str, str]
    id: str = field(default_factory=lambda: str(uuid4()))
    data: bytearray = field(default_factory=bytearray)
    cid: str = ""


class Pinata(Double):
    def __init__(self, state: Path | None = None) -> None:
        super().__init__(state)
        self.tokens = [JWT]
        #: Tokens that may only read.
        self.readers: list[str] = []
        self.files: list[dict[str, Any]] = []
        self.bytes: dict[str, bytes] = {}
        self.uploads: dict[str, Upload] = {}
        self.groups = ["g-1"]
        self.profile = "v1-256k-174"
        self.wrong_cid = False
        self.pending = 0
        self.largest_form = 100_000_000
        self.private_allowed = False

    def contents(self) -> Any:
        return self.files

    def routes(self, app: web.Application) -> None:
        add = app.router.add_route
        add("GET", "/data/testAuthentication", self.authentication)
        add("POST", "/v3/files", self.upload)
        add("HEAD", "/v3/files/{id}/{token}", self.offset)
        add("PATCH", "/v3/files/{id}/{token}", self.part)
        add("GET", "/v3/files/{network}", self.listed)
        add("GET", "/v3/files/{network}/{id}", self.one)
        add("DELETE", "/v3/files/{network}/{id}", self.delete)
        add("GET", "/ipfs/{cid}", self.gateway)

    def _must_know(self, request: web.Request, write: bool = False) -> None:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer" or token not in (*self.tokens, *self.readers):
            raise web.HTTPUnauthorized(text='{"error":{"reason":"INVALID_CREDENTIALS","details":"Token is malformed"}}')
        if write and token in self.readers:
            raise web.HTTPForbidden(
                text='{"error":{"reason":"NO_SCOPES_FOUND","details":"missing scope org:files:write"}}'
            )

    async def authentication(self, request: web.Request) -> web.Response:
        self._must_know(request)
        return web.json_response({"message": "Congratulations! You are communicating with the Pinata API!"})

    # -- small and large uploads ---------------------------------------------------------------------------------------

    async def upload(self, request: web.Request) -> web.Response:
        self._must_know(request, write=True)
        if "Upload-Length" in request.headers:
            return self._begin(request)
        boundary = request.headers["Content-Type"].partition("boundary=")[2]
        fields: dict[str, str] = {}
        data, name, mime = None, "", ""
        body = await self.body(request)
        if len(body) > self.largest_form:
            raise web.HTTPRequestEntityTooLarge(self.largest_form, len(body), text="Request body too large")
        for part in body.split(b"--" + boundary.encode())[1:-1]:
            head, _, value = part[2:-2].partition(b"\r\n\r\n")
            words = head.decode()
            field_name = words.split('name="')[1].split('"')[0]
            if "filename=" in words:
                name, data = words.split('filename="')[1].split('"')[0], value
                mime = words.partition("Content-Type: ")[2].split("\r\n")[0]
            else:
                fields[field_name] = value.decode()
        if data is None:
            raise web.HTTPBadRequest(text="no file")
        fields.setdefault("name", name)
        return web.json_response({"data": self._store(data, fields, mime)})

    def _begin(self, request: web.Request) -> web.Response:
        if request.headers.get("Tus-Resumable") != "1.0.0":
            raise web.HTTPPreconditionFailed(headers={"Tus-Version": "1.0.0"})
        try:
            metadata = {
                word.split(" ")[0]: base64.b64decode(word.split(" ")[1], validate=True).decode()
                for word in request.headers["Upload-Metadata"].split(",")
            }
        except (binascii.Error, IndexError, KeyError) as error:
            raise web.HTTPBadRequest(text="bad Upload-Metadata") from error
        metadata.setdefault("name", metadata.get("filename", ""))
        self._check(metadata)
        token = uuid4().hex
        upload = self.uploads[token] = Upload(int(request.headers["Upload-Length"]), metadata)
        return web.Response(
            status=201, headers={"Location": f"/v3/files/{upload.id}/{token}", "Tus-Resumable": "1.0.0"}
        )

    def _upload(self, request: web.Request) -> Upload:
        self._must_know(request, write=True)
        upload = self.uploads.get(request.match_info["token"])
        if upload is None or upload.id != request.match_info["id"]:
            raise web.HTTPNotFound(text="upload not found")
        return upload

    async def offset(self, request: web.Request) -> web.Response:
        upload = self._upload(request)
        headers = {"Upload-Offset": str(len(upload.data)), "Upload-Length": str(upload.length)}
        return web.Response(headers=headers | {"Cache-Control": "no-store", "Tus-Resumable": "1.0.0"})

    async def part(self, request: web.Request) -> web.Response:
        upload = self._upload(request)
        if request.headers.get("Content-Type") != "application/offset+octet-stream":
            raise web.HTTPUnsupportedMediaType
        if int(request.headers["Upload-Offset"]) != len(upload.data):
            raise web.HTTPConflict(text="offset differs")
        async for piece in self.pieces(request):
            upload.data += piece
            if len(upload.data) > upload.length:
                raise web.HTTPRequestEntityTooLarge(upload.length, len(upload.data))
        headers = {"Upload-Offset": str(len(upload.data)), "Tus-Resumable": "1.0.0"}
        if len(upload.data) == upload.length:
            stored = self._store(bytes(upload.data), upload.metadata, upload.metadata.get("filetype", ""), upload.id)
            headers["upload-cid"] = stored["cid"]
        return web.Response(status=204, headers=headers)

    def _check(self, fields: dict[str, str]) -> dict[str, str]:
        """What it says no to; answers the labels."""
        if fields.get("network", "private") == "private" and not self.private_allowed:
            raise web.HTTPForbidden(text='{"error":"private files are not part of your plan"}')
        try:
            labels = json.loads(fields.get("keyvalues", "{}"))
        except ValueError:
            raise web.HTTPBadRequest(text="keyvalues is no JSON") from None
        if len(labels) > 10 or not all(isinstance(value, str) for value in labels.values()):
            raise web.HTTPBadRequest(text="keyvalues must be at most 10 strings")
        if "group_id" in fields and fields["group_id"] not in self.groups:
            raise web.HTTPBadRequest(text="group not found")
        if fields.get("car") == "true" and fields.get("network") != "public":
            raise web.HTTPBadRequest(text="car is for public files")
        return labels

    def _store(self, data: bytes, fields: dict[str, str], mime: str, file_id: str | None = None) -> dict[str, Any]:
        labels = self._check(fields)
        cid = self._root(data) if fields.get("car") == "true" else self._named(data, fields.get("cid_version", "v1"))
        for file in self.files:
            if file["cid"] == cid:
                return file | {"is_duplicate": True}
        file = {
            "id": file_id or str(uuid4()),
            "name": fields["name"],
            "cid": cid,
            "size": len(data),
            "number_of_files": 1,
            "mime_type": mime,
            "group_id": fields.get("group_id"),
            "keyvalues": labels,
            "network": fields["network"],
            "created_at": "2026-11-25T12:00:00Z",
            "vectorized": False,
        }
        self.files.append(file)
        self.bytes[cid] = data
        return self._told(file)

    def _named(self, data: bytes, version: str) -> str:
        if self.wrong_cid:
            data = b"another file" + data
        cutter = Cutter(PROFILES["unixfs-v0-2015" if version == "v0" else self.profile])
        cutter.update(data)
        return cutter.finish().cid

    @staticmethod
    def _root(car: bytes) -> str:
        """The root that a CAR names, whose block it must hold."""
        header = car[1 : 1 + car[0]]
        root = header[13 : 12 + header[11]]
        if root not in car[1 + car[0] :]:
            raise web.HTTPBadRequest(text="the root block is missing")
        assert hashlib.sha256(car[car.rindex(root) + len(root) :]).digest() == root[-32:]
        return text(root)

    # -- looking -------------------------------------------------------------------------------------------------------

    def _told(self, file: dict[str, Any]) -> dict[str, Any]:
        if self.pending > 0:
            self.pending -= 1
            return file | {"cid": "pending"}
        return file

    async def listed(self, request: web.Request) -> web.Response:
        self._must_know(request)
        asked = {name: values[0] for name, values in parse_qs(request.query_string).items()}
        found = [file for file in self.files if file["network"] == request.match_info["network"]]
        if "cid" in asked:
            found = [] if self.pending else [file for file in found if file["cid"] == asked["cid"]]
        for name, value in asked.items():
            if name.startswith("keyvalues["):
                found = [file for file in found if file["keyvalues"].get(name[10:-1]) == value]
        files = [self._told(file) for file in found[: int(asked.get("limit", 10))]]
        return web.json_response({"data": {"files": files or None, "next_page_token": ""}})

    def _file(self, request: web.Request) -> dict[str, Any]:
        for file in self.files:
            if file["id"] == request.match_info["id"] and file["network"] == request.match_info["network"]:
                return file
        raise web.HTTPNotFound(text='{"error":"file not found"}')

    async def one(self, request: web.Request) -> web.Response:
        self._must_know(request)
        return web.json_response({"data": self._told(self._file(request))})

    async def delete(self, request: web.Request) -> web.Response:
        self._must_know(request, write=True)
        self.files.remove(self._file(request))
        return web.json_response({"data": None})

    async def gateway(self, request: web.Request) -> web.Response:
        data = self.bytes.get(request.match_info["cid"])
        if data is None:
            raise web.HTTPNotFound(text="no such content")
        return web.Response(body=data)


DOUBLE = Pinata

if __name__ == "__main__":
    main("pinata")
