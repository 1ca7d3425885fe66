"""The order in which physics puts curves of one kind, where their names and the axes' titles say which kind they are.

It tells curves apart that look alike, and which of several curves near a label is meant. Where a law does not surely hold
nothing is said.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from adapters.curves.shapes import Floats, Path

NUMBER = r"([+-]?\d+(?:\.\d+)?)"
GATE = re.compile(rf"^\|?v?_?g[s5]?\|?={NUMBER}v$", re.IGNORECASE)
VOLTS = re.compile(rf"^{NUMBER}v$", re.IGNORECASE)
DRAIN = re.compile(rf"^\|?v_?d[sd]?\|?={NUMBER}v$", re.IGNORECASE)
KELVINS = re.compile(rf"^(?:t_?[a-z]{{0,4}}=)?{NUMBER}°?[ck]$", re.IGNORECASE)
DUTY = re.compile(rf"^d={NUMBER}$", re.IGNORECASE)
CAPACITANCES = {"crss": 0.0, "cgd": 0.0, "coss": 1.0, "ciss": 2.0}
"""Their order at the right end of a capacitance chart, from below."""

CURRENT = re.compile(r"current|\bi_?[dfcs]{1,2}\b|[(\[](?:m|µ|u|k)?a[)\]]", re.IGNORECASE)
RESISTANCE = re.compile(r"resistance|r_?ds|ohm|Ω", re.IGNORECASE)
GATE_OR_FORWARD = re.compile(r"gate|forward|diode|source.*drain|v_?gs|v_?f\b|v_?sd", re.IGNORECASE)
DRAIN_VOLTAGE = re.compile(r"drain.*source|v_?ds", re.IGNORECASE)
CHARGE = re.compile(r"charge|\bq_?g|\bnc\b|[(\[][nµu]c[)\]]", re.IGNORECASE)


@dataclass(frozen=True)
class Law:
    """Curves whose names all match, with values `value`, between axes whose titles match, rise with their value in `places`."""

    value: Callable[[str], float | None]
    x: Callable[[str], bool]
    y: Callable[[str], bool]
    places: Callable[[Sequence[Path]], Floats | None]


def number(pattern: re.Pattern[str]) -> Callable[[str], float | None]:
    def value(name: str) -> float | None:
        found = pattern.match(name)
        return float(found[1]) if found else None

    return value


def duty(name: str) -> float | None:
    return 0.0 if name.lower().startswith("single") else number(DUTY)(name)


def any_title(_: str) -> bool:
    return True


def is_current(title: str) -> bool:
    return bool(CURRENT.search(title)) and not RESISTANCE.search(title)


def heights(paths: Sequence[Path], share: float) -> Floats:
    """How high each path lies at a column: `share` of the way from where all have begun to where the first ends."""
    left = max(float(p.points[:, 0].min()) for p in paths)
    right = min(float(p.points[:, 0].max()) for p in paths)
    at = left + share * (right - left)
    return np.array([-float(p.points[np.abs(p.points[:, 0] - at).argmin(), 1]) for p in paths])


def at_right(paths: Sequence[Path]) -> Floats:
    return heights(paths, 1.0)


def at_left(paths: Sequence[Path]) -> Floats:
    return heights(paths, 0.0)


def columns(paths: Sequence[Path], level: float) -> Floats:
    """Where each path is at a height."""
    return np.array([float(p.points[np.abs(p.points[:, 1] - level).argmin(), 0]) for p in paths])


def at_foot(paths: Sequence[Path]) -> Floats | None:
    """How far left each path lies just above its foot, where they first part; None where they do not, for curves cross higher up."""
    low = min(float(p.points[:, 1].max()) for p in paths)
    high = min(float(p.points[:, 1].min()) for p in paths)
    wide = max(float(p.points[:, 0].max()) for p in paths) - min(float(p.points[:, 0].min()) for p in paths)
    for share in np.arange(0.02, 0.25, 0.01):
        found = columns(paths, low - share * (low - high))
        if float(np.diff(np.sort(found)).min()) > 0.004 * wide:
            return -found
    return None


def at_top(paths: Sequence[Path]) -> Floats:
    """How far right each path lies just below where the first of them ends."""
    low = min(float(p.points[:, 1].max()) for p in paths)
    high = max(float(p.points[:, 1].min()) for p in paths)
    return columns(paths, high + 0.05 * (low - high))


LAWS = (
    # More gate voltage, more current. (But less resistance.)
    Law(number(GATE), any_title, lambda y: not y or is_current(y), at_right),
    Law(
        number(VOLTS),
        lambda x: bool(DRAIN_VOLTAGE.search(x)) and not GATE_OR_FORWARD.search(x),
        is_current,
        at_right,
    ),
    Law(lambda name: CAPACITANCES.get(name.lower()), any_title, any_title, at_right),
    # A longer pulse of the same power heats more: at the left, where the pulses are short.
    Law(duty, any_title, any_title, at_left),
    # Hot silicon conducts earlier; at high currents its resistance may turn that round.
    Law(number(KELVINS), lambda x: bool(GATE_OR_FORWARD.search(x)), is_current, at_foot),
    # The higher the drain, the more charge until the gate goes on rising.
    Law(number(DRAIN), lambda x: bool(CHARGE.search(x)), any_title, at_top),
)


@dataclass(frozen=True)
class Order:
    """Values of names and places of paths that rise together."""

    values: tuple[float, ...]
    places: tuple[float, ...]


def order_of(names: Sequence[str], paths: Sequence[Path], x: str, y: str) -> Order | None:
    """What physics says about paths that have these names, between axes of these titles; None where it says nothing."""
    if len(names) < 2 or len(paths) < 2:
        return None
    plain = [re.sub(r"\s", "", n) for n in names]
    for law in LAWS:
        values = [v for n in plain if (v := law.value(n)) is not None]
        if len(values) == len(names) and len(set(values)) == len(values) and law.x(x) and law.y(y):
            places = law.places(paths)
            return None if places is None else Order(tuple(values), tuple(float(p) for p in places))
    return None
