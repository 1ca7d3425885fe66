"""labledger deliver, deliveries, targets: results on their way out of the lab, with proof that they arrived."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labledger.cli.common import Code, Session, Stop, command, pairs, resolve

if TYPE_CHECKING:
    from domain.ports import Check
    from labledger.client import Lab
    from labledger.targets import OpenedTarget

Delivery = Annotated[str, typer.Argument(metavar="DELIVERY", help="Its id, its first or last letters, or `last`.")]
TargetName = Annotated[str, typer.Argument(metavar="TARGET", help="Its name in the settings.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait for the end.")]

_COLUMNS = {
    "delivery_id": "delivery",
    "target_id": "target",
    "what": "what",
    "state": "state",
    "attempt": "attempts",
    "location": "where",
    "problem": "problem",
}


def register(app: typer.Typer) -> None:
    _deliver(app)
    _deliveries(app)
    _targets(app)


def _deliver(app: typer.Typer) -> None:
    @command(app, "deliver", example="labledger deliver plot.png --to archive --wait")
    def _send(
        session: Session,
        things: Annotated[
            list[str], typer.Argument(metavar="FILE|ARTIFACT...", help="Files, or the SHA-256 of artifacts.")
        ],
        targets: Annotated[list[str], typer.Option("--to", metavar="TARGET", help="Where to; may come several times.")],
        key: Annotated[str, typer.Option("--key", help="Its name there. [default: the target's template]")] = "",
        options: Annotated[
            list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Options of the target.")
        ] = None,
        priority: Annotated[str, typer.Option("--priority", help="low, normal, high or urgent.")] = "normal",
        wait: Annotated[bool, typer.Option("--wait", help="Until all are over; exit code 5 unless delivered.")] = False,
        timeout_s: Timeout = 600.0,
    ) -> None:
        """Bring files or artifacts to targets. A file is stored and becomes an artifact first."""
        more: dict[str, Any] = {"key": key, "options": pairs(options or []), "priority": priority}

        async def deliver(lab: "Lab") -> None:
            ids: list[str] = []
            for thing in things:
                path = Path(thing)
                for target in targets:
                    if path.is_file():
                        ids.append(str(await lab.deliveries.send_file(path, target, **more)))
                    elif len(thing) == 64 or not path.suffix:
                        artifact = await resolve(lab, "artifact", thing)
                        ids.append(str(await lab.deliveries.request(target, artifact, **more)))
                    else:
                        raise Stop(f"there is no file {thing}", Code.INVALID)
            if not wait:
                session.emit({"delivery_ids": ids})
                for id_ in ids:
                    session.print(id_)
                return
            rows = [await lab.deliveries.wait(id_, timeout_s) for id_ in ids]
            session.table([_row(row) for row in rows], _COLUMNS)
            if any(row["state"] != "delivered" for row in rows):
                raise typer.Exit(int(Code.PARKED))

        session.run(deliver)


def _row(told: dict[str, Any]) -> dict[str, Any]:
    receipt: dict[str, Any] = told.get("receipt") or {}
    ended_well = told["state"] == "delivered"
    return told | {
        "what": told["file_name"] or told["key"] or told["title"],
        "location": told.get("location") or receipt.get("location"),
        "problem": None if ended_well else ": ".join(filter(None, (told.get("error_kind"), told.get("error")))),
    }


def _deliveries(app: typer.Typer) -> None:
    group = typer.Typer(help="Deliveries: what is on its way to which target, and what arrived.", no_args_is_help=True)
    app.add_typer(group, name="deliveries")

    @command(group, "list", example="labledger deliveries list --target archive --state parked")
    def _list(
        session: Session,
        target: Annotated[str | None, typer.Option("--target", help="Only to this target.")] = None,
        state: Annotated[
            str | None,
            typer.Option("--state", help="requested, attempting, failed, delivered, parked or cancelled."),
        ] = None,
        scan: Annotated[str | None, typer.Option("--scan", help="Only of this scan (its id).")] = None,
        limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 50,
    ) -> None:
        """The newest deliveries first."""

        async def found(lab: "Lab") -> list[dict[str, Any]]:
            scan_id = None if scan is None else await resolve(lab, "scan", scan)
            return await lab.deliveries.list(target=target, state=state, scan=scan_id, limit=limit)

        session.table([_row(row) for row in session.run(found)], _COLUMNS, empty="no deliveries")

    @command(group, "show", example="labledger deliveries show last")
    def _show(
        session: Session,
        delivery: Delivery,
        receipt: Annotated[
            Path | None, typer.Option("--receipt", help="Write the receipt to this file, for an auditor.")
        ] = None,
    ) -> None:
        """Everything about a delivery: how it stands, why it failed, its receipt."""

        async def show(lab: "Lab") -> dict[str, Any]:
            return await lab.deliveries.get(await resolve(lab, "delivery", delivery))

        told = session.run(show)
        if receipt is not None:
            if "receipt" not in told:
                raise Stop(f"it is {told['state']}: a receipt comes with the delivery", Code.REFUSED)
            receipt.write_text(json.dumps(told["receipt"], indent=2) + "\n", encoding="utf-8")
        session.record(told, title=f"delivery {told['delivery_id']}")

    @command(group, "retry", example="labledger deliveries retry last")
    def _retry(
        session: Session,
        delivery: Annotated[
            str | None, typer.Argument(metavar="DELIVERY", help="Its id, its first or last letters, or `last`.")
        ] = None,
        parked: Annotated[bool, typer.Option("--parked", help="All that are parked.")] = False,
        target: Annotated[str | None, typer.Option("--target", help="With --parked: only to this target.")] = None,
    ) -> None:
        """Try a parked or cancelled delivery again, or all that are parked."""
        if parked == (delivery is not None):
            raise Stop("name a delivery, or give --parked", Code.INVALID)

        async def retry(lab: "Lab") -> None:
            if delivery is not None:
                id_ = await resolve(lab, "delivery", delivery)
                session.outcome(await lab.deliveries.retry(id_), f"delivery {id_} is tried again")
                return
            ids = [
                str(row["delivery_id"]) for row in await lab.deliveries.list(target=target, state="parked", limit=1000)
            ]
            for id_ in ids:
                await lab.deliveries.retry(id_)
            session.emit({"retried": ids})
            session.print(f"{len(ids)} deliveries are tried again")

        session.run(retry)

    @command(group, "cancel", example="labledger deliveries cancel last --reason 'wrong file'")
    def _cancel(session: Session, delivery: Delivery, reason: Annotated[str, typer.Option("--reason")] = "") -> None:
        """Call off a delivery that has not arrived."""

        async def cancel(lab: "Lab") -> None:
            id_ = await resolve(lab, "delivery", delivery)
            session.outcome(await lab.deliveries.cancel(id_, reason), f"delivery {id_} is called off")

        session.run(cancel)

    @command(group, "verify", example="labledger deliveries verify last")
    def _verify(
        session: Session,
        delivery: Annotated[
            str | None, typer.Argument(metavar="DELIVERY", help="Its id, its first or last letters, or `last`.")
        ] = None,
        receipt: Annotated[
            Path | None,
            typer.Option("--receipt", help="A receipt's file: the target is asked from here, no lab is needed."),
        ] = None,
        target: Annotated[
            str | None, typer.Option("--target", help="With --receipt: the settings' target. [default: the receipt's]")
        ] = None,
        timeout_s: Timeout = 60.0,
    ) -> None:
        """Ask the target again what it has, and compare that with the receipt. Exit code 4 if they differ."""
        if (receipt is None) == (delivery is None):
            raise Stop("name a delivery, or give --receipt FILE", Code.INVALID)
        if receipt is not None:
            checks = asyncio.run(_verified_from_here(session, receipt, target))
        else:

            async def verify(lab: "Lab") -> list[dict[str, Any]]:
                id_ = await resolve(lab, "delivery", delivery or "")
                return (await lab.deliveries.verify(id_, timeout_s))["checks"]

            checks = session.run(verify)
        _say_checks(session, checks)
        if not all(check["ok"] for check in checks):
            raise typer.Exit(int(Code.NOT_VERIFIED))


async def _verified_from_here(session: Session, path: Path, named: str | None) -> list[dict[str, Any]]:
    from pydantic import ValidationError

    from domain.delivery import Receipt
    from domain.ports import DeliveryFailed

    try:
        receipt = Receipt.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise Stop(f"{path} is no receipt: {str(error).splitlines()[0]}", Code.INVALID) from None
    opened = _opened(session, named or receipt.target_id)
    try:
        if opened.adapter != receipt.adapter:
            raise Stop(f"the receipt is of {receipt.adapter}, {opened.name} is {opened.adapter}", Code.INVALID)
        found = await opened.target.verify(receipt.proof, receipt.sha256, receipt.size)
    except DeliveryFailed as error:
        raise Stop(f"the target could not be asked: {error}", Code.UNREACHABLE) from None
    finally:
        await opened.target.close()
    return [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in found]


def _opened(session: Session, name: str) -> "OpenedTarget":
    from bus.roles import Role
    from labledger.targets import open_target
    from labledger.wiring import connected

    async def nats() -> Any:
        return await connected(session.settings.connection(Role.DELIVER), "labledger-target", first_try_s=10)

    return open_target(session.settings, name, nats)


def _say_checks(session: Session, checks: Sequence[dict[str, Any]]) -> None:
    session.emit({"ok": all(check["ok"] for check in checks), "checks": list(checks)})
    for check in checks:
        mark = "[green]ok  [/green]" if check["ok"] else "[bold red]FAIL[/bold red]"
        if not session.json:
            session.console.print(f"{mark} [bold]{check['name']}[/bold]", end="  ")
            session.console.print(check["detail"], markup=False)


def _targets(app: typer.Typer) -> None:
    group = typer.Typer(help="Targets: the outside systems that take deliveries.", no_args_is_help=True)
    app.add_typer(group, name="targets")

    @command(group, "list", example="labledger targets list")
    def _list(session: Session) -> None:
        """The targets with figures of what became of their deliveries."""

        async def found(lab: "Lab") -> list[dict[str, Any]]:
            figures = {row["target_id"]: row for row in await lab.targets.statistics()}
            return [_target_row(one) | figures.get(one["target_id"], {}) for one in await lab.targets.list()]

        columns = {"target_id": "target", "adapter": "adapter", "state": "state", "waiting": "waiting"}
        columns |= {
            "delivered": "delivered",
            "parked": "parked",
            "mb_per_s": "MB/s",
            "oldest_waiting_at": "oldest waiting",
        }
        empty = "no targets: add [targets.NAME] to the settings and start `labledger run deliver`"
        session.table(session.run(found), columns, empty=empty)

    @command(group, "show", example="labledger targets show archive")
    def _show(session: Session, target: TargetName) -> None:
        """What is known of a target: where it is, what is missing, its last test."""
        told = session.run(lambda lab: lab.targets.get(target))
        opened: dict[str, Any] = told["opened"] or {}
        session.record(opened | {"tested": told["tested"]}, title=f"target {target}")

    @command(group, "test", example="labledger targets test archive")
    def _test(session: Session, target: TargetName) -> None:
        """Send a small file there and back, from here, and say what is wrong. Exit code 4 if anything is."""

        async def test() -> list[dict[str, Any]]:
            opened = _opened(session, target)
            try:
                missing = [
                    {"name": "credentials", "ok": False, "detail": f"{name} is not set"}
                    for name in opened.target.missing()
                ]
                found: Sequence[Check] = [] if missing else await opened.target.test()
            finally:
                await opened.target.close()
            return missing + [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in found]

        checks = asyncio.run(test())
        _say_checks(session, checks)
        _keep_test(session, target, checks)
        if not all(check["ok"] for check in checks):
            raise typer.Exit(int(Code.NOT_VERIFIED))


def _target_row(told: dict[str, Any]) -> dict[str, Any]:
    opened, tested = told["opened"], told["tested"]
    state = "served"
    if opened["missing"]:
        state = f"local only: {', '.join(opened['missing'])} not set"
    elif tested and not tested["ok"]:
        state = "last test failed"
    return {"target_id": told["target_id"], "adapter": opened["adapter"], "state": state}


def _keep_test(session: Session, target: str, checks: Sequence[dict[str, Any]]) -> None:
    """Where a lab is there to note it."""
    from labledger.client import CommandRefused, LabError
    from labledger.settings import SettingsError

    try:
        session.run(lambda lab: lab.targets.note_test(target, checks), timeout_s=5.0)
    except CommandRefused:
        session.print("[dim]not noted: no worker serves this target yet (labledger run deliver)[/dim]")
    except (LabError, SettingsError):
        session.print("[dim]not noted: no lab is up[/dim]")
