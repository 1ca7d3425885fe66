"""Behind a stretch that curves share: which rest is whose, by what is smoothest."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from adapters.curves.ink import Layer
from adapters.curves.join import united
from adapters.curves.kit import nearest_of, pairs
from adapters.curves.shapes import Floats, Path
from adapters.curves.ways import arc, at_border, last_part, unevenness

LEAST_APART = 0.15
"""By so much one of two strokes must be darker than the other to be told from it by that."""


def swapped(paths: list[Path], tone: Callable[[Floats], float] = lambda _: 0.0) -> list[Path]:
    """Where two paths share a stretch, the rest of each goes to the one that it continues more smoothly, or whose ink is as dark.

    `tone` is how dark a stretch is on average.
    """
    out = [p.points for p in paths]
    done: set[tuple[int, int, int, int]] = set()
    # How often each path was changed; two that were compared as they are need not be compared again.
    changes = [0] * len(out)
    compared: dict[tuple[int, int], tuple[int, int]] = {}
    for _ in range(24):
        changed = False
        for i in range(len(out)):
            for j in range(i + 1, len(out)):
                if paths[i].colour != paths[j].colour or compared.get((i, j)) == (changes[i], changes[j]):
                    continue
                compared[i, j] = changes[i], changes[j]
                better = uncrossed(out[i], out[j], max(paths[i].width, paths[j].width), done, (i, j), tone)
                if better is not None:
                    out[i], out[j] = better
                    changes[i], changes[j] = changes[i] + 1, changes[j] + 1
                    changed = True
        if not changed:
            break
    return [replace(p, points=q) for p, q in zip(paths, told_apart(out, paths), strict=True)]


def uncrossed(
    one: Floats,
    other: Floats,
    thick: float,
    done: set[tuple[int, int, int, int]],
    pair: tuple[int, int],
    tone: Callable[[Floats], float],
) -> tuple[Floats, Floats] | None:
    """The two with their ends exchanged behind a shared stretch where that is clearly right, else None."""
    reach = 0.9 * thick + 1.0
    distance, spatial = nearest_of(one, other)
    near = np.nonzero(distance < reach)[0]
    if len(near) == 0:
        return None
    look = max(45.0, 7 * thick)
    for run in np.split(near, np.nonzero(np.diff(near) > 2 * thick + 6)[0] + 1):
        a0, a1 = int(run[0]), int(run[-1])
        b0, b1 = int(spatial[a0]), int(spatial[a1])
        second = other
        if b0 > b1 or (b0 == b1 and crosses_backwards(one, other, a0, b0)):
            second = other[::-1]
            b0, b1 = len(other) - 1 - b0, len(other) - 1 - b1
        key = (*pair, round(float(one[a0, 0]) / 8), round(float(one[a0, 1]) / 8))
        if key in done:
            continue
        common = arc(one[a0 : a1 + 1])
        window = look + 0.7 * common
        a_in, a_out = last_part(one[: a0 + 1], window), last_part(one[a1:][::-1], window)[::-1]
        b_in, b_out = last_part(second[: b0 + 1], window), last_part(second[b1:][::-1], window)[::-1]
        if min(arc(q) for q in (a_in, a_out, b_in, b_out)) < 0.35 * look:
            continue
        done.add(key)
        exchanged = by_tone(*(tone(q) for q in (a_in, a_out, b_in, b_out)))
        if exchanged is None:
            kept = unevenness(a_in, a_out) + unevenness(b_in, b_out)
            crossed = unevenness(a_in, b_out) + unevenness(b_in, a_out)
            exchanged = crossed < 0.75 * kept - 0.08
        if exchanged:
            # Exchanged where they are nearest, so that no corner is left.
            a = a0 + int(np.argmin(distance[a0 : a1 + 1]))
            b = int(spatial[a]) if second is other else len(other) - 1 - int(spatial[a])
            return np.concatenate([one[:a], second[b:]]), np.concatenate([second[:b], one[a:]])
    return None


def by_tone(a_in: float, a_out: float, b_in: float, b_out: float) -> bool | None:
    """Whether two ways have each other's rests, told by how dark they are before and behind; None where that tells nothing."""
    apart = min(abs(a_in - b_in), abs(a_out - b_out))
    kept, crossed = abs(a_in - a_out) + abs(b_in - b_out), abs(a_in - b_out) + abs(b_in - a_out)
    if apart <= LEAST_APART * max(a_in, b_in) or min(kept, crossed) > 0.4 * max(kept, crossed):
        return None
    return crossed < kept


