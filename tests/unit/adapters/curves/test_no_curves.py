"""What is drawn in a plot and is no curve: pointers, the frame, letters, rests of the grid; and curves that other things hide."""

from dataclasses import replace

import numpy as np
import pytest

from adapters.curves.ends import along_frame, along_lines, along_others, rides
from adapters.curves.join import joined, over_the_top
from adapters.curves.no_curves import fine, hugs_frame, with_own_ink
from adapters.curves.shapes import Box, Path
from adapters.curves.trace import trace, trace_layer
from adapters.curves.ways import curls, plumb
from adapters.curves.work import Work
from tests.layers import HIGH, NOTHING, RIM, SIZE, THICK, WIDE, X, covering, drawn, layer_of, line, path_of


def test_a_fine_pointer_from_a_label_over_a_curve_to_another_is_no_curve() -> None:
    upper, lower = np.c_[X, 100 + 0.3 * X], np.c_[X, 200 + 0.3 * X]
    pointer = line((200, 330), (262, 200))
    label = Box(150, 332, 215, 352)
    text = NOTHING.copy()
    text[332:353, 150:216] = True
    layer = layer_of(drawn((upper, THICK), (lower, THICK), (pointer, 2)), text=text)
    assert len(trace([layer], SIZE, (label,))) == 2


def test_a_straight_end_behind_a_label_belongs_to_its_curve() -> None:
    curve = np.c_[X, 100 + 0.004 * np.maximum(X - 430, 0) ** 2]
    label = Box(470, 94, 520, 138)
    text = NOTHING.copy()
    text[94:139, 470:521] = True
    found = trace([layer_of(drawn((curve, THICK)), text=text)], SIZE, (label,))
    assert len(found) == 1
    assert found[0].points[:, 0].max() > 580
    assert found[0].points[:, 0].min() < 20


def test_strokes_of_a_much_finer_pen_are_told_by_their_depth() -> None:
    assert fine(np.full(40, 1.0), 5.0)
    assert not fine(np.full(40, 2.8), 5.0)
    assert not fine(np.r_[np.full(40, 2.8), np.zeros(60)], 5.0), "what lies under a text tells nothing of the pen"
    assert not fine(np.full(40, 1.0), 2.0), "where curves are fine themselves nothing is told"


@pytest.mark.parametrize("y", [RIM + 1.0, HIGH - RIM - 2.0])
def test_a_level_line_at_the_frame_is_the_frame(y: float) -> None:
    layer = layer_of(NOTHING)
    assert hugs_frame(np.c_[X, np.full(len(X), y)], layer)
    assert not hugs_frame(np.c_[X, np.full(len(X), HIGH / 2)], layer)
    assert not hugs_frame(np.c_[X, np.linspace(y, HIGH / 2, len(X))], layer)


def test_an_upright_line_that_leans_on_other_ink_at_its_ends_is_upright_still() -> None:
    upright = line(*[(100 + 0.2 * (k % 2), 20 + k) for k in range(400)], (104, 421), (108, 422), (112, 423))
    assert plumb(upright, 2.6)
    assert not plumb(np.c_[X, 100 + 0.3 * X], 2.6)


def test_letters_curl_and_peaks_do_not() -> None:
    t = np.linspace(0, 4 * np.pi, 200)
    assert curls(np.c_[100 + 12 * np.cos(t) + t, 100 + 12 * np.sin(t)])
    assert not curls(np.c_[X, 300 - 250 * np.exp(-(((X - 300) / 20) ** 2))])


def test_a_peak_that_touches_the_frame_is_one_curve() -> None:
    peak = 0.004 * (X - 300) ** 2
    found = trace([layer_of(drawn((np.c_[X, peak], THICK)))], SIZE)
    assert len(found) == 1
    assert found[0].points[:, 0].min() < 60
    assert found[0].points[:, 0].max() > 540


def test_two_curves_that_leave_the_plot_side_by_side_stay_two() -> None:
    left, right = line((100, 440), (280, 0)), line((500, 440), (300, 0))
    paths = [path_of(np.linspace(a[-1], a[0], 300)) for a in (left, right)]
    assert len(over_the_top(paths, layer_of(NOTHING))) == 2


