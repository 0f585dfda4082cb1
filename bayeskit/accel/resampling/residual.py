"""Residual resampling: sure copies, and a scheme for what remains of the expected numbers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.accel.offspring import offspring_to_ancestors, round_up_where_above
from bayeskit.accel.resampling.scheme import Ancestors, Scheme, draw, fraction, inner
from bayeskit.accel.resampling.search import count_at_most, spread
from bayeskit.accel.scan import prefix_sum

__all__ = [
    "RESIDUAL",
    "RESIDUAL_MULTINOMIAL",
    "residual",
    "residual_multinomial",
    "split_remainders",
]


def _one_uniform(num_particles: int, num: int) -> tuple[int, ...]:
    return ()


def _one_uniform_each(num_particles: int, num: int) -> tuple[int, ...]:
    return (num,)


def split_remainders(cdf: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
    """Return the cumulative sure copies (int32) and the cumulative remainders (float64).

    R lies on a binary grid, so that the split of its increments into whole and fractional
    parts is exact, and so is the number of draws that remain: the last remainder is an
    integer. To be called in a 64-bit scope.
    """
    sure = prefix_sum(jnp.floor(jnp.diff(cdf, prepend=0.0)).astype(jnp.int32))
    return sure, cdf - sure


def _residual_breaks(cdf: jax.Array, num: int) -> jax.Array:
    with jax.enable_x64(True):
        _, remainders = split_remainders(cdf, num)
        return fraction(inner(remainders))


def _residual_ancestors(cdf: jax.Array, u: jax.Array, num: int) -> jax.Array:
    with jax.enable_x64(True):
        sure, remainders = split_remainders(cdf, num)
        cumulative = sure + round_up_where_above(remainders, jnp.asarray(u, jnp.float64))
    return offspring_to_ancestors(cumulative, num)


def _residual_multinomial_breaks(cdf: jax.Array, num: int) -> jax.Array:
    with jax.enable_x64(True):
        _, remainders = split_remainders(cdf, num)
        num_draws = remainders[-1]
        levels = jnp.where(num_draws > 0, inner(remainders) / jnp.maximum(num_draws, 1), 1)
        draws = jnp.arange(num)[:, None]
        # Uniforms beyond the number of draws are not used: one cell.
        return jnp.where(draws < num_draws, levels, 1.0)


def _residual_multinomial_ancestors(cdf: jax.Array, u: jax.Array, num: int) -> jax.Array:
    if num == 0:
        return jnp.zeros(0, jnp.int32)
    with jax.enable_x64(True):
        sure, remainders = split_remainders(cdf, num)
        drawn = count_at_most(remainders, spread(u, remainders[-1]), num)
        copied = offspring_to_ancestors(sure, num)
        # Slots: first the sure copies, then the draws in the order of their uniforms.
        slot = jnp.arange(num, dtype=jnp.int32)
        draw = slot - sure[-1]
        return jnp.where(draw < 0, copied, drawn[jnp.maximum(draw, 0)])


RESIDUAL = Scheme("residual", _one_uniform, _residual_breaks, _residual_ancestors)
RESIDUAL_MULTINOMIAL = Scheme(
    "residual_multinomial",
    _one_uniform_each,
    _residual_multinomial_breaks,
    _residual_multinomial_ancestors,
    is_sorted=False,
    inverts_cdf=True,
)


def residual(
    key: Any, log_weights: Any, num: int | None = None, *, nan: str = "refuse"
) -> Ancestors:
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
    nan : {"refuse", "drop"}
        With ``"drop"`` a log-weight of NaN counts as weight zero.

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

    No gradient goes through the choice of ancestors: JAX takes its derivative as zero and does
    not say so. ``log_mean`` has its own.

    References
    ----------
    Douc, Cappé & Moulines (2005).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> residual(jax.random.key(0), jnp.log(jnp.array([0.5, 0.25, 0.25])), 4).index.tolist()
    [0, 0, 1, 2]
    """
    return draw(RESIDUAL, key, log_weights, num, nan)


def residual_multinomial(
    key: Any, log_weights: Any, num: int | None = None, *, nan: str = "refuse"
) -> Ancestors:
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
    nan : {"refuse", "drop"}
        With ``"drop"`` a log-weight of NaN counts as weight zero.

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

    No gradient goes through the choice of ancestors: JAX takes its derivative as zero and does
    not say so. ``log_mean`` has its own.

    References
    ----------
    Liu & Chen (1998).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> residual_multinomial(jax.random.key(0), jnp.zeros(2), 4).index.tolist()
    [0, 0, 1, 1]
    """
    return draw(RESIDUAL_MULTINOMIAL, key, log_weights, num, nan)
