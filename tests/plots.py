"""Plots drawn here, with known data (CC0): plain OpenCV strokes and letters, so that no other program is needed."""

from collections.abc import Callable, Sequence

import cv2  # of the extra `curves`, which the extra `test` brings along
import numpy as np

Span = tuple[float, float, float]
"""Of an axis: lowest and highest value, and the step between its labels."""
Function = Callable[[np.ndarray], np.ndarray]
Colour = tuple[int, int, int]
BLACK: Colour = (0, 0, 0)


def draw(
    curves: Sequence[tuple[Function, Colour]],
    *,
    x: Span = (0, 10, 2),
    y: Span = (0, 100, 20),
    y2: Span | None = None,
    on_y2: Sequence[tuple[Function, Colour]] = (),
    grid: bool = True,
    labels: bool = True,
    size: tuple[int, int] = (720, 560),
    letters: float = 0.6,
) -> bytes:
    """A PNG of functions over linear axes. `y2`: a second y axis at the right, for the functions `on_y2`."""
    wide, high = size
    image = np.full((high, wide, 3), 255, np.uint8)
    room = letters / 0.6
    x0, y0, x1, y1 = round(90 * room), round(30 * room), wide - round((40 if y2 is None else 90) * room), 0
    y1 = high - round(70 * room)

    def px(v: float) -> float:
        return x0 + (v - x[0]) / (x[1] - x[0]) * (x1 - x0)

    def py(v: float, of: Span = y) -> float:
        return y1 - (v - of[0]) / (of[1] - of[0]) * (y1 - y0)

    def write(text: str, left: float, base: float) -> None:
        at = round(left), round(base)
        cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, letters, BLACK, 1, cv2.LINE_AA)

    def extent(text: str) -> tuple[int, int]:
        (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, letters, 1)
        return w, h

    def values(of: Span) -> np.ndarray:
        return np.arange(of[0], of[1] + of[2] / 2, of[2])

    for value in values(x):
        at = round(px(value))
        if grid:
            cv2.line(image, (at, y0), (at, y1), (160, 160, 160), 1)
        if labels:
            w, h = extent(f"{value:g}")
            write(f"{value:g}", at - w // 2, y1 + 14 * room + h)
    for value in values(y):
        at = round(py(value))
        if grid:
            cv2.line(image, (x0, at), (x1, at), (160, 160, 160), 1)
        if labels:
            w, h = extent(f"{value:g}")
            write(f"{value:g}", x0 - 12 * room - w, at + h // 2)
    for value in values(y2) if y2 is not None else ():
        _, h = extent(f"{value:g}")
        write(f"{value:g}", x1 + 12 * room, py(value, y2 or y) + h // 2)
    cv2.rectangle(image, (x0, y0), (x1, y1), BLACK, 2 if room > 0.8 else 1)
    at = np.linspace(x[0] + 0.05 * (x[1] - x[0]), x[1] - 0.05 * (x[1] - x[0]), 300)
    for of, functions in ((y, curves), (y2 or y, on_y2)):
        for function, colour in functions:
            points = np.array([(px(a), py(b, of)) for a, b in zip(at, function(at), strict=True)])
            pixels = np.round(points * 16).astype(np.int32).reshape(-1, 1, 2)
            cv2.polylines(image, [pixels], False, colour[::-1], 3 if room > 0.8 else 2, cv2.LINE_AA, shift=4)
    good, png = cv2.imencode(".png", image)
    assert good
    return png.tobytes()


def draw_pdf(function: Function, *, x: Span = (0, 10, 2), y: Span = (0, 100, 20)) -> bytes:
    """A page with one plot as strokes and text, which is read ten times as fast as a picture."""
    x0, y0, x1, y1 = 60.0, 50.0, 360.0, 250.0

    def px(v: float) -> float:
        return x0 + (v - x[0]) / (x[1] - x[0]) * (x1 - x0)

    def py(v: float) -> float:
        return y0 + (v - y[0]) / (y[1] - y[0]) * (y1 - y0)

    def write(text: str, left: float, base: float) -> str:
        return f"BT /F 9 Tf {left:.2f} {base:.2f} Td ({text}) Tj ET"

    drawn = [f"0.8 w {x0} {y0} {x1 - x0} {y1 - y0} re S 0.3 w"]
    for value in np.arange(x[0], x[1] + x[2] / 2, x[2]):
        drawn += [f"{px(value):.2f} {y0} m {px(value):.2f} {y0 + 4} l S", write(f"{value:g}", px(value) - 3, y0 - 14)]
    for value in np.arange(y[0], y[1] + y[2] / 2, y[2]):
        drawn += [f"{x0} {py(value):.2f} m {x0 + 4} {py(value):.2f} l S"]
        drawn += [write(f"{value:g}", x0 - 8 - 5 * len(f"{value:g}"), py(value) - 3)]
    at = np.linspace(x[0] + 0.05 * (x[1] - x[0]), x[1] - 0.05 * (x[1] - x[0]), 60)
    points = [f"{px(a):.3f} {py(b):.3f}" for a, b in zip(at, function(at), strict=True)]
    drawn += ["1.5 w 0 0 0.8 RG", f"{points[0]} m", *(f"{point} l" for point in points[1:]), "S"]
    content = "\n".join(drawn).encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 400 280] /Contents 4 0 R /Resources << /Font << /F 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = b"%PDF-1.4\n", list[int]()
    for number, told in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, told)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        table,
        len(objects) + 1,
        len(out),
    )
