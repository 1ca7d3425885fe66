"""Measured curves of a transistor or a diode, cleaned: what models are fitted to and judged by.

Units: V, A, F, °C.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from domain.errors import OutOfLimits

Floats: TypeAlias = NDArray[np.float64]
Kind: TypeAlias = Literal["output", "transfer", "diode"]

MAX_CURVES = 200
MAX_POINTS = 20_000
CAPACITANCES = ("c_iss", "c_oss", "c_rss")


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


def gate_span(measured: Measured) -> tuple[float, float] | None:
    """Lowest and highest VGS of the curves, or None when there is none."""
    gates = [c.at for c in measured.of("output")]
    for c in measured.of("transfer"):
        gates += [float(c.x[0]), float(c.x[-1])]
    return (min(gates), max(gates)) if gates else None
