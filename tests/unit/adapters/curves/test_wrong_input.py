"""What is no plot is refused in words or answered without confidence, never with nonsense."""

import cv2
import numpy as np
import pytest
from PIL import Image

from adapters.curves.document import read
from adapters.curves.extract import Options, extract
from adapters.curves.picture import NotReadable
from tests.wrong_pictures import encoded, wrong_pictures

from .conftest import Drawing


@pytest.fixture(scope="module")
def wrong() -> dict[str, bytes]:
    return wrong_pictures()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("text.png", "no picture"),
        ("dot.png", "at least"),
        ("bomb.png", "too large"),  # of 400 million pixels, and never unpacked
        ("cut.png", "damaged"),
        ("locked.pdf", "password"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(wrong: dict[str, bytes], name: str, words: str) -> None:
    with pytest.raises(NotReadable, match=words):
        read(wrong[name])


def test_cmyk_is_read_like_any_other(wrong: dict[str, bytes]) -> None:
    assert len(extract(wrong["cmyk.jpg"]).curves) == 1


def test_of_an_animation_the_first_picture_is_read(wrong: dict[str, bytes]) -> None:
    assert len(extract(wrong["animated.gif"]).curves) == 1


def test_a_photo_without_axes_gets_no_confidence(wrong: dict[str, bytes]) -> None:
    assert extract(wrong["photo.jpg"]).confidence < 0.1


def test_a_landscape_with_straight_edges_and_digits_gets_no_confidence() -> None:
    """A street: houses with upright and level edges, a number plate; nothing of it is an axis."""
    rng = np.random.default_rng(5)
    scene = np.full((480, 640, 3), (140, 170, 210), np.uint8)
    for left, top in ((40, 160), (230, 120), (430, 200)):
        scene[top:400, left : left + 150] = rng.integers(60, 180, 3)
        for y in range(top + 20, 380, 60):
            for x in range(left + 15, left + 140, 45):
                scene[y : y + 30, x : x + 25] = (40, 40, 60)
    scene[400:] = (90, 90, 90)
    cv2.putText(scene, "17 48", (300, 450), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (240, 240, 240), 2)
    scene = np.clip(scene + rng.normal(0, 12, scene.shape), 0, 255).astype(np.uint8)
    result = extract(encoded(Image.fromarray(scene), "JPEG", quality=85))
    assert result.confidence < 0.1


def test_a_picture_has_no_second_page(drawing: Drawing) -> None:
    with pytest.raises(NotReadable, match="one page"):
        read(drawing([(lambda x: x**2, (0, 0, 0))]), Options(page=2))


def test_a_white_sheet_gets_no_confidence() -> None:
    result = extract(encoded(Image.new("RGB", (640, 480), "white")))
    assert result.confidence == 0
    assert result.curves == ()


def test_a_damaged_pdf_is_refused() -> None:
    pytest.importorskip("pypdfium2", reason="the extra `curves` is not installed")
    with pytest.raises(NotReadable, match="PDF"):
        read(b"%PDF-1.7\nnothing more")
