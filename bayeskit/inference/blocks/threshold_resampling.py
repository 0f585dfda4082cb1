"""Keep fewer particles, the heavy ones with their weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from bayeskit import accel
from bayeskit.accel.resampling.threshold import threshold_cdf
from bayeskit.inference import random
from bayeskit.inference.blocks.base import Block
from bayeskit.inference.blocks.offspring import Resampling

__all__ = ["ResampleThreshold", "resample_threshold"]


@dataclass(frozen=True, eq=False, repr=False)
class ResampleThreshold(Resampling):
    """Keep fewer particles. See :func:`resample_threshold`."""

    num: int = 1
    rate: Callable | None = None

    @property
    def name(self):
        return f"resample_threshold({self.options()[2:]})"

    def resampled(self, key, population):
        if self.num > population.num_particles:
            raise ValueError(
                f"{self.name} keeps some of the particles, of which there are only "
                f"{population.num_particles}: choose a smaller num"
            )
        log_rates = self.log_rates(population)
        ancestors, log_weights = draw_threshold(key, log_rates, self.num)
        return self.copies(population, ancestors, log_weights)


def draw_threshold(key: Any, log_weights: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
    """Return the ancestors (num,) and their new log-weights, on any kind of key."""
    cdf, by_particle, _ = threshold_cdf(log_weights, num)
    scheme = accel.SCHEMES["systematic"]
    u = random.piecewise_uniform(key, (), lambda: scheme.breaks(cdf, num))
    ancestors = scheme.ancestors(cdf, u, num)
    return ancestors, by_particle[ancestors]


def resample_threshold(num: int, *, rate: Callable | None = None) -> Block:
    r"""Keep ``num`` of the particles, none of them twice, by the optimal threshold (law L4).

    With :math:`\sum_i \min(1, W_i / c) = \text{num}`, particle i is kept with probability
    :math:`\min(1, W_i / c)` and then weighs :math:`\max(W_i, c)`. The weights add up to one
    again on every path, so that the evidence stays as it is. Useful where particles branch: on
    a discrete space each can be followed to all its successors, and copies would be wasted.

    With ``rate`` the chances are those of :math:`r_i \propto W_i \exp(\text{log\_rate}(x_i))`
    in place of the weights: what is kept weighs :math:`W_i / \min(1, r_i / c)`.

    Parameters
    ----------
    num : int
        From 1 to the number of particles.
    rate : callable log_rate(stage, particle) -> () array, optional
        As in :func:`resample`.

    Returns
    -------
    Block

    Raises
    ------
    ValueError
        If ``num`` is below 1, or, when the block runs, above the number of particles.
    TypeError
        For a rate that is no function.

    Notes
    -----
    As the ``scheme`` of an algorithm it needs ``ess_below=None``: it changes the number of
    particles.

    References
    ----------
    Fearnhead & Clifford (2003), *On-line inference for hidden Markov models via particle
    filters*.

    Examples
    --------
    Of four particles two are kept: the heavy one as it is, and one of the others for all three:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> population = bi.Population(
    ...     jnp.arange(4), jnp.log(jnp.array([0.6, 0.2, 0.1, 0.1])), log_evidence=jnp.zeros(())
    ... )
    >>> population, _ = bi.resample_threshold(2).compiled(jax.random.key(0), population)
    >>> jnp.exp(population.log_weights).round(4).tolist()
    [0.6, 0.4]
    """
    return Resampling.checked(ResampleThreshold(num, rate))
