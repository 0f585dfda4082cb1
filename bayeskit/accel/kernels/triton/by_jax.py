"""The kernels as functions of JAX arrays, with the signatures of the XLA programs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from bayeskit.accel.kernels.triton import cdf, search
from bayeskit.accel.kernels.triton.launching import with_jax

__all__ = ["offspring_to_ancestors", "scaled_cdf"]


def scaled_cdf(
    log_weights: jax.Array, num: int, bits: tuple[int, int, int]
) -> tuple[jax.Array, jax.Array]:
    """Return the scaled cumulative weights (..., num_particles) and whether rows are usable."""

    def of_rows(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        scaled, maximum = cdf.scaled_cdf(with_jax, rows, num, bits)
        return scaled, jnp.isfinite(maximum)

    return _over_leading_axes(of_rows)(log_weights)


def offspring_to_ancestors(cumulative: jax.Array, num: int) -> jax.Array:
    """Return the ancestors (..., num) of (..., num_particles) int32 cumulative offspring."""
    of_rows = functools.partial(search.offspring_to_ancestors, with_jax, num=num)
    return _over_leading_axes(of_rows)(cumulative)


def _over_leading_axes(of_rows: Callable) -> Callable:
    """Lay all leading axes, and those of ``vmap``, along the axis of rows."""

    @custom_vmap
    def call(array: jax.Array) -> Any:
        leading = array.shape[:-1]
        # The rule of vmap is called when the caller's scope has ended.
        with jax.enable_x64(True):
            results = of_rows(array.reshape(-1, array.shape[-1]))
        return jax.tree.map(lambda r: r.reshape(leading + r.shape[1:]), results)

    @call.def_vmap
    def rule(axis_size, in_batched, array):
        # Called only where the argument is mapped.
        results = call(array)
        return results, jax.tree.map(lambda _: True, results)

    return call
