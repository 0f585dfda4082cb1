"""Sums over weights that are given by their logarithms, and the next tempering step."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bayeskit.accel import sharding
from bayeskit.accel._checks import (
    as_log_array,
    as_numbers,
    is_traced,
    largest,
    refuse_bad_weights,
    refuse_invalid_values,
    refuse_where,
)
from bayeskit.errors import DegenerateWeightsError

__all__ = ["Weights", "effective_sample_size", "log_mean_exp", "normalize", "temper_step"]


class Weights(NamedTuple):
    """Normalised weights and their summaries; see :func:`normalize`.

    Parameters
    ----------
    weights : (..., num_particles) array, they add up to 1
    log_sum : (...) array
        Logarithm of the sum of the unnormalised weights.
    log_mean : (...) array
        Logarithm of their mean.
    effective_sample_size : (...) array in [1, num_particles], 0 where ``ok`` is False
    max : (...) array
        The largest log-weight.
    ok : (...) bool array
        False where a log-weight is NaN or +inf, or all are -inf.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from bayeskit import accel
    >>> summary = accel.normalize(jnp.log(jnp.array([1.0, 1.0, 2.0])))
    >>> [round(float(jnp.exp(x)), 2) for x in (summary.log_sum, summary.log_mean, summary.max)]
    [4.0, 1.33, 2.0]
    """

    weights: jax.Array
    log_sum: jax.Array
    log_mean: jax.Array
    effective_sample_size: jax.Array
    max: jax.Array
    ok: jax.Array


def normalize(log_weights: Any, *, nan: str = "refuse") -> Weights:
    r"""Normalise weights and return them with all their usual summaries.

    .. math:: W_i = \frac{w_i}{\sum_j w_j}, \qquad
        \text{ESS} = \frac{(\sum_i w_i)^2}{\sum_i w_i^2}, \qquad
        w_i = \exp(\text{log\_weights}_i)

    Parameters
    ----------
    log_weights : (..., num_particles) array, real or -inf, any normalisation
    nan : {"refuse", "drop"}
        With ``"drop"`` a log-weight of NaN counts as weight zero.

    Returns
    -------
    Weights
        Inside ``jit``, a row without a usable weight has ``ok = False``, effective sample
        size 0, equal weights, and ``log_sum`` and ``log_mean`` of -inf, NaN or +inf.

    Raises
    ------
    InvalidWeightsError
        If any log-weight is NaN or +inf (not inside ``jit``).
    DegenerateWeightsError
        If all log-weights of a row are -inf (not inside ``jit``).
    TypeError, ValueError
        For integer log-weights, a scalar, or no particles.

    Notes
    -----
    O(N), one exponential each. ``log_sum`` is differentiable; its gradient is ``weights``.

    References
    ----------
    Kong, Liu & Wong (1994), for the effective sample size.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> summary = normalize(jnp.log(jnp.array([1.0, 1.0, 2.0])))
    >>> summary.weights
    Array([0.25, 0.25, 0.5 ], dtype=float32)
    >>> round(float(summary.effective_sample_size), 4)
    2.6667
    """
    log_weights = as_log_array(log_weights, "log_weights", nan)
    summary = normalize_checked(log_weights)
    refuse_bad_weights(log_weights, summary.ok, "log_weights")
    return summary


@jax.jit
def normalize_checked(log_weights: jax.Array) -> Weights:
    """Return :func:`normalize` of checked input; never raises."""
    num_particles = log_weights.shape[-1]
    scaled, maximum = _relative_to_maximum(log_weights)
    total, squares = sharding.total(scaled), sharding.total(scaled**2)
    # NaN shows in a sum; a maximum may overlook it (see largest), and to look costs a pass.
    maximum = jnp.where(jnp.isnan(total), jnp.nan, maximum)
    ok = jnp.isfinite(maximum)
    # Chosen before they are used: neither numbers nor derivatives become NaN where not ok.
    total = jnp.where(ok, total, num_particles)
    size = total**2 / jnp.where(ok, squares, num_particles)
    return Weights(
        weights=jnp.where(ok[..., None], scaled, 1.0) / total[..., None],
        log_sum=jnp.where(ok, maximum + jnp.log(total), maximum),
        # Not log_sum - log N: the rounding of log N would have one sign at every step.
        log_mean=jnp.where(ok, maximum + jnp.log(total / num_particles), maximum),
        effective_sample_size=jnp.where(ok, jnp.clip(size, 1, num_particles), 0),
        max=maximum,
        ok=ok,
    )


@jax.jit
def summarise_checked(log_weights: jax.Array) -> Weights:
    """Return :func:`normalize_checked` without the weights, which are then not written."""
    return normalize_checked(log_weights)._replace(weights=None)


def _relative_to_maximum(log_weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return weights in [0, 1] relative to the largest, and its logarithm.

    NaN stays, as a constant. Others count as 1 where the largest is not finite.
    """
    maximum = lax.stop_gradient(jnp.max(log_weights, axis=-1))
    is_finite, is_nan = jnp.isfinite(maximum), jnp.isnan(log_weights)
    usable = jnp.where(is_finite[..., None] & ~is_nan, log_weights, 0.0)
    scaled = jnp.exp(usable - jnp.where(is_finite, maximum, 0.0)[..., None])
    # Put back here, since XLA's exponential makes a number of NaN on a CPU (jaxlib 0.10.2).
    return _computed_once(jnp.where(is_nan, jnp.nan, scaled)), maximum


