"""Models of transistors and diodes for a circuit simulator: the forms, what must hold of them, and the text of a netlist.

    measured curves -> (a fit, outside) -> Model -> netlist -> simulated -> grade

A form is a smooth function ID(VGS, VDS) with parameters that have bounds and units. The same formula stands twice: as numpy, for
the fit, and as lines of a netlist. The two agree to about 1e-5, and a test holds them to it; but a model is *judged* by its
simulated netlist only, because a formula that looks the same may still clip, diverge or be read differently by the simulator.

**Quadrants.** Behavioural forms f(VG, V) are given for V >= 0. For VDS < 0 they are mirrored: the drain takes the place of the
source, so that the gate drive grows by beta*VSD (beta = 1 for a symmetric device, less where a field plate or a body shields
the drain), and the knee lies at kappa times the voltage. Current and slope are continuous at VDS = 0. A body diode lies in
parallel. Forms that are MOS primitives of the simulator mirror themselves.

**Capacitances** are smooth functions C(V). Crss is Cgd, Coss = Cds + Cgd and Ciss = Cgs + Cgd, all at VGS = 0; each part is positive,
hence Coss >= Crss and Ciss >= Crss always. Each depends on its own voltage alone (Cgs, a little, on VDS).

Units: V, A, ohm, F, C, °C. Errors are fractions (0.01 is 1 %) unless the name says otherwise.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations, pairwise
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from domain.errors import OutOfLimits

Floats: TypeAlias = NDArray[np.float64]
Kind: TypeAlias = Literal["output", "transfer", "diode"]
Grade: TypeAlias = Literal["good", "acceptable", "poor", "unchecked", "suspect"]

#: Version of the text that `netlist` writes; it stands in the header of each library.
NETLIST_VERSION = 1
#: k/q, V per kelvin.
BOLTZMANN_V_PER_K = 8.617333262e-5
#: Keeps powers of the gate drive and their derivatives finite in the simulator far below the threshold, V.
DRIVE_FLOOR_V = 1e-12
#: How fast the gate drive falls below the threshold, beyond the exponential.
TAIL = 0.5
#: Where the rise (or, by self-heating, fall) of the saturated current of the knee form levels off, so that it stays above zero at any
#: VDS, V.
RISE_END_V = 60.0
MAX_CURVES = 200
MAX_POINTS = 20_000
CAPACITANCES = ("c_iss", "c_oss", "c_rss")


# --- what was measured -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Curve:
    """One measured curve, x ascending. `at` is VGS of an output curve, VDS of a transfer curve, 0 of a diode."""

    kind: Kind
    at: float
    x: Floats
    y: Floats

    @property
    def top(self) -> float:
        return float(np.abs(self.y).max())

    @property
    def label(self) -> str:
        name = {"output": "VGS", "transfer": "VDS"}.get(self.kind)
        return f"{name} = {self.at:g} V" if name else "the diode curve"


@dataclass(frozen=True, eq=False)
class CV:
    """A capacitance over VDS at VGS = 0: v in V, c in F."""

    v: Floats
    c: Floats


@dataclass(frozen=True, eq=False)
class Measured:
    """The curves of one device at one temperature, cleaned: finite, ascending, no empty curve."""

    name: str = "DEVICE"
    device_type: str = ""
    tj_c: float = 25.0
    curves: tuple[Curve, ...] = ()
    capacitances: Mapping[str, CV] = field(default_factory=dict[str, CV])
    f_hz: float = 1e6
    notes: tuple[str, ...] = ()

    @property
    def is_diode(self) -> bool:
        """A part with two pins: nothing but diode curves, and not said to be a transistor."""
        words = self.device_type.lower()
        said = "diode" in words or "schottky" in words
        fet = any(w in words for w in ("mosfet", "hemt", "transistor", "fet"))
        only = bool(self.curves) and all(c.kind == "diode" for c in self.curves) and not self.capacitances
        return said or (only and not fet)

    def of(self, kind: Kind) -> tuple[Curve, ...]:
        return tuple(c for c in self.curves if c.kind == kind)


def _numbers(values: Any, what: str) -> Floats:
    try:
        out = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise OutOfLimits(f"{what}: give the values as a list of numbers") from error
    if out.ndim != 1:
        raise OutOfLimits(f"{what}: give the values as a flat list of numbers")
    if len(out) > MAX_POINTS:
        raise OutOfLimits(f"{what}: {len(out)} points are more than {MAX_POINTS}; give fewer")
    return out


def _pair(data: Any, x: str, y: str, what: str) -> tuple[Floats, Floats]:
    """Two columns as one ascending curve; points that are no numbers are dropped, several at one x become their mean."""
    if not isinstance(data, Mapping):
        raise OutOfLimits(f"{what}: give an object with {x} and {y}")
    row = cast("Mapping[str, Any]", data)
    if x not in row or y not in row:
        raise OutOfLimits(f"{what}: give {x} and {y}")
    a, b = _numbers(row[x], f"{what} {x}"), _numbers(row[y], f"{what} {y}")
    if len(a) != len(b):
        raise OutOfLimits(f"{what}: {x} has {len(a)} values and {y} has {len(b)}; give as many of each")
    keep = np.isfinite(a) & np.isfinite(b)
    places, inverse = np.unique(a[keep], return_inverse=True)
    sums = np.bincount(inverse, weights=b[keep], minlength=len(places))
    counts = np.bincount(inverse, minlength=len(places))
    return places, sums / np.maximum(counts, 1)


def _scalar(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise OutOfLimits(f"{what}: give a number")
    return float(value)


def measured_from(data: Mapping[str, Any]) -> Measured:
    """From the JSON of measured curves:

        {"name": .., "type": .., "tj": 25, "output": [{"vgs": 15, "vds": [..], "id": [..]}], "transfer": [{"vds": 20, "vgs": [..],
         "id": [..]}], "diode": [{"v": [..], "i": [..]}], "capacitance": {"f": 1e6, "c_iss": {"v": [..], "c": [..]}, ..}}

    Any of the sets may be missing. A diode curve that was taken at a VGS other than 0 is put aside, with a note. Raises OutOfLimits,
    saying which curve is wrong, when something cannot be read or nothing usable is left.
    """
    curves: list[Curve] = []
    notes: list[str] = []
    plan: tuple[tuple[Kind, str | None, str, str], ...] = (
        ("output", "vgs", "vds", "id"),
        ("transfer", "vds", "vgs", "id"),
        ("diode", None, "v", "i"),
    )
    for kind, at_key, x, y in plan:
        rows: Any = data.get(kind) or []
        if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
            raise OutOfLimits(f"{kind}: give a list of curves")
        for index, row in enumerate(cast("Sequence[Any]", rows)):
            what = f"{kind} curve {index + 1}"
            a, b = _pair(row, x, y, what)
            label = 0.0 if at_key is None else _scalar(cast("Mapping[str, Any]", row).get(at_key), f"{what} {at_key}")
            if kind == "diode" and (gate := cast("Mapping[str, Any]", row).get("vgs")) not in (None, 0):
                notes.append(f"{what} was taken at VGS = {gate} V and is put aside: the check is made at VGS = 0")
                continue
            if len(a) < 3 or float(np.abs(b).max(initial=0.0)) == 0.0:
                notes.append(f"{what} has fewer than three points or no current, and is put aside")
                continue
            curves.append(Curve(kind, label, a, b))
    if len(curves) > MAX_CURVES:
        raise OutOfLimits(
            f"{len(curves)} curves are more than {MAX_CURVES}; give those of one device at one temperature"
        )
    given_caps: Any = data.get("capacitance") or {}
    if not isinstance(given_caps, Mapping):
        raise OutOfLimits("capacitance: give an object with c_iss, c_oss, c_rss")
    caps: dict[str, CV] = {}
    cap = cast("Mapping[str, Any]", given_caps)
    for key in CAPACITANCES:
        if cap.get(key):
            v, c = _pair(cap[key], "v", "c", key)
            good = (c > 0) & (v >= 0)
            if np.count_nonzero(good) < 3:
                notes.append(f"{key} has fewer than three points above zero, and is put aside")
                continue
            caps[key] = CV(v[good], c[good])
    if not curves and not caps:
        raise OutOfLimits(
            "there is no usable curve; give at least one output, transfer, diode or capacitance curve of three points"
        )
    f_hz = _scalar(cap.get("f", 1e6), "capacitance f")
    if f_hz <= 0:
        raise OutOfLimits("capacitance f: give a frequency above 0")
    tj_c = _scalar(data.get("tj", 25), "tj")
    if not -200.0 <= tj_c <= 500.0:
        raise OutOfLimits("tj: give the junction temperature in °C, between -200 and 500")
    return Measured(
        str(data.get("name") or "DEVICE"), str(data.get("type") or ""), tj_c, tuple(curves), caps, f_hz, tuple(notes)
    )


def measured_json(measured: Measured) -> dict[str, Any]:
    """The inverse of `measured_from`."""
    out: dict[str, Any] = {"name": measured.name, "type": measured.device_type, "tj": measured.tj_c}
    for c in measured.curves:
        row: dict[str, Any] = {
            "output": {"vgs": c.at, "vds": c.x.tolist(), "id": c.y.tolist()},
            "transfer": {"vds": c.at, "vgs": c.x.tolist(), "id": c.y.tolist()},
            "diode": {"v": c.x.tolist(), "i": c.y.tolist()},
        }[c.kind]
        out.setdefault(c.kind, []).append(row)
    if measured.capacitances:
        out["capacitance"] = {"f": measured.f_hz} | {
            k: {"v": q.v.tolist(), "c": q.c.tolist()} for k, q in measured.capacitances.items()
        }
    return out


# --- forms -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    name: str
    unit: str
    low: float
    high: float
    text: str
    #: Fitted by its logarithm: a positive number of unknown size.
    log: bool = False


@dataclass(frozen=True)
class Facts:
    """What starting values are made from: the gate voltages seen (V), the largest current (A), the largest VDS (V), the slope at
    VDS = 0 of the strongest curve (S) and a first guess of the threshold (V)."""

    vg_low: float
    vg_high: float
    i_top: float
    v_top: float
    g_on: float
    vt: float

    @property
    def drive(self) -> float:
        return max(self.vg_high - self.vt, 0.3)


Uniform: TypeAlias = Callable[[float, float], float]
#: (values of the parameters, gate-source V, drain-source V >= 0) -> A. Arrays broadcast.
Channel: TypeAlias = Callable[[Floats, Floats, Floats], Floats]


@dataclass(frozen=True, eq=False)
class Form:
    """One model form. `lines` are the netlist between the nodes d (or di), g, s (or si), written with {names} of parameters."""

    name: str
    title: str
    parameters: tuple[Parameter, ...]
    current: Channel
    start: Callable[[Facts, Uniform], Sequence[float]]
    lines: tuple[str, ...]
    #: A MOS primitive of the simulator: mirrors itself, and its resistances are its own parameters.
    primitive: bool = False

    @property
    def low(self) -> Floats:
        return np.array([p.low for p in self.parameters])

    @property
    def high(self) -> Floats:
        return np.array([p.high for p in self.parameters])


def softplus(x: Floats) -> Floats:
    """ln(1 + e^x) without overflow; netlists have it written the same way, since a clipped exp went wrong by a quarter."""
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def _drive(vgs: Floats, vt: float, n: float) -> Floats:
    """Gate drive (V): softplus, but below the threshold it falls like a Gaussian. Soft curves of SiC need a turn-on of volts, whose
    exponential tail would leave the transistor half open at VGS = 0."""
    u = (vgs - vt) / n
    return n * softplus(u - TAIL * np.minimum(u, 0.0) ** 2) + DRIVE_FLOOR_V


def _sp(u: str) -> str:
    return f"(max({u},0)+ln(1+exp(-abs({u}))))"


def with_resistances(channel: Channel, p: Floats, rd: float, rs: float, vgs: Floats, vds: Floats) -> Floats:
    """The current through rd, the channel and rs in series: the root of f(vgs - i rs, vds - i (rd + rs)) = i.

    f rises with both voltages, so the root is unique and lies between 0 and f without resistances.
    """
    vgs, vds = np.broadcast_arrays(vgs, vds)
    total = rd + rs
    if total <= 0:
        return channel(p, vgs, vds)
    low, high = np.zeros(vds.shape), vds / total
    if rs >= 0:
        high = np.minimum(high, channel(p, vgs, vds))

    def above(i: Floats) -> Floats:
        return channel(p, vgs - i * rs, np.maximum(vds - i * total, 0.0)) - i

    # Illinois: regula falsi that halves the stuck end; a dozen rounds reach rounding error on these smooth functions.
    f_low, f_high = above(low), above(high)
    side = np.zeros(vds.shape)
    i = high
    for _ in range(60):
        step = f_low - f_high
        i = np.where(np.abs(step) > 1e-300, (f_low * high - f_high * low) / np.where(step == 0, 1.0, step), high)
        i = np.clip(np.nan_to_num(i), low, high)
        f = above(i)
        if float(np.max(np.abs(f), initial=0.0)) <= 1e-10 * float(np.max(i, initial=1e-6)):
            break
        up = f > 0
        low, high = np.where(up, i, low), np.where(up, high, i)
        new_low = np.where(up, f, np.where(side < 0, f_low / 2, f_low))
        new_high = np.where(up, np.where(side > 0, f_high / 2, f_high), f)
        f_low, f_high = new_low, new_high
        side = np.where(up, 1.0, -1.0)
    return i


def _level1(p: Floats, vgs: Floats, vds: Floats) -> Floats:
    vto, kp, lam = p[:3]
    over = np.maximum(vgs - vto, 0.0)
    v = np.minimum(vds, over)
    return kp * v * (over - v / 2) * (1 + lam * vds)


#: Level 3 is written for a channel of 100 µm by 100 µm, 600 cm²/Vs and 100 nm of oxide; these turn VMAX and ETA into volts.
_L3_VMAX_PER_V = 600e-4 / 100e-6
_L3_ETA_PER_SIGMA = 3.9 * 8.854214871e-12 / 1e-7 * (100e-6) ** 3 / 8.15e-22


def _level3(p: Floats, vgs: Floats, vds: Floats) -> Floats:
    vto, kp, theta, vc, sigma = p[:5]
    over = np.maximum(vgs - (vto - sigma * vds), 0.0)
    gate = 1.0 / (1.0 + theta * over)
    v_c = vc / gate
    sat = over + v_c - np.sqrt(over * over + v_c * v_c)
    v = np.minimum(vds, sat)
    return kp * gate * v * (over - v / 2) / (1 + v / v_c)


def _vdmos(p: Floats, vgs: Floats, vds: Floats, *, reverse: bool = False) -> Floats:
    vto, kp, lam, theta, ksub, mtriode = p[:6]
    over = ksub * softplus((vgs - vto) / ksub)
    v = np.minimum(vds * mtriode, over)
    # The simulator has theta times VGS, not times the overdrive; and in reverse, where `vgs` here is VGD, it goes on to take the
    # true VGS and the true, negative VDS.
    true_vgs, slope = (vgs - vds, 1 - lam * vds) if reverse else (vgs, 1 + lam * vds)
    return kp * v * (over - v / 2) * slope / np.maximum(1 + theta * true_vgs, 0.05)


def _ekv(p: Floats, vgs: Floats, vds: Floats) -> Floats:
    vt, n, k, theta, lam = p[:5]
    forward, backward = softplus((vgs - vt) / n), softplus((vgs - vt - vds) / n)
    return k * n * n * (forward**2 - backward**2) / (1 + theta * n * forward) * (1 + lam * vds) / 2


def _angelov(p: Floats, vgs: Floats, vds: Floats) -> Floats:
    ipk, vpk, p1, p2, p3, a0, a1, lam = p
    u = vgs - vpk
    swing = 1 + np.tanh(p1 * u + p2 * u * u + p3 * u * u * u)
    return ipk * swing * np.tanh((a0 + a1 * swing) * vds) * (1 + lam * vds)


def _vendor(p: Floats, vgs: Floats, vds: Floats) -> Floats:
    k, vt, n, x0, x1, c, lam = p
    return k * n * softplus((vgs - vt) / n) * vds / (1 + np.maximum(x0 + x1 * vgs, c) * vds) * (1 + lam * vds)


def _power_tanh(p: Floats, vgs: Floats, vds: Floats) -> Floats:
    vt, n, k, a, theta, v0, v1, lam = p
    g = _drive(vgs, vt, n)
    return k * g**a / (1 + theta * g) * np.tanh(vds / (v0 + v1 * g)) * (1 + lam * vds)


def _knee(p: Floats, vgs: Floats, vds: Floats) -> Floats:
    vt, n, k, a, r0, v0, v1, c, m, lam = p
    g = _drive(vgs, vt, n)
    on = 1.0 / (r0 + 1.0 / (k * g**a))
    rise = 1 + lam * vds / (1 + vds / RISE_END_V)
    return on * vds / (1 + (vds / (v0 + v1 * g**c)) ** m) ** (1 / m) * rise


def _quasi(p: Floats, vgs: Floats, vds: Floats) -> Floats:
    vt, n, k, a, v0, v1, c, m, r0, vd, q, s, lam = p
    g = _drive(vgs, vt, n)
    channel = k * g**a / (1 + (vds / (v0 + v1 * g**c)) ** m) ** (1 / m)
    drift = r0 * (1 + (vds / vd) ** q) ** (1 / q)
    return vds * channel / (1 + (channel * drift) ** s) ** (1 / s) * (1 + lam * vds / (1 + vds / RISE_END_V))


_VT = Parameter("vt", "V", -15.0, 20.0, "threshold")
_N = Parameter("n", "V", 0.02, 4.0, "width of the turn-on", log=True)
_LAMBDA = Parameter("lambda", "1/V", 0.0, 0.3, "rise of the saturated current")
_THETA = Parameter("theta", "1/V", 0.0, 5.0, "loss of mobility with gate drive")
_R = (
    Parameter("rd", "ohm", 1e-5, 50.0, "drain resistance", log=True),
    Parameter("rs", "ohm", 1e-6, 10.0, "source resistance", log=True),
)
_KP = Parameter("kp", "A/V^2", 1e-4, 1e5, "transconductance", log=True)
_VTO = Parameter("vto", "V", -15.0, 20.0, "threshold")


def _resistive(channel: Channel) -> Channel:
    """The last two parameters are resistances around the channel."""
    return lambda p, vgs, vds: with_resistances(channel, p, float(p[-2]), float(p[-1]), vgs, vds)


def _start_r(f: Facts, u: Uniform) -> tuple[float, float]:
    return u(0.05, 0.6) / f.g_on, u(0.003, 0.08) / f.g_on


def _start_kp(f: Facts, u: Uniform) -> float:
    return f.g_on / f.drive * u(1.0, 4.0)


def _start_vt(f: Facts, u: Uniform) -> float:
    return f.vt + u(-0.25, 0.35) * max(f.vg_high - f.vg_low, 1.0) * 0.5


_DRIVE_LINES = (
    "Bu u 0 V = (V(ge)-{vt})/{n}",
    f"Bt t 0 V = V(u)-{TAIL:g}*min(V(u),0)*min(V(u),0)",
    f"Bg gd 0 V = {{n}}*{_sp('V(t)')}+{DRIVE_FLOOR_V:g}",
)
#: The bulk is far below, where its junctions never conduct: the diode below carries the body's current. gamma = 0, so that the bulk
#: has no other effect.
_MOS = ("M1 d g s b ch w=100u l=100u", "Vb b s -5000")
_SAT = "(V(x)>=0?1:{kappa})"

FORMS: tuple[Form, ...] = (
    Form(
        "level1",
        "MOS level 1 with resistances",
        (_VTO, _KP, _LAMBDA, *_R),
        _resistive(_level1),
        lambda f, u: (_start_vt(f, u), _start_kp(f, u), u(0, 0.02), *_start_r(f, u)),
        (
            *_MOS,
            ".model ch nmos(level=1 vto={vto} kp={kp} lambda={lambda} rd={rd} rs={rs} is=1e-32 tnom={tnom})",
        ),
        primitive=True,
    ),
    Form(
        "level3",
        "MOS level 3 with resistances",
        (
            _VTO,
            _KP,
            _THETA,
            Parameter("vc", "V", 0.01, 1e4, "voltage of velocity saturation along the channel", log=True),
            Parameter("sigma", "1", 0.0, 0.1, "fall of the threshold with VDS"),
            *_R,
        ),
        _resistive(_level3),
        lambda f, u: (
            _start_vt(f, u),
            _start_kp(f, u),
            u(0, 0.1),
            f.drive * u(0.5, 8),
            u(0, 0.02),
            *_start_r(f, u),
        ),
        (
            *_MOS,
            f".model ch nmos(level=3 vto={{vto}} kp={{kp}} theta={{theta}} vmax={{vc*{_L3_VMAX_PER_V:.12g}}} eta={{sigma*{_L3_ETA_PER_SIGMA:.12g}}} u0=600 tox=1e-7"
            " gamma=0 phi=0.7 kappa=0 rd={rd} rs={rs} is=1e-32 tnom={tnom})",
        ),
        primitive=True,
    ),
    Form(
        "vdmos",
        "VDMOS",
        (
            _VTO,
            _KP,
            _LAMBDA,
            _THETA,
            Parameter("ksubthres", "V", 0.02, 2.0, "width of the turn-on", log=True),
            Parameter("mtriode", "1", 0.05, 4.0, "conductance of the triode region", log=True),
            *_R,
        ),
        _resistive(_vdmos),
        lambda f, u: (
            _start_vt(f, u),
            _start_kp(f, u),
            u(0, 0.02),
            u(0, 0.1),
            u(0.1, 0.5),
            u(0.3, 1.2),
            *_start_r(f, u),
        ),
        (
            "M1 d g s ch",
            # Its own diode is kept out of the way: the one below carries the body's current.
            ".model ch vdmos(vto={vto} kp={kp} lambda={lambda} theta={theta} ksubthres={ksubthres} mtriode={mtriode}"
            " rd={rd} rs={rs} is=1e-30 n=60 tnom={tnom})",
        ),
        primitive=True,
    ),
    Form(
        "ekv",
        "EKV-like: difference of two squared softplus, with resistances",
        (_VT, _N, Parameter("k", "A/V^2", 1e-4, 1e5, "transconductance", log=True), _THETA, _LAMBDA, *_R),
        _resistive(_ekv),
        lambda f, u: (
            _start_vt(f, u),
            u(0.2, 1.5),
            _start_kp(f, u),
            u(0, 0.1),
            u(0, 0.02),
            *_start_r(f, u),
        ),
        (
            "Rd d di {rd}",
            "Rs s si {rs}",
            "Bf uf 0 V = (V(ge)-{vt})/{n}",
            "Bb ub 0 V = (V(ge)-{vt}-abs(V(x)))/{n}",
            f"Bsf sf 0 V = {_sp('V(uf)')}",
            f"Bsb sb 0 V = {_sp('V(ub)')}",
            f"B1 di si I = (V(x)>=0?1:-1)*{_SAT}*{{k}}*{{n}}*{{n}}*(V(sf)*V(sf)-V(sb)*V(sb))/2"
            "/(1+{theta}*{n}*V(sf))*(1+{lambda}*abs(V(x)))",
        ),
    ),
    Form(
        "angelov",
        "Angelov",
        (
            Parameter("ipk", "A", 1e-3, 1e5, "current at the peak of transconductance", log=True),
            Parameter("vpk", "V", -15.0, 25.0, "gate voltage of that peak"),
            Parameter("p1", "1/V", 1e-3, 10.0, "slope of the gate characteristic", log=True),
            Parameter("p2", "1/V^2", -1.0, 1.0, "its curvature"),
            Parameter("p3", "1/V^3", 0.0, 0.5, "its third order"),
            Parameter("a0", "1/V", 1e-4, 20.0, "steepness of the knee", log=True),
            Parameter("a1", "1/V", -0.05, 20.0, "its rise with the gate"),
            _LAMBDA,
        ),
        _angelov,
        lambda f, u: (
            f.i_top * u(0.5, 2),
            f.vt + f.drive * u(0.2, 0.9),
            u(0.5, 3) / f.drive,
            u(-0.02, 0.02),
            u(0, 0.01),
            u(0.3, 3) * f.g_on / f.i_top / 2,
            u(0, 0.1),
            u(0, 0.02),
        ),
        (
            "Bu u 0 V = V(ge)-{vpk}",
            "Bw w 0 V = 1+tanh({p1}*V(u)+{p2}*V(u)*V(u)+{p3}*V(u)*V(u)*V(u))",
            f"B1 d s I = {_SAT}*{{ipk}}*V(w)*tanh(({{a0}}+{{a1}}*V(w))*V(x))*(1+{{lambda}}*abs(V(x)))",
        ),
    ),
    Form(
        "vendor",
        "softplus form of the makers",
        (
            Parameter("k", "S/V", 1e-4, 1e5, "conductance by gate drive", log=True),
            _VT,
            _N,
            Parameter("x0", "1/V", -10.0, 20.0, "saturation at VGS = 0"),
            Parameter("x1", "1/V^2", -5.0, 1.0, "its change with VGS"),
            Parameter("c", "1/V", 1e-4, 5.0, "least saturation", log=True),
            _LAMBDA,
        ),
        _vendor,
        lambda f, u: (
            f.g_on / f.drive * u(0.8, 1.6),
            _start_vt(f, u),
            u(0.2, 1.5),
            f.g_on / f.i_top * u(0.3, 2.5),
            -f.g_on / f.i_top / max(f.vg_high, 1.0) * u(0.0, 1.0),
            u(0.005, 0.1) * f.g_on / f.i_top,
            u(0, 0.02),
        ),
        (
            "Bu u 0 V = (V(ge)-{vt})/{n}",
            "Bc c 0 V = max({x0}+{x1}*V(ge),{c})",
            f"B1 d s I = {_SAT}*{{k}}*{{n}}*{_sp('V(u)')}*V(x)/(1+V(c)*abs(V(x)))*(1+{{lambda}}*abs(V(x)))",
        ),
    ),
    Form(
        "power_tanh",
        "power of softplus times tanh",
        (
            _VT,
            _N,
            Parameter("k", "A/V^a", 1e-5, 1e5, "transconductance", log=True),
            Parameter("a", "1", 0.5, 4.0, "power of the gate drive"),
            _THETA,
            Parameter("v0", "V", 1e-2, 100.0, "knee without gate drive", log=True),
            Parameter("v1", "1", 0.0, 20.0, "its rise with gate drive"),
            _LAMBDA,
        ),
        _power_tanh,
        lambda f, u: (
            _start_vt(f, u),
            u(0.2, 1.2),
            f.i_top / f.drive * u(0.3, 2),
            u(0.9, 2),
            u(0, 0.2),
            u(0.2, 2) * f.i_top / f.g_on,
            u(0.05, 1),
            u(0, 0.02),
        ),
        (
            *_DRIVE_LINES,
            f"B1 d s I = {_SAT}*{{k}}*pow(max(V(gd),{DRIVE_FLOOR_V:g}),{{a}})/(1+{{theta}}*V(gd))*tanh(V(x)/({{v0}}+{{v1}}*V(gd)))"
            "*(1+{lambda}*abs(V(x)))",
        ),
    ),
    Form(
        "knee",
        "on-resistance and a knee of free roundness",
        (
            _VT,
            _N,
            Parameter("k", "S/V^a", 1e-5, 1e4, "conductance of the channel", log=True),
            Parameter("a", "1", 0.5, 6.0, "power of the gate drive"),
            Parameter("r0", "ohm", 1e-6, 50.0, "resistance in series", log=True),
            Parameter("v0", "V", 0.02, 60.0, "knee without gate drive", log=True),
            Parameter("v1", "V^(1-c)", 1e-4, 30.0, "its rise with gate drive", log=True),
            Parameter("c", "1", 0.05, 4.0, "power of that rise"),
            Parameter("m", "1", 0.6, 8.0, "sharpness of the knee", log=True),
            Parameter("lambda", "1/V", -0.016, 0.3, "rise (or fall by self-heating) of the saturated current"),
        ),
        _knee,
        lambda f, u: (
            _start_vt(f, u),
            u(0.2, 1.2),
            f.g_on / f.drive * u(0.5, 3),
            u(0.8, 1.6),
            u(0.2, 0.8) / f.g_on,
            u(0.2, 2),
            u(0.1, 1) * f.i_top / f.g_on / f.drive + 0.05,
            u(0.5, 1.5),
            u(1, 3),
            u(0, 0.01),
        ),
        (
            *_DRIVE_LINES,
            # The simulator begins with all nodes at 0 V, where powers must be finite too; at VDS = 0 those with m < 1 as well.
            f"Bk vk 0 V = {{v0}}+{{v1}}*pow(max(V(gd),{DRIVE_FLOOR_V:g}),{{c}})",
            f"B1 d s I = {_SAT}*V(x)/({{r0}}+1/({{k}}*pow(max(V(gd),{DRIVE_FLOOR_V:g}),{{a}})))"
            "/pow(1+pow((abs(V(x))+1e-12)/max(V(vk),{v0}),{m}),1/{m})"
            f"*(1+{{lambda}}*abs(V(x))/(1+abs(V(x))/{RISE_END_V:g}))",
        ),
    ),
    Form(
        "quasi",
        "channel and drift region, each with a knee, in series (quasi-saturation)",
        (
            _VT,
            _N,
            Parameter("k", "S/V^a", 1e-5, 1e4, "conductance of the channel", log=True),
            Parameter("a", "1", 0.5, 6.0, "power of the gate drive"),
            Parameter("v0", "V", 0.02, 60.0, "knee of the channel without gate drive", log=True),
            Parameter("v1", "V^(1-c)", 1e-4, 30.0, "its rise with gate drive", log=True),
            Parameter("c", "1", 0.05, 4.0, "power of that rise"),
            Parameter("m", "1", 0.6, 12.0, "sharpness of the channel's knee", log=True),
            Parameter("r0", "ohm", 1e-6, 50.0, "resistance of the drift region", log=True),
            Parameter("vd", "V", 0.1, 1e3, "knee of the drift region", log=True),
            Parameter("q", "1", 0.6, 8.0, "its sharpness", log=True),
            Parameter("s", "1", 0.5, 12.0, "how sharply the one takes over from the other", log=True),
            Parameter("lambda", "1/V", -0.016, 0.3, "rise (or fall by self-heating) of the saturated current"),
        ),
        _quasi,
        lambda f, u: (
            _start_vt(f, u),
            u(0.1, 0.8),
            f.g_on / f.drive * u(0.5, 4),
            u(0.8, 2),
            u(0.2, 2),
            u(0.1, 1),
            u(0.5, 1.5),
            u(1, 4),
            u(0.4, 1.0) / f.g_on,
            u(0.3, 1.5) * f.v_top,
            u(1, 3),
            u(1, 3),
            u(0, 0.01),
        ),
        (
            *_DRIVE_LINES,
            f"Bk vk 0 V = {{v0}}+{{v1}}*pow(max(V(gd),{DRIVE_FLOOR_V:g}),{{c}})",
            f"Bh hc 0 V = {{k}}*pow(max(V(gd),{DRIVE_FLOOR_V:g}),{{a}})"
            "/pow(1+pow((abs(V(x))+1e-12)/max(V(vk),{v0}),{m}),1/{m})",
            "Br hd 0 V = {r0}*pow(1+pow((abs(V(x))+1e-12)/{vd},{q}),1/{q})",
            f"B1 d s I = {_SAT}*V(x)*V(hc)/pow(1+pow(max(V(hc)*V(hd),1e-30),{{s}}),1/{{s}})"
            f"*(1+{{lambda}}*abs(V(x))/(1+abs(V(x))/{RISE_END_V:g}))",
        ),
    ),
)


def form_named(name: str) -> Form:
    for form in FORMS:
        if form.name == name:
            return form
    raise OutOfLimits(f"there is no form {name}; take one of {', '.join(f.name for f in FORMS)}")


# --- third quadrant, diode -------------------------------------------------------------------------------------------

REVERSE = (
    Parameter("beta", "1", 0.0, 1.0, "how far VSD drives the gate in reverse"),
    Parameter("kappa", "1", 0.05, 20.0, "stretch of the knee in reverse", log=True),
)
#: ngspice takes an IS below 1e-28 A for 1e-28 A.
DIODE = (
    Parameter("is", "A", 1e-26, 1e-2, "saturation current of the diode", log=True),
    Parameter("nd", "1", 0.5, 20.0, "emission coefficient", log=True),
    Parameter("rsd", "ohm", 1e-6, 1e3, "series resistance of the diode", log=True),
)
#: A diode whose current bends more than a resistance allows: i = k * (n softplus((v - v0)/n))^a.
DIODE_POWER = (
    Parameter("v0", "V", -1.0, 10.0, "knee of the diode"),
    Parameter("nv", "V", 0.005, 2.0, "width of its turn-on", log=True),
    Parameter("kd", "A/V^a", 1e-6, 1e6, "conductance", log=True),
    Parameter("ad", "1", 0.3, 4.0, "power of the voltage above the knee"),
)


def thermal_v(tj_c: float) -> float:
    return BOLTZMANN_V_PER_K * (tj_c + 273.15)


def diode_current(p: Floats, v: Floats, tj_c: float) -> Floats:
    """Current (A) of a junction with series resistance at v (V), exact: y + ln y = z is solved by Newton in w = ln y."""
    i_s, n, rs = (float(q) for q in p)
    vt = n * thermal_v(tj_c)
    z = math.log(i_s * rs / vt) + (v + i_s * rs) / vt
    # Both starts lie above the root of a convex function, so Newton comes down to it and never overshoots.
    w = np.where(z > 1.0, np.log(np.maximum(z, 1.0)), z)
    for _ in range(12):
        e = np.exp(w)
        w = w - (e + w - z) / (e + 1.0)
    return np.exp(w) * vt / rs - i_s


def diode_power_current(p: Floats, v: Floats) -> Floats:
    v0, n, k, a = (float(q) for q in p)
    return k * (n * softplus((v - v0) / n) + DRIVE_FLOOR_V) ** a * (v > 0)


def mirrored(form: Form, p: Floats, beta: float, kappa: float, vgs: Floats, vsd: Floats) -> Floats:
    """Magnitude of the channel's reverse current (A) at VSD >= 0."""
    if form.primitive:
        # Drain and source change places, and their resistances with them.
        swapped = np.concatenate([p[:-2], p[:-3:-1]])
        if form.name == "vdmos":
            channel = partial(_vdmos, reverse=True)
            return with_resistances(channel, p, float(p[-1]), float(p[-2]), vgs + vsd, vsd)
        return form.current(swapped, vgs + vsd, vsd)
    if form.name == "ekv":
        # Its resistances are outside: the inner channel sees what they leave, and the one at the source now lifts VGS.
        def inner(q: Floats, vg: Floats, v: Floats) -> Floats:
            return kappa * _ekv(q, vg + beta * v, v / kappa)

        rd, rs = float(p[-2]), float(p[-1])
        return with_resistances(inner, p, rd + 2 * rs, -rs, vgs, vsd)
    return kappa * form.current(p, vgs + beta * vsd, vsd / kappa)


