"""Devices that were never made (CC0): curves from a formula that is none of the fitted forms, solved point by point."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def drain_current(
    vgs: float, vds: Floats, vt: float = 3.5, k: float = 0.9, r: float = 0.05, v_sat: float = 9.0
) -> Floats:
    """Alpha-power law with a soft threshold, velocity saturation and a drift resistance that grows with current: by bisection."""
    over = 0.9 * np.log1p(np.exp((vgs - vt) / 0.9))

    def channel(v: Floats) -> Floats:
        sat = over * v_sat / (over + v_sat)
        return k * over**1.15 * sat * np.tanh(v / sat) * (1 + 0.004 * v)

    low, high = np.zeros(len(vds)), vds.copy()
    for _ in range(60):
        inner = 0.5 * (low + high)
        i = channel(inner)
        above = inner + i * r * (1 + i / 200) > vds
        low, high = np.where(above, low, inner), np.where(above, inner, high)
    return channel(0.5 * (low + high))


def device(
    gates: Sequence[float] = (5, 7, 9, 11, 13, 15), points: int = 40, noise: float = 0.0, slips: int = 0, seed: int = 1
) -> dict[str, Any]:
    """Measured curves in the form that `labledger spice fit` takes. `noise` is a share of each curve's maximum; `slips` points jump by
    a quarter of it, as a digitiser does where curves cross."""
    rng = np.random.default_rng(seed)
    output: list[dict[str, Any]] = []
    for gate in gates:
        vds = np.linspace(0, 12, points)
        i = drain_current(gate, vds)
        i = i + noise * i.max() * rng.standard_normal(points)
        output.append({"vgs": gate, "vds": vds.tolist(), "id": i.tolist()})
    for n in range(slips):
        row = output[n % len(output)]
        at = int(rng.integers(3, points))
        row["id"][at] += 0.25 * max(row["id"])
    gates_axis = np.linspace(0, 12, 40)
    transfer = [float(drain_current(float(g), np.array([10.0]))[0]) for g in gates_axis]
    v = np.linspace(0, 5, 30)
    v_drain = np.geomspace(0.5, 600, 40) - 0.5
    crss = 3e-10 / (1 + v_drain / 6) ** 1.4 + 3e-12
    return {
        "name": "SYNTH-01",
        "type": "SiC-MOSFET",
        "tj": 25,
        "output": output,
        "transfer": [{"vds": 10, "vgs": gates_axis.tolist(), "id": transfer}],
        "diode": [{"v": v.tolist(), "i": (8 * (0.4 * np.log1p(np.exp((v - 2.3) / 0.4))) ** 1.3).tolist()}],
        "capacitance": {
            "f": 1e6,
            "c_rss": {"v": v_drain.tolist(), "c": crss.tolist()},
            "c_oss": {"v": v_drain.tolist(), "c": (crss + 9e-10 / (1 + v_drain / 4) ** 0.55).tolist()},
            "c_iss": {"v": v_drain.tolist(), "c": (crss + 1e-9).tolist()},
        },
    }
