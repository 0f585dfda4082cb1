"""Tables of other packages as those of pandas, at the door of an estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bayeskit.errors import InvalidDataError

__all__ = ["as_frame"]


def as_frame(value: Any, *, mappings: bool = False) -> Any:
    """Return a table as a pandas DataFrame; leave alone what is none, and what is one.

    Parameters
    ----------
    value : anything
        Tables are those of polars and other packages that narwhals knows, structured arrays,
        and Datasets of xarray, which become long tables with one row a cell.
    mappings : bool
        Whether a dict of columns is a table, too.

    Returns
    -------
    DataFrame, or the value itself; of a single column, an array

    Raises
    ------
    InvalidDataError
        For a table that is not in memory yet, such as one of polars that is lazy.

    Notes
    -----
    None of these packages has to be there. Columns are taken over as NumPy arrays: a missing
    whole number becomes NaN, a missing text None, and enumerated values their text.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.array([(1, 0.5), (2, 1.5)], dtype=[("user", int), ("time", float)])
    >>> as_frame(rows)
       user  time
    0     1   0.5
    1     2   1.5
    """
    package = type(value).__module__.partition(".")[0]
    if package == "pandas":
        return value
    if isinstance(value, np.ndarray):
        names = value.dtype.names
        return value if names is None else _frame({name: value[name] for name in names})
    if package == "xarray" and hasattr(value, "to_dataframe") and hasattr(value, "data_vars"):
        return value.to_dataframe().reset_index()
    if mappings and isinstance(value, Mapping):
        return _frame(dict(value))
    if hasattr(value, "collect_schema") and hasattr(value, "collect"):
        raise InvalidDataError(
            f"the table is a {type(value).__name__}, not in memory yet: call collect() first"
        )
    if package in ("jax", "jaxlib", "torch", "xarray") or not hasattr(value, "to_numpy"):
        if not hasattr(value, "column_names"):
            return value
    import narwhals

    table = narwhals.from_native(value, eager_only=True, allow_series=True, pass_through=True)
    if isinstance(table, narwhals.Series):
        return table.to_numpy()
    if not isinstance(table, narwhals.DataFrame):
        return value
    return _frame({name: table[name].to_numpy() for name in table.columns})


def _frame(columns: dict[str, np.ndarray]) -> Any:
    import pandas as pd

    return pd.DataFrame(columns)
