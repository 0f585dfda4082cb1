"""From the rows of a table to a tracer whose learners are followed by networks."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from bayeskit.accel.program_cache import program_cache
from bayeskit.inference import random
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.models.base import as_random_key, precision_scope
from bayeskit.models.knowledge_tracing.amortized.architecture import (
    AmortizedVariational,
    Architecture,
)
from bayeskit.models.knowledge_tracing.amortized.filtering import first_amortized_belief
from bayeskit.models.knowledge_tracing.amortized.generative import (
    checked_parameters,
    edge_probabilities,
    parameters_of,
)
from bayeskit.models.knowledge_tracing.amortized.memory import AmortizedMemory
from bayeskit.models.knowledge_tracing.amortized.networks import WIDTH, initial_network
from bayeskit.models.knowledge_tracing.amortized.training import (
    all_parameters,
    total_lower_bound,
    trained,
)
from bayeskit.models.knowledge_tracing.graphs import NORMALISATIONS, scaled_graph
from bayeskit.models.knowledge_tracing.rows import Interactions, Labels
from bayeskit.models.knowledge_tracing.structure import Structure, scales_of, starts
from bayeskit.models.knowledge_tracing.trials import Exposures, padded_trials, trials_of

__all__ = ["fit_amortized"]

# What the published model does not have, and what each setting may be then: the default of
# the estimator, which is not looked at, or none of it.
_WITHOUT: dict[str, tuple] = {
    "traits": ("dynamic",),
    "kc_scales": (2, 1),
    "version_scales": (2, 0),
    "practice_gain": (True, False),
    "item_effects": (True, False),
    "spacing": (True, False),
    "jump_noise": (True, False),
    "rate_change": (True, False),
}


def _check_settings(tracer: Any, graph: str) -> None:
    for name, allowed in _WITHOUT.items():
        value = getattr(tracer, name)
        if not any(value is option or value == option for option in allowed):
            raise ValueError(
                f"{name}={value!r} has no meaning with inference='amortized', the published "
                f"model, which has dynamic traits, one state a component and no learning by "
                "practice: leave it out, or use inference='adf'"
            )
    if graph != "none" and tracer.transition != "frozen_parent":
        raise ValueError(
            "inference='amortized' knows the published transition along a graph only: pass "
            "transition='frozen_parent', or use inference='adf'"
        )
    if graph == "learned" and not tracer.allow_cycles:
        raise ValueError(
            "inference='amortized' learns a graph that may have cycles: pass "
            "allow_cycles=True, or use inference='adf', which can rule them out"
        )
    if tracer.normalise not in NORMALISATIONS:
        raise ValueError(f"normalise must be one of {NORMALISATIONS}, got {tracer.normalise!r}")


def _architecture(tracer: Any, engine: AmortizedVariational, num_kc: int) -> Architecture:
    graph = "none"
    if tracer.graph is not None:
        graph = "learned" if isinstance(tracer.graph, str) else "given"
    _check_settings(tracer, graph)
    return Architecture(
        num_kc=num_kc,
        num_categories=engine.num_categories,
        graph=graph,
        normalise=tracer.normalise if graph == "learned" else "in_degree",
        objective=engine.objective,
    )


def _median_span(rows: Interactions) -> float:
    """Return how long a learner is seen; 1 where nobody is seen twice."""
    first = np.r_[True, rows.learner[1:] != rows.learner[:-1]]
    start = np.flatnonzero(first)
    end = np.r_[start[1:], len(first)] - 1
    spans = rows.time_end[end] - rows.time[start]
    return float(np.median(spans[spans > 0])) if (spans > 0).any() else 1.0


def fit_amortized(
    tracer: Any,
    engine: AmortizedVariational,
    rows: Interactions,
    labels: Labels,
    A: np.ndarray | None,
) -> Any:
    """Train the networks, and let them read every learner; sets what ``fit`` sets.

    Parameters
    ----------
    tracer : KnowledgeTracer
    A : (num_kc, num_kc) array, optional
        The graph, where one was given.
    """
    architecture = _architecture(tracer, engine, len(labels.kc))
    structure = Structure(
        len(labels.kc), kc_scales=1, ability=(), graph=architecture.graph != "none"
    )
    known = parameters_of(architecture, _median_span(rows))
    fixed: dict[str, Any] = {"model": checked_parameters(tracer.parameters, known)}
    if A is not None:
        fixed["influence"] = scaled_graph(
            A,
            list(labels.kc),
            normalise=tracer.normalise,
            allow_cycles=tracer.allow_cycles,
            max_transfer=1.0,
        )
    key = as_random_key(tracer.random_state)
    start_key, train_key, bound_key, noise_key = random.split(key, 4)
    generator = random.host_generator(start_key)
    learned: dict[str, Any] = {
        "model": starts(known, fixed["model"]),
        "network": initial_network(generator, architecture),
    }
    if architecture.graph == "learned":
        # With entries of size 1, as published, directions are certain from the start, and the
        # slope of all of them is zero.
        learned["direction"] = generator.standard_normal((WIDTH, WIDTH)) / WIDTH
    scales, num = scales_of(known), len(labels.learner)
    trials, _ = trials_of(rows, rows.learner, Exposures.none(num, structure), structure)
    precision = tracer.precision
    with precision_scope(precision), program_cache(), CompileClock() as clock:
        padded, _ = padded_trials(trials, rows.learner, structure, precision)
        learned, tracer.history_ = trained(
            learned,
            fixed,
            padded,
            num,
            engine=engine,
            architecture=architecture,
            scales=scales,
            key=train_key,
            precision=precision,
        )
        cast = lambda x: np.asarray(x, precision)
        found = all_parameters(learned, jax.tree.map(cast, fixed), scales)
        found = jax.tree.map(cast, found)
        first = first_amortized_belief(found, architecture, engine.num_draws)
        memory = AmortizedMemory(
            structure,
            found,
            jax.tree.map(np.asarray, first),
            precision,
            architecture=architecture,
            key=noise_key,
            # A bound whatever was maximised, of the conditional posterior.
            lower_bound=total_lower_bound(found, padded, bound_key, architecture),
        )
        memory.make_room(num)
        memory.take_in(rows, rows.learner)
        _keep(tracer, memory, labels, {name: found[name] for name in known}, key)
    tracer.timing_ = clock.timing()
    return tracer


def _keep(
    tracer: Any, memory: AmortizedMemory, labels: Labels, parameters: dict, key: jax.Array
) -> None:
    tracer._structure, tracer._labels, tracer._memory = memory.structure, labels, memory
    tracer._parameters = memory.parameters
    tracer.parameters_ = {
        name: float(value) if np.ndim(value) == 0 else np.asarray(value, np.float64)
        for name, value in parameters.items()
    }
    # No engine of single learners stands behind this one.
    tracer._engine, tracer._took_one = None, False
    tracer._mixtures, tracer._online, tracer._evidences = {}, {}, {}
    tracer.random_key_ = np.asarray(jax.random.key_data(key))
    tracer._key_kind = str(jax.random.key_impl(key))
    if memory.architecture.graph == "given":
        tracer._graph_weights = np.asarray(memory.parameters["influence"], np.float64)
    elif memory.architecture.graph == "learned":
        network = memory.parameters["network"]
        with precision_scope("float64"):
            parts = network["embedding"], memory.parameters["direction"]
            weights = edge_probabilities(*(np.asarray(part, np.float64) for part in parts))
        tracer._graph_weights = np.asarray(weights, np.float64)
