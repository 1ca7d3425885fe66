"""The door: every format that is promised is let in, and what is refused says why."""

import io

import pytest
from PIL import Image

from domain.ports import PictureRefused
from labledger.picture_file import FORMATS, look_at


@pytest.mark.parametrize("kind", [*FORMATS, "MPO"])
def test_every_format_is_told_by_its_header(kind: str) -> None:
    out = io.BytesIO()
    image = Image.new("RGB", (64, 48), (200, 10, 10))
    # Two pictures, or an MPO is written as a plain JPEG.
    more = {"save_all": True, "append_images": [Image.new("RGB", (64, 48))]} if kind in ("MPO", "GIF", "TIFF") else {}
    image.save(out, kind, **more)
    found = look_at(out.getvalue())
    assert found.media_type == ("image/jpeg" if kind == "MPO" else f"image/{kind.lower()}")
    assert (found.width, found.height, found.size_bytes) == (64, 48, len(out.getvalue()))


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "empty"), (b"a text", "no picture"), (b"GIF89a", "damaged|no picture"), (b"%PDF-1.7", "PDF")],
)
def test_what_is_no_picture_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(PictureRefused, match=words):
        look_at(data)
