"""Drawings of graphs: all nodes, all edges, from box to box, and none through a third."""

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon

from bayeskit import plots
from bayeskit.plots._layers import layered


def drawn(ax):
    """Return boxes by label, lines and heads."""
    boxes = [patch for patch in ax.patches if isinstance(patch, FancyBboxPatch)]
    names = [text.get_text().replace("\n", " ") for text in ax.texts]
    lines = [patch for patch in ax.patches if isinstance(patch, PathPatch)]
    heads = [patch for patch in ax.patches if isinstance(patch, Polygon)]
    return dict(zip(names, boxes, strict=True)), lines, heads


def random_graph(num, seed=0, acyclic=True):
    rng = np.random.default_rng(seed)
    chance = 2.0 / num
    A = np.where(rng.uniform(size=(num, num)) < chance, rng.uniform(0.1, 1, (num, num)), 0.0)
    A = np.triu(A, 1) if acyclic else A - np.diag(np.diag(A))
    names = [f"component {i}" for i in rng.permutation(num)]
    return pd.DataFrame(A, index=names, columns=names)


def test_graph():
    names = ["a", "b", "c"]
    table = pd.DataFrame([[0, 0.9, 0], [0, 0, 0.6], [0.7, 0, 0]], index=names, columns=names)
    ax = plots.prerequisite_graph(table)
    boxes, lines, heads = drawn(ax)
    assert set(boxes) == set(names) and len(lines) == len(heads) == 3
    # The lightest edge of the cycle runs back.
    dashed = [line for line in lines if line.get_linestyle() != "solid"]
    assert len(dashed) == 1 and "dashed" in ax.get_title(loc="left")
    boxes, lines, _ = drawn(plots.prerequisite_graph(table, threshold=0.8))
    assert set(boxes) == set(names) and len(lines) == 1


def test_learned_and_given():
    third = pd.DataFrame(0.0, index=list("abcd"), columns=list("abcd"))
    third.loc[["a", "b", "c"], "d"] = 1 / 3
    assert len(drawn(plots.prerequisite_graph(third))[1]) == 3
    third.attrs["learned"] = True
    ax = plots.prerequisite_graph(third)
    boxes, lines, _ = drawn(ax)
    assert len(boxes) == 4 and not lines
    assert ax.get_title(loc="left") == "no prerequisite of at least 0.5: the largest is 0.33"


def test_forms():
    graph = nx.DiGraph([("place value", "addition"), ("addition", "sums")])
    graph.add_node("shapes")
    by_name = drawn(plots.prerequisite_graph(graph))
    assert set(by_name[0]) == set(graph.nodes) and len(by_name[1]) == 2
    boxes, lines, _ = drawn(plots.prerequisite_graph(nx.to_numpy_array(graph)))
    assert set(boxes) == {"0", "1", "2", "3"} and len(lines) == 2
    with pytest.raises(ValueError, match="no directions"):
        plots.prerequisite_graph(nx.Graph(graph))
    with pytest.raises(ValueError, match=r"square table.*\(2, 3\)"):
        plots.prerequisite_graph(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="got nan from 0 to 1"):
        plots.prerequisite_graph([[0.0, np.nan], [0.0, 0.0]])
    # In a panel that is there already, letters shrink with the boxes.
    ax = plots.prerequisite_graph(
        graph, ax=plots.prerequisite_graph(graph).figure.add_axes([0, 0, 0.2, 0.2])
    )
    assert ax.texts[0].get_size() < 9.0


