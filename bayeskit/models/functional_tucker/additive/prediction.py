r"""Moments and joint draws of rows, given the posterior of level and weights.

For a row of a group with whitened training rows, :math:`U = C^{-1} S k`,

.. math::

    t = U^\top \tilde y + (1 - U^\top \tilde 1)\, \ell
        + (h - U^\top \tilde H)\, w + r, \qquad r \sim N(0, k_{**} - U^\top U),

with the level :math:`\ell = \mu - M w + e`. The cross-covariance of level and weights stands in
M; e is the level's error if the weights were known.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl

from bayeskit.accel import kalman_sample, kalman_smoother
from bayeskit.models.functional_tucker.additive.collapse import (
    map_groups,
    padded_columns,
    root_of,
    whitened,
)
from bayeskit.models.functional_tucker.additive.evidence import (
    Reduced,
    columns_of,
    knot_factor,
    level_chain,
    sites,
)
from bayeskit.models.functional_tucker.additive.plan import part_of
from bayeskit.models.functional_tucker.terms import covariance

__all__ = [
    "Rows",
    "draw_rows",
    "moments_of_rows",
    "normals_needed",
    "rows_given_data",
]


class Rows(NamedTuple):
    """New rows as functions of whitened weights v and of what is independent of them.

    t = shift + weights v + load e[node] + sum of the residuals.
    """

    shift: jax.Array  # (new)
    weights: jax.Array  # (new, weights)
    load: jax.Array  # (new)
    level: Any  # on the joint grid, or None
    within: tuple[jax.Array, ...]  # for each block of groups: (groups, new size, new size)
    uncovered: tuple[jax.Array, ...]  # for each block of weights: (co)variances off the knots


class _Level(NamedTuple):
    chain: Any
    precision: jax.Array
    variance: jax.Array


def _scattered(place: jax.Array, values: jax.Array, size: int) -> jax.Array:
    return jnp.zeros((size, *values.shape[1:])).at[place].set(values, mode="drop")


def rows_given_data(
    plan: Any,
    kernels: Any,
    arrays: Any,
    y: jax.Array,
    precision: jax.Array,
    reduced: Reduced,
    new: Any,
    joint: bool = False,
) -> Rows:
    """Return new rows as functions of the weights and of independent residuals.

    Parameters
    ----------
    plan, kernels, arrays, y, precision
        As for :func:`~bayeskit.models.functional_tucker.additive.evidence.reduce`.
    reduced : Reduced
    new : NewArrays
    joint : bool
        Whether residuals need their covariances, or variances alone.
    """
    num_new, num_nodes = len(new.new_node), len(new.nodes)
    columns, uncovered = _new_columns(plan, kernels, arrays, new, joint)
    shift, load = jnp.zeros(num_new), jnp.asarray(new.on_level)
    within: list[jax.Array] = []
    if new.blocks:
        node_columns = jnp.concatenate(
            [
                jnp.ones((len(arrays.nodes), 1)),
                *columns_of(plan.on_nodes, kernels, arrays.node_columns),
            ],
            axis=1,
        )
        row_columns = jnp.concatenate(
            [jnp.zeros((len(y), 0)), *columns_of(plan.on_rows, kernels, arrays.row_columns)],
            axis=1,
        )
        predicted, within = _within_groups(
            kernels[plan.within], arrays, row_columns, y, precision, new
        )
        load = load - predicted[:, 0]
        shift = predicted[:, -1]
        on_grid = _scattered(new.training_place, node_columns, num_nodes)
        columns -= jnp.concatenate(
            [predicted[:, :1] * on_grid[new.new_node], predicted[:, 1:-1]], axis=1
        )
    level = None
    if plan.level:
        chain = level_chain(plan, kernels, new.nodes, new.gaps)
        lam = _scattered(new.training_place, reduced.level_precision, num_nodes)
        eta = _scattered(new.training_place, reduced.level_columns, num_nodes)

        def smooth(shift: jax.Array) -> tuple[jax.Array, jax.Array]:
            known = sites(chain, lam, shift)
            found = kalman_smoother(chain.states, known)
            return found.mean, found.covariance

        means, covariances = jax.vmap(smooth, in_axes=1, out_axes=(2, None))(eta)
        h = chain.matrix[:, 0]
        means = jnp.einsum("td,tdc->tc", h, means)[new.new_node]
        shift += load * means[:, -1]
        columns -= load[:, None] * means[:, :-1]
        level = _Level(chain, lam, jnp.einsum("td,tde,te->t", h, covariances, h))
    return Rows(shift, columns @ reduced.factor, load, level, tuple(within), uncovered)


def _new_columns(
    plan: Any, kernels: Any, arrays: Any, new: Any, joint: bool
) -> tuple[jax.Array, tuple]:
    """Return the columns of new rows, and (co)variances left at coordinates off the knots."""
    columns = [new.constant[:, None]]
    left = []
    parts = columns_of(plan.weights, kernels, new.columns)
    for block, part, mask, knots, z, index in zip(
        plan.weights,
        parts,
        new.mask,
        arrays.knots,
        new.uncovered,
        new.uncovered_index,
        strict=True,
    ):
        if len(z):
            kernel = part_of(kernels, block)
            factor = knot_factor(kernel, knots)
            white = jsl.solve_triangular(factor, covariance(kernel, knots, z), lower=True)
            share = jsl.solve_triangular(factor, white, lower=True, trans=1).T
            part = part + jnp.where(index[:, None] >= 0, share[index], 0.0)
            if joint:
                left.append(mask * (covariance(kernel, z, z) - white.T @ white))
            else:
                own = jax.vmap(kernel.evaluate)(z, z)
                left.append(mask * (own - jnp.sum(white**2, axis=0)))
        else:
            left.append(jnp.zeros((0, 0)))
        columns.append(mask * part)
    return jnp.concatenate(columns, axis=1), tuple(left)


def _within_groups(
    kernel: Any, arrays: Any, row_columns: Any, y: Any, precision: Any, new: Any
) -> tuple[jax.Array, list[jax.Array]]:
    """Return U' [1~, H~, y~] of new rows, and the residual covariances of each group."""
    plain = padded_columns(row_columns, y)
    root = jnp.pad(root_of(precision), (0, 1))

    def one_group(x: Any, x_new: Any, s: jax.Array, plain: jax.Array) -> tuple:
        both = jnp.concatenate([plain, kernel.covariance(x, x_new)], axis=1)
        white = whitened(kernel, x, s, both)[1]
        U = white[:, plain.shape[1] :]
        return U.T @ white[:, : plain.shape[1]], kernel.covariance(x_new, x_new) - U.T @ U

    predicted = jnp.zeros((len(new.new_node), plain.shape[1]))
    left = []
    for block in new.blocks:
        x = [values[block.rows] for values in arrays.coordinates]
        x_new = [values[block.new] for values in new.coordinates]
        means, residual = map_groups(one_group, x, x_new, root[block.rows], plain[block.rows])
        predicted = predicted.at[block.new].set(means, mode="drop")
        left.append(residual)
    return predicted, left


