"""Layers by colour: what JPEG, grids, boxes and mixing of colours must not do."""

import cv2
import numpy as np

from adapters.curves.ink import (
    bleeding,
    contrast,
    side_rests,
    stroke_width,
    without_boxes,
    without_mixed,
    without_text,
)
from adapters.curves.layers import layers_of
from adapters.curves.shapes import Box, Frame, Rgb

RED, BLUE, BLACK = (200, 20, 20), (31, 119, 180), (0, 0, 0)


def plot() -> Rgb:
    """Two thin coloured curves that cross over a grey grid, in a black frame."""
    image = np.full((420, 620, 3), 255, np.uint8)
    for x in range(40, 581, 30):
        cv2.line(image, (x, 20), (x, 380), (170, 170, 170), 1)
    for y in range(20, 381, 30):
        cv2.line(image, (40, y), (580, y), (170, 170, 170), 1)
    x = np.arange(45.0, 575.0)
    for y, colour in ((80 + 0.4 * (x - 40), RED), (330 - 0.45 * (x - 40), BLUE)):
        points = np.round(np.c_[x, y] * 16).astype(np.int32).reshape(-1, 1, 2)
        cv2.polylines(image, [points], False, colour, 2, cv2.LINE_AA, shift=4)
    cv2.rectangle(image, (40, 20), (580, 380), (0, 0, 0), 2)
    return image


def jpeg(image: Rgb, quality: int) -> Rgb:
    _, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    back = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(back[:, :, ::-1])


def test_colour_that_runs_out_is_noticed_in_jpeg_only() -> None:
    assert bleeding(contrast(plot(), 15)) < 0.005
    assert bleeding(contrast(jpeg(plot(), 50), 15)) > 0.02


