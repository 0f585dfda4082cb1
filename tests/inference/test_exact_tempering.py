"""Tempered SMC, held against prior times likelihood on every state, with no sampling error."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.errors import LawMismatch
from bayeskit.inference import (
    DiscreteMetropolis,
    TemperedPath,
    blocks,
    effective_sample_size,
    law,
    move,
    resample,
    schedule,
    until,
    weigh,
    when,
)
from bayeskit.validation import exact
from tests.inference import finite_models as fm

MODEL = fm.tempered_model(num_states=3)
GAMMA = MODEL.measure()
TEMPERED = fm.tempered_blocks(MODEL, 3)
# Chains of moves have many paths: two states are enough for them.
COIN = fm.tempered_model(num_states=2, seed=4)


def assert_exact(block, expected=GAMMA, enumeration=None):
    fm.assert_exact(block, expected, enumeration, observed=fm.positions)


def assert_caught(block, expected=GAMMA):
    fm.assert_caught(block, expected, observed=fm.positions)


# ---------------------------------------------------------------- the law holds


def test_fixed_ladder():
    assert TEMPERED.law.kind is law.PROPERLY_WEIGHTED
    assert_exact(TEMPERED)


def test_fixed_ladder_with_two_moves_and_multinomial_resampling():
    block = fm.tempered_blocks(
        MODEL,
        2,
        resampling=lambda path: resample("multinomial"),
        moving=lambda path: move(MODEL.kernel, path, 2, repeats=2),
    )
    assert_exact(block)


def test_annealed_importance_sampling():
    assert_exact(fm.tempered_blocks(MODEL, 2, resampling=None))


def uneven(population):
    return effective_sample_size(population.log_weights) < 1.5


def test_resampling_only_when_needed():
    """The same decision as `ess_below`, made by a predicate of one's own."""
    block = fm.tempered_blocks(
        MODEL, 2, resampling=lambda path: when(uneven, resample("multinomial"))
    )
    assert block.law.kind is law.PROPERLY_WEIGHTED
    enumeration = exact.Enumeration()
    assert_exact(block, enumeration=enumeration)
    ((needed, not_needed),) = enumeration.branch_mass.values()
    assert min(needed, not_needed) > 0.01, f"masses of the branches: {needed}, {not_needed}"


def test_moving_only_when_needed_is_biased_and_says_so():
    """A kernel does not keep the part of the measure where the weights are uneven."""
    block = fm.tempered_blocks(
        MODEL,
        2,
        resampling=None,
        moving=lambda path: when(
            uneven, resample("multinomial") >> move(MODEL.kernel, path, repeats=1)
        ),
    )
    assert block.law.kind is law.CONSISTENT
    assert_caught(block)


def test_moving_at_some_times_only_is_exact():
    """Where the condition knows the stage alone, it holds everywhere or nowhere."""
    block = fm.tempered_blocks(
        MODEL,
        2,
        moving=lambda path: when(
            lambda population: population.stage.number == 2,
            move(MODEL.kernel, path, repeats=1),
        ),
    )
    assert_exact(block)


def waste_free(steps, repeats, moving=move):
    """Two parents, each with all states of its chain."""
    return fm.tempered_blocks(
        COIN,
        2 * (steps + 1),
        resampling=lambda path: resample("systematic", num=2),
        moving=lambda path: moving(COIN.kernel, path, steps, keep="all", repeats=repeats),
    )


@pytest.mark.parametrize(("steps", "repeats"), [(1, 1), (2, 1), (1, 2)])
def test_waste_free(steps, repeats):
    assert_exact(waste_free(steps, repeats), COIN.measure())


def test_shapes_of_a_waste_free_run():
    population, info = jax.eval_shape(waste_free(2, 1).run, jax.random.key(0))
    assert population.particles.position.shape == population.log_weights.shape == (6,)
    assert population.particles.components.shape == (6, 2)
    assert info["acceptance"].shape == info["inverse_temperature"].shape == (200,)


# ---------------------------------------------------------------- adaptation


def adaptive(num_particles, ess=0.7):
    return fm.tempered_blocks(
        MODEL, num_particles, scheduling=lambda path: schedule(path, ess=ess)
    )


def test_adaptive_schedule_is_biased_by_a_known_amount():
    """The bias is there, small, and falls with the number of particles."""
    assert adaptive(3).law.kind is law.CONSISTENT
    bias = {num: fm.mean_evidence(adaptive(num)) / GAMMA.mass.sum() - 1 for num in (2, 3)}
    print("E Ẑ / Z - 1:", {num: round(value, 6) for num, value in bias.items()})
    assert fm.CAUGHT < abs(bias[3]) < 0.1, f"E Ẑ / Z - 1 by number of particles: {bias}"
    assert abs(bias[3]) < abs(bias[2]), f"E Ẑ / Z - 1 by number of particles: {bias}"


def test_frozen_schedule_is_exact_again():
    """The temperatures of one adaptive run, kept for another, leave no bias."""
    _, info = blocks.run(adaptive(3, ess=0.9), 2, with_info=True)
    chosen = np.asarray(info["inverse_temperature"], float)[: int(info["num_rounds"])]
    assert len(chosen) > 2
    assert chosen[-1] == 1
    frozen = fm.tempered_blocks(
        MODEL, 3, scheduling=lambda path: schedule(path, ladder=(0.0, *chosen))
    )
    assert frozen.law.kind is law.PROPERLY_WEIGHTED
    assert_exact(frozen)


