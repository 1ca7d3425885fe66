"""labledger scan ...: submit, follow and steer scans; look at their readings."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from labledger.cli.common import (
    Code,
    Session,
    Stop,
    command,
    duration,
    pairs,
    read_text,
    scan_row,
)

if TYPE_CHECKING:
    from labledger.client import Lab, Progress

TEMPLATES = Path(__file__).resolve().parent.parent / "templates"

ScanId = Annotated[str, typer.Argument(metavar="SCAN", help="The scan's id, its first letters, or `last`.")]

LIST_COLUMNS = {
    "scan_id": "scan",
    "state": "state",
    "of": "points",
    "share": "",
    "left": "left",
    "title": "title",
    "queue_id": "queue",
    "sample_id": "sample",
    "attempt": "attempt",
    "since": "requested",
}


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Scans: submit, watch, steer, read.", no_args_is_help=True)
    app.add_typer(group, name="scan")

    @command(group, "submit", example="labledger scan submit --template line --set num=501 --sample W12-3 --watch")
    def _submit(
        session: Session,
        source: Annotated[
            str | None, typer.Argument(metavar="[FILE]", help="A plan or a template as JSON; `-` is standard input.")
        ] = None,
        template: Annotated[
            str | None, typer.Option("--template", help="A template: a file, or one that comes with labledger.")
        ] = None,
        set_: Annotated[
            list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A parameter of it.")
        ] = None,
        sample: Annotated[str | None, typer.Option("--sample", help="The sample that is measured.")] = None,
        queue: Annotated[str, typer.Option("--queue", help="The queue.")] = "main",
        priority: Annotated[str, typer.Option("--priority", help="low, normal, high or urgent.")] = "normal",
        title: Annotated[str, typer.Option("--title", help="For people.")] = "",
        on_crash: Annotated[
            str, typer.Option("--on-crash", help="After a crash of its station: resume, restart or hold.")
        ] = "resume",
        frame_points: Annotated[
            int, typer.Option("--frame-points", help="Points sent at once; 1: each is durable before the next.")
        ] = 100,
        frame_ms: Annotated[int, typer.Option("--frame-ms", help="Or when the first one is so old.")] = 50,
        metadata: Annotated[list[str] | None, typer.Option("--metadata", metavar="NAME=VALUE")] = None,
        scan_id: Annotated[
            str | None, typer.Option("--id", help="The scan's id (a UUID) instead of a new one.")
        ] = None,
        replaces: Annotated[
            str | None, typer.Option("--replace", metavar="JOB", help="Take the place of this waiting job.")
        ] = None,
        deliver: Annotated[
            list[str] | None,
            typer.Option("--deliver", metavar="TARGET", help="Where its artifacts go. [default: as the rules say]"),
        ] = None,
        no_deliver: Annotated[bool, typer.Option("--no-deliver", help="Its artifacts go nowhere.")] = False,
        watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
        wait: Annotated[bool, typer.Option("--wait", help="Return at its end, without progress.")] = False,
    ) -> None:
        """Request a scan: a plan from a file, or a template with values. Prints its id."""
        if no_deliver and deliver:
            raise Stop("--deliver and --no-deliver contradict each other", Code.INVALID)
        values = pairs(set_ or [])
        plan = load_plan(source, template, values)

        async def submit(lab: "Lab") -> None:
            id_ = await lab.scans.submit(
                plan,
                sample=sample,
                queue=queue,
                priority=priority,
                title=title,
                on_crash=on_crash,
                frame={"points": frame_points, "ms": frame_ms},
                metadata=pairs(metadata or [], "--metadata"),
                scan_id=scan_id,
                replaces=replaces,
                deliver=[] if no_deliver else deliver or None,
                values=values,
            )
            if not (watch or wait):
                if session.json:
                    session.emit({"scan_id": str(id_)})
                else:
                    print(id_)
                return
            await follow(session, lab, str(id_), quiet=wait)

        session.run(submit)

    @command(group, "templates", example="labledger scan templates")
    def _templates(session: Session) -> None:
        """The templates that come with labledger, with their parameters."""
        rows: list[dict[str, Any]] = []
        for path in sorted(TEMPLATES.glob("*.json")):
            told = json.loads(path.read_text(encoding="utf-8"))
            rows.append({"name": told["name"], "parameters": told["parameters"], "doc": told["doc"]})
        if session.json:
            session.emit(rows)
            return
        for row in rows:
            session.print(f"[bold]{row['name']}[/bold]  {row['doc']}")
            for name, it in row["parameters"].items():
                session.print(
                    f"  --set {name}={json.dumps(it.get('default'))}  [dim]{it.get('doc', '')}[/dim]".replace(
                        '["', '\\["'
                    )
                )

    @command(group, "list", example="labledger scan list --status running")
    def _list(
        session: Session,
        status: Annotated[
            str | None, typer.Option("--status", help="queued, running, paused, completed, aborted or failed.")
        ] = None,
        limit: Annotated[int, typer.Option("--limit", "-n", min=1)] = 20,
    ) -> None:
        """Scans, the newest first."""
        found = session.run(lambda lab: lab.scans.list(limit, status))
        session.table([scan_row(one) for one in found], LIST_COLUMNS, empty="no scans")

    @command(group, "show", example="labledger scan show last")
    def _show(
        session: Session,
        scan_id: ScanId,
        plan: Annotated[bool, typer.Option("--plan", help="Its plan, as JSON.")] = False,
    ) -> None:
        """Where a scan stands."""

        async def show(lab: "Lab") -> None:
            id_ = await resolve(lab, scan_id)
            if plan:
                state = await lab.state("scan", id_)
                print(state.plan.model_dump_json(indent=None if session.json else 2))
                return
            progress = await lab.scans.get(id_)
            if session.json:
                session.emit(progress)
            else:
                session.record(scan_row(progress), title=f"scan {id_} {progress.in_words}")

        session.run(show)

    @command(group, "watch", example="labledger scan watch last")
    def _watch(session: Session, scan_id: ScanId = "last") -> None:
        """Follow a scan to its end. Exit code 1 when it ends other than completed. --json: a line for each event."""

        async def watch(lab: "Lab") -> None:
            await follow(session, lab, await resolve(lab, scan_id))

        session.run(watch)

    steer: dict[str, tuple[str, str]] = {
        "pause": ("Pause a scan after the point under way.", "a pause was asked for"),
        "resume": ("Let a paused or held scan go on.", "it will go on"),
        "restart": ("Queue a scan that is over once more, from its first point.", "it is queued again"),
    }
    for verb, (doc, words) in steer.items():
        _steering(group, verb, doc, words)

    @command(group, "abort", example="labledger scan abort last --reason 'wrong sample'")
    def _abort(
        session: Session,
        scan_id: ScanId,
        reason: Annotated[str, typer.Option("--reason", help="For the history.")] = "",
    ) -> None:
        """Stop a scan after the point under way, and leave its instruments in their safe states."""

        async def abort(lab: "Lab") -> None:
            id_ = await resolve(lab, scan_id)
            session.outcome(await lab.scans.abort(id_, reason), f"scan {id_}: its abort was asked for")

        session.run(abort)

    @command(group, "readings", example="labledger scan readings last --limit 10")
    def _readings(
        session: Session,
        scan_id: ScanId,
        limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Rows shown; 0: all.")] = 20,
    ) -> None:
        """What a scan has measured so far, point by point. `labledger export` writes files."""

        async def readings(lab: "Lab") -> None:
            found = await lab.readings(await resolve(lab, scan_id))
            rows = list(found.rows())
            shown = rows[:limit] if limit else rows
            if session.json:
                session.emit(
                    {
                        "scan_id": str(found.scan_id),
                        "points": found.points,
                        "units": found.units,
                        "arrays": {name: [vars_of(part) for part in parts] for name, parts in found.arrays.items()},
                        "rows": [_finite(row) for row in shown],
                    }
                )
                return
            heads = {name: f"{name}\n{found.units.get(name, '')}".strip() for name in (rows[0] if rows else {})}
            heads = {"point": "point", "after": "after\ns"} | heads
            for name in ("branch", "attempt", "time"):
                heads.pop(name, None)
            began = rows[0]["time"] if rows else 0.0
            table = [row | {"after": f"{row['time'] - began:.3f}"} for row in shown]
            session.table(table, heads, empty="no readings yet")
            more = f", {len(shown)} shown" if len(shown) < found.points else ""
            arrays = f"; arrays: {', '.join(found.arrays)}" if found.arrays else ""
            session.print(f"[dim]{found.points} points{more}{arrays}[/dim]")

        session.run(readings)


def _steering(group: typer.Typer, verb: str, doc: str, words: str) -> None:
    def steer(session: Session, scan_id: ScanId) -> None:
        async def do(lab: "Lab") -> None:
            id_ = await resolve(lab, scan_id)
            session.outcome(await getattr(lab.scans, verb)(id_), f"scan {id_}: {words}")

        session.run(do)

    steer.__doc__ = doc
    command(group, verb, example=f"labledger scan {verb} last")(steer)


def vars_of(part: Any) -> dict[str, Any]:
    return {"first_point": part.first_point, "sha256": part.sha256, "dtype": part.dtype, "shape": part.shape}


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {name: None if isinstance(value, float) and value != value else value for name, value in row.items()}


def load_plan(source: str | None, template: str | None, values: Mapping[str, Any]) -> Any:
    """What was named on the command line: a plan, or a template that fits the values."""
    from labledger.client.kinds import as_plan, as_template

    if (source is None) == (template is None):
        raise Stop("give a FILE with a plan (`-` for standard input), or --template", Code.INVALID)
    if template is not None:
        path = Path(template)
        if not path.exists():
            path = TEMPLATES / f"{template}.json"
        if not path.exists():
            known = ", ".join(sorted(path.stem for path in TEMPLATES.glob("*.json")))
            raise Stop(f"there is no template {template!r}; there are {known}, or give a file", Code.INVALID)
        told = json.loads(path.read_text(encoding="utf-8"))
        plan = as_plan(told, values)  # what is wrong with the values is said before anything is asked of the lab
        return as_template(told) or plan
    told = json.loads(read_text(source or "-"))
    if values and "parameters" not in told:
        raise Stop("--set is for templates, and this file is a plan", Code.INVALID)
    plan = as_plan(told, values)
    return as_template(told) or plan


async def resolve(lab: "Lab", given: str) -> str:
    """A scan's id from what a person types: all of it, its beginning or end, or `last`."""
    if len(given) == 36:
        return given
    ids = await lab.ids("scan")
    found = ids[-1:] if given == "last" else [one for one in ids if one.startswith(given) or one.endswith(given)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise Stop(f"there is no scan {given}: `labledger scan list` shows them", Code.REFUSED)
    raise Stop(f"{given} stands for {len(found)} scans: give more of the id", Code.INVALID)


# -------------------------------------------------------------------------------------------------------------- progress bar


class Bar(AbstractContextManager["Bar"]):
    """A scan's progress: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, session: Session, title: str, print_line: Callable[[str], None] | None = None) -> None:
        self._session = session
        self._title = title
        self._live = session.console.is_terminal
        self._print = print_line or session.print
        self._said = -1
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._live:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=40),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TextColumn("{task.fields[state]}"),
                console=self._session.console,
            )
            self._task = self._progress.add_task(self._title, total=None, rate="", state="")
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, progress: "Progress") -> None:
        rate = f"{progress.rate_s:,.0f}/s" if progress.rate_s else ""
        row = scan_row(progress)
        left = duration(progress.remaining_s) if not progress.over else ""
        if self._progress is not None:
            marks = {
                "completed": "[green]completed[/]",
                "failed": "[red]failed[/]",
                "interrupted": "[yellow]interrupted[/]",
            }
            state = marks.get(row["state"], row["state"])
            self._progress.update(
                self._task,
                total=progress.total_points or None,
                completed=progress.points,
                rate=rate,
                state=f"{state} [dim]{left}[/dim]",
            )
            return
        tenth = 10 * progress.points // progress.total_points if progress.total_points else 0
        say = (tenth, row["state"])
        if hash(say) != self._said:
            self._said = hash(say)
            self._print(f"{self._title}  {progress.points:>6} / {progress.total_points}  {rate:>9}  {row['state']}")


async def follow(session: Session, lab: "Lab", scan_id: str, *, quiet: bool = False) -> None:
    """To the end; raises `Stop` when that is not completion."""
    progress: Progress | None = None
    if session.json or quiet:
        async for progress in lab.scans.watch(scan_id):
            if not quiet:
                session.emit(progress)
    else:
        with Bar(session, scan_id[:8]) as bar:
            async for progress in lab.scans.watch(scan_id):
                bar.show(progress)
    assert progress is not None
    if progress.status != "completed":
        reason = f": {progress.reason}" if progress.reason else ""
        told = {"scan": progress.model_dump(mode="json")} if quiet else {}
        raise Stop(f"scan {scan_id} {progress.in_words} after {progress.points} points{reason}", Code.REFUSED, **told)
    if quiet:
        session.emit(progress)
    if not session.json:
        session.print(f"[green]completed[/green]  scan {scan_id}, {progress.points} points")
