"""Several different components in place of one Gaussian, with the same mean and covariance."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm, qmc

from bayeskit.models.distribution_transformer.mixture_arrays import Mixture
from bayeskit.models.distribution_transformer.small_matrices import multiply, multiply_vector

__all__ = ["pattern", "split"]

# Root mean square of the offsets of the components, in standard deviations.
_SPREAD = 0.5


@functools.cache
def pattern(num_components: int, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Return weights (k,), offsets (k, d) and the factor (d, d) that all components share.

    The weights go like 1 ... k, the offsets are spread like a normal law, and with C their
    covariance the factor is that of :math:`I - C`, so that the mixture has mean zero and
    covariance I. One component is the standard normal itself.

    Examples
    --------
    >>> import numpy as np
    >>> w, b, factor = pattern(3, 2)
    >>> covariance = b.T @ (w[:, None] * b) + factor @ factor.T
    >>> np.allclose(w @ b, 0), np.allclose(covariance, np.eye(2))
    (True, True)
    """
    k = num_components
    if k == 1:
        return np.ones(1), np.zeros((1, d)), np.eye(d)
    weights = np.arange(1.0, k + 1)
    weights /= weights.sum()
    if d == 1:
        # Evenly over the cumulative weights, so that the order of components is that of means.
        uniforms = (np.cumsum(weights) - 0.5 * weights)[:, None]
    else:
        uniforms = qmc.Halton(d, scramble=False).random(k + 1)[1:]
    offsets = norm.ppf(uniforms)
    offsets -= weights @ offsets
    offsets *= _SPREAD / np.sqrt((weights @ offsets**2).max())
    covariance = offsets.T @ (weights[:, None] * offsets)
    # Fewer components than dimensions can spread along some directions only; with offsets
    # that are strongly correlated the covariance still has to stay well below I.
    largest = np.linalg.eigvalsh(covariance).max()
    shrink = min(1.0, 2 * _SPREAD**2 / largest)
    offsets = offsets * np.sqrt(shrink)
    factor = np.linalg.cholesky(np.eye(d) - shrink * covariance)
    return weights, offsets, factor


def split(mean: jax.Array, factor: jax.Array, num_components: int) -> Mixture:
    """Return a mixture of different components with the moments of a Gaussian.

    Parameters
    ----------
    mean, factor : (..., d) and (..., d, d) arrays
    num_components : int
    """
    d = mean.shape[-1]
    weights, offsets, shared = (jnp.asarray(a, mean.dtype) for a in pattern(num_components, d))
    shape = (*mean.shape[:-1], num_components)
    scale = jnp.broadcast_to(factor[..., None, :, :], (*shape, d, d))
    return Mixture(
        jnp.broadcast_to(jnp.log(weights), shape),
        mean[..., None, :] + multiply_vector(scale, jnp.broadcast_to(offsets, (*shape, d))),
        multiply(scale, jnp.broadcast_to(shared, (*shape, d, d))),
    )
