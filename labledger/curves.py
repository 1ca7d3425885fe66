"""The extractor and the fitter as the worker's pool wants them: adapters put into ports.

Both need the libraries of `labledger[curves]` and `labledger[spice]`; without them they say so, and nothing else is harmed.
"""

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from domain.errors import Refused
from domain.ports import Extracted, ExtractedCurve, FittedModel, NotPossible, PictureRefused, Report

if TYPE_CHECKING:
    from adapters.curves.extract import Extraction, Given


class CurvesExtractor:
    """`adapters.curves` as an `Extractor`. `llm`: url, model and key of the endpoint that the method `llm` asks."""

    def __init__(self, llm: Mapping[str, str] | None = None) -> None:
        try:
            from adapters.curves import extract
            from adapters.curves import llm as advising
        except ImportError as error:
            raise NotPossible(f"{error}: install labledger[curves] where the worker runs") from None
        self._extract = extract
        self._adviser = None if llm is None else advising.Adviser(llm["url"], llm["model"], llm["key"])

    def extract(self, data: bytes, method: str, parameters: Mapping[str, Any], report: Report) -> Extracted:
        from adapters.curves import document
        from adapters.curves.picture import NotReadable

        page, chart = parameters.get("page"), parameters.get("chart")
        given = given_of(parameters)
        options = self._extract.Options(cast("Any", method), given, self._adviser, page, chart)
        report(5.0, "reading axes and curves")
        try:
            done = document.read(data, options)
        except NotReadable as error:
            # A page or a chart that is not there is no fault of the file's.
            asked = page is not None or chart is not None
            raise (NotPossible if asked and "there is no" in str(error) else PictureRefused)(str(error)) from None
        except Refused as error:
            raise NotPossible(str(error)) from None
        report(90.0, "drawing")
        others = [(one.part.page, one.part.chart) for one in done[1:] if one.part is not None]
        corrected: dict[str, dict[str, Any] | None] = parameters.get("calibration") or {}
        units: dict[str, str] = {name: axis["unit"] for name, axis in corrected.items() if axis}
        return replace(extracted(done[0], units), others=others)


def given_of(parameters: Mapping[str, Any]) -> "Given | None":
    """A calibration as `domain.extraction.Parameters` has it, for the extractor. Raises `NotPossible`."""
    from adapters.curves.extract import Given

    calibration = parameters.get("calibration")
    if not calibration:
        if parameters.get("colours") or parameters.get("curves"):
            raise NotPossible("colours and the number of curves are used together with a calibration; give one")
        return None
    axes = {
        name: {
            "scale": axis["scale"],
            "calibration": [{"value": one["value"], "px": [one["x_px"], one["y_px"]]} for one in _ends(axis["points"])],
            "title": axis.get("title") or "",
            "through": [[one["x_px"], one["y_px"]] for one in axis.get("through", ())],
        }
        for name, axis in calibration.items()
        if axis
    }
    colours = [[int(one[k : k + 2], 16) for k in (1, 3, 5)] for one in parameters.get("colours", ())]
    try:
        return Given.from_json(axes | {"colours": colours, "count": parameters.get("curves")})
    except Refused as error:
        raise NotPossible(str(error)) from None


def _ends(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The two points of the smallest and the largest value: they lie furthest apart."""
    ordered = sorted(points, key=lambda point: point["value"])
    return [ordered[0], ordered[-1]]


def extracted(done: "Extraction", given_units: Mapping[str, str] | None = None) -> Extracted:
    """An extraction of `adapters.curves` in plain data; units are those given, else read in the axes' titles."""
    import cv2

    from adapters.curves.overlay import overlay
    from adapters.curves.table import axis_title, csv_text

    prediction = done.prediction()
    axes: dict[str, Any] = {name: axis for name, axis in prediction["axes"].items() if axis is not None}
    titles = {name: axis_title(done, name) for name in axes}
    units = {name: (given_units or {}).get(name) or unit_in(title) for name, title in titles.items()}
    for name, axis in axes.items():
        axis |= {"unit": units[name], "title": titles[name]}
    good, png = cv2.imencode(".png", overlay(done)[:, :, ::-1])
    return Extracted(
        curves=[
            ExtractedCurve(one.name, one.x.tolist(), one.y.tolist(), one.confidence, one.axis, one.mark)
            for one in done.curves
        ],
        csv=csv_text(done).encode(),
        overlay=png.tobytes() if good else None,
        calibration=_calibration(done.calibration(), units, titles),
        confidence=done.confidence,
        accepted=bool(prediction["accepted"]),
        axes_confidence=prediction["axis_confidence"],
        prediction=prediction,
        timings_s=done.timings_s,
        notes=done.notes,
        at=None if done.part is None else (done.part.page, done.part.chart),
    )


def _calibration(
    found: Mapping[str, Any] | None, units: Mapping[str, str], titles: Mapping[str, str]
) -> dict[str, Any] | None:
    """As `domain.extraction.Calibration` has it; None when an axis was not found."""
    if found is None:
        return None

    def pixel(px: Sequence[float]) -> dict[str, float]:
        return {"x_px": px[0], "y_px": px[1]}

    return {
        name: {
            "scale": axis["scale"],
            "points": [{"value": one["value"]} | pixel(one["px"]) for one in axis["calibration"]],
            "unit": units[name][:50],
            "title": titles[name][:300],
        }
        | ({"through": [pixel(px) for px in axis["through"]]} if name == "y2" else {})
        for name, axis in found.items()
    }


def unit_in(title: str) -> str:
    """The unit in an axis' title: `mA` of `ID (mA)`, `V` of `VDS / V`, `VR - V` and `(VOLTS)`. Empty where there is none."""
    title = re.sub(r"\b(VOLT|AMP)(?:S|ERES?)?\b", lambda word: word[1][0], title, flags=re.IGNORECASE)
    unit = r"([fpnuµμmkMG]?(?:A|V|F|Ω|W|C|S|s|Hz))"
    found = re.search(rf"[(\[]\s*{unit}\s*[)\]]", title) or re.search(rf"[,/–—-]\s*{unit}\s*$", title)
    return found[1] if found else ""


class NgspiceFitter:
    """`labledger.spice` as a `SpiceFitter`. It is not asked whether it was cancelled: its process is ended then, by the pool."""

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
        # With the curves, so that the model can be checked again.
        report_json = json.dumps(told | {"measured": dict(measured)}).encode()
        suggested = None if done.suggested_library is None else done.suggested_library.encode()
        return FittedModel(done.library.encode(), report_json, done.plot, result, suggested)
