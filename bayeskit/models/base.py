"""What all estimators share: input checks, random state, precision."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from bayeskit.accel import as_key
from bayeskit.errors import InvalidDataError
from bayeskit.models.tables import as_frame

__all__ = ["as_random_key", "checked_array", "checked_lengths", "precision_scope"]


def precision_scope(precision: str) -> Any:
    """Return the local scope in which an estimator computes.

    Raises
    ------
    ValueError
        Unless the precision is "float64" or "float32".
    """
    if precision not in ("float64", "float32"):
        raise ValueError(f"precision must be 'float64' or 'float32', got {precision!r}")
    return jax.enable_x64(precision == "float64")


def as_random_key(random_state: Any) -> jax.Array:
    """Return a JAX key for what scikit-learn calls a random state.

    Parameters
    ----------
    random_state : int, numpy RandomState or Generator, JAX key, or None
        None takes fresh entropy from the operating system.
    """
    if random_state is None:
        return as_key(secrets.randbits(31))
    if isinstance(random_state, np.random.RandomState):
        return as_key(int(random_state.randint(2**31 - 1)))
    if isinstance(random_state, np.random.Generator):
        return as_key(int(random_state.integers(2**31 - 1)))
    return as_key(random_state)


def checked_array(value: Any, name: str, *, allow_nan: bool = False) -> Any:
    """Return numbers as a NumPy array; leave None, scalars and text alone.

    Raises
    ------
    InvalidDataError
        For NaN or infinities, with row and column; for text, objects and complex numbers;
        for arrays without rows.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    value = as_frame(value)
    columns = getattr(value, "columns", None)
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if hasattr(value, "toarray") and hasattr(value, "nnz"):
        raise InvalidDataError(f"{name} is sparse: convert it with {name}.toarray()")
    array = np.asarray(value)
    if array.dtype.kind == "O":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise InvalidDataError(
                f"{name} holds objects that are no numbers ({error}): encode text and "
                "categories as numbers first"
            ) from error
    if array.dtype.kind not in "biuf":
        raise InvalidDataError(
            f"{name} must hold real numbers, got dtype {array.dtype}: encode it first"
        )
    if array.ndim and array.shape[0] == 0:
        raise InvalidDataError(
            f"{name} has no rows (shape {array.shape}): at least 1 is needed"
        )
    if array.dtype.kind == "f":
        bad = ~np.isfinite(array) if not allow_nan else np.isinf(array)
        if bad.any():
            _refuse_values(array, bad, name, columns)
    # A copy in native byte order: JAX remembers the precision in which it has seen an array of
    # the caller's before, and would compute with that one here.
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True)


def _refuse_values(array: np.ndarray, bad: np.ndarray, name: str, columns: Any) -> None:
    place = np.argwhere(bad)[0]
    what = "NaN" if np.isnan(array[tuple(place)]) else str(array[tuple(place)])
    where = f"row {place[0]}" if array.ndim else "its only value"
    if array.ndim > 1:
        label = place[1]
        if columns is not None:
            label = f"{place[1]} ({columns[place[1]]!r})"
        where += f", column {label}"
    raise InvalidDataError(
        f"{name} contains {what} at {where} ({int(bad.sum())} of {array.size} values are not "
        "finite): drop or impute those rows"
    )


def checked_lengths(arrays: Mapping[str, Any]) -> None:
    """Refuse X and y of different lengths.

    Raises
    ------
    InvalidDataError
        With both lengths.
    """
    lengths = {
        name: np.shape(arrays[name])[0]
        for name in ("X", "y")
        if name in arrays and np.ndim(arrays[name])
    }
    if len(set(lengths.values())) > 1:
        raise InvalidDataError(
            f"X and y must have the same number of rows, got X with {lengths['X']} and y with "
            f"{lengths['y']}"
        )
