"""`labledger demo`: a whole lab in under a minute, with a crash in the middle, and the proofs at the end.

Everything is real: nats-server and Postgres, each role a process of its own, a `kill -9`. Only the instruments are simulated.
Nothing is left running; the folder is removed unless it was named or is to be kept.
"""

import asyncio
import importlib
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.syntax import Syntax
from rich.table import Table

from bus import postgres, projector
from bus.roles import Role
from labledger import audit
from labledger.cli.common import make_console
from labledger.cli.scans import TEMPLATES
from labledger.client import Lab, as_plan
from labledger.client import Progress as ScanProgress
from labledger.settings import Settings, load
from labledger.supervisor import Notice, Supervisor
from labledger.wiring import connected
from projections import projections

SETTINGS = """\
[stations.bench.instruments]
stage        = { driver = "simulated_stage", options = { speed_mm_s = 100.0 } }
meter        = { driver = "simulated_multimeter" }
spectrometer = { driver = "simulated_spectrometer" }

[stations.bench.instruments.smu]
driver  = "scpi"                                     # a table of SCPI commands, no code
address = "GPIB0::24::INSTR"
options = { table = "source_meter", sim = "demo" }   # answered by pyvisa-sim
"""

#: Which artifacts go where by themselves, once there are these targets.
RULES = """\
[[deliver]]                     # all three artifacts of the grid
title = "grid*"
targets = ["archive"]

[[deliver]]                     # its plot, and then the key under which others look for the newest one
title = "grid*"
artifacts = ["plot"]
targets = ["ipfs"]
pointer = "newest"
key = "{sample_id}:latest"
"""
#: A mask that the MaskHub outside knows.
MASK = 42

#: Where in the grid the station is killed.
KILL_AT = 0.45
SAMPLE = "W12-3"


@dataclass(frozen=True)
class Planned:
    title: str
    template: str
    values: dict[str, Any] = field(default_factory=dict[str, Any])


def planned(side: int) -> list[Planned]:
    return [
        Planned("line: photodiode along x", "line", {"start": -2.0, "stop": 2.0, "num": 101}),
        Planned("I-V curve, SCPI by pyvisa-sim", "sweep", {"num": 41}),
        Planned("spectra: 256 pixels a point", "spectra", {"num": 21}),
        Planned(f"grid {side} x {side}, snake", "grid", {"x_num": side, "y_num": side}),
    ]


@dataclass
class Crash:
    """What was seen of it. Times in seconds after the kill."""

    pid: int = 0
    at: float = 0.0
    durable: int = 0
    first_new_s: float | None = None


