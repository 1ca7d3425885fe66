"""The leanest instrument there can be: a position to set, three values to read, no delay, no noise. For benchmarks.

`a`, `b` and `c` are computed when the position is written, so a reading costs a dictionary and a look at the clock.
"""

from collections.abc import Mapping, Sequence
from time import time
from typing import Any

from pydantic import BaseModel, ConfigDict

from adapters.instruments.line import Line
from domain.ports import Channel, Value


class Options(BaseModel):
    """None."""

    model_config = ConfigDict(extra="forbid")


_CHANNELS = {
    "position": Channel(
        kind="rw", unit="mm", limits=(-1e6, 1e6), doc="Where it stands; there at once.", source="a slot"
    ),
    "a": Channel(kind="r", unit="V", doc="The position.", source="position"),
    "b": Channel(kind="r", unit="V", doc="Twice the position.", source="position"),
    "c": Channel(kind="r", unit="V", doc="The square of the position.", source="position"),
}


class Driver:
    def __init__(self, address: str, options: Mapping[str, Any], line: Line | None = None) -> None:
        Options.model_validate(options)
        self._address = address
        self._values: dict[str, float] = {"position": 0.0, "a": 0.0, "b": 0.0, "c": 0.0}

    def describe(self) -> Mapping[str, Channel]:
        return _CHANNELS

    def open(self) -> None:
        return None

    def identify(self) -> str:
        return f"labledger,trivial,{self._address},1.0"

    def read(self, names: Sequence[str]) -> dict[str, Value]:
        values = self._values
        answer = {name: values[name] for name in names}
        answer["time"] = time()
        return answer

    def write(self, name: str, value: Value) -> Value:
        values = self._values
        values["position"] = values["a"] = value
        values["b"] = value + value
        values["c"] = value * value
        return value

    def settled(self, name: str) -> bool:
        return True

    def stop(self) -> None:
        return None

    def safe(self) -> None:
        return None

    def close(self) -> None:
        return None

    def snapshot(self, names: Sequence[str]) -> dict[str, Value]:
        return {name: self._values[name] for name in names or self._values}
