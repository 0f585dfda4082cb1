"""Filters against the dense grid, against one another, and against what was simulated."""

import numpy as np
import pandas as pd
import pytest

import bayeskit as bk
from tests.models.knowledge_tracing.learners import PARAMETERS, SETTINGS, design

PLAIN = {
    "traits": "none",
    "kc_scales": 1,
    "practice_gain": False,
    "item_effects": False,
    "rate_change": False,
    "num_steps": 0,
}


@pytest.fixture(scope="module")
def one_kc(exact_cases):
    case = exact_cases["filter_1kc"]
    parameters = {
        "level": case["mu"],
        "time_scale": 1 / case["alpha"],
        "sd": case["sigma"] / np.sqrt(2 * case["alpha"]),
        "initial_mean": case["m0"] - case["mu"],
        "initial_sd": np.sqrt(case["v0"]),
    }
    table = pd.DataFrame(case["steps"]).rename(columns={"t": "time", "y": "correct"})
    table = table.assign(learner=0, kc="a")
    return bk.KnowledgeTracer(parameters=parameters, **PLAIN).fit(table), table, case


@pytest.mark.reference
def test_one_component_against_the_grid(one_kc):
    tracer, table, case = one_kc
    assert tracer.log_evidence_ == pytest.approx(case["log_evidence"], abs=0.005)
    p = tracer.predict_next(table.assign(learner=1))
    np.testing.assert_allclose(p, table["p_correct"], atol=0.001)
    found = tracer.filter(0)
    np.testing.assert_allclose(found["mean"], table["post_mean"], atol=0.002)
    np.testing.assert_allclose(found["sd"] ** 2, table["post_var"], atol=0.006)
    smoothed = np.array(case["smoothed_mean_var"])
    found = tracer.smooth(0)
    np.testing.assert_allclose(found["mean"], smoothed[:, 0], atol=0.015)
    np.testing.assert_allclose(found["sd"] ** 2, smoothed[:, 1], atol=0.015)
    later = tracer.predict_proba({"learner": [0], "kc": ["a"], "time": [45.0]})
    assert later[0] == pytest.approx(case["open_loop_p_correct_dt5"], abs=1e-5)


@pytest.mark.reference
def test_a_forgetful_variance_is_found(one_kc):
    """Planted bug: the volatility in the place of the stationary standard deviation."""
    tracer, table, case = one_kc
    wrong = dict(tracer.parameters, sd=case["sigma"] ** 2)
    p = (
        bk.KnowledgeTracer(parameters=wrong, **PLAIN)
        .fit(table)
        .predict_next(table.assign(learner=1))
    )
    assert np.abs(p - table["p_correct"]).max() > 0.002


def test_forgotten_after_a_long_time(fitted):
    """What was met is forgotten; the ability that is constant stays."""
    query = {"learner": [0] * 3, "kc": [0, 1, 2], "time": [1e12] * 3}
    found = fitted.forecast(query)
    ability = fitted.traits_.loc[0]
    expected = ability["ability"] + PARAMETERS["level"] + np.array(PARAMETERS["kc_effect"])
    np.testing.assert_allclose(found["mean"], expected, atol=1e-9)
    variance = ability["ability_sd"] ** 2 + 0.4**2 + 0.5**2 + 0.8**2
    np.testing.assert_allclose(found["sd"] ** 2, variance, rtol=1e-9)


def test_looking_changes_nothing(fitted):
    """Chapman-Kolmogorov for the whole filter: times at which nothing is asked."""
    times = fitted.filter(3).index.get_level_values("time")
    looks = np.linspace(times[0], times[-1] + 100.0, 9)
    for states in (fitted.filter, fitted.smooth):
        more = states(3, looks)
        last = more[~more.index.duplicated(keep="last")]
        seen = more[more.index.get_level_values("time").isin(times)]
        pd.testing.assert_frame_equal(
            seen[~seen.index.duplicated()], states(3), atol=1e-9, check_names=False
        )
        assert len(last) > len(times)


