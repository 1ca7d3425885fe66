"""labledger spice: from curves to models."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bus.roles import Role
from labledger.cli.arguments import Part, Priority, Wait
from labledger.cli.common import Code, Session, Stop, command, resolve, write_file

if TYPE_CHECKING:
    from labledger.client import Lab


MODEL_COLUMNS = {"version": "version", "state": "state", "form": "form", "grade": "grade", "error_share": "nrmse"} | {
    "check": "check",
    "library": "library",
    "fit_id": "fit",
    "error": "error",
}


def model_row(one: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = one.get("result") or {}
    row = {key: one.get(key) for key in ("version", "state", "fit_id", "error", "duration_s")}
    figures = {key: result.get(key) for key in ("form", "grade", "check", "library", "nrmse", "mare", "findings")}
    nrmse = result.get("nrmse")
    return row | figures | {"error_share": "" if nrmse is None else f"{100 * nrmse:.2f} %"}


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="SPICE models: curves become a library.", no_args_is_help=True)
    app.add_typer(group, name="spice")

    @command(group, "fit", example="labledger spice fit C3M0016120K --wait --out models")
    def _fit(
        session: Session,
        part_number: Part,
        extractions: Annotated[
            list[str] | None,
            typer.Option("--extraction", help="Use this one; once for each. [default: the newest of each chart]"),
        ] = None,
        min_confidence: Annotated[
            float | None,
            typer.Option("--min-confidence", min=0, max=1, help="Leave out what is less sure. [default: 0.5]"),
        ] = None,
        forms: Annotated[list[str] | None, typer.Option("--form", help="Only this form; once for each.")] = None,
        simulate: Annotated[bool, typer.Option("--simulate/--no-simulate", help="Judge it by ngspice.")] = True,
        priority: Priority = "normal",
        wait: Wait = False,
        out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Write the .lib there (waits).")] = None,
    ) -> None:
        """Fit a model to a product's extracted curves; one that is there gets a new version."""

        async def fit(lab: "Lab") -> None:
            chosen = [await resolve(lab, "extraction", one) for one in extractions or []]
            fit_id = await lab.spice_models.fit(
                part_number,
                extraction_ids=chosen or None,
                min_confidence=min_confidence,
                forms=forms,
                simulate=simulate,
                priority=priority,
            )
            if not (wait or out):
                session.emit({"fit_id": str(fit_id)})
                session.print(str(fit_id))
                return
            _say_model(session, await lab.spice_models.wait(part_number, fit_id), out)

        session.run(fit)

    @command(group, "show", example="labledger spice show C3M0016120K")
    def _show(
        session: Session,
        part_number: Part,
        out: Annotated[
            Path | None, typer.Option("--out", metavar="DIR", help="Write the newest version's .lib there.")
        ] = None,
    ) -> None:
        """The versions of a product's model."""
        found = session.run(lambda lab: lab.spice_models.get(part_number))
        fitted = [one for one in found if one["state"] == "fitted"]
        if out is not None:
            if not fitted:
                raise Stop(f"no version of {part_number} is fitted yet", Code.REFUSED)
            _write_model(session, fitted[-1], out)
        session.table(found if session.json else [model_row(one) for one in found], MODEL_COLUMNS)

    @command(group, "check", example="labledger spice check C3M0016120K --limit 0.03")
    def _check(
        session: Session,
        part_number: Part,
        version: Annotated[int | None, typer.Option("--version", min=1, help="[default: the newest]")] = None,
        limit: Annotated[float, typer.Option("--limit", min=0, help="Largest nrmse that is good enough.")] = 0.05,
    ) -> None:
        """Simulate a fitted model once more, here, against the curves that it was made from. Exit code 4 when it is worse."""
        from labledger.blobs import blobs_of

        found = session.run(lambda lab: lab.spice_models.get(part_number))
        fitted = [one for one in found if one["state"] == "fitted" and version in (None, one["version"])]
        if not fitted:
            raise Stop(f"no such version of {part_number} is fitted", Code.REFUSED)
        result = fitted[-1]["result"]
        blobs = blobs_of(session.settings, Role.PUBLISHER)
        report = json.loads(blobs.get(result["report"]))
        checked = _simulated(blobs.get(result["library"]).decode(), report, limit)
        session.emit({"version": fitted[-1]["version"]} | checked)
        share = "" if checked.get("nrmse") is None else f"nrmse {100 * checked['nrmse']:.2f} %"
        session.print(f"version {fitted[-1]['version']}: {checked['grade']}  {share}")
        if not checked["ok"]:
            session.print(f"that is worse than the limit of {100 * limit:g} %")
            raise typer.Exit(int(Code.NOT_VERIFIED))


def _simulated(library: str, report: Mapping[str, Any], limit: float) -> dict[str, Any]:
    import tempfile

    from labledger import spice

    with tempfile.TemporaryDirectory(prefix="labledger-spice-") as folder:
        path = Path(folder) / "model.lib"
        path.write_text(library, encoding="utf-8")
        try:
            checked = spice.check(path, report["measured"], limit=limit)
        except ModuleNotFoundError as error:
            raise Stop(f"{error}: install labledger[spice]", Code.REFUSED) from None
        except FileNotFoundError as error:
            raise Stop(f"the check needs ngspice: {error}", Code.REFUSED) from None
    nrmse = checked.report["simulated"]["nrmse"]
    return {"ok": checked.ok, "grade": checked.grade, "nrmse": nrmse, "report": checked.report}


def _say_model(session: Session, version: Mapping[str, Any], out: Path | None) -> None:
    row = model_row(version)
    if version["state"] != "fitted":
        raise Stop(f"version {version['version']} is {version['state']}: {version['error']}", Code.REFUSED)
    if out is not None:
        _write_model(session, version, out)
    if session.json:
        session.emit(dict(version))
        return
    findings, mare = row.pop("findings") or (), row.pop("mare")
    row |= {"nrmse": row.pop("error_share"), "mare": "" if mare is None else f"{100 * mare:.1f} %"}
    session.record(row, title=f"version {version['version']} is {row['grade']}")
    for finding in findings:
        session.print(f"note: {finding}")


def _write_model(session: Session, version: Mapping[str, Any], out: Path) -> None:
    from labledger.blobs import blobs_of

    blobs = blobs_of(session.settings, Role.PUBLISHER)
    out.mkdir(parents=True, exist_ok=True)
    stem = f"{version['spice_model_id']}.v{version['version']}"
    for name, ending in (
        ("library", ".lib"),
        ("suggested", ".suggested.lib"),
        ("report", ".spice.json"),
        ("plot", ".spice.png"),
    ):
        if version["result"].get(name):
            write_file(session, out / f"{stem}{ending}", blobs.get(version["result"][name]))
