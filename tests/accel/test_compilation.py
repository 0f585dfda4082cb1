"""Programs that compile quickly compute the same."""

import jax
import jax.numpy as jnp
import numpy as np

from bayeskit.accel import compilation
from bayeskit.accel.compilation import quick_jit


def test_results_are_those_of_jit():
    x = jnp.linspace(-3.0, 3.0, 100)
    f = lambda x: jnp.cumsum(jnp.sin(x) * jnp.exp(-(x**2)))
    expected = jax.jit(f)(x)
    np.testing.assert_allclose(quick_jit(f)(x), expected, rtol=1e-5, atol=1e-6)
    for optimised in (False, "lightly"):
        found = quick_jit(f, optimised=optimised)(x)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_static_arguments_are_passed_on():
    traced = []

    @quick_jit(static_argnames="num")
    def repeat(x, *, num):
        """Add x num times."""
        traced.append(num)
        return sum(x for _ in range(num))

    assert repeat.__doc__ == "Add x num times."
    assert float(repeat(2.0, num=3)) == 6.0
    assert float(repeat(3.0, num=3)) == 9.0
    assert traced == [3]


def test_options_that_the_compiler_does_not_know_are_left_out():
    assert compilation._is_supported("xla_backend_optimization_level", 0)
    assert not compilation._is_supported("xla_no_such_option", 1)
