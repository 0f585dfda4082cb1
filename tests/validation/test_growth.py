"""Bias and error by number of particles: what vanishes passes, what stays is found.

A call fails a right algorithm with probability at most 1e-6, its default, unless it says
otherwise. Keys are fixed, so that a test that passes once passes always.
"""

import dataclasses
import functools
import math

import jax.numpy as jnp
import pytest

from bayeskit.errors import LawMismatch
from bayeskit.inference import (
    RandomWalk,
    TemperedPath,
    random,
    resample,
    schedule,
    spawn,
    until,
    waste_free_smc,
    weigh,
)
from bayeskit.inference.blocks import custom
from bayeskit.validation import Level, validate
from tests.validation.test_evidence import CONJUGATE, LOG_EVIDENCE

LEVEL = Level(num_stages=3, growth=4, first=50_000, num_frequencies=4)


@functools.cache
def estimate_of(num, bias=lambda num: -0.5 / num, power=-0.5):
    """A log estimate with a bias and a standard deviation of its own."""
    return lambda key: bias(num) + num**power * random.normal(key)


def growth(build, alpha=1e-6, key=0):
    return validate(build, expected=0.0, law="consistent", level=LEVEL, alpha=alpha, key=key)


def test_bias_of_order_one_over_n_passes():
    report = growth(estimate_of)
    report.raise_if_failed()
    assert report.law.startswith("L10 consistent")
    assert "runs each with 16, 32, 64, 128, 256 particles" in report.notes[0]
    assert "root mean squared error falls like N^-0.49" in report.notes[1]
    assert report.power.words.startswith("finds with probability 0.99 a lasting bias of log Ẑ")


@pytest.mark.parametrize(
    "bias",
    [lambda num: 0.03, lambda num: 0.03 - 0.5 / num, lambda num: 0.3 / math.sqrt(num)],
    ids=["constant", "constant and vanishing", "vanishing too slowly"],
)
def test_bias_that_stays_is_found(bias):
    report = growth(lambda num: estimate_of(num, bias))
    assert report.verdict == "fail"
    assert report.worst.startswith("extrapolated to infinitely many particles, log Ẑ is 0.0")
    assert report.worst.endswith("too large")


def test_error_that_does_not_fall_is_found():
    report = growth(lambda num: estimate_of(num, lambda num: 0.0, power=-0.3))
    assert report.verdict == "fail"
    assert "falls like N to the power -0.2" in report.worst
    assert "-0.5 was claimed" in report.worst


def test_bias_that_does_not_follow_the_series_is_inconclusive():
    report = growth(lambda num: estimate_of(num, lambda num: 0.4 * (num == 32), power=-0.5))
    assert report.verdict == "inconclusive"
    assert "does not follow 1/N" in report.worst


def test_evidence_that_is_not_a_number_fails():
    def build(num):
        estimate = estimate_of(num)
        return lambda key: jnp.where(jnp.abs(estimate(key)) < 1e-4, jnp.nan, estimate(key))

    report = growth(build)
    assert report.verdict == "fail"
    assert "log evidence NaN" in report.worst


@pytest.mark.parametrize("weight", ["positive", "zero"])
def test_points_that_are_not_finite_fail_where_they_have_weight(weight):
    """One point in 2000 is NaN; with weight zero it stands for nothing."""

    def build(num):
        def log_g(stage, x):
            broken = jnp.isnan(x[0])
            safe = CONJUGATE.log_likelihood(jnp.where(broken, 0.0, x))
            return jnp.where(broken, -jnp.inf if weight == "zero" else -1.0, safe)

        def start(key):
            x = CONJUGATE.sample_prior(key)
            return jnp.where(jnp.abs(x - 1.0) < 1e-3, jnp.nan, x)

        return spawn(start, num) >> weigh(log_g)

    report = growth_of_block(build)
    if weight == "positive":
        assert report.verdict == "fail"
        assert report.worst.endswith("points of positive weight are not finite")
    else:
        report.raise_if_failed()


def test_false_alarms_stay_below_their_rate():
    """30 calls at 5 %: more than 8 alarms have probability below 2e-5, and keys are fixed."""
    verdicts = [growth(estimate_of, alpha=0.05, key=key).verdict for key in range(30)]
    assert set(verdicts) <= {"pass", "fail"}
    assert verdicts.count("fail") <= 8


def importance_sampling(num, wrong=1.0):
    """Prior draws, weighed by the likelihood; the weight may be wrong."""
    log_g = lambda stage, x: wrong * CONJUGATE.log_likelihood(x)
    return spawn(CONJUGATE.sample_prior, num) >> weigh(log_g)


def tempered(num, wrong=1.0):
    """The same in stages that adapt."""
    path = TemperedPath(CONJUGATE)
    function = lambda stage, x: wrong * path.increment(stage, x)
    increment = dataclasses.replace(path.increment, function=function)
    stage = schedule(path, ess=0.5) >> weigh(increment) >> resample()
    return spawn(path.initial, num, stage=path.start()) >> until(path.is_complete, stage)


def growth_of_block(build):
    return validate(build, CONJUGATE, expected=LOG_EVIDENCE, law="consistent", level=LEVEL)


def test_particles_are_compared_as_well():
    report = growth_of_block(importance_sampling)
    report.raise_if_failed()
    assert "no bias is left in the mean of x[0]" in [check.name for check in report.tests]
    assert report.power.in_standard_deviations < 0.05
    wrong = growth_of_block(lambda num: importance_sampling(num, 1.1))
    assert wrong.verdict == "fail"


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [1.0, 1.05])
def test_adaptive_tempering(wrong):
    report = growth_of_block(lambda num: tempered(num, wrong))
    assert report.verdict == ("pass" if wrong == 1.0 else "fail")
    assert "what adapts was not frozen" in report.notes[-1]


@pytest.mark.slow
def test_waste_free_sampler_passes():
    report = growth_of_block(lambda num: waste_free_smc(CONJUGATE, RandomWalk(), num // 4, 4))
    report.raise_if_failed()


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match="must return a Block, or a function"):
        growth(lambda num: float(num))
    with pytest.raises(TypeError, match="expected=, the log of the true evidence"):
        validate(estimate_of, law="consistent")
    undeclared = custom(lambda key, population: population, "mine")
    with pytest.raises(LawMismatch, match="undeclared part"):
        growth(lambda num: importance_sampling(num) >> undeclared)
