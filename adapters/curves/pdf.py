"""A page of a PDF as a picture. Its vector strokes are not used yet: the page is rendered and read like any other picture."""

import numpy as np

from adapters.curves.kit import untyped
from adapters.curves.picture import NotReadable
from adapters.curves.shapes import Rgb


def is_pdf(data: bytes) -> bool:
    return b"%PDF-" in data[:1024]


def page_picture(data: bytes, page: int = 0, dpi: int = 150) -> Rgb:
    """Render one page. Raises NotReadable for what is encrypted, damaged or has no such page."""
    pdfium = untyped("pypdfium2")

    try:
        document = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        hint = (
            "it is locked by a password; save it without one" if "password" in str(error).lower() else "it is damaged"
        )
        raise NotReadable(f"the PDF cannot be opened: {hint}") from None
    try:
        if not 0 <= page < len(document):
            raise NotReadable(f"the PDF has {len(document)} pages; there is no page {page + 1}")
        sheet = document[page]
        width, height = sheet.get_size()
        if width * height * (dpi / 72) ** 2 > 60_000_000:
            raise NotReadable("the PDF's page is too large to be rendered")
        return np.ascontiguousarray(np.asarray(sheet.render(scale=dpi / 72).to_pil().convert("RGB"), np.uint8))
    finally:
        document.close()
