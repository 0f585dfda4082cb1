"""Exact inference of one learner: against the grid, the validator, and one another."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import bayeskit as bk
from bayeskit.inference.polya_gamma import polya_gamma
from bayeskit.models.knowledge_tracing import LearnerGibbs, LearnerSMC2
from bayeskit.models.knowledge_tracing.gibbs import gibbs_draws, learner_gibbs
from bayeskit.models.knowledge_tracing.learner import (
    drawn_learner,
    steps_of_learner,
    with_traits,
)
from bayeskit.models.knowledge_tracing.learner_engines import learner_data
from bayeskit.models.knowledge_tracing.rows import interactions_of
from bayeskit.models.knowledge_tracing.smc2 import smc2_advance, smc2_start
from bayeskit.models.knowledge_tracing.structure import Structure
from tests.models.knowledge_tracing.learners import PARAMETERS, SETTINGS

ONE = Structure(
    1,
    kc_scales=1,
    ability=(),
    item_effects=False,
    practice=False,
    saturation=False,
    spacing=False,
    jump_noise=False,
    rate_change=False,
)
TWO = dataclasses.replace(
    ONE, num_kc=2, ability=("static",), practice=True, saturation=True, jump_noise=True
)
TWO_PARAMETERS = {
    "level": np.asarray(0.2),
    "time_scale": np.array([2.0]),
    "sd": np.array([0.9]),
    "ability_sd": np.asarray(0.7),
    "gain": np.array([[0.8, 0.4, 0.5]]),
    "saturation": np.array([[0.2, 0.1, 0.1]]),
    "jump_sd": np.array([[0.4, 0.3, 0.2]]),
}


def data_of(table, structure, parameters, trait_sd):
    rows, _ = interactions_of(table, time_unit="day")
    data = learner_data(rows, parameters, structure, trait_sd, "float64")
    return jax.tree.map(jnp.asarray, data)


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


@pytest.mark.reference
@pytest.mark.usefixtures("x64")
def test_gibbs_against_the_grid(grid):
    """Mean and variance after the last answer within 5 standard errors (p < 1e-6)."""
    table, parameters, case = grid
    data = data_of(table, ONE, parameters, 1e-9)
    kept = gibbs_draws(
        jax.random.key(0), data, jnp.asarray(5), structure=ONE, num_warmup=100, num_draws=8000
    )
    mean = np.asarray(kept.belief.mean)[:, 0] + case["mu"]
    second = mean**2 + np.asarray(kept.belief.covariance)[:, 0, 0]
    truth = case["steps"][-1]
    for values, expected in (
        (mean, truth["post_mean"]),
        (second, truth["post_var"] + truth["post_mean"] ** 2),
    ):
        error = values.reshape(80, -1).mean(axis=1).std() / np.sqrt(80)
        assert abs(values.mean() - expected) < 5 * error


@pytest.mark.reference
@pytest.mark.usefixtures("x64")
def test_smc2_against_the_grid(grid):
    """Evidence of ten runs, traits known: within 5 standard errors; and online as at once."""
    table, parameters, case = grid
    data = data_of(table, ONE, parameters, 1e-9)
    settings = {"structure": ONE, "num_traits": 10, "num_particles": 100}
    found = []
    for seed in range(10):
        start_key, row_key = jax.random.split(jax.random.key(seed))
        online = smc2_start(start_key, data, **settings)
        whole = smc2_advance(row_key, online, data, jnp.asarray(1), jnp.asarray(6), **settings)
        found.append(float(whole.log_evidence))
    for first, end in ((1, 3), (3, 6)):
        online = smc2_advance(
            row_key, online, data, jnp.asarray(first), jnp.asarray(end), **settings
        )
    assert float(online.log_evidence) == pytest.approx(found[-1], abs=1e-12)
    ratio = np.exp(np.array(found) - case["log_evidence"])
    assert abs(ratio.mean() - 1.0) < 5 * max(ratio.std() / np.sqrt(10), 1e-4)
    assert ratio.std() < 0.05


# ---------------------------------------------------------------- the validator


def joint_step(planted=None):
    """A start that draws traits, states and answers jointly, and sweeps given the answers."""
    table = {"learner": [0] * 4, "kc": [0, 1, 0, 0], "time": [0.0, 0.5, 1.5, 2.0]}
    table["correct"] = [0, 0, None, 0]
    data = data_of(table, TWO, TWO_PARAMETERS, 0.5)

    def given(outcome):
        return data._replace(trials=data.trials._replace(outcome=outcome))

    def start(key):
        draw_key, omega_key = jax.random.split(key)
        drawn = drawn_learner(draw_key, data, TWO)
        _, steps = steps_of_learner(drawn.traits, given(drawn.outcome), TWO)
        eta = steps.offset + jnp.sum(steps.loading * drawn.states, axis=-1)
        return {
            "learner": (drawn.traits, drawn.states),
            "omega": polya_gamma(omega_key, eta),
            "outcome": drawn.outcome,
        }

    def sweep(key, state):
        outcome = state["outcome"]
        known = given(outcome) if planted is None else planted(given(outcome))
        moved = {"learner": state["learner"], "omega": state["omega"]}
        moved, _ = learner_gibbs(known, TWO).step(key, moved)
        return {**moved, "outcome": outcome}

    def observed(state):
        traits, states = state["learner"]
        return traits, states[-1], states[1], state["outcome"][-1] * states[-1]

    return sweep, start, observed


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_gibbs_keeps_the_joint_law():
    """Geweke's test: exact draws of everything, and sweeps given the answers (alpha 1e-6)."""
    sweep, start, observed = joint_step()
    bk.validate(sweep, start=start, observed=observed).raise_if_failed()


