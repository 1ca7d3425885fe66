"""Score the extractor on a corpus, beside the plain scan and the peers, in one table:

    python -m bench.curves CORPUS [--peers-python PY] [--processes 2] [--out DIR] [--only PREFIX]
    python -m bench.curves CORPUS --mode automatic|calibrated [--method standard|legacy]      one contestant, in detail

CORPUS holds `score.py` and, in folders, pictures with truth files (its README tells the format). Predictions are kept in DIR, so
that the scorer can be run on them again. The corpus is not part of this project: its real pictures belong to the makers.

Contestants: `standard` and `legacy` with nothing but the picture (automatic) and with axes given (calibrated); plotdigitizer 0.3,
with axes given and the plot cut out for it. That one is GPL-3.0: it is no dependency, and runs as a program of its own from an
interpreter where it and Pillow were installed (`pip install plotdigitizer==0.3 pillow` in a venv, given as --peers-python);
without, it is left out and the table says so. Times are processor seconds of one picture after the other in one process on one thread
(the peer's: seconds of the clock), so that a busy machine tells little else than a quiet one; start-up of the process and loading of
models left out for ours. The last line is a pool of processes over the whole corpus, start-up included.
"""

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import cv2

from adapters.curves.extract import ACCEPTED, Given, Method, Options, extract

Truth = tuple[Path, dict[str, Any]]
Contestant = Callable[[Path, dict[str, Any]], dict[str, Any]]

PEER = Path(__file__).parents[1] / "peers" / "plotdigitizer_image.py"
AIM_PER_HOUR = 5000


def scorer(corpus: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("corpus_score", corpus / "score.py")
    if spec is None or spec.loader is None or not (corpus / "score.py").exists():
        raise SystemExit(f"{corpus} has no score.py: is it the curves corpus?")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def truths(corpus: Path, only: str) -> list[Truth]:
    found: list[Truth] = []
    for path in sorted(corpus.rglob("*.json")):
        data = json.loads(path.read_text())
        if isinstance(data, dict) and "plot_box" in data and str(data["id"]).startswith(only):
            found.append((path, data))
    return found


def ours(mode: str, method: str) -> Contestant:
    def read(path: Path, truth: dict[str, Any]) -> dict[str, Any]:
        given = Given.from_truth(truth["axes"]) if mode == "calibrated" else None
        data = (path.parent / truth["image"]).read_bytes()
        return extract(data, Options(cast("Method", method), given)).prediction()

    return read


def plotdigitizer(python: str) -> Contestant:
    def read(path: Path, truth: dict[str, Any]) -> dict[str, Any]:
        order = [python, str(PEER), str(path.parent / truth["image"]), *(str(v) for v in truth["plot_box"])]
        done = subprocess.run(order, capture_output=True, text=True, timeout=120)
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1]) if done.stdout.strip() else {}
        axes = {name: {k: truth["axes"][name][k] for k in ("scale", "min", "max")} for name in ("x", "y")}
        if not found.get("x"):
            raise RuntimeError(str(found.get("error") or done.stderr[-200:]))
        curve = {name: [spread(axes[name], u) for u in found[name]] for name in ("x", "y")}
        return {"axes": axes, "curves": [{"name": None} | curve], "confidence": None}

    return read


def spread(axis: dict[str, Any], u: float) -> float:
    """The value at a part of an axis, 0-1."""
    if axis["scale"] == "log":
        low, high = math.log10(axis["min"]), math.log10(axis["max"])
        return 10 ** (low + u * (high - low))
    return axis["min"] + u * (axis["max"] - axis["min"])


def run(
    contestant: Contestant,
    found: Sequence[Truth],
    score: ModuleType,
    out: Path,
    clock: Callable[[], float] = time.process_time,
) -> tuple[list[dict[str, Any]], float, int]:
    """Rows of the scorer, seconds in all, and how many pictures failed. A failure is scored as nothing found."""
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    seconds, failed = 0.0, 0
    for path, truth in found:
        begun = clock()
        try:
            prediction = contestant(path, truth)
        except Exception as error:  # a peer may fail in any way; that is part of what is measured
            failed += 1
            prediction = {"axes": {"x": None, "y": None}, "curves": [], "confidence": 0.0, "error": str(error)}
        took = clock() - begun
        seconds += took
        (out / f"{truth['id']}.json").write_text(json.dumps(prediction | {"seconds": took}))
        rows.append(score.score_one(truth, prediction | {"seconds": took}))
    return rows, seconds, failed


def spread_of(rows: Sequence[dict[str, Any]]) -> tuple[float, float, float]:
    """Median, 95th percentile and largest of the seconds a picture took."""
    ordered = sorted(float(r["seconds"]) for r in rows)
    return statistics.median(ordered), ordered[math.ceil(0.95 * len(ordered)) - 1], ordered[-1]


def line(name: str, mode: str, rows: Sequence[dict[str, Any]], seconds: float, failed: int) -> str:
    def percent(values: Sequence[float]) -> str:
        return f"{100 * statistics.mean(values):4.0f} %" if values else "     -"

    curves = sum(r["n_truth"] for r in rows)
    drawn = sum(r["n_pred"] for r in rows)
    met = sum(r["found"] for r in rows)
    errors = [r["median"] for r in rows if r["median"] is not None]
    median = f"{100 * statistics.median(errors):6.2f} %" if errors else "       -"
    return (
        f"{name:20} {mode:11} {len(rows):4} {percent([r['axes_ok'] for r in rows])} "
        f"{percent([r['success'] for r in rows])}  {percent([met / curves] if curves else [])} /"
        f"{percent([met / drawn] if drawn else [])} {median} {statistics.mean(r['s6b'] for r in rows):5.2f} "
        f"{failed:6} {' '.join(f'{t:6.2f}' for t in spread_of(rows))} {3600 * len(rows) / seconds:12,.0f}"
    )


