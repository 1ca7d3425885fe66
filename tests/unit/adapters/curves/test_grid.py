"""The grid goes, the curves stay whole: on masks drawn here."""

import math
from collections.abc import Callable

import cv2
import numpy as np

from adapters.curves.grid import Band, bridge, bridged, grid_bands, peaks_of, riding, showing, without_grid
from adapters.curves.ink import boxes_around

HIGH, WIDE = 300, 400


def paper() -> np.ndarray:
    return np.zeros((HIGH, WIDE), np.uint8)


def ruled(step: int = 25, thick: int = 3) -> tuple[np.ndarray, list[Band], list[Band]]:
    """A grid over the whole plot, with its rows and columns."""
    grid = paper()
    rows = [Band(y, y + thick - 1, 1.0) for y in range(step, HIGH - thick, step)]
    columns = [Band(x, x + thick - 1, 1.0) for x in range(step, WIDE - thick, step)]
    for band in rows:
        grid[band.first : band.last + 1] = 1
    for band in columns:
        grid[:, band.first : band.last + 1] = 1
    return grid, rows, columns


def strokes(*lines: tuple[tuple[int, int], tuple[int, int]], thick: int = 4) -> np.ndarray:
    out = paper()
    for a, b in lines:
        cv2.line(out, a, b, 1, thick)
    return out


def left_of(curve: np.ndarray, grid: np.ndarray, rows: list[Band], columns: list[Band]) -> np.ndarray:
    mask = (curve | grid).astype(bool)
    out, _ = without_grid(mask, mask.astype(float), rows, columns)
    return out


def test_a_slanted_stroke_stays_in_one_piece_and_the_grid_goes() -> None:
    grid, rows, columns = ruled()
    curve = strokes(((0, 280), (399, 20)))
    out = left_of(curve, grid, rows, columns)
    assert out[curve > 0].mean() > 0.97
    off = out & ~np.asarray(cv2.dilate(curve, np.ones((9, 9), np.uint8)), bool)
    assert off.mean() < 0.001


def test_two_close_strokes_are_not_tied_together_by_the_grid_between_them() -> None:
    grid, rows, columns = ruled()
    curves = strokes(((0, 250), (399, 50)), ((0, 264), (399, 64)))
    out = left_of(curves, grid, rows, columns)
    between = out & ~np.asarray(cv2.dilate(curves, np.ones((5, 5), np.uint8)), bool)
    assert between.sum() < 12
    assert out[curves > 0].mean() > 0.97


