"""Plots return axes, label what they show, and never show themselves."""

import dataclasses
import io

import matplotlib as mpl
import numpy as np
import pytest

from bayeskit import plots
from bayeskit.inference import RandomWalk
from bayeskit.inference.bands import bands_of_draws
from bayeskit.inference.diagnostics import Diagnostics
from bayeskit.inference.posterior import Posterior
from bayeskit.validation import Level, validate

mpl.use("Agg")
import matplotlib.pyplot as plt


@pytest.fixture
def posterior():
    rng = np.random.default_rng(0)
    draws = {"a": rng.normal(size=(4, 50)), "b": rng.normal(3.0, 1.0, size=(4, 50, 2))}
    return Posterior(
        draws=draws,
        positions=np.zeros((4, 50, 3)),
        sample_stats={},
        diagnostics=Diagnostics(1.0, 200.0, 200.0, 0, 0, 0.8),
        history={
            "inverse_temperature": np.array([0.01, 0.2, 1.0]),
            "effective_sample_size": np.array([100.0, 100.0, 150.0]),
            "acceptance": np.array([0.9, 0.8, 0.7]),
        },
    )


def test_forest_has_a_row_for_each_parameter(posterior):
    axis = plots.forest(posterior)
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert len(labels) == 3
    assert "a" in labels


def test_forest_compares_results_side_by_side(posterior):
    axis = plots.forest({"one": posterior, "two": posterior})
    legend = axis.get_legend() or axis.figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two"]


def test_forest_draws_into_given_axes(posterior):
    _, axis = plt.subplots()
    assert plots.forest(posterior, parameters=["a"], ax=axis) is axis


def test_unknown_parameter(posterior):
    with pytest.raises(ValueError, match="zeta"):
        plots.forest(posterior, parameters=["zeta"])


@pytest.mark.parametrize(("num_chains", "is_named"), [(4, True), (32, False)])
def test_trace_names_chains_where_there_is_room(posterior, num_chains, is_named):
    """Names of 32 chains in a row would cover the ranks that they name."""
    draws = {"b": np.random.default_rng(1).normal(size=(num_chains, 60, 2))}
    axis = plots.trace_rank(dataclasses.replace(posterior, draws=draws), "b", (1,))
    assert len(axis.lines) == num_chains
    (above,) = (other for other in axis.figure.axes if other is not axis)
    assert (above.get_legend() is not None) == is_named
    assert axis.get_title(loc="left") == "b[1] along each chain"
    axis.figure.savefig(io.BytesIO())


def test_trace_refuses_what_is_no_single_number(posterior):
    with pytest.raises(ValueError, match=r"'b' has shape \(2,\): choose one entry"):
        plots.trace_rank(posterior, "b")


def test_smc_history_shows_every_stage(posterior):
    axis = plots.smc_history(posterior)
    lines = [line for one in axis.figure.axes for line in one.get_lines()]
    drawn = [line.get_ydata() for line in lines if len(line.get_xdata()) == 3]
    assert any(np.allclose(y, [0.01, 0.2, 1.0]) for y in drawn)
    assert any(np.allclose(y, [0.9, 0.8, 0.7]) for y in drawn)


# ---------------------------------------------------------------- reports


def test_a_report_of_statistical_tests_shows_what_failed_first():
    report = validate(RandomWalk(), models="skewed", level=Level(1, 2, 20_000, 4))
    checks = list(report.tests)
    checks[-1] = dataclasses.replace(checks[-1], passed=False, statistic=0.5)
    axis = dataclasses.replace(report, tests=tuple(checks), verdict="fail").plot(num_rows=5)
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert len(labels) == 5
    assert labels[0] == f"skewed: {checks[-1].name}"
    assert axis.get_xlabel() == "statistic, in standard errors"
    assert axis.get_title("left").startswith("fail: RandomWalk()")


def test_a_report_of_exact_checks_has_a_logarithmic_axis():
    axis = plots.validation_report(validate("multinomial"))
    assert axis.get_xscale() == "log"
    assert "discrepancy" in axis.get_xlabel()


def test_a_report_without_numbers_is_refused():
    report = validate("multinomial")
    with pytest.raises(ValueError, match="no number to draw"):
        dataclasses.replace(report, tests=()).plot()


def test_what_is_infinite_is_drawn_far_out_and_stored_as_nothing():
    report = validate("multinomial")
    checks = (dataclasses.replace(report.tests[0], discrepancy=np.inf, passed=False),)
    report = dataclasses.replace(report, tests=checks, verdict="fail")
    assert report.plot().get_xlim()[1] >= 1e3
    assert report.to_dict()["tests"][0]["discrepancy"] is None
    with pytest.raises(ValueError, match="num_rows must be at least 1"):
        report.plot(num_rows=0)


# ---------------------------------------------------------------- states over time


def test_states_over_time():
    rng = np.random.default_rng(0)
    bands = bands_of_draws({"x": rng.normal(size=(200, 30, 2))}, np.arange(30))
    ahead = bands_of_draws({"x": rng.normal(size=(200, 5, 2))}, np.arange(30, 35))
    y = np.where(np.arange(30) == 3, np.nan, rng.normal(size=30))
    _, axis = plt.subplots()
    drawn = plots.states_over_time(bands, "x[1]", observations=y, forecast=ahead, ax=axis)
    assert drawn is axis
    median, after, seen = axis.get_lines()
    np.testing.assert_array_equal(median.get_ydata(), bands.loc["x[1]"]["median"])
    assert after.get_xdata().tolist() == list(range(30, 35))
    np.testing.assert_array_equal(seen.get_ydata(), y)
    low = axis.collections[0].get_paths()[0].vertices[:, 1].min()
    assert low == pytest.approx(bands.loc["x[1]"]["5%"].min())
    assert plots.states_over_time(bands).get_title(loc="left") == "x[0]"
    with pytest.raises(ValueError, match="there is no variable 'z'"):
        plots.states_over_time(bands, "z")
    with pytest.raises(ValueError, match="observations must be one column"):
        plots.states_over_time(bands, observations=np.zeros((30, 2)))


