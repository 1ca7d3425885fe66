"""What people bring that is no plot, or in an odd form. Each is refused in words, answered without confidence, or read all the same."""

import io
from typing import Any

import numpy as np
from PIL import Image

from tests.plots import BLACK, draw, draw_pdf


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def plot() -> Image.Image:
    return Image.open(io.BytesIO(draw([(lambda x: x**2, BLACK)])))


def photo() -> Image.Image:
    """Soft patches of colour with the grain of a camera, and no axes."""
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    return coarse.resize((640, 480), Image.Resampling.BICUBIC)


def encrypted_pdf() -> bytes:
    """A PDF that opens with a password which nobody has: the key that its dictionary is checked against is made up."""
    locked = b"/Encrypt << /Filter /Standard /V 1 /R 2 /O <%s> /U <%s> /P -44 >> /ID [<%s> <%s>]"
    return draw_pdf(lambda x: x**2).replace(
        b"/Root 1 0 R", b"/Root 1 0 R " + locked % (b"a1" * 32, b"b2" * 32, b"c3" * 16, b"c3" * 16)
    )


#: Refused where they are brought: name, and a word of why.
REFUSED = {
    "text.png": "no picture",
    "dot.png": "1 x 1",
    "bomb.png": "60,000,000 pixels",
    "locked.pdf": "encrypted",
}
#: Its header is in order, so only who unpacks it sees what is wrong.
CUT_OFF = "cut.png"
#: Read like any other.
READ = ("cmyk.jpg", "animated.gif")
#: Answered, and not believed.
DOUBTED = ("photo.jpg",)


def wrong_pictures() -> dict[str, bytes]:
    """The file of each name above."""
    first = plot().convert("P")
    whole = encoded(plot())
    return {
        "text.png": b"frequency;gain\n1;2\n",
        "dot.png": encoded(Image.new("RGB", (1, 1))),
        "bomb.png": encoded(Image.new("1", (20_000, 20_000))),
        "locked.pdf": encrypted_pdf(),
        "cut.png": whole[: len(whole) // 2],
        "cmyk.jpg": encoded(plot().convert("CMYK"), "JPEG", quality=95),
        "animated.gif": encoded(first, "GIF", save_all=True, append_images=[Image.new("P", first.size)]),
        "photo.jpg": encoded(photo(), "JPEG", quality=85),
    }
