"""Likelihoods of the tasks of simulation-based inference, and posteriors refined on them."""

import numpy as np
import pytest
from scipy import stats

from bayeskit.models.base import precision_scope
from benchmarks.sbi_tasks import TASKS, c2st, observed

RNG = np.random.default_rng(0)


def log_likelihood(name, theta, y):
    with precision_scope("float64"):
        return float(TASKS[name].log_likelihood(np.asarray(theta, float), y))


def test_densities_are_those_of_scipy():
    theta, y = RNG.normal(size=10), RNG.normal(size=10)
    exact = stats.norm(theta, np.sqrt(0.1)).logpdf(y).sum()
    assert log_likelihood("gaussian_linear", theta, y) == pytest.approx(exact)

    exact = np.logaddexp(
        stats.norm(theta[:2], 1.0).logpdf(y[:2]).sum(),
        stats.norm(theta[:2], 0.1).logpdf(y[:2]).sum(),
    ) - np.log(2.0)
    assert log_likelihood("gaussian_mixture", theta[:2], y[:2]) == pytest.approx(exact)

    t = np.array([0.3, -0.2, 1.1, -0.9, 0.4])
    first, second, rho = t[2] ** 2, t[3] ** 2, np.tanh(t[4])
    covariance = [[first**2, rho * first * second], [rho * first * second, second**2]]
    law = stats.multivariate_normal(t[:2], covariance + 1e-6 * np.eye(2))
    exact = law.logpdf(y[:8].reshape(4, 2)).sum()
    assert log_likelihood("slcp", t, y[:8]) == pytest.approx(exact)

    design, series = RNG.normal(size=(100, 10)), RNG.integers(0, 2, 100).astype(float)
    exact = stats.bernoulli(1 / (1 + np.exp(-design @ theta))).logpmf(series).sum()
    assert log_likelihood("bernoulli_glm", theta, (series, design)) == pytest.approx(exact)


def test_the_density_of_moons_integrates_to_one():
    """Over the data, on a grid around the half circle."""
    theta = np.array([0.4, -0.7])
    shift = np.array([-abs(theta.sum()), theta[1] - theta[0]]) / np.sqrt(2.0)
    width = 0.3 / 500
    axis = (np.arange(500) + 0.5) * width - 0.15
    across, along = (a.ravel() for a in np.meshgrid(axis, axis))
    y = shift + np.array([0.25, 0.0]) + np.stack([across, along], axis=-1)
    import jax

    with precision_scope("float64"):
        values = np.exp(jax.vmap(lambda one: TASKS["two_moons"].log_likelihood(theta, one))(y))
    assert values.sum() * width**2 == pytest.approx(1.0, abs=1e-3)


def test_the_classifier_tells_laws_apart():
    draws = RNG.normal(size=(400, 2))
    assert c2st(draws, RNG.normal(size=(400, 2))) < 0.6
    assert c2st(draws, RNG.normal(size=(400, 2)) + 1.0) > 0.6


@pytest.mark.reference
@pytest.mark.parametrize(
    "name", [pytest.param("gaussian_linear", marks=pytest.mark.slow), "gaussian_mixture"]
)
def test_refined_posteriors_are_not_told_from_the_reference(name, reference_data):
    """From the prior alone; draws of the prior are told apart.

    The accuracy on 1000 draws of one law has a standard deviation of 0.016, so that 0.6 is
    exceeded with a probability below 1e-6.
    """
    from benchmarks.amortised_refinement import prepared, refined

    y, reference = observed(name, 1, reference_data)
    fitted = prepared(name)
    found = refined(name, fitted, y, 4000, 1)
    assert found.reliable and found.khat > 0.7
    reference = reference[:500]
    assert c2st(found.sample(500, 0), reference) < 0.6
    assert c2st(fitted.mixture.sample(500, 0), reference) > 0.6
