"""Any instrument that speaks SCPI (or another protocol of lines), over VISA, described by a TOML table and no code.

    [identity]                       # optional as a whole
    ask = "*IDN?"
    pattern = 'KEITHLEY.*MODEL 2000' # found in the answer, else the instrument is not opened

    [line]
    read_termination = "\\n"
    write_termination = "\\n"
    timeout_s = 2.0
    query_delay_s = 0.0
    baud_rate = 9600                 # serial lines only

    [instrument]
    name = "Keithley 2000"
    check_errors = "SYST:ERR?"       # asked after each write and order, until it answers `no_error`
    no_error = '^[+-]?0\\b'
    init = ["*CLS"]                  # after opening
    safe = ["OUTP OFF"]
    stop = ["ABOR"]

    [channels.voltage]
    doc = "Source voltage."
    unit = "V"
    type = "float"                   # float int bool str array
    get = "SOUR:VOLT?"               # absent: cannot be read
    set = "SOUR:VOLT {value}"        # absent: cannot be written; a format like {value:.4f} is possible
    limits = [-20.0, 20.0]
    scale = 1.0                      # ours = the device's x scale
    set_answers = false              # the setter answers; the answer is read and thrown away
    readback = "SOUR:VOLT:TARG?"     # what it was last told, where `get` asks for another thing
    settled = "STAT:SETT?"           # asked by settled(); `settled_when` is found in the answer when it is
    settled_when = '^1$'

    [channels.output]
    type = "bool"
    map = { true = "ON", false = "OFF" }      # our words to the device's, when writing; `answers` when reading,
    answers = { "1" = true, "0" = false }     # where they differ
    get = "OUTP?"
    set = "OUTP {value}"

    [channels.trace]
    type = "array"
    shape = [101]
    get = "TRAC:DATA?"
    array = "ascii"                  # comma list; or "block": IEEE 488.2 binary block
    datatype = "f"                   # of a block, as in the module `struct`
    big_endian = false

**Options of the driver**: `table` (a path, or the name of a table in adapters/instruments/data), `backend` ("@py";
"" is the machine's own VISA), `sim` (a pyvisa-sim definition, a path or a name in data, used instead of a backend).

Failures: a VISA time-out is no answer; a connection that is lost or cannot be opened is gone; what cannot be read as
the channel's type is a wrong answer; an error in the device's error queue is refused. After no answer or a wrong one
the line is cleared before the next command, because the late answer would be taken for the answer to that.
"""

import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from time import time
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from adapters.instruments.line import Line
from domain.errors import Gone, InstrumentRefused, NoAnswer, WrongAnswer
from domain.ports import Channel, Value

T = TypeVar("T")

DATA = Path(__file__).parent / "data"

#: For the contract suite and the documentation: a configuration that works without hardware.
EXAMPLE: dict[str, Any] = {
    "address": "GPIB0::24::INSTR",
    "options": {"table": "source_meter", "sim": "demo"},
}

#: SCPI's ways to say not a number and overflow (SCPI-99, 7.2.1.4 and 7.2.1.5)
NAN, INFINITY = 9.91e37, 9.9e37

_DRAIN_S = 0.05
_MOST_ERRORS = 20
_MOST_ANSWERS = 100


def _is_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return text


Pattern = Annotated[str, AfterValidator(_is_pattern)]