def cut_stroke(width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A slanted stroke, the same with a gap where an upright line was taken out, and the gap."""
    mask = strokes(((0, 60), (399, 200)), thick=3).astype(bool)
    gap = np.zeros_like(mask)
    gap[:, 200 : 200 + width] = True
    return mask, mask & ~gap, mask & gap


def test_a_gap_is_bridged_along_a_stroke_in_its_direction_only() -> None:
    mask, bare, gap = cut_stroke(8)
    slope_deg = -math.degrees(math.atan2(140, 399))
    for turned in (False, True):
        given = [np.ascontiguousarray(m.T) if turned else m for m in (mask, bare, gap)]
        angle = -90 - slope_deg if turned else slope_deg
        assert (bridged(given[0], given[1], [(-angle, 30)]) & given[2]).sum() == 0
        found = bridged(given[0], given[1], [(angle, 30)])
        assert found[given[2]].mean() > 0.9
        # A stroke is not bridged over more than its own length.
        assert not (bridged(given[0], given[1], [(angle, 8)]) & given[2]).any()


def test_what_ends_at_the_border_of_the_picture_is_whole() -> None:
    mask = strokes(((0, 150), (399, 150)), thick=3).astype(bool)
    bare = mask.copy()
    bare[:, :4] = bare[:, -4:] = False
    assert bridged(mask, bare, [(0.0, 12)])[mask & ~bare].all()
    assert not bridged(mask, bare, [(0.0, 6)])[mask & ~bare].all()


def test_the_compiled_bridge_is_the_plain_one() -> None:
    mask, bare, _ = cut_stroke(8)
    x, y = np.nonzero(np.ascontiguousarray(mask.T))
    # What numba makes of a function keeps the function itself, which its type does not say.
    plain: Callable[..., None] = bridge.py_func  # type: ignore[attr-defined]
    ours, theirs = np.zeros_like(mask), np.zeros_like(mask)
    for slope in (0.35, -0.35, 0.0):
        bridge(x, y, bare, slope, 9, ours)
        plain(x, y, bare, slope, 9, theirs)
    assert ours.any()
    assert np.array_equal(ours, theirs)


def test_flat_and_steep_strokes_cross_the_other_family() -> None:
    grid, rows, columns = ruled()
    curves = strokes(((0, 137), (399, 139)), ((212, 0), (210, 299)))
    assert left_of(curves, grid, rows, columns)[curves > 0].mean() > 0.93


def test_a_curve_on_a_grid_line_is_seen_by_its_ink_alone_where_it_runs() -> None:
    _, rows, _ = ruled(thick=2)
    strength = np.zeros((HIGH, WIDE))
    for band in rows:
        strength[band.first : band.last + 1] = 0.6
    on = rows[4]
    strength[on.first - 1 : on.last + 2, 150:] = 1.0
    mask = strength > 0.4
    out = riding(mask, strength, rows, np.zeros((HIGH, WIDE), bool))
    assert out[on.first, 160:].mean() > 0.95
    assert not out[on.first, :140].any()
    assert not out[rows[2].first].any()


def test_a_box_around_text_goes_and_a_flat_curve_beside_text_stays() -> None:
    mask, text = paper(), np.zeros((HIGH, WIDE), bool)
    cv2.rectangle(mask, (220, 20), (380, 80), 1, 2)
    text[35:65, 240:360] = True
    cv2.line(mask, (10, 200), (390, 200), 1, 3)
    text[205:225, 200:300] = True
    found = boxes_around(mask.astype(bool), text, 3.0)
    assert found[20, 230:370].all()
    assert found[30:70, 220].all()
    assert not found[190:210].any()


def test_a_box_whose_corner_lies_on_a_curve_goes_and_the_curve_stays() -> None:
    mask, text = paper(), np.zeros((HIGH, WIDE), bool)
    cv2.line(mask, (150, 5), (150, 100), 1, 3)
    cv2.line(mask, (150, 100), (399, 100), 1, 3)
    cv2.line(mask, (10, 37), (390, 208), 1, 4)
    text[20:90, 165:380] = True
    found = boxes_around(mask.astype(bool), text, 4.0)
    assert found[100, 160:390].all()
    assert found[20:90, 150].all()
    assert not found[120:].any()
    assert not found[:, :140].any()


def test_a_flat_curve_beside_a_grid_line_does_not_make_the_line_thicker() -> None:
    strength = np.zeros((HIGH, WIDE))
    strength[100:102] = 0.6
    strength[102:106, 60:] = 0.9
    band = peaks_of(strength, strength > 0.3, np.ones((HIGH, WIDE), bool))[0]
    assert band.core == (100, 101)


def test_a_line_as_pale_as_the_others_is_grid_also_when_it_alone_got_into_the_mask() -> None:
    mask = paper().astype(bool)
    bands = [Band(y, y + 1, 1.0, dark=0.4) for y in (50, 100, 150, 200)]
    mask[50:52] = True
    pale = [Band(50, 51, 1.0, dark=0.46), *bands[1:]]
    assert [b.first for b in showing(mask, pale)] == [50]
    # What is much darker is a flat curve that lies on the line.
    assert showing(mask, [Band(50, 51, 1.0, dark=0.9), *bands[1:]]) == []


def test_a_dark_curve_that_begins_flat_on_a_pale_line_is_not_taken_for_the_line() -> None:
    bands = [Band(y, y + 1, 1.0, dark=0.25) for y in range(60, 270, 15)]
    mask = np.zeros((HIGH, WIDE), np.bool_)
    # The frame and the lines of whole decades are dark too, all the way.
    whole = [Band(y, y + 1, 1.0, dark=0.55) for y in (0, 50, 150, HIGH - 2)]
    for band in whole:
        mask[band.first : band.last + 1] = True
    curve = Band(94, 95, 1.0, dark=0.42)
    mask[94:96, : WIDE // 3] = True
    found = showing(mask, [*whole, *bands, curve])
    assert curve not in found
    assert all(band in found for band in whole)


def even_grid(*flat: int) -> list[Band]:
    """Rows at each 30 pixels, and others among them."""
    return [Band(y, y + 1, 1.0, (y, y + 1), 1.0) for y in sorted({*range(30, 300, 30), *flat})]


EXPECTED = np.arange(30.0, 300.0, 30.0)


def test_a_flat_curve_where_an_even_grid_has_no_line_is_none_of_it() -> None:
    assert [b.first for b in grid_bands(even_grid(134), EXPECTED, HIGH)] == list(range(30, 300, 30))


def test_the_frame_is_no_other_line_beside_a_flat_curve() -> None:
    # As far below the last line as the curve is below one of the others.
    rows = [*even_grid(134), Band(284, 284, 1.0, (284, 284), 1.0)]
    assert 134 not in [b.first for b in grid_bands(rows, EXPECTED, 285)]


def test_finer_lines_that_come_in_each_cell_are_grid() -> None:
    thirds = [y + d for y in range(30, 270, 30) for d in (10, 20)]
    assert len(grid_bands(even_grid(*thirds), EXPECTED, HIGH)) == len(even_grid(*thirds))


def test_a_line_that_stands_alone_on_a_log_axis_is_grid() -> None:
    places = np.array([20.0, 60.0, 90.0, 113.0, 132.0, 148.0, 162.0, 280.0])
    rows = [Band(round(y), round(y) + 1, 1.0, None, 1.0) for y in (*places, 220.0)]
    assert len(grid_bands(rows, places, HIGH)) == len(rows)


def test_upright_curves_that_outnumber_the_lines_of_the_grid_are_told_by_their_pen() -> None:
    lines = [Band(x, x + 1, 1.0, None, 1.0) for x in (80, 160, 240, 320)]
    curves = [Band(x, x + 5, 1.0, None, 1.0) for x in (95, 110, 125, 175, 190, 205)]
    found = grid_bands([*lines, *curves], np.array([80.0, 160.0, 240.0, 320.0]), WIDE)
    assert [b.first for b in found] == [80, 160, 240, 320]
