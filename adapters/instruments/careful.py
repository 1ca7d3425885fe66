"""The careful layer around every driver: limits and lease before a write, and the retry rules after a failure.

What is retried, at most twice, each time reported to `on_trouble` first:

* refused: never. Nothing moved.
* no answer, wrong answer: after `identify` has shown that the line is in step. Reads are read again. A write is
  repeated only if a read-back shows that it was not done; where the channel cannot be read back, or reads neither
  the old value nor the new one, it is not repeated and the error rises.
* gone, or silent to `identify` as well: the same, after `close`, `open`, and an `identify` that equals the first one.
* `stop` and `safe` mean the same when done twice, so they are repeated without a read-back.

A driver may have `readback(name)`: the value that it was last told, where `read` gives another thing (a stage on its
way reads where it is). Without it the layer waits until the channel is settled before it compares.

The path without failure is lean on purpose: a scan of trivial instruments makes 200,000 calls a second through it.
"""

import logging
import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from time import monotonic, sleep, time
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from adapters.instruments.line import Line
from domain.errors import Gone, InstrumentError, InstrumentRefused, NoAnswer, WrongAnswer
from domain.ports import Channel, Instrument, Value

log = logging.getLogger(__name__)
T = TypeVar("T")

#: called with (instrument, error, attempt) before each retry; attempt 1 is the first call, which failed
OnTrouble = Callable[[str, Exception, int], None]

RETRIES = 2
_UNKNOWN: Any = object()
_NUMBERS: dict[str, tuple[type, ...]] = {
    "float": (float, int, np.floating, np.integer),
    "int": (int, np.integer),
    "bool": (bool, np.bool_),
    "str": (str,),
}


