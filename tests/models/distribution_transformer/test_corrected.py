"""The estimator's corrections: refinement, priors of any kind, calibration."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import bayeskit as bk
from bayeskit.errors import (
    ConvergenceWarning,
    InvalidDataError,
    OutOfMetaPriorWarning,
    PriorFitWarning,
    StalledError,
)
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.models.distribution_transformer import (
    GaussianMixtureMetaPrior,
    ParametricMetaPrior,
    RefinedBatch,
    Simulator,
    fit_mixture,
)
from bayeskit.models.distribution_transformer.refine import ladder

PRIOR = bk.GaussianMixture([0.5, 0.5], [-2.0, 2.0], [1.0, 1.0])
UNTRAINED = {
    "max_steps": 0,
    "budget_seconds": None,
    "random_state": 0,
    "d_model": 8,
    "n_layers": 1,
    "n_heads": 1,
    "d_hidden": 8,
}


def student_noise(key, x):
    return x + jax.random.t(key, 4.0, x.shape)


def log_student(z, x):
    return jax.scipy.stats.t.logpdf(z, 4.0, x).sum()


@pytest.fixture(scope="module")
def untrained():
    """Start values alone: rough, so that there is something to correct."""
    return bk.DistributionTransformer(
        Simulator(student_noise, log_student, num_observations=(1, 4)),
        GaussianMixtureMetaPrior(dim=1, num_components=(1, 3)),
        warm_start=False,
        **UNTRAINED,
    ).fit()


Z = np.array([0.8, 1.9, 1.1])


def density_of_mixture(x):
    return np.exp(PRIOR.log_prob(x[:, None]))


def quadrature(prior_density, z=Z):
    """Return mean, sd and log evidence on a grid."""
    x = np.linspace(-25.0, 25.0, 100_001)
    joint = prior_density(x) * np.exp(stats.t(4.0).logpdf(z[:, None] - x).sum(axis=0))
    total = np.trapezoid(joint, x)
    mean = np.trapezoid(joint * x, x) / total
    return mean, np.sqrt(np.trapezoid(joint * (x - mean) ** 2, x) / total), np.log(total)


def assert_exact(found, density, z=Z):
    """Within 5.5 standard errors: false alarms below 1e-6."""
    mean, sd, log_evidence = quadrature(density, z)
    assert found.reliable
    assert abs(found.mean[0] - mean) < 5.5 * sd / np.sqrt(found.ess)
    assert abs(found.log_evidence - log_evidence) < 5.5 * found.log_evidence_se


# Each method by itself is checked by test_refine.py.
@pytest.mark.parametrize(
    "method",
    [
        "psis",
        "auto",
        pytest.param("smc", marks=pytest.mark.slow),
        pytest.param("mcmc", marks=pytest.mark.slow),
    ],
)
def test_refined_posteriors_are_exact(untrained, method):
    found = untrained.posterior(Z, prior=PRIOR, refine=method, random_state=0)
    assert_exact(found, density_of_mixture)
    # What is corrected is far off, and would not pass.
    rough = untrained.posterior(Z, prior=PRIOR)
    assert (
        abs(rough.mean[0] - quadrature(lambda x: np.exp(PRIOR.log_prob(x[:, None])))[0]) > 0.1
    )


def test_a_bridge_leads_from_the_network_to_the_posterior(untrained, x64):
    """Draws of the start within 5.5 standard errors; densities of the end to rounding."""
    bridge = untrained.bridge(Z, prior=PRIOR)
    x = np.linspace(-3.0, 4.0, 5)[:, None]
    joint = np.asarray(jax.vmap(lambda u: bridge.components(u).sum())(x))
    exact = PRIOR.log_prob(x) + stats.t(4.0).logpdf(Z - x).sum(axis=1)
    np.testing.assert_allclose(joint, exact, atol=1e-6)
    q = untrained.posterior(Z, prior=PRIOR)
    draws = np.asarray(jax.vmap(bridge.draw_prior)(jax.random.split(jax.random.key(0), 4000)))
    mean = 0.95 * q.mean + 0.05 * PRIOR.mean
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 5.5 * draws.std(axis=0) / 4000**0.5)
    with pytest.raises(InvalidDataError, match="one problem at a time"):
        untrained.bridge(np.stack([Z, Z])[..., None], prior=PRIOR)


def test_what_takes_seconds_is_said(untrained, monkeypatch, capsys):
    monkeypatch.setattr(untrained, "progress", True)
    z = np.stack([Z, Z])[..., None]
    untrained.posterior(z, prior=PRIOR, refine="psis", random_state=0)
    assert capsys.readouterr().err == ""
    untrained.posterior(z, prior=PRIOR, refine="smc", random_state=0)
    said = capsys.readouterr().err
    assert "refining: problem 2 of 2, tempered SMC" in said
    assert "2 refined" in said.rsplit("\r", 1)[-1]


@pytest.mark.parametrize(
    "prior",
    [
        pytest.param(stats.laplace(0.5, 1.0), id="laplace", marks=pytest.mark.slow),
        pytest.param(stats.cauchy(), id="cauchy"),
        pytest.param(stats.uniform(-1.0, 4.0), id="uniform"),
    ],
)
def test_priors_of_any_kind_are_used_themselves(untrained, prior):
    with warnings.catch_warnings():
        # That a mixture only stands for the prior is no matter here.
        warnings.simplefilter("error", PriorFitWarning)
        found = untrained.posterior(Z, prior=prior, refine="auto", random_state=0)
    assert_exact(found, prior.pdf)


def test_priors_that_end_where_the_data_are(untrained):
    """NumPyro's densities are finite beyond the support of many families."""
    z = np.array([-0.9, -0.2, 0.1])
    prior = stats.halfnorm()
    found = untrained.posterior(z, prior=prior, refine="auto", random_state=0)
    assert_exact(found, prior.pdf, z)
    assert (found.draws >= 0).all()
    # The density of the formula, which was taken once, is far off.
    wrong = quadrature(lambda x: 2 * stats.norm().pdf(x), z)
    assert abs(found.log_evidence - wrong[2]) > 50 * found.log_evidence_se
    with pytest.raises(InvalidDataError, match="Poisson is a distribution of whole numbers"):
        untrained.posterior(z, prior=dist.Poisson(2.0))