def schedule_error(num_particles=3, ess=0.7):
    """How far the chosen temperatures are from the wanted effective sample size, exactly."""
    path = TemperedPath(MODEL.target)
    first_stage = until(
        lambda stage: stage.number == 1, schedule(path, ess=ess) >> weigh(path.increment)
    )
    block = fm.tempering_start(path, num_particles) >> first_stage
    with jax.enable_x64(True):
        population = exact.push(block, fm.NOTHING, exact.Enumeration()).state
        size = np.asarray(jax.vmap(effective_sample_size)(population.log_weights))
    unfinished = population.stage.current < 1
    assert unfinished.any()
    excess = size - ess * num_particles
    # At temperature 1 the size may be larger than wanted, never smaller.
    return np.abs(np.where(unfinished, excess, np.minimum(excess, 0.0))).max()


def test_schedule_keeps_the_wanted_effective_sample_size():
    assert schedule_error() < 1e-8


# ---------------------------------------------------------------- law and frequencies agree


def test_ordinary_keys_follow_the_enumerated_law():
    """20 000 fixed keys; 4 statistics with |z| < 6 have a false-alarm rate below 1e-8."""
    keys = jax.random.split(accel.as_key(11), 20_000)

    @jax.jit
    @jax.vmap
    def mass_by_state(key):
        population, _ = TEMPERED.run(key)
        weight = jnp.exp(population.log_evidence + population.log_weights)
        return jnp.zeros(3).at[population.particles.position].add(weight)

    masses = np.asarray(mass_by_state(keys), np.float64)
    masses = np.column_stack([masses, masses.sum(1)])
    expected = np.append(GAMMA.mass, GAMMA.mass.sum())
    z = (masses.mean(0) - expected) / masses.std(0) * math.sqrt(len(masses))
    assert np.abs(z).max() < 6, f"z-scores by state, then of the evidence: {z.round(2)}"


# ---------------------------------------------------------------- planted mistakes


def test_increment_with_the_new_temperature_is_caught():
    def weighing(path):
        wrong = lambda stage, particle: stage.current * particle.components[1]
        return weigh(dataclasses.replace(path.increment, function=wrong))

    assert_caught(fm.tempered_blocks(MODEL, 2, weighing=weighing))


@pytest.fixture
def opposite_sign(monkeypatch):
    right = accel.temper_step
    wrong = lambda values, *others, **options: right(-values, *others, **options)
    monkeypatch.setattr(accel, "temper_step", wrong)


@pytest.mark.usefixtures("opposite_sign")
def test_schedule_with_the_opposite_sign_is_caught():
    error = schedule_error()
    print(f"schedule with the opposite sign: effective sample size off by {error:.2e}")
    assert error > fm.CAUGHT


@pytest.mark.usefixtures("opposite_sign")
def test_opposite_sign_is_invisible_with_two_particles():
    # The effective sample size of two weights does not know which of them is larger.
    assert schedule_error(num_particles=2) < 1e-8


def test_move_at_the_old_temperature_is_refused_where_it_is_declared():
    path = TemperedPath(MODEL.target)
    stage = (
        schedule(path, ladder=fm.LADDER)
        >> move(MODEL.kernel, path, repeats=1)
        >> weigh(path.increment)
    )
    with pytest.raises(LawMismatch, match=r"leaves π_λ\[t\] invariant.*stands for π_λ\[t-1\]"):
        fm.tempering_start(path, 2) >> until(path.is_complete, stage)


class OldTemperature(TemperedPath):
    """Declares the current temperature and moves at the one before."""

    def at(self, stage):
        return super().at(stage._replace(current=stage.previous))


def test_move_at_the_old_temperature_is_caught_where_the_declaration_lies():
    assert_caught(fm.tempered_blocks(MODEL, 2, path_type=OldTemperature))


class AnyParents(blocks.Move):
    """Keeps all states without asking that the weights of their parents are equal."""

    def arrow(self, law):
        return law.then(law.measure, self.name)


def test_waste_free_with_parents_that_are_not_resampled_is_caught():
    path = TemperedPath(COIN.target)
    stage = (
        schedule(path, ladder=(0.0, 1.0))
        >> weigh(path.increment)
        >> AnyParents(COIN.kernel, path, keep="all", repeats=1)
    )
    block = fm.tempering_start(path, 2) >> until(path.is_complete, stage)
    assert_caught(block, COIN.measure())


class StartNotCounted(blocks.Move):
    """The weight of a state leaves the first state of its chain out of the count."""

    def run(self, key, population=None):
        moved, info = super().run(key, population)
        counted = moved.num_particles - population.num_particles
        log_weights = jnp.full_like(moved.log_weights, -math.log(counted))
        return moved._replace(log_weights=log_weights), info


def test_waste_free_that_does_not_count_the_start_is_caught():
    assert_caught(waste_free(1, 1, moving=StartNotCounted), COIN.measure())


class CachesTheProposal(DiscreteMetropolis):
    """A rejected step keeps the position and takes the cached density of the proposal."""

    def step(self, key, state, density, tuning):
        moved, info = super().step(key, state, density, tuning)
        # On two states the proposal that was rejected is the other one, or none at all.
        proposed = density.components(1 - state.position)
        return moved._replace(
            components=jnp.where(info.accepted, moved.components, proposed)
        ), info


@pytest.mark.parametrize("steps", [1, 2])
def test_cached_density_of_a_rejected_proposal_is_caught(steps):
    """After one step the next weight is wrong, within two steps the second acceptance."""
    kernel = CachesTheProposal(COIN.kernel.proposal)
    ladder = fm.LADDER if steps == 1 else (0.0, 1.0)
    block = fm.tempered_blocks(
        COIN,
        2,
        scheduling=lambda path: schedule(path, ladder=ladder),
        moving=lambda path: move(kernel, path, steps, repeats=1),
    )
    assert_caught(block, COIN.measure())
