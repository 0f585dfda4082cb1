"""An adaptive algorithm is biased; with the constants of one of its runs it is exact."""

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit.inference import (
    ABCMove,
    DataPath,
    LevelPath,
    PointState,
    Target,
    TemperedPath,
    TolerancePath,
    UniformOther,
    abc_smc,
    adapt,
    blocks,
    freeze,
    ibis,
    law,
    move,
    random,
    renew,
    resample,
    reserve,
    run,
    schedule,
    spawn,
    until,
    weigh,
)
from bayeskit.inference.adaptation import initial_tuning
from bayeskit.inference.blocks import freezing
from bayeskit.inference.kernels import metropolis, not_usable
from bayeskit.validation.exact import Atoms
from tests.inference import finite_models as fm

RNG = np.random.default_rng(1)
LOG_PRIOR = np.log(RNG.dirichlet(np.ones(3)))
LOG_LIKELIHOOD = 2.0 * RNG.normal(size=3)
TARGET = Target(
    log_prior=lambda x: fm.log_table(LOG_PRIOR)[x[0]],
    log_likelihood=lambda x: fm.log_table(LOG_LIKELIHOOD)[x[0]],
    sample_prior=lambda key: random.categorical(key, fm.log_table(LOG_PRIOR))[None],
    has_gradient=False,
    name="three",
)
GAMMA = Atoms(np.arange(3)[:, None], np.exp(LOG_PRIOR + LOG_LIKELIHOOD))
PATH = TemperedPath(TARGET)


@dataclass(frozen=True)
class Hesitant(UniformOther):
    """Accepts the more, the larger its step size and its spread: the tuning shows."""

    def step(self, key, state, density, tuning):
        value_key, accept_key = random.split(key)
        there = self._other(value_key, 0, state.position[0]).astype(state.position.dtype)
        proposal = PointState(there[None], density.components(there[None]))
        log_ratio = density.combine(proposal.components) - density.combine(state.components)
        size = tuning.step_size * jnp.sum(tuning.factor)
        log_ratio = jnp.minimum(log_ratio, 0.0) + jnp.log(size / (1.0 + size))
        bad = not_usable(proposal.components)
        return metropolis(accept_key, state, proposal, log_ratio, bad)


KERNEL = Hesitant((3,))


def algorithm(scheduling, *tuning):
    stage = scheduling >> weigh(PATH.increment)
    for block in tuning:
        stage = stage >> block
    stage = stage >> resample("systematic") >> move(KERNEL, PATH)
    start = spawn(PATH.initial, 2, stage=PATH.start(initial_tuning(KERNEL, 1)))
    return start >> until(PATH.is_complete, stage, max_rounds=8)


TUNED = adapt(KERNEL, 0.5, max_repeats=2)
ADAPTIVE = algorithm(schedule(PATH, ess=0.8), TUNED)


@functools.cache
def pilot():
    """A run of three stages that have different numbers of repeats."""
    for key in range(100):
        population, info = run(ADAPTIVE, key, with_info=True)
        num = int(info["num_rounds"])
        if num == 3 and len(set(np.asarray(info["repeats"])[:num])) == 2:
            return population, info
    raise AssertionError("none of 100 runs")


def test_adaptive_run_is_biased_and_the_frozen_one_exact():
    assert ADAPTIVE.law.kind is law.CONSISTENT
    _, info = pilot()
    num = int(info["num_rounds"])
    print({k: np.asarray(info[k])[:num] for k in ("inverse_temperature", "repeats")})
    frozen = freeze(ADAPTIVE, info)
    assert frozen.law.kind is law.PROPERLY_WEIGHTED
    assert "follow(plan)" in frozen.explain()
    fm.assert_exact(frozen, GAMMA, observed=fm.positions)
    bias = fm.mean_evidence(ADAPTIVE) / GAMMA.mass.sum() - 1
    print(f"E Ẑ / Z - 1 of the adaptive run: {bias:.4f}")
    assert abs(bias) > 0.01


