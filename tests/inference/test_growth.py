"""Whether the bias of each consistent algorithm vanishes as particles are added.

Each runs with 16 to 256 particles on a model of known evidence. Its log evidence, extrapolated
to infinitely many, must be the true one; where the truth is 2 % off, which is a factor of 1.02
on each estimate, it must be found to be wrong. A right algorithm fails with probability at most
1e-6 a case, and keys are fixed.
"""

import functools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from bayeskit import inference as bi
from bayeskit.inference import random
from bayeskit.validation import Level, validate
from tests.inference.linear_gaussian import LinearGaussian

pytestmark = pytest.mark.slow

# 10,000 runs with each number of particles, the fewest that the validator trusts.
LEVEL = Level(num_stages=1, growth=2, first=50_000, num_frequencies=0)
KERNEL = bi.RandomWalk()


def log_normal(x, variance=1.0):
    return -0.5 * x**2 / variance - 0.5 * math.log(2 * math.pi * variance)


def log_prior(x):
    return log_normal(x[0])


def sample_prior(key):
    return random.normal(key, (1,))


# ---------------------------------------------------------------- the algorithms


DATA = np.array([0.9, 0.2])


def data_by_data():
    """The first datum leaves uneven weights in most runs, so that the second meets moves."""
    variances = np.array([0.1, 0.1])
    path = bi.DataPath(
        log_prior=log_prior,
        log_terms=lambda x: jnp.stack(
            [log_normal(y - x[0], v) for y, v in zip(DATA, variances, strict=True)]
        ),
        sample_prior=sample_prior,
    )
    covariance = 1.0 + np.diag(variances)
    _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
    truth = -0.5 * (DATA @ np.linalg.solve(covariance, DATA) + log_det)
    return lambda num: bi.ibis(path, KERNEL, num, correlation=0.3), truth


def tolerances():
    """Simulated data z = x + N(0, 1) within 0.7 of 0.5."""
    path = bi.TolerancePath(
        log_prior=log_prior,
        sample_prior=sample_prior,
        simulate_distance=lambda key, x: jnp.abs(x[0] + random.normal(key) - 0.5),
        tolerance=0.7,
    )
    inside = special.ndtr(np.array([-0.2, 1.2]) / math.sqrt(2.0))
    build = lambda num: bi.abc_smc(path, num, correlation=0.5, max_stages=20)
    return build, math.log(inside[1] - inside[0])


CONJUGATE = bi.Target(
    log_prior=log_prior,
    log_likelihood=lambda x: log_normal(x[0] - 1.0, 0.5),
    sample_prior=sample_prior,
)
LOG_EVIDENCE = log_normal(1.0, 1.5)


def levels():
    """Complete after about three levels; without room for its last a run would be biased."""
    path = bi.LevelPath(CONJUGATE, negligible=0.5)
    options = {"above": 0.4, "correlation": 0.5, "max_stages": 6}
    return lambda num: bi.nested_sampling(path, KERNEL, num // 2, **options), LOG_EVIDENCE


def stages_together():
    """The temperatures are fixed; the mixture of all stages has estimated evidences."""
    options = {"ladder": (0.0, 0.3, 1.0), "correlation": 0.5, "max_stages": 2}
    build = lambda num: bi.persistent_sampling(CONJUGATE, KERNEL, num, **options)
    return build, LOG_EVIDENCE


SERIES = LinearGaussian(num_steps=3, seed=3)


def parameters_with_filters():
    """An unknown decay ~ N(0, 4), and two hidden states for each value of it."""
    prior = bi.Target(
        log_density=lambda decay: log_normal(decay, 4.0),
        sample_prior=lambda key: 2.0 * random.normal(key),
    )
    build = lambda num: bi.smc2(prior, SERIES.model, num, 2, bi.random_walk(0.5))
    decays, weights = np.polynomial.hermite_e.hermegauss(60)
    likelihoods = np.exp([SERIES.log_evidence(2.0 * decay) for decay in decays])
    return build, math.log(weights @ likelihoods / weights.sum())


def moved_by_transport(epsilon=lambda num: 8.0 / num):
    """The blur must fall as particles are added; the cost is their number squared."""
    series = LinearGaussian(num_steps=2, seed=0)

    def build(num):
        transport = bi.resample_transport(epsilon(num), num_iterations=50)
        return bi.particle_filter(series.model(), num // 4, scheme=transport, ess_below=None)

    return build, series.log_evidence()


CASES = {
    "ibis": data_by_data,
    "abc_smc": tolerances,
    "nested_sampling": levels,
    "persistent_sampling": stages_together,
    "smc2": parameters_with_filters,
    "transport": moved_by_transport,
}


@functools.cache
def case(name):
    """Blocks are kept, so that right and wrong share their compiled programs."""
    build, log_evidence = CASES[name]()
    return functools.cache(build), log_evidence


def growth(build, log_evidence):
    return validate(build, expected=log_evidence, law="consistent", level=LEVEL)


@pytest.mark.parametrize("factor", [1.0, 1.02], ids=["right", "2 % off"])
@pytest.mark.parametrize("name", CASES)
def test_bias_vanishes(name, factor):
    build, log_evidence = case(name)
    assert build(16).law.kind is bi.law.CONSISTENT
    report = growth(build, log_evidence - math.log(factor))
    if factor == 1.0:
        report.raise_if_failed()
        assert report.verdict == "pass"
    else:
        assert_bias_stays(report)


def assert_bias_stays(report):
    assert report.verdict == "fail"
    assert report.worst.startswith("extrapolated to infinitely many particles, log Ẑ is 0.0")


def test_transport_whose_blur_stays_is_found():
    """A fixed ``epsilon`` so strong that little but the weighted mean is kept."""
    report = growth(*moved_by_transport(lambda num: 5.0))
    assert_bias_stays(report)
