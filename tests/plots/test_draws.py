"""Plots of draws: what stands in the artists against numbers made another way."""

import dataclasses
import types

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.path import Path
from scipy import stats
from sklearn.exceptions import NotFittedError

import bayeskit as bk
from bayeskit import plots
from bayeskit.inference.diagnostics import Diagnostics
from bayeskit.inference.population import Population
from bayeskit.inference.posterior import Posterior
from bayeskit.interop.arviz import to_arviz
from bayeskit.plots import _density
from bayeskit.plots._look import number, short

NUM = (4, 1000)


def result(draws, **stats_):
    shape = next(iter(draws.values())).shape[:2]
    return Posterior(
        draws=draws,
        positions=np.zeros((*shape, 1)),
        sample_stats=stats_,
        diagnostics=Diagnostics(1.0, 200.0, 200.0, 0, 0, 0.8),
    )


def weighted():
    """Draws from N(0, 1.5^2) with weights that make them N(1, 1)."""
    x = np.random.default_rng(1).normal(0.0, 1.5, 20_000)
    log_weights = stats.norm.logpdf(x, 1.0) - stats.norm.logpdf(x, 0.0, 1.5)
    return Population({"x": x}, log_weights - np.logaddexp.reduce(log_weights), 0.0)


def curve(ax):
    """Return the line of the density, without its vertical ends."""
    return (part[1:-1] for part in ax.get_lines()[0].get_data())


# ---------------------------------------------------------------- posterior


def test_a_density_of_weighted_draws_is_that_of_what_they_stand_for(monkeypatch):
    """Drawn once; the check fails for a density and an interval without the weights."""
    population = weighted()
    x = population.particles["x"]

    def differs():
        (ax,) = plots.posterior(population)
        grid, height = curve(ax)
        _, interval, inner, dot = ax.get_lines()
        order = np.argsort(x)
        up_to = np.cumsum(np.exp(population.log_weights)[order])
        quantile = lambda q: x[order][np.searchsorted(up_to, q)]
        expected = [quantile(q) for q in (0.05, 0.95, 0.25, 0.75, 0.5)]
        drawn = [*interval.get_xdata(), *inner.get_xdata(), *dot.get_xdata()]
        return (
            np.abs(height - stats.norm.pdf(grid, 1.0)).max(),
            np.abs(np.array(drawn) - expected).max(),
        )

    density, interval = differs()
    assert density < 0.03
    assert interval == 0.0
    monkeypatch.setattr(
        "bayeskit.plots._results._normalised", lambda w: np.full((1, len(w)), 1 / len(w))
    )
    density, interval = differs()
    assert density > 0.1
    assert interval > 0.5


def test_no_density_lies_where_no_draw_can_be():
    """Half of the height would be missing at the end of the support without reflection."""
    x = np.random.default_rng(0).exponential(size=NUM)
    (ax,) = plots.posterior(result({"rate": x}))
    grid, height = curve(ax)
    assert grid.min() >= x.min()
    assert grid.max() <= x.max()
    at_end = lambda value: abs(value - 1.0) < 0.15
    assert at_end(height[0])
    assert not at_end(stats.gaussian_kde(x.ravel())(0.0)[0])


def test_modes_stay_apart_and_their_masses_are_right():
    rng = np.random.default_rng(0)
    x = np.where(rng.random(NUM) < 0.3, rng.normal(-50.0, 0.5, NUM), rng.normal(50.0, 2.0, NUM))
    grid, height = curve(plots.posterior(result({"x": x}))[0])
    left = np.trapezoid(height[grid < 0], grid[grid < 0])
    assert left == pytest.approx((x < 0).mean(), abs=2e-3)
    assert height[np.abs(grid) < 30].max() < 1e-6
    assert height.max() == pytest.approx(0.3 * stats.norm.pdf(0, scale=0.5), rel=0.1)
    # A normal reference smooths them away.
    assert stats.gaussian_kde(x.ravel())(-50.0)[0] < 0.1 * height.max()


