import json
import math
from itertools import islice, pairwise
from typing import Any

import pytest
from pydantic import ValidationError

from domain.errors import OutOfLimits, Refused
from domain.plan import (
    MAX_LISTED,
    MAX_POINTS,
    LinearPositions,
    ListPositions,
    LogPositions,
    MoveTo,
    Parameter,
    Plan,
    Template,
    branches,
    check_limits,
    explain,
    instruments,
    point,
    points,
    walk,
)
from domain.ports import Channel

READ_V = {"kind": "measure", "instrument": "dmm", "channels": ["voltage"]}


def linear(start: float, stop: float, num: int) -> dict[str, Any]:
    return {"kind": "linear", "start": start, "stop": stop, "num": num}


def listed(*values: Any) -> dict[str, Any]:
    return {"kind": "list", "values": list(values)}


def move(name: str, positions: dict[str, Any], *children: Any, **more: Any) -> dict[str, Any]:
    instrument, channel = name.split(".", 1)
    children_ = list(children) or [READ_V]
    return {
        "kind": "move",
        "instrument": instrument,
        "channel": channel,
        "positions": positions,
        "children": children_,
    } | more


def plan(*nodes: Any) -> Plan:
    return Plan.model_validate({"nodes": list(nodes)})


def grid(n: int, m: int, *, snake: bool = False) -> Plan:
    return plan(move("stage.y", linear(0, n - 1, n), move("stage.x", linear(0, m - 1, m), snake=snake)))


def wrong(*nodes: Any) -> str:
    with pytest.raises(ValidationError) as error:
        plan(*nodes)
    return explain(error.value)


def values(plan_: Plan) -> list[tuple[Any, ...]]:
    return [tuple(move.value for move in point(plan_, k).moves) for k in range(points(plan_))]


# --------------------------------------------------------------------------------------------------------------- counting


@pytest.mark.parametrize("n", [1, 2, 3, 7, 40])
def test_an_n_by_n_grid_measures_all_n_by_n_points_the_first_row_and_column_included(n: int) -> None:
    """PyBirch starts each axis at index 0 and steps to 1 before it first measures: 3 x 3 gave 4 points, 40 x 40 gave 1,521."""
    grid_ = plan(move("stage.y", listed(*range(n)), move("stage.x", listed(*range(n)))))
    assert points(grid_) == n * n
    measured: list[tuple[Any, ...]] = []
    at: dict[str, Any] = {}
    for step in walk(grid_):
        at |= {move.channel: move.value for move in step.moves}
        measured.append((at["y"], at["x"]))
    assert measured == values(grid_) == [(y, x) for y in range(n) for x in range(n)]


def test_three_by_three_is_nine_and_forty_by_forty_is_1600() -> None:
    assert (points(grid(3, 3)), points(grid(40, 40))) == (9, 1600)


def test_consecutive_measures_make_one_point_and_a_move_between_them_makes_two_branches() -> None:
    read_t = {"kind": "measure", "instrument": "bath", "channels": ["temperature"]}
    plan_ = plan(READ_V, read_t, move("stage.x", linear(0, 2, 3)), READ_V)
    assert points(plan_) == 5
    assert [(branch.names, branch.points, branch.path) for branch in branches(plan_)] == [
        (("dmm.voltage", "bath.temperature"), 1, "nodes[0]"),
        (("stage.x", "dmm.voltage"), 3, "nodes[2].children[0]"),
        (("dmm.voltage",), 1, "nodes[3]"),
    ]
    assert [step.branch for step in walk(plan_)] == [0, 1, 1, 1, 2]


def test_a_million_million_points_are_only_arithmetic() -> None:
    plan_ = grid(10**6, 10**6, snake=True)
    assert points(plan_) == MAX_POINTS
    last = point(plan_, MAX_POINTS - 1)
    assert (last.indices, [m.value for m in last.moves]) == ((10**6 - 1, 0), [10**6 - 1, 0])
    tail = list(walk(plan_, MAX_POINTS - 2))
    assert [step.k for step in tail] == [MAX_POINTS - 2, MAX_POINTS - 1]
    assert tail[1].moves == (MoveTo("stage", "x", 0.0, 0.0),)
    assert next(islice(walk(plan_, 0), 5, None)).k == 5


@pytest.mark.parametrize("k", [-1, 9])
def test_a_point_outside_the_plan_is_an_index_error(k: int) -> None:
    with pytest.raises(IndexError, match="points 0 to 8"):
        point(grid(3, 3), k)