# --- capacitances ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cap:
    """C(v) = floor + sum of c/(1+v/vj)^m + falling steps + rising steps for v >= 0, and C(0) below."""

    floor: float
    powers: tuple[tuple[float, float, float], ...] = ()
    falls: tuple[tuple[float, float, float], ...] = ()
    rises: tuple[tuple[float, float, float], ...] = ()

    def c(self, v: Floats) -> Floats:
        """F at v (V)."""
        v = np.maximum(v, 0.0)
        out = np.full(v.shape, self.floor)
        for c, vj, m in self.powers:
            out = out + c * (1 + v / vj) ** -m
        for c, v0, w in self.falls:
            out = out + c / (1 + np.exp(np.clip((v - v0) / w, -700, 700)))
        for c, v0, w in self.rises:
            out = out + c / (1 + np.exp(np.clip((v0 - v) / w, -700, 700)))
        return out

    def expression(self, v: str) -> str:
        """C in F as text over the voltage `v`, such as `V(d,g)`."""
        at = f"max({v},0)"
        terms = [f"{self.floor:.9g}"]
        terms += [f"{c:.9g}*pow(1+{at}/{vj:.9g},{-m:.9g})" for c, vj, m in self.powers]
        # A logistic step as tanh, which overflows nowhere.
        terms += [f"{c / 2:.9g}*(1-tanh(({at}-{v0:.9g})/{2 * w:.9g}))" for c, v0, w in self.falls]
        terms += [f"{c / 2:.9g}*(1+tanh(({at}-{v0:.9g})/{2 * w:.9g}))" for c, v0, w in self.rises]
        return "+".join(terms)


