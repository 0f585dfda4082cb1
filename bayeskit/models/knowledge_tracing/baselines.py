"""Simple forecasts of the next answer, with the manners of the tracer, to compare it with."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from bayeskit.errors import InvalidDataError
from bayeskit.models.knowledge_tracing.columns import column, outcomes
from bayeskit.models.knowledge_tracing.rows import (
    STUDY,
    UNIT_DAYS,
    Interactions,
    Labels,
    interactions_of,
    learner_names,
)

__all__ = ["BayesianKnowledgeTracing", "MeanTracer", "PerformanceFactors"]

_SECONDS = 86_400.0


class _Baseline(BaseEstimator):
    """Fit on a table, and forecast each answer of a table from the rows before it."""

    time_unit: str
    _labels: Labels

    def fit(self, interactions: Any, y: None = None) -> Any:
        """Learn from a table with columns learner, kc (one component), time and correct."""
        rows, self._labels = interactions_of(interactions, time_unit=self.time_unit)
        _check_single(rows)
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
        _check_single(rows)
        names = learner_names(interactions, rows)
        rows = rows._replace(learner=np.unique(names, return_inverse=True)[1])
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


def _check_single(rows: Interactions) -> None:
    several = (rows.kc >= 0).sum(axis=1) > 1
    if several.any():
        row = int(rows.order[several].min())
        raise InvalidDataError(
            f"baselines take one component a row, but row {row} has several "
            f"({int(several.sum())} such rows): make one label of each set of components, such "
            'as table["kc"].map(lambda k: "+".join(k) if isinstance(k, list) else k)'
        )


class MeanTracer(_Baseline):
    """The share of correct answers of each component, whoever answers.

    Parameters
    ----------
    time_unit : str

    Examples
    --------
    >>> table = {"learner": [0, 0, 1], "kc": ["a"] * 3, "time": [0, 1, 0], "correct": [0, 1, 1]}
    >>> MeanTracer().fit(table).predict_next(table).round(2).tolist()
    [0.6, 0.6, 0.6]
    """

    def __init__(self, time_unit: str = "day"):
        self.time_unit = time_unit

    def _learn(self, rows: Interactions) -> None:
        answered = rows.outcome != STUDY
        kc, y = rows.kc[answered, 0], rows.outcome[answered]
        size = len(self._labels.kc)
        # One correct and one wrong answer beforehand (Laplace).
        right = np.bincount(kc, y, minlength=size) + 1.0
        self.means_ = right / (np.bincount(kc, minlength=size) + 2.0)

    def _forecast(self, rows: Interactions) -> np.ndarray:
        return self.means_[rows.kc[:, 0]]


class PerformanceFactors(_Baseline):
    r"""Logistic regression on counts of successes and failures (PFA), with recency.

    Features of a row: its component; :math:`\log(1 + n)` of the learner's successes and
    failures so far, with the component and in all; whether the component is new; the logarithm
    of the time since it was last met, and its product with the successes. With items also their
    own effects, counts and recency, and the last outcomes.

    Parameters
    ----------
    recency : bool
    items : bool
        Use the column ``item``.
    C : float
        Inverse strength of the penalty, as in scikit-learn.
    time_unit : str

    References
    ----------
    Pavlik, Cen & Koedinger (2009), *Performance factors analysis*.
    """

    def __init__(
        self,
        recency: bool = True,
        items: bool = False,
        C: float = 1.0,
        time_unit: str = "day",
    ):
        self.recency = recency
        self.items = items
        self.C = C
        self.time_unit = time_unit

    def _learn(self, rows: Interactions) -> None:
        from sklearn.linear_model import LogisticRegression

        answered = rows.outcome != STUDY
        self.regression_ = LogisticRegression(C=self.C, max_iter=2000)
        self.regression_.fit(self._features(rows)[answered], rows.outcome[answered])

    def _forecast(self, rows: Interactions) -> np.ndarray:
        return self.regression_.predict_proba(self._features(rows))[:, 1]

    def _features(self, rows: Interactions) -> np.ndarray:
        kc, who = rows.kc[:, 0], rows.learner
        num_kc, num_items = len(self._labels.kc), len(self._labels.item)
        by_kc = who * num_kc + kc
        columns = [kc[:, None] == np.arange(num_kc), _counts(rows, by_kc), _counts(rows, who)]
        unit = UNIT_DAYS[self.time_unit] * _SECONDS
        if self.recency:
            columns.append(_recency(rows, by_kc, unit))
        if self.items:
            by_item = who * (num_items + 1) + rows.item
            columns += [
                rows.item[:, None] == np.arange(num_items),
                _counts(rows, by_item),
                _recency(rows, by_item, unit),
                _last_outcome(rows, by_kc),
                _last_outcome(rows, by_item),
            ]
        return np.column_stack([np.asarray(c, np.float64) for c in columns])


def _before(group: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the sum of the values before each row of its group, rows being in order."""
    order = np.argsort(group, kind="stable")
    sorted_, ordered = group[order], values[order]
    running = np.cumsum(ordered) - ordered
    starts = np.flatnonzero(np.r_[True, sorted_[1:] != sorted_[:-1]])
    lengths = np.diff(np.r_[starts, len(group)])
    found = np.empty(len(group))
    found[order] = running - np.repeat(running[starts], lengths)
    return found


