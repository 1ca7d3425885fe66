"""Products, images, extractions and models from the command line, in a lab that runs."""

import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.curves import picture
from tests.e2e.cli import RunningLab, in_process

REAL = all(importlib.util.find_spec(name) for name in ("cv2", "rapidocr", "onnxruntime", "scipy"))

needs_extractor = pytest.mark.skipif(
    not REAL, reason="the libraries of the extractor (labledger[curves]) are not installed"
)


@pytest.fixture
def paused(lab: RunningLab) -> Iterator[str]:
    """A queue that dispatches nothing, so that what waits in it can be looked at."""
    name = f"held-{time.time_ns()}"
    lab.json("queue", "create", name, "--order", "priority")
    lab.json("queue", "pause", name)
    yield name
    lab.json("queue", "clear", name)


_number = iter(range(100_000))


@pytest.fixture
def plot(tmp_path: Path) -> Path:
    """A picture that no other test has."""
    path = tmp_path / f"plot-{next(_number)}.png"
    path.write_bytes(picture(next(_number), str(time.time_ns()), (320, 240)))
    return path


def added(lab: RunningLab, *words: str) -> dict[str, Any]:
    (image,) = lab.json("images", "add", *words)["images"]
    return image


def test_a_part_number_is_entered_once_however_it_is_written(lab: RunningLab) -> None:
    part = f"GS-{time.time_ns()}"
    add = ("product", "add", part, "--type", "GaN-HEMT", "--manufacturer", "GaN Systems", "--package", "GaNPX")
    assert lab.json(*add) == {"product_id": part}
    assert lab.json(*add) == {"product_id": part}
    again = lab.cli("product", "add", part.lower(), "--type", "GaN-HEMT", "--manufacturer", "Infineon")
    assert again.code == 1 and "registered already" in again.err
    shown = lab.json("product", "show", part.lower())
    assert shown["part_number"] == part and shown["package"] == "GaNPX" and shown["models"] == []
    assert part in {one["product_id"] for one in lab.json("product", "list")}
    wrong = lab.cli("product", "add", "X1", "--type", "tube", "--manufacturer", "RCA")
    assert wrong.code == 2 and "GaN-HEMT" in wrong.err


def test_what_is_no_picture_is_refused_and_the_others_are_taken(lab: RunningLab, plot: Path, tmp_path: Path) -> None:
    text, bomb, dot, cut = (tmp_path / name for name in ("a.png", "bomb.png", "dot.png", "cut.png"))
    text.write_text("this is a text")
    Image.new("1", (20_000, 20_000)).save(bomb)
    Image.new("RGB", (1, 1)).save(dot)
    cut.write_bytes(plot.read_bytes()[:20])
    files = [str(one) for one in (text, bomb, dot, cut, plot)]
    answer = lab.cli("images", "add", *files, "--no-extract", "--json")
    assert answer.code == 1
    rows = {Path(one["file"]).name: one for one in answer.json["images"]}
    assert "no picture" in rows["a.png"]["error"]
    assert "60,000,000 pixels" in rows["bomb.png"]["error"]
    assert "1 x 1" in rows["dot.png"]["error"]
    assert "error" in rows["cut.png"]
    assert "error" not in rows[plot.name]
    shown = lab.json("images", "show", rows[plot.name]["graph_image_id"][:10])
    assert (shown["width"], shown["height"], shown["file_name"]) == (320, 240, plot.name)


def test_a_file_that_is_not_there_is_said_so(lab: RunningLab) -> None:
    answer = lab.cli("images", "add", "/nowhere/plot.png")
    assert answer.code == 1 and "/nowhere/plot.png" in answer.err


def test_an_image_shows_curves_of_a_product(lab: RunningLab, plot: Path) -> None:
    part = f"SIC{time.time_ns()}"
    lab.json("product", "add", part, "--type", "SiC-MOSFET", "--manufacturer", "Wolfspeed")
    image = added(lab, str(plot), "--product", part, "--chart", "transfer", "--vds", "20", "--no-extract")
    assert lab.json("product", "show", part)["images"] == [image["graph_image_id"]]
    lab.json("images", "describe", image["graph_image_id"], "--tj", "25")
    shown = lab.json("images", "show", image["graph_image_id"])
    assert (shown["chart"], shown["vds_v"], shown["tj_c"], shown["products"]) == ("transfer", 20.0, 25.0, [part])
    unknown = lab.cli("images", "add", str(plot), "--product", "NOBODY", "--no-extract")
    assert unknown.code == 1 and "register it first" in unknown.err
    refused = lab.cli("spice", "fit", part)
    assert refused.code == 1 and "no completed extraction" in refused.err


