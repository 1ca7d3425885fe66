"""Any tree of moves and measures: counting, where point k is, and going on from there."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.plan import (
    MAX_POSITION,
    Branch,
    LinearPositions,
    LogPositions,
    Plan,
    branches,
    instruments,
    places,
    point,
    points,
    walk,
)

NUMBERS = st.floats(-100, 100).map(lambda x: round(x, 3))


def numbers(name: str, num: int) -> st.SearchStrategy[dict[str, Any]]:
    """Linear or log positions; with one position both ends are the same."""
    ends = NUMBERS if name == "linear" else st.floats(1e-6, 1e6)
    if num == 1:
        return ends.map(lambda x: {"kind": name, "start": x, "stop": x, "num": 1})
    return st.builds(lambda a, b: {"kind": name, "start": a, "stop": b, "num": num}, ends, ends)


POSITIONS = st.one_of(
    st.lists(NUMBERS, min_size=1, max_size=4).map(lambda values: {"kind": "list", "values": values}),
    st.lists(st.sampled_from(["red", "green"]), min_size=1, max_size=3).map(lambda v: {"kind": "list", "values": v}),
    st.integers(1, 4).flatmap(lambda num: numbers("linear", num)),
    st.integers(1, 4).flatmap(lambda num: numbers("log", num)),
)
MEASURES = st.builds(
    lambda instrument, channels: {"kind": "measure", "instrument": instrument, "channels": channels},
    st.sampled_from(["dmm", "stage"]),
    st.lists(st.sampled_from(["a", "b", "x0", "x1"]), min_size=1, max_size=3, unique=True),
)


@st.composite
def nodes(draw: st.DrawFn, free: tuple[str, ...] = ("x0", "x1", "x2"), depth: int = 0) -> list[dict[str, Any]]:
    """Siblings; a move takes its channel away from the moves below it, siblings share channels."""
    found: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 3 if depth < 2 else 2))):
        if free and draw(st.booleans()):
            channel = draw(st.sampled_from(free))
            found.append(
                {
                    "kind": "move",
                    "instrument": "stage",
                    "channel": channel,
                    "positions": draw(POSITIONS),
                    "snake": draw(st.booleans()),
                    "settle_s": draw(st.sampled_from([0, 0.5])),
                    "children": draw(nodes(tuple(name for name in free if name != channel), depth + 1)),
                }
            )
        else:
            found.append(draw(MEASURES))
    return found


PLANS = nodes().map(lambda found: Plan.model_validate({"nodes": found})).filter(lambda plan: points(plan) <= 2_000)


def all_points(plan: Plan) -> list[tuple[int, tuple[tuple[str, Any], ...]]]:
    """The points one after the other, by the plainest code that there can be: what the arithmetic is measured against."""
    found: list[tuple[int, tuple[tuple[str, Any], ...]]] = []
    passes: dict[int, int] = {}
    order = {branch.path: branch.index for branch in branches(plan)}

    def run(siblings: Any, where: str, path: tuple[tuple[str, Any], ...]) -> None:
        measuring = False
        for index, node in enumerate(siblings):
            here = f"{where}[{index}]"
            if node.kind == "measure":
                if not measuring:
                    found.append((order[here], path))
                measuring = True
                continue
            measuring = False
            pass_ = passes.get(id(node), 0)
            passes[id(node)] = pass_ + 1
            num = len(node.positions.values) if node.positions.kind == "list" else node.positions.num
            values = [node.positions.at(index) for index in range(num)]
            for value in reversed(values) if node.snake and pass_ % 2 else values:
                run(node.children, f"{here}.children", (*path, (node.channel, value)))

    run(plan.nodes, "nodes", ())
    return found


@settings(deadline=None, max_examples=150)
@given(PLANS)
def test_point_k_is_the_k_th_of_all_points_and_there_are_that_many(plan: Plan) -> None:
    expected = all_points(plan)
    assert points(plan) == len(expected) == sum(branch.points for branch in branches(plan))
    found = [point(plan, k) for k in range(points(plan))]
    assert [(p.branch, tuple((m.channel, m.value) for m in p.moves)) for p in found] == expected
    assert [p.k for p in found] == list(range(len(expected)))
    # Unique: no two points of a branch have the same indices, though they may have the same values.
    assert len({(p.branch, p.indices) for p in found}) == len(found)
    with pytest.raises(IndexError):
        point(plan, len(expected))


@settings(deadline=None, max_examples=100)
@given(PLANS)
def test_the_places_of_many_points_are_those_of_each(plan: Plan) -> None:
    of_branch: dict[int, list[int]] = {}
    for k in range(points(plan)):
        of_branch.setdefault(point(plan, k).branch, []).append(k)
    for branch, ks in of_branch.items():
        found = places(plan, branch, np.array(ks, np.int64))
        assert [tuple(int(axis[n]) for axis in found) for n in range(len(ks))] == [point(plan, k).indices for k in ks]


def moved(branch: Branch) -> list[tuple[str, str]]:
    return [(move.instrument, move.channel) for move in branch.moves]


@settings(deadline=None, max_examples=150)
@given(PLANS, st.data())
def test_a_walk_from_any_point_stands_where_point_k_says(plan: Plan, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, points(plan)))
    at: dict[tuple[str, str], Any] = {}
    last = None
    numbers: list[int] = []
    for step in walk(plan, start):
        expected = point(plan, step.k)
        # In the order of the path, and no move that is not on it.
        order = moved(branches(plan)[step.branch])
        names = [(move.instrument, move.channel) for move in step.moves]
        assert names == [name for name in order if name in names]
        assert set(step.moves) <= set(expected.moves)
        for move in step.moves:
            at[move.instrument, move.channel] = move.value
        assert step.branch == expected.branch
        assert {name: at[name] for name in order} == {(m.instrument, m.channel): m.value for m in expected.moves}
        # Nothing moves without need: within a branch, a move is there only if its axis or one around it has stepped.
        if last is not None and last.branch == step.branch:
            changed = [a != b for a, b in zip(last.indices, expected.indices, strict=True)]
            assert all(any(changed[: order.index(name) + 1]) for name in names) or len(branches(plan)) > 1
        numbers.append(step.k)
        last = expected
    assert numbers == list(range(start, points(plan)))


@settings(deadline=None, max_examples=150)
@given(PLANS)
def test_columns_are_unambiguous_and_a_plan_survives_json(plan: Plan) -> None:
    for branch in branches(plan):
        assert (
            len(set(branch.names))
            == len(branch.names)
            == len(branch.moves) + sum(len(m.channels) for m in branch.measures)
        )
        assert {column.instrument for column in branch.columns} <= instruments(plan)
    again = Plan.model_validate_json(plan.model_dump_json())
    assert again == plan
    assert list(walk(again)) == list(walk(plan))


BIG = st.floats(-MAX_POSITION, MAX_POSITION)


@given(BIG, BIG, st.integers(2, 10**12), st.data())
def test_linear_positions_have_exact_ends_and_never_leave_them_nor_turn_back(
    start: float, stop: float, num: int, data: st.DataObject
) -> None:
    positions = LinearPositions(start=start, stop=stop, num=num)
    assert (positions.at(0), positions.at(num - 1)) == (start, stop)
    k = data.draw(st.integers(0, num - 2))
    here, after = positions.at(k), positions.at(k + 1)
    assert min(start, stop) <= here <= max(start, stop)
    # Up to rounding: far below one step of any plan that moves at all.
    slack = 4e-16 * max(abs(start), abs(stop))
    assert here <= after + slack if start <= stop else here >= after - slack


@given(st.floats(1e-100, 1e100), st.floats(1e-100, 1e100), st.sampled_from([1, -1]), st.integers(2, 10**12), st.data())
def test_log_positions_have_exact_ends_and_never_leave_them(
    start: float, stop: float, sign: int, num: int, data: st.DataObject
) -> None:
    positions = LogPositions(start=sign * start, stop=sign * stop, num=num)
    assert (positions.at(0), positions.at(num - 1)) == (sign * start, sign * stop)
    k = data.draw(st.integers(0, num - 1))
    assert min(sign * start, sign * stop) <= positions.at(k) <= max(sign * start, sign * stop)
