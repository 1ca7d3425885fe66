"""History and what is made of it: events, history, as-of, rebuild, audit, export, parked, and `send` for any command."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labledger.cli.common import Code, Session, Stop, command, parse_time, read_text, to_json

if TYPE_CHECKING:
    from bus.connection import Bus
    from bus.envelope import Stored
    from labledger.client import Lab

ParkedId = Annotated[str, typer.Argument(metavar="PARKED", help="The id under which it is parked.")]
Seq = Annotated[int | None, typer.Option("--seq", min=0, help="As of this sequence of the event stream.")]
Time = Annotated[str | None, typer.Option("--time", metavar="TIME", help="As of this time (2026-05-04T13:00).")]


def register(app: typer.Typer) -> None:
    @command(app, "history", example="labledger history scan last")
    def _history(
        session: Session,
        kind: Annotated[
            str, typer.Argument(help="scan, queue, job, sample, equipment, station, lease, readings, parked.")
        ],
        id_: Annotated[str, typer.Argument(metavar="ID")],
    ) -> None:
        """Everything that ever happened to one thing."""

        async def history(lab: "Lab") -> "list[Stored]":
            from labledger.cli.scans import resolve

            id_or_name = await resolve(lab, id_) if kind in ("scan", "readings") else id_
            return await lab.history(kind, id_or_name)

        found = session.run(history)
        if not found:
            raise Stop(f"there is no {kind} {id_}", Code.REFUSED)
        show_events(session, found)

    @command(app, "events", example="labledger events --follow --kind scan")
    def _events(
        session: Session,
        follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
        since: Annotated[
            str | None, typer.Option("--since", help="A sequence, a time, or how long ago: 90s, 15m, 2h, 7d.")
        ] = None,
        kind: Annotated[str | None, typer.Option("--kind", help="Only of this kind: scan, queue, ...")] = None,
        limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Without --since: the last so many.")] = 20,
        readings: Annotated[bool, typer.Option("--readings", help="Also each frame of readings.")] = False,
    ) -> None:
        """The last events of the lab, and with --follow those to come. --json: a line for each, with its body."""

        async def events(lab: "Lab") -> None:
            subject = f"evt.{kind}.*" if kind else "evt.>"
            after = await _after(lab, since, limit)
            heads = not session.json
            async for stored in lab.events(subject, after, follow=follow):
                if not readings and kind != "readings" and stored.type.startswith("readings.recorded"):
                    continue
                if session.json:
                    session.emit(event_row(stored))
                else:
                    _event_line(session, stored, head=heads)
                    heads = False

        session.run(events)

    @command(app, "as-of", example="labledger as-of samples --time 2026-05-04T13:00")
    def _as_of(
        session: Session,
        view: Annotated[str, typer.Argument(metavar="VIEW", help="A read model (scans, queues, ...), or KIND/ID.")],
        seq: Seq = None,
        time: Time = None,
    ) -> None:
        """A table, or one thing (KIND/ID), as it stood at an earlier moment."""
        if (seq is None) == (time is None):
            raise Stop("give --seq or --time", Code.INVALID)

        async def moment(lab: "Lab") -> int:
            return seq if seq is not None else await lab.sequence_at(parse_time(time or ""))

        kind, slash, id_ = view.partition("/")
        if slash:

            async def one(lab: "Lab") -> dict[str, Any]:
                from labledger.client.kinds import plain

                return plain(await lab.state(kind, id_, await moment(lab)))

            session.record(session.run(one), title=f"{kind} {id_}")
            return
        from labledger.cli import models

        upto = session.run(moment)
        rows = models.as_of(session, view, upto)
        session.table(rows, {name: name for name in (rows[0] if rows else {})}, title=f"{view} as of sequence {upto}")

    @command(app, "rebuild", example="labledger rebuild scans --compare")
    def _rebuild(
        session: Session,
        name: Annotated[str, typer.Argument(help="A read model, or `all`.")],
        compare: Annotated[
            bool,
            typer.Option("--compare", help="Build it beside the live one, compare row by row, and change nothing."),
        ] = False,
    ) -> None:
        """Fill a read model anew from the first event, beside the live one, and switch over. Exit code 4: they differ."""
        from labledger.cli import models

        if compare:
            models.compare(session, name)
        else:
            models.rebuild(session, name)

    audit = typer.Typer(help="Prove that history was not altered.", no_args_is_help=True)
    app.add_typer(audit, name="audit")

    @command(audit, "verify", example="labledger audit verify --seal 2026-05.seal.json")
    def _verify(
        session: Session,
        seals: Annotated[
            list[Path] | None, typer.Option("--seal", help="A seal that you kept; may be given several times.")
        ] = None,
    ) -> None:
        """Verify every event, every link of the chain, and seals. Exit code 4 names the first event that was altered."""
        report = _verified(session, seals or [])
        if not report.ok:
            finding = report.finding
            about = f" ({finding.subject})" if finding.subject else ""
            raise Stop(
                f"event {finding.sequence}{about}: {finding.what}", Code.NOT_VERIFIED, report=report.model_dump()
            )
        session.emit(report.model_dump(mode="json") | {"ok": True})
        sealed = f", {report.seals} seals" if report.seals else ""
        session.print(
            f"[green]verified[/green]: {report.events} events of {report.aggregates} aggregates{sealed}; nothing is altered"
        )
        session.print(f"[dim]root at {report.sequence}: {report.root}[/dim]")

    @command(audit, "seal", example="labledger audit seal -o 2026-05.seal.json")
    def _seal(
        session: Session,
        output: Annotated[
            Path | None, typer.Option("--output", "-o", help="Write it here. [default: print it]")
        ] = None,
        seals: Annotated[
            list[Path] | None, typer.Option("--seal", help="An earlier seal to be verified first.")
        ] = None,
    ) -> None:
        """Verify, then make a seal: keep it where the lab's administrator cannot reach it."""
        from labledger import audit as auditing

        report = _verified(session, seals or [])
        if not report.ok:
            raise Stop(f"event {report.finding.sequence}: {report.finding.what}; nothing is sealed", Code.NOT_VERIFIED)
        made = auditing.seal(report).model_dump_json(indent=None if session.json else 2)
        if output is None:
            print(made)
            return
        output.write_text(made + "\n", encoding="utf-8")
        session.print(f"sealed up to event {report.sequence} in {output}")
        session.emit({"output": str(output), "sequence": report.sequence, "root": report.root})

    @command(app, "export", example="labledger export last --format parquet -o scan.parquet")
    def _export(
        session: Session,
        scan_id: Annotated[str, typer.Argument(metavar="SCAN", help="The scan's id, its first letters, or `last`.")],
        output: Annotated[Path, typer.Option("--output", "-o", help="The file; `-` is standard output (csv).")],
        format_: Annotated[str | None, typer.Option("--format", help="csv or parquet. [default: by the name]")] = None,
    ) -> None:
        """Write the readings of a scan to a file. Units, plan and ids go with them (Parquet: metadata; CSV: first lines)."""
        kind = format_ or output.suffix.lstrip(".") or "csv"
        if kind not in ("csv", "parquet"):
            raise Stop(f"{kind!r} is no format: give --format csv or parquet", Code.INVALID)

        async def export(lab: "Lab") -> None:
            from labledger.cli.scans import resolve
            from labledger.export import write

            id_ = await resolve(lab, scan_id)
            found = await lab.readings(id_)
            state = await lab.state("scan", id_)
            write(found, state, output, kind)
            if str(output) != "-":
                session.print(f"{found.points} points of scan {id_} in {output}")
                session.emit({"scan_id": id_, "points": found.points, "output": str(output), "format": kind})

        session.run(export)

    _parked(app)

    @command(app, "send", example="""labledger send scan.pause '{"scan_id": "01a1fa6f-5f9d-739b-bcf3-6d235b87da7c"}'""")
    def _send(
        session: Session,
        name: Annotated[str, typer.Argument(help="The command's name, as in docs/commands.md.")],
        body: Annotated[str, typer.Argument(help="Its body as JSON; `-` reads it from standard input.")] = "{}",
        command_id: Annotated[
            str | None, typer.Option("--id", help="The command's id; the same id again has the same outcome.")
        ] = None,
        timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait for the outcome.")] = 10.0,
    ) -> None:
        """Send any command and print its outcome."""
        text = read_text("-") if body == "-" else body

        async def send(lab: "Lab") -> None:
            done = await lab.send(name, text, command_id=command_id, timeout_s=timeout_s)
            session.outcome(done, f"{name} is accepted")

        session.run(send, timeout_s=timeout_s)


