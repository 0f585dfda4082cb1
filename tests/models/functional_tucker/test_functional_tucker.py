"""The estimators with components: what they accept, refuse, keep and say.

Where two fits are compared, both start from the same place and every update is exact, so that
equal models give equal numbers. Rotations, signs and order of functions are not looked at.
"""

import pickle
import warnings

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import bayeskit as bk
from bayeskit.errors import ConvergenceWarning, InvalidDataError
from bayeskit.inference.gp_kernels import LogNormal, Matern12, Matern32, White

mpl.use("Agg")
import matplotlib.pyplot as plt

DAY_ZERO = np.datetime64("2020-01-01", "D")
pytestmark = pytest.mark.filterwarnings(
    "ignore:the evidence lower bound still rose:bayeskit.errors.ConvergenceWarning"
)
# Two rounds: enough where any two numbers must agree, and quick.
FEW = {"max_iter": 30, "num_starts": 1, "random_state": 0}


def make_table(seed, num=60):
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"a": rng.integers(0, 9, num) / 2.0, "b": rng.integers(0, 11, num)})
    y = 3.0 + np.sin(X["a"]) * (X["b"] - 5) + 0.1 * rng.normal(size=num)
    return X, y.to_numpy()


def cp(**options):
    return bk.FunctionalCP(2, mean="constant", **{**FEW, **options})


def tucker(**options):
    return bk.FunctionalTucker((2, 1), mean="constant", **{**FEW, **options})


@pytest.fixture(scope="module")
def data():
    return make_table(0)