@dataclass(frozen=True)
class Capacitances:
    """cgd over VDG, cds over VDS, and Cgs = cgs0 + cgs1 v/(v + cgs_v) over v = VDS; a part that was not measured is None."""

    cgd: Cap | None = None
    cds: Cap | None = None
    cgs0: float | None = None
    cgs1: float = 0.0
    cgs_v: float = 1.0

    def curves(self, v: Floats) -> dict[str, Floats]:
        """c_iss, c_oss, c_rss (F) over VDS at VGS = 0, as far as they follow from the parts."""
        rss = self.cgd.c(v) if self.cgd else np.zeros(v.shape)
        out: dict[str, Floats] = {}
        if self.cgd:
            out["c_rss"] = rss
        if self.cds:
            out["c_oss"] = rss + self.cds.c(v)
        if self.cgs0 is not None:
            out["c_iss"] = rss + self.cgs0 + self.cgs1 * v / (v + self.cgs_v)
        return out


# --- model, netlist --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Model:
    """A form with its values; a transistor has a form, a diode part has none and is one of the two diode forms."""

    form: Form | None
    values: Floats
    beta: float = 1.0
    kappa: float = 1.0
    diode: Floats | None = None
    diode_power: Floats | None = None
    capacitances: Capacitances = Capacitances()
    tj_c: float = 25.0

    @property
    def form_name(self) -> str:
        if self.form is not None:
            return self.form.name
        return "diode_power" if self.diode_power is not None else "diode"

    @property
    def size(self) -> int:
        """Number of values that were fitted to currents."""
        return len(self.values) + (3 if self.diode is not None else 0) + (4 if self.diode_power is not None else 0)

    def junction(self, v: Floats) -> Floats:
        if self.diode_power is not None:
            return diode_power_current(self.diode_power, v)
        return diode_current(self.diode, v, self.tj_c) if self.diode is not None else np.zeros(v.shape)

    def current(self, vgs: Floats, vds: Floats) -> Floats:
        """Drain current (A) in the first and third quadrant; of a diode part, its current at vds = its voltage."""
        vgs, vds = np.broadcast_arrays(np.asarray(vgs, float), np.asarray(vds, float))
        if self.form is None:
            return self.junction(vds)
        out = np.zeros(vds.shape)
        up, down = vds >= 0, vds < 0
        if up.any():
            out[up] = self.form.current(self.values, vgs[up], vds[up])
        if down.any():
            vsd = -vds[down]
            reverse = mirrored(self.form, self.values, self.beta, self.kappa, vgs[down], vsd)
            out[down] = -reverse - self.junction(vsd)
        return out

    def on(self, curve: Curve) -> Floats:
        """The model's y at the places of a measured curve."""
        if curve.kind == "transfer":
            return self.current(curve.x, np.full(curve.x.shape, curve.at))
        if curve.kind == "diode":
            return self.current(np.zeros(1), curve.x) if self.form is None else -self.current(np.zeros(1), -curve.x)
        return self.current(np.full(curve.x.shape, curve.at), curve.x)

    def parameters(self) -> list[tuple[Parameter, float]]:
        """Each with its value, as they stand in the netlist."""
        out: list[tuple[Parameter, float]] = []
        if self.form is not None:
            out += [(p, float(v)) for p, v in zip(self.form.parameters, self.values, strict=True)]
            if not self.form.primitive:
                out += [(REVERSE[0], self.beta), (REVERSE[1], self.kappa)]
        if self.diode is not None:
            out += [(p, float(v)) for p, v in zip(DIODE, self.diode, strict=True)]
        if self.diode_power is not None:
            out += [(p, float(v)) for p, v in zip(DIODE_POWER, self.diode_power, strict=True)]
        return out


