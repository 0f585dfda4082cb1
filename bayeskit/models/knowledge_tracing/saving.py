"""Fitted tracers in files that hold numbers and text only."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit import container
from bayeskit.accel.program_cache import program_cache
from bayeskit.models.base import precision_scope
from bayeskit.models.knowledge_tracing.edges import EdgePosterior
from bayeskit.models.knowledge_tracing.fitted import Fitted
from bayeskit.models.knowledge_tracing.joint_filter import JointBelief
from bayeskit.models.knowledge_tracing.learner_engines import (
    LearnerGibbs,
    LearnerMixture,
    LearnerSMC2,
)
from bayeskit.models.knowledge_tracing.memory import Memory
from bayeskit.models.knowledge_tracing.ornstein_uhlenbeck import Influence
from bayeskit.models.knowledge_tracing.rows import Interactions, Labels
from bayeskit.models.knowledge_tracing.settings import structure_of
from bayeskit.models.knowledge_tracing.trials import Exposures

__all__ = ["Saving"]

_ENGINES: dict[str, Any] = {"LearnerGibbs": LearnerGibbs, "LearnerSMC2": LearnerSMC2}
_APART = ("graph", "parameters", "inference", "random_state")


class Saving(Fitted):
    """The part of the tracer that is written to a file and read again."""

    timing_: dict[str, float]
    history_: np.ndarray
    random_key_: np.ndarray
    _key_kind: str
    _engine: Any
    _online: dict[int, Any]

    def save(self, path: str | Path) -> None:
        """Write the fitted tracer to one file; ``bk.load(path)`` reads it.

        Rows, beliefs and posteriors of learners are in it, so that ``partial_fit`` goes on
        where it stood. A ``random_state`` that is no number is not: the key that was made of
        it is.

        Raises
        ------
        TypeError
            For labels that are neither text nor numbers.
        """
        self._check_fitted()
        if type(self._memory) is not Memory:
            raise TypeError(
                f"inference={self.inference!r} cannot be saved: pickle the tracer"  # type: ignore[attr-defined]
            )
        arrays: dict[str, np.ndarray] = {}
        settings = self.get_params(deep=False)  # type: ignore[attr-defined]
        plain: dict[str, Any] = {n: _number(v) for n, v in settings.items() if n not in _APART}
        seed = settings["random_state"]
        plain["random_state"] = int(seed) if isinstance(seed, int | np.integer) else None
        engine = settings["inference"]
        if not isinstance(engine, str):
            engine = {"engine": type(engine).__name__, **dataclasses.asdict(engine)}
        found: dict[str, Any] = {"settings": plain, "inference": engine}
        found["graph"] = _packed_graph(settings["graph"], arrays)
        fixed = settings["parameters"]
        found["fixed"] = None if fixed is None else list(fixed)
        arrays |= {f"fixed:{n}": np.asarray(v, np.float64) for n, v in (fixed or {}).items()}
        labels = self._labels
        for name in ("learner", "kc", "item"):
            found[f"{name}_labels"] = _packed_labels(list(getattr(labels, name)), name, arrays)
        found |= {"num_versions": labels.num_versions, "dates": labels.dates}
        found |= {"timing": self.timing_, "key_kind": self._key_kind}
        arrays |= {"history": self.history_, "random_key": self.random_key_}
        for name, value in self._parameters.items():
            if name != "influence":
                arrays[f"parameter:{name}"] = np.asarray(value)
        if self._structure.graph:
            influence = self._parameters["influence"]
            arrays |= {"powers": influence.powers, "products": influence.products}
            arrays["graph_weights"] = self._graph_weights
        if self._edges is not None:
            arrays |= {f"edges:{n}": v for n, v in self._edges._asdict().items()}
        found["log_evidence"] = self._memory.log_evidence
        arrays |= _packed_memory(self._memory)
        arrays |= _packed_posteriors(self._mixtures, self._online, self._evidences)
        arrays = {name: np.asarray(value) for name, value in arrays.items()}
        container.write_container(path, "KnowledgeTracer", found, arrays)

    @classmethod
    def _from_container(cls, read: container.Container) -> Any:
        with container.unpacking(read.kind):
            return cls._unpacked(read)

    @classmethod
    def _unpacked(cls, read: container.Container) -> Any:
        found, arrays = read.parameters, dict(read.arrays)
        engine = found["inference"]
        if isinstance(engine, dict):
            engine = _ENGINES[engine["engine"]](
                **{name: value for name, value in engine.items() if name != "engine"}
            )
        fixed = found["fixed"]
        if fixed is not None:
            fixed = {name: arrays[f"fixed:{name}"] for name in fixed}
        build: Any = cls
        tracer = build(
            **found["settings"],
            graph=_unpacked_graph(found["graph"], arrays),
            parameters=fixed,
            inference=engine,
        )
        names = [
            _unpacked_labels(found[f"{n}_labels"], n, arrays) for n in ("learner", "kc", "item")
        ]
        learner, kc, item = ({label: code for code, label in enumerate(n)} for n in names)
        tracer._labels = Labels(learner, kc, item, found["num_versions"], found["dates"])
        tracer._structure = structure_of(tracer, tracer._labels)
        tracer.timing_, tracer.history_ = found["timing"], arrays["history"]
        parameters: dict[str, Any] = _with_prefix(arrays, "parameter:")
        tracer.parameters_ = {
            name: float(v) if v.ndim == 0 else v.astype(np.float64)
            for name, v in parameters.items()
        }
        if "powers" in arrays:
            parameters["influence"] = Influence(arrays["powers"], arrays["products"])
            tracer._graph_weights = arrays["graph_weights"]
        edges = _with_prefix(arrays, "edges:")
        tracer._edges = EdgePosterior(**edges) if edges else None
        tracer._parameters = parameters
        with precision_scope(tracer.precision), program_cache():
            words = jnp.asarray(arrays["random_key"])
            tracer._start_memory(jax.random.wrap_key_data(words, impl=found["key_kind"]))
            _restore_memory(tracer._memory, arrays, found["log_evidence"])
            tracer._restore_posteriors(arrays)
        return tracer

    def _restore_posteriors(self, arrays: dict[str, np.ndarray]) -> None:
        if "mixtures:code" not in arrays:
            return
        parts = _with_prefix(arrays, "mixtures:")
        online = _with_prefix(arrays, "online:")
        for place, code in enumerate(parts["code"].tolist()):
            belief = JointBelief(parts["mean"][place], parts["covariance"][place])
            traits, ahead = parts["traits"][place], parts["ahead"][place]
            self._mixtures[code] = LearnerMixture(traits, ahead, belief)
            if online:
                rows = int(online["rows"][place])
                leaves = [online[str(n)][place] for n in range(len(online) - 2)]
                data = self._data_of(code)  # type: ignore[attr-defined]
                state = self._engine.restored(data, self._structure, leaves)
                self._online[code] = state, rows
                self._evidences[code] = float(online["evidence"][place])


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _with_prefix(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {n.removeprefix(prefix): v for n, v in arrays.items() if n.startswith(prefix)}


def _packed_labels(labels: list, name: str, arrays: dict) -> Any:
    """Keep labels as one array where they are of one kind, else as a list."""
    for label in labels:
        if not isinstance(label, str | int | float):
            raise TypeError(
                f"the {name} {label!r} is a {type(label).__name__}: only labels that are text "
                "or numbers can be saved (pickle the tracer, or rename them)"
            )
    kinds = {type(label) for label in labels}
    ends_with_nul = any(isinstance(x, str) and (not x or x.endswith("\0")) for x in labels)
    if len(kinds) == 1 and not ends_with_nul:
        arrays[f"labels:{name}"] = np.asarray(labels)
        return None
    return labels


def _unpacked_labels(packed: Any, name: str, arrays: dict) -> list:
    return arrays[f"labels:{name}"].tolist() if packed is None else packed


def _packed_graph(graph: Any, arrays: dict) -> Any:
    if graph is None or isinstance(graph, str):
        return graph
    if hasattr(graph, "is_directed"):
        import networkx as nx

        nodes = list(graph.nodes)
        arrays["graph"] = nx.to_numpy_array(graph, nodelist=nodes)
        return {"nodes": _packed_labels(nodes, "node", arrays)}
    arrays["graph"] = np.asarray(graph, np.float64)
    if hasattr(graph, "columns"):
        return {"nodes": _packed_labels(list(graph.index), "node", arrays)}
    return {}


def _unpacked_graph(packed: Any, arrays: dict) -> Any:
    if packed is None or isinstance(packed, str):
        return packed
    A = arrays["graph"]
    if "nodes" not in packed:
        return A
    import networkx as nx

    nodes = _unpacked_labels(packed["nodes"], "node", arrays)
    graph = nx.DiGraph()
    graph.add_nodes_from(nodes)
    for i, k in np.argwhere(A > 0).tolist():
        graph.add_edge(nodes[i], nodes[k], weight=A[i, k])
    return graph


def _packed_memory(memory: Memory) -> dict[str, np.ndarray]:
    found = {f"rows:{n}": v for n, v in memory.rows._asdict().items()}
    size = memory.size
    found |= {f"exposures:{n}": v[:size] for n, v in memory.exposures._asdict().items()}
    found |= {f"belief:{n}": v[:size] for n, v in enumerate(jax.tree.leaves(memory.beliefs))}
    return found


def _restore_memory(memory: Memory, arrays: dict[str, np.ndarray], log_evidence: float) -> None:
    rows = Interactions(**_with_prefix(arrays, "rows:"))
    exposures = Exposures(**_with_prefix(arrays, "exposures:"))
    leaves = _with_prefix(arrays, "belief:")
    memory.make_room(len(exposures.first))
    size = memory.size
    for number, kept in enumerate(jax.tree.leaves(memory.beliefs)):
        kept[:size] = leaves[str(number)]
    for kept, new in zip(memory.exposures, exposures, strict=True):
        kept[:size] = new
    memory.restore(rows, log_evidence)


def _packed_posteriors(mixtures: dict, online: dict, evidences: dict) -> dict[str, np.ndarray]:
    if not mixtures:
        return {}
    codes = sorted(mixtures)
    each = [mixtures[code] for code in codes]
    found = {
        "mixtures:code": np.asarray(codes),
        "mixtures:traits": np.stack([m.traits for m in each]),
        "mixtures:ahead": np.stack([m.ahead for m in each]),
        "mixtures:mean": np.stack([m.belief.mean for m in each]),
        "mixtures:covariance": np.stack([m.belief.covariance for m in each]),
    }
    if online:
        found["online:rows"] = np.asarray([online[code][1] for code in codes])
        found["online:evidence"] = np.asarray([evidences[code] for code in codes])
        states = zip(*(jax.tree.leaves(online[code][0]) for code in codes), strict=True)
        found |= {f"online:{n}": np.stack(leaf) for n, leaf in enumerate(states)}
    return found