def test_halves_of_a_peak_that_were_led_past_each_other_to_the_frame_are_one_curve() -> None:
    x = np.linspace(20, 580, 560)
    y = 0.006 * (x - 300) ** 2
    left, right = np.c_[x, y][(x < 270)][::-1], np.c_[x, y][x > 330]
    # As `to_border` has it: straight on from the last ink.
    paths = [
        path_of(np.concatenate([line((310, 0)), left])),
        path_of(np.concatenate([line((290, 0)), right])),
    ]
    found = over_the_top(paths, layer_of(NOTHING))
    assert len(found) == 1
    middle = np.abs(found[0].points[:, 0] - 300) < 200
    away = np.hypot(*(found[0].points[middle][:, None] - np.c_[x, y][None]).transpose(2, 0, 1)).min(axis=1)
    assert away.max() < 4
    assert np.ptp(found[0].points[:, 0]) > 550


def along_a_line(other_ends: float) -> list[Path]:
    """A curve that ends on a grid line at x = 300, beside two that end at `other_ends`."""
    hidden = NOTHING.copy()
    hidden[198:203] = True
    layer = layer_of(NOTHING, hidden=hidden, weak=hidden)
    x = np.linspace(20, 300, 280)
    ending = path_of(np.c_[x, 200 + 100 * np.exp(-x / 40)])
    others = [path_of(np.c_[np.linspace(20, other_ends, 300), np.full(300, y)]) for y in (50.0, 100.0)]
    return along_lines([ending, *others], layer)


def test_a_curve_that_ends_on_a_grid_line_goes_on_to_where_the_others_end() -> None:
    assert along_a_line(595)[0].points[-1] == pytest.approx((595, 200), abs=1.5)
    assert along_a_line(300)[0].points[-1, 0] == pytest.approx(300)


def test_a_curve_may_bend_under_a_legend_one_way() -> None:
    hidden = NOTHING.copy()
    hidden[100:300, 100:300] = True
    layer = layer_of(NOTHING, hidden=hidden)
    t = np.linspace(0, np.pi / 2, 400)
    arch = np.c_[60 + 400 * (1 - np.cos(t)), 400 - 350 * np.sin(t)]
    under = (arch[:, 0] > 130) & (arch[:, 0] < 220)
    first, second = arch[: int(np.argmax(under))], arch[int(len(arch) - np.argmax(under[::-1])) :]
    found = joined([path_of(first), path_of(second)], layer, SIZE)
    assert len(found) == 1
    away = np.hypot(*(found[0].points[:, None] - arch[None]).transpose(2, 0, 1)).min(axis=1)
    assert away.max() < 8


def test_a_way_under_a_text_and_along_the_grid_into_another_curve_is_none() -> None:
    upper, lower = np.c_[X, 100 + 0.2 * X], np.c_[X, 250 + 0.2 * X]
    text = covering(Box(240, 190, 330, 340))
    hidden = NOTHING.copy()
    hidden[209:213, 330:540] = True
    layer = layer_of(drawn((upper, THICK), (lower, THICK)), text=text, hidden=hidden)
    across = np.concatenate([lower[X < 240], line((330, 211), (540, 211)), upper[X > 555]])
    paths = [path_of(upper), path_of(lower), replace(path_of(across), shared=0.6)]
    assert with_own_ink(paths, layer, SIZE) == paths[:2]


def test_a_tick_and_the_grid_line_behind_it_are_no_curve() -> None:
    curve = np.c_[X, 100 + 0.3 * X]
    hidden = NOTHING.copy()
    hidden[160:163] = True
    layer = layer_of(drawn((curve, THICK), (line((0, 161), (22, 161)), 3)), hidden=hidden)
    assert len(trace([layer], SIZE)) == 1
    # Nor is what nobody sees of the line its own before it is compared with others.
    assert all(float(p.details["fresh"]) < 0.15 * SIZE for p in trace_layer(layer, SIZE, Work()) if p.dashed)


