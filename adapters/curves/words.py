"""Text: boxes of our own or of the detector, read by the recogniser that ships with rapidocr (Apache-2.0, PP-OCR models).

The two models are driven through onnxruntime directly: with one thread, short rows for short labels, and boxes that we
chose ourselves, since the detector merges a row of tick labels into one line or drops a lonely "1".
"""

import importlib.util
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from adapters.curves.kit import connected, untyped
from adapters.curves.shapes import Box, Frame, Grey, Rgb, Word

READ_HEIGHT = 48
BATCH = 12
PADDING = 1.1
"""How much wider than its narrowest the widest picture of a batch may be: the recogniser's work grows with the widest."""

MOST_TEXT = 12_000
"""Pixels of width, at the recogniser's height, that are read of one picture: three times what the fullest chart has."""


class EngineMissing(RuntimeError):
    """The extra `labledger[curves]` is not installed, or its models are not there."""


def model(kind: str) -> Path:
    spec = importlib.util.find_spec("rapidocr")
    if spec is None or not spec.submodule_search_locations:
        raise EngineMissing("text cannot be read: install `labledger[curves]` (rapidocr is missing)")
    found = sorted((Path(spec.submodule_search_locations[0]) / "models").glob(f"*_{kind}_*.onnx"))
    if not found:
        raise EngineMissing(f"rapidocr came without its {kind} model")
    return found[-1]


