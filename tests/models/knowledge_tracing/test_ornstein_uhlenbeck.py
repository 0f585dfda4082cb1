"""Transitions along a graph against matrix exponentials, closed forms and one another."""

import jax
import numpy as np
import pytest
from scipy import integrate, linalg

from bayeskit.models.knowledge_tracing.moment_matching import expected_sigmoid, tilted_moments
from bayeskit.models.knowledge_tracing.ornstein_uhlenbeck import (
    exact_transition,
    fixed_point,
    frozen_parent_transition,
    influence_of,
    stationary_covariance,
)

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
NONE = np.zeros((1, 1))
CHAIN = np.diag([0.5, 1.0, 0.25], 1)
CYCLIC = np.where(np.eye(4) > 0, 0.0, RNG.uniform(size=(4, 4)))
CYCLIC /= CYCLIC.sum(axis=0)
GRAPHS = {"none": NONE, "chain": CHAIN, "cyclic": CYCLIC}


def step(A, u, transfer=0.8, variance=0.36, move=exact_transition):
    return [np.asarray(x) for x in move(influence_of(A), transfer, u, variance)]


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize(("u", "v"), [(1e-6, 30.0), (0.3, 1.2), (5.0, 5.0), (0.0, 2.0)])
def test_chapman_kolmogorov(name, u, v):
    A = GRAPHS[name]
    (E1, Q1), (E2, Q2), (E, Q) = step(A, u), step(A, v), step(A, u + v)
    np.testing.assert_allclose(E2 @ E1, E, atol=1e-12)
    np.testing.assert_allclose(E2 @ Q1 @ E2.T + Q2, Q, atol=1e-12)


def test_frozen_parents_are_no_semigroup():
    """The planted bug of the test above: the published step fails it by far."""
    (E1, Q1), (E, Q) = (step(CHAIN, u, move=frozen_parent_transition) for u in (1.0, 2.0))
    assert np.abs(E1 @ E1 - E).max() > 0.01
    assert np.abs(E1 @ Q1 @ E1.T + Q1 - Q).max() > 0.001


@pytest.mark.parametrize("name", GRAPHS)
def test_against_matrix_exponential_and_quadrature(name):
    A, u = GRAPHS[name], 1.7
    drift = np.eye(len(A)) - 0.8 * A.T
    E, Q = step(A, u)
    np.testing.assert_allclose(E, linalg.expm(-drift * u), atol=1e-14)

    def density(v):
        F = linalg.expm(-drift * v)
        return 2 * 0.36 * F @ F.T

    expected, _ = integrate.quad_vec(density, 0, u, epsabs=1e-13)
    np.testing.assert_allclose(Q, expected, atol=1e-12)
    lyapunov = linalg.solve_continuous_lyapunov(drift, 2 * 0.36 * np.eye(len(A)))
    found = stationary_covariance(influence_of(A), 0.8, 0.36)
    np.testing.assert_allclose(found, lyapunov, atol=1e-12)
    rest = np.linalg.solve(drift, np.full(len(A), 0.3))
    np.testing.assert_allclose(fixed_point(influence_of(A), 0.8, 0.3), rest, atol=1e-12)


def test_limits_of_the_gap():
    E, Q = step(CHAIN, 0.0)
    np.testing.assert_array_equal(E, np.eye(4))
    np.testing.assert_array_equal(Q, np.zeros((4, 4)))
    E, Q = step(CHAIN, 1e4)
    np.testing.assert_allclose(E, 0.0, atol=1e-300)
    slope = jax.grad(lambda g: exact_transition(influence_of(CHAIN), g, 0.0, 1.0)[1].sum())
    assert np.isfinite(slope(0.5))


@pytest.mark.reference
def test_exact_cases(exact_cases):
    one = exact_cases["ou_dt2"]
    variance = one["sigma"] ** 2 / (2 * one["alpha"])
    E, Q = step(NONE, one["alpha"] * one["dt"], variance=variance)
    assert E[0, 0] * (one["z0"] - one["mu"]) + one["mu"] == pytest.approx(
        one["mean"], abs=1e-14
    )
    assert Q[0, 0] == pytest.approx(one["var"], abs=1e-14)
    for alpha, expected in exact_cases["ou_small_alpha"].items():
        alpha = float(alpha)
        _, Q = step(NONE, alpha * 2.0, variance=0.64 / (2 * alpha))
        assert Q[0, 0] == pytest.approx(expected, rel=1e-12)
    two = exact_cases["graph_2kc"]
    A, u = np.array(two["W"]) / 2, two["alpha"] * 3.0
    z0, exact, frozen = np.array(two["z0"]), two["exact_sde"], two["frozen_parent"]
    E, Q = step(A, u)
    rest = np.asarray(fixed_point(influence_of(A), 0.8, two["mu"]))
    np.testing.assert_allclose(rest, two["z_inf"], atol=1e-14)
    np.testing.assert_allclose(E, exact["F"], atol=1e-14)
    np.testing.assert_allclose(Q, exact["Q"], atol=1e-14)
    np.testing.assert_allclose(rest + E @ (z0 - rest), exact["mean_one_step_dt3"], atol=1e-14)
    found = stationary_covariance(influence_of(A), 0.8, 0.36)
    np.testing.assert_allclose(found, two["stationary_cov"], atol=1e-14)
    level = two["mu"] * (1 - np.exp(-u))
    E, Q = step(A, u, move=frozen_parent_transition)
    np.testing.assert_allclose(E, frozen["F"], atol=1e-14)
    np.testing.assert_allclose(Q, frozen["Q"], atol=1e-14)
    np.testing.assert_allclose(E @ z0 + level, frozen["mean_one_step_dt3"], atol=1e-14)
    E, Q = step(A, u / 2, move=frozen_parent_transition)
    half = two["mu"] * (1 - np.exp(-u / 2))
    twice = E @ (E @ z0 + half) + half
    np.testing.assert_allclose(twice, frozen["mean_two_steps_dt1p5"], atol=1e-14)
    for case in exact_cases["expected_sigmoid"]:
        found = expected_sigmoid(case["m"], case["v"])
        assert found == pytest.approx(case["exact"], abs=1e-9)


@pytest.mark.parametrize("y", [0.0, 1.0])
@pytest.mark.parametrize(("m", "v"), [(0.0, 1e-6), (-2.0, 0.3), (1.5, 2.0), (0.5, 4.0)])
def test_moments_of_an_answer(y, m, v):
    eta = m + np.sqrt(v) * np.linspace(-12, 12, 20_001)
    weight = np.exp(-0.5 * (eta - m) ** 2 / v) / (1 + np.exp(-(2 * y - 1) * eta))
    mean = (weight @ eta) / weight.sum()
    expected = [
        np.log(weight.sum() * (eta[1] - eta[0]) / np.sqrt(2 * np.pi * v)),
        mean,
        (weight @ (eta - mean) ** 2) / weight.sum(),
    ]
    np.testing.assert_allclose(tilted_moments(y, m, v), expected, atol=1e-3 if v > 1 else 1e-6)
