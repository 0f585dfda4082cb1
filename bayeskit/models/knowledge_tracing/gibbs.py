r"""Exact sampling of one learner: Pólya-Gamma numbers, and states filtered and drawn backward.

A sweep draws

1. traits given the Pólya-Gamma numbers, with the states integrated out, by an elliptical slice
   through the normal numbers that they are made of and the evidence of a Kalman filter;
2. states given both, exactly (forward filtering, backward sampling);
3. :math:`\omega_n \mid s_n \sim PG(1, \eta_n)`.

Steps 1 and 2 are one move of (traits, states), so that no density is collapsed after it was
used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bayeskit.accel import kalman_filter, kalman_log_evidence, kalman_sample
from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.inference.kernels import EllipticalSlice, NormalPrior
from bayeskit.inference.measure import Target
from bayeskit.inference.polya_gamma import polya_gamma
from bayeskit.inference.transitions import Transition, gibbs, transition
from bayeskit.models.knowledge_tracing.joint_filter import JointBelief
from bayeskit.models.knowledge_tracing.learner import (
    LearnerData,
    answer_sites,
    chain_of_learner,
    drifted,
    num_normals,
    row_traits,
    trait_names,
)
from bayeskit.models.knowledge_tracing.structure import Structure

__all__ = ["GibbsDraws", "gibbs_draws", "learner_gibbs"]


def learner_gibbs(data: LearnerData, structure: Structure) -> Transition:
    """Return the sweep of one learner, on ``{"learner": (normals, states), "omega": ...}``.

    The normals are those of :func:`row_traits`.
    """
    # Only the name of what is left invariant: the density is never evaluated as a whole.
    posterior = Target(log_density=lambda state: jnp.zeros(()), name="posterior of a learner")
    num = num_normals(data, structure)
    kernel = EllipticalSlice(NormalPrior(np.zeros(num), scale=np.ones(num)))

    def chain_and_sites(normals, omega):
        traits = row_traits(normals, data, structure)
        chain, steps = chain_of_learner(traits, data, structure)
        return chain, answer_sites(omega, data, steps)

    def move_learner(state):
        omega = state["omega"]
        # Given the Pólya-Gamma numbers, with the states integrated out.
        collapsed = Target(
            log_prior=lambda normals: -0.5 * jnp.sum(normals**2),
            log_likelihood=lambda normals: kalman_log_evidence(
                *chain_and_sites(normals, omega), method="sequential"
            ),
        ).density()

        def step(key, learner):
            normals, states = learner
            trait_key, path_key = random.split(key)
            start = kernel.init(normals, collapsed)
            normals = kernel.step(trait_key, start, collapsed, None)[0].position
            noise = random.normal(path_key, states.shape, states.dtype)
            chain, sites = chain_and_sites(normals, omega)
            return normals, kalman_sample(chain, sites, noise, method="sequential")

        return transition(step, posterior, name="traits and states")

    def draw_omega(state):
        normals, states = state["learner"]
        _, steps = chain_of_learner(row_traits(normals, data, structure), data, structure)
        eta = steps.offset + jnp.sum(steps.loading * states, axis=-1)
        return lambda key: polya_gamma(key, eta)

    return gibbs(posterior, learner=move_learner, omega=draw_omega)


class GibbsDraws(NamedTuple):
    """Kept draws of one learner.

    Parameters
    ----------
    traits : (draws, traits) array
        At the last row.
    ahead : (draws, traits) array
        At a row that follows it.
    belief : JointBelief of (draws, ...)
        After the last row, given the traits and Pólya-Gamma numbers of each draw.
    """

    traits: Any
    ahead: Any
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
    normals = jnp.zeros(num_normals(data, structure), dtype)
    chain, _ = chain_of_learner(row_traits(normals, data, structure), data, structure)
    states = jnp.tile(chain.initial_mean, (rows, 1))
    state = {"learner": (normals, states), "omega": jnp.full(rows, 0.25, dtype)}

    def one(draw_key, state, _):
        step_key, ahead_key = random.split(draw_key)
        state, _ = sweep.step(step_key, state)
        normals, _ = state["learner"]
        traits = row_traits(normals, data, structure)
        chain, steps = chain_of_learner(traits, data, structure)
        sites = answer_sites(state["omega"], data, steps)
        found = kalman_filter(chain, sites, method="sequential")
        jump, gain = steps.jump[last], steps.gain[last]
        variance = jnp.diag(steps.jump_variance[last])
        after = JointBelief(
            jump @ found.mean[last] + gain, jump @ found.covariance[last] @ jump.T + variance
        )
        now = ahead = traits[last]
        if data.drift is not None:
            constant = data.trait_sd * normals[:count]
            normal = random.normal(ahead_key, (count,), dtype)
            ahead = constant + drifted(now - constant, normal, data.drift)
        return state, GibbsDraws(now, ahead, after)

    warm_key, draw_key = random.split(key)
    state = random.repeat(
        lambda k, s, _: sweep.step(k, s)[0], warm_key, state, jnp.asarray(num_warmup)
    )
    return random.scan(one, draw_key, state, jnp.arange(num_draws))[1]
