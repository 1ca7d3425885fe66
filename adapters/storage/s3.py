"""The target of kind `s3`: files as objects of a bucket, on AWS or any store that speaks S3.

    [targets.archive]
    adapter = "storage.s3"
    options = { bucket = "lab", endpoint_url = "https://s3.example.org", prefix = "labledger/", key = "{scan_id}/{file_name}" }

An object is written only where nothing is (`If-None-Match: *`, where the store honours it), carries the delivery's id and the file's
SHA-256 as metadata, and is looked for before anything is sent: see `adapters/storage/s3_upload.py`. The receipt has what the
store said of it: ETag, version, its checksum, and what kind of store it was found to be.
"""

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from string import Formatter
from typing import Any

from pydantic import Field, field_validator

from adapters.storage.s3_store import KEY_BYTES, PARAMETER, VARIABLES, Patience, Place, S3Error, Store, b64
from adapters.storage.s3_upload import Leftover, Parcel, Upload, tidy
from adapters.web.client import Tally
from domain.ports import Arrived, Check, DeliveryFailed, Shipment, TargetContext

log = logging.getLogger("labledger.s3")

DAY_S = 86_400.0


class Options(Place):
    prefix: str = Field(default="", description="Put before each key. The janitor removes old uploads only below it.")
    key: str = Field(
        default="{sha256}/{file_name}",
        description="The key: {sha256}, {file_name}, {delivery_id}, and the options of the delivery, as {scan_id}.",
    )
    read_back: bool = Field(default=False, description="A verification reads every byte, whatever the store tells.")
    stale_days: float = Field(
        default=7.0, gt=0, description="Unfinished uploads below the prefix are removed after so long a silence. "
    )

    @field_validator("key")
    @classmethod
    def _plain_names(cls, key: str) -> str:
        for _, name, spec, conversion in Formatter().parse(key):
            if name is not None and (not name.isidentifier() or spec or conversion):
                raise ValueError(f"{{{name}}} is no plain name")
        return key


