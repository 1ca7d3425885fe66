"""`labledger up`: the servers and all roles of a lab as processes of one machine, kept running.

    supervisor --pipe--> guard --> labledger run commands | projections | station NAME | extract | deliver
               (in process)    --> guards of nats-server and Postgres (labledger.embedded)

Each role has a guard (labledger/guard.py), so none outlives us, not even after `kill -9`. A role that ends is started again:
at once, then after growing pauses while it keeps ending. DIR/up.json tells which process does what, for `labledger down`
and for people.
"""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from labledger import wiring
from labledger.client import CommandRefused, Lab, LabError
from labledger.embedded.errors import EmbeddedError
from labledger.embedded.files import FolderLock, write_private
from labledger.embedded.guarded import start_guard
from labledger.embedded.servers import Servers
from labledger.settings import Settings
from projections import projections

log = logging.getLogger("labledger.up")

#: Pauses before a role that ended is started again; the first also counts for one that ran well for a while.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
RAN_WELL_S = 30.0

Waiting = Literal["starting", "running", "ended", "stopped"]


@dataclass(frozen=True)
class Notice:
    """Something that a person at the terminal should hear. `role` is "" for the whole."""

    text: str
    role: str = ""
    bad: bool = False


@dataclass
class RoleProcess:
    """One role: how it is started, and its present process."""

    name: str
    words: Sequence[str]
    log_path: Path
    environ: Mapping[str, str]
    pid: int = 0
    starts: int = 0
    state: Waiting = "starting"
    started_at: float = 0.0
    _guard: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def start(self) -> None:
        """Blocks for some milliseconds: until the guard has started the process."""
        spec: dict[str, Any] = {
            "argv": [sys.executable, "-m", "labledger", "run", *self.words],
            "env": None,
            "pid_file": None,
            "stop_signal": int(signal.SIGTERM),
            "grace_s": 15.0,
            "user": None,
            "capability": None,
        }
        self._guard, self.pid = start_guard(self.name, self.log_path, spec, environ=self.environ)
        self.starts += 1
        self.state = "running"
        self.started_at = time.monotonic()

    async def wait(self) -> int:
        """Until the process has ended; its exit code (128 + number for a signal)."""
        guard = self._guard
        if guard is None:
            return 0
        assert guard.stdout is not None
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        # The guard alone holds the other end of this pipe, and says nothing more: what can be read is that it has ended.
        loop.add_reader(guard.stdout, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(guard.stdout)
        while (code := guard.poll()) is None:
            await asyncio.sleep(0.005)
        for pipe in (guard.stdin, guard.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._guard = None
        return code

    def stop(self) -> None:
        """Ask it to end in good order; the guard ends it by force after its grace."""
        guard = self._guard
        pipe: IO[bytes] | None = guard.stdin if guard is not None else None
        if pipe is not None:
            with suppress(OSError, ValueError):
                pipe.write(b"stop\n")
                pipe.flush()

    def last_words(self) -> str:
        try:
            lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return next((line for line in reversed(lines) if line.strip()), "")[:300]


class Supervisor:
    """Runs a lab on its folder until `stop` is called.

        async with Supervisor(settings, environ, on_notice=print) as lab:
            await lab.ready()
            await lab.ended()

    `environ` is what the roles are started with: it must lead them to the same settings.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str] | None = None,
        *,
        on_notice: Callable[[Notice], None] = lambda notice: None,
    ) -> None:
        self.settings = settings
        self.data_dir = settings.data_dir.resolve()
        self._notice = on_notice
        self._stopping = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._servers: Servers | None = None
        self._lock: FolderLock | None = None
        environ = dict(os.environ if environ is None else environ)
        # The roles find our packages also where they are not installed (a checkout).
        root = str(Path(__file__).resolve().parent.parent)
        paths = [root, *(path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path)]
        environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
        environ["PYTHONUNBUFFERED"] = "1"
        logs = self.data_dir / "log"
        plan = [("commands", ["commands"]), ("projections", ["projections"])]
        plan += [(f"station {name}", ["station", name]) for name in settings.stations]
        plan += [(f"extract {number}", ["extract"]) for number in range(1, settings.extract.workers + 1)]
        if settings.targets:
            plan.append(("deliver", ["deliver"]))
        self.roles = {
            name: RoleProcess(name, words, logs / f"{name.replace(' ', '-')}.log", environ) for name, words in plan
        }

    # -- start ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Servers, streams, roles. Raises `EmbeddedError` (folder in use, no server), `BusError`, `SettingsError`."""
        settings = self.settings
        await asyncio.to_thread(self._start_servers)
        try:
            await wiring.provision(settings)
            for role in self.roles.values():
                self._tasks[role.name] = asyncio.create_task(self._keep(role))
            if self._servers is not None:
                self._tasks["servers"] = asyncio.create_task(self._keep_servers(self._servers))
        except BaseException:
            await self.stop()
            raise

    def _start_servers(self) -> None:
        settings = self.settings
        if settings.embedded_nats or settings.embedded_postgres:
            self._servers = Servers(
                self.data_dir,
                nats_port=settings.nats.port,
                postgres_port=settings.postgres.port,
                which="both"
                if settings.embedded_nats and settings.embedded_postgres
                else "nats"
                if settings.embedded_nats
                else "postgres",
            )
            self._servers.start()
        else:
            self._lock = FolderLock(self.data_dir / "lock")
            self._lock.acquire()

    async def ready(self, timeout_s: float = 60.0) -> None:
        """Return once a command is answered, every station is up and every read model is there.

        Raises `LabError` with the last words of the role that is not.
        """
        lab = Lab.connect(settings=self.settings, actor="labledger up", timeout_s=timeout_s)
        deadline = time.monotonic() + timeout_s
        names = [projection.name for projection in projections()]
        try:
            async with lab:
                try:
                    await lab.queues.create("main")
                except CommandRefused:
                    pass  # it is there, with settings of its own
                while waiting := await self._not_up(lab):
                    if time.monotonic() > deadline:
                        raise LabError(f"not ready after {timeout_s:g} s: {', '.join(waiting)}")
                    await asyncio.sleep(0.05)
                if lab.postgres_url:
                    await lab.wait_for(await lab.last_sequence(), names, timeout_s=deadline - time.monotonic())
        except LabError as error:
            words = "; ".join(f"{role.name}: {role.last_words()}" for role in self.roles.values() if role.last_words())
            raise LabError(f"{error} (last words: {words})") from error
        self.write_state()

    async def _not_up(self, lab: Lab) -> list[str]:
        """The stations of which the present process has not said that it is up."""
        waiting: list[str] = []
        for name in self.settings.stations:
            last = await lab.history("station", name)
            pids = [getattr(stored.event, "pid", None) for stored in last]
            if self.roles[f"station {name}"].pid not in pids:
                waiting.append(f"station {name}")
        return waiting

    # -- keep running -------------------------------------------------------------------------------------------------

    async def _keep(self, role: RoleProcess) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            await asyncio.to_thread(role.start)
            if self._stopping.is_set():
                role.stop()  # it began just when all was to end
            if role.starts > 1:
                self._notice(Notice(f"{role.name} runs again as process {role.pid}", role.name))
                self.write_state()
            code = await role.wait()
            if self._stopping.is_set():
                break
            role.state = "ended"
            if time.monotonic() - role.started_at > RAN_WELL_S:
                pause_s = FIRST_PAUSE_S
            how = f"was killed (signal {code - 128})" if code > 128 else f"ended (code {code})"
            words = "" if code > 128 else f": {role.last_words()}"
            self._notice(Notice(f"{role.name} {how}{words}; it starts again in {pause_s:g} s", role.name, bad=True))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        role.state = "stopped"

    async def _keep_servers(self, servers: Servers) -> None:
        pause_s = FIRST_PAUSE_S
        both = [server for server in (servers.nats, servers.postgres) if server is not None]
        while not self._stopping.is_set():
            for server in both:
                if not server.running:
                    self._notice(Notice(f"{server.name} has ended; it starts again", server.name, bad=True))
                    try:
                        await asyncio.to_thread(server.start)
                        self._notice(Notice(f"{server.name} runs again as process {server.pid}", server.name))
                        self.write_state()
                        pause_s = FIRST_PAUSE_S
                    except EmbeddedError as error:
                        self._notice(Notice(f"{server.name} does not start: {error}", server.name, bad=True))
                        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.25, pause_s)):
                    await self._stopping.wait()

    @property
    def processes(self) -> list[tuple[str, int, str]]:
        """What runs where: name, process id, address or log."""
        rows: list[tuple[str, int, str]] = []
        if self._servers is not None:
            if self._servers.nats:
                rows.append(("nats-server", self._servers.nats.pid, self._servers.nats.url))
            if self._servers.postgres:
                where = f"127.0.0.1:{self._servers.postgres.port}"
                rows.append(("postgres", self._servers.postgres.pid, where))
        rows += [(role.name, role.pid, str(role.log_path)) for role in self.roles.values()]
        return rows

    def write_state(self) -> None:
        told = {
            "version": 1,
            "pid": os.getpid(),
            "processes": [{"name": name, "pid": pid, "where": where} for name, pid, where in self.processes],
        }
        write_private(self.data_dir / "up.json", json.dumps(told, indent=2) + "\n")

    async def ended(self) -> None:
        """Until `ask_to_stop`, or a defect of ours ends the keeping of a role (then it is raised)."""
        waiting = asyncio.create_task(self._stopping.wait())
        done, _ = await asyncio.wait([waiting, *self._tasks.values()], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        for task in done:
            if task is not waiting:
                task.result()

    def ask_to_stop(self) -> None:
        self._stopping.set()

    async def stop(self) -> None:
        """End all in good order: stations first (they interrupt their scans and give their leases back), servers last."""
        self._stopping.set()
        stations = [name for name in self.roles if name.startswith("station ")]
        for names in (stations, [name for name in self.roles if name not in stations], ["servers"]):
            for name in names:
                if name in self.roles:
                    self.roles[name].stop()
            tasks = [self._tasks[name] for name in names if name in self._tasks]
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._servers is not None:
            await asyncio.to_thread(self._servers.stop)
        if self._lock is not None:
            self._lock.release()
        (self.data_dir / "up.json").unlink(missing_ok=True)

    async def __aenter__(self) -> "Supervisor":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


__all__ = ["Notice", "RoleProcess", "Supervisor"]
