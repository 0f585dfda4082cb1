"""Manners of the tracer with the amortised arm: fit, forecasts, appended rows, refusals."""

import pickle
from dataclasses import replace

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

import bayeskit as bk
from bayeskit.errors import InvalidDataError, NonFiniteObjectiveError
from bayeskit.inference.compile_clock import CompileClock
from bayeskit.models.knowledge_tracing import AmortizedVariational
from tests.models.knowledge_tracing.learners import design

ENGINE = AmortizedVariational(num_categories=2, num_epochs=2, batch_size=8, num_draws=2)
STILL = AmortizedVariational(num_categories=2, num_epochs=0, batch_size=8, num_draws=2)


def tracer(engine=ENGINE, **settings):
    return bk.KnowledgeTracer(3, inference=engine, random_state=0, **settings)


@pytest.fixture(scope="module")
def answers():
    """Twelve learners of 16 rows: gaps of zero, two components at once, rows only studied."""
    table = design(12, 16).drop(columns="study")
    rng = np.random.default_rng(0)
    table["correct"] = rng.integers(2, size=len(table)).astype(float)
    table.loc[rng.uniform(size=len(table)) < 0.1, "correct"] = np.nan
    table["time"] = (table["time"] / 100.0).round(2)
    table["kc"] = table["kc"].astype(object)
    table.at[5, "kc"] = [0, 2]
    return table


@pytest.fixture(scope="module")
def fitted(answers):
    return tracer().fit(answers)


QUERY = pd.DataFrame({"learner": [3, 5, "new"], "kc": [0, 1, 2], "time": 1e3})


def test_what_is_learned(fitted):
    assert fitted.history_.shape == (4,) and np.isfinite(fitted.history_).all()
    assert np.isfinite(fitted.evidence_lower_bound_)
    table = fitted.traits_
    assert list(table.index) == list(range(12))
    for name in ("forgetting", "level", "volatility"):
        assert (table[f"{name}_lower"] < table[name]).all()
        assert (table[name] < table[f"{name}_upper"]).all()
    assert "transfer" not in table
    assert set(fitted.parameters_) == {
        "trait_mean",
        "trait_sd",
        "trait_persistence",
        "trait_drift_sd",
        "initial_mean",
        "initial_sd",
    }
    found = fitted.forecast(QUERY)
    assert (found["lower"] < found["probability"]).all() and (found["sd"] > 0).all()
    assert list(fitted.recommend(3, 1e3).columns) == ["kc", "probability", "information"]


def test_training_that_runs_away_is_refused(answers):
    words = r"it was nan, and first not finite at step 1 of 4: lower learning_rate=1e\+300"
    with pytest.raises(NonFiniteObjectiveError, match=words) as found:
        tracer(replace(ENGINE, learning_rate=1e300)).fit(answers)
    assert isinstance(found.value, FloatingPointError)


def test_partial_fit_is_fit(answers):
    """Row by row, with learners that were not there before: networks need no gradient."""
    whole, parts = tracer(STILL).fit(answers), tracer(STILL)
    rows = answers.sort_values("time", kind="stable")
    # The rate of forgetting to start from is that of the rows of the first call.
    fixed = {"parameters": {"trait_mean": whole.parameters_["trait_mean"]}}
    parts = tracer(STILL, **fixed)
    parts.partial_fit(rows.iloc[:40])
    for begin in range(40, 56):
        parts.partial_fit(rows.iloc[begin : begin + 1])
    parts.partial_fit(rows.iloc[56:])
    pd.testing.assert_frame_equal(parts.forecast(QUERY), whole.forecast(QUERY), atol=1e-8)
    pd.testing.assert_frame_equal(
        parts.traits_.sort_index(), whole.traits_.sort_index(), atol=1e-8
    )
    pd.testing.assert_frame_equal(parts.filter(5), whole.filter(5), atol=1e-8)


