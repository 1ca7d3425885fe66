"""One colour, one curve: what the cheapest way gets over, and what it must not take for one curve."""

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np

from adapters.curves.ink import Layer
from adapters.curves.lane import beyond_cover, sole_curve, without_pointer_paths
from adapters.curves.shapes import Box, Path
from adapters.curves.trace import trace

WIDE, HIGH, THICK = 400, 300, 4
SIZE = float(np.hypot(WIDE, HIGH))
RED, BLUE, BLACK = (200, 20, 20), (20, 20, 200), (0, 0, 0)
PAPER = np.full((HIGH, WIDE, 3), 255, np.uint8)
AT = np.arange(20.0, 380.0)
PEAK = 250 - 200 * np.exp(-(((AT - 200) / 35) ** 2))


def layer_of(*strokes: np.ndarray, keep: np.ndarray | None = None, hidden: np.ndarray | None = None) -> Layer:
    """A red layer with polylines (N x 2) drawn in it, in its columns `keep` only."""
    image = np.zeros((HIGH, WIDE), np.uint8)
    for points in strokes:
        cv2.polylines(image, [np.round(points).astype(np.int32).reshape(-1, 1, 2)], False, 1, THICK)
    mask = image.astype(bool)
    if keep is not None:
        mask &= keep[None]
    nothing = np.zeros((HIGH, WIDE), np.bool_)
    return Layer(mask, nothing if hidden is None else hidden, mask, nothing, RED, True, (0, 0), float(THICK))


def error(path: Path, x: np.ndarray, y: np.ndarray) -> float:
    """Largest distance in pixels of a known curve's points from the path."""
    return max(float(np.hypot(*(path.points - p).T).min()) for p in np.c_[x, y])


def test_a_curve_is_followed_in_the_middle_of_its_ink() -> None:
    path = sole_curve(layer_of(np.c_[AT, PEAK]), SIZE)
    assert path is not None
    assert error(path, AT[8:-8], PEAK[8:-8]) < 2


def test_a_dashed_peak_is_not_cut_off() -> None:
    """Across the foot it would be shorter; the columns' own ink says where the curve is."""
    s = np.cumsum(np.hypot(1, np.gradient(PEAK)))
    image = np.zeros((HIGH, WIDE), np.uint8)
    for a, b in zip(np.c_[AT, PEAK][:-1], np.c_[AT, PEAK][1:], strict=True):
        if s[int(a[0]) - 20] % 22 < 13:
            cv2.line(image, (round(a[0]), round(a[1])), (round(b[0]), round(b[1])), 1, THICK)
    plain = layer_of(np.c_[AT, PEAK])
    dashed = Layer(image.astype(bool), plain.hidden, plain.weak, plain.text, RED, True, (0, 0), float(THICK))
    path = sole_curve(dashed, SIZE)
    assert path is not None and path.dashed
    assert error(path, AT[8:-8], PEAK[8:-8]) < 4


def test_a_covered_piece_is_bridged_smoothly() -> None:
    hidden = np.zeros((HIGH, WIDE), np.bool_)
    hidden[:, 120:180] = True
    keep = np.ones(WIDE, np.bool_)
    keep[120:180] = False
    y = 60 + 0.4 * AT
    path = sole_curve(layer_of(np.c_[AT, y], keep=keep, hidden=hidden), SIZE)
    assert path is not None
    assert error(path, AT[8:-8], y[8:-8]) < 3


def test_open_markers_do_not_drive_the_way_off() -> None:
    y = 200 - 0.3 * AT
    image = layer_of(np.c_[AT, y]).mask.astype(np.uint8)
    for x in (80, 160, 240, 320):
        cv2.circle(image, (x, round(200 - 0.3 * x)), 7, 0, -1)
        cv2.circle(image, (x, round(200 - 0.3 * x)), 7, 1, 2)
    plain = layer_of(np.c_[AT, y])
    path = sole_curve(
        Layer(image.astype(bool), plain.hidden, plain.weak, plain.text, RED, True, (0, 0), float(THICK)), SIZE
    )
    assert path is not None
    assert error(path, AT[8:-8], y[8:-8]) < 4


def test_two_curves_of_one_colour_are_not_taken_for_one() -> None:
    layer = layer_of(np.c_[AT, 80 + 0 * AT], np.c_[AT, 200 + 0 * AT])
    assert sole_curve(layer, SIZE) is None
    assert len(trace([layer], SIZE, (), sole_curve)) == 2


def test_a_steep_curve_is_followed_up_its_steep_part() -> None:
    points = np.array([(40.0, 280.0), (200.0, 270.0), (206.0, 30.0), (360.0, 25.0)])
    path = sole_curve(layer_of(points), SIZE)
    assert path is not None
    assert error(path, np.full(20, 203.0), np.linspace(250, 50, 20)) < 5


def path_of(points: np.ndarray, colour: tuple[int, int, int]) -> Path:
    return Path(points, colour, float(THICK), details={"chromatic": colour != BLACK})


