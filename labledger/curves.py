"""The extractor and the fitter as the worker's pool wants them: adapters put into ports.

Both need the libraries of `labledger[curves]` and `labledger[spice]`; without them they say so, and nothing else is harmed.
"""

import csv
import importlib.util
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from domain.ports import Extracted, FittedModel, NotPossible, PictureRefused, Report


class CurvesExtractor:
    """`adapters.curves` as an `Extractor`."""

    def __init__(self) -> None:
        try:
            from adapters.curves import extract
        except ImportError as error:
            raise NotPossible(f"{error}: install labledger[curves] where the worker runs") from None
        self._module: Any = extract

    def extract(self, data: bytes, method: str, parameters: Mapping[str, Any], report: Report) -> Extracted:
        from adapters.curves.picture import NotReadable

        given = parameters.get("calibration")
        calibration = self._module.Given.from_truth(_as_truth(given)) if given else None
        try:
            done: Any = self._module.extract(data, self._module.Options(method=method, calibration=calibration))
        except NotReadable as error:
            raise PictureRefused(str(error)) from None
        report(90.0, "drawing")
        return extracted(done)


def _as_truth(calibration: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {
            "scale": calibration[name]["scale"],
            "calibration": [
                {"value": point["value"], "px": [point["x_px"], point["y_px"]]} for point in calibration[name]["points"]
            ],
        }
        for name in ("x", "y")
    }


def extracted(done: Any) -> Extracted:
    """An extraction of `adapters.curves` in plain data."""
    raise NotPossible("no extractor is installed")


class NgspiceFitter:
    """`labledger.spice` as a `SpiceFitter`."""

    def fit(
        self,
        measured: Mapping[str, Any],
        forms: Sequence[str],
        simulate: bool,
        images: Mapping[str, str],
        report: Report,
    ) -> FittedModel:
        if importlib.util.find_spec("scipy") is None:
            raise NotPossible("SciPy is not installed: install labledger[spice] where the worker runs")
        from labledger import spice

        done = spice.fit(
            measured,
            images=images,
            forms=list(forms) or None,
            simulator=simulate,
            progress=lambda percent, words: report(0.9 * percent, words),
        )
        told: dict[str, Any] = done.report
        simulated: dict[str, Any] | None = told["simulated"]
        figures: dict[str, Any] = simulated or told["formula"]
        result: dict[str, Any] = {
            "form": done.form,
            "parameters": [{"name": p["name"], "value": p["value"], "unit": p["unit"]} for p in told["parameters"]],
            "grade": done.grade,
            "simulated": simulated is not None,
            "check": told["check"],
            "nrmse": figures["nrmse"],
            "mare": figures["mare"],
            "capacitance_decades": figures["capacitance_decades"],
            "findings": [finding["text"] for finding in told["findings"]],
        }
        return FittedModel(done.library.encode(), json.dumps(told).encode(), done.plot, result)


def csv_of(curves: Sequence[tuple[str | None, Sequence[float], Sequence[float]]], x: str, y: str) -> bytes:
    """One block for each curve: its name, a header with units, its points."""
    out = io.StringIO()
    writer = csv.writer(out)
    for number, (name, xs, ys) in enumerate(curves, start=1):
        writer.writerow([f"# {name or f'curve {number}'}"])
        writer.writerow([x, y])
        writer.writerows((f"{a:.9g}", f"{b:.9g}") for a, b in zip(xs, ys, strict=True))
        writer.writerow([])
    return out.getvalue().encode()
