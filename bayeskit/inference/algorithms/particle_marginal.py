"""Particle marginal Metropolis-Hastings."""

from __future__ import annotations

from collections.abc import Callable

from bayeskit.inference.algorithms.particle_filter import particle_filter
from bayeskit.inference.blocks import Block
from bayeskit.inference.estimates import choose
from bayeskit.inference.measure import Target
from bayeskit.inference.transitions.base import Transition
from bayeskit.inference.transitions.proposals import Proposal
from bayeskit.inference.transitions.pseudo_marginal import pseudo_marginal

__all__ = ["pmmh"]


def pmmh(
    prior: Target,
    model: Callable,
    num_particles: int,
    proposal: Proposal,
    *,
    scheme: str | Block = "systematic",
    ess_below: float | None = 0.5,
    paths: bool = True,
) -> Transition:
    r"""Return particle marginal Metropolis-Hastings: parameters moved by particle filters.

    Parameters
    ----------
    prior : Target
        Density of the parameters, with ``sample_prior`` where the law is to be derived.
    model : callable (parameters) -> FeynmanKac
    num_particles : int
        So many that the standard deviation of the log evidence is about 1 to 1.7.
    proposal : Proposal
    scheme, ess_below
        Of the resampling inside the filter, as in :func:`particle_filter`.
    paths : bool
        Keep the path of hidden states that came with the accepted parameters, (num_steps,
        ...) of each state; else the last hidden state alone.

    Returns
    -------
    Transition
        On a :class:`MarginalState`.

    Notes
    -----
    O(num_steps num_particles) a step, in time and, with paths, in memory. States are
    :class:`MarginalState`; parameters and path together have the joint posterior as their law.

    References
    ----------
    Andrieu, Doucet & Holenstein (2010), *Particle Markov chain Monte Carlo methods*.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> prior = bi.Target(
    ...     log_density=lambda decay: -0.5 * decay**2,
    ...     sample_prior=lambda key: bi.random.normal(key),
    ... )
    >>> def model(decay):
    ...     return bi.FeynmanKac(
    ...         initial=lambda key: bi.random.normal(key),
    ...         log_g0=lambda x: -0.5 * x**2,
    ...         kernel=lambda key, t, x: decay * x + bi.random.normal(key),
    ...         log_g=lambda t, before, x: -0.5 * (x - 1.0) ** 2,
    ...         num_steps=3,
    ...     )
    >>> steps = bi.pmmh(prior, model, 20, bi.random_walk(0.5))
    >>> draws, info = bi.chain(steps, jnp.zeros(()), 50, key=0)
    >>> draws.parameters.shape, draws.sample.shape
    ((50,), (50, 3))
    """

    def estimator(parameters):
        filtered = particle_filter(
            model(parameters), num_particles, scheme=scheme, ess_below=ess_below, history=paths
        )
        return choose(filtered)

    return pseudo_marginal(proposal, prior, estimator)
