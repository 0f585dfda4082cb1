"""The table of interactions at the door: checked, as numbers, sorted by learner and time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bayeskit.errors import BayeskitWarning, InvalidDataError
from bayeskit.models.knowledge_tracing.columns import (
    STUDY,
    UNIT_DAYS,
    as_times,
    column,
    components,
    label_codes,
    missing,
    numbered,
    outcomes,
    shown,
    versions,
)
from bayeskit.models.tables import as_frame

__all__ = [
    "STUDY",
    "UNIT_DAYS",
    "Interactions",
    "Labels",
    "check_kind",
    "interactions_of",
    "label_codes",
    "learner_names",
]

# Beyond these a unit of time is taken to be a mistake.
_LONGEST_MEDIAN_DAYS = 30 * 365.25
_SHORTEST_GAP_DAYS = 1e-9
_LATEST_DAYS = 2500 * 365.25


class Labels(NamedTuple):
    """Names of learners, knowledge components and items, by code.

    Parameters
    ----------
    learner, kc, item : dict of label to code
    num_versions : int
        Versions of a component; 0 where there are none.
    dates : {"", "naive", "UTC"}
        Whether times were dates.
    """

    learner: dict
    kc: dict
    item: dict
    num_versions: int
    dates: str = ""


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


def _refuse_missing(values: np.ndarray, name: str) -> None:
    blank = missing(values)
    if blank.any():
        row = int(np.argmax(blank))
        raise InvalidDataError(
            f"{name} is missing, first at row {row} ({int(blank.sum())} rows): drop such rows"
        )


def check_kind(dates: str, wanted: str) -> None:
    """Refuse dates where the table of ``fit`` had numbers, and the reverse."""
    if bool(dates) == bool(wanted):
        return
    names = {True: "dates", False: "numbers"}
    raise InvalidDataError(
        f"times are {names[bool(dates)]}, but those of fit were {names[bool(wanted)]}: give "
        f"{names[bool(wanted)]}"
    )


def learner_names(table: Any, rows: Interactions) -> np.ndarray:
    """Return the label of each row's learner, in the order of the rows."""
    return column(as_frame(table), "learner")[rows.order]