def test_an_extraction_waits_is_cancelled_and_waits_again(lab: RunningLab, plot: Path, paused: str) -> None:
    image = added(lab, str(plot), "--queue", paused, "--priority", "high")
    id_ = image["extraction_id"]
    shown = lab.json("extractions", "show", id_)
    assert (shown["state"], shown["priority"], shown["title"]) == ("waiting", "high", plot.name)
    assert shown["estimated_s"] > 0
    (listed,) = [one for one in lab.json("extractions", "list", "--state", "waiting") if one["extraction_id"] == id_]
    assert listed["percent"] == 0
    lab.json("extractions", "cancel", id_, "--reason", "wrong image")
    assert _until_state(lab, id_, "cancelled")["error"] == "wrong image"
    lab.json("extractions", "retry", id_)
    assert _until_state(lab, id_, "waiting")["attempt"] == 0
    lab.json("extractions", "cancel", id_)


def _until_state(lab: RunningLab, id_: str, state: str, within_s: float = 10) -> dict[str, Any]:
    deadline = time.monotonic() + within_s
    while True:
        shown = lab.json("extractions", "show", id_)
        if shown["state"] == state:
            return shown
        assert time.monotonic() < deadline, shown
        time.sleep(0.1)


def test_several_files_are_one_batch_with_one_status_and_one_cancel(
    lab: RunningLab, tmp_path: Path, paused: str
) -> None:
    files: list[str] = []
    for _ in range(5):
        path = tmp_path / f"{next(_number)}.png"
        path.write_bytes(picture(next(_number), str(time.time_ns())))
        files.append(str(path))
    told = lab.json("images", "add", *files, "--queue", paused)
    batch = told["batch_id"]
    status = lab.json("extractions", "batch", batch)
    assert (status["state"], status["jobs"], status["waiting"]) == ("open", 5, 5)
    assert len(lab.json("extractions", "list", "--batch", batch)) == 5
    lab.json("extractions", "batch", batch, "--cancel", "--reason", "enough")
    deadline = time.monotonic() + 10
    while lab.json("extractions", "batch", batch)["cancelled"] < 5:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert lab.json("extractions", "batch", batch)["state"] == "cancelled"


def test_the_waiting_ones_can_be_put_into_another_order(lab: RunningLab, tmp_path: Path, paused: str) -> None:
    ids: list[str] = []
    for priority in ("normal", "urgent", "normal"):
        path = tmp_path / f"{next(_number)}.png"
        path.write_bytes(picture(next(_number), str(time.time_ns())))
        ids.append(added(lab, str(path), "--queue", paused, "--priority", priority)["extraction_id"])
    lab.json("queue", "move", paused, ids[2], "first")
    waiting = [one["job_id"] for one in lab.json("queue", "show", paused)["waiting"]]
    assert waiting == [ids[1], ids[2], ids[0]]


def test_the_worker_of_the_lab_answers_each_image(lab: RunningLab, plot: Path) -> None:
    image = added(lab, str(plot), "--no-extract")
    answer = lab.cli("extractions", "request", image["graph_image_id"], "--wait", "--json")
    shown = answer.json
    if REAL:
        assert answer.code == 0, answer
        # A line without axes: whatever is said of it must not claim to be sure.
        assert shown["state"] == "completed" and not shown["result"]["accepted"]
    else:
        assert answer.code == 1 and "labledger[curves]" in shown["error"]
    rows = lab.json("extractions", "statistics")
    (row,) = [one for one in rows if one["kind"] == "extraction" and one["queue_id"] == "extractions"]
    assert row["succeeded" if REAL else "failed"] >= 1