def test_heavy_tails_leave_the_panel_which_says_so():
    x = np.random.default_rng(0).standard_cauchy(NUM)
    (ax,) = plots.posterior(result({"x": x}))
    low, high = ax.get_xlim()
    assert -40 < low < -10 < 10 < high < 40
    beyond = [t.get_text() for t in ax.texts if "beyond" in t.get_text()]
    share = float(beyond[0].split(" %")[0])
    grid, height = curve(ax)
    assert share == pytest.approx(100 * ((x < grid[0]) | (x > grid[-1])).mean(), abs=0.1)
    # What lies beyond is not spread over what is drawn.
    assert np.trapezoid(height, grid) == pytest.approx(1 - share / 100, abs=0.01)
    assert height.max() == pytest.approx(1 / np.pi, rel=0.1)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1e-8), (1e8, 1.0), (0.0, 1e8)])
def test_scales_change_nothing_but_the_axis(shift, scale):
    x = np.random.default_rng(0).normal(size=NUM)
    plain = [np.array(part) for part in curve(plots.posterior(result({"x": x}))[0])]
    moved = plots.posterior(result({"x": shift + scale * x}))[0]
    grid, height = curve(moved)
    np.testing.assert_allclose((grid - shift) / scale, plain[0], atol=1e-6)
    np.testing.assert_allclose(height * scale, plain[1], atol=1e-3)


def test_whole_numbers_and_constants_have_bars():
    x = np.random.default_rng(0).poisson(2.0, NUM)
    axes = plots.posterior(
        result({"n": x, "flag": x > 1, "same": np.full(NUM, 0.1), "wide": 40 * x + 3})
    )
    counts = np.bincount(x.ravel()) / x.size
    for bar in axes[0].patches:
        middle = bar.get_x() + 0.5 * bar.get_width()
        assert bar.get_height() == pytest.approx(counts[round(middle)])
    assert [bar.get_height() for bar in axes[1].patches] == pytest.approx(
        [(x <= 1).mean(), (x > 1).mean()]
    )
    assert axes[2].get_title(loc="left") == "every draw is 0.1"
    assert len(axes[2].patches) == 1
    assert len(axes[3].patches) <= 60
    assert axes[0].get_title(loc="left") == "median 2, 90 % 0 to 5"


def test_the_shortest_interval_and_other_points():
    x = np.random.default_rng(0).gamma(1.5, size=(1, 400))
    (ax,) = plots.posterior(result({"x": x}), interval="hdi", point="mean", level=0.8)
    ranked = np.sort(x[0])
    widths = [(ranked[i + 319] - ranked[i], ranked[i]) for i in range(400 - 319)]
    width, low = min(widths)
    _, interval, _, dot = ax.get_lines()
    assert list(interval.get_xdata()) == pytest.approx([low, low + width])
    assert dot.get_xdata() == pytest.approx(x.mean())
    (ax,) = plots.posterior(result({"x": x}), point="mode")
    grid, height = curve(ax)
    assert ax.get_lines()[-1].get_xdata()[0] == grid[np.argmax(height)]


def test_the_prior_is_drawn_behind_as_far_as_it_is_in_view():
    rng = np.random.default_rng(0)
    after = {
        "mean": rng.normal(2.0, 1.0, NUM),
        "n": rng.poisson(3.0, NUM),
        "far": rng.random(NUM),
    }
    before = {
        "mean": rng.normal(0.0, 400.0, (1, 4000)),
        "n": rng.poisson(6.0, (1, 4000)),
        "far": 50.0 + rng.random((1, 4000)),
    }
    data = to_arviz({"posterior": after, "prior": before})
    for axes in (
        plots.posterior(data, prior=True),
        plots.posterior(types.SimpleNamespace(posterior_=data), prior=True),
        plots.posterior(data, prior=types.SimpleNamespace(posterior=data.prior)),
    ):
        x, height = axes[0].get_lines()[-1].get_data()
        np.testing.assert_allclose(height, stats.norm.pdf(x, scale=400.0), rtol=0.1)
        assert x.min() == pytest.approx(axes[0].get_xlim()[0])
        x, height = axes[1].get_lines()[-1].get_data()
        counts = np.bincount(before["n"][0]) / 4000
        np.testing.assert_allclose(height, counts[x])
        assert not np.isfinite(axes[2].get_lines()[-1].get_ydata()).any()
    with pytest.raises(ValueError, match="no draws of the prior: give prior="):
        plots.posterior(result(after), prior=True)
    with pytest.raises(ValueError, match="the prior has no parameter 'far'"):
        plots.posterior(result(after), prior=result({"mean": after["mean"], "n": after["n"]}))


