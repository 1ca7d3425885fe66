"""What a driver and the layers around it share about their connection: whether they may still talk on it.

A line lives as long as one generation of driver objects. When a call hangs, the station abandons the line: the
thread is left behind, and whatever it does afterwards must not reach the device, which by then has fresh drivers.
"""

from collections.abc import Callable
from time import monotonic

from domain.errors import Gone


def _allow() -> None:
    return None


class Abandoned(Gone):
    """This generation of the connection was given up. Start another program: it gets fresh drivers."""


class Line:
    """One generation of one connection. Written by the owning thread, except `abandoned`."""

    __slots__ = ("abandoned", "grace_s", "guard", "key", "since")

    def __init__(self, key: str = "", guard: Callable[[], None] = _allow) -> None:
        self.key = key
        self.abandoned = False
        #: monotonic time at which the driver call that is running began; 0 when none is
        self.since = 0.0
        #: a running `open` may take this long, whatever the limit of an ordinary call
        self.grace_s = 0.0
        #: raises `LeaseLost` when this process may no longer move anything
        self.guard = guard

    def check(self) -> None:
        """Raises `Abandoned`. A driver that sleeps, or speaks several times in one call, calls it in between."""
        if self.abandoned:
            raise Abandoned(f"the connection {self.key} was abandoned after a call that hung")

    def busy_s(self) -> float:
        since = self.since
        return monotonic() - since if since else 0.0
