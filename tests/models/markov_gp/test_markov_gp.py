"""Manners of the estimator: input, repeats, appended rows, files, compilation, bad input."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.utils.estimator_checks import check_estimator

import bayeskit as bk
from bayeskit import container
from bayeskit.errors import ConvergenceWarning, CorruptFileError, InvalidDataError
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.inference.gp_kernels import (
    FreeParameters,
    Linear,
    LogNormal,
    Matern32,
    Periodic,
    Scales,
)
from bayeskit.models.markov_gp.likelihoods import LIKELIHOODS
from bayeskit.models.markov_gp.naming import hyperparameter_names

KERNEL = Matern32(1.0, 0.8)
RNG = np.random.default_rng(0)
X = np.sort(RNG.uniform(0, 5, 20))
Y = np.sin(X) + 0.1 * RNG.normal(size=20)
NEW = np.array([-1.0, 0.3, X[4], 4.4, 6.0])


def fixed(**settings):
    return bk.MarkovGPRegressor(KERNEL, noise=0.2, **{"mean": 0.0, **settings})


@pytest.fixture(scope="module")
def fitted():
    return fixed().fit(X, Y)


def moments(gp, new=NEW):
    return np.stack(gp.predict(new, return_std=True))


# ---------------------------------------------------------------- data


def test_order_of_rows_does_not_matter(fitted):
    order = np.random.default_rng(1).permutation(20)
    again = fixed().fit(X[order], Y[order])
    np.testing.assert_allclose(moments(again), moments(fitted), atol=1e-10)
    assert again.log_evidence_ == pytest.approx(fitted.log_evidence_, abs=1e-10)
    shuffled = np.random.default_rng(2).permutation(5)
    np.testing.assert_allclose(
        moments(fitted, NEW[shuffled]), moments(fitted)[:, shuffled], atol=1e-12
    )


def test_repeats_are_one_row_with_less_noise():
    once = bk.MarkovGPRegressor(KERNEL, noise=0, mean=0.0)
    sd = np.full(20, 0.2)
    sd[3] = 0.2 / 2
    once.fit(X, Y, noise_std=sd)
    four = fixed().fit(np.append(X, [X[3]] * 3), np.append(Y, [Y[3]] * 3))
    np.testing.assert_allclose(
        once.predict(NEW, return_std=True, of="function"),
        four.predict(NEW, return_std=True, of="function"),
        atol=1e-10,
    )


def test_missing_values_tell_nothing(fitted):
    holes = fixed().fit(np.append(X, [2.22, 9.0]), np.append(Y, [np.nan, np.nan]))
    np.testing.assert_allclose(moments(holes), moments(fitted), atol=1e-10)
    assert holes.log_evidence_ == pytest.approx(fitted.log_evidence_, abs=1e-10)
    assert holes.n_ignored_ == 2 and fitted.n_ignored_ == 0


def test_kinds_of_input(fitted):
    column = fixed().fit(pd.DataFrame({"x": X}), pd.Series(Y))
    np.testing.assert_array_equal(moments(column), moments(fitted))
    np.testing.assert_array_equal(moments(column, NEW[:, None]), moments(fitted))
    days = np.arange(20) * 2
    whole = fixed().fit(days, Y)
    stamps = np.datetime64("2020-01-01", "s") + days * np.timedelta64(1, "D")
    dated = fixed().fit(pd.Series(stamps), Y)
    np.testing.assert_allclose(
        dated.predict(stamps[:3] + np.timedelta64(12, "h")),
        whole.predict([0.5, 2.5, 4.5]),
        atol=1e-9,
    )
    assert dated.bands(stamps[:3]).index[0] == pd.Timestamp("2020-01-01")
    for same in (pd.Series(stamps[:3]), list(pd.Series(stamps)[:3])):
        np.testing.assert_array_equal(dated.predict(same), dated.predict(stamps[:3]))
    assert dated.plot().get_lines()[-1].get_xdata()[0] == stamps[0]
    with pytest.raises(InvalidDataError, match="the fit had dates in X, but these are numbers"):
        dated.predict([1.0, 2.0])
    for method in (whole.predict, lambda new: whole.partial_fit(new, [1.0])):
        with pytest.raises(InvalidDataError, match="had numbers in X, but these are dates"):
            method(stamps[:1])


def test_times_with_and_without_a_zone():
    days = pd.date_range("2020-01-01", periods=20)
    zoned = days.tz_localize("Europe/Berlin")
    plain, there = fixed().fit(days, Y), fixed().fit(zoned, Y)
    in_utc = fixed().fit(zoned.tz_convert(None), Y)
    for new in (zoned[:3], list(zoned[:3]), zoned[:3].tz_convert("Asia/Tokyo")):
        np.testing.assert_array_equal(
            there.predict(new), in_utc.predict(zoned[:3].tz_convert(None))
        )
    with pytest.raises(InvalidDataError, match="had no time zone, but X has one"):
        plain.predict(zoned)
    with pytest.raises(InvalidDataError, match="had a time zone, but X has none"):
        there.partial_fit(days, Y)
    with pytest.raises(InvalidDataError, match="dates with a time zone and dates without"):
        plain.predict([days[0], zoned[0]])
    assert list(there.loo().index) == list(zoned)
    assert list(plain.loo().index) == list(days)
    axis = there.plot()
    assert axis.get_xlabel() == "x, UTC" and axis.get_ylabel() == "function"


def test_shift_and_unit_of_the_coordinate(fitted):
    shifted = fixed().fit(X + 1e6, Y)
    np.testing.assert_allclose(moments(shifted, NEW + 1e6), moments(fitted), atol=1e-6)
    grown = bk.MarkovGPRegressor(Matern32(1.0, 800.0), noise=0.2, mean=0.0).fit(1e3 * X, Y)
    np.testing.assert_allclose(moments(grown, 1e3 * NEW), moments(fitted), atol=1e-10)


def test_learned_hyperparameters_follow_the_units():
    one = bk.MarkovGPRegressor().fit(X, Y)
    two = bk.MarkovGPRegressor().fit(100.0 * X - 7.0, 10.0 * Y + 3.0)
    for name, factor in (
        ("kernel.std", 10.0),
        ("kernel.lengthscale", 100.0),
        ("likelihood.noise", 10.0),
    ):
        expected = factor * one.hyperparameters_[name]
        assert two.hyperparameters_[name] == pytest.approx(expected, rel=1e-4)
    assert two.mean_ == pytest.approx(10.0 * one.mean_ + 3.0)
    assert one.kernel_.std == one.hyperparameters_["kernel.std"]


def test_names_are_those_of_kernels():
    sums = Matern32() + 2.0 * Matern32(1.0) + Matern32(1.0) * Periodic(1.0, period=2.0)
    model = {"kernel": sums, "likelihood": LIKELIHOODS["normal"]()}
    free = FreeParameters.of({n: p.with_defaults(Scales()) for n, p in model.items()})
    assert hyperparameter_names(free) == (
        "kernel.matern32.std",
        "kernel.matern32.lengthscale 1",
        "kernel.matern32.lengthscale 2",
        "kernel.matern32.lengthscale 3",
        "kernel.periodic.lengthscale",
        "likelihood.noise",
    )
    alone = {"kernel": Matern32() * None}
    free = FreeParameters.of({n: p.with_defaults(Scales()) for n, p in alone.items()})
    assert hyperparameter_names(free) == (
        "kernel.matern32.std",
        "kernel.matern32.lengthscale",
        "kernel.factor",
    )


def test_partial_fit_is_fit_on_all_rows():
    whole = fixed().fit(X, Y)
    parts = fixed().partial_fit(X[12:], Y[12:])
    for row in (slice(0, 5), slice(5, 12)):
        parts.partial_fit(X[row], Y[row])
    np.testing.assert_allclose(moments(parts), moments(whole), atol=1e-10)
    assert parts.log_evidence_ == pytest.approx(whole.log_evidence_, abs=1e-8)
    parts.partial_fit([0.5], [np.nan])
    np.testing.assert_allclose(moments(parts), moments(whole), atol=1e-10)
    assert parts.n_ignored_ == 1
    learned = bk.MarkovGPRegressor().fit(X[:15], Y[:15])
    before, mean = dict(learned.hyperparameters_), learned.mean_
    learned.partial_fit(X[15:], Y[15:])
    assert learned.hyperparameters_ == before and learned.mean_ == mean


def test_degenerate_data():
    one = bk.MarkovGPRegressor().fit([3.0], [2.0])
    assert np.isfinite(moments(one)).all()
    with pytest.warns(ConvergenceWarning, match="y is 7 in all rows"):
        constant = bk.MarkovGPRegressor().fit(X, np.full(20, 7.0))
    np.testing.assert_allclose(constant.predict(NEW), 7.0, atol=1e-6)
    same_place = bk.MarkovGPRegressor().fit(np.full(5, 2.0), Y[:5])
    assert np.isfinite(moments(same_place)).all() and np.isfinite(same_place.log_evidence_)


def test_float32(fitted):
    single = fixed(precision="float32").fit(X.astype(np.float32), Y.astype(np.float32))
    np.testing.assert_allclose(moments(single), moments(fitted), atol=1e-3)
    assert single.log_evidence_ == pytest.approx(fitted.log_evidence_, abs=1e-2)


def test_quantiles(fitted):
    mean, sd = fitted.predict(NEW, return_std=True)
    low, middle, high = fitted.predict_quantiles(NEW, (0.05, 0.5, 0.95))
    np.testing.assert_allclose(middle, mean, atol=1e-12)
    np.testing.assert_allclose(high - mean, 1.6448536 * sd, rtol=1e-6)
    np.testing.assert_allclose(mean - low, high - mean, rtol=1e-9)
    assert list(fitted.bands(NEW).columns) == ["mean", "sd", "5%", "median", "95%"]
    ax = fitted.plot()
    assert len(ax.lines) == 2 and len(ax.collections) == 1
    wide = fitted.bands(NEW, of="rate", level=0.95)
    assert list(wide.columns) == ["mean", "sd", "2.5%", "median", "97.5%"]
    mean, sd = fitted.predict(NEW, return_std=True, of="rate")
    np.testing.assert_allclose(wide["97.5%"] - mean, 1.95996398 * sd, rtol=1e-6)
    with pytest.raises(ValueError, match="level must lie strictly between 0 and 1, got 95"):
        fitted.plot(level=95)
    legend = fitted.plot(level=0.95).get_legend().get_texts()[0].get_text()
    assert legend == "median, 2.5 % to 97.5 %"


# ---------------------------------------------------------------- manners


def test_second_fit_and_one_more_row_compile_nothing(fitted):
    gp = bk.MarkovGPRegressor().fit(X, Y)
    gp.predict(NEW)
    with CompileClock() as clock:
        again = bk.MarkovGPRegressor().fit(X[:-1], Y[:-1] + 1.0)
        again.predict(NEW[:-1])
    assert clock.num_compiled == 0
    assert again.log_evidence_ != gp.log_evidence_


def test_scikit_learn_manners(fitted):
    gp = bk.MarkovGPRegressor(Matern32() + Linear(1.0), noise=LogNormal(0.1), random_state=3)
    copy = clone(gp)
    assert copy.get_params()["random_state"] == 3
    assert copy.set_params(noise=0.5).noise == 0.5
    with pytest.raises(NotFittedError, match="call fit"):
        gp.predict(NEW)
    with pytest.raises(AttributeError, match="exists after fit"):
        _ = gp.log_evidence_
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(moments(again), moments(fitted))
    assert fitted.n_features_in_ == 1 and fitted.score(X, Y) > 0.9
    folds = KFold(2, shuffle=True, random_state=0)
    search = GridSearchCV(fixed(), {"noise": [0.1, 5.0]}, cv=folds).fit(X[:, None], Y)
    assert search.best_params_ == {"noise": 0.1}


def test_check_estimator():
    """scikit-learn skips the checks that need several columns: there is one coordinate."""
    with pytest.warns(SkipTestWarning, match="requires input"):
        results = check_estimator(bk.MarkovGPRegressor("matern12"))
    assert [result["status"] for result in results].count("passed") >= 1


def test_save_and_load(tmp_path):
    kernel = 2.0 * Periodic(1.0, LogNormal(2.0, 0.1), 1.0, num_harmonics=1)
    gp = bk.MarkovGPRegressor(kernel, noise=LogNormal(0.1), random_state=3).fit(X, Y)
    gp.save(tmp_path / "gp.bkit")
    loaded = bk.load(tmp_path / "gp.bkit")
    np.testing.assert_allclose(moments(loaded), moments(gp), rtol=1e-12)
    assert loaded.hyperparameters_ == pytest.approx(gp.hyperparameters_, rel=1e-12)
    assert loaded.log_evidence_ == pytest.approx(gp.log_evidence_, rel=1e-9)
    assert loaded.mean == "auto"
    assert loaded.mean_ == gp.mean_
    assert str(loaded.get_params()) == str(gp.get_params())
    assert set(loaded.hyperparameters_) == set(gp.hyperparameters_)
    loaded.partial_fit([2.0], [0.5])


def test_an_unknown_kernel_in_a_file_is_refused(tmp_path):
    fixed().fit(X, Y).save(tmp_path / "gp.bkit")
    read = container.read_container(tmp_path / "gp.bkit", kinds={"MarkovGPRegressor"})
    for kernel in ({"class": "Exotic"}, {"class": "Matern32", "knots": 3}, {}):
        read.parameters["kernel"] = kernel
        container.write_container(
            tmp_path / "bad.bkit", "MarkovGPRegressor", read.parameters, read.arrays
        )
        with pytest.raises(CorruptFileError, match="the file"):
            bk.load(tmp_path / "bad.bkit")


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("settings", "x", "y", "message"),
    [
        ({}, [0.0, np.nan], [1, 2], r"X contains NaN at row 1"),
        ({}, [[0.0], [np.inf]], [1, 2], r"X contains inf at row 1, column 0"),
        ({}, [0.0, 1.0], [1, np.inf], r"y contains inf at row 1"),
        ({}, [[0.0, 1.0]], [1], r"one coordinate for each row"),
        ({}, np.zeros((2, 2, 2)), [1, 2], r"one coordinate for each row"),
        ({}, [], [], r"no rows"),
        ({}, [0.0, 1e300], [1, 2], r"X is 1e\+300 at row 1, .* another unit"),
        ({}, [0.0, 1.0], [1], r"same number of rows"),
        ({}, [0.0, 1.0], [np.nan, np.nan], r"NaN only"),
        ({}, [0.0, 1.0], None, r"y is missing"),
        ({}, ["a", "b"], [1, 2], r"must hold real numbers"),
        ({}, np.array(["2020-01-01", "NaT"], "M8[D]"), [1, 2], r"NaT at row 1"),
        ({"kernel": "rbf"}, [0.0], [1], r"kernel must be one of matern12"),
        ({"method": "fast"}, [0.0], [1], r"method must be one of"),
        ({"likelihood": "gamma"}, [0.0], [1], r"likelihood must be one of normal"),
        (
            {"likelihood": "poisson"},
            [0.0, 1.0],
            [1, -2],
            r"counts 0, 1, 2, ... in y, got -2 at row 1",
        ),
        ({"likelihood": "bernoulli"}, [0.0, 1.0], [1, 2], r"0 and 1 in y, got 2 at row 1"),
        ({}, [0.0, 1.0], [1e200, 2e200], r"y lies between 1e\+200 and 2e\+200, so that its"),
        ({}, [0.0, 1.0], [1e-200, 2e-200], r"give y in another unit"),
        ({"likelihood": "poisson", "noise": 1.0}, [0.0], [1], r"has no noise"),
        ({"noise": -1.0}, [0.0], [1], r"noise must be a positive number"),
        ({"noise": 0}, [0.0], [1], r"noise_std > 0 is needed"),
        ({"inference": "vi"}, [0.0], [1], r"'map' or an engine"),
        ({"num_starts": 0}, [0.0], [1], r"num_starts must be a whole number"),
        ({"mean": "zero"}, [0.0], [1], r"mean must be 'auto' or a finite number, got 'zero'"),
        ({}, [0.0, 1.0], [1e200, -1e200], r"variance is beyond double precision"),
        ({"precision": "half"}, [0.0], [1], r"precision must be"),
        ({"kernel": Periodic()}, [0.0], [1], r"Periodic needs period"),
    ],
)
def test_bad_input(settings, x, y, message):
    with pytest.raises(ValueError, match=message):
        bk.MarkovGPRegressor(**settings).fit(x, y)


def test_bad_calls(fitted):
    with pytest.raises(TypeError, match="kernel must be a name or made of"):
        bk.MarkovGPRegressor(3).fit(X, Y)
    with pytest.raises(TypeError, match=r"write Matern32\(\), with brackets"):
        bk.MarkovGPRegressor(Matern32).fit(X, Y)
    with pytest.raises(InvalidDataError, match="noise_std must be at least 0, got -1"):
        fixed().fit(X, Y, noise_std=np.append(np.ones(19), -1.0))
    with pytest.raises(InvalidDataError, match=r"one for each of 20 rows, got shape \(2,\)"):
        fixed().fit(X, Y, noise_std=[1.0, 2.0])
    with pytest.raises(ValueError, match="X has 2 features"):
        fitted.predict(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="of must be 'observation', 'function' or 'rate'"):
        fitted.predict(NEW, of="noise")
    with pytest.raises(ValueError, match="between 0 and 1"):
        fitted.predict_quantiles(NEW, [0.0, 0.5])
    with pytest.raises(ValueError, match=r"quantiles must be probabilities .* got 'a'"):
        fitted.predict_quantiles(NEW, "a")
    with pytest.raises(ValueError, match=r"quantiles must be probabilities .* got \[\]"):
        fitted.predict_quantiles(NEW, [])
    with pytest.raises(InvalidDataError, match="X has no rows"):
        fitted.predict([])
    with pytest.raises(ValueError, match="num_draws must be"):
        fitted.sample_y(NEW, 0)
    with pytest.raises(ValueError, match=r"'kernel\.std' is not learned"):
        fitted.log_evidence({"kernel.std": 1.0})
    with pytest.raises(AttributeError, match="exists after fit with an engine"):
        _ = fitted.posterior_
    with pytest.raises(ValueError, match="likelihood='poisson' takes no noise_std"):
        bk.MarkovGPRegressor(likelihood="poisson").fit([0.0], [1], noise_std=1.0)
