"""Blobs on the disk: under their hash, whole or not at all."""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adapters.storage.local import LocalBlobs
from domain.errors import NotFound


def test_a_blob_comes_back_under_its_hash(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    for data in (b"", b"spectrum", bytes(range(256)) * 1000):
        sha256 = blobs.put(data)
        assert sha256 == hashlib.sha256(data).hexdigest() and blobs.get(sha256) == data


def test_the_same_bytes_are_kept_once_and_nothing_else_lies_about(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: blobs.put(b"the same"), range(32)))
    assert len(names) == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [blobs.path(names.pop())]


def test_a_file_is_kept_in_pieces_and_lent_out_verified(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    blobs = LocalBlobs(tmp_path)
    sha256, size = blobs.put_file(io.BytesIO(data))
    assert (sha256, size) == (hashlib.sha256(data).hexdigest(), len(data))
    with blobs.local(sha256) as path:
        assert path.read_bytes() == data
    blobs.path(sha256).write_bytes(data[:-1])
    with pytest.raises(ValueError, match="damaged"), blobs.local(sha256):
        pass


def test_what_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    class Broken(io.RawIOBase):
        def read(self, _: int = -1) -> bytes:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        LocalBlobs(tmp_path).put_file(Broken())  # pyright: ignore[reportArgumentType]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_blob_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no blob"):
        LocalBlobs(tmp_path).get("0" * 64)


def test_a_damaged_blob_is_not_handed_out(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    sha256 = blobs.put(b"true")
    blobs.path(sha256).write_bytes(b"false")
    with pytest.raises(ValueError, match="damaged"):
        blobs.get(sha256)


@pytest.mark.parametrize("name", ["", "abc", "../" + "a" * 61, "A" * 64, "g" * 64, "a" * 63 + "/"])
def test_a_name_that_is_no_hash_reaches_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no SHA-256"):
        LocalBlobs(tmp_path).get(name)
