"""The table of interactions at the door: checked, as numbers, sorted by learner and time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bayeskit.errors import BayeskitWarning, InvalidDataError

__all__ = ["STUDY", "UNIT_DAYS", "Interactions", "Labels", "interactions_of", "label_codes"]

# What an exposure ended with: 0 wrong, 1 correct, and this where nothing was answered.
STUDY = 2
UNIT_DAYS = {
    "millisecond": 1 / 86_400_000,
    "second": 1 / 86_400,
    "minute": 1 / 1440,
    "hour": 1 / 24,
    "day": 1.0,
}
# Beyond these a unit of time is taken to be a mistake.
_LONGEST_MEDIAN_DAYS = 30 * 365.25
_SHORTEST_GAP_DAYS = 1e-9


class Labels(NamedTuple):
    """Names of learners, knowledge components and items, by code.

    Parameters
    ----------
    learner, kc, item : dict of label to code
    num_versions : int
        Versions of a component; 0 where there are none.
    """

    learner: dict
    kc: dict
    item: dict
    num_versions: int


class Interactions(NamedTuple):
    """Rows sorted by learner and time.

    Parameters
    ----------
    learner : (rows,) int array
        -1 for one that is not known.
    kc : (rows, kcs) int array
        Components that the row exercises; -1 fills up.
    item, version : (rows,) int arrays
        -1 for none, or one that is not known.
    time, time_end : (rows,) float arrays
        When the item was shown, and when it was answered.
    outcome : (rows,) int array
        0 wrong, 1 correct, 2 studied.
    order : (rows,) int array
        Number of each row in the table.
    """

    learner: np.ndarray
    kc: np.ndarray
    item: np.ndarray
    version: np.ndarray
    time: np.ndarray
    time_end: np.ndarray
    outcome: np.ndarray
    order: np.ndarray


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str) or not hasattr(value, "__len__")


def _column(table: Any, name: str, required: bool = True) -> np.ndarray | None:
    names = list(table.keys()) if isinstance(table, Mapping) else list(table.columns)
    if name not in names:
        if not required:
            return None
        raise InvalidDataError(
            f"the table has no column {name!r}: it has {sorted(map(str, names))}, and needs "
            "learner, kc, time and correct (rename yours, or use a loader of "
            "bayeskit.datasets)"
        )
    values = table[name]
    if hasattr(values, "to_numpy"):
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
    if array.ndim != 1:
        raise InvalidDataError(f"column {name!r} must be one column, got shape {array.shape}")
    return array


def _times(values: np.ndarray, name: str, unit: str) -> np.ndarray:
    """Return times as float64 in the unit; dates count from 1970."""
    if values.dtype.kind == "M":
        if np.isnat(values).any():
            row = int(np.argmax(np.isnat(values)))
            raise InvalidDataError(f"{name} is missing (NaT) at row {row}: drop such rows")
        days = values.astype("datetime64[ns]").astype(np.int64) / 86_400e9
        return days / UNIT_DAYS[unit]
    try:
        times = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidDataError(
            f"{name} must hold numbers (in units of time_unit={unit!r}) or dates, got "
            f"{values.dtype} ({error}): parse it with pandas.to_datetime"
        ) from error
    bad = ~np.isfinite(times)
    if bad.any():
        row = int(np.argmax(bad))
        raise InvalidDataError(
            f"{name} is {times[row]} at row {row} ({int(bad.sum())} rows): times must be finite"
        )
    return times


def _outcomes(values: np.ndarray) -> np.ndarray:
    """Return 0, 1 or 2 for wrong, correct and missing."""
    if values.dtype.kind == "b":
        return values.astype(np.int64)
    try:
        numbers = np.asarray(
            [np.nan if v is None or v != v else v for v in values]
            if values.dtype.kind == "O"
            else values,
            np.float64,
        )
    except (TypeError, ValueError):
        numbers = np.full(len(values), -1.0)
    allowed = (numbers == 0) | (numbers == 1) | np.isnan(numbers)
    if not allowed.all():
        row = int(np.argmin(allowed))
        raise InvalidDataError(
            f"correct is {_shown(values[row])} at row {row}: it must be 0, 1, or missing for a "
            "trial that was only studied"
        )
    return np.where(np.isnan(numbers), STUDY, numbers).astype(np.int64)


def _shown(value: Any) -> str:
    return repr(value.item() if hasattr(value, "item") else value)


def label_codes(values: np.ndarray, known: dict) -> np.ndarray:
    """Return the code of each label, -1 for those that are not known."""
    if len(values) < 256:
        return np.fromiter((known.get(v, -1) for v in values.tolist()), np.int64, len(values))
    import pandas as pd

    codes, distinct = pd.factorize(values, use_na_sentinel=False)
    found = [known.get(v, -1) for v in np.asarray(distinct).tolist()]
    return np.asarray(found, np.int64)[codes]


def _numbered(values: np.ndarray) -> dict:
    """Return codes of the labels in a column, in order."""
    distinct = dict.fromkeys(values.tolist())
    try:
        return {label: code for code, label in enumerate(sorted(distinct))}
    except TypeError:
        # Labels of several types have no order of their own.
        return {label: code for code, label in enumerate(distinct)}


def _exploded(kc: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
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


def _missing(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind == "O":
        return np.fromiter((v is None or v != v for v in values), bool, len(values))
    return np.zeros(len(values), bool)


def _versions(values: np.ndarray | None, num: int | None, rows: int) -> tuple[np.ndarray, int]:
    if values is None:
        return np.full(rows, -1), num or 0
    missing = _missing(values)
    numbers = np.where(missing, -1, values).astype(np.float64)
    bad = (numbers != np.floor(numbers)) | (numbers < 0) & ~missing
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


def _kc_labels(labels: np.ndarray, given: dict | None) -> dict:
    known = _numbered(labels) if given is None else given
    missing = _missing(labels)
    if missing.any():
        raise InvalidDataError(f"kc is missing ({int(missing.sum())} rows): drop such rows")
    return known


def interactions_of(
    table: Any,
    *,
    time_unit: str,
    strict: bool = False,
    kc_labels: dict | None = None,
    labels: Labels | None = None,
    answers: bool = True,
) -> tuple[Interactions, Labels]:
    """Return the rows of a table in order, and the labels that they use.

    Parameters
    ----------
    table : DataFrame or mapping of columns
        Columns learner, kc, time, correct; optionally item, version and time_end. A mapping
        may hold single values, which stand for all rows.
    time_unit : str
    strict : bool
        Refuse rows that are out of order instead of sorting them.
    kc_labels : dict, optional
        The components that there are, where they are known beforehand.
    labels : Labels, optional
        Those of an earlier table; learners that are not in it get the code -1.
    answers : bool
        Whether the column correct is needed.

    Raises
    ------
    InvalidDataError
        For a missing column, an empty table, answers that are not 0, 1 or missing, times that
        are not finite, components that are not known.
    """
    if not (isinstance(table, Mapping) or hasattr(table, "columns")):
        raise InvalidDataError(
            f"interactions must be a DataFrame or a dict of columns, got {type(table).__name__}"
        )
    if time_unit not in UNIT_DAYS:
        raise ValueError(f"time_unit must be one of {sorted(UNIT_DAYS)}, got {time_unit!r}")
    columns = {name: _column(table, name) for name in ("learner", "kc", "time")}
    learner, kc, time = (np.asarray(columns[name]) for name in ("learner", "kc", "time"))
    correct = _column(table, "correct", required=answers)
    optional = {n: _column(table, n, required=False) for n in ("item", "version", "time_end")}
    num = len(learner)
    for name, column in {**columns, "correct": correct, **optional}.items():
        if column is not None and len(column) != num:
            raise InvalidDataError(
                f"columns differ in length: learner has {num} rows, {name} has {len(column)}"
            )
    if num == 0:
        raise InvalidDataError(
            "the table is empty: column 'learner' has no rows, at least 1 is needed"
        )
    time = _times(time, "time", time_unit)
    end = time
    if optional["time_end"] is not None:
        end = _times(optional["time_end"], "time_end", time_unit)
        if (end < time).any():
            row = int(np.argmax(end < time))
            raise InvalidDataError(
                f"time_end is {end[row]} at row {row}, before time {time[row]}: an answer ends "
                "after its item is shown"
            )
    outcome = np.full(num, STUDY) if correct is None else _outcomes(correct)
    kc_label, kc_row, kc_place, width = _exploded(kc)
    item, version = optional["item"], optional["version"]
    if labels is None:
        kcs = _kc_labels(kc_label, kc_labels)
        items = {} if item is None else _numbered(item[~_missing(item)])
        version_codes, num_versions = _versions(version, None, num)
        labels = Labels(_numbered(learner), kcs, items, num_versions)
    else:
        version_codes, _ = _versions(version, labels.num_versions, num)
    codes = label_codes(kc_label, labels.kc)
    if (codes < 0).any():
        place = int(np.argmax(codes < 0))
        shown = list(labels.kc)[:8]
        raise InvalidDataError(
            f"kc {_shown(kc_label[place])} at row {kc_row[place]} is not known: known are "
            f"{shown}" + ("" if len(labels.kc) <= 8 else f" and {len(labels.kc) - 8} more")
        )
    kc_codes = np.full((num, width), -1)
    kc_codes[kc_row, kc_place] = codes
    item_codes = np.full(num, -1) if item is None else label_codes(item, labels.item)
    who = label_codes(learner, labels.learner)
    # Learners that are not known still are somebody: their rows belong together.
    group = who
    if (who < 0).any():
        others = _numbered(learner[who < 0])
        group = np.where(who < 0, len(labels.learner) + label_codes(learner, others), who)
    order = np.lexsort((np.arange(num), time, group))
    _check_order(order, group, time, strict, answers)
    rows = Interactions(
        who, kc_codes, item_codes, version_codes, time, end, outcome, np.arange(num)
    )
    rows = Interactions(*(column[order] for column in rows))
    if answers:
        _check_unit(rows, group[order], time_unit)
    return rows, labels


def _check_order(
    order: np.ndarray, group: np.ndarray, time: np.ndarray, strict: bool, answers: bool
) -> None:
    if not answers:
        return
    by_learner = np.argsort(group, kind="stable")
    same = np.diff(group[by_learner]) == 0
    back = same & (np.diff(time[by_learner]) < 0)
    if not back.any():
        return
    row = int(by_learner[1:][back][0])
    words = f"times decrease within a learner, first at row {row} ({int(back.sum())} times)"
    if strict:
        raise InvalidDataError(f"{words}: sort the table by learner and time")
    warnings.warn(
        f"{words}: the rows were sorted. Pass strict=True to refuse such tables",
        BayeskitWarning,
        stacklevel=5,
    )


def _check_unit(rows: Interactions, group: np.ndarray, time_unit: str) -> None:
    gaps = np.diff(rows.time)[np.diff(group) == 0] * UNIT_DAYS[time_unit]
    if not len(gaps):
        return
    middle, longest = float(np.median(gaps)), float(gaps.max())
    if middle > _LONGEST_MEDIAN_DAYS or 0 < longest < _SHORTEST_GAP_DAYS:
        what = (
            f"the median gap between answers is {middle / 365.25:.3g} years"
            if middle > _LONGEST_MEDIAN_DAYS
            else f"no gap between answers is longer than {longest * 86_400:.3g} seconds"
        )
        warnings.warn(
            f"{what} with time_unit={time_unit!r}: is the column in another unit, such as "
            "milliseconds?",
            BayeskitWarning,
            stacklevel=5,
        )
