"""The additive estimator: learning, predictions, what it accepts and what it refuses."""

import pickle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import bayeskit as bk
from bayeskit.errors import InvalidDataError
from bayeskit.inference.gp_kernels import LogNormal, Matern12, Matern32, White

DAY_ZERO = np.datetime64("2020-01-01", "D")


def make_table(seed, num_days=14):
    """Days of 2 to 5 rows; an effect of x between days, another one within them."""
    days = np.repeat(np.arange(num_days), 2 + np.arange(num_days) % 4)
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=num_days)[days]
    x = centre + rng.normal(size=len(days))
    t = 1.0 + 0.8 * centre - 0.3 * (x - centre) + np.sin(days)
    t += 0.1 * rng.normal(size=len(days))
    X = pd.DataFrame({"x": x, "day": DAY_ZERO + days.astype("timedelta64[D]")})
    return X, np.exp(t)


def make_model(**options):
    """Two learned scales; all others fixed."""
    terms = [
        bk.MainEffect("x", Matern32(lengthscale=3.0)),
        bk.GroupMeanEffect("x", by="day", kernel=Matern32(1.0, 3.0)),
        bk.MainEffect("day", Matern12(0.8, 2.0) + White(0.1)),
        bk.WithinGroup("day", bk.on("x", Matern12(0.2, 1.0))),
    ]
    return bk.FunctionalCP(rank=0, mean=terms, transform="log", **options)


@pytest.fixture(scope="module")
def fitted():
    X, y = make_table(0)
    return make_model(random_state=0).fit(X, y), X, y


def test_fit_learns_and_names_what_it_learned(fitted):
    model, X, y = fitted
    names = ["noise_std", "MainEffect(x).matern32.std"]
    assert list(model.hyperparameters_) == names
    assert model.hyperparameters_["noise_std"] == pytest.approx(model.noise_std_)
    assert 0.05 < model.noise_std_ < 0.3
    kernel = model.terms_[0].kernel
    scale = model.transform_.scale
    assert kernel.std * scale == pytest.approx(model.hyperparameters_[names[1]])
    assert kernel.lengthscale == 3.0
    assert model.n_ignored_ == 0
    mean, std = model.predict(X, return_std=True)
    assert np.corrcoef(mean, y)[0, 1] > 0.98
    assert (std > 0).all()
    assert model.score(X, y) > 0.9


def test_second_fit_compiles_nothing(fitted):
    X, y = make_table(1)
    assert make_model().fit(X, y).timing_["compile_s"] == 0.0


def test_evidence_holds_the_jacobian(fitted):
    """In other units, y' = 7 y, the density of each value is 1/7: the transform is log."""
    model, X, y = fitted
    other = make_model().fit(X, 7.0 * y)
    expected = model.log_evidence_ - len(y) * np.log(7.0)
    assert other.log_evidence_ == pytest.approx(expected, abs=1e-3)


def test_predictions_of_all_kinds_agree(fitted):
    model, X, y = fitted
    new = X.iloc[:5].assign(day=X["day"].iloc[:5] + np.timedelta64(40, "D"))
    low, median, high = model.predict_quantiles(new)
    mean, std = model.predict(new, return_std=True)
    # Log-normal: mean above the median, and the deviation from the quantiles.
    s = np.log(high / low) / 2 / 1.6448536269514722
    np.testing.assert_allclose(mean, median * np.exp(s**2 / 2), rtol=1e-8)
    np.testing.assert_allclose(std, mean * np.sqrt(np.expm1(s**2)), rtol=1e-6)
    z = np.log(y[:5] / median) / s
    density = -0.5 * z**2 - np.log(s * y[:5]) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(model.log_density(new, y[:5]), density, rtol=1e-8)


def test_draws_fit_moments(fitted):
    """Means of 4000 logarithms within 5.5 standard errors: false-alarm rate below 2e-7."""
    model, X, _ = fitted
    new = X.iloc[:5]
    draws = model.sample_y(new, 4000, random_state=3)
    assert draws.shape == (4000, 5)
    low, median, high = np.log(model.predict_quantiles(new))
    s = (high - low) / 2 / 1.6448536269514722
    assert (np.abs(np.log(draws).mean(0) - median) < 5.5 * s / np.sqrt(4000)).all()
    assert (model.sample_y(new, 4000, random_state=3) == draws).all()
    assert (model.sample_y(new, 4000, random_state=4) != draws).all()


