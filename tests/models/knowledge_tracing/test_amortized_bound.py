"""The amortised arm: its bound against a dense grid, gradients, transitions, forecasts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

import bayeskit as bk
from bayeskit.accel.compilation import quick_jit
from bayeskit.models.base import precision_scope
from bayeskit.models.knowledge_tracing import AmortizedVariational
from bayeskit.models.knowledge_tracing.amortized import objective
from bayeskit.models.knowledge_tracing.amortized.architecture import Architecture
from bayeskit.models.knowledge_tracing.amortized.conditionals import conditional
from bayeskit.models.knowledge_tracing.amortized.generative import (
    StateStep,
    Traits,
    carried_variance,
    edge_probabilities,
    parameters_of,
    state_step,
)
from bayeskit.models.knowledge_tracing.amortized.networks import Site, initial_network
from bayeskit.models.knowledge_tracing.amortized.training import all_parameters
from bayeskit.models.knowledge_tracing.ornstein_uhlenbeck import (
    frozen_parent_transition,
    influence_of,
)
from bayeskit.models.knowledge_tracing.rows import interactions_of
from bayeskit.models.knowledge_tracing.structure import Structure, scales_of, starts
from bayeskit.models.knowledge_tracing.trials import Exposures, padded_trials, trials_of

# One component and traits that are known: spec of the exact cases.
ALPHA, MU, SIGMA, FIRST_MEAN, FIRST_VARIANCE = 0.5, 0.3, 0.8, 0.2, 1.5
# States that are less certain show mistakes in their scale.
VOLATILE = 2.0
TIMES, ANSWERS = np.array([0.0, 1.0, 3.0, 3.5, 10.0, 40.0]), np.array([1, 0, 1, 1, 0, 1])
TABLE = {"learner": [0] * 6, "kc": ["a"] * 6, "time": TIMES, "correct": ANSWERS}


def raw(x):
    """Return what softplus takes to x."""
    return float(np.log(np.expm1(x)))


def known(sigma):
    return {
        "trait_mean": [raw(ALPHA), MU, raw(sigma)],
        "trait_sd": 0.0,
        "trait_persistence": 1.0,
        "trait_drift_sd": 0.0,
        "initial_mean": FIRST_MEAN,
        "initial_sd": np.sqrt(FIRST_VARIANCE),
    }


def grid_evidence(sigma):
    """Return the log evidence of TABLE by a dense grid over the state."""
    z = np.linspace(-14.0, 14.0, 1401)
    weight = np.exp(-0.5 * (z - FIRST_MEAN) ** 2 / FIRST_VARIANCE)
    weight, total = weight / weight.sum(), 0.0
    for number, answer in enumerate(ANSWERS):
        if number:
            stay = np.exp(-ALPHA * (TIMES[number] - TIMES[number - 1]))
            variance = sigma**2 * (1 - stay**2) / (2 * ALPHA)
            mean = stay * z + (1 - stay) * MU
            move = np.exp(-0.5 * (z[:, None] - mean) ** 2 / variance)
            weight = (move / move.sum(axis=0)) @ weight
        weight = weight * expit((2 * answer - 1) * z)
        total += np.log(weight.sum())
        weight /= weight.sum()
    return total


def padded_of(table, num_kc):
    rows, labels = interactions_of(table, time_unit="day")
    structure = Structure(num_kc, kc_scales=1, ability=())
    seen = Exposures.none(len(labels.learner), structure)
    trials, _ = trials_of(rows, rows.learner, seen, structure)
    return padded_trials(trials, rows.learner, structure, "float64")[0]


def estimated_bound(tracer, num=20_000, table=TABLE):
    """Return a bound and its standard error; compiled anew, to see planted bugs."""
    memory = tracer._memory
    with precision_scope("float64"):
        bound = jax.jit(
            functools.partial(
                objective.lower_bounds, architecture=memory.architecture, num_samples=num // 20
            )
        )
        keys = jax.random.split(jax.random.key(5), 20)
        trials = padded_of(table, memory.architecture.num_kc)
        found = [float(bound(memory.parameters, trials, key)[0]) for key in keys]
    return np.mean(found), np.std(found) / np.sqrt(20)


def fitted(num_epochs, sigma=SIGMA):
    engine = AmortizedVariational(num_categories=1, num_samples=16, num_epochs=num_epochs)
    tracer = bk.KnowledgeTracer(inference=engine, parameters=known(sigma), random_state=0)
    return tracer.fit(TABLE)


@pytest.fixture(scope="module")
def trained():
    return fitted(400)


@pytest.fixture(scope="module")
def volatile():
    return fitted(400, VOLATILE)


def is_tight_bound(value, error):
    """Whether an estimate is a bound of the evidence, and within 0.04 nats of it.

    Six standard errors: false alarms below 1e-8.
    """
    evidence = grid_evidence(VOLATILE)
    return evidence - 0.04 < value < evidence + 6 * error


def test_the_grid():
    assert grid_evidence(SIGMA) == pytest.approx(-4.1002221778, abs=1e-6)


def test_bound_approaches_the_evidence(volatile):
    value, error = estimated_bound(volatile)
    assert is_tight_bound(value, error)
    # Before training it is a bound too, and a loose one.
    start = fitted(0, VOLATILE)
    assert not is_tight_bound(*estimated_bound(start))
    assert start.evidence_lower_bound_ < value


def without_entropy(mean, sd, site):
    found = conditional(mean, sd, site)
    return found._replace(divergence=found.divergence - 0.5 * jnp.log1p(sd**2 / site.variance))


def variance_as_scale(traits, z, gap, A):
    step = state_step(traits, z, gap, A)
    return StateStep(step.mean, step.sd**2)


@pytest.mark.parametrize(
    ("name", "planted"),
    [("conditional", without_entropy), ("state_step", variance_as_scale)],
    ids=["no entropy", "variance as scale"],
)
def test_planted_bugs_are_found(volatile, monkeypatch, name, planted):
    monkeypatch.setattr(objective, name, planted)
    assert not is_tight_bound(*estimated_bound(volatile))


def simulated_evidence(table, parameters, num=400_000):
    """Return the log evidence of two components with an edge, by draws from the model."""
    rng = np.random.default_rng(0)
    names = ("trait_mean", "trait_sd", "trait_drift_sd")
    mean, sd, drift = (np.array(parameters[name]) for name in names)
    s = mean + sd * rng.standard_normal((num, 4))
    z = parameters["initial_sd"] * rng.standard_normal((num, 2))
    weight, before = np.ones(num), table["time"][0]
    rows = zip(table["kc"], table["time"], table["correct"], strict=True)
    for number, (kc, time, answer) in enumerate(rows):
        if number:
            s = s + drift * rng.standard_normal(s.shape)
            alpha, sigma = (np.logaddexp(0.0, s[:, n])[:, None] for n in (0, 2))
            gamma, stay = expit(s[:, 3:]), np.exp(-alpha * (time - before))
            target = s[:, 1:2] + gamma * z @ np.array([[0.0, 1.0], [0.0, 0.0]])
            noise = sigma * np.sqrt((1 - stay**2) / (2 * alpha))
            z = stay * z + (1 - stay) * target + noise * rng.standard_normal(z.shape)
        weight *= expit((2 * answer - 1) * z[:, kc])
        before = time
    return np.log(weight.mean()), weight.std() / weight.mean() / np.sqrt(num)


def test_bound_of_traits_categories_and_a_graph():
    """Below the evidence of the whole model, and near it, by six standard errors of both."""
    table = {"learner": [0] * 6, "kc": [0, 1, 0, 1, 1, 0], "correct": [1, 1, 1, 0, 1, 1]}
    table["time"] = [0.0, 0.5, 0.5, 2.0, 3.0, 3.2]
    parameters = {
        "trait_mean": [raw(0.5), 0.3, raw(1.0), 1.0],
        "trait_sd": [0.3, 0.8, 0.3, 0.3],
        "trait_persistence": 1.0,
        "trait_drift_sd": [0.1, 0.2, 0.1, 0.1],
        "initial_mean": 0.0,
        "initial_sd": 1.2,
    }
    engine = AmortizedVariational(num_categories=2, num_samples=8, num_epochs=400)
    tracer = bk.KnowledgeTracer(
        2,
        graph=np.array([[0.0, 1.0], [0.0, 0.0]]),
        transition="frozen_parent",
        inference=engine,
        parameters=parameters,
        random_state=0,
    ).fit(table)
    value, error = estimated_bound(tracer, table=table)
    evidence, error_of_evidence = simulated_evidence(table, parameters)
    assert evidence - 0.1 < value < evidence + 6 * np.hypot(error, error_of_evidence)


@pytest.mark.reference
def test_filter_against_the_grid(trained, exact_cases):
    """What the networks believe after each answer: an approximation."""
    case = pd.DataFrame(exact_cases["filter_1kc"]["steps"])
    found = trained.filter(0)
    np.testing.assert_allclose(found["mean"], case["post_mean"], atol=0.35)
    assert np.abs(found["mean"].iloc[-1] - case["post_mean"].iloc[-1]) < 0.05
    np.testing.assert_allclose(found["sd"], np.sqrt(case["post_var"]), atol=0.15)


# ---------------------------------------------------------------- gradients


@pytest.fixture(scope="module")
def small():
    """A model of two components and a learned graph, with gaps of zero among its rows."""
    architecture = Architecture(2, num_categories=2, graph="learned")
    generator = np.random.default_rng(0)
    known = parameters_of(architecture, 3.0)
    learned = {
        "model": starts(known, {}),
        "network": initial_network(generator, architecture),
        "direction": generator.standard_normal((16, 16)) / 16.0,
    }
    learned["network"]["state"][-1]["bias"][2:] = 0.0
    table = {
        "learner": [0] * 4 + [1] * 3,
        "kc": [0, 1, [0, 1], 0, 1, 1, 0],
        "time": [0.0, 0.5, 0.5, 2.0, 0.0, 0.0, 1.0],
        "correct": [1, 0, None, 1, 0, 1, 1],
    }
    return learned, padded_of(table, 2), architecture, scales_of(known)


def slopes(small, chosen, part):
    """Return the slope along a random direction of a part, by gradient and by differences."""
    learned, trials, architecture, scales = small

    # Called few times: what counts is how long it compiles.
    @functools.partial(quick_jit, optimised=False)
    def value_and_grad(learned):
        def value(learned):
            parameters = all_parameters(learned, {"model": {}}, scales)
            key = jax.random.key(1)
            return jnp.sum(
                chosen(parameters, trials, key, architecture=architecture, num_samples=2)
            )

        return jax.value_and_grad(value)(learned)

    found, step = [], 1e-5
    gradient = value_and_grad(learned)[1]
    for name in part:
        rng = np.random.default_rng(2)
        along = jax.tree.map(lambda x, r=rng: r.standard_normal(np.shape(x)), learned[name])
        exact = sum(map(np.vdot, *map(jax.tree.leaves, (gradient[name], along))))
        ends = []
        for t in (step, -step):
            moved = jax.tree.map(lambda x, d, t=t: x + t * d, learned[name], along)
            ends.append(float(value_and_grad({**learned, name: moved})[0]))
        found.append((float(exact), (ends[0] - ends[1]) / (2 * step)))
    return np.array(found)


@pytest.mark.usefixtures("x64")
def test_reparameterised_gradients(small):
    found = slopes(small, objective.lower_bounds, ("model", "network", "direction"))
    np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_published_gradients(small):
    found = slopes(small, objective.published_objectives, ("model", "network"))
    np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_a_draw_that_is_cut_off_is_found(small, monkeypatch):
    """Planted bug: no slope through what was drawn."""

    def cut(mean, sd, site):
        found = conditional(mean, sd, site)
        return found._replace(mean=jax.lax.stop_gradient(found.mean))

    monkeypatch.setattr(objective, "conditional", cut)
    found = slopes(small, objective.lower_bounds, ("network",))
    assert abs(found[0, 0] / found[0, 1] - 1.0) > 1e-2


# ---------------------------------------------------------------- the model


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("gap", [0.0, 1e-7, 0.7, 300.0])
def test_transition_is_that_of_frozen_parents(gap):
    A = np.array([[0.0, 0.6, 0.0], [0.0, 0.0, 0.5], [0.2, 0.0, 0.0]])
    z, variance = np.array([1.0, -0.4, 2.0]), np.array([0.3, 0.1, 0.8])
    traits = Traits(*map(jnp.asarray, (0.5, 0.3, 0.8, 0.7)))
    step = state_step(traits, z, jnp.asarray(gap), A)
    E, Q = frozen_parent_transition(influence_of(A), 0.7, 0.5 * gap, 0.8**2 / (2 * 0.5))
    level = -0.3 * np.expm1(-0.5 * gap)
    np.testing.assert_allclose(step.mean, E @ z + level, atol=1e-14)
    np.testing.assert_allclose(step.sd**2 * np.eye(3), Q, atol=1e-14)
    carried = carried_variance(traits, variance, jnp.asarray(gap), A)
    np.testing.assert_allclose(carried, np.diag(E @ np.diag(variance) @ E.T), atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_edges_point_one_way():
    rng = np.random.default_rng(0)
    P = np.asarray(
        edge_probabilities(rng.standard_normal((5, 16)), rng.standard_normal((16, 16)))
    )
    assert (np.diag(P) == 0).all() and (P + P.T <= 1.0 + 1e-6).all()


@pytest.mark.usefixtures("x64")
def test_conditional_and_its_divergence():
    mean, sd, site = 0.4, 0.9, Site(1.5, 0.6)
    x = np.linspace(-9, 9, 20_001)
    prior = np.exp(-0.5 * ((x - mean) / sd) ** 2) / sd
    q = prior * np.exp(-0.5 * (x - site.mean) ** 2 / site.variance)
    q, prior = q / q.sum(), prior / prior.sum()
    found = conditional(mean, sd, site)
    assert float(found.mean) == pytest.approx(q @ x, abs=1e-9)
    assert float(found.sd) ** 2 == pytest.approx(q @ (x - q @ x) ** 2, abs=1e-9)
    assert float(found.divergence) == pytest.approx(q @ np.log(q / prior), abs=1e-9)
    point = conditional(mean, 0.0, site)
    assert (float(point.mean), float(point.sd), float(point.divergence)) == (mean, 0.0, 0.0)


def test_variance_accumulates_over_gaps():
    """Open loop: what was not known before the gap stays unknown, beside the new noise."""
    tracer = fitted(0)
    after = tracer.filter(0).iloc[-1]
    gap = np.array([0.0, 0.5, 3.0, 100.0])
    query = {"learner": [0] * 4, "kc": ["a"] * 4, "time": TIMES[-1] + gap}
    found, stay = tracer.forecast(query), np.exp(-ALPHA * gap)
    fresh = SIGMA**2 * (1 - stay**2) / (2 * ALPHA)
    expected = stay**2 * after["sd"] ** 2 + fresh
    np.testing.assert_allclose(found["sd"] ** 2, expected, rtol=1e-4)
    np.testing.assert_allclose(found["mean"], stay * after["mean"] + (1 - stay) * MU, atol=1e-4)
    # The noise of the gap alone, as published, is far from it.
    assert (expected[:2] > 2.0 * fresh[:2]).all()


def test_an_unknown_learner_is_a_draw_from_the_model():
    tracer = fitted(0)
    found = tracer.forecast({"learner": ["new"], "kc": ["a"], "time": [7.0]})
    assert found["mean"][0] == pytest.approx(FIRST_MEAN)
    assert found["sd"][0] ** 2 == pytest.approx(FIRST_VARIANCE)
