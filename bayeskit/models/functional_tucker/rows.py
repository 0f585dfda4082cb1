"""Tables of coordinates and targets at the door: checked, as numbers, with names of modes."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from bayeskit.errors import BayeskitWarning, InvalidDataError
from bayeskit.models.base import checked_array
from bayeskit.models.markov_gp.rows import (
    are_dates,
    coordinates,
    have_zone,
    refuse_huge,
    refuse_other_kind,
    refuse_other_zone,
)

__all__ = [
    "Categories",
    "Dates",
    "coordinates_of",
    "date_columns",
    "new_table",
    "refuse_other_dates",
    "table_of",
]

#: For each mode that holds categories: its values, whose places are their coordinates.
Categories = Mapping[Hashable, np.ndarray]
#: For each mode that holds dates: whether they have a time zone.
Dates = Mapping[Hashable, bool]


def table_of(
    X: Any, known: Categories | None = None
) -> tuple[tuple[Hashable, ...], np.ndarray, Categories]:
    """Return the names of modes, their coordinates (rows, modes) as float64, and categories.

    Columns of a DataFrame may hold dates, which count in days, and categories or text, whose
    values are numbered. The numbers of values that were not known follow those of known ones.

    Parameters
    ----------
    X : DataFrame or (rows, modes) array
    known : dict, optional
        Categories that were seen before, by mode.

    Raises
    ------
    InvalidDataError
        For other shapes, no rows or modes, NaN or infinities, with row and column.
    """
    known = {} if known is None else known
    if hasattr(X, "columns"):
        names = tuple(X.columns)
        if len(set(names)) < len(names):
            raise InvalidDataError(f"the columns of X must have different names, got {names}")
        if not names:
            raise InvalidDataError("X has no columns: at least one mode is needed")
        columns, categories = [], {}
        for name in names:
            if name in known or _holds_categories(X[name]):
                given = X[name]
                if name not in known and given.dtype.name == "category":
                    # Declared: no doubt, and in the order that was stated.
                    known = {**known, name: np.asarray(given.cat.categories, object)}
                values, codes = _numbered(given, name, known.get(name))
                columns.append(codes)
                categories[name] = values
            else:
                # Refuses a mix of dates with a zone and without.
                have_zone(X[name])
                columns.append(coordinates(X[name], f"column {name!r} of X"))
        return names, np.stack(columns, axis=1), categories
    array = checked_array(X if hasattr(X, "toarray") else np.asarray(X), "X")
    if np.ndim(array) != 2 or not array.shape[1]:
        raise InvalidDataError(
            f"X must have rows and columns, one column for each mode; got shape "
            f"{np.shape(array)}"
        )
    table = array.astype(np.float64)
    refuse_huge(table, "X")
    return tuple(range(array.shape[1])), table, known


def _holds_categories(column: Any) -> bool:
    """Return whether a column holds text, or is declared to hold categories."""
    if column.dtype.name == "category":
        return True
    if getattr(column.dtype, "kind", "O") not in "OU":
        return False
    present = column.dropna()
    return len(present) > 0 and all(isinstance(value, str) for value in present)


def _numbered(
    column: Any, name: Hashable, known: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values, and the place of each row's value among them."""
    import pandas as pd

    missing = np.asarray(column.isna())
    if missing.any():
        raise InvalidDataError(
            f"column {name!r} of X contains a missing category at row "
            f"{int(np.argmax(missing))}: give it a name of its own, or drop such rows"
        )
    values = np.asarray(column, object)
    before = np.zeros(0, object) if known is None else known
    _check_kind(values, before, name)
    places = {value: place for place, value in enumerate(before)}
    for value in pd.unique(values):
        places.setdefault(value, len(places))
    return np.array(list(places), object), np.array([places[v] for v in values], float)


def _check_kind(values: np.ndarray, before: np.ndarray, name: Hashable) -> None:
    """Refuse numbers where there was text, and doubt text that reads as numbers."""
    is_text = lambda some: all(isinstance(value, str) for value in some)
    if len(before) and is_text(before) and not is_text(values):
        strange = next(value for value in values if not isinstance(value, str))
        raise InvalidDataError(
            f"column {name!r} of X holds {strange!r}, but the fit had text there, such as "
            f"{before[0]!r}, as categories: give text again, or fit numbers"
        )
    if not len(before) and is_text(values) and all(map(_reads_as_number, values)):
        warnings.warn(
            f"column {name!r} of X holds numbers as text, such as {values[0]!r}, and is taken "
            "for categories without an order: convert it with .astype(float) if they have "
            "one, or with .astype('category') if not",
            BayeskitWarning,
            # The call of fit.
            stacklevel=5,
        )


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def date_columns(X: Any) -> Dates:
    """Return the columns of a DataFrame that hold dates, and whether those have a zone."""
    names = X.columns if hasattr(X, "columns") else ()
    return {name: have_zone(X[name]) for name in names if are_dates(X[name])}


