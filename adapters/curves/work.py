"""What reading the curves of one picture may cost, counted and not timed."""

from dataclasses import dataclass

MOST_PIECES = 2000
"""Strokes between crossings in one picture. Layers with more are noise, a photo, a page of text: they are not followed."""
MOST_GUESSES = 12_000_000
"""Guesses of the pen in one picture, several times as many as the fullest plot of curves asks for."""


@dataclass
class Work:
    """What following the ink of one picture may still cost."""

    guesses: int = MOST_GUESSES
    pieces: int = MOST_PIECES
    cut: bool = False
    """True when something was left because there was more ink than curves explain."""
