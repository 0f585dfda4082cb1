"""Filters with estimates for weights, enumerated: nested SMC, random weights, mistakes."""

import jax.numpy as jnp
import numpy as np

from bayeskit import inference as bi
from bayeskit.inference import random
from bayeskit.validation import Atoms
from tests.inference.finite_models import (
    Chain,
    assert_caught,
    assert_exact,
    last_state_measure,
    last_state_model,
    log_table,
    path_measure,
    path_model,
    random_chain,
)

# ---------------------------------------------------------------- random weights

CHAIN = random_chain(2, 3, seed=6, guided=False)
# What a fair coin says of a factor of the potential at each time and state: (coin, T, K).
FACTORS = np.random.default_rng(7).uniform(0.2, 2.0, (2, 3, 2))
EXPECTED = last_state_measure(
    CHAIN._replace(log_potential=CHAIN.log_potential + np.log(FACTORS.mean(0)))
)


def noisy(key, t, x):
    coin = random.categorical(key, jnp.zeros(2))
    return log_table(np.log(FACTORS))[coin, t, x]


def noisy_logarithm(key, t, x):
    """Planted: the logarithm is estimated without bias, and not the factor."""
    coin = random.categorical(key, jnp.zeros(2))
    mean, half = FACTORS.mean(0), (np.log(FACTORS[0]) - np.log(FACTORS[1])) / 2
    return log_table(np.log(mean))[t, x] + (1 - 2 * coin) * log_table(half)[t, x]


def filtered(estimate):
    model = bi.random_weight_model(last_state_model(CHAIN), estimate)
    return bi.particle_filter(model, 2, scheme="multinomial", ess_below=None)


def value(particles):
    return particles.value


def test_random_weights():
    assert_exact(filtered(noisy), EXPECTED, observed=value)
    assert_caught(filtered(noisy_logarithm), EXPECTED, observed=value)


# ---------------------------------------------------------------- nested SMC

# A step from x to two coordinates, one after the other; x is the first of the two before.
INNER = [random_chain(2, 2, seed=seed, guided=False) for seed in (8, 9)]


def inner_model(before):
    return path_model(
        Chain(*[log_table(np.stack(t))[before] for t in zip(*INNER, strict=True)])
    )


def inner_filter(t, before):
    model = inner_model(before[0])
    return bi.particle_filter(model, 2, scheme="systematic", ess_below=None)


def nested(kernel=inner_filter, num_particles=2):
    start = jnp.zeros(2, jnp.int32)
    model = bi.nested_smc_model(lambda: kernel(0, start), kernel, num_steps=2)
    return bi.particle_filter(model, num_particles, scheme="multinomial", ess_below=None)


def nested_measure():
    """The measure of the last state: a product of two steps, summed over the first."""
    steps = [path_measure(chain) for chain in INNER]
    mass = sum(m * steps[x[0]].mass for x, m in zip(steps[0].state, steps[0].mass, strict=True))
    return Atoms(steps[0].state, mass)


def test_nested_smc():
    whole = nested()
    assert_exact(whole, nested_measure(), observed=value)
    assert "L2 properly weighted for γ[T]" in whole.explain()


def test_a_step_without_the_evidence_of_the_inner_filter_is_caught():
    def unweighed(t, before):
        # The mistake: the step is drawn by its weight, and what the weights add up to is lost.
        block = inner_filter(t, before)
        return bi.spawn(lambda key: bi.choose(block)(key)[1], 1)

    assert_caught(nested(unweighed, num_particles=1), nested_measure(), observed=value)