def led_through(paths: list[Path], layer: Layer) -> list[Path]:
    """Two curves of three pieces: where the way of one turned into the other's at a crossing, the rest of both was followed from
    there on and ends there."""
    out = list(paths)
    h, w = layer.mask.shape
    origin = np.array(layer.origin, np.float64)
    look = max(45.0, 7 * layer.thick)
    reach = 2.5 * layer.thick + 4
    k = 0
    while k < len(out):
        whole = out[k]
        ends = [
            (i, points)
            for i, path in enumerate(out)
            if i != k and path.colour == whole.colour and arc(path.points) > look
            for points in (path.points, path.points[::-1])
            if not at_border(points[-1] - origin, w, h)
            and float(np.hypot(*(whole.points - points[-1]).T).min()) < reach
        ]
        best: tuple[float, int, int, Floats, Floats] | None = None
        for i, before in ends:
            for j, after in ends:
                if j <= i or float(np.hypot(*(before[-1] - after[-1]))) > 2 * reach:
                    continue
                for way in (whole.points, whole.points[::-1]):
                    found = through(way, before, after[::-1], look)
                    if found is not None and (best is None or found[0] < best[0]):
                        best = (found[0], i, j, found[1], found[2])
        if best is None:
            k += 1
            continue
        _, i, j, first, second = best
        pieces = out[i], out[j]
        out[k] = replace(whole, points=first)
        out[i] = united(pieces[0], pieces[1], second)
        del out[j]
        k = 0
    return out


def through(way: Floats, before: Floats, after: Floats, look: float) -> tuple[float, Floats, Floats] | None:
    """How unevenly, and which, two curves go on where `before` ends and `after` begins beside a third way, else None."""
    a, b = (int(np.hypot(*(way - p).T).argmin()) for p in (before[-1], after[0]))
    a, b = min(a, b), max(a, b)
    common = max(arc(way[a : b + 1]), float(np.hypot(*(after[0] - before[-1]))))
    window = look + 0.7 * common
    way_in, way_out = last_part(way[: a + 1], window), last_part(way[b:][::-1], window)[::-1]
    past, rest = last_part(before, window), last_part(after[::-1], window)[::-1]
    if min(arc(q) for q in (way_in, way_out, past, rest)) < 0.7 * look:
        return None
    kept = unevenness(way_in, way_out) + unevenness(past, rest)
    crossed = unevenness(way_in, rest) + unevenness(past, way_out)
    if min(kept, crossed) > MOST_UNEVEN:
        return None
    if kept < crossed:
        return kept, way, np.concatenate([before, after])
    return crossed, np.concatenate([way[:a], after]), np.concatenate([before, way[b + 1 :]])


def crosses_backwards(one: Floats, other: Floats, a: int, b: int) -> bool:
    u = one[min(len(one) - 1, a + 8)] - one[max(0, a - 8)]
    v = other[min(len(other) - 1, b + 8)] - other[max(0, b - 8)]
    return bool(u @ v < 0)


MOST_UNEVEN = 1.2
"""Pixels by which two pieces of curves together may differ from a smooth way, for both of them to be believed."""
BENDING = 0.0006
"""What the bending of ways beside each other counts against pixels of residual, both squared."""

Spans = dict[int, tuple[int, int]]
"""Where some ways share a stretch: of each of them, by its number, the first and last index of that stretch."""


def told_apart(ways: Sequence[Floats], paths: Sequence[Path]) -> list[Floats]:
    """Where three ways and more meet in one place, what lies behind it goes to those that it continues most smoothly, all of them
    together: taken by twos, each two may lack the rest of both."""
    out = list(ways)
    thick = max((p.width for p in paths), default=1.0)
    done: set[tuple[int, ...]] = set()
    for _ in range(8):
        shared = [
            spans
            for j in range(len(out))
            for i in range(j)
            if paths[i].colour == paths[j].colour
            for spans in shared_by(out, i, j, 0.9 * thick + 1.0, 2 * thick + 6)
        ]
        for spans in meetings(shared):
            first = min(spans)
            x, y = (round(float(v) / 8) for v in out[first][spans[first][0]])
            key = (*sorted(spans), x, y)
            if key not in done:
                done.add(key)
                better = rearranged(out, spans, thick)
                if better:
                    out = [better.get(i, way) for i, way in enumerate(out)]
                    break
        else:
            break
    return out


def shared_by(ways: Sequence[Floats], i: int, j: int, reach: float, gap: float) -> list[Spans]:
    """The stretches that two ways share."""
    distance, which = nearest_of(ways[i], ways[j])
    near = np.nonzero(distance < reach)[0]
    if len(near) == 0:
        return []
    runs = np.split(near, np.nonzero(np.diff(near) > gap)[0] + 1)
    return [{i: (int(r[0]), int(r[-1])), j: (int(which[r].min()), int(which[r].max()))} for r in runs]