def test_a_level_curve_that_leaves_others_smoothly_is_no_rest_of_the_grid() -> None:
    rise = 420 - 0.6 * X
    curves = [np.c_[X, level + 12 * np.logaddexp(0, (rise - level) / 12)] for level in (260.0, 220.0, 180.0)]
    assert len(trace([layer_of(drawn(*((c, THICK) for c in curves)))], SIZE)) == 3


@pytest.mark.parametrize(("deep", "leaves"), [(0.1, True), (0.16, True), (0.28, False)])
def test_a_straight_curve_that_leaves_the_plot_under_a_text_goes_on_to_the_frame(deep: float, leaves: bool) -> None:
    """`deep` is how far down the text reaches, as a part of the plot's diagonal: too far to say what a curve does behind it."""
    curve = line((100, 440), (260, 0))
    low = deep * SIZE
    text = covering(Box(150, 0, 300, low))
    found = trace([layer_of(drawn((curve, THICK)), text=text)], SIZE)
    assert len(found) == 1
    end = (260, 0) if leaves else (260 - low * 160 / 440, low)
    assert found[0].points[np.argmin(found[0].points[:, 1])] == pytest.approx(end, abs=8)


def test_a_curve_does_not_go_on_under_the_frame_because_another_one_is_seen_there() -> None:
    other = np.c_[X, np.minimum(HIGH - 5.0, HIGH - 5 - 0.5 * (X - 300))]
    ink = drawn((other, THICK))
    frame = NOTHING.copy()
    frame[-3:], frame[:3] = True, True
    # The lower side is thicker where the other curve touches it, and nowhere else.
    assert not rides(layer_of(ink, weak=ink | frame), 300, 0)
    ridden = frame.copy()
    ridden[-6:, :300] = True
    assert rides(layer_of(NOTHING, weak=ridden), 300, 0)


def test_a_curve_that_runs_flat_into_a_side_of_the_frame_goes_on_under_it_where_that_is_thicker() -> None:
    """As thermal impedances do, which end at one, the upper side of their plots."""
    curve = np.c_[X[X < 350], HIGH - 1 - 0.004 * (350 - X[X < 350]) ** 2]
    frame = NOTHING.copy()
    frame[-3:], frame[:3] = True, True
    ridden = frame.copy()
    ridden[-6:, 340:] = True
    for upper in (False, True):
        points = np.c_[curve[:, 0], HIGH - 1 - curve[:, 1]] if upper else curve
        for weak, end in ((frame, 350), (ridden, WIDE - 1)):
            layer = layer_of(NOTHING, weak=weak[::-1] if upper else weak)
            assert float(along_frame(points, layer)[:, 0].max()) == pytest.approx(end, abs=3)


def merging(end: float) -> list[Path]:
    """A curve along a level trunk, and one that comes down on it at x = 300 and runs along it until `end`."""
    trunk = np.c_[X, 300 + 0.1 * X]
    own = np.linspace(40, 300, 200)
    shared = np.linspace(300, end, 60)[1:]
    branch = np.r_[np.c_[own, 300 + 0.1 * own - 0.003 * (300 - own) ** 2], np.c_[shared, 300 + 0.1 * shared]]
    return [path_of(trunk), path_of(branch)]


def test_a_curve_that_merges_with_another_goes_on_along_it() -> None:
    paths = merging(360)
    for way in (paths[1].points, paths[1].points[::-1]):
        trunk, branch = along_others([paths[0], replace(paths[1], points=way)], layer_of(NOTHING), SIZE)
        assert trunk is paths[0]
        assert branch.points[:, 0].max() > 580 and branch.points[:, 0].min() < 45


def test_what_only_meets_another_or_has_another_colour_or_reached_the_frame_ends_there() -> None:
    trunk, branch = merging(360)
    meets = path_of(np.c_[np.linspace(40, 300, 200), np.linspace(60, 330, 200)])
    red = replace(branch, colour=(200, 0, 0))
    whole = path_of(merging(598)[1].points)
    for other in (meets, red, whole):
        assert along_others([trunk, other], layer_of(NOTHING), SIZE)[1] is other
