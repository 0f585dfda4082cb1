"""Plots of knowledge tracing: what is drawn, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from bayeskit import plots


@pytest.fixture
def states():
    return states_of(["a", "b"])


def states_of(kcs, times=(0.0, 1.0, 2.0)):
    index = pd.MultiIndex.from_product([times, kcs], names=["time", "kc"])
    p = np.linspace(0.2, 0.8, len(index))
    columns = {"probability": p, "lower": p - 0.1, "upper": p + 0.1}
    return pd.DataFrame(columns, index=index)


def marks_of(ax):
    return [line for line in ax.lines if line.get_marker() == "|" and len(line.get_xdata())]


def test_states_and_answers(states):
    answers = pd.DataFrame({"time": [0.0, 1.0, 2.0], "kc": ["a", "b", "a"]})
    answers["correct"] = [1, 0, np.nan]
    ax = plots.learner_states(states, answers)
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(lines["b"].get_ydata(), [0.32, 0.56, 0.8])
    assert len(ax.collections) == 2
    # The correct answer stands above the band, the wrong one below.
    marks = marks_of(ax)
    assert marks[0].get_ydata()[0] > 1.0 and marks[1].get_ydata()[0] < 0.0
    with pytest.raises(ValueError, match="no states of 'c'"):
        plots.learner_states(states, kcs=["c"])
    plots.learner_states(states, kcs=["b"], ax=ax)


def test_many_components_differ_and_are_told_of():
    names = [f"kc {i}" for i in range(18)]
    states = states_of(names)
    ax = plots.learner_states(states, kcs=names)
    looks = {(line.get_color(), str(line._dash_pattern)) for line in ax.lines}
    assert len(looks) == 18
    assert "components" not in ax.get_title(loc="left")
    first = plots.learner_states(states)
    assert len(first.lines) == 6 and "6 of 18 components" in first.get_title(loc="left")
    more = states_of([*names, "kc 18"])
    with pytest.raises(ValueError, match="19 components, more than 18"):
        plots.learner_states(more, kcs=[*names, "kc 18"])


def test_answers_of_several_components(states):
    answers = {"time": [0.0, 1.0], "kc": [["a", "b"], "b"], "correct": [1, None]}
    marks = marks_of(plots.learner_states(states, answers))
    assert [mark.get_xdata().tolist() for mark in marks] == [[0.0], [0.0]]
    assert marks[0].get_ydata() != marks[1].get_ydata()
    with pytest.raises(ValueError, match="2 learners, such as 3 and 4"):
        plots.learner_states(states, answers | {"learner": [3, 4]})


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_dates(zone):
    local = pd.date_range("2026-03-01", periods=3, tz=zone)
    given = local if zone is None else local.tz_convert("UTC")
    states = states_of(["a", "b"], given)
    answers = pd.DataFrame({"time": local, "kc": "a", "correct": [1, 0, 1]})
    ax = plots.learner_states(states, answers)
    line = next(line for line in ax.lines if line.get_label() == "a")
    seen = np.sort(np.concatenate([m.get_xdata(orig=False) for m in marks_of(ax)]))
    np.testing.assert_allclose(seen, line.get_xdata(orig=False))
    assert ax.get_xlabel() == ("time" if zone is None else "time (UTC)")
    ax.figure.canvas.draw()
    assert "2026" in ax.xaxis.get_offset_text().get_text()
    with pytest.raises(
        ValueError, match="states have dates as times, but answers have numbers"
    ):
        plots.learner_states(states, answers.assign(time=1.0))
    with pytest.raises(ValueError, match="states have numbers"):
        plots.learner_states(states_of(["a"]), answers)


def test_calibration():
    p, y = np.repeat([0.2, 0.8], 50), np.tile([0, 0, 0, 0, 1], 20).astype(float)
    y[50:] = 1 - y[50:]
    ax = plots.calibration(p, y, num_bins=2)
    points = ax.containers[0].lines[0].get_xydata()
    np.testing.assert_allclose(points, [[0.2, 0.2], [0.8, 0.8]])
    # Wilson's interval of 10 in 50.
    low, high = ax.containers[0].lines[2][0].get_segments()[0][:, 1]
    np.testing.assert_allclose([low, high], [0.112437, 0.330373], atol=1e-4)
    with pytest.raises(ValueError, match="two columns alike"):
        plots.calibration(p, y[:3])
    with pytest.raises(ValueError, match="no answers"):
        plots.calibration(p, np.full(100, np.nan))
    with pytest.raises(ValueError, match="p is 5 at row 0"):
        plots.calibration(np.full(100, 5.0), y)
    with pytest.raises(ValueError, match="correct is 2 at row 3"):
        plots.calibration(p, np.where(np.arange(100) == 3, 2.0, y))
    with pytest.raises(ValueError, match="num_bins"):
        plots.calibration(p, y, num_bins=0)
