"""Models of transistors and diodes for a circuit simulator: a form of the channel with its values, diode and capacitances.

    measured curves -> (a fit, outside) -> Model -> netlist -> simulated -> grade
    spice_curves       spice_starts                 spice_netlist         spice_grade

The body diode lies in parallel to the channel (spice_forms.py).

**Capacitances** are smooth functions C(V). Crss is Cgd, Coss = Cds + Cgd and Ciss = Cgs + Cgd, all at VGS = 0; each part is positive,
hence Coss >= Crss and Ciss >= Crss always. Each depends on its own voltage alone (Cgs, a little, on VDS).

Units: V, A, ohm, F, °C.
"""

import math
from dataclasses import dataclass

import numpy as np

from domain.spice_curves import Curve, Floats
from domain.spice_forms import DRIVE_FLOOR_V, Form, Parameter, mirrored, softplus

#: k/q, V per kelvin.
BOLTZMANN_V_PER_K = 8.617333262e-5

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
