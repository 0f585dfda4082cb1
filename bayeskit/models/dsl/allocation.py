r"""Which rows to label next.

The variance of a contrast c from labels is :math:`\frac{1}{n^2} \sum_i s_i / \pi_i` with
:math:`s_i = E[(c^\top J^{-1} d_i)^2 \mid Q_i, W_i]` and :math:`d_i = m(D_i) - m(\hat D_i)`. For
a given number of labels :math:`\pi_i \propto \sqrt{s_i}` is best. A pilot fit tells J and d; a
learner tells s from surrogates and features.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.models.dsl.learners import learner_named, predict_label

__all__ = ["allocate_labels", "best_probabilities"]

# Share of the mean score that each row has at least: a learner may predict 0 or less.
_LEAST_SCORE = 1e-3
_BISECTIONS = 200


def allocate_labels(
    data: Any,
    budget: float,
    *,
    pilot: Any,
    term: Any = None,
    floor: float = 0.01,
    uniform_share: float = 0.2,
    learner: Any = "forest",
) -> Any:
    """Return probabilities of being labelled that make a standard error small.

    Parameters
    ----------
    data : DataFrame or None
        Rows with surrogates and features; None takes those of the pilot.
    budget : float
        Expected number of labels.
    pilot : fitted DSLRegressor
        With the surrogates, features and formula of the analysis to come.
    term : str, int, or None
        The coefficient of interest. Default: all, each in units of its standard error.
    floor : float in (0, 1)
        Least probability.
    uniform_share : float in [0, 1]
        Share of the budget that is spread evenly, against errors of the learner.
    learner : see :class:`~bayeskit.DSLRegressor`

    Returns
    -------
    pandas.Series
        By the index of the data, with the sum ``budget``. Draw labels independently with
        these probabilities, and pass them as ``sample_prob`` with ``normalize="none"``.

    Raises
    ------
    InvalidDataError
        If the pilot was fitted without labels.

    Notes
    -----
    By the learner's own account the variance is never above that of equal probabilities.

    References
    ----------
    Neyman (1934); Zrnic & Candes (2024), *Active statistical inference*.

    Examples
    --------
    The noise is ten times as large where x is positive, so that labels help more there:

    >>> import numpy as np, pandas as pd
    >>> import bayeskit as bk
    >>> from bayeskit.models.dsl import allocate_labels
    >>> rng = np.random.default_rng(0)
    >>> x, noise, error = rng.normal(size=(3, 400))
    >>> y = 1.0 + 2.0 * x + noise * np.where(x > 0, 3.0, 0.3)
    >>> table = pd.DataFrame({"x": x, "y": y, "guess": y + error})
    >>> table.loc[100:, "y"] = np.nan
    >>> settings = {"formula": "y ~ x", "predicted": {"y": "guess"}, "features": ["x"]}
    >>> pilot = bk.DSLRegressor(**settings, learner="linear", random_state=0).fit(table)
    >>> probability = allocate_labels(None, 80, pilot=pilot, learner="linear")
    >>> [round(float(probability[rows].mean()), 1) for rows in (x > 0, x < 0)]
    [0.3, 0.1]
    """
    import pandas as pd

    from bayeskit.models.dsl.crossfit import feature_columns

    pilot._check_fitted()
    table, result = pilot._table_, pilot.result_
    influence = result.splits.label_influence
    if term is None:
        scores = np.mean((influence / result.se) ** 2, axis=1)
    else:
        scores = influence[:, result.place(term)] ** 2
    if not len(scores):
        raise InvalidDataError("the pilot must be fitted with labels: method='dsl'")
    names = pilot._feature_names()
    known = feature_columns(table, names, isinstance(learner, str))
    frame = table.frame if data is None else data
    new = (
        known if data is None else feature_columns(table, names, isinstance(learner, str), data)
    )
    labeled = table.labeled
    train = known.loc[labeled] if hasattr(known, "loc") else known[labeled]
    # Roots are less skewed than squares, and are what probabilities are made of.
    unfitted = learner_named(learner, 0)
    predicted = predict_label(unfitted, train, np.sqrt(scores), new)
    least = _LEAST_SCORE * max(float(np.mean(np.sqrt(scores))), np.finfo(float).tiny)
    probability = best_probabilities(
        np.maximum(predicted, least), budget, floor=floor, uniform_share=uniform_share
    )
    return pd.Series(probability, index=frame.index, name="sample_prob")


def best_probabilities(
    root_score: np.ndarray, budget: float, *, floor: float = 0.01, uniform_share: float = 0.2
) -> np.ndarray:
    r"""Return probabilities in proportion to :math:`\sqrt{s_i}`, kept in [floor, 1].

    Parameters
    ----------
    root_score : (units) array, positive
    budget : float
        Their sum.
    floor : float
    uniform_share : float

    Examples
    --------
    >>> import numpy as np
    >>> best_probabilities(np.array([1.0, 1.0, 2.0]), 1.0, uniform_share=0.0)
    array([0.25, 0.25, 0.5 ])
    """
    root_score = np.asarray(root_score, float)
    n = len(root_score)
    if not 0 < budget <= n:
        raise InvalidDataError(f"budget must be above 0 and at most {n} rows, got {budget!r}")
    if not 0 <= uniform_share <= 1 or not 0 < floor < 1:
        raise ValueError(
            f"floor must be in (0, 1) and uniform_share in [0, 1], got {floor!r} and "
            f"{uniform_share!r}"
        )
    floor = min(floor, budget / n)
    low, high = 0.0, 1.0 / root_score.min()
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        total = np.clip(middle * root_score, floor, 1.0).sum()
        low, high = (middle, high) if total < budget else (low, middle)
    best = np.clip(high * root_score, floor, 1.0)
    return (1.0 - uniform_share) * best + uniform_share * budget / n