def no_jump_noise(data):
    """Planted bug: what the exposures add is taken to be certain."""
    quiet = {**data.parameters, "jump_sd": np.full((1, 3), 1e-3)}
    return data._replace(parameters=quiet)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_planted_bug_is_found():
    sweep, start, observed = joint_step(no_jump_noise)
    assert bk.validate(sweep, start=start, observed=observed).verdict == "fail"


# ---------------------------------------------------------------- the estimator


@pytest.fixture(scope="module")
def few(simulated):
    table = simulated[simulated["learner"] < 2]
    return table.groupby("learner").head(16)


@pytest.mark.parametrize(
    "engine", [LearnerGibbs(400, 100), LearnerSMC2(150, 10)], ids=["gibbs", "smc2"]
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
    again = bk.KnowledgeTracer(3, inference=engine, **settings).fit(few)
    np.testing.assert_array_equal(again.predict_proba(query), exact.predict_proba(query))
    new = {"learner": [0], "kc": [0], "time": [few["time"].max() + 2.0], "correct": [1]}
    exact.partial_fit(new)
    later = query.assign(time=few["time"].max() + 3.0)
    assert exact.predict_proba(later)[0] > one["probability"][0]


def test_bad_engines():
    with pytest.raises(ValueError, match="num_draws"):
        LearnerGibbs(num_draws=1)
    with pytest.raises(ValueError, match="trait_sd"):
        LearnerSMC2(trait_sd=0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_traits_are_covered():
    """95 % intervals of the traits of 120 learners cover 0.85 to 1 (5 sd, p < 1e-6)."""
    num, rng = 120, np.random.default_rng(0)
    table = {"learner": [0] * 16, "kc": rng.integers(2, size=16), "correct": [0] * 16}
    table["time"] = np.cumsum(rng.exponential(0.7, 16))
    data = data_of(table, TWO, TWO_PARAMETERS, 0.5)

    @jax.jit
    @jax.vmap
    def one(key):
        draw_key, chain_key = jax.random.split(key)
        drawn = drawn_learner(draw_key, data, TWO)
        own = data._replace(trials=data.trials._replace(outcome=drawn.outcome))
        # Inside of another program, which is the one that is compiled.
        kept = gibbs_draws.__wrapped__(
            chain_key, own, jnp.asarray(15), structure=TWO, num_warmup=60, num_draws=300
        )
        return drawn.traits, kept.traits

    truth, draws = (np.asarray(x) for x in one(jax.random.split(jax.random.key(0), num)))
    low, high = np.quantile(draws, [0.025, 0.975], axis=1)
    inside = (low < truth) & (truth < high)
    assert (np.abs(inside.mean(axis=0) - 0.95) < 0.1).all()


def test_traits_change_what_they_say():
    own = with_traits(TWO_PARAMETERS, jnp.array([0.5, -0.2]))
    assert own["time_scale"][0] == pytest.approx(2.0 * np.exp(-0.5))
    assert own["sd"][0] == pytest.approx(0.9 * np.exp(-0.2))
