"""Posteriors whose log evidence and moments are stored: each number against an estimate.

Filters and smoothers have theirs in ``smoothing/test_reference_models.py``. An estimate may be
off by its own standard error and that of the stored number; the false-alarm rate of each test
is below 1e-6, for the normal and t distributions that the bounds are quantiles of.
"""

import json
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import bayeskit as bk
from bayeskit.interop.numpyro import NumPyroModel
from benchmarks.posteriordb.cases import HARD_CASES

pytestmark = pytest.mark.reference
FALSE_ALARM = 1e-6
ENGINE = bk.EnsembleHMC(progress=False)


class Stored(NamedTuple):
    """What is known about a posterior, each with its standard error; 0 for exact."""

    log_evidence: float
    log_evidence_error: float
    mean: np.ndarray
    covariance: np.ndarray  # (dim, dim), or the diagonal
    num_draws: float = np.inf  # independent draws that gave the moments


class Case(NamedTuple):
    """A NumPyro model, what it takes of the stored entry, and what is known."""

    name: str
    model: Callable
    data: Callable  # (entry) -> arrays
    wrong: Callable  # (arrays) -> arrays with a mistake
    stored: Callable  # (entry) -> Stored


def bernoulli(num, num_successes):
    """The sequence, without the number of its orders."""
    p = numpyro.sample("p", dist.Beta(2.0, 5.0))
    sequence = num_successes * jnp.log(p) + (num - num_successes) * jnp.log1p(-p)
    numpyro.factor("sequence", sequence)


def stored_beta(entry):
    a, b = entry["a"] + entry["k"], entry["b"] + entry["n"] - entry["k"]
    mean = entry["post_mean"]
    variance = mean * (1 - mean) / (a + b + 1)
    return Stored(
        entry["log_evidence_of_sequence"], 0.0, np.array([mean]), np.array([variance])
    )


def poisson(x):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
    numpyro.sample("x", dist.Poisson(rate), obs=x)


def stored_gamma(entry):
    shape, rate = entry["post_shape"], entry["post_rate"]
    mean, variance = np.array([shape / rate]), np.array([shape / rate**2])
    return Stored(entry["log_evidence"], 0.0, mean, variance)


def regression(X, y, noise, spread):
    b = numpyro.sample("b", dist.Normal(0.0, spread).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(X @ b, noise), obs=y)


def regression_data(entry):
    X, y = np.array(entry["X"]), np.array(entry["y"])
    return X, y, entry["noise_var"] ** 0.5, entry["prior_var"] ** 0.5


def stored_regression(entry):
    moments = np.array(entry["post_mean"]), np.array(entry["post_cov"])
    return Stored(entry["log_evidence"], 0.0, *moments)


def logistic(design, y, spread):
    b = numpyro.sample("b", dist.Normal(0.0, spread).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=design @ b), obs=y)


def logistic_data(name, spread=5.0):
    design, y = HARD_CASES[name].load()
    return design, y, np.append(20.0, np.full(design.shape[1] - 1, spread))


def stored_logistic(entry):
    mean, sd = (np.array(entry.get(name, ())) for name in ("post_mean", "post_sd"))
    error = entry["log_evidence_se"]
    return Stored(entry["log_evidence"], error, mean, sd**2, entry.get("is_ess", np.inf))


CONJUGATE = [
    Case(
        "beta_binomial",
        bernoulli,
        lambda entry: (float(entry["n"]), float(entry["k"])),
        lambda num, num_successes: (num, num_successes + 1.0),
        stored_beta,
    ),
    Case(
        "gamma_poisson",
        poisson,
        lambda entry: (np.array(entry["x"]),),
        lambda x: (x + (np.arange(len(x)) == 0),),
        stored_gamma,
    ),
    Case(
        "gaussian_linear_regression",
        regression,
        regression_data,
        lambda X, y, noise, spread: (X, y, 1.2 * noise, spread),
        stored_regression,
    ),
]
LOGISTIC = [
    Case(
        f"logistic_{name}",
        logistic,
        lambda entry, name=name: logistic_data(name),
        lambda design, y, spread, name=name: logistic_data(name, spread=4.0),
        stored_logistic,
    )
    for name in ("pima", "sonar", "breast_cancer")
]


@pytest.fixture(scope="module")
def entries(reference_data):
    return json.loads((reference_data / "core" / "reference.json").read_text())


def fitted(model, data, seed=0):
    with jax.enable_x64(True):
        model, arrays = NumPyroModel.of(model, tuple(jnp.asarray(a) for a in data), {})
        return ENGINE.run(model.target(arrays), key=seed)


