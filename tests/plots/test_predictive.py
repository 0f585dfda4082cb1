"""Posterior predictive checks: bars, bands and lines against counts made another way."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from bayeskit import plots
from bayeskit.inference.diagnostics import Diagnostics
from bayeskit.inference.posterior import Posterior
from bayeskit.interop.arviz import to_arviz


def groups(observed, replicas, name="y"):
    return to_arviz(
        {
            "posterior": {"a": replicas[..., 0]},
            "posterior_predictive": {name: replicas},
            "observed_data": {name: observed},
        }
    )


def test_counts_of_data_and_of_replicas():
    rng = np.random.default_rng(0)
    observed, replicas = rng.poisson(2.0, 80), rng.poisson(3.0, (2, 100, 80))
    _, given = plt.subplots()
    ax = plots.posterior_predictive(groups(observed, replicas), ax=given)
    assert ax is given
    bars = {round(b.get_x() + 0.5 * b.get_width()): b.get_height() for b in ax.patches}
    (dots,) = ax.get_lines()
    (intervals,) = ax.collections
    for i, segment in enumerate(intervals.get_segments()):
        number = segment[0, 0]
        assert bars[number] == np.sum(observed == number)
        tallies = np.sum(replicas.reshape(200, 80) == number, axis=1)
        low, middle, high = np.quantile(tallies, [0.05, 0.5, 0.95])
        assert segment[:, 1] == pytest.approx([low, high])
        assert dots.get_xydata()[i] == pytest.approx([number, middle])
    assert ax.get_xlabel() == "y"
    flags = groups(observed > 1, replicas > 1)
    assert [bar.get_height() for bar in plots.posterior_predictive(flags).patches] == [
        np.sum(observed <= 1),
        np.sum(observed > 1),
    ]


def test_distribution_functions_and_their_band():
    rng = np.random.default_rng(0)
    observed, replicas = rng.normal(size=60), rng.normal(size=(300, 60))
    ax = plots.posterior_predictive({"y": replicas}, observed=observed, kind="ecdf")
    middle, data = ax.get_lines()
    x, share = data.get_data()
    for i in (50, 200, 350):
        assert share[i] == np.mean(observed <= x[i])
        shares = np.mean(replicas <= x[i], axis=1)
        assert middle.get_ydata()[i] == pytest.approx(np.quantile(shares, 0.5))
    corners = ax.collections[0].get_paths()[0].vertices
    at = corners[np.isclose(corners[:, 0], x[200]), 1]
    low, high = np.quantile(shares := np.mean(replicas <= x[200], axis=1), [0.05, 0.95])
    assert np.isclose(at, low).any()
    assert np.isclose(at, high).any()
    assert low < np.median(shares) < high


def test_densities_show_a_model_that_does_not_fit():
    """Data from a law that the replicas do not have: the check sees it, and no other."""
    rng = np.random.default_rng(0)
    replicas = rng.normal(size=(1, 200, 400))

    def share_outside(observed):
        ax = plots.posterior_predictive(groups(observed, replicas))
        *lines, data = ax.get_lines()
        assert len(lines) == 50
        at = np.linspace(-2.0, 2.0, 41)
        heights = [np.interp(at, *line.get_data()) for line in lines]
        seen = np.interp(at, *data.get_data())
        return np.mean((seen < np.min(heights, 0)) | (seen > np.max(heights, 0)))

    assert share_outside(rng.normal(size=400)) < 0.2
    assert share_outside(rng.standard_t(1.5, size=400)) > 0.3


def test_the_kind_follows_from_the_data():
    rng = np.random.default_rng(0)
    kind_of = lambda observed, replicas: plots.posterior_predictive(
        {"y": replicas}, observed=observed
    ).get_title(loc="left")
    assert kind_of(rng.normal(size=40), rng.normal(size=(9, 40))) == "densities"
    assert kind_of(rng.normal(size=4), rng.normal(size=(9, 4))).startswith("share of values")
    counts = rng.poisson(3.0, (10, 40))
    # Counts may come as floating-point numbers.
    assert kind_of(counts[0].astype(float), counts[1:]).startswith("how often")
    counts = rng.poisson(900.0, (10, 40))
    assert kind_of(counts[0], counts[1:]).startswith("share of values")


def test_what_was_not_observed_is_left_out_of_replicas_too():
    observed = np.array([1.0, np.nan, 2.0, 1.0])
    replicas = np.tile([1, 5, 2, 1], (20, 1))
    ax = plots.posterior_predictive({"y": replicas}, observed=observed)
    assert [bar.get_height() for bar in ax.patches] == [2, 1]
    # The replicas of what is missing would be seen here as a five.
    assert ax.get_lines()[0].get_xydata().tolist() == [[1, 2], [2, 1]]


def test_a_tree_of_data_and_a_fitted_estimator():
    rng = np.random.default_rng(0)
    observed, replicas = rng.poisson(2.0, 30), rng.poisson(2.0, (2, 50, 30))
    data = groups(observed, replicas)
    tree = xr.DataTree.from_dict(
        {
            "posterior_predictive": data.posterior_predictive,
            "observed_data": data.observed_data,
        }
    )

    class Fitted:
        posterior_ = data

    heights = [bar.get_height() for bar in plots.posterior_predictive(data).patches]
    for source in (tree, Fitted()):
        ax = plots.posterior_predictive(source)
        assert [bar.get_height() for bar in ax.patches] == heights


def test_what_cannot_be_compared_is_refused():
    rng = np.random.default_rng(0)
    replicas = rng.normal(size=(9, 40))
    with pytest.raises(ValueError, match="has no data of y: give observed="):
        plots.posterior_predictive({"y": replicas})
    with pytest.raises(ValueError, match=r"of y have shape \(40,\), and the data \(3,"):
        plots.posterior_predictive({"y": replicas}, observed=np.zeros(3))
    with pytest.raises(ValueError, match="choose a variable: there are y, z"):
        plots.posterior_predictive({"y": replicas, "z": replicas}, observed=replicas[0])
    with pytest.raises(ValueError, match="there is no variable 'u', only y"):
        plots.posterior_predictive({"y": replicas}, "u", observed=replicas[0])
    with pytest.raises(ValueError, match="no whole numbers: take kind='density' or 'ecdf'"):
        plots.posterior_predictive({"y": replicas}, observed=replicas[0], kind="counts")
    with pytest.raises(ValueError, match="kind must be one of"):
        plots.posterior_predictive({"y": replicas}, observed=replicas[0], kind="bars")
    bad = replicas.copy()
    bad[2, 7] = np.inf
    with pytest.raises(ValueError, match=r"1 values of the replicas of y .* inf at place 7"):
        plots.posterior_predictive({"y": bad}, observed=replicas[0])
    with pytest.raises(ValueError, match="no data or no replicas of y"):
        plots.posterior_predictive({"y": replicas}, observed=np.full(40, np.nan))
    draws = {"a": np.zeros((1, 9))}
    alone = Posterior(draws, np.zeros((1, 9, 1)), {}, Diagnostics(1.0, 9.0, 9.0, 0, 0, 0.8))
    with pytest.raises(ValueError, match="no group posterior_predictive: give a fitted"):
        plots.posterior_predictive(alone)
