r"""Parts of a component fitted to what the data make of it, by expectation maximisation.

On points :math:`\xi_g` that carry the shares :math:`\pi_g` of the tilted component,

.. math:: r_{jg} = \frac{w_j N_j(\xi_g)}{\sum_l w_l N_l(\xi_g)}, \qquad
          w_j = \sum_g \pi_g r_{jg}, \quad
          w_j\,\mu_j = \sum_g \pi_g r_{jg}\,\xi_g, \quad
          w_j\,\Sigma_j = \sum_g \pi_g r_{jg} (\xi_g - \mu_j)(\xi_g - \mu_j)^\top .

Each step brings the parts closer in Kullback-Leibler divergence, the very one that training
minimises, and from the first step on they have mean and covariance of the tilted component.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bayeskit.models.distribution_transformer.mixture_arrays import (
    Mixture,
    component_log_densities,
)
from bayeskit.models.distribution_transformer.small_matrices import cholesky
from bayeskit.models.distribution_transformer.splitting import Places

__all__ = ["fitted_parts"]

_NUM_STEPS = 8
# Parts with less weight than this stay where they are.
_LEAST_WEIGHT = 1e-7


def fitted_parts(
    where: Places, units: Mixture, points: jax.Array, shares: jax.Array, floor: float
) -> Mixture:
    """Return parts that are closer to the tilted components they come from.

    Parameters
    ----------
    where : Places
    units : Mixture
        Parts (K), in the units of their components.
    points : (G, d) array
        In those units.
    shares : (k, G) array
        Of each component, adding up to 1.
    floor : float
        Least pivot of a covariance: parts are not to be narrower than the points are apart.
    """
    own = shares[where.parents]
    are_siblings = (where.parents[:, None] == where.parents[None, :])[:, :, None]

    def step(_: int, parts: Mixture) -> Mixture:
        log_q = component_log_densities(parts, points).T
        # One exponential for each part and point, and not for each pair of siblings.
        highest = jnp.where(are_siblings, log_q[None], -jnp.inf).max(axis=1)
        relative = jnp.exp(log_q - jnp.where(highest > -jnp.inf, highest, 0.0))
        together = jnp.where(are_siblings, relative[None], 0.0).sum(axis=1)
        joint = own * relative / jnp.where(together > 0, together, 1.0)
        weight = joint.sum(axis=1)
        is_fine = where.is_used & (weight > _LEAST_WEIGHT)
        joint = joint / jnp.where(is_fine, weight, 1.0)[:, None]
        means = (joint[:, :, None] * points).sum(axis=1)
        centred = points - means[:, None]
        squares = centred[:, :, :, None] * centred[:, :, None, :]
        factors = cholesky((joint[:, :, None, None] * squares).sum(axis=1), floor)
        return Mixture(
            jnp.where(is_fine, jnp.log(jnp.where(is_fine, weight, 1.0)), parts.log_weights),
            jnp.where(is_fine[:, None], means, parts.means),
            jnp.where(is_fine[:, None, None], factors, parts.factors),
        )

    return jax.lax.fori_loop(0, _NUM_STEPS, step, units)