def assert_evidence(estimates, reported, stored, largest=np.inf):
    """Errors of independent runs are small, and as large as they say, no more and no less.

    They share the error of the stored number: with C = diag(se²) + s² 11', e' C⁻¹ e of the
    errors e has a chi-squared distribution with as many degrees of freedom as there are runs.
    """
    errors = np.array(estimates) - stored.log_evidence
    covariance = np.diag(np.square(reported)) + stored.log_evidence_error**2
    statistic = errors @ np.linalg.solve(covariance, errors)
    low, high = stats.chi2.interval(1 - FALSE_ALARM, len(errors))
    found = f"errors up to {np.abs(errors).max():.4f}, chi-squared {statistic:.3g}"
    assert np.abs(errors).max() <= largest, found
    assert low < statistic < high, f"{found}, which must lie in ({low:.3g}, {high:.3g})"


def assert_moments(result, stored):
    """Means over independent chains agree with the stored mean, variances and covariances."""
    (draws,) = result.draws.values()
    deviations = draws.reshape(*draws.shape[:2], -1) - stored.mean
    products = deviations**2
    if stored.covariance.ndim == 2:
        products = deviations[..., :, None] * deviations[..., None, :]
    by_chain = np.concatenate(
        [part.mean(axis=1).reshape(len(draws), -1) for part in (deviations, products)], axis=1
    )
    exact = np.append(np.zeros_like(stored.mean), stored.covariance)
    variance = by_chain.var(axis=0, ddof=1) / len(by_chain)
    if np.isfinite(stored.num_draws):
        # Of the mean, and of the variance of a normal distribution.
        known = np.append(stored.covariance, 2 * stored.covariance**2)
        variance += known / stored.num_draws
    z = np.abs(by_chain.mean(axis=0) - exact) / np.sqrt(variance)
    bound = stats.t.isf(FALSE_ALARM / (2 * len(z)), len(by_chain) - 1)
    assert z.max() < bound, f"worst of {len(z)}: {z.max():.1f} standard errors at {z.argmax()}"


@pytest.mark.parametrize("case", CONJUGATE, ids=lambda case: case.name)
def test_conjugate(case, entries):
    """Evidence, mean and covariance; one datum or one standard deviation wrong is found."""
    entry = entries[case.name]
    data, stored = case.data(entry), case.stored(entry)
    right, wrong = fitted(case.model, data), fitted(case.model, case.wrong(*data))
    assert_evidence([right.log_evidence], [right.log_evidence_se], stored)
    assert_moments(right, stored)
    with pytest.raises(AssertionError, match="chi-squared"):
        assert_evidence([wrong.log_evidence], [wrong.log_evidence_se], stored)
    with pytest.raises(AssertionError, match="standard errors at"):
        assert_moments(wrong, stored)


@pytest.mark.slow
@pytest.mark.parametrize("case", LOGISTIC, ids=lambda case: case.name)
def test_logistic(case, entries):
    """Evidence, means and variances; a prior standard deviation of 4 for 5 is found."""
    entry = entries[case.name]
    data, stored = case.data(entry), case.stored(entry)
    right, wrong = fitted(case.model, data), fitted(case.model, case.wrong(*data))
    assert_evidence([right.log_evidence], [right.log_evidence_se], stored, largest=0.1)
    if len(stored.mean):
        assert_moments(right, stored)
    with pytest.raises(AssertionError, match="chi-squared"):
        assert_evidence([wrong.log_evidence], [wrong.log_evidence_se], stored, largest=0.1)


@pytest.mark.slow
def test_reported_errors_of_evidence_are_honest(entries):
    """Breast cancer, 20 seeds: within 0.1, and as far off as they say.

    The same check finds a prior standard deviation of 4 for 5, and standard errors that are 5
    times too small or too large.
    """
    *_, case = LOGISTIC
    entry = entries[case.name]
    data, stored = case.data(entry), case.stored(entry)

    def runs(data, num):
        several = [fitted(case.model, data, seed) for seed in range(num)]
        return np.array([(one.log_evidence, one.log_evidence_se) for one in several]).T

    estimates, reported = runs(data, 20)
    assert_evidence(estimates, reported, stored, largest=0.1)
    for factor in (0.2, 5.0):
        with pytest.raises(AssertionError, match="which must lie in"):
            assert_evidence(estimates, factor * reported, stored)
    with pytest.raises(AssertionError, match="errors up to"):
        assert_evidence(*runs(case.wrong(*data), 3), stored, largest=0.1)
