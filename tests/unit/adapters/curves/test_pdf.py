"""Charts of PDFs: exact from their strokes and text, else read as pictures. The PDFs are drawn here, so the truth is known."""

import io
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from adapters.curves.document import part_names, read, visible
from adapters.curves.extract import Curve, Extraction, Given, Options
from adapters.curves.overlay import overlay
from adapters.curves.pdf import DPI, opened
from adapters.curves.picture import NotReadable
from adapters.curves.shapes import Path

mpl.use("pdf")
import matplotlib.pyplot as plt

EXACT = 0.001
"""Of the axis range; the half percent that a picture would have is five times that."""


def pdf(figure: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="pdf", **options)
    plt.close(figure)
    return out.getvalue()


def pages(*figures: Any) -> bytes:
    from matplotlib.backends.backend_pdf import PdfPages

    out = io.BytesIO()
    with PdfPages(out) as document:
        for figure in figures:
            document.savefig(figure)
            plt.close(figure)
    return out.getvalue()


def farthest(curve: Curve, function: Callable[[Any], Any], done: Extraction) -> float:
    """The largest distance in y from a function, as a part of the y axis (in decades where it is logarithmic)."""
    assert done.y is not None
    true = function(curve.x)
    if done.y.scale == "log":
        return float(np.abs(np.log10(curve.y) - np.log10(true)).max() / abs(np.log10(done.y.v1 / done.y.v0)))
    return float(np.abs(curve.y - true).max() / abs(done.y.v1 - done.y.v0))


def by_name(done: Extraction) -> dict[str | None, Curve]:
    return {curve.name: curve for curve in done.curves}


X = np.linspace(0.5, 9.5, 200)


def test_curves_are_exact_and_named_by_the_legend_by_colour_and_by_dashes_alone() -> None:
    figure, axes = plt.subplots()
    axes.plot(X, X**2, "k-", label="rising")
    axes.plot(X, 90 - 5 * X, "k--", label="falling")
    axes.plot(X, 40 + 20 * np.sin(X), "r-", label="Vgs = 4 V")
    axes.grid()
    axes.legend()
    (done,) = read(pdf(figure))
    found = by_name(done)
    assert done.exact and set(found) == {"rising", "falling", "Vgs = 4 V"}
    assert farthest(found["rising"], lambda x: x**2, done) < EXACT
    assert farthest(found["falling"], lambda x: 90 - 5 * x, done) < EXACT
    # The curve is sampled coarsely; its strokes are chords.
    assert farthest(found["Vgs = 4 V"], lambda x: 40 + 20 * np.sin(x), done) < EXACT
    assert done.confidence >= 0.9


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_strokes_lie_where_the_page_shows_them_however_it_is_turned(turn: int) -> None:
    figure, axes = plt.subplots()
    axes.plot(X, X**2, "r", linewidth=2)
    data = pdf(figure).replace(b"/Type /Page ", b"/Type /Page /Rotate %d " % turn)
    with opened(data) as document:
        (curve,) = [s for s in document.sheet(0).strokes if s.colour == (255, 0, 0)]
        rgb = document.picture(0)
    assert visible(Path(curve.points, curve.colour), rgb) > 0.99


def test_log_axes_with_raised_exponents() -> None:
    figure, axes = plt.subplots()
    x = np.logspace(-1, 3, 100)
    axes.loglog(x, 1e-9 / (1 + x / 10), "b", label="Ciss")
    axes.loglog(x, 1e-11 / np.sqrt(x), "g", label="Crss")
    axes.grid(which="both")
    axes.legend()
    axes.set_xlim(0.1, 1000)
    (done,) = read(pdf(figure))
    assert done.x is not None and done.y is not None
    assert (done.x.scale, done.y.scale) == ("log", "log")
    assert np.log10([done.x.v0, done.x.v1]) == pytest.approx([-1, 3], abs=4e-3)
    found = by_name(done)
    assert farthest(found["Ciss"], lambda x: 1e-9 / (1 + x / 10), done) < EXACT
    assert farthest(found["Crss"], lambda x: 1e-11 / np.sqrt(x), done) < EXACT


