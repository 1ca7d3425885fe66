"""One large file to a local S3 server, by the target of ours in a process of its own.

    python -m bench.s3 OPTIONS FILE SHA256      prints {"value": MB/s, "peak_mb": ..., "loop_ms": ...}

The time has all that a delivery does: the look beforehand, the hashing of parts and whole, the proof afterwards. Not in it are the
client's start and the probe, which a process does once.
"""

import asyncio
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.storage.s3 import Options, Target
from bench.frame import Bench
from bench.machine import peak_rss_mb
from bus.ids import uuid7
from domain.ports import Shipment, TargetContext
from tests.doubles.s3_servers import SeaweedFS, make_bucket


async def server_of(bench: Bench) -> SeaweedFS:
    """A SeaweedFS for the row, with a bucket."""

    async def make() -> SeaweedFS:
        server = SeaweedFS(bench.new_folder("seaweedfs"))
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(make_bucket, server)
        return server

    return await bench.once("seaweedfs", make, lambda server: server.kill())


async def file_of(bench: Bench) -> tuple[Path, str]:
    """1 GiB of random bytes (128 MiB of a quick run), and its SHA-256."""

    def make() -> tuple[Path, str]:
        path, digest = bench.new_folder("file") / "large.bin", hashlib.sha256()
        with path.open("wb") as file:
            for _ in range(bench.size(1024, 128)):
                piece = os.urandom(1 << 20)
                digest.update(piece)
                file.write(piece)
        return path, digest.hexdigest()

    return await bench.once("file", lambda: asyncio.to_thread(make))


async def upload(bench: Bench) -> dict[str, Any]:
    server, (path, sha256) = await server_of(bench), await file_of(bench)
    options = server.options(prefix=f"ours-{uuid7()}/")
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.s3", json.dumps(options), str(path), sha256, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    if child.returncode:
        raise RuntimeError("the upload of ours failed")
    found: dict[str, Any] = json.loads(out)
    for key in ("peak_mb", "loop_ms"):
        bench.note(key, found[key])
    return found


async def _main(options: str, file: str, sha256: str) -> None:
    async def no_nats() -> Any:
        raise RuntimeError("S3 needs no NATS")

    async def keep(_: Any) -> None:
        return None

    def parcel(path: Path, digest: str) -> Shipment:
        return Shipment(
            delivery_id=UUID(uuid7()),
            attempt=1,
            key="",
            path=path,
            sha256=digest,
            size=path.stat().st_size,
            media_type="application/octet-stream",
            file_name=path.name,
            options={},
            checkpoint=None,
            report=lambda _percent, _text: None,
            keep=keep,
        )

    worst_s = 0.0

    async def watch() -> None:
        nonlocal worst_s
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.002)
            worst_s = max(worst_s, time.perf_counter() - before - 0.002)

    target = Target("bench", Options.model_validate_json(options), TargetContext(environ={}, nats=no_nats))
    small = Path(f"{file}.small")
    small.write_bytes(b"first")
    await target.deliver(parcel(small, hashlib.sha256(b"first").hexdigest()))
    watching = asyncio.create_task(watch())
    started = time.perf_counter()
    await target.deliver(parcel(Path(file), sha256))
    took_s = time.perf_counter() - started
    watching.cancel()
    await target.close()
    peak_mb = round(peak_rss_mb(os.getpid()))
    rate = Path(file).stat().st_size / 1e6 / took_s
    print(json.dumps({"value": rate, "peak_mb": peak_mb, "loop_ms": round(1e3 * worst_s, 1)}))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
