"""A file into extractions: a picture has one, a PDF one for each of its charts.

Of a PDF's page the strokes and the text are taken where it has them (`vector`); what is only a picture there, or a scan, is
rendered and read as pixels. Pixels are counted from the page's upper left corner at `pdf.DPI`, whichever way was taken, so
that a calibration can be sent back for either.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from adapters.curves.extract import (
    Extraction,
    Given,
    GivenAxis,
    Options,
    Part,
    TextEngine,
    chosen,
    curves_on,
    extract,
)
from adapters.curves.frame import find_frames
from adapters.curves.pdf import MAX_PAGES, Document, Sheet, is_pdf, opened
from adapters.curves.picture import NotReadable, Picture, prepare
from adapters.curves.shapes import Axis, Box, Floats, Frame, Grey, Path, Rgb
from adapters.curves.sides import UNKNOWN, UNKNOWN_CHANCE, not_names, sides_of
from adapters.curves.vector import Chart, Sides, charts_of, curves_with, in_reading_order, shy_frames

SMALLEST_PICTURE = 220.0
"""Pictures on a page with a shorter side than this (28 mm) are logos."""
UNSEEN = 0.5
"""A curve of which less can be seen on the rendered page was drawn under something else, or clipped away."""


def read(data: bytes, options: Options | None = None, engine: TextEngine | None = None) -> list[Extraction]:
    """All charts of a file that were asked for, at least one. Raises NotReadable in words."""
    options = options or Options()
    if not is_pdf(data):
        if (options.page or 1) != 1 or (options.chart or 1) != 1:
            raise NotReadable("a picture has one page with one chart; there is no page or chart of other number")
        return _titled([extract(data, options, engine)], options.calibration)
    with opened(data) as document:
        return _titled(_read(document, options, engine), options.calibration)


def _titled(found: list[Extraction], given: Given | None) -> list[Extraction]:
    """With the axes' titles that the caller gave."""
    return found if given is None else [replace(one, titles=given.titles) for one in found]


def _read(document: Document, options: Options, engine: TextEngine | None) -> list[Extraction]:
    if options.page is None and document.pages > MAX_PAGES:
        raise NotReadable(f"the PDF has {document.pages} pages; name one of them, or bring at most {MAX_PAGES}")
    if options.calibration is not None:
        return [_calibrated(document, options, engine)]
    pages = range(1, document.pages + 1) if options.page is None else [options.page]
    out: list[Extraction] = []
    for page in pages:
        found = list(_page(document, page, options, engine))
        out += [replace(one, part=Part(page, k)) for k, one in enumerate(found, start=1)]
    if options.chart is not None:
        asked = [one for one in out if one.part is not None and one.part.chart == options.chart]
        if not asked:
            charts = "1 chart" if len(out) == 1 else f"{len(out)} charts"
            where = "" if options.page is None else " on that page"
            raise NotReadable(f"the PDF has {charts}{where}; there is no chart {options.chart}")
        return asked[:1]
    if out:
        return out
    where = "the PDF" if options.page is None else f"page {options.page} of the PDF"
    paper = document.picture(pages[0] - 1)
    note = f"no plot with axes was found in {where}"
    return [Extraction(None, None, (), 0.0, {}, flat(paper, Box(0, 0, *paper.shape[1::-1])), None, notes=(note,))]


