"""Pictures of a fit: measured points, simulated lines, and where they part."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from domain.spice_curves import Floats, Measured


def plot_errors(
    path: Path,
    measured: Measured,
    values: Sequence[Floats],
    capacitances: dict[str, tuple[Floats, Floats]],
    title: str,
) -> None:
    """A PNG with measured points and the model's lines (`values`, at the places of each measured curve) above, their difference in
    per cent of each curve's maximum below; one column for each kind of curve that there is.

    Draws without a display and keeps no state: figures are made by hand, not by pyplot, whose figures live until closed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = [k for k in ("output", "transfer", "diode") if any(c.kind == k for c in measured.curves)]
    columns = [*kinds, *(["capacitance"] if measured.capacitances else [])]
    figure: Any = Figure(figsize=(max(4.6 * len(columns), 5.0), 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(2, len(columns), squeeze=False, sharex="col", height_ratios=[3, 1])
    figure.suptitle(title, fontsize=10)
    words = {"output": ("VDS / V", "ID / A"), "transfer": ("VGS / V", "ID / A"), "diode": ("V / V", "I / A")}
    for column, kind in enumerate(kinds):
        top, bottom = axes[0][column], axes[1][column]
        rows = [(c, v) for c, v in zip(measured.curves, values, strict=True) if c.kind == kind]
        for index, (curve, value) in enumerate(rows):
            colour = f"C{index % 10}"
            top.plot(curve.x, curve.y, ".", ms=4, color=colour)
            top.plot(curve.x, value, "-", lw=1, color=colour, label=curve.label)
            bottom.plot(curve.x, 100 * (value - curve.y) / curve.top, "-", lw=0.8, color=colour)
        top.set_title(f"{kind}: points measured, lines simulated", fontsize=8)
        top.set_ylabel(words[kind][1])
        bottom.set_xlabel(words[kind][0])
        bottom.set_ylabel("error / % of max", fontsize=8)
        if kind != "diode":
            top.legend(fontsize=6)
    if measured.capacitances:
        top, bottom = axes[0][-1], axes[1][-1]
        for index, (key, cv) in enumerate(measured.capacitances.items()):
            colour = f"C{index}"
            top.semilogy(cv.v, cv.c, ".", ms=3, color=colour)
            if key in capacitances:
                v, c = capacitances[key]
                top.semilogy(v, c, "-", lw=1, color=colour, label=key)
                away = np.log10(c) - np.interp(v, cv.v, np.log10(cv.c))
                bottom.plot(v, away, "-", lw=0.8, color=colour)
        top.set_title("capacitances at VGS = 0", fontsize=8)
        top.set_ylabel("C / F")
        bottom.set_xlabel("VDS / V")
        bottom.set_ylabel("error / decades", fontsize=8)
        top.legend(fontsize=6)
    for axis in axes.flat:
        axis.grid(True, lw=0.3)
        axis.tick_params(labelsize=7)
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})
