"""Plots of runs: ancestors of particles, evidences of models, and histories."""

import types

import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.special import expit, softmax

import bayeskit as bk
from bayeskit import plots
from bayeskit.inference.population import History

# Row t: the place at time t - 1 that each of five particles descends from.
ANCESTORS = np.array(
    [[0, 1, 2, 3, 4], [0, 0, 0, 3, 3], [4, 0, 4, 0, 1], [0, 1, 2, 3, 4], [1, 1, 0, 2, 3]]
)


def with_ancestors(ancestors):
    return History(None, None, ancestors)


def panels(ax):
    (above,) = (other for other in ax.figure.axes if other is not ax)
    return above.get_lines()[0].get_ydata(), ax.get_lines()[0]


def ancestors_of_each(ancestors):
    """Return the ancestor of each last particle by time, one at a time."""
    num_steps, num_particles = ancestors.shape
    lines = np.empty((num_steps, num_particles), int)
    for particle in range(num_particles):
        place = particle
        for time in range(num_steps - 1, -1, -1):
            lines[time, particle] = place
            place = ancestors[time, place]
    return lines


def is_tree_of(ax, ancestors):
    """Whether counts and segments are those of the ancestors."""
    counts, line = panels(ax)
    lines = ancestors_of_each(ancestors)
    right = [len(set(row)) for row in lines]
    if counts.tolist() != right:
        return False
    x, y = (np.reshape(part, (-1, 3)) for part in line.get_data())
    for time in range(1, len(lines)):
        now = x[:, 1] == time
        pairs = set(zip(lines[time - 1], lines[time], strict=True))
        if now.sum() != len(pairs) or len(set(y[now, 1])) != right[time]:
            return False
        # A child each, and as many parents as there are.
        if len(set(np.round(y[now, 0], 9))) != right[time - 1]:
            return False
    return True


def test_ancestors_of_a_small_tree():
    ax = plots.genealogy(with_ancestors(ANCESTORS))
    assert panels(ax)[0].tolist() == [2, 2, 4, 4, 5]
    assert is_tree_of(ax, ANCESTORS)
    # Ancestors taken one time too late.
    assert not is_tree_of(ax, np.roll(ANCESTORS, -1, axis=0))


def test_no_lines_cross_and_long_histories_are_thinned():
    rng = np.random.default_rng(0)
    ancestors = rng.integers(0, 400, (60, 400))
    counts, line = panels(plots.genealogy(with_ancestors(ancestors)))
    assert counts[-1] == 400
    assert counts[0] == len(set(ancestors_of_each(ancestors)[0]))
    x, y = (np.reshape(part, (-1, 3)) for part in line.get_data())
    for time in range(1, 60):
        start, end = y[x[:, 1] == time, :2].T
        order = np.argsort(end)
        assert (np.diff(start[order]) >= -1e-12).all()
    assert (x[:, 1] == 59).sum() == 250


def test_ancestors_that_a_filter_kept_are_those_of_its_paths():
    """Paths by ancestors take at each time as many values as there are ancestors.

    Of 800 draws from 60 particles none is left out but those of little weight, so that there
    are never more values than ancestors, and at the start, where few are left, as many.
    """
    model = bk.StateSpaceModel(
        initial=lambda p: dist.Normal(0.0, 1.0),
        transition=lambda p, x, t: dist.Normal(x, 0.5),
        observation=lambda p, x, t: dist.Normal(x, 1.0),
        params={},
    )
    filter_ = bk.ParticleFilter(60, num_paths=800, smoother="genealogy", progress=False)
    est = bk.BayesianModel(model, inference=filter_, random_state=0)
    est.fit(y=np.random.default_rng(0).normal(size=40))
    counts, _ = panels(plots.genealogy(est))
    paths = est.result_.flat("x")
    values = np.array([len(np.unique(paths[:, t])) for t in range(40)])
    assert (values <= counts).all()
    assert values[0] == counts[0] < 30
    # In the wrong order of time there would be more values than ancestors.
    wrong, _ = panels(plots.genealogy(with_ancestors(est.result_.history["ancestors"][::-1])))
    assert not (values <= wrong).all()
    # The history of the filter, with its number of particles.
    ax = plots.smc_history(est)
    ess = est.result_.history["effective_sample_size"]
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), ess / 60)
    (above,) = (other for other in ax.figure.axes if other is not ax)
    evidence = above.get_lines()[0].get_ydata()
    assert evidence[-1] == est.log_evidence_
    resampled = np.flatnonzero(est.result_.history["resampled"])
    np.testing.assert_array_equal(ax.get_lines()[-1].get_xdata(), resampled)
    band = plots.states_over_time(est).get_lines()[0]
    np.testing.assert_array_equal(band.get_ydata(), est.filter_.loc["x"]["median"])


