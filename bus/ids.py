"""Ids that sort by the time they were made (RFC 9562, version 7)."""

import os
import time


def uuid7() -> str:
    """A new id: 48 bits of unix milliseconds, then 74 random bits. Written as text at once: it is made for every event."""
    ms = time.time_ns() // 1_000_000
    r = os.urandom(10).hex()
    return f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7{r[:3]}-{'89ab'[int(r[3], 16) & 3]}{r[4:7]}-{r[7:19]}"
