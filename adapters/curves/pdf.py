"""A PDF's pages as strokes, text and pictures, in pixels of the page rendered at `DPI`.

What a PDF draws is exact: a curve is a list of points, a tick label is text at a place. Nothing is interpreted here.
"""

import ctypes
import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from adapters.curves.kit import untyped
from adapters.curves.picture import MAX_PIXELS, NotReadable
from adapters.curves.shapes import Box, Floats, Rgb

DPI = 200
MAX_PAGES = 400
MAX_OBJECTS = 60_000
"""A page of more is a map or a drawing; it is read as a picture."""
DEEPEST = 8
SYMBOLS = {
    0xF0B0: "°",
    0xF06D: "µ",
    0xF057: "Ω",
    0xF044: "Δ",
    0xF070: "π",
    0xF06C: "λ",
    0xF0B1: "±",
    0xF0B4: "×",
    0xF02D: "-",
}
"""What fonts of symbols say for what has a letter of its own."""


@dataclass(frozen=True)
class Stroke:
    """One line that was drawn without lifting the pen, N x 2, its Bézier curves flattened.

    `filled`: an area, not a line; `points` go around it.
    """

    points: Floats
    colour: tuple[int, int, int]
    width: float
    dashes: tuple[float, ...] = ()
    filled: bool = False
    closed: bool = False

    @property
    def box(self) -> Box:
        (x0, y0), (x1, y1) = self.points.min(axis=0), self.points.max(axis=0)
        return Box(float(x0), float(y0), float(x1), float(y1))


@dataclass(frozen=True)
class Letter:
    """A character with its place on its base line, its size and the direction in which it is written."""

    text: str
    box: Box
    origin: tuple[float, float]
    size: float
    angle_deg: float
    colour: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class Sheet:
    """One page."""

    number: int
    width: float
    height: float
    strokes: tuple[Stroke, ...]
    letters: tuple[Letter, ...]
    pictures: tuple[Box, ...]


def is_pdf(data: bytes) -> bool:
    return b"%PDF-" in data[:1024]


@contextmanager
def opened(data: bytes) -> "Generator[Document]":
    """Raises NotReadable for what is locked, damaged or empty."""
    pdfium = untyped("pypdfium2")
    try:
        document = pdfium.PdfDocument(data)
        count = len(document)
    except pdfium.PdfiumError as error:
        locked = "password" in str(error).lower()
        hint = "it is locked by a password; save it without one" if locked else "it is damaged or cut off"
        raise NotReadable(f"the PDF cannot be opened: {hint}") from None
    try:
        if count == 0:
            raise NotReadable("the PDF has no pages")
        yield Document(document, count)
    finally:
        document.close()


