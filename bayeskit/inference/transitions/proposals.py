"""Proposals: where a Metropolis-Hastings step would go, and with which density."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bayeskit.inference import random

__all__ = ["Proposal", "random_walk"]


@dataclass(frozen=True, eq=False)
class Proposal:
    r"""A proposal :math:`q(x, dx')` for a Metropolis-Hastings step.

    Parameters
    ----------
    draw : callable (key, x) -> x
    log_density : callable (x, x_new) -> () array, optional
        :math:`\log q(x, x')`, up to a constant. Without it the proposal is symmetric.
    name : str

    Examples
    --------
    A positive number times a random factor. The way from 2 back to 1 has twice the density of
    the way from 1 to 2:

    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> scaling = bi.Proposal(
    ...     lambda key, x: x * jnp.exp(bi.random.normal(key)),
    ...     lambda x, new: -0.5 * jnp.log(new / x) ** 2 - jnp.log(new),
    ... )
    >>> round(float(jnp.exp(scaling.log_ratio(1.0, 2.0))), 4)
    2.0
    """

    draw: Callable
    log_density: Callable | None = None
    name: str = "proposal"

    def log_ratio(self, x: Any, new: Any) -> jax.Array:
        r"""Return :math:`\log q(x', x) - \log q(x, x')`."""
        if self.log_density is None:
            return jnp.zeros(())
        return self.log_density(new, x) - self.log_density(x, new)


def random_walk(scale: Any) -> Proposal:
    r"""Return the symmetric proposal :math:`x' = x + L \varepsilon` with normal noise.

    Parameters
    ----------
    scale : float, (dim,) or (dim, dim) array
        L: a number or one for each coordinate, or a matrix with :math:`L L'` the covariance.
        Positions that are dictionaries are taken as one vector, sorted by name.

    Returns
    -------
    Proposal

    Raises
    ------
    ValueError
        If it is not finite or has more than two axes.

    Notes
    -----
    With d parameters and a noisy likelihood, :math:`2.56 / \sqrt{d}` times the standard
    deviation of the posterior is efficient (Sherlock, Thiery, Roberts & Rosenthal 2015), with
    enough particles for a standard deviation of the log estimate between 1 and 1.7.

    Examples
    --------
    A scale of 0 leaves a coordinate where it is:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from bayeskit import inference as bi
    >>> walk = bi.random_walk([1.0, 0.0])
    >>> moved = walk.draw(jax.random.key(0), jnp.array([3.0, 5.0]))
    >>> float(moved[1]), float(walk.log_ratio(jnp.zeros(2), moved))
    (5.0, 0.0)
    """
    # A NumPy array takes the precision of the program that runs it.
    scale = np.asarray(scale, float)
    if scale.ndim > 2 or not np.isfinite(scale).all():
        raise ValueError(
            f"scale must be finite: a number, (dim,) or (dim, dim), got shape {scale.shape}"
        )

    def draw(key, x):
        flat, unravel = ravel_pytree(x)
        noise = random.normal(key, flat.shape, flat.dtype)
        factor = jnp.asarray(scale, flat.dtype)
        return unravel(flat + (factor @ noise if factor.ndim == 2 else factor * noise))

    return Proposal(draw, name="random walk")
