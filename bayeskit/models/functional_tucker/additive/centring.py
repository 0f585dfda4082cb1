"""A function less its mean over the rows: the points that this takes."""

from __future__ import annotations

import numpy as np

from bayeskit.models.functional_tucker.additive.design import (
    AdditiveDesign,
    NewArrays,
    column_of,
    function_design,
)

__all__ = ["centred_design"]


def centred_design(
    design: AdditiveDesign, term: int, grid: np.ndarray, is_seen: np.ndarray
) -> tuple[NewArrays, np.ndarray]:
    """Return the arrays of one term's function at a grid and at rows, and the rows' shares.

    Parameters
    ----------
    is_seen : (rows or padded) bool array
        The rows whose mean counts. Their values are knots, or lie between those of a grid.

    Returns
    -------
    new : NewArrays
        The points of the grid come first.
    share : (padded points) array
        Of each point in the mean over the rows.
    """
    column = column_of(design, term, design.table)
    points, counts = np.unique(column[is_seen[: len(column)]], return_counts=True)
    new = function_design(design, term, np.concatenate([grid, points]))
    share = np.zeros(len(new.new_node))
    share[len(grid) : len(grid) + len(points)] = counts / counts.sum()
    return new, share