class TableError(ValueError):
    """A table that cannot be used. Names the file and the key."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Identity(_Part):
    ask: str = "*IDN?"
    pattern: Pattern = ""


class LineSettings(_Part):
    read_termination: str = "\n"
    write_termination: str = "\n"
    timeout_s: float = Field(default=2.0, gt=0)
    query_delay_s: float = Field(default=0.0, ge=0)
    encoding: str = "ascii"
    baud_rate: int | None = Field(default=None, gt=0)
    chunk_bytes: int = Field(default=1 << 20, gt=0)


class General(_Part):
    name: str = ""
    check_errors: str | None = None
    no_error: Pattern = r"^\s*[+-]?0\b"
    init: tuple[str, ...] = ()
    safe: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()


class ChannelTable(_Part):
    doc: str = Field(min_length=1)
    unit: str = ""
    type: Literal["float", "int", "bool", "str", "array"] = "float"
    shape: tuple[int, ...] = ()
    get: str | None = None
    set: str | None = None
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] | None = None
    map: dict[str, str] = {}
    answers: dict[str, str | bool | int | float] = {}
    scale: float = 1.0
    set_answers: bool = False
    readback: str | None = None
    settled: str | None = None
    settled_when: Pattern = r"^\s*[+]?1"
    array: Literal["ascii", "block"] = "ascii"
    separator: str = ","
    datatype: Literal["b", "B", "h", "H", "i", "I", "q", "Q", "f", "d"] = "f"
    big_endian: bool = False

    @field_validator("set")
    @classmethod
    def _set_takes_a_value(cls, text: str | None) -> str | None:
        if text is None:
            return None
        try:
            one, other = text.format(value=0), text.format(value=1)
        except ValueError:  # a format for text, like {value:>4s}
            one, other = text.format(value="0"), text.format(value="1")
        except (KeyError, IndexError) as error:
            raise ValueError("may contain {value} and no other braces") from error
        if one == other:
            raise ValueError("needs {value}, the place of the value")
        return text

    @model_validator(mode="after")
    def _hangs_together(self) -> "ChannelTable":
        if self.get is None and self.set is None:
            raise ValueError("needs `get`, `set` or both")
        if self.type == "array" and (not self.shape or self.get is None or self.set is not None):
            raise ValueError("an array needs `shape` and `get`, and cannot be set")
        if self.type != "array" and self.shape:
            raise ValueError("only an array has a `shape`")
        if self.type == "float" and not self.unit:
            raise ValueError('a float needs a `unit` ("1" when it has none)')
        if self.limits is not None and self.limits[0] >= self.limits[1]:
            raise ValueError("`limits` are [low, high]")
        if self.set is not None and not self.map and self.type in ("float", "int", "str"):
            sample: Value = {"float": 0.5, "int": 1, "str": "a"}[self.type]
            try:
                self.set.format(value=sample)
            except ValueError as error:
                raise ValueError(f"the format in `set` does not fit a {self.type}: {error}") from error
        if self.scale == 0 or not math.isfinite(self.scale):
            raise ValueError("`scale` is a number other than 0")
        return self

    def channel(self) -> Channel:
        return Channel(
            kind="rw" if self.get and self.set else "r" if self.get else "w",
            type=self.type,
            shape=self.shape,
            unit=self.unit,
            limits=self.limits,
            choices=self.choices or (tuple(self.map) if self.map and self.type != "bool" else None),
            doc=self.doc,
            source=self.get or self.set or "",
        )


class Table(_Part):
    """An instrument, described."""

    identity: Identity = Identity()
    line: LineSettings = LineSettings()
    instrument: General = General()
    channels: dict[str, ChannelTable] = Field(min_length=1)


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")
    table: str
    backend: str = "@py"
    sim: str | None = None


def _found(name: str, ending: str) -> Path:
    """A path as it is given, or the file of that name among the package's data."""
    for path in (Path(name), DATA / name, DATA / f"{name}{ending}"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in DATA.glob(f"*{ending}")))
    raise TableError(f"there is no file {name}, and no {ending} of that name among: {known}")


def load_table(name: str) -> Table:
    """Raises `TableError` with the path and the key of the first thing wrong, and how many more there are."""
    path = _found(name, ".toml")
    try:
        return Table.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise TableError(f"{path}: {error}") from error
    except ValidationError as error:
        wrong = [f"{'.'.join(str(key) for key in one['loc']) or 'the table'}: {one['msg']}" for one in error.errors()]
        raise TableError(f"{path}: " + "; ".join(wrong)) from error


_managers: dict[str, Any] = {}
_managers_lock = Lock()


def _manager(library: str) -> Any:
    """One resource manager a library and process: closing one closes every session, and a simulated device forgets."""
    # Here, not at the top: importing pyvisa takes longer than everything else in this module.
    import pyvisa

    with _managers_lock:
        if library not in _managers:
            _managers[library] = pyvisa.ResourceManager(library)
        return _managers[library]


