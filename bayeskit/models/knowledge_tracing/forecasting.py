"""Forecasts: of queries after the last row, and one step ahead along a table."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.accel.program_cache import program_cache
from bayeskit.errors import InvalidDataError
from bayeskit.models.base import precision_scope
from bayeskit.models.knowledge_tracing.block_filter import Forecasts
from bayeskit.models.knowledge_tracing.columns import column
from bayeskit.models.knowledge_tracing.fitted import (
    FORECAST_COLUMNS,
    Fitted,
    filled,
    forecast_columns,
)
from bayeskit.models.knowledge_tracing.joint_filter import SinceLast
from bayeskit.models.knowledge_tracing.learner_engines import mixture_forecast
from bayeskit.models.knowledge_tracing.memory import Memory
from bayeskit.models.knowledge_tracing.mixtures import mixture_columns
from bayeskit.models.knowledge_tracing.moment_matching import expected_sigmoid
from bayeskit.models.knowledge_tracing.rows import (
    STUDY,
    Interactions,
    interactions_of,
    learner_names,
)
from bayeskit.models.knowledge_tracing.trials import Exposures, Trials, padded_trials, trials_of

__all__ = ["Forecasting"]


class Forecasting(Fitted):
    """The part of the tracer that forecasts answers."""

    def predict_proba(self, queries: Any) -> np.ndarray:
        """Return the probability of a correct answer to each query, given all rows so far.

        Parameters
        ----------
        queries : DataFrame or dict of columns
            learner, kc, time; optionally item and version. Times are at or after the learner's
            last row: the forecast is open loop over the gap. A learner that is not known is a
            draw from the population; an item that is not known has no effect of its own.

        Returns
        -------
        (rows,) array

        Raises
        ------
        InvalidDataError
            For components that are not known, and for times before the learner's last row.
        """
        return self._in_order(queries, lambda f: expected_sigmoid(f.mean, f.variance), True)

    def forecast(self, queries: Any) -> Any:
        """Return a table with the forecast of each query.

        Columns: ``learner``, ``kc`` and ``time`` of the query; ``probability`` of a correct
        answer; ``mean`` and ``sd`` of its logit; ``lower`` and ``upper``, the central 95 %
        interval of the success rate, which is uncertain because the states are.

        Parameters
        ----------
        queries : DataFrame or dict of columns
            As for :meth:`predict_proba`.
        """
        import pandas as pd

        found = self._in_order(queries, forecast_columns, False)
        asked = {}
        for name in ("learner", "kc", "time"):
            values = column(queries, name)
            asked[name] = values if values.dtype.kind != "O" else values.tolist()
        return pd.DataFrame(asked).assign(**dict(zip(FORECAST_COLUMNS, found.T, strict=True)))

    def _in_order(self, queries: Any, columns: Any, only_probability: bool) -> np.ndarray:
        self._check_fitted()
        rows, _ = interactions_of(
            queries, time_unit=self.time_unit, labels=self._labels, answers=False
        )
        rows = rows._replace(outcome=np.full(len(rows.time), STUDY))
        memory = self._memory
        self._check_not_before(rows)
        found = columns(self._query_forecasts(rows, memory))
        for code in self._mixtures:
            own = rows.learner == code
            if own.any():
                moments = self._mixture_moments(code, rows, own)
                part = mixture_columns(*moments)
                found[own] = part[:, 0] if only_probability else part
        ordered = np.empty_like(found)
        ordered[rows.order] = found
        return ordered

    def _query_forecasts(self, rows: Interactions, memory: Memory) -> Forecasts:
        """Forecast each row by itself."""
        # Behind the learners stands one of whom nothing is known.
        memory.make_room(memory.size, spare=1)
        known = np.where(rows.learner < 0, memory.size, rows.learner)
        with precision_scope(self.precision), program_cache():
            return memory.glimpsed(rows, known)

    def _mixture_moments(
        self, code: int, rows: Interactions, own: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of η of some queries about a learner, for each draw."""
        s, memory = self._structure, self._memory
        part = Interactions(*(column[own] for column in rows))
        num = len(part.time)
        alone = np.arange(num)
        seen = Exposures(*(np.repeat(x[code][None], num, axis=0) for x in memory.exposures))
        trials, _ = trials_of(part, alone, seen, s)
        padded, _ = padded_trials(trials, alone, s, self.precision)
        # Every component moves from where the last row left it.
        end = memory.exposures.last[code]
        last = np.full_like(seen.kc_last, end) if s.graph else _last_moves(memory, code, num)
        gap = np.maximum(part.time[:, None] - last, 0.0)
        size = padded.real.shape[0]
        since = SinceLast(
            filled(gap, size, 0.0).astype(self.precision),
            filled(seen.counts, size, seen.counts[-1]).astype(self.precision),
        )
        with precision_scope(self.precision), program_cache():
            moments = mixture_forecast(
                self._parameters,
                self._mixtures[code],
                Trials(*(x[:, 0] for x in padded)),
                since,
                structure=s,
            )
        mean, variance = (np.asarray(x, np.float64)[:num] for x in moments)
        return mean, variance

    def _check_not_before(self, rows: Interactions) -> None:
        known = rows.learner >= 0
        last = np.full(len(rows.time), -np.inf)
        last[known] = self._memory.exposures.last[rows.learner[known]]
        early = rows.time < last
        if early.any():
            place = int(np.argmax(early))
            when = self._shown_time
            raise InvalidDataError(
                f"query {rows.order[place]} is at time {when(rows.time[place])}, before the "
                f"learner's last row, which ended at {when(last[place])}: forecasts are given "
                "all rows. For the past use filter() or smooth(), or predict_next() on a table"
            )

    def predict_next(self, interactions: Any) -> np.ndarray:
        """Return the probability of a correct answer in each row, given the rows before it.

        Nothing is kept, so that tables of other learners can be scored one step ahead. Known
        learners go on from their last row.

        Parameters
        ----------
        interactions : DataFrame or dict of columns
            As for ``fit``.

        Returns
        -------
        (rows,) array
        """
        return self._ahead(interactions, lambda f: expected_sigmoid(f.mean, f.variance))

    def score(self, interactions: Any, y: None = None) -> float:
        """Return the mean log probability of the answers of a table, one step ahead."""
        self._check_fitted()
        p = self.predict_next(interactions)
        rows, _ = interactions_of(interactions, time_unit=self.time_unit, labels=self._labels)
        outcome = np.empty(len(p), np.int64)
        outcome[rows.order] = rows.outcome
        answered = outcome != STUDY
        if not answered.any():
            raise InvalidDataError("correct is missing in all rows: there is nothing to score")
        right = np.where(outcome == 1, p, 1.0 - p)[answered]
        return float(np.mean(np.log(right)))

    def _ahead(self, interactions: Any, columns: Any) -> np.ndarray:
        self._check_fitted()
        rows, _ = interactions_of(
            interactions, time_unit=self.time_unit, strict=self.strict, labels=self._labels
        )
        memory, learner = self._memory, rows.learner.copy()
        unknown = np.flatnonzero(learner < 0)
        if len(unknown):
            names = learner_names(interactions, rows)[unknown]
            table: dict = {}
            for place, name in zip(unknown, names.tolist(), strict=True):
                learner[place] = memory.size + table.setdefault(name, len(table))
            memory.make_room(memory.size, spare=len(table))
        memory.check_later(rows, learner, self._shown_time)
        with precision_scope(self.precision), program_cache():
            forecasts, *_ = memory.followed(rows, learner)
        found = columns(forecasts)
        ordered = np.empty_like(found)
        ordered[rows.order] = found
        return ordered


def _last_moves(memory: Memory, code: int, num: int) -> np.ndarray:
    """Return from when on each component moves: the last row, or the end of its own answer."""
    last_row = memory.rows_of(code).time[-1]
    since = np.maximum(memory.exposures.kc_last[code], last_row)
    return np.repeat(since[None], num, axis=0)