def _page(document: Document, page: int, options: Options, engine: TextEngine | None) -> Iterator[Extraction]:
    """The charts of one page in reading order."""
    begun = time.perf_counter()
    sheet = document.sheet(page - 1)
    charts = charts_of(sheet)
    lone = [box for box in _pictures(sheet) if not any(box.overlap(c.frame.box) > 0.3 for c in charts)]
    shy = [f for f in shy_frames(sheet) if not any(f.box.overlap(c.frame.box) > 0.2 for c in charts)]
    if not charts and not lone and not shy:
        return
    rgb = document.picture(page - 1)
    spent = time.perf_counter() - begun
    found: list[tuple[Box, Extraction]] = []
    for chart in charts:
        as_picture = options.method != "standard" or not chart.paths
        one = None if as_picture else of_strokes(chart, rgb, spent / len(charts))
        if one is None or not one.curves:
            region = around(chart.frame.box, rgb)
            one = in_region(rgb, region, chart.frame.box, options, engine) or one
        if one is not None:
            found.append((chart.frame.box, one))
    for frame in shy:
        one = in_region(rgb, around(frame.box, rgb), frame.box, options, engine)
        if one is not None:
            one = _with_strokes(one, sheet, rgb) if options.method == "standard" else one
            found.append((frame.box, one))
    for box in lone:
        for part in plots_in(rgb, box):
            one = in_region(rgb, around(part, rgb, box), part, options, engine)
            if one is not None and not any(part.overlap(other) > 0.3 for other, _ in found):
                found.append((part, one))
    yield from (one for _, one in in_reading_order(found, lambda q: q[0]))


def _pictures(sheet: Sheet) -> list[Box]:
    """Pictures that are large enough to hold a plot, within the page; strips of one picture joined."""
    page = Box(0, 0, sheet.width, sheet.height)
    boxes: list[Box] = []
    for q in sorted(sheet.pictures, key=lambda b: (b.x0, b.y0)):
        b = Box(max(q.x0, page.x0), max(q.y0, page.y0), min(q.x1, page.x1), min(q.y1, page.y1))
        last = boxes[-1] if boxes else None
        if last and abs(last.x0 - b.x0) < 2 and abs(last.x1 - b.x1) < 2 and abs(b.y0 - last.y1) < 3:
            boxes[-1] = Box(last.x0, last.y0, last.x1, b.y1)
        elif b.width > 0 and b.height > 0:
            boxes.append(b)
    return [b for b in boxes if min(b.width, b.height) >= SMALLEST_PICTURE]


def plots_in(rgb: Rgb, box: Box) -> list[Box]:
    """Frames of plots in a part of a page that is only a picture; the whole part when there is none."""
    part = cut(rgb, box)
    picture = prepare(part, 0.0)
    frames: list[Box] = []
    for frame in find_frames(picture.ink, picture.noise, 24):
        b = frame.box
        corners = picture.to_source(np.array([(b.x0, b.y0), (b.x1, b.y1)])) + np.array([box.x0, box.y0])
        at = Box(*(float(v) for v in corners.ravel()))
        if min(at.width, at.height) > 90 and not any(at.overlap(other) > 0.1 for other in frames):
            frames.append(at)
    # Of a single plot nothing is gained by a smaller part.
    return frames if len(frames) > 1 else [box]


def cut(rgb: Rgb, box: Box) -> Rgb:
    high, wide = rgb.shape[:2]
    x0, y0 = max(0, round(box.x0)), max(0, round(box.y0))
    return np.ascontiguousarray(rgb[y0 : min(high, round(box.y1) + 1), x0 : min(wide, round(box.x1) + 1)])


def around(box: Box, rgb: Rgb, limits: Box | None = None) -> Box:
    """A plot's frame with the room in which its labels and titles are."""
    high, wide = rgb.shape[:2]
    room = limits or Box(0, 0, wide - 1, high - 1)
    return Box(
        max(room.x0, 0, round(box.x0 - 0.3 * box.width - 40)),
        max(room.y0, 0, round(box.y0 - 0.14 * box.height - 20)),
        min(room.x1, wide - 1, round(box.x1 + 0.3 * box.width + 40)),
        min(room.y1, high - 1, round(box.y1 + 0.25 * box.height + 40)),
    )


def flat(rgb: Rgb, region: Box) -> Picture:
    """A part of a page as a picture whose pixels are those of the page."""
    part = cut(rgb, region)
    ink: Grey = np.zeros((1, 1), np.float32)
    matrix = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    return Picture(part, ink, 0.0, matrix, part, 0.0, 1.0, (region.x0, region.y0))


