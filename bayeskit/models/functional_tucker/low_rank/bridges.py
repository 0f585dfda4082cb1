r"""Functions between, before and beyond the coordinates at which their states are known.

Given the states a and b on both sides, the state at a coordinate x between them has the law of
a Markov bridge. With :math:`s = A_1 a + e_1`, :math:`b = A_2 s + e_2` and
:math:`e_i \sim N(0, Q_i)`,

.. math::
    s \mid a, b \sim N\bigl(A_1 a + G (b - A_2 A_1 a),\;
        (I - G A_2) Q_1 (I - G A_2)^\top + G Q_2 G^\top\bigr), \qquad
    G = Q_1 A_2^\top (A_2 Q_1 A_2^\top + Q_2)^{-1} .

Before the first coordinate :math:`A_1 = 0` and :math:`Q_1` is the prior covariance; beyond the
last G = 0. Source: Sarkka & Solin (2019), *Applied stochastic differential equations*.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bayeskit.accel.time.factors import semidefinite_cholesky

__all__ = ["draw_between", "moments_between"]


class _Side(NamedTuple):
    """A coordinate, its state (dim,), and whether there is one on this side at all."""

    x: Any
    state: Any
    exists: Any


class _Bridge(NamedTuple):
    """The law of a state between two others, in parts."""

    before: jax.Array  # A_1 a
    first_noise: jax.Array  # Q_1
    step: jax.Array  # A_2
    second_noise: jax.Array  # Q_2
    gain: jax.Array  # G

    def mean(self, right: _Side) -> jax.Array:
        return self.before + self.gain @ (right.state - self.step @ self.before)

    def covariance(self) -> jax.Array:
        keep = jnp.eye(len(self.gain)) - self.gain @ self.step
        left = keep @ self.first_noise @ keep.T
        return left + self.gain @ self.second_noise @ self.gain.T

    def draw(self, right: _Side, z: jax.Array) -> jax.Array:
        """Return a draw from standard normals (2, dim), by conditioning a draw from the prior.

        No difference of covariances is taken, so that it is exact at any gap.
        """
        state = self.before + _root(self.first_noise) @ z[0]
        seen = self.step @ state + _root(self.second_noise) @ z[1]
        return state + self.gain @ (right.state - seen)


def _scales(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return standard deviations, 1 for 0, and the correlations."""
    variance = jnp.diagonal(matrix)
    std = jnp.sqrt(jnp.where(variance > 0, variance, 1.0))
    return std, matrix / (std[:, None] * std)


def _root(covariance: jax.Array) -> jax.Array:
    """Return R with R R' the covariance, which may be singular."""
    std, correlation = _scales(covariance)
    return std[:, None] * semidefinite_cholesky(correlation)


def _inverse(covariance: jax.Array) -> jax.Array:
    """Return the inverse of a covariance, zero in rows that are zero or follow from others.

    By Gauss and Jordan: calls of LAPACK on many small matrices of several modes at once may
    wait for one another for ever on a CPU with few threads.
    """
    std, correlation = _scales(covariance)
    dim = len(correlation)
    least = 4.0 * dim * jnp.finfo(correlation.dtype).eps

    def eliminate(j: Any, swept: jax.Array) -> jax.Array:
        pivot, row, column = swept[j, j], swept[j], swept[:, j]
        is_regular = pivot > least
        pivot = jnp.where(is_regular, pivot, 1.0)
        rest = swept - jnp.outer(column, row) / pivot
        rest = rest.at[j].set(row / pivot).at[:, j].set(-column / pivot)
        rest = rest.at[j, j].set(1.0 / pivot)
        without = swept.at[j].set(0.0).at[:, j].set(0.0)
        return jnp.where(is_regular, rest, without)

    return lax.fori_loop(0, dim, eliminate, correlation) / (std[:, None] * std)


