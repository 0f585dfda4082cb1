"""Replace weights by numbers of offspring."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit import accel
from bayeskit.inference import random
from bayeskit.inference.blocks.base import Block
from bayeskit.inference.population import Population, effective_sample_size

__all__ = ["Resample", "draw_ancestors", "resample"]


@dataclass(frozen=True, eq=False, repr=False)
class Resample(Block):
    """Replace weights by numbers of offspring. See :func:`resample`."""

    scheme: str = "systematic"
    ess_below: float | None = None
    num: int | None = None

    @property
    def name(self):
        condition = "" if self.ess_below is None else f", ess<{self.ess_below:g}"
        number = "" if self.num is None else f", num={self.num}"
        return f"resample({self.scheme}{condition}{number})"

    def _resample(self, key, population):
        num = self.num or population.num_particles
        ancestors = draw_ancestors(key, population.log_weights, self.scheme, num)
        log_weights = jnp.full(num, -math.log(num), population.log_weights.dtype)
        lineage = population.lineage
        if lineage is not None:
            lineage = lineage.resampled(ancestors, self.scheme == "multinomial")
        return population._replace(
            particles=accel.take_particles(population.particles, ancestors),
            log_weights=log_weights,
            lineage=lineage,
            ancestors=None if population.ancestors is None else ancestors,
        )

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


def draw_ancestors(key: Any, log_weights: jax.Array, scheme: str, num: int) -> jax.Array:
    """Return the ancestors (num,) that a resampling scheme chooses, on any kind of key."""
    if scheme == "multinomial":
        return random.categorical(key, log_weights, num)
    chosen = accel.SCHEMES[scheme]
    cdf = accel.scaled_cdf(log_weights, num)
    u = random.piecewise_uniform(
        key, chosen.uniform_shape(num), lambda: chosen.breaks(cdf, num)
    )
    return chosen.ancestors(cdf, u, num)


def resample(
    scheme: str = "systematic", ess_below: float | None = None, num: int | None = None
) -> Block:
    """Replace weights by random numbers of offspring of the same mean (law L4).

    Parameters
    ----------
    scheme : str
        A name in ``bayeskit.accel.SCHEMES``.
    ess_below : float in (0, 1], optional
        Resample only where the effective sample size is below this fraction of the particles.
    num : int, optional
        Number of offspring. Default: as many as there are particles.

    Raises
    ------
    ValueError
        For an unknown scheme, a fraction outside (0, 1], or ``num`` with ``ess_below``.
    """
    if scheme not in accel.SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}: choose one of {sorted(accel.SCHEMES)}")
    if ess_below is not None and not 0 < ess_below <= 1:
        raise ValueError(f"ess_below must be a fraction in (0, 1], got {ess_below!r}")
    if num is not None and num < 1:
        raise ValueError(f"num must be at least 1, got {num!r}")
    if num is not None and ess_below is not None:
        raise ValueError("num changes the number of particles, so ess_below cannot be given")
    return Resample(scheme, ess_below, num)
