r"""The Bayesian bootstrap of the moment equations.

Each draw weighs units, or clusters, by independent :math:`w_c \sim \mathrm{Exp}(1)` and solves

.. math:: \sum_i w_{c(i)}\, \tilde m_i(\theta) = 0 .

Where labels were drawn in strata, :math:`1/\pi` is that of the weighted units of the stratum:
the sum of the weights of all over that of the labelled ones.

Draws are split evenly among the repeats of the random split. Newton's method runs for many
draws at once, in one compiled program.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bayeskit.accel.compilation import quick_jit
from bayeskit.inference import random
from bayeskit.models.dsl.clusters import group_sums
from bayeskit.models.dsl.doubly_robust import MomentData
from bayeskit.models.dsl.estimation import SplitEstimates, scaled_data
from bayeskit.models.dsl.links import LINKS
from bayeskit.models.dsl.moments import Rows, jacobian, total_moment

__all__ = ["bootstrap_draws"]

_TOLERANCE = 1e-9
_MAX_STEPS = 60
_MAX_LEFT = 1e-6
# Numbers in the largest array of a call.
_MAX_SIZE = 2**22


def bootstrap_draws(
    data: MomentData, found: SplitEstimates, num_draws: int, key: jax.Array
) -> tuple[np.ndarray, np.ndarray]:
    """Return draws (draws, parameters), NaN where there is no root, and their repeats (draws).

    Parameters
    ----------
    data : MomentData
    found : SplitEstimates
        Lambda stays as it was found; each search starts from the estimate of its repeat.
    num_draws : int
        Rounded up to a multiple of the repeats.
    key : JAX key

    References
    ----------
    Rubin (1981), *The Bayesian bootstrap*; Chamberlain & Imbens (2003), *Nonparametric
    applications of Bayesian inference*.
    """
    num_splits = len(found.theta)
    each = -(-num_draws // num_splits)
    draws, splits = [], []
    for place, split_key in enumerate(random.split(key, num_splits)):
        one = data.one_split(int(found.numbers[place]))
        draws.append(_draws_of_split(one, found, place, each, split_key))
        splits.append(np.full(each, place))
    # Neighbours stem from different repeats.
    order = np.arange(num_splits * each).reshape(num_splits, each).T.ravel()
    return np.concatenate(draws)[order], np.concatenate(splits)[order]


def _draws_of_split(
    data: MomentData, found: SplitEstimates, place: int, num_draws: int, key: jax.Array
) -> np.ndarray:
    codes = data.clusters[0] if data.clusters else np.arange(data.num_units)
    num_groups = int(codes.max()) + 1
    scaled, change = scaled_data(data)
    start = np.linalg.solve(change, found.theta[place])
    solve = _solve_one_by_one if data.effects or data.has_instruments else _solve_at_once
    chunk = _chunk_size(scaled, num_draws)
    parts = []
    for chunk_key in random.split(key, -(-num_draws // chunk)):
        weights = np.asarray(_exponentials(chunk_key, chunk, _padded(num_groups)))[
            :, :num_groups
        ]
        units = weights[:, codes]
        by_power = [
            solve(scaled, _row_weights(scaled, units, float(power)), start) @ change.T
            for power in found.power[place]
        ]
        if len(by_power) == 1:
            parts.append(by_power[0])
        else:
            parts.append(np.stack([d[:, j] for j, d in enumerate(by_power)], axis=1))
    return np.concatenate(parts)[:num_draws]


def _row_weights(data: MomentData, units: np.ndarray, power: float) -> np.ndarray:
    """Return the weights (draws, stacked rows) from those of the units (draws, units)."""
    weight = data.weights(power) * units[:, data.unit]
    if data.strata is None or not len(data.labeled):
        return weight
    at, n = data.labeled, data.num_units
    strata, num = data.strata, int(data.strata.max()) + 1
    everyone = group_sums(units.T, strata, num)
    inverse = (everyone / group_sums(units[:, at].T, strata[at], num)).T[:, strata[at]]
    weight[:, n:] = inverse * units[:, at]
    weight[:, at] = power * (1.0 - inverse) * units[:, at]
    return weight


@functools.partial(quick_jit, optimised=False, static_argnames=("num_draws", "num_groups"))
def _exponentials(key: jax.Array, num_draws: int, num_groups: int) -> jax.Array:
    return -jnp.log1p(-random.uniform(key, (num_draws, num_groups)))


def _padded(size: int) -> int:
    """Return the next power of two, so that data of like sizes share a program."""
    return 1 << max(0, size - 1).bit_length()


def _chunk_size(data: MomentData, num_draws: int) -> int:
    columns = data.predicted.x.shape[-1]
    rows = _padded(data.num_units + len(data.labeled))
    most = max(8, _MAX_SIZE // (rows * columns))
    return min(_padded(num_draws), 1 << (most.bit_length() - 1), 256)


def _solve_at_once(data: MomentData, weight: np.ndarray, start: np.ndarray) -> np.ndarray:
    rows = data.rows(weight[:1])
    short = _padded(weight.shape[1]) - weight.shape[1]

    def pad(array: np.ndarray) -> np.ndarray:
        return np.pad(array, [(0, 0), (0, short), (0, 0)])

    x = pad(rows.x)
    # Padded rows have weight 0 and count for nothing.
    weight = np.pad(weight / data.num_units, [(0, 0), (0, short)])
    theta, converged = _newton(data.link.name, x, pad(rows.y), weight, start)
    return np.where(np.asarray(converged)[:, None], np.asarray(theta), np.nan)


@functools.partial(quick_jit, static_argnames="link_name")
def _newton(
    link_name: str,
    x: jax.Array,
    y: jax.Array,
    weight: jax.Array,
    start: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Solve all draws; a step that does not lower the norm is tried again at half length."""
    link, rows = LINKS[link_name], Rows(x, x, y)

    def step_of(theta, value):
        return jnp.linalg.solve(jacobian(link, theta, rows, weight), value[..., None])[..., 0]

    def is_open(carry):
        return jnp.any(carry[4]) & (carry[6] < _MAX_STEPS)

    def advance(carry):
        theta, value, step, length, open_, converged, count = carry
        tried = theta + length[:, None] * step
        new_value = total_moment(link, tried, rows, weight)
        small = jnp.max(jnp.abs(step), axis=1) <= _TOLERANCE * jnp.maximum(
            1.0, jnp.max(jnp.abs(theta), axis=1)
        )
        lower = jnp.linalg.norm(new_value, axis=1) < jnp.linalg.norm(value, axis=1)
        good = open_ & (lower | small)
        theta = jnp.where(good[:, None], tried, theta)
        value = jnp.where(good[:, None], new_value, value)
        # Where means saturate, steps vanish far from any root.
        is_root = jnp.linalg.norm(new_value, axis=1) <= least
        converged = converged | (open_ & small & is_root)
        length = jnp.where(good, 1.0, 0.5 * length)
        fresh = step_of(theta, value)
        step = jnp.where(good[:, None], fresh, step)
        open_ = open_ & ~small & jnp.all(jnp.isfinite(step), axis=1)
        return theta, value, step, length, open_, converged, count + 1

    num = len(weight)
    theta = jnp.broadcast_to(start, (num, len(start)))
    value = total_moment(link, theta, rows, weight)
    least = _MAX_LEFT * (1.0 + jnp.linalg.norm(value, axis=1))
    everyone = jnp.ones(num, bool)
    first = (theta, value, step_of(theta, value), jnp.ones(num), everyone, ~everyone, 0)
    theta, _, _, _, _, converged, _ = lax.while_loop(is_open, advance, first)
    return theta, converged


def _solve_one_by_one(data: MomentData, weights: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Solve linear models whose rows depend on the weights: effects and first stages."""
    zero = np.zeros((1, len(start)))
    found = np.full((len(weights), len(start)), np.nan)
    for i in range(len(weights)):
        weight = weights[i : i + 1]
        rows = data.rows(weight)
        matrix = jacobian(data.link, zero, rows, weight)[0]
        value = total_moment(data.link, zero, rows, weight)[0]
        found[i] = np.linalg.solve(matrix, value)
    return found