def _bridge(kernel: Any, x: Any, left: _Side, right: _Side) -> _Bridge:
    first_gap = jnp.where(left.exists, x - left.x, 0.0)
    second_gap = jnp.where(right.exists, right.x - x, 0.0)
    noise = kernel.process_noise(left.x, first_gap)
    noise = jnp.where(left.exists, noise, kernel.covariance_at(x))
    before = kernel.transition(left.x, first_gap) @ left.state
    before = jnp.where(left.exists, before, 0.0)
    step = kernel.transition(x, second_gap)
    second_noise = kernel.process_noise(x, second_gap)
    ahead = _inverse(step @ noise @ step.T + second_noise)
    gain = jnp.where(right.exists, noise @ step.T @ ahead, 0.0)
    return _Bridge(before, noise, step, second_noise, gain)


def _sides(grid_x: jax.Array, states: jax.Array, x: Any) -> tuple[_Side, _Side]:
    """Return the neighbours of a coordinate on a grid with states (size, dim)."""
    right = jnp.searchsorted(grid_x, x, side="right")
    left, last = right - 1, len(grid_x) - 1
    place = jnp.maximum(left, 0), jnp.minimum(right, last)
    return (
        _Side(grid_x[place[0]], states[place[0]], left >= 0),
        _Side(grid_x[place[1]], states[place[1]], right <= last),
    )


def _each_function(kernels: Sequence[Any], states: jax.Array) -> tuple[Any, jax.Array]:
    """Return the kernels as one with arrays, and the states (R, size, dim)."""
    stacked = jax.tree.map(
        lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *kernels
    )
    each = states.reshape(len(states), len(kernels), -1)
    return stacked, jnp.moveaxis(each, 1, 0)


def moments_between(
    kernels: Sequence[Any], grid_x: jax.Array, states: jax.Array, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return means and variances (points, R) of functions whose states on a grid are known.

    Parameters
    ----------
    kernels : sequence of R kernels of one form, with numbers
    grid_x : (size,) array
        Sorted; repeats of the last are padding.
    states : (size, R dim) array
    x : (points,) array
        In any order. The functions at each are looked at by themselves.
    """

    def one(kernel: Any, states: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        left, right = _sides(grid_x, states, x)
        law, h = _bridge(kernel, x, left, right), kernel.observation(x)
        return h @ law.mean(right), h @ law.covariance() @ h

    stacked, each = _each_function(kernels, states)
    functions = jax.vmap(one, (0, 0, None))
    return jax.vmap(functions, (None, None, 0))(stacked, each, x)


def draw_between(
    kernels: Sequence[Any],
    grid_x: jax.Array,
    states: jax.Array,
    x: jax.Array,
    normals: jax.Array,
) -> jax.Array:
    """Return one joint draw (points, R) of functions whose states on a grid are known.

    Parameters
    ----------
    kernels, grid_x, states
        As for :func:`moments_between`.
    x : (points,) array
        Sorted.
    normals : (points, R, 2, dim) array
        Standard normals.
    """

    def function(kernel: Any, states: jax.Array, normals: jax.Array) -> jax.Array:
        def one(before: _Side, inputs: Any) -> tuple[_Side, jax.Array]:
            x, z = inputs
            left, right = _sides(grid_x, states, x)
            # What was drawn last is nearer, where no coordinate of the grid lies between.
            is_nearer = before.exists & (~left.exists | (before.x >= left.x))
            left = jax.tree.map(lambda a, b: jnp.where(is_nearer, a, b), before, left)
            drawn = _bridge(kernel, x, left, right).draw(right, z)
            return _Side(x, drawn, jnp.asarray(True)), kernel.observation(x) @ drawn

        nothing = _Side(x[0], jnp.zeros_like(states[0]), jnp.asarray(False))
        return lax.scan(one, nothing, (x, normals))[1]

    stacked, each = _each_function(kernels, states)
    return jax.vmap(function, (0, 0, 1), 1)(stacked, each, normals)