def of_strokes(chart: Chart, rgb: Rgb, seconds: float, given: Given | None = None) -> Extraction:
    """What was found in the strokes, without what cannot be seen on the page."""
    seen = [p for p in chart.paths if visible(p, rgb) > UNSEEN]
    paths = chosen(seen, given)
    x, y = chart.x, chart.y
    assert x is not None and y is not None
    sure = chance(chart, len(paths))
    # With axes by the caller nothing is doubted.
    second = chart.second if given is not None else not_names(chart.second, paths, chart.frame.box)
    sides = sides_of(paths, y, second)
    if sides is None:
        sure = min(sure, UNKNOWN_CHANCE)
    picture = flat(rgb, around(chart.frame.box, rgb))
    return Extraction(
        x,
        y,
        tuple(curves_on(paths, x, y, second, sides, sure, picture)),
        sure,
        {"vector": seconds},
        picture,
        chart.frame,
        tuple(paths),
        chart.words,
        () if sides is not None else (UNKNOWN,),
        second=second,
        exact=True,
    )


def chance(chart: Chart, curves: int) -> float:
    """How sure a chart of strokes is: its axes, what was drawn there and not understood, doubt where strokes meet."""
    if chart.x is None or chart.y is None or curves == 0:
        return 0.05
    axes = min(chart.x.confidence, chart.y.confidence)
    crowd = 1.0 if curves <= 12 else 12 / curves
    return float(
        min(0.99, max(0.0, (0.35 + 0.66 * axes) * (1 - 2 * chart.unexplained) * (1 - 0.25 * chart.doubt) * crowd))
    )


def visible(path: Path, rgb: Rgb) -> float:
    """The part of a path along which the page has something of its colour."""
    step = np.hypot(*np.diff(path.points, axis=0).T)
    s = np.r_[0.0, np.cumsum(step)]
    at: Floats = np.linspace(0.0, float(s[-1]), max(2, int(s[-1] / 3)))
    xs = np.round(np.interp(at, s, path.points[:, 0])).astype(int)
    ys = np.round(np.interp(at, s, path.points[:, 1])).astype(int)
    high, wide = rgb.shape[:2]
    colour = np.array(path.colour, np.float64)
    best = np.full(len(at), 1e9)
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            pixels = rgb[np.clip(ys + dy, 0, high - 1), np.clip(xs + dx, 0, wide - 1)].astype(np.float64)
            best = np.minimum(best, np.abs(pixels - colour).max(axis=1))
    # Dashes leave half of their line white; a thin stroke is paler than its colour.
    share = float((best < 0.6 * max(80.0, float(np.abs(255 - colour).max()))).mean())
    return min(1.0, share * 2) if path.dashed or path.details.get("markers") else share


