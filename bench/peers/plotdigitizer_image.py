"""One picture through plotdigitizer 0.3 (GPL-3.0: run here as a program of its own, never imported).

It follows one curve, needs its axes given, and has no notion of a frame: so the plot is cut out for it. Data points are read as
whole numbers there, so it is told that the axes go from 0 to 1,000,000; what that means is worked out by who called.

    plotdigitizer_image.py PICTURE X0 Y0 X1 Y1       prints {"x": [...], "y": [...]} as parts of the axes, 0-1, or {"error": ...}
"""

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

SPAN = 1_000_000
INSET = 3
"""Pixels by which the frame's own lines are left out."""


def main(picture: Path, x0: float, y0: float, x1: float, y1: float) -> None:
    program = Path(sys.executable).with_name("plotdigitizer")
    with tempfile.TemporaryDirectory() as folder:
        box = (round(x0) + INSET, round(y0) + INSET, round(x1) - INSET + 1, round(y1) - INSET + 1)
        part = Image.open(picture).convert("RGB").crop(box)
        part.save(Path(folder) / "plot.png")
        wide, high = part.size
        # It counts rows from below.
        points = [f"-p 0,0 -p {SPAN},0 -p 0,{SPAN}", f"-l 0,0 -l {wide - 1},0 -l 0,{high - 1}"]
        order = [str(program), "plot.png", *" ".join(points).split(), "-o", "out.csv"]
        done = subprocess.run(order, cwd=folder, capture_output=True, text=True, timeout=60)
        out = Path(folder) / "out.csv"
        if done.returncode != 0 or not out.exists():
            print(json.dumps({"error": done.stderr.strip().splitlines()[-1:] or "nothing was written"}))
            return
        rows = [[float(v) for v in row] for row in csv.reader(out.open(), delimiter=" ") if len(row) >= 2]
    across, up = x1 - x0, y1 - y0
    xs = [(row[0] / SPAN * (wide - 1) + INSET) / across for row in rows]
    ys = [(row[1] / SPAN * (high - 1) + INSET) / up for row in rows]
    print(json.dumps({"x": xs, "y": ys}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(float(v) for v in sys.argv[2:6]))
