"""Instruments for the bench: they do nothing, or nothing for a stated time. Both sides measure the same ones."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from domain.ports import Channel, Instrument, Value

T = TypeVar("T")

CHANNELS = tuple(f"ch{k}" for k in range(4))


class Axis:
    """A movement that arrives at once."""

    def __init__(self) -> None:
        self.at = 0.0

    def describe(self) -> Mapping[str, Channel]:
        return {"at": Channel(kind="rw", unit="m")}

    def open(self) -> None: ...

    def identify(self) -> str:
        return "bench axis"

    def read(self, names: Sequence[str]) -> dict[str, Value]:
        return {**dict.fromkeys(names, self.at), "time": time.time()}

    def write(self, name: str, value: Value) -> Value:
        self.at = value
        return value

    def settled(self, name: str) -> bool:
        return True

    def stop(self) -> None: ...

    def safe(self) -> None: ...

    def close(self) -> None: ...

    def snapshot(self, names: Sequence[str]) -> dict[str, Value]:
        return dict.fromkeys(names, self.at)


class Meter:
    """A measurement of four channels. A reading takes `delay_s`: the thread sleeps, as it does on a real bus."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s

    def describe(self) -> Mapping[str, Channel]:
        return {name: Channel(kind="r", unit="V") for name in CHANNELS}

    def open(self) -> None: ...

    def identify(self) -> str:
        return "bench meter"

    def read(self, names: Sequence[str]) -> dict[str, Value]:
        if self.delay_s:
            time.sleep(self.delay_s)
        return {**{name: k * 0.123 for k, name in enumerate(names)}, "time": time.time()}

    def write(self, name: str, value: Value) -> Value:
        return value

    def settled(self, name: str) -> bool:
        return True

    def stop(self) -> None: ...

    def safe(self) -> None: ...

    def close(self) -> None: ...

    def snapshot(self, names: Sequence[str]) -> dict[str, Value]:
        return {}


class OneThread:
    """A rack of these instruments without any layer around them: one thread, as if they shared one connection."""

    def __init__(self, instruments: Mapping[str, Instrument]) -> None:
        self._instruments = dict(instruments)
        self._pool = ThreadPoolExecutor(1)
        self.guard: Callable[[], None] = lambda: None

    def names(self) -> list[str]:
        return list(self._instruments)

    def describe(self, name: str) -> Mapping[str, Channel]:
        return self._instruments[name].describe()

    def run(self, names: Sequence[str], program: Callable[[Mapping[str, Instrument]], T]) -> "Future[T]":
        return self._pool.submit(program, {name: self._instruments[name] for name in names})

    def busy_s(self, name: str) -> float:
        return 0.0

    def overdue_s(self, name: str) -> float:
        return 0.0

    def abandon(self, name: str) -> None: ...

    def close(self) -> None:
        self._pool.shutdown()


def trivial_loop_s(points: int, delay_s: float) -> float:
    """Seconds that a `for` loop with nothing in it but the instruments takes over so many points."""
    axis, meter = Axis(), Meter(delay_s)
    started = time.perf_counter()
    for k in range(points):
        axis.write("at", k * 1e-3)
        meter.read(CHANNELS)
    return time.perf_counter() - started
