"""The CID of a file: the name that IPFS gives to bytes, computed here before anything is sent.

The same bytes have many valid CIDs: the version, the kind of leaves, the size of the chunks and the width of the nodes all change it.
So a CID means something only together with its profile (IPIP-0499), and both are kept.

    cutter = Cutter(PROFILES["unixfs-v1-2025"])
    for data in stream:
        cutter.update(data)
    cutter.finish().cid

The layout is the balanced one: chunks are leaves, every `width` of them hang under a node, and so on up to one root, with every leaf
at the same depth. What is kept meanwhile is one open chunk and one list per level, whatever the size. Only the standard library is
used: no package on PyPI does this right (they hash the file as one block).
"""

import base64
import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from domain.errors import Refused

RAW, DAG_PB = 0x55, 0x70
SHA2_256 = b"\x12\x20"
#: What is read at once. A multiple of every profile's chunk that is in use, so that whole chunks need no copy.
READ = 1 << 20
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@dataclass(frozen=True)
class Profile:
    """How a file is cut and written down. `version` of the CID; `width`: links per node."""

    name: str
    version: int
    raw_leaves: bool
    chunk: int
    width: int


#: By name. `kubo add` without options; with `--cid-version=1`, which Pinata is thought to use; Kubo since 0.40 and Helia since 6,
#: by their profile; Kubo's former profile `test-cid-v1`.
PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("unixfs-v0-2015", 0, False, 262_144, 174),
        Profile("v1-256k-174", 1, True, 262_144, 174),
        Profile("unixfs-v1-2025", 1, True, 1_048_576, 1024),
        Profile("v1-1m-174", 1, True, 1_048_576, 174),
    )
}


@dataclass(frozen=True)
class Node:
    """A block and what hangs under it: bytes of the file, and `tsize`, bytes of all blocks."""

    cid: bytes
    size: int
    tsize: int


@dataclass(frozen=True)
class Root:
    """The whole file. `blocks` and `block_bytes` are what a node that keeps it has to store, `section_bytes` their size in a CAR."""

    cid: str
    node: Node
    blocks: int
    block_bytes: int
    section_bytes: int


@dataclass
class Cutter:
    """Takes a file's bytes in pieces of any size. `block` is told each block as it is made, its CID in binary first."""

    profile: Profile
    block: Callable[[bytes, Sequence[bytes | memoryview]], None] | None = None
    size: int = 0
    blocks: int = 0
    block_bytes: int = 0
    section_bytes: int = 0
    _open: bytearray = field(default_factory=bytearray)
    _levels: list[list[Node]] = field(default_factory=lambda: [[]])

    def update(self, data: bytes | bytearray | memoryview) -> None:
        view, chunk = memoryview(data), self.profile.chunk
        self.size += len(view)
        if self._open:
            missing = chunk - len(self._open)
            self._open += view[:missing]
            view = view[missing:]
            if len(self._open) < chunk:
                return
            self._leaf(memoryview(bytes(self._open)))
            self._open.clear()
        whole = len(view) - len(view) % chunk
        for at in range(0, whole, chunk):
            self._leaf(view[at : at + chunk])
        self._open += view[whole:]

    def finish(self) -> Root:
        """The root of all that came. Afterwards nothing more can be taken."""
        if self._open or not self.size:
            self._leaf(memoryview(bytes(self._open)))  # an empty file is one empty chunk
        height = 0
        while True:
            nodes = self._levels[height]
            if height == len(self._levels) - 1 and len(nodes) == 1:
                root = nodes[0]
                return Root(text(root.cid), root, self.blocks, self.block_bytes, self.section_bytes)
            if nodes:
                self._fold(height)
            height += 1

    def copy(self) -> "Cutter":
        """As it is now; both go on by themselves. The `block` of this one is not told of the other's."""
        other = copy.copy(self)
        other.block, other._open, other._levels = None, bytearray(self._open), [list(level) for level in self._levels]
        return other

    def _leaf(self, chunk: memoryview) -> None:
        parts: list[bytes | memoryview] = [chunk]
        if not self.profile.raw_leaves:
            # A UnixFS file of one chunk, in a node without links.
            data = _field(0x12, len(chunk)) if len(chunk) else b""
            tail = b"\x18" + varint(len(chunk))
            message = 2 + len(data) + len(chunk) + len(tail)
            parts = [_field(0x0A, message) + b"\x08\x02" + data, chunk, tail]
        self._add(0, parts, RAW if self.profile.raw_leaves else DAG_PB, len(chunk), 0)

    def _fold(self, height: int) -> None:
        """Hang the nodes of a level under a new one in the level above."""
        nodes = self._levels[height]
        links = bytearray()
        for node in nodes:
            # The empty name is present, as Kubo and Helia write it.
            link = _field(0x0A, len(node.cid)) + node.cid + b"\x12\x00\x18" + varint(node.tsize)
            links += _field(0x12, len(link)) + link
        size = sum(node.size for node in nodes)
        data = b"\x08\x02\x18" + varint(size) + b"".join(b"\x20" + varint(node.size) for node in nodes)
        below = sum(node.tsize for node in nodes)
        nodes.clear()
        self._add(height + 1, [bytes(links) + _field(0x0A, len(data)) + data], DAG_PB, size, below)

    def _add(self, height: int, parts: Sequence[bytes | memoryview], codec: int, size: int, below: int) -> None:
        digest, length = hashlib.sha256(), 0
        for part in parts:
            digest.update(part)
            length += len(part)
        cid = binary(self.profile.version, codec, digest.digest())
        self.blocks += 1
        self.block_bytes += length
        self.section_bytes += len(varint(len(cid) + length)) + len(cid) + length
        if self.block is not None:
            self.block(cid, parts)
        if height == len(self._levels):
            self._levels.append([])
        self._levels[height].append(Node(cid, size, length + below))
        if len(self._levels[height]) == self.profile.width:
            self._fold(height)