HEAD = (
    f"{'':20} {'':11} {'n':>4} {'axes':>6} {'success':>6} {'recall / precision':>14} {'median':>8} {'s6b':>5} "
    f"{'failed':>6} {'s: p50':>6} {'p95':>6} {'max':>6} {'images/hour':>12}"
)


def _read_one(data: bytes) -> int:
    return len(extract(data).curves)


def in_parallel(found: Sequence[Truth], processes: int) -> float:
    """Images per hour of a pool, the start of its processes included."""
    pictures = [(path.parent / truth["image"]).read_bytes() for path, truth in found]
    begun = time.perf_counter()
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(_read_one, pictures))
    return 3600 * len(pictures) / (time.perf_counter() - begun)


def compare(found: Sequence[Truth], score: ModuleType, out: Path, peers_python: str | None, processes: int) -> None:
    contestants: list[tuple[str, str, Contestant]] = [
        ("standard", "automatic", ours("automatic", "standard")),
        ("standard", "calibrated", ours("calibrated", "standard")),
        ("legacy", "automatic", ours("automatic", "legacy")),
        ("legacy", "calibrated", ours("calibrated", "legacy")),
    ]
    if peers_python:
        contestants.append(("plotdigitizer 0.3", "calibrated", plotdigitizer(peers_python)))
    extract((found[0][0].parent / found[0][1]["image"]).read_bytes())  # models are loaded
    lines: dict[str, list[str]] = {"all": [], "data sheets": []}
    for name, mode, contestant in contestants:
        # What a peer does is done in a process of its own, whose processor time is not ours.
        clock = time.process_time if name in ("standard", "legacy") else time.perf_counter
        rows, seconds, failed = run(contestant, found, score, out / f"{name.split()[0]}-{mode}", clock)
        sheets = [r for r, (_, t) in zip(rows, found, strict=True) if t["group"] == "datasheet"]
        lines["all"].append(line(name, mode, rows, seconds, failed))
        if sheets:
            lines["data sheets"].append(line(name, mode, sheets, seconds * len(sheets) / len(rows), 0))
        print(lines["all"][-1], flush=True)
    print()
    for title, part in lines.items():
        if part:
            print(f"{title}\n{HEAD}", *part, sep="\n")
    if not peers_python:
        print("plotdigitizer 0.3: left out; name an interpreter that has it with --peers-python")
    load = os.getloadavg()[0]
    rate = in_parallel(found, processes)
    word = "aim met" if rate >= AIM_PER_HOUR else "below aim"
    print(
        f"{processes} processes, automatic: {rate:,.0f} images/hour ({word} of {AIM_PER_HOUR:,}; load before it {load:.1f} "
        f"on {os.cpu_count()} cores)"
    )


def in_detail(found: Sequence[Truth], score: ModuleType, out: Path, mode: str, method: str) -> None:
    extract((found[0][0].parent / found[0][1]["image"]).read_bytes())  # models are loaded
    rows, seconds, _ = run(ours(mode, method), found, score, out)
    groups: dict[str, list[dict[str, Any]]] = {"all": rows}
    for row, (_, truth) in zip(rows, found, strict=True):
        groups.setdefault(truth["group"], []).append(row)
    for name, part in groups.items():
        print(f"{name:12}", " ".join(f"{k}={v}" for k, v in score.summary(part).items() if v is not None))
    scans = [r for r, (_, t) in zip(rows, found, strict=True) if "scan" in t["tags"]]
    if scans:
        print(f"scans: axes right {statistics.mean(r['axes_ok'] for r in scans):.0%} of {len(scans)}")
    accepted = [r for r in rows if (r["confidence"] or 0) >= ACCEPTED]
    wrong = sum(not r["success"] for r in accepted)
    middle, late, longest = spread_of(rows)
    print(
        f"accepted at {ACCEPTED}: {len(accepted)} of {len(rows)}, {wrong} of them wrong\n"
        f"processor seconds an image: median {middle:.2f}, 95 % within {late:.2f}, at most {longest:.2f}; "
        f"{3600 * len(rows) / seconds:,.0f} images an hour on one core"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.curves", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--mode", choices=("automatic", "calibrated"), help="only this, in detail")
    parser.add_argument("--method", choices=("standard", "legacy"), default="standard")
    parser.add_argument("--out", type=Path, default=Path("curves-predictions"))
    parser.add_argument("--only", default="", help="only pictures whose id begins so")
    parser.add_argument("--peers-python", help="interpreter of a venv with plotdigitizer 0.3 and Pillow")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 2)
    a = parser.parse_args()
    cv2.setNumThreads(1)
    score = scorer(a.corpus)
    found = truths(a.corpus, a.only)
    if not found:
        raise SystemExit(f"there is no picture with truth in {a.corpus}")
    if a.mode is None:
        compare(found, score, a.out, a.peers_python, a.processes)
    else:
        in_detail(found, score, a.out, a.mode, a.method)


if __name__ == "__main__":
    main()