class Engine:
    """Detector and recogniser. Safe to share between threads."""

    def __init__(self, threads: int = 1) -> None:
        ort = untyped("onnxruntime")

        options: Any = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._reader: Any = ort.InferenceSession(str(model("rec")), options, providers=["CPUExecutionProvider"])
        self._finder: Any = ort.InferenceSession(str(model("det")), options, providers=["CPUExecutionProvider"])
        characters: str = self._reader.get_modelmeta().custom_metadata_map["character"]
        self._alphabet = ["", *characters.split("\n"), " "]

    def read(self, crops: Sequence[Rgb]) -> list[tuple[str, float]]:
        """Text and score (mean probability of its characters) of each small picture of one line."""
        out: list[tuple[str, float]] = [("", 0.0)] * len(crops)
        sized: list[tuple[int, int, Any]] = []
        for i, crop in enumerate(crops):
            h, w = crop.shape[:2]
            if h < 2 or w < 1:
                continue
            width = max(16, min(960, round(w * READ_HEIGHT / h)))
            small = cv2.resize(
                crop, (width, READ_HEIGHT), interpolation=cv2.INTER_CUBIC if h < READ_HEIGHT else cv2.INTER_AREA
            )
            sized.append((width, i, np.asarray(small, np.float32).transpose(2, 0, 1) / 127.5 - 1))
        sized.sort(key=lambda item: item[0])
        for first, last in batches([width for width, _, _ in sized]):
            part = sized[first:last]
            widest = max(48, -(-part[-1][0] // 16) * 16)
            batch = np.ones((len(part), 3, READ_HEIGHT, widest), np.float32)
            for row, (width, _, pixels) in enumerate(part):
                batch[row, :, :, :width] = pixels
            chances = np.asarray(self._reader.run(None, {self._reader.get_inputs()[0].name: batch})[0])
            best, sure = chances.argmax(axis=2), chances.max(axis=2)
            for row, (_, i, _) in enumerate(part):
                keep = (best[row] != 0) & np.r_[True, best[row][1:] != best[row][:-1]]
                text = "".join(self._alphabet[int(k)] for k in best[row][keep] if int(k) < len(self._alphabet))
                out[i] = (text, float(sure[row][keep].mean()) if keep.any() else 0.0)
        return out

    def find(self, rgb: Rgb, side: int = 640) -> list[Box]:
        """Boxes of lines of text, in pixels of `rgb`."""
        h, w = rgb.shape[:2]
        zoom = min(1.0, side / max(h, w))
        size = (max(32, round(w * zoom / 32) * 32), max(32, round(h * zoom / 32) * 32))
        small = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.float32)
        pixels = (small / 127.5 - 1).transpose(2, 0, 1)[None]
        chance = np.asarray(
            self._finder.run(None, {self._finder.get_inputs()[0].name: np.ascontiguousarray(pixels)})[0]
        )[0, 0]
        count, labels, stats, _ = connected(chance > 0.3)
        fx, fy = w / size[0], h / size[1]
        boxes: list[Box] = []
        for i in range(1, count):
            x, y, bw, bh, _area = (int(v) for v in stats[i])
            inside = labels[y : y + bh, x : x + bw] == i
            if min(bw, bh) < 3 or float(chance[y : y + bh, x : x + bw][inside].mean()) < 0.5:
                continue
            # The map shows the middle of the letters; the usual unclip ratio gives their full height.
            by = 0.8 * bw * bh / (bw + bh)
            grow = min(by, 0.55 * min(bw, bh))
            boxes.append(
                Box(
                    max(0.0, (x - grow) * fx),
                    max(0.0, (y - grow) * fy),
                    min(w - 1.0, (x + bw + grow) * fx),
                    min(h - 1.0, (y + bh + grow) * fy),
                )
            )
        return boxes


def batches(widths: Sequence[int]) -> list[tuple[int, int]]:
    """Sorted widths cut into slices of pictures that are nearly as wide as each other."""
    out: list[tuple[int, int]] = []
    first = 0
    for k in range(1, len(widths) + 1):
        if k == len(widths) or k - first == BATCH or widths[k] > max(48, PADDING * widths[first]):
            out.append((first, k))
            first = k
    return out


_lock = threading.Lock()


@lru_cache(maxsize=1)
def _engine() -> Engine:
    return Engine()


def engine() -> Engine:
    """The process' one engine, made at its first use (about half a second)."""
    with _lock:
        return _engine()


def crop(rgb: Rgb, box: Box, margin: float) -> Rgb:
    h, w = rgb.shape[:2]
    x0, y0 = max(0, round(box.x0 - margin)), max(0, round(box.y0 - margin))
    x1, y1 = min(w, round(box.x1 + margin) + 1), min(h, round(box.y1 + margin) + 1)
    return np.ascontiguousarray(rgb[y0:y1, x0:x1])


Reader = Callable[[Sequence[Rgb]], list[tuple[str, float]]]


def remembering(read: Reader) -> Reader:
    """A reader that reads the same picture once: frames and gaps between letters are tried until the labels make sense, and most
    of the labels are the same each time."""
    known: dict[tuple[tuple[int, ...], bytes], tuple[str, float]] = {}

    def again(crops: Sequence[Rgb]) -> list[tuple[str, float]]:
        keys = [(c.shape, c.tobytes()) for c in crops]
        new = {key: c for key, c in zip(keys, crops, strict=True) if key not in known}
        known.update(zip(new, read(list(new.values())), strict=True))
        return [known[key] for key in keys]

    return again


def blobs(ink: Grey, level: float) -> list[tuple[Box, int]]:
    """Connected pieces of ink with their area."""
    count, _, stats, _ = connected(ink > level)
    out: list[tuple[Box, int]] = []
    for i in range(1, count):
        x, y, w, h, area = (int(v) for v in stats[i])
        out.append((Box(x, y, x + w - 1, y + h - 1), area))
    return out


def titles_joined(boxes: Sequence[Box], frame: Frame) -> list[Box]:
    """Boxes with the pieces of each upright title beside the frame put together: the detector parts them at a space, and a piece
    as short as `(A)` is no longer seen to stand upright."""
    b = frame.box
    out: list[Box] = []
    for box in sorted(boxes, key=lambda q: q.y0):
        last = next((k for k, q in enumerate(out) if _goes_on(q, box)), None)
        beside = box.x1 < b.x0 or box.x0 > b.x1
        if not beside or box.width > 1.6 * box.height or last is None:
            out.append(box)
            continue
        q = out[last]
        out[last] = Box(min(q.x0, box.x0), min(q.y0, box.y0), max(q.x1, box.x1), max(q.y1, box.y1))
    return out


def _goes_on(upper: Box, lower: Box) -> bool:
    """Whether a box stands in one column with that above it, and touches it: labels of ticks and lines of a legend keep apart."""
    width = min(upper.width, lower.width)
    column = min(upper.x1, lower.x1) - max(upper.x0, lower.x0) > 0.7 * max(upper.width, lower.width)
    return column and upper.width <= 1.6 * upper.height and lower.y0 - upper.y1 < 0.1 * width


def readable(boxes: Sequence[Box]) -> list[Box]:
    """The boxes that are read, in their order: all of them, unless they are too many."""
    widths = [READ_HEIGHT * max(b.width, b.height) / max(1.0, min(b.width, b.height)) for b in boxes]
    order = sorted(range(len(boxes)), key=lambda i: widths[i])
    total = np.cumsum([widths[i] for i in order])
    chosen = {i for i, width in zip(order, total, strict=True) if width <= MOST_TEXT}
    return [b for i, b in enumerate(boxes) if i in chosen]


def of_labels(box: Box, labels: Sequence[Word]) -> Word | None:
    """What stands in a box of the detector that holds labels of an axis, one or a whole row, and nothing else; None for another box."""
    inside = sorted((q for q in labels if holds(box, q.box)), key=lambda q: q.box.x0)
    if not inside:
        return None
    width = max(q.box.x1 for q in inside) - inside[0].box.x0
    height = max(q.box.y1 for q in inside) - min(q.box.y0 for q in inside)
    # The detector's boxes are larger than the letters by half a letter's height or so.
    if box.width - width > 1.2 * height + 2 or box.height > 2.2 * height + 2:
        return None
    return Word(" ".join(q.text for q in inside), box, min(q.score for q in inside))


def holds(box: Box, small: Box) -> bool:
    return box.x0 < small.cx < box.x1 and box.y0 < small.cy < box.y1


EQUALS = ("=", "＝", "二", "ニ")
"""What an equals sign is read as when it stands alone: two bars are a numeral and a letter elsewhere."""


def read_boxes(rgb: Rgb, boxes: Sequence[Box], read: Reader, labels: Sequence[Word] = ()) -> list[Word]:
    """Read boxes; tall narrow ones are turned a quarter first. Of a page full of text only the shortest are read: names are short.

    `labels` are words that were read already: the boxes that hold them are not read again.
    """
    known = [(box, of_labels(box, labels)) for box in boxes]
    boxes = readable([box for box, word in known if word is None])
    crops: list[Rgb] = []
    owner: list[tuple[int, bool]] = []
    for i, box in enumerate(boxes):
        piece = crop(rgb, box, 1)
        if box.height > 1.6 * box.width:
            crops.append(np.ascontiguousarray(np.rot90(piece, -1)))
            owner.append((i, True))
        else:
            crops.append(piece)
            owner.append((i, False))
    words = read(crops)
    return [word for _, word in known if word is not None] + [
        Word("=" if text.strip() in EQUALS else text.strip(), boxes[i], score, upright)
        for (i, upright), (text, score) in zip(owner, words, strict=True)
        if text.strip()
    ]


def equations_joined(words: Sequence[Word]) -> list[Word]:
    """Words with those put together that the detector parted at an equals sign: `ID` and `= 10 mA` stand in one line."""
    out: list[Word] = []
    for word in sorted(words, key=lambda w: w.box.x0):
        b = word.box
        for k, left in enumerate(out):
            a = left.box
            level = min(a.y1, b.y1) - max(a.y0, b.y0) > 0.6 * min(a.height, b.height)
            close = -0.8 * b.height < b.x0 - a.x1 < 0.6 * b.height and b.x1 > a.x1
            ends, begins = left.text.endswith("="), word.text.startswith("=")
            # Where there is an equation already another label begins.
            parted = ends != begins and "=" not in (left.text[:-1] if ends else left.text)
            if level and close and parted and not (left.upright or word.upright):
                box = Box(a.x0, min(a.y0, b.y0), b.x1, max(a.y1, b.y1))
                # As for a word in one piece: the mean of its characters.
                score = np.average((left.score, word.score), weights=(len(left.text), len(word.text)))
                out[k] = Word(f"{left.text} {word.text}", box, float(score))
                break
        else:
            out.append(word)
    return out


def written(words: Sequence[Word], frame: Frame) -> list[Word]:
    """Words that are surely text. The detector also finds markers and crossings, which read as one odd letter, or a bundle of curves."""
    sure = [w for w in words if w.score > 0.55 and any(c.isalnum() and ord(c) < 0x2E80 for c in w.text)]
    if not sure:
        return []
    usual = float(np.median([w.box.width if w.upright else w.box.height for w in sure]))
    b = frame.box

    def inside(w: Word) -> bool:
        return b.x0 < w.box.cx < b.x1 and b.y0 < w.box.cy < b.y1

    return [
        w
        for w in sure
        if not (inside(w) and len(w.text) == 1) and (w.box.width if w.upright else w.box.height) < 2.5 * usual
    ]
