"""The functions of a mode at coordinates that the data may not have: exact, by smoothing once.

New coordinates join the grid with precision zero. Nothing is interpolated or multiplied; to the
left of the data, between them and beyond, the law is that of the process given the data.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bayeskit.models.functional_tucker.low_rank.chains import ModeSites
from bayeskit.models.markov_gp.rows import Grid, grid_of

__all__ = ["JoinedGrid", "join_grid", "sites_on"]


class JoinedGrid(NamedTuple):
    """Known and new coordinates of a mode on one grid.

    Parameters
    ----------
    grid : Grid
    known : (num_known,) array
        Places of the known coordinates.
    new : (new rows,) int32 array
        Place of the coordinate of each new row.
    """

    grid: Grid
    known: np.ndarray
    new: np.ndarray


def join_grid(grid: Grid, column: np.ndarray) -> JoinedGrid:
    """Return the grid with the coordinates of new rows (new rows,) on it."""
    known = np.unique(grid.x)
    joined, place = grid_of(np.concatenate([known, column]), grid.x.dtype.name)
    return JoinedGrid(joined, place[: len(known)], place[len(known) :])


def sites_on(joined: JoinedGrid, sites: ModeSites) -> ModeSites:
    """Return the sites of the known coordinates on the joined grid, zero elsewhere."""

    def moved(part: Any) -> np.ndarray:
        part = np.asarray(part)
        found = np.zeros((len(joined.grid.x), *part.shape[1:]), part.dtype)
        found[joined.known] = part[: len(joined.known)]
        return found

    return ModeSites(*map(moved, sites))
