"""What a process of the pool makes of extracted charts."""

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.storage.local import LocalBlobs
from labledger.pooled import charts_of, fit
from tests.unit.adapters.spice.synthetic import device

pytest.importorskip("scipy", reason="the extra `spice` is not installed")

from labledger.curves import NgspiceFitter


def fitted(blobs: LocalBlobs, labels: dict[float, float]) -> dict[str, Any]:
    """A fit to the extracted output chart of a device, some of whose curves carry another's label."""
    curves = [
        {"name": f"VGS = {labels.get(row['vgs'], row['vgs']):g} V", "x": row["vds"], "y": row["id"]}
        for row in device()["output"]
    ]
    axes = {"x": {"unit": "V", "title": "VDS (V)"}, "y": {"unit": "A", "title": "ID (A)"}}
    chart = {"graph_image_id": "0" * 64, "data": blobs.put(json.dumps({"axes": axes, "curves": curves}).encode())}
    spec = {"name": "Q1", "device_type": "SiC-MOSFET", "forms": ["knee"], "simulate": False, "charts": [chart]}
    return fit(spec, lambda percent, note: None, NgspiceFitter(), blobs)


def test_swapped_labels_are_suspect_and_the_library_of_what_was_meant_is_kept(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    swapped = fitted(blobs, {11: 13, 13: 11})
    assert swapped["grade"] == "suspect"
    assert any("11 V and 13 V" in finding and "swapped" in finding for finding in swapped["findings"])
    meant = blobs.get(swapped["suggested"]).decode()
    assert ".subckt Q1 d g s" in meant and meant != blobs.get(swapped["library"]).decode()
    right = fitted(blobs, {})
    assert right["suggested"] is None and right["grade"] == "unchecked"

    def parameters(library: str) -> list[str]:
        return [line for line in library.splitlines() if line and not line.startswith("*")]

    # What is suggested is the model of the curves with their labels put right.
    assert parameters(meant) == parameters(blobs.get(right["library"]).decode())


def test_curves_on_the_second_y_axis_have_its_unit() -> None:
    axes = {"x": {"unit": "V"}, "y": {"unit": "pF"}, "y2": {"unit": "nC"}}
    curves = [
        {"name": "Ciss", "x": [0], "y": [1], "axis": "y"},
        {"name": "Qoss", "x": [0], "y": [2], "axis": "y2"},
    ]
    first, second = charts_of({"chart": "capacitance"}, {"axes": axes, "curves": curves})
    assert (first.chart, first.y_unit, [name for name, _, _ in first.curves]) == ("capacitance", "pF", ["Ciss"])
    assert (second.chart, second.y_unit, [name for name, _, _ in second.curves]) == ("other", "nC", ["Qoss"])
    (alone,) = charts_of({"chart": None}, {"axes": {"x": {}, "y": None}, "curves": curves[:1]})
    assert alone.chart is None and alone.y_unit == ""
