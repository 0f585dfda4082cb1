"""Regression forests whose leaves are filled by rows that did not shape the tree."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils.validation import check_is_fitted, check_X_y

__all__ = ["HonestForest"]


class HonestForest(RegressorMixin, BaseEstimator):
    """Mean of regression trees, each grown on a quarter of the rows and filled by another.

    Honest trees are smooth: no label takes part in choosing the leaf that it fills. The forest
    is that of the R package grf in its size of samples and leaves, not in its random numbers.

    Parameters
    ----------
    n_estimators : int
    min_node_size, min_leaf_size : int
        Nodes with more rows of the growing quarter than the first are split, in parts with as
        many as the second at least.
    sample_fraction : float in (0, 1]
        Rows that a tree sees, half of them to grow and half to fill.
    random_state : int or None

    References
    ----------
    Wager & Athey (2018), *Estimation and inference of heterogeneous treatment effects using
    random forests*; Athey, Tibshirani & Wager (2019), *Generalized random forests*.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.linspace(0, 1, 400)[:, None]
    >>> forest = HonestForest(50, random_state=0).fit(X, X[:, 0] > 0.5)
    >>> forest.predict([[0.1], [0.9]]).round(1)
    array([0., 1.])
    """

    def __init__(
        self,
        n_estimators: int = 100,
        *,
        min_node_size: int = 5,
        min_leaf_size: int = 3,
        sample_fraction: float = 0.5,
        random_state: Any = None,
    ):
        self.n_estimators = n_estimators
        self.min_node_size = min_node_size
        self.min_leaf_size = min_leaf_size
        self.sample_fraction = sample_fraction
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> HonestForest:
        """Grow and fill the trees."""
        X, y = check_X_y(X, y, dtype=np.float32, y_numeric=True)
        generator = np.random.default_rng(self.random_state)
        n = len(y)
        half = max(1, int(0.5 * self.sample_fraction * n))
        self.n_features_in_ = X.shape[1]
        self.mean_ = float(np.mean(y))
        self._trees = []
        for _ in range(self.n_estimators):
            chosen = generator.permutation(n)[: 2 * half]
            grow, fill = chosen[:half], chosen[half:]
            tree = DecisionTreeRegressor(
                min_samples_split=max(2, self.min_node_size + 1),
                min_samples_leaf=self.min_leaf_size,
                random_state=int(generator.integers(2**31 - 1)),
            ).fit(X[grow], y[grow])
            self._trees.append((tree, _leaf_means(tree, X[fill], y[fill])))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the mean over trees."""
        check_is_fitted(self, "mean_")
        X = np.asarray(X, np.float32)
        total = np.zeros(len(X))
        for tree, means in self._trees:
            total += means[tree.apply(X)]
        return total / len(self._trees)


def _leaf_means(tree: DecisionTreeRegressor, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the mean of y by node, that of the parent where no row of X comes."""
    path = tree.decision_path(X)
    counts = np.asarray(path.sum(axis=0)).ravel()
    sums = path.T @ y
    means = np.divide(sums, counts, out=np.zeros(len(sums)), where=counts > 0)
    inner = tree.tree_
    # Parents come before their children.
    for node in range(inner.node_count):
        for child in (inner.children_left[node], inner.children_right[node]):
            if child >= 0 and counts[child] == 0:
                means[child] = means[node]
    return means
