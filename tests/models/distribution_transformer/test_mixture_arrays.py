"""Mixtures as arrays, against SciPy and against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from bayeskit.models.distribution_transformer import mixture_arrays as arrays
from bayeskit.models.distribution_transformer.frames import Frame, in_frame
from bayeskit.models.distribution_transformer.small_matrices import whiten


def batch(num=3, k=2, dim=3, seed=0):
    """Return mixtures whose components all differ, as NumPy arrays."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(num, k, dim, dim)) / dim
    factors = np.tril(raw, -1) + np.eye(dim) * rng.uniform(0.3, 2.0, (num, k, 1, dim))
    log_weights = special.log_softmax(rng.normal(size=(num, k)), axis=-1)
    return arrays.Mixture(log_weights, rng.normal(size=(num, k, dim)), factors)


def as_jax(mixture):
    return arrays.Mixture(*map(jnp.asarray, mixture))


@pytest.mark.parametrize("dim", [1, 3, 18])
def test_log_density_is_that_of_scipy(dim):
    """In three forms: written out, and by LAPACK above 16 dimensions; NumPy and JAX."""
    mixture = batch(dim=dim)
    x = np.random.default_rng(1).normal(size=(4, 3, dim))
    ours = arrays.log_density(mixture, x)
    for b in range(3):
        densities = sum(
            np.exp(mixture.log_weights[b, i])
            * stats.multivariate_normal(
                mixture.means[b, i], mixture.factors[b, i] @ mixture.factors[b, i].T
            ).pdf(x[:, b])
            for i in range(2)
        )
        np.testing.assert_allclose(np.exp(ours[:, b]), densities, rtol=1e-9)
    with jax.enable_x64():
        np.testing.assert_allclose(
            arrays.log_density(as_jax(mixture), jnp.asarray(x)), ours, rtol=1e-11
        )


def test_components_without_weight_count_for_nothing():
    mixture = batch()
    dead = arrays.Mixture(
        np.concatenate([mixture.log_weights, np.full((3, 1), -np.inf)], axis=1),
        np.concatenate([mixture.means, np.full((3, 1, 3), 7.0)], axis=1),
        np.concatenate([mixture.factors, mixture.factors[:, :1]], axis=1),
    )
    x = np.zeros((3, 3))
    np.testing.assert_array_equal(arrays.log_density(dead, x), arrays.log_density(mixture, x))
    gradient = jax.grad(lambda m: arrays.log_density(m, jnp.zeros((3, 3))).sum())(as_jax(dead))
    assert all(np.isfinite(leaf).all() for leaf in gradient)


def test_draws_have_the_moments():
    """20,000 draws within 5.5 standard errors in 36 numbers: false alarms below 1e-6."""
    mixture = as_jax(batch())
    x = np.asarray(arrays.draws(jax.random.key(0), mixture, 20_000), float)
    mean, covariance = map(np.asarray, arrays.moments(mixture))
    errors = x.std(axis=0) / np.sqrt(len(x))
    assert np.all(np.abs(x.mean(axis=0) - mean) < 5.5 * errors)
    products = np.einsum("nbi,nbj->nbij", x - mean, x - mean)
    errors = products.std(axis=0) / np.sqrt(len(x))
    assert np.all(np.abs(products.mean(axis=0) - covariance) < 5.5 * errors)
    # A draw that forgets the weights is caught.
    even = mixture._replace(log_weights=jnp.full((3, 2), -np.log(2.0)))
    wrong = np.asarray(arrays.draws(jax.random.key(0), even, 20_000))
    assert np.any(np.abs(wrong.mean(axis=0) - mean) > 5.5 * wrong.std(axis=0) / 20_000**0.5)


def test_linear_maps_are_those_of_the_moments():
    mixture = batch()
    rng = np.random.default_rng(2)
    matrix, offset, noise = rng.normal(size=(2, 3)), rng.normal(size=2), rng.normal(size=(2, 1))
    mean, covariance = arrays.moments(mixture)
    for factor in (np.zeros((2, 1)), noise):
        image = arrays.linear_prediction(mixture, matrix, offset, factor)
        added = factor @ factor.T
        image_mean, image_covariance = arrays.moments(image)
        np.testing.assert_allclose(image_mean, mean @ matrix.T + offset, atol=1e-12)
        np.testing.assert_allclose(
            image_covariance, matrix @ covariance @ matrix.T + added, atol=1e-12
        )
        assert np.all(np.diagonal(image.factors, axis1=-2, axis2=-1) > 0)
        assert np.all(np.triu(image.factors, 1) == 0)


def test_standardised_and_back_is_the_same(x64):
    mixture = batch()
    mean, covariance = arrays.moments(mixture)
    factor = np.linalg.cholesky(covariance)
    standard = in_frame(mixture, Frame(mean, factor))
    zero, one = arrays.moments(standard)
    np.testing.assert_allclose(zero, 0.0, atol=1e-12)
    np.testing.assert_allclose(one, np.broadcast_to(np.eye(3), one.shape), atol=1e-12)
    for leaf, back in zip(
        mixture, arrays.triangular_image(standard, factor, mean), strict=True
    ):
        np.testing.assert_allclose(back, leaf, atol=1e-12)
    x = np.random.default_rng(3).normal(size=(3, 3))
    z = whiten(factor, x - mean)
    log_det = np.log(np.diagonal(factor, axis1=-2, axis2=-1)).sum(axis=-1)
    np.testing.assert_allclose(
        arrays.log_density(standard, z) - log_det, arrays.log_density(mixture, x)
    )
