"""Multinomial resampling: independent draws."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.accel.resampling.scheme import Ancestors, Scheme, draw, inner
from bayeskit.accel.resampling.search import count_at_most, spread

__all__ = ["MULTINOMIAL", "multinomial"]


def _uniform_shape(num_particles: int, num: int) -> tuple[int, ...]:
    return (num,)


def _breaks(cdf: jax.Array, num: int) -> jax.Array:
    with jax.enable_x64(True):
        levels = inner(cdf) / max(num, 1)
        return jnp.broadcast_to(levels, (num, *levels.shape))


def _ancestors(cdf: jax.Array, u: jax.Array, num: int) -> jax.Array:
    if num == 0:
        return jnp.zeros(0, jnp.int32)
    with jax.enable_x64(True):
        return count_at_most(cdf, spread(u, jnp.float64(num)), num)


MULTINOMIAL = Scheme(
    "multinomial", _uniform_shape, _breaks, _ancestors, is_sorted=False, inverts_cdf=True
)


def multinomial(
    key: Any, log_weights: Any, num: int | None = None, *, nan: str = "refuse"
) -> Ancestors:
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
    nan : {"refuse", "drop"}
        With ``"drop"`` a log-weight of NaN counts as weight zero.

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

    No gradient goes through the choice of ancestors: JAX takes its derivative as zero and does
    not say so. ``log_mean`` has its own.

    References
    ----------
    Gordon, Salmond & Smith (1993). Chen & Asau (1974), for the guide table.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> multinomial(jax.random.key(0), jnp.array([-jnp.inf, 0.0])).index.tolist()
    [1, 1]
    """
    return draw(MULTINOMIAL, key, log_weights, num, nan)
