"""Fit the weights of the confidence anew (adapters/curves/check.py), after the extractor has changed:

    python -m bench.curves.confidence CORPUS --train DIR... --check DIR... [--jobs 2] [--keep FILE]

CORPUS holds `score.py` and `gen_synth.py`. Draw the plots with the generator, with several seeds, and keep those to fit on (--train)
apart from those to check with (--check): `python CORPUS/gen_synth.py DIR --seed N`. Each picture is read in both modes, by itself and
calibrated. Prints the table of weights to be put into check.py, and how well the chances hold on the other plots.
--keep stores what was seen of each picture, so that a second fit needs no second run.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.curves.check import WEIGHTS, chance
from adapters.curves.extract import Extraction, Given, Options, extract
from bench.curves.__main__ import scorer, truths

CAUTION = 0.8
"""Taken off the fitted bias: pictures of a look that nobody has seen succeed less often than those that the weights were fitted
on, and a wrong result that claims to be sure is worse than a right one that is looked at."""
Floats = NDArray[np.float64]
RIDGE = 0.1
"""Keeps weights small where few pictures speak; features are of the order of one."""


def seen(job: tuple[Path, dict[str, Any]], corpus: Path) -> list[dict[str, Any]]:
    """One picture extracted in both modes: its features, and which of it was right."""
    path, truth = job
    score = scorer(corpus)
    data = (path.parent / truth["image"]).read_bytes()
    given = Options(calibration=Given.from_truth(truth["axes"]))
    return [_row(truth, extract(data, options), score) for options in (Options(), given)]


def _row(truth: dict[str, Any], result: Extraction, score: ModuleType) -> dict[str, Any]:
    prediction = result.prediction()
    row = score.score_one(truth, prediction)
    known = [score.norm_curve(truth, c) for c in truth["curves"]]
    right: list[bool] = []
    for curve in prediction["curves"]:
        found = score.norm_curve(truth, curve)
        near = min((score.pair(t, found)["p95"] for t in known), default=9.0) if len(found) else 9.0
        right.append(bool(row["axes_ok"] and near <= 0.02))
    return {
        "id": truth["id"],
        "success": row["success"],
        "features": result.features,
        "right": right,
    }


def logistic(x: Floats, y: Floats, signs: Floats) -> Floats:
    """Ridge logistic regression by Newton's method, the first column being the bias. A weight whose sign contradicts what its
    feature means (`signs`, 0 for any) is noise of a small sample: it is set to zero and the rest is fitted again."""
    free = np.ones(x.shape[1], np.bool_)
    weights = np.zeros(x.shape[1])
    while True:
        part = x[:, free]
        w = np.zeros(part.shape[1])
        penalty = RIDGE * np.eye(part.shape[1])
        penalty[0, 0] = 0
        for _ in range(60):
            p = 1 / (1 + np.exp(-np.clip(part @ w, -30, 30)))
            gradient = part.T @ (y - p) - penalty @ w
            hessian = (part * (p * (1 - p))[:, None]).T @ part + penalty + 1e-9 * np.eye(part.shape[1])
            w = w + np.linalg.solve(hessian, gradient)
        weights[:] = 0
        weights[free] = w
        wrong = free & (weights * signs < 0)
        if not wrong.any():
            return weights
        free &= ~wrong


SIGNS = {"axes": 1}
"""Every other feature counts against a result."""


def fitted(rows: list[dict[str, float]], right: list[bool], names: list[str]) -> dict[str, float]:
    x = np.array([[1.0, *(row[k] for k in names)] for row in rows])
    signs = np.array([0.0, *(SIGNS.get(k, -1) for k in names)])
    found = logistic(x, np.array(right, np.float64), signs)
    return {k: round(float(v), 3) for k, v in zip(["bias", *names], found, strict=True)}


def auc(chances: list[float], right: list[bool]) -> float:
    """How often a right one is ranked over a wrong one."""
    good = [c for c, r in zip(chances, right, strict=True) if r]
    bad = [c for c, r in zip(chances, right, strict=True) if not r]
    return float(np.mean([(a > b) + 0.5 * (a == b) for a in good for b in bad])) if good and bad else float("nan")


def told(name: str, rows: list[dict[str, Any]], weights: dict[str, float]) -> None:
    """Prints how the chances hold on some pictures. Each curve has its share of the picture's chance, as in the result."""
    pictures = [(chance(row["features"], weights), bool(row["success"])) for row in rows]
    each = [(c ** (1 / len(row["right"])), r) for row, (c, _) in zip(rows, pictures, strict=True) for r in row["right"]]
    print(f"{name}: {len(rows)} pictures")
    for what, pairs in (("curves", each), ("pictures", pictures)):
        chances, right = [c for c, _ in pairs], [r for _, r in pairs]
        sure = [r for c, r in pairs if c >= 0.9]
        share = sum(sure) / len(sure) if sure else float("nan")
        print(
            f"  {what}: ROC-AUC {auc(chances, right):.3f}; mean chance {np.mean(chances):.2f}, right {np.mean(right):.2f};"
            f" at 0.9 and more {len(sure)} of {len(pairs)}, {share:.0%} of them right"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.curves.confidence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--train", type=Path, nargs="+", default=[])
    parser.add_argument("--check", type=Path, nargs="*", default=[])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    a = parser.parse_args()
    kept: dict[str, list[dict[str, Any]]] = json.loads(a.keep.read_text()) if a.keep and a.keep.exists() else {}
    sets: list[list[dict[str, Any]]] = []
    with ProcessPoolExecutor(a.jobs) as pool:
        for folders in (a.train, a.check):
            jobs = [job for folder in folders for job in truths(folder, "")]
            new = [job for job in jobs if str(job[0]) not in kept]
            kept |= dict(zip((str(p) for p, _ in new), pool.map(partial(seen, corpus=a.corpus), new), strict=True))
            sets.append([row for p, _ in jobs for row in kept[str(p)]])
    if a.keep:
        a.keep.write_text(json.dumps(kept))
    train, check = ([row for row in part if row["right"]] for part in sets)
    weights = fitted(
        [row["features"] for row in train], [bool(row["success"]) for row in train], [k for k in WEIGHTS if k != "bias"]
    )
    weights["bias"] = round(weights["bias"] - CAUTION, 3)
    print("WEIGHTS =", json.dumps(weights, indent=4))
    told("fitted on", train, weights)
    if check:
        told("checked with", check, weights)


if __name__ == "__main__":
    main()
