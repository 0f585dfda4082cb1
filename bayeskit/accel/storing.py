"""Compute elementwise what several loops will read, once."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["stored"]

_Elementwise = Callable[[jax.Array], jax.Array]


def stored(function: _Elementwise, values: jax.Array) -> jax.Array:
    """Return ``function(values)`` so that a CPU computes it once and keeps it.

    XLA computes anew whatever it can fuse into each of the loops that read it: an exponential
    for each sum over it, a random word wherever it is used. What a loop of its own returns it
    keeps; so this is a loop of two turns, since one would be dissolved. Numbers of single
    precision are then also not slowed down to the pace of doubles that they are added to.

    Parameters
    ----------
    function : callable
        Elementwise, of a float or an unsigned integer.
    values : array

    Returns
    -------
    array of the same shape

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> stored(jnp.exp, jnp.zeros(3)).tolist()
    [1.0, 1.0, 1.0]
    """

    def in_halves(values):
        flat = values.reshape(-1)
        rows = jnp.pad(flat, (0, flat.size % 2)).reshape(2, -1)
        return lax.map(function, rows).reshape(-1)[: flat.size].reshape(values.shape)

    return lax.platform_dependent(values, cpu=in_halves, default=function)
