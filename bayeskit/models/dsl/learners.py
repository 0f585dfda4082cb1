"""Learners of labels: built-in ones by name, and any of scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, clone, is_classifier

__all__ = [
    "LEARNERS",
    "check_learner",
    "class_probabilities",
    "learner_named",
    "predict_label",
]

LEARNERS = ("forest", "identity", "linear")


class LeastSquares(RegressorMixin, BaseEstimator):
    """Ordinary least squares with an intercept; of collinear columns, the shortest solution."""

    def fit(self, X: Any, y: Any) -> LeastSquares:
        """Fit the coefficients."""
        X, y = np.asarray(X, float), np.asarray(y, float)
        centre = X.mean(axis=0)
        scale = X.std(axis=0)
        scale = np.where(scale > 1e-12 * np.abs(centre), scale, np.inf)
        slopes = np.linalg.lstsq((X - centre) / scale, y - y.mean(), rcond=None)[0]
        self.coef_ = slopes / scale
        self.intercept_ = y.mean() - centre @ self.coef_
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return fitted means."""
        return np.asarray(X, float) @ self.coef_ + self.intercept_


def check_learner(learner: Any) -> None:
    """Refuse what is no learner.

    Raises
    ------
    ValueError, TypeError
        For unknown names, and for what has no ``fit`` and ``predict``.
    """
    if isinstance(learner, str) and learner not in LEARNERS:
        raise ValueError(
            f"learner must be one of {LEARNERS} or a scikit-learn estimator, got {learner!r}"
        )
    if isinstance(learner, type):
        name = learner.__name__
        raise TypeError(f"learner is the class {name}: write {name}(), with brackets")
    if not isinstance(learner, str) and not (
        hasattr(learner, "fit") and hasattr(learner, "predict")
    ):
        raise TypeError(
            f"learner must be one of {LEARNERS} or a scikit-learn estimator with fit and "
            f"predict, got {type(learner).__name__}"
        )


def learner_named(learner: Any, seed: int) -> Any:
    """Return an unfitted learner.

    Parameters
    ----------
    learner : "forest", "linear", or scikit-learn estimator
    seed : int
        Given to learners that have a ``random_state`` and no value for it.
    """
    if isinstance(learner, str):
        if learner == "linear":
            return LeastSquares()
        if learner == "forest":
            from bayeskit.models.dsl.honest_forest import HonestForest

            return HonestForest(random_state=seed)
        raise ValueError(f"{learner!r} is no learner that is fitted")
    copy = clone(learner)
    unset = [
        name
        for name, value in copy.get_params().items()
        if value is None and name.rpartition("__")[2] == "random_state"
    ]
    return copy.set_params(**dict.fromkeys(unset, seed))


def predict_label(learner: Any, X_train: Any, labels: np.ndarray, X_new: Any) -> np.ndarray:
    """Return what a learner expects of numeric labels: E[label | X] for new rows.

    Classifiers give the mean of the classes under their probabilities, which for 0 and 1 is
    the probability of 1.
    """
    if is_classifier(learner):
        classes, codes = np.unique(labels, return_inverse=True)
        learner.fit(X_train, codes)
        known = classes[np.asarray(learner.classes_, int)]
        return learner.predict_proba(X_new) @ known
    return np.asarray(learner.fit(X_train, labels).predict(X_new), float).ravel()


def class_probabilities(
    learner: Any, X_train: Any, codes: np.ndarray, X_new: Any, num_classes: int
) -> np.ndarray:
    """Return probabilities (rows, classes) of classes 0, 1, ...

    Regressors are fitted to one indicator a class; their predictions are clipped to [0, 1] and
    scaled to the sum 1.
    """
    found = np.zeros((_num_rows(X_new), num_classes))
    if is_classifier(learner):
        learner.fit(X_train, codes)
        found[:, np.asarray(learner.classes_, int)] = learner.predict_proba(X_new)
        return found
    for code in np.unique(codes):
        indicator = (codes == code).astype(float)
        found[:, code] = np.asarray(
            clone(learner).fit(X_train, indicator).predict(X_new)
        ).ravel()
    found = np.clip(found, 0.0, 1.0)
    total = found.sum(axis=1, keepdims=True)
    return np.where(total > 0, found / np.where(total > 0, total, 1.0), 1.0 / num_classes)


def _num_rows(X: Any) -> int:
    return X.shape[0] if hasattr(X, "shape") else len(X)
