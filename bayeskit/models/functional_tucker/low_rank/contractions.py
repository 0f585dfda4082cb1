r"""Moments of the row designs of a multilinear model.

Given all modes but k, a row is linear in the functions of mode k, and given all modes it is
linear in the core :math:`g = \mathrm{vec}(G)`, the last mode varying fastest:

.. math:: f_n = a_n^\top u^k(x_{nk}) = g^\top z_n, \qquad
    a_n = G_{(k)} \bigotimes_{j \ne k} u^j(x_{nj}), \quad z_n = \bigotimes_k u^k(x_{nk}) .

Under independent factors the second moments are Kronecker products of those of the modes, so
that sums over rows are matrix products. Symmetric matrices are packed: R(R + 1)/2 numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.models.functional_tucker.low_rank.layout import Layout

__all__ = [
    "CoreMoments",
    "Moments",
    "core_moments",
    "core_sums",
    "expected_square",
    "expected_value",
    "map_over_chunks",
    "mode_design",
    "moments_of",
    "pack",
    "sum_over_chunks",
    "unpack",
    "unpacked_core",
]

# Numbers that a chunk of rows may hold at a time: 32 MB in double precision.
_CHUNK = 2**22


class Moments(NamedTuple):
    """First and packed second moments of vectors, (num, R) and (num, R(R + 1)/2)."""

    mean: jax.Array
    second: jax.Array

    def at(self, place: jax.Array) -> Moments:
        """Return the moments of rows that stand at these places."""
        return Moments(self.mean[place], self.second[place])


class CoreMoments(NamedTuple):
    """First and second moments of the core, (R_1, ..., R_K) and (R_1, ..., R_K, R_1, ...)."""

    mean: jax.Array
    second: Any


@functools.cache
def _upper(rank: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(rank)


@functools.cache
def _places(rank: int) -> np.ndarray:
    rows, columns = _upper(rank)
    places = np.zeros((rank, rank), int)
    places[rows, columns] = places[columns, rows] = np.arange(len(rows))
    return places


def pack(matrix: jax.Array) -> jax.Array:
    """Return the upper triangle (..., R(R + 1)/2) of symmetric matrices (..., R, R)."""
    rows, columns = _upper(matrix.shape[-1])
    return matrix[..., rows, columns]


def unpack(packed: jax.Array, rank: int) -> jax.Array:
    """Return the matrices (..., R, R) that :func:`pack` took apart."""
    return packed[..., _places(rank)]


def moments_of(mean: jax.Array, covariance: jax.Array | None = None) -> Moments:
    """Return moments of vectors (num, R) with covariances (num, R, R), or of known ones."""
    rows, columns = _upper(mean.shape[-1])
    second = mean[:, rows] * mean[:, columns]
    return Moments(mean, second if covariance is None else second + pack(covariance))


def core_moments(mean: jax.Array, covariance: jax.Array | None = None) -> CoreMoments:
    """Return moments of a core (R_1, ..., R_K) with covariance (size, size), or a known one."""
    second = jnp.multiply.outer(mean, mean)
    if covariance is not None:
        second = second + covariance.reshape(second.shape)
    return CoreMoments(mean, second)


def _row_products(parts: Sequence[jax.Array], num: int) -> jax.Array:
    """Return the Kronecker product of rows: (num, a), (num, b), ... to (num, a b ...)."""
    product = jnp.ones((num, 1), parts[0].dtype if parts else float)
    for part in parts:
        product = (product[:, :, None] * part[:, None, :]).reshape(num, -1)
    return product


def _packed_core(second: jax.Array, keep: int | None) -> jax.Array:
    """Return E[G G] as a matrix from packed moments of all modes but one to packed ones of it.

    With ``keep`` None: to a column, of all modes.
    """
    num_modes = second.ndim // 2
    order = [axis for k in range(num_modes) for axis in (k, num_modes + k)]
    paired = jnp.transpose(second, order)
    for k in range(num_modes):
        # Modes before this one have one axis left.
        moved = jnp.moveaxis(paired, (k, k + 1), (0, 1))
        rows, columns = _upper(moved.shape[0])
        folded = moved[rows, columns]
        if k != keep:
            others = (rows != columns).reshape(-1, *[1] * (folded.ndim - 1))
            folded = folded + jnp.where(others, moved[columns, rows], 0.0)
        paired = jnp.moveaxis(folded, 0, k)
    if keep is None:
        return paired.reshape(-1, 1)
    paired = jnp.moveaxis(paired, keep, -1)
    return paired.reshape(-1, paired.shape[-1])


def mode_design(
    layout: Layout, core: CoreMoments | None, factors: Sequence[Moments], mode: int
) -> Moments:
    """Return the moments of a_n: the design of rows in the functions of one mode.

    Parameters
    ----------
    layout : Layout
    core : CoreMoments, or None where the core is diagonal
    factors : sequence of Moments
        Of all modes at the rows, (rows, R_k) each. That of ``mode`` is not looked at.
    mode : int

    Returns
    -------
    Moments of (rows, R_k) and (rows, R_k (R_k + 1)/2) arrays
    """
    num = factors[0].mean.shape[0]
    others = [factor for k, factor in enumerate(factors) if k != mode]
    if core is None:
        ones = [jnp.ones_like(part) for part in factors[mode]]
        first, second = (
            functools.reduce(jnp.multiply, [factor[i] for factor in others], ones[i])
            for i in range(2)
        )
        return Moments(first, second)
    first, second = (_row_products([factor[i] for factor in others], num) for i in range(2))
    unfolded = jnp.moveaxis(core.mean, mode, -1).reshape(-1, layout.ranks[mode])
    return Moments(first @ unfolded, second @ _packed_core(core.second, mode))


def expected_value(
    layout: Layout, core: CoreMoments | None, factors: Sequence[Moments]
) -> jax.Array:
    """Return E[f_n], (rows,)."""
    if core is None:
        return jnp.sum(functools.reduce(jnp.multiply, [f.mean for f in factors]), axis=1)
    products = _row_products([f.mean for f in factors[:-1]], factors[0].mean.shape[0])
    matrix = core.mean.reshape(-1, layout.ranks[-1])
    return jnp.sum((products @ matrix) * factors[-1].mean, axis=1)


def expected_square(
    layout: Layout, core: CoreMoments | None, factors: Sequence[Moments]
) -> jax.Array:
    """Return E[f_n^2], (rows,)."""
    if core is None:
        product = functools.reduce(jnp.multiply, [f.second for f in factors])
        rows, columns = _upper(layout.ranks[0])
        return product @ jnp.where(rows == columns, 1.0, 2.0).astype(product.dtype)
    products = _row_products([f.second for f in factors[:-1]], factors[0].mean.shape[0])
    matrix = _packed_core(core.second, None).reshape(-1, layout.packed[-1])
    return jnp.sum((products @ matrix) * factors[-1].second, axis=1)


def core_sums(
    layout: Layout, factors: Sequence[Moments], weight: jax.Array, target: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the sums of w E[z z'] (packed by mode) and of w t E[z] over rows.

    Parameters
    ----------
    layout : Layout
    factors : sequence of Moments, of all modes at the rows
    weight, target : (rows,) arrays w and t

    Returns
    -------
    (prod of packed sizes,) and (core size,) arrays
    """
    num = factors[0].mean.shape[0]
    products = _row_products([f.second for f in factors[:-1]], num)
    precision = products.T @ (weight[:, None] * factors[-1].second)
    products = _row_products([f.mean for f in factors[:-1]], num)
    shift = products.T @ ((weight * target)[:, None] * factors[-1].mean)
    return precision.reshape(-1), shift.reshape(-1)


