"""A pool of processes, each of which does one task at a time and stays for the next.

Unlike the pools of the standard library, a task can be ended while it runs (its process is), and a process that crashes costs
its own task and no other. Processes are spawned, not forked: the libraries that they load have threads and locks. What passes
between us and them is JSON, never a pickle: they decode files from anywhere, and what they answer must not run here.

A process ends with whoever started it, however that ends.
"""

import asyncio
import importlib
import json
import logging
import multiprocessing as mp
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import connection as pipes
from multiprocessing.connection import Connection
from typing import Any, Protocol

from domain.ports import NotPossible, PictureRefused, ProcessDied, Report, TaskFailed, TookTooLong

log = logging.getLogger("labledger.worker")

#: A process is replaced after so many tasks: what a library leaks does not add up for ever.
TASKS_EACH = 500
#: Loading the libraries of an extractor on a machine that is busy.
START_S = 120.0

Task = Callable[[Mapping[str, Any], Report], Mapping[str, Any]]


class Tasks(Protocol):
    """What a process can do, by name. Made in the process itself, by the factory that the pool names."""

    def __getitem__(self, task: str) -> Task: ...


class _Stopped(Exception):
    """Somebody cancelled the task."""


class ProcessPool:
    """`factory` is `module:function`; it is called in each process with `arguments`, and answers the `Tasks` there."""

    def __init__(self, slots: int, factory: str, arguments: Mapping[str, Any]) -> None:
        self._all = [_Slot(factory, json.dumps(dict(arguments))) for _ in range(slots)]
        self._free = list(self._all)
        self._room = asyncio.Semaphore(slots)
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="pool")

    @property
    def slots(self) -> int:
        return len(self._all)

    @property
    def pids(self) -> list[int]:
        """The processes that live, of those that were started so far."""
        return [pid for slot in self._all if (pid := slot.pid) is not None]

    async def run(self, task: str, spec: Mapping[str, Any], report: Report, limit_s: float) -> dict[str, Any]:
        """See `domain.ports.Pool`. Waits for a free process first."""
        async with self._room:
            slot = self._free.pop()
            stop = threading.Event()
            loop = asyncio.get_running_loop()
            doing = loop.run_in_executor(self._threads, slot.run, task, dict(spec), report, limit_s, stop)
            try:
                return await asyncio.shield(doing)
            except asyncio.CancelledError:
                stop.set()
                await asyncio.wait([doing])
                if not doing.cancelled():
                    doing.exception()  # heard
                raise
            finally:
                self._free.append(slot)

    def close(self) -> None:
        for slot in self._all:
            slot.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)


class _Slot:
    """One process after another. Used by one thread at a time."""

    def __init__(self, factory: str, arguments: str) -> None:
        self._factory = factory
        self._arguments = arguments
        self._process: Any = None
        self._pipe: Connection | None = None
        self._done = 0

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.is_alive() else None

    def _start(self, stop: threading.Event) -> None:
        context = mp.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._factory, self._arguments), daemon=True)
        process.start()
        theirs.close()
        self._process, self._pipe, self._done = process, ours, 0
        said = self._next(time.monotonic() + START_S, stop)
        if said["says"] != "ready":
            self.kill()
            raise TaskFailed(f"a process of the pool cannot begin: {said.get('error', said)}")

    def _next(self, deadline: float, stop: threading.Event) -> dict[str, Any]:
        """What the process says next."""
        assert self._pipe is not None
        while True:
            if stop.is_set():
                self.kill()
                raise _Stopped
            if time.monotonic() > deadline:
                self.kill()
                raise TookTooLong
            if not pipes.wait([self._pipe, self._process.sentinel], timeout=0.1):
                continue
            try:
                # What it said before it ended is still in the pipe.
                if self._pipe.poll():
                    return json.loads(self._pipe.recv_bytes())
            except (EOFError, OSError, ValueError):
                pass
            raise ProcessDied(self._how_it_ended())

    def _how_it_ended(self) -> str:
        self._process.join(5)
        code = self._process.exitcode
        self.kill()
        how = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        return f"the process that did it {how}"

    def run(
        self, task: str, spec: Mapping[str, Any], report: Report, limit_s: float, stop: threading.Event
    ) -> dict[str, Any]:
        if self._process is None or not self._process.is_alive() or self._done >= TASKS_EACH:
            self.kill()
            self._start(stop)
        assert self._pipe is not None
        self._done += 1
        deadline = time.monotonic() + limit_s
        try:
            self._pipe.send_bytes(json.dumps({"task": task, "spec": spec}).encode())
        except OSError:
            raise ProcessDied(self._how_it_ended()) from None
        try:
            while True:
                said = self._next(deadline, stop)
                match said["says"]:
                    case "progress":
                        report(float(said["percent"]), str(said["note"]))
                    case "done":
                        return said["result"]
                    case "refused":
                        raise PictureRefused(said["error"])
                    case "not possible":
                        raise NotPossible(said["error"])
                    case _:
                        raise TaskFailed(said.get("error", "it said something that means nothing"))
        except TookTooLong:
            raise TookTooLong(f"it took longer than {limit_s:g} s and was ended") from None

    def kill(self) -> None:
        """End the process at once; it has nothing to put in order, as whatever counts is written by us."""
        process, pipe = self._process, self._pipe
        self._process = self._pipe = None
        if process is not None:
            process.kill()
            process.join(10)
        if pipe is not None:
            pipe.close()


# -- in the process -----------------------------------------------------------------------------------------------------------


def _serve(pipe: Connection, factory: str, arguments: str) -> None:
    """The life of a process of the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; whoever started us ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # One task has one core: the pool has as many processes as there are cores to use.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
        os.environ.setdefault(name, "1")

    def say(**words: Any) -> None:
        pipe.send_bytes(json.dumps(words, allow_nan=False).encode())

    try:
        module, _, function = factory.partition(":")
        tasks: Tasks = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    except Exception as error:
        say(says="cannot begin", error=f"{type(error).__name__}: {error}")
        return
    say(says="ready")
    while True:
        try:
            order = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            result = tasks[order["task"]](order["spec"], lambda p, note: say(says="progress", percent=p, note=note))
            say(says="done", result=result)
        except PictureRefused as error:
            say(says="refused", error=str(error))
        except NotPossible as error:
            say(says="not possible", error=str(error))
        except Exception as error:
            log.exception("task %s", order["task"])
            say(says="failed", error=f"{type(error).__name__}: {error}")


def _end_with_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        pipes.wait([parent.sentinel])
        os._exit(1)
