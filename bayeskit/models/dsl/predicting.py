"""Predictions of all variables, as the settings of an estimator ask for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.models.dsl.crossfit import (
    check_folds,
    cross_fit,
    given_predictions,
    surrogate_values,
)
from bayeskit.models.dsl.folds import fold_numbers
from bayeskit.models.dsl.learners import check_learner
from bayeskit.models.dsl.preparation import Columns
from bayeskit.models.dsl.table import PredictedVariable, Table

__all__ = ["check_prediction", "predictions_of"]


def check_prediction(estimator: Any) -> None:
    """Refuse settings of predictions that mean nothing, whether they are needed or not.

    Raises
    ------
    ValueError, TypeError
        With the name of the setting.
    """
    check_learner(estimator.learner)
    num, cv = estimator.n_repeats, estimator.cv
    if not isinstance(num, int | np.integer) or isinstance(num, bool) or num < 1:
        raise ValueError(f"n_repeats must be a whole number >= 1, got {num!r}")
    if isinstance(cv, str | bool | float) or (isinstance(cv, int | np.integer) and cv < 2):
        raise ValueError(
            f"cv must be a number of folds >= 2, a splitter, or folds by row, got {cv!r}"
        )


def predictions_of(
    estimator: Any, table: Table, columns: Columns, given: Any, generator: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Return predictions of all variables, by the method, and the folds where they are made.

    Parameters
    ----------
    estimator : DSLRegressor
        Its settings are looked at.
    table : Table
    columns : Columns
    given : dict of arrays, or None
        Predictions made elsewhere.
    generator : numpy Generator
    """
    if given is not None:
        return given_predictions(table, given), None
    if estimator.method == "surrogate" or (
        isinstance(estimator.learner, str) and estimator.learner == "identity"
    ):
        return surrogate_values(table), None
    has_features = any(v.surrogates for v in table.variables) or estimator._feature_names()
    if estimator.method == "gold" or not has_features:
        # Where labels count alone, any value will do in the place of predictions.
        means = {v.name: _overall_mean(v, table.labeled)[None] for v in table.variables}
        return means, None
    clusters = columns.cluster
    cv: Any = estimator.cv
    if not isinstance(cv, int | np.integer) and not hasattr(cv, "split"):
        cv = np.atleast_2d(np.asarray(cv))
        if cv.ndim == 2 and cv.shape[1] == len(table.kept):
            cv = cv[:, table.kept]
    folds = fold_numbers(
        cv,
        int(estimator.n_repeats),
        table.labeled,
        clusters[0] if clusters else None,
        generator,
    )
    check_folds(folds, table.labeled)
    seed = int(generator.integers(2**31 - 1))
    names = estimator._feature_names()
    return cross_fit(table, names, folds, estimator.learner, seed), folds


def _overall_mean(variable: PredictedVariable, labeled: np.ndarray) -> np.ndarray:
    """Return the mean label, or the shares of the classes, for each row."""
    known = variable.values[labeled]
    if variable.levels is None:
        return np.full(len(labeled), known.mean())
    shares = np.bincount(known.astype(int), minlength=len(variable.levels)) / len(known)
    return np.tile(shares, (len(labeled), 1))
