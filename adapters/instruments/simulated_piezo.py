"""A piezo that moves the sample in height. It offers z_um to its world.

`z` closes in on its target exponentially and counts as settled, and stands exactly there, after ten time constants.
Safe is the lower end, where the drive voltage is zero.
"""

import math
from collections.abc import Mapping
from time import monotonic
from typing import Any

from pydantic import Field

from adapters.instruments.line import Line
from adapters.instruments.simulation import Simulated, SimulatedOptions
from domain.ports import Channel, Value


class Options(SimulatedOptions):
    range_um: float = Field(default=100.0, gt=0)
    time_constant_s: float = Field(default=0.0005, ge=0)
    full_voltage_v: float = Field(default=150.0, gt=0)
    """Drive voltage at the upper end."""


class Piezo:
    """The ceramic: where it started, where it goes, since when."""

    def __init__(self, time_constant_s: float) -> None:
        self.time_constant_s = time_constant_s
        self.start = self.target = self.began = 0.0

    def at_rest(self) -> bool:
        return monotonic() - self.began >= 10.0 * self.time_constant_s

    def position(self) -> float:
        if self.at_rest():
            return self.target
        left = math.exp(-(monotonic() - self.began) / self.time_constant_s)
        return self.target + (self.start - self.target) * left

    def go(self, target: float) -> None:
        self.start = self.position()
        self.target, self.began = target, monotonic()


class Driver(Simulated[Options]):
    model = "simulated_piezo"

    def __init__(self, address: str, options: Mapping[str, Any], line: Line | None = None) -> None:
        super().__init__(address, Options.model_validate(options), line)
        time_constant_s = self.options.time_constant_s
        self.piezo = self.world.device(self.model, address, lambda: Piezo(time_constant_s))
        self.world.offer("z_um", self.piezo.position)

    def channels(self) -> Mapping[str, Channel]:
        limits = (0.0, self.options.range_um)
        return {
            "z": Channel(kind="rw", unit="um", limits=limits, doc="Height of the sample.", source="strain gauge"),
            "voltage": Channel(kind="r", unit="V", doc="Drive voltage.", source="amplifier"),
        }

    def initial(self) -> dict[str, Value]:
        return {}

    def measure(self, name: str) -> Value:
        z_um = self.piezo.position()
        return z_um if name == "z" else self.options.full_voltage_v * z_um / self.options.range_um

    def apply(self, name: str, value: Value) -> Value:
        self.piezo.go(value)
        return value

    def readback(self, name: str) -> Value:
        """The target, while `read` tells where the piezo is."""
        self.answer()
        return self.piezo.target

    def settled(self, name: str) -> bool:
        self.answer()
        return self.piezo.at_rest()

    def stop(self) -> None:
        self.answer()
        self.piezo.go(self.piezo.position())

    def safe(self) -> None:
        self.answer()
        self.piezo.go(0.0)
