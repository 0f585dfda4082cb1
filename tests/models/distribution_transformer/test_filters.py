"""Filters against the exact ones, and observations one by one against all at once."""

import numpy as np
import pytest
from scipy import stats

import bayeskit as bk
from bayeskit.errors import InvalidDataError

SERIES = np.random.default_rng(3).normal(size=13)
MOTION = {"A": 0.95, "Q": 1.0}


def kalman(zs, mean, variance, a=0.95, q=1.0, c=0.0):
    """Return means, variances and the log evidence of the exact filter with unit noise."""
    means, variances, log_evidence = [], [], 0.0
    for z in zs:
        mean, variance = a * mean + c, a**2 * variance + q
        if not np.isnan(z):
            log_evidence += stats.norm(mean, np.sqrt(variance + 1)).logpdf(z)
            gain = variance / (variance + 1)
            mean, variance = mean + gain * (z - mean), variance * (1 - gain)
        means.append(mean)
        variances.append(variance)
    return np.array(means), np.array(variances), log_evidence


def normal_kl(m0, v0, m1, v1):
    return 0.5 * (np.log(v1 / v0) + (v0 + (m0 - m1) ** 2) / v1 - 1)


def test_exact_filter_is_a_kalman_filter(exact):
    zs = SERIES.copy()
    zs[4] = np.nan
    found = exact.filter(
        zs, **MOTION, c=0.3, x0=bk.GaussianMixture([1.0], [0.5], [2.0]), missing="mask"
    )
    mean, variance, log_evidence = kalman(zs, 0.5, 2.0, c=0.3)
    assert np.abs(found.posterior.mean[:, 0] - mean).max() < 1e-12
    assert np.abs(found.posterior.std[:, 0] ** 2 - variance).max() < 1e-12
    assert abs(found.log_evidence - log_evidence) < 1e-10
    assert found.is_exact
    # At the time without data the posterior is the prediction.
    assert np.array_equal(found.posterior.means[4], found.predicted.means[4])


def test_exact_filter_of_a_mixture_is_a_bank_of_kalman_filters(exact):
    weights, means, variances = np.array([0.3, 0.7]), [-2.0, 1.0], [0.5, 2.0]
    found = exact.filter(SERIES, **MOTION, x0=bk.GaussianMixture(weights, means, variances))
    bank = [kalman(SERIES, m, v) for m, v in zip(means, variances, strict=True)]
    terms = np.log(weights) + [each[2] for each in bank]
    assert abs(found.log_evidence - np.logaddexp(*terms)) < 1e-10
    last = np.exp(terms - np.logaddexp(*terms))
    assert np.abs(found.posterior.weights[-1] - last).max() < 1e-10
    assert np.abs(found.posterior.means[-1, :, 0] - [b[0][-1] for b in bank]).max() < 1e-10


def test_batches_of_series(exact):
    both = np.stack([SERIES, -SERIES])[..., None]
    x0 = bk.GaussianMixture([1.0], [0.0], [1.0])
    found = exact.filter(both, **MOTION, x0=x0)
    one = exact.filter(-SERIES, **MOTION, x0=x0)
    assert found.posterior.batch_shape == (2, 13)
    assert np.abs(found.posterior.mean[1] - one.posterior.mean).max() < 1e-12
    assert abs(found.log_evidence[1] - one.log_evidence) < 1e-10


def test_one_by_one_equals_all_at_once(exact, prior):
    at_once = exact.posterior(SERIES[:3], prior=prior)
    still = exact.filter(SERIES[:3], A=1.0, Q=0.0, x0=prior).posterior[-1]
    assert np.abs(still.means - at_once.means).max() < 1e-12
    assert np.abs(still.weights - at_once.weights).max() < 1e-12


def test_learned_filter_follows_the_kalman_filter(learned):
    """The network of 60 steps is rough; what counts is that its error does not grow."""
    zs = np.tile(SERIES, 5)
    found = learned.filter(zs, **MOTION, x0=bk.GaussianMixture([1.0], [0.0], [1.0]))
    mean, variance, _ = kalman(zs, 0.0, 1.0)
    kl = normal_kl(mean, variance, found.posterior.mean[:, 0], found.posterior.cov[:, 0, 0])
    # The series repeats, and so must the error, once the start is forgotten.
    assert kl.mean() < 0.2
    assert np.abs(kl[-13:] / kl[-26:-13] - 1).max() < 1e-3
    assert found.log_evidence is None


def test_bad_motion_is_refused(exact):
    x0 = bk.GaussianMixture([1.0], [0.0], [1.0])
    with pytest.raises(InvalidDataError, match=r"A must be a \(1, 1\) matrix, got shape"):
        exact.filter(SERIES, A=[[1.0, 0.0]], Q=1.0, x0=x0)
    with pytest.raises(InvalidDataError, match="Q must be positive semi-definite"):
        exact.filter(SERIES, A=1.0, Q=-1.0, x0=x0)
    with pytest.raises(InvalidDataError, match="not finite"):
        exact.filter([0.0, np.nan], A=1.0, Q=1.0, x0=x0)
