"""Filters of filters: a particle that is a whole population, weighed by its own evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.inference.algorithms.particle_filter import particle_filter
from bayeskit.inference.blocks import Block, extend, resample, spawn, weigh
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.law import Measure, require
from bayeskit.inference.population import Population, total_log_evidence

__all__ = ["evidence_gained", "island_filter", "island_model", "join_islands"]


def evidence_gained(before: jax.Array, after: jax.Array) -> jax.Array:
    """Return the increment of a log evidence; what has died stays dead."""
    dead = (before == -jnp.inf) | (after == -jnp.inf)
    return jnp.where(dead, -jnp.inf, after - before)


def island_model(
    model: FeynmanKac,
    num_particles: int,
    *,
    scheme: str | Block = "systematic",
    ess_below: float | None = 0.5,
) -> FeynmanKac:
    r"""Return the Feynman-Kac model whose particles are populations that filter a model.

    Its potential is what the evidence of a population gains. A particle filter on it is the
    island particle model, and with parameters beside each population it is SMC².

    Parameters
    ----------
    model : FeynmanKac
    num_particles : int
        In each population.
    scheme, ess_below
        Of the resampling inside a population.

    Returns
    -------
    FeynmanKac
        For :func:`particle_filter`.

    References
    ----------
    Vergé, Dubarry, Del Moral & Moulines (2015), *On parallel implementation of sequential
    Monte Carlo methods: the island particle model*.

    Examples
    --------
    A particle is a population of 25, and its first potential what that has for evidence:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> walk = bi.FeynmanKac(
    ...     initial=lambda key: bi.random.normal(key),
    ...     log_g0=lambda x: jnp.log(0.5),
    ...     kernel=lambda key, t, x: x + bi.random.normal(key),
    ...     log_g=lambda t, before, x: jnp.log(0.5),
    ...     num_steps=5,
    ... )
    >>> islands = bi.island_model(walk, 25)
    >>> population = jax.jit(islands.initial.function)(jax.random.key(0))
    >>> population.num_particles, round(float(jnp.exp(islands.log_g0(0, population))), 4)
    (25, 0.5)
    """
    first = spawn(model.initial, num_particles) >> weigh(model.log_g0)
    step = resample(scheme, ess_below) >> extend(model.kernel, model.log_g)

    def initial(key):
        return first.run(key)[0]._replace(stage=jnp.zeros((), jnp.int32))

    def kernel(key, t, population):
        stage = jnp.asarray(t, jnp.int32)
        return step.run(key, population._replace(stage=stage))[0]

    def log_g(t, before, after):
        return evidence_gained(total_log_evidence(before), total_log_evidence(after))

    return FeynmanKac(
        initial=initial,
        log_g0=total_log_evidence,
        kernel=kernel,
        log_g=log_g,
        num_steps=model.num_steps,
        name=f"{model.measure.name} on islands",
    )


@dataclass(frozen=True, eq=False, repr=False)
class JoinIslands(Block):
    """One population out of many. See :func:`join_islands`."""

    islands: Measure
    joined: Measure

    @property
    def name(self):
        return "join islands"

    @property
    def expects(self):
        return self.islands

    def run(self, key, population=None):
        inner = population.particles
        # A particle weighs what it does on its island times what the island weighs.
        log_weights = population.log_weights[:, None] + inner.log_weights
        num = log_weights.size
        lineage = population.lineage
        if lineage is not None:
            label = jnp.repeat(lineage.label, num // population.num_particles)
            lineage = lineage._replace(label=label)
        joined = Population(
            jax.tree.map(lambda x: x.reshape(num, *x.shape[2:]), inner.particles),
            log_weights.reshape(num),
            population.log_evidence,
            population.stage,
            lineage,
            log_evidence_remainder=population.log_evidence_remainder,
        )
        return joined, {}

    def arrow(self, law):
        require(self.islands, law.measure, "join islands: starts from")
        return law.then(self.joined, self.name)


def join_islands(islands: FeynmanKac, model: FeynmanKac) -> Block:
    """Put the particles of all islands into one population, at the end (keeps law L2).

    Parameters
    ----------
    islands : FeynmanKac
        As :func:`island_model` makes it of the model.
    model : FeynmanKac

    Returns
    -------
    Block

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> walk = bi.FeynmanKac(
    ...     initial=lambda key: bi.random.normal(key),
    ...     log_g0=lambda x: -0.5 * x**2,
    ...     kernel=lambda key, t, x: x + bi.random.normal(key),
    ...     log_g=lambda t, before, x: -0.5 * (x - 1.0) ** 2,
    ...     num_steps=5,
    ... )
    >>> islands = bi.Population(
    ...     jnp.array([[1.0, 2.0], [3.0, 4.0]]),
    ...     jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]])),
    ...     log_evidence=jnp.zeros(2),
    ... )
    >>> whole = bi.Population(islands, jnp.log(jnp.array([0.8, 0.2])), jnp.zeros(()))
    >>> joined, _ = bi.join_islands(bi.island_model(walk, 2), walk).run(None, whole)
    >>> joined.particles.tolist(), jnp.exp(joined.log_weights).round(3).tolist()
    ([1.0, 2.0, 3.0, 4.0], [0.4, 0.4, 0.05, 0.15])
    """
    return JoinIslands(islands.measure.at("T"), model.measure.at("T"))


def island_filter(
    model: FeynmanKac,
    num_islands: int,
    num_particles: int,
    *,
    scheme: str | Block = "systematic",
    ess_below: float | None = 0.5,
    islands_below: float | None = 0.5,
    track_lineage: bool = False,
) -> Block:
    """Return the island particle filter: populations that are resampled as wholes.

    Within an island particles are resampled often; islands, which may live on different
    machines, exchange whole populations only where their own weights have become uneven.

    Parameters
    ----------
    model : FeynmanKac
    num_islands, num_particles : int
        Of islands, and of particles on each.
    scheme : str, or block that resamples
        Resampling scheme of both levels.
    ess_below, islands_below : float in (0, 1], or None
        Resample within an island, or islands, where the effective sample size is below this
        fraction; None: at every step.
    track_lineage : bool
        Keep which island descends from which, for the standard error of the evidence: the
        groups that are independent are islands, so it takes a number of them to be known well.

    Returns
    -------
    Block
        For :func:`run`; particles of all islands in one population.

    Notes
    -----
    O(num_steps num_islands num_particles). The evidence is unbiased (law L2).

    References
    ----------
    Vergé, Dubarry, Del Moral & Moulines (2015).

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
    >>> print(bi.island_filter(walk, 4, 25).explain())  # doctest: +ELLIPSIS
    spawn 4 independent draws                                  stands for M0
    weigh by G0                                                stands for γ on islands[0]
    scan over 4 steps:
        resample(systematic, ess<0.5)                              stands for γ on islands[t-1]
        extend by M_t, G_t                                         stands for γ on islands[t]
    join islands                                               stands for γ[T]
    => L2 properly weighted for γ[T]: ...
    """
    islands = island_model(model, num_particles, scheme=scheme, ess_below=ess_below)
    options: Any = {"ess_below": islands_below, "track_lineage": track_lineage}
    filtered = particle_filter(islands, num_islands, scheme=scheme, **options)
    return filtered >> join_islands(islands, model)
