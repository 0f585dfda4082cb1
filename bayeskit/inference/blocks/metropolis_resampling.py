"""Resample by short Markov chains over the particles, without any sum over the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.inference import random
from bayeskit.inference.blocks.base import Block
from bayeskit.inference.blocks.offspring import Resampling
from bayeskit.inference.law import CONSISTENT

__all__ = ["ResampleMetropolis", "metropolis_ancestors", "resample_metropolis"]


@dataclass(frozen=True, eq=False, repr=False)
class ResampleMetropolis(Resampling):
    """Resample by Markov chains. See :func:`resample_metropolis`."""

    steps: int
    num: int | None = None
    rate: Callable | None = None
    ess_below: float | None = None

    @property
    def name(self):
        return f"resample_metropolis(steps={self.steps}{self.options()})"

    def resampled(self, key, population):
        num = self.num or population.num_particles
        ancestors = metropolis_ancestors(key, self.log_rates(population), num, self.steps)
        equal = jnp.full(num, -math.log(num), population.log_weights.dtype)
        # Nearly independent draws from the weights, a pair of which is lost as if they were.
        return self.copies(population, ancestors, equal, 1.0 / num if num > 1 else 0.0)

    def arrow(self, law):
        return law.then(law.measure, self.name, CONSISTENT)


def metropolis_ancestors(key: Any, log_weights: jax.Array, num: int, steps: int) -> jax.Array:
    """Return the ancestors (num,) after some steps of a chain each, on any kind of key."""
    num_particles = log_weights.shape[0]

    def step(step_key, index, _):
        propose_key, accept_key = random.split(step_key)
        proposal = random.integers(propose_key, num_particles, (num,))
        accepted = random.accept(accept_key, log_weights[proposal] - log_weights[index])
        return jnp.where(accepted, proposal, index)

    start = jnp.arange(num, dtype=jnp.int32) % num_particles
    return random.repeat(step, key, start, steps)


def resample_metropolis(
    steps: int, num: int | None = None, *, rate: Callable | None = None
) -> Block:
    r"""Resample by a Metropolis chain over the particles in each slot (law L10).

    A chain starts at the particle of its slot, proposes any particle with equal probability and
    accepts j in place of i with probability :math:`\min(1, W_j / W_i)`. After B steps the law
    of its ancestor A is not W, but not far from it:

    .. math:: \max_S |P(A \in S) - W(S)| \le \Bigl(1 - \frac{1}{N \max W}\Bigr)^B ,

    and a particle of weight zero is left after B steps with probability at most
    :math:`d^B`, d the share of such particles. Only ratios of two weights are computed: there
    is no sum to wait for, and none to round.

    Parameters
    ----------
    steps : int >= 1
        B. For a bias below δ: :math:`N \max W \cdot \log (1/δ)` steps suffice.
    num : int, optional
        Number of offspring. Default: as many as there are particles.
    rate : callable log_rate(stage, particle) -> () array, optional
        As in :func:`resample`: chains run by the rates, and copies weigh
        :math:`W_i / (\text{num}\, r_i)`.

    Returns
    -------
    Block

    Raises
    ------
    ValueError
        For ``steps`` or ``num`` below 1.
    TypeError
        For a rate that is no function.

    References
    ----------
    Murray, Lee & Jacob (2016), *Parallel resampling in the particle filter*, section 3.1.
    Mengersen & Tweedie (1996), for the bound.

    Examples
    --------
    A particle of weight zero is left after 64 steps but for a chance of :math:`2^{-64}`:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> block = bi.resample_metropolis(64)
    >>> population = bi.Population(
    ...     jnp.array([7.0, 8.0]), jnp.log(jnp.array([1.0, 0.0])), log_evidence=jnp.zeros(())
    ... )
    >>> block.run(jax.random.key(0), population)[0].particles.tolist()
    [7.0, 7.0]
    >>> str(block.arrow(bi.Law(bi.Measure("π"))).kind)
    'L10 consistent'
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps!r}")
    return Resampling.checked(ResampleMetropolis(steps, num, rate))
