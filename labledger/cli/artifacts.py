"""labledger artifacts: the files that the lab made, or was given."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labledger.cli.common import Code, Session, Stop, command, resolve
from labledger.cli.scans import resolve as resolve_scan

if TYPE_CHECKING:
    from labledger.client import Lab

Scan = Annotated[str | None, typer.Option("--scan", help="Only of this scan: its id, its first letters, or `last`.")]
Role = Annotated[str | None, typer.Option("--role", help="raw_data, plot, summary or file.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Artifacts: files that the lab made, or was given.", no_args_is_help=True)
    app.add_typer(group, name="artifacts")

    @command(group, "list", example="labledger artifacts list --scan last")
    def _list(
        session: Session,
        scan: Scan = None,
        role: Role = None,
        limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000)] = 50,
    ) -> None:
        """The newest first."""

        async def found(lab: "Lab") -> list[dict[str, Any]]:
            return await lab.artifacts.list(scan=await _scan(lab, scan), role=role, limit=limit)

        rows = [row | {"short": row["artifact_id"][:12]} for row in session.run(found)]
        columns = {
            "short": "artifact",
            "role": "role",
            "file_name": "file",
            "media_type": "type",
            "size_bytes": "bytes",
        }
        session.table(rows, columns | {"registered_at": "registered"}, empty="no artifacts")

    @command(group, "get", example="labledger artifacts get --scan last --role plot -o plot.png")
    def _get(
        session: Session,
        artifact: Annotated[
            str | None, typer.Argument(metavar="[ARTIFACT]", help="Its SHA-256, or its first or last letters.")
        ] = None,
        scan: Scan = None,
        role: Role = None,
        out: Annotated[Path, typer.Option("--out", "-o", help="A file, or a folder that there is.")] = Path(),
    ) -> None:
        """Write an artifact's bytes, verified, to a file: one by its id, or all (or one role) of a scan."""

        async def get(lab: "Lab") -> list[dict[str, Any]]:
            if (artifact is None) == (scan is None):
                raise Stop("name an ARTIFACT, or give --scan", Code.INVALID)
            if artifact is not None:
                wanted = [await resolve(lab, "artifact", artifact)]
            else:
                listed = await lab.artifacts.list(scan=await _scan(lab, scan), role=role)
                newest = {row["role"]: row["artifact_id"] for row in reversed(listed)}  # a restarted scan has more
                wanted = list(newest.values())
            if not wanted:
                raise Stop("there is none (yet): `labledger artifacts list` shows those that there are", Code.REFUSED)
            if len(wanted) > 1 and not out.is_dir():
                raise Stop(f"these are {len(wanted)} files, and {out} is no folder", Code.INVALID)
            return [{"artifact_id": id_, "file": str(await lab.artifacts.save(id_, out))} for id_ in wanted]

        for row in _checked(session, get):
            session.emit(row)
            session.print(row["file"])

    @command(group, "add", example="labledger artifacts add notes.pdf --scan last")
    def _add(
        session: Session,
        files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of any kind.")],
        scan: Annotated[str | None, typer.Option("--scan", help="The scan that they are of.")] = None,
        media_type: Annotated[str | None, typer.Option("--media-type", help="[default: by the name]")] = None,
    ) -> None:
        """Store files and register them as artifacts."""

        async def add(lab: "Lab") -> list[dict[str, Any]]:
            scan_id = await _scan(lab, scan)
            return [
                {
                    "file": str(file),
                    "artifact_id": await lab.artifacts.add(file, media_type=media_type, scan_id=scan_id),
                }
                for file in files
            ]

        for row in session.run(add):
            session.emit(row)
            session.print(f"{row['artifact_id']}  {row['file']}")


async def _scan(lab: "Lab", given: str | None) -> str | None:
    return None if given is None else await resolve_scan(lab, given)


def _checked(session: Session, work: Any) -> list[dict[str, Any]]:
    from domain.errors import NotFound

    try:
        return session.run(work)
    except (NotFound, ValueError) as error:
        raise Stop(str(error), Code.NOT_VERIFIED if isinstance(error, ValueError) else Code.REFUSED) from None