class Careful:
    """An `Instrument` around another. Called only by the thread that owns the connection."""

    def __init__(
        self,
        name: str,
        driver: Instrument,
        line: Line,
        on_trouble: Callable[[], OnTrouble | None] = lambda: None,
        identities: MutableMapping[str, str] | None = None,
        open_timeout_s: float = 10.0,
    ) -> None:
        """`identities` remembers who answered first under each instrument's name, across generations."""
        self.name = name
        self.driver = driver
        self.opened = False
        self._line = line
        self._on_trouble = on_trouble
        self._identities: MutableMapping[str, str] = {} if identities is None else identities
        self._open_timeout_s = open_timeout_s
        self._channels: Mapping[str, Channel] = driver.describe()
        self._read = driver.read
        self._write = driver.write
        self._settled = driver.settled
        # Bounds of the channels that take a plain float within limits: all that the lean path of `write` looks at.
        self._bounds = {
            name: channel.limits or (-math.inf, math.inf)
            for name, channel in self._channels.items()
            if channel.kind != "r" and channel.type == "float" and not channel.choices
        }
        self._last: dict[str, Value] = {}
        self._names: object = None
        self._count = 0

    def describe(self) -> Mapping[str, Channel]:
        return self._channels

    # -- the lean path ---------------------------------------------------------------------------------------------

    def read(self, names: Sequence[str]) -> dict[str, Value]:
        if names is not self._names:
            self._look_at(names)
        line = self._line
        if line.abandoned:
            line.check()
        line.since = monotonic()
        try:
            asked = time()
            answer = self._read(names)
            if answer["time"] < asked or len(answer) != self._count:
                self._check_answer(names, answer, asked)
                return answer
            for value in answer.values():
                if type(value) is not float:
                    self._check_answer(names, answer, asked)
                    break
            return answer
        except Exception as error:
            return self._retried(error, lambda: self._read_once(names))
        finally:
            line.since = 0.0

    def write(self, name: str, value: Value) -> Value:
        line = self._line
        if line.abandoned:
            line.check()
        bounds = self._bounds.get(name)
        if bounds is None or type(value) is not float or not bounds[0] <= value <= bounds[1]:
            value = self._allowed(name, value)
        line.guard()
        line.since = monotonic()
        try:
            accepted = self._write(name, value)
            if accepted is not value:
                accepted = self._check_accepted(name, value, accepted)
            self._last[name] = accepted
            return accepted
        except Exception as error:
            return self._write_again(name, value, error)
        finally:
            line.since = 0.0

    def settled(self, name: str) -> bool:
        line = self._line
        if line.abandoned:
            line.check()
        line.since = monotonic()
        try:
            answer = self._settled(name)
            if answer is True or answer is False:
                return answer
            return self._settled_once(name)
        except Exception as error:
            return self._retried(error, lambda: self._settled_once(name))
        finally:
            line.since = 0.0

    # -- the rest of the protocol ----------------------------------------------------------------------------------

    def open(self) -> None:
        """Opens, and checks that the device is the one that answered under this name before. Nothing when open."""
        if not self.opened:
            try:
                self._timed(self._open)
            except Exception as error:
                self._retried(error, lambda: None)

    def identify(self) -> str:
        try:
            return self._timed(self.driver.identify)
        except Exception as error:
            return self._retried(error, lambda: self._timed(self.driver.identify))

    def stop(self) -> None:
        self._told(self.driver.stop)

    def safe(self) -> None:
        self._told(self.driver.safe)

    def snapshot(self, names: Sequence[str]) -> dict[str, Value]:
        """The values of `names`, or of every channel that can be read when there are none given."""
        self._look_at(names)
        wanted = list(names)

        def snapshot() -> dict[str, Value]:
            answer = self._timed(lambda: self.driver.snapshot(wanted))
            for name in wanted:
                if name not in answer:
                    raise WrongAnswer(f"{self.name} left {name} out of its snapshot")
            return answer

        try:
            return snapshot()
        except Exception as error:
            return self._retried(error, snapshot)

    def close(self) -> None:
        self.opened = False
        if not self._line.abandoned:
            self.driver.close()

    # -- checks ----------------------------------------------------------------------------------------------------

    def _look_at(self, names: Sequence[str]) -> None:
        for name in names:
            channel = self._channels.get(name)
            if channel is None:
                raise InstrumentRefused(f"{self.name} has no channel {name}; it has {', '.join(self._channels)}")
            if channel.kind == "w":
                raise InstrumentRefused(f"{self.name}.{name} can only be written")
        # The number of values of an answer of floats only (one is the time); no answer has -1.
        plain = all(self._channels[name].type == "float" for name in names)
        self._count = len(set(names)) + 1 if plain else -1
        # Only a tuple cannot change behind our back.
        self._names = names if isinstance(names, tuple) else None

    def _check_answer(self, names: Sequence[str], answer: Mapping[str, Value], asked: float) -> None:
        """Raises `WrongAnswer`. Answers of floats only do not come here, as long as there are as many as asked for."""
        taken = answer["time"]
        if not isinstance(taken, float) or taken < asked:
            # Seen with stale answers: it is the answer to an earlier question.
            raise WrongAnswer(f"{self.name} answered with what was taken {asked - taken:.6f} s before it was asked")
        if set(answer) != {*names, "time"}:
            raise WrongAnswer(f"{self.name} was asked for {', '.join(names)} and answered {', '.join(answer)}")
        for name in names:
            channel, value = self._channels[name], answer[name]
            if channel.type == "array":
                if not isinstance(value, np.ndarray) or not _is_array(channel, cast(NDArray[Any], value)):
                    raise WrongAnswer(f"{self.name}.{name} is not an array of shape {channel.shape}")
            elif not _is(channel.type, value):
                raise WrongAnswer(f"{self.name}.{name} answered {value!r}, which is no {channel.type}")
            elif channel.choices and channel.type == "str":
                if value not in channel.choices:
                    raise WrongAnswer(f"{self.name}.{name} answered {value!r}, not one of {channel.choices}")

    def _check_accepted(self, name: str, value: Value, accepted: Value) -> Value:
        """The device accepted another value than asked: rounded it, or answered something else. Asks it which."""
        channel = self._channels[name]
        if channel.type != "array" and not _is(channel.type, accepted):
            raise WrongAnswer(f"{self.name}.{name} said that it accepted {accepted!r}, which is no {channel.type}")
        if _same(channel, accepted, value) or channel.kind != "rw":
            return accepted
        now = self._read_back(name, patience_s=0.0)
        if now is _UNKNOWN or _same(channel, now, accepted):
            return accepted
        if _same(channel, now, value):
            self._report(WrongAnswer(f"{self.name}.{name} said {accepted!r} when told {value!r}, and has {now!r}"), 1)
            return now
        raise WrongAnswer(f"{self.name}.{name} was told {value!r}, said {accepted!r}, and has {now!r}")

    def _allowed(self, name: str, value: Value) -> Value:
        """The value in the channel's type, or `InstrumentRefused`."""
        channel = self._channels.get(name)
        if channel is None:
            raise InstrumentRefused(f"{self.name} has no channel {name}; it has {', '.join(self._channels)}")
        where = f"{self.name}.{name}"
        if channel.kind == "r":
            raise InstrumentRefused(f"{where} can only be read")
        if channel.type == "array":
            array = np.asarray(value)
            if array.shape != channel.shape or array.dtype.kind not in "fiu":
                raise InstrumentRefused(f"{where} takes numbers in the shape {channel.shape}, not {array.shape}")
            low, high = channel.limits or (-math.inf, math.inf)
            if not bool(np.all((array >= low) & (array <= high))):
                raise InstrumentRefused(f"{where} takes {low:g} to {high:g} {channel.unit}")
            return array
        if channel.type == "int" and isinstance(value, float) and value.is_integer():
            value = int(value)
        if not _is(channel.type, value):
            raise InstrumentRefused(f"{where} takes a {channel.type}, not {value!r}")
        match channel.type:
            case "float":
                value = float(value)
            case "int":
                value = int(value)
            case "bool":
                value = bool(value)
            case "str":
                value = str(value)
        if channel.limits and not channel.limits[0] <= value <= channel.limits[1]:
            low, high = channel.limits
            raise InstrumentRefused(f"{where} takes {low:g} to {high:g} {channel.unit}, not {value!r}")
        if channel.type == "float" and math.isnan(value):
            raise InstrumentRefused(f"{where} takes a number, not nan")
        if channel.choices and not any(_is_choice(channel, choice, value) for choice in channel.choices):
            raise InstrumentRefused(f"{where} takes {', '.join(channel.choices)}, not {value!r}")
        return value

    # -- after a failure -------------------------------------------------------------------------------------------

    def _timed(self, call: Callable[[], T]) -> T:
        self._line.check()
        self._line.since = monotonic()
        try:
            return call()
        finally:
            self._line.since = 0.0

    def _read_once(self, names: Sequence[str]) -> dict[str, Value]:
        asked = time()
        answer = self._timed(lambda: self._read(names))
        self._check_answer(names, answer, asked)
        return answer

    def _settled_once(self, name: str) -> bool:
        answer: Any = self._timed(lambda: self._settled(name))
        if not isinstance(answer, (bool, np.bool_)):
            raise WrongAnswer(f"{self.name} answered {answer!r} when asked whether {name} is settled")
        return bool(cast(object, answer))

    def _told(self, order: Callable[[], None]) -> None:
        def once() -> None:
            self._line.guard()
            self._last.clear()  # it stands elsewhere now
            self._timed(order)

        try:
            once()
        except Exception as error:
            self._retried(error, once)

    def _retried(self, error: Exception, again: Callable[[], T]) -> T:
        for attempt in range(1, RETRIES + 1):
            error = self._retryable(error)
            self._report(error, attempt)
            try:
                self._recover(error)
                return again()
            except Exception as next_error:
                error = next_error
        raise error

    def _write_again(self, name: str, value: Value, error: Exception) -> Value:
        channel = self._channels[name]
        before = self._last.get(name, _UNKNOWN)
        for attempt in range(1, RETRIES + 1):
            error = self._retryable(error)
            if channel.kind != "rw":
                raise error
            self._report(error, attempt)
            try:
                self._recover(error)
                now = self._read_back(name, patience_s=self._open_timeout_s)
            except Exception as next_error:
                error = next_error
                continue
            if now is not _UNKNOWN and _same(channel, now, value):
                self._last[name] = now
                return now
            if now is _UNKNOWN or not (before is _UNKNOWN or _same(channel, now, before)):
                error.add_note(f"not repeated: {name} is neither where it was nor where it was sent")
                raise error
            self._line.guard()
            try:
                accepted = self._timed(lambda: self._write(name, value))
                accepted = self._check_accepted(name, value, accepted)
                self._last[name] = accepted
                return accepted
            except Exception as next_error:
                error = next_error
        # The last attempt may have been done and only its answer lost: whoever reads the channel next will see.
        self._last.pop(name, None)
        raise error

    def _read_back(self, name: str, patience_s: float) -> Value:
        """What the device was last told for this channel; `_UNKNOWN` when it does not come to rest."""
        readback: Callable[[str], Value] | None = getattr(self.driver, "readback", None)
        if readback is not None:
            value = self._timed(lambda: readback(name))
            channel = self._channels[name]
            if channel.type != "array" and not _is(channel.type, value):
                raise WrongAnswer(f"{self.name}.{name} reads back {value!r}, which is no {channel.type}")
            return value
        deadline = monotonic() + patience_s
        while not self._settled_once(name):
            if monotonic() >= deadline:
                return _UNKNOWN
            sleep(0.01)
        return self._read_once([name])[name]

    def _retryable(self, error: Exception) -> InstrumentError:
        """The error if it may be retried, else raises it. What the operating system says is put into our words."""
        if self._line.abandoned or isinstance(error, InstrumentRefused):
            raise error
        if isinstance(error, InstrumentError):
            return error
        if isinstance(error, TimeoutError):
            ours: InstrumentError = NoAnswer(f"{self.name}: {error}")
        elif isinstance(error, OSError):
            ours = Gone(f"{self.name}: {error}")
        else:
            raise error
        ours.__cause__ = error
        return ours

    def _recover(self, error: InstrumentError) -> None:
        """Brings the line in step, or raises."""
        if self.opened and not isinstance(error, Gone):
            # A late answer to the question that timed out would be taken for the answer to the next one. The identity
            # cannot be mistaken for anything else, so ask for it until it comes.
            try:
                for _ in range(RETRIES):
                    if self._timed(self.driver.identify) == self._identities.get(self.name):
                        return
            except (NoAnswer, Gone, OSError) as silence:
                # Twice silent is as good as gone: over a socket that the device has closed, that is all one hears.
                self._line.check()
                log.debug("%s does not answer who it is either: %r", self.name, silence)
            else:
                raise WrongAnswer(f"{self.name} is out of step: it does not answer who it is") from error
        self.opened = False
        try:
            self._timed(self.driver.close)
        except (InstrumentError, OSError) as closing:
            log.debug("closing %s after %r: %r", self.name, error, closing)
        self._timed(self._open)

    def _open(self) -> None:
        self._line.grace_s = self._open_timeout_s
        try:
            self.driver.open()
            identity = self.driver.identify()
        finally:
            self._line.grace_s = 0.0
        known = self._identities.setdefault(self.name, identity)
        if identity != known:
            self.driver.close()
            raise Gone(f"{self.name}: {identity!r} answers where {known!r} was")
        self.opened = True

    def _report(self, error: Exception, attempt: int) -> None:
        hook = self._on_trouble()
        if hook is None:
            log.warning("%s: %r at attempt %d", self.name, error, attempt)
            return
        try:
            hook(self.name, error, attempt)
        except Exception:
            log.exception("could not report %r of %s", error, self.name)


def _is(kind: str, value: object) -> bool:
    return isinstance(value, _NUMBERS[kind]) and (kind == "bool" or not isinstance(value, (bool, np.bool_)))


def _is_array(channel: Channel, value: NDArray[Any]) -> bool:
    return value.shape == channel.shape and value.dtype.kind in "fiub"


def _is_choice(channel: Channel, choice: str, value: Value) -> bool:
    return choice == value if channel.type == "str" else float(choice) == value


def _same(channel: Channel, one: Value, other: Value) -> bool:
    """Equal as far as a device can tell: to a millionth, and to a billionth of the range."""
    if channel.type == "array":
        return np.shape(one) == np.shape(other) and bool(np.allclose(one, other, rtol=1e-6, atol=1e-9))
    if channel.type != "float":
        return bool(one == other)
    low, high = channel.limits or (0.0, 0.0)
    span = high - low if math.isfinite(high - low) else 0.0
    return one == other or bool(abs(one - other) <= 1e-6 * max(abs(one), abs(other)) + 1e-9 * span)
