"""Places for the nodes and edges of a directed graph, layer by layer from left to right.

The steps of Sugiyama, Tagawa & Toda (1981), *Methods for visual understanding of hierarchical
system structures*: edges that close a cycle are turned round; a node stands one layer behind
the last that leads to it; an edge over several layers gets a place of its own in each, so that
it passes between boxes; layers are ordered by the means of their neighbours, and the order with
the fewest crossings is kept.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Drawing", "layered"]

# In points, as all lengths here.
_ROW_GAP = 13.0
_LINE_HEIGHT = 9.0
_LAYER_GAP = 26.0
# Edges are level on so much of their way before and behind a box.
_STUB = 11.0
# Between the places on a box where edges start and end.
_PORT_GAP = 7.0
# Layers stand wider apart by this share of the height that an edge climbs between them.
_SLOPE, _MOST_SLOPE = 0.3, 60.0
_SWEEPS = 24
# Separate parts of a graph: how far apart, and how much wider than high all of them shall be.
_PART_GAP = 22.0
_ASPECT = 2.5


class Drawing(NamedTuple):
    """Where things stand.

    Parameters
    ----------
    centres : dict of node to (x, y)
        From the lower left corner.
    paths : dict of edge to (points, 2) array
        Corners from box to box, to be joined by lines and curves in turn.
    turned : set of edges
        Those that close a cycle: they run from right to left.
    width, height : float
    """

    centres: dict
    paths: dict
    turned: set
    width: float
    height: float


def layered(graph: Any, sizes: dict) -> Drawing:
    """Return places of the nodes and edges of a ``networkx.DiGraph``.

    Parameters
    ----------
    graph : networkx.DiGraph
        Edges with an attribute ``weight``; of a cycle the lightest edge is turned round.
    sizes : dict of node to (width, height)
        Of the boxes, in points.
    """
    import networkx as nx

    parts = [graph.subgraph(nodes) for nodes in nx.weakly_connected_components(graph)]
    drawings = [_part(part, sizes) for part in parts]
    # In rows from left to right, the highest parts first.
    drawings.sort(key=lambda d: (-len(d.centres), -d.height))
    area = sum((d.width + _PART_GAP) * (d.height + _PART_GAP) for d in drawings)
    width = max([d.width for d in drawings] + [(_ASPECT * area) ** 0.5])
    x = y = lowest = widest = 0.0
    centres: dict = {}
    paths: dict = {}
    for drawing in drawings:
        if x + drawing.width > width:
            x, y = 0.0, lowest - (_PART_GAP if len(drawing.centres) > 1 else _ROW_GAP)
        shift = np.array([x, y - drawing.height])
        centres |= {n: tuple(place + shift) for n, place in drawing.centres.items()}
        paths |= {edge: path + shift for edge, path in drawing.paths.items()}
        widest, lowest = max(widest, x + drawing.width), min(lowest, y - drawing.height)
        x += drawing.width + (_PART_GAP if len(drawing.centres) > 1 else _ROW_GAP)
    return Drawing(
        {node: (x, y - lowest) for node, (x, y) in centres.items()},
        {edge: path - (0.0, lowest) for edge, path in paths.items()},
        set().union(*(drawing.turned for drawing in drawings)),
        widest,
        -lowest,
    )


def _part(graph: Any, sizes: dict) -> Drawing:
    """Return the drawing of a graph that hangs together."""
    forward, turned = _without_cycles(graph)
    layers, chains = _with_places(graph, forward, turned)
    layers = _ordered(layers, chains)
    y = _heights(layers, chains, {node: sizes[node][1] for node in graph})
    centres, left, right = _columns(layers, chains, y, sizes)
    paths = _paths(chains, centres, y, left, right, sizes)
    paths = {edge: path[::-1] if edge in turned else path for edge, path in paths.items()}
    paths |= {(n, n): _loop(centres[n], sizes[n]) for n in graph if graph.has_edge(n, n)}
    ends = [y[n] + sign * 0.5 * sizes[n][1] for n in graph for sign in (-1, 1)]
    ends += [float(height) for path in paths.values() for height in path[:, 1]]
    shift = np.array([0.0, -min(ends)])
    return Drawing(
        {node: np.add(place, shift) for node, place in centres.items()},
        {edge: path + shift for edge, path in paths.items()},
        turned,
        right[-1],
        max(ends) - min(ends),
    )


def _without_cycles(graph: Any) -> tuple[Any, set]:
    """Return the graph with some edges turned round, and those edges."""
    import networkx as nx

    if nx.is_directed_acyclic_graph(graph):
        return graph, set()
    forward, turned = nx.DiGraph(), set()
    forward.add_nodes_from(graph)
    for start, end, _ in sorted(graph.edges(data="weight"), key=lambda edge: -edge[2]):
        # There is a path from each node to itself.
        if nx.has_path(forward, end, start):
            turned.add((start, end))
        else:
            forward.add_edge(start, end)
    forward.add_edges_from((end, start) for start, end in turned if start != end)
    return forward, turned


def _with_places(graph: Any, forward: Any, turned: set) -> tuple[list[list], dict]:
    """Return the layers, and the chain of nodes and places that each edge leads through."""
    import networkx as nx

    layer_of: dict = {}
    for node in nx.topological_sort(forward):
        layer_of[node] = max((layer_of[p] + 1 for p in forward.predecessors(node)), default=0)
    # What has no prerequisites stands next to what it leads to.
    for node in forward:
        if not forward.in_degree(node) and forward.out_degree(node):
            layer_of[node] = min(layer_of[s] for s in forward.successors(node)) - 1
    layers: list[list] = [[] for _ in range(max(layer_of.values()) + 1)]
    for node in forward:
        layers[layer_of[node]].append(node)
    chains = {}
    for edge in graph.edges:
        start, end = edge[::-1] if edge in turned else edge
        if start == end:
            continue
        between = []
        for layer in range(layer_of[start] + 1, layer_of[end]):
            between.append((*edge, layer))
            layers[layer].append(between[-1])
        chains[edge] = [start, *between, end]
    return layers, chains


def _neighbours(chains: dict) -> tuple[dict, dict]:
    """Return for each node and place those one layer before, and one layer behind."""
    before: dict = {}
    behind: dict = {}
    for chain in chains.values():
        for first, second in pairwise(chain):
            behind.setdefault(first, []).append(second)
            before.setdefault(second, []).append(first)
    return before, behind


def _crossings(layers: list[list], behind: dict) -> int:
    number = 0
    for layer, following in pairwise(layers):
        rank = {node: i for i, node in enumerate(following)}
        ends = [(i, rank[b]) for i, node in enumerate(layer) for b in behind.get(node, [])]
        a, b = np.array(ends, int).reshape(-1, 2).T
        number += int(((a[:, None] < a) & (b[:, None] > b)).sum())
    return number


def _ordered(layers: list[list], chains: dict) -> list[list]:
    """Return the layers in an order with few crossings."""
    before, behind = _neighbours(chains)
    best, fewest = layers, _crossings(layers, behind)
    now = [list(layer) for layer in layers]
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        known = before if down else behind
        order = range(1, len(now)) if down else range(len(now) - 2, -1, -1)
        for number in order:
            beside = now[number - 1 if down else number + 1]
            rank = {node: i / max(len(beside) - 1, 1) for i, node in enumerate(beside)}
            size = max(len(now[number]) - 1, 1)
            place = {
                node: np.mean([rank[b] for b in known[node]]) if node in known else i / size
                for i, node in enumerate(now[number])
            }
            now[number].sort(key=place.__getitem__)
        crossings = _crossings(now, behind)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in now], crossings
    return _exchanged(best, behind, before)


def _exchanged(layers: list[list], behind: dict, before: dict) -> list[list]:
    """Return the layers with neighbours exchanged while that takes crossings away."""
    rank = {node: i for layer in layers for i, node in enumerate(layer)}

    def cost(first: Any, second: Any) -> int:
        return sum(
            rank[a] > rank[b]
            for known in (before, behind)
            for a in known.get(first, [])
            for b in known.get(second, [])
        )

    improved = True
    while improved:
        improved = False
        for layer in layers:
            for i in range(len(layer) - 1):
                first, second = layer[i], layer[i + 1]
                if cost(second, first) < cost(first, second):
                    layer[i], layer[i + 1] = second, first
                    rank[first], rank[second] = i + 1, i
                    improved = True
    return layers


def _heights(layers: list[list], chains: dict, heights: dict) -> dict:
    """Return y of each node and place: near the mean of its neighbours, none on another.

    The nearest heights that keep the order are an isotonic regression.
    """
    from scipy.optimize import isotonic_regression

    before, behind = _neighbours(chains)
    size = lambda node: heights.get(node, _LINE_HEIGHT)
    offsets: list = []
    y: dict = {}
    for layer in layers:
        gaps = [
            0.5 * (size(a) + size(b)) + (_ROW_GAP if a in heights or b in heights else 0.0)
            for a, b in pairwise(layer)
        ]
        offset = -np.r_[0.0, np.cumsum(gaps)]
        offsets.append(offset)
        y |= dict(zip(layer, offset - offset.mean(), strict=True))
    for sweep in range(_SWEEPS if chains else 0):
        down = sweep % 2 == 0
        for number in range(len(layers)) if down else range(len(layers) - 1, -1, -1):
            layer, offset = layers[number], offsets[number]
            beside = [before.get(n, []) + behind.get(n, []) for n in layer]
            wanted = [np.mean([y[b] for b in known]) for known in beside]
            # Long edges are to be straight, first of all.
            weights = [1.0 if node in heights else 4.0 for node in layer]
            fit = isotonic_regression(wanted - offset, weights=weights, increasing=False)
            y |= dict(zip(layer, fit.x + offset, strict=True))
    return y


def _columns(layers: list[list], chains: dict, y: dict, sizes: dict) -> tuple[dict, list, list]:
    """Return the centres of the boxes, and where each layer begins and ends."""
    _, behind = _neighbours(chains)
    centres: dict = {}
    left: list = []
    right: list = []
    x = 0.0
    for layer in layers:
        wide = max((sizes[node][0] for node in layer if node in sizes), default=0.0)
        left.append(x)
        right.append(x + wide)
        centres |= {node: (x + 0.5 * wide, y[node]) for node in layer if node in sizes}
        climb = max((abs(y[b] - y[n]) for n in layer for b in behind.get(n, [])), default=0.0)
        x += wide + 2 * _STUB + _LAYER_GAP + min(_SLOPE * climb, _MOST_SLOPE)
    return centres, left, right


def _paths(
    chains: dict, centres: dict, y: dict, left: list, right: list, sizes: dict
) -> dict[Any, np.ndarray]:
    """Return the corners of each edge, from the side of one box to the side of the other."""
    starts = _ports([(chain[0], y[chain[1]], edge) for edge, chain in chains.items()], sizes)
    ends = _ports([(chain[-1], y[chain[-2]], edge) for edge, chain in chains.items()], sizes)
    paths = {}
    for edge, chain in chains.items():
        start, end = chain[0], chain[-1]
        layer = int(np.searchsorted(left, centres[start][0], side="right")) - 1
        height = y[start] + starts[edge]
        corners = [
            (centres[start][0] + 0.5 * sizes[start][0], height),
            (right[layer] + _STUB, height),
        ]
        for number, node in enumerate(chain[1:-1], layer + 1):
            corners += [(left[number] - _STUB, y[node]), (right[number] + _STUB, y[node])]
        height = y[end] + ends[edge]
        corners += [
            (left[layer + len(chain) - 1] - _STUB, height),
            (centres[end][0] - 0.5 * sizes[end][0], height),
        ]
        paths[edge] = np.array(corners)
    return paths


def _ports(edges: list[tuple], sizes: dict) -> dict:
    """Return how far from the middle of its box each edge starts, in order of their ends."""
    groups: dict = {}
    for node, height, edge in edges:
        groups.setdefault(node, []).append((height, edge))
    ports = {}
    for node, group in groups.items():
        group.sort(key=lambda pair: -pair[0])
        step = min(_PORT_GAP, 0.75 * sizes[node][1] / max(len(group) - 1, 1))
        for i, (_, edge) in enumerate(group):
            ports[edge] = step * (0.5 * (len(group) - 1) - i)
    return ports


def _loop(centre: tuple, size: tuple) -> np.ndarray:
    """Return the corners of an edge from a box to itself, above it."""
    x, top = centre[0], centre[1] + 0.5 * size[1]
    reach = min(0.3 * size[0], 16.0)
    return np.array(
        [(x + reach, top), (x + reach, top + 9), (x - reach, top + 9), (x - reach, top)]
    )