def spice_name(name: str) -> str:
    """A name that a simulator takes: letters, digits and _, not beginning with a digit."""
    word = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")[:48] or "DEVICE"
    return word if word[0].isalpha() else f"X_{word}"


def _capacitance_lines(tag: str, a: str, b: str, c: str) -> list[str]:
    """i = C(v) dv/dt: a copy of the voltage lies on a constant 1 pF, and its current, times C/1 pF, flows between the two nodes.

    A copy of the *charge* on a constant capacitor conserves charge exactly, but its steps make ngspice shorten the time step until it
    gives up, for two of eight real devices before anything was switched; this got through with all of them.
    """
    return [
        f"E{tag} q{tag} 0 {a} {b} 1",
        f"C{tag} q{tag} w{tag} 1p",
        f"V{tag} w{tag} 0 0",
        f"B{tag} {a} {b} I = I(V{tag})*1e12*({c})",
    ]


def netlist(model: Model, name: str, header: Sequence[str] = ()) -> str:
    """The text of a `.lib` with one subcircuit: pins `d g s`, or `a k` of a diode. `header` becomes comment lines."""
    lines = ["* " + re.sub(r"[^\x20-\x7e]", "?", line) for line in header]
    name = spice_name(name)
    pairs = model.parameters()
    lines += ["*", "* parameters"]
    lines += [f"*   {p.name:<10} = {v:<16.9g} {p.unit:<8} {p.text}" for p, v in pairs]
    lines.append(f".subckt {name} {'a k' if model.form is None else 'd g s'}")
    # Names of ours may be words of the simulator (`is`, `lambda`, `c`), so values stand in the text and not in .param lines.
    known = {p.name: f"{v:.12g}" for p, v in pairs} | {"tnom": f"{model.tj_c:g}"}

    def filled(line: str) -> str:
        def value(match: re.Match[str]) -> str:
            word, _, factor = match.group(1).partition("*")
            return f"{float(known[word]) * float(factor):.12g}" if factor else f"({known[word]})"

        # Values go into parentheses, for signs, except in .model and R lines, which take plain numbers.
        text = re.sub(r"\{([^}]+)\}", value, line)
        return re.sub(r"\(([-+0-9.e]+)\)", r"\1", text) if line[0] in ".R" else text

    if model.form is not None:
        form = model.form
        if not form.primitive:
            a, b = ("di", "si") if form.name == "ekv" else ("d", "s")
            lines.append(filled(f"Bge ge 0 V = V(g,{b})+{{beta}}*max(-V({a},{b}),0)"))
            lines.append(filled(f"Bx x 0 V = V({a},{b})>=0?V({a},{b}):V({a},{b})/{{kappa}}"))
        lines += [filled(line) for line in form.lines]
        lines.append("Rleak g s 1e12")
    a, b = ("a", "k") if model.form is None else ("s", "d")
    if model.diode_power is not None:
        lines.append(filled(f"Bdu du 0 V = (V({a},{b})-{{v0}})/{{nv}}"))
        power = f"{{kd}}*pow({{nv}}*{_sp('V(du)')}+{DRIVE_FLOOR_V:g},{{ad}})"
        lines.append(filled(f"Bd1 {a} {b} I = V({a},{b})>0?{power}:0"))
    elif model.diode is not None:
        lines.append(f"D1 {a} {b} body")
        lines.append(filled(".model body d(is={is} n={nd} rs={rsd} tnom={tnom})"))
    caps = model.capacitances
    if model.form is not None or caps != Capacitances():
        if caps.cgd:
            lines += _capacitance_lines("gd", "d", "g", caps.cgd.expression("V(d,g)"))
        if caps.cds:
            lines += _capacitance_lines("ds", "d", "s", caps.cds.expression("V(d,s)"))
        if caps.cgs0 is not None:
            vary = f"+{caps.cgs1:.9g}*max(V(d,s),0)/(max(V(d,s),0)+{caps.cgs_v:.9g})" if caps.cgs1 else ""
            lines += (
                _capacitance_lines("gs", "g", "s", f"{caps.cgs0:.9g}{vary}") if vary else [f"Cgs g s {caps.cgs0:.9g}"]
            )
    lines.append(f".ends {name}")
    return "\n".join(lines) + "\n"


