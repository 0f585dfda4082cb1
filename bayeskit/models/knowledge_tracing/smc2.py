r"""SMC² of one learner, online: particles of traits, each with a Rao-Blackwellised filter.

A particle of the inner filter is a Gaussian, the law of the states given the Pólya-Gamma
numbers drawn so far. A row with forecast :math:`\eta \sim N(m, v)` draws ω from

.. math:: q = (1 - \epsilon)\,PG(1, c) + \epsilon\,PG(1, 0), \qquad c^2 = m^2 + v,

and is weighed by

.. math::
    \tfrac12 \frac{PG(\omega; 1, 0)}{q(\omega)} \int e^{\kappa \eta - \omega \eta^2 / 2}
        N(\eta; m, v)\,d\eta, \qquad \kappa = y - \tfrac12 ,

whose mean over ω is P(y): the filter is unbiased, and needs few particles, since ω says little.
Without the second part of q the weights would have no variance where :math:`c > \pi`, that is
for answers that are nearly certain; with it they are bounded.
Where traits drift, what is added to them at a row is drawn with each particle as well.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.inference.algorithms import smc2
from bayeskit.inference.blocks import Block, fitted_random_walk
from bayeskit.inference.feynman_kac import FeynmanKac
from bayeskit.inference.measure import Target
from bayeskit.inference.polya_gamma import polya_gamma
from bayeskit.inference.population import Population, total_log_evidence
from bayeskit.models.knowledge_tracing.joint_filter import (
    JointBelief,
    JointStep,
    joint_initial,
    joint_steps,
)
from bayeskit.models.knowledge_tracing.learner import (
    LearnerData,
    drifted,
    trait_names,
    with_traits,
)
from bayeskit.models.knowledge_tracing.rows import STUDY
from bayeskit.models.knowledge_tracing.structure import Structure

__all__ = ["Online", "learner_model", "learner_smc2", "smc2_advance", "smc2_start"]

# Share of Pólya-Gamma numbers that are drawn from their prior; see above.
_WIDE = 0.1


class GaussianParticle(NamedTuple):
    """The law of the states after a row, what drift added to the traits, and the weight."""

    belief: JointBelief
    added: Any
    log_weight: Any


class Online(NamedTuple):
    """What SMC² knows of a learner after some rows.

    Parameters
    ----------
    population : Population of MarginalState
    log_evidence : () array
    """

    population: Population
    log_evidence: Any


def _absorbed(
    key: Any, before: JointBelief, step: JointStep, outcome: Any
) -> tuple[JointBelief, jax.Array]:
    """Take in one row: move, draw the Pólya-Gamma number, condition, expose; and weigh."""
    mean = step.transition @ before.mean
    P = step.transition @ before.covariance @ step.transition.T + step.noise
    h = step.loading
    Ph = P @ h
    m, v = step.offset + h @ mean, h @ Ph
    c = jnp.sqrt(m**2 + v)
    wide_key, omega_key = random.split(key)
    is_wide = random.accept(wide_key, jnp.log(jnp.asarray(_WIDE, c.dtype)))
    omega = polya_gamma(omega_key, jnp.where(is_wide, 0.0, c))
    answered = (outcome != STUDY).astype(m.dtype)
    kappa = outcome - 0.5
    # N(m, v) times exp(κ η - ω η²/2): a normal of variance v/(1 + ω v), and a constant.
    total = 1.0 + omega * v
    log_integral = (m * kappa + 0.5 * kappa**2 * v - 0.5 * omega * m**2) / total
    log_integral -= 0.5 * jnp.log(total)
    # PG(1, c) over PG(1, 0) is cosh(c/2) exp(-c² ω/2).
    log_cosh = jnp.logaddexp(0.5 * c, -0.5 * c) - jnp.log(2.0)
    narrow = jnp.log1p(-_WIDE) + log_cosh - 0.5 * c**2 * omega
    log_ratio = -jnp.log(2.0) - jnp.logaddexp(narrow, jnp.log(_WIDE))
    shift = answered * (kappa - omega * m) / total
    mean = mean + Ph * shift
    P = P - jnp.outer(Ph, Ph) * (answered * omega / total)
    after = JointBelief(
        step.jump @ mean + step.gain,
        step.jump @ P @ step.jump.T + jnp.diag(step.jump_variance),
    )
    return after, answered * (log_integral + log_ratio)


def learner_model(traits: Any, data: LearnerData, structure: Structure) -> FeynmanKac:
    """Return the Rao-Blackwellised filter of a learner with given constant traits."""
    drift, count = data.drift, len(trait_names(structure))

    def draw_added(key, before):
        if drift is None:
            return before
        return drifted(before, random.normal(key, (count,), before.dtype), drift)

    def row(key, t, before, added):
        trial, since = jax.tree.map(lambda x: x[t], (data.trials, data.since))
        own = with_traits(data.parameters, traits + added)
        step = joint_steps(own, trial, since, structure)
        after, log_weight = _absorbed(key, before, step, trial.outcome)
        return GaussianParticle(after, added, log_weight)

    def initial(key):
        drift_key, omega_key = random.split(key)
        added = jnp.zeros(count, data.trials.gap.dtype)
        if drift is not None:
            added = drift.sd * random.normal(drift_key, (count,), added.dtype)
        first = joint_initial(with_traits(data.parameters, traits + added), structure)
        return row(omega_key, 0, first, added)

    def onward(key, t, before):
        drift_key, omega_key = random.split(key)
        return row(omega_key, t, before.belief, draw_added(drift_key, before.added))

    return FeynmanKac(
        initial=initial,
        log_g0=lambda particle: particle.log_weight,
        kernel=onward,
        log_g=lambda t, before, particle: particle.log_weight,
        num_steps=data.trials.real.shape[0],
    )


def learner_smc2(
    data: LearnerData,
    structure: Structure,
    num_traits: int,
    num_particles: int,
    *,
    num_moves: int = 2,
    proposal: Any = None,
    move_always: bool = False,
) -> Block:
    """Return SMC² over the traits of one learner, as blocks.

    Parameters
    ----------
    data : LearnerData
    structure : Structure
    num_traits, num_particles : int
        Particles of traits, and Gaussians for each.
    num_moves : int
        Steps of each move.
    proposal : Proposal, optional
        Of the moves. Default: a random walk fitted to the particles.
    move_always : bool
        Move at every row: with a proposal that is not fitted the evidence is then unbiased.
    """
    count = len(trait_names(structure))
    dtype = data.trials.gap.dtype
    prior = Target(
        log_density=lambda traits: -0.5 * jnp.sum((traits / data.trait_sd) ** 2),
        sample_prior=lambda key: data.trait_sd * random.normal(key, (count,), dtype),
        name="traits",
    )
    return smc2(
        prior,
        lambda traits: learner_model(traits, data, structure),
        num_traits,
        num_particles,
        fitted_random_walk() if proposal is None else proposal,
        num_moves=num_moves,
        move_always=move_always,
    )


def _parts(
    data: LearnerData, structure: Structure, num_traits: int, num_particles: int
) -> tuple:
    """Return how traits are drawn, how they are weighed, and what each row does."""
    block: Any = learner_smc2(data, structure, num_traits, num_particles)
    first, over_rows = block.parts
    return *first.parts, over_rows.body


_STATIC = ("structure", "num_traits", "num_particles")


@quick_jit(static_argnames=_STATIC)
def smc2_start(
    key: Any, data: LearnerData, *, structure: Structure, num_traits: int, num_particles: int
) -> Online:
    """Return what is known of a learner after its first row."""
    spawn, weigh, _ = _parts(data, structure, num_traits, num_particles)
    spawn_key, weigh_key = random.split(key)
    population, _ = spawn.run(spawn_key)
    population = population._replace(stage=jnp.zeros((), jnp.int32))
    population, _ = weigh.run(weigh_key, population)
    return Online(population, total_log_evidence(population))


@quick_jit(static_argnames=_STATIC)
def smc2_advance(
    key: Any,
    online: Online,
    data: LearnerData,
    first: Any,
    end: Any,
    *,
    structure: Structure,
    num_traits: int,
    num_particles: int,
) -> Online:
    """Take in the rows ``first`` to ``end - 1`` of data that hold all rows so far.

    Where traits become uneven they are moved, which filters all rows so far once more; any
    other row costs the same whatever its number.
    """
    _, _, body = _parts(data, structure, num_traits, num_particles)

    def one(t, population):
        population = population._replace(stage=t.astype(jnp.int32))
        return body.run(random.fold_in(key, t), population)[0]

    population = jax.lax.fori_loop(first, end, one, online.population)
    return Online(population, total_log_evidence(population))
