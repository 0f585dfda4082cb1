"""Random splits of the units in folds."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.models.dsl.clusters import codes_of

__all__ = ["fold_numbers"]


def fold_numbers(
    cv: Any,
    num_repeats: int,
    labeled: np.ndarray,
    cluster: np.ndarray | None,
    generator: np.random.Generator,
) -> np.ndarray:
    """Return the fold of each unit in each repeat (repeats, units), counted from 0.

    Parameters
    ----------
    cv : int >= 2, splitter, or (repeats, units) or (units) array
        With a number, folds are as equal as can be, in labelled and in other units alike; with
        clusters, in clusters, each of which stays whole. A splitter has
        ``split(X, y, groups)`` as in scikit-learn. Given folds are taken as they are.
    num_repeats : int
        Not used where folds are given.
    labeled : (units) array of bool
    cluster : (units) array, optional
    generator : numpy Generator
    """
    n = len(labeled)
    if isinstance(cv, int | np.integer) and not isinstance(cv, bool):
        units = n if cluster is None else len(np.unique(cluster))
        if not 2 <= cv <= units:
            raise InvalidDataError(f"cv must be between 2 and {units} folds, got {cv}")
        draw = _of_units if cluster is None else _of_clusters
        return np.stack(
            [draw(int(cv), labeled, cluster, generator) for _ in range(num_repeats)]
        )
    if hasattr(cv, "split"):
        folds = np.stack([_of_splitter(cv, labeled, cluster) for _ in range(num_repeats)])
        _check_clusters(folds, cluster)
        return folds
    given = np.atleast_2d(np.asarray(cv))
    if given.ndim != 2 or given.shape[1] != n:
        raise InvalidDataError(
            "cv must be a number of folds, a splitter, or the fold of each unit with shape "
            f"(repeats, {n}), got shape {given.shape}"
        )
    folds = np.stack([codes_of(row)[0] for row in given])
    _check_clusters(folds, cluster)
    return folds


def _of_units(num: int, labeled: np.ndarray, _: Any, generator: np.random.Generator) -> Any:
    folds = np.empty(len(labeled), int)
    # Dealt out one after the other, first the labelled, so that no fold is short of either.
    order = np.concatenate(
        [generator.permutation(np.flatnonzero(part)) for part in (labeled, ~labeled)]
    )
    folds[order] = np.arange(len(order)) % num
    return folds


def _of_clusters(num: int, labeled: Any, cluster: Any, generator: np.random.Generator) -> Any:
    codes, _ = codes_of(cluster)
    has_label = np.bincount(codes, labeled) > 0
    return _of_units(num, has_label, None, generator)[codes]


def _of_splitter(splitter: Any, labeled: np.ndarray, cluster: Any) -> np.ndarray:
    folds = np.full(len(labeled), -1)
    index = np.arange(len(labeled))[:, None]
    for number, (_, test) in enumerate(splitter.split(index, labeled.astype(int), cluster)):
        if (folds[test] >= 0).any():
            raise InvalidDataError("the splitter of cv puts a unit in two folds")
        folds[test] = number
    if (folds < 0).any():
        raise InvalidDataError("the splitter of cv leaves units without a fold")
    return folds


def _check_clusters(folds: np.ndarray, cluster: np.ndarray | None) -> None:
    """Refuse folds that tear clusters apart: predictions would have seen their neighbours."""
    if cluster is None:
        return
    codes, levels = codes_of(cluster)
    order = np.argsort(codes, kind="stable")
    same = np.diff(codes[order]) == 0
    for row in folds:
        torn = same & (np.diff(row[order]) != 0)
        if torn.any():
            level = levels[codes[order][int(np.argmax(torn))]]
            raise InvalidDataError(
                f"the folds of cv tear cluster {level!r} apart: keep clusters whole, such as "
                "with GroupKFold"
            )
