"""Fit every device of a set of measured curves, judge each netlist in ngspice, and print the table beside the targets.

    python -m bench.spice DEVICES.json [--tj 25] [--checker CHECK.py] [--only NAME] [--json OUT.json] [--between FORM...]

DEVICES.json is a list of {"device", "type", "output": [{"tj", "vgs", "vds", "id"}], "body_diode": [{"tj", "vgs", "v", "i"}], "capacitance"}
such as the transistor database has it; the set itself is not ours and stays outside the project. Or of objects in the form that
`labledger spice fit` takes. `--checker` is a program that simulates a library by itself (LIB MEASURED --json OUT): its figure is
then printed beside ours, and the two must agree. `--between` asks instead how well these forms tell the curves that were not
measured: each output curve but the lowest and the highest is left out, and predicted in ngspice by what is fitted to the others.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from adapters.spice.ngspice import simulate
from domain.spice_curves import measured_from
from labledger.spice import fit, write

#: (floor, aim) of the pooled nrmse in ngspice
TARGETS = {"SiC": (0.012, 0.005), "GaN": (0.012, 0.005), "Si": (0.025, 0.015)}


def family(device_type: str) -> str:
    return next((f for f in ("SiC", "GaN") if f.lower() in device_type.lower()), "Si")


def measured_of(device: dict[str, Any], tj: float) -> dict[str, Any]:
    """The curves at one temperature, and the body diode at VGS = 0, as `labledger spice fit` takes them."""
    if "device" not in device:
        return device
    caps = {k: device["capacitance"][k] for k in ("c_iss", "c_oss", "c_rss") if device.get("capacitance", {}).get(k)}
    return {
        "name": device["device"],
        "type": device["type"],
        "tj": tj,
        "output": [{k: c[k] for k in ("vgs", "vds", "id")} for c in device["output"] if c["tj"] == tj],
        "diode": [{k: c[k] for k in ("v", "i")} for c in device["body_diode"] if c["tj"] == tj and c["vgs"] == 0],
        "capacitance": {"f": 1e6} | caps,
    }


def judged_by(checker: Path, library: Path, measured: Path) -> float | None:
    out = library.with_suffix(".check.json")
    subprocess.run(
        [sys.executable, str(checker), str(library), str(measured), "--json", str(out)],
        capture_output=True,
        timeout=300,
    )
    return json.loads(out.read_text()).get("nrmse") if out.exists() else None


def percent(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"


def between(data: dict[str, Any], form: str) -> dict[float, float]:
    """VGS of each inner output curve -> rms error of its prediction without it, as a share of the largest current of all."""
    rows = sorted(data["output"], key=lambda row: row["vgs"])
    top = max(max(row["id"]) for row in rows)
    found: dict[float, float] = {}
    for left_out in rows[1:-1]:
        others = [row for row in rows if row is not left_out]
        result = fit(data | {"output": others, "capacitance": {}}, forms=[form], draw=False)
        alone = measured_from({"name": data["name"], "type": data["type"], "tj": data["tj"], "output": [left_out]})
        (error,) = simulate(result.library, alone).errors.curves
        found[left_out["vgs"]] = error.nrmse * max(left_out["id"]) / top
    return found


def print_between(devices: list[dict[str, Any]], forms: list[str]) -> None:
    print("| device | form | error at the VGS left out / % of the largest current | median | worst |")
    print("| --- | --- | --- | --- | --- |")
    for data in devices:
        for form in forms:
            found = between(data, form)
            told = ", ".join(f"{vgs:g} V: {percent(error)}" for vgs, error in found.items())
            middle = statistics.median(found.values()) if found else None
            worst = max(found.values(), default=None)
            print(f"| {data['name']} | {form} | {told} | {percent(middle)} | {percent(worst)} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.spice")
    parser.add_argument("devices", type=Path)
    parser.add_argument("--tj", type=float, default=25)
    parser.add_argument("--checker", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--between", nargs="+", default=[], metavar="FORM")
    given = parser.parse_args()
    everything = [measured_of(device, given.tj) for device in json.loads(given.devices.read_text())]
    devices = [data for data in everything if given.only in data["name"]]
    if given.between:
        print_between(devices, given.between)
        return 0
    reports: list[dict[str, Any]] = []
    missed = 0
    print("| device | form | nrmse / % | mare / % | checker | Ciss, Coss, Crss / decades | grade | target | s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for data in devices:
        result = fit(data, draw=False)
        report = result.report
        judged = None
        with tempfile.TemporaryDirectory() as folder:
            measured = Path(folder) / "measured.json"
            measured.write_text(json.dumps(data))
            files = write(result, Path(folder))
            if given.checker:
                judged = judged_by(given.checker.resolve(), files[0], measured)
        floor, aim = TARGETS[family(data["type"])]
        e = report["simulated"] or {"nrmse": None, "mare": None, "capacitance_decades": {}}
        # A set that is suspect is measured by what it becomes once its label is put right.
        what = report["suggestion"]["simulated"]["nrmse"] if report["suggestion"] else e["nrmse"]
        words = "unchecked" if what is None else "aim" if what <= aim else "floor" if what <= floor else "missed"
        missed += words == "missed"
        decades = ", ".join(f"{v:.3f}" for v in e["capacitance_decades"].values())
        extra = f" ({percent(what)} as suggested)" if report["suggestion"] else ""
        print(
            f"| {data['name']} | {report['form']} | {percent(e['nrmse'])}{extra} | {percent(e['mare'], 1)} | {percent(judged)} "
            f"| {decades} | {report['grade']} | {words} | {report['seconds']:.0f} |",
            flush=True,
        )
        reports.append(report)
    forms = sorted({c["form"] for r in reports for c in r["candidates"]})
    print("\nnrmse / mean relative error, %, of each form in ngspice\n\n| device | " + " | ".join(forms) + " |")
    print("| --- |" + " --- |" * len(forms))
    for report in reports:
        cells = {c["form"]: f"{percent(c['nrmse'])} / {percent(c['mare'], 1)}" for c in report["candidates"]}
        print(f"| {report['device']} | " + " | ".join(cells.get(f, "-") for f in forms) + " |")
    for report in reports:
        for finding in report["findings"]:
            print(f"{report['device']}: {finding['text']}")
    if given.json:
        given.json.write_text(json.dumps(reports, indent=1) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
