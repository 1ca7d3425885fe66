"""Where a curve ends: led on to the frame, under it, or along a grid line; what it took of others given back."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from adapters.curves.follow import Field, Trail
from adapters.curves.grid import run_through
from adapters.curves.ink import Layer
from adapters.curves.kit import nearest_of
from adapters.curves.shapes import Floats, Path
from adapters.curves.ways import arc, at_border, at_points, last_part, straight


def along_frame(points: Floats, layer: Layer) -> Floats:
    """A curve that runs flat into the upper or lower side goes on along it: its rest lies under the frame."""
    h, w = layer.mask.shape
    # The rim beside the frame was cleared, so a curve that goes on under the frame ends exactly there.
    rim = max(2.0, 0.006 * max(h, w)) + 0.6 * layer.thick + 2
    for side in (0, 1):
        if side:
            points = points[::-1]
        end, body = points[0], points[:: max(1, len(points) // 60)][:8]
        if len(body) < 4:
            continue
        edge = h - 1.0 if end[1] > h - 1 - rim else 0.0 if end[1] < rim else None
        d = points[0] - points[min(len(points) - 1, max(12, int(0.03 * w)))]
        if edge is not None and abs(d[0]) > 3 and abs(d[1]) < 0.25 * abs(d[0]):
            target = 0.0 if d[0] < 0 else w - 1.0
            if abs(target - end[0]) > 2 and rides(layer, end[0], target, upper=edge == 0):
                points = np.concatenate([[[target, edge]], [[end[0] + 0.3 * (target - end[0]), edge]], points])
        if side:
            points = points[::-1]
    return points


def rides(layer: Layer, start: float, stop: float, *, upper: bool = False) -> bool:
    """True when a side of the frame is thicker between two columns than a bare side is."""
    weak, mask = (layer.weak, layer.mask) if upper else (layer.weak[::-1], layer.mask[::-1])
    deep = min(len(weak), 40)
    runs = run_through(weak[:deep], 0)
    bare = run_through(np.ascontiguousarray(weak[::-1][:deep]), 0)
    lo, hi = sorted((round(start), round(stop)))
    # Where another curve is seen beside the side, its thickness tells nothing.
    seen = mask[: round(layer.rim + layer.thick + 4), lo : hi + 1].any(axis=0)
    part = runs[lo : hi + 1][~seen]
    usual = min(float(np.percentile(runs, 20)), float(np.median(bare)))
    return len(part) > 0.3 * (hi - lo) and float(np.median(part)) >= usual + 1


def to_border(points: Floats, layer: Layer) -> Floats:
    """Ends that stop at the cleared rim beside the frame go straight on to the frame."""
    h, w = layer.mask.shape
    near = layer.rim + 4.0
    for _ in range(2):
        end, inner = points[-1], points[max(0, len(points) - 9)]
        d = end - inner
        steps = [
            t
            for t in (
                (w - 1 - end[0]) / d[0] if d[0] > 0.3 and w - 1 - end[0] < near else math.inf,
                -end[0] / d[0] if d[0] < -0.3 and end[0] < near else math.inf,
                (h - 1 - end[1]) / d[1] if d[1] > 0.3 and h - 1 - end[1] < near else math.inf,
                -end[1] / d[1] if d[1] < -0.3 and end[1] < near else math.inf,
            )
            if 0 < t
        ]
        if steps and min(steps) * float(np.hypot(*d)) < 4 * near:
            points = np.concatenate([points, (end + min(steps) * d)[None]])
        else:
            points = under_text(points, layer)
        points = points[::-1]
    return points


def under_text(points: Floats, layer: Layer) -> Floats:
    """A straight end that disappears under a text goes on to the frame if all of its way there lies under the text."""
    h, w = layer.mask.shape
    body = last_part(points, 0.05 * math.hypot(w, h))
    end, d = points[-1], body[-1] - body[0]
    length = float(np.hypot(*d))
    if length < 12 or straight(body) > 1.5:
        return points
    d = d / length
    ways = [
        (side - e) / v for e, v, far in zip(end, d, (w - 1, h - 1), strict=True) for side in (0, far) if abs(v) > 0.02
    ]
    way = min((t for t in ways if t > 0), default=math.inf)
    if way > 0.2 * math.hypot(w, h):
        return points
    along = end + np.arange(1, way)[:, None] * d
    if float((~at_points(layer.text, along)).sum()) > layer.rim + 4 + layer.thick:
        return points
    return np.concatenate([points, (end + way * d)[None]])


def along_lines(paths: list[Path], layer: Layer) -> list[Path]:
    """Curves that end lying on a grid line go on along it to where the others end: had one left the line, it would show."""
    h, w = layer.mask.shape
    origin = np.array(layer.origin, np.float64)
    right = sorted((float(max(p.points[0, 0], p.points[-1, 0])) - origin[0] for p in paths), reverse=True)
    if len(right) < 3 or right[1] < right[0] - 0.03 * w:
        return paths
    goal = right[1]
    out: list[Path] = []
    for path in paths:
        points = path.points if path.points[-1, 0] >= path.points[0, 0] else path.points[::-1]
        tip = points[-1] - origin
        back = points[-1] - points[max(0, len(points) - 1 - max(20, round(0.05 * w)))]
        lies = back[0] > 8 and abs(back[1]) < 0.06 * back[0] + 1.0
        rest = goal - tip[0]
        if lies and 0.02 * w < rest < 0.6 * w:
            x0, x1, y = round(tip[0]) + 1, round(goal), round(tip[1])
            band = slice(max(0, y - round(layer.thick) - 1), min(h, y + round(layer.thick) + 2))
            line = (layer.hidden & layer.weak & ~layer.text)[band, x0:x1]
            rows = line.mean(axis=1)
            if len(rows) and float(rows.max()) > 0.9:
                level = float(np.mean(np.nonzero(rows > 0.8 * rows.max())[0])) + band.start
                tail = np.array([[x1 - 0.8 * rest, level], [goal, level]]) + origin
                whole = arc(points) + rest
                path = replace(
                    path,
                    points=np.concatenate([points, tail]),
                    gaps=(path.gaps * arc(points) + rest) / whole,
                )
        out.append(path)
    return out


def leaves(points: Floats, layer: Layer) -> bool:
    """True when an end lies at the plot's border."""
    h, w = layer.mask.shape
    return at_border(points[0], w, h) or at_border(points[-1], w, h)