def test_each_chart_of_a_document_is_a_result_of_its_own_in_reading_order() -> None:
    first, grid = plt.subplots(2, 2, figsize=(8, 8))
    for k, axes in enumerate(grid.ravel()):
        axes.plot(X, (k + 1) * X, "k")
    blank = plt.figure()
    blank.text(0.1, 0.5, "Absolute maximum ratings, see page 3")
    last, axes = plt.subplots()
    axes.plot(X, 7 * X, "k")
    done = read(pages(first, blank, last))
    assert part_names(done, "sheet") == ["sheet-p1-1", "sheet-p1-2", "sheet-p1-3", "sheet-p1-4", "sheet-p3-1"]
    for k, one in enumerate(done):
        slope = k + 1 if k < 4 else 7
        assert farthest(one.curves[0], lambda x, slope=slope: slope * x, one) < EXACT


def test_one_page_and_one_chart_can_be_asked_for() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
    left.plot(X, X, "k")
    right.plot(X, 3 * X, "k")
    data = pages(figure)
    (one,) = read(data, Options(page=1, chart=2))
    assert one.part is not None and (one.part.page, one.part.chart) == (1, 2)
    assert farthest(one.curves[0], lambda x: 3 * x, one) < EXACT
    with pytest.raises(NotReadable, match="there is no page 2"):
        read(data, Options(page=2))
    with pytest.raises(NotReadable, match="there is no chart 3"):
        read(data, Options(page=1, chart=3))


def test_a_factor_at_the_end_of_an_axis_counts() -> None:
    figure, axes = plt.subplots()
    axes.plot(X, 1e-7 * X, "k")
    (done,) = read(pdf(figure))
    assert farthest(done.curves[0], lambda x: 1e-7 * x, done) < EXACT


def test_markers_and_holes_belong_to_their_curve() -> None:
    figure, axes = plt.subplots()
    y = 5 + X
    y[90:110] = np.nan
    axes.plot(X, y, "b-", marker="o", markevery=20, label="measured")
    axes.plot(X, 20 - X, "r-", label="model")
    axes.legend()
    (done,) = read(pdf(figure))
    found = by_name(done)
    assert set(found) == {"measured", "model"}
    assert farthest(found["measured"], lambda x: 5 + x, done) < EXACT


def test_arrows_and_remarks_are_no_curves() -> None:
    figure, axes = plt.subplots()
    axes.plot(X, X**2, "k", linewidth=2)
    axes.annotate("$T_j$ = 25 °C", xy=(6, 36), xytext=(2, 70), arrowprops={"arrowstyle": "->"})
    (done,) = read(pdf(figure))
    assert len(done.curves) == 1


def test_a_page_that_is_only_a_picture_is_read_as_one() -> None:
    figure, axes = plt.subplots(figsize=(5, 4))
    axes.plot(X, X**2, "k")
    axes.grid(color="0.7")
    bitmap = io.BytesIO()
    figure.savefig(bitmap, format="png", dpi=160)
    plt.close(figure)
    from PIL import Image

    scan = io.BytesIO()
    Image.open(bitmap).convert("RGB").save(scan, "PDF", resolution=160.0)
    (done,) = read(scan.getvalue())
    assert not done.exact
    assert len(done.curves) == 1
    assert farthest(done.curves[0], lambda x: x**2, done) < 0.015


