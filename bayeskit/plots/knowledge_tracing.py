"""A learner's states over time, a prerequisite graph, and calibration of forecasts."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeskit.plots._look import COLORS, INK, MUTED, headline, new_axes, tidy

__all__ = ["calibration", "learner_states", "prerequisite_graph"]

# Beyond so many components lines cannot be told apart.
_MAX_LINES = 6
# Where colours come again.
_LINES = ("-", "--", ":")


def learner_states(states: Any, answers: Any = None, kcs: Any = None, *, ax: Any = None) -> Any:
    """Draw the probability of a correct answer over time with its 95 % band.

    Parameters
    ----------
    states : pandas.DataFrame
        From ``KnowledgeTracer.filter`` or ``smooth``.
    answers : pandas.DataFrame, optional
        The learner's rows (time, kc, correct): correct answers are drawn above, wrong ones
        below, exposures without answer as a small mark between.
    kcs : list, optional
        Components to draw. Default: the first six.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        For a component that has no states.
    """
    known = list(states.index.get_level_values("kc").unique())
    chosen = known[:_MAX_LINES] if kcs is None else list(kcs)
    unknown = [kc for kc in chosen if kc not in known]
    if unknown:
        raise ValueError(f"there are no states of {unknown[0]!r}, only of {known}")
    ax = new_axes(7.2, 3.4) if ax is None else ax
    for number, kc in enumerate(chosen):
        color = COLORS[number % len(COLORS)]
        style = _LINES[number // len(COLORS) % len(_LINES)]
        rows = states.xs(kc, level="kc")
        times = rows.index.to_numpy()
        ax.fill_between(times, rows["lower"], rows["upper"], color=color, alpha=0.13, lw=0)
        ax.plot(times, rows["probability"], style, color=color, lw=1.6, label=str(kc))
        if answers is None:
            continue
        own = answers[answers["kc"] == kc]
        correct = own["correct"].astype(float).to_numpy()
        # Components stand a little apart, so that none hides another.
        place = np.where(np.isnan(correct), 0.5, np.where(correct == 1, 1.05, -0.05))
        place = place + 0.035 * number * np.sign(place - 0.5)
        for marker, which in (("|", ~np.isnan(correct)), (".", np.isnan(correct))):
            ax.plot(
                own["time"].to_numpy()[which], place[which], marker, color=color, markersize=7
            )
    if answers is not None:
        ax.set_yticks([-0.05, 0, 0.5, 1, 1.05], ["wrong", "0", "0.5", "1", "correct"])
        ax.get_yticklabels()[0].set_va("top")
        ax.get_yticklabels()[-1].set_va("bottom")
    ax.set_xlabel("time")
    which = f", {len(chosen)} of {len(known)} components" if len(chosen) < len(known) else ""
    headline(ax, f"probability of a correct answer, 95 % band{which if kcs is None else ''}")
    ax.legend(
        loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, labelcolor=INK, fontsize=9.5
    )
    tidy(ax)
    return ax


def prerequisite_graph(weights: Any, *, threshold: float | None = None, ax: Any = None) -> Any:
    """Draw the edges of a graph, prerequisites to the left, thicker where they are surer.

    Parameters
    ----------
    weights : pandas.DataFrame or networkx.DiGraph
        ``KnowledgeTracer.graph_``: probabilities or weights, rows to columns.
    threshold : float, optional
        Edges below it are left out. Default: 0.5 if more than half of the edges that there
        could be have some weight, as in a graph that was learned; else all are drawn.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    import networkx as nx

    if hasattr(weights, "is_directed"):
        labels = list(weights.nodes)
        table = nx.to_numpy_array(weights, nodelist=labels)
    else:
        table, labels = np.asarray(weights, float), list(weights.columns)
    if threshold is None:
        threshold = 0.5 if _is_learned(table) else 0.0
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(labels)))
    for start, end in np.argwhere((table > 0) & (table >= threshold)).tolist():
        graph.add_edge(start, end, weight=table[start, end])
    ax = new_axes(6.0, 3.6) if ax is None else ax
    places = _layered(graph)
    widths = [0.6 + 2.2 * graph.edges[edge]["weight"] for edge in graph.edges]
    nx.draw_networkx_edges(
        graph, places, ax=ax, width=widths, edge_color=MUTED, node_size=1800, arrowsize=12
    )
    box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": COLORS[0]}
    names = dict(enumerate(map(str, labels)))
    nx.draw_networkx_labels(graph, places, names, ax=ax, font_size=9, font_color=INK, bbox=box)
    ax.set_axis_off()
    ax.margins(0.12)
    if not graph.edges:
        what = f"no prerequisite of at least {threshold:g}" if threshold else "no prerequisites"
    else:
        what = f"prerequisites of at least {threshold:g}" if threshold else "prerequisites"
    headline(ax, what)
    return ax


def _is_learned(table: np.ndarray) -> bool:
    """Return whether most edges have weight: of a given graph most are just absent."""
    off = table[~np.eye(len(table), dtype=bool)]
    return bool(len(off)) and bool(np.mean(off > 0) > 0.5)


def _layered(graph: Any) -> dict[int, tuple[float, float]]:
    """Return places of nodes: from left to right by the longest path that leads to them."""
    import networkx as nx

    # Components on a cycle stand in one layer.
    condensed = nx.condensation(graph)
    places: dict[int, tuple[float, float]] = {}
    layer_of: dict[int, int] = {}
    for part in nx.topological_sort(condensed):
        before = [layer_of[p] + 1 for p in condensed.predecessors(part)]
        layer_of[part] = max(before, default=0)
    layers: dict[int, list[int]] = {}
    for part, layer in layer_of.items():
        layers.setdefault(layer, []).extend(sorted(condensed.nodes[part]["members"]))
    for layer, nodes in layers.items():
        for number, node in enumerate(nodes):
            places[node] = (float(layer), (len(nodes) - 1) / 2 - number + 0.15 * (layer % 2))
    return places


def calibration(p: Any, correct: Any, *, num_bins: int = 10, ax: Any = None) -> Any:
    """Draw the share of correct answers against the forecast, in bins of equal size.

    Parameters
    ----------
    p : array (rows,)
        Forecasts.
    correct : array (rows,)
        Answers; NaN is left out.
    num_bins : int
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        For lengths that differ, or no answers.
    """
    p, y = np.asarray(p, float), np.asarray(correct, float)
    if p.shape != y.shape or p.ndim != 1:
        raise ValueError(
            f"p and correct must be two columns alike, got {p.shape} and {y.shape}"
        )
    seen = ~np.isnan(y)
    if not seen.any():
        raise ValueError("correct has no answers: there is nothing to compare with")
    order = np.argsort(p[seen], kind="stable")
    parts = [part for part in np.array_split(order, num_bins) if len(part)]
    mean = np.array([p[seen][part].mean() for part in parts])
    share = np.array([y[seen][part].mean() for part in parts])
    error = np.array(
        [1.96 * np.sqrt(s * (1 - s) / len(q)) for s, q in zip(share, parts, strict=True)]
    )
    ax = new_axes(4.2, 4.0) if ax is None else ax
    ax.plot([0, 1], [0, 1], color=MUTED, lw=0.8)
    ax.errorbar(mean, share, error, fmt="o", color=COLORS[0], markersize=4.5, lw=1.2)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="forecast", ylabel="share correct")
    ax.set_aspect("equal")
    headline(ax, f"{len(parts)} bins of equal size, 95 % intervals")
    tidy(ax, "both")
    return ax