def test_a_ladder_that_is_fixed_alone_is_not_enough():
    """The planted bug: temperatures are frozen, and the tuning still looks at the particles."""
    half = algorithm(schedule(PATH, ladder=(0.0, 0.3, 1.0)), TUNED)
    assert half.law.kind is law.CONSISTENT
    fm.assert_caught(half, GAMMA, observed=fm.positions)
    _, info = run(half, 0, with_info=True)
    assert freeze(half, info).law.kind is law.PROPERLY_WEIGHTED


def test_the_frozen_run_does_what_the_pilot_chose():
    population, info = pilot()
    _, again = run(freeze(ADAPTIVE, info), 4, with_info=True)
    num = int(info["num_rounds"])
    assert int(again["num_rounds"]) == num
    for name in ("inverse_temperature", "repeats", "step_size"):
        np.testing.assert_array_equal(info[name][:num], again[name][:num])
    factor = np.asarray(info["tuning"].factor)
    assert len(np.unique(factor[:num])) > 1
    np.testing.assert_array_equal(factor[num - 1], population.stage.tuning.factor)


# ---------------------------------------------------------------- other paths


def pilot_of(block, fits):
    """The first of 200 runs that adapts and that is short enough to be enumerated."""
    for key in range(200):
        _, info = jax.tree.map(np.asarray, block.compiled(jax.random.key(key)))
        if fits(info, slice(int(info["num_rounds"]))):
            return info
    raise AssertionError("none of 200 runs")


TERMS = np.log(np.random.default_rng(7).random((3, 3)) + 0.02)  # (state, datum)
DATA = DataPath(
    log_prior=TARGET.log_prior,
    log_terms=lambda x: fm.log_table(TERMS)[x[0]],
    sample_prior=TARGET.sample_prior,
    has_gradient=False,
)
POSTERIOR = Atoms(np.arange(3)[:, None], np.exp(LOG_PRIOR + TERMS.sum(axis=1)))
IBIS = ibis(DATA, KERNEL, 2, ess_below=0.9, correlation=0.9)


@functools.cache
def data_pilot():
    """It moves after one or two of the three data."""
    return pilot_of(
        IBIS, lambda i, done: 0 < i["applied"][done].sum() < 3 and i["repeats"].max() < 3
    )


def itself(positions):
    return positions


def test_where_a_run_moved_is_frozen_as_well():
    assert IBIS.law.kind is law.CONSISTENT
    fm.assert_caught(IBIS, POSTERIOR, observed=itself)
    info = data_pilot()
    frozen = freeze(IBIS, info)
    assert frozen.law.kind is law.PROPERLY_WEIGHTED
    fm.assert_exact(frozen, POSTERIOR, observed=itself)
    _, again = run(frozen, 5, with_info=True)
    np.testing.assert_array_equal(again["applied"], info["applied"])


def test_decisions_that_still_look_at_the_particles_are_caught():
    """The planted bug: tunings are frozen, and moves are made where weights are uneven."""
    plan = freeze(IBIS, data_pilot()).first.stage.plan
    # Where the pilot did not move it noted no tuning.
    tuning = jax.tree.map(lambda x: np.nan_to_num(x, nan=1.0), plan.tuning)
    plan = plan._replace(tuning=tuning, repeats=np.maximum(plan.repeats, 1))
    half = blocks.following(IBIS)
    start = dataclasses.replace(half.first, stage=half.first.stage._replace(plan=plan))
    fm.assert_caught(start >> half.second, POSTERIOR, observed=itself)


LEVELS = LevelPath(TARGET, negligible=0.2)
RENEWAL = adapt(KERNEL, 0.9) >> resample("systematic", num=2) >> move(KERNEL, LEVELS, repeats=1)
NESTED = (
    spawn(LEVELS.initial, 2, stage=LEVELS.start(initial_tuning(KERNEL, 1)))
    >> reserve(4)
    >> until(
        LEVELS.is_complete,
        schedule(LEVELS, 0.5) >> weigh(LEVELS.increment) >> renew(RENEWAL, LEVELS.is_alive),
        max_rounds=4,
    )
)


