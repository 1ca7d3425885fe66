"""A pen with momentum on strokes drawn here: crossings, dashes, corners, ends."""

import math
from itertools import pairwise

import cv2
import numpy as np
import pytest

from adapters.curves.ends import without_borrowed_tails
from adapters.curves.exchange import led_through, swapped
from adapters.curves.follow import (
    Field,
    Pen,
    Trail,
    both_ways,
    centred,
    explained,
    field_of,
    follow,
    unfolded,
    unreversed,
)
from adapters.curves.shapes import Path
from tests.layers import NOTHING, layer_of, path_of

HIGH, WIDE, THICK = 300, 420, 4
SOLID = Pen(gap=0.9, reach=24, lag=54)
DASHED = Pen(gap=0.35, reach=28, lag=54)


def field(*curves: np.ndarray, hidden: np.ndarray | None = None) -> Field:
    mask = np.zeros((HIGH, WIDE), np.uint8)
    for points in curves:
        cv2.polylines(mask, [np.round(points).astype(np.int32).reshape(-1, 1, 2)], False, 1, THICK)
    none = np.zeros((HIGH, WIDE), bool)
    return field_of(mask.astype(bool), none if hidden is None else hidden, THICK, 0)


def line(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.linspace((x0, y0), (x1, y1), 200)


def off(trail: np.ndarray, truth: np.ndarray) -> float:
    return float(np.hypot(*(trail[:, None] - truth[None]).transpose(2, 0, 1)).min(axis=1).max())


@pytest.mark.parametrize("angle_deg", [12, 25, 60, 90])
def test_it_goes_straight_on_at_a_crossing(angle_deg: float) -> None:
    c, s = 140 * math.cos(math.radians(angle_deg)), 140 * math.sin(math.radians(angle_deg))
    mine, other = line(20, 150, 400, 150), line(210 - c, 150 - s, 210 + c, 150 + s)
    trail = both_ways(field(mine, other), 40, 150, 0, 0, SOLID)
    assert off(trail.points, mine) < 5
    assert np.ptp(trail.points[:, 0]) > 370


def test_a_dashed_curve_keeps_to_its_dashes_where_a_solid_one_crosses() -> None:
    x = np.linspace(10, 410, 400)
    solid = np.c_[x, 60 + 0.45 * x]
    dashes = [line(a, 230 - 0.4 * a, a + 14, 230 - 0.4 * (a + 14)) for a in range(10, 400, 24)]
    ground = field(solid, *dashes)
    explained(ground, solid, 0.2)
    trail = both_ways(ground, 17, 230 - 0.4 * 17, math.atan2(-0.4, 1), 0, DASHED)
    assert off(trail.points, line(10, 226, 410, 66)) < 4
    assert trail.points[:, 0].max() > 385


def test_it_follows_a_bend_under_a_label() -> None:
    t = np.linspace(0, 1, 300)
    curve = np.c_[20 + 380 * t, 260 - 220 * t**2]
    ground = field(curve)
    hidden = np.zeros((HIGH, WIDE), bool)
    hidden[:, 190:260] = True
    ground = field_of(ground.ridge * ~hidden > 0.2, hidden, THICK, 0)
    trail = both_ways(ground, 60, float(np.interp(60, curve[:, 0], curve[:, 1])), -0.1, -0.002, SOLID)
    assert off(trail.points, curve) < 6
    assert trail.points[:, 0].max() > 390


def test_it_turns_a_sharp_corner() -> None:
    flat, steep = line(20, 220, 200, 220), line(200, 220, 300, 20)
    trail = both_ways(field(flat, steep), 40, 220, 0, 0, SOLID)
    assert off(trail.points, np.concatenate([flat, steep])) < 5
    assert trail.points[:, 1].min() < 30


def test_a_curve_that_ends_is_not_led_on_to_a_longer_one() -> None:
    short, long = line(20, 200, 200, 150), line(20, 40, 400, 40)
    trail = both_ways(field(short, long), 40, 194, -0.27, 0, SOLID)
    assert trail.points[:, 0].max() < 210


def test_narrow_peaks_are_gone_around() -> None:
    x = np.linspace(10, 410, 1200)
    curve = np.c_[x, 250 - 120 * np.exp(-(((x - 210) / 36) ** 2))]
    trail = both_ways(field(curve), 40, 250, 0, 0, SOLID)
    assert off(trail.points, curve) < 8
    assert np.ptp(trail.points[:, 0]) > 380


def test_it_does_not_come_back_on_its_own_way() -> None:
    out, back = line(20, 150, 200, 150), line(200, 150, 60, 150)
    points = np.concatenate([out, back])
    end = unfolded(Trail(points, np.ones(len(points), bool), 0.0), THICK).points
    assert end[-1, 0] > 170
    assert len(end) < 1.2 * len(out)


def test_the_same_start_gives_the_same_way() -> None:
    ground = field(line(20, 150, 400, 150), line(20, 50, 400, 250))
    one, two = (follow(ground, 40, 150, 0, 0, SOLID) for _ in range(2))
    assert np.array_equal(one.points, two.points)
    assert one.doubt == two.doubt


def test_points_are_drawn_to_the_middle_of_the_ink() -> None:
    mask = np.zeros((HIGH, WIDE), bool)
    mask[148:153] = True
    assert np.abs(centred(line(20, 152, 400, 152), mask, 5)[5:-5, 1] - 150).max() < 0.6


def test_a_pointer_ends_where_it_meets_a_curve_and_a_merging_curve_goes_on() -> None:
    shared = line(200, 150, 400, 150)
    ground = field(shared)
    explained(ground, shared, 0.2)
    for start, kept in (((120.0, 60.0), False), ((20.0, 160.0), True)):
        points = np.concatenate([line(*start, 200, 150)[:-1], shared])
        trail = without_borrowed_tails(ground, Trail(points, np.ones(len(points), bool), 0.0))
        assert bool(trail.points[-1, 0] > 390) == kept


def test_a_long_curve_that_comes_out_of_anothers_corner_shares_its_beginning() -> None:
    """As curves of gate charge leave their plateau one after the other; one that goes back along x has turned into the other."""
    rising = line(380, 40, 230, 190)
    for end, kept in (((20.0, 200.0), True), ((400.0, 180.0), False)):
        shared = line(230, 190, *end)
        ground = field(shared)
        explained(ground, shared, 0.2)
        points = np.concatenate([rising[:-1], shared])
        trail = without_borrowed_tails(ground, Trail(points, np.ones(len(points), bool), 0.0))
        assert bool(math.dist(trail.points[-1], end) < 5) == kept


def test_a_way_that_bends_into_another_curve_has_no_beginning_there() -> None:
    shared, x = line(230, 190, 20, 200), np.linspace(330, 230, 200)
    ground = field(shared)
    explained(ground, shared, 0.2)
    points = np.concatenate([np.c_[x, 190 - 2.2 * (x - 230) + 0.02 * (x - 230) ** 2][:-1], shared])
    trail = without_borrowed_tails(ground, Trail(points, np.ones(len(points), bool), 0.0))
    assert trail.points[-1, 0] > 220


def rests_exchanged(*ways: np.ndarray) -> list[np.ndarray]:
    return [p.points for p in swapped([Path(np.asarray(w, np.float64), width=THICK) for w in ways])]


def test_ends_are_exchanged_where_that_makes_both_curves_smooth() -> None:
    rising, falling = line(20, 250, 400, 50), line(20, 50, 400, 250)
    mixed = np.concatenate([rising[:100], falling[100:]]), np.concatenate([falling[:100], rising[100:]])
    better = rests_exchanged(*mixed)
    assert min(off(better[0], rising), off(better[0], falling)) < 3
    assert min(off(better[1], rising), off(better[1], falling)) < 3
    kept = rests_exchanged(rising, falling)
    assert np.array_equal(kept[0], rising) and np.array_equal(kept[1], falling)


def test_a_stroke_stays_as_dark_as_it_was() -> None:
    """Two curves that touch and part, or cross at a small angle: the shades of a grey picture tell which."""
    x = np.linspace(20, 400, 380)
    upper, lower = (np.c_[x, 150 + s * 0.0015 * (x - 210) ** 2] for s in (-1, 1))
    for dark_crosses in (False, True):

        def tone(points: np.ndarray, *, dark_crosses: bool = dark_crosses) -> float:
            above = float(points[:, 1].mean()) < 150
            return 200.0 if above == (not dark_crosses or float(points[:, 0].mean()) < 210) else 120.0

        ways = swapped([Path(w, width=THICK) for w in (upper, lower)], tone)
        assert (off(ways[0].points, upper) < 3) == (not dark_crosses)


def test_three_bent_curves_through_one_point_get_their_rests_back_together() -> None:
    x = np.linspace(20, 400, 380)
    bent = 270 - 240 * (1 - np.exp(-(x - 20) / 90))
    curves = [np.c_[x, bent + slope * (x - 190)] for slope in (-0.14, 0.02, 0.16)]
    cut = int(np.argmin(np.abs(x - 190)))
    mixed = [np.concatenate([curves[k][:cut], curves[(k + 1) % 3][cut:]]) for k in range(3)]
    better = rests_exchanged(*mixed)
    for way in better:
        assert min(off(way, curve) for curve in curves) < 3


def test_lines_that_cross_in_one_long_strip_do_not_touch_and_part() -> None:
    x = np.linspace(10, 410, 400)
    curves = [np.round(np.c_[x, 250 - 0.5 * x + slope * (x - 130)], 1) for slope in (-0.08, 0.0, 0.06)]
    cut = int(np.argmin(np.abs(x - 130)))
    mixed = [np.concatenate([curves[k][:cut], curves[j][cut:]]) for k, j in enumerate((2, 0, 1))]
    for way in rests_exchanged(*mixed):
        assert min(off(way, curve) for curve in curves) < 3


def pieces_of(*ways: np.ndarray) -> list[Path]:
    return [path_of(np.asarray(w, np.float64)) for w in ways]


def test_where_a_way_took_the_others_branch_three_pieces_become_two_curves() -> None:
    x = np.linspace(10, 590, 580)
    valley, later = (np.c_[x, 380 - 0.004 * (x - c) ** 2] for c in (250.0, 330.0))
    meet = int(np.argmin(np.abs(valley[:, 1] - later[:, 1])))
    found = led_through(
        pieces_of(np.concatenate([valley[:meet], later[meet:]]), later[: meet - 4][::-1], valley[meet + 5 :]),
        layer_of(NOTHING),
    )
    assert len(found) == 2
    for path in found:
        assert min(off(path.points, valley), off(path.points, later)) < 3


def test_curves_that_end_where_another_one_passes_are_not_led_through_it_at_a_corner() -> None:
    passing, left, right = line(10, 200, 590, 200), line(20, 20, 296, 196), line(304, 196, 580, 20)
    assert len(led_through(pieces_of(passing, left, right), layer_of(NOTHING))) == 3


def trail_of(*corners: tuple[float, float]) -> Trail:
    pieces = [np.linspace(a, b, max(2, round(math.dist(a, b) / 3)))[1:] for a, b in pairwise(corners)]
    points = np.concatenate([np.array([corners[0]], np.float64), *pieces])
    return Trail(points, np.ones(len(points), bool), 0.0)


def test_a_way_that_comes_back_from_where_curves_begin_ends_there() -> None:
    trail = unreversed(trail_of((380, 60), (120, 70), (20, 290), (60, 60), (100, 20)), THICK)
    assert math.dist(trail.points[-1], (20, 290)) < 12


def test_a_peak_is_no_way_back_and_shaking_neither() -> None:
    peak = trail_of((20, 250), (190, 240), (205, 20), (222, 240), (400, 250))
    assert len(unreversed(peak, THICK).points) == len(peak.points)
    shaking = trail_of((380, 60), (160, 150), (164, 170), (150, 180), (20, 290))
    assert len(unreversed(shaking, THICK).points) == len(shaking.points)
