r"""The filter of a learner, by moment matching, one block of states for each component.

Between answers the ability a and the block :math:`x_k` of every component are independent
Gaussians. A row with components k in S is forecast by

.. math:: \eta = \mu + b + 1'a + \sum_{k \in S} h'x_k , \qquad
    P(y = 1) = E\,\sigma(\eta) ,

and changes only the ability and these blocks, each from its own last time on, so that a row
costs the same whatever the number of components and the length of the history.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.models.knowledge_tracing.moment_matching import tilted_moments
from bayeskit.models.knowledge_tracing.rows import STUDY
from bayeskit.models.knowledge_tracing.structure import Structure
from bayeskit.models.knowledge_tracing.trials import Trials

__all__ = ["Belief", "Forecasts", "Steps", "filtered", "initial_belief", "steps_of"]


class Belief(NamedTuple):
    """What is believed of one learner.

    Parameters
    ----------
    ability_mean, ability_covariance : (parts,) and (parts, parts) arrays
    mean, covariance : (num_kc + 1, block_dim) and (num_kc + 1, block_dim, block_dim) arrays
        Of each block at its own last exposure. The last one stands for none.
    """

    ability_mean: Any
    ability_covariance: Any
    mean: Any
    covariance: Any


class Steps(NamedTuple):
    r"""The linear Gaussian step of each row, from parameters and trials.

    Parameters
    ----------
    offset : (...) array
        Level, and effects of components and item.
    ability_stay, ability_noise : (..., parts) arrays
        Factor and variance of the gap.
    stay, noise : (..., kcs, block_dim) arrays
    loading : (..., kcs, block_dim) array
        h: the states that the row is about.
    fade, pull, gain, jump_variance : (..., kcs, block_dim) arrays
        An exposure makes :math:`x \leftarrow x - \text{fade}\,x + \text{pull}\,h'x +
        \text{gain} + N(0, \text{jump variance})`.
    """

    offset: Any
    ability_stay: Any
    ability_noise: Any
    stay: Any
    noise: Any
    loading: Any
    fade: Any
    pull: Any
    gain: Any
    jump_variance: Any


class Forecasts(NamedTuple):
    """What the filter said of each row before its answer, and of η after it.

    Parameters
    ----------
    log_density : (...) array
        Of the answer; 0 where nothing was answered.
    mean, variance : (...) arrays
        Of η before.
    mean_after, variance_after : (...) arrays
    """

    log_density: Any
    mean: Any
    variance: Any
    mean_after: Any
    variance_after: Any


def loadings(version: jax.Array, weight: jax.Array, structure: Structure) -> jax.Array:
    """Return h of each component, (..., kcs, block_dim)."""
    which = jnp.asarray(structure.slot_counts)
    own = (which == 0) | (which == 1 + version[..., None])
    return own[..., None, :] * weight[..., None]


def rates(parameters: dict, counts: Any, structure: Structure) -> jax.Array:
    """Return the rate of forgetting of each state, from counts (..., 1 + num_versions)."""
    types = structure.slot_types
    rate = 1.0 / parameters["time_scale"][types]
    if "rate_change" in parameters:
        # Power-law forgetting: what was met often is forgotten more slowly, or faster.
        n = counts[..., structure.slot_counts]
        rate = rate * jnp.exp(-parameters["rate_change"][types] * jnp.log1p(n))
    return rate


def ability_gaps(parameters: dict, gap: Any, structure: Structure) -> tuple[Any, Any]:
    """Return factor and variance of each part of the ability over a gap, (..., parts)."""
    stay, noise = [], []
    for part in structure.ability:
        if part == "static":
            stay.append(jnp.ones_like(gap))
            noise.append(jnp.zeros_like(gap))
        else:
            u = gap / parameters["drift_time"]
            stay.append(jnp.exp(-u))
            noise.append(-(parameters["drift_sd"] ** 2) * jnp.expm1(-2.0 * u))
    if not stay:
        empty = jnp.zeros((*gap.shape, 0), gap.dtype)
        return empty, empty
    return jnp.stack(stay, axis=-1), jnp.stack(noise, axis=-1)


def jumps(parameters: dict, outcome: Any, loading: Any, structure: Structure) -> tuple:
    """Return fade, pull, gain and jump variance of each state, (..., kcs, block_dim)."""
    types = structure.slot_types
    zero = jnp.zeros_like(loading)

    def chosen(name):
        if name not in parameters:
            return zero
        # (outcome, block_dim), then the row of each outcome.
        table = jnp.asarray(parameters[name])[types].T
        return table[outcome][..., None, :] * jnp.sign(loading)

    jump_sd = chosen("jump_sd")
    return chosen("saturation"), chosen("spacing"), chosen("gain"), jump_sd**2


def offsets(parameters: dict, trials: Trials) -> jax.Array:
    """Return level and effects of each row."""
    offset = parameters["level"]
    if "kc_effect" in parameters:
        effect = jnp.append(parameters["kc_effect"], 0.0)
        offset = offset + jnp.sum(trials.weight * effect[trials.kc], axis=-1)
    if "item_effect" in parameters:
        offset = offset + jnp.append(parameters["item_effect"], 0.0)[trials.item]
    return jnp.broadcast_to(offset, trials.item.shape)


def steps_of(parameters: dict, trials: Trials, structure: Structure) -> Steps:
    """Return the step of each row; all axes of trials but their own lead."""
    loading = loadings(trials.version, trials.weight, structure)
    u = trials.gap[..., None] * rates(parameters, trials.counts, structure)
    variance = parameters["sd"][structure.slot_types] ** 2
    ability = ability_gaps(parameters, trials.row_gap, structure)
    return Steps(
        offsets(parameters, trials),
        *ability,
        jnp.exp(-u),
        -variance * jnp.expm1(-2.0 * u),
        loading,
        *jumps(parameters, trials.outcome, loading, structure),
    )


def initial_moments(parameters: dict, structure: Structure) -> tuple[jax.Array, jax.Array]:
    """Return mean and variance of the states of a block before the first row."""
    types = structure.slot_types
    if "initial_sd" in parameters:
        return parameters["initial_mean"][types], parameters["initial_sd"][types] ** 2
    variance = parameters["sd"][types] ** 2
    return jnp.zeros_like(variance), variance


def ability_variances(parameters: dict, structure: Structure) -> jax.Array:
    """Return the variance of each part of the ability, (parts,)."""
    names = {"static": "ability_sd", "drift": "drift_sd"}
    values = [parameters[names[part]] ** 2 for part in structure.ability]
    return jnp.stack(values) if values else jnp.zeros(0, parameters["sd"].dtype)


def initial_belief(parameters: dict, structure: Structure) -> Belief:
    """Return what is believed of a learner of whom nothing is known."""
    mean, variance = initial_moments(parameters, structure)
    ability = ability_variances(parameters, structure)
    num = structure.num_kc + 1
    return Belief(
        jnp.zeros_like(ability),
        jnp.diag(ability),
        jnp.tile(mean, (num, 1)),
        jnp.tile(jnp.diag(variance), (num, 1, 1)),
    )


def _advance(belief: Belief, kc: Any, step: Steps, outcome: Any) -> tuple[Belief, Forecasts]:
    """Take in one row of one learner."""
    ability = belief.ability_mean, belief.ability_covariance
    ability, (x, P), forecast = _moved(
        ability, (belief.mean[kc], belief.covariance[kc]), step, outcome
    )
    # Components of a row differ, also where they stand for none; said so, nothing is copied.
    mean = belief.mean.at[kc].set(x, unique_indices=True)
    covariance = belief.covariance.at[kc].set(P, unique_indices=True)
    return Belief(ability[0], ability[1], mean, covariance), forecast


# Its derivative computes it again: to keep what it computes takes longer.
@jax.checkpoint
def _moved(ability: tuple, blocks: tuple, step: Steps, outcome: Any) -> tuple:
    """Take ability and the blocks of a row over its gap, its answer and its exposure."""
    (a, A), (x, P) = ability, blocks
    # To the time of the row.
    a, A = step.ability_stay * a, step.ability_stay[:, None] * A * step.ability_stay
    A = A + jnp.diag(step.ability_noise)
    x = step.stay * x
    P = step.stay[:, :, None] * P * step.stay[:, None, :]
    P = P + step.noise[:, :, None] * jnp.eye(P.shape[-1], dtype=P.dtype)
    # The answer.
    h = step.loading
    from_ability, from_blocks = jnp.sum(A, axis=1), jnp.einsum("mbc,mc->mb", P, h)
    m = step.offset + jnp.sum(a) + jnp.sum(h * x)
    v = jnp.maximum(jnp.sum(from_ability) + jnp.sum(h * from_blocks), 1e-12)
    answered = (outcome != STUDY).astype(m.dtype)
    log_z, m_after, v_after = tilted_moments(outcome.astype(m.dtype), m, v)
    shift, shrink = answered * (m_after - m) / v, answered * (v - v_after) / v**2
    a = a + from_ability * shift
    A = A - jnp.outer(from_ability, from_ability) * shrink
    x = x + from_blocks * shift
    P = P - from_blocks[:, :, None] * from_blocks[:, None, :] * shrink
    forecast = Forecasts(
        answered * log_z,
        m,
        v,
        m + answered * (m_after - m),
        v + answered * (v_after - v),
    )
    # The exposure.
    return (a, A), exposed(x, P, step), forecast


def exposed(x: Any, P: Any, step: Steps) -> tuple[Any, Any]:
    """Return mean and covariance of blocks (kcs, block_dim) after an exposure."""
    # J = diag(keep) + pull h', so that J P J' needs no product of matrices.
    h, keep, pull = step.loading, 1.0 - step.fade, step.pull
    active = jnp.sum(h * x, axis=1, keepdims=True)
    x = keep * x + pull * active + step.gain
    Ph = jnp.einsum("mbc,mc->mb", P, h)
    mixed = (keep * Ph + 0.5 * jnp.sum(h * Ph, axis=1, keepdims=True) * pull)[:, :, None]
    mixed = mixed * pull[:, None, :]
    P = keep[:, :, None] * P * keep[:, None, :] + mixed + jnp.swapaxes(mixed, 1, 2)
    return x, P + step.jump_variance[:, :, None] * jnp.eye(P.shape[-1], dtype=P.dtype)


def filtered(
    belief: Belief, trials: Trials, steps: Steps, *, keep: bool = False
) -> tuple[Belief, Forecasts, Any]:
    """Run the filter over the rows of one learner.

    Parameters
    ----------
    belief : Belief
        Before the first row.
    trials, steps : with a leading axis of rows
    keep : bool
        Return the beliefs after each row, too.

    Returns
    -------
    belief, forecasts, beliefs
    """

    def one(belief, inputs):
        kc, step, outcome = inputs
        belief, forecast = _advance(belief, kc, step, outcome)
        return belief, (forecast, belief if keep else None)

    inputs = trials.kc, steps, trials.outcome
    belief, (forecasts, beliefs) = lax.scan(one, belief, inputs)
    return belief, forecasts, beliefs
