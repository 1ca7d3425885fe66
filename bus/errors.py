"""What the bus can answer. Each says whether trying again helps."""


class BusError(Exception):
    """Something between us and the streams went wrong."""


class Unavailable(BusError):
    """No answer from NATS in time, or no server. Try again: nothing is known to be lost or done."""


class Conflict(BusError):
    """Somebody else appended first. Load again and decide again."""


class Fenced(BusError):
    """The lease that this write rode on has moved on. This process must stop: somebody else holds the instrument."""


class Rejected(BusError):
    """The server refused the message for good (too large, no permission, wrong stream)."""


class Forbidden(Rejected):
    """The user that signed in may not send there. Nobody answers such a message, so the server's complaint is the answer."""


class ChainBroken(BusError):
    """An event does not follow from the one before it: history was altered, or a writer is faulty."""
