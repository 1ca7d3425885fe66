"""The three files of a scan: every point once, the same bytes again, statistics that numpy agrees with, a picture of it all."""

import io
import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from adapters.artifacts import rows as rows_module
from adapters.artifacts.make import Incomplete, artifacts_of
from adapters.storage.local import LocalBlobs
from domain.ports import NotPossible
from domain.readings import ReadingsOpened
from tests.artifacts import SCAN, Measured, hill, linear, lorentzian, measure, measured, move

WAVELENGTHS = np.linspace(500.0, 700.0, 256)
LINE = [move("stage", "x", linear(0, 10, 101), measure("dmm", "voltage"))]
GRID = [
    move("stage", "y", linear(0, 10, 20), move("stage", "x", linear(0, 10, 30), measure("dmm", "voltage"), snake=True))
]


def sine(branch: int, k: int, at: dict[str, Any]) -> dict[str, Any]:
    return {"dmm.voltage": math.sin(at["stage.x"])}


def hills(branch: int, k: int, at: dict[str, Any]) -> dict[str, Any]:
    return {"dmm.voltage": hill(at["stage.x"], at["stage.y"])}


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs")


class Made:
    """What was made, read back."""

    def __init__(self, blobs: LocalBlobs, found: list[dict[str, Any]]) -> None:
        self.found = {one["role"]: one for one in found}
        self.data = {role: blobs.get(one["artifact_id"]) for role, one in self.found.items()}
        assert {role: len(data) for role, data in self.data.items()} == {r: o["size"] for r, o in self.found.items()}
        self.file = pq.ParquetFile(io.BytesIO(self.data["raw_data"]))
        self.table: Any = self.file.read()
        self.summary = json.loads(self.data["summary"])
        self.columns = {column["name"]: column for column in self.summary["columns"]}
        self.picture = np.asarray(Image.open(io.BytesIO(self.data["plot"])).convert("RGB"))

    def field(self, name: str) -> dict[str, str]:
        return {key.decode(): value.decode() for key, value in self.table.schema.field(name).metadata.items()}


async def made(scan: Measured, blobs: LocalBlobs, folder: Path) -> Made:
    return Made(blobs, await artifacts_of(scan.history, scan.frames, folder, blobs, lambda *_: None))


async def test_the_raw_data_is_what_was_recorded_with_its_units_and_where_it_is_written(
    blobs: LocalBlobs, tmp_path: Path
) -> None:
    scan = measured(LINE, sine, blobs)
    it = await made(scan, blobs, tmp_path)
    assert it.table.column_names == ["point", "time", "attempt", "branch", "stage.x", "dmm.voltage"]
    assert it.table["point"].to_pylist() == list(range(101))
    assert it.table["dmm.voltage"].to_pylist() == [math.sin(x) for x in it.table["stage.x"].to_pylist()]
    assert it.field("dmm.voltage") == {"unit": "V", "instrument": "dmm", "channel": "voltage", "role": "reading"}
    told = json.loads(it.table.schema.metadata[b"labledger"])
    assert told["scan_id"] == str(SCAN) and told["sample_id"] == "W12-3"
    assert told["plan"]["nodes"][0]["instrument"] == "stage"
    last = scan.history[-1]
    assert told["ledger"]["sequence"] == last.seq and told["ledger"]["hash"] == last.headers["ce-hash"]
    assert [one["file_name"] for one in it.found.values()] == [
        f"scan-{SCAN}-1.{end}" for end in ("parquet", "png", "json")
    ]


async def test_the_same_events_make_the_same_bytes(blobs: LocalBlobs, tmp_path: Path) -> None:
    scan = measured(GRID, hills, blobs)
    once, again = await made(scan, blobs, tmp_path), await made(scan, blobs, tmp_path)
    assert once.found == again.found


async def test_the_statistics_are_those_of_numpy(
    blobs: LocalBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "CELLS", 1000)  # several chunks, to be put together
    chance = np.random.default_rng(7)
    values = (1e6 + chance.normal(size=601)).tolist()
    scan = measured(
        [move("stage", "x", linear(0, 10, 601), measure("dmm", "voltage", "range", "locked", "mode"))],
        lambda _, k, __: {
            "dmm.voltage": None if k == 5 else values[k],
            "dmm.range": k % 3,
            "dmm.locked": k >= 600,
            "dmm.mode": "DC",
        },
        blobs,
    )
    it = await made(scan, blobs, tmp_path)
    assert it.file.num_row_groups > 3
    there = np.array(values[:5] + values[6:])
    voltage = it.columns["dmm.voltage"]
    assert (voltage["count"], voltage["missing"]) == (600, 1)
    assert (voltage["min"], voltage["max"]) == (there.min(), there.max())
    assert voltage["mean"] == pytest.approx(there.mean(), rel=1e-15)
    assert voltage["std"] == pytest.approx(there.std(ddof=1), rel=1e-9)
    assert it.columns["dmm.range"]["mean"] == pytest.approx(np.mean([k % 3 for k in range(601)]))
    assert it.columns["dmm.locked"]["mean"] == pytest.approx(1 / 601)
    assert it.columns["dmm.mode"]["count"] == 601 and "min" not in it.columns["dmm.mode"]
    assert it.summary["settings"]["dmm"]["settings"] == {"range": 10}


