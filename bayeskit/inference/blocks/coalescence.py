r"""How many pairs of particles from different groups a resampling loses in the mean.

The variance of the evidence is estimated from pairs of particles that descend from different
founders (:class:`~bayeskit.inference.lineage.Lineage`). Their share of all pairs is
:math:`D = 1 - \sum_k S_k^2`, with :math:`S_k` the total weight of group k. Where the slots of a
scheme are independent, with :math:`K_m(k)` the expected weight of group k in slot m, the share
after resampling has mean :math:`D - v`,

.. math:: v = \frac{1}{\text{num}^2} \sum_m
    \Bigl[\Bigl(\sum_k K_m(k)\Bigr)^2 - \sum_k K_m(k)^2\Bigr] ,

because two different slots lose no pair and a slot makes none with itself. Multinomial
resampling loses D / num, the same share of every pair. Killing and residual_multinomial lose
more of some pairs than of others; only the mean is counted here. The other schemes, whose
slots depend on one another, lose little; it is taken as nothing, and the variance is
overestimated.

References
----------
Lee & Whiteley (2018), *Variance estimation in the particle filter*, for multinomial resampling.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bayeskit import accel
from bayeskit.accel.resampling.residual import split_remainders

__all__ = ["lost_pairs"]


def lost_pairs(
    scheme: str, log_rates: jax.Array, log_ratio: jax.Array, label: jax.Array, num: int
) -> jax.Array | float:
    """Return v / D, the share of the pairs that is lost in the mean.

    Parameters
    ----------
    scheme : str
    log_rates : (num_particles,) array
        Logarithms of the probabilities by which the scheme chooses, normalised.
    log_ratio : (num_particles,) array
        Logarithms of the weights over these probabilities.
    label : (num_particles,) int array in [0, num_particles)
    num : int
    """
    if scheme in ("multinomial", "rejection"):
        # A single particle has no pairs to lose.
        return 1.0 / num if num > 1 else 0.0
    if scheme not in ("killing", "residual_multinomial"):
        return 0.0
    rates = jnp.exp(log_rates)
    ratio = jnp.where(rates > 0, jnp.exp(log_ratio), 0.0)

    def by_group(values):
        return jnp.zeros_like(values).at[label].add(values)

    def different(values):
        return jnp.sum(values) ** 2 - jnp.sum(by_group(values) ** 2)

    pairs = different(rates * ratio)
    if scheme == "killing":
        kept = rates / jnp.max(rates)
        others = 1.0 - by_group(rates * ratio)[label]
        lost = 2.0 * kept * ratio * (1.0 - kept) * others + (1.0 - kept) ** 2 * pairs
        lost = jnp.sum(lost)
    else:
        rest = _remainders(log_rates, num).astype(rates.dtype)
        num_draws = jnp.sum(rest)
        lost = different(rest * ratio) / jnp.where(num_draws > 0, num_draws, 1.0)
    return jnp.where(pairs > 0, lost / (num**2 * jnp.where(pairs > 0, pairs, 1.0)), 0.0)


def _remainders(log_rates: jax.Array, num: int) -> jax.Array:
    cdf = accel.scaled_cdf(log_rates, num)
    with jax.enable_x64(True):
        return jnp.diff(split_remainders(cdf, num)[1], prepend=0.0)
