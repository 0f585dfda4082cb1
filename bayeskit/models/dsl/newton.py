"""Roots of moment equations by Newton's method, many at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["Roots", "find_roots"]

_MAX_STEPS = 100
_MAX_HALVINGS = 30
# Part of the first-order decrease that a step must achieve (Armijo).
_SUFFICIENT = 1e-4
# Where means saturate, steps vanish far from any root: what is left of the moments must be
# small, too, in units of what they were at the start.
_MAX_LEFT = 1e-6


class Roots(NamedTuple):
    """What the search found.

    Parameters
    ----------
    theta : (splits, parameters) array
    converged : (splits) array of bool
    num_steps : int
    """

    theta: np.ndarray
    converged: np.ndarray
    num_steps: int


def find_roots(
    moment: Callable[[np.ndarray], np.ndarray],
    jacobian: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    *,
    tolerance: float = 1e-10,
) -> Roots:
    r"""Return roots of :math:`g_s(\theta_s) = 0` for all splits s at once.

    Newton's method; a step is halved until the norm of g falls.

    Parameters
    ----------
    moment : callable (splits, parameters) -> (splits, parameters)
    jacobian : callable (splits, parameters) -> (splits, parameters, parameters)
        Minus the derivative of ``moment``.
    start : (splits, parameters) array
    tolerance : float
        On the largest step, relative to ``max(1, |theta|)``; it only counts where the moments
        have all but vanished.
    """
    theta = np.array(start, float)
    with np.errstate(over="ignore", invalid="ignore"):
        value = moment(theta)
        norm = np.linalg.norm(value, axis=1)
        open_ = np.isfinite(norm)
        least = _MAX_LEFT * (1.0 + norm)
        converged = np.zeros(len(theta), bool)
        steps = 0
        while open_.any() and steps < _MAX_STEPS:
            steps += 1
            step = _solve(jacobian(theta), value)
            open_ &= np.isfinite(step).all(axis=1)
            step = np.where(open_[:, None], step, 0.0)
            small = np.abs(step).max(axis=1) <= tolerance * np.maximum(
                1.0, np.abs(theta).max(axis=1)
            )
            # The last step is as good as rounding lets it be, and is not judged by the norm.
            last = open_ & small & (norm <= least)
            theta[last] += step[last]
            converged |= last
            open_ &= ~small
            theta, value, norm, moved = _backtrack(moment, theta, step, value, norm, open_)
            open_ &= moved
    return Roots(theta, converged, steps)


def _backtrack(moment, theta, step, value, norm, open_):
    """Take the steps of open splits, halved until the norm falls enough."""
    length = np.where(open_, 1.0, 0.0)
    waiting = open_.copy()
    for _ in range(_MAX_HALVINGS):
        if not waiting.any():
            break
        tried = theta + length[:, None] * step
        new_value = moment(tried)
        new_norm = np.linalg.norm(new_value, axis=1)
        good = waiting & (new_norm <= (1.0 - _SUFFICIENT * length) * norm)
        theta = np.where(good[:, None], tried, theta)
        value = np.where(good[:, None], new_value, value)
        norm = np.where(good, new_norm, norm)
        waiting &= ~good
        length = np.where(waiting, 0.5 * length, length)
    return theta, value, norm, open_ & ~waiting


def _solve(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.solve(matrices, vectors[..., None])[..., 0]
    except np.linalg.LinAlgError:
        solved = np.full_like(vectors, np.nan)
        for i, (matrix, vector) in enumerate(zip(matrices, vectors, strict=True)):
            if np.isfinite(matrix).all():
                solved[i] = np.linalg.lstsq(matrix, vector, rcond=None)[0]
        return solved