def test_all_kinds_of_results_are_read_alike():
    rng = np.random.default_rng(0)
    draws = {"a": rng.normal(size=(2, 30)), "b": rng.normal(size=(2, 30, 3))}
    plain = result(draws)
    coords, dims = {"who": ["x", "y", "z"]}, {"b": ["who"]}
    group = to_arviz({"posterior": draws}, coords=coords, dims=dims).posterior
    estimator = types.SimpleNamespace(result_=plain, coords=coords, dims=dims)
    refined = types.SimpleNamespace(
        weighted_draws=draws["b"].reshape(-1, 3), log_weights=np.zeros(60)
    )
    for source, names in (
        (plain, ["a", "b[0]", "b[1]", "b[2]"]),
        (estimator, ["a", "x", "y", "z"]),
        (types.SimpleNamespace(posterior=group), ["a", "x", "y", "z"]),
        (xr.DataTree.from_dict({"posterior": group}), ["a", "x", "y", "z"]),
        (refined, ["x[0]", "x[1]", "x[2]"]),
    ):
        axes = plots.posterior(source)
        assert [ax.texts[0].get_text() for ax in axes] == names
        dot = axes[-1].get_lines()[-1].get_xdata()
        assert dot == pytest.approx(np.median(draws["b"][..., 2]))
        assert len(plots.forest(source).get_yticklabels()) == len(names)
    (ax,) = plots.posterior(plain, parameters="b[1]")
    assert ax.get_lines()[-1].get_xdata() == pytest.approx(np.median(draws["b"][..., 1]))


def test_two_vectors_with_the_same_labels_keep_their_names():
    draws = {"slope": np.zeros((1, 9, 2)), "level": np.zeros((1, 9, 2))}
    estimator = types.SimpleNamespace(
        result_=result(draws),
        coords={"who": ["x", "y"]},
        dims={"slope": ["who"], "level": ["who"]},
    )
    labels = [t.get_text() for t in plots.forest(estimator).get_yticklabels()]
    assert labels == ["slope[x]", "slope[y]", "level[x]", "level[y]"]


def test_forest_weighs_draws():
    population = weighted()
    ax = plots.forest(population)
    (dot,) = [line for line in ax.get_lines() if len(line.get_xdata()) == 1]
    assert dot.get_xdata()[0] == pytest.approx(1.0, abs=0.05)
    far = plots.forest(result({"x": 1e8 + np.random.default_rng(0).normal(size=NUM)}))
    # The line at zero would make an interval a point.
    assert far.get_xlim()[0] > 9e7


@pytest.mark.parametrize("plot", [plots.posterior, plots.trace, plots.pair, plots.forest])
def test_what_cannot_be_drawn_is_refused(plot):
    x = np.zeros((2, 5))
    x[1, 3] = np.nan
    with pytest.raises(ValueError, match=r"1 of 10 draws of a .* first nan at chain 1, draw 3"):
        plot(result({"a": x, "b": np.ones((2, 5))}))
    with pytest.raises(ValueError, match="no parameter 'zeta': it has a, b"):
        plot(result({"a": x, "b": x}), parameters=["zeta"])
    with pytest.raises(TypeError, match="must be a Posterior, a fitted estimator"):
        plot(np.zeros(3))
    with pytest.raises(NotFittedError, match="BayesianModel is not fitted yet"):
        plot(bk.BayesianModel(lambda: None))


