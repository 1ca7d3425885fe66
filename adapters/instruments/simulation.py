"""What the simulated instruments share: a world that they all look at, devices that outlive their drivers, and noise
that comes out the same again.

**World.** Instruments of one process with the same option `world` see the same sample: the stage and the piezo put
their position into it, the temperature controller its temperature, and the meters look at them. A device lives in its
world under its driver and address: fresh driver objects find it where it was left, as a real one would be. The power
goes off with the process.

**Noise.** `noise_by = "inputs"` (the default) derives each draw from the seed, the channel, the settings of the
instrument and what it looks at (positions and the settled temperature, rounded to 1e-9). The same point gives the same
value, in whatever order and after whatever restart; reading twice in one place also does. `noise_by = "count"` draws from
the seed, the channel and the number of the reading, kept in the channel `reads`: a program that goes on at point k
writes it first.
"""

import math
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from threading import Lock
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from adapters.instruments.line import Line
from domain.errors import Gone, InstrumentRefused
from domain.ports import Channel, Value

D = TypeVar("D")
Opt = TypeVar("Opt", bound="SimulatedOptions")

READS = Channel(
    kind="rw",
    type="int",
    limits=(0, 2**53),
    doc='Number of the next reading; the noise depends on it when noise_by = "count".',
    source="simulation",
)


class World:
    """The sample and the devices around it."""

    def __init__(self) -> None:
        self._quantities: dict[str, Callable[[], float]] = {}
        self._devices: dict[tuple[str, str], Any] = {}
        self._lock = Lock()

    def offer(self, quantity: str, source: Callable[[], float]) -> None:
        """From now on this is where the quantity comes from."""
        self._quantities[quantity] = source

    def look(self, quantity: str, default: float = 0.0) -> float:
        """The quantity now (x_mm, y_mm, z_um, temperature_k), or the default when no instrument offers it."""
        source = self._quantities.get(quantity)
        return default if source is None else source()

    def device(self, driver: str, address: str, make: Callable[[], D]) -> D:
        """The device of this driver at this address, made when it is met for the first time."""
        with self._lock:
            key = (driver, address)
            if key not in self._devices:
                self._devices[key] = make()
            return self._devices[key]


_worlds: dict[str, World] = {}
_worlds_lock = Lock()


def world(name: str) -> World:
    with _worlds_lock:
        return _worlds.setdefault(name, World())


def forget_world(name: str) -> None:
    """Switches everything in it off. For tests."""
    with _worlds_lock:
        _worlds.pop(name, None)


def _digest(seed: int, channel: str, inputs: Sequence[float]) -> bytes:
    # + 0.0 makes one of the two zeros.
    numbers = [round(float(number), 9) + 0.0 for number in inputs]
    packed = struct.pack(f"<q{len(numbers)}d", seed, *numbers)
    return blake2b(packed, key=channel.encode()[:64], digest_size=16).digest()


def noise(seed: int, channel: str, inputs: Sequence[float]) -> float:
    """A normally distributed number (mean 0, deviation 1): the same for the same arguments on every machine."""
    one, two = struct.unpack("<QQ", _digest(seed, channel, inputs))
    return math.sqrt(-2.0 * math.log((one + 1) / 2**64)) * math.cos(2.0 * math.pi * two / 2**64)


def noise_array(seed: int, channel: str, inputs: Sequence[float], size: int) -> NDArray[np.float64]:
    """As `noise`, an array of shape (size,). The same with the same version of numpy."""
    key = int.from_bytes(_digest(seed, channel, inputs), "little")
    return np.random.Generator(np.random.PCG64(key)).standard_normal(size)


class Spot(BaseModel):
    """A Gaussian spot on the sample."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    x_mm: float
    y_mm: float
    width_mm: float = Field(default=1.0, gt=0)
    """Standard deviation."""
    height: float = 1.0
    """Relative to the instrument's full signal."""


SPOTS = (
    Spot(x_mm=2.0, y_mm=3.0, width_mm=1.2, height=1.0),
    Spot(x_mm=6.5, y_mm=6.0, width_mm=0.8, height=0.7),
    Spot(x_mm=7.5, y_mm=1.5, width_mm=0.5, height=0.5),
    Spot(x_mm=-4.0, y_mm=-2.0, width_mm=1.5, height=0.8),
)


