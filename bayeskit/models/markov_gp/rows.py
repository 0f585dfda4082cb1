"""Rows of data at the door: checked, as numbers, sorted, with repeats merged, and padded."""

from __future__ import annotations

import datetime as dt
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import column_or_1d

from bayeskit.errors import InvalidDataError
from bayeskit.models.base import checked_array, checked_lengths
from bayeskit.models.tables import as_frame

__all__ = [
    "Grid",
    "Rows",
    "are_dates",
    "as_dates",
    "checked_levels",
    "coordinates",
    "grid_of",
    "have_zone",
    "observations",
    "padded_size",
    "refuse_huge",
    "refuse_other_kind",
    "refuse_other_zone",
    "rows_of",
    "with_zone",
]

# The smallest size that is compiled.
_SMALLEST = 16
# Kernels take squares of differences of coordinates, and of lengths beside them.
_LARGEST = 1e100


class Grid(NamedTuple):
    """Sorted coordinates, each once, padded by repeats of the last.

    Parameters
    ----------
    x : (size,) array
    gaps : (size - 1,) array
        Taken in double precision whatever the precision of x.
    """

    x: Any
    gaps: Any


class Rows(NamedTuple):
    """Observations in any order, padded by rows of weight zero.

    Parameters
    ----------
    y : (rows,) array
    variance : (rows,) array
        Of the noise that was given for the row.
    weight : (rows,) array
        1 for an observation, 0 for none.
    place : (rows,) int32 array
        Where on the grid the row stands.
    """

    y: Any
    variance: Any
    weight: Any
    place: Any


def coordinates(X: Any, name: str = "X") -> np.ndarray:
    """Return one coordinate for each row as float64: numbers, or days for dates.

    Raises
    ------
    InvalidDataError
        For more than one column, no rows, text, NaN or infinities, with row and column.
    """
    X = values = as_frame(X)
    if hasattr(values, "to_numpy"):
        # Times of a zone as those of UTC.
        is_zoned = getattr(getattr(values, "dtype", None), "tz", None) is not None
        values = values.to_numpy("datetime64[ns]") if is_zoned else values.to_numpy()
    array = _as_array(values) if not hasattr(values, "toarray") else values
    if getattr(array, "dtype", None) is not None and array.dtype.kind == "M":
        missing = np.isnat(array)
        if missing.any():
            place = np.argwhere(missing)[0]
            raise InvalidDataError(f"{name} contains NaT at row {place[0]}: drop such rows")
        array = array.astype("datetime64[ns]").astype(np.int64) / 86_400e9
        array = np.asarray(array, np.float64)
    else:
        array = checked_array(X, name)
    array = np.asarray(array)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InvalidDataError(
            f"{name} must hold one coordinate for each row, in one column; got shape "
            f"{array.shape}. Fit one model for each column, or leave the others out"
        )
    array = array.astype(np.float64)
    refuse_huge(array, name)
    return array


def are_dates(X: Any) -> bool:
    """Return whether coordinates of one mode are dates."""
    X = as_frame(X)
    dtypes = getattr(X, "dtypes", None)
    dtype = getattr(X, "dtype", None)
    if dtype is None and dtypes is not None:
        dtype = dtypes.iloc[0] if len(dtypes) else None
    if getattr(dtype, "kind", "O") == "O":
        dtype = _as_array(X).dtype
    return bool(getattr(dtype, "kind", None) == "M")


def _as_array(values: Any) -> np.ndarray:
    """Return an array, of dates also where they are objects."""
    array = np.asarray(values)
    if array.dtype == object and array.size and isinstance(array.flat[0], dt.date):
        in_utc = [_without_zone(value) for value in array.flat]
        return np.array(in_utc, "datetime64[ns]").reshape(array.shape)
    return array


def _without_zone(value: Any) -> Any:
    if getattr(value, "tzinfo", None) is None:
        return value
    return value.astimezone(dt.UTC).replace(tzinfo=None)


def have_zone(X: Any) -> bool:
    """Return whether coordinates of one mode are dates with a time zone.

    Raises
    ------
    InvalidDataError
        If some have one and some have none.
    """
    dtypes: Any = getattr(X, "dtypes", None)
    dtype = getattr(X, "dtype", None)
    if hasattr(dtypes, "iloc") and len(dtypes):
        dtype = dtypes.iloc[0]
    if getattr(dtype, "tz", None) is not None:
        return True
    array = np.asarray(X)
    if array.dtype != object:
        return False
    zoned = [getattr(value, "tzinfo", None) is not None for value in array.flat]
    if any(zoned) and not all(zoned):
        raise InvalidDataError(
            "X holds dates with a time zone and dates without one: give all of them in UTC"
        )
    return any(zoned)