# --- error, grade ----------------------------------------------------------------------------------------------------


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


# --- physics ---------------------------------------------------------------------------------------------------------


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


def gate_span(measured: Measured) -> tuple[float, float] | None:
    """Lowest and highest VGS of the curves, or None when there is none."""
    gates = [c.at for c in measured.of("output")]
    for c in measured.of("transfer"):
        gates += [float(c.x[0]), float(c.x[-1])]
    return (min(gates), max(gates)) if gates else None


def facts_of(measured: Measured) -> Facts:
    """First numbers for starting values; raises OutOfLimits without output and transfer curves."""
    span = gate_span(measured)
    if span is None:
        raise OutOfLimits("there is neither an output nor a transfer curve; a channel cannot be fitted")
    output, transfer = measured.of("output"), measured.of("transfer")
    i_top = max(c.top for c in (*output, *transfer))
    v_top = max([float(c.x[-1]) for c in output] + [c.at for c in transfer])
    g_on = i_top / max(v_top, 1e-3)
    for c in output:
        near = (c.x > 0) & (c.y > 0.03 * c.top) & (c.y < 0.45 * c.top)
        if not near.any():
            near = c.x > 0
        if near.any():
            g_on = max(g_on, float(np.median(c.y[near] / c.x[near])))
    pairs: list[tuple[float, float]] = []
    if len(output) >= 2:
        v = 0.8 * min(float(c.x[-1]) for c in output)
        pairs = [(c.at, float(np.interp(v, c.x, c.y))) for c in sorted(output, key=lambda c: c.at)]
    for c in transfer:
        pairs += [
            (float(a), float(b))
            for a, b in zip(c.x[:: max(1, len(c.x) // 12)], c.y[:: max(1, len(c.x) // 12)], strict=True)
        ]
    vt = span[0] - 0.2 * max(span[1] - span[0], 1.0)
    # sqrt(I) is a straight line over VGS near the threshold; the weakest pair with current tells where it ends.
    weak = sorted((g, math.sqrt(i)) for g, i in pairs if i > 0.002 * i_top)
    for (g0, s0), (g1, s1) in pairwise(weak):
        if g1 > g0 and s1 > s0 * 1.05:
            vt = max(g0 - s0 * (g1 - g0) / (s1 - s0), span[0] - 6.0)
            break
    return Facts(span[0], span[1], i_top, v_top, g_on, float(np.clip(vt, -14.0, 19.0)))
