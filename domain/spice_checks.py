"""What physics does not allow: of measured curves, where labels were read wrongly, and of the models fitted to them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from domain.spice import Model
from domain.spice_curves import Curve, Measured, gate_span


@dataclass(frozen=True)
class Finding:
    """Something about the measured curves, or a model, that physics does not allow. `suspect` findings forbid a grade."""

    code: str
    text: str
    suspect: bool = False
    #: Labels of the output curves concerned (VGS in V).
    vgs: tuple[float, ...] = ()


def _wrong_way(lower: Curve, upper: Curve, top: float) -> bool:
    """Whether the curve of the higher gate voltage lies below the other over most of the way that they share."""
    a, b = max(float(lower.x[0]), float(upper.x[0]), 0.0), min(float(lower.x[-1]), float(upper.x[-1]))
    if b <= a:
        return False
    grid = np.linspace(a, b, 41)[1:]
    low, high = np.interp(grid, lower.x, lower.y), np.interp(grid, upper.x, upper.y)
    return bool(np.mean(high < low - 0.01 * top - 0.02 * np.abs(low)) > 0.5)


def _disorder(curves: Sequence[Curve]) -> list[tuple[Curve, Curve]]:
    ordered = sorted(curves, key=lambda c: c.at)
    top = max((c.top for c in ordered), default=0.0)
    return [(a, b) for a, b in combinations(ordered, 2) if a.at < b.at and _wrong_way(a, b, top)]


def with_swapped(measured: Measured, a_v: float, b_v: float) -> Measured:
    """The same set with the labels of two output curves exchanged."""
    other = {a_v: b_v, b_v: a_v}
    curves = tuple(replace(c, at=other.get(c.at, c.at)) if c.kind == "output" else c for c in measured.curves)
    return replace(measured, curves=curves)


def check_measured(measured: Measured) -> list[Finding]:
    """What the curves themselves say: current rises with VGS, no curve stands twice, Coss >= Crss and Ciss >= Crss."""
    out: list[Finding] = []
    output = measured.of("output")
    wrong = _disorder(output)
    if wrong:
        cured = [
            (a, b)
            for a, b in combinations(sorted({c.at for c in output}), 2)
            if not _disorder(with_swapped(measured, a, b).of("output"))
        ]
        # With several cures the nearest pair is the likely slip.
        cured.sort(key=lambda pair: pair[1] - pair[0])
        names = ", ".join(f"{b.at:g} V below {a.at:g} V" for a, b in wrong)
        text = f"current must rise with VGS, but does not ({names})"
        if cured:
            a, b = cured[0]
            text += f": the labels {a:g} V and {b:g} V look swapped"
        out.append(
            Finding("order", text, suspect=True, vgs=cured[0] if cured else tuple({c.at for p in wrong for c in p}))
        )
    for a, b in combinations(output, 2):
        if a.at != b.at and len(a.x) == len(b.x) and np.array_equal(a.x, b.x) and np.array_equal(a.y, b.y):
            out.append(
                Finding(
                    "duplicate",
                    f"the curves {a.at:g} V and {b.at:g} V are the same point by point: one of them is a copy, and no model can follow both",
                    vgs=(a.at, b.at),
                )
            )
    if len({c.at for c in output}) < len(output):
        out.append(Finding("label", "two output curves have the same VGS: a label was read twice"))
    for curve in measured.of("transfer"):
        if bool(np.mean(np.diff(curve.y) < -0.02 * curve.top) > 0.2):
            out.append(Finding("order", f"the transfer curve at {curve.label} falls with VGS", suspect=True))
    rss = measured.capacitances.get("c_rss")
    for key, words in (("c_oss", "Coss"), ("c_iss", "Ciss")):
        cv = measured.capacitances.get(key)
        if rss and cv:
            v = np.linspace(max(float(rss.v[0]), float(cv.v[0])), min(float(rss.v[-1]), float(cv.v[-1])), 60)
            low = np.log10(np.interp(v, cv.v, cv.c)) < np.log10(np.interp(v, rss.v, rss.c)) - 0.03
            if v[-1] > v[0] and bool(np.mean(low) > 0.1):
                out.append(
                    Finding(
                        "capacitance", f"{words} must not be below Crss, but is: two labels look swapped", suspect=True
                    )
                )
    return out


def check_model(model: Model, measured: Measured) -> list[Finding]:
    """What holds of a model within the range that it was fitted in: current rises with VGS and with VDS, and it blocks at VGS = 0."""
    if model.form is None:
        return []
    out: list[Finding] = []
    span = gate_span(measured)
    if span is None:
        return out
    v_top = max([float(c.x[-1]) for c in measured.of("output")] + [c.at for c in measured.of("transfer")])
    gates = np.linspace(*span, 25)[:, None]
    drains = np.linspace(0.0, v_top, 61)[None, :]
    i = model.current(gates, drains)
    top = float(np.abs(i).max())
    if not np.isfinite(i).all() or top == 0:
        return [Finding("not_finite", "the model has no finite current in its range", suspect=True)]
    if bool((np.diff(i, axis=0) < -1e-4 * top).any()):
        out.append(Finding("model_order", "the model's current falls with VGS somewhere in its range"))
    if bool((np.diff(i, axis=1) < -2e-3 * top).any()):
        out.append(Finding("model_slope", "the model's current falls with VDS somewhere in its range"))
    rated = max([v_top] + [float(cv.v[-1]) for cv in measured.capacitances.values()])
    if span[0] > 0:
        off = float(model.current(np.zeros(1), np.array([rated]))[0])
        if not math.isfinite(off) or off > 1e-3 * top:
            out.append(Finding("leak", f"the model does not block: {off:.2g} A at VGS = 0 and VDS = {rated:.0f} V"))
    return out
