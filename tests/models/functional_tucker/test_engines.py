"""The estimators with each of their engines, and rows that arrive later."""

import dataclasses
import warnings

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

import bayeskit as bk
from bayeskit.errors import ConvergenceWarning, InvalidDataError
from bayeskit.inference.gp_kernels import Matern32
from bayeskit.models.functional_tucker.low_rank.layout import Layout
from bayeskit.models.functional_tucker.matching import matched

mpl.use("Agg")
import matplotlib.pyplot as plt

KERNELS = [Matern32(1.0, 2.0), Matern32(1.0, 2.0)]


def make_data(num=60, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 12, (num, 2)) * 0.5
    y = 3.0 + np.sin(X[:, 0]) * X[:, 1] + 0.2 * rng.normal(size=num)
    return X, y


def make_model(engine, **options):
    settings = {"num_draws": 200, "num_warmup": 100, "num_chains": 2, "num_particles": 128}
    return bk.FunctionalCP(
        1,
        mean="constant",
        kernel=KERNELS,
        engine=engine,
        random_state=0,
        **settings | options,
    )


@pytest.fixture(scope="module")
def fitted():
    X, y = make_data()
    return {engine: make_model(engine).fit(X, y) for engine in ("cavi", "gibbs", "smc")}


def test_engines_agree(fitted):
    X, _ = make_data(40, seed=1)
    truth = 3.0 + np.sin(X[:, 0]) * X[:, 1]
    moments = {name: model.predict(X, return_std=True) for name, model in fitted.items()}
    mean, std = moments["gibbs"]
    for name in ("cavi", "smc"):
        # The mean of 200 draws is off by a fourteenth of what the parts leave open.
        assert np.abs(moments[name][0] - mean).max() < 0.6 * std.min()
        np.testing.assert_allclose(moments[name][1], std, rtol=0.25)
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.25


def test_draws_of_each_engine_fit_its_moments(fitted):
    X, _ = make_data(5, seed=2)
    for model in fitted.values():
        mean, std = model.predict(X, return_std=True)
        draws = model.sample_y(X, 1000, random_state=1)
        # Of 1000 draws; those of engines repeat 200 draws of the parts: 6 sigma.
        assert (np.abs(draws.mean(axis=0) - mean) < 6 * std / np.sqrt(200)).all()
        np.testing.assert_allclose(draws.std(axis=0), std, rtol=0.35)
        low, high = model.predict_quantiles(X, [0.05, 0.95])
        inside = ((draws > low) & (draws < high)).mean()
        assert 0.85 < inside < 0.95
        np.testing.assert_allclose(
            model.log_density(X, mean), -0.5 * np.log(2 * np.pi * std**2), atol=0.2
        )


def test_what_engines_learn(fitted):
    for engine in ("gibbs", "smc"):
        model = fitted[engine]
        assert set(model.hyperparameters_) == {"noise_std"}
        assert model.hyperparameters_["noise_std"] == pytest.approx(model.noise_std_)
        draws = model.posterior_.posterior["noise_std"]
        assert draws.shape == ((2, 100) if engine == "gibbs" else (1, 128))
        assert float(draws.mean()) == pytest.approx(model.noise_std_, rel=0.1)
        assert 0.1 < model.noise_std_ < 0.4
        assert not hasattr(model, "elbo_")
    assert not hasattr(fitted["gibbs"], "log_evidence_")
    # The bound is of the same model, its free energy a few nats below.
    evidence, error = fitted["smc"].log_evidence_, fitted["smc"].log_evidence_se_
    assert 0 < error < 1
    assert fitted["cavi"].elbo_[-1] < evidence + 4 * error
    assert fitted["cavi"].elbo_[-1] > evidence - 12


def test_functions_of_draws_are_those_of_independent_laws(fitted):
    """Up to scales: of one component whose functions the data tell well."""
    grid = np.linspace(0.0, 5.5, 12)
    for mode in (0, 1):
        mean, std = fitted["cavi"].factors(mode, grid, return_std=True)
        for engine in ("gibbs", "smc"):
            found, spread = fitted[engine].factors(mode, grid, return_std=True)
            assert found.shape == spread.shape == (12, 1)
            ratio = float(np.sum(found * mean) / np.sum(mean**2))
            assert np.abs(found - ratio * mean).max() < 0.5 * abs(ratio) * np.abs(mean).max()
            # Scales are fixed in the draws, so that bands hold the shape alone.
            assert (spread > 0).all()
            assert spread.mean() < 2.0 * abs(ratio) * std.mean()
        assert fitted["gibbs"].plot_factors(mode).get_lines()
    plt.close("all")
    assert fitted["gibbs"].core_sizes() == pytest.approx(fitted["cavi"].core_sizes(), rel=0.3)


