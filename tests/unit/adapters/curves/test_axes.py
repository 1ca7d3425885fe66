"""Labels and strokes of a drawn plot become its two axes."""

from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from adapters.curves.calibrate import Calibration, calibrate
from adapters.curves.picture import prepare
from adapters.curves.words import engine

Labels = Sequence[tuple[str, float]]
"""Text, and its place along the axis, 0-1."""
X0, Y0, X1, Y1 = 130, 60, 690, 430
EVEN = [(f"{v}", v / 50) for v in range(0, 51, 10)]


def read(
    x: Labels = EVEN,
    y: Labels = EVEN,
    *,
    columns: Sequence[float] = (0, 0.2, 0.4, 0.6, 0.8, 1),
    shift: float = 0,
    gap: int = 0,
    opposite: bool = False,
    overshoot: int = 0,
    title: str = "",
) -> Calibration:
    """A grid with labels. `shift` moves all labels of x, `gap` widens the space within them, `opposite` puts labels at the top and at
    the right, `overshoot` draws the columns beyond the lowest row, `title` stands upright beside the labels of y."""
    image = np.full((520, 820, 3), 255, np.uint8)

    def write(text: str, left: float, base: float) -> float:
        """The text's right end."""
        cv2.putText(image, text, (round(left), round(base)), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
        return left + cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.55, 1)[0][0]

    for part in columns:
        at = round(X0 + part * (X1 - X0))
        cv2.line(image, (at, Y0), (at, Y1 + overshoot), (60, 60, 60), 1)
    for _, part in y:
        at = round(Y1 - part * (Y1 - Y0))
        cv2.line(image, (X0, at), (X1, at), (60, 60, 60), 1)
    cv2.rectangle(image, (X0, Y0), (X1, Y1), (60, 60, 60), 1)
    for text, part in x:
        pieces = text.split(" ")
        sizes = [cv2.getTextSize(p, cv2.FONT_HERSHEY_SIMPLEX, 0.55, 1)[0][0] for p in pieces]
        left = X0 + part * (X1 - X0) + shift - (sum(sizes) + gap * (len(pieces) - 1)) / 2
        for piece in pieces:
            left = write(piece, left, Y0 - 12 if opposite else Y1 + 30) + gap
    for text, part in y:
        size = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.55, 1)[0][0]
        write(text, X1 + 10 if opposite else X0 - 10 - size, Y1 - part * (Y1 - Y0) + 6)
    if title:
        strip = np.full((24, 300, 3), 255, np.uint8)
        cv2.putText(strip, title, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
        upright = cv2.rotate(strip, cv2.ROTATE_90_COUNTERCLOCKWISE)
        part = image[90:390, X0 - 78 : X0 - 54]
        np.minimum(part, upright, out=part)
    found = calibrate(prepare(image), engine().read)
    assert found is not None
    return found


DECADES = [d + float(np.log10(k)) for d in range(3) for k in range(1, 10)]
COMB = [d / 3 for d in DECADES] + [1.0]


def test_a_prefix_that_stands_apart_belongs_to_its_number() -> None:
    found = read([("1 k", 0), ("10 k", 1 / 3), ("100 k", 2 / 3), ("1 M", 1)], columns=COMB, gap=9)
    assert found.x is not None and found.x.scale == "log"
    assert (found.x.v0, found.x.v1) == pytest.approx((1e3, 1e6), rel=0.02)
    assert found.x.confidence > 0.8


def test_powers_whose_letters_stand_apart_are_one_number() -> None:
    found = read([("1 .E-03", 0), ("1 .E-02", 1 / 3), ("1 .E-01", 2 / 3), ("1 .E+00", 1)], columns=COMB, gap=7)
    assert found.x is not None and found.x.scale == "log"
    assert (found.x.v0, found.x.v1) == pytest.approx((1e-3, 1), rel=0.02)


def test_a_number_without_its_prefix_is_no_sure_axis() -> None:
    """The letters are too far off for any gap: whether `1 10 1 10` means k and M cannot be told."""
    found = read([("1 Q", 0), ("10 Q", 1 / 3), ("1 W", 2 / 3), ("10 W", 1)], columns=COMB, gap=40)
    assert found.x is None or found.x.confidence < 0.6


def test_labels_that_all_stand_beside_their_strokes_mean_the_strokes() -> None:
    found = read([(f"{v}", v / 50) for v in range(0, 51, 10)], shift=14)
    assert found.x is not None
    assert (found.x.v0, found.x.v1) == pytest.approx((0, 50), abs=0.2)


def test_decades_whose_labels_are_squeezed_mean_the_comb_of_their_strokes() -> None:
    """The last label stands nearer to the stroke of 900, and to that of 800, than to its own."""
    found = read([("1", 0.022), ("10", 0.34), ("100", 0.655), ("1000", 0.975)], columns=COMB)
    assert found.x is not None and found.x.scale == "log"
    assert (found.x.v0, found.x.v1) == pytest.approx((1, 1000), rel=0.03)


def test_labels_at_the_top_and_at_the_right_are_read_where_there_are_no_others() -> None:
    found = read(opposite=True)
    assert found.x is not None and found.y is not None
    assert (found.x.v0, found.x.v1, found.y.v0, found.y.v1) == pytest.approx((0, 50, 0, 50), abs=0.2)


def test_tick_marks_below_the_plot_do_not_move_its_side() -> None:
    found = read(y=[(f"{v}", v / 50) for v in range(0, 51, 5)], overshoot=3)
    assert found.frame.box.y1 == pytest.approx(
        found.frame.box.y0 + (Y1 - Y0) * found.frame.box.width / (X1 - X0), abs=4
    )
    assert found.y is not None and found.y.v0 == pytest.approx(0, abs=0.2)


def test_the_letters_of_an_upright_title_are_no_labels() -> None:
    with_title, without = read(title="SUPPLY CURRENT 50 (A)"), read()
    assert with_title.y is not None and without.y is not None
    assert (with_title.y.v0, with_title.y.v1) == pytest.approx((0, 50), abs=0.2)
    assert with_title.y.confidence > without.y.confidence - 0.05
