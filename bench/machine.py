"""What the numbers were made on: processor, load, disk, versions. And the memory of a process, from the kernel."""

import os
import platform
import statistics
import subprocess
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from bench.servers import nats_server_exe

PACKAGES = ("nats-py", "psycopg", "pydantic", "uvloop", "faststream", "eventsourcing")


def fsync_ms(folder: Path, times: int = 100) -> float:
    """Median of an append of 4 KB with fdatasync: what a durable write costs at least on this disk."""
    took: list[float] = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(times):
            file.write(b"x" * 4096)
            file.flush()
            started = time.perf_counter()
            getattr(os, "fdatasync", os.fsync)(file.fileno())
            took.append(time.perf_counter() - started)
    return round(1e3 * statistics.median(took), 3)


def filesystem(folder: Path) -> str:
    """The type of the file system that the folder is on. On `tmpfs` a sync costs nothing, and the rows lie."""
    here = folder.resolve()
    mounts = [m for m in psutil.disk_partitions(all=True) if here.is_relative_to(m.mountpoint)]
    return max(mounts, key=lambda m: len(m.mountpoint)).fstype if mounts else "unknown"


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe(folder: Path, loop: str) -> dict[str, Any]:
    server = subprocess.run([nats_server_exe(), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
        "event_loop": loop,
        "nats_server": server,
        "versions": {package: _version(package) for package in PACKAGES},
        "filesystem": filesystem(folder),
        "fsync_ms": fsync_ms(folder),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def peak_rss_mb(pid: int) -> float:
    """The most memory that a living process has ever held, in MB (1e6 bytes).

    The kernel keeps the mark, so that no sampling can miss a peak. Raises `psutil.NoSuchProcess` when it has gone, and
    NotImplementedError where the kernel tells of other processes only what they hold now (macOS).
    """
    if Path("/proc/self/status").exists():
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError as error:
            raise psutil.NoSuchProcess(pid) from error
        # A process that has ended but was not waited for has no memory lines.
        mark = next((line for line in lines if line.startswith("VmHWM:")), None)
        if mark is None:
            raise psutil.NoSuchProcess(pid)
        return int(mark.split()[1]) * 1024 / 1e6
    peak: int | None = getattr(psutil.Process(pid).memory_info(), "peak_wset", None)
    if peak is None:
        raise NotImplementedError("this system does not keep the peak memory of another process")
    return peak / 1e6


def peak_rss_of_children_mb(pid: int) -> dict[str, float]:
    """Peak memory of each living descendant of a process, by `<pid> <command line>`."""
    found: dict[str, float] = {}
    for child in psutil.Process(pid).children(recursive=True):
        try:
            name = " ".join(child.cmdline())[:120] or child.name()
            found[f"{child.pid} {name}"] = peak_rss_mb(child.pid)
        except psutil.NoSuchProcess:
            continue  # it ended between the two calls
    return found
