"""Every store of blobs keeps the port: under their hash, whole or not at all, verified when they are read."""

import asyncio
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js.errors import NotFoundError

from adapters.storage.local import LocalBlobs
from adapters.storage.s3_blobs import BlobOptions, S3Blobs
from bus import streams
from bus.connection import connect
from bus.roles import Role
from domain.errors import NotFound
from domain.ports import Blobs
from labledger.blobs import open_blobs
from labledger.embedded.nats_server import NatsServer
from tests.doubles.s3_servers import SeaweedFS
from tests.integration.adapters.s3_desk import Eye

MIB = 1 << 20


@dataclass
class Kept:
    """A store, and what the tests do to it behind its back. `spec` opens it once more, as another process does."""

    blobs: Blobs
    spec: dict[str, Any]
    folder: Path
    damage: Callable[[str], None]
    names: Callable[[], list[str]]

    def spooled(self) -> list[Path]:
        """Files on their way; none when nothing is."""
        spool = self.folder / ".spool"
        return list(spool.iterdir()) if spool.exists() else []


@pytest.fixture(params=["local", "s3", "nats"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    yield {"local": _local, "s3": _s3, "nats": _nats}[request.param](request, tmp_path)


_opened: list[Any] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _opened:
        getattr(_opened.pop(), "close", lambda: None)()


def opened(spec: Mapping[str, Any]) -> Blobs:
    """As a process opens it; closed when the test is over."""
    _opened.append(open_blobs(spec))
    return _opened[-1]


def _local(_: pytest.FixtureRequest, folder: Path) -> Kept:
    spec = {"store": "local", "dir": str(folder)}
    blobs = LocalBlobs(folder)
    return Kept(
        opened(spec),
        spec,
        folder,
        lambda sha256: _flip(blobs.path(sha256)),
        lambda: [path.parent.name + path.name for path in folder.rglob("*") if path.is_file()],
    )


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _s3(request: pytest.FixtureRequest, folder: Path) -> Kept:
    server: SeaweedFS = request.getfixturevalue("seaweedfs")
    prefix = f"blobs-{random.randrange(1 << 40):x}/"
    options = server.options(prefix=prefix, part_mib=5)
    spec: dict[str, Any] = {"store": "s3", "dir": str(folder), "options": options}
    eye = Eye(server.options())

    def damage(sha256: str) -> None:
        data = bytearray(eye.client.get_object(Bucket="lab", Key=prefix + sha256)["Body"].read())
        data[len(data) // 2] ^= 1
        eye.put(prefix + sha256, bytes(data))

    return Kept(opened(spec), spec, folder, damage, lambda: [key.removeprefix(prefix) for key in eye.keys(prefix)])


def _nats(request: pytest.FixtureRequest, folder: Path) -> Kept:
    server: NatsServer = request.getfixturevalue("make_nats")()
    spec = nats_spec(server, folder, Role.EXTRACT)

    async def with_store(work: Callable[[Any], Any]) -> Any:
        connection = await nats.connect(**server.options("provisioner"))
        try:
            return await work(await connection.jetstream().object_store(streams.BLOBS))
        finally:
            await connection.close()

    async def provision() -> None:
        options = server.options("provisioner")
        bus = await connect(server.url, "provisioner", _login(options))
        await streams.provision(bus)
        await bus.close()

    asyncio.run(provision())

    def damage(sha256: str) -> None:
        async def work(store: Any) -> None:
            data = bytearray((await store.get(sha256)).data)
            data[len(data) // 2] ^= 1
            await store.put(sha256, bytes(data))

        asyncio.run(with_store(work))

    async def listed(store: Any) -> list[str]:
        try:
            return [info.name for info in await store.list()]
        except NotFoundError:
            return []

    return Kept(opened(spec), spec, folder, damage, lambda: asyncio.run(with_store(listed)))


def _login(options: dict[str, Any]) -> Any:
    from bus.connection import Credentials

    return Credentials(options["user"], options["password"], options["inbox_prefix"])


def nats_spec(server: NatsServer, folder: Path, role: Role) -> dict[str, Any]:
    options = server.options(role)
    return {
        "store": "nats",
        "dir": str(folder),
        "urls": [server.url],
        "user": options["user"],
        "password": options["password"],
        "inbox_prefix": options["inbox_prefix"],
        "inside": role != Role.PUBLISHER,
    }


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_bytes_come_back_under_their_hash(kept: Kept) -> None:
    for data in (b"", b"spectrum", random.Random(1).randbytes(3 * MIB + 1)):
        assert kept.blobs.put(data) == sha(data)
        assert kept.blobs.get(sha(data)) == data
        assert opened(kept.spec).get(sha(data)) == data  # of another process, too
    assert not kept.spooled()


def test_a_large_file_goes_in_and_out_in_pieces(kept: Kept, tmp_path: Path) -> None:
    data = random.Random(2).randbytes(11 * MIB + 3)
    assert kept.blobs.put_file(io.BytesIO(data)) == (sha(data), len(data))
    with kept.blobs.local(sha(data)) as path:
        assert path.read_bytes() == data
    assert not kept.spooled()


def test_the_same_bytes_are_kept_once_however_many_put_them_at_once(kept: Kept) -> None:
    data = random.Random(3).randbytes(MIB)
    with ThreadPoolExecutor(6) as pool:
        names = set(pool.map(lambda _: kept.blobs.put_file(io.BytesIO(data))[0], range(6)))
    assert names == {sha(data)} and kept.names() == [sha(data)]
    assert kept.blobs.get(sha(data)) == data and not kept.spooled()


def test_what_is_not_there_is_not_found(kept: Kept) -> None:
    with pytest.raises(NotFound, match="there is no blob"):
        kept.blobs.get("0" * 64)
    with pytest.raises(NotFound, match="there is no blob"), kept.blobs.local("0" * 64):
        pass
    assert not kept.spooled()


def test_what_is_damaged_is_not_handed_out(kept: Kept) -> None:
    data = random.Random(4).randbytes(100_000)
    kept.blobs.put(data)
    kept.damage(sha(data))
    with pytest.raises(ValueError, match="damaged"):
        kept.blobs.get(sha(data))
    with pytest.raises(ValueError, match="damaged"), kept.blobs.local(sha(data)):
        pass
    assert not kept.spooled()


def test_a_source_that_breaks_off_leaves_nothing(kept: Kept) -> None:
    class Broken(io.RawIOBase):
        left = 3

        def read(self, _: int = -1) -> bytes:
            self.left -= 1
            if self.left:
                return os.urandom(MIB)
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        kept.blobs.put_file(Broken())  # pyright: ignore[reportArgumentType]
    assert kept.names() == [] and not kept.spooled()


@pytest.mark.parametrize("name", ["", "abc", "../" + "a" * 61, "A" * 64, "g" * 64, "a" * 63 + "/"])
def test_a_name_that_is_no_hash_reaches_nothing(kept: Kept, name: str) -> None:
    with pytest.raises(ValueError, match="no SHA-256"):
        kept.blobs.get(name)


PUTS = """
import json, random, sys
from labledger.blobs import open_blobs
import io
blobs, data = open_blobs(json.loads(sys.argv[1])), random.Random(7).randbytes(24 << 20)
blobs.put(b"connected")
print("ready", flush=True)
blobs.put_file(io.BytesIO(data))
print("done", flush=True)
"""


def test_a_process_that_is_killed_while_it_puts_leaves_nothing_half(kept: Kept) -> None:
    data = random.Random(7).randbytes(24 * MIB)
    for delay_s in (0.0, 0.1, 0.3):
        command = [sys.executable, "-c", PUTS, json.dumps(kept.spec)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None and child.stdout.readline() == b"ready\n"
            time.sleep(delay_s)
            child.kill()
        if sha(data) in kept.names():
            assert kept.blobs.get(sha(data)) == data
        else:
            with pytest.raises(NotFound):
                kept.blobs.get(sha(data))
    assert kept.blobs.put(data) == sha(data) and kept.blobs.get(sha(data)) == data


# ------------------------------------------------------------------------------------------------- what is special to each


def test_a_blob_in_nats_is_an_object_for_every_client(make_nats: Callable[..., NatsServer], tmp_path: Path) -> None:
    server = make_nats()
    blobs = _provisioned(server, tmp_path)
    data = random.Random(5).randbytes(2 * MIB)
    blobs.put(data)

    async def read() -> bytes:
        connection = await nats.connect(**server.options("provisioner"))
        found = await (await connection.jetstream().object_store("blobs")).get(sha(data))
        await connection.close()
        return found.data or b""

    assert asyncio.run(read()) == data


def test_an_outsider_keeps_and_reads_blobs_in_nats(make_nats: Callable[..., NatsServer], tmp_path: Path) -> None:
    server = make_nats()
    inside = _provisioned(server, tmp_path / "inside")
    outside = opened(nats_spec(server, tmp_path / "outside", Role.PUBLISHER))
    data = random.Random(6).randbytes(2 * MIB)
    assert outside.put(data) == sha(data) and inside.get(sha(data)) == data and outside.get(sha(data)) == data


def test_what_a_crash_left_in_nats_is_removed_by_who_puts_it_next(
    make_nats: Callable[..., NatsServer], tmp_path: Path
) -> None:
    server = make_nats()
    blobs = _provisioned(server, tmp_path)
    data = b"half of it was stored"

    async def leave(count: bool) -> int:
        connection = await nats.connect(**server.options("provisioner"))
        if not count:
            await connection.jetstream().publish(f"$O.blobs.C.{sha(data)}.crashed", data[:5])
        body = json.dumps({"subjects_filter": "$O.blobs.C.>"}).encode()
        info = json.loads((await connection.request("$JS.API.STREAM.INFO.OBJ_blobs", body)).data)
        await connection.close()
        return len(info["state"].get("subjects") or {})

    assert asyncio.run(leave(count=False)) == 1
    with pytest.raises(NotFound):
        blobs.get(sha(data))
    blobs.put(data)
    assert blobs.get(sha(data)) == data
    assert asyncio.run(leave(count=True)) == 1


def _provisioned(server: NatsServer, folder: Path) -> Blobs:
    async def provision() -> None:
        bus = await connect(server.url, "provisioner", _login(server.options("provisioner")))
        await streams.provision(bus)
        await bus.close()

    asyncio.run(provision())
    return opened(nats_spec(server, folder, Role.EXTRACT))


def test_blobs_in_s3_take_their_credentials_from_the_environment(seaweedfs: SeaweedFS, tmp_path: Path) -> None:
    options = seaweedfs.options(prefix="env/")
    environ = {
        "AWS_ACCESS_KEY_ID": options.pop("access_key_id"),
        "AWS_SECRET_ACCESS_KEY": options.pop("secret_access_key"),
    }
    blobs = S3Blobs(BlobOptions.model_validate(options), environ, tmp_path)
    assert blobs.get(blobs.put(b"signed")) == b"signed"
    blobs.close()
