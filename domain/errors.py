"""The domain's no, and what the outside world can do wrong.

`Refused` and its kinds are worded for the person who asked: what is not possible now, and what to do instead.
"""


class Refused(Exception):
    """The domain says no. The text is shown to the person who asked, as it is."""


class NotFound(Refused):
    """What was asked about does not exist."""


class AlreadyExists(Refused):
    """What was to be created is there already."""


class WrongState(Refused):
    """Not possible in the state the thing is in."""


class OutOfLimits(Refused):
    """A value lies outside what the instrument or the plan allows."""


class UnknownEvent(Exception):
    """An event type that this version of the software does not know. Readers stop at it; nobody skips it."""


class InstrumentError(Exception):
    """What can go wrong between us and an instrument. Each kind states what may be retried."""


class InstrumentRefused(InstrumentError):
    """The value was refused (limits, choices, device error). Nothing moved. Never retried."""


class NoAnswer(InstrumentError):
    """No answer in time. A read may be retried; a write only after a read-back shows that it was not done."""


class WrongAnswer(InstrumentError):
    """An answer came that cannot be right (garbled, stale, not a number). Read again after clearing the line."""


class Gone(InstrumentError):
    """The connection is lost. Retried only after `open` and `identify` say that the same device is back."""


class LeaseLost(Exception):
    """This process no longer holds the instrument. It must not touch the device again."""
