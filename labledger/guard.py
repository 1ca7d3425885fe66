"""The small process between `labledger` and a server that it embeds.

    labledger --pipe--> guard --> nats-server | postgres

A server must not outlive us, even when we are killed with `kill -9`. The kernel's own means (PR_SET_PDEATHSIG) is tied to
the *thread* that started the child, exists only on Linux, and is lost by the change of user that Postgres needs. So each
server gets a guard: a bare interpreter with one thread, that starts the server, waits, and stops it when asked through the
pipe, when the pipe closes, or when its parent process has changed. On Linux the server dies with its guard as well
(PR_SET_PDEATHSIG, here without the pitfalls); on macOS a guard that is killed with -9 leaves its server behind, and the next
start on that folder finds it by its pid file and ends it.

Run as `python -I -S guard.py '<json>'`; imports nothing but the standard library. Fields: argv, env, log, pid_file,
parent (pid), stop_signal, grace_s, user ([uid, gid] or null), capability (number or null), once (end with the command).
`env` null is the guard's own environment: secrets in it must not be read off the guard's command line.
On stdout it says `pid <n>` once the server was started. On stdin it takes `stop` and `kill`.
"""

import ctypes
import json
import os
import select
import signal
import sys
import time
from types import FrameType
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_CHILD_SUBREAPER = 36
_PR_CAP_AMBIENT = 47
_LINUX = sys.platform.startswith("linux")


def _prctl(option: int, a: int = 0, b: int = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(a), ctypes.c_ulong(b), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {a}, {b})")


def _keep_only(capability: int) -> None:
    """After setuid with KEEPCAPS: drop all capabilities but this one, and let it survive the exec."""
    bit = 1 << capability
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    _prctl(_PR_CAP_AMBIENT, 2, capability)


def become(user: tuple[int, int], capability: int | None) -> None:
    """Become an unprivileged user for good."""
    if capability is not None:
        _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setgid(user[1])
    os.setuid(user[0])
    if capability is not None:
        _keep_only(capability)


def descendants(pid: int) -> list[int]:
    """All processes below this one, the nearest first."""
    children: dict[int, list[int]] = {}
    if _LINUX:
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as stat:
                        parent = int(stat.read().rpartition(")")[2].split()[1])
                except (OSError, IndexError, ValueError):
                    continue
                children.setdefault(parent, []).append(int(name))
    else:
        import subprocess  # not on Linux, where it would cost a third of our start

        for line in subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True
        ).stdout.splitlines():
            child, parent_text = line.split()
            children.setdefault(int(parent_text), []).append(int(child))
    found: list[int] = []
    todo = [pid]
    while todo:
        below = children.get(todo.pop(0), [])
        found += below
        todo += below
    return found


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and all below it. It is stopped first, so that it cannot have new children meanwhile."""
    _signal(pid, signal.SIGSTOP)
    for each in [pid, *descendants(pid)]:
        _signal(each, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler, so that the wake-up pipe hears of the signal."""


def _launch(spec: dict[str, Any]) -> int:
    guard = os.getpid()
    log = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    child = os.fork()
    if child:
        os.close(log)
        return child
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        if spec["user"]:
            become(tuple(spec["user"]), spec["capability"])
        if _LINUX:
            # Only now: a change of user clears it.
            _prctl(_PR_SET_PDEATHSIG, spec["stop_signal"])
            if os.getppid() != guard:
                os._exit(1)
        os.umask(0o077)
        os.execve(spec["argv"][0], spec["argv"], os.environ if spec["env"] is None else spec["env"])
    except BaseException as error:
        os.write(2, f"cannot start {spec['argv'][0]}: {error}\n".encode())
    os._exit(127)


def main() -> int:
    spec: dict[str, Any] = json.loads(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if _LINUX:
        # A killed postmaster leaves its children to us, so that we know when the last of them is gone.
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, _nothing)

    child = _launch(spec)
    if spec["pid_file"]:
        with open(spec["pid_file"], "w", encoding="ascii") as file:
            file.write(f"{child}\n")
    os.write(1, f"pid {child}\n".encode())

    watched = [0, wake_read]
    asked_at: float | None = None
    status: int | None = None
    while True:
        # The answer of the kernel about all that has ended; a server that has ended takes its guard with it.
        while True:
            try:
                pid, ended = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid, ended, status = 0, 0, 1 if status is None else status
                break
            if pid == 0:
                break
            if pid == child:
                status = ended
        if status is not None:
            orphans = descendants(os.getpid())
            if not orphans:
                break
            for pid in orphans:
                _signal(pid, signal.SIGKILL)
        if asked_at is not None and status is None and time.monotonic() - asked_at > spec["grace_s"]:
            kill_tree(child)
        readable, _, _ = select.select(watched, [], [], 0.05 if status is not None else 0.5)
        if wake_read in readable:
            os.read(wake_read, 1024)
        words = b""
        if 0 in readable:
            words = os.read(0, 64)
            if not words:
                watched.remove(0)
        if b"kill" in words:
            kill_tree(child)
        orphaned = os.getppid() != spec["parent"] or 0 not in watched
        if asked_at is None and (b"stop" in words or orphaned):
            asked_at = time.monotonic()
            _signal(child, spec["stop_signal"])
    if spec["pid_file"]:
        try:
            os.unlink(spec["pid_file"])
        except OSError:
            pass
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
