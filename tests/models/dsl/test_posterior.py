"""Posteriors: closed forms, quadrature, and the coverage of the bootstrap."""

import warnings
from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy import stats

import bayeskit as bk
from bayeskit.errors import ConvergenceWarning, InvalidDataError
from bayeskit.models.dsl import dsl_fit, hierarchical_posterior
from bayeskit.models.dsl.hierarchical import joint_covariance
from bayeskit.models.dsl.posterior import bootstrap_posterior
from tests.models.dsl.panels import documents, unbalanced_panel

FRAME = documents(600, seed=5)
SETTINGS = {
    "formula": "y ~ x + z",
    "predicted": {"y": "y_model", "x": "x_model"},
    "learner": "linear",
    "n_repeats": 2,
}
# Two-sided normal quantile of 1e-7: with twice three comparisons, false alarms below 1e-6.
LIMIT = 5.33


def close_in_law(posterior, mean, covariance):
    """Whether means and variances of draws are those of a normal, within their errors."""
    draws = posterior.flat("coef")
    size = posterior.diagnostics.ess_min
    sd = np.sqrt(np.diag(covariance))
    mean_errors = np.abs(draws.mean(axis=0) - mean) / (sd / np.sqrt(size))
    # The variance of n independent normals has the relative error sqrt(2/n).
    spread_errors = np.abs(draws.var(axis=0) / sd**2 - 1) / np.sqrt(2 / size)
    return max(mean_errors.max(), spread_errors.max()) < LIMIT


@pytest.fixture(scope="module")
def linear():
    return bk.DSLRegressor("linear", **SETTINGS).fit(FRAME)


def test_quasi_posterior_of_linear_moments_is_normal(linear):
    """False-alarm rate below 1e-6; the planted bugs are caught by the same check."""
    found = linear.posterior("quasi")
    assert found.posterior["coef"].dims == ("chain", "draw", "term")
    assert list(found.posterior["term"].values) == ["Intercept", "x", "z"]
    posterior = linear.posterior_result_
    assert close_in_law(posterior, linear.coef_, linear.vcov_)
    # A quasi-likelihood without its n, or centred at one repeat, would not do.
    assert not close_in_law(posterior, linear.coef_, linear.vcov_ * 1.3)
    assert not close_in_law(posterior, linear.coef_ + 0.3 * linear.se_, linear.vcov_)


# Its numbers of draws are fixed, and so are the shapes of its programs.
FIXED = bk.NUTS(num_draws=1000, num_warmup=300)


@pytest.mark.parametrize("engine", [None, FIXED])
def test_normal_prior_in_closed_form(linear, engine):
    """False-alarm rate below 1e-6."""
    mean, scale = np.array([0.3, 0.0, 0.1]), 0.03
    precision = np.linalg.inv(linear.vcov_)
    covariance = np.linalg.inv(precision + np.eye(3) / scale**2)
    expected = covariance @ (precision @ linear.coef_ + mean / scale**2)
    linear.posterior("quasi", prior=(mean, scale), inference=engine)
    posterior = linear.posterior_result_
    assert close_in_law(posterior, expected, covariance)
    assert not close_in_law(posterior, linear.coef_, linear.vcov_)
    if engine is None:
        evidence = stats.multivariate_normal(mean, linear.vcov_ + scale**2 * np.eye(3))
        volume = 0.5 * np.log(np.linalg.det(2 * np.pi * linear.vcov_))
        exact = evidence.logpdf(linear.coef_) + volume
        assert posterior.log_evidence == pytest.approx(exact, abs=0.05)


def test_second_posterior_of_the_same_shapes_compiles_nothing(linear):
    linear.posterior("quasi", prior=(0.0, 1.0), inference=FIXED)
    other = bk.DSLRegressor("linear", **SETTINGS, random_state=9).fit(FRAME)
    other.posterior("quasi", prior=(1.0, 2.0), inference=FIXED)
    assert other.posterior_result_.timing["compile_s"] == 0.0
    logit = bk.DSLRegressor("logit", **SETTINGS).fit(FRAME)
    logit.posterior(draws=64)
    fewer = bk.DSLRegressor("logit", **SETTINGS).fit(FRAME.iloc[:590])
    fewer.posterior(draws=64)
    assert fewer.posterior_result_.timing["compile_s"] == 0.0


