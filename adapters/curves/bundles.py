"""Curves that run so close together that their strokes are one strip of ink.

Inside a strip nothing tells one curve from the next. But curves of one family keep their order: as they come out of the strip, so
they lie in it, side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from adapters.curves.ends import to_border
from adapters.curves.ink import Layer
from adapters.curves.kit import connected, gaussian_along
from adapters.curves.shapes import Floats, Ints, Mask, Path
from adapters.curves.ways import arc, at_points


@dataclass(frozen=True)
class Member:
    """A way through a strip, turned so that `u` rises along it. `u` is x where the strip is wider than high, else y; `v` the other."""

    path: int
    way: Floats
    """N x 2 of (u, v), in pixels of the layer."""
    first: int
    last: int
    """The first and the last point that lie inside the strip."""

    @property
    def ends(self) -> tuple[float, float]:
        return float(self.way[self.first, 0]), float(self.way[self.last, 0])

    def across(self, u: Floats) -> Floats:
        """Its `v` at places along the strip; NaN where it is not there."""
        order = np.argsort(self.way[:, 0], kind="stable")
        return np.asarray(np.interp(u, self.way[order, 0], self.way[order, 1], left=np.nan, right=np.nan), np.float64)


def side_by_side(paths: Sequence[Path], strip: Mask, layer: Layer) -> list[Path]:
    """The paths, laid side by side where several of them go through one strip, in the order in which they are outside of it.

    Where paths cross inside a strip all of it stays as it is.
    """
    out, origin, thick = list(paths), np.array(layer.origin, np.float64), layer.thick
    if len(paths) < 2 or not strip.any():
        return out
    count, labels, stats, _ = connected(strip)
    depth = np.asarray(cv2.distanceTransform(layer.mask.astype(np.uint8), cv2.DIST_L2, 3), np.float64)
    for k in range(1, count):
        upright = int(stats[k, 3]) > int(stats[k, 2])
        part, own = labels == k, depth
        if upright:
            part, own = np.ascontiguousarray(part.T), np.ascontiguousarray(depth.T)
        ways = [p.points - origin for p in out]
        members = [m for i, way in enumerate(ways) if (m := member(i, way[:, ::-1] if upright else way, part, thick))]
        order = in_order(members, own, thick)
        if order is None:
            continue
        for m, way in zip(order, laid(order, part, thick), strict=True):
            way = way[:, ::-1] if upright else way
            out[m.path] = replace(out[m.path], points=to_border(way, layer) + origin)
    return out


def member(path: int, way: Floats, part: Mask, thick: float) -> Member | None:
    """The way as a member of the strip `part`, if it goes through it for some length."""
    if way[-1, 0] < way[0, 0]:
        way = way[::-1]
    inside = np.nonzero(at_points(part, way))[0]
    if len(inside) == 0:
        return None
    found = Member(path, way, int(inside[0]), int(inside[-1]))
    low, high = found.ends
    return found if high - low > 4 * thick else None


def in_order(members: Sequence[Member], depth: Floats, thick: float) -> list[Member] | None:
    """Members by their place across the strip, or None where two of them cross in it. `depth` is how far a pixel lies inside ink."""
    if len(members) < 2:
        return None
    ahead = np.zeros(len(members), np.int64)
    far = 40 * round(thick)
    for i, one in enumerate(members):
        for j in range(i):
            other = members[j]
            low, high = (f(m.ends[k] for m in (one, other)) for k, f in ((0, max), (1, min)))
            if high <= low:
                continue
            outward = np.arange(far)
            signs = {side_of(one, other, u, depth, thick) for u in (round(low) - outward, round(high) + outward)} - {0}
            if len(signs) > 1:
                return None
            if not signs:
                u = np.linspace(low, high, 20)
                signs = {1 if float(np.mean(one.across(u) - other.across(u))) > 0 else -1}
            ahead[i if signs == {1} else j] += 1
    return [members[i] for i in np.argsort(ahead, kind="stable")]


def side_of(one: Member, other: Member, u: Ints, depth: Floats, thick: float) -> int:
    """On which side of `other` the one lies at the first places of `u` where paper is seen between them; 0 where none is."""
    high, wide = depth.shape
    u = u[(u >= 0) & (u < wide)]
    p, q = one.across(u.astype(np.float64)), other.across(u.astype(np.float64))
    around, sides = round(thick), list[int]()
    for k in np.nonzero(np.isfinite(p) & np.isfinite(q))[0]:
        a, b = (int(np.clip(round(v), 0, high - 1)) for v in (p[k], q[k]))
        a, b = min(a, b), max(a, b)
        column = depth[a : b + 1, u[k]]
        if column[0] > 0 and column[-1] > 0 and column.min() == 0:
            sides.append(1 if p[k] > q[k] else -1)
            if len(sides) == 6 * around:
                break
        elif not sides and depth[max(0, a - around) : b + around + 1, u[k]].max() < 0.75 * thick:
            # Here they lie on top of each other, and may cross.
            return 0
    return int(np.sign(sum(sides)))


def laid(order: Sequence[Member], part: Mask, thick: float) -> list[Floats]:
    """The members' ways, evenly across the strip wherever they are in it."""
    columns = np.nonzero(part.any(axis=0))[0]
    top = part.argmax(axis=0)[columns].astype(np.float64) + 0.5 * (thick - 1)
    bottom = part.shape[0] - 1 - part[::-1].argmax(axis=0)[columns].astype(np.float64) - 0.5 * (thick - 1)
    ends = np.array([m.ends for m in order])
    within = (columns >= ends[:, :1]) & (columns <= ends[:, 1:])
    there = within.sum(axis=0)
    rank = np.cumsum(within, axis=0) - 1
    across = top + rank / np.maximum(there - 1, 1) * np.maximum(bottom - top, 0)
    out: list[Floats] = []
    for i, m in enumerate(order):
        # Where one is alone it was followed well enough.
        mine = within[i] & (there > 1)
        if mine.sum() < 4 * thick:
            out.append(m.way)
            continue
        u, v = columns[mine].astype(np.float64), across[i][mine]
        before, inner, after = m.way[: m.first], m.way[m.first : m.last + 1], m.way[m.last + 1 :]
        # The few steps through the cleared rim are made anew from where the way lies now.
        before, after = (q if arc(q) > 3 * thick else q[:0] for q in (before, after))
        alone = inner[~np.isin(np.rint(inner[:, 0]).astype(np.int64), columns[mine])]
        middle = np.concatenate([np.c_[u, v], alone])
        middle = middle[np.argsort(middle[:, 0], kind="stable")]
        whole = np.concatenate([before, middle, after])
        soft = gaussian_along(whole, 1.5 * thick)
        near = (whole[:, 0] >= u[0] - 3 * thick) & (whole[:, 0] <= u[-1] + 3 * thick)
        near[:2] = near[-2:] = False
        out.append(np.where(near[:, None], soft, whole))
    return out
