r"""Collapse the rows of every group to what the level and the weights see of them.

In one group with covariance K of its process and precisions p, write S = diag(sqrt(p)) and
M = I + S K S. Then (K + diag(1/p))^{-1} = S M^{-1} S needs no inverse of a precision: zero is a
row without data, whose covariance with others stays defined.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular

from bayeskit.accel.time.associative import by_method

__all__ = ["Collapsed", "collapse", "map_groups", "padded_columns", "root_of", "whitened"]


class Collapsed(NamedTuple):
    """Sums over rows, whitened; the last of the columns is y."""

    gram: jax.Array  # (columns, columns): H~' H~
    precision: jax.Array  # (nodes): 1~' 1~
    columns: jax.Array  # (nodes, columns): 1~' H~
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

    def in_turn(*groups: Any) -> Any:
        return lax.map(lambda group: function(*group), groups)

    return by_method("auto", in_turn, jax.vmap(function), *arguments)


def whitened(kernel: Any, x: Any, s: jax.Array, plain: jax.Array) -> tuple:
    """Return the Cholesky factor of M for one group, and its solution for s times columns."""
    factor = group_factor(kernel, x, s)
    return factor, solve_triangular(factor, s[:, None] * plain, lower=True)


def padded_columns(columns: jax.Array, y: jax.Array) -> jax.Array:
    """Return (rows + 1, 1 + weights + 1) columns: ones, those of the weights, y; then zeros."""
    ones = jnp.ones((len(columns), 1))
    return jnp.pad(jnp.concatenate([ones, columns, y[:, None]], axis=1), ((0, 1), (0, 0)))


def collapse(
    kernel: Any, arrays: Any, columns: jax.Array, y: jax.Array, precision: jax.Array
) -> Collapsed:
    """Return the sums over all rows.

    Parameters
    ----------
    kernel : ModeKernel or None
        Of the process within groups.
    arrays : Arrays
    columns : (rows, weights) array
    y, precision : (rows) arrays, padded
    """
    plain = padded_columns(columns, y)
    root = jnp.pad(root_of(precision), (0, 1))
    num_columns = plain.shape[1] - 1
    gram = jnp.zeros((num_columns, num_columns))
    level = jnp.zeros((len(arrays.nodes), num_columns + 1))
    log_det = jnp.zeros(())

    def one_group(x: Any, s: jax.Array, plain: jax.Array) -> tuple[jax.Array, jax.Array]:
        factor, white = whitened(kernel, x, s, plain)
        return white, 2.0 * jnp.sum(jnp.log(jnp.diagonal(factor)))

    for block in arrays.blocks:
        s, block_plain = root[block.rows], plain[block.rows]
        if kernel is None:
            white = s[..., None] * block_plain
        else:
            x = [values[block.rows] for values in arrays.coordinates]
            white, log_dets = map_groups(one_group, x, s, block_plain)
            log_det += jnp.sum(log_dets)
        flat = white[..., 1:].reshape(-1, num_columns)
        gram += flat.T @ flat
        sums = jnp.einsum("gi,gic->gc", white[..., 0], white)
        level = level.at[block.node].add(sums, mode="drop")
    return Collapsed(gram, level[:, 0], level[:, 1:], log_det)
