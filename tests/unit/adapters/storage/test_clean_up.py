"""Files that were published are removed, and no others."""

import hashlib
import os
from pathlib import Path

import pytest

from adapters.storage.clean_up import Folders
from domain.errors import Refused

DATA = b"a plot"
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def plots(tmp_path: Path) -> Path:
    folder = tmp_path / "plots"
    folder.mkdir()
    return folder


@pytest.fixture
def plot(plots: Path) -> Path:
    path = plots / "a.png"
    path.write_bytes(DATA)
    return path


def test_a_file_is_removed_once(plots: Path, plot: Path) -> None:
    folders = Folders([plots])
    assert folders.remove(str(plot), SHA) is True and not plot.exists()
    assert folders.remove(str(plot), SHA) is False


def test_below_the_folder_counts_too(plots: Path) -> None:
    deep = plots / "2026" / "b.png"
    deep.parent.mkdir()
    deep.write_bytes(DATA)
    assert Folders([plots]).remove(str(deep), SHA)


def test_without_a_folder_nothing_is_removed(plot: Path) -> None:
    with pytest.raises(Refused, match="no folder"):
        Folders([]).remove(str(plot), SHA)
    assert plot.exists()


def test_a_file_with_other_contents_stays(plots: Path, plot: Path) -> None:
    plot.write_bytes(b"measured since")
    with pytest.raises(Refused, match="other contents"):
        Folders([plots]).remove(str(plot), SHA)
    assert plot.exists()


@pytest.mark.parametrize("way", ["..", "link", "folder link"])
def test_no_way_leads_out_of_the_folder(tmp_path: Path, plots: Path, way: str) -> None:
    outside = tmp_path / "outside" / "a.png"
    outside.parent.mkdir()
    outside.write_bytes(DATA)
    match way:
        case "..":
            path = plots / ".." / "outside" / "a.png"
        case "link":
            path = plots / "link.png"
            path.symlink_to(outside)
        case _:
            (plots / "way").symlink_to(outside.parent)
            path = plots / "way" / "a.png"
    with pytest.raises(Refused):
        Folders([plots]).remove(str(path), SHA)
    assert outside.exists()


def test_what_is_no_file_stays(plots: Path) -> None:
    (plots / "folder").mkdir()
    os.mkfifo(plots / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(Refused, match="no file"):
            Folders([plots]).remove(str(plots / name), SHA)