def test_a_walk_from_the_end_is_over_and_one_from_beyond_is_an_index_error() -> None:
    assert list(walk(grid(3, 3), 9)) == []
    for start in (-1, 10):
        with pytest.raises(IndexError):
            walk(grid(3, 3), start)


# -------------------------------------------------------------------------------------------------------------- positions


def test_both_ends_of_linear_positions_are_exact_and_tenths_are_tenths() -> None:
    positions = LinearPositions(start=0, stop=1, num=11)
    assert [positions.at(k) for k in range(11)] == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    odd = LinearPositions(start=0.1, stop=0.7, num=8)
    assert (odd.at(0), odd.at(7)) == (0.1, 0.7)


def test_linear_positions_with_equal_ends_stay_exactly_there() -> None:
    positions = LinearPositions(start=0.1, stop=0.1, num=1000)
    assert {positions.at(k) for k in range(1000)} == {0.1}


def test_log_positions_hit_the_decades_and_may_be_negative() -> None:
    assert [LogPositions(start=1, stop=1000, num=4).at(k) for k in range(4)] == [1, 10, 100, 1000]
    assert [LogPositions(start=-100, stop=-1, num=3).at(k) for k in range(3)] == [-100, -10, -1]
    falling = LogPositions(start=3e-3, stop=7e-9, num=5)
    assert (falling.at(0), falling.at(4)) == (3e-3, 7e-9)


def test_whole_numbers_in_a_list_are_numbers_like_the_others_and_truth_values_are_not() -> None:
    assert [type(v) for v in ListPositions.model_validate({"values": [1, 2.5]}).values] == [float, float]
    assert ListPositions.model_validate({"values": [True, False]}).values == (True, False)
    assert ListPositions.model_validate({"values": ["red"]}).values == ("red",)


@pytest.mark.parametrize(
    ("positions", "words"),
    [
        (listed(), "nodes[0].positions.values: give at least one position"),
        (listed(1, math.nan), "nodes[0].positions.values: position 1 is nan"),
        (listed(-math.inf), "position 0 is -inf"),
        (listed(10**400), "position 0 is 1000"),
        (listed(1, True), "position 1 is True: numbers, texts and true/false do not mix"),
        (listed(None), "position 0 is None: a position is a number, a text, true or false"),
        (listed(*range(MAX_LISTED + 1)), "too many for a list"),
        (listed("x" * 65), "a text of 65 characters"),
        ({"kind": "list", "values": "abc"}, "give the positions as a list"),
        (linear(0, 1, 0), "nodes[0].positions.num: Input should be greater than or equal to 1"),
        (linear(0, 1, MAX_POINTS + 1), "nodes[0].positions.num"),
        (linear(0, 1, 1), "num is 1, but start 0 and stop 1 differ"),
        (linear(math.nan, 1, 2), "nodes[0].positions.start: nan is not a position"),
        (linear(0, math.inf, 2), "nodes[0].positions.stop: inf is not a position"),
        ({"kind": "linear", "start": "0", "stop": True, "num": 2}, "nodes[0].positions.stop: True is not a number"),
        ({"kind": "log", "start": 0, "stop": 1, "num": 2}, "both ends must be above 0, or both below"),
        ({"kind": "log", "start": -1, "stop": 1, "num": 2}, "both ends must be above 0, or both below"),
        ({"kind": "log", "start": 1, "stop": 2, "num": 1}, "num is 1"),
        ({"kind": "spiral"}, "nodes[0].positions: Input tag 'spiral'"),
    ],
)
def test_positions_that_make_no_sense_are_refused_with_their_place(positions: dict[str, Any], words: str) -> None:
    assert words in wrong(move("stage.x", positions))


# ------------------------------------------------------------------------------------------------------------------ snake


def test_a_snake_runs_backwards_on_every_odd_pass() -> None:
    assert values(grid(3, 3, snake=True)) == [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0), (2, 0), (2, 1), (2, 2)]


def test_the_turn_of_a_snake_moves_the_outer_axis_only() -> None:
    steps = list(walk(grid(2, 3, snake=True)))
    assert steps[3].moves == (MoveTo("stage", "y", 1.0, 0.0),)
    assert steps[4].moves == (MoveTo("stage", "x", 1.0, 0.0),)


def test_a_snake_in_a_third_axis_never_jumps_also_where_the_lines_are_odd_in_number() -> None:
    plan_ = plan(
        move(
            "stage.z",
            linear(0, 2, 3),
            move("stage.y", linear(0, 2, 3), move("stage.x", linear(0, 3, 4), snake=True), snake=True),
        )
    )
    places = values(plan_)
    assert len(set(places)) == 36
    assert all(math.dist(a, b) == 1 for a, b in pairwise(places))


