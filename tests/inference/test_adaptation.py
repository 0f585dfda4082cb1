"""The tuning of moves: metric, step size and repeats."""

import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit.inference import HMC, PointState, Population
from bayeskit.inference.adaptation import (
    adapted_repeats,
    adapted_tuning,
    covariance_factor,
    initial_tuning,
    weighted_moments,
)


def test_weighted_moments_equal_numpys():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(50, 3)).astype(np.float32), rng.dirichlet(np.ones(50))
    mean, covariance = weighted_moments(jnp.asarray(x), jnp.log(jnp.asarray(w, jnp.float32)))
    np.testing.assert_allclose(mean, np.average(x, axis=0, weights=w), atol=1e-5)
    np.testing.assert_allclose(covariance, np.cov(x.T, aweights=w, ddof=0), atol=1e-5)


def test_factor_survives_degenerate_covariances():
    singular = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    factor = covariance_factor(singular, jnp.asarray(10.0))
    assert bool(jnp.all(jnp.isfinite(factor)))
    assert float(jnp.min(jnp.diagonal(factor))) > 0
    broken = jnp.array([[1.0, 2.0], [2.0, 1.0]])
    np.testing.assert_allclose(
        covariance_factor(broken, jnp.asarray(1e9)), np.eye(2), atol=1e-6
    )


@pytest.mark.parametrize(("acceptance", "direction"), [(0.95, 1), (0.3, -1), (jnp.nan, 0)])
def test_step_size_follows_acceptance(acceptance, direction):
    rng = np.random.default_rng(0)
    positions = jnp.asarray(rng.normal(size=(40, 2)), jnp.float32)
    population = Population(
        PointState(positions, jnp.zeros((40, 2))), jnp.full(40, -np.log(40.0)), jnp.zeros(())
    )
    kernel = HMC()
    before = initial_tuning(kernel, 2)
    after = adapted_tuning(kernel, population, before, jnp.asarray(acceptance))
    assert np.sign(float(after.step_size - before.step_size)) == direction


def test_many_dimensions_get_a_diagonal_metric():
    assert initial_tuning(HMC(), 10).factor.shape == (10, 10)
    assert initial_tuning(HMC(), 500).factor.shape == (500,)


@pytest.mark.parametrize(
    ("repeats", "correlation", "expected"),
    [(4, 0.5, 4), (4, 0.25, 2), (4, 0.7, 8), (4, 0.99, 8), (1, jnp.nan, 1), (40, 0.99, 64)],
)
def test_repeats_follow_correlation(repeats, correlation, expected):
    """k steps leave c^(k/r): wanted 0.5, never more than double, at most 64."""
    found = adapted_repeats(jnp.asarray(repeats), jnp.asarray(correlation), 0.5, 64)
    assert int(found) == expected
