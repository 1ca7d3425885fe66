"""Small pictures of plots, and an extractor that is quick and does what its picture says: also crash, hang or fail.

It is a working one: it reads the height of the black line in each column. What it cannot do is read axes.
"""

import io
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from domain.ports import Extracted, ExtractedCurve, FittedModel, NotPossible, PictureRefused, Report

WIDTH, HEIGHT = 80, 60


def picture(number: int, behave: str = "", size: tuple[int, int] = (WIDTH, HEIGHT)) -> bytes:
    """A PNG with a straight black line from (0, number % HEIGHT) to the lower right corner. No two numbers look the same."""
    width, height = size
    image = Image.new("RGB", size, (255, 255, 255))
    start = number % height
    for x in range(width):
        image.putpixel((x, round(start + (height - 1 - start) * x / (width - 1))), (0, 0, 0))
    image.putpixel((width // 2, 0), (number % 256, number // 256 % 256, 200))
    told = PngImagePlugin.PngInfo()
    told.add_text("behave", behave)
    out = io.BytesIO()
    image.save(out, "PNG", pnginfo=told)
    return out.getvalue()


class FastExtractor:
    """`behave` of the picture: `charts N`, `sleep S`, `crash`, `crash once FILE`, `hang`, `fail`, `refuse`, `impossible`, `count FILE`."""

    def extract(self, data: bytes, method: str, parameters: Mapping[str, Any], report: Report) -> Extracted:
        image: Any = Image.open(io.BytesIO(data))
        words = str(image.info.get("behave", "")).split()
        report(10.0, "looking")
        _behave(words, report)
        pixels = image.convert("L").load()
        width, height = image.size
        x = [float(column) for column in range(width)]
        y = [float(height - 1 - min(range(height), key=lambda row: pixels[int(c), row])) for c in x]
        report(80.0, "measuring")
        rows = "\n".join(f"{a:g},{b:g}" for a, b in zip(x, y, strict=True))
        given = parameters.get("calibration")
        unit = {"x": "V", "y": "A"}
        axes = {name: {"scale": "linear", "min": 0.0, "max": float(n), "unit": unit[name]} for name, n in _ends(image)}
        at, others = None, list[tuple[int, int]]()
        if words[:1] == ["charts"]:
            at = (parameters.get("page") or 1, parameters.get("chart") or 1)
            others = [(1, k) for k in range(2, int(words[1]) + 1)] if not parameters.get("chart") else []
        return Extracted(
            at=at,
            others=others,
            curves=[ExtractedCurve("Vgs = 4 V", x, y, 0.97)],
            csv=f"x,y\n{rows}\n".encode(),
            overlay=data,
            calibration=given or _calibration(width, height),
            confidence=0.95,
            accepted=True,
            axes_confidence={"x": 0.99, "y": 0.98},
            prediction={"axes": axes, "curves": [{"name": "Vgs = 4 V", "x": x, "y": y}], "method": method},
            timings_s={"all": 0.001},
        )


def _ends(image: Any) -> list[tuple[str, int]]:
    return [("x", image.size[0] - 1), ("y", image.size[1] - 1)]


def _calibration(width: int, height: int) -> dict[str, Any]:
    def point(value: float, x: float, y: float) -> dict[str, float]:
        return {"value": value, "x_px": x, "y_px": y}

    low = height - 1
    return {
        "x": {"scale": "linear", "points": [point(0, 0, low), point(width - 1, width - 1, low)], "unit": "V"},
        "y": {"scale": "linear", "points": [point(0, 0, low), point(height - 1, 0, 0)], "unit": "A"},
    }


def _behave(words: Sequence[str], report: Report) -> None:
    match words:
        case ["sleep", seconds]:
            for step in range(10):
                time.sleep(float(seconds) / 10)
                report(10.0 + 5 * step, "sleeping")
        case ["crash"]:
            os.kill(os.getpid(), signal.SIGSEGV)
        case ["crash", "once", file]:
            if not Path(file).exists():
                Path(file).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        case ["hang"]:
            time.sleep(3600)
        case ["fail"]:
            raise ZeroDivisionError("a defect of ours")
        case ["refuse"]:
            raise PictureRefused("there is no picture in it")
        case ["impossible"]:
            raise NotPossible("the method needs a key; set one")
        case ["count", file]:
            with Path(file).open("a") as out:
                out.write(f"{os.getpid()}\n")
        case _:
            pass


class FastFitter:
    """A straight line through all output curves."""

    def fit(
        self,
        measured: Mapping[str, Any],
        forms: Sequence[str],
        simulate: bool,
        images: Mapping[str, str],
        report: Report,
    ) -> FittedModel:
        rows = measured.get("output", [])
        if not rows:
            raise NotPossible("a transistor needs output curves; there are none")
        report(50.0, "fitting")
        xs = [x for row in rows for x in row["vds"]]
        ys = [y for row in rows for y in row["id"]]
        slope = sum(x * y for x, y in zip(xs, ys, strict=True)) / sum(x * x for x in xs)
        head = "".join(f"* source: {name} sha256:{digest}\n" for name, digest in images.items())
        result = {
            "form": "line",
            "parameters": [{"name": "g", "value": slope, "unit": "S"}],
            "grade": "unchecked",
            "simulated": False,
            "check": "skipped: there is no simulator in the tests",
            "nrmse": 0.1,
            "mare": 0.2,
            "capacitance_decades": {},
            "findings": [],
        }
        library = f"{head}.subckt M d g s\nG1 d s cur='{slope:g}*v(d,s)'\n.ends\n".encode()
        return FittedModel(library, json.dumps({"measured": measured}).encode(), None, result)
