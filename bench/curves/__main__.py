"""Score the extractor on a corpus:

    python -m bench.curves CORPUS [--mode automatic|calibrated] [--method standard|legacy] [--out DIR] [--only PREFIX]

CORPUS holds `score.py` and, in folders, pictures with truth files (its README tells the format). Predictions are kept in DIR, so
that the scorer can be run on them again. The corpus is not part of this project: its real pictures belong to the makers.
"""

import argparse
import importlib.util
import json
import statistics
import time
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from adapters.curves.extract import ACCEPTED, Given, Method, Options, extract


def scorer(corpus: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("corpus_score", corpus / "score.py")
    if spec is None or spec.loader is None or not (corpus / "score.py").exists():
        raise SystemExit(f"{corpus} has no score.py: is it the curves corpus?")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def truths(corpus: Path, only: str) -> list[tuple[Path, dict[str, Any]]]:
    found: list[tuple[Path, dict[str, Any]]] = []
    for path in sorted(corpus.rglob("*.json")):
        data = json.loads(path.read_text())
        if isinstance(data, dict) and "plot_box" in data and str(data["id"]).startswith(only):
            found.append((path, data))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.curves", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--mode", choices=("automatic", "calibrated"), default="automatic")
    parser.add_argument("--method", choices=("standard", "legacy"), default="standard")
    parser.add_argument("--out", type=Path, default=Path("curves-predictions"))
    parser.add_argument("--only", default="")
    a = parser.parse_args()
    score = scorer(a.corpus)
    a.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    groups: dict[str, list[dict[str, Any]]] = {}
    begun = time.perf_counter()
    for path, truth in truths(a.corpus, a.only):
        given = Given.from_truth(truth["axes"]) if a.mode == "calibrated" else None
        start = time.perf_counter()
        result = extract((path.parent / truth["image"]).read_bytes(), Options(cast("Method", a.method), given))
        prediction = result.prediction() | {"seconds": time.perf_counter() - start}
        (a.out / f"{truth['id']}.json").write_text(json.dumps(prediction))
        row = score.score_one(truth, prediction)
        rows.append(row)
        groups.setdefault(truth["group"], []).append(row)
    wall = time.perf_counter() - begun
    for name, part in {"all": rows, **groups}.items():
        print(f"{name:12}", " ".join(f"{k}={v}" for k, v in score.summary(part).items() if v is not None))
    scans = [r for r, (_, t) in zip(rows, truths(a.corpus, a.only), strict=True) if "scan" in t["tags"]]
    if scans:
        print(f"scans: axes right {statistics.mean(r['axes_ok'] for r in scans):.0%} of {len(scans)}")
    accepted = [r for r in rows if (r["confidence"] or 0) >= ACCEPTED]
    wrong = sum(not r["success"] for r in accepted)
    print(
        f"accepted at {ACCEPTED}: {len(accepted)} of {len(rows)}, {wrong} of them wrong; {3600 * len(rows) / wall:,.0f} images an hour"
    )


if __name__ == "__main__":
    main()
