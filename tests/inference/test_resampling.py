"""Resampling by rates, thresholds, chains and transport, and the variance of one run.

Laws are held against their measures on every path, with no sampling error; each planted mistake
must be found by the check that the right block passes.
"""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import SMC, accel
from bayeskit.accel.compilation import quick_jit
from bayeskit.errors import UnenumerableDrawError
from bayeskit.inference import (
    FeynmanKac,
    Population,
    blocks,
    effective_sample_size,
    particle_filter,
    random,
    resample,
    resample_metropolis,
    resample_threshold,
    resample_transport,
    reweigh,
    spawn,
    weigh,
)
from bayeskit.inference.blocks import draw_ancestors, threshold_resampling
from bayeskit.inference.blocks.offspring import offspring
from bayeskit.inference.keys import EnumerationKey, Tape
from bayeskit.inference.law import CONSISTENT, PROPERLY_WEIGHTED
from bayeskit.validation import exact, validate
from tests.inference import finite_models as fm

CHAIN = fm.random_chain(num_states=2, num_steps=3)
GAMMA = fm.path_measure(CHAIN)
GUIDED = fm.filter_blocks(fm.path_model(CHAIN), num_particles=3)
PAIR = fm.filter_blocks(GUIDED.model, num_particles=2)
ADAPTIVE = 0.6


def log_eta(t, path):
    """A look-ahead that has nothing to do with the model: the law must hold for any."""
    return jnp.where(path[t - 1] == 1, 0.7, -0.4) * (1.0 + t)


# ---------------------------------------------------------------- rates


@pytest.mark.parametrize("scheme", accel.SCHEMES)
def test_auxiliary_filter_with_every_scheme(scheme):
    fm.assert_exact(GUIDED.with_resampling(resample(scheme, rate=log_eta)), GAMMA)


@pytest.mark.parametrize("scheme", ["systematic", "killing"])
def test_adaptive_auxiliary_filter_uses_both_branches(scheme):
    block = GUIDED.with_resampling(resample(scheme, ADAPTIVE, rate=log_eta))
    enumeration = exact.Enumeration()
    fm.assert_exact(block, GAMMA, enumeration)
    ((needed, not_needed),) = enumeration.branch_mass.values()
    assert min(needed, not_needed) > 0.1


@pytest.mark.parametrize("wrong", [-np.inf, np.inf, np.nan])
def test_rate_that_is_not_finite_loses_no_particle(wrong):
    rate = lambda t, path: jnp.where(path[t - 1] == 1, wrong, 0.3)
    fm.assert_exact(PAIR.with_resampling(resample("multinomial", rate=rate)), GAMMA)


class NotDivided(blocks.Resample):
    """69: the auxiliary weight is not given back."""

    def resampled(self, key, population):
        right = super().resampled(key, population)
        equal = jnp.full_like(right.log_weights, -math.log(right.num_particles))
        return right._replace(log_weights=equal, log_evidence=population.log_evidence)


class DividedByTheSlot(blocks.Resample):
    """69: the auxiliary weight of the slot is given back, not that of the ancestor."""

    def resampled(self, key, population):
        log_rates = self.log_rates(population)
        auxiliary = population._replace(log_weights=log_rates)
        chosen = blocks.Resample(self.scheme).resampled(key, auxiliary)
        return reweigh(chosen, population.log_weights - log_rates)


class ScaleNotMoved(blocks.Resample):
    """61: the weights are normalised, and what they added up to is lost."""

    def resampled(self, key, population):
        right = super().resampled(key, population)
        return right._replace(log_evidence=population.log_evidence)


@pytest.mark.parametrize("mistake", [NotDivided, DividedByTheSlot, ScaleNotMoved])
def test_wrong_rates_are_caught(mistake):
    fm.assert_caught(PAIR.with_resampling(mistake("multinomial", rate=log_eta)), GAMMA)


# ---------------------------------------------------------------- thresholds

_RNG = np.random.default_rng(2)
PRIOR, WEIGHT, LATER = (
    _RNG.dirichlet(np.ones(3)),
    _RNG.gamma(0.5, size=3),
    _RNG.gamma(1, size=3),
)
MEASURE = exact.Atoms(np.arange(3), PRIOR * WEIGHT * LATER)