def test_levels_are_frozen():
    """As in `nested_sampling`, with one kernel step a round."""
    assert NESTED.law.kind is law.CONSISTENT
    frozen = freeze(NESTED, pilot_of(NESTED, lambda i, done: done.stop == 3))
    assert frozen.law.kind is law.PROPERLY_WEIGHTED
    fm.assert_exact(frozen, GAMMA, observed=fm.positions)
    # Levels that are order statistics leave no bias even while they adapt: Bréhier, Lelièvre &
    # Rousset (2015), *Analysis of adaptive multilevel splitting algorithms*.
    fm.assert_exact(NESTED, GAMMA, observed=fm.positions)


class StandsStill(freezing.Follow):
    """Planted: where the round before ended is not written down, so that shells overlap."""

    def run(self, key, population=None):
        before = population.stage.previous
        after, info = super().run(key, population)
        return after._replace(stage=after.stage._replace(previous=before)), info


def test_a_plan_that_is_followed_wrongly_is_caught(monkeypatch):
    info = pilot_of(NESTED, lambda i, done: done.stop == 3)
    monkeypatch.setattr(freezing, "Follow", StandsStill)
    fm.assert_caught(freeze(NESTED, info), GAMMA, observed=fm.positions)


LOG_SIMULATION = np.log(RNG.dirichlet(np.ones(3), 3))
DISTANCES = np.array([0.3, 1.0, 2.0])
TOLERANCES = TolerancePath(
    log_prior=TARGET.log_prior,
    sample_prior=TARGET.sample_prior,
    simulate_distance=lambda key, x: fm.log_table(DISTANCES)[
        random.categorical(key, fm.log_table(LOG_SIMULATION)[x[0]])
    ],
    tolerance=0.5,
)


def other_state(key, x, tuning):
    return (x + 1 + random.categorical(key, jnp.zeros(2))) % 3, 0.0


ABC = abc_smc(
    TOLERANCES, 2, moves=ABCMove(TOLERANCES, other_state), correlation=0.9, max_stages=6
)


def test_tolerances_are_frozen():
    assert ABC.law.kind is law.CONSISTENT
    fits = lambda i, done: (
        done.stop > 1 and i["tolerance"][done][-1] == 0.5 and i["repeats"][done].max() < 2
    )
    frozen = freeze(ABC, pilot_of(ABC, fits))
    assert frozen.law.kind is law.PROPERLY_WEIGHTED
    # Of the distances the first alone is within the tolerance.
    within = Atoms(np.arange(3)[:, None], np.exp(LOG_PRIOR + LOG_SIMULATION[:, 0]))
    fm.assert_exact(frozen, within, observed=fm.positions)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: freeze(ADAPTIVE, {}), ValueError, "info lacks"),
        (lambda: freeze(ADAPTIVE.second, pilot()[1]), TypeError, "waits for a population"),
        (
            lambda: freeze(ADAPTIVE, {**pilot()[1], "num_rounds": 1}),
            ValueError,
            "ended at the inverse temperature 0",
        ),
        (
            lambda: freeze(spawn(PATH.initial, 2) >> ADAPTIVE.second, pilot()[1]),
            TypeError,
            "no stage to carry the plan",
        ),
        (lambda: freeze(spawn(PATH.initial, 2), pilot()[1]), TypeError, "nothing in it adapts"),
        (
            lambda: freeze(IBIS, {k: v for k, v in data_pilot().items() if k != "applied"}),
            ValueError,
            "info lacks 'applied'",
        ),
        (lambda: blocks.following(TUNED), TypeError, "only adapts"),
    ],
)
def test_what_cannot_be_frozen_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