def branches(points: Floats, first: int, tail: Floats, body: Floats, size: float) -> bool:
    """True for a long curve that comes out of another's corner and goes on along x, as those of gate charge do: what it shares with the
    other is its own beginning. (A pointer is short, and a curve that turned into another one goes back or up.) Its own part begins
    at `first`; `tail` and `body` are the directions before and behind.
    """
    # What bends there has turned into another one.
    way = points[first:][::-1]
    straight_on = last_part(way[: len(way) - len(last_part(way, 0.03 * size))], 0.1 * size)
    if len(straight_on) > 1 and straight(straight_on) > 1.5:
        return False
    own, shared = arc(points[first:]), arc(points[: first + 1])
    onward = float(tail[0] * body[0]) / max(float(np.hypot(*tail) * np.hypot(*body)), 1e-9)
    return own > 0.25 * size and shared > 0.15 * size and onward > 0.3


def without_borrowed_tails(field: Field, trail: Trail) -> Trail:
    """A trail that turns into another curve at an angle ends there; one that merges with it goes on."""
    # Directions are taken outside of the place where the two strokes (or an arrow's head) are one blob.
    blur = 2 + round(field.thick / 3)
    for _ in range(2):
        points = trail.points[::-1]
        at = np.rint(points).astype(np.int64)
        own = field.fresh[at[:, 1], at[:, 0]] & trail.inked[::-1]
        # Beside the other curve's middle some points seem to be our own; the trail's own part is where most are.
        steady = np.convolve(own, np.ones(9), "valid") >= 7 if len(own) >= 9 else np.zeros(0, np.bool_)
        first = int(np.argmax(steady)) if steady.any() else 0
        if first > 3 and len(points) - first > 6:
            tail, body = points[: max(3, first - blur)][-11:], points[first + blur :][:11]
            if len(tail) > 2 and len(body) > 2:
                u, v = tail[-1] - tail[0], body[-1] - body[0]
                turn = math.acos(float(np.clip(u @ v / max(np.hypot(*u) * np.hypot(*v), 1e-9), -1, 1)))
                if turn > 0.45 and not branches(points, first, u, v, float(np.hypot(*field.worth.shape))):
                    keep = slice(max(0, first - 1), None)
                    trail = Trail(points[keep][::-1], trail.inked[::-1][keep][::-1], trail.doubt)
        trail = Trail(trail.points[::-1], trail.inked[::-1], trail.doubt)
    return trail


def along_others(paths: Sequence[Path], layer: Layer, size: float) -> list[Path]:
    """Long curves that merge with another one and end on it, before the frame, go on along it to its end.

    That ink is there once for both; the pen ends on it where nothing is left to be gained. What meets the other at an angle ends there.
    """
    high, wide = layer.mask.shape
    corner = np.array(layer.origin, np.float64)
    out: list[Path] = []
    for path in paths:
        points = path.points
        for _ in range(2):
            points = points[::-1]
            if arc(points) < 0.25 * size or at_border(points[-1] - corner, wide, high):
                continue
            rests = [rest for o in paths if o is not path and (rest := rest_of(o, points, path, size)) is not None]
            if rests:
                points = np.concatenate([points, max(rests, key=arc)])
        out.append(replace(path, points=points) if len(points) != len(path.points) else path)
    return out


def rest_of(other: Path, points: Floats, path: Path, size: float) -> Floats | None:
    """What another path does behind the end of `points`, where these have run along it for a bit and it goes on along x."""
    if other.colour != path.colour:
        return None
    end = last_part(points, max(0.03 * size, 4 * path.width))
    distance, which = nearest_of(end, other.points)
    if len(end) < 8 or float(distance.max()) > 0.7 * path.width + 1.0:
        return None
    k, way = int(which[-1]), int(which[-1]) - int(which[0])
    rest = other.points[k + 1 :] if way > 0 else other.points[:k][::-1]
    if abs(way) < 4 or arc(rest) < 0.03 * size:
        return None
    ahead, behind = rest[-1] - rest[0], end[-1] - end[0]
    return rest if float(ahead[0] * behind[0]) > 0 else None