def test_genealogy_of_tempered_smc_goes_by_stages():
    """Stage 0 is the prior; whole numbers alone are marked, however few stages there are."""
    history = {"ancestors": ANCESTORS, "inverse_temperature": np.array([0.1, 0.3, 0.6, 1.0])}
    run = types.SimpleNamespace(history=history)
    ax = plots.genealogy(run)
    assert is_tree_of(ax, ANCESTORS)
    assert ax.get_xlabel() == "stage"
    (above,) = (other for other in ax.figure.axes if other is not ax)
    assert above.get_title(loc="left") == "ancestors of the 5 particles of the last stage"
    # One stage; and a population that all descends from one draw of the prior.
    history |= {"ancestors": np.array([[0, 1, 2], [1, 1, 1]]), "inverse_temperature": [1.0]}
    ax = plots.genealogy(run)
    assert ax.get_title(loc="left") == "ancestral lines: a single one until stage 0"
    ax.figure.canvas.draw()
    shown = [tick.get_text() for tick in ax.get_xticklabels()]
    assert all(float(text.replace("−", "-")).is_integer() for text in shown), shown


def test_genealogy_takes_dates_and_refuses_what_it_cannot_draw():
    dates = np.arange("2024-01-01", "2024-01-06", dtype="M8[D]")
    _, given = plt.subplots()
    ax = plots.genealogy(with_ancestors(ANCESTORS), times=dates, ax=given)
    assert ax is given
    assert ax.get_lines()[0].get_xdata()[1] == dates[1]
    plots.genealogy(with_ancestors(np.zeros((1, 1), int)))
    with pytest.raises(ValueError, match=r"times must be 5, one for each, got shape \(4,\)"):
        plots.genealogy(with_ancestors(ANCESTORS), times=dates[:4])
    with pytest.raises(ValueError, match=r"ParticleFilter\(num_paths=...\)"):
        plots.genealogy(types.SimpleNamespace(history={}))


def test_histories_are_refused_where_there_are_none():
    with pytest.raises(ValueError, match="no history of effective sample sizes"):
        plots.smc_history(types.SimpleNamespace(history={}))
    history = {
        "effective_sample_size": np.array([9.0, 8.0]),
        "log_evidence": np.array([-1.0, -2.0]),
        "acceptance": np.array([0.0, 0.4]),
        "moved": np.array([False, True]),
    }
    run = types.SimpleNamespace(history=history, num_draws=10)
    with pytest.raises(ValueError, match="times must be 2"):
        plots.smc_history(run, times=[0, 1, 2])
    size, moves = plots.smc_history(run, times=np.array([2.5, 3.5])).get_lines()
    assert size.get_xydata().tolist() == [[2.5, 0.9], [3.5, 0.8]]
    # Where nothing moved there is no acceptance.
    assert moves.get_xydata().tolist() == [[3.5, 0.4]]


def test_a_ladder_shows_its_temperatures_and_what_is_rejected():
    history = {
        "ladder": np.array([0.0, 0.01, 0.2, 1.0]),
        "rejection": np.array([0.1, 0.2, 0.6]),
        "round_trips": np.array([3, 4]),
    }
    ax = plots.temperature_ladder(types.SimpleNamespace(history=history))
    temperatures, _ = panels(ax)
    assert temperatures.tolist() == [0.01, 0.2, 1.0]
    bars = [(bar.get_x() + 0.5 * bar.get_width(), bar.get_height()) for bar in ax.patches]
    np.testing.assert_allclose(bars, [(0.5, 0.1), (1.5, 0.2), (2.5, 0.6)])
    assert ax.get_lines()[0].get_ydata()[0] == pytest.approx(0.3)
    assert ax.get_title(loc="left").endswith("7 round trips")
    with pytest.raises(ValueError, match="no ladder of temperatures"):
        plots.temperature_ladder(types.SimpleNamespace(history={}))