def test_functions_of_terms_of_draws_are_exact():
    X, y = make_data()
    terms = [bk.MainEffect(0, Matern32(1.0, 2.0)), bk.MainEffect(1, Matern32(0.5, 1.0))]
    model = bk.FunctionalCP(0, mean=terms, noise_std=0.2, random_state=0).fit(X, y)
    drawn = clone(model).set_params(engine="gibbs", num_draws=4, num_warmup=1, num_chains=2)
    drawn.fit(X, y)
    grid = np.linspace(-2.0, 8.0, 9)
    for mode in (0, 1):
        for how in ({"return_std": True}, {"return_std": True, "centred": True}):
            one, two = (m.functions(mode, grid, **how) for m in (model, drawn))
            np.testing.assert_allclose(two, one, rtol=1e-8, atol=1e-12)


def test_draws_of_components_are_brought_into_one_form():
    """The same two components in other orders, signs and scales have no spread at all."""
    rng = np.random.default_rng(0)
    num, rank, modes = 6, 2, 3
    base = [rng.normal(size=(40, rank)) for _ in range(modes)]
    products = np.prod(base, axis=0)
    draws = [np.empty((num, 40, rank)) for _ in range(modes)]
    for d in range(num):
        order = rng.permutation(rank)
        factors = rng.choice([-1.0, 1.0], (modes, rank)) * rng.uniform(0.3, 3.0, (modes, rank))
        factors[-1] = 1.0 / np.prod(factors[:-1], axis=0)
        for k in range(modes):
            draws[k][d] = base[k][:, order] * factors[k]
    found = matched(draws, np.full(num, 1 / num))
    aligned = [
        np.take_along_axis(f, found.order[:, None], 2) * scale[:, None]
        for f, scale in zip(draws, found.scales, strict=True)
    ]
    for one in aligned:
        np.testing.assert_allclose(one, np.broadcast_to(one[:1], one.shape), rtol=1e-9)
    np.testing.assert_allclose(np.mean(aligned[1] ** 2, axis=1), 1.0)
    total = np.prod(aligned, axis=0).sum(-1)
    np.testing.assert_allclose(total, np.broadcast_to(products.sum(-1), total.shape))
    # The planted bug: draws as they come.
    assert np.std(draws[1], axis=0).min() > 0.01


def test_draws_of_a_tucker_model_are_rotated(fitted):
    # No program is compiled for what is refused.
    drawn = fitted["gibbs"]._posterior
    problem = drawn.problem._replace(layout=Layout((1, 1), "full"))
    model = bk.FunctionalTucker(1, engine="gibbs")
    model._posterior = dataclasses.replace(drawn, problem=problem)
    with pytest.raises(ValueError, match=r"rotate the functions of a Tucker model"):
        model.factors(0, [1.0])


def test_a_second_engine_leaves_nothing_of_the_first():
    X, y = make_data()
    model = make_model("cavi").fit(X, y)
    assert hasattr(model, "elbo_")
    model.set_params(engine="smc").fit(X, y)
    assert not hasattr(model, "elbo_")
    assert hasattr(model, "log_evidence_")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"engine": "vb"}, "engine must be one of the names"),
        ({"num_draws": 0}, "num_draws must be a whole number >= 1, got 0"),
        ({"num_particles": 1.5}, "num_particles must be a whole number"),
        ({"engine": "smc", "rank": 0}, "engine='smc' needs multilinear components"),
        ({"likelihood": "student_t", "degrees": 2.0}, "degrees must be a number above 2"),
        ({"method": "fast"}, "method must be one of"),
        ({"tol": -1.0}, "tol must be a number >= 0"),
    ],
)
def test_refusals(options, match):
    X, y = make_data()
    with pytest.raises(ValueError, match=match):
        make_model("cavi").set_params(**options).fit(X, y)


# ---------------------------------------------------------------- rows that arrive later


def test_rows_that_arrive_later_are_as_good_as_earlier_ones():
    X, y = make_data()
    options = {"tol": 1e-9, "max_iter": 1000}
    whole = make_model("cavi", **options).fit(X, y)
    parts = make_model("cavi", **options).fit(X[:45], y[:45]).partial_fit(X[45:], y[45:])
    new, _ = make_data(20, seed=3)
    expected, std = whole.predict(new, return_std=True)
    np.testing.assert_allclose(parts.predict(new), expected, atol=0.02 * std.min())
    assert parts.elbo_[-1] == pytest.approx(whole.elbo_[-1], abs=0.05)
    first = make_model("cavi").partial_fit(X, y)
    np.testing.assert_allclose(first.predict(new), make_model("cavi").fit(X, y).predict(new))


def test_later_rows_of_another_model_are_a_new_fit():
    X, y = make_data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = make_model("cavi", max_iter=30).fit(X[:45], y[:45])
        model.set_params(rank=2, mean="additive").partial_fit(X[45:], y[45:])
        again = clone(model).fit(X, y)
    assert model.factors(0, [1.0]).shape == (1, 2)
    np.testing.assert_allclose(model.predict(X), again.predict(X), rtol=1e-9)


