"""The integer exponential: against its definition in whole numbers, and against 2**-f."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial import chebyshev, polynomial

from bayeskit.accel.exponential import COEFFICIENTS, SCALE, SHIFTS, relative_weights

# Fractional bits of each coefficient: each as many as 32 bits can hold.
BITS = [34, *(34 + sum(s - 32 for s in SHIFTS[: i + 1]) for i in range(len(SHIFTS)))]


def by_definition(below: float, shifts=SHIFTS) -> float:
    """Steps 1 to 3 of the definition, in Python's whole numbers."""
    steps = int(min(below * SCALE, 900 * 2.0**32))
    k, f = steps >> 32, steps & 0xFFFFFFFF
    a = COEFFICIENTS[-1]
    for c, s in zip(COEFFICIENTS[-2::-1], shifts[::-1], strict=True):
        a = c - (a * f >> s)
    return math.ldexp(2**35 - (f << 2) - (a * f >> 31), -(35 + k))


def weights(log_weights, maximum=0.0, ok=True):
    with jax.enable_x64(True):
        row = jnp.asarray(log_weights, jnp.float32)
        top = jnp.full((1,), maximum, jnp.float32)
        return np.asarray(jax.jit(relative_weights)(row, top, jnp.array([ok])))


@pytest.fixture(scope="module")
def log_weights():
    rng = np.random.default_rng(0)
    spread = np.concatenate([rng.exponential(scale, 3000) for scale in (1e-6, 0.1, 3, 100)])
    edges = [0.0, 1e-45, 1e-30, math.log(2), 623.8, 623.9, 1e4, 3e38, np.inf]
    return -np.concatenate([spread, edges]).astype(np.float32)


def test_equals_its_definition_bit_for_bit(log_weights):
    expected = [by_definition(-float(x)) for x in log_weights]
    assert np.array_equal(weights(log_weights), expected)
    wrong = [by_definition(-float(x), (32, 34, 34, 35, 36, 36)) for x in log_weights]
    assert not np.array_equal(weights(log_weights), wrong)


def test_relative_error(log_weights):
    live = log_weights > -620
    exact = np.exp(log_weights[live].astype(np.float64))
    error = np.abs(weights(log_weights)[live] / exact - 1)
    # 2**-32 of rounding inside, and the rounding of the product with SCALE.
    assert error.max() < 2.0**-31
    assert weights([0.0, -np.inf, -1e9]).tolist() == [1.0, 2.0**-900, 2.0**-900]


def test_unusable_rows_weigh_the_same():
    assert weights([np.nan, np.inf, 1.0], np.nan, ok=False).tolist() == [1, 1, 1]


def test_coefficients_are_those_of_the_best_polynomial():
    """Lawson's iteration for the smallest relative error of 1 - f p(f) = 2**-f on [0, 1]."""
    x = (1 - np.cos((np.arange(2000) + 0.5) * np.pi / 2000)) / 2
    goal, size = -np.expm1(-x * math.log(2)) / x, x * 2.0**x
    basis, lawson = chebyshev.chebvander(2 * x - 1, len(COEFFICIENTS) - 1), np.ones(x.size)
    for _ in range(100):
        scale = np.sqrt(lawson) * size
        found = np.linalg.lstsq(basis * scale[:, None], goal * scale, rcond=None)[0]
        error = np.abs(basis @ found - goal) * size
        lawson *= error / error.mean() + 1e-12
    assert error.max() < 2.0**-34.4
    best = np.abs(
        polynomial.Polynomial(chebyshev.cheb2poly(found))(polynomial.Polynomial([-1, 2])).coef
    )
    best[0] -= 0.5
    stored = np.array(COEFFICIENTS) * 2.0 ** -np.array(BITS, float)
    # What rounding a coefficient and the end of Lawson's iteration leave.
    assert np.max(np.abs(stored - best)) < 2.0**-31
    assert max(COEFFICIENTS) < 2**32


def test_double_precision_is_the_exponential_function():
    with jax.enable_x64(True):
        row = jnp.array([-0.3, -7.0, -np.inf])
        result = relative_weights(row, jnp.zeros(1), jnp.array([True]))
        assert np.allclose(result, np.exp(row), rtol=1e-15, atol=0)


def test_lowers_for_other_platforms():
    with jax.enable_x64(True):
        arguments = jnp.zeros(8, jnp.float32), jnp.zeros(1, jnp.float32), jnp.array([True])
        exported = jax.export.export(jax.jit(relative_weights), platforms=["cpu", "cuda"])
        text = exported(*arguments).mlir_module()
    # No step that platforms may round differently.
    assert "stablehlo.multiply" in text
    assert "stablehlo.exponential" not in text
