r"""Pólya-Gamma random numbers PG(1, c), by the inverse of their distribution function.

A logistic answer becomes Gaussian given such a number,

.. math::
    \sigma(\eta)^y \sigma(-\eta)^{1 - y} = \tfrac12 e^{(y - 1/2)\eta}
        \int e^{-\omega \eta^2 / 2}\, PG(d\omega; 1, 0), \qquad
    \omega \mid \eta \sim PG(1, \eta) .

:math:`4\omega` is the time at which a Brownian motion with drift z = |c|/2 leaves (-1, 1). Its
distribution function has one alternating series for small times and one for large, each below
rounding after a few terms, so that bisection inverts it: one uniform number a draw, no
rejection, the same work in every lane.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr

from bayeskit.inference import random

__all__ = ["polya_gamma", "polya_gamma_cdf"]

_NUM_TERMS = 5
# Between these lie all but 1e-17 of the exit times for drifts up to a few thousand.
_LOW, _HIGH = -14.0, 4.2
# Halvings of that range: a relative error of 1e-10.
_NUM_HALVINGS = 38


def _exit_time_cdf(x: jax.Array, z: jax.Array) -> jax.Array:
    """Return the probability that the motion has left by time x."""
    n = jnp.arange(_NUM_TERMS, dtype=x.dtype)
    sign = jnp.where(n % 2 == 0, 1.0, -1.0)
    log_cosh = z + jnp.log1p(jnp.exp(-2.0 * z)) - jnp.log(2.0)
    x, z, log_cosh = x[..., None], z[..., None], log_cosh[..., None]
    # Images of the two ends, for small times.
    early = jnp.minimum(x, 1.0)
    a, root = 2.0 * n + 1.0, jnp.sqrt(early)
    towards = jnp.exp(log_cosh - a * z + log_ndtr((z * early - a) / root))
    away = jnp.exp(log_cosh + a * z + log_ndtr(-(z * early + a) / root))
    small = 2.0 * jnp.sum(sign * (towards + away), axis=-1)
    # Eigenfunctions of the interval, for large times.
    late = jnp.maximum(x, 1.0)
    frequency = jnp.pi * (n + 0.5)
    rate = 0.5 * (frequency**2 + z**2)
    large = 1.0 - jnp.sum(sign * frequency / rate * jnp.exp(log_cosh - rate * late), axis=-1)
    return jnp.where(x[..., 0] <= 1.0, small, large)


def polya_gamma_cdf(omega: Any, c: Any) -> jax.Array:
    """Return the distribution function of PG(1, c).

    Parameters
    ----------
    omega, c : arrays that broadcast

    Examples
    --------
    >>> round(float(polya_gamma_cdf(0.25, 0.0)), 3)
    0.629
    """
    omega, c = jnp.broadcast_arrays(jnp.asarray(omega, float), jnp.asarray(c, float))
    return _exit_time_cdf(4.0 * omega, jnp.abs(c) / 2.0)


def polya_gamma(key: Any, c: Any) -> jax.Array:
    """Draw from PG(1, c), on any kind of key.

    Parameters
    ----------
    key : key
    c : array

    Returns
    -------
    array of the shape of c

    Notes
    -----
    About 40 µs a draw on a CPU core. In float32 the far tails are those of its uniform numbers.

    References
    ----------
    Polson, Scott & Windle (2013), *Bayesian inference for logistic models using Pólya-Gamma
    latent variables*.

    Examples
    --------
    >>> import jax
    >>> draws = polya_gamma(jax.random.key(0), jax.numpy.zeros(1000))
    >>> bool(abs(draws.mean() - 0.25) < 0.04)
    True
    """
    c = jnp.asarray(c, jnp.result_type(float, jnp.result_type(c)))
    z = jnp.abs(c) / 2.0
    u = random.uniform(key, c.shape, c.dtype)

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        is_above = _exit_time_cdf(jnp.exp(middle), z) < u
        return jnp.where(is_above, middle, low), jnp.where(is_above, high, middle)

    ends = jnp.full_like(c, _LOW), jnp.full_like(c, _HIGH)
    low, high = jax.lax.fori_loop(0, _NUM_HALVINGS, halve, ends)
    return 0.25 * jnp.exp(0.5 * (low + high))
