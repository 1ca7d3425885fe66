"""A file becomes the working picture: upright, without alpha, of a size at which strokes are a few pixels wide."""

import io
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from adapters.curves.kit import strongest
from adapters.curves.shapes import Floats, Grey, Rgb
from domain.errors import Refused

MAX_PIXELS = 60_000_000
"""More is refused before it is decoded: a small file can unpack to many gigabytes."""
SMALL_SIDE = 40
WANTED_SIDE = 1000
LARGEST_SIDE = 1400


class NotReadable(Refused):
    """The file is no picture that we can read."""


@dataclass(frozen=True)
class Picture:
    """The working picture and the way back to the source's pixels."""

    rgb: Rgb
    ink: Grey
    """How much darker (in its strongest channel) a pixel is than the paper around it, 0-255."""
    noise: float
    matrix: Floats
    """2 x 3: source pixel (x, y, 1) -> working pixel."""
    source: Rgb
    angle_deg: float
    zoom: float
    origin: tuple[float, float] = (0.0, 0.0)
    """Where `source` lies on its page; its pixels are counted from the page's corner."""

    @cached_property
    def text_level(self) -> float:
        """What is darker than this may be a letter."""
        return max(22.0, 0.33 * float(np.percentile(self.ink, 99.5)), 5 * self.noise)

    def to_work(self, points: Floats) -> Floats:
        return np.asarray(points, np.float64) @ self.matrix[:, :2].T + self.matrix[:, 2]

    def to_source(self, points: Floats) -> Floats:
        inverse = np.linalg.inv(self.matrix[:, :2])
        return (np.asarray(points, np.float64) - self.matrix[:, 2]) @ inverse.T


def decode(data: bytes) -> Rgb:
    """Bytes of PNG, JPEG, GIF, TIFF, BMP or WebP -> H x W x 3; the first frame of several. Raises NotReadable."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        image: Any = Image.open(io.BytesIO(data))
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise NotReadable(
                f"the picture has {width} x {height} pixels; at most {MAX_PIXELS:,} are read: make it smaller"
            )
        if min(width, height) < SMALL_SIDE:
            raise NotReadable(
                f"the picture has only {width} x {height} pixels; a plot needs at least {SMALL_SIDE} each way"
            )
        image.seek(0)
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            paper = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            image = Image.alpha_composite(paper, rgba)
        if image.mode.startswith("I") or image.mode == "F":
            wide = np.asarray(image, np.float64)
            top = 65535.0 if wide.max() > 255 else 255.0
            image = Image.fromarray(np.clip(wide * 255 / top, 0, 255).astype(np.uint8))
        return np.array(image.convert("RGB"), np.uint8)
    except NotReadable:
        raise
    except Image.DecompressionBombError as error:
        raise NotReadable(f"the picture is too large to unpack safely: {error}") from None
    except UnidentifiedImageError:
        raise NotReadable("the file is no picture in a format that we know (PNG, JPEG, GIF, TIFF, BMP, WebP)") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, MemoryError) as error:
        raise NotReadable(f"the picture is damaged or cut off: {error}") from None


def dark_on_light(rgb: Rgb) -> Rgb:
    """A plot on black paper is turned into its negative."""
    grey = rgb.mean(axis=2)
    return rgb if float(np.median(grey)) >= 110 else np.asarray(255 - rgb, np.uint8)


def ink_of(rgb: Rgb, reach: int) -> Grey:
    """Darkness against the paper around, so that shaded paper and grey plot areas count as paper."""
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (reach, reach))
    paper = cv2.morphologyEx(rgb, cv2.MORPH_CLOSE, kernel)
    paper = cv2.blur(paper, (reach, reach))
    return np.asarray(strongest(cv2.subtract(paper, rgb)), np.float32)


def noise_of(rgb: Rgb) -> float:
    """Standard deviation of the paper's grain."""
    grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.float32)
    rest = grey - np.asarray(cv2.medianBlur(np.asarray(grey, np.uint8), 3), np.float32)
    return float(1.4826 * np.median(np.abs(rest)))


