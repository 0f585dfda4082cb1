"""A prerequisite graph: boxes in layers, arrows from each component to what builds on it."""

from __future__ import annotations

import textwrap
from itertools import pairwise
from typing import Any

import numpy as np

from bayeskit.plots._layers import Drawing, layered
from bayeskit.plots._look import COLORS, INK, MUTED, headline, new_axes, plain

__all__ = ["prerequisite_graph"]

# Points: letters, the box around a label, the rim around all.
_FONT_SIZE = 9.0
_PADDING = 6.0
_MARGIN = 10.0
_LINE_LENGTH = 14
_HEAD = 7.0
_POINTS = 72.0
# Inches of a new figure: larger drawings are scaled down, as long as letters can be read.
_WIDEST, _HIGHEST = 16.0, 12.0
_SMALLEST_SCALE = 0.6
_LARGEST = 60.0
_NARROWEST, _LOWEST = 3.5, 0.8
# Of a learned graph, edges that are likelier than not.
_LIKELY = 0.5


def prerequisite_graph(graph: Any, *, threshold: float | None = None, ax: Any = None) -> Any:
    """Draw a graph, prerequisites to the left, edges thicker where they are surer or stronger.

    Every component is drawn; those without an edge stand below. Dashed edges from right
    to left close a cycle with heavier ones.

    Parameters
    ----------
    graph : pandas.DataFrame, networkx.DiGraph or (num_kc, num_kc) array
        ``KnowledgeTracer.graph_``, or a graph as given to the tracer: probabilities or weights,
        rows to columns.
    threshold : float, optional
        Edges below it are left out. Default: 0.5 for the probabilities of a learned ``graph_``,
        and all edges otherwise.
    ax : matplotlib Axes, optional
        Default: those of a new figure, as large as the graph needs.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        For a table that is not square, weights that are not finite or negative, and graphs
        without directions.

    Examples
    --------
    >>> import networkx as nx
    >>> from bayeskit import plots
    >>> ax = plots.prerequisite_graph(nx.DiGraph([("sums", "products"), ("sums", "equations")]))
    >>> len(ax.texts)
    3
    """
    import networkx as nx

    weights, labels, learned = _weights_of(graph)
    if threshold is None:
        threshold = _LIKELY if learned else 0.0
    drawn = nx.DiGraph()
    drawn.add_nodes_from(range(len(labels)))
    chosen = (weights > 0) & (weights >= threshold)
    drawn.add_weighted_edges_from(
        (i, k, weights[i, k]) for i, k in np.argwhere(chosen).tolist()
    )
    names = {node: _wrapped(label) for node, label in enumerate(labels)}
    drawing = layered(drawn, {node: _box_size(name) for node, name in names.items()})
    ax = _sheet(drawing) if ax is None else ax
    scale = _scaled_to(ax, drawing)
    _draw_edges(ax, drawn, drawing, scale)
    _draw_boxes(ax, names, drawing, scale)
    headline(ax, _title(weights, threshold, drawn, drawing))
    return ax


def _weights_of(graph: Any) -> tuple[np.ndarray, list, bool]:
    """Return the weights (nodes, nodes), the labels, and whether they are probabilities."""
    learned = False
    if hasattr(graph, "is_directed"):
        import networkx as nx

        if not graph.is_directed():
            raise ValueError("graph has no directions: give a networkx.DiGraph")
        labels = list(graph.nodes)
        weights = nx.to_numpy_array(graph, nodelist=labels, weight="weight")
    else:
        weights = np.asarray(graph, float)
        if weights.ndim != 2 or weights.shape[0] != weights.shape[1]:
            raise ValueError(
                "graph must be a square table of weights, rows to columns, got shape "
                f"{weights.shape}"
            )
        labels = list(getattr(graph, "columns", range(len(weights))))
        learned = bool(getattr(graph, "attrs", {}).get("learned", False))
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        i, k = np.argwhere(bad)[0].tolist()
        raise ValueError(
            f"weights must be finite and not negative, got {weights[i, k]:g} from "
            f"{labels[i]!r} to {labels[k]!r}"
        )
    return weights, labels, learned


def _wrapped(label: Any) -> str:
    lines = textwrap.wrap(str(label), _LINE_LENGTH, break_long_words=False)
    return "\n".join(map(plain, lines)) or " "


