"""Blobs as objects of a bucket, `PREFIX<sha256>`: uploaded like any delivery (`adapters/storage/s3_upload.py`), read back verified.

An object is visible only when it is whole, so a blob is. An upload that a crash left unfinished is begun anew by whoever puts the
blob next; give the bucket a lifecycle rule that removes the rest (AbortIncompleteMultipartUpload).
"""

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from adapters.storage.remote_blobs import RemoteBlobs
from adapters.storage.s3_store import Patience, Place, S3Error, Store
from adapters.storage.s3_upload import Parcel, Upload
from adapters.web.client import Tally


class BlobOptions(Place):
    prefix: str = Field(default="blobs/", description="Put before each blob's name.")


class S3Blobs(RemoteBlobs):
    """A bucket of blobs. Any number of processes may use it at once."""

    def __init__(self, options: BlobOptions, environ: Mapping[str, str], spool: Path) -> None:
        super().__init__(spool, f"the bucket {options.bucket}")
        self._options = options
        self._s3 = Store(options, environ)

    def key(self, sha256: str) -> str:
        return self._options.prefix + sha256

    def _patience(self) -> Patience:
        return Patience(self._options.patience_s)

    async def _has(self, sha256: str, size: int) -> bool:
        head = await self._patience().through(lambda: self._s3.head(self.key(sha256), Tally()))
        return head is not None and int(head["ContentLength"]) == size

    async def _store(self, path: Path, sha256: str, size: int) -> None:
        traits = await self._s3.learn(Tally(), self._patience(), self._options.prefix)
        token = f"blob-{secrets.token_hex(8)}"
        parcel = Parcel(path, self.key(sha256), size, sha256, "application/octet-stream", token)
        await Upload(self._s3, parcel, traits).run()

    async def _read(self, sha256: str, into: Callable[[bytes], Any]) -> None:
        try:
            await self._s3.read(self.key(sha256), _nothing_to_await(into), Tally(), self._patience())
        except S3Error as error:
            if error.code in ("NoSuchKey", "404"):
                raise self._not_found(sha256) from None
            raise

    async def _close(self) -> None:
        await self._s3.close()


def _nothing_to_await(into: Callable[[bytes], Any]) -> Callable[[bytes], None]:
    def take(piece: bytes) -> None:
        into(piece)

    return take