@pytest.mark.parametrize("restarted", [False, True])
async def test_an_interrupted_scan_has_every_point_once(restarted: bool, blobs: LocalBlobs, tmp_path: Path) -> None:
    scan = measured(LINE, sine, blobs, per_frame=7, broken_at=40, restarted=restarted)
    it = await made(scan, blobs, tmp_path)
    assert it.table["point"].to_pylist() == list(range(101))
    assert it.table["attempt"].to_pylist() == ([2] * 101 if restarted else [1] * 40 + [2] * 61)
    assert [one["attempt"] for one in it.summary["attempts"]] == [1, 2]
    assert [one["reason"] for one in it.summary["interruptions"]] == ["killed"]
    assert it.summary["duration_s"] == 22.5 and it.summary["points"] == 101


async def test_rows_of_several_branches_are_in_the_order_of_the_points(blobs: LocalBlobs, tmp_path: Path) -> None:
    nodes = [
        move(
            "stage",
            "y",
            linear(0, 1, 5),
            measure("dmm", "current"),
            move("stage", "x", linear(0, 10, 4), measure("dmm", "voltage")),
        )
    ]
    read = {0: lambda k: {"dmm.current": 1.0 * k}, 1: lambda k: {"dmm.voltage": -1.0 * k}}
    scan = measured(nodes, lambda branch, k, _: read[branch](k), blobs)
    it = await made(scan, blobs, tmp_path)
    rows = it.table.to_pylist()
    assert [row["point"] for row in rows] == list(range(25))
    assert [row["branch"] for row in rows] == [0, 1, 1, 1, 1] * 5
    for k, row in enumerate(rows):
        assert (row["dmm.current"], row["dmm.voltage"]) == ((k, None) if row["branch"] == 0 else (None, -k))


async def test_spectra_are_lists_and_what_is_too_large_stays_in_its_blob(
    blobs: LocalBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "ARRAY_BYTES", 100_000)  # a frame of spectra in several pieces
    counts = [np.round(1000 * lorentzian(WAVELENGTHS, 560 + k)).astype(np.uint16) for k in range(40)]
    traces = [np.full(70_000, float(k)) for k in range(40)]
    scan = measured(
        [
            move(
                "stage",
                "x",
                linear(0, 10, 40),
                measure("spectrometer", "spectrum", "wavelength"),
                measure("huge", "trace"),
            )
        ],
        lambda _, k, __: {
            "spectrometer.spectrum": counts[k],
            "spectrometer.wavelength": WAVELENGTHS,
            "huge.trace": traces[k],
        },
        blobs,
        per_frame=16,
    )
    it = await made(scan, blobs, tmp_path)
    assert str(it.table.schema.field("spectrometer.spectrum").type) == "list<element: uint16>"
    assert it.table["spectrometer.spectrum"].to_pylist() == [one.tolist() for one in counts]
    assert it.field("spectrometer.spectrum")["shape"] == "[256]"
    for k, ref in enumerate(it.table["huge.trace"].to_pylist()):
        whole = np.frombuffer(blobs.get(ref["sha256"]), np.float64).reshape(-1, 70_000)
        assert whole[ref["index"]][0] == k
    spectrum = it.columns["spectrometer.spectrum"]
    assert spectrum["max"] == max(int(one.max()) for one in counts) and spectrum["count"] == 40 * 256
    assert it.columns["huge.trace"]["count"] == 40


async def test_a_column_that_is_not_what_its_instrument_said_is_kept_as_text(blobs: LocalBlobs, tmp_path: Path) -> None:
    scan = measured(LINE, lambda _, k, __: {"dmm.voltage": "OVERLOAD" if k == 77 else 0.5}, blobs)
    it = await made(scan, blobs, tmp_path)
    assert [json.loads(value) for value in it.table["dmm.voltage"].to_pylist()] == [0.5] * 77 + ["OVERLOAD"] + [
        0.5
    ] * 23
    assert "each value as JSON" in it.field("dmm.voltage")["recorded"]


async def test_the_picture_of_a_grid_shows_the_hill_where_it_is(blobs: LocalBlobs, tmp_path: Path) -> None:
    it = await made(measured(GRID, hills, blobs), blobs, tmp_path)
    # Yellow, the top of the colours, is left of the middle and above it: the hill is at (3, 6), whatever the snake did.
    red, green, blue = (it.picture[:, : int(0.8 * it.picture.shape[1]), n].astype(int) for n in range(3))
    y, x = np.nonzero((red > 230) & (green > 200) & (blue < 90))
    height, width = red.shape
    assert len(x) > 50
    assert 0.25 * width < x.mean() < 0.45 * width and 0.3 * height < y.mean() < 0.5 * height


