"""Predictions of labels by learners that have not seen them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from bayeskit.errors import BayeskitWarning, InvalidDataError
from bayeskit.models.dsl.learners import class_probabilities, learner_named, predict_label
from bayeskit.models.dsl.table import PredictedVariable, Table, check_index

__all__ = [
    "check_folds",
    "cross_fit",
    "feature_columns",
    "given_predictions",
    "prediction_errors",
    "surrogate_values",
]


def cross_fit(
    table: Table, features: Sequence[str], folds: np.ndarray, learner: Any, seed: int
) -> dict[str, np.ndarray]:
    """Return predictions of each variable for all rows, each from the other folds' labels.

    Parameters
    ----------
    table : Table
    features : sequence of str
        Columns that predict, beside the surrogates of all predicted variables.
    folds : (repeats, rows) int array
    learner : see :func:`~bayeskit.models.dsl.learners.learner_named`
    seed : int

    Returns
    -------
    dict of (repeats, rows) arrays, or (repeats, rows, classes) for classes
    """
    X = feature_columns(table, features, is_named=isinstance(learner, str))
    check_folds(folds, table.labeled)
    tasks = [
        (v, s, k)
        for v in table.variables
        for s in range(len(folds))
        for k in np.unique(folds[s])
    ]
    seeds = np.random.SeedSequence(seed).generate_state(len(tasks))
    results = Parallel()(
        delayed(_one_fold)(
            learner_named(learner, int(state)), variable, X, table.labeled, folds[s] == k
        )
        for (variable, s, k), state in zip(tasks, seeds, strict=True)
    )
    found: dict[str, np.ndarray] = {}
    for variable in table.variables:
        shape: tuple[int, ...] = folds.shape
        found[variable.name] = np.empty(
            shape if variable.levels is None else (*shape, len(variable.levels))
        )
    num_constant = 0
    for (variable, s, k), (values, constant) in zip(tasks, results, strict=True):
        found[variable.name][s, folds[s] == k] = values
        num_constant += constant
    if num_constant:
        warnings.warn(
            f"all labels outside of a fold were the same in {num_constant} of {len(tasks)} "
            "fits: this value was predicted. Label more units",
            BayeskitWarning,
            stacklevel=4,
        )
    for name, values in found.items():
        if not np.isfinite(values).all():
            raise InvalidDataError(
                f"the learner predicts values of {name!r} that are not finite"
            )
    return found


def _one_fold(
    learner: Any, variable: PredictedVariable, X: Any, labeled: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, bool]:
    train = labeled & ~inside
    labels = variable.values[train]
    num_classes = 1 if variable.levels is None else len(variable.levels)
    if (labels == labels[0]).all():
        if variable.levels is None:
            return np.full(inside.sum(), labels[0]), True
        return np.tile(np.eye(num_classes)[int(labels[0])], (inside.sum(), 1)), True
    known, new = _rows_of(X, train), _rows_of(X, inside)
    if variable.levels is None:
        return predict_label(learner, known, labels, new), False
    return class_probabilities(learner, known, labels.astype(int), new, num_classes), False


def _rows_of(X: Any, chosen: np.ndarray) -> Any:
    return X.loc[chosen] if hasattr(X, "loc") else X[chosen]


def check_folds(folds: np.ndarray, labeled: np.ndarray) -> None:
    """Refuse folds without labels, inside or outside.

    Raises
    ------
    InvalidDataError
    """
    for s, row in enumerate(folds):
        counts = np.bincount(row, labeled)
        if len(counts) < 2:
            raise InvalidDataError(f"repeat {s} has a single fold: at least 2 are needed")
        if (counts == 0).any():
            raise InvalidDataError(
                f"fold {int(np.argmin(counts))} of repeat {s} has no labelled rows: use fewer "
                f"folds than cv={len(counts)}, or label more of the {len(labeled)} rows "
                f"({int(labeled.sum())} are)"
            )


def feature_columns(
    table: Table, features: Sequence[str], is_named: bool, frame: Any = None
) -> Any:
    """Return the columns that predict: numbers for learners by name, else as they are.

    Parameters
    ----------
    table : Table
    features : sequence of str
    is_named : bool
    frame : DataFrame, optional
        Other rows than those of the table.
    """
    import pandas as pd

    surrogates = [c for v in table.variables for c in v.surrogates]
    names = list(dict.fromkeys([*surrogates, *features]))
    chosen = table.frame[names].reset_index(drop=True)
    if frame is not None:
        missing = [name for name in names if name not in frame.columns]
        if missing:
            raise InvalidDataError(f"column {missing[0]!r} is not in the data")
        chosen = pd.concat([chosen, frame[names]], ignore_index=True)
    if is_named:
        # Categories of both tables get the same columns.
        chosen = pd.get_dummies(chosen, dtype=float, drop_first=True)
    if frame is not None:
        chosen = chosen.iloc[len(table.frame) :].reset_index(drop=True)
    return chosen.to_numpy(float) if is_named else chosen


def surrogate_values(table: Table) -> dict[str, np.ndarray]:
    """Return the surrogates themselves as predictions (1, rows) or (1, rows, classes).

    Raises
    ------
    InvalidDataError
        Where a variable has no surrogate, or one that is not on its scale.
    """
    found = {}
    for variable in table.variables:
        if not variable.surrogates:
            raise InvalidDataError(
                f"{variable.name!r} has no surrogate column to take its place: name one in "
                "predicted={...}"
            )
        if variable.levels is None:
            if len(variable.surrogates) > 1:
                raise InvalidDataError(
                    f"{variable.name!r} has several surrogates {list(variable.surrogates)}: "
                    "which of them shall stand for it? Name one"
                )
            column = table.frame[variable.surrogates[0]]
            try:
                found[variable.name] = column.to_numpy(float)[None]
            except (TypeError, ValueError) as error:
                raise InvalidDataError(
                    f"the surrogate {column.name!r} of {variable.name!r} must hold numbers: "
                    f"{error}"
                ) from error
        else:
            found[variable.name] = _surrogate_classes(table, variable)[None]
    return found


def _surrogate_classes(table: Table, variable: PredictedVariable) -> np.ndarray:
    levels = variable.levels or ()
    columns = table.frame[list(variable.surrogates)]
    if len(variable.surrogates) == len(levels):
        return columns.to_numpy(float)
    if len(variable.surrogates) > 1:
        raise InvalidDataError(
            f"{variable.name!r} has {len(levels)} classes: its surrogates must be one column "
            f"of classes or {len(levels)} columns of probabilities, got "
            f"{len(variable.surrogates)}"
        )
    values = columns.iloc[:, 0]
    unknown = values[~values.isin(levels)]
    if len(unknown):
        raise InvalidDataError(
            f"the surrogate {values.name!r} holds {unknown.iloc[0]!r}, which no label of "
            f"{variable.name!r} is: its classes are {list(levels)}"
        )
    return np.stack([(values == level).to_numpy(float) for level in levels], axis=1)


def given_predictions(table: Table, given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return predictions made elsewhere, (repeats, rows) or (repeats, rows, classes), checked.

    Rows are those given to ``fit``; those that were dropped are left out here.
    """
    found, num_repeats = {}, 1
    unknown = [name for name in given if name not in [v.name for v in table.variables]]
    if unknown:
        raise InvalidDataError(
            f"predictions has {unknown[0]!r}, which is no predicted variable"
        )
    for variable in table.variables:
        if variable.name not in given:
            raise InvalidDataError(f"predictions has no entry for {variable.name!r}")
        check_index(given[variable.name], table.given_index, f"predictions[{variable.name!r}]")
        values = np.asarray(given[variable.name], float)
        tail = () if variable.levels is None else (len(variable.levels),)
        if values.ndim == 1 + len(tail):
            values = values[None]
        expected = (len(table.kept), *tail)
        if values.shape[1:] != expected:
            raise InvalidDataError(
                f"predictions of {variable.name!r} must have shape (repeats, "
                f"{', '.join(map(str, expected))}), got {values.shape}"
            )
        values = values[:, table.kept]
        if not np.isfinite(values).all():
            raise InvalidDataError(f"predictions of {variable.name!r} are not all finite")
        found[variable.name] = values
        num_repeats = max(num_repeats, len(values))
    for name, values in found.items():
        if len(values) not in (1, num_repeats):
            raise InvalidDataError(
                f"predictions of {name!r} have {len(values)} repeats, others {num_repeats}"
            )
    return found


def prediction_errors(table: Table, predictions: Mapping[str, np.ndarray]) -> dict[str, dict]:
    """Return how well labels were predicted, by variable: RMSE, and accuracy of classes."""
    found = {}
    for variable in table.variables:
        guess = predictions[variable.name][:, table.labeled]
        truth = variable.values[table.labeled]
        if variable.levels is not None:
            one_hot = np.eye(len(variable.levels))[truth.astype(int)]
            errors = {
                "rmse": float(np.sqrt(np.mean((guess - one_hot) ** 2))),
                "accuracy": float(np.mean(guess.argmax(axis=-1) == truth)),
            }
        else:
            errors = {"rmse": float(np.sqrt(np.mean((guess - truth) ** 2)))}
            if np.isin(truth, (0.0, 1.0)).all():
                errors["accuracy"] = float(np.mean((guess > 0.5) == (truth > 0.5)))
        found[variable.name] = errors
    return found
