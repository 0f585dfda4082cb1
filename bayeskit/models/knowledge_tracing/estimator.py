"""The estimator of knowledge tracing."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator

from bayeskit.accel.program_cache import program_cache
from bayeskit.errors import InvalidDataError
from bayeskit.inference import random
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.models.base import as_random_key, precision_scope
from bayeskit.models.knowledge_tracing.amortized.fitting import amortized_engine, fit_amortized
from bayeskit.models.knowledge_tracing.edges import (
    edge_posterior,
    quadratic_evidence,
    sampled_edges,
    stable,
)
from bayeskit.models.knowledge_tracing.graphs import (
    fixed_influence,
    given_graph,
    is_learned,
    scaled_graph,
)
from bayeskit.models.knowledge_tracing.joint_filter import joint_log_evidences
from bayeskit.models.knowledge_tracing.learner_engines import (
    LearnerGibbs,
    LearnerSMC2,
    learner_data,
)
from bayeskit.models.knowledge_tracing.learning import Training, learned, log_evidences
from bayeskit.models.knowledge_tracing.memory import Memory
from bayeskit.models.knowledge_tracing.predictions import Predictions
from bayeskit.models.knowledge_tracing.programs import first_belief
from bayeskit.models.knowledge_tracing.rows import Interactions, Labels, interactions_of
from bayeskit.models.knowledge_tracing.structure import (
    EDGE_SD,
    Structure,
    checked_fixed,
    natural,
    parameters_of,
    priors_of,
    scales_of,
    starts,
)
from bayeskit.models.knowledge_tracing.trials import Exposures, padded_trials, trials_of

__all__ = ["KnowledgeTracer"]

_EDGE_SWEEPS = 500
_ENGINES: dict[str, Any] = {"adf": None, "gibbs": LearnerGibbs, "smc2": LearnerSMC2}
_TRAITS = {"none": (), "static": ("static",), "dynamic": ("static", "drift")}
_TRANSITIONS = ("exact", "frozen_parent")
_GAINS = {True: "saturating", "saturating": "saturating", "additive": "additive", False: None}


class KnowledgeTracer(Predictions, BaseEstimator):
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
    graph : None, "learn", array (n_kc, n_kc) or networkx.DiGraph
        Entry (i, k): i is a prerequisite of k. ``"learn"`` gives the posterior of each edge.
        A learned influence may forecast worse than none: compare ``log_evidence_``, or scores
        of other learners, with those of ``graph=None``.
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
        of each learner with traits of its own: how fast it forgets, how volatile it is, and
        how it transfers along a graph. ``"smc2"`` is online. Both are for tens of learners.
        Forecasts of learners that are not known, and :meth:`predict_next`, stay those of moment
        matching. ``"amortized"`` is the published model with its networks, for comparison: see
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
        self._check_settings()
        A, kc_labels = None, self._kc_labels()
        learns_graph = is_learned(self.graph)
        if self.graph is not None and not learns_graph:
            A, kc_labels = given_graph(self.graph, kc_labels)
        rows, labels = interactions_of(
            interactions, time_unit=self.time_unit, strict=self.strict, kc_labels=kc_labels
        )
        self._structure = self._structure_of(labels)
        self._labels = labels
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
        self._memory.take_in(rows, rows.learner)
        if self._engine is None:
            return
        for code in np.unique(rows.learner).tolist():
            own = self._memory.rows_of(code)
            data = learner_data(
                own, self._parameters, self._structure, self._engine.trait_sd, self.precision
            )
            # A stream of its own for each learner and length, so that repeats are exact.
            key = jax.random.wrap_key_data(jnp.asarray(self.random_key_), impl=self._key_kind)
            key = random.fold_in(random.fold_in(key, code), len(own.time))
            before = self._online.get(code)
            mixture, online, evidence = self._engine.infer(
                key, data, self._structure, len(own.time), before
            )
            self._mixtures[code] = mixture
            if online is not None:
                self._online[code] = online
                self._evidences[code] = evidence

    def _check_settings(self) -> None:
        if self.traits not in _TRAITS:
            raise ValueError(f"traits must be one of {list(_TRAITS)}, got {self.traits!r}")
        if self.transition not in _TRANSITIONS:
            raise ValueError(
                f"transition must be one of {_TRANSITIONS}, got {self.transition!r}"
            )
        if self.practice_gain not in _GAINS:
            raise ValueError(
                "practice_gain must be a bool, 'saturating' or 'additive', got "
                f"{self.practice_gain!r}"
            )
        is_name = isinstance(self.inference, str) and self.inference in _ENGINES
        is_engine = hasattr(self.inference, "infer") or amortized_engine(self.inference)
        if not is_name and not is_engine:
            raise ValueError(
                "inference must be 'adf', 'gibbs', 'smc2', 'amortized', LearnerGibbs(), "
                f"LearnerSMC2() or AmortizedVariational(), got {self.inference!r}"
            )
        for name, least in (("kc_scales", 1), ("version_scales", 0), ("num_steps", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(f"batch_size must be a whole number >= 1, got {self.batch_size!r}")
        if not 0 < self.edge_probability < 1:
            raise ValueError(
                f"edge_probability must lie in (0, 1), got {self.edge_probability!r}"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate!r}")

    def _kc_labels(self) -> dict | None:
        if self.n_kc is None:
            return None
        if not isinstance(self.n_kc, int | np.integer) or self.n_kc < 1:
            raise ValueError(f"n_kc must be a whole number >= 1, got {self.n_kc!r}")
        return {k: k for k in range(int(self.n_kc))}

    def _structure_of(self, labels: Labels) -> Structure:
        gains = _GAINS[self.practice_gain]
        has_graph = self.graph is not None
        num_versions = labels.num_versions if self.version_scales else 0
        return Structure(
            num_kc=len(labels.kc),
            num_items=len(labels.item),
            num_versions=num_versions,
            kc_scales=self.kc_scales,
            version_scales=self.version_scales if num_versions else 0,
            ability=_TRAITS[self.traits],
            item_effects=self.item_effects,
            practice=gains is not None,
            saturation=gains == "saturating",
            spacing=gains is not None and self.spacing,
            jump_noise=gains is not None and self.jump_noise,
            # Components that pull at one another share one clock.
            rate_change=self.rate_change and not has_graph,
            graph=has_graph,
            frozen_parent=has_graph and self.transition == "frozen_parent",
            learns_graph=isinstance(self.graph, str),
        )

    def _influence(self, A: np.ndarray, labels: Labels, fixed: dict) -> Any:
        names = list(labels.kc)
        if len(A) != len(names):
            raise InvalidDataError(
                f"graph has {len(A)} components, but the table and n_kc have {len(names)}: "
                "pass n_kc, or a networkx.DiGraph whose nodes are the labels of components"
            )
        most = float(fixed.get("transfer", 1.0))
        scaled = scaled_graph(
            A,
            names,
            normalise=self.normalise,
            allow_cycles=self.allow_cycles,
            max_transfer=most,
        )
        self._graph_weights = scaled
        return fixed_influence(scaled, min(most, 0.999))

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
        self.edges_ = edge_posterior(draws)
        weight = stable(self.edges_.weight)
        self._graph_weights = self.edges_.probability
        fixed = {**fixed, "influence": fixed_influence(weight, 1.0)}
        return {name: value for name, value in u.items() if name != "edge"}, fixed

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
        names = interactions["learner"]
        names = names.to_numpy() if hasattr(names, "to_numpy") else np.atleast_1d(names)
        table = self._labels.learner
        for place in np.flatnonzero(unknown):
            name = names[rows.order[place]]
            name = name.item() if hasattr(name, "item") else name
            rows.learner[place] = table.setdefault(name, len(table))
        self._memory.make_room(len(table))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_memory")
