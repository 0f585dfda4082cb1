"""Pareto smoothing, against ArviZ."""

import math

import arviz as az
import numpy as np
import pytest
from scipy import stats

from bayeskit.models.distribution_transformer.refine.pareto import (
    generalized_pareto_fit,
    pareto_smoothed,
    reliable_khat,
)


@pytest.mark.parametrize("shape", [-0.4, 0.0, 0.5, 1.2])
@pytest.mark.parametrize("num", [100, 1000])
def test_weights_and_shape_are_those_of_arviz(shape, num):
    rng = np.random.default_rng(0)
    log_weights = np.log(stats.genpareto(shape).rvs(num, random_state=rng) + 0.3)
    ours, khat = pareto_smoothed(log_weights)
    theirs, their_khat = az.psislw(log_weights.copy())
    assert khat == pytest.approx(float(their_khat), abs=1e-8)
    np.testing.assert_allclose(ours, theirs, atol=1e-8)


def test_the_shape_of_many_exceedances_is_found():
    exceedances = np.sort(stats.genpareto(0.4, scale=2.0).rvs(20_000, random_state=1))
    shape, scale = generalized_pareto_fit(exceedances)
    assert shape == pytest.approx(0.4, abs=0.05) and scale == pytest.approx(2.0, abs=0.1)


def test_weights_without_a_tail():
    equal, khat = pareto_smoothed(np.zeros(100))
    assert khat == -math.inf and np.ptp(equal) == 0
    few = np.where(np.arange(100) < 3, 0.0, -np.inf)
    kept, khat = pareto_smoothed(few)
    assert khat == math.inf
    np.testing.assert_allclose(np.exp(kept[:3]), 1 / 3)


def test_fewer_draws_need_a_lighter_tail():
    assert reliable_khat(100) == 0.5 and reliable_khat(10**6) == 0.7


def test_tails_that_overflow_are_cut_off():
    """The tail spreads over 700 nats, as where the prior alone is the proposal."""
    log_weights = np.linspace(-10_000.0, 0.0, 2000)
    smoothed, khat = pareto_smoothed(log_weights)
    assert khat > 10
    assert np.isfinite(smoothed.max()) and np.exp(smoothed).sum() == pytest.approx(1.0)
