"""Populations of populations, enumerated: the island model and SMC², and mistakes in them."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeskit as bk
from bayeskit import inference as bi
from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import LawMismatch
from bayeskit.inference import law
from bayeskit.inference.algorithms import smc_squared
from bayeskit.inference.algorithms.islands import JoinIslands
from bayeskit.inference.algorithms.parameter_filters import (
    parameters_with_filters,
    rejuvenation,
)
from bayeskit.inference.blocks import Resample
from bayeskit.inference.transitions.pseudo_marginal import PseudoMarginal
from tests.inference.finite_models import (
    assert_caught,
    assert_exact,
    path_measure,
    path_model,
    random_chain,
)
from tests.inference.parameter_models import PRIOR, PROPOSAL, Chains

# ---------------------------------------------------------------- islands

CHAIN = random_chain(2, 2, seed=4)
MODEL = path_model(CHAIN)


@pytest.mark.parametrize(
    ("scheme", "below"), [("multinomial", None), ("systematic", 0.95)], ids=str
)
def test_islands(scheme, below):
    whole = bi.island_filter(MODEL, 2, 2, scheme=scheme, ess_below=None, islands_below=below)
    assert whole.law.kind is law.PROPERLY_WEIGHTED
    assert_exact(whole, path_measure(CHAIN))
    assert "join islands" in whole.explain()


@dataclass(frozen=True, eq=False, repr=False)
class EqualIslands(JoinIslands):
    """Planted: the weights of the islands are not carried to their particles."""

    def run(self, key, population=None):
        equal = jnp.full_like(population.log_weights, -jnp.log(population.num_particles))
        return super().run(key, population._replace(log_weights=equal))


def test_island_weights_that_are_not_carried_are_caught():
    islands = bi.island_model(MODEL, 2, scheme="multinomial", ess_below=None)
    filtered = bi.particle_filter(islands, 2, scheme="multinomial", ess_below=None)
    right = bi.join_islands(islands, MODEL)
    assert_exact(filtered >> right, path_measure(CHAIN))
    assert_caught(filtered >> EqualIslands(right.islands, right.joined), path_measure(CHAIN))


def test_islands_of_another_model_are_refused():
    islands, others = (bi.island_model(MODEL, 2) for _ in range(2))
    with pytest.raises(LawMismatch, match="join islands: starts from"):
        bi.particle_filter(islands, 2) >> bi.join_islands(others, MODEL)


# ---------------------------------------------------------------- SMC²

CHAINS = Chains(num_steps=2)


def parameters(particles):
    return particles.parameters


def squared(num_particles, **options):
    options = {"scheme": "multinomial", "ess_below": 0.9, "move_always": True} | options
    return bi.smc2(PRIOR, CHAINS.model, 2, num_particles, PROPOSAL, **options)


def test_smc2():
    whole = squared(num_particles=1)
    assert whole.law.kind is law.PROPERLY_WEIGHTED
    assert_exact(whole, CHAINS.evidence, observed=parameters)
    assert "pseudo-marginal" in whole.explain()


@pytest.mark.slow
def test_smc2_with_two_inner_particles():
    assert_exact(squared(num_particles=2), CHAINS.evidence, observed=parameters)


def test_smc2_that_moves_where_it_resamples_is_consistent():
    """The move is decided by what it moves: a bias, which the exact mode shows."""
    whole = squared(num_particles=2, move_always=False)
    assert whole.law.kind is law.CONSISTENT
    report = bk.validate(whole, expected=CHAINS.evidence, observed=parameters)
    assert report.verdict == "inconclusive"
    assert max(check.discrepancy for check in report.tests) > 1e-4


def test_smc2_with_the_decisions_of_another_run():
    """Moves where a pilot run made them leave no bias."""
    whole = squared(num_particles=1, move_always=False)
    for moved in (False, True):
        frozen = bi.freeze(whole, {"applied": np.array([moved])})
        assert frozen.law.kind is law.PROPERLY_WEIGHTED
        assert_exact(frozen, CHAINS.evidence, observed=parameters)


def by_hand(resampling=None, move_type=None, num_particles=1):
    """SMC² of its blocks, with one of them replaced."""
    extended = parameters_with_filters(PRIOR, CHAINS.model, num_particles, "multinomial")
    start = bi.spawn(extended.initial, 2) >> bi.weigh(extended.log_g0)
    step = bi.extend(extended.kernel, extended.log_g)
    if resampling is not None:
        # The mistake must meet weights that are not yet equal, and a step after it.
        return start >> bi.scan(resampling >> step)
    right = rejuvenation(extended, PRIOR, CHAINS.model, num_particles, PROPOSAL, "multinomial")
    move = (move_type or PseudoMarginal)(right.proposal, right.prior, right.estimator, right.on)
    return start >> bi.scan(step >> bi.move(move, repeats=1))


@dataclass(frozen=True, eq=False, repr=False)
class ResampleParametersAlone(Resample):
    """Planted: parameters are copied without their filters."""

    def run(self, key, population=None):
        after, info = super().run(key, population)
        mixed = population.particles._replace(parameters=after.particles.parameters)
        return after._replace(particles=mixed), info


class NotRestarted(PseudoMarginal):
    """Planted: the filter of proposed parameters sees the first observation alone."""

    def state_at(self, key, parameters, stage):
        return super().state_at(key, parameters, jnp.zeros((), jnp.int32))


def test_parameters_copied_without_their_filters_are_caught():
    expected = CHAINS.evidence
    assert_exact(by_hand(bi.resample("multinomial")), expected, observed=parameters)
    wrong = by_hand(ResampleParametersAlone("multinomial"))
    assert_caught(wrong, expected, observed=parameters)


def test_a_filter_that_is_not_run_up_to_the_present_is_caught():
    assert_exact(by_hand(), CHAINS.evidence, observed=parameters)
    assert_caught(by_hand(move_type=NotRestarted), CHAINS.evidence, observed=parameters)


# ---------------------------------------------------------------- larger filters on the way


def growing():
    return bi.smc2(
        PRIOR, CHAINS.model, 1, {0: 1, 1: 2}, PROPOSAL, scheme="multinomial", move_always=True
    )


def test_filters_exchanged_for_larger_ones():
    whole = growing()
    assert_exact(whole, CHAINS.evidence, observed=parameters)
    assert "extend by filters of 2 over those before" in whole.explain()


def test_an_exchange_without_its_weight_is_caught(monkeypatch):
    right = smc_squared.exchange_filters

    def unweighed(*arguments):
        # The mistake: the new estimate takes the place of the old one for nothing.
        exchange = right(*arguments)
        log_g = dataclasses.replace(exchange.log_g, function=lambda stage, old, new: 0.0)
        return bi.extend(exchange.kernel, log_g)

    monkeypatch.setattr(smc_squared, "exchange_filters", unweighed)
    assert_caught(growing(), CHAINS.evidence, observed=parameters)


def test_times_of_exchange():
    for sizes in ({1: 5}, {0: 5, 2: 10}):
        with pytest.raises(ValueError, match=r"must start with 0 and stay below .*, 2"):
            bi.smc2(PRIOR, CHAINS.model, 2, sizes, PROPOSAL)


def test_smc2_needs_a_prior_to_draw_from():
    posterior = bi.Target(
        log_prior=lambda x: 0.0, log_likelihood=lambda x: 0.0, sample_prior=PRIOR.sample_prior
    )
    for prior in (bi.Target(log_density=lambda x: 0.0), posterior, lambda x: 0.0):
        with pytest.raises(
            TypeError, match=r"give prior=Target\(log_density=..., sample_prior"
        ):
            bi.smc2(prior, CHAINS.model, 2, 2, PROPOSAL)


def test_smc2_on_a_continuous_model():
    """The evidence of 3 observations against a grid over the parameter: |error| < 0.3.

    The standard deviation over runs is about 0.05, so the false-alarm rate is below 1e-8.
    """
    y = np.array([0.3, -0.8, 1.1])

    def model(theta):
        return bi.FeynmanKac(
            initial=lambda key: bi.random.normal(key),
            log_g0=lambda x: -0.5 * (y[0] - x) ** 2,
            kernel=lambda key, t, x: theta * x + bi.random.normal(key),
            log_g=lambda t, before, x: -0.5 * (jnp.asarray(y)[t] - x) ** 2,
            num_steps=3,
        )

    prior = bi.Target(
        log_density=lambda theta: -0.5 * theta**2,
        sample_prior=lambda key: bi.random.normal(key),
    )
    whole = bi.smc2(prior, model, 200, 50, bi.random_walk(0.8), ess_below=0.99)
    population, info = quick_jit(whole.run, optimised=False)(jax.random.key(5))
    assert bool(info["applied"].any())
    theta = np.linspace(-6, 6, 2001)
    mean, variance, log_likelihood = np.zeros_like(theta), np.ones_like(theta), 0.0
    for t in range(3):
        if t:
            mean, variance = theta * mean, theta**2 * variance + 1
        # Potentials are not normalised: their constants are left out here as well.
        log_likelihood -= 0.5 * (np.log1p(variance) + (y[t] - mean) ** 2 / (variance + 1))
        gain = variance / (variance + 1)
        mean, variance = mean + gain * (y[t] - mean), variance * (1 - gain)
    density = np.exp(log_likelihood - theta**2 / 2) / np.sqrt(2 * np.pi)
    exact = np.log(np.trapezoid(density, theta))
    assert abs(float(population.log_evidence) - exact) < 0.3
    assert population.particles.sample.particles.shape == (200, 50)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(population))
