"""Replace weights by numbers of offspring."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit import accel
from bayeskit.accel.resampling.scheme import offspring_count
from bayeskit.inference import random
from bayeskit.inference.blocks.base import Block
from bayeskit.inference.blocks.coalescence import lost_pairs
from bayeskit.inference.blocks.offspring import Resampling

__all__ = ["Resample", "check_scheme", "draw_ancestors", "resample"]


@dataclass(frozen=True, eq=False, repr=False)
class Resample(Resampling):
    """Replace weights by numbers of offspring. See :func:`resample`."""

    scheme: str = "systematic"
    ess_below: float | None = None
    num: int | None = None
    rate: Callable | None = None
    keep_gradient: bool = False

    @property
    def name(self):
        return f"resample({self.scheme}{self.options()})"

    def resampled(self, key, population):
        num = self.num or population.num_particles
        log_rates = self.log_rates(population)
        ancestors = draw_ancestors(key, log_rates, self.scheme, num)
        lost: jax.Array | float = 0.0
        if population.lineage is not None:
            log_ratio, label = population.log_weights - log_rates, population.lineage.label
            lost = lost_pairs(self.scheme, log_rates, log_ratio, label, num)
        equal = jnp.full(num, -math.log(num), population.log_weights.dtype)
        return self.copies(population, ancestors, equal, lost)


def draw_ancestors(key: Any, log_weights: jax.Array, scheme: str, num: int) -> jax.Array:
    """Return the ancestors (num,) that a resampling scheme chooses, on any kind of key."""
    if scheme == "multinomial":
        return random.categorical(key, log_weights, num)
    if scheme == "rejection":
        return accel.rejection(random.real_key(key), log_weights, num).index
    chosen = accel.SCHEMES[scheme]
    num = offspring_count(chosen, log_weights.shape[-1], num)
    cdf = accel.scaled_cdf(log_weights, num)
    shape = chosen.uniform_shape(log_weights.shape[-1], num)
    u = random.piecewise_uniform(key, shape, lambda: chosen.breaks(cdf, num))
    return chosen.ancestors(cdf, u, num)


def resample(
    scheme: str | Block = "systematic",
    ess_below: float | None = None,
    num: int | None = None,
    *,
    rate: Callable | None = None,
    keep_gradient: bool = False,
) -> Block:
    r"""Replace weights by random numbers of offspring of the same mean (law L4).

    Particle i has :math:`\text{num}\, r_i` offspring on average, and each weighs
    :math:`W_i / (\text{num}\, r_i)`. Without ``rate``, r = W and all weigh the same. With it,

    .. math:: r_i = \frac{W_i \exp(\text{log\_rate}(x_i))}
        {\sum_j W_j \exp(\text{log\_rate}(x_j))} :

    the auxiliary particle filter chooses by what is to come, and the weights give it back. What
    they add up to goes to the evidence.

    Parameters
    ----------
    scheme : str, or block that resamples
        A name in ``bayeskit.accel.SCHEME_NAMES``. The ancestors of ``"rejection"`` are those of
        ``"multinomial"`` in law, but the exact mode cannot enumerate them. A block such as
        :func:`resample_metropolis` is returned with the other options, where it has none of its
        own: so the ``scheme`` of every algorithm may be a block.
    ess_below : float in (0, 1], optional
        Resample only where the effective sample size is below this fraction of the particles.
    num : int, optional
        Number of offspring. Default: as many as there are particles.
    rate : callable log_rate(stage, particle) -> () array, optional
        Any function will do. A value that is not finite counts as the smallest that is, since
        no particle of positive weight may be left without a chance.
    keep_gradient : bool
        Whether copies keep the gradient of their weights: each weighs
        :math:`W_i / (\text{num}\, r_i)` with :math:`r_i` a constant, which changes no value.
        The gradient of the evidence, not of its logarithm, is then unbiased as far as it goes
        through weights. With ``rate`` that is always so.

    Returns
    -------
    Block
        Afterwards all weights are equal where it resampled; with ``rate`` they are not.

    Raises
    ------
    ValueError
        For an unknown scheme, a fraction outside (0, 1], ``num`` with ``ess_below``, or ``num``
        with a scheme that keeps the number; for an option that the given block has not.
    TypeError
        For a rate that is no function, or a block that does not resample.

    References
    ----------
    Pitt & Shephard (1999), for the auxiliary particle filter. Ścibior & Wood (2021),
    *Differentiable particle filtering without modifying the forward pass*.

    Examples
    --------
    Weights that are whole multiples of 1/4 give four offspring without any noise:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> population = bi.Population(
    ...     jnp.array([1.0, 2.0, 3.0, 4.0]),
    ...     jnp.log(jnp.array([0.5, 0.25, 0.25, 0.0])),
    ...     log_evidence=jnp.zeros(()),
    ... )
    >>> population, _ = bi.resample("systematic").run(jax.random.key(0), population)
    >>> population.particles.tolist()
    [1.0, 1.0, 2.0, 3.0]
    """
    if isinstance(scheme, Block):
        if not isinstance(scheme, Resampling):
            raise TypeError(
                f"scheme must be a name or a block that resamples, such as "
                f"resample_metropolis(10), got {scheme.name}"
            )
        return scheme.adopted(
            ess_below=ess_below, num=num, rate=rate, keep_gradient=keep_gradient
        )
    check_scheme(scheme)
    block = Resampling.checked(Resample(scheme, ess_below, num, rate, keep_gradient))
    if num is not None and accel.keeps_number(scheme):
        raise ValueError(
            f"{scheme} resampling makes as many offspring as there are particles: leave num "
            "out or choose another scheme"
        )
    return block


def check_scheme(scheme: Any) -> None:
    """Refuse what is no name of a scheme.

    Raises
    ------
    ValueError
    """
    if scheme not in accel.SCHEME_NAMES:
        raise ValueError(
            f"unknown scheme {scheme!r}: choose one of {sorted(accel.SCHEME_NAMES)}"
        )
