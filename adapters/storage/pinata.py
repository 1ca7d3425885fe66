"""Pinata (API v3) as a keeper of files on IPFS: https://docs.pinata.cloud.

Small files go as one form, larger ones by tus 1.0 to the same address, in parts; after a break the upload goes on where Pinata says it
stands. Its documentation and its SDK disagree in places; what the SDK does works.

How Pinata cuts files is not published. With `car` it gets the blocks as we cut them, and can come to no other CID.
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, cast
from urllib.parse import quote, urljoin, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from adapters.storage.cid import CarFile
from adapters.storage.pinning import Kept, Load
from adapters.web.client import BadStatus, Body, FilePart, HttpOptions, MadePart, NoAnswer, Web, multipart
from domain.ports import Check, DeliveryFailed

JWT = "PINATA_JWT"
#: 60 requests a minute; the other plans have 250, 500 and 6000. Over it Pinata answers 429, without saying for how long.
FREE_PLAN = HttpOptions(requests_per_s=0.9, burst=6)
#: A pause after which a file that is "pending" is asked for again: doubled each time.
FIRST_LOOK_S, LONGEST_LOOK_S = 1.0, 15.0


class PinataOptions(BaseModel):
    """An account at Pinata."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    jwt: SecretStr | None = Field(default=None, description=f"The account's token; else the variable {JWT}.")
    network: Literal["public", "private"] = Field(
        default="public", description="Where files are kept; private needs a plan of theirs that has it."
    )
    group: str = Field(default="", description="The id of the group that files are put into.")
    keyvalues: dict[str, str] = Field(default={}, description="Labels of each file, at most 8.")
    car: bool = Field(
        default=False, description="Send the blocks as cut here (public only), so that the CID is certain."
    )
    upload_url: str = Field(default="https://uploads.pinata.cloud/v3", description="Where files are sent.")
    api_url: str = Field(
        default="https://api.pinata.cloud", description="Where all else is asked, without the version."
    )
    gateway: str = Field(
        default="", description="A gateway that files are fetched from to verify them, as https://NAME.mypinata.cloud."
    )
    large_bytes: int = Field(
        default=94_371_840, ge=0, description="Larger files are sent in parts that can be resumed."
    )
    part_bytes: int = Field(default=52_428_801, gt=0, description="The size of such a part.")
    pending_s: float = Field(default=90.0, ge=0, description="How long an attempt waits for a CID that is pending.")

    @field_validator("keyvalues")
    @classmethod
    def _few(cls, keyvalues: dict[str, str]) -> dict[str, str]:
        if len(keyvalues) > 8:
            raise ValueError("at most 8 labels: Pinata takes 10, and two are ours (sha256, delivery)")
        return keyvalues


