"""A server as a process of its own with a guard (labledger/guard.py), its port, and what a crash left of it."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from labledger.embedded.errors import EmbeddedError

LOOPBACK = "127.0.0.1"
_LOG_LIMIT_BYTES = 10_000_000


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


def command_line(pid: int) -> str:
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


def read_pid(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def wait_until(true: Callable[[], bool], timeout_s: float, step_s: float = 0.01) -> bool:
    end = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(step_s)
    return True


def send_signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def start_guard(
    name: str,
    log_path: Path,
    spec: Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a process with its guard; answers the guard, and the id of the process. `spec`: see guard.py.

    Raises `EmbeddedError`.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    if log_path.exists() and log_path.stat().st_size > _LOG_LIMIT_BYTES:
        log_path.replace(log_path.with_suffix(".log.1"))
    told = {**spec, "log": str(log_path), "parent": os.getpid()}
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__).parent.with_name("guard.py")), json.dumps(told)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environ,
        # Away from our terminal: Ctrl-C is for us, and we end all in their order.
        start_new_session=True,
        cwd=cwd,
    )
    assert guard.stdout is not None
    first = guard.stdout.readline().split()
    if len(first) != 2 or first[0] != b"pid":
        guard.wait()
        raise EmbeddedError(f"the guard of {name} ended at once (code {guard.returncode})")
    return guard, int(first[1])


@dataclass(frozen=True)
class Account:
    """The system's user that a server runs as, when we are root; a capability it must keep to reach its files."""

    name: str
    uid: int
    gid: int
    capability: int | None = None


class Guarded(ABC):
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
        account: Account | None = None,
        env: Mapping[str, str] | None = None,
        once: bool = False,
    ) -> subprocess.Popen[bytes]:
        guard, pid = start_guard(
            self.name,
            self.log_path,
            {
                "argv": list(argv),
                "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", **(env or {})},
                "pid_file": None if once else str(self.pid_file),
                "stop_signal": int(self.stop_signal),
                "grace_s": 10.0,
                "user": [account.uid, account.gid] if account else None,
                "capability": account.capability if account else None,
            },
            cwd="/",
        )
        if not once:
            self.pid, self._guard = pid, guard
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
        if not wait_until(lambda: not self.running or ready(), timeout_s):
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
        if not wait_until(lambda: port_is_free(port), self.port_patience_s):
            raise EmbeddedError(
                f"port {port} on {LOOPBACK} belongs to {self.name} of this lab, but another program has it. "
                f"Stop that program, or choose another port with {setting} (clients must learn of it)."
            )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