def _computed_once(values: jax.Array) -> jax.Array:
    """Keep a CPU from computing the values anew in each loop that reads them.

    There one exponential costs as much as four sums. Elsewhere a pass over memory costs more.
    """
    return lax.platform_dependent(values, cpu=lax.optimization_barrier, default=lambda v: v)


def log_mean_exp(log_values: Any) -> jax.Array:
    r"""Return :math:`\log \frac{1}{N} \sum_i \exp(l_i)` without overflow.

    Parameters
    ----------
    log_values : (..., num_particles) array, real or -inf

    Returns
    -------
    (...) array; -inf where all are -inf, NaN or +inf where a value is

    Raises
    ------
    TypeError, ValueError
        For integers, a scalar, or an empty last axis.

    Notes
    -----
    O(N). Differentiable.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> float(log_mean_exp(jnp.array([1000.0, 1000.0])))
    1000.0
    """
    return summarise_checked(as_log_array(log_values, "log_values")).log_mean


def effective_sample_size(log_weights: Any, *, nan: str = "refuse") -> jax.Array:
    r"""Return the effective number of particles of a weighted sample.

    .. math:: \text{ESS} = \frac{(\sum_i w_i)^2}{\sum_i w_i^2}

    Parameters
    ----------
    log_weights : (..., num_particles) array, real or -inf, any normalisation
    nan : {"refuse", "drop"}
        With ``"drop"`` a log-weight of NaN counts as weight zero.

    Returns
    -------
    (...) array in [1, num_particles]; inside ``jit`` 0 where all log-weights are -inf or one is
    NaN or +inf

    Raises
    ------
    InvalidWeightsError
        If any log-weight is NaN or +inf (not inside ``jit``).
    DegenerateWeightsError
        If all log-weights of a row are -inf (not inside ``jit``).
    TypeError, ValueError
        For integers, a scalar, or no particles.

    Notes
    -----
    O(N).

    References
    ----------
    Kong, Liu & Wong (1994).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> float(effective_sample_size(jnp.zeros(4)))
    4.0
    """
    log_weights = as_log_array(log_weights, "log_weights", nan)
    summary = summarise_checked(log_weights)
    refuse_bad_weights(log_weights, summary.ok, "log_weights")
    return summary.effective_sample_size