def test_letters_drawn_as_outlines_are_read_as_pixels_and_the_curve_stays_exact() -> None:
    with mpl.rc_context({"text.usetex": False}):
        figure, axes = plt.subplots(figsize=(5, 4))
        axes.plot(X, X**2, "k")
        axes.grid(color="0.7")
        figure.canvas.draw()
        from matplotlib.patches import PathPatch
        from matplotlib.textpath import TextPath
        from matplotlib.transforms import Affine2D, IdentityTransform

        for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
            at = label.get_window_extent()
            if not label.get_text():
                continue
            path = TextPath((0, 0), label.get_text(), size=10 * figure.dpi / 72)
            move = Affine2D().translate(at.x0, at.y0) + figure.dpi_scale_trans.inverted() + figure.dpi_scale_trans
            figure.add_artist(PathPatch(path.transformed(move), transform=IdentityTransform(), color="k", lw=0))
            label.set_visible(False)
    (done,) = read(pdf(figure))
    assert done.exact and len(done.curves) == 1
    assert farthest(done.curves[0], lambda x: x**2, done) < 0.01


def test_a_calibration_of_a_chart_can_be_corrected_and_sent_back() -> None:
    figure, axes = plt.subplots()
    axes.plot(X, X**2, "k")
    data = pdf(figure)
    (done,) = read(data)
    editable = done.calibration()
    assert editable is not None
    editable["y"]["calibration"][0]["value"] *= 10
    editable["y"]["calibration"][1]["value"] *= 10
    (again,) = read(data, Options(calibration=Given.from_json(editable), page=1, chart=1))
    assert again.exact
    assert farthest(again.curves[0], lambda x: 10 * x**2, again) < EXACT


def test_the_overlay_shows_the_chart_and_the_curve_on_it() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
    left.plot(X, X, "k")
    right.plot(X, 3 * X, "k")
    second = read(pages(figure))[1]
    shown = overlay(second)
    red = (shown[:, :, 0].astype(int) - shown[:, :, 2]) > 100
    assert red.any()
    assert shown.shape[1] < 9 * DPI


def test_the_same_document_gives_the_same_result() -> None:
    figure, axes = plt.subplots()
    axes.plot(X, X**2, "k", X, 90 - X, "k--")
    data = pdf(figure)
    one, two = (read(data)[0].prediction() for _ in range(2))
    for prediction in (one, two):
        prediction.pop("seconds")
        prediction.pop("timings_s")
    assert one == two


# -- what cannot be read ---------------------------------------------------------------------------------------------


def test_a_document_that_was_cut_off_is_refused() -> None:
    figure, axes = plt.subplots()
    axes.plot(X, X)
    data = pdf(figure)
    with pytest.raises(NotReadable, match="damaged"):
        read(data[:60])


def test_a_huge_page_is_refused() -> None:
    data = minimal_pdf(b"[0 0 144000 144000]")
    with pytest.raises(NotReadable, match="too large"):
        read(data)


def test_a_locked_document_is_refused() -> None:
    with pytest.raises(NotReadable, match="password"):
        read(locked_pdf())


def test_a_document_without_a_plot_says_so() -> None:
    (done,) = read(minimal_pdf(b"[0 0 300 300]"))
    assert done.curves == () and done.confidence == 0
    assert "no plot" in done.notes[0]


def minimal_pdf(box: bytes, extra: bytes = b"", trailer: bytes = b"") -> bytes:
    """One empty page. `extra`: more objects, from number 4 on; `trailer`: more entries of it."""
    out = b"%PDF-1.4\n"
    objects = [
        b"1 0 obj <</Type /Catalog /Pages 2 0 R>> endobj\n",
        b"2 0 obj <</Type /Pages /Kids [3 0 R] /Count 1>> endobj\n",
        b"3 0 obj <</Type /Page /Parent 2 0 R /MediaBox " + box + b">> endobj\n",
    ]
    if extra:
        objects.append(extra)
    places: list[int] = []
    for one in objects:
        places.append(len(out))
        out += one
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(out)
    size = b"%d" % (len(objects) + 1)
    out += b"xref\n0 " + size + b"\n0000000000 65535 f \n" + table
    return out + b"trailer <</Root 1 0 R /Size " + size + trailer + b">>\nstartxref\n%d\n%%%%EOF\n" % start


