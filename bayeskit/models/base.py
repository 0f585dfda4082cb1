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

__all__ = [
    "as_engine",
    "as_random_key",
    "checked_array",
    "checked_lengths",
    "precision_scope",
    "real_numbers",
]

# Whole numbers up to here are exact in double precision.
_LARGEST_WHOLE = 2**53


class _ObjectsError(InvalidDataError, TypeError):
    """Objects that no number can be made of: TypeError is what scikit-learn raises."""


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

    Raises
    ------
    ValueError
        For anything else, such as negative or broken numbers.
    """
    if random_state is None:
        return as_key(secrets.randbits(31))
    if isinstance(random_state, np.random.RandomState):
        return as_key(int(random_state.randint(2**31 - 1)))
    if isinstance(random_state, np.random.Generator):
        return as_key(int(random_state.integers(2**31 - 1)))
    try:
        return as_key(random_state)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "random_state must be a whole number >= 0, a numpy RandomState or Generator, a JAX "
            f"key, or None, got {random_state!r}: {error}"
        ) from error


def as_engine(inference: Any, default: str, examples: str) -> Any:
    """Return the engine that a user chose; None stands for the default.

    Parameters
    ----------
    inference : str or engine
    default : str
        The one name that is allowed.
    examples : str
        Engines that a message proposes.

    Raises
    ------
    ValueError, TypeError
        For other names, and for what is no engine.
    """
    if isinstance(inference, str) and inference == default:
        return None
    if isinstance(inference, type):
        name = inference.__name__
        raise TypeError(f"inference is the class {name}: write {name}(), with brackets")
    if isinstance(inference, str) or not hasattr(inference, "run"):
        error = ValueError if isinstance(inference, str) else TypeError
        raise error(
            f"inference must be {default!r} or an engine such as {examples}, got {inference!r}"
        )
    return inference


def checked_array(value: Any, name: str, *, allow_nan: bool = False) -> Any:
    """Return numbers as a NumPy array; leave None, scalars and text alone.

    Raises
    ------
    InvalidDataError
        For NaN or infinities, with row and column; for what :func:`real_numbers` refuses; for
        arrays without rows.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    value = as_frame(value)
    columns = getattr(value, "columns", None)
    array = real_numbers(value, name)
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


def real_numbers(value: Any, name: str) -> np.ndarray:
    """Return real numbers as an array, NaN and infinities among them.

    Raises
    ------
    InvalidDataError
        For sparse matrices, text (also of numbers), objects, complex numbers, and whole numbers
        beyond 2^53, with the first place.
    """
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if hasattr(value, "toarray") and hasattr(value, "nnz"):
        raise InvalidDataError(f"{name} is sparse: convert it with {name}.toarray()")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InvalidDataError(f"{name} has rows of different lengths: {error}") from error
    if array.dtype.kind == "O":
        array = _numbers_of_objects(array, name)
    if array.dtype.kind == "c":
        raise InvalidDataError(
            f"Complex data not supported: {name} must hold real numbers, got dtype "
            f"{array.dtype}. Give real and imaginary parts as columns"
        )
    if array.dtype.kind not in "biuf":
        raise InvalidDataError(
            f"{name} must hold real numbers, got dtype {array.dtype}: encode it first"
        )
    if array.dtype.kind in "iu":
        bad = (array > _LARGEST_WHOLE) | (array < -_LARGEST_WHOLE)
        if bad.any():
            place = tuple(np.argwhere(bad)[0])
            raise InvalidDataError(
                f"{name} is {array[place]}{_where(place)}, and whole numbers beyond 2^53 have "
                "no exact floating-point number: subtract an offset or rescale first"
            )
    return array


def _numbers_of_objects(array: np.ndarray, name: str) -> np.ndarray:
    """Return objects as numbers, None as NaN; text is never read as a number."""
    for index, value in enumerate(array.flat):
        if isinstance(value, str | bytes):
            place = np.unravel_index(index, array.shape)
            raise InvalidDataError(
                f"{name} holds text, {value!r}{_where(place)}: convert numbers with "
                ".astype(float), and encode categories as numbers"
            )
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        kind = _ObjectsError if isinstance(error, TypeError) else InvalidDataError
        raise kind(
            f"{name} holds objects that are no numbers ({error}): encode text and "
            "categories as numbers first"
        ) from error


def _where(place: Any) -> str:
    """Return where a value stands, in words; counted from 0."""
    if not len(place):
        return ""
    return f" at row {place[0]}" + (f", column {place[1]}" if len(place) > 1 else "")


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
