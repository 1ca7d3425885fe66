"""What following costs is counted, and ends: the same on any machine, however much ink there is."""

import math
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from adapters.curves.beam import BENDS, KINKS, MOST, MOST_BLIND, walk
from adapters.curves.extract import CUT, CUT_CHANCE, extract
from adapters.curves.follow import Pen, field_of, follow
from adapters.curves.ink import Layer
from adapters.curves.shapes import Box
from adapters.curves.trace import trace
from adapters.curves.words import MOST_TEXT, readable
from adapters.curves.work import MOST_GUESSES, MOST_PIECES, Work

HIGH, WIDE, THICK = 300, 420, 4
A_STEP = (MOST + MOST_BLIND) * (len(BENDS) + len(KINKS))
"""More guesses than this are not looked at between two looks at the budget."""
PEN = Pen(gap=0.9, reach=24, lag=54)


def inked(*curves: np.ndarray) -> np.ndarray:
    mask = np.zeros((HIGH, WIDE), np.uint8)
    for points in curves:
        cv2.polylines(mask, [np.round(points).astype(np.int32).reshape(-1, 1, 2)], False, 1, THICK)
    return mask.astype(bool)


def layer(mask: np.ndarray) -> Layer:
    none = np.zeros(mask.shape, bool)
    return Layer(mask, none, mask, none, (0, 0, 0), False, (0, 0), THICK)


def waves(count: int) -> list[np.ndarray]:
    x = np.linspace(10, 410, 300)
    return [np.c_[x, 150 + 120 * np.sin(x / (25 + 7 * k) + k)] for k in range(count)]


SIZE = math.hypot(HIGH, WIDE)


def test_the_compiled_walk_is_the_plain_one() -> None:
    mask = inked(*waves(2))
    ground = field_of(mask, np.zeros(mask.shape, bool), THICK, 0)
    given = (
        ground.ridge,
        ground.hidden,
        ground.worth,
        ground.strip,
        0.0,
        (60.0, 150 + 120 * math.sin(60 / 25), 0.9, 0.0),
    )
    budget = 20_000
    plain: Callable[..., tuple[np.ndarray, np.ndarray, float, int]] = walk.py_func  # type: ignore[attr-defined]
    ours, theirs = (one(*given, (0.9, 24.0, 3.0, 18), budget) for one in (walk, plain))
    assert len(ours[0]) > 10
    assert np.allclose(ours[0], theirs[0])
    assert np.array_equal(ours[1], theirs[1])
    assert ours[2:] == pytest.approx(theirs[2:])


@pytest.mark.parametrize("budget", [0, 5_000, 20_000])
def test_a_walk_ends_with_its_budget(budget: int) -> None:
    mask = inked(*waves(3))
    ground = field_of(mask, np.zeros(mask.shape, bool), THICK, 0)
    free = follow(ground, 60, 150 + 120 * math.sin(60 / 25), 0.9, 0, PEN)
    held = follow(ground, 60, 150 + 120 * math.sin(60 / 25), 0.9, 0, PEN, budget)
    assert budget <= held.looked <= budget + A_STEP < free.looked
    assert len(held.points) < len(free.points)


def test_a_plot_of_curves_needs_a_small_part_of_the_budget() -> None:
    work = Work()
    found = trace([layer(inked(*waves(3)))], SIZE, work=work)
    assert len(found) >= 3
    assert not work.cut
    assert work.guesses > 0.8 * MOST_GUESSES


def test_a_budget_that_is_spent_ends_the_tracing_and_is_told() -> None:
    enough, little = Work(), Work(guesses=60_000)
    whole = trace([layer(inked(*waves(6)))], SIZE, work=enough)
    part = trace([layer(inked(*waves(6)))], SIZE, work=little)
    assert little.cut
    assert not enough.cut
    assert little.guesses >= -A_STEP * 2
    assert len(part) < len(whole)


def test_ink_in_thousands_of_pieces_is_not_followed() -> None:
    noise = np.random.default_rng(1).random((900, 1200)) < 0.3
    work = Work()
    assert trace([layer(noise)], math.hypot(*noise.shape), work=work) == []
    assert work.cut
    assert work.guesses == MOST_GUESSES
    assert MOST_PIECES < noise.sum()


def test_a_picture_full_of_noise_says_that_not_all_was_followed(drawing: Callable[..., bytes]) -> None:
    image = np.asarray(
        cv2.imdecode(np.frombuffer(drawing([(lambda x: 10 * x, (200, 0, 0))]), np.uint8), cv2.IMREAD_COLOR)
    )
    inside = image[32:488, 92:678]
    inside[np.random.default_rng(2).random(inside.shape[:2]) < 0.25] = 0
    found = extract(cv2.imencode(".png", image)[1].tobytes())
    assert CUT in found.notes
    assert found.confidence <= CUT_CHANCE


def test_of_a_page_of_text_only_the_short_pieces_are_read() -> None:
    names = [Box(10, 20.0 * k, 60, 20.0 * k + 15) for k in range(20)]
    lines = [Box(100, 20.0 * k, 900, 20.0 * k + 15) for k in range(40)]
    assert readable(names + lines[:2]) == names + lines[:2]
    read = readable(lines + names)
    assert read[-20:] == names
    assert 48 * sum(b.width / b.height for b in read) <= MOST_TEXT
    assert len(read) < 60
