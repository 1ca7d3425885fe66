"""Some nats-servers on this machine as one JetStream cluster."""

import json
import secrets
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from labledger.embedded.errors import EmbeddedError
from labledger.embedded.files import write_private
from labledger.embedded.guarded import LOOPBACK, Guarded, free_port, wait_until
from labledger.embedded.nats_server import ClusterMember, NatsServer, default_users


class Cluster:
    """Some nats-servers on this machine as one JetStream cluster, for tests of replicated streams (R3)."""

    def __init__(self, data_dir: Path, n: int = 3, *, sync_interval: str = "always") -> None:
        ports: list[int] = []
        for _ in range(3 * n):
            ports.append(free_port(avoid=ports))
        secret = secrets.token_hex(16)
        self._monitor = ports[2 * n :]
        self.servers: list[NatsServer] = []
        for i in range(n):
            routes = tuple(port for k, port in enumerate(ports[n : 2 * n]) if k != i)
            place = ClusterMember("lab", f"n{i}", ports[n + i], routes, self._monitor[i], secret)
            self.servers.append(
                NatsServer(Path(data_dir) / f"n{i}", ports[i], sync_interval=sync_interval, cluster=place)
            )

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def options(self, user: str) -> dict[str, Any]:
        return self.servers[0].options(user) | {"servers": self.urls}

    def start(self, timeout_s: float = 60) -> None:
        """Start those that do not run, and wait until all that run are in step with the others.

        Raises `EmbeddedError`.
        """
        self._share_users()
        for server in self.servers:
            server.start(wait=False)
        self.wait_healthy(timeout_s)

    def _share_users(self) -> None:
        """All members know the same passwords: those that the first one made."""
        first = self.servers[0].data_dir / "server.json"
        if not first.exists():
            people = {user.name: {"role": user.role.value, "password": user.password} for user in default_users()}
            write_private(first, json.dumps({"users": people}))
        for server in self.servers[1:]:
            write_private(server.data_dir / "server.json", first.read_text(encoding="utf-8"))

    def wait_healthy(self, timeout_s: float = 60) -> None:
        def healthy() -> bool:
            return all(self._ask(i, "healthz") is not None for i, it in enumerate(self.servers) if it.running)

        if not wait_until(healthy, timeout_s, step_s=0.05):
            words = "; ".join(server.last_words() for server in self.servers)
            raise EmbeddedError(f"the NATS cluster did not get ready within {timeout_s:g} s; {words}")

    def _ask(self, i: int, what: str) -> dict[str, Any] | None:
        url = f"http://{LOOPBACK}:{self._monitor[i]}/{what}"
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return json.load(answer)
        except (OSError, urllib.error.URLError, ValueError):
            return None

    def leader(self, stream: str) -> int | None:
        """Which server leads a stream now, by its number; None while there is none."""
        for i, server in enumerate(self.servers):
            answer = self._ask(i, "jsz?accounts=1&streams=1") if server.running else None
            accounts: list[dict[str, Any]] = (answer or {}).get("account_details") or []
            details: list[dict[str, Any]] = []
            for account in accounts:
                details += account.get("stream_detail") or []
            for detail in details:
                group: dict[str, Any] = detail.get("cluster") or {}
                # Only the leader's own word counts: the others may not have heard of a change yet.
                if detail.get("name") == stream and group.get("leader") == f"n{i}":
                    return i
        return None

    def stop(self) -> None:
        with ThreadPoolExecutor(len(self.servers)) as pool:
            list(pool.map(Guarded.stop, self.servers))

    def kill(self, i: int) -> None:
        self.servers[i].kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