def test_forecasts_are_those_before_each_answer(fitted, answers):
    """One step ahead in a table is the open-loop forecast after the rows before."""
    own = answers[answers["learner"] == 4].assign(learner="again")
    ahead = fitted.predict_next(own)
    online = pickle.loads(pickle.dumps(fitted))
    for row in range(4):
        now = own.iloc[row : row + 1]
        p = online.predict_proba(now.drop(columns="correct"))
        assert p[0] == pytest.approx(ahead[row], abs=1e-12)
        online.partial_fit(now)
    # What comes later changes nothing before.
    flipped = own.assign(correct=np.r_[own["correct"][:8], 1 - own["correct"][8:]])
    np.testing.assert_allclose(fitted.predict_next(flipped)[:9], ahead[:9], atol=1e-12)
    assert len(fitted.learners_) == 12


def test_looking_changes_nothing(fitted):
    plain = fitted.filter(3)
    times = plain.index.get_level_values("time")
    more = fitted.filter(3, np.linspace(times[0] + 1e-3, times[-1] + 9.0, 7))
    seen = more[more.index.get_level_values("time").isin(times)]
    np.testing.assert_allclose(seen["mean"], plain["mean"], atol=1e-12)
    assert (more.tail(3)["sd"].to_numpy() > 0).all()


def test_what_it_refuses(fitted):
    with pytest.raises(InvalidDataError, match=r"cannot smooth.*inference='adf'"):
        fitted.smooth(3)
    with pytest.raises(AttributeError, match="only evidence_lower_bound_"):
        _ = fitted.log_evidence_
    with pytest.raises(AttributeError, match="with a graph"):
        _ = fitted.graph_
    plain = bk.KnowledgeTracer(3, num_steps=0).fit(design(1).assign(correct=0.0))
    with pytest.raises(AttributeError, match="inference='amortized' only"):
        _ = plain.evidence_lower_bound_


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kc_scales": 3}, "kc_scales=3 has no meaning"),
        ({"traits": "static"}, "traits='static' has no meaning"),
        ({"practice_gain": "additive"}, "practice_gain='additive' has no meaning"),
        ({"graph": "learn"}, "pass transition='frozen_parent'"),
        ({"graph": "learn", "transition": "frozen_parent"}, "pass allow_cycles=True"),
        ({"normalise": "rows"}, "normalise must be one of"),
        ({"parameters": {"gain": 1.0}}, "'gain' is not a parameter of"),
        ({"parameters": {"trait_mean": [1.0, 2.0]}}, "must have the shape"),
        ({"parameters": {"trait_sd": -1.0}}, "must be at least 0, got -1"),
        ({"parameters": {"trait_persistence": 1.5}}, r"must lie in \[0, 1\]"),
        ({"parameters": {"initial_mean": np.nan}}, "must be finite"),
    ],
)
def test_bad_settings(answers, settings, words):
    with pytest.raises(ValueError, match=words):
        tracer(STILL, **settings).fit(answers)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"objective": "iwae"}, "objective must be one of"),
        ({"num_categories": 0}, "num_categories must be a whole number >= 1"),
        ({"num_epochs": -1}, "num_epochs must be a whole number >= 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"learning_rate": 0.0}, "learning_rate must be a number, finite and positive"),
        ({"weight_decay": -1.0}, "weight_decay must be a number, finite and at least 0"),
        ({"budget_s": np.inf}, "budget_s must be a number"),
    ],
)
def test_bad_engines(settings, words):
    with pytest.raises(ValueError, match=words):
        AmortizedVariational(**settings)


def test_repeats_clones_and_pickles(fitted, answers):
    """The same bits from the same random state, and nothing compiled for the second fit."""
    with CompileClock() as clock:
        again = clone(fitted).fit(answers)
        fewer = tracer().fit(answers[answers["learner"] < 11])
    assert clock.timing()["compile_s"] < 0.05
    assert len(fewer.traits_) == 11
    np.testing.assert_array_equal(again.history_, fitted.history_)
    np.testing.assert_array_equal(again.forecast(QUERY), fitted.forecast(QUERY))
    assert again.evidence_lower_bound_ == fitted.evidence_lower_bound_
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.predict_proba(QUERY), fitted.predict_proba(QUERY))
    other = clone(fitted).set_params(random_state=1).fit(answers)
    assert other.history_[0] != fitted.history_[0]


def test_training_stops_in_time(answers):
    """A budget ends training at the next pause, which is after 20 steps."""
    engine = AmortizedVariational(
        num_categories=2, num_epochs=200, batch_size=8, num_draws=2, budget_s=1e-9
    )
    assert tracer(engine).fit(answers).history_.shape == (20,)


