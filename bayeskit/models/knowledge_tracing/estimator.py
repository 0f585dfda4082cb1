"""The estimator of knowledge tracing."""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator

from bayeskit.accel.program_cache import program_cache
from bayeskit.inference import random
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.models.base import as_random_key, precision_scope
from bayeskit.models.knowledge_tracing.amortized.architecture import amortized_engine
from bayeskit.models.knowledge_tracing.amortized.fitting import fit_amortized
from bayeskit.models.knowledge_tracing.graphs import given_graph, is_learned
from bayeskit.models.knowledge_tracing.learner import LearnerData
from bayeskit.models.knowledge_tracing.learner_engines import (
    LearnerGibbs,
    LearnerSMC2,
    learner_data,
)
from bayeskit.models.knowledge_tracing.memory import Memory
from bayeskit.models.knowledge_tracing.population import PopulationFit
from bayeskit.models.knowledge_tracing.predictions import Predictions
from bayeskit.models.knowledge_tracing.programs import first_belief
from bayeskit.models.knowledge_tracing.rows import (
    Interactions,
    interactions_of,
    learner_names,
)
from bayeskit.models.knowledge_tracing.saving import Saving
from bayeskit.models.knowledge_tracing.settings import (
    check_settings,
    kc_labels,
    structure_of,
    warn_of_nothing,
)
from bayeskit.models.knowledge_tracing.structure import checked_fixed, parameters_of

__all__ = ["KnowledgeTracer"]

# How each learner is inferred once the population is known; moment matching needs no more.
_ENGINES: dict[str, Any] = {"adf": None, "gibbs": LearnerGibbs, "smc2": LearnerSMC2}


