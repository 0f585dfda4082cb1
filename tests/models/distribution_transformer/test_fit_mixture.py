"""Mixtures that stand for priors: exact ones, fitted ones, and how far those are off."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from bayeskit import GaussianMixture
from bayeskit.errors import InvalidDataError, PriorFitWarning
from bayeskit.models.base import precision_scope
from bayeskit.models.distribution_transformer.fit_mixture import fit_mixture
from bayeskit.models.distribution_transformer.prior_laws import as_prior_law
from bayeskit.models.distribution_transformer.supports import as_support

X = np.linspace(-3.0, 6.0, 7)[:, None]


@pytest.mark.parametrize(
    ("prior", "support", "log_density"),
    [
        (stats.norm(1.0, 2.0), "real", stats.norm(1.0, 2.0).logpdf),
        (dist.Normal(1.0, 2.0), "real", stats.norm(1.0, 2.0).logpdf),
        (stats.lognorm(0.5, scale=2.0), "positive", stats.lognorm(0.5, scale=2.0).logpdf),
        (
            dist.MixtureSameFamily(
                dist.Categorical(np.array([0.2, 0.8])), dist.Normal(np.array([0.0, 3.0]), 0.7)
            ),
            "real",
            lambda x: np.log(0.2 * stats.norm(0, 0.7).pdf(x) + 0.8 * stats.norm(3, 0.7).pdf(x)),
        ),
    ],
)
def test_what_is_a_mixture_stays_as_it_is(prior, support, log_density):
    fitted = fit_mixture(prior, 3, support)
    assert fitted.is_exact
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(fitted.mixture.log_prob(X), log_density(X[:, 0]), rtol=1e-6)


def test_vectors_of_normals_and_lists():
    covariance = np.array([[1.0, 0.3], [0.3, 0.5]])
    for prior in (
        stats.multivariate_normal([1.0, 2.0], covariance),
        dist.MultivariateNormal(np.array([1.0, 2.0]), covariance),
    ):
        fitted = fit_mixture(prior, 2)
        assert fitted.is_exact
        np.testing.assert_allclose(fitted.mixture.cov, covariance, rtol=1e-6)
    both = fit_mixture([stats.norm(1.0, 2.0), stats.lognorm(0.5)], 2, ["real", "positive"])
    assert both.is_exact
    np.testing.assert_allclose(both.mixture.means, [[1.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(both.mixture.factors[0], np.diag([2.0, 0.5]), rtol=1e-6)


@pytest.mark.parametrize(
    ("prior", "support", "k", "bound"),
    [
        (stats.t(3.0, 1.0, 2.0), "real", 4, 0.005),
        (dist.Laplace(0.0, 1.0), "real", 4, 0.005),
        (dist.MultivariateStudentT(4.0, np.zeros(2), np.eye(2)), "real", 4, 0.005),
        (stats.gamma(3.0), "positive", 3, 0.02),
        (dist.Uniform(-np.ones(2), np.ones(2)), ("interval", -1.0, 1.0), 5, 0.03),
        (dist.Dirichlet(np.array([1.0, 2.0, 3.0])), "simplex", 4, 0.03),
    ],
)
def test_others_are_near_and_say_how_near(prior, support, k, bound):
    fitted = fit_mixture(prior, k, support)
    assert not fitted.is_exact
    assert abs(fitted.kl) < bound


def test_the_divergence_is_that_of_quadrature():
    """Within 5 of its standard errors; that of a mixture moved aside is far off."""
    prior = stats.gamma(3.0)
    fitted = fit_mixture(prior, 3, "positive")
    x = np.geomspace(1e-6, 60.0, 20_001)
    log_ratio = prior.logpdf(x) - fitted.mixture.log_prob(x[:, None])
    exact = np.trapezoid(prior.pdf(x) * log_ratio, x)
    assert abs(fitted.kl - exact) < 5 * fitted.kl_se
    moved = GaussianMixture(
        fitted.mixture.weights,
        fitted.mixture.means + 0.2,
        fitted.mixture.covariances,
        support="positive",
    )
    wrong = np.trapezoid(prior.pdf(x) * (prior.logpdf(x) - moved.log_prob(x[:, None])), x)
    assert abs(fitted.kl - wrong) > 10 * fitted.kl_se


def test_the_law_is_that_of_the_prior():
    """Densities of SciPy's families in the coordinates u, with the Jacobian."""
    for prior, support in (
        (stats.gamma(3.0, scale=2.0), "positive"),
        (stats.invgamma(4.0, scale=6.0), "positive"),
        (stats.beta(2.0, 3.0), "unit"),
        (stats.uniform(-2.0, 5.0), ("interval", -2.0, 3.0)),
        (stats.expon(scale=2.0), "positive"),
        (stats.halfnorm(scale=2.0), "positive"),
        (stats.logistic(1.0, 2.0), "real"),
        (stats.chi2(3.0, scale=2.0), "positive"),
        (stats.gumbel_r(1.0, 2.0), "real"),
        (stats.halfcauchy(scale=2.0), "positive"),
        (stats.loguniform(0.5, 3.0), "positive"),
        (stats.truncnorm(-1.0, 2.0, 0.5, 3.0), "real"),
        (stats.weibull_min(1.5, scale=2.0), "positive"),
    ):
        u, space = np.array([0.3]), as_support(support, 1)
        with precision_scope("float64"):
            law = as_prior_law(prior, space)
            log_p = float(law.log_density(u, law.values))
        log_det = float(space.log_det(u))
        wanted = prior.logpdf(space.constrain(u)[0]) + log_det
        assert log_p == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    "prior",
    [dist.HalfNormal(1.0), dist.Gamma(2.0, 1.0), dist.Beta(2.0, 3.0), stats.uniform(0.5, 1.0)],
)
def test_the_density_ends_with_the_support(prior):
    law = as_prior_law(prior, as_support("real", 1))
    outside, inside = np.array([-0.3]), np.array([0.7])
    value, slope = jax.value_and_grad(law.log_density)(outside, law.values)
    assert value == -np.inf
    assert np.isfinite(slope).all()
    assert np.isfinite(law.log_density(inside, law.values))


def test_a_bad_fit_is_said():
    uniform = dist.Uniform(-1.0, 1.0)
    with pytest.warns(PriorFitWarning, match="nats from the mixture of 1 components"):
        fit_mixture(
            dist.MixtureSameFamily(
                dist.Categorical(np.array([0.5, 0.5])),
                dist.Laplace(np.array([-4.0, 4.0]), 0.3),
            ),
            1,
        )
    with pytest.raises(InvalidDataError, match="outside of the support"):
        fit_mixture(uniform, 2, "positive")


@pytest.mark.parametrize(
    ("prior", "support", "error", "message"),
    [
        (stats.genextreme(0.1), "real", TypeError, "scipy.stats.genextreme"),
        (3.0, "real", TypeError, "got float"),
        ([stats.norm()] * 3, ["real"] * 2, ValueError, "support has 2 entries"),
    ],
)
def test_bad_priors_are_refused(prior, support, error, message):
    with pytest.raises(error, match=message):
        fit_mixture(prior, 2, support)
