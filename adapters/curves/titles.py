"""What stands beside the axes: their titles, found among the words of the picture."""

from collections.abc import Sequence

from adapters.curves.shapes import Frame, Word


def has_letters(word: Word) -> bool:
    """Letters, and not what a tick's label looks like to the reader, which knows Chinese too."""
    return any(c.isalpha() and ord(c) < 0x2E80 for c in word.text)


def title_beside(words: Sequence[Word], frame: Frame, letter: str) -> str:
    """The title of the axis `x`, `y` or `y2` as it stands there; empty where none was read."""
    b = frame.box
    if letter == "x":
        below = [
            w
            for w in words
            if not w.upright and w.box.y0 > b.y1 and abs(w.box.cx - b.cx) < 0.35 * b.width and has_letters(w)
        ]
        return min(below, key=lambda w: w.box.y0).text if below else ""
    if letter == "y2":
        right = [w for w in words if w.upright and w.box.x0 > b.x1 - 2 and has_letters(w)]
        return max(right, key=lambda w: w.box.height).text if right else ""
    left = [w for w in words if w.upright and w.box.x1 < b.x0 + 2 and has_letters(w)]
    return max(left, key=lambda w: w.box.height).text if left else ""
