"""The kernel Stein test: its kernel against automatic differentiation, its size and power."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel
from bayeskit.validation.stein import _discrepancies, stein_test

PRECISION = np.array([[1.0, 0.3, 0.0], [0.3, 2.0, 0.1], [0.0, 0.1, 0.7]])


def test_discrepancy_is_that_of_its_definition():
    x = np.random.default_rng(0).normal(size=(6, 3))
    score = lambda point: -jnp.asarray(PRECISION) @ point
    with jax.enable_x64(True):
        found, width = _discrepancies(accel.as_key(0), x, -x @ PRECISION, 1)

        def kernel(a, b):
            return (1.0 + jnp.sum((a - b) ** 2) / width**2) ** -0.5

        def stein(a, b):
            mixed = jax.jacfwd(jax.grad(kernel, 0), 1)(a, b)
            return (
                kernel(a, b) * score(a) @ score(b)
                + score(a) @ jax.grad(kernel, 1)(a, b)
                + score(b) @ jax.grad(kernel, 0)(a, b)
                + jnp.trace(mixed)
            )

        expected = jnp.mean(jax.vmap(lambda a: jax.vmap(lambda b: stein(a, b))(x))(x))
    assert float(found[0]) == pytest.approx(float(expected), rel=1e-10)
    differences = np.linalg.norm(x[:, None] - x, axis=-1)[~np.eye(6, dtype=bool)]
    assert float(width) == pytest.approx(np.median(differences))


def test_false_alarm_rate_is_about_the_nominal_one():
    """Asymptotic p-values: 1000 samples of 100 draws, share of p <= 0.1 within 0.1 ± 0.05.

    The standard deviation of the share is 0.0095.
    """
    generator = np.random.default_rng(1)
    p_values = [
        stein_test(
            generator.normal(size=(100, 2)), lambda x: -x, num_bootstrap=99, key=i
        ).p_value
        for i in range(1000)
    ]
    assert abs(np.mean(np.array(p_values) <= 0.1) - 0.1) < 0.05


@pytest.mark.parametrize(
    "wrong", [lambda x: 1.25 * x, lambda x: x + 0.3, lambda x: np.abs(x), lambda x: x**3]
)
def test_wrong_draws_are_found(wrong):
    x = np.random.default_rng(2).normal(size=(500, 1))
    assert stein_test(x, lambda x: -x).p_value > 0.01
    assert stein_test(wrong(x), lambda x: -x).p_value == 1e-3


def test_weights_of_distant_modes_are_not_seen():
    """The documented blind spot: the score does not change with the weights of the modes."""
    generator = np.random.default_rng(3)
    sign = np.where(generator.random(400) < 0.9, 1.0, -1.0)
    x = 20.0 * sign + generator.normal(size=400)
    log_density = lambda x: jnp.logaddexp(-0.5 * (x - 20.0) ** 2, -0.5 * (x + 20.0) ** 2)
    assert stein_test(x, jax.grad(log_density)).p_value > 0.01


def test_score_as_values_and_as_function_agree():
    x = np.random.default_rng(4).normal(size=(50, 2))
    assert stein_test(x, -x) == stein_test(x, lambda x: -x)
    assert stein_test(x[:, 0], -x[:, 0]) == stein_test(x[:, 0], lambda x: -x)


def test_what_does_not_fit_is_refused():
    x = np.zeros((4, 2))
    with pytest.raises(ValueError, match=r"an array \(n, dim\) with 2 to 10000 rows, got sh"):
        stein_test(np.zeros((4, 2, 2)), x)
    with pytest.raises(ValueError, match="num_bootstrap must be at least 1"):
        stein_test(x, x, num_bootstrap=0)
    with pytest.raises(ValueError, match=r"score has shape \(4, 1\) at draws of sh"):
        stein_test(x, lambda x: x[0])
    with pytest.raises(ValueError, match="the score is not finite for 4 of 4 draws"):
        stein_test(x, lambda x: x / 0.0)
    with pytest.raises(ValueError, match="draws is not finite for 1 of 4 draws, first for num"):
        stein_test(np.array([[0.0], [1.0], [np.nan], [2.0]]), x[:, :1])