def directory(entries: Mapping[str, Node], profile: Profile) -> tuple[str, Node]:
    """The directory with these files and directories. For few entries: wide ones are sharded, which is not done here."""
    links = bytearray()
    for name, node in sorted(entries.items(), key=lambda entry: entry[0].encode()):
        words = name.encode()
        link = _field(0x0A, len(node.cid)) + node.cid + _field(0x12, len(words)) + words + b"\x18" + varint(node.tsize)
        links += _field(0x12, len(link)) + link
    block = bytes(links) + b"\x0a\x02\x08\x01"
    cid = binary(profile.version, DAG_PB, hashlib.sha256(block).digest())
    tsize = len(block) + sum(node.tsize for node in entries.values())
    return text(cid), Node(cid, sum(node.size for node in entries.values()), tsize)


# ------------------------------------------------------------------------------------------------------------------ files


@dataclass(frozen=True)
class Digests:
    """A file under several names, from one pass. `roots` by the name of the profile."""

    sha256: str
    size: int
    roots: Mapping[str, Root]


def digest_file(path: Path, profiles: Iterable[str], told: Callable[[int], None] | None = None) -> Digests:
    """Read a file once, in constant memory. Blocking, nearly all of it without the GIL: call it from a thread.

    `told` gets the bytes read so far after each piece, and may raise to break off.
    """
    sha256, size = hashlib.sha256(), 0
    cutters = [Cutter(PROFILES[name]) for name in profiles]
    for piece in _pieces(path):
        sha256.update(piece)
        for cutter in cutters:
            cutter.update(piece)
        size += len(piece)
        if told is not None:
            told(size)
    return Digests(sha256.hexdigest(), size, {cutter.profile.name: cutter.finish() for cutter in cutters})


def _pieces(path: Path) -> Iterator[memoryview]:
    """Each is good until the next one is asked for."""
    buffer = bytearray(READ)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            yield view[:count]


class CarFile:
    """A file as a CAR (version 1): its blocks and the name of their root, so that whoever imports it can come to no other CID.

    Nothing is stored for it: the blocks are cut again from the file each time it is read.
    """

    def __init__(self, path: Path, profile: Profile, root: Root) -> None:
        self._path, self._profile = path, profile
        header = _car_header(root.node.cid)
        self._header = varint(len(header)) + header
        self.size = len(self._header) + root.section_bytes

    def pieces(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes of it from `offset` on. All before are made and left out, at the speed of hashing."""
        left = self.size - offset if length is None else length
        skip = offset
        for piece in self._all():
            if skip >= len(piece):
                skip -= len(piece)
                continue
            part = piece[skip : skip + left]
            skip = 0
            left -= len(part)
            yield bytes(part)
            if left <= 0:
                return

    def _all(self) -> Iterator[bytes]:
        yield self._header
        made: list[bytes] = []

        def block(cid: bytes, parts: Sequence[bytes | memoryview]) -> None:
            body = b"".join(parts)
            made.append(varint(len(cid) + len(body)) + cid + body)

        cutter = Cutter(self._profile, block)
        for piece in _pieces(self._path):
            cutter.update(piece)
            yield from made
            made.clear()
        cutter.finish()
        yield from made


def _car_header(root: bytes) -> bytes:
    """DAG-CBOR of {"roots": [root], "version": 1}."""
    cid = b"\x00" + root  # the multibase of binary, which DAG-CBOR asks for
    assert len(cid) < 256
    return b"\xa2\x65roots\x81\xd8\x2a\x58" + bytes([len(cid)]) + cid + b"\x67version\x01"


# ------------------------------------------------------------------------------------------------------------------ names


@dataclass(frozen=True)
class Name:
    """What a CID says. Two with the same codec and digest name the same block, whatever their version."""

    version: int
    codec: int
    digest: bytes

    def same_block(self, other: "Name") -> bool:
        return (self.codec, self.digest) == (other.codec, other.digest)


def binary(version: int, codec: int, digest: bytes) -> bytes:
    """A CID of version 0 is a bare hash, which stands for DAG-PB."""
    return SHA2_256 + digest if version == 0 else bytes([version, codec]) + SHA2_256 + digest


def text(cid: bytes) -> str:
    if cid[:2] != SHA2_256:
        return "b" + base64.b32encode(cid).decode().lower().rstrip("=")
    number, letters = int.from_bytes(cid), ""
    while number:
        number, rest = divmod(number, 58)
        letters = _BASE58[rest] + letters
    return letters


def parse(cid: str) -> Name:
    """Read a CID in one of its usual two spellings. Raises `Refused` for what is none, or has another hash than SHA-256."""
    try:
        if cid.startswith("Qm") and len(cid) == 46:
            number = 0
            for letter in cid:
                number = number * 58 + _BASE58.index(letter)
            data = bytes([0, DAG_PB]) + number.to_bytes(34)
        elif cid.startswith("b"):
            data = base64.b32decode(cid[1:].upper() + "=" * (-len(cid[1:]) % 8))
        else:
            raise ValueError("neither Qm... nor b...")
        if len(data) != 36 or data[2:4] != SHA2_256 or (data[0], data[1]) not in ((0, DAG_PB), (1, DAG_PB), (1, RAW)):
            raise ValueError("not a file's, by SHA-256")
    except (ValueError, OverflowError) as error:
        raise Refused(f"{cid[:100]!r} is no CID that we can check: {error}") from None
    return Name(data[0], data[1], data[4:])


def varint(number: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(tag: int, length: int) -> bytes:
    """The head of a field of Protocol Buffers that holds bytes."""
    return bytes([tag]) + varint(length)