def test_priors_of_all_kinds_agree(linear):
    """Densities at a point, exact."""
    import numpyro.distributions as dist

    from bayeskit.models.dsl.priors import as_prior

    theta = np.array([0.1, -0.2, 0.4])
    expected = stats.norm(0.5, 2.0).logpdf(theta).sum()
    terms = ("Intercept", "x", "z")
    whole = (np.full(3, 0.5), 4.0 * np.eye(3))
    for prior in (
        (0.5, 2.0),
        whole,
        dist.Normal(0.5, 2.0),
        dist.Normal(np.full(3, 0.5), 2.0),
        dict.fromkeys(terms, (0.5, 2.0)),
    ):
        found = as_prior(prior, terms)
        with jax.enable_x64(True):
            assert float(found.log_density(theta, *found.arrays)) == pytest.approx(expected)
            assert found.sample(jax.random.key(0), *found.arrays).shape == (3,)
    part = as_prior({"x": (0.0, 1.0)}, terms)
    assert part.sample is None
    with jax.enable_x64(True):
        assert float(part.log_density(theta, *part.arrays)) == pytest.approx(-0.02)
    mixed = as_prior({"x": dist.Normal(0.0, 1.0), "z": (0.0, 1.0)}, terms)
    with jax.enable_x64(True):
        away = float(mixed.log_density(theta, *mixed.arrays) - mixed.log_density(0 * theta))
    assert away == pytest.approx(-0.5 * (0.04 + 0.16))
    for bad in ({"w": (0, 1)}, (0.0, -np.eye(3)), (0.0, np.eye(2)), 3.0):
        with pytest.raises(InvalidDataError):
            as_prior(bad, terms)


def test_smc_agrees_with_the_closed_form(linear):
    """False-alarm rate below 1e-6."""
    mean, scale = 0.1, 0.05
    precision = np.linalg.inv(linear.vcov_)
    covariance = np.linalg.inv(precision + np.eye(3) / scale**2)
    expected = covariance @ (precision @ linear.coef_ + mean / scale**2)
    linear.posterior("quasi", prior=(mean, scale), inference=bk.SMC(num_particles=1000))
    draws = linear.posterior_result_.flat("coef")
    # Particles are dependent: a fifth of them as effective size is on the safe side.
    limit = LIMIT * np.sqrt(np.diag(covariance) / 200)
    assert (np.abs(draws.mean(axis=0) - expected) < limit).all()


def test_quasi_likelihood_in_a_model_of_ones_own(linear):
    import numpyro
    import numpyro.distributions as dist

    likelihood = linear.quasi_likelihood()

    def model():
        theta = numpyro.sample("theta", dist.Normal(0.0, 0.1).expand([3]).to_event(1))
        numpyro.factor("labels", likelihood(theta))

    found = bk.BayesianModel(model, random_state=0, inference=FIXED).fit().result_
    linear.posterior("quasi", prior=(0.0, 0.1), inference=FIXED)
    own = linear.posterior_result_
    size = min(found.diagnostics.ess_min, own.diagnostics.ess_min)
    away = found.mean("theta") - own.mean("coef")
    assert (np.abs(away) < LIMIT * own.sd("coef") * np.sqrt(2 / size)).all()


def test_quasi_likelihood_of_logit_by_its_definition():
    model = bk.DSLRegressor("logit", **{**SETTINGS, "n_repeats": 1}).fit(FRAME)
    data = model.result_.data
    theta = model.coef_ + np.array([0.3, -0.2, 0.1])

    def moments(theta):
        def m(x, y):
            return x * (y - 1 / (1 + np.exp(-x @ theta)))[:, None]

        guess = m(data.predicted.x[0], data.predicted.y[0, :, 0])
        robust = guess.copy()
        true = m(data.true.x[0], data.true.y[0, :, 0])
        robust[data.labeled] += (true - guess[data.labeled]) / model.pi_[data.labeled, None]
        return robust

    n = len(FRAME)
    omega = moments(model.coef_).T @ moments(model.coef_) / n
    g = moments(theta).mean(axis=0)
    with jax.enable_x64(True):
        found = float(model.quasi_likelihood()(theta))
    assert found == pytest.approx(-0.5 * n * g @ np.linalg.solve(omega, g), rel=1e-9)


