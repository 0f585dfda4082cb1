"""Evidence and weighted particles: what is right passes, what is planted is found.

A statistical call fails a right block with probability at most 1e-6, its default. Keys are
fixed, so that a test that passes once passes always.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import Target
from bayeskit.errors import LawMismatch
from bayeskit.inference import (
    RandomWalk,
    TemperedPath,
    extend,
    move,
    random,
    resample,
    schedule,
    spawn,
    until,
    waste_free_smc,
    weigh,
)
from bayeskit.inference.blocks import custom
from bayeskit.validation import Atoms, Level, battery, validate
from bayeskit.validation.weighted import Moments, normal_p_value
from tests.inference import finite_models as fm

SERIES = battery()["linear_gaussian"]
LEVEL = Level(num_stages=3, growth=4, first=20_000, num_frequencies=4)
NUM = 16
SYSTEMATIC = resample("systematic")
KERNEL = RandomWalk()


def bootstrap(resampling=SYSTEMATIC, log_g=None):
    blocks = fm.filter_blocks(SERIES.target, NUM)
    extension = blocks.extension if log_g is None else extend(SERIES.target.kernel, log_g)
    return blocks.start >> fm.scan(resampling >> extension)


# ---------------------------------------------------------------- a filter


def test_evidence_of_the_linear_gaussian_model():
    """The joint normal density of the observations, without a filter."""
    mean, covariance = np.zeros(3), np.zeros((3, 3))
    mean[0], variance = 0.5, [1.2**2]
    for t in (1, 2):
        mean[t] = 0.3 + 0.8 * mean[t - 1]
        variance.append(0.8**2 * variance[-1] + 0.7**2)
    for i in range(3):
        for j in range(3):
            covariance[i, j] = 0.8 ** abs(i - j) * variance[min(i, j)] + 0.9**2 * (i == j)
    centred = np.array([1.4, -0.2, 2.1]) - mean
    _, log_determinant = np.linalg.slogdet(2 * np.pi * covariance)
    expected = -0.5 * (log_determinant + centred @ np.linalg.solve(covariance, centred))
    assert SERIES.log_evidence == pytest.approx(expected)


@pytest.mark.parametrize(
    "resampling", [resample("multinomial"), resample("systematic", ess_below=0.5)], ids=str
)
def test_bootstrap_filter_passes(resampling):
    report = validate(bootstrap(resampling), SERIES, level=LEVEL)
    report.raise_if_failed()
    assert report.alpha == 1e-6
    assert report.law.startswith("L2 properly weighted")
    assert report.tests[2].name == "E Ẑ = Z"
    assert "Var log Ẑ" in report.notes[0]
    assert 0 < report.power.in_standard_deviations < 0.1


def test_potential_that_is_two_hundredths_too_large_is_found():
    """Two steps of it change the evidence by 4 %."""
    log_g = SERIES.target.log_g
    planted = dataclasses.replace(log_g, function=lambda t, a, x: log_g(t, a, x) + 0.02)
    report = validate(bootstrap(log_g=planted), SERIES, level=LEVEL)
    assert report.verdict == "fail"
    assert report.worst.startswith("E Ẑ / Z is 1.0")


def test_wrong_particles_are_found_though_the_evidence_is_right():
    """Particles are read off 2 % too large."""
    report = validate(
        bootstrap(), SERIES, observed=lambda particles: 1.02 * particles, level=LEVEL
    )
    assert report.verdict == "fail"
    assert report.worst.startswith("under the weights, the mean of ")


def test_evidence_that_is_not_a_number_fails():
    def estimate(key):
        return jnp.where(random.uniform(key) < 1e-3, jnp.nan, 0.0)

    report = validate(estimate, expected=0.0, law="unbiased", level=LEVEL)
    assert report.verdict == "fail"
    assert "the log evidence NaN" in report.worst


def test_particles_that_are_not_finite_fail():
    block = bootstrap()
    broken = lambda x: jnp.where(x > 3.5, jnp.nan, x)
    report = validate(block, SERIES, observed=broken, level=LEVEL)
    assert report.verdict == "fail"
    assert "not finite" in report.worst


# ---------------------------------------------------------------- tempering


def conjugate(y=1.3, scale=0.5):
    """A standard normal prior, one observation with normal noise, and their evidence."""
    variance = 1.0 / (1.0 + scale**-2)
    log_normal = lambda x, s: -0.5 * jnp.sum(x**2) / s**2 - math.log(s * math.sqrt(2 * math.pi))
    target = Target(
        log_prior=lambda x: log_normal(x, 1.0),
        log_likelihood=lambda x: log_normal(y - x, scale),
        sample_prior=lambda key: random.normal(key, (1,)),
        sample_exact=lambda key: (
            variance * y / scale**2 + math.sqrt(variance) * random.normal(key, (1,))
        ),
        name="conjugate",
    )
    total = 1.0 + scale**2
    return target, -0.5 * (y**2 / total + math.log(2 * math.pi * total))


CONJUGATE, LOG_EVIDENCE = conjugate()


def tempered(wrong=1.0):
    path = TemperedPath(CONJUGATE)
    increment = path.increment
    if wrong != 1.0:
        function = lambda stage, x: wrong * path.increment(stage, x)
        increment = dataclasses.replace(increment, function=function)
    stage = (
        schedule(path, ladder=(0.0, 0.1, 0.4, 1.0))
        >> weigh(increment)
        >> resample()
        >> move(KERNEL, path, 2, repeats=1, tuning=KERNEL.default_tuning(1))
    )
    return spawn(path.initial, NUM, stage=path.start()) >> until(path.is_complete, stage)


def test_tempering_on_a_ladder_passes():
    report = validate(tempered(), CONJUGATE, expected=LOG_EVIDENCE, level=LEVEL)
    report.raise_if_failed()
    assert [check.name for check in report.tests[2:4]] == ["E Ẑ = Z", "the mean of x[0]"]


def test_wrong_increment_is_found():
    report = validate(tempered(wrong=1.05), CONJUGATE, expected=LOG_EVIDENCE, level=LEVEL)
    assert report.verdict == "fail"


def test_adaptive_sampler_is_never_failed_for_its_bias():
    block = waste_free_smc(CONJUGATE, KERNEL, NUM // 4, 4)
    report = validate(block, CONJUGATE, expected=LOG_EVIDENCE, level=LEVEL)
    assert report.verdict in ("pass", "inconclusive")
    assert all(check.passed for check in report.tests)
    if report.verdict == "inconclusive":
        assert "a part adapts" in report.worst


# ---------------------------------------------------------------- where no test is valid


def importance_sampling(num, spread=1.0):
    """A normal target of scale 3 from a normal proposal."""
    log_g = lambda stage, x: -0.5 * (x / 3.0) ** 2 + 0.5 * (x / spread) ** 2
    return spawn(lambda key: spread * random.normal(key), num) >> weigh(log_g)


def test_evidence_carried_by_rare_runs_is_inconclusive():
    target = Target(log_density=lambda x: -0.5 * (x / 3.0) ** 2)
    report = validate(importance_sampling(8), target, expected=math.log(3.0), level=LEVEL)
    assert report.verdict == "inconclusive"
    assert "raise the number of particles" in report.worst
    assert "particles themselves were not looked at" in report.notes[1]


def far_off(far):
    """Standard normal particles of evidence 1, or particles a hundred of their spreads away."""
    return spawn(lambda key: 100.0 * far + random.normal(key), NUM) >> weigh(
        lambda stage, x: 0.5 * jnp.tanh(x - 100.0 * far) - math.log(TILTED)
    )


# The mean of exp(tanh(Z) / 2), Z standard normal, by the trapezoidal rule.
_GRID = np.linspace(-9.0, 9.0, 20_001)
TILTED = float(
    np.trapezoid(np.exp(0.5 * np.tanh(_GRID) - 0.5 * _GRID**2), _GRID)
    / math.sqrt(2.0 * math.pi)
)


@pytest.mark.parametrize("target", [None, Target(log_density=lambda x: -0.5 * x**2)])
def test_particles_that_nobody_looked_at_are_no_pass(target):
    """The evidence is right and the particles may be anywhere: no verdict on their law."""
    report = validate(far_off(True), target, expected=0.0, level=LEVEL)
    assert report.verdict == "inconclusive"
    assert report.law.startswith("L7 unbiased estimate") and "f" not in report.law.split(":")[1]
    assert "the particles themselves were not looked at" in report.worst
    assert "pass a target with sample_exact=" in report.worst
    assert any("not looked at" in note for note in report.notes)
    # What was looked at still decides.
    assert validate(far_off(False), target, expected=0.1, level=LEVEL).verdict == "fail"


def test_sample_of_an_estimate_that_nobody_looked_at_is_named():
    estimate = lambda key: (0.4 * random.normal(key) - 0.08, 100.0 * random.normal(key))
    alone = lambda key: 0.4 * random.normal(key) - 0.08
    options = {"expected": 0.0, "law": "unbiased", "level": LEVEL}
    report = validate(estimate, **options)
    assert report.verdict == "pass"
    assert "γ(f)" not in report.law
    assert "the samples themselves were not looked at" in report.worst
    # Without a sample nothing is left out.
    assert "not looked at" not in str(validate(alone, **options))
    target = Target(
        log_density=lambda x: -0.5 * x**2, sample_exact=lambda key: random.normal(key)
    )
    report = validate(estimate, target, **options)
    assert report.verdict == "fail" and "γ(f) for every f" in report.law


def test_evidence_that_is_always_zero_is_inconclusive():
    estimate = lambda key: jnp.where(random.uniform(key) < 2, -jnp.inf, 0.0)
    report = validate(estimate, expected=0.0, law="unbiased", level=LEVEL)
    assert report.verdict == "inconclusive"
    assert "every run gave the evidence 0" in report.worst


def test_constant_estimate_passes_or_fails_by_its_value():
    estimate = lambda key: jnp.asarray(0.3)
    assert validate(estimate, expected=0.3, law="unbiased", level=LEVEL).verdict == "pass"
    assert validate(estimate, expected=0.31, law="unbiased", level=LEVEL).verdict == "fail"


def test_p_values_of_skewed_means_are_valid_at_the_edge_of_the_guard():
    """400 exponentials have the skewness 0.1; 50 000 such means, none below half the level.

    Uncorrected p-values are too small: the lower tail alone is then beyond its level. The bound
    is 5 standard errors of a binomial above the level, so a valid p-value fails with
    probability below 1e-6 at each of 3 levels.
    """
    rng = np.random.default_rng(3)
    num = 50_000
    gamma = [rng.exponential(size=(5_000, 400)) for _ in range(num // 5_000)]
    mean = np.concatenate([x.mean(1) for x in gamma])
    error = np.concatenate([x.std(1, ddof=1) for x in gamma]) / 20.0
    z = (mean - 1.0) / error
    corrected, plain = normal_p_value(z, 0.1), normal_p_value(z, 0.0)
    for level in (1e-2, 1e-3, 1e-4):
        bound = level + 5 * math.sqrt(level / num)
        assert np.mean(corrected <= level) <= bound
    assert np.mean(plain <= 1e-3) > 1e-3 + 5 * math.sqrt(1e-3 / num)


def test_moments():
    x = np.random.default_rng(0).gamma(2.0, size=(1000, 2))
    moments = Moments(2)
    moments.add(x[:300])
    moments.add(x[300:])
    np.testing.assert_allclose(moments.mean, x.mean(0))
    np.testing.assert_allclose(moments.error, x.std(0) / math.sqrt(1000))
    centred = x - x.mean(0)
    np.testing.assert_allclose(moments.skewness, (centred**3).mean(0) / x.std(0) ** 3)
    np.testing.assert_allclose(moments.central[2], (centred**4).mean(0))
    assert not moments.trusted.any()  # too few


def test_false_alarms_stay_below_their_rate():
    """40 calls at 5 %: more than 9 alarms have probability below 1e-4, and keys are fixed."""
    estimate = lambda key: 0.4 * random.normal(key) - 0.08
    level = Level(num_stages=2, growth=2, first=10_000, num_frequencies=2)
    verdicts = [
        validate(
            estimate, expected=0.0, law="unbiased", level=level, alpha=0.05, key=key
        ).verdict
        for key in range(40)
    ]
    assert set(verdicts) <= {"pass", "fail"}
    assert verdicts.count("fail") <= 9


# ---------------------------------------------------------------- by enumeration

RING = Atoms(np.arange(3), np.array([0.34, 0.85, 0.51]))


def importance(key, wrong=0.0):
    """A state by a proposal of its own, weighed by mass over probability."""
    proposal = np.array([0.5, 0.2, 0.3])
    x = random.categorical(key, fm.log_table(np.log(proposal)))
    return fm.log_table(np.log(RING.mass / proposal))[x] + wrong * (x == 1), x


def test_estimate_is_enumerated_with_its_sample():
    report = validate(importance, expected=RING, law="unbiased")
    report.raise_if_failed()
    assert report.alpha == 0
    assert [check.name for check in report.tests] == ["E Ẑ = Z", "E[Ẑ f(x)] = γ(f) for every f"]
    assert validate(importance, battery()["ring"], law="unbiased").verdict == "pass"
    wrong = functools.partial(importance, wrong=0.01)
    report = validate(wrong, expected=RING, law="unbiased")
    assert report.verdict == "fail"
    assert report.worst.startswith("E Ẑ is 1.709 instead of 1.7")


def test_sample_without_its_weight_is_found():
    def estimate(key):
        first, second = random.split(key)
        log_evidence, _ = importance(first)
        return log_evidence, random.categorical(second, jnp.zeros(3))

    report = validate(estimate, expected=RING, law="unbiased", level="exact")
    assert report.verdict == "fail"
    assert report.worst == "the expected weight of the sample 1 is 0.5667 instead of 0.85"


def test_evidence_alone_is_enumerated():
    alone = lambda key: importance(key)[0]
    log_evidence = math.log(1.7)
    options = {"law": "unbiased", "level": "exact"}
    assert validate(alone, expected=log_evidence, **options).verdict == "pass"
    assert validate(alone, expected=RING, **options).verdict == "pass"
    assert validate(alone, expected=log_evidence + 1e-6, **options).verdict == "fail"
    report = validate(importance, expected=log_evidence, **options)
    assert report.verdict == "pass"
    assert "the sample was not compared: give expected=Atoms(...)" in report.notes
    assert "γ(f)" not in report.law
    assert "γ(f) for every f" in validate(importance, expected=RING, law="unbiased").law


def test_enumerated_estimate_that_is_not_a_number_fails():
    def estimate(key):
        return jnp.where(random.categorical(key, jnp.zeros(4)) == 0, jnp.nan, 0.0)

    report = validate(estimate, expected=0.0, law="unbiased", level="exact")
    assert report.verdict == "fail"
    assert report.worst == "the estimate is NaN or infinite with probability 0.25"


# ---------------------------------------------------------------- bad input


def test_bad_input_is_refused():
    estimate = lambda key: random.normal(key)
    with pytest.raises(TypeError, match="expected=, the log of the true evidence"):
        validate(estimate, law="unbiased")
    with pytest.raises(TypeError, match="got str"):
        validate(estimate, law="unbiased", expected="high")
    with pytest.raises(ValueError, match="finite log evidence"):
        validate(estimate, law="unbiased", expected=math.nan)
    with pytest.raises(TypeError, match="needs expected="):
        validate(tempered(), CONJUGATE)
    few = Level(num_stages=1, growth=2, first=5_000, num_frequencies=2)
    with pytest.raises(ValueError, match="at least 10000 runs"):
        validate(estimate, law="unbiased", expected=0.0, level=few)
    with pytest.raises(ValueError, match=r"points of .* have 2 numbers"):
        validate(
            bootstrap(), SERIES, observed=lambda x: jnp.stack([x, x], axis=-1), level=LEVEL
        )
    with pytest.raises(ValueError, match="level='exact' does not fit a composed block"):
        validate(bootstrap(), SERIES, level="exact")
    with pytest.raises(LawMismatch, match="undeclared part"):
        validate(bootstrap() >> custom(lambda key, population: population), SERIES)


def test_sampler_that_draws_with_jax_random_is_welcome():
    estimate = lambda key: 0.4 * jax.random.normal(key) - 0.08
    assert validate(estimate, expected=0.0, law="unbiased", level=LEVEL).verdict == "pass"
