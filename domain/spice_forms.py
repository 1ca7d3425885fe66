"""The forms of a transistor's channel: smooth functions ID(VGS, VDS) with parameters that have bounds and units.

The same formula stands twice: as numpy, for the fit, and as lines of a netlist. The two agree to about 1e-5, and a test holds them
to it; but a model is *judged* by its simulated netlist only, because a formula that looks the same may still clip, diverge or be read
differently by the simulator.

**Quadrants.** Behavioural forms f(VG, V) are given for V >= 0. For VDS < 0 they are mirrored: the drain takes the place of the
source, so that the gate drive grows by beta*VSD (beta = 1 for a symmetric device, less where a field plate or a body shields
the drain), and the knee lies at kappa times the voltage. Current and slope are continuous at VDS = 0. Forms that are MOS primitives
of the simulator mirror themselves.

Units: V, A, ohm.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from domain.errors import OutOfLimits
from domain.spice_curves import Floats

#: Keeps powers of the gate drive and their derivatives finite in the simulator far below the threshold, V.
DRIVE_FLOOR_V = 1e-12
#: How fast the gate drive falls below the threshold, beyond the exponential.
TAIL = 0.5
#: Where the rise (or, by self-heating, fall) of the saturated current of the knee form levels off, so that it stays above zero at any
#: VDS, V.
RISE_END_V = 60.0


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


def softplus_text(u: str) -> str:
    """`softplus` as a netlist has it."""
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
    f"Bg gd 0 V = {{n}}*{softplus_text('V(t)')}+{DRIVE_FLOOR_V:g}",
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
            f"Bsf sf 0 V = {softplus_text('V(uf)')}",
            f"Bsb sb 0 V = {softplus_text('V(ub)')}",
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
            f"B1 d s I = {_SAT}*{{k}}*{{n}}*{softplus_text('V(u)')}*V(x)/(1+V(c)*abs(V(x)))*(1+{{lambda}}*abs(V(x)))",
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
