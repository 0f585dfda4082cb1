"""What forecasts that the tracer is compared with have in common.

A row that exercises several components counts for each of them. The answer to a row is never
among what it is forecast from, whatever the number of its components.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from bayeskit.errors import InvalidDataError
from bayeskit.models.knowledge_tracing.columns import (
    column,
    label_codes,
    numbered,
    outcomes,
)
from bayeskit.models.knowledge_tracing.rows import (
    STUDY,
    Interactions,
    Labels,
    interactions_of,
    learner_names,
)

__all__ = ["Baseline", "by_component", "row_means", "row_sums"]


class Baseline(BaseEstimator):
    """Fit on a table, and forecast each answer of a table from the rows before it."""

    time_unit: str
    _labels: Labels

    def fit(self, interactions: Any, y: None = None) -> Any:
        """Learn from a table with columns learner, kc, time and correct, as the tracer does."""
        rows, self._labels = interactions_of(interactions, time_unit=self.time_unit)
        if not (rows.outcome != STUDY).any():
            raise InvalidDataError("correct is missing in all rows: there is nothing to learn")
        self._learn(rows)
        return self

    def predict_next(self, interactions: Any) -> np.ndarray:
        """Return the probability of a correct answer in each row, given the rows before it.

        All learners are taken to be new, and all rows of theirs to be in the table.
        """
        if not hasattr(self, "_labels"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted: call fit first")
        fresh = self._labels._replace(learner={})
        rows, _ = interactions_of(interactions, time_unit=self.time_unit, labels=fresh)
        names = learner_names(interactions, rows)
        rows = rows._replace(learner=label_codes(names, numbered(names, "learner")))
        found = np.empty(len(rows.time))
        found[rows.order] = self._forecast(rows)
        return found

    def score(self, interactions: Any, y: None = None) -> float:
        """Return the mean log probability of the answers of a table."""
        p = self.predict_next(interactions)
        right = outcomes(column(interactions, "correct"))
        seen = right != STUDY
        if not seen.any():
            raise InvalidDataError("correct is missing in all rows: there is nothing to score")
        return float(np.mean(np.log(np.where(right == 1, p, 1.0 - p)[seen])))

    def _learn(self, rows: Interactions) -> None:
        raise NotImplementedError

    def _forecast(self, rows: Interactions) -> np.ndarray:
        raise NotImplementedError


def by_component(rows: Interactions) -> tuple[np.ndarray, Interactions]:
    """Return the number of the row, and the row, of each component of each row, in order."""
    number, place = np.nonzero(rows.kc >= 0)
    each = Interactions(*(values[number] for values in rows))
    return number, each._replace(kc=rows.kc[number, place][:, None])


def row_sums(number: np.ndarray, values: np.ndarray, num_rows: int) -> np.ndarray:
    """Return the sum over the components of each row, (rows, columns)."""
    found = np.zeros((num_rows, *values.shape[1:]))
    np.add.at(found, number, values)
    return found


def row_means(number: np.ndarray, values: np.ndarray, num_rows: int) -> np.ndarray:
    """Return the mean over the components of each row."""
    return row_sums(number, values, num_rows) / np.bincount(number, minlength=num_rows)
