"""Plots of knowledge tracing: what is drawn, and what is refused."""

import networkx as nx
import numpy as np
import pandas as pd
import pytest

from bayeskit import plots


@pytest.fixture
def states():
    index = pd.MultiIndex.from_product([[0.0, 1.0, 2.0], ["a", "b"]], names=["time", "kc"])
    p = np.linspace(0.2, 0.8, 6)
    columns = {"probability": p, "lower": p - 0.1, "upper": p + 0.1}
    return pd.DataFrame(columns, index=index)


def test_states_and_answers(states):
    answers = pd.DataFrame({"time": [0.0, 1.0, 2.0], "kc": ["a", "b", "a"]})
    answers["correct"] = [1, 0, np.nan]
    ax = plots.learner_states(states, answers)
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(lines["b"].get_ydata(), [0.32, 0.56, 0.8])
    assert len(ax.collections) == 2
    # The correct answer stands above the band, the wrong one below.
    marks = [line for line in ax.lines if line.get_marker() == "|" and len(line.get_xdata())]
    assert marks[0].get_ydata()[0] > 1.0 and marks[1].get_ydata()[0] < 0.0
    with pytest.raises(ValueError, match="no states of 'c'"):
        plots.learner_states(states, kcs=["c"])
    plots.learner_states(states, kcs=["b"], ax=ax)


def test_graph():
    names = ["a", "b", "c"]
    table = pd.DataFrame([[0, 0.9, 0.1], [0, 0, 0.6], [0.7, 0, 0]], index=names, columns=names)
    ax = plots.prerequisite_graph(table)
    assert len(ax.patches) == 3
    assert {text.get_text() for text in ax.texts} == set(names)
    assert len(plots.prerequisite_graph(table, threshold=0.8).patches) == 1
    # A given graph is drawn whole, however many prerequisites share a weight.
    given = table.assign(a=0.0, b=0.0, c=[0.5, 0.5, 0.0])
    assert len(plots.prerequisite_graph(given).patches) == 2
    assert len(plots.prerequisite_graph(nx.DiGraph([("a", "b")])).patches) == 1
    none = plots.prerequisite_graph(table, threshold=0.95)
    assert len(none.texts) == 3 and "no prerequisite" in none.get_title(loc="left")


def test_calibration():
    p, y = np.repeat([0.2, 0.8], 50), np.tile([0, 0, 0, 0, 1], 20).astype(float)
    y[50:] = 1 - y[50:]
    ax = plots.calibration(p, y, num_bins=2)
    points = ax.containers[0].lines[0].get_xydata()
    np.testing.assert_allclose(points, [[0.2, 0.2], [0.8, 0.8]])
    with pytest.raises(ValueError, match="two columns alike"):
        plots.calibration(p, y[:3])
    with pytest.raises(ValueError, match="no answers"):
        plots.calibration(p, np.full(100, np.nan))
