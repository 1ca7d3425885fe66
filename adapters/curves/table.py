"""The extraction as CSV: one row a point, with the curve it belongs to."""

import csv
import io

from adapters.curves.extract import Extraction
from adapters.curves.shapes import Word


def heading(letter: str, label: str) -> str:
    return f"{letter} [{label}]" if label else letter


def has_letters(word: Word) -> bool:
    """Letters, and not what a tick's label looks like to the reader, which knows Chinese too."""
    return any(c.isalpha() and ord(c) < 0x2E80 for c in word.text)


def axis_title(extraction: Extraction, letter: str) -> str:
    """The title of an axis, such as `VDS (V)`: as the caller gave it, else as it stands beside it. Empty where none was read."""
    if given := extraction.titles.get(letter):
        return given
    if extraction.frame is None:
        return ""
    b = extraction.frame.box
    if letter == "x":
        below = [
            w
            for w in extraction.words
            if not w.upright and w.box.y0 > b.y1 and abs(w.box.cx - b.cx) < 0.35 * b.width and has_letters(w)
        ]
        return min(below, key=lambda w: w.box.y0).text if below else ""
    if letter == "y2":
        right = [w for w in extraction.words if w.upright and w.box.x0 > b.x1 - 2 and has_letters(w)]
        return max(right, key=lambda w: w.box.height).text if right else ""
    left = [w for w in extraction.words if w.upright and w.box.x1 < b.x0 + 2 and has_letters(w)]
    return max(left, key=lambda w: w.box.height).text if left else ""


def csv_text(extraction: Extraction) -> str:
    """Columns curve, x, y and what the picture calls them; lines of `#` tell scale and confidence."""
    out = io.StringIO()
    for letter, axis in (("x", extraction.x), ("y", extraction.y), ("y2", extraction.second)):
        if axis:
            title = axis_title(extraction, letter).replace("\n", " ")
            out.write(f"# {letter}: {title or 'no title read'}; {axis.scale}; {axis.v0:.7g} to {axis.v1:.7g}\n")
    out.write(f"# confidence: {extraction.confidence:.3f}\n")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["curve", heading("x", axis_title(extraction, "x")), heading("y", axis_title(extraction, "y"))])
    for i, curve in enumerate(extraction.curves):
        name = (curve.name or f"curve {i + 1}") + (" (on y2)" if curve.axis == "y2" else "")
        for x, y in zip(curve.x, curve.y, strict=True):
            writer.writerow([name, f"{x:.7g}", f"{y:.7g}"])
    return out.getvalue()
