"""Legends: samples found beside their texts, whichever side, with markers, in boxes; and curves named by colour."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from adapters.curves.names import in_order, legend_of, named, sample_area, without_remarks
from adapters.curves.shapes import Box, Frame, Path, Rgb, Word

FRAME = Frame(Box(50, 20, 580, 380))
RED, BLUE, GREEN = (200, 20, 20), (20, 20, 200), (20, 140, 20)
ENTRIES = [("Ciss", RED), ("Coss", BLUE), ("Crss", GREEN)]


def unread(crops: Sequence[Rgb]) -> list[tuple[str, float]]:
    return [("", 0.0)] * len(crops)


def picture(*, after: bool = False, marker: bool = False, border: bool = False) -> tuple[Rgb, list[Word]]:
    """White paper with a legend of three entries; and its words as a reader would find them."""
    image = np.full((400, 600, 3), 255, np.uint8)
    words: list[Word] = []
    for k, (text, colour) in enumerate(ENTRIES):
        y = 60 + 34 * k
        x = 400 if after else 460
        cv2.putText(image, text, (x, y + 7), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 0), 2, cv2.LINE_AA)
        left = x + 70 if after else x - 60
        cv2.line(image, (left, y), (left + 48, y), colour, 3)
        if marker:
            cv2.circle(image, (left + 24, y), 8, colour, -1)
        words.append(Word(text, Box(x - 3, y - 14, x + 58, y + 14), 0.99))
    if border:
        cv2.rectangle(image, (392, 36), (545, 150), (0, 0, 0), 1)
    return image, words


def test_samples_are_found_left_and_right_of_their_texts_with_markers_and_in_boxes() -> None:
    for after in (False, True):
        for marker in (False, True):
            for border in (False, True):
                image, words = picture(after=after, marker=marker, border=border)
                legend = legend_of(image, words, FRAME, unread)
                assert [e.word.text for e in legend] == ["Ciss", "Coss", "Crss"], (after, marker, border)
                assert all(e.sample.after == after for e in legend)
                for entry, (_, colour) in zip(legend, ENTRIES, strict=True):
                    assert np.abs(entry.sample.colour - np.array(colour)).max() < 30


def test_a_box_that_begins_within_the_sample_is_cut_and_read_again() -> None:
    image, words = picture()
    first = words[0]
    words[0] = Word("o Ciss", Box(425, first.box.y0, first.box.x1, first.box.y1), 0.9)
    legend = legend_of(image, words, FRAME, lambda crops: [("Ciss", 0.98)] * len(crops))
    assert legend[0].word.text == "Ciss"
    assert legend[0].word.box.x0 > 450


def test_words_without_samples_are_no_legend() -> None:
    _, words = picture()
    assert legend_of(np.full((400, 600, 3), 255, np.uint8), words, FRAME, unread) == []


def test_curves_get_the_names_of_the_samples_of_their_colour() -> None:
    image, words = picture()
    paths: list[Path] = []
    for k, (_, colour) in enumerate(reversed(ENTRIES)):
        y = 200 + 50 * k
        cv2.line(image, (60, y), (560, y), colour, 3)
        paths.append(Path(np.c_[np.arange(60.0, 560.0), np.full(500, float(y))], colour, 3.0))
    out = named(image, paths, words, FRAME, legend_of(image, words, FRAME, unread))
    assert [p.name for p in out] == ["Crss", "Coss", "Ciss"]


def test_the_area_of_samples_covers_each_of_them() -> None:
    image, words = picture()
    legend = legend_of(image, words, FRAME, unread)
    whole = sample_area(legend)[-1]
    assert all(whole.overlap(e.sample.box) > 0.99 for e in legend)
    assert sample_area([]) == []


def level(y: float) -> Path:
    return Path(np.c_[np.arange(60.0, 560.0), np.full(500, y)])


def test_samples_that_look_alike_are_told_apart_by_physics_where_it_knows() -> None:
    paths = [level(300), level(100), level(200)]
    assert in_order(["VGS = 4 V", "VGS = 6 V", "VGS = 10 V"], paths) == {
        0: "VGS = 4 V",
        2: "VGS = 6 V",
        1: "VGS = 10 V",
    }
    assert in_order(["Ciss", "Coss", "Crss"], paths) == {0: "Crss", 2: "Coss", 1: "Ciss"}


def test_where_physics_does_not_know_or_curves_are_missing_no_name_is_given() -> None:
    paths = [level(300), level(100), level(200)]
    assert in_order(["run 1", "run 2", "run 3"], paths) == {}
    assert in_order(["Ciss", "Coss"], paths) == {}
    assert in_order(["VGS = 4 V", "VGS = 4 V", "VGS = 6 V"], paths) == {}


def test_a_condition_that_holds_for_all_curves_names_none() -> None:
    words = [Word(t, Box(0, 0, 9, 9), 0.9) for t in ("VGS = 4 V", "VGS = 6 V", "TJ = 25 °C")]
    assert [w.text for w in without_remarks(words, 2)] == ["VGS = 4 V", "VGS = 6 V"]
    words = [Word(t, Box(0, 0, 9, 9), 0.9) for t in ("Ciss", "Coss", "f = 1 MHz")]
    assert [w.text for w in without_remarks(words, 3)] == ["Ciss", "Coss"]


def test_a_dashed_sample_close_to_its_text_and_within_its_box_is_found() -> None:
    image = np.full((400, 600, 3), 255, np.uint8)
    words: list[Word] = []
    for k, text in enumerate(("VIN = 5V", "VIN = 6V")):
        y = 60 + 34 * k
        cv2.putText(image, text, (200, y + 11), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (0, 0, 0), 2, cv2.LINE_AA)
        for x in range(136, 192, 20) if k else (136,):
            cv2.line(image, (x, y), (x + (12 if k else 56), y), (0, 0, 0), 4)
        words.append(Word(text, Box(175, y - 17, 350, y + 17), 0.99))
    legend = legend_of(image, words, FRAME, unread)
    assert [e.word.text for e in legend] == ["VIN = 5V", "VIN = 6V"]
    assert all(e.sample.box.x0 < 140 and 185 < e.sample.box.x1 < 198 for e in legend)


def test_letters_are_no_samples() -> None:
    image = np.full((400, 600, 3), 255, np.uint8)
    words: list[Word] = []
    for k, (first, second) in enumerate((("Ciss", "Cgs + Cgd"), ("Crss", "Cgd"))):
        y = 60 + 40 * k
        cv2.putText(image, first, (160, y + 7), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 0, 0), 2, cv2.LINE_AA)
        cv2.putText(image, second, (240, y + 7), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 0, 0), 2, cv2.LINE_AA)
        words.append(Word(second, Box(236, y - 16, 400, y + 16), 0.99))
    assert legend_of(image, words, FRAME, unread) == []


def test_texts_far_apart_are_no_legend_though_each_has_a_line_beside_it() -> None:
    image = np.full((400, 600, 3), 255, np.uint8)
    words: list[Word] = []
    for k, text in enumerate(("4 V", "6 V")):
        y = 60 + 240 * k
        cv2.putText(image, text, (200, y + 7), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 0), 2, cv2.LINE_AA)
        cv2.line(image, (136, y), (186, y), (0, 0, 0), 3)
        words.append(Word(text, Box(197, y - 14, 245, y + 14), 0.99))
    assert legend_of(image, words, FRAME, unread) == []


def test_a_legend_that_tells_nothing_leaves_the_labels_at_the_curves() -> None:
    image, words = picture()
    legend = legend_of(image, words, FRAME, unread)
    grey = [replace(e, sample=replace(e.sample, colour=np.array([60.0, 60.0, 60.0]))) for e in legend]
    path = Path(np.c_[np.linspace(60, 400, 90), np.full(90, 300.0)])
    label = Word("Ciss", Box(200, 285, 250, 305), 0.99)
    assert [p.name for p in named(image, [path], [*words, label], FRAME, grey)] == ["Ciss"]


def test_entries_whose_samples_are_dots_join_one_after_the_other() -> None:
    image = np.full((400, 600, 3), 255, np.uint8)
    words: list[Word] = []
    for k in range(4):
        y = 60 + 34 * k
        cv2.putText(image, f"{k + 1} V", (460, y + 7), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 0), 2, cv2.LINE_AA)
        if k < 2:
            cv2.line(image, (400, y), (448, y), (0, 0, 0), 3)
        for x in (402, 428):
            cv2.rectangle(image, (x, y - 3), (x + 5, y + 2), (0, 0, 0), -1)
        words.append(Word(f"{k + 1} V", Box(457, y - 14, 498, y + 14), 0.99))
    legend = legend_of(image, words, FRAME, unread)
    assert [e.word.text for e in legend] == ["1 V", "2 V", "3 V", "4 V"]
