"""The extraction as CSV: one row a point, with the curve it belongs to."""

import csv
import io

from adapters.curves.extract import Extraction
from adapters.curves.titles import title_beside


def heading(letter: str, label: str) -> str:
    return f"{letter} [{label}]" if label else letter


def axis_title(extraction: Extraction, letter: str) -> str:
    """The title of an axis, such as `VDS (V)`: as the caller gave it, else as it stands beside it. Empty where none was read."""
    if given := extraction.titles.get(letter):
        return given
    if extraction.frame is None:
        return ""
    return title_beside(extraction.words, extraction.frame, letter)


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