def test_a_curve_that_joins_another_goes_on_under_it() -> None:
    y = 100 + 0.2 * AT
    whole, joining = path_of(np.c_[AT, y], RED), path_of(np.c_[AT[:200], y[:200] + 1], (20, 20, 200))
    _, longer = beyond_cover([whole, joining], SIZE, 0, WIDE, PAPER)
    assert longer.points[-1][0] > 370


def test_a_black_curve_goes_on_under_a_coloured_one_and_under_what_that_one_goes_on_under() -> None:
    y = 100 + 0.1 * AT
    red, blue = path_of(np.c_[AT, y], RED), path_of(np.c_[AT[120:], y[120:] + 1], (20, 20, 200))
    black = path_of(np.c_[AT[200:], y[200:] + 2], BLACK)
    _, _, longer = beyond_cover([red, blue, black], SIZE, 0, WIDE, PAPER)
    assert longer.points[:, 0].min() < 30


def test_a_curve_that_ends_at_another_which_crosses_its_way_stays() -> None:
    crossing = path_of(np.c_[np.full(200, 210.0), np.arange(50.0, 250.0)], RED)
    ending = path_of(np.c_[AT[:190], 0 * AT[:190] + 150], (20, 20, 200))
    _, same = beyond_cover([crossing, ending], SIZE, 0, WIDE, PAPER)
    assert len(same.points) == len(ending.points)


def test_a_curve_goes_on_under_another_as_far_as_its_colour_shows_beside_it() -> None:
    """As curves of gate charge do, which rise together and part at the end of the plateau."""
    rising = np.array([(20, 280), (80, 180), (200, 170)], np.float64)
    whole = np.concatenate([rising, [(240, 168), (380, 40)]])
    other = np.concatenate([rising, [(330, 40)]]) - (0, 0.6)
    branch = np.linspace(other[2] + (3, -3), other[3], 150)
    red, blue = (
        path_of(np.concatenate([np.linspace(a, b, 150) for a, b in pairwise(whole)]), RED),
        path_of(branch, BLUE),
    )

    def longer(*strokes: tuple[np.ndarray, tuple[int, int, int]]) -> np.ndarray:
        picture = PAPER.copy()
        cv2.line(picture, (0, 178), (WIDE, 178), BLACK, 1)
        for points, colour in strokes:
            cv2.polylines(picture, [np.round(points * 16).astype(np.int32)], False, colour, 3, cv2.LINE_AA, 4)
        return beyond_cover([red, blue], SIZE, 0, WIDE, picture)[1].points

    assert error(replace(blue, points=longer((other, BLUE), (whole, RED))), other[:, 0], other[:, 1]) < 5
    assert np.array_equal(longer((branch, BLUE), (whole, RED)), branch), "it may begin there"


def test_a_curve_that_comes_down_to_the_frame_goes_on_under_one_that_runs_along_it() -> None:
    along = path_of(np.c_[AT, 0 * AT + 297], RED)
    level = path_of(np.c_[AT[150:], 297 - 0.01 * (AT[150:] - AT[150]) ** 2], BLUE)
    _, longer = beyond_cover([along, level], SIZE, 0, WIDE, PAPER)
    assert float(longer.points[:, 0].min()) < 25


def test_a_coloured_curve_that_ends_under_a_label_at_the_frame_goes_on_to_the_frame() -> None:
    text = np.zeros((HIGH, WIDE), np.bool_)
    text[130:170, 350:] = True
    layer = layer_of(np.c_[AT[:330], 150 + 0 * AT[:330]])
    path = sole_curve(replace(layer, text=text), SIZE)
    assert path is not None and float(path.points[:, 0].max()) > WIDE - 3


def test_a_pointer_from_text_to_a_coloured_curve_is_no_curve() -> None:
    curve = path_of(np.c_[AT, 200 + 0 * AT], RED)
    pointer = path_of(np.c_[np.linspace(100, 150, 60), np.linspace(60, 198, 60)], BLACK)
    assert without_pointer_paths([curve, pointer], [Box(60, 40, 120, 56)], SIZE) == [curve]
    assert len(without_pointer_paths([curve, pointer], [], SIZE)) == 2


def test_where_colours_tell_curves_apart_the_black_one_is_one_curve_with_its_corners() -> None:
    corners = np.array([(30, 80), (120, 200), (210, 60), (370, 150)], np.float64)
    black = replace(layer_of(corners), colour=BLACK, chromatic=False)
    red = layer_of(np.c_[AT, 270 - 0.1 * AT])
    found = [p for p in trace([red, black], SIZE, (), sole_curve) if p.colour == BLACK]
    assert len(found) == 1
    assert error(found[0], corners[:, 0], corners[:, 1]) < 6


def test_alone_black_is_several_curves_until_the_contrary_is_seen() -> None:
    upper, lower = np.c_[AT, 60 + 0.1 * AT], np.c_[AT[60:-60], 200 + 0.1 * AT[60:-60]]
    black = replace(layer_of(upper, lower), colour=BLACK, chromatic=False)
    assert len(trace([black], SIZE, (), sole_curve)) == 2