class Screen:
    """Lines, and bars below them while scans run: live on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = console.is_terminal
        self._bars = Progress(
            TextColumn("  {task.description:<32}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>9}"),
            TextColumn("{task.fields[state]}"),
            console=console,
        )
        self._said: dict[int, tuple[int, str]] = {}

    def head(self, text: str) -> None:
        self.console.print(f"\n[bold cyan]{text}[/]")

    def say(self, text: str) -> None:
        self.console.print(f"  {text}")

    def bars(self) -> Live | None:
        return Live(Group(self._bars), console=self.console, refresh_per_second=12) if self.live else None

    def add(self, title: str) -> TaskID:
        return self._bars.add_task(title, total=None, rate="", state="[dim]queued[/]")

    def show(self, task: TaskID, title: str, progress: ScanProgress) -> None:
        rate = f"{progress.rate_s:,.0f}/s" if progress.rate_s else ""
        state = "interrupted" if progress.interrupted else progress.status
        if progress.attempt > 1 and state == "running":
            state = f"running, attempt {progress.attempt}"
        colour = {"completed": "green", "interrupted": "bold red", "failed": "bold red", "queued": "dim"}.get(state, "")
        text = f"[{colour}]{state}[/]" if colour else state
        self._bars.update(task, total=progress.total_points, completed=progress.points, rate=rate, state=text)
        if not self.live:
            quarter = 4 * progress.points // max(1, progress.total_points)
            if self._said.get(task) != (quarter, state) and state != "queued":
                self._said[task] = (quarter, state)
                self.say(f"{title:<32} {progress.points:>6} / {progress.total_points}  {rate:>9}  {text}")


#: What `systems(folder)` of a module for `--outside` yields: targets as settings, and variables with their credentials.
Systems = AbstractContextManager[tuple[str, Mapping[str, str]]]


def run_demo(data_dir: Path | None = None, *, keep: bool = False, side: int = 100, outside: str | None = None) -> int:
    """The whole of it. Answers the exit code: 0, 4 when something does not verify, 5 when it broke.

    `outside`: a module whose `systems(folder)` starts a target of each kind: archive, ipfs, newest, maskhub.
    """
    console = make_console()
    logging.getLogger("labledger").setLevel(logging.CRITICAL)
    folder = data_dir.absolute() if data_dir else Path(tempfile.mkdtemp(prefix="labledger-demo-"))
    named = data_dir is not None or keep
    done = False
    try:
        code = asyncio.run(_Demo(console, folder, side, named, outside).run())
        done = True
        return code
    except KeyboardInterrupt:
        console.print("\n  ended by you; nothing runs on")
        return 130
    except Exception as error:
        console.print(f"\n  [bold red]the demo broke[/]: {escape(str(error) or type(error).__name__)}")
        console.print(
            f"  [dim]its logs are in {folder / 'log'}; `labledger doctor` says whether this machine is fit[/]"
        )
        return 5
    finally:
        if done and not named:
            shutil.rmtree(folder, ignore_errors=True)


class _Demo:
    def __init__(self, console: Console, folder: Path, side: int, named: bool, outside: str | None) -> None:
        self.screen = Screen(console)
        self.console = console
        self.folder = folder
        self.plans = planned(side)
        self.named = named
        self.outside = outside
        self.step = 0
        self.began = time.monotonic()
        self.crash = Crash()
        self._notices: list[Notice] = []

    async def run(self) -> int:
        self.console.print(
            "[bold]labledger demo[/]: a lab on this machine, from command to event to instrument to table"
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        systems: Systems = nullcontext(("", {}))
        if self.outside:
            systems = importlib.import_module(self.outside).systems(self.folder / "outside")
        with systems as (targets, credentials):
            return await self._run(f"{SETTINGS}\n{RULES}\n{targets}" if targets else SETTINGS, credentials)

    async def _run(self, text: str, credentials: Mapping[str, str]) -> int:
        config, screen = self.folder / "labledger.toml", self.screen
        config.write_text(text, encoding="utf-8")
        self._head(f"settings ({config})")
        shown = Syntax(text.rstrip(), "toml", theme="ansi_dark", background_color="default", word_wrap=True)
        self.console.print(Padding(shown if screen.live else escape(text.rstrip()), (0, 0, 0, 2)))

        environ = {name: value for name, value in os.environ.items() if not name.startswith("LABLEDGER_")}
        environ |= {"LABLEDGER_CONFIG": str(config), "LABLEDGER_DATA_DIR": str(self.folder), **credentials}
        environ["LABLEDGER_EXTRACT_PROCESSES"] = "1"  # measuring comes first, also where there are two cores
        settings = load(environ)
        supervisor = Supervisor(settings, environ, on_notice=self._on_notice)
        async with supervisor:
            await supervisor.ready()
            self._say_up(supervisor)
            async with Lab.connect(settings=settings, actor="demo") as lab:
                scans = await self._scans(lab, supervisor)
                right = await self._tables(lab, scans)
                await self._artifacts(lab, scans[-1])
                if self.outside:
                    right = await self._deliveries(lab, scans[-1]) and right
                verified = await self._proofs(lab, settings)
        self._next(right and verified)
        return 0 if right and verified else 4

    def _head(self, text: str) -> None:
        self.step += 1
        self.screen.head(f"{self.step}  {text}")

    def _on_notice(self, notice: Notice) -> None:
        self._notices.append(notice)
        if self.crash.at and notice.role == "station bench":
            self._since(notice.text, "yellow" if notice.bad else "green")

    def _since(self, text: str, colour: str = "") -> None:
        """A line of what happened after the kill."""
        marked = f"[{colour}]{escape(text)}[/]" if colour else escape(text)
        self.screen.say(f"[dim]+{time.monotonic() - self.crash.at:5.2f} s[/]  {marked}")

    def _say_up(self, supervisor: Supervisor) -> None:
        took_s = time.monotonic() - self.began
        self._head(f"the lab is up, after {took_s:.1f} s: each role is a process of its own")
        self.screen.say(", ".join(f"{name} [dim]{pid}[/]" for name, pid, _ in supervisor.processes))

    # -- scans ------------------------------------------------------------------------------------------------------

    async def _scans(self, lab: Lab, supervisor: Supervisor) -> list[UUID]:
        screen = self.screen
        self._head(f"a queue of {len(self.plans)} scans; in the middle of the last one its station is killed with -9")
        await lab.samples.register(SAMPLE, "GaAs", tags=["demo"])
        scans: list[UUID] = []
        for it in self.plans:
            plan = as_plan((TEMPLATES / f"{it.template}.json").read_text(encoding="utf-8"), it.values)
            scans.append(await lab.scans.submit(plan, sample=SAMPLE, title=it.title))
        bars = screen.bars()
        if bars is not None:
            bars.start()
        try:
            async with asyncio.TaskGroup() as group:
                for scan_id, it in zip(scans[:-1], self.plans[:-1], strict=True):
                    group.create_task(self._watch(lab, scan_id, it.title))
                group.create_task(self._watch_and_kill(lab, supervisor, scans[-1], self.plans[-1].title))
        finally:
            if bars is not None:
                bars.stop()
        return scans

    async def _watch(
        self, lab: Lab, scan_id: UUID, title: str, each: Callable[[ScanProgress], None] | None = None
    ) -> ScanProgress:
        task = self.screen.add(title)
        progress: ScanProgress | None = None
        async for progress in lab.scans.watch(scan_id):
            self.screen.show(task, title, progress)
            if each is not None:
                each(progress)
        assert progress is not None
        if progress.status != "completed":
            raise RuntimeError(f"scan {title} {progress.in_words}: {progress.reason}")
        return progress

    async def _watch_and_kill(self, lab: Lab, supervisor: Supervisor, scan_id: UUID, title: str) -> None:
        crash = self.crash

        def each(progress: ScanProgress) -> None:
            if not crash.at and progress.points >= KILL_AT * progress.total_points:
                crash.pid = supervisor.roles["station bench"].pid
                os.kill(crash.pid, signal.SIGKILL)
                crash.at = time.monotonic()
                self.screen.say(f"[bold red]kill -9 {crash.pid}[/] [dim](station bench)[/]")
            elif crash.at:
                self._after_the_kill(progress)

        await self._watch(lab, scan_id, title, each)

    def _after_the_kill(self, progress: ScanProgress) -> None:
        """Say what the history says, as it comes."""
        crash = self.crash
        name = progress.event.rpartition(".v")[0]
        if name == "readings.recorded" and progress.attempt == 1:
            crash.durable = progress.points  # it was on its way when the process died
        elif name == "scan.interrupted":
            crash.durable = max(crash.durable, progress.points)
            self._since(f"scan.interrupted: {progress.reason}")
            self._since(f"{progress.points:,} points are durable; none of them is measured again")
        elif name == "scan.continued":
            self._since(f"scan.continued by the new process as attempt {progress.attempt}")
        elif name == "readings.recorded" and crash.first_new_s is None:
            crash.first_new_s = time.monotonic() - crash.at
            self._since("the first new points are durable", "green")

    # -- tables -----------------------------------------------------------------------------------------------------

    async def _tables(self, lab: Lab, scans: list[UUID]) -> bool:
        """Read back what was measured, as the user who can only read. True when no point is lost or there twice."""
        await lab.wait_for(await lab.last_sequence(), timeout_s=30)
        self._head("read back from Postgres, by the read-only user")
        rows = await lab.query(
            "select s.title, s.state, s.points_total, s.attempt, s.interruptions, count(r.point) as rows,"
            " count(distinct r.point) as points, min(r.point) as first, max(r.point) as last"
            " from labledger.scans s left join labledger.readings r using (scan_id) where s.scan_id = any(%s)"
            " group by s.scan_id, s.title, s.state, s.points_total, s.attempt, s.interruptions, s.requested_at"
            " order by s.requested_at",
            [scans],
        )
        table = _table("scan", "state", ">plan", ">rows", ">points", ">interrupted", ">lost", ">twice")
        right = len(rows) == len(scans)
        for row in rows:
            lost, twice = row["points_total"] - row["points"], row["rows"] - row["points"]
            right = right and (row["state"], lost, twice, row["first"]) == ("completed", 0, 0, 0)
            table.add_row(row["title"], row["state"], f"{row['points_total']:,}", f"{row['rows']:,}", f"{row['points']:,}",
                          f"{row['interruptions']} x", _zero(lost), _zero(twice))  # fmt: skip
        self.console.print(Padding(table, (0, 0, 0, 2)))
        values = await lab.query(
            "select value from labledger.reading_values where scan_id = %s and name = 'meter.voltage' order by point",
            [scans[-1]],
        )
        for line in self._picture([row["value"] for row in values]):
            self.console.print(f"  {line}")
        return right

    def _picture(self, values: list[float]) -> list[str]:
        """The grid in small: brighter where the photodiode saw more. Every second line ran backwards (snake)."""
        side = int(len(values) ** 0.5)
        grid = np.array(values[: side * side]).reshape(side, side)
        grid[1::2] = grid[1::2, ::-1]
        columns, lines = min(side, 60), 8
        picked = grid[np.linspace(0, side - 1, 2 * lines).round().astype(int)][
            :, np.linspace(0, side - 1, columns).round().astype(int)
        ]
        shade = (picked - picked.min()) / max(float(np.ptp(picked)), 1e-9)
        if not self.screen.live:
            marks = " .:-=+*#%@"
            return ["".join(marks[int(v * 9.99)] for v in row) for row in shade[::2]]
        return [
            "".join(f"[{_colour(top)} on {_colour(low)}]\u2580[/]" for top, low in zip(upper, lower, strict=True))
            for upper, lower in zip(shade[::2], shade[1::2], strict=True)
        ]

    # -- artifacts and deliveries -----------------------------------------------------------------------------------

    async def _artifacts(self, lab: Lab, scan_id: UUID) -> None:
        """What the last scan left, once it is made."""
        self._head("what the scan leaves: made from its events alone, the same bytes each time")
        async with asyncio.timeout(60):
            while len(rows := await lab.artifacts.list(scan=scan_id)) < 3:
                await asyncio.sleep(0.1)
        table = _table("artifact", "type", ">bytes", "SHA-256")
        for row in sorted(rows, key=lambda row: row["sequence"]):
            digest = f"[dim]{row['artifact_id'][:16]}...[/]"
            table.add_row(row["role"], row["media_type"], f"{row['size_bytes']:,}", digest)
        self.console.print(Padding(table, (0, 0, 0, 2)))

    async def _deliveries(self, lab: Lab, scan_id: UUID) -> bool:
        """The grid goes to a target of each kind; True when each delivery has its receipt, and the targets say the same."""
        self._head(
            "delivered, with receipts: by rule to S3 and IPFS, then the key to it; as a measurement of a run to MaskHub"
        )
        raw_data = (await lab.artifacts.list(scan=scan_id, role="raw_data"))[0]["artifact_id"]
        path = await lab.artifacts.save(raw_data, self.folder)
        run = await lab.runs.start_run(
            MASK, "demo", target="maskhub", lot_name="L7", wafer_name=SAMPLE, station="bench"
        )
        await lab.runs.add_measurement(run, path, device_name="photodiode", measurement_type="map", die_x=3, die_y=-2)
        await lab.runs.finish_run(run)
        path.unlink()
        expected = 3 + 2 + 2  # to S3; the plot and its key; the run and its measurement
        async with asyncio.timeout(60):
            while True:
                rows = await lab.deliveries.list()
                if len(rows) >= expected and all(row["state"] in ("delivered", "parked") for row in rows):
                    break
                await asyncio.sleep(0.1)
        checks = await asyncio.gather(*(self._checked(lab, row) for row in rows))
        table = _table("target", "what", "state", "where", ">tries", ">s", "asked again")
        for row, checked in sorted(zip(rows, checks, strict=True), key=lambda it: it[0]["target_id"]):
            state = (
                "[green]stored[/]" if row["outcome"] == "stored" else f"[bold red]{row['outcome'] or row['state']}[/]"
            )
            where = row["location"] or row["error"] or ""
            took = f"{row['duration_s']:.2f}" if row["duration_s"] is not None else ""
            words = "[green]the same[/]" if checked else "[bold red]differs[/]"
            what = row["file_name"] or row["key"] or row["title"]
            what, where = (text.replace(str(scan_id), f"{str(scan_id)[:8]}...") for text in (what, where))
            table.add_row(row["target_id"], what, state, where, str(row["attempt"]), took, words)
        self.console.print(Padding(table, (0, 0, 0, 2)))
        return all(checks) and {row["outcome"] for row in rows} == {"stored"}

    @staticmethod
    async def _checked(lab: Lab, row: Mapping[str, Any]) -> bool:
        return row["state"] == "delivered" and bool((await lab.deliveries.verify(row["delivery_id"]))["ok"])

    async def _proofs(self, lab: Lab, settings: Settings) -> bool:
        screen = self.screen
        self._head("proofs")
        report = await audit.verify(lab.bus)
        if report.finding is not None:
            screen.say(f"[bold red]history was altered[/] at event {report.finding.sequence}: {report.finding.what}")
        else:
            screen.say(
                f"[green]hash chain[/]  {report.events:,} events of {report.aggregates} aggregates verified, "
                f"root [dim]{report.root[:16]}...[/]"
            )
        to = settings.connection(Role.PROJECTIONS)
        bus = await connected(to, "labledger-demo")
        differing: list[str] = []
        tables = rows = 0
        try:
            async with await postgres.connect(to.postgres_url or "", "labledger-demo") as connection:
                for projection in projections():
                    _, found = await projector.compare(bus, connection, projection)
                    tables, rows = tables + len(found), rows + sum(one.rows for one in found)
                    differing += [f"{projection.name}.{one.table}" for one in found if not one.equal]
        finally:
            await bus.close()
        if differing:
            screen.say(f"[bold red]rebuilt tables differ[/]: {', '.join(differing)}")
        else:
            screen.say(
                f"[green]rebuild[/]     {len(projections())} read models made anew from the events, beside the live ones: "
                f"{tables} tables, {rows:,} rows, all equal"
            )
        crash = self.crash
        if crash.first_new_s is not None:
            screen.say(
                f"[green]recovery[/]    {crash.durable:,} points were durable at the kill; "
                f"{crash.first_new_s:.2f} s later the next ones were"
            )
        return report.ok and not differing and crash.first_new_s is not None

    def _next(self, well: bool) -> None:
        took_s = time.monotonic() - self.began
        screen = self.screen
        all_well = "[bold green]all is well[/]" if well else "[bold red]something is not as it should be[/]"
        self._head("what to type next")
        data = f" --data {self.folder}" if self.named else " --data lab"
        if self.named:
            screen.say(f"[bold]labledger up{data}[/]                       this lab again, with its history")
        else:
            screen.say(
                f"[bold]labledger up{data} --simulate[/]            a lab that stays, simulated instruments included"
            )
        screen.say(f"[bold]labledger scan submit --template grid --watch{data}[/]")
        screen.say(
            f"[bold]labledger history scan last{data}[/]        who did what, when; `labledger --help` for the rest"
        )
        screen.console.print(f"\n{all_well}; {took_s:.0f} s; nothing is left running")


def _table(*heads: str) -> Table:
    """`>` before a head: to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2))
    for head in heads:
        table.add_column(head.lstrip(">"), justify="right" if head.startswith(">") else "left")
    return table


def _zero(count: int) -> str:
    return "[green]0[/]" if count == 0 else f"[bold red]{count}[/]"


def _colour(share: float) -> str:
    """From dark blue over red to yellow."""
    stops = ((10, 10, 40), (90, 20, 110), (200, 60, 70), (250, 160, 40), (250, 250, 160))
    at = share * (len(stops) - 1)
    low = min(int(at), len(stops) - 2)
    mixed = (round(a + (b - a) * (at - low)) for a, b in zip(stops[low], stops[low + 1], strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)
