"""Run the bench: `python -m bench`. See `bench/__init__.py`.

Exits 1 when a row is below its floor, failed, or could not be compared; a peer that is not installed is forgiven with
--allow-missing.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import machine
from bench.frame import BAD, Bench, Row, rows, run_row

RESULTS = Path(__file__).parent / "results.json"
STYLE = {"aim met": "bold green", "floor met": "green", "below aim": "yellow", "told": "dim", "missing": "yellow"}


def number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "-"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit}".strip()


def with_range(result: dict[str, Any], side: str) -> str:
    """`5,767 (5,275-6,118)`: the median and the range of the repetitions."""
    text = number(result[side])
    low_high = result["ranges"].get(side)
    if low_high and low_high[0] != low_high[1]:
        text += f"\n({number(low_high[0])}-{number(low_high[1])})"
    return text


def bound(result: dict[str, Any], which: str) -> str:
    value = result[which]
    if value is None:
        return "-"
    sign = "" if result["higher_is_better"] else "<= "
    return f"{sign}{number(value, result['unit'])}" if result["absolute"] else f"{sign}{value:g} x"


def table(results: list[dict[str, Any]]) -> Table:
    found = Table(title="labledger against its references, in one run", show_lines=True)
    for column in ("what", "unit"):
        found.add_column(column)
    for column in ("ours", "reference", "ratio", "floor", "aim"):
        found.add_column(column, justify="right")
    found.add_column("verdict")
    for result in results:
        style = STYLE.get(result["verdict"], "bold red")
        reference = with_range(result, "reference")
        found.add_row(
            result["name"],
            result["unit"],
            with_range(result, "ours"),
            f"{reference}\n[dim]{result['reference_name']}[/dim]",
            with_range(result, "ratio"),
            bound(result, "floor"),
            bound(result, "aim"),
            f"[{style}]{result['verdict']}[/{style}]",
        )
    return found


async def run_all(chosen: list[Row], bench: Bench, with_ours: bool, progress: Console) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    for row in chosen:
        started = time.monotonic()
        for result in await run_row(row, bench, with_ours):
            why = f": {result['why']}" if "why" in result else ""
            numbers = f"ours {number(result['ours'])}, {result['reference_name']} {number(result['reference'])}"
            line = f"{result['name']}: {numbers} {result['unit']}; {result['verdict']}{why}"
            progress.print(line, markup=False, soft_wrap=True)
            results.append(result)
        progress.print(f"  {time.monotonic() - started:.1f} s", style="dim")
    return results


def arguments(argv: list[str] | None, keys: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Our numbers as ratios to their references.")
    parser.add_argument("--only", default="", help="rows to run, by file name, with commas: " + ", ".join(keys))
    parser.add_argument("--quick", action="store_true", help="one short repetition of each row: shows that it runs")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")
    parser.add_argument("--reference-only", action="store_true", help="measure what we are compared with, not ours")
    parser.add_argument("--allow-missing", action="store_true", help="exit 0 although a peer is not installed")
    parser.add_argument("--peers-python", help="interpreter of a venv that has Bluesky, QCoDeS and PyMeasure")
    parser.add_argument("--uvloop", action="store_true", help="run both sides on uvloop instead of asyncio's own loop")
    parser.add_argument("--data", type=Path, help="folder for the servers' data (default: the temporary folder)")
    found = parser.parse_args(argv)
    unknown = {name for name in found.only.split(",") if name} - set(keys)
    if unknown:
        parser.error(f"no row named {', '.join(sorted(unknown))}; there are: {', '.join(keys)}")
    return found


def main(argv: list[str] | None = None) -> int:
    every = rows()
    options = arguments(argv, [row.key for row in every])
    wanted = [name for name in options.only.split(",") if name]
    chosen = [row for row in every if not wanted or row.key in wanted]

    if options.data:
        options.data.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="labledger-bench-", dir=options.data))
    folder.chmod(0o755)  # Postgres of a root's run lives below it as another user
    bench = Bench(folder=folder, quick=options.quick, peers_python=options.peers_python)
    factory = None
    if options.uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    try:
        about = machine.describe(folder, "uvloop" if options.uvloop else "asyncio")
        with asyncio.Runner(loop_factory=factory) as runner:
            results = runner.run(run_all(chosen, bench, not options.reference_only, Console(stderr=True)))
    finally:
        bench.close()
    for result in results:
        result["machine"] = about
        result["quick"] = options.quick
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        console = Console(width=None if sys.stdout.isatty() else 160)
        console.print(table(results))
        where = f"{about['processor']}, {about['cpus']} cpus, load {about['load']}, {about['nats_server']}"
        disk = f"{about['filesystem']} (fdatasync {about['fsync_ms']} ms)"
        console.print(f"{where}, {disk}, Python {about['python']}, {about['event_loop']}", style="dim")
    forgiven = {"missing"} if options.allow_missing else set[str]()
    return int(any(result["verdict"] in BAD and result["verdict"] not in forgiven for result in results))


if __name__ == "__main__":
    sys.exit(main())
