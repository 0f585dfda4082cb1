r"""Resampling schemes: each a deterministic function of uniforms, and a draw of the uniforms.

All schemes work on the scaled cumulative weights :math:`R_i` of
:func:`bayeskit.accel.offspring.scaled_cdf`, the last of which is ``num`` exactly. With n for
``num`` and uniforms u or :math:`u_m` in [0, 1), m = 0, ..., n - 1:

- systematic: :math:`a_m = \#\{i : R_i \le m + u\}`, one uniform for all;
- stratified: :math:`a_m = \#\{i : R_i \le m + u_m\}`;
- multinomial: :math:`a_m = \#\{i : R_i \le n u_m\}`, in the order of the draws;
- residual: :math:`\lfloor n W_i \rfloor` sure copies of each particle; the remainders
  :math:`n W_i - \lfloor n W_i \rfloor` are resampled by systematic;
- residual_multinomial: the same, remainders by multinomial.

For every scheme the number of offspring has mean :math:`n W_i`, and a particle of weight zero
has none.

The split lets other code supply the uniforms: it can draw them from a key of its own, or go
through all cells between the ``breaks`` of a scheme and so compute exact laws.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.accel._checks import as_count, as_log_array, refuse_bad_weights
from bayeskit.accel.offspring import (
    offspring_to_ancestors,
    round_up_where_above,
    scaled_cdf_and_verdict,
)
from bayeskit.accel.prng import require_key
from bayeskit.accel.scan import prefix_sum
from bayeskit.accel.weights import normalize_checked

__all__ = [
    "SCHEMES",
    "Ancestors",
    "Scheme",
    "multinomial",
    "residual",
    "residual_multinomial",
    "stratified",
    "systematic",
]


@dataclass(frozen=True)
class Scheme:
    """A resampling scheme as a deterministic function of uniforms.

    ``breaks`` and ``ancestors`` take one row of scaled cumulative weights, ``cdf``
    (num_particles,), made by :func:`scaled_cdf` for the same ``num``, and may be mapped over
    more with ``jax.vmap``. They compute in 64-bit precision whatever the caller's mode.

    Parameters
    ----------
    name : str
    uniform_shape : callable, num -> tuple of int
        Shape of the uniforms that the scheme consumes.
    breaks : callable, (cdf, num) -> (*uniform_shape, B) float64 array in [0, 1]
        Not sorted. The ancestors depend on each uniform only through the cell between
        neighbouring breaks that holds it. 0 and 1 themselves are left out, except for a single
        particle, so that B = max(num_particles - 1, 1).
    ancestors : callable, (cdf, u, num) -> (num,) int32 array
    is_sorted : bool
        Whether the ancestors are non-decreasing. Otherwise all or the last of them are
        independent draws in the order in which they were made.
    inverts_cdf : bool
        Whether a uniform stands for the whole range of particles, so that its resolution
        limits the smallest probability. See :func:`multinomial`.
    """

    name: str
    uniform_shape: Callable[[int], tuple[int, ...]]
    breaks: Callable[[jax.Array, int], jax.Array]
    ancestors: Callable[[jax.Array, jax.Array, int], jax.Array]
    is_sorted: bool = True
    inverts_cdf: bool = False


class Ancestors(NamedTuple):
    """The outcome of resampling.

    Parameters
    ----------
    index : (..., num) int32 array in [0, num_particles)
        The particle that each offspring copies; no gradient flows through it.
    log_mean : (...) array
        Logarithm of the mean of the unnormalised weights, the factor of an evidence
        estimate. Its gradient is the normalised weights.
    effective_sample_size : (...) array in [1, num_particles], 0 where ``ok`` is False
    ok : (...) bool array
        False where no particle could be chosen; ``index`` then counts through the particles.
    """

    index: jax.Array  # type: ignore[assignment]
    log_mean: jax.Array
    effective_sample_size: jax.Array
    ok: jax.Array


# ------------------------------------------------------------ one uniform, or one a stratum


def _one_uniform(num: int) -> tuple[int, ...]:
    return ()


def _one_uniform_each(num: int) -> tuple[int, ...]:
    return (num,)


def _inner(cdf: jax.Array) -> jax.Array:
    """Leave out the last value, ``num`` exactly: its break at 0 or 1 bounds no cell."""
    return cdf[: max(cdf.shape[0] - 1, 1)]


def _fraction(values: jax.Array) -> jax.Array:
    return values - jnp.floor(values)


def _systematic_breaks(cdf: jax.Array, num: int) -> jax.Array:
    with jax.enable_x64(True):
        return _fraction(_inner(cdf))


def _systematic_ancestors(cdf: jax.Array, u: jax.Array, num: int) -> jax.Array:
    with jax.enable_x64(True):
        cumulative = round_up_where_above(cdf, jnp.asarray(u, jnp.float64))
    return offspring_to_ancestors(cumulative, num)


def _stratified_breaks(cdf: jax.Array, num: int) -> jax.Array:
    with jax.enable_x64(True):
        strata = jnp.arange(num, dtype=jnp.float64)[:, None]
        return jnp.clip(_inner(cdf) - strata, 0.0, 1.0)


def _stratified_ancestors(cdf: jax.Array, u: jax.Array, num: int) -> jax.Array:
    if num == 0:
        return jnp.zeros(0, jnp.int32)
    with jax.enable_x64(True):
        # Only the uniform of the stratum that holds R_i matters: all strata below are
        # wholly below R_i. At R_i = num the fraction is 0 and the uniform is not used.
        stratum = jnp.minimum(jnp.floor(cdf).astype(jnp.int32), num - 1)
        own = jnp.asarray(u, jnp.float64).at[stratum].get(mode="clip")
        cumulative = round_up_where_above(cdf, own)
    return offspring_to_ancestors(cumulative, num)


# ------------------------------------------------------------ inverting the cumulative weights


def _multinomial_breaks(cdf: jax.Array, num: int) -> jax.Array:
    with jax.enable_x64(True):
        levels = _inner(cdf) / max(num, 1)
        return jnp.broadcast_to(levels, (num, *levels.shape))


def _multinomial_ancestors(cdf: jax.Array, u: jax.Array, num: int) -> jax.Array:
    if num == 0:
        return jnp.zeros(0, jnp.int32)
    with jax.enable_x64(True):
        return _count_at_most(cdf, _spread(u, jnp.float64(num)), num)


def _spread(u: jax.Array, total: jax.Array) -> jax.Array:
    """Return ``u * total``, which rounding must not raise to ``total`` itself."""
    return jnp.minimum(jnp.asarray(u, jnp.float64) * total, jnp.nextafter(total, 0.0))


def _count_at_most(values: jax.Array, levels: jax.Array, num: int) -> jax.Array:
    """Return for each level in [0, num) how many of the sorted ``values`` are at most that.

    A guide table (Chen & Asau 1974) holds the numbers of values below 0, 1, ..., num. With
    even weights it leaves about one candidate a level, and bisection among the few. To be
    called in a 64-bit scope.
    """
    cell_of_value = jnp.floor(values).astype(jnp.int32)
    guide = prefix_sum(jnp.zeros(num + 1, jnp.int32).at[cell_of_value + 1].add(1, mode="drop"))
    if levels.shape[0] <= _FEW_LEVELS:
        return _bisect(values, guide, levels)
    return lax.platform_dependent(values, guide, levels, cpu=_bisect_in_blocks, default=_bisect)


# On a CPU, levels are searched in blocks. A cell with thousands of candidates (a run of dead
# particles, say) is met by few levels, and then only their neighbours wait for them. Also, the
# loop over blocks makes XLA store the levels; else it may draw them anew at each use. The size
# is large against the cost of starting a loop and small against the cache.
_SEARCH_BLOCK = 2**14
_FEW_LEVELS = 2**10


def _bisect_in_blocks(values, guide, levels):
    num = levels.shape[0]
    # A loop with one turn would be dissolved.
    num_blocks = max(-(-num // _SEARCH_BLOCK), 2)
    size = -(-num // num_blocks)

    def search(block, found):
        # The last block overlaps the one before, so that all have the same size.
        start = jnp.minimum(block * size, num - size)
        part = lax.dynamic_slice(levels, (start,), (size,))
        return lax.dynamic_update_slice(found, _bisect(values, guide, part), (start,))

    # With 64-bit bounds, vmap makes gathers that JAX 0.10 to 0.12 cannot lower in a 32-bit
    # program.
    first, end = jnp.int32(0), jnp.int32(num_blocks)
    return lax.fori_loop(first, end, search, jnp.zeros(num, jnp.int32))


def _bisect(values, guide, levels):
    def is_open(bracket):
        low, high = bracket
        return jnp.any(low < high)

    def halve(bracket):
        low, high = bracket
        middle = (low + high) >> 1
        below = (low < high) & (values[middle] <= levels)
        return jnp.where(below, middle + 1, low), jnp.where(below, high, middle)

    cell = jnp.floor(levels).astype(jnp.int32)
    return lax.while_loop(is_open, halve, (guide[cell], guide[cell + 1]))[0]


# ------------------------------------------------------------ sure copies and remainders


def _split_remainders(cdf: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
    """Return the cumulative sure copies (int32) and the cumulative remainders (float64).

    R lies on a binary grid, so that the split of its increments into whole and fractional
    parts is exact, and so is the number of draws that remain: the last remainder is an
    integer. To be called in a 64-bit scope.
    """
    sure = prefix_sum(jnp.floor(jnp.diff(cdf, prepend=0.0)).astype(jnp.int32))
    return sure, cdf - sure


def _residual_breaks(cdf: jax.Array, num: int) -> jax.Array:
    with jax.enable_x64(True):
        _, remainders = _split_remainders(cdf, num)
        return _fraction(_inner(remainders))


def _residual_ancestors(cdf: jax.Array, u: jax.Array, num: int) -> jax.Array:
    with jax.enable_x64(True):
        sure, remainders = _split_remainders(cdf, num)
        cumulative = sure + round_up_where_above(remainders, jnp.asarray(u, jnp.float64))
    return offspring_to_ancestors(cumulative, num)


def _residual_multinomial_breaks(cdf: jax.Array, num: int) -> jax.Array:
    with jax.enable_x64(True):
        _, remainders = _split_remainders(cdf, num)
        num_draws = remainders[-1]
        levels = jnp.where(num_draws > 0, _inner(remainders) / jnp.maximum(num_draws, 1), 1)
        draws = jnp.arange(num)[:, None]
        # Uniforms beyond the number of draws are not used: one cell.
        return jnp.where(draws < num_draws, levels, 1.0)


def _residual_multinomial_ancestors(cdf: jax.Array, u: jax.Array, num: int) -> jax.Array:
    if num == 0:
        return jnp.zeros(0, jnp.int32)
    with jax.enable_x64(True):
        sure, remainders = _split_remainders(cdf, num)
        drawn = _count_at_most(remainders, _spread(u, remainders[-1]), num)
        copied = offspring_to_ancestors(sure, num)
        # Slots: first the sure copies, then the draws in the order of their uniforms.
        slot = jnp.arange(num, dtype=jnp.int32)
        draw = slot - sure[-1]
        return jnp.where(draw < 0, copied, drawn[jnp.maximum(draw, 0)])


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("systematic", _one_uniform, _systematic_breaks, _systematic_ancestors),
        Scheme("stratified", _one_uniform_each, _stratified_breaks, _stratified_ancestors),
        Scheme(
            "multinomial",
            _one_uniform_each,
            _multinomial_breaks,
            _multinomial_ancestors,
            is_sorted=False,
            inverts_cdf=True,
        ),
        Scheme("residual", _one_uniform, _residual_breaks, _residual_ancestors),
        Scheme(
            "residual_multinomial",
            _one_uniform_each,
            _residual_multinomial_breaks,
            _residual_multinomial_ancestors,
            is_sorted=False,
            inverts_cdf=True,
        ),
    )
}


# ------------------------------------------------------------ drawing

# A grid of 2**-32 moves a probability by up to 2**-32, hence an expected number of
# offspring by up to num 2**-32: 2e-4 at a million, from where two words are drawn.
_NUM_FOR_TWO_WORDS = 10**6


def _draw_uniforms(key: jax.Array, shape: tuple[int, ...], two_words: bool) -> jax.Array:
    """Return float64 uniforms strictly inside (0, 1), the midpoints of a fine grid."""
    # A 32-bit program cannot draw inside a 64-bit scope (JAX 0.10), and 32-bit words are
    # the same in both modes.
    with jax.enable_x64(False):
        if not two_words:
            words = jax.random.bits(key, shape, jnp.uint32)
        else:
            # Two draws: slicing one of double length would make XLA compute it four times.
            keys = jax.random.split(key)
            words, more_words = (jax.random.bits(keys[i], shape, jnp.uint32) for i in (0, 1))
    with jax.enable_x64(True):
        if not two_words:
            return (words.astype(jnp.float64) + 0.5) * 2.0**-32
        # 52 bits, so that adding one half is exact and the result stays below 1.
        low = (more_words >> jnp.uint32(12)).astype(jnp.float64) + 0.5
        return words.astype(jnp.float64) * 2.0**-32 + low * 2.0**-52


@functools.partial(jax.jit, static_argnames=("name", "num"))
def _draw_ancestors(key: jax.Array, log_weights: jax.Array, name: str, num: int) -> Ancestors:
    scheme = SCHEMES[name]
    *batch, num_particles = log_weights.shape
    two_words = scheme.inverts_cdf and max(num, num_particles) >= _NUM_FOR_TWO_WORDS
    u = _draw_uniforms(key, (*batch, *scheme.uniform_shape(num)), two_words)
    cdf, ok = scaled_cdf_and_verdict(lax.stop_gradient(log_weights), num)
    ancestors: Callable = functools.partial(scheme.ancestors, num=num)  # type: ignore[call-arg]
    for _ in batch:
        ancestors = jax.vmap(ancestors)
    unchanged = jnp.arange(num, dtype=jnp.int32) % num_particles
    summary = normalize_checked(log_weights)
    return Ancestors(
        index=jnp.where(ok[..., None], ancestors(cdf, u), unchanged),
        log_mean=summary.log_mean,
        effective_sample_size=summary.effective_sample_size,
        ok=ok,
    )


def _resample(name: str, key: Any, log_weights: Any, num: int | None) -> Ancestors:
    key = require_key(key)
    log_weights = as_log_array(log_weights, "log_weights")
    num = as_count(log_weights.shape[-1] if num is None else num)
    result = _draw_ancestors(key, log_weights, name, num)
    refuse_bad_weights(log_weights, result.ok, "log_weights")
    return result


def systematic(key: Any, log_weights: Any, num: int | None = None) -> Ancestors:
    r"""Resample with one uniform for all offspring: the usual choice.

    .. math:: a_m = \#\{i : R_i \le m + u\}, \qquad
        R_i = \text{num} \sum_{j \le i} W_j

    Each particle has :math:`\lfloor \text{num}\, W_i \rfloor` or one more offspring, the latter
    with probability p, the fractional part: the variance is p (1 - p).

    Parameters
    ----------
    key : key
    log_weights : (..., num_particles) array, real or -inf, any normalisation
        Further leading axes are independent rows.
    num : int, optional
        Number of offspring. Default: as many as there are particles.

    Returns
    -------
    Ancestors
        Indices are sorted.

    Raises
    ------
    InvalidWeightsError
        If any log-weight is NaN or +inf (inside ``jit``: ``ok`` is False).
    DegenerateWeightsError
        If all log-weights of a row are -inf (inside ``jit``: ``ok`` is False).
    TypeError, ValueError
        For a first argument that is no key, integer log-weights, no particles, or a number
        outside [0, 2**31).

    Notes
    -----
    O(N + num). The law depends on the order of the particles.

    References
    ----------
    Carpenter, Clifford & Fearnhead (1999).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> systematic(jax.random.key(0), jnp.log(jnp.array([0.5, 0.25, 0.25]))).index.shape
    (3,)
    >>> systematic(jax.random.key(0), jnp.zeros(4)).index.tolist()
    [0, 1, 2, 3]
    """
    return _resample("systematic", key, log_weights, num)


def stratified(key: Any, log_weights: Any, num: int | None = None) -> Ancestors:
    r"""Resample with one uniform for each of ``num`` strata of equal mass.

    .. math:: a_m = \#\{i : R_i \le m + u_m\}, \qquad
        R_i = \text{num} \sum_{j \le i} W_j

    Numbers of offspring differ from their means by less than 2.

    Parameters
    ----------
    key : key
    log_weights : (..., num_particles) array, real or -inf, any normalisation
        Further leading axes are independent rows.
    num : int, optional
        Number of offspring. Default: as many as there are particles.

    Returns
    -------
    Ancestors
        Indices are sorted.

    Raises
    ------
    InvalidWeightsError
        If any log-weight is NaN or +inf (inside ``jit``: ``ok`` is False).
    DegenerateWeightsError
        If all log-weights of a row are -inf (inside ``jit``: ``ok`` is False).
    TypeError, ValueError
        For a first argument that is no key, integer log-weights, no particles, or a number
        outside [0, 2**31).

    Notes
    -----
    O(N + num). The law depends on the order of the particles.

    References
    ----------
    Kitagawa (1996).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> stratified(jax.random.key(0), jnp.zeros(4)).index.tolist()
    [0, 1, 2, 3]
    """
    return _resample("stratified", key, log_weights, num)


def multinomial(key: Any, log_weights: Any, num: int | None = None) -> Ancestors:
    r"""Resample with independent draws.

    .. math:: a_m = \#\{i : R_i \le \text{num}\, u_m\}, \qquad
        R_i = \text{num} \sum_{j \le i} W_j

    The numbers of offspring are multinomial, with variance
    :math:`\text{num}\, W_i (1 - W_i)`.

    Parameters
    ----------
    key : key
    log_weights : (..., num_particles) array, real or -inf, any normalisation
        Further leading axes are independent rows.
    num : int, optional
        Number of offspring. Default: as many as there are particles.

    Returns
    -------
    Ancestors
        Indices are independent draws in the order in which they were made, not sorted.

    Raises
    ------
    InvalidWeightsError
        If any log-weight is NaN or +inf (inside ``jit``: ``ok`` is False).
    DegenerateWeightsError
        If all log-weights of a row are -inf (inside ``jit``: ``ok`` is False).
    TypeError, ValueError
        For a first argument that is no key, integer log-weights, no particles, or a number
        outside [0, 2**31).

    Notes
    -----
    O(N + num log k), with k particles in the fullest of ``num`` cells of equal mass, about 2
    for even weights. From a million particles or offspring on, each draw uses 52 random bits
    in place of 32.

    References
    ----------
    Gordon, Salmond & Smith (1993). Chen & Asau (1974), for the guide table.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> multinomial(jax.random.key(0), jnp.array([-jnp.inf, 0.0])).index.tolist()
    [1, 1]
    """
    return _resample("multinomial", key, log_weights, num)


def residual(key: Any, log_weights: Any, num: int | None = None) -> Ancestors:
    r"""Resample by sure copies, and systematically what remains.

    Each particle has :math:`\lfloor \text{num}\, W_i \rfloor` sure copies. With
    :math:`r_i` the fractional parts and :math:`G_i` their prefix sums, the particle has further
    :math:`\lceil G_i - u \rceil - \lceil G_{i-1} - u \rceil`.

    The prefix sums G and R differ by integers, so that this is :func:`systematic` with the
    same uniform: it is here for its name. :func:`residual_multinomial` is the classical scheme
    with independent draws.

    Parameters
    ----------
    key : key
    log_weights : (..., num_particles) array, real or -inf, any normalisation
        Further leading axes are independent rows.
    num : int, optional
        Number of offspring. Default: as many as there are particles.

    Returns
    -------
    Ancestors
        Indices are sorted.

    Raises
    ------
    InvalidWeightsError
        If any log-weight is NaN or +inf (inside ``jit``: ``ok`` is False).
    DegenerateWeightsError
        If all log-weights of a row are -inf (inside ``jit``: ``ok`` is False).
    TypeError, ValueError
        For a first argument that is no key, integer log-weights, no particles, or a number
        outside [0, 2**31).

    Notes
    -----
    O(N + num). The law depends on the order of the particles.

    References
    ----------
    Douc, Cappé & Moulines (2005).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> residual(jax.random.key(0), jnp.log(jnp.array([0.5, 0.25, 0.25])), 4).index.tolist()
    [0, 0, 1, 2]
    """
    return _resample("residual", key, log_weights, num)


def residual_multinomial(key: Any, log_weights: Any, num: int | None = None) -> Ancestors:
    r"""Resample by sure copies, and by independent draws what remains.

    Each particle has :math:`\lfloor \text{num}\, W_i \rfloor` sure copies; the other M
    offspring are drawn with probabilities :math:`r_i / M`, r the fractional parts. The
    variance of the number of offspring is :math:`r_i (1 - r_i / M)`.

    Parameters
    ----------
    key : key
    log_weights : (..., num_particles) array, real or -inf, any normalisation
        Further leading axes are independent rows.
    num : int, optional
        Number of offspring. Default: as many as there are particles.

    Returns
    -------
    Ancestors
        First the sure copies, sorted, then the draws in the order in which they were made.

    Raises
    ------
    InvalidWeightsError
        If any log-weight is NaN or +inf (inside ``jit``: ``ok`` is False).
    DegenerateWeightsError
        If all log-weights of a row are -inf (inside ``jit``: ``ok`` is False).
    TypeError, ValueError
        For a first argument that is no key, integer log-weights, no particles, or a number
        outside [0, 2**31).

    Notes
    -----
    O(N + num log k), as :func:`multinomial`. ``num`` uniforms are drawn, the first M used.

    References
    ----------
    Liu & Chen (1998).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> residual_multinomial(jax.random.key(0), jnp.zeros(2), 4).index.tolist()
    [0, 0, 1, 1]
    """
    return _resample("residual_multinomial", key, log_weights, num)
