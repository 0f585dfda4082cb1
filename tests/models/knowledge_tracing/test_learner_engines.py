"""Exact inference of one learner: against the grid, moment matching, and one another."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

import bayeskit as bk
from bayeskit.models.knowledge_tracing import LearnerGibbs, LearnerSMC2
from bayeskit.models.knowledge_tracing.gibbs import gibbs_draws
from bayeskit.models.knowledge_tracing.joint_filter import JointBelief, JointStep
from bayeskit.models.knowledge_tracing.learner import (
    TraitDrift,
    drawn_learner,
    row_traits,
    trait_names,
    with_traits,
)
from bayeskit.models.knowledge_tracing.moment_matching import expected_sigmoid
from bayeskit.models.knowledge_tracing.rows import STUDY
from bayeskit.models.knowledge_tracing.smc2 import _absorbed, smc2_advance, smc2_start
from tests.models.knowledge_tracing.learners import PARAMETERS, SETTINGS
from tests.models.knowledge_tracing.one_learner import ONE, TWO, TWO_PARAMETERS, data_of, given


@pytest.fixture(scope="module")
def grid(exact_cases):
    case = exact_cases["filter_1kc"]
    steps = pd.DataFrame(case["steps"])
    table = {"learner": [0] * 6, "kc": [0] * 6, "time": steps["t"], "correct": steps["y"]}
    parameters = {
        "level": jnp.asarray(case["mu"]),
        "time_scale": jnp.array([1 / case["alpha"]]),
        "sd": jnp.array([case["sigma"] / np.sqrt(2 * case["alpha"])]),
        "initial_mean": jnp.array([case["m0"] - case["mu"]]),
        "initial_sd": jnp.array([np.sqrt(case["v0"])]),
    }
    return table, parameters, case


def assert_near(values, expected, num_batches):
    """Within 3 standard errors, by means of batches; the keys are fixed."""
    means = np.asarray(values).reshape(num_batches, -1).mean(axis=1)
    error = means.std(ddof=1) / np.sqrt(num_batches)
    assert abs(means.mean() - expected) < 3 * error
    return error


@pytest.mark.reference
@pytest.mark.usefixtures("x64")
def test_gibbs_against_the_grid(grid):
    """Mean and variance after the last answer, by 4000 sweeps."""
    table, parameters, case = grid
    data = data_of(table, ONE, parameters, 1e-9)
    counts = {"structure": ONE, "num_warmup": 100, "num_draws": 4000}

    def moments(data):
        kept = gibbs_draws(jax.random.key(0), data, jnp.asarray(5), **counts)
        mean = np.asarray(kept.belief.mean)[:, 0] + case["mu"]
        return mean, mean**2 + np.asarray(kept.belief.covariance)[:, 0, 0]

    mean, second = moments(data)
    truth = case["steps"][-1]
    assert assert_near(mean, truth["post_mean"], 50) < 0.01
    assert_near(second, truth["post_var"] + truth["post_mean"] ** 2, 50)
    # Planted bug: an answer that is taken for a row only studied.
    lost, _ = moments(given(data, data.trials.outcome.at[5].set(STUDY)))
    with pytest.raises(AssertionError):
        assert_near(lost, truth["post_mean"], 50)


@pytest.mark.reference
@pytest.mark.usefixtures("x64")
def test_smc2_against_the_grid(grid):
    """Evidence and moments of 24 runs, traits known; and online as at once."""
    table, parameters, case = grid
    data = data_of(table, ONE, parameters, 1e-9)
    settings = {"structure": ONE, "num_traits": 4, "num_particles": 40}
    found = []
    for seed in range(24):
        start_key, row_key = jax.random.split(jax.random.key(seed))
        start = smc2_start(start_key, data, **settings)

        def advance(online, first, end, row_key=row_key):
            ends = jnp.asarray(first), jnp.asarray(end)
            return smc2_advance(row_key, online, data, *ends, **settings)

        whole = advance(start, 1, 6)
        traits, inner = whole.population, whole.population.particles.sample
        weight = softmax(traits.log_weights)[:, None] * softmax(inner.log_weights, axis=1)
        mean = np.asarray(inner.particles.belief.mean)[..., 0] + case["mu"]
        second = mean**2 + np.asarray(inner.particles.belief.covariance)[..., 0, 0]
        found.append(
            [float(whole.log_evidence), (weight * mean).sum(), (weight * second).sum()]
        )
    part = advance(advance(start, 1, 3), 3, 6)
    assert float(part.log_evidence) == pytest.approx(found[-1][0], abs=1e-12)
    log_evidence, mean, second = np.transpose(found)
    ratio = np.exp(log_evidence - case["log_evidence"])
    assert_near(ratio, 1.0, 24)
    assert ratio.std() < 0.08
    truth = case["steps"][-1]
    assert_near(mean, truth["post_mean"], 24)
    assert_near(second, truth["post_var"] + truth["post_mean"] ** 2, 24)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("m", "v"), [(0.3, 1.0), (5.0, 4.0)])
def test_weights_of_answers_are_bounded(m, v):
    """Their mean is P(y) within 3 standard errors; they vary little where answers are sure."""
    one = jnp.ones(1)
    step = JointStep(jnp.eye(1), 0.0 * jnp.eye(1), m, one, jnp.eye(1), 0.0 * one, 0.0 * one)
    before = JointBelief(jnp.zeros(1), v * jnp.eye(1))

    def weights(y):
        absorbed = lambda key: _absorbed(key, before, step, jnp.asarray(y))[1]
        keys = jax.random.split(jax.random.key(0), 4000)
        return np.exp(np.asarray(jax.jit(jax.vmap(absorbed))(keys)))

    right, wrong = weights(1), weights(0)
    assert_near(right, expected_sigmoid(m, v), 100)
    assert_near(wrong, 1.0 - expected_sigmoid(m, v), 100)
    # Planted bug: with ε = 0 these are 1.03 and 6.9 at (5, 4), and grow with more draws.
    assert right.std() < 0.2 * right.mean() and wrong.std() < 1.5 * wrong.mean()


# ---------------------------------------------------------------- the estimator


@pytest.fixture(scope="module")
def few(simulated):
    # One row less than a power of two: one more compiles nothing.
    table = simulated[simulated["learner"] < 2]
    return table.groupby("learner").head(7)


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(LearnerGibbs(300, 50), id="gibbs"),
        # What is loaded is the same, in test_saving.py, fits with it by default.
        pytest.param(LearnerSMC2(80, 5), id="smc2", marks=pytest.mark.slow),
    ],
)
def test_exact_engines_agree_with_moment_matching(few, engine):
    settings = {**SETTINGS, "parameters": PARAMETERS}
    exact = bk.KnowledgeTracer(3, inference=engine, **settings).fit(few)
    plain = bk.KnowledgeTracer(3, **settings).fit(few)
    query = pd.DataFrame({"learner": np.repeat([0, 1], 3), "kc": [0, 1, 2] * 2, "time": 1e4})
    query["time"] = few["time"].max() + 1.0
    one, two = exact.forecast(query), plain.forecast(query)
    np.testing.assert_allclose(one["probability"], two["probability"], atol=0.08)
    assert (one["lower"] < one["probability"]).all() and (
        one["probability"] < one["upper"]
    ).all()
    table = exact.traits_
    assert {"ability", "forgetting_sd", "volatility_upper"} <= set(table.columns)
    assert np.abs(table["ability"] - plain.traits_["ability"]).max() < 0.35
    assert exact.log_evidence_ == pytest.approx(plain.log_evidence_, abs=0.6)
    draws = exact.to_arviz(4000, random_state=0)["posterior"]
    for name in ("ability", "forgetting"):
        values = np.asarray(draws[name])[0]
        # 5 standard errors of 4000 draws of two learners.
        error = 5 * table[f"{name}_sd"] / np.sqrt(4000)
        assert (np.abs(values.mean(axis=0) - table[name]) < error).all()
    again = bk.KnowledgeTracer(3, inference=engine, **settings).fit(few)
    np.testing.assert_array_equal(again.predict_proba(query), exact.predict_proba(query))
    new = {"learner": [0], "kc": [0], "time": [few["time"].max() + 2.0], "correct": [1]}
    exact.partial_fit(new)
    later = query.assign(time=few["time"].max() + 3.0)
    assert exact.predict_proba(later)[0] > one["probability"][0]


@pytest.mark.parametrize("engine", [LearnerGibbs, LearnerSMC2])
def test_bad_engines(engine):
    for bad, words in (
        ({"trait_sd": 0.0}, "trait_sd"),
        ({"drift_sd": -1.0}, "drift_sd"),
        ({"drift_rows": 0.0}, "drift_rows"),
    ):
        with pytest.raises(ValueError, match=words):
            engine(**bad)
    with pytest.raises(ValueError, match="num_draws"):
        LearnerGibbs(num_draws=1)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_traits_are_covered():
    """95 % intervals of the traits of 120 learners cover 0.85 to 1 (5 sd, p < 1e-6)."""
    num, rng = 120, np.random.default_rng(0)
    table = {"learner": [0] * 16, "kc": rng.integers(2, size=16), "correct": [0] * 16}
    table["time"] = np.cumsum(rng.exponential(0.7, 16))
    data = data_of(table, TWO, TWO_PARAMETERS, drift_sd=0.3)

    @jax.jit
    @jax.vmap
    def one(key):
        draw_key, chain_key = jax.random.split(key)
        drawn = drawn_learner(draw_key, data, TWO)
        # Inside of another program, which is the one that is compiled.
        kept = gibbs_draws.__wrapped__(
            chain_key,
            given(data, drawn.outcome),
            jnp.asarray(15),
            structure=TWO,
            num_warmup=60,
            num_draws=300,
        )
        return row_traits(drawn.normals, data, TWO)[-1], kept.traits

    truth, draws = (np.asarray(x) for x in one(jax.random.split(jax.random.key(0), num)))
    low, high = np.quantile(draws, [0.025, 0.975], axis=1)
    inside = (low < truth) & (truth < high)
    assert (np.abs(inside.mean(axis=0) - 0.95) < 0.1).all()


# ---------------------------------------------------------------- traits


def test_traits_change_what_they_say():
    own = with_traits(TWO_PARAMETERS, jnp.array([0.5, -0.2]))
    assert own["time_scale"][0] == pytest.approx(2.0 * np.exp(-0.5))
    assert own["sd"][0] == pytest.approx(0.9 * np.exp(-0.2))
    # Without any difference they are the population, along a given graph and a learned one.
    given_graph = dataclasses.replace(TWO, graph=True)
    for structure in (TWO, given_graph, dataclasses.replace(given_graph, learns_graph=True)):
        parameters = {**TWO_PARAMETERS}
        if "transfer" in trait_names(structure):
            parameters["transfer"] = np.asarray(0.7)
        same = with_traits(parameters, jnp.zeros(len(trait_names(structure))))
        assert same.keys() == parameters.keys()
        for name, value in parameters.items():
            np.testing.assert_allclose(same[name], value, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_traits_drift_from_row_to_row():
    """Linear in normal numbers, with the covariance of the recursion, exactly."""
    table = {"learner": [0] * 4, "kc": [0] * 4, "time": [0, 1, 9, 9], "correct": [1] * 4}
    data = data_of(table, ONE, TWO_PARAMETERS, trait_sd=0.5)
    drift = TraitDrift(jnp.asarray(0.3), jnp.asarray(0.8))
    moving = lambda normals: row_traits(normals, data._replace(drift=drift), ONE)[:, 0]
    L = jax.jacobian(moving)(jnp.zeros(10))
    lag = np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    np.testing.assert_allclose(L @ L.T, 0.5**2 + 0.3**2 * 0.8**lag, atol=1e-15)
    still = row_traits(jnp.array([2.0, 1.0]), data, ONE)
    np.testing.assert_array_equal(still, np.tile([1.0, 0.5], (4, 1)))
