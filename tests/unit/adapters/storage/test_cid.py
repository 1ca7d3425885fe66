"""CIDs against those of other implementations, and against a slow second way to cut a file.

`cid_vectors.json`: made by Helia's importer, or expected in Kubo's own tests; each entry says which.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.storage.cid import (
    PROFILES,
    CarFile,
    Cutter,
    Node,
    Profile,
    binary,
    digest_file,
    directory,
    parse,
    text,
    varint,
)
from domain.errors import Refused

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "cid_vectors.json").read_text())
ALL = {
    name: Profile(name, told["v"], told["raw_leaves"], told["chunk"], told["width"])
    for name, told in VECTORS["profiles"].items()
}
STREAMS = sorted({one["content"] for one in VECTORS["vectors"]})
TINY = ALL["tiny-v1-256-3"], ALL["tiny-v0-256-3"]


# -- content -----------------------------------------------------------------------------------------------------------


def content(name: str) -> Iterator[bytes]:
    """The endless stream of a vector, in pieces of no particular size."""
    kind, _, seed = name.partition(":")
    match kind:
        case "ctr":
            for start in range(0, 1 << 40, 20_000):
                yield b"".join([hashlib.sha256(b"labcid-v1:%d" % k).digest() for k in range(start, start + 20_000)])
        case "zeros":
            while True:
                yield bytes(777_777)
        case "text":
            yield seed.encode()
        case _:
            yield from chacha20(hashlib.sha256(seed.encode()).digest())


def chacha20(key: bytes, blocks: int = 1 << 14) -> Iterator[bytes]:
    """The keystream (RFC 8439) for a nonce of zeros, from block 0."""
    words = np.frombuffer(b"expand 32-byte k" + key + bytes(16), dtype="<u4")
    start = np.repeat(words[:, None], blocks, axis=1)
    counter = np.arange(blocks, dtype=np.uint32)
    turned = np.empty(blocks, np.uint32)

    def quarter(x: Any, a: int, b: int, c: int, d: int) -> None:
        for one, two, three, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[one] += x[two]
            x[three] ^= x[one]
            np.right_shift(x[three], 32 - turn, out=turned)
            x[three] <<= np.uint32(turn)
            x[three] |= turned

    while True:
        start[12] = counter
        x = start.copy()
        for _ in range(10):
            for a, b, c, d in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)):
                quarter(x, a, b, c, d)
            for a, b, c, d in ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
                quarter(x, a, b, c, d)
        x += start
        yield x.T.tobytes()
        counter += np.uint32(blocks)


def cut(name: str, ends: Iterable[int]) -> Iterator[tuple[bytes, int]]:
    """The stream up to the last of `ends`; whenever one of them is reached it is told beside the piece that ends there."""
    marks, at = sorted(set(ends)), 0
    pieces = content(name)
    rest = memoryview(b"")
    for mark in marks:
        while at < mark:
            if not rest:
                rest = memoryview(next(pieces))
            piece = rest[: mark - at]
            rest = rest[len(piece) :]
            at += len(piece)
            yield bytes(piece), -1
        yield b"", mark


def take(name: str, size: int) -> bytes:
    return b"".join(piece for piece, _ in cut(name, [size]))


def test_the_keystream_is_that_of_the_rfc() -> None:
    """RFC 8439, A.1, vectors 1 and 2: a key of zeros, blocks 0 and 1."""
    stream = next(chacha20(bytes(32), blocks=2))
    assert stream[:16].hex() == "76b8e0ada0f13d90405d6ae55386bd28"
    assert stream[64:80].hex() == "9f07e7be5551387a98ba977c732d080d"


def test_the_counted_content_is_what_the_vectors_were_made_of() -> None:
    for size in ("0", "1", "1000", "262145", "1048577"):
        assert hashlib.sha256(take("ctr", int(size))).hexdigest() == VECTORS["ctr_sha256"][size]


# -- vectors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.slow if "seed" in one or one == "ctr" else ()) for one in STREAMS]
)
def test_cids_are_those_of_helia_and_kubo(name: str) -> None:
    """One pass over each stream; at each size of a vector a copy of the cutter is ended."""
    vectors = [one for one in VECTORS["vectors"] if one["content"] == name]
    largest = {one["profile"]: max(v["size"] for v in vectors if v["profile"] == one["profile"]) for one in vectors}
    cutters = {profile: Cutter(ALL[profile]) for profile in largest}
    held = 0
    for piece, end in cut(name, [one["size"] for one in vectors]):
        for profile, cutter in cutters.items():
            if cutter.size < largest[profile]:
                cutter.update(piece)
        for one in vectors:
            if one["size"] == end:
                root = cutters[one["profile"]].copy().finish()
                assert root.cid == one["cid"], one
                assert root.node.size == end
                assert one.get("blocks", root.blocks) == root.blocks
                assert one.get("block_bytes", root.block_bytes) == root.block_bytes == root.node.tsize
                held += 1
    assert held == len(vectors)


@pytest.mark.parametrize("profile", sorted({one["profile"] for one in VECTORS["directory"]["entries"]}))
def test_directories_are_those_of_helia(profile: str) -> None:
    told = {one["path"]: one for one in VECTORS["directory"]["entries"] if one["profile"] == profile}

    def leaf(data: bytes) -> Node:
        cutter = Cutter(ALL[profile])
        cutter.update(data)
        return cutter.finish().node

    found = {"b.bin": leaf(take("ctr", 262_145)), "a.txt": leaf(b"hello world"), "sub/c.bin": leaf(take("ctr", 1000))}
    found["sub"] = directory({"c.bin": found["sub/c.bin"]}, ALL[profile])[1]
    entries = {name: found[name] for name in ("sub", "b.bin", "a.txt")}  # in no order
    found[""] = directory(entries, ALL[profile])[1]
    assert {path: (text(node.cid), node.tsize) for path, node in found.items()} == {
        path: (one["cid"], one["dag_size"]) for path, one in told.items()
    }


def test_our_profiles_are_those_of_the_vectors() -> None:
    assert all(ALL[name] == profile for name, profile in PROFILES.items())


# -- properties --------------------------------------------------------------------------------------------------------


def slowly(data: bytes, profile: Profile) -> str:
    """The same by another way: all leaves first, then level by level."""

    def lp(tag: int, body: bytes) -> bytes:
        return bytes([tag]) + varint(len(body)) + body

    def node(block: bytes, codec: int, size: int, below: int) -> tuple[bytes, int, int]:
        digest = hashlib.sha256(block).digest()
        return binary(profile.version, codec, digest), size, len(block) + below

    chunks = [data[at : at + profile.chunk] for at in range(0, len(data), profile.chunk)] or [b""]
    level: list[tuple[bytes, int, int]] = []
    for chunk in chunks:
        if profile.raw_leaves:
            level.append(node(chunk, 0x55, len(chunk), 0))
        else:
            message = b"\x08\x02" + (lp(0x12, chunk) if chunk else b"") + b"\x18" + varint(len(chunk))
            level.append(node(lp(0x0A, message), 0x70, len(chunk), 0))
    while len(level) > 1:
        above: list[tuple[bytes, int, int]] = []
        for at in range(0, len(level), profile.width):
            below = level[at : at + profile.width]
            links = b"".join(lp(0x12, lp(0x0A, c) + b"\x12\x00\x18" + varint(t)) for c, _, t in below)
            size = sum(s for _, s, _ in below)
            data_ = b"\x08\x02\x18" + varint(size) + b"".join(b"\x20" + varint(s) for _, s, _ in below)
            above.append(node(links + lp(0x0A, data_), 0x70, size, sum(t for _, _, t in below)))
        level = above
    return text(level[0][0])


@given(st.integers(0, 12_000), st.sampled_from(TINY), st.lists(st.integers(0, 2000), max_size=12))
def test_however_the_bytes_come_the_cid_is_the_same(size: int, profile: Profile, cuts: list[int]) -> None:
    data = take("ctr", size)
    cutter, at = Cutter(profile), 0
    for step in cuts:
        cutter.update(data[at : at + step])
        at += step
    half = cutter.copy().finish().cid
    assert half == slowly(data[: min(at, size)], profile)
    cutter.update(data[at:])
    assert cutter.finish().cid == slowly(data, profile)


@given(st.integers(0, 5000), st.sampled_from((*TINY, *PROFILES.values())))
def test_a_name_is_read_as_it_is_written(size: int, profile: Profile) -> None:
    cutter = Cutter(profile)
    cutter.update(take("ctr", size))
    root = cutter.finish()
    name = parse(root.cid)
    assert binary(name.version, name.codec, name.digest) == root.node.cid
    assert name.version == profile.version


@pytest.mark.parametrize(
    "cid", ["", "Qm", "Qm" + "0" * 44, "bafy", "zdj7", "../etc", "b" + "a" * 58, "pending", "Qm" + "z" * 44]
)
def test_what_is_no_cid_is_refused(cid: str) -> None:
    with pytest.raises(Refused, match="no CID"):
        parse(cid)


def test_the_same_dag_under_another_version_is_the_same_block() -> None:
    cid = "QmcgRbpBDF2MkquZ1P1nfKHk1M3Xv8aDi4kXXhv3iE3hNS"
    again = text(binary(1, 0x70, parse(cid).digest))
    assert again.startswith("bafybei") and parse(again).same_block(parse(cid))
    assert not parse("bafybeiccuyukyvy2i6jzb3thsejx4lrd33lbvdsxfces7noojfijrkg2am").same_block(parse(cid))


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_is_named_in_one_pass(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(take("ctr", 1_048_577))
    told: list[int] = []
    found = digest_file(path, PROFILES, told.append)
    assert found.sha256 == VECTORS["ctr_sha256"]["1048577"] and found.size == 1_048_577
    assert found.roots["unixfs-v1-2025"].cid == "bafybeibjejbbtdbqklhbdej2ctufm77gvq6tnthck77uzfnucqhbsjjudq"
    assert found.roots["unixfs-v0-2015"].cid == "QmcgRbpBDF2MkquZ1P1nfKHk1M3Xv8aDi4kXXhv3iE3hNS"
    assert told == [1_048_576, 1_048_577]


def test_an_empty_file_has_a_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    assert digest_file(path, ["v1-256k-174"]).roots["v1-256k-174"].cid == VECTORS["vectors"][0]["cid"]


def blocks_of(car: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """The root and the blocks of a CAR, each held against its name."""

    def read_varint(at: int) -> tuple[int, int]:
        number, shift = 0, 0
        while True:
            number |= (car[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if car[at - 1] < 0x80:
                return number, at

    length, at = read_varint(0)
    header = car[at : at + length]
    assert header.startswith(b"\xa2\x65roots\x81\xd8\x2a\x58") and header.endswith(b"\x67version\x01")
    root = header[12 : 12 + header[11]][0:]
    assert root[:1] == b"\x00"
    at += length
    blocks: dict[bytes, bytes] = {}
    while at < len(car):
        length, at = read_varint(at)
        section = car[at : at + length]
        cid = section[: 34 if section[:2] == b"\x12\x20" else 36]
        blocks[cid] = section[len(cid) :]
        assert hashlib.sha256(blocks[cid]).digest() == cid[-32:]
        at += length
    return root[1:], blocks


@pytest.mark.parametrize("profile", [*TINY, PROFILES["v1-256k-174"]], ids=lambda profile: profile.name)
@pytest.mark.parametrize("size", [0, 1, 256, 7681, 1_048_577])
def test_a_car_holds_the_whole_dag_under_the_same_root(tmp_path: Path, profile: Profile, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(take("ctr", size))
    cutter = Cutter(profile)
    cutter.update(path.read_bytes())
    root = cutter.finish()
    car = CarFile(path, profile, root)
    whole = b"".join(car.pieces())
    assert len(whole) == car.size
    name, blocks = blocks_of(whole)
    assert name == root.node.cid and len(blocks) == root.blocks
    if profile.raw_leaves:
        leaves = [block for cid, block in blocks.items() if cid[1] == 0x55]
        assert b"".join(leaves) == path.read_bytes()
    # Any part of it can be had, as a resumed upload asks for it.
    for offset in (0, 1, car.size // 2, car.size - 1):
        assert b"".join(car.pieces(offset)) == whole[offset:]
        assert b"".join(car.pieces(offset, 10)) == whole[offset : offset + 10]