class Target:
    """One bucket, and the keys that deliveries get in it."""

    kind = "s3"
    Options = Options

    def __init__(self, name: str, options: Options, context: TargetContext) -> None:
        self._name, self._options = name, options
        self._store = Store(options, context.environ)
        self._tidied_at = float("-inf")

    def missing(self) -> Sequence[str]:
        return self._store.missing

    def describe(self) -> Mapping[str, Any]:
        """`store` is what the probe found, once something was delivered by this process."""
        options, traits = self._options, self._store.traits
        return {
            "endpoint": options.endpoint_url or "AWS",
            "region": self._store.region,
            "bucket": options.bucket,
            "key": options.prefix + options.key,
            "checksum": options.checksum,
            "store": traits.shown() if traits else None,
        }

    async def close(self) -> None:
        await self._store.close()

    # -- delivering --------------------------------------------------------------------------------------------------

    def key_of(self, shipment: Shipment) -> str:
        """The object's key. Raises `DeliveryFailed` when the template asks for what this delivery does not have."""
        known = {name: str(value) for name, value in shipment.options.items() if isinstance(value, str | int)}
        known |= {
            "sha256": shipment.sha256 or "",
            "file_name": shipment.file_name.replace("/", "_"),
            "delivery_id": str(shipment.delivery_id),
        }
        try:
            key = self._options.prefix + (shipment.key or self._options.key.format_map(known))
        except KeyError as error:
            have = ", ".join(f"{{{name}}}" for name in known)
            text = f"the key {self._options.key!r} needs {{{error.args[0]}}}, which this delivery does not have: {have}"
            raise DeliveryFailed("misconfigured", text) from None
        if not 0 < len(key.encode()) <= KEY_BYTES or key.startswith("/") or {"", ".", ".."} & set(key.split("/")):
            text = f"{key[:200]!r} cannot be a key: 1 to {KEY_BYTES:,} bytes, no empty, `.` or `..` part"
            raise DeliveryFailed("refused", text)
        return key

    async def deliver(self, shipment: Shipment) -> Arrived:
        if self.missing():
            raise DeliveryFailed("unauthorized", f"{self._name}: not set: {', '.join(self.missing())}")
        if shipment.path is None or shipment.sha256 is None:
            raise DeliveryFailed("misconfigured", f"{self._name} takes files, and this delivery has none")
        key = self.key_of(shipment)
        tally, patience = Tally(), Patience(self._options.patience_s)
        traits = await self._store.learn(tally, patience, self._options.prefix)
        await self._tidy_daily()
        parcel = Parcel(
            path=shipment.path,
            key=key,
            size=shipment.size,
            sha256=shipment.sha256,
            media_type=shipment.media_type,
            token=str(shipment.delivery_id),
        )
        upload = Upload(
            self._store, parcel, traits, keep=shipment.keep, report=shipment.report, tally=tally, patience=patience
        )
        stored = await upload.run(shipment.checkpoint)
        proof: dict[str, Any] = {
            "endpoint": self._options.endpoint_url or "AWS",
            "region": self._store.region,
            "bucket": self._options.bucket,
            "key": key,
            "version_id": stored.version_id,
            "etag": stored.etag,
            "checksum": stored.checksum and {"algorithm": traits.checksum, "value": stored.checksum},
            "part_size": stored.part_size,
            "size": shipment.size,
            "sha256": shipment.sha256,
            "delivery_id": parcel.token if stored.sent_by_us else None,
            "last_modified": stored.modified,
            "request_id": stored.request_id,
            "read_back": stored.read_back,
            "store": traits.shown(),
        }
        return Arrived(
            outcome="stored" if stored.sent_by_us else "existed",
            location=f"s3://{self._options.bucket}/{key}",
            proof=proof,
            bytes_sent=tally.bytes_sent,
            requests=tally.requests,
        )

    async def tidy(self, *, dry_run: bool = False) -> list[Leftover]:
        """The janitor: remove multipart uploads below our prefix that got no part for `stale_days`."""
        older_s = self._options.stale_days * DAY_S
        return await tidy(self._store, self._options.prefix, older_s, datetime.now(UTC), Tally(), dry_run=dry_run)

    async def _tidy_daily(self) -> None:
        if not self._options.prefix or time.monotonic() - self._tidied_at < DAY_S:
            return
        self._tidied_at = time.monotonic()
        try:
            for one in await self.tidy():
                log.info("%s: removed the upload of %s, begun %s and not gone on with", self._name, one.key, one.begun)
        except DeliveryFailed as error:
            log.info("%s: old uploads were not looked for: %s", self._name, error)  # the right to list may be missing

    # -- verifying ---------------------------------------------------------------------------------------------------

    async def verify(self, proof: Mapping[str, Any], sha256: str | None, size: int) -> Sequence[Check]:
        tally, patience = Tally(), Patience(self._options.patience_s)
        key, version = str(proof["key"]), proof.get("version_id")
        place = f"s3://{self._options.bucket}/{key}"
        if proof.get("bucket") != self._options.bucket:
            text = f"the receipt is for the bucket {proof.get('bucket')!r}, this target has {self._options.bucket!r}"
            return [Check("bucket", False, text)]
        head = await patience.through(lambda: self._store.head(key, tally, version))
        if head is None:
            return [Check("there", False, f"{place} is not there any more")]
        checks = [Check("there", True, place)]

        def compare(name: str, have: Any, want: Any) -> None:
            same = have == want
            checks.append(Check(name, same, f"{have}" if same else f"it is {have}, the receipt says {want}"))

        compare("size", int(head["ContentLength"]), size)
        compare("etag", str(head.get("ETag", "")).strip('"'), proof.get("etag"))
        if proof.get("delivery_id"):
            compare("delivery", head["Metadata"].get("delivery-id"), proof["delivery_id"])
        told: Mapping[str, Any] = proof.get("checksum") or {}
        if told:
            compare("checksum", head.get(PARAMETER[told["algorithm"]]), told["value"])
        if sha256 is not None and (self._options.read_back or not told):
            digest = hashlib.sha256()
            await self._store.read(key, digest.update, tally, patience, version)
            compare("sha256", digest.hexdigest(), sha256)
        elif sha256 is not None:
            compare("sha256", head["Metadata"].get("sha256", sha256), sha256)
        return checks

    # -- testing -----------------------------------------------------------------------------------------------------

    async def test(self) -> Sequence[Check]:
        if self.missing():
            names = ", ".join(f"{name} (or {variable})" for name, variable in VARIABLES.items())
            return [Check("credentials", False, f"not set: {', '.join(self.missing())}. A key has two parts: {names}")]
        try:
            return await self._steps()
        except Exception as error:  # by its contract it says what is wrong, and never raises
            return [Check("test", False, f"{type(error).__name__}: {error}")]

    async def _steps(self) -> list[Check]:
        store, options, checks = self._store, self._options, list[Check]()
        tally, patience = Tally(), Patience(0)
        key = f"{options.prefix}.labledger-test-{secrets.token_hex(8)}"
        data = f"written by labledger to test {self._name}\n".encode()
        digest = hashlib.sha256(data)

        async def step(name: str, run: Callable[[], Coroutine[Any, Any, str]]) -> bool:
            try:
                checks.append(Check(name, True, await run()))
            except DeliveryFailed as error:
                checks.append(Check(name, False, str(error)))
            return checks[-1].ok

        async def write() -> str:
            await store.ask("put_object", tally, Key=key, Body=data, ContentMD5=b64(hashlib.md5(data).digest()))  # noqa: S324
            return f"{len(data)} bytes as {key}"

        async def read() -> str:
            got = hashlib.sha256()
            await store.read(key, got.update, tally, patience)
            if got.digest() != digest.digest():
                raise DeliveryFailed("mismatch", "other bytes came back")
            return "the same bytes came back"

        async def delete() -> str:
            await store.ask("delete_object", tally, Key=key)
            return "removed again"

        async def traits() -> str:
            found = store.traits = await store.probe(tally, patience, options.prefix)
            checked = (
                f"compares {found.checksum}" if found.compares else "compares no checksum: what is stored is read back"
            )
            kept = (
                "refuses to overwrite" if found.conditional else "ignores If-None-Match: it is only looked beforehand"
            )
            return f"{checked}; {kept}"

        async def leftovers() -> str:
            if not options.prefix:
                return "without a `prefix` they are not looked for: give the bucket a lifecycle rule that removes them"
            found = await self.tidy(dry_run=True)
            return f"{len(found)} unfinished uploads are older than {options.stale_days:g} days"

        try:  # one request tells three things
            await store.ask("list_objects_v2", tally, MaxKeys=1, Prefix=options.prefix)
        except DeliveryFailed as error:
            return self._how_far(error)
        checks += [Check("endpoint", True, store.where), Check("credentials", True, "the access key is known")]
        checks.append(Check("bucket", True, options.bucket))
        if not await step("write", write):
            return checks
        await step("read", read)
        await step("delete", delete)
        await step("what the store checks", traits)
        await step("unfinished uploads", leftovers)
        return checks

    def _how_far(self, error: DeliveryFailed) -> list[Check]:
        """How far the first request came, by what was answered."""
        if not (isinstance(error, S3Error) and error.status):
            return [Check("endpoint", False, str(error))]
        checks = [Check("endpoint", True, self._store.where)]
        if error.kind == "unauthorized":
            return [*checks, Check("credentials", False, str(error))]
        return [*checks, Check("credentials", True, "the access key is known"), Check("bucket", False, str(error))]
