r"""Optimal threshold resampling: fewer particles, and the heavy ones keep their weights.

From N weighted particles to num of them without copies. With c the solution of

.. math:: \sum_i \min(1, W_i / c) = \text{num},

particles heavier than c are kept with their weights; of the others, as many as are wanted are
chosen systematically with probabilities :math:`W_i / c`, and weigh c each. Among all ways to
set weights to zero without bias it has the smallest expected squared error of the weights.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayeskit.accel._checks import as_count, as_log_array, largest, refuse_bad_weights
from bayeskit.accel.offspring import scaled_cdf_and_verdict
from bayeskit.accel.prng import require_key
from bayeskit.accel.resampling.scheme import draw_uniforms
from bayeskit.accel.resampling.systematic import SYSTEMATIC
from bayeskit.accel.scan import prefix_sum

__all__ = ["WeightedAncestors", "threshold", "threshold_cdf"]


class WeightedAncestors(NamedTuple):
    """The outcome of resampling that leaves weights uneven.

    Parameters
    ----------
    index : (num,) int32 array in [0, num_particles)
        Sorted.
    log_weights : (num,) array
        Normalised: they add up to one on every path.
    ok : () bool array
        False where no particle could be chosen.

    Examples
    --------
    From four particles to three: the heavy one keeps its weight, two others share the rest.

    >>> import jax, jax.numpy as jnp
    >>> from bayeskit import accel
    >>> log_weights = jnp.log(jnp.array([0.1, 0.6, 0.1, 0.2]))
    >>> kept = accel.threshold(jax.random.key(0), log_weights, 3)
    >>> kept.index.tolist(), jnp.exp(kept.log_weights).round(2).tolist()
    ([0, 1, 3], [0.2, 0.6, 0.2])
    """

    index: jax.Array  # type: ignore[assignment]
    log_weights: jax.Array
    ok: jax.Array


def threshold_cdf(log_weights: jax.Array, num: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""Return the cumulative chances to be chosen, the log-weights of who is, and ``ok``.

    The chances :math:`\min(1, W_i / c)` are those of a row of scaled cumulative weights, for
    systematic resampling. Particles that are kept have whole ones.

    Parameters
    ----------
    log_weights : (num_particles,) array, real or -inf, any normalisation
    num : int
        From 1 to num_particles, static.
    """
    num_particles = log_weights.shape[-1]
    maximum = largest(log_weights)[0]
    usable = jnp.isfinite(maximum)
    with jax.enable_x64(True):
        relative = log_weights.astype(jnp.float64) - maximum.astype(jnp.float64)
        weights = jnp.where(usable, jnp.exp(relative), 1.0)
        # Ascending, so that the tail of light particles is added up from its smallest.
        order = jnp.argsort(weights)
        tails = jnp.cumsum(weights[order])
        # With A particles kept, the others weigh c = tail / (num - A) each, and none of them
        # more than that: the smallest such A.
        num_kept = jnp.arange(num)
        tail = tails[num_particles - 1 - num_kept]
        heaviest = weights[order][num_particles - 1 - num_kept]
        chosen = jnp.sum(heaviest * (num - num_kept) > tail)
        rank = (
            jnp.zeros(num_particles, jnp.int32)
            .at[order]
            .set(jnp.arange(num_particles - 1, -1, -1, dtype=jnp.int32))
        )
        kept = rank < chosen
        log_total = jnp.log(tails[-1])
        log_light = jnp.log(tail[chosen] / (num - chosen)) - log_total
        result = jnp.where(kept, jnp.log(weights) - log_total, log_light)
        # If too few particles have a weight, dead ones fill the places, with weight zero.
        light = jnp.where(tail[chosen] > 0, jnp.where(usable, relative, 0.0), 0.0)
        cdf, _ = scaled_cdf_and_verdict(jnp.where(kept, -jnp.inf, light), num)
        grid = 2.0 ** (51 - num.bit_length())
        cdf = jnp.round(cdf * (num - chosen) / num * grid) / grid
        cdf = cdf + prefix_sum(kept.astype(jnp.int32))
    return cdf, result.astype(log_weights.dtype), usable


def threshold(key: Any, log_weights: Any, num: int) -> WeightedAncestors:
    r"""Resample to fewer particles by the optimal threshold; heavy particles keep their weight.

    The expected weight of particle i afterwards is :math:`W_i`, and no particle is chosen
    twice. If no more than ``num`` particles have a positive weight, all of them keep it.

    Parameters
    ----------
    key : key
    log_weights : (num_particles,) array, real or -inf, any normalisation
        One row; map over more with ``jax.vmap``.
    num : int
        Number of particles to keep, from 1 to num_particles.

    Returns
    -------
    WeightedAncestors

    Raises
    ------
    InvalidWeightsError
        If any log-weight is NaN or +inf (inside ``jit``: ``ok`` is False).
    DegenerateWeightsError
        If all log-weights are -inf (inside ``jit``: ``ok`` is False).
    TypeError, ValueError
        For a first argument that is no key, integer log-weights, no particles, or a number
        that is not from 1 to num_particles.

    Notes
    -----
    O(N log N), for the sort. The law depends on the order of the particles.

    No gradient goes through the choice of ancestors: JAX takes its derivative as zero and does
    not say so.

    References
    ----------
    Fearnhead & Clifford (2003), *On-line inference for hidden Markov models via particle
    filters*, section 3.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> weights = jnp.array([0.7, 0.1, 0.1, 0.1])
    >>> result = threshold(jax.random.key(0), jnp.log(weights), 3)
    >>> jnp.exp(result.log_weights).round(2).tolist()
    [0.7, 0.15, 0.15]
    """
    key = require_key(key)
    log_weights = as_log_array(log_weights, "log_weights")
    if log_weights.ndim != 1:
        raise ValueError(
            f"log_weights must be one row, got shape {log_weights.shape}: map over rows with "
            "jax.vmap"
        )
    num = as_count(num)
    if not 1 <= num <= log_weights.shape[0]:
        raise ValueError(
            f"num must be from 1 to {log_weights.shape[0]}, the number of particles, got {num}"
        )
    result = _draw_threshold(key, log_weights, num)
    refuse_bad_weights(log_weights, result.ok, "log_weights")
    return result


@functools.partial(jax.jit, static_argnames="num")
def _draw_threshold(key: jax.Array, log_weights: jax.Array, num: int) -> WeightedAncestors:
    u = draw_uniforms(key, (), two_words=False)
    cdf, by_particle, ok = threshold_cdf(log_weights, num)
    index = SYSTEMATIC.ancestors(cdf, u, num)
    return WeightedAncestors(index, by_particle[index], ok)
