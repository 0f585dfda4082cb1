r"""Weights in [0, 1] from float32 log-weights, with the same bits on every platform.

The exponential functions of compilers, devices and libraries differ in their last bit, which is
enough to change an ancestor. This one uses integers, after one subtraction and one product that
every platform rounds alike, so that it can be repeated bit for bit in any language:

.. math:: w = e^{l - m} = 2^{-(k + f)}, \qquad k + f = (m - l) \log_2 e

1. In float64, ``t = min((m - l) * SCALE, 900 * 2**32)``, where ``SCALE`` is the float64 nearest
   to ``2**32 * log2(e)``; as an integer, towards zero. ``k = t >> 32``, and ``f``, the lower 32
   bits.
2. A polynomial of degree 7 in f by Horner's rule, in 64 bits without a sign: beginning with
   ``a = COEFFICIENTS[-1]``, ``a = c - (a * f >> s)``, where ``c`` and ``s`` go from the end
   through the coefficients before it and the shifts. All are below 2**32. Then
   ``significand = 2**35 - (f << 2) - (a * f >> 31)``.
3. The weight is ``significand * 2**-(35 + k)``, exactly in float64, with a relative error below
   2**-31: a hundredth of what the rounding of a float32 log-weight makes of it.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["COEFFICIENTS", "LARGEST_EXPONENT", "SCALE", "SHIFTS", "relative_weights"]

SCALE = math.log2(math.e) * 2.0**32
LARGEST_EXPONENT = 900  # beyond it a weight counts as zero for any number of particles
# Absolute values of the coefficients of the minimax polynomial, whose signs alternate, as
# multiples of 2**-34, 2**-34, 2**-36, ...: as many bits as 32 allow. One half of the first is
# taken away, which step 2 puts back.
COEFFICIENTS = (
    3318243239,
    4127058598,
    3814167912,
    2643086956,
    2919560681,
    2588758230,
    3036498349,
)
SHIFTS = (32, 34, 34, 35, 35, 36)


def relative_weights(log_weights: jax.Array, maximum: jax.Array, ok: jax.Array) -> jax.Array:
    """Return exp(log_weights - maximum) in float64, 1 where ``ok`` is False.

    For float32 log-weights as above; for float64 by the platform's exponential function, whose
    last bit may differ between platforms. To be called in a 64-bit scope.

    Parameters
    ----------
    log_weights : (..., num_particles) array, at most ``maximum``
    maximum, ok : (..., 1) arrays
    """
    below = maximum.astype(jnp.float64) - log_weights.astype(jnp.float64)
    if log_weights.dtype != jnp.float32:
        return jnp.where(ok, jnp.exp(-below), 1.0)
    steps = jnp.minimum(below * SCALE, LARGEST_EXPONENT * 2.0**32)
    steps = jnp.where(ok, steps, 0.0).astype(jnp.int64)
    significand = _significand((steps & 0xFFFFFFFF).astype(jnp.uint32))
    # A power of two, put together from its bits: nothing is rounded.
    power = lax.bitcast_convert_type((1023 - 35 - (steps >> 32)) << 52, jnp.float64)
    return significand.astype(jnp.float64) * power


def _significand(fraction: jax.Array) -> jax.Array:
    """Return 2**(35 - f), a 64-bit integer, for f given in units of 2**-32."""
    f = fraction.astype(jnp.uint64)

    def times_fraction(value: jax.Array, shift: int) -> jax.Array:
        # 32-bit factors: compilers then know the quick multiplication to be enough.
        return value.astype(jnp.uint64) * f >> jnp.uint64(shift)

    value = jnp.full_like(fraction, COEFFICIENTS[-1])
    for coefficient, shift in zip(COEFFICIENTS[-2::-1], SHIFTS[::-1], strict=True):
        value = jnp.uint32(coefficient) - times_fraction(value, shift).astype(jnp.uint32)
    return jnp.uint64(2**35) - (f << jnp.uint64(2)) - times_fraction(value, 31)