class Pinata:
    """One account."""

    profile = "v1-256k-174"

    def __init__(self, name: str, options: PinataOptions, http: HttpOptions, environ: Mapping[str, str]) -> None:
        self._options = options
        self._jwt = (options.jwt.get_secret_value() if options.jwt else environ.get(JWT, "")).strip()
        self._files = f"{options.api_url.rstrip('/')}/v3/files/{options.network}"
        self._gateway = Web(f"{name}'s gateway", options.gateway, options=http) if options.gateway else None
        self._web = Web(
            name,
            options.upload_url,
            options.api_url,
            options=http,
            credentials={"Authorization": f"Bearer {self._jwt}"},
            secrets=[self._jwt],
        )

    def missing(self) -> Sequence[str]:
        return [] if self._jwt else [JWT]

    def describe(self) -> Mapping[str, Any]:
        options = self._options
        told = {"service": "pinata", "address": options.upload_url, "network": options.network}
        return told | ({"group": options.group} if options.group else {}) | ({"car": True} if options.car else {})

    async def close(self) -> None:
        await self._web.close()
        if self._gateway is not None:
            await self._gateway.close()

    # -- looking -------------------------------------------------------------------------------------------------------

    async def find(self, cid: str) -> Kept | None:
        return await self._first({"cid": cid})

    async def again(self, load: Load) -> Kept | None:
        if file_id := load.checkpoint.get("file"):
            kept = await self._by_id(str(file_id))
            if kept is not None:
                return await self._settled(kept, load)
        kept = await self._first({"keyvalues[sha256]": load.sha256})
        return None if kept is None else await self._settled(kept, load)

    async def _first(self, question: Mapping[str, str]) -> Kept | None:
        """The first file that fits. One whose CID is pending does too."""
        reply = await self._web.request("GET", self._files, params={**question, "limit": "1"})
        files = _data(reply.fields()).get("files")
        for file in cast("list[Any]", files if isinstance(files, list) else []):
            return self._kept(file, existed=True)
        return None

    async def _by_id(self, file_id: str) -> Kept | None:
        reply = await self._web.request("GET", f"{self._files}/{quote(file_id, safe='')}", accept=(200, 404))
        return None if reply.status == 404 else self._kept(_data(reply.fields()), existed=True)

    def _kept(self, file: Any, *, existed: bool = False) -> Kept:
        if not isinstance(file, dict) or not isinstance(cid := cast("dict[str, Any]", file).get("cid"), str):
            raise DeliveryFailed("server_error", "Pinata tells of a file without a CID")
        told = cast("dict[str, Any]", file)
        details = {name: told[name] for name in ("id", "created_at", "size", "group_id") if told.get(name) is not None}
        network = {"network": self._options.network}
        return Kept(cid, network | details, existed or told.get("is_duplicate") is True)

    async def _settled(self, kept: Kept, load: Load) -> Kept:
        """As soon as it has a CID; "pending" is none. The file's id is kept, so that a later attempt goes on waiting."""
        if kept.cid != "pending":
            return kept
        file_id = str(kept.details["id"])
        await load.keep({"file": file_id})

        async def named() -> Kept | None:
            found = await self._by_id(file_id)
            return found if found is not None and found.cid != "pending" else None

        found = await self._waited(named, load, "Pinata computes the CID")
        if found is None:
            raise DeliveryFailed("waiting", f"Pinata has the file ({file_id}) and has not computed its CID yet")
        return Kept(found.cid, found.details, kept.existed)

    async def _waited(self, look: Callable[[], Awaitable[Kept | None]], load: Load, note: str) -> Kept | None:
        """What is there at last; None when it is not after `pending_s`."""
        left, pause = self._options.pending_s, FIRST_LOOK_S
        while left > 0:
            load.report(100, note)
            await asyncio.sleep(min(pause, left))
            left, pause = left - pause, min(pause * 2, LONGEST_LOOK_S)
            if (found := await look()) is not None:
                return found
        return None

    # -- sending -------------------------------------------------------------------------------------------------------

    async def add(self, load: Load) -> Kept:
        car = CarFile(load.path, load.profile, load.root) if self._options.car else None
        size = car.size if car is not None else load.root.node.size
        kept = await (self._by_parts(load, car, size) if size > self._options.large_bytes else self._at_once(load, car))
        return await self._settled(kept, load)

    def _fields(self, load: Load) -> dict[str, str]:
        options = self._options
        # Found by these when the CID turns out to be another than we thought.
        labels = {**options.keyvalues, **load.labels, "sha256": load.sha256}
        fields = {
            "network": options.network,
            "keyvalues": json.dumps(labels),
            "cid_version": f"v{load.profile.version}",
        }
        if options.group:
            fields["group_id"] = options.group
        if options.car:
            fields["car"] = "true"
        return fields

    async def _at_once(self, load: Load, car: CarFile | None) -> Kept:
        if car is None:
            file = FilePart(load.path, load.name, load.media_type)
        else:
            file = MadePart(load.name, "application/vnd.ipld.car", car.size, car.pieces)
        body = multipart({**self._fields(load), "name": load.name}, file)
        body.progress = lambda sent, size: load.report(100 * sent / size, "sending to Pinata")
        reply = await self._web.request("POST", f"{self._options.upload_url}/files", body=body)
        return self._kept(_data(reply.fields()))

    async def _by_parts(self, load: Load, car: CarFile | None, size: int) -> Kept:
        what = {"size": size, "root": load.root.cid, "car": car is not None, "network": self._options.network}
        before = load.checkpoint
        place = str(before.get("upload", "")) if {key: before.get(key) for key in what} == what else ""
        offset = await self._offset(place) if place else None
        if offset is None:
            # An upload whose address was lost on its way is forgotten by Pinata in time; nothing refers to it.
            place, offset = await self._begin(load, size), 0
            await load.keep({**what, "upload": place})
        cid = ""
        while offset < size:
            length = min(self._options.part_bytes, size - offset)
            body = self._body(load, car, offset, length, size)
            try:
                reply = await self._web.request(
                    "PATCH", place, body=body, headers=_tus({"Upload-Offset": str(offset)}), accept=(200, 204)
                )
                cid = reply.headers.get("upload-cid", cid)
                there = int(reply.headers.get("Upload-Offset", offset + length))
            except (NoAnswer, BadStatus) as error:
                if isinstance(error, BadStatus) and error.status < 500 and error.status not in (409, 423):
                    raise
                # What became of it is asked, never guessed. Without progress it is for the next attempt.
                found = await self._offset(place)
                if found is None:
                    raise DeliveryFailed("server_error", "Pinata no longer knows the upload; it begins anew") from None
                there = found
                if there <= offset:
                    raise
            if not offset < there <= size:
                raise DeliveryFailed("server_error", f"Pinata says {there} of {size} bytes, and had {offset} before")
            offset = there
        return await self._arrived(load, place, cid)

    async def _begin(self, load: Load, size: int) -> str:
        file_type = "application/vnd.ipld.car" if self._options.car else load.media_type
        told = {"filename": load.name, "filetype": file_type, **self._fields(load)}
        metadata = ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in told.items())
        reply = await self._web.request(
            "POST",
            f"{self._options.upload_url}/files",
            params={"X-Upload-Option-Cid-Version": told["cid_version"]},  # the SDK asks it here too
            headers=_tus({"Upload-Length": str(size), "Upload-Metadata": metadata}),
            accept=(201,),
        )
        if not (place := reply.headers.get("Location")):
            raise DeliveryFailed("server_error", "Pinata began an upload and did not say where")
        return urljoin(reply.url, place)

    async def _offset(self, place: str) -> int | None:
        """How much of an upload is there; None when it is no more."""
        reply = await self._web.request("HEAD", place, headers=_tus({}), accept=(200, 204, 403, 404, 410))
        offset = reply.headers.get("Upload-Offset", "")
        return int(offset) if reply.status in (200, 204) and offset.isdigit() else None

    def _body(self, load: Load, car: CarFile | None, offset: int, length: int, size: int) -> Body:
        if car is None:
            part = FilePart(load.path, load.name, offset=offset, length=length)
        else:
            part = MadePart(load.name, "", length, lambda: car.pieces(offset, length))
        body = Body([part], "application/offset+octet-stream")
        body.progress = lambda sent, _: load.report(100 * (offset + sent) / size, "sending to Pinata")
        return body

    async def _arrived(self, load: Load, place: str, cid: str) -> Kept:
        """What became of an upload that is complete: by its id, which its address holds, else by its CID, else by its label."""
        file_id = urlsplit(place).path.partition("/files/")[2].split("/")[0]

        async def listed() -> Kept | None:
            kept = await self._by_id(file_id) if file_id else None
            kept = kept or await self._first({"cid": cid or load.root.cid})
            return kept or await self._first({"keyvalues[sha256]": load.sha256})

        kept = await listed() or await self._waited(listed, load, "Pinata has all of the file and does not list it yet")
        if kept is None:
            # It has the bytes and made no file of them, perhaps for ever. What comes after all is a duplicate then.
            await load.keep({})
            raise DeliveryFailed("server_error", "Pinata has all of the file and makes no file of it; it is sent anew")
        return Kept(kept.cid, kept.details)

    # -- the rest ------------------------------------------------------------------------------------------------------

    async def fetch(self, cid: str, into: Callable[[bytes], None]) -> bool:
        if self._gateway is None:
            return False
        await self._gateway.request("GET", f"{self._options.gateway.rstrip('/')}/ipfs/{cid}", into=into)
        return True

    async def remove(self, kept: Kept) -> None:
        file_id = quote(str(kept.details["id"]), safe="")
        await self._web.request("DELETE", f"{self._files}/{file_id}", accept=(200, 204, 404))

    async def reach(self) -> Sequence[Check]:
        if not self._jwt:
            return [Check("token", False, f"no token: make one in Pinata's API keys, and set {JWT}")]
        try:
            await self._web.request("GET", f"{self._options.api_url.rstrip('/')}/data/testAuthentication")
        except BadStatus as error:
            if error.kind == "unauthorized":
                text = f"Pinata does not know the token, or it was revoked: make one in its API keys, and set {JWT}"
                return [Check("token", False, f"{text} ({error})")]
            return [Check("token", False, str(error))]
        except DeliveryFailed as error:
            return [Check("token", False, str(error))]
        return [Check("token", True, f"{self._options.api_url} knows it")]


def _tus(headers: Mapping[str, str]) -> dict[str, str]:
    return {"Tus-Resumable": "1.0.0", **headers}


def _data(fields: dict[str, Any]) -> dict[str, Any]:
    data = fields.get("data")
    if not isinstance(data, dict):
        raise DeliveryFailed("server_error", "Pinata's answer has no data")
    return cast("dict[str, Any]", data)
