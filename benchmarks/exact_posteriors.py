"""Exact posteriors of common likelihoods by quadrature, apart from the package's own densities.

Nothing here comes from the package but the mixtures: data are drawn and densities are evaluated
by NumPy and SciPy, so that a mistake in a simulator shows as a divergence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from scipy import special

import bayeskit as bk

# Points of the grid along each axis; half of the prior's range in its standard deviations,
# and how far below its peak the density is still looked at.
NUM_POINTS = {1: 201, 2: 41}
_NUM_PASSES = 3
_REACH = 10.0
_DEPTH = 25.0
# Problems whose grids are in memory together.
_AT_ONCE = 50


@dataclass(frozen=True)
class Exact:
    """How data are drawn and how likely they are.

    Attributes
    ----------
    draw : callable (generator, x (num, d), n) -> rows (num, n, m)
    log_density : callable (row (num, m), x (..., num, d)) -> (..., num)
        Of one observation.
    constrain : callable u (..., d) -> x (..., d)
    """

    draw: Callable
    log_density: Callable
    constrain: Callable

    def log_likelihood(self, rows: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return that of rows (num, n, m), NaN where there is none."""
        total = np.zeros(x.shape[:-1])
        for j in range(rows.shape[1]):
            row = rows[:, j]
            is_there = ~np.isnan(row[:, 0])
            total += np.where(is_there, self.log_density(np.nan_to_num(row, nan=1.0), x), 0.0)
        return total


def _poisson(row: np.ndarray, x: np.ndarray) -> np.ndarray:
    z, rate = row[:, 0], x[..., 0]
    return z * np.log(rate) - rate - special.gammaln(z + 1)


def _normal(row: np.ndarray, x: np.ndarray) -> np.ndarray:
    mean, sd = x[..., 0], x[..., 1]
    return -0.5 * ((row[:, 0] - mean) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)


def _draw_weibull(g: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
    time = x[:, :1] * g.weibull(x[:, 1:], size=(len(x), n))
    end = np.exp(g.uniform(np.log(0.1), np.log(100.0), size=time.shape))
    return np.stack([np.maximum(np.minimum(time, end), 1e-6), time <= end], axis=-1)


def _weibull(row: np.ndarray, x: np.ndarray) -> np.ndarray:
    time, was_seen = row.T
    log_ratio = np.log(time) - np.log(x[..., 0])
    log_density = np.log(x[..., 1]) - np.log(time) + x[..., 1] * log_ratio
    return np.where(was_seen == 1.0, log_density, 0.0) - np.exp(x[..., 1] * log_ratio)


def _location_and_scale(u: np.ndarray) -> np.ndarray:
    return np.stack([u[..., 0], np.exp(u[..., 1])], axis=-1)


EXACT = {
    "normal": Exact(
        lambda g, x, n: g.normal(x[:, :1], x[:, 1:], (len(x), n))[..., None],
        _normal,
        _location_and_scale,
    ),
    "poisson": Exact(
        lambda g, x, n: g.poisson(x[:, :1], (len(x), n))[..., None].astype(float),
        _poisson,
        np.exp,
    ),
    "weibull": Exact(_draw_weibull, _weibull, np.exp),
}


def problems(name: str, meta_prior: Any, most: int, num: int, seed: int) -> tuple:
    """Return priors of u, and rows (num, most, m) with NaN where there is none."""
    exact = EXACT[name]
    with jax.enable_x64(False):
        arrays = jax.jit(lambda key: meta_prior.draw(key, num))(jax.random.key(seed))
    prior = bk.GaussianMixture.of_arrays(arrays)
    g = np.random.default_rng(seed)
    rows = np.asarray(
        exact.draw(g, exact.constrain(prior.sample(1, random_state=seed)[0]), most), float
    )
    rows[np.arange(most) >= g.integers(1, most + 1, size=num)[:, None]] = np.nan
    return prior, rows


def divergences(name: str, prior: Any, rows: np.ndarray, posterior: Any) -> np.ndarray:
    """Return the divergence (num,) of each exact posterior from a mixture of u.

    Parameters
    ----------
    prior, posterior : GaussianMixture
        Of the latent without constraints, each with a batch.
    rows : (num, n, m) array
    """
    parts = [slice(i, i + _AT_ONCE) for i in range(0, len(rows), _AT_ONCE)]
    found = [_divergences(EXACT[name], prior[p], rows[p], posterior[p]) for p in parts]
    return np.concatenate(found)


def _divergences(exact: Exact, prior: Any, rows: Any, posterior: Any) -> np.ndarray:
    low, high = (prior.mean + sign * _REACH * prior.std for sign in (-1, 1))
    num_points = NUM_POINTS[prior.dim]

    def densities(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            value = prior.log_prob(u) + exact.log_likelihood(rows, exact.constrain(u))
        return np.where(np.isnan(value), -np.inf, value), u

    def along_first(rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return log integral and mean log ratio over the first coordinate."""
        shape = np.broadcast_shapes(rest.shape[:-1], low.shape[:1])

        def at(first: np.ndarray) -> np.ndarray:
            every = np.broadcast_to(rest, (*first.shape, rest.shape[-1]))
            return np.concatenate([first[..., None], every], axis=-1)

        ends = (np.broadcast_to(end[:, 0], shape) for end in (low, high))
        t = _closed_in(lambda first: densities(at(first))[0], *ends, num_points)
        log_p, u = densities(at(t))
        return _integrated(t, log_p, log_p - posterior.log_prob(u))

    if prior.dim == 1:
        log_evidence, mean_ratio = along_first(np.zeros((len(rows), 0)))
        return mean_ratio - log_evidence
    # The width of the first coordinate depends on the second: each has a grid of its own.
    t = _closed_in(
        lambda second: along_first(second[..., None])[0], low[:, 1], high[:, 1], num_points
    )
    log_inner, inner_ratio = along_first(t[..., None])
    log_evidence, mean_ratio = _integrated(t, log_inner, inner_ratio)
    return mean_ratio - log_evidence


def _closed_in(
    log_density: Callable, low: np.ndarray, high: np.ndarray, num_points: int
) -> np.ndarray:
    """Return a grid (points, ...) over where a density is, for each of many densities."""
    steps = np.linspace(0.0, 1.0, num_points).reshape(-1, *[1] * low.ndim)
    # At first the peak can lie between two points.
    for _ in range(_NUM_PASSES):
        t = low + (high - low) * steps
        value = log_density(t)
        is_near = value >= value.max(axis=0) - _DEPTH
        step = t[1] - t[0]
        low = np.where(is_near, t, np.inf).min(axis=0) - step
        high = np.where(is_near, t, -np.inf).max(axis=0) + step
    return low + (high - low) * steps


def _integrated(
    t: np.ndarray, log_density: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the log integral of a density over a grid, and the mean of values under it."""
    log_total = special.logsumexp(log_density, axis=0)
    share = np.exp(log_density - np.where(np.isfinite(log_total), log_total, 0.0))
    mean = (share * np.where(share > 0, values, 0.0)).sum(axis=0)
    return log_total + np.log(t[1] - t[0]), mean
