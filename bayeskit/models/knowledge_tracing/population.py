"""What all learners share, learned: the part of the tracer that fits parameters and graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.inference import random
from bayeskit.models.knowledge_tracing.edges import (
    EdgePosterior,
    edge_posterior,
    quadratic_evidence,
    sampled_edges,
    stable,
)
from bayeskit.models.knowledge_tracing.fitted import Fitted
from bayeskit.models.knowledge_tracing.graphs import fixed_influence, scaled_graph
from bayeskit.models.knowledge_tracing.joint_filter import joint_log_evidences
from bayeskit.models.knowledge_tracing.learning import Training, learned, log_evidences
from bayeskit.models.knowledge_tracing.rows import Interactions, Labels
from bayeskit.models.knowledge_tracing.structure import (
    EDGE_SD,
    natural,
    priors_of,
    scales_of,
    starts,
)
from bayeskit.models.knowledge_tracing.trials import Exposures, padded_trials, trials_of

__all__ = ["PopulationFit"]

_EDGE_SWEEPS = 500
_MAX_TRANSFER = 0.999


class PopulationFit(Fitted):
    """Learns parameters by the evidence of all learners, and the posterior of edges."""

    normalise: str
    allow_cycles: bool
    edge_probability: float
    num_steps: int
    batch_size: int
    learning_rate: float
    history_: np.ndarray
    _edges: EdgePosterior | None

    def _influence(self, A: np.ndarray, labels: Labels, fixed: dict) -> Any:
        names = list(labels.kc)
        if len(A) != len(names):
            raise InvalidDataError(
                f"graph has {len(A)} components, but the table and n_kc have {len(names)}: "
                "pass n_kc, or a networkx.DiGraph whose nodes are the labels of components"
            )
        # A transfer that is learned stays below 1.
        most = float(fixed.get("transfer", _MAX_TRANSFER))
        self._graph_weights = self._scaled(A, names, most)
        return fixed_influence(self._graph_weights, min(most, _MAX_TRANSFER))

    def _scaled(self, A: np.ndarray, names: list, max_transfer: float) -> np.ndarray:
        return scaled_graph(
            A,
            names,
            normalise=self.normalise,
            allow_cycles=self.allow_cycles,
            max_transfer=max_transfer,
        )

    def _learn(self, rows: Interactions, known: dict, fixed: dict, key: jax.Array) -> None:
        s, num = self._structure, len(self._labels.learner)
        trials, _ = trials_of(rows, rows.learner, Exposures.none(num, s), s)
        padded, _ = padded_trials(trials, rows.learner, s, self.precision)
        scales = scales_of(known)
        training = Training(self.num_steps, self.batch_size, self.learning_rate)
        start = starts(known, fixed)
        settings: dict[str, Any] = {
            "scales": scales,
            "training": training,
            "key": key,
            "precision": self.precision,
        }
        if s.learns_graph:
            # Without edges first, which is much quicker.
            edge = start.pop("edge")
            plain = replace(s, graph=False, learns_graph=False)
            start, _ = learned(
                start, fixed, padded, num, priors_of(known), structure=plain, **settings
            )
            start["edge"] = edge
        evidences = joint_log_evidences if s.graph else log_evidences
        u, self.history_ = learned(
            start,
            fixed,
            padded,
            num,
            priors_of(known),
            structure=s,
            evidences=evidences,
            **settings,
        )
        cast = lambda x: np.asarray(x, self.precision)
        if s.learns_graph:
            u, fixed = self._learn_edges(u, fixed, padded, known, scales, key)
        found = natural(jax.tree.map(cast, u), jax.tree.map(cast, fixed), scales)
        self._parameters = jax.tree.map(cast, found)
        self.parameters_ = {
            name: float(value) if np.ndim(value) == 0 else np.asarray(value, np.float64)
            for name, value in found.items()
            if name != "influence"
        }

    def _learn_edges(
        self, u: dict, fixed: dict, trials: Any, known: dict, scales: tuple, key: jax.Array
    ) -> tuple[dict, dict]:
        """Find the posterior of the edges, and go on with the mean of their weights."""
        cast = lambda x: np.asarray(x, self.precision)
        b, information = quadratic_evidence(
            jax.tree.map(cast, u),
            jax.tree.map(cast, fixed),
            trials,
            priors_of(known),
            structure=self._structure,
            scales=scales,
        )
        draws = sampled_edges(
            b,
            information,
            probability=self.edge_probability,
            slab_sd=EDGE_SD,
            acyclic=not self.allow_cycles,
            num_sweeps=_EDGE_SWEEPS,
            generator=random.host_generator(key, 1),
        )
        self._edges = edge_posterior(draws)
        weight = stable(self._edges.weight)
        self._graph_weights = self._edges.probability
        fixed = {**fixed, "influence": fixed_influence(weight, 1.0)}
        return {name: value for name, value in u.items() if name != "edge"}, fixed
