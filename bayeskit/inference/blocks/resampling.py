"""Replace weights by numbers of offspring."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit import accel
from bayeskit.accel.resampling.scheme import offspring_count
from bayeskit.inference import random
from bayeskit.inference.blocks.base import Block
from bayeskit.inference.blocks.coalescence import lost_pairs
from bayeskit.inference.population import Population, effective_sample_size, reweigh

__all__ = ["Resample", "draw_ancestors", "offspring", "resample"]


@dataclass(frozen=True, eq=False, repr=False)
class Resample(Block):
    """Replace weights by numbers of offspring. See :func:`resample`."""

    scheme: str = "systematic"
    ess_below: float | None = None
    num: int | None = None
    rate: Callable | None = None
    keep_gradient: bool = False

    @property
    def name(self):
        condition = "" if self.ess_below is None else f", ess<{self.ess_below:g}"
        number = "" if self.num is None else f", num={self.num}"
        rate = f", rate={getattr(self.rate, '__name__', 'rate')}" if self.rate else ""
        return f"resample({self.scheme}{condition}{number}{rate})"

    def _resample(self, key, population):
        num = self.num or population.num_particles
        log_rates = self._log_rates(population)
        log_ratio = population.log_weights - log_rates
        ancestors = draw_ancestors(key, log_rates, self.scheme, num)
        lost: jax.Array | float = 0.0
        if population.lineage is not None:
            label = population.lineage.label
            lost = lost_pairs(self.scheme, log_rates, log_ratio, label, num)
        equal = jnp.full(num, -math.log(num), population.log_weights.dtype)
        result = offspring(population, ancestors, equal, lost)
        if self.rate is None and not self.keep_gradient:
            return result
        result = reweigh(result, log_ratio[ancestors])
        if result.lineage is not None:
            result = result._replace(lineage=result.lineage.weighed(result.log_weights))
        return result

    def _log_rates(self, population):
        """Return the log-probabilities to be chosen, normalised, without their gradient."""
        log_weights = population.log_weights
        rate = self.rate
        if rate is not None:
            log_rate = jax.vmap(lambda x: rate(population.stage, x))(population.particles)
            usable = jnp.isfinite(log_rate)
            smallest = jnp.min(jnp.where(usable, log_rate, jnp.inf))
            smallest = jnp.where(jnp.isfinite(smallest), smallest, 0.0)
            log_rate = jnp.where(usable, log_rate, smallest).astype(log_weights.dtype)
            log_weights = jax.nn.log_softmax(log_weights + log_rate)
        return lax.stop_gradient(log_weights)

    def is_needed(self, population: Population) -> jax.Array:
        """Return whether the weights are uneven enough to resample."""
        if self.ess_below is None:
            return jnp.asarray(True)
        ess = effective_sample_size(population.log_weights)
        return ess < self.ess_below * population.num_particles

    @functools.cached_property
    def always(self) -> Resample:
        """The same block without a condition."""
        return replace(self, ess_below=None)

    def run(self, key, population=None):
        if self.ess_below is None:
            return self._resample(key, population), {}
        needed = self.is_needed(population)
        return random.cond(needed, self._resample, key, population), {"resampled": needed}

    def arrow(self, law):
        return law.then(law.measure, self.name)


def offspring(
    population: Population,
    ancestors: jax.Array,
    log_weights: jax.Array,
    lost_pairs: jax.Array | float = 0.0,
) -> Population:
    """Return the copies of the ancestors with new weights, and who descends from whom."""
    lineage = population.lineage
    return population._replace(
        particles=accel.take_particles(population.particles, ancestors),
        log_weights=log_weights,
        lineage=None if lineage is None else lineage.resampled(ancestors, lost_pairs),
        ancestors=None if population.ancestors is None else ancestors,
    )


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
    scheme: str = "systematic",
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
    scheme : str
        A name in ``bayeskit.accel.SCHEMES``, or ``"rejection"``, whose ancestors are those of
        ``"multinomial"`` in law and which the exact mode cannot enumerate.
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

    Raises
    ------
    ValueError
        For an unknown scheme, a fraction outside (0, 1], ``num`` with ``ess_below``, or ``num``
        with a scheme that keeps the number.
    TypeError
        For a rate that is no function.

    References
    ----------
    Pitt & Shephard (1999), for the auxiliary particle filter. Ścibior & Wood (2021),
    *Differentiable particle filtering without modifying the forward pass*.
    """
    if scheme not in accel.SCHEMES and scheme != "rejection":
        known = sorted([*accel.SCHEMES, "rejection"])
        raise ValueError(f"unknown scheme {scheme!r}: choose one of {known}")
    if ess_below is not None and not 0 < ess_below <= 1:
        raise ValueError(f"ess_below must be a fraction in (0, 1], got {ess_below!r}")
    if num is not None and num < 1:
        raise ValueError(f"num must be at least 1, got {num!r}")
    if num is not None and ess_below is not None:
        raise ValueError("num changes the number of particles, so ess_below cannot be given")
    if num is not None and scheme in accel.SCHEMES and accel.SCHEMES[scheme].keeps_number:
        raise ValueError(
            f"{scheme} resampling makes as many offspring as there are particles: leave num "
            "out or choose another scheme"
        )
    if rate is not None and not callable(rate):
        raise TypeError(
            f"rate must be a function log_rate(stage, particle), got {type(rate).__name__}"
        )
    return Resample(scheme, ess_below, num, rate, keep_gradient)