def _last(group: np.ndarray, values: np.ndarray, blank: float) -> np.ndarray:
    """Return the value of the row before of the same group."""
    order = np.argsort(group, kind="stable")
    found = np.full(len(group), blank, np.float64)
    same = group[order][1:] == group[order][:-1]
    found[order[1:][same]] = values[order[:-1][same]]
    return found


def _counts(rows: Interactions, group: np.ndarray) -> np.ndarray:
    right, wrong = (_before(group, (rows.outcome == o).astype(float)) for o in (1, 0))
    return np.log1p(np.column_stack([right, wrong]))


def _recency(rows: Interactions, group: np.ndarray, unit: float) -> np.ndarray:
    since = rows.time - _last(group, rows.time_end, np.nan)
    new = np.isnan(since)
    log = np.where(new, 0.0, np.log1p(np.maximum(np.where(new, 0.0, since), 0.0) * unit))
    successes = np.log1p(_before(group, (rows.outcome == 1).astype(float)))
    return np.column_stack([new, log, log * successes])


def _last_outcome(rows: Interactions, group: np.ndarray) -> np.ndarray:
    last = _last(group, rows.outcome, -1.0)
    return last[:, None] == np.arange(3)


class BayesianKnowledgeTracing(_Baseline):
    r"""Bayesian knowledge tracing: a component is known or not, and may be forgotten.

    .. math::
        P(\text{known at first}) = l_0, \quad P(\text{learns}) = \ell, \quad
        P(\text{forgets}) = f, \quad P(y = 1) = 1 - s \text{ or } g .

    Each component has its own numbers, which are learned by expectation maximisation.

    Parameters
    ----------
    forgets : bool
    num_iterations : int
    time_unit : str
        Times only order the rows.

    References
    ----------
    Corbett & Anderson (1994), *Knowledge tracing*.
    """

    def __init__(self, forgets: bool = True, num_iterations: int = 60, time_unit: str = "day"):
        self.forgets = forgets
        self.num_iterations = num_iterations
        self.time_unit = time_unit

    def _learn(self, rows: Interactions) -> None:
        K = len(self._labels.kc)
        kc, seen, _ = _sequences(rows, K)
        prior, move, emit = _bkt_starts(K, self.forgets)
        for _ in range(self.num_iterations):
            prior, move, emit = _em_step(prior, move, emit, kc, seen)
        self.parameters_ = {
            "known_at_first": prior[:, 1],
            "learns": move[:, 0, 1],
            "forgets": move[:, 1, 0],
            "guess": emit[:, 0, 1],
            "slip": emit[:, 1, 0],
        }
        self._tables = prior, move, emit

    def _forecast(self, rows: Interactions) -> np.ndarray:
        kc, seen, place = _sequences(rows, len(self._labels.kc))
        prior, move, emit = self._tables
        forward, _ = _forward(prior, move, emit, kc, seen)
        right = np.einsum("ntj,nj->nt", forward, emit[kc][:, :, 1])
        return right[place]


