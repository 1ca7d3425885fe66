"""Promises on a few drawn plots that come along (CC0), and on the public corpus where LABLEDGER_CURVES_CORPUS names its folder."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2", reason="the extra `curves` is not installed")
pytest.importorskip("rapidocr", reason="the extra `curves` is not installed")

from adapters.curves.extract import extract

CORPUS = os.environ.get("LABLEDGER_CURVES_CORPUS")

SHIPPED = Path(__file__).parents[1] / "data" / "curves"
DRAWN = sorted(SHIPPED.glob("*.json"))


@pytest.mark.parametrize("path", DRAWN, ids=lambda path: path.stem)
def test_axes_of_a_drawn_plot_are_read_right(path: Path) -> None:
    truth = json.loads(path.read_text())
    found = extract((path.parent / truth["image"]).read_bytes())
    for letter, axis in (("x", found.x), ("y", found.y)):
        given = truth["axes"][letter]
        assert axis is not None and axis.scale == given["scale"]
        low, high = (np.log10(given[k]) if axis.scale == "log" else given[k] for k in ("min", "max"))
        ends = np.log10([axis.v0, axis.v1]) if axis.scale == "log" else np.array([axis.v0, axis.v1])
        assert np.abs(ends - np.array([low, high])).max() < 0.02 * abs(high - low)


def test_there_are_drawn_plots() -> None:
    assert len(DRAWN) >= 3


def test_plots_drawn_anew_are_read_and_what_is_sure_is_right(tmp_path: Path) -> None:
    """By the corpus' own generator and scorer. Fonts differ from machine to machine, and so do the pictures."""
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed: no plot is drawn here")
    drawing = [sys.executable, str(SHIPPED / "gen_synth.py"), str(tmp_path), "--seed", "23", "--n", "5"]
    subprocess.run(drawing, check=True, capture_output=True)
    spec = importlib.util.spec_from_file_location("score", SHIPPED / "score.py")
    assert spec is not None and spec.loader is not None
    score = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(score)
    rows = []
    for path in sorted(tmp_path.glob("*.json")):
        truth = json.loads(path.read_text())
        found = extract((path.parent / truth["image"]).read_bytes()).prediction()
        rows.append(score.score_one(truth, found) | {"accepted": found["accepted"], "y2": "y2" in found["axes"]})
    assert len(rows) == 5
    assert sum(row["axes_ok"] for row in rows) >= 4
    assert sum(row["success"] for row in rows) >= 2
    assert not [row for row in rows if row["accepted"] and not row["success"]]
    assert not any(row["y2"] for row in rows)


@pytest.mark.slow
@pytest.mark.skipif(
    not CORPUS,
    reason="the curves corpus is not here (its pictures may not be shipped): set LABLEDGER_CURVES_CORPUS to its folder",
)
def test_axes_of_data_sheets_are_read_right_in_nineteen_of_twenty() -> None:
    assert CORPUS
    right, count = 0, 0
    for path in sorted(Path(CORPUS).glob("real/ds_*.json")):
        truth = json.loads(path.read_text())
        found = extract((path.parent / truth["image"]).read_bytes())
        count += 1
        good = True
        for letter, axis in (("x", found.x), ("y", found.y)):
            given = truth["axes"][letter]
            good = good and axis is not None and axis.scale == given["scale"]
            if good and axis is not None and given["scale"] == "linear":
                span = given["max"] - given["min"]
                good = abs(axis.v0 - given["min"]) < 0.02 * span and abs(axis.v1 - given["max"]) < 0.02 * span
        right += good
    assert count >= 40
    assert right >= 0.95 * count
