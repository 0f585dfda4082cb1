r"""Collapse the rows of every group to what the level and the weights see of them.

In one group with covariance K of its process and precisions p, write S = diag(sqrt(p)) and
M = I + S K S. Then (K + diag(1/p))^{-1} = S M^{-1} S, which needs no inverse of a precision, so a
precision of zero is a row without data, and its covariance with others stays defined.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular

__all__ = ["Collapsed", "collapse", "group_factor", "map_groups", "root_of"]


class Collapsed(NamedTuple):
    """Sums over rows, whitened; the last of the columns is y."""

    gram: jax.Array  # (columns, columns): H~' H~
    level_precision: jax.Array  # (nodes): 1~' 1~
    level_columns: jax.Array  # (nodes, columns): 1~' H~
    log_det: jax.Array  # of all M


def root_of(precision: jax.Array) -> jax.Array:
    """Return square roots, with derivative zero at zero."""
    positive = precision > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, precision, 1.0)), 0.0)


def group_factor(kernel: Any, x: Any, s: jax.Array) -> jax.Array:
    """Return the Cholesky factor of M for the rows of one group, with coordinates x."""
    M = jnp.eye(len(s)) + s[:, None] * kernel.covariance(x, x) * s
    return jnp.linalg.cholesky(M)


def map_groups(function: Any, *arguments: Any) -> Any:
    """Apply a function to every group.

    On CPUs one after the other: batched factorisations there wait for one another in the pool
    of threads, which may never end where the pool is small.
    """
    if jax.default_backend() == "cpu":
        return lax.map(lambda group: function(*group), arguments)
    return jax.vmap(function)(*arguments)


def collapse(kernel: Any, arrays: Any, y: jax.Array, precision: jax.Array) -> Collapsed:
    """Return the sums over all rows.

    Parameters
    ----------
    kernel : ModeKernel or None
        Of the process within groups.
    arrays : Arrays
    y, precision : (rows) arrays, padded
    """
    columns = jnp.pad(jnp.concatenate([arrays.columns, y[:, None]], axis=1), ((0, 1), (0, 0)))
    root = jnp.pad(root_of(precision), (0, 1))
    num_columns, num_nodes = columns.shape[1], len(arrays.nodes)
    gram = jnp.zeros((num_columns, num_columns))
    level = jnp.zeros((num_nodes, num_columns + 1))
    log_det = jnp.zeros(())

    def whitened(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        s = root[rows]
        factor = group_factor(kernel, [values[rows] for values in arrays.coordinates], s)
        plain = s[:, None] * jnp.concatenate([jnp.ones((len(rows), 1)), columns[rows]], axis=1)
        white = solve_triangular(factor, plain, lower=True)
        return white, 2.0 * jnp.sum(jnp.log(jnp.diagonal(factor)))

    for block in arrays.blocks:
        if kernel is None:
            s = root[block.rows]
            white = jnp.concatenate([s[..., None], s[..., None] * columns[block.rows]], axis=-1)
        else:
            white, log_dets = map_groups(whitened, block.rows)
            log_det += jnp.sum(log_dets)
        flat = white[..., 1:].reshape(-1, num_columns)
        gram += flat.T @ flat
        sums = jnp.einsum("gi,gic->gc", white[..., 0], white)
        level = level.at[block.node].add(sums, mode="drop")
    return Collapsed(gram, level[:, 0], level[:, 1:], log_det)
