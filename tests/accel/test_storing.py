"""What is stored is what would have been computed, its gradient included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeskit import accel


@pytest.mark.parametrize("shape", [(1,), (5,), (8,), (3, 5)])
def test_any_shape(shape):
    values = jnp.linspace(-1.0, 1.0, int(np.prod(shape))).reshape(shape)
    stored = accel.stored(jnp.exp, values)
    np.testing.assert_allclose(stored, jnp.exp(values), rtol=1e-6)
    rows = jnp.stack([values, 2 * values])
    mapped = jax.vmap(lambda row: accel.stored(jnp.exp, row))(rows)
    np.testing.assert_allclose(mapped, jnp.exp(rows), rtol=1e-6)


def test_gradient():
    values = jnp.linspace(-1.0, 1.0, 7)
    gradient = jax.grad(lambda x: jnp.sum(accel.stored(jnp.exp, x) ** 2))(values)
    np.testing.assert_allclose(gradient, 2 * jnp.exp(2 * values), rtol=1e-5)
