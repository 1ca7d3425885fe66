"""A spectrometer: an array of counts over an array of wavelengths.

The sample emits two Lorentzian lines whose strength follows the brightness of the place and whose centre drifts red by
0.05 nm/K above 295 K, over a dark background. Counts have shot noise, and clip at 65535 as a 16 bit converter does. With the
shutter closed (after power-on, and safe) there is only the background.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from adapters.instruments.line import Line
from adapters.instruments.simulation import READS, SPOTS, Simulated, SimulatedOptions, Spot, brightness, noise_array
from domain.ports import Channel, Value


class Options(SimulatedOptions):
    spots: tuple[Spot, ...] = SPOTS
    pixels: int = Field(default=256, ge=2, le=65536)
    start_nm: float = 500.0
    stop_nm: float = 700.0
    lines_nm: tuple[float, ...] = (560.0, 632.0)
    width_nm: float = Field(default=4.0, gt=0)
    """Half width at half maximum."""
    counts_s: float = Field(default=2e5, ge=0)
    """Peak counts per second of exposure in the middle of a spot of height 1."""
    dark_counts: float = Field(default=100.0, ge=0)
    expose: bool = False
    """Whether a spectrum takes its exposure time."""


class Driver(Simulated[Options]):
    model = "simulated_spectrometer"

    def __init__(self, address: str, options: Mapping[str, Any], line: Line | None = None) -> None:
        super().__init__(address, Options.model_validate(options), line)
        self.axis = np.linspace(self.options.start_nm, self.options.stop_nm, self.options.pixels)
        self.axis.flags.writeable = False

    def channels(self) -> Mapping[str, Channel]:
        shape = (self.options.pixels,)
        return {
            "spectrum": Channel(
                kind="r", type="array", shape=shape, unit="counts", doc="Counts over `wavelength`.", source="CCD"
            ),
            "wavelength": Channel(
                kind="r", type="array", shape=shape, unit="nm", doc="The axis of `spectrum`.", source="calibration"
            ),
            "total": Channel(kind="r", unit="counts", doc="Sum of a spectrum of its own.", source="CCD"),
            "exposure": Channel(kind="rw", unit="s", limits=(1e-4, 60.0), doc="Exposure time.", source="setting"),
            "shutter": Channel(kind="rw", type="str", choices=("open", "closed"), doc="Shutter.", source="shutter"),
            "reads": READS,
        }

    def initial(self) -> dict[str, Value]:
        return {"exposure": 0.1, "shutter": "closed", "reads": 0}

    def measure(self, name: str) -> Value:
        if name == "wavelength":
            return self.axis
        spectrum = self._spectrum()
        return spectrum if name == "spectrum" else float(spectrum.sum())

    def safe(self) -> None:
        self.answer()
        self.apply("shutter", "closed")

    def _spectrum(self) -> Any:
        options = self.options
        exposure_s: float = self.settings["exposure"]
        if options.expose:
            self.wait(exposure_s)
        x_mm, y_mm, z_um = self.place()
        temperature_k = self.world.look("temperature_k", 295.0)
        is_open = self.settings["shutter"] == "open"
        counts = np.full(options.pixels, options.dark_counts)
        if is_open:
            peak = options.counts_s * exposure_s * brightness(options.spots, x_mm, y_mm, z_um, 0.0, 20.0)
            for line_nm in options.lines_nm:
                centre_nm = line_nm + 0.05 * (temperature_k - 295.0)
                counts += peak / (1.0 + ((self.axis - centre_nm) / options.width_nm) ** 2)
        inputs = self.noise_inputs(x_mm, y_mm, z_um, temperature_k, exposure_s, float(is_open))
        counts += np.sqrt(counts) * noise_array(options.seed, f"{self.address}.spectrum", inputs, options.pixels)
        return np.clip(np.round(counts), 0.0, 65535.0)
