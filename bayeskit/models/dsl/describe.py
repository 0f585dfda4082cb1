"""The summary of a fitted estimator in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.models.dsl.result import DSLResult
from bayeskit.models.dsl.tables import Summary

__all__ = ["describe"]

# Below these, intervals that rest on many labels and many clusters get too short.
MIN_PROBABILITY = 0.01
MIN_CLUSTERS = 30
MIN_LABELS_PER_FOLD = 20

_METHODS = {
    "dsl": "design-based supervised learning",
    "gold": "labelled rows alone, weighted by 1/pi",
    "semi_supervised": "cross-fitted predictions alone",
    "surrogate": "surrogates alone",
}


def describe(estimator: Any, result: DSLResult, level: float) -> Summary:
    """Return the summary of a fitted estimator."""
    data = result.data
    probability = estimator.pi_
    equal = np.ptp(probability) <= 1e-12
    sampling = "equal" if equal else "unequal"
    spread = (
        f"{probability.mean():.4g}"
        if equal
        else f"{probability.min():.3g} to {probability.max():.3g}"
    )
    header = {
        "Model": estimator.model,
        "Formula": estimator._design.formula.text,
        "Method": _METHODS[estimator.method],
        "Rows": f"{estimator.n_units_}, of which {estimator.n_labeled_} labelled",
        "Sampling": f"{sampling} probabilities, {spread}",
    }
    if estimator.n_dropped_:
        header["Rows"] += f"; {estimator.n_dropped_} dropped"
    if estimator.folds_ is not None:
        learner = estimator.learner
        name = learner if isinstance(learner, str) else type(learner).__name__
        num_folds = int(estimator.folds_.max()) + 1
        header["Learner"] = f"{name}, {num_folds} folds, {len(estimator.folds_)} repeats"
    if data.effects:
        sizes = " and ".join(str(int(codes.max()) + 1) for codes in data.effects)
        header["Fixed effects"] = f"{sizes} groups"
    if data.clusters:
        sizes = " and ".join(str(int(codes.max()) + 1) for codes in data.clusters)
        header["Clusters"] = sizes
    if estimator.method == "dsl" and not np.all(result.splits.power == 1.0):
        low, high = result.splits.power.min(), result.splits.power.max()
        header["Lambda"] = f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}"
    for name, errors in estimator.prediction_errors_.items():
        text = ", ".join(f"{kind} {value:.4g}" for kind, value in errors.items())
        header[f"Predicting {name}"] = text
    return Summary(header, result.to_frame(level), tuple(_notes(estimator, result)), level)


def _notes(estimator: Any, result: DSLResult) -> list[str]:
    notes = []
    if estimator.method in ("semi_supervised", "surrogate"):
        notes.append(
            "these intervals are not valid: errors of the predictions are taken for the truth"
        )
        return notes
    smallest = float(estimator.pi_.min())
    if smallest < MIN_PROBABILITY:
        notes.append(
            f"the smallest probability of being labelled is {smallest:.2g}: single labels "
            "count for many rows, and intervals may be too short"
        )
    for codes in result.data.clusters:
        num = int(codes.max()) + 1
        if num < MIN_CLUSTERS:
            notes.append(f"{num} clusters are few (< {MIN_CLUSTERS}): intervals are too short")
    if estimator.folds_ is not None:
        least = min(
            int(np.bincount(row, estimator._table_.labeled).min()) for row in estimator.folds_
        )
        if least < MIN_LABELS_PER_FOLD:
            notes.append(
                f"a fold has {least} labelled rows only (< {MIN_LABELS_PER_FOLD}): the normal "
                "approximation may be poor"
            )
    if estimator.n_labeled_ == estimator.n_units_ and np.all(estimator.pi_ == 1.0):
        notes.append("all rows are labelled: this is the plain regression")
    num_solved = len(estimator.split_coef_)
    if estimator.folds_ is not None and num_solved < len(estimator.folds_):
        notes.append(f"{len(estimator.folds_) - num_solved} repeats had no solution")
    return notes
