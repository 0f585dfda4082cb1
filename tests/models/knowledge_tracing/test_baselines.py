"""Baselines: what they forecast on data where it is known."""

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError

from bayeskit.errors import InvalidDataError
from bayeskit.models.knowledge_tracing.baselines import (
    BayesianKnowledgeTracing,
    MeanTracer,
    PerformanceFactors,
)
from bayeskit.models.knowledge_tracing.rows import interactions_of

MODELS = [MeanTracer(), PerformanceFactors(), BayesianKnowledgeTracing(num_iterations=5)]


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
def test_no_answer_forecasts_itself(model, simulated):
    few = simulated[simulated["learner"] < 40]
    p = model.fit(few).predict_next(few)
    assert p.shape == (len(few),) and ((p > 0) & (p < 1)).all()
    last = few.groupby("learner").tail(1).index
    flipped = few.copy()
    flipped.loc[last, "correct"] = 1 - flipped.loc[last, "correct"].fillna(0)
    np.testing.assert_allclose(model.predict_next(flipped), p)
    shuffled = few.sample(frac=1, random_state=0).sort_values("time", kind="stable")
    found = pd.Series(model.predict_next(shuffled), index=shuffled.index)
    np.testing.assert_allclose(found.loc[few.index], p)
    assert model.score(few) < 0


def pairs(simulated, num=40):
    """The table with every third row of two components."""
    few = simulated[simulated["learner"] < num].copy()
    several = np.arange(len(few)) % 3 == 0
    kcs = few["kc"].tolist()
    few["kc"] = [[k, (k + 1) % 3] if two else k for k, two in zip(kcs, several, strict=True)]
    return few


def change_by_last_answers(model, table):
    """Return how much the forecasts of each learner's last row depend on its own answer."""
    last = table.groupby("learner").tail(1)["row"].unique()
    own = table["row"].isin(last).to_numpy()
    flipped = table.assign(
        correct=np.where(own, 1 - table["correct"].fillna(0), table["correct"])
    )
    return np.abs(model.predict_next(flipped) - model.predict_next(table))[own].max()


@pytest.mark.parametrize("model", [*MODELS, PerformanceFactors(items=True)], ids=str)
def test_several_components(model, simulated):
    few = pairs(simulated).assign(row=lambda t: np.arange(len(t)))
    few["item"] = few["row"] % 7
    model.fit(few)
    p = model.predict_next(few)
    assert p.shape == (len(few),) and ((p > 0) & (p < 1)).all()
    assert change_by_last_answers(model, few) < 1e-12
    if isinstance(model, PerformanceFactors):
        # A row a component lets the second see the answer by way of the first.
        assert change_by_last_answers(model, few.explode("kc").infer_objects()) > 0.01


def test_counts_of_several_components():
    """Features of four rows of one learner, by hand."""
    table = {
        "learner": ["a"] * 4,
        "kc": [["x", "y"], "x", "y", ["x", "y"]],
        "time": [0.0, 1.0, 2.0, 3.0],
        "correct": [1, 0, 1, None],
    }
    model = PerformanceFactors(recency=False).fit(table)
    rows, _ = interactions_of(table, time_unit="day")
    one, two, log = 1.0, 2.0, np.log1p
    expected = [
        # x, y, successes and failures with the components, and in all.
        [1, 1, 0, 0, 0, 0],
        [1, 0, log(one), 0, log(one), 0],
        [0, 1, log(one), 0, log(one), log(one)],
        [1, 1, log(one) + log(two), log(one), log(two), log(one)],
    ]
    np.testing.assert_allclose(model._features(rows), expected)


def test_means_of_several_components():
    table = {"learner": ["a", "b", "c"], "kc": ["x", "y", ["x", "y"]], "time": 0.0}
    table["correct"] = [1, 0, 1]
    p = MeanTracer().fit(table).predict_next(table)
    np.testing.assert_allclose(p, [3 / 4, 1 / 2, 5 / 8])


def test_two_components_that_are_one():
    """A component that always comes with its twin changes no forecast of BKT."""
    rng = np.random.default_rng(0)
    one = pd.DataFrame({"learner": np.repeat(np.arange(20), 5), "kc": "a"})
    one["time"], one["correct"] = np.tile(np.arange(5.0), 20), rng.integers(2, size=100)
    two = one.assign(kc=[["a", "b"]] * 100)
    find = lambda table: (
        BayesianKnowledgeTracing(num_iterations=5).fit(table).predict_next(table)
    )
    np.testing.assert_allclose(find(two), find(one))


def test_bad_use():
    with pytest.raises(NotFittedError):
        MeanTracer().predict_next({"learner": [0], "kc": [0], "time": [0], "correct": [1]})
    with pytest.raises(InvalidDataError, match="nothing to learn"):
        MeanTracer().fit({"learner": [0], "kc": [0], "time": [0], "correct": [None]})


def test_bkt_against_enumeration():
    """Three answers: the forecast of the third by hand."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "learner": np.repeat(np.arange(50), 3),
            "kc": 0,
            "time": np.tile([0.0, 1.0, 2.0], 50),
            "correct": rng.integers(2, size=150),
        }
    )
    model = BayesianKnowledgeTracing(num_iterations=3).fit(table)
    n = {name: value[0] for name, value in model.parameters_.items()}
    right = np.array([n["guess"], 1 - n["slip"]])
    move = np.array([[1 - n["learns"], n["learns"]], [n["forgets"], 1 - n["forgets"]]])
    law = np.array([1 - n["known_at_first"], n["known_at_first"]])
    expected = []
    for y in table["correct"][:3]:
        expected.append(law @ right)
        law = law * (right if y else 1 - right)
        law = law / law.sum() @ move
    np.testing.assert_allclose(model.predict_next(table)[:3], expected)


def test_bkt_finds_its_parameters():
    """Data of the model itself: 4000 sequences of 6 answers."""
    rng = np.random.default_rng(1)
    num, length = 4000, 6
    known = rng.uniform(size=num) < 0.3
    answers = np.empty((num, length))
    for t in range(length):
        answers[:, t] = rng.uniform(size=num) < np.where(known, 0.9, 0.2)
        known = np.where(known, True, rng.uniform(size=num) < 0.25)
    table = {
        "learner": np.repeat(np.arange(num), length),
        "kc": np.zeros(num * length, int),
        "time": np.tile(np.arange(length), num),
        "correct": answers.ravel(),
    }
    found = BayesianKnowledgeTracing(forgets=False).fit(table).parameters_
    for name, value in (
        ("known_at_first", 0.3),
        ("learns", 0.25),
        ("guess", 0.2),
        ("slip", 0.1),
    ):
        assert found[name][0] == pytest.approx(value, abs=0.06)
