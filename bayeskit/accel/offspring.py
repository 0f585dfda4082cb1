r"""The exact core of resampling: cumulative offspring in fixed-point arithmetic.

With float32 sums, a million particles already give offspring to particles of weight zero and
lose whole offspring elsewhere. Here weights become integers before anything is added, so that
no sum ever rounds: every property of a scheme then holds exactly at any number of particles,
and the result is the same in any order of summation. The 64-bit arithmetic is local; callers
may run in 32-bit mode.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.accel import sharding
from bayeskit.accel._checks import (
    as_count,
    as_indices,
    as_log_array,
    as_numbers,
    largest,
    refuse_bad_weights,
    refuse_outside_unit_interval,
)
from bayeskit.accel.dispatch import dispatch
from bayeskit.accel.exponential import relative_weights
from bayeskit.accel.scan import prefix_sum, prefix_sum_of_whole_parts

__all__ = [
    "cumulative_offspring",
    "offspring_to_ancestors",
    "permute_for_inplace",
    "scaled_cdf",
]


def scaled_cdf(log_weights: Any, num: int) -> jax.Array:
    r"""Return the cumulative weights, scaled so that the last is ``num`` exactly.

    .. math:: R_i = \text{num} \cdot \frac{\sum_{j \le i} w_j}{\sum_j w_j},
        \qquad w_i = \exp(\text{log\_weights}_i)

    R is non-decreasing and does not change where a weight is zero. It lies on a binary grid,
    so that expected numbers of offspring that are integers come out as integers.

    Parameters
    ----------
    log_weights : (..., num_particles) array, real or -inf, any normalisation
    num : int
        Number of offspring, static.

    Returns
    -------
    (..., num_particles) float64 array, also in 32-bit mode. Under ``jit``, rows without a
    usable weight are treated as rows of equal weights.

    Raises
    ------
    InvalidWeightsError
        If any log-weight is NaN or +inf (not inside ``jit``).
    DegenerateWeightsError
        If all log-weights of a row are -inf (not inside ``jit``).
    TypeError, ValueError
        For integer log-weights, no particles, or a number outside [0, 2**31).

    Notes
    -----
    O(N). With b = min(52, 62 - ceil(log2 max(N, num))) fractional bits the weights lose at
    most about N 2**-b offspring in all (4e-5 at N = 1e7); rounding to the grid moves each R_i
    by at most num 2**-51. Arithmetic with the result has to stay in a 64-bit scope:
    ``with jax.enable_x64(True)``. In 32-bit mode, any operation outside of one cuts it to
    float32.

    References
    ----------
    Murray, Lee & Jacob (2016), "Parallel resampling in the particle filter", on the bias of
    prefix sums in single precision.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> scaled_cdf(jnp.array([0.0, -jnp.inf, 0.0, 0.0]), 6).tolist()
    [2.0, 2.0, 4.0, 6.0]
    """
    log_weights = as_log_array(log_weights, "log_weights")
    cdf, ok = scaled_cdf_and_verdict(log_weights, as_count(num))
    refuse_bad_weights(log_weights, ok, "log_weights")
    return cdf


@functools.partial(jax.jit, static_argnames="num")
def scaled_cdf_and_verdict(log_weights: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
    """Return :func:`scaled_cdf` of checked input and whether its rows are usable."""
    log_weights = lax.stop_gradient(log_weights)
    with jax.enable_x64(True):
        if num == 0:
            return jnp.zeros(log_weights.shape, jnp.float64), _usable(largest(log_weights))
        bits = _fractional_bits(log_weights.shape[-1], num)
        return dispatch("scaled_cdf", _scaled_cdf, log_weights, num=num, bits=bits)


def _usable(maximum: jax.Array) -> jax.Array:
    return jnp.isfinite(maximum[..., 0])


def _scaled_cdf(
    log_weights: jax.Array, num: int, bits: tuple[int, int, int]
) -> tuple[jax.Array, jax.Array]:
    maximum = largest(log_weights)
    weights = relative_weights(log_weights, maximum, jnp.isfinite(maximum))
    cdf = dispatch("cdf_of_weights", _cdf_of_weights, weights, num=num, bits=bits)
    return cdf, _usable(maximum)


def _cdf_of_weights(weights: jax.Array, num: int, bits: tuple[int, int, int]) -> jax.Array:
    """Return :func:`scaled_cdf` for float64 weights in [0, 1], not all zero."""
    total_bits, unit_bits, grid_bits = bits
    # Integers again, if stored as floats: their sum is exact in any order.
    whole = jnp.ceil(weights * 2.0**total_bits)
    total = jnp.sum(whole, axis=-1, keepdims=True) * 2.0**-total_bits
    per_weight = num * 2.0**unit_bits / total
    if weights.ndim == 1 and sharding.is_divided(weights.size):
        in_units = (weights * per_weight).astype(jnp.int64)
        cumulative = sharding.prefix_sum_over_shards(in_units, prefix_sum)
    else:
        cumulative = prefix_sum_of_whole_parts(weights, per_weight)
    last = cumulative[..., -1:]
    cdf = cumulative.astype(jnp.float64) * (num / last.astype(jnp.float64))
    cdf = jnp.round(cdf * 2.0**grid_bits) * 2.0**-grid_bits
    # Rounding may leave the end above or below num, and so for dead particles before it.
    return jnp.where(cumulative == last, float(num), jnp.minimum(cdf, float(num)))


def _fractional_bits(num_particles: int, num: int) -> tuple[int, int, int]:
    """Return the fractional bits of the total, of the offspring units, and of the grid of R.

    The total only sets the unit and is corrected afterwards, so it may be rough, but not too
    small, hence rounded up. N weights of at most 1 must add up to at most 2**53, below which
    floats are integers. Then the num offspring stay below 2**63 if num has 62 - unit_bits
    bits; a float64 weight has no more than 52. Conversion of the prefix sums to float64 and
    one product leave a relative error of 2**-52: at most half a step of a grid with
    51 - log2(num) bits.
    """
    total_bits = 53 - num_particles.bit_length()
    unit_bits = min(52, 62 - max(num_particles, num).bit_length())
    return total_bits, unit_bits, 51 - num.bit_length()


def cumulative_offspring(log_weights: Any, u: Any, num: int) -> jax.Array:
    r"""Return the cumulative numbers of offspring of systematic resampling.

    .. math:: O_i = \lceil R_i - u \rceil = \#\{m : m + u < R_i\},
        \qquad R_i = \text{num} \cdot \frac{\sum_{j \le i} w_j}{\sum_j w_j}

    The particle i has :math:`o_i = O_i - O_{i-1}` offspring: :math:`|o_i - \text{num}\, W_i|
    < 1`, and none where its weight is zero, also at u = 0.

    Parameters
    ----------
    log_weights : (..., num_particles) array, real or -inf, any normalisation
    u : (...) array in [0, 1)
    num : int
        Number of offspring, static.

    Returns
    -------
    (..., num_particles) int32 array, non-decreasing, its last element is ``num``

    Raises
    ------
    InvalidWeightsError, DegenerateWeightsError, TypeError, ValueError
        As :func:`scaled_cdf`, and for ``u`` outside [0, 1) (not inside ``jit``).

    Notes
    -----
    O(N). Inside ``jit`` the range of ``u`` is not checked.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> cumulative_offspring(jnp.zeros(4), 0.5, 6).tolist()
    [1, 3, 4, 6]
    """
    cdf = scaled_cdf(log_weights, num)
    with jax.enable_x64(True):
        u = as_numbers(u, "u", draw="jax.random.uniform(key, ...)").astype(jnp.float64)
        refuse_outside_unit_interval(u, "u")
        return round_up_where_above(cdf, u[..., None])


def ancestors_at_levels(cdf: jax.Array, uniforms: Any, num: int) -> jax.Array:
    r"""Return the ancestors :math:`a_m = \#\{i : R_i \le m + u_m\}` of one row.

    Parameters
    ----------
    cdf : (num_particles,) float64 array, R
    uniforms : (1,) or (num,) array in [0, 1)
        One for all m, or one for each.
    num : int
    """
    if num == 0:
        return jnp.zeros(0, jnp.int32)
    with jax.enable_x64(True):
        return _ancestors_at_levels(cdf, jnp.asarray(uniforms, jnp.float64), num)


@functools.partial(jax.jit, static_argnames="num")
def _ancestors_at_levels(cdf: jax.Array, uniforms: jax.Array, num: int) -> jax.Array:
    def by_xla(cdf, uniforms, num):
        own = uniforms
        if uniforms.shape[0] > 1:
            # Only the uniform of the stratum that holds R_i matters: all strata below are
            # wholly below R_i. At R_i = num the fraction is 0 and the uniform is not used.
            stratum = jnp.minimum(jnp.floor(cdf).astype(jnp.int32), num - 1)
            own = uniforms.at[stratum].get(mode="clip")
        return offspring_to_ancestors(round_up_where_above(cdf, own), num)

    return dispatch("ancestors_at_levels", by_xla, cdf, uniforms, num=num)


def round_up_where_above(values: jax.Array, u: jax.Array) -> jax.Array:
    """Return ceil(values - u) as int32 without the rounding of a subtraction.

    For values >= 0. To be called in a 64-bit scope.
    """
    # Truncation is floor here, and a third of the time on a CPU.
    whole = values.astype(jnp.int32)
    return whole + (u < values - whole.astype(values.dtype)).astype(jnp.int32)


def offspring_to_ancestors(cumulative: Any, num: int) -> jax.Array:
    r"""Return the sorted ancestors that belong to cumulative numbers of offspring.

    .. math:: a_m = \#\{i : O_i \le m\}, \qquad m = 0, \dots, \text{num} - 1

    Parameters
    ----------
    cumulative : (..., num_particles) int32 array
        Non-decreasing, its last element is ``num``. Neither is checked.
    num : int
        Number of offspring, static.

    Returns
    -------
    (..., num) int32 array, non-decreasing

    Raises
    ------
    TypeError
        If cumulative does not hold integers.
    ValueError
        Without particles.

    Notes
    -----
    O(N + num): counts are added at their places and summed up; nothing is searched.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> offspring_to_ancestors(jnp.array([2, 2, 5]), 5).tolist()
    [0, 0, 2, 2, 2]
    """
    cumulative = as_numbers(cumulative, "cumulative")
    if not jnp.issubdtype(cumulative.dtype, jnp.integer):
        raise TypeError(f"cumulative must be integers, got dtype {cumulative.dtype}")
    if cumulative.ndim == 0 or cumulative.shape[-1] == 0:
        raise ValueError(
            f"cumulative must have at least 1 particle, got shape {cumulative.shape}"
        )
    return _ancestors(cumulative, as_count(num))


@functools.partial(jax.jit, static_argnames="num")
def _ancestors(cumulative: jax.Array, num: int) -> jax.Array:
    cumulative = cumulative.astype(jnp.int32)
    return dispatch("offspring_to_ancestors", _count_in_rows, cumulative, num=num)


def _count_in_rows(cumulative: jax.Array, num: int) -> jax.Array:
    def one_row(row):
        # XLA stores a constant array from the start of a program; zeros that seem to depend on
        # the data are made when they are needed, which takes an eighth off the peak memory.
        zero = (row[-1] < 0).astype(jnp.int32)
        # The last particle, and dead ones before it, count at no m: num is dropped.
        return prefix_sum(jnp.full(num, zero).at[row].add(1, mode="drop"))

    if (
        cumulative.ndim == 1
        and sharding.is_divided(num)
        and sharding.is_divided(cumulative.size)
    ):
        return sharding.ancestors_over_shards(cumulative, num, _part)
    for _ in range(cumulative.ndim - 1):
        one_row = jax.vmap(one_row)
    return one_row(cumulative)


def _part(cumulative: jax.Array, start: jax.Array, num: int) -> jax.Array:
    """Return the ancestors of the offspring from ``start`` on, ``num`` of them."""
    place = cumulative - start
    # Offspring that begin before are counted at the first place.
    counts = jnp.zeros(num, jnp.int32).at[jnp.maximum(place, 0)].add(1, mode="drop")
    return prefix_sum(counts)


def permute_for_inplace(ancestors: Any) -> jax.Array:
    """Reorder ancestors so that every particle with offspring stays in its own slot.

    The result p is a permutation of ``ancestors`` with p_i = i wherever i is an ancestor of
    anyone: copying then touches only the slots of dead particles, and can be done in place.

    Parameters
    ----------
    ancestors : (..., num_particles) integer array
        As many offspring as particles, in any order.

    Returns
    -------
    (..., num_particles) int32 array

    Raises
    ------
    TypeError
        For ancestors that are not integers.

    Notes
    -----
    O(N). The order of offspring changes, so use it only where that does not matter.

    References
    ----------
    Murray, Lee & Jacob (2016).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> permute_for_inplace(jnp.array([1, 2, 2, 3])).tolist()
    [2, 1, 2, 3]
    """
    ancestors = as_indices(ancestors)
    if ancestors.ndim == 0:
        raise ValueError("ancestors must have an axis of particles, got a scalar")
    return _permuted(ancestors.astype(jnp.int32))


@jax.jit
def _permuted(ancestors: jax.Array) -> jax.Array:
    num = ancestors.shape[-1]
    slots = jnp.arange(num, dtype=jnp.int32)

    def one_row(row):
        keeper = jnp.full(num, num, jnp.int32).at[row].min(slots)
        extra = keeper[row] != slots
        free = keeper == num
        # The k-th offspring that must move goes to the k-th free slot; both are num in number.
        place = jnp.where(extra, prefix_sum(extra.astype(jnp.int32)) - 1, num)
        moved = jnp.zeros(num, jnp.int32).at[place].set(row, mode="drop")
        return jnp.where(free, moved[prefix_sum(free.astype(jnp.int32)) - 1], slots)

    for _ in range(ancestors.ndim - 1):
        one_row = jax.vmap(one_row)
    return one_row(ancestors)
