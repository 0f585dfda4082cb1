"""Prerequisite graphs at the door: sizes, self-loops, cycles, stability, normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.errors import InvalidDataError
from bayeskit.models.knowledge_tracing.ornstein_uhlenbeck import influence_of

__all__ = ["NORMALISATIONS", "cycles_of", "given_graph", "is_learned", "scaled_graph"]

NORMALISATIONS = ("in_degree", "num_kc")
# Cycles that a message names.
_SHOWN = 5


def is_learned(graph: Any) -> bool:
    """Return whether the graph is to be learned."""
    if isinstance(graph, str):
        if graph != "learn":
            raise ValueError(
                f"graph must be None, 'learn', an array or a networkx.DiGraph, got {graph!r}"
            )
        return True
    return False


def cycles_of(A: np.ndarray, labels: list) -> list[list]:
    """Return the self-loops of a graph, and one cycle through each strong component."""
    import networkx as nx

    graph = nx.DiGraph(list(zip(*map(np.ndarray.tolist, np.nonzero(A)), strict=True)))
    found = [[labels[i]] for i in np.flatnonzero(np.diag(A))]
    for component in nx.strongly_connected_components(graph):
        if len(component) > 1:
            part = graph.subgraph(component).copy()
            part.remove_edges_from(nx.selfloop_edges(part))
            found.append([labels[edge[0]] for edge in nx.find_cycle(part)])
    return found


def given_graph(graph: Any, kc_labels: dict | None) -> tuple[np.ndarray, dict | None]:
    """Return the weights (num_kc, num_kc) of a graph, and its components if it names them.

    Parameters
    ----------
    graph : (num_kc, num_kc) array, DataFrame or networkx.DiGraph
        Entry (i, k), or an edge from i to k: i is a prerequisite of k. A DataFrame has the
        labels of components as index and columns, in any order. Edges may have an attribute
        ``weight`` in [0, 1].
    kc_labels : dict, optional
        Components that are known beforehand.
    """
    labels = kc_labels
    if hasattr(graph, "columns"):
        graph = _labelled(graph)
    if hasattr(graph, "is_directed"):
        import networkx as nx

        if not graph.is_directed():
            raise InvalidDataError(
                "graph is undirected: a prerequisite graph needs directions, give a DiGraph"
            )
        nodes = list(graph.nodes) if labels is None else list(labels)
        unknown = [node for node in graph.nodes if node not in set(nodes)]
        if unknown:
            raise InvalidDataError(
                f"graph has the node {unknown[0]!r} ({len(unknown)} in all) that is no "
                f"component: n_kc says there are {len(nodes)}"
            )
        if labels is None:
            labels = {node: code for code, node in enumerate(nodes)}
        full = nx.DiGraph()
        full.add_nodes_from(nodes)
        full.add_edges_from(graph.edges(data=True))
        A = nx.to_numpy_array(full, nodelist=nodes, weight="weight")
    else:
        try:
            A = np.asarray(graph, np.float64)
        except (TypeError, ValueError) as error:
            raise InvalidDataError(
                f"graph is a {type(graph).__name__} that is no matrix of numbers: make a "
                "networkx.DiGraph of edges or of a dict, and give that"
            ) from error
        if A.ndim != 2 or A.shape[0] != A.shape[1]:
            raise InvalidDataError(
                f"graph must be a square matrix (num_kc, num_kc), got shape {A.shape}"
            )
    bad = ~((A >= 0) & (A <= 1))
    if bad.any():
        i, k = np.argwhere(bad)[0].tolist()
        names = list(range(len(A))) if labels is None else list(labels)
        names = names if len(names) == len(A) else list(range(len(A)))
        raise InvalidDataError(
            f"weights of the graph must lie in [0, 1], got {A[i, k]:g} for the edge from "
            f"{names[i]!r} to {names[k]!r}"
        )
    return A, labels


def _labelled(frame: Any) -> Any:
    """Return a table of weights whose labels are components as a directed graph."""
    import networkx as nx

    index, columns = list(frame.index), list(frame.columns)
    if set(index) != set(columns) or len(set(index)) != len(index):
        raise InvalidDataError(
            f"graph is a table with rows {index} and columns {columns}: both must be the "
            "labels of all components, each once"
        )
    weights = np.asarray(frame[index], np.float64)
    graph = nx.DiGraph()
    graph.add_nodes_from(index)
    for i, k in np.argwhere(weights != 0).tolist():
        graph.add_edge(index[i], index[k], weight=weights[i, k])
    return graph


def scaled_graph(
    A: np.ndarray,
    labels: list,
    *,
    normalise: str,
    allow_cycles: bool,
    max_transfer: float,
) -> np.ndarray:
    """Return the influence of each component on each other, refused where it is unstable.

    Raises
    ------
    InvalidDataError
        For self-loops and cycles, which are listed, unless they are allowed; for a graph under
        which states would grow without bound.
    """
    if normalise not in NORMALISATIONS:
        raise ValueError(f"normalise must be one of {NORMALISATIONS}, got {normalise!r}")
    cycles = cycles_of(A, labels)
    if cycles and not allow_cycles:
        shown = "; ".join(
            " -> ".join(map(str, [*cycle, cycle[0]])) for cycle in cycles[:_SHOWN]
        )
        more = f" and {len(cycles) - _SHOWN} more" if len(cycles) > _SHOWN else ""
        raise InvalidDataError(
            f"graph is not acyclic: {shown}{more}. Remove an edge of each, or pass "
            "allow_cycles=True"
        )
    scale = np.maximum(A.sum(axis=0), 1.0) if normalise == "in_degree" else float(len(A))
    scaled = A / scale
    radius = float(np.abs(np.linalg.eigvals(scaled)).max(initial=0.0)) if cycles else 0.0
    if max_transfer * radius >= 1.0:
        raise InvalidDataError(
            f"graph has cycles with a gain of {max_transfer * radius:.3g} >= 1, so that states "
            "would grow without bound: use normalise='in_degree', or remove edges"
        )
    return scaled


def fixed_influence(scaled: np.ndarray, max_transfer: float) -> Any:
    """Return the powers of a scaled graph."""
    return influence_of(scaled, max_transfer)