def interactions_of(
    table: Any,
    *,
    time_unit: str,
    strict: bool = False,
    kc_labels: dict | None = None,
    kc_source: str = "",
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
    kc_source : str
        What made them known, as a message says it.
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
    table = as_frame(table)
    if not (isinstance(table, Mapping) or hasattr(table, "columns")):
        raise InvalidDataError(
            f"interactions must be a DataFrame or a dict of columns, got {type(table).__name__}"
        )
    if time_unit not in UNIT_DAYS:
        raise ValueError(f"time_unit must be one of {sorted(UNIT_DAYS)}, got {time_unit!r}")
    needed = ("learner", "kc", "time")
    columns = {name: column(table, name, answers=answers) for name in needed}
    learner, kc, time = (np.asarray(columns[name]) for name in ("learner", "kc", "time"))
    correct = column(table, "correct", required=answers)
    optional = {n: column(table, n, required=False) for n in ("item", "version", "time_end")}
    num = len(learner)
    for name, values in {**columns, "correct": correct, **optional}.items():
        if values is not None and len(values) != num:
            raise InvalidDataError(
                f"columns differ in length: learner has {num} rows, {name} has {len(values)}"
            )
    if num == 0:
        raise InvalidDataError(
            "the table is empty: column 'learner' has no rows, at least 1 is needed"
        )
    time, dates = as_times(time, "time", time_unit)
    end = time
    if optional["time_end"] is not None:
        end, end_dates = as_times(optional["time_end"], "time_end", time_unit)
        if bool(end_dates) != bool(dates):
            raise InvalidDataError(
                "time and time_end must both be dates, or both be numbers: parse them with "
                "pandas.to_datetime"
            )
        if (end < time).any():
            row = int(np.argmax(end < time))
            raise InvalidDataError(
                f"time_end is {end[row]} at row {row}, before time {time[row]}: an answer ends "
                "after its item is shown"
            )
    outcome = np.full(num, STUDY) if correct is None else outcomes(correct)
    kc_label, kc_row, kc_place, width = components(kc)
    _refuse_missing(learner, "learner")
    _refuse_missing(kc_label, "kc")
    item, version = optional["item"], optional["version"]
    if labels is None:
        kcs = numbered(kc_label, "kc") if kc_labels is None else kc_labels
        items = {} if item is None else numbered(item[~missing(item)], "item")
        version_codes, num_versions = versions(version, None, num)
        labels = Labels(numbered(learner, "learner"), kcs, items, num_versions, dates)
        _check_lists(kcs)
    else:
        check_kind(dates, labels.dates)
        version_codes, _ = versions(version, labels.num_versions, num)
    codes = label_codes(kc_label, labels.kc)
    if (codes < 0).any():
        place = int(np.argmax(codes < 0))
        known = list(labels.kc)[:8]
        raise InvalidDataError(
            f"kc {shown(kc_label[place])} at row {kc_row[place]} is not known: known are "
            f"{known}"
            + ("" if len(labels.kc) <= 8 else f" and {len(labels.kc) - 8} more")
            + kc_source
        )
    kc_codes = np.full((num, width), -1)
    kc_codes[kc_row, kc_place] = codes
    item_codes = np.full(num, -1) if item is None else label_codes(item, labels.item)
    who = label_codes(learner, labels.learner)
    # Learners that are not known still are somebody: their rows belong together.
    group = who
    if (who < 0).any():
        others = numbered(learner[who < 0], "learner")
        group = np.where(who < 0, len(labels.learner) + label_codes(learner, others), who)
    order = np.lexsort((np.arange(num), time, group))
    _check_order(order, group, time, strict, answers)
    rows = Interactions(
        who, kc_codes, item_codes, version_codes, time, end, outcome, np.arange(num)
    )
    rows = Interactions(*(values[order] for values in rows))
    if answers:
        _check_unit(rows, group[order], time_unit)
        _check_ends(rows, group[order])
        _check_doubles(rows, group[order])
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


def _check_ends(rows: Interactions, group: np.ndarray) -> None:
    """Refuse answers that end after the next item of their learner was shown."""
    late = (group[1:] == group[:-1]) & (rows.time_end[:-1] > rows.time[1:])
    if late.any():
        place = int(np.argmax(late))
        raise InvalidDataError(
            f"time_end is {rows.time_end[place]:g} at row {rows.order[place]}, after the next "
            f"row of its learner was shown at {rows.time[place + 1]:g} ({int(late.sum())} "
            "rows): answers must not overlap, lower time_end to the next time"
        )


def _check_doubles(rows: Interactions, group: np.ndarray) -> None:
    """Warn of tables in which most rows stand twice, as after joining one with itself."""
    if len(rows.time) < 2:
        return
    seen = np.column_stack([group, rows.time, rows.kc, rows.item, rows.outcome])
    _, counts = np.unique(seen, axis=0, return_counts=True)
    twice = int(counts[counts > 1].sum())
    if len(seen) >= 20 and 2 * twice > len(seen):
        warnings.warn(
            f"{twice} of {len(seen)} rows stand in the table more than once, with the same "
            "learner, time, components and answer: each counts. Drop doubles with "
            "drop_duplicates",
            BayeskitWarning,
            stacklevel=5,
        )


def _check_lists(labels: dict) -> None:
    """Warn of lists of components that became text, as in a file."""
    texts = [x for x in labels if isinstance(x, str) and x[:1] in "[(" and x[-1:] in "])"]
    listed = [x for x in texts if "," in x]
    if listed:
        warnings.warn(
            f"the component {listed[0]!r} looks like a list that was read as text "
            f"({len(listed)} such labels): make lists of them, such as with "
            'table["kc"].map(ast.literal_eval)',
            BayeskitWarning,
            stacklevel=5,
        )


def _check_unit(rows: Interactions, group: np.ndarray, time_unit: str) -> None:
    gaps = np.diff(rows.time)[np.diff(group) == 0] * UNIT_DAYS[time_unit]
    if not len(gaps):
        return
    middle, longest = float(np.median(gaps)), float(gaps.max())
    latest = float(np.abs(rows.time).max()) * UNIT_DAYS[time_unit]
    what = ""
    if middle > _LONGEST_MEDIAN_DAYS:
        what = f"the median gap between answers is {middle / 365.25:.3g} years"
    elif 0 < longest < _SHORTEST_GAP_DAYS:
        what = f"no gap between answers is longer than {longest * 86_400:.3g} seconds"
    elif latest > _LATEST_DAYS:
        what = f"times reach {latest / 365.25:.3g} years from zero"
    if what:
        warnings.warn(
            f"{what} with time_unit={time_unit!r}: is the column in another unit, such as "
            "seconds or milliseconds?",
            BayeskitWarning,
            stacklevel=5,
        )
