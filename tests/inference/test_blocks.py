"""Blocks: what they refuse, what they report, and how they run on ordinary keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit.errors import LawMismatch, MissingGradientError
from bayeskit.inference import (
    HMC,
    Block,
    RandomWalk,
    Target,
    TemperedPath,
    adapt,
    blocks,
    custom,
    extend,
    move,
    random,
    resample,
    scan,
    schedule,
    spawn,
    tempered_smc,
    until,
    waste_free_smc,
    weigh,
    when,
)
from tests.inference import finite_models as fm

MODEL = fm.tempered_model()
PATH = TemperedPath(MODEL.target)
FILTER = fm.filter_blocks(fm.path_model(fm.random_chain()), 4)
GAUSSIAN = Target(
    log_prior=lambda x: -0.5 * jnp.sum(x**2),
    log_likelihood=lambda x: -2.0 * jnp.sum((x - 1.0) ** 2),
    sample_prior=lambda key: random.normal(key, (2,)),
)


def coin(key):
    return random.categorical(key, jnp.zeros(2))


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("num_particles", [0, -3, 2.5, "many", None])
def test_number_of_particles(num_particles):
    with pytest.raises(ValueError, match="num_particles must be a whole number >= 1, got"):
        spawn(coin, num_particles)


def test_one_particle_is_allowed():
    assert blocks.run(spawn(coin, np.int64(1)), 0).log_weights.shape == (1,)


def test_unknown_scheme():
    with pytest.raises(ValueError, match=r"unknown scheme 'sistematic': choose one of.*'syst"):
        resample("sistematic")


@pytest.mark.parametrize("ess_below", [0, 0.0, -0.5, 1.01, float("nan")])
def test_fraction_to_resample_below(ess_below):
    with pytest.raises(ValueError, match=r"ess_below must be a fraction in \(0, 1\], got"):
        resample(ess_below=ess_below)


def test_number_of_offspring():
    with pytest.raises(ValueError, match="num must be at least 1, got 0"):
        resample(num=0)
    with pytest.raises(ValueError, match="so ess_below cannot be given"):
        resample(num=3, ess_below=0.5)


@pytest.mark.parametrize(
    "ladder",
    [
        (),
        (0.0,),
        (0.0, 0.5),
        (0.1, 1.0),
        (0.0, 0.5, 0.5, 1.0),
        (0.0, 0.7, 0.3, 1.0),
        (0.0, 2.0),
    ],
)
def test_ladder(ladder):
    with pytest.raises(ValueError, match="ladder must increase strictly from 0 to 1, got"):
        schedule(PATH, ladder=ladder)


def test_long_ladder_is_not_printed_in_full():
    with pytest.raises(ValueError, match=r"got \(0.0, 0.01, 0.02, '...', ") as caught:
        schedule(PATH, ladder=np.arange(0, 99) / 100)
    assert len(str(caught.value)) < 200


def test_ladder_of_nan():
    with pytest.raises(ValueError, match="ladder must increase strictly from 0 to 1"):
        schedule(PATH, ladder=(0.0, float("nan"), 1.0))


@pytest.mark.parametrize("ess", [0.0, 1.0, -1, float("nan")])
def test_fraction_to_schedule_for(ess):
    with pytest.raises(ValueError, match=r"ess must be a fraction in \(0, 1\), got"):
        schedule(PATH, ess=ess)


@pytest.mark.parametrize("correlation", [0.0, 1.0])
def test_correlation_to_adapt_for(correlation):
    with pytest.raises(ValueError, match=r"correlation must be in \(0, 1\), got"):
        adapt(RandomWalk(), correlation)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"keep": "some"}, "keep must be 'last' or 'all', got 'some'"),
    ],
)
def test_counts_of_moves(options, message):
    with pytest.raises(ValueError, match=message):
        move(MODEL.kernel, PATH, **options)


def test_loops_need_a_path():
    with pytest.raises(ValueError, match="no function of the body declares a path"):
        scan(resample())
    with pytest.raises(ValueError, match="no function of the body declares a path"):
        until(lambda stage: True, resample())
    with pytest.raises(ValueError, match="π_λ has no number of steps; give times="):
        scan(weigh(PATH.increment))
    with pytest.raises(ValueError, match="max_rounds must be at least 1, got 0"):
        until(PATH.is_complete, weigh(PATH.increment), max_rounds=0)


def test_block_that_waits_for_a_population_cannot_be_run():
    open_block = resample() >> FILTER.extension
    with pytest.raises(TypeError, match="waits for a population: begin with spawn"):
        blocks.run(open_block, 0)


def test_composition_with_something_else():
    with pytest.raises(TypeError):
        FILTER.start >> (lambda population: population)


def test_continuous_kernel_on_integer_positions():
    block = fm.tempered_blocks(MODEL, 4, moving=lambda path: move(RandomWalk(), path))
    with pytest.raises(TypeError, match="random-walk Metropolis moves vectors of floating"):
        blocks.run(block, 0)


def test_gradient_kernel_without_a_gradient_is_refused_before_anything_is_compiled():
    target = Target(
        log_prior=GAUSSIAN.log_prior,
        log_likelihood=GAUSSIAN.log_likelihood,
        sample_prior=GAUSSIAN.sample_prior,
        has_gradient=False,
    )
    with pytest.raises(MissingGradientError, match="HMC follows the gradient"):
        blocks.run(tempered_smc(target, HMC(), 10), 0)


@pytest.mark.parametrize("build", [tempered_smc, waste_free_smc])
def test_algorithms_want_vectors(build):
    target = Target(
        log_prior=lambda x: -(x**2),
        log_likelihood=lambda x: x,
        sample_prior=lambda key: random.normal(key),
    )
    with pytest.raises(TypeError, match=r"positions must be vectors, got shape \(\)"):
        build(target, RandomWalk(), 10, *([5] if build is waste_free_smc else []))


# ---------------------------------------------------------------- runs on ordinary keys


def test_names():
    block = FILTER.with_resampling(resample("stratified", 0.5))
    assert repr(block) == "spawn(4) >> weigh >> scan(resample(stratified, ess<0.5) >> extend)"
    assert repr(resample(num=7)) == "resample(systematic, num=7)"
    assert repr(when(lambda p: True, resample())) == "when(resample(systematic))"
    assert repr(custom(coin)) == "coin"
    assert repr(schedule(PATH)) == "schedule(ess=0.5)"


def test_seed_key_and_old_style_key_give_the_same_run():
    block = spawn(coin, 10)
    key = jax.random.key(3)
    runs = [blocks.run(block, key), blocks.run(block, jax.random.PRNGKey(3))]
    np.testing.assert_array_equal(runs[0].particles, runs[1].particles)
    again = blocks.run(block, 3), blocks.run(block, 3)
    np.testing.assert_array_equal(again[0].particles, again[1].particles)


def test_resampling_gives_equal_weights_and_keeps_the_evidence():
    weighed = blocks.run(FILTER.start, 0)
    resampled, info = resample("systematic").run(jax.random.key(0), weighed)
    assert info == {}
    assert float(resampled.log_evidence) == float(weighed.log_evidence)
    np.testing.assert_allclose(resampled.log_weights, -np.log(4.0), rtol=1e-6)
    fewer, _ = resample("systematic", num=2).run(jax.random.key(0), weighed)
    assert fewer.log_weights.shape == (2,)
    assert fewer.particles.shape == (2, 3)


def test_adaptive_resampling_leaves_even_weights_alone():
    spawned = blocks.run(spawn(FILTER.model.initial, 4), 0)
    same, info = resample(ess_below=1.0).run(jax.random.key(0), spawned)
    assert not info["resampled"]
    np.testing.assert_array_equal(same.particles, spawned.particles)


@pytest.mark.parametrize("applied", [True, False])
def test_when(applied):
    shift = custom(lambda key, p: p._replace(particles=p.particles + 10), "shift")
    block = when(lambda population: applied, shift)
    start = blocks.run(spawn(coin, 3), 0)
    population, info = block.run(jax.random.key(0), start)
    assert bool(info["applied"]) is applied
    moved = np.asarray(population.particles - start.particles)
    assert moved.tolist() == [10 * applied] * 3


def test_when_reports_nothing_where_nothing_was_done():
    block = when(lambda population: False, weigh(lambda stage, x: -1.0 * x))
    start = blocks.run(spawn(coin, 3), 0)
    population, info = block.run(jax.random.key(0), start)
    assert np.isnan(info["effective_sample_size"])
    assert int(info["num_nan"]) == 0
    assert float(population.log_evidence) == 0.0


def test_until_stops_at_its_condition_and_can_be_stopped_between():
    """Rounds draw from a key of their own, so that a pause changes nothing."""
    body = schedule(PATH, ladder=fm.LADDER) >> weigh(PATH.increment) >> resample()
    loop = until(PATH.is_complete, body >> move(MODEL.kernel, PATH, repeats=1))
    start = blocks.run(fm.tempering_start(PATH, 20), 0)
    key = jax.random.key(1)
    whole, info = loop.run(key, start)
    assert int(info["num_rounds"]) == 3
    np.testing.assert_allclose(info["inverse_temperature"][:3], fm.LADDER[1:], rtol=1e-6)
    assert np.isnan(info["inverse_temperature"][3:]).all()
    state = loop.start(key, start)
    for _ in range(3):
        assert not loop.is_done(state)
        state = loop.advance(state, 1)
    assert loop.is_done(state)
    np.testing.assert_array_equal(state.population.particles.position, whole.particles.position)
    assert float(state.population.log_evidence) == float(whole.log_evidence)


def test_until_ends_at_the_size_of_its_record():
    body = schedule(PATH, ladder=fm.LADDER) >> weigh(PATH.increment)
    loop = until(PATH.is_complete, body, max_rounds=2)
    population, info = loop.run(jax.random.key(0), blocks.run(fm.tempering_start(PATH, 3), 0))
    assert int(info["num_rounds"]) == 2
    assert float(population.stage.current) == pytest.approx(0.5)


def test_until_ends_where_no_particle_is_alive():
    nowhere = MODEL._replace(log_likelihood=np.full(3, -np.inf))
    population, info = blocks.run(fm.tempered_blocks(nowhere, 5), 0, with_info=True)
    assert int(info["num_rounds"]) == 1
    assert float(population.log_evidence) == -np.inf
    assert not np.isnan(population.log_weights).any()


def test_loop_over_no_times():
    start = blocks.run(FILTER.start, 0)
    population, info = scan(FILTER.extension, range(1, 1)).run(jax.random.key(0), start)
    assert info == {}
    np.testing.assert_array_equal(population.particles, start.particles)


def test_infos_of_equal_blocks_are_all_kept():
    twice = weigh(lambda stage, x: 1.0 * x) >> weigh(lambda stage, x: 2.0 * x)
    _, info = (spawn(coin, 3) >> twice >> twice).run(jax.random.key(0))
    assert {"num_nan", "num_nan_2", "num_nan_3"} <= set(info)
    assert sum(name.startswith("num_nan") for name in info) == 4


def test_nan_potential_is_counted():
    block = spawn(coin, 50) >> weigh(lambda stage, x: jnp.where(x == 1, jnp.nan, 0.0))
    population, info = blocks.run(block, 0, with_info=True)
    ones = int(jnp.sum(population.particles == 1))
    assert int(info["num_nan"]) == ones > 0
    assert float(population.log_evidence) == pytest.approx(np.log(1 - ones / 50), abs=1e-5)


def test_extend_hands_over_stage_previous_and_new_particle():
    seen = {}

    def kernel(key, stage, previous):
        seen["kernel"] = (jnp.shape(stage), jnp.shape(previous))
        return jnp.stack([previous, previous])

    def log_g(stage, previous, particle):
        seen["log_g"] = (jnp.shape(stage), jnp.shape(previous), jnp.shape(particle))
        return 0.0 * particle[0]

    scan(extend(kernel, log_g), range(1, 2), FILTER.model).body.run(
        jax.random.key(0), blocks.run(spawn(coin, 3, stage=4), 0)
    )
    assert seen == {"kernel": ((), ()), "log_g": ((), (), (2,))}


@pytest.mark.parametrize("keep", ["last", "all"])
def test_move_on_a_target_of_plain_positions(keep):
    """Positions without cached values are moved and returned as they came."""
    kernel = RandomWalk()
    target = Target(log_density=lambda x: -0.5 * jnp.sum(x**2))
    block = (
        spawn(lambda key: random.normal(key, (2,)), 2000, target.measure)
        >> resample()
        >> move(kernel, target, 4, keep=keep, repeats=1, tuning=kernel.default_tuning(2))
    )
    population, info = blocks.run(block, 0, with_info=True)
    num = 2000 if keep == "last" else 10_000
    assert population.particles.shape == (num, 2)
    assert 0.2 < float(info["acceptance"]) < 0.6
    # Standard normal before and after: 6 standard errors of 2000 independent chains.
    assert np.abs(population.particles.mean(0)).max() < 6 / np.sqrt(2000)


def test_undeclared_law_of_a_custom_step_is_no_error():
    block = spawn(coin, 3) >> custom(lambda key, p: p, "as it is")
    assert blocks.run(block, 0).log_weights.shape == (3,)


def test_adaptive_algorithms_say_that_they_are_consistent():
    for block in (
        tempered_smc(GAUSSIAN, RandomWalk(), 20),
        waste_free_smc(GAUSSIAN, RandomWalk(), 5, 4),
    ):
        assert "=> L10 consistent for π_λ[T]" in block.explain()


def test_frozen_algorithm_of_another_target_is_refused():
    other = TemperedPath(MODEL.target)
    with pytest.raises(LawMismatch, match="starts from π_λ"):
        fm.tempering_start(PATH, 3) >> until(
            other.is_complete, schedule(other, ladder=fm.LADDER) >> weigh(other.increment)
        )


@pytest.mark.parametrize("part", ["name", "run", "arrow"])
def test_a_block_of_ones_own_is_told_what_it_lacks(part):
    class Mine(Block):
        pass

    with pytest.raises(NotImplementedError, match=f"Mine must define {part}"):
        Mine().name if part == "name" else getattr(Mine(), part)(None)
