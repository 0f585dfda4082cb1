"""Calibration of whole estimators: ranks of the truth among the draws of many fits.

False alarms: 1e-6 a call, as stated by the report, for the doubles, whose draws are exact and
independent.
"""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import BaseEstimator

from bayeskit.errors import ConvergenceWarning, LawMismatch
from bayeskit.validation import validate
from bayeskit.validation.calibration import _NUM_DRAWS, _band_words, _p_values
from bayeskit.validation.paired import Level

NUM_DATA = 5


def simulate(key):
    """A mean with prior N(1, 2²), and five observations of unit variance."""
    mean_key, data_key = jax.random.split(key)
    mean = 1.0 + 2.0 * jax.random.normal(mean_key)
    return {"mean": mean}, (mean + jax.random.normal(data_key, (NUM_DATA,)),)


def log_likelihood(parameters, arguments):
    return {"the log likelihood": -0.5 * jnp.sum((arguments[0] - parameters["mean"]) ** 2)}


class NormalMean(BaseEstimator):
    """Exact draws of the posterior of a normal mean, with a planted mistake or without."""

    def __init__(self, planted="", random_state=None):
        self.planted = planted
        self.random_state = random_state

    def fit(self, y):
        shares = {"prior": 0, "likelihood twice": 2, "mean of the data": 1 / len(y)}
        count = shares.get(self.planted, 1) * len(y)
        precision = 0.25 + count
        self.mean_ = (0.25 * 1.0 + count * np.mean(y)) / precision
        self.scale_ = precision**-0.5
        if self.planted == "wide":
            self.scale_ *= 1.5
        if self.planted == "loud":
            warnings.warn("has not converged\nin detail", ConvergenceWarning, stacklevel=2)
        self.random_ = np.random.default_rng(self.random_state)
        return self

    def sample(self, num_draws, random_state=None):
        draws = self.mean_ + self.scale_ * self.random_.normal(size=num_draws)
        if self.planted == "nan":
            draws[0] = np.nan
        return {"mean": draws}


class WithPosterior(NormalMean):
    """Draws in an ArviZ object and nowhere else."""

    sample = None

    def fit(self, y):
        super().fit(y)
        values = NormalMean.sample(self, 4 * 150)["mean"].reshape(4, 150)
        self.posterior_ = {"posterior": {"mean": values}}
        return self


def calibrate(estimator, **options):
    return validate(estimator, start=simulate, **{"observed": log_likelihood, **options})


@pytest.mark.parametrize("estimator", [NormalMean(), WithPosterior()])
def test_exact_draws_pass(estimator):
    report = calibrate(estimator, key=1)
    report.raise_if_failed()
    assert {check.name for check in report.tests} == {
        "draws are finite",
        "ranks of mean",
        "ranks of the log likelihood",
    }
    assert report.alpha == 1e-6
    assert any("exact and independent draws" in note for note in report.notes)
    assert any("all stay within 0.105 with probability 0.95" in note for note in report.notes)


@pytest.mark.parametrize("planted", ["likelihood twice", "prior", "wide"])
def test_wrong_posterior_is_caught(planted):
    report = calibrate(NormalMean(planted))
    assert report.verdict == "fail"
    assert "data sets" in report.worst
    if planted == "prior":
        assert "the log likelihood" in report.worst


def test_parameters_alone_do_not_see_that_the_data_are_ignored():
    """Why the log likelihood is asked for: the prior ranks its own draws perfectly."""
    report = calibrate(NormalMean("prior"))
    (ranks,) = [check for check in report.tests if check.name == "ranks of mean"]
    assert ranks.passed and ranks.p_value > 1e-4
    with pytest.raises(TypeError, match="cannot tell a posterior from the prior"):
        calibrate(NormalMean("prior"), observed=None)


def test_log_joint_of_a_numpyro_model_is_known():
    import numpyro
    import numpyro.distributions as dist

    def model(y=None):
        mean = numpyro.sample("mean", dist.Normal(1.0, 2.0))
        with numpyro.plate("data", NUM_DATA):
            numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    class WithModel(NormalMean):
        def __init__(self, model=None, planted="", random_state=None):
            super().__init__(planted, random_state)
            self.model = model

        def fit(self, X=None, y=None):
            return super().fit(y)

    def simulate_named(key):
        parameters, (y,) = simulate(key)
        return parameters, (None, y)

    for planted, verdict in (("", "pass"), ("prior", "fail")):
        report = validate(WithModel(model, planted), start=simulate_named)
        assert report.verdict == verdict
        names = [check.name for check in report.tests]
        assert names[1:] == ["ranks of mean", "ranks of the log joint density"]


def test_ranks_are_exactly_uniform_for_exact_draws():
    """Counts of 20 000 uniform ranks: p-values above 1e-6 / 11 but for one run in a million."""
    ranks = np.random.default_rng(0).integers(0, _NUM_DRAWS + 1, (20_000, 1))
    assert _p_values(ranks).min() > 1e-6 / 11
    assert _p_values(np.minimum(ranks, 94)).min() == 0.0