def test_joint_and_block_filters_agree(fitted, simulated):
    """Components are taken to be independent; it matters little (section of the class)."""
    ends = [fitted.filter(learner).groupby("time").last() for learner in range(8)]
    assert all(np.isfinite(end.to_numpy()).all() for end in ends)
    last = simulated.groupby("learner")["time"].max()
    for learner in range(8):
        joint = fitted.filter(learner, [last[learner] + 1.0]).tail(3)
        block = fitted.forecast(
            {"learner": [learner] * 3, "kc": [0, 1, 2], "time": [last[learner] + 1.0] * 3}
        )
        np.testing.assert_allclose(joint["probability"], block["probability"], atol=0.06)


def coverage(tracer, table):
    found = tracer._ahead(table, lambda f: np.stack([f.mean, f.variance], axis=-1))
    z = (table["logit"].to_numpy() - found[:, 0]) / np.sqrt(found[:, 1])
    return np.mean(np.abs(z) < 1.96)


def test_states_are_covered(truth, simulated):
    """95 % intervals of logits before each answer cover 93 to 97 % of 12 800 of them.

    With correlated rows of 400 learners the standard error is below 0.25 %, and the normal
    approximation is wrong by less than 1 %: false alarms below 1e-6.
    """
    new = simulated.assign(learner=simulated["learner"] + 1000)
    assert 0.93 < coverage(truth, new) < 0.97
    # Planted bug: no noise where an exposure jumps, and none between.
    wrong = dict(PARAMETERS, jump_sd=np.full((2, 3), 1e-6), sd=[1e-6, 1e-6])
    broken = bk.KnowledgeTracer(3, parameters=wrong, **SETTINGS).fit(
        design(1).assign(correct=0.0)
    )
    assert coverage(broken, new) < 0.9


def test_traits_are_covered(truth):
    """95 % intervals of the constant ability of 2000 learners cover 93 to 97 %.

    The keys are fixed; 0.02 is 4 standard errors.
    """
    table = truth.simulate(design(2000, 16), random_state=4, states=True)
    drawn = table.groupby("learner")["ability"].last()
    found = bk.KnowledgeTracer(3, parameters=PARAMETERS, **SETTINGS).fit(table).traits_
    z = (drawn - found["ability"]) / found["ability_sd"]
    assert 0.93 < np.mean(np.abs(z) < 1.96) < 0.97
    assert np.corrcoef(drawn, found["ability"])[0, 1] > 0.5
    # Planted bug: intervals that are a quarter too wide.
    assert np.mean(np.abs(0.8 * z) < 1.96) > 0.97


def test_invariances(fitted, simulated):
    few = simulated[simulated["learner"] < 20]
    base = fitted.predict_next(few.assign(learner=few["learner"] + 1000))
    moved = few.assign(learner=few["learner"] + 1000, time=few["time"] + 5e4)
    np.testing.assert_allclose(fitted.predict_next(moved), base, atol=1e-9)
    # Another unit of time.
    hours = dict(PARAMETERS, time_scale=np.array([4.0, 2000.0]) / 60, drift_time=1 / 6)
    tracer = bk.KnowledgeTracer(3, parameters=hours, **{**SETTINGS, "time_unit": "hour"})
    tracer.fit(few.assign(time=few["time"] / 60))
    again = tracer.predict_next(
        few.assign(learner=few["learner"] + 1000, time=few["time"] / 60)
    )
    np.testing.assert_allclose(again, base, atol=1e-9)
    # Other numbers for the components.
    permutation = np.array([2, 0, 1])
    effect = np.empty(3)
    effect[permutation] = PARAMETERS["kc_effect"]
    other = bk.KnowledgeTracer(3, parameters=dict(PARAMETERS, kc_effect=effect), **SETTINGS)
    renamed = few.assign(kc=permutation[few["kc"]], learner=few["learner"] + 1000)
    found = other.fit(few).predict_next(renamed)
    np.testing.assert_allclose(found, base, atol=1e-9)


def test_parameters_are_recovered(simulated):
    tracer = bk.KnowledgeTracer(3, time_unit="minute", num_steps=100, random_state=0)
    tracer.fit(simulated)
    assert tracer.history_[-10:].mean() < tracer.history_[:3].mean()
    p = tracer.predict_next(simulated.assign(learner=simulated["learner"] + 1000))
    true = 1 / (1 + np.exp(-simulated["logit"]))
    assert np.corrcoef(p, true)[0, 1] > 0.75
    for name, width in (("ability_sd", 0.25), ("level", 0.5)):
        assert abs(tracer.parameters_[name] - PARAMETERS[name]) < width