def reduced(resampling, num=4, weights=None):
    """Draw, weigh, resample and weigh again, on three states."""
    first, later = weights or (WEIGHT, LATER)
    return (
        spawn(lambda key: random.categorical(key, fm.log_table(np.log(PRIOR))), num)
        >> weigh(lambda stage, x: fm.log_table(np.log(first))[x])
        >> resampling
        >> weigh(lambda stage, x: fm.log_table(np.log(later))[x])
    )


@pytest.mark.parametrize("num", [1, 2, 3, 4])
def test_threshold_keeps_the_law(num):
    fm.assert_exact(reduced(resample_threshold(num)), MEASURE)


def test_threshold_with_particles_of_weight_zero(monkeypatch):
    monkeypatch.setattr(f"{__name__}.WEIGHT", np.array([0.0, 0.4, 1.3]))
    measure = exact.Atoms(np.arange(3), PRIOR * WEIGHT * LATER)
    block = (
        spawn(lambda key: random.categorical(key, fm.log_table(np.log(PRIOR))), 4)
        >> weigh(lambda stage, x: jnp.log(jnp.array([0.0, 0.4, 1.3]))[x])
        >> resample_threshold(3)
        >> weigh(lambda stage, x: fm.log_table(np.log(LATER))[x])
    )
    # Paths on which all are dead have no evidence.
    fm.assert_exact(block, measure)


def test_threshold_without_weights_is_caught(monkeypatch):
    right = threshold_resampling.draw_threshold

    def equal(key, log_weights, num):
        ancestors, chosen = right(key, log_weights, num)
        return ancestors, jnp.full_like(chosen, -math.log(num))

    monkeypatch.setattr(threshold_resampling, "draw_threshold", equal)
    fm.assert_caught(reduced(resample_threshold(2)), MEASURE)


# Uneven potentials, so that some particles are heavier than the threshold.
HIDDEN = fm.random_chain(num_states=3, num_steps=3, seed=8)
HIDDEN = HIDDEN._replace(log_potential=4 * HIDDEN.log_potential)
ON_PATHS = fm.path_model(HIDDEN)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Branch(blocks.Block):
    """Follow each particle to all its successors, which share its weight: nothing is drawn."""

    @property
    def name(self):
        return "branch"

    def run(self, key, population=None):
        t, num = population.stage, HIDDEN.num_states
        state = jnp.tile(jnp.arange(num, dtype=jnp.int32), population.num_particles)
        paths = jnp.repeat(population.particles, num, axis=0)
        log_m = fm.log_table(HIDDEN.log_transition)[paths[:, t - 1], state]
        equal = jnp.repeat(population.log_weights, num) - jnp.log(num)
        population = population._replace(particles=paths.at[:, t].set(state), log_weights=equal)
        log_g = fm.log_table(HIDDEN.log_potential)[t, state]
        return reweigh(population, log_m + log_g + jnp.log(num)), {}

    def arrow(self, law):
        return law.then(law.measure.at("t"), self.name)


def branching(resampling):
    """All successors of all particles, of which two are kept, over three times."""
    start = spawn(ON_PATHS.initial, 6) >> weigh(ON_PATHS.log_g0)
    return start >> blocks.scan(resampling >> Branch(), path=ON_PATHS)


@pytest.mark.parametrize("rate", [None, lambda t, path: 0.8 * path[t - 1] - 0.5 * t])
def test_threshold_filter(rate):
    expected = fm.path_measure(HIDDEN)
    fm.assert_exact(branching(resample_threshold(2, rate=rate)), expected)
    fm.assert_exact(branching(resample(resample_threshold(2), rate=rate)), expected)


class Lost(blocks.ResampleThreshold):
    """Planted: what was kept weighs the same, or as if the rates were the weights."""

    def copies(self, population, ancestors, log_weights, lost_pairs=0.0):
        if self.rate is None:
            log_weights = jnp.full_like(log_weights, -math.log(self.num))
        return offspring(population, ancestors, log_weights)


