"""A temperature controller with a ramp. It offers temperature_k to its world.

The temperature follows the set point at `ramp` while the heater is on; with the heater off it drifts to the room's at the
same rate. Settled means: within `band_k` of the set point for `hold_s`. Safe is the heater off.
"""

from collections.abc import Mapping
from time import monotonic
from typing import Any

from pydantic import Field

from adapters.instruments.line import Line
from adapters.instruments.simulation import READS, Simulated, SimulatedOptions, noise
from domain.ports import Channel, Value


class Options(SimulatedOptions):
    room_k: float = Field(default=295.0, gt=0)
    ramp_k_min: float = Field(default=600.0, gt=0, le=1e6)
    """Ramp after power-on."""
    band_k: float = Field(default=0.05, gt=0)
    hold_s: float = Field(default=0.0, ge=0)
    noise_k: float = Field(default=0.002, ge=0)
    limits_k: tuple[float, float] = (4.0, 500.0)


class Oven:
    """The thing that is heated: where it started, where it goes, since when."""

    def __init__(self, room_k: float) -> None:
        self.start = self.target = room_k
        self.began = 0.0
        self.rate_k_s = 1.0

    def temperature(self) -> float:
        way = self.target - self.start
        done = (monotonic() - self.began) * self.rate_k_s
        if done >= abs(way):
            return self.target
        return self.start + (done if way > 0 else -done)

    def go(self, target: float, rate_k_s: float) -> None:
        self.start = self.temperature()
        self.target, self.rate_k_s, self.began = target, rate_k_s, monotonic()

    def within_since(self, band_k: float) -> float:
        """Monotonic time at which it came, or will come, within the band around its target."""
        return self.began + max(abs(self.target - self.start) - band_k, 0.0) / self.rate_k_s


class Driver(Simulated[Options]):
    model = "simulated_temperature"

    def __init__(self, address: str, options: Mapping[str, Any], line: Line | None = None) -> None:
        super().__init__(address, Options.model_validate(options), line)
        room_k = self.options.room_k
        self.oven = self.world.device(self.model, address, lambda: Oven(room_k))
        self.world.offer("temperature_k", self.oven.temperature)

    def channels(self) -> Mapping[str, Channel]:
        limits = self.options.limits_k
        return {
            "setpoint": Channel(kind="rw", unit="K", limits=limits, doc="Where to go.", source="controller"),
            "temperature": Channel(kind="r", unit="K", doc="Temperature of the sample.", source="sensor A"),
            "ramp": Channel(kind="rw", unit="K/min", limits=(1e-3, 1e6), doc="How fast.", source="controller"),
            "heater": Channel(kind="rw", type="bool", doc="Heater on.", source="controller"),
            "reads": READS,
        }

    def initial(self) -> dict[str, Value]:
        return {"setpoint": self.options.room_k, "ramp": self.options.ramp_k_min, "heater": False, "reads": 0}

    def measure(self, name: str) -> Value:
        temperature_k = self.oven.temperature()
        draw = noise(self.options.seed, f"{self.address}.{name}", self.noise_inputs(temperature_k))
        return temperature_k + self.options.noise_k * draw

    def apply(self, name: str, value: Value) -> Value:
        self.settings[name] = value
        if name == "setpoint":
            self.settings["heater"] = True
        if name != "reads":
            self._go()
        return value

    def settled(self, name: str) -> bool:
        self.answer()
        if name != "setpoint":
            return True
        at_target = self.oven.target == self.settings["setpoint"]
        return at_target and monotonic() >= self.oven.within_since(self.options.band_k) + self.options.hold_s

    def stop(self) -> None:
        self.answer()
        self.settings["setpoint"] = self.oven.temperature()
        self._go()

    def safe(self) -> None:
        self.answer()
        self.settings["heater"] = False
        self._go()

    def _go(self) -> None:
        target = self.settings["setpoint"] if self.settings["heater"] else self.options.room_k
        self.oven.go(target, self.settings["ramp"] / 60.0)
