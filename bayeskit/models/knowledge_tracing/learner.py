r"""One learner with traits of its own: how fast it forgets, how volatile, how it transfers.

.. math::
    T_c \to T_c e^{-\rho}, \qquad s_c \to s_c e^{\nu}, \qquad
    \text{logit}\,\gamma \to \text{logit}\,\gamma + \tau, \qquad
    (\rho, \nu, \tau) \sim N(0, d^2 I),

about the numbers of the population. Traits may also vary slowly about these: with a drift they
are :math:`(\rho, \nu, \tau) + c_n` at row n, one step a row whatever the time between,

.. math:: c_n = \phi\,c_{n-1} + N(0, (1 - \phi^2)\,e^2), \qquad c_0 \sim N(0, e^2) .

Given its traits a learner is a linear Gaussian chain with logistic answers. All traits are
linear in independent standard normal numbers, which is how samplers see them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.accel import GaussianChain, GaussianSites
from bayeskit.inference import random
from bayeskit.models.knowledge_tracing.joint_filter import (
    JointBelief,
    JointStep,
    SinceLast,
    chain_of,
    joint_initial,
    joint_steps,
)
from bayeskit.models.knowledge_tracing.rows import STUDY
from bayeskit.models.knowledge_tracing.structure import Structure
from bayeskit.models.knowledge_tracing.trials import Trials

__all__ = [
    "LearnerData",
    "TraitDrift",
    "answer_sites",
    "chain_of_learner",
    "drawn_learner",
    "drifted",
    "num_normals",
    "row_traits",
    "steps_of_learner",
    "trait_names",
    "with_traits",
]


class TraitDrift(NamedTuple):
    """How traits vary from row to row.

    Parameters
    ----------
    sd, stay : () arrays
        e and φ.
    """

    sd: Any
    stay: Any


class LearnerData(NamedTuple):
    """The rows of one learner and the parameters of the population.

    Parameters
    ----------
    trials : Trials
        With a leading axis of rows.
    since : SinceLast
    parameters : dict
    trait_sd : () array
        d.
    drift : TraitDrift, optional
        None: traits stay as they are.
    """

    trials: Trials
    since: SinceLast
    parameters: dict
    trait_sd: Any
    drift: TraitDrift | None = None


def trait_names(structure: Structure) -> tuple[str, ...]:
    """Return what the traits of a learner are called.

    A graph that was learned is that of the population: it holds the transfer already.
    """
    transfers = structure.graph and not structure.learns_graph
    return ("forgetting", "volatility", *(("transfer",) if transfers else ()))


def with_traits(parameters: dict, traits: Any) -> dict:
    """Return the parameters of one learner."""
    found = dict(parameters)
    found["time_scale"] = parameters["time_scale"] * jnp.exp(-traits[0])
    found["sd"] = parameters["sd"] * jnp.exp(traits[1])
    if traits.shape[0] > 2:
        gamma = parameters["transfer"]
        logit = jnp.log(gamma) - jnp.log1p(-gamma)
        found["transfer"] = jax.nn.sigmoid(logit + traits[2])
    return found


def num_normals(data: LearnerData, structure: Structure) -> int:
    """Return how many standard normal numbers the traits of a learner are made of."""
    rows = 0 if data.drift is None else data.trials.real.shape[0]
    return len(trait_names(structure)) * (1 + rows)


def drifted(before: Any, normal: Any, drift: TraitDrift) -> jax.Array:
    """Return what is added to the traits at the next row, from what was at this one."""
    return drift.stay * before + drift.sd * jnp.sqrt(1.0 - drift.stay**2) * normal


def row_traits(normals: Any, data: LearnerData, structure: Structure) -> jax.Array:
    """Return the traits at each row, (rows, traits), from standard normal numbers."""
    rows, count = data.trials.real.shape[0], len(trait_names(structure))
    constant = data.trait_sd * normals[:count]
    drift = data.drift
    if drift is None:
        return jnp.broadcast_to(constant, (rows, count))
    steps = normals[count:].reshape(rows, count)

    def onward(before, normal):
        now = drifted(before, normal, drift)
        return now, now

    first = drift.sd * steps[0]
    _, later = jax.lax.scan(onward, first, steps[1:])
    return constant + jnp.concatenate([first[None], later])


def steps_of_learner(
    traits: Any, data: LearnerData, structure: Structure
) -> tuple[JointBelief, JointStep]:
    """Return the first belief, and the step of each row, given the traits at each row."""

    def step(own, trial, since):
        return joint_steps(with_traits(data.parameters, own), trial, since, structure)

    first = joint_initial(with_traits(data.parameters, traits[0]), structure)
    return first, jax.vmap(step)(traits, data.trials, data.since)


def chain_of_learner(
    traits: Any, data: LearnerData, structure: Structure
) -> tuple[GaussianChain, JointStep]:
    """Return the chain of the states at the rows, and the steps that it is made of."""
    initial, steps = steps_of_learner(traits, data, structure)
    return chain_of(initial, steps), steps


def answer_sites(omega: Any, data: LearnerData, steps: JointStep) -> GaussianSites:
    """Return the answers as Gaussian factors, given their Pólya-Gamma numbers (rows,)."""
    answered = (data.trials.outcome != STUDY).astype(omega.dtype)
    precision = answered * omega
    # Of η = offset + h's: exp(κ η - ω η²/2) up to what does not depend on the state.
    kappa = answered * (data.trials.outcome - 0.5)
    shift = kappa - precision * steps.offset
    return GaussianSites(shift[:, None], precision[:, None, None], steps.loading[:, None, :])


class DrawnLearner(NamedTuple):
    """Normal numbers of the traits, states at the rows (rows, dim) and outcomes (rows,).

    ``after`` is the state after the exposure of each row.
    """

    normals: Any
    states: Any
    outcome: Any
    after: Any


def drawn_learner(key: Any, data: LearnerData, structure: Structure) -> DrawnLearner:
    """Draw traits, states and answers; ``data.trials.outcome`` tells which rows are studied."""
    trait_key, first_key, row_key = random.split(key, 3)
    dtype = data.trials.gap.dtype
    normals = random.normal(trait_key, (num_normals(data, structure),), dtype)
    traits = row_traits(normals, data, structure)
    initial = joint_initial(with_traits(data.parameters, traits[0]), structure)
    dim = initial.mean.shape[0]
    jitter = 1e-12 * jnp.eye(dim, dtype=dtype)
    draw = lambda k, P: jnp.linalg.cholesky(P + jitter) @ random.normal(k, (dim,), dtype)

    def one(row_key, state, inputs):
        own, trial, since = inputs
        own = with_traits(data.parameters, own)
        move_key, answer_key, jump_key = random.split(row_key, 3)
        step = joint_steps(own, trial, since, structure)
        state = step.transition @ state + draw(move_key, step.noise)
        logit = step.offset + step.loading @ state
        right = random.accept(answer_key, jax.nn.log_sigmoid(logit)).astype(jnp.int32)
        outcome = jnp.where(trial.outcome == STUDY, STUDY, right).astype(jnp.int32)
        step = joint_steps(own, trial._replace(outcome=outcome), since, structure)
        noise = jnp.sqrt(step.jump_variance) * random.normal(jump_key, (dim,), dtype)
        after = step.jump @ state + step.gain + noise
        return after, (state, outcome, after)

    start = initial.mean + draw(first_key, initial.covariance)
    inputs = traits, data.trials, data.since
    _, (states, outcome, after) = random.scan(one, row_key, start, inputs)
    return DrawnLearner(normals, states, outcome, after)