def in_region(rgb: Rgb, region: Box, frame: Box, options: Options, engine: TextEngine | None) -> Extraction | None:
    """A part of a page read as a picture. None when the plot found there is not the one that was expected, or has no axes."""
    given = None if options.calibration is None else shifted(options.calibration, -region.x0, -region.y0)
    done = on_page(extract(cut(rgb, region), replace(options, calibration=given), engine), region)
    if options.calibration is not None:
        return done
    if done.frame is None or done.x is None or done.y is None:
        return None
    corners = done.picture.to_source(_corners(done.frame.box))
    (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
    return done if Box(float(x0), float(y0), float(x1), float(y1)).overlap(frame) > 0.5 else None


def _corners(b: Box) -> Floats:
    return np.array([(b.x0, b.y0), (b.x1, b.y0), (b.x1, b.y1), (b.x0, b.y1)])


def on_page(done: Extraction, region: Box) -> Extraction:
    """An extraction of a part of a page, its source pixels counted from the page's corner."""
    picture, origin = done.picture, np.array([region.x0, region.y0])
    matrix = picture.matrix.copy()
    matrix[:, 2] -= matrix[:, :2] @ origin
    curves = tuple(replace(c, pixels=c.pixels + origin) for c in done.curves)
    return replace(done, picture=replace(picture, matrix=matrix, origin=(region.x0, region.y0)), curves=curves)


def shifted(given: Given, dx: float, dy: float) -> Given:
    def one(a: GivenAxis) -> GivenAxis:
        (ax, ay), (bx, by) = a.pixels
        through = tuple((x + dx, y + dy) for x, y in a.through)
        return replace(a, pixels=((ax + dx, ay + dy), (bx + dx, by + dy)), through=through)

    return replace(given, x=one(given.x), y=one(given.y), y2=one(given.y2) if given.y2 else None)


def _with_strokes(done: Extraction, sheet: Sheet, rgb: Rgb) -> Extraction:
    """Curves from the page's strokes in place of those measured in pixels, where the axes had to be read from pixels."""
    if done.frame is None or done.x is None or done.y is None or done.picture.angle_deg != 0:
        return done

    def moved(a: Axis, along: int) -> Axis:
        ends = done.picture.to_source(np.array([(a.p0, a.p0), (a.p1, a.p1)]))[:, along]
        return replace(a, p0=float(ends[0]), p1=float(ends[1]), ticks=())

    x, y = moved(done.x, 0), moved(done.y, 1)
    frame = Frame(Box(min(x.p0, x.p1), min(y.p0, y.p1), max(x.p0, x.p1), max(y.p0, y.p1)))
    chart = curves_with(sheet, frame, Sides(x, y, None))
    if not chart.paths or len(chart.paths) > 3 * len(done.paths) + 3:
        return done
    exact = of_strokes(replace(chart, words=done.words), rgb, sum(done.timings_s.values()))
    return exact if exact.curves else done


def _calibrated(document: Document, options: Options, engine: TextEngine | None) -> Extraction:
    """With axes by the caller, in pixels of the page."""
    page = options.page or 1
    given = options.calibration
    assert given is not None
    begun = time.perf_counter()
    sheet = document.sheet(page - 1)
    rgb = document.picture(page - 1)
    points = np.array([*given.x.pixels, *given.y.pixels])
    box = Box(*(float(v) for v in (*points.min(axis=0), *points.max(axis=0))))
    if not (0 <= box.cx < rgb.shape[1] and 0 <= box.cy < rgb.shape[0]):
        raise NotReadable(
            f"the calibration's pixels lie outside of page {page}, which has {rgb.shape[1]} x {rgb.shape[0]}"
        )
    (xa, xb), (ya, yb) = (p[0] for p in given.x.pixels), (p[1] for p in given.y.pixels)
    part = Part(page, options.chart or 1)
    level = (
        abs(given.x.pixels[0][1] - given.x.pixels[1][1]) < 2 and abs(given.y.pixels[0][0] - given.y.pixels[1][0]) < 2
    )
    if options.method == "standard" and level:
        first = Axis(given.x.scale, xa, xb, *given.x.values), Axis(given.y.scale, ya, yb, *given.y.values)
        sides = Sides(*first, None if given.y2 is None else _second(given.y2))
        chart = curves_with(sheet, Frame(box), sides)
        done = of_strokes(chart, rgb, time.perf_counter() - begun, given)
        if done.curves:
            return replace(done, part=part)
    done = in_region(rgb, around(box, rgb), box, options, engine)
    assert done is not None
    return replace(done, part=part)


def _second(given: GivenAxis) -> Axis:
    """The caller's second y axis, in pixels of the page."""
    return Axis(given.scale, given.pixels[0][1], given.pixels[1][1], *given.values, through=given.through)


def part_names(found: Sequence[Extraction], stem: str) -> list[str]:
    """A file name's beginning for each: the stem, for charts of a PDF with page and chart, as in `sheet-p3-2`."""
    return [stem if one.part is None else f"{stem}-p{one.part.page}-{one.part.chart}" for one in found]


__all__ = ["part_names", "read"]
