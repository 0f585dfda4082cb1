import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from bayeskit import accel
from bayeskit.errors import DegenerateWeightsError, InvalidWeightsError
from tests.accel.scheme_checks import quick_jit

X = np.array([0.3, -1.2, 2.5, 0.9])
WEIGHTS = np.array([0.05, 0.35, 0.2, 0.4])


def moved(epsilon, num_iterations, x=X, weights=WEIGHTS):
    with jax.enable_x64(True):
        result = accel.transport(
            jnp.asarray(x), jnp.log(jnp.asarray(weights)), epsilon, num_iterations
        )
        return np.asarray(result.particles), np.exp(result.log_weights)


@pytest.mark.parametrize("num_iterations", [1, 3, 50])
def test_weighted_mean_is_kept_after_any_number_of_iterations(num_iterations):
    for weights in (WEIGHTS, np.array([0.0, 0.35, 0.25, 0.4])):
        particles, after = moved(0.1, num_iterations, weights=weights)
        assert after.sum() == pytest.approx(1, abs=1e-12)
        assert after @ particles == pytest.approx(weights @ X, abs=1e-12)


def test_tends_to_the_unregularised_plan():
    """Without blur it is a linear program; its columns give the new particles."""
    num = len(X)
    cost = (X[:, None] - X) ** 2
    rows, columns = np.kron(np.eye(num), np.ones(num)), np.kron(np.ones(num), np.eye(num))
    plan = linprog(
        cost.ravel(),
        A_eq=np.vstack([rows, columns]),
        b_eq=np.concatenate([WEIGHTS, np.full(num, 1 / num)]),
    ).x.reshape(num, num)
    particles, after = moved(0.002, 5000)
    np.testing.assert_allclose(after, 1 / num, atol=1e-3)
    np.testing.assert_allclose(particles, num * plan.T @ X, atol=2e-3)


def test_equal_weights_stay_almost_where_they_are():
    particles, _ = moved(0.001, 500, weights=np.full(4, 0.25))
    np.testing.assert_allclose(particles, X, atol=1e-6)


def test_order_of_particles_does_not_matter():
    particles, after = moved(0.1, 20)
    for order in itertools.islice(itertools.permutations(range(4)), 5, 24, 6):
        order = list(order)
        # The slots are those of the old particles, so that they are permuted too.
        again, weights = moved(0.1, 20, X[order], WEIGHTS[order])
        np.testing.assert_allclose(again, particles[order], atol=1e-12)
        np.testing.assert_allclose(weights, after[order], atol=1e-12)


def test_gradient_equals_differences():
    with jax.enable_x64(True):

        def total(theta):
            log_weights = jax.nn.log_softmax(jnp.log(WEIGHTS) + theta * jnp.asarray(X))
            result = accel.transport(theta * jnp.asarray(X) ** 2, log_weights, 0.1, 30)
            return jnp.sum(jnp.exp(result.log_weights) * jnp.sin(result.particles))

        value_and_gradient = quick_jit(jax.value_and_grad(total))
        values = [float(value_and_gradient(0.7 + step)[0]) for step in (-1e-5, 1e-5)]
        gradient = float(value_and_gradient(0.7)[1])
    assert gradient == pytest.approx((values[1] - values[0]) / 2e-5, rel=1e-7)


def test_dead_particles_and_equal_ones_give_no_nan():
    dead = np.array([0.0, 0.0, 1.0, 0.0])
    particles, after = moved(0.1, 10, weights=dead)
    np.testing.assert_allclose(particles, X[2], atol=1e-12)
    assert np.isfinite(after).all()
    same, _ = moved(0.1, 10, x=np.ones(4))
    np.testing.assert_allclose(same, 1.0, atol=1e-12)
    with jax.enable_x64(True):
        gradient = jax.grad(
            lambda x: accel.transport(x, jnp.log(jnp.asarray(dead)), 0.1, 5).particles.sum()
        )(jnp.asarray(X))
    np.testing.assert_allclose(gradient, [0, 0, 4, 0], atol=1e-9)


def test_any_normalisation():
    expected, weights = moved(0.1, 20)
    for offset in (3.0, -700.0):
        with jax.enable_x64(True):
            log_weights = jnp.log(jnp.asarray(WEIGHTS)) + offset
            again = accel.transport(jnp.asarray(X), log_weights, 0.1, 20)
        np.testing.assert_allclose(again.particles, expected, rtol=1e-10)
        np.testing.assert_allclose(np.exp(again.log_weights), weights, rtol=1e-10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_cannot_be_used(bad):
    log_weights = np.full(4, bad) if bad == -np.inf else np.array([0.0, bad, -1.0, 0.0])
    kind = DegenerateWeightsError if bad == -np.inf else InvalidWeightsError
    x = jnp.asarray(X, jnp.float32)
    with pytest.raises(kind, match="log_weights"):
        accel.transport(x, log_weights, 0.1, 5)
    result = quick_jit(lambda w: accel.transport(x, w, 0.1, 5))(log_weights)
    assert not result.ok
    assert np.array_equal(result.particles, x)
    np.testing.assert_allclose(result.log_weights, -np.log(4), rtol=1e-6)
    gradient = jax.grad(lambda x: accel.transport(x, log_weights, 0.1, 5).particles.sum())
    assert np.all(np.isfinite(jax.jit(gradient)(x)))


def test_several_leaves():
    particles = {"a": jnp.asarray(X, jnp.float32), "b": jnp.ones((4, 2, 3))}
    result = accel.transport(particles, jnp.log(jnp.asarray(WEIGHTS, jnp.float32)))
    assert result.particles["b"].shape == (4, 2, 3)
    np.testing.assert_allclose(result.particles["b"], 1.0, rtol=1e-5)


def test_bad_input():
    log_weights = jnp.log(jnp.asarray(WEIGHTS))
    with pytest.raises(TypeError, match=r"particles\['n'\] has dtype int32: transport takes"):
        accel.transport({"n": jnp.arange(4)}, log_weights)
    with pytest.raises(ValueError, match=r"has shape \(3,\), but log_weights has \(4,\)"):
        accel.transport(jnp.zeros(3), log_weights)
    with pytest.raises(ValueError, match="epsilon must be above 0"):
        accel.transport(jnp.asarray(X), log_weights, -1.0)
    with pytest.raises(ValueError, match="num_iterations must be at least 1"):
        accel.transport(jnp.asarray(X), log_weights, 0.1, 0)
