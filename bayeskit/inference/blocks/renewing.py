"""Keep particles of earlier stages in the population, beside the new ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.errors import LawMismatch
from bayeskit.inference.blocks.base import Block
from bayeskit.inference.blocks.weighting import weighed
from bayeskit.inference.law import CONSISTENT, Law
from bayeskit.inference.measure import TemperedPath, TemperingStage
from bayeskit.inference.population import Population

__all__ = ["LadderSoFar", "Persist", "Renew", "Reserve", "persist", "renew", "reserve"]


class LadderSoFar(NamedTuple):
    """Inverse temperatures of the stages so far and their log evidences, (num_stages,) each."""

    inverse_temperature: jax.Array
    log_evidence: jax.Array


@dataclass(frozen=True, eq=False, repr=False)
class Reserve(Block):
    """Make room for the particles of later stages. See :func:`reserve`."""

    num_stages: int

    @property
    def name(self):
        return f"reserve({self.num_stages} stages)"

    def run(self, key, population=None):
        copies = self.num_stages + 1
        log_weights = jnp.full(
            copies * population.num_particles, -jnp.inf, population.log_weights.dtype
        )
        lineage = population.lineage
        if lineage is not None:
            lineage = lineage._replace(label=jnp.tile(lineage.label, copies))
        zeros = jnp.zeros(copies, log_weights.dtype)
        return population._replace(
            particles=jax.tree.map(
                lambda x: jnp.tile(x, (copies, *[1] * (x.ndim - 1))), population.particles
            ),
            log_weights=log_weights.at[: population.num_particles].set(population.log_weights),
            lineage=lineage,
            history=LadderSoFar(zeros, zeros),
        ), {}

    def arrow(self, law):
        return law.then(law.measure, self.name)


def reserve(num_stages: int) -> Block:
    """Make room for as many particles at each of ``num_stages`` later stages (keeps the law).

    The new places have weight zero. :func:`renew` and :func:`persist` fill them.

    Parameters
    ----------
    num_stages : int

    Returns
    -------
    Block

    Raises
    ------
    ValueError
        If there is not at least one stage.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> equal = jnp.log(jnp.array([0.5, 0.5]))
    >>> population = bi.Population(jnp.array([7.0, 8.0]), equal, log_evidence=jnp.zeros(()))
    >>> population, _ = bi.reserve(2).run(None, population)
    >>> jnp.exp(population.log_weights).tolist()
    [0.5, 0.5, 0.0, 0.0, 0.0, 0.0]
    """
    if num_stages < 1:
        raise ValueError(f"num_stages must be at least 1, got {num_stages!r}")
    return Reserve(int(num_stages))


def _written(all_: Any, new: Any, first: jax.Array) -> Any:
    """Return leaves with ``new`` written in from place ``first`` on."""
    return jax.tree.map(
        lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b.astype(a.dtype), first, 0),
        all_,
        new,
    )


def _with_new(population: Population, new: Population) -> tuple[Population, jax.Array]:
    """Return the population with new particles at the places of its stage, and the first."""
    first = population.stage.number * new.num_particles
    lineage = population.lineage
    if lineage is not None and new.lineage is not None:
        label = _written(lineage.label, new.lineage.label, first)
        lineage = lineage._replace(label=label, log_correction=new.lineage.log_correction)
    particles = _written(population.particles, new.particles, first)
    population = population._replace(particles=particles, lineage=lineage, stage=new.stage)
    return population, first


@dataclass(frozen=True, eq=False, repr=False)
class Renew(Block):
    """Run a block on a part of the population. See :func:`renew`."""

    body: Block
    which: Callable

    @property
    def name(self):
        return f"renew({self.body.name})"

    @property
    def parts(self):
        return (self.body,)

    def run(self, key, population=None):
        chosen = self.which(population.stage, population.particles)
        log_weights = jnp.where(chosen, population.log_weights, -jnp.inf)
        log_mass = jax.nn.logsumexp(log_weights)
        alive = jnp.isfinite(log_mass)
        part = jnp.where(alive, log_weights - jnp.where(alive, log_mass, 0.0), -jnp.inf)
        new, info = self.body.run(key, population._replace(log_weights=part))
        left = jnp.where(chosen, -jnp.inf, population.log_weights)
        population, first = _with_new(population, new)
        # The mass of the part passes to those that take its place: the scale stays.
        log_weights = _written(left, new.log_weights + log_mass, first)
        return population._replace(log_weights=log_weights), info

    def arrow(self, law):
        return _kept_by(self.body, law).then(law.measure, "renew: the rest stays as it is")


def renew(body: Block, which: Callable) -> Block:
    """Replace a part of the population by what a block makes of it; the rest stays.

    Parameters
    ----------
    body : Block
        Begins with ``resample(num=...)`` and keeps the measure.
    which : callable (stage, particles) -> (num_particles,) bool array
        The part.

    Returns
    -------
    Block

    Notes
    -----
    The law carries over where ``body`` keeps the restriction of the measure to the part, as
    moves along a path of levels do.

    Examples
    --------
    The particle above 3 makes room for two copies, which share its weight; the other stays:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> population = bi.Population(
    ...     jnp.array([1.0, 5.0]),
    ...     jnp.log(jnp.array([0.5, 0.5])),
    ...     log_evidence=jnp.zeros(()),
    ...     stage=bi.TemperingStage(number=1, previous=0.0, current=3.0),
    ... )
    >>> population, _ = bi.reserve(1).run(None, population)
    >>> block = bi.renew(bi.resample(num=2), lambda stage, x: x > stage.current)
    >>> population, _ = block.compiled(jax.random.key(0), population)
    >>> population.particles.tolist(), jnp.exp(population.log_weights).round(4).tolist()
    ([1.0, 5.0, 5.0, 5.0], [0.5, 0.0, 0.25, 0.25])
    """
    return Renew(body, which)


def _kept_by(body: Block, law: Law) -> Law:
    inner = body.arrow(law)
    if inner.measure != law.measure:
        raise LawMismatch(
            f"the block {body.name} takes {law.measure} to {inner.measure}: here it must keep "
            "the measure"
        )
    return inner


@dataclass(frozen=True, eq=False, repr=False)
class Persist(Block):
    """Add particles to those of all stages before. See :func:`persist`."""

    path: TemperedPath
    body: Block

    @property
    def name(self):
        return f"persist({self.body.name})"

    @property
    def parts(self):
        return (self.body,)

    def run(self, key, population=None):
        stage: TemperingStage = population.stage
        ladder = LadderSoFar(
            population.history.inverse_temperature.at[stage.number].set(stage.current),
            population.history.log_evidence.at[stage.number].set(population.log_evidence),
        )
        new, info = self.body.run(key, population)
        population, first = _with_new(population, new)
        filled = jnp.arange(population.num_particles) < first + new.num_particles
        log_weights = jnp.where(filled, -jnp.log(jnp.sum(filled)), -jnp.inf)
        zero = jnp.zeros_like(population.log_evidence)
        population = population._replace(
            log_weights=log_weights.astype(population.log_weights.dtype),
            log_evidence=zero,
            log_evidence_remainder=zero,
            history=ladder,
        )
        log_likelihood = population.particles.components[:, 1]
        log_ratio = balanced_log_weights(log_likelihood, stage, ladder)
        population, _ = weighed(population, log_ratio)
        return population, info

    def arrow(self, law):
        inner = _kept_by(self.body, law)
        return inner.then(
            law.measure, "persist: weigh by the mixture of all stages", CONSISTENT
        )


def balanced_log_weights(
    log_likelihood: jax.Array, stage: TemperingStage, ladder: LadderSoFar
) -> jax.Array:
    r"""Return log of :math:`\gamma_t` over the mixture of the stages up to t.

    Parameters
    ----------
    log_likelihood : (num_particles,) array
    stage : TemperingStage
    ladder : LadderSoFar
    """
    done = jnp.arange(len(ladder.log_evidence)) <= stage.number
    powers = ladder.inverse_temperature[:, None] * log_likelihood
    powers = jnp.where(ladder.inverse_temperature[:, None] == 0, 0.0, powers)
    terms = jnp.where(done[:, None], powers - ladder.log_evidence[:, None], -jnp.inf)
    log_mixture = jax.nn.logsumexp(terms, axis=0) - jnp.log(jnp.sum(done))
    return stage.current * log_likelihood - log_mixture


def persist(path: TemperedPath, body: Block) -> Block:
    r"""Add what a block makes of the population to it, and weigh all anew (law L10).

    With particles of stages s = 0 .. t, whose targets are :math:`\gamma_s / Z_s`, each gets the
    weight

    .. math:: \gamma_t(x) \Big/ \frac{1}{t+1} \sum_{s \le t} \gamma_s(x) / \hat Z_s ,

    as if it were drawn from the mixture of all stages.

    Parameters
    ----------
    path : TemperedPath
    body : Block
        Begins with ``resample(num=...)`` and keeps the measure.

    Returns
    -------
    Block

    References
    ----------
    Veach & Guibas (1995), the balance heuristic; Karamanis & Seljak (2024).

    Examples
    --------
    >>> from bayeskit import Target
    >>> from bayeskit import inference as bi
    >>> path = bi.TemperedPath(
    ...     Target(
    ...         log_prior=lambda x: -0.5 * x[0] ** 2,
    ...         log_likelihood=lambda x: -2.0 * (x[0] - 1) ** 2,
    ...         sample_prior=lambda key: bi.random.normal(key, (1,)),
    ...     )
    ... )
    >>> step = bi.schedule(path, ladder=[0.0, 1.0]) >> bi.weigh(path.increment)
    >>> moves = bi.resample(num=100) >> bi.move(bi.RandomWalk(), path)
    >>> print((step >> bi.persist(path, moves)).explain())
    given a population that stands for π_λ[t-1]:
    schedule(ladder)                                           stands for π_λ[t-1]
    weigh by likelihood^Δλ                                     stands for π_λ[t]
    resample(systematic, num=100)                              stands for π_λ[t]
    move(random-walk Metropolis, 1 steps)                      stands for π_λ[t]
    persist: weigh by the mixture of all stages                stands for π_λ[t]
    => L10 consistent for π_λ[t]: ...
    """
    return Persist(path, body)