@pytest.mark.parametrize("rate", [None, lambda t, path: 0.8 * path[t - 1] - 0.5 * t])
def test_threshold_filter_that_loses_its_weights_is_caught(rate):
    fm.assert_caught(branching(Lost(2, rate)), fm.path_measure(HIDDEN))


def test_threshold_refuses_to_make_particles():
    with pytest.raises(ValueError, match="only 4: choose a smaller num"):
        blocks.run(reduced(resample_threshold(5)), 0)
    with pytest.raises(ValueError, match="at least 1"):
        resample_threshold(0)


# ---------------------------------------------------------------- chains over the particles


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_bias_of_metropolis_is_within_its_bound(steps):
    weights = np.array([0.1, 0.55, 0.35])

    def first(key, log_weights):
        return blocks.metropolis_ancestors(key, log_weights, 1, steps)[0]

    start = exact.Atoms(np.log(weights)[None], np.ones(1))
    law = exact.enumerate_paths(first, start)
    found = np.zeros(3)
    found[law.state] = law.mass
    # By hand: the same chain as a matrix.
    rates = np.minimum(weights / weights[:, None], 1) / 3
    kernel = rates + np.diag(1 - rates.sum(1))
    np.testing.assert_allclose(found, np.linalg.matrix_power(kernel, steps)[0], atol=1e-12)
    distance = 0.5 * np.abs(found - weights).sum()
    assert 0.01 < distance <= (1 - 1 / (3 * weights.max())) ** steps


def evidence_error(resampling):
    """The exact error of the mean evidence of two particles, resampled once."""
    return abs(fm.mean_evidence(reduced(resampling, num=2)) - MEASURE.mass.sum())


def bound_of_evidence_error(steps):
    """Over all pairs: what the range of a function and the distance to W allow for its mean."""
    bound = 0.0
    for pair in itertools.product(range(3), repeat=2):
        first, later = WEIGHT[list(pair)], LATER[list(pair)]
        distance = (1 - first.sum() / (2 * first.max())) ** steps
        bound += PRIOR[list(pair)].prod() * first.mean() * np.ptp(later) * distance
    return bound


def test_metropolis_of_a_population_is_within_its_bound(monkeypatch):
    """Enumerated with 1, 2 and 3 steps; chains that accept all are far outside."""
    block = reduced(resample_metropolis(2), num=2)
    assert block.law.kind is CONSISTENT
    errors = [evidence_error(resample_metropolis(steps)) for steps in (1, 2, 3)]
    bounds = [bound_of_evidence_error(steps) for steps in (1, 2, 3)]
    assert np.all(np.array(errors) <= bounds), (errors, bounds)
    assert errors[0] > errors[1] > errors[2] > 1e-4
    with pytest.raises(ValueError, match="steps must be at least 1"):
        resample_metropolis(0)
    monkeypatch.setattr(random, "accept", lambda key, log_ratio: log_ratio > -np.inf)
    assert evidence_error(resample_metropolis(3)) > 2 * bounds[2]


class RatesKept(blocks.ResampleMetropolis):
    """Planted: the rates are not given back."""

    def copies(self, population, ancestors, log_weights, lost_pairs=0.0):
        return offspring(population, ancestors, log_weights)


def test_metropolis_by_rates():
    """Chains run by the rates, and the copies weigh what their ancestor did over its rate."""
    weights, rates = np.array([0.2, 0.5, 0.3]), np.array([1.0, 0.3, 2.0])
    population = Population(jnp.arange(3), jnp.log(weights), 0.0, log_evidence_remainder=0.0)
    chosen = weights * rates / (weights @ rates)
    steps = np.minimum(chosen / chosen[:, None], 1) / 3
    steps = steps + np.diag(1 - steps.sum(1))
    mean = steps.mean(0) * weights / chosen

    def mass_of(block):
        def masses(key, _):
            after, _ = block.run(key, population)
            mass = jnp.exp(after.log_weights + after.log_evidence)
            return jnp.zeros(3).at[after.particles].add(mass)

        law = exact.enumerate_paths(masses, fm.NOTHING)
        return law.mass @ law.state

    rate = lambda t, x: jnp.log(jnp.asarray(rates))[x]
    with jax.enable_x64(True):
        right = mass_of(resample_metropolis(1, rate=rate))
        wrong = mass_of(RatesKept(1, None, rate))
    np.testing.assert_allclose(right, mean, atol=1e-10)
    assert np.abs(wrong - mean).max() > 0.05


