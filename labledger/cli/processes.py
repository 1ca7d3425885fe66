"""Running the lab: up, down, run, provision, config, doctor, demo."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from labledger.cli.common import Code, Session, Stop, command

#: Instruments of `labledger up --simulate`: one of each kind that needs no hardware.
SIMULATED: dict[str, Any] = {
    "instruments": {
        "stage": {"driver": "simulated_stage", "options": {"speed_mm_s": 200.0}},
        "piezo": {"driver": "simulated_piezo"},
        "meter": {"driver": "simulated_multimeter"},
        "lockin": {"driver": "simulated_lockin"},
        "spectrometer": {"driver": "simulated_spectrometer"},
        "oven": {"driver": "simulated_temperature"},
        "smu": {
            "driver": "scpi",
            "address": "GPIB0::24::INSTR",
            "options": {"table": "source_meter", "sim": "demo"},
        },
    }
}


def register(app: typer.Typer) -> None:
    @command(app, "up", example="labledger up --data lab --simulate")
    def _up(
        session: Session,
        simulate: Annotated[
            bool, typer.Option("--simulate", help="Add a station `sim` with simulated instruments.")
        ] = False,
        detach: Annotated[
            bool, typer.Option("--detach", help="Return once all is up; `labledger down` ends it.")
        ] = False,
        ready_s: Annotated[float, typer.Option("--ready-timeout", help="Seconds to wait until all is up.")] = 90.0,
    ) -> None:
        """Run a whole lab on this machine: servers, streams, every role, and the stations of the settings.

        Writes DIR/connection.json for whoever wants to connect, keeps its roles running, and ends all with Ctrl-C.
        """
        environ = session.environ()
        if simulate and not session.settings.stations:
            environ["LABLEDGER_STATIONS"] = json.dumps({"sim": SIMULATED})
        if detach:
            _detach(session, environ, ready_s, simulate=simulate)
        else:
            asyncio.run(_run_up(session, environ, ready_s))

    @command(app, "down", example="labledger down --data lab")
    def _down(
        session: Session, wait_s: Annotated[float, typer.Option("--wait", help="Seconds to wait.")] = 60.0
    ) -> None:
        """End the lab that `labledger up` runs on this folder, in good order."""
        told = _told_by_up(session.settings.data_dir)
        if told is None:
            raise Stop(f"no lab is up in {session.settings.data_dir}", Code.REFUSED)
        pid = int(told["pid"])
        try:
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + wait_s
            while time.monotonic() < deadline:
                os.kill(pid, 0)
                time.sleep(0.05)
        except ProcessLookupError:
            session.print(f"the lab in {session.settings.data_dir} has ended")
            session.emit({"ended": True, "pid": pid})
            return
        raise Stop(f"process {pid} has not ended within {wait_s:g} s", Code.UNREACHABLE)

    @command(app, "run", example="labledger run station bench")
    def _run(
        session: Session,
        role: Annotated[
            str, typer.Argument(help="commands, projections, station, extract, deliver, provision or servers.")
        ],
        name: Annotated[
            str | None, typer.Argument(help="Of a station, or of a target (deliver): which one of the settings.")
        ] = None,
    ) -> None:
        """Run one role, in the foreground, until SIGTERM or Ctrl-C. Any number of times over, but each station once."""
        run_one(session, role, name)

    @command(app, "provision", example="labledger provision --url nats://user:password@host:4222")
    def _provision(session: Session) -> None:
        """Create the streams that are missing, and see that the others are right. Safe to repeat."""
        run_one(session, "provision", None)

    @command(app, "config", example="labledger config --json")
    def _config(session: Session) -> None:
        """Every setting: its present value, where that came from, and what it does. Secrets are masked."""
        from dataclasses import asdict

        from labledger.settings import reference

        rows = [asdict(one) for one in reference(session.settings)]
        heads = {"name": "setting", "value": "value", "source": "from", "variable": "variable", "description": "what"}
        session.table(rows, heads)

    @command(app, "doctor", example="labledger doctor --data lab")
    def _doctor(
        session: Session,
        role: Annotated[
            str | None, typer.Option("--role", help="Only ask whether this role reaches its servers (health check).")
        ] = None,
    ) -> None:
        """Say what is missing on this machine and in this lab, and how to mend it."""
        from dataclasses import asdict

        from labledger import doctor

        asked = doctor.check_lab(session.settings, role) if role else doctor.diagnose(session.settings)
        checks = asyncio.run(asked)
        session.emit([asdict(check) for check in checks])
        marks = {"ok": "[green]ok  [/green]", "warn": "[yellow]warn[/yellow]", "fail": "[bold red]FAIL[/bold red]"}
        for check in checks:
            session.print(f"{marks[check.state]} [bold]{check.name}[/bold]: {_plain(check.found)}")
            if check.mend:
                session.print(f"       [dim]->[/dim] {_plain(check.mend)}")
        raise typer.Exit(doctor.exit_code(checks))

    @command(app, "demo", example="labledger demo")
    def _demo(
        session: Session,
        keep: Annotated[bool, typer.Option("--keep", help="Keep the folder; the lab itself always ends.")] = False,
        points: Annotated[int, typer.Option("--side", min=10, max=1000, help="Lines and columns of the grid.")] = 100,
        outside: Annotated[
            str | None,
            typer.Option(
                "--outside",
                metavar="MODULE",
                help="Deliver a scan to the systems that this module starts, as `make demo` does in a checkout.",
            ),
        ] = None,
    ) -> None:
        """A whole lab in under a minute: scans, a crash, recovery, tables, deliveries, proofs. Leaves nothing running."""
        from labledger.demo import run_demo

        raise typer.Exit(run_demo(session.data, keep=keep, side=points, outside=outside))

    @command(app, "docs", example="labledger docs", hidden=True)
    def _docs(session: Session) -> None:
        """Write the generated part of docs/ (in a checkout of the source)."""
        import importlib.util

        if importlib.util.find_spec("labledger.docs") is None:
            raise Stop("this version of labledger cannot write its docs", Code.REFUSED)
        module: Any = importlib.import_module("labledger.docs")
        raise typer.Exit(module.main([]))


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


# ---------------------------------------------------------------------------------------------------------------------- run


def logging_to_stderr(settings: Any) -> None:
    """Lines for people, or JSON for a collector, as the settings say."""
    import logging

    class Json(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            line: dict[str, Any] = {
                "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{record.msecs:03.0f}",
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": record.getMessage(),
            }
            if record.exc_info:
                line["error"] = self.formatException(record.exc_info)
            return json.dumps(line)

    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(Json() if settings.log.format == "json" else text)
    logging.basicConfig(level=settings.log.level.upper(), handlers=[handler], force=True)
    if settings.log.level != "debug":
        logging.getLogger("pyvisa").setLevel(logging.WARNING)


def run_one(session: Session, role: str, name: str | None) -> None:
    from labledger import wiring

    settings = session.settings
    logging_to_stderr(settings)
    match role:
        case "commands":
            wiring.run_role(lambda stopped: wiring.run_commands(settings, stopped))
        case "projections":
            wiring.run_role(lambda stopped: wiring.run_projections(settings, stopped))
        case "station":
            if name is None and len(settings.stations) != 1:
                known = ", ".join(settings.stations) or "none: add [stations.NAME.instruments.NAME] to labledger.toml"
                raise Stop(f"which station? The settings have {known}", Code.INVALID)
            chosen = name or next(iter(settings.stations))
            wiring.run_role(lambda stopped: wiring.run_station(settings, stopped, chosen))
        case "extract":
            wiring.run_role(lambda stopped: wiring.run_extract(settings, stopped))
        case "deliver":
            wiring.run_role(lambda stopped: wiring.run_deliver(settings, stopped, name))
        case "provision":
            asyncio.run(wiring.provision(settings))
            session.print("the streams are there and right")
            session.emit({"provisioned": True})
        case "servers":
            _run_servers(session)
        case _:
            raise Stop(
                f"{role!r} is no role: there are commands, projections, station, extract, deliver, provision, servers",
                Code.INVALID,
            )


def _run_servers(session: Session) -> None:
    from labledger import wiring
    from labledger.embedded.servers import Servers

    settings = session.settings

    async def serve(stopped: asyncio.Event) -> None:
        servers = Servers(settings.data_dir, nats_port=settings.nats.port, postgres_port=settings.postgres.port)
        await asyncio.to_thread(servers.start)
        try:
            session.print(f"servers run; addresses and credentials are in {settings.data_dir / 'connection.json'}")
            session.emit({"connection": str(settings.data_dir / "connection.json")})
            await stopped.wait()
        finally:
            await asyncio.to_thread(servers.stop)

    wiring.run_role(serve)


# ----------------------------------------------------------------------------------------------------------------------- up


def _told_by_up(data_dir: Path) -> dict[str, Any] | None:
    """What DIR/up.json says, if the process that wrote it lives."""
    try:
        told: dict[str, Any] = json.loads((data_dir / "up.json").read_text(encoding="utf-8"))
        os.kill(int(told["pid"]), 0)
    except (OSError, ValueError, KeyError):
        return None
    return told


async def _run_up(session: Session, environ: dict[str, str], ready_s: float) -> None:
    import logging

    from labledger.settings import load
    from labledger.supervisor import Notice, Supervisor

    logging.basicConfig(level=logging.ERROR, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = load(environ)

    def on_notice(notice: Notice) -> None:
        session.emit({"notice": notice.text, "role": notice.role, "bad": notice.bad})
        session.print(f"[{'yellow' if notice.bad else 'green'}]{_plain(notice.text)}[/]")

    supervisor = Supervisor(settings, environ, on_notice=on_notice)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, supervisor.ask_to_stop)
    await supervisor.start()
    try:
        began = time.monotonic()
        ready = asyncio.create_task(supervisor.ready(ready_s))
        ended = asyncio.create_task(supervisor.ended())
        await asyncio.wait([ready, ended], return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            ready.cancel()
            ended.result()
            return
        ready.result()
        _say_up(session, supervisor, time.monotonic() - began)
        await ended
        session.print("ending in good order ...")
    finally:
        await supervisor.stop()


def _say_up(session: Session, supervisor: Any, took_s: float) -> None:
    folder = supervisor.data_dir
    processes = [{"name": name, "pid": pid, "where": where} for name, pid, where in supervisor.processes]
    if session.json:
        connection = str(folder / "connection.json")
        session.emit({"up": True, "pid": os.getpid(), "connection": connection, "processes": processes})
        return
    session.print(
        f"[bold green]the lab is up[/bold green] in {_plain(str(folder))} [dim](roles took {took_s:.1f} s)[/dim]"
    )
    session.table(processes, {"name": "role", "pid": "process", "where": "address or log"})
    session.print(f"connect with  [bold]{_plain(str(folder / 'connection.json'))}[/bold]")
    data = f" --data {session.data}" if session.data else ""
    if not supervisor.settings.stations:
        session.print(
            "no station yet: add [bold]\\[stations.NAME.instruments.NAME][/bold] to labledger.toml, or use --simulate"
        )
    session.print(
        f"go on with    [bold]labledger scan submit --template line{_plain(data)}[/bold], or labledger --help"
    )
    session.print("[dim]Ctrl-C ends all[/dim]")


def _detach(session: Session, environ: dict[str, str], ready_s: float, *, simulate: bool) -> None:
    folder = session.settings.data_dir
    if _told_by_up(folder) is not None:
        raise Stop(f"a lab is up in {folder} already: `labledger down` ends it", Code.REFUSED)
    log = folder / "log" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    words = [sys.executable, "-m", "labledger", "up", "--json", "--ready-timeout", str(ready_s)]
    root = str(Path(__file__).resolve().parent.parent.parent)
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environ.get("PYTHONPATH", "")]))
    with log.open("ab") as file:
        begins = file.tell()
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environ, start_new_session=True
        )
    deadline = time.monotonic() + ready_s + 30
    while (told := _told_by_up(folder)) is None or told["pid"] != process.pid:
        if process.poll() is not None or time.monotonic() > deadline:
            text = log.read_bytes()[begins:].decode(errors="replace").strip()
            raise Stop(
                f"the lab did not come up; {log} says: {text[-1000:]}", Code(process.returncode or Code.UNREACHABLE)
            )
        time.sleep(0.05)
    if session.json:
        session.emit({"up": True, "connection": str(folder / "connection.json")} | told)
        return
    session.print(f"[bold green]the lab is up[/bold green] in {_plain(str(folder))} as process {process.pid}")
    session.table(told["processes"], {"name": "role", "pid": "process", "where": "address or log"})
    session.print("`labledger down` ends it")
