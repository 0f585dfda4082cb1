"""Mixtures of normals as predictive laws: Student-t noise, weights of draws, transforms."""

import numpy as np
import pytest
from scipy import stats

from bayeskit.models.functional_tucker.predictive import predictive
from bayeskit.models.functional_tucker.transforms import BoxCox, Identity


@pytest.mark.parametrize("degrees", [4.0, 10.0, 50.0])
def test_student_noise_about_a_known_mean(degrees):
    mean, std = np.array([[1.0, -2.0]]), np.array([0.7])
    law = predictive(Identity(), mean, np.zeros((1, 2)), std, degrees)
    exact = stats.t(degrees, loc=mean[0], scale=0.7)
    for at in (0.0, 1.3, 4.0):
        np.testing.assert_allclose(law.log_density(np.full(2, at)), exact.logpdf(at), atol=1e-4)
    levels = [0.025, 0.5, 0.9]
    expected = exact.ppf(np.array(levels)[:, None])
    np.testing.assert_allclose(law.quantiles(levels), expected, atol=1e-5)
    found, spread = law.moments()
    np.testing.assert_allclose(found, mean[0], atol=1e-12)
    np.testing.assert_allclose(spread, exact.std(), rtol=1e-4)
    # Normal noise of the same scale has other tails.
    normal = predictive(Identity(), mean, np.zeros((1, 2)), std, None)
    assert np.abs(normal.log_density(np.full(2, 4.0)) - exact.logpdf(4.0)).min() > 0.01


def test_draws_count_by_their_weights():
    mean, variance = np.array([[0.0], [3.0]]), np.array([[0.3], [0.0]])
    noise, weights = np.array([0.5, 0.2]), np.array([0.8, 0.2])
    law = predictive(Identity(), mean, variance, noise, None, np.log(weights))
    parts = [stats.norm(0.0, np.sqrt(0.55)), stats.norm(3.0, 0.2)]
    density = sum(w * part.pdf(0.4) for w, part in zip(weights, parts, strict=True))
    assert law.log_density(np.array([0.4]))[0] == pytest.approx(np.log(density), abs=1e-12)
    levels = [0.1, 0.5, 0.85]
    for level, quantile in zip(levels, law.quantiles(levels)[:, 0], strict=True):
        cdf = sum(w * part.cdf(quantile) for w, part in zip(weights, parts, strict=True))
        assert cdf == pytest.approx(level, abs=1e-9)
    first, spread = law.moments()
    assert first[0] == pytest.approx(0.6)
    second = 0.8 * 0.55 + 0.2 * (9.0 + 0.04)
    assert spread[0] == pytest.approx(np.sqrt(second - 0.36))
    equal = predictive(Identity(), mean, variance, noise, None)
    assert equal.moments()[0][0] == pytest.approx(1.5)


def test_moments_of_a_transformed_mixture():
    mean, std = np.array([[0.2], [0.9]]), np.array([0.4, 0.3])
    law = predictive(BoxCox(0.0), mean, np.zeros((2, 1)), std, None)
    each = [stats.lognorm(s, scale=np.exp(m)) for m, s in zip(mean[:, 0], std, strict=True)]
    first, spread = law.moments()
    assert first[0] == pytest.approx(np.mean([one.mean() for one in each]), rel=1e-9)
    second = np.mean([one.var() + one.mean() ** 2 for one in each])
    assert spread[0] == pytest.approx(np.sqrt(second - first[0] ** 2), rel=1e-9)
