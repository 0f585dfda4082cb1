"""Products, factors and solves of many small matrices, written out over their columns.

LAPACK is called once a matrix, which for matrices of a few rows costs more than the arithmetic.
Here each step of an algorithm is one operation on the whole batch.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import linalg

__all__ = [
    "cholesky",
    "log_diagonal",
    "multiply",
    "multiply_vector",
    "numpy_of",
    "posterior_factor",
    "solve_lower",
    "solve_upper",
    "whiten",
]

# Forward substitution is written out for dimensions up to this one.
_MOST_UNROLLED = 16


def numpy_of(*arrays: Any) -> Any:
    """Return NumPy if all arrays are its own, and JAX's NumPy otherwise."""
    return np if all(isinstance(a, np.ndarray | np.generic) for a in arrays) else jnp


def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the product of matrices (..., i, j) and (..., j, l)."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(axis=-2)


def multiply_vector(a: jax.Array, x: jax.Array) -> jax.Array:
    """Return the product of matrices (..., i, j) and vectors (..., j)."""
    return (a * x[..., None, :]).sum(axis=-1)


def log_diagonal(factor: jax.Array) -> jax.Array:
    """Return the logarithms (..., d) of the diagonal of a Cholesky factor."""
    return jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1))


def cholesky(matrix: jax.Array, floor: float | None = None) -> jax.Array:
    """Return the lower Cholesky factors of symmetric matrices (..., d, d).

    Parameters
    ----------
    matrix : (..., d, d) array
    floor : float, optional
        Pivots are replaced by their size, and by at least this number: the factor is then that
        of a positive definite matrix nearby, equal to ``matrix`` where its pivots are larger.
    """
    d = matrix.shape[-1]
    columns: list[jax.Array] = []
    row = jnp.arange(d)
    for j in range(d):
        column = matrix[..., :, j]
        for earlier in columns:
            column = column - earlier * earlier[..., j, None]
        pivot = column[..., j]
        if floor is not None:
            pivot = jnp.maximum(jnp.abs(pivot), floor)
        root = jnp.sqrt(pivot)
        below = column / root[..., None]
        column = jnp.where(row == j, root[..., None], jnp.where(row > j, below, 0.0))
        columns.append(column)
    return jnp.stack(columns, axis=-1)


def solve_lower(factor: Any, b: Any) -> Any:
    """Solve ``factor x = b`` for lower triangles (..., d, d) and right sides (..., d, m).

    Axes before the last two broadcast. NumPy arrays are solved on the host.
    """
    xp, d = numpy_of(factor, b), factor.shape[-1]
    if d > _MOST_UNROLLED:
        if xp is np:
            return np.linalg.solve(factor, b)
        batch = jnp.broadcast_shapes(factor.shape[:-2], b.shape[:-2])
        factor, b = (jnp.broadcast_to(a, (*batch, *a.shape[-2:])) for a in (factor, b))
        return linalg.solve_triangular(factor, b, lower=True)
    rows: list[Any] = []
    for i in range(d):
        rest = b[..., i, :]
        for j in range(i):
            rest = rest - factor[..., i, j, None] * rows[j]
        rows.append(rest / factor[..., i, i, None])
    return xp.stack(rows, axis=-2)


def whiten(factor: Any, residuals: Any) -> Any:
    """Return L^-1 r for lower triangles (..., d, d) and residuals (..., d)."""
    return solve_lower(factor, residuals[..., None])[..., 0]


def solve_upper(factor: jax.Array, b: jax.Array) -> jax.Array:
    """Solve ``factor^T x = b`` for lower triangles (..., d, d) and right sides (..., d, m)."""
    d = factor.shape[-1]
    rows: list[jax.Array] = [jnp.zeros(())] * d
    for i in reversed(range(d)):
        rest = b[..., i, :]
        for j in range(i + 1, d):
            rest = rest - factor[..., j, i, None] * rows[j]
        rows[i] = rest / factor[..., i, i, None]
    return jnp.stack(rows, axis=-2)


def posterior_factor(precision: jax.Array, floor: float | None = None) -> tuple:
    """Return the lower Cholesky factor of the inverse of a precision, and log|precision| / 2.

    With J the exchange of the order of coordinates and :math:`J P J = C C^T`, the matrix
    :math:`J C^{-T} J` is lower triangular and its product with its transpose is
    :math:`P^{-1}`: no inverse is factorised.

    Parameters
    ----------
    precision : (..., d, d) array
    floor : float, optional
        As for :func:`cholesky`.
    """
    flipped = cholesky(precision[..., ::-1, ::-1], floor)
    identity = jnp.broadcast_to(
        jnp.eye(precision.shape[-1], dtype=precision.dtype), precision.shape
    )
    inverse = solve_upper(flipped, identity)
    return inverse[..., ::-1, ::-1], log_diagonal(flipped).sum(axis=-1)