def test_a_conjugate_model_of_later_rows_is_the_refit():
    X, y = make_data()
    terms = [bk.MainEffect(0, Matern32(1.0, 2.0))]
    model = bk.FunctionalCP(0, mean=terms, noise_std=0.2)
    parts = model.fit(X[:45, :1], y[:45]).partial_fit(X[45:, :1], y[45:])
    whole = bk.FunctionalCP(0, mean=terms, noise_std=0.2).fit(X[:, :1], y)
    assert parts.log_evidence_ == pytest.approx(whole.log_evidence_, rel=1e-9)
    new = np.linspace(-1, 8, 20)[:, None]
    one, other = (m.predict(new, return_std=True) for m in (parts, whole))
    np.testing.assert_allclose(one, other, rtol=1e-9)
    # A row without an observation tells nothing.
    parts.partial_fit([[3.3]], [np.nan])
    assert parts.n_ignored_ == 1
    np.testing.assert_allclose(parts.predict(new), one[0], rtol=1e-9)


def test_what_no_filter_resolves_is_refused():
    X, y = make_data()
    with pytest.raises(InvalidDataError, match="variance is beyond double precision"):
        make_model("cavi").fit(X, 1e200 * y)
    with pytest.raises(InvalidDataError, match="variance is beyond double precision"):
        make_model("cavi").fit(X, 1e-200 * y)
    with pytest.raises(TypeError, match="sequence of terms, got 3"):
        make_model(
            "cavi",
        ).set_params(mean=3).fit(X, y)
    for ranks in (None, "2"):
        with pytest.raises(TypeError, match="ranks must be a whole number or a sequence"):
            bk.FunctionalTucker(ranks).fit(X, y)


def test_an_ascent_that_is_cut_short_says_so():
    X, y = make_data()
    with pytest.warns(ConvergenceWarning, match="still rose by .* raise max_iter"):
        make_model("cavi", max_iter=1, num_starts=1).fit(X, y)


def test_categories_are_exchangeable_modes():
    rng = np.random.default_rng(4)
    stations = np.array(["north", "east", "south", "far"])
    level = np.array([1.0, -1.0, 0.3, 2.0])
    place, x = rng.integers(0, 4, 200), rng.integers(0, 20, 200) * 0.5
    y = level[place] * np.sin(x) + 0.1 * rng.normal(size=200)
    X = pd.DataFrame({"station": stations[place], "x": x})
    known = place < 3
    model = bk.FunctionalCP(1, mean="constant", num_starts=1, random_state=0)
    model.fit(X[known], y[known])
    assert list(model.categories_["station"]) == list(dict.fromkeys(stations[place[known]]))
    assert "factor(station)[0].white.std" in model.hyperparameters_
    slopes = model.factors("station", ["north", "east", "south"])[:, 0]
    assert np.corrcoef(slopes, level[:3])[0, 1] ** 2 > 0.99
    # Of a station that was not seen nothing is known but how much stations differ.
    with pytest.warns(UserWarning, match="not seen, such as 'far'"):
        _, std = model.predict(X, return_std=True)
    assert std[~known & (np.sin(x) ** 2 > 0.5)].min() > 2 * std[known].max()
    with pytest.raises(InvalidDataError, match="mode 'station' has no category 'west'"):
        model.factors("station", ["west"])
    model.partial_fit(X[~known], y[~known])
    assert list(model.categories_["station"])[-1] == "far"
    assert np.corrcoef(model.factors("station", stations)[:, 0], level)[0, 1] ** 2 > 0.99
    # A main effect of stations is one of categories as well.
    effects = bk.FunctionalCP(0, mean=[bk.MainEffect("station")]).fit(X, y)
    assert "white.std" in "".join(effects.hyperparameters_)
    with pytest.raises(InvalidDataError, match="missing category at row 2"):
        bk.FunctionalCP(1).fit(X.assign(station=["a", "b", None] + ["a"] * 197), y)


def test_student_noise_takes_outliers_lightly():
    X, y = make_data()
    bad = y.copy()
    bad[:3] += 15.0
    new, _ = make_data(30, seed=3)
    truth = 3.0 + np.sin(new[:, 0]) * new[:, 1]
    errors = {}
    for kind in ("normal", "student_t"):
        model = make_model("cavi", likelihood=kind).fit(X, bad)
        errors[kind] = np.sqrt(np.mean((model.predict(new) - truth) ** 2))
    assert errors["student_t"] < 0.5 * errors["normal"]


def test_a_bad_optimum_of_few_rows_does_not_stay():
    """Rows without a signal switch the component off; those that follow switch it on again."""
    X, y = make_data(80)
    early = 0.01 * np.random.default_rng(1).normal(size=30)
    options = {"mean": "constant", "num_starts": 1, "max_iter": 60, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = bk.FunctionalCP(1, **options).fit(X[:30], early)
        stuck = clone(model).fit(X[:30], early)
        model.partial_fit(X[30:], y[30:])
        whole = clone(model).fit(X, np.r_[early, y[30:]])
        # The planted bug: no search beside it.
        stuck._posterior = dataclasses.replace(stuck._posterior, num_searched=10**9)
        stuck.partial_fit(X[30:], y[30:])
    assert model.elbo_[-1] >= whole.elbo_[-1]
    assert model.elbo_[-1] > stuck.elbo_[-1] + 5
