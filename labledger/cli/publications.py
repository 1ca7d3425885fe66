"""labledger publish, publications: files kept on IPFS, and the keys that point to the newest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labledger.cli.common import Code, Session, Stop, command, pairs, resolve

if TYPE_CHECKING:
    from labledger.client import Lab

Publication = Annotated[
    str, typer.Argument(metavar="PUBLICATION", help="Its id, its first or last letters, or `last`.")
]

_COLUMNS = {
    "publication_id": "publication",
    "key": "key",
    "state": "state",
    "step": "next",
    "location": "where",
    "problem": "problem",
}


def register(app: typer.Typer) -> None:
    @command(
        app,
        "publish",
        example="labledger publish daily.png --set sensor_type=temperature --set interval=daily --clean-up --wait",
    )
    def _publish(
        session: Session,
        thing: Annotated[str, typer.Argument(metavar="FILE|ARTIFACT", help="A file, or an artifact's SHA-256.")],
        ipfs: Annotated[
            str | None, typer.Option("--to", metavar="TARGET", help="Of the kind ipfs. [default: the only one]")
        ] = None,
        kv: Annotated[
            str | None, typer.Option("--pointer", metavar="TARGET", help="Of the kind kv. [default: the only one]")
        ] = None,
        metadata: Annotated[
            list[str] | None,
            typer.Option("--set", metavar="NAME=VALUE", help="What the pointer says; the key is made of it."),
        ] = None,
        key: Annotated[
            str, typer.Option("--key", help="The key. [default: what the target's template makes of the metadata]")
        ] = "",
        order: Annotated[
            int | None,
            typer.Option(
                "--order", help="Of two under one key the higher is the newer. [default: when it was asked for]"
            ),
        ] = None,
        clean_up: Annotated[
            bool, typer.Option("--clean-up", help="Remove the file at the end (setting clean_up.folders).")
        ] = False,
        priority: Annotated[str, typer.Option("--priority", help="low, normal, high or urgent.")] = "normal",
        wait: Annotated[bool, typer.Option("--wait", help="Until it is over; exit code 5 unless completed.")] = False,
        timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait for the end.")] = 600.0,
    ) -> None:
        """Keep a file on IPFS, and then let a key point to it. Each step begins after the receipt of the one before."""
        words = pairs(metadata or [])

        async def publish(lab: "Lab") -> None:
            what: str | Path = Path(thing)
            if not Path(thing).is_file():
                if Path(thing).suffix:
                    raise Stop(f"there is no file {thing}", Code.INVALID)
                what = await resolve(lab, "artifact", thing)
            id_ = await lab.publications.request(
                what, ipfs=ipfs, kv=kv, metadata=words, key=key, order=order, clean_up=clean_up, priority=priority
            )
            if not wait:
                session.emit({"publication_id": str(id_)})
                session.print(str(id_))
                return
            told = await lab.publications.wait(id_, timeout_s)
            session.record(told, title=f"publication {id_}")
            if told["state"] != "completed":
                raise typer.Exit(int(Code.PARKED))

        session.run(publish)

    _publications(app)
    _cid(app)


def _cid(app: typer.Typer) -> None:
    @command(
        app,
        "cid",
        example="labledger cid daily.png --expect bafkreiethitatfzg3uqrrzaukck6psf5bp37cjq2dda3uejj7iodvz54bi",
    )
    def _cid(
        session: Session,
        file: Annotated[Path, typer.Argument(metavar="FILE", help="Any file.")],
        expect: Annotated[
            str | None, typer.Option("--expect", metavar="CID", help="Exit code 4 unless it is one of this file's.")
        ] = None,
    ) -> None:
        """The names of a file on IPFS, by profile, computed here. No lab is needed."""
        from adapters.storage.cid import PROFILES, digest_file, parse

        wanted = None if expect is None else parse(expect)
        found = digest_file(file, PROFILES)
        cids = {name: root.cid for name, root in found.roots.items()}
        matching = [name for name, cid in cids.items() if wanted is None or parse(cid).same_block(wanted)]
        session.record(cids | {"sha256": found.sha256, "size": found.size}, title=str(file))
        if not matching:
            raise Stop(f"{expect} is no name of this file", Code.NOT_VERIFIED)
        if expect is not None:
            session.print(f"{expect} is this file, by {', '.join(matching)}")


def _row(told: dict[str, Any]) -> dict[str, Any]:
    state = told["state"]
    if told["superseded"]:
        state += " (a newer one stood there)"
    return told | {"problem": told["reason"], "state": f"{state}, stalled" if told["stalled"] else state}


def _publications(app: typer.Typer) -> None:
    group = typer.Typer(help="Publications: files on IPFS, and the keys that point to them.", no_args_is_help=True)
    app.add_typer(group, name="publications")

    @command(group, "list", example="labledger publications list --stalled")
    def _list(
        session: Session,
        state: Annotated[
            str | None, typer.Option("--state", help="requested, pinned, pointed, completed or cancelled.")
        ] = None,
        stalled: Annotated[bool, typer.Option("--stalled", help="Only those that wait for a person.")] = False,
        key: Annotated[str | None, typer.Option("--key", help="Only of this key.")] = None,
        limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 50,
    ) -> None:
        """The newest publications first."""
        found = session.run(lambda lab: lab.publications.list(state=state, stalled=stalled, key=key, limit=limit))
        session.table([_row(one) for one in found], _COLUMNS, empty="no publications")

    @command(group, "show", example="labledger publications show last")
    def _show(session: Session, publication: Publication) -> None:
        """Where a publication stands. Its deliveries have the receipts: `labledger deliveries show`."""

        async def show(lab: "Lab") -> dict[str, Any]:
            return await lab.publications.get(await resolve(lab, "publication", publication))

        told = session.run(show)
        session.record(told, title=f"publication {told['publication_id']}")

    @command(group, "retry", example="labledger publications retry last")
    def _retry(session: Session, publication: Publication) -> None:
        """Go on with a publication that stalled, or was cancelled, where it stands."""

        async def retry(lab: "Lab") -> None:
            id_ = await resolve(lab, "publication", publication)
            session.outcome(await lab.publications.retry(id_), f"publication {id_} goes on")

        session.run(retry)

    @command(group, "cancel", example="labledger publications cancel last --reason 'wrong plot'")
    def _cancel(
        session: Session, publication: Publication, reason: Annotated[str, typer.Option("--reason")] = ""
    ) -> None:
        """Make no further step. What is on IPFS stays there."""

        async def cancel(lab: "Lab") -> None:
            id_ = await resolve(lab, "publication", publication)
            session.outcome(await lab.publications.cancel(id_, reason), f"publication {id_} goes no further")

        session.run(cancel)
