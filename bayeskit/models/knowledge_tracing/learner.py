r"""One learner with traits of its own: how fast it forgets, how volatile, how it transfers.

.. math::
    T_c \to T_c e^{-\rho}, \qquad s_c \to s_c e^{\nu}, \qquad
    \text{logit}\,\gamma \to \text{logit}\,\gamma + \tau, \qquad
    (\rho, \nu, \tau) \sim N(0, d^2 I),

about the numbers of the population. Given its traits a learner is a linear Gaussian chain with
logistic answers.
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
    "answer_sites",
    "chain_of_learner",
    "drawn_learner",
    "steps_of_learner",
    "trait_names",
    "with_traits",
]


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
    """

    trials: Trials
    since: SinceLast
    parameters: dict
    trait_sd: Any


def trait_names(structure: Structure) -> tuple[str, ...]:
    """Return what the traits of a learner are called."""
    return ("forgetting", "volatility", *(("transfer",) if structure.graph else ()))


def with_traits(parameters: dict, traits: Any) -> dict:
    """Return the parameters of one learner."""
    found = dict(parameters)
    found["time_scale"] = parameters["time_scale"] * jnp.exp(-traits[0])
    found["sd"] = parameters["sd"] * jnp.exp(traits[1])
    if traits.shape[0] > 2:
        gamma = parameters.get("transfer", 0.5)
        logit = jnp.log(gamma) - jnp.log1p(-gamma)
        found["transfer"] = jax.nn.sigmoid(logit + traits[2])
    return found


def steps_of_learner(
    traits: Any, data: LearnerData, structure: Structure
) -> tuple[JointBelief, JointStep]:
    """Return the first belief, and the step of each row."""
    own = with_traits(data.parameters, traits)
    step = lambda trial, since: joint_steps(own, trial, since, structure)
    return joint_initial(own, structure), jax.vmap(step)(data.trials, data.since)


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
    """Traits, states at the rows (rows, dim), and outcomes (rows,)."""

    traits: Any
    states: Any
    outcome: Any


def drawn_learner(key: Any, data: LearnerData, structure: Structure) -> DrawnLearner:
    """Draw traits, states and answers; ``data.trials.outcome`` tells which rows are studied."""
    trait_key, first_key, row_key = random.split(key, 3)
    count = len(trait_names(structure))
    dtype = data.trials.gap.dtype
    traits = data.trait_sd * random.normal(trait_key, (count,), dtype)
    own = with_traits(data.parameters, traits)
    initial = joint_initial(own, structure)
    dim = initial.mean.shape[0]
    jitter = 1e-12 * jnp.eye(dim, dtype=dtype)
    draw = lambda k, P: jnp.linalg.cholesky(P + jitter) @ random.normal(k, (dim,), dtype)

    def one(row_key, state, inputs):
        trial, since = inputs
        move_key, answer_key, jump_key = random.split(row_key, 3)
        step = joint_steps(own, trial, since, structure)
        state = step.transition @ state + draw(move_key, step.noise)
        logit = step.offset + step.loading @ state
        right = random.accept(answer_key, jax.nn.log_sigmoid(logit)).astype(jnp.int32)
        outcome = jnp.where(trial.outcome == STUDY, STUDY, right).astype(jnp.int32)
        step = joint_steps(own, trial._replace(outcome=outcome), since, structure)
        noise = jnp.sqrt(step.jump_variance) * random.normal(jump_key, (dim,), dtype)
        return step.jump @ state + step.gain + noise, (state, outcome)

    start = initial.mean + draw(first_key, initial.covariance)
    _, (states, outcome) = random.scan(one, row_key, start, (data.trials, data.since))
    return DrawnLearner(traits, states, outcome)
