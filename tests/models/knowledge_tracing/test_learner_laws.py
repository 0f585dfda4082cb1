"""Exact engines against the laws that they claim: Geweke's test and calibration by simulation.

All run at alpha 1e-6, and each has a planted bug that the same call finds.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

import bayeskit as bk
from bayeskit import inference as bi
from bayeskit.inference.polya_gamma import polya_gamma
from bayeskit.inference.population import total_log_evidence
from bayeskit.models.knowledge_tracing import LearnerGibbs, LearnerSMC2, smc2
from bayeskit.models.knowledge_tracing.gibbs import learner_gibbs
from bayeskit.models.knowledge_tracing.learner import (
    drawn_learner,
    row_traits,
    steps_of_learner,
)
from bayeskit.models.knowledge_tracing.rows import STUDY
from bayeskit.validation import Level
from tests.models.knowledge_tracing.one_learner import (
    ROWS,
    TWO,
    TWO_PARAMETERS,
    SampledLearner,
    against_the_answers,
    data_of,
    given,
    simulate,
    without_gain,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("x64")]


# ---------------------------------------------------------------- Gibbs, by Geweke's test


def joint_step(drift_sd, planted=None):
    """A start that draws traits, states and answers jointly, and sweeps given the answers."""
    data = data_of(ROWS, TWO, TWO_PARAMETERS, drift_sd=drift_sd)

    def start(key):
        draw_key, omega_key = jax.random.split(key)
        drawn = drawn_learner(draw_key, data, TWO)
        traits = row_traits(drawn.normals, data, TWO)
        _, steps = steps_of_learner(traits, given(data, drawn.outcome), TWO)
        eta = steps.offset + jnp.sum(steps.loading * drawn.states, axis=-1)
        return {
            "learner": (drawn.normals, drawn.states),
            "omega": polya_gamma(omega_key, eta),
            "outcome": drawn.outcome,
        }

    def sweep(key, state):
        outcome = state["outcome"]
        known = given(data, outcome)
        known = known if planted is None else planted(known)
        moved = {"learner": state["learner"], "omega": state["omega"]}
        moved, _ = learner_gibbs(known, TWO).step(key, moved)
        return {**moved, "outcome": outcome}

    def observed(state):
        normals, states = state["learner"]
        return normals, states[-1], states[1], state["outcome"][-1] * states[-1]

    return sweep, start, observed


SHORT = Level(num_stages=2, growth=3, first=20_000, num_frequencies=4)


def test_gibbs_keeps_the_joint_law():
    """With traits that drift; constant ones are those of the calibration below."""
    sweep, start, observed = joint_step(0.6)
    bk.validate(sweep, start=start, observed=observed, level=SHORT).raise_if_failed()


def test_gibbs_without_gains_is_found():
    """Planted bug: nothing is learned from an exposure."""
    sweep, start, observed = joint_step(0.0, without_gain)
    report = bk.validate(sweep, start=start, observed=observed, level=SHORT)
    assert report.verdict == "fail"


# ---------------------------------------------------------------- SMC², by its weights


def weighted_joint(drift_sd):
    """SMC² of answers that are coins, weighed by its evidence: the joint law once more.

    The mean of the evidence times 2^3 is the sum of p(y) over all answers, hence 1, and what
    it weighs are draws of (traits, states, answers) of the model.
    """
    data = data_of(ROWS, TWO, TWO_PARAMETERS, drift_sd=drift_sd)
    studied = data.trials.outcome == STUDY

    def estimate(key):
        coin_key, run_key, pick_key, inner_key, state_key = jax.random.split(key, 5)
        coins = jax.random.bernoulli(coin_key, shape=studied.shape).astype(jnp.int32)
        outcome = jnp.where(studied, STUDY, coins)
        block = smc2.learner_smc2(
            given(data, outcome),
            TWO,
            4,
            2,
            num_moves=1,
            proposal=bi.random_walk(0.6),
            move_always=True,
        )
        population, _ = block.run(run_key)
        pick = jax.random.categorical(pick_key, population.log_weights)
        one = jax.tree.map(lambda x: x[pick], population.particles)
        inner = one.sample
        pick = jax.random.categorical(inner_key, inner.log_weights)
        found = jax.tree.map(lambda x: x[pick], inner.particles)
        root = jnp.linalg.cholesky(found.belief.covariance + 1e-12 * jnp.eye(3))
        states = found.belief.mean + root @ jax.random.normal(state_key, (3,))
        log_estimate = total_log_evidence(population) + 3 * jnp.log(2.0)
        return log_estimate, (one.parameters + found.added, states, outcome * 1.0)

    def exact(key):
        drawn = drawn_learner(key, data, TWO)
        return row_traits(drawn.normals, data, TWO)[-1], drawn.after[-1], drawn.outcome * 1.0

    target = bk.Target(log_density=lambda x: jnp.zeros(()), sample_exact=exact)
    settings = {"law": "unbiased", "target": target, "expected": 0.0}
    return functools.partial(bk.validate, estimate, observed=lambda x: x, **settings)


WEIGHTED = Level(num_stages=1, growth=4, first=16_384, num_frequencies=4)


def test_smc2_weighs_the_joint_law():
    """With traits that drift; constant ones are those of the calibration below."""
    weighted_joint(0.6)(level=WEIGHTED).raise_if_failed()


def test_smc2_with_half_the_weight_is_found(monkeypatch):
    """Planted bug: the weight of an answer is halved, as where ½ is taken twice of its log."""
    absorbed = smc2._absorbed

    def halved(*given):
        after, log_weight = absorbed(*given)
        return after, 0.5 * log_weight

    monkeypatch.setattr(smc2, "_absorbed", halved)
    assert weighted_joint(0.0)(level=WEIGHTED).verdict == "fail"


# ---------------------------------------------------------------- both, by calibration


FITS = Level(num_stages=2, growth=3, first=200, num_frequencies=0)
ENGINES = {
    "gibbs": LearnerGibbs(num_draws=400, num_warmup=50),
    "smc2": LearnerSMC2(num_traits=120, num_particles=4),
}


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_are_calibrated(engine):
    sampled = SampledLearner(ENGINES[engine])
    bk.validate(
        sampled, start=simulate, observed=against_the_answers, level=FITS
    ).raise_if_failed()


def swapped_answers(data):
    """Planted bug: right and wrong answers are mistaken for one another where they weigh."""
    outcome = data.trials.outcome
    swapped = jnp.where(outcome == STUDY, STUDY, 1 - outcome)
    return given(data, swapped)


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_with_swapped_answers_are_found(engine):
    sampled = SampledLearner(ENGINES[engine], swapped_answers)
    report = bk.validate(sampled, start=simulate, observed=against_the_answers, level=FITS)
    assert report.verdict == "fail"