def test_ties_are_broken_at_random():
    """A posterior of one repeated value would else rank every truth at an end."""

    class Rounded(NormalMean):
        def sample(self, num_draws, random_state=None):
            draws = super().sample(num_draws)["mean"]
            return {"mean": np.round(draws)}

    def simulate_rounded(key):
        parameters, arguments = simulate(key)
        return {"mean": jnp.round(parameters["mean"])}, arguments

    def parity(parameters, arguments):
        return parameters["mean"] % 2

    # The mean is rounded after the data were drawn, so truth and draws are still alike.
    report = validate(Rounded(), start=simulate_rounded, observed=parity)
    report.raise_if_failed()


def test_draws_that_are_nan_fail():
    report = calibrate(NormalMean("nan"))
    assert report.verdict == "fail"
    assert "gave draws or log densities that are NaN" in report.worst


def test_warnings_of_fits_are_counted():
    report = calibrate(NormalMean("loud"))
    assert any("201 warnings in 201 fits, the first: has not" in n for n in report.notes)


def test_budget_leaves_the_verdict_open():
    level = Level(num_stages=3, growth=4, first=100, num_frequencies=0)
    report = calibrate(NormalMean("likelihood twice"), level=level, budget_s=1e-9)
    assert report.verdict == "inconclusive"
    assert "the budget ended after 100 fits, undecided" in report.worst


def test_band_holds_for_all_quantities_at_once():
    """300 fits of 40 quantities each: the band is left in at most 5 % of them.

    More than 35 of 300 have probability below 1e-5 at 5 %. The band of a single quantity, with
    the same words, is left by the worst of 40 in far more.
    """
    rng = np.random.default_rng(4)
    num_left = 0
    for _ in range(300):
        ranks = rng.integers(0, _NUM_DRAWS + 1, (200, 40))
        words = _band_words([f"x[{i}]" for i in range(40)], ranks)
        gap, band = re.findall(r"\d\.\d+", words)[:2]
        num_left += float(gap) > float(band)
    assert num_left <= 35


def test_law_of_an_estimator_is_that_of_its_draws():
    level = Level(num_stages=1, growth=4, first=20, num_frequencies=0)
    calibrate(NormalMean(), law="draws", level=level)
    with pytest.raises(LawMismatch, match="leave law= out"):
        calibrate(NormalMean(), law="invariant")


def test_what_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="needs start=simulate"):
        validate(NormalMean(), observed=log_likelihood)
    with pytest.raises(TypeError, match=r"start must return \(parameters, arguments\)"):
        validate(NormalMean(), start=lambda key: 3, observed=log_likelihood)
    with pytest.raises(ValueError, match=r"simulates \['slope'\], which the posterior"):
        validate(
            NormalMean(),
            start=lambda key: ({"slope": 1.0}, (np.ones(3),)),
            observed=log_likelihood,
        )
    with pytest.raises(ValueError, match=r"'mean' have shape \(99,\)"):
        validate(
            NormalMean(),
            start=lambda key: ({"mean": np.ones(2)}, (np.ones(3),)),
            observed=log_likelihood,
        )
    with pytest.raises(ValueError, match="level='exact' does not fit an estimator"):
        calibrate(NormalMean(), level="exact")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["SMC", "NUTS"])
def test_bayesian_model_is_calibrated(engine):
    """Draws are approximate, so 1e-6 is no strict bound here; their error is far below it."""
    import numpyro
    import numpyro.distributions as dist

    import bayeskit as bk

    def model(X, y=None):
        slope = numpyro.sample("slope", dist.Normal(1.0, 1.0).expand([2]).to_event())
        noise = numpyro.sample("noise", dist.LogNormal(0.0, 0.5))
        with numpyro.plate("data", X.shape[0]):
            numpyro.sample("y", dist.Normal(X @ slope, noise), obs=y)

    X = np.random.default_rng(0).normal(size=(8, 2))

    @jax.jit
    def draw(key):
        slope_key, noise_key, data_key = jax.random.split(key, 3)
        slope = 1.0 + jax.random.normal(slope_key, (2,))
        noise = jnp.exp(0.5 * jax.random.normal(noise_key))
        y = X @ slope + noise * jax.random.normal(data_key, (8,))
        return {"slope": slope, "noise": noise}, y

    def start(key):
        parameters, y = draw(key)
        return parameters, (X, y)

    inference = {
        "SMC": bk.SMC(num_particles=1000),
        "NUTS": bk.NUTS(num_chains=2, num_warmup=300, num_draws=500),
    }[engine]
    report = validate(bk.BayesianModel(model, inference=inference), start=start)
    print(report)
    report.raise_if_failed()
    names = {check.name for check in report.tests}
    assert {"ranks of slope[0]", "ranks of slope[1]", "ranks of noise"} < names
    assert "ranks of the log joint density" in names