def test_other_arguments_that_are_refused():
    one = result({"a": np.random.default_rng(0).normal(size=(2, 5, 61))})
    with pytest.raises(ValueError, match="61 scalar parameters, more than 60 panels"):
        plots.posterior(one)
    with pytest.raises(ValueError, match=r"axes must be 2, one for each .*, got 1"):
        plots.posterior(one, parameters=["a[0]", "a[1]"], axes=plt.subplots()[1])
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\)"):
        plots.posterior(one, level=90)
    with pytest.raises(ValueError, match="point must be one of"):
        plots.posterior(one, point="middle")
    with pytest.raises(ValueError, match=r"pair draws 2 to 12 scalar parameters, got 1 \(a"):
        plots.pair(one, parameters="a[3]")
    with pytest.raises(ValueError, match="whose order says nothing"):
        plots.trace(weighted())


def test_given_axes_are_drawn_on_and_returned():
    one = result({"a": np.random.default_rng(0).normal(size=(2, 50, 2))})
    _, axes = plt.subplots(2, 2)
    assert list(plots.posterior(one, axes=axes[0])) == list(axes[0])
    assert list(plots.trace(one, axes=list(axes[1]))) == list(axes[1])
    assert plots.pair(one, axes=axes)[1, 0] is axes[1, 0]


# ---------------------------------------------------------------- trace


def test_a_trace_of_a_long_chain_loses_no_excursion():
    x = np.random.default_rng(0).normal(size=(3, 50_001))
    x[1, 40_001] = 30.0
    diverging = np.zeros(x.shape, bool)
    diverging[2, 17] = True
    (ax,) = plots.trace(result({"x": x}, diverging=diverging))
    *lines, ticks = ax.get_lines()
    for chain, line in enumerate(lines):
        where, drawn = line.get_data()
        assert len(drawn) < 2000
        np.testing.assert_array_equal(drawn, x[chain, where])
        assert (drawn.min(), drawn.max()) == (x[chain].min(), x[chain].max())
    assert list(ticks.get_xdata()) == [17]
    few = np.random.default_rng(0).normal(size=(2, 60))
    (ax,) = plots.trace(result({"x": few}))
    np.testing.assert_array_equal(ax.get_lines()[1].get_ydata(), few[1])


