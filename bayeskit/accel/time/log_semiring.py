"""Arithmetic on logarithms that may be -inf: sums, products of matrices, choices."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.accel.time.associative import blocked_associative_scan, parallel_block

__all__ = ["inverse_cdf", "log_sum", "normalised", "products"]

# Below every logarithm of a positive float: subtracting it leaves -inf as it is.
_LEAST = -1e30


def inverse_cdf(log_masses: jax.Array, u: jax.Array) -> jax.Array:
    """Return the first state at which the distribution function exceeds u, a possible one."""
    masses = jnp.exp(log_masses - jnp.maximum(jnp.max(log_masses), _LEAST))
    cumulative = jnp.cumsum(masses)
    index = jnp.sum(cumulative <= u * cumulative[-1])
    # Where u times the total rounds up to the total: the last state that is possible.
    last = masses.shape[0] - 1 - jnp.argmax(masses[::-1] > 0)
    return jnp.minimum(index, last).astype(jnp.int32)


def log_sum(values: jax.Array, axis: int) -> jax.Array:
    """Return log-sum-exp; -inf, and a derivative of zero, where all values are -inf.

    NaN where a value is NaN or +inf.
    """
    top = lax.stop_gradient(jnp.maximum(jnp.max(values, axis=axis, keepdims=True), _LEAST))
    total = jnp.sum(jnp.exp(values - top), axis=axis)
    is_zero = total == 0
    log_total = jnp.log(jnp.where(is_zero, 1.0, total))
    return jnp.where(is_zero, -jnp.inf, log_total + jnp.squeeze(top, axis))


def normalised(law: jax.Array, add: Callable) -> tuple[jax.Array, jax.Array]:
    """Return a law less its scale, and the scale; a law of -inf stays as it is."""
    scale = add(law, 0)
    return law - jnp.where(scale == -jnp.inf, 0.0, scale), scale


def products(matrices: jax.Array, add: Callable, reverse: bool) -> jax.Array:
    """Return all products of matrices in the semiring of ``add`` and +, up to a scale."""

    def multiply(a, b):
        product = add(a[:, :, None] + b, 1)
        # Without a scale that grows, float32 keeps its digits at any length.
        return product - lax.stop_gradient(jnp.maximum(jnp.max(product), _LEAST))

    block = parallel_block(matrices.shape[0])
    return blocked_associative_scan(multiply, matrices, block, reverse=reverse)