def moments_of_rows(
    rows: Rows, reduced: Reduced, new: Any, share: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    r"""Return the posterior mean and variance of t at new rows, each by itself.

    With shares, those of t less its own mean, from the joint law:

    .. math:: c_i = t_i - \sum_j a_j t_j, \qquad
        \mathrm{Var}(c_i) = K_{ii} - 2 (K a)_i + a^\top K a

    Neither the rows of K for the weights nor those of the level are formed: weights are
    centred, and a smoother takes the level's K to a.

    Parameters
    ----------
    share : (new) array a, optional
        It sums to one, and is zero within groups and off the knots, where what is left is then
        no part of the mean.
    """
    shift, weights = rows.shift, rows.weights
    if share is not None:
        shift, weights = shift - share @ shift, weights - share @ weights
    mean = shift + weights @ reduced.mean
    white = jsl.solve_triangular(reduced.cholesky, weights.T, lower=True)
    variance = jnp.sum(white**2, axis=0)
    if rows.level is not None:
        variance += rows.load**2 * rows.level.variance[new.new_node]
        if share is not None:
            variance += _of_level_mean(rows, new, share)
    for block, residual in zip(new.blocks, rows.within, strict=True):
        own = jnp.diagonal(residual, axis1=1, axis2=2)
        variance = variance.at[block.new].add(own, mode="drop")
    for residual, index in zip(rows.uncovered, new.uncovered_index, strict=True):
        if len(residual):
            variance += jnp.where(index >= 0, residual[index], 0.0)
    return mean, jnp.maximum(variance, 0.0)


def _of_level_mean(rows: Rows, new: Any, share: jax.Array) -> jax.Array:
    """Return what subtracting the mean of the level adds to variances, (new)."""
    chain, precision, _ = rows.level
    wanted = jax.ops.segment_sum(share * rows.load, new.new_node, len(precision))
    moved = kalman_smoother(chain.states, sites(chain, precision, wanted)).mean
    cross = jnp.einsum("td,td->t", chain.matrix[:, 0], moved)
    return wanted @ cross - 2.0 * rows.load * cross[new.new_node]


def normals_needed(rows: Rows) -> dict[str, Any]:
    """Return the shapes of the standard normal numbers that one draw takes."""
    shapes: dict[str, Any] = {"weights": (rows.weights.shape[1],)}
    if rows.level is not None:
        num, _, dim = rows.level.chain.matrix.shape
        shapes["states"] = (num, dim)
    shapes["within"] = tuple(residual.shape[:2] for residual in rows.within)
    shapes["uncovered"] = tuple(residual.shape[:1] for residual in rows.uncovered)
    return shapes


def draw_rows(rows: Rows, reduced: Reduced, new: Any, normals: dict[str, Any]) -> jax.Array:
    """Return one joint draw of t at new rows: linear in the normals, exact in covariance."""
    v = reduced.mean + jsl.solve_triangular(
        reduced.cholesky, normals["weights"], lower=True, trans=1
    )
    t = rows.shift + rows.weights @ v
    if rows.level is not None:
        chain, precision, _ = rows.level
        nothing = sites(chain, precision, jnp.zeros_like(precision))
        states = kalman_sample(chain.states, nothing, normals["states"])
        t += rows.load * jnp.einsum("td,td->t", chain.matrix[:, 0], states)[new.new_node]
    for block, residual, z in zip(new.blocks, rows.within, normals["within"], strict=True):
        values = map_groups(lambda root, z: root @ z, _roots_of(residual), z)
        t = t.at[block.new].add(values, mode="drop")
    for residual, index, z in zip(
        rows.uncovered, new.uncovered_index, normals["uncovered"], strict=True
    ):
        if len(residual):
            t += jnp.where(index >= 0, (_roots_of(residual[None])[0] @ z)[index], 0.0)
    return t


def _roots_of(covariances: jax.Array) -> jax.Array:
    """Return R (n, size, size) with R R' the given matrices, which may be singular."""

    def root(matrix: jax.Array) -> jax.Array:
        values, vectors = jnp.linalg.eigh(matrix)
        return vectors * jnp.sqrt(jnp.maximum(values, 0.0))

    return map_groups(root, covariances)
