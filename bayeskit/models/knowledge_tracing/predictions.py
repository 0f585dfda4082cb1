"""What a fitted tracer says beside forecasts: learners and traits, what to ask, simulation."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.accel.program_cache import program_cache
from bayeskit.interop.arviz import to_arviz
from bayeskit.models.base import as_random_key, precision_scope
from bayeskit.models.knowledge_tracing.amortized.memory import AmortizedMemory
from bayeskit.models.knowledge_tracing.amortized.simulation import simulator_of
from bayeskit.models.knowledge_tracing.edges import EdgePosterior
from bayeskit.models.knowledge_tracing.fitted import Z95
from bayeskit.models.knowledge_tracing.forecasting import Forecasting
from bayeskit.models.knowledge_tracing.graphs import is_learned
from bayeskit.models.knowledge_tracing.information import expected_information
from bayeskit.models.knowledge_tracing.mixtures import trait_draws, trait_table
from bayeskit.models.knowledge_tracing.simulation import simulated_table
from bayeskit.models.knowledge_tracing.states import StatesOverTime

__all__ = ["Predictions"]


class Predictions(Forecasting, StatesOverTime):
    """The part of the tracer that predicts; it holds what was learned."""

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
                f"{title}_lower": mean[:, part] - Z95 * sd,
                f"{title}_upper": mean[:, part] + Z95 * sd,
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
        table = pd.DataFrame(self._graph_weights, index=self.kcs_, columns=self.kcs_)
        # So that a plot tells probabilities from weights that were given.
        table.attrs["learned"] = is_learned(self.graph)
        return table

    @property
    def edges_(self) -> EdgePosterior:
        """Probabilities and weights of edges that were learned."""
        self._check_attribute("edges_")
        if self._edges is None:
            raise AttributeError("edges_ exists after fit with graph='learn'")
        return self._edges

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
        candidates : DataFrame, dict of columns or list of components, optional
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
        if num is not None and num < 1:
            raise ValueError(f"num must be at least 1, got {num!r}")
        if isinstance(candidates, list | tuple):
            candidates = pd.DataFrame({"kc": list(candidates)})
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
        Gaussians of :attr:`traits_`, and of engines that sample learners also their traits;
        group ``constant_data``: the learned parameters.
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
        if self._mixtures:
            draws = trait_draws(self._mixtures, self._structure, num_draws, generator)
        if isinstance(self._memory, AmortizedMemory):
            draws = self._memory.trait_draws(num_draws, as_random_key(random_state))
        constants = {name: np.asarray(v, np.float64) for name, v in self.parameters_.items()}
        return to_arviz(
            {"posterior": draws, "constant_data": constants},
            {"learner": self.learners_},
            {name: ["learner"] for name in draws},
        )
