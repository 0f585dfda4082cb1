"""Targets against their own samplers, gradients and constants.

The statistical part has a false-alarm rate of 1e-6 a call, by the sequential test that it runs;
the rest has none.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit.errors import LawMismatch
from bayeskit.inference import Target, random
from bayeskit.validation import Atoms, BatteryModel, Level, battery, validate

LEVEL = Level(num_stages=3, growth=4, first=20_000, num_frequencies=8)
MODELS = battery()
LOG_2_PI = math.log(2 * math.pi)


def failures(report):
    return [check.name for check in report.tests if not check.passed]


def unchecked(report):
    return [check.name for check in report.tests if check.words.startswith("not checked")]


def check_of(report, name):
    return next(check for check in report.tests if check.name == name)


# ---------------------------------------------------------------- continuous targets


@pytest.mark.parametrize("name", ["banana", "truncated", "student_t"])
def test_battery_models_are_what_they_say(name):
    report = validate(MODELS[name], level=LEVEL)
    report.raise_if_failed()
    assert check_of(report, f"the log evidence of {name}").discrepancy < 1e-3
    assert not unchecked(report)
    assert report.alpha == 1e-6


def normal_target(**changes):
    """Normal with mean 1 and scale 2, and what one changes of it."""
    options = {
        "log_density": lambda x: -0.125 * jnp.sum((x - 1.0) ** 2),
        "sample_exact": lambda key: 1.0 + 2.0 * random.normal(key, (1,)),
        "name": "normal",
    }
    return Target(**{**options, **changes})


EVIDENCE = math.log(2.0) + 0.5 * LOG_2_PI


def test_right_target_passes_with_its_evidence():
    report = validate(normal_target(), expected=EVIDENCE, level=LEVEL)
    report.raise_if_failed()
    law = "density: the sampler, the gradient and the evidence are those of the density"
    assert report.law == law


@pytest.mark.parametrize("scale", [1.9, 2.1])
def test_sampler_of_another_scale_is_found(scale):
    planted = normal_target(sample_exact=lambda key: 1.0 + scale * random.normal(key, (1,)))
    report = validate(planted, level=LEVEL)
    assert report.verdict == "fail"
    assert "sampler and the density of normal do not belong together" in report.worst


def test_sampler_that_leaves_the_support_is_found():
    planted = normal_target(
        log_density=lambda x: jnp.where(x[0] > -1.0, -0.125 * (x[0] - 1.0) ** 2, -jnp.inf)
    )
    report = validate(planted, level=LEVEL)
    assert failures(report) == ["the density of normal is positive at its own draws"]
    assert "is -inf at the draw (" in report.worst


def test_wrong_evidence_is_found():
    report = validate(normal_target(), expected=EVIDENCE + 0.01, level=LEVEL)
    assert failures(report) == ["the log evidence of normal"]
    assert report.worst == "the log evidence of normal is 1.6121, stated is 1.6221"


@jax.custom_jvp
def square(x):
    return x**2


@square.defjvp
def _(x, tangent):
    return square(x[0]), x[0] * tangent[0]  # the factor 2 is missing


@pytest.mark.parametrize(
    "log_density",
    [
        lambda x: -0.125 * jnp.sum(square(x - 1.0)),
        lambda x: -0.125 * jnp.sum((x - 1.0) * jax.lax.stop_gradient(x - 1.0)),
        # The derivative of the branch that is not taken is NaN.
        lambda x: -0.125 * jnp.where(x[0] > 1.0, jnp.sqrt(x[0] - 1.0) ** 4, (x[0] - 1.0) ** 2),
    ],
    ids=["own derivative", "stop_gradient", "NaN of the other branch"],
)
def test_wrong_gradient_is_found(log_density):
    report = validate(normal_target(log_density=log_density), level=LEVEL)
    assert failures(report) == ["the gradient of normal"]
    assert "by differentiation and" in report.worst
    # Who declares that there is no gradient may have a wrong one.
    without = normal_target(log_density=log_density, has_gradient=False)
    validate(without, level=LEVEL).raise_if_failed()


def test_edges_and_kinks_are_no_mistakes_of_a_gradient():
    """A double exponential with its peak among the draws."""

    def sample(key):
        side, size = random.split(key)
        magnitude = -jnp.log1p(-random.uniform(size, (1,)))
        return jnp.where(random.accept(side, jnp.log(0.5)), magnitude, -magnitude)

    target = Target(
        log_density=lambda x: -jnp.sum(jnp.abs(x)), sample_exact=sample, name="kink"
    )
    validate(target, expected=math.log(2.0), level=LEVEL).raise_if_failed()


def regression(**changes):
    """One normal observation y = 0.8 of a normal location: prior, likelihood and posterior."""
    options = {
        "log_prior": lambda x: -0.5 * x["a"] ** 2 - 0.5 * LOG_2_PI,
        "log_likelihood": lambda x, y: -0.5 * (y - x["a"]) ** 2 - 0.5 * LOG_2_PI,
        "sample_prior": lambda key: {"a": random.normal(key)},
        "sample_exact": lambda key: {"a": 0.4 + random.normal(key) / np.sqrt(2.0)},
        "data": (jnp.asarray(0.8),),
        "name": "posterior",
    }
    return Target(**{**options, **changes})


def test_prior_and_posterior_are_both_checked():
    evidence = -0.25 * 0.8**2 - 0.5 * math.log(4 * math.pi)
    report = validate(regression(), expected=evidence, level=LEVEL)
    report.raise_if_failed()
    names = {check.name for check in report.tests}
    assert {
        "the log evidence of posterior",
        "the log evidence of the prior of posterior",
    } <= names
    # Without exact draws the prior gives the place to integrate at.
    only_prior = validate(regression(sample_exact=None), expected=evidence, level=LEVEL)
    only_prior.raise_if_failed()
    assert "the log evidence of posterior" in {check.name for check in only_prior.tests}
    wrong = validate(regression(sample_exact=None), expected=evidence - 0.1, level=LEVEL)
    assert failures(wrong) == ["the log evidence of posterior"]


def test_prior_that_is_not_normalised_is_found():
    report = validate(regression(log_prior=lambda x: -0.5 * x["a"] ** 2), level=LEVEL)
    assert failures(report) == ["the log evidence of the prior of posterior"]
    assert report.worst.endswith("is 0.91894, stated is 0")


def test_prior_sampler_of_another_prior_is_found():
    report = validate(
        regression(sample_prior=lambda key: {"a": 0.2 + random.normal(key)}), level=LEVEL
    )
    assert report.verdict == "fail"
    assert "the density of the prior of posterior do not belong together" in report.worst


def test_what_is_not_checked_is_said():
    report = validate(MODELS["correlated_normal"], level=LEVEL)
    assert unchecked(report) == ["the log evidence of correlated_normal"]
    assert "needs at most 2 dimensions, here 3" in report.notes[0]
    assert report.verdict == "pass"
    assert report.law == "density: the sampler and the gradient are those of the density"


def test_expected_evidence_that_cannot_be_checked_is_no_pass():
    """The evidence is off by 14 and three dimensions are too many to integrate over."""
    target = Target(
        log_density=lambda x: -0.5 * jnp.sum(x**2),
        sample_exact=lambda key: random.normal(key, (3,)),
        name="three",
    )
    report = validate(target, expected=17.0, level=LEVEL)
    assert report.verdict == "inconclusive"
    assert "not checked: the log evidence of three" in report.worst
    assert "Leave expected= out" in report.worst
    assert "evidence" not in report.law
    assert any("the log evidence of three" in note for note in report.notes)
    validate(target, level=LEVEL).raise_if_failed()


# ---------------------------------------------------------------- finite targets

MASS = np.array([0.34, 0.85, 0.51])


def finite(**changes):
    options = {
        "log_density": lambda i: jnp.asarray(np.log(MASS))[i],
        "sample_exact": lambda key: random.categorical(key, jnp.asarray(np.log(MASS))),
        "has_gradient": False,
        "name": "finite",
    }
    return Target(**{**options, **changes})


ATOMS = Atoms(np.arange(3), MASS)


@pytest.mark.parametrize("name", ["ring", "tempered"])
def test_finite_battery_models_are_what_they_say(name):
    report = validate(MODELS[name])
    report.raise_if_failed()
    assert report.alpha == 0.0
    assert all(check.discrepancy < 1e-12 for check in report.tests)


def test_finite_target_with_its_masses():
    validate(finite(), expected=ATOMS).raise_if_failed()


@pytest.mark.parametrize(
    ("target", "check"),
    [
        (
            finite(log_density=lambda i: jnp.asarray(np.log(MASS))[i] + 1e-6),
            "exp(log density) is the mass of each state",
        ),
        (
            finite(sample_exact=lambda key: random.categorical(key, jnp.asarray(MASS))),
            "sample_exact draws from the density",
        ),
        (
            finite(sample_exact=lambda key: random.categorical(key, jnp.zeros(4))),
            "sample_exact draws from the density",
        ),
        (
            finite(
                log_density=None,
                log_prior=lambda i: jnp.log(jnp.asarray([0.5, 0.2, 0.3]))[i],
                log_likelihood=lambda i: jnp.asarray(np.log(MASS / [0.5, 0.2, 0.3]))[i],
                sample_prior=lambda key: random.permutation(key, 3)[0],
            ),
            "sample_prior draws from the density",
        ),
    ],
    ids=["constant", "sampler", "one state too many", "prior sampler"],
)
def test_mistakes_of_finite_targets_are_found(target, check):
    assert failures(validate(target, expected=ATOMS)) == [check]


def test_evidence_of_a_finite_model():
    model = BatteryModel("finite", "", finite(), math.log(MASS.sum()) + 1e-6, 0, ATOMS)
    assert failures(validate(model)) == ["the log evidence"]


def test_finite_sampler_that_cannot_be_enumerated():
    def sample(key):
        return jax.random.categorical(key, jnp.asarray(np.log(MASS)))

    report = validate(finite(sample_exact=sample), expected=ATOMS)
    assert report.verdict == "pass"
    assert not unchecked(report)
    assert report.alpha == 1e-6
    assert "100000 draws were counted" in report.notes[0]
    assert "a sampler under which the probability of a state is wrong" in report.power.words
    with pytest.raises(ZeroDivisionError):
        validate(finite(sample_exact=lambda key: 1 // 0), expected=ATOMS)


def one_two_three(sample):
    log_mass = np.log([1.0, 2.0, 3.0])
    return finite(log_density=lambda i: jnp.asarray(log_mass)[i], sample_exact=sample)


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (lambda key: jax.random.randint(key, (), 0, 2), "and its density says"),
        (
            lambda key: jax.random.categorical(key, jnp.log(jnp.array([1.0, 2.0, 3.2]))),
            "and its density says",
        ),
        (lambda key: jax.random.randint(key, (), 0, 4), "(3), which is no listed state"),
    ],
    ids=["a state is missing", "wrong by some percent", "one state too many"],
)
def test_wrong_finite_sampler_that_cannot_be_enumerated_is_found(sample, words):
    masses = Atoms(np.arange(3), np.array([1.0, 2.0, 3.0]))
    report = validate(one_two_three(sample), expected=masses)
    assert report.verdict == "fail"
    assert failures(report) == ["sample_exact draws from the density"]
    assert words in report.worst


def test_states_of_another_shape_are_refused():
    masses = Atoms(np.arange(3), np.array([1.0, 2.0, 3.0]))
    pairs = lambda key: jax.random.randint(key, (2,), 0, 2)
    with pytest.raises(ValueError, match="list the states as sample_exact draws them"):
        validate(one_two_three(pairs), expected=masses)


def test_frequencies_are_valid_at_their_level():
    """100 calls at 5 %: more than 17 alarms have probability below 1e-5, and keys are fixed."""
    sample = lambda key: jax.random.categorical(key, jnp.log(jnp.array([1.0, 2.0, 3.0])))
    masses = Atoms(np.arange(3), np.array([1.0, 2.0, 3.0]))
    target = one_two_three(sample)
    verdicts = [
        validate(target, expected=masses, alpha=0.05, key=key).verdict for key in range(100)
    ]
    assert verdicts.count("fail") <= 17


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("target", "options", "error", "message"),
    [
        (normal_target(sample_exact=None), {}, ValueError, "no sampler to compare"),
        (normal_target(), {"expected": 1}, TypeError, "log evidence as a float, or Atoms"),
        (
            normal_target(),
            {"law": "invariant"},
            LawMismatch,
            "a target cannot have the law L3 invariant: leave law= out",
        ),
        (normal_target(), {"level": "exact"}, ValueError, "does not fit a target"),
        (finite(), {}, TypeError, "dtype int32: for a finite target pass expected=Atoms"),
        (MODELS["ring"], {"expected": 0.0}, TypeError, "states its evidence itself"),
        (MODELS["hidden_markov"], {}, TypeError, "is a Feynman-Kac model: build a block"),
    ],
)
def test_refusals(target, options, error, message):
    with pytest.raises(error, match=message):
        validate(target, **options)
