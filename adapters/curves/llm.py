"""A vision model as adviser: it may propose the axes' values and names; the picture has to confirm them.

Any endpoint that speaks OpenAI's chat completions will do. Pixels are measured by us, never by the model.
"""

import base64
import json
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import cv2
import numpy as np

from adapters.curves.calibrate import Calibration
from adapters.curves.shapes import Axis, Rgb, Scale
from adapters.curves.ticks import Label
from domain.errors import Refused

ASK = (
    'This is a plot. Answer with JSON only: {"x": {"scale": "linear|log", "min": number, "max": number}, '
    '"y": {...}, "names": [{"name": text, "at": [x, y]}]}. min and max are the values at the left/right and '
    "bottom/top borders of the plot area. Each name has a pixel of this picture on its curve. Leave out what you cannot read."
)


class AdviserOff(Refused):
    """The method `llm` was asked for, but no endpoint or key is set."""


class AdviserWrong(Refused):
    """The model's answer does not agree with the picture."""


@dataclass(frozen=True)
class Adviser:
    """Where the model is. `url` ends before `/chat/completions`."""

    url: str
    model: str
    key: str
    timeout_s: float = 60.0


def ask(adviser: Adviser | None, rgb: Rgb) -> dict[str, Any]:
    """The model's answer. Raises AdviserOff without an endpoint or key, AdviserWrong when there is no usable answer."""
    if adviser is None or not adviser.url or not adviser.key:
        raise AdviserOff(
            "the method llm is off: set the address, model and key of an OpenAI-compatible endpoint, or use the method standard"
        )
    if not adviser.url.startswith(("http://", "https://")):
        raise AdviserOff(f"the adviser's address {adviser.url!r} must begin with http:// or https://")
    good, png = cv2.imencode(".png", rgb[:, :, ::-1])
    assert good
    picture = "data:image/png;base64," + base64.b64encode(png.tobytes()).decode()
    content = [{"type": "text", "text": ASK}, {"type": "image_url", "image_url": {"url": picture}}]
    body = json.dumps(
        {"model": adviser.model, "temperature": 0, "messages": [{"role": "user", "content": content}]}
    ).encode()
    request = urllib.request.Request(  # noqa: S310
        adviser.url.rstrip("/") + "/chat/completions",
        body,
        {"Content-Type": "application/json", "Authorization": f"Bearer {adviser.key}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=adviser.timeout_s) as answer:  # noqa: S310
            text = str(json.loads(answer.read(2_000_000))["choices"][0]["message"]["content"])
        found = re.search(r"\{.*\}", text, re.DOTALL)
        parsed = json.loads(found[0]) if found else None
    except urllib.error.HTTPError as error:
        raise AdviserWrong(f"the adviser at {adviser.url} answered {error.code}") from None
    except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise AdviserWrong(f"the adviser at {adviser.url} gave no usable answer ({type(error).__name__})") from None
    if not isinstance(parsed, dict):
        raise AdviserWrong("the adviser's answer is no JSON object")
    return cast("dict[str, Any]", parsed)


def confirmed(proposal: object, labels: Sequence[Label], places: Sequence[float], p0: float, p1: float) -> Axis:
    """The proposed axis, if at least two labels that we read lie where it puts them. Raises AdviserWrong otherwise."""
    try:
        assert isinstance(proposal, dict)
        words = cast("dict[str, Any]", proposal)
        scale: Scale = "log" if words["scale"] == "log" else "linear"
        v0, v1 = float(words["min"]), float(words["max"])
    except (AssertionError, KeyError, TypeError, ValueError):
        raise AdviserWrong("the adviser gave no scale, min and max for an axis") from None
    if v0 == v1 or (scale == "log" and min(v0, v1) <= 0) or not np.isfinite([v0, v1]).all():
        raise AdviserWrong(f"the adviser's axis from {v0:g} to {v1:g} ({scale}) cannot be")
    axis = Axis(scale, p0, p1, v0, v1)
    agree = 0
    for label, place in zip(labels, places, strict=True):
        values = [v for v, _ in label.meanings if scale == "linear" or v > 0]
        if any(abs(float(axis.pixels(np.array([v]))[0]) - place) < 0.02 * abs(p1 - p0) for v in values):
            agree += 1
    if agree < 2:
        raise AdviserWrong(
            f"only {agree} of the labels in the picture agree with the adviser's axis from {v0:g} to {v1:g}"
        )
    return replace(axis, confidence=min(0.9, 0.5 + 0.1 * agree))


def advised(answer: dict[str, Any], calibration: Calibration) -> Calibration:
    """The calibration with the adviser's axes in place of those that we could not read well."""
    b = calibration.frame.box
    x, y = calibration.x, calibration.y
    if x is None or x.confidence < 0.8:
        x = confirmed(answer.get("x"), calibration.x_labels, [q.box.cx for q in calibration.x_labels], b.x0, b.x1)
    if y is None or y.confidence < 0.8:
        y = confirmed(answer.get("y"), calibration.y_labels, [q.box.cy for q in calibration.y_labels], b.y1, b.y0)
    return replace(calibration, x=x, y=y)