def test_bootstrap_of_a_weighted_mean_is_its_ratio():
    """With labels of all rows the draws are weighted means: sd of the classical formula."""
    model = bk.DSLRegressor("mean", "y_true").fit(FRAME)
    model.posterior(draws=4000)
    draws = model.posterior_result_.flat("coef")[:, 0]
    sd = FRAME.y_true.std(ddof=0) / np.sqrt(len(FRAME) + 1)
    assert abs(draws.std() / sd - 1) < LIMIT / np.sqrt(2 * 4000)
    assert abs(draws.mean() - FRAME.y_true.mean()) < LIMIT * sd / np.sqrt(4000)
    # Weights that are not those of clusters would give this spread again.
    clustered = bk.DSLRegressor("mean", "y_true", cluster=np.arange(600) // 100).fit(FRAME)
    clustered.posterior(draws=1000)
    assert clustered.posterior_result_.flat("coef").std() / sd > 0


@pytest.mark.parametrize("model", ["linear", "logit", "poisson", "multinomial"])
def test_bootstrap_spreads_like_the_sandwich(model):
    """Standard deviations of 600 draws err by 3 %; 20 % is beyond 1e-6 of them."""
    outcome = {"poisson": "count"}.get(model, "y")
    frame = FRAME
    predicted = {outcome: f"{outcome}_model"}
    settings = {**SETTINGS, "formula": f"{outcome} ~ z", "predicted": predicted}
    if model == "multinomial":
        frame = FRAME.assign(y=np.where(FRAME.y.notna(), FRAME.group, None))
    fitted = bk.DSLRegressor(model, **settings, power_tuning="per_coef").fit(frame)
    fitted.posterior(draws=600)
    ratio = fitted.posterior_result_.flat("coef").std(axis=0) / fitted.se_
    assert ((ratio > 0.8) & (ratio < 1.25)).all()


def test_bootstrap_draws_without_a_root_are_left_out():
    """Few labels that almost separate: some weights leave no root, and it is said."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=40)
    y = (x + 0.25 * generator.normal(size=40) > 0).astype(float)
    y[np.argmin(np.abs(x))] = 1 - y[np.argmin(np.abs(x))]
    labeled = generator.random(40) < 0.8
    guess = np.clip(0.5 + 0.6 * x, 0, 1)
    result = dsl_fit(
        y, np.column_stack([np.ones(40), x]), guess, labeled=labeled, model="logit"
    )
    with pytest.warns(ConvergenceWarning, match="of 400 bootstrap draws have no solution"):
        found = bootstrap_posterior(result, 400, 0)
    assert np.isfinite(found.flat("coef")).all()
    assert found.num_draws < 400


def test_bootstrap_of_effects_and_instruments():
    panel = unbalanced_panel()
    effects = bk.DSLRegressor(
        formula="y ~ x_true + z",
        predicted={"y": "y_model"},
        fixed_effects=["state", "year"],
        cv=2,
        n_repeats=1,
        learner="linear",
    ).fit(panel)
    effects.posterior(draws=200)
    ratio = effects.posterior_result_.flat("coef").std(axis=0) / effects.se_
    assert ((ratio > 0.6) & (ratio < 1.6)).all()
    instruments = bk.DSLRegressor(
        "iv",
        "y ~ x + z | x_model + z",
        {"y": "y_model", "x": "x_model"},
        learner="linear",
        n_repeats=1,
    ).fit(FRAME)
    instruments.posterior(draws=200)
    ratio = instruments.posterior_result_.flat("coef").std(axis=0) / instruments.se_
    assert ((ratio > 0.7) & (ratio < 1.5)).all()


def test_likelihoods_that_do_not_vanish_are_said():
    """Moments of a logit are bounded: with few labels the likelihood has a floor above 0."""
    few = FRAME.assign(y=FRAME.y.where(np.arange(len(FRAME)) % 8 == 0))
    model = bk.DSLRegressor("logit", "y ~ z", {"y": "y_model"}, learner="linear", n_repeats=1)
    engine = bk.NUTS(num_warmup=50, num_draws=50, num_chains=2)
    for frame, prior, is_said in (
        (few, None, True),
        (few, (0.0, 2.5), False),
        (few, lambda theta: -0.5 * (theta @ theta), False),
        (FRAME, None, False),
    ):
        model.fit(few if frame is few else FRAME)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.posterior("quasi", prior=prior, inference=engine)
        assert any("does not vanish far" in str(w.message) for w in caught) == is_said


@pytest.mark.parametrize("prior", [(0.0, -1.0), (np.nan, 1.0), {"z": (0.0, 0.0)}])
def test_priors_that_are_none(linear, prior):
    with pytest.raises(InvalidDataError, match="finite means and scales above 0"):
        linear.posterior("quasi", prior=prior)


def test_covariances_of_fits_count_the_rows_of_both():
    both = FRAME.assign(other=FRAME.y + FRAME.z)
    settings = {"learner": "linear", "n_repeats": 1}
    first = bk.DSLRegressor(formula="y ~ z", predicted={"y": "y_model"}, **settings).fit(both)
    second = bk.DSLRegressor(formula="other ~ z", predicted={"other": "y_model"}, **settings)
    whole = joint_covariance({"a": first, "b": second.fit(both)})
    fewer = joint_covariance({"a": first, "b": second.fit(both.iloc[5:])})
    assert fewer[0, 2] == pytest.approx(whole[0, 2], rel=0.2)
    assert whole[0, 2] > 0.5 * whole[0, 0]
    # Other units, counted alike.
    half = len(both) // 2
    parts = [both.iloc[:half], both.iloc[half : 2 * half].reset_index(drop=True)]
    apart = [
        bk.DSLRegressor(formula="y ~ z", predicted={"y": "y_model"}, **settings).fit(p)
        for p in parts
    ]
    covariance = joint_covariance({"a": apart[0], "b": apart[1]})
    np.testing.assert_array_equal(covariance[:2, 2:], 0.0)
    second.fit(both.iloc[5:].set_index(np.zeros(len(both) - 5, int)))
    with pytest.raises(InvalidDataError, match="index has duplicates"):
        joint_covariance({"a": first, "b": second})


@pytest.mark.parametrize("model", ["linear", "iv"])
def test_bootstrap_of_strata_spreads_like_the_sandwich(model):
    """Corrections that differ between strata alone do not vary: relative errors below 15 %."""
    town = FRAME.z.to_numpy() > 0
    truth = FRAME.y_true + 8.0 * town
    kept = town & (np.arange(len(FRAME)) % 4 > 0) | ~town & (np.arange(len(FRAME)) % 5 == 0)
    frame = FRAME.assign(y=truth.where(kept), town=town, w=FRAME.x_true)
    formula = "y ~ w" + (" | x_model" if model == "iv" else "")
    fit = bk.DSLRegressor(model, formula, {"y": "y_model"}, learner="identity").set_params(
        normalize="strata", strata="town"
    )
    fit.fit(frame).posterior(draws=1000)
    ratio = fit.posterior_result_.flat("coef").std(axis=0) / fit.se_
    np.testing.assert_allclose(ratio, 1.0, atol=0.15)
    # A planted bug: with fixed probabilities the spread between strata comes in.
    fit.result_ = replace(fit.result_, data=replace(fit.result_.data, strata=None))
    fit.posterior(draws=1000)
    assert (fit.posterior_result_.flat("coef").std(axis=0) / fit.se_)[0] > 1.2


def test_bootstrap_of_two_ways_of_clusters_is_refused():
    two = FRAME.assign(other=np.arange(len(FRAME)) % 40)
    model = bk.DSLRegressor(formula="y ~ z", predicted={"y": "y_model"}, learner="linear")
    model.set_params(cluster=["cluster", "other"], n_repeats=1).fit(two)
    with pytest.raises(InvalidDataError, match="weighs clusters of one way"):
        model.posterior(draws=100)


def outcomes(num=4):
    """Fits of several outcomes on the same rows."""
    generator = np.random.default_rng(3)
    labeled = generator.random(500) < 0.4
    common = 3.0 * generator.normal(size=500)
    models = {}
    for k, level in enumerate(generator.normal(1.0, 0.15, num)):
        y = level + common + generator.normal(size=500)
        frame = FRAME.iloc[:500].assign(y=np.where(labeled, y, np.nan), guess=y + 0.5 * common)
        models[f"outcome {k}"] = bk.DSLRegressor(
            "mean", "y", {"y": "guess"}, learner="linear", n_repeats=1
        ).fit(frame)
    return models


def test_hierarchy_against_quadrature():
    """Means and spreads within five Monte-Carlo errors: false-alarm rate about 1e-6."""
    models = outcomes()
    estimate = np.array([m.coef_[0] for m in models.values()])
    covariance = joint_covariance(models)
    assert covariance[0, 1] > 0.1 * covariance[0, 0]
    location, scale = 3.0, 0.5
    found = hierarchical_posterior(models, location_scale=location, sd_scale=scale)
    taus = np.linspace(1e-4, 3.0, 3000)
    log_weight, mean_of_mean = [], []
    for tau in taus:
        spread = covariance + tau**2 * np.eye(4)
        marginal = spread + location**2
        log_weight.append(
            stats.multivariate_normal(np.zeros(4), marginal).logpdf(estimate)
            - 0.5 * (tau / scale) ** 2
        )
        mean_of_mean.append(location**2 * np.sum(np.linalg.solve(marginal, estimate)))
    weight = np.exp(np.array(log_weight) - max(log_weight))
    weight /= weight.sum()
    size = found.diagnostics.ess_min
    tau_sd = np.sqrt(weight @ taus**2 - (weight @ taus) ** 2)
    assert abs(found.mean("sd")[0] - weight @ taus) < 5 * tau_sd / np.sqrt(size)
    expected = weight @ np.array(mean_of_mean)
    assert abs(found.mean("mean")[0] - expected) < 5 * found.sd("mean")[0] / np.sqrt(size)
    # A planted bug: without covariances the same quadrature is far off.
    off = np.diag(np.diag(covariance))
    wrong = [
        stats.multivariate_normal(np.zeros(4), off + t**2 * np.eye(4) + location**2).logpdf(
            estimate
        )
        - 0.5 * (t / scale) ** 2
        for t in taus
    ]
    wrong_weight = np.exp(np.array(wrong) - max(wrong))
    wrong_mean = wrong_weight @ taus / wrong_weight.sum()
    assert abs(found.mean("sd")[0] - wrong_mean) > 5 * tau_sd / np.sqrt(size)


def test_hierarchy_of_some_terms_and_bad_input():
    logit = bk.DSLRegressor("logit", **SETTINGS).fit(FRAME)
    other = bk.DSLRegressor("logit", **{**SETTINGS, "formula": "y ~ x + z + group"}).fit(FRAME)
    found = hierarchical_posterior({"a": logit, "b": other}, terms=["x"])
    assert found.draws["coef"].shape[2:] == (2, 1)
    pooled = found.mean("coef")[:, 0]
    own = np.array([logit.coef_[1], other.coef_[1]])
    assert abs(np.diff(pooled)[0]) <= abs(np.diff(own)[0]) + 0.02
    with pytest.raises(InvalidDataError, match="at least two fits"):
        hierarchical_posterior({"a": logit})
    with pytest.raises(InvalidDataError, match="the fit 'a' has no term 'w'"):
        hierarchical_posterior({"a": logit, "b": other}, terms=["w"])


def test_methods_that_are_not_there(linear):
    with pytest.raises(ValueError, match="method must be 'bootstrap' or 'quasi'"):
        linear.posterior("laplace")
    with pytest.raises(ValueError, match="prior and inference are for"):
        linear.posterior(prior=(0.0, 1.0))
    with pytest.raises(ValueError, match="draws must be a whole number"):
        linear.posterior(draws=0)


@pytest.mark.slow
def test_coverage_of_the_bootstrap():
    """Of 300 intervals of level 95 %, false-alarm rate of [0.88, 0.99] about 1e-6."""
    generator = np.random.default_rng(0)
    inside = np.zeros((300, 2))
    for repeat in range(300):
        frame = documents(1000, seed=1000 + repeat, share=0.25)
        z = frame.z.to_numpy()
        y = (generator.random(1000) < 1 / (1 + np.exp(-0.3 + 0.6 * z))).astype(float)
        wrong = generator.random(1000) < 0.2
        frame = frame.assign(
            y=np.where(frame.y.notna(), y, np.nan), y_model=np.where(wrong, 1 - y, y)
        )
        model = bk.DSLRegressor(
            "logit", "y ~ z", {"y": "y_model"}, learner="linear", n_repeats=1
        ).fit(frame)
        model.posterior(draws=400, random_state=repeat)
        low, high = np.quantile(model.posterior_result_.flat("coef"), [0.025, 0.975], axis=0)
        inside[repeat] = (low < [0.3, -0.6]) & (high > [0.3, -0.6])
    assert ((inside.mean(axis=0) > 0.88) & (inside.mean(axis=0) < 0.99)).all()
