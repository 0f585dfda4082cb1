"""Correlated particle marginal Metropolis-Hastings."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bayeskit.inference.algorithms.uniform_filter import (
    filter_from_uniforms,
    num_uniforms,
    spatial_order,
)
from bayeskit.inference.estimates import example_of
from bayeskit.inference.measure import Target
from bayeskit.inference.population import total_log_evidence
from bayeskit.inference.transitions.base import Transition
from bayeskit.inference.transitions.correlated import (
    correlated_pseudo_marginal,
    crank_nicolson,
)
from bayeskit.inference.transitions.proposals import Proposal

__all__ = ["correlated_pmmh", "systematic_uniforms"]


def systematic_uniforms(normals: jax.Array) -> jax.Array:
    """Return the uniforms of a filter made of normals (num_steps, num_particles, 1 + dim).

    The first column chooses ancestors: one uniform a time, spread over all particles by the
    systematic scheme, so that ancestors change little when it does.
    """
    num = normals.shape[1]
    # A normal far out would round to 0 or 1 and move particles to infinity.
    tiny = jnp.finfo(normals.dtype).eps
    uniforms = jnp.clip(jax.scipy.special.ndtr(normals), tiny, 1.0 - tiny)
    spread = (jnp.arange(num, dtype=normals.dtype) + uniforms[:, :1, 0]) / num
    return uniforms.at[:, :, 0].set(spread)


def correlated_pmmh(
    prior: Target,
    model: Callable,
    num_particles: int,
    proposal: Proposal,
    *,
    correlation: float = 0.99,
    order: Callable = spatial_order,
) -> Transition:
    r"""Return PMMH whose filters at the new and the current parameters share random numbers.

    Parameters
    ----------
    prior : Target with sample_prior
    model : callable (parameters) -> FeynmanKac with kernel_from_uniforms
    num_particles : int
        Of the order of the square root of the number of observations is enough.
    proposal : Proposal
    correlation : float in [0, 1)
        Of the random numbers of successive filters.
    order : callable (particles) -> (num_particles,) array
        As in :func:`sqmc`.

    Returns
    -------
    Transition
        On a :class:`MarginalState`.

    Notes
    -----
    O(num_steps num_particles log(num_particles)) a step; the random numbers are kept in the
    state. The resampling sorts particles, so that the estimate varies little with them.

    It is for long series. Of short ones :func:`pmmh` with more particles may give more
    effective draws at the same cost: try both.

    References
    ----------
    Deligiannidis, Doucet & Pitt (2018), *The correlated pseudomarginal method*.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> prior = bi.Target(
    ...     log_density=lambda decay: -0.5 * decay**2,
    ...     sample_prior=lambda key: bi.random.normal(key),
    ... )
    >>> noise = jax.scipy.special.ndtri
    >>> def model(decay):
    ...     return bi.FeynmanKac(
    ...         initial=lambda key: bi.random.normal(key),
    ...         log_g0=lambda x: -0.5 * x**2,
    ...         kernel=lambda key, t, x: decay * x + bi.random.normal(key),
    ...         log_g=lambda t, before, x: -0.5 * (x - 1.0) ** 2,
    ...         num_steps=3,
    ...         initial_from_uniforms=lambda u: noise(u[0]),
    ...         kernel_from_uniforms=lambda t, x, u: decay * x + noise(u[0]),
    ...     )
    >>> steps = bi.correlated_pmmh(prior, model, 8, bi.random_walk(0.5))
    >>> draws, info = bi.chain(steps, jnp.zeros(()), 50, key=0)
    >>> draws.parameters.shape
    (50,)
    """
    shape = num_uniforms(example_of(prior, model), num_particles)

    def estimator(parameters):
        def estimate(normals):
            uniforms = systematic_uniforms(normals)
            population = filter_from_uniforms(model(parameters), uniforms, order)
            return total_log_evidence(population), ()

        return estimate

    auxiliary = crank_nicolson(shape, correlation)
    return correlated_pseudo_marginal(proposal, prior, estimator, auxiliary)
