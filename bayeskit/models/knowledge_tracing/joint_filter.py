r"""All states of a learner in one Gaussian, where components pull at one another.

The state is :math:`s = (a, x_1, \ldots, x_K)`. A row moves it over the gap, is answered, and is
an exposure:

.. math::
    s \leftarrow F s + N(0, Q), \qquad \eta = c + h's, \qquad s \leftarrow J s + g + N(0, R) .

Given its parameters this is a linear Gaussian chain with one answer a step: what smoothers and
samplers need, with or without a graph.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bayeskit.accel import GaussianChain, GaussianSites
from bayeskit.models.knowledge_tracing.block_filter import (
    Forecasts,
    ability_gaps,
    ability_variances,
    initial_moments,
    jumps,
    loadings,
    offsets,
    rates,
)
from bayeskit.models.knowledge_tracing.moment_matching import tilted_moments
from bayeskit.models.knowledge_tracing.ornstein_uhlenbeck import (
    Influence,
    exact_transition,
    frozen_parent_transition,
    powers_of,
    stationary_covariance,
)
from bayeskit.models.knowledge_tracing.rows import STUDY, Interactions
from bayeskit.models.knowledge_tracing.structure import Structure
from bayeskit.models.knowledge_tracing.trials import Trials

__all__ = [
    "JointBelief",
    "JointStep",
    "SinceLast",
    "chain_of",
    "joint_filtered",
    "joint_initial",
    "joint_steps",
    "kc_loadings",
    "since_last",
    "sites_of",
]

# Powers of a graph that is being learned: its influence is small, and powers of it smaller.
_LEARNED_POWERS = 8


class JointBelief(NamedTuple):
    """Mean (dim,) and covariance (dim, dim) of all states of a learner after the last row."""

    mean: Any
    covariance: Any


class SinceLast(NamedTuple):
    """What moves between two rows, for every component.

    Parameters
    ----------
    gap : (..., num_kc) array
    counts : (..., num_kc, 1 + num_versions) array
    """

    gap: Any
    counts: Any


class JointStep(NamedTuple):
    """The linear Gaussian step of a row; see the module for the symbols.

    Parameters
    ----------
    transition, noise : (..., dim, dim) arrays F, Q
    offset : (...) array c
    loading : (..., dim) array h
    jump, gain, jump_variance : (..., dim, dim), (..., dim) and (..., dim) arrays J, g, diag R
    """

    transition: Any
    noise: Any
    offset: Any
    loading: Any
    jump: Any
    gain: Any
    jump_variance: Any


def influence_in(parameters: dict) -> Influence:
    """Return the powers of the graph, of a given one or of one that is being learned."""
    if "influence" in parameters:
        return parameters["influence"]
    edge = parameters["edge"]
    return powers_of(edge * (1.0 - jnp.eye(len(edge), dtype=edge.dtype)), _LEARNED_POWERS)


def _places(structure: Structure, slot: int) -> np.ndarray:
    """Return where one state of every component stands."""
    parts = len(structure.ability)
    return parts + np.arange(structure.num_kc) * structure.block_dim + slot


def _dim(structure: Structure) -> int:
    return len(structure.ability) + structure.num_kc * structure.block_dim


def _transition(
    parameters: dict, since: SinceLast, row_gap: Any, structure: Structure
) -> tuple[jax.Array, jax.Array]:
    """Return F and Q of one gap, (dim, dim) each."""
    s = structure
    u = since.gap[:, None] * rates(parameters, since.counts, s)
    variance = parameters["sd"][s.slot_types] ** 2
    stay, noise = ability_gaps(parameters, row_gap, s)
    F = jnp.diag(jnp.concatenate([stay, jnp.exp(-u).ravel()]))
    Q = jnp.diag(jnp.concatenate([noise, (-variance * jnp.expm1(-2.0 * u)).ravel()]))
    if s.graph:
        move = frozen_parent_transition if s.frozen_parent else exact_transition
        influence, transfer = influence_in(parameters), parameters.get("transfer", 1.0)
        for scale in range(s.kc_scales):
            E, V = move(
                influence,
                transfer,
                row_gap / parameters["time_scale"][scale],
                parameters["sd"][scale] ** 2,
            )
            at = np.ix_(_places(s, scale), _places(s, scale))
            F, Q = F.at[at].set(E), Q.at[at].set(V)
    return F, Q


def _exposure(parameters: dict, trial: Trials, structure: Structure) -> tuple:
    """Return h, J, g and R of one row."""
    s = structure
    parts, K, B = len(s.ability), s.num_kc, s.block_dim
    own = loadings(trial.version, trial.weight, s)
    spread = lambda values: jnp.zeros((K + 1, B), values.dtype).at[trial.kc].add(values)[:K]
    h, (fade, pull, gain, variance) = (
        spread(own),
        map(spread, jumps(parameters, trial.outcome, own, s)),
    )
    zero = jnp.zeros(parts, h.dtype)
    within = jnp.einsum("kb,kc->kbc", pull, h)
    blocks = jnp.zeros((K, B, K, B), h.dtype)
    blocks = blocks.at[np.arange(K), :, np.arange(K), :].set(within).reshape(K * B, K * B)
    J = jnp.diag(jnp.concatenate([zero + 1.0, 1.0 - fade.ravel()]))
    J = J.at[parts:, parts:].add(blocks)
    with_zero = lambda values: jnp.concatenate([zero, values.ravel()])
    # Rows that exercise nothing are times at which the state is looked at.
    is_asked = jnp.sign(jnp.sum(trial.weight))
    return (
        jnp.concatenate([zero + is_asked, h.ravel()]),
        J,
        with_zero(gain),
        with_zero(variance),
    )


def joint_steps(
    parameters: dict, trial: Trials, since: SinceLast, structure: Structure
) -> JointStep:
    """Return the step of one row of one learner."""
    F, Q = _transition(parameters, since, trial.row_gap, structure)
    h, J, gain, variance = _exposure(parameters, trial, structure)
    return JointStep(F, Q, offsets(parameters, trial), h, J, gain, variance)


def joint_initial(parameters: dict, structure: Structure) -> JointBelief:
    """Return what is believed of a learner of whom nothing is known."""
    s = structure
    mean, variance = initial_moments(parameters, s)
    ability = ability_variances(parameters, s)
    diagonal = jnp.concatenate([ability, jnp.tile(variance, s.num_kc)])
    covariance = jnp.diag(diagonal)
    if s.graph and not s.frozen_parent and "initial_sd" not in parameters:
        influence, transfer = influence_in(parameters), parameters.get("transfer", 1.0)
        for scale in range(s.kc_scales):
            at = np.ix_(_places(s, scale), _places(s, scale))
            V = stationary_covariance(influence, transfer, parameters["sd"][scale] ** 2)
            covariance = covariance.at[at].set(V)
    start = jnp.concatenate([jnp.zeros_like(ability), jnp.tile(mean, s.num_kc)])
    return JointBelief(start, covariance)


def _together(trial: Trials, structure: Structure) -> SinceLast:
    """All components move over one gap, whatever the exposures so far."""
    gap = jnp.broadcast_to(trial.row_gap, (structure.num_kc,))
    counts = (structure.num_kc, 1 + structure.num_versions)
    return SinceLast(gap, jnp.zeros(counts, gap.dtype))


def joint_filtered(
    belief: JointBelief,
    trials: Trials,
    parameters: dict,
    structure: Structure,
    *,
    since: SinceLast | None = None,
) -> tuple[JointBelief, Forecasts, JointBelief]:
    """Run the filter by moment matching over the rows of one learner.

    Parameters
    ----------
    belief : JointBelief
    trials : Trials
        With a leading axis of rows.
    parameters : dict
    structure : Structure
    since : SinceLast, optional
        Default: the gap of the row for all components.

    Returns
    -------
    belief
        After the last row.
    forecasts
    beliefs
        Of each row, given its answer and before the exposure.
    """

    def one(belief, inputs):
        trial, moved = inputs
        moved = _together(trial, structure) if moved is None else moved
        step = joint_steps(parameters, trial, moved, structure)
        mean = step.transition @ belief.mean
        P = step.transition @ belief.covariance @ step.transition.T + step.noise
        h = step.loading
        Ph = P @ h
        m, v = step.offset + h @ mean, jnp.maximum(h @ Ph, 1e-12)
        answered = (trial.outcome != STUDY).astype(m.dtype)
        log_z, m_after, v_after = tilted_moments(trial.outcome.astype(m.dtype), m, v)
        mean = mean + answered * Ph * (m_after - m) / v
        P = P - answered * jnp.outer(Ph, Ph) * (v - v_after) / v**2
        forecast = Forecasts(
            answered * log_z,
            m,
            v,
            m + answered * (m_after - m),
            v + answered * (v_after - v),
        )
        here = JointBelief(mean, P)
        after = JointBelief(
            step.jump @ mean + step.gain,
            step.jump @ P @ step.jump.T + jnp.diag(step.jump_variance),
        )
        return after, (forecast, here)

    last, (forecasts, beliefs) = lax.scan(one, belief, (trials, since))
    return last, forecasts, beliefs


def joint_log_evidences(parameters: dict, trials: Trials, structure: Structure) -> jax.Array:
    """Return the log evidence of each learner, (learners,)."""
    belief = joint_initial(parameters, structure)

    def one(trials):
        _, forecasts, _ = joint_filtered(belief, trials, parameters, structure)
        return jnp.sum(forecasts.log_density)

    return jax.vmap(one)(trials)


# ---------------------------------------------------------------- one learner, as a chain


def since_last(rows: Interactions, structure: Structure) -> SinceLast:
    """Return gaps and counts of all components at each row of one learner, as NumPy arrays."""
    s = structure
    num = len(rows.time)
    gap, counts = np.zeros((num, s.num_kc)), np.zeros((num, s.num_kc, 1 + s.num_versions))
    moved_to = np.full(s.num_kc, rows.time[0])
    now = np.zeros((s.num_kc, 1 + s.num_versions))
    for n in range(num):
        # Nothing moves while an item is being answered, where components pull at one another.
        begin = np.maximum(moved_to, rows.time_end[n - 1]) if s.graph and n else moved_to
        gap[n], counts[n] = np.maximum(rows.time[n] - begin, 0.0), now
        moved_to = np.maximum(moved_to, rows.time[n])
        for k in rows.kc[n][rows.kc[n] >= 0]:
            moved_to[k] = rows.time_end[n]
            now[k, 0] += 1
            if rows.version[n] >= 0:
                now[k, 1 + rows.version[n]] += 1
    return SinceLast(gap, counts)


def kc_loadings(structure: Structure) -> np.ndarray:
    """Return h of a question about each component, of no version, (num_kc, dim)."""
    h = np.zeros((structure.num_kc, _dim(structure)))
    h[:, : len(structure.ability)] = 1.0
    for slot in range(structure.kc_scales):
        h[np.arange(structure.num_kc), _places(structure, slot)] = 1.0
    return h


def chain_of(initial: JointBelief, steps: JointStep) -> GaussianChain:
    """Return the chain of the states at the rows, before their exposures.

    Parameters
    ----------
    initial : JointBelief
        Before the first row.
    steps : JointStep
        With a leading axis of rows.
    """
    first = jax.tree.map(lambda x: x[0], steps)
    before = jax.tree.map(lambda x: x[:-1], steps)
    F = steps.transition[1:]
    jump_noise = jax.vmap(jnp.diag)(before.jump_variance)
    return GaussianChain(
        first.transition @ initial.mean,
        first.transition @ initial.covariance @ first.transition.T + first.noise,
        F @ before.jump,
        F @ jump_noise @ jnp.swapaxes(F, 1, 2) + steps.noise[1:],
        jnp.einsum("nij,nj->ni", F, before.gain),
    )


def sites_of(forecasts: Forecasts, steps: JointStep) -> GaussianSites:
    """Return what moment matching made of each answer, as a factor of the state."""
    precision = 1.0 / forecasts.variance_after - 1.0 / forecasts.variance
    shift = (
        forecasts.mean_after / forecasts.variance_after - forecasts.mean / forecasts.variance
    )
    shift = shift - precision * steps.offset
    return GaussianSites(shift[:, None], precision[:, None, None], steps.loading[:, None, :])