def temper_step(
    log_likelihood: Any, log_weights: Any, current: Any, target: Any, *, nan: str = "refuse"
) -> jax.Array:
    r"""Return the next inverse temperature: the largest step that keeps enough particles.

    The result is :math:`\lambda' \in (\lambda, 1]` such that the weights

    .. math:: W_i \exp\bigl((\lambda' - \lambda) \, \ell_i\bigr)

    have effective sample size ``target * num_particles``, or 1 exactly if at
    :math:`\lambda' = 1` it is still larger. Where the current weights W alone, on the
    particles of finite log-likelihood, do not exceed ``target * num_particles``, no step could
    reach that; the step then keeps the fraction ``target`` of the effective sample size that
    there is.

    Parameters
    ----------
    log_likelihood : (..., num_particles) array, real or -inf
        -inf means likelihood zero.
    log_weights : (..., num_particles) array, real or -inf, any normalisation
        The current weights W.
    current : (...) array in [0, 1]
        The current inverse temperature.
    target : (...) array in (0, 1)
        The fraction of particles to keep effective.
    nan : {"refuse", "drop"}
        With ``"drop"`` a log-likelihood of NaN counts as likelihood zero.

    Returns
    -------
    (...) array
        Larger than ``current``, also where only a step of one unit in the last place can be
        represented, and at most 1. ``current`` itself where no particle has positive weight and
        finite log-likelihood, NaN for invalid input (both only inside ``jit``).

    Raises
    ------
    InvalidWeightsError
        If a log-likelihood or log-weight is NaN or +inf (not inside ``jit``).
    DegenerateWeightsError
        If no particle has positive weight and finite log-likelihood (not inside ``jit``).
    ValueError
        For ``current`` or ``target`` out of range (not inside ``jit``), or shapes that differ.

    Notes
    -----
    O(30 N) in float32, O(48 N) in float64: bisection over the *logarithm* of the step, down
    to the smallest normal number, so that a likelihood that is 1e30 times too sharp is tempered
    as carefully as a flat one. With equal weights the effective sample size falls
    monotonically in the step; with unequal ones it need not, and some crossing is found.

    References
    ----------
    Jasra, Stephens, Doucet & Tsagaris (2011), for the criterion.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> round(float(temper_step(jnp.array([0.0, -8.0]), jnp.zeros(2), 0.0, 0.6)), 4)
    0.2866
    >>> float(temper_step(jnp.array([0.0, -0.1]), jnp.zeros(2), 0.25, 0.6))
    1.0
    """
    log_likelihood = as_log_array(log_likelihood, "log_likelihood", nan)
    log_weights = as_log_array(log_weights, "log_weights")
    if log_likelihood.shape != log_weights.shape:
        raise ValueError(
            f"log_likelihood has shape {log_likelihood.shape}, but log_weights has "
            f"{log_weights.shape}"
        )
    dtype = jnp.promote_types(log_likelihood.dtype, log_weights.dtype)
    current = as_numbers(current, "current").astype(dtype)
    target = as_numbers(target, "target").astype(dtype)
    if not is_traced(current):
        rule = "current must be an inverse temperature in [0, 1]"
        refuse_where(~((current >= 0) & (current <= 1)), current, rule)
    if not is_traced(target):
        rule = "target must be a fraction of the particles in (0, 1)"
        refuse_where(~((target > 0) & (target < 1)), target, rule)
    refuse_invalid_values(log_likelihood, "log_likelihood")
    refuse_invalid_values(log_weights, "log_weights")
    chosen, alive = _temper_step(
        log_likelihood.astype(dtype), log_weights.astype(dtype), current, target
    )
    if not is_traced(alive) and not np.all(alive):
        raise DegenerateWeightsError(
            f"none of the {log_weights.shape[-1]} particles has both a positive weight and a "
            "finite log_likelihood: no temperature can be chosen. Start from more particles "
            "or look at the likelihood"
        )
    return chosen


@jax.jit
def _temper_step(log_likelihood, log_weights, current, target):
    log_likelihood, log_weights = lax.stop_gradient((log_likelihood, log_weights))
    dtype, num_particles = log_weights.dtype, log_weights.shape[-1]
    limits = jnp.finfo(dtype)
    invalid = ~(
        (largest(log_likelihood)[..., 0] < jnp.inf) & (largest(log_weights)[..., 0] < jnp.inf)
    )
    alive = jnp.isfinite(log_likelihood) & (log_weights > -jnp.inf)
    # Relative to the best, so that nothing overflows; a difference beyond the range of the
    # dtype is a weight of zero for every step that can be represented.
    best = jnp.max(jnp.where(alive, log_likelihood, limits.min), axis=-1, keepdims=True)
    heaviest = jnp.max(jnp.where(alive, log_weights, limits.min), axis=-1, keepdims=True)
    relative = jnp.where(alive, jnp.maximum(log_likelihood - best, limits.min), 0.0)
    start = jnp.where(alive, log_weights - heaviest, -jnp.inf)

    def size_after(step):
        return normalize_checked(start + step[..., None] * relative).effective_sample_size

    size_now = size_after(jnp.zeros_like(current))
    goal = target * num_particles
    # The step before may have stopped at the goal, up to rounding. Counting that as below
    # it keeps the next step from being arbitrarily short.
    goal = jnp.where(size_now > goal * 1.001, goal, target * size_now)
    longest = 1 - current
    reaches_one = size_after(longest) >= goal

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        enough = size_after(jnp.exp(middle)) >= goal
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    # Twice the smallest normal number: numbers below it are flushed to zero.
    shortest = math.log(2 * float(limits.tiny))
    low = jnp.full_like(goal, shortest)
    high = jnp.broadcast_to(jnp.log(jnp.maximum(longest, limits.tiny)), goal.shape)
    # Each turn halves the interval of logarithms; at the end it is the relative error.
    num_turns = math.ceil(math.log2(-shortest / max(float(limits.eps), 1e-12)))
    low, _ = lax.fori_loop(0, num_turns, halve, (low, high))
    chosen = jnp.maximum(current + jnp.exp(low), jnp.nextafter(current, jnp.ones_like(current)))
    chosen = jnp.where(reaches_one, 1.0, jnp.minimum(chosen, 1.0)).astype(dtype)
    any_alive = jnp.any(alive, axis=-1)
    chosen = jnp.where(any_alive, chosen, jnp.broadcast_to(current, chosen.shape))
    return jnp.where(invalid, jnp.nan, chosen), any_alive | invalid
