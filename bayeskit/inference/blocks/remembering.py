"""Keep the populations of all times, where smoothing needs them."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bayeskit.inference.blocks.base import Block
from bayeskit.inference.population import History, Population

__all__ = ["Remember", "remember"]


@dataclass(frozen=True, eq=False, repr=False)
class Remember(Block):
    """Write the population into its history. See :func:`remember`."""

    num_steps: int

    @property
    def name(self):
        return "remember"

    def run(self, key, population=None):
        own_place = jnp.arange(population.num_particles, dtype=jnp.int32)
        if population.history is None:
            time, ancestors = 0, own_place
            history = self._blank(population)
        else:
            time, ancestors = population.stage, population.ancestors
            history = population.history
        now = History(population.particles, population.log_weights, ancestors)
        history = jax.tree.map(lambda all_, one: all_.at[time].set(one), history, now)
        return population._replace(ancestors=own_place, history=history), {}

    def _blank(self, population: Population) -> History:
        num = population.num_particles
        zeros = lambda x: jnp.zeros((self.num_steps, *x.shape), x.dtype)
        return History(
            jax.tree.map(zeros, population.particles),
            zeros(population.log_weights),
            jnp.zeros((self.num_steps, num), jnp.int32),
        )

    def arrow(self, law):
        return law.then(law.measure, self.name)


def remember(num_steps: int) -> Block:
    """Write particles, weights and ancestors of this time into ``population.history``.

    It stands once after the first weighing and once at the end of each round of a
    :func:`scan`; ancestors are then those of the resampling in the round. It changes no law.

    Parameters
    ----------
    num_steps : int
        Number of times, the first included.

    Returns
    -------
    Block

    Raises
    ------
    ValueError
        If there is not at least one time.

    Notes
    -----
    Memory: num_steps times the size of a population. Without this block none is kept.

    Examples
    --------
    >>> from bayeskit import inference as bi
    >>> walk = bi.FeynmanKac(
    ...     initial=lambda key: bi.random.normal(key),
    ...     log_g0=lambda x: -0.5 * x**2,
    ...     kernel=lambda key, t, x: x + bi.random.normal(key),
    ...     log_g=lambda t, before, x: -0.5 * (x - 1.0) ** 2,
    ...     num_steps=5,
    ... )
    >>> start = bi.spawn(walk.initial, 4) >> bi.weigh(walk.log_g0) >> bi.remember(5)
    >>> round_ = bi.resample() >> bi.extend(walk.kernel, walk.log_g) >> bi.remember(5)
    >>> bi.run(start >> bi.scan(round_), 0).history.particles.shape
    (5, 4)
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps!r}")
    return Remember(num_steps)
