"""Paths of states after SMC², from new filters in the place of those without history."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import bayeskit as bk
from bayeskit import inference as bi
from bayeskit.errors import ConvergenceWarning, ParticleCollapseError
from bayeskit.inference import law
from bayeskit.inference.algorithms import path_exchange
from bayeskit.inference.algorithms.parameter_filters import parameters_with_filters
from bayeskit.inference.algorithms.path_exchange import exchange_for_paths
from bayeskit.inference.engines.parameter_paths import paths_of_parameters
from bayeskit.inference.estimates import ancestral_path
from bayeskit.inference.population import total_log_evidence
from bayeskit.inference.state_space import Rows
from bayeskit.inference.state_space_target import StateSpaceTarget
from tests.inference.finite_models import assert_caught, assert_exact
from tests.inference.parameter_models import PRIOR, Chains

CHAINS = Chains(num_steps=2)
EXTENDED = parameters_with_filters(PRIOR, CHAINS.model, 1, "multinomial")


def with_paths(num_particles=2):
    """Parameters weighed by filters of one particle, then exchanged for larger ones."""
    start = bi.spawn(EXTENDED.initial, 1) >> bi.weigh(EXTENDED.log_g0)
    weighed = start >> bi.scan(bi.extend(EXTENDED.kernel, EXTENDED.log_g))
    return weighed >> exchange_for_paths(
        EXTENDED, CHAINS.model, num_particles, scheme="multinomial"
    )


def path(particles):
    return particles.parameters, particles.sample


def test_parameters_with_paths_are_exact():
    whole = with_paths()
    assert whole.law.kind is law.PROPERLY_WEIGHTED
    assert "a path from a new filter of 2" in whole.explain()
    assert_exact(whole, CHAINS.paths, observed=path)


def test_an_exchange_for_nothing_is_caught(monkeypatch):
    """Planted: the new path takes over the weight that the old filter earned."""
    monkeypatch.setattr(path_exchange, "log_exchange", lambda old, new: jnp.zeros_like(new))
    assert_caught(with_paths(), CHAINS.paths, observed=path)


def test_an_exchange_upside_down_is_caught(monkeypatch):
    monkeypatch.setattr(path_exchange, "log_exchange", lambda old, new: old - new)
    assert_caught(with_paths(), CHAINS.paths, observed=path)


def test_a_path_chosen_without_weights_is_caught(monkeypatch):
    """Planted: of the particles that the new filter ends with, the first is taken."""

    def first(block):
        def estimate(key):
            population, _ = block.run(key)
            path = ancestral_path(population.history, jnp.zeros((), jnp.int32))
            return total_log_evidence(population), path

        return estimate

    monkeypatch.setattr(path_exchange, "choose", first)
    assert_caught(with_paths(), CHAINS.paths, observed=path)


# ---------------------------------------------------------------- after a fit

SHARP = bk.StateSpaceModel(
    initial=lambda p: dist.Normal(0.0, 1.0),
    transition=lambda p, x, t: dist.Normal(p["rho"] * x, 1.0),
    observation=lambda p, x, t: dist.Normal(x, 0.01),
    params={"rho": dist.Uniform(-1.0, 1.0)},
)


def test_paths_of_draws_and_a_warning_of_noise():
    """Weights of filters so noisy that fewer than one path in twenty counts."""
    target = StateSpaceTarget.of(SHARP, Rows(np.sin(np.arange(8.0))))
    theta = np.linspace(-1, 1, 70)[:, None]
    arguments = (target, theta, np.zeros(70), 5, "systematic", jax.random.key(0))
    with pytest.warns(ConvergenceWarning, match="the paths are worth .* of 70 independent"):
        paths = paths_of_parameters(*arguments)
    assert paths.shape == (70, 8) and len(np.unique(paths[:, 0])) < 35
    with pytest.warns(ConvergenceWarning):
        np.testing.assert_array_equal(paths, paths_of_parameters(*arguments))
    beyond = dataclasses.replace(target, rows=Rows(np.full(8, 1e30)))
    with pytest.raises(ParticleCollapseError, match="filters of all 70 parameters lost their"):
        paths_of_parameters(beyond, *arguments[1:])