def with_zone(dates: np.ndarray) -> Any:
    """Return dates of UTC as an index that says so."""
    import pandas as pd

    return pd.DatetimeIndex(dates).tz_localize("UTC")


def refuse_other_zone(had_zone: bool, X: Any, name: str) -> None:
    """Refuse dates with a time zone where those of the fit had none, and the reverse.

    Raises
    ------
    InvalidDataError
        If the two cannot be compared.
    """
    if have_zone(X) == had_zone:
        return
    have, had = ("none", "a time zone") if had_zone else ("one", "no time zone")
    how = "tz_localize('UTC')" if had_zone else "tz_convert('UTC').tz_localize(None)"
    raise InvalidDataError(
        f"the dates of the fit had {had}, but {name} has {have}: they cannot be compared. "
        f"Say which times are meant, such as by {how}"
    )


def refuse_other_kind(had_dates: bool, X: Any, name: str) -> None:
    """Refuse dates where the fit had numbers, and numbers where it had dates.

    Raises
    ------
    InvalidDataError
        If the kinds differ.
    """
    if are_dates(X) == had_dates:
        return
    kinds = ("dates", "numbers") if had_dates else ("numbers", "dates")
    raise InvalidDataError(
        f"the fit had {kinds[0]} in {name}, but these are {kinds[1]}: dates count in "
        "days since 1970, and numbers as they are"
    )


def as_dates(x: np.ndarray) -> np.ndarray:
    """Return days since 1970 as dates."""
    return (np.asarray(x) * 86_400e9).round().astype("datetime64[ns]")


def refuse_huge(array: np.ndarray, name: str) -> None:
    """Refuse coordinates whose squared differences double precision cannot hold.

    Raises
    ------
    InvalidDataError
        With the first row that is bad.
    """
    bad = np.abs(array) > _LARGEST
    if bad.any():
        place = np.argwhere(bad)[0]
        raise InvalidDataError(
            f"{name} is {array[tuple(place)]:g} at row {place[0]}, but coordinates beyond "
            f"{_LARGEST:g} are more than double precision can compare: give {name} in another "
            "unit"
        )


def checked_levels(quantiles: Any) -> np.ndarray:
    """Return probabilities (levels,) strictly between 0 and 1.

    Raises
    ------
    ValueError
        For anything else.
    """
    try:
        levels = np.atleast_1d(np.asarray(quantiles, float))
    except (TypeError, ValueError):
        levels = np.full(1, np.nan)
    if levels.ndim != 1 or not levels.size or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(
            "quantiles must be probabilities between 0 and 1, such as [0.05, 0.5, 0.95], got "
            f"{quantiles!r}"
        )
    return levels


def observations(y: Any, num_rows: int, *, allow_none: bool = False) -> np.ndarray:
    """Return observations as float64, NaN where there is none.

    Parameters
    ----------
    y : (num_rows,) array
    num_rows : int
    allow_none : bool
        Whether all may be NaN, such as where rows are added to others.

    Raises
    ------
    InvalidDataError
        For other lengths, infinities, text, or no observation at all.
    """
    if y is None:
        raise InvalidDataError("y is missing: fit(X, y) needs an observation for each row")
    array = column_or_1d(checked_array(y, "y", allow_nan=True), warn=True).astype(np.float64)
    checked_lengths({"X": np.empty(num_rows), "y": array})
    if not allow_none and np.isnan(array).all():
        raise InvalidDataError("y holds NaN only: at least one observation is needed")
    return array


def padded_size(num: int) -> int:
    """Return the next size that is compiled: 2^k or 3 2^k, so that few sizes serve all."""
    size = _SMALLEST
    while size < num:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def grid_of(x: np.ndarray, dtype: str) -> tuple[Grid, np.ndarray]:
    """Return the grid of coordinates in any order, and the place of each on it."""
    distinct, place = np.unique(x, return_inverse=True)
    size = padded_size(len(distinct))
    padded = np.concatenate([distinct, np.full(size - len(distinct), distinct[-1])])
    gaps = np.diff(padded)
    return Grid(padded.astype(dtype), gaps.astype(dtype)), place.astype(np.int32).reshape(-1)


def rows_of(y: np.ndarray, variance: np.ndarray, place: np.ndarray, dtype: str) -> Rows:
    """Return padded rows; NaN has weight zero."""
    seen = ~np.isnan(y)
    more = padded_size(len(y)) - len(y)
    pad = lambda values, fill: np.concatenate([values, np.full(more, fill, values.dtype)])
    return Rows(
        pad(np.where(seen, y, 0.0), 0.0).astype(dtype),
        # A padded row has some noise, so that nothing is divided by zero.
        pad(np.where(seen, variance, 1.0), 1.0).astype(dtype),
        pad(seen.astype(dtype), 0.0).astype(dtype),
        pad(place, 0),
    )