# ---------------------------------------------------------------- functional tensors


def test_factor_functions_have_bands_in_the_order_of_the_grid():
    grid = np.array([2.0, 0.0, 1.0])
    mean = np.array([[2.0, -2.0], [0.0, 0.0], [1.0, -1.0]])
    std = np.full((3, 2), 0.5)
    _, axis = plt.subplots()
    assert plots.factor_functions(grid, mean, std, names=["a", "b"], label="t", ax=axis) is axis
    _, first, second = axis.get_lines()
    assert first.get_xdata().tolist() == [0.0, 1.0, 2.0]
    assert second.get_ydata().tolist() == [0.0, -1.0, -2.0]
    low = axis.collections[0].get_paths()[0].vertices[:, 1].min()
    assert low == pytest.approx(-0.5 * 1.6448536269514722)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]
    assert axis.get_xlabel() == "t"
    with pytest.raises(ValueError, match=r"shapes \(3, 2\) and \(3, 1\) for 3 points"):
        plots.factor_functions(grid, mean, std[:, :1])


def test_functions_of_a_category_are_points_side_by_side():
    grid = np.arange(40.0)
    mean = np.zeros((40, 2))
    axis = plots.factor_functions(grid, mean, mean + 1.0, joined=False)
    assert len(axis.get_xticks()) <= 15
    (_, one, two) = axis.get_lines()
    assert (np.abs(one.get_xdata() - two.get_xdata()) == 0.25).all()


def test_core_entries():
    bars = plots.core_entries(np.array([2.0, 0.5]))
    assert [bar.get_width() for bar in bars.patches] == [2.0, 0.5]
    core = np.arange(-11.0, 13.0).reshape(2, 3, 4)
    axis = plots.core_entries(core, names=["a", "b", "c"])
    np.testing.assert_array_equal(axis.images[0].get_array(), core.reshape(2, 12))
    assert axis.images[0].get_clim() == (-12.0, 12.0)
    assert axis.get_xticklabels()[5].get_text() == "1, 1"
    assert axis.get_xlabel() == "function of b, c"
    assert {text.get_text() for text in axis.texts} >= {"−11", "0", "12"}
    assert np.isfinite(plots.core_entries(np.zeros((2, 2))).images[0].get_clim()).all()
    with pytest.raises(ValueError, match="array with entries"):
        plots.core_entries(np.zeros((2, 0)))


def test_observed_predicted_counts_what_is_outside():
    y = np.array([0.0, 1.0, np.nan, 9.0])
    mean = np.arange(4.0)
    axis = plots.observed_predicted(y, mean, mean - 1.5, mean + 1.5)
    names = [text.get_text() for text in axis.get_legend().get_texts()]
    assert names == ["inside of the interval (2)", "outside (1)"]
    with pytest.raises(ValueError, match="one value for each row"):
        plots.observed_predicted(y, mean[:2], mean, mean)


def test_bound_over_rounds():
    axis = plots.bound_over_rounds([-10.0, -5.0, -4.0, -4.5, -4.0])
    (line,) = axis.get_lines()
    assert line.get_ydata().tolist() == [6.0, 1.0, 0.5]
    assert axis.get_title("left") == "nats below the last lower bound, -4.0"
    plots.bound_over_rounds([3.0]).figure.savefig(io.BytesIO())
    with pytest.raises(ValueError, match="one value for each round"):
        plots.bound_over_rounds(np.zeros((2, 2)))


def test_regressions_on_predicted_labels():
    import pandas as pd

    table = pd.DataFrame(
        {"estimate": [1.0, 2.0], "lower": [0.5, 1.0], "upper": [1.5, 3.0]}, index=["x", "z"]
    )
    both = pd.concat({"dsl": table, "gold": table + 0.1}, names=["method", "term"])
    ax = plots.compare_coefficients(both, truth={"x": 1.2})
    assert [t.get_text() for t in ax.get_yticklabels()] == ["x", "z"]
    names = [t.get_text() for t in ax.get_legend().get_texts()]
    assert names == ["DSL", "labels alone", "truth"]
    assert len(ax.get_lines()) == 3  # the axis of zero and the points of both methods
    sizes = pd.DataFrame({"x": [0.3, 0.2, 0.1]}, index=[100, 200, 400])
    ax = plots.power_curve(sizes, target_se=0.15)
    assert ax.get_ylim()[0] == 0.0
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), [0.3, 0.2, 0.1])
    rng = np.random.default_rng(0)
    guess = rng.random(500)
    given = plt.subplots()[1]
    ax = plots.label_errors(guess, rng.random(500) < guess, ax=given, num_groups=5)
    assert ax is given
    points = ax.containers[0].lines[0].get_xydata()
    np.testing.assert_allclose(points[:, 0], [0.1, 0.3, 0.5, 0.7, 0.9], atol=0.05)
    assert "500 labelled rows in 5 groups" in ax.get_title(loc="left")
