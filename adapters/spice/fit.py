"""Measured curves to a model: bounded, robust least squares from many starts, for each form; the simulator chooses.

    measured -> checks -> each form: starts -> screened -> refined -> third quadrant -> netlist -> ngspice -> the best

Residuals are divided by a mean of the largest current of all curves and the curve's own, so that the weak curves near the threshold
count, and the loss grows linearly beyond a few per cent, so that slips of digitising do not pull. Random starts come from a
fixed seed: the same curves give the same model.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, cast

import numpy as np
from scipy import optimize  # pyright: ignore[reportMissingTypeStubs]

from adapters.spice.ngspice import Simulated, SimulationFailed, ngspice_path, simulate, switches
from domain.errors import OutOfLimits
from domain.spice import DIODE, DIODE_POWER, REVERSE, Cap, Capacitances, Model, diode_current, diode_power_current
from domain.spice_checks import Finding, check_measured, check_model, with_swapped
from domain.spice_curves import CV, Curve, Floats, Measured, gate_span
from domain.spice_forms import FORMS, Facts, Form, Parameter, form_named
from domain.spice_grade import Errors, Grade, Limits, errors, grade, limits_for
from domain.spice_netlist import netlist
from domain.spice_starts import facts_of

#: Points of one curve that the search uses; the last refinement takes all.
SCREEN_POINTS = 14
FULL_POINTS = 80
#: Weight of all curves' largest current against the curve's own in the scale of a residual.
POOLED = 0.75
SEED = 20_11
#: Share of the largest current that a transistor may carry at VGS = 0 before the fit is pushed away from there.
OFF_SHARE = 1e-4

Progress = Callable[[int, str], None]
"""(per cent 0-100, what is being done)"""


class FitCancelled(Exception):
    """The caller asked to stop."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One form fitted: what its formula says, and what the simulator says of its netlist (None: not simulated)."""

    model: Model
    formula: Errors
    simulated: Simulated | None
    failure: str | None
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def judged(self) -> Errors:
        return self.simulated.errors if self.simulated else self.formula


@dataclass(frozen=True, eq=False)
class Fitted:
    """The outcome. `best` is the model; `suggestion` is there for suspect sets that fit once one thing is changed."""

    measured: Measured
    best: Candidate
    candidates: tuple[Candidate, ...]
    findings: tuple[Finding, ...]
    grade: Grade
    check: str
    """`simulated by ngspice-39`, or why not."""
    seconds: float
    outliers: tuple[str, ...] = ()
    converges: bool | None = None
    suggestion: "Fitted | None" = None


@dataclass
class Watch:
    """Progress and cancellation of one job. A step is reported by its share of the whole; it never goes back."""

    progress: Progress | None = None
    cancelled: Callable[[], bool] | None = None
    _last: int = field(default=-1)

    def at(self, share: float, what: str) -> None:
        if self.cancelled is not None and self.cancelled():
            raise FitCancelled("the fit was cancelled")
        percent = max(0, min(100, int(100 * share)))
        if self.progress is not None and percent > self._last:
            self._last = percent
            self.progress(percent, what)

    def check(self) -> None:
        if self.cancelled is not None and self.cancelled():
            raise FitCancelled("the fit was cancelled")


# --- least squares ---------------------------------------------------------------------------------------------------

Residual = Callable[[Floats], Floats]
#: SciPy comes without types.
least_squares = cast("Callable[..., Any]", optimize.least_squares)  # pyright: ignore[reportUnknownMemberType]


def _to_free(parameters: Sequence[Parameter], values: Floats) -> Floats:
    return np.array([math.log(max(v, 1e-300)) if p.log else v for p, v in zip(parameters, values, strict=True)])


def _from_free(parameters: Sequence[Parameter], free: Floats) -> Floats:
    return np.array([math.exp(v) if p.log else v for p, v in zip(parameters, free, strict=True)])


