"""Factors of small matrices: of numbers without a library call, and of singular ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy import linalg

__all__ = [
    "cholesky",
    "cholesky_solve",
    "general_inverse",
    "semidefinite_cholesky",
    "semidefinite_solve",
    "symmetric",
    "triangle",
    "triangular_solve",
]

# A 1 x 1 matrix is its own factor. In a loop over time a call of LAPACK costs more than all
# arithmetic of a small step.


def symmetric(matrix: jax.Array) -> jax.Array:
    """Return the symmetric part of a matrix."""
    return 0.5 * (matrix + jnp.swapaxes(matrix, -1, -2))


def cholesky(matrix: jax.Array) -> jax.Array:
    """Return the lower Cholesky factor of a positive definite matrix."""
    return jnp.sqrt(matrix) if matrix.shape[-1] == 1 else jnp.linalg.cholesky(matrix)


def triangular_solve(
    factor: jax.Array, right: jax.Array, *, transposed: bool = False
) -> jax.Array:
    """Solve L x = right, or L' x = right, for lower triangular L."""
    if factor.shape[-1] == 1:
        return right / factor.reshape(())
    return linalg.solve_triangular(factor, right, lower=True, trans=int(transposed))


def cholesky_solve(factor: jax.Array, right: jax.Array) -> jax.Array:
    """Solve L L' x = right."""
    return triangular_solve(factor, triangular_solve(factor, right), transposed=True)


@jax.custom_jvp
def general_inverse(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    r"""Return the inverse and log |det A| of a regular matrix.

    Derivatives are matrix products of the inverse: those of an LU factorisation would be calls
    of LAPACK, several for every step of a filter and every direction.

    .. math:: d A^{-1} = -A^{-1}\, dA\, A^{-1}, \qquad
        d \log |\det A| = \mathrm{tr}(A^{-1}\, dA)
    """
    if matrix.shape[-1] == 1:
        return 1.0 / matrix, jnp.log(jnp.abs(matrix)).reshape(())
    factor = linalg.lu_factor(matrix)
    identity = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    log_determinant = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(factor[0]))))
    return linalg.lu_solve(factor, identity), log_determinant


@general_inverse.defjvp
def _general_inverse_jvp(primals, tangents):
    (matrix,), (change,) = primals, tangents
    inverse, log_determinant = general_inverse(matrix)
    moved = inverse @ change
    return (inverse, log_determinant), (-moved @ inverse, jnp.trace(moved))


def triangle(matrix: jax.Array) -> jax.Array:
    """Return the lower triangular L with L L' = matrix matrix', diagonal not negative.

    From a QR factorisation, so that nothing is squared: half of the digits that the product
    would lose are kept.

    Parameters
    ----------
    matrix : (dim, num) array, num >= dim, of any rank
    """
    upper = jnp.linalg.qr(matrix.T, mode="r")
    sign = jnp.where(jnp.diagonal(upper) < 0, -1.0, 1.0).astype(matrix.dtype)
    return upper.T * sign


def semidefinite_cholesky(matrix: jax.Array) -> jax.Array:
    """Return a lower triangular L with L L' = matrix, for one that is only semi-definite.

    A pivot that is no larger than the rounding error of its diagonal entry counts as zero, and
    so does its column: a state that the others determine takes no noise of its own. But no
    factor has a diagonal entry that is negative, infinite or NaN.

    Parameters
    ----------
    matrix : (dim, dim) array, positive semi-definite

    Returns
    -------
    (dim, dim) array, NaN where the diagonal of the matrix is negative or not finite
    """
    dim = matrix.shape[0]
    rows = jnp.arange(dim)
    variances = jnp.diagonal(matrix)
    is_variance = (variances >= 0) & (variances < jnp.inf)
    least = lax.stop_gradient(4 * dim * float(jnp.finfo(matrix.dtype).eps) * jnp.abs(variances))

    def column(j, state):
        rest, factor = state
        pivot = rest[j, j]
        is_positive = pivot > least[j]
        root = jnp.sqrt(jnp.where(is_positive, pivot, 1.0))
        values = jnp.where(is_positive & (rows >= j), rest[:, j] / root, 0.0)
        values = jnp.where(is_variance[j], values, jnp.nan)
        return rest - jnp.outer(values, values), factor.at[:, j].set(values)

    return lax.fori_loop(0, dim, column, (matrix, jnp.zeros_like(matrix)))[1]


def semidefinite_solve(factor: jax.Array, right: jax.Array) -> jax.Array:
    """Return x with L x = right in all rows whose pivot is not zero, and zero in the others.

    Parameters
    ----------
    factor : (dim, dim) array
        From :func:`semidefinite_cholesky`.
    right : (dim,) array
    """
    is_zero = jnp.diagonal(factor) == 0
    regular = factor + jnp.diag(is_zero.astype(factor.dtype))
    return triangular_solve(
        jnp.where(is_zero[:, None], jnp.diag(jnp.ones_like(right)), regular),
        jnp.where(is_zero, 0.0, right),
    )
