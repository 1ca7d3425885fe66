"""A multimeter that looks at the sample: a few Gaussian spots over x and y, in focus at one height.

`voltage` is the light on a photodiode behind a transimpedance amplifier: offset + full signal x brightness of the place,
bleached by 0.2 % per kelvin above 295 K, with white noise that falls with the root of the integration time. `current` is
the same through the amplifier's resistor.
"""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from adapters.instruments.line import Line
from adapters.instruments.simulation import READS, SPOTS, Simulated, SimulatedOptions, Spot, brightness, noise
from domain.ports import Channel, Value

LINE_PERIOD_S = 0.02


class Options(SimulatedOptions):
    spots: tuple[Spot, ...] = SPOTS
    offset_v: float = 0.01
    full_v: float = 1.0
    noise_v: float = Field(default=0.002, ge=0)
    """Standard deviation at an integration of 1 PLC."""
    focus_um: float = 0.0
    depth_um: float = Field(default=20.0, gt=0)
    resistor_ohm: float = Field(default=1e6, gt=0)
    integrate: bool = False
    """Whether a reading takes its integration time (0.02 s per PLC)."""


class Driver(Simulated[Options]):
    model = "simulated_multimeter"

    def __init__(self, address: str, options: Mapping[str, Any], line: Line | None = None) -> None:
        super().__init__(address, Options.model_validate(options), line)

    def channels(self) -> Mapping[str, Channel]:
        ranges = ("0.1", "1", "10", "100")
        return {
            "voltage": Channel(kind="r", unit="V", doc="Photodiode signal.", source="front inputs"),
            "current": Channel(kind="r", unit="A", doc="Photodiode current.", source="front inputs"),
            "range": Channel(kind="rw", unit="V", choices=ranges, doc="Full scale; clips at 1.2 x.", source="setting"),
            "integration": Channel(
                kind="rw", unit="PLC", limits=(0.01, 100.0), doc="Integration in line periods.", source="setting"
            ),
            "reads": READS,
        }

    def initial(self) -> dict[str, Value]:
        return {"range": 10.0, "integration": 1.0, "reads": 0}

    def measure(self, name: str) -> Value:
        options = self.options
        integration: float = self.settings["integration"]
        if options.integrate:
            self.wait(integration * LINE_PERIOD_S)
        x_mm, y_mm, z_um = self.place()
        temperature_k = self.world.look("temperature_k", 295.0)
        light = brightness(options.spots, x_mm, y_mm, z_um, options.focus_um, options.depth_um)
        signal_v = options.offset_v + options.full_v * light * math.exp(-0.002 * max(temperature_k - 295.0, 0.0))
        inputs = self.noise_inputs(x_mm, y_mm, z_um, temperature_k, integration)
        noise_v = options.noise_v / math.sqrt(integration)
        signal_v += noise_v * noise(options.seed, f"{self.address}.{name}", inputs)
        top_v = 1.2 * self.settings["range"]
        signal_v = min(max(signal_v, -top_v), top_v)
        return signal_v if name == "voltage" else signal_v / options.resistor_ohm
