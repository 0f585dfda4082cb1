"""Gaussian mixtures as arrays: densities, draws, moments and linear maps of a whole batch.

Everything here but the draws works on NumPy arrays and on JAX arrays alike, and follows their
precision: results of a network are looked at on the host without compiling anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from bayeskit.inference import random
from bayeskit.models.distribution_transformer.small_matrices import numpy_of, whiten

__all__ = [
    "Mixture",
    "component_log_densities",
    "covariances",
    "draw",
    "draws",
    "extended",
    "linear_prediction",
    "log_density",
    "moments",
    "normalized",
    "stacked",
    "triangle",
    "triangular_image",
    "without_absent",
]

_LOG_2PI = math.log(2.0 * math.pi)


class Mixture(NamedTuple):
    r"""Gaussian mixtures :math:`\sum_i w_i\, N(\mu_i, L_i L_i^\top)`, one for each batch index.

    Parameters
    ----------
    log_weights : (..., k) array
        Normalised: the logsumexp over k is 0. -inf for a component that is not there.
    means : (..., k, d) array
    factors : (..., k, d, d) array
        Lower triangular, with positive diagonal.
    """

    log_weights: Any
    means: Any
    factors: Any


def _logsumexp(values: Any, xp: Any) -> Any:
    if xp is np:
        return special.logsumexp(values, axis=-1)
    return jax.scipy.special.logsumexp(values, axis=-1)


def normalized(mixture: Mixture) -> Mixture:
    """Return the mixture with weights that sum to one."""
    log_weights = mixture.log_weights
    total = _logsumexp(log_weights, numpy_of(log_weights))
    return mixture._replace(log_weights=log_weights - total[..., None])


def extended(mixture: Mixture, num: int) -> Mixture:
    """Return mixtures (..., k) with absent components up to ``num``."""
    xp = numpy_of(*mixture)
    *batch, k, d = mixture.means.shape
    shape, dtype = (*batch, num - k), mixture.means.dtype
    absent = Mixture(
        xp.full(shape, -xp.inf, dtype),
        xp.zeros((*shape, d), dtype),
        xp.broadcast_to(xp.eye(d, dtype=dtype), (*shape, d, d)),
    )
    parts = zip(mixture, absent, strict=True)
    return Mixture(*(xp.concatenate(pair, axis=len(batch)) for pair in parts))


def stacked(mixtures: Sequence[Mixture]) -> Mixture:
    """Return single mixtures as one batch, with absent components up to the most of them."""
    most = max(mixture.log_weights.shape[-1] for mixture in mixtures)
    same = [extended(mixture, most) for mixture in mixtures]
    return Mixture(*(numpy_of(*leaves).stack(leaves) for leaves in zip(*same, strict=True)))


def without_absent(mixture: Mixture, least: int) -> Mixture:
    """Return mixtures without last components that are absent everywhere, on the host.

    At least ``least`` components are kept.
    """
    is_present = (mixture.log_weights > -np.inf).reshape(-1, mixture.log_weights.shape[-1])
    k = max(least, int(np.flatnonzero(is_present.any(axis=0)).max(initial=0)) + 1)
    return Mixture(
        mixture.log_weights[..., :k], mixture.means[..., :k, :], mixture.factors[..., :k, :, :]
    )


def component_log_densities(mixture: Mixture, x: Any) -> Any:
    r"""Return :math:`\log w_i + \log N(x; \mu_i, L_i L_i^\top)`, (..., k), at x (..., d)."""
    xp = numpy_of(mixture.means, x)
    z = whiten(mixture.factors, x[..., None, :] - mixture.means)
    diagonals = xp.diagonal(mixture.factors, axis1=-2, axis2=-1)
    log_scale = xp.sum(xp.log(diagonals), axis=-1)
    constant = 0.5 * z.shape[-1] * _LOG_2PI
    return mixture.log_weights - log_scale - constant - 0.5 * xp.sum(z**2, axis=-1)


def log_density(mixture: Mixture, x: Any) -> Any:
    """Return the log density (...) at points (..., d), whose axes broadcast against the batch.

    Points (num, d) of one mixture give (num,); points (num, B, d) of B mixtures (num, B).
    """
    values = component_log_densities(mixture, x)
    return _logsumexp(values, numpy_of(values))


def draw(key: Any, mixture: Mixture) -> jax.Array:
    """Return one draw (..., d) from each mixture of a batch, on any kind of key."""
    choice_key, noise_key = random.split(key)
    log_weights, means, factors = mixture
    component = random.categorical(choice_key, log_weights)[..., None, None]
    mean = jnp.take_along_axis(means, component, axis=-2)[..., 0, :]
    factor = jnp.take_along_axis(factors, component[..., None], axis=-3)[..., 0, :, :]
    noise = random.normal(noise_key, mean.shape, mean.dtype)
    return mean + jnp.einsum("...ij,...j->...i", factor, noise)


def draws(key: Any, mixture: Mixture, num: int) -> jax.Array:
    """Return independent draws (num, ..., d) from each mixture of a batch."""
    repeated = Mixture(*(jnp.broadcast_to(leaf, (num, *leaf.shape)) for leaf in mixture))
    return draw(key, repeated)


def covariances(mixture: Mixture) -> Any:
    """Return the covariances (..., k, d, d) of the components."""
    factors = mixture.factors
    return numpy_of(factors).einsum("...ij,...kj->...ik", factors, factors)


def moments(mixture: Mixture) -> tuple[Any, Any]:
    """Return mean (..., d) and covariance (..., d, d) of whole mixtures."""
    xp = numpy_of(mixture.means)
    weights = xp.exp(mixture.log_weights)
    mean = xp.einsum("...k,...ki->...i", weights, mixture.means)
    deviations = mixture.means - mean[..., None, :]
    within = xp.einsum("...k,...kij->...ij", weights, covariances(mixture))
    return mean, within + xp.einsum("...k,...ki,...kj->...ij", weights, deviations, deviations)


def triangle(matrices: Any) -> Any:
    """Return lower triangular L with L L' = M M', of matrices (..., d, m) of any rank, m >= d.

    By a QR factorisation: nothing is squared, so that half of the digits are not lost.
    """
    xp = numpy_of(matrices)
    if matrices.shape[-2] == 1:
        return xp.sqrt(xp.sum(matrices**2, axis=-1, keepdims=True))
    upper = xp.linalg.qr(xp.swapaxes(matrices, -1, -2), mode="r")
    sign = xp.where(xp.diagonal(upper, axis1=-2, axis2=-1) < 0, -1.0, 1.0).astype(upper.dtype)
    return xp.swapaxes(upper * sign[..., None], -1, -2)


def _mapped(matrix: Any, offset: Any, means: Any) -> Any:
    xp = numpy_of(matrix, means)
    return xp.einsum("...ij,...kj->...ki", matrix, means) + offset[..., None, :]


def triangular_image(mixture: Mixture, factor: Any, offset: Any) -> Mixture:
    """Return the law of S x + b for lower triangular S (..., d, d) of positive diagonal.

    The product of two such factors is one again, so that nothing is factorised.
    """
    factors = factor[..., None, :, :] @ mixture.factors
    return Mixture(mixture.log_weights, _mapped(factor, offset, mixture.means), factors)


def linear_prediction(mixture: Mixture, matrix: Any, offset: Any, noise_factor: Any) -> Mixture:
    r"""Return the law of A x + c + e with :math:`e \sim N(0, G G^\top)`.

    .. math:: \mu_i \to A \mu_i + c, \qquad \Sigma_i \to A \Sigma_i A^\top + G G^\top .

    Parameters
    ----------
    matrix : (..., e, d) array
    offset : (..., e) array
    noise_factor : (..., e, m) array
        G, of any rank.
    """
    xp = numpy_of(mixture.factors, matrix)
    spread = matrix[..., None, :, :] @ mixture.factors
    noise = noise_factor[..., None, :, :]
    noise = xp.broadcast_to(noise, (*spread.shape[:-1], noise.shape[-1]))
    factors = triangle(xp.concatenate([spread, noise], axis=-1))
    return Mixture(mixture.log_weights, _mapped(matrix, offset, mixture.means), factors)