def test_data_that_smc_does_not_reach(untrained, monkeypatch):
    def stalled(*arguments):
        raise StalledError("the inverse temperature is 0.009 after max_stages=200 stages")

    monkeypatch.setattr(ladder, "tempered", stalled)
    # So few draws that importance sampling is never trusted.
    few = {"prior": PRIOR, "n_draws": 200, "random_state": 0}
    with pytest.warns(ConvergenceWarning, match="SMC stalls: data and prior are very far"):
        found = untrained.posterior(Z, refine="auto", **few)
    assert not found.reliable and found.method == "psis"
    with pytest.raises(StalledError, match=r"refine=.smc. does not reach .* units"):
        untrained.posterior(Z, refine="smc", **few)


def test_a_fitted_prior_is_fitted_once(untrained):
    prior = stats.laplace(0.5, 1.0)
    fitted = fit_mixture(prior, 3)
    with CompileClock() as clock:
        untrained.posterior(Z, prior=fitted, refine="psis", random_state=0)
    again = untrained.posterior(Z + 0.1, prior=fitted, refine="psis", random_state=0)
    assert clock.num_compiled <= 2
    assert_exact(again, prior.pdf, Z + 0.1)


def test_a_batch_is_refined_one_by_one_without_compiling_again(untrained):
    untrained.posterior(Z, prior=PRIOR, refine="psis", random_state=0)
    z = np.stack([Z, Z - 1.0])[:, :, None]
    untrained.posterior(z, prior=PRIOR)
    with CompileClock() as clock:
        both = untrained.posterior(z, prior=PRIOR, refine="psis", random_state=0)
    assert clock.num_compiled == 0
    assert isinstance(both, RefinedBatch) and len(both) == 2
    for one, data in zip(both, (Z, Z - 1.0), strict=True):
        assert_exact(one, density_of_mixture, data)


def test_alarms_are_left_to_the_correction(untrained):
    far = bk.GaussianMixture([1.0], [30.0], [1.0])
    with pytest.warns(OutOfMetaPriorWarning, match="mean of the prior"):
        untrained.posterior(Z + 30.0, prior=far)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = untrained.posterior(Z + 30.0, prior=far, refine="auto", random_state=0)
    assert abs(found.mean[0] - 31.2) < 0.5
    with pytest.raises(ValueError, match="outside of what the network was trained on"):
        untrained.posterior(Z + 30.0, prior=far, refine="auto", strict=True)


def test_the_same_state_gives_the_same_bits(untrained):
    first, again = (
        untrained.posterior(Z, prior=PRIOR, refine="psis", random_state=3) for _ in range(2)
    )
    np.testing.assert_array_equal(first.draws, again.draws)


def test_without_a_likelihood_refinement_is_refused():
    simulator = Simulator(student_noise)
    settings = {**UNTRAINED, "warm_start": False}
    dt = bk.DistributionTransformer(simulator, GaussianMixtureMetaPrior(), **settings)
    with pytest.warns(ConvergenceWarning, match="nothing was learned"):
        dt.fit()
    with pytest.raises(ValueError, match="needs the log likelihood"):
        dt.posterior(Z[:1], prior=PRIOR, refine="psis")


