"""A lock-in amplifier on a low-pass filter whose drive is the light of the sample.

The reference of `amplitude` and `frequency` drives an RC low-pass; `x` and `y` are the components of what comes out, `r` and
`theta` its magnitude and phase, turned back by `phase`. After a change of frequency or amplitude the output needs five time
constants; until then `settled` says no.
"""

import math
from collections.abc import Mapping
from time import monotonic
from typing import Any

from pydantic import Field

from adapters.instruments.line import Line
from adapters.instruments.simulation import READS, SPOTS, Simulated, SimulatedOptions, Spot, brightness, noise
from domain.ports import Channel, Value


class Options(SimulatedOptions):
    spots: tuple[Spot, ...] = SPOTS
    dark: float = Field(default=0.1, ge=0)
    """Part of the drive that comes through where no spot is."""
    cutoff_hz: float = Field(default=1000.0, gt=0)
    noise_v: float = Field(default=1e-6, ge=0)
    """Standard deviation of x and y at a time constant of 1 s."""
    time_constant_s: float = Field(default=0.003, ge=1e-5, le=100.0)
    """Time constant after power-on."""


class Changed:
    """When the input changed last."""

    def __init__(self) -> None:
        self.at = -math.inf


class Driver(Simulated[Options]):
    model = "simulated_lockin"

    def __init__(self, address: str, options: Mapping[str, Any], line: Line | None = None) -> None:
        super().__init__(address, Options.model_validate(options), line)
        self.changed = self.world.device(self.model, address, Changed)

    def channels(self) -> Mapping[str, Channel]:
        return {
            "x": Channel(kind="r", unit="V", doc="In-phase component (rms).", source="demodulator"),
            "y": Channel(kind="r", unit="V", doc="Quadrature component (rms).", source="demodulator"),
            "r": Channel(kind="r", unit="V", doc="Magnitude (rms).", source="demodulator"),
            "theta": Channel(kind="r", unit="deg", doc="Phase, -180 to 180.", source="demodulator"),
            "frequency": Channel(kind="rw", unit="Hz", limits=(0.001, 102000.0), doc="Reference.", source="oscillator"),
            "amplitude": Channel(kind="rw", unit="V", limits=(0.0, 5.0), doc="Drive (rms).", source="oscillator"),
            "phase": Channel(kind="rw", unit="deg", limits=(-180.0, 180.0), doc="Reference phase.", source="setting"),
            "time_constant": Channel(
                kind="rw", unit="s", limits=(1e-5, 100.0), doc="Low-pass filter.", source="setting"
            ),
            "reads": READS,
        }

    def initial(self) -> dict[str, Value]:
        return {
            "frequency": 137.0,
            "amplitude": 0.1,
            "phase": 0.0,
            "time_constant": self.options.time_constant_s,
            "reads": 0,
        }

    def measure(self, name: str) -> Value:
        x_v, y_v = self._components()
        match name:
            case "x":
                return x_v
            case "y":
                return y_v
            case "r":
                return math.hypot(x_v, y_v)
            case _:
                return math.degrees(math.atan2(y_v, x_v))

    def apply(self, name: str, value: Value) -> Value:
        if name != "reads":
            self.changed.at = monotonic()
        return super().apply(name, value)

    def settled(self, name: str) -> bool:
        self.answer()
        return monotonic() >= self.changed.at + 5.0 * self.settings["time_constant"]

    def safe(self) -> None:
        """The drive at zero."""
        self.answer()
        self.apply("amplitude", 0.0)

    def _components(self) -> tuple[float, float]:
        # All four outputs come from one x and one y, so that r = |x + iy| holds in every reading.
        options, settings = self.options, self.settings
        x_mm, y_mm, z_um = self.place()
        drive_v = settings["amplitude"] * (options.dark + brightness(options.spots, x_mm, y_mm, z_um, 0.0, 20.0))
        ratio = settings["frequency"] / options.cutoff_hz
        magnitude_v = drive_v / math.sqrt(1.0 + ratio**2)
        angle = -math.atan(ratio) - math.radians(settings["phase"])
        keys = ("frequency", "amplitude", "phase", "time_constant")
        inputs = self.noise_inputs(x_mm, y_mm, z_um, *(settings[key] for key in keys))
        noise_v = options.noise_v / math.sqrt(settings["time_constant"])
        return (
            magnitude_v * math.cos(angle) + noise_v * noise(options.seed, f"{self.address}.x", inputs),
            magnitude_v * math.sin(angle) + noise_v * noise(options.seed, f"{self.address}.y", inputs),
        )
