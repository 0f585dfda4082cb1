"""The integer exponential function of :mod:`bayeskit.accel.exponential`, step for step."""

from __future__ import annotations

import triton
import triton.language as tl

from bayeskit.accel.exponential import COEFFICIENTS, LARGEST_EXPONENT, SCALE, SHIFTS

__all__ = ["relative_weights"]

_SCALE = tl.constexpr(SCALE)
_LARGEST = tl.constexpr(LARGEST_EXPONENT * 2.0**32)
_C0, _C1, _C2, _C3, _C4, _C5, _C6 = (tl.constexpr(c) for c in COEFFICIENTS)
_S0, _S1, _S2, _S3, _S4, _S5 = (tl.constexpr(s) for s in SHIFTS)


@triton.jit
def relative_weights(log_weights, maximum):
    """Return exp(log_weights - maximum) in float64; 1 where the maximum is not finite."""
    usable = (maximum == maximum) & (maximum < float("inf")) & (maximum > -float("inf"))
    below = maximum.to(tl.float64) - log_weights.to(tl.float64)
    # A Python number would be taken as float32.
    steps = below * tl.full((), _SCALE, tl.float64)
    steps = tl.where(steps < _LARGEST, steps, _LARGEST)
    steps = tl.where(usable, steps, 0.0).to(tl.int64)
    f = (steps & 0xFFFFFFFF).to(tl.uint64)
    value = _C5 - (f * _C6 >> _S5)
    value = _C4 - (f * value >> _S4)
    value = _C3 - (f * value >> _S3)
    value = _C2 - (f * value >> _S2)
    value = _C1 - (f * value >> _S1)
    value = _C0 - (f * value >> _S0)
    significand = (1 << 35) - (f << 2) - (f * value >> 31)
    power = (1023 - 35 - (steps >> 32)) << 52
    return significand.to(tl.int64).to(tl.float64) * power.to(tl.float64, bitcast=True)
