"""Arrays X and y in scikit-learn's manner, as a table with a formula."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.validation import validate_data

from bayeskit.errors import InvalidDataError
from bayeskit.models.base import checked_array, checked_lengths

__all__ = ["formula_of_arrays", "frame_of_arrays", "new_frame"]

OUTCOME = "y"


def formula_of_arrays(names: list[str]) -> str:
    """Return the formula with an intercept and all columns."""
    return f"{OUTCOME} ~ " + " + ".join(["1", *(f"`{name}`" for name in names)])


def frame_of_arrays(X: Any, y: Any, surrogates: Any) -> tuple[Any, list[str], dict]:
    """Return a frame, the names of the covariates, and the predicted variables.

    Parameters
    ----------
    X : (rows, columns) array or DataFrame
    y : (rows) array
    surrogates : (rows) or (rows, columns) array, or mapping
        Of y; a mapping has them by ``"y"`` and by the names or numbers of columns of X.

    Raises
    ------
    InvalidDataError
        For NaN in columns of X without surrogates, text, and arrays of different lengths.
    """
    import pandas as pd

    if y is None:
        raise InvalidDataError(
            "DSLRegressor requires y to be passed, but the target y is None: fit(X, y), or "
            "give a formula and fit(table)"
        )
    array = checked_array(X, "X", allow_nan=isinstance(surrogates, Mapping))
    _check_shape(array)
    outcome = checked_array(y, "y", allow_nan=True)
    if np.ndim(outcome) == 2 and np.shape(outcome)[1] == 1:
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected: its column is taken",
            DataConversionWarning,
            stacklevel=4,
        )
        outcome = outcome[:, 0]
    if np.ndim(outcome) != 1:
        raise InvalidDataError(f"y must have shape (rows,), got {np.shape(outcome)}")
    checked_lengths({"X": array, "y": outcome})
    columns = getattr(X, "columns", None)
    given = range(array.shape[1]) if columns is None else columns
    # A number in a formula would be that number.
    names = [c if isinstance(c, str) else f"x{c}" for c in given]
    if OUTCOME in names:
        raise InvalidDataError(f"a column of X is called {OUTCOME!r}: rename it")
    index = X.index if hasattr(X, "columns") else None
    frame = pd.DataFrame(array.astype(float), columns=names, index=index)
    frame[OUTCOME] = outcome.astype(float)
    if surrogates is None:
        has_all = not np.isnan(frame[OUTCOME]).any()
        return frame, names, {} if has_all else {OUTCOME: ()}
    if not isinstance(surrogates, Mapping):
        surrogates = {OUTCOME: surrogates}
    places = {OUTCOME: OUTCOME, **dict(zip(given, names, strict=True))}
    predicted = {}
    for key, values in surrogates.items():
        if key not in places:
            raise InvalidDataError(
                f"surrogates names {key!r}: it must be 'y' or a column of X, {list(given)}"
            )
        predicted[places[key]] = _add_columns(frame, f"{places[key]}_surrogate", values)
    return frame, names, predicted


def _check_shape(array: Any) -> None:
    if np.ndim(array) != 2:
        raise InvalidDataError(
            f"X must have shape (rows, columns), got {np.shape(array)}. Reshape your data"
        )
    if not array.shape[1]:
        raise InvalidDataError(
            f"X has 0 feature(s) (shape={array.shape}) while a minimum of 1 is required: for "
            "a mean take model='mean' with a formula"
        )


def _add_columns(frame: Any, label: str, values: Any) -> tuple[str, ...]:
    """Add surrogates to a frame, and return the names of their columns."""
    extra = checked_array(values, "surrogates")
    extra = extra[:, None] if np.ndim(extra) == 1 else extra
    if np.ndim(extra) != 2 or len(extra) != len(frame):
        raise InvalidDataError(
            f"surrogates must have {len(frame)} rows, got shape {np.shape(values)}"
        )
    labels = tuple(f"{label}{j}" for j in range(extra.shape[1]))
    for j, name in enumerate(labels):
        frame[name] = extra[:, j].astype(float)
    return labels


def new_frame(X: Any, estimator: Any) -> Any:
    """Return new covariates as a frame.

    Raises
    ------
    InvalidDataError
        For another number of columns than in ``fit``, or other names or another order of them.
    """
    import pandas as pd

    array = checked_array(X, "X")
    _check_shape(array)
    try:
        validate_data(estimator, X, reset=False, skip_check_array=True)
    except ValueError as error:
        raise InvalidDataError(str(error)) from error
    names = list(estimator._table_.frame.columns)[: array.shape[1]]
    return pd.DataFrame(array.astype(float), columns=names)