@pytest.mark.parametrize("graph", ["learn", "given"])
def test_graphs(answers, graph):
    edges = nx.DiGraph([(0, 1), (1, 2)])
    settings = {"transition": "frozen_parent", "allow_cycles": graph == "learn"}
    graph = graph if graph == "learn" else edges
    found = tracer(graph=graph, **settings).fit(answers)
    assert np.isfinite(found.history_).all()
    assert found.traits_["transfer"].between(0, 1).all()
    weights = found.graph_.to_numpy()
    assert (np.diag(weights) == 0).all()
    if isinstance(graph, str):
        assert (weights + weights.T <= 1 + 1e-9).all()
    else:
        np.testing.assert_array_equal(weights, [[0, 1, 0], [0, 0, 1], [0, 0, 0]])
    assert np.isfinite(found.forecast(QUERY)[["mean", "sd"]]).all(axis=None)


def test_published_objective(answers):
    engine = AmortizedVariational("published", 2, num_epochs=20, batch_size=8, num_draws=2)
    found = tracer(engine).fit(answers)
    assert found.history_[-5:].mean() < found.history_[:5].mean()
    assert np.isfinite(found.forecast(QUERY)[["mean", "sd"]]).all(axis=None)
    assert "not* a bound" in AmortizedVariational.__doc__


def test_simulation_and_arviz(fitted):
    table = fitted.simulate(design(20, 16), random_state=0, states=True)
    again = fitted.simulate(design(20, 16), random_state=0, states=True)
    pd.testing.assert_frame_equal(table, again)
    assert table["correct"].isna().equals(table["study"])
    assert (table["forgetting"] > 0).all() and "volatility" in table
    data = fitted.to_arviz(400, random_state=0)
    draws = data["posterior"]["level"]
    assert draws.shape == (1, 400, 12)
    traits = fitted.traits_
    error = np.asarray(draws.mean(("chain", "draw"))) - traits["level"].to_numpy()
    # 12 means of 400 draws: 6 standard errors.
    assert np.abs(error / (traits["level_sd"] / 20.0)).max() < 6


LEVELS = {
    "trait_mean": [-2.0, 0.0, -1.0],
    "trait_sd": [0.1, 1.5, 0.1],
    "trait_persistence": 1.0,
    "trait_drift_sd": [0.02, 0.1, 0.02],
    "initial_mean": 0.0,
    "initial_sd": 0.5,
}


def test_traits_are_recovered():
    """Levels of 200 learners that training did not see: far better than the prior, covered.

    A prior that says nothing has a ratio of 1 with a standard error of 0.1, and is six of them
    away from the mark. Intervals of 95 % of an approximate posterior cover
    at least 85 %.
    """
    engine = AmortizedVariational(num_categories=4, num_epochs=20, learning_rate=1e-2)
    plan = design(200, 32, num_kc=2).drop(columns="study")
    plan["time"] = plan.groupby("learner").cumcount() * 1.0
    settings = {"parameters": LEVELS, "random_state": 0}
    truth = bk.KnowledgeTracer(2, inference=STILL, **settings)
    truth = truth.fit(plan[:16].assign(correct=0))
    table = truth.simulate(plan, random_state=1, states=True)
    other = truth.simulate(plan, random_state=2, states=True)
    found = bk.KnowledgeTracer(2, inference=engine, **settings).fit(table)
    assert found.history_[-20:].mean() < found.history_[:20].mean()
    # Learners that training did not see: nothing is learned for them, they are only read.
    found.partial_fit(other.assign(learner=other["learner"] + 1000))
    new = found.traits_.loc[1000:]
    level = other.groupby("learner")["level"].last().to_numpy()
    ratio = np.mean((new["level"] - level) ** 2) / np.mean(level**2)
    assert ratio < 0.4
    inside = new["level_lower"].le(level) & new["level_upper"].ge(level)
    assert inside.mean() > 0.85
    # Planted bug: the traits of somebody else.
    mixed = np.mean((new["level"].to_numpy()[::-1] - level) ** 2) / np.mean(level**2)
    assert mixed > 0.4