@needs_extractor
def test_what_was_found_is_corrected_and_sent_back(lab: RunningLab, tmp_path: Path) -> None:
    """Two black curves, two y axes: nothing tells which curve is on which, until somebody says so."""
    from tests.plots import BLACK, draw

    path = tmp_path / f"two-axes-{time.time_ns()}.png"
    rising, falling = (lambda x: 10 + 8 * x, BLACK), (lambda x: 9 - 0.5 * x, BLACK)
    path.write_bytes(draw([rising], y2=(0, 12, 2), on_y2=[falling], grid=False))
    image = added(lab, str(path), "--no-extract")["graph_image_id"]
    # By the name of its file.
    first = lab.json("extractions", "request", path.name, "--wait")
    assert not first["result"]["accepted"] and len(first["result"]["curves"]) == 2
    calibration = json.loads(lab.cli("extractions", "show", "last", "--calibration").out)
    assert calibration["y2"]["through"] == []
    told = lab.cli("extractions", "show", first["extraction_id"]).out
    assert "y2" in told and "say which in a corrected calibration" in told and "extractions correct" in told

    (number,) = [
        k
        for k, curve in enumerate(lab.json("extractions", "show", "last", "--points")["result"]["curves"], start=1)
        if (curve["y"][-1] - curve["y"][0]) * (curve["x"][-1] - curve["x"][0]) < 0
    ]
    second = lab.json("extractions", "correct", "last", "--on-y2", str(number), "--wait")
    assert second["corrects"] == first["extraction_id"] and second["graph_image_id"] == image
    assert second["result"]["confidence"] > first["result"]["confidence"]
    points = lab.json("extractions", "show", second["extraction_id"], "--points")["result"]["curves"]
    assert sorted(curve["axis"] for curve in points) == ["y", "y2"]
    for curve in points:
        slope, start, span = (8.0, 10.0, 100.0) if curve["axis"] == "y" else (-0.5, 9.0, 12.0)
        errors = [abs(y - start - slope * x) / span for x, y in zip(curve["x"], curve["y"], strict=True)]
        assert max(errors) < 0.02

    # A value that was read wrong is put right in the file, and what else was found stays.
    calibration = json.loads(lab.cli("extractions", "show", second["extraction_id"], "--calibration").out)
    calibration["y2"]["points"][1]["value"] *= 10
    calibration["y2"] |= {"title": "loss (mW)", "unit": "mW"}
    corrected = tmp_path / "axes.json"
    corrected.write_text(json.dumps(calibration))
    third = lab.json("extractions", "correct", second["extraction_id"], "--calibration", str(corrected), "--wait")
    assert third["corrects"] == second["extraction_id"]
    assert third["result"]["calibration"]["y2"]["unit"] == "mW"
    again = lab.json("extractions", "show", third["extraction_id"], "--points")["result"]["curves"]
    for before, after in zip(points, again, strict=True):
        times = 10 if after["axis"] == "y2" else 1
        assert after["y"][0] == pytest.approx(times * before["y"][0], rel=1e-3)
    # The earlier ones are as they were.
    assert lab.json("extractions", "show", first["extraction_id"])["result"] == first["result"]

    wrong = lab.cli("extractions", "correct", "last", "--on-y2", "7")
    assert wrong.code == 1 and "numbered from 1 to 2" in wrong.err
    corrected.write_text("x: linear")
    wrong = lab.cli("extractions", "correct", "last", "--calibration", str(corrected))
    assert wrong.code == 2 and "no JSON" in wrong.err


@needs_extractor
def test_a_chart_of_a_document_is_asked_for_by_page_and_number(lab: RunningLab, tmp_path: Path) -> None:
    from tests.plots import draw_pdf

    path = tmp_path / f"sheet-{time.time_ns()}.pdf"
    path.write_bytes(draw_pdf(lambda x: 5 * x))
    image = added(lab, str(path), "--no-extract")["graph_image_id"]
    found = lab.json("extractions", "request", image, "--page", "1", "--chart", "1", "--wait")
    assert found["title"] == f"{path.name} page 1 chart 1"
    assert found["result"]["at"] == {"page": 1, "chart": 1}
    out = tmp_path / "out"
    lab.json("extractions", "show", found["extraction_id"], "--out", str(out))
    assert {one.name for one in out.iterdir()} == {
        f"{path.stem}-p1-1{ending}" for ending in (".csv", ".json", ".overlay.png")
    }
    # What was written can be sent back as it is, and says which chart it is of.
    again = lab.json(
        "extractions", "correct", found["extraction_id"], "--calibration", str(out / f"{path.stem}-p1-1.json"), "--wait"
    )
    assert again["parameters"]["page"] == 1 and again["result"]["calibration"]["x"] is not None
    none = lab.cli("extractions", "request", image, "--page", "1", "--chart", "7", "--wait")
    assert none.code == 1 and "there is no chart 7" in none.err
    assert "no page 3" in lab.cli("extractions", "request", image, "--page", "3").err


def test_the_method_llm_without_a_key_says_what_to_set(lab: RunningLab, plot: Path) -> None:
    image = added(lab, str(plot), "--no-extract")
    answer = lab.cli("extractions", "request", image["graph_image_id"], "--method", "llm", "--wait")
    assert answer.code == 1
    if REAL:
        assert "method llm is off" in answer.err