def test_a_block_in_the_place_of_a_name():
    chains = particle_filter(GUIDED.model, 3, scheme=resample_metropolis(2))
    assert chains.law.kind is CONSISTENT
    assert "resample_metropolis(steps=2, ess<0.5)" in chains.explain()
    always = particle_filter(GUIDED.model, 3, scheme=resample("killing"), ess_below=None)
    fm.assert_exact(always, GAMMA)
    assert resample(resample("ssp", 0.3), 0.7).ess_below == 0.3
    assert np.isfinite(blocks.run(chains, 0).log_evidence)
    with pytest.raises(ValueError, match=r"threshold\(num=2\) has no ess_below, got 0.5"):
        particle_filter(GUIDED.model, 3, scheme=resample_threshold(2))
    with pytest.raises(ValueError, match="has no rate"):
        resample(resample_transport(), rate=log_eta)
    with pytest.raises(TypeError, match=r"a block that resamples, such as .* got spawn"):
        resample(spawn(GUIDED.model.initial, 3))
    with pytest.raises(TypeError, match="rate must be a function"):
        resample_metropolis(2, rate=0.3)


def test_metropolis_leaves_particles_of_weight_zero():
    log_weights = jnp.array([-jnp.inf, 0.0, -jnp.inf, -1.0])
    index = blocks.metropolis_ancestors(jax.random.key(0), log_weights, 1000, 40)
    assert set(np.asarray(index).tolist()) == {1, 3}


def gives_up(key, log_weights, num):
    """Rejection that takes the second proposal in any case."""
    propose_key, accept_key = jax.random.split(key)
    proposals = jax.random.randint(propose_key, (2, num), 0, len(log_weights))
    chance = jnp.exp(log_weights - log_weights.max())[proposals]
    taken = jax.random.uniform(accept_key, (2, num)) < chance
    last = jnp.argmax(taken.at[1].set(True), axis=0)
    return jnp.take_along_axis(proposals, last[None], axis=0)[0]


@pytest.mark.parametrize("wrong", [False, True])
def test_rejection_in_a_population(wrong, monkeypatch):
    """The mean of the evidence of four particles; false alarms at most one in a million."""
    first, later = np.array([0.4, 2.0, 1.0]), np.array([0.5, 2.0, 1.0])
    block = reduced(resample("rejection"), weights=(first, later))
    assert block.law.kind is PROPERLY_WEIGHTED
    # One list of names for blocks, engines and conditional versions.
    assert SMC(num_particles=100, scheme="rejection").scheme in accel.SCHEME_NAMES
    with pytest.raises(ValueError, match=r"unknown scheme 'lucky'.*'rejection'"):
        SMC(scheme="lucky")
    with pytest.raises(UnenumerableDrawError, match="tested by sampling"):
        fm.mean_evidence(reduced(resample("rejection"), num=2))
    if wrong:
        replaced = lambda key, log_weights, scheme, num: gives_up(key, log_weights, num)
        monkeypatch.setattr("bayeskit.inference.blocks.resampling.draw_ancestors", replaced)
    estimate = lambda key: block.run(key)[0].log_evidence
    truth = math.log(np.sum(PRIOR * first * later))
    report = validate(estimate, expected=truth, law="unbiased", level="quick")
    assert report.verdict == ("fail" if wrong else "pass"), report


# ---------------------------------------------------------------- transport


def continuous(resampling, num=20, track_lineage=False):
    def sample(key):
        return {"x": random.normal(key), "y": jnp.ones(2)}

    start = spawn(sample, num, track_lineage=track_lineage)
    return start >> weigh(lambda stage, particle: -(particle["x"] ** 2)) >> resampling


