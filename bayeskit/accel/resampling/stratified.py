"""Stratified resampling: one uniform for each of ``num`` strata of equal mass."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bayeskit.accel.offspring import ancestors_at_levels
from bayeskit.accel.resampling.scheme import Ancestors, Scheme, draw, inner

__all__ = ["STRATIFIED", "stratified"]


def _uniform_shape(num_particles: int, num: int) -> tuple[int, ...]:
    return (num,)


def _breaks(cdf: jax.Array, num: int) -> jax.Array:
    with jax.enable_x64(True):
        strata = jnp.arange(num, dtype=jnp.float64)[:, None]
        return jnp.clip(inner(cdf) - strata, 0.0, 1.0)


def _ancestors(cdf: jax.Array, u: jax.Array, num: int) -> jax.Array:
    return ancestors_at_levels(cdf, u, num)


STRATIFIED = Scheme("stratified", _uniform_shape, _breaks, _ancestors)


def stratified(
    key: Any, log_weights: Any, num: int | None = None, *, nan: str = "refuse"
) -> Ancestors:
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
    Kitagawa (1996).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> stratified(jax.random.key(0), jnp.zeros(4)).index.tolist()
    [0, 1, 2, 3]
    """
    return draw(STRATIFIED, key, log_weights, num, nan)
