"""Steps on any state, tested from exact joint draws. Each call has false-alarm rate 1e-6."""

import functools

import jax
import jax.numpy as jnp
import pytest

from bayeskit.inference import random
from bayeskit.validation import Level, validate

# 0.04 of a standard deviation is found; the planted mistakes are larger.
QUICK = Level(num_stages=2, growth=2, first=40_000, num_frequencies=8)


def draw_normal_model(key):
    """θ ~ N(0.5, 1), y ~ N(θ, 4)."""
    first, second = random.split(key)
    theta = 0.5 + random.normal(first)
    return {"theta": theta, "y": theta + 2.0 * random.normal(second)}


def gibbs(key, state, *, num_likelihoods=1):
    """Draw θ given y, of which the likelihood counts once."""
    precision = 1.0 + num_likelihoods / 4.0
    mean = (0.5 + num_likelihoods * state["y"] / 4.0) / precision
    return {"theta": mean + random.normal(key) / jnp.sqrt(precision), "y": state["y"]}


def rotate(key, state):
    """A step round a circle: invariant for a centred normal law, and not reversible."""
    angle = 0.3 + 0.1 * random.normal(key)
    x, y = state
    return jnp.stack(
        [jnp.cos(angle) * x - jnp.sin(angle) * y, jnp.sin(angle) * x + jnp.cos(angle) * y]
    )


def draw_centred(key):
    return random.normal(key, (2,))


@pytest.mark.parametrize("law", ["invariant", "reversible"])
def test_a_right_conditional_draw_passes(law):
    report = validate(gibbs, start=draw_normal_model, law=law, level=QUICK)
    assert report.verdict == "pass", report
    assert report.alpha == 1e-6
    assert 0.0 < report.power.in_standard_deviations < 0.1


def test_likelihood_used_twice_is_found():
    """Every step is invariant for the posterior that it takes for true: the joint shows it."""
    step = functools.partial(gibbs, num_likelihoods=2)
    report = validate(step, start=draw_normal_model, level=QUICK)
    assert report.verdict == "fail"
    assert report.block == "gibbs"
    assert "too" in report.worst


def test_a_step_that_goes_round_in_circles_is_invariant_and_not_reversible():
    assert validate(rotate, start=draw_centred, level=QUICK).verdict == "pass"
    report = validate(rotate, start=draw_centred, level=QUICK, law="reversible")
    assert report.verdict == "fail"
    assert "not reversible" in report.worst


def test_observed_says_what_to_compare():
    """A wrong θ is not seen where only the data are looked at."""
    step = functools.partial(gibbs, num_likelihoods=2)
    report = validate(
        step, start=draw_normal_model, level=QUICK, observed=lambda state: state["y"]
    )
    # Nothing that is looked at moves, so nothing could have been found.
    assert report.verdict == "inconclusive"
    assert "moved" in report.worst


def test_discrete_states_are_compared_as_numbers():
    def start(key):
        return random.categorical(key, jnp.log(jnp.array([0.5, 0.3, 0.2])))

    def fresh(key, state):
        return start(key)

    def one_too_few(key, state):
        return random.categorical(key, jnp.log(jnp.array([0.5, 0.5, 0.0])))

    assert validate(fresh, start=start, level=QUICK).verdict == "pass"
    assert validate(one_too_few, start=start, level=QUICK).verdict == "fail"


def test_foreign_draws_are_welcome():
    def start(key):
        return jax.random.normal(key)

    def step(key, state):
        return -0.6 * state + 0.8 * jax.random.normal(key)

    assert validate(step, start=start, level=QUICK, law="reversible").verdict == "pass"


@pytest.mark.parametrize(
    ("step", "start", "options", "error", "words"),
    [
        (
            lambda k, s: s[:1],
            draw_centred,
            {},
            ValueError,
            "of the structure, shapes",
        ),
        (
            lambda k, s: {"x": s},
            draw_centred,
            {},
            ValueError,
            "of the structure, shapes",
        ),
        (rotate, lambda k: random.normal(k, (2,)) / 0.0, {}, ValueError, "is not finite"),
        (rotate, draw_centred, {"observed": lambda s: ()}, ValueError, "no number to compare"),
        (rotate, draw_centred, {"law": "draws"}, TypeError, "start= means nothing"),
        (rotate, draw_centred, {"level": "quadrature"}, ValueError, "does not fit a step"),
        (rotate, draw_centred, {"budget_s": 0.0}, ValueError, "must be a positive number"),
        (rotate, draw_centred, {"observed": "x"}, TypeError, "must be a function"),
        (lambda k, s: s.astype(int), draw_centred, {}, ValueError, "shapes and dtypes"),
    ],
)
def test_what_does_not_fit(step, start, options, error, words):
    with pytest.raises(error, match=words):
        validate(step, start=start, **options)


def test_states_that_become_nan_fail():
    def step(key, state):
        return jnp.where(state > 1.5, jnp.nan, state + 0.0 * random.normal(key, (2,)))

    report = validate(step, start=draw_centred, level=QUICK)
    assert report.verdict == "fail"
    assert "not finite" in report.worst


def test_an_exhausted_budget_is_no_pass():
    report = validate(
        functools.partial(gibbs, num_likelihoods=1.15),
        start=draw_normal_model,
        level=Level(num_stages=7, growth=4, first=20_000, num_frequencies=8),
        budget_s=1e-9,
        alpha=1e-9,
    )
    assert report.verdict == "inconclusive"
    with pytest.raises(AssertionError, match="no pass"):
        report.raise_if_failed()


def test_a_key_used_twice_is_found_by_tracing():
    def step(key, state):
        return state * jnp.sign(random.uniform(key) - 0.5) + 0.0 * random.normal(key)

    report = validate(step, start=lambda key: random.normal(key), level=QUICK)
    assert report.verdict == "fail"
    assert "already consumed" in report.worst
