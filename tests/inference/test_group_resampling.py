"""Groups of particles that resample by themselves: exact laws, and mistakes in the exchange."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit import inference as bi
from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import law
from bayeskit.inference.blocks import group_resampling
from bayeskit.inference.lineage import Lineage
from bayeskit.inference.population import Population
from bayeskit.validation import exact
from tests.inference import finite_models as fm
from tests.inference.linear_gaussian import LinearGaussian, log_errors, z_of_evidence

CHAIN = fm.random_chain(num_states=2, num_steps=3, seed=4)
GAMMA = fm.path_measure(CHAIN)
FILTER = fm.filter_blocks(fm.path_model(CHAIN), num_particles=4)


def log_rate(stage, path):
    return jnp.where(path[0] == 1, 0.7, -0.4)


BLOCKS = [
    bi.resample_in_groups(2),
    bi.resample_in_groups(2, "multinomial", exchanged=0.0),
    bi.resample_in_groups(4, exchanged=0.5),
    bi.resample_in_groups(2, "killing"),
    bi.resample_in_groups(2, rate=log_rate),
    bi.resample_butterfly(2),
    bi.resample_butterfly(4),
    bi.resample_butterfly(4, "ssp"),
    bi.resample_butterfly(4, rate=log_rate),
]


# ---------------------------------------------------------------- the law holds


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_filters_stand_for_gamma_on_every_path(block):
    whole = FILTER.with_resampling(block)
    assert whole.law.kind is law.PROPERLY_WEIGHTED
    fm.assert_exact(whole, GAMMA)


@pytest.mark.parametrize("build", [bi.resample_in_groups, bi.resample_butterfly])
def test_adaptive_resampling_keeps_the_law(build):
    fm.assert_exact(FILTER.with_resampling(build(4, "systematic", 0.8)), GAMMA)


def test_adaptive_groups_use_both_branches():
    enumeration = exact.Enumeration()
    fm.assert_exact(
        FILTER.with_resampling(bi.resample_in_groups(2, ess_below=0.8)), GAMMA, enumeration
    )
    ((needed, not_needed),) = enumeration.branch_mass.values()
    assert min(needed, not_needed) > 0.1


@pytest.mark.parametrize("block", [BLOCKS[0], BLOCKS[6]], ids=lambda block: block.name)
def test_groups_that_die(block):
    potential = CHAIN.log_potential.copy()
    potential[1, 0] = -np.inf
    chain = CHAIN._replace(log_potential=potential)
    filter_ = fm.filter_blocks(fm.path_model(chain), num_particles=4)
    fm.assert_exact(filter_.with_resampling(block), fm.path_measure(chain))


@pytest.mark.parametrize("block", [BLOCKS[0], BLOCKS[5]], ids=lambda block: block.name)
def test_tempered_sampler(block):
    model = fm.tempered_model(num_states=2)
    whole = fm.tempered_blocks(model, 4, resampling=lambda path: block)
    fm.assert_exact(whole, model.measure(), observed=fm.positions)


def test_as_the_scheme_of_an_algorithm():
    whole = bi.particle_filter(FILTER.model, 4, scheme=bi.resample_in_groups(2), ess_below=0.8)
    assert "resample_in_groups(2, systematic, exchanged=0.1, ess<0.8)" in whole.explain()


# ---------------------------------------------------------------- planted mistakes


@pytest.fixture
def planted(monkeypatch):
    right = group_resampling.draw_in_pools

    def plant(mistake):
        monkeypatch.setattr(
            group_resampling,
            "draw_in_pools",
            lambda key, log_weights, scheme: mistake(
                log_weights, *right(key, log_weights, scheme)
            ),
        )

    return plant


def weights_of_groups_forgotten(log_weights, chosen, after):
    return chosen, jnp.full_like(after, -np.log(after.size))


def pairs_not_averaged(log_weights, chosen, after):
    """Each half of a pool keeps the weight of its own group."""
    half = after.shape[1] // 2
    own = jax.nn.logsumexp(log_weights.reshape(-1, 2, half), axis=2) - np.log(half)
    return chosen, jnp.repeat(own, half, axis=1)


def totals_of_the_next_pool(log_weights, chosen, after):
    """What a prefix over shards does that is off by one of them."""
    return chosen, jnp.roll(after, 1, axis=0)


def ancestors_of_the_next_pool(log_weights, chosen, after):
    return jnp.roll(chosen, 1, axis=0), after


@pytest.mark.parametrize(
    ("block", "mistake"),
    [
        (BLOCKS[0], weights_of_groups_forgotten),
        (BLOCKS[0], totals_of_the_next_pool),
        (BLOCKS[0], ancestors_of_the_next_pool),
        (BLOCKS[5], pairs_not_averaged),
        (BLOCKS[6], weights_of_groups_forgotten),
        (BLOCKS[6], totals_of_the_next_pool),
    ],
    ids=lambda value: getattr(value, "name", getattr(value, "__name__", None)),
)
def test_mistakes_are_caught(planted, block, mistake):
    planted(mistake)
    # A new block, since programs are kept with a block.
    fm.assert_caught(FILTER.with_resampling(replace(block)), GAMMA)


def particles_without_their_weights(population, num_groups, fraction):
    ring = accel.ring_exchange(population.particles, num_groups, fraction)
    return population._replace(particles=ring)


def test_particles_passed_on_without_their_weights_are_caught(monkeypatch):
    monkeypatch.setattr(group_resampling, "_passed_on", particles_without_their_weights)
    fm.assert_caught(FILTER.with_resampling(bi.resample_in_groups(2)), GAMMA)


# ---------------------------------------------------------------- against a Kalman filter

LINE = LinearGaussian(num_steps=12, seed=0)
ON_A_LINE = [
    bi.resample_in_groups(8, exchanged=0.2),
    bi.resample_in_groups(8, "stratified", 0.5),
    bi.resample_butterfly(8),
    bi.resample_butterfly(8, "ssp", 0.5),
]


def z_on_a_line(block):
    filter_ = bi.particle_filter(LINE.model(), 128, scheme=block)
    return z_of_evidence(log_errors(filter_, LINE, num_runs=4000))


@pytest.mark.parametrize("block", ON_A_LINE, ids=lambda block: block.name)
def test_the_evidence_of_a_linear_gaussian_model_is_unbiased(block):
    """4000 runs against the Kalman evidence; |z| < 5.5: false alarm below 4e-8."""
    assert abs(z_on_a_line(block)) < 5.5


@pytest.mark.parametrize(
    ("block", "mistake"),
    [
        (ON_A_LINE[0], weights_of_groups_forgotten),
        (ON_A_LINE[2], totals_of_the_next_pool),
    ],
    ids=lambda value: getattr(value, "name", getattr(value, "__name__", None)),
)
def test_mistakes_show_in_the_evidence_of_a_linear_gaussian_model(planted, block, mistake):
    planted(mistake)
    assert abs(z_on_a_line(replace(block))) > 8


# ---------------------------------------------------------------- what moves where


def population_of(log_weights, **options):
    log_weights = jax.nn.log_softmax(jnp.asarray(log_weights, jnp.float32))
    place = jnp.arange(log_weights.size, dtype=jnp.int32)
    return Population({"place": place}, log_weights, jnp.zeros(()), **options)


def run(block, population, key=0):
    return quick_jit(block.run)(accel.as_key(key), population)


@pytest.mark.parametrize("build", [bi.resample_in_groups, bi.resample_butterfly])
def test_labels_and_ancestors_move_with_their_particles(build):
    before = population_of(
        np.random.default_rng(0).normal(size=32),
        lineage=Lineage.founders(32),
        ancestors=jnp.zeros(32, jnp.int32),
    )
    after, _ = run(build(4), before)
    place = after.particles["place"]
    assert (after.lineage.label == place).all()
    if build is bi.resample_in_groups:
        assert (after.ancestors == place).all()


def test_a_heavy_group_spreads_by_one_group_a_step():
    log_weights = np.full(32, -np.inf)
    log_weights[:8] = 0.0
    population, block = population_of(log_weights), bi.resample_in_groups(4)
    for heavy in (2, 3, 4):
        population, _ = run(block, population)
        by_group = jnp.exp(population.log_weights).reshape(4, 8).sum(1)
        assert (by_group > 0).tolist() == [group < heavy for group in range(4)]


def test_groups_without_exchange_stay_apart():
    block = bi.resample_in_groups(4, exchanged=0.0)
    before = population_of(np.random.default_rng(1).normal(size=32))
    after, _ = run(block, before)
    assert (after.particles["place"] // 8 == jnp.arange(32) // 8).all()
    totals = [jnp.exp(p.log_weights).reshape(4, 8).sum(1) for p in (before, after)]
    np.testing.assert_allclose(totals[1], totals[0], rtol=1e-6)


def test_butterfly_ends_with_equal_weights_after_as_many_stages_as_are_needed():
    log_weights = 3 * np.random.default_rng(2).normal(size=64)
    after, info = run(bi.resample_butterfly(8), population_of(log_weights))
    np.testing.assert_allclose(jnp.exp(after.log_weights), 1 / 64, rtol=1e-5)
    assert info["num_stages"] == 3
    adaptive = bi.resample_butterfly(8, ess_below=0.5)
    _, info = run(adaptive, population_of(np.zeros(64)))
    assert (int(info["num_stages"]), bool(info["resampled"])) == (0, False)
    _, info = run(adaptive, population_of(log_weights))
    assert info["num_stages"] == 1


def test_each_stage_speaks_to_one_other_group():
    first, second = bi.resample_butterfly(4).stages
    population = population_of(np.random.default_rng(3).normal(size=16))
    for stage, partner in ((first, [1, 0, 3, 2]), (second, [2, 3, 0, 1])):
        after, _ = run(stage, population)
        origin = np.asarray(after.particles["place"]).reshape(4, 4) // 4
        for group in range(4):
            assert set(origin[group]) <= {group, partner[group]}


def test_systematic_resampling_allots_to_groups_in_proportion():
    """Its prefix sums are an allocation to shards: within 1 of the number that is due."""
    log_weights = 2 * np.random.default_rng(4).normal(size=4096)
    weights = np.exp(log_weights).reshape(8, 512).sum(1) / np.exp(log_weights).sum()
    ancestors = accel.systematic(accel.as_key(0), jnp.asarray(log_weights, jnp.float32)).index
    offspring = np.bincount(np.asarray(ancestors) // 512, minlength=8)
    assert np.abs(offspring - 4096 * weights).max() < 1


# ---------------------------------------------------------------- bad input


def test_bad_input():
    with pytest.raises(ValueError, match=r"10 particles do not divide into 4 groups.*multiple"):
        run(bi.resample_in_groups(4), population_of(np.zeros(10)))
    with pytest.raises(ValueError, match=r"10 particles do not divide into 4 groups.*multiple"):
        run(bi.resample_butterfly(4), population_of(np.zeros(10)))
    for number in (1, 3, 6):
        with pytest.raises(ValueError, match=f"power of 2 above 1, got {number}"):
            bi.resample_butterfly(number)
    for build in (bi.resample_in_groups, bi.resample_butterfly):
        with pytest.raises(ValueError, match="num_groups must be at least 1, got 0"):
            build(0)
        with pytest.raises(TypeError, match="num_groups must be a whole number, got float"):
            build(2.0)
        with pytest.raises(ValueError, match="unknown scheme 'best'"):
            build(2, "best")
        with pytest.raises(ValueError, match=r"ess_below must be a fraction in \(0, 1\]"):
            build(2, ess_below=2.0)
        with pytest.raises(TypeError, match="rate must be a function"):
            build(2, rate=3.0)
    for fraction in (-0.1, 0.6, np.nan):
        with pytest.raises(ValueError, match=r"exchanged must be a fraction in \[0, 0.5\]"):
            bi.resample_in_groups(2, exchanged=fraction)
    with pytest.raises(ValueError, match="has no num"):
        bi.resample(bi.resample_in_groups(2), num=3)
