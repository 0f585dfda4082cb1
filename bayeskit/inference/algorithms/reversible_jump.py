"""Reversible jump Markov chain Monte Carlo: jumps between models, moves within them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bayeskit.inference.measure import Target
from bayeskit.inference.transitions import Transition, cycle, repeat
from bayeskit.inference.transitions.reversible_jump import (
    first_coordinates,
    reversible_jump,
    walk_within,
)

__all__ = ["reversible_jump_mcmc"]


def reversible_jump_mcmc(
    target: Target,
    jumps: Any,
    sample_new: Callable,
    log_new: Callable,
    *,
    active: Callable = first_coordinates,
    within: Transition | None = None,
    num_moves: int = 1,
) -> Transition:
    """Return a chain over models and their parameters: the share of time in each is its odds.

    Parameters
    ----------
    target, jumps, sample_new, log_new, active
        As for :func:`~bayeskit.inference.reversible_jump`.
    within : Transition, optional
        Move of the parameters on the same target. Default: a random walk of step 1.
    num_moves : int
        Moves within a model between two jumps.

    Returns
    -------
    Transition

    References
    ----------
    Green (1995).

    Examples
    --------
    How many terms does a cosine series need? The first, and no other:

    >>> import jax.numpy as jnp
    >>> from jax.scipy.stats import norm
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> grid = jnp.linspace(0, 3, 20)
    >>> terms = jnp.cos(grid[:, None] * jnp.arange(1, 4))
    >>> y = 2 * terms[:, 0]
    >>> def log_density(state):
    ...     k, x = state
    ...     used = jnp.arange(3) < k
    ...     fit = norm.logpdf(y, terms @ x).sum()
    ...     return fit + jnp.where(used, norm.logpdf(x, 0.0, 3.0), 0).sum()
    >>> sampler = bi.reversible_jump_mcmc(
    ...     Target(log_density=log_density),
    ...     bi.birth_death(4),
    ...     sample_new=lambda key, new, x: 3 * bi.random.normal(key, (3,)),
    ...     log_new=lambda new, x, u: norm.logpdf(u, 0.0, 3.0),
    ... )
    >>> (k, x), _ = bi.chain(sampler, (jnp.asarray(0), jnp.zeros(3)), 2000, key=0)
    >>> int(jnp.argmax(jnp.bincount(k, length=4)))
    1
    """
    jump = reversible_jump(target, jumps, sample_new, log_new, active=active)
    return cycle(jump, repeat(within or walk_within(target, active=active), num_moves))