def _sequences(rows: Interactions, num_kc: int) -> tuple[np.ndarray, np.ndarray, tuple]:
    """Return component, outcomes (sequence, step; -1 is padding), and the place of each row."""
    group = rows.learner * num_kc + rows.kc[:, 0]
    distinct, number = np.unique(group, return_inverse=True)
    step = _before(group, np.ones(len(group))).astype(int)
    seen = np.full((len(distinct), step.max() + 1), -1)
    seen[number, step] = rows.outcome
    return distinct % num_kc, seen, (number, step)


def _bkt_starts(num_kc: int, forgets: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    prior = np.tile([0.7, 0.3], (num_kc, 1))
    forget = 0.1 if forgets else 0.0
    move = np.tile([[0.8, 0.2], [forget, 1.0 - forget]], (num_kc, 1, 1))
    # Rows: not known, known; columns: wrong, correct.
    emit = np.tile([[0.75, 0.25], [0.15, 0.85]], (num_kc, 1, 1))
    return prior, move, emit


def _likelihoods(emit: np.ndarray, kc: np.ndarray, seen: np.ndarray) -> np.ndarray:
    answered = (seen == 0) | (seen == 1)
    table = np.swapaxes(emit[kc], 1, 2)
    chosen = np.take_along_axis(table, np.where(answered, seen, 0)[:, :, None], axis=1)
    return np.where(answered[:, :, None], chosen, 1.0)


def _forward(prior, move, emit, kc, seen) -> tuple[np.ndarray, np.ndarray]:
    """Return the law of the state before each row, and after it."""
    like = _likelihoods(emit, kc, seen)
    before, after = np.empty_like(like), np.empty_like(like)
    now = prior[kc]
    for t in range(seen.shape[1]):
        before[:, t] = now
        posterior = now * like[:, t]
        after[:, t] = posterior / posterior.sum(axis=1, keepdims=True)
        now = np.einsum("ni,nij->nj", after[:, t], move[kc])
    return before, after


def _em_step(prior, move, emit, kc, seen) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    before, after = _forward(prior, move, emit, kc, seen)
    num, length = seen.shape
    real = seen >= 0
    smooth = after.copy()
    pairs = np.zeros((num, 2, 2))
    for t in range(length - 2, -1, -1):
        joint = after[:, t, :, None] * move[kc] * (smooth[:, t + 1] / before[:, t + 1])[:, None]
        follows = real[:, t + 1]
        pairs += np.where(follows[:, None, None], joint, 0.0)
        smooth[:, t] = np.where(follows[:, None], joint.sum(axis=2), after[:, t])
    add = lambda values: np.stack([_by_kc(kc, v, len(prior)) for v in values])
    first = add([smooth[:, 0, j] for j in range(2)]).T
    moved = add([pairs[:, i, j] for i in range(2) for j in range(2)]).T.reshape(-1, 2, 2)
    emitted = add(
        [
            np.where(seen == y, smooth[:, :, state], 0.0).sum(axis=1)
            for state in range(2)
            for y in range(2)
        ]
    ).T.reshape(-1, 2, 2)
    # A little of the starting values keeps rare outcomes possible; what is 0 stays 0.
    starts = _bkt_starts(len(prior), bool(move[:, 1, 0].any()))
    normalise = lambda counts: counts / counts.sum(axis=-1, keepdims=True)
    return tuple(
        normalise(counts + start)
        for counts, start in zip((first, moved, emitted), starts, strict=True)
    )


def _by_kc(kc: np.ndarray, values: np.ndarray, num: int) -> np.ndarray:
    return np.bincount(kc, values, minlength=num)