def minimise(
    parameters: Sequence[Parameter], residual: Residual, start: Floats, *, rounds: int, soft: float | None, watch: Watch
) -> tuple[Floats, float]:
    """Values within the bounds with the least cost found from one start, and that cost; parameters with `log` move by factors."""
    low = _to_free(parameters, np.array([p.low for p in parameters]))
    high = _to_free(parameters, np.array([p.high for p in parameters]))
    margin = 1e-6 * (high - low)
    first = np.clip(_to_free(parameters, start), low + margin, high - margin)

    def of(free: Floats) -> Floats:
        watch.check()
        with np.errstate(all="ignore"):
            out = residual(_from_free(parameters, free))
        if not np.isfinite(out).all():  # asked first: to replace nothing takes longer than most forms do
            out = np.nan_to_num(out, nan=1e3, posinf=1e3, neginf=-1e3)
        return np.minimum(np.maximum(out, -1e3), 1e3)

    found = least_squares(
        of,
        first,
        bounds=(low, high),
        x_scale=np.maximum(np.abs(first), 0.3),
        loss="linear" if soft is None else "soft_l1",
        f_scale=soft or 1.0,
        # Forms with resistances are solved to 1e-10, so differences are taken over more than that.
        diff_step=1e-5,
        ftol=1e-8,
        xtol=1e-7,
        max_nfev=rounds,
    )
    return _from_free(parameters, np.asarray(found.x, dtype=np.float64)), float(found.cost)


# --- the channel -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Points:
    """Curves of the first quadrant laid out for one call of a form."""

    vgs: Floats
    vds: Floats
    i: Floats
    scale: Floats
    #: Where a logarithm is compared too: transfer curves that span decades.
    decades: Floats


