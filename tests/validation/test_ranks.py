"""Ranks along chains through exact draws. Each call has false-alarm rate 1e-6."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bayeskit.inference import HMC, RandomWalk, random
from bayeskit.inference.law import INVARIANT
from bayeskit.validation import Level, rank_test, validate
from bayeskit.validation.ranks import binomial_p_values
from tests.validation.test_joint import draw_centred, draw_normal_model, gibbs, rotate

QUICK = Level(num_stages=2, growth=2, first=50_000, num_frequencies=8)


def test_a_right_step_passes():
    report = validate(gibbs, start=draw_normal_model, law="reversible", level="ranks")
    assert report.verdict == "pass", report
    assert report.power.effect < 0.025


def test_likelihood_used_twice_is_found():
    step = functools.partial(gibbs, num_likelihoods=2)
    report = rank_test(step, draw_normal_model, level=QUICK)
    assert report.verdict == "fail"
    assert report.worst.startswith("the rank of")
    assert "with frequency" in report.worst


def test_the_other_direction_needs_the_reversed_step():
    def back(key, state):
        angle = -(0.3 + 0.1 * random.normal(key))
        x, y = state
        return jnp.stack(
            [jnp.cos(angle) * x - jnp.sin(angle) * y, jnp.sin(angle) * x + jnp.cos(angle) * y]
        )

    assert rank_test(rotate, draw_centred, level=QUICK, reverse=back).verdict == "pass"
    with pytest.raises(ValueError, match="reverse="):
        rank_test(rotate, draw_centred, level=QUICK, law=INVARIANT)


def test_ties_are_broken_at_random():
    """A chain that never moves has equal values only."""
    stay = lambda key, state: state
    assert rank_test(stay, draw_centred, level=QUICK).verdict == "pass"


@pytest.mark.parametrize("kernel", [RandomWalk(), HMC()])
def test_kernels(kernel):
    report = validate(kernel, models="skewed", level="ranks")
    assert report.verdict == "pass", report
    assert report.block == repr(kernel)
    assert report.law.endswith("on skewed")


def test_kernels_need_one_target():
    with pytest.raises(ValueError, match="chains on one target, got 2"):
        validate(RandomWalk(), models=["skewed", "banana"], level="ranks")


def test_binomial_p_values_are_valid():
    """Exactly: the mass of all counts with a p-value of at most x is at most x."""
    num, probability = 40, np.array([0.125, 0.5, 0.9])
    counts = np.arange(num + 1)
    for p in probability:
        mass = stats.binom.pmf(counts, num, p)
        p_values = binomial_p_values(counts, num, p)
        for x in p_values:
            assert mass[p_values <= x].sum() <= x * (1 + 1e-12)
    assert binomial_p_values(0, 1000, 0.5) < 1e-100


def test_a_step_that_declares_nothing_is_not_taken_for_reversible():
    with pytest.raises(ValueError, match="pass law='reversible' if it is its own reverse"):
        validate(gibbs, start=draw_normal_model, level="ranks")
    assert rank_test(gibbs, draw_normal_model, law="reversible", level=QUICK).verdict == "pass"
