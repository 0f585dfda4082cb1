r"""Exact sampling of one learner: Pólya-Gamma numbers, and states filtered and drawn backward.

A sweep draws

1. traits given the Pólya-Gamma numbers, with the states integrated out, by Metropolis steps on
   the evidence of a Kalman filter;
2. states given both, exactly (forward filtering, backward sampling);
3. :math:`\omega_n \mid s_n \sim PG(1, \eta_n)`.

Steps 1 and 2 are one move of (traits, states), so that no density is collapsed after it was
used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from bayeskit.accel import kalman_filter, kalman_log_evidence, kalman_sample
from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.inference.measure import Target
from bayeskit.inference.polya_gamma import polya_gamma
from bayeskit.inference.transitions import Transition, gibbs, transition
from bayeskit.models.knowledge_tracing.joint_filter import JointBelief
from bayeskit.models.knowledge_tracing.learner import (
    LearnerData,
    answer_sites,
    chain_of_learner,
    trait_names,
)
from bayeskit.models.knowledge_tracing.structure import Structure

__all__ = ["GibbsDraws", "gibbs_draws", "learner_gibbs"]

# Metropolis steps of the traits a sweep; each costs a filter.
_NUM_TRAIT_STEPS = 2


def learner_gibbs(data: LearnerData, structure: Structure) -> Transition:
    """Return the sweep of one learner, on ``{"learner": (traits, states), "omega": ...}``."""
    # Only the name of what is left invariant: the density is never evaluated as a whole.
    posterior = Target(log_density=lambda state: jnp.zeros(()), name="posterior of a learner")

    def collapsed(traits, omega):
        chain, steps = chain_of_learner(traits, data, structure)
        sites = answer_sites(omega, data, steps)
        prior = -0.5 * jnp.sum((traits / data.trait_sd) ** 2)
        return prior + kalman_log_evidence(chain, sites, method="sequential")

    def move_learner(state):
        omega = state["omega"]

        def step(key, learner):
            traits, states = learner
            trait_key, path_key = random.split(key)

            def metropolis(step_key, now):
                traits, value = now
                draw_key, accept_key = random.split(step_key)
                # The scale of the prior, less: a learner's rows say little of its traits.
                noise = random.normal(draw_key, traits.shape, traits.dtype)
                new = traits + 0.8 * data.trait_sd * noise
                new_value = collapsed(new, omega)
                taken = random.accept(accept_key, new_value - value)
                pick = lambda a, b: jnp.where(taken, a, b)
                return pick(new, traits), pick(new_value, value)

            def again(step_key, now, _):
                return metropolis(step_key, now)

            start = traits, collapsed(traits, omega)
            traits, _ = random.repeat(again, trait_key, start, _NUM_TRAIT_STEPS)
            chain, steps = chain_of_learner(traits, data, structure)
            sites = answer_sites(omega, data, steps)
            normals = random.normal(path_key, states.shape, states.dtype)
            return traits, kalman_sample(chain, sites, normals, method="sequential")

        return transition(step, posterior, name="traits and states")

    def draw_omega(state):
        traits, states = state["learner"]
        _, steps = chain_of_learner(traits, data, structure)
        eta = steps.offset + jnp.sum(steps.loading * states, axis=-1)
        return lambda key: polya_gamma(key, eta)

    return gibbs(posterior, learner=move_learner, omega=draw_omega)


class GibbsDraws(NamedTuple):
    """Kept draws of one learner.

    Parameters
    ----------
    traits : (draws, traits) array
    ability : (draws, parts) array
        At the last row.
    belief : JointBelief of (draws, ...)
        After the last row, given the traits and Pólya-Gamma numbers of each draw.
    """

    traits: Any
    ability: Any
    belief: JointBelief


@quick_jit(static_argnames=("structure", "num_warmup", "num_draws"))
def gibbs_draws(
    key: Any,
    data: LearnerData,
    last: Any,
    *,
    structure: Structure,
    num_warmup: int,
    num_draws: int,
) -> GibbsDraws:
    """Run one chain for one learner, from the prior.

    Parameters
    ----------
    data : LearnerData
        May be padded by rows in which nothing happens.
    last : () int array
        Number of the last row that is none of these.
    """
    sweep = learner_gibbs(data, structure)
    rows, count = data.trials.real.shape[0], len(trait_names(structure))
    dtype = data.trials.gap.dtype
    traits = jnp.zeros(count, dtype)
    chain, _ = chain_of_learner(traits, data, structure)
    states = jnp.tile(chain.initial_mean, (rows, 1))
    state = {"learner": (traits, states), "omega": jnp.full(rows, 0.25, dtype)}

    def one(step_key, state, _):
        state, _ = sweep.step(step_key, state)
        traits, states = state["learner"]
        chain, steps = chain_of_learner(traits, data, structure)
        sites = answer_sites(state["omega"], data, steps)
        found = kalman_filter(chain, sites, method="sequential")
        jump, gain = steps.jump[last], steps.gain[last]
        variance = jnp.diag(steps.jump_variance[last])
        after = JointBelief(
            jump @ found.mean[last] + gain, jump @ found.covariance[last] @ jump.T + variance
        )
        return state, GibbsDraws(traits, states[last, : len(structure.ability)], after)

    warm_key, draw_key = random.split(key)
    state = random.repeat(
        lambda k, s, _: sweep.step(k, s)[0], warm_key, state, jnp.asarray(num_warmup)
    )
    return random.scan(one, draw_key, state, jnp.arange(num_draws))[1]