def _points(curves: Sequence[Curve], most: int) -> _Points:
    top = max(c.top for c in curves)
    parts: list[tuple[Floats, Floats, Floats, Floats, Floats]] = []
    for c in curves:
        keep = np.arange(len(c.x))
        if c.kind == "output":
            keep = keep[c.x >= 0]
        if len(keep) > most:
            keep = keep[np.unique(np.linspace(0, len(keep) - 1, most).round().astype(int))]
        x, y = c.x[keep], c.y[keep]
        here = np.full(x.shape, c.at)
        own = max(c.top, 0.003 * top)
        share = math.sqrt(len(c.x) / max(len(keep), 1))
        scale = np.full(x.shape, top**POOLED * own ** (1 - POOLED) / share)
        gates, drains = (x, here) if c.kind == "transfer" else (here, x)
        above = y[y > 0]
        wide = c.kind == "transfer" and len(above) > 4 and above.max() / above.min() > 300
        decades = np.where(y > 3e-4 * c.top, 1.0, 0.0) if wide else np.zeros(x.shape)
        parts.append((gates, drains, y, scale, decades))
    return _Points(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _channel_residual(form: Form, points: _Points, off_at: float | None, top: float) -> Residual:
    any_decades = bool(points.decades.any())
    with np.errstate(all="ignore"):
        measured_log = np.where(points.decades > 0, np.log10(np.maximum(points.i, 1e-300)), 0.0)

    def residual(p: Floats) -> Floats:
        found = form.current(p, points.vgs, points.vds)
        parts = [(found - points.i) / points.scale]
        if any_decades:
            parts.append(0.02 * points.decades * (np.log10(np.maximum(found, 1e-12)) - measured_log))
        if off_at is not None:
            # Below the weakest curve nothing was measured, and a wide turn-on would leave the transistor half open.
            off = float(form.current(p, np.zeros(1), np.array([off_at]))[0])
            parts.append(np.array([0.3 * math.log1p(max(off / (OFF_SHARE * top) - 1.0, 0.0))]))
        return np.concatenate(parts)

    return residual


def _scatter(residual: Floats) -> float:
    """A robust width of residuals: what an outlier is measured by."""
    return float(max(1.4826 * np.median(np.abs(residual)), 1e-3))


def fit_channel(form: Form, curves: Sequence[Curve], facts: Facts, watch: Watch, starts: int | None = None) -> Floats:
    """Values of one form for output and transfer curves."""
    rng = np.random.default_rng(SEED)

    def uniform(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    off_at = facts.v_top if facts.vg_low > 0 else None
    coarse = _channel_residual(form, _points(curves, SCREEN_POINTS), off_at, facts.i_top)
    fine = _channel_residual(form, _points(curves, FULL_POINTS), off_at, facts.i_top)
    ranked: list[tuple[float, int, Floats]] = []
    # Forms with resistances are solved by iteration and cost ten times as much; they have fewer ways to go wrong.
    for index in range(starts or (6 if form.primitive or form.name == "ekv" else 12)):
        start = np.clip(np.asarray(form.start(facts, uniform), dtype=np.float64), form.low, form.high)
        values, cost = minimise(form.parameters, coarse, start, rounds=25, soft=0.1, watch=watch)
        ranked.append((cost, index, values))
    ranked.sort(key=lambda row: row[:2])
    best = ranked[0][2], math.inf
    for _, _, values in ranked[:2]:
        values, cost = minimise(form.parameters, coarse, values, rounds=120, soft=0.1, watch=watch)
        if cost < best[1]:
            best = values, cost
    with np.errstate(all="ignore"):
        soft = min(max(3 * _scatter(fine(best[0])), 0.01), 0.2)
    return minimise(form.parameters, fine, best[0], rounds=150, soft=soft, watch=watch)[0]


# --- third quadrant, diodes ------------------------------------------------------------------------------------------


def _diode_starts(curve: Curve, tj_c: float) -> list[Floats]:
    half = np.interp(0.02 * curve.top, np.maximum.accumulate(curve.y), curve.x)
    slope = max((curve.x[-1] - half) / curve.top, 1e-6)
    out: list[Floats] = []
    for n in (1.2, 2.0, 4.0):
        at = float(half) / (n * 0.02569 * (tj_c + 273.15) / 298.15)
        out.append(np.array([max(0.02 * curve.top * math.exp(-min(at, 55.0)), 1e-25), n, 0.8 * slope]))
    return out


def fit_diode(curves: Sequence[Curve], tj_c: float, watch: Watch) -> list[tuple[str, Floats, float]]:
    """(name, values, cost) of the two diode forms for a part of two pins."""
    top = max(c.top for c in curves)
    x, y = np.concatenate([c.x for c in curves]), np.concatenate([c.y for c in curves])
    out: list[tuple[str, Floats, float]] = []

    def junction(p: Floats) -> Floats:
        return (diode_current(p, x, tj_c) - y) / top

    def power(p: Floats) -> Floats:
        return (diode_power_current(p, x) - y) / top

    found = [minimise(DIODE, junction, s, rounds=200, soft=0.03, watch=watch) for s in _diode_starts(curves[0], tj_c)]
    values, cost = min(found, key=lambda row: row[1])
    out.append(("diode", values, cost))
    knee = float(np.interp(0.03 * top, np.maximum.accumulate(curves[0].y), curves[0].x))
    rest = max(curves[0].x[-1] - knee, 0.05)
    starts = [np.array([knee + d, w, top / rest**a, a]) for a in (1.0, 1.6) for d, w in ((0.0, 0.05), (0.1, 0.15))]
    found = [minimise(DIODE_POWER, power, s, rounds=200, soft=0.03, watch=watch) for s in starts]
    values, cost = min(found, key=lambda row: row[1])
    out.append(("diode_power", values, cost))
    return out


def fit_reverse(model: Model, measured: Measured, watch: Watch) -> Model:
    """The body diode, and how the channel conducts in reverse, from curves below VDS = 0; unchanged without such curves."""
    form = model.form
    curves = measured.of("diode")
    if form is None or not curves:
        return model
    top = max(c.top for c in curves)
    x, y = np.concatenate([c.x for c in curves]), np.concatenate([c.y for c in curves])
    weight = 1.0 / top
    mirrored = not form.primitive
    parameters = (*REVERSE, *DIODE) if mirrored else DIODE

    def built(p: Floats) -> Model:
        if mirrored:
            return replace(model, beta=float(p[0]), kappa=float(p[1]), diode=p[2:])
        return replace(model, diode=p)

    def residual(p: Floats) -> Floats:
        return (-built(p).current(np.zeros(1), -x) - y) * weight

    best: tuple[Floats, float] | None = None
    for diode in _diode_starts(curves[0], model.tj_c):
        for beta, kappa in ((0.9, 1.0), (0.5, 1.0), (0.7, 3.0)) if mirrored else ((1.0, 1.0),):
            start = np.concatenate([[beta, kappa], diode]) if mirrored else diode
            values, cost = minimise(parameters, residual, start, rounds=40, soft=0.03, watch=watch)
            if best is None or cost < best[1]:
                best = values, cost
    assert best is not None
    values, _ = minimise(parameters, residual, best[0], rounds=150, soft=0.03, watch=watch)
    return built(values)


# --- capacitances ----------------------------------------------------------------------------------------------------


def _cap_layout(powers: int, falls: int, rises: int, v_top: float, c_top: float) -> tuple[Parameter, ...]:
    low, high = c_top * 1e-6, c_top * 3
    out = [Parameter("floor", "F", low, high, "", log=True)]
    for _ in range(powers):
        out += [Parameter("c", "F", low, high, "", log=True), Parameter("vj", "V", 0.05, 1e4, "", log=True)]
        out += [Parameter("m", "1", 0.05, 12.0, "", log=True)]
    for _ in range(falls + rises):
        out += [Parameter("c", "F", low, high, "", log=True), Parameter("v0", "V", 0.0, 1.2 * v_top, "")]
        out += [Parameter("w", "V", 0.002 * v_top, v_top, "", log=True)]
    return tuple(out)


def _cap_of(p: Floats, powers: int, falls: int, rises: int) -> Cap:
    triples = [(float(a), float(b), float(c)) for a, b, c in p[1:].reshape(-1, 3)]
    return Cap(
        float(p[0]), tuple(triples[:powers]), tuple(triples[powers : powers + falls]), tuple(triples[powers + falls :])
    )


def fit_cap(cv: CV, below: Cap | None, watch: Watch) -> Cap:
    """A capacitance that, on top of `below`, follows measured points; decades count. The number of terms is chosen by
    what they gain over the number of points (BIC), never below what digitising can tell apart (0.005 decades)."""
    v_top = max(float(cv.v[-1]), 1.0)
    under = below.c(cv.v) if below else np.zeros(cv.v.shape)
    goal = np.log10(cv.c)
    c_top, c_low = float(cv.c.max()), float(cv.c.min())
    best: tuple[float, Cap] | None = None
    for powers, falls, rises in (
        (1, 0, 0),
        (2, 0, 0),
        (1, 1, 0),
        (2, 1, 0),
        (2, 0, 1),
        (2, 1, 1),
        (1, 2, 1),
        (3, 1, 1),
    ):
        layout = _cap_layout(powers, falls, rises, v_top, c_top)
        if len(layout) + 2 > len(cv.v) and best is not None:
            continue

        def residual(p: Floats, shape: tuple[int, int, int] = (powers, falls, rises)) -> Floats:
            return np.log10(_cap_of(p, *shape).c(cv.v) + under) - goal

        drop = np.gradient(goal, cv.v + np.arange(len(cv.v)) * 1e-9 * v_top)
        steepest = float(cv.v[int(np.argmin(drop * np.sqrt(cv.v + 1)))])
        found: tuple[Floats, float] | None = None
        for vj, m, at in ((1.0, 0.6, steepest), (5.0, 1.5, 0.5 * steepest + 1), (0.03 * v_top, 3.0, 0.05 * v_top)):
            start = [0.5 * c_low]
            start += [q for k in range(powers) for q in (c_top / 2**k, vj * 6**k, m)]
            start += [
                q
                for k in range(falls)
                for q in (c_top / 3, max(at * 3**k, 0.01 * v_top), max(0.05 * at, 0.004 * v_top))
            ]
            start += [q for _ in range(rises) for q in (c_low, 0.6 * v_top, 0.15 * v_top)]
            values, cost = minimise(layout, residual, np.array(start), rounds=60, soft=0.1, watch=watch)
            if found is None or cost < found[1]:
                found = values, cost
        assert found is not None
        values, _ = minimise(layout, residual, found[0], rounds=100, soft=0.1, watch=watch)
        n = len(cv.v)
        mean = float(np.mean(residual(values) ** 2)) + 0.005**2
        score = n * math.log(mean) + len(layout) * math.log(n)
        if best is None or score < best[0]:
            best = score, _cap_of(values, powers, falls, rises)
        if mean < 0.011**2:
            break
    assert best is not None
    return best[1]


def fit_capacitances(measured: Measured, watch: Watch) -> Capacitances:
    """Cgd from Crss, Cds from what Coss has above it, Cgs from what Ciss has above it."""
    have = measured.capacitances
    rss, oss, iss = have.get("c_rss"), have.get("c_oss"), have.get("c_iss")
    cgd = fit_cap(rss, None, watch) if rss else None
    cds = fit_cap(oss, cgd, watch) if oss else None
    if iss is None:
        return Capacitances(cgd, cds)
    under = cgd.c(iss.v) if cgd else np.zeros(iss.v.shape)
    goal = np.log10(iss.c)
    top = float(iss.c.max())
    layout = (
        Parameter("c0", "F", top * 1e-3, top * 2, "", log=True),
        Parameter("end", "F", top * 1e-3, top * 2, "", log=True),
        Parameter("v", "V", 0.1, max(float(iss.v[-1]), 1.0), "", log=True),
    )

    def varying(p: Floats) -> Floats:
        return np.log10(under + p[0] + (p[1] - p[0]) * iss.v / (iss.v + p[2])) - goal

    def constant(p: Floats) -> Floats:
        return np.log10(under + p[0]) - goal

    one, _ = minimise(layout[:1], constant, np.array([0.8 * top]), rounds=60, soft=0.1, watch=watch)
    many, _ = minimise(layout, varying, np.array([one[0], one[0], 10.0]), rounds=150, soft=0.1, watch=watch)
    # A Cgs that depends on VDS is only worth having when the plain one is visibly wrong.
    if float(np.sqrt(np.mean(constant(one) ** 2))) - float(np.sqrt(np.mean(varying(many) ** 2))) < 0.004:
        return Capacitances(cgd, cds, float(one[0]))
    return Capacitances(cgd, cds, float(many[0]), float(many[1] - many[0]), float(many[2]))


# --- all of it -------------------------------------------------------------------------------------------------------


def _values_on(model: Model, measured: Measured) -> list[Floats]:
    with np.errstate(all="ignore"):
        return [np.nan_to_num(model.on(c), nan=1e9, posinf=1e9, neginf=-1e9) for c in measured.curves]


def _candidate(model: Model, measured: Measured, program: str | None, started: float) -> Candidate:
    formula = errors(measured, _values_on(model, measured))
    simulated: Simulated | None = None
    failure: str | None = None
    if program is not None:
        try:
            simulated = simulate(netlist(model, measured.name), measured, program=program)
        except SimulationFailed as error:
            failure = str(error)
    findings = tuple(check_model(model, measured))
    return Candidate(model, formula, simulated, failure, findings, time.monotonic() - started)


def _score(candidate: Candidate, measured: Measured, limits: Limits) -> float:
    """Lower is better: both errors by their limits, more for each parameter where points are few, for what is not physical, and
    for a netlist that the simulator did not get through."""
    e = candidate.judged
    points = sum(len(c.x) for c in measured.curves)
    spare = max(points - candidate.model.size, 1)
    score = (e.nrmse or 0.0) / limits.good_nrmse + 0.3 * (e.mare or 0.0) / limits.good_mare
    score *= math.sqrt(points / spare)
    if candidate.findings:
        score *= 1.5
    if any(f.suspect for f in candidate.findings):
        score += 1e3
    return score + (1e6 if candidate.failure else 0.0)


def _quick_error(measured: Measured, watch: Watch, starts: int = 3) -> float:
    """nrmse of the most general form after a short search; what suspicions are compared by."""
    curves = [c for c in measured.curves if c.kind != "diode"]
    form = form_named("knee")
    values = fit_channel(form, curves, facts_of(measured), watch, starts=starts)
    model = Model(form, values, tj_c=measured.tj_c)
    part = replace(measured, curves=tuple(curves), capacitances={})
    return errors(part, _values_on(model, part)).nrmse or 0.0


def find_culprit(measured: Measured, before: float, watch: Watch) -> tuple[Finding | None, Measured | None]:
    """What to change so that a set fits which does not: two labels exchanged, else one curve left out. The change must at least
    halve the error and bring it below 3 %."""
    goal = min(0.5 * before, 0.03)
    output = sorted(measured.of("output"), key=lambda c: c.at)
    gates = sorted({c.at for c in output})
    pairs = sorted(combinations(gates, 2), key=lambda p: gates.index(p[1]) - gates.index(p[0]))
    tried: list[tuple[float, tuple[float, float], Measured]] = []
    # Only exchanges that leave the currents in order can be right; neighbours first, and not more than a dozen fits.
    for a, b in pairs:
        other = with_swapped(measured, a, b)
        if not any(f.code == "order" for f in check_measured(other)):
            tried.append((_quick_error(other, watch), (a, b), other))
        if len(tried) >= 12:
            break
    if tried:
        error, (a, b), other = min(tried, key=lambda row: row[0])
        if error < goal:
            text = f"the labels {a:g} V and {b:g} V are likely swapped: exchanged, the set fits at {100 * error:.2g} % instead of {100 * before:.2g} %"
            return Finding("swapped", text, suspect=True, vgs=(a, b)), other
    rest = [c for c in measured.curves if c.kind != "diode"]
    left: list[tuple[float, Curve, Measured]] = []
    for curve in rest if len(rest) > 3 else ():
        other = replace(measured, curves=tuple(c for c in measured.curves if c is not curve))
        left.append((_quick_error(other, watch), curve, other))
        if len(left) >= 12:
            break
    if left:
        error, curve, other = min(left, key=lambda row: row[0])
        if error < goal:
            text = f"the curve {curve.label} goes with none of the others: without it the set fits at {100 * error:.2g} % instead of {100 * before:.2g} %; check its label"
            gate = (curve.at,) if curve.kind == "output" else ()
            return Finding("outlying_curve", text, suspect=True, vgs=gate), other
    return None, None


def _outliers(measured: Measured, values: Sequence[Floats], nrmse: float) -> tuple[str, ...]:
    """Points that lie far off a model that is good elsewhere: slips of digitising."""
    out: list[str] = []
    for curve, found in zip(measured.curves, values, strict=True):
        away = (found - curve.y) / curve.top
        limit = max(8 * _scatter(away), 0.05, 4 * nrmse)
        out += [f"{curve.label} at {x:.4g} V" for x in curve.x[np.abs(away) > limit]]
    return tuple(out[:50])


def fit(
    measured: Measured,
    *,
    forms: Sequence[str] | None = None,
    simulator: bool = True,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    look_for_culprit: bool = True,
) -> Fitted:
    """Fit each form, simulate each netlist, choose the best and grade it.

    `forms` limits the choice (names of `domain.spice_forms.FORMS`). Without ngspice, or with `simulator` off, the choice is made by the formulas and
    the grade is `unchecked`. `progress` hears per cent from 0 to 100; `cancelled` is asked many times a second. Raises OutOfLimits
    when there is nothing to fit and FitCancelled.
    """
    begun = time.monotonic()
    watch = Watch(progress, cancelled)
    watch.at(0.0, "checking the curves")
    limits = limits_for(measured.device_type)
    program = ngspice_path() if simulator else None
    findings = [Finding("note", note) for note in measured.notes] + check_measured(measured)
    candidates: list[Candidate] = []
    if measured.is_diode:
        curves = measured.of("diode")
        if not curves:
            raise OutOfLimits("a diode needs a curve of its current over its voltage; there is none")
        measured = replace(measured, curves=curves, capacitances={})
        for index, (name, values, _) in enumerate(fit_diode(curves, measured.tj_c, watch)):
            started = time.monotonic()
            model = Model(None, np.zeros(0), tj_c=measured.tj_c)
            model = replace(model, diode=values) if name == "diode" else replace(model, diode_power=values)
            candidates.append(_candidate(model, measured, program, started))
            watch.at(0.4 + 0.25 * index, name)
    else:
        channel = [c for c in measured.curves if c.kind != "diode"]
        if gate_span(measured) is None:
            raise OutOfLimits(
                "a transistor needs output or transfer curves; there are none (a two-pin part: give its type as diode)"
            )
        facts = facts_of(measured)
        caps = fit_capacitances(measured, watch)
        chosen = [f for f in FORMS if forms is None or f.name in forms]
        for name in forms or ():
            form_named(name)
        watch.at(0.15, "capacitances")
        for index, form in enumerate(chosen):
            started = time.monotonic()
            values = fit_channel(form, channel, facts, watch)
            model = Model(form, values, capacitances=caps, tj_c=measured.tj_c)
            model = fit_reverse(model, measured, watch)
            candidates.append(_candidate(model, measured, program, started))
            watch.at(0.15 + 0.65 * (index + 1) / len(chosen), form.name)
    candidates.sort(key=lambda c: _score(c, measured, limits))
    best = candidates[0]
    findings += best.findings
    nrmse = best.judged.nrmse or 0.0
    suspect = any(f.suspect for f in findings)
    suggestion: Fitted | None = None
    if look_for_culprit and not measured.is_diode and (suspect or nrmse > limits.acceptable_nrmse):
        watch.at(0.82, "looking for the culprit")
        culprit, other = find_culprit(measured, nrmse, watch)
        if culprit is not None and other is not None:
            findings.insert(0, culprit)
            suggestion = fit(
                other,
                forms=[best.model.form_name, "knee"],
                simulator=simulator,
                cancelled=cancelled,
                look_for_culprit=False,
            )
        elif nrmse > limits.acceptable_nrmse:
            text = f"no form follows these curves (the best is off by {100 * nrmse:.2g} %), and no single label or curve explains it"
            findings.insert(0, Finding("no_form_fits", text, suspect=True))
        suspect = any(f.suspect for f in findings)
    converges: bool | None = None
    if best.simulated is not None:
        check = f"simulated by {best.simulated.version}"
        if best.model.form is not None and best.model.capacitances != Capacitances():
            watch.at(0.95, "switching")
            converges = switches(netlist(best.model, measured.name), measured, program=program)
            if not converges:
                findings.append(
                    Finding("switching", "the netlist does not get through a turn-on and a turn-off into a resistor")
                )
    elif best.failure is not None:
        check = f"ngspice failed: {best.failure[:300]}"
    elif not simulator:
        check = "skipped: the simulator was turned off"
    else:
        check = "skipped: ngspice is not installed (Debian: apt install ngspice)"
    values = best.simulated.values if best.simulated else _values_on(best.model, measured)
    graded = grade(best.simulated.errors if best.simulated else None, limits, suspect=suspect)
    if best.failure is not None and graded == "unchecked":
        graded = "poor"
    watch.at(1.0, "done")
    return Fitted(
        measured,
        best,
        tuple(candidates),
        tuple(findings),
        graded,
        check,
        time.monotonic() - begun,
        _outliers(measured, values, nrmse),
        converges,
        suggestion,
    )