@pytest.fixture(scope="module", params=[cp, tucker], ids=["CP", "Tucker"])
def make(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(make, data):
    return make().fit(*data)


# ---------------------------------------------------------------- manners


def test_manners(make, fitted, data):
    X, y = data
    model = make()
    assert clone(model).get_params() == model.get_params()
    assert model.set_params(max_iter=20).max_iter == 20
    with pytest.raises(NotFittedError, match="call fit"):
        model.predict(X)
    assert fitted.score(X, y) > 0.9
    again = pickle.loads(pickle.dumps(fitted))
    assert (again.predict(X) == fitted.predict(X)).all()
    assert (again.sample_y(X, 2) == fitted.sample_y(X, 2)).all()
    second = clone(fitted).fit(X, y)
    assert (second.predict(X) == fitted.predict(X)).all()
    assert second.timing_["compile_s"] == 0.0
    assert len(fitted.elbo_) >= 1
    assert np.isfinite(fitted.elbo_).all()
    assert hasattr(fitted, "core_") == isinstance(fitted, bk.FunctionalTucker)


def test_other_rows_of_the_same_size_compile_nothing(make, fitted):
    X, y = make_table(1, num=57)
    assert make().fit(X, y).timing_["compile_s"] == 0.0


def test_unfinished_ascent_warns(data):
    with pytest.warns(ConvergenceWarning, match="raise max_iter"):
        cp(max_iter=10, tol=0.0).fit(*data)


# ---------------------------------------------------------------- invariants


def test_order_of_rows(make, fitted, data):
    X, y = data
    order = np.random.default_rng(0).permutation(len(X))
    other = make().fit(X.iloc[order], y[order])
    np.testing.assert_allclose(other.predict(X), fitted.predict(X), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(other.elbo_, fitted.elbo_, rtol=1e-10)


def test_duplicates_count(make, data):
    """Each row thrice with three times the variance: the same laws of functions."""
    X, y = data
    fixed = {"noise_std": 0.1, "kernel": Matern32(1.0, 2.0)}
    one = make(**fixed).fit(X, y)
    thrice = make(**fixed | {"noise_std": 0.1 * np.sqrt(3.0)})
    thrice.fit(pd.concat([X] * 3), np.tile(y, 3))
    np.testing.assert_allclose(thrice.predict(X), one.predict(X), rtol=1e-9)
    once_more = make(**fixed).fit(pd.concat([X] * 3), np.tile(y, 3))
    assert np.abs(once_more.predict(X) - one.predict(X)).max() > 1e-6


def test_kinds_of_coordinates(make, fitted, data):
    """Whole numbers, float32, dates and columns in another order."""
    X, y = data
    expected = fitted.predict(X)
    single = make().fit(X.to_numpy().astype(np.float32), y.astype(np.float32))
    np.testing.assert_allclose(single.predict(X.to_numpy()), expected, rtol=1e-3, atol=1e-3)
    dates = X.assign(b=DAY_ZERO + X["b"].to_numpy().astype("timedelta64[D]"))
    by_date = make().fit(dates, y)
    np.testing.assert_allclose(by_date.predict(dates), expected, rtol=1e-6, atol=1e-6)
    for other in (X, X.to_numpy()):
        with pytest.raises(InvalidDataError, match="the fit had dates in"):
            by_date.predict(other)
    with pytest.raises(InvalidDataError, match="numbers in column 'b', but these are dates"):
        fitted.predict(dates)
    with pytest.raises(InvalidDataError, match="dates in mode 'b', but these are numbers"):
        by_date.factors("b", [1.0])
    line = by_date.plot_factors("b").get_lines()[1]
    assert np.asarray(line.get_xdata()).dtype.kind == "M"
    plt.close("all")
    np.testing.assert_allclose(fitted.predict(X[["b", "a"]]), expected, rtol=1e-12)


def test_dates_with_and_without_a_zone(make, data, tmp_path):
    X, y = data
    naive = X.assign(b=DAY_ZERO + X["b"].to_numpy().astype("timedelta64[D]"))
    zoned = naive.assign(b=pd.DatetimeIndex(naive["b"]).tz_localize("UTC"))
    plain, there = make().fit(naive, y), make().fit(zoned, y)
    np.testing.assert_array_equal(there.predict(zoned), plain.predict(naive))
    elsewhere = zoned.assign(b=zoned["b"].dt.tz_convert("Asia/Tokyo"))
    np.testing.assert_array_equal(there.predict(elsewhere), plain.predict(naive))
    plain.save(tmp_path / "plain.bkit")
    there.save(tmp_path / "there.bkit")
    for one in (plain, bk.load(tmp_path / "plain.bkit")):
        for call in (one.predict, lambda X, one=one: one.partial_fit(X, y)):
            with pytest.raises(InvalidDataError, match="no time zone, but column 'b' has one"):
                call(zoned)
        with pytest.raises(InvalidDataError, match="no time zone, but mode 'b' has one"):
            one.factors("b", zoned["b"])
    for one in (there, bk.load(tmp_path / "there.bkit")):
        with pytest.raises(InvalidDataError, match="a time zone, but column 'b' has none"):
            one.predict(naive)
        np.testing.assert_array_equal(
            one.factors("b", elsewhere["b"][:3]), plain.factors("b", naive["b"][:3])
        )
    line = there.plot_factors("b").get_lines()[1]
    assert len(line.get_xdata()) > 2
    plt.close("all")


def test_shift_and_scale_of_coordinates(make, fitted, data):
    X, y = data
    moved = X.assign(a=X["a"] + 1e6, b=X["b"] * 8.0)
    other = make().fit(moved, y)
    np.testing.assert_allclose(other.predict(moved), fitted.predict(X), rtol=1e-6, atol=1e-6)


def test_permuted_modes_have_the_same_fixed_points(data):
    """A Tucker model with one function a mode and fixed scales: one optimum but for signs."""
    X, y = data
    kernel = [Matern32(1.0, 2.0), Matern12(1.0, 4.0)]
    one = bk.FunctionalTucker(1, mean="constant", noise_std=0.3, kernel=kernel)
    two = clone(one).set_params(kernel=[Matern12(1.0, 4.0), Matern32(1.0, 2.0)])
    options = {"max_iter": 500, "tol": 0.0, "num_starts": 1, "random_state": 0}
    first = one.set_params(**options).fit(X, y)
    second = two.set_params(**options).fit(X[["b", "a"]], y)
    new = X.iloc[:7] + 0.25
    for a, b in zip(
        first.predict(new, return_std=True), second.predict(new, return_std=True), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-10)
    assert first.elbo_[-1] == pytest.approx(second.elbo_[-1], abs=1e-8)


def test_far_away_predictions_tend_to_the_prior(make, data):
    X, y = data
    kernel = [Matern32(1.5, 2.0), Matern32(1.0, 3.0)]
    model = make(kernel=kernel, noise_std=0.2).fit(X, y)
    mean, std = model.predict(X.iloc[:1].astype(float) + 1e7, return_std=True)
    # Standardized: what is left is the constant, and the variance of two or one products.
    centre, scale = y.mean(), y.std(ddof=1)
    if hasattr(model, "core_"):
        core = model._posterior.found.beliefs.core
        square = np.sum(core.mean**2) + np.trace(core.covariance)
        variance = 1.5**2 * square
    else:
        variance = 2 * 1.5**2
    assert abs(mean[0] - centre) < 0.3 * scale
    assert (std[0] / model.transform_.scale) ** 2 == pytest.approx(
        variance + 0.2**2 + _constant_variance(model), rel=1e-6
    )


def _constant_variance(model):
    from bayeskit.models.base import precision_scope
    from bayeskit.models.functional_tucker import additive

    with precision_scope("float64"):
        return additive.row_moments(model._posterior.terms)[1][0]


def test_missing_observations_are_counted_and_tell_nothing(make, data):
    X, y = data
    holes = y.copy()
    holes[[3, 10]] = np.nan
    kept = ~np.isnan(holes)
    one = make(kernel=Matern32(1.0, 2.0)).fit(X, holes)
    two = make(kernel=Matern32(1.0, 2.0)).fit(X[kept], holes[kept])
    assert one.n_ignored_ == 2
    assert two.n_ignored_ == 0
    np.testing.assert_allclose(one.predict(X), two.predict(X), rtol=1e-8)


@pytest.mark.parametrize(
    ("X", "y"),
    [
        (np.array([[1.0, 2.0]]), np.array([3.0])),
        (np.c_[np.arange(6.0), np.ones(6)], np.arange(6.0)),
        (np.c_[np.arange(6.0), np.ones(6)], np.full(6, 2.0)),
        (np.c_[[0.0, 1e-12, 1e12], np.arange(3.0)], np.arange(3.0)),
    ],
    ids=["one row", "one distinct coordinate", "equal y", "gaps"],
)
def test_small_data(make, X, y):
    model = make().fit(X, y)
    mean, std = model.predict(np.r_[X, [[0.5, 1.0], [1e9, -1e9]]], return_std=True)
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
    assert (std > 0).all()
    assert np.isfinite(model.elbo_).all()
    assert np.isfinite(model.log_density(X, y)).all()


def test_a_category_has_no_order(data):
    """Values of a White mode are names: any other names give the same predictions."""
    X, y = data
    fixed = {"kernel": [Matern32(1.0, 2.0), White(1.0)], "noise_std": 0.3}
    options = FEW | {"max_iter": 1000, "tol": 0.0}
    other_names = np.random.default_rng(0).permutation(11) * 7.0
    renamed = X.assign(b=other_names[X["b"]])
    one = bk.FunctionalCP(1, mean="constant", **fixed, **options).fit(X, y)
    two = clone(one).fit(renamed, y)
    np.testing.assert_allclose(one.predict(X), two.predict(renamed), rtol=1e-6)
    unseen = one.predict(X.assign(b=99.0))
    np.testing.assert_allclose(unseen, unseen[0], rtol=1e-12)


# ---------------------------------------------------------------- standard form and pictures


def test_standard_form_multiplies_to_the_product(make, fitted, data):
    X, _ = data
    form = fitted._standard_form()
    a, b = (
        (fitted.factors(k, X.iloc[:, k].to_numpy()) / form.scales[k])[:, form.order[k]]
        for k in range(2)
    )
    raw = [fitted.factors(k, X.iloc[:, k].to_numpy()) for k in range(2)]
    if form.core.ndim == 1:
        found, expected = (a * b) @ form.core, (raw[0] * raw[1]).sum(1)
        assert (np.diff(form.core) <= 0).all()
        assert (form.core > 0).all()
    else:
        found = np.einsum("nr,ns,rs->n", a, b, form.core)
        expected = np.einsum("nr,ns,rs->n", *raw, fitted.core_)
    np.testing.assert_allclose(found, fitted.transform_.scale * expected, rtol=1e-9)
    assert (fitted.core_sizes() == form.core).all()


def test_pictures(fitted, data):
    assert fitted.plot_factors("a").get_xlabel() == "a"
    assert fitted.plot_factors("a").get_ylabel() == "function, mean square 1"
    labels = [text.get_text() for text in fitted.plot_fit(*data).get_legend().get_texts()]
    assert labels[0].startswith("inside of the 90 % interval (")
    lines = fitted.plot_factors(1, [0.0, 1.0, 2.0]).get_lines()
    assert lines[1].get_xdata().tolist() == [0.0, 1.0, 2.0]
    assert fitted.plot_fit(*data).get_ylabel() == "observed"
    assert fitted.plot_bound().get_xlabel() == "round"
    axis = fitted.plot_core()
    assert axis.patches if fitted.core_sizes().ndim == 1 else axis.images
    plt.close("all")
    with pytest.raises(ValueError, match=r"no mode 'z'; there are \['a', 'b'\]"):
        fitted.plot_factors("z")
    with pytest.raises(ValueError, match="level must lie between 0 and 1, got 95"):
        fitted.plot_fit(*data, level=95)


def test_pictures_of_categories(make, data):
    X, y = data
    names = np.array([f"station {i}" for i in range(11)])
    model = make().fit(X.assign(b=names[X["b"]]), y)
    ticks = [text.get_text() for text in model.plot_factors("b").get_xticklabels()]
    assert sorted(ticks) == sorted(set(names[X["b"]]))
    some = model.plot_factors("b", ["station 3", "station 1"]).get_xticklabels()
    assert [text.get_text() for text in some] == ["station 3", "station 1"]
    assert np.isfinite(model.core_sizes()).all()
    plt.close("all")


def test_text_and_numbers_are_told_apart(data):
    X, y = data
    text = X.assign(b=X["b"].astype(str))
    model = bk.FunctionalCP(0, mean=[bk.MainEffect("b", White(1.0))], noise_std=0.3)
    with pytest.warns(UserWarning, match="column 'b' of X holds numbers as text, such as"):
        model.fit(text, y)
    with pytest.raises(InvalidDataError, match="but the fit had text there, such as"):
        model.predict(X)
    with pytest.raises(InvalidDataError, match=r"had categories in \['b'\]: give a DataFrame"):
        model.predict(X.to_numpy())
    # What is declared has the order that was stated, and raises no doubt.
    order = [str(i) for i in range(10, -1, -1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(text.astype({"b": pd.CategoricalDtype(order)}), y)
    assert model.categories_["b"].tolist() == order


def test_predictions_at_categories_that_the_fit_has_not_seen(data):
    X, y = data
    named = X.assign(b="station " + X["b"].astype(str))
    effect = bk.MainEffect("b", White(2.0))
    model = bk.FunctionalCP(0, mean=[effect], noise_std=0.3).fit(named, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(named.iloc[:3])
    new = named.iloc[:3].assign(b=["station 1", "elsewhere", "elsewhere"])
    with pytest.warns(UserWarning, match=r"not seen, such as 'elsewhere', in 2 of 3 rows"):
        _, std = model.predict(new, return_std=True)
    # A draw from the prior of the effect, beside the noise.
    scale = y.std(ddof=1)
    assert std[1] == std[2] >= scale * np.hypot(2.0, 0.3)
    # Rows that are learned from are no surprise.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.partial_fit(new, y[:3])
        assert model.predict(new, return_std=True)[1][1] < 0.5 * std[1]


def test_an_effect_is_stated_once():
    X, y = make_table(0)
    twice = [bk.MainEffect("a"), bk.MainEffect("b"), bk.MainEffect("a", White())]
    with pytest.raises(ValueError, match=r"MainEffect\(a\) is given twice.*a sum of kernels"):
        bk.FunctionalCP(0, mean=twice).fit(X, y)


def test_both_forms_have_the_same_defaults():
    one, two = bk.FunctionalCP().get_params(), bk.FunctionalTucker().get_params()
    assert one.pop("rank") == two.pop("ranks")
    assert one == two


def test_attributes_that_are_absent_say_where_they_are(fitted):
    with pytest.raises(AttributeError, match=r"no elbo_: call fit\(X, y\) first"):
        _ = bk.FunctionalCP().elbo_
    with pytest.raises(AttributeError, match=r"engine='smc'.*; this fit has elbo_, n_iter_"):
        _ = fitted.log_evidence_
    with pytest.raises(AttributeError, match="'gibbs' and engine='smc' set it"):
        _ = fitted.posterior_
    with pytest.raises(AttributeError, match="object has no attribute 'plot_cores'"):
        _ = fitted.plot_cores


def test_pictures_of_what_is_not_there(data):
    model = bk.FunctionalCP(0, mean="constant", noise_std=1.0)
    with pytest.raises(NotFittedError):
        model.plot_core()
    model.fit(*data)
    with pytest.raises(ValueError, match="no factors"):
        model.plot_core()
    with pytest.raises(ValueError, match="see log_evidence_"):
        model.plot_bound()


# ---------------------------------------------------------------- refusals


REFUSED = {
    "rank": (lambda X, y: bk.FunctionalCP(1.5).fit(X, y), ValueError, "rank must be a whole"),
    "number of ranks": (
        lambda X, y: bk.FunctionalTucker((1, 2, 3)).fit(X, y),
        ValueError,
        r"one for each of 2 modes, got 3: \(1, 2, 3\)",
    ),
    "rank 0": (
        lambda X, y: bk.FunctionalTucker((1, 0)).fit(X, y),
        ValueError,
        r"each of ranks must be a whole number >= 1, got \(1, 0\)",
    ),
    "memory": (
        lambda X, y: bk.FunctionalTucker(2000).fit(X, y),
        ValueError,
        r"core of 4,000,000 entries, whose covariance needs 5.12e\+05 GB",
    ),
    "memory of functions": (
        lambda X, y: bk.FunctionalCP(10**6).fit(X, y),
        ValueError,
        r"rank=1000000 make functions of a mode, whose joint covariances need .* GB",
    ),
    "sparse X": (
        lambda X, y: bk.FunctionalTucker().fit(sparse.csr_array(X.to_numpy()), y),
        InvalidDataError,
        r"X is sparse: convert it with X\.toarray",
    ),
    "huge X": (
        lambda X, y: bk.FunctionalTucker().fit(X.to_numpy() * 1e300, y),
        InvalidDataError,
        "coordinates beyond 1e\\+100 .* another unit",
    ),
    "huge column of X": (
        lambda X, y: bk.FunctionalTucker().fit(X.assign(a=-1e300), y),
        InvalidDataError,
        "column 'a' of X is -1e\\+300 at row 0",
    ),
    "text for degrees": (
        lambda X, y: bk.FunctionalTucker(likelihood="student_t", degrees="a").fit(X, y),
        ValueError,
        "degrees must be a number above 2, .* got 'a'",
    ),
    "text for tol": (
        lambda X, y: bk.FunctionalTucker(tol="a").fit(X, y),
        ValueError,
        "tol must be a number >= 0, got 'a'",
    ),
    "NaN in X": (
        lambda X, y: bk.FunctionalTucker().fit(X.to_numpy() * np.nan, y),
        InvalidDataError,
        "X contains NaN at row 0, column 0",
    ),
    "infinite X": (
        lambda X, y: bk.FunctionalTucker().fit(X.assign(a=np.inf), y),
        InvalidDataError,
        "column 'a' of X contains inf at row 0",
    ),
    "one axis": (
        lambda X, y: bk.FunctionalTucker().fit(y, y),
        InvalidDataError,
        "one column for each mode",
    ),
    "no columns": (
        lambda X, y: bk.FunctionalTucker().fit(X[[]], y),
        InvalidDataError,
        "at least one mode",
    ),
    "no rows": (
        lambda X, y: bk.FunctionalTucker().fit(X.iloc[:0], y[:0]),
        InvalidDataError,
        "no rows|at least one row|empty",
    ),
    "lengths": (
        lambda X, y: bk.FunctionalTucker().fit(X, y[1:]),
        ValueError,
        "same number of rows",
    ),
    "missing category": (
        lambda X, y: bk.FunctionalTucker().fit(X.assign(a=["north", None] * (len(X) // 2)), y),
        InvalidDataError,
        "column 'a' of X contains a missing category at row 1",
    ),
    "no y": (
        lambda X, y: bk.FunctionalTucker().fit(X, y * np.nan),
        InvalidDataError,
        "NaN only",
    ),
    "kernel of no mode": (
        lambda X, y: bk.FunctionalTucker(kernel={"c": "matern12"}).fit(X, y),
        ValueError,
        r"names the modes \['c'\]; there are \['a', 'b'\]",
    ),
    "number of kernels": (
        lambda X, y: bk.FunctionalTucker(kernel=["matern12"]).fit(X, y),
        ValueError,
        "one for each of 2, got 1",
    ),
    "name of a kernel": (
        lambda X, y: bk.FunctionalTucker(kernel="rbf").fit(X, y),
        ValueError,
        "rbf",
    ),
    "likelihood": (
        lambda X, y: bk.FunctionalTucker(likelihood="poisson").fit(X, y),
        ValueError,
        "likelihood must be one of",
    ),
    "degrees": (
        lambda X, y: bk.FunctionalTucker(likelihood="student_t", degrees=2).fit(X, y),
        ValueError,
        "degrees must be a number above 2",
    ),
    "noise": (
        lambda X, y: bk.FunctionalTucker(noise_std=0.0).fit(X, y),
        ValueError,
        "noise_std must be a positive number",
    ),
    "prior of the noise": (
        lambda X, y: bk.FunctionalTucker(noise_std=LogNormal(1.0, 1.0)).fit(X, y),
        ValueError,
        "noise_std must be None",
    ),
    "method": (lambda X, y: bk.FunctionalTucker(method="fast").fit(X, y), ValueError, "fast"),
    "max_iter": (
        lambda X, y: bk.FunctionalTucker(max_iter=0).fit(X, y),
        ValueError,
        "max_iter must be a whole number >= 1, got 0",
    ),
    "num_starts": (
        lambda X, y: bk.FunctionalTucker(num_starts=1.5).fit(X, y),
        ValueError,
        "num_starts must be a whole number >= 1, got 1.5",
    ),
    "tol": (
        lambda X, y: bk.FunctionalTucker(tol=-1.0).fit(X, y),
        ValueError,
        "tol must be a number >= 0",
    ),
    "mean": (
        lambda X, y: bk.FunctionalTucker(mean="linear").fit(X, y),
        ValueError,
        "mean must be 'additive'",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refusals(case, data):
    call, error, match = case
    with pytest.raises(error, match=match):
        call(*data)


def test_refusals_of_a_fitted_model(fitted, data):
    X, y = data
    with pytest.raises(InvalidDataError, match=r"lacks the columns \['b'\]"):
        fitted.predict(X[["a"]])
    with pytest.raises(InvalidDataError, match="X has 3 columns, but the fit had 2"):
        fitted.predict(np.zeros((2, 3)))
    with pytest.raises(InvalidDataError, match="NaN at row 0"):
        fitted.predict(X.assign(a=np.nan))
    with pytest.raises(InvalidDataError, match="column 'a' of X holds categories, but the fit"):
        fitted.predict(X.assign(a="north"))
    with pytest.raises(ValueError, match="no mode 5"):
        fitted.factors(5, [0.0])
    with pytest.raises(ValueError, match="same number of rows"):
        fitted.log_density(X, y[1:])