class KnowledgeTracer(PopulationFit, Predictions, Saving, BaseEstimator):
    r"""Knowledge tracing on a structured domain (PSI-KT): who knows what, and for how long.

    Learner l answers an item of the knowledge components S at time t correctly with probability

    .. math::
        P(y = 1) = \sigma\Bigl(\mu + \sum_{k \in S} b_k + b_i + a_0 + a_1(t)
            + \sum_{k \in S} h' x_k(t)\Bigr) .

    The ability :math:`a_0 + a_1(t)` is shared by all components. Each component has a block
    :math:`x_k` of Ornstein-Uhlenbeck states of several time scales, which are forgotten between
    exposures and jump at each exposure with outcome o (wrong, correct, or only studied):

    .. math::
        x_k \leftarrow x_k - \rho_o h x_k + w_o h\,h'x_k + g_o h + N(0, q_o^2 h) .

    Practice saturates (ρ), and gains less where much is active already (w, the spacing effect).
    With a graph each component is pulled at by its prerequisites,
    :math:`dx = -(I - \gamma A')x\,dt/T + \sqrt{2/T}\,s\,dW`, with transitions that are exact
    over any gap.

    Parameters
    ----------
    n_kc : int, optional
        Number of components, which are then named 0, 1, ... By default those of the table.
    graph : None, "learn", array (n_kc, n_kc), DataFrame or networkx.DiGraph
        Entry (i, k): i is a prerequisite of k. An array is in the order of ``kcs_``: labels
        sorted, or 0 to n_kc - 1; a DataFrame has labels of components as index and columns.
        ``"learn"`` gives the posterior of each edge. A learned influence may forecast worse
        than none: compare ``log_evidence_``, or scores of other learners, with those of
        ``graph=None``.
    transition : {"exact", "frozen_parent"}
        ``"frozen_parent"`` is the published step, which holds prerequisites still over each
        gap: what it forecasts changes with times at which nothing is observed.
    traits : {"dynamic", "static", "none"}
        Ability that also drifts, that is constant, or none.
    kc_scales, version_scales : int
        States of a component, and of each of its versions (column ``version``).
    item_effects : bool
        Effects of components, and of items (column ``item``).
    practice_gain : bool, "saturating" or "additive"
        What an exposure does: True saturates; False leaves all to the noise, as published.
    spacing, jump_noise, rate_change : bool
        The term w; the noise q; rates of forgetting :math:`(1 + n)^{-\kappa} / T` after n
        exposures (not with a graph).
    time_unit : {"millisecond", "second", "minute", "hour", "day"}
        Unit of the columns ``time`` and ``time_end``, and of all times in ``parameters_``.
    inference : {"adf", "gibbs", "smc2", "amortized"} or settings of one of them
        Moment matching; or then, with what all learners share as it was learned, exact sampling
        of each learner with traits of its own, constant or slowly varying: how fast it forgets,
        how volatile it is, and how it transfers along a given graph. ``"smc2"`` is online. Both
        are for tens of learners. Forecasts of learners that are not known,
        :meth:`predict_next`, :meth:`filter` and :meth:`smooth` stay those of moment matching.
        ``"amortized"`` is the published model with its networks, for comparison: see
        :class:`~bayeskit.models.knowledge_tracing.amortized.AmortizedVariational`.
    normalise : {"in_degree", "num_kc"}
        What each column of the graph is divided by.
    allow_cycles : bool
        Accept graphs with cycles, if they are stable. Learned ones are acyclic without it; two
        components never are prerequisites of one another.
    edge_probability : float in (0, 1)
        Of each edge that is learned, beforehand.
    parameters : dict, optional
        Parameters that are not learned, by name, in natural units; see ``parameters_``. Also
        ``initial_mean`` and ``initial_sd`` of the states before the first row, which are
        stationary by default.
    num_steps, batch_size, learning_rate
        Of Adam, over batches of learners. ``num_steps=0`` keeps the starting values.
    strict : bool
        Refuse tables that are out of order instead of sorting them.
    random_state : int, numpy random state, JAX key, or None
    precision : {"float64", "float32"}

    Attributes
    ----------
    parameters_ : dict of float or arrays
        In natural units: level, kc_effect (n_kc,), item_effect (items,), time_scale and sd of
        each kind of state (kinds,), rate_change (kinds,), gain, saturation, spacing and jump_sd
        (kinds, 3) for wrong, correct and studied, ability_sd, drift_sd, drift_time, transfer.
    kcs_, items_, learners_ : lists of labels
    traits_ : DataFrame
        Ability of each learner with its standard deviation and 95 % interval; of ``"gibbs"``
        and ``"smc2"`` also forgetting, volatility and transfer, as differences from the
        population in logarithms (transfer: in logits).
    graph_ : DataFrame
        Influence of each component (rows) on each other (columns); of a graph that was learned
        the probability that the edge is there.
    edges_ : EdgePosterior
        Of a graph that was learned, with mean weights and their standard deviations.
    log_evidence_ : float
        Of all answers so far given ``parameters_``, by moment matching; of ``"smc2"`` its own
        estimate.
    history_ : array (num_steps,)
        Objective in nats an answer.
    timing_ : dict of float

    Notes
    -----
    Columns of a table: ``learner``, ``kc`` (a label, or a list of several), ``time`` at which
    the item was shown, ``correct`` (0, 1, or missing for an exposure without an answer);
    optionally ``item``, ``version`` (0, 1, ... within a component) and ``time_end`` at which
    the answer was given. If the only time that is known is that of the answer, the gap before
    it contains the time that the answer took, which tells something of the answer.

    Times are numbers in ``time_unit``, or dates, which come back as dates: they count from
    1970, in UTC where they have a time zone. One tracer takes only one of the two.

    Cost of a row: O(block²) without a graph, whatever the number of components; O(n_kc³) with
    one.

    References
    ----------
    Zhou, Bamler, Wu & Tejero-Cantero (2024), *Predictive, scalable and interpretable knowledge
    tracing on structured domains*, ICLR. This model is their Ornstein-Uhlenbeck model with
    exact transitions, effects of items, and learning by practice.

    Examples
    --------
    >>> import bayeskit as bk
    >>> table = {
    ...     "learner": ["ann"] * 4 + ["bob"] * 4,
    ...     "kc": ["sum", "sum", "product", "sum"] * 2,
    ...     "time": [0.0, 0.1, 0.2, 3.0] * 2,
    ...     "correct": [0, 1, 0, 1, 1, 1, None, 1],
    ... }
    >>> tracer = bk.KnowledgeTracer(num_steps=20, random_state=0).fit(table)
    >>> p = tracer.predict_proba({"learner": ["ann", "bob"], "kc": ["sum"] * 2, "time": [4, 4]})
    >>> bool(p[1] > p[0])
    True
    """

    def __init__(
        self,
        n_kc: int | None = None,
        *,
        graph: Any = None,
        transition: str = "exact",
        traits: str = "dynamic",
        kc_scales: int = 2,
        version_scales: int = 2,
        item_effects: bool = True,
        practice_gain: bool | str = True,
        spacing: bool = True,
        jump_noise: bool = True,
        rate_change: bool = True,
        time_unit: str = "day",
        inference: Any = "adf",
        normalise: str = "in_degree",
        allow_cycles: bool = False,
        edge_probability: float = 0.2,
        parameters: dict | None = None,
        num_steps: int = 120,
        batch_size: int = 64,
        learning_rate: float = 0.08,
        strict: bool = False,
        random_state: Any = None,
        precision: str = "float64",
    ):
        self.n_kc = n_kc
        self.graph = graph
        self.transition = transition
        self.traits = traits
        self.kc_scales = kc_scales
        self.version_scales = version_scales
        self.item_effects = item_effects
        self.practice_gain = practice_gain
        self.spacing = spacing
        self.jump_noise = jump_noise
        self.rate_change = rate_change
        self.time_unit = time_unit
        self.inference = inference
        self.normalise = normalise
        self.allow_cycles = allow_cycles
        self.edge_probability = edge_probability
        self.parameters = parameters
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.strict = strict
        self.random_state = random_state
        self.precision = precision

    # ------------------------------------------------------------ fitting

    def fit(self, interactions: Any, y: None = None) -> KnowledgeTracer:
        """Learn what all learners share, and filter every learner.

        Parameters
        ----------
        interactions : DataFrame or dict of columns
            See the class.
        y : None
            Not used.

        Raises
        ------
        InvalidDataError
            For bad tables and graphs, with the column and the row, or the cycles.
        """
        check_settings(self, _ENGINES)
        A, known_kcs = None, kc_labels(self.n_kc)
        source = "" if known_kcs is None else ", as n_kc numbers them"
        if self.graph is not None and not is_learned(self.graph):
            A, graph_kcs = given_graph(self.graph, known_kcs)
            if known_kcs is None and graph_kcs is not None:
                known_kcs = graph_kcs
                # Cycles are told of before components that the graph lacks.
                self._scaled(A, list(graph_kcs), 0.0)
                source = ", the nodes of graph: add one without edges with graph.add_node"
        rows, labels = interactions_of(
            interactions,
            time_unit=self.time_unit,
            strict=self.strict,
            kc_labels=known_kcs,
            kc_source=source,
        )
        warn_of_nothing(rows, labels, by_name=self.n_kc is None)
        self._structure = structure_of(self, labels)
        self._labels, self._edges = labels, None
        engine = amortized_engine(self.inference)
        if engine is not None:
            return fit_amortized(self, engine, rows, labels, A)
        known = parameters_of(self._structure, self.time_unit)
        fixed: dict[str, Any] = checked_fixed(self.parameters, known, self._structure)
        if A is not None:
            fixed["influence"] = self._influence(A, labels, fixed)
        key = as_random_key(self.random_state)
        with precision_scope(self.precision), program_cache(), CompileClock() as clock:
            self._learn(rows, known, fixed, key)
            self._start_memory(key)
            self._memory.make_room(len(labels.learner))
            self._take_in(rows)
        self.timing_ = clock.timing()
        return self

    def partial_fit(self, interactions: Any, y: None = None) -> KnowledgeTracer:
        """Take in further rows, at a cost that does not grow with the rows so far.

        Parameters stay as they are. The same as ``fit`` on all rows with those fixed. New
        learners are welcome, new components are not. The first call is ``fit``.
        """
        if not hasattr(self, "_memory"):
            return self.fit(interactions)
        rows, _ = interactions_of(
            interactions, time_unit=self.time_unit, strict=self.strict, labels=self._labels
        )
        self._name_new_learners(interactions, rows)
        # Folders take longer to look at than one row to filter, once its program is there.
        is_warm = len(rows.time) == 1 and self._took_one
        cache = contextlib.nullcontext() if is_warm else program_cache()
        with precision_scope(self.precision), cache:
            self._take_in(rows)
        self._took_one |= len(rows.time) == 1
        return self

    def _take_in(self, rows: Interactions) -> None:
        self._memory.take_in(rows, rows.learner, self._shown_time)
        if self._engine is None:
            return
        for code in np.unique(rows.learner).tolist():
            num = int(np.sum(self._memory.rows.learner == code))
            data = self._data_of(code)
            # A stream of its own for each learner and length, so that repeats are exact.
            key = jax.random.wrap_key_data(jnp.asarray(self.random_key_), impl=self._key_kind)
            key = random.fold_in(random.fold_in(key, code), num)
            before = self._online.get(code)
            mixture, online, evidence = self._engine.infer(
                key, data, self._structure, num, before
            )
            self._mixtures[code] = mixture
            if online is not None:
                self._online[code] = online
                self._evidences[code] = evidence

    def _data_of(self, code: int) -> LearnerData:
        own = self._memory.rows_of(code)
        return learner_data(
            own, self._parameters, self._structure, self._engine, self.precision
        )

    def _start_memory(self, key: jax.Array) -> None:
        engine = _ENGINES.get(self.inference) if isinstance(self.inference, str) else None
        self._engine = engine() if engine else None
        if hasattr(self.inference, "infer"):
            self._engine = self.inference
        self.random_key_ = np.asarray(jax.random.key_data(key))
        self._key_kind = str(jax.random.key_impl(key))
        self._took_one = False
        self._mixtures: dict[int, Any] = {}
        self._online: dict[int, Any] = {}
        self._evidences: dict[int, Any] = {}
        first = first_belief(self._parameters, structure=self._structure)
        self._memory = Memory(
            self._structure, self._parameters, jax.tree.map(np.asarray, first), self.precision
        )

    def _name_new_learners(self, interactions: Any, rows: Interactions) -> None:
        """Give codes to learners that were not there before, in place."""
        unknown = rows.learner < 0
        if not unknown.any():
            return
        names, table = learner_names(interactions, rows).tolist(), self._labels.learner
        for place in np.flatnonzero(unknown).tolist():
            rows.learner[place] = table.setdefault(names[place], len(table))
        self._memory.make_room(len(table))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_memory")