@pytest.mark.parametrize("num", [1, 5, 8, 18, 40])
@pytest.mark.parametrize("acyclic", [True, False])
def test_drawing(num, acyclic):
    """Boxes lie apart; edges end at boxes and touch no other; prerequisites stand left."""
    table = random_graph(num, acyclic=acyclic)
    A = table.to_numpy()
    graph = nx.DiGraph()
    graph.add_nodes_from(range(num))
    graph.add_weighted_edges_from((i, k, A[i, k]) for i, k in np.argwhere(A > 0).tolist())
    sizes = {i: (40.0 + 7 * (i % 5), 20.0 + 10 * (i % 2)) for i in range(num)}
    found = layered(graph, sizes)
    assert set(found.centres) == set(graph) and set(found.paths) == set(graph.edges)
    assert not found.turned or not acyclic
    assert_tidy(found, sizes)


def assert_tidy(found, sizes):
    centre = np.array([found.centres[i] for i in sorted(sizes)])
    half = 0.5 * np.array([sizes[i] for i in sorted(sizes)])
    apart = np.abs(centre[:, None] - centre) >= half[:, None] + half + 4.0
    assert (apart.any(axis=-1) | np.eye(len(centre), dtype=bool)).all()
    low, high = centre - half, centre + half
    assert (low >= -1e-9).all() and (high <= (found.width + 1e-9, found.height + 1e-9)).all()
    for (start, end), corners in found.paths.items():
        back = (start, end) in found.turned
        assert (centre[start, 0] < centre[end, 0]) != back
        for node, corner, side in ((start, corners[0], high), (end, corners[-1], low)):
            side = (low if side is high else high) if back else side
            assert corner[0] == pytest.approx(side[node, 0])
            assert low[node, 1] < corner[1] < high[node, 1]
        way = plots.prerequisites._curve(corners).to_polygons(closed_only=False)
        points = np.concatenate(way)
        along = np.linspace(points[:-1], points[1:], 20).reshape(-1, 2)
        within = ((along[:, None] > low + 0.01) & (along[:, None] < high - 0.01)).all(axis=-1)
        assert not within.any(), f"edge {start} -> {end} runs through a box"


def test_checks_see_a_box_in_the_way():
    """The same checks fail where a shortcut is drawn as high as the box that it passes."""
    graph = nx.DiGraph()
    graph.add_weighted_edges_from([(0, 1, 1.0), (1, 2, 1.0), (0, 2, 1.0)])
    sizes = dict.fromkeys(range(3), (40.0, 20.0))
    found = layered(graph, sizes)
    assert_tidy(found, sizes)
    found.paths[0, 2][2:-2, 1] = found.centres[1][1]
    with pytest.raises(AssertionError, match="through a box"):
        assert_tidy(found, sizes)


def test_few_crossings():
    """Two chains that are given in a tangled order are drawn apart."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(6))
    edges = [(0, 3), (1, 2), (2, 5), (3, 4), (0, 4), (1, 5)]
    graph.add_weighted_edges_from((*edge, 1.0) for edge in [*edges, (2, 4)])
    found = layered(graph, dict.fromkeys(range(6), (40.0, 20.0)))
    above = np.sign(found.centres[0][1] - found.centres[1][1])
    assert above == np.sign(found.centres[3][1] - found.centres[2][1])
    assert above == np.sign(found.centres[4][1] - found.centres[5][1])


def test_heads_touch_the_boxes():
    ax = plots.prerequisite_graph(random_graph(8))
    boxes, lines, heads = drawn(ax)
    assert len(lines) == len(heads) > 4
    borders = np.array(
        [[b.get_x(), b.get_y(), b.get_y() + b.get_height()] for b in boxes.values()]
    )
    for head in heads:
        x, y = head.get_xy()[0]
        assert any(x == pytest.approx(b[0]) and b[1] < y < b[2] for b in borders)


def test_both_ways_and_round():
    graph = nx.DiGraph([("a", "b"), ("b", "a"), ("a", "a")])
    ax = plots.prerequisite_graph(graph)
    boxes, lines, _ = drawn(ax)
    assert len(boxes) == 2 and len(lines) == 3
    ends = [line.get_path().vertices[[0, -1], 1] for line in lines]
    assert len(np.unique(np.round(ends, 6))) > 2
