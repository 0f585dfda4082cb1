"""The engine ParallelTempering and what its ladder tells, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm

import bayeskit as bk
from bayeskit.errors import ImproperPriorError, InitializationError
from bayeskit.inference import random
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.ladder import (
    bridge_evidence,
    num_round_trips,
    rejection_rates,
    respaced,
)
from bayeskit.validation import battery

PRIOR_SCALE, NOISE = 10.0, 0.3
MODES = np.array([[-8.0, 3.0], [9.0, -5.0]])
SHARE = np.array([0.3, 0.7])


def log_likelihood(x):
    modes = jnp.sum(norm.logpdf(MODES.astype(x.dtype), x, NOISE), axis=1)
    return logsumexp(modes + jnp.log(SHARE.astype(x.dtype)))


MODES_TARGET = bk.Target(
    log_prior=lambda x: jnp.sum(norm.logpdf(x, 0.0, PRIOR_SCALE)),
    log_likelihood=log_likelihood,
    sample_prior=lambda key: PRIOR_SCALE * random.normal(key, (2,)),
    name="two islands",
)
ENGINE = bk.ParallelTempering()


def run(target, key, engine=ENGINE):
    with jax.enable_x64(True):
        return engine.run(target, key=key)


def test_separated_modes():
    """Modes 56 standard deviations apart: their masses, and the evidence, within 6 errors.

    False-alarm rate below 1e-8 for normal errors; the 3 numbers may be a few per cent off.
    """
    result = run(MODES_TARGET, 1)
    each = np.log(SHARE) + np.sum(norm.logpdf(MODES, 0.0, np.hypot(PRIOR_SCALE, NOISE)), axis=1)
    exact = np.logaddexp(*each)
    assert abs(result.log_evidence - exact) < 6 * result.log_evidence_se
    assert result.log_evidence_se < 0.1
    first = result.draws["x"][..., 0] < 0
    share = np.exp(each[0] - exact)
    # Independent ladders tell how uncertain the share is.
    error = 6 * np.sqrt(share * (1 - share) / result.diagnostics.ess_bulk_min)
    assert abs(first.mean() - share) < error < 0.2
    assert result.diagnostics.r_hat_max < 1.1
    assert result.history["round_trips"] > 50
    # Exchanges reject alike once the ladder is tuned, except where nothing is ever rejected.
    assert np.ptp(result.history["rejection"]) < 0.2
    assert "log r = (λ_i - λ_j)" in result.law


@pytest.mark.parametrize(
    "name", ["regression", pytest.param("beta_binomial", marks=pytest.mark.slow)]
)
def test_evidence_and_moments(name):
    """Battery posteriors: evidence within 6 stated errors over 4 runs together, below 1e-8."""
    model = battery()[name]
    results = [run(model.target, key) for key in range(4)]
    errors = np.array([r.log_evidence - model.log_evidence for r in results])
    stated = np.sqrt(sum(r.log_evidence_se**2 for r in results)) / 4
    assert abs(errors.mean()) < 6 * stated < 0.1
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(9), 20_000)
        exact = np.asarray(jax.vmap(model.target.sample_exact)(keys))
    draws = np.concatenate([r.flat("x") for r in results])
    error = exact.std(0) * np.sqrt(1 / 20_000 + 1 / (4 * results[0].diagnostics.ess_bulk_min))
    np.testing.assert_array_less(np.abs(draws.mean(0) - exact.mean(0)), 6 * error)


def test_same_key_same_bits_and_no_new_trace():
    target = battery()["regression"].target
    first = run(target, 3)
    with CompileClock() as clock:
        again = run(target, 3)
    np.testing.assert_array_equal(first.positions, again.positions)
    assert clock.num_compiled == 0


@pytest.mark.slow
def test_too_few_temperatures_are_reported():
    engine = bk.ParallelTempering(num_temperatures=2, num_draws=200, num_warmup=100)
    result = run(MODES_TARGET, 0, engine)
    assert "raise num_temperatures" in "; ".join(result.diagnostics.reasons)


@pytest.mark.slow
def test_without_gradient():
    model = battery()["beta_binomial"]
    target = bk.Target(
        log_prior=model.target.log_prior,
        log_likelihood=model.target.log_likelihood,
        sample_prior=model.target.sample_prior,
        has_gradient=False,
    )
    result = run(target, 0)
    assert abs(result.log_evidence - model.log_evidence) < 6 * result.log_evidence_se < 0.2
    assert "random-walk Metropolis" in result.law


def test_wrong_input():
    with pytest.raises(ValueError, match="num_temperatures must be a whole number >= 2"):
        bk.ParallelTempering(num_temperatures=1)
    with pytest.raises(TypeError, match="kernel must be 'auto' or a Kernel"):
        bk.ParallelTempering(kernel="hmc")
    impossible = bk.Target(
        log_prior=MODES_TARGET.log_prior,
        log_likelihood=lambda x: -jnp.inf + 0.0 * x[0],
        sample_prior=MODES_TARGET.sample_prior,
    )
    with pytest.raises(InitializationError, match="none of 400 prior draws has a finite"):
        run(impossible, 0)
    flat = bk.Target(log_density=lambda x: -jnp.sum(x**2))
    with pytest.raises(ImproperPriorError):
        run(flat, 0)


# ---------------------------------------------------------------- what a ladder tells


def exact_ladder(num=20_000):
    """Independent draws on every rung: prior N(0, 1), likelihood N(2 | x, 0.5²)."""
    ladder = np.linspace(0, 1, 6) ** 2
    noise = np.random.default_rng(0).normal(size=(2, num // 2, 6))
    precision = 1 + 4 * ladder
    x = 8 * ladder / precision + noise / np.sqrt(precision)
    return ladder, norm.logpdf(2.0, x, 0.5), norm.logpdf(2.0, 0.0, np.sqrt(1.25))


def test_bridge_evidence():
    """Within 6 errors, below 1e-8; tempered values in place of untempered ones are caught."""
    ladder, values, exact = exact_ladder()
    log_evidence, error = bridge_evidence(np.asarray(values), ladder)
    assert abs(log_evidence - exact) < 6 * error < 0.1
    log_evidence, error = bridge_evidence(np.asarray(values) * ladder, ladder)
    assert abs(log_evidence - exact) > 6 * error


def test_error_of_the_evidence_is_honest():
    """40 runs of exact draws: mean square of error over stated error between 0.3 and 2.2.

    Chi-squared with 40 degrees of freedom, and batches of 20: below 1e-6.
    """
    ladder, values, exact = exact_ladder(40_000)
    pieces = np.split(np.asarray(values), 40, axis=1)
    scores = [(found - exact) / e for found, e in (bridge_evidence(p, ladder) for p in pieces)]
    assert 0.3 < np.mean(np.square(scores)) < 2.2


def test_zero_likelihoods_count_as_zero():
    values = np.array([[[-np.inf, 0.0], [0.0, 0.0]] * 20])
    log_evidence, _ = bridge_evidence(values, np.array([0.0, 1.0]))
    np.testing.assert_allclose(log_evidence, np.log(0.5))


def test_rejections_and_spacing():
    ladder, values, _ = exact_ladder()
    rejections = rejection_rates(np.asarray(values), ladder)
    assert np.all((rejections > 0) & (rejections < 1))
    even = respaced(ladder, rejections)
    assert even[0] == 0 and even[-1] == 1 and np.all(np.diff(even) > 0)
    np.testing.assert_allclose(respaced(ladder, np.zeros(5))[[0, -1]], [0, 1])
    # A barrier that is all between two rungs draws the others there.
    crowded = respaced(np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.0]))
    assert crowded[1] < 0.26


def test_round_trips():
    up_and_down = np.array([[0, 1, 2], [1, 0, 2], [1, 2, 0], [1, 0, 2], [0, 1, 2]])
    assert num_round_trips(up_and_down[None]) == 1
    assert num_round_trips(up_and_down[None, :4]) == 0