def brightness(spots: Sequence[Spot], x_mm: float, y_mm: float, z_um: float, focus_um: float, depth_um: float) -> float:
    """Sum of the spots at a place, weakened away from the focus as a Lorentzian of half width `depth_um`."""
    total = 0.0
    for spot in spots:
        distance2 = (x_mm - spot.x_mm) ** 2 + (y_mm - spot.y_mm) ** 2
        total += spot.height * math.exp(-distance2 / (2.0 * spot.width_mm**2))
    return total / (1.0 + ((z_um - focus_um) / depth_um) ** 2)


class SimulatedOptions(BaseModel):
    """Options of every simulated instrument."""

    model_config = ConfigDict(extra="forbid")
    seed: int = Field(default=1, ge=0, lt=2**63)
    delay_s: float = Field(default=0.0, ge=0)
    """Each call takes so long."""
    world: str = "lab"
    noise_by: Literal["inputs", "count"] = "inputs"


class Simulated(ABC, Generic[Opt]):
    """What every simulated driver does alike. A subclass fills `settings` (rw channels and their values, kept on the
    device), and says what its other channels read."""

    model: ClassVar[str]

    def __init__(self, address: str, options: Opt, line: Line | None) -> None:
        self.address = address
        self.options = options
        self.line = line or Line(address)
        self.world = world(options.world)
        self._is_open = False
        self._channels: Mapping[str, Channel] = self.channels()
        #: what the device keeps; shared by all driver objects of this device
        self.settings: dict[str, Value] = self.world.device(f"{self.model}.settings", address, self.initial)

    @abstractmethod
    def channels(self) -> Mapping[str, Channel]: ...

    @abstractmethod
    def initial(self) -> dict[str, Value]:
        """The settings after power-on."""

    @abstractmethod
    def measure(self, name: str) -> Value:
        """The value now of a channel that is not a setting."""

    def apply(self, name: str, value: Value) -> Value:
        """Does what a write asks for; answers the accepted value."""
        self.settings[name] = value
        return value

    def describe(self) -> Mapping[str, Channel]:
        return self._channels

    def open(self) -> None:
        self._is_open = True

    def identify(self) -> str:
        self.answer()
        return f"labledger,{self.model},{self.address},1.0"

    def read(self, names: Sequence[str]) -> dict[str, Value]:
        taken = time.time()
        self.answer()
        answer: dict[str, Value] = {}
        for name in names:
            answer[name] = self.settings[name] if name in self.settings else self.measure(name)
        if "reads" in self.settings and any(name not in self.settings for name in names):
            self.settings["reads"] += 1
        answer["time"] = taken
        return answer

    def write(self, name: str, value: Value) -> Value:
        self.answer()
        channel = self._channels[name]
        # As a real device would: the careful layer has looked before, but a driver may be used without it.
        if channel.limits and not channel.limits[0] <= value <= channel.limits[1]:
            raise InstrumentRefused(f"{self.model} {self.address}: {name} out of range")
        if channel.choices and channel.type == "str" and value not in channel.choices:
            raise InstrumentRefused(f"{self.model} {self.address}: {name} is none of {channel.choices}")
        return self.apply(name, value)

    def settled(self, name: str) -> bool:
        self.answer()
        return True

    def stop(self) -> None:
        self.answer()

    def safe(self) -> None:
        self.answer()

    def close(self) -> None:
        self._is_open = False

    def snapshot(self, names: Sequence[str]) -> dict[str, Value]:
        if not names:
            names = [
                name for name, channel in self._channels.items() if channel.kind != "w" and channel.type != "array"
            ]
        self.answer()
        return {name: self.settings[name] if name in self.settings else self.measure(name) for name in names}

    def answer(self) -> None:
        """Takes the time that the device takes."""
        if not self._is_open:
            raise Gone(f"{self.model} {self.address} is not open")
        self.wait(self.options.delay_s)

    def wait(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)
            self.line.check()

    def noise_inputs(self, *inputs: float) -> tuple[float, ...]:
        """What a draw of noise depends on: these inputs, or the number of the reading."""
        return inputs if self.options.noise_by == "inputs" else (float(self.settings["reads"]),)

    def place(self) -> tuple[float, float, float]:
        """x (mm), y (mm), z (um) of the sample."""
        look = self.world.look
        return look("x_mm"), look("y_mm"), look("z_um")