# ---------------------------------------------------------------- evidence


def rows_of(ax):
    """Return names, log evidences, their intervals, probabilities and their intervals."""
    (right,) = (other for other in ax.figure.axes if other is not ax)
    names = [label.get_text() for label in ax.get_yticklabels()]
    parts = []
    for panel in (ax, right):
        dots = panel.get_lines()[-1].get_xdata()
        segments = np.array(panel.collections[0].get_segments())
        parts += [dots, segments[:, :, 0]]
    return names, *parts


def test_evidence_of_two_models_against_the_closed_form():
    """The difference is normal, so that quantiles of the probability are those of it.

    Quantiles over 4000 draws have a standard error below 0.01.
    """
    ax = plots.evidence_comparison({"a": (-12.0, 0.3), "b": (-11.0, 0.4)})
    names, log_z, intervals, shares, ranges = rows_of(ax)
    assert names == ["b", "a"]
    assert list(log_z) == [0.0, -1.0]
    z = 1.6448536269514722
    np.testing.assert_allclose(intervals, [[-0.4 * z, 0.4 * z], [-1 - 0.3 * z, -1 + 0.3 * z]])
    assert shares[0] == pytest.approx(expit(1.0))
    exact = expit(1.0 + 0.5 * z * np.array([-1, 1]))
    np.testing.assert_allclose(ranges[0], exact, atol=0.01)
    np.testing.assert_allclose(ranges[1], 1.0 - exact[::-1], atol=0.01)
    # Errors that are taken for one another's would be those of no difference.
    assert np.abs(ranges[0] - expit(1.0 + 0.1 * z * np.array([-1, 1]))).min() > 0.03


def test_evidence_with_priors_and_without_errors():
    results = {
        "a": types.SimpleNamespace(log_evidence=-1000.0, log_evidence_se=0.2),
        "b": types.SimpleNamespace(log_evidence_=-1001.0, log_evidence_se_=0.2),
        "c": (-1002.0, None),
        "d": (-1000.5, 0.1),
    }
    prior = {"a": 1.0, "b": 8.0, "c": 1.0, "d": 0.0}
    names, _, _, shares, ranges = rows_of(plots.evidence_comparison(results, prior=prior))
    assert names == ["a", "d", "b", "c *"]
    with np.errstate(divide="ignore"):
        expected = softmax(np.array([0.0, -0.5, -1.0, -2.0]) + np.log([1.0, 0.0, 8.0, 1.0]))
    np.testing.assert_allclose(shares, expected)
    assert list(ranges[1]) == [0.0, 0.0]
    assert not np.allclose(shares, softmax([0.0, -0.5, -1.0, -2.0]), atol=0.1)
    assert rows_of(plots.evidence_comparison({"only": (3.0, 0.1)}))[3] == [1.0]


@pytest.mark.parametrize(
    ("results", "prior", "message"),
    [
        ({}, None, "at least one model"),
        ([(-1.0, 0.1)], None, "results must be a dict"),
        ({"a": (np.nan, 0.1)}, None, "log evidence of 'a' is nan"),
        ({"a": (-1.0, -0.1)}, None, "with error -0.1"),
        ({"a": types.SimpleNamespace(log_evidence=None)}, None, "'a' has no log evidence: fit"),
        ({"a": (-1.0, 0.1)}, {"b": 1.0}, r"weight for each of \['a'\], got \['b'\]"),
        ({"a": (-1.0, 0.1)}, {"a": -1.0}, "finite and not negative"),
    ],
)
def test_evidence_that_cannot_be_compared_is_refused(results, prior, message):
    with pytest.raises(ValueError, match=message):
        plots.evidence_comparison(results, prior=prior)
