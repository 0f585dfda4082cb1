"""An adaptive algorithm is biased; with the constants of one of its runs it is exact."""

import functools
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit.inference import (
    PointState,
    Target,
    TemperedPath,
    UniformOther,
    adapt,
    blocks,
    freeze,
    law,
    move,
    random,
    resample,
    run,
    schedule,
    spawn,
    until,
    weigh,
)
from bayeskit.inference.adaptation import initial_tuning
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
            lambda: freeze(spawn(PATH.initial, 2), pilot()[1]),
            TypeError,
            "no stage to carry the plan",
        ),
        (lambda: blocks.following(TUNED), TypeError, "only adapts"),
    ],
)
def test_what_cannot_be_frozen_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