def test_equal_draws_have_ranks_that_do_not_part_chains():
    """In the order of the chains, ties fill some bins by one chain and leave them to none."""
    x = np.random.default_rng(0).random((4, 1000)) < 0.3
    ax = plots.trace_rank(result({"flag": x}), "flag")
    (above,) = (other for other in ax.figure.axes if other is not ax)
    heights = np.array([patch.get_data().values for patch in above.patches])
    spread = lambda counts: np.abs(counts - 50.0).max()
    # Six standard deviations of a binomial of 1000 and 1/20, over 80 of them.
    assert spread(heights) < 6 * np.sqrt(1000 / 20 * 19 / 20)
    ranks = np.argsort(np.argsort(x, axis=None, kind="stable")).reshape(x.shape)
    assert spread(np.array([np.bincount(r // 200, minlength=20) for r in ranks])) > 100


# ---------------------------------------------------------------- pair


def test_pair_draws_points_with_their_weights_and_divergences():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 2, 100))
    diverging = np.zeros((2, 100), bool)
    diverging[1, [3, 50]] = True
    axes = plots.pair(result({"x": x, "y": y}, diverging=diverging))
    (points,) = axes[1, 0].collections
    np.testing.assert_array_equal(points.get_offsets(), np.stack([x.ravel(), y.ravel()], 1))
    (marks,) = axes[1, 0].get_lines()
    np.testing.assert_array_equal(marks.get_xydata(), np.stack([x[1], y[1]], 1)[[3, 50]])
    assert axes[0, 1] is None
    assert axes[1, 0].get_xlabel() == "x"
    assert axes[1, 0].get_ylabel() == "y"

    log_weights = np.log(rng.dirichlet(np.ones(50)))
    population = Population({"x": x[0, :50], "y": y[0, :50]}, log_weights, 0.0)
    (points,) = plots.pair(population)[1, 0].collections
    areas = points.get_sizes()
    np.testing.assert_allclose(areas / areas.sum(), np.exp(log_weights))


def test_regions_of_a_pair_hold_the_masses_that_they_say():
    """A banana of 100 000 draws; the masses are counted by the draws themselves."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 100_000))
    y = x**2 + 0.5 * rng.normal(size=x.shape)
    ax = plots.pair(result({"x": x, "y": y}))[1, 0]
    filled = ax.collections[0]
    points = np.stack([x[0], y[0]], axis=1)
    held = []
    for path in filled.get_paths():
        inside = np.zeros(len(points), int)
        for polygon in path.to_polygons():
            inside += Path(polygon).contains_points(points)
        held.append((inside % 2).mean())
    # From the outer band inwards.
    np.testing.assert_allclose(np.cumsum(held[::-1])[::-1], [0.95, 0.8, 0.5, 0.2], atol=0.02)


def test_pairs_with_whole_numbers_are_maps_of_masses():
    rng = np.random.default_rng(0)
    n, m = rng.poisson(2.0, (2, *NUM))
    ax = plots.pair(result({"n": n, "m": m, "c": np.full(NUM, 2.0)}))[1, 0]
    mesh = ax.collections[0]
    table = np.asarray(mesh.get_array()).reshape(mesh.get_coordinates().shape[0] - 1, -1)
    assert table[0, 0] == np.sum((n == 0) & (m == 0))
    assert table[2, 1] == np.sum((n == 1) & (m == 2))


# ---------------------------------------------------------------- densities and texts


def test_few_draws_and_draws_on_few_values_are_smooth_enough():
    rng = np.random.default_rng(0)
    few = _density.curve_of(rng.normal(size=8))
    assert not few.is_discrete
    assert np.trapezoid(few.height, few.x) == pytest.approx(1.0, abs=0.02)
    assert few.height.max() < 2.0
    # A chain that stays for ten steps each has a tenth of the draws.
    sticky = _density.curve_of(np.repeat(rng.normal(size=400), 10))
    plain = stats.norm.pdf(sticky.x)
    assert np.abs(sticky.height - plain).max() < 0.08
    assert _density.curve_of(rng.choice([0.1, 0.5, 0.9], 1000)).is_discrete


@pytest.mark.parametrize(
    ("value", "resolution", "text"),
    [
        (1.2345, 0.03, "1.23"),
        (-0.00012345, 1e-6, "−1.23e−4"),
        (123456789.0, 1.0, "123456789"),
        (2.1e8, 1e7, "2.1e8"),
        (0.0, 0.1, "0"),
        (0.004, 0.02, "0.00"),
    ],
)
def test_numbers_have_the_digits_that_are_resolved(value, resolution, text):
    assert number(value, resolution) == text


def test_long_names_keep_their_ends():
    assert short("short", 10) == "short"
    name = short("a very long name of a parameter [age]", 20)
    assert len(name) == 20
    assert name.startswith("a very")
    assert name.endswith("[age]")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (r"$\beta_1$", r"$\beta_1$"),
        ("one $", "one $"),
        ("$10 to $20", r"\$10 to \$20"),
        ("from a$_ to ^$", r"from a\$_ to ^\$"),
    ],
)
def test_dollars_in_names_are_drawn_as_they_are_meant(name, shown):
    """Dollars in pairs are mathematics to matplotlib, which fails where it cannot read it."""
    assert short(name, 40) == shown
    rng = np.random.default_rng(0)
    one = result({name: rng.normal(size=(2, 40)), "b": rng.normal(size=(2, 40))})
    for axes in (plots.posterior(one), plots.trace(one), plots.pair(one)):
        axes.flat[0].figure.canvas.draw()
    plots.forest({name: one, "b": one}).figure.canvas.draw()
    plots.trace_rank(one, name).figure.canvas.draw()


def test_weights_of_zero_are_as_if_they_were_not_there():
    x = np.array([0.0, 1.0, 2.0, 1e6])
    log_weights = np.array([np.log(1 / 3)] * 3 + [-np.inf])
    (ax,) = plots.posterior(Population({"x": x}, log_weights, 0.0))
    assert ax.get_xlim()[1] < 10.0
    other = dataclasses.replace(result({"x": x[None, :3]}))
    assert plots.posterior(other)[0].get_xlim()[1] < 10.0
