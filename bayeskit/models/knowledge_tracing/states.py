"""The states of one learner over time, filtered and smoothed."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.accel.program_cache import program_cache
from bayeskit.errors import InvalidDataError
from bayeskit.models.base import precision_scope
from bayeskit.models.knowledge_tracing.amortized.memory import AmortizedMemory
from bayeskit.models.knowledge_tracing.block_filter import Forecasts
from bayeskit.models.knowledge_tracing.columns import as_dates, as_times
from bayeskit.models.knowledge_tracing.fitted import (
    FORECAST_COLUMNS,
    Fitted,
    filled,
    forecast_columns,
)
from bayeskit.models.knowledge_tracing.joint_filter import kc_loadings, since_last
from bayeskit.models.knowledge_tracing.programs import state_moments
from bayeskit.models.knowledge_tracing.rows import STUDY, Interactions, check_kind
from bayeskit.models.knowledge_tracing.trials import Exposures, padded_trials, trials_of

__all__ = ["StatesOverTime"]


class StatesOverTime(Fitted):
    """The part of the tracer that tells the states of a learner."""

    def filter(self, learner: Any, times: Any = None) -> Any:
        """Return the states of one learner at each time, given the rows up to it.

        Parameters
        ----------
        learner : label
        times : array of numbers or dates, as in ``fit``, optional
            Further times at which to look, beside those of the rows.

        Returns
        -------
        DataFrame
            Index (time, kc); times are dates if those of ``fit`` were. Columns ``mean`` and
            ``sd`` of the logit of a correct answer to a new item of the component,
            ``probability``, ``lower`` and ``upper`` as in :meth:`forecast`. At a row: given its
            answer, before what the exposure adds.

        Notes
        -----
        All states are filtered jointly, also without a graph, where forecasts treat components
        as independent; the differences are small. O(dim³) a row for dim states.
        """
        return self._states(learner, times, smooth=False)

    def smooth(self, learner: Any, times: Any = None) -> Any:
        """Return the states of one learner at each time, given all rows; see :meth:`filter`."""
        return self._states(learner, times, smooth=True)

    def _states(self, learner: Any, times: Any, *, smooth: bool) -> Any:
        import pandas as pd

        mean, variance, when, _ = self._state_moments(learner, times, smooth=smooth)
        labels = list(self._labels.kc)
        when = as_dates(when, self.time_unit, self._labels.dates)
        columns = forecast_columns(Forecasts(None, mean.ravel(), variance.ravel(), None, None))
        index = pd.MultiIndex.from_product([when, labels], names=["time", "kc"])
        if len(np.unique(when)) != len(when):
            # Rows at the same time are all told of.
            repeated = [when.repeat(len(labels)), labels * len(when)]
            index = pd.MultiIndex.from_arrays(repeated, names=["time", "kc"])
        return pd.DataFrame(columns, index=index, columns=FORECAST_COLUMNS)

    def _state_moments(
        self, learner: Any, times: Any, *, smooth: bool, loadings: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple]:
        self._check_fitted()
        rows = self._with_looks(self._memory.rows_of(self._code_of(learner)), times)
        if isinstance(self._memory, AmortizedMemory):
            return self._memory.state_moments(rows, smooth=smooth)
        num, s = len(rows.time), self._structure
        place = np.zeros(num, np.int64)
        trials, _ = trials_of(rows, place, Exposures.none(1, s), s)
        padded, _ = padded_trials(trials, place, s, self.precision)
        flat = padded._replace(**{n: v[0] for n, v in padded._asdict().items()})
        size = flat.real.shape[0]
        since = since_last(rows, s)
        since = since._replace(
            gap=filled(since.gap, size, 0.0).astype(self.precision),
            counts=filled(since.counts, size, since.counts[-1]).astype(self.precision),
        )
        loadings = kc_loadings(s) if loadings is None else loadings
        with precision_scope(self.precision), program_cache():
            found = state_moments(
                self._parameters,
                flat,
                since,
                loadings.astype(self.precision),
                structure=s,
                smooth=smooth,
            )
        mean, variance, *ability = (np.asarray(x, np.float64)[:num] for x in found)
        return mean + self._kc_offsets(), variance, rows.time, tuple(ability)

    def _kc_offsets(self) -> np.ndarray:
        effect = self.parameters_.get("kc_effect", np.zeros(self._structure.num_kc))
        return self.parameters_["level"] + effect

    def _code_of(self, learner: Any) -> int:
        known = self._labels.learner
        if learner not in known:
            raise InvalidDataError(
                f"learner {learner!r} is not known: it has no rows (there are {len(known)} "
                "learners, see learners_)"
            )
        return known[learner]

    def _with_looks(self, rows: Interactions, times: Any) -> Interactions:
        """Add rows in which nothing is asked, at times at which to look."""
        if times is None:
            return rows
        values = times.to_numpy() if hasattr(times, "to_numpy") else times
        looks, dates = as_times(np.atleast_1d(np.asarray(values)), "times", self.time_unit)
        check_kind(dates, self._labels.dates)
        if (looks < rows.time[0]).any():
            raise InvalidDataError(
                f"times must not lie before the learner's first row, at "
                f"{self._shown_time(rows.time[0])}"
            )
        num = len(looks)
        blank = np.full(num, -1)
        added = Interactions(
            np.full(num, rows.learner[0]),
            np.full((num, rows.kc.shape[1]), -1),
            blank,
            blank,
            looks,
            looks,
            np.full(num, STUDY),
            blank,
        )
        both = Interactions(*(np.concatenate(pair) for pair in zip(rows, added, strict=True)))
        # After a row at the same time.
        order = np.lexsort((both.order < 0, both.time))
        return Interactions(*(column[order] for column in both))
