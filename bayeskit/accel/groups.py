"""Particles in groups that lie side by side: views of several groups as one, and a ring."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["pool_groups", "ring_exchange", "unpool_groups"]


def pool_groups(tree: Any, num_groups: int, together: int = 1, stride: int = 1) -> Any:
    r"""Return particles by pools of groups.

    Of P groups of M neighbouring particles each, the groups
    :math:`p, p + \text{stride}, \dots, p + (\text{together} - 1)\,\text{stride}` make a pool.

    Parameters
    ----------
    tree : pytree of (num_particles, ...) arrays
    num_groups : int
        P, a divisor of the number of particles.
    together, stride : int
        Their product divides P.

    Returns
    -------
    pytree of (P / together, together M, ...) arrays

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> pool_groups(jnp.arange(8), 4, together=2, stride=2).tolist()
    [[0, 1, 4, 5], [2, 3, 6, 7]]
    """

    def one(leaf):
        leaf = jnp.asarray(leaf)
        rest = leaf.shape[1:]
        size = leaf.shape[0] // num_groups
        apart = leaf.reshape(-1, together, stride, size, *rest).swapaxes(1, 2)
        return apart.reshape(num_groups // together, together * size, *rest)

    return jax.tree.map(one, tree)


def unpool_groups(tree: Any, num_groups: int, together: int = 1, stride: int = 1) -> Any:
    """Return pools as particles again, in the order that :func:`pool_groups` found them in.

    Parameters
    ----------
    tree : pytree of (num_pools, pool_size, ...) arrays
    num_groups, together, stride : int
        As they were pooled.

    Returns
    -------
    pytree, each leaf (num_particles, ...)

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> pools = pool_groups(jnp.arange(8), 4, together=2, stride=2)
    >>> unpool_groups(pools, 4, together=2, stride=2).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """

    def one(leaf):
        num_pools, pool_size, *rest = leaf.shape
        size = pool_size // together
        apart = leaf.reshape(-1, stride, together, size, *rest).swapaxes(1, 2)
        return apart.reshape(num_pools * pool_size, *rest)

    return jax.tree.map(one, tree)


def ring_exchange(tree: Any, num_groups: int, fraction: float) -> Any:
    r"""Pass some particles of each group on to the next group, and of the last to the first.

    Of M particles of a group, :math:`\lceil \text{fraction}\, M \rceil` evenly spaced ones take
    the same places in the next group: neighbours are often copies of one ancestor.

    Parameters
    ----------
    tree : pytree of (num_particles, ...) arrays
        All that belongs to a particle, its weight included.
    num_groups : int
        A divisor of the number of particles.
    fraction : float in [0, 1]

    Returns
    -------
    pytree like the arguments

    Raises
    ------
    ValueError
        For a fraction out of its range.

    Notes
    -----
    Where each device holds whole groups, only the particles that change groups are sent.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> ring_exchange(jnp.arange(6), 3, 0.5).tolist()
    [0, 5, 2, 1, 4, 3]
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be in [0, 1], got {fraction!r}")

    def one(leaf):
        leaf = jnp.asarray(leaf)
        groups = leaf.reshape(num_groups, -1, *leaf.shape[1:])
        places = _evenly_spaced(groups.shape[1], fraction)
        passed = jnp.roll(groups[:, places], 1, axis=0)
        return groups.at[:, places].set(passed).reshape(leaf.shape)

    return jax.tree.map(one, tree)


def _evenly_spaced(size: int, fraction: float) -> np.ndarray:
    number = math.ceil(fraction * size)
    steps = np.arange(size + 1) * number // size
    return np.flatnonzero(np.diff(steps))