def test_the_read_models_tell_the_same(lab: RunningLab, plot: Path, paused: str) -> None:
    import psycopg

    id_ = added(lab, str(plot), "--queue", paused)["extraction_id"]
    lab.json("extractions", "list")  # waits until they have come as far
    told = json.loads((lab.folder / "connection.json").read_text())["postgres"]
    with psycopg.connect(told["readonly_url"]) as connection:
        row = connection.execute(
            "select e.state, e.title, i.width from labledger.extractions e join labledger.images i using (graph_image_id)"
            " where extraction_id = %s",
            [id_],
        ).fetchone()
        assert row == ("waiting", plot.name, 320)
        for view in ("products", "curves", "spice_models", "spice_model_versions", "batches", "throughput"):
            connection.execute(f"select * from labledger.{view}").fetchall()  # type: ignore[call-overload]
        whole = connection.execute("select jobs from labledger.statistics where kind is null").fetchone()
        assert whole is not None and whole[0] >= 1


def test_an_id_that_stands_for_nothing_or_for_several_is_said_so(lab: RunningLab, plot: Path) -> None:
    added(lab, str(plot), "--no-extract")
    nobody = lab.cli("images", "show", "zzzz")
    assert nobody.code == 1 and "there is no image zzzz" in nobody.err
    assert lab.cli("extractions", "show", "zzzz").code == 1


@needs_extractor
def test_wrong_pictures_are_refused_or_not_believed_by_the_queue(lab: RunningLab, tmp_path: Path) -> None:
    from tests.wrong_pictures import CUT_OFF, DOUBTED, READ, REFUSED, wrong_pictures

    paths = written(wrong_pictures(), tmp_path)
    answer = lab.cli("images", "add", *paths, "--json")
    assert answer.code == 1
    rows = {Path(one["file"]).name: one for one in answer.json["images"]}
    assert {name for name, row in rows.items() if "error" in row} == set(REFUSED)
    assert all(words in rows[name]["error"] for name, words in REFUSED.items())
    found = {
        name: lab.cli("extractions", "show", rows[name]["extraction_id"], "--wait", "--json")
        for name in (CUT_OFF, *READ, *DOUBTED)
    }
    assert found[CUT_OFF].code == 1 and "damaged or cut off" in found[CUT_OFF].json["error"]
    image = lab.json("images", "show", rows[CUT_OFF]["graph_image_id"])
    assert "damaged or cut off" in image["rejected"]
    for name in READ:
        assert found[name].code == 0 and len(found[name].json["result"]["curves"]) == 1, name
    for name in DOUBTED:
        result = found[name].json["result"]
        assert result["confidence"] < 0.1 and not result["accepted"] and result["notes"], name


@needs_extractor
def test_wrong_pictures_are_refused_or_not_believed_by_extract(tmp_path: Path) -> None:
    from tests.wrong_pictures import CUT_OFF, DOUBTED, READ, REFUSED, wrong_pictures

    out = tmp_path / "out"
    answer = in_process("extract", *written(wrong_pictures(), tmp_path), "--out", str(out))
    assert answer.code == 1
    told = {name: json.loads((out / f"{Path(name).stem}.json").read_text()) for name in (*READ, *DOUBTED)}
    assert {one.name for one in out.glob("*.json")} == {f"{Path(name).stem}.json" for name in told}
    errors = answer.err.splitlines()
    for name in (*REFUSED, CUT_OFF):
        assert any(f"{name}: " in line for line in errors), name
    assert all(len(told[name]["curves"]) == 1 for name in READ)
    assert all(told[name]["confidence"] < 0.1 and not told[name]["accepted"] for name in DOUBTED)


def written(files: dict[str, bytes], folder: Path) -> list[str]:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [str(folder / name) for name in files]


@needs_extractor
def test_extract_works_alone_and_fails_where_an_image_does(tmp_path: Path, plot: Path) -> None:
    out = tmp_path / "out"
    good = in_process("extract", str(plot), "--out", str(out))
    assert good.code == 0, good
    for ending in (".json", ".csv", ".overlay.png"):
        assert (out / f"{plot.stem}{ending}").stat().st_size > 0
    text = tmp_path / "text.png"
    text.write_text("no picture")
    bad = in_process("extract", str(text), str(plot), "--out", str(out))
    assert bad.code == 1 and "text.png" in bad.err


def test_extract_names_its_methods(tmp_path: Path, plot: Path) -> None:
    wrong = in_process("extract", str(plot), "--out", str(tmp_path), "--method", "magic")
    assert wrong.code == 2 and "standard, legacy, llm" in wrong.err
