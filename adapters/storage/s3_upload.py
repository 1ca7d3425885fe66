"""One file on its way to one key of a bucket: stored once, whole, and proven, whatever breaks on the way.

    look (HEAD) -> nothing there -> send -> look -> it is ours: prove it
         ^                            |
         '---- any end but a yes -----'

Nothing is sent before a look at what is there, and whatever went wrong, the next step is another look. So a lost answer is never
followed by a blind repetition: an object that carries our `delivery-id` is ours, however it got there.

A file of one part is one conditional PUT. A larger one is a multipart upload: its id is kept (`keep`) before the first byte is sent,
and whoever comes after a crash asks the store which parts it has (ListParts), sends the others, and completes it. Each part goes up
with its checksum. The digest of the whole file is made from the very bytes whose parts' digests go along, in one pass, so a file that
is not what it was is noticed before it is completed.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from adapters.storage.s3_store import (
    LARGEST_PART,
    LEAST_PART,
    MIB,
    MOST_PARTS,
    OVERTAKEN,
    PARAMETER,
    Algorithm,
    Digest,
    Patience,
    S3Error,
    Store,
    Stretch,
    Traits,
    b64,
)
from adapters.web.client import FilePart, Tally
from domain.ports import DeliveryFailed, Report

log = logging.getLogger("labledger.s3")

#: What is read from disk and hashed at once.
PIECE = MIB
#: Parts of a file; the rest of the store's 10,000 is room for doubt.
PARTS = 9_500
#: How often a store may turn our bytes into others, or lose an upload, before a person should look.
ROUNDS = 4


def part_size(size: int, wish: int = 16 * MIB) -> int:
    """Equal parts (but for the last): `wish`, or as large as 9,500 of them must be. Raises `DeliveryFailed` beyond 48 TiB."""
    needed = -(-size // PARTS)
    if needed > LARGEST_PART:
        needed = -(-size // MOST_PARTS)
    found = max(LEAST_PART, wish, -(-needed // MIB) * MIB)
    if found > LARGEST_PART:
        raise DeliveryFailed("refused", f"{size:,} bytes are more than S3 takes in {MOST_PARTS:,} parts")
    return found


class Kept(BaseModel):
    """A multipart upload that was begun, as the ledger keeps it: all that another process needs to go on."""

    model_config = ConfigDict(frozen=True)

    bucket: str
    key: str
    upload_id: str
    part_size: int
    size: int
    sha256: str
    checksum: Algorithm


@dataclass(frozen=True)
class Parcel:
    """A file to be stored under a key. `token` tells our object from any other of that name."""

    path: Path
    key: str
    size: int
    sha256: str
    media_type: str
    token: str


@dataclass(frozen=True)
class Stored:
    """What is there. `sent_by_us`: also when an earlier attempt sent it and did not hear of it."""

    sent_by_us: bool
    etag: str
    version_id: str | None
    checksum: str | None
    checksum_type: str | None
    part_size: int | None
    modified: str | None
    read_back: bool
    request_id: str | None


class Lanes:
    """How many parts are on their way at once: half as many when the store asks to slow down, one more after each full round."""

    def __init__(self, most: int) -> None:
        self._most, self._width, self._busy = most, float(most), 0
        self._free = asyncio.Condition()

    async def take(self) -> None:
        async with self._free:
            await self._free.wait_for(lambda: self._busy < max(1, int(self._width)))
            self._busy += 1

    async def give(self) -> None:
        async with self._free:
            self._busy -= 1
            self._free.notify_all()

    def slower(self) -> None:
        self._width = max(1.0, self._width / 2)

    def well(self) -> None:
        self._width = min(float(self._most), self._width + 1 / self._width)


async def _no_keep(_: Mapping[str, Any]) -> None:
    return None


class Upload:
    """One attempt to bring a parcel to its key."""

    def __init__(
        self,
        store: Store,
        parcel: Parcel,
        traits: Traits,
        *,
        keep: Callable[[Mapping[str, Any]], Awaitable[None]] = _no_keep,
        report: Report = lambda _percent, _text: None,
        tally: Tally | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._store, self._parcel, self._traits = store, parcel, traits
        self._keep, self._report = keep, report
        self._tally = tally or Tally()
        self._patience = patience or Patience(store.place.patience_s)
        self._kept: Kept | None = None
        #: The same for all of this attempt, since the digests are of parts of it.
        self._part_size = part_size(parcel.size, store.place.part_mib * MIB)
        self._hashing: asyncio.Task[None] | None = None
        self._digests: list[bytes] = []
        self._whole = hashlib.sha256()
        self._check = Digest(traits.checksum)  # of all of it; only crc64nvme is told so to the store
        #: The store has said yes, and nothing was removed since.
        self._accepted = False
        self._removed = 0

    async def run(self, checkpoint: Mapping[str, Any] | None = None) -> Stored:
        """Bring it there. Safe to call again after any end. Raises `DeliveryFailed`: `conflict` when other bytes lie there."""
        self._kept = self._resumable(checkpoint)
        if self._kept is not None:
            self._part_size = self._kept.part_size
        rounds = tries = 0
        while True:
            found = await self._look()
            if found is not None:
                if not found.sent_by_us:
                    await self.abandon()
                return found
            if self._accepted:
                # It said yes and shows nothing: sending it again could make two of one, or hide what is wrong there.
                text = f"{self._store.where} has taken {self._parcel.key} and does not show it"
                await self._patience.wait(S3Error("waiting", text), tries)
                tries += 1
                continue
            try:
                await (self._put() if self._parcel.size <= self._part_size else self._multipart())
                self._accepted = True
            except S3Error as error:
                if error.code in OVERTAKEN:
                    rounds += 1
                if error.code in ("NoSuchUpload", "ConditionalRequestConflict", "OperationAborted"):
                    self._kept = None
                if rounds > ROUNDS:
                    raise
                await self._patience.wait(error, tries)
                tries += 1
            except DeliveryFailed as error:
                if error.kind in ("changed", "missing"):
                    await self.abandon()  # its parts are of other bytes
                raise

    async def abandon(self) -> None:
        """Let the store forget the parts it has of us. Safe to repeat; what cannot be asked now, the janitor does later."""
        kept, self._kept = self._kept, None
        if kept is not None:
            with suppress(DeliveryFailed):
                await self._ask("abort_multipart_upload", Key=kept.key, UploadId=kept.upload_id)

    # -- looking -----------------------------------------------------------------------------------------------------

    async def _look(self) -> Stored | None:
        """What lies under the key: nothing, ours, or the same from somebody else. Raises `conflict` for anything else.

        Ours with other bytes than we sent is removed, and nothing is there."""
        parcel = self._parcel
        head = await self._patience.through(lambda: self._store.head(parcel.key, self._tally))
        if head is None:
            return None
        ours = head["Metadata"].get("delivery-id") == parcel.token
        said, size = head["Metadata"].get("sha256"), int(head["ContentLength"])
        place = f"{self._store.place.bucket}/{parcel.key}"
        if not ours and (size != parcel.size or (said is not None and said != parcel.sha256)):
            raise DeliveryFailed("conflict", f"{place} is there already, with other content ({size:,} bytes)")
        by_reading = not await self._told_right(head, ours)
        wrong = await self._read_wrong() if by_reading else None
        if wrong is None:
            return self._stored(head, ours, by_reading)
        if not ours:
            raise DeliveryFailed("conflict", f"{place} is there already, with other content: {wrong}")
        self._removed += 1
        if self._removed > ROUNDS:
            raise DeliveryFailed("mismatch", f"{place} became other bytes than were sent, {ROUNDS} times: {wrong}")
        log.warning("%s: %s; it is removed, and sent again", place, wrong)
        await self._patience.through(lambda: self._ask("delete_object", Key=parcel.key))
        self._kept, self._accepted = None, False
        return None

    async def _told_right(self, head: Mapping[str, Any], ours: bool) -> bool:
        """Whether what the store tells is proof enough that it has our bytes. If not, only reading them is."""
        parcel = self._parcel
        if not self._traits.trusted or int(head["ContentLength"]) != parcel.size:
            return False
        told = head.get(PARAMETER[self._traits.checksum])
        if told is None:
            return ours  # it compared each part when it took it, and does not tell afterwards
        return told == await self._checksum(str(told))

    async def _read_wrong(self) -> str | None:
        """What is not as it should be with the bytes there; None when they are ours."""
        digest = hashlib.sha256()
        size = await self._store.read(self._parcel.key, digest.update, self._tally, self._patience)
        if digest.hexdigest() == self._parcel.sha256:
            return None
        return f"what is read back has {size:,} bytes and the SHA-256 {digest.hexdigest()}"

    async def _checksum(self, told: str) -> str:
        """The checksum that the store must have, in the form in which it told one (`...-N` is that of the parts' checksums)."""
        count = self._count
        if "-" not in told and self._traits.checksum == "sha256":
            return b64(bytes.fromhex(self._parcel.sha256))
        await self._hash_to(count)
        if self._traits.checksum == "sha256":
            return f"{b64(hashlib.sha256(b''.join(self._digests)).digest())}-{count}"
        return b64(self._check.digest())

    def _stored(self, head: Mapping[str, Any], ours: bool, read_back: bool) -> Stored:
        modified: Any = head.get("LastModified")
        about: Mapping[str, Any] = head.get("ResponseMetadata") or {}
        return Stored(
            sent_by_us=ours,
            etag=str(head.get("ETag", "")).strip('"'),
            version_id=None if head.get("VersionId") in (None, "null") else str(head["VersionId"]),
            checksum=head.get(PARAMETER[self._traits.checksum]),
            checksum_type=head.get("ChecksumType"),
            part_size=self._part_size if self._parcel.size > self._part_size else None,
            modified=modified.isoformat() if isinstance(modified, datetime) else None,
            read_back=read_back,
            request_id=about.get("RequestId") or None,
        )

    # -- sending -----------------------------------------------------------------------------------------------------

    async def _ask(self, operation: str, **parameters: Any) -> dict[str, Any]:
        return await self._store.ask(operation, self._tally, **parameters)

    def _described(self) -> dict[str, Any]:
        return {
            **self._store.place.put_parameters,
            "ContentType": self._parcel.media_type,
            "Metadata": {"delivery-id": self._parcel.token, "sha256": self._parcel.sha256},
        }

    @property
    def _condition(self) -> dict[str, Any]:
        """Only where nothing is: the store decides between two that come at once."""
        return {"IfNoneMatch": "*"} if self._traits.conditional else {}

    async def _put(self) -> None:
        parcel = self._parcel
        await self._hash_to(1)
        self._unchanged()
        body = Stretch(FilePart(parcel.path, length=parcel.size))
        checksum = {PARAMETER[self._traits.checksum]: b64(self._digests[0])}
        await self._ask("put_object", Key=parcel.key, Body=body, **checksum, **self._condition, **self._described())
        self._patience.progress()

    async def _multipart(self) -> None:
        kept = self._kept
        there = await self._listed(kept) if kept else {}
        if kept is None:
            kept = await self._begin()
        count = self._count
        done: dict[int, dict[str, Any]] = {}
        lanes = Lanes(self._store.place.concurrency)
        try:
            async with asyncio.TaskGroup() as sending:
                for number in range(1, count + 1):
                    # In order, for the digest of the whole, and one ahead of what is on its way.
                    await self._hash_to(number)
                    part = there.get(number)
                    if part and await self._same(part, number):
                        done[number] = self._named(number, str(part["ETag"]))
                        self._tell(len(done), count)
                        continue
                    await lanes.take()
                    sending.create_task(self._send(kept, number, lanes, done, count))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        self._unchanged()
        whole: dict[str, Any] = {}
        if self._traits.checksum == "crc64nvme":
            whole = {"ChecksumCRC64NVME": b64(self._check.digest()), "ChecksumType": "FULL_OBJECT"}
        if self._traits.trusted:
            whole["MpuObjectSize"] = self._parcel.size
        self._report(99.0, "completing the upload")
        await self._ask(
            "complete_multipart_upload",
            Key=kept.key,
            UploadId=kept.upload_id,
            MultipartUpload={"Parts": [done[number] for number in sorted(done)]},
            **whole,
            **self._condition,
        )
        self._patience.progress()

    async def _begin(self) -> Kept:
        checksum: dict[str, Any] = {}
        if self._traits.trusted:
            kind = "FULL_OBJECT" if self._traits.checksum == "crc64nvme" else "COMPOSITE"
            checksum = {"ChecksumAlgorithm": self._traits.checksum.upper(), "ChecksumType": kind}
        # Should the answer be lost, an empty upload is left there, which costs nothing and which the janitor removes.
        begun = await self._patience.through(
            lambda: self._ask("create_multipart_upload", Key=self._parcel.key, **checksum, **self._described())
        )
        parcel = self._parcel
        self._kept = Kept(
            bucket=self._store.place.bucket,
            key=parcel.key,
            upload_id=str(begun["UploadId"]),
            part_size=self._part_size,
            size=parcel.size,
            sha256=parcel.sha256,
            checksum=self._traits.checksum,
        )
        await self._keep(self._kept.model_dump())
        return self._kept

    async def _send(self, kept: Kept, number: int, lanes: Lanes, done: dict[int, dict[str, Any]], count: int) -> None:
        """One part, until the store has it. Repeating it is harmless: a part replaces the one of its number."""
        tries = 0
        file = FilePart(self._parcel.path, offset=(number - 1) * kept.part_size, length=self._length(number))
        checksum = {PARAMETER[self._traits.checksum]: b64(self._digests[number - 1])}
        try:
            while True:
                try:
                    answer = await self._ask(
                        "upload_part",
                        Body=Stretch(file),
                        Key=kept.key,
                        UploadId=kept.upload_id,
                        PartNumber=number,
                        **checksum,
                    )
                except DeliveryFailed as error:
                    if isinstance(error, S3Error) and error.code in OVERTAKEN:
                        raise
                    if error.kind == "throttled":
                        lanes.slower()
                    await self._patience.wait(error, tries)
                    tries += 1
                    await self._known(kept)
                else:
                    break
        finally:
            await lanes.give()
        lanes.well()
        self._patience.progress()
        done[number] = self._named(number, str(answer["ETag"]))
        self._tell(len(done), count)

    async def _known(self, kept: Kept) -> None:
        """Raises `NoSuchUpload` when the store has forgotten the upload. It says so before it has read a part, then hangs up, and
        whoever is still sending does not hear it."""
        try:
            await self._ask("list_parts", Key=kept.key, UploadId=kept.upload_id, MaxParts=1)
        except S3Error as error:
            if error.code in OVERTAKEN:
                raise

    def _tell(self, done: int, count: int) -> None:
        self._report(98.0 * done / count, f"part {done} of {count}")

    def _length(self, number: int) -> int:
        return min(self._part_size, self._parcel.size - (number - 1) * self._part_size)

    def _named(self, number: int, etag: str) -> dict[str, Any]:
        """A part as Complete wants it; what was begun with a checksum must name it for each."""
        named: dict[str, Any] = {"PartNumber": number, "ETag": etag}
        if self._traits.trusted:
            named[PARAMETER[self._traits.checksum]] = b64(self._digests[number - 1])
        return named

    # -- going on ----------------------------------------------------------------------------------------------------

    def _resumable(self, checkpoint: Mapping[str, Any] | None) -> Kept | None:
        """What an earlier attempt kept, if it is for these bytes and this place."""
        if not checkpoint:
            return None
        try:
            kept = Kept.model_validate(dict(checkpoint))
        except ValidationError:
            return None
        same = (kept.bucket, kept.key, kept.size, kept.sha256, kept.checksum) == (
            self._store.place.bucket,
            self._parcel.key,
            self._parcel.size,
            self._parcel.sha256,
            self._traits.checksum,
        )
        return kept if same else None

    async def _listed(self, kept: Kept) -> dict[int, Mapping[str, Any]]:
        """The parts that the store has, by number. Some list a part that was sent twice two times: the newest counts."""
        found: dict[int, Mapping[str, Any]] = {}
        marker = 0
        while True:
            page = await self._patience.through(
                lambda marker=marker: self._ask(
                    "list_parts", Key=kept.key, UploadId=kept.upload_id, PartNumberMarker=marker
                )
            )
            parts: Sequence[Mapping[str, Any]] = page.get("Parts") or ()
            for part in parts:
                number = int(part["PartNumber"])
                if number not in found or _when(part) >= _when(found[number]):
                    found[number] = part
            # From the highest number that came, not from the store's own marker, which one of them gets wrong.
            last = max((int(part["PartNumber"]) for part in parts), default=0)
            if not page.get("IsTruncated") or last <= marker:
                return found
            marker = last

    async def _same(self, part: Mapping[str, Any], number: int) -> bool:
        """Whether a part that is there is what we would send. Without a proof it is sent again."""
        if int(part["Size"]) != self._length(number):
            return False
        told = part.get(PARAMETER[self._traits.checksum])
        if told is not None:
            return told == b64(self._digests[number - 1])
        # Many stores do not list the checksums, but the ETag of a part is its MD5 in most.
        md5 = self._digests[number - 1]
        if self._traits.checksum != "md5":
            md5 = await asyncio.to_thread(self._hash, number, Digest("md5"))
        return str(part.get("ETag", "")).strip('"') == md5.hex()

    # -- hashing, in threads -------------------------------------------------------------------------------------------

    @property
    def _count(self) -> int:
        return max(1, -(-self._parcel.size // self._part_size))

    async def _hash_to(self, number: int) -> None:
        """The digests up to that part are there. One thread at a time, also after a wait for it was cancelled."""
        while len(self._digests) < number:
            if self._hashing is None or self._hashing.done():
                self._hashing = asyncio.create_task(asyncio.to_thread(self._hash_next))
            await asyncio.shield(self._hashing)

    def _hash_next(self) -> None:
        """The digest of the next part, and on with that of the whole."""
        along = [self._whole, self._check] if self._traits.checksum == "crc64nvme" else [self._whole]
        self._digests.append(self._hash(len(self._digests) + 1, Digest(self._traits.checksum), *along))

    def _hash(self, number: int, digest: Digest, *along: Any) -> bytes:
        """The digest of a part; others take the same bytes along."""
        left = self._length(number)
        buffer = memoryview(bytearray(min(PIECE, left)))
        try:
            with self._parcel.path.open("rb", buffering=0) as file:
                file.seek((number - 1) * self._part_size)
                while left:
                    count = file.readinto(view := buffer[: min(left, len(buffer))])
                    if not count:
                        raise DeliveryFailed("changed", f"{self._parcel.path.name} is shorter than it was")
                    for one in (digest, *along):
                        one.update(view[:count])
                    left -= count
        except FileNotFoundError:
            raise DeliveryFailed("missing", f"{self._parcel.path.name} is not there any more") from None
        return digest.digest()

    def _unchanged(self) -> None:
        if self._whole.hexdigest() != self._parcel.sha256:
            text = f"{self._parcel.path.name} is not what it was: its SHA-256 is {self._whole.hexdigest()}"
            raise DeliveryFailed("changed", text)


def _when(part: Mapping[str, Any]) -> float:
    modified: Any = part.get("LastModified")
    return modified.timestamp() if isinstance(modified, datetime) else 0.0


@dataclass(frozen=True)
class Leftover:
    """A multipart upload that nobody went on with."""

    key: str
    upload_id: str
    begun: datetime
    removed: bool


async def tidy(
    store: Store, prefix: str, older_than_s: float, now: datetime, tally: Tally, *, dry_run: bool = False
) -> list[Leftover]:
    """Remove multipart uploads below our own prefix that got no part for so long. An upload that is still wanted begins anew.

    Raises `ValueError` without a prefix: what is not surely ours is not touched.
    """
    if not prefix:
        raise ValueError("without a prefix it cannot be told which uploads are ours")
    found = list[Leftover]()
    markers: dict[str, Any] = {}
    while True:
        page = await store.ask("list_multipart_uploads", tally, Prefix=prefix, **markers)
        for upload in page.get("Uploads") or ():
            key, upload_id, begun = str(upload["Key"]), str(upload["UploadId"]), upload["Initiated"]
            if not key.startswith(prefix) or (now - begun).total_seconds() < older_than_s:
                continue
            with suppress(S3Error):  # completed or removed meanwhile, or not to be asked now: the next time
                parts = await store.ask("list_parts", tally, Key=key, UploadId=upload_id)
                newest = max((_when(part) for part in parts.get("Parts") or ()), default=begun.timestamp())
                if parts.get("IsTruncated") or now.timestamp() - newest < older_than_s:
                    continue
                if not dry_run:
                    await store.ask("abort_multipart_upload", tally, Key=key, UploadId=upload_id)
                found.append(Leftover(key, upload_id, begun, not dry_run))
        if not page.get("IsTruncated"):
            return found
        markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
