"""Tables of coordinates and targets at the door: checked, as numbers, with names of modes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.models.base import checked_array
from bayeskit.models.markov_gp.rows import coordinates

__all__ = ["new_table", "table_of"]


def table_of(X: Any) -> tuple[tuple[Hashable, ...], np.ndarray]:
    """Return the names of the modes and their coordinates (rows, modes) as float64.

    Columns of a DataFrame may hold dates, which count in days.

    Raises
    ------
    InvalidDataError
        For other shapes, no rows or modes, NaN or infinities, with row and column.
    """
    if hasattr(X, "columns"):
        names = tuple(X.columns)
        if len(set(names)) < len(names):
            raise InvalidDataError(f"the columns of X must have different names, got {names}")
        if not names:
            raise InvalidDataError("X has no columns: at least one mode is needed")
        columns = [coordinates(X[name], f"column {name!r} of X") for name in names]
        return names, np.stack(columns, axis=1)
    array = checked_array(np.asarray(X), "X")
    if np.ndim(array) != 2 or not array.shape[1]:
        raise InvalidDataError(
            f"X must have rows and columns, one column for each mode; got shape "
            f"{np.shape(array)}"
        )
    return tuple(range(array.shape[1])), array.astype(np.float64)


def new_table(X: Any, names: tuple[Hashable, ...]) -> np.ndarray:
    """Return coordinates of new rows, in the order of the modes of the fit.

    Raises
    ------
    InvalidDataError
        For modes that are missing, or another number of columns.
    """
    if hasattr(X, "columns") and set(names) <= set(X.columns):
        X = X[list(names)]
    elif hasattr(X, "columns") and names != tuple(range(len(names))):
        missing = [name for name in names if name not in set(X.columns)]
        raise InvalidDataError(f"X lacks the columns {missing}: the fit had {list(names)}")
    found, table = table_of(X)
    if len(found) != len(names):
        raise InvalidDataError(
            f"X has {len(found)} columns, but the fit had {len(names)}: {list(names)}"
        )
    return table