def test_parametric_priors_are_refined():
    """Inverse-gamma variances: the posterior is one too. Within 5.5 standard errors."""
    law = stats.invgamma(4.5, scale=6.0 + 0.5 * 1.3**2)
    dt = bk.DistributionTransformer(
        Simulator(
            lambda key, x: jnp.sqrt(x) * jax.random.normal(key, (1,)),
            lambda z, x: jax.scipy.stats.norm.logpdf(z, 0.0, jnp.sqrt(x)).sum(),
        ),
        ParametricMetaPrior("inverse_gamma", concentration=4.0, rate=6.0),
        **UNTRAINED,
    ).fit()
    prior = {"concentration": 4.0, "rate": 6.0}
    found = dt.posterior([1.3], prior=prior, refine="auto", random_state=0)
    assert found.reliable and found.support.spec == ["positive"]
    assert abs(found.mean[0] - law.mean()) < 5.5 * law.std() / np.sqrt(found.ess)
    gap = found.log_prob(np.array([[1.0], [2.0]])) - law.logpdf([1.0, 2.0])
    assert np.all(np.abs(gap) < 5.5 * found.log_evidence_se)


def test_calibration_of_exact_and_of_rough_posteriors(untrained):
    """Linear Gaussian posteriors are exact; false-alarm rate 1e-6. The prior for the posterior,
    which the untrained network returns, fails."""
    from bayeskit.models.distribution_transformer import LinearGaussian

    exact = bk.DistributionTransformer(
        LinearGaussian(1.0, 1.0, num_observations=(1, 4)),
        GaussianMixtureMetaPrior(dim=1, num_components=(1, 3)),
        random_state=0,
    ).fit()
    report = exact.calibrate(400, alpha=1e-6, random_state=0)
    assert report.verdict == "pass"
    assert any("number of observations" in region for region in report.to_frame()["region"])
    rough = untrained.calibrate(400, alpha=1e-6, random_state=0)
    failed = set(rough.to_frame().query("not passed")["statistic"])
    assert rough.verdict == "fail" and failed >= {"log likelihood", "C2ST"}
    with CompileClock() as clock:
        again = exact.calibrate(400, alpha=1e-6, random_state=0)
    assert clock.num_compiled == 0
    np.testing.assert_array_equal(again.ranks["x[0]"], report.ranks["x[0]"])


def test_calibration_without_a_likelihood_sees_posteriors_that_neglect_the_data():
    """Ranks of the latent are uniform for the prior, too; false-alarm rate 1e-6."""
    dt = bk.DistributionTransformer(
        Simulator(student_noise, num_observations=(1, 4)),
        GaussianMixtureMetaPrior(dim=1, num_components=(1, 3)),
        warm_start=False,
        **UNTRAINED,
    )
    with pytest.warns(ConvergenceWarning, match="every posterior is its prior. Train for more"):
        dt.fit()
    assert dt.posterior(Z, prior=PRIOR).mean == pytest.approx(PRIOR.mean, abs=1e-5)
    report = dt.calibrate(500, alpha=1e-6, random_state=0)
    failed = set(report.to_frame().query("not passed")["statistic"])
    assert report.verdict == "fail" and failed == {"distance from a guess"}
    for wrong in ({"n": 99}, {"n": 500.0}, {"n_draws": 0}, {"alpha": 2}):
        with pytest.raises(ValueError, match="got"):
            dt.calibrate(**wrong)


def test_data_at_odds_with_the_prior_are_told(exact):
    """Tails within 5 standard errors of 255 simulations; ten standard deviations off warn."""
    prior = bk.GaussianMixture([1.0], [0.0], [1.0])
    z = np.array([[[0.5]], [[-2.0]]])
    found = exact.predictive_check(z, prior=prior, random_state=0)
    assert not found.is_unusual.any()
    law = stats.norm(0.0, np.sqrt(2.0))
    np.testing.assert_allclose(found.log_evidence, law.logpdf(z[:, 0, 0]), atol=1e-6)
    tails = 2 * law.sf(np.abs(z[:, 0, 0]))
    errors = np.sqrt(tails * (1 - tails) / 255)
    assert np.all(np.abs(found.tail_probability - tails) < 5 * errors + 1 / 256)
    with pytest.warns(OutOfMetaPriorWarning, match="unusual for their prior"):
        exact.predictive_check([10.0 * np.sqrt(2.0)], prior=prior, random_state=0)
    with pytest.raises(ValueError, match="simulates up to 4 observations"):
        exact.predictive_check(np.zeros(9), prior=prior)


def test_a_check_needs_the_evidence(untrained):
    with pytest.raises(ValueError, match="needs the evidence"):
        untrained.predictive_check(Z, prior=PRIOR)
