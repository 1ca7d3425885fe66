"""A Kubo node as a keeper of files on IPFS, by its RPC: https://docs.ipfs.tech/reference/kubo/rpc/.

The node's settings would change the CID, so all that matters for it is said in each call. An error that comes after the first byte of an
answer is in a trailer that no HTTP client shows, so success is: the last line names the CID computed here, and the node lists it as pinned.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from adapters.storage.pinning import Kept, Load
from adapters.web.client import BadStatus, FilePart, HttpOptions, Reply, Web, multipart
from domain.ports import Check, DeliveryFailed, FailureKind

AUTHORIZATION = "KUBO_AUTHORIZATION"
#: `Code` of an error of the node that means something to us.
_KINDS: Mapping[int, FailureKind] = {3: "throttled", 4: "unauthorized"}


class KuboOptions(BaseModel):
    """A node of one's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(default="http://127.0.0.1:5001/api/v0", description="The address of its RPC.")
    authorization: SecretStr | None = Field(
        default=None,
        description=f"The header of that name, where the node asks for one (Bearer ..., Basic ...); else {AUTHORIZATION}.",
    )
    add_s: float = Field(default=600.0, gt=0, description="Wait so long for the node to store what it was sent.")


class Kubo:
    """One node."""

    profile = "unixfs-v1-2025"

    def __init__(self, name: str, options: KuboOptions, http: HttpOptions, environ: Mapping[str, str]) -> None:
        self._name, self._options = name, options
        secret = (
            options.authorization.get_secret_value() if options.authorization else environ.get(AUTHORIZATION, "")
        ).strip()
        credentials = {"Authorization": secret} if secret else {}
        self._web = Web(
            name, options.url, options=http, credentials=credentials, secrets=[secret, *secret.split(" ", 1)[1:]]
        )

    def missing(self) -> Sequence[str]:
        return []

    def describe(self) -> Mapping[str, Any]:
        return {"service": "kubo", "address": self._options.url}

    async def close(self) -> None:
        await self._web.close()

    async def _call(self, command: str, arguments: Mapping[str, str], **settings: Any) -> Reply:
        try:
            return await self._web.request("POST", f"/{command}?{urlencode(arguments)}", accept=(200,), **settings)
        except BadStatus as error:
            raise self._meant(error) from None

    def _meant(self, error: BadStatus) -> BadStatus:
        """A 500 is any failed command; what failed is in its words."""
        try:
            told = json.loads(error.reply.body)
            message, code = str(told["Message"]), int(told["Code"])
        except (ValueError, KeyError, TypeError):
            if error.status == 404:
                text = f"{self._name}: {error.reply.url} is no RPC of Kubo; give its address with /api/v0"
                return BadStatus("misconfigured", text, error.reply)
            return error
        kind: FailureKind = "full" if "no space left" in message else _KINDS.get(code, error.kind)
        text = f"{self._name}: the node says: {self._web.clean(message)[:300]}"
        return BadStatus(kind, text, error.reply, retry_after_s=error.retry_after_s)

    async def find(self, cid: str) -> Kept | None:
        try:
            reply = await self._call("pin/ls", {"arg": cid, "type": "recursive"})
        except BadStatus as error:
            if error.status == 500 and "not pinned" in str(error):
                return None
            raise
        keys = reply.fields().get("Keys")
        return Kept(cid, {"pin": "recursive"}, existed=True) if isinstance(keys, dict) and cid in keys else None

    async def again(self, load: Load) -> Kept | None:
        return None  # the node names it as it was told to

    async def add(self, load: Load) -> Kept:
        profile = load.profile
        arguments = {
            "cid-version": str(profile.version),
            "raw-leaves": str(profile.raw_leaves).lower(),
            "chunker": f"size-{profile.chunk}",
            "max-file-links": str(profile.width),
            "hash": "sha2-256",
            "trickle": "false",
            "wrap-with-directory": "false",
            "pin": "true",
            "pin-name": load.name.encode()[:255].decode(errors="ignore"),
            "progress": "false",
            "quieter": "false",
        }
        body = multipart({}, FilePart(load.path, load.name))
        body.progress = lambda sent, size: load.report(100 * sent / size, "sending to the node")
        reply = await self._call("add", arguments, body=body, answer_s=self._options.add_s)
        lines = [line for line in reply.body.splitlines() if line.strip()]
        try:
            told = cast("dict[str, Any]", json.loads(lines[-1]))
            cid, tsize = str(told["Hash"]), int(told["Size"])
        except (IndexError, ValueError, KeyError, TypeError):
            # The answer was cut: perhaps by an error that only its trailer named. Adding again is harmless.
            raise DeliveryFailed("server_error", f"{self._name}: the node broke its answer off") from None
        if await self.find(cid) is None:
            raise DeliveryFailed("server_error", f"{self._name}: the node took the file and has not pinned {cid}")
        return Kept(cid, {"pin": "recursive", "dag_size": tsize})

    async def fetch(self, cid: str, into: Callable[[bytes], None]) -> bool:
        await self._call("cat", {"arg": cid, "offline": "true"}, into=into)
        return True

    async def remove(self, kept: Kept) -> None:
        try:
            await self._call("pin/rm", {"arg": kept.cid})
        except BadStatus as error:
            if "not pinned" not in str(error):
                raise

    async def reach(self) -> Sequence[Check]:
        try:
            version = (await self._call("version", {})).fields().get("Version")
        except DeliveryFailed as error:
            if error.kind == "unauthorized":
                text = f"the node refuses the credentials: set {AUTHORIZATION} as its API.Authorizations say ({error})"
                return [Check("node", False, text)]
            if error.kind == "unreachable":
                return [Check("node", False, f"{error}; is the daemon running, and is its RPC on this address?")]
            return [Check("node", False, str(error))]
        return [Check("node", True, f"Kubo {version} answers at {self._options.url}")]
