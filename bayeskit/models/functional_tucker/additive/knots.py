"""Functions of one coordinate on finitely many knots."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Interpolation", "choose_knots", "interpolate"]

# Up to so many distinct values are knots themselves, and nothing is interpolated.
MAX_DISTINCT = 100
DEFAULT_NUM_KNOTS = 30


class Interpolation(NamedTuple):
    """How the values at rows follow from those at knots.

    ``matrix`` (rows, knots) is zero in rows whose coordinate is not covered; those take their
    values from ``uncovered`` (num_uncovered), distinct coordinates, by ``place`` (rows), which
    is -1 in covered rows.
    """

    matrix: np.ndarray
    uncovered: np.ndarray
    place: np.ndarray


def choose_knots(values: np.ndarray, num_knots: int | None, exact: bool) -> np.ndarray:
    """Return sorted knots: all distinct values, or equidistant ones over their range.

    ``exact`` asks for the distinct values, however many there are.
    """
    distinct = np.unique(values)
    if exact or len(distinct) <= (MAX_DISTINCT if num_knots is None else num_knots):
        return distinct
    return np.linspace(distinct[0], distinct[-1], num_knots or DEFAULT_NUM_KNOTS)


def interpolate(values: np.ndarray, knots: np.ndarray, is_grid: bool) -> Interpolation:
    """Return linear interpolation inside a grid; else only the knots themselves are covered."""
    rows, size = np.arange(len(values)), len(knots)
    matrix = np.zeros((len(values), size))
    right = np.clip(np.searchsorted(knots, values), min(1, size - 1), size - 1)
    left = np.maximum(right - 1, 0)
    if is_grid:
        covered = (values >= knots[0]) & (values <= knots[-1])
        share = (values - knots[left]) / (knots[right] - knots[left])
        matrix[rows, left] = np.where(covered, 1.0 - share, 0.0)
        matrix[rows, right] += np.where(covered, share, 0.0)
    else:
        nearest = np.where(knots[left] == values, left, right)
        covered = knots[nearest] == values
        matrix[rows, nearest] = covered
    place = np.full(len(values), -1)
    uncovered, place[~covered] = np.unique(values[~covered], return_inverse=True)
    return Interpolation(matrix, uncovered, place)
