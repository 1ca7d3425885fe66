"""From measured curves to a library for the circuit simulator, and back: `fit` and `check`, without any server.

    python -m labledger.spice fit MEASURED.json --out DIR [--name NAME] [--date 2026-05-01] [--image CURVES.png]...
    python -m labledger.spice check MODEL.lib MEASURED.json [--limit 0.05]

`fit` writes NAME.lib, NAME.spice.json and NAME.spice.png; for a suspect set that fits once one thing is changed also
NAME.suggested.lib. Exit status: 0 good or acceptable (or unchecked), 1 poor, 3 suspect, 2 wrong input or a simulator that failed.
"""

import argparse
import datetime
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from domain.errors import OutOfLimits
from domain.spice_curves import Measured, measured_from, measured_json
from domain.spice_grade import Errors, Grade, grade, limits_for
from domain.spice_netlist import NETLIST_VERSION, netlist, spice_name


@dataclass(frozen=True, eq=False)
class Result:
    """What `fit` gives: texts and plain data, ready to be stored."""

    name: str
    form: str
    grade: Grade
    #: The text of the `.lib`.
    library: str
    #: JSON: errors, parameters with units, candidates, findings, ranges, versions.
    report: dict[str, Any]
    #: PNG, or None when Matplotlib is not installed.
    plot: bytes | None
    #: The library that fits once what the first finding names is changed; only of suspect sets.
    suggested_library: str | None = None


@dataclass(frozen=True, eq=False)
class Checked:
    """What `check` gives; `ok` is whether the pooled nrmse is within the limit."""

    ok: bool
    grade: Grade
    report: dict[str, Any]


def _errors_json(errors: Errors | None) -> dict[str, Any] | None:
    if errors is None:
        return None
    data = asdict(errors)
    data["capacitance_decades"] = dict(errors.capacitance_decades)
    return data


def _measured(measured: Measured | Mapping[str, Any]) -> Measured:
    return measured if isinstance(measured, Measured) else measured_from(measured)


def _range(measured: Measured) -> dict[str, float]:
    out: dict[str, float] = {"tj_c": measured.tj_c}
    output, transfer, diode = measured.of("output"), measured.of("transfer"), measured.of("diode")
    gates = [c.at for c in output] + [float(v) for c in transfer for v in (c.x[0], c.x[-1])]
    drains = [float(c.x[-1]) for c in output] + [c.at for c in transfer]
    if gates:
        out |= {"vgs_from_v": min(gates), "vgs_to_v": max(gates)}
    if drains:
        out |= {"vds_to_v": max(drains)}
    if output or transfer:
        out["id_to_a"] = max(c.top for c in (*output, *transfer))
    if diode:
        out |= {"vsd_to_v": max(float(c.x[-1]) for c in diode), "isd_to_a": max(c.top for c in diode)}
    if measured.capacitances:
        out["c_to_v"] = max(float(cv.v[-1]) for cv in measured.capacitances.values())
    return out


_RANGE_WORDS = {
    "tj_c": "Tj / degC",
    "vgs_from_v": "VGS from / V",
    "vgs_to_v": "VGS to / V",
    "vds_to_v": "VDS to / V",
    "id_to_a": "ID to / A",
    "vsd_to_v": "VSD to / V",
    "isd_to_a": "ISD to / A",
    "c_to_v": "capacitances to VDS / V",
}


