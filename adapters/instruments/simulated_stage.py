"""A two-axis stage that takes its time. It offers x_mm and y_mm to its world.

Writing `x` or `y` starts the move and answers the target at once; reading them tells where the stage is. Both axes move at
`speed`, independently. At its target an axis stands exactly there. `stop` and `safe` halt it where it is.
"""

from collections.abc import Mapping
from time import monotonic
from typing import Any

from pydantic import Field

from adapters.instruments.line import Line
from adapters.instruments.simulation import Simulated, SimulatedOptions
from domain.ports import Channel, Value


class Options(SimulatedOptions):
    speed_mm_s: float = Field(default=20.0, gt=0, le=1e6)
    """Speed after power-on."""
    limits_mm: tuple[float, float] = (-50.0, 50.0)


class Axis:
    """One axis: where it started, where it goes, since when."""

    def __init__(self) -> None:
        self.start = 0.0
        self.target = 0.0
        self.began = 0.0
        self.speed = 1.0

    def position(self) -> float:
        way = self.target - self.start
        done = (monotonic() - self.began) * self.speed
        if done >= abs(way):
            return self.target
        return self.start + (done if way > 0 else -done)

    def go(self, target: float, speed: float) -> None:
        self.start = self.position()
        self.target, self.speed, self.began = target, speed, monotonic()


class Stage:
    def __init__(self) -> None:
        self.axes = {"x": Axis(), "y": Axis()}


class Driver(Simulated[Options]):
    model = "simulated_stage"

    def __init__(self, address: str, options: Mapping[str, Any], line: Line | None = None) -> None:
        super().__init__(address, Options.model_validate(options), line)
        self.stage = self.world.device(self.model, address, Stage)
        for name, axis in self.stage.axes.items():
            self.world.offer(f"{name}_mm", axis.position)

    def channels(self) -> Mapping[str, Channel]:
        limits = self.options.limits_mm
        return {
            "x": Channel(kind="rw", unit="mm", limits=limits, doc="Position along x.", source="axis x"),
            "y": Channel(kind="rw", unit="mm", limits=limits, doc="Position along y.", source="axis y"),
            "speed": Channel(kind="rw", unit="mm/s", limits=(1e-3, 1e6), doc="Speed of both axes.", source="motor"),
        }

    def initial(self) -> dict[str, Value]:
        return {"speed": self.options.speed_mm_s}

    def measure(self, name: str) -> Value:
        return self.stage.axes[name].position()

    def apply(self, name: str, value: Value) -> Value:
        if name == "speed":
            return super().apply(name, value)
        self.stage.axes[name].go(value, self.settings["speed"])
        return value

    def readback(self, name: str) -> Value:
        """The target: what the axis was last told, while `read` tells where it is."""
        self.answer()
        return self.settings["speed"] if name == "speed" else self.stage.axes[name].target

    def settled(self, name: str) -> bool:
        self.answer()
        axis = self.stage.axes.get(name)
        return axis is None or axis.position() == axis.target

    def stop(self) -> None:
        self.answer()
        for axis in self.stage.axes.values():
            axis.go(axis.position(), axis.speed)

    def safe(self) -> None:
        self.stop()
