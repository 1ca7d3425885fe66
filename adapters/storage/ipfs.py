"""Files kept on IPFS, by Pinata or by a Kubo node. The CID is computed here before anything is sent, and must be the one that comes back.

    look:    is it there already, under the CID that we computed? Then nothing is sent
    send:    the service takes the bytes, and says what it calls them
    compare: the same CID is proof that the same bytes arrived. Another one may be that of another profile, which is found out by
             computing them all: the receipt then holds the profile that explains it, beside the one that was expected. What none
             explains is not what was sent

Safe to repeat: both services name by content, so the same bytes are there once however often they are sent.
"""

import asyncio
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from adapters.storage.cid import PROFILES, Cutter, Digests, digest_file, directory, parse
from adapters.storage.kubo import Kubo, KuboOptions
from adapters.storage.pinata import FREE_PLAN, Pinata, PinataOptions
from adapters.storage.pinning import Kept, Load, Service
from adapters.web.client import HttpOptions, tally
from domain.errors import Refused
from domain.ports import Arrived, Check, DeliveryFailed, Shipment, TargetContext


class IpfsOptions(BaseModel):
    """Either Pinata or a node; with neither, the node on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pinata: PinataOptions | None = Field(default=None, description="Keep files in an account at Pinata.")
    kubo: KuboOptions | None = Field(default=None, description="Keep files on a Kubo node.")
    profile: str | None = Field(
        default=None, description=f"How the CID is made: {', '.join(PROFILES)}. Else as the service does by itself."
    )
    http: HttpOptions | None = Field(
        default=None,
        description="Time-outs and pace; to Pinata 60 requests a minute (its free plan) unless said otherwise.",
    )

    @field_validator("profile")
    @classmethod
    def _known(cls, profile: str | None) -> str | None:
        if profile is not None and profile not in PROFILES:
            raise ValueError(f"there is no profile {profile!r}; there are {', '.join(PROFILES)}")
        return profile

    @model_validator(mode="after")
    def _one(self) -> "IpfsOptions":
        if self.pinata is not None and self.kubo is not None:
            raise ValueError("give pinata or kubo, not both: two services are two targets")
        if self.pinata is not None and self.pinata.car and self.pinata.network == "private":
            raise ValueError("Pinata takes CAR files on its public network only")
        return self


class Target:
    """One service."""

    kind = "ipfs"
    Options = IpfsOptions

    def __init__(self, name: str, options: IpfsOptions, context: TargetContext) -> None:
        self._service: Service
        if options.pinata is not None:
            self._service = Pinata(name, options.pinata, options.http or FREE_PLAN, context.environ)
        else:
            self._service = Kubo(name, options.kubo or KuboOptions(), options.http or HttpOptions(), context.environ)
        self._name = name
        self._profile = PROFILES[options.profile or self._service.profile]

    def missing(self) -> Sequence[str]:
        return self._service.missing()

    def describe(self) -> Mapping[str, Any]:
        return {**self._service.describe(), "profile": self._profile.name}

    async def close(self) -> None:
        await self._service.close()

    # -- delivering ----------------------------------------------------------------------------------------------------

    async def deliver(self, shipment: Shipment) -> Arrived:
        if shipment.path is None:
            raise DeliveryFailed("misconfigured", f"{self._name} keeps files, and this delivery has none")
        with tally() as made:
            shipment.report(0, "computing the CID")
            digests = await _digest(shipment.path, [self._profile.name])
            if shipment.sha256 is not None and digests.sha256 != shipment.sha256:
                text = f"the file has the SHA-256 {digests.sha256}, and was taken with {shipment.sha256}"
                raise DeliveryFailed("changed", text)
            load = Load(
                path=shipment.path,
                sha256=digests.sha256,
                profile=self._profile,
                root=digests.roots[self._profile.name],
                name=shipment.key or shipment.file_name,
                media_type=shipment.media_type,
                checkpoint=shipment.checkpoint or {},
                keep=shipment.keep,
                report=shipment.report,
                labels={"delivery": str(shipment.delivery_id)},
            )
            # Asked before anything is sent: the answer to an earlier attempt may have been lost.
            kept = await self._service.find(load.root.cid)
            if kept is None and shipment.attempt > 1:
                kept = await self._service.again(load)
            if kept is None or kept.cid == "pending":
                kept = await self._service.add(load)
            proof = await self._proof(kept, load, shipment.file_name)
        outcome = "existed" if kept.existed else "stored"
        return Arrived(outcome, f"ipfs://{proof['cid']}", proof, made.bytes_sent, made.requests)

    async def _proof(self, kept: Kept, load: Load, file_name: str) -> dict[str, Any]:
        expected = {"profile": load.profile.name, "cid": load.root.cid}
        proof = {
            **self._service.describe(),
            **kept.details,
            **expected,
            "cid": kept.cid,
            "sha256": load.sha256,
            "bytes": load.root.node.size,
        }
        if kept.cid == load.root.cid:
            return proof
        found = await _explained(kept.cid, load.path, {load.name, file_name})
        if found is None:
            text = (
                f"{self._name} says it has {kept.cid}, and the file is {load.root.cid} ({load.profile.name}); no other "
                f"profile gives what it says either ({', '.join(PROFILES)}), so it does not have these bytes"
            )
            raise DeliveryFailed("mismatch", text)
        return proof | found | {"expected": expected}

    # -- verifying -----------------------------------------------------------------------------------------------------

    async def verify(self, proof: Mapping[str, Any], sha256: str | None, size: int) -> Sequence[Check]:
        cid, profile = str(proof["cid"]), PROFILES[str(proof["profile"])]
        with tally():
            kept = await self._service.find(cid)
            if kept is None:
                return [Check("kept", False, f"{self._name} does not have {cid}")]
            same = kept.cid == cid and kept.details.get("id") == proof.get("id", kept.details.get("id"))
            told = f"it lists {kept.cid}" + (f" as {kept.details['id']}" if "id" in kept.details else "")
            checks = [Check("kept", same, told)]
            if proof.get("wrapped"):
                return checks  # the CID is that of a directory
            digest, cutter = hashlib.sha256(), Cutter(profile)

            def take(piece: bytes) -> None:
                digest.update(piece)
                cutter.update(piece)

            try:
                if await self._service.fetch(cid, take):
                    checks += self._fetched(cutter, digest.hexdigest(), cid, sha256, size)
            except DeliveryFailed as error:
                if error.kind not in ("misconfigured", "refused", "server_error", "unauthorized"):
                    raise
                checks.append(Check("content", False, f"the bytes cannot be fetched: {error}"))
        return checks

    @staticmethod
    def _fetched(cutter: Cutter, digest: str, cid: str, sha256: str | None, size: int) -> list[Check]:
        root = cutter.finish()
        name = parse(root.cid).same_block(parse(cid))
        checks = [Check("content", name, f"{cutter.size:,} bytes were fetched; their CID is {root.cid}")]
        if sha256 is not None:
            good = digest == sha256 and cutter.size == size
            checks.append(Check("sha256", good, f"what was fetched has {digest}, the receipt {sha256}"))
        return checks

    async def test(self) -> Sequence[Check]:
        checks = list(await self._service.reach())
        if not all(check.ok for check in checks):
            return checks
        with tempfile.TemporaryDirectory(prefix="labledger-") as folder:
            path = Path(folder) / "labledger-test.txt"
            path.write_bytes(b"labledger was here " + os.urandom(16).hex().encode() + b"\n")
            return [*checks, *await self._round_trip(path)]

    async def _round_trip(self, path: Path) -> list[Check]:
        step, checks = "stores", list[Check]()

        async def forget(_: Mapping[str, Any]) -> None: ...

        try:
            digests = await _digest(path, [self._profile.name])
            root = digests.roots[self._profile.name]
            load = Load(
                path, digests.sha256, self._profile, root, path.name, "text/plain", {}, forget, lambda _, __: None
            )
            kept = await self._service.add(load)
            checks.append(Check(step, True, f"a file of {digests.size} bytes, as {kept.cid}"))
            step = "names it as we do"
            await self._proof(kept, load, path.name)
            checks.append(Check(step, True, f"profile {self._profile.name} (a file this small is the same in most)"))
            step = "removes"
            await self._service.remove(kept)
            checks.append(Check(step, True, "the file is gone again"))
        except DeliveryFailed as error:
            hint = ""
            if error.kind == "unauthorized" and step == "stores":
                hint = "; the token needs the right to write files (org:files:write), and the private network a plan that has it"
            checks.append(Check(step, False, f"{error}{hint}"))
        return checks


async def _digest(path: Path, profiles: Iterable[str]) -> Digests:
    """In a thread, which ends soon after we are cancelled."""
    cancelled = threading.Event()

    def told(_: int) -> None:
        if cancelled.is_set():
            raise InterruptedError

    try:
        return await asyncio.to_thread(digest_file, path, profiles, told)
    except asyncio.CancelledError:
        cancelled.set()
        raise
    except FileNotFoundError:
        raise DeliveryFailed("missing", f"the file is gone: {path.name}") from None


async def _explained(cid: str, path: Path, names: Iterable[str]) -> dict[str, Any] | None:
    """How the file can have that CID: another profile or version, or a directory around it. None when it cannot."""
    try:
        wanted = parse(cid)
    except Refused:
        return None
    digests = await _digest(path, PROFILES)
    for profile, root in digests.roots.items():
        if parse(root.cid).same_block(wanted):
            return {"profile": profile}
    for profile, root in digests.roots.items():
        for name in names:
            if parse(directory({name: root.node}, PROFILES[profile])[0]).same_block(wanted):
                return {"profile": profile, "wrapped": name}
    return None