async def test_no_spike_is_lost_in_the_picture_of_a_long_line(blobs: LocalBlobs, tmp_path: Path) -> None:
    nodes = [move("stage", "x", linear(0, 10, 20_000), measure("dmm", "voltage"))]
    flat = await made(measured(nodes, lambda _, k, __: {"dmm.voltage": 1.0 if k else 9.0}, blobs), blobs, tmp_path)
    spike = measured(nodes, lambda _, k, __: {"dmm.voltage": 9.0 if k in (0, 12_345) else 1.0}, blobs)
    it = await made(spike, blobs, tmp_path)
    # Both have the same scale (a 9 at the left end), so that the blue that one has more is the spike, from bottom to top.
    assert it.picture.shape == flat.picture.shape
    middle = slice(int(0.55 * it.picture.shape[1]), int(0.75 * it.picture.shape[1]))
    more = (it.picture[:, middle] != flat.picture[:, middle]).any(axis=2)
    assert more.any(axis=1).sum() > 0.5 * it.picture.shape[0]


@pytest.mark.parametrize(
    "nodes, read",
    [
        ([measure("dmm", "voltage")], lambda *_: {"dmm.voltage": 1.5}),
        ([measure("dmm", "voltage")], lambda *_: {"dmm.voltage": None}),
        ([move("stage", "x", [1.0, 1.0], measure("dmm", "mode"))], lambda *_: {"dmm.mode": "DC"}),
        ([move("oven", "gas", ["N2", "Ar"], measure("dmm", "voltage"))], lambda _, k, __: {"dmm.voltage": k}),
        (
            [move("stage", "y", [0.0, 1.0, 0.0], move("stage", "x", linear(2, 2, 3), measure("dmm", "range")))],
            lambda _, k, __: {"dmm.range": k},
        ),
        (
            [move("stage", "z", [1.0], move("oven", "t", {"kind": "log", "start": 1, "stop": 100, "num": 9}, measure("dmm", "voltage")))],
            lambda _, k, __: {"dmm.voltage": k},
        ),
        ([move("stage", "x", linear(9, 0, 3), measure("camera", "image"))], lambda *_: {"camera.image": np.eye(48, 64)}),
    ],
)  # fmt: skip
async def test_every_kind_of_plan_has_a_picture(nodes: Any, read: Any, blobs: LocalBlobs, tmp_path: Path) -> None:
    it = await made(measured(nodes, read, blobs, title="costs $5 to $9, 50 % of R_0^2"), blobs, tmp_path)
    assert it.picture.shape[0] > 300 and it.picture.std() > 5


async def test_a_history_that_ends_too_early_is_no_scan_of_fewer_points(blobs: LocalBlobs, tmp_path: Path) -> None:
    scan = measured(LINE, sine, blobs, per_frame=10)
    behind = Measured(scan.history, scan.events[:-1])
    with pytest.raises(Incomplete, match="100 of 101"):
        await made(behind, blobs, tmp_path)
    with pytest.raises(Incomplete, match=r"scan\.started"):
        await made(Measured(scan.history[:-1], scan.events), blobs, tmp_path)


async def test_columns_that_change_on_the_way_are_said_to_be_the_reason(blobs: LocalBlobs, tmp_path: Path) -> None:
    scan = measured(LINE, sine, blobs, broken_at=50)
    again = next(n for n, event in enumerate(scan.events) if n and isinstance(event, ReadingsOpened))
    opened = scan.events[again]
    assert isinstance(opened, ReadingsOpened)
    told = opened.model_dump(mode="json")
    told["branches"][0]["columns"][1]["unit"] = "mV"
    scan.events[again] = ReadingsOpened.model_validate(told)
    with pytest.raises(NotPossible, match="another unit"):
        await made(scan, blobs, tmp_path)


async def test_a_scan_six_times_as_long_takes_hardly_more_memory(
    blobs: LocalBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def peak(points: int) -> int:
        scan = measured(
            [move("stage", "x", linear(0, 10, points), measure("dmm", "voltage"))], sine, blobs, per_frame=1000
        )
        tracemalloc.start()
        try:
            await artifacts_of(scan.history, scan.frames, tmp_path, blobs, lambda *_: None)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    monkeypatch.setattr(rows_module, "CELLS", 20_000)
    await peak(1_000)  # what the libraries keep for ever
    short, long = await peak(10_000), await peak(60_000)
    assert long < 2 * short
    assert not list(tmp_path.glob("*.parquet")) and not list(tmp_path.glob("tmp*"))
