"""Columns of a table at the door: found, checked, and as numbers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.models.base import real_numbers

__all__ = [
    "STUDY",
    "UNIT_DAYS",
    "as_dates",
    "as_times",
    "column",
    "components",
    "label_codes",
    "missing",
    "numbered",
    "outcomes",
    "shown",
    "shown_time",
    "versions",
]

# What an exposure ended with: 0 wrong, 1 correct, and this where nothing was answered.
STUDY = 2
UNIT_DAYS = {
    "millisecond": 1 / 86_400_000,
    "second": 1 / 86_400,
    "minute": 1 / 1440,
    "hour": 1 / 24,
    "day": 1.0,
}
# The squares of gaps are taken.
_LATEST = 1e100
_NEEDED = "learner, kc, time"


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str) or not hasattr(value, "__len__")


def column(table: Any, name: str, required: bool = True, answers: bool = True) -> Any:
    """Return a column of a DataFrame or mapping; None where it may lack and does."""
    names = list(table.keys()) if isinstance(table, Mapping) else list(table.columns)
    if name not in names:
        if not required:
            return None
        raise InvalidDataError(
            f"the table has no column {name!r}: it has {sorted(map(str, names))}, and needs "
            f"{_NEEDED}{' and correct' if answers else ''} (rename yours, or use a loader of "
            "bayeskit.datasets)"
        )
    values = table[name]
    if hasattr(values, "to_numpy") and not _is_scalar(values):
        values = values.to_numpy()
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return values
    if _is_scalar(values):
        lengths = [len(v) for v in table.values() if not _is_scalar(v)]
        values = [values] * (lengths[0] if lengths else 1)
    if name == "kc" and any(isinstance(v, list | tuple | set | frozenset) for v in values):
        array = np.empty(len(values), object)
        array[:] = values
        return array
    array = np.asarray(values)
    if array.dtype.kind == "U" and not all(isinstance(v, str) for v in values):
        # NumPy makes text of numbers that stand beside text.
        array = np.asarray(values, object)
    if array.ndim != 1:
        raise InvalidDataError(f"column {name!r} must be one column, got shape {array.shape}")
    return array


def as_times(values: np.ndarray, name: str, unit: str) -> tuple[np.ndarray, str]:
    """Return times as float64 in the unit, and whether they were dates.

    Dates count from 1970, in UTC where they have a time zone.

    Returns
    -------
    times : (rows,) array
    dates : {"", "naive", "UTC"}
        Numbers, dates without time zone, and with one.
    """
    dates = ""
    if values.dtype.kind == "O" and any(isinstance(v, dt.date | np.datetime64) for v in values):
        import pandas as pd

        aware = any(getattr(v, "tzinfo", None) is not None for v in values)
        if aware and any(
            isinstance(v, dt.date | np.datetime64) and getattr(v, "tzinfo", None) is None
            for v in values
            if not pd.isna(v)
        ):
            raise InvalidDataError(
                f"{name} holds dates with a time zone and dates without one: give all in UTC"
            )
        dates = "UTC" if aware else "naive"
        try:
            stamps = pd.to_datetime(pd.Series(values, dtype=object), utc=True)
        except (TypeError, ValueError) as error:
            raise InvalidDataError(
                f"{name} holds dates and other things ({error}): parse it with "
                "pandas.to_datetime"
            ) from error
        values = stamps.dt.tz_convert(None).to_numpy()
    if values.dtype.kind == "M":
        if np.isnat(values).any():
            row = int(np.argmax(np.isnat(values)))
            raise InvalidDataError(f"{name} is missing (NaT) at row {row}: drop such rows")
        days = values.astype("datetime64[ns]").astype(np.int64) / 86_400e9
        return days / UNIT_DAYS[unit], dates or "naive"
    try:
        times = real_numbers(values, name).astype(np.float64)
    except InvalidDataError as error:
        raise InvalidDataError(
            f"{name} must hold numbers (in units of time_unit={unit!r}) or dates, got "
            f"{values.dtype} ({error}): parse text with pandas.to_datetime"
        ) from error
    bad = np.abs(times) > _LATEST
    if bad.any() and np.isfinite(times).all():
        row = int(np.argmax(bad))
        raise InvalidDataError(
            f"{name} is {times[row]:g} at row {row}, more than double precision can compare: "
            "rescale it, for example by another unit"
        )
    bad = ~np.isfinite(times)
    if bad.any():
        row = int(np.argmax(bad))
        raise InvalidDataError(
            f"{name} is {times[row]} at row {row} ({int(bad.sum())} rows): times must be finite"
        )
    return times, dates


def as_dates(times: np.ndarray, unit: str, dates: str) -> Any:
    """Return times as what they were in the table: dates, to the microsecond, or numbers."""
    if not dates:
        return times
    import pandas as pd

    stamps = np.round(np.asarray(times) * (UNIT_DAYS[unit] * 86_400e6)).astype("datetime64[us]")
    found = pd.DatetimeIndex(stamps)
    return found.tz_localize("UTC") if dates == "UTC" else found


def shown_time(time: float, unit: str, dates: str) -> str:
    """Return a time as a message shows it."""
    if not dates:
        return f"{time:g}"
    return str(as_dates(np.asarray([time]), unit, dates)[0])


def outcomes(values: np.ndarray, name: str = "correct") -> np.ndarray:
    """Return 0, 1 or 2 for wrong, correct and missing."""
    if values.dtype.kind == "b":
        return values.astype(np.int64)
    blank = np.where(missing(values), np.nan, values) if values.dtype.kind == "O" else values
    try:
        numbers = real_numbers(blank, name).astype(np.float64)
    except InvalidDataError:
        numbers = np.full(len(values), -1.0)
    allowed = (numbers == 0) | (numbers == 1) | np.isnan(numbers)
    if not allowed.all():
        row = int(np.argmin(allowed))
        raise InvalidDataError(
            f"{name} is {shown(values[row])} at row {row}: it must be 0, 1, or missing"
            + (" for a trial that was only studied" if name == "correct" else "")
        )
    return np.where(np.isnan(numbers), STUDY, numbers).astype(np.int64)


def shown(value: Any) -> str:
    """Return a label as a message shows it."""
    return repr(value.item() if hasattr(value, "item") else value)


def label_codes(values: np.ndarray, known: dict) -> np.ndarray:
    """Return the code of each label, -1 for those that are not known."""
    if len(values) < 256:
        return np.fromiter((known.get(v, -1) for v in values.tolist()), np.int64, len(values))
    import pandas as pd

    codes, distinct = pd.factorize(values, use_na_sentinel=False)
    found = [known.get(v, -1) for v in np.asarray(distinct).tolist()]
    return np.asarray(found, np.int64)[codes]


def numbered(values: np.ndarray, name: str) -> dict:
    """Return codes of the labels in a column, in order.

    Raises
    ------
    InvalidDataError
        For text beside numbers or other labels: "7" and 7 would be two.
    """
    distinct = dict.fromkeys(values.tolist())
    texts = [label for label in distinct if isinstance(label, str)]
    if texts and len(texts) < len(distinct):
        other = next(label for label in distinct if not isinstance(label, str))
        raise InvalidDataError(
            f"{name} mixes text, such as {texts[0]!r}, with other labels, such as {other!r}: "
            "make all of them text, for example with .astype(str)"
        )
    try:
        return {label: code for code, label in enumerate(sorted(distinct))}
    except TypeError:
        # Tuples and the like may have no order of their own.
        return {label: code for code, label in enumerate(distinct)}


def components(kc: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return labels, row and place of each component of each row, and the most of a row."""
    if kc.dtype.kind != "O" or not any(
        isinstance(v, list | tuple | set | frozenset) for v in kc.tolist()
    ):
        return kc, np.arange(len(kc)), np.zeros(len(kc), np.int64), 1
    labels: list = []
    rows: list[int] = []
    places: list[int] = []
    for row, value in enumerate(kc.tolist()):
        several = value if isinstance(value, list | tuple | set | frozenset) else [value]
        distinct = list(dict.fromkeys(several))
        if not distinct:
            raise InvalidDataError(f"kc is empty at row {row}: each row needs a component")
        labels += distinct
        rows += [row] * len(distinct)
        places += range(len(distinct))
    array = np.empty(len(labels), object)
    array[:] = labels
    return array, np.asarray(rows), np.asarray(places), max(places) + 1


