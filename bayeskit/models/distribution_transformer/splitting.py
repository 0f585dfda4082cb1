"""Several different parts in place of one Gaussian, so that posteriors can be anything else."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm, qmc

from bayeskit.models.distribution_transformer.mixture_arrays import Mixture
from bayeskit.models.distribution_transformer.small_matrices import multiply, multiply_vector

__all__ = ["SPREAD", "Places", "pattern", "places", "put_in_place", "unit_parts"]

# Root mean square of the offsets of the components, in standard deviations.
SPREAD = 0.5


@functools.cache
def pattern(
    num_components: int, d: int, spread: float = SPREAD
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
    offsets *= spread / np.sqrt((weights @ offsets**2).max())
    covariance = offsets.T @ (weights[:, None] * offsets)
    # Fewer components than dimensions can spread along some directions only; with offsets
    # that are strongly correlated the covariance still has to stay well below I.
    largest = np.linalg.eigvalsh(covariance).max()
    shrink = min(1.0, 2 * spread**2 / largest)
    offsets = offsets * np.sqrt(shrink)
    factor = np.linalg.cholesky(np.eye(d) - shrink * covariance)
    return weights, offsets, factor


class Places(NamedTuple):
    """Which component each part of a mixture comes from.

    Attributes
    ----------
    parents : (K,) array of int
        Of places that are not used, some component.
    numbers : (K,) array of int
        Which part of that component it is.
    counts : (K,) array of int
        How many parts that component has.
    is_used : (K,) array of bool
    """

    parents: jax.Array
    numbers: jax.Array
    counts: jax.Array
    is_used: jax.Array


def places(log_weights: jax.Array, num_parts: int) -> Places:
    """Share out parts among components, by their weights.

    Each component that is there has one; the others are given away as seats of a parliament
    are (D'Hondt): each to the component with the largest weight for a part. Components of equal
    weight have equally many: a part that several claim alike is given to none of them, so that
    the order of the components does not matter.

    Parameters
    ----------
    log_weights : (k,) array
        -inf for a component that is not there.
    num_parts : int
        K >= k, static.
    """
    k = len(log_weights)
    is_present = log_weights > -jnp.inf
    spare = num_parts - is_present.sum()
    parts = np.arange(2, num_parts + 1)
    claims = log_weights[:, None] - np.log(parts).astype(log_weights.dtype)
    ravelled = jnp.ravel(claims)
    # Rounding must not decide between equal claims.
    is_ahead = ravelled[None, :] > ravelled[:, None] - 1e-4
    rank = is_ahead.sum(axis=1).reshape(claims.shape)
    is_given = (rank <= spare) & is_present[:, None]
    counts = is_present + is_given.sum(axis=1)
    ends = jnp.cumsum(counts)
    place = jnp.arange(num_parts)
    parents = (place[:, None] >= ends[None, :]).sum(axis=1)
    is_used = parents < k
    parents = jnp.minimum(parents, k - 1)
    numbers = jnp.where(is_used, place - (ends - counts)[parents], 0)
    return Places(parents, numbers, counts[parents], is_used)


def unit_parts(where: Places, d: int, dtype: jnp.dtype, spread: float = SPREAD) -> Mixture:
    """Return parts (K) that together have the moments of the standard normal of their parent.

    ``spread`` is the root mean square of their offsets.
    Log weights are those within the parent, and -inf in places that are not used.
    """
    patterns = _patterns(len(where.parents), d, spread)
    weights, offsets, factors = (a.astype(dtype) for a in patterns)
    w = jnp.asarray(weights)[where.counts, where.numbers]
    return Mixture(
        jnp.where(where.is_used, jnp.log(w), -jnp.inf),
        jnp.asarray(offsets)[where.counts, where.numbers],
        jnp.asarray(factors)[where.counts],
    )


@functools.cache
def _patterns(most: int, d: int, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all patterns of up to ``most`` parts, by their number and then by part."""
    weights, offsets = np.ones((most + 1, most)), np.zeros((most + 1, most, d))
    factors = np.tile(np.eye(d), (most + 1, 1, 1))
    for number in range(1, most + 1):
        weights[number, :number], offsets[number, :number], factors[number] = pattern(
            number, d, spread
        )
    return weights, offsets, factors


def put_in_place(where: Places, units: Mixture, parents: Mixture) -> Mixture:
    """Return parts (K), given in the units of their parents (k)."""
    log_weights, means, factors = (leaf[where.parents] for leaf in parents)
    is_used = where.is_used
    means = means + multiply_vector(factors, units.means)
    factors = multiply(factors, units.factors)
    identity = jnp.eye(means.shape[-1], dtype=means.dtype)
    return Mixture(
        jnp.where(is_used, log_weights + units.log_weights, -jnp.inf),
        jnp.where(is_used[:, None], means, 0.0),
        jnp.where(is_used[:, None, None], factors, identity),
    )