def test_siblings_count_their_own_passes_for_the_snake() -> None:
    line = move("stage.x", linear(0, 1, 2), snake=True)
    plan_ = plan(move("bath.t", listed(10, 20), line, READ_V, line))
    assert values(plan_) == [
        *[(10, 0), (10, 1), (10,), (10, 0), (10, 1)],
        *[(20, 1), (20, 0), (20,), (20, 1), (20, 0)],
    ]


# ------------------------------------------------------------------------------------------------------------------- walk


def test_a_walk_begins_with_the_whole_path_and_then_says_what_changes() -> None:
    plan_ = plan(move("bath.t", listed(4, 300), move("stage.x", linear(0, 1, 2)), settle_s=60))
    t = [MoveTo("bath", "t", value, 60.0) for value in (4.0, 300.0)]
    x = [MoveTo("stage", "x", value, 0.0) for value in (0.0, 1.0)]
    assert [step.moves for step in walk(plan_)] == [(t[0], x[0]), (x[1],), (t[1], x[0]), (x[1],)]
    assert [step.moves for step in walk(plan_, 1)] == [(t[0], x[1]), (t[1], x[0]), (x[1],)]


def test_a_sibling_that_left_a_channel_elsewhere_has_it_moved_back() -> None:
    there_and_back = plan(move("stage.x", listed(0, 5)), move("stage.x", listed(5, 0)), move("stage.x", listed(1)))
    assert [[m.value for m in step.moves] for step in walk(there_and_back)] == [[0], [5], [], [0], [1]]


def test_an_axis_that_repeats_a_position_moves_and_settles_at_each_repeat() -> None:
    assert [len(step.moves) for step in walk(plan(move("stage.x", listed(2, 2, 2), settle_s=1)))] == [1, 1, 1]
    outer = plan(move("bath.t", listed(4, 4), move("stage.x", listed(0, 1), snake=True), settle_s=60))
    assert [[m.channel for m in step.moves] for step in walk(outer)] == [["t", "x"], ["x"], ["t"], ["x"]]


# ---------------------------------------------------------------------------------------------------------------- columns


def test_a_reading_of_a_moved_channel_and_a_second_reading_get_names_of_their_own() -> None:
    both = {"kind": "measure", "instrument": "stage", "channels": ["x", "load"]}
    plan_ = plan(move("stage.x", linear(0, 1, 2), both, READ_V, READ_V, both))
    (branch,) = branches(plan_)
    assert branch.names == (
        *("stage.x", "stage.x.read", "stage.load", "dmm.voltage", "dmm.voltage.read2"),
        *("stage.x.read2", "stage.load.read2"),
    )
    assert [column.role for column in branch.columns] == ["position"] + ["reading"] * 6


def test_a_channel_whose_name_looks_like_a_second_reading_keeps_it() -> None:
    both = {"kind": "measure", "instrument": "stage", "channels": ["x", "x.read"]}
    (branch,) = branches(plan(move("stage.x", linear(0, 1, 2), both)))
    assert branch.names == ("stage.x", "stage.x.read2", "stage.x.read")


def test_the_instruments_are_all_that_are_moved_or_read() -> None:
    assert instruments(plan(move("stage.x", linear(0, 1, 2)), READ_V)) == {"stage", "dmm"}


# ----------------------------------------------------------------------------------------------------------------- bounds


def test_a_channel_moved_twice_on_one_path_is_refused() -> None:
    words = wrong(move("stage.x", listed(1), move("stage.y", listed(1), move("stage.x", listed(1)))))
    assert words == "nodes[0].children[0].children[0]: stage.x is moved already by a move around this one"


def test_a_channel_twice_in_one_measure_is_refused() -> None:
    assert "voltage twice in one measure" in wrong(READ_V | {"channels": ["voltage", "voltage"]})


def test_a_plan_of_nothing_is_refused() -> None:
    assert wrong() == "nodes: give at least one node, a move or a measure"
    assert wrong(move("stage.x", listed(1)) | {"children": []}).startswith("nodes[0].children: give at least one node")