def test_functions(fitted):
    model, _, _ = fitted
    grid = np.linspace(-2, 2, 5)
    mean, std = model.functions("x", grid, return_std=True)
    assert mean.shape == std.shape == (5,)
    by_mean = model.functions(bk.GroupMeanEffect("x", by="day"), grid)
    assert (np.diff(by_mean) > 0).all()
    assert (model.functions(0, grid) == mean).all()
    with pytest.raises(ValueError, match=r"no function of 'z'; there are \['MainEffect"):
        model.functions("z", grid)


def test_centred_functions(fitted):
    model, X, _ = fitted
    grid = np.linspace(-2, 2, 5)
    mean, std = model.functions("x", grid, return_std=True)
    centred, spread = model.functions("x", grid, return_std=True, centred=True)
    at_rows = model.functions("x", X["x"].to_numpy()).mean()
    np.testing.assert_allclose(centred, mean - at_rows, atol=1e-9)
    assert (spread < 0.8 * std).all()
    axis = model.plot_function("x")
    assert axis.get_xlabel() == "x"
    assert axis.get_ylabel() == "function less its mean, transformed"
    dated = model.plot_function("day", centred=False)
    assert dated.get_lines()[1].get_xdata().dtype.kind == "M"
    with pytest.raises(ValueError, match="no function of 'z'"):
        model.plot_function("z")
    plt.close("all")


def test_context_is_read_when_predicting(fitted):
    model, X, _ = fitted
    new = X.iloc[:5].assign(day=DAY_ZERO + np.timedelta64(100, "D"))
    given = model.predict(new)
    alone = model.set_params(context="training").predict(new)
    one = model.predict(new.iloc[[0, 0, 0, 0, 0]])
    model.set_params(context="given")
    assert np.abs(given - alone).min() > 1e-6
    assert alone[0] == pytest.approx(one[0])


def test_order_of_rows_kinds_of_numbers_and_copies(fitted):
    model, X, y = fitted
    fixed = bk.FunctionalCP(rank=0, mean=model.terms_, transform="log", noise_std=0.15)
    order = np.random.default_rng(0).permutation(len(X))
    one = fixed.fit(X, y)
    assert one.hyperparameters_ == {}
    two = clone(fixed).fit(X.iloc[order], y[order])
    np.testing.assert_allclose(one.predict(X), two.predict(X), rtol=1e-10)
    assert one.log_evidence_ == pytest.approx(two.log_evidence_, rel=1e-10)
    swapped = X[["day", "x"]]
    np.testing.assert_allclose(one.predict(swapped), one.predict(X), rtol=1e-12)
    again = pickle.loads(pickle.dumps(one))
    assert (again.predict(X) == one.predict(X)).all()
    days = (X["day"].to_numpy() - DAY_ZERO).astype("timedelta64[D]").astype(int)
    plain = np.c_[X["x"], days].astype(np.float32)
    by_place = bk.FunctionalCP(
        rank=0, mean=[_by_place(t) for t in model.terms_], transform="log", noise_std=0.15
    ).fit(plain, y.astype(np.float32))
    np.testing.assert_allclose(by_place.predict(plain), one.predict(X), rtol=1e-3)


def _by_place(term):
    places = {"x": 0, "day": 1}
    changes = {k: places.get(v, v) for k, v in vars(term).items() if isinstance(v, str)}
    if isinstance(term, bk.WithinGroup):
        changes["kernel"] = bk.on(0, term.kernel.products[0][0][1])
    return type(term)(**{**vars(term), **changes})


def test_rows_without_y_are_counted(fitted):
    model, X, y = fitted
    fixed = bk.FunctionalCP(rank=0, mean=model.terms_, transform="log", noise_std=0.15)
    holes = y.copy()
    holes[[3, 10]] = np.nan
    assert fixed.fit(X, holes).n_ignored_ == 2
    assert np.isfinite(fixed.predict(X)).all()
    assert np.isfinite(fixed.log_evidence_)


@pytest.mark.parametrize(
    ("X", "y"),
    [
        (np.array([[1.0, 2.0]]), np.array([3.0])),
        (np.c_[np.arange(6.0), np.ones(6)], np.arange(6.0)),
        (np.c_[np.arange(6.0), np.ones(6)], np.full(6, 2.0)),
    ],
    ids=["one row", "one distinct coordinate", "equal y"],
)
def test_small_data(X, y):
    model = bk.FunctionalCP(rank=0, mean="additive").fit(X, y)
    mean, std = model.predict([[0.0, 1.0], [1e9, -1e9]], return_std=True)
    assert np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()
    assert np.isfinite(model.log_evidence_)


