"""Letters of a PDF's page joined to texts, and texts that are numbers to labels."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from adapters.curves.pdf import Letter
from adapters.curves.shapes import Box, Word
from adapters.curves.ticks import Label, hull, meanings


@dataclass(frozen=True)
class Text:
    """Letters written in one go. `raised`: those of an exponent at its end."""

    text: str
    box: Box
    size: float
    upright: bool = False
    raised: str | None = None
    colour: tuple[int, int, int] = (0, 0, 0)
    parts: tuple[tuple[str, Box], ...] = ()
    """Its words, each with a box of its own."""


def texts_of(letters: Sequence[Letter], wide: float = 0.9) -> list[Text]:
    """Letters joined as they were written, cut where the pen jumps or the gap is wider than `wide` letters."""
    runs: list[list[Letter]] = []
    for one in letters:
        if one.size <= 0 or (not one.text.strip() and not runs):
            continue
        if runs and _follows(runs[-1], one, wide):
            runs[-1].append(one)
        else:
            runs.append([one])
    return [made for run in runs if (made := _text_of(run)) is not None]


def _along(one: Letter) -> tuple[float, float]:
    """Place along the direction of writing, and how far above the line through the page's corner."""
    a = math.radians(one.angle_deg)
    x, y = one.origin
    return x * math.cos(a) - y * math.sin(a), -(x * math.sin(a) + y * math.cos(a))


def _reach(one: Letter) -> float:
    """Where a letter ends along its direction."""
    a = math.radians(one.angle_deg)
    corners = [(x, y) for x in (one.box.x0, one.box.x1) for y in (one.box.y0, one.box.y1)]
    return max(x * math.cos(a) - y * math.sin(a) for x, y in corners)


def _follows(run: Sequence[Letter], one: Letter, wide: float) -> bool:
    last, base = run[-1], run[0]
    if abs((one.angle_deg - base.angle_deg + 180) % 360 - 180) > 3:
        return False
    printed = [q for q in run if q.text.strip()] or [last]
    at, height = _along(one)
    _, line = _along(base)
    size = max(q.size for q in run)
    gap = at - max(_reach(q) for q in printed)
    # Smaller letters may be raised or sunk; others that stand higher or lower are another label.
    digits = one.text.isdigit() and last.text.isdigit()
    lift = 0.3 if digits and min(one.size, base.size) > 0.9 * size else 0.75
    return -0.6 * size < gap < wide * size and abs(height - line) < lift * size


def _text_of(run: Sequence[Letter]) -> Text | None:
    printed = [q for q in run if q.text.strip()]
    if not printed:
        return None
    size = max(q.size for q in printed)
    full = [q for q in printed if q.size > 0.85 * size]
    line = _along(full[0])[1]
    tail: list[Letter] = []
    for q in reversed(printed):
        if q.size < 0.9 * size and _along(q)[1] - line > 0.15 * size:
            tail.insert(0, q)
        else:
            break
    raised = "".join(q.text for q in tail) or None
    base = [q for q in run if not any(q is t for t in tail)]
    box = hull([q.box for q in printed])
    angle = full[0].angle_deg % 360
    parts = _words(base, size)
    upright = 45 < angle < 135 or 225 < angle < 315
    return Text(" ".join(text for text, _ in parts), box, size, upright, raised, full[0].colour, parts)


def _words(letters: Sequence[Letter], size: float) -> tuple[tuple[str, Box], ...]:
    """Cut at spaces, and at gaps as wide as one: what is set apart by moving the pen has no space in it."""
    words: list[list[Letter]] = []
    new = True
    for q in letters:
        if not q.text.strip():
            new = True
            continue
        if words and not new and _along(q)[0] - _reach(words[-1][-1]) < 0.25 * size:
            words[-1].append(q)
        else:
            words.append([q])
        new = False
    return tuple(("".join(q.text for q in word), hull([q.box for q in word])) for word in words)


def words_of(texts: Iterable[Text]) -> list[Word]:
    """As the other steps have text."""
    return [Word(t.text if t.raised is None else f"{t.text}^{t.raised}", t.box, 1.0, t.upright) for t in texts]


def labels_of(texts: Iterable[Text]) -> list[tuple[Label, Text]]:
    """The texts that are numbers; a row of numbers that was written in one go is cut into them."""
    out: list[tuple[Label, Text]] = []
    for t in texts:
        if t.upright or len(t.text) > 120:
            continue
        found = (
            meanings(t.text, t.raised) if len(t.parts) == 1 or not all(meanings(p, None) for p, _ in t.parts) else ()
        )
        if found and not t.text.lstrip().startswith(("x", "×")) and factor_of(t) is None:
            shown = t.text if t.raised is None else f"{t.text}^{t.raised}"
            out.append((Label(shown, found, t.box, 1.0), t))
        elif t.raised is None and all(meanings(part, None) for part, _ in t.parts):
            out += [(Label(part, meanings(part, None), box, 1.0), t) for part, box in t.parts]
    return out


def letter_size(texts: Sequence[Text]) -> float:
    return float(np.median([t.size for t in texts])) if texts else 20.0


def factor_of(t: Text) -> float | None:
    """What all numbers of an axis are to be multiplied by, where a text at its end says so: `1e-6`, `×10^3`."""
    plain = re.fullmatch(r"(?:[x×*]\s*)?1e([+\-−–]?\d{1,2})", t.text.strip())
    if plain:
        return 10.0 ** int(re.sub("[−–]", "-", plain[1]))
    power = re.fullmatch(r"[+\-−–]?\d{1,2}", t.raised or "")
    if power and re.fullmatch(r"[x×*]\s*10", t.text.strip()):
        return 10.0 ** int(re.sub("[−–]", "-", power[0]))
    return None