class Document:
    """An open PDF. Pages are counted from 0."""

    def __init__(self, document: Any, count: int) -> None:
        self._document = document
        self.pages = count

    def _page(self, number: int) -> tuple[Any, "_Place"]:
        if not 0 <= number < self.pages:
            raise NotReadable(f"the PDF has {self.pages} pages; there is no page {number + 1}")
        try:
            page = self._document[number]
        except untyped("pypdfium2").PdfiumError:
            raise NotReadable(f"page {number + 1} of the PDF is damaged") from None
        place = _Place.of(page)
        if place.wide * place.high > MAX_PIXELS:
            inches = f"{place.wide / DPI:,.0f} x {place.high / DPI:,.0f} inches"
            raise NotReadable(f"page {number + 1} of the PDF is {inches} large: too large to be drawn")
        return page, place

    def picture(self, number: int) -> Rgb:
        """The page as pixels."""
        page, _ = self._page(number)
        return np.ascontiguousarray(np.asarray(page.render(scale=DPI / 72).to_pil().convert("RGB"), np.uint8))

    def sheet(self, number: int) -> Sheet:
        """The page as strokes, letters and pictures."""
        page, place = self._page(number)
        raw = untyped("pypdfium2.raw")
        strokes: list[Stroke] = []
        pictures: list[Box] = []
        seen = 0
        for one, matrix in _objects(raw, page, place.matrix):
            seen += 1
            if seen > MAX_OBJECTS:
                strokes = []
                break
            kind = raw.FPDFPageObj_GetType(one)
            if kind == raw.FPDF_PAGEOBJ_PATH:
                strokes += _strokes(raw, one, matrix)
            elif kind == raw.FPDF_PAGEOBJ_IMAGE:
                corners = np.array([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
                at = _moved(corners, _times(_matrix_of(raw, one), matrix))
                (x0, y0), (x1, y1) = at.min(axis=0), at.max(axis=0)
                pictures.append(Box(float(x0), float(y0), float(x1), float(y1)))
        letters = tuple(_letters(raw, page, place.matrix))
        return Sheet(number, place.wide, place.high, tuple(strokes), letters, tuple(pictures))


@dataclass(frozen=True)
class _Place:
    """How a page's points become pixels: crop box, rotation and scale. A matrix is (a, b, c, d, e, f) as PDF has it."""

    wide: float
    high: float
    matrix: tuple[float, ...]

    @staticmethod
    def of(page: Any) -> "_Place":
        left, bottom, right, top = (float(v) for v in page.get_bbox())
        zoom = DPI / 72
        w, h = (right - left) * zoom, (top - bottom) * zoom
        turn = int(page.get_rotation()) % 360
        # The centre of the upper left pixel is (0, 0): half a pixel from the page's corner.
        matrix = {
            0: (zoom, 0.0, 0.0, -zoom, -left * zoom - 0.5, top * zoom - 0.5),
            90: (0.0, zoom, zoom, 0.0, -bottom * zoom - 0.5, -left * zoom - 0.5),
            180: (-zoom, 0.0, 0.0, zoom, right * zoom - 0.5, -bottom * zoom - 0.5),
            270: (0.0, -zoom, -zoom, 0.0, top * zoom - 0.5, right * zoom - 0.5),
        }[turn]
        return _Place(*((h, w) if turn in (90, 270) else (w, h)), matrix)


def _times(first: tuple[float, ...], then: tuple[float, ...]) -> tuple[float, ...]:
    a, b, c, d, e, f = first
    p, q, r, s, t, u = then
    return (a * p + b * r, a * q + b * s, c * p + d * r, c * q + d * s, e * p + f * r + t, e * q + f * s + u)


def _moved(points: Floats, matrix: tuple[float, ...]) -> Floats:
    a, b, c, d, e, f = matrix
    return np.asarray(points, np.float64) @ np.array([[a, b], [c, d]]) + np.array([e, f])


def _size(matrix: tuple[float, ...]) -> float:
    a, b, c, d, _, _ = matrix
    return math.sqrt(abs(a * d - b * c))


def _matrix_of(raw: Any, one: Any) -> tuple[float, ...]:
    m = raw.FS_MATRIX()
    if not raw.FPDFPageObj_GetMatrix(one, m):
        return (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
    return (m.a, m.b, m.c, m.d, m.e, m.f)


def _objects(raw: Any, page: Any, matrix: tuple[float, ...]) -> Iterator[tuple[Any, tuple[float, ...]]]:
    """All objects of a page, those of its forms too, each with the matrix of what holds it."""
    waiting = [(raw.FPDFPage_GetObject(page, i), matrix, 0) for i in range(raw.FPDFPage_CountObjects(page))][::-1]
    while waiting:
        one, held, depth = waiting.pop()
        if raw.FPDFPageObj_GetType(one) != raw.FPDF_PAGEOBJ_FORM:
            yield one, held
        elif depth < DEEPEST:
            inner = _times(_matrix_of(raw, one), held)
            parts = range(raw.FPDFFormObj_CountObjects(one))
            waiting += [(raw.FPDFFormObj_GetObject(one, i), inner, depth + 1) for i in parts][::-1]


def _colour(read: Any, one: Any) -> tuple[int, int, int] | None:
    """None for what cannot be seen."""
    r, g, b, a = (ctypes.c_uint() for _ in range(4))
    if not read(one, r, g, b, a):
        return (0, 0, 0)
    return None if a.value < 8 else (int(r.value), int(g.value), int(b.value))


def _strokes(raw: Any, one: Any, held: tuple[float, ...]) -> Iterator[Stroke]:
    fill, stroke = ctypes.c_int(), raw.FPDF_BOOL()
    raw.FPDFPath_GetDrawMode(one, fill, stroke)
    if not (fill.value or stroke.value):
        return
    matrix = _times(_matrix_of(raw, one), held)
    colour = _colour(raw.FPDFPageObj_GetStrokeColor if stroke.value else raw.FPDFPageObj_GetFillColor, one)
    if colour is None:
        return
    width = ctypes.c_float()
    raw.FPDFPageObj_GetStrokeWidth(one, width)
    count = max(0, int(raw.FPDFPageObj_GetDashCount(one)))
    dashes: tuple[float, ...] = ()
    if stroke.value and 0 < count <= 32:
        lengths = (ctypes.c_float * count)()
        raw.FPDFPageObj_GetDashArray(one, lengths, count)
        dashes = tuple(round(float(v) * _size(matrix), 3) for v in lengths)
    for points, closed in _subpaths(raw, one, matrix):
        yield Stroke(points, colour, float(width.value) * _size(matrix), dashes, not stroke.value, closed)


def _subpaths(raw: Any, one: Any, matrix: tuple[float, ...]) -> Iterator[tuple[Floats, bool]]:
    """Each run of a path between two moves of the pen: its points, and whether it is closed."""
    run: list[Floats] = []
    control: list[Floats] = []
    x, y = ctypes.c_float(), ctypes.c_float()
    for i in range(raw.FPDFPath_CountSegments(one)):
        segment = raw.FPDFPath_GetPathSegment(one, i)
        raw.FPDFPathSegment_GetPoint(segment, x, y)
        at = _moved(np.array([(x.value, y.value)]), matrix)
        kind = raw.FPDFPathSegment_GetType(segment)
        if kind == raw.FPDF_SEGMENT_MOVETO:
            if len(run) > 1:
                yield np.concatenate(run), False
            run = [at]
        elif kind == raw.FPDF_SEGMENT_BEZIERTO:
            control.append(at)
            if len(control) == 3:
                run.append(_bezier(run[-1][-1] if run else control[0][0], *(c[0] for c in control)))
                control = []
        else:
            run.append(at)
        if raw.FPDFPathSegment_GetClose(segment) and len(run) > 1:
            yield np.concatenate([*run, run[0][:1]]), True
            run = [run[0][:1]]
    if len(run) > 1:
        yield np.concatenate(run), False


def _bezier(a: Floats, b: Floats, c: Floats, d: Floats) -> Floats:
    """A cubic Bézier curve without its first point, so fine that its chords are a few pixels long."""
    length = float(np.hypot(*(b - a)) + np.hypot(*(c - b)) + np.hypot(*(d - c)))
    steps = int(np.clip(length / 2, 2, 200))
    t = np.linspace(0, 1, steps + 1)[1:, None]
    return (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d


def _letters(raw: Any, page: Any, matrix: tuple[float, ...]) -> Iterator[Letter]:
    text = page.get_textpage()
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    x, y = ctypes.c_double(), ctypes.c_double()
    m = raw.FS_MATRIX()
    try:
        for i in range(text.count_chars()):
            code = int(raw.FPDFText_GetUnicode(text, i))
            if raw.FPDFText_IsGenerated(text, i) == 1 or code < 32 or 0xD800 <= code < 0xE000 or code > 0x10FFFF:
                continue
            raw.FPDFText_GetCharBox(text, i, left, right, bottom, top)
            raw.FPDFText_GetCharOrigin(text, i, x, y)
            raw.FPDFText_GetMatrix(text, i, m)
            whole = _times((m.a, m.b, m.c, m.d, 0.0, 0.0), (*matrix[:4], 0.0, 0.0))
            corners = _moved(np.array([(left.value, bottom.value), (right.value, top.value)]), matrix)
            (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
            origin = _moved(np.array([(x.value, y.value)]), matrix)[0]
            size = float(raw.FPDFText_GetFontSize(text, i)) * math.hypot(whole[2], whole[3])
            yield Letter(
                SYMBOLS.get(code) or chr(code),
                Box(float(x0), float(y0), float(x1), float(y1)),
                (float(origin[0]), float(origin[1])),
                size,
                math.degrees(math.atan2(-whole[1], whole[0])),
                _letter_colour(raw, text, i),
            )
    finally:
        text.close()


def _letter_colour(raw: Any, text: Any, i: int) -> tuple[int, int, int]:
    r, g, b, a = (ctypes.c_uint() for _ in range(4))
    if not raw.FPDFText_GetFillColor(text, i, r, g, b, a):
        return (0, 0, 0)
    return (int(r.value), int(g.value), int(b.value))
