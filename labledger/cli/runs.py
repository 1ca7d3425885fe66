"""labledger runs: measurements of a mask's dies, delivered to MaskHub as they are made or when the run is finished."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labledger.cli.common import Code, Session, command, pairs, parse_value, read_text

if TYPE_CHECKING:
    from labledger.client import Lab

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Its id.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The file.")]

_COLUMNS = {
    "run_id": "run",
    "target_id": "target",
    "mode": "mode",
    "mask_id": "mask",
    "finished": "finished",
    "measurements": "measurements",
    "successful": "delivered",
    "pending": "pending",
    "failed": "failed",
    "analysed": "analysed",
}
_PARTS = {
    "part": "part",
    "device_name": "device",
    "die": "die",
    "file_name": "file",
    "state": "state",
    "delivery_id": "delivery",
    "reason": "problem",
}


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Runs: measurements for MaskHub, delivered each by itself.", no_args_is_help=True)
    app.add_typer(group, name="runs")
    _orders(group)
    _looks(group)


def _orders(group: typer.Typer) -> None:
    @command(group, "start", example='labledger runs start "EDWA run 7" --mask 42 --lot L1 --wafer W3 --station bench')
    def _start(
        session: Session,
        run_name: Annotated[str, typer.Argument(metavar="NAME", help="What MaskHub calls it.")],
        mask_id: Annotated[int, typer.Option("--mask", help="The number of the mask.")],
        run_id: Annotated[
            str | None, typer.Option("--id", help="Its id here. [default: follows from the name]")
        ] = None,
        target: Annotated[str, typer.Option("--target", help="The target in the settings.")] = "maskhub",
        batch: Annotated[bool, typer.Option("--batch", help="Deliver when it is finished, not as it grows.")] = False,
        lot_name: Annotated[str | None, typer.Option("--lot", help="The lot of its measurements.")] = None,
        wafer_name: Annotated[str | None, typer.Option("--wafer", help="The wafer of its measurements.")] = None,
        station: Annotated[str | None, typer.Option("--station", help="The test station.")] = None,
        operator: Annotated[str | None, typer.Option("--operator", help="Who measures.")] = None,
        project_id: Annotated[int | None, typer.Option("--project", help="[default: that of the mask]")] = None,
        run_config: Annotated[
            str | None, typer.Option("--run-config", help="A JSON file with settings of the run.")
        ] = None,
        more: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="More about it.")] = None,
    ) -> None:
        """Start a run, and open it at MaskHub; one that is there under this name already is gone on with."""
        fields: dict[str, Any] = {"lot_name": lot_name, "wafer_name": wafer_name, "station": station}
        fields |= {"operator": operator, "project_id": project_id, **pairs(more or [])}
        if run_config is not None:
            fields["config"] = parse_value(read_text(run_config))

        async def start(lab: "Lab") -> None:
            id_ = await lab.runs.start_run(mask_id, run_name, run_id=run_id, target=target, batch=batch, **fields)
            session.emit({"run_id": id_})
            session.print(id_)

        session.run(start)

    @command(
        group, "add", example="labledger runs add EDWA-run-7 ring.parquet --device ring_1 --type spectrum --die 3 -2"
    )
    def _add(
        session: Session,
        run_id: RunId,
        file: File,
        device_name: Annotated[str, typer.Option("--device", help="The device that was measured.")],
        measurement_type: Annotated[str, typer.Option("--type", help="The kind of measurement.")],
        die: Annotated[tuple[int, int], typer.Option("--die", metavar="X Y", help="The die it is on.")],
        lot_name: Annotated[str | None, typer.Option("--lot", help="[default: that of the run]")] = None,
        wafer_name: Annotated[str | None, typer.Option("--wafer", help="[default: that of the run]")] = None,
        station: Annotated[str | None, typer.Option("--station", help="[default: that of the run]")] = None,
        sequence: Annotated[int | None, typer.Option("--sequence", help="Its number. [default: the next]")] = None,
        measurement_id: Annotated[
            str | None, typer.Option("--id", help="Its id (a UUID). [default: a new one]")
        ] = None,
        nas_path: Annotated[str | None, typer.Option("--nas-path", help="Where else the file lies.")] = None,
        meta: Annotated[
            list[str] | None, typer.Option("--meta", metavar="NAME=VALUE", help="What MaskHub shows of it.")
        ] = None,
    ) -> None:
        """Add a measurement with its raw data."""
        about: dict[str, Any] = {"lot_name": lot_name, "wafer_name": wafer_name, "test_station_name": station}
        about |= {"nas_path": nas_path, "test_meta": pairs(meta or [], "--meta"), "sequence": sequence}

        async def add(lab: "Lab") -> None:
            id_ = await lab.runs.add_measurement(
                run_id,
                file,
                device_name=device_name,
                measurement_type=measurement_type,
                die_x=die[0],
                die_y=die[1],
                measurement_id=measurement_id,
                **about,
            )
            session.emit({"measurement_id": str(id_)})
            session.print(str(id_))

        session.run(add)

    @command(group, "attach", example="labledger runs attach EDWA-run-7 report.pdf")
    def _attach(
        session: Session,
        run_id: RunId,
        file: File,
        name: Annotated[str | None, typer.Option("--name", help="Its name there. [default: that of the file]")] = None,
    ) -> None:
        """Add a file (a report, a picture) to the run as a whole, also after its end."""

        async def attach(lab: "Lab") -> None:
            id_ = await lab.runs.attach(run_id, file, name=name)
            session.emit({"attachment_id": str(id_)})
            session.print(str(id_))

        session.run(attach)

    @command(group, "finish", example="labledger runs finish EDWA-run-7 --analyse --wait")
    def _finish(
        session: Session,
        run_id: RunId,
        analyse: Annotated[bool, typer.Option("--analyse", help="Analyse the dies once all has arrived.")] = False,
        wait: Annotated[
            bool, typer.Option("--wait", help="Until nothing is on its way; exit code 5 unless all is well.")
        ] = False,
        timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait at most.")] = 600.0,
    ) -> None:
        """Say that no measurement comes any more. What is not delivered yet goes on by itself."""

        def tell(done: int, total: int) -> None:
            session.print(f"{done} / {total} delivered")

        async def finish(lab: "Lab") -> dict[str, Any]:
            return await lab.runs.finish_run(
                run_id, analyse=analyse, wait_s=timeout_s if wait else None, progress=tell if wait else None
            )

        summary = session.run(finish)
        session.record(summary, title=f"run {run_id} is finished")
        if wait and summary["upload_stats"]["successful"] < summary["measurement_count"]:
            raise typer.Exit(int(Code.PARKED))

    @command(group, "retry-failed", example="labledger runs retry-failed EDWA-run-7")
    def _retry(session: Session, run_id: RunId) -> None:
        """Try again what is parked."""
        count = session.run(lambda lab: lab.runs.retry_failed(run_id))
        session.emit({"retried": count})
        session.print(f"{count} deliveries are tried again" if count else "nothing is parked")


def _looks(group: typer.Typer) -> None:
    @command(group, "list", example="labledger runs list")
    def _list(
        session: Session, limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many.")] = 50
    ) -> None:
        """The newest runs first."""
        session.table(session.run(lambda lab: lab.runs.list(limit)), _COLUMNS, empty="no runs")

    @command(group, "show", example="labledger runs show EDWA-run-7")
    def _show(session: Session, run_id: RunId) -> None:
        """A run with all that belongs to it, and what became of each."""
        found = session.run(lambda lab: lab.runs.get(run_id))
        if session.json:
            session.emit(found)
            return
        parts = found.pop("parts")
        about = found.pop("metadata")
        statistics = ", ".join(f"{count} {name}" for name, count in found.pop("statistics").items())
        session.record(
            {k: v for k, v in (about | found).items() if v} | {"measurements": statistics}, title=f"run {run_id}"
        )
        rows = [one | {"die": f"{one['die_x']}, {one['die_y']}" if "die_x" in one else ""} for one in parts]
        session.table(rows, _PARTS, title="parts")

    @command(group, "statistics", example="labledger runs statistics EDWA-run-7")
    def _statistics(session: Session, run_id: RunId) -> None:
        """How many of its measurements have arrived, wait, or have failed."""
        session.record(session.run(lambda lab: lab.runs.statistics(run_id)), title=f"run {run_id}")
