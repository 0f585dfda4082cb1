"""The kernels as functions that can be traced, with the signatures of the XLA programs.

Each is to be called in a 64-bit scope, lowers for CPUs only, and maps leading axes inside.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.accel.kernels.cpu.library import target

__all__ = ["ancestors_at_levels", "cdf_of_weights", "offspring_to_ancestors", "scaled_cdf"]


def _call(name: str, results: Any, *arguments: jax.Array, **attributes: float) -> Any:
    kernel = jax.ffi.ffi_call(target(name), results, vmap_method="broadcast_all")
    return kernel(*arguments, **attributes)


def _scaling(num: int, bits: tuple[int, int, int]) -> dict[str, float]:
    total_bits, unit_bits, grid_bits = bits
    return {
        "total_unit": 2.0**total_bits,
        "unit": 2.0**unit_bits,
        "grid": 2.0**grid_bits,
        "num": float(num),
    }


def scaled_cdf(
    log_weights: jax.Array, num: int, bits: tuple[int, int, int]
) -> tuple[jax.Array, jax.Array]:
    """Return the scaled cumulative weights of (..., num_particles) float32 log-weights.

    And (...) whether they are usable. ``bits`` are those of the total, the units and the grid.
    """
    shape = log_weights.shape
    results = jax.ShapeDtypeStruct(shape, jnp.float64), jax.ShapeDtypeStruct(shape[:-1], bool)
    return _call("scaled_cdf", results, log_weights, **_scaling(num, bits))


def cdf_of_weights(weights: jax.Array, num: int, bits: tuple[int, int, int]) -> jax.Array:
    """Return the same for (..., num_particles) float64 weights in [0, 1]."""
    result = jax.ShapeDtypeStruct(weights.shape, jnp.float64)
    return _call("cdf_of_weights", result, weights, **_scaling(num, bits))


def offspring_to_ancestors(cumulative: jax.Array, num: int) -> jax.Array:
    """Return the ancestors (..., num) of int32 cumulative numbers of offspring."""
    result = jax.ShapeDtypeStruct((*cumulative.shape[:-1], num), jnp.int32)
    return _call("offspring_to_ancestors", result, cumulative)


def ancestors_at_levels(cdf: jax.Array, uniforms: jax.Array, num: int) -> jax.Array:
    """Return the ancestors (..., num) at the levels m + u.

    ``uniforms`` (..., 1) are the same for all m, (..., num) are one for each.
    """
    result = jax.ShapeDtypeStruct((*cdf.shape[:-1], num), jnp.int32)
    return _call("ancestors_at_levels", result, cdf, uniforms)