def _box_size(name: str) -> tuple[float, float]:
    """Return width and height of the box around a name, in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(size=_FONT_SIZE)
    lines = name.split("\n")
    widths = [TextPath((0, 0), line, prop=font).get_extents().width for line in lines]
    return max(*widths, _FONT_SIZE) + 2 * _PADDING, (
        1.2 * _FONT_SIZE * len(lines) + 1.2 * _PADDING
    )


def _sheet(drawing: Drawing) -> Any:
    """Return new Axes that are as large as the drawing, if that is not too large."""
    width, height = ((x + 2 * _MARGIN) / _POINTS for x in (drawing.width, drawing.height))
    shrink = min(1.0, max(_SMALLEST_SCALE, min(_WIDEST / width, _HIGHEST / height)))
    shrink = min(shrink, _LARGEST / width, _LARGEST / height)
    return new_axes(max(shrink * width, _NARROWEST) + 0.1, max(shrink * height, _LOWEST) + 0.4)


def _scaled_to(ax: Any, drawing: Drawing) -> float:
    """Set limits in points of the drawing, and return how many points on paper each is."""
    ax.set_axis_off()
    ax.set_aspect("equal", anchor="W")
    ax.set_xlim(-_MARGIN, drawing.width + _MARGIN)
    ax.set_ylim(-_MARGIN, drawing.height + _MARGIN)
    # So that constrained layout tells how large the panel is.
    ax.figure.draw_without_rendering()
    ends = ax.transData.transform([(0.0, 0.0), (1.0, 0.0)])
    scale = float(ends[1, 0] - ends[0, 0]) * _POINTS / ax.figure.dpi
    if scale > 1.0:
        # Letters are no larger than elsewhere.
        for axis, size in (("x", drawing.width), ("y", drawing.height)):
            middle, reach = 0.5 * size, (0.5 * size + _MARGIN) * scale
            getattr(ax, f"set_{axis}lim")(middle - reach, middle + reach)
        scale = 1.0
    return scale


def _draw_edges(ax: Any, graph: Any, drawing: Drawing, scale: float) -> None:
    from matplotlib.patches import PathPatch, Polygon

    for (start, end), corners in drawing.paths.items():
        turned = (start, end) in drawing.turned
        color = COLORS[1] if turned else MUTED
        width = 0.6 + 1.1 * min(graph.edges[start, end]["weight"], 1.0)
        along = (corners[-1] - corners[-2]) / np.linalg.norm(corners[-1] - corners[-2])
        base = corners[-1] - _HEAD * along
        across = (0.25 * _HEAD + 0.6 * width) * np.array([-along[1], along[0]])
        # The line ends within the head, whose tip lies on the border of the box.
        line = np.vstack([corners[:-1], base])
        ax.add_patch(
            PathPatch(
                _curve(line),
                fill=False,
                linewidth=width * scale,
                linestyle=(0, (4, 2)) if turned else "solid",
                edgecolor=color,
                capstyle="butt",
                zorder=1,
            )
        )
        head = Polygon([corners[-1], base + across, base - across], facecolor=color, zorder=1.5)
        ax.add_patch(head)


def _curve(corners: np.ndarray) -> Any:
    """Return a path through the corners: a line, a curve that starts and ends level, a line."""
    from matplotlib.path import Path

    points, codes = [corners[0]], [Path.MOVETO]
    for number, (a, b) in enumerate(pairwise(corners)):
        if number % 2 == 0:
            points.append(b)
            codes.append(Path.LINETO)
        else:
            middle = 0.5 * (a[0] + b[0])
            points += [(middle, a[1]), (middle, b[1]), b]
            codes += [Path.CURVE4] * 3
    return Path(points, codes)


def _draw_boxes(ax: Any, names: dict, drawing: Drawing, scale: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    for node, (x, y) in drawing.centres.items():
        width, height = _box_size(names[node])
        box = FancyBboxPatch(
            (x - 0.5 * width, y - 0.5 * height),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=4",
            facecolor="white",
            edgecolor=COLORS[0],
            linewidth=scale,
            zorder=2,
        )
        ax.add_patch(box)
        size = _FONT_SIZE * scale
        ax.text(x, y, names[node], ha="center", va="center", size=size, color=INK, zorder=3)


def _title(weights: np.ndarray, threshold: float, graph: Any, drawing: Drawing) -> str:
    of_at_least = f" of at least {threshold:g}" if threshold > 0 else ""
    if not graph.number_of_edges():
        most = f": the largest is {weights.max():.2g}" if (weights > 0).any() else ""
        return f"no prerequisite{of_at_least}{most}"
    return f"prerequisites{of_at_least}" + (
        "; dashed: closes a cycle" if drawing.turned else ""
    )