def angle_of(ink: Grey) -> float:
    """The angle in degrees (anticlockwise positive) by which strokes are turned, within 2.5 degrees."""
    high, wide = ink.shape
    shrink = max(1.0, max(high, wide) / 700)
    small = np.asarray(
        cv2.resize(ink, (int(wide / shrink), int(high / shrink)), interpolation=cv2.INTER_AREA), np.float32
    )
    level = max(14.0, 0.16 * float(np.percentile(small, 99.5)))
    # Only ridges count (dark against both sides): filled areas and letters would flatten the profile.
    across = np.minimum(small - np.roll(small, 4, axis=0), small - np.roll(small, -4, axis=0))
    along = np.minimum(small - np.roll(small, 4, axis=1), small - np.roll(small, -4, axis=1))
    strong = int((np.maximum(across, along) > level).sum())
    flat, steep = np.nonzero(across > level), np.nonzero(along > level)
    if strong < 200:
        return 0.0
    cx, cy = small.shape[1] / 2, small.shape[0] / 2

    # At angle zero all pixels lie on whole rows; without jitter that alone would look sharp.
    jitter = np.random.default_rng(0).random(len(flat[0]) + len(steep[0]))

    def sharpness(angle: float) -> float:
        t = math.tan(math.radians(angle))
        total = 0.0
        for at in (flat[0] + (flat[1] - cx) * t, steep[1] - (steep[0] - cy) * t):
            counts = np.bincount(np.clip((at + jitter[: len(at)]).astype(np.int64) + 60, 0, None))
            total += float((counts.astype(np.float64) ** 2).sum())
        return total

    coarse = np.arange(-2.5, 2.51, 0.1)
    values = [sharpness(float(a)) for a in coarse]
    best = float(coarse[int(np.argmax(values))])
    fine = np.arange(best - 0.1, best + 0.101, 0.02)
    best = float(fine[int(np.argmax([sharpness(float(a)) for a in fine]))])
    # An upright picture is not resampled for a rounding error.
    return best if abs(best) > 0.12 and sharpness(best) > 1.03 * sharpness(0.0) else 0.0


def prepare(rgb: Rgb, angle_deg: float | None = None) -> Picture:
    """Turn upright and scale. `angle_deg` is found from the strokes when it is not given."""
    source = rgb
    rgb = dark_on_light(rgb)
    high, wide = rgb.shape[:2]
    longest = max(high, wide)
    zoom = 1.0
    if longest < 0.9 * WANTED_SIDE:
        zoom = min(4.0, WANTED_SIDE / longest)
    elif longest > LARGEST_SIDE:
        zoom = LARGEST_SIDE / longest
    noise = noise_of(rgb)
    if angle_deg is None:
        angle_deg = angle_of(ink_of(rgb, odd(0.03 * longest)))
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    cx, cy = (wide - 1) / 2, (high - 1) / 2
    turn = np.array([[c, -s, cx - c * cx + s * cy], [s, c, cy - s * cx - c * cy]])
    # A pixel's centre is at a whole number, so zooming moves the origin by half a pixel.
    matrix = zoom * turn
    matrix[:, 2] += (zoom - 1) / 2
    size = (round(wide * zoom), round(high * zoom))
    if zoom == 1.0 and angle_deg == 0.0:
        work = rgb
    else:
        flags = cv2.INTER_AREA if zoom < 1 and angle_deg == 0 else cv2.INTER_CUBIC
        if zoom < 1:
            rgb = np.asarray(cv2.GaussianBlur(rgb, (0, 0), 0.4 / zoom), np.uint8)
        paper = [float(v) for v in np.median(rgb.reshape(-1, 3), axis=0)]
        work = cv2.warpAffine(
            rgb,
            matrix,
            size,
            flags=flags if flags != cv2.INTER_AREA else cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=paper,
        )
    if noise > 1.5:
        work = cv2.GaussianBlur(work, (0, 0), 0.6 * max(1.0, zoom))
    out = np.asarray(work, np.uint8)
    return Picture(out, ink_of(out, odd(0.03 * max(size))), noise, matrix, source, angle_deg, zoom)


def odd(value: float) -> int:
    return max(3, 2 * round(value / 2) + 1)
