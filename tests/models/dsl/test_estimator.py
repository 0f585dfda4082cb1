"""The estimator: scikit-learn's manners, inputs of all kinds, and what it reports."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, KFold
from sklearn.utils.estimator_checks import check_estimator

import bayeskit as bk
from bayeskit.errors import InvalidDataError
from bayeskit.models.dsl import dsl_fit, stratified_probabilities, unit_probabilities
from tests.models.dsl.panels import documents

FRAME = documents()
BOTH = {
    "model": "logit",
    "formula": "y ~ x + z",
    "predicted": {"y": "y_model", "x": "x_model"},
    "learner": "linear",
    "n_repeats": 3,
}


def fitted(**settings):
    return bk.DSLRegressor(**{**BOTH, **settings}).fit(FRAME)


def test_manners_of_scikit_learn():
    model = bk.DSLRegressor(**BOTH)
    with pytest.raises(NotFittedError):
        model.summary()
    assert model.fit(FRAME) is model
    again = clone(model).fit(FRAME)
    np.testing.assert_array_equal(again.coef_, model.coef_)
    other = clone(model).set_params(random_state=5).fit(FRAME)
    assert np.abs(other.coef_ - model.coef_).max() > 0
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.vcov_, model.vcov_)
    assert str(loaded.summary()) == str(model.summary())


def test_check_estimator():
    """All checks, but for that of array libraries, which an environment variable turns on."""
    with pytest.warns(SkipTestWarning):
        results = check_estimator(bk.DSLRegressor(learner="linear"), on_fail=None)
    failed = [r["check_name"] for r in results if r["status"] == "failed"]
    assert failed == []


def test_arrays_and_formula_agree():
    settings = {"model": "logit", "learner": "linear", "n_repeats": 2}
    arrays = bk.DSLRegressor(**settings).fit(
        FRAME[["x_true", "z"]], FRAME.y, surrogates=FRAME.y_model
    )
    table = bk.DSLRegressor(
        formula="y ~ x_true + z", predicted={"y": "y_model"}, **settings
    ).fit(FRAME)
    np.testing.assert_allclose(arrays.coef_, table.coef_, atol=1e-12)
    assert arrays.terms_ == table.terms_ == ["Intercept", "x_true", "z"]
    predicted = arrays.predict(FRAME[["x_true", "z"]])
    np.testing.assert_allclose(predicted, table.predict(FRAME), atol=1e-12)
    with pytest.raises(
        InvalidDataError, match="X has 1 features, but DSLRegressor is expecting"
    ):
        arrays.predict(FRAME[["z"]])
    both = bk.DSLRegressor(**settings).fit(
        FRAME[["x", "z"]], FRAME.y, surrogates={"y": FRAME.y_model, "x": FRAME.x_model}
    )
    np.testing.assert_allclose(both.coef_, fitted(n_repeats=2).coef_, atol=1e-12)
    numbers = bk.DSLRegressor(**settings).fit(
        FRAME[["x", "z"]].to_numpy(), FRAME.y, surrogates={"y": FRAME.y_model, 0: FRAME.x_model}
    )
    np.testing.assert_allclose(numbers.coef_, both.coef_, atol=1e-12)
    with pytest.raises(InvalidDataError, match="surrogates names 'w'"):
        numbers.fit(FRAME[["z"]], FRAME.y, surrogates={"w": FRAME.y_model})
    plain = bk.DSLRegressor().fit(FRAME[["z"]].to_numpy(), FRAME.y_true)
    assert plain.n_labeled_ == len(FRAME)
    assert plain.score(FRAME[["z"]].to_numpy(), FRAME.y_true) > 0.01


def test_estimator_and_arrays_agree():
    model = fitted()
    both = [np.broadcast_to(np.ones(400), (3, 400)), model.predictions_["x"]]
    X_hat = np.stack([*both, np.broadcast_to(FRAME.z, (3, 400))], axis=-1)
    X = np.column_stack([np.ones(400), FRAME.x, FRAME.z])
    result = dsl_fit(FRAME.y, X, model.predictions_["y"], X_hat, model="logit")
    np.testing.assert_allclose(result.coef, model.coef_, atol=1e-10)
    np.testing.assert_allclose(result.vcov, model.vcov_, atol=1e-10)


def test_table_summary_and_latex():
    model = fitted(cluster="cluster", power_tuning="trace")
    table = model.to_frame(level=0.9)
    np.testing.assert_allclose(table[["lower", "upper"]], model.ci(0.9))
    z = model.coef_ / model.se_
    from scipy import stats

    np.testing.assert_allclose(table.p, 2 * stats.norm.sf(np.abs(z)), rtol=1e-12)
    text = str(model.summary())
    for line in (
        "logit",
        "y ~ x + z",
        "of which",
        "60",
        "Lambda",
        "linear, 5 folds, 3 repeats",
    ):
        assert line in text
    assert "<table>" in model.summary()._repr_html_()
    latex = model.summary().to_latex(caption="A", label="tab:a")
    assert latex.count(r"\\") == 4
    assert r"\begin{table}" in latex
    assert "Intercept & $-$" in latex or "Intercept & 0" in latex


def test_notes_warn_of_weak_designs():
    labels = np.flatnonzero(FRAME.y.notna())[:30]
    frame = FRAME.assign(y=np.where(np.isin(np.arange(400), labels), FRAME.y, np.nan))
    prob = np.where(np.arange(400) == labels[0], 0.001, 0.1)
    model = bk.DSLRegressor(
        formula="y ~ z",
        predicted={"y": "y_model"},
        learner="linear",
        n_repeats=1,
        sample_prob=prob,
        normalize="none",
        cluster=np.arange(400) % 20,
    ).fit(frame)
    text = str(model.summary())
    assert "smallest probability of being labelled is 0.001" in text
    assert "20 clusters are few" in text
    assert "labelled rows only (< 20)" in text
    assert "unequal probabilities" in text


@pytest.mark.parametrize(
    "learner",
    [
        LogisticRegression(),
        HistGradientBoostingClassifier(max_iter=5),
        "identity",
    ],
)
def test_learners_of_all_kinds_agree_within_their_errors(learner):
    """False-alarm rate far below 1e-6: fits of the same labels differ by less than an error."""
    settings = {"formula": "y ~ z", "predicted": {"y": "y_model"}, "features": ["z", "x_model"]}
    first = fitted(**settings)
    other = fitted(**settings, learner=learner)
    assert np.abs((first.coef_ - other.coef_) / first.se_).max() < 1.0


def test_folds_of_splitters_and_clusters():
    folds = fitted(cv=KFold(3)).folds_
    np.testing.assert_array_equal(folds[0], np.repeat([0, 1, 2], [134, 133, 133]))
    grouped = fitted(cluster="cluster").folds_
    tied = pd.DataFrame({"c": FRAME.cluster, "f": grouped[0]}).groupby("c").f.nunique()
    assert (tied == 1).all()
    by_splitter = fitted(cluster="cluster", cv=GroupKFold(4)).folds_
    assert len(np.unique(by_splitter)) == 4
    labeled = FRAME.y.notna().to_numpy()
    counts = np.bincount(fitted().folds_[0], labeled)
    assert np.ptp(counts) <= 1
    assert np.ptp(np.bincount(fitted().folds_[0])) <= 1


def test_classes_as_outcome():
    classes = np.array(["no", "yes"], object)[FRAME.y_true.astype(int)]
    frame = FRAME.assign(
        y=np.where(FRAME.y.notna(), classes, None),
        y_model=np.array(["no", "yes"])[FRAME.y_model.astype(int)],
    )
    settings = {"formula": "y ~ z", "predicted": {"y": "y_model"}}
    multinomial = bk.DSLRegressor(**{**BOTH, **settings, "model": "multinomial"}).fit(frame)
    logit = fitted(**settings)
    assert multinomial.terms_ == ["yes: Intercept", "yes: z"]
    np.testing.assert_allclose(multinomial.coef_, logit.coef_, atol=1e-6)
    np.testing.assert_allclose(multinomial.predict(frame).sum(axis=1), 1.0)
    errors = multinomial.prediction_errors_["y"]
    assert errors["accuracy"] == pytest.approx(logit.prediction_errors_["y"]["accuracy"])


def test_classes_as_covariate():
    """Classes of which all are labelled, or perfectly predicted, are dummies."""
    settings = {"model": "linear", "learner": "identity", "n_repeats": 1}
    known = FRAME.assign(
        topic=np.where(FRAME.y.notna(), FRAME.group, None), guess=FRAME.group, v=FRAME.x_true
    )
    model = bk.DSLRegressor(
        formula="v ~ C(topic):z + topic", predicted={"topic": "guess"}, **settings
    ).fit(known)
    group = FRAME.group.to_numpy()[:, None] == np.array(["a", "b", "c"])
    X = np.column_stack([np.ones(400), group[:, 1:], group * FRAME.z.to_numpy()[:, None]])
    plain = dsl_fit(FRAME.x_true, X)
    np.testing.assert_allclose(np.sort(model.coef_), np.sort(plain.coef), atol=1e-10)
    np.testing.assert_allclose(np.sort(model.se_), np.sort(plain.se), atol=1e-10)
    codes = FRAME.group.map({"a": 1.0, "b": 2.0, "c": 3.0})
    numbered = bk.DSLRegressor(
        formula="v ~ C(topic)", predicted={"topic": "guess"}, **settings
    ).fit(known.assign(topic=np.where(FRAME.y.notna(), codes, np.nan), guess=codes))
    means = FRAME.groupby("group").x_true.mean().to_numpy()
    np.testing.assert_allclose(numbered.coef_, means - [0, means[0], means[0]], atol=1e-10)
    learned = bk.DSLRegressor(
        formula="v ~ topic",
        predicted={"topic": "guess"},
        learner=LogisticRegression(),
        n_repeats=1,
    )
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    learned.set_params(learner=make_pipeline(OneHotEncoder(), LogisticRegression())).fit(known)
    assert learned.predictions_["topic"].shape == (1, 400, 3)
    assert learned.prediction_errors_["topic"]["accuracy"] == 1.0


def test_transformed_variables_are_evaluated_at_predictions():
    model = fitted(model="linear", formula="y ~ x + I(x**2) + x:z")
    X_hat = model.predictions_["x"][0]
    columns = model.result_.data.predicted.x[0]
    names = model.terms_
    np.testing.assert_allclose(columns[:, names.index("I(x ** 2)")], X_hat**2)
    np.testing.assert_allclose(columns[:, names.index("x:z")], X_hat * FRAME.z)


def test_index_is_kept_and_nothing_is_changed():
    frame = FRAME.set_index(np.arange(1000, 1400))
    before = frame.copy()
    model = bk.DSLRegressor(**BOTH).fit(frame)
    pd.testing.assert_frame_equal(frame, before)
    np.testing.assert_array_equal(model.coef_, fitted().coef_)
    assert model.allocate_labels(50, learner="linear").index[0] == 1000


def test_mean_of_a_column():
    model = fitted(model="mean", formula="y", predicted={"y": "y_model"}, n_repeats=1)
    labeled = FRAME.y.notna()
    g = model.predictions_["y"][0]
    expected = np.mean(g + np.where(labeled, (FRAME.y - g) / labeled.mean(), 0.0))
    assert model.coef_[0] == pytest.approx(expected, abs=1e-12)


def test_contrasts():
    model = fitted()
    found = model.contrast("x - z")
    weight = np.array([0.0, 1.0, -1.0])
    assert found.estimate[0] == pytest.approx(weight @ model.coef_)
    assert found.se[0] == pytest.approx(np.sqrt(weight @ model.vcov_ @ weight))
    both = model.contrast("x = 0, z = 0.5")
    away = model.coef_[1:] - [0.0, 0.5]
    wald = away @ np.linalg.solve(model.vcov_[1:, 1:], away)
    assert both.statistic == pytest.approx(wald)
    assert both.labels == ("x", "z - 0.5")
    assert both.to_frame().shape == (2, 6)
    with pytest.raises(InvalidDataError, match="cannot be read"):
        model.contrast("x - w")
    with pytest.raises(InvalidDataError, match="determine each other"):
        model.contrast("x = 0, 2 * x = 0")


def test_comparators():
    model = fitted(predicted={"y": "y_model"}, formula="y ~ z")
    table = model.compare()
    assert list(table.index.get_level_values(0).unique()) == [
        "dsl",
        "gold",
        "semi_supervised",
        "surrogate",
    ]
    X = np.column_stack([np.ones(400), FRAME.z])
    surrogate = dsl_fit(FRAME.y_model, X, model="logit")
    np.testing.assert_allclose(table.loc["surrogate"].estimate, surrogate.coef, atol=1e-10)
    labeled = FRAME.y.notna().to_numpy()
    gold = dsl_fit(FRAME.y[labeled], X[labeled], model="logit")
    np.testing.assert_allclose(table.loc["gold"].estimate, gold.coef, atol=1e-10)
    for method in ("gold", "semi_supervised", "surrogate"):
        alone = clone(model).set_params(method=method).fit(FRAME)
        np.testing.assert_allclose(alone.coef_, table.loc[method].estimate, atol=1e-9)
        np.testing.assert_allclose(alone.se_, table.loc[method].se, atol=1e-9)


def test_helpers_of_sampling():
    found = unit_probabilities([0.5, 0.5, 0.2, 1.0], [2, 2, 1, 3])
    np.testing.assert_allclose(found, [0.2, 0.75, 1.0])
    strata = np.repeat([0, 1], [90, 10])
    probability = stratified_probabilities(strata, 40, {0: 0.5, 1: 0.5})
    np.testing.assert_allclose(probability[[0, -1]], [30 / 90, 1.0])
    assert probability.sum() == pytest.approx(40)


def test_strata_take_out_what_does_not_vary():
    """Labels of fixed size by stratum: by hand, and never above HC0 where means differ."""
    strata = (FRAME.y_model > 0).to_numpy().astype(int)
    generator = np.random.default_rng(2)
    labeled = np.zeros(400, bool)
    for h in (0, 1):
        labeled[generator.choice(np.flatnonzero(strata == h), 40, replace=False)] = True
    y = np.where(labeled, FRAME.y_true, np.nan)
    frame = FRAME.assign(y=y, stratum=strata)
    model = bk.DSLRegressor(
        model="mean",
        formula="y ~ 1",
        predicted={"y": "x_model"},
        learner="identity",
        normalize="strata",
        strata="stratum",
    ).fit(frame)
    shares = np.bincount(strata) / 400
    means = [FRAME.y_true[labeled & (strata == h)].mean() for h in (0, 1)]
    guess = FRAME.x_model.to_numpy()
    correction = [(FRAME.y_true - guess)[labeled & (strata == h)].to_numpy() for h in (0, 1)]
    assert model.coef_[0] == pytest.approx(
        guess.mean() + sum(s * c.mean() for s, c in zip(shares, correction, strict=True))
    )
    assert len(means) == 2
    moments = guess + np.array([c.mean() for c in correction])[strata] - model.coef_[0]
    for h in (0, 1):
        at = labeled & (strata == h)
        scale = (strata == h).sum() / at.sum()
        moments[at] += scale * (correction[h] - correction[h].mean())
    assert model.se_[0] == pytest.approx(np.sqrt((moments**2).sum()) / 400, rel=1e-12)


def test_two_ways_of_clusters():
    y, X = FRAME.x_true, np.column_stack([np.ones(400), FRAME.z])
    other = np.arange(400) % 31
    ways = np.column_stack([FRAME.cluster, other])
    both = dsl_fit(y, X, cluster=ways).vcov
    one, two = (dsl_fit(y, X, cluster=c).vcov for c in ways.T)
    joint = np.unique(ways, axis=0, return_inverse=True)[1].ravel()
    np.testing.assert_allclose(both, one + two - dsl_fit(y, X, cluster=joint).vcov, atol=1e-12)
