"""Ink thinned to strokes between ends and crossings: a graph."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from adapters.curves.kit import compiled, connected, skeleton_of
from adapters.curves.shapes import Floats, Ints, Mask
from adapters.curves.ways import arc
from adapters.curves.work import Work


class Cluttered(ValueError):
    """There are more pieces of ink than curves leave."""


@dataclass
class Edge:
    points: Floats
    """N x 2 (x, y), from node `a` to node `b`."""
    a: int
    b: int
    length: float = 0.0

    def __post_init__(self) -> None:
        self.length = arc(self.points)

    def leaving(self, node: int) -> Floats:
        return self.points if node == self.a else self.points[::-1]

    def other(self, node: int) -> int:
        return self.b if node == self.a else self.a


@dataclass
class Graph:
    edges: list[Edge] = field(default_factory=list[Edge])
    at: dict[int, list[int]] = field(default_factory=dict[int, list[int]])

    def add(self, edge: Edge) -> None:
        k = len(self.edges)
        self.edges.append(edge)
        self.at.setdefault(edge.a, []).append(k)
        if edge.b != edge.a:
            self.at.setdefault(edge.b, []).append(k)

    def drop(self, k: int) -> None:
        edge = self.edges[k]
        for node in {edge.a, edge.b}:
            self.at[node].remove(k)


def skeleton_graph(mask: Mask, thick: float, work: Work) -> Graph:
    """Strokes between ends and crossings of the skeleton. Raises Cluttered, before much is done, where there are too many."""
    skeleton = skeleton_of(mask)
    s = skeleton.astype(np.uint8)
    near = cv2.filter2D(s, cv2.CV_16S, np.ones((3, 3), np.int16), borderType=cv2.BORDER_CONSTANT)
    neighbours = np.where(skeleton, near.astype(np.int64) - 1, 0)
    crossing = skeleton & (neighbours >= 3)
    count, knots, _, centres = connected(crossing)
    chains = skeleton & ~crossing
    number, labels, _, _ = connected(chains)
    if number > work.pieces:
        raise Cluttered
    work.pieces -= number
    graph = Graph()
    nodes = count
    ys, xs = np.nonzero(chains)
    which = labels[ys, xs]
    order = np.argsort(which, kind="stable")
    bounds = np.searchsorted(which[order], np.arange(1, number + 1))
    for i in range(1, number):
        index = order[bounds[i - 1] : bounds[i]]
        points = ordered(np.c_[xs[index], ys[index]].astype(np.int64))
        ends: list[int] = []
        for p in (points[0], points[-1]):
            x, y = int(p[0]), int(p[1])
            window = knots[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            touching = sorted(set(window[window > 0].tolist()))
            if len(points) == 1 and len(touching) > 1:
                ends = [int(touching[0]), int(touching[1])]
                break
            if touching and (len(points) > 1 or not ends):
                # A short loop must not return to the same knot through its first pixel.
                free = [t for t in touching if t not in ends] or touching
                ends.append(int(free[0]))
            else:
                ends.append(nodes)
                nodes += 1
        body = points.astype(np.float64)
        parts = [body]
        if ends[0] < count:
            parts.insert(0, np.asarray(centres[ends[0]], np.float64)[None])
        if ends[1] < count:
            parts.append(np.asarray(centres[ends[1]], np.float64)[None])
        graph.add(Edge(np.concatenate(parts), ends[0], ends[1]))
    prune(graph, 0.9 * thick + 2)
    return graph


AROUND = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1)])
"""Neighbours of a pixel, the straight ones first: a chain goes round its corners."""


def ordered(points: Ints) -> Ints:
    """Pixels of a chain in walking order."""
    if len(points) < 3:
        return points
    corner = points.min(axis=0) - 1
    wide, high = points.max(axis=0) - corner + 2
    left = np.zeros((high, wide), np.bool_)
    x, y = (points - corner).T
    left[y, x] = True
    near = np.sum([left[y + b, x + a] for a, b in AROUND.tolist()], axis=0)
    # A chain without ends is a ring: anywhere will do.
    begin = int(np.argmax(near <= 1))
    return walked(left, int(x[begin]), int(y[begin]), AROUND) + corner


@compiled
def walked(left: Mask, x: int, y: int, around: Ints) -> Ints:
    """Pixels of `left` from neighbour to neighbour, each once, until there is none; they are taken out of it."""
    out = np.zeros((left.sum(), 2), np.int64)
    count = 0
    going = True
    while going:
        out[count, 0], out[count, 1] = x, y
        count += 1
        left[y, x] = False
        going = False
        for k in range(len(around)):
            if left[y + around[k, 1], x + around[k, 0]]:
                x, y = x + around[k, 0], y + around[k, 1]
                going = True
                break
    return out[:count]


def prune(graph: Graph, least: float) -> None:
    """Spurs that thinning leaves at the sides of thick strokes."""
    for _ in range(2):
        for k, edge in enumerate(graph.edges):
            if k not in graph.at.get(edge.a, []):
                continue
            free = [n for n in (edge.a, edge.b) if len(graph.at[n]) == 1]
            if len(free) == 1 and edge.length < least and len(graph.at[edge.other(free[0])]) >= 3:
                graph.drop(k)


def alive(graph: Graph, k: int) -> bool:
    return k in graph.at.get(graph.edges[k].a, [])
