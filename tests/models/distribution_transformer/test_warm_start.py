"""The update of each component before any training, against closed forms and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import bayeskit as bk
from bayeskit.models.distribution_transformer import GaussianMixtureMetaPrior, LinearGaussian
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture
from bayeskit.models.distribution_transformer.splitting import split
from bayeskit.models.distribution_transformer.supports import as_support
from bayeskit.models.distribution_transformer.task import Problems, Task
from bayeskit.models.distribution_transformer.warm_start import linear_gaussian_update, tilt
from tests.models.distribution_transformer import exact_mixtures

H = np.array([[1.0, 0.5], [0.0, 2.0], [-1.0, 1.0]])
R = np.array([[1.0, 0.3, 0.0], [0.3, 2.0, 0.1], [0.0, 0.1, 0.5]])
WEIGHTS = np.array([0.2, 0.5, 0.3])
MEANS = np.array([[0.0, 1.0], [2.0, -1.0], [-1.0, 0.5]])
COVARIANCES = np.array([[[1.0, 0.3], [0.3, 2.0]], [[0.5, 0.0], [0.0, 0.5]], [[2.0, -1.0], [-1.0, 1.0]]])  # fmt: skip  # noqa: E501
ROWS = np.random.default_rng(0).normal(size=(4, 3))


def closed_form(rows, noise=R):
    """Return the exact posterior of all rows together, and the log evidence."""
    num, prior = len(rows), bk.GaussianMixture(WEIGHTS, MEANS, COVARIANCES)
    stacked = np.tile(H, (num, 1)), np.kron(np.eye(num), noise)
    return exact_mixtures.posterior(prior, rows.ravel(), *stacked)


@pytest.fixture(scope="module")
def two_dimensions():
    return bk.DistributionTransformer(
        LinearGaussian(H, R, num_observations=(1, 4)),
        GaussianMixtureMetaPrior(dim=2, num_components=3),
        random_state=0,
    ).fit()


@pytest.mark.parametrize("num", [1, 4])
def test_untrained_posterior_of_linear_data_is_exact(two_dimensions, num):
    prior = bk.GaussianMixture(WEIGHTS, MEANS, COVARIANCES)
    found = two_dimensions.posterior(ROWS[:num], prior=prior)
    assert two_dimensions.n_steps_ == 0
    exact, _ = closed_form(ROWS[:num])
    # Planted bug: noise whose correlations are forgotten.
    planted, _ = closed_form(ROWS[:num], np.diag(np.diag(R)))
    for name in ("weights", "means", "covariances"):
        ours = getattr(found, name)
        assert np.abs(ours - getattr(exact, name)).max() < 1e-12
        assert np.abs(ours - getattr(planted, name)).max() > 1e-6


def test_evidence_of_linear_data_is_exact(x64):
    simulator = LinearGaussian(H, R, num_observations=4)
    task = Task(
        GaussianMixtureMetaPrior(dim=2, num_components=3),
        simulator,
        as_support("real", 2),
        3,
    )
    prior = Mixture(np.log(WEIGHTS), MEANS, np.linalg.cholesky(COVARIANCES))
    problems = Problems(prior, {"z": ROWS}, {"z": np.ones(4, bool)}, np.zeros(0))
    start = jax.jit(task.start)(jax.tree.map(lambda a: a[None], problems))
    assert abs(float(start.log_evidence[0]) - closed_form(ROWS)[1]) < 1e-10


@pytest.mark.parametrize("noise", [1e-12, 1e-4, 1e12])
def test_limits_of_the_noise(x64, noise):
    """No noise: the data; infinite noise: the prior."""
    z = np.array([[3.0]])
    tilted = linear_gaussian_update(
        jnp.array([1.0]),
        jnp.array([[2.0]]),
        jnp.array([[1.0]]) / np.sqrt(noise),
        jnp.asarray(z) / np.sqrt(noise),
        jnp.ones(1, bool),
    )
    gain = 4 / (4 + noise)
    assert abs(float(tilted.mean[0]) - (1 + gain * 2)) < 1e-9
    assert abs(float(tilted.factor[0, 0]) / np.sqrt(4 * (1 - gain) if noise > 1 else 4 * noise / (4 + noise)) - 1) < 1e-6  # fmt: skip  # noqa: E501


@pytest.mark.parametrize(
    ("name", "log_likelihood"),
    [
        ("logistic", lambda u: -jnp.logaddexp(0.0, -3.0 * u[0])),
        ("Poisson", lambda u: 4.0 * u[0] - jnp.exp(u[0])),
        ("Student-t", lambda u: -2.0 * jnp.log1p((u[0] - 2.0) ** 2 / 3.0)),
    ],
)
def test_moments_of_a_tilted_component(x64, name, log_likelihood):
    mean, sd = 0.5, 1.5
    tilted = jax.jit(lambda m, f: tilt(log_likelihood, m, f))(
        jnp.array([mean]), jnp.array([[sd]])
    )
    u = np.linspace(-10, 11, 20001)
    values = np.asarray(jax.vmap(lambda v: log_likelihood(v[None]))(jnp.asarray(u)))
    log_density = values + stats.norm(mean, sd).logpdf(u)
    density = np.exp(log_density)
    step = u[1] - u[0]
    evidence = density.sum() * step
    exact_mean = (u * density).sum() * step / evidence
    exact_sd = np.sqrt(((u - exact_mean) ** 2 * density).sum() * step / evidence)
    assert abs(float(tilted.log_evidence) - np.log(evidence)) < 2e-3
    assert abs(float(tilted.mean[0]) - exact_mean) < 5e-3 * exact_sd
    assert abs(float(tilted.factor[0, 0]) / exact_sd - 1) < 5e-3
    # Residuals: log of the exact density over the Gaussian at points along the axis.
    at = float(tilted.mean[0]) + float(tilted.factor[0, 0]) * np.array([-2.5, -1.0, 1.0, 2.5])
    log_p = np.interp(at, u, log_density) - np.log(evidence)
    log_q = stats.norm(float(tilted.mean[0]), float(tilted.factor[0, 0])).logpdf(at)
    assert np.abs(np.asarray(tilted.residuals) - (log_p - log_q)).max() < 5e-3


def test_newton_finds_a_far_mode_in_several_dimensions(x64):
    precision = jnp.array([[4.0, 1.0, 0.0, 0.0], [1.0, 3.0, 0.5, 0.0],
                           [0.0, 0.5, 2.0, 0.2], [0.0, 0.0, 0.2, 5.0]])  # fmt: skip
    centre = jnp.array([3.0, -4.0, 10.0, 0.5])
    factor = jnp.tril(jnp.ones((4, 4))) * 0.5 + jnp.eye(4)

    def log_likelihood(u):
        return -0.5 * (u - centre) @ precision @ (u - centre)

    tilted = jax.jit(lambda f: tilt(log_likelihood, jnp.zeros(4), f))(factor)
    prior_precision = jnp.linalg.inv(factor @ factor.T)
    covariance = jnp.linalg.inv(prior_precision + precision)
    assert jnp.abs(tilted.mean - covariance @ precision @ centre).max() < 1e-8
    assert jnp.abs(tilted.factor @ tilted.factor.T - covariance).max() < 1e-8


@pytest.mark.parametrize(("k", "d"), [(1, 1), (2, 1), (5, 1), (3, 2), (10, 4), (2, 5)])
def test_split_keeps_two_moments(x64, k, d):
    factor = jnp.tril(jnp.arange(1.0, d * d + 1).reshape(d, d)) / d + jnp.eye(d)
    mean = jnp.arange(d) * 1.0
    weights, means, factors = split(mean, factor, k)
    weights = jnp.exp(weights)
    assert abs(float(weights.sum()) - 1) < 1e-12
    assert jnp.abs(weights @ means - mean).max() < 1e-10
    offset = means - mean
    covariance = jnp.einsum("k,kij,klj->il", weights, factors, factors) + jnp.einsum(
        "k,ki,kj->ij", weights, offset, offset
    )
    assert jnp.abs(covariance - factor @ factor.T).max() < 1e-9 * d * d
    if k > 1:
        assert float(jnp.abs(means[0] - means[1]).max()) > 0.1