def unpacked_core(packed: jax.Array, ranks: Sequence[int]) -> jax.Array:
    """Return the matrix (size, size) that :func:`core_sums` has packed mode by mode."""
    sizes = [rank * (rank + 1) // 2 for rank in ranks]
    full = packed.reshape(sizes)
    for k, rank in enumerate(ranks):
        # Two axes in the place of one, for each mode before this one.
        full = jnp.moveaxis(
            jnp.moveaxis(full, 2 * k, -1)[..., _places(rank)], (-2, -1), (2 * k, 2 * k + 1)
        )
    num_modes = len(ranks)
    order = [2 * k for k in range(num_modes)] + [2 * k + 1 for k in range(num_modes)]
    size = int(np.prod(ranks))
    return jnp.transpose(full, order).reshape(size, size)


def _chunked(rows: Any, width: int) -> Any:
    """Return rows in chunks (chunks, rows, ...), or None where one chunk holds all."""
    num = chunk = jax.tree.leaves(rows)[0].shape[0]
    while chunk * width > _CHUNK and chunk % 2 == 0:
        chunk //= 2
    if chunk == num:
        return None
    return jax.tree.map(lambda part: part.reshape(-1, chunk, *part.shape[1:]), rows)


def sum_over_chunks(function: Callable, rows: Any, width: int) -> Any:
    """Return the sum over chunks of rows of a function's results, in bounded memory.

    Parameters
    ----------
    function : callable (rows) -> pytree of sums over these rows
    rows : pytree of arrays with leading axis rows
    width : int
        How many numbers a row needs on the way.
    """
    chunks = _chunked(rows, width)
    if chunks is None:
        return function(rows)
    shapes = jax.eval_shape(function, jax.tree.map(lambda part: part[0], chunks))
    start = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    add = lambda total, part: (jax.tree.map(jnp.add, total, function(part)), None)
    return jax.lax.scan(add, start, chunks)[0]


def map_over_chunks(function: Callable, rows: Any, width: int) -> Any:
    """Return a function's results for all rows, chunk by chunk, in bounded memory.

    Parameters
    ----------
    function : callable (rows) -> pytree of arrays with leading axis rows
    rows, width
        As for :func:`sum_over_chunks`.
    """
    chunks = _chunked(rows, width)
    if chunks is None:
        return function(rows)
    found = jax.lax.map(function, chunks)
    return jax.tree.map(lambda part: part.reshape(-1, *part.shape[2:]), found)
