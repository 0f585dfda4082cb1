"""The update of each component before any training, against closed forms and quadrature."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import bayeskit as bk
from bayeskit.models.distribution_transformer import GaussianMixtureMetaPrior, LinearGaussian
from bayeskit.models.distribution_transformer.fitted_parts import fitted_parts
from bayeskit.models.distribution_transformer.mixture_arrays import Mixture, log_density
from bayeskit.models.distribution_transformer.splitting import places, put_in_place, unit_parts
from bayeskit.models.distribution_transformer.supports import as_support
from bayeskit.models.distribution_transformer.task import Problems, Task
from bayeskit.models.distribution_transformer.warm_start import (
    grid,
    linear_gaussian_update,
    tilt,
)
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
    # Shares of the points of a grid follow the exact density.
    at = float(tilted.mean[0]) + float(tilted.factor[0, 0]) * grid(1)[:, 0]
    exact_shares = np.interp(at, u, density)
    exact_shares /= exact_shares.sum()
    assert np.abs(np.asarray(tilted.shares) - exact_shares).max() < 1e-4


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


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize(("k", "d"), [(1, 1), (2, 1), (5, 1), (3, 2), (10, 4), (2, 5)])
def test_parts_keep_two_moments(x64, k, d):
    factor = jnp.tril(jnp.arange(1.0, d * d + 1).reshape(d, d)) / d + jnp.eye(d)
    mean = jnp.arange(d) * 1.0
    where = places(jnp.zeros(1), k)
    parent = Mixture(jnp.zeros(1), mean[None], factor[None])
    weights, means, factors = put_in_place(where, unit_parts(where, d, mean.dtype), parent)
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


@pytest.mark.parametrize(
    ("weights", "num", "counts"),
    [
        ([1.0], 5, [5]),
        ([0.98, 0.01, 0.01], 6, [4, 1, 1]),
        ([0.6, 0.3, 0.1], 5, [3, 1, 1]),
        ([0.5, 0.5], 5, [2, 2]),
        ([0.5, 0.5, 0.0], 6, [3, 3, 0]),
        ([1 / 3, 1 / 3, 1 / 3], 5, [1, 1, 1]),
        ([0.7, 0.2, 0.1], 3, [1, 1, 1]),
    ],
)
def test_parts_are_shared_out_by_weight(weights, num, counts):
    for order in itertools.permutations(range(len(weights))):
        w, wanted = np.array(weights, np.float32)[list(order)], np.array(counts)[list(order)]
        with np.errstate(divide="ignore"):
            where = jax.tree.map(np.asarray, places(jnp.asarray(np.log(w)), num))
        assert where.is_used.sum() == sum(counts)
        owners = where.parents[where.is_used]
        assert np.bincount(owners, minlength=len(w)).tolist() == wanted.tolist()
        assert (where.counts[where.is_used] == wanted[owners]).all()
        for parent, count in enumerate(wanted):
            assert where.numbers[where.is_used][owners == parent].tolist() == [*range(count)]


def test_fitting_the_parts_brings_them_closer(x64):
    """Two components whose densities are known: a skew one, and a Gaussian."""
    points = jnp.asarray(grid(1))
    skew = jax.nn.softmax(-2.0 * points[:, 0] - jnp.exp(-1.5 * points[:, 0]))
    mean = skew @ points[:, 0]
    sd = jnp.sqrt(skew @ (points[:, 0] - mean) ** 2)
    points = (points - mean) / sd
    shares = jnp.stack([skew, jax.nn.softmax(-0.5 * points[:, 0] ** 2)])
    where = places(jnp.log(jnp.array([0.75, 0.25])), 4)
    before = unit_parts(where, 1, points.dtype)
    after = fitted_parts(where, before, points, shares, 0.02)

    def divergence(parts, parent):
        own = np.asarray(where.parents) == parent
        log_q = log_density(Mixture(*(leaf[own] for leaf in parts)), points)
        log_p = jnp.log(shares[parent]) - jnp.log(points[1, 0] - points[0, 0])
        return float(jnp.where(shares[parent] > 0, shares[parent] * (log_p - log_q), 0.0).sum())

    assert np.asarray(where.counts).tolist() == [3, 3, 3, 1]
    assert divergence(after, 0) < 0.2 * divergence(before, 0)
    # Planted bug: each component's parts fitted to the other component.
    swapped = fitted_parts(where, before, points, shares[::-1], 0.02)
    assert divergence(swapped, 0) > 0.5 * divergence(before, 0)
    # What is Gaussian stays as it is.
    assert abs(float(after.means[3, 0])) < 1e-6
    assert abs(float(after.factors[3, 0, 0]) - 1) < 1e-6
    # Moments are those of the shares, from the first step on.
    w = jnp.exp(after.log_weights[:3])
    assert abs(float(w.sum()) - 1) < 1e-9
    assert abs(float(w @ after.means[:3, 0])) < 1e-9
    second = w @ (after.means[:3, 0] ** 2 + after.factors[:3, 0, 0] ** 2)
    assert abs(float(second - shares[0] @ points[:, 0] ** 2)) < 1e-9
