"""Manners of the tracer: tables, bad input, appended rows, compilation, what it returns."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import bayeskit as bk
from bayeskit.errors import BayeskitWarning, InvalidDataError
from bayeskit.inference.compile_clock import CompileClock
from tests.models.knowledge_tracing.learners import PARAMETERS, SETTINGS, design

TABLE = pd.DataFrame(
    {
        "learner": ["ann", "ann", "ann", "bob"],
        "kc": ["sum", "product", "sum", "sum"],
        "time": [0.0, 0.5, 2.0, 0.0],
        "correct": [0, 1, None, 1],
    }
)


def tracer(**settings):
    return bk.KnowledgeTracer(**{"num_steps": 0, **settings})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop(columns="kc"), "no column 'kc'"),
        (lambda t: t.iloc[:0], "table is empty: column 'learner'"),
        (lambda t: t.assign(correct=[0, 1, 2, 1]), "correct is 2.* at row 2"),
        (lambda t: t.assign(correct=["a"] * 4), "correct is 'a' at row 0"),
        (lambda t: t.assign(time=[0, np.inf, 1, 1]), "time is inf at row 1"),
        (lambda t: t.assign(time=["x"] * 4), "time must hold numbers"),
        (lambda t: t.assign(time=[pd.NaT] * 4), "missing .NaT. at row 0"),
        (lambda t: t.assign(kc=["sum", None, "sum", "sum"]), "kc is missing"),
        (lambda t: t.assign(version=[0, -1, 0, 0]), "version is -1 at row 1"),
        (lambda t: t.assign(time_end=t["time"] - 1), "time_end is -1.0 at row 0"),
        (
            lambda t: {"learner": [1], "kc": [1, 2], "time": [0], "correct": [1]},
            "differ in len",
        ),
        (lambda t: t.to_numpy(), "must be a DataFrame"),
    ],
)
def test_bad_tables(change, words):
    with pytest.raises(InvalidDataError, match=words):
        tracer().fit(change(TABLE))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"traits": "some"}, "traits must be"),
        ({"transition": "euler"}, "transition must be"),
        ({"time_unit": "year"}, "time_unit must be"),
        ({"n_kc": 0}, "n_kc must be"),
        ({"kc_scales": 0}, "kc_scales must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"learning_rate": 0.0}, "learning_rate must be"),
        ({"practice_gain": "much"}, "practice_gain must be"),
        ({"inference": "magic"}, "inference must be"),
        ({"precision": "float16"}, "precision must be"),
        ({"parameters": {"speed": 1.0}}, "'speed' is not a parameter"),
        ({"parameters": {"sd": [1.0, -1.0]}}, "must be positive, got -1"),
        ({"parameters": {"time_scale": 0.0}}, "must be positive, got 0"),
        ({"parameters": {"saturation": 1.0}}, r"must lie in \[0, 1\), got 1"),
        ({"parameters": {"sd": [1.0, 2.0, 3.0]}}, "must have the shape"),
        ({"parameters": {"level": np.nan}}, "must be finite"),
        ({"parameters": {"level": "a"}}, "must hold numbers, got 'a'"),
        ({"parameters": 5}, "must be a dict"),
        ({"spacing": "no"}, "spacing must be True or False"),
        ({"normalise": "q"}, "normalise must be one of"),
        ({"parameters": {"initial_mean": 0.0}}, "both initial_mean and initial_sd"),
        ({"graph": "tree"}, "graph must be None"),
        ({"graph": np.zeros((2, 2)), "parameters": {"transfer": 1.2}}, "must lie in"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        tracer(**settings).fit(TABLE)


def test_order_of_rows():
    late = TABLE.iloc[[2, 0, 1, 3]]
    with pytest.raises(
        InvalidDataError, match="times decrease within a learner, first at row 1"
    ):
        tracer(strict=True).fit(late)
    with pytest.warns(BayeskitWarning, match="the rows were sorted"):
        found = tracer().fit(late)
    assert found.log_evidence_ == pytest.approx(tracer().fit(TABLE).log_evidence_, abs=1e-12)
    # Learners may be mixed, and each be in order.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixed = tracer().fit(TABLE.iloc[[0, 3, 1, 2]])
    assert mixed.log_evidence_ == pytest.approx(found.log_evidence_, abs=1e-12)


def test_rows_keep_their_answers():
    """Forecasts come back in the order of the table, whatever its order."""
    base = tracer().fit(TABLE)
    new = TABLE.assign(learner=TABLE["learner"] + "2")
    order = [3, 0, 1, 2]
    np.testing.assert_allclose(
        base.predict_next(new.iloc[order]), base.predict_next(new)[order], atol=1e-14
    )


@pytest.mark.parametrize("scale", [86_400_000.0 * 365, 1e-12])
def test_mistaken_units(scale):
    with pytest.warns(BayeskitWarning, match="another unit, such as seconds or milli"):
        tracer().fit(TABLE.assign(time=TABLE["time"] * scale))


def test_smallest_tables():
    one = {"learner": ["a"], "kc": ["k"], "time": [0.0], "correct": [1]}
    found = bk.KnowledgeTracer(num_steps=2, random_state=0).fit(one)
    assert np.isfinite(found.log_evidence_)
    assert 0 < found.predict_proba({"learner": ["a"], "kc": ["k"], "time": [0.0]})[0] < 1
    same = {
        "learner": ["a"] * 4,
        "kc": ["k"] * 4,
        "time": [0.0] * 4,
        "correct": [1, 0, 1, None],
    }
    found = bk.KnowledgeTracer(num_steps=2, random_state=0).fit(same)
    assert np.isfinite(found.log_evidence_)


def test_kinds_of_columns():
    stamps = pd.Timestamp("2024-01-01") + pd.to_timedelta(TABLE["time"], unit="D")
    for column in ("time", "time_end"):
        assert column  # both are parsed below
    base = tracer().fit(TABLE)
    dated = tracer().fit(TABLE.assign(time=stamps))
    assert dated.log_evidence_ == pytest.approx(base.log_evidence_, abs=1e-9)
    truths = tracer().fit(TABLE.iloc[[0, 1, 3]].astype({"correct": bool}))
    numbers = tracer().fit(TABLE.iloc[[0, 1, 3]])
    assert truths.log_evidence_ == numbers.log_evidence_
    plain = tracer().fit({name: TABLE[name].to_numpy() for name in TABLE})
    assert plain.log_evidence_ == base.log_evidence_


def test_unknown_labels():
    base = tracer().fit(TABLE)
    with pytest.raises(InvalidDataError, match="kc 'root' at row 1 is not known"):
        base.predict_proba({"learner": ["ann"] * 2, "kc": ["sum", "root"], "time": [5, 5]})
    with pytest.raises(InvalidDataError, match="before the learner's last row"):
        base.predict_proba({"learner": ["ann"], "kc": ["sum"], "time": [1.0]})
    with pytest.raises(InvalidDataError, match="before the last row"):
        base.partial_fit({"learner": ["ann"], "kc": ["sum"], "time": [1.0], "correct": [1]})
    with pytest.raises(InvalidDataError, match="learner 'eve' is not known"):
        base.filter("eve")
    with pytest.raises(InvalidDataError, match="not lie before the learner's first row"):
        base.filter("ann", [-1.0])
    # A learner that nobody knows is a draw from the population, at any time.
    p = base.predict_proba({"learner": ["eve", "x"], "kc": ["sum"] * 2, "time": [0.0, 99.0]})
    assert p[0] == pytest.approx(p[1])
    with pytest.raises(NotFittedError, match="not fitted"):
        tracer().predict_proba(TABLE)
    assert not hasattr(tracer(), "traits_")


def test_partial_fit_is_fit(fitted, simulated):
    """Row by row, with learners that were not there before."""
    few = simulated[simulated["learner"].isin([3, 5, 9])]
    settings = dict(parameters=PARAMETERS, **SETTINGS)
    whole = bk.KnowledgeTracer(3, **settings).fit(few)
    parts = bk.KnowledgeTracer(3, **settings)
    rows = few.sort_values("time", kind="stable")
    for row in range(len(rows)):
        parts.partial_fit(rows.iloc[row : row + 1])
    assert parts.log_evidence_ == pytest.approx(whole.log_evidence_, abs=1e-8)
    query = pd.DataFrame({"learner": [3, 5, 9], "kc": [0, 1, 2], "time": 1e6})
    pd.testing.assert_frame_equal(parts.forecast(query), whole.forecast(query), atol=1e-8)
    pd.testing.assert_frame_equal(parts.forecast(query), fitted.forecast(query), atol=1e-8)
    pd.testing.assert_frame_equal(
        parts.traits_.sort_index(), whole.traits_.sort_index(), atol=1e-8
    )
    pd.testing.assert_frame_equal(parts.smooth(5), whole.smooth(5), atol=1e-8)


def test_forecasts_keep_nothing(fitted, simulated):
    before = fitted.traits_
    p = fitted.predict_next(simulated.assign(learner=simulated["learner"] + 5000))
    assert p.shape == (len(simulated),)
    pd.testing.assert_frame_equal(fitted.traits_, before)
    assert len(fitted.learners_) == 400
    right = np.where(simulated["correct"] == 1, p, 1 - p)[simulated["correct"].notna()]
    assert np.log(right).sum() == pytest.approx(fitted.log_evidence_, abs=0.01)
    new = simulated.assign(learner=simulated["learner"] + 5000)
    assert fitted.score(new) == pytest.approx(np.log(right).mean())


def test_several_components_of_an_item():
    """Their states add up; a component twice counts once."""
    table = {
        "learner": [0] * 3,
        "kc": [["a", "b"], ["b"], ["a", "b", "a"]],
        "time": [0.0, 1.0, 2.0],
        "correct": [1, 0, 1],
    }
    settings = {"parameters": {"level": 0.0, "sd": 0.5, "time_scale": [0.1, 5.0]}}
    found = tracer(**settings).fit(table)
    alone = found.forecast({"learner": [7] * 2, "kc": ["a", "b"], "time": [0] * 2})
    both = found.forecast({"learner": [7], "kc": [["a", "b"]], "time": [0]})
    # One ability, two independent blocks of variance 2 * 0.5^2.
    ability = 2 * 0.5**2
    np.testing.assert_allclose(alone["sd"] ** 2, ability + 0.5, atol=1e-12)
    assert both["sd"][0] ** 2 == pytest.approx(ability + 1.0)
    np.testing.assert_allclose(found.filter(0)["mean"].to_numpy()[-2:], [0, 0], atol=3)


def test_versions_and_items_are_told_apart():
    rng = np.random.default_rng(0)
    num = 200
    table = pd.DataFrame(
        {
            "learner": np.repeat(np.arange(20), 10),
            "kc": 0,
            "item": rng.integers(2, size=num),
            "time": np.tile(np.arange(10.0), 20),
        }
    )
    table["version"] = table["item"]
    table["correct"] = table["item"]
    found = bk.KnowledgeTracer(num_steps=40, random_state=0).fit(table)
    query = {
        "learner": [0, 0],
        "kc": [0, 0],
        "item": [0, 1],
        "version": [0, 1],
        "time": [20, 20],
    }
    p = found.predict_proba(query)
    assert p[0] < 0.2 < 0.8 < p[1]
    with pytest.raises(InvalidDataError, match="version is 2 at row 0"):
        found.predict_proba({**query, "version": [2, 1]})


def test_studied_rows_teach_and_tell_nothing(truth):
    """An exposure without answer moves the state, and the ability not at all."""
    tracer = pickle.loads(pickle.dumps(truth))
    query = {"learner": ["new"], "kc": [0], "time": [1.0]}
    before = tracer.forecast(query)["mean"][0]
    tracer.partial_fit({"learner": ["new"], "kc": [0], "time": [0.9], "correct": [None]})
    assert tracer.forecast(query)["mean"][0] > before + 0.3
    assert tracer.traits_.loc["new", "ability"] == 0.0


def test_repeats_clones_and_pickles(simulated):
    few = simulated[simulated["learner"] < 30]
    one = bk.KnowledgeTracer(time_unit="minute", num_steps=3, random_state=3).fit(few)
    two = clone(one).fit(few)
    assert one.log_evidence_ == two.log_evidence_
    assert one.get_params() == clone(one).get_params()
    query = {"learner": [0], "kc": [1], "time": [1e6]}
    copy = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(copy.predict_proba(query), one.predict_proba(query))
    copy.partial_fit({"learner": [0], "kc": [1], "time": [1e6], "correct": [1]})
    assert copy.predict_proba(query) > one.predict_proba(query)


def test_second_fit_compiles_nothing(simulated):
    few = simulated[simulated["learner"] < 30]
    make = lambda: bk.KnowledgeTracer(time_unit="minute", num_steps=3, random_state=3)
    make().fit(few).predict_next(few.assign(learner=few["learner"] + 100))
    with CompileClock() as clock:
        again = make().fit(few[few["learner"] < 29])
        again.predict_next(few.assign(learner=few["learner"] + 100))
    assert clock.timing()["compile_s"] < 0.05


def test_single_precision_is_close(simulated):
    few = simulated[simulated["learner"] < 30]
    settings = dict(parameters=PARAMETERS, **SETTINGS)
    double = bk.KnowledgeTracer(3, **settings).fit(few)
    single = bk.KnowledgeTracer(3, precision="float32", **settings).fit(few)
    query = {"learner": np.arange(30), "kc": [0] * 30, "time": [1e6] * 30}
    p = single.predict_proba(query)
    np.testing.assert_allclose(p, double.predict_proba(query), atol=1e-4)
    assert single.log_evidence_ == pytest.approx(double.log_evidence_, abs=0.05)


def test_recommendation(fitted):
    table = fitted.recommend(0, 1e6)
    assert list(table.columns) == ["kc", "probability", "information"]
    assert (np.diff(table["information"]) <= 0).all()
    candidates = pd.DataFrame({"kc": [0, 0, 1]})
    assert len(fitted.recommend(0, 1e6, candidates, num=2)) == 2
    assert fitted.recommend(0, 1e6, [2, 1])["kc"].tolist() in ([1, 2], [2, 1])
    with pytest.raises(ValueError, match="num must be at least 1"):
        fitted.recommend(0, 1e6, num=-1)


def test_simulation_of_a_design(truth):
    table = truth.simulate(design(5), random_state=0)
    assert table["correct"].isna().equals(table["study"])
    again = truth.simulate(design(5), random_state=0)
    pd.testing.assert_frame_equal(table, again)
    with pytest.raises(InvalidDataError, match="study is 'no' at row 0: it must be 0, 1"):
        truth.simulate(design(5).assign(study="no"))


def test_arviz(fitted):
    data = fitted.to_arviz(200, random_state=0)
    draws = data["posterior"]["ability"]
    assert draws.shape == (1, 200, 400)
    table = fitted.traits_
    error = np.asarray(draws.mean(("chain", "draw"))) - table["ability"].to_numpy()
    # 400 means of 200 draws: 6 standard errors.
    assert np.abs(error / (table["ability_sd"] / np.sqrt(200))).max() < 6
