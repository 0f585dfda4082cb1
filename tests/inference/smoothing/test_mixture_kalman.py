"""Rao-Blackwellised filters against dense Gaussian algebra along every path of regimes."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from bayeskit import inference as bi
from bayeskit.inference import random
from bayeskit.validation import Atoms, exact
from tests.inference import finite_models as fm

CHAIN = fm.random_chain(num_states=2, num_steps=3, seed=3)
RNG = np.random.default_rng(4)
# Of each regime: F, b, Q, H, c, R, with two coordinates of state and two of data.
SYSTEMS = [
    bi.LinearGaussian(
        RNG.normal(size=(2, 2)),
        RNG.normal(size=2),
        np.diag(RNG.random(2) + 0.2),
        RNG.normal(size=(2, 2)),
        RNG.normal(size=2),
        np.array([[1.0, 0.3], [0.3, 0.7]]) * (1 + r),
    )
    for r in range(2)
]
TABLES = bi.LinearGaussian(*map(np.stack, zip(*SYSTEMS, strict=True)))
MEAN, COVARIANCE = np.array([0.5, -0.2]), np.array([[1.0, 0.4], [0.4, 2.0]])
DATA = np.array([[0.3, 1.0], [np.nan, -0.7], [np.nan, np.nan]])
LATE_DATA = np.array([[0.3, 1.0], [np.nan, np.nan], [0.9, np.nan]])


def system(t, regime):
    return bi.LinearGaussian(*(fm.log_table(table)[regime[t]] for table in TABLES))


def model(data, system=system):
    """Regimes carry their whole path."""

    def initial_regime(key):
        first = random.categorical(key, fm.log_table(CHAIN.log_initial))
        return jnp.zeros(3, jnp.int32).at[0].set(first)

    def regime_kernel(key, t, path):
        rows = fm.log_table(CHAIN.log_transition)
        return path.at[t].set(random.categorical(key, rows[path[t - 1]]))

    return bi.mixture_kalman_model(
        initial_regime=initial_regime,
        regime_kernel=regime_kernel,
        system=system,
        mean=MEAN,
        covariance=COVARIANCE,
        observations=data,
    )


def dense(path, data):
    """Likelihood of the data seen, and the mean of the last state, given all regimes."""
    mean, cov = [MEAN], COVARIANCE
    for t in (1, 2):
        F, b, Q = (table[path[t]] for table in TABLES[:3])
        mean.append(F @ mean[-1] + b)
        cross = F @ cov[-2:]
        cov = np.block([[cov, cross.T], [cross, F @ cov[-2:, -2:] @ F.T + Q]])
    H = np.zeros((6, 6))
    R = np.zeros((6, 6))
    for t in range(3):
        block = slice(2 * t, 2 * t + 2)
        H[block, block], R[block, block] = TABLES.observation[path[t]], TABLES[5][path[t]]
    mean = np.concatenate(mean)
    seen = ~np.isnan(data.ravel())
    centre = H @ mean + TABLES.observation_offset[list(path)].ravel()
    spread = (H @ cov @ H.T + R)[np.ix_(seen, seen)]
    y = data.ravel()[seen]
    likelihood = multivariate_normal(centre[seen], spread).pdf(y)
    gain = (cov @ H.T)[:, seen] @ np.linalg.inv(spread)
    return likelihood, (mean + gain @ (y - centre[seen]))[-2:]


def measure(data):
    paths = list(itertools.product(range(2), repeat=3))
    log_prior = [
        CHAIN.log_initial[path[0]]
        + sum(CHAIN.log_transition[pair] for pair in itertools.pairwise(path))
        for path in paths
    ]
    likelihood, means = zip(*(dense(path, data) for path in paths), strict=True)
    states = (np.array(paths, np.int32), np.array(means))
    return Atoms(states, np.exp(log_prior) * likelihood)


def regimes_and_means(particles):
    return particles.regime, np.asarray(particles.mean, float)


@pytest.mark.parametrize("data", [DATA, LATE_DATA])
def test_law_and_moments(data):
    block = bi.particle_filter(model(data), 2, ess_below=0.7)
    fm.assert_exact(block, measure(data), observed=regimes_and_means)


def late_regime(t, regime):
    """Planted: the system of the regime before."""
    return bi.LinearGaussian(*(table[regime[jnp.maximum(t - 1, 0)]] for table in jnp_tables()))


def no_noise(t, regime):
    """Planted: the covariance of the step is left out."""
    right = system(t, regime)
    return right._replace(covariance=0.0 * right.covariance)


def jnp_tables():
    return [fm.log_table(table) for table in TABLES]


@pytest.mark.parametrize("wrong", [late_regime, no_noise])
def test_wrong_systems_are_caught(wrong):
    block = bi.particle_filter(model(LATE_DATA, wrong), 2, ess_below=0.7)
    fm.assert_caught(block, measure(LATE_DATA), observed=regimes_and_means)


def test_missing_taken_for_zero_is_caught():
    """77: NaN read as an observation of zero."""
    block = bi.particle_filter(model(np.nan_to_num(LATE_DATA)), 2, ess_below=0.7)
    expected = exact.Atoms(measure(LATE_DATA).state[0], measure(LATE_DATA).mass)
    fm.assert_caught(block, expected, observed=lambda particles: particles.regime)


def test_observations_must_be_a_matrix():
    with pytest.raises(ValueError, match=r"shape \(num_steps, num_observed\), got \(3,\)"):
        model(DATA[:, 0])
