"""The geometry of a way, N x 2 points in the order of drawing: its length, parts, shape."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from adapters.curves.kit import gaussian_along
from adapters.curves.shapes import Floats, Mask

T = TypeVar("T", bound=np.generic)


def arc(points: Floats) -> float:
    return float(np.hypot(*np.diff(points, axis=0).T).sum()) if len(points) > 1 else 0.0


def thin(points: Floats, step: float) -> Floats:
    if len(points) < 3:
        return points
    return evenly(points, max(2, int(arc(points) / step) + 1))


def evenly(points: Floats, count: int) -> Floats:
    """So many points along a way at equal distances."""
    along = np.r_[0.0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    at = np.linspace(0.0, float(along[-1]), count)
    return np.column_stack([np.interp(at, along, points[:, k]) for k in (0, 1)])


def smooth(points: Floats, sigma: float) -> Floats:
    """Even steps along the way, the staircase of pixels rounded off; the ends stay."""
    even = thin(points, 1.0)
    if len(even) < 8:
        return even
    out = gaussian_along(even, min(sigma, len(even) / 8))
    out[0], out[-1] = even[0], even[-1]
    return out


def last_part(points: Floats, length: float) -> Floats:
    steps = np.hypot(*np.diff(points, axis=0).T) if len(points) > 1 else np.zeros(0)
    back = np.r_[0, np.cumsum(steps[::-1])]
    return points[len(points) - int(np.searchsorted(back, length, side="right")) :]


def unevenness(before: Floats, after: Floats) -> float:
    """How badly one smooth curve fits what was before and what is after a shared stretch: the residual in pixels."""
    a, b = before[:: max(1, len(before) // 20)], after[:: max(1, len(after) // 20)]
    points = np.concatenate([a, b])
    s = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    t = 2 * s / max(float(s[-1]), 1e-9) - 1
    basis = np.vander(t, 4)
    solution, *_ = np.linalg.lstsq(basis, points, rcond=None)
    return float(np.sqrt(((points - basis @ solution) ** 2).sum(axis=1).mean()))


def longest_run(points: Floats, keep: Mask) -> Floats:
    where = np.nonzero(keep)[0]
    if len(where) == 0:
        return points[:0]
    runs = np.split(where, np.nonzero(np.diff(where) > 3)[0] + 1)
    best = max(runs, key=len)
    return points[best[0] : best[-1] + 1]


def straight(points: Floats) -> float:
    """Largest distance from the chord, in pixels."""
    d = points[-1] - points[0]
    n = float(np.hypot(*d))
    if n < 1:
        return 0.0
    r = points - points[0]
    return float(np.abs(r[:, 0] * d[1] - r[:, 1] * d[0]).max() / n)


def plumb(points: Floats, flat: float) -> bool:
    """True for an upright line: no quantity has all values at one place. Its ends may lean on other ink."""
    low, high = np.percentile(points[:, 0], (5, 95))
    return float(high - low) <= 2 * flat and float(np.ptp(points[:, 1])) > float(np.ptp(points[:, 0]))


def curls(points: Floats) -> bool:
    """True for a way that winds about in one spot, as letters do: it is much longer than the place that it takes up."""
    span = np.ptp(points, axis=0)
    return len(points) > 3 and arc(points) > 1.8 * float(span.sum())


def hermite(p: Floats, q: Floats, leave: Floats, back: Floats) -> Floats:
    """A smooth way from p, leaving along `leave`, to q, whose own stroke ends along `back`."""
    gap = float(np.hypot(*(q - p)))
    n = max(3, int(gap / 2) + 1)
    t = np.linspace(0, 1, n)[:, None]
    u = (q - p) / max(gap, 1e-9)
    m0 = (leave if leave.any() else u) * gap
    m1 = (-back if back.any() else u) * gap
    return (2 * t**3 - 3 * t**2 + 1) * p + (t**3 - 2 * t**2 + t) * m0 + (-2 * t**3 + 3 * t**2) * q + (t**3 - t**2) * m1


def seen_through(layer_hidden: Mask, a: Floats, b: Floats) -> float:
    """The part of the straight way from a to b that is hidden under grid, text or other curves."""
    n = max(2, int(np.hypot(*(b - a))))
    xs = np.clip(np.round(np.linspace(float(a[0]), float(b[0]), n)).astype(int), 0, layer_hidden.shape[1] - 1)
    ys = np.clip(np.round(np.linspace(float(a[1]), float(b[1]), n)).astype(int), 0, layer_hidden.shape[0] - 1)
    return float(layer_hidden[ys, xs].mean())


def at_points(values: NDArray[T], points: Floats) -> NDArray[T]:
    """What an array has under points (x, y in the last axis); beyond the border it goes on as at the border."""
    at = np.rint(points).astype(np.int64)
    return values[np.clip(at[..., 1], 0, values.shape[0] - 1), np.clip(at[..., 0], 0, values.shape[1] - 1)]


def at_border(point: Floats, wide: int, high: int) -> bool:
    rim = max(6.0, 0.015 * max(wide, high))
    return bool(point[0] < rim or point[1] < rim or point[0] > wide - 1 - rim or point[1] > high - 1 - rim)
