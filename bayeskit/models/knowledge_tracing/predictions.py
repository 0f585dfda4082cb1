"""What a fitted tracer says: forecasts, states over time, traits, and what to ask next."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.exceptions import NotFittedError

from bayeskit.accel.program_cache import program_cache
from bayeskit.errors import InvalidDataError
from bayeskit.interop.arviz import to_arviz
from bayeskit.models.base import as_random_key, precision_scope
from bayeskit.models.knowledge_tracing.amortized.memory import AmortizedMemory
from bayeskit.models.knowledge_tracing.amortized.simulation import simulator_of
from bayeskit.models.knowledge_tracing.block_filter import Forecasts
from bayeskit.models.knowledge_tracing.information import expected_information
from bayeskit.models.knowledge_tracing.joint_filter import SinceLast, kc_loadings, since_last
from bayeskit.models.knowledge_tracing.learner_engines import mixture_forecast
from bayeskit.models.knowledge_tracing.memory import Memory
from bayeskit.models.knowledge_tracing.mixtures import mixture_columns, trait_table
from bayeskit.models.knowledge_tracing.moment_matching import expected_sigmoid
from bayeskit.models.knowledge_tracing.programs import state_moments
from bayeskit.models.knowledge_tracing.rows import (
    STUDY,
    Interactions,
    Labels,
    interactions_of,
)
from bayeskit.models.knowledge_tracing.simulation import simulated_table
from bayeskit.models.knowledge_tracing.structure import Structure
from bayeskit.models.knowledge_tracing.trials import Exposures, Trials, padded_trials, trials_of

__all__ = ["Predictions"]

# Half the width of a central 95 % interval, in standard deviations.
_Z95 = 1.959964


class Predictions:
    """The part of the tracer that predicts; it holds what was learned."""

    time_unit: str
    precision: str
    strict: bool
    parameters_: dict[str, Any]
    _structure: Structure
    _labels: Labels
    _memory: Memory
    _parameters: dict[str, Any]
    _graph_weights: np.ndarray
    # Of engines that infer learners exactly, by code.
    _mixtures: dict[int, Any]
    _evidences: dict[int, Any]

    def _check_fitted(self) -> None:
        if not hasattr(self, "_memory"):
            raise NotFittedError(
                f"this {type(self).__name__} is not fitted: call fit(interactions) first"
            )

    # ------------------------------------------------------------ forecasts

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

        Columns: ``probability`` of a correct answer; ``mean`` and ``sd`` of its logit;
        ``lower`` and ``upper``, the central 95 % interval of the success rate, which is
        uncertain because the states are.

        Parameters
        ----------
        queries : DataFrame or dict of columns
            As for :meth:`predict_proba`.
        """
        import pandas as pd

        table = self._in_order(queries, _forecast_columns, False)
        return pd.DataFrame(table, columns=["probability", "mean", "sd", "lower", "upper"])

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
            _filled(gap, size, 0.0).astype(self.precision),
            _filled(seen.counts, size, seen.counts[-1]).astype(self.precision),
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
            raise InvalidDataError(
                f"query {rows.order[place]} is at time {rows.time[place]:g}, before the "
                f"learner's last row, which ended at {last[place]:g}: forecasts are given all "
                "rows. For the past use filter() or smooth(), or predict_next() on a table"
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
            names = _names_of(interactions)[rows.order[unknown]]
            table: dict = {}
            for place, name in zip(unknown, names.tolist(), strict=True):
                learner[place] = memory.size + table.setdefault(name, len(table))
            memory.make_room(memory.size, spare=len(table))
        memory._check_later(rows, learner)
        with precision_scope(self.precision), program_cache():
            forecasts, *_ = memory.followed(rows, learner)
        found = columns(forecasts)
        ordered = np.empty_like(found)
        ordered[rows.order] = found
        return ordered

    # ------------------------------------------------------------ states over time

    def filter(self, learner: Any, times: Any = None) -> Any:
        """Return the states of one learner at each time, given the rows up to it.

        Parameters
        ----------
        learner : label
        times : array, optional
            Further times at which to look, beside those of the rows.

        Returns
        -------
        DataFrame
            Index (time, kc). Columns ``mean`` and ``sd`` of the logit of a correct answer to a
            new item of the component, ``probability``, ``lower`` and ``upper`` as in
            :meth:`forecast`. At a row: given its answer, before what the exposure adds.

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
        columns = _forecast_columns(Forecasts(None, mean.ravel(), variance.ravel(), None, None))
        index = pd.MultiIndex.from_product([when, labels], names=["time", "kc"])
        if len(np.unique(when)) != len(when):
            index = pd.MultiIndex.from_arrays(
                [np.repeat(when, len(labels)), np.tile(labels, len(when))], names=["time", "kc"]
            )
        names = ["probability", "mean", "sd", "lower", "upper"]
        return pd.DataFrame(columns, index=index, columns=names)

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
            gap=_filled(since.gap, size, 0.0).astype(self.precision),
            counts=_filled(since.counts, size, since.counts[-1]).astype(self.precision),
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
        looks = np.atleast_1d(np.asarray(times, np.float64))
        if not np.isfinite(looks).all() or (looks < rows.time[0]).any():
            raise InvalidDataError(
                f"times must be finite and not before the learner's first row, at "
                f"{rows.time[0]:g}"
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

    # ------------------------------------------------------------ learners

    @property
    def learners_(self) -> list:
        """Labels of the learners."""
        self._check_attribute("learners_")
        return list(self._labels.learner)

    @property
    def kcs_(self) -> list:
        """Labels of the components, in the order of all arrays."""
        self._check_attribute("kcs_")
        return list(self._labels.kc)

    @property
    def items_(self) -> list:
        """Labels of the items."""
        self._check_attribute("items_")
        return list(self._labels.item)

    @property
    def log_evidence_(self) -> float:
        """Log density of all answers so far, given the parameters."""
        self._check_attribute("log_evidence_")
        if isinstance(self._memory, AmortizedMemory):
            raise AttributeError(
                "inference='amortized' has no log_evidence_, only evidence_lower_bound_"
            )
        if self._evidences:
            return float(sum(self._evidences.values()))
        return self._memory.log_evidence

    @property
    def evidence_lower_bound_(self) -> float:
        """Bound of the log density of what was fitted, of ``inference="amortized"`` alone."""
        self._check_attribute("evidence_lower_bound_")
        if not isinstance(self._memory, AmortizedMemory):
            raise AttributeError("evidence_lower_bound_ exists with inference='amortized' only")
        return self._memory.lower_bound

    @property
    def traits_(self) -> Any:
        """Table of the ability of each learner: mean, sd, and 95 % interval, now.

        The part that is constant and, with ``traits="dynamic"``, the part that drifts.
        """
        import pandas as pd

        self._check_attribute("traits_")
        if isinstance(self._memory, AmortizedMemory):
            return self._memory.trait_table(self.learners_)
        s, memory = self._structure, self._memory
        parts, num = len(s.ability), memory.size
        beliefs = memory.beliefs
        if s.graph:
            mean = beliefs.mean[:num, :parts]
            covariance = beliefs.covariance[:num, :parts, :parts]
        else:
            mean, covariance = beliefs.ability_mean[:num], beliefs.ability_covariance[:num]
        variance = np.maximum(np.diagonal(covariance, axis1=1, axis2=2), 0.0)
        columns: dict[str, Any] = {}
        for part, name in enumerate(s.ability):
            title = "ability" if name == "static" else "drift"
            sd = np.sqrt(variance[:, part])
            columns |= {
                title: mean[:, part],
                f"{title}_sd": sd,
                f"{title}_lower": mean[:, part] - _Z95 * sd,
                f"{title}_upper": mean[:, part] + _Z95 * sd,
            }
        index = pd.Index(list(self._labels.learner), name="learner")
        table = pd.DataFrame(columns, index=index)
        return trait_table(table, self._mixtures, s) if self._mixtures else table

    @property
    def graph_(self) -> Any:
        """Table of the influence of each component (rows) on each other (columns)."""
        import pandas as pd

        self._check_attribute("graph_")
        if not self._structure.graph:
            raise AttributeError("graph_ exists after fit with a graph")
        return pd.DataFrame(self._graph_weights, index=self.kcs_, columns=self.kcs_)

    def _check_attribute(self, name: str) -> None:
        if not hasattr(self, "_memory"):
            raise AttributeError(f"{name} exists after fit")

    def recommend(
        self, learner: Any, time: float, candidates: Any = None, num: int | None = None
    ) -> Any:
        r"""Return what to ask a learner next, by what its answer is expected to tell.

        .. math:: I = H\bigl[E\,p(y \mid \eta)\bigr] - E\,H\bigl[p(y \mid \eta)\bigr]

        in nats, the mutual information of the answer and the states.

        Parameters
        ----------
        learner : label
            One that is not known is a draw from the population.
        time : float
        candidates : DataFrame or dict of columns, optional
            kc, and optionally item and version. Default: a new item of each component.
        num : int, optional
            Return only the best.

        Returns
        -------
        DataFrame
            Candidates with ``probability`` and ``information``, the most informative first.
        """
        import pandas as pd

        self._check_fitted()
        if candidates is None:
            candidates = pd.DataFrame({"kc": self.kcs_})
        table = pd.DataFrame(candidates).reset_index(drop=True)
        queries = table.assign(learner=[learner] * len(table), time=time)
        found = self.forecast(queries)
        table["probability"] = found["probability"].to_numpy()
        table["information"] = expected_information(
            found["mean"].to_numpy(), found["sd"].to_numpy() ** 2
        )
        table = table.sort_values("information", ascending=False, kind="stable")
        return table.head(len(table) if num is None else num)

    # ------------------------------------------------------------ simulation, ArviZ

    def simulate(self, design: Any, *, random_state: Any = None, states: bool = False) -> Any:
        """Return a table of simulated answers of new learners with the learned parameters.

        Parameters
        ----------
        design : DataFrame or dict of columns
            learner, kc, time; optionally item, version, time_end, and ``study``: True for rows
            that are not answered.
        random_state : int, numpy random state, JAX key, or None
        states : bool
            Add the columns ``logit`` and the ability of the learner at each row.

        Returns
        -------
        DataFrame
            The design with the column ``correct``; missing where nothing was answered.
        """
        self._check_fitted()
        with precision_scope(self.precision), program_cache():
            return simulated_table(
                design,
                self._parameters,
                self._structure,
                self._labels,
                time_unit=self.time_unit,
                precision=self.precision,
                key=as_random_key(random_state),
                states=states,
                **simulator_of(self._memory),
            )

    def to_arviz(self, num_draws: int = 1000, *, random_state: Any = None) -> Any:
        """Return an ArviZ object with draws of the abilities, and the answers.

        Group ``posterior``: ``ability`` and ``drift`` (chain, draw, learner), draws from the
        Gaussians of :attr:`traits_`, or all traits with ``inference="amortized"``; group
        ``constant_data``: the learned parameters.
        """
        self._check_fitted()
        from bayeskit.inference.random import host_generator

        generator = host_generator(as_random_key(random_state))
        table = self.traits_
        draws = {}
        for name in ("ability", "drift"):
            if name in table:
                noise = generator.standard_normal((1, num_draws, len(table)))
                draws[name] = table[name].to_numpy() + table[f"{name}_sd"].to_numpy() * noise
        if isinstance(self._memory, AmortizedMemory):
            draws = self._memory.trait_draws(num_draws, as_random_key(random_state))
        constants = {name: np.asarray(v, np.float64) for name, v in self.parameters_.items()}
        return to_arviz(
            {"posterior": draws, "constant_data": constants},
            {"learner": self.learners_},
            {name: ["learner"] for name in draws},
        )


def _names_of(interactions: Any) -> np.ndarray:
    names = interactions["learner"]
    if hasattr(names, "to_numpy"):
        return names.to_numpy()
    return np.atleast_1d(np.asarray(names))


def _last_moves(memory: Memory, code: int, num: int) -> np.ndarray:
    """Return from when on each component moves: the last row, or the end of its own answer."""
    last_row = memory.rows_of(code).time[-1]
    since = np.maximum(memory.exposures.kc_last[code], last_row)
    return np.repeat(since[None], num, axis=0)


def _filled(values: np.ndarray, size: int, blank: Any) -> np.ndarray:
    full = np.empty((size, *values.shape[1:]))
    full[: len(values)], full[len(values) :] = values, blank
    return full


def _forecast_columns(forecasts: Forecasts) -> np.ndarray:
    mean = np.asarray(forecasts.mean, np.float64)
    variance = np.asarray(forecasts.variance, np.float64)
    sd = np.sqrt(variance)
    return np.stack(
        [
            expected_sigmoid(mean, variance),
            mean,
            sd,
            expit(mean - _Z95 * sd),
            expit(mean + _Z95 * sd),
        ],
        axis=-1,
    )
