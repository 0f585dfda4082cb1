"""Systematic resampling: one uniform for all offspring."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.accel.offspring import ancestors_at_levels
from bayeskit.accel.resampling.scheme import Ancestors, Scheme, draw, fraction, inner

__all__ = ["SYSTEMATIC", "systematic"]


def _uniform_shape(num_particles: int, num: int) -> tuple[int, ...]:
    return ()


def _breaks(cdf: jax.Array, num: int) -> jax.Array:
    with jax.enable_x64(True):
        return fraction(inner(cdf))


def _ancestors(cdf: jax.Array, u: jax.Array, num: int) -> jax.Array:
    return ancestors_at_levels(cdf, jnp.reshape(u, 1), num)


SYSTEMATIC = Scheme("systematic", _uniform_shape, _breaks, _ancestors)


def systematic(
    key: Any, log_weights: Any, num: int | None = None, *, nan: str = "refuse"
) -> Ancestors:
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
    Carpenter, Clifford & Fearnhead (1999).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> systematic(jax.random.key(0), jnp.log(jnp.array([0.5, 0.25, 0.25]))).index.shape
    (3,)
    >>> systematic(jax.random.key(0), jnp.zeros(4)).index.tolist()
    [0, 1, 2, 3]
    """
    return draw(SYSTEMATIC, key, log_weights, num, nan)
