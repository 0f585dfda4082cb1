"""Factors of singular matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from bayeskit.accel.time.factors import (
    cholesky_solve,
    general_inverse,
    semidefinite_cholesky,
    semidefinite_solve,
    triangle,
)


def singular(rank, seed=0):
    root = np.random.default_rng(seed).normal(size=(4, rank)) * [[1e6], [1.0], [1e-3], [1.0]]
    return root @ root.T


@pytest.mark.parametrize("rank", [0, 1, 2, 4])
def test_semidefinite_cholesky(rank, x64):
    matrix = singular(rank)
    factor = semidefinite_cholesky(jnp.asarray(matrix))
    size = np.sqrt(np.outer(np.diag(matrix), np.diag(matrix)))
    assert np.all(np.abs(factor @ factor.T - matrix) <= 1e-14 * size)
    assert np.count_nonzero(np.diag(factor)) == rank
    assert np.array_equal(factor, np.tril(factor))


def test_derivative_along_singular_matrices(x64):
    matrix = jnp.asarray(singular(2))
    gradient = jax.grad(lambda s: jnp.sum(semidefinite_cholesky(s * matrix)))(1.0)
    assert np.isclose(gradient, 0.5 * np.sum(semidefinite_cholesky(matrix)))


def test_semidefinite_solve(x64):
    factor = semidefinite_cholesky(jnp.asarray(singular(2)))
    wanted = jnp.where(jnp.diagonal(factor) == 0, 0.0, jnp.array([1.0, -2.0, 3.0, 0.5]))
    np.testing.assert_allclose(semidefinite_solve(factor, factor @ wanted), wanted, rtol=1e-6)


def test_triangle_of_any_rank(x64):
    wide = np.random.default_rng(1).normal(size=(3, 5))
    wide[2] = wide[0] - wide[1]
    for matrix in (wide, 0 * wide, wide[:2]):
        factor = triangle(jnp.asarray(matrix))
        np.testing.assert_allclose(factor @ factor.T, matrix @ matrix.T, atol=1e-14)
        assert np.all(np.diag(factor) >= 0)
        assert np.array_equal(factor, np.tril(factor))


@pytest.mark.parametrize("size", [1, 3])
def test_solves(size, x64):
    matrix = np.random.default_rng(2).normal(size=(size, size)) + 3 * np.eye(size)
    right = np.arange(1.0, size + 1)
    inverse, found = general_inverse(jnp.asarray(matrix))
    np.testing.assert_allclose(matrix @ inverse, np.eye(size), atol=1e-12)
    np.testing.assert_allclose(found, np.linalg.slogdet(matrix)[1], rtol=1e-12)
    lower = jnp.asarray(np.tril(matrix))
    found = cholesky_solve(lower, jnp.asarray(right))
    np.testing.assert_allclose(lower @ lower.T @ found, right, rtol=1e-12)


@pytest.mark.parametrize("size", [1, 3])
def test_derivatives_of_the_inverse(size, x64):
    """Forward and backward, by central differences, of a number that hangs on both results."""
    matrix = np.random.default_rng(3).normal(size=(size, size)) + 3 * np.eye(size)
    weight = np.random.default_rng(4).normal(size=(size, size))

    def number(a):
        inverse, log_determinant = general_inverse(a)
        return jnp.sum(weight * inverse) + 2.0 * log_determinant

    check_grads(number, (jnp.asarray(matrix),), order=2, modes=("fwd", "rev"), rtol=1e-5)