REFUSED = {
    "rank": (
        lambda X, y: bk.FunctionalCP(rank=-1).fit(X, y),
        ValueError,
        "rank must be a whole number >= 0, got -1",
    ),
    "mean": (lambda X, y: bk.FunctionalCP(mean="x").fit(X, y), ValueError, "mean must be"),
    "context": (
        lambda X, y: bk.FunctionalCP(context="all").fit(X, y),
        ValueError,
        "context must be one of",
    ),
    "NaN in X": (
        lambda X, y: bk.FunctionalCP().fit(X.assign(x=np.nan), y),
        InvalidDataError,
        r"column 'x' of X contains NaN at row 0",
    ),
    "one axis": (
        lambda X, y: bk.FunctionalCP().fit(X["x"].to_numpy(), y),
        InvalidDataError,
        "one column for each mode",
    ),
    "lengths": (
        lambda X, y: bk.FunctionalCP().fit(X, y[1:]),
        InvalidDataError,
        "same number of rows",
    ),
    "infinite y": (
        lambda X, y: bk.FunctionalCP().fit(X, np.r_[np.inf, y[1:]]),
        InvalidDataError,
        "y contains inf at row 0",
    ),
    "no y": (
        lambda X, y: bk.FunctionalCP().fit(X, np.full(len(X), np.nan)),
        InvalidDataError,
        "NaN only",
    ),
    "transform": (
        lambda X, y: bk.FunctionalCP(transform="log").fit(X, -y),
        InvalidDataError,
        "at row 0",
    ),
    "unknown mode": (
        lambda X, y: bk.FunctionalCP(mean=[bk.MainEffect("z")]).fit(X, y),
        ValueError,
        r"MainEffect\(z\): there is no mode 'z'; there are \['x', 'day'\]",
    ),
    "no term": (
        lambda X, y: bk.FunctionalCP(mean=["x"]).fit(X, y),
        TypeError,
        "a term must be",
    ),
    "own groups": (
        lambda X, y: bk.FunctionalCP(mean=[bk.GroupMeanEffect("day", "day")]).fit(X, y),
        ValueError,
        "over its own groups",
    ),
    "two within": (
        lambda X, y: bk.FunctionalCP(mean=[bk.WithinGroup("day")] * 2).fit(X, y),
        ValueError,
        "at most one WithinGroup",
    ),
    "kernel of the group": (
        lambda X, y: bk.FunctionalCP(
            mean=[bk.WithinGroup("day", bk.on("day", Matern12()))]
        ).fit(X, y),
        ValueError,
        "the kernel is one of the other modes",
    ),
    "kernel without mode": (
        lambda X, y: bk.FunctionalCP(mean=[bk.WithinGroup("day", Matern12())]).fit(X, y),
        TypeError,
        r"must be made of on\(mode, kernel\)",
    ),
    "knots": (
        lambda X, y: bk.FunctionalCP(mean=[bk.MainEffect("x", num_knots=1)]).fit(X, y),
        ValueError,
        "num_knots must be",
    ),
    "noise": (
        lambda X, y: bk.FunctionalCP(0, noise_std=-1.0).fit(X, y),
        ValueError,
        "noise_std must be a positive number",
    ),
    "noise prior": (
        lambda X, y: bk.FunctionalCP(0, noise_std=LogNormal(0.0, 1.0)).fit(X, y),
        ValueError,
        "noise_std must be a positive number",
    ),
    "not fitted": (lambda X, y: bk.FunctionalCP().predict(X), NotFittedError, "call fit"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refusals(case):
    call, error, match = case
    X, y = make_table(0)
    with pytest.raises(error, match=match):
        call(X, y)


def test_groups_too_large_are_refused_before_anything_is_compiled():
    X = np.c_[np.arange(4001.0), np.zeros(4001)]
    with pytest.raises(InvalidDataError, match="largest group has 4001 rows"):
        bk.FunctionalCP(mean=[bk.WithinGroup(1)]).fit(X, X[:, 0])


def test_refusals_of_a_fitted_model(fitted):
    model, X, _ = fitted
    with pytest.raises(InvalidDataError, match=r"lacks the columns \['day'\]"):
        model.predict(X[["x"]])
    with pytest.raises(InvalidDataError, match="X has 3 columns, but the fit had 2"):
        model.predict(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="quantiles must be probabilities between"):
        model.predict_quantiles(X, [0.0])
    with pytest.raises(ValueError, match=r"quantiles must be probabilities .* got 'a'"):
        model.predict_quantiles(X, "a")
    with pytest.raises(InvalidDataError, match="has no rows"):
        model.predict(X.iloc[:0])
    with pytest.raises(ValueError, match="num_draws must be"):
        model.sample_y(X, 0)
