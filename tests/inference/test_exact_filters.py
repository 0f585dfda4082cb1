"""Particle filters, held against their measure on every path, with no sampling error.

Each planted mistake below is a small block or function in place of the right one. The check
that the right filter passes to rounding must find it.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.errors import KeyReuseError, TraceLevelError
from bayeskit.inference import (
    FeynmanKac,
    Measure,
    Tagged,
    blocks,
    extend,
    random,
    resample,
    scan,
    weigh,
)
from bayeskit.inference.blocks import resampling
from bayeskit.inference.population import Population, reweigh
from bayeskit.validation import exact
from tests.inference import finite_models as fm

CHAIN = fm.random_chain(num_states=2, num_steps=3)
GAMMA = fm.path_measure(CHAIN)
GUIDED = fm.filter_blocks(fm.path_model(CHAIN), num_particles=3)
# Smaller, for the planted mistakes.
PAIR = fm.filter_blocks(GUIDED.model, num_particles=2)
# Weights are uneven on both sides of this threshold. At 0.9 all that is left alone is
# populations of equal weights, for which resampling makes no difference to any total.
ADAPTIVE = 0.6
LONG_CHAIN = fm.random_chain(num_states=2, num_steps=30, guided=False)
LONG = fm.filter_blocks(fm.last_state_model(LONG_CHAIN), num_particles=4)


# ---------------------------------------------------------------- the law holds


@pytest.mark.parametrize("scheme", accel.SCHEMES)
def test_guided_filter_stands_for_gamma_on_every_path(scheme):
    fm.assert_exact(GUIDED.with_resampling(resample(scheme)), GAMMA)


@pytest.mark.parametrize("scheme", accel.SCHEMES)
def test_adaptive_resampling_keeps_the_law_and_uses_both_branches(scheme):
    block = GUIDED.with_resampling(resample(scheme, ess_below=ADAPTIVE))
    enumeration = exact.Enumeration()
    fm.assert_exact(block, GAMMA, enumeration)
    ((needed, not_needed),) = enumeration.branch_mass.values()
    assert needed > 0.1, f"resampling happens with mass {needed:.3g} only"
    assert not_needed > 0.1, f"resampling is left out with mass {not_needed:.3g} only"


@pytest.mark.parametrize("scheme", ["systematic", "stratified", "ssp"])
def test_bootstrap_filter_over_thirty_steps(scheme):
    # Block by block, because 30 steps in one program would have more than 10^50 paths.
    enumeration = exact.Enumeration()
    block = LONG.with_resampling(resample(scheme))
    fm.assert_exact(block, fm.last_state_measure(LONG_CHAIN), enumeration)
    assert enumeration.num_paths < 2e5


def test_three_states():
    chain = fm.random_chain(num_states=3, num_steps=8, seed=5)
    filter_ = fm.filter_blocks(fm.last_state_model(chain), num_particles=3)
    block = filter_.with_resampling(resample("multinomial"))
    fm.assert_exact(block, fm.last_state_measure(chain))


def test_no_resampling_at_all():
    block = GUIDED.start >> scan(GUIDED.extension)
    fm.assert_exact(block, GAMMA)


def test_one_particle_and_one_time():
    chain = fm.random_chain(num_steps=1)
    filter_ = fm.filter_blocks(fm.path_model(chain), num_particles=1)
    fm.assert_exact(filter_.with_resampling(resample()), fm.path_measure(chain))


def test_constant_potential_gives_its_value_without_noise():
    flat = np.log(np.full((4, 2), 0.3))
    chain = fm.random_chain(guided=False)._replace(log_potential=flat)
    filter_ = fm.filter_blocks(fm.last_state_model(chain), num_particles=3)
    population = blocks.run(filter_.with_resampling(resample()), 0)
    assert float(population.log_evidence) == pytest.approx(4 * math.log(0.3), rel=1e-6)


def test_potential_that_kills_some_particles():
    potential = CHAIN.log_potential.copy()
    potential[1, 0] = -np.inf
    chain = CHAIN._replace(log_potential=potential)
    filter_ = fm.filter_blocks(fm.path_model(chain), num_particles=2)
    for ess_below in (None, ADAPTIVE):
        block = filter_.with_resampling(resample("systematic", ess_below))
        fm.assert_exact(block, fm.path_measure(chain))


def two_leaf_model(chain):
    """Particles of two leaves: the path, and its last state once more."""
    whole = fm.path_model(chain)

    def initial(key):
        path = whole.initial(key)
        return {"path": path, "last": path[0]}

    def kernel(key, t, particle):
        path = whole.kernel(key, t, particle["path"])
        return {"path": path, "last": path[t]}

    return FeynmanKac(
        initial=initial,
        log_g0=lambda particle: whole.log_g0(0, particle["path"]),
        kernel=kernel,
        log_g=lambda t, before, particle: whole.log_g(t, before["path"], particle["path"]),
        num_steps=chain.num_steps,
    )


TWO_LEAVES = fm.filter_blocks(two_leaf_model(CHAIN), num_particles=2)


def paths(particles):
    return particles["path"]


def test_particles_may_have_several_leaves():
    block = TWO_LEAVES.with_resampling(resample("multinomial"))
    fm.assert_exact(block, GAMMA, observed=paths)


# ---------------------------------------------------------------- auxiliary weights


def log_eta(t, particle):
    """A look-ahead that has nothing to do with the model: the law must hold for any."""
    return jnp.where(particle["last"] == 1, 0.7, -0.4) * (1.0 + t)


def auxiliary_filter(resampling, log_divisor=log_eta):
    """Resample by the weights times η, then divide η of the parent out."""
    model = TWO_LEAVES.model
    before, after = model.measure.at("t-1"), model.measure.at("t")
    auxiliary = Measure("γ·η", "t-1", owner=model)

    def log_g(t, parent, particle):
        return model.log_g(t, parent, particle) - log_divisor(t, parent)

    step = (
        weigh(Tagged(log_eta, before, auxiliary, "η"))
        >> resampling
        >> extend(model.kernel, Tagged(log_g, auxiliary, after, "M_t, G_t/η"))
    )
    return TWO_LEAVES.start >> scan(step, path=model)


def test_auxiliary_filter():
    fm.assert_exact(auxiliary_filter(resample("multinomial")), GAMMA, observed=paths)


# ---------------------------------------------------------------- law and frequencies agree


def test_ordinary_keys_follow_the_enumerated_law():
    """20 000 fixed keys; 9 statistics with |z| < 6 have a false-alarm rate below 2e-8."""
    block = GUIDED.with_resampling(resample("systematic", ADAPTIVE))
    keys = jax.random.split(accel.as_key(7), 20_000)

    @jax.jit
    @jax.vmap
    def mass_by_path(key):
        population, _ = block.run(key)
        weight = jnp.exp(population.log_evidence + population.log_weights)
        code = population.particles @ jnp.array([4, 2, 1])
        return jnp.zeros(8).at[code].add(weight)

    masses = np.asarray(mass_by_path(keys), np.float64)
    masses = np.column_stack([masses, masses.sum(1)])
    expected = np.append(GAMMA.mass, GAMMA.mass.sum())
    z = (masses.mean(0) - expected) / masses.std(0) * math.sqrt(len(masses))
    assert np.abs(z).max() < 6, f"z-scores by path, then of the evidence: {z.round(2)}"


# ---------------------------------------------------------------- planted mistakes


RIGHT_ANCESTORS = resampling.draw_ancestors


def off_by_one(key, log_weights, scheme, num):
    ancestors = RIGHT_ANCESTORS(key, log_weights, scheme, num)
    return jnp.minimum(ancestors + 1, log_weights.shape[0] - 1)


def last_never_chosen(key, log_weights, scheme, num):
    ancestors = RIGHT_ANCESTORS(key, log_weights, scheme, num)
    return jnp.minimum(ancestors, log_weights.shape[0] - 2)


def last_always_chosen(key, log_weights, scheme, num):
    ancestors = RIGHT_ANCESTORS(key, log_weights, scheme, num)
    return ancestors.at[-1].set(log_weights.shape[0] - 1)


def uniform_not_divided(key, log_weights, scheme, num):
    """Systematic at m / num + u in place of (m + u) / num."""
    cdf = accel.scaled_cdf(log_weights, num) / num
    rungs = jnp.arange(num) / num
    breaks = lambda: jnp.clip(cdf[:, None] - rungs, 0, 1).ravel()
    u = random.piecewise_uniform(key, (), breaks)
    ancestors = jnp.searchsorted(cdf, rungs + u, side="right")
    return jnp.minimum(ancestors, log_weights.shape[0] - 1).astype(jnp.int32)


def remainder_by_weights(key, log_weights, scheme, num):
    """Residual whose remainder is drawn by W in place of num W - floor(num W)."""
    sure = jnp.floor(num * jnp.exp(log_weights) + 1e-9).astype(jnp.int32)
    copies = accel.offspring_to_ancestors(jnp.cumsum(sure).at[-1].set(num), num)
    drawn = random.categorical(key, log_weights, num)
    return jnp.where(jnp.arange(num) < sure.sum(), copies, drawn)


@pytest.mark.parametrize(
    ("scheme", "mistake"),
    [
        ("multinomial", off_by_one),
        ("systematic", off_by_one),
        ("multinomial", last_never_chosen),
        ("stratified", last_always_chosen),
        ("systematic", uniform_not_divided),
        ("residual", remainder_by_weights),
    ],
)
def test_wrong_ancestors_are_caught(monkeypatch, scheme, mistake):
    monkeypatch.setattr(resampling, "draw_ancestors", mistake)
    fm.assert_caught(PAIR.with_resampling(resample(scheme)), GAMMA)


class TwiceGathered(blocks.Resample):
    def resampled(self, key, population):
        num = population.num_particles
        ancestors = RIGHT_ANCESTORS(key, population.log_weights, self.scheme, num)
        once = accel.take_particles(population.particles, ancestors)
        return population._replace(
            particles=accel.take_particles(once, ancestors),
            log_weights=jnp.full_like(population.log_weights, -math.log(num)),
        )


@pytest.mark.parametrize("ess_below", [None, ADAPTIVE])
def test_ancestors_applied_twice_are_caught(ess_below):
    # With two particles, or with independent draws, the mistake leaves the mean as it is.
    resampling_twice = TwiceGathered("systematic", ess_below)
    fm.assert_caught(GUIDED.with_resampling(resampling_twice), GAMMA)


@dataclasses.dataclass(frozen=True, eq=False)
class LeftBehind(blocks.Resample):
    """One leaf of the particles stays where it was."""

    leaf: str = "path"
    scheme: str = "multinomial"

    def resampled(self, key, population):
        resampled = super().resampled(key, population)
        particles = {**resampled.particles, self.leaf: population.particles[self.leaf]}
        return resampled._replace(particles=particles)


def test_leaf_that_is_not_gathered_is_caught():
    block = TWO_LEAVES.with_resampling(LeftBehind(leaf="path"))
    fm.assert_caught(block, GAMMA, observed=paths)


class StaleWeights(blocks.Resample):
    def resampled(self, key, population):
        ancestors = RIGHT_ANCESTORS(key, population.log_weights, self.scheme, 2)
        kept = population.log_weights[ancestors]
        return population._replace(
            particles=accel.take_particles(population.particles, ancestors),
            log_weights=jax.nn.log_softmax(kept),
        )


def test_stale_weights_are_caught():
    fm.assert_caught(PAIR.with_resampling(StaleWeights("multinomial")), GAMMA)


class OneParticleTooMany(blocks.Resample):
    """The mean of the weights is taken over N + 1 in place of N."""

    def resampled(self, key, population):
        resampled = super().resampled(key, population)
        lost = math.log(2 / 3)
        return resampled._replace(log_evidence=resampled.log_evidence + lost)


def test_mean_over_the_wrong_number_is_caught():
    fm.assert_caught(PAIR.with_resampling(OneParticleTooMany("multinomial")), GAMMA)


@dataclasses.dataclass(frozen=True, eq=False)
class WrongEvidence(blocks.Extend):
    """An extension that books the total of the weights wrongly."""

    book: object = None

    def run(self, key, population=None):
        after, info = super().run(key, population)
        log_g = jax.vmap(lambda a, b: self.log_g(population.stage, a, b))(
            population.particles, after.particles
        )
        return after._replace(log_evidence=self.book(population, after, log_g)), info


def total_not_moved(before: Population, after: Population, log_g):
    return before.log_evidence


def total_moved_twice(before: Population, after: Population, log_g):
    return after.log_evidence + (after.log_evidence - before.log_evidence)


def mean_without_weights(before: Population, after: Population, log_g):
    return before.log_evidence + jax.nn.logsumexp(log_g) - math.log(len(log_g))


@pytest.mark.parametrize(
    ("book", "ess_below"),
    [(total_not_moved, None), (total_moved_twice, None), (mean_without_weights, ADAPTIVE)],
)
def test_wrong_evidence_is_caught(book, ess_below):
    extension = WrongEvidence(GUIDED.model.kernel, GUIDED.model.log_g, book)
    fm.assert_caught(GUIDED.with_extension(extension, ess_below=ess_below), GAMMA)


def test_mean_without_weights_hides_where_the_weights_are_equal():
    # Why both branches of adaptive resampling need mass: this mistake is invisible otherwise.
    extension = WrongEvidence(PAIR.model.kernel, PAIR.model.log_g, mean_without_weights)
    fm.assert_exact(PAIR.with_extension(extension, ess_below=None), GAMMA)


def test_auxiliary_filter_that_does_not_divide_is_caught():
    block = auxiliary_filter(resample("multinomial"), lambda t, parent: 0.0)
    fm.assert_caught(block, GAMMA, observed=paths)


def test_auxiliary_filter_that_divides_by_the_slot_and_not_the_parent_is_caught():
    fm.assert_caught(auxiliary_filter(LeftBehind(leaf="last")), GAMMA, observed=paths)


def without_correction(t, before, path):
    return fm.log_table(CHAIN.log_potential)[t, path[t]]


def weighed_at_current(t, before, path):
    transition = fm.log_table(CHAIN.log_transition)[path[t], path[t]]
    proposal = fm.log_table(CHAIN.log_proposal)[before[t - 1], path[t]]
    return fm.log_table(CHAIN.log_potential)[t, path[t]] + transition - proposal


@pytest.mark.parametrize("log_g", [without_correction, weighed_at_current])
def test_wrong_weight_of_a_guided_filter_is_caught(log_g):
    declared = dataclasses.replace(PAIR.model.log_g, function=log_g)
    fm.assert_caught(PAIR.with_extension(extend(PAIR.model.kernel, declared)), GAMMA)


# ---------------------------------------------------------------- planted: keys used twice


@dataclasses.dataclass(frozen=True, eq=False)
class ExtendWithOneKey(blocks.Extend):
    """All particles are drawn with the same key."""

    raw_vmap: bool = False

    def run(self, key, population=None):
        draw = lambda x: self.kernel(key, population.stage, x)
        before = population.particles
        after = jax.vmap(draw)(before) if self.raw_vmap else jnp.stack(list(map(draw, before)))
        log_g = jax.vmap(lambda a, b: self.log_g(population.stage, a, b))(before, after)
        return reweigh(population._replace(particles=after), log_g), {}


@pytest.mark.parametrize(
    ("raw_vmap", "error"), [(False, KeyReuseError), (True, TraceLevelError)]
)
def test_one_key_for_all_particles_is_refused(raw_vmap, error):
    extension = ExtendWithOneKey(PAIR.model.kernel, PAIR.model.log_g, raw_vmap)
    with pytest.raises(error):
        exact.weighting_discrepancy(PAIR.with_extension(extension), GAMMA)


class ScanWithOneKey(blocks.Scan):
    """The key of time t is used again at t + 1."""

    def run(self, key, population=None):
        for time in self.times:
            staged = population._replace(stage=jnp.asarray(time, jnp.int32))
            population, info = self.body.run(key, staged)
        return population, info


def test_one_key_for_all_times_is_refused():
    body = resample("multinomial") >> PAIR.extension
    steps = ScanWithOneKey(body, range(1, 3), PAIR.model.measure)
    with pytest.raises(KeyReuseError, match="already consumed"):
        exact.weighting_discrepancy(PAIR.start >> steps, GAMMA)


# ---------------------------------------------------------------- planted: dependent strata


def one_uniform_for_all_strata(key, log_weights, scheme, num):
    """Claims to be stratified, and is systematic: right in the mean, wrong in the spread."""
    cdf = accel.scaled_cdf(log_weights, num)
    scheme = accel.SCHEMES["systematic"]
    u = random.piecewise_uniform(key, (), lambda: scheme.breaks(cdf, num))
    return accel.SCHEMES["stratified"].ancestors(cdf, jnp.broadcast_to(u, (num,)), num)


def offspring_moments(draw_ancestors, log_weights, num):
    """Exact means and variances of the numbers of offspring."""

    def offspring(key, log_weights):
        ancestors = draw_ancestors(key, log_weights, "stratified", num)
        return jnp.zeros(len(log_weights)).at[ancestors].add(1.0)

    law = exact.enumerate_paths(offspring, exact.Atoms(log_weights[None], np.ones(1)))
    mean = law.mass @ law.state
    return mean, law.mass @ (law.state - mean) ** 2


def test_variance_tells_stratified_from_systematic():
    weights = np.array([0.17, 0.38, 0.1, 0.35])
    cdf = 4 * np.concatenate([[0], np.cumsum(weights)])
    strata = np.arange(4)
    # The particle i owns this length of each stratum; strata are independent.
    overlap = np.clip(np.minimum(cdf[1:, None], strata + 1), strata, strata + 1) - np.clip(
        np.maximum(cdf[:-1, None], strata), strata, strata + 1
    )
    expected = np.sum(overlap * (1 - overlap), axis=1)
    mean, variance = offspring_moments(RIGHT_ANCESTORS, np.log(weights), 4)
    np.testing.assert_allclose(mean, 4 * weights, atol=fm.TOLERANCE)
    np.testing.assert_allclose(variance, expected, atol=fm.TOLERANCE)

    mean, variance = offspring_moments(one_uniform_for_all_strata, np.log(weights), 4)
    np.testing.assert_allclose(mean, 4 * weights, atol=fm.TOLERANCE)
    error = np.abs(variance - expected).max()
    print(f"one uniform for all strata: variance off by {error:.2e}")
    assert error > fm.CAUGHT
