"""The bootstrap filter of stochastic volatility against quadrature on a grid."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from bayeskit import accel
from bayeskit import inference as bi
from bayeskit.inference.state_space import Rows, StateSpaceModel

MEAN, PERSISTENCE, SPREAD = -0.4, 0.9, 0.5
STATIONARY = SPREAD / np.sqrt(1 - PERSISTENCE**2)
NUM_TIMES, NUM_PARTICLES, NUM_RUNS = 30, 200, 200
FALSE_ALARM = 5e-7  # for each of the two numbers


def simulated() -> np.ndarray:
    rng = np.random.default_rng(5)
    x = MEAN + STATIONARY * rng.normal()
    y = np.empty(NUM_TIMES)
    for time in range(NUM_TIMES):
        x = MEAN + PERSISTENCE * (x - MEAN) + SPREAD * rng.normal() if time else x
        y[time] = np.exp(x / 2) * rng.normal()
    return y


def by_quadrature(y: np.ndarray, num_points: int = 400) -> tuple[float, float]:
    """Return log evidence and last filter mean: the states on a grid, sums for integrals."""
    grid = MEAN + STATIONARY * np.linspace(-8, 8, num_points)
    step = grid[1] - grid[0]
    transition = norm.pdf(grid[:, None], MEAN + PERSISTENCE * (grid[None, :] - MEAN), SPREAD)
    predicted, log_evidence = norm.pdf(grid, MEAN, STATIONARY), 0.0
    after = predicted
    for time, seen in enumerate(y):
        if time:
            predicted = step * transition @ after
        joint = predicted * norm.pdf(seen, 0.0, np.exp(grid / 2))
        evidence = step * joint.sum()
        log_evidence += np.log(evidence)
        after = joint / evidence
    return float(log_evidence), float(step * after @ grid)


Y = simulated()


def filtered(key, start, persistence, scale):
    """Return log evidence and last filter mean of one run."""
    model = StateSpaceModel(
        initial=lambda p: dist.Normal(MEAN, start),
        transition=lambda p, x, t: dist.Normal(MEAN + persistence * (x - MEAN), SPREAD),
        observation=lambda p, x, t: dist.Normal(0.0, jnp.exp(scale * x)),
    )
    block = bi.particle_filter(model.feynman_kac(None, Rows(y=Y)), NUM_PARTICLES)
    population, _ = block.run(key)
    return population.log_evidence, population.expectation(lambda x: x)


run_many = jax.jit(jax.vmap(filtered, in_axes=(0, None, None, None)))


def p_values(start=STATIONARY, persistence=PERSISTENCE, scale=0.5) -> list[float]:
    """Return those of the evidence and of evidence times mean, which have no bias at all."""
    log_evidence, mean = by_quadrature(Y)
    with jax.enable_x64(True):
        keys = jax.random.split(accel.as_key(0), NUM_RUNS)
        logs, means = map(np.asarray, run_many(keys, start, persistence, scale))
    ratio = np.exp(logs - log_evidence)
    found = np.stack([ratio, ratio * means])
    error = found.std(axis=1, ddof=1) / np.sqrt(NUM_RUNS)
    score = np.abs(found.mean(axis=1) - [1.0, mean]) / error
    return list(2 * student.sf(score, NUM_RUNS - 1))


def test_the_grid_is_fine_enough():
    np.testing.assert_allclose(by_quadrature(Y), by_quadrature(Y, 800), rtol=1e-10)


def test_evidence_and_filter_mean():
    """False-alarm rate 1e-6."""
    assert min(p_values()) > FALSE_ALARM


@pytest.mark.parametrize(
    "wrong", [{"scale": 0.6}, {"persistence": 0.8}, {"start": 3 * STATIONARY}]
)
def test_wrong_models_are_found(wrong):
    assert min(p_values(**wrong)) < FALSE_ALARM
