"""How far a model is off its measured curves, and what that is called.

Errors are fractions (0.01 is 1 %) unless the name says otherwise.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from domain.spice_curves import Floats, Measured

Grade: TypeAlias = Literal["good", "acceptable", "poor", "unchecked", "suspect"]


@dataclass(frozen=True)
class CurveError:
    """nrmse = rms(model - measured)/max|measured|; mare = mean relative error where measured > 5 % of its maximum."""

    kind: str
    label: str
    nrmse: float
    mare: float
    worst: float
    log_rms_decades: float | None = None


@dataclass(frozen=True)
class Errors:
    """Of one model against its measured curves. Currents pooled: nrmse is the rms over all points by the largest current."""

    nrmse: float | None
    mare: float | None
    curves: tuple[CurveError, ...] = ()
    #: rms of log10(model/measured) for c_iss, c_oss, c_rss.
    capacitance_decades: Mapping[str, float] = field(default_factory=dict[str, float])


def errors(measured: Measured, found: Sequence[Floats], capacitances: Mapping[str, float] | None = None) -> Errors:
    """`found` has the model's values at the places of each measured curve, in their order."""
    rows: list[CurveError] = []
    squares, count, top, relative = 0.0, 0, 0.0, list[Floats]()
    for curve, y in zip(measured.curves, found, strict=True):
        away = y - curve.y
        big = np.abs(curve.y) > 0.05 * curve.top
        rel = np.abs(away[big]) / np.abs(curve.y[big])
        decades = None
        if curve.kind == "transfer":
            both = (curve.y > 1e-9) & (y > 0)
            if both.any():
                decades = float(np.sqrt(np.mean((np.log10(y[both]) - np.log10(curve.y[both])) ** 2)))
        rows.append(
            CurveError(
                curve.kind,
                curve.label,
                float(np.sqrt(np.mean(away**2))) / curve.top,
                float(rel.mean()),
                float(np.abs(away).max()) / curve.top,
                decades,
            )
        )
        squares, count, top = squares + float((away**2).sum()), count + len(away), max(top, curve.top)
        relative.append(rel)
    nrmse = math.sqrt(squares / count) / top if count else None
    mare = float(np.concatenate(relative).mean()) if relative else None
    return Errors(nrmse, mare, tuple(rows), dict(capacitances or {}))


@dataclass(frozen=True)
class Limits:
    good_nrmse: float
    good_mare: float = 0.05
    acceptable_nrmse: float = 0.03
    acceptable_mare: float = 0.10
    #: decades, each of Ciss, Coss, Crss.
    good_decades: float = 0.05
    acceptable_decades: float = 0.15


def limits_for(device_type: str) -> Limits:
    """Silicon may be twice as far off: its superjunction curves have a bend that no compact form follows."""
    words = device_type.lower()
    silicon = re.search(r"(^|[^a-z])si([^a-z]|$)", words) or words.strip() == "mosfet" or "superjunction" in words
    return Limits(good_nrmse=0.02 if silicon else 0.01)


def grade(simulated: Errors | None, limits: Limits, *, suspect: bool = False) -> Grade:
    """From the figures of the *simulated* netlist; without them a model is `unchecked`, however well its formula fits."""
    if suspect:
        return "suspect"
    if simulated is None or (simulated.nrmse is None and not simulated.capacitance_decades):
        return "unchecked"
    nrmse, mare = simulated.nrmse or 0.0, simulated.mare or 0.0
    decades = max(simulated.capacitance_decades.values(), default=0.0)
    if nrmse <= limits.good_nrmse and mare <= limits.good_mare and decades <= limits.good_decades:
        return "good"
    if nrmse <= limits.acceptable_nrmse and mare <= limits.acceptable_mare and decades <= limits.acceptable_decades:
        return "acceptable"
    return "poor"