def test_two_colours_give_two_layers_also_after_jpeg() -> None:
    for image in (plot(), jpeg(plot(), 80), jpeg(plot(), 45)):
        layers = layers_of(image, Frame(Box(40, 20, 580, 380)), None, None, (), 0.0)
        coloured = [q for q in layers if q.chromatic]
        assert len(coloured) == 2
        for layer in coloured:
            assert layer.mask.any(axis=0).mean() > 0.8, "the curve has holes"
        black = next(q for q in layers if not q.chromatic)
        near = cv2.dilate((coloured[0].mask | coloured[1].mask).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
        assert (black.mask & near).sum() < 0.1 * coloured[0].mask.sum(), "rims were taken for a black curve"


def test_a_box_around_text_goes_and_a_curve_stays() -> None:
    mask = np.zeros((200, 300), np.uint8)
    cv2.rectangle(mask, (40, 40), (140, 80), 1, 2)
    cv2.line(mask, (10, 150), (290, 100), 1, 3)
    text = np.zeros((200, 300), np.bool_)
    text[48:72, 50:130] = True
    out = without_boxes(mask.astype(bool), text, 2.0)
    assert not out[35:85, 35:145].any()
    assert out[95:155].sum() == mask[95:155].sum()
    assert without_boxes(mask.astype(bool), np.zeros_like(text), 2.0).sum() == mask.sum(), "a box without text stays"


def test_specks_of_a_third_colour_at_crossings_go_but_dashes_stay() -> None:
    others = np.zeros((200, 300), np.bool_)
    others[:, 100:106] = True
    mask = np.zeros((200, 300), np.bool_)
    mask[150:154, 5:295] = True
    mask[150:154, 98:108] = False
    mask[40:44, 98:104] = True
    out = without_mixed(mask, others, 4.0)
    assert not out[40:44].any()
    assert out[150:154].sum() == mask[150:154].sum()
    dashes = np.zeros((200, 300), np.bool_)
    for x in range(10, 280, 20):
        dashes[120:124, x : x + 11] = True
    assert without_mixed(dashes, others, 4.0).sum() == dashes.sum()


def test_the_width_of_a_pen_is_not_measured_where_the_grid_has_cut_its_strokes() -> None:
    mask, cut = np.zeros((200, 400), np.bool_), np.zeros((200, 400), np.bool_)
    mask[40:47, 20:380] = True
    for y in range(100, 180, 20):
        mask[y, 20:380], cut[y + 1 : y + 7, 20:380] = True, True
    assert stroke_width(mask) < 2
    assert 5 < stroke_width(mask, cut) < 8


def test_a_curve_that_runs_on_along_the_letters_of_its_label_stays() -> None:
    mask = np.zeros((200, 300), np.uint8)
    cv2.line(mask, (20, 100), (240, 96), 1, 4)
    cv2.putText(mask, "25 C", (170, 92), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 1, 2)
    text = np.zeros(mask.shape, bool)
    text[74:104, 165:245] = True
    out = without_text(mask.astype(bool), text, 4.0)
    line = out[:, 20:240].any(axis=0)
    assert line.all()
    assert not out[74:92, 165:245].any(), "letters go"


def test_a_letter_that_touches_the_curve_is_cut_off() -> None:
    mask = np.zeros((200, 300), np.uint8)
    cv2.line(mask, (20, 100), (240, 97), 1, 4)
    cv2.ellipse(mask, (190, 88), (9, 11), 0, 0, 360, 1, 2)
    text = np.zeros(mask.shape, bool)
    text[70:104, 165:245] = True
    out = without_text(mask.astype(bool), text, 4.0)
    assert out[:, 20:240].any(axis=0).all()
    assert not out[70:93].any()


def test_a_letter_alone_is_no_stroke_that_comes_in() -> None:
    mask = np.zeros((200, 300), np.uint8)
    cv2.line(mask, (20, 100), (168, 100), 1, 4)
    cv2.rectangle(mask, (168, 80), (178, 104), 1, 3)
    text = np.zeros(mask.shape, bool)
    text[74:108, 164:245] = True
    assert not (without_text(mask.astype(bool), text, 4.0) & text).any()


def test_what_a_thick_side_of_the_frame_leaves_beside_the_rim_goes_and_a_steep_curve_stays() -> None:
    mask = np.zeros((200, 300), np.bool_)
    mask[:, 4:5] = True
    mask[60:140, 4:9] = True
    mask[:, -5:-4] = True
    rest = side_rests(mask, 4, 4.0)
    assert rest[:60, 4].all() and rest[140:, 4].all() and rest[:, -5].all()
    assert not rest[60:140, :-5].any()
    slanted = np.zeros((200, 300), np.uint8)
    cv2.line(slanted, (0, 60), (200, 140), 1, 4)
    slanted[:, :4] = 0
    assert not side_rests(slanted > 0, 4, 4.0).any()
    assert not side_rests(mask, 0, 4.0).any(), "where nothing was cleared there is no rest"


def test_a_fine_grid_hides_no_thick_curve_but_one_as_fine_as_itself() -> None:
    for thick, hides in ((9, False), (2, True)):
        image = np.full((420, 620, 3), 255, np.uint8)
        for at in range(40, 581, 30):
            cv2.line(image, (at, 20), (at, 380), (0, 0, 0), 2)
            cv2.line(image, (40, at - 20), (580, at - 20), (0, 0, 0), 2)
        cv2.rectangle(image, (40, 20), (580, 380), (0, 0, 0), 3)
        cv2.line(image, (45, 50), (575, 345), (0, 0, 0), thick, cv2.LINE_AA)
        (layer,) = layers_of(image, Frame(Box(40, 20, 580, 380)), None, None, (), 0.0)
        assert abs(layer.thick - thick) < 3
        assert bool(layer.hidden[5:-5, 5:-5].any()) == hides


def test_ink_of_a_colour_in_a_text_of_another_is_a_curves() -> None:
    """The box of a text is larger than the text, and has the ends of curves in it; letters of their colour are no curves."""
    box, frame = Box(80, 250, 190, 310), Frame(Box(50, 40, 550, 380))
    for colour, stays in ((BLACK, True), (RED, False)):
        image = np.full((420, 600, 3), 255, np.uint8)
        cv2.rectangle(image, (50, 40), (550, 380), BLACK, 2)
        cv2.polylines(image, [np.array([(200, 260), (540, 80)])], False, RED, 4)
        cv2.line(image, (90, 304), (112, 296), RED, 3)
        cv2.putText(image, "TJ = 25 C", (86, 278), cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour, 2)
        layer = next(q for q in layers_of(image, frame, None, None, [box], 0.0) if q.chromatic)
        assert bool(layer.mask[255:265, 42:60].any()) == stays
