"""Rows of a tensor and the coordinates of its modes, padded for compiled programs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bayeskit.models.markov_gp.rows import Grid, grid_of, rows_of

__all__ = ["TensorData", "tensor_data"]


class TensorData(NamedTuple):
    """Observations, and where they stand on the grid of each mode.

    Parameters
    ----------
    y : (rows,) array
    weight : (rows,) array
        1 for an observation, 0 for a row without one.
    spread : (rows,) array
        Variance of what was taken off the observation: an uncertain mean.
    places : tuple of (rows,) int32 arrays, one for each mode
    grids : tuple of Grid, one for each mode
    """

    y: Any
    weight: Any
    spread: Any
    places: tuple[Any, ...]
    grids: tuple[Grid, ...]


def tensor_data(table: np.ndarray, y: np.ndarray, dtype: str = "float64") -> TensorData:
    """Return the data of a table of coordinates (rows, modes) and targets (rows,).

    NaN in y is a row without observation: its coordinates are on the grids.
    """
    nothing = np.zeros(len(y))
    rows = rows_of(y, nothing, nothing.astype(np.int32), dtype)
    padded = lambda place: np.pad(place, (0, len(rows.y) - len(place)))
    grids, places = [], []
    for column in table.T:
        grid, place = grid_of(column, dtype)
        grids.append(grid)
        places.append(padded(place))
    return TensorData(rows.y, rows.weight, np.zeros_like(rows.y), tuple(places), tuple(grids))