def fit(
    measured: Measured | Mapping[str, Any],
    *,
    name: str | None = None,
    date: datetime.date | None = None,
    images: Mapping[str, str] | None = None,
    forms: Sequence[str] | None = None,
    simulator: bool = True,
    draw: bool = True,
    progress: Callable[[int, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Result:
    """A model of measured curves (the JSON of `domain.spice_curves.measured_from`).

    `images` maps names of source images to their SHA-256; `date` is what the header says, so that the same curves give the same bytes;
    `progress` hears (0-100, words); `cancelled` is asked often. Blocks for seconds: run it in a thread or a worker process. Raises
    OutOfLimits (wrong or too little input), adapters.spice.fit.FitCancelled, and ModuleNotFoundError without SciPy.
    """
    from adapters.spice.fit import Candidate, Fitted
    from adapters.spice.fit import fit as fit_model

    measured = _measured(measured)
    name = spice_name(name or measured.name)
    sources = dict(sorted((images or {}).items()))
    done: Fitted = fit_model(measured, forms=forms, simulator=simulator, progress=progress, cancelled=cancelled)

    def figures(candidate: Candidate) -> str:
        e = candidate.simulated.errors if candidate.simulated else candidate.formula
        words = (
            [] if e.nrmse is None else [f"nrmse {100 * e.nrmse:.2f} %", f"mean relative {100 * (e.mare or 0):.1f} %"]
        )
        words += [f"{k} {v:.3f} decades" for k, v in e.capacitance_decades.items()]
        return ", ".join(words)

    def text(of: Fitted, as_grade: Grade, extra: Sequence[str] = ()) -> str:
        form = of.best.model.form
        title = form.title if form else "diode"
        header = [
            f"{name}: model fitted to measured curves by labledger, netlist version {NETLIST_VERSION}",
            *([f"date: {date.isoformat()}"] if date else []),
            *([f"device: {measured.name}" + (f" ({measured.device_type})" if measured.device_type else "")]),
            f"form: {of.best.model.form_name} ({title})",
            f"grade: {as_grade}" + ("" if of.best.simulated else " - NOT CHECKED IN A SIMULATOR"),
            f"check: {of.check}",
            f"error ({'of the simulated netlist' if of.best.simulated else 'of the formula only'}): {figures(of.best)}",
            *(f"source: {image} sha256:{digest}" for image, digest in sources.items()),
            *extra,
            "valid within: " + ", ".join(f"{_RANGE_WORDS[k]} {v:.4g}" for k, v in _range(measured).items()),
            "not from the maker of the device; beyond that range, and at other temperatures, it is a guess",
            *(f"note: {f.text}" for f in of.findings),
            "pins: " + ("a k" if of.best.model.form is None else "d g s"),
        ]
        return netlist(of.best.model, name, header)

    suggested: str | None = None
    if done.suggestion is not None:
        first = next((f for f in done.findings if f.suspect), None)
        change = [f"SUGGESTION, not the set as it was given: {first.text}"] if first else []
        suggested = text(done.suggestion, done.suggestion.grade, change)
    simulated = done.best.simulated
    plot: bytes | None = None
    if draw:
        plot = _drawn(done, f"{name}: {done.best.model.form_name}, {done.grade}, {figures(done.best)}")
    report: dict[str, Any] = {
        "name": name,
        "device": measured.name,
        "type": measured.device_type,
        "form": done.best.model.form_name,
        "grade": done.grade,
        "check": done.check,
        "simulated": _errors_json(simulated.errors if simulated else None),
        "formula": _errors_json(done.best.formula),
        "converges_when_switched": done.converges,
        "parameters": [
            {"name": p.name, "value": v, "unit": p.unit, "low": p.low, "high": p.high, "text": p.text}
            for p, v in done.best.model.parameters()
        ],
        "capacitances": asdict(done.best.model.capacitances),
        "range": _range(measured),
        "findings": [asdict(f) for f in done.findings],
        "outliers": list(done.outliers),
        "candidates": [
            {
                "form": c.model.form_name,
                "parameters": c.model.size,
                "nrmse": c.simulated.errors.nrmse if c.simulated else None,
                "mare": c.simulated.errors.mare if c.simulated else None,
                "formula_nrmse": c.formula.nrmse,
                "formula_mare": c.formula.mare,
                "failure": c.failure,
                "findings": [f.code for f in c.findings],
                "seconds": round(c.seconds, 3),
            }
            for c in done.candidates
        ],
        "suggestion": None
        if done.suggestion is None
        else {
            "form": done.suggestion.best.model.form_name,
            "grade": done.suggestion.grade,
            "simulated": _errors_json(
                done.suggestion.best.simulated.errors if done.suggestion.best.simulated else None
            ),
            "formula": _errors_json(done.suggestion.best.formula),
            "measured": measured_json(done.suggestion.measured),
        },
        "images": sources,
        "versions": _versions() | {"netlist": NETLIST_VERSION, "simulator": simulated.version if simulated else None},
        "seconds": round(done.seconds, 3),
    }
    return Result(name, done.best.model.form_name, done.grade, text(done, done.grade), report, plot, suggested)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("numpy", "scipy")}


def _drawn(done: Any, title: str) -> bytes | None:
    """The picture of a `Fitted`, or None when Matplotlib is not installed."""
    import tempfile

    if find_spec("matplotlib") is None:
        return None
    from adapters.spice.plot import plot_errors

    simulated = done.best.simulated
    values = simulated.values if simulated else [done.best.model.on(c) for c in done.measured.curves]
    with tempfile.TemporaryDirectory(prefix="labledger-spice-") as folder:
        path = Path(folder) / "error.png"
        plot_errors(path, done.measured, values, simulated.capacitances if simulated else {}, title)
        return path.read_bytes()


def check(
    lib: str | Path,
    measured: Measured | Mapping[str, Any],
    *,
    limit: float = 0.05,
    subcircuit: str | None = None,
    pins: str | None = None,
) -> Checked:
    """Simulate a library (its path) along measured curves; `limit` bounds the pooled nrmse.

    Also takes libraries that are not ours, as long as ngspice reads them without a compatibility mode. Raises OutOfLimits,
    FileNotFoundError (no library, no ngspice) and adapters.spice.ngspice.SimulationFailed.
    """
    from adapters.spice.ngspice import simulate

    measured = _measured(measured)
    text = Path(lib).read_text(errors="replace")
    done = simulate(text, measured, subcircuit=subcircuit, pins=pins)
    graded = grade(done.errors, limits_for(measured.device_type))
    ok = done.errors.nrmse is None or done.errors.nrmse <= limit
    report = {
        "ok": ok,
        "grade": graded,
        "limit": limit,
        "simulated": _errors_json(done.errors),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "versions": {"simulator": done.version},
    }
    return Checked(ok, graded, report)


def write(result: Result, folder: Path) -> list[Path]:
    """The files of a result, in `folder`, which is made; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, bytes] = {
        f"{result.name}.lib": result.library.encode(),
        f"{result.name}.spice.json": (json.dumps(result.report, indent=1) + "\n").encode(),
    }
    if result.plot is not None:
        files[f"{result.name}.spice.png"] = result.plot
    if result.suggested_library is not None:
        files[f"{result.name}.suggested.lib"] = result.suggested_library.encode()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def summary(report: Mapping[str, Any]) -> str:
    """A few lines for a person."""
    figures = cast("dict[str, Any]", report["simulated"] or report["formula"])
    where = "simulated" if report["simulated"] else "formula only"
    nrmse, mare = figures["nrmse"], figures["mare"]
    lines = [f"{report['name']}: {report['form']}, {report['grade']} ({report['check']})"]
    if nrmse is not None:
        lines.append(f"  {where}: nrmse {100 * nrmse:.2f} %, mean relative error {100 * mare:.1f} %")
    decades = cast("dict[str, float]", figures["capacitance_decades"])
    if decades:
        lines.append("  capacitances: " + ", ".join(f"{k} {v:.3f} decades" for k, v in decades.items()))
    lines += [f"  {'SUSPECT' if f['suspect'] else 'note'}: {f['text']}" for f in report["findings"]]
    if report["outliers"]:
        lines.append("  points far off: " + ", ".join(report["outliers"][:8]))
    return "\n".join(lines)


def _read(path: Path) -> dict[str, Any]:
    try:
        data: Any = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise OutOfLimits(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise OutOfLimits(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise OutOfLimits(f"{path}: give one JSON object with the measured curves")
    data = cast("dict[str, Any]", data)
    data.setdefault("name", path.stem)
    return data


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m labledger.spice", description="Fit and check models for ngspice.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("fit", help="measured curves to a .lib")
    one.add_argument("measured", type=Path)
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--name")
    one.add_argument("--date", type=datetime.date.fromisoformat, help="what the header says, such as 2026-05-01")
    one.add_argument(
        "--image", type=Path, action="append", default=[], help="a source image; its SHA-256 goes into the header"
    )
    one.add_argument("--form", action="append", help="only these forms")
    one.add_argument("--no-simulator", action="store_true")
    two = commands.add_parser("check", help="a .lib against measured curves")
    two.add_argument("lib", type=Path)
    two.add_argument("measured", type=Path)
    two.add_argument("--limit", type=float, default=0.05)
    two.add_argument("--subckt")
    two.add_argument("--pins")
    given = parser.parse_args(arguments)
    try:
        data = _read(given.measured)
        if given.command == "check":
            checked = check(given.lib, data, limit=given.limit, subcircuit=given.subckt, pins=given.pins)
            print(json.dumps(checked.report, indent=1))
            return 0 if checked.ok else 1
        images = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in given.image}
        result = fit(
            data,
            name=given.name,
            date=given.date,
            images=images,
            forms=given.form,
            simulator=not given.no_simulator,
        )
        write(result, given.out)
        print(summary(result.report))
        return {"poor": 1, "suspect": 3}.get(result.grade, 0)
    except (OutOfLimits, OSError) as error:
        print(str(error), file=sys.stderr)
        return 2
    except Exception as error:
        # Loaded only with the fit; its class cannot be named before.
        if type(error).__name__ != "SimulationFailed":
            raise
        print(str(error), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
