"""Rejection resampling: independent draws without any sum over the weights."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.accel._checks import as_count, as_log_array, refuse_bad_weights
from bayeskit.accel.prng import require_key
from bayeskit.accel.resampling.scheme import NUM_FOR_TWO_WORDS, Ancestors, draw_uniforms
from bayeskit.accel.scan import prefix_sum
from bayeskit.accel.weights import normalize_checked

__all__ = ["rejection"]


def rejection(
    key: Any, log_weights: Any, num: int | None = None, *, nan: str = "refuse"
) -> Ancestors:
    r"""Resample by independent draws, each made of proposals that are accepted or not.

    Particles are proposed uniformly and accepted with probability :math:`W_j / \max W`; the
    first ``num`` that are accepted fill the slots. This is the law of :func:`multinomial`, and
    needs only the ratio of each weight to the largest: no weights are added up.

    Parameters
    ----------
    key : key
    log_weights : (num_particles,) array, real or -inf, any normalisation
        One row; map over more with ``jax.vmap``.
    num : int, optional
        Number of offspring. Default: as many as there are particles.
    nan : {"refuse", "drop"}
        With ``"drop"`` a log-weight of NaN counts as weight zero.

    Returns
    -------
    Ancestors
        Indices are independent draws, not sorted.

    Raises
    ------
    InvalidWeightsError
        If any log-weight is NaN or +inf (inside ``jit``: ``ok`` is False).
    DegenerateWeightsError
        If all log-weights are -inf (inside ``jit``: ``ok`` is False).
    TypeError, ValueError
        For a first argument that is no key, integer log-weights, no particles, or a number
        outside [0, 2**31).

    Notes
    -----
    O(num) a round of ``num`` proposals, and about :math:`N \max W` rounds: N of them if one
    particle has all the weight. Where weights may be uneven, use :func:`multinomial`.

    References
    ----------
    Murray, Lee & Jacob (2016), *Parallel resampling in the particle filter*, section 3.2, where
    each slot makes its own proposals; here no slot waits for the unluckiest.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> rejection(jax.random.key(0), jnp.array([-jnp.inf, 0.0]), 3).index.tolist()
    [1, 1, 1]
    """
    key = require_key(key)
    log_weights = as_log_array(log_weights, "log_weights", nan)
    if log_weights.ndim != 1:
        raise ValueError(
            f"log_weights must be one row, got shape {log_weights.shape}: map over rows with "
            "jax.vmap"
        )
    num = as_count(log_weights.shape[-1] if num is None else num)
    result = _draw_by_rejection(key, log_weights, num)
    refuse_bad_weights(log_weights, result.ok, "log_weights")
    return result


@functools.partial(jax.jit, static_argnames="num")
def _draw_by_rejection(key: jax.Array, log_weights: jax.Array, num: int) -> Ancestors:
    num_particles = log_weights.shape[-1]
    two_words = max(num, num_particles) >= NUM_FOR_TWO_WORDS
    summary = normalize_checked(log_weights)
    relative = lax.stop_gradient(log_weights) - summary.max
    chance = jnp.where(summary.ok, jnp.exp(relative), 1.0)

    def unfinished(state):
        return state[1] < num

    def propose(state):
        number, num_taken, index = state
        u, v = draw_uniforms(jax.random.fold_in(key, number), (2, num), two_words)
        with jax.enable_x64(True):
            proposal = jnp.floor(u * num_particles).astype(jnp.int32)
            taken = v < chance[proposal].astype(jnp.float64)
        # Counted from the first free slot: twice num may need a 32nd bit.
        num_free = num - num_taken
        taken = taken.astype(jnp.int32)
        place = prefix_sum(taken)
        is_used = (taken > 0) & (place <= num_free)
        slot = jnp.where(is_used, num_taken + place - 1, num)
        index = index.at[slot].set(proposal, mode="drop")
        found = jnp.sum(taken, dtype=jnp.int32)
        return number + jnp.uint32(1), num_taken + jnp.minimum(found, num_free), index

    start = (jnp.uint32(0), jnp.int32(0), jnp.zeros(num, jnp.int32))
    _, _, index = lax.while_loop(unfinished, propose, start)
    unchanged = jnp.arange(num, dtype=jnp.int32) % num_particles
    return Ancestors(
        index=jnp.where(summary.ok, index, unchanged),
        log_mean=summary.log_mean,
        effective_sample_size=summary.effective_sample_size,
        ok=summary.ok,
    )
