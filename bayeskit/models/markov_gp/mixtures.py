"""Distributions at single coordinates: mixtures over draws of hyper-parameters, on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from bayeskit.models.markov_gp.likelihoods import Likelihood, nodes

__all__ = ["function_quantiles", "mixture_moments", "observation_quantiles"]

# Halvings of an interval: 2^-60 of its length is rounding.
_NUM_HALVINGS = 60


def mixture_moments(means: np.ndarray, variances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance over the first axis, by the law of total variance."""
    return means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0)


def function_quantiles(
    means: np.ndarray, variances: np.ndarray, levels: Any, weights: Any = None
) -> np.ndarray:
    """Return quantiles (levels, num) of mixtures of normals (draws, num).

    Parameters
    ----------
    weights : (draws,) array, optional
        They sum to one; equal by default.
    """
    sd = np.sqrt(variances)
    levels = np.asarray(levels, float)
    each = means + sd * stats.norm.ppf(levels)[:, None, None]
    if len(means) == 1:
        return each[:, 0]
    # A point mass, where nothing is uncertain, has a distribution function as well.
    scale = np.maximum(sd, np.finfo(float).tiny)
    cdf = lambda x: np.average(
        stats.norm.cdf((x[:, None] - means) / scale), axis=1, weights=weights
    )
    return _bisected(cdf, levels, each.min(axis=1), each.max(axis=1))


def observation_quantiles(
    likelihoods: list[Likelihood], means: np.ndarray, variances: np.ndarray, levels: Any
) -> np.ndarray:
    """Return quantiles (levels, num) of new observations; means include the offset."""
    levels = np.asarray(levels, float)
    x, w = nodes()

    def cdf(y):
        total = np.zeros(y.shape)
        for one, m, v in zip(likelihoods, means, variances, strict=True):
            f = m[:, None] + np.sqrt(v)[:, None] * x
            total += one.cdf(y[..., None], f) @ w
        return total / len(likelihoods)

    found = _bisected(cdf, levels, *_bracket(cdf, levels, means, variances))
    # The step of a distribution function is at a whole number, found from above to rounding.
    return np.maximum(np.round(found), 0.0) if likelihoods[0].is_discrete else found


def _bracket(
    cdf: Callable, levels: np.ndarray, means: np.ndarray, variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return limits that the quantiles lie between."""
    shape = (len(levels), means.shape[1])
    centre = np.broadcast_to(means.mean(axis=0), shape)
    width = 1.0 + np.sqrt(variances.max(axis=0)) + np.ptp(means, axis=0)
    low, high = centre - width, centre + width
    wanted = levels[:, None]
    while (too_high := cdf(low) > wanted).any():
        low = np.where(too_high, centre - 2.0 * (centre - low), low)
    while (too_low := cdf(high) < wanted).any():
        high = np.where(too_low, centre + 2.0 * (high - centre), high)
    return low, high


def _bisected(
    cdf: Callable, levels: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Return the smallest numbers whose distribution function reaches the levels."""
    wanted = levels[:, None]
    for _ in range(_NUM_HALVINGS):
        middle = 0.5 * (low + high)
        below = cdf(middle) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return high