def locked_pdf() -> bytes:
    """Encrypted by the standard handler with a password that nobody here knows."""
    encrypt = (
        b"4 0 obj <</Filter /Standard /V 2 /R 3 /Length 128 /P -44 /O <"
        + b"41" * 32
        + b"> /U <"
        + b"42" * 32
        + b">>> endobj\n"
    )
    return minimal_pdf(b"[0 0 300 300]", encrypt, b" /Encrypt 4 0 R /ID [<00112233> <00112233>]")


def test_an_upright_line_over_the_whole_plot_is_ruled_though_not_quite_upright() -> None:
    figure, axes = plt.subplots()
    axes.plot(X, X**2, "k", linewidth=1)
    axes.plot([3.3, 3.306], [0, 100], "k", linewidth=1)
    axes.set_ylim(0, 100)
    (done,) = read(pdf(figure))
    (curve,) = done.curves
    assert farthest(curve, lambda x: x**2, done) < EXACT


def test_a_coloured_line_on_a_grid_line_is_a_flat_curve() -> None:
    figure, axes = plt.subplots()
    axes.plot(X, X**2, "k", linewidth=1)
    axes.plot([0, 10], [40, 40], "r", linewidth=1)
    axes.set(xlim=(0, 10), ylim=(0, 100))
    axes.grid(color="0.4", linewidth=0.6)
    (done,) = read(pdf(figure))
    assert len(done.curves) == 2
    red = next(c for c in done.curves if c.colour == (255, 0, 0))
    assert farthest(red, lambda x: 40 + 0 * x, done) < EXACT


def test_a_curve_drawn_again_within_the_width_of_its_pen_is_one_curve() -> None:
    figure, axes = plt.subplots()
    axes.plot(X, 10 * X, "k", linewidth=2.5)
    axes.plot(X, 10 * X + 0.25, "k", linewidth=0.8)
    (done,) = read(pdf(figure))
    (curve,) = done.curves
    assert farthest(curve, lambda x: 10 * x, done) < 0.005


def test_a_curve_that_goes_on_with_another_pen_is_one_curve() -> None:
    figure, axes = plt.subplots()
    for part, width in ((X <= X[100], 1.5), (X >= X[100], 0.9)):
        axes.plot(X[part], 80 - 5 * X[part], "b", linewidth=width)
        axes.plot(X[part], 30 - 2 * X[part], "r", linewidth=width)
    (done,) = read(pdf(figure))
    assert len(done.curves) == 2
    for colour, function in (((0, 0, 255), lambda x: 80 - 5 * x), ((255, 0, 0), lambda x: 30 - 2 * x)):
        curve = next(c for c in done.curves if c.colour == colour)
        assert np.ptp(curve.x) > 8.9
        assert farthest(curve, function, done) < EXACT


def test_halves_of_a_peak_and_strokes_drawn_over_each_other_for_a_little_are_one_curve() -> None:
    figure, axes = plt.subplots()
    peak = 90 * np.exp(-np.abs(X - 5))
    axes.plot(X[X < 5], peak[X < 5], "b", linewidth=2)
    axes.plot(X[X > 5], peak[X > 5], "b", linewidth=2)
    for part in (slice(0, 70), slice(66, 120), slice(116, 200)):
        axes.plot(X[part], 5 + 3 * X[part], "r")
    (done,) = read(pdf(figure))
    assert sorted(float(np.ptp(c.x)) for c in done.curves) == pytest.approx([9, 9], abs=0.01)
    red = next(c for c in done.curves if c.colour == (255, 0, 0))
    assert farthest(red, lambda x: 5 + 3 * x, done) < EXACT


def test_elbows_with_the_pen_of_the_grid_are_pointers() -> None:
    figure, axes = plt.subplots()
    axes.plot(X, X**2, "k", linewidth=2)
    axes.plot([2, 4, 6], [70, 70, 37], "k", linewidth=0.7)
    axes.set(xlim=(0, 10), ylim=(0, 100))
    axes.grid(color="k", linewidth=0.7)
    (done,) = read(pdf(figure))
    (curve,) = done.curves
    assert farthest(curve, lambda x: x**2, done) < EXACT
