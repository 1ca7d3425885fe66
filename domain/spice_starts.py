"""Where a fit begins: first numbers, read off the measured curves."""

import math
from itertools import pairwise

import numpy as np

from domain.errors import OutOfLimits
from domain.spice_curves import Measured, gate_span
from domain.spice_forms import Facts


def facts_of(measured: Measured) -> Facts:
    """First numbers for starting values; raises OutOfLimits without output and transfer curves."""
    span = gate_span(measured)
    if span is None:
        raise OutOfLimits("there is neither an output nor a transfer curve; a channel cannot be fitted")
    output, transfer = measured.of("output"), measured.of("transfer")
    i_top = max(c.top for c in (*output, *transfer))
    v_top = max([float(c.x[-1]) for c in output] + [c.at for c in transfer])
    g_on = i_top / max(v_top, 1e-3)
    for c in output:
        near = (c.x > 0) & (c.y > 0.03 * c.top) & (c.y < 0.45 * c.top)
        if not near.any():
            near = c.x > 0
        if near.any():
            g_on = max(g_on, float(np.median(c.y[near] / c.x[near])))
    pairs: list[tuple[float, float]] = []
    if len(output) >= 2:
        v = 0.8 * min(float(c.x[-1]) for c in output)
        pairs = [(c.at, float(np.interp(v, c.x, c.y))) for c in sorted(output, key=lambda c: c.at)]
    for c in transfer:
        pairs += [
            (float(a), float(b))
            for a, b in zip(c.x[:: max(1, len(c.x) // 12)], c.y[:: max(1, len(c.x) // 12)], strict=True)
        ]
    vt = span[0] - 0.2 * max(span[1] - span[0], 1.0)
    # sqrt(I) is a straight line over VGS near the threshold; the weakest pair with current tells where it ends.
    weak = sorted((g, math.sqrt(i)) for g, i in pairs if i > 0.002 * i_top)
    for (g0, s0), (g1, s1) in pairwise(weak):
        if g1 > g0 and s1 > s0 * 1.05:
            vt = max(g0 - s0 * (g1 - g0) / (s1 - s0), span[0] - 6.0)
            break
    return Facts(span[0], span[1], i_top, v_top, g_on, float(np.clip(vt, -14.0, 19.0)))