def test_what_is_too_much_is_refused_in_words() -> None:
    deep: dict[str, Any] = READ_V
    for level in range(17):
        deep = move(f"stage.x{level}", listed(1), deep)
    assert "nested more than 16 deep" in wrong(deep)
    assert "1001 nodes" in wrong(*[READ_V] * 1001)
    assert "points (at most" in wrong(move("stage.x", linear(0, 1, 10**12)), READ_V)
    assert "lists 12000 positions" in wrong(*[move("stage.x", listed(*range(6000)))] * 2)
    many = {"kind": "measure", "instrument": "dmm", "channels": [f"c{i}" for i in range(4000)]}
    assert "measures 8000 channels" in wrong(many, many)


@pytest.mark.parametrize("depth", [100, 3_000])
def test_nesting_without_end_is_refused_and_not_a_crash(depth: int) -> None:
    deep: dict[str, Any] = READ_V
    for level in range(depth):
        deep = move(f"stage.x{level}", listed(1), deep)
    assert "depth exceeded" in wrong(deep) or "16 deep" in wrong(deep)


def test_what_a_plan_does_not_know_is_refused() -> None:
    assert "nodes[0].chanels: Extra inputs" in wrong(READ_V | {"chanels": []})
    assert "nodes[0]: Input tag 'wait'" in wrong({"kind": "wait"})
    assert "nodes[0].settle_s" in wrong(READ_V | {"settle_s": -1})
    assert "nodes[0].settle_s" in wrong(READ_V | {"settle_s": math.nan})


def test_a_plan_is_the_same_after_a_way_through_json() -> None:
    plan_ = plan(move("bath.t", listed(4, 300), move("stage.x", linear(0, 0.3, 4), snake=True, settle_s=0.1)), READ_V)
    assert Plan.model_validate_json(plan_.model_dump_json()) == plan_
    assert Plan.model_validate(json.loads(plan_.model_dump_json())) == plan_
    assert "layout" not in plan_.model_dump()


# ----------------------------------------------------------------------------------------------------------------- limits

LAB = {
    "stage": {
        "x": Channel(kind="rw", unit="mm", limits=(0, 10)),
        "n": Channel(kind="w", type="int", limits=(0, 100)),
        "speed": Channel(kind="r", unit="mm/s"),
        "filter": Channel(kind="rw", type="str", choices=("red", "green")),
        "gain": Channel(kind="rw", choices=("1", "10")),
        "shutter": Channel(kind="rw", type="bool"),
    },
    "dmm": {"voltage": Channel(kind="r", unit="V"), "spectrum": Channel(kind="rw", type="array", shape=(512,))},
}


@pytest.mark.parametrize(
    "node",
    [
        move("stage.x", linear(0, 10, 3), {"kind": "measure", "instrument": "dmm", "channels": ["spectrum"]}),
        move("stage.n", linear(0, 100, 101)),
        move("stage.n", {"kind": "log", "start": 1, "stop": 10, "num": 2}),
        move("stage.filter", listed("red", "green")),
        move("stage.gain", listed(1, 10)),
        move("stage.shutter", listed(True, False)),
    ],
)
def test_what_the_instruments_can_do_is_let_through(node: Any) -> None:
    check_limits(plan(node), LAB)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (move("stage.x", listed(1, 2, 12)), "stage.x: position 2 is 12.0 mm, outside its limits 0 .. 10 mm"),
        (move("stage.x", listed(-1, 11)), "position 0 is -1.0 mm.*; stage.x: position 1 is 11.0 mm"),
        (move("stage.x", linear(0, 10.5, 5)), "stage.x: position 4 is 10.5 mm, outside"),
        (move("stage.x", linear(-1, 5, 10**12)), "stage.x: position 0 is -1.0 mm"),
        (move("stage.x", listed("far")), 'stage.x: position 0 is "far", but it takes a number'),
        (move("stage.n", linear(0, 10, 4)), "stage.n: takes whole numbers only"),
        (move("stage.n", {"kind": "log", "start": 1, "stop": 100, "num": 3}), "stage.n: takes whole numbers only"),
        (move("stage.n", listed(1, 1.5)), "stage.n: position 1 is 1.5, but it takes a whole number"),
        (move("stage.filter", listed("red", "blue")), 'position 1 is "blue", not one of its choices red, green'),
        (move("stage.filter", linear(0, 1, 2)), "takes one of red, green: give its positions as a list"),
        (move("stage.gain", listed(1, 5)), "position 1 is 5.0, not one of its choices 1, 10"),
        (move("stage.shutter", listed(0, 1)), "position 0 is 0.0, but it takes true or false"),
        (move("stage.speed", listed(1)), "stage.speed can only be read, not moved"),
        (move("dmm.spectrum", listed(1)), "dmm.spectrum is an array"),
        (move("stage.q", listed(1)), "stage has no channel 'q' .it has: filter, gain, n, shutter, speed, x"),
        (move("laser.power", listed(1)), "there is no instrument 'laser' here .there are: dmm, stage"),
        ({"kind": "measure", "instrument": "stage", "channels": ["n"]}, "stage.n can only be written, not measured"),
        ({"kind": "measure", "instrument": "dmm", "channels": ["amps"]}, "dmm has no channel 'amps'"),
    ],
)
def test_what_they_cannot_do_is_refused_by_name_before_anything_moves(node: Any, words: str) -> None:
    with pytest.raises(OutOfLimits, match=words):
        check_limits(plan(node), LAB)


