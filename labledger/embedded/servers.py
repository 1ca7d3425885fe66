"""NATS and Postgres of one lab's folder, started and stopped together."""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from bus.roles import Role
from labledger.embedded.files import FolderLock, write_private
from labledger.embedded.guarded import Guarded
from labledger.embedded.nats_server import NatsServer
from labledger.embedded.postgres import Postgres


class Servers:
    """NATS and Postgres of one lab folder, started together.

    with Servers(Path("lab")) as servers:
        servers.connection["nats"]["url"]
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        nats_port: int = 0,
        postgres_port: int = 0,
        users: Mapping[str, Role] | None = None,
        which: Literal["both", "nats", "postgres"] = "both",
    ) -> None:
        self.data_dir = Path(data_dir).resolve()
        logs = self.data_dir / "log"
        self._lock = FolderLock(self.data_dir / "lock")
        self.nats: NatsServer | None = None
        self.postgres: Postgres | None = None
        if which != "postgres":
            self.nats = NatsServer(self.data_dir / "nats", nats_port, users=users, log_dir=logs)
        if which != "nats":
            self.postgres = Postgres(self.data_dir / "postgres", postgres_port, log_dir=logs)

    @property
    def _all(self) -> list[Guarded]:
        return [server for server in (self.nats, self.postgres) if server is not None]

    @property
    def connection(self) -> dict[str, Any]:
        """What connection.json holds."""
        told: dict[str, Any] = {"version": 1}
        if self.nats:
            users = {
                user.name: {"user": user.name, "password": user.password, "inbox_prefix": user.inbox_prefix}
                for user in self.nats.users.values()
            }
            told["nats"] = {"url": self.nats.url, "users": users}
        if self.postgres:
            told["postgres"] = {"url": self.postgres.url, "readonly_url": self.postgres.readonly_url}
        return told

    def start(self) -> None:
        """Raises `EmbeddedError`; then nothing is left running."""
        self._lock.acquire()
        try:
            # Postgres as another user must pass through this folder; the secrets in it are 0600 each.
            self.data_dir.chmod(0o711 if os.geteuid() == 0 else 0o700)
            (self.data_dir / "log").mkdir(mode=0o700, exist_ok=True)
            with ThreadPoolExecutor(2) as pool:
                starts = [pool.submit(server.start) for server in self._all]
            for started in starts:
                started.result()
            write_private(self.data_dir / "connection.json", json.dumps(self.connection, indent=2) + "\n")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Both, in good order; then the folder is free for another process."""
        try:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(Guarded.stop, self._all))
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
