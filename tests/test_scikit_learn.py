"""Estimators among those of scikit-learn: search, pipelines, routing, processes, pickles."""

import pickle
import re
import warnings

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import bayeskit as bk
from bayeskit.errors import ConvergenceWarning
from bayeskit.inference.gp_kernels import Matern12
from tests.bad_input import entries
from tests.bad_input.entries import X, Y

# Estimators of scikit-learn's own checks, and the checks that are known to fail, with reasons.
# The lists may only become shorter. DSLRegressor and MarkovGPRegressor have theirs, without
# exceptions, beside their other tests. FunctionalCP and FunctionalTucker have a setting called
# `transform`, for which scikit-learn takes them for transformers. KnowledgeTracer and
# DistributionTransformer take no table of features and one target.
CHECKED = {
    "BayesianModel": (
        bk.BayesianModel(
            entries.linear, inference=bk.SMC(num_particles=96, progress=False), random_state=0
        ),
        {
            "check_estimators_empty_data_messages": "a model may take a table without columns",
            "check_fit1d": "a model may take X of one axis; this one itself cannot",
        },
    ),
}
FOLDS = KFold(3, shuffle=True, random_state=0)


def gp(**settings):
    return bk.MarkovGPRegressor(Matern12(1.2, 0.8), noise=0.3, mean=0.0, **settings)


def dsl(**settings):
    return bk.DSLRegressor(learner="linear", n_repeats=1, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CHECKED))
def test_check_estimator(name):
    estimator, expected = CHECKED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(
            estimator, expected_failed_checks=expected, on_fail=None, on_skip=None
        )
    failed = {r["check_name"]: repr(r["exception"]) for r in results if r["status"] == "failed"}
    assert failed == {}
    # A check that passes again leaves the list.
    assert {r["check_name"] for r in results if r["status"] == "xfail"} == set(expected)


@pytest.mark.parametrize(
    "estimator",
    [
        bk.BayesianModel(entries.linear),
        bk.MarkovGPRegressor("matern52", noise=0.1),
        bk.FunctionalCP(rank=2),
        bk.FunctionalTucker(ranks=(1, 2)),
        bk.KnowledgeTracer(3, graph="learn"),
        bk.DSLRegressor(model="logit"),
        bk.DistributionTransformer(
            entries.LinearGaussian(1.0, 1.0), entries.GaussianMixtureMetaPrior()
        ),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_constructors_store_and_clones_are_equal(estimator):
    before = estimator.get_params(deep=False)
    copy = clone(estimator)
    after = copy.get_params(deep=False)
    assert list(after) == list(before)
    addresses = re.compile("0x[0-9a-f]+")
    assert addresses.sub("", repr(after)) == addresses.sub("", repr(before))
    assert type(copy) is type(estimator)
    assert not [name for name in vars(copy) if name.endswith("_") and name[0] != "_"]
    assert copy.set_params(random_state=3).random_state == 3


def test_search_by_evidence_and_by_prediction():
    """Evidence uses all rows, so that there is one fold, of everything."""
    everything = [(np.arange(len(Y)), np.arange(len(Y)))]
    noises = {"noise": [0.01, 0.5, 30.0]}
    search = GridSearchCV(
        gp(), noises, scoring=lambda fitted, X, y: fitted.log_evidence_, cv=everything
    ).fit(X[:, :1], Y)
    expected = [gp().set_params(noise=n).fit(X[:, 0], Y).log_evidence_ for n in noises["noise"]]
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], expected, rtol=1e-10)
    assert search.best_params_["noise"] == noises["noise"][int(np.argmax(expected))]
    by_prediction = GridSearchCV(gp(), noises, cv=FOLDS).fit(X[:, :1], Y)
    assert np.isfinite(by_prediction.cv_results_["mean_test_score"]).all()


def test_pipelines_scale_and_name_columns():
    frame = sklearn.datasets.load_diabetes(as_frame=True).frame.iloc[:60]
    columns = ["age", "bmi"]
    pipeline = make_pipeline(StandardScaler(), dsl()).set_output(transform="pandas")
    pipeline.fit(frame[columns], frame["target"])
    found = pipeline[-1]
    assert found.terms_ == ["Intercept", *columns]
    assert list(found.feature_names_in_) == columns
    plain = LinearRegression().fit(StandardScaler().fit_transform(frame[columns]), frame.target)
    np.testing.assert_allclose(found.coef_[1:], plain.coef_, rtol=1e-9)
    np.testing.assert_allclose(
        pipeline.predict(frame[columns]),
        found.predict(
            StandardScaler().set_output(transform="pandas").fit_transform(frame[columns])
        ),
    )
    scores = cross_val_score(pipeline, frame[columns], frame["target"], cv=FOLDS)
    others = cross_val_score(
        make_pipeline(StandardScaler(), LinearRegression()),
        frame[columns],
        frame["target"],
        cv=FOLDS,
    )
    np.testing.assert_allclose(scores, others, atol=1e-9)


def test_metadata_is_routed():
    """Noise of rows goes to the fit of each fold with its rows."""
    noise = np.linspace(0.1, 2.0, len(Y))
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = gp().set_fit_request(noise_std=True)
        pipeline = make_pipeline(FunctionTransformer(), estimator)
        scores = cross_val_score(pipeline, X[:, :1], Y, cv=FOLDS, params={"noise_std": noise})
    for (train, test), score in zip(FOLDS.split(X), scores, strict=True):
        one = gp().fit(X[train, 0], Y[train], noise_std=noise[train])
        assert one.score(X[test, :1], Y[test]) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize("entry", [entries.numpyro_model, entries.markov_gp, entries.dsl])
def test_pickles_predict_the_same_bits(entry):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = entry()
    x = X[:, 0] if entry is entries.markov_gp else X
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(x), fitted.predict(x))
    np.testing.assert_array_equal(clone(fitted).fit(x, Y).predict(x), fitted.predict(x))


@pytest.mark.slow
@pytest.mark.parametrize("make", [gp, dsl])
def test_processes_find_the_same_scores(make):
    """Workers are new processes: a fork of one in which JAX runs may stand still."""
    x = X[:, :1] if make is gp else X
    scores = [cross_val_score(make(), x, Y, cv=FOLDS, n_jobs=n) for n in (1, 2)]
    np.testing.assert_array_equal(*scores)
