"""What a file claims to be, by its header alone: the check at the door.

It runs where a file comes in (the command line), and again in the worker before anything is decoded. Nothing is unpacked here, so
a bomb costs nothing.
"""

import hashlib
import io
import warnings
from dataclasses import dataclass

from domain.graph_image import MAX_BYTES, MAX_PIXELS, MIN_SIDE, MediaType
from domain.ports import PictureRefused

_TYPES: dict[str, MediaType] = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}
#: Those that Pillow opens by name; an MPO is found by its opener of JPEGs.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")


@dataclass(frozen=True)
class PictureFile:
    """`width`, `height` in pixels; both 0 for a PDF, which has `pages`."""

    sha256: str
    media_type: MediaType
    size_bytes: int
    width: int
    height: int
    pages: int = 1


def look_at(data: bytes) -> PictureFile:
    """Raises `PictureRefused` with words for who brought the file."""
    if not data:
        raise PictureRefused("the file is empty")
    if len(data) > MAX_BYTES:
        raise PictureRefused(f"the file has {len(data):,} bytes; at most {MAX_BYTES:,} are taken")
    sha256 = hashlib.sha256(data).hexdigest()
    if b"%PDF-" in data[:1024]:
        return PictureFile(sha256, "application/pdf", len(data), 0, 0, _pages(data))
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is below its
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                media_type = _TYPES[image.format or ""]
    except (UnidentifiedImageError, KeyError):
        raise PictureRefused(
            "the file is no picture in a format that we know (PNG, JPEG, GIF, TIFF, BMP, WebP, PDF)"
        ) from None
    except Image.DecompressionBombError:
        raise PictureRefused(f"the picture has far more than {MAX_PIXELS:,} pixels: make it smaller") from None
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError, MemoryError) as error:
        raise PictureRefused(f"the picture is damaged or cut off: {error}") from None
    if width * height > MAX_PIXELS:
        raise PictureRefused(
            f"the picture has {width} x {height} pixels; at most {MAX_PIXELS:,} are taken: make it smaller"
        )
    if min(width, height) < MIN_SIDE:
        raise PictureRefused(
            f"the picture has only {width} x {height} pixels; a plot needs at least {MIN_SIDE} each way"
        )
    return PictureFile(sha256, media_type, len(data), width, height)


def _pages(data: bytes) -> int:
    """Of a PDF. 1 where nothing here can read PDFs: the worker will say what is wrong with it."""
    try:
        import pypdfium2 as pdfium  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]
    except ImportError:
        return 1
    try:
        document = pdfium.PdfDocument(data)  # pyright: ignore[reportUnknownVariableType]
    except pdfium.PdfiumError as error:  # pyright: ignore[reportUnknownMemberType]
        word = "is encrypted" if "password" in str(error).lower() else f"cannot be read: {error}"
        raise PictureRefused(f"the PDF {word}; bring it without a password") from None
    try:
        return max(1, len(document))  # pyright: ignore[reportUnknownArgumentType]
    finally:
        document.close()  # pyright: ignore[reportUnknownMemberType]
