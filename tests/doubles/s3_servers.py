"""Real S3 servers on loopback, from wheels: SeaweedFS tells the truth, `rclone serve s3` is a store that checks little.

What they do and do not check was measured: SeaweedFS compares checksums and honours `If-None-Match`, but not the signed hash of the
body; rclone keeps checksum headers as metadata and ignores conditions, but compares Content-MD5.
"""

import json
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labledger.embedded.guarded import Guarded, free_port

HOST = "127.0.0.1"
#: Signs all requests of tests. Nothing outside of this machine knows or could use them.
ACCESS_KEY, SECRET_KEY = "labledger-test", "labledger-test-secret"
BUCKET = "lab"


def program(name: str) -> Path:
    """A program of a wheel, beside this interpreter, or on the PATH."""
    beside = Path(sys.executable).parent / name
    found = beside if beside.exists() else shutil.which(name)
    if not found:
        raise FileNotFoundError(f"no {name}: pip install 'labledger[test]'")
    return Path(found)


@dataclass(frozen=True)
class Login:
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY


class _S3Server(Guarded):
    """A server process; `kill` is SIGKILL, `start` brings it back on the same port and data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        super().__init__(self.folder / "log", self.folder / "pid")
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def options(self, **more: Any) -> dict[str, Any]:
        """The options of a target or a blob store on this server."""
        return {
            "endpoint_url": self.url,
            "bucket": BUCKET,
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "addressing_style": "path",
        } | more

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), 0.5):
                pass
            urllib.request.urlopen(self.url, timeout=2).close()
            return True
        except urllib.error.HTTPError as error:
            return error.code < 500  # 403: it is there, and wants a signature
        except OSError:
            return False


class SeaweedFS(_S3Server):
    """`weed server` with master, volume, filer and S3 in one process (about 1 GB of memory)."""

    name = "SeaweedFS"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port, self._master, self._volume, self._filer = _ports(4)
        (self.folder / "data").mkdir(exist_ok=True)
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (self.folder / "s3.json").write_text(json.dumps({"identities": [identity]}))

    def start(self) -> None:
        self._run(
            [
                str(program("weed")),
                "-logtostderr",
                "server",
                f"-dir={self.folder / 'data'}",
                f"-ip={HOST}",
                f"-ip.bind={HOST}",
                f"-master.port={self._master}",
                f"-volume.port={self._volume}",
                "-volume.max=50",
                "-master.volumeSizeLimitMB=1024",
                "-master.volumePreallocate=false",
                "-filer",
                f"-filer.port={self._filer}",
                "-s3",
                f"-s3.port={self.port}",
                f"-s3.config={self.folder / 's3.json'}",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-s3.iam=false",
                "-s3.autoCreateBucket=false",
                "-master.telemetry=false",
            ],
            env={"HOME": str(self.folder)},
        )
        self._wait_ready(self._answers, 60)


class RcloneS3(_S3Server):
    """`rclone serve s3` on a folder. Buckets are its subfolders."""

    name = "rclone serve s3"

    def start(self) -> None:
        (self.folder / "data" / BUCKET).mkdir(parents=True, exist_ok=True)
        if not self.port:
            self.port = free_port()
        self._run(
            [
                str(program("rclone")),
                "serve",
                "s3",
                f"--addr={HOST}:{self.port}",
                f"--auth-key={ACCESS_KEY},{SECRET_KEY}",
                f"--config={self.folder / 'rclone.conf'}",
                str(self.folder / "data"),
            ],
            env={"HOME": str(self.folder)},
        )
        self._wait_ready(self._answers, 30)


def _ports(count: int) -> list[int]:
    """Free ports whose gRPC twins (10000 higher) are free and exist."""
    found: list[int] = []
    while len(found) < count:
        port = free_port(found)
        if port + 10_000 < 65_536 and port not in found:
            found.append(port)
        else:
            with _between() as low:
                if low not in found:
                    found.append(low)
    return found


@contextmanager
def _between() -> Iterator[int]:
    """A free port below 55536: where the system only hands out high ones, we look ourselves."""
    import random

    for _ in range(200):
        port = random.randint(20_000, 32_000)
        with socket.socket() as one, socket.socket() as twin:
            try:
                one.bind((HOST, port))
                twin.bind((HOST, port + 10_000))
            except OSError:
                continue
        yield port
        return
    raise RuntimeError("no free pair of ports")


def make_bucket(server: _S3Server, bucket: str = BUCKET) -> None:
    """Make a bucket; SeaweedFS takes a few seconds after its port is open until it can."""
    import botocore.session

    session = botocore.session.get_session()
    client: Any = session.create_client(
        "s3",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="first", Body=b"ready")
            client.delete_object(Bucket=bucket, Key="first")
            return
        except Exception as error:
            if "BucketAlready" in str(error) or time.monotonic() > deadline:
                if time.monotonic() > deadline:
                    raise
                return
            time.sleep(0.2)