# -------------------------------------------------------------------------------------------------------------- templates

LINE = Template.model_validate(
    {
        "name": "line",
        "parameters": {
            "width": {"min": 0, "max": 10, "doc": "mm"},
            "num": {"type": "int", "default": 11, "min": 2, "max": 1000},
            "snake": {"type": "bool", "default": False},
        },
        "plan": {
            "nodes": [
                move(
                    "stage.x",
                    {"kind": "linear", "start": 0, "stop": {"$param": "width"}, "num": {"$param": "num"}},
                    snake={"$param": "snake"},
                )
            ]
        },
    }
)


def test_a_template_filled_is_a_plan_and_defaults_fill_what_is_not_given() -> None:
    assert LINE.fill({"width": 5, "num": 3.0, "snake": True}) == plan(move("stage.x", linear(0, 5, 3), snake=True))
    assert LINE.fill({"width": 10}) == plan(move("stage.x", linear(0, 10, 11)))


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({}, r"template line: width is missing \(mm\); its parameters are width, num, snake"),
        ({"width": 1, "with": 2}, "'with' is no parameter of line"),
        ({"width": 11}, "width is 11, above the maximum 10"),
        ({"width": -0.5}, "width is -0.5, below the minimum 0"),
        ({"width": "5"}, "width is '5', but must be a number"),
        ({"width": True}, "width is True, but must be a number"),
        ({"width": math.nan}, "width is nan, but must be a number"),
        ({"width": 1, "num": 2.5}, "num is 2.5, but must be a whole number"),
        ({"width": 1, "snake": 1}, "snake is 1, but must be true or false"),
    ],
)
def test_a_template_says_what_is_missing_unknown_or_out_of_range(given_: dict[str, Any], words: str) -> None:
    with pytest.raises(OutOfLimits, match=words):
        LINE.fill(given_)


def test_a_list_parameter_is_bounded_value_by_value() -> None:
    template = Template.model_validate(
        {
            "name": "temperatures",
            "parameters": {"t": {"type": "list", "min": 0, "max": 300}},
            "plan": {"nodes": [move("bath.t", {"kind": "list", "values": {"$param": "t"}})]},
        }
    )
    assert template.fill({"t": [4, 300]}) == plan(move("bath.t", listed(4, 300)))
    with pytest.raises(OutOfLimits, match="t has at 1 what is 301, above the maximum 300"):
        template.fill({"t": [4, 301]})
    with pytest.raises(Refused, match=r"is no plan: nodes\[0\].positions.values: give at least one position"):
        template.fill({"t": []})


@pytest.mark.parametrize(
    ("parameters", "stop", "words"),
    [
        ({}, {"$param": "w"}, "uses parameters that are not declared: w"),
        ({"w": {}, "v": {}}, {"$param": "w"}, "does not use the parameters v"),
        ({"w": {}}, {"$param": "w", "x": 1}, r"plan.nodes\[0\].positions.stop: a placeholder is"),
        ({"w": {"min": 1, "default": 0}}, {"$param": "w"}, "the default is 0, below the minimum 1"),
        ({"w": {"min": 2, "max": 1}}, {"$param": "w"}, "min 2 is above max 1"),
        ({"w": {"type": "str", "max": 1}}, {"$param": "w"}, "min and max are for numbers"),
    ],
)
def test_a_template_that_can_never_be_filled_is_refused(parameters: Any, stop: Any, words: str) -> None:
    nodes = [move("stage.x", {"kind": "linear", "start": 0, "stop": stop, "num": 2})]
    with pytest.raises(ValidationError, match=words):
        Template.model_validate({"name": "t", "parameters": parameters, "plan": {"nodes": nodes}})


def test_a_template_is_the_same_after_a_way_through_json() -> None:
    assert Template.model_validate_json(LINE.model_dump_json()) == LINE
    assert Parameter(type="list", default=[1, 2]).default == [1, 2]