def test_transport_keeps_the_weighted_mean_and_the_evidence():
    before = blocks.run(continuous(weigh(lambda stage, x: 0.0)), 0)
    block = continuous(resample_transport(0.05, 200))
    after = blocks.run(block, 0)
    assert block.law.kind is CONSISTENT
    mean = lambda population: population.expectation(lambda particle: particle["x"])
    assert float(mean(after)) == pytest.approx(float(mean(before)), abs=1e-5)
    assert after.log_evidence == before.log_evidence
    assert effective_sample_size(after.log_weights) > 19.9
    assert after.particles["y"].shape == (20, 2)


def test_transport_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="mixes all particles"):
        blocks.run(continuous(resample_transport(), track_lineage=True), 0)
    with pytest.raises(TypeError, match="only real numbers have"):
        blocks.run(reduced(resample_transport()), 0)
    with pytest.raises(ValueError, match="epsilon must be above 0"):
        resample_transport(0.0)
    with pytest.raises(ValueError, match="num_iterations must be at least 1"):
        resample_transport(num_iterations=0)


# ---------------------------------------------------------------- gradients

SLOPES = np.random.default_rng(4).normal(size=(3, 2))


def tilted(theta, resampling):
    """A filter whose potentials depend on θ and whose draws do not."""
    model = fm.path_model(CHAIN)
    tilt = lambda t, path: theta * fm.log_table(SLOPES)[t, path[t]]
    tilted_model = FeynmanKac(
        initial=model.initial.function,
        log_g0=lambda path: model.log_g0(0, path) + tilt(0, path),
        kernel=model.kernel,
        log_g=lambda t, before, path: model.log_g(t, before, path) + tilt(t, path),
        num_steps=CHAIN.num_steps,
    )
    return fm.filter_blocks(tilted_model, num_particles=2).with_resampling(resampling)


def mean_gradient(resampling, theta=0.4):
    """The exact mean of the gradient of the evidence estimate, over all paths."""

    def evidence(theta, digits):
        tape = Tape(digits)
        population, _ = tilted(theta, resampling).run(EnumerationKey(tape))
        return jnp.exp(population.log_evidence), tape

    with jax.enable_x64(True):
        tape = Tape(None)
        tilted(theta, resampling).run(EnumerationKey(tape))
        paths = jnp.asarray(list(itertools.product(*map(range, tape.sizes))))

        def one(digits):
            gradient = jax.grad(lambda theta: evidence(theta, digits)[0])(theta)
            return gradient, evidence(theta, digits)[1].log_probability

        gradient, log_probability = quick_jit(jax.vmap(one), optimised=False)(paths)
        return float(jnp.sum(gradient * jnp.exp(log_probability)))


def exact_gradient(theta=0.4):
    total = SLOPES[np.arange(3), GAMMA.state].sum(axis=1)
    return float(GAMMA.mass @ (np.exp(theta * total) * total))


@pytest.mark.parametrize("scheme", ["multinomial", "systematic"])
def test_gradient_of_the_evidence_is_unbiased(scheme):
    right = mean_gradient(resample(scheme, keep_gradient=True))
    assert right == pytest.approx(exact_gradient(), rel=1e-10)


def test_gradient_of_an_auxiliary_filter_is_unbiased():
    right = mean_gradient(resample("multinomial", rate=log_eta))
    assert right == pytest.approx(exact_gradient(), rel=1e-10)


def test_gradient_without_that_of_the_choice_is_caught():
    wrong = mean_gradient(resample("multinomial"))
    assert abs(wrong / exact_gradient() - 1) > 0.01


def test_keeping_the_gradient_changes_no_value():
    plain, kept = (
        blocks.run(PAIR.with_resampling(resample("systematic", keep_gradient=keep)), 5)
        for keep in (False, True)
    )
    np.testing.assert_array_equal(plain.particles, kept.particles)
    assert float(plain.log_evidence) == pytest.approx(float(kept.log_evidence), abs=1e-6)


# ---------------------------------------------------------------- the variance of one run


