"""Blobs on the local disk: `DIR/ab/cdef...`, named by their SHA-256, never half-visible."""

import hashlib
import io
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from domain.errors import NotFound

#: How much is read at once.
CHUNK = 1 << 20


def checked(sha256: str) -> str:
    """The name of a blob. Raises `ValueError` for what can be none, and so reaches no file."""
    if len(sha256) != 64 or not all(c in "0123456789abcdef" for c in sha256):
        raise ValueError(f"{sha256!r} is no SHA-256 in hex")
    return sha256


class LocalBlobs:
    """A folder of blobs. Any number of processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, sha256: str) -> Path:
        """Where a blob lies, or would lie."""
        return self._folder / checked(sha256)[:2] / sha256[2:]

    def put(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        return sha256 if self.path(sha256).exists() else self.put_file(io.BytesIO(data))[0]

    def put_file(self, source: BinaryIO) -> tuple[str, int]:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Written beside its place and renamed: who sees the name sees all of it, also after a power cut.
        part = self._folder / f"{secrets.token_hex(8)}.part"
        digest, size = hashlib.sha256(), 0
        try:
            with part.open("wb") as file:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    size += file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            sha256 = digest.hexdigest()
            path = self.path(sha256)
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                part.replace(path)
                _sync(path.parent)
        finally:
            part.unlink(missing_ok=True)
        return sha256, size

    def get(self, sha256: str) -> bytes:
        with self._open(sha256) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise self._damaged(sha256)
        return data

    @contextmanager
    def local(self, sha256: str) -> Generator[Path]:
        with self._open(sha256) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise self._damaged(sha256)
        yield self.path(sha256)

    def _open(self, sha256: str) -> BufferedReader:
        try:
            return self.path(sha256).open("rb")
        except FileNotFoundError:
            raise NotFound(f"there is no blob {sha256} in {self._folder}") from None

    def _damaged(self, sha256: str) -> ValueError:
        return ValueError(f"blob {sha256} in {self._folder} is damaged: its content has another hash")


def _sync(folder: Path) -> None:
    """Make a renaming in a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
