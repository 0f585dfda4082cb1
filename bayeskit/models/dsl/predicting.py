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
from bayeskit.models.dsl.preparation import Columns
from bayeskit.models.dsl.table import PredictedVariable, Table

__all__ = ["predictions_of"]


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
    if not isinstance(estimator.n_repeats, int | np.integer) or estimator.n_repeats < 1:
        raise ValueError(f"n_repeats must be a whole number >= 1, got {estimator.n_repeats!r}")
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