def _parked(app: typer.Typer) -> None:
    group = typer.Typer(help="Parked: what was given up after its retries.", no_args_is_help=True)
    app.add_typer(group, name="parked")

    @command(group, "list", example="labledger parked list")
    def _list(
        session: Session, all_: Annotated[bool, typer.Option("--all", help="Also what was handled or dropped.")] = False
    ) -> None:
        """What waits for a person."""
        found = session.run(lambda lab: lab.parked.list(all_))
        columns = {"parked_id": "parked", "state": "state", "subject": "from", "consumer": "consumer", "times": "times"}
        session.table(found, columns | {"reason": "reason", "parked_at": "since"}, empty="nothing is parked")

    @command(group, "show", example="labledger parked show 5b1c8a7e-3e39-5f43-9d4e-3c42a1f1c0de")
    def _show(session: Session, parked_id: ParkedId) -> None:
        """Why it was parked, with the details."""
        session.record(session.run(lambda lab: lab.parked.get(parked_id)), title=f"parked {parked_id}")

    @command(group, "retry", example="labledger parked retry 5b1c8a7e-3e39-5f43-9d4e-3c42a1f1c0de")
    def _retry(session: Session, parked_id: ParkedId) -> None:
        """Hand it to its consumer once more."""

        async def retry(lab: "Lab") -> None:
            session.outcome(await lab.parked.retry(parked_id), f"{parked_id} is tried again")

        session.run(retry)

    @command(group, "drop", example="labledger parked drop 5b1c8a7e-3e39-5f43-9d4e-3c42a1f1c0de")
    def _drop(session: Session, parked_id: ParkedId) -> None:
        """Give it up for good. Its record stays in the history."""

        async def drop(lab: "Lab") -> None:
            session.outcome(await lab.parked.drop(parked_id), f"{parked_id} is dropped")

        session.run(drop)