def mean_square_evidence(scheme, num_particles, num_steps, rate=None):
    """E[Ẑ² (1 - V)] over Z², with V before it is cut off at zero: 1 if V is unbiased."""
    chain = fm.random_chain(num_states=2, num_steps=num_steps, seed=3)
    model = fm.last_state_model(chain)
    filter_ = fm.filter_blocks(model, num_particles, track_lineage=True)
    block = filter_.with_resampling(resample(scheme, rate=rate))

    def pairs(key, _):
        population, _ = block.run(key)
        lineage = population.lineage
        groups = jnp.zeros(num_particles).at[lineage.label].add(jnp.exp(population.log_weights))
        different = 1.0 - jnp.sum(groups**2)
        different *= num_particles / (num_particles - 1) * jnp.exp(lineage.log_correction)
        return jnp.exp(2 * population.log_evidence) * different

    law = exact.enumerate_paths(pairs, fm.NOTHING)
    return law.mass @ law.state / fm.last_state_measure(chain).mass.sum() ** 2


@pytest.mark.parametrize("rate", [None, lambda t, x: jnp.where(x == 1, 0.9, -0.3)])
def test_variance_of_the_evidence_is_unbiased(rate):
    assert mean_square_evidence("multinomial", 3, 2, rate) == pytest.approx(1, rel=1e-10)


@pytest.mark.parametrize("scheme", ["killing", "residual_multinomial"])
def test_variance_of_the_evidence_is_unbiased_with_one_pair(scheme):
    """With two particles there is one pair to lose, so that the mean loss is all there is."""
    assert mean_square_evidence(scheme, 2, 3) == pytest.approx(1, rel=1e-10)


@pytest.mark.parametrize("scheme", ["killing", "residual_multinomial"])
def test_mean_loss_of_pairs_makes_up_for_nearly_all(monkeypatch, scheme):
    rate = lambda t, x: jnp.where(x == 1, 0.9, -0.3)
    corrected = abs(mean_square_evidence(scheme, 3, 2, rate) - 1)
    monkeypatch.setattr(blocks.resampling, "lost_pairs", lambda *arguments: 0.0)
    uncorrected = abs(mean_square_evidence(scheme, 3, 2, rate) - 1)
    assert uncorrected > 0.02
    assert corrected < 0.15 * uncorrected


@pytest.mark.parametrize("scheme", ["systematic", "stratified", "ssp"])
def test_variance_of_the_evidence_errs_on_the_safe_side(scheme):
    assert 0.5 < mean_square_evidence(scheme, 3, 2) < 1 - 1e-3


def test_fewer_offspring_keep_their_groups_apart():
    """Labels stay below the number of particles, and pairs count by the number of draws."""
    lineage = blocks.weighting.Lineage.founders(5).resampled(jnp.array([4, 1, 4]), 1 / 3)
    assert lineage.label.tolist() == [0, 1, 0]
    weighed = lineage.weighed(jnp.full(3, -math.log(3.0)))
    expected = 1 - 5 / 4 * 3 / 2 * (1 - (4 + 1) / 9)
    assert float(weighed.variance) == pytest.approx(max(expected, 0), abs=1e-6)


# ---------------------------------------------------------------- bad input


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"unknown scheme 'lucky'.*'rejection'"):
        resample("lucky")
    with pytest.raises(ValueError, match="as many offspring as there are particles: leave num"):
        resample("killing", num=3)
    with pytest.raises(TypeError, match="rate must be a function"):
        resample(rate=0.3)
    with pytest.raises(ValueError, match="particles, 3, got num=2"):
        draw_ancestors(jax.random.key(0), jnp.zeros(3), "killing", 2)


def test_every_block_notes_the_ancestors_of_a_history():
    population = Population(jnp.arange(4.0), jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4])), 0.0)
    population = population._replace(ancestors=jnp.arange(4))
    for block in (resample("ssp"), resample_threshold(2), resample_metropolis(3)):
        after, _ = quick_jit(block.run, optimised=False)(jax.random.key(2), population)
        np.testing.assert_array_equal(after.particles, after.ancestors)
    with pytest.raises(ValueError, match="keep no history"):
        resample_transport().run(jax.random.key(0), population)


def test_all_dead_particles_stay_without_a_nan():
    population = Population(jnp.arange(4.0), jnp.full(4, -math.log(4.0)), -jnp.inf)
    for block in (resample("ssp", rate=lambda t, x: x), resample_threshold(2)):
        after, _ = block.run(jax.random.key(0), population)
        assert np.isneginf(after.log_evidence)
        assert np.isfinite(after.log_weights).all()
