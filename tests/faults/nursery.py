"""Processes that need not load our modules: a nursery that has loaded them once forks each.

    harness --socket--> nursery --fork--> role | role | shipper ...

What begins is what its command line would begin, with arguments, surroundings and log of its own, and it dies the same deaths; only
the second that it takes to load the modules is spent once for all tests instead of each time something is started or killed. That the
command lines themselves start, the tests in tests/e2e see.

The nursery has one thread and no event loop, so that it can be forked safely. It ends with the harness, and its children with it.
"""

import asyncio
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
#: What roles and shippers load before they begin, each of them nearly all of it.
LOADED = (
    "labledger.cli.processes",
    "labledger.targets",
    "labledger.__main__",
    "bus.projector",
    "adapters.instruments.rack",
    "adapters.processes.pool",
    "handlers.worker",
    "tests.doubles.shipping",
)


def die_with_parent() -> None:
    """For the child, between fork and exec. Elsewhere than on Linux it must be killed by those who started it."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Forked:
    """A process of the nursery, with the part of `subprocess.Popen` and of asyncio's `Process` that the tests use."""

    def __init__(self, pid: int, end: socket.socket) -> None:
        self.pid = pid
        self._end = end
        self._code: int | None = None

    @property
    def returncode(self) -> int | None:
        """Negative numbers are signals; None while it runs."""
        if self._code is None and select.select([self._end], [], [], 0)[0]:
            told = self._end.recv(64)
            self._code = int(told) if told else -signal.SIGKILL  # the nursery has died, and all with it
            self._end.close()
        return self._code

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        while (code := self.returncode) is None:
            select.select([self._end], [], [], 1.0)
        return code

    async def ended(self) -> int:
        """The same without blocking the loop."""
        while (code := self.returncode) is None:
            await asyncio.sleep(0.01)
        return code


class Nursery:
    """The harness' end."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__)), str(theirs.fileno())],
                env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OPENBLAS_NUM_THREADS": "1"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                preexec_fn=die_with_parent,
            )

    def start(self, main: str, words: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> Forked:
        """Run the function `main` (`module:name`) as a program with these arguments; what it says is appended to `log`."""
        ours, theirs = socket.socketpair()
        with theirs, log.open("ab") as out:
            order = {"main": main, "words": list(words), "env": dict(env), "cwd": str(cwd)}
            socket.send_fds(self._socket, [json.dumps(order).encode() + b"\n"], [out.fileno(), theirs.fileno()])
        pid = ours.recv(64)
        if not pid:
            raise RuntimeError(f"the nursery has ended with {self._process.wait()}")
        return Forked(int(pid), ours)


@cache
def nursery() -> Nursery:
    """The nursery of this run of the tests, begun with its first use."""
    return Nursery()


# -- in the nursery ----------------------------------------------------------------------------------------------------


def main() -> int:
    orders = socket.socket(fileno=int(sys.argv[1]))
    for module in LOADED:
        importlib.import_module(module)
    from labledger import wiring
    from projections import projections

    wiring.consumers()
    projections()
    gc.collect()
    gc.freeze()  # what is loaded stays where it is, in pages that all children share
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    told: dict[int, socket.socket] = {}
    while True:
        readable, _, _ = select.select([orders, wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 1024)
            _tell_of_the_dead(told)
        if orders in readable:
            data, fds, _, _ = socket.recv_fds(orders, 1 << 20, 2)
            if not data:
                return 0
            while not data.endswith(b"\n"):
                data += orders.recv(1 << 20)
            order, (log, end) = json.loads(data), fds
            parent, child = os.getpid(), os.fork()
            if child == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for fd in (wake_read, wake_write, end, *(other.fileno() for other in told.values())):
                    os.close(fd)
                for other in told.values():
                    other.detach()
                orders.close()
                return _live(order, log, parent)
            os.close(log)
            told[child] = socket.socket(fileno=end)
            told[child].send(str(child).encode())


def _tell_of_the_dead(told: dict[int, socket.socket]) -> None:
    while told:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with told.pop(pid) as end:
            try:
                end.send(str(os.waitstatus_to_exitcode(status)).encode())
            except OSError:
                pass  # nobody waits for it any more


def _live(order: dict[str, Any], log: int, parent: int) -> int:
    """The child: what is left is that of a program that has just been started."""
    die_with_parent()
    if os.getppid() != parent:
        return 1
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    time.tzset()
    module, _, function = order["main"].partition(":")
    sys.argv = [module, *order["words"]]
    return getattr(importlib.import_module(module), function)() or 0


if __name__ == "__main__":
    sys.exit(main())