# ------------------------------------------------------------------------------------------------------------------- events


def event_row(stored: "Stored") -> dict[str, Any]:
    return {
        "sequence": stored.seq,
        "time": stored.time,
        "type": stored.type,
        "subject": stored.subject,
        "version": stored.version,
        "id": stored.event_id,
        "actor": stored.actor,
        "causation": stored.causation,
        "correlation": stored.correlation,
        "hash": stored.hash,
        "data": json.loads(stored.data),
    }


def show_events(session: Session, found: "Sequence[Stored]") -> None:
    if session.json:
        session.emit([event_row(stored) for stored in found])
        return
    for number, stored in enumerate(found):
        _event_line(session, stored, head=number == 0)


def _event_line(session: Session, stored: "Stored", *, head: bool) -> None:
    from rich.markup import escape

    if head:
        session.print(f"[bold]{'sequence':>8}  {'time':<23}  {'event':<28}  {'of':<36}  by; what[/bold]")
    name = stored.type.rpartition(".v")[0]
    local = stored.time.astimezone()
    actor = f"{stored.actor}; " if stored.actor else ""
    session.print(
        f"{stored.seq:>8}  {local:%Y-%m-%d %H:%M:%S}.{local.microsecond // 1000:03d}  {name:<28}  {stored.id:<36}  "
        f"[dim]{escape(actor + _gist(stored))}[/dim]"
    )


def _gist(stored: "Stored") -> str:
    """An event's body in a few words."""
    body: dict[str, Any] = json.loads(stored.data)
    if stored.type.startswith("readings.recorded"):
        first = body["first_point"]
        return f"points {first} to {first + len(body['time']) - 1}, attempt {body['attempt']}"
    skipped = {"plan", "settings", "branches", "metadata", "detail", f"{stored.kind}_id"}
    words = [
        f"{key} {value if isinstance(value, str | int) else to_json(value)}"
        for key, value in body.items()
        if key not in skipped and value not in (None, "", [], {}, stored.id)
    ]
    text = ", ".join(words)
    return text if len(text) <= 160 else f"{text[:157]}..."


async def _after(lab: "Lab", since: str | None, limit: int) -> int:
    """The sequence behind which to begin."""
    if since is None:
        return max(0, await lab.last_sequence() - limit)
    if since.isdigit():
        return int(since)
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86_400}.get(since[-1])
    if unit is not None and since[:-1].replace(".", "", 1).isdigit():
        return await lab.sequence_at(datetime.now(UTC) - timedelta(seconds=unit * float(since[:-1])))
    return await lab.sequence_at(parse_time(since))


# -------------------------------------------------------------------------------------------------------------------- audit


def _verified(session: Session, paths: Sequence[Path]) -> Any:
    from labledger import audit

    seals = [audit.Seal.model_validate_json(path.read_text(encoding="utf-8")) for path in paths]

    async def verify(bus: "Bus") -> Any:
        if session.json or not session.console.is_terminal:
            return await audit.verify(bus, seals)
        with session.console.status("verifying ...") as status:
            return await audit.verify(bus, seals, lambda sequence: status.update(f"verifying ... {sequence:,} events"))

    return session.run_bus(session.user or "publisher", verify)