class Driver:
    """An `Instrument` over VISA. See the top of this module."""

    def __init__(self, address: str, options: Mapping[str, Any], line: Line | None = None) -> None:
        chosen = Options.model_validate(options)
        self.address = address
        self.table = load_table(chosen.table)
        self._library = f"{_found(chosen.sim, '.yaml')}@sim" if chosen.sim else chosen.backend
        self._line = line or Line(address)
        self._channels = {name: channel.channel() for name, channel in self.table.channels.items()}
        self._resource: Any = None
        self._out_of_step = False
        if any(channel.readback for channel in self.table.channels.values()):
            self.readback: Callable[[str], Value] = self._readback

    def describe(self) -> Mapping[str, Channel]:
        return self._channels

    def open(self) -> None:
        self.close()
        settings = self.table.line
        self._resource = self._visa(
            lambda: _manager(self._library).open_resource(
                self.address, read_termination=settings.read_termination, write_termination=settings.write_termination
            )
        )
        try:
            self._resource.timeout = settings.timeout_s * 1e3
            self._resource.encoding = settings.encoding
            self._resource.chunk_size = settings.chunk_bytes
            if settings.baud_rate is not None and hasattr(self._resource, "baud_rate"):
                self._resource.baud_rate = settings.baud_rate
            # Whoever spoke with it before may have left an answer behind.
            self._out_of_step = True
            who = self.identify()
            if not re.search(self.table.identity.pattern, who):
                raise Gone(f"{self.address}: {who!r} answers, expected {self.table.identity.pattern!r}")
            if self.table.instrument.init:
                self._line.guard()
                self._order(self.table.instrument.init)
        except BaseException:
            self.close()
            raise

    def identify(self) -> str:
        return self._ask(self.table.identity.ask).strip()

    def read(self, names: Sequence[str]) -> dict[str, Value]:
        answer: dict[str, Value] = {"time": time()}
        for name in names:
            answer[name] = self._get(name, self.table.channels[name].get)
        return answer

    def write(self, name: str, value: Value) -> Value:
        """Answers what was sent, as the device got it: rounded by the format of `set`."""
        channel = self.table.channels[name]
        if channel.set is None:
            raise InstrumentRefused(f"{name} can only be read")
        sent, accepted = _worded(channel, value)
        text = channel.set.format(value=sent)
        if channel.set_answers:
            self._ask(text)
        else:
            self._tell(text)
        self._check_errors(text)
        return accepted

    def settled(self, name: str) -> bool:
        channel = self.table.channels[name]
        if channel.settled is None:
            return True
        return re.search(channel.settled_when, self._ask(channel.settled)) is not None

    def stop(self) -> None:
        self._order(self.table.instrument.stop)

    def safe(self) -> None:
        self._order(self.table.instrument.safe)

    def close(self) -> None:
        resource, self._resource = self._resource, None
        if resource is not None:
            self._visa(resource.close)

    def cut(self) -> None:
        """Takes the handle away under a call that hangs. Called by another thread, once the line is abandoned."""
        resource = self._resource
        if resource is not None:
            resource.close()

    def snapshot(self, names: Sequence[str]) -> dict[str, Value]:
        names = names or [name for name, channel in self._channels.items() if channel.kind == "rw"]
        return {name: self._get(name, self.table.channels[name].get) for name in names}

    def _readback(self, name: str) -> Value:
        channel = self.table.channels[name]
        return self._get(name, channel.readback or channel.get)

    def _get(self, name: str, question: str | None) -> Value:
        channel = self.table.channels[name]
        if question is None:
            raise InstrumentRefused(f"{name} can only be written")
        if channel.type == "array" and channel.array == "block":
            values = self._exchange(
                lambda: self._resource.query_binary_values(
                    question, datatype=channel.datatype, is_big_endian=channel.big_endian, container=np.array
                )
            )
            return self._shaped(name, np.asarray(values, dtype=np.float64))
        text = self._ask(question).strip()
        try:
            return self._understood(name, channel, text)
        except (ValueError, OverflowError) as error:
            self._out_of_step = True
            raise WrongAnswer(f"{self.address}: {question} answered {text[:80]!r}: {error}") from error

    def _understood(self, name: str, channel: ChannelTable, text: str) -> Value:
        if channel.type == "array":
            numbers = [_number(one) for one in text.split(channel.separator)]
            return self._shaped(name, np.array(numbers, dtype=np.float64))
        word: str | bool | int | float = text.strip("\"'") if channel.type == "str" else text
        if channel.answers:
            if text not in channel.answers:
                raise ValueError(f"not one of {', '.join(channel.answers)}")
            word = channel.answers[text]
        elif channel.map:
            back = {theirs.upper(): ours for ours, theirs in channel.map.items()}
            if text.upper() not in back:
                raise ValueError(f"not one of {', '.join(channel.map.values())}")
            word = back[text.upper()]
        match channel.type:
            case "float":
                return _number(str(word)) * channel.scale
            case "int":
                number = _number(str(word)) * channel.scale
                if abs(number - round(number)) > 1e-9 * abs(number):
                    raise ValueError("not a whole number")
                return round(number)
            case "bool":
                if str(word).lower() not in _TRUTHS:
                    raise ValueError("neither on nor off")
                return _TRUTHS[str(word).lower()]
            case _:
                return str(word)

    def _shaped(self, name: str, values: Any) -> Value:
        channel = self.table.channels[name]
        if values.size != math.prod(channel.shape):
            self._out_of_step = True
            raise WrongAnswer(f"{self.address}: {name} has {values.size} values, not the shape {channel.shape}")
        return values.reshape(channel.shape) * channel.scale

    def _order(self, commands: Sequence[str]) -> None:
        for command in commands:
            self._tell(command)
            self._check_errors(command)

    def _check_errors(self, after: str) -> None:
        question = self.table.instrument.check_errors
        if question is None:
            return
        errors: list[str] = []
        while len(errors) < _MOST_ERRORS:
            text = self._ask(question).strip()
            if re.search(self.table.instrument.no_error, text):
                break
            errors.append(text)
        if errors:
            raise InstrumentRefused(f"{self.address}: after {after}: {'; '.join(errors)}")

    def _tell(self, command: str) -> None:
        self._exchange(lambda: self._resource.write(command))

    def _ask(self, question: str) -> str:
        delay_s = self.table.line.query_delay_s
        return self._exchange(lambda: self._resource.query(question, delay=delay_s))

    def _exchange(self, exchange: Callable[[], T]) -> T:
        self._line.check()
        if self._resource is None:
            raise Gone(f"{self.address} is not open")
        if self._out_of_step:
            self._clear()
        try:
            return self._visa(exchange)
        except (NoAnswer, WrongAnswer):
            self._out_of_step = True
            raise

    def _clear(self) -> None:
        """Throws away what the device may still have to say."""
        # A socket has no device clear; pyvisa-py 0.8.1 reads it empty, and spins for ever when the peer has closed it.
        if self.address.upper().endswith("::SOCKET"):
            self._drain()
        else:
            try:
                self._visa(self._resource.clear)
            except (NotImplementedError, WrongAnswer):
                self._drain()  # simulations cannot be cleared, and some kinds of line neither
        self._out_of_step = False

    def _drain(self) -> None:
        # Only where there is no device clear: a device that is read with nothing to say notes an error (-420).
        resource = self._resource
        patience_ms, resource.timeout = resource.timeout, _DRAIN_S * 1e3
        try:
            for _ in range(_MOST_ANSWERS):
                if not self._visa(resource.read_raw):
                    return
        except (NoAnswer, WrongAnswer):
            return
        finally:
            resource.timeout = patience_ms
        raise WrongAnswer(f"{self.address} does not stop talking")

    def _visa(self, call: Callable[[], T]) -> T:
        """The call, with VISA's failures put into our four."""
        import pyvisa
        from pyvisa.constants import StatusCode
        from pyvisa.errors import InvalidSession, VisaIOError

        try:
            return call()
        except VisaIOError as error:
            code = error.error_code
            if code == StatusCode.error_timeout:
                raise NoAnswer(f"{self.address}: no answer in time") from error
            garbled = (
                StatusCode.error_serial_framing,
                StatusCode.error_serial_overrun,
                StatusCode.error_serial_parity,
                StatusCode.error_raw_read_protocol_violation,
                StatusCode.error_output_protocol_violation,
                StatusCode.error_nonsupported_operation,
            )
            if code in garbled:
                raise WrongAnswer(f"{self.address}: {error.description}") from error
            raise Gone(f"{self.address}: {error.description}") from error
        except InvalidSession as error:
            raise Gone(f"{self.address}: the session is closed") from error
        except (UnicodeDecodeError, ValueError) as error:
            raise WrongAnswer(f"{self.address}: {error}") from error
        except (OSError, pyvisa.Error) as error:
            raise Gone(f"{self.address}: {error}") from error


