"""Rows of a table as what a filter needs to know of each: gaps, counts, outcomes, padded."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bayeskit.models.knowledge_tracing.rows import STUDY, Interactions
from bayeskit.models.knowledge_tracing.structure import Structure

__all__ = ["Exposures", "Placement", "Trials", "padded_trials", "trials_of"]


class Exposures(NamedTuple):
    """When and how often each learner met each component: known without any inference.

    Parameters
    ----------
    first : (learners,) array
        Time of the first row; NaN for those that have none.
    last : (learners,) array
        End of the last row.
    kc_last : (learners, num_kc) array
        End of the last row of the component; that of ``first`` before it is met.
    counts : (learners, num_kc, 1 + num_versions) array
        Exposures of the component and of its versions.
    """

    first: np.ndarray
    last: np.ndarray
    kc_last: np.ndarray
    counts: np.ndarray

    @classmethod
    def none(cls, num: int, structure: Structure) -> Exposures:
        """Return what is known of learners that have met nothing."""
        shape = (num, structure.num_kc)
        return cls(
            np.full(num, np.nan),
            np.full(num, np.nan),
            np.full(shape, np.nan),
            np.zeros((*shape, 1 + structure.num_versions)),
        )


class Trials(NamedTuple):
    """What a filter is told of each row; padded arrays have axes (learner, row, ...).

    Parameters
    ----------
    kc : (..., kcs) int array
        From ``num_kc`` on for none; all of a row differ.
    weight : (..., kcs) array
        1 for a component, 0 for none.
    gap : (..., kcs) array
        Since the last exposure of the component.
    counts : (..., kcs, 1 + num_versions) array
        Exposures of the component and of its versions before the row.
    row_gap : (...) array
        Since the end of the learner's last row.
    item, version, outcome : (...) int arrays
        ``num_items`` stands for no item, -1 for no version.
    real : (...) array
        1 for a row, 0 for padding.
    """

    kc: Any
    weight: Any
    gap: Any
    counts: Any
    row_gap: Any
    item: Any
    version: Any
    outcome: Any
    real: Any


class Placement(NamedTuple):
    """Where rows stand in padded arrays: learner and number of each row, (rows,) each."""

    learner: np.ndarray
    number: np.ndarray


def _previous(group: np.ndarray) -> np.ndarray:
    """Return for each entry the one before it of its group, -1 for the first; in order."""
    order = np.argsort(group, kind="stable")
    previous = np.full(len(group), -1)
    same = group[order][1:] == group[order][:-1]
    previous[order[1:][same]] = order[:-1][same]
    return previous


def _rank(group: np.ndarray) -> np.ndarray:
    """Return how many entries of its group stand before each entry."""
    order = np.argsort(group, kind="stable")
    sorted_ = group[order]
    is_first = np.r_[True, sorted_[1:] != sorted_[:-1]]
    starts = np.flatnonzero(is_first)
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(starts, np.diff(np.r_[starts, len(group)]))
    return rank


def trials_of(
    rows: Interactions, learner: np.ndarray, seen: Exposures, structure: Structure
) -> tuple[Trials, Exposures]:
    """Return the trials of rows, flat, and what was met after them.

    Parameters
    ----------
    rows : Interactions
        Sorted by learner and time.
    learner : (rows,) int array
        Place of each row's learner in ``seen``.
    seen : Exposures
        Before the rows; not changed.
    structure : Structure
    """
    s, num = structure, len(learner)
    width = rows.kc.shape[1]
    first, last = seen.first.copy(), seen.last.copy()
    kc_last, counts_now = seen.kc_last.copy(), seen.counts.copy()

    number = _rank(learner)
    is_first = number == 0
    new = is_first & np.isnan(first[learner])
    first[learner[new]] = rows.time[new]
    kc_last[learner[new]] = rows.time[new][:, None]
    before = np.where(np.isnan(last[learner]), rows.time, last[learner])
    previous_end = np.where(is_first, before, np.r_[0.0, rows.time_end[:-1]])
    row_gap = np.maximum(rows.time - previous_end, 0.0)

    # One entry for each component of each row.
    row, place = np.nonzero(rows.kc >= 0)
    kc, who = rows.kc[row, place], learner[row]
    group = who * s.num_kc + kc
    previous = _previous(group)
    end = rows.time_end[row]
    since = np.where(previous >= 0, end[previous], kc_last[who, kc])
    entry_gap = np.maximum(rows.time[row] - since, 0.0)
    version = rows.version[row]
    entry_counts = np.empty((len(row), 1 + s.num_versions))
    entry_counts[:, 0] = counts_now[who, kc, 0] + _rank(group)
    if s.num_versions:
        onehot = version[:, None] == np.arange(s.num_versions)
        order = np.argsort(group, kind="stable")
        running = np.cumsum(onehot[order], axis=0) - onehot[order]
        sorted_ = group[order]
        starts = np.flatnonzero(np.r_[True, sorted_[1:] != sorted_[:-1]])
        lengths = np.diff(np.r_[starts, len(group)])
        inside = np.empty_like(running)
        inside[order] = running - np.repeat(running[starts], lengths, axis=0)
        entry_counts[:, 1:] = counts_now[who, kc, 1:] + inside

    gap, counts = np.zeros((num, width)), np.zeros((num, width, 1 + s.num_versions))
    gap[row, place], counts[row, place] = entry_gap, entry_counts
    trials = Trials(
        kc=np.where(rows.kc < 0, _none(s, width), rows.kc).astype(np.int32),
        weight=(rows.kc >= 0).astype(np.float64),
        gap=gap,
        counts=counts,
        row_gap=row_gap,
        item=np.where(rows.item < 0, s.num_items, rows.item).astype(np.int32),
        version=rows.version.astype(np.int32),
        outcome=rows.outcome.astype(np.int32),
        real=np.ones(num),
    )
    _raise_to(last, learner, rows.time_end)
    kc_last[who, kc] = end
    np.add.at(counts_now[..., 0], (who, kc), 1.0)
    versioned = version >= 0
    if s.num_versions and versioned.any():
        place_of = (who[versioned], kc[versioned], 1 + version[versioned])
        np.add.at(counts_now, place_of, 1.0)
    return trials, Exposures(first, last, kc_last, counts_now)


def _raise_to(values: np.ndarray, place: np.ndarray, new: np.ndarray) -> None:
    filled = np.where(np.isnan(values), -np.inf, values)
    np.maximum.at(filled, place, new)
    values[:] = np.where(np.isneginf(filled), np.nan, filled)


def _none(structure: Structure, width: int) -> np.ndarray:
    return structure.num_kc + np.arange(width)


def blank_row(structure: Structure, width: int) -> dict[str, Any]:
    """Return what a row in which nothing happens holds, where that is not zero."""
    blanks: dict[str, Any] = {"kc": _none(structure, width), "outcome": STUDY}
    return {**blanks, "item": structure.num_items, "version": -1}


def padded_size(num: int, smallest: int = 1) -> int:
    """Return the next power of two, so that few shapes are compiled."""
    size = smallest
    while size < num:
        size *= 2
    return size


def padded_trials(
    trials: Trials,
    learner: np.ndarray,
    structure: Structure,
    precision: str,
    *,
    fewest_rows: int = 1,
) -> tuple[Trials, Placement]:
    """Return trials with axes (learner, row), filled up with rows in which nothing happens.

    Parameters
    ----------
    trials : Trials
        Flat, sorted by learner.
    learner : (rows,) int array
        Numbers 0, 1, ... in order.
    fewest_rows : int
        A power of two, where short series should share one program.
    """
    number = _rank(learner)
    num_learners = padded_size(int(learner[-1]) + 1)
    num_rows = padded_size(int(number.max()) + 1, fewest_rows)
    blanks = blank_row(structure, trials.kc.shape[1])

    def pad(name: str, values: np.ndarray) -> np.ndarray:
        blank = blanks.get(name, 0)
        dtype = precision if values.dtype.kind == "f" else values.dtype
        full = np.full((num_learners, num_rows, *values.shape[1:]), blank, dtype)
        full[learner, number] = values
        return full

    padded = Trials(*(pad(n, v) for n, v in zip(Trials._fields, trials, strict=True)))
    return padded, Placement(learner, number)
