"""Factors of matrices that may be singular."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["semidefinite_cholesky"]


def semidefinite_cholesky(matrix: jax.Array) -> jax.Array:
    """Return a lower triangular L with L L' = matrix, for one that is only semi-definite.

    A pivot that is no larger than the rounding error of its diagonal entry counts as zero, and
    so does its column: a state that the others determine takes no noise of its own.

    Parameters
    ----------
    matrix : (dim, dim) array, positive semi-definite

    Returns
    -------
    (dim, dim) array
    """
    dim = matrix.shape[0]
    rows = jnp.arange(dim)
    least = lax.stop_gradient(
        4 * dim * float(jnp.finfo(matrix.dtype).eps) * jnp.abs(jnp.diagonal(matrix))
    )

    def column(j, state):
        rest, factor = state
        pivot = rest[j, j]
        is_positive = pivot > least[j]
        root = jnp.sqrt(jnp.where(is_positive, pivot, 1.0))
        values = jnp.where(is_positive & (rows >= j), rest[:, j] / root, 0.0)
        return rest - jnp.outer(values, values), factor.at[:, j].set(values)

    return lax.fori_loop(0, dim, column, (matrix, jnp.zeros_like(matrix)))[1]