_TRUTHS = {"1": True, "on": True, "true": True, "0": False, "off": False, "false": False}


def _number(text: str) -> float:
    number = float(text)
    if math.isclose(number, NAN, rel_tol=1e-6):
        return math.nan
    if math.isclose(abs(number), INFINITY, rel_tol=1e-6):
        return math.copysign(math.inf, number)
    return number


def _worded(channel: ChannelTable, value: Value) -> tuple[Any, Value]:
    """What is put into `set`, and the value that it means."""
    if channel.type == "bool":
        word = "true" if value else "false"
        return channel.map.get(word, "1" if value else "0"), value
    if channel.map:
        # Numbers are found by value: 1.0 is the key "1".
        for ours, theirs in channel.map.items():
            if ours == value or (channel.type != "str" and float(ours) == value):
                return theirs, value
        raise InstrumentRefused(f"{value!r} is none of {', '.join(channel.map)}")
    if channel.type == "str":
        return value, value
    device = value / channel.scale
    if channel.type == "int":
        return round(device), value
    text = str(channel.set)
    if "{value}" in text:
        # The shortest text that reads back as the same number.
        return device, value
    before, after = text.split("{value", 1)
    after = after.split("}", 1)[1]
    formatted = text.format(value=device)
    shown = formatted[len(before) : len(formatted) - len(after) if after else None]
    try:
        rounded = float(shown) * channel.scale
    except ValueError:
        return device, value
    return device, value if rounded == value else rounded
