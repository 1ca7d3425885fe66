"""Legends: samples found beside their texts, whichever side, with markers, in boxes; and curves named by colour."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from adapters.curves.names import in_order, legend_of, named, sample_area, tidy, without_remarks
from adapters.curves.shapes import Box, Frame, Path, Rgb, Word
from adapters.curves.words import equations_joined, read_boxes

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


def test_a_box_with_a_little_paper_in_front_is_read_once() -> None:
    image, words = picture()
    legend = legend_of(image, words, FRAME, lambda crops: [("0iss", 0.9)] * len(crops))
    assert [e.word for e in legend] == words


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


def test_a_curve_through_a_sample_does_not_give_it_its_colour() -> None:
    image, words = picture(marker=True)
    cv2.rectangle(image, (402, 54), (423, 66), (0, 0, 0), -1)
    cv2.line(image, (412, 60), (418, 130), (0, 0, 0), 6)
    legend = legend_of(image, words, FRAME, unread)
    for entry, (_, colour) in zip(legend, ENTRIES, strict=True):
        assert np.abs(entry.sample.colour - np.array(colour)).max() < 30


def test_the_thin_strokes_of_a_text_whose_box_begins_in_paper_are_no_part_of_the_sample() -> None:
    image = np.full((400, 600, 3), 255, np.uint8)
    words: list[Word] = []
    for k in range(2):
        y = 60 + 50 * k
        for x in range(136, 200, 26) if k else (136,):
            cv2.line(image, (x, y), (x + (10 if k else 62), y), (0, 0, 0), 4)
        # TJ = , in strokes: two letters as wide as a marker, and the bars of an equals sign in the middle of the line.
        cv2.line(image, (222, y - 14), (238, y - 14), (0, 0, 0), 3)
        cv2.line(image, (230, y - 14), (230, y + 12), (0, 0, 0), 3)
        cv2.line(image, (246, y - 14), (246, y + 14), (0, 0, 0), 3)
        cv2.line(image, (258, y), (330, y), (0, 0, 0), 3)
        cv2.putText(image, "25 C", (340, y + 12), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (0, 0, 0), 3, cv2.LINE_AA)
        words.append(Word(f"TJ = {25 + k} C", Box(212 - 3 * k, y - 20, 430, y + 20), 0.99))
    legend = legend_of(image, words, FRAME, unread)
    assert [e.word.text for e in legend] == ["TJ = 25 C", "TJ = 26 C"]
    assert all(e.sample.box.x0 < 140 and 195 < e.sample.box.x1 < 205 for e in legend)


def test_coloured_samples_are_found_though_a_black_grid_runs_through_the_legend() -> None:
    image, words = picture()
    for x in range(380, 560, 36):
        cv2.line(image, (x, 20), (x, 380), (0, 0, 0), 2)
    for y in range(34, 160, 17):
        cv2.line(image, (50, y), (580, y), (0, 0, 0), 2)
    for k, (_, colour) in enumerate(ENTRIES):
        cv2.line(image, (400, 60 + 34 * k), (448, 60 + 34 * k), colour, 4)
    legend = legend_of(image, words, FRAME, unread)
    assert [e.word.text for e in legend] == ["Ciss", "Coss", "Crss"]
    for entry, (_, colour) in zip(legend, ENTRIES, strict=True):
        assert np.abs(entry.sample.colour - np.array(colour)).max() < 30


def test_a_dashed_curve_has_the_colour_of_its_ink_and_not_of_its_gaps() -> None:
    image, words = picture()
    y = np.full(500, 250.0)
    paths = [Path(np.c_[np.arange(60.0, 560.0), y], RED, 3.0, details={"chromatic": True})]
    for x in range(60, 550, 20):
        cv2.line(image, (x, 250), (x + 4, 250), RED, 3)
    out = named(image, paths, words, FRAME, legend_of(image, words, FRAME, unread))
    assert [p.name for p in out] == ["Ciss"]


def test_a_box_around_curves_that_is_no_text_hides_no_dashes() -> None:
    image = np.full((400, 600, 3), 255, np.uint8)
    words: list[Word] = []
    for k in range(2):
        y = 60 + 34 * k
        cv2.putText(image, f"run {k}", (460, y + 7), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 0), 2, cv2.LINE_AA)
        words.append(Word(f"run {k}", Box(457, y - 14, 530, y + 14), 0.99))
        for left, right, row in ((400, 448, y), (60, 560, 250 + 60 * k)):
            for x in range(left, right, 20 if k else right):
                cv2.line(image, (x, row), (min(right, x + (10 if k else right)), row), (0, 0, 0), 3)
    words.append(Word("三", Box(55, 220, 565, 330), 0.3))
    paths = [Path(np.c_[np.arange(60.0, 560.0), np.full(500, 250.0 + 60 * k)], (0, 0, 0), 3.0) for k in (1, 0)]
    out = named(image, paths, words, FRAME, legend_of(image, words, FRAME, unread))
    assert [p.name for p in out] == ["run 1", "run 0"]


def test_of_several_curves_near_a_label_physics_tells_which_is_meant() -> None:
    paths = [level(200), level(212), level(224)]
    titles = [Word("VDS (V)", Box(280, 390, 340, 399), 0.99), Word("ID (A)", Box(5, 150, 20, 230), 0.99, upright=True)]
    # The label of the second stands right on the third, and that of the third on the second.
    words = [Word("VGS = 6 V", Box(100, 176, 170, 196), 0.99), Word("VGS = 5 V", Box(300, 220, 370, 240), 0.99)]
    words.append(Word("VGS = 4 V", Box(400, 202, 470, 222), 0.99))
    image = np.full((400, 600, 3), 255, np.uint8)
    assert [p.name for p in named(image, paths, [*words, *titles], FRAME, [])] == [
        "VGS = 6 V",
        "VGS = 5 V",
        "VGS = 4 V",
    ]
    # A label out of reach of the curve that physics would give it stays where it is.
    far = [Word("VGS = 4 V", Box(100, 30, 170, 50), 0.99), Word("VGS = 6 V", Box(100, 330, 170, 350), 0.99)]
    apart = [level(60), level(320)]
    assert [p.name for p in named(image, apart, [*far, *titles], FRAME, [])] == ["VGS = 4 V", "VGS = 6 V"]


def test_a_minus_sign_is_kept_and_what_only_looks_like_one_is_not() -> None:
    assert [tidy(t) for t in ("-40 °C", "--40 °C", "|-55°C", "- VGS = 2 V", "-VGS=5V.")] == [
        "-40 °C",
        "-40 °C",
        "-55°C",
        "VGS = 2 V",
        "VGS = 5V",
    ]


def test_what_the_detector_parted_at_an_equals_sign_is_one_word() -> None:
    def word(text: str, x0: float, x1: float, y: float = 100) -> Word:
        return Word(text, Box(x0, y, x1, y + 20), 0.9)

    assert [w.text for w in equations_joined([word("= 10 mA", 125, 190), word("ID", 100, 120)])] == ["ID = 10 mA"]
    assert [w.text for w in equations_joined([word("ID =", 100, 140), word("10 mA", 138, 190)])] == ["ID = 10 mA"]
    # A sign alone is read unsurely, the label as a whole is not.
    three = [word("TA", 100, 120), replace(word("=", 124, 132), score=0.3), word("-40 C", 136, 190)]
    assert [(w.text, w.score > 0.6) for w in equations_joined(three)] == [("TA = -40 C", True)]
    # Two labels side by side, one above the other, or far apart are none.
    for first, second in (
        (word("VGS = 9 V", 100, 160), word("= 7 V", 165, 200)),
        (word("VGS", 100, 160), word("= 7 V", 105, 165, 130)),
        (word("VGS", 100, 160), word("= 7 V", 260, 300)),
    ):
        assert len(equations_joined([first, second])) == 2


def test_an_equals_sign_alone_is_read_as_one() -> None:
    boxes = [Box(100, 100, 120, 120), Box(124, 104, 140, 116), Box(144, 100, 200, 120)]
    words = read_boxes(
        np.full((200, 300, 3), 255, np.uint8), boxes, lambda _: [("TJ", 0.6), ("二", 0.8), ("25 C", 0.9)]
    )
    assert [w.text for w in equations_joined(words)] == ["TJ = 25 C"]


def test_numbers_right_of_the_plot_are_no_legend_though_grid_lines_lead_to_them() -> None:
    image = np.full((400, 700, 3), 255, np.uint8)
    words: list[Word] = []
    for x in range(60, 581, 130):
        cv2.line(image, (x, 20), (x, 380), (0, 0, 0), 2)
    for k in range(1, 4):
        y = 20 + 90 * k
        cv2.line(image, (50, y), (580, y), (0, 0, 0), 2)
        cv2.putText(image, f"-{10 * k}", (592, y + 10), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (0, 0, 0), 2, cv2.LINE_AA)
        words.append(Word(f"-{10 * k}", Box(588, y - 18, 660, y + 18), 0.99))
    assert legend_of(image, words, FRAME, unread) == []