def meetings(shared: Sequence[Spans]) -> list[Spans]:
    """Shared stretches that overlap put together: places where three ways and more meet."""
    groups: list[Spans] = []
    for spans in shared:
        group = dict(spans)
        apart: list[Spans] = []
        for other in groups:
            if any(i in group and a <= group[i][1] and b >= group[i][0] for i, (a, b) in other.items()):
                group = {
                    i: (
                        min(q[i][0] for q in (group, other) if i in q),
                        max(q[i][1] for q in (group, other) if i in q),
                    )
                    for i in {*group, *other}
                }
            else:
                apart.append(other)
        groups = [*apart, group]
    return [g for g in groups if len(g) > 2]


def rearranged(ways: Sequence[Floats], spans: Spans, thick: float) -> dict[int, Floats]:
    """The ways with their rests exchanged behind a shared stretch where that is clearly smoother; else none.

    Only where they lie beside each other is looked at, from their mean: how they bend all together is much and says nothing about
    who is who.
    """
    look = max(45.0, 7 * thick)
    one = min(spans)
    a, b = spans[one]
    ahead = ways[one][min(len(ways[one]) - 1, b + 8)] - ways[one][max(0, a - 8)]
    ahead = ahead / max(float(np.hypot(*ahead)), 1e-9)
    aside = np.array([-ahead[1], ahead[0]])
    window = look + 0.7 * max(arc(ways[i][a : b + 1]) for i, (a, b) in spans.items())
    turned: dict[int, tuple[Floats, int, int]] = {}
    before: dict[int, Floats] = {}
    behind: dict[int, Floats] = {}
    for i, (a, b) in spans.items():
        way = ways[i]
        if float((way[min(len(way) - 1, b + 8)] - way[max(0, a - 8)]) @ ahead) < 0:
            way, a, b = way[::-1], len(way) - 1 - b, len(way) - 1 - a
        parts = last_part(way[: a + 1], window)[::-1], last_part(way[b:][::-1], window)[::-1]
        if min(arc(q) for q in parts) >= 0.35 * look:
            turned[i] = way, a, b
            before[i], behind[i] = parts
    # One that ends there leaves a rest without a beginning: then nothing is known.
    if len(turned) < len(spans):
        return {}
    members = sorted(turned)
    past, past_aside = beside_each_other([before[i] for i in members], ahead, aside)
    next_, next_aside = beside_each_other([behind[i] for i in members], ahead, aside)
    if len(past) < 8 or len(next_) < 8:
        return {}
    at = np.r_[past, next_]
    basis = np.vander(2 * (at - at.min()) / max(float(np.ptp(at)), 1e-9) - 1, 4)
    fit = np.linalg.pinv(basis)
    rest = np.eye(len(at)) - basis @ fit

    def cost_of(values: Floats) -> float:
        """Residual, and what bending the cubic took: lines that cross are straight beside each other, where they touch they bend."""
        cubic, square, *_ = fit @ values
        return float(((rest @ values) ** 2).mean()) + BENDING * float(8 * square**2 + 24 * cubic**2)

    cost = np.array([[cost_of(np.r_[p, q]) for q in next_aside] for p in past_aside])
    best = pairs(cost)
    kept = math.sqrt(float(np.trace(cost)) / len(members))
    crossed = math.sqrt(sum(float(cost[r, c]) for r, c in best) / len(members))
    if crossed >= 0.85 * kept - 0.02:
        return {}
    out: dict[int, Floats] = {}
    for r, c in best:
        if r != c:
            (first, a0, a1), (second, b0, b1) = turned[members[r]], turned[members[c]]
            # Exchanged where they are nearest, so that no corner is left.
            distance, which = nearest_of(first[a0 : a1 + 1], second[b0 : b1 + 1])
            k = int(np.argmin(distance))
            out[members[r]] = np.concatenate([first[: a0 + k], second[b0 + int(which[k]) :]])
    return out


def beside_each_other(parts: Sequence[Floats], ahead: Floats, aside: Floats) -> tuple[Floats, Floats]:
    """Places along `ahead` that all parts reach, and how far each lies from their mean there."""
    along = [
        np.maximum.accumulate(s * (q @ ahead)) * s
        for q in parts
        for s in (1.0 if q[-1] @ ahead > q[0] @ ahead else -1.0,)
    ]
    low, high = max(float(v.min()) for v in along), min(float(v.max()) for v in along)
    if high - low < 8:
        return np.zeros(0), np.zeros((len(parts), 0))
    at = np.linspace(low, high, 24)
    sides: list[Floats] = []
    for v, q in zip(along, parts, strict=True):
        order = np.argsort(v, kind="stable")
        sides.append(np.interp(at, v[order], (q @ aside)[order]))
    beside = np.array(sides)
    return at, beside - beside.mean(axis=0)