def missing(values: np.ndarray) -> np.ndarray:
    """Return which entries are None or not a number."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind == "O":
        import pandas as pd

        # Lists are there; of single values None, NaN, NaT and NA are not.
        return np.fromiter((_is_scalar(v) and pd.isna(v) for v in values), bool, len(values))
    return np.zeros(len(values), bool)


def versions(values: np.ndarray | None, num: int | None, rows: int) -> tuple[np.ndarray, int]:
    """Return the version of each row, -1 for none, and how many there are."""
    if values is None:
        return np.full(rows, -1), num or 0
    blank = missing(values)
    try:
        numbers = np.where(blank, -1, values).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidDataError(
            f"version must hold whole numbers from 0 on, within each component ({error}); "
            "labels go into the column item"
        ) from error
    bad = (numbers != np.floor(numbers)) | ((numbers < 0) & ~blank)
    if bad.any():
        row = int(np.argmax(bad))
        raise InvalidDataError(
            f"version is {values[row]} at row {row}: versions of a component are whole "
            "numbers from 0 on"
        )
    codes = numbers.astype(np.int64)
    most = int(codes.max(initial=-1)) + 1
    if num is not None and most > num:
        row = int(np.argmax(codes >= num))
        raise InvalidDataError(
            f"version is {codes[row]} at row {row}, but the model knows versions 0 to {num - 1}"
        )
    return codes, most if num is None else num
