"""The alive particle filter, enumerated, and what goes wrong when trials are miscounted."""

import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import inference as bi
from bayeskit.errors import ParticleCollapseError
from bayeskit.inference import law
from bayeskit.inference.blocks import surviving
from tests.inference.finite_models import (
    assert_caught,
    assert_exact,
    path_measure,
    path_model,
    random_chain,
)

CHAIN = random_chain(num_states=2, num_steps=3, seed=3)
# One state is impossible at time 0 and the other at time 2; at time 1 both are alive.
CHAIN.log_potential[0, 0] = CHAIN.log_potential[2, 1] = -np.inf
MODEL, MEASURE = path_model(CHAIN), path_measure(CHAIN)


@pytest.mark.parametrize(("num_particles", "max_rounds"), [(1, 1), (1, 4), (2, 1), (2, 2)])
def test_unbiased_wherever_it_stops(num_particles, max_rounds):
    whole = bi.alive_filter(MODEL, num_particles, max_rounds=max_rounds)
    assert whole.law.kind is law.PROPERLY_WEIGHTED
    assert_exact(whole, MEASURE)
    assert "resample and extend until alive" in whole.explain()


def test_indicators():
    """All survivors weigh the same, and the evidence is the product of N / (n - 1)."""
    indicators = np.where(np.isfinite(CHAIN.log_potential), 0.0, -np.inf)
    chain = random_chain(num_states=2, num_steps=3, seed=3, guided=False)
    chain = chain._replace(log_potential=indicators)
    whole = bi.alive_filter(path_model(chain), 2, max_rounds=2)
    assert_exact(whole, path_measure(chain))
    population, info = bi.run(
        bi.alive_filter(path_model(chain), 20, max_rounds=500), 4, with_info=True
    )
    np.testing.assert_allclose(population.log_weights, -np.log(20), rtol=1e-6)
    trials = np.append(info["num_trials"], info["num_trials_2"])
    assert (trials >= 20).all()
    product = np.sum(np.log(20 / trials))
    assert float(population.log_evidence) == pytest.approx(product, abs=1e-5)


@pytest.mark.parametrize(
    ("share", "num_particles"),
    [
        (lambda num, trials: jnp.log(num / (trials + 1.0)), 1),
        (lambda num, trials: jnp.log((num + 1.0) / (trials + 1.0)), 2),
        (lambda num, trials: jnp.zeros(()), 1),
    ],
    ids=["the last trial counts", "one too many counts", "no trial counts"],
)
def test_trials_that_are_counted_wrongly_are_caught(monkeypatch, share, num_particles):
    monkeypatch.setattr(surviving, "log_share", share)
    assert_caught(bi.alive_filter(MODEL, num_particles, max_rounds=2), MEASURE)


NEAR = lambda x, y: jnp.where(jnp.abs(x - y) < 0.05, 0.0, -jnp.inf)
RARE = bi.FeynmanKac(
    initial=lambda key: bi.random.normal(key),
    log_g0=lambda x: NEAR(x, 0.5),
    kernel=lambda key, t, x: x + bi.random.normal(key),
    log_g=lambda t, before, x: NEAR(x, 0.5 + t),
    num_steps=4,
)


def test_where_a_plain_filter_loses_all_particles():
    """The evidence within 5 standard errors: false-alarm rate 6e-7."""
    plain, info = bi.run(bi.particle_filter(RARE, 10), 0, with_info=True)
    assert plain.log_evidence == -np.inf
    population, info = bi.run(bi.alive_filter(RARE, 200), 0, with_info=True)
    assert (np.append(info["num_alive"], info["num_alive_2"]) == 200).all()
    # A normal density times the width of the window, at each time.
    expected = 4 * np.log(0.1 / np.sqrt(2 * np.pi)) - 0.5 * (0.25 + 3)
    assert abs(float(population.log_evidence) - expected) < 5 * np.sqrt(4 / 200)
    assert (jnp.abs(population.particles - 3.5) < 0.05).all()


def test_trials_that_run_out():
    population, info = bi.run(bi.alive_filter(RARE, 8, max_rounds=4), 1, with_info=True)
    few = np.append(info["num_alive"], info["num_alive_2"])
    assert few.min() < 8
    if population.log_evidence == -np.inf:
        with pytest.raises(ParticleCollapseError, match="all particles have weight zero at"):
            bi.check_collapse(population, info)
    with pytest.raises(ValueError, match="num_particles must be a whole number >= 1, got 0"):
        bi.alive_filter(RARE, 0)
    with pytest.raises(ValueError, match=r"max_rounds must be a whole number >= 1, got 2\.5"):
        bi.alive_filter(RARE, 5, max_rounds=2.5)
