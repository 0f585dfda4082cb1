"""The compiled programs of a tracer: filters over many learners, and forecasts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.accel import kalman_smoother
from bayeskit.accel.compilation import quick_jit
from bayeskit.models.knowledge_tracing.block_filter import filtered, initial_belief, steps_of
from bayeskit.models.knowledge_tracing.joint_filter import (
    JointBelief,
    SinceLast,
    chain_of,
    joint_filtered,
    joint_initial,
    joint_steps,
    sites_of,
)
from bayeskit.models.knowledge_tracing.structure import Structure
from bayeskit.models.knowledge_tracing.trials import Trials

__all__ = ["filter_program", "first_belief", "state_moments"]


@quick_jit(static_argnames="structure")
def first_belief(parameters: dict, *, structure: Structure) -> Any:
    """Return what is believed of a learner of whom nothing is known."""
    initial = joint_initial if structure.graph else initial_belief
    return initial(parameters, structure)


@quick_jit(static_argnames="structure")
def filter_program(parameters: dict, beliefs: Any, trials: Trials, *, structure: Structure):
    """Return beliefs after the rows of many learners, and the forecast of each row."""

    def one(belief, trials):
        if structure.graph:
            return joint_filtered(belief, trials, parameters, structure)[:2]
        return filtered(belief, trials, steps_of(parameters, trials, structure))[:2]

    return jax.vmap(one)(beliefs, trials)


@quick_jit(static_argnames=("structure", "smooth"))
def state_moments(
    parameters: dict,
    trials: Trials,
    since: SinceLast,
    loadings: Any,
    *,
    structure: Structure,
    smooth: bool,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return means and variances of linear functions of the state at each row of one learner.

    Parameters
    ----------
    loadings : (num, dim) array
    smooth : bool
        Given all rows, and not only those up to each.

    Returns
    -------
    mean, variance : (rows, num) arrays
    ability_mean, ability_covariance : (rows, parts) and (rows, parts, parts) arrays
    """
    initial = joint_initial(parameters, structure)
    _, forecasts, beliefs = joint_filtered(initial, trials, parameters, structure, since=since)
    if smooth:
        steps = jax.vmap(lambda t, s: joint_steps(parameters, t, s, structure))(trials, since)
        # Padding, and rows that were only studied, tell nothing.
        sites = sites_of(forecasts, steps)
        smoothed = kalman_smoother(chain_of(initial, steps), sites, method="sequential")
        beliefs = JointBelief(smoothed.mean, smoothed.covariance)
    parts = len(structure.ability)
    variance = jnp.einsum("kd,nde,ke->nk", loadings, beliefs.covariance, loadings)
    return (
        beliefs.mean @ loadings.T,
        jnp.maximum(variance, 0.0),
        beliefs.mean[:, :parts],
        beliefs.covariance[:, :parts, :parts],
    )
