"""Blobs on the local disk: `DIR/ab/cdef...`, named by their SHA-256, never half-visible."""

import hashlib
import os
import secrets
from pathlib import Path

from domain.errors import NotFound


class LocalBlobs:
    """A folder of blobs. Any number of processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, sha256: str) -> Path:
        """Where a blob lies, or would lie."""
        if len(sha256) != 64 or not all(c in "0123456789abcdef" for c in sha256):
            raise ValueError(f"{sha256!r} is no SHA-256 in hex")
        return self._folder / sha256[:2] / sha256[2:]

    def put(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.path(sha256)
        if path.exists():
            return sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside its place and renamed: who sees the name sees all of it, also after a power cut.
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return sha256

    def get(self, sha256: str) -> bytes:
        try:
            data = self.path(sha256).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"there is no blob {sha256} in {self._folder}") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(f"blob {sha256} in {self._folder} is damaged: its content has another hash")
        return data
