"""Resample within groups of particles that keep their weights, and let groups interact."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit import accel
from bayeskit.accel.weights import normalize_checked
from bayeskit.inference import random
from bayeskit.inference.blocks.base import Block
from bayeskit.inference.blocks.offspring import Resampling
from bayeskit.inference.blocks.resampling import check_scheme, draw_ancestors
from bayeskit.inference.population import Population

__all__ = [
    "ResampleButterfly",
    "ResampleInGroups",
    "resample_butterfly",
    "resample_in_groups",
]


@dataclass(frozen=True, eq=False, repr=False)
class ResampleInGroups(Resampling):
    """Resample within groups, or pools of groups. See :func:`resample_in_groups`."""

    num_groups: int
    scheme: str = "systematic"
    exchanged: float = 0.0
    together: int = 1
    stride: int = 1
    ess_below: float | None = None
    rate: Callable | None = None
    keep_gradient: bool = False

    @property
    def name(self):
        parts = f"{self.num_groups}, {self.scheme}"
        if self.together > 1:
            parts += f", {self.together} together by {self.stride}"
        if self.exchanged:
            parts += f", exchanged={self.exchanged:g}"
        return f"resample_in_groups({parts}{self.options()})"

    def resampled(self, key, population):
        _require_groups(self, population)
        pools = (self.num_groups, self.together, self.stride)
        log_rates = accel.pool_groups(self.log_rates(population), *pools)
        chosen, log_weights = draw_in_pools(key, log_rates, self.scheme)
        place = accel.pool_groups(jnp.arange(population.num_particles, dtype=jnp.int32), *pools)
        ancestors = jnp.take_along_axis(place, chosen, axis=1)

        def take(particles, _):
            # Pool by pool, so that a device that holds a pool asks no other one.
            within = jax.vmap(accel.take_particles)(
                accel.pool_groups(particles, *pools), chosen
            )
            return accel.unpool_groups(within, *pools)

        ancestors, log_weights = accel.unpool_groups((ancestors, log_weights), *pools)
        # Multinomial draws lose pairs too, but only within pools: counted as nothing, which
        # overestimates the variance.
        copies = self.copies(population, ancestors, log_weights, take=take)
        return _passed_on(copies, self.num_groups, self.exchanged)


def draw_in_pools(key: Any, log_weights: jax.Array, scheme: str) -> tuple[jax.Array, jax.Array]:
    """Return ancestors within their pools and new log-weights, (num_pools, size) both."""
    num_pools, size = log_weights.shape
    totals = normalize_checked(log_weights).log_sum[:, None]
    # A pool without mass keeps none, whoever its ancestors are.
    inside = jnp.where(totals > -jnp.inf, log_weights, 0.0)

    def one(lane_key, row):
        return draw_ancestors(lane_key, row, scheme, size).astype(jnp.int32)

    # Each pool lies on its own devices: its cumulative weights are not to be spread over all.
    with accel.on_mesh(None):
        chosen = random.lanes(one, key, inside)
    return chosen, jnp.broadcast_to(totals - math.log(size), (num_pools, size))


def _passed_on(population: Population, num_groups: int, fraction: float) -> Population:
    """Return the population after a ring exchange of whole particles: the same measure."""
    if not fraction:
        return population
    ring = functools.partial(accel.ring_exchange, num_groups=num_groups, fraction=fraction)
    particles, log_weights = ring((population.particles, population.log_weights))
    lineage, ancestors = population.lineage, population.ancestors
    return population._replace(
        particles=particles,
        log_weights=log_weights,
        lineage=None if lineage is None else lineage._replace(label=ring(lineage.label)),
        ancestors=None if ancestors is None else ring(ancestors),
    )


def _require_groups(block: Any, population: Population) -> None:
    if population.num_particles % block.num_groups:
        raise ValueError(
            f"{block.name}: {population.num_particles} particles do not divide into "
            f"{block.num_groups} groups of one size: choose a multiple of {block.num_groups}"
        )


@dataclass(frozen=True, eq=False, repr=False)
class ResampleButterfly(Resampling):
    """Resample pairs of groups, stage by stage. See :func:`resample_butterfly`."""

    num_groups: int
    scheme: str = "systematic"
    ess_below: float | None = None
    rate: Callable | None = None
    keep_gradient: bool = False

    @property
    def name(self):
        return f"resample_butterfly({self.num_groups}, {self.scheme}{self.options()})"

    @functools.cached_property
    def stages(self) -> tuple[ResampleInGroups, ...]:
        """The blocks that it runs one after another."""
        return tuple(
            ResampleInGroups(
                self.num_groups,
                self.scheme,
                together=2,
                stride=2**stage,
                ess_below=self.ess_below,
                rate=self.rate,
                keep_gradient=self.keep_gradient,
            )
            for stage in range(self.num_groups.bit_length() - 1)
        )

    def run(self, key, population=None):
        needed = []
        keys = random.split(key, len(self.stages))
        for stage_key, stage in zip(keys, self.stages, strict=True):
            needed.append(self.is_needed(population))
            population, _ = stage.run(stage_key, population)
        num_stages = sum(needed, jnp.zeros((), jnp.int32))
        return population, {"resampled": needed[0], "num_stages": num_stages}


def resample_in_groups(
    num_groups: int,
    scheme: str = "systematic",
    ess_below: float | None = None,
    *,
    exchanged: float = 0.1,
    rate: Callable | None = None,
) -> Block:
    r"""Resample each group of particles by itself, and pass some on to the next (law L4).

    The N particles are P groups of M neighbours. Group p, whose weights add up to
    :math:`V_p = \sum_{i \in p} W_i`, makes M offspring of its own, particle i
    :math:`M W_i / V_p` of them on average, and each weighs :math:`V_p / M`. Then a fraction of
    each group moves to the next one, with its weights, in a ring: this is what lets a heavy
    group spread, over as many steps as there are groups between. Nothing is gathered from all
    groups but the effective sample size, so groups may live on different devices.

    Parameters
    ----------
    num_groups : int >= 1
        P, a divisor of the number of particles.
    scheme : str
        Within a group.
    ess_below : float in (0, 1], optional
        Resample only where the effective sample size of all particles is below this fraction
        of their number. Weights of groups stay uneven, so it may remain below.
    exchanged : float in [0, 0.5]
        Fraction of each group that moves to the next, rounded up to whole particles. 0: groups
        never interact, and the error of the evidence grows as that of M particles.
    rate : callable log_rate(stage, particle) -> () array, optional
        As in :func:`resample`, within each group.

    Returns
    -------
    Block

    Raises
    ------
    ValueError
        For an unknown scheme, ``num_groups`` below 1, a fraction out of its range, or, when the
        block runs, a number of particles that is no multiple of ``num_groups``.
    TypeError
        For a rate that is no function.

    Notes
    -----
    O(N). The standard error of the evidence from a single run errs on the safe side.

    References
    ----------
    Bolić, Djurić & Hong (2005), *Resampling algorithms and architectures for distributed
    particle filters*: "nonproportional allocation". Whiteley, Lee & Heine (2016), *On the role
    of interaction in sequential Monte Carlo algorithms*, for the evidence.

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
    >>> local = bi.particle_filter(walk, 80, scheme=bi.resample_in_groups(4))
    >>> print(local.law.kind)
    L2 properly weighted
    """
    _check_number_of_groups(num_groups)
    check_scheme(scheme)
    if not 0 <= exchanged <= 0.5:
        raise ValueError(f"exchanged must be a fraction in [0, 0.5], got {exchanged!r}")
    block = ResampleInGroups(num_groups, scheme, exchanged, ess_below=ess_below, rate=rate)
    return Resampling.checked(block)


def resample_butterfly(
    num_groups: int,
    scheme: str = "systematic",
    ess_below: float | None = None,
    *,
    rate: Callable | None = None,
) -> Block:
    r"""Resample pairs of groups in :math:`\log_2 P` stages, each group with one other (law L4).

    In stage s the groups whose numbers differ in binary digit s alone pool their 2M particles
    and make 2M offspring, each of which weighs

    .. math:: \frac{V_p + V_q}{2M} ,

    the mean of the pool. After all stages every particle weighs the same, and each group has
    spoken to :math:`\log_2 P` others only. With ``ess_below`` the stages end where the
    effective sample size is large enough: often after one or two.

    Parameters
    ----------
    num_groups : int, a power of 2 above 1
        P, a divisor of the number of particles.
    scheme : str
        Within a pool.
    ess_below : float in (0, 1], optional
        Each stage only where the effective sample size of all particles is below this fraction
        of their number. ``num_stages`` in the info of the block counts them.
    rate : callable log_rate(stage, particle) -> () array, optional
        As in :func:`resample`, within each pool.

    Returns
    -------
    Block

    Raises
    ------
    ValueError
        For an unknown scheme, a number of groups that is no power of 2, a fraction out of its
        range, or, when the block runs, a number of particles that is no multiple of it.
    TypeError
        For a rate that is no function.

    Notes
    -----
    O(N log P). Each stage adds noise of its own: on one device :func:`resample` is better.

    References
    ----------
    Heine, Whiteley & Cemgil (2020), *Parallelizing particle filters with butterfly
    interactions*. Whiteley, Lee & Heine (2016), section 5, for as many stages as are needed.

    Examples
    --------
    >>> from bayeskit import inference as bi
    >>> bi.resample_butterfly(8, ess_below=0.5).name
    'resample_butterfly(8, systematic, ess<0.5)'
    """
    _check_number_of_groups(num_groups)
    if num_groups == 1 or num_groups & (num_groups - 1):
        raise ValueError(f"num_groups must be a power of 2 above 1, got {num_groups}")
    check_scheme(scheme)
    return Resampling.checked(ResampleButterfly(num_groups, scheme, ess_below, rate=rate))


def _check_number_of_groups(num_groups: Any) -> None:
    try:
        number = operator.index(num_groups)
    except TypeError:
        raise TypeError(
            f"num_groups must be a whole number, got {type(num_groups).__name__}"
        ) from None
    if number < 1:
        raise ValueError(f"num_groups must be at least 1, got {number}")