def refuse_other_dates(dates: Dates, mode: Hashable, values: Any, name: str) -> None:
    """Refuse dates for numbers, the reverse, and dates of another kind than in the fit.

    Raises
    ------
    InvalidDataError
        If the two cannot be compared.
    """
    refuse_other_kind(mode in dates, values, name)
    if mode in dates:
        refuse_other_zone(dates[mode], values, name)


def coordinates_of(values: Any, mode: Hashable, categories: Categories) -> np.ndarray:
    """Return the coordinates (points,) of values of a mode, such as the points of a grid."""
    if mode in categories:
        places = {value: place for place, value in enumerate(categories[mode])}
        values = np.ravel(np.asarray(values, object))
        unknown = [value for value in values if value not in places]
        if unknown:
            raise InvalidDataError(
                f"mode {mode!r} has no category {unknown[0]!r}; there are {list(places)}"
            )
        return np.array([places[value] for value in values], float)
    return coordinates(np.ravel(values), f"values of mode {mode!r}")


def new_table(
    X: Any,
    names: tuple[Hashable, ...],
    categories: Categories,
    dates: Dates,
    may_be_unseen: bool = False,
) -> np.ndarray:
    """Return coordinates of new rows, in the order of the modes of the fit.

    Raises
    ------
    InvalidDataError
        For modes that are missing, another number of columns, and columns of another kind than
        in the fit: numbers, dates with or without a time zone, or categories.

    Warns
    -----
    BayeskitWarning
        For categories that the fit has not seen, unless they may be unseen.
    """
    if hasattr(X, "columns") and set(names) <= set(X.columns):
        X = X[list(names)]
    elif hasattr(X, "columns") and names != tuple(range(len(names))):
        missing = [name for name in names if name not in set(X.columns)]
        raise InvalidDataError(f"X lacks the columns {missing}: the fit had {list(names)}")
    if not hasattr(X, "columns") and np.ndim(X) == 2:
        _refuse_other_number(np.shape(X)[1], names)
    if categories and not hasattr(X, "columns"):
        raise InvalidDataError(
            f"the fit had categories in {sorted(map(str, categories))}: give a DataFrame with "
            "their names"
        )
    if dates and not hasattr(X, "columns"):
        raise InvalidDataError(
            f"the fit had dates in {sorted(map(str, dates))}: give a DataFrame with dates"
        )
    if hasattr(X, "columns"):
        for place, name in enumerate(names[: X.shape[1]]):
            refuse_other_dates(dates, name, X.iloc[:, place], f"column {name!r}")
    found, table, kinds = table_of(X, categories)
    strange = [name for name in kinds if name not in categories]
    if strange:
        raise InvalidDataError(
            f"column {strange[0]!r} of X holds categories, but the fit had numbers there"
        )
    _refuse_other_number(len(found), names)
    for place, name in enumerate(names if kinds and not may_be_unseen else ()):
        _warn_of_unseen(kinds.get(name, ()), categories.get(name, ()), table[:, place], name)
    return table


def _warn_of_unseen(values: Any, known: Any, codes: np.ndarray, name: Hashable) -> None:
    """Warn of rows whose categories come after those that are known."""
    strange = list(values[len(known) :]) if len(known) else []
    if strange:
        num = int(np.sum(codes >= len(known)))
        warnings.warn(
            f"column {name!r} of X holds categories that the fit has not seen, such as "
            f"{strange[0]!r}, in {num} of {len(codes)} rows: their effects are draws from the "
            "prior, and predictions as wide",
            BayeskitWarning,
            # Who calls predict.
            stacklevel=6,
        )


def _refuse_other_number(num: int, names: tuple[Hashable, ...]) -> None:
    if num != len(names):
        raise InvalidDataError(
            f"X has {num} columns, but the fit had {len(names)}: {list(names)}"
        )
